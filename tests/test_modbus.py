"""The Modbus driver: right values from real peers, and no wrong one from bad ones.

What a late reply may do is proven twice: on a wire of which time and bytes are arguments, for
thousands of random courses of events, and against scripted peers on real sockets.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import pty
import random
import re
import resource
import select
import socket
import stat
import struct
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.clock import Clock
from edge.drivers import DRIVERS, Driver, make_driver, modbus
from edge.errors import BadReply, DlmError, LineError, MeterError, NoReply, Refused
from edge.line import LinePlan, LineWorker
from edge.meterspec import parse_meter
from edge.model import Endpoint, Meter, PollResult, ReadRequest
from edge.schedule import Read
from edge.simulate import Fault, FaultKind, Simulator
from edge.simulate.wire import Request, crc16, pack_rtu, pack_tcp, split_rtu, split_tcp
from tests.peers import LibmodbusServer, free_port, pty_pair, wait_until

B23 = {
    "name": "ABB B23 Main Meter",
    "location": "main-building",
    "protocol": "modbus",
    "meterType": "grid",
    "pollInterval": 5000,
    "communication": {
        "host": "192.168.1.150",
        "port": 502,
        "unitId": 1,
        "registers": {
            "power": 20480,
            "energy": 20482,
            "energyHigh": 20483,
            "voltage": 20484,
            "current": 20486,
            "powerFactor": 20488,
            "frequency": 20490,
            "powerScale": 1,
            "energyScale": 0.001,
            "voltageScale": 0.1,
            "currentScale": 0.001,
            "powerFactorScale": 0.001,
            "frequencyScale": 0.01,
        },
    },
}
B23_WORDS = {
    20480: 29, 20482: 0x4C7D, 20483: 0x00EB, 20484: 2301, 20486: 61850, 20488: 950, 20490: 5002,
}  # fmt: skip
B23_VALUES = {
    "power": 29.0, "energy": 15420.541, "voltage": 230.1, "current": 61.85, "powerFactor": 0.95,
    "frequency": 50.02,
}  # fmt: skip

SCHNEIDER = {
    "name": "Schneider iEM3000",
    "location": "main-building",
    "protocol": "modbus",
    "meterType": "grid",
    "pollInterval": 5000,
    "communication": {
        "host": "192.168.1.151",
        "port": 502,
        "unitId": 1,
        "registers": {
            "power": 3059,
            "energy": 45056,
            "voltage": 3027,
            "current": 3000,
            "powerFactor": 3078,
            "powerScale": 1,
            "energyScale": 1,
            "voltageScale": 0.1,
            "currentScale": 0.001,
            "powerFactorScale": 0.001,
        },
    },
}
SCHNEIDER_WORDS = {3059: 31, 45056: 61234, 3027: 2298, 3000: 45120, 3078: 987}
SCHNEIDER_VALUES = {
    "power": 31.0, "energy": 61234.0, "voltage": 229.8, "current": 45.12, "powerFactor": 0.987,
}  # fmt: skip

GUIDE = [
    pytest.param(B23, B23_WORDS, B23_VALUES, id="B23"),
    pytest.param(SCHNEIDER, SCHNEIDER_WORDS, SCHNEIDER_VALUES, id="Schneider"),
]

TIMEOUT_S = 0.06
"""For peers on loopback that do not answer; what is expected to answer gets PATIENT_S."""
PATIENT_S = 2.0


# --- Help ----------------------------------------------------------------------------------------


def at(document: dict[str, Any], **communication: Any) -> Meter:
    """The meter of a registration, found elsewhere; None leaves a key out."""
    merged = {**document["communication"], **communication}
    kept = {key: value for key, value in merged.items() if value is not None}
    return parse_meter({**document, "communication": kept}, "meter_1", 0)


class Line:
    """A line's worker, polled by hand on the test's own thread."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        endpoint = meter.communication.endpoint
        self.driver = make_driver(meter.protocol, endpoint)
        self.worker = LineWorker(endpoint.name, self.driver, lambda _result: None, Clock())

    def poll(self, meter: Meter | None = None, *, trial: bool = False) -> PollResult:
        meter = meter or self.meter
        return self.worker.poll(Read(meter, trial), LinePlan(frozenset({meter}), 500.0))

    def poll_until_ok(self) -> PollResult:
        results: list[PollResult] = []

        def is_ok() -> bool:
            results.append(self.poll())
            return results[-1].result == "ok"

        wait_until(is_ok, what="a poll that reads everything")
        return results[-1]


@contextlib.contextmanager
def line_of(meter: Meter) -> Iterator[Line]:
    line = Line(meter)
    try:
        yield line
    finally:
        line.driver.close()


@contextlib.contextmanager
def opened(endpoint: Endpoint) -> Iterator[Driver]:
    driver = make_driver("modbus", endpoint)
    driver.open(PATIENT_S)
    try:
        yield driver
    finally:
        driver.close()


def read(driver: Driver, request: ReadRequest, timeout_s: float = PATIENT_S) -> list[int]:
    """Read as the line's worker does: on an open wire."""
    if not driver.connected:
        driver.open(PATIENT_S)
    return list(driver.read(request, timeout_s))


def words_at(address: int, count: int) -> list[int]:
    """Words that tell which address they were asked for."""
    return [(address * 7 + n * 4096) & 0xFFFF for n in range(count)]


def answer_pdu(pdu: bytes) -> bytes:
    """What a sound meter that holds `words_at` everywhere answers."""
    address, count = struct.unpack(">HH", pdu[1:5])
    return struct.pack(f">BB{count}H", pdu[0], 2 * count, *words_at(address, count))


Script = Callable[[Request], Sequence[tuple[float, bytes | None]]]
"""What a peer does on a request: after so many seconds, so many bytes; None is hanging up."""


class Peer:
    """A scripted peer: a listening port, or a serial device with `path`; a context manager.

    What it sends late goes to whoever is connected then, as a transparent serial server does.
    """

    def __init__(self, transport: str, script: Script, *, host: str = "127.0.0.1") -> None:
        self.script = script
        self.transport = transport
        self.requests: list[Request] = []
        self.accepted = 0
        self._split = split_tcp if transport == "tcp" else split_rtu
        self._sockets: list[socket.socket] = []
        self._files: list[int] = []
        self._buffer = bytearray()
        self._due: list[tuple[float, int, bytes | None]] = []
        self._stop_read, self._stop_write = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._stop_read, select.POLLIN)
        if transport == "rtu":
            master, slave = pty.openpty()
            tty.setraw(slave)
            self._files = [master, slave]
            self.endpoint = Endpoint(
                "rtu", serial_port=os.ttyname(slave), baudrate=115200, parity="N", stopbits=1,
                bytesize=8,
            )  # fmt: skip
            self._poll.register(master, select.POLLIN)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, 0), family=family)
            self._poll.register(self._listener, select.POLLIN)
            port = self._listener.getsockname()[1]
            self.endpoint = Endpoint(transport, host=host, port=port)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def pack(self, request: Request, pdu: bytes) -> bytes:
        return (pack_tcp if self.transport == "tcp" else pack_rtu)(request, pdu)

    def good(self, request: Request) -> bytes:
        return self.pack(request, answer_pdu(request.pdu))

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join()
        self._hang_up()
        if self.transport != "rtu":
            self._listener.close()
        for file in (*self._files, self._stop_read, self._stop_write):
            os.close(file)

    def _run(self) -> None:
        while True:
            wait_ms = None
            if self._due:
                wait_ms = max(0.0, self._due[0][0] - time.monotonic()) * 1000
            for file, _ in self._poll.poll(wait_ms):
                if file == self._stop_read:
                    return
                if self.transport != "rtu" and file == self._listener.fileno():
                    self._accept()
                else:
                    self._receive(file)
            while self._due and self._due[0][0] <= time.monotonic():
                self._send(heapq.heappop(self._due)[2])

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        self._sockets.append(connection)
        self._poll.register(connection, select.POLLIN)

    def _receive(self, file: int) -> None:
        try:
            data = os.read(file, 4096)
        except OSError:
            data = b""
        if not data and self.transport != "rtu":
            (gone,) = (one for one in self._sockets if one.fileno() == file)
            self._poll.unregister(file)
            self._sockets.remove(gone)
            gone.close()
            return
        self._buffer += data
        for request in self._split(self._buffer):
            self.requests.append(request)
            for delay_s, reply in self.script(request):
                order = len(self.requests) * 100 + len(self._due)
                heapq.heappush(self._due, (time.monotonic() + delay_s, order, reply))

    def _send(self, data: bytes | None) -> None:
        if data is None:
            self._hang_up()
        elif self.transport == "rtu":
            os.write(self._files[0], data)
        elif self._sockets:
            with contextlib.suppress(OSError):
                self._sockets[-1].sendall(data)

    def _hang_up(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(KeyError):
                self._poll.unregister(connection)
            connection.close()
        self._sockets.clear()


TRANSPORTS = ("tcp", "rtu", "rtu-over-tcp")

on_every_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@contextlib.contextmanager
def sound_peer(transport: str, **options: Any) -> Iterator[Peer]:
    """A peer that answers every request at once; its script may be replaced."""
    peer = Peer(transport, lambda request: [(0, peer.good(request))], **options)
    with peer:
        yield peer


# --- Right values from peers that the project did not write --------------------------------------


@pytest.mark.parametrize(("document", "words", "values"), GUIDE)
def test_the_guides_examples_read_over_tcp(
    document: dict[str, Any], words: dict[int, int], values: dict[str, float]
) -> None:
    with (
        LibmodbusServer(words) as server,
        line_of(at(document, host=server.host, port=server.port)) as line,
    ):
        result = line.poll()
    assert (result.result, result.error, result.failed) == ("ok", None, False)
    assert result.reading is not None
    assert result.reading.values == values
    assert result.reading.hints == ()


@pytest.mark.parametrize(("document", "words", "values"), GUIDE)
def test_the_guides_examples_read_over_rtu(
    document: dict[str, Any], words: dict[int, int], values: dict[str, float], tmp_path: Path
) -> None:
    with pty_pair(tmp_path) as wire, LibmodbusServer(words, device=wire.left):
        meter = at(document, transport="rtu", serialPort=wire.right, host=None, port=None)
        with line_of(meter) as line:
            result = line.poll()
    assert result.error is None
    assert result.reading is not None
    assert result.reading.values == values


def test_the_guides_b23_is_one_request_a_poll() -> None:
    with Simulator() as simulator:
        endpoint = simulator.add_tcp(record=10)
        endpoint.add_unit(1, strict=False).set_registers(B23_WORDS)
        with line_of(at(B23, host=endpoint.host, port=endpoint.port)) as line:
            for polls in (1, 2, 3):
                result = line.poll()
                assert result.reading is not None
                assert result.reading.values == B23_VALUES
                assert endpoint.requests == polls
        assert {seen.pdu for seen in endpoint.seen} == {struct.pack(">BHH", 3, 20480, 11)}
        assert endpoint.connections_accepted == 1


KINDS = {
    "uint16": (">H", 65000), "int16": (">h", -1234),
    "uint32": (">I", 4_000_000_000), "int32": (">i", -123_456_789),
    "uint64": (">Q", 2**52 + 12345), "int64": (">q", -(2**50) - 77),
    "float32": (">f", -1234.5), "float64": (">d", 15420.300000000001),
}  # fmt: skip


def test_every_type_word_order_and_register_type_reads_right() -> None:
    tables: dict[str, dict[int, int]] = {"holding": {}, "input": {}}
    entries = []
    for offset, table in enumerate(tables):
        for order in ("big", "little"):
            for kind, (form, value) in KINDS.items():
                # The tables differ, so that reading the wrong one shows.
                value = value + offset
                data = struct.pack(form, value)
                words = list(struct.unpack(f">{len(data) // 2}H", data))
                address = 1000 + len(tables[table])
                ordered = words if order == "big" else words[::-1]
                tables[table].update(enumerate(ordered, address))
                entry = {
                    "address": address, "type": kind, "wordOrder": order, "registerType": table,
                }  # fmt: skip
                entries.append((entry, value))
    assert len(entries) == 32
    with LibmodbusServer(tables["holding"], tables["input"]) as server:
        endpoint = {"host": server.host, "port": server.port}
        meters = [at(B23, **endpoint, registers={"energy": entry}) for entry, _ in entries]
        with line_of(meters[0]) as line:
            for meter, (entry, value) in zip(meters, entries, strict=True):
                reading = line.poll(meter).reading
                assert reading is not None, entry
                assert reading.values == {"energy": value}, entry


def test_the_defaults_of_the_meter_hold_for_registers_that_say_nothing() -> None:
    little = struct.unpack(">2H", struct.pack(">f", 49.98))[::-1]
    with LibmodbusServer(inputs=dict(enumerate(little, 70))) as server:
        meter = at(
            B23, host=server.host, port=server.port, registerType="input", wordOrder="little",
            registers={"frequency": {"address": 70, "type": "float32"}},
        )  # fmt: skip
        with line_of(meter) as line:
            reading = line.poll().reading
    assert reading is not None
    assert reading.values == {"frequency": 49.98}


@on_every_transport
def test_the_longest_block_reads(transport: str) -> None:
    with sound_peer(transport) as peer, opened(peer.endpoint) as driver:
        request = ReadRequest(1, 3, 65535 - 124, 125)
        assert read(driver, request) == words_at(request.address, 125)
        assert read(driver, ReadRequest(1, 4, 0, 1)) == words_at(0, 1)


def test_ipv6() -> None:
    with sound_peer("tcp", host="::1") as peer, opened(peer.endpoint) as driver:
        assert read(driver, ReadRequest(1, 3, 5, 2)) == words_at(5, 2)


def test_one_socket_serves_all_units_of_an_endpoint() -> None:
    with sound_peer("tcp") as peer, opened(peer.endpoint) as driver:
        for unit_id in (1, 2, 255, 0):
            assert read(driver, ReadRequest(unit_id, 3, 5, 2)) == words_at(5, 2)
        assert peer.accepted == 1
        assert [request.unit_id for request in peer.requests] == [1, 2, 255, 0]
        assert len({request.transaction_id for request in peer.requests}) == 4


# --- The contract that every driver keeps --------------------------------------------------------


@dataclass
class Rig:
    """A driver with a peer whose answers the test chooses: good, silent, garbage or hang up."""

    driver: Driver
    request: ReadRequest
    behave: Callable[[str], None]


@contextlib.contextmanager
def modbus_rig() -> Iterator[Rig]:
    with sound_peer("tcp") as peer:
        behaviours: dict[str, Script] = {
            "good": peer.script,
            "silent": lambda _request: [],
            "garbage": lambda _request: [(0, b"\xde\xad" * 20)],
            "hang up": lambda _request: [(0, None)],
        }

        def behave(how: str) -> None:
            peer.script = behaviours[how]

        driver = make_driver("modbus", peer.endpoint)
        try:
            yield Rig(driver, ReadRequest(1, 3, 5, 2), behave)
        finally:
            driver.close()


RIGS = {"modbus": modbus_rig}
"""One per driver: a driver without a rig fails here."""


@pytest.fixture(params=DRIVERS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with RIGS[request.param]() as made:
        yield made


def test_contract_opening_and_closing_twice_is_harmless(rig: Rig) -> None:
    rig.driver.close()
    assert not rig.driver.connected
    rig.driver.open(PATIENT_S)
    rig.driver.open(PATIENT_S)
    assert rig.driver.connected
    assert len(rig.driver.read(rig.request, PATIENT_S)) == rig.request.count
    rig.driver.close()
    rig.driver.close()
    assert not rig.driver.connected


@pytest.mark.parametrize(
    ("fault", "error"), [("silent", NoReply), ("garbage", BadReply), ("hang up", NoReply)]
)
def test_contract_a_fault_is_told_in_time_and_forgotten(
    rig: Rig, fault: str, error: type[MeterError]
) -> None:
    rig.behave(fault)
    rig.driver.open(PATIENT_S)
    started_s = time.monotonic()
    with pytest.raises(error) as caught:
        rig.driver.read(rig.request, TIMEOUT_S)
    assert time.monotonic() - started_s < TIMEOUT_S + 0.5
    assert_one_sentence(str(caught.value))
    rig.behave("good")
    assert len(read(rig.driver, rig.request)) == rig.request.count


def assert_one_sentence(text: str) -> None:
    """Say what is wrong and what to do: one paragraph that ends, without the inside of Python."""
    assert re.fullmatch(r"[A-Z0-9][^\n]{20,240}\.", text), text
    for inside in ("Errno", "Error", "Exception(", "0x", "None", "b'", "Traceback"):
        assert inside not in text


# --- What is wrong with an answer ----------------------------------------------------------------


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
        peer.script = sound
        assert read(driver, asked) == words_at(5, 2)
        assert read(driver, ReadRequest(1, 3, 50, 3)) == words_at(50, 3)


@on_every_transport
@pytest.mark.parametrize("code", [1, 2, 3, 4, 6, 11, 200])
def test_an_exception_is_refused_with_its_meaning_and_the_wire_stays_open(
    transport: str, code: int
) -> None:
    with sound_peer(transport) as peer, opened(peer.endpoint) as driver:
        sound = peer.script
        peer.script = lambda request: [
            (0, peer.pack(request, bytes((request.pdu[0] | 0x80, code))))
        ]
        with pytest.raises(Refused, match=f"Modbus exception {code}: ") as caught:
            read(driver, ReadRequest(1, 4, 5, 2))
        assert caught.value.code == code
        assert "Unit 1: reading input registers 5 to 6" in str(caught.value)
        assert_one_sentence(str(caught.value))
        assert driver.connected
        peer.script = sound
        assert read(driver, ReadRequest(1, 4, 5, 2)) == words_at(5, 2)
        assert peer.accepted <= 1


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
        endpoint = Endpoint(transport, host="127.0.0.1", port=listener.getsockname()[1])
        with opened(endpoint) as driver:
            started_s = time.monotonic()
            with pytest.raises(BadReply):
                read(driver, ReadRequest(1, 3, 5, 2), TIMEOUT_S)
            assert time.monotonic() - started_s < TIMEOUT_S + 0.5
        thread.join()


# --- Connections ---------------------------------------------------------------------------------


def test_a_peer_that_closes_while_idle_costs_no_poll() -> None:
    with sound_peer("tcp") as peer:
        peer.script = lambda request: [(0, peer.good(request)), (0, None)]
        document = {**B23, "communication": {"registers": {"power": 5}, "retries": 0}}
        with line_of(at(document, host="127.0.0.1", port=peer.endpoint.port)) as line:
            for polls in range(1, 11):
                assert line.poll(trial=True).result == "ok"
                assert line.worker.state.opened == polls
                # The peer's end of the connection is closed; now ours learns of it.
                wait_until(lambda: not line.driver.connected)


def test_bytes_that_come_unasked_on_modbus_tcp_cost_no_poll() -> None:
    with sound_peer("tcp") as peer, opened(peer.endpoint) as driver:
        peer.script = lambda request: [(0, peer.good(request)), (0.01, b"\0\1\0\0\0\6surprise")]
        for address in range(5):
            assert read(driver, ReadRequest(1, 3, address, 2)) == words_at(address, 2)
            wait_until(lambda: not driver.connected)


def test_a_port_that_refuses_is_a_line_error_until_it_listens() -> None:
    port = free_port()
    with line_of(at(B23, host="127.0.0.1", port=port)) as line:
        result = line.poll()
        assert (result.result, result.reading, result.failed) == ("line_error", None, True)
        assert result.error == (
            f"127.0.0.1 refused the connection on port {port}; check the port and that Modbus TCP "
            "is switched on."
        )
        assert line.worker.state.last_error == result.error
        assert not line.worker.state.connected
        with LibmodbusServer(B23_WORDS, port=port):
            assert line.poll_until_ok().reading is not None
        assert line.worker.state.last_error is None


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".example"])
def test_a_host_name_that_nobody_knows_is_a_line_error(host: str) -> None:
    driver = make_driver("modbus", at(B23, host=host).communication.endpoint)
    with pytest.raises(LineError, match=r"Host name .* is not known; check its spelling"):
        driver.open(TIMEOUT_S)
    assert not driver.connected


def test_a_host_that_drops_connection_requests_is_told_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        # Nobody accepts: a full queue makes the kernel drop what comes more.
        address = listener.getsockname()
        waiting = []
        for _ in range(2):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(address)
        driver = make_driver("modbus", Endpoint("tcp", host=address[0], port=address[1]))
        started_s = time.monotonic()
        with pytest.raises(LineError, match="did not answer within 100 ms; check its address"):
            driver.open(0.1)
        assert time.monotonic() - started_s < 0.6
        for one in waiting:
            one.close()


def test_two_hundred_reconnects_leave_no_file_open() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with sound_peer("tcp") as peer, opened(peer.endpoint) as driver:
        read(driver, ReadRequest(1, 3, 5, 2))
        before = open_files()
        sound, bad = peer.script, lambda request: spoilt(peer, request, "huge length")
        for n in range(200):
            peer.script = sound if n % 2 else bad
            with contextlib.suppress(BadReply):
                read(driver, ReadRequest(1, 3, 5, 2))
            if n % 2:
                driver.close()
        assert peer.accepted == 200
        # The peer is this process too, and closes its ends a moment later.
        wait_until(lambda: open_files() <= before)


def test_failed_opens_leave_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for endpoint in (
        Endpoint("tcp", host="127.0.0.1", port=free_port()),
        serial_endpoint(str(tmp_path / "nothing")),
        serial_endpoint(str(tmp_path / "file")),
    ):
        driver = make_driver("modbus", endpoint)
        for _ in range(20):
            with pytest.raises(LineError):
                driver.open(PATIENT_S)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- Serial ports --------------------------------------------------------------------------------


def serial_endpoint(path: str, **settings: Any) -> Endpoint:
    given = {"baudrate": 9600, "parity": "N", "stopbits": 1, "bytesize": 8, **settings}
    return Endpoint("rtu", serial_port=path, **given)


def test_what_is_no_serial_port_is_told_in_one_way_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    files = [str(tmp_path / name) for name in ("ttyUSB0", ".", "file", "file/x", "link", "loop")]
    devices = ["/dev/null", "/dev/tty", "/dev/ptmx", "/dev/console", "/dev/tty0", "/dev/watchdog"]
    for path in (*files, str(tmp_path / "fifo"), *devices, "nul\0byte", "\ud800"):
        driver = make_driver("modbus", serial_endpoint(path))
        with (
            mock.patch.object(os, "open", side_effect=AssertionError("opened")),
            pytest.raises(LineError) as caught,
        ):
            driver.open(PATIENT_S)
        assert str(caught.value) == (
            f"Serial port {path} is not there or is no serial port; check the adapter and "
            "serialPort."
        )


@pytest.mark.parametrize(
    ("major", "minor", "subsystem", "is_one"),
    [
        (4, 64, "tty", True),  # ttyS0
        (4, 63, "tty", False),  # a virtual terminal
        (4, 0, "tty", False),
        (5, 1, "tty", False),  # the console
        (5, 64, "tty", False),
        (188, 0, "tty", True),  # ttyUSB0
        (204, 64, "tty", True),  # ttyAMA0
        (204, 64, "notty", False),
        (10, 130, "misc", False),  # the watchdog
        (135, 0, None, False),
        (136, 0, None, True),  # a pseudo-terminal
        (143, 9, None, True),
        (144, 0, None, False),
    ],
)
def test_a_serial_port_is_known_by_its_numbers(
    major: int, minor: int, subsystem: str | None, is_one: bool
) -> None:
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        status = SimpleNamespace(st_mode=kind | 0o660, st_rdev=os.makedev(major, minor))
        link = f"/sys/dev/char/{major}:{minor}/subsystem"
        links = {Path(link): Path(f"/sys/class/{subsystem}" if subsystem else link)}
        with (
            mock.patch.object(Path, "stat", return_value=status),
            mock.patch.object(Path, "resolve", autospec=True, side_effect=links.__getitem__),
        ):
            found = modbus._is_serial_port("/dev/x")
        assert found is (is_one and kind == stat.S_IFCHR)


def test_a_serial_port_with_a_high_file_number_reads() -> None:
    """Which select() does not take: 1024 and above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with sound_peer("rtu") as peer, contextlib.ExitStack() as files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while files.enter_context(Path(os.devnull).open("rb")).fileno() < 1023:
            pass
        with opened(peer.endpoint) as driver:
            assert read(driver, ReadRequest(1, 3, 5, 2)) == words_at(5, 2)


def test_a_serial_port_that_takes_no_bytes_is_told_in_time() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    driver = make_driver("modbus", serial_endpoint(os.ttyname(slave)))
    driver.open(TIMEOUT_S)
    os.set_blocking(slave, False)
    room = select.poll()
    room.register(slave, select.POLLOUT)
    # The system moves bytes on in the background: it is full only when it stays so.
    while room.poll(100):
        with contextlib.suppress(BlockingIOError):
            os.write(slave, b"x" * 64)
    started_s = time.monotonic()
    with pytest.raises(LineError, match=r"is gone \(it takes no bytes\)"):
        driver.read(ReadRequest(1, 3, 5, 2), PATIENT_S)
    assert TIMEOUT_S <= time.monotonic() - started_s < TIMEOUT_S + 0.5
    assert not driver.connected
    os.close(master)
    os.close(slave)


def test_a_serial_port_has_one_user(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, opened(serial_endpoint(wire.left)) as driver:
        other = make_driver("modbus", serial_endpoint(wire.left))
        with pytest.raises(LineError, match="check the adapter and that nothing else uses it"):
            other.open(PATIENT_S)
        driver.close()
        other.open(PATIENT_S)
        other.close()


def test_the_settings_of_a_serial_line_reach_the_port(tmp_path: Path) -> None:
    with (
        pty_pair(tmp_path) as wire,
        # What pyserial lets through when an adapter is pulled out while it is opened.
        mock.patch("serial.Serial", side_effect=termios.error(5, "seen")) as made,
    ):
        endpoint = serial_endpoint(
            wire.left, baudrate=19200, parity="E", stopbits=2, bytesize=7
        )  # fmt: skip
        with pytest.raises(LineError, match="Input/output error"):
            make_driver("modbus", endpoint).open(PATIENT_S)
    assert made.call_args.args == (wire.left, 19200)
    asked_for = made.call_args.kwargs
    assert (asked_for["parity"], asked_for["stopbits"], asked_for["bytesize"]) == ("E", 2, 7)
    assert asked_for["exclusive"] is True


def test_an_unplugged_adapter_is_a_line_error_and_comes_back(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, LibmodbusServer(B23_WORDS, device=wire.left):
        meter = at(
            B23, transport="rtu", serialPort=wire.right, host=None, port=None, timeout=200
        )  # fmt: skip
        with line_of(meter) as line:
            assert line.poll().result == "ok"
            wire.unplug()
            result = line.poll()
            assert result.result == "line_error"
            assert result.error is not None
            assert "check the adapter" in result.error
            assert_one_sentence(result.error)
            wire.plug()
            result = line.poll_until_ok()
            assert result.reading is not None
            assert result.reading.values == B23_VALUES
            assert line.worker.state.opened == 2


def test_an_adapter_that_is_pulled_out_while_a_reply_is_awaited(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, opened(serial_endpoint(wire.left)) as driver:
        puller = threading.Timer(0.05, wire.unplug)
        puller.start()
        with pytest.raises(LineError, match=r"is gone .*; plug the adapter in again\.") as caught:
            driver.read(ReadRequest(1, 3, 5, 2), PATIENT_S)
        puller.join()
        assert_one_sentence(str(caught.value).replace(wire.left, "X"))
        assert not driver.connected


def test_between_two_frames_on_a_serial_line_is_a_pause() -> None:
    """At least 3.5 characters, 1.75 ms above 19200 baud; source: Serial Line V1.02, 2.5.1.1."""
    sent_s: list[float] = []
    asked_s: list[float] = []

    def script(request: Request) -> list[tuple[float, bytes]]:
        asked_s.append(time.monotonic())
        # Taken before it is sent, so that the pause can only look longer than it is.
        sent_s.append(time.monotonic())
        return [(0, peer.good(request))]

    with Peer("rtu", script) as peer, opened(peer.endpoint) as driver:
        for address in range(20):
            read(driver, ReadRequest(1, 3, address, 2))
    pauses = [asked - sent for sent, asked in zip(sent_s, asked_s[1:], strict=False)]
    assert min(pauses) >= 0.00175


# --- Late replies, on real sockets ---------------------------------------------------------------


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


# --- Any course of events, on a wire whose time and bytes are arguments --------------------------


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
def fake_driver(transport: str, wire: FakeWire) -> Iterator[Driver]:
    """A driver on a wire and a clock of the test's own."""
    endpoint = Endpoint("tcp" if transport == "tcp" else "rtu-over-tcp", host="x", port=1)
    with (
        mock.patch.object(modbus, "_TcpWire", return_value=wire),
        mock.patch.object(modbus, "time", SimpleNamespace(monotonic=wire.monotonic)),
    ):
        yield make_driver("modbus", endpoint)


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


def outcome_of(driver: Driver, step: Step) -> list[int] | int | None:
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


# --- Any bytes -----------------------------------------------------------------------------------


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


# --- Meters behind the simulator's faults --------------------------------------------------------

EVERY_FAULT = [
    (transport, kind)
    for transport in ("tcp", "rtu-over-tcp")
    for kind in FaultKind
    if kind not in (FaultKind.NAN, FaultKind.FROZEN)
    and (transport, kind) not in (("tcp", FaultKind.BAD_CRC),)
    and (transport, kind) not in (("rtu-over-tcp", FaultKind.WRONG_TRANSACTION),)
]


@pytest.mark.parametrize(("transport", "kind"), EVERY_FAULT)
def test_every_fault_of_a_meter_is_told_and_overcome(transport: str, kind: FaultKind) -> None:
    delay_s = 0.15 if kind in (FaultKind.SLOW, FaultKind.LATE) else 0.0
    with Simulator(seed=3) as simulator:
        endpoint = simulator.add_tcp(transport=transport)
        endpoint.add_unit(1, strict=False).set_registers(B23_WORDS)
        meter = at(
            B23, host=endpoint.host, port=endpoint.port, transport=transport, timeout=100
        )  # fmt: skip
        with line_of(meter) as line:
            assert line.poll().result == "ok"
            endpoint.set_fault(Fault(kind, delay_s=delay_s))
            result = line.poll(trial=True)
            if kind is FaultKind.DUPLICATE:
                assert result.result == "ok"
            else:
                assert result.failed
                assert result.reading is None
                assert result.error is not None
                assert_one_sentence(result.error)
            endpoint.heal()
            result = line.poll_until_ok()
            assert result.reading is not None
            assert result.reading.values == B23_VALUES
        assert endpoint.max_connections == 1


def test_a_silent_unit_behind_a_gateway_is_its_own_fault_not_the_lines() -> None:
    with Simulator() as simulator:
        endpoint = simulator.add_tcp(gateway_timeout_s=0.02)
        endpoint.add_unit(1, strict=False).set_registers(B23_WORDS)
        there = at(B23, host=endpoint.host, port=endpoint.port)
        silent = at(B23, host=endpoint.host, port=endpoint.port, unitId=7)
        with line_of(there) as line:
            assert line.poll(there).result == "ok"
            result = line.poll(silent)
            assert (result.result, result.failed) == ("refused", True)
            assert result.error is not None
            assert "the gateway is there but the device behind it is silent" in result.error
            assert line.worker.state.connected
            assert line.worker.state.last_error is None
            assert line.poll(there).result == "ok"
            assert line.worker.state.opened == 1
        assert endpoint.requests == 3


def test_a_hole_that_a_device_refuses_is_split_around_and_remembered() -> None:
    with Simulator() as simulator:
        endpoint = simulator.add_tcp(record=100)
        endpoint.add_unit(1, strict=True).set_registers(B23_WORDS)
        with line_of(at(B23, host=endpoint.host, port=endpoint.port)) as line:
            result = line.poll()
            assert result.result == "ok"
            assert result.reading is not None
            assert result.reading.values == B23_VALUES
            asked = [struct.unpack(">BHH", seen.pdu) for seen in endpoint.seen]
            assert asked[0] == (3, 20480, 11)
            parts = asked[1:]
            assert parts == [
                (3, 20480, 1), (3, 20482, 3), (3, 20486, 1), (3, 20488, 1), (3, 20490, 1),
            ]  # fmt: skip
            endpoint.seen.clear()
            assert line.poll().result == "ok"
            assert [struct.unpack(">BHH", seen.pdu) for seen in endpoint.seen] == parts


def test_a_register_that_a_device_lacks_leaves_the_rest_and_is_named() -> None:
    words = {address: word for address, word in B23_WORDS.items() if address != 20488}
    with Simulator() as simulator:
        endpoint = simulator.add_tcp()
        endpoint.add_unit(1, strict=True).set_registers(words)
        with line_of(at(B23, host=endpoint.host, port=endpoint.port)) as line:
            for _ in range(2):
                result = line.poll()
                assert (result.result, result.failed) == ("partial", False)
                assert result.reading is not None
                assert result.reading.values == {
                    name: value for name, value in B23_VALUES.items() if name != "powerFactor"
                }
                assert result.error == (
                    "Unit 1: reading holding register 20488 was refused with Modbus exception 2: "
                    "illegal data address; check the register addresses in the meter's manual."
                )


def test_no_error_is_outside_the_tree() -> None:
    for error in (BadReply, NoReply, Refused, LineError):
        assert issubclass(error, DlmError)
