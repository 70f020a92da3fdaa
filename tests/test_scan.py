"""The scan: who is on a line and what it is, found on real wires with one request in flight."""

from __future__ import annotations

import os
import pty
import select
import struct
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import Clock
from edge.communication import ModbusEndpoint
from edge.drivers.modbus.scan import Found, ScanProgress, scan, settings_to_try
from edge.errors import Cause, LineError
from edge.library import Library
from edge.simulate import Fault, FaultKind, Simulator, TcpEndpoint
from edge.simulate.sunspec import words
from edge.simulate.wire import pack_rtu, split_rtu
from edge.template import Template, parse_template
from tests.peers import LibmodbusServer, free_port, pty_pair, wait_until

SILENT_S = 1.0
"""Long, so that on a busy machine nobody who is there is taken for silent."""
B23 = {0x8960: 0x4232, 0x8961: 0x3320}
"""What an ABB B23 says of itself: the letters B23."""
LIBRARY = Library()
KNOWN = [LIBRARY[name] for name in ("abb-b21", "abb-b23", "sunspec-meter", "sunspec-inverter")]


class QuickClock(Clock):
    """A clock that never sleeps. meanwhile: what happens whenever somebody would."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._meanwhile = meanwhile

    def sleep(self, duration_s: float) -> None:
        self._meanwhile()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(seed=1) as running:
        yield running


@pytest.fixture
def gateway(simulator: Simulator) -> TcpEndpoint:
    return simulator.add_tcp(record=10_000, gateway_timeout_s=0.001)


def endpoint_of(server: TcpEndpoint | LibmodbusServer, transport: str = "tcp") -> ModbusEndpoint:
    return ModbusEndpoint(transport, host=server.host, port=server.port)


def serial_endpoint(path: str, baudrate: int = 9600) -> ModbusEndpoint:
    return ModbusEndpoint(
        "rtu", serial_port=path, baudrate=baudrate, parity="N", stopbits=1, bytesize=8
    )


def template(name: str, maker: str, **tables: object) -> Template:
    document = {
        "title": f"{maker} {name}",
        "maker": maker,
        "models": [name],
        "protocol": "modbus",
        "source": "made up",
        "communication": {"registers": {"power": 0}},
    }
    return parse_template(name, {**document, **tables})


# --- Who is there --------------------------------------------------------------------------------


def test_units_behind_a_gateway_are_found_and_named(gateway: TcpEndpoint) -> None:
    gateway.add_unit(7).set_registers(B23)
    gateway.add_unit(1).set_registers({0: 5})
    gateway.add_unit(247).set_fault(Fault(FaultKind.EXCEPTION, code=4))
    endpoint = endpoint_of(gateway)
    found = list(scan(endpoint, QuickClock(), templates=KNOWN))
    assert found == [
        Found(1, endpoint, (), "unknown meter"),
        Found(7, endpoint, ("abb-b23",), LIBRARY["abb-b23"].title),
        Found(247, endpoint, (), "unknown meter"),
    ]
    assert gateway.max_outstanding == 1
    assert gateway.max_connections == 1


def test_a_gateway_that_stays_silent_for_nobody_is_scanned_too(simulator: Simulator) -> None:
    gateway = simulator.add_tcp()
    gateway.add_unit(3)
    found = list(scan(endpoint_of(gateway), QuickClock(), units=(2, 3, 4), timeout_s=SILENT_S))
    assert [one.unit_id for one in found] == [3]


def test_a_serial_line_is_scanned(tmp_path: Path) -> None:
    # libmodbus takes what follows a request to another unit for that unit's answer: it is first.
    with pty_pair(tmp_path) as wire, LibmodbusServer(B23, device=wire.left, unit_id=3):
        endpoint = serial_endpoint(wire.right)
        scanning = scan(endpoint, QuickClock(), units=(3, 4), timeout_s=SILENT_S, templates=KNOWN)
        assert [(one.unit_id, one.templates) for one in scanning] == [(3, ("abb-b23",))]


def test_the_devices_of_a_serial_line_are_all_found(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, Simulator() as simulator:
        port = simulator.add_serial(wire.left)
        for unit_id in (2, 3, 5):
            port.add_unit(unit_id)
        endpoint = serial_endpoint(wire.right)
        scanning = scan(endpoint, QuickClock(), units=range(1, 6), timeout_s=SILENT_S)
        assert [one.unit_id for one in scanning] == [2, 3, 5]
        assert port.max_outstanding == 1


def test_noise_is_nobody(simulator: Simulator) -> None:
    gateway = simulator.add_tcp(transport="rtu-over-tcp")
    gateway.add_unit(1).set_fault(Fault(FaultKind.GARBAGE))
    gateway.add_unit(2)
    endpoint = endpoint_of(gateway, "rtu-over-tcp")
    found = scan(endpoint, QuickClock(), units=(1, 2), timeout_s=SILENT_S)
    assert [one.unit_id for one in found] == [2]


def test_a_device_that_answers_as_any_unit_is_found_once() -> None:
    with LibmodbusServer(B23) as server:
        (found,) = scan(endpoint_of(server), QuickClock(), templates=KNOWN)
    assert (found.unit_id, found.templates) == (1, ("abb-b23",))
    assert found.description.endswith("it answers as any unit")


def test_progress_is_told_before_each_unit(gateway: TcpEndpoint) -> None:
    gateway.add_unit(2)
    told: list[ScanProgress] = []
    endpoint = endpoint_of(gateway)
    list(scan(endpoint, QuickClock(), units=(1, 2, 3), progress=told.append))
    assert told == [
        ScanProgress(0, 3, 1, endpoint, 0),
        ScanProgress(1, 3, 2, endpoint, 0),
        ScanProgress(2, 3, 3, endpoint, 1),
    ]


def test_a_scan_that_is_closed_asks_nobody_more_and_lets_go_of_the_line(
    gateway: TcpEndpoint,
) -> None:
    for unit_id in (1, 2):
        gateway.add_unit(unit_id)
    scanning = scan(endpoint_of(gateway), QuickClock())
    assert next(scanning).unit_id == 1
    requests = gateway.requests
    scanning.close()
    wait_until(lambda: gateway.connections == 0, what="the end of the connection")
    assert gateway.requests == requests


def test_a_gateway_that_lets_go_slowly_is_given_a_moment(gateway: TcpEndpoint) -> None:
    for unit_id in (1, 2):
        gateway.add_unit(unit_id)
    scanning = scan(endpoint_of(gateway), QuickClock(gateway.heal), units=(1, 2))
    next(scanning)
    gateway.set_fault(Fault(FaultKind.REFUSE))
    assert [found.unit_id for found in scanning] == [2]


def test_a_gateway_that_is_gone_ends_the_scan(gateway: TcpEndpoint) -> None:
    gateway.add_unit(1)
    scanning = scan(endpoint_of(gateway), QuickClock(), units=(1, 2))
    next(scanning)
    gateway.set_fault(Fault(FaultKind.REFUSE))
    with pytest.raises(LineError) as caught:
        next(scanning)
    assert caught.value.cause is Cause.CONNECTION_REFUSED


def test_a_line_that_cannot_be_opened_is_told_at_once() -> None:
    endpoint = ModbusEndpoint("tcp", host="127.0.0.1", port=free_port())
    with pytest.raises(LineError) as caught:
        next(scan(endpoint, QuickClock(lambda: pytest.fail("it waits"))))
    assert caught.value.cause is Cause.CONNECTION_REFUSED


# --- At which settings ---------------------------------------------------------------------------


class ParticularMeter:
    """Unit 1 on a pseudo-terminal, which answers only while its other end is set to a baudrate."""

    def __init__(self, baudrate: int) -> None:
        self.asked: list[tuple[int, int]] = []
        """Baudrate, as termios has it, and unit id."""
        self._speed = getattr(termios, f"B{baudrate}")
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        buffer = bytearray()
        while self._stop_read not in select.select([self._master, self._stop_read], [], [])[0]:
            buffer += os.read(self._master, 4096)
            for request in split_rtu(buffer):
                speed = termios.tcgetattr(self._slave)[5]
                self.asked.append((speed, request.unit_id))
                if speed == self._speed and request.unit_id == 1:
                    os.write(self._master, pack_rtu(request, struct.pack(">BBH", 3, 2, 5)))

    def __enter__(self) -> ParticularMeter:
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
        for file in (self._master, self._slave, self._stop_read, self._stop_write):
            os.close(file)


def test_the_settings_are_tried_until_somebody_answers_and_then_no_more() -> None:
    told: list[ScanProgress] = []
    with ParticularMeter(38400) as meter:
        found = list(
            scan(
                serial_endpoint(meter.path, 19200),
                QuickClock(),
                units=(1, 2),
                bauds=(9600, 38400, 4800),
                parities=("N",),
                timeout_s=SILENT_S,
                progress=told.append,
            )
        )
    assert found == [Found(1, serial_endpoint(meter.path, 38400), (), "unknown meter")]
    speeds = list(dict.fromkeys(speed for speed, _ in meter.asked))
    assert speeds == [termios.B19200, termios.B9600, termios.B38400]
    assert [(at.done, at.total) for at in told] == [(0, 8), (1, 8), (2, 8), (3, 8), (4, 8), (5, 6)]


def test_a_setting_that_the_adapter_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, {9600})
    with ParticularMeter(19200) as meter:
        endpoint = serial_endpoint(meter.path)
        found = list(scan(endpoint, QuickClock(), units=(1,), bauds=(19200,), parities=("N",)))
    assert [one.settings.baudrate for one in found] == [19200]


def test_an_adapter_that_is_pulled_out_between_two_settings_ends_the_scan(tmp_path: Path) -> None:
    adapter = tmp_path / "ttyAdapter"
    with ParticularMeter(19200) as meter:
        adapter.symlink_to(meter.path)
        scanning = scan(
            serial_endpoint(str(adapter)),
            QuickClock(),
            units=(1,),
            bauds=(4800, 19200),
            parities=("N",),
            timeout_s=SILENT_S,
            progress=lambda _progress: adapter.unlink(),
        )
        with pytest.raises(LineError) as caught:
            next(scanning)
    assert caught.value.cause is Cause.NO_SERIAL_PORT


def test_a_port_without_any_usable_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, {9600, 19200})
    with ParticularMeter(19200) as meter, pytest.raises(LineError) as caught:
        next(scan(serial_endpoint(meter.path), QuickClock(), bauds=(19200,), parities=("N",)))
    assert caught.value.cause is Cause.SERIAL_PORT_UNUSABLE


def without(monkeypatch: pytest.MonkeyPatch, bauds: set[int]) -> None:
    """Take baudrates away from all adapters."""

    class Adapter(serial.Serial):
        def __init__(self, path: str, baudrate: int, **settings: Any) -> None:
            if baudrate in bauds:
                raise ValueError(f"Invalid baud rate: {baudrate}")
            super().__init__(path, baudrate, **settings)

    monkeypatch.setattr(serial, "Serial", Adapter)


rates = st.integers(300, 115200)
parities = st.sampled_from("NEO")


@given(rates, parities, st.lists(rates), st.lists(parities))
def test_all_settings_are_tried_once_the_own_ones_first(
    own_baud: int, own_parity: str, bauds: list[int], others: list[str]
) -> None:
    own = ModbusEndpoint("rtu", serial_port="/dev/ttyS9", baudrate=own_baud, parity=own_parity)
    settings = settings_to_try(own, bauds, others)
    assert settings[0] == own
    tried = [(setting.baudrate, setting.parity) for setting in settings]
    assert len(tried) == len(set(tried))
    assert set(tried) == {(b, p) for b in {own_baud, *bauds} for p in {own_parity, *others}}


def test_a_network_has_no_settings_to_try() -> None:
    endpoint = ModbusEndpoint("rtu-over-tcp", host="127.0.0.1", port=502)
    assert settings_to_try(endpoint, (9600,), ("N",)) == (endpoint,)


# --- What it is ----------------------------------------------------------------------------------


def found_with(simulator: Simulator, templates: list[Template], **tables: dict[int, int]) -> Found:
    gateway = simulator.add_tcp(record=100, gateway_timeout_s=0.001)
    gateway.add_unit(1).set_registers(**tables)
    (found,) = scan(endpoint_of(gateway), QuickClock(), units=(1,), templates=templates)
    asked = [seen for seen in gateway.seen if seen.unit_id == 1]
    assert len({seen.pdu for seen in asked}) == len(asked), "asked twice for the same"
    return found


def test_templates_with_the_same_place_share_one_question(simulator: Simulator) -> None:
    one = template("one", "Acme", identify={"address": 11, "values": [71, 72]})
    two = template("two", "Acme", identify={"address": 11, "values": [72]})
    other = template("other", "Acme", identify={"address": 11, "values": [73]})
    found = found_with(simulator, [one, two, other], holding={11: 72})
    assert (found.templates, found.description) == (("one", "two"), "Acme one or Acme two")


def test_the_table_and_the_width_of_an_identification_count(simulator: Simulator) -> None:
    place = {"address": 11, "type": "uint32", "registerType": "input", "values": [0x10002]}
    narrow = template("narrow", "Acme", identify={"address": 11, "values": [1, 2]})
    found = found_with(
        simulator, [template("wide", "Acme", identify=place), narrow], inputs={11: 1, 12: 2}
    )
    assert found.templates == ("wide",)


def test_a_text_is_compared_from_its_start(simulator: Simulator) -> None:
    place = {"address": 30000, "count": 3}
    right = template("right", "Acme", identify={**place, "text": "SUN2"})
    wrong = template("wrong", "Acme", identify={**place, "text": "UN2"})
    text = dict(enumerate(struct.unpack(">3H", b"SUN200"), 30000))
    assert found_with(simulator, [right, wrong], holding=text).templates == ("right",)


def test_what_is_refused_is_no_zero(simulator: Simulator) -> None:
    zero = template("zero", "Acme", identify={"address": 11, "values": [0]})
    assert found_with(simulator, [zero], holding={0: 1}).templates == ()


def test_a_template_without_identification_fits_nobody(simulator: Simulator) -> None:
    assert found_with(simulator, [template("any", "Acme")], holding={0: 1}).templates == ()


def test_a_sunspec_device_names_itself(simulator: Simulator) -> None:
    sunspec = [t for t in LIBRARY.listing().templates if "sunspec" in t.communication]
    found = found_with(simulator, sunspec, holding=words("meter", 1))
    # Those for the meters of certain makers are not for this one's.
    assert found.templates == ("sunspec-meter",)
    assert found.description == "DLM Edge simulated meter 1"


def test_nothing_is_asked_of_a_unit_that_the_library_does_not_want(simulator: Simulator) -> None:
    gateway = simulator.add_tcp(record=10)
    gateway.add_unit(1)
    list(scan(endpoint_of(gateway), QuickClock(), units=(1,), timeout_s=SILENT_S))
    asked = [struct.unpack(">BHH", seen.pdu) for seen in gateway.seen if seen.unit_id == 1]
    assert asked == [(3, 0, 1), (3, 40000, 2)]
