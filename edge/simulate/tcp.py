"""A listening port with its connections: Modbus TCP, or RTU over TCP."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable

from edge.simulate.endpoint import Endpoint
from edge.simulate.fault import Fault, FaultKind
from edge.simulate.link import Link
from edge.simulate.loop import Loop

_BACKLOG = 128
_READ_BYTES = 4096


class _TcpLink(Link):
    """A link that can hang up."""

    def __init__(self, loop: Loop, sock: socket.socket, answered: Callable[[int], None]) -> None:
        super().__init__(loop, self._send_all, answered)
        self.socket = sock

    def close(self) -> None:
        # Only said here: the end of file that follows is seen, and counted, in one place.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _send_all(self, frame: bytes) -> None:
        try:
            sent = self.socket.send(frame)
        except OSError:
            sent = 0
        if sent < len(frame):
            # A client that is gone, or that has left 64 KiB of answers unread.
            self.close()


class TcpEndpoint(Endpoint):
    """A listening port. transport: `tcp` or `rtu-over-tcp`.

    port: 0 until open where any free one was asked for. More counters: connections (open now),
    max_connections, connections_accepted.
    """

    def __init__(
        self,
        rng: random.Random,
        transport: str,
        host: str,
        port: int,
        gateway_timeout_s: float | None,
        record: int,
    ) -> None:
        super().__init__(transport, rng, gateway_timeout_s, record)
        self.host = host
        self.port = port
        self.max_connections = 0
        self.connections_accepted = 0
        self._loop: Loop | None = None
        self._listener: socket.socket | None = None
        self._links: set[_TcpLink] = set()
        self._refusing = False

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    def set_fault(self, fault: Fault) -> None:
        """Switch a fault on for every unit; `refuse` for the port itself.

        Returns when the port has stopped listening and its connections are closed.
        """
        if fault.kind is not FaultKind.REFUSE:
            super().set_fault(fault)
        else:
            self._refusing = True
            if self._loop is not None:
                self._loop.call(self._hang_up)

    def heal(self) -> None:
        """Switch the faults of every unit off and listen again; returns when it does."""
        super().heal()
        if self._refusing:
            self._refusing = False
            if self._loop is not None:
                self._loop.call(self._listen)

    def open(self, loop: Loop) -> None:
        """Listen, unless the endpoint is to refuse."""
        self._loop = loop
        if not self._refusing:
            self._listen()

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._hang_up()
        self._loop = None

    def _listen(self) -> None:
        if self._loop is None or self._listener is not None:
            return
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server(
            (self.host, self.port), family=family, backlog=_BACKLOG
        )
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.watch(self._listener.fileno(), self._accept)

    def _hang_up(self) -> None:
        if self._loop is not None and self._listener is not None:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for link in list(self._links):
            self._forget(link)

    def _accept(self) -> None:
        if self._loop is None or self._listener is None:
            return
        # Who hung up before it came back is not counted twice.
        for link in list(self._links):
            while self._read(link):
                pass
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _TcpLink(self._loop, sock, self._answered)
        self._links.add(link)
        self.connections_accepted += 1
        self.max_connections = max(self.max_connections, len(self._links))
        self._loop.watch(sock.fileno(), lambda: self._read(link))

    def _read(self, link: _TcpLink) -> bool:
        """Take what a client sent; False when there is no more."""
        try:
            data = link.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self.received(link, data)
        else:
            self._forget(link)
        return bool(data)

    def _forget(self, link: _TcpLink) -> None:
        if self._loop is None or link not in self._links:
            return
        self._links.discard(link)
        self._loop.unwatch(link.socket.fileno())
        link.drop()
        link.socket.close()
