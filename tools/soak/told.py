"""Whether what was told to those who asked was right, fresh and never too much. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

from tools.bench.figure import quantile
from tools.soak.devices import FAILSAFE_KW, GRID_CAPACITY_KW, Device
from tools.soak.facts import Facts
from tools.soak.records import Load
from tools.soak.verdict import Verdict, at, verdict_of

_SHOWN_LATER_S = 1.5
"""After it was read, and the question after that."""
_SUMS_KW = 0.01


def shown_fresh(facts: Facts) -> Verdict:
    """What was said to be live was its device's, and no older than it may be."""
    spared = facts.of_kinds("suspend", "broker-frozen", after_s=2.0)
    faults, judged = [], 0
    for shown in facts.shown:
        if not shown.live:
            continue
        judged += 1
        device = facts.devices[facts.meters[shown.meter_id]]
        served = facts.answers.get((shown.device, shown.serial))
        where = f"{device.name} at {at(facts, shown.mono_s)}"
        if shown.device != device.number or served is None:
            faults.append(f"{where} showed answer {shown.serial} of device {shown.device}")
        elif served.power_kw != shown.power_kw:
            faults.append(f"{where} showed {shown.power_kw} kW for {served.power_kw} kW")
        else:
            age_s = shown.mono_s - served.mono_s
            excused = any(
                spans.touch(served.mono_s, shown.mono_s) for spans in (spared, facts.machine)
            )
            if age_s > device.stale_after_s + _SHOWN_LATER_S and not excused:
                faults.append(f"{where} showed {age_s:.1f} s old values as live")
    measured = f"{{}} wrong of {judged:,} that were shown as live"
    return verdict_of("shown", faults, measured, "its own, and fresh")


def never_too_much(facts: Facts) -> Verdict:
    """What was said to be free was never more than what was measured left free."""
    spared = facts.of_kinds("suspend", "broker-frozen", after_s=2.0)
    faults, judged, closest_kw = [], 0, math.inf
    for load in facts.loads:
        oldest_s = load.from_s - max(each.stale_after_s for each in facts.devices.values())
        if any(spans.touch(oldest_s, load.to_s) for spans in (spared, facts.machine)):
            continue
        judged += 1
        most_kw = _most_free_kw(facts, load)
        closest_kw = min(closest_kw, most_kw - load.available_kw)
        if load.available_kw > most_kw + _SUMS_KW:
            faults.append(
                f"{load.available_kw:.3f} kW at {at(facts, load.to_s)} ({load.quality}), and "
                f"{most_kw:.3f} kW were free at most"
            )
    measured = f"{{}} of {judged:,} too high"
    return verdict_of("capacity", faults, measured, "never more than was measured to be free")


def _most_free_kw(facts: Facts, load: Load) -> float:
    """The most that is right by what the devices said as long ago as may count.

    In failsafe a device without maxPower was not heard, whatever it said: a fault on its way, or
    the service's own start, came between. So none of them is reckoned with then.
    """
    free_kw = GRID_CAPACITY_KW
    limit_kw = math.inf
    for device in facts.devices.values():
        if device.meter_type == "zone":
            continue
        powers_kw, most_kw = _powers_kw(facts, device, load), device.max_power_kw
        if device.meter_type == "solar":
            free_kw += max(powers_kw, default=0.0)
        elif most_kw is None and (not powers_kw or load.quality == "failsafe"):
            limit_kw = FAILSAFE_KW
        else:
            free_kw -= min(powers_kw, default=most_kw or 0.0)
    return max(0.0, min(free_kw, limit_kw))


def _powers_kw(facts: Facts, device: Device, load: Load) -> list[float]:
    served = facts.of_device[device.number]
    from_s = load.from_s - device.stale_after_s - _SHOWN_LATER_S
    begin = bisect_left(served, from_s, key=lambda each: each.mono_s)
    end = bisect_right(served, load.to_s, key=lambda each: each.mono_s)
    return [each.power_kw for each in served[begin:end]]


def answered(facts: Facts) -> Verdict:
    """Who asks properly is answered, also while others do not."""
    siege = facts.of_kinds("abuse", "suspend", before_s=1.0, after_s=5.0)
    faults = [
        f"{each.reason} at {at(facts, each.mono_s)}"
        for each in facts.unanswered
        if not siege.touch(each.mono_s, each.mono_s)
        and not facts.downtimes.touch(each.mono_s - 1, each.mono_s)
    ]
    took_s = [sample.took_s for sample in facts.samples]
    turned_away = len(facts.unanswered) - len(faults)
    measured = (
        f"{facts.answered:,} rounds of three questions, p99 {quantile(took_s, 0.99) * 1000:.0f} "
        f"ms, worst {max(took_s) * 1000:.0f} ms; {{}} unanswered, and {turned_away} in a siege or "
        "downtime"
    )
    return verdict_of("answered", faults, measured, "every question, but in a siege or downtime")
