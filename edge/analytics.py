"""What the site used and made: its power in even steps, its energy by hours and days. Pure.

The site is the sum of the meters that counted then (`counting`): `grid` and `building` make the
consumption, `solar` the production; one that counted for a part of a step adds that part of its
power. Unknown is None and makes the sum None, since a sum without one of its parts is wrong and
looks right. A step, an hour or a day of a meter is known when its power is known for at least half
of the time in which it counted; energy that comes from a counter is known in any case, as a counter
goes on counting while nobody reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from math import fsum, isfinite
from typing import TypeVar

from edge.counting import Part
from edge.load import load_status
from edge.model import PRODUCING_TYPES, Meter, MeterState, Reading, Status, rounded
from edge.record import EnergySource, Resolution, Rollup
from edge.rollup import day_of, hour_of
from edge.steps import Grid

KNOWN_SHARE = 0.5
"""Of a time whose mean is told, this much at least must be covered."""
WHOLE_SHARE = 0.99
"""What is covered less is `partial`: a restart of the service is not worth a mark."""
LONGEST_HOLE_MS = 10_000
"""No step that misses more is whole, however long it is."""
LATE_MS = 60_000
"""So long after a reading it is on the disk, as a rule."""

_MINUTE_MS = 60_000


# --- The site's power ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A meter by the steps of a grid; all of one length.

    shares: how much of each step, as far as it has passed, it counted, 0 to 1. mean_kw: while it
    counted; None is unknown. worst_kw: the most that it used, or the least that it made, of what is
    known. whole: whether nothing of its power is missing; None where it is too early to tell.
    """

    meter: Meter
    shares: Sequence[float]
    mean_kw: Sequence[float | None]
    worst_kw: Sequence[float | None]
    whole: Sequence[bool | None]


class Curve:
    """Power of a meter by the steps of a grid, to be filled. now_ms: unix ms."""

    def __init__(self, part: Part, grid: Grid, now_ms: int) -> None:
        self.grid = grid
        self.sure_ms = (now_ms - LATE_MS) // _MINUTE_MS * _MINUTE_MS
        """Up to when all is on the disk."""
        self._part = part
        self._now_ms = now_ms
        self._kw_ms = [0.0] * grid.count
        self._weight_ms = [0.0] * grid.count
        self._sure_weight_ms = [0.0] * grid.count
        self._worst_kw: list[float | None] = [None] * grid.count

    def add(
        self, number: int, kw_ms: float, weight_ms: float, worst_kw: float, *, sure: bool
    ) -> None:
        """Add to a step the integral of power over a time in it. sure: all of it is on the disk."""
        self._kw_ms[number] += kw_ms
        self._weight_ms[number] += weight_ms
        if sure:
            self._sure_weight_ms[number] += weight_ms
        self._worst_kw[number] = worse(self._part.meter, self._worst_kw[number], worst_kw)

    def column(self) -> Column:
        """Give what came of it."""
        shares: list[float] = []
        mean_kw: list[float | None] = []
        whole: list[bool | None] = []
        for number, (kw_ms, weight_ms) in enumerate(zip(self._kw_ms, self._weight_ms, strict=True)):
            begin_ms = self.grid.start_ms(number)
            end_ms = min(begin_ms + self.grid.step_ms, self._now_ms)
            counted_ms = self._part.counted_ms(begin_ms, end_ms)
            known = counted_ms > 0 and weight_ms > 0 and weight_ms >= KNOWN_SHARE * counted_ms
            shares.append(counted_ms / (end_ms - begin_ms) if counted_ms else 0.0)
            mean_kw.append(kw_ms / weight_ms if known else None)
            whole.append(self._is_whole(number, begin_ms, end_ms))
        return Column(self._part.meter, shares, mean_kw, self._worst_kw, whole)

    def _is_whole(self, number: int, begin_ms: int, end_ms: int) -> bool | None:
        if self._part.is_unsure(begin_ms, end_ms):
            return False
        sure_ms = self._part.counted_ms(begin_ms, min(end_ms, self.sure_ms))
        if not sure_ms:
            return True if self._weight_ms[number] else None
        missing_ms = sure_ms - self._sure_weight_ms[number]
        return missing_ms <= min(LONGEST_HOLE_MS, (1 - WHOLE_SHARE) * sure_ms)


def worse(meter: Meter, one_kw: float | None, other_kw: float | None) -> float | None:
    """Give the power with which less is free; None where none is known."""
    known = [kw for kw in (one_kw, other_kw) if kw is not None]
    if meter.meter_type in PRODUCING_TYPES:
        return min(known, default=None)
    return max(known, default=None)


def summed(columns: Sequence[Column], count: int) -> list[float | None]:
    """Add up, step by step, the means of the meters that counted; None of none."""
    return [
        _sum([_part_of(one.mean_kw[number], one.shares[number]) for one in _of(columns, number)])
        for number in range(count)
    ]


def available(
    columns: Sequence[Column],
    count: int,
    grid_capacity_kw: float,
    failsafe_available_kw: float,
) -> Iterator[float | None]:
    """Give what was free for charging throughout each step, kW, by the rules of the load status.

    columns: of each grid, building and solar meter. Each counts with the most that it used, or the
    least that it made, within the step: these need not have met, so at times more was free. One of
    whose step something is missing counts as if it had failed, with the worst that is known since
    it last was whole. None where nothing at all is known: then nobody was there to give anything.
    It is worked out with the settings of today, so it is no record of what was said then.
    """
    states = [MeterState(column.meter, status=Status.OFFLINE) for column in columns]
    for number in range(count):
        there = [index for index, column in enumerate(columns) if column.shares[number]]
        for index in there:
            states[index] = _state_then(states[index], columns[index], number)
        nothing_known = all(columns[index].worst_kw[number] is None for index in there)
        if nothing_known or any(columns[index].whole[number] is None for index in there):
            yield None
            continue
        then = (states[index] for index in there)
        yield load_status(then, grid_capacity_kw, failsafe_available_kw).available_kw


def _state_then(before: MeterState, column: Column, number: int) -> MeterState:
    """Give a meter as it was in a step; its last power stays known."""
    kw = column.worst_kw[number]
    if kw is None or not column.whole[number]:
        last_kw = worse(before.meter, before.last_power_kw, kw)
        return replace(before, status=Status.OFFLINE, last_power_kw=last_kw)
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

    shares: how much of each, as far as it has passed, it counted, 0 to 1. mean_kw: while it
    counted. kwh: None is unknown. partial: what is known may be too little, as not all was
    measured.
    """

    shares: Sequence[float]
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


def energy_of_meter(
    rollups: Iterable[Rollup], slots: Slots, now_ms: int, part: Part
) -> EnergyColumns:
    """Put the hours or days of a meter, as one that counted, into their places.

    An integral over less than half of the time is not its energy: it would be too small by more
    than it is.
    """
    by_start = {rollup.start_ms: rollup for rollup in rollups}
    shares: list[float] = []
    mean_kw: list[float | None] = []
    kwh: list[float | None] = []
    partial: list[bool] = []
    for start_ms, end_ms in zip(slots.starts_ms, slots.starts_ms[1:], strict=False):
        rollup = by_start.get(start_ms)
        passed_ms = min(end_ms, now_ms) - start_ms
        counted_ms = part.counted_ms(start_ms, min(end_ms, now_ms))
        covered = rollup.covered_ms / counted_ms if rollup is not None and counted_ms else 0.0
        known = rollup if covered >= KNOWN_SHARE else None
        measured = known
        if rollup is not None and counted_ms and rollup.energy_source is EnergySource.COUNTER:
            measured = rollup
        shares.append(counted_ms / passed_ms if counted_ms else 0.0)
        mean_kw.append(_finite(known.mean_kw) if known is not None else None)
        kwh.append(_finite(measured.energy_kwh) if measured is not None else None)
        is_open = now_ms < end_ms or part.is_unsure(start_ms, end_ms)
        partial.append(covered < WHOLE_SHARE or is_open)
    return EnergyColumns(shares, mean_kw, kwh, partial)


def energy_of_site(meters: Sequence[EnergyColumns], count: int) -> EnergyColumns:
    """Add up the meters that counted; what is unknown of one of them is unknown of the site."""
    shares: list[float] = []
    mean_kw: list[float | None] = []
    kwh: list[float | None] = []
    partial: list[bool] = []
    for number in range(count):
        there = _of(meters, number)
        shares.append(max((one.shares[number] for one in there), default=0.0))
        mean_kw.append(_sum([_part_of(one.mean_kw[number], one.shares[number]) for one in there]))
        kwh.append(_sum([one.kwh[number] for one in there]))
        partial.append(not there or any(one.partial[number] for one in there))
    return EnergyColumns(shares, mean_kw, kwh, partial)


def cost(kwh: float | None, price_per_kwh: float | None) -> float | None:
    """Give what energy costs; None without a price. What was fed back earns nothing."""
    if kwh is None or price_per_kwh is None:
        return None
    return rounded(max(0.0, kwh) * price_per_kwh)


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


def sum_of_known(values: Sequence[float | None]) -> float | None:
    """Add up what is known; None where nothing is."""
    return _sum([value for value in values if value is not None])


_Columns = TypeVar("_Columns", Column, EnergyColumns)


def _of(columns: Sequence[_Columns], number: int) -> list[_Columns]:
    """Give those that counted in a step, an hour or a day."""
    return [one for one in columns if one.shares[number]]


def _part_of(kw: float | None, share: float) -> float | None:
    return None if kw is None else kw * share


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(fsum(known)) if known and len(known) == len(values) else None


def _finite(value: float | None) -> float | None:
    return rounded(value) if value is not None and isfinite(value) else None
