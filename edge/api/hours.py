"""The power of meters minute by minute, an hour at a time: read from the journal, or kept."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from edge.analytics import Curve, counted_in
from edge.api.readers import rested
from edge.clock import Clock
from edge.journal.history import History
from edge.model import Meter
from edge.record import Chunk
from edge.steps import Grid, steps
from edge.times import HOUR_MS

KEPT_HOURS = 3000
"""Hours of meters that are kept, of about 1.2 kB each."""
KEPT_S = 900.0
"""A clock that is corrected moves readings, so nothing is kept for long."""

_SETTLED_MS = 2 * HOUR_MS
"""So long after an hour its readings are on the disk, however rarely they are committed."""
_LONGEST_HELD_MS = 3 * HOUR_MS
_MINUTE_MS = 60_000
_NOTHING = bytes(60 * 8)


@dataclass(frozen=True)
class Hour:
    """An hour (UTC) of a meter, minute by minute; never changed once it was given away."""

    start_ms: int
    kw_ms: array[float]
    weight_ms: array[float]

    def add_to(self, curve: Curve, grid: Grid, begin_ms: int) -> None:
        """Add its minutes from begin_ms on to the steps they are in."""
        for minute in range(60):
            start_ms = self.start_ms + minute * _MINUTE_MS
            number = (start_ms - grid.begin_ms) // grid.step_ms
            if start_ms >= begin_ms and 0 <= number < grid.count:
                curve.kw_ms[number] += self.kw_ms[minute]
                curve.weight_ms[number] += self.weight_ms[minute]


class Hours:
    """Hours of meters, read from the journal or kept from before. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, frozenset[str], int], tuple[float, Hour]]
        self._kept = OrderedDict()

    def of(
        self, history: History, meter: Meter, from_ms: int, to_ms: int, now_ms: int
    ) -> Iterator[Hour]:
        """Give the hours that from_ms <= t < to_ms touches, in no order; not those of nothing."""
        numbers = range(from_ms // HOUR_MS, -(-to_ms // HOUR_MS))
        known = {number: self._known(meter, number) for number in numbers}
        for is_known, run in groupby(numbers, key=lambda number: known[number] is not None):
            if is_known:
                yield from (hour for hour in map(known.get, run) if hour is not None)
            else:
                missing = list(run)
                yield from self._read(history, meter, missing[0], len(missing), now_ms)

    def _read(
        self, history: History, meter: Meter, first: int, count: int, now_ms: int
    ) -> list[Hour]:
        """Read hours side by side, and keep those that nothing more will come to."""
        grid = Grid(first * HOUR_MS, _MINUTE_MS, 60 * count)
        held_ms = min(meter.stale_after_ms, _LONGEST_HELD_MS)
        seen_ms = [0]
        chunks = _counted(
            history.raw(meter.id, grid.begin_ms - held_ms, grid.end_ms + held_ms), meter, seen_ms
        )
        hours = [
            Hour((first + index) * HOUR_MS, array("d", _NOTHING), array("d", _NOTHING))
            for index in range(count)
        ]
        for step in steps(rested(chunks), grid, now_ms):
            hour, minute = divmod((step.start_ms - grid.begin_ms) // _MINUTE_MS, 60)
            hours[hour].kw_ms[minute] = step.kw_ms
            hours[hour].weight_ms[minute] = step.weight_ms
        for hour_ in hours:
            end_ms = hour_.start_ms + HOUR_MS
            if seen_ms[0] >= end_ms or now_ms >= end_ms + _SETTLED_MS:
                self._keep(meter, hour_)
        return hours

    def _known(self, meter: Meter, number: int) -> Hour | None:
        key = meter.id, counted_in(meter.meter_type), number
        with self._lock:
            kept_s, hour = self._kept.get(key, (0.0, None))
            if hour is None or self._clock.mono_s() - kept_s > KEPT_S:
                return None
            self._kept.move_to_end(key)
            return hour

    def _keep(self, meter: Meter, hour: Hour) -> None:
        key = meter.id, counted_in(meter.meter_type), hour.start_ms // HOUR_MS
        with self._lock:
            self._kept[key] = self._clock.mono_s(), hour
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_HOURS:
                self._kept.popitem(last=False)


def _counted(chunks: Iterator[Chunk], meter: Meter, seen_ms: list[int]) -> Iterator[Chunk]:
    """Leave out what was recorded while the meter counted as something else, or not at all.

    seen_ms: holds how far the readings were seen.
    """
    types = counted_in(meter.meter_type)
    for chunk in chunks:
        seen_ms[0] = chunk.unix_ms[-1]
        if chunk.series.meter_type in types:
            yield chunk
