"""Hours of a journal whose readings come out of order, from wrong clocks, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edge.counter import LONGEST_GAP_MS
from edge.journal import retention, seal
from edge.journal.offline import add_to
from edge.journal.rollups import Folder
from edge.journal.store import Store
from edge.journal.writer import Site
from edge.model import Meter, Reading
from edge.record import Chunk, Resolution, Series
from tests.test_journal import DAY_MS, FAR_MS, HOUR_MS, START_MS, Bench

YEAR_MS = 365 * DAY_MS


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def register(bench: Bench, **changes: Any) -> None:
    """Register the meter of a bench anew."""
    bench.meter = Meter(**{**vars(bench.meter), **changes})


def a_bench(folder: Path, **given: Any) -> Bench:
    """A bench whose meter is live for longer than the time from one reading to the next."""
    bench = Bench(folder, **given)
    register(bench, stale_after_ms=90_000)
    return bench


def then(bench: Bench, **given: Any) -> Bench:
    """The next process."""
    after = bench.restart(**given)
    register(after, stale_after_ms=90_000)
    return after


def series_of(bench: Bench) -> Series:
    with bench.history() as history:
        return history.series()[0]


def add(bench: Bench, unix_ms: Sequence[int], kwh: Sequence[float]) -> Bench:
    """Import readings of 10 kW into the journal of a bench, and start again."""
    chunk = Chunk(
        series_of(bench),
        0,
        range(1, len(unix_ms) + 1),
        list(unix_ms),
        {"power": [10.0] * len(unix_ms), "energy": list(kwh)},
        [False] * len(unix_ms),
    )
    bench.writer.step(final=True)
    bench.writer.close()
    assert add_to(bench.path, [chunk]) == len(unix_ms)
    after = bench.next()
    register(after, stale_after_ms=90_000)
    after.writer.step()
    return after


def energies(bench: Bench) -> list[float | None]:
    return [hour.energy_kwh for hour in bench.rollups()]


# --- Order ---


def test_a_meter_that_is_renamed_and_back_within_an_hour(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    name = bench.meter.name
    for one in ("Main", "Other", name):
        register(bench, name=one)
        bench.run(1200)
    bench.run(3600 + 120)
    assert energies(bench) == pytest.approx([10.0, 10.0], abs=0.002)
    assert [hour.coverage for hour in bench.rollups()] == [1.0, 1.0]
    bench.writer.close()


@pytest.mark.parametrize("beside_ms", [0, 30_000], ids=["in the hole", "also between readings"])
def test_an_import_into_the_middle_of_an_hour(tmp_path: Path, beside_ms: int) -> None:
    bench = a_bench(tmp_path)
    bench.run(1200)
    bench.clock.turn(1200)
    bench.energy_kwh += 10 / 3
    bench.run(1200 + 3600 + 120)
    times = [START_MS + 1_200_000 + 60_000 * n for n in range(20)]
    if beside_ms:
        times = [START_MS + beside_ms + 60_000 * n for n in range(60)]
    after = add(bench, times, [100 + (ms - START_MS) / 360_000 for ms in times])
    first = after.rollups()[0]
    assert first.energy_kwh == pytest.approx(10.0, abs=0.002)
    assert first.interpolated_kwh == 0.0
    assert first.coverage == 1.0
    after.writer.close()


def test_two_imports_that_interleave(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.clock.turn(7200)
    bench.run(3600 + 120)
    for first_ms in (0, 60_000):
        times = [START_MS + first_ms + 120_000 * n for n in range(30)]
        bench = add(bench, times, [80 + (ms - START_MS) / 360_000 for ms in times])
    first = bench.rollups()[0]
    assert first.energy_kwh == pytest.approx(10.0)
    assert first.samples == 60
    bench.writer.close()


def test_what_was_imported_is_folded_at_the_next_start(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.run(600)
    times = [START_MS - DAY_MS + 60_000 * n for n in range(120)]
    after = add(bench, times, [10 + n / 6 for n in range(120)])
    assert [hour.start_ms for hour in after.rollups()][:2] == [
        START_MS - DAY_MS,
        START_MS - DAY_MS + HOUR_MS,
    ]
    after.writer.close()


# --- Clocks that were wrong ---


@pytest.mark.parametrize("ahead_ms", [3 * DAY_MS, 100 * DAY_MS, 10 * YEAR_MS])
def test_no_hour_of_the_future_is_made_up(tmp_path: Path, ahead_ms: int) -> None:
    bench = a_bench(tmp_path)
    bench.run(6 * 3600)
    bench.clock.now_unix_ms += ahead_ms
    bench.run(1200)
    bench.clock.now_unix_ms -= ahead_ms
    bench.run(3 * 3600)
    bench = then(bench, boot_id="another")
    bench.run(3 * 3600)
    for resolution in (Resolution.HOURLY, Resolution.DAILY):
        rows = bench.rollups(resolution)
        assert all(row.start_ms < bench.clock.now_unix_ms for row in rows)
    assert len(bench.rollups()) <= 12
    counted = sum(kwh or 0.0 for kwh in energies(bench))
    assert 100 < counted <= bench.energy_kwh - 100
    bench.writer.close()


def test_readings_of_long_ago_make_no_hours_between(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = a_bench(tmp_path)
    bench.run(2 * 3600 + 120)
    caplog.clear()
    after = add(bench, [START_MS - 50 * YEAR_MS], [1.0])
    assert len(after.rollups()) == 3
    after.writer.close()


def test_energy_is_spread_over_a_month_and_no_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for gap_ms, hours in ((LONGEST_GAP_MS - HOUR_MS, 747), (LONGEST_GAP_MS + HOUR_MS, 4)):
        bench = a_bench(tmp_path / str(hours))
        bench.run(2 * 3600 + 120)
        bench.clock.turn(gap_ms / 1000)
        bench.energy_kwh += 100
        caplog.clear()
        bench.run(2 * 3600)
        assert len(bench.rollups()) == pytest.approx(hours, abs=1)
        assert caplog.text.count("for over 31 days") == (hours == 4)
        bench.writer.close()


def test_readings_before_1970_are_left_out(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.run(3600 + 120)
    after = add(bench, [-62_135_596_800_000], [1.0])
    assert len(after.rollups()) == 1
    after.writer.close()


# --- What is written, and when ---


@pytest.mark.parametrize("zone", [timezone.utc, ZoneInfo("Asia/Kolkata")])
def test_an_hour_is_written_when_it_is_over_and_complete(tmp_path: Path, zone: Any) -> None:
    bench = a_bench(tmp_path, zone=zone)
    register(bench, stale_after_ms=3 * HOUR_MS)
    bench.run(600)
    seen: dict[int, int] = {}
    for _ in range(240):
        bench.run(60)
        for hour in bench.rollups():
            assert hour.start_ms + hour.length_ms <= bench.clock.now_unix_ms
            assert seen.setdefault(hour.start_ms, hour.samples) == hour.samples
    assert len(seen) >= 3
    bench.writer.close()


def test_deleting_a_block_of_the_future_costs_no_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = a_bench(tmp_path)
    bench.run(3600 + 120)
    bench.clock.now_unix_ms += 40 * DAY_MS
    bench.run(2 * 3600)
    bench.clock.now_unix_ms -= 40 * DAY_MS
    store = bench.writer._store
    assert store is not None
    future = retention._select(store, "from_ms > ?", bench.clock.now_unix_ms)
    assert future
    retention._delete(store, future)
    monkeypatch.setattr(seal, "_MOST_ROWS", 25)
    back_ms = bench.clock.now_unix_ms
    bench.run(5 * 3600)
    hours = [hour for hour in bench.rollups() if back_ms < hour.start_ms < back_ms + 5 * 3_600_000]
    assert [hour.samples for hour in hours] == [60] * 4
    bench.writer.close()


def test_an_hour_keeps_its_row_when_a_part_of_it_is_gone(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.run(3 * 3600 + 120)
    before = bench.rollups()
    store = bench.writer._store
    assert store is not None
    retention._delete(store, retention._select(store, "true ORDER BY id")[:1])
    after = add(bench, [START_MS + 30_000 + 60_000 * n for n in range(20)], [100.0] * 20)
    assert after.rollups()[0] == before[0]
    after.writer.close()


# --- Power that nobody expected ---


def test_the_meters_own_power_tells_what_is_possible(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    bench.writer._site = Site("site", timezone.utc, 50.0)
    bench.run(2 * 3600 + 120, power=100.0)
    assert energies(bench) == pytest.approx([100.0, 100.0], abs=0.01)
    bench.writer.close()


def test_a_counter_that_is_too_fast_is_told_once_an_hour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = a_bench(tmp_path)
    register(bench, max_power_kw=20.0)
    for _ in range(122):
        values = {"energy": round(bench.energy_kwh, 3)}
        clock = bench.clock
        reading = Reading(values, clock.now_mono_s, clock.now_unix_ms, ())
        bench.box.append((bench.meter, reading))
        bench.writer.step()
        bench.clock.turn(60)
        bench.energy_kwh += 100 / 60
    assert 1 <= caplog.text.count("maxPower is too low") <= 2
    assert "glitch" not in caplog.text
    bench.writer.close()


# --- The work itself ---


def test_folding_stops_when_it_is_told_to_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "fold", lambda *_: None)
    bench = a_bench(tmp_path)
    bench.run(3600 + 120)
    bench.clock.turn(20 * DAY_MS / 1000)
    bench.energy_kwh += 100
    bench.run(3500)
    bench.writer.step(final=True)
    bench.writer.close()
    store = Store(bench.path, 1 << 20)
    seal.seal(store, len(store.rows), lambda: None)
    monkeypatch.undo()
    asked = iter(range(FAR_MS))

    def breathe() -> bool:
        assert not store.db.in_transaction, "then nobody could commit"
        return next(asked) < 100

    Folder(store, timezone.utc, 500.0).fold(FAR_MS, (), breathe)
    (count,) = store.db.execute("SELECT count(*) FROM rollup").fetchone()
    assert 0 < count < 100
    Folder(store, timezone.utc, 500.0).fold(FAR_MS, (), lambda: None)
    (count,) = store.db.execute("SELECT count(*) FROM rollup").fetchone()
    assert count > 20 * 24
    store.close()


def test_nothing_is_read_while_all_that_is_not_folded_has_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "_MOST_ROWS", 5)
    bench = a_bench(tmp_path)
    bench.run(1800)
    store = bench.writer._store
    folder = bench.writer._folder
    assert store is not None
    assert folder is not None
    assert len(bench.sql("SELECT id FROM block")) > 2
    now_ms = bench.clock.now_unix_ms
    folder.fold(now_ms, (), lambda: None)
    statements: list[str] = []
    store.db.set_trace_callback(statements.append)
    folder.fold(now_ms + 1000, (), lambda: None)
    assert len(statements) == 1
    store.db.set_trace_callback(None)
    bench.writer.close()
