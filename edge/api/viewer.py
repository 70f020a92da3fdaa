"""One client of the live view: what it is owed, what it takes, and whether it is still there.

A client that does not take everything at once is owed things by name and not by value: when it can
take more it gets the latest of each. Nothing but these names piles up for it.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from edge.api import Caller
from edge.api.connection import reset_at_close
from edge.api.topics import WHOLE, Frames, Subscription, Topic
from edge.api.websocket import POLICY_VIOLATION, Session

SLOW_AFTER_S = 10.0
"""A client that takes nothing for so long is closed."""
PING_AFTER_S = 4.0
"""Who was silent for so long is pinged."""
PONG_WITHIN_S = SLOW_AFTER_S - PING_AFTER_S
"""Who does not answer that for so long is closed. An answer shows that all before it was read: a
system that keeps megabytes for a client takes them for long after that one stopped reading."""
ADMITTED_FOR_S = 5.0
"""A client whose token was removed is closed after this long."""
WHOLE_EVERY_S = 1.0
"""A plan that changes again and again is told no more often."""

_LEAVE_WITHIN_S = 2.0
_RECEIVE_BYTES = 4 * 1024
_SEND_BUFFER_BYTES = 32 * 1024
"""What the system keeps for a client that does not read; what lies there grows old."""
_FREE_BYTES, _FREE_BYTES_PER_S = 8 * 1024, 1024
"""A client has nothing to send but control frames. Who sends more than this is closed, and what is
beyond it not even looked at, since each of them costs the interpreter's time."""
_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Viewer:
    """One client. Made on any thread and then for one thread only; no method blocks.

    now_s, here and below: monotonic time, s.
    """

    def __init__(
        self,
        taken: socket.socket,
        peer: str,
        caller: Caller | None,
        subscription: Subscription,
        now_s: float,
    ) -> None:
        self.socket = taken
        self.peer = peer
        self._caller = caller
        self._subscription = subscription
        self._session = Session()
        self._owed: dict[Topic, None] = {WHOLE: None}
        """What it is to be told, in order."""
        self._out: deque[memoryview] = deque()
        """What is framed, and was not yet taken by the system."""
        self._received_bytes = 0
        self._since_s = now_s
        """When it came."""
        self._heard_s = now_s
        """When it sent something."""
        self._moved_s = now_s
        """When some of `_out` was taken, or there was none."""
        self._admitted_s = now_s
        """When it was last seen to be one that may look."""
        self._whole_from_s = now_s
        """Before then it is not told the whole again."""
        self._leave_by_s: float | None = None
        """When it has to be gone, once it is leaving."""
        self._pinged_s: float | None = None
        """When it was sent a ping, if it sent nothing since."""
        self._output_ended = False
        self._sends_after_receiving = False
        """TLS has to receive first."""

    def prepare(self) -> None:
        """Make the socket ready for all the rest. Raises OSError if it was closed meanwhile."""
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    @property
    def events(self) -> int:
        """What a selector is to wait for."""
        waits = bool(self._out) and not self._sends_after_receiving
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0)

    # --- What it sends ---

    def receive(self, now_s: float) -> bool:
        """Take what it sent; there is nothing in it for us but that it is alive.

        False if it is gone.
        """
        self._sends_after_receiving = False
        while True:
            try:
                data = self.socket.recv(_RECEIVE_BYTES)
            except _WAIT:
                return True
            except OSError:
                return False
            if not data:
                return False
            self.take(data, now_s)
            if not (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()):
                return True

    def take(self, data: bytes, now_s: float) -> None:
        """Take bytes that were received already."""
        self._heard_s, self._pinged_s = now_s, None
        self._received_bytes += len(data)
        if self._received_bytes > _FREE_BYTES + _FREE_BYTES_PER_S * (now_s - self._since_s):
            reason = "nothing is to be sent here but answers to pings"
            self._session.fail(POLICY_VIOLATION, reason)
        self._session.receive(data)

    # --- What it is sent ---

    def owe(self, topics: Iterable[Topic] | None) -> None:
        """Note what it is to be told, as far as it wants to; None for the whole."""
        if topics is None:
            self._owed = {WHOLE: None}
        elif WHOLE not in self._owed:
            self._owed.update(dict.fromkeys(filter(self._subscription.covers, topics)))

    def close(self, code: int, reason: str) -> None:
        """Begin to take leave, as `Session.close`; nothing more is told."""
        self._session.close(code, reason)

    def send(self, frames: Frames | None, now_s: float) -> bool:
        """Let the system take what it can of what it is to get; False if it is gone.

        frames: what is known now; None while nothing is.
        """
        if now_s - self._heard_s > PING_AFTER_S and self._pinged_s is None:
            self._pinged_s = now_s
            self._session.ping()
        if not self._session.open and self._leave_by_s is None:
            self._leave_by_s = now_s + _LEAVE_WITHIN_S
        reply = self._session.to_send()
        if reply:
            self._out.append(memoryview(reply))
        while self._out or self._frame(frames, now_s):
            try:
                sent = self.socket.send(self._out[0])
            except ssl.SSLWantReadError:
                self._sends_after_receiving = True
                return True
            except _WAIT:
                return True
            except OSError:
                return False
            self._moved_s = now_s
            self._out[0] = self._out[0][sent:]
            if not self._out[0]:
                self._out.popleft()
        self._moved_s = now_s
        if self._session.ended and not self._output_ended:
            self._output_ended = True
            with suppress(OSError):
                # TLS goes on in the other direction; its own method would not let it.
                socket.socket.shutdown(self.socket, socket.SHUT_WR)
        return True

    def _frame(self, frames: Frames | None, now_s: float) -> bool:
        """Frame what it is owed, as it is now; False if there is nothing to be sent."""
        if not self._session.open or not self._owed or frames is None:
            return False
        if WHOLE in self._owed:
            if now_s < self._whole_from_s:
                return False
            self._whole_from_s = now_s + WHOLE_EVERY_S
        framed = frames.of(self._owed, self._subscription)
        self._owed = {}
        if framed:
            self._out.append(memoryview(framed))
        return bool(framed)

    # --- Whether it may stay ---

    def may_look(self, admits: Callable[[Caller | None], bool], now_s: float) -> bool:
        """Whether it is let in still; a token may have been removed since it came."""
        if now_s - self._admitted_s > ADMITTED_FOR_S and admits(self._caller):
            self._admitted_s = now_s
        return now_s - self._admitted_s <= ADMITTED_FOR_S

    def is_slow(self, now_s: float) -> bool:
        """Whether it took nothing for too long of what there is for it, or does not answer."""
        if self._pinged_s is not None and now_s - self._pinged_s > PONG_WITHIN_S:
            return True
        return bool(self._out) and now_s - self._moved_s > SLOW_AFTER_S

    def is_overdue(self, now_s: float) -> bool:
        """Whether it should have left by now."""
        return self._leave_by_s is not None and now_s > self._leave_by_s

    def cut(self, *, reset: bool) -> None:
        """Close the socket. reset: the system is to give up what was not taken."""
        if reset:
            reset_at_close(self.socket)
        self.socket.close()
