"""One line of the table, and the statistics that go into it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor

HEADINGS = (
    "row",
    "figure",
    "measured",
    "floor",
    "ratio",
    "goal",
    "met",
    "load before, others' CPU",
)

_PHASE_BINS = 50
"""Into which a period is divided to find where in it a meter is mostly read."""
_EARLIER = 5
"""So many bins before that place a read still belongs to the same slot: in most periods the line
or the machine may have been a little late."""
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    floor: the same of something simpler, measured in the same run. ratio: measured by floor, where
    that says something. met: None where the goal is only to have it printed.
    """

    name: str
    measured: str
    floor: str
    goal: str
    met: bool | None
    ratio: float | None = None

    def cells(self) -> list[str]:
        """The figure's part of a table line."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        met = {True: "yes", False: "NO", None: ""}[self.met]
        return [self.name, self.measured, self.floor, ratio, self.goal, met]


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, floor(share * len(ordered)))]


def bucket_quantile(counts: Mapping[float, float], share: float) -> float:
    """The lowest bound of a cumulative histogram that `share` of its values do not exceed."""
    total_count = max(counts.values())
    return next(bound for bound, count in sorted(counts.items()) if count >= share * total_count)


def deviations_s(times_s: Sequence[float], period_s: float) -> list[float]:
    """By how much each interval between requests is off the period, s, without sign."""
    return [abs(b - a - period_s) for a, b in pairwise(times_s)]


@dataclass(frozen=True)
class Slots:
    """How many slots of the period a meter had, and in how many it was read."""

    wanted: int
    met: int

    @property
    def share(self) -> float:
        """Part of its polls that were on time; 0 when there was none to be had."""
        return self.met / self.wanted if self.wanted else 0.0


def slots(times_s: Sequence[float], from_s: float, to_s: float, period_s: float) -> Slots:
    """Count the slots between from_s and to_s in which a request came.

    A slot begins at the first of the moments around which the meter is mostly read, and is a
    period long. A read that comes late, but before the next is due, is on time; a second one in
    the same slot adds nothing.
    """
    if not times_s:
        return Slots(floor((to_s - from_s) / period_s), 0)
    bin_s = period_s / _PHASE_BINS
    bins = Counter(int(time_s / bin_s) % _PHASE_BINS for time_s in times_s)
    usual_s = bins.most_common(1)[0][0] * bin_s
    earliest_s = usual_s - _EARLIER * bin_s
    phase_s = earliest_s + min((time_s - earliest_s) % period_s for time_s in times_s)
    phase_s = min(phase_s, usual_s) - _ROUNDING_S
    # Slots that the window cuts at its ends are not counted.
    whole = range(floor((from_s - phase_s) / period_s) + 1, floor((to_s - phase_s) / period_s))
    hit = {floor((time_s - phase_s) / period_s) for time_s in times_s}
    return Slots(len(whole), sum(number in whole for number in hit))


def total(parts: Iterable[Slots]) -> Slots:
    """The slots of many meters together."""
    parts = list(parts)
    return Slots(sum(part.wanted for part in parts), sum(part.met for part in parts))
