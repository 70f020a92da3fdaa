"""The lines' threads: what they ask of their drivers, and what they make of the outcome.

Driver and listener are fakes whose every call is seen; what is proven on real wires stands with
the drivers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from edge.clock import Clock
from edge.communication import Register
from edge.errors import BadReply, LineError, MeterError, NoReply, Refused
from edge.line import (
    LISTEN_S,
    LOST_GRACE_S,
    MARGIN_S,
    MOST_WAITS,
    NO_PLAN,
    PROBE_WITHIN_S,
    SHORT_LIVED_S,
    LinePlan,
    ListenLine,
    PollLine,
)
from edge.model import LineState, MessageCounts, Meter, Outcome, PollEnd, PollResult, Probe
from edge.schedule import Read
from tests.building import FakeClock, a_meter, a_registration, a_speaking_meter
from tests.peers import wait_until

POWER = {"power": 12.0, "voltage": 230.0}


class FakeLine:
    """What driver and listener have in common.

    open_errors: what the next calls of `open` raise; None is none. opened_s: when it was called.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.open_errors: list[Exception | None] = []
        self.opened_s: list[float] = []
        self.open_timeouts_s: list[float] = []
        self.opened = 0
        self.closed = 0
        self.is_open = False
        self.while_opening: Callable[[], None] = lambda: None

    @property
    def connected(self) -> bool:
        return self.is_open

    def open(self, timeout_s: float) -> None:
        self.opened_s.append(self.clock.mono_s())
        self.open_timeouts_s.append(timeout_s)
        self.while_opening()
        if self.open_errors and (error := self.open_errors.pop(0)) is not None:
            raise error
        self.is_open = True
        self.opened += 1

    def probe(self, meter: Meter) -> Probe:
        raise AssertionError("this line is not asked to probe")

    def close(self) -> None:
        self.closed += 1
        self.is_open = False


class FakeDriver(FakeLine):
    """A line whose polls end as the test says.

    ends: what the next polls give or raise; when there are none left, POWER. polled: each poll
    with whether it was a trial. known: the meters of the last `forget`.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.ends: list[Outcome | Exception] = []
        self.polled: list[tuple[Meter, bool]] = []
        self.probed: list[Meter] = []
        self.known: Collection[Meter] | None = None
        self.while_asked: Callable[[], None] = lambda: None

    def poll(self, meter: Meter, *, trial: bool) -> Outcome:
        assert self.is_open, "a poll needs an open line"
        self.polled.append((meter, trial))
        self.while_asked()
        end = self.ends.pop(0) if self.ends else Outcome(POWER, self.clock.mono_s(), 7)
        if isinstance(end, Exception):
            raise end
        return end

    def probe(self, meter: Meter) -> Probe:
        self.probed.append(meter)
        self.while_asked()
        return Probe(later_s=float(len(self.probed)))

    def forget(self, meters: Collection[Meter]) -> None:
        self.known = meters


# --- Polls ---------------------------------------------------------------------------------------


class Bench:
    """A line without its thread, polled by hand, on a clock that only the test turns."""

    def __init__(self) -> None:
        self.clock = FakeClock(mono_s=1000.0)
        self.driver = FakeDriver(self.clock)
        self.delivered: list[PollResult] = []
        self.line = PollLine("a line", self.driver, self.delivered.append, self.clock)

    def poll(
        self, meter: Meter, *, trial: bool = False, grid_capacity_kw: float = 500.0
    ) -> PollResult:
        return self.line.poll(Read(meter, trial), LinePlan(frozenset({meter}), grid_capacity_kw))

    def ends(self, end: Outcome | Exception) -> PollResult:
        self.driver.ends.append(end)
        return self.poll(a_meter())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_poll_gives_what_the_driver_brought(bench: Bench) -> None:
    bench.driver.while_asked = lambda: bench.clock.turn(0.25)
    bench.driver.ends = [Outcome(POWER, 999.5, 123)]
    result = bench.poll(meter := a_meter())
    assert result.meter is meter
    assert result.reading is not None
    assert (result.reading.values, result.reading.hints) == (POWER, ())
    assert (result.reading.mono_s, result.reading.unix_ms) == (999.5, 123)
    assert result.reading.live
    assert (result.end, result.error, result.failed) == (PollEnd.OK, None, False)
    assert (result.duration_s, result.rest_s) == (0.25, 0.0)


def test_the_driver_is_told_what_is_a_trial(bench: Bench) -> None:
    meter = a_meter()
    bench.poll(meter, trial=True)
    bench.poll(meter, trial=False)
    assert bench.driver.polled == [(meter, True), (meter, False)]


def test_what_is_implausible_comes_with_a_hint_from_its_words(bench: Bench) -> None:
    register = Register("voltage", 3, (2,), "uint")
    result = bench.ends(Outcome({"voltage": 2301.0}, raw={"voltage": (register, (2301,))}))
    assert result.reading is not None
    (hint,) = result.reading.hints
    assert hint.startswith("voltage reads 2301 V")
    assert "multiply voltageScale (now 1) by 0.1" in hint
    assert result.end is PollEnd.OK


def test_the_grid_capacity_that_power_is_judged_by_is_the_plans(bench: Bench) -> None:
    meter = a_meter()
    for capacity_kw, hints in ((500.0, 0), (0.5, 1)):
        reading = bench.poll(meter, grid_capacity_kw=capacity_kw).reading
        assert reading is not None
        assert len(reading.hints) == hints


@pytest.mark.parametrize(
    ("error", "end", "end_of_part", "failed_in_part"),
    [
        # A silence cost a whole time-out, so the meter rests even where something was read.
        (NoReply("Silent."), PollEnd.NO_REPLY, PollEnd.PARTIAL, True),
        (BadReply("Garbage."), PollEnd.BAD_REPLY, PollEnd.PARTIAL, False),
        (Refused(2, "Refused."), PollEnd.REFUSED, PollEnd.PARTIAL, False),
    ],
)
def test_how_a_poll_ended_follows_from_the_error_and_from_what_was_read(
    bench: Bench, error: MeterError, end: PollEnd, end_of_part: PollEnd, failed_in_part: bool
) -> None:
    result = bench.ends(Outcome(error=error))
    assert (result.reading, result.error, result.failed) == (None, str(error), True)
    assert result.end is end
    result = bench.ends(Outcome(POWER, error=error))
    assert result.reading is not None
    assert (result.end, result.error) == (end_of_part, str(error))
    assert result.failed is failed_in_part
    assert bench.line.state == LineState("a line", connected=True, opened=1), "no fault of the line"


def test_how_long_a_meter_asks_to_be_left_alone_is_passed_on(bench: Bench) -> None:
    result = bench.ends(Outcome(error=Refused(429, "Too many requests.", retry_after_s=12.5)))
    assert (result.end, result.failed, result.rest_s) == (PollEnd.REFUSED, True, 12.5)


def test_a_meter_that_says_that_it_is_offline_is_believed(bench: Bench) -> None:
    result = bench.ends(Outcome(error=BadReply("It says offline."), said_offline=True))
    assert (result.end, result.reading, result.failed) == (PollEnd.OFFLINE, None, True)


def test_what_is_not_live_stays_so(bench: Bench) -> None:
    reading = bench.ends(Outcome(POWER, live=False)).reading
    assert reading is not None
    assert not reading.live


# --- Opening -------------------------------------------------------------------------------------


def test_a_line_counts_how_often_it_was_opened(bench: Bench) -> None:
    meter = a_meter()
    assert bench.line.state == LineState("a line")
    for opened in (1, 2, 3):
        bench.poll(meter)
        bench.poll(meter)
        assert bench.line.state == LineState("a line", connected=True, opened=opened)
        bench.driver.is_open = False


def test_a_line_that_its_driver_opens_anew_within_a_poll_is_counted(bench: Bench) -> None:
    bench.poll(a_meter())

    def hung_up_and_opened() -> None:
        bench.driver.opened += 1

    bench.driver.while_asked = hung_up_and_opened
    assert bench.poll(a_meter()).end is PollEnd.OK
    assert bench.line.state == LineState("a line", connected=True, opened=2)


def test_a_line_is_opened_for_as_long_as_the_meter_waits(bench: Bench) -> None:
    communication = {"host": "127.0.0.1", "registers": {"power": 0}, "timeout": 700}
    bench.poll(a_meter(communication=communication))
    assert bench.driver.open_timeouts_s == [0.7]


def test_a_line_that_closes_on_a_silence_is_shown_closed_without_an_error(bench: Bench) -> None:
    bench.driver.while_asked = bench.driver.close
    bench.ends(Outcome(error=NoReply("Silent.")))
    assert bench.line.state == LineState("a line", connected=False, opened=1)


def test_a_line_that_ends_with_each_answer_was_open_when_it_was_used(bench: Bench) -> None:
    """As of a server of HTTP 1.0: nothing is wrong with it."""
    bench.driver.while_asked = bench.driver.close
    for opened in (1, 2):
        assert bench.poll(a_meter()).end is PollEnd.OK
        assert bench.line.state == LineState("a line", connected=True, opened=opened)


def test_a_line_that_is_lost_in_the_middle_is_not_the_meters_fault(bench: Bench) -> None:
    result = bench.ends(LineError("Unplugged."))
    assert (result.end, result.error, result.reading) == (PollEnd.LINE_ERROR, "Unplugged.", None)
    assert bench.line.state.last_error == "Unplugged."
    assert bench.poll(a_meter()).end is PollEnd.OK
    assert bench.line.state.last_error is None


def test_a_line_that_cannot_be_opened_is_tried_again_ever_more_seldom(bench: Bench) -> None:
    meter = a_meter()
    bench.driver.open_errors = [LineError(f"Cannot open, {n}.") for n in range(100)]
    for _ in range(100):
        result = bench.poll(meter)
        assert (result.end, result.failed) == (PollEnd.LINE_ERROR, True)
        assert result.error == f"Cannot open, {len(bench.driver.opened_s) - 1}."
        assert bench.line.state == LineState("a line", last_error=result.error)
        bench.clock.turn(0.1)
    waits_s = [b - a for a, b in pairwise(bench.driver.opened_s)]
    assert waits_s == pytest.approx([0.4, 0.8, 1.6, 1.6, 1.6, 1.6, 1.6], abs=0.11)
    assert not bench.driver.polled


@pytest.mark.parametrize("connect_s", [0.0, 1.0])
def test_a_meter_read_every_second_is_tried_at_least_every_two(
    bench: Bench, connect_s: float
) -> None:
    meter = a_meter()
    bench.driver.while_opening = lambda: bench.clock.turn(connect_s + 0.001)
    bench.driver.open_errors = [LineError("Cannot open.")] * 20
    for slot in range(20):
        bench.clock.turn(max(0.0, 1000.0 + slot - bench.clock.mono_s()))
        bench.poll(meter)
    waits_s = [b - a for a, b in pairwise(bench.driver.opened_s)]
    assert max(waits_s) <= 2.01


def test_a_line_that_was_opened_again_starts_with_the_short_wait(bench: Bench) -> None:
    meter = a_meter()
    bench.driver.open_errors = [*[LineError("Closed.")] * 4, None, LineError("Closed.")]
    while bench.poll(meter).end is not PollEnd.OK:
        bench.clock.turn(0.1)
    assert bench.line.state == LineState("a line", connected=True, opened=1)
    bench.driver.is_open = False
    bench.driver.opened_s.clear()
    while bench.poll(meter).end is not PollEnd.OK:
        bench.clock.turn(0.1)
    first_s, second_s = bench.driver.opened_s
    assert second_s - first_s == pytest.approx(0.4, abs=0.11)


# --- The thread of a line that is polled ---------------------------------------------------------


class Running:
    """A line with its thread, whose polls and probes wait for `go`."""

    def __init__(self, *meters: Meter) -> None:
        self.driver = FakeDriver(Clock())
        self.driver.while_asked = self._wait
        self.delivered: list[PollResult] = []
        self.go = threading.Semaphore(0)
        self.in_flight = 0
        self.most_in_flight = 0
        self.line = PollLine("a line", self.driver, self.delivered.append, Clock())
        self.line.plan = LinePlan(frozenset(meters), 500.0)
        self.line.start()

    def _wait(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        assert self.go.acquire(timeout=10)
        self.in_flight -= 1

    def submit(self, *meters: Meter) -> None:
        for meter in meters:
            self.line.submit(Read(meter, trial=False))

    def probe(self, meter: Meter) -> Future[Probe]:
        done: Future[Probe] = Future()
        self.line.probe(meter, done)
        return done

    def end(self) -> None:
        self.line.stop()
        self.line.join(5.0)
        assert "line-a line" not in [thread.name for thread in threading.enumerate()]


def test_reads_are_served_in_order_one_at_a_time() -> None:
    meters = [a_meter(f"Meter {n}") for n in range(5)]
    running = Running(*meters)
    running.submit(*meters, *reversed(meters))
    running.go.release(10)
    wait_until(lambda: len(running.delivered) == 10)
    running.end()
    assert [result.meter for result in running.delivered] == [*meters, *reversed(meters)]
    assert running.most_in_flight == 1


def test_a_read_for_a_meter_that_is_not_in_the_plan_is_dropped() -> None:
    old, new = a_meter("Old"), a_meter("New")
    running = Running(old)
    running.submit(old, old, new)
    wait_until(lambda: running.in_flight == 1)
    running.line.plan = LinePlan(frozenset({new}), 500.0)
    running.go.release(3)
    wait_until(lambda: len(running.delivered) == 2)
    running.end()
    assert [result.meter for result in running.delivered] == [old, new]


def test_the_driver_forgets_the_meters_that_left_the_plan() -> None:
    old, new = a_meter("Old"), a_meter("New")
    running = Running(old, new)
    running.go.release(2)
    running.submit(old)
    wait_until(lambda: len(running.delivered) == 1)
    assert running.driver.known is None, "as long as the plan is the same it forgets nothing"
    running.line.plan = LinePlan(frozenset({new}), 500.0)
    running.submit(new)
    wait_until(lambda: running.driver.known == {new})
    running.end()


def test_stop_ends_the_thread_after_the_read_under_way_and_closes_the_wire() -> None:
    meters = [a_meter(f"Meter {n}") for n in range(5)]
    running = Running(*meters)
    running.submit(*meters)
    wait_until(lambda: running.in_flight == 1)
    running.line.stop()
    running.go.release()
    running.end()
    assert len(running.driver.polled) == 1
    assert running.driver.closed == 1
    assert not running.driver.is_open


def test_a_bug_in_a_driver_closes_the_wire_and_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    meter = a_meter()
    running = Running(meter)
    running.driver.ends = [ZeroDivisionError()]
    running.go.release()
    running.submit(meter)
    running.line.join(5.0)
    assert seen == [ZeroDivisionError]
    assert running.driver.closed == 1
    assert running.delivered == []


# --- Probes --------------------------------------------------------------------------------------


def test_a_probe_waits_for_the_reads_that_are_due() -> None:
    meter, stranger = a_meter("Main"), a_meter("Stranger")
    running = Running(meter)
    running.submit(meter)
    done = running.probe(stranger)
    running.submit(meter)
    running.go.release(2)
    wait_until(lambda: running.driver.probed == [stranger])
    assert len(running.delivered) == 2
    assert not done.done()
    running.submit(meter)
    running.go.release(2)
    assert done.result(timeout=5).later_s == 1.0
    wait_until(lambda: len(running.delivered) == 3)
    running.end()
    assert running.most_in_flight == 1


def test_a_probe_needs_no_plan_and_shows_the_state_of_the_line() -> None:
    running = Running()
    running.driver.is_open, running.driver.opened = True, 3
    running.go.release()
    running.probe(a_meter()).result(timeout=5)
    wait_until(lambda: running.line.state == LineState("a line", connected=True, opened=3))
    running.end()


def test_probes_that_wait_are_served_before_the_thread_ends_and_reads_are_not() -> None:
    meter = a_meter()
    running = Running(meter)
    running.submit(meter)
    wait_until(lambda: running.in_flight == 1)
    running.submit(meter)
    done = running.probe(meter)
    running.line.stop()
    running.go.release(2)
    assert done.result(timeout=5).later_s == 1.0
    running.end()
    assert len(running.driver.polled) == 1


def test_a_probe_that_nobody_waits_for_any_longer_is_skipped() -> None:
    meter = a_meter()
    running = Running(meter)
    running.submit(meter)
    wait_until(lambda: running.in_flight == 1)
    given_up, wanted = running.probe(meter), running.probe(meter)
    assert given_up.cancel()
    running.go.release(2)
    wanted.result(timeout=5)
    running.end()
    assert running.driver.probed == [meter]


# --- Lines that listen ---------------------------------------------------------------------------


REST = (math.inf,)


def test_a_line_says_how_long_an_attempt_may_take_and_rests_when_nothing_is_due() -> None:
    meter = a_meter(communication={**a_registration()["communication"], "timeout": 3000})
    running = Running(meter)
    wait_until(lambda: running.line.heartbeat.beat == REST)
    running.submit(meter)
    wait_until(lambda: running.in_flight == 1)
    (promised_s,) = running.line.heartbeat.beat
    assert promised_s == MARGIN_S + MOST_WAITS * 3.0
    running.go.release()
    wait_until(lambda: running.line.heartbeat.beat == REST)
    done = running.probe(meter)
    wait_until(lambda: running.in_flight == 1)
    assert running.line.heartbeat.beat == (PROBE_WITHIN_S,)
    running.go.release()
    done.result(timeout=5)
    assert not running.line.heartbeat.has_ended
    running.end()
    assert running.line.heartbeat.has_ended


class FakeListener(FakeLine):
    """A line on which meters say what the test says.

    heard: what the next calls of `listen` give or raise; when there are none left, nothing.
    followed: the meters of each `follow`. Listening takes its time on a clock of the test's own.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.heard: list[Sequence[tuple[Meter, Outcome]] | Exception] = []
        self.counts = MessageCounts()
        self.followed: list[Collection[Meter]] = []
        self.listened_s: list[float] = []

    def follow(self, meters: Collection[Meter]) -> None:
        self.followed.append(meters)

    def listen(self, timeout_s: float) -> Sequence[tuple[Meter, Outcome]]:
        assert self.is_open, "one listens on an open line"
        self.listened_s.append(timeout_s)
        if not self.heard:
            if isinstance(self.clock, FakeClock):
                self.clock.turn(timeout_s)
            else:
                self.clock.sleep(0.001)
            return ()
        heard = self.heard.pop(0)
        if isinstance(heard, Exception):
            self.is_open = False
            raise heard
        return heard


class ListenBench:
    """A line without its thread that listens by hand, on a clock that only the test turns."""

    def __init__(self, *meters: Meter) -> None:
        self.clock = FakeClock(mono_s=1000.0)
        self.listener = FakeListener(self.clock)
        self.delivered: list[PollResult] = []
        self.line = ListenLine("a broker", self.listener, self.delivered.append, self.clock)
        # The line waits by this after a failure; the test's clock is turned instead.
        self.line._stopping = _Turning(self.clock)
        self.plan = LinePlan(frozenset(meters), 500.0)

    def listen(self, for_s: float = 0.0) -> list[PollResult]:
        """Listen once, and on for for_s; gives what was delivered meanwhile."""
        until_s = self.clock.mono_s() + for_s
        self.delivered.clear()
        self.line.listen(self.plan)
        while self.clock.mono_s() < until_s:
            self.line.listen(self.plan)
        return list(self.delivered)

    def lose(self, for_s: float = 0.0) -> list[PollResult]:
        """Lose the broker, which then refuses for for_s."""
        self.listener.heard.append(LineError("The broker is gone."))
        self.listener.open_errors = [LineError("The broker refuses.")] * 1000
        heard = self.listen(for_s)
        self.listener.open_errors.clear()
        return heard


class _Turning(threading.Event):
    """An event whose waiting turns a clock instead."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.turn(timeout or 0.0)
        return self.is_set()


def listening_state(**changes: Any) -> LineState:
    """The state of a line that heard nothing so far."""
    return LineState("a broker", **{"heard": MessageCounts(), **changes})


def test_what_is_heard_is_judged_and_delivered() -> None:
    meter, other = a_speaking_meter(), a_speaking_meter()
    bench = ListenBench(meter, other)
    error = BadReply("Topic power holds no number.")
    bench.listener.heard = [
        [
            (meter, Outcome({"power": 12.0, "voltage": 2301.0}, 999.0, 7)),
            (other, Outcome(error=error)),
        ]
    ]
    first, second = bench.listen()
    assert first.reading is not None
    assert (first.meter, first.end, first.duration_s) == (meter, PollEnd.OK, 0.0)
    assert (first.reading.mono_s, first.reading.unix_ms) == (999.0, 7)
    assert first.reading.hints[0].startswith("voltage reads 2301 V")
    assert (second.meter, second.end, second.error) == (other, PollEnd.BAD_REPLY, str(error))
    assert bench.line.state == listening_state(connected=True, opened=1)
    assert bench.listener.listened_s == [LISTEN_S]


def test_nothing_is_delivered_where_nothing_was_said_or_by_a_stranger() -> None:
    meter = a_speaking_meter()
    bench = ListenBench(meter)
    stranger = replace(meter, name="Changed")
    bench.listener.heard = [[(meter, Outcome()), (stranger, Outcome(POWER))], []]
    assert bench.listen() == []
    assert bench.listen() == []


def test_a_meter_that_says_that_it_is_offline_is_passed_on_at_once() -> None:
    meter = a_speaking_meter()
    bench = ListenBench(meter)
    bench.listener.heard = [[(meter, Outcome(error=BadReply("It is off."), said_offline=True))]]
    (result,) = bench.listen()
    assert (result.end, result.reading) == (PollEnd.OFFLINE, None)


def test_a_line_is_opened_for_as_long_as_its_most_patient_meter_waits() -> None:
    meter = a_speaking_meter()
    communication = {"host": "127.0.0.1", "registers": {"power": 0}, "timeout": 9000}
    bench = ListenBench(meter, a_meter(communication=communication))
    bench.listen()
    assert bench.listener.open_timeouts_s == [9.0]


def test_a_broker_that_is_down_at_the_start_is_told_to_each_meter_once() -> None:
    meters = [a_speaking_meter(f"Meter {n}") for n in range(3)]
    bench = ListenBench(*meters)
    bench.listener.open_errors = [LineError("The broker refuses.")] * 1000
    told = bench.listen(for_s=60.0)
    assert {result.meter for result in told} == set(meters)
    assert len(told) == 3
    assert {(result.end, result.error) for result in told} == {
        (PollEnd.LINE_ERROR, "The broker refuses.")
    }
    assert bench.line.state == listening_state(last_error="The broker refuses.")


def test_a_broker_that_is_down_is_tried_again_ever_more_seldom() -> None:
    bench = ListenBench(a_speaking_meter())
    bench.listener.open_errors = [LineError("The broker refuses.")] * 1000
    bench.listen(for_s=60.0)
    waits_s = [b - a for a, b in pairwise(bench.listener.opened_s)]
    expected_s = [0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]
    assert waits_s[: len(expected_s)] == pytest.approx(expected_s, abs=0.11)


def test_a_meter_that_comes_while_the_broker_is_down_is_told_too() -> None:
    first, second = a_speaking_meter("First"), a_speaking_meter("Second")
    bench = ListenBench(first)
    bench.listener.open_errors = [LineError("The broker refuses.")] * 1000
    assert [result.meter for result in bench.listen(for_s=5.0)] == [first]
    bench.plan = LinePlan(frozenset({first, second}), 500.0)
    assert [result.meter for result in bench.listen(for_s=5.0)] == [second]


@pytest.mark.parametrize(
    ("away_s", "told"), [(0.0, 0), (LOST_GRACE_S - 1, 0), (LOST_GRACE_S + 1, 1)]
)
def test_a_broker_that_restarts_is_told_only_when_it_stays_away(away_s: float, told: int) -> None:
    bench = ListenBench(a_speaking_meter())
    bench.listen()
    assert len(bench.lose(for_s=away_s)) == told
    assert bench.line.state.last_error is not None, "the line shows it at once"
    bench.listen(for_s=11.0)
    assert bench.line.state == listening_state(connected=True, opened=2)


def test_each_time_that_a_broker_goes_is_told_anew() -> None:
    bench = ListenBench(a_speaking_meter())
    for _ in range(3):
        bench.listen(for_s=11.0)
        assert bench.line.state.connected
        assert len(bench.lose(for_s=LOST_GRACE_S + 5)) == 1


def test_a_connection_that_does_not_last_is_made_ever_more_seldom() -> None:
    """Two clients with one id throw each other out as fast as they may connect."""
    bench = ListenBench(a_speaking_meter())
    bench.listener.heard = [(), LineError("Another client took over.")] * 1000
    bench.listen(for_s=60.0)
    waits_s = [b - a for a, b in pairwise(bench.listener.opened_s)]
    expected_s = [0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert waits_s[: len(expected_s)] == pytest.approx(expected_s, abs=0.21)


def test_a_connection_that_lasted_is_made_again_soon() -> None:
    bench = ListenBench(a_speaking_meter())
    bench.listener.heard = [LineError("Another client took over.")] * 5
    bench.listen(for_s=30.0)
    for _ in range(3):
        bench.listen(for_s=SHORT_LIVED_S + 1)
        bench.listener.opened_s.clear()
        lost_s = bench.clock.mono_s()
        bench.listener.heard = [LineError("The broker is gone.")]
        bench.listener.open_errors = [LineError("The broker refuses.")]
        bench.listen(for_s=1.0)
        assert bench.listener.opened_s == pytest.approx([lost_s, lost_s + 0.4], abs=0.21)


def test_what_became_of_the_messages_shows_in_the_state_of_the_line() -> None:
    bench = ListenBench(a_speaking_meter())
    bench.listener.counts = MessageCounts(messages=3, superseded=1)
    bench.listen()
    assert bench.line.state.heard == MessageCounts(messages=3, superseded=1)


class Listening:
    """A listening line with its thread."""

    def __init__(self) -> None:
        self.listener = FakeListener(Clock())
        self.delivered: list[PollResult] = []
        self.line = ListenLine("a broker", self.listener, self.delivered.append, Clock())
        self.line.start()

    def serve(self, *meters: Meter) -> None:
        self.line.plan = LinePlan(frozenset(meters), 500.0)
        wait_until(
            lambda: self.listener.followed and set(self.listener.followed[-1]) == set(meters)
        )


@pytest.fixture
def listening() -> Iterator[Listening]:
    listening = Listening()
    yield listening
    listening.line.stop()
    listening.line.join(5.0)
    assert "line-a broker" not in [thread.name for thread in threading.enumerate()]
    assert listening.listener.closed == 1


def test_nobody_connects_for_a_plan_without_meters(listening: Listening) -> None:
    assert listening.line.plan is NO_PLAN
    assert listening.line.heartbeat.beat == REST
    waited = threading.Event()
    assert not waited.wait(2 * LISTEN_S)
    assert not listening.listener.opened_s


def test_changes_of_plan_are_followed(listening: Listening) -> None:
    first, second = a_speaking_meter("First"), a_speaking_meter("Second")
    listening.serve(first)
    wait_until(lambda: len(listening.listener.listened_s) > 2)
    assert len(listening.listener.followed) == 1, "the same plan is followed once"
    listening.serve(first, second)
    listening.serve(second)
    listening.listener.heard.append([(first, Outcome(POWER)), (second, Outcome(POWER))])
    wait_until(lambda: listening.delivered)
    assert [result.meter for result in listening.delivered] == [second]
    assert listening.listener.opened == 1, "a change of plan is no reason to connect anew"


def test_a_line_that_listens_is_heard_of_all_the_time(listening: Listening) -> None:
    listening.serve(a_speaking_meter())
    beats = []
    for _ in range(3):
        beats.append(listening.line.heartbeat.beat)
        wait_until(lambda: listening.line.heartbeat.beat is not beats[-1])
    assert all(promised_s < math.inf for (promised_s,) in beats[1:])


def test_stop_ends_a_line_that_listens(listening: Listening) -> None:
    listening.serve(a_speaking_meter())
    wait_until(lambda: listening.listener.is_open)
    listening.line.stop()
    wait_until(lambda: listening.listener.closed == 1)
    assert not listening.listener.is_open


def test_stop_ends_a_line_whose_broker_is_away(listening: Listening) -> None:
    listening.listener.open_errors = [LineError("The broker refuses.")] * 1000
    listening.serve(a_speaking_meter())
    wait_until(lambda: listening.delivered)
    listening.line.stop()
    wait_until(lambda: listening.listener.closed == 1)
