"""The service put together, as a real process: started, asked, reloaded, broken and stopped."""

from __future__ import annotations

import http.client
import json
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.building import a_registration
from tests.peers import LibmodbusServer, free_port
from tests.service import Service

METERS = "/api/energy-meters"

ABB_B23: dict[str, Any] = {
    "name": "Main Building Meter",
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
ABB_B23_WORDS = {
    20480: 28, 20482: 0x4B4C, 20483: 0x00EB, 20484: 2301, 20486: 41_200, 20488: 950, 20490: 5002,
}  # fmt: skip

SCHNEIDER_IEM3000: dict[str, Any] = {
    "name": "Schneider iEM3000",
    "location": "main-building",
    "protocol": "modbus",
    "meterType": "building",
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
SCHNEIDER_WORDS = {3059: 17, 45056: 12_345, 3027: 2298, 3000: 31_000, 3078: 870}


def at(document: dict[str, Any], server: LibmodbusServer) -> dict[str, Any]:
    """A registration with host and port changed to the server's."""
    where = {"host": server.host, "port": server.port}
    return {**document, "communication": {**document["communication"], **where}}


def quick(server: LibmodbusServer, **changes: Any) -> dict[str, Any]:
    """The B23 polled as often as may be."""
    return {**at(ABB_B23, server), "pollInterval": 200, **changes}


def wait_online(service: Service, *ids: str) -> None:
    def online() -> bool:
        found = {meter["id"]: meter["status"] for meter in service.data(METERS)}
        return bool(found) and all(found[id_] == "online" for id_ in ids or found)

    service.wait_until(online, "online")


def a_b23() -> LibmodbusServer:
    return LibmodbusServer(holding=ABB_B23_WORDS)


def messages(service: Service, pattern: str) -> list[str]:
    """The log's messages that a pattern is found in."""
    lines = [line.split("] ", 1)[-1] for line in service.log.splitlines()]
    return [line for line in lines if re.search(pattern, line)]


# --- The guide: "Testing Your Meter Connection" ---------------------------------------------------


def test_the_guides_tests_of_a_meter_connection(tmp_path: Path) -> None:
    with a_b23() as server, Service(tmp_path) as service:
        status, answer = service.request("POST", METERS, at(ABB_B23, server))
        assert status == 201
        meter_id = answer["data"]["id"]
        wait_online(service)

        # Test 1: the meter appears in the list with `status: "online"`.
        status, answer = service.request("GET", METERS)
        assert (status, answer["success"], answer["count"]) == (200, True, 1)
        shown = answer["data"][0]
        expected = {
            "id": meter_id, "name": "Main Building Meter", "location": "main-building",
            "protocol": "modbus", "meterType": "grid", "status": "online", "currentPower": 28.0,
            "totalEnergy": 15420.236, "voltage": 230.1, "current": 41.2, "powerFactor": 0.95,
            "frequency": 50.02,
        }  # fmt: skip
        assert {key: shown[key] for key in expected} == expected
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown["lastUpdate"])

        # Test 2: real-time power and energy values.
        reading = service.data(f"{METERS}/{meter_id}/reading")
        assert (reading["meterId"], reading["quality"]) == (meter_id, "good")
        assert (reading["currentPower"], reading["totalEnergy"]) == (28.0, 15420.236)
        assert reading["ageSeconds"] < 5

        # Test 3: the log says so, in these words, and in this order.
        registered = "[EnergyMeterManager] Registered meter: Main Building Meter\n"
        started = "[EnergyMeterManager] Starting monitoring for Main Building Meter via modbus\n"
        assert service.log.count(registered) == service.log.count(started) == 1
        assert service.log.index(registered) < service.log.index(started)

        # Test 4: `buildingConsumption` shows the actual meter reading.
        load = service.data("/api/load/status")
        assert (load["buildingConsumption"], load["availableCapacity"]) == (28.0, 472.0)
        assert (load["quality"], load["reasons"]) == ("good", [])


def test_both_modbus_examples_of_the_guide_add_up(tmp_path: Path) -> None:
    with ExitStack() as stack:
        b23 = stack.enter_context(a_b23())
        iem3000 = stack.enter_context(LibmodbusServer(holding=SCHNEIDER_WORDS))
        service = stack.enter_context(Service(tmp_path))
        service.register(at(ABB_B23, b23))
        id_ = service.register(at(SCHNEIDER_IEM3000, iem3000))["id"]
        wait_online(service)
        reading = service.data(f"{METERS}/{id_}/reading")
        expected = {"currentPower": 17.0, "totalEnergy": 12_345.0, "voltage": 229.8,
                    "current": 31.0, "powerFactor": 0.87, "frequency": None}  # fmt: skip
        assert {key: reading[key] for key in expected} == expected
        sums = service.data(f"{METERS}/consumption/building")
        assert (sums["currentPower"], sums["meterCount"], sums["excluded"]) == (45.0, 2, [])
        assert sums["totalEnergy"] == pytest.approx(15420.236 + 12_345)


# --- Stopping -------------------------------------------------------------------------------------


@contextmanager
def a_silent_peer() -> Iterator[int]:
    """A port where one can connect and is never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def silent(port: int, **changes: Any) -> dict[str, Any]:
    """The registration of a meter that keeps its line waiting for a minute."""
    registers = {"power": 0}
    where = {"host": "127.0.0.1", "port": port, "timeout": 60_000, "registers": registers}
    return a_registration(f"Silent {port}", communication=where, **changes)


@contextmanager
def clients(service: Service) -> Iterator[None]:
    """One who idles, one in the middle of a request, and one who takes answers but never ends."""
    request = b"GET /api/energy-meters HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        idle, half, streaming = (
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 5))
            for _ in range(3)
        )
        idle.sendall(request)
        assert idle.recv(12) == b"HTTP/1.1 200"
        half.sendall(request[:-2])
        streaming.sendall(request * 2000)
        assert select.select([streaming], [], [], 5)[0]
        yield


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_5_s_whatever_hangs(tmp_path: Path, number: signal.Signals) -> None:
    with ExitStack() as stack:
        ports = [stack.enter_context(a_silent_peer()) for _ in range(3)]
        service = stack.enter_context(Service(tmp_path))
        for port in ports:
            service.register(silent(port))
        service.wait_until(
            lambda: sum(line["opened"] for line in service.data("/api/system")["lines"]) == 3,
            "connected",
        )
        stack.enter_context(clients(service))
        began_s = time.monotonic()
        service.signal(number)
        service.wait_until(lambda: "Stopping" in service.log, "stopping")
        service.signal(number)  # as who is impatient does
        assert service.exit_code() == 0
        assert time.monotonic() - began_s < 5
        assert "Traceback" not in service.log
        assert service.log.endswith(" INFO [edge.app] Stopping\n")


def test_an_idle_service_ends_at_once(tmp_path: Path) -> None:
    with a_b23() as server, Service(tmp_path) as service:
        service.register(quick(server))
        wait_online(service)
        began_s = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began_s < 1.5


IMPORTING = (
    "import builtins\n"
    "real_import = builtins.__import__\n"
    "def importing(name, *rest):\n"
    "    if name == 'edge.app':\n"
    "        {then}\n"
    "    return real_import(name, *rest)\n"
    "builtins.__import__ = importing"
)
STEPS_OF_THE_START = {
    "the imports": IMPORTING.format(then="send()"),
    "an import that takes every exception for its own": IMPORTING.format(
        then="\n        ".join(("try:", "    send()", "except BaseException:", "    pass"))
    ),
    "the state": "import edge.registry\nbefore(edge.registry.Registry, 'open')",
    "the port": "import edge.api.server\nbefore(edge.api.server.ApiServer, 'start')",
    "the cycle": "import edge.cycle\nbefore(edge.cycle.Cycle, 'run')",
}


@pytest.mark.parametrize("step", STEPS_OF_THE_START)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_ends_it_too(
    tmp_path: Path, number: signal.Signals, step: str
) -> None:
    prelude = (
        "import os, signal\n"
        "def send():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "def before(cls, name):\n"
        "    real = getattr(cls, name)\n"
        "    setattr(cls, name, lambda self, *rest: (send(), real(self, *rest))[1])\n"
        f"{STEPS_OF_THE_START[step]}\n"
    )
    service = Service(tmp_path, prelude=prelude).launch()
    assert service.exit_code() == 0, service.log
    assert "Traceback" not in service.log


UNHEARD = {
    "a stuck pipe": "import os\n"
    "reader, writer = os.pipe()\n"
    "os.set_blocking(writer, False)\n"
    "try:\n"
    "    while True:\n"
    "        os.write(writer, bytes(4096))\n"
    "except BlockingIOError:\n"
    "    os.set_blocking(writer, True)\n"
    "os.dup2(writer, 2)\n",
    "a broken pipe": "import os\n"
    "reader, writer = os.pipe()\n"
    "os.close(reader)\n"
    "os.dup2(writer, 2)\n",
    "a full disk": "import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n",
    "closed": "import os\nos.close(2)\n",
}
"""What standard error is → Python that makes it so."""


def start_unheard(tmp_path: Path, prelude: str) -> Service:
    """Start a service whose log does not say its port."""
    port = free_port()
    service = Service(tmp_path, arguments=("--port", str(port)), prelude=prelude).launch()
    service.port = port

    def ready() -> bool:
        try:
            return service.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    service.wait_until(ready, "ready")
    return service


@pytest.mark.parametrize("stderr", UNHEARD)
def test_it_ends_though_nobody_takes_its_log(tmp_path: Path, stderr: str) -> None:
    service = start_unheard(tmp_path, UNHEARD[stderr])
    service.register(a_registration("A"))
    began_s = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began_s < 5


def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = Service(tmp_path, arguments=("--port", str(port))).launch()
        assert service.exit_code() == 2
    lines = [line for line in service.log.splitlines() if line]
    assert len(lines) == 1, lines
    assert f"{port} is in use on 127.0.0.1; stop what uses it or set another port" in lines[0]


# --- Restarting -----------------------------------------------------------------------------------


def test_meters_come_back_by_themselves_after_a_restart(tmp_path: Path) -> None:
    with a_b23() as server, Service(tmp_path) as service:
        first = service.register(quick(server, maxPower=100))
        wait_online(service)
        assert service.stop() == 0
        assert service.log.endswith("[edge.app] Stopping\n"), "nothing of the log is lost"
        service.start()
        wait_online(service)
        again = service.data(f"{METERS}/{first['id']}")
        same = ("name", "communication", "pollInterval", "maxPower", "meterType")
        assert {key: again[key] for key in same} == {key: first[key] for key in same}
        assert messages(service, "Registered") == []
        assert messages(service, "Starting monitoring") == [
            "Starting monitoring for Main Building Meter via modbus"
        ]


def test_a_mended_state_is_said_in_the_log_and_over_rest(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        for name in ("A", "B"):
            service.register(a_registration(name))
        service.kill()
        (service.state_dir / "state.json").write_text("{")
        service.start()
        notices = service.data("/api/system")["notices"]
        assert [notice.split(",")[0] for notice in notices] == [
            "state.json is damaged and was set aside as state.json.broken.",
            "state.json was missing or damaged",
        ]
        for notice in notices:
            assert f"ERROR [edge.app] {notice}\n" in service.log
        assert [meter["name"] for meter in service.data(METERS)] == ["A"]


def test_a_clock_that_begins_in_1970_hinders_nothing(tmp_path: Path) -> None:
    prelude = (
        "import time\n"
        "real_ns, real_s, offset_ns = time.time_ns, time.time, time.time_ns()\n"
        "time.time_ns = lambda: real_ns() - offset_ns\n"
        "time.time = lambda: real_s() - offset_ns / 1e9\n"
    )
    with a_b23() as server, Service(tmp_path, prelude=prelude) as service:
        service.register(quick(server))
        wait_online(service)
        assert service.data(METERS)[0]["lastUpdate"].startswith("1970-01-01T00:0")
        assert service.data("/api/load/status")["availableCapacity"] == 472.0
        assert service.request("GET", "/metrics")[0] == 200
        assert service.stop() == 0


# --- Reloading ------------------------------------------------------------------------------------


def test_a_reload_takes_over_what_it_can_and_says_what_it_cannot(tmp_path: Path) -> None:
    with Service(tmp_path, config="[site]\ngrid_capacity_kw = 100\n") as service:
        assert service.data("/api/load/status")["gridCapacity"] == 100.0
        service.config_file.write_text(
            "[site]\nid = 'other'\ngrid_capacity_kw = 250\n"
            "[load]\nfailsafe_available_kw = 11\n[log]\nlevel = 'warning'\n"
            "[cycle]\ntick_ms = 200\n[api]\nmax_connections = 10\n"
        )
        service.signal(signal.SIGHUP)
        service.wait_until(
            lambda: service.data("/api/load/status")["gridCapacity"] == 250.0, "reloaded"
        )
        assert service.data("/api/load/status")["availableCapacity"] == 11.0
        told = "was changed; it takes effect at the next start"
        service.wait_until(lambda: len(messages(service, told)) >= 3, "told")
        assert {message.split(" ")[0] for message in messages(service, told)} == {
            "site.id", "api", "cycle",
        }  # fmt: skip
        assert service.data("/api/system")["site"]["id"] == "site"
        service.register(a_registration("A"))
        assert messages(service, "Registered") == [], "only warnings are logged by now"


def test_the_log_is_of_the_form_that_is_set_from_its_first_line_on(tmp_path: Path) -> None:
    with Service(tmp_path, config="[log]\nformat = 'json'\n") as service:
        service.register(a_registration("A"))
        service.wait_until(lambda: "Registered meter: A" in service.log, "logged")
        assert service.stop() == 0
    records = [json.loads(line) for line in service.log.splitlines()]
    said = [(record["logger"], record["level"], record["message"]) for record in records]
    assert ("EnergyMeterManager", "info", "Registered meter: A") in said
    assert said[-1] == ("edge.app", "info", "Stopping")


def test_a_reload_changes_the_form_of_the_log(tmp_path: Path) -> None:
    reloaded = "The configuration was reloaded"
    with Service(tmp_path) as service:
        for times, form in enumerate(("json", "text"), start=1):
            service.config_file.write_text(f"[log]\nformat = '{form}'\n")
            service.signal(signal.SIGHUP)
            service.wait_until(lambda n=times: service.log.count(reloaded) == n, "reloaded")
    of_json, of_text = [line for line in service.log.splitlines() if reloaded in line]
    assert json.loads(of_json)["message"] == reloaded
    assert of_text.endswith(f" INFO [edge.app] {reloaded}")


def test_a_reload_of_a_broken_file_keeps_the_settings_and_says_so(tmp_path: Path) -> None:
    with Service(tmp_path, config="[site]\ngrid_capacity_kw = 100\n") as service:
        kept = "The configuration was not reloaded; the one before stays in force."
        for times, (content, fault) in enumerate(
            (
                ("[site]\ngrid_capacity_kw = -1\n[lod]\n", "grid_capacity_kw: must be 0.1 to"),
                ("[site", "is not valid TOML"),
                (None, "no such file"),
            ),
            start=1,
        ):
            if content is None:
                service.config_file.unlink()
            else:
                service.config_file.write_text(content)
            service.signal(signal.SIGHUP)
            service.wait_until(lambda n=times: len(messages(service, kept)) == n, "refused")
            assert messages(service, re.escape(fault))
            assert service.data("/api/load/status")["gridCapacity"] == 100.0
        assert messages(service, "lod: unknown key; did you mean 'load'"), "all faults are listed"
        service.config_file.write_text("[site]\ngrid_capacity_kw = 300\n")
        service.signal(signal.SIGHUP)
        service.wait_until(
            lambda: service.data("/api/load/status")["gridCapacity"] == 300.0, "reloaded"
        )


# --- Bugs -----------------------------------------------------------------------------------------

BUGS = {
    "line": "import edge.line\nedge.line.PollLine.poll = lambda *_: 1 / 0",
    "http": "import edge.render\nedge.render.load_status = lambda *_: 1 / 0",
    "reload": "import edge.config\n"
    "once = edge.config.load_config\n"
    "def load(*arguments):\n"
    "    edge.config.load_config = lambda *_: 1 / 0\n"
    "    return once(*arguments)\n"
    "edge.config.load_config = load",
    "main": "import edge.image\n"
    "advance = edge.image.ProcessImage.advance\n"
    "edge.image.ProcessImage.advance = lambda self, now_s: (\n"
    "    1 / 0 if self.meters else advance(self, now_s))",
}


@pytest.mark.parametrize("thread", BUGS)
def test_a_bug_in_any_thread_ends_the_process_with_its_traceback(
    tmp_path: Path, thread: str
) -> None:
    with a_silent_peer() as port, Service(tmp_path, prelude=BUGS[thread]) as service:
        with suppress(OSError):  # it may end before it can answer
            service.request("POST", METERS, silent(port))
            if thread == "reload":
                service.signal(signal.SIGHUP)
            if thread == "http":
                service.request("GET", "/api/load/status")
        assert service.exit_code() == 1
        assert service.log.count("ZeroDivisionError: division by zero") == 1
        assert "Traceback (most recent call last):" in service.log
        assert messages(service, rf"^Bug in thread {thread}\b")


@pytest.mark.parametrize("stderr", UNHEARD)
@pytest.mark.parametrize("thread", ["line", "main"])
def test_a_bug_ends_the_process_though_nobody_hears_of_it(
    tmp_path: Path, thread: str, stderr: str
) -> None:
    with a_silent_peer() as port:
        service = start_unheard(tmp_path, UNHEARD[stderr] + BUGS[thread])
        try:
            with suppress(OSError):
                service.request("POST", METERS, silent(port))
            assert service.exit_code(timeout_s=5) == 1
        finally:
            service.kill()


def test_the_log_up_to_a_bug_is_kept(tmp_path: Path) -> None:
    slow_card = (
        "import time, edge.logs\n"
        "write = edge.logs.Log._write\n"
        "edge.logs.Log._write = lambda self, line: (time.sleep(0.2), write(self, line))\n"
    )
    with a_silent_peer() as port, Service(tmp_path, prelude=slow_card + BUGS["line"]) as service:
        with suppress(OSError):
            service.request("POST", METERS, silent(port))
        assert service.exit_code() == 1
        assert messages(service, "Registered meter"), service.log


# --- What the system gives ------------------------------------------------------------------------


def _limit_of_files(soft: int, hard: int) -> str:
    return f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"


def test_too_few_open_files_are_said_once_at_the_start(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.register(a_registration("A"))
        assert service.stop() == 0
    with Service(tmp_path, prelude=_limit_of_files(60, 128)) as few:
        assert messages(few, "files may be open") == [
            "Only 128 files may be open, but 1 lines and 96 clients need 129; raise LimitNOFILE= "
            "of the unit, or `ulimit -n`."
        ]


def test_the_limit_of_open_files_is_raised_where_it_may_be(tmp_path: Path) -> None:
    with Service(tmp_path, prelude=_limit_of_files(60, 200)) as service:
        limits = Path(f"/proc/{service.process.pid}/limits").read_text()
        assert re.search(r"^Max open files +200 +200 ", limits, re.MULTILINE)
        assert messages(service, "files may be open") == []


def test_every_thread_has_a_small_stack(tmp_path: Path) -> None:
    prelude = (
        "import threading\n"
        "start = threading.Thread.start\n"
        "def checked(self):\n"
        "    size = threading.stack_size()  # which sets it to the default\n"
        "    threading.stack_size(size)\n"
        "    assert 0 < size <= 2 * 1024 * 1024\n"
        "    start(self)\n"
        "threading.Thread.start = checked\n"
    )
    with Service(tmp_path, arguments=("--demo",), prelude=prelude) as service:
        wait_online(service)
        assert service.stop() == 0


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_does_not_overflow_the_small_stack(tmp_path: Path, opening: str) -> None:
    body = opening * (60_000 // len(opening))
    with Service(tmp_path) as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=15)
        with closing(connection):
            connection.request("POST", METERS, body, {"Content-Type": "application/json"})
            assert connection.getresponse().status == 400
        assert service.stop() == 0


# --- Logging a change of state once ---------------------------------------------------------------


def test_a_meter_that_goes_away_is_logged_once_and_once_when_it_is_back(tmp_path: Path) -> None:
    with a_b23() as server, Service(tmp_path) as service:
        id_ = service.register(quick(server))["id"]
        wait_online(service)
        server.stop()
        service.wait_until(lambda: service.data(f"{METERS}/{id_}")["status"] == "error", "in error")
        failed = _failed_polls(service)
        service.wait_until(lambda: _failed_polls(service) >= failed + 3, "further attempts")
        server.start()
        wait_online(service)
        said = messages(service, "Main Building Meter is ")
        assert len(said) == 3, said
        assert said[0] == said[2] == "Main Building Meter is online"
        assert said[1].startswith("Main Building Meter is in error: ")


def _failed_polls(service: Service) -> int:
    _, text = service.request("GET", "/metrics")
    counts = re.findall(r'^dlm_polls_total\{.*result="line_error".*\} (\S+)$', text, re.MULTILINE)
    return int(sum(float(count) for count in counts))


# --- The drivers are there before the cycle needs them --------------------------------------------


def test_the_cycle_never_waits_for_a_drivers_import(tmp_path: Path) -> None:
    prelude = (
        "import sys\n"
        "from edge.cycle import Cycle\n"
        "change_meters = Cycle.change_meters\n"
        "def checked(self, meters):\n"
        "    assert not meters or 'pymodbus' in sys.modules\n"
        "    return change_meters(self, meters)\n"
        "Cycle.change_meters = checked\n"
    )
    with Service(tmp_path, prelude=prelude) as service:
        service.register(a_registration("A"))
        assert service.stop() == 0
        service.start()
        assert [meter["name"] for meter in service.data(METERS)] == ["A"]


# --- The demo -------------------------------------------------------------------------------------


def test_a_demo_shows_living_meters_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with Service(tmp_path, arguments=("--demo",), names_state_dir=False) as service:
        service.wait_until(lambda: len(service.data(METERS)) == 4, "registered")
        wait_online(service)
        types = {meter["meterType"] for meter in service.data(METERS)}
        assert types == {"grid", "building", "solar", "zone"}
        load = service.data("/api/load/status")
        assert (load["quality"], load["reasons"]) == ("good", [])
        assert 0 < load["buildingConsumption"] < 500
        assert None not in [meter["totalEnergy"] for meter in service.data(METERS)]

        # At night powers of whole kilowatts may stay the same for minutes, but currents in
        # milliamperes do not.
        before = [meter["current"] for meter in service.data(METERS)]
        service.wait_until(
            lambda: before != [meter["current"] for meter in service.data(METERS)], "alive"
        )
        (folder,) = temporary.iterdir()
        assert folder.name.startswith("dlm-edge-demo-")
        (said,) = messages(service, "All that this demo stores is in ")
        assert str(folder) in said
        assert "--state-dir" in said
        assert service.stop() == 0
        assert list(temporary.iterdir()) == []
        assert not service.state_dir.exists()


def test_a_second_demo_on_one_state_folder_updates_its_meters(tmp_path: Path) -> None:
    with Service(tmp_path, arguments=("--demo",)) as service:
        service.wait_until(lambda: len(service.data(METERS)) == 4, "registered")
        first = {meter["name"]: meter["id"] for meter in service.data(METERS)}
        assert service.stop() == 0
        assert len(json.loads((service.state_dir / "state.json").read_bytes())["meters"]) == 4
        service.start()
        service.wait_until(lambda: len(messages(service, "Updated meter: ")) == 4, "updated")
        wait_online(service)
        assert {meter["name"]: meter["id"] for meter in service.data(METERS)} == first


def test_a_demo_among_meters_that_do_not_go_with_it_says_so_and_goes_on(tmp_path: Path) -> None:
    """A real meter of the demo's name has settings that a demo cannot merge with its own."""
    service = Service(tmp_path)
    with service:
        where = {"transport": "rtu", "serialPort": "/dev/null", "registers": {"power": 0}}
        service.register(a_registration("WORKSHOP", communication=where))
        assert service.stop() == 0
    with Service(tmp_path, arguments=("--demo",)) as demo:
        demo.wait_until(lambda: messages(demo, "Workshop is not registered: "), "said")
        demo.wait_until(lambda: len(demo.data(METERS)) == 4, "registered")
        assert demo.stop() == 0


def test_nothing_of_the_service_waits_for_its_first_meter(tmp_path: Path) -> None:
    """With no meters it is ready, says that nothing is measured, and that nothing is free."""
    with Service(tmp_path) as service:
        load = service.data("/api/load/status")
        assert (load["quality"], load["availableCapacity"]) == ("unmetered", 0.0)
        assert service.data(METERS) == []
        system = service.data("/api/system")
        assert (system["notices"], system["lines"], system["meters"]) == ([], [], {})
        assert service.request("GET", "/healthz")[0] == 200
