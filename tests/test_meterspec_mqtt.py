"""Registrations of MQTT meters: the user guide's own, what is taken from where, every fault."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.communication import Field, MqttCommunication, MqttEndpoint, TopicUse
from edge.meterspec import References
from edge.meterspec.mqtt import MqttKeys
from edge.meterspec.payloads import topic_key
from edge.model import QUANTITY_NAMES
from edge.payload import NAMED
from edge.structure import camel_case, keys_of
from tests.registrations import JSON_VALUES, faults_of, is_taken_or_named_faulty, parse, some_of

MQTT_BUILDING_METER = """{
    "name": "MQTT Building Meter",
    "location": "main-building",
    "protocol": "mqtt",
    "meterType": "grid",
    "communication": {
      "topicPower": "building/energy/power",
      "topicEnergy": "building/energy/total",
      "topicVoltage": "building/energy/voltage",
      "topicCurrent": "building/energy/current",
      "topicStatus": "building/energy/status"
    }
  }"""
SHELLY_EM = """{
  "name": "Shelly EM Monitor",
  "location": "main-building",
  "protocol": "mqtt",
  "meterType": "grid",
  "communication": {
    "topicPower": "shellies/shellyem-abc123/emeter/0/power",
    "topicEnergy": "shellies/shellyem-abc123/emeter/0/total",
    "topicVoltage": "shellies/shellyem-abc123/emeter/0/voltage",
    "topicCurrent": "shellies/shellyem-abc123/emeter/0/current"
  }
}"""
HOME_ASSISTANT = """{
  "name": "Home Assistant Energy",
  "location": "main-building",
  "protocol": "mqtt",
  "meterType": "grid",
  "communication": {
    "topicPower": "homeassistant/sensor/energy/power/state",
    "topicEnergy": "homeassistant/sensor/energy/total/state"
  }
}"""
IN_WATTS = Fraction(1, 1000)


def registration(**communication: Any) -> dict[str, Any]:
    return {"name": "M", "protocol": "mqtt", "meterType": "grid", "communication": communication}


def heard_by(*brokers: str, **communication: Any) -> MqttCommunication:
    """What a registration comes to; brokers: those there are beside `default`."""
    meter = parse(registration(**communication), References(brokers=("default", *brokers)))
    assert isinstance(meter.communication, MqttCommunication)
    return meter.communication


def refused(**communication: Any) -> dict[str, str]:
    """The faults, by their paths below `communication`."""
    faults = faults_of(registration(**communication))
    return {path.removeprefix("communication."): message for path, message in faults.items()}


# --- The user guide's registrations ---


def test_the_guides_mqtt_meter() -> None:
    meter = parse(json.loads(MQTT_BUILDING_METER))
    assert (meter.line, meter.poll_interval_ms, meter.stale_after_ms) == (
        "mqtt:default", None, 60_000,
    )  # fmt: skip
    assert meter.communication == MqttCommunication(
        endpoint=MqttEndpoint("default"),
        topics=(
            TopicUse("building/energy/power", (Field("power"),), fills=True),
            TopicUse("building/energy/total", (Field("energy"),)),
            TopicUse("building/energy/voltage", (Field("voltage"),)),
            TopicUse("building/energy/current", (Field("current"),)),
        ),
        status_topic="building/energy/status",
    )
    assert meter.communication.quantities == {"power", "energy", "voltage", "current"}


def test_the_guides_shelly_em_counts_in_watts() -> None:
    communication = parse(json.loads(SHELLY_EM)).communication
    assert isinstance(communication, MqttCommunication)
    prefix = "shellies/shellyem-abc123/emeter/0"
    assert communication.topics == (
        TopicUse(f"{prefix}/power", (Field("power", assumed=IN_WATTS),), fills=True),
        TopicUse(f"{prefix}/total", (Field("energy", assumed=IN_WATTS),)),
        TopicUse(f"{prefix}/voltage", (Field("voltage"),)),
        TopicUse(f"{prefix}/current", (Field("current"),)),
    )


def test_the_guides_home_assistant() -> None:
    communication = parse(json.loads(HOME_ASSISTANT)).communication
    assert isinstance(communication, MqttCommunication)
    assert communication.topics == (
        TopicUse("homeassistant/sensor/energy/power/state", (Field("power"),), fills=True),
        TopicUse("homeassistant/sensor/energy/total/state", (Field("energy"),)),
    )


# --- What is taken from where ---


def test_every_quantity_has_its_topic_path_and_scale() -> None:
    given: dict[str, Any] = {}
    for number, name in enumerate(QUANTITY_NAMES):
        given[topic_key(name)] = f"t/{number}"
        given[f"{name}Path"] = f"values[{number}]"
        given[f"{name}Scale"] = 0.25
    assert heard_by(**given).topics == tuple(
        TopicUse(f"t/{number}", (Field(name, f"values[{number}]", Fraction(1, 4)),))
        for number, name in enumerate(QUANTITY_NAMES)
    )


def test_a_path_without_a_topic_reads_that_of_power() -> None:
    topics = heard_by(
        topicPower="plug", powerPath="p", energyPath="e.total", energyScale=0.001, topicVoltage="v"
    ).topics
    assert topics == (
        TopicUse("plug", (Field("power", "p"), Field("energy", "e.total", IN_WATTS))),
        TopicUse("v", (Field("voltage"),)),
    )


def test_power_without_a_path_fills_and_with_one_does_not() -> None:
    assert heard_by(topicPower="a").topics == (TopicUse("a", (Field("power"),), fills=True),)
    assert heard_by(topicPower="a", powerPath="p").topics == (
        TopicUse("a", (Field("power", "p"),)),
    )
    (use,) = heard_by(topicEnergy="a").topics
    assert not use.fills, "only power's topic does"


def test_a_scale_is_for_what_powers_topic_names_too() -> None:
    for name in NAMED[1:]:
        (use,) = heard_by(topicPower="a", **{f"{name}Scale": 0.5}).topics
        assert use.fields == (Field("power"), Field(name, None, Fraction(1, 2)))


def test_several_quantities_on_one_topic_are_one_use() -> None:
    (use,) = heard_by(
        topicVoltage="a", voltagePath="u", topicPower="a", powerPath="p", topicCurrent="a"
    ).topics
    assert use == TopicUse("a", (Field("power", "p"), Field("voltage", "u"), Field("current")))


def test_a_status_topic_may_be_one_of_values_and_have_a_path() -> None:
    communication = heard_by(topicPower="a", topicStatus="a", statusPath="state", invert=True)
    assert (communication.status_topic, communication.status_path) == ("a", "state")
    assert [use.topic for use in communication.topics] == ["a"]
    assert communication.invert


@pytest.mark.parametrize(
    ("quantity", "topic"),
    [
        ("power", "shellies/shellyem-3a7c1f/emeter/1/power"),
        ("powerL3", "shellies/shellyem3-84cca8aabbcc/emeter/2/power"),
        ("energy", "shellies/shellyem-3a7c1f/emeter/0/total"),
        ("energyExport", "shellies/shellyem-3a7c1f/emeter/0/total_returned"),
        ("reactivePower", "shellies/shellyem-3a7c1f/emeter/0/reactive_power"),
        ("power", "shellies/shelly1pm-aabbcc/relay/0/power"),
    ],
)
def test_topics_that_are_known_count_in_thousandths_unless_a_scale_is_given(
    quantity: str, topic: str
) -> None:
    (use,) = heard_by(**{topic_key(quantity): topic}).topics
    assert use.fields == (Field(quantity, assumed=IN_WATTS),)
    (use,) = heard_by(**{topic_key(quantity): topic, f"{quantity}Scale": 1}).topics
    assert use.fields[0].scale == 1


@pytest.mark.parametrize(
    ("quantity", "topic"),
    [
        ("power", "shellies/a/b/emeter/0/power"),
        ("power", "my/shellies/a/emeter/0/power"),
        ("power", "shellies/a/emeter/0/power/now"),
        ("power", "shellies/a/emeter/0/voltage"),
        ("voltage", "shellies/shellyem-3a7c1f/emeter/0/voltage"),
        ("powerFactor", "shellies/shellyem3-3a7c1f/emeter/0/power"),
        ("energy", "Shellies/a/emeter/0/total"),
    ],
)
def test_of_other_topics_nothing_is_assumed(quantity: str, topic: str) -> None:
    (use,) = heard_by(**{topic_key(quantity): topic}).topics
    assert use.fields == (Field(quantity),)


def test_a_configured_broker() -> None:
    assert heard_by("plant", topicPower="a", broker="plant").endpoint.name == "mqtt:plant"
    assert heard_by("plant", topicPower="a").endpoint.name == "mqtt:default"


# --- Faults ---


def test_every_fault_comes_at_once_with_its_path() -> None:
    assert refused(
        topicPower="building/+/power",
        topicEnergi="x",
        topicEnergy=5,
        energyPath="a[",
        voltageScale=0,
        currentPath=["x"],
        broker="plant",
        topicStatus="",
        statusPath="nope(@)",
        invert=1,
        url="http://h",
    ) == {
        "topicPower": "must be one topic without wildcards, not 'building/+/power'",
        "topicEnergi": "unknown key; did you mean 'topicEnergy'?",
        "topicEnergy": "must be a topic like 'building/energy/power', not 5",
        "energyPath": "is no JMESPath expression (Invalid jmespath expression: Incomplete "
        "expression); see jmespath.org",
        "voltageScale": "must be a factor other than 0, from 1e-12 to 1e12, not 0",
        "currentPath": "must be a JMESPath expression like 'meters[0].power', not a list",
        "broker": "must be default, not 'plant' ([mqtt.brokers.<name>] in the config adds one)",
        "topicStatus": "must be a topic like 'building/energy/power', not ''",
        "statusPath": "cannot be used (Unknown function: nope()); see jmespath.org",
        "invert": "must be true or false, not 1",
        "url": "unknown key; known here: broker, invert, statusPath, topicStatus, <quantity>Path, "
        "<quantity>Scale, topic<Quantity>",
    }


def test_a_broker_that_is_nearly_one_is_named() -> None:
    document = registration(topicPower="a", broker="plnat")
    faults = faults_of(document, References(brokers=("default", "plant")))
    assert faults == {
        "communication.broker": "must be default | plant, not 'plnat'; did you mean 'plant'? "
        "([mqtt.brokers.<name>] in the config adds one)"
    }


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("#", "must be one topic without wildcards, not '#'"),
        ("a/+", "must be one topic without wildcards, not 'a/+'"),
        ("a+b", "must be one topic without wildcards, not 'a+b'"),
        ("$share/g/a/b", "must be the topic itself, without '$share/…/' before it"),
        ("a\0b", "must be printable text without line breaks or control characters"),
        ("a\nb", "must be printable text without line breaks or control characters"),
        ("a\ud800", "must be printable text without line breaks or control characters"),
        ("a/b ", "must not begin or end with a space"),
        (" ", "must not begin or end with a space"),
        ("x" * 65_535, "must be at most 1,024 bytes"),
        ("x" * 65_536, "must be at most 1,024 bytes"),
        ("ä" * 513, "must be at most 1,024 bytes"),
        ("", "must be a topic like 'building/energy/power', not ''"),
        (True, "must be a topic like 'building/energy/power', not true"),
        (["a"], "must be a topic like 'building/energy/power', not a list"),
    ],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.parametrize("key", ["topicPower", "topicEnergy", "topicStatus"])
def test_a_topic_is_the_name_of_one(key: str, topic: object, message: str) -> None:
    assert refused(**{"topicPower": "a", key: topic}) == {key: message}


@pytest.mark.parametrize("topic", ["a", "/", "a//b", "$SYS/uptime", "Zähler 1/Leistung", "ä" * 512])
def test_names_that_are_topics(topic: str) -> None:
    assert heard_by(topicPower=topic).topics[0].topic == topic


@pytest.mark.parametrize(
    "path",
    [
        "", "a[", "a b", "nope(@)", "sum(", "abs(@, @)", "a" * 1001, "a\n.b", "'\ud800'", 5, None,
        "[" * 400, "!" * 900 + "a",
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_a_path_is_an_expression(path: object) -> None:
    if path is None:
        assert heard_by(topicPower="a", powerPath=None).topics[0].fills
        return
    faults = refused(topicPower="a", powerPath=path)
    assert list(faults) == ["powerPath"]
    assert len(faults["powerPath"]) < 300


def test_a_meter_without_a_topic_hears_nothing() -> None:
    assert refused() == {"topicPower": "is missing; give at least one topic<Quantity>"}
    assert "topicPower" in refused(topicStatus="a")


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        (
            {"topicEnergy": "a", "voltagePath": "u"},
            "voltagePath",
            "needs topicVoltage or topicPower; give the topic it is found on",
        ),
        (
            {"topicEnergy": "a", "voltageScale": 2},
            "voltageScale",
            "scales nothing; give topicVoltage too, or leave it out",
        ),
        (
            {"topicPower": "a", "powerL1Scale": 2},
            "powerL1Scale",
            "scales nothing; give topicPowerL1 too, or leave it out",
        ),
        (
            {"topicEnergy": "a", "topicPowerExport": "b"},
            "topicPowerExport",
            "is taken off power; give topicPower too",
        ),
        (
            {"topicPower": "a", "statusPath": "state"},
            "statusPath",
            "needs topicStatus; give that too",
        ),
    ],
)
def test_keys_that_need_another(given: dict[str, Any], path: str, message: str) -> None:
    assert refused(**given) == {path: message}


@pytest.mark.parametrize("last", ["energy", "returned_energy"])
@pytest.mark.parametrize("channel", ["emeter/0", "relay/0"])
def test_topics_that_count_watt_minutes_are_refused_whatever_the_scale(
    last: str, channel: str
) -> None:
    topic = f"shellies/shellyem-3a7c1f/{channel}/{last}"
    assert refused(topicPower="a", topicEnergy=topic, energyScale=0.5) == {
        "topicEnergy": "counts Watt-minutes and starts from 0 again; use the topic …/total, or none"
    }


KEYS = [
    *keys_of(MqttKeys, camel_case),
    *(topic_key(name) for name in QUANTITY_NAMES),
    *(f"{name}{ending}" for name in QUANTITY_NAMES for ending in ("Path", "Scale")),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([{}, {"topicPower": "a"}]), some_of(KEYS) | JSON_VALUES)
def test_any_document_is_a_meter_or_named_faulty(base: dict[str, Any], given: Any) -> None:
    communication = {**base, **given} if isinstance(given, dict) else given
    is_taken_or_named_faulty({**registration(), "communication": communication})
