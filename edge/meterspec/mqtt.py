"""`communication` of protocol `mqtt`: which topics give which quantities."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any

import attrs

from edge.checks import one_of
from edge.communication import Field, MqttCommunication, MqttEndpoint, TopicUse
from edge.errors import Fault
from edge.meterspec.keys import PATH, structured
from edge.meterspec.payloads import (
    PayloadKeys,
    json_path,
    payload_keys,
    topic_key,
    topic_name,
)
from edge.model import QUANTITY_NAMES
from edge.payload import NAMED
from edge.structure import camel_case, key, keys_of


@attrs.frozen
class MqttKeys:
    """Keys of `communication` for protocol `mqtt`, beside `topic<Quantity>` and the like."""

    broker: str = key("default")
    topic_status: Any = key(None, check=topic_name)
    status_path: Any = key(None, check=json_path)
    invert: bool = key(False)


_IN_WATTS = Fraction(1, 1000)
_KNOWN_TOPICS = (
    # Shelly, first generation. Source: shelly-api-docs.shelly.cloud/gen1, "Shelly EM: MQTT".
    (re.compile(r"shellies/[^/]+/emeter/[0-9]/(power|total|total_returned)"), _IN_WATTS),
    (re.compile(r"shellies/[^/]+/emeter/[0-9]/(reactive_power)"), _IN_WATTS),
    (re.compile(r"shellies/[^/]+/relay/[0-9]/power"), _IN_WATTS),
)
"""Topics that are known to count in W, Wh or var where no unit and no scale is given."""

_WATT_MINUTES = re.compile(r"shellies/[^/]+/(emeter|relay)/[0-9]/(energy|returned_energy)")
"""Topics that count Watt-minutes, and from 0 again at every restart: no meter's counter."""


def parse_mqtt(
    document: Mapping[str, Any], brokers: Collection[str], faults: list[Fault]
) -> MqttCommunication | None:
    """Make the communication of an MQTT meter, or add what is wrong with it to `faults`.

    brokers: names that `broker` may give.
    """
    before = len(faults)
    found = payload_keys(document, keys_of(MqttKeys, camel_case), faults, topics=True)
    keys = structured(MqttKeys, found.rest, PATH, faults)
    assert keys is not None  # the document is a table
    faults.extend(_faults(keys, found, brokers))
    if len(faults) > before:
        return None
    return MqttCommunication(
        endpoint=MqttEndpoint(keys.broker),
        topics=tuple(_topic_uses(found)),
        status_topic=keys.topic_status,
        status_path=keys.status_path,
        invert=keys.invert,
    )


def _faults(keys: MqttKeys, found: PayloadKeys, brokers: Collection[str]) -> Iterator[Fault]:
    try:
        one_of(*sorted(brokers))(keys.broker)
    except ValueError as exc:
        yield Fault(f"{PATH}.broker", f"{exc} ([mqtt.brokers.<name>] in the config adds one)")
    if keys.status_path is not None and "topicStatus" not in found.rest:
        yield Fault(f"{PATH}.statusPath", "needs topicStatus; give that too")
    yield from _quantity_faults(found)


def _quantity_faults(found: PayloadKeys) -> Iterator[Fault]:
    """What is wrong between topics, paths and scales."""
    if not found.topics:
        yield Fault(f"{PATH}.topicPower", "is missing; give at least one topic<Quantity>")
    on_powers_topic = "power" in found.topics
    given = {*found.topics, *(found.paths if on_powers_topic else ())}
    for quantity in found.paths:
        if quantity not in given:
            message = f"needs {topic_key(quantity)} or topicPower; give the topic it is found on"
            yield Fault(f"{PATH}.{quantity}Path", message)
    for quantity in found.scales:
        if quantity not in given and not (on_powers_topic and quantity in NAMED):
            message = f"scales nothing; give {topic_key(quantity)} too, or leave it out"
            yield Fault(f"{PATH}.{quantity}Scale", message)
    if "powerExport" in given and "power" not in given:
        message = "is taken off power; give topicPower too"
        yield Fault(f"{PATH}.{topic_key('powerExport')}", message)
    for quantity, topic in found.topics.items():
        if isinstance(topic, str) and _WATT_MINUTES.fullmatch(topic):
            yield Fault(
                f"{PATH}.{topic_key(quantity)}",
                "counts Watt-minutes and starts from 0 again; use the topic …/total, or none",
            )


def _topic_uses(found: PayloadKeys) -> Iterator[TopicUse]:
    """Gather what is taken from each topic; a path without a topic reads that of power."""
    fields: dict[str, list[Field]] = {}
    filling = None
    for quantity in QUANTITY_NAMES:
        topic = found.topics.get(quantity)
        path = found.paths.get(quantity)
        if quantity == "power" and path is None:
            filling = topic
        if topic is None and (path is not None or quantity in found.scales):
            topic = found.topics["power"]
        if topic is not None:
            field = Field(quantity, path, found.scales.get(quantity), _assumed(topic, quantity))
            fields.setdefault(topic, []).append(field)
    for topic, on_topic in fields.items():
        yield TopicUse(topic, tuple(on_topic), fills=topic == filling)


def _assumed(topic: str, quantity: str) -> Fraction:
    """The factor of a plain number on a topic of a kind that is known."""
    if quantity.startswith(("power", "energy", "reactive")) and quantity != "powerFactor":
        for pattern, factor in _KNOWN_TOPICS:
            if pattern.fullmatch(topic):
                return factor
    return Fraction(1)
