"""Heartbeats: what a worker says, and what is kept of it."""

from __future__ import annotations

import math
import threading

from edge.heartbeat import Heartbeat, Heartbeats


def test_a_worker_that_is_new_waits_for_work() -> None:
    assert Heartbeat("line-a").beat == (math.inf,)


def test_each_word_is_told_from_the_one_before_also_when_it_says_the_same() -> None:
    heartbeat = Heartbeat("line-a")
    beats = []
    for _ in range(100):
        heartbeat.due_within(3.0)
        beats.append(heartbeat.beat)
    assert all(beat == (3.0,) for beat in beats)
    assert len({id(beat) for beat in beats}) == 100


def test_who_rests_has_no_deadline() -> None:
    heartbeat = Heartbeat("line-a")
    heartbeat.due_within(3.0)
    heartbeat.rest()
    assert heartbeat.beat == (math.inf,)


def test_who_has_ended_is_not_asked_for_any_more() -> None:
    heartbeats = Heartbeats()
    first, second = Heartbeat("http-1"), Heartbeat("http-2")
    heartbeats.add(first, second)
    second.due_within(1.0)
    second.end()
    assert heartbeats.current() == [first]
    assert heartbeats.current() == [first]


def test_workers_come_and_go_while_all_are_looked_at() -> None:
    heartbeats = Heartbeats()

    def come_and_go() -> None:
        for number in range(2000):
            heartbeat = Heartbeat(f"http-{number}")
            heartbeats.add(heartbeat)
            heartbeat.end()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        heartbeats.current()
    for thread in threads:
        thread.join()
    assert heartbeats.current() == []
