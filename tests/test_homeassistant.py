"""What Home Assistant is told: held against its own rules, which stand here as facts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import render
from edge.homeassistant import (
    LOAD_SENSORS,
    METER_SENSORS,
    Topics,
    meter_device,
    service_device,
)
from edge.load import load_status
from edge.model import QUANTITIES, QUANTITY_NAMES, Meter, MeterState, Reading, Snapshot
from tests.building import a_meter

UNITS: dict[str, set[str | None]] = {
    "power": {"mW", "W", "kW", "MW", "GW", "TW"},
    "energy": {"J", "kJ", "MJ", "GJ", "mWh", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal"},
    "voltage": {"µV", "mV", "V", "kV", "MV"},
    "current": {"mA", "A"},
    "power_factor": {None, "%"},
    "frequency": {"Hz", "kHz", "MHz", "GHz"},
    "reactive_power": {"var"},
    "apparent_power": {"VA"},
}
"""Device class → units that Home Assistant takes with it, those of 2024.11 at least.

Source: DEVICE_CLASS_UNITS in
https://github.com/home-assistant/core/blob/dev/homeassistant/components/sensor/const.py
"""
STATE_CLASSES = {"energy": {"total", "total_increasing"}}
"""As UNITS, from DEVICE_CLASS_STATE_CLASSES; all others of them are a `measurement`."""

DEVICE_KEYS = {"device", "origin", "components", "state_topic", "availability", "availability_mode"}
"""DEVICE_DISCOVERY_SCHEMA, .../components/mqtt/schemas.py, as far as it is used here."""
SENSOR_KEYS = {
    "platform", "unique_id", "name", "device_class", "state_class", "unit_of_measurement",
    "value_template", "expire_after", "options", "entity_category",
}  # fmt: skip
"""DISCOVERY_SCHEMA, .../components/mqtt/sensor.py, as far as it is used here."""
DISCOVERY_TOPIC = re.compile(r"homeassistant/\w+/([a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")
"""TOPIC_MATCHER, .../components/mqtt/discovery.py."""

_METER = a_meter()

site_ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
meter_ids = st.from_regex(r"meter_[A-Za-z0-9]+", fullmatch=True)


def factor_of(unit: str, other: str | None) -> float:
    """How many of the other unit one of this is; prefixes are all that may differ."""
    other = other or ""
    assert unit.removeprefix("k") == other.removeprefix("k")
    return (1000 if unit.startswith("k") else 1) / (1000 if other.startswith("k") else 1)


def a_meter_named(meter_id: str, name: str, stale_after_ms: int) -> Meter:
    return replace(_METER, id=meter_id, name=name, stale_after_ms=stale_after_ms)


def test_a_meter_as_a_whole() -> None:
    meter = a_meter("Main “A”", staleAfter=7200)
    topics = Topics("plant-1")
    root = f"dlm/plant-1/meters/{meter.id}"
    assert topics.discovery(meter.id) == f"homeassistant/device/plant-1/dlm_{meter.id}/config"
    assert meter_device(meter, topics, {"energy", "reactivePower"}, ["voltage"], "1.2.3") == {
        "device": {
            "identifiers": [root],
            "name": "Main “A”",
            "via_device": "dlm/plant-1",
        },
        "origin": {"name": "DLM Edge", "sw_version": "1.2.3"},
        "state_topic": f"{root}/reading",
        "availability": [
            {"topic": "dlm/plant-1/status"},
            {
                "topic": f"{root}/status",
                "value_template": "{{ 'online' if value == 'online' else 'offline' }}",
            },
        ],
        "availability_mode": "all",
        "components": {
            "energy": {
                "platform": "sensor",
                "unique_id": f"{root}/energy",
                "name": "Energy",
                "device_class": "energy",
                "state_class": "total_increasing",
                "unit_of_measurement": "kWh",
                "value_template": "{{ (value_json.get('totalEnergy') "
                "if value_json.quality == 'good' else none) }}",
                "expire_after": 8,
            },
            "reactivePower": {
                "platform": "sensor",
                "unique_id": f"{root}/reactivePower",
                "name": "Reactive power",
                "device_class": "reactive_power",
                "state_class": "measurement",
                "unit_of_measurement": "var",
                "value_template": "{% set v = (value_json.get('reactivePower') "
                "if value_json.quality == 'good' else none) %}"
                "{{ (v * 1000) | round(3) if v is number else none }}",
                "expire_after": 8,
            },
            "quality": {
                "platform": "sensor",
                "unique_id": f"{root}/quality",
                "name": "Quality",
                "device_class": "enum",
                "options": ["good", "suspect", "stale", "none"],
                "entity_category": "diagnostic",
                "value_template": "{{ value_json.quality }}",
                "expire_after": 8,
            },
            "voltage": {"platform": "sensor"},
        },
    }


def test_the_service_as_a_device_has_the_load() -> None:
    document: Any = service_device(Topics("s"), "Depot", 30, "1.2.3")
    assert document["device"] == {
        "identifiers": ["dlm/s"],
        "name": "Depot",
        "model": "DLM Edge",
        "sw_version": "1.2.3",
    }
    assert document["state_topic"] == "dlm/s/load"
    assert document["availability"] == [{"topic": "dlm/s/status"}]
    assert document["components"]["available"] == {
        "platform": "sensor",
        "unique_id": "dlm/s/available",
        "name": "Available capacity",
        "device_class": "power",
        "state_class": "measurement",
        "unit_of_measurement": "kW",
        "value_template": "{{ value_json.get('availableCapacity') }}",
        "expire_after": 30,
    }
    assert document["components"]["quality"]["options"] == [
        "good",
        "degraded",
        "failsafe",
        "unmetered",
    ]


def test_a_template_is_the_model() -> None:
    meter = replace(_METER, document={"communication": {"template": "abb-b23"}})
    document: Any = meter_device(meter, Topics("s"), (), (), "1")
    assert document["device"]["model"] == "abb-b23"


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.name)
def test_each_quantity_has_a_sensor_that_home_assistant_takes(quantity: Any) -> None:
    sensor = METER_SENSORS[quantity.name]
    assert sensor.unit in UNITS[sensor.device_class]
    assert sensor.state_class in STATE_CLASSES.get(sensor.device_class, {"measurement"})
    assert sensor.factor == (factor_of(quantity.unit, sensor.unit) if quantity.unit else 1)


def test_the_keys_are_those_that_the_api_spells() -> None:
    values = {name: float(place) for place, name in enumerate(QUANTITY_NAMES, start=1)}
    state = MeterState(a_meter(), reading=Reading(values, 0.0, 0))
    load = load_status([state], 100, 0)
    snapshot = Snapshot(1, 0.0, 0, load)
    reading = dict(render.reading(state, snapshot))
    assert {name: reading[sensor.key] for name, sensor in METER_SENSORS.items()} == values
    status = render.load_status(load, snapshot)
    assert {sensor.key for sensor in LOAD_SENSORS.values()} <= status.keys()
    assert all(sensor.unit == "kW" for sensor in LOAD_SENSORS.values())


@given(site_ids, meter_ids, st.text(), st.integers(1, 10**9), st.sets(st.sampled_from(QUANTITIES)))
def test_whatever_the_names_home_assistant_can_read_it(
    site_id: str, meter_id: str, name: str, stale_after_ms: int, quantities: set[Any]
) -> None:
    topics = Topics(site_id)
    given_names = {quantity.name for quantity in quantities}
    meter = a_meter_named(meter_id, name, stale_after_ms)
    gone = sorted(set(QUANTITY_NAMES) - given_names)
    documents: list[tuple[str | None, Any]] = [
        (meter_id, meter_device(meter, topics, given_names, gone, "1")),
        (None, service_device(topics, name, 30, "1")),
    ]
    for device_id, document in documents:
        assert DISCOVERY_TOPIC.fullmatch(topics.discovery(device_id))
        assert document.keys() == DEVICE_KEYS
        heard = json.loads(json.dumps(document))
        assert heard == document
        topics_named = [heard["state_topic"], *(each["topic"] for each in heard["availability"])]
        assert not set("".join(topics_named)) & set("+#\0")
        for key, component in heard["components"].items():
            assert component.keys() <= SENSOR_KEYS
            assert (len(component) == 1) == (device_id is not None and key in gone)
            assert component.get("expire_after", 1) >= 1


@given(st.lists(st.tuples(site_ids, meter_ids), unique=True, max_size=4))
def test_no_two_devices_or_sensors_have_one_id(pairs: list[tuple[str, str]]) -> None:
    documents: dict[str, Any] = {}
    for site_id, meter_id in pairs:
        topics = Topics(site_id)
        meter = a_meter_named(meter_id, "x", 1000)
        document = meter_device(meter, topics, QUANTITY_NAMES, (), "1")
        documents[topics.discovery(meter_id)] = document
        documents[topics.discovery(None)] = service_device(topics, "x", 30, "1")
    devices = [document["device"]["identifiers"][0] for document in documents.values()]
    sensors = [
        component["unique_id"]
        for document in documents.values()
        for component in document["components"].values()
    ]
    assert len(documents) == len(pairs) + len({site_id for site_id, _ in pairs})
    assert len(set(devices)) == len(devices)
    assert len(set(sensors)) == len(sensors)
