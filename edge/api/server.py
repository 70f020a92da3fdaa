"""The shell over http.server: listening, threads, room for clients, TLS. No JSON is built here.

    thread `http`      accepts; gives each connection its own thread, or makes or refuses room
    thread `http-<n>`  one connection: head -> who may ask -> body -> handle -> answer, in order

Of http.server this stands on HTTPServer: listening, accepting, shutting down. Its
BaseHTTPRequestHandler is not used. It reads through a buffered file whose time-out starts anew
with each received byte, so one slow client could hold a thread for ever; it accepts framing that
must be refused; its header parser (the email package) costs more than all the rest of a request.
"""

from __future__ import annotations

import errno
import itertools
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import HTTPServer
from socketserver import BaseRequestHandler, TCPServer
from typing import Any

from edge.api import Caller, Request, Response
from edge.api.connection import LINGER_S, Connection, Terms
from edge.api.connections import Connections
from edge.api.http1 import response_bytes
from edge.api.tls import make_context
from edge.errors import ConfigError, Fault, RequestError
from edge.heartbeat import Heartbeat, Heartbeats
from edge.settings import is_loopback

ACCEPT_WITHIN_S = 30.0
"""The accept loop waits for nobody, and looks up twice a second; who does not for longer hangs."""
_TURNED_AWAY = 16
"""Connections refused for lack of room that are kept open until their clients have read so."""

_log = logging.getLogger("edge.api")


class _Listener(HTTPServer):
    """The listening socket and its accept loop."""

    allow_reuse_port = False  # two services on one port would each get half of the requests
    request_queue_size = 256

    def __init__(
        self, family: int, address: Any, admit: Callable[[socket.socket, str], bytes | None]
    ) -> None:
        """Bind. admit: takes a new client and its address; gives bytes to turn it away with."""
        self.address_family = family
        self._admit = admit
        self.heartbeat = Heartbeat("http")
        self._turned_away: deque[tuple[float, socket.socket]] = deque()
        super().__init__(address, BaseRequestHandler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer would ask DNS for a name here, and wait for it
        # Accepted sockets inherit this: an answer leaves at once, whatever the client has yet to
        # acknowledge.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.1)  # the client stays at the door, and the accept loop would spin
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        farewell = self._admit(request, client_address[0])
        if farewell is not None:
            with suppress(OSError):
                request.setblocking(False)
                request.send(farewell)
                request.shutdown(socket.SHUT_WR)
            self._turned_away.append((time.monotonic(), request))

    def service_actions(self) -> None:
        """Close those turned away, once they have had time to read it; called twice a second."""
        self.heartbeat.due_within(ACCEPT_WITHIN_S)
        turned_away, now_s = self._turned_away, time.monotonic()
        while turned_away and (
            len(turned_away) > _TURNED_AWAY or turned_away[0][0] + LINGER_S < now_s
        ):
            turned_away.popleft()[1].close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        raise  # noqa: PLE0704 - called while a bug is handled: it ends the accept loop

    def server_close(self) -> None:
        self.heartbeat.end()
        super().server_close()
        for _, client in self._turned_away:
            client.close()


def _allow_all(request: Request) -> None:
    """Let every request through; who can connect is decided by the address that is bound."""


class ApiServer:
    """Serves HTTP/1.1 on one address until closed; one thread for each connected client.

    handle: makes the answer, on the client's thread; an exception out of it is a bug, answered
    with 500 and then raised from the thread. refuse: makes the answer for what the shell refuses
    by itself, and carries the error's headers over; may be called from any of the server's threads.
    host: name or address to bind to. port: 0 for a free one. max_connections: clients at a time;
    beyond it who idles the longest makes room, or else who is slow to send a request or to take an
    answer; when nobody does a newcomer gets 503.
    authorize: says who asks, None where everyone may, known or not; sees each request before its
    body is read (the body is empty) and raises RequestError to refuse it. allowed_hosts: names that
    it may be asked by on loopback, beside those of this machine. cert_file, key_file: PEM;
    with them TLS alone is spoken. heartbeats: are given those of all its threads.
    request_timeout_s: for a whole request to arrive, and for TLS to be agreed on. idle_timeout_s:
    between requests. send_timeout_s: for an answer to be taken, or for each piece of a streamed
    one.
    """

    def __init__(
        self,
        handle: Callable[[Request], Response],
        refuse: Callable[[RequestError], Response],
        *,
        host: str,
        port: int,
        max_connections: int = 64,
        authorize: Callable[[Request], Caller | None] = _allow_all,
        allowed_hosts: Sequence[str] = (),
        cert_file: str | None = None,
        key_file: str | None = None,
        heartbeats: Heartbeats | None = None,
        request_timeout_s: float = 10.0,
        idle_timeout_s: float = 30.0,
        send_timeout_s: float = 10.0,
    ) -> None:
        self.host = host
        self.port = port
        """The port asked for; once started, the port bound."""
        self.connections = Connections(max_connections)
        self._own_hosts = (host, *allowed_hosts)
        self._pair = (cert_file, key_file) if cert_file and key_file else None
        self._heartbeats = heartbeats or Heartbeats()
        self._terms = Terms(
            handle,
            refuse,
            authorize,
            self.connections,
            self._heartbeats,
            request_timeout_s,
            idle_timeout_s,
            send_timeout_s,
        )
        self._numbers = itertools.count(1)
        self._listener: _Listener | None = None

    @property
    def base_url(self) -> str:
        """Where it listens, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._pair else 'http'}://{host}:{self.port}"

    def start(self) -> None:
        """Bind and begin to serve. May wait for the system to resolve the host's name.

        Raises ConfigError with a fault at `api.host` or `api.port`, or those of the certificate.
        """
        if self._pair is not None:
            self._terms.tls = make_context(*self._pair)
        self._listener = listener = self._bind()
        address, self.port = listener.server_address[:2]
        self._terms.own_hosts = self._own_hosts if is_loopback(str(address)) else None
        listener.heartbeat.due_within(ACCEPT_WITHIN_S)
        self._heartbeats.add(listener.heartbeat)
        threading.Thread(target=listener.serve_forever, name="http", daemon=True).start()

    def reload_certificate(self) -> None:
        """Show the certificate as its files are now to who connects from here on. Any thread.

        One that cannot be used is said in the log, and the one before stays.
        """
        if self._pair is None:
            return
        try:
            self._terms.tls = make_context(*self._pair)
        except ConfigError as exc:
            for fault in exc.faults:
                _log.error("%s", fault)
            _log.error("The certificate was not reloaded; the one before stays in use.")

    def close(self, deadline_s: float) -> None:
        """Stop accepting, close idle connections, let answers under way end until deadline_s.

        deadline_s: monotonic time, s. Blocks no longer than that; may be called again.
        """
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        with suppress(OSError):
            listener.socket.shutdown(socket.SHUT_RDWR)  # wakes the accept loop
        listener.shutdown()
        listener.server_close()
        self.connections.close(deadline_s)

    def _bind(self) -> _Listener:
        try:
            found = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # IPv4 first: whoever binds to localhost expects 127.0.0.1 to work.
            family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
            return _Listener(family, address, self._admit)
        except (OSError, UnicodeError) as error:
            raise ConfigError("", [self._bind_fault(error)]) from error

    def _bind_fault(self, error: OSError | UnicodeError) -> Fault:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            return Fault(
                "api.port",
                f"{self.port} is in use on {self.host}; stop what uses it or set another port",
            )
        if number in (errno.EACCES, errno.EPERM):
            return Fault("api.port", f"this user may not use {self.port}; set a port above 1023")
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        return Fault(
            "api.host", f"cannot bind to {self.host!r} ({reason}); set an address of this machine"
        )

    def _admit(self, client: socket.socket, peer: str) -> bytes | None:
        """Give a new client its thread, or the answer that there is no room. Never blocks."""
        connection = Connection(self._terms, client, peer)
        if self.connections.admit(connection):
            name = f"http-{next(self._numbers)}"
            try:
                threading.Thread(target=connection.serve, name=name, daemon=True).start()
                return None
            except RuntimeError:  # the system gives us no more threads
                self.connections.leave(connection)
        if self._terms.tls is not None:
            return b""  # to agree on keys first, to say so, would take a thread
        busy = RequestError(
            503,
            "TOO_MANY_CONNECTIONS",
            "Too many clients are connected; close unused connections and try again.",
            headers=(("Retry-After", "1"),),
        )
        return response_bytes(self._terms.refuse(busy), keep_alive=False)
