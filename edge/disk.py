"""The disk under the state folder: how large it is, and how much of it is free.

For a disk of the machine the system answers from memory. One that hangs, or that another machine
serves, may keep who asks waiting: so one thread asks at a time, and nobody waits for it.

Source: statvfs(3).
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from edge.clock import Clock

LOOK_EVERY_S = 10.0
"""How old what is told may be; what is three times as old is not told any more."""


@dataclass(frozen=True)
class DiskSpace:
    """size_bytes: of the file system. free_bytes: what may still be written without privileges."""

    size_bytes: int
    free_bytes: int


class StateDisk:
    """Looks at the disk that a folder is on. Any thread."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._looking = threading.Lock()
        self._space: DiskSpace | None = None
        self._seen_mono_s = float("-inf")

    def space(self) -> DiskSpace | None:
        """Give what is there; None where the system cannot tell, or has not answered for long.

        Blocks for as long as the system takes, unless another thread is asking already.
        """
        now_s = self._clock.mono_s()
        if now_s >= self._seen_mono_s + LOOK_EVERY_S and self._looking.acquire(blocking=False):
            try:
                self._space = _space_of(self._folder)
                self._seen_mono_s = now_s
            finally:
                self._looking.release()
        return self._space if now_s < self._seen_mono_s + 3 * LOOK_EVERY_S else None


def _space_of(folder: Path) -> DiskSpace | None:
    try:
        system = os.statvfs(folder)
    except OSError:
        return None
    return DiskSpace(system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize)
