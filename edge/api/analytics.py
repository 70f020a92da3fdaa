"""The site's past as a whole: `GET /api/analytics/power` and `/api/analytics/energy`.

Power comes from raw readings, hour by hour and meter by meter, as minutes; the hours that are over
are kept for a while, so that a dashboard that asks again costs little. Steps of an hour and more
come from the hours that the journal has summed up, and only what it has not yet from readings.
Energy comes from its hours and days; those in which the type of a meter changed are made anew. All
is read in pieces with rests, for few requests at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import tzinfo

from edge.analytics import (
    Column,
    Curve,
    EnergyColumns,
    Slots,
    available,
    cost,
    energy_of_meter,
    energy_of_site,
    peak,
    sum_of_known,
    summed,
    worse,
)
from edge.api import Request
from edge.api.hours import Hours
from edge.api.query import TO, QueryReader, moment, whole, words
from edge.api.readers import Readers, rested
from edge.clock import Clock
from edge.counting import Part, counted_in, life_of, parts_of
from edge.errors import Fault
from edge.journal.history import History
from edge.model import CONSUMING_TYPES, PRODUCING_TYPES, Snapshot
from edge.record import Resolution, Series, Stretch
from edge.rollup import hour_of
from edge.shapes import Energy, MeterEnergy, Peak, PowerCurve, SiteEnergy
from edge.steps import LONGEST_HELD_MS, Grid
from edge.times import DAY_MS, HOUR_MS, timestamp

MAX_STEP_S = 24 * 3600
USUAL_POINTS = 300
MOST_POINTS = 1500
USUAL_STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600)

_LONGEST_MS = 31 * DAY_MS
_LONGEST_RAW_MS = 7 * DAY_MS
_LONGEST_DAYS_MS = 1830 * DAY_MS

_POWER_FROM = moment("from", "Where it begins; by default a day before the end.")
_ENERGY_FROM = moment("from", "Where it begins; by default a day, or 31 days before the end.")
_STEP = whole(
    "step",
    "Seconds, whole minutes; from an hour on whole hours. By default as gives "
    f"{USUAL_POINTS} points at most.",
    60,
    MAX_STEP_S,
    default=None,
)
_RESOLUTION = words(
    "resolution",
    "Hours or days of the site.",
    [Resolution.HOURLY.value, Resolution.DAILY.value],
    default=Resolution.HOURLY.value,
)
POWER_KEYS = (_POWER_FROM, TO, _STEP)
ENERGY_KEYS = (_ENERGY_FROM, TO, _RESOLUTION)


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

    readers: those who read the journal. rates: the settings in force.
    Both answers raise RequestError: 400 for a faulty query, 503 without a journal, when it cannot
    be read, or when no turn comes within some seconds.
    """

    def __init__(self, readers: Readers, rates: Callable[[], SiteRates], clock: Clock) -> None:
        self._readers = readers
        self._rates = rates
        self._hours = Hours(clock)

    def power(self, request: Request, snapshot: Snapshot) -> PowerCurve:
        """Give the site's power in even steps, kW: means, and what was free throughout each.

        Of an hour that is summed up the least and the largest reading taken in it count.
        Blocks for the time it takes: a second per 500 hours of meters that are not kept, on a fast
        machine.
        """
        rates, now_ms = self._rates(), snapshot.unix_ms
        grid = _power_question(request, now_ms, rates.zone)
        with self._readers.turn(), self._readers.history() as history:
            columns = [
                self._curve(history, part, grid, now_ms).column()
                for meter in recorded(history, snapshot)
                for part in meter.parts
                if part.counted_ms(grid.begin_ms, min(grid.end_ms, now_ms))
            ]
            free = available(
                columns, grid.count, rates.grid_capacity_kw, rates.failsafe_available_kw
            )
            return {
                "from": timestamp(grid.begin_ms),
                "step": grid.step_ms // 1000,
                "consumption": _sum_of(columns, CONSUMING_TYPES, grid.count),
                "production": _sum_of(columns, PRODUCING_TYPES, grid.count),
                "available": list(rested(free)),
            }

    def _curve(self, history: History, part: Part, grid: Grid, now_ms: int) -> Curve:
        curve = Curve(part, grid, now_ms)
        begin_ms = grid.begin_ms
        if grid.step_ms >= HOUR_MS:
            begin_ms = self._add_rollups(history, part, curve, now_ms)
        end_ms = min(grid.end_ms, now_ms)
        for hour in rested(self._hours.of(history, part, begin_ms, end_ms, now_ms)):
            hour.add_to(curve, begin_ms)
        return curve

    def _add_rollups(self, history: History, part: Part, curve: Curve, now_ms: int) -> int:
        """Add the hours that are summed up; gives from when on there are none yet."""
        grid = curve.grid
        last_ms = max(grid.begin_ms, grid.end_ms - _LONGEST_RAW_MS)
        rows = history.rollups(part.meter.id, Resolution.HOURLY, grid.begin_ms, grid.end_ms)
        for row in rested(self._hours.rollups(history, part, rows, now_ms)):
            last_ms = max(last_ms, row.start_ms + row.length_ms)
            if row.mean_kw is not None:
                number = (row.start_ms - grid.begin_ms) // grid.step_ms
                worst_kw = worse(part.meter, row.min_kw, worse(part.meter, row.max_kw, row.mean_kw))
                kw_ms = row.mean_kw * row.covered_ms
                curve.add(number, kw_ms, row.covered_ms, worst_kw or 0.0, sure=True)
        return last_ms

    def energy(self, request: Request, snapshot: Snapshot) -> Energy:
        """Give what was used and made in each hour or day, kWh, and what it cost."""
        rates, now_ms = self._rates(), snapshot.unix_ms
        slots, resolution = _energy_question(request, now_ms, rates.zone)
        parts: list[tuple[Part, EnergyColumns]] = []
        meters: list[MeterEnergy] = []
        begin_ms, end_ms = slots.starts_ms[0], slots.starts_ms[-1]
        with self._readers.turn(), self._readers.history() as history:
            for meter in recorded(history, snapshot):
                rows = list(
                    rested(history.rollups(meter.life.meter.id, resolution, begin_ms, end_ms))
                )
                counted = [
                    part for part in meter.parts if part.counted_ms(begin_ms, min(end_ms, now_ms))
                ]
                for part in counted:
                    own = self._hours.rollups(history, part, rows, now_ms)
                    parts.append((part, energy_of_meter(own, slots, now_ms, part)))
                if meter.is_registered or counted:
                    meters.append(_meter(meter, energy_of_meter(rows, slots, now_ms, meter.life)))
        consumption = _of_site(parts, CONSUMING_TYPES, slots)
        return {
            "start": [timestamp(start_ms) for start_ms in slots.starts_ms[:-1]],
            "end": timestamp(end_ms),
            "site": _site(consumption, _of_site(parts, PRODUCING_TYPES, slots), rates),
            "peak": _peak(consumption, slots),
            "meters": meters,
        }


# --- What is asked for ---------------------------------------------------------------------------


def _power_question(request: Request, now_ms: int, zone: tzinfo) -> Grid:
    asked = QueryReader(request, POWER_KEYS)
    from_ms, to_ms = asked.span(_POWER_FROM, now_ms, DAY_MS)
    _limit_span(asked, from_ms, to_ms, _LONGEST_MS, now_ms)
    step_s = asked.value(_STEP)
    if step_s is not None and step_s % (60 if step_s < 3600 else 3600):
        why = "must be whole minutes, or whole hours from 3600 on"
        asked.faults.append(Fault(_STEP.name, why))
    asked.check()
    span_s = (to_ms - from_ms) / 1000
    if step_s is None:
        enough = (step for step in USUAL_STEPS_S if span_s <= step * USUAL_POINTS)
        step_s = next(enough, USUAL_STEPS_S[-1])
    if span_s > step_s * MOST_POINTS:
        asked.faults.append(
            Fault(_STEP.name, f"must be longer: more than {MOST_POINTS:,} are asked")
        )
    elif step_s < 3600 and to_ms - from_ms > _LONGEST_RAW_MS:
        asked.faults.append(Fault(_STEP.name, "must be 3600 or more for more than 7 days"))
    asked.check()
    if step_s < 3600:
        return Grid.around(from_ms, to_ms, step_s * 1000)
    # Hours begin where the site's clock shows a full one, not everywhere where UTC does.
    return Grid.around(from_ms, to_ms, step_s * 1000, hour_of(from_ms, zone)[0])


def _energy_question(request: Request, now_ms: int, zone: tzinfo) -> tuple[Slots, Resolution]:
    asked = QueryReader(request, ENERGY_KEYS)
    resolution = Resolution(asked.value(_RESOLUTION))
    is_daily = resolution is Resolution.DAILY
    from_ms, to_ms = asked.span(_ENERGY_FROM, now_ms, _LONGEST_MS if is_daily else DAY_MS)
    _limit_span(asked, from_ms, to_ms, _LONGEST_DAYS_MS if is_daily else _LONGEST_MS, now_ms)
    asked.check()
    return Slots.between(from_ms, to_ms, resolution, zone), resolution


def _limit_span(asked: QueryReader, from_ms: int, to_ms: int, longest_ms: int, now_ms: int) -> None:
    if to_ms - from_ms > longest_ms:
        days = longest_ms // DAY_MS
        asked.faults.append(Fault("from", f"must be at most {days} days before 'to'"))
    if to_ms > now_ms + _LONGEST_MS:
        asked.faults.append(Fault("to", "must not be more than 31 days in the future"))


# --- The answer ----------------------------------------------------------------------------------


def _sum_of(columns: Sequence[Column], types: frozenset[str], count: int) -> list[float | None]:
    return summed([one for one in columns if one.meter.meter_type in types], count)


def _of_site(
    parts: Sequence[tuple[Part, EnergyColumns]], types: frozenset[str], slots: Slots
) -> EnergyColumns:
    counted = [found for part, found in parts if part.types == types]
    return energy_of_site(counted, len(slots))


def _site(consumption: EnergyColumns, production: EnergyColumns, rates: SiteRates) -> SiteEnergy:
    price = rates.price_per_kwh
    costs = [cost(kwh, price) for kwh in consumption.kwh]
    return {
        "consumption": list(consumption.kwh),
        "production": list(production.kwh),
        "cost": costs if price is not None else None,
        "currency": rates.currency,
        "pricePerKwh": price,
        "partial": list(consumption.partial),
        "productionPartial": list(production.partial),
        "totalConsumption": consumption.total_kwh,
        "totalProduction": production.total_kwh,
        "totalCost": sum_of_known(costs),
        "totalPartial": consumption.total_is_partial,
        "totalProductionPartial": production.total_is_partial,
    }


def _peak(consumption: EnergyColumns, slots: Slots) -> Peak:
    found = peak(consumption.mean_kw, slots)
    if found is None:
        return {"power": None, "at": None}
    return {"power": found[0], "at": timestamp(found[1])}


def _meter(recorded_: Recorded, found: EnergyColumns) -> MeterEnergy:
    meter = recorded_.life.meter
    return {
        "meterId": meter.id,
        "name": meter.name,
        "meterType": meter.meter_type,
        "registered": recorded_.is_registered,
        "meanPower": list(found.mean_kw),
        "energy": list(found.kwh),
        "totalEnergy": found.total_kwh,
        "totalPartial": found.total_is_partial,
    }


# --- Who is asked --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """A meter that is registered, or was recorded when it was. parts: as what it counted."""

    life: Part
    parts: Sequence[Part]
    is_registered: bool


def recorded(history: History, snapshot: Snapshot) -> list[Recorded]:
    """Give the meters that are registered, then those that are not any more."""
    series: dict[str, list[Series]] = {}
    for one in history.series():
        series.setdefault(one.meter_id, []).append(one)
    registered = {state.meter.id: state.meter for state in snapshot.meters.values()}
    stretches: dict[str, list[Stretch]] = {}
    for meter in rested(registered.values()):
        types = {counted_in(one.meter_type) for one in series.get(meter.id, ())}
        if types == {counted_in(meter.meter_type)} and (first := history.first(meter.id)):
            stretches[meter.id] = [first]
    others = [meter_id for meter_id in series if meter_id not in stretches]
    stretches |= history.stretches(others, snapshot.unix_ms + 1)
    found = []
    for meter_id in dict.fromkeys((*registered, *series)):
        stales_ms = (one.stale_after_ms for one in series.get(meter_id, ()))
        held_ms = min(max(stales_ms, default=0), LONGEST_HELD_MS)
        of_it = registered.get(meter_id), stretches.get(meter_id, ()), held_ms
        life = life_of(*of_it)
        if life is not None:
            found.append(Recorded(life, parts_of(*of_it), meter_id in registered))
    return found
