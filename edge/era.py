"""What the wall clock did during one boot, and which of its times are to be believed. Pure.

The monotonic clock cannot be set, so wall clock minus monotonic clock, the *offset*, tells what
was done to the wall clock. While it stays the same (a clock that is slewed moves it slowly), it is
one *era*; a step begins another. A reading belongs to the era whose offset it was stamped with, so
one that was under way during a step goes where it belongs.

A controller without a battery boots in 1970, or where it was when it lost its power, and is set
minutes later. So an era has to earn *trust*:

- the kernel says that the clock is synchronised, or
- the clock is plausible, and was set by somebody while the era before was not trusted, or
- the clock is plausible, and nobody has set it for some minutes.

Plausible is a clock that is not before this software was made. It is *doubtful* if it is far ahead
of the newest reading of the journal, or, unless somebody set it to what it is during this boot,
before it: then it has to go unset for a day.

Once the era that the clock is in is trusted, every untrusted era of the same boot is *corrected*:
its readings were taken at their monotonic time, whatever the wall clock said. Trusted eras stay as
they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

STEP_MS = 500
"""An offset that differs by more is a step. Less is slewed, or came of a busy processor."""

RELEASED_UNIX_MS = 1_735_689_600_000
"""2025-01-01T00:00Z: no reading of this software was taken before."""

FAR_AHEAD_MS = 400 * 86_400_000
"""A clock that is so far ahead of the newest reading was rather set wrong than off for so long."""
DOUBTFUL_WAIT_S = 86_400.0
"""How long a doubtful clock must go unset."""

_MOST_CORRECTED = 16


@dataclass(frozen=True)
class Era:
    """A stretch of one boot in which the wall clock did not step.

    offset_ms: wall clock minus monotonic clock, as last seen.
    """

    id: int
    boot: str
    offset_ms: int
    trusted: bool


@dataclass(frozen=True)
class Correction:
    """The readings of an era are to be moved by shift_ms, into another one."""

    era: int
    into: int
    shift_ms: int


@dataclass(frozen=True)
class _Current:
    """The era that the clock is in: since when, and how it came to be there."""

    era: int
    since_mono_s: float
    was_set: bool
    healed: bool
    """It was set, and was not to be trusted before."""


class Eras:
    """The eras of this boot.

    known: those of this boot that are recorded. next_id: for the first new one. newest_unix_ms: of
    the latest reading whose time is trusted, 0 without any. wait_s: how long a plausible clock must
    go unset.
    """

    def __init__(
        self,
        boot: str,
        known: Iterable[Era] = (),
        next_id: int = 1,
        newest_unix_ms: int = 0,
        wait_s: float = 300.0,
    ) -> None:
        self._boot = boot
        self._eras = {era.id: era for era in known}
        self._next_id = next_id
        self._newest_unix_ms = newest_unix_ms
        self._wait_s = wait_s
        self._current: _Current | None = None
        self._corrected: list[tuple[int, Correction]] = []
        """By the offset that their readings are stamped with; such a reading may still come."""

    @property
    def all(self) -> tuple[Era, ...]:
        """The eras of this boot, but for those that were corrected."""
        return tuple(self._eras.values())

    @property
    def trusted(self) -> bool:
        """Whether the clock can be believed now."""
        return self._current is not None and self._eras[self._current.era].trusted

    def waited_s(self, mono_s: float) -> float:
        """Give how long the clock has gone unset."""
        return 0.0 if self._current is None else mono_s - self._current.since_mono_s

    def is_doubtful(self, unix_ms: int) -> bool:
        """Tell whether the wall clock, as it is now, does not go with what was recorded before."""
        if not self._newest_unix_ms:
            return False
        was_set = self._current is not None and self._current.was_set
        early = not was_set and unix_ms < self._newest_unix_ms
        return early or unix_ms > self._newest_unix_ms + FAR_AHEAD_MS

    def place(self, mono_s: float, unix_ms: int) -> tuple[int, int]:
        """Give the era of a reading, by id, and its wall-clock time there, ms."""
        offset_ms = unix_ms - round(mono_s * 1000)
        era = self._near(offset_ms)
        if era is not None:
            return era.id, unix_ms
        for stamped_ms, correction in reversed(self._corrected):
            if abs(stamped_ms - offset_ms) <= STEP_MS:
                return correction.into, unix_ms + correction.shift_ms
        return self._begin(offset_ms).id, unix_ms

    def settle(self, mono_s: float, unix_ms: int, synchronised: bool) -> tuple[Correction, ...]:
        """Look at the clocks, read at one moment: trust the era they are in, or not yet.

        synchronised: the kernel says so of the wall clock. Returns what is to be corrected now.
        """
        offset_ms = unix_ms - round(mono_s * 1000)
        era = self._near(offset_ms)
        if era is None:
            # The clock went back to where it was before a correction, so that one ends here.
            self._corrected = [c for c in self._corrected if abs(c[0] - offset_ms) > STEP_MS]
            era = self._begin(offset_ms)
        current = self._enter(era, mono_s)
        trusted = era.trusted or self._earns_trust(current, mono_s, unix_ms, synchronised)
        era = replace(era, offset_ms=offset_ms, trusted=trusted)
        self._eras[era.id] = era
        if not trusted:
            return ()
        self._newest_unix_ms = unix_ms
        return self._correct(era)

    def _near(self, offset_ms: int) -> Era | None:
        """Give the era of an offset, the nearest of them."""
        near = min(
            self._eras.values(), key=lambda era: abs(era.offset_ms - offset_ms), default=None
        )
        return near if near and abs(near.offset_ms - offset_ms) <= STEP_MS else None

    def _begin(self, offset_ms: int) -> Era:
        era = Era(self._next_id, self._boot, offset_ms, trusted=False)
        self._next_id += 1
        self._eras[era.id] = era
        return era

    def _enter(self, era: Era, mono_s: float) -> _Current:
        if self._current is None or self._current.era != era.id:
            before = self._before(era)
            self._current = _Current(
                era.id,
                mono_s,
                was_set=before is not None,
                healed=before is not None and not before.trusted,
            )
        return self._current

    def _before(self, era: Era) -> Era | None:
        """Give the era that the clock left for this one; an earlier process may have seen it."""
        if self._current is not None:
            return self._eras[self._current.era]
        others = (other for other in self._eras.values() if other.id != era.id)
        return max(others, key=lambda other: other.id, default=None)

    def _earns_trust(
        self, current: _Current, mono_s: float, unix_ms: int, synchronised: bool
    ) -> bool:
        if synchronised:
            return True
        if unix_ms < RELEASED_UNIX_MS:
            return False
        wait_s = DOUBTFUL_WAIT_S if self.is_doubtful(unix_ms) else self._wait_s
        return current.healed or mono_s - current.since_mono_s >= wait_s

    def _correct(self, into: Era) -> tuple[Correction, ...]:
        wrong = [era for era in self._eras.values() if not era.trusted]
        corrections = []
        for era in wrong:
            correction = Correction(era.id, into.id, into.offset_ms - era.offset_ms)
            corrections.append(correction)
            self._corrected.append((era.offset_ms, correction))
            del self._eras[era.id]
        self._corrected = self._corrected[-_MOST_CORRECTED:]
        return tuple(corrections)
