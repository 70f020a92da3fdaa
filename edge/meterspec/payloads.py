"""Where quantities are in payloads: `<quantity>Path` and `<quantity>Scale`, for MQTT and HTTP."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from edge.checks import rule
from edge.errors import Fault
from edge.meterspec.keys import PATH, SCALE_KEYS, parse_scale
from edge.model import QUANTITY_NAMES
from edge.paths import LONGEST_PATH, check_path
from edge.structure import Check, shown, unknown_keys

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


PATH_KEYS = {f"{name}Path": name for name in QUANTITY_NAMES}
"""`powerL1Path` → `powerL1`."""
TOPIC_KEYS = {topic_key(name): name for name in QUANTITY_NAMES}


def payload_keys(
    document: Mapping[str, Any], known: Collection[str], faults: list[Fault], *, topics: bool
) -> PayloadKeys:
    """Sort out the keys of `communication`; faults of theirs, and unknown keys, are added.

    known: the other keys of this protocol.
    """
    topic_keys = TOPIC_KEYS if topics else {}
    paths, scales, heard, rest = {}, {}, {}, {}
    unknown = []
    for name, value in document.items():
        where = f"{PATH}.{name}"
        if name in PATH_KEYS:
            _check(json_path, value, where, faults)
            paths[PATH_KEYS[name]] = value
        elif name in SCALE_KEYS:
            scales[SCALE_KEYS[name]] = parse_scale(value, where, faults)
        elif name in topic_keys:
            _check(topic_name, value, where, faults)
            heard[topic_keys[name]] = value
        elif name in known:
            rest[name] = value
        else:
            unknown.append(name)
    patterns = {"<quantity>Path": PATH_KEYS, "<quantity>Scale": SCALE_KEYS}
    if topics:
        patterns["topic<Quantity>"] = topic_keys
    faults.extend(unknown_keys(unknown, known, PATH, patterns))
    return PayloadKeys(paths, scales, heard, rest)


@rule(type="string", minLength=1, maxLength=LONGEST_PATH)
def json_path(value: Any) -> None:
    """Check a JMESPath expression."""
    if not isinstance(value, str):
        raise ValueError(
            f"must be a JMESPath expression like 'meters[0].power', not {shown(value)}"
        )
    if not value.isprintable():
        raise ValueError("must be printable text without line breaks or control characters")
    check_path(value)


@rule(type="string", minLength=1, maxLength=LONGEST_TOPIC_BYTES, pattern="^[^+#]*$")
def topic_name(value: Any) -> None:
    """Check the name of a topic. Source: MQTT 5.0, sections 1.5.4, 4.7 and 4.8.2."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a topic like 'building/energy/power', not {shown(value)}")
    if "+" in value or "#" in value:
        raise ValueError(f"must be one topic without wildcards, not {shown(value)}")
    if value.startswith("$share/"):
        raise ValueError("must be the topic itself, without '$share/…/' before it")
    if not value.isprintable():
        raise ValueError("must be printable text without line breaks or control characters")
    if value != value.strip():
        raise ValueError("must not begin or end with a space")
    if len(value.encode()) > LONGEST_TOPIC_BYTES:
        raise ValueError(f"must be at most {LONGEST_TOPIC_BYTES:,} bytes")


def _check(check: Check, value: Any, where: str, faults: list[Fault]) -> None:
    try:
        check(value)
    except ValueError as exc:
        faults.append(Fault(where, str(exc)))
