"""The log: written by a thread of its own, so that a slow terminal or card stalls nobody."""

from __future__ import annotations

import logging
import queue
import sys
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

QUEUE_RECORDS = 1000
_FORMAT = "%(asctime)s %(levelname)s [%(name)s] %(message)s"

log = logging.getLogger("edge.log")


class Log:
    """The process's log between `start` and `stop`. A full queue drops records and counts them."""

    def __init__(self, level: str, stream: TextIO = sys.stderr) -> None:
        records: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_RECORDS)
        writer = logging.StreamHandler(stream)
        writer.setFormatter(logging.Formatter(_FORMAT))
        self._handler = _DroppingHandler(records)
        self._listener = _Listener(records, writer)
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Log this level and above: debug, info, warning or error. Any thread."""
        logging.getLogger().setLevel(level.upper())

    def start(self) -> None:
        """Take over the root logger."""
        logging.getLogger().addHandler(self._handler)
        self._listener.start()

    def stop(self) -> None:
        """Write what is queued and end the thread. Blocks for that."""
        logging.getLogger().removeHandler(self._handler)
        self._listener.stop()
        if self._handler.dropped:
            print(f"{self._handler.dropped} log records were dropped.", file=sys.stderr)


class _DroppingHandler(QueueHandler):
    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Listener(QueueListener):
    def enqueue_sentinel(self) -> None:
        """Wait for room: the queue is bounded, and the end of the log must not be lost."""
        assert isinstance(self.queue, queue.Queue)
        self.queue.put(None)
