"""The two clocks, as one argument, so that tests can turn the hands."""

from __future__ import annotations

import time


class Clock:
    """Reads the machine's clocks. Any thread; never blocks, but for `sleep`."""

    def mono_s(self) -> float:
        """Seconds on the monotonic clock: for waiting, ages and durations."""
        return time.monotonic()

    def unix_ms(self) -> int:
        """Milliseconds on the wall clock: for stamping only; it may step."""
        return time.time_ns() // 1_000_000

    def sleep(self, duration_s: float) -> None:
        """Block the calling thread."""
        time.sleep(duration_s)
