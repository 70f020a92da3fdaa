"""What is known of a run when it is over, and what of it is excused. Pure.

A reading may be missing while its device is in a fault's window, and until the service has
recovered from it; when the last commit before a kill did not hold it; and while the machine itself
was late. Nothing else may. How soon it recovers is a question of its own.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from tools.soak.devices import Device
from tools.soak.records import (
    End,
    Late,
    Life,
    Load,
    Offset,
    Recorded,
    Sample,
    Served,
    Shown,
    Unanswered,
    Window,
)

_MACHINE_LATE_S = 0.1
"""From here on the machine is held to have been elsewhere, and all that was near it is excused."""
_WAITED_S = 0.03
"""Who waits so long for a processor, in a second, is not to be blamed for being late in it."""

_COMMIT_SLACK_S = 1.0
_BEFORE_STOP_S = 0.5
"""What is being read when a process is to end, or a meter is removed, need not be kept."""
_AFTER_FREEZE_S = 1.0
_BEFORE_LATE_S, _AFTER_LATE_S = 0.2, 1.5

Key = tuple[int, int]
"""A device's number and an answer's: what every reading is known by."""


class Span(NamedTuple):
    """From from_s to to_s, monotonic."""

    from_s: float
    to_s: float


class Spans:
    """Spans in order that do not overlap, made of any."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._spans: list[Span] = []
        for span in sorted(spans):
            if self._spans and span.from_s <= self._spans[-1].to_s:
                last = self._spans.pop()
                span = Span(last.from_s, max(last.to_s, span.to_s))
            self._spans.append(span)

    def touch(self, from_s: float, to_s: float) -> bool:
        """Whether any part of a time is within one of them."""
        at = bisect_left(self._spans, Span(to_s, math.inf))
        return at > 0 and self._spans[at - 1].to_s >= from_s

    @property
    def length_s(self) -> float:
        """How long they are together."""
        return sum(span.to_s - span.from_s for span in self._spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)


class Outage(NamedTuple):
    """A device could not be heard from from_s to to_s; the next that was kept came at back_s."""

    from_s: float
    to_s: float
    back_s: float


@dataclass(frozen=True)
class Facts:
    """All of a run. begun_s, ended_s: monotonic; judged is what lies between.

    unix_s: the machine's wall clock less its monotonic one. commit_interval_s: as configured.
    meters: id → number of its device. log: of the service.
    """

    begun_s: float
    ended_s: float
    unix_s: float
    commit_interval_s: float
    devices: Mapping[int, Device]
    meters: Mapping[str, int]
    served: Sequence[Served]
    recorded: Sequence[Recorded]
    uplinked: Sequence[Recorded]
    shown: Sequence[Shown]
    loads: Sequence[Load]
    windows: Sequence[Window]
    lives: Sequence[Life]
    late: Sequence[Late]
    offsets: Sequence[Offset]
    samples: Sequence[Sample]
    unanswered: Sequence[Unanswered]
    answered: int
    end: End
    log: str = field(repr=False)

    @cached_property
    def of_device(self) -> Mapping[int, Sequence[Served]]:
        """What each device served, in order of time."""
        found: dict[int, list[Served]] = {number: [] for number in self.devices}
        for each in self.served:
            found[each.device].append(each)
        return found

    @cached_property
    def answers(self) -> Mapping[Key, Served]:
        """What was served."""
        return {(each.device, each.serial): each for each in self.served}

    @cached_property
    def kept(self) -> frozenset[Key]:
        """What was recorded of it."""
        return frozenset((each.device, each.serial) for each in self.recorded)

    @cached_property
    def machine(self) -> Spans:
        """When the machine was late."""
        return Spans(
            Span(each.mono_s - each.late_s - _BEFORE_LATE_S, each.mono_s + _AFTER_LATE_S)
            for each in self.late
            if each.late_s >= _MACHINE_LATE_S
        )

    @cached_property
    def crowded(self) -> Spans:
        """When a thread of the service had to wait for a processor, or the machine was late."""
        waited = (
            Span(before.mono_s, after.mono_s + _BEFORE_LATE_S)
            for before, after in pairwise(self.samples)
            if after.waited_s >= _WAITED_S
        )
        return Spans((*self.machine, *waited))

    def of_kinds(self, *kinds: str, before_s: float = 0.0, after_s: float = 0.0) -> Spans:
        """The windows of some kinds of faults, and some time around them."""
        return Spans(
            Span(window.from_s - before_s, window.to_s + after_s)
            for window in self.windows
            if window.kind in kinds
        )

    @cached_property
    def downtimes(self) -> Spans:
        """When no process was ready, and what its end may cost before."""
        return Spans(self._downtimes())

    @cached_property
    def outages(self) -> Mapping[int, Sequence[Outage]]:
        """For each device, when its readings may be missing, in order."""
        return {number: list(self._outages(number)) for number in self.devices}

    @cached_property
    def excused(self) -> Mapping[int, Spans]:
        """For each device, its outages until they were over."""
        return {
            number: Spans(Span(each.from_s, each.back_s) for each in outages)
            for number, outages in self.outages.items()
        }

    def _downtimes(self) -> Iterator[Span]:
        from_s = -math.inf
        for life in self.lives:
            yield Span(from_s, life.ready_s or math.inf)
            killed = life.end == "killed"
            lost_s = self.commit_interval_s + _COMMIT_SLACK_S if killed else _BEFORE_STOP_S
            from_s = life.ended_s - lost_s if life.end else math.inf
        yield Span(from_s, math.inf)

    def _outages(self, number: int) -> Iterator[Outage]:
        hit = [_span_of(each) for each in self.windows if number in each.devices]
        served = self.of_device[number]
        kept_s = [each.mono_s for each in served if (number, each.serial) in self.kept]
        for span in Spans((*hit, *self.downtimes, *self.machine)):
            at = bisect_right(kept_s, span.to_s)
            yield Outage(*span, kept_s[at] if at < len(kept_s) else math.inf)


def _span_of(window: Window) -> Span:
    """When a fault may cost readings: who was frozen answers who has long gone, too."""
    before_s = _BEFORE_STOP_S if window.kind == "churn" else 0.0
    after_s = _AFTER_FREEZE_S if window.kind == "site-frozen" else 0.0
    return Span(window.from_s - before_s, window.to_s + after_s)
