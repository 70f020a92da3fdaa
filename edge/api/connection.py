"""One client of the server, from its first byte to its last answer: deadlines, limits and order.

A connection's input is never trusted to be more than bytes: a head is parsed, by `http1`, only
when it is whole and within its limit, and whatever is not exactly HTTP/1 ends the connection.
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from edge.api import Caller, Request, Response, Stream
from edge.api.connections import Connections, Doing, Gone
from edge.api.http1 import (
    BEGINNING,
    HEAD_END,
    LAST_CHUNK,
    MAX_HEAD_BYTES,
    Head,
    bad_request,
    chunk_bytes,
    is_chunked,
    parse_head,
    parse_request_line,
    require_json,
    response_bytes,
    takeover_bytes,
)
from edge.api.origin import refuse_foreign_change, refuse_rebound_host
from edge.api.progress import tell_progress_to
from edge.api.tls import say_end, shake_hands
from edge.errors import DlmError, RequestError
from edge.heartbeat import Heartbeat, Heartbeats

ANSWER_WITHIN_S = 1200.0
"""For a step of the work on an answer, see `edge.api.progress`; who takes longer hangs. The longest
is the test of a meter on a broker: it looks up the broker's name for either version of MQTT, for
which `edge.line.MARGIN_S` tells how long that may take."""
LINGER_S = 1.0
"""How long a client may take to read a last answer before its connection is closed."""
_RECEIVE_BYTES = 16 * 1024
_LOGGED_CHARACTERS = 200
"""Of a path, which may be as long as a head."""
_LOGGED_METHOD_CHARACTERS = 32
"""Longer than any method has a name; source: the IANA HTTP Method Registry."""

_log = logging.getLogger("edge.api")


@dataclass
class Terms:
    """What a server serves its clients on; `ApiServer` says what each is.

    own_hosts: the names that it has where only this machine can connect, else None. tls: what new
    clients are shown; another one when the certificate is renewed.
    """

    handle: Callable[[Request], Response]
    refuse: Callable[[RequestError], Response]
    authorize: Callable[[Request], Caller | None]
    connections: Connections
    heartbeats: Heartbeats
    request_timeout_s: float
    idle_timeout_s: float
    send_timeout_s: float
    own_hosts: tuple[str, ...] | None = None
    tls: ssl.SSLContext | None = None


class Connection:
    """One client, served by one thread from its first byte to its last answer."""

    def __init__(self, terms: Terms, client: socket.socket, peer: str) -> None:
        self._terms = terms
        self._connections = terms.connections
        self._socket = client
        self.peer = peer
        self._received = bytearray()
        self._heartbeat = Heartbeat("")
        self._deadline_s = 0.0
        self._takeover: Callable[[socket.socket, bytes], None] | None = None

    def serve(self) -> None:
        """Answer the client's requests in order until one side ends it. Blocks; own thread.

        An exception out of here is a bug; its client has been told, and the caller is the
        thread, whose excepthook ends the process.
        """
        self._heartbeat.worker = threading.current_thread().name
        self._terms.heartbeats.add(self._heartbeat)
        tell_progress_to(lambda: self._heartbeat.due_within(ANSWER_WITHIN_S))
        try:
            if self._agree_on_keys():
                while self._exchange():
                    self._note(Doing.IDLE)
            if self._takeover is None:
                self._linger()
        except Gone:
            self._takeover = None
        finally:
            self._heartbeat.end()
            self._connections.leave(self)
            if self._takeover is None:
                self._socket.close()
        if self._takeover is not None:
            self._takeover(self._socket, bytes(self._received))

    def cut(self) -> None:
        """End the connection from another thread; its own wakes up and leaves."""
        with suppress(OSError):
            # An SSLSocket's own method would turn it into one that sends what follows in the clear.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _note(self, doing: Doing) -> None:
        """Note what is done from now on; see `Connections.note`.

        Only over an answer it can hang: else its client has so long to move things on.
        """
        self._connections.note(self, doing)
        if doing is Doing.ANSWERING:
            self._heartbeat.due_within(ANSWER_WITHIN_S)
        else:
            self._heartbeat.rest()

    def _agree_on_keys(self) -> bool:
        """Begin TLS where it is spoken; False when the client speaks HTTP to it. Raises Gone."""
        context = self._terms.tls
        if context is None:
            return True
        try:
            self._socket = secured = context.wrap_socket(
                self._socket, server_side=True, do_handshake_on_connect=False
            )
            self._note(Doing.RECEIVING)  # it may have been cut off just now
            if shake_hands(secured, self._terms.request_timeout_s):
                return True
        except OSError as exc:
            _log.debug("%s: no agreement on TLS: %s", self.peer, exc)
            raise Gone from None
        self._socket = socket.socket(fileno=secured.detach())
        refusal = bad_request("This port speaks HTTPS; begin the address with https://")
        self._answer(response_bytes(self._terms.refuse(refusal), keep_alive=False))
        return False

    def _exchange(self) -> bool:
        """Take one request and answer it; False when the connection cannot go on after it."""
        terms, keep_alive = self._terms, False
        head: Head | None = None
        request: Request | None = None
        began_s = time.monotonic()
        try:
            head = self._receive_head()
            began_s = time.monotonic()
            # A refusal before the body was read cannot go on: the body would be the next request.
            keep_alive = head.keep_alive and not head.body_bytes
            request = self._receive_body(head, self._admit(head))
            self._note(Doing.ANSWERING)
            response = terms.handle(request)
            keep_alive = head.keep_alive and not self._connections.closing
            if response.stream is not None:
                keep_alive = keep_alive and is_chunked(head)
            if response.takeover is not None:
                keep_alive, answer = False, takeover_bytes(response)
            else:
                answer = response_bytes(response, head, keep_alive=keep_alive)
        except RequestError as refusal:
            response = terms.refuse(refusal)
            answer = response_bytes(response, head, keep_alive=keep_alive)
        except Gone:
            raise
        except Exception:
            with suppress(Gone):  # who left does not take the bug along
                self._answer(response_bytes(terms.refuse(_bug()), head, keep_alive=False))
            raise
        if response.stream is None:
            self._answer(answer)
        else:
            self._answer_in_pieces(answer, response.stream, head)
        self._takeover = response.takeover
        self._note_in_log(head, request, response.status, began_s)
        return keep_alive

    def _note_in_log(
        self, head: Head | None, request: Request | None, status: int, began_s: float
    ) -> None:
        """Log changes for everyone to see, and the rest for who looks for it.

        The rest is what reads, and what anybody may send: that must not be able to fill the log.
        request: as it was handled, if it came so far.
        """
        admitted = request is not None and request.caller is not None
        changes = request is not None and request.method not in ("GET", "OPTIONS")
        level = logging.INFO if admitted and changes else logging.DEBUG
        if not _log.isEnabledFor(level):
            return
        who, what = self.peer, "no request"
        if head is not None:
            asked = request or head.request
            who = (asked.caller and asked.caller.name) or who
            method = asked.method[:_LOGGED_METHOD_CHARACTERS]
            what = f"{method} {asked.path[:_LOGGED_CHARACTERS]!r}"
        busy_ms = (time.monotonic() - began_s) * 1000
        _log.log(level, "%s: %s: %d, %.1f ms", who, what, status, busy_ms)

    def _receive_head(self) -> Head:
        """Wait for the next request and read its head. The request's time begins with a byte."""
        terms, received = self._terms, self._received
        if not received:
            self._deadline_s = time.monotonic() + terms.idle_timeout_s
            try:
                if not self._receive():
                    raise Gone
            except TimeoutError:
                raise Gone from None
        self._note(Doing.RECEIVING)
        self._deadline_s = time.monotonic() + terms.request_timeout_s
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

    def _admit(self, head: Head) -> Request:
        """Decide who may ask. Raises RequestError, the body still unread."""
        terms = self._terms
        request = replace(head.request, peer=self.peer, secure=terms.tls is not None)
        if terms.own_hosts is not None:
            refuse_rebound_host(request, terms.own_hosts)
            refuse_foreign_change(request, terms.own_hosts)
        # The client does not have to answer for how long this takes.
        self._note(Doing.ANSWERING)
        began_s = time.monotonic()
        request = replace(request, caller=terms.authorize(request))
        self._deadline_s += time.monotonic() - began_s
        return request

    def _receive_body(self, head: Head, request: Request) -> Request:
        """Read the body, if there is one. Raises RequestError."""
        require_json(request, head.body_bytes)
        if not head.body_bytes:
            return request
        received = self._received
        self._note(Doing.RECEIVING)
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
        try:
            self._socket.settimeout(_remaining_s(self._deadline_s))
            received = self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError:
            raise
        except OSError:
            raise Gone from None
        self._received += received
        return bool(received)

    def _answer(self, data: bytes) -> None:
        """Send an answer. Raises Gone as `_send` does, or if the connection was cut off."""
        self._note(Doing.SENDING)
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
                    self._note(Doing.ANSWERING)
            except DlmError as error:
                _log.warning("%s: the answer broke off: %s", self.peer, error)
                reset_at_close(self._socket)
                raise Gone from None
            except Exception:
                reset_at_close(self._socket)  # a plain end would look like a whole answer
                raise
            if chunked:
                self._answer(LAST_CHUNK)

    def _send(self, data: bytes) -> None:
        """Send all of it. Raises Gone if the client went, or has not read it in time."""
        # `sendall` of an SSLSocket would begin its time-out anew with each record.
        deadline_s = time.monotonic() + self._terms.send_timeout_s
        unsent = memoryview(data)
        try:
            while unsent:
                self._socket.settimeout(_remaining_s(deadline_s))
                unsent = unsent[self._socket.send(unsent) :]
        except OSError:
            # The system would go on offering what is left to who does not read.
            reset_at_close(self._socket)
            raise Gone from None

    def _linger(self) -> None:
        """Let the client read the last answer: closing over unread input would reset it away.

        Source: RFC 9112, 9.6.
        """
        say_end(self._socket, LINGER_S)
        self._note(Doing.IDLE)
        self._deadline_s = time.monotonic() + LINGER_S
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            while self._receive():
                self._received.clear()


def reset_at_close(client: socket.socket) -> None:
    """Let closing a connection be a reset, which no client takes for a regular end."""
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _bug() -> RequestError:
    message = "The service failed over this request and restarts; see its log."
    return RequestError(500, "INTERNAL_ERROR", message)


def _remaining_s(deadline_s: float) -> float:
    """How long is left until a deadline. Raises TimeoutError if nothing is."""
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s
