"""Framing: the right answer or none, whatever a peer sends and whenever.

What a late reply may do is proven twice: on a wire of which time and bytes are arguments, for
thousands of random courses of events, and against scripted peers on real sockets.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.clock import Clock
from edge.communication import ModbusEndpoint, ReadRequest
from edge.drivers import modbus
from edge.drivers.modbus import ModbusDriver, framing
from edge.errors import BadReply, Cause, MeterError, NoReply, Refused
from edge.simulate.wire import Request, crc16, pack_rtu, pack_tcp, split_rtu, split_tcp
from tests.modbus_peer import (
    PATIENT_S,
    TIMEOUT_S,
    TRANSPORTS,
    Peer,
    answer_pdu,
    assert_one_sentence,
    on_every_transport,
    opened,
    read,
    sound_peer,
    words_at,
)

# --- What is wrong with an answer -----------------------------------------------------------------


def spoilt(peer: Peer, request: Request, fault: str) -> list[tuple[float, bytes | None]]:
    """What a peer with a fault sends instead of the right answer."""
    good = peer.good(request)
    pdu = answer_pdu(request.pdu)
    rng = random.Random(4)
    replies: dict[str, list[tuple[float, bytes | None]]] = {
        "silence": [],
        "hang up": [(0, None)],
        "garbage": [(0, rng.randbytes(40))],
        "half": [(0, good[: len(good) // 2])],
        "half, then hang up": [(0, good[: len(good) // 2]), (0.005, None)],
        "one byte": [(0, good[:1])],
        "other unit": [(0, peer.pack(request._replace(unit_id=9), pdu))],
        "other function": [(0, peer.pack(request, bytes((pdu[0] ^ 7,)) + pdu[1:]))],
        "unknown function": [(0, peer.pack(request, bytes((77,)) + pdu[1:]))],
        "one word more": [(0, peer.pack(request, struct.pack(">BB3H", 3, 6, 1, 2, 3)))],
        "one word less": [(0, peer.pack(request, struct.pack(">BBH", 3, 2, 1)))],
        "byte count lies": [(0, peer.pack(request, pdu[:1] + bytes((6,)) + pdu[2:]))],
        "other id": [(0, peer.pack(request._replace(transaction_id=999), pdu))],
        "other protocol id": [(0, good[:2] + b"\0\1" + good[4:])],
        "huge length": [(0, good[:4] + b"\xff\xff" + good[6:])],
        "no length": [(0, good[:4] + b"\0\0" + good[6:])],
        "bad checksum": [(0, good[:-1] + bytes((good[-1] ^ 1,)))],
        "checksum bytes swapped": [(0, good[:-2] + good[:-3:-1])],
        "echo": [(0, bytes((request.unit_id,)) + request.pdu + crc16(good[:6]))],
    }
    return replies[fault]


SILENT = r"got no answer within 60 ms; check unitId"

HUNG_UP = r"closed the connection on port \d+ instead of answering; check unitId"

NOT_RTU = r"got \d+ bytes that are not its answer; check baudrate"

NO_MATCH = r"got an answer that does not match; .* check unitId and the gateway"

NOT_TCP = r"got bytes that are not Modbus TCP; check host, port and transport"

HALF = r"got half an answer; check the network"

TCP_FAULTS = {
    "silence": (NoReply, SILENT),
    "hang up": (NoReply, HUNG_UP),
    "garbage": (BadReply, NOT_TCP),
    "half": (BadReply, HALF),
    "half, then hang up": (NoReply, HUNG_UP),
    "one byte": (BadReply, HALF),
    "other unit": (BadReply, NO_MATCH),
    "other function": (BadReply, NO_MATCH),
    "unknown function": (BadReply, NO_MATCH),
    "one word more": (BadReply, NO_MATCH),
    "one word less": (BadReply, NO_MATCH),
    "byte count lies": (BadReply, NO_MATCH),
    "other id": (BadReply, NO_MATCH),
    "other protocol id": (BadReply, NOT_TCP),
    "huge length": (BadReply, NOT_TCP),
    "no length": (BadReply, NOT_TCP),
}

RTU_FAULTS = {
    "silence": (NoReply, SILENT),
    "garbage": (BadReply, NOT_RTU),
    "half": (BadReply, NOT_RTU),
    "one byte": (BadReply, NOT_RTU),
    "other unit": (BadReply, NOT_RTU),
    "other function": (BadReply, NOT_RTU),
    "unknown function": (BadReply, NOT_RTU),
    "one word more": (BadReply, NOT_RTU),
    "one word less": (BadReply, NOT_RTU),
    "byte count lies": (BadReply, NOT_RTU),
    "bad checksum": (BadReply, NOT_RTU),
    "checksum bytes swapped": (BadReply, NOT_RTU),
    "echo": (BadReply, NOT_RTU),
}

FAULTS = [
    *(("tcp", fault) for fault in TCP_FAULTS),
    *(("rtu", fault) for fault in RTU_FAULTS),
    *(("rtu-over-tcp", fault) for fault in (*RTU_FAULTS, "hang up", "half, then hang up")),
]


@pytest.mark.parametrize(("transport", "fault"), FAULTS)
def test_a_bad_answer_is_named_in_time_and_the_next_one_is_right(
    transport: str, fault: str
) -> None:
    expected = (TCP_FAULTS if transport == "tcp" else RTU_FAULTS).get(fault, (NoReply, HUNG_UP))
    with sound_peer(transport) as peer, opened(peer.endpoint) as driver:
        sound = peer.script
        asked = ReadRequest(1, 3, 5, 2)
        peer.script = lambda request: spoilt(peer, request, fault)
        started_s = time.monotonic()
        with pytest.raises(expected[0], match=expected[1]) as caught:
            read(driver, asked, TIMEOUT_S)
        assert time.monotonic() - started_s < TIMEOUT_S + 0.3
        assert_one_sentence(str(caught.value))
        lost = expected[1] == HUNG_UP
        assert caught.value.cause is (Cause.CONNECTION_LOST if lost else expected[0].cause)
        peer.script = sound
        assert read(driver, asked) == words_at(5, 2)
        assert read(driver, ReadRequest(1, 3, 50, 3)) == words_at(50, 3)


@on_every_transport
def test_an_answer_in_many_pieces_is_put_together(transport: str) -> None:
    def crumbs(request: Request) -> list[tuple[float, bytes]]:
        good = peer.good(request)
        return [(n * 0.0005, good[n : n + 5]) for n in range(0, len(good), 5)]

    with Peer(transport, crumbs) as peer, opened(peer.endpoint) as driver:
        assert read(driver, ReadRequest(1, 3, 5, 125)) == words_at(5, 125)


@pytest.mark.parametrize("transport", ["rtu", "rtu-over-tcp"])
@pytest.mark.parametrize("noise", [b"\0", b"\xff" * 30, b"\1\3\4", b"\1\3\4\1\3\4\1\3\4\1\3\4"])
def test_noise_before_an_rtu_answer_is_passed_over(transport: str, noise: bytes) -> None:
    with sound_peer(transport) as peer, opened(peer.endpoint) as driver:
        peer.script = lambda request: [(0, noise + peer.good(request))]
        assert read(driver, ReadRequest(1, 3, 5, 2)) == words_at(5, 2)
        peer.script = lambda request: [(0, noise), (0.01, peer.good(request))]
        assert read(driver, ReadRequest(1, 3, 9, 2)) == words_at(9, 2)


@on_every_transport
def test_a_second_copy_of_an_answer_is_never_the_answer_to_the_next_request(
    transport: str,
) -> None:
    with sound_peer(transport) as peer, opened(peer.endpoint) as driver:
        peer.script = lambda request: [(0, peer.good(request) * 3)]
        for address in range(20):
            assert read(driver, ReadRequest(1, 3, address, 2)) == words_at(address, 2)


@pytest.mark.parametrize("transport", ["tcp", "rtu-over-tcp"])
def test_a_firehose_does_not_hold_the_line(transport: str) -> None:
    """A peer that sends faster than we read, so that there is always something to read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pour() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(100)
                while True:
                    connection.sendall(b"\x55" * 65536)

        thread = threading.Thread(target=pour, daemon=True)
        thread.start()
        endpoint = ModbusEndpoint(transport, host="127.0.0.1", port=listener.getsockname()[1])
        with opened(endpoint) as driver:
            started_s = time.monotonic()
            with pytest.raises(BadReply):
                read(driver, ReadRequest(1, 3, 5, 2), TIMEOUT_S)
            assert time.monotonic() - started_s < TIMEOUT_S + 0.5
        thread.join()


# --- Late replies, on real sockets ----------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("retries", [0, 2])
def test_a_late_reply_is_never_the_answer_to_another_request(transport: str, retries: int) -> None:
    """The dangerous case: same unit, function and count, other address."""
    timeout_s = 0.1
    rng = random.Random(transport)
    late = 0

    def script(request: Request) -> list[tuple[float, bytes]]:
        nonlocal late
        # Well within twice the time-out, for a busy machine adds to it; on TCP as late as it likes.
        delays_s = [0.0, 0.0, 1.25 * timeout_s, 5 * timeout_s]
        delay_s = rng.choice(delays_s if transport == "tcp" else delays_s[:3])
        late += delay_s > timeout_s
        return [(delay_s, peer.good(request) * rng.choice((1, 1, 2)))]

    right = 0
    with Peer(transport, script) as peer, opened(peer.endpoint) as driver:
        for _ in range(30):
            asked = ReadRequest(1, 3, rng.choice((10, 20, 30)), 2)
            for _ in range(1 + retries):
                try:
                    words = read(driver, asked, timeout_s)
                except (NoReply, BadReply):
                    continue
                assert words == words_at(asked.address, 2)
                right += 1
                break
    assert right >= 10
    assert late >= 5


# --- Any course of events, on a wire whose time and bytes are arguments ---------------------------


@dataclass
class FakeWire:
    """A wire without a peer: what comes when is put into `coming`."""

    quiet_s = 0.01
    now_s: float = 100.0
    is_open: bool = True
    coming: list[tuple[float, bytes]] = field(default_factory=list)
    on_send: Callable[[bytes], None] = lambda _frame: None
    closes: bool = False
    """Whether it is a connection, which is closed when it is distrusted."""
    cut: bool = False
    """The peer closes the connection before the next byte."""
    stopped_s: float = 0.0
    """For how long the process is stopped when it has waited next, before it reads."""

    def monotonic(self) -> float:
        return self.now_s

    def open(self, timeout_s: float) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def distrust(self) -> None:
        if self.closes:
            self.close()

    def send(self, frame: bytes) -> None:
        assert self.is_open
        self.on_send(frame)

    def receive(self, timeout_s: float) -> bytes:
        assert self.is_open
        if self.cut:
            self.cut = self.is_open = False
            raise NoReply("The peer closed the connection.")
        until_s = self.now_s + max(0.0, timeout_s)
        stopped_s, self.stopped_s = self.stopped_s, 0.0
        self.coming.sort(key=lambda item: item[0])
        if not self.coming or self.coming[0][0] > until_s:
            self.now_s = until_s + stopped_s
            return b""
        due_s, _ = self.coming[0]
        self.now_s = max(self.now_s, due_s) + stopped_s
        chunk = b"".join(data for due_s, data in self.coming if due_s <= self.now_s)
        self.coming = [item for item in self.coming if item[0] > self.now_s]
        return chunk


@contextlib.contextmanager
def fake_driver(transport: str, wire: FakeWire) -> Iterator[ModbusDriver]:
    """A driver on a wire and a clock of the test's own."""
    endpoint = ModbusEndpoint("tcp" if transport == "tcp" else "rtu-over-tcp", host="x", port=1)
    with (
        mock.patch.object(modbus, "TcpWire", return_value=wire),
        mock.patch.object(framing, "time", SimpleNamespace(monotonic=wire.monotonic)),
    ):
        yield ModbusDriver(endpoint, Clock())


LONGEST_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Step:
    """A request, and what becomes of it.

    delay: of its reply, in time-outs; None is lost. cut: the connection is lost meanwhile.
    stopped_s: for how long this process is stopped meanwhile.
    """

    request: ReadRequest
    timeout_s: float
    pause_s: float
    delay: float | None
    refused: bool
    cut: bool
    stopped_s: float = 0.0


def steps(longest_delay: float) -> st.SearchStrategy[list[Step]]:
    """A late reply is late by up to longest_delay time-outs after its request; or it is lost."""
    requests = st.builds(
        ReadRequest,
        st.sampled_from((1, 1, 1, 2)),
        st.sampled_from((3, 3, 3, 4)),
        st.sampled_from((16, 32, 48)),
        st.sampled_from((2, 2, 2, 3)),
    )
    one_delay = st.one_of(st.just(0.01), st.floats(0.0, longest_delay))
    step = st.builds(
        Step,
        requests,
        st.sampled_from((LONGEST_TIMEOUT_S, LONGEST_TIMEOUT_S, 0.5)),
        st.sampled_from((0.0, 0.0, 0.3, 1.1)),
        st.one_of(st.none(), one_delay),
        st.booleans(),
        st.sampled_from((False, False, False, True)),
        st.sampled_from((0.0, 0.0, 0.0, 0.2, 30.0)),
    )
    return st.lists(step, min_size=2, max_size=8)


def run_course(transport: str, course: list[Step], *, twice: bool = False) -> None:
    """Ask one request after the other; every answer must be its own, and come in time."""
    wire = FakeWire(closes=transport != "rtu")
    split = split_tcp if transport == "tcp" else split_rtu
    pack = pack_tcp if transport == "tcp" else pack_rtu
    with fake_driver(transport, wire) as driver:
        for step in course:
            sent_s = 0.0

            def on_send(frame: bytes, step: Step = step) -> None:
                nonlocal sent_s
                sent_s = wire.now_s
                wire.stopped_s = step.stopped_s
                (request,) = split(bytearray(frame))
                pdu = answer_pdu(request.pdu)
                if step.refused:
                    pdu = bytes((request.pdu[0] | 0x80, refusal_code(step.request)))
                reply = pack(request, pdu)
                if step.delay is not None:
                    due_s = wire.now_s + step.delay * step.timeout_s
                    wire.coming.append((due_s, reply))
                    if twice:
                        wire.coming.append((due_s + 0.5 * wire.quiet_s, reply))
                wire.cut = step.cut and wire.closes

            wire.on_send = on_send
            wire.now_s += step.pause_s
            started_s = wire.now_s
            outcome = outcome_of(driver, step)
            # The late answer to the same question, asked before, is right as well.
            right = words_at(step.request.address, step.request.count)
            assert outcome in (None, right, refusal_code(step.request))
            # What lay unread while the process was stopped is not as good as new.
            assert outcome is None or wire.now_s - sent_s <= step.timeout_s + 0.051
            # The documented bound: half a second for quiet, two time-outs of an earlier request.
            longest_s = 0.5 + 2 * LONGEST_TIMEOUT_S + step.timeout_s
            assert wire.now_s - started_s <= longest_s + step.stopped_s
            wire.stopped_s = 0.0


def refusal_code(request: ReadRequest) -> int:
    """A code that tells the address and the count that were refused."""
    return request.address + request.count


def outcome_of(driver: ModbusDriver, step: Step) -> list[int] | int | None:
    """The words, the code of a refusal, or None when there is no answer to be trusted."""
    try:
        return read(driver, step.request, step.timeout_s)
    except Refused as exc:
        return exc.code
    except (NoReply, BadReply):
        return None


A, B = ReadRequest(1, 3, 16, 2), ReadRequest(1, 3, 48, 2)

SECOND_COPY_WHILE_IDLE = [
    Step(A, 1.0, 0.0, None, refused=False, cut=False),
    Step(B, 1.0, 0.0, 0.01, refused=False, cut=True),
    Step(B, 1.0, 0.0, 1.5, refused=False, cut=False),
    Step(A, 1.0, 1.1, None, refused=False, cut=False),
]
"""A second copy of what was owed, which must not be counted as the other one that is owed."""

SHORTER_TIMEOUT = [
    Step(A, 1.0, 0.0, 1.9, refused=False, cut=True),
    Step(A, 0.5, 0.0, 0.01, refused=False, cut=False),
    Step(B, 1.0, 0.0, None, refused=False, cut=False),
]
"""The repetition of a question is overdue before the question itself."""


@settings(max_examples=300, deadline=None)
@given(steps(longest_delay=1.999), st.booleans())
@example(SECOND_COPY_WHILE_IDLE, True)
@example(SHORTER_TIMEOUT, False)
def test_rtu_never_takes_a_reply_for_another_ones(course: list[Step], twice: bool) -> None:
    """Replies, refusals and doubles of them, up to twice the time-out after their request."""
    run_course("rtu", course, twice=twice)
    run_course("rtu-over-tcp", course, twice=twice)


@settings(max_examples=150, deadline=None)
@given(steps(longest_delay=50.0), st.booleans())
def test_modbus_tcp_never_takes_a_reply_for_another_ones(course: list[Step], twice: bool) -> None:
    """However late, in whatever order, and even where late ones reach the next connection."""
    run_course("tcp", course, twice=twice)


@on_every_transport
@pytest.mark.parametrize(
    ("stopped_s", "is_read"), [(30.0, False), (1.1, False), (1.02, True), (0.0, True)]
)
def test_an_answer_that_lay_unread_past_the_deadline_is_none(
    transport: str, stopped_s: float, is_read: bool
) -> None:
    wire = FakeWire(closes=transport != "rtu")
    split = split_tcp if transport == "tcp" else split_rtu
    pack = pack_tcp if transport == "tcp" else pack_rtu
    asked = ReadRequest(1, 3, 5, 2)

    def on_send(frame: bytes) -> None:
        (request,) = split(bytearray(frame))
        wire.stopped_s = stopped_s
        wire.coming.append((wire.now_s + 0.01, pack(request, answer_pdu(request.pdu))))

    wire.on_send = on_send
    with fake_driver(transport, wire) as driver:
        if is_read:
            assert read(driver, asked, 1.0) == words_at(5, 2)
        else:
            with pytest.raises(NoReply, match="got no answer within 1000 ms"):
                read(driver, asked, 1.0)
            assert driver.connected is not wire.closes
        stopped_s = 0.0
        assert read(driver, asked, 1.0) == words_at(5, 2)


def test_a_reply_that_was_read_too_late_is_still_owed_on_rtu() -> None:
    """A gateway may have sent another one: what was read proves nothing about what comes."""
    wire = FakeWire()
    sent_s: list[float] = []
    request = Request(0, 1, struct.pack(">BHH", 3, 16, 2))
    reply = pack_rtu(request, answer_pdu(request.pdu))

    def on_send(_frame: bytes) -> None:
        sent_s.append(wire.now_s)
        if len(sent_s) == 1:
            wire.stopped_s = 1.2
            wire.coming += [(100.1, reply), (101.5, reply)]

    wire.on_send = on_send
    with fake_driver("rtu", wire) as driver:
        for address in (16, 32):
            with pytest.raises(NoReply):
                driver.read(ReadRequest(1, 3, address, 2), 1.0)
    assert sent_s == pytest.approx([100.0, 101.51])


def test_what_can_be_told_apart_on_rtu_does_not_wait_for_what_is_owed() -> None:
    for second in (
        ReadRequest(2, 3, 32, 2), ReadRequest(1, 4, 32, 2), ReadRequest(1, 3, 32, 3),
        ReadRequest(1, 3, 16, 2),
    ):  # fmt: skip
        wire = FakeWire()
        with fake_driver("rtu", wire) as driver:
            with pytest.raises(NoReply):
                driver.read(ReadRequest(1, 3, 16, 2), 1.0)
            with pytest.raises(NoReply):
                driver.read(second, 1.0)
        assert wire.now_s == pytest.approx(102.0)


def test_what_cannot_be_told_apart_waits_until_the_owed_reply_is_here_or_overdue() -> None:
    for comes_s, asked_s in ((101.4, 101.41), (None, 102.0)):
        wire = FakeWire()
        request = Request(0, 1, struct.pack(">BHH", 3, 16, 2))
        if comes_s is not None:
            wire.coming.append((comes_s, pack_rtu(request, answer_pdu(request.pdu))))
        sent_s: list[float] = []
        wire.on_send = lambda _frame, wire=wire, sent_s=sent_s: sent_s.append(wire.now_s)  # type: ignore[misc]
        with fake_driver("rtu", wire) as driver:
            for address in (16, 32):
                with pytest.raises(NoReply):
                    driver.read(ReadRequest(1, 3, address, 2), 1.0)
        assert sent_s == pytest.approx([100.0, asked_s])


def test_an_endless_noise_is_told_in_time() -> None:
    wire = FakeWire(closes=True)
    wire.on_send = lambda _frame: wire.coming.extend(
        (wire.now_s + n * 0.5 * wire.quiet_s, b"\x55" * 64) for n in range(1000)
    )
    with fake_driver("rtu-over-tcp", wire) as driver:
        started_s = wire.now_s
        with pytest.raises(BadReply, match=NOT_RTU) as caught:
            driver.read(ReadRequest(1, 3, 5, 2), 1.0)
        assert re.search(r"got 128\d\d bytes", str(caught.value))
        assert wire.now_s - started_s <= 1.1
        assert not driver.connected
        driver.open(PATIENT_S)
        started_s = wire.now_s
        with pytest.raises(BadReply, match="The line is never quiet") as caught:
            driver.read(ReadRequest(1, 3, 5, 2), 1.0)
        assert wire.now_s - started_s <= 0.6
        assert not driver.connected
        assert_one_sentence(str(caught.value))


def test_a_flood_of_noise_is_given_up_early_and_what_is_owed_stays_owed() -> None:
    wire = FakeWire()
    sent_s: list[float] = []
    request = Request(0, 1, struct.pack(">BHH", 3, 16, 2))
    reply = pack_rtu(request, answer_pdu(request.pdu))

    def on_send(_frame: bytes) -> None:
        sent_s.append(wire.now_s)
        if len(sent_s) == 1:
            wire.coming += [(wire.now_s + n * 0.001, b"\x55" * 4096) for n in range(1, 6)]
            wire.coming += [(101.1 + n * 0.001, b"\x55" * 4096) for n in range(1, 6)]
            wire.coming.append((101.5, reply))

    wire.on_send = on_send
    with fake_driver("rtu", wire) as driver:
        with pytest.raises(BadReply, match="got 20480 bytes that are not its answer"):
            driver.read(ReadRequest(1, 3, 16, 2), 1.0)
        assert wire.now_s == pytest.approx(100.005)
        with pytest.raises(BadReply, match="got 20480 bytes that are not its answer"):
            driver.read(ReadRequest(1, 3, 32, 2), 1.0)
        assert wire.now_s == pytest.approx(101.105)
        with pytest.raises(NoReply):
            driver.read(ReadRequest(1, 3, 32, 2), 1.0)
    assert sent_s == pytest.approx([100.0, 101.51])


def test_a_reply_is_owed_also_when_the_connection_was_lost_meanwhile() -> None:
    """A transparent serial server that closes, and passes the reply on to the next connection."""
    timeout_s = 0.2
    with sound_peer("rtu-over-tcp") as peer, opened(peer.endpoint) as driver:
        sound = peer.script
        peer.script = lambda request: [(0, None), (1.2 * timeout_s, peer.good(request))]
        with pytest.raises(NoReply, match=HUNG_UP):
            read(driver, ReadRequest(1, 3, 10, 2), timeout_s)
        peer.script = lambda request: [(0.25, peer.good(request))]
        assert read(driver, ReadRequest(1, 3, 20, 2)) == words_at(20, 2)
        peer.script = sound


def test_the_transaction_id_wraps_and_is_never_used_twice_in_a_row() -> None:
    wire = FakeWire()
    ids: list[int] = []

    def on_send(frame: bytes) -> None:
        (request,) = split_tcp(bytearray(frame))
        ids.append(request.transaction_id)
        wire.coming.append((wire.now_s, pack_tcp(request, answer_pdu(request.pdu))))

    wire.on_send = on_send
    with fake_driver("tcp", wire) as driver:
        for _ in range(0x10000 + 5):
            driver.read(ReadRequest(1, 3, 1, 1), 1.0)
    assert len(set(ids[:0xFFFF])) == 0xFFFF
    assert ids[0xFFFF:] == ids[:6]


# --- Any bytes ------------------------------------------------------------------------------------


def mutations(transport: str) -> st.SearchStrategy[bytes]:
    """Bytes that may come: any, or a right answer with a few bytes changed, cut or added."""
    request = Request(1, 1, struct.pack(">BHH", 3, 5, 2))
    good = (pack_tcp if transport == "tcp" else pack_rtu)(request, answer_pdu(request.pdu))

    def mutate(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(good)
        for at_byte, cut, put in edits:
            data[at_byte : at_byte + cut] = put
        return bytes(data)

    edit = st.tuples(st.integers(0, len(good)), st.integers(0, 3), st.binary(max_size=3))
    return st.one_of(st.binary(max_size=600), st.lists(edit, max_size=3).map(mutate))


@on_every_transport
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_comes_is_the_answer_or_one_of_our_errors(
    transport: str, data: st.DataObject
) -> None:
    chunks = st.lists(mutations(transport), max_size=4)
    before, after = data.draw(chunks), data.draw(chunks)
    wire = FakeWire(closes=transport != "rtu")
    wire.coming += [(wire.now_s, chunk) for chunk in before]
    wire.on_send = lambda _frame: wire.coming.extend(
        (wire.now_s + n * 0.3, chunk) for n, chunk in enumerate(after)
    )
    with fake_driver(transport, wire) as driver:
        try:
            words = driver.read(ReadRequest(1, 3, 5, 2), 1.0)
        except (NoReply, BadReply, Refused) as exc:
            assert_one_sentence(str(exc))
        else:
            assert len(words) == 2
            assert all(0 <= word <= 0xFFFF for word in words)


@on_every_transport
def test_random_bytes_on_a_real_wire_never_leave_our_errors(transport: str) -> None:
    rng = random.Random(7)
    with sound_peer(transport) as peer, opened(peer.endpoint) as driver:
        peer.script = lambda _request: [(0, rng.randbytes(rng.choice((1, 7, 40, 300))))]
        for _ in range(20):
            with pytest.raises(MeterError):
                read(driver, ReadRequest(1, 3, 5, 2), 0.02)
        peer.script = lambda request: [(0, peer.good(request))]
        assert read(driver, ReadRequest(1, 3, 5, 2)) == words_at(5, 2)
