"""How a site appears in Home Assistant by itself: the documents of its MQTT discovery, pure.

One message describes a whole device (device-based discovery, Home Assistant 2024.11 or later): so
a meter appears, changes and disappears at once, and one retained topic is all that is to be cleared
when it is removed; a message per sensor would be up to 20 topics for each meter.

Three nets keep what is old from looking fresh. A device is available only while both the service
and the meter are `online`, by their own topics; a value counts only where the reading says that
its quality is good, and is unknown otherwise; and each sensor expires, should all of that not come.
So a suspect energy counter cannot be taken for a new one either, which would spoil the statistics.

Energy is `total_increasing`: a counter that falls is one that was replaced or began again from 0.
`total` would book that as energy given back.

Sources: https://www.home-assistant.io/integrations/mqtt/ (discovery topic and payload, removing a
component, availability), https://www.home-assistant.io/integrations/sensor.mqtt/ (keys of a sensor,
expire_after, `None` for unknown), https://developers.home-assistant.io/docs/core/entity/sensor/
(device classes, their units and state classes).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from edge.model import LoadQuality, Meter, Quality, Status

Json = dict[str, Any]

ONLINE, OFFLINE = b"online", b"offline"
"""What the service says of itself; a meter's status is the word of `Status`."""

_MEASURED, _COUNTED = "measurement", "total_increasing"
_AVAILABLE = f"{{{{ 'online' if value == '{Status.ONLINE.value}' else 'offline' }}}}"


@dataclass(frozen=True)
class Topics:
    """Where a site's messages stand on a broker; all of them are retained.

    site_id: letters, digits, `-` and `_`, as a meter's id is; so each is one level of a topic, and
    one that Home Assistant accepts (https://www.home-assistant.io/integrations/mqtt/#discovery-topic).
    """

    site_id: str
    discovery_prefix: str = "homeassistant"

    @property
    def site(self) -> str:
        """What all but the discovery stands below."""
        return f"dlm/{self.site_id}"

    @property
    def status(self) -> str:
        """Whether the service is there: `online` or `offline`."""
        return f"{self.site}/status"

    @property
    def load(self) -> str:
        """How much power is free."""
        return f"{self.site}/load"

    def meter(self, meter_id: str) -> str:
        """What a meter's two topics stand below."""
        return f"{self.site}/meters/{meter_id}"

    def reading(self, meter_id: str) -> str:
        """A meter's last reading."""
        return f"{self.meter(meter_id)}/reading"

    def meter_status(self, meter_id: str) -> str:
        """A meter's status, one word. `+` gives the filter for those of all meters."""
        return f"{self.meter(meter_id)}/status"

    def discovery(self, meter_id: str | None) -> str:
        """What Home Assistant is told of a meter; None: of the service itself.

        The site is a level of its own, so that a broker's access list can have it for a pattern.
        """
        return f"{self.discovery_prefix}/device/{self.site_id}/dlm_{meter_id or 'service'}/config"


@dataclass(frozen=True)
class _Sensor:
    """key: of the value in the message. factor: from our unit to the one given here."""

    key: str
    name: str
    device_class: str
    unit: str | None
    state_class: str = _MEASURED
    factor: int = 1


# kvar and kVA are young in Home Assistant; var and VA have always been there.
METER_SENSORS = {
    "power": _Sensor("currentPower", "Power", "power", "kW"),
    "powerExport": _Sensor("powerExport", "Power export", "power", "kW"),
    "powerL1": _Sensor("powerL1", "Power L1", "power", "kW"),
    "powerL2": _Sensor("powerL2", "Power L2", "power", "kW"),
    "powerL3": _Sensor("powerL3", "Power L3", "power", "kW"),
    "energy": _Sensor("totalEnergy", "Energy", "energy", "kWh", _COUNTED),
    "energyExport": _Sensor("energyExport", "Energy export", "energy", "kWh", _COUNTED),
    "voltage": _Sensor("voltage", "Voltage", "voltage", "V"),
    "voltageL1": _Sensor("voltageL1", "Voltage L1", "voltage", "V"),
    "voltageL2": _Sensor("voltageL2", "Voltage L2", "voltage", "V"),
    "voltageL3": _Sensor("voltageL3", "Voltage L3", "voltage", "V"),
    "current": _Sensor("current", "Current", "current", "A"),
    "currentL1": _Sensor("currentL1", "Current L1", "current", "A"),
    "currentL2": _Sensor("currentL2", "Current L2", "current", "A"),
    "currentL3": _Sensor("currentL3", "Current L3", "current", "A"),
    "powerFactor": _Sensor("powerFactor", "Power factor", "power_factor", None),
    "frequency": _Sensor("frequency", "Frequency", "frequency", "Hz"),
    "reactivePower": _Sensor(
        "reactivePower", "Reactive power", "reactive_power", "var", factor=1000
    ),
    "apparentPower": _Sensor(
        "apparentPower", "Apparent power", "apparent_power", "VA", factor=1000
    ),
}
"""Quantity → its sensor; the keys are the outward ones of a reading."""

LOAD_SENSORS = {
    "available": _Sensor("availableCapacity", "Available capacity", "power", "kW"),
    "overload": _Sensor("overload", "Overload", "power", "kW"),
    "consumption": _Sensor("buildingConsumption", "Building consumption", "power", "kW"),
    "production": _Sensor("pvProduction", "PV production", "power", "kW"),
    "grid": _Sensor("gridCapacity", "Grid capacity", "power", "kW"),
}
"""Name → its sensor; the keys are those of the load status."""


def meter_device(
    meter: Meter,
    topics: Topics,
    quantities: Collection[str],
    gone: Collection[str],
    version: str,
) -> Json:
    """Describe a meter.

    quantities: what it gives. gone: what it was said to give before, whose sensors are to go.
    version: of the service.
    """
    root = topics.meter(meter.id)
    expire_after_s = math.ceil(meter.stale_after_ms / 1000)
    components: Json = {
        quantity: _component(root, quantity, sensor, expire_after_s, if_good=True)
        for quantity, sensor in METER_SENSORS.items()
        if quantity in quantities
    }
    components["quality"] = _quality(root, [quality.value for quality in Quality], expire_after_s)
    # Only its platform: that is how a component is taken out of a device.
    components |= {quantity: {"platform": "sensor"} for quantity in gone}
    device: Json = {
        "identifiers": [root],
        "name": meter.name,
        "via_device": topics.site,
    }
    template = meter.document.get("communication", {}).get("template")
    if isinstance(template, str):
        device["model"] = template
    availability = [
        {"topic": topics.status},
        {"topic": topics.meter_status(meter.id), "value_template": _AVAILABLE},
    ]
    return _device(device, topics.reading(meter.id), availability, components, version)


def service_device(topics: Topics, site_name: str, expire_after_s: int, version: str) -> Json:
    """Describe the service itself and its load status.

    expire_after_s: without a load status for so long, it is gone. version: of the service.
    """
    components: Json = {
        name: _component(topics.site, name, sensor, expire_after_s)
        for name, sensor in LOAD_SENSORS.items()
    }
    options = [quality.value for quality in LoadQuality]
    components["quality"] = _quality(topics.site, options, expire_after_s)
    device = {
        "identifiers": [topics.site],
        "name": site_name,
        "model": "DLM Edge",
        "sw_version": version,
    }
    return _device(device, topics.load, [{"topic": topics.status}], components, version)


def _device(
    device: Json, state_topic: str, availability: list[Json], components: Json, version: str
) -> Json:
    return {
        "device": device,
        "origin": {"name": "DLM Edge", "sw_version": version},
        "state_topic": state_topic,
        "availability": availability,
        "availability_mode": "all",
        "components": components,
    }


def _component(
    root: str, name: str, sensor: _Sensor, expire_after_s: int, *, if_good: bool = False
) -> Json:
    value = f"value_json.get('{sensor.key}')"
    if if_good:
        value = f"({value} if value_json.quality == '{Quality.GOOD.value}' else none)"
    template = f"{{{{ {value} }}}}"
    if sensor.factor != 1:
        scaled = f"(v * {sensor.factor}) | round(3) if v is number else none"
        template = f"{{% set v = {value} %}}{{{{ {scaled} }}}}"
    unit = {"unit_of_measurement": sensor.unit} if sensor.unit is not None else {}
    return {
        "platform": "sensor",
        "unique_id": f"{root}/{name}",
        "name": sensor.name,
        "device_class": sensor.device_class,
        "state_class": sensor.state_class,
        **unit,
        "value_template": template,
        "expire_after": expire_after_s,
    }


def _quality(root: str, options: list[str], expire_after_s: int) -> Json:
    return {
        "platform": "sensor",
        "unique_id": f"{root}/quality",
        "name": "Quality",
        "device_class": "enum",
        "options": options,
        "entity_category": "diagnostic",
        "value_template": "{{ value_json.quality }}",
        "expire_after": expire_after_s,
    }
