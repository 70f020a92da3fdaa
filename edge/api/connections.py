"""Who is connected, and who makes room for whom. Knows no socket and no HTTP."""

from __future__ import annotations

import threading
import time
from collections import Counter
from enum import Enum, auto
from typing import Protocol

_UNFINISHED_S = 1.0
"""A request, or an answer, under way for longer than this may have to make room for a client."""


class Gone(Exception):
    """The connection is over; nobody is left to answer."""


class Doing(Enum):
    """What a connection is at. But for ANSWERING, only its client can move things on."""

    IDLE = auto()
    """Between requests."""
    RECEIVING = auto()
    """A request has begun to arrive, or the connection is new and so has come to send one."""
    ANSWERING = auto()
    """A request is whole, and its answer is being made."""
    SENDING = auto()
    """An answer is being taken by the client."""


class Cuttable(Protocol):
    """What can be cut off by another thread. peer: the address of who is connected."""

    peer: str

    def cut(self) -> None:
        """End it; its own thread wakes up and leaves. Never blocks."""


class Connections:
    """The open connections: at most `capacity`; decides who makes room for a newcomer.

    The address that has the most of them makes room first, and for an address that has fewer at
    once, so that nobody can lock others out from one place.
    Any thread may call any method; only `close` blocks.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._open: dict[Cuttable, tuple[Doing, float]] = {}
        """What each does, and since when (monotonic, s)."""
        self._changed = threading.Condition()
        self.closing = False

    def admit(self, newcomer: Cuttable) -> bool:
        """Take a newcomer in, for whom another may be cut off; False if there is no room."""
        evicted = None
        with self._changed:
            if len(self._open) >= self._capacity:
                evicted = self._dispensable(newcomer.peer)
                if evicted is not None:
                    del self._open[evicted]
            admitted = len(self._open) < self._capacity and not self.closing
            if admitted:
                self._open[newcomer] = Doing.RECEIVING, time.monotonic()
        if evicted is not None:
            evicted.cut()
        return admitted

    def _dispensable(self, peer: str) -> Cuttable | None:
        """Find who makes room for a newcomer from `peer`: nobody of an address that has fewer.

        Of the address with the most connections: who idles the longest, or else is the slowest to
        send or to take what it may.
        """
        now_s = time.monotonic()
        held = Counter(connection.peer for connection in self._open)
        dispensable = [
            (-held[connection.peer], doing is not Doing.IDLE, since_s, connection)
            for connection, (doing, since_s) in self._open.items()
            if doing is not Doing.ANSWERING
            and held[connection.peer] >= held[peer]
            and (
                doing is Doing.IDLE
                or now_s - since_s > _UNFINISHED_S
                or held[connection.peer] > held[peer] + 1
            )
        ]
        return min(dispensable, key=lambda entry: entry[:3])[3] if dispensable else None

    def note(self, connection: Cuttable, doing: Doing) -> None:
        """Note what it does from now on.

        Raises Gone if it was cut off, or if all are to end and this is not its last answer.
        """
        with self._changed:
            if connection not in self._open or (self.closing and doing is not Doing.SENDING):
                raise Gone
            self._open[connection] = doing, time.monotonic()

    def leave(self, connection: Cuttable) -> None:
        """Note that it is over."""
        with self._changed:
            self._open.pop(connection, None)
            self._changed.notify_all()

    def close(self, deadline_s: float) -> None:
        """Cut off who has no answer under way at once, and the others after it or at deadline_s.

        deadline_s: monotonic time, s. Blocks no longer than that.
        """
        with self._changed:
            self.closing = True
            unanswered = [
                connection
                for connection, (doing, _) in self._open.items()
                if doing in (Doing.IDLE, Doing.RECEIVING)
            ]
        for connection in unanswered:
            connection.cut()
        with self._changed:
            self._changed.wait_for(lambda: not self._open, max(0.0, deadline_s - time.monotonic()))
            remaining = list(self._open)
        for connection in remaining:
            connection.cut()
