"""Readings reduced to even steps of time, for charts and sums. Pure.

Power is held from one reading to the next, no longer than the meter's stale-after time, as in its
hours and days (`rollup`): so the mean of a step is weighted with time. A plain mean of the readings
would count a meter that speaks when something changes too much while it changes, and would know
nothing of a step that is shorter than a poll interval. Suspect readings are left out, and the last
reading of an era covers nothing, as nobody knows how soon after it the era ended.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from operator import mul, sub

from edge.model import rounded
from edge.record import Chunk
from edge.times import HOUR_MS

LONGEST_HELD_MS = 3 * HOUR_MS
"""However long a reading is live: so far before the first step is looked for one that holds."""

_LARGEST_KW = 1e12
"""No power is larger; beyond it a number is noise, and sums could overflow."""
_LONGEST_PAUSE_MS = 2 * HOUR_MS
"""Where the clock was put back two eras run side by side; one that pauses for longer is over."""


@dataclass
class Step:
    """Power of a meter within one step, of which something is known.

    kw_ms: its integral over weight_ms, the time within the step in which it is known. min_kw,
    max_kw: of what held within the step. samples: readings taken in it that gave power.
    """

    start_ms: int
    length_ms: int
    kw_ms: float = 0.0
    weight_ms: int = 0
    min_kw: float | None = None
    max_kw: float | None = None
    samples: int = 0

    @property
    def mean_kw(self) -> float | None:
        """Mean over the time that is known, to 6 decimals; None where none is."""
        return rounded(self.kw_ms / self.weight_ms) if self.weight_ms else None


@dataclass(frozen=True)
class Grid:
    """Steps of one length, side by side: step n is [begin_ms + n × step_ms, … + step_ms)."""

    begin_ms: int
    step_ms: int
    count: int

    @property
    def end_ms(self) -> int:
        """Where the last step ends."""
        return self.start_ms(self.count)

    def start_ms(self, number: int) -> int:
        """Where a step begins."""
        return self.begin_ms + number * self.step_ms

    def after(self, start_ms: int) -> Grid:
        """Give what is left of it behind the step that begins there."""
        done = (start_ms - self.begin_ms) // self.step_ms + 1
        done = min(max(0, done), self.count)
        return Grid(self.start_ms(done), self.step_ms, self.count - done)

    @staticmethod
    def around(from_ms: int, to_ms: int, step_ms: int, origin_ms: int = 0) -> Grid:
        """Give the whole steps that from_ms <= t < to_ms touches; one begins at origin_ms."""
        first = (from_ms - origin_ms) // step_ms
        end = -((origin_ms - to_ms) // step_ms)
        return Grid(origin_ms + first * step_ms, step_ms, max(0, end - first))


@dataclass(frozen=True)
class _Held:
    """The last reading of an era so far: how long it holds is known when the next one comes."""

    unix_ms: int
    kw: float | None
    stale_after_ms: int


def steps(chunks: Iterable[Chunk], grid: Grid, now_ms: int) -> Iterator[Step]:
    """Reduce readings of a meter to the steps in which something is known, in order.

    chunks: by time, as `History.raw` gives them, from stale-after before the grid until as much
    behind it. now_ms: how far the last reading of the newest era may hold.
    """
    reducer = _Reducer(grid)
    held: dict[int, _Held] = {}
    for chunk in chunks:
        begin_ms = chunk.unix_ms[0]
        for era in [era for era in held if era < chunk.era]:
            if held[era].unix_ms + _LONGEST_PAUSE_MS < begin_ms:
                reducer.put_end(held.pop(era))
        held[chunk.era] = reducer.put(chunk, held.get(chunk.era))
        yield from reducer.finished(min(last.unix_ms for last in held.values()))
    newest = max(held, default=0)
    for era, last in held.items():
        until_ms = min(last.unix_ms + last.stale_after_ms, now_ms) if era == newest else 0
        reducer.put_end(last, until_ms)
    yield from reducer.finished(grid.end_ms)


class _Reducer:
    """The steps that are being filled. What lies outside the grid is left out."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._open: dict[int, Step] = {}

    def put(self, chunk: Chunk, before: _Held | None) -> _Held:
        """Add readings and the one before them in their era; gives the last one, not added yet."""
        column = _good_kw(chunk)
        times: list[int] = list(chunk.unix_ms)
        stale_after_ms = chunk.series.stale_after_ms
        limits: Iterable[int] = repeat(stale_after_ms)
        if before is not None:
            times.insert(0, min(before.unix_ms, times[0]))
            column.insert(0, before.kw)
            limits = chain((before.stale_after_ms,), limits)
        live_ms = list(map(min, map(sub, times[1:], times), limits))
        if live_ms:
            self._add(_Run(times[:-1], column[:-1], live_ms))
        return _Held(times[-1], column[-1], stale_after_ms)

    def put_end(self, last: _Held, until_ms: int = 0) -> None:
        """Add the last reading of an era. until_ms: when it stopped to hold; 0 is at once."""
        self._add(_Run([last.unix_ms], [last.kw], [max(0, until_ms - last.unix_ms)]))

    def finished(self, before_ms: int) -> Iterator[Step]:
        """Give away the steps that end by then, in order."""
        grid = self._grid
        number = (before_ms - grid.begin_ms) // grid.step_ms
        for key in sorted(key for key in self._open if key < number):
            yield self._open.pop(key)

    def _add(self, run: _Run) -> None:
        grid = self._grid
        first = max(0, (run.begin_ms - grid.begin_ms) // grid.step_ms)
        end = min(grid.count, (run.last_ms - grid.begin_ms) // grid.step_ms + 1)
        for number in range(first, end):
            begin_ms = grid.start_ms(number)
            until_ms = begin_ms + grid.step_ms
            known, samples = run.between(begin_ms, until_ms)
            if not known:
                continue
            step = self._open.setdefault(number, Step(begin_ms, grid.step_ms))
            (from_kw_ms, from_ms), (to_kw_ms, to_ms) = run.up_to(begin_ms), run.up_to(until_ms)
            step.kw_ms += to_kw_ms - from_kw_ms
            step.weight_ms += to_ms - from_ms
            step.samples += samples
            step.min_kw = min(known if step.min_kw is None else (step.min_kw, *known))
            step.max_kw = max(known if step.max_kw is None else (step.max_kw, *known))


class _Run:
    """Readings by time, each with how long it holds.

    What flowed up to any moment is looked up in running sums, so a step costs about the same
    however many readings are in it.
    """

    def __init__(
        self, times: Sequence[int], kw: Sequence[float | None], live_ms: Sequence[int]
    ) -> None:
        self._times = times
        self._kw = kw
        self._live_ms = live_ms
        self._known_kw = [0.0 if value is None else value for value in kw]
        self._weights = live_ms
        if None in kw:
            both = zip(kw, live_ms, strict=True)
            self._weights = [0 if value is None else ms for value, ms in both]
        self._kw_ms = list(accumulate(map(mul, self._known_kw, self._weights), initial=0.0))
        self._weight_ms = list(accumulate(self._weights, initial=0))

    @property
    def begin_ms(self) -> int:
        """When the first one was taken."""
        return self._times[0]

    @property
    def last_ms(self) -> int:
        """The last moment that it says something of."""
        return self._times[-1] + max(0, self._live_ms[-1] - 1)

    def up_to(self, unix_ms: int) -> tuple[float, int]:
        """Give the integral of power until a moment, and the time in which it was known."""
        index = bisect_left(self._times, unix_ms) - 1
        if index < 0:
            return 0.0, 0
        weight_ms = min(unix_ms - self._times[index], self._weights[index])
        kw_ms = self._kw_ms[index] + self._known_kw[index] * weight_ms
        return kw_ms, self._weight_ms[index] + weight_ms

    def between(self, begin_ms: int, until_ms: int) -> tuple[list[float], int]:
        """Give all power that held then, also what was read before, and how much was read then."""
        inside = bisect_left(self._times, begin_ms)
        stop = bisect_left(self._times, until_ms, inside)
        read = [value for value in self._kw[inside:stop] if value is not None]
        samples = len(read)
        held = bisect_right(self._times, begin_ms) - 1
        if 0 <= held < inside and self._times[held] + self._weights[held] > begin_ms:
            read.append(self._known_kw[held])
        return read, samples


def _good_kw(chunk: Chunk) -> list[float | None]:
    """Give the power of a chunk's readings; None where one had none, or is suspect."""
    column = chunk.values.get("power")
    if column is None:
        return [None] * len(chunk)
    kw = list(column)
    if any(chunk.suspect):
        kw = [None if bad else value for value, bad in zip(kw, chunk.suspect, strict=True)]
    if not all(map(_LARGEST_KW.__ge__, map(abs, filter(None, kw)))):  # false for NaN, too
        kw = [value if value is not None and abs(value) <= _LARGEST_KW else None for value in kw]
    return kw
