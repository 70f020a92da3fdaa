"""The site's past: steps of power against a count of every millisecond, sums that stay honest."""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta, timezone
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.analytics import (
    Column,
    Slots,
    available,
    cost,
    energy_of_meter,
    energy_of_site,
    peak,
    sum_of_known,
    summed,
)
from edge.api import Request
from edge.api import readers as readers_module
from edge.api.analytics import MOST_POINTS, USUAL_POINTS, AnalyticsAnswers, SiteRates
from edge.api.hours import KEPT_S
from edge.api.readers import TURNS, Readers
from edge.counting import Part
from edge.errors import RequestError
from edge.journal.history import History
from edge.journal.merge import given as as_part
from edge.journal.merge import merged
from edge.load import load_status
from edge.model import (
    CONSUMING_TYPES,
    PRODUCING_TYPES,
    Meter,
    MeterState,
    Reading,
    Snapshot,
    Status,
)
from edge.record import Chunk, EnergySource, Resolution, Series
from edge.rollup import daily, hourly
from edge.steps import Grid, steps
from tests.building import FakeClock, a_meter
from tests.journals import HOUR_MS, START_MS, WrittenJournal, a_rollup, a_series

DAY_MS = 24 * HOUR_MS
MINUTE_MS = 60_000
NOTHING_TO_GIVE = load_status([], 500.0, 0.0)


# --- Steps ---------------------------------------------------------------------------------------

Sample = tuple[int, float | None, bool]
"""Milliseconds after the one before, kW, suspect."""

ERAS = st.lists(
    st.tuples(
        st.integers(-40, 60),  # where it begins, after the end of the one before
        st.integers(1, 30),  # stale after
        st.lists(
            st.tuples(
                st.integers(0, 25),
                st.none() | st.integers(-50, 50).map(float),
                st.sampled_from((False, False, False, True)),
            ),
            min_size=1,
            max_size=12,
        ),
    ),
    min_size=1,
    max_size=3,
)


def chunks_of(drawn: Sequence[tuple[int, int, Sequence[Sample]]], cut: int) -> list[Chunk]:
    """Chunks of at most `cut` readings, as the journal has them."""
    chunks, unix_ms, seq = [], 100, 0
    for era, (shift_ms, stale_after_ms, samples) in enumerate(drawn, start=1):
        unix_ms = max(0, unix_ms + shift_ms)
        series = a_series(stale_after_ms=stale_after_ms)
        rows = []
        for after_ms, kw, suspect in samples:
            unix_ms, seq = unix_ms + after_ms, seq + 1
            rows.append((seq, unix_ms, kw, suspect))
        for start in range(0, len(rows), cut):
            seqs, times, column, suspects = zip(*rows[start : start + cut], strict=True)
            values = {"power": list(column)} if any(kw is not None for kw in column) else {}
            chunks.append(Chunk(series, era, list(seqs), list(times), values, list(suspects)))
    return chunks


def counted(chunks: Sequence[Chunk], grid: Grid, now_ms: int) -> list[tuple[object, ...]]:
    """The same as `steps`, counted millisecond by millisecond."""
    held: list[tuple[int, int, float | None]] = []
    for era in {chunk.era for chunk in chunks}:
        readings = [
            (unix_ms, None if suspect or not chunk.values else chunk.values["power"][index])
            for chunk in chunks
            if chunk.era == era
            for index, (unix_ms, suspect) in enumerate(
                zip(chunk.unix_ms, chunk.suspect, strict=True)
            )
        ]
        stale_ms = next(chunk.series.stale_after_ms for chunk in chunks if chunk.era == era)
        for (unix_ms, kw), (next_ms, _) in pairwise(readings):
            held.append((unix_ms, min(next_ms, unix_ms + stale_ms), kw))
        last_ms, kw = readings[-1]
        is_newest = era == max(chunk.era for chunk in chunks)
        held.append((last_ms, min(last_ms + stale_ms, now_ms) if is_newest else last_ms, kw))
    found: list[tuple[object, ...]] = []
    for number in range(grid.count):
        begin_ms = grid.start_ms(number)
        inside = range(begin_ms, begin_ms + grid.step_ms)
        moments = [
            kw
            for unix_ms, until_ms, kw in held
            if kw is not None
            for ms in inside
            if unix_ms <= ms < until_ms
        ]
        taken = [kw for unix_ms, _, kw in held if kw is not None and unix_ms in inside]
        if moments or taken:
            every = moments + taken
            found.append((begin_ms, sum(moments), len(moments), min(every), max(every), len(taken)))
    return found


@settings(max_examples=300, deadline=None)
@given(ERAS, st.integers(1, 5), st.integers(5, 60), st.integers(0, 250), st.integers(0, 400))
def test_steps_are_what_held_in_each_millisecond(
    drawn: list[tuple[int, int, list[Sample]]], cut: int, step_ms: int, begin_ms: int, now_ms: int
) -> None:
    chunks = chunks_of(drawn, cut)
    grid = Grid.around(begin_ms, begin_ms + 200, step_ms)
    parts = sorted(map(as_part, chunks), key=lambda part: part.from_ms)
    reduced = list(steps(merged(parts, (0, 0), (10**6, 0)), grid, now_ms))
    assert [
        (one.start_ms, round(one.kw_ms, 6), one.weight_ms, one.min_kw, one.max_kw, one.samples)
        for one in reduced
    ] == counted(chunks, grid, now_ms)


@given(st.integers(-1000, 1000), st.integers(0, 1000), st.integers(1, 300), st.integers(-99, 99))
def test_a_grid_covers_what_is_asked_and_no_step_more(
    from_ms: int, span_ms: int, step_ms: int, origin_ms: int
) -> None:
    grid = Grid.around(from_ms, from_ms + span_ms, step_ms, origin_ms)
    assert (grid.begin_ms - origin_ms) % step_ms == 0
    assert from_ms - step_ms < grid.begin_ms <= from_ms
    if span_ms:
        assert from_ms + span_ms <= grid.end_ms < from_ms + span_ms + step_ms


def test_steps_are_given_away_as_they_are_done_also_after_a_restart() -> None:
    def chunk(number: int) -> Chunk:
        times = [number * HOUR_MS + index * 5000 for index in range(720)]
        series = a_series(stale_after_ms=15_000)
        return Chunk(series, 1 + number // 3, times, times, {"power": [5.0] * 720}, [False] * 720)

    taken: list[int] = []

    def chunks() -> Iterator[Chunk]:
        for number in range(9):
            taken.append(number)
            yield chunk(number)

    given_away = []
    for step in steps(chunks(), Grid(0, 600_000, 54), 9 * HOUR_MS):
        given_away.append(step)
        assert len(taken) * HOUR_MS - step.start_ms <= 4 * HOUR_MS
    assert len(given_away) == 54
    # The last reading before a restart covers nothing.
    assert [step.weight_ms for step in given_away].count(595_000) == 2


def test_a_number_that_is_no_power_is_unknown() -> None:
    kw = [1.0, float("nan"), float("inf"), 1e300, 3.0]
    chunk = Chunk(a_series(), 1, [1, 2, 3, 4, 5], [0, 10, 20, 30, 40], {"power": kw}, [False] * 5)
    (step,) = steps([chunk], Grid(0, 50, 1), 50)
    assert (step.mean_kw, step.min_kw, step.max_kw, step.samples) == (2.0, 1.0, 3.0, 2)


# --- The site ------------------------------------------------------------------------------------

KW = st.none() | st.integers(-100, 100).map(float)
STEPS = st.lists(
    st.tuples(st.sampled_from((0.0, 0.25, 1.0)), KW, st.booleans()), min_size=4, max_size=4
)
METERS = st.lists(
    st.tuples(st.sampled_from(("grid", "building", "solar")), st.none() | st.just(80.0), STEPS),
    max_size=4,
)
_Drawn = list[tuple[str, "float | None", list[tuple[float, "float | None", bool]]]]


def columns_of(drawn: _Drawn) -> list[Column]:
    return [
        Column(
            a_meter(meterType=type_, maxPower=max_kw),
            [share for share, _, _ in rows],
            [kw for _, kw, _ in rows],
            [kw for _, kw, _ in rows],
            [whole and kw is not None for _, kw, whole in rows],
        )
        for type_, max_kw, rows in drawn
    ]


@given(METERS)
def test_a_sum_without_one_of_its_parts_is_unknown(drawn: _Drawn) -> None:
    columns = columns_of(drawn)
    for number, value in enumerate(summed(columns, 4)):
        row = [(one.shares[number], one.mean_kw[number]) for one in columns if one.shares[number]]
        if not row or any(kw is None for _, kw in row):
            assert value is None
        else:
            assert value == pytest.approx(sum(share * (kw or 0.0) for share, kw in row))


@given(METERS)
def test_available_is_what_the_load_status_would_have_said(drawn: _Drawn) -> None:
    columns = columns_of(drawn)
    found = list(available(columns, 4, 500.0, 20.0))
    for number in range(4):
        there = [column for column in columns if column.shares[number]]
        if all(column.worst_kw[number] is None for column in there):
            assert found[number] is None
        else:
            states = [_failed_or_live(column, number) for column in there]
            assert found[number] == load_status(states, 500.0, 20.0).available_kw


def _failed_or_live(column: Column, number: int) -> MeterState:
    """A meter that has failed keeps the worst that is known since it was last whole."""
    kw = column.worst_kw[number]
    if column.whole[number] and kw is not None:
        return MeterState(
            column.meter, 0.0, Status.ONLINE, Reading({"power": kw}, 0.0, 0), None, kw
        )
    since: list[float] = []
    for index in range(number + 1):
        known = column.worst_kw[index] if column.shares[index] else None
        if known is not None:
            since = [known] if column.whole[index] else [*since, known]
    worst = min if column.meter.meter_type == "solar" else max
    last_kw = worst(since, default=None)
    return MeterState(column.meter, status=Status.ERROR, last_power_kw=last_kw)


# --- Energy --------------------------------------------------------------------------------------


def test_hours_and_days_are_those_of_the_site_s_clock() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    autumn_ms = 1_761_429_600_000  # 2025-10-26T00:00+02:00, a day of 25 hours
    days = Slots.between(autumn_ms, autumn_ms + DAY_MS + HOUR_MS, Resolution.DAILY, berlin)
    assert days.starts_ms == [autumn_ms, autumn_ms + 25 * HOUR_MS]
    hours = Slots.between(autumn_ms + 1, autumn_ms + 25 * HOUR_MS, Resolution.HOURLY, berlin)
    assert len(hours) == 25
    india = timezone(timedelta(hours=5, minutes=30))
    (start_ms, _) = Slots.between(START_MS, START_MS + 1, Resolution.HOURLY, india).starts_ms
    assert start_ms == START_MS - HOUR_MS // 2


FOUR_HOURS = Slots([START_MS + number * HOUR_MS for number in range(5)])
LATER_MS = START_MS + DAY_MS
ALWAYS = Part(a_meter(), 0, [(0, 2**62)])


def test_energy_of_a_meter_hour_by_hour() -> None:
    rows = [
        a_rollup(START_MS, energy_kwh=1.4),
        a_rollup(
            START_MS + HOUR_MS, energy_kwh=0.2, energy_source=EnergySource.INTEGRAL, covered_ms=9
        ),
        a_rollup(START_MS + 2 * HOUR_MS, energy_kwh=2.0, covered_ms=9),
    ]
    found = energy_of_meter(rows, FOUR_HOURS, LATER_MS, ALWAYS)
    assert found.kwh == [1.4, None, 2.0, None]
    assert found.mean_kw == [1.5, None, None, None]
    assert found.partial == [True, True, True, True]  # 90 %, next to nothing, and nothing
    assert (found.total_kwh, found.total_is_partial) == (3.4, True)


def test_energy_that_was_measured_whole_is_not_partial() -> None:
    rows = [a_rollup(start_ms, covered_ms=HOUR_MS) for start_ms in FOUR_HOURS.starts_ms[:-1]]
    found = energy_of_meter(rows, FOUR_HOURS, LATER_MS, ALWAYS)
    assert found.partial == [False] * 4
    assert (found.total_kwh, found.total_is_partial) == (5.6, False)
    today = Slots([START_MS, START_MS + DAY_MS])
    day = a_rollup(START_MS, Resolution.DAILY, covered_ms=2 * HOUR_MS)
    found = energy_of_meter([day], today, START_MS + 3 * HOUR_MS, ALWAYS)
    assert (found.kwh, found.mean_kw, found.partial) == ([1.4], [1.5], [True])


def test_the_site_s_energy_is_unknown_where_a_meter_s_is() -> None:
    whole = [a_rollup(start_ms, covered_ms=HOUR_MS) for start_ms in FOUR_HOURS.starts_ms[:-1]]
    one = energy_of_meter(whole, FOUR_HOURS, LATER_MS, ALWAYS)
    other = energy_of_meter(whole[:2], FOUR_HOURS, LATER_MS, ALWAYS)
    site = energy_of_site([one, other], 4)
    assert site.kwh == [2.8, 2.8, None, None]
    assert site.partial == [False, False, True, True]
    assert peak(site.mean_kw, FOUR_HOURS) == (3.0, START_MS)
    nobody = energy_of_site([], 4)
    assert (nobody.kwh, nobody.partial, nobody.total_kwh) == ([None] * 4, [True] * 4, None)
    assert peak(nobody.mean_kw, FOUR_HOURS) is None


def test_cost_needs_a_price_and_pays_nothing_back() -> None:
    assert cost(10.0, 0.3) == 3.0
    assert cost(10.0, None) is None
    assert cost(None, 0.3) is None
    assert cost(-5.0, 0.3) == 0.0
    assert sum_of_known([None, 1.0, 2.0]) == 3.0
    assert sum_of_known([None]) is None


# --- The calls -----------------------------------------------------------------------------------


class Past:
    """A journal, the meters that are registered now, and who answers for both."""

    def __init__(self, journal: WrittenJournal) -> None:
        self.journal = journal
        self.clock = FakeClock(unix_ms=START_MS + 4 * HOUR_MS)
        self.rates = SiteRates(timezone.utc, 500.0, 0.0, 0.25, "EUR")
        self.meters: list[Meter] = []
        self.answers = AnalyticsAnswers(Readers(journal.path), lambda: self.rates, self.clock)
        self.seq = 1

    def add(self, meter_type: str = "grid", **changes: Any) -> Meter:
        meter = a_meter(f"M{len(self.meters)}", meterType=meter_type, pollInterval=5000, **changes)
        self.meters.append(meter)
        return meter

    def record(
        self,
        meter: Meter,
        begin_ms: int,
        end_ms: int,
        kw: float,
        *,
        every_ms: int = 5000,
        **of: Any,
    ) -> None:
        """Commit readings of a meter; `of` changes its series."""
        series = a_series(
            meter.id, **{"stale_after_ms": 15_000, "meter_type": meter.meter_type, **of}
        )
        for hour in range(begin_ms // HOUR_MS, -(-end_ms // HOUR_MS)):
            times = range(
                max(begin_ms, hour * HOUR_MS), min(end_ms, (hour + 1) * HOUR_MS), every_ms
            )
            rows = [(self.seq + n, unix_ms, {"power": kw}) for n, unix_ms in enumerate(times)]
            self.seq += len(rows)
            self.journal.add_block(series, rows)

    def snapshot(self) -> Snapshot:
        meters = {meter.id: MeterState(meter) for meter in self.meters}
        mono_s, unix_ms = self.clock.mono_s(), self.clock.unix_ms()
        return Snapshot(1, mono_s, unix_ms, NOTHING_TO_GIVE, meters)

    def power(self, **query: object) -> dict[str, Any]:
        return dict(self.answers.power(_request(query), self.snapshot()))

    def energy(self, **query: object) -> dict[str, Any]:
        return dict(self.answers.energy(_request(query), self.snapshot()))


def _request(query: dict[str, object]) -> Request:
    # `from` is a word of the language.
    words = {name.rstrip("_"): str(value) for name, value in query.items()}
    return Request("GET", "/", words, {}, b"")


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    with WrittenJournal(tmp_path) as journal:
        yield Past(journal)


def test_the_curve_of_a_site(past: Past) -> None:
    grid, roof, shed = past.add(), past.add("solar"), past.add("zone")
    past.record(grid, START_MS, START_MS + HOUR_MS, 40.0)
    past.record(roof, START_MS, START_MS + 2 * HOUR_MS, 10.0)
    past.record(shed, START_MS, START_MS + HOUR_MS, 5.0)
    curve = past.power(from_=START_MS, to=START_MS + 3 * HOUR_MS, step=1800)
    assert curve == {
        "from": "2025-10-20T10:00:00.000Z",
        "step": 1800,
        "consumption": [40.0, 40.0, None, None, None, None],
        "production": [10.0, 10.0, 10.0, 10.0, None, None],
        "available": [470.0, 470.0, 0.0, 0.0, 0.0, None],  # the roof held for 10 s of the fifth
    }


def test_a_step_needs_half_of_its_time(past: Past) -> None:
    grid = past.add()
    past.record(grid, START_MS, START_MS + 140_000, 40.0)  # 2.5 of 5 minutes with what it holds
    past.record(grid, START_MS + 300_000, START_MS + 300_000 + 100_000, 40.0)
    curve = past.power(from_=START_MS, to=START_MS + 600_000, step=300)
    assert curve["consumption"] == [40.0, None]
    past.clock.now_unix_ms = START_MS + 300_000 + 110_000  # of which 110 s have passed
    curve = past.power(from_=START_MS, to=START_MS + 600_000, step=300)
    assert curve["consumption"] == [40.0, 40.0]


def test_a_slow_meter_holds_over_short_steps(past: Past) -> None:
    slow = past.add(staleAfter=1_200_000)
    past.record(slow, START_MS, START_MS + HOUR_MS, 7.0, every_ms=600_000, stale_after_ms=1_200_000)
    curve = past.power(from_=START_MS + 2 * MINUTE_MS, to=START_MS + 30 * MINUTE_MS, step=60)
    assert curve["consumption"] == [7.0] * 28


def test_no_solar_meter_measures_no_production(past: Past) -> None:
    past.record(past.add(), START_MS, START_MS + HOUR_MS, 40.0)
    curve = past.power(from_=START_MS, to=START_MS + HOUR_MS, step=3600)
    assert curve["production"] == [None]
    assert curve["available"] == [460.0]


def test_what_a_meter_said_as_another_type_does_not_count(past: Past) -> None:
    meter = past.add("grid")
    past.record(meter, START_MS, START_MS + HOUR_MS, 40.0, meter_type="solar")
    past.record(meter, START_MS + HOUR_MS, START_MS + 2 * HOUR_MS, 40.0, meter_type="building")
    for step in (1800, 3600):
        curve = past.power(from_=START_MS, to=START_MS + 2 * HOUR_MS, step=step)
        half = len(curve["consumption"]) // 2
        assert curve["consumption"] == [None] * half + [40.0] * half


def test_long_steps_come_from_hours_and_what_is_not_summed_up_from_readings(past: Past) -> None:
    meter = past.add()
    series = a_series(meter.id)
    past.journal.add_rollup(
        a_rollup(START_MS, series=series, mean_kw=10.0, covered_ms=HOUR_MS * 3 // 4)
    )
    past.journal.add_rollup(a_rollup(START_MS + HOUR_MS, series=series, mean_kw=20.0))
    past.record(meter, START_MS, START_MS + HOUR_MS, 99.0)  # summed up already
    past.record(meter, START_MS + 2 * HOUR_MS, START_MS + 4 * HOUR_MS, 30.0)
    curve = past.power(from_=START_MS, to=START_MS + 4 * HOUR_MS, step=7200)
    assert curve["consumption"] == [pytest.approx((10 * 0.75 + 20 * 0.9) / 1.65), 30.0]
    past.rates = SiteRates(timezone(timedelta(minutes=330)), 500.0, 0.0, None, "INR")
    curve = past.power(from_=START_MS, to=START_MS + HOUR_MS, step=3600)
    assert curve["from"] == "2025-10-20T09:30:00.000Z"


def test_finished_hours_are_read_once_and_for_some_minutes(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = past.add()
    past.record(meter, START_MS, START_MS + 4 * HOUR_MS, 40.0)
    asked: list[tuple[int, int]] = []
    raw = History.raw

    def counting(self: History, meter_id: str, from_ms: int, to_ms: int) -> Iterator[Chunk]:
        asked.append((from_ms, to_ms))
        return raw(self, meter_id, from_ms, to_ms)

    monkeypatch.setattr(History, "raw", counting)
    span = {"from_": START_MS, "to": START_MS + 4 * HOUR_MS}
    first = past.power(**span)
    assert past.power(**span) == first
    begin_ms = START_MS + 3 * HOUR_MS  # the hour that nothing was seen behind
    assert asked == [
        (START_MS - 15_000, START_MS + 4 * HOUR_MS + 15_000),
        (begin_ms - 15_000, begin_ms + HOUR_MS + 15_000),
    ]
    past.clock.now_mono_s += KEPT_S + 1
    past.power(**span)
    assert asked[2] == asked[0]


def test_what_is_recorded_later_is_not_missed(past: Past) -> None:
    """An hour whose last readings are not on the disk yet is not taken for finished."""
    meter = past.add()
    past.record(meter, START_MS, START_MS + HOUR_MS // 2, 40.0)
    past.clock.now_unix_ms = START_MS + HOUR_MS + MINUTE_MS
    span = {"from_": START_MS, "to": START_MS + HOUR_MS, "step": 1800}
    assert past.power(**span)["consumption"] == [40.0, None]
    past.record(meter, START_MS + HOUR_MS // 2, START_MS + HOUR_MS, 50.0)
    assert past.power(**span)["consumption"] == [40.0, 50.0]


# --- Meters that come, go and change -------------------------------------------------------------


def the_hour(past: Past, **query: object) -> dict[str, Any]:
    """The curve of START's hour in steps of half an hour, and the energy of it."""
    span = {"from_": START_MS, "to": START_MS + HOUR_MS}
    curve, energy = past.power(**span, step=1800), past.energy(**span)
    return {**curve, **energy["site"], "meters": energy["meters"]}


def sum_up(past: Past, meter: Meter, begin_ms: int = START_MS, **of: Any) -> None:
    """Fold a meter's readings of one hour."""
    with History(past.journal.path) as history:
        chunks = list(history.raw(meter.id, 0, 2**62))
    rollup = hourly(begin_ms, HOUR_MS, chunks, 500.0).rollup
    assert rollup is not None
    past.journal.add_rollup(replace(rollup, **of))


def test_a_new_meter_was_no_part_of_the_site_before(past: Past) -> None:
    main, new = past.add(), past.add("building")
    past.record(main, START_MS, START_MS + HOUR_MS, 40.0)
    sum_up(past, main)
    alone = the_hour(past)
    assert (alone["consumption"], alone["available"]) == ([40.0], [460.0, 460.0])
    assert (alone["cost"], alone["totalPartial"]) == ([10.0], False)
    past.record(new, START_MS + 45 * MINUTE_MS, START_MS + HOUR_MS, 10.0)
    sum_up(past, new)
    both = the_hour(past)
    assert past.power(from_=START_MS, to=START_MS + HOUR_MS, step=1800)["consumption"] == [40, 45]
    assert both["available"] == [460.0, 450.0]
    assert both["consumption"] == [42.5]
    assert (both["cost"], both["totalPartial"]) == ([10.625], False)
    past.clock.now_unix_ms = START_MS + 2 * HOUR_MS  # a hole after it stays one
    curve = past.power(from_=START_MS, to=START_MS + 2 * HOUR_MS, step=1800)
    assert curve["consumption"] == [40.0, 45.0, None, None]


def test_a_removed_meter_counts_where_it_was_recorded(past: Past) -> None:
    main, gone = past.add(), past.add("building", maxPower=8.0)
    past.record(main, START_MS, START_MS + 2 * HOUR_MS, 15.0)
    past.record(gone, START_MS, START_MS + 75 * MINUTE_MS, 5.0, max_power_kw=8.0)
    for meter in (main, gone):
        for begin_ms in (START_MS, START_MS + HOUR_MS):
            sum_up(past, meter, begin_ms)
    span = {"from_": START_MS, "to": START_MS + 2 * HOUR_MS}
    before = past.energy(**span)["site"]
    assert before["consumption"] == [20.0, None]  # it was read for a quarter of the second hour
    past.meters.remove(gone)
    curve, energy = past.power(**span, step=1800), past.energy(**span)
    # Its last reading was taken 5 s before, and a millisecond is its own.
    assert curve["consumption"] == [20.0, 20.0, pytest.approx(17.5, abs=0.02), 15.0]
    # Where it ends it counts as failed, with its maxPower.
    assert curve["available"] == [480.0, 480.0, 477.0, 485.0]
    site = energy["site"]
    assert site["consumption"] == [20.0, pytest.approx(16.25, abs=0.02)]
    assert (site["partial"], site["totalPartial"]) == ([False, True], True)
    assert site["cost"] == [5.0, pytest.approx(4.0625, abs=0.005)]
    assert [(one["meterId"], one["registered"]) for one in energy["meters"]] == [
        (main.id, True),
        (gone.id, False),
    ]
    assert energy["meters"][1]["energy"] == [5.0, pytest.approx(1.25, abs=0.02)]
    later = past.energy(from_=START_MS + 2 * HOUR_MS, to=START_MS + 3 * HOUR_MS)
    assert [one["meterId"] for one in later["meters"]] == [main.id]


def test_a_meter_removed_a_moment_ago_counts_until_then(past: Past) -> None:
    """Its last readings are not sealed yet."""
    main, gone = past.add(), past.add("building")
    past.record(main, START_MS, START_MS + HOUR_MS, 15.0)
    series = a_series(gone.id, stale_after_ms=15_000, meter_type="building")
    rows = [(series, (10_000 + n, START_MS + n * 5000, {"power": 5.0})) for n in range(720)]
    past.journal.add_tail(rows)
    past.meters.remove(gone)
    curve = past.power(from_=START_MS, to=START_MS + HOUR_MS, step=1800)
    assert curve["consumption"] == [20.0, pytest.approx(20.0, abs=0.02)]


@pytest.mark.parametrize("change_min", [30, 60])
def test_a_meter_counts_as_what_it_was(change_min: int, past: Past) -> None:
    main, other = past.add(), past.add("building")
    change_ms = START_MS + change_min * MINUTE_MS
    past.record(main, START_MS, START_MS + 2 * HOUR_MS, 20.0)
    past.record(other, START_MS, change_ms, 3.0, meter_type="zone")
    past.record(other, change_ms, START_MS + 2 * HOUR_MS, 3.0)
    for meter in (main, other):
        for begin_ms in (START_MS, START_MS + HOUR_MS):
            sum_up(past, meter, begin_ms)
    span = {"from_": START_MS, "to": START_MS + 2 * HOUR_MS}
    energy, hours = past.energy(**span), past.power(**span, step=3600)
    kwh = [21.5, 23.0] if change_min == 30 else [20.0, 23.0]
    assert energy["site"]["consumption"] == kwh
    assert hours["consumption"] == kwh
    assert hours["available"] == ([477.0, 477.0] if change_min == 30 else [480.0, 477.0])
    assert energy["site"]["partial"] == [False, False]
    assert energy["meters"][1]["energy"] == [3.0, 3.0]  # its own, whatever it was
    halves = past.power(**span, step=1800)["consumption"]
    assert halves == ([20.0, 23.0, 23.0, 23.0] if change_min == 30 else [20.0, 20.0, 23.0, 23.0])


def test_a_day_in_which_a_type_changed_is_made_of_its_hours(past: Past) -> None:
    midnight_ms = START_MS - 10 * HOUR_MS
    past.clock.now_unix_ms = midnight_ms + 2 * DAY_MS
    other = past.add("building")
    hours = []
    for number in range(24):
        series = a_series(other.id, meter_type="zone" if number < 22 else "building")
        hour = a_rollup(
            midnight_ms + number * HOUR_MS,
            series=series,
            energy_kwh=3.0,
            mean_kw=3.0,
            covered_ms=HOUR_MS,
        )
        past.journal.add_rollup(hour)
        hours.append(hour)
    day = daily(midnight_ms, DAY_MS, hours)
    assert day is not None
    past.journal.add_rollup(day)
    span = {"from_": midnight_ms, "to": midnight_ms + DAY_MS}
    # Without readings nobody knows when in its hour it changed: so that hour is unknown.
    hourly_ = past.energy(**span)["site"]
    assert hourly_["consumption"] == [None] * 23 + [3.0]
    site = past.energy(**span, resolution="daily")["site"]
    assert (site["consumption"], site["partial"]) == ([3.0], [True])


def test_what_is_known_only_of_an_hour_begins_in_it(past: Past) -> None:
    main, new = past.add(), past.add("building")
    for meter, covered_ms, kwh in ((main, HOUR_MS, 40.0), (new, HOUR_MS // 4, 2.5)):
        series = a_series(meter.id, meter_type=meter.meter_type)
        row = a_rollup(
            START_MS,
            series=series,
            mean_kw=kwh * HOUR_MS / covered_ms,
            energy_kwh=kwh,
            energy_source=EnergySource.INTEGRAL,
            covered_ms=covered_ms,
        )
        past.journal.add_rollup(row)
    energy = past.energy(from_=START_MS - HOUR_MS, to=START_MS + HOUR_MS)
    assert energy["site"]["consumption"] == [None, 42.5]
    assert energy["site"]["partial"] == [True, True]  # it may have begun before, and failed
    assert energy["peak"]["power"] == 42.5


@pytest.mark.parametrize(("max_kw", "free"), [(None, 0.0), (30.0, 460.0), (60.0, 440.0)])
def test_an_outage_within_a_step_lowers_what_was_free(
    max_kw: float | None, free: float, past: Past
) -> None:
    main = past.add(maxPower=max_kw)
    past.record(main, START_MS, START_MS + 4 * MINUTE_MS, 40.0)
    past.record(main, START_MS + 5 * MINUTE_MS, START_MS + 10 * MINUTE_MS, 20.0)
    curve = past.power(from_=START_MS, to=START_MS + 10 * MINUTE_MS, step=300)
    assert curve["consumption"] == [40.0, 20.0]
    assert curve["available"] == [free, 480.0]


def test_what_was_free_is_the_least_within_a_step(past: Past) -> None:
    main, roof = past.add(), past.add("solar")
    for meter, first_kw, then_kw in ((main, 60.0, 20.0), (roof, 5.0, 15.0)):
        past.record(meter, START_MS, START_MS + MINUTE_MS, first_kw)
        past.record(meter, START_MS + MINUTE_MS, START_MS + 5 * MINUTE_MS, then_kw)
    curve = past.power(from_=START_MS, to=START_MS + 5 * MINUTE_MS, step=300)
    assert (curve["consumption"], curve["production"]) == ([28.0], [13.0])
    assert curve["available"] == [500.0 - 60.0 + 5.0]


def test_what_is_not_on_the_disk_yet_is_no_outage(past: Past) -> None:
    main, slow = past.add(), past.add("building", staleAfter=600_000)
    begin_ms = START_MS + HOUR_MS
    past.record(slow, START_MS, begin_ms + 1, 7.0, every_ms=300_000, stale_after_ms=600_000)
    past.record(main, START_MS, begin_ms + 100_000, 40.0)
    span = {"from_": begin_ms, "to": begin_ms + 300_000, "step": 300}
    past.clock.now_unix_ms = begin_ms + 130_000
    assert past.power(**span)["available"] == [453.0]
    past.clock.now_unix_ms = begin_ms + 290_000
    assert past.power(**span)["available"] == [0.0]
    past.clock.now_unix_ms = begin_ms + 302_000
    span = {"from_": begin_ms + 300_000, "to": begin_ms + 301_000, "step": 300}
    assert past.power(**span)["available"] == [None]


def test_production_says_where_it_is_not_whole(past: Past) -> None:
    main, roof = past.add(), past.add("solar")
    past.record(main, START_MS, START_MS + HOUR_MS, 40.0)
    past.record(roof, START_MS, START_MS + 45 * MINUTE_MS, 10.0)
    for meter in (main, roof):
        sum_up(past, meter)
    site = the_hour(past)
    assert (site["partial"], site["totalPartial"]) == ([False], False)
    assert (site["productionPartial"], site["totalProductionPartial"]) == ([True], True)
    assert site["production"] == [pytest.approx(7.5, abs=0.05)]


def test_a_clock_that_was_never_set_tells_no_beginning(past: Past) -> None:
    main, other = past.add(), past.add("building")
    past.journal.add_era(7, trusted=False)
    series = a_series(other.id, meter_type="building")
    past.journal.add_block(series, [(1, 1000, {"power": 1.0}), (2, 6000, {"power": 1.0})], era=7)
    past.seq = 3
    past.record(main, START_MS, START_MS + HOUR_MS, 40.0)
    assert past.power(from_=START_MS, to=START_MS + HOUR_MS, step=3600)["consumption"] == [40.0]


CELL_MS = 20_000
CELLS = HOUR_MS // CELL_MS
"""Readings come on its multiples, and hold for three of it."""
PHASES = st.lists(
    st.tuples(
        st.sampled_from(("grid", "building", "solar", "zone")),
        st.integers(0, 120),  # cells until it begins
        st.integers(1, 170),  # readings
        st.integers(0, 90).map(float),
    ),
    min_size=1,
    max_size=4,
)
Said = dict[int, tuple[str, float]]
"""Cell → what a meter was then, and its power."""


def said_in(phases: Sequence[tuple[str, int, int, float]]) -> Said:
    said: Said = {}
    cell = 0
    for meter_type, pause, count, kw in phases:
        cell += pause
        said.update(dict.fromkeys(range(cell, cell + count), (meter_type, kw)))
        cell += count
    return {cell: one for cell, one in said.items() if cell < 2 * CELLS}


def as_counted(
    said: Said, now: str | None, types: frozenset[str], cells: range
) -> tuple[int, list[float], bool]:
    """How long a meter counted in some cells, ms, what is known of it there, and if that is all."""
    counted_ms, known, unsure = 0, [], False
    order = sorted(said)
    for cell in cells:
        index = bisect_right(order, cell)
        if not index:
            continue
        last = order[index - 1]
        meter_type, kw = said[last]
        if meter_type not in types:
            continue
        if cell - last < 3:
            known.append(kw)
        if last < order[-1] or (now is not None and now in types):
            counted_ms += CELL_MS
        elif cell == last:  # the last word of a meter that is no such thing any more
            counted_ms += 1
            unsure = True
    missing_ms = counted_ms - CELL_MS * len(known)
    return counted_ms, known, not unsure and missing_ms <= min(10_000, 0.01 * counted_ms)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            PHASES,
            st.none() | st.sampled_from(("grid", "building", "solar", "zone")),
            st.none() | st.just(50.0),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from((60, 300, 1200)),
    st.booleans(),
)
def test_the_past_is_what_was_recorded_however_meters_came_and_went(
    drawn: list[tuple[list[tuple[str, int, int, float]], str | None, float | None]],
    step_s: int,
    is_sealed: bool,
) -> None:
    with TemporaryDirectory() as folder, WrittenJournal(Path(folder)) as journal:
        past = Past(journal)
        meters: list[tuple[Meter, Said, str | None]] = []
        for phases, now, max_kw in drawn:
            meter = past.add(now or "grid", maxPower=max_kw)
            meters.append((meter, said_in(phases), now))
        for hour in (0, 1):
            for meter, said, _ in meters:
                write(past, meter, said, hour, is_sealed=is_sealed or hour == 0)
        for meter in past.meters:
            fold(past, meter)
        past.meters = [meter for meter, _, now in meters if now is not None]
        span = {"from_": START_MS, "to": START_MS + 2 * HOUR_MS}
        for _ in range(2):  # read, then kept
            curve = past.power(**span, step=step_s)
            per_step = step_s * 1000 // CELL_MS
            ranges = [range(begin, begin + per_step) for begin in range(0, 2 * CELLS, per_step)]
            for name, types in (("consumption", CONSUMING_TYPES), ("production", PRODUCING_TYPES)):
                assert curve[name] == [mean_of(meters, types, cells) for cells in ranges]
            assert curve["available"] == free_in(meters, ranges)
        energy = past.energy(**span)["site"]
        for name, types in (("consumption", CONSUMING_TYPES), ("production", PRODUCING_TYPES)):
            cells_of_hours = [range(CELLS), range(CELLS, 2 * CELLS)]
            expected = [mean_of(meters, types, cells, energy=True) for cells in cells_of_hours]
            assert energy[name] == expected


def write(past: Past, meter: Meter, said: Said, hour: int, *, is_sealed: bool) -> None:
    """Record what a meter said in an hour."""
    rows: list[tuple[Series, tuple[int, int, dict[str, float]]]] = []
    for cell in sorted(said):
        if cell // CELLS == hour:
            meter_type, kw = said[cell]
            series = a_series(
                meter.id,
                meter_type=meter_type,
                stale_after_ms=3 * CELL_MS,
                max_power_kw=meter.max_power_kw,
            )
            rows.append((series, (past.seq, START_MS + cell * CELL_MS, {"power": kw})))
            past.seq += 1
    if rows and not is_sealed:
        past.journal.add_tail(rows)
    for series in {one for one, _ in rows} if is_sealed else ():
        past.journal.add_block(series, [row for one, row in rows if one == series])


def fold(past: Past, meter: Meter) -> None:
    """Sum up a meter's hours, each as what it was last in it."""
    with History(past.journal.path) as history:
        chunks = list(history.raw(meter.id, 0, 2**62))
    for begin_ms in (START_MS, START_MS + HOUR_MS):
        rollup = hourly(begin_ms, HOUR_MS, chunks, 500.0).rollup
        if rollup is not None:
            past.journal.add_rollup(rollup)


_Meters = list[tuple[Meter, Said, "str | None"]]


def mean_of(meters: _Meters, types: frozenset[str], cells: range, *, energy: bool = False) -> Any:
    parts = []
    for _, said, now in meters:
        counted_ms, known, _ = as_counted(said, now, types, cells)
        if not counted_ms:
            continue
        if not known or CELL_MS * len(known) < counted_ms / 2:
            return None
        share = CELL_MS * len(known) / HOUR_MS if energy else counted_ms / CELL_MS / len(cells)
        parts.append(sum(known) / len(known) * share)
    return pytest.approx(sum(parts), abs=1e-5) if parts else None


def free_in(meters: _Meters, ranges: Sequence[range]) -> list[Any]:
    last: dict[tuple[str, frozenset[str]], float | None] = {}
    found: list[Any] = []
    for cells in ranges:
        balance_kw, failed, consumers, any_known = 500.0, False, False, False
        for meter, said, now in meters:
            for types in (CONSUMING_TYPES, PRODUCING_TYPES):
                counted_ms, known, whole = as_counted(said, now, types, cells)
                if not counted_ms:
                    continue
                makes = types == PRODUCING_TYPES
                worst = (min if makes else max)(known, default=None)
                any_known |= worst is not None
                consumers |= not makes
                before_kw = last.get((meter.id, types))
                if whole and worst is not None:
                    kw = last[meter.id, types] = worst
                else:
                    pair = [one for one in (before_kw, worst) if one is not None]
                    last[meter.id, types] = (min if makes else max)(pair, default=None)
                    if makes:
                        kw = 0.0
                    else:
                        failed |= meter.max_power_kw is None
                        kw = max(0.0, meter.max_power_kw or 0.0, *pair)
                balance_kw += kw if makes else -kw
        free_kw = 0.0 if failed or not consumers else max(0.0, balance_kw)
        found.append(pytest.approx(free_kw) if any_known else None)
    return found


# --- Energy of the site --------------------------------------------------------------------------


def test_energy_of_a_site(past: Past) -> None:
    grid, roof = past.add(), past.add("solar")
    for meter, kwh in ((grid, 8.0), (roof, 2.0)):
        rollup = a_rollup(
            START_MS,
            series=a_series(meter.id, meter_type=meter.meter_type),
            energy_kwh=kwh,
            mean_kw=kwh,
            covered_ms=HOUR_MS,
        )
        past.journal.add_rollup(rollup)
    found = past.energy(from_=START_MS, to=START_MS + 2 * HOUR_MS)
    assert found == {
        "start": ["2025-10-20T10:00:00.000Z", "2025-10-20T11:00:00.000Z"],
        "end": "2025-10-20T12:00:00.000Z",
        "site": {
            "consumption": [8.0, None],
            "production": [2.0, None],
            "cost": [2.0, None],
            "currency": "EUR",
            "pricePerKwh": 0.25,
            "partial": [False, True],
            "productionPartial": [False, True],
            "totalConsumption": 8.0,
            "totalProduction": 2.0,
            "totalCost": 2.0,
            "totalPartial": True,
            "totalProductionPartial": True,
        },
        "peak": {"power": 8.0, "at": "2025-10-20T10:00:00.000Z"},
        "meters": [
            {
                "meterId": meter.id,
                "name": meter.name,
                "meterType": meter.meter_type,
                "registered": True,
                "meanPower": [kwh, None],
                "energy": [kwh, None],
                "totalEnergy": kwh,
                "totalPartial": True,
            }
            for meter, kwh in ((grid, 8.0), (roof, 2.0))
        ],
    }
    past.rates = SiteRates(timezone.utc, 500.0, 0.0, None, "EUR")
    assert past.energy(from_=START_MS, to=START_MS + HOUR_MS)["site"]["cost"] is None
    assert past.energy(resolution="daily")["start"][-1] == "2025-10-20T00:00:00.000Z"
    before = past.energy(from_=START_MS - DAY_MS, to=START_MS)
    assert before["peak"] == {"power": None, "at": None}


@pytest.mark.parametrize("days", [1, 2, 7, 31])
def test_the_usual_step_gives_few_points(days: int, past: Past) -> None:
    curve = past.power(from_=START_MS - days * DAY_MS, to=START_MS)
    assert 100 < len(curve["consumption"]) <= USUAL_POINTS
    assert len(json.dumps(curve)) < 10_000


@pytest.mark.parametrize(
    ("call", "query", "field"),
    [
        ("power", {"step": 59}, "step"),
        ("power", {"step": 90}, "step"),
        ("power", {"step": 5400}, "step"),
        ("power", {"step": 60, "from": START_MS - 3 * DAY_MS}, "step"),
        ("power", {"step": 1800, "from": START_MS - 8 * DAY_MS}, "step"),
        ("power", {"from": START_MS - 32 * DAY_MS, "to": START_MS}, "from"),
        ("power", {"from": START_MS, "to": START_MS - 1}, "from"),
        ("power", {"from": 10**14, "to": 10**14 + 1}, "to"),
        ("power", {"resolution": "hourly"}, "resolution"),
        ("energy", {"resolution": "raw"}, "resolution"),
        ("energy", {"from": START_MS - 32 * DAY_MS, "to": START_MS}, "from"),
        ("energy", {"from": 0, "to": START_MS, "resolution": "daily"}, "from"),
        ("energy", {"from": 253402300799999, "to": 253402300799999}, "to"),
    ],
)
def test_a_faulty_query(call: str, query: dict[str, object], field: str, past: Past) -> None:
    with pytest.raises(RequestError) as raised:
        getattr(past, call)(**query)
    assert (raised.value.status, raised.value.code) == (400, "VALIDATION_ERROR")
    assert field in [fault.path for fault in raised.value.faults]


def test_the_longest_curve_that_is_given_is_bounded(past: Past) -> None:
    curve = past.power(from_=START_MS - DAY_MS, to=START_MS, step=60)
    assert len(curve["consumption"]) == 1440 <= MOST_POINTS


def test_no_journal_is_told(tmp_path: Path, past: Past) -> None:
    for path in (None, tmp_path / "nowhere.db"):
        past.answers = AnalyticsAnswers(Readers(path), lambda: past.rates, past.clock)
        for call in (past.power, past.energy):
            with pytest.raises(RequestError) as raised:
                call()
            assert (raised.value.status, raised.value.code) == (503, "JOURNAL_UNAVAILABLE")


def test_only_a_few_are_answered_at_a_time(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    past.record(past.add(), START_MS, START_MS + 5 * MINUTE_MS, 40.0)
    reading, go_on = threading.Semaphore(0), threading.Event()
    raw = History.raw

    def waiting(self: History, meter_id: str, from_ms: int, to_ms: int) -> Iterator[Chunk]:
        reading.release()
        assert go_on.wait(10)
        return raw(self, meter_id, from_ms, to_ms)

    monkeypatch.setattr(History, "raw", waiting)
    monkeypatch.setattr(readers_module, "WAIT_S", 0.05)
    threads = [threading.Thread(target=past.power) for _ in range(TURNS)]
    for thread in threads:
        thread.start()
        assert reading.acquire(timeout=10)
    with pytest.raises(RequestError) as raised:
        past.energy()
    assert (raised.value.status, raised.value.code) == (503, "BUSY")
    assert ("Retry-After", "5") in raised.value.headers
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert past.power()["consumption"].count(None) == 288
