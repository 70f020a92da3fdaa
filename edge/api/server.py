"""The shell over http.server: sockets, threads, deadlines and limits. No JSON is built here.

    thread `http`      accepts; gives each connection its own thread, or makes or refuses room
    thread `http-<n>`  one connection: head -> who may ask -> body -> handle -> answer, in order

Of http.server this stands on HTTPServer: listening, accepting, shutting down. Its
BaseHTTPRequestHandler is not used. It reads through a buffered file whose time-out starts anew
with each received byte, so one slow client could hold a thread for ever; it accepts framing that
must be refused; its header parser (the email package) costs more than all the rest of a request.

A connection's input is never trusted to be more than bytes: a head is parsed, by `http1`, only
when it is whole and within its limit, and whatever is not exactly HTTP/1 ends the connection.
"""

from __future__ import annotations

import errno
import itertools
import logging
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from http.server import HTTPServer
from socketserver import BaseRequestHandler, TCPServer
from typing import Any

from edge.api import Request, Response, Stream
from edge.api.connections import Connections, Doing, Gone
from edge.api.http1 import (
    BEGINNING,
    HEAD_END,
    LAST_CHUNK,
    MAX_HEAD_BYTES,
    Head,
    allow_all,
    bad_request,
    chunk_bytes,
    is_chunked,
    parse_head,
    parse_request_line,
    refuse_foreign,
    require_json,
    response_bytes,
)
from edge.errors import ConfigError, DlmError, Fault, RequestError
from edge.settings import is_loopback

_RECEIVE_BYTES = 16 * 1024
_LINGER_S = 1.0
"""How long a client may take to read a last answer before its connection is closed."""
_TURNED_AWAY = 16
"""Connections refused for lack of room that are kept open until their clients have read so."""

_log = logging.getLogger("edge.api")


class _Connection:
    """One client, served by one thread from its first byte to its last answer."""

    def __init__(self, server: ApiServer, client: socket.socket, peer: str) -> None:
        self._server = server
        self._socket = client
        self._peer = peer
        self._received = bytearray()
        self._deadline_s = 0.0

    def serve(self) -> None:
        """Answer the client's requests in order until one side ends it. Blocks; own thread.

        An exception out of here is a bug; its client has been told, and the caller is the
        thread, whose excepthook ends the process.
        """
        try:
            while self._exchange():
                self._server.connections.note(self, Doing.IDLE)
            self._linger()
        except Gone:
            pass
        finally:
            self._server.connections.leave(self)
            self._socket.close()

    def cut(self) -> None:
        """End the connection from another thread; its own wakes up and leaves."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _exchange(self) -> bool:
        """Take one request and answer it; False when the connection cannot go on after it."""
        server, head, keep_alive = self._server, None, False
        began_s = time.monotonic()
        try:
            head = self._receive_head()
            began_s = time.monotonic()
            # A refusal before the body was read cannot go on: the body would be the next request.
            keep_alive = head.keep_alive and not head.body_bytes
            request = self._receive_body(head)
            server.connections.note(self, Doing.ANSWERING)
            response = server.handle(request)
            keep_alive = head.keep_alive and not server.connections.closing
            if response.stream is not None:
                keep_alive = keep_alive and is_chunked(head)
            answer = response_bytes(response, head, keep_alive=keep_alive)
        except RequestError as refusal:
            response = server.refuse(refusal)
            answer = response_bytes(response, head, keep_alive=keep_alive)
        except Gone:
            raise
        except Exception:
            error = RequestError(
                500,
                "INTERNAL_ERROR",
                "The service failed over this request and restarts; see its log.",
            )
            with suppress(Gone):  # who left does not take the bug along
                self._answer(response_bytes(server.refuse(error), head, keep_alive=False))
            raise
        if response.stream is None:
            self._answer(answer)
        else:
            self._answer_in_pieces(answer, response.stream, head)
        if _log.isEnabledFor(logging.DEBUG):
            what = f"{head.request.method} {head.request.path!r}" if head else "no request"
            busy_ms = (time.monotonic() - began_s) * 1000
            _log.debug("%s: %s: %d, %.1f ms", self._peer, what, response.status, busy_ms)
        return keep_alive

    def _receive_head(self) -> Head:
        """Wait for the next request and read its head. The request's time begins with a byte."""
        server, received = self._server, self._received
        if not received:
            self._deadline_s = time.monotonic() + server.idle_timeout_s
            try:
                if not self._receive():
                    raise Gone
            except TimeoutError:
                raise Gone from None
        server.connections.note(self, Doing.RECEIVING)
        self._deadline_s = time.monotonic() + server.request_timeout_s
        searched = 0
        line_unchecked = True
        while True:
            if received.startswith((b"\r", b"\n")):
                # RFC 9112, 2.2: ignore empty lines before the request line.
                del received[: len(received) - len(received.lstrip(b"\r\n"))]
            end = HEAD_END.search(received, searched)
            head_bytes = end.end() if end else len(received)
            if head_bytes > MAX_HEAD_BYTES:
                if b"\n" not in received[:MAX_HEAD_BYTES]:
                    raise RequestError(414, "URI_TOO_LONG", "The address is too long; shorten it.")
                raise RequestError(
                    431, "HEADERS_TOO_LARGE", f"Send at most {MAX_HEAD_BYTES} bytes of headers."
                )
            if end:
                head = bytes(received[:head_bytes])
                del received[:head_bytes]
                return parse_head(head)
            if line_unchecked and (b"\n" in received or not BEGINNING.match(received)):
                # What is not HTTP/1, TLS for one, may never send the end of a head: tell it now.
                parse_request_line(received)
                line_unchecked = False
            searched = max(0, len(received) - 3)
            self._receive_more()

    def _receive_body(self, head: Head) -> Request:
        """Decide who may ask, then read the body. Raises RequestError, the body still unread."""
        server, received, request = self._server, self._received, head.request
        if server.bound_to_loopback:
            refuse_foreign(request, server.host)
        server.authorize(request)
        require_json(request, head.body_bytes)
        if not head.body_bytes:
            return request
        if head.awaits_continue and len(received) < head.body_bytes:
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(received) < head.body_bytes:
            self._receive_more()
        body = bytes(received[: head.body_bytes])
        del received[: head.body_bytes]
        return replace(request, body=body)

    def _receive_more(self) -> None:
        """Receive more of a request that is not whole. Raises RequestError if no more comes."""
        try:
            if self._receive():
                return
        except TimeoutError:
            raise RequestError(
                408, "REQUEST_TIMEOUT", "The request did not arrive in time; send it again."
            ) from None
        raise bad_request("The request was cut short")

    def _receive(self) -> bool:
        """Receive what is there; False at the end of the input. Raises TimeoutError, Gone.

        Waits until the deadline of the request as a whole, however many bytes trickle in.
        """
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        try:
            self._socket.settimeout(remaining_s)
            received = self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError:
            raise
        except OSError:
            raise Gone from None
        self._received += received
        return bool(received)

    def _answer(self, data: bytes) -> None:
        """Send an answer. Raises Gone as `_send` does, or if the connection was cut off."""
        self._server.connections.note(self, Doing.SENDING)
        self._send(data)

    def _answer_in_pieces(self, top: bytes, stream: Stream, head: Head | None) -> None:
        """Send a streamed answer; each piece may take as long as a whole one. Raises Gone.

        It ends early, and so that the client can tell, when the rest cannot be had or the server
        is to close.
        """
        chunked = is_chunked(head)
        with closing(stream):
            self._answer(top)
            if head is None or head.without_body:
                return
            try:
                for piece in stream:
                    self._answer(chunk_bytes(piece) if chunked else piece)
                    self._server.connections.note(self, Doing.ANSWERING)
            except DlmError as error:
                _log.warning("%s: the answer broke off: %s", self._peer, error)
                self._reset_at_close()
                raise Gone from None
            except Exception:
                self._reset_at_close()  # without chunks a plain end would look like a whole answer
                raise
            if chunked:
                self._answer(LAST_CHUNK)

    def _send(self, data: bytes) -> None:
        """Send all of it. Raises Gone if the client went, or has not read it in time."""
        client = self._socket
        try:
            client.settimeout(self._server.send_timeout_s)
            client.sendall(data)  # the time-out is for all of it, not for each send
        except OSError:
            # The system would go on offering what is left to who does not read.
            self._reset_at_close()
            raise Gone from None

    def _reset_at_close(self) -> None:
        """Let closing the connection be a reset, which no client takes for a regular end."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _linger(self) -> None:
        """Let the client read the last answer: closing over unread input would reset it away.

        Source: RFC 9112, 9.6.
        """
        self._server.connections.note(self, Doing.IDLE)
        self._deadline_s = time.monotonic() + _LINGER_S
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while self._receive():
                self._received.clear()


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
        turned_away, now_s = self._turned_away, time.monotonic()
        while turned_away and (
            len(turned_away) > _TURNED_AWAY or turned_away[0][0] + _LINGER_S < now_s
        ):
            turned_away.popleft()[1].close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        raise  # noqa: PLE0704 - called while a bug is handled: it ends the accept loop

    def server_close(self) -> None:
        super().server_close()
        for _, client in self._turned_away:
            client.close()


class ApiServer:
    """Serves HTTP/1.1 on one address until closed; one thread for each connected client.

    handle: makes the answer, on the client's thread; an exception out of it is a bug, answered
    with 500 and then raised from the thread. refuse: makes the answer for what the shell refuses
    by itself, and carries the error's headers over; may be called from any of the server's threads.
    host: name or address to bind to. port: 0 for a free one. max_connections: clients at a time;
    beyond it who idles the longest makes room, or else who is slow to send a request or to take an
    answer; when nobody does a newcomer gets 503.
    authorize: the one place for tokens; sees each request before its body is read (the body is
    empty) and raises RequestError 401 to refuse it. request_timeout_s: for a whole request to
    arrive. idle_timeout_s: between requests. send_timeout_s: for an answer to be taken, or
    for each piece of a streamed one.
    """

    def __init__(
        self,
        handle: Callable[[Request], Response],
        refuse: Callable[[RequestError], Response],
        *,
        host: str,
        port: int,
        max_connections: int = 64,
        authorize: Callable[[Request], None] = allow_all,
        request_timeout_s: float = 10.0,
        idle_timeout_s: float = 30.0,
        send_timeout_s: float = 10.0,
    ) -> None:
        self.handle = handle
        self.refuse = refuse
        self.authorize = authorize
        self.host = host
        self.port = port
        """The port asked for; once started, the port bound."""
        self.bound_to_loopback = False
        self.request_timeout_s = request_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.send_timeout_s = send_timeout_s
        self.connections = Connections(max_connections)
        self._numbers = itertools.count(1)
        self._listener: _Listener | None = None

    def start(self) -> None:
        """Bind and begin to serve. May wait for the system to resolve the host's name.

        Raises ConfigError with one fault at `api.host` or `api.port`.
        """
        self._listener = listener = self._bind()
        self.port = listener.server_address[1]
        self.bound_to_loopback = is_loopback(str(listener.server_address[0]))
        threading.Thread(target=listener.serve_forever, name="http", daemon=True).start()

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
        connection = _Connection(self, client, peer)
        if self.connections.admit(connection):
            name = f"http-{next(self._numbers)}"
            try:
                threading.Thread(target=connection.serve, name=name, daemon=True).start()
                return None
            except RuntimeError:  # the system gives us no more threads
                self.connections.leave(connection)
        busy = RequestError(
            503,
            "TOO_MANY_CONNECTIONS",
            "Too many clients are connected; close unused connections and try again.",
            headers=(("Retry-After", "1"),),
        )
        return response_bytes(self.refuse(busy), keep_alive=False)
