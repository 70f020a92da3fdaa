"""The log: written by a thread of its own, so that a slow terminal or card stalls nobody."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from contextlib import suppress

QUEUE_LINES = 1000
RECENT_LINES = 500
RECENT_BYTES = 1000
"""Lines that are kept to be shown, and how much of each."""
_FORMAT = "%(asctime)s %(levelname)s [%(name)s] %(message)s"


class Log(logging.Handler):
    """The process's log between `start` and `stop`. A full queue drops records and says so.

    fd: the file descriptor that it writes to.
    """

    def __init__(self, level: str, fd: int = 2) -> None:
        super().__init__()
        self._formatter = logging.Formatter(_FORMAT)
        self.setFormatter(self._formatter)
        self.set_level(level)
        self._fd = fd
        self._recent: deque[str] = deque(maxlen=RECENT_LINES)
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._dropped = 0
        self._told = 0
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)

    def set_level(self, level: str) -> None:
        """Log this level and above: debug, info, warning or error. Any thread."""
        logging.getLogger().setLevel(level.upper())

    def start(self) -> None:
        """Take over the root logger."""
        logging.getLogger().addHandler(self)
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Write what is queued and end the thread; what nobody has taken by timeout_s is lost.

        On the log's own thread, which only a bug in it brings here, another one writes the rest.
        """
        logging.getLogger().removeHandler(self)
        deadline_s = time.monotonic() + timeout_s
        with suppress(queue.Full):
            self._lines.put(None, timeout=timeout_s)
            writer = self._thread
            if writer is threading.current_thread():
                writer = threading.Thread(target=self._write_lines, name="log", daemon=True)
                writer.start()
            writer.join(max(0.0, deadline_s - time.monotonic()))

    def recent(self, count: int) -> list[str]:
        """Give the last lines, the newest last: one for each record, without a traceback.

        count: at least 1; RECENT_LINES are kept. Any thread.
        """
        self.acquire()
        try:
            return list(self._recent)[-count:]
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record as text; never blocks."""
        text = self.format(record)
        self._recent.append(_shortened(self._formatter.formatMessage(record)))
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._dropped += 1  # under the lock that `handle` holds

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._lines.qsize() <= QUEUE_LINES // 2:
                self._tell_dropped()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        if dropped := self._dropped - self._told:
            self._told += dropped
            self._write(f"{dropped} log records were dropped: they came faster than written.")

    def _write(self, line: str) -> None:
        """Write to the descriptor, so that nothing waits in a buffer or behind a stream's lock.

        Where nobody takes the log any more it is lost; that is no reason to stop measuring.
        """
        rest = f"{line}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            while rest:
                rest = rest[os.write(self._fd, rest) :]


def _shortened(line: str) -> str:
    """Make one line of a bounded size, without control characters, that any encoding takes."""
    shown = line[:RECENT_BYTES]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else " " for char in shown)
    return shown.encode()[:RECENT_BYTES].decode(errors="ignore")
