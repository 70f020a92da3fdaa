"""The wall clock as the journal uses it: whether it is believed, and what to say if it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge.clock import Clock
from edge.era import STEP_MS, Correction, Eras

log = logging.getLogger("Journal")

_NOISE_MS = 100
_PATIENCE_S = 60.0


class WallClock:
    """Looks at the clock again and again, and keeps the eras of this boot. One thread.

    synchronised: whether the kernel holds it for synchronised. wait_s: how long a plausible clock
    must go unset.
    """

    def __init__(self, clock: Clock, synchronised: Callable[[], bool], wait_s: float) -> None:
        self._clock = clock
        self._synchronised = synchronised
        self._wait_s = wait_s
        self._eras: Eras | None = None
        self._trusted_ms: float | None = None
        """Wall clock minus monotonic clock when it was last looked at; None unless trusted."""
        self._said: str | None = None
        self._was_doubtful = False

    def follow(self, eras: Eras) -> None:
        """Keep these eras from now on."""
        self._eras = eras

    def settle(self) -> tuple[tuple[Correction, ...], bool]:
        """Look at the clock: what is to be corrected now, and whether what is trusted changed."""
        eras = self._known()
        before_ms = self._offset_ms()
        synchronised = self._synchronised()
        mono_s, unix_ms = self._clock.mono_s(), self._clock.unix_ms()
        if abs(unix_ms - mono_s * 1000 - before_ms) > _NOISE_MS:
            return (), False  # it is being set right now, or the processor was busy elsewhere
        trusted = {era.id for era in eras.all if era.trusted}
        self._was_doubtful = eras.is_doubtful(unix_ms)
        corrections = eras.settle(mono_s, unix_ms, synchronised)
        self._tell_step(unix_ms - mono_s * 1000)
        changed = trusted != {era.id for era in eras.all if era.trusted}
        return corrections, changed or bool(corrections)

    def now_ms(self) -> int | None:
        """Give the wall clock; None while it is not to be believed."""
        return self._clock.unix_ms() if self._known().trusted else None

    def untrusted(self) -> set[int]:
        """Give the eras of this boot whose times may yet be corrected."""
        return {era.id for era in self._known().all if not era.trusted}

    def is_set(self) -> bool | None:
        """Tell whether the clock is believed; None in its first minutes, while nothing says so."""
        if self._eras is None:
            return None
        return True if self._eras.trusted else None if self.fault() is None else False

    def fault(self) -> str | None:
        """Say, and log once, that the clock is not believed; not in its first minutes."""
        eras = self._eras
        waited_s = 0.0 if eras is None else eras.waited_s(self._clock.mono_s())
        if eras is None or eras.trusted or waited_s <= self._wait_s + _PATIENCE_S:
            self._said = None
            return None
        why = (
            "does not go with the readings recorded before"
            if self._was_doubtful
            else "is not known to be set"
        )
        text = f"The clock {why}; set it, or see to it that the system finds a time server."
        if text != self._said:
            log.warning("%s Until then readings are kept back from hours and sinks.", text)
        self._said = text
        return text

    def _tell_step(self, offset_ms: float) -> None:
        """Log that a clock was set that was believed: what was recorded has a gap, or overlaps."""
        before_ms = self._trusted_ms
        if before_ms is not None and abs(offset_ms - before_ms) > STEP_MS:
            log.info(
                "The clock was set by %+.1f s; readings taken before keep their times.",
                (offset_ms - before_ms) / 1000,
            )
        self._trusted_ms = offset_ms if self._known().trusted else None

    def _known(self) -> Eras:
        assert self._eras is not None
        return self._eras

    def _offset_ms(self) -> float:
        mono_s = self._clock.mono_s()
        return self._clock.unix_ms() - mono_s * 1000
