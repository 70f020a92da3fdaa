"""Which meters are read at which tick: pure arithmetic on tick numbers, no clock.

Grid. Tick n lies n × tick_ms after the service's start. A meter with poll interval T has the
slots phase + k × T; it is read at the first tick at or after each slot, so it never drifts and is
never early. The phase is a fixed share of T that follows from the meter's `phase_index` alone (the
bit-reversed sequence 0, 1/2, 1/4, 3/4, …, which spreads any number of meters evenly), so it is the
same after every restart. A meter that is new in the plan is also read once at once, within half a
second and in the same spread order; its grid begins at the first slot one interval later.

One read at a time. A meter that is due while its last read is still pending is an overrun: counted,
never queued. Slots that passed while the cycle itself stood still (or within one tick, where T is
shorter) are skipped and counted, so a stall never ends in a burst.

Failing meters. After the k-th failure in a row a meter is tried again 2^(k-1) slots later, or
fewer: as many as fit into 60 s, or alone on its line into 2 s, so that a grid meter is back
quickly; but at least one. On a shared line the failing meters then wait in one queue and are let
on one at a time, only as often as keeps their reads within a fifth of the line's time: a read that
took d seconds pays for 5 × d from its start. The others keep their period. A failure of the whole
line is nobody's fault and rests nobody: the line itself spaces its attempts to reopen. The slots
that a failing meter rests and waits are neither overruns nor skips.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil

from edge.model import Meter

MAX_REST_MS = 60_000
MAX_REST_ALONE_MS = 2_000
FAILING_SHARE = 0.2
"""Part of a shared line's time that its failing meters may use together."""
FIRST_READS_WITHIN_MS = 500


@dataclass(frozen=True)
class Read:
    """A meter to be read now. trial: it was failing, so one attempt without retries is enough."""

    meter: Meter
    trial: bool


@dataclass(frozen=True)
class LeftOut:
    """Polls of a meter that did not take place.

    overruns: the last one was still pending. skips: the cycle itself stood still.
    """

    meter: Meter
    overruns: int
    skips: int


@dataclass(eq=False)
class _Entry:
    """One meter's place in the plan.

    next_slot: number of the slot that is due at due_tick; None before the first read.
    started_tick, started_slot: when its last read was started, and the last slot by then.
    failed_slot: while it fails, the slot from which on it rests. left_alone_tick: before it the
    meter asked not to be read.
    """

    meter: Meter
    line: _Line
    interval_ms: int
    phase_ms: int
    due_tick: int
    order: int = 0
    next_slot: int | None = None
    pending: bool = False
    started_tick: int = 0
    started_slot: int = 0
    failures: int = 0
    failed_slot: int = 0
    left_alone_tick: int = 0


@dataclass(eq=False)
class _Line:
    """The failing meters of one line: those that wait, and the one that is being tried.

    free_tick: when the next of them may be let on.
    """

    meters: int = 0
    waiting: deque[_Entry] = field(default_factory=deque)
    trial: _Entry | None = None
    free_tick: int = 0


class Schedule:
    """The reads of one plan at a time. Cycle thread only."""

    def __init__(self, tick_ms: int) -> None:
        self._tick_ms = tick_ms
        self._entries: dict[str, _Entry] = {}
        self._lines: dict[str, _Line] = {}
        self._shared_lines: list[_Line] = []
        self._heap: list[tuple[int, int, _Entry]] = []

    def replace(self, meters: Iterable[Meter], tick: int) -> None:
        """Take over a new plan at `tick`, in the order given.

        A meter that is the same object as before keeps its grid, its pending read and its
        failures; a changed one starts anew.
        """
        old, old_lines = self._entries, self._lines
        self._entries, self._lines = {}, {}
        for order, meter in enumerate(meters):
            line = self._lines.get(meter.line)
            if line is None:
                line = self._lines[meter.line] = old_lines.get(meter.line) or _Line()
                line.meters = 0
            line.meters += 1
            entry = old.get(meter.id)
            if entry is None or entry.meter is not meter:
                entry = self._new_entry(meter, line, tick)
            entry.order = order
            self._entries[meter.id] = entry
        for line in self._lines.values():
            self._drop_gone(line)
        self._shared_lines = [line for line in self._lines.values() if line.meters > 1]
        self._heap = [(entry.due_tick, entry.order, entry) for entry in self._entries.values()]
        heapq.heapify(self._heap)

    def due(self, tick: int) -> tuple[list[Read], list[LeftOut]]:
        """Give the reads to start at `tick`, and the polls that are left out.

        Each call's tick must be later than the last one's. Every read given is pending until
        `finished` is called for it.
        """
        reads: list[Read] = []
        left_out: list[LeftOut] = []
        while self._heap and self._heap[0][0] <= tick:
            _, order, entry = self._heap[0]
            slot, skips = self._advance(entry, tick)
            heapq.heapreplace(self._heap, (entry.due_tick, order, entry))
            if entry.pending:
                left_out.append(LeftOut(entry.meter, overruns=1, skips=skips))
            elif not entry.failures:
                if skips:
                    left_out.append(LeftOut(entry.meter, overruns=0, skips=skips))
                reads.append(self._start(entry, tick))
            elif tick < entry.left_alone_tick:
                continue
            elif slot >= entry.failed_slot + _rest_slots(entry):
                if entry.line.meters == 1:
                    reads.append(self._start(entry, tick))
                elif entry not in entry.line.waiting:
                    entry.line.waiting.append(entry)
        for line in self._shared_lines:
            if line.waiting and line.trial is None and tick >= line.free_tick:
                line.trial = line.waiting.popleft()
                reads.append(self._start(line.trial, tick))
        return reads, left_out

    def finished(
        self,
        meter: Meter,
        tick: int,
        *,
        failed: bool,
        line_failed: bool,
        busy_s: float,
        rest_s: float = 0.0,
    ) -> None:
        """Note at `tick` how a read ended.

        failed: the meter could not be read and shall rest. line_failed: its line could not be
        opened, which is neither a success nor its fault. busy_s: the line's time that it took.
        rest_s: how long it asked to be left alone.
        """
        entry = self._entries.get(meter.id)
        if entry is None or entry.meter is not meter:
            return
        entry.pending = False
        line = entry.line
        if line.trial is entry:
            line.trial = None
        if line_failed:
            return
        entry.left_alone_tick = tick + ceil(rest_s * 1000 / self._tick_ms) if rest_s else 0
        if not failed:
            entry.failures = 0
            return
        entry.failures += 1
        entry.failed_slot = entry.started_slot
        paid_for = ceil(busy_s * 1000 / FAILING_SHARE / self._tick_ms)
        line.free_tick = max(line.free_tick, entry.started_tick + paid_for)

    def _new_entry(self, meter: Meter, line: _Line, tick: int) -> _Entry:
        share = _bit_reversed(meter.phase_index)
        interval_ms = meter.poll_interval_ms
        assert interval_ms is not None  # who speaks by himself is not in the schedule
        first_read_ms = int(share * min(interval_ms, FIRST_READS_WITHIN_MS))
        return _Entry(
            meter=meter,
            line=line,
            interval_ms=interval_ms,
            phase_ms=int(share * interval_ms),
            due_tick=tick + first_read_ms // self._tick_ms,
        )

    def _drop_gone(self, line: _Line) -> None:
        """Forget failing meters that left the plan, or that are alone on their line now."""

        def stays(entry: _Entry) -> bool:
            return line.meters > 1 and self._entries.get(entry.meter.id) is entry

        line.waiting = deque(filter(stays, line.waiting))
        if line.trial is not None and not stays(line.trial):
            line.trial = None

    def _advance(self, entry: _Entry, tick: int) -> tuple[int, int]:
        """Make the first slot after `tick` the next one.

        Returns the last slot by now, and how many before that went by since the one that was due.
        """
        now_ms, interval_ms = tick * self._tick_ms, entry.interval_ms
        if entry.next_slot is None:
            slot, skips = _ceil_div(now_ms - entry.phase_ms, interval_ms), 0
        else:
            slot = (now_ms - entry.phase_ms) // interval_ms
            skips = slot - entry.next_slot
        entry.next_slot = slot + 1
        entry.due_tick = _ceil_div(entry.phase_ms + entry.next_slot * interval_ms, self._tick_ms)
        return slot, skips

    def _start(self, entry: _Entry, tick: int) -> Read:
        assert entry.next_slot is not None  # every start follows an advance
        entry.pending = True
        entry.started_tick = tick
        entry.started_slot = entry.next_slot - 1
        return Read(entry.meter, trial=entry.failures > 0)


def _rest_slots(entry: _Entry) -> int:
    """After how many slots a meter that failed may be tried again."""
    longest_ms = MAX_REST_ALONE_MS if entry.line.meters == 1 else MAX_REST_MS
    longest = max(1, longest_ms // entry.interval_ms)
    return min(1 << min(entry.failures - 1, 10), longest)


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _bit_reversed(number: int) -> float:
    """The van der Corput sequence in base 2: 0, 1/2, 1/4, 3/4, 1/8, 5/8, …, each in 0..1."""
    result, share = 0.0, 0.5
    while number > 0:
        if number & 1:
            result += share
        number >>= 1
        share /= 2
    return result
