"""The live view: what changes at a tick is pushed to every WebSocket client.

One thread, `live`, serves them all over one selector. The cycle's `publish` only leaves the
snapshot and wakes it. The thread looks what is another than it was told last (a state that did not
change is the same object), renders each such thing once, and sends it to whoever wants it.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from edge.alerts import Alert
from edge.api import Caller, Request, Response
from edge.api.origin import refuse_other_origin
from edge.api.topics import LOAD, Frames, Topic, changes, parse_subscription
from edge.api.viewer import Viewer
from edge.api.websocket import (
    GOING_AWAY,
    INTERNAL_ERROR,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    accept,
)
from edge.clock import Clock
from edge.errors import RequestError
from edge.heartbeat import Heartbeat
from edge.model import Snapshot

LOAD_EVERY_S = 5.0
"""The load status is told so often even if it stays as it is: browsers do not show pings."""

TURN_WITHIN_S = 30.0
"""A turn waits for nobody; one that takes longer hangs."""

_TURN_S = 0.25
"""How often time-outs are looked at."""

_log = logging.getLogger("edge.api.live")


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
        self.heartbeat = Heartbeat("live")
        self._latest: Snapshot | None = None
        self._newcomers: SimpleQueue[tuple[Viewer, bytes]] = SimpleQueue()
        self._stop_by_s: float | None = None
        # It stays open to the end of the process: a late wake-up must not reach another file.
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        # The rest is for that thread alone.
        self._selector = selectors.DefaultSelector()
        self._viewers: set[Viewer] = set()
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
        return len(self._viewers) + self._newcomers.qsize()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def publish(self, snapshot: Snapshot) -> None:
        """Take the new snapshot. Cycle thread; never blocks, whatever clients do."""
        self._latest = snapshot
        if self._viewers:
            os.eventfd_write(self._wake, 1)

    def connect(self, request: Request) -> Response:
        """Accept the opening handshake of a WebSocket client. Any thread.

        Raises RequestError: 426 where there is none, 400 where it or the query is wrong, 403 for a
        web page from elsewhere, 503 when there is no room.
        """
        headers = accept(request.headers)
        refuse_other_origin(request)
        subscription = parse_subscription(request)
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
            viewer = Viewer(taken, request.peer, request.caller, subscription, now_s)
            self._newcomers.put((viewer, behind))
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
        while self._stop_by_s is None or self._viewers:
            self.heartbeat.rest()
            ready = self._selector.select(_TURN_S if self._viewers else None)
            self.heartbeat.due_within(TURN_WITHIN_S)
            for key, _ in ready:
                if key.data is None:
                    os.eventfd_read(self._wake)
                else:
                    self._receive(key.data)
            self._admit()
            self._follow()
            for viewer in tuple(self._viewers):
                self._care(viewer)
        self._selector.close()
        self.heartbeat.end()

    def _admit(self) -> None:
        """Take in those whose handshake is done; meanwhile there may be too many."""
        while not self._newcomers.empty():
            viewer, behind = self._newcomers.get_nowait()
            try:
                viewer.prepare()
                self._selector.register(viewer.socket, viewer.events, viewer)
            except (OSError, ValueError):  # it was closed meanwhile
                viewer.socket.close()
                continue
            if len(self._viewers) >= self._max_clients:
                viewer.close(TRY_AGAIN_LATER, "too many clients")
            self._viewers.add(viewer)
            _log.debug("%s: connected to the live view", viewer.peer)
            if behind:
                viewer.take(behind, self._clock.mono_s())
            self._receive(viewer)  # what came with the handshake may lie in the TLS layer

    def _receive(self, viewer: Viewer) -> None:
        if not viewer.receive(self._clock.mono_s()):
            self._drop(viewer)

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
        for viewer in self._viewers:
            viewer.owe(topics)

    def _care(self, viewer: Viewer) -> None:
        """Send what a client is owed and can take, and see whether it is to be let go."""
        now_s, stop_by_s = self._clock.mono_s(), self._stop_by_s
        if stop_by_s is not None:
            viewer.close(GOING_AWAY, "the service stops")
        elif self._told is None or now_s - self._told.mono_s > self._alive_within_s:
            viewer.close(INTERNAL_ERROR, "the control cycle stands still")
        elif not viewer.may_look(self._admits, now_s):
            viewer.close(POLICY_VIOLATION, "the token or the session is not valid any more")
        if not viewer.send(self._frames, now_s):
            self._drop(viewer)
        elif viewer.is_slow(now_s):
            self.closed_slow += 1
            _log.debug("%s: it reads nothing, or answers no ping; closed", viewer.peer)
            self._drop(viewer, reset=True)
        elif viewer.is_overdue(now_s) or (stop_by_s is not None and now_s > stop_by_s):
            self._drop(viewer, reset=True)
        else:
            self._selector.modify(viewer.socket, viewer.events, viewer)

    def _drop(self, viewer: Viewer, *, reset: bool = False) -> None:
        self._viewers.discard(viewer)
        self._selector.unregister(viewer.socket)
        viewer.cut(reset=reset)
        _log.debug("%s: left the live view", viewer.peer)
