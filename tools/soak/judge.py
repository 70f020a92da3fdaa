"""All checks of a run: whether anything was lost, misattributed, leaked or late. Pure.

Each is a function of the facts that gives a verdict. Most hold what the service did against what
its devices served, answer by answer.
"""

from __future__ import annotations

from tools.soak import costs, ending, intime, kept, told
from tools.soak.facts import Facts
from tools.soak.verdict import Check, Verdict

CHECKS: tuple[Check, ...] = (
    *(kept.nothing_lost, kept.nothing_misattributed, kept.stamped_right, kept.uplinked),
    *(told.shown_fresh, told.never_too_much, told.answered),
    *(intime.punctual, intime.ticks, intime.recovered),
    *(costs.leaked, costs.written),
    *(ending.ended, ending.healed, ending.log, ending.machine),
)


def judge(facts: Facts) -> list[Verdict]:
    """Give all verdicts."""
    return [check(facts) for check in CHECKS]
