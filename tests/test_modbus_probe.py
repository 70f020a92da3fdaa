"""The Modbus probe: each cause is told apart against real peers, and the next thing to try."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from edge.clock import Clock
from edge.communication import ReadRequest
from edge.drivers.modbus import ModbusDriver
from edge.errors import Cause, NoReply
from edge.model import QUANTITY_NAMES, Meter, Probe
from edge.simulate import Fault, FaultKind, Simulator, TcpEndpoint, Unit
from edge.simulate.device import exception
from edge.simulate.sunspec import BASE_ADDRESS, words
from tests.building import a_meter
from tests.peers import LibmodbusServer, free_port, pty_pair

TIMEOUT_MS = 120
"""For what does not answer; what answers on loopback does so in less."""
PATIENT_MS = 2000
REGISTERS = {"power": 100, "energy": {"address": 102, "type": "uint32"}, "voltage": 110}
WORDS = {100: 29, 102: 0, 103: 61234, 110: 230}
DENSE = {address: address for address in range(90, 120)} | WORDS
VALUES = {"power": 29.0, "energy": 61234.0, "voltage": 230.0}


class QuickClock(Clock):
    """A clock that never sleeps, though time passes as if it had.

    meanwhile: what happens whenever somebody sleeps.
    """

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.slept_s: list[float] = []
        self._meanwhile = meanwhile

    def mono_s(self) -> float:
        return super().mono_s() + sum(self.slept_s)

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self._meanwhile()


def meter_at(port: int | None = 0, **communication: Any) -> Meter:
    """A meter on a port of this machine; None leaves a key out."""
    given = {"host": "127.0.0.1", "port": port, "timeout": PATIENT_MS, "registers": REGISTERS}
    document = {**given, **communication}
    return a_meter(communication={k: v for k, v in document.items() if v is not None})


def serial_meter(path: str, **communication: Any) -> Meter:
    line = {"transport": "rtu", "serialPort": path, "baudrate": 19200, "parity": "N"}
    return meter_at(None, host=None, **line, **communication)


def probe_of(meter: Meter, clock: Clock | None = None) -> Probe:
    """Probe as the line's thread does."""
    endpoint: Any = meter.communication.endpoint
    driver = ModbusDriver(endpoint, clock or QuickClock())
    try:
        return driver.probe(meter)
    finally:
        driver.close()


def told(found: Probe) -> list[tuple[Cause, str]]:
    return [(finding.cause, finding.message) for finding in found.findings]


def only(found: Probe) -> tuple[Cause, str]:
    (finding,) = told(found)
    return finding


class Site:
    """A simulated endpoint, probed; nothing ever asks it twice at once."""

    def __init__(self, transport: str = "tcp", gateway_timeout_s: float | None = None) -> None:
        self.simulator = Simulator(seed=1)
        self.endpoint: TcpEndpoint = self.simulator.add_tcp(
            transport=transport, gateway_timeout_s=gateway_timeout_s, record=1000
        )

    def unit(self, unit_id: int = 1, words: dict[int, int] | None = None) -> Unit:
        unit = self.endpoint.add_unit(unit_id)
        unit.set_registers(WORDS if words is None else words)
        return unit

    def meter(self, **communication: Any) -> Meter:
        transport = {"transport": self.endpoint.transport}
        return meter_at(self.endpoint.port, **{**transport, **communication})

    def probe(self, clock: Clock | None = None, **communication: Any) -> Probe:
        found = probe_of(self.meter(**communication), clock)
        assert self.endpoint.max_outstanding <= 1
        assert self.endpoint.max_connections <= 1
        return found


@contextlib.contextmanager
def a_site(transport: str = "tcp", gateway_timeout_s: float | None = None) -> Iterator[Site]:
    site = Site(transport, gateway_timeout_s)
    with site.simulator:
        yield site


# --- A sound meter -------------------------------------------------------------------------------


def test_a_sound_meter_is_read_with_its_neighbours_twice() -> None:
    with LibmodbusServer(DENSE) as server:
        clock = QuickClock(lambda: server.set_registers({103: 61235}))
        found = probe_of(meter_at(server.port), clock)
    assert found.findings == ()
    assert found.outcome is not None
    assert (found.outcome.values, found.outcome.error) == (VALUES, None)
    first = found.exchanges[0]
    assert first.asked == "unit 1: holding registers 100 to 110"
    assert first.raw is not None
    assert first.raw.startswith("001d 0065 0000 ef32 0068")
    assert first.error is None
    assert first.round_trip_s is not None
    assert 0 < first.round_trip_s < 1
    assert found.words == {(3, address): DENSE[address] for address in range(98, 115)}
    assert found.later_words == {**found.words, (3, 103): 61235}
    assert 2 <= found.later_s < 3
    assert len(found.exchanges) == 3  # the poll, its neighbourhood, and that again


def test_a_meter_that_refuses_holes_is_sound_too() -> None:
    with a_site() as site:
        site.unit()
        found = site.probe()
    assert found.findings == ()
    assert found.outcome is not None
    assert found.outcome.values == VALUES
    assert found.words == found.later_words == {(3, at): word for at, word in WORDS.items()}
    asked = [exchange.asked for exchange in found.exchanges]
    assert len(asked) < 40
    # Once by the poll, and once later: never for the sake of its neighbours alone.
    assert asked.count("unit 1: holding registers 102 to 103") == 2
    # What nobody registered is no fault where it is not there.
    errors = [exchange.error for exchange in found.exchanges if exchange.error is not None]
    assert set(errors[1:]) == {"exception 2: not there"}


def test_a_meter_that_refuses_holes_is_asked_for_so_many_neighbours_only() -> None:
    words = {address: address for address in range(100, 200, 10)}
    with a_site() as site:
        site.unit(words=words)
        registers = {name: 100 + 10 * place for place, name in enumerate(QUANTITY_NAMES[:10])}
        found = site.probe(registers=registers)
    beside = [exchange for exchange in found.exchanges if "what is beside" in exchange.asked]
    assert len(beside) == 24
    assert found.findings == ()
    assert found.words == found.later_words == {(3, at): word for at, word in words.items()}


def test_a_meter_that_falls_silent_over_its_neighbours_is_left_alone() -> None:
    class Shy(Unit):
        def answer(self, pdu: bytes) -> tuple[bytes, Fault | None]:
            reply, fault = super().answer(pdu)
            return reply, Fault(FaultKind.SILENT) if pdu[2] in (98, 198) else fault

    with a_site() as site:
        unit = site.endpoint.units[1] = Shy(1, "tcp")
        unit.set_registers({100: 29, 200: 230})
        registers = {"power": 100, "voltage": 200}
        found = site.probe(registers=registers, timeout=TIMEOUT_MS)
    assert found.findings == ()
    assert found.words == found.later_words == {(3, 100): 29, (3, 200): 230}
    assert [exchange.round_trip_s for exchange in found.exchanges].count(None) == 1


def test_a_meter_that_falls_silent_later_is_left_alone() -> None:
    with a_site() as site:
        unit = site.unit(words=DENSE | {address + 100: 0 for address in DENSE})
        clock = QuickClock(lambda: unit.set_fault(Fault(FaultKind.SILENT)))
        registers = {"power": 100, "voltage": 200}
        found = site.probe(clock, registers=registers, timeout=TIMEOUT_MS)
    assert len(found.words) == 14
    assert found.later_words == {}
    assert [exchange.round_trip_s for exchange in found.exchanges].count(None) == 1


def test_a_number_is_never_put_together_of_two_moments() -> None:
    class Rolling(Unit):
        """Its counter of four words is n, n, n, n in the n-th answer."""

        def answer(self, pdu: bytes) -> tuple[bytes, Fault | None]:
            self.set_registers(dict.fromkeys(range(102, 106), self.requests))
            return super().answer(pdu)

    with a_site() as site:
        unit = site.endpoint.units[1] = Rolling(1, "tcp")
        # Without 109 the neighbourhood is refused, and its halves part the counter.
        unit.set_registers(dict.fromkeys(range(100, 109), 7))
        found = site.probe(registers={"energy": {"address": 102, "type": "uint64"}})
    for words_read in (found.words, found.later_words):
        assert (3, 101) in words_read
        assert (3, 106) in words_read
        assert len({words_read[3, address] for address in range(102, 106)}) == 1


def test_neighbours_end_where_the_addresses_do() -> None:
    registers = {"power": 0, "energy": {"address": 65535, "registerType": "input"}}
    with a_site() as site:
        unit = site.endpoint.add_unit(1, strict=False)
        unit.set_registers({0: 29}, {65535: 5})
        found = site.probe(registers=registers)
    assert found.findings == ()
    at_start = [(3, address) for address in range(5)]
    assert sorted(found.words) == at_start + [(4, address) for address in (65533, 65534, 65535)]


def test_the_request_delay_is_kept_between_all_requests() -> None:
    clock = QuickClock()
    with a_site() as site:
        site.unit(2)
        found = site.probe(clock, requestDelay=5000, timeout=TIMEOUT_MS)
    assert only(found)[0] is Cause.WRONG_UNIT_ID
    # Over the whole search, and all but the first request have one before them.
    assert len(found.exchanges) > 5
    assert sum(clock.slept_s) > 4.9 * (len(found.exchanges) - 1)
    assert max(clock.slept_s) <= 5


def test_a_meter_that_has_no_value_says_so() -> None:
    with a_site() as site:
        site.unit(words={100: 0xFFFF})
        registers = {"power": {"address": 100, "notAvailable": 0xFFFF}}
        found = site.probe(registers=registers)
    assert only(found)[0] is Cause.NO_VALUE
    assert found.outcome is not None
    assert found.words == {(3, 100): 0xFFFF}


def test_a_registered_meter_is_polled_after_its_probe_as_before() -> None:
    with a_site() as site:
        site.unit()
        meter = site.meter()
        endpoint: Any = meter.communication.endpoint
        driver = ModbusDriver(endpoint, QuickClock())
        driver.open(1.0)
        before = driver.poll(meter, trial=False)
        driver.probe(meter)
        after = driver.poll(meter, trial=False)
        driver.close()
    assert before.values == after.values == VALUES


# --- The way to it -------------------------------------------------------------------------------


def test_a_refused_connection_is_all_that_is_told() -> None:
    port = free_port()
    found = probe_of(meter_at(port))
    cause, message = only(found)
    assert cause is Cause.CONNECTION_REFUSED
    assert "check the port" in message
    (exchange,) = found.exchanges
    assert exchange.asked == f"connection to tcp://127.0.0.1:{port}"
    assert exchange.error == message
    assert found.outcome is None


def test_a_serial_port_that_is_not_there_is_told() -> None:
    assert only(probe_of(serial_meter("/dev/ttyNone9")))[0] is Cause.NO_SERIAL_PORT


def test_a_line_that_is_lost_on_the_way_leaves_what_was_read(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, LibmodbusServer(WORDS, device=wire.left):
        found = probe_of(serial_meter(wire.right), QuickClock(wire.unplug))
    assert only(found)[0] is Cause.NO_SERIAL_PORT
    assert found.outcome is not None
    assert found.outcome.values == VALUES


# --- Nobody answers ------------------------------------------------------------------------------


def test_silence_while_other_units_answer_is_a_wrong_unit_id() -> None:
    with a_site() as site:
        site.unit(1)
        site.unit(2).set_fault(Fault(FaultKind.EXCEPTION, code=4))  # a refusal is an answer
        found = site.probe(unitId=5, timeout=TIMEOUT_MS)
        asked = {seen.unit_id for seen in site.endpoint.seen}
    cause, message = only(found)
    assert cause is Cause.WRONG_UNIT_ID
    assert message.startswith("Unit 5 is silent but 1 and 2 answer: wrong unit id")
    assert asked == {5, 1, 2, 3, 10, 100, 247, 255}


def test_silence_of_all_is_told_with_what_to_check_on_a_network() -> None:
    with a_site() as site:
        found = site.probe(timeout=TIMEOUT_MS)
    cause, message = only(found)
    assert cause is Cause.SILENT
    assert "serial settings and wiring behind a gateway" in message
    assert "`dlm-edge probe --scan`" in message
    assert found.outcome is None
    # The poll, again, and in other frames; the search is for others.
    assert sum(exchange.asked.startswith("unit 1:") for exchange in found.exchanges) == 3


def test_silence_is_told_though_the_next_connection_is_refused() -> None:
    with a_site() as site:
        site.unit().set_fault(Fault(FaultKind.SILENT))
        clock = QuickClock(lambda: site.endpoint.set_fault(Fault(FaultKind.REFUSE)))
        found = site.probe(clock, requestDelay=1, timeout=TIMEOUT_MS)
    assert only(found)[0] is Cause.SILENT
    assert found.exchanges[-1].asked.startswith("connection to")


def test_silence_of_all_is_told_with_what_to_check_on_a_serial_line(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire:
        found = probe_of(serial_meter(wire.right, timeout=TIMEOUT_MS))
    cause, message = only(found)
    assert cause is Cause.SILENT
    for word in ("19200 baud and parity N", "A and B", "termination", "`dlm-edge probe --scan`"):
        assert word in message
    assert not any("unit 255" in exchange.asked for exchange in found.exchanges)


def test_a_wrong_unit_id_is_found_on_a_serial_line(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, Simulator() as simulator:
        simulator.add_serial(wire.left).add_unit(10)
        found = probe_of(serial_meter(wire.right, timeout=TIMEOUT_MS))
    cause, message = only(found)
    assert cause is Cause.WRONG_UNIT_ID
    assert "but 10 answers" in message
    assert "set unitId to 10" in message


@pytest.mark.parametrize(
    ("units", "words"),
    [((3,), "but 3 answers"), ((), "nor any of the usual"), ((7,), "`dlm-edge probe --scan`")],
)
def test_a_gateway_that_reaches_nobody_is_a_wrong_unit_id(units: Sequence[int], words: str) -> None:
    with a_site(gateway_timeout_s=0.01) as site:
        for unit_id in units:
            site.unit(unit_id)
        found = site.probe(unitId=5)
    cause, message = only(found)
    assert cause is Cause.WRONG_UNIT_ID
    assert words in message


def test_a_unit_that_is_not_among_the_usual_ones_is_left_to_a_scan() -> None:
    with a_site() as site:
        site.unit(5)
        found = site.probe(unitId=1, timeout=TIMEOUT_MS)
    cause, message = only(found)
    assert cause is Cause.SILENT
    assert "find the units that answer with `dlm-edge probe --scan`" in message


def test_one_lost_answer_is_no_wrong_unit_id() -> None:
    with a_site() as site:
        site.unit(2)
        site.unit(1).set_fault(Fault(FaultKind.SILENT, requests=1))
        found = site.probe(timeout=TIMEOUT_MS)
    cause, message = only(found)
    assert cause is Cause.SILENT
    assert "asked again" in message


def test_silence_for_some_registers_only_names_them() -> None:
    class Deaf(Unit):
        def answer(self, pdu: bytes) -> tuple[bytes, Fault | None]:
            reply, fault = super().answer(pdu)
            address = int.from_bytes(pdu[1:3], "big")
            return reply, Fault(FaultKind.SILENT) if address == 500 else fault

    with a_site() as site:
        unit = site.endpoint.units[1] = Deaf(1, "tcp")
        unit.set_registers({100: 29, 500: 5})
        found = site.probe(registers={"power": 100, "energy": 500}, timeout=TIMEOUT_MS)
    cause, message = only(found)
    assert cause is Cause.SILENT
    assert "holding register 500" in message
    assert found.outcome is not None
    assert found.outcome.values == {"power": 29.0}
    assert found.words == {}


def test_a_device_that_hangs_up_may_allow_one_client() -> None:
    with a_site() as site:
        for unit_id in (1, 2, 3, 10, 100, 247, 255):
            site.unit(unit_id).set_fault(Fault(FaultKind.CLOSE))
        found = site.probe()
    cause, message = only(found)
    assert cause is Cause.CONNECTION_LOST
    assert "one client at a time" in message


def timeouts_of(timeout_ms: int) -> list[float]:
    """How long a probe waits where nobody ever answers: each of its time-outs, s."""
    waited: list[float] = []

    def read(request: ReadRequest, timeout_s: float) -> Sequence[int]:
        waited.append(timeout_s)
        raise NoReply("It is silent.")

    with (
        mock.patch.object(ModbusDriver, "make_ready"),
        mock.patch.object(ModbusDriver, "read", side_effect=read),
    ):
        assert only(probe_of(meter_at(502, timeout=timeout_ms)))[0] is Cause.SILENT
    return waited


def test_no_wait_is_longer_than_the_time_out_and_all_are_bounded() -> None:
    assert set(timeouts_of(50)) == {0.05}
    assert sum(timeouts_of(1000)) <= 12
    assert sum(timeouts_of(60_000)) <= 20
    assert max(timeouts_of(60_000)) == 5


# --- It refuses ----------------------------------------------------------------------------------


class OneTable(Unit):
    """Knows one function only."""

    function = 4

    def answer(self, pdu: bytes) -> tuple[bytes, Fault | None]:
        if pdu[0] != self.function:
            return exception(pdu[0], 1), None
        return super().answer(pdu)


class NoTable(OneTable):
    function = 0


@pytest.mark.parametrize(
    ("kind", "inputs", "words"),
    [
        (OneTable, WORDS | dict.fromkeys(range(90, 120), 0), "set registerType to input"),
        (OneTable, {7: 7}, "set registerType to input, and check the addresses"),
        (NoTable, {}, "neither holding nor input"),
    ],
)
def test_an_illegal_function_is_tried_on_the_other_table(
    kind: type[OneTable], inputs: dict[int, int], words: str
) -> None:
    with a_site() as site:
        unit = site.endpoint.units[1] = kind(1, "tcp")
        unit.set_registers(inputs=inputs)
        found = site.probe()
    cause, message = only(found)
    assert cause is Cause.ILLEGAL_FUNCTION
    assert words in message


def test_the_registers_that_are_refused_are_named() -> None:
    with a_site() as site:
        site.unit(words={3059: 31, 3027: 2298})
        registers = {"power": 3078, "energy": 45056, "voltage": 3027, "current": 3059}
        found = site.probe(registers=registers)
    cause, message = only(found)
    assert cause is Cause.ILLEGAL_ADDRESS
    assert message == (
        "power at 3078 and energy at 45056 are refused: check the addresses in the meter's manual."
    )
    assert found.outcome is not None
    assert found.outcome.values == {"voltage": 2298.0, "current": 31.0}
    assert (3, 3027) in found.later_words


def test_a_manual_that_counts_from_1_is_recognised() -> None:
    with a_site() as site:
        site.unit(words={99: 29, 109: 230})
        found = site.probe(registers={"power": 100, "voltage": 110})
    cause, message = only(found)
    assert cause is Cause.ILLEGAL_ADDRESS
    assert message.startswith("power at 100 and voltage at 110 are refused: one address lower")


def test_a_register_of_another_quantity_is_no_sign_of_counting_from_1() -> None:
    with a_site() as site:
        site.unit(words={99: 29})
        found = site.probe(registers={"power": 99, "voltage": 100})
    assert only(found)[1].startswith("voltage at 100 is refused: check")


def test_there_is_nothing_below_the_first_address() -> None:
    with a_site() as site:
        site.unit()
        found = site.probe(registers={"power": 0})
    assert only(found)[1].startswith("power at 0 is refused: check")


def test_a_device_that_falls_silent_over_a_suggestion_is_left_alone() -> None:
    class Moody(Unit):
        def answer(self, pdu: bytes) -> tuple[bytes, Fault | None]:
            reply, fault = super().answer(pdu)
            return reply, Fault(FaultKind.SILENT) if pdu[0] == 4 else fault

    with a_site() as site:
        site.endpoint.units[1] = Moody(1, "tcp")
        found = site.probe(registers={"power": 10, "energy": 500}, timeout=TIMEOUT_MS)
    assert only(found)[1].startswith("power at 10 and energy at 500 are refused: check")
    assert sum(exchange.round_trip_s is None for exchange in found.exchanges) == 1


def test_registers_of_the_other_table_are_recognised() -> None:
    registers = {"power": 100, "energy": 7, "voltage": 0}
    with LibmodbusServer({0: 230}, {100: 29, 101: 3}) as server:
        found = probe_of(meter_at(server.port, registers=registers))
    assert found.words == {(3, 0): 230}  # not what was read for the suggestion
    assert told(found) == [
        (
            Cause.ILLEGAL_ADDRESS,
            "power at 100 is refused: set registerType to input, which answers.",
        ),
        (
            Cause.ILLEGAL_ADDRESS,
            "energy at 7 is refused: check the addresses in the meter's manual.",
        ),
    ]


@pytest.mark.parametrize("strays", [0, 1])
def test_where_all_that_were_tried_lie_in_the_other_table_so_does_the_rest(strays: int) -> None:
    """Not all of them are tried, as that would take long."""
    registers = {name: 100 + 10 * place for place, name in enumerate(QUANTITY_NAMES[:12])}
    holding = dict.fromkeys(list(registers.values())[strays:], 5)
    with a_site() as site:
        site.endpoint.add_unit(1).set_registers(holding, {7: 7})
        found = site.probe(registers=registers, registerType="input")
    messages = [message for _, message in told(found)]
    if strays:
        assert len(messages) == 2
        assert messages[0].endswith("are refused: set registerType to holding, which answers.")
        assert f"{QUANTITY_NAMES[11]} at 210 are refused: check the addresses" in messages[1]
    else:
        (message,) = messages
        assert all(f"{name} at {address}" in message for name, address in registers.items())
        assert message.endswith(
            "are refused: set registerType to holding, which answers for the first 10."
        )


@pytest.mark.parametrize("code", [4, 5, 6, 8])
def test_a_device_in_trouble_is_asked_no_more(code: int) -> None:
    with a_site() as site:
        site.unit().set_fault(Fault(FaultKind.EXCEPTION, code=code))
        found = site.probe()
        assert site.endpoint.requests == 1
    cause, message = only(found)
    assert cause is Cause.DEVICE_EXCEPTION
    assert f"exception {code}" in message


def test_a_block_that_is_too_long_is_told() -> None:
    with a_site() as site:
        site.unit().set_fault(Fault(FaultKind.EXCEPTION, code=3))
        found = site.probe()
    cause, message = only(found)
    assert cause is Cause.DEVICE_EXCEPTION
    assert "maxRegistersPerRequest" in message


# --- It cannot be understood ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        ("tcp", FaultKind.GARBAGE),
        ("tcp", FaultKind.HALF),
        ("tcp", FaultKind.WRONG_TRANSACTION),
        ("tcp", FaultKind.WRONG_UNIT),
        ("tcp", FaultKind.WRONG_COUNT),
        ("rtu-over-tcp", FaultKind.GARBAGE),
        ("rtu-over-tcp", FaultKind.BAD_CRC),
        ("rtu-over-tcp", FaultKind.HALF),
    ],
)
def test_answers_that_are_none_are_unreadable(transport: str, kind: FaultKind) -> None:
    with a_site(transport) as site:
        site.unit(words=DENSE).set_fault(Fault(kind))
        found = site.probe(timeout=TIMEOUT_MS)
    cause, message = only(found)
    assert cause is Cause.UNREADABLE
    assert f"port {site.endpoint.port}" in message


@pytest.mark.parametrize(
    ("spoken", "registered"), [("rtu-over-tcp", "tcp"), ("tcp", "rtu-over-tcp")]
)
def test_a_gateway_that_speaks_the_other_frames_is_recognised(spoken: str, registered: str) -> None:
    with a_site(spoken) as site:
        site.unit(words=DENSE)
        found = site.probe(transport=registered, timeout=TIMEOUT_MS)
    cause, message = only(found)
    assert cause is Cause.UNREADABLE
    assert f"set transport to {spoken}" in message
    assert found.exchanges[-1].asked == f"unit 1: holding registers 100 to 110 ({spoken})"
    assert found.exchanges[-1].error is None


def test_noise_on_a_serial_line_is_told_with_its_settings(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, Simulator() as simulator:
        unit = simulator.add_serial(wire.left).add_unit(1)
        unit.set_registers(WORDS)
        unit.set_fault(Fault(FaultKind.BAD_CRC))
        found = probe_of(serial_meter(wire.right, timeout=TIMEOUT_MS))
    cause, message = only(found)
    assert cause is Cause.UNREADABLE
    assert "19200 baud and parity N" in message
    assert "check baudrate" in message


# --- SunSpec -------------------------------------------------------------------------------------


def test_the_discovery_of_a_sunspec_meter_is_shown() -> None:
    with a_site() as site:
        site.unit(words=words("meter", 1) | {BASE_ADDRESS + 88: 5000})
        found = site.probe(registers=None, sunspec="meter")
    asked = [exchange.asked for exchange in found.exchanges]
    assert asked[0] == "unit 1: holding registers 40000 to 40001"
    assert found.exchanges[0].raw == "5375 6e53"
    assert asked[1] == "unit 1: holding registers 40002 to 40003"
    assert found.findings == ()
    assert found.outcome is not None
    assert found.outcome.values["power"] == 5.0


def test_a_device_that_is_no_sunspec_device_is_told_so() -> None:
    with a_site() as site:
        site.unit()
        found = site.probe(registers=None, sunspec="meter")
    assert "There is no SunSpec marker" in only(found)[1]
    assert [exchange.asked.rpartition(" ")[2] for exchange in found.exchanges] == [
        "40001",
        "50001",
        "1",
    ]
    assert found.outcome is None
