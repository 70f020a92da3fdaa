"""Hours and days: where they begin, what counts in them, and that they add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.counter import Kind
from edge.record import Chunk, EnergySource, Resolution, Rollup, Series
from edge.rollup import Hour, daily, day_of, hour_of, hourly

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
START_MS = 1_790_000_000_000 // HOUR_MS * HOUR_MS
END_MS = START_MS + HOUR_MS
GRID = Series("site", "id", "Main", "Basement", "grid", "modbus", 30_000, max_power_kw=100.0)

Row = tuple[int, float | None, float | None]
"""Time after START_MS in ms, power in kW, counter in kWh."""


def chunk_of(
    rows: Sequence[Row], *, era: int = 1, suspect: Sequence[int] = (), series: Series = GRID
) -> Chunk:
    """A chunk of readings; suspect: indices of those that are."""
    columns: dict[str, Sequence[float | None]] = {
        "power": [power for _, power, _ in rows],
        "energy": [energy for _, _, energy in rows],
    }
    return Chunk(
        series,
        era,
        range(1, len(rows) + 1),
        [START_MS + ms for ms, _, _ in rows],
        {name: column for name, column in columns.items() if set(column) != {None}},
        [index in suspect for index in range(len(rows))],
    )


def hour_from(*chunks: Chunk, start_ms: int = START_MS, length_ms: int = HOUR_MS) -> Hour:
    """Work out an hour from chunks in sequence."""
    return hourly(start_ms, length_ms, chunks, fallback_max_kw=200.0)


def rollup_from(*chunks: Chunk) -> Rollup:
    rollup = hour_from(*chunks).rollup
    assert rollup is not None
    return rollup


def every_5_s(
    count: int, power_kw: float, first_ms: int = 0, kwh: float | None = None
) -> list[Row]:
    return [
        (
            first_ms + index * 5000,
            power_kw,
            None if kwh is None else kwh + power_kw * index * 5 / 3600,
        )
        for index in range(count)
    ]


class TestPower:
    def test_the_mean_is_weighted_with_time(self) -> None:
        rollup = rollup_from(chunk_of([(0, 10.0, None), (20_000, 40.0, None), (30_000, 0.0, None)]))
        assert rollup.mean_kw == pytest.approx((10 * 20 + 40 * 10 + 0 * 30) / 60)
        assert (rollup.min_kw, rollup.max_kw) == (0.0, 40.0)
        assert (rollup.samples, rollup.covered_ms) == (3, 60_000)
        assert rollup.coverage == pytest.approx(1 / 60)

    def test_a_full_hour_is_covered(self) -> None:
        rollup = rollup_from(chunk_of(every_5_s(721, 7.0)))
        assert rollup.coverage == 1.0
        assert rollup.samples == 720
        assert rollup.mean_kw == pytest.approx(7.0)

    def test_a_value_is_held_until_it_is_stale(self) -> None:
        rollup = rollup_from(chunk_of([(0, 10.0, None), (40_000, 20.0, None)]))
        assert rollup.covered_ms == 60_000
        assert rollup.mean_kw == pytest.approx(15.0)

    def test_the_last_value_before_the_hour_reaches_into_it(self) -> None:
        rollup = rollup_from(
            chunk_of([(-20_000, 30.0, None)]), chunk_of([(5000, 10.0, None), (10_000, 10.0, None)])
        )
        assert rollup.covered_ms == 5000 + 5000 + 30_000
        assert rollup.mean_kw == pytest.approx((30 * 5 + 10 * 35) / 40)
        assert (rollup.samples, rollup.max_kw) == (2, 10.0)

    def test_the_last_value_of_the_hour_does_not_reach_out_of_it(self) -> None:
        assert rollup_from(chunk_of([(HOUR_MS - 4000, 1.0, None)])).covered_ms == 4000

    def test_a_suspect_reading_counts_for_nothing_and_ends_what_was_live(self) -> None:
        rows: list[Row] = [(0, 10.0, None), (5000, 9999.0, None), (10_000, 20.0, None)]
        rollup = rollup_from(chunk_of(rows, suspect=[1]))
        assert (rollup.samples, rollup.max_kw, rollup.covered_ms) == (2, 20.0, 35_000)

    def test_a_reading_without_power_covers_but_does_not_weigh(self) -> None:
        rollup = rollup_from(chunk_of([(0, 10.0, None), (5000, None, None), (10_000, 10.0, None)]))
        assert (rollup.samples, rollup.covered_ms, rollup.mean_kw) == (3, 40_000, 10.0)

    def test_the_last_reading_of_an_era_covers_nothing(self) -> None:
        rollup = rollup_from(
            chunk_of([(0, 10.0, None), (5000, 10.0, None)]),
            chunk_of([(20_000, 40.0, None)], era=2),
        )
        assert rollup.covered_ms == 35_000
        assert rollup.mean_kw == pytest.approx((10 * 5 + 40 * 30) / 35)

    def test_time_that_passed_twice_by_the_clock_covers_once(self) -> None:
        rollup = rollup_from(
            chunk_of(every_5_s(721, 10.0)), chunk_of(every_5_s(361, 20.0, 1_800_000), era=2)
        )
        assert rollup.coverage == 1.0
        assert rollup.samples == 1080
        assert rollup.mean_kw == pytest.approx((10 * 60 + 20 * 30) / 90)

    def test_what_reaches_into_the_hour_and_passed_twice_covers_once(self) -> None:
        rollup = rollup_from(
            chunk_of([(-5000, 10.0, None), (60_000, 10.0, None)]),
            chunk_of([(-5000, 20.0, None), (60_000, 20.0, None)], era=2),
        )
        assert rollup.covered_ms == 25_000 + 30_000
        assert rollup.mean_kw == pytest.approx((10 * 25 + 20 * 55) / 80)

    def test_a_clock_that_goes_back_within_an_era_ends_what_was_live(self) -> None:
        rows: list[Row] = [(0, 10.0, None), (20_000, 99.0, None), (10_000, 40.0, None)]
        rollup = rollup_from(chunk_of([*rows, (25_000, 0.0, None)]))
        assert (rollup.samples, rollup.covered_ms) == (4, 55_000)
        assert rollup.mean_kw == pytest.approx((10 * 20 + 40 * 15 + 0 * 30) / 65)

    def test_nothing_is_none(self) -> None:
        assert hour_from() == Hour(None, (), pending=False)
        assert hourly(START_MS, HOUR_MS, [chunk_of([])], 9.0) == hour_from()
        assert hour_from(chunk_of([(-MINUTE_MS, 5.0, None)])).rollup is None
        assert hour_from(chunk_of([(5000, 5.0, 1.0)], suspect=[0])).rollup is None


class TestEnergy:
    def test_the_part_of_a_rise_that_lies_in_the_hour_counts(self) -> None:
        rollup = rollup_from(
            chunk_of([(-2000, 10.0, 100.0)]),
            chunk_of([(8000, 10.0, 100.05), (HOUR_MS - 4000, 10.0, 109.05)]),
            chunk_of([(HOUR_MS + 1000, 10.0, 109.1)]),
        )
        assert rollup.energy_kwh == pytest.approx(0.04 + 9.0 + 0.04)
        assert rollup.energy_source is EnergySource.COUNTER
        assert rollup.interpolated_kwh == pytest.approx(9.0)

    def test_what_flowed_in_an_outage_is_spread_over_the_hours_without_readings(self) -> None:
        rollup = rollup_from(
            chunk_of([(-HOUR_MS, 10.0, 100.0)]), chunk_of([(3 * HOUR_MS, 10.0, 180.0)])
        )
        assert rollup.energy_kwh == rollup.interpolated_kwh == pytest.approx(20.0)
        assert (rollup.samples, rollup.coverage) == (0, 0.0)
        assert (rollup.mean_kw, rollup.min_kw, rollup.max_kw) == (None, None, None)

    def test_a_counter_that_stands_still_is_known_to_be_0(self) -> None:
        rollup = rollup_from(chunk_of(every_5_s(100, 0.0, kwh=55.0)))
        assert rollup.energy_kwh == 0.0
        assert rollup.energy_source is EnergySource.COUNTER

    def test_without_a_counter_it_is_the_integral_over_covered_time(self) -> None:
        rollup = rollup_from(chunk_of([(0, 36.0, None), (600_000, 72.0, None)]))
        assert rollup.energy_kwh == pytest.approx(36 * 30 / 3600 + 72 * 30 / 3600)
        assert rollup.energy_source is EnergySource.INTEGRAL
        assert rollup.interpolated_kwh == 0.0

    def test_a_counter_that_was_read_once_tells_nothing(self) -> None:
        rollup = rollup_from(chunk_of([(0, 36.0, 5.0), (5000, 36.0, None)]))
        assert (rollup.energy_kwh, rollup.energy_source) == (None, None)

    def test_a_suspect_reading_of_the_counter_is_left_out(self) -> None:
        rows: list[Row] = [(0, 1.0, 100.0), (5000, 1.0, 100.1), (10_000, 1.0, 100.02)]
        hour = hour_from(chunk_of(rows, suspect=[1]))
        assert hour.rollup is not None
        assert hour.rollup.energy_kwh == pytest.approx(0.02)
        assert hour.corrections == []

    def test_export_has_a_counter_of_its_own(self) -> None:
        rows = chunk_of(every_5_s(3, 1.0))
        chunk = replace(rows, values={**rows.values, "energyExport": [7.0, 7.02, 7.05]})
        rollup = rollup_from(chunk)
        assert rollup.export_kwh == pytest.approx(0.05)
        assert rollup.energy_source is EnergySource.INTEGRAL
        assert rollup_from(rows).export_kwh is None

    def test_the_clock_being_set_from_1970_adds_none(self) -> None:
        boot = replace(chunk_of(every_5_s(10, 36.0, kwh=100.0)), unix_ms=range(0, 50_000, 5000))
        rows = chunk_of(every_5_s(10, 36.0, kwh=100.55), era=2)
        assert rollup_from(boot, rows).energy_kwh == pytest.approx(0.45)
        for start_ms in (0, 20 * 365 * 24 * HOUR_MS, START_MS - HOUR_MS):
            rollup = hourly(start_ms, HOUR_MS, [boot, rows], 200.0).rollup
            assert (rollup.energy_kwh if rollup else 0.0) == pytest.approx(
                0.45 if start_ms == 0 else 0.0
            )

    def test_a_boot_that_goes_on_after_the_clock_was_put_forward(self) -> None:
        chunks = [chunk_of([(0, 1.0, 100.0)]), chunk_of([(1_800_000, 1.0, 110.0)], era=2)]
        apart = hourly(START_MS, HOUR_MS, chunks, 200.0, {1: "a", 2: "b"})
        same = hourly(START_MS, HOUR_MS, chunks, 200.0, {1: "a", 2: "a"})
        assert apart.rollup is not None
        assert apart.rollup.energy_kwh == pytest.approx(10.0)
        assert same.rollup is not None
        assert same.rollup.energy_kwh is None

    def test_what_is_possible_comes_from_the_registration_or_else_from_the_site(self) -> None:
        rows: list[Row] = [(0, 1.0, 100.0), *((HOUR_MS + ms, 1.0, 250.0) for ms in (0, 1, 2))]
        unknown = replace(GRID, max_power_kw=None)
        assert rollup_from(chunk_of(rows, series=unknown)).energy_kwh == pytest.approx(150.0)
        assert rollup_from(chunk_of(rows)).energy_kwh is None

    def test_the_meters_own_power_counts_as_possible(self) -> None:
        rows = every_5_s(720, 300.0, kwh=100.0)
        assert rollup_from(chunk_of(rows)).energy_kwh == pytest.approx(300.0, rel=0.01)
        rows = [(ms, None, kwh) for ms, _, kwh in rows]
        hour = hour_from(chunk_of(rows))
        assert hour.rollup is not None
        assert hour.rollup.energy_kwh == pytest.approx(0.42, abs=0.01), "that much is lent once"
        assert [correction.kind for correction in hour.corrections] == [Kind.TOO_FAST]


class TestCorrections:
    RESET = tuple(every_5_s(12, 36.0, -60_000, 500.0)), tuple(every_5_s(12, 36.0, 0, 0.0))

    def test_it_belongs_to_the_hour_in_which_the_new_value_was_read(self) -> None:
        chunks = [chunk_of(rows) for rows in self.RESET]
        hour = hour_from(*chunks)
        assert [correction.kind for correction in hour.corrections] == [Kind.RESET]
        assert hour_from(*chunks, start_ms=START_MS - HOUR_MS).corrections == []

    def test_an_hour_is_pending_until_its_end_is_decided(self) -> None:
        before, inside = (chunk_of(rows) for rows in self.RESET)
        assert hour_from(before, inside).pending
        assert not hour_from(before, inside, start_ms=START_MS - HOUR_MS).pending
        two_readings = chunk_of(self.RESET[1][:2])
        waiting = hour_from(before, two_readings, start_ms=START_MS - HOUR_MS)
        assert waiting.pending
        assert waiting.rollup is not None
        assert waiting.rollup.energy_kwh == pytest.approx(0.55)

    def test_without_a_counter_it_is_pending_until_the_next_reading(self) -> None:
        rows = chunk_of(every_5_s(720, 1.0))
        assert hour_from(rows).pending
        assert not hour_from(rows, chunk_of(every_5_s(1, 1.0, HOUR_MS))).pending


def utc(text: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 1000


BERLIN = ZoneInfo("Europe/Berlin")
KOLKATA = ZoneInfo("Asia/Kolkata")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
HAVANA = ZoneInfo("America/Havana")


class TestLocalTime:
    @pytest.mark.parametrize(
        ("zone", "moment", "start", "minutes"),
        [
            (timezone.utc, "2026-05-01T10:20:30", "2026-05-01T10:00:00", 60),
            (BERLIN, "2026-05-01T10:20:30", "2026-05-01T10:00:00", 60),
            (KOLKATA, "2026-05-01T10:20:30", "2026-05-01T09:30:00", 60),
            # 02:00 to 03:00 twice.
            (BERLIN, "2026-10-25T00:59:59", "2026-10-25T00:00:00", 60),
            (BERLIN, "2026-10-25T01:00:00", "2026-10-25T01:00:00", 60),
            # From 02:00 put back to 01:30, so 01:00 to 02:00, and then 01:30 to 02:00.
            (LORD_HOWE, "2026-04-04T14:59:59", "2026-04-04T14:00:00", 60),
            (LORD_HOWE, "2026-04-04T15:00:00", "2026-04-04T15:00:00", 30),
            (LORD_HOWE, "2026-04-04T15:30:00", "2026-04-04T15:30:00", 60),
            # From 02:00 put forward to 02:30.
            (LORD_HOWE, "2026-10-03T15:29:59", "2026-10-03T14:30:00", 60),
            (LORD_HOWE, "2026-10-03T15:30:00", "2026-10-03T15:30:00", 30),
            (LORD_HOWE, "2026-10-03T16:00:00", "2026-10-03T16:00:00", 60),
        ],
    )
    def test_hours(self, zone: tzinfo, moment: str, start: str, minutes: int) -> None:
        assert hour_of(utc(moment), zone) == (utc(start), minutes * MINUTE_MS)

    @pytest.mark.parametrize(
        ("zone", "moment", "start", "hours"),
        [
            (timezone.utc, "2026-05-01T10:20:30", "2026-05-01T00:00:00", 24.0),
            (BERLIN, "2026-05-01T22:00:00", "2026-05-01T22:00:00", 24.0),
            (BERLIN, "2026-05-01T21:59:59", "2026-04-30T22:00:00", 24.0),
            (BERLIN, "2026-03-29T12:00:00", "2026-03-28T23:00:00", 23.0),
            (BERLIN, "2026-10-25T12:00:00", "2026-10-24T22:00:00", 25.0),
            (KOLKATA, "2026-05-01T10:20:30", "2026-04-30T18:30:00", 24.0),
            (LORD_HOWE, "2026-04-05T01:00:00", "2026-04-04T13:00:00", 24.5),
            (LORD_HOWE, "2026-10-04T01:00:00", "2026-10-03T13:30:00", 23.5),
            # The day begins at 01:00.
            (HAVANA, "2026-03-08T12:00:00", "2026-03-08T05:00:00", 23.0),
            (HAVANA, "2026-03-08T04:59:59", "2026-03-07T05:00:00", 24.0),
        ],
    )
    def test_days(self, zone: tzinfo, moment: str, start: str, hours: float) -> None:
        assert day_of(utc(moment), zone) == (utc(start), hours * HOUR_MS)

    @given(
        unix_ms=st.integers(utc("2000-01-01T00:00:00"), utc("2037-01-01T00:00:00")),
        zone=st.sampled_from(
            [BERLIN, KOLKATA, LORD_HOWE, HAVANA]
            + [ZoneInfo(name) for name in ("Asia/Beirut", "Atlantic/Azores", "Asia/Kathmandu")]
        ),
    )
    def test_hours_fill_the_day(self, unix_ms: int, zone: ZoneInfo) -> None:
        day_ms, length_ms = day_of(unix_ms, zone)
        assert day_ms <= unix_ms < day_ms + length_ms
        reached_ms = day_ms
        while reached_ms < day_ms + length_ms:
            hour_ms, hour_length_ms = hour_of(reached_ms, zone)
            assert hour_ms == reached_ms
            assert 0 < hour_length_ms <= HOUR_MS
            assert hour_of(hour_ms + hour_length_ms - 1, zone) == (hour_ms, hour_length_ms)
            reached_ms += hour_length_ms
        assert reached_ms == day_ms + length_ms


def hour_with(**changes: object) -> Rollup:
    plain = Rollup(
        GRID, Resolution.HOURLY, START_MS, HOUR_MS,
        mean_kw=10.0, min_kw=5.0, max_kw=20.0, energy_kwh=10.0, energy_source=EnergySource.COUNTER,
        interpolated_kwh=0.0, export_kwh=None, samples=720, covered_ms=HOUR_MS,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


class TestDay:
    DAY_MS = 24 * HOUR_MS

    def test_hours_add_up(self) -> None:
        day = daily(
            START_MS,
            self.DAY_MS,
            [
                hour_with(export_kwh=1.5),
                hour_with(mean_kw=40.0, max_kw=50.0, covered_ms=HOUR_MS // 2, samples=360),
                hour_with(energy_kwh=3.0, interpolated_kwh=3.0, mean_kw=None, min_kw=None,
                          max_kw=None, covered_ms=0, samples=0),
            ],
        )  # fmt: skip
        assert day == Rollup(
            GRID, Resolution.DAILY, START_MS, self.DAY_MS,
            mean_kw=20.0, min_kw=5.0, max_kw=50.0, energy_kwh=23.0,
            energy_source=EnergySource.COUNTER, interpolated_kwh=3.0, export_kwh=1.5, samples=1080,
            covered_ms=HOUR_MS * 3 // 2,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("sources", "source"),
        [
            ([EnergySource.INTEGRAL, EnergySource.COUNTER], EnergySource.COUNTER),
            ([EnergySource.INTEGRAL, None], EnergySource.INTEGRAL),
            ([None, None], None),
        ],
    )
    def test_its_source(
        self, sources: list[EnergySource | None], source: EnergySource | None
    ) -> None:
        hours = [
            hour_with(energy_source=each, energy_kwh=None if each is None else 1.0)
            for each in sources
        ]
        day = daily(START_MS, self.DAY_MS, hours)
        assert day is not None
        assert day.energy_source is source
        assert (day.energy_kwh is None) == (source is None)

    def test_without_hours_there_is_none(self) -> None:
        assert daily(START_MS, self.DAY_MS, []) is None


STEPS = st.lists(
    st.tuples(st.integers(1, 7_200_000), st.floats(0.0, 100.0)), min_size=2, max_size=30
)
"""Time to the next reading in ms, and the power until then in kW."""


def site_run(steps: list[tuple[int, float]]) -> list[Row]:
    """Readings of a meter whose counter is exact."""
    rows: list[Row] = []
    now_ms, kwh = 0, 5000.0
    for elapsed_ms, power_kw in steps:
        rows.append((now_ms, power_kw, kwh))
        now_ms += elapsed_ms
        kwh += power_kw * elapsed_ms / HOUR_MS
    return rows


def hours_of(rows: Sequence[Row], context: int = 3) -> list[Rollup]:
    """All hours of a run, each from its own readings and a few around it."""
    rollups = []
    for start_ms in range(0, rows[-1][0] + HOUR_MS, HOUR_MS):
        first, last = (
            sum(ms < limit_ms for ms, _, _ in rows) for limit_ms in (start_ms, start_ms + HOUR_MS)
        )
        parts = rows[max(0, first - context) : first], rows[first:last], rows[last : last + context]
        chunks = [chunk_of(part) for part in parts if part]
        hour = hourly(START_MS + start_ms, HOUR_MS, chunks, 200.0)
        if hour.rollup is not None:
            rollups.append(hour.rollup)
    return rollups


@given(STEPS)
def test_hours_give_what_the_counter_rose_by(steps: list[tuple[int, float]]) -> None:
    rows = site_run(steps)
    rollups = hours_of(rows)
    first, last = rows[0][2], rows[-1][2]
    assert first is not None
    assert last is not None
    day = daily(START_MS, len(rollups) * HOUR_MS, rollups)
    assert day is not None
    assert day.energy_kwh == pytest.approx(last - first, abs=1e-6)
    assert day.samples == len(rows)
    assert 0.0 <= day.interpolated_kwh <= last - first + 1e-6
    assert all(one.start_ms < other.start_ms for one, other in pairwise(rollups))


@given(STEPS)
def test_an_hour_is_within_its_limits(steps: list[tuple[int, float]]) -> None:
    powers = [power for _, power in steps]
    for rollup in hours_of(site_run(steps)):
        assert 0 <= rollup.covered_ms <= rollup.length_ms
        assert rollup.energy_kwh is None or -1e-9 <= rollup.energy_kwh <= 100.0 + 1e-6
        if rollup.mean_kw is not None:
            assert min(powers) - 1e-9 <= rollup.mean_kw <= max(powers) + 1e-9
        assert (rollup.samples == 0) == (rollup.min_kw is None)


@given(STEPS)
def test_the_integral_is_never_more_than_the_counter_tells(steps: list[tuple[int, float]]) -> None:
    rows = site_run(steps)
    with_counter = [rollup for rollup in hours_of(rows) if rollup.energy_kwh is not None]
    without = hours_of([(ms, power, None) for ms, power, _ in rows])
    counted = sum(rollup.energy_kwh or 0.0 for rollup in with_counter)
    integral = sum(rollup.energy_kwh or 0.0 for rollup in without)
    after_the_end = steps[-1][1] * GRID.stale_after_ms / HOUR_MS
    assert integral <= counted + after_the_end + 1e-6
    for rollup in without:
        if rollup.mean_kw is not None:
            assert rollup.energy_kwh == pytest.approx(rollup.mean_kw * rollup.covered_ms / HOUR_MS)


@given(
    at_s=st.lists(st.integers(30, 3 * 3600 - 30), max_size=8),
    wrong=st.sampled_from([0.0, 77_777.0, 4_294_967.295]),
)
def test_a_glitch_changes_no_hour(at_s: list[int], wrong: float) -> None:
    rows = [(index * 10_000, 36.0, 5000.0 + index / 10) for index in range(3 * 360 + 1)]
    shown: list[Row] = list(rows)
    for index in sorted({second // 10 for second in (*at_s, 3600, 7190)}):
        if shown[index - 1] == rows[index - 1] and shown[index - 2] == rows[index - 2]:
            shown[index] = (rows[index][0], 36.0, wrong)
    for rollup in hours_of(shown, context=360):
        if rollup.start_ms < START_MS + 3 * HOUR_MS:
            assert rollup.energy_kwh == pytest.approx(36.0, abs=1e-6)


def test_a_new_meter_at_a_full_hour_counts_in_both_hours() -> None:
    old = [(index * 10_000, 36.0, 5000.0 + index / 10) for index in range(361)]
    new = [(HOUR_MS + index * 10_000, 36.0, 900.0 + index / 10) for index in range(1, 361)]
    first, second, _ = hours_of([*old, *new])
    assert first.energy_kwh == pytest.approx(36.0)
    # What flowed between the last reading of the one and the first of the other is unknown.
    assert second.energy_kwh == pytest.approx(36.0 - 0.1)
