"""A sink's place in the journal: what it was given, and what it still has to be given.

By sequence number: everything from `live` on is new and goes at once; below it, what is in a gap
was not sent yet; the rest was. What cannot be sent when it is new becomes a gap, so that what is
newest always goes first and the gaps are filled beside it, from the oldest.

All ranges are half-open: (3, 5) are the numbers 3 and 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

MOST_GAPS = 100
"""Beyond it, the two that are closest are joined: what lies between them is sent once more."""

Range = tuple[int, int]


@dataclass(frozen=True)
class Place:
    """Where a sink is. gaps: sorted, apart from each other, below `live`.

    change: rollups up to this change were sent.
    """

    live: int = 1
    gaps: tuple[Range, ...] = ()
    change: int = 0

    def sent(self, from_seq: int, to_seq: int) -> Place:
        """Give the place after the sink took this range; numbers it skipped become a gap."""
        place = self.deferred(to_seq)
        return replace(place, gaps=_bounded(_without(place.gaps, from_seq, to_seq)))

    def deferred(self, to_seq: int) -> Place:
        """Give the place where everything new below `to_seq` waits in a gap."""
        if to_seq <= self.live:
            return self
        gaps = _joined([*self.gaps, (self.live, to_seq)])
        return replace(self, live=to_seq, gaps=_bounded(gaps))

    def taken_back(self, from_seq: int, to_seq: int) -> Place:
        """Give the place where a range that was sent waits in a gap again."""
        given = (from_seq, min(to_seq, self.live))
        if given[0] >= given[1]:
            return self
        return replace(self, gaps=_bounded(_joined(sorted([*self.gaps, given]))))

    def waiting(self, from_seq: int, to_seq: int) -> int:
        """Count the numbers of a range that the sink still has to be given."""
        ranges = [*self.gaps, (self.live, max(self.live, to_seq))]
        return sum(max(0, min(end, to_seq) - max(start, from_seq)) for start, end in ranges)

    def backlog(self, next_seq: int) -> int:
        """Count what waits below `next_seq`, the first number not given to a reading yet."""
        return self.waiting(0, next_seq)

    def to_json(self) -> str:
        """Give the text that `from_json` reads."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Place:
        """Read a place. Raises ValueError where the text is not one."""
        try:
            document = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(document, dict) or document.keys() != {"live", "gaps", "change"}:
            raise ValueError("not the keys of a place")
        gaps = document["gaps"]
        if not isinstance(gaps, list) or not all(_is_pair(gap) for gap in gaps):
            raise ValueError("gaps is not a list of pairs")
        place = Place(document["live"], tuple(map(tuple, gaps)), document["change"])
        _check(place)
        return place


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _check(place: Place) -> None:
    """Raise ValueError unless its numbers can be true."""
    numbers: list[Any] = [0, *(seq for gap in place.gaps for seq in gap), place.live]
    if not all(type(number) is int for number in (*numbers, place.change)):
        raise ValueError("not all are whole numbers")
    if any(start == end for start, end in place.gaps) or numbers != sorted(numbers):
        raise ValueError("gaps are not in order below live")
    if place.change < 0:
        raise ValueError("change is negative")


def _without(gaps: Iterable[Range], from_seq: int, to_seq: int) -> list[Range]:
    pieces = [
        piece
        for start, end in gaps
        for piece in ((start, min(end, from_seq)), (max(start, to_seq), end))
        if piece[0] < piece[1]
    ]
    return pieces if from_seq < to_seq else list(gaps)


def _joined(gaps: Iterable[Range]) -> list[Range]:
    """Sorted gaps with those that touch made one."""
    joined: list[Range] = []
    for start, end in gaps:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _bounded(gaps: list[Range]) -> tuple[Range, ...]:
    while len(gaps) > MOST_GAPS:
        at = min(range(1, len(gaps)), key=lambda n: gaps[n][0] - gaps[n - 1][1])
        gaps[at - 1 : at + 1] = [(gaps[at - 1][0], gaps[at][1])]
    return tuple(gaps)
