"""What the site used and made: its power in even steps, its energy by hours and days. Pure.

The site is the sum of its meters: `grid` and `building` make the consumption, `solar` the
production. Unknown is None and makes the sum None, since a sum without one of its parts is wrong
and looks right. A step, an hour or a day of a meter is known when its power is known for at least
half of it, or of what has passed of it; energy that comes from a counter is known in any case, as a
counter goes on counting while nobody reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from math import fsum, isfinite

from edge.load import load_status
from edge.model import CONSUMING_TYPES, Meter, MeterState, Reading, Status
from edge.record import EnergySource, Resolution, Rollup
from edge.rollup import day_of, hour_of
from edge.steps import Grid

KNOWN_SHARE = 0.5
"""Of a time whose mean is told, this much at least must be covered."""
WHOLE_SHARE = 0.99
"""What is covered less is `partial`: a restart of the service is not worth a mark."""

PRODUCING_TYPES = frozenset({"solar"})


# --- The site's power ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Power of a meter by the steps of a grid: its integral, and the time in which it is known."""

    kw_ms: MutableSequence[float]
    weight_ms: MutableSequence[float]

    def means(self, grid: Grid, now_ms: int) -> list[float | None]:
        """Give the mean of each step, kW; None where too little of it is known."""
        found: list[float | None] = []
        for number, (kw_ms, weight_ms) in enumerate(zip(self.kw_ms, self.weight_ms, strict=True)):
            begin_ms = grid.start_ms(number)
            passed_ms = min(grid.step_ms, now_ms - begin_ms)
            known = weight_ms > 0 and weight_ms >= KNOWN_SHARE * passed_ms
            found.append(_rounded(kw_ms / weight_ms) if known else None)
        return found


def summed(columns: Sequence[Sequence[float | None]], count: int) -> list[float | None]:
    """Add columns of `count` values row by row; None where one is None, or there is no column."""
    if not columns:
        return [None] * count
    return [_sum(row) for row in zip(*columns, strict=True)]


def available(
    counted: Mapping[Meter, Sequence[float | None]],
    count: int,
    grid_capacity_kw: float,
    failsafe_available_kw: float,
) -> Iterator[float | None]:
    """Give what was free for charging in each step, kW, by the rules of the load status.

    counted: of each grid, building and solar meter its power by steps; a meter that is not known
    counts as it would if it failed now. None where nothing at all is known: then nobody was there
    to give anything. It is worked out from means and with the settings of today, so it is no record
    of what was said then.
    """
    states = {meter: MeterState(meter, status=Status.OFFLINE) for meter in counted}
    for number in range(count):
        for meter, column in counted.items():
            states[meter] = _state_then(states[meter], column[number])
        if all(state.status is Status.OFFLINE for state in states.values()):
            yield None
            continue
        load = load_status(states.values(), grid_capacity_kw, failsafe_available_kw)
        yield load.available_kw


def _state_then(before: MeterState, kw: float | None) -> MeterState:
    """Give a meter as it was in a step; its last power stays known."""
    if kw is None:
        return replace(before, status=Status.OFFLINE)
    reading = Reading({"power": kw}, mono_s=0.0, unix_ms=0)
    return replace(before, status=Status.ONLINE, reading=reading, last_power_kw=kw)


# --- Energy --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slots:
    """Hours or days of the site, one after the other. starts_ms: of each, and the end of all."""

    starts_ms: Sequence[int]

    def __len__(self) -> int:
        return len(self.starts_ms) - 1

    @staticmethod
    def between(from_ms: int, to_ms: int, resolution: Resolution, zone: tzinfo) -> Slots:
        """Give the hours or days that from_ms <= t < to_ms touches."""
        slot_of = day_of if resolution is Resolution.DAILY else hour_of
        starts_ms = [slot_of(from_ms, zone)[0]]
        while starts_ms[-1] < to_ms:
            starts_ms.append(sum(slot_of(starts_ms[-1], zone)))
        return Slots(starts_ms)


@dataclass(frozen=True)
class EnergyColumns:
    """Energy of a meter, or of the site, by hours or days; all of one length.

    kwh: None is unknown. partial: what is known may be too little, as not all was measured.
    """

    mean_kw: Sequence[float | None]
    kwh: Sequence[float | None]
    partial: Sequence[bool]

    @property
    def total_kwh(self) -> float | None:
        """Sum of what is known; None where nothing is."""
        return sum_of_known(self.kwh)

    @property
    def total_is_partial(self) -> bool:
        """Whether something is missing in the total."""
        return None in self.kwh or any(self.partial)


def energy_of_meter(rollups: Iterable[Rollup], slots: Slots, now_ms: int) -> EnergyColumns:
    """Put a meter's hours or days into their places.

    An integral over less than half of the time is not its energy: it would be too small by more
    than it is.
    """
    by_start = {rollup.start_ms: rollup for rollup in rollups}
    mean_kw: list[float | None] = []
    kwh: list[float | None] = []
    partial: list[bool] = []
    for start_ms, end_ms in zip(slots.starts_ms, slots.starts_ms[1:], strict=False):
        rollup = by_start.get(start_ms)
        passed_ms = min(end_ms, now_ms) - start_ms
        share = rollup.covered_ms / passed_ms if rollup is not None and passed_ms > 0 else 0.0
        known = rollup if share >= KNOWN_SHARE else None
        measured = known
        if rollup is not None and rollup.energy_source is EnergySource.COUNTER:
            measured = rollup
        mean_kw.append(_finite(known.mean_kw) if known is not None else None)
        kwh.append(_finite(measured.energy_kwh) if measured is not None else None)
        partial.append(share < WHOLE_SHARE or now_ms < end_ms)
    return EnergyColumns(mean_kw, kwh, partial)


def energy_of_site(meters: Sequence[EnergyColumns], count: int) -> EnergyColumns:
    """Add meters up; what is unknown of one of them is unknown of the site."""
    partial = [any(row) for row in zip(*(one.partial for one in meters), strict=True)]
    return EnergyColumns(
        summed([one.mean_kw for one in meters], count),
        summed([one.kwh for one in meters], count),
        partial if meters else [True] * count,
    )


def cost(kwh: float | None, price_per_kwh: float | None) -> float | None:
    """Give what energy costs; None without a price. What was fed back earns nothing."""
    if kwh is None or price_per_kwh is None:
        return None
    return _rounded(max(0.0, kwh) * price_per_kwh)


def peak(mean_kw: Sequence[float | None], slots: Slots) -> tuple[float, int] | None:
    """Give the largest mean of an hour or day, kW, and where that begins; None of nothing known.

    The largest readings of several meters were not taken at the same moment, so they add up to no
    power that ever flowed.
    """
    known = [
        (kw, start_ms)
        for kw, start_ms in zip(mean_kw, slots.starts_ms, strict=False)
        if kw is not None
    ]
    return max(known, key=lambda one: one[0], default=None)


def counted_in(meter_type: str) -> frozenset[str]:
    """Give the types of meters that are added up with this one; none where it does not count."""
    for types in (CONSUMING_TYPES, PRODUCING_TYPES):
        if meter_type in types:
            return types
    return frozenset()


def sum_of_known(values: Sequence[float | None]) -> float | None:
    """Add up what is known; None where nothing is."""
    return _sum([value for value in values if value is not None])


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(fsum(known)) if known and len(known) == len(values) else None


def _finite(value: float | None) -> float | None:
    return _rounded(value) if value is not None and isfinite(value) else None


def _rounded(value: float) -> float:
    """Round float noise away, to 6 decimals; adding 0.0 turns -0.0 into 0.0."""
    return round(value, 6) + 0.0
