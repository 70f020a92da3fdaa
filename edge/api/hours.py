"""The power of meters minute by minute, an hour at a time: read from the journal, or kept."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import groupby
from math import fsum, isnan, nan

from edge.analytics import Curve, worse
from edge.api.readers import rested
from edge.clock import Clock
from edge.counting import Part
from edge.journal.history import History
from edge.record import Chunk, EnergySource, Resolution, Rollup
from edge.rollup import daily
from edge.steps import Grid, steps
from edge.times import HOUR_MS

KEPT_HOURS = 3000
"""Hours of meters that are kept, of about 1.7 kB each."""
KEPT_S = 900.0
"""A clock that is corrected moves readings, so nothing is kept for long."""

_SETTLED_MS = 2 * HOUR_MS
"""So long after an hour its readings are on the disk, however rarely they are committed."""
_MINUTE_MS = 60_000
_NOTHING = array("d", bytes(60 * 8))
_UNKNOWN = array("d", [nan] * 60)


@dataclass(frozen=True)
class Hour:
    """An hour (UTC) of a meter, minute by minute; never changed once it was given away.

    worst_kw: the power with which least was free, NaN where none is known.
    """

    start_ms: int
    kw_ms: array[float]
    weight_ms: array[float]
    worst_kw: array[float]

    def minutes(self) -> Iterator[tuple[int, float, float, float]]:
        """Give of each minute of which something is known its begin and the three."""
        columns = zip(self.kw_ms, self.weight_ms, self.worst_kw, strict=True)
        for minute, (kw_ms, weight_ms, worst_kw) in enumerate(columns):
            if not isnan(worst_kw):
                yield self.start_ms + minute * _MINUTE_MS, kw_ms, weight_ms, worst_kw

    def add_to(self, curve: Curve, begin_ms: int) -> None:
        """Add its minutes from begin_ms on to the steps they are in."""
        grid = curve.grid
        for start_ms, kw_ms, weight_ms, worst_kw in self.minutes():
            number = (start_ms - grid.begin_ms) // grid.step_ms
            if start_ms >= begin_ms and 0 <= number < grid.count:
                curve.add(number, kw_ms, weight_ms, worst_kw, sure=start_ms < curve.sure_ms)


class Hours:
    """Hours of meters, read from the journal or kept from before. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, frozenset[str], int], tuple[float, Hour]]
        self._kept = OrderedDict()

    def of(
        self, history: History, part: Part, from_ms: int, to_ms: int, now_ms: int
    ) -> Iterator[Hour]:
        """Give the hours that from_ms <= t < to_ms touches, as far as the meter counted then."""
        numbers = [
            number
            for number in range(from_ms // HOUR_MS, -(-to_ms // HOUR_MS))
            if part.counted_ms(number * HOUR_MS, (number + 1) * HOUR_MS)
        ]
        known = {number: self._known(part, number) for number in numbers}
        for is_known, run in groupby(numbers, key=lambda number: known[number] is not None):
            if is_known:
                yield from (hour for hour in map(known.get, run) if hour is not None)
            else:
                for first, count in _side_by_side(list(run)):
                    yield from self._read(history, part, first, count, now_ms)

    def rollups(
        self, history: History, part: Part, rows: Iterable[Rollup], now_ms: int
    ) -> Iterator[Rollup]:
        """Give the hours or days of a meter in which it counted.

        rows: all of its hours or days. One that it counted in for a time only, as it was something
        else before or after, is made anew of what it gave while it counted.
        """
        for row in rows:
            end_ms = row.start_ms + row.length_ms
            again: Rollup | None = row
            if part.is_mixed(row.start_ms, end_ms):
                if row.resolution is Resolution.HOURLY:
                    again = self._hour_again(history, part, row, now_ms)
                else:
                    hours = history.rollups(part.meter.id, Resolution.HOURLY, row.start_ms, end_ms)
                    counted = list(self.rollups(history, part, hours, now_ms))
                    again = daily(row.start_ms, row.length_ms, counted)
            elif row.series.meter_type not in part.types:
                again = None
            if again is not None:
                yield again

    def _hour_again(self, history: History, part: Part, row: Rollup, now_ms: int) -> Rollup | None:
        """Make an hour anew from readings; None where there are none.

        Of the least and the largest power it has the worse one only.
        """
        begin_ms, end_ms = row.start_ms, row.start_ms + row.length_ms
        minutes = [
            minute
            for hour in self.of(history, part, begin_ms, end_ms, now_ms)
            for minute in hour.minutes()
            if begin_ms <= minute[0] < end_ms
        ]
        kw_ms = fsum(minute[1] for minute in minutes)
        weight_ms = fsum(minute[2] for minute in minutes)
        if not weight_ms:
            return None
        worst_kw = reduce(partial(worse, part.meter), (minute[3] for minute in minutes), None)
        return replace(
            row,
            mean_kw=kw_ms / weight_ms,
            min_kw=worst_kw,
            max_kw=worst_kw,
            energy_kwh=kw_ms / HOUR_MS,
            energy_source=EnergySource.INTEGRAL,
            covered_ms=round(weight_ms),
        )

    def _read(
        self, history: History, part: Part, first: int, count: int, now_ms: int
    ) -> list[Hour]:
        """Read hours side by side, and keep those that nothing more will come to."""
        grid = Grid(first * HOUR_MS, _MINUTE_MS, 60 * count)
        from_ms, to_ms = grid.begin_ms - part.held_ms, grid.end_ms + part.held_ms
        seen_ms = [0]
        chunks = _counted(history.raw(part.meter.id, from_ms, to_ms), part, seen_ms)
        hours = [
            Hour((first + index) * HOUR_MS, _NOTHING[:], _NOTHING[:], _UNKNOWN[:])
            for index in range(count)
        ]
        for step in steps(rested(chunks), grid, now_ms):
            index, minute = divmod((step.start_ms - grid.begin_ms) // _MINUTE_MS, 60)
            hour = hours[index]
            hour.kw_ms[minute] = step.kw_ms
            hour.weight_ms[minute] = step.weight_ms
            worst_kw = worse(part.meter, step.min_kw, step.max_kw)
            hour.worst_kw[minute] = nan if worst_kw is None else worst_kw
        for hour in hours:
            end_ms = hour.start_ms + HOUR_MS
            if seen_ms[0] >= end_ms or now_ms >= end_ms + _SETTLED_MS:
                self._keep(part, hour)
        return hours

    def _known(self, part: Part, number: int) -> Hour | None:
        key = part.meter.id, part.types, number
        with self._lock:
            kept_s, hour = self._kept.get(key, (0.0, None))
            if hour is None or self._clock.mono_s() - kept_s > KEPT_S:
                return None
            self._kept.move_to_end(key)
            return hour

    def _keep(self, part: Part, hour: Hour) -> None:
        key = part.meter.id, part.types, hour.start_ms // HOUR_MS
        with self._lock:
            self._kept[key] = self._clock.mono_s(), hour
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_HOURS:
                self._kept.popitem(last=False)


def _side_by_side(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Give runs of numbers that follow each other: the first of each, and how many they are."""
    for _, run in groupby(enumerate(numbers), key=lambda one: one[1] - one[0]):
        followers = [number for _, number in run]
        yield followers[0], len(followers)


def _counted(chunks: Iterator[Chunk], part: Part, seen_ms: list[int]) -> Iterator[Chunk]:
    """Take the values from what was recorded while the meter counted as something else, or not.

    What held before them ends with them. seen_ms: holds how far the readings were seen.
    """
    for chunk in chunks:
        seen_ms[0] = chunk.unix_ms[-1]
        counts = chunk.series.meter_type in part.types
        yield chunk if counts else replace(chunk, values={})
