"""The live view: what changes at a tick is pushed to every WebSocket client.

One thread, `live`, serves them all over one selector. The cycle's `publish` only leaves the
snapshot and wakes it. The thread looks what is another than it was told last (a state that did not
change is the same object), renders each such thing once, and sends it to whoever wants it.

A client that does not take everything at once is owed things by name and not by value: when it can
take more it gets the latest of each. Nothing but these names piles up for it.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from edge.alerts import Alert
from edge.api import Caller, Request, Response
from edge.api.topics import LOAD, WHOLE, Frames, Topic, Wish, changes, parse_wish
from edge.api.websocket import (
    GOING_AWAY,
    INTERNAL_ERROR,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Session,
    accept,
)
from edge.clock import Clock
from edge.errors import RequestError
from edge.model import Snapshot

SLOW_AFTER_S = 10.0
"""A client that takes nothing for so long is closed."""
PING_AFTER_S = 20.0
"""Who was silent for so long is pinged, and closed when it stays silent for as long again."""
ADMITTED_FOR_S = 5.0
"""A client whose token was removed is closed after this long."""
LOAD_EVERY_S = 5.0
"""The load status is told so often even if it stays as it is: browsers do not show pings."""
WHOLE_EVERY_S = 1.0
"""A plan that changes again and again is told no more often."""

_TURN_S = 0.25
"""How often time-outs are looked at."""
_LEAVE_WITHIN_S = 2.0
_RECEIVE_BYTES = 16 * 1024
_SEND_BUFFER_BYTES = 32 * 1024
"""What the system keeps for a client that does not read; what lies there grows old."""
_FREE_BYTES, _FREE_BYTES_PER_S = 64 * 1024, 1024
"""A client has nothing to send but control frames. Who sends more than this is closed, since each
of them costs the interpreter's time."""
_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_log = logging.getLogger("edge.api.live")


@dataclass(eq=False)
class _Client:
    """One client, and how far it is. Times: monotonic, s.

    owed: what it is to be told, in order. out: framed, and not yet taken by the system. moved_s:
    when some of that was taken, or there was none. admitted_s: when it was last seen to be one that
    may look. whole_from_s: before then it is not told the
    whole again. leave_by_s: since it is leaving. sends_after_receiving: TLS has to receive first.
    """

    socket: socket.socket
    peer: str
    caller: Caller | None
    wish: Wish
    since_s: float
    session: Session = field(default_factory=Session)
    owed: dict[Topic, None] = field(default_factory=lambda: {WHOLE: None})
    out: deque[memoryview] = field(default_factory=deque)
    received_bytes: int = 0
    heard_s: float = 0.0
    moved_s: float = 0.0
    admitted_s: float = 0.0
    whole_from_s: float = 0.0
    leave_by_s: float | None = None
    pinged: bool = False
    output_ended: bool = False
    sends_after_receiving: bool = False

    @property
    def events(self) -> int:
        """What the selector is to wait for."""
        waits = bool(self.out) and not self.sends_after_receiving
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0)


class Live:
    """The WebSocket clients and the thread that serves them.

    alerts: those under way and those that ended lately; called on the thread, must not block.
    admits: whether somebody may look, still; asked on the thread, must not block.
    alive_within_s: once the last snapshot is older, clients are closed; nothing old is told.
    """

    def __init__(
        self,
        alerts: Callable[[], Sequence[Alert]],
        admits: Callable[[Caller | None], bool],
        clock: Clock,
        *,
        max_clients: int,
        alive_within_s: float,
    ) -> None:
        self._alerts = alerts
        self._admits = admits
        self._clock = clock
        self._max_clients = max_clients
        self._alive_within_s = alive_within_s
        self._latest: Snapshot | None = None
        self._newcomers: SimpleQueue[tuple[_Client, bytes]] = SimpleQueue()
        self._stop_by_s: float | None = None
        # It stays open to the end of the process: a late wake-up must not reach another file.
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        # The rest is for that thread alone.
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self._told: Snapshot | None = None
        self._told_alerts: dict[str, Alert] = {}
        self._load_told_s = 0.0
        self._frames: Frames | None = None
        self.closed_slow = 0
        """Clients that were closed because they took nothing, since the start. Any thread."""

    # --- From other threads ---

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients) + self._newcomers.qsize()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def publish(self, snapshot: Snapshot) -> None:
        """Take the new snapshot. Cycle thread; never blocks, whatever clients do."""
        self._latest = snapshot
        if self._clients:
            os.eventfd_write(self._wake, 1)

    def connect(self, request: Request) -> Response:
        """Accept the opening handshake of a WebSocket client. Any thread.

        Raises RequestError: 426 where there is none, 400 where it or the query is wrong, 403 for a
        web page from elsewhere, 503 when there is no room.
        """
        headers = accept(request.headers)
        _refuse_foreign_page(request)
        wish = parse_wish(request)
        if self._stop_by_s is not None or self.clients >= self._max_clients:
            raise RequestError(
                503,
                "TOO_MANY_CLIENTS",
                f"The live view has room for {self._max_clients} clients; close one of them, or "
                "raise api.max_ws_clients.",
                headers=(("Retry-After", "5"),),
            )

        def take_over(taken: socket.socket, behind: bytes) -> None:
            now_s = self._clock.mono_s()
            client = _Client(
                *(taken, request.peer, request.caller, wish, now_s),
                heard_s=now_s,
                moved_s=now_s,
                admitted_s=now_s,
            )
            self._newcomers.put((client, behind))
            os.eventfd_write(self._wake, 1)

        return Response(101, b"", headers=headers, takeover=take_over)

    def close(self, deadline_s: float) -> None:
        """Take leave of all clients, and cut off at deadline_s who does not answer that.

        deadline_s: monotonic time, s. Blocks no longer than that.
        """
        self._stop_by_s = deadline_s
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline_s - self._clock.mono_s()))

    # --- The thread ---

    def _run(self) -> None:
        self._selector.register(self._wake, selectors.EVENT_READ)
        while self._stop_by_s is None or self._clients:
            for key, _ in self._selector.select(_TURN_S if self._clients else None):
                if key.data is None:
                    os.eventfd_read(self._wake)
                else:
                    self._receive(key.data)
            self._admit()
            self._follow()
            for client in tuple(self._clients):
                self._care(client)
        self._selector.close()

    def _admit(self) -> None:
        """Take in those whose handshake is done; meanwhile there may be too many."""
        while not self._newcomers.empty():
            client, behind = self._newcomers.get_nowait()
            try:
                client.socket.setblocking(False)
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
                self._selector.register(client.socket, client.events, client)
            except (OSError, ValueError):  # it was closed meanwhile
                client.socket.close()
                continue
            if len(self._clients) >= self._max_clients:
                client.session.close(TRY_AGAIN_LATER, "too many clients")
            self._clients.add(client)
            _log.debug("%s: connected to the live view", client.peer)
            if behind:
                self._take(client, behind)
            self._receive(client)  # what came with the handshake may lie in the TLS layer

    def _receive(self, client: _Client) -> None:
        """Take what a client sent; there is nothing in it for us but that it is alive."""
        client.sends_after_receiving = False
        while client in self._clients:
            try:
                data = client.socket.recv(_RECEIVE_BYTES)
            except _WAIT:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(client)
                return
            self._take(client, data)
            if not (isinstance(client.socket, ssl.SSLSocket) and client.socket.pending()):
                return

    def _take(self, client: _Client, data: bytes) -> None:
        client.heard_s, client.pinged = self._clock.mono_s(), False
        client.session.receive(data)
        client.received_bytes += len(data)
        free_bytes = _FREE_BYTES + _FREE_BYTES_PER_S * (client.heard_s - client.since_s)
        if client.received_bytes > free_bytes:
            client.session.close(
                POLICY_VIOLATION, "nothing is to be sent here but answers to pings"
            )

    def _follow(self) -> None:
        """Note what each client is owed since the snapshot that it was told last."""
        snapshot, told = self._latest, self._told
        if snapshot is None or snapshot is told:
            return
        alerts = {alert.id: alert for alert in self._alerts()}
        topics = changes(told, snapshot) if told is not None else None
        if topics is not None:
            if snapshot.mono_s - self._load_told_s >= LOAD_EVERY_S:
                topics.append(LOAD)
            topics += [
                Topic("alert", alert.id, alert.meter_id)
                for alert in alerts.values()
                if alert != self._told_alerts.get(alert.id)
            ]
        if topics is None or LOAD in topics:
            self._load_told_s = snapshot.mono_s
        self._told, self._told_alerts = snapshot, alerts
        self._frames = Frames(snapshot, alerts)
        for client in self._clients:
            if topics is None:
                client.owed = {WHOLE: None}
            elif WHOLE not in client.owed:
                client.owed.update(dict.fromkeys(filter(client.wish.covers, topics)))

    def _care(self, client: _Client) -> None:
        """Send what a client is owed and can take, and see whether it is to be let go."""
        session, now_s = client.session, self._clock.mono_s()
        if self._stop_by_s is not None:
            session.close(GOING_AWAY, "the service stops")
        elif self._told is None or now_s - self._told.mono_s > self._alive_within_s:
            session.close(INTERNAL_ERROR, "the control cycle stands still")
        elif not self._may_look(client, now_s):
            session.close(POLICY_VIOLATION, "the token is not valid any more")
        elif now_s - client.heard_s > PING_AFTER_S and not client.pinged:
            client.pinged = True
            session.ping()
        if not session.open and client.leave_by_s is None:
            client.leave_by_s = min(now_s + _LEAVE_WITHIN_S, self._stop_by_s or float("inf"))
        if not self._send(client, now_s):
            self._drop(client)
        elif client.out and now_s - client.moved_s > SLOW_AFTER_S:
            self.closed_slow += 1
            _log.debug("%s: it read nothing for %g s; closed", client.peer, SLOW_AFTER_S)
            self._drop(client, reset=True)
        elif (
            now_s - client.heard_s > 2 * PING_AFTER_S
            or (client.leave_by_s is not None and now_s > client.leave_by_s)
            or (self._stop_by_s is not None and now_s > self._stop_by_s)
        ):
            self._drop(client, reset=True)
        else:
            if session.ended and not client.out and not client.output_ended:
                client.output_ended = True
                with suppress(OSError):
                    # TLS goes on in the other direction; its own method would not let it.
                    socket.socket.shutdown(client.socket, socket.SHUT_WR)
            self._selector.modify(client.socket, client.events, client)

    def _may_look(self, client: _Client, now_s: float) -> bool:
        """Whether a client is let in still; a token may have been removed since it came."""
        if now_s - client.admitted_s > ADMITTED_FOR_S and self._admits(client.caller):
            client.admitted_s = now_s
        return now_s - client.admitted_s <= ADMITTED_FOR_S

    def _send(self, client: _Client, now_s: float) -> bool:
        """Let the system take what it can of what a client is to get; False if it is gone."""
        reply = client.session.to_send()
        if reply:
            client.out.append(memoryview(reply))
        while client.out or self._next(client, now_s):
            try:
                sent = client.socket.send(client.out[0])
            except ssl.SSLWantReadError:
                client.sends_after_receiving = True
                return True
            except _WAIT:
                return True
            except OSError:
                return False
            client.moved_s = now_s
            client.out[0] = client.out[0][sent:]
            if not client.out[0]:
                client.out.popleft()
        client.moved_s = now_s
        return True

    def _next(self, client: _Client, now_s: float) -> bool:
        """Frame what a client is owed, as it is now; False if there is nothing to be sent."""
        if not client.session.open or not client.owed or self._frames is None:
            return False
        if WHOLE in client.owed:
            if now_s < client.whole_from_s:
                return False
            client.whole_from_s = now_s + WHOLE_EVERY_S
        frames = self._frames.of(client.owed, client.wish)
        client.owed = {}
        if frames:
            client.out.append(memoryview(frames))
        return bool(frames)

    def _drop(self, client: _Client, *, reset: bool = False) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.socket)
        if reset:  # or else the system would go on offering what was not taken
            with suppress(OSError):
                client.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
        client.socket.close()
        _log.debug("%s: left the live view", client.peer)


def _refuse_foreign_page(request: Request) -> None:
    """Refuse a web page that did not come from here; programs that are none say no Origin.

    Source: RFC 6455, 10.2. The scheme may differ, since a proxy may end TLS in front of us.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is not None and (not host or origin.lower().partition("://")[2] != host.lower()):
        raise RequestError(
            403, "FOREIGN_ORIGIN", "A web page from elsewhere may not look here; use our own."
        )
