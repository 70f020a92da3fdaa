"""Whether all that was read is kept and sent on, as it was said. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tools.soak.facts import Facts
from tools.soak.records import Recorded
from tools.soak.verdict import Verdict, at, verdict_of

_TIMEOUT_MS = 1000
"""Of a request: a reading has the time at which it was asked for."""
_ROUNDING_MS = 60
_CLOCK_SETTLES_S = 0.5
_SENT_WITHIN_S = 3.0
"""After the commit; what is committed last is sent by the next process."""


def nothing_lost(facts: Facts) -> Verdict:
    """Each answer that nothing excuses is in the journal."""
    judged = [
        each
        for each in facts.served
        if not facts.excused[each.device].touch(each.mono_s, each.mono_s)
    ]
    lost = (
        f"{facts.devices[each.device].name}, answer {each.serial} at {at(facts, each.mono_s)}"
        for each in judged
        if (each.device, each.serial) not in facts.kept
    )
    excused = len(facts.served) - len(judged)
    measured = f"{{}} of {len(judged):,} lost; {excused:,} more were served while excused"
    return verdict_of("recorded", lost, measured, "every reading that nothing excuses")


def nothing_misattributed(facts: Facts) -> Verdict:
    """Each reading in the journal is what its meter's device said, once."""
    measured = f"{{}} wrong of {len(facts.recorded):,} recorded"
    wanted = "each as its device said it, once"
    return verdict_of("attributed", _wrong(facts, facts.recorded), measured, wanted)


def _wrong(facts: Facts, readings: Iterable[Recorded]) -> Iterator[str]:
    seen = set()
    for reading in readings:
        key = reading.device, reading.serial
        served = facts.answers.get(key)
        whose = f"{reading.meter_id} at {reading.unix_ms}"
        if facts.meters.get(reading.meter_id) != reading.device:
            yield f"{whose} holds what device {reading.device} said"
        elif served is None:
            yield f"{whose} holds answer {reading.serial}, which was never given"
        elif (served.power_kw, served.energy_kwh) != (reading.power_kw, reading.energy_kwh):
            yield f"{whose} holds {reading.power_kw} kW, and {served.power_kw} kW was said"
        elif reading.suspect:
            yield f"{whose} is marked as suspect"
        elif key in seen:
            yield f"{whose} holds answer {reading.serial} a second time"
        seen.add(key)


def stamped_right(facts: Facts) -> Verdict:
    """Each reading has the time at which it was taken, by the clock that was believed then."""
    spared = facts.of_kinds("suspend", "broker-frozen", before_s=1.0, after_s=2.0)
    faults, judged = [], 0
    for reading in facts.recorded:
        served = facts.answers.get((reading.device, reading.serial))
        if served is None or any(
            spans.touch(served.mono_s, served.mono_s + 1) for spans in (spared, facts.machine)
        ):
            continue
        judged += 1
        true_ms = (served.mono_s + facts.unix_s) * 1000
        offsets_s = _offsets_s(facts, served.mono_s)
        off_ms = min((reading.unix_ms - true_ms - 1000 * each for each in offsets_s), key=abs)
        # What is asked for has the time of the question, what is heard that of its arrival.
        earliest_ms, latest_ms = -_ROUNDING_MS, _TIMEOUT_MS
        if facts.devices[reading.device].polled:
            earliest_ms, latest_ms = -_ROUNDING_MS - _TIMEOUT_MS, _ROUNDING_MS
        if not earliest_ms <= off_ms <= latest_ms:
            where = f"answer {reading.serial} at {at(facts, served.mono_s)}"
            faults.append(f"{facts.devices[reading.device].name}, {where}: off by {off_ms:.0f} ms")
    measured = f"{{}} wrong of {judged:,}"
    return verdict_of("stamped", faults, measured, "when it was asked for, whatever the clock did")


def _offsets_s(facts: Facts, mono_s: float) -> set[float]:
    """What the clock may have been off by when a reading was stamped, or corrected to later."""
    offsets = facts.offsets
    last = bisect_right(offsets, mono_s, key=lambda each: each.mono_s) - 1
    near = [offsets[last]]
    if last > 0 and mono_s - offsets[last].mono_s < _CLOCK_SETTLES_S:
        near.append(offsets[last - 1])
    if last + 1 < len(offsets) and offsets[last + 1].mono_s - mono_s < _CLOCK_SETTLES_S:
        near.append(offsets[last + 1])
    believed = {offset.offset_s for offset in near if offset.trusted}
    if len(believed) < len(near):
        later = (each for each in offsets[last:] if each.trusted)
        believed.add(next(later, near[0]).offset_s)
    return believed


def uplinked(facts: Facts) -> Verdict:
    """InfluxDB holds what the journal does: all of it and nothing else."""
    sent: dict[tuple[str, int], Recorded] = {
        (each.meter_id, each.unix_ms): each for each in facts.uplinked
    }
    by_place: dict[tuple[str, int], list[Recorded]] = defaultdict(list)
    for each in facts.recorded:
        if not each.suspect:
            by_place[each.meter_id, each.unix_ms].append(each)
    faults = []
    last_s = facts.ended_s - facts.commit_interval_s - _SENT_WITHIN_S
    for place, readings in by_place.items():
        # After a step back of the clock two may have one time, and the server keeps the last.
        if sent.get(place) not in readings and not _is_later(facts, readings[-1], last_s):
            found = sent.get(place)
            what = "is not there" if found is None else f"is there as answer {found.serial}"
            faults.append(f"{place[0]} at {place[1]}, answer {readings[-1].serial}, {what}")
    faults += [
        f"{meter_id} at {unix_ms} is there, and not in the journal"
        for meter_id, unix_ms in sent.keys() - by_place.keys()
    ]
    measured = f"{{}} differ of {len(sent):,}"
    return verdict_of("uplinked", faults, measured, "as in the journal, all and no more")


def _is_later(facts: Facts, reading: Recorded, mono_s: float) -> bool:
    served = facts.answers.get((reading.device, reading.serial))
    return served is not None and served.mono_s > mono_s
