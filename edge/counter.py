"""What flowed through a meter, as its energy counter tells, and what a counter does besides.

A counter should only rise. In the field it also turns over at the width of its register, is reset,
is another one after the meter was replaced, and shows a wrong value for a moment. `trace` goes
through its readings in order and keeps a *baseline*: the last value that is believed.

Possible is what the rated power × 1.2 can have made since the counter last moved, and a little
more: one step of its resolution, and what flows in 10 s, since a meter brings its registers up to
date in a rhythm of its own. That little is lent, not given: it is taken off what is possible next,
so however the faults lie, never more is counted than rated power × 1.2 × time and one such loan.

    a rise that is possible          counts
    a step back within rounding      counts 0, the baseline stays
    gone within two readings         GLITCH: ignored, the baseline stays
    stays for three readings, and
      the baseline was near the top  ROLLOVER, if what flowed over the top is possible: counts
      it is near 0                   RESET, if all that it shows is possible: that much counts
      else                           REPLACEMENT: nothing counts, it is the new baseline
    rises on and on, impossibly      TOO_FAST: ignored, the baseline stays
    the time between is unknown      CLOCK_STEP: nothing counts, it is the new baseline
    it is longer than 31 days        GAP: nothing counts, it is the new baseline

ROLLOVER to TOO_FAST need two more readings to be told from a glitch; until they are there, the jump
and all behind it wait. A possible rise is a glitch too if the next two readings are back below it.

Between readings of two eras the wall clock counts when the system was started anew in between (a
power cut), if it is later. Within one boot it was the clock that jumped, and how much time passed
is unknown. Nothing is spread over more than 31 days: a mean tells next to nothing of an hour then,
and a clock that is wrong by years (1970, 2000, 2036) would fill all of them.

Nearly all readings are a *usual* one: the value stands, or has risen by what is possible. Those are
found for a whole column at once by functions that loop in C, and passed over without looking at
each; what is left is judged one by one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timezone
from enum import Enum
from itertools import compress, repeat
from operator import gt, le, mul, ne, not_, sub

from edge.times import moment

MARGIN = 1.2
"""A meter may for long measure more than it is rated for, and its clock is not ours."""
REFRESH_MS = 10_000
"""How old a counter's value may be when it is read."""
LONGEST_GAP_MS = 31 * 86_400_000
"""What flowed in a longer time without readings is spread over none of it: a month is what bills
and outages last, and each of the hours between has to be computed."""
_LONGEST_SINCE_RESET_MS = 86_400_000
"""After a longer gap too many values are possible to take one for the energy since a reset."""
_NEAR_TOP = 0.9
_CONFIRMING = 2
"""Readings that a jump is confirmed or refuted by."""
_MS_PER_H = 3_600_000
_EXACT_KWH = 1e-6
"""Below this a difference is one of arithmetic."""


class Kind(str, Enum):
    """What a counter did other than rise."""

    ROLLOVER = "rollover"
    RESET = "reset"
    REPLACEMENT = "replacement"
    GLITCH = "glitch"
    TOO_FAST = "too fast"
    CLOCK_STEP = "clock step"
    GAP = "gap"


_MEANING = {
    Kind.ROLLOVER: "the register is full and began again from 0, and what flowed counts",
    Kind.RESET: "it was set to 0, and what it shows since counts",
    Kind.REPLACEMENT: "no energy can have done that, so nothing counts and it is the new start",
    Kind.GLITCH: "the value went away again, so it is ignored",
    Kind.TOO_FAST: "it rises by more than the meter's power allows, so that does not count; if it "
    "is right, the meter's maxPower is too low",
    Kind.GAP: "there was no reading for over 31 days, so nothing counts and it is the new start",
    Kind.CLOCK_STEP: "the clock was set in between, so nothing counts and it is the new start",
}


@dataclass(frozen=True)
class Correction:
    """Where a counter did not simply rise.

    quantity: `energy` or `energyExport`. unix_ms: when after_kwh was read; before_kwh is what was
    believed until then.
    """

    quantity: str
    kind: Kind
    unix_ms: int
    before_kwh: float
    after_kwh: float

    def __str__(self) -> str:
        """Say it in one sentence, for the log; the meter's name belongs in front."""
        when = moment(self.unix_ms, timezone.utc)
        return (
            f"the counter {self.quantity} went from {self.before_kwh:.10g} to "
            f"{self.after_kwh:.10g} kWh at {when:%Y-%m-%dT%H:%M:%SZ} ({self.kind.value}): "
            f"{_MEANING[self.kind]}."
        )


@dataclass(frozen=True)
class Limits:
    """What is possible. max_kw: rated power. counter_kwh: where the register begins again from 0.

    boots: era → the boot it belongs to. An era that is absent counts as a boot of its own.
    """

    max_kw: float
    counter_kwh: float | None = None
    boots: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rise:
    """A stretch in which a counter only rose: when it was read, and what it showed then, kWh.

    Two readings or more; times increase strictly. What the values differ by flowed in between.
    """

    unix_ms: Sequence[int]
    kwh: Sequence[float]


@dataclass(frozen=True)
class Trace:
    """What a counter tells.

    rises: they do not overlap within an era, and where it is not known what flowed there is none.
    decided_ms: time of the last reading that is judged. pending: a jump behind it waits for the
    readings that decide it.
    """

    rises: Sequence[Rise]
    corrections: Sequence[Correction]
    decided_ms: int
    pending: bool


def trace(
    quantity: str,
    unix_ms: Sequence[int],
    kwh: Sequence[float],
    eras: Sequence[int],
    limits: Limits,
) -> Trace:
    """Follow a counter through its readings: columns of one length, at least 1, in sequence.

    The first reading is the first baseline, right or wrong: so what it is needed for should begin
    some readings later. A counter that moves once in a while in large steps needs readings back to
    its last step, since that step's size is judged by the time it took.
    """
    walk = _Walk(quantity, unix_ms, kwh, eras, limits)
    walk.run()
    return Trace(walk.rises, walk.corrections, walk.read_ms, walk.pending)


def _resolution(one_kwh: float, other_kwh: float) -> float:
    """Size of the steps that a counter with these two values may have, kWh; at most 1 kWh.

    Whole kWh are told by both values being whole, and so on; a float32 has 24 binary digits.
    """
    rounding = math.ldexp(1.0, math.frexp(max(abs(one_kwh), abs(other_kwh)))[1] - 23)
    for digits in range(4):
        if all(abs(kwh - round(kwh, digits)) < _EXACT_KWH for kwh in (one_kwh, other_kwh)):
            return max(10.0**-digits, rounding) + _EXACT_KWH
    return rounding + _EXACT_KWH


class _Walk:
    """A baseline on its way through the readings.

    read: index of the last reading that is believed; read_ms, era: its own. value: the baseline,
    which a step back within rounding leaves. moved_ms: when it was reached. loan: kWh beyond what
    was possible, ≥ 0.
    """

    def __init__(
        self,
        quantity: str,
        unix_ms: Sequence[int],
        kwh: Sequence[float],
        eras: Sequence[int],
        limits: Limits,
    ) -> None:
        self._quantity = quantity
        self._unix_ms = unix_ms
        self._kwh = kwh
        self._eras = eras
        self._limits = limits
        self._rate = limits.max_kw * MARGIN / _MS_PER_H  # kWh per ms
        self._loan = 0.0
        self.rises: list[Rise] = []
        self.corrections: list[Correction] = []
        self.pending = False
        self.read_ms: int
        self._begin_at(0)
        self._moves, self._doubtful = self._survey()

    def run(self) -> None:
        """Go through all readings."""
        unix_ms, kwh, eras = self._unix_ms, self._kwh, self._eras
        index = 1
        while index < len(kwh) and not self.pending:
            usual_to = self._usual_from(index)
            if usual_to > index:
                index = self._pass(index, usual_to)
            elif (
                eras[index] != self._era
                or not self.read_ms < unix_ms[index] <= self.read_ms + LONGEST_GAP_MS
            ):
                index = self._change_era(index)
            elif kwh[index] == self._value:
                index = self._count(index, 0.0)
            else:
                index = self._judge(index)

    def _survey(self) -> tuple[Sequence[int], Sequence[int]]:
        """Find where the value changes, and the readings that may be other than usual; indexes.

        The latter are those that begin an era, do not come later or end a long gap, and those that
        rise by more than is possible since the last change, or fall, or come before a fall.
        """
        unix_ms, kwh, eras = self._unix_ms, self._kwh, self._eras
        indexes = range(1, len(kwh))
        changes = list(map(sub, kwh[1:], kwh))
        moves = list(compress(indexes, changes))
        moved_ms = list(compress(unix_ms[1:], changes))
        steps = list(compress(changes, changes))
        elapsed_ms = map(sub, moved_ms, [unix_ms[0], *moved_ms])
        usual = map(le, steps, map(mul, elapsed_ms, repeat(self._rate)))
        falls = list(compress(moves, map(gt, repeat(0.0), steps)))
        doubtful = {
            *compress(indexes, map(ne, eras[1:], eras)),
            *compress(indexes, map(le, unix_ms[1:], unix_ms)),
            *compress(moves, map(not_, usual)),  # what is not a number is not usual either
            *falls,
            *(index - 1 for index in falls),
        }
        if max(unix_ms) - min(unix_ms) > LONGEST_GAP_MS:
            gaps = map(gt, map(sub, unix_ms[1:], unix_ms), repeat(LONGEST_GAP_MS))
            doubtful.update(compress(indexes, gaps))
        return moves, sorted(doubtful)

    def _usual_from(self, index: int) -> int:
        """Give the index up to which all readings from one on are usual; this one if it is not."""
        if self._read != index - 1 or self._kwh[index - 1] != self._value:
            return index
        place = bisect_left(self._doubtful, index)
        end = self._doubtful[place] if place < len(self._doubtful) else len(self._kwh)
        place = bisect_left(self._moves, index)
        # The survey does not know since when the first change is waited for.
        if place < len(self._moves) and self._moves[place] < end:
            move = self._moves[place]
            if not self._kwh[move] - self._value <= self._possible(move):
                return move
        return end

    def _pass(self, index: int, end: int) -> int:
        """Believe usual readings, from an index to before another one, and give that."""
        self.rises.append(Rise(self._unix_ms[index - 1 : end], self._kwh[index - 1 : end]))
        place = bisect_left(self._moves, end) - 1
        if place >= 0 and self._moves[place] >= index:
            move = self._moves[place]
            self._loan = 0.0
            self._moved_ms = self._unix_ms[move]
            self._value = self._kwh[move]
        self._read = end - 1
        self.read_ms = self._unix_ms[end - 1]
        return end

    def _change_era(self, index: int) -> int:
        if self._elapses(self._era, self.read_ms, index):
            return self._judge(index)
        kwh = self._kwh[index]
        if abs(kwh - self._value) > _resolution(kwh, self._value):
            is_gap = self._is_one_clock(self._era, index) and self._unix_ms[index] > self.read_ms
            self._correct(Kind.GAP if is_gap else Kind.CLOCK_STEP, index)
        self._begin_at(index)
        return index + 1

    def _judge(self, index: int) -> int:
        """Judge a reading by those that follow it; gives the index of the next one to judge."""
        last = index + _CONFIRMING
        complete = last < len(self._kwh)
        if self._fits(index):
            # If the next one fits too and is lower, one of the two is wrong: the one after tells.
            doubtful = self._falls_after(index) and self._fits(index + 1)
            if not doubtful or (complete and self._follows(index, last)):
                return self._count(index, self._kwh[index] - self._value)
            if not complete:
                return self._wait(index)
        following = range(index + 1, min(last + 1, len(self._kwh)))
        back = next(filter(self._fits, following), None)
        if back is not None:
            for wrong in range(index, back):
                self._correct(Kind.GLITCH, wrong)
            return back
        if not complete:
            return self._wait(index)
        follows = all(self._follows(k, k + 1) for k in range(index, last))
        if self._rises_on(index, last, at_any_rate=not follows):
            self._correct(Kind.TOO_FAST, index)
        elif follows:
            self._jump(index)
        else:
            self._correct(Kind.GLITCH, index)
        return index + 1

    def _rises_on(self, index: int, last: int, *, at_any_rate: bool) -> bool:
        """Whether the readings above the baseline keep rising; about as before, or at any rate."""
        kwh = self._kwh
        if kwh[index] <= self._value or any(map(self._falls_after, range(index, last))):
            return False
        step_kwh = (kwh[last] - kwh[index]) / _CONFIRMING
        return step_kwh > 0 and (at_any_rate or kwh[index] - kwh[index - 1] <= 2 * step_kwh)

    def _wait(self, index: int) -> int:
        self.pending = True
        return index

    def _jump(self, index: int) -> None:
        """Take up a value that stays."""
        kwh = self._kwh[index]
        top = self._limits.counter_kwh
        slack = self._slack(kwh, self._value)
        possible = self._possible(index)
        since_reset = min(possible, self._rate * _LONGEST_SINCE_RESET_MS)
        if (
            top is not None
            and _NEAR_TOP * top <= self._value <= top
            and 0 <= kwh + top - self._value <= possible + slack
        ):
            self._correct(Kind.ROLLOVER, index)
            self._count(index, kwh + top - self._value, restart=True)
        elif 0 <= kwh < self._value and kwh <= since_reset + slack:
            self._correct(Kind.RESET, index)
            self._count(index, kwh, restart=True)
        else:
            self._correct(Kind.REPLACEMENT, index)
            self._begin_at(index)

    def _count(self, index: int, kwh: float, *, restart: bool = False) -> int:
        """Believe a reading; gives the next index. restart: its value is not above the last."""
        now_ms = self._unix_ms[index]
        self.rises.append(Rise((self.read_ms, now_ms), (0.0, max(0.0, kwh))))
        if kwh > 0 or restart:
            self._loan = max(0.0, kwh - self._possible(index))
            self._moved_ms = now_ms
            self._value = self._kwh[index]
        self._read = index
        self.read_ms = now_ms
        self._era = self._eras[index]
        return index + 1

    def _begin_at(self, index: int) -> None:
        self._read = index
        self._value = self._kwh[index]
        self._era = self._eras[index]
        self.read_ms = self._moved_ms = self._unix_ms[index]

    def _possible(self, index: int) -> float:
        """Most that can have flowed since the baseline was reached, kWh; below 0 after a loan."""
        return self._rate * (self._unix_ms[index] - self._moved_ms) - self._loan

    def _slack(self, one_kwh: float, other_kwh: float) -> float:
        return _resolution(one_kwh, other_kwh) + self._rate * REFRESH_MS

    def _fits(self, index: int) -> bool:
        """Whether a reading goes on from the baseline."""
        kwh = self._kwh[index]
        least = -_resolution(kwh, self._value)
        most = self._possible(index) + self._slack(kwh, self._value)
        return least <= kwh - self._value <= most and self._elapses(self._era, self.read_ms, index)

    def _follows(self, earlier: int, later: int) -> bool:
        """Whether a reading goes on from another one, whatever the baseline."""
        one, other = self._kwh[earlier], self._kwh[later]
        elapsed_ms = self._unix_ms[later] - self._unix_ms[earlier]
        most = self._rate * elapsed_ms + self._slack(one, other)
        return -_resolution(one, other) <= other - one <= most and self._elapses(
            self._eras[earlier], self._unix_ms[earlier], later
        )

    def _falls_after(self, index: int) -> bool:
        """Whether the next reading is lower by more than rounding."""
        if index + 1 >= len(self._kwh):
            return False
        fall = self._kwh[index] - self._kwh[index + 1]
        return fall > 0 and fall > _resolution(self._kwh[index], self._kwh[index + 1])

    def _elapses(self, era: int, from_ms: int, index: int) -> bool:
        """Whether the wall clock tells how much time passed until a reading."""
        elapsed_ms = self._unix_ms[index] - from_ms
        return 0 < elapsed_ms <= LONGEST_GAP_MS and self._is_one_clock(era, index)

    def _is_one_clock(self, era: int, index: int) -> bool:
        """Whether nobody set the clock between an era and a reading, as far as is known."""
        if self._eras[index] == era:
            return True
        boots = self._limits.boots
        return era not in boots or boots[era] != boots.get(self._eras[index])

    def _correct(self, kind: Kind, index: int) -> None:
        self.corrections.append(
            Correction(self._quantity, kind, self._unix_ms[index], self._value, self._kwh[index])
        )
