"""One WebSocket client: bytes in, messages and bytes out. No socket, thread or clock here.

Frames, masks, control frames and the closing handshake are the Sans-I/O part of the websockets
library. Here is what it leaves to its caller: the opening handshake on top of a request that was
read already, messages made of their fragments, and whether text is UTF-8.
Source: RFC 6455.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import logging
from collections.abc import Mapping

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from edge.errors import RequestError

GOING_AWAY = CloseCode.GOING_AWAY.value
INTERNAL_ERROR = CloseCode.INTERNAL_ERROR.value
POLICY_VIOLATION = CloseCode.POLICY_VIOLATION.value
TRY_AGAIN_LATER = CloseCode.TRY_AGAIN_LATER.value
"""Codes to close with, RFC 6455, 7.4."""

MAX_MESSAGE_BYTES = 4096
_KEY_BYTES = 16
_VERSION = "13"

_log = logging.getLogger("edge.api.websocket")
_log.setLevel(logging.WARNING)  # the library logs each frame, and each end of a connection


def accept(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Check an opening handshake: the fields of the answer 101 that accepts it.

    headers: of a GET over HTTP/1.1, names in lower case. No extension or subprotocol is agreed to.
    Raises RequestError 426 for what asks for no WebSocket, or for another version of it; or 400.
    Source: RFC 6455, 4.2.
    """
    if not ("upgrade" in _tokens(headers, "connection") and "websocket" in _tokens(headers)):
        raise _upgrade_required(
            "Live updates come over a WebSocket; connect with a WebSocket client, or look at / in "
            "a browser."
        )
    if headers.get("sec-websocket-version") != _VERSION:
        raise _upgrade_required(f"Use version {_VERSION} of the WebSocket protocol.")
    key = headers.get("sec-websocket-key", "")
    try:
        sound = len(base64.b64decode(key.encode(), validate=True)) == _KEY_BYTES
    except binascii.Error:
        sound = False
    if not sound:
        raise RequestError(
            400, "BAD_REQUEST", "Sec-WebSocket-Key must be given once, 16 bytes in base64."
        )
    return (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
    )


def _tokens(headers: Mapping[str, str], name: str = "upgrade") -> set[str]:
    return {token.strip() for token in headers.get(name, "").lower().split(",")}


def _upgrade_required(message: str) -> RequestError:
    fields = (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", _VERSION),
    )
    return RequestError(426, "UPGRADE_REQUIRED", message, headers=fields)


def text_frame(payload: bytes) -> bytes:
    """Frame a text message of the server, UTF-8. It is the same for every client."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


class _Protocol(ServerProtocol):
    """The library's, which would call a close within a message an error."""

    def recv_frame(self, frame: Frame) -> None:
        """Process a frame. Source: RFC 6455, 5.4: control frames may come between fragments."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class Session:
    """What was agreed with one client, after its opening handshake.

    Text and binary messages that are sent need no session, since they are framed alike for all;
    but while it is not `open`, none may be sent any more.
    """

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._protocol = _Protocol(state=State.OPEN, max_size=max_message_bytes, logger=_log)
        self._decoder: codecs.IncrementalDecoder | None = None
        self._fragments: list[str | bytes] = []

    @property
    def open(self) -> bool:
        """Whether messages may be sent: neither side has begun to close."""
        return self._protocol.state is State.OPEN

    @property
    def ended(self) -> bool:
        """Nothing follows what `to_send` gave: once that is sent, the connection is to be ended."""
        return self._protocol.eof_sent

    def receive(self, data: bytes) -> list[str | bytes]:
        """Take what the client sent; gives the messages that are whole by that, text as str.

        Control frames are answered, and whatever breaks the protocol closes the session with the
        code that RFC 6455 has for it: `to_send` has the frames.
        """
        self._protocol.receive_data(data)
        messages: list[str | bytes] = []
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            try:
                self._take(frame)
            except UnicodeDecodeError:
                self._protocol.fail(CloseCode.INVALID_DATA, "text must be UTF-8")
                break
            if frame.fin:
                joint: str | bytes = "" if self._decoder else b""
                messages.append(joint.join(self._fragments))  # type: ignore[arg-type]
        return messages

    def _take(self, frame: Frame) -> None:
        """Add a fragment to its message. Raises UnicodeDecodeError as soon as text is none."""
        if frame.opcode is not Opcode.CONT:
            is_text = frame.opcode is Opcode.TEXT
            self._decoder = codecs.getincrementaldecoder("utf-8")() if is_text else None
            self._fragments = []
        data = bytes(frame.data)
        decoder = self._decoder
        self._fragments.append(decoder.decode(data, frame.fin) if decoder else data)

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self.open:
            self._protocol.send_ping(b"")

    def close(self, code: int, reason: str) -> None:
        """Begin to close. reason: one sentence, at most 123 bytes."""
        if self.open:
            self._protocol.send_close(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """Close, and look at nothing any more that comes. reason: as above.

        Source: RFC 6455, 7.1.7.
        """
        if self.open:
            self._protocol.fail(code, reason)

    def to_send(self) -> bytes:
        """Give what is to be sent since it was asked the last time; it may be empty."""
        return b"".join(self._protocol.data_to_send())
