"""`dlm-edge probe` and `dlm-edge templates`, against real peers: what they print, and their end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge.__main__ import main
from edge.clock import Clock
from edge.commands import probe as probe_module
from edge.drivers.mqtt import MqttListener
from edge.library import Library
from edge.simulate import Endpoint, Simulator, TcpEndpoint
from edge.simulate.demo import template_meters
from edge.simulate.template import ModbusDevice
from tests.brokers import Mosquitto
from tests.http_peer import Exchange, HttpPeer, http_peer
from tests.peers import LibmodbusServer, free_port, pty_pair
from tests.service import ROOT, Service

ONE_REGISTER = ("--set", "registers.power=9")


class QuickClock(Clock):
    """A clock that never sleeps, though time passes as if it had."""

    def __init__(self) -> None:
        self._slept_s = 0.0

    def mono_s(self) -> float:
        return super().mono_s() + self._slept_s

    def sleep(self, duration_s: float) -> None:
        self._slept_s += duration_s


class Shell:
    """Runs commands as the command line does. out, err: what the last one printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], config: Path) -> None:
        self.config = config
        self.out = self.err = ""
        self._capsys = capsys

    def run(self, command: str, *arguments: str) -> int:
        """Give the exit code."""
        try:
            return main([command, "--config", str(self.config), *arguments])
        finally:
            self.out, self.err = self._capsys.readouterr()

    def probe(self, *arguments: str) -> int:
        return self.run("probe", *arguments)

    def asked(self, *arguments: str) -> Any:
        """Probe something, and give what --json says."""
        code = self.probe(*arguments, "--json")
        document = json.loads(self.out)
        causes = [finding["cause"] for finding in document["findings"]]
        assert code == (0 if causes == ["none"] else 1)
        return document

    def findings(self, *arguments: str) -> list[tuple[str, str]]:
        """Probe something: cause and message of what is found."""
        return [(each["cause"], each["message"]) for each in self.asked(*arguments)["findings"]]

    def told(self, *arguments: str) -> tuple[str, str]:
        """Probe something of which one thing is found, which stands in the text, too."""
        ((cause, message),) = self.findings(*arguments)
        assert self.probe(*arguments) == (0 if cause == "none" else 1)
        assert self.out.endswith(f"\n{cause}: {message}\n")
        return cause, message

    def refused(self, *arguments: str) -> str:
        """Give what is said of flags that make no meter; nothing else is printed."""
        assert self.probe(*arguments) == 2
        assert self.out == ""
        return self.err


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    for name in os.environ:
        if name.startswith("DLM_EDGE_"):
            monkeypatch.delenv(name)
    config = tmp_path / "edge.toml"
    config.write_text("# Defaults.\n")
    return Shell(capsys, config)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between the two looks that a probe takes."""
    monkeypatch.setattr(probe_module, "Clock", QuickClock)


@pytest.fixture
def modbus() -> Iterator[LibmodbusServer]:
    with LibmodbusServer(dict.fromkeys(range(20), 25)) as server:
        yield server


@contextmanager
def speaking(broker: Mosquitto, topic: str, payload: str) -> Iterator[None]:
    """A device that publishes over and over."""
    stopped = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect(broker.host, broker.port)

    def speak() -> None:
        while not stopped.wait(0.05):
            client.publish(topic, payload)

    thread = threading.Thread(target=speak)
    client.loop_start()
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        client.disconnect()
        client.loop_stop()


@pytest.fixture
def broker(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mosquitto]:
    """The broker `default` of the configuration; a probe hears it for a second only."""
    defaults = MqttListener.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "probe_wait_s", 1.0)  # type: ignore[arg-type]
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as broker:
        shell.config.write_text(f'[mqtt.brokers.default]\nhost = "{broker.host}"\n')
        with shell.config.open("a") as file:
            file.write(f"port = {broker.port}\n")
        yield broker


# --- Flags into a registration -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("127.0.0.1:{port}", "tcp://127.0.0.1:{port}"),
        ("localhost:{port}", "tcp://localhost:{port}"),
        ("[::1]:{port}", "tcp://[::1]:{port}"),
        ("http://127.0.0.1:{port}/api", "http://127.0.0.1:{port}"),
        ("https://127.0.0.1:{port}/api", "https://127.0.0.1:{port}"),
    ],
)
def test_a_target_is_a_meter_at_that_place(shell: Shell, target: str, line: str) -> None:
    port = free_port()
    set_registers = ONE_REGISTER if "http" not in target else ()
    found = shell.asked(target.format(port=port), *set_registers)
    assert found["line"] == line.format(port=port)
    assert found["findings"][0]["cause"] == "connection_refused"


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("no-such-host.invalid", "tcp://no-such-host.invalid:502"),
        ("::", "tcp://[::]:502"),
        ("[::1]", "tcp://[::1]:502"),
        ("/dev/ttyNobody", "rtu:/dev/ttyNobody"),
        ("mqtt:building/power", "mqtt:default"),
    ],
)
def test_what_a_target_leaves_out_is_the_default(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, target: str, line: str
) -> None:
    asked: list[str] = []

    def seen(meter: Any, *_: Any) -> Any:
        asked.append(meter.line)
        raise KeyboardInterrupt

    monkeypatch.setattr(probe_module, "make_driver", seen)
    set_registers = () if target.startswith("mqtt") else ONE_REGISTER
    assert shell.probe(target, *set_registers) == 1
    assert (asked, shell.out, shell.err) == ([line], "", "Stopped.\n")


@pytest.mark.usefixtures("quick")
def test_set_reaches_into_tables_and_takes_json_or_text(
    shell: Shell, modbus: LibmodbusServer
) -> None:
    found = shell.asked(
        f"127.0.0.1:{modbus.port}",
        *("--set", 'registers.power={"address": 9, "type": "uint16"}'),
        *("--set", "registers.powerL1=3", "--set", "registers.powerL1Scale=0.1"),
        *("--set", "transport=tcp", "--set", "maxGap=3"),
    )
    assert found["reading"] == {"currentPower": 25.0, "powerL1": 2.5}
    # Five registers lie between the two.
    assert [each["request"] for each in found["exchanges"]][:2] == [
        "unit 1: holding register 3",
        "unit 1: holding register 9",
    ]


@pytest.mark.usefixtures("quick")
def test_the_meter_type_decides_how_values_are_judged(
    shell: Shell, modbus: LibmodbusServer
) -> None:
    target = (f"127.0.0.1:{modbus.port}", "--set", "registers.power=9")
    high = ("--set", "registers.powerScale=100")  # 2,500 kW, and the grid carries 500 kW
    assert shell.asked(*target, *high)["quality"] == "good"
    assert shell.asked(*target, *high, "--meter-type", "solar")["quality"] == "suspect"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("through", ["a file", "standard input"])
def test_a_registration_is_read_from_a_file_and_flags_beat_it(
    shell: Shell,
    modbus: LibmodbusServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    through: str,
) -> None:
    document = {
        "name": "Main",
        "protocol": "modbus",
        "meterType": "zone",
        "communication": {
            "host": "127.0.0.1",
            "port": modbus.port,
            "registers": {"power": 9, "voltage": {"address": 100}},
        },
    }
    text = "\ufeff" + json.dumps(document) if through == "a file" else json.dumps(document)
    file = tmp_path / "meter.json"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    named = ("--registration", str(file) if through == "a file" else "-")
    assert shell.findings(*named)[0][0] == "illegal_address"
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    mended = ("--set", "registers.voltage=null", "--meter-type", "building")
    assert shell.probe(*named, *mended) == 0
    assert "judged as building" in shell.out


def test_a_key_of_a_template_wins_over_it(shell: Shell) -> None:
    port = free_port()
    given = ("--template", "abb-b23", "--unit", "7")
    found = shell.asked(f"127.0.0.1:{port}", *given)
    assert found["line"] == f"tcp://127.0.0.1:{port}"
    assert shell.probe(f"127.0.0.1:{port}", *given) == 1
    assert "\nunit 7\n" in shell.out


def test_a_template_takes_what_the_installer_knows(shell: Shell) -> None:
    template = ("mqtt:", "--template", "shelly-3em")
    assert "communication.device: " in shell.refused(*template)
    shell.config.write_text(f'[mqtt.brokers.default]\nhost = "127.0.0.1"\nport = {free_port()}\n')
    assert shell.told(*template, "--set", "device=shellyem3-84cca8")[0] == "connection_refused"


def test_wrong_use_is_told_and_nothing_is_asked(shell: Shell, tmp_path: Path) -> None:
    nothing = shell.refused()
    assert "what is to be probed? give a target, or --registration FILE" in nothing
    both = shell.refused("127.0.0.1", "--registration", "x.json")
    assert "give either a target or --registration" in both
    for flag, words in {
        "registers.power": "give KEY=VALUE",
        "host.name=1": "host is not a table",
        "registers.power.address.deep=1": "",
    }.items():
        said = shell.refused("127.0.0.1", "--set", "registers.power=1", "--set", flag)
        assert said.startswith("dlm-edge probe: "), said
        assert words in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "is no registration"),
        ('{"communication": 1}', "is no registration"),
        ('{"communication": {}}', "protocol: is missing"),
    ],
)
def test_a_registration_that_is_none(
    shell: Shell, tmp_path: Path, content: str | None, words: str
) -> None:
    file = tmp_path / "meter.json"
    if content is not None:
        file.write_text(content)
    assert words in shell.refused("--registration", str(file))


def test_every_fault_of_the_flags_is_named(shell: Shell) -> None:
    said = shell.refused("127.0.0.1:99999", *ONE_REGISTER, "--unit", "300")
    assert "communication.port" in said
    assert "communication.unitId" in said


def test_an_unknown_template_names_the_nearest(shell: Shell) -> None:
    said = shell.refused("127.0.0.1", "--template", "abb-b32")
    assert said.startswith("dlm-edge probe: communication.template: ")
    assert "did you mean 'abb-b23'?" in said


def test_wrong_flags_end_with_2(shell: Shell) -> None:
    with pytest.raises(SystemExit) as end:
        shell.probe("127.0.0.1", "--unit", "one")
    assert end.value.code == 2


def test_no_token_is_printed(shell: Shell) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.give({"error": "bad token s3cret-t0ken"}, 401)

    with http_peer(refuse) as peer:
        target = (f"http://127.0.0.1:{peer.port}/?key=s3cret-t0ken",)
        for more in ((), ("--json",)):
            assert shell.probe(*target, "--set", "authToken=s3cret-t0ken", *more) == 1
            assert "s3cret-t0ken" not in shell.out + shell.err


# --- What is printed -----------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_good_meter_is_shown_request_by_request(shell: Shell, modbus: LibmodbusServer) -> None:
    target = f"127.0.0.1:{modbus.port}"
    assert shell.probe(target, *ONE_REGISTER) == 0
    head, *lines = shell.out.splitlines()
    assert head == f"tcp://{target}, modbus, judged as grid"
    assert lines[0] == "unit 1"
    assert lines[2].startswith("> unit 1: holding register 9  (")
    assert lines[3] == "< 0019"
    assert "  power                      25 kW" in lines
    assert lines[-1] == "none: Everything was read, and the values are plausible."


def test_json_is_what_the_service_answers(
    shell: Shell, modbus: LibmodbusServer, tmp_path: Path
) -> None:
    registration = {
        "name": "Main",
        "protocol": "modbus",
        "meterType": "grid",
        "communication": {
            "host": "127.0.0.1",
            "port": modbus.port,
            "registers": {"power": 9, "voltage": 10},
        },
    }
    file = tmp_path / "meter.json"
    file.write_text(json.dumps(registration))
    here = shell.asked("--registration", str(file))
    folder = tmp_path / "service"
    folder.mkdir()
    with Service(folder) as service:
        status, answer = service.request("POST", "/api/energy-meters/test", registration)
        assert service.request("GET", "/api/energy-meters")[1]["data"] == []
    assert status == 200
    for found in (here, answer["data"]):
        for exchange in found["exchanges"]:
            assert exchange.pop("roundTripMs") > 0
    assert here == answer["data"]
    assert here["quality"] == "suspect"  # 25 V
    assert here["interpretations"].keys() == {"voltage"}


# --- The guide's troubleshooting -----------------------------------------------------------------


def test_modbus_connection_nothing_listens(shell: Shell) -> None:
    cause, message = shell.told(f"127.0.0.1:{free_port()}", *ONE_REGISTER)
    assert cause == "connection_refused"
    assert "port" in message


@pytest.mark.usefixtures("quick")
def test_modbus_connection_a_wrong_register_address(shell: Shell, modbus: LibmodbusServer) -> None:
    cause, message = shell.told(f"127.0.0.1:{modbus.port}", "--set", "registers.power=20480")
    assert cause == "illegal_address"
    assert "power at 20480" in message


@pytest.mark.usefixtures("quick")
def test_modbus_connection_a_wrong_unit_id(shell: Shell) -> None:
    with Simulator() as simulator:
        gateway = simulator.add_tcp(gateway_timeout_s=0.001)
        gateway.add_unit(3).set_registers({9: 25})
        cause, message = shell.told(f"127.0.0.1:{gateway.port}", *ONE_REGISTER, "--unit", "5")
    assert cause == "wrong_unit_id"
    assert "set unitId to 3" in message


def test_mqtt_a_topic_in_the_wrong_case(shell: Shell, broker: Mosquitto) -> None:
    with speaking(broker, "Building/Energy/power", "25.5"):
        cause, message = shell.told("mqtt:building/energy/power")
        assert cause == "topic_not_heard"
        assert "but on Building/Energy/power; is one of these meant?" in message
        assert shell.told("mqtt:Building/Energy/power")[0] == "none"


def test_mqtt_no_broker(shell: Shell) -> None:
    shell.config.write_text(f'[mqtt.brokers.default]\nhost = "127.0.0.1"\nport = {free_port()}\n')
    cause, message = shell.told("mqtt:building/energy/power")
    assert cause == "connection_refused"
    assert "check that the broker runs" in message


def asks_for_a_token(exchange: Exchange) -> None:
    if exchange.asked.headers.get("authorization") == "Bearer good":
        exchange.give({"data": {"activePowerWatts": 30_200}})
    else:
        exchange.give({"error": "unauthorized"}, 401)


@pytest.fixture
def server() -> Iterator[HttpPeer]:
    with http_peer(asks_for_a_token) as peer:
        yield peer


def test_http_a_bad_token(shell: Shell, server: HttpPeer) -> None:
    target = f"http://127.0.0.1:{server.port}/api/energy"
    cause, message = shell.told(target, "--set", "authToken=bad")
    assert cause == "not_authorised"
    assert "check authToken" in message


def test_http_fields_by_other_names(shell: Shell, server: HttpPeer) -> None:
    target = (f"http://127.0.0.1:{server.port}/api/energy", "--set", "authToken=good")
    findings = shell.findings(*target)
    assert {cause for cause, _ in findings} == {"unreadable"}
    assert "try powerPath 'data.activePowerWatts'" in findings[-1][1]
    fixed = ("--set", "powerPath=data.activePowerWatts", "--set", "powerScale=0.001")
    assert shell.asked(*target, *fixed)["reading"] == {"currentPower": 30.2}


METER = {
    "power": {"address": 100, "type": "int32", "scale": 0.001},
    "energy": {"address": 102, "type": "uint32", "scale": 0.001},
    "voltage": {"address": 104, "scale": 0.1},
    "current": {"address": 105, "scale": 0.01},
    "powerFactor": {"address": 106, "type": "int16", "scale": 0.001},
    "frequency": {"address": 107, "scale": 0.01},
}
"""How the meter below is to be read."""


@contextmanager
def a_meter_at_work(power_kw: float) -> Iterator[TcpEndpoint]:
    """A meter whose counter rises by its power, at 230 V and a power factor of 0.95."""
    started_s = time.monotonic()

    def measured() -> Mapping[str, float]:
        hours = (time.monotonic() - started_s) / 3600
        return {
            "power": power_kw,
            "energy": 1542.3 + max(power_kw, 0.0) * hours,
            "voltage": 230.1,
            "current": abs(power_kw) / (3 * 0.2301 * 0.95),
            "powerFactor": 0.95 if power_kw > 0 else -0.95,
            "frequency": 50.01,
        }

    with Simulator() as simulator:
        endpoint = simulator.add_tcp()
        endpoint.add_unit(1).follow(measured, {"registers": METER}, refresh_s=0.01)
        yield endpoint


@pytest.mark.parametrize(
    ("power_kw", "wrong", "words", "better"),
    [
        pytest.param(
            28.5,
            {"power": {"address": 100, "type": "int32"}},
            "multiply powerScale (now 1) by 0.001 to get 28.5",
            ("int32", 100, 0.001),
            id="W for kW",
        ),
        pytest.param(
            28.5,
            {"energy": {"address": 102, "type": "uint32"}},
            "it counts in Wh, not kWh",
            ("uint32", 102, 0.001),
            id="Wh for kWh",
        ),
        pytest.param(
            28.5,
            {"energy": {"address": 102, "scale": 0.001}},
            "likely half of a 32-bit value: read as uint32 at 102",
            ("uint32", 102, 0.001),
            id="the high word alone",
        ),
        pytest.param(
            28.5,
            {"energy": {"address": 103, "scale": 0.001}},
            "likely half of a 32-bit value: read as uint32 at 102",
            ("uint32", 102, 0.001),
            id="the low word alone",
        ),
        pytest.param(
            28.5,
            {"energy": 103, "energyHigh": 102, "energyScale": 0.001},
            "",
            None,
            id="both words",
        ),
        pytest.param(
            -8.5,
            {"power": {"address": 100, "type": "uint32", "scale": 0.001}},
            "it is signed, so set type to int32 to get -8.5",
            ("int32", 100, 0.001),
            id="unsigned for signed",
        ),
    ],
)
def test_wrong_values(
    shell: Shell,
    power_kw: float,
    wrong: dict[str, Any],
    words: str,
    better: tuple[str, int, float] | None,
) -> None:
    registers = json.dumps({**METER, **wrong})
    with a_meter_at_work(power_kw) as meter:
        found = shell.asked(f"127.0.0.1:{meter.port}", "--set", f"registers={registers}")
    ((cause, message),) = ((each["cause"], each["message"]) for each in found["findings"])
    if better is None:
        assert cause == "none"
        assert found["reading"]["totalEnergy"] == pytest.approx(1542.3, abs=0.1)
        return
    assert cause == "wrong_values"
    (name,) = wrong
    assert message.startswith(f"{name} ")
    assert words in message
    best = found["interpretations"][name][0]["register"]
    assert (best["type"], best["address"], best["scale"]) == better


# --- The scan ------------------------------------------------------------------------------------


@contextmanager
def two_on_a_gateway() -> Iterator[TcpEndpoint]:
    """An ABB B23 as unit 2 and an EM24 as unit 5; the gateway denies all others."""
    with Simulator() as simulator:
        gateway = simulator.add_tcp(gateway_timeout_s=0.0, record=1000)
        for unit_id, name in ((2, "abb-b23"), (5, "carlo-gavazzi-em24")):
            template = Library()[name]
            device = ModbusDevice(template)
            unit = gateway.add_unit(unit_id)
            unit.set_registers(*device.constants(unit_id))
            (meter,) = template_meters(template, 1)
            unit.follow(device.measured(meter.source(lambda: 0.0)), device.layout)
        yield gateway


def test_a_scan_names_who_answers_and_how_to_register_it(shell: Shell) -> None:
    with two_on_a_gateway() as gateway:
        # What it may be is found out, whatever is believed.
        code = shell.probe(f"127.0.0.1:{gateway.port}", "--scan", "--template", "eastron-sdm630")
        assert gateway.max_outstanding == 1
    assert (code, shell.err) == (0, "")
    lines = shell.out.splitlines()
    for unit_id, name, at in ((2, "abb-b23", 0), (5, "carlo-gavazzi-em24", 2)):
        assert lines[at] == f"unit {unit_id}: {Library()[name].title}"
        assert json.loads(lines[at + 1]) == {
            "template": name,
            "host": "127.0.0.1",
            "port": gateway.port,
            "unitId": unit_id,
        }
    assert len(lines) == 4


@pytest.mark.usefixtures("quick")
def test_what_a_scan_says_is_a_meter_that_reads(shell: Shell) -> None:
    with two_on_a_gateway() as gateway:
        assert shell.probe(f"127.0.0.1:{gateway.port}", "--unit", "2") == 0
        assert shell.out.startswith("unit 2: ABB B23"), "no register, no template: who is it?"
        _, said = shell.out.splitlines()
        communication = json.loads(said)
        flags = [f"--set={name}={json.dumps(value)}" for name, value in communication.items()]
        found = shell.asked(f"127.0.0.1:{gateway.port}", *flags)
    assert found["quality"] == "good"
    assert found["reading"]["currentPower"] > 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("transport", ["rtu", "rtu-over-tcp"])
def test_what_a_scan_says_holds_the_settings_of_the_line(
    shell: Shell, tmp_path: Path, transport: str
) -> None:
    template = Library()["abb-b23"]
    with pty_pair(tmp_path) as pair, Simulator() as simulator:
        if transport == "rtu":
            simulated: Endpoint = simulator.add_serial(pair.left, baudrate=19200, stopbits=2)
            where = [pair.right, "--set=baudrate=19200", "--set=parity=N", "--set=stopbits=2"]
            said = "unit 1 at 19200 8N2: "
        else:
            gateway = simulator.add_tcp(transport=transport)
            simulated, said = gateway, "unit 1: "
            where = [f"127.0.0.1:{gateway.port}", f"--set=transport={transport}"]
        unit = simulated.add_unit(1)
        device = ModbusDevice(template)
        unit.set_registers(*device.constants(1))
        (meter,) = template_meters(template, 1)
        unit.follow(device.measured(meter.source(lambda: 0.0)), device.layout)
        assert shell.probe(*where, "--unit=1") == 0
        head, communication = shell.out.splitlines()
        assert head == f"{said}{template.title}"
        file = tmp_path / "meter.json"
        document = {"name": "A", "protocol": "modbus", "meterType": "zone"}
        file.write_text(json.dumps({**document, "communication": json.loads(communication)}))
        found = shell.asked("--registration", str(file))
    assert found["line"].startswith("rtu")
    assert found["reading"]["currentPower"] > 0


def test_a_scan_shows_how_far_it_is_on_a_terminal_only(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_on_a_gateway() as gateway:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        assert shell.probe(f"127.0.0.1:{gateway.port}", "--scan") == 0
    shown = shell.err.split("\r")
    assert shown[1].startswith(f"[{'.' * 30}] unit 1, 0 found")
    assert any(f"[{'#' * 15}{'.' * 15}] " in each for each in shown)
    assert shown[-1] == "\x1b[K", "nothing is left of it"
    assert "found" not in shell.out


def test_a_scan_that_finds_nobody(shell: Shell) -> None:
    with Simulator() as simulator:
        gateway = simulator.add_tcp(gateway_timeout_s=0.0)
        assert shell.probe(f"127.0.0.1:{gateway.port}", "--scan") == 1
    assert shell.out.startswith(f"No unit answers on tcp://127.0.0.1:{gateway.port};")


@pytest.mark.parametrize(("given", "waited_s"), [((), None), (("--set", "timeout=100"), 0.1)])
def test_a_scan_waits_as_long_as_it_is_told(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], waited_s: float | None
) -> None:
    asked: list[float | None] = []

    def noted(*_: Any, timeout_s: float | None, **__: Any) -> Iterator[Any]:
        asked.append(timeout_s)
        return iter(())

    monkeypatch.setattr("edge.commands.scan.scan", noted)
    assert shell.probe("127.0.0.1", "--scan", *given) == 1
    assert asked == [waited_s]


def test_a_scan_of_a_line_that_is_not_there(shell: Shell) -> None:
    assert shell.probe(f"127.0.0.1:{free_port()}", "--scan") == 1
    assert shell.out.startswith("connection_refused: ")
    assert shell.probe("/dev/ttyNobody", "--scan") == 1
    assert shell.out.startswith("no_serial_port: ")


def test_only_modbus_lines_are_scanned(shell: Shell) -> None:
    assert "communication.url" in shell.refused("http://127.0.0.1/", "--scan")
    assert "communication.port" in shell.refused("127.0.0.1:0", "--scan")


def test_a_scan_can_be_interrupted(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("edge.commands.scan.scan", interrupted)
    assert shell.probe("127.0.0.1", "--scan") == 1
    assert (shell.out, shell.err) == ("", "Stopped.\n")


# --- The templates -------------------------------------------------------------------------------


def test_all_templates_are_listed_with_protocol_and_title(shell: Shell) -> None:
    assert shell.run("templates") == 0
    assert shell.err == ""
    listed = {line.split()[0]: line.split(None, 2)[1:] for line in shell.out.splitlines()}
    known = {each.name: [each.protocol, each.title] for each in Library().listing().templates}
    assert listed == known
    assert {protocol for protocol, _ in known.values()} == {"modbus", "mqtt", "http"}


@pytest.mark.parametrize("name", Library().names())
def test_a_template_is_shown_with_what_registers_it(shell: Shell, name: str) -> None:
    template = Library()[name]
    assert shell.run("templates", name) == 0
    title, *lines = shell.out.splitlines()
    assert title == template.title
    assert f"  source    {template.source}" in lines
    _, _, example = lines[-1].partition("  registers with: ")
    assert json.loads(example)["template"] == name


def test_the_name_of_no_template(shell: Shell) -> None:
    assert shell.run("templates", "abb-b32") == 2
    assert (shell.out, shell.err) == (
        "",
        "No template is named 'abb-b32'; did you mean 'abb-b23'?\n",
    )
    assert shell.run("templates", "quite-another-thing") == 2
    assert shell.err.endswith("'quite-another-thing'; `dlm-edge templates` lists them.\n")


def test_a_users_own_templates_and_their_faults(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    shell.config.write_text(f'[templates]\ndir = "{folder}"\n')
    own = (Path(ROOT) / "edge/templates/abb-b21.toml").read_text()
    (folder / "my-meter.toml").write_text(own.replace("ABB B21, single-phase", "My meter"))
    assert shell.run("templates", "my-meter") == 0
    assert shell.out.startswith("My meter\n")
    (folder / "bad.toml").write_text("title = 1\n")
    assert shell.run("templates") == 2
    assert "\nmy-meter " in shell.out
    assert "bad.toml" in shell.err
    assert shell.run("templates", "bad") == 2
    assert "title" in shell.err


@pytest.mark.parametrize("arguments", [["templates"], ["templates", "abb-b23"]])
def test_whoever_reads_the_output_may_have_enough(arguments: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "edge", *arguments],
            cwd=ROOT,
            stdout=write_end,
            stderr=subprocess.PIPE,
            timeout=20,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (ended.returncode, ended.stderr) == (1, b"")
