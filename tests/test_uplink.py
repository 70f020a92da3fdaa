"""The pump of a journal sink: what goes first, what is kept, and what is told.

The journal is one in memory here, but for the last tests; the sink is one that tests script, or
InfluxSink before a real server.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timezone
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from edge.backlog import Backlog
from edge.clock import Clock
from edge.errors import JournalError, SinkForbidden, SinkRetry
from edge.heartbeat import Heartbeat
from edge.journal import Journal
from edge.journal.history import History
from edge.model import Reading
from edge.place import Place
from edge.record import Chunk, Resolution, Rollup
from edge.settings import InfluxConfig, JournalConfig
from edge.sinks import JournalSink, Rejected, Unreached
from edge.sinks.influx import InfluxSink
from edge.uplink import PIECE_WITHIN_S, Uplink
from tests.building import FakeClock, a_meter, an_answer
from tests.http_peer import Exchange, http_peer
from tests.influx import Influxd, VictoriaMetrics
from tests.journals import HOUR_MS, START_MS, a_rollup, a_series
from tests.peers import wait_until

BEGIN_MS = 1_790_000_000_000
FOR_EVER = JournalConfig(raw_days=36_500, hourly_days=36_500, daily_days=36_500)


def a_chunk(from_seq: int, count: int) -> Chunk:
    """Readings whose power is their number."""
    seqs = range(from_seq, from_seq + count)
    times = [BEGIN_MS + 5000 * seq for seq in seqs]
    values = {"power": [seq / 1 for seq in seqs]}
    return Chunk(a_series(), 1, seqs, times, values, [False] * count)


def an_hour_or_day(number: int) -> Rollup:
    """A day each third time."""
    resolution = Resolution.HOURLY if number % 3 else Resolution.DAILY
    return a_rollup(START_MS + number * HOUR_MS, resolution)


class MemoryJournal:
    """What a pump needs of a journal, in memory; and its history, too."""

    path = Path("journal.db")

    def __init__(self, place: Place | None = None) -> None:
        self.chunks: list[Chunk] = []
        self.rolled: list[tuple[int, Rollup]] = []
        self.kept = place or Place()
        self.newest = 0
        self.broken = False
        self.waits = True
        self.deleted_below = 0
        self.readers = 0
        """That are open."""
        self._news = threading.Condition()

    def commit(self, *chunks: Chunk) -> None:
        with self._news:
            self.chunks += chunks
            self.newest = max(self.newest, *(chunk.seqs[-1] for chunk in chunks))
            self._news.notify_all()

    def wait(self, seq: int, timeout_s: float) -> int:
        with self._news:
            self._news.wait_for(lambda: self.newest >= seq, timeout_s if self.waits else 0.0)
            return self.newest

    def place(self, sink: str) -> Place:
        return self.kept

    def keep_place(self, sink: str, place: Place) -> None:
        self.kept = place

    def lost(self, sink: str) -> int:
        return 0

    def report_damage(self, error: str) -> None:
        raise AssertionError(error)

    def reader(self, path: Path, report_damage: Callable[[str], None]) -> MemoryJournal:
        if self.broken:
            raise JournalError("The journal cannot be read (disk I/O error); ask again.")
        self.readers += 1
        return self

    def close(self) -> None:
        self.readers -= 1

    def since(self, from_seq: int, to_seq: int) -> Iterator[tuple[Chunk, int]]:
        for chunk in list(self.chunks):
            first, last = max(from_seq, chunk.seqs[0]), min(to_seq, chunk.seqs[-1] + 1)
            if first < last and first >= self.deleted_below:
                low, high = first - chunk.seqs[0], last - chunk.seqs[0]
                values = {name: column[low:high] for name, column in chunk.values.items()}
                part = Chunk(
                    chunk.series, 1, chunk.seqs[low:high], chunk.unix_ms[low:high], values,
                    chunk.suspect[low:high],
                )  # fmt: skip
                yield part, last

    def rollups_since(self, change: int, limit: int) -> list[tuple[int, Rollup]]:
        return [item for item in self.rolled if item[0] > change][:limit]


class ScriptedSink:
    """Holds what it is sent as (resolution, text of the power field), unless it is told to fail."""

    batch_readings = 100
    backlog_per_s = 1_000_000

    def __init__(self) -> None:
        self.heartbeat = Heartbeat("uplink-influx")
        self.batches: list[tuple[Resolution, list[float]]] = []
        self.fault: Callable[[Resolution, Sequence[bytes]], None] = lambda _resolution, _points: (
            None
        )
        self.refused: set[float] = set()
        self.advice: list[str] = []
        self.prepared = self.closed = 0
        self.cut_off = False
        self.attempts = 0

    def prepare(self) -> Sequence[str]:
        self.prepared += 1
        return self.advice

    def send(self, points: Sequence[bytes], resolution: Resolution) -> list[Rejected]:
        self.attempts += 1
        self.fault(resolution, points)
        values = [
            float(point.partition(b"power_kw=")[2].split(b" ")[0].split(b",")[0])
            for point in points
        ]
        self.batches.append((resolution, values))
        return [
            Rejected(point, "no good")
            for point, value in zip(points, values, strict=True)
            if value in self.refused
        ]

    def was_cut_off(self) -> bool:
        was, self.cut_off = self.cut_off, False
        return was

    def close(self) -> None:
        self.closed += 1

    @property
    def readings(self) -> list[float]:
        """In the order in which they came."""
        return [value for what, batch in self.batches if what is Resolution.RAW for value in batch]


def an_uplink(name: str, sink: JournalSink, journal: MemoryJournal, clock: Clock) -> Uplink:
    """An uplink that takes the journal in memory for a real one."""
    return Uplink(name, sink, cast(Journal, journal), clock, cast(Any, journal.reader))


class Rig:
    """An uplink over a journal in memory. step: what its thread does, once, on this one."""

    def __init__(self, place: Place | None = None, batch_readings: int = 100) -> None:
        self.journal = MemoryJournal(place)
        self.sink = ScriptedSink()
        self.sink.batch_readings = batch_readings
        self.clock = FakeClock()
        self.restart()

    def restart(self) -> None:
        """Begin anew with the place as it was written down. Nobody waits on a clock like this."""
        self.journal.waits = False
        self.uplink = an_uplink("influx", self.sink, self.journal, self.clock)
        self.uplink._place = self.journal.place("influx")
        self.uplink._stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.uplink._pump()

    def run(self, for_s: float = 0.5) -> None:
        """Let it go on for a time; that passes only where it has nothing to do."""
        until_s = self.clock.mono_s() + for_s
        while self.clock.mono_s() < until_s:
            before = self.sink.attempts, self.journal.kept
            self.step()
            if (self.sink.attempts, self.journal.kept) == before:
                self.clock.turn(0.05)


def raises(error: Exception) -> Callable[[Resolution, Sequence[bytes]], None]:
    def fault(_resolution: Resolution, _points: Sequence[bytes]) -> None:
        raise error

    return fault


def test_what_is_new_goes_first_then_the_backlog_from_the_oldest_on() -> None:
    rig = Rig(Place(live=501, gaps=((1, 501),)))
    rig.journal.commit(a_chunk(1, 250), a_chunk(251, 250), a_chunk(501, 3))
    rig.run()
    assert rig.sink.readings[:3] == [501.0, 502.0, 503.0]
    assert rig.sink.readings[3:] == [float(seq) for seq in range(1, 501)]
    assert rig.journal.kept == Place(live=504)
    state = rig.uplink.state
    assert (state.connected, state.sent, state.backlog, state.last_error) == (True, 503, 0, None)


def test_what_a_request_may_take_is_not_promised_for_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(Place(live=501, gaps=((1, 501),)))
    rig.journal.commit(a_chunk(1, 250), a_chunk(251, 250), a_chunk(501, 3))
    heartbeat, promised = rig.sink.heartbeat, set()

    def may_take_long(*_: object) -> Sequence[str]:
        heartbeat.due_within(9999.0)
        return ()

    def noting(done: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            promised.add(heartbeat.beat[0])
            return done(*arguments)

        return note

    monkeypatch.setattr(rig.sink, "fault", may_take_long)
    monkeypatch.setattr(rig.sink, "prepare", may_take_long)
    for name in ("since", "rollups_since", "keep_place"):
        monkeypatch.setattr(rig.journal, name, noting(getattr(rig.journal, name)))
    rig.run()
    assert len(rig.sink.readings) == 503
    assert promised == {PIECE_WITHIN_S}


def test_new_readings_do_not_wait_for_the_backlog_to_end() -> None:
    rig = Rig(Place(live=1001, gaps=((1, 1001),)))
    rig.journal.commit(*(a_chunk(first, 100) for first in range(1, 1001, 100)))
    rig.step(3)
    rig.journal.commit(a_chunk(1001, 1))
    rig.step()
    assert 1001.0 in rig.sink.readings
    assert rig.uplink.state.backlog > 500


def test_more_new_ones_than_a_batch_join_the_backlog_but_for_the_newest() -> None:
    rig = Rig()
    rig.journal.commit(a_chunk(1, 350))
    rig.step()
    assert rig.sink.readings[:100] == [float(seq) for seq in range(251, 351)]
    rig.run()
    assert sorted(rig.sink.readings) == [float(seq) for seq in range(1, 351)]


def test_after_an_outage_the_newest_go_first_and_nothing_is_missing() -> None:
    rig = Rig()
    rig.journal.commit(a_chunk(1, 10))
    rig.run()
    rig.sink.fault = raises(SinkRetry("It is down."))
    for first in range(11, 311, 10):
        rig.journal.commit(a_chunk(first, 10))
        rig.run(10.0)
    assert rig.uplink.state.last_error == "It is down."
    assert not rig.uplink.state.connected
    assert rig.uplink.state.backlog == 300
    rig.sink.fault = lambda _resolution, _points: None
    rig.sink.batches.clear()
    rig.journal.commit(a_chunk(311, 10))
    rig.run(61.0)
    assert rig.sink.readings[0] > 200, "the newest first"
    assert sorted(set(rig.sink.readings)) == [float(seq) for seq in range(11, 321)]
    assert rig.journal.kept == Place(live=321)
    assert rig.uplink.state.connected


def test_pauses_double_up_to_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    times: list[float] = []

    def fault(_resolution: Resolution, _points: Sequence[bytes]) -> None:
        times.append(rig.clock.mono_s())
        raise SinkRetry("It is down.")

    rig.sink.fault = fault
    rig.journal.commit(a_chunk(1, 1))
    rig.run(300.0)
    gaps = [round(later - first) for first, later in pairwise(times)]
    assert gaps[:7] == [1, 1, 2, 4, 8, 16, 32]
    assert set(gaps[7:]) == {60}
    assert caplog.text.count("It is down.") == 1


def test_a_server_is_left_alone_for_as_long_as_it_asks_but_not_for_ever() -> None:
    for after_s, until_s in ((120.0, 120), (86_400.0, 300)):
        rig = Rig(Place(live=2, gaps=((1, 2),)))
        rig.journal.commit(a_chunk(1, 1))
        rig.sink.fault = raises(SinkRetry("Busy.", after_s))
        rig.run(until_s - 1.0)
        assert rig.sink.attempts == 1
        rig.run(2.0)
        assert rig.sink.attempts == 2


def test_a_refusal_is_said_once_and_tried_each_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rig = Rig(Place(live=2, gaps=((1, 2),)))
    rig.journal.commit(a_chunk(1, 1))
    rig.sink.fault = raises(SinkForbidden("The token is wrong."))
    rig.run(150.0)
    assert rig.sink.attempts == 3
    assert rig.sink.prepared >= 3, "somebody may have made the bucket meanwhile"
    assert caplog.text.count("The token is wrong.") == 1
    rig.sink.fault = lambda _resolution, _points: None
    rig.run(61.0)
    assert rig.sink.readings == [1.0]
    assert caplog.text.count("works again") == 1


def test_points_that_are_refused_for_good_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.sink.refused = {3.0, 50.0}
    rig.journal.commit(a_chunk(1, 60))
    rig.run()
    rig.journal.commit(a_chunk(61, 10))
    rig.run()
    assert (rig.uplink.state.sent, rig.uplink.state.rejected) == (68, 2)
    assert rig.journal.kept == Place(live=71)
    assert caplog.text.count("refuses 2 points") == 1
    assert "power_kw=3.0" in caplog.text


def test_hours_and_days_go_where_they_belong_once() -> None:
    rig = Rig()
    rig.journal.rolled = [(change, an_hour_or_day(change)) for change in range(1, 251)]
    rig.run(30.0)
    counts = {
        resolution: sum(len(batch) for what, batch in rig.sink.batches if what is resolution)
        for resolution in Resolution
    }
    assert counts == {Resolution.RAW: 0, Resolution.HOURLY: 167, Resolution.DAILY: 83}
    assert rig.journal.kept.change == 250
    rig.journal.rolled.append((251, a_rollup()))
    rig.run(15.0)
    assert rig.journal.kept.change == 251


def test_a_server_without_a_place_for_hours_gets_readings() -> None:
    rig = Rig(Place(live=301, gaps=((1, 301),)))
    rig.journal.rolled = [(1, a_rollup())]

    def fault(resolution: Resolution, _points: Sequence[bytes]) -> None:
        if resolution is not Resolution.RAW:
            raise SinkForbidden("No such bucket.")

    rig.sink.fault = fault
    rig.journal.commit(a_chunk(1, 300), a_chunk(301, 5))
    rig.run(5.0)
    assert len(rig.sink.readings) == 305
    assert rig.journal.kept == Place(live=306)
    assert rig.uplink.state.last_error == "No such bucket."
    rig.sink.fault = lambda _resolution, _points: None
    rig.run(61.0)
    assert rig.journal.kept.change == 1
    assert rig.uplink.state.last_error is None


def test_the_backlog_sent_no_faster_than_wanted() -> None:
    rig = Rig(Place(live=10_001, gaps=((1, 10_001),)))
    rig.sink.backlog_per_s = 500
    rig.journal.commit(*(a_chunk(first, 100) for first in range(1, 10_001, 100)))
    rig.run(10.0)
    assert 4000 <= len(rig.sink.readings) <= 5100


def test_pieces_of_the_backlog_shrink_where_they_take_long_and_grow_again() -> None:
    rig = Rig(Place(live=200_001, gaps=((1, 200_001),)), batch_readings=5000)
    per_point_s = 0.001

    def fault(_resolution: Resolution, points: Sequence[bytes]) -> None:
        rig.clock.turn(per_point_s * len(points))

    rig.sink.fault = fault
    rig.journal.commit(*(a_chunk(first, 1000) for first in range(1, 200_001, 1000)))
    rig.step(20)
    sizes = [len(batch) for _, batch in rig.sink.batches]
    assert sizes[0] > 3000
    assert all(size <= 700 for size in sizes[8:])
    per_point_s = 0.00001
    rig.step(60)
    assert len(rig.sink.batches[-1][1]) > 3000


def test_what_the_journal_deleted_is_not_waited_for() -> None:
    rig = Rig(Place(live=301, gaps=((1, 301),)))
    rig.journal.commit(a_chunk(1, 100), a_chunk(101, 200))
    rig.journal.deleted_below = 101
    rig.run()
    assert rig.sink.readings == [float(seq) for seq in range(101, 301)]
    assert rig.journal.kept == Place(live=301)


def test_a_gap_is_sent_whole_in_pieces_of_any_size() -> None:
    for piece in (1, 7, 99, 100, 101, 1000):
        rig = Rig(Place(live=2001, gaps=((1, 2001),)), batch_readings=piece)
        rig.journal.commit(*(a_chunk(first, 50) for first in range(1, 2001, 50)))
        rig.run(120.0)
        assert rig.sink.readings == [float(seq) for seq in range(1, 2001)], piece
        assert rig.journal.readers == 0, piece


def test_a_gap_that_cannot_be_read_is_begun_anew() -> None:
    journal = MemoryJournal()
    journal.commit(a_chunk(1, 10))
    backlog = Backlog(100, lambda: cast(History, journal.reader(Path(), print)))
    journal.broken = True
    for _ in range(2):
        with pytest.raises(JournalError):
            backlog.next_piece(1, 11)
    journal.broken = False
    points, done_seq = backlog.next_piece(1, 11)
    assert (len(points), done_seq) == (10, 11)


def test_nothing_of_the_journal_is_held_while_the_server_is_away() -> None:
    rig = Rig(Place(live=1001, gaps=((1, 1001),)))
    rig.journal.commit(*(a_chunk(first, 50) for first in range(1, 1001, 50)))
    rig.step(3)
    assert (rig.uplink.state.backlog, rig.journal.readers) == (900, 1)
    rig.sink.fault = raises(SinkRetry("It is down."))
    rig.run()
    assert rig.journal.readers == 0


def test_a_journal_that_cannot_be_read_is_tried_again() -> None:
    rig = Rig()
    rig.journal.commit(a_chunk(1, 10))
    rig.journal.broken = True
    rig.run(5.0)
    assert "disk I/O error" in (rig.uplink.state.last_error or "")
    rig.journal.broken = False
    rig.run(10.0)
    assert rig.sink.readings == [float(seq) for seq in range(1, 11)]
    assert rig.uplink.state.last_error is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_fails_each_reading_arrives(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig()
    newest = 0

    def fault(_resolution: Resolution, _points: Sequence[bytes]) -> None:
        chance = rng.random()
        if chance < 0.3:
            raise SinkRetry("It is down.", rng.choice([0.0, 5.0]))
        if chance < 0.4:
            raise SinkForbidden("Not you.")

    rig.sink.fault = fault
    for _ in range(60):
        count = rng.randrange(1, 200)
        rig.journal.commit(a_chunk(newest + 1, count))
        newest += count
        rig.journal.broken = rng.random() < 0.1
        rig.run(rng.random() * 20)
        if rng.random() < 0.1:  # killed, and started with the place of some time ago
            rig.restart()
    rig.journal.broken = False
    rig.sink.fault = lambda _resolution, _points: None
    rig.run(70.0)
    assert set(rig.sink.readings) == {float(seq) for seq in range(1, newest + 1)}
    assert rig.journal.kept == Place(live=newest + 1)


def test_what_a_person_has_to_do_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.sink.advice = ["Run this."]
    rig.sink.fault = raises(SinkForbidden("Not you."))
    rig.journal.commit(a_chunk(1, 1))
    rig.run(200.0)
    assert rig.sink.prepared > 2
    assert caplog.text.count("Run this.") == 1


def lose(rig: Rig, how: str) -> None:
    """Let the server have been away, as it is noticed with the next readings."""
    if how == "ended its connection":
        rig.sink.cut_off = True
        return
    rig.sink.fault = raises(Unreached("It is gone."))
    rig.journal.commit(a_chunk(rig.journal.newest + 1, 1))
    rig.step()
    rig.sink.fault = lambda _resolution, _points: None


@pytest.mark.parametrize("how", ["was not reached", "ended its connection"])
def test_what_a_server_took_before_it_died_is_sent_again(how: str) -> None:
    rig = Rig(Place(live=101, gaps=((1, 101),)))
    rig.journal.commit(a_chunk(1, 100))
    rig.journal.rolled.append((1, a_rollup()))
    rig.run(5.0)
    rig.journal.commit(a_chunk(101, 10))
    rig.run(70.0)
    for first in (111, 121):
        rig.journal.commit(a_chunk(first, 10))
        rig.run(15.0)
    rig.journal.rolled.append((2, a_rollup()))
    rig.run(15.0)
    assert rig.journal.kept == Place(live=131, change=2)
    rig.sink.batches.clear()
    lose(rig, how)
    newest = rig.journal.newest + 1
    rig.journal.commit(a_chunk(newest, 1))
    rig.run(70.0)
    assert set(rig.sink.readings) == {float(seq) for seq in range(111, newest + 1)}
    assert [what for what, _ in rig.sink.batches].count(Resolution.HOURLY) + [
        what for what, _ in rig.sink.batches
    ].count(Resolution.DAILY) == 1
    assert rig.journal.kept == Place(live=newest + 1, change=2)


def test_a_server_that_only_cannot_now_is_sent_nothing_twice() -> None:
    rig = Rig()
    rig.journal.commit(a_chunk(1, 10))
    rig.run()
    rig.sink.fault = raises(SinkRetry("Busy."))
    rig.journal.commit(a_chunk(11, 1))
    rig.run()
    rig.sink.fault = lambda _resolution, _points: None
    rig.run(10.0)
    assert rig.sink.readings == [float(seq) for seq in range(1, 12)]


def test_a_server_that_ends_each_connection_is_sent_no_more_than_twice() -> None:
    rig = Rig()
    for first in range(1, 601, 10):
        rig.journal.commit(a_chunk(first, 10))
        rig.sink.cut_off = True
        rig.run(10.0)
    assert len(rig.sink.readings) < 2 * 600 + 70


# --- On threads, before servers ------------------------------------------------------------------


def started(name: str, url: str, journal: MemoryJournal, **settings: object) -> Uplink:
    config = InfluxConfig(url=url, **{"database": "charging_data", "timeout_s": 5.0, **settings})  # type: ignore[arg-type]  # as named there
    uplink = an_uplink(name, InfluxSink(name, config, FOR_EVER, Clock()), journal, Clock())
    uplink.start()
    return uplink


def test_a_server_that_never_answers_holds_back_no_other_influxd_1_6(tmp_path: Path) -> None:
    journals = MemoryJournal(), MemoryJournal()
    with Influxd(tmp_path) as server, http_peer(Exchange.be_silent) as stuck:
        uplinks = [
            started("stuck", f"http://127.0.0.1:{stuck.port}", journals[0]),
            started("healthy", server.url, journals[1]),
        ]
        for journal in journals:
            journal.commit(a_chunk(1, 100))
        wait_until(lambda: uplinks[1].state.sent == 100, what="the healthy one")
        assert uplinks[0].state.sent == 0
        began_s = time.monotonic()
        for uplink in uplinks:
            uplink.stop(0.2)
        assert time.monotonic() - began_s < 1.0
        assert server.count("charging_data") == 100


def test_influxd_1_6_away_for_an_hour_holds_every_reading_with_its_time(tmp_path: Path) -> None:
    """The hour passes on a clock that is turned by hand; a reading comes every 5 s."""
    rig = Rig()
    with Influxd(tmp_path) as server:
        config = InfluxConfig(url=server.url, database="charging_data", timeout_s=5.0)
        with closing(InfluxSink("influx", config, FOR_EVER, rig.clock)) as sink:
            rig.uplink = an_uplink("influx", sink, rig.journal, rig.clock)
            rig.uplink._stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]

            def pass_time(from_seq: int, to_seq: int) -> None:
                for seq in range(from_seq, to_seq):
                    rig.journal.commit(a_chunk(seq, 1))
                    rig.step()
                    rig.clock.turn(5.0)

            pass_time(1, 11)
            server.stop()
            pass_time(11, 731)
            assert rig.uplink.state.last_error is not None
            assert rig.uplink.state.backlog >= 720
            server.start()
            pass_time(731, 761)
            assert rig.journal.kept == Place(live=761)
            rows = server.points("charging_data")
    assert [(row["time"], row["power_kw"]) for row in rows] == [
        (BEGIN_MS + 5000 * seq, float(seq)) for seq in range(1, 761)
    ]


def test_influxd_1_6_stopped_and_started_holds_what_the_journal_holds(tmp_path: Path) -> None:
    journal = MemoryJournal()
    with Influxd(tmp_path) as server:
        uplink = started("influx", server.url, journal)
        newest = 0

        def more_than(sent: int) -> Callable[[], bool]:
            return lambda: uplink.state.sent > sent and not uplink.state.last_error

        for number in range(5):
            sent = uplink.state.sent
            journal.commit(a_chunk(newest + 1, 1000))
            newest += 1000
            wait_until(more_than(sent), what="some readings", timeout_s=30)
            if number % 2:
                server.kill()
                journal.commit(a_chunk(newest + 1, 1000))
                newest += 1000
                wait_until(lambda: uplink.state.last_error, what="the outage", timeout_s=10)
                server.start()
        wait_until(lambda: journal.kept == Place(live=newest + 1), what="all", timeout_s=30)
        uplink.stop(5.0)
        rows = server.points("charging_data")
    assert [(row["time"], row["power_kw"]) for row in rows] == [
        (BEGIN_MS + 5000 * seq, float(seq)) for seq in range(1, newest + 1)
    ]


@pytest.mark.parametrize("noticed", [True, False])
def test_victoria_metrics_killed_holds_what_the_journal_holds_in_the_end(
    noticed: bool, tmp_path: Path
) -> None:
    """It acknowledges what it has in memory only. noticed: something was to be sent meanwhile."""
    journal = MemoryJournal()
    with VictoriaMetrics(tmp_path) as server:
        uplink = started("vm", server.url, journal, database=None, token="any")

        def sent_are(count: int) -> bool:
            return uplink.state.sent >= count

        def commit(count: int) -> None:
            journal.commit(a_chunk(journal.newest + 1, count))

        for number in range(1, 6):
            commit(300)
            wait_until(partial(sent_are, 300 * number), what="some readings")
        wait_until(lambda: uplink.state.backlog == 0, what="all of them")
        server.kill()
        if noticed:
            commit(1)
            wait_until(lambda: uplink.state.last_error, what="the outage", timeout_s=10)
        server.start()
        commit(1)
        newest = journal.newest

        def all_there() -> bool:
            found = {value for _, _, value in server.points("meter_reading_power_kw")}
            return found == {float(seq) for seq in range(1, newest + 1)}

        wait_until(all_there, what="every reading", timeout_s=30)
        wait_until(lambda: journal.kept == Place(live=newest + 1), what="the server's word on it")
        uplink.stop(5.0)


def test_a_stop_ends_the_thread_and_closes_the_sink() -> None:
    journal, sink = MemoryJournal(), ScriptedSink()
    uplink = an_uplink("influx", sink, journal, Clock())
    uplink.start()
    journal.commit(a_chunk(1, 10))
    wait_until(lambda: uplink.state.sent == 10)
    uplink.stop(5.0)
    assert sink.closed == 1
    assert journal.kept == Place(live=11)


def test_influxd_1_6_killed_now_and_then_holds_what_the_real_journal_holds(tmp_path: Path) -> None:
    clock = Clock()
    settings = JournalConfig(commit_interval_s=0.1, clock_wait_s=0.0)
    journal = Journal(tmp_path, settings, "home", timezone.utc, clock)
    meters = [a_meter(f"Meter {number}") for number in range(3)]
    (tmp_path / "server").mkdir()
    with Influxd(tmp_path / "server") as server:
        journal.open()
        config = InfluxConfig(url=server.url, database="charging_data", timeout_s=5.0)
        uplink = Uplink("influx", InfluxSink("influx", config, FOR_EVER, clock), journal, clock)
        uplink.start()
        taken = 0
        for number in range(90):
            mono_s, unix_ms = clock.mono_s(), clock.unix_ms()
            for meter in meters:
                reading = Reading({"power": number / 10, "energy": 5.0}, mono_s, unix_ms)
                journal.put([an_answer(meter, reading)])
                taken += 1
            if number in (30, 60):
                server.kill()
                wait_until(lambda: uplink.state.last_error, what="the outage", timeout_s=10)
            if number in (45, 75):
                server.start()
            clock.sleep(0.02)
        wait_until(lambda: journal.state.recorded == taken, what="the commits")
        wait_until(lambda: uplink.state.backlog == 0, what="the backlog", timeout_s=30)
        wait_until(lambda: server.count("charging_data") == taken, what="the last readings")
        uplink.stop(5.0)
        rows = server.points("charging_data")
        with History(journal.path) as history:
            kept = {
                (meter.id, unix_ms, power)
                for meter in meters
                for chunk in history.raw(meter.id, 0, 2**60)
                for unix_ms, power in zip(chunk.unix_ms, chunk.values["power"], strict=True)
            }
        journal.close(5.0)
    assert {(row["meter_id"], row["time"], row["power_kw"]) for row in rows} == kept
    assert len(kept) == taken == len(rows)
