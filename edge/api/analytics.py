"""The site's past as a whole: `GET /api/analytics/power` and `/api/analytics/energy`.

Power comes from raw readings, hour by hour and meter by meter, as minutes; the hours that are over
are kept for a while, so that a dashboard that asks again costs little. Steps of an hour and more
come from the hours that the journal has summed up, and only what it has not yet from readings.
Energy comes from its hours and days. All is read in pieces with rests, for two requests at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path

from edge.analytics import (
    Curve,
    EnergyColumns,
    Slots,
    available,
    cost,
    counted_in,
    energy_of_meter,
    energy_of_site,
    peak,
    sum_of_known,
    summed,
)
from edge.api import Request
from edge.api.description import Query
from edge.api.hours import Hours
from edge.api.question import TIME, Asked, whole_number
from edge.api.readers import Readers, rested
from edge.clock import Clock
from edge.errors import Fault
from edge.journal.history import History
from edge.model import CONSUMING_TYPES, Meter, Snapshot
from edge.record import Resolution
from edge.rollup import hour_of
from edge.shapes import Energy, MeterEnergy, Peak, PowerCurve, SiteEnergy
from edge.steps import Grid
from edge.structure import shown
from edge.times import HOUR_MS, timestamp

MAX_STEP_S = 24 * 3600
USUAL_POINTS = 300
MOST_POINTS = 1500
USUAL_STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600)

_TURNS = 2
_DAY_MS = 24 * HOUR_MS
_LONGEST_MS = 31 * _DAY_MS
_LONGEST_RAW_MS = 7 * _DAY_MS
_LONGEST_DAYS_MS = 1830 * _DAY_MS

POWER_KEYS = (
    Query("from", "Where it begins; by default a day before the end.", TIME),
    Query("to", "Where it ends, by default now; not part of it.", TIME),
    Query(
        "step",
        f"Seconds, whole minutes; from an hour on whole hours. By default as gives "
        f"{USUAL_POINTS} points at most.",
        {"type": "integer", "minimum": 60, "maximum": MAX_STEP_S},
    ),
)
ENERGY_KEYS = (
    Query("from", "Where it begins; by default a day, or 31 days before the end.", TIME),
    Query("to", "Where it ends, by default now; not part of it.", TIME),
    Query(
        "resolution",
        "Hours or days of the site.",
        {"type": "string", "enum": ["hourly", "daily"], "default": "hourly"},
    ),
)


@dataclass(frozen=True)
class SiteRates:
    """The settings that the site's past is told with. price_per_kwh: None is unknown."""

    zone: tzinfo
    grid_capacity_kw: float
    failsafe_available_kw: float
    price_per_kwh: float | None
    currency: str


class AnalyticsAnswers:
    """Answers for the site's past from the journal's database. Any thread.

    path, report_damage: as for `HistoryAnswers`. rates: the settings in force.
    Both answers raise RequestError: 400 for a faulty query, 503 without a journal, when it cannot
    be read, or when no turn comes within some seconds.
    """

    def __init__(
        self,
        path: Path | None,
        report_damage: Callable[[str], None] | None,
        rates: Callable[[], SiteRates],
        clock: Clock,
    ) -> None:
        self._readers = Readers(path, report_damage, _TURNS)
        self._rates = rates
        self._hours = Hours(clock)

    def power(self, request: Request, snapshot: Snapshot) -> PowerCurve:
        """Give the site's power in even steps, each the mean over its time, kW.

        Blocks for the time it takes: a second per 500 hours of meters that are not kept, on a fast
        machine.
        """
        rates, now_ms = self._rates(), snapshot.unix_ms
        grid = _power_question(request, now_ms, rates.zone)
        counted = [meter for meter in _meters(snapshot) if counted_in(meter.meter_type)]
        with self._readers.turn(), self._readers.history() as history:
            columns = {
                meter: self._curve(history, meter, grid, now_ms).means(grid, now_ms)
                for meter in counted
            }
            free = available(
                columns, grid.count, rates.grid_capacity_kw, rates.failsafe_available_kw
            )
            return {
                "from": timestamp(grid.begin_ms),
                "step": grid.step_ms // 1000,
                "consumption": _sum_of(columns, CONSUMING_TYPES, grid.count),
                "production": _sum_of(columns, counted_in("solar"), grid.count),
                "available": list(rested(free)),
            }

    def _curve(self, history: History, meter: Meter, grid: Grid, now_ms: int) -> Curve:
        curve = Curve(array("d", bytes(8 * grid.count)), array("d", bytes(8 * grid.count)))
        begin_ms = grid.begin_ms
        if grid.step_ms >= HOUR_MS:
            begin_ms = _add_rollups(history, meter, grid, curve)
        for hour in self._hours.of(history, meter, begin_ms, min(grid.end_ms, now_ms), now_ms):
            hour.add_to(curve, grid, begin_ms)
        return curve

    def energy(self, request: Request, snapshot: Snapshot) -> Energy:
        """Give what was used and made in each hour or day, kWh, and what it cost."""
        rates, now_ms = self._rates(), snapshot.unix_ms
        slots, resolution = _energy_question(request, now_ms, rates.zone)
        columns = {}
        with self._readers.turn(), self._readers.history() as history:
            for meter in _meters(snapshot):
                rows = history.rollups(
                    meter.id, resolution, slots.starts_ms[0], slots.starts_ms[-1]
                )
                columns[meter] = energy_of_meter(rested(rows), slots, now_ms)
        return {
            "start": [timestamp(start_ms) for start_ms in slots.starts_ms[:-1]],
            "end": timestamp(slots.starts_ms[-1]),
            "site": _site(columns, slots, rates),
            "peak": _peak(columns, slots),
            "meters": [_meter(meter, found) for meter, found in columns.items()],
        }


# --- What is asked for ---------------------------------------------------------------------------


def _power_question(request: Request, now_ms: int, zone: tzinfo) -> Grid:
    asked = Asked(request, POWER_KEYS)
    from_ms, to_ms = asked.span(now_ms, _DAY_MS)
    _limit_span(asked, from_ms, to_ms, _LONGEST_MS, now_ms)
    step_s = asked.value("step", _step_s)
    asked.check()
    span_s = (to_ms - from_ms) / 1000
    if step_s is None:
        enough = (step for step in USUAL_STEPS_S if span_s <= step * USUAL_POINTS)
        step_s = next(enough, USUAL_STEPS_S[-1])
    if span_s > step_s * MOST_POINTS:
        asked.faults.append(Fault("step", f"must be longer: more than {MOST_POINTS:,} are asked"))
    elif step_s < 3600 and to_ms - from_ms > _LONGEST_RAW_MS:
        asked.faults.append(Fault("step", "must be 3600 or more for more than 7 days"))
    asked.check()
    if step_s < 3600:
        return Grid.around(from_ms, to_ms, step_s * 1000)
    # Hours begin where the site's clock shows a full one, not everywhere where UTC does.
    return Grid.around(from_ms, to_ms, step_s * 1000, hour_of(from_ms, zone)[0])


def _energy_question(request: Request, now_ms: int, zone: tzinfo) -> tuple[Slots, Resolution]:
    asked = Asked(request, ENERGY_KEYS)
    resolution = asked.value("resolution", _hours_or_days) or Resolution.HOURLY
    is_daily = resolution is Resolution.DAILY
    from_ms, to_ms = asked.span(now_ms, _LONGEST_MS if is_daily else _DAY_MS)
    _limit_span(asked, from_ms, to_ms, _LONGEST_DAYS_MS if is_daily else _LONGEST_MS, now_ms)
    asked.check()
    return Slots.between(from_ms, to_ms, resolution, zone), resolution


def _limit_span(asked: Asked, from_ms: int, to_ms: int, longest_ms: int, now_ms: int) -> None:
    if to_ms - from_ms > longest_ms:
        days = longest_ms // _DAY_MS
        asked.faults.append(Fault("from", f"must be at most {days} days before 'to'"))
    if to_ms > now_ms + _LONGEST_MS:
        asked.faults.append(Fault("to", "must not be more than 31 days in the future"))


def _step_s(text: str) -> int:
    step_s = whole_number(text, 60, MAX_STEP_S)
    if step_s % (60 if step_s < 3600 else 3600):
        raise ValueError("must be whole minutes, or whole hours from 3600 on")
    return step_s


def _hours_or_days(text: str) -> Resolution:
    for resolution in (Resolution.HOURLY, Resolution.DAILY):
        if text == resolution.value:
            return resolution
    raise ValueError(f"must be hourly | daily, not {shown(text)}")


# --- The answer ----------------------------------------------------------------------------------


def _add_rollups(history: History, meter: Meter, grid: Grid, curve: Curve) -> int:
    """Add the hours that are summed up; gives from when on there are none yet."""
    last_ms = max(grid.begin_ms, grid.end_ms - _LONGEST_RAW_MS)
    types = counted_in(meter.meter_type)
    rollups = history.rollups(meter.id, Resolution.HOURLY, grid.begin_ms, grid.end_ms)
    for rollup in rested(rollups):
        last_ms = max(last_ms, rollup.start_ms + rollup.length_ms)
        if rollup.mean_kw is not None and rollup.series.meter_type in types:
            number = (rollup.start_ms - grid.begin_ms) // grid.step_ms
            curve.kw_ms[number] += rollup.mean_kw * rollup.covered_ms
            curve.weight_ms[number] += rollup.covered_ms
    return last_ms


def _sum_of(
    columns: Mapping[Meter, Sequence[float | None]], types: frozenset[str], count: int
) -> list[float | None]:
    return summed([found for meter, found in columns.items() if meter.meter_type in types], count)


def _site(columns: Mapping[Meter, EnergyColumns], slots: Slots, rates: SiteRates) -> SiteEnergy:
    count = len(slots)
    consumption = energy_of_site(_of_types(columns, CONSUMING_TYPES), count)
    production = energy_of_site(_of_types(columns, counted_in("solar")), count)
    price = rates.price_per_kwh
    costs = [cost(kwh, price) for kwh in consumption.kwh]
    return {
        "consumption": list(consumption.kwh),
        "production": list(production.kwh),
        "cost": costs if price is not None else None,
        "currency": rates.currency,
        "pricePerKwh": price,
        "partial": list(consumption.partial),
        "totalConsumption": consumption.total_kwh,
        "totalProduction": production.total_kwh,
        "totalCost": sum_of_known(costs),
        "totalPartial": consumption.total_is_partial,
    }


def _of_types(columns: Mapping[Meter, EnergyColumns], types: frozenset[str]) -> list[EnergyColumns]:
    return [found for meter, found in columns.items() if meter.meter_type in types]


def _peak(columns: Mapping[Meter, EnergyColumns], slots: Slots) -> Peak:
    consumption = energy_of_site(_of_types(columns, CONSUMING_TYPES), len(slots))
    found = peak(consumption.mean_kw, slots)
    if found is None:
        return {"power": None, "at": None}
    return {"power": found[0], "at": timestamp(found[1])}


def _meter(meter: Meter, found: EnergyColumns) -> MeterEnergy:
    return {
        "meterId": meter.id,
        "name": meter.name,
        "meterType": meter.meter_type,
        "meanPower": list(found.mean_kw),
        "energy": list(found.kwh),
        "totalEnergy": found.total_kwh,
        "totalPartial": found.total_is_partial,
    }


def _meters(snapshot: Snapshot) -> list[Meter]:
    return [state.meter for state in snapshot.meters.values()]
