"""Hours and days of a meter, from its readings.

Suspect readings are left out. A good one is *live* until the next reading of any kind, or until
its meter's stale-after time is over: that time is covered. The last reading of an era covers
nothing, as nobody knows how soon after it the era ended. Power is held from one reading to the
next, so its mean is weighted with time.

Energy comes from the meter's own counter (`counter` tells what a counter does besides rising). What
it rose by from one reading to the next is spread evenly over the time between them, also over the
border of an hour, so that the hours together give what the counter rose by. The part in gaps longer
than the stale-after time is `interpolated_kwh`. A meter without a counter has the integral of its
power over covered time: what flowed in a gap is unknown, and what flowed back is subtracted.

Hours begin where the local wall clock shows a full hour, and where it is set back to one. Where
clocks are put forward or back by half an hour (Lord Howe Island) there are hours of 30 minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from itertools import chain, compress
from math import fsum

from edge.counter import Correction, Limits, Trace, trace
from edge.record import Chunk, EnergySource, Resolution, Rollup, Series

_HOUR_MS = 3_600_000
_NO_BOOTS: Mapping[int, str] = {}


@dataclass(frozen=True)
class Hour:
    """What the readings make of an hour.

    rollup: None when nothing is known of it. corrections: where a counter did not simply rise
    within this hour. pending: readings that are still to come will change it.
    """

    rollup: Rollup | None
    corrections: Sequence[Correction]
    pending: bool


def hour_of(unix_ms: int, zone: tzinfo) -> tuple[int, int]:
    """Give begin (unix ms) and length (ms) of the local hour in which a moment lies."""
    offset_ms = _offset_ms(unix_ms, zone)
    start_ms = (unix_ms + offset_ms) // _HOUR_MS * _HOUR_MS - offset_ms
    end_ms = start_ms + _HOUR_MS
    if _offset_ms(start_ms, zone) != offset_ms:
        start_ms = _first_with_offset_of(unix_ms, start_ms, unix_ms, zone)
    last_ms = end_ms - 1
    if _offset_ms(last_ms, zone) != offset_ms:
        end_ms = _first_with_offset_of(last_ms, unix_ms, last_ms, zone)
    return start_ms, end_ms - start_ms


def day_of(unix_ms: int, zone: tzinfo) -> tuple[int, int]:
    """Give begin (unix ms) and length (ms) of the local day in which a moment lies.

    Where clocks are put forward at midnight, the day begins at the moment that is done.
    """
    date = datetime.fromtimestamp(unix_ms // 1000, zone).date()
    start_ms, end_ms = (
        int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000
        for day in (date, date + timedelta(days=1))
    )
    return start_ms, end_ms - start_ms


def _offset_ms(unix_ms: int, zone: tzinfo) -> int:
    offset = datetime.fromtimestamp(unix_ms // 1000, zone).utcoffset()
    return offset // timedelta(milliseconds=1) if offset is not None else 0


def _first_with_offset_of(like_ms: int, before_ms: int, after_ms: int, zone: tzinfo) -> int:
    """Find when the offset of `like_ms` began, between two moments around one change of it."""
    offset_ms = _offset_ms(like_ms, zone)
    while after_ms - before_ms > 1:
        middle_ms = (before_ms + after_ms) // 2
        if _offset_ms(middle_ms, zone) == offset_ms:
            after_ms = middle_ms
        else:
            before_ms = middle_ms
    return after_ms


def hourly(
    start_ms: int,
    length_ms: int,
    inside: Sequence[Chunk],
    before: Sequence[Chunk],
    after: Sequence[Chunk],
    fallback_max_kw: float,
    boots: Mapping[int, str] = _NO_BOOTS,
) -> Hour:
    """Work out an hour of a meter.

    inside, before, after: its readings in the hour and around it, in sequence; before and after
    need 3 that carry the counters, if there are as many, however long ago. Best, before is all of
    the hour before: counters that move in large steps are judged by the time since the last step.
    fallback_max_kw: what counts as rated power where the meter was registered without any.
    boots: era → the boot it belongs to; see `counter`.
    """
    series = _series_of(inside, before, after)
    if series is None:
        return Hour(None, (), pending=False)
    end_ms = start_ms + length_ms
    readings = _Columns.of([*before, *inside, *after])
    max_kw = fallback_max_kw if series.max_power_kw is None else series.max_power_kw
    limits = Limits(max_kw, series.counter_kwh, boots)
    counter = readings.trace("energy", limits)
    export = readings.trace("energyExport", limits)
    traces = [one for one in (counter, export) if one is not None]
    corrections = [one for each in traces for one in each.corrections]
    decided_ms = min((one.decided_ms for one in traces), default=readings.unix_ms[-1])
    return Hour(
        _rollup(series, start_ms, end_ms, readings, counter, export),
        [one for one in corrections if start_ms <= one.unix_ms < end_ms],
        pending=decided_ms < end_ms,
    )


def _rollup(
    series: Series,
    start_ms: int,
    end_ms: int,
    readings: _Columns,
    counter: Trace | None,
    export: Trace | None,
) -> Rollup | None:
    power = _power_between(start_ms, end_ms, readings)
    energy_kwh, interpolated_kwh = _energy_between(start_ms, end_ms, counter, series)
    source = None if energy_kwh is None else EnergySource.COUNTER
    if counter is None and power.weight_ms:
        energy_kwh, source = power.kw_ms / _HOUR_MS, EnergySource.INTEGRAL
    export_kwh, _ = _energy_between(start_ms, end_ms, export, series)
    if not (power.samples or power.covered_ms) and energy_kwh is None and export_kwh is None:
        return None
    return Rollup(
        series=series,
        resolution=Resolution.HOURLY,
        start_ms=start_ms,
        length_ms=end_ms - start_ms,
        mean_kw=power.kw_ms / power.weight_ms if power.weight_ms else None,
        min_kw=min(power.inside_kw, default=None),
        max_kw=max(power.inside_kw, default=None),
        energy_kwh=energy_kwh,
        energy_source=source,
        interpolated_kwh=interpolated_kwh,
        export_kwh=export_kwh,
        samples=power.samples,
        covered_ms=power.covered_ms,
    )


def daily(start_ms: int, length_ms: int, hours: Sequence[Rollup]) -> Rollup | None:
    """Sum up a day's hours, in order of time; None of none.

    Energy is the sum of what is known, and None if nothing is; its source is the counter if that
    gave any of it. The mean is weighted with the time that is covered. The series is the last one.
    """
    if not hours:
        return None
    weights_ms = [hour.covered_ms if hour.mean_kw is not None else 0 for hour in hours]
    weight_ms = sum(weights_ms)
    weighted = zip(hours, weights_ms, strict=True)
    kw_ms = sum(hour.mean_kw * weight for hour, weight in weighted if hour.mean_kw is not None)
    sources = {hour.energy_source for hour in hours}
    return Rollup(
        series=hours[-1].series,
        resolution=Resolution.DAILY,
        start_ms=start_ms,
        length_ms=length_ms,
        mean_kw=kw_ms / weight_ms if weight_ms else None,
        min_kw=min((hour.min_kw for hour in hours if hour.min_kw is not None), default=None),
        max_kw=max((hour.max_kw for hour in hours if hour.max_kw is not None), default=None),
        energy_kwh=_sum_of_known(hour.energy_kwh for hour in hours),
        energy_source=next((source for source in EnergySource if source in sources), None),
        interpolated_kwh=fsum(hour.interpolated_kwh for hour in hours),
        export_kwh=_sum_of_known(hour.export_kwh for hour in hours),
        samples=sum(hour.samples for hour in hours),
        covered_ms=sum(hour.covered_ms for hour in hours),
    )


def _sum_of_known(energies_kwh: Iterable[float | None]) -> float | None:
    known = [kwh for kwh in energies_kwh if kwh is not None]
    return fsum(known) if known else None


def _series_of(
    inside: Sequence[Chunk], before: Sequence[Chunk], after: Sequence[Chunk]
) -> Series | None:
    """Give the meter as it was registered last in the hour, or else nearest to it."""
    nearest = chain(reversed(inside), reversed(before), after)
    return next((chunk.series for chunk in nearest if len(chunk)), None)


@dataclass(frozen=True)
class _Columns:
    """Readings of several chunks, joined; all columns are of one length. good: not suspect."""

    unix_ms: Sequence[int]
    eras: Sequence[int]
    good: Sequence[bool]
    stale_after_ms: Sequence[int]
    values: Mapping[str, Sequence[float | None]]

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> _Columns:
        def joined(quantity: str) -> list[float | None]:
            absent: list[float | None] = [None]
            columns = (chunk.values.get(quantity, absent * len(chunk)) for chunk in chunks)
            return list(chain.from_iterable(columns))

        return cls(
            [unix_ms for chunk in chunks for unix_ms in chunk.unix_ms],
            [era for chunk in chunks for era in [chunk.era] * len(chunk)],
            [not suspect for chunk in chunks for suspect in chunk.suspect],
            [ms for chunk in chunks for ms in [chunk.series.stale_after_ms] * len(chunk)],
            {quantity: joined(quantity) for quantity in ("power", "energy", "energyExport")},
        )

    def trace(self, quantity: str, limits: Limits) -> Trace | None:
        """Follow a counter through the good readings; None if there is no such counter."""
        column = self.values[quantity]
        usable = [good and kwh is not None for good, kwh in zip(self.good, column, strict=True)]
        kwh = [kwh for kwh in compress(column, usable) if kwh is not None]
        if not kwh:
            return None
        unix_ms = list(compress(self.unix_ms, usable))
        return trace(quantity, unix_ms, kwh, list(compress(self.eras, usable)), limits)


@dataclass
class _Power:
    """Power in an hour. kw_ms: its integral over weight_ms, the covered time in which it is known.

    Times that two eras share (the clock was put back) are in weight_ms twice, as they passed
    twice, and in covered_ms once. inside_kw: of the readings in the hour.
    """

    kw_ms: float = 0.0
    weight_ms: int = 0
    covered_ms: int = 0
    samples: int = 0
    inside_kw: list[float] = field(default_factory=list)


def _power_between(start_ms: int, end_ms: int, readings: _Columns) -> _Power:
    power = _Power()
    covered_to_ms = start_ms
    next_ms = [*readings.unix_ms[1:], None]
    next_era = [*readings.eras[1:], None]
    for from_ms, until_ms, era, era_after, good, stale_after_ms, kw in zip(
        readings.unix_ms,
        next_ms,
        readings.eras,
        next_era,
        readings.good,
        readings.stale_after_ms,
        readings.values["power"],
        strict=True,
    ):
        to_ms = min(from_ms + stale_after_ms, end_ms)
        if not good or from_ms >= end_ms or to_ms <= start_ms:
            continue
        if from_ms >= start_ms:
            power.samples += 1
            if kw is not None:
                power.inside_kw.append(kw)
        if until_ms is not None:
            to_ms = min(to_ms, until_ms) if era_after == era else from_ms
        live_ms = to_ms - max(from_ms, start_ms)
        if live_ms <= 0:
            continue
        power.covered_ms += max(0, to_ms - max(from_ms, covered_to_ms))
        covered_to_ms = max(covered_to_ms, to_ms)
        if kw is not None:
            power.kw_ms += kw * live_ms
            power.weight_ms += live_ms
    return power


def _energy_between(
    start_ms: int, end_ms: int, counter: Trace | None, series: Series
) -> tuple[float | None, float]:
    """Give the energy in an hour, None if unknown, and how much of it lies in gaps; kWh."""
    if counter is None:
        return None, 0.0
    shares = [
        (
            kwh * (min(to_ms, end_ms) - max(from_ms, start_ms)) / (to_ms - from_ms),
            to_ms - from_ms > series.stale_after_ms,
        )
        for from_ms, to_ms, kwh in counter.flows
        if from_ms < end_ms and to_ms > start_ms
    ]
    if not shares:
        return None, 0.0
    return fsum(kwh for kwh, _ in shares), fsum(kwh for kwh, is_gap in shares if is_gap)
