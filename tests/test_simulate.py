"""The simulator: read by mbpoll, looked at byte by byte, and its site's day checked for sense."""

from __future__ import annotations

import argparse
import json
import math
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.model import QUANTITY_NAMES
from edge.simulate import DemoSite, Fault, FaultKind, Simulator, TcpEndpoint, Unit, encode
from edge.simulate.command import add_arguments
from edge.simulate.demo import INVERTER, demo_meters, site_clock
from edge.simulate.site import DAY_S, HOUR_S, SimulatedMeter, Site
from edge.simulate.wire import crc16
from tests.peers import MbpollError, free_port, mbpoll, pty_pair, wait_until

HOLDING, INPUT = 3, 4
QUIET_S = 0.06
"""How long a test listens before it says that nothing came."""
SITE = Site(seed=1)
METERS = [SITE.main_building, SITE.workshop, SITE.solar, SITE.server_room]
DEMO = demo_meters(8, seed=1)
YEAR_S = 365 * DAY_S

meters = st.sampled_from(METERS)
moments = st.floats(0, YEAR_S)


class Client:
    """A Modbus client made of bytes: nothing is checked for the test, nothing is retried."""

    def __init__(self, endpoint: TcpEndpoint) -> None:
        self.rtu = endpoint.transport != "tcp"
        self.socket = socket.create_connection((endpoint.host, endpoint.port), timeout=5)

    def ask(self, pdu: bytes, *, unit_id: int = 1, transaction_id: int = 1) -> None:
        if self.rtu:
            frame = bytes((unit_id,)) + pdu
            self.socket.sendall(frame + crc16(frame))
        else:
            header = struct.pack(">HHHB", transaction_id, 0, len(pdu) + 1, unit_id)
            self.socket.sendall(header + pdu)

    def take(self, count: int) -> bytes:
        """Give exactly `count` bytes; fewer at the end of the connection."""
        data = b""
        while len(data) < count:
            try:
                more = self.socket.recv(count - len(data))
            except ConnectionResetError:
                break
            if not more:
                break
            data += more
        return data

    def read(self, address: int, count: int, *, function: int = HOLDING, unit_id: int = 1) -> bytes:
        """Give the PDU of the reply to a read over Modbus TCP."""
        self.ask(read_pdu(address, count, function), unit_id=unit_id, transaction_id=77)
        transaction_id, protocol_id, length, unit = struct.unpack(">HHHB", self.take(7))
        assert (transaction_id, protocol_id, unit) == (77, 0, unit_id)
        return self.take(length - 1)

    def hears_nothing(self) -> bool:
        self.socket.settimeout(QUIET_S)
        try:
            self.socket.recv(1)
            return False
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def read_pdu(address: int, count: int, function: int = HOLDING) -> bytes:
    return struct.pack(">BHH", function, address, count)


def words_pdu(*words: int, function: int = HOLDING) -> bytes:
    return struct.pack(f">BB{len(words)}H", function, 2 * len(words), *words)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(seed=1) as running:
        yield running


@pytest.fixture
def endpoint(simulator: Simulator) -> TcpEndpoint:
    return simulator.add_tcp(record=100)


@pytest.fixture
def unit(endpoint: TcpEndpoint) -> Unit:
    unit = endpoint.add_unit(1)
    unit.set_registers({10: 1000, 11: 1001, 12: 1002, 20: 2000}, {10: 55})
    return unit


@pytest.fixture
def client(endpoint: TcpEndpoint, unit: Unit) -> Iterator[Client]:
    with Client(endpoint) as connected:
        yield connected


# --- A peer that we did not write ------------------------------------------------------------


def test_mbpoll_reads_over_tcp(endpoint: TcpEndpoint, unit: Unit) -> None:
    where = ("-p", str(endpoint.port), endpoint.host)
    assert mbpoll(*where, address=10, count=3) == [1000, 1001, 1002]
    assert mbpoll(*where, address=10, register_type="3") == [55]
    with pytest.raises(MbpollError, match="Illegal data address"):
        mbpoll(*where, address=11, register_type="3")


def test_mbpoll_reads_floats_low_word_first(endpoint: TcpEndpoint) -> None:
    endpoint.add_unit(2).set_values({"power": 12.5, "reactivePower": -3.25}, INVERTER)
    where = ("-p", str(endpoint.port), endpoint.host)
    assert mbpoll(*where, unit_id=2, address=0, register_type="3:float") == [12500.0]
    assert mbpoll(*where, unit_id=2, address=2, register_type="3:int") == [-3250]


def test_mbpoll_reads_rtu_also_after_the_adapter_was_pulled_out(
    simulator: Simulator, tmp_path: Path
) -> None:
    with pty_pair(tmp_path) as wire:
        line = simulator.add_serial(wire.left)
        for unit_id in (1, 2):
            line.add_unit(unit_id).set_registers({7: unit_id}, {7: 100 * unit_id})
        where = ("-m", "rtu", "-b", "9600", "-P", "none", wire.right)
        assert mbpoll(*where, unit_id=1, address=7) == [1]
        assert mbpoll(*where, unit_id=2, address=7, register_type="3") == [200]
        with pytest.raises(MbpollError, match="timed out"):
            mbpoll(*where, unit_id=3, address=7, timeout_s=0.1)
        line.set_fault(Fault(FaultKind.BAD_CRC))
        with pytest.raises(MbpollError, match="CRC"):
            mbpoll(*where, unit_id=1, address=7)
        line.heal()
        wire.unplug()
        wire.plug()

        def answers() -> bool:
            try:
                return mbpoll(*where, unit_id=1, address=7, timeout_s=0.1) == [1]
            except MbpollError:
                return False

        wait_until(answers, what="an answer over the wire that was plugged in again")


# --- What a sound meter answers --------------------------------------------------------------


@pytest.mark.parametrize(
    ("pdu", "reply"),
    [
        (read_pdu(10, 3), words_pdu(1000, 1001, 1002)),
        (read_pdu(10, 1, INPUT), words_pdu(55, function=INPUT)),
        (read_pdu(11, 1, INPUT), b"\x84\x02"),
        (read_pdu(10, 4), b"\x83\x02"),
        (read_pdu(13, 1), b"\x83\x02"),
        (read_pdu(0xFFFF, 2), b"\x83\x02"),
        (read_pdu(10, 0), b"\x83\x03"),
        (read_pdu(10, 126), b"\x83\x03"),
        (b"\x03\x00", b"\x83\x03"),
        (b"\x06\x00\x0a\x00\x01", b"\x86\x01"),
        (b"\x2b\x0e\x01\x00", b"\xab\x01"),
    ],
)
def test_answers_as_the_protocol_says(client: Client, pdu: bytes, reply: bytes) -> None:
    client.ask(pdu, transaction_id=0xBEEF)
    header = struct.pack(">HHHB", 0xBEEF, 0, len(reply) + 1, 1)
    assert client.take(7 + len(reply)) == header + reply


def test_holes_read_zero_where_the_map_is_not_strict(endpoint: TcpEndpoint) -> None:
    endpoint.add_unit(5, strict=False).set_registers({1: 1, 3: 3})
    with Client(endpoint) as client:
        assert client.read(0, 5, unit_id=5) == words_pdu(0, 1, 0, 3, 0)
        assert client.read(0xFFFF, 2, unit_id=5) == b"\x83\x02"


def test_an_unknown_unit_is_silent_or_reported_by_its_gateway(
    client: Client, endpoint: TcpEndpoint, unit: Unit
) -> None:
    client.ask(read_pdu(10, 1), unit_id=9)
    assert client.hears_nothing()
    endpoint.gateway_timeout_s = 0.02
    assert client.read(10, 1, unit_id=9) == b"\x83\x0b"
    unit.set_fault(Fault(FaultKind.SILENT))
    assert client.read(10, 1) == b"\x83\x0b"


def test_a_request_may_come_in_pieces_and_two_may_come_at_once(
    client: Client, endpoint: TcpEndpoint
) -> None:
    whole = struct.pack(">HHHB", 1, 0, 6, 1) + read_pdu(10, 1)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in whole[:-1]:
        client.socket.sendall(bytes((byte,)))
    assert client.hears_nothing()
    client.socket.sendall(whole[-1:] + whole)
    assert len(client.take(22)) == 22
    assert endpoint.requests == 2
    assert endpoint.max_outstanding == 2


def test_bytes_that_are_not_modbus_end_the_connection(client: Client) -> None:
    client.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert client.take(1) == b""


def test_rtu_crc_is_the_standards() -> None:
    # MODBUS over Serial Line V1.02 gives the algorithm; this frame is every manual's example.
    assert crc16(bytes.fromhex("01030000000a")) == bytes.fromhex("c5cd")


def test_rtu_over_tcp_answers_good_frames_and_drops_noise(simulator: Simulator) -> None:
    endpoint = simulator.add_tcp(transport="rtu-over-tcp")
    endpoint.add_unit(1).set_registers({10: 0x1234})
    good = b"\x01\x03\x02\x12\x34"
    with Client(endpoint) as client:
        client.ask(read_pdu(10, 1))
        assert client.take(7) == good + crc16(good)
        client.socket.sendall(b"\x01\x03\x00\x0a\x00\x01\x00\x00")
        assert client.hears_nothing()
        time.sleep(0.11)  # the pause that ends a broken frame
        client.ask(b"\x11")
        assert client.take(5) == b"\x01\x91\x01" + crc16(b"\x01\x91\x01")
        client.ask(read_pdu(10, 1))
        assert client.take(7) == good + crc16(good)


# --- Faults, on the wire ---------------------------------------------------------------------

SOUND = struct.pack(">HHHB", 1, 0, 7, 1) + words_pdu(1000, 1001)


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        (FaultKind.HALF, SOUND[:6]),
        (FaultKind.WRONG_TRANSACTION, b"\x00\x02" + SOUND[2:]),
        (FaultKind.WRONG_UNIT, SOUND[:6] + b"\x02" + SOUND[7:]),
        (FaultKind.WRONG_FUNCTION, SOUND[:7] + b"\x04" + SOUND[8:]),
        (FaultKind.WRONG_COUNT, SOUND[:8] + b"\x06" + SOUND[9:]),
        (FaultKind.SHORT_DATA, struct.pack(">HHHB", 1, 0, 5, 1) + words_pdu(1000)),
        (FaultKind.EXCEPTION, struct.pack(">HHHB", 1, 0, 3, 1) + b"\x83\x04"),
        (FaultKind.DUPLICATE, SOUND + SOUND),
        (FaultKind.SILENT, b""),
    ],
)
def test_a_fault_is_what_its_name_says(
    client: Client, unit: Unit, kind: FaultKind, frame: bytes
) -> None:
    unit.set_fault(Fault(kind))
    client.ask(read_pdu(10, 2))
    assert client.take(len(frame)) == frame
    assert client.hears_nothing()
    unit.heal()
    assert client.read(10, 2) == words_pdu(1000, 1001)


def test_a_bad_crc_is_the_only_thing_wrong_with_its_frame(simulator: Simulator) -> None:
    endpoint = simulator.add_tcp(transport="rtu-over-tcp")
    endpoint.add_unit(1).set_registers({10: 1})
    endpoint.set_fault(Fault(FaultKind.BAD_CRC))
    with Client(endpoint) as client:
        client.ask(read_pdu(10, 1))
        frame = client.take(7)
    assert frame[:5] == b"\x01" + words_pdu(1)
    assert frame[5:] != crc16(frame[:5])


def test_garbage_is_the_same_for_the_same_seed() -> None:
    def garbage(seed: int) -> bytes:
        with Simulator(seed) as simulator:
            endpoint = simulator.add_tcp()
            endpoint.add_unit(1).set_fault(Fault(FaultKind.GARBAGE))
            with Client(endpoint) as client:
                client.ask(read_pdu(10, 2))
                return client.take(24)

    assert garbage(1) == garbage(1)
    assert garbage(1) != garbage(2)


def test_slow_answers_in_order_one_after_the_other(
    client: Client, unit: Unit, endpoint: TcpEndpoint
) -> None:
    unit.set_fault(Fault(FaultKind.SLOW, delay_s=0.05, requests=2))
    began_s = time.monotonic()
    for transaction_id in (1, 2, 3):
        client.ask(read_pdu(10, 2), transaction_id=transaction_id)
    ids = [client.take(len(SOUND))[1] for _ in range(3)]
    assert ids == [1, 2, 3]
    assert time.monotonic() - began_s >= 0.1
    assert endpoint.max_outstanding == 3


def test_late_is_overtaken_by_the_next_answer(client: Client, unit: Unit) -> None:
    unit.set_fault(Fault(FaultKind.LATE, delay_s=0.1, requests=1))
    client.ask(read_pdu(10, 2), transaction_id=1)
    client.ask(read_pdu(10, 2), transaction_id=2)
    assert [client.take(len(SOUND))[1] for _ in range(2)] == [2, 1]


def test_a_late_answer_is_lost_with_its_connection(
    client: Client, unit: Unit, endpoint: TcpEndpoint
) -> None:
    unit.set_fault(Fault(FaultKind.LATE, delay_s=0.05, requests=1))
    client.ask(read_pdu(10, 1))
    wait_until(lambda: endpoint.requests == 1, what="the request")
    client.socket.close()
    wait_until(lambda: endpoint.connections == 0, what="the end of the connection")
    with Client(endpoint) as again:
        assert again.read(10, 1) == words_pdu(1000)
        assert again.hears_nothing()
        assert endpoint.max_outstanding == 1
        again.socket.sendall(2 * (struct.pack(">HHHB", 1, 0, 6, 1) + read_pdu(10, 1)))
        again.take(22)
        assert endpoint.max_outstanding == 2


def test_a_fault_for_some_requests_heals_itself(client: Client, unit: Unit) -> None:
    unit.set_fault(Fault(FaultKind.EXCEPTION, code=6, requests=2))
    replies = [client.read(10, 1) for _ in range(3)]
    assert replies == [b"\x83\x06", b"\x83\x06", words_pdu(1000)]


def test_close_hangs_up_and_listens_on(client: Client, unit: Unit, endpoint: TcpEndpoint) -> None:
    unit.set_fault(Fault(FaultKind.CLOSE, requests=1))
    client.ask(read_pdu(10, 1))
    assert client.take(1) == b""
    with Client(endpoint) as again:
        assert again.read(10, 1) == words_pdu(1000)


def test_refuse_lasts_until_healed(client: Client, endpoint: TcpEndpoint) -> None:
    endpoint.set_fault(Fault(FaultKind.REFUSE))
    assert client.take(1) == b""
    with pytest.raises(ConnectionRefusedError):
        Client(endpoint)
    endpoint.heal()
    with Client(endpoint) as again:
        assert again.read(10, 1) == words_pdu(1000)


def test_a_port_can_refuse_from_the_start() -> None:
    simulator = Simulator()
    endpoint = simulator.add_tcp(port=free_port())
    endpoint.add_unit(1).set_registers({0: 1})
    endpoint.set_fault(Fault(FaultKind.REFUSE))
    with simulator:
        with pytest.raises(ConnectionRefusedError):
            Client(endpoint)
        endpoint.heal()
        with Client(endpoint) as client:
            assert client.read(0, 1) == words_pdu(1)


def test_frozen_values_stay_until_healed(client: Client, unit: Unit) -> None:
    unit.set_fault(Fault(FaultKind.FROZEN))
    unit.set_registers({10: 7})
    assert client.read(10, 1) == words_pdu(1000)
    unit.heal()
    assert client.read(10, 1) == words_pdu(7)


def test_nan_says_that_there_is_no_value(client: Client, endpoint: TcpEndpoint) -> None:
    unit = endpoint.add_unit(2)
    unit.set_values({"power": 12.5, "energy": 8, "reactivePower": 1}, INVERTER)
    unit.set_fault(Fault(FaultKind.NAN))
    reply = client.read(0, 8, function=INPUT, unit_id=2)
    low, high, q_low, q_high, *energy = struct.unpack(">8H", reply[2:])
    assert math.isnan(struct.unpack(">f", struct.pack(">HH", high, low))[0])
    assert (q_high, q_low) == (0x8000, 0)
    assert energy == [0xFFFF] * 4


def test_live_values_follow_their_source(client: Client, endpoint: TcpEndpoint) -> None:
    unit = endpoint.add_unit(2)
    shown = {"power": 1.0}
    unit.follow(lambda: dict(shown), {"registers": {"power": 5}}, refresh_s=0)
    assert client.read(5, 1, unit_id=2) == words_pdu(1)
    shown["power"] = 2.0
    assert client.read(5, 1, unit_id=2) == words_pdu(2)
    shown["power"] = 70_000.0
    assert client.read(5, 1, unit_id=2) == b"\x83\x04"


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        ("tcp", FaultKind.BAD_CRC),
        ("rtu-over-tcp", FaultKind.WRONG_TRANSACTION),
        ("rtu", FaultKind.CLOSE),
        ("rtu", FaultKind.REFUSE),
        ("tcp", FaultKind.NAN),
        ("tcp", FaultKind.REFUSE),
    ],
)
def test_a_unit_cannot_have_a_fault_without_a_place_for_it(transport: str, kind: FaultKind) -> None:
    with pytest.raises(ValueError, match=kind.value):
        Unit(1, transport).set_fault(Fault(kind))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("silent", Fault(FaultKind.SILENT)),
        ("slow=0.5", Fault(FaultKind.SLOW, delay_s=0.5)),
        ("exception=0x0B", Fault(FaultKind.EXCEPTION, code=11)),
    ],
)
def test_a_fault_can_be_written(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize("text", ["", "slient", "silent=1", "slow=x", "slow=0", "exception=0"])
def test_a_fault_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ "):
        Fault.parse(text)


# --- The server ------------------------------------------------------------------------------


def test_counts_what_was_asked_and_when(client: Client, endpoint: TcpEndpoint, unit: Unit) -> None:
    before_s = time.monotonic()
    with Client(endpoint) as second:
        second.read(10, 1)
        client.read(10, 2)
    assert [seen.pdu for seen in endpoint.seen] == [read_pdu(10, 1), read_pdu(10, 2)]
    assert before_s <= endpoint.seen[0].mono_s <= endpoint.seen[1].mono_s <= time.monotonic()
    assert endpoint.max_connections == endpoint.connections_accepted == 2
    assert endpoint.max_outstanding == 1
    assert unit.requests == endpoint.requests == 2
    wait_until(lambda: endpoint.connections == 1, what="the end of the second connection")


def test_hundreds_of_ports_are_served_by_one_process() -> None:
    simulator = Simulator()
    endpoints = [simulator.add_tcp() for _ in range(300)]
    for number, endpoint in enumerate(endpoints):
        endpoint.add_unit(1).set_registers({0: number})
    with simulator:
        clients = [Client(endpoint) for endpoint in endpoints]
        for client in clients:
            client.ask(read_pdu(0, 1))
        replies = [client.take(11)[7:] for client in clients]
        for client in clients:
            client.socket.close()
    assert replies == [words_pdu(number) for number in range(300)]


def test_a_taken_port_is_an_error_and_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        simulator = Simulator()
        first = simulator.add_tcp()
        simulator.add_tcp(port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            simulator.start()
    with pytest.raises(ConnectionRefusedError):
        Client(first)


# --- Quantities into words -------------------------------------------------------------------


def decode_words(words: list[int], kind: str, word_order: str) -> float:
    """Read words back with struct alone."""
    codes = {"uint": "HIQ", "int": "hiq", "float": " fd"}
    code = codes[kind.rstrip("0123456789")][{1: 0, 2: 1, 4: 2}[len(words)]]
    if word_order == "little":
        words = words[::-1]
    raw = struct.pack(f">{len(words)}H", *words)
    value: float = struct.unpack(f">{code}", raw)[0]
    return value


@given(
    data=st.data(),
    bits=st.sampled_from([16, 32, 64]),
    signed=st.booleans(),
    word_order=st.sampled_from(["big", "little"]),
    register_type=st.sampled_from(["holding", "input"]),
    address=st.integers(0, 65_532),
)
def test_integers_are_encoded_exactly(
    data: st.DataObject,
    bits: int,
    signed: bool,
    word_order: str,
    register_type: str,
    address: int,
) -> None:
    lowest = -(1 << bits - 1) if signed else 0
    raw = data.draw(st.integers(lowest, lowest + (1 << bits) - 1))
    kind = f"{'int' if signed else 'uint'}{bits}"
    register = {"address": address, "type": kind}
    communication = {
        "registerType": register_type,
        "wordOrder": word_order,
        "registers": {"energy": register},
    }
    tables = encode({"energy": raw}, communication)
    table = tables.pop(HOLDING if register_type == "holding" else INPUT)
    words = [table[address + index] for index in range(bits // 16)]
    assert decode_words(words, kind, word_order) == raw
    assert len(table) == bits // 16
    assert not any(tables.values())
    for outside in (lowest - 1, lowest + (1 << bits)):
        with pytest.raises(ValueError, match="does not fit"):
            encode({"energy": outside}, communication)


@given(st.floats(width=32, allow_nan=False), st.sampled_from(["big", "little"]))
def test_floats_are_encoded_exactly(value: float, word_order: str) -> None:
    register = {"address": 0, "type": "float32", "wordOrder": word_order}
    table = encode({"power": value}, {"registers": {"power": register}})[HOLDING]
    assert decode_words([table[0], table[1]], "float32", word_order) == value


def test_scales_multiply_and_energy_high_is_the_high_word() -> None:
    registers = {
        "power": {"address": 1, "scale": 0.1},
        "powerScale": 0.01,
        "energy": 9,
        "energyHigh": 4,
        "energyScale": 0.001,
    }
    tables = encode({"power": 1.234, "energy": 131.073}, {"registers": registers})
    assert tables == {HOLDING: {1: 1234, 9: 1, 4: 2}, INPUT: {}}


# --- The site's day --------------------------------------------------------------------------


@given(meters, moments)
def test_power_is_never_negative_and_currents_agree_with_it(
    meter: SimulatedMeter, time_s: float
) -> None:
    values = meter.quantities(time_s)
    assert set(values) <= set(QUANTITY_NAMES)
    assert values["power"] >= 0
    phases = [
        values[f"voltageL{n}"] * values[f"currentL{n}"] * values["powerFactor"] / 1000
        for n in (1, 2, 3)
    ]
    assert sum(phases) == pytest.approx(values["power"])
    line_voltage = math.sqrt(3) * values["voltage"]
    three_phase_w = math.sqrt(3) * line_voltage * values["current"] * values["powerFactor"]
    assert three_phase_w / 1000 == pytest.approx(values["power"], rel=0.01)
    assert math.hypot(values["power"], values["reactivePower"]) == pytest.approx(
        values["apparentPower"]
    )


@given(meters, moments)
def test_supply_and_power_factor_are_those_of_a_healthy_grid(
    meter: SimulatedMeter, time_s: float
) -> None:
    values = meter.quantities(time_s)
    assert 207 <= values["voltage"] <= 253  # EN 50160: 230 V ± 10 %
    assert 49.9 <= values["frequency"] <= 50.1
    assert 0.7 <= values["powerFactor"] <= 1


@given(st.integers(0, 364), st.floats(20, 30))
def test_the_sun_does_not_shine_at_night(day: int, hour: float) -> None:
    values = SITE.solar.quantities(day * DAY_S + hour * HOUR_S)
    assert values["power"] == values["current"] == 0
    assert values["powerFactor"] == 1


def test_the_sun_shines_by_day() -> None:
    assert max(SITE.solar.quantities(hour * HOUR_S)["power"] for hour in range(24)) > 10


@given(meters, moments, st.floats(0.1, HOUR_S))
@settings(deadline=None)
def test_the_energy_counter_is_the_integral_of_power(
    meter: SimulatedMeter, time_s: float, span_s: float
) -> None:
    steps = math.ceil(span_s / 5)
    step_s = span_s / steps
    powers_kw = (
        meter.quantities(time_s + (index + 0.5) * step_s)["power"] for index in range(steps)
    )
    counted_kwh = meter.energy_kwh(time_s + span_s) - meter.energy_kwh(time_s)
    assert counted_kwh >= 0
    # Only where the profile bends does a step's middle not give the step's exact mean.
    assert counted_kwh == pytest.approx(sum(powers_kw) * step_s / HOUR_S, abs=0.002)


@given(meters, st.integers(0, 364), st.integers(0, 364))
def test_every_day_counts_the_same_energy(meter: SimulatedMeter, day: int, other: int) -> None:
    def of_day_kwh(number: int) -> float:
        return meter.energy_kwh((number + 1) * DAY_S) - meter.energy_kwh(number * DAY_S)

    assert of_day_kwh(day) == pytest.approx(of_day_kwh(other))
    assert of_day_kwh(day) > 10


@given(moments)
def test_each_kilowatt_counts_once_in_the_guides_formula(time_s: float) -> None:
    by_type: dict[str, float] = {}
    for meter in DEMO:
        power_kw = meter.model.quantities(time_s)["power"]
        by_type[meter.meter_type] = by_type.get(meter.meter_type, 0) + power_kw
    building_kw = by_type["grid"] + by_type["building"]
    assert building_kw == pytest.approx(
        sum(meter.quantities(time_s)["power"] for meter in (SITE.main_building, SITE.workshop))
    )
    assert 400 < 500 + by_type["solar"] - building_kw < 535


def test_seeds_make_days() -> None:
    noon_s = 12 * HOUR_S
    assert Site(1).solar.quantities(noon_s) == SITE.solar.quantities(noon_s)
    assert Site(2).solar.quantities(noon_s) != SITE.solar.quantities(noon_s)


def test_the_clock_counts_from_new_year() -> None:
    now = time.localtime()
    expected_s = (now.tm_yday - 1) * DAY_S + now.tm_hour * HOUR_S + now.tm_min * 60
    # The zone's offset is today's, so nothing but a minute's turn may lie between the two.
    assert -1 <= site_clock()() - expected_s <= 61


@pytest.mark.parametrize(("before_s", "after_s"), [(5.0, 1.8e9), (1.8e9, 5.0)])
def test_a_clock_that_is_set_moves_no_counter(
    before_s: float, after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board without a battery for its clock begins in 1970."""
    monkeypatch.setattr(time, "time", lambda: before_s)
    clock = site_clock()
    began_s = clock()
    assert 0 <= began_s < 366 * DAY_S
    monkeypatch.setattr(time, "time", lambda: after_s)
    assert began_s <= clock() < began_s + HOUR_S
    for meter in DEMO:
        encode(meter.model.quantities(clock()), meter.layout)


# --- The demo and its command ----------------------------------------------------------------


def test_the_demo_is_registered_as_the_guide_says_and_fits_its_registers() -> None:
    with DemoSite(12, seed=1) as site:
        main, workshop, *others = site.registrations
        assert main["communication"]["registers"]["energyHigh"] == 20483
        assert workshop["communication"]["registers"]["energy"] == 45056
        assert [body["meterType"] for body in others[:3]] == ["solar", "zone", "zone"]
        assert len({body["name"] for body in site.registrations}) == 12
        for endpoint, body in zip(site.simulator.endpoints, site.registrations, strict=True):
            assert isinstance(endpoint, TcpEndpoint)
            where = body["communication"]
            assert (where["host"], where["port"]) == (endpoint.host, endpoint.port)
            tables = encode(dict.fromkeys(QUANTITY_NAMES, 0.0), where)
            with Client(endpoint) as client:
                for function, table in tables.items():
                    for address in table:
                        assert client.read(address, 1, function=function)[0] == function


@given(moments)
def test_every_moment_of_a_year_fits_the_demos_registers(time_s: float) -> None:
    for meter in DEMO:
        encode(meter.model.quantities(time_s), meter.layout)


def test_the_guides_b23_is_read_in_one_request_by_mbpoll() -> None:
    with DemoSite(1, seed=1) as site:
        where = site.registrations[0]["communication"]
        words = mbpoll("-p", str(where["port"]), where["host"], address=20480, count=11)
    assert 0 < words[0] < 60
    assert 2070 < words[4] < 2530
    assert words[10] == pytest.approx(5000, abs=10)


def test_meters_share_a_port_like_a_gateway_and_a_wire(tmp_path: Path) -> None:
    with DemoSite(5, units_per_port=2) as site:
        at = [
            (body["communication"]["port"], body["communication"]["unitId"])
            for body in site.registrations
        ]
    assert [unit_id for _, unit_id in at] == [1, 2, 1, 2, 1]
    assert at[0][0] == at[1][0] != at[2][0]
    with (
        pty_pair(tmp_path) as wire,
        DemoSite(4, transport="rtu", serial_port=wire.left, seed=1) as site,
    ):
        last = site.registrations[3]["communication"]
        assert (last["transport"], last["serialPort"], last["unitId"]) == ("rtu", wire.left, 4)
        where = ("-m", "rtu", "-b", "9600", "-P", "none", wire.right)
        assert mbpoll(*where, unit_id=4, address=115) == [pytest.approx(5000, abs=10)]


COMMAND = (
    "import argparse, sys\n"
    "from edge.simulate.command import add_arguments, run\n"
    "parser = argparse.ArgumentParser()\n"
    "add_arguments(parser)\n"
    "sys.exit(run(parser.parse_args()))\n"
)


def simulate(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_ends_it(tmp_path: Path, end: signal.Signals) -> None:
    port_file = tmp_path / "ports.json"
    process = simulate(*("--port", "0", "--port-file", str(port_file), "--fault", "2:exception=6"))
    wait_until(port_file.exists, timeout_s=10, what="the port file")
    bodies: list[dict[str, Any]] = json.loads(port_file.read_text())
    ports = [str(body["communication"]["port"]) for body in bodies]
    assert len(mbpoll("-p", ports[0], "127.0.0.1", address=20480, count=11)) == 11
    with pytest.raises(MbpollError, match="busy"):
        mbpoll("-p", ports[1], "127.0.0.1", address=3059)
    process.send_signal(end)
    out, error = process.communicate(timeout=5)
    assert (process.returncode, error) == (0, "")
    assert json.loads(out.split(" -d '")[1].split("'\n")[0]) == bodies[0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--fault", "1:slient"), 2, "'slient' is no fault: use one of silent, slow"),
        (("--fault", "one:silent"), 2, "'one' is no meter's number"),
        (("--fault", "9:silent"), 2, "there is no meter 9: use 1 to 4"),
        (("--meters", "0"), 2, "--meters must be 1 to 50000"),
        (("--port", "65535"), 2, "--port must be 0 to 65535"),
        (("--transport", "rtu"), 2, "--transport rtu needs a --serial-port"),
        (("--transport", "rtu", "--serial-port", "/dev/none"), 1, "cannot serve"),
        (("--transport", "http", "--fault", "1:bad-crc"), 2, "bad-crc does not exist on http"),
        (("--token", "t"), 2, "--token goes with --transport http"),
        (("--units-per-port", "0"), 2, "--units-per-port must be 1 to 247"),
        (("--transport", "mqtt", "--broker", "here:mqtt"), 2, "--broker must be a host"),
        (("--transport", "mqtt", "--interval", "0"), 2, "--interval must be 0.01 to 3600"),
        (("--transport", "mqtt", "--prefix", "a/#"), 2, "--prefix must be the beginning"),
        (("--transport", "mqtt", "--meters", "501"), 2, "--meters must be 1 to 500"),
        (("--transport", "mqtt", "--broker", "127.0.0.1:1"), 1, "start a broker at 127.0.0.1:1"),
        (("--template", "abb-b32"), 2, "no template 'abb-b32'; nearest are abb-b23"),
        (("--template", "abb-b23", "--transport", "mqtt"), 2, "abb-b23 speaks tcp"),
        (("--template", "shelly-em", "--payload", "json"), 2, "do not go with --template"),
        (("--template", "dsmr-reader", "--fault", "1:nan"), 2, "always says the same has no nan"),
    ],
)
def test_wrong_use_is_answered_with_one_sentence(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    process = simulate(*arguments)
    _, error = process.communicate(timeout=10)
    assert process.returncode == code
    assert words in error.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (("--transport", "http"), {"url"}),
        (("--template", "abb-b23"), {"template", "host", "port", "unitId"}),
        (("--template", "shelly-plus-1pm-http"), {"template", "host"}),
        (("--template", "enphase-envoy"), {"template", "host", "url"}),
        (("--template", "inexogy"), {"template", "meterId", "url"}),
    ],
)
def test_the_command_serves_other_meters(
    tmp_path: Path, arguments: tuple[str, ...], keys: set[str]
) -> None:
    port_file = tmp_path / "ports.json"
    process = simulate(*arguments, "--port", "0", "--port-file", str(port_file), "--meters", "2")
    wait_until(port_file.exists, timeout_s=10, what="the port file")
    for body in json.loads(port_file.read_text()):
        where = body["communication"]
        assert set(where) == keys
        origin = urlsplit(where.get("url", f"//{where.get('host')}"))
        assert origin.hostname is not None
        socket.create_connection((origin.hostname, origin.port or where["port"])).close()
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=5)
    assert (process.returncode, error) == (0, "")
    assert out.count("curl -X POST") == 2


def test_a_taken_port_ends_the_command() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = simulate("--port", str(taken.getsockname()[1]), "--meters", "1")
        _, error = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "choose another --port" in error


def test_help_names_every_fault() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = parser.format_help().replace("\n", " ")
    assert all(kind.value.split("-")[0] in text for kind in FaultKind)
