"""What the kernel knows: whether the wall clock is synchronised, which boot it is, what we wrote.

Sources: adjtimex(2) of Linux: it returns the clock's state, and TIME_ERROR while the clock is not
synchronised; with `modes` 0 nothing is set, and no privilege is needed. But sandboxes forbid the
call, as systemd's ProtectClock= does, since it could also set the clock. There the file tells that
systemd-timesyncd(8) touches whenever it heard from its server.
"""

from __future__ import annotations

import ctypes
import time
import uuid
from pathlib import Path

_TIME_ERROR = 5
_TIMEX_BYTES = 512
"""More than `struct timex` has on any machine (208 bytes on 64 bit). `modes` is its first int."""

_TIMESYNCD_FILE = Path("/run/systemd/timesync/synchronized")
_TIMESYNCD_SILENT_S = 2 * 2048
"""It hears from its server every 2048 s at least (timesyncd.conf(5)); one answer may be lost."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def synchronised() -> bool:
    """Tell whether the kernel holds the wall clock for synchronised; False where none can say."""
    state = _kernel_state()
    if state < 0:
        return _is_kept_by_timesyncd()
    return state < _TIME_ERROR


def _kernel_state() -> int:
    """The clock's state; negative where the kernel is not to be asked."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return -1
    return int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))


def _is_kept_by_timesyncd() -> bool:
    """Whether systemd-timesyncd set the clock lately, going by the clock that it is now.

    Whoever sets it to another time makes the file's too old, or lie ahead.
    """
    try:
        touched_s = _TIMESYNCD_FILE.stat().st_mtime
    except OSError:
        return False
    return 0.0 <= time.time() - touched_s < _TIMESYNCD_SILENT_S


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
