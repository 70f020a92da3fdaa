"""The session with one WebSocket client, byte by byte; what RFC 6455 asks of a server.

The cases follow the groups of the Autobahn test suite, which numbers them the same way: framing,
pings, reserved bits, opcodes, fragments, UTF-8, limits, closing.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.api.websocket import GOING_AWAY, MAX_MESSAGE_BYTES, Session, accept, text_frame
from edge.errors import RequestError

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
MASK = b"\x37\xfa\x21\x3d"
EURO = "€".encode()
SPLIT_ANYWHERE = st.lists(st.integers(1, 20), max_size=40)

HANDSHAKE = {
    "host": "edge.local",
    "connection": "keep-alive, Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def frame(
    opcode: int, payload: bytes = b"", *, first: int = FIN, mask: bytes | None = MASK
) -> bytes:
    """A frame as a client sends it. first: the bits before the opcode."""
    masked = 0x80 if mask is not None else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first | opcode, masked | len(payload))
    elif len(payload) < 2**16:
        head = struct.pack("!BBH", first | opcode, masked | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first | opcode, masked | 127, len(payload))
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and payload of each frame that a server sent; all are whole and none is masked."""
    frames = []
    while data:
        first, length, rest = data[0], data[1], data[2:]
        assert first & 0xF0 == FIN
        assert length < 128, "a server masks nothing"
        assert len(rest) >= (length > 125) * 2
        if length == 126:
            length, rest = int.from_bytes(rest[:2], "big"), rest[2:]
        elif length == 127:
            length, rest = int.from_bytes(rest[:8], "big"), rest[8:]
        frames.append((first & 0x0F, rest[:length]))
        assert len(rest) >= length
        data = rest[length:]
    return frames


def closed_with(session: Session) -> int | None:
    """The code that the session closed with, as the last thing it sent; None if it did not."""
    sent = frames_in(session.to_send())
    if not sent or sent[-1][0] != CLOSE:
        return None
    assert not session.open
    return int.from_bytes(sent[-1][1][:2], "big")


def after(*sent: bytes) -> Session:
    """A session that has received this."""
    session = Session()
    for data in sent:
        session.receive(data)
    return session


def pieces(data: bytes, lengths: Iterable[int]) -> list[bytes]:
    parts, at = [], 0
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return [*filter(None, parts), *filter(None, [data[at:]])]


# --- The opening handshake -----------------------------------------------------------------------


def test_the_opening_handshake_of_the_rfc_is_answered_as_it_says() -> None:
    assert accept(HANDSHAKE) == (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),  # RFC 6455, 1.3
    )


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"upgrade": None}, 426),
        ({"connection": None}, 426),
        ({"upgrade": "h2c"}, 426),
        ({"connection": "close"}, 426),
        ({"sec-websocket-version": None}, 426),
        ({"sec-websocket-version": "8"}, 426),
        ({"sec-websocket-key": None}, 400),
        ({"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ"}, 400),
        ({"sec-websocket-key": base64.b64encode(b"x" * 15).decode()}, 400),
        ({"sec-websocket-key": "ä" * 24}, 400),
        ({"sec-websocket-key": f"{HANDSHAKE['sec-websocket-key']}, x"}, 400),
    ],
)
def test_what_is_no_handshake_is_refused(changes: dict[str, str | None], status: int) -> None:
    headers = {k: v for k, v in {**HANDSHAKE, **changes}.items() if v is not None}
    with pytest.raises(RequestError) as refused:
        accept(headers)
    assert refused.value.status == status
    if status == 426:
        assert ("Upgrade", "websocket") in refused.value.headers
        assert ("Sec-WebSocket-Version", "13") in refused.value.headers


def test_the_words_of_a_handshake_may_be_in_any_case() -> None:
    accept({**HANDSHAKE, "upgrade": "WebSocket", "connection": "UPGRADE"})


# --- 1 Framing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 128, MAX_MESSAGE_BYTES])
def test_messages_of_all_lengths_arrive(length: int) -> None:
    assert Session().receive(frame(TEXT, b"*" * length)) == ["*" * length]
    assert Session().receive(frame(BINARY, b"\xfe" * length)) == [b"\xfe" * length]


@pytest.mark.parametrize("length", [0, 125, 126, 65_535, 65_536])
def test_what_the_server_sends_is_framed_with_the_shortest_length(length: int) -> None:
    made = text_frame(b"x" * length)
    assert frames_in(made) == [(TEXT, b"x" * length)]
    assert len(made) - length == (2 if length < 126 else 4 if length < 65_536 else 10)


@given(SPLIT_ANYWHERE)
def test_it_does_not_matter_how_the_bytes_are_split(lengths: list[int]) -> None:
    sent = (
        frame(TEXT, "grün".encode(), first=0)
        + frame(PING, b"now")
        + frame(CONT, EURO)
        + frame(BINARY, b"\x00" * 300)
    )
    session = Session()
    received = [message for part in pieces(sent, lengths) for message in session.receive(part)]
    assert received == ["grün€", b"\x00" * 300]
    assert frames_in(session.to_send()) == [(PONG, b"now")]


def test_messages_one_behind_the_other_all_arrive() -> None:
    assert Session().receive(frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c")) == [
        "a",
        b"b",
        "c",
    ]


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_a_frame_that_is_not_masked_ends_the_session(opcode: int) -> None:
    assert closed_with(after(frame(opcode, b"", mask=None))) == 1002


def test_a_mask_of_zeros_is_a_mask() -> None:
    assert Session().receive(frame(TEXT, b"plain", mask=b"\0\0\0\0")) == ["plain"]


def test_text_with_the_wrong_mask_is_no_utf_8() -> None:
    sent = frame(TEXT, b"\x80hello", mask=b"\0\0\0\0")
    assert closed_with(after(sent)) == 1007


# --- 2 Pings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"hello", b"\x00\xff\xfe\xfd", b"\xfe" * 125])
def test_a_ping_is_answered_with_its_payload(payload: bytes) -> None:
    session = after(frame(PING, payload))
    assert frames_in(session.to_send()) == [(PONG, payload)]
    assert session.open


def test_pings_are_answered_in_order() -> None:
    session = after(b"".join(frame(PING, b"%d" % i) for i in range(10)))
    assert frames_in(session.to_send()) == [(PONG, b"%d" % i) for i in range(10)]


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_control_frame_of_126_bytes_ends_the_session(opcode: int) -> None:
    assert closed_with(after(frame(opcode, b"\x03\xe8" + b"x" * 124))) == 1002


def test_a_pong_that_nobody_asked_for_is_ignored() -> None:
    session = after(frame(PONG, b"unasked"))
    assert session.to_send() == b""
    assert session.open


def test_the_server_asks_for_a_sign_of_life() -> None:
    session = Session()
    session.ping()
    assert frames_in(session.to_send()) == [(PING, b"")]
    session.close(GOING_AWAY, "")
    session.to_send()
    session.ping()
    assert session.to_send() == b""


# --- 3 and 4 Reserved bits and opcodes -----------------------------------------------------------


@pytest.mark.parametrize("bits", range(RSV3, FIN, RSV3))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_reserved_bits_end_the_session(bits: int, opcode: int) -> None:
    session = Session()
    assert session.receive(frame(TEXT, b"before")) == ["before"]
    assert session.receive(frame(opcode, b"", first=FIN | bits)) == []
    assert closed_with(session) == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_end_the_session(opcode: int) -> None:
    assert closed_with(after(frame(opcode))) == 1002
    assert closed_with(after(frame(opcode, b"payload"))) == 1002


# --- 5 Fragments ---------------------------------------------------------------------------------


def test_a_message_is_made_of_its_fragments_with_control_frames_between() -> None:
    session = Session()
    assert session.receive(frame(TEXT, b"frag", first=0)) == []
    assert session.receive(frame(PING, b"between")) == []
    assert frames_in(session.to_send()) == [(PONG, b"between")]
    assert session.receive(frame(PONG)) == []
    assert session.receive(frame(CONT, b"men", first=0)) == []
    assert session.receive(frame(CONT, b"", first=0)) == []
    assert session.receive(frame(CONT, b"ted")) == ["fragmented"]
    assert session.receive(frame(TEXT, b"next")) == ["next"]


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_control_frame_in_fragments_ends_the_session(opcode: int) -> None:
    assert closed_with(after(frame(opcode, b"", first=0))) == 1002


@pytest.mark.parametrize("first", [0, FIN])
def test_a_continuation_of_nothing_ends_the_session(first: int) -> None:
    assert closed_with(after(frame(CONT, b"what", first=first))) == 1002
    assert closed_with(after(frame(TEXT, b"whole"), frame(CONT, b"what", first=first))) == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_new_message_within_another_ends_the_session(opcode: int) -> None:
    assert closed_with(after(frame(TEXT, b"one", first=0), frame(opcode, b"two"))) == 1002


def test_a_close_within_a_message_is_a_close_like_any_other() -> None:
    session = after(frame(TEXT, b"one", first=0), close(1000))
    assert session.ended
    assert closed_with(session) == 1000
    assert session.receive(frame(CONT, b"two")) == []


# --- 6 UTF-8 -------------------------------------------------------------------------------------

NOT_UTF_8 = [
    b"\x80",  # a continuation byte alone
    b"\xc0\xaf",  # longer than needs be
    b"\xf4\x90\x80\x80",  # above U+10FFFF
    b"\xed\xa0\x80",  # a surrogate
    b"\xff",
    "ok €".encode()[:-1],  # cut short
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",  # Autobahn's 6.3.1
]


@pytest.mark.parametrize("payload", NOT_UTF_8)
def test_text_that_is_not_utf_8_ends_the_session(payload: bytes) -> None:
    session = Session()
    assert session.receive(frame(TEXT, payload)) == []
    assert closed_with(session) == 1007
    assert session.ended


@pytest.mark.parametrize("payload", NOT_UTF_8)
def test_text_that_is_not_utf_8_across_fragments_ends_the_session(payload: bytes) -> None:
    for at in range(len(payload) + 1):
        session = after(frame(TEXT, payload[:at], first=0), frame(CONT, payload[at:]))
        assert closed_with(session) == 1007


def test_bad_text_ends_the_session_before_its_message_is_whole() -> None:
    assert closed_with(after(frame(TEXT, b"\xce\xba\xff", first=0))) == 1007


def test_characters_may_be_split_across_fragments() -> None:
    session = Session()
    assert session.receive(frame(TEXT, EURO[:1], first=0)) == []
    assert session.receive(frame(CONT, EURO[1:2], first=0)) == []
    assert session.receive(frame(CONT, EURO[2:] + "\U0010ffff\0".encode())) == ["€\U0010ffff\0"]


def test_binary_messages_need_not_be_utf_8() -> None:
    session = Session()
    session.receive(frame(BINARY, b"\xff", first=0))
    assert session.receive(frame(CONT, b"\xfe")) == [b"\xff\xfe"]


@given(st.text(max_size=200), SPLIT_ANYWHERE)
def test_any_text_in_any_fragments_arrives_as_it_was(text: str, lengths: list[int]) -> None:
    session, payload = Session(), text.encode()
    *some, last = pieces(payload, lengths) or [b""]
    for number, part in enumerate(some):
        assert session.receive(frame(CONT if number else TEXT, part, first=0)) == []
    assert session.receive(frame(CONT if some else TEXT, last)) == [text]


@given(st.binary(max_size=200), SPLIT_ANYWHERE)
def test_text_arrives_or_ends_the_session_as_it_is_utf_8_or_not(
    payload: bytes, lengths: list[int]
) -> None:
    session, received = Session(), []
    *some, last = pieces(payload, lengths) or [b""]
    for number, part in enumerate(some):
        received += session.receive(frame(CONT if number else TEXT, part, first=0))
    received += session.receive(frame(CONT if some else TEXT, last))
    try:
        assert received == [payload.decode()]
    except UnicodeDecodeError:
        assert received == []
        assert closed_with(session) == 1007


# --- 9 Limits ------------------------------------------------------------------------------------


def test_a_message_that_is_too_large_ends_the_session_before_it_was_received() -> None:
    session = Session()
    session.receive(frame(TEXT, b"x" * (MAX_MESSAGE_BYTES + 1))[:8])
    assert closed_with(session) == 1009
    assert session.ended


def test_fragments_that_are_too_large_together_end_the_session() -> None:
    session = Session()
    part = b"x" * (MAX_MESSAGE_BYTES // 4)
    session.receive(frame(TEXT, part, first=0))
    for _ in range(3):
        session.receive(frame(CONT, part, first=0))
    assert session.open
    assert session.receive(frame(CONT, b"x")) == []
    assert closed_with(session) == 1009


def test_a_frame_that_says_it_is_enormous_ends_the_session_at_once() -> None:
    session = after(struct.pack("!BBQ", FIN | BINARY, 0x80 | 127, 2**63 - 1))
    assert closed_with(session) == 1009


# --- 7 Closing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
)
def test_a_close_is_answered_with_its_code(code: int) -> None:
    session = after(close(code, "wie gewünscht".encode()))
    assert session.ended
    assert not session.open
    assert closed_with(session) == code


def test_a_close_without_a_code_is_answered_without_one() -> None:
    session = after(frame(CLOSE))
    assert frames_in(session.to_send()) == [(CLOSE, b"")]
    assert session.ended


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535]
)
def test_a_code_that_may_not_be_sent_is_an_error(code: int) -> None:
    assert closed_with(after(close(code))) == 1002


def test_a_close_with_half_a_code_is_an_error() -> None:
    assert closed_with(after(frame(CLOSE, b"\x03"))) == 1002


def test_a_reason_that_is_not_utf_8_is_an_error() -> None:
    assert closed_with(after(close(1000, b"\xce\xba\xff"))) in (1002, 1007)


def test_a_reason_of_123_bytes_is_answered() -> None:
    assert closed_with(after(close(1000, b"r" * 123))) == 1000


def test_who_is_given_up_is_told_so_and_not_heard_any_more() -> None:
    session = Session()
    session.fail(GOING_AWAY, "enough")
    assert session.ended
    assert session.receive(frame(PING, b"x") + frame(TEXT, b"y") + close(1000)) == []
    assert frames_in(session.to_send()) == [(CLOSE, b"\x03\xe9enough")]
    session.fail(GOING_AWAY, "again")
    assert not session.to_send()


def test_what_comes_after_a_close_is_not_looked_at() -> None:
    session = after(close(1000))
    session.to_send()
    assert session.receive(frame(TEXT, b"late") + frame(PING) + b"\xff" * 100) == []
    assert session.to_send() == b""


def test_what_comes_after_an_error_is_not_looked_at() -> None:
    session = after(frame(TEXT, b"\xff"))
    assert closed_with(session) == 1007
    assert session.receive(frame(TEXT, b"late") + close(1000)) == []
    assert session.to_send() == b""


def test_the_server_closes_and_ends_when_that_was_answered() -> None:
    session = Session()
    session.close(GOING_AWAY, "the service stops")
    assert not session.open
    assert frames_in(session.to_send()) == [(CLOSE, b"\x03\xe9the service stops")]
    assert not session.ended
    assert session.receive(frame(TEXT, b"on its way")) == ["on its way"]
    session.receive(close(GOING_AWAY))
    assert session.ended
    assert session.to_send() == b""


def test_closing_twice_says_it_once() -> None:
    session = Session()
    session.close(GOING_AWAY, "")
    session.close(1011, "again")
    assert closed_with(session) == GOING_AWAY


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_no_bytes_whatever_raise_or_leave_anything_but_frames(sent: list[bytes]) -> None:
    session = after(*sent)
    frames_in(session.to_send())
    assert session.open or session.ended
