"""The site: all devices in a process of their own, told over its standard input what to do.

A command is a line of JSON, {"do": NAME, …}. What is served is kept: it is what the service is held
against.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edge.simulate import Fault, FaultKind, Simulator, TcpEndpoint
from edge.simulate.dialect import Dialect
from edge.simulate.http import HttpEndpoint
from edge.simulate.mqtt import MqttMeter
from edge.simulate.payload import PayloadMeter, Place
from tools.bench.process import Bench, Child
from tools.soak.beside import Beside
from tools.soak.devices import FIELDS, HOST, LAYOUT, Day, Device, make_devices
from tools.soak.records import Served

_KEEPALIVE_S = 60


class Site(Child):
    """The devices' process, from the start of a `with` block to its end. ports: by line."""

    def __init__(self, bench: Bench, broker_port: int, day: Day) -> None:
        super().__init__(bench, ["-m", __name__])
        self.say({"broker_port": broker_port, "day": [day.begun_mono_s, day.length_s]})
        self.ports: dict[str, int] = self.hear()
        self._file = bench.folder / "served.json"

    def set_fault(self, device: int, fault: str) -> None:
        """Switch a fault on, as `Fault.parse` has it; `refuse` is for the whole line.

        Neither this nor `heal` waits, since the site may be frozen.
        """
        self.say({"do": "fault", "device": device, "fault": fault})

    def heal(self, device: int) -> None:
        """Switch the faults of a device and of its line's port off."""
        self.say({"do": "heal", "device": device})

    def freeze(self) -> None:
        """Let it stand still with its connections open, as when a switch dies."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def served(self) -> list[Served]:
        """All that was served so far, in order of time."""
        self.say({"do": "served", "file": str(self._file)})
        self.hear()
        return [Served(*each) for each in json.loads(self._file.read_text())]


class MetersOfBroker(Beside):
    """The MQTT devices: a client each, and one thread that has them speak every second."""

    def __init__(self, broker: tuple[str, int]) -> None:
        super().__init__("site-mqtt")
        self.meters: dict[int, PayloadMeter] = {}
        self._broker = broker
        self._clients: list[MqttMeter] = []

    def add(self, device: Device, source: Callable[[], Mapping[str, float]]) -> None:
        """Have one more speak."""
        places = _places(device.topic)
        meter = self.meters[device.number] = PayloadMeter("mqtt", source, places)
        self._clients.append(MqttMeter(meter, Dialect(places, {}), self._broker, _KEEPALIVE_S))

    def __enter__(self) -> MetersOfBroker:
        for client in self._clients:
            client.connect()
        return super().__enter__()

    def run(self) -> None:
        rng = random.Random(0)
        next_mono_s = time.monotonic()
        while not self.stopping.wait(max(0.0, next_mono_s - time.monotonic())):
            for client in self._clients:
                client.publish(rng)
            # Who was held up does not make up for it: two messages at once count as one.
            next_mono_s = max(next_mono_s + 1.0, time.monotonic() + 0.5)


# --- The process itself --------------------------------------------------------------------------


class _Serving:
    """All devices with the ways to reach them."""

    def __init__(self, broker_port: int, day: Day, stack: ExitStack) -> None:
        self.served: list[Served] = []
        self._day = day
        self._devices = {device.number: device for device in make_devices()}
        self._modbus: dict[str, TcpEndpoint] = {}
        self._http: dict[str, HttpEndpoint] = {}
        self._mqtt = MetersOfBroker((HOST, broker_port))
        simulator = Simulator()
        for device in self._devices.values():
            self._add(device, simulator)
        stack.enter_context(simulator)
        for endpoint in self._http.values():
            endpoint.open()
            stack.callback(endpoint.close)
        stack.enter_context(self._mqtt)

    @property
    def ports(self) -> dict[str, int]:
        """Where each line is reached."""
        modbus = {line: endpoint.port for line, endpoint in self._modbus.items()}
        return modbus | {line: endpoint.port for line, endpoint in self._http.items()}

    def set_fault(self, number: int, text: str) -> None:
        """See `Site.set_fault`."""
        fault, device = Fault.parse(text), self._devices[number]
        if fault.kind is FaultKind.REFUSE:
            (self._modbus.get(device.line) or self._http[device.line]).set_fault(fault)
        elif device.line in self._modbus:
            self._modbus[device.line].units[number].set_fault(fault)
        else:
            self._payload_meter(device).set_fault(fault)

    def heal(self, number: int) -> None:
        """See `Site.heal`."""
        device = self._devices[number]
        if device.line in self._modbus:
            self._modbus[device.line].heal()
        elif device.line in self._http:
            self._http[device.line].heal()
        else:
            self._payload_meter(device).heal()

    def _payload_meter(self, device: Device) -> PayloadMeter:
        if device.transport == "mqtt":
            return self._mqtt.meters[device.number]
        return self._http[device.line].meters[device.path]

    def _add(self, device: Device, simulator: Simulator) -> None:
        source = self._source(device)
        if device.transport == "mqtt":
            self._mqtt.add(device, source)
        elif device.transport == "http":
            endpoint = self._http.setdefault(device.line, HttpEndpoint(HOST, 0))
            endpoint.meters[device.path] = PayloadMeter("http", source, _places(device.path))
        else:
            if device.line not in self._modbus:
                self._modbus[device.line] = simulator.add_tcp(transport=device.transport)
            unit = self._modbus[device.line].add_unit(device.number)
            unit.follow(source, LAYOUT, refresh_s=0.0)

    def _source(self, device: Device) -> Callable[[], Mapping[str, float]]:
        """Give the device's next answer at each call, which is noted."""
        serials = itertools.count(1)

        def answer() -> Mapping[str, float]:
            serial = next(serials)
            mono_s = time.monotonic()
            values = device.values(serial, mono_s, self._day)
            noted = Served(mono_s, device.number, serial, values["power"], values["energy"])
            self.served.append(noted)
            return values

        return answer


def _places(address: str) -> tuple[Place, ...]:
    return tuple(Place(quantity, address, (key,)) for quantity, key in FIELDS.items())


def _perform(serving: _Serving, command: dict[str, Any]) -> None:
    name = command["do"]
    if name == "fault":
        serving.set_fault(command["device"], command["fault"])
    elif name == "heal":
        serving.heal(command["device"])
    elif name == "served":
        Path(command["file"]).write_text(json.dumps(sorted(serving.served)))
        print("null", flush=True)


def _run(broker_port: int, day: list[float]) -> None:
    with ExitStack() as stack:
        serving = _Serving(broker_port, Day(*day), stack)
        print(json.dumps(serving.ports), flush=True)
        for line in sys.stdin:
            _perform(serving, json.loads(line))


if __name__ == "__main__":
    _run(**json.loads(sys.stdin.readline()))
