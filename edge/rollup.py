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

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from itertools import chain, compress, pairwise, repeat
from math import fsum
from operator import gt, is_not, mul, sub

from edge.counter import Correction, Kind, Limits, Rise, Trace, trace
from edge.record import Chunk, EnergySource, Resolution, Rollup, Series
from edge.times import moment

_POWER, _IMPORT, _EXPORT = SUMMED_UP = "power", "energy", "energyExport"
"""The quantities that an hour is made of."""
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
    date = moment(unix_ms, zone).date()
    start_ms, end_ms = (
        int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000
        for day in (date, date + timedelta(days=1))
    )
    return start_ms, end_ms - start_ms


def _offset_ms(unix_ms: int, zone: tzinfo) -> int:
    offset = moment(unix_ms, zone).utcoffset()
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
    chunks: Sequence[Chunk],
    fallback_max_kw: float,
    boots: Mapping[int, str] = _NO_BOOTS,
) -> Hour:
    """Work out an hour of a meter.

    chunks: its readings in the hour and around it, in sequence; before and after it are needed 3
    that carry the counters, if there are as many, however long ago. Best, there is all of the hour
    before: counters that move in large steps are judged by the time since the last step.
    fallback_max_kw: what counts as rated power where the meter was registered without any. More is
    possible if the meter says that more flowed.
    boots: era → the boot it belongs to; see `counter`.
    """
    chunks = [chunk for chunk in chunks if len(chunk)]
    end_ms = start_ms + length_ms
    series = _series_of(start_ms, end_ms, chunks)
    if series is None:
        return Hour(None, (), pending=False)
    rated_kw = fallback_max_kw if series.max_power_kw is None else series.max_power_kw
    limits = Limits(max(rated_kw, _largest_kw(chunks)), series.counter_kwh, boots)
    counter = _trace(_IMPORT, chunks, limits)
    export = _trace(_EXPORT, chunks, limits)
    traces = [one for one in (counter, export) if one is not None]
    decided_ms = min((one.decided_ms for one in traces), default=chunks[-1].unix_ms[-1])
    return Hour(
        _rollup(series, start_ms, end_ms, chunks, counter, export),
        [one for each in traces for one in _said(each.corrections, start_ms, end_ms)],
        pending=decided_ms < end_ms,
    )


def _largest_kw(chunks: Iterable[Chunk]) -> float:
    """Give the most that flowed, either way, by the meter's own word; 0 when it has none."""
    known = (abs(kw) for chunk in chunks for kw in _good(_POWER, chunk) if kw is not None)
    return max(known, default=0.0)


def _said(corrections: Iterable[Correction], start_ms: int, end_ms: int) -> list[Correction]:
    """Give those within the hour; what rises too fast does so with every reading, so once."""
    within = [one for one in corrections if start_ms <= one.unix_ms < end_ms]
    first = next((one for one in within if one.kind is Kind.TOO_FAST), None)
    return [one for one in within if one.kind is not Kind.TOO_FAST or one is first]


def _rollup(
    series: Series,
    start_ms: int,
    end_ms: int,
    chunks: Sequence[Chunk],
    counter: Trace | None,
    export: Trace | None,
) -> Rollup | None:
    power = _power_between(start_ms, end_ms, chunks)
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


def _series_of(start_ms: int, end_ms: int, chunks: Sequence[Chunk]) -> Series | None:
    """Give the meter as it was registered last in the hour, or else nearest to it."""
    started = [chunk for chunk in chunks if chunk.unix_ms[0] < end_ms]
    inside = (chunk for chunk in reversed(started) if chunk.unix_ms[-1] >= start_ms)
    nearest = chain(inside, reversed(started), chunks)
    return next((chunk.series for chunk in nearest), None)


def _good(quantity: str, chunk: Chunk) -> Sequence[float | None]:
    """Give a column of a chunk; None where a reading had no such value or is suspect."""
    if quantity not in chunk.values:
        return [None] * len(chunk)
    column = chunk.values[quantity]
    if not any(chunk.suspect):
        return column
    return [None if bad else value for value, bad in zip(column, chunk.suspect, strict=True)]


# --- Power ---


@dataclass
class _Power:
    """Power in an hour. kw_ms: its integral over weight_ms, the covered time in which it is known.

    Times that two eras share (the clock was put back) are in weight_ms twice, as they passed
    twice, and in covered_ms once: those before covered_to_ms are. inside_kw: of the readings in
    the hour.
    """

    covered_to_ms: int
    kw_ms: float = 0.0
    weight_ms: int = 0
    covered_ms: int = 0
    samples: int = 0
    inside_kw: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Stretch:
    """Readings of one era in order of time; columns of one length, at least 1.

    until_ms: when the next reading came, or when the last one did if nobody knows how long it was
    live. kw: None also where a reading is suspect.
    """

    unix_ms: Sequence[int]
    until_ms: int
    stale_after_ms: int
    kw: Sequence[float | None]
    suspect: Sequence[bool]

    def within(self, start_ms: int, end_ms: int) -> slice:
        """Give the readings between two times and the last one before them."""
        first = max(0, bisect_left(self.unix_ms, start_ms) - 1)
        return slice(first, bisect_left(self.unix_ms, end_ms))

    def live_ms(self, start_ms: int, end_ms: int) -> list[int]:
        """Give for how long each of these readings is live between the two times."""
        some = self.within(start_ms, end_ms)
        from_ms = self.unix_ms[some]
        if not from_ms:
            return []
        until_ms = (*self.unix_ms[some.start + 1 : some.stop + 1], self.until_ms)
        live_ms = list(map(sub, until_ms, from_ms))
        if max(live_ms) > self.stale_after_ms:
            live_ms = [min(live, self.stale_after_ms) for live in live_ms]
        # As they are in order, only the first begins too early, and only the last ends too late.
        live_ms[-1] = min(live_ms[-1], end_ms - from_ms[-1])
        live_ms[0] = max(0, live_ms[0] - max(0, start_ms - from_ms[0]))
        suspect = self.suspect[some]
        if any(suspect):
            live_ms = [0 if bad else live for live, bad in zip(live_ms, suspect, strict=True)]
        return live_ms


def _power_between(start_ms: int, end_ms: int, chunks: Sequence[Chunk]) -> _Power:
    power = _Power(covered_to_ms=start_ms)
    for stretch in _stretches(chunks):
        live_ms = stretch.live_ms(start_ms, end_ms)
        if not live_ms:
            continue
        some = stretch.within(start_ms, end_ms)
        inside = slice(bisect_left(stretch.unix_ms, start_ms), some.stop)
        power.samples += stretch.suspect[inside].count(False)
        power.inside_kw += [kw for kw in stretch.kw[inside] if kw is not None]
        column = stretch.kw[some]
        known_kw = [kw for kw in column if kw is not None]
        weights_ms = [ms for kw, ms in zip(column, live_ms, strict=True) if kw is not None]
        power.kw_ms += sum(map(mul, known_kw, weights_ms))
        power.weight_ms += sum(weights_ms)
        if power.covered_to_ms > max(start_ms, stretch.unix_ms[some.start]):
            power.covered_ms += sum(stretch.live_ms(power.covered_to_ms, end_ms))
        else:
            power.covered_ms += sum(live_ms)
        latest = zip(reversed(stretch.unix_ms[some]), reversed(live_ms), strict=True)
        ends_ms = (max(from_ms, start_ms) + live for from_ms, live in latest if live)
        power.covered_to_ms = max(power.covered_to_ms, next(ends_ms, start_ms))
    return power


def _stretches(chunks: Sequence[Chunk]) -> Iterator[_Stretch]:
    """Cut readings where an era ends, and where their times go back."""
    for chunk, following in zip(chunks, (*chunks[1:], None), strict=True):
        times = list(chunk.unix_ms)
        stale_after_ms = chunk.series.stale_after_ms
        kw = _good(_POWER, chunk)
        until_ms = times[-1]
        if following is None:
            until_ms += stale_after_ms
        elif following.era == chunk.era:
            until_ms = max(until_ms, following.unix_ms[0])
        cuts = [0, len(times)]
        if times != sorted(times):
            cuts[1:1] = compress(range(1, len(times)), map(gt, times, times[1:]))
        for first, end in pairwise(cuts):
            yield _Stretch(
                times[first:end],
                until_ms if end == len(times) else times[end - 1],
                stale_after_ms,
                kw[first:end],
                chunk.suspect[first:end],
            )


# --- Energy ---


def _trace(quantity: str, chunks: Iterable[Chunk], limits: Limits) -> Trace | None:
    """Follow a counter through the good readings; None if there is no such counter."""
    unix_ms: list[int] = []
    kwh: list[float] = []
    eras: list[int] = []
    for chunk in chunks:
        column = _good(quantity, chunk)
        known = [value for value in column if value is not None]
        kwh += known
        if len(known) == len(chunk):
            unix_ms += chunk.unix_ms
        else:
            unix_ms += compress(chunk.unix_ms, map(is_not, column, repeat(None)))
        eras += [chunk.era] * len(known)
    return trace(quantity, unix_ms, kwh, eras, limits) if kwh else None


def _energy_between(
    start_ms: int, end_ms: int, counter: Trace | None, series: Series
) -> tuple[float | None, float]:
    """Give the energy in an hour, None if unknown, and how much of it lies in gaps; kWh."""
    parts_kwh: list[float] = []
    gaps_kwh: list[float] = []
    for rise in counter.rises if counter is not None else ():
        times, kwh = rise.unix_ms, rise.kwh
        if times[0] >= end_ms or times[-1] <= start_ms:
            continue
        first = max(0, bisect_right(times, start_ms) - 1)
        last = min(len(times) - 1, bisect_left(times, end_ms)) - 1
        parts_kwh.append(_flow_between(start_ms, end_ms, rise, first))
        if last > first:
            parts_kwh.append(kwh[last] - kwh[first + 1])
            parts_kwh.append(_flow_between(start_ms, end_ms, rise, last))
        elapsed_ms = list(map(sub, times[first + 1 : last + 2], times[first : last + 1]))
        if max(elapsed_ms) > series.stale_after_ms:
            gaps = (first + i for i, ms in enumerate(elapsed_ms) if ms > series.stale_after_ms)
            gaps_kwh += (_flow_between(start_ms, end_ms, rise, gap) for gap in gaps)
    return fsum(parts_kwh) if parts_kwh else None, fsum(gaps_kwh)


def _flow_between(start_ms: int, end_ms: int, rise: Rise, index: int) -> float:
    """Give what flowed from a reading to the next one, as far as that was between two times."""
    from_ms, to_ms = rise.unix_ms[index : index + 2]
    kwh = rise.kwh[index + 1] - rise.kwh[index]
    return kwh * (min(to_ms, end_ms) - max(from_ms, start_ms)) / (to_ms - from_ms)
