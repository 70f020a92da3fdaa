"""Whether all is well in the end, and what was said on the way. Pure."""

from __future__ import annotations

import re
from collections import Counter

from tools.soak.facts import Facts
from tools.soak.verdict import Verdict, verdict_of

_STOPS_WITHIN_S = 5.0
_REPEATED = 3
"""A sentence may be logged so many times as faults of one kind there were."""
_MOST_LATE, _MOST_CROWDED = 0.2, 0.5


def ended(facts: Facts) -> Verdict:
    """No process ended but when it was told to, and each in good order."""
    faults = [
        f"process {number} {life.end}: exit code {life.code} after {life.took_s:.1f} s"
        for number, life in enumerate(facts.lives, start=1)
        if (life.end != "killed" and (life.code != 0 or life.took_s > _STOPS_WITHIN_S))
    ]
    ends = Counter(life.end for life in facts.lives)
    starts_s = [life.ready_s - life.started_s for life in facts.lives]
    measured = (
        f"{ends['killed']} killed, {ends['stopped']} stopped, {{}} otherwise; ready within "
        f"{max(starts_s):.1f} s"
    )
    wanted = f"exit code 0 within {_STOPS_WITHIN_S:g} s of SIGTERM"
    return verdict_of("ended", faults, measured, wanted)


def healed(facts: Facts) -> Verdict:
    """When all is over all is well: everybody online, nothing waiting, nothing given up."""
    end = facts.end
    faults = [*end.faults, *(f"{name} was set aside" for name in end.broken)]
    if end.integrity != "ok":
        faults.append(f"SQLite says of the journal: {end.integrity}")
    when = "never" if end.settled_s is None else f"after {end.settled_s:.0f} s"
    return verdict_of(
        "healed", faults, f"all well {when}; {{}} faults", "all well, nothing given up"
    )


def log(facts: Facts) -> Verdict:
    """The log holds no traceback, and says nothing over and over."""
    lines = facts.log.splitlines()
    faults = [line for line in lines if "Traceback" in line or "CRITICAL" in line]
    kinds = Counter(window.kind for window in facts.windows)
    most = _REPEATED * (max(kinds.values(), default=0) + len(facts.lives)) + 5
    said = Counter(_wording(line) for line in lines)
    faults += [f"{count} times: {text}" for text, count in said.most_common(50) if count > most]
    measured = f"{len(lines):,} lines in {len(facts.windows)} faults; {{}} to be explained"
    return verdict_of("log", faults, measured, "no traceback; what changes is said once")


def _wording(line: str) -> str:
    """What a line says, without when."""
    return re.sub(r"^[\d:T., -]+", "", line)


def machine(facts: Facts) -> Verdict:
    """How far the machine let itself be judged on."""
    share = facts.machine.length_s / (facts.ended_s - facts.begun_s)
    crowded = facts.crowded.length_s / (facts.ended_s - facts.begun_s)
    worst_s = max((each.late_s for each in facts.late), default=0.0)
    return Verdict(
        "machine",
        f"itself late in {share:.1%} of the time, {worst_s * 1000:.0f} ms at worst; in "
        f"{crowded:.1%} some thread waited for a processor",
        f"≤ {_MOST_LATE:.0%} and {_MOST_CROWDED:.0%}, or it cannot be judged",
        share <= _MOST_LATE and crowded <= _MOST_CROWDED,
    )
