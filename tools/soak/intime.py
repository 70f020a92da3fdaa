"""Whether everything happened in time, also after faults. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import pairwise

from tools.bench.figure import quantile
from tools.soak.devices import Device
from tools.soak.facts import Facts, Spans
from tools.soak.records import Sample, steps
from tools.soak.verdict import DETAILS, Verdict, at, verdict_of

_PUNCTUAL_S = 0.05
_LATE_SHARE = 0.001
_LATEST_S = 0.25
_RECOVERS_WITHIN_S = {"tcp": 20.0, "rtu-over-tcp": 20.0, "http": 20.0, "mqtt": 20.0}
"""By transport. Who has failed for long on a line that is shared is asked at most once a minute."""


def punctual(facts: Facts) -> Verdict:
    """Devices that are well are asked in time, whatever happens to the others and around them."""
    off_s: list[float] = []
    faults = []
    for device in facts.devices.values():
        if not device.polled:
            continue
        spared = _disturbed(facts, device)
        for before, after in pairwise(facts.of_device[device.number]):
            if spared.touch(before.mono_s, after.mono_s):
                continue
            off_s.append(abs(after.mono_s - before.mono_s - device.period_s))
            if off_s[-1] > _PUNCTUAL_S:
                faults.append(
                    f"{device.name} at {at(facts, after.mono_s)}: off by {off_s[-1]:.3f} s"
                )
    p99_s, worst_s = quantile(off_s or [0.0], 0.99), max(off_s, default=0.0)
    allowed = _LATE_SHARE * len(off_s)
    return Verdict(
        "punctual",
        f"period off by p99 {p99_s * 1000:.1f} ms, worst {worst_s * 1000:.0f} ms; {len(faults)} of "
        f"{len(off_s):,} by more than {_PUNCTUAL_S * 1000:.0f} ms",
        f"≤ {_LATE_SHARE:.1%} of them, none by {_LATEST_S * 1000:.0f} ms",
        len(faults) <= allowed and worst_s <= _LATEST_S,
        faults[:DETAILS],
    )


def _disturbed(facts: Facts, device: Device) -> Spans:
    """When a device need not be asked in time: a fault of any device on its line, and such."""
    spans = [
        span
        for other in facts.devices.values()
        if other.line == device.line
        for span in facts.excused[other.number]
    ]
    churn = facts.of_kinds("churn", "suspend", after_s=2 * device.period_s)
    return Spans((*spans, *churn, *facts.crowded))


def ticks(facts: Facts) -> Verdict:
    """No tick of the cycle is left out but while the process or the machine stood still."""
    spared = facts.of_kinds("suspend", after_s=2.0)
    missed, faults = 0, []
    for before, after in steps(facts.samples):
        more = int(_missed(after) - _missed(before))
        if spared.touch(before.mono_s, after.mono_s):
            continue
        if more and not facts.crowded.touch(before.mono_s, after.mono_s):
            missed += more
            faults.append(f"{more} left out before {at(facts, after.mono_s)}")
    late = Counter[float]()
    for before, after in steps(facts.samples):
        if not spared.touch(before.mono_s, after.mono_s):
            for bound in after.lateness:
                late[bound] += after.lateness[bound] - before.lateness[bound]
    total = late[math.inf]
    p99_s = min((bound for bound, count in late.items() if count >= 0.99 * total), default=0.0)
    return Verdict(
        "ticks",
        f"p99 ≤ {p99_s * 1000:g} ms late, {missed} of {total:,} left out",
        "none left out",
        not missed,
        faults[:DETAILS],
    )


def _missed(sample: Sample) -> float:
    return sample.metrics.get("dlm_schedule_missed_ticks_total", 0.0)


def recovered(facts: Facts) -> Verdict:
    """After a fault every device is read again soon."""
    worst_s: dict[str, float] = defaultdict(float)
    faults = []
    for number, outages in facts.outages.items():
        device = facts.devices[number]
        for outage, following in zip(outages, [*outages[1:], None], strict=True):
            if outage.to_s > facts.ended_s or following is None:
                continue  # the end of the run
            if outage.to_s < facts.begun_s:
                continue
            # The next fault may have come before it had a chance.
            took_s = min(outage.back_s, following.from_s) - outage.to_s
            worst_s[device.transport] = max(worst_s[device.transport], took_s)
            if took_s > _RECOVERS_WITHIN_S[device.transport] + device.period_s:
                faults.append(f"{device.name} {took_s:.1f} s after {at(facts, outage.to_s)}")
    worst = ", ".join(f"{transport} {s:.1f} s" for transport, s in sorted(worst_s.items()))
    wanted = ", ".join(f"{transport} {s:g} s" for transport, s in _RECOVERS_WITHIN_S.items())
    return verdict_of("recovered", faults, f"worst: {worst}; {{}} too late", f"within {wanted}")
