"""What the kernel knows: whether the wall clock is synchronised, which boot it is, what we wrote.

Source: adjtimex(2) of Linux: it returns the clock's state, and TIME_ERROR while the clock is not
synchronised; with `modes` 0 nothing is set, and no privilege is needed.
"""

from __future__ import annotations

import ctypes
import uuid
from pathlib import Path

_TIME_ERROR = 5
_TIMEX_BYTES = 512
"""More than `struct timex` has on any machine (208 bytes on 64 bit). `modes` is its first int."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def synchronised() -> bool:
    """Tell whether the kernel holds the wall clock for synchronised; False where it cannot say."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    state = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return 0 <= int(state) < _TIME_ERROR


def boot_id() -> str:
    """Give a name that every boot has for itself; one of this process where there is none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return str(uuid.uuid4())


def thread_written_bytes() -> int | None:
    """Bytes that the calling thread caused to be written to disks; None where it is not counted.

    Source: proc(5), /proc/pid/io, `write_bytes`.
    """
    try:
        text = Path("/proc/thread-self/io").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "write_bytes":
            return int(value)
    return None
