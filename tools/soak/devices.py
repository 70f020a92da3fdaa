"""The meters of the soak's site: what each shows at any moment, and how it is registered. Pure.

A day passes while the soak runs: powers follow the time of the day, counters count what really
flowed. Every answer is signed, so that a reading is known wherever it turns up: the voltage is that
of the device alone, and the current counts its answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.simulate.demo import demo_meters
from edge.simulate.site import DAY_S, HOUR_S, SimulatedMeter

HOST = "127.0.0.1"
GRID_CAPACITY_KW = 60.0
FAILSAFE_KW = 5.0
LAYOUT: Mapping[str, Any] = {
    "registers": {
        name: {"address": 4 * index, "type": "float64"}
        for index, name in enumerate(("power", "energy", "voltage", "current"))
    }
}
"""Of the Modbus devices: wide enough for every digit, and read by one request."""
FIELDS = {
    "power": "power_kw",
    "energy": "total_kwh",
    "voltage": "voltage",
    "current": "current",
}
"""Of the HTTP and MQTT devices: quantity → its key in JSON."""

_DECIMALS = 4
"""What all protocols carry without loss."""
_LEAST_V = 200.0
_AMPERES = 0.001
_BEGIN_S = 4 * HOUR_S
"""The day begins before people come and the sun rises."""


@dataclass(frozen=True)
class Day:
    """The site's time: begun_mono_s is four in the morning, a day takes length_s."""

    begun_mono_s: float
    length_s: float

    def time_s(self, mono_s: float) -> float:
        """Give the site's seconds since midnight."""
        return _BEGIN_S + (mono_s - self.begun_mono_s) * self.speed

    @property
    def speed(self) -> float:
        """How much faster than ours its time is."""
        return DAY_S / self.length_s


@dataclass(frozen=True)
class Device:
    """One meter. line: where it is reached, for all that share it. number: from 1; its unit id too.

    transport: `tcp`, `rtu-over-tcp`, `http` or `mqtt`. max_power_kw: as registered, if it is.
    """

    number: int
    name: str
    meter_type: str
    line: str
    transport: str
    period_s: float
    stale_after_s: float
    max_power_kw: float | None
    model: SimulatedMeter

    @property
    def polled(self) -> bool:
        """Whether it is asked; else it speaks by itself."""
        return self.transport != "mqtt"

    @property
    def topic(self) -> str:
        """Of an MQTT device."""
        return f"soak/{self.number}"

    @property
    def path(self) -> str:
        """Of an HTTP device."""
        return f"/meters/{self.number}"

    def values(self, serial: int, mono_s: float, day: Day) -> dict[str, float]:
        """Give what it says in its answer `serial`, each in its quantity's unit."""
        model, time_s = self.model, day.time_s(mono_s)
        counted_kwh = model.scale * model.power.integral(time_s) / HOUR_S / day.speed
        return {
            "power": round(model.scale * model.power.at(time_s), _DECIMALS),
            "energy": round(model.energy_start_kwh + counted_kwh, _DECIMALS),
            "voltage": _LEAST_V + self.number,
            "current": round(serial * _AMPERES, _DECIMALS),
        }

    def registration(self, port: int, name: str = "") -> dict[str, Any]:
        """Give the body that registers it. port: where it listens. name: another one than its."""
        document: dict[str, Any] = {
            "name": name or self.name,
            "location": self.line,
            "protocol": "modbus" if self.transport in ("tcp", "rtu-over-tcp") else self.transport,
            "meterType": self.meter_type,
            "staleAfter": round(self.stale_after_s * 1000),
            "communication": self._communication(port),
        }
        if self.polled:
            document["pollInterval"] = round(self.period_s * 1000)
        if self.max_power_kw is not None:
            document["maxPower"] = self.max_power_kw
        return document

    def _communication(self, port: int) -> dict[str, Any]:
        if self.transport == "mqtt":
            return {"topicPower": self.topic}
        if self.transport == "http":
            return {"url": f"http://{HOST}:{port}{self.path}", "timeout": 1000}
        where = {"host": HOST, "port": port, "unitId": self.number}
        return {"transport": self.transport, **where, **LAYOUT}


def signature(voltage: float, current: float) -> tuple[int, int]:
    """Give the device's number and the answer's that values came in."""
    return round(voltage - _LEAST_V), round(current / _AMPERES)


def make_devices() -> tuple[Device, ...]:
    """Give the site: what counts is spread over all protocols, tenants that do not count beside.

    Main building, workshop and solar array are those of `edge.simulate`.
    """
    kinds = _kinds()
    models = demo_meters(len(kinds))
    found = []
    for number, ((line, transport, period_s, role), model) in enumerate(
        zip(kinds, models, strict=True), start=1
    ):
        meter_type, max_power_kw = _ROLES.get(role, ("zone", None))
        found.append(
            Device(
                number,
                f"{role.capitalize()} {number}" if role else f"Tenant {number}",
                meter_type,
                line,
                transport,
                period_s,
                stale_after_s=max(5.0 if transport == "mqtt" else 3.0, 2 * period_s),
                max_power_kw=max_power_kw,
                model=model.model,
            )
        )
    return tuple(found)


_ROLES: Mapping[str, tuple[str, float | None]] = {
    "main": ("grid", 60.0),
    "workshop": ("building", 20.0),
    "sun": ("solar", None),
    "annex": ("building", None),
    "hall": ("building", 15.0),
}
"""What counts: meter type and maxPower. Where the annex is dead nobody knows what it draws."""


def _kinds() -> list[tuple[str, str, float, str]]:
    """Line, transport, period in s and role of each device, in the order of `demo_meters`."""
    return [
        ("main", "tcp", 1.0, "main"),
        ("workshop", "http", 1.0, "workshop"),
        ("roof", "rtu-over-tcp", 1.0, "sun"),
        ("server-room", "tcp", 0.2, ""),
        ("mqtt", "mqtt", 1.0, "annex"),
        *[("gateway-a", "tcp", 1.0, "")] * 4,
        ("gateway-b", "rtu-over-tcp", 1.0, "hall"),
        *[("gateway-b", "rtu-over-tcp", 1.0, "")] * 3,
        ("fast", "tcp", 0.2, ""),
        *[(f"house-{each}", "http", 1.0, "") for each in range(3)],
        *[("mqtt", "mqtt", 1.0, "")] * 5,
        *[("slow", "tcp", 5.0, "")] * 2,
    ]
