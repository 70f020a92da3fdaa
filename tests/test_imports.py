"""What a configuration does not need is not imported: each library costs memory and time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.building import a_registration
from tests.peers import free_port, pty_pair
from tests.service import Service

LIBRARIES = frozenset({"paho", "pymodbus", "serial", "urllib3"})
PARTS = ("edge.commands", "edge.drivers.", "edge.simulate", "edge.sinks.", "edge.uplink")
TELL = """
import os, signal, sys
def tell(_number, _frame):
    with open({file!r} + ".part", "w") as told:
        told.write("\\n".join(sys.modules))
    os.replace({file!r} + ".part", {file!r})
signal.signal(signal.SIGUSR1, tell)
"""


class Running(Service):
    """A service that says which modules it has imported."""

    def __init__(self, folder: Path, config: str) -> None:
        self._told = folder / "modules.txt"
        super().__init__(folder, config=config, prelude=TELL.format(file=str(self._told)))

    def imported(self) -> set[str]:
        """Libraries for protocols and servers, and our own parts that need them."""
        self._told.unlink(missing_ok=True)
        self.signal(signal.SIGUSR1)
        self.wait_until(self._told.exists, "telling its modules")
        modules = self._told.read_text().splitlines()
        assert "edge.cycle" in modules
        parts = {name for name in modules if name.startswith(PARTS) and name.count(".") <= 2}
        return {name.partition(".")[0] for name in modules} & LIBRARIES | parts


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    service = Running(tmp_path, "")
    with service:
        yield service


def test_a_protocol_is_imported_with_its_first_meter(running: Running, tmp_path: Path) -> None:
    assert running.imported() == set()
    port = free_port()
    link = {"host": "127.0.0.1", "port": port, "registers": {"power": 0}}
    running.register(a_registration("Modbus", communication=link))
    modbus = {"pymodbus", "edge.drivers.dial", "edge.drivers.modbus"}
    assert running.imported() == modbus
    link = {"url": f"http://127.0.0.1:{port}/status", "powerPath": "power"}
    running.register(a_registration("HTTP", protocol="http", communication=link))
    http = {"urllib3", "edge.drivers.credentials", "edge.drivers.http"}
    assert running.imported() == modbus | http
    link = {"topicPower": "power"}
    running.register(a_registration("MQTT", protocol="mqtt", pollInterval=None, communication=link))
    mqtt = {"paho", "edge.drivers.mqtt"}
    assert running.imported() == modbus | http | mqtt
    with pty_pair(tmp_path) as ports:
        link = {"transport": "rtu", "serialPort": ports.left, "registers": {"power": 0}}
        running.register(a_registration("Serial", pollInterval=200, communication=link))
        running.wait_until(lambda: "serial" in running.imported(), "opening the port")
    assert running.imported() == modbus | http | mqtt | {"serial"}


def test_a_sink_is_imported_where_there_is_one(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    running = Running(tmp_path, f'[sinks.influx]\nurl = "{url}"\ndatabase = "x"\n')
    with running:
        running.wait_until(lambda: "urllib3" in running.imported(), "having a sink")
        imported = running.imported()
        assert imported & LIBRARIES == {"urllib3"}
        assert {"edge.sinks.influx", "edge.uplink"} <= imported


def test_a_sink_that_shows_how_things_are_needs_its_broker_only(tmp_path: Path) -> None:
    config = f"[mqtt.brokers.default]\nport = {free_port()}\n[sinks.mqtt]\n"
    running = Running(tmp_path, config)
    with running:
        imported = running.imported()
        assert imported & LIBRARIES == {"paho"}
        assert "edge.sinks.mqtt" in imported
        assert "edge.uplink" not in imported
