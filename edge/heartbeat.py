"""Heartbeats: each worker says how long it may be silent, so that one that hangs is told apart.

A worker says before each step how long that may take: its own deadlines and a margin. It rests
while it waits for work, however long. So one that waits for a silent meter is not taken for one
that hangs. Saying so costs a small object and no look at a clock: the time is the reader's.
"""

from __future__ import annotations

import math

Beat = tuple[float]
"""Within how many seconds the next one comes. A new object each time: `is` tells two apart."""

_REST: Beat = (math.inf,)


class Heartbeat:
    """One worker's. worker: its thread's name. Written by that thread, read by any."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.beat = _REST
        self.has_ended = False

    def due_within(self, timeout_s: float) -> None:
        """Say that the worker will be heard of again within so many seconds."""
        self.beat = (timeout_s,)

    def rest(self) -> None:
        """Say that it waits for work, however long."""
        self.beat = _REST

    def end(self) -> None:
        """Say that it will not be heard of any more."""
        self.beat = _REST
        self.has_ended = True


class Heartbeats:
    """Those of all workers. Any thread: each step on the table is one of the interpreter."""

    def __init__(self) -> None:
        self._known: dict[Heartbeat, None] = {}

    def add(self, *heartbeats: Heartbeat) -> None:
        """Watch these, too, until they end."""
        for heartbeat in heartbeats:
            self._known[heartbeat] = None

    def current(self) -> list[Heartbeat]:
        """Give those that have not ended."""
        known = list(self._known)
        for heartbeat in known:
            if heartbeat.has_ended:
                self._known.pop(heartbeat, None)
        return [heartbeat for heartbeat in known if not heartbeat.has_ended]
