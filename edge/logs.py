"""The log: written by a thread of its own, so that a slow terminal or card stalls nobody.

On a terminal or in a file each line begins with its time. Where systemd's journal takes the log,
which stamps each line itself, a line begins with its priority instead: also each of a traceback,
which would be taken for a lesser one otherwise. As JSON each record is one line in any case.
Source: sd-daemon(3) for the priorities; systemd.exec(5), JOURNAL_STREAM.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections import deque
from contextlib import suppress

from edge.times import timestamp

QUEUE_LINES = 1000
RECENT_LINES = 500
RECENT_BYTES = 1000
"""Lines that are kept to be shown, and how much of each."""
_PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
"""Level → the priority of syslog that the journal files it under."""


class _Json(logging.Formatter):
    """One object for each record: time, level, logger, thread, message and, if any, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the record as one line, a traceback included."""
        document = {
            "time": timestamp(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": _encodable(record.getMessage()),
        }
        if record.exc_info:
            document["exception"] = _encodable(self.formatException(record.exc_info))
        return json.dumps(document, ensure_ascii=False)


_TEXT = logging.Formatter("%(asctime)s %(levelname)s [%(name)s] %(message)s")
_UNSTAMPED = logging.Formatter("%(levelname)s [%(name)s] %(message)s")
_JSON = _Json()


class Log(logging.Handler):
    """The process's log between `start` and `stop`. A full queue drops records and says so.

    form: as of `set_form`. fd: the file descriptor that it writes to.
    """

    def __init__(self, level: str, fd: int = 2, *, form: str = "text") -> None:
        super().__init__()
        self._fd = fd
        self._in_journal = _is_journal(fd)
        self.set_level(level)
        self.set_form(form)
        self._recent: deque[str] = deque(maxlen=RECENT_LINES)
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._dropped = 0
        self._told = 0
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)

    def set_level(self, level: str) -> None:
        """Log this level and above: debug, info, warning or error. Any thread."""
        logging.getLogger().setLevel(level.upper())

    def set_form(self, form: str) -> None:
        """Write lines of text, or objects of JSON for a program: `text` or `json`. Any thread."""
        text = _UNSTAMPED if self._in_journal else _TEXT
        self.setFormatter(_JSON if form == "json" else text)

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
        """Give the last lines as text, the newest last: one a record, without a traceback.

        count: at least 1; RECENT_LINES are kept. Any thread.
        """
        self.acquire()
        try:
            return list(self._recent)[-count:]
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record as text; never blocks."""
        line = self._line(record)
        record.message, record.asctime = record.getMessage(), _TEXT.formatTime(record)
        self._recent.append(_shortened(_TEXT.formatMessage(record)))
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1  # under the lock that `handle` holds

    def _line(self, record: logging.LogRecord) -> str:
        """Give what is written for a record: a line, or more where a traceback is told."""
        text = self.format(record)
        if not self._in_journal:
            return text
        priority = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return priority + text.replace("\n", f"\n{priority}")

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._lines.qsize() <= QUEUE_LINES // 2:
                self._tell_dropped()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        if dropped := self._dropped - self._told:
            self._told += dropped
            text = f"{dropped} log records were dropped: they came faster than written."
            fields = {"name": "edge.logs", "levelno": logging.WARNING, "levelname": "WARNING"}
            self._write(self._line(logging.makeLogRecord({**fields, "msg": text})))

    def _write(self, line: str) -> None:
        """Write to the descriptor, so that nothing waits in a buffer or behind a stream's lock.

        Where nobody takes the log any more it is lost; that is no reason to stop measuring.
        """
        rest = f"{line}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            while rest:
                rest = rest[os.write(self._fd, rest) :]


def _is_journal(fd: int) -> bool:
    """Tell whether systemd's journal reads what is written to a descriptor."""
    with suppress(OSError):
        found = os.fstat(fd)
        return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


def _encodable(text: str) -> str:
    """Give text that any reader of JSON takes: without halves of characters."""
    return text.encode(errors="backslashreplace").decode()


def _shortened(line: str) -> str:
    """Make one line of a bounded size, without control characters, that any encoding takes."""
    shown = line[:RECENT_BYTES]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else " " for char in shown)
    return shown.encode()[:RECENT_BYTES].decode(errors="ignore")
