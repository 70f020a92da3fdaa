"""The journal's writing side, on real files, with a clock that only the test turns."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
from collections.abc import Collection, Iterator
from datetime import timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edge.clock import Clock
from edge.journal import Journal, intake
from edge.journal.history import History
from edge.journal.importing import add_chunks
from edge.journal.intake import counter_kwh
from edge.journal.rollups import Folder
from edge.journal.schema import FILE_NAME, with_crc
from edge.journal.store import Store
from edge.journal.writer import Kernel, Site, Writer
from edge.model import Meter, PollEnd, PollResult, Reading
from edge.place import Place
from edge.record import Chunk, Resolution, Rollup
from edge.settings import JournalConfig
from tests.building import FakeClock, a_failure, a_meter, a_reading, an_answer
from tests.peers import wait_until

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FAR_MS = 1 << 60
START_MS = 497_222 * HOUR_MS
"""A full hour in September 2026."""


class HandClock(FakeClock):
    """Stands still while the writer leaves the processor to others."""

    def sleep(self, duration_s: float) -> None:
        pass


class Bench:
    """A writer that is stepped by hand, with one meter."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: HandClock | None = None,
        boot_id: str = "boot",
        synchronised: bool = True,
        zone: Any = timezone.utc,
        sinks: Collection[str] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = clock or HandClock(mono_s=1000.0, unix_ms=START_MS)
        self.meter = a_meter()
        self.meter = Meter(**{**vars(self.meter), "id": "meter_a"})
        self.synchronised = synchronised
        self.box: list[tuple[Meter, Reading]] = []
        self.energy_kwh = 100.0
        self.writer = Writer(
            folder,
            JournalConfig(**settings),
            Site("site", zone, 500.0),
            self.clock,
            Kernel(boot_id, lambda: self.synchronised),
            self._take,
            sinks,
        )
        self.path = self.writer.path

    def _take(self) -> list[tuple[Meter, Reading]]:
        box, self.box = self.box, []
        return box

    def read(self, power: float = 10.0, *, hints: tuple[str, ...] = (), **more: float) -> None:
        values = {"power": power, "energy": round(self.energy_kwh, 3), **more}
        clock = self.clock
        self.box.append((self.meter, Reading(values, clock.now_mono_s, clock.now_unix_ms, hints)))

    def run(self, duration_s: float, *, every_s: float = 60.0, power: float = 10.0) -> None:
        """Read in steady beat, and let the writer step each time."""
        for _ in range(round(duration_s / every_s)):
            self.read(power)
            self.writer.step()
            self.clock.turn(every_s)
            self.energy_kwh += power * every_s / 3600

    def commit(self) -> None:
        """Let the time to the next commit pass, and commit."""
        self.clock.turn(10)
        self.writer.step()

    def is_clock_trusted(self) -> bool:
        return self.writer._wall_clock.now_ms() is not None

    def history(self) -> History:
        return History(self.path)

    def raw(self) -> list[tuple[int, int, dict[str, float | None]]]:
        """All readings in order of time: sequence number, unix ms, values."""
        with self.history() as history:
            return rows_of(history.raw("meter_a", 0, FAR_MS))

    def rollups(self, resolution: Resolution = Resolution.HOURLY) -> list[Rollup]:
        with self.history() as history:
            return list(history.rollups("meter_a", resolution, 0, FAR_MS))

    def sql(self, statement: str) -> list[Any]:
        store = self.writer._store
        assert store is not None
        return store.db.execute(statement).fetchall()

    def restart(self, **changes: Any) -> Bench:
        """Stop, and go on as the next process."""
        self.writer.step(final=True)
        self.writer.close()
        return self.next(**changes)

    def next(self, **changes: Any) -> Bench:
        bench = Bench(self.path.parent, **{"clock": self.clock, **changes})
        bench.energy_kwh = self.energy_kwh
        return bench


def rows_of(chunks: Iterator[Chunk]) -> list[tuple[int, int, dict[str, float | None]]]:
    return [
        (chunk.seqs[i], chunk.unix_ms[i], {name: col[i] for name, col in chunk.values.items()})
        for chunk in chunks
        for i in range(len(chunk))
    ]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.writer.close()


# --- Committing ---


def test_a_reading_is_committed_after_the_interval_and_not_before(bench: Bench) -> None:
    bench.writer.step()
    bench.read()
    bench.writer.step()
    assert bench.writer.state.waiting == 1
    assert bench.raw() == []
    bench.commit()
    assert bench.raw() == [(1, START_MS, {"power": 10.0, "energy": 100.0})]
    state = bench.writer.state
    assert (state.recording, state.recorded, state.waiting, state.last_seq) == (True, 1, 0, 1)


def test_closing_commits_what_waits(bench: Bench) -> None:
    bench.read()
    after = bench.restart()
    after.writer.step()
    assert len(after.raw()) == 1
    after.writer.close()


def test_times_of_a_meter_rise_strictly(bench: Bench) -> None:
    for _ in range(3):
        bench.read()
    bench.commit()
    assert [ms for _, ms, _ in bench.raw()] == [START_MS, START_MS + 1, START_MS + 2]


def test_a_suspect_reading_is_kept_and_flagged(bench: Bench) -> None:
    bench.read(hints=("That is too much.",))
    bench.commit()
    with bench.history() as history:
        assert [list(chunk.suspect) for chunk in history.raw("meter_a", 0, FAR_MS)] == [[True]]


def test_a_commit_usually_fills_one_row_of_the_tail(bench: Bench) -> None:
    bench.run(300, every_s=5)
    bench.commit()
    assert len(bench.sql("SELECT * FROM tail")) <= 32


def test_many_readings_at_once_are_split_into_rows(bench: Bench) -> None:
    for _ in range(2500):
        bench.read()
    bench.commit()
    assert [row[0] for row in bench.sql("SELECT count FROM tail")] == [1000, 1000, 500]
    assert [seq for seq, _, _ in bench.raw()] == list(range(1, 2501))


def test_a_changed_registration_is_another_series(bench: Bench) -> None:
    bench.read()
    bench.meter = Meter(**{**vars(bench.meter), "name": "Renamed"})
    bench.read()
    bench.commit()
    with bench.history() as history:
        assert [series.name for series in history.series()] == ["Main", "Renamed"]
    assert len(bench.raw()) == 2


def test_a_counter_begins_again_at_the_width_of_its_register() -> None:
    def with_energy(**register: Any) -> float | None:
        document = {"host": "h", "registers": {"power": 0, "energy": {"address": 2, **register}}}
        return counter_kwh(a_meter(communication=document))

    assert with_energy(type="uint32", scale=0.01) == 2**32 / 100
    assert with_energy(type="uint16") == 2**16
    assert with_energy(type="float32") is None
    assert with_energy(type="uint64") is None


# --- Sealing ---


def test_an_hour_that_is_over_is_sealed_and_its_slots_are_used_again(bench: Bench) -> None:
    bench.run(3600 + 120)
    blocks = bench.sql("SELECT count, from_ms, to_ms FROM block")
    assert blocks == [(60, START_MS, START_MS + 59 * 60_000)]
    slots = len(bench.sql("SELECT * FROM tail"))
    bench.run(1800)
    assert len(bench.sql("SELECT * FROM tail")) == slots
    assert [seq for seq, _, _ in bench.raw()] == list(range(1, 93))


def test_no_block_spans_two_hours(bench: Bench) -> None:
    bench.run(5 * 3600, every_s=300)
    for from_ms, to_ms in bench.sql("SELECT from_ms, to_ms FROM block"):
        assert from_ms // HOUR_MS == to_ms // HOUR_MS


def test_the_tail_is_sealed_within_the_hour_when_it_grows_too_long(bench: Bench) -> None:
    for _ in range(32_000):
        bench.read()
    bench.commit()
    assert bench.sql("SELECT sum(count) FROM block") == [(32_000,)]


def test_slots_of_a_rush_are_given_back(bench: Bench) -> None:
    for _ in range(40):
        for _ in range(1000):
            bench.read()
        bench.commit()
    bench.run(2 * 3600)
    assert len(bench.sql("SELECT * FROM tail")) <= 130


def test_a_damaged_row_of_the_tail_costs_its_readings_only(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.run(600)
    bench.commit()
    bench.sql("UPDATE tail SET payload = x'00' WHERE slot = 3")
    bench.run(3600 + 120)
    assert len(bench.raw()) >= 70
    assert "damaged and lost" in caplog.text


# --- Sequence numbers ---


def test_sequence_numbers_go_on_after_everything_was_deleted(bench: Bench) -> None:
    bench.run(600)
    bench.commit()
    last = bench.writer.state.last_seq
    bench.clock.turn(100 * 86_400)
    bench.read()
    bench.commit()
    assert len(bench.raw()) == 1
    after = bench.restart()
    after.writer.step()
    after.clock.turn(100 * 86_400)
    after.writer.step()
    after.read()
    after.commit()
    assert after.raw()[-1][0] == last + 2
    after.writer.close()


# --- Retention ---


def test_what_is_too_old_goes(bench: Bench) -> None:
    bench.writer.close()
    old = Bench(bench.path.parent, clock=bench.clock, raw_days=1, hourly_days=2, daily_days=3)
    old.run(5 * 86_400, every_s=600)
    now_ms = old.clock.now_unix_ms
    assert old.raw()[0][1] >= now_ms - DAY_MS - 2 * HOUR_MS
    assert len(old.rollups()) in range(46, 51)
    assert len(old.rollups(Resolution.DAILY)) in (3, 4)
    assert old.writer.state.oldest_unix_ms == old.raw()[0][1]
    old.writer.close()


def test_the_oldest_goes_when_there_is_no_room(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_bytes=1024 * 1024)
    noise = random.Random(1)
    for _ in range(40):
        for _ in range(1500):
            bench.clock.turn(0.1)
            bench.read(noise.random(), voltage=noise.random(), current=noise.random())
        bench.commit()
    state = bench.writer.state
    assert state.file_bytes <= 1024 * 1024
    assert state.recorded == 60_000
    seqs = [seq for seq, _, _ in bench.raw()]
    assert 10_000 < len(seqs) < 60_000
    assert seqs == list(range(seqs[0], 60_001)), "the latest are there, without a hole"
    bench.writer.close()


def test_what_a_sink_was_not_sent_is_counted_when_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, raw_days=1)
    bench.writer.places["a"] = Place(live=31)
    bench.writer.places["b"] = Place(live=10**6)
    bench.run(2 * 3600)
    bench.clock.turn(2 * 86_400)
    bench.run(2 * 3600)
    assert bench.writer.lost == {"a": 120 - 30}
    assert caplog.text.count("not sent yet") == 1
    bench.writer.close()


def test_nothing_is_too_old_while_the_clock_is_not_trusted(bench: Bench) -> None:
    bench.run(2 * 3600)
    bench.synchronised = False
    bench.clock.now_unix_ms += 3650 * DAY_MS
    bench.read()
    bench.commit()
    assert len(bench.raw()) == 121


@pytest.mark.parametrize("ahead_days", [100, 300, 3650])
@pytest.mark.parametrize("synchronised", [True, False])
def test_a_clock_that_is_ahead_for_a_while_costs_nothing(
    tmp_path: Path, ahead_days: int, synchronised: bool
) -> None:
    bench = Bench(tmp_path, synchronised=synchronised)
    bench.run(6 * 3600, every_s=300)
    bench.clock.now_unix_ms += ahead_days * DAY_MS
    bench.run(2 * 3600, every_s=300)
    bench.clock.now_unix_ms -= ahead_days * DAY_MS
    bench.run(3 * 3600, every_s=300)
    assert len(bench.raw()) == 11 * 12
    whole = [hour.start_ms for hour in bench.rollups() if hour.samples == 12]
    assert len(whole) >= 7
    assert len(bench.rollups(Resolution.DAILY)) >= 1
    bench.writer.close()


def test_what_stays_while_the_clock_is_ahead_is_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.run(2 * 3600)
    bench.clock.now_unix_ms += 100 * DAY_MS
    bench.run(3 * 3600)
    (notice,) = bench.writer.state.notices
    assert "99 days ahead" in notice
    assert bench.writer.state.clock_fault is None, "it is believed"
    assert caplog.text.count("days ahead") == 1
    bench.clock.now_unix_ms -= 100 * DAY_MS
    bench.run(2 * 3600)
    assert bench.writer.state.notices == ()


def test_after_a_long_time_without_power_what_is_too_old_goes_little_by_little(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, raw_days=2)
    bench.run(2 * 86_400, every_s=1200)
    bench.writer.step(final=True)
    bench.writer.close()
    before = len(bench.raw())
    bench.clock.now_unix_ms += 3 * DAY_MS
    after = bench.next(raw_days=2, boot_id="next")
    after.run(2 * 3600, every_s=1200)
    assert len(after.raw()) >= before - 4 * 6, "not at once"
    after.run(86_400, every_s=1200)
    assert after.raw()[0][1] >= after.clock.now_unix_ms - 2 * DAY_MS - 3 * HOUR_MS
    after.writer.close()


# --- Sinks ---


def test_a_sink_that_is_no_longer_configured_is_forgotten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, raw_days=1)
    bench.writer.places.update(former=Place(live=1), kept=Place(live=31))
    bench.run(2 * 3600)
    after = bench.restart(raw_days=1, sinks={"kept"})
    after.writer.step()
    assert after.writer.places == {"kept": Place(live=31)}
    assert after.sql("SELECT sink FROM cursor") == [("kept",)]
    after.run(3 * 86_400, every_s=600)
    assert after.writer.lost.keys() == {"kept"}
    assert "former" not in caplog.text
    after.writer.close()


@pytest.mark.parametrize("place", [None, 5, 1.5, b"\x00", "[" * 10_000, '{"live":"1"}', "\ud800"])
@pytest.mark.parametrize("vouched_for", [True, False])
def test_a_place_that_is_none_keeps_nobody_from_starting(
    bench: Bench, place: Any, vouched_for: bool
) -> None:
    bench.run(60)
    bench.commit()
    store = bench.writer._store
    assert store is not None
    text = "x" if place is None or place == "\ud800" else place
    row = with_crc(("influx", text))
    store.db.execute("INSERT INTO cursor VALUES (?, ?, ?)", row if vouched_for else (*row[:2], 1))
    after = bench.restart()
    after.writer.step()
    assert after.writer.state.recording
    assert after.writer.places == {}
    after.writer.close()


def test_sequence_numbers_that_sinks_were_given_come_no_second_time(
    bench: Bench, tmp_path: Path
) -> None:
    """The database is replaced by an older one that goes with nothing in memory."""
    other = Bench(tmp_path / "other")
    other.meter = Meter(**{**vars(other.meter), "name": "Another"})
    other.run(120)
    other.restart().writer.close()
    bench.run(600)
    bench.commit()
    bench.writer.places["influx"] = Place(live=11)
    bench.writer.close()
    other.path.replace(bench.path)
    bench.path.with_name(f"{FILE_NAME}-wal").unlink(missing_ok=True)
    bench.writer._store = None
    bench.read()
    bench.commit()
    bench.commit()
    bench.read()
    bench.commit()
    assert bench.writer.sendable_seq >= 11
    assert bench.raw()[-1][0] == bench.writer.sendable_seq


def test_the_place_of_a_sink_is_there_after_a_restart(bench: Bench) -> None:
    bench.writer.step()
    place = Place(live=5, gaps=((1, 3),), change=2)
    bench.writer.places["influx"] = place
    after = bench.restart()
    after.writer.step()
    assert after.writer.places == {"influx": place}
    after.writer.close()


def test_places_are_written_once_a_minute_at_most(bench: Bench) -> None:
    bench.writer.step()
    for live in range(1, 7):
        bench.writer.places["influx"] = Place(live=live)
        bench.run(10, every_s=10)
    assert bench.sql("SELECT * FROM cursor") == []
    bench.run(10, every_s=10)
    assert len(bench.sql("SELECT * FROM cursor")) == 1


# --- Time ---


def test_readings_before_the_clock_was_set_are_corrected_and_held_back_until_then(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, clock=HandClock(20.0, 20_000), synchronised=False)
    bench.run(600)
    bench.commit()
    assert bench.writer.sendable_seq == 0
    bench.clock.now_unix_ms += START_MS
    bench.synchronised = True
    bench.read()
    bench.commit()
    bench.commit()
    times = [ms for _, ms, _ in bench.raw()]
    expected = [START_MS + 20_000 + 60_000 * n for n in range(10)]
    assert times[:10] == expected
    assert bench.writer.sendable_seq == 11
    bench.writer.close()


@pytest.mark.parametrize("step_ms", [1000, -1000, HOUR_MS, -HOUR_MS])
def test_a_step_of_a_trusted_clock_keeps_stamps_and_order(bench: Bench, step_ms: int) -> None:
    bench.run(600)
    bench.clock.now_unix_ms += step_ms
    bench.run(600)
    bench.commit()
    with bench.history() as history:
        chunks = [chunk for chunk, _ in history.since(1, 100)]
    assert [seq for chunk in chunks for seq in chunk.seqs] == list(range(1, 21))
    assert len({chunk.era for chunk in chunks}) == 2
    times = [ms for chunk in chunks for ms in chunk.unix_ms]
    assert times[:10] == [START_MS + 60_000 * n for n in range(10)]
    assert times[10] == START_MS + 600_000 + step_ms


def test_blocks_that_were_sealed_before_the_clock_was_set_are_shifted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, clock=HandClock(20.0, 20_000), synchronised=False)
    for _ in range(31):
        for _ in range(1000):
            bench.read()
            bench.clock.turn(0.01)
        bench.writer.step()
    bench.commit()
    assert bench.sql("SELECT count(*) FROM block")[0][0] > 0
    assert bench.rollups() == []
    bench.clock.now_unix_ms += START_MS
    bench.synchronised = True
    bench.read()
    bench.commit()
    times = [ms for _, ms, _ in bench.raw()]
    assert times[0] == START_MS + 20_000
    assert len(times) == len(set(times)) == 31_001
    bench.run(2 * 3600, every_s=600)
    assert sum(hour.samples for hour in bench.rollups()) >= 31_001
    bench.writer.close()


def test_readings_of_a_boot_whose_clock_was_never_set_hold_nothing_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, clock=HandClock(20.0, 20_000), synchronised=False)
    bench.run(600)
    bench.writer.step(final=True)
    bench.writer.close()
    after = bench.next(clock=HandClock(20.0, START_MS), boot_id="next", synchronised=True)
    after.run(3 * 3600)
    assert after.writer.sendable_seq == after.writer.state.last_seq
    assert len(after.rollups()) == 2
    assert after.sql("SELECT count FROM block ORDER BY id")[0] == (10,)
    after.writer.close()


def test_plausible_readings_of_a_boot_that_was_cut_short_are_believed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, synchronised=False)
    bench.run(120)
    bench.writer.step(final=True)
    assert bench.writer.sendable_seq == 0
    bench.writer.close()
    after = bench.next(boot_id="next")
    after.clock.turn(60)
    after.writer.step()
    after.run(60)
    after.commit()
    assert after.writer.sendable_seq == 3
    after.writer.close()


def test_a_controller_goes_on_after_its_clock_was_ahead_and_nobody_tells_it_the_time(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, synchronised=False)
    bench.run(3600)
    bench.clock.now_unix_ms += 300 * DAY_MS
    bench.run(1800)
    bench.clock.now_unix_ms -= 300 * DAY_MS
    bench.run(1800)
    after = bench.restart(boot_id="next", synchronised=False)
    after.run(600)
    assert after.writer.sendable_seq > 60
    assert after.is_clock_trusted()
    after.writer.close()


def test_an_earlier_boot_far_ahead_is_not_believed_later(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(3600)
    ahead = bench.restart(boot_id="ahead", synchronised=False)
    ahead.clock.now_unix_ms += 3650 * DAY_MS
    ahead.run(600)
    ahead.clock.now_unix_ms -= 3650 * DAY_MS
    after = ahead.restart(boot_id="after", synchronised=True)
    after.run(3600)
    assert len(after.rollups()) == 2
    with after.history() as history:
        times = [ms for chunk, _ in history.since(1, 1000) for ms in chunk.unix_ms]
    assert max(times) < START_MS + DAY_MS
    after.writer.close()


def test_readings_that_are_kept_back_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, clock=HandClock(20.0, 20_000), synchronised=False)
    bench.run(300)
    assert not bench.writer.state.notices
    assert bench.writer.state.clock_fault is None
    assert bench.writer.state.clock_set is None
    bench.run(600)
    (notice,) = bench.writer.state.notices
    assert bench.writer.state.clock_set is False
    assert bench.writer.state.clock_fault is not None
    assert "is not known to be set" in bench.writer.state.clock_fault
    assert notice.startswith(bench.writer.state.clock_fault)
    assert "15 readings are kept back" in notice
    assert caplog.text.count("is not known to be set") == 1
    bench.synchronised = True
    bench.run(60)
    assert bench.writer.state.notices == ()
    assert bench.writer.state.clock_fault is None
    assert bench.writer.state.clock_set is True
    bench.writer.close()


# --- Rollups ---


def test_an_hour_is_rolled_up_when_it_is_sealed(bench: Bench) -> None:
    bench.run(2 * 3600 + 120)
    first, second = bench.rollups()
    assert (first.start_ms, first.samples, first.mean_kw) == (START_MS, 60, 10.0)
    assert first.energy_kwh == pytest.approx(10.0)
    assert second.energy_kwh == pytest.approx(10.0)
    (day,) = bench.rollups(Resolution.DAILY)
    assert day.energy_kwh == pytest.approx(20.0)


def test_rollups_are_the_same_however_often_the_process_is_started(tmp_path: Path) -> None:
    steady = Bench(tmp_path / "steady")
    steady.run(4 * 3600 + 120)
    restless = Bench(tmp_path / "restless")
    for _ in range(16):
        restless.run(900)
        restless = restless.restart()
    restless.run(120)
    hours = restless.rollups()
    assert hours == steady.rollups()
    assert len(hours) == 4
    steady.writer.close()
    restless.writer.close()


def test_a_gap_gets_its_share_of_what_the_counter_rose(bench: Bench) -> None:
    bench.run(1800)
    bench.clock.turn(3 * 3600)
    bench.energy_kwh += 30
    bench.run(2 * 3600)
    hours = bench.rollups()
    assert [hour.start_ms for hour in hours] == [START_MS + n * HOUR_MS for n in range(5)]
    assert hours[1].samples == 0
    assert hours[1].energy_kwh == pytest.approx(10.0, abs=0.3)
    assert hours[1].interpolated_kwh == hours[1].energy_kwh


def test_late_readings_are_folded_in(bench: Bench) -> None:
    bench.run(3 * 3600)
    (before, *_) = bench.rollups()
    with bench.history() as history:
        (series,) = history.series()
    bench.writer.close()
    store = Store(bench.path, 1 << 20)
    late = [START_MS + 30_000 + 60_000 * n for n in range(30)]
    chunk = Chunk(series, 0, range(1, 31), late, {"power": [40.0] * 30}, [False] * 30)
    assert add_chunks(store, [chunk]) == 30
    assert add_chunks(store, [chunk]) == 0, "all of it is there already"
    Folder(store, timezone.utc, 500.0).fold(FAR_MS, (), lambda: None)
    store.close()
    after = bench.next()
    after.writer.step()
    (hour, *_) = after.rollups()
    assert hour.samples == before.samples + 30
    assert hour.max_kw == 40.0
    changes = after.sql("SELECT change FROM rollup WHERE start_ms = " + str(START_MS))
    assert changes[0][0] > 3
    after.writer.close()


def test_an_hour_keeps_its_row_when_its_readings_are_gone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, raw_days=1)
    bench.run(3 * 3600)
    before = bench.rollups()[0]
    bench.clock.turn(2 * 86_400)
    bench.run(2 * 3600)
    assert bench.rollups()[0] == before
    with bench.history() as history:
        (series,) = history.series()
    bench.writer.close()
    store = Store(bench.path, 1 << 20)
    add_chunks(store, [Chunk(series, 0, [1], [START_MS + 1], {"power": [400.0]}, [False])])
    Folder(store, timezone.utc, 500.0).fold(FAR_MS, (), lambda: None)
    store.close()
    after = bench.next()
    after.writer.step()
    assert after.rollups()[0] == before
    after.writer.close()


def test_hours_and_days_are_those_of_the_site(tmp_path: Path) -> None:
    bench = Bench(tmp_path, zone=ZoneInfo("Asia/Kolkata"))
    bench.run(5 * 3600, every_s=300)
    assert {hour.start_ms % HOUR_MS for hour in bench.rollups()} == {HOUR_MS // 2}
    bench.writer.close()


def test_blocks_sealed_before_a_crash_are_rolled_up_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "fold", lambda *_: None)
    bench.run(3600 + 120)
    assert bench.rollups() == []
    monkeypatch.undo()
    bench.writer.close()
    after = bench.next()
    after.writer.step()
    assert len(after.rollups()) == 1
    after.writer.close()


# --- Faults ---


def test_damage_has_to_show_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says the same of a read that failed once."""
    bench.run(60)
    bench.commit()

    def fail(*_: Any) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(Store, "commit", fail)
    bench.read()
    bench.commit()
    assert not bench.writer.state.recording
    monkeypatch.undo()
    bench.clock.turn(5)
    bench.commit()
    assert bench.writer.state.recording
    assert not bench.writer.state.notices, "a sound file is not set aside"
    monkeypatch.setattr(Store, "commit", fail)
    bench.read()
    bench.commit()
    monkeypatch.undo()
    bench.commit()
    assert "is set aside" in bench.writer.state.notices[0]
    bench.commit()
    assert [seq for seq, _, _ in bench.raw()] == [1, 2, 3]


def test_a_row_that_others_hang_on_is_never_believed_when_it_is_damaged(bench: Bench) -> None:
    bench.run(60)
    bench.commit()
    bench.sql("UPDATE series SET name = 'Kellar'")
    with bench.history() as history:
        assert rows_of(history.raw("meter_a", 0, FAR_MS)) == []
        assert history.damaged
    after = bench.restart()
    after.writer.step()
    after.clock.turn(5)
    after.read()
    after.commit()
    after.commit()
    assert "is set aside" in after.writer.state.notices[0]
    assert [seq for seq, _, _ in after.raw()] == [1]
    after.writer.close()


def test_the_journal_is_for_the_service_alone(bench: Bench) -> None:
    bench.run(60)
    bench.commit()
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        assert (bench.path.with_name(name).stat().st_mode & 0o777) == 0o600


def test_the_file_shrinks_when_it_may_hold_less(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    noise = random.Random(1)
    for _ in range(40):
        for _ in range(1500):
            bench.clock.turn(1)
            bench.read(noise.random(), voltage=noise.random(), current=noise.random())
        bench.commit()
    bench.clock.turn(7200)
    bench.read()
    bench.commit()
    assert bench.writer.state.file_bytes > 1_000_000
    after = bench.restart(max_bytes=600_000)
    after.writer.step()
    assert after.writer.state.file_bytes <= 600_000
    seqs = [seq for seq, _, _ in after.raw()]
    assert len(seqs) > 5000
    assert seqs == list(range(seqs[0], 60_002))
    after.writer.close()


def test_a_full_database_is_told_once_and_recording_resumes(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.run(600)
    bench.commit()
    (pages,) = bench.sql("PRAGMA page_count")[0]
    bench.sql(f"PRAGMA max_page_count = {pages}")
    noise = random.Random(1)
    for _ in range(3000):
        bench.read(noise.random())
        bench.clock.turn(0.01)
    bench.commit()
    state = bench.writer.state
    assert not state.recording
    assert state.last_error is not None
    assert "full" in state.last_error
    assert state.waiting == 3000
    bench.clock.turn(5)
    bench.read()
    bench.commit()
    assert bench.writer.state.recording
    assert bench.writer.state.last_error is None
    assert [seq for seq, _, _ in bench.raw()] == list(range(1, 3012))
    assert caplog.text.count("cannot be written") == 1


def test_a_folder_that_cannot_be_used_is_no_exception(tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("a file")
    bench = Bench(blocked)
    bench.read()
    bench.commit()
    assert not bench.writer.state.recording
    blocked.unlink()
    bench.commit()
    assert bench.writer.state.recording
    bench.commit()
    assert len(bench.raw()) == 1
    bench.writer.close()


def test_a_database_that_is_read_only_is_a_fault_that_passes(bench: Bench) -> None:
    bench.run(60)
    bench.commit()
    bench.sql("PRAGMA query_only = ON")
    bench.read()
    bench.commit()
    assert "read-only" in (bench.writer.state.last_error or "")
    bench.commit()
    bench.commit()
    assert len(bench.raw()) == 2


def test_a_database_of_another_process_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.step()
    store = bench.writer._store
    assert store is not None
    store.set_meta("format", 99)
    after = bench.restart()
    after.read()
    after.commit()
    assert "format 99" in (after.writer.state.last_error or "")
    after.writer.close()


def test_what_was_committed_in_a_commit_that_failed_is_not_written_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the fsync fails, and the system wrote it all the same."""
    bench.writer.step()
    commit = Store.commit

    def commit_and_fail(self: Store, *arguments: Any) -> None:
        commit(self, *arguments)
        raise sqlite3.OperationalError("disk I/O error")

    bench.read()
    monkeypatch.setattr(Store, "commit", commit_and_fail)
    bench.commit()
    monkeypatch.undo()
    assert not bench.writer.state.recording
    bench.clock.turn(5)
    bench.read()
    bench.commit()
    bench.commit()
    assert [seq for seq, _, _ in bench.raw()] == [1, 2]
    assert bench.writer.state.recorded == 2


def test_a_database_that_was_deleted_is_made_anew(bench: Bench) -> None:
    bench.run(60)
    bench.commit()
    for file in bench.path.parent.glob(f"{FILE_NAME}*"):
        file.unlink()
    bench.read()
    bench.commit()
    assert not bench.writer.state.recording
    bench.commit()
    bench.commit()
    assert [seq for seq, _, _ in bench.raw()] == [2]


def test_a_log_that_was_deleted_costs_nothing_even_when_the_power_goes(bench: Bench) -> None:
    bench.run(600)
    bench.commit()
    log = bench.path.with_name(f"{FILE_NAME}-wal")
    log.unlink()
    bench.read()
    bench.commit()
    assert "was deleted" in str(bench.writer.state.last_error)
    bench.clock.turn(5)
    bench.writer.step()
    assert bench.writer.state.recording
    assert log.exists()
    assert [seq for seq, _, _ in bench.raw()] == list(range(1, 12))


def test_a_log_that_is_cut_off_is_noticed(bench: Bench) -> None:
    bench.run(600)
    bench.commit()
    os.truncate(bench.path.with_name(f"{FILE_NAME}-wal"), 0)
    bench.read()
    bench.commit()
    assert not bench.writer.state.recording
    for _ in range(4):
        bench.commit()
    assert bench.writer.state.recording
    assert bench.raw()[-1][0] == 11


@pytest.mark.parametrize("size", [0, 700, 4096])
def test_a_database_that_is_cut_off_is_noticed_and_replaced(bench: Bench, size: int) -> None:
    bench.run(2 * 3600)
    bench.commit()
    os.truncate(bench.path, size)
    bench.read()
    bench.commit()
    for _ in range(4):
        bench.commit()
    assert bench.writer.state.recording
    assert bench.raw()[-1][0] == 121


def test_what_a_reader_cannot_read_is_looked_into_at_once(bench: Bench) -> None:
    bench.run(60)
    bench.commit()
    bench.path.with_name(f"{FILE_NAME}-wal").unlink()
    bench.writer.reported_damage = "disk I/O error"
    bench.writer.step()
    assert not bench.writer.state.recording
    bench.clock.turn(5)
    bench.writer.step()
    assert len(bench.raw()) == 1


def test_an_hour_is_sealed_although_nothing_new_comes(bench: Bench) -> None:
    bench.run(3600)
    bench.commit()
    for _ in range(3):
        bench.clock.turn(60)
        bench.writer.step()
    assert len(bench.rollups()) == 1


def test_what_is_due_is_committed_while_long_work_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    bench.writer._announce = lambda: told.append(bench.writer.sendable_seq)

    def work(*arguments: Any) -> None:
        breathe = arguments[-1]
        for _ in range(4):
            bench.read()
            bench.clock.turn(6)
            assert breathe()

    monkeypatch.setattr(Folder, "fold", work)
    bench.run(3600 + 120)
    assert told[-2:] == [told[-2], told[-2] + 2]
    assert len({*told}) >= 2
    monkeypatch.undo()
    bench.writer.stopping = True
    assert not bench.writer._breathe()


def test_memory_is_bounded_while_the_disk_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.writer.step()

    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Store, "commit", fail)
    monkeypatch.setattr(intake, "_MOST_BYTES", 100_000)
    noise = random.Random(1)
    for _ in range(20):
        for _ in range(1000):
            bench.read(noise.random())
        bench.commit()
    state = bench.writer.state
    assert state.waiting + state.dropped == 20_000
    assert 1000 <= state.waiting <= 10_000
    monkeypatch.undo()
    bench.commit()
    bench.commit()
    assert bench.raw()[-1][0] == 20_000, "the latest were kept"
    assert len(bench.raw()) == state.waiting


# --- The thread ---


class _Kept(Clock):
    """The real clock."""


def a_journal(folder: Path, **settings: Any) -> Journal:
    return Journal(
        folder,
        JournalConfig(**settings),
        "site",
        timezone.utc,
        _Kept(),
        kernel=Kernel("boot", lambda: True),
    )


def an_answer_now(meter: Meter) -> PollResult:
    clock = Clock()
    return an_answer(meter, Reading({"power": 1.0}, clock.mono_s(), clock.unix_ms()))


def test_the_journal_records_live_readings_on_its_own_thread(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, commit_interval_s=0.1)
    journal.open()
    meter = a_meter()
    retained = PollResult(
        meter, a_reading(live=False), None, PollEnd.OK, failed=False, duration_s=0.0
    )
    journal.put([an_answer_now(meter), a_failure(meter), retained])
    assert journal.wait(1, timeout_s=10) == 1
    journal.put([an_answer_now(meter)])
    journal.close(10)
    assert journal.state.recorded == 2
    assert journal.wait(99, timeout_s=10) == 2, "it does not wait for what cannot come"


def test_a_new_sink_gets_everything_that_is_there(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, commit_interval_s=0.1)
    journal.open()
    journal.put([an_answer_now(a_meter())])
    journal.wait(1, timeout_s=10)
    assert journal.place("influx") == Place(live=2, gaps=((1, 2),))
    journal.keep_place("influx", Place(live=2))
    journal.close(10)
    again = a_journal(tmp_path)
    again.open()
    assert again.place("influx") == Place(live=2)
    again.close(10)


def test_the_backlog_is_sent_before_anything_new_is_read(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, commit_interval_s=0.1)
    journal.open()
    journal.put([an_answer_now(a_meter())])
    journal.close(10)
    again = a_journal(tmp_path)
    again.open()
    assert again.place("influx") == Place(live=2, gaps=((1, 2),))
    assert again.wait(1, timeout_s=10) == 1
    again.close(10)


def test_closing_waits_for_a_fault_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = a_journal(tmp_path)
    journal.open()
    journal.place("influx")
    commit = Store.commit
    calls = 0

    def fail_once(self: Store, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise sqlite3.OperationalError("disk I/O error")
        commit(self, *arguments)

    monkeypatch.setattr(Store, "commit", fail_once)
    journal.put([an_answer_now(a_meter())])
    journal.close(10)
    assert calls == 2
    assert (journal.state.recorded, journal.state.waiting) == (1, 0)


def test_what_is_written_is_counted_from_the_writers_start(tmp_path: Path) -> None:
    (tmp_path / "much").write_bytes(bytes(1 << 20))  # by this thread, which is not the writer's
    journal = a_journal(tmp_path)
    journal.open()
    journal.put([an_answer_now(a_meter())])
    journal.close(10)
    written = journal.state.written_bytes
    assert written is None or written >= 0


def test_put_never_waits_and_drops_the_oldest(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    meter = a_meter()
    for _ in range(12):
        journal.put([an_answer_now(meter)] * 1000)
    assert (journal.state.waiting, journal.state.dropped) == (10_000, 2000)


def test_damage_that_a_reader_reports_is_looked_into(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    journal = a_journal(tmp_path, commit_interval_s=0.1)
    journal.open()
    journal.put([an_answer_now(a_meter())])
    journal.wait(1, timeout_s=10)
    journal.report_damage("database disk image is malformed")
    journal.put([an_answer_now(a_meter())])
    journal.wait(2, timeout_s=10)
    assert journal.state.recording, "nothing was found"
    wait_until(lambda: journal.state.recorded == 2, what="recorded")
    journal.close(10)
