"""The world that the service runs in: its wall clock and its disk, changed while it runs."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

from tests.faults import WallClock, build_library, environment
from tools.soak.records import Offset

_SYNC_AT = 16
"""Where in the clock's file stands by how much a sync takes longer, ns; see `tests/faults.c`."""


class World:
    """Made in a folder; one thread. offsets: how the clock was, from the start on."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._clock = WallClock(self._file)
        self.environment = {**environment(build_library(folder)), **self._clock.variables}
        """What a process needs to live in it."""
        self.offsets: list[Offset] = []
        self.set_clock(0.0)

    def set_clock(self, offset_s: float, *, trusted: bool = True) -> None:
        """Set the wall clock so far off. trusted: whether the kernel says that it was set."""
        self.offsets.append(Offset(time.monotonic(), offset_s, trusted))
        self._clock.set_to(time.time() + offset_s, synchronised=trusted)

    def slow_disk(self, sync_s: float) -> None:
        """Have every sync take so much longer."""
        file = os.open(self._file, os.O_WRONLY)
        try:
            os.pwrite(file, struct.pack("=q", round(sync_s * 1e9)), _SYNC_AT)
        finally:
            os.close(file)
