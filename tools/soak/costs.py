"""What it costs, and whether that grows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tools.soak.facts import Facts
from tools.soak.records import Sample, steps
from tools.soak.verdict import Verdict

_STARTS_S, _BASELINE_S, _END_S = 3.0, 17.0, 10.0
_MORE_FILES, _MORE_THREADS = 1, 1
"""One of each comes and goes with a question."""
_MORE_MB, _MORE_MB_EARLY = 3.0, 8.0
_EARLY_S = 500.0
"""A process that is younger may not have been through everything once, which leaves some memory
in use: a siege has many threads."""
_SHARES = 2
"""What is shared may add so much again: it changes with those who share it."""
_SLOPE_AFTER_S = 300.0


def leaked(facts: Facts) -> Verdict:
    """The last process holds no more at its quiet end than at its beginning."""
    life = facts.lives[-1]
    sieges = facts.of_kinds("abuse", after_s=5.0)
    calm = [
        each
        for each in facts.samples
        if each.life == len(facts.lives) and not sieges.touch(each.mono_s, each.mono_s)
    ]
    lived_s = facts.ended_s - life.ready_s
    first = _between(calm, life.ready_s + _STARTS_S, _BASELINE_S)
    settled = _between(calm, life.ready_s + lived_s / 3, _BASELINE_S)
    last = _between(calm, facts.ended_s - _END_S, _END_S)
    if not (first and settled and last):
        return Verdict("leaked", "the last process did not live long enough", "", False)
    files = [median(each.files for each in some) for some in (first, last)]
    threads = [median(each.threads for each in some) for some in (first, last)]
    mb = [median(each.own_mb for each in some) for some in (settled, last)]
    pss_mb = [median(each.pss_mb for each in some) for some in (settled, last)]
    more_mb = _MORE_MB if lived_s > _EARLY_S else _MORE_MB_EARLY
    ok = (
        files[1] <= files[0] + _MORE_FILES
        and threads[1] <= threads[0] + _MORE_THREADS
        and mb[1] <= mb[0] + more_mb
        and pss_mb[1] <= pss_mb[0] + _SHARES * more_mb
    )
    return Verdict(
        "leaked",
        f"in {lived_s / 60:.0f} min files {files[0]:g} → {files[1]:g}, threads {threads[0]:g} → "
        f"{threads[1]:g}; in the last two thirds own memory {mb[0]:.1f} → {mb[1]:.1f} MB"
        f"{_slope_mb_per_h(facts)}, PSS {pss_mb[0]:.1f} → {pss_mb[1]:.1f} MB",
        f"no more than {_MORE_FILES} files, {_MORE_THREADS} threads, {more_mb:g} MB; PSS "
        f"{_SHARES * more_mb:g} MB",
        ok,
    )


def _between(samples: Sequence[Sample], from_s: float, length_s: float) -> list[Sample]:
    return [each for each in samples if from_s <= each.mono_s <= from_s + length_s]


def _slope_mb_per_h(facts: Facts) -> str:
    """What own memory grew by, by least squares, once it had lived for a while."""
    begin_s = facts.lives[-1].ready_s + _SLOPE_AFTER_S
    points = [(each.mono_s / 3600, each.own_mb) for each in facts.samples if each.mono_s > begin_s]
    if not points or points[-1][0] - points[0][0] < _SLOPE_AFTER_S / 3600:
        return ""
    x_mean, y_mean = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / sum(
        (x - x_mean) ** 2 for x, _ in points
    )
    return f" ({slope:+.2f} MB/h after the first {_SLOPE_AFTER_S / 60:.0f} min)"


def written(facts: Facts) -> Verdict:
    """What went to the disk, for a reading."""
    bytes_ = readings = cpu_s = lived_s = 0.0
    for before, after in steps(facts.samples):
        bytes_ += after.disk_bytes - before.disk_bytes
        readings += _recorded(after) - _recorded(before)
        cpu_s += after.cpu_s - before.cpu_s
        lived_s += after.mono_s - before.mono_s
    return Verdict(
        "written",
        f"{bytes_ / max(1, readings):.0f} bytes a reading, {bytes_ / 1e6:.1f} MB in all; CPU "
        f"{cpu_s / max(1e-9, lived_s):.1%} of a core",
        "",
        None,
    )


def _recorded(sample: Sample) -> float:
    return sample.metrics.get("dlm_journal_readings_total", 0.0)
