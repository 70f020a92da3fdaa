"""Where quantities are in payloads: `<quantity>Path` and `<quantity>Scale`, for MQTT and HTTP."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from edge.errors import Fault
from edge.meterspec.keys import PATH, parse_scale
from edge.model import QUANTITY_NAMES
from edge.paths import check_path
from edge.structure import shown, unknown_keys

LONGEST_TOPIC_BYTES = 1024
"""The protocol allows 65,535; no meter comes near, and every topic is kept and sent around."""


@dataclass(frozen=True)
class PayloadKeys:
    """The keys of `communication` that are made of quantities' names.

    topics is empty for a protocol without topics. rest: the keys that are not made so.
    """

    paths: Mapping[str, Any]
    scales: Mapping[str, Fraction]
    topics: Mapping[str, Any]
    rest: Mapping[str, Any]


def topic_key(quantity: str) -> str:
    """`powerL1` → `topicPowerL1`."""
    return f"topic{quantity[0].upper()}{quantity[1:]}"


def payload_keys(
    document: Mapping[str, Any], known: Collection[str], faults: list[Fault], *, topics: bool
) -> PayloadKeys:
    """Sort out the keys of `communication`; faults of theirs, and unknown keys, are added.

    known: the other keys of this protocol.
    """
    path_keys = {f"{name}Path": name for name in QUANTITY_NAMES}
    scale_keys = {f"{name}Scale": name for name in QUANTITY_NAMES}
    topic_keys = {topic_key(name): name for name in QUANTITY_NAMES} if topics else {}
    paths, scales, heard, rest = {}, {}, {}, {}
    unknown = []
    for name, value in document.items():
        where = f"{PATH}.{name}"
        if name in path_keys:
            faults.extend(path_faults(value, where))
            paths[path_keys[name]] = value
        elif name in scale_keys:
            scales[scale_keys[name]] = parse_scale(value, where, faults)
        elif name in topic_keys:
            faults.extend(topic_faults(value, where))
            heard[topic_keys[name]] = value
        elif name in known:
            rest[name] = value
        else:
            unknown.append(name)
    patterns = {"<quantity>Path": path_keys, "<quantity>Scale": scale_keys}
    if topics:
        patterns["topic<Quantity>"] = topic_keys
    faults.extend(unknown_keys(unknown, known, PATH, patterns))
    return PayloadKeys(paths, scales, heard, rest)


def path_faults(value: Any, where: str) -> Iterator[Fault]:
    """What is wrong with a JMESPath expression."""
    if not isinstance(value, str):
        yield Fault(
            where, f"must be a JMESPath expression like 'meters[0].power', not {shown(value)}"
        )
        return
    if not value.isprintable():
        yield Fault(where, "must be printable text without line breaks or control characters")
        return
    try:
        check_path(value)
    except ValueError as exc:
        yield Fault(where, str(exc))


def topic_faults(value: Any, where: str) -> Iterator[Fault]:
    """What is wrong with the name of a topic. Source: MQTT 5.0, sections 1.5.4, 4.7 and 4.8.2."""
    if not isinstance(value, str) or not value:
        yield Fault(where, f"must be a topic like 'building/energy/power', not {shown(value)}")
    elif "+" in value or "#" in value:
        yield Fault(where, f"must be one topic without wildcards, not {shown(value)}")
    elif value.startswith("$share/"):
        yield Fault(where, "must be the topic itself, without '$share/…/' before it")
    elif not value.isprintable():
        yield Fault(where, "must be printable text without line breaks or control characters")
    elif value != value.strip():
        yield Fault(where, "must not begin or end with a space")
    elif len(value.encode()) > LONGEST_TOPIC_BYTES:
        yield Fault(where, f"must be at most {LONGEST_TOPIC_BYTES:,} bytes")
