"""Who counted at the site, as what, and when: by what was recorded. Pure.

A meter counts as the type that it was recorded as, from its first reading on: before that it was no
part of the site. What is between a reading as one type and the first as another belongs to the
former, as a time in which it was not read. A meter that is registered no more counts until its last
reading, and so does one whose type was changed and that was not read since. Nobody knows whether it
was removed then, or had failed before, so what that moment lies in is taken for incomplete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edge.communication import MqttCommunication, MqttEndpoint
from edge.model import CONSUMING_TYPES, PRODUCING_TYPES, Meter
from edge.record import Series, Stretch

_NEVER_MS = 1 << 62

Times = Sequence[tuple[int, int]]
"""from_ms <= t < to_ms, each."""


@dataclass(frozen=True)
class Part:
    """A meter in the times in which it counted as a consumer, or as a producer.

    meter: its type says as which; of one that is registered no more, as it last was. held_ms: how
    long a reading of it may hold. other_times: in which it was recorded as something else.
    unsure_ms: moments at which it may have begun or ended to count, as nobody knows exactly.
    """

    meter: Meter
    held_ms: int
    times: Times
    other_times: Times = ()
    unsure_ms: Sequence[int] = ()

    @property
    def types(self) -> frozenset[str]:
        """What it may have been recorded as meanwhile."""
        return counted_in(self.meter.meter_type)

    def counted_ms(self, from_ms: int, to_ms: int) -> int:
        """How much of from_ms <= t < to_ms it counted."""
        return _shared_ms(self.times, from_ms, to_ms)

    def is_mixed(self, from_ms: int, to_ms: int) -> bool:
        """Whether it was something else in a part of that time."""
        return bool(
            _shared_ms(self.other_times, from_ms, to_ms) and self.counted_ms(from_ms, to_ms)
        )

    def is_unsure(self, from_ms: int, to_ms: int) -> bool:
        """Whether nobody knows how much of that time it counted."""
        return any(from_ms <= moment_ms < to_ms for moment_ms in self.unsure_ms)


@dataclass
class _Run:
    """A meter while it counted as one thing, or did not: until end_ms."""

    types: frozenset[str]
    from_ms: int
    last: Stretch
    end_ms: int = _NEVER_MS


def parts_of(registered: Meter | None, stretches: Sequence[Stretch], held_ms: int) -> list[Part]:
    """Give a meter as a consumer, and as a producer, as far as it was one.

    registered: as it is now, None if it is not. stretches: as `History.stretches` gives them; of a
    meter that never counted as anything but what it is registered as, the first is enough.
    """
    runs = _runs(registered, stretches)
    unsure_ms = _unsure_ms(runs, stretches)
    return [
        Part(
            _meter_as(registered, [run.last.series for run in runs if run.types == types][-1]),
            held_ms,
            [(run.from_ms, run.end_ms) for run in runs if run.types == types],
            [(run.from_ms, run.end_ms) for run in runs if run.types != types],
            unsure_ms,
        )
        for types in dict.fromkeys(run.types for run in runs)
        if types
    ]


def life_of(registered: Meter | None, stretches: Sequence[Stretch], held_ms: int) -> Part | None:
    """Give a meter in all of its time, whatever it was; None: neither registered nor recorded."""
    runs = _runs(registered, stretches)
    if registered is None and not runs:
        return None
    meter = registered or _meter_as(None, runs[-1].last.series)
    end_ms = runs[-1].end_ms if registered is None else _NEVER_MS
    times = [(run.from_ms, end_ms) for run in runs[:1]]
    return Part(meter, held_ms, times, (), _unsure_ms(runs, stretches))


def _runs(registered: Meter | None, stretches: Iterable[Stretch]) -> list[_Run]:
    """Put stretches together. What is between two runs belongs to the first: it was not read."""
    runs: list[_Run] = []
    for one in stretches:
        types = counted_in(one.series.meter_type)
        if runs and runs[-1].types == types:
            runs[-1].last = one
            continue
        from_ms = one.from_ms
        if runs:
            # Of an hour whose readings are gone nobody knows when in it the type changed.
            runs[-1].end_ms = one.from_ms if one.covered_ms is None else one.to_ms
        elif one.covered_ms is not None:
            from_ms = max(from_ms, one.to_ms - one.covered_ms)
        runs.append(_Run(types, from_ms, one))
    if runs and (registered is None or counted_in(registered.meter_type) != runs[-1].types):
        runs[-1].end_ms = runs[-1].last.to_ms + (runs[-1].last.covered_ms is None)
    return runs


def _unsure_ms(runs: Sequence[_Run], stretches: Sequence[Stretch]) -> list[int]:
    begun_ms = [run.from_ms for run in runs[:1] if run.from_ms != stretches[0].from_ms]
    ended_ms = [run.end_ms - 1 for run in runs[-1:] if run.end_ms != _NEVER_MS]
    return begun_ms + ended_ms


def _meter_as(registered: Meter | None, series: Series) -> Meter:
    """Give a meter as it was recorded, with what is set for it now, if it is registered."""
    if registered is None:
        nowhere = MqttCommunication(MqttEndpoint(""), topics=())
        return Meter(
            *(series.meter_id, series.name, series.location, series.protocol, series.meter_type),
            poll_interval_ms=None,
            stale_after_ms=series.stale_after_ms,
            max_power_kw=series.max_power_kw,
            communication=nowhere,
        )
    if counted_in(registered.meter_type) == counted_in(series.meter_type):
        return registered
    return replace(registered, meter_type=series.meter_type)


def _shared_ms(times: Times, from_ms: int, to_ms: int) -> int:
    return sum(max(0, min(to_ms, end_ms) - max(from_ms, begin_ms)) for begin_ms, end_ms in times)


def counted_in(meter_type: str) -> frozenset[str]:
    """Give the types of meters that are added up with this one; none where it does not count."""
    for types in (CONSUMING_TYPES, PRODUCING_TYPES):
        if meter_type in types:
            return types
    return frozenset()
