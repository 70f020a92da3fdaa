"""The site's meters served over Modbus, each with the document that registers it."""

from __future__ import annotations

import calendar
import itertools
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge.model import QUANTITY_NAMES
from edge.simulate.device import Source, Unit
from edge.simulate.endpoint import Endpoint
from edge.simulate.fault import Fault, FaultKind
from edge.simulate.layout import encode
from edge.simulate.served import ServedSite
from edge.simulate.server import Simulator
from edge.simulate.site import SimulatedMeter, Site
from edge.simulate.tcp import TcpEndpoint
from edge.simulate.template import ModbusDevice
from edge.simulate.wire import READ_HOLDING, READ_INPUT
from edge.template import Template

POLL_INTERVAL_MS = 1000

ABB_B23: Mapping[str, Any] = {
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
    }
}
"""An ABB B23 behind a gateway that maps it to plain registers, in whole kilowatts."""

SCHNEIDER_IEM3000: Mapping[str, Any] = {
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
    }
}
"""A Schneider iEM3000 behind a gateway that maps it to plain registers."""

INVERTER: Mapping[str, Any] = {
    "registerType": "input",
    "wordOrder": "little",
    "registers": {
        "power": {"address": 0, "type": "float32", "scale": 0.001},
        "reactivePower": {"address": 2, "type": "int32", "scale": 0.001},
        "energy": {"address": 4, "type": "uint64", "scale": 0.001},
        "voltage": {"address": 8, "type": "float32"},
        "current": {"address": 10, "type": "float32"},
        "powerFactor": {"address": 12, "type": "float32"},
        "frequency": {"address": 14, "type": "float32"},
    },
}
"""Wide types in input registers, low word first, as solar inverters have them."""

PHASE_METER: Mapping[str, Any] = {
    "registers": {
        "power": {"address": 100, "type": "int32", "scale": 0.001},
        "powerL1": {"address": 102, "type": "int32", "scale": 0.001},
        "powerL2": {"address": 104, "type": "int32", "scale": 0.001},
        "powerL3": {"address": 106, "type": "int32", "scale": 0.001},
        "voltageL1": {"address": 108, "scale": 0.1},
        "voltageL2": {"address": 109, "scale": 0.1},
        "voltageL3": {"address": 110, "scale": 0.1},
        "currentL1": {"address": 111, "scale": 0.01},
        "currentL2": {"address": 112, "scale": 0.01},
        "currentL3": {"address": 113, "scale": 0.01},
        "powerFactor": {"address": 114, "type": "int16", "scale": 0.001},
        "frequency": {"address": 115, "scale": 0.01},
        "energy": {"address": 120, "type": "float64", "registerType": "input"},
    }
}
"""Phase by phase, in both register tables."""

_SPARE_REGISTERS = 8
_TEMPLATE_SHARE = 0.2
_LINE_SETTINGS = {"parity": "N", "stopbits": 1, "bytesize": 8}
"""What a serial line is served with, whatever a template says."""

_LAYOUTS = (ABB_B23, SCHNEIDER_IEM3000, INVERTER, PHASE_METER)


@dataclass(frozen=True)
class DemoMeter:
    """A meter of the site: how it is registered and what it shows."""

    name: str
    location: str
    meter_type: str
    layout: Mapping[str, Any]
    model: SimulatedMeter

    def source(self, clock: Callable[[], float]) -> Source:
        """Give its quantities as a function of nothing. clock: as site_clock gives one."""
        return lambda: self.model.quantities(clock())

    def registration(self, protocol: str, communication: Mapping[str, Any]) -> dict[str, Any]:
        """Give the body that registers it."""
        polling = {} if protocol == "mqtt" else {"pollInterval": POLL_INTERVAL_MS}
        return {
            "name": self.name,
            "location": self.location,
            "protocol": protocol,
            "meterType": self.meter_type,
            **polling,
            "communication": dict(communication),
        }


def demo_meters(count: int, seed: int = 0) -> list[DemoMeter]:
    """Give the site's four meters; beyond them tenants of the main building.

    The tenants are `zone` meters: what they use is already in the main building's figure.
    """
    site = Site(seed)
    meters = [
        DemoMeter("Main Building", "main-building", "grid", ABB_B23, site.main_building),
        DemoMeter("Workshop", "workshop", "building", SCHNEIDER_IEM3000, site.workshop),
        DemoMeter("Solar Array", "roof", "solar", INVERTER, site.solar),
        DemoMeter("Server Room", "main-building", "zone", PHASE_METER, site.server_room),
    ]
    rng = random.Random(seed)
    for number in range(len(meters) + 1, count + 1):
        model = replace(
            site.main_building,
            scale=rng.uniform(0.1, 0.3),
            energy_start_kwh=rng.uniform(100, 9_000),
        )
        layout = _LAYOUTS[number % len(_LAYOUTS)]
        meters.append(DemoMeter(f"Tenant {number}", "main-building", "zone", layout, model))
    return meters[:count]


def template_meters(template: Template, count: int, seed: int = 0) -> list[DemoMeter]:
    """Give the site's meters as devices of one template, at a fifth of their power.

    A device that counts in whole watts with 16 bits ends at 32.767 kW. Where the template says
    what it is usually registered as, all are that.
    """
    usual = template.meter_types
    layout = ModbusDevice(template).layout if template.protocol == "modbus" else {}
    return [
        replace(
            meter,
            meter_type=meter.meter_type if meter.meter_type in usual or not usual else usual[0],
            layout=layout,
            model=replace(
                meter.model,
                scale=meter.model.scale * _TEMPLATE_SHARE,
                energy_start_kwh=meter.model.energy_start_kwh * _TEMPLATE_SHARE,
            ),
        )
        for meter in demo_meters(count, seed)
    ]


class DemoSite(ServedSite):
    """The site's meters as Modbus servers.

    transport: `tcp`, `rtu-over-tcp` or `rtu`. port: of the first endpoint, the others follow; 0
    takes any free ones. units_per_port: meters behind one endpoint, with unit ids from 1; on a
    serial_port they are all. template: the meters are of this kind, and their figures small enough
    for its registers.
    """

    def __init__(
        self,
        count: int = len(_LAYOUTS),
        *,
        transport: str = "tcp",
        host: str = "127.0.0.1",
        port: int = 0,
        units_per_port: int = 1,
        serial_port: str = "",
        baudrate: int = 9600,
        seed: int = 0,
        template: Template | None = None,
    ) -> None:
        self.simulator = Simulator(seed)
        self._serial = {"serialPort": serial_port, "baudrate": baudrate}
        self._meters: list[tuple[DemoMeter, Endpoint, Unit]] = []
        self._transport = transport
        self._template = template
        clock = site_clock()
        meters = template_meters(template, count, seed) if template else demo_meters(count, seed)
        for index, meter in enumerate(meters):
            if transport == "rtu":
                endpoint = (
                    self._meters[0][1]
                    if self._meters
                    else self.simulator.add_serial(serial_port, baudrate=baudrate)
                )
                unit_id = index + 1
            else:
                unit_id = index % units_per_port + 1
                if unit_id == 1:
                    at = port and port + index // units_per_port
                    endpoint = self.simulator.add_tcp(host, at, transport=transport)
            unit = endpoint.add_unit(unit_id)
            self._lay_out(unit, meter, meter.source(clock))
            self._meters.append((meter, endpoint, unit))

    @property
    def registrations(self) -> list[dict[str, Any]]:
        """The body to POST for each meter, once the ports are bound."""
        return [
            meter.registration("modbus", self._communication(meter, endpoint, unit.unit_id))
            for meter, endpoint, unit in self._meters
        ]

    def set_fault(self, number: int, fault: Fault) -> None:
        """See `ServedSite.set_fault`."""
        self._check_number(number, len(self._meters))
        _, endpoint, unit = self._meters[number - 1]
        if fault.kind is FaultKind.REFUSE:
            endpoint.set_fault(fault)
        else:
            unit.set_fault(fault)

    def start(self) -> DemoSite:
        """Serve; returns when every port is bound. Raises OSError when one cannot be."""
        self.simulator.start()
        return self

    def stop(self) -> None:
        """Close every port and wait for the thread to end."""
        self.simulator.stop()

    def _lay_out(self, unit: Unit, meter: DemoMeter, source: Source) -> None:
        unit.set_registers(*_spare_registers(meter.layout))
        if self._template is not None:
            device = ModbusDevice(self._template)
            unit.set_registers(*device.constants(unit.unit_id))
            source = device.measured(source)
        unit.follow(source, meter.layout)

    def _communication(self, meter: DemoMeter, endpoint: Endpoint, unit_id: int) -> dict[str, Any]:
        where = (
            {"host": endpoint.host, "port": endpoint.port}
            if isinstance(endpoint, TcpEndpoint)
            else self._serial
        )
        transport = {} if self._transport == "tcp" else {"transport": self._transport}
        if self._template is None:
            return {**transport, **where, "unitId": unit_id, **meter.layout}
        line = {} if isinstance(endpoint, TcpEndpoint) else _LINE_SETTINGS
        template = {"template": self._template.name}
        return {**template, **transport, **where, **line, "unitId": unit_id}


def site_clock() -> Callable[[], float]:
    """Give a clock of the site: seconds since its year began, local time; never negative.

    The time and the zone's offset are taken once: neither a clock that is set meanwhile nor a
    change to or from summer time may turn counters back, or on by decades.
    """
    unix_s, mono_s = time.time(), time.monotonic()
    now = time.localtime(unix_s)
    year_began_unix_s = calendar.timegm((now.tm_year, 1, 1, 0, 0, 0)) - now.tm_gmtoff
    year_began_mono_s = mono_s - (unix_s - year_began_unix_s)

    def seconds_of_year() -> float:
        return time.monotonic() - year_began_mono_s

    return seconds_of_year


def _spare_registers(layout: Mapping[str, Any]) -> list[dict[int, int]]:
    """Give zeros for the small holes of a layout: a real meter has registers of its own there.

    A service may read through them, up to the layout's `maxGap`.
    """
    tables = encode(dict.fromkeys(QUANTITY_NAMES, 0.0), layout)
    filled = []
    for function in (READ_HOLDING, READ_INPUT):
        used = sorted(tables[function])
        holes = [
            range(low + 1, high)
            for low, high in itertools.pairwise(used)
            if high - low <= layout.get("maxGap", _SPARE_REGISTERS) + 1
        ]
        filled.append(dict.fromkeys(itertools.chain(*holes), 0))
    return filled
