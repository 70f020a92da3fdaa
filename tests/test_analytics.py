"""The site's past: steps of power against a count of every millisecond, sums that stay honest."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
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
from edge.errors import RequestError
from edge.journal.history import History
from edge.journal.merge import given as as_part
from edge.journal.merge import merged
from edge.load import load_status
from edge.model import Meter, MeterState, Reading, Snapshot, Status
from edge.record import Chunk, EnergySource, Resolution
from edge.steps import Grid, Step, steps
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

COLUMN = st.lists(st.none() | st.integers(-100, 100).map(float), min_size=4, max_size=4)


@given(st.lists(COLUMN, max_size=4))
def test_a_sum_without_one_of_its_parts_is_unknown(columns: list[list[float | None]]) -> None:
    for number, value in enumerate(summed(columns, 4)):
        row = [column[number] for column in columns]
        assert value == (None if None in row or not row else sum(filter(None, row)))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("grid", "building", "solar")), st.none() | st.just(80.0), COLUMN
        ),
        max_size=4,
    )
)
def test_available_is_what_the_load_status_would_have_said(
    drawn: list[tuple[str, float | None, list[float | None]]],
) -> None:
    columns = {a_meter(meterType=type_, maxPower=max_kw): column for type_, max_kw, column in drawn}
    found = list(available(columns, 4, 500.0, 20.0))
    for number in range(4):
        states = [_failed_or_live(meter, column, number) for meter, column in columns.items()]
        if all(column[number] is None for column in columns.values()):
            assert found[number] is None
        else:
            assert found[number] == load_status(states, 500.0, 20.0).available_kw


def _failed_or_live(meter: Meter, column: Sequence[float | None], number: int) -> MeterState:
    kw = column[number]
    known = [value for value in column[: number + 1] if value is not None]
    last_kw = known[-1] if known else None
    if kw is None:
        return MeterState(meter, status=Status.ERROR, last_power_kw=last_kw)
    return MeterState(meter, 0.0, Status.ONLINE, Reading({"power": kw}, 0.0, 0), None, last_kw)


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


def test_energy_of_a_meter_hour_by_hour() -> None:
    rows = [
        a_rollup(START_MS, energy_kwh=1.4),
        a_rollup(
            START_MS + HOUR_MS, energy_kwh=0.2, energy_source=EnergySource.INTEGRAL, covered_ms=9
        ),
        a_rollup(START_MS + 2 * HOUR_MS, energy_kwh=2.0, covered_ms=9),
    ]
    found = energy_of_meter(rows, FOUR_HOURS, LATER_MS)
    assert found.kwh == [1.4, None, 2.0, None]
    assert found.mean_kw == [1.5, None, None, None]
    assert found.partial == [True, True, True, True]  # 90 %, next to nothing, and nothing
    assert (found.total_kwh, found.total_is_partial) == (3.4, True)


def test_energy_that_was_measured_whole_is_not_partial() -> None:
    rows = [a_rollup(start_ms, covered_ms=HOUR_MS) for start_ms in FOUR_HOURS.starts_ms[:-1]]
    found = energy_of_meter(rows, FOUR_HOURS, LATER_MS)
    assert found.partial == [False] * 4
    assert (found.total_kwh, found.total_is_partial) == (5.6, False)
    today = Slots([START_MS, START_MS + DAY_MS])
    day = a_rollup(START_MS, Resolution.DAILY, covered_ms=2 * HOUR_MS)
    found = energy_of_meter([day], today, START_MS + 3 * HOUR_MS)
    assert (found.kwh, found.mean_kw, found.partial) == ([1.4], [1.5], [True])


def test_the_site_s_energy_is_unknown_where_a_meter_s_is() -> None:
    whole = [a_rollup(start_ms, covered_ms=HOUR_MS) for start_ms in FOUR_HOURS.starts_ms[:-1]]
    one = energy_of_meter(whole, FOUR_HOURS, LATER_MS)
    other = energy_of_meter(whole[:2], FOUR_HOURS, LATER_MS)
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
        self.answers = AnalyticsAnswers(journal.path, None, lambda: self.rates, self.clock)
        self._seq = 1

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
            rows = [(self._seq + n, unix_ms, {"power": kw}) for n, unix_ms in enumerate(times)]
            self._seq += len(rows)
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
        "available": [470.0, 470.0, 0.0, 0.0, None, None],
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


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_curve_is_the_sum_of_what_each_meter_s_steps_say(data: st.DataObject) -> None:
    step_ms = data.draw(st.sampled_from((60, 300, 420, 1800))) * 1000
    with TemporaryDirectory() as folder, WrittenJournal(Path(folder)) as journal:
        past = Past(journal)
        for meter_type in ("grid", "building"):
            meter = past.add(meter_type)
            for number in range(3):
                begin_ms = START_MS + number * HOUR_MS + data.draw(st.integers(0, 1800)) * 1000
                end_ms = begin_ms + data.draw(st.integers(1, 1700)) * 1000
                past.record(meter, begin_ms, end_ms, data.draw(st.integers(0, 90)) / 7)
        for _ in range(2):  # read, then kept
            curve = past.power(from_=START_MS, to=START_MS + 3 * HOUR_MS, step=step_ms // 1000)
            grid = Grid.around(START_MS, START_MS + 3 * HOUR_MS, step_ms)
            expected: list[float | None] = [0.0] * grid.count
            with History(journal.path) as history:
                for meter in past.meters:
                    chunks = history.raw(meter.id, 0, 2**62)
                    by_start = {one.start_ms: one for one in steps(chunks, grid, 2**60)}
                    for number in range(grid.count):
                        one = by_start.get(grid.start_ms(number), Step(0, 0))
                        before = expected[number]
                        known = one.weight_ms >= step_ms / 2 and before is not None
                        expected[number] = (before or 0.0) + (one.mean_kw or 0.0) if known else None
            assert curve["consumption"] == [
                None if kw is None else pytest.approx(kw, abs=1e-5) for kw in expected
            ]


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


def test_energy_of_a_site(past: Past) -> None:
    grid, roof = past.add(), past.add("solar")
    for meter, kwh in ((grid, 8.0), (roof, 2.0)):
        rollup = a_rollup(
            START_MS, series=a_series(meter.id), energy_kwh=kwh, mean_kw=kwh, covered_ms=HOUR_MS
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
            "totalConsumption": 8.0,
            "totalProduction": 2.0,
            "totalCost": 2.0,
            "totalPartial": True,
        },
        "peak": {"power": 8.0, "at": "2025-10-20T10:00:00.000Z"},
        "meters": [
            {
                "meterId": meter.id,
                "name": meter.name,
                "meterType": meter.meter_type,
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
    nobody = Past(past.journal)
    assert nobody.energy()["peak"] == {"power": None, "at": None}


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
        past.answers = AnalyticsAnswers(path, None, lambda: past.rates, past.clock)
        for call in (past.power, past.energy):
            with pytest.raises(RequestError) as raised:
                call()
            assert (raised.value.status, raised.value.code) == (503, "JOURNAL_UNAVAILABLE")


def test_only_two_are_answered_at_a_time(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    past.add()
    reading, go_on = threading.Semaphore(0), threading.Event()
    raw = History.raw

    def waiting(self: History, meter_id: str, from_ms: int, to_ms: int) -> Iterator[Chunk]:
        reading.release()
        assert go_on.wait(10)
        return raw(self, meter_id, from_ms, to_ms)

    monkeypatch.setattr(History, "raw", waiting)
    monkeypatch.setattr(readers_module, "WAIT_S", 0.05)
    threads = [threading.Thread(target=past.power) for _ in range(2)]
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
    assert past.power()["consumption"] == [None] * 289
