"""A registration document into a `Meter`: the one validation behind REST, `state.json` and `check`.

The classes below and in the protocols' own modules are the keys of a registration, in the spelling
of the REST API. A document is kept as it was given (`Meter.document`), without nulls, defaults and
what a template fills in, so that a default which follows another key (`staleAfter` = 3 ×
`pollInterval`) still follows it after an update.

To add a protocol: a module here that makes its `Communication`, and a row in PROTOCOLS.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import attrs

from edge.checks import between, one_of, rule, text
from edge.communication import Communication
from edge.errors import ConfigError, Fault, Faulty
from edge.meterspec.http import HttpKeys, http_conflict, parse_http
from edge.meterspec.keys import PATH, SCALE_KEYS, scale, structured
from edge.meterspec.modbus import ModbusKeys, modbus_conflict, parse_modbus
from edge.meterspec.mqtt import MqttKeys, parse_mqtt
from edge.meterspec.payloads import PATH_KEYS, TOPIC_KEYS, json_path, topic_name
from edge.meterspec.secrets import hidden_secrets
from edge.model import METER_TYPES, QUANTITY_NAMES, Meter
from edge.reach import Reach
from edge.structure import Check, key, merge_patch, nearest, shown
from edge.template import Template, expand

STALE_AFTER_POLLS = 3
"""A reading is stale after this many poll intervals, unless the meter says otherwise."""

_READ_ONLY = frozenset(
    {
        "id", "status", "lastUpdate", "lastError", "quality", "hints", "line",
        "currentPower", "totalEnergy", *QUANTITY_NAMES,
    }
)  # fmt: skip


@dataclass(frozen=True)
class References:
    """What a registration may refer to.

    templates: the device library; a template that is faulty raises ConfigError when looked up.
    brokers: the names of those of the configuration. reach: which literal addresses it may give;
    None for any, where whoever connects is left to refuse them.
    """

    templates: Mapping[str, Template] = field(default_factory=dict)
    brokers: Collection[str] = ("default",)
    reach: Reach | None = None


@rule(type="string")
def _protocol(value: str) -> None:
    if value not in PROTOCOLS:
        raise ValueError(f"{shown(value)} is not supported; known: {', '.join(PROTOCOLS)}")


@rule(type="object")
def _table(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table or object, not {shown(value)}")


@attrs.frozen
class RegistrationKeys:
    """Keys of a registration, whatever the protocol."""

    name: str = key(check=text(100))
    protocol: str = key(check=_protocol)
    meter_type: str = key(check=one_of(*METER_TYPES))
    communication: Any = key(check=_table)
    location: str | None = key(None, check=text(100))
    poll_interval: int | None = key(None, check=between(200, 3_600_000, "ms"))
    stale_after: int | None = key(None, check=between(200, 86_400_000, "ms"))
    max_power: float | None = key(None, check=between(0.001, 1_000_000, "kW"))


@dataclass(frozen=True)
class Protocol:
    """One way to reach meters.

    keys: the class of its keys. quantity_keys: those that are made of quantities' names, each with
    its check. parse: makes the communication, or adds faults. conflict: why two different endpoints
    cannot both be lines. poll_interval_ms: the default; None where meters speak by themselves.
    stale_after_ms: the default; None for STALE_AFTER_POLLS intervals.
    """

    keys: type
    quantity_keys: Mapping[str, Check]
    parse: Callable[[Mapping[str, Any], References, list[Fault]], Communication | None]
    conflict: Callable[[Any, Any, str], Fault | None]
    poll_interval_ms: int | None
    stale_after_ms: int | None = None


_PAYLOAD_KEYS: dict[str, Check] = {
    **dict.fromkeys(PATH_KEYS, json_path),
    **dict.fromkeys(SCALE_KEYS, scale),
}

PROTOCOLS: dict[str, Protocol] = {
    "modbus": Protocol(
        ModbusKeys,
        {},
        lambda document, names, faults: parse_modbus(document, names.reach, faults),
        modbus_conflict,
        5000,
    ),
    "mqtt": Protocol(
        MqttKeys,
        {**dict.fromkeys(TOPIC_KEYS, topic_name), **_PAYLOAD_KEYS},
        lambda document, names, faults: parse_mqtt(document, names.brokers, faults),
        lambda _mine, _theirs, _other: None,
        None,
        stale_after_ms=60_000,
    ),
    "http": Protocol(
        HttpKeys,
        _PAYLOAD_KEYS,
        lambda document, names, faults: parse_http(document, names.reach, faults),
        http_conflict,
        30_000,
    ),
}


def parse_meter(document: Any, meter_id: str, phase_index: int, references: References) -> Meter:
    """Make a Meter from a registration document, any JSON value.

    phase_index: its place in the order of polling. Raises Faulty with every fault and its path.
    """
    faults: list[Fault] = []
    document = merge_patch({}, document)  # drops nulls, and shares no table with the caller
    stand_ins = {"name": "?", "protocol": "modbus", "meterType": "zone", "communication": {}}
    keys = structured(RegistrationKeys, document, "", faults, stand_ins)
    faults = [_read_only(fault) for fault in faults]
    if keys is None:
        raise Faulty(faults)
    protocol = PROTOCOLS[keys.protocol]
    poll_interval, stale_after = _times(keys, protocol, faults)
    communication = None
    protocol_is_sound = document.get("protocol") == keys.protocol
    if protocol_is_sound and document.get("communication") is keys.communication:
        faults.extend(hidden_secrets(keys.communication))
        name = keys.communication.get("template")
        template = None if name is None else _template(name, keys.protocol, references, faults)
        if template is not None:
            communication = _expanded(template, keys.communication, protocol, references, faults)
        elif name is None:
            communication = protocol.parse(keys.communication, references, faults)
    if faults or communication is None:
        raise Faulty(faults)
    return Meter(
        id=meter_id,
        name=keys.name.strip(),
        location=keys.location or "",
        protocol=keys.protocol,
        meter_type=keys.meter_type,
        poll_interval_ms=poll_interval,
        stale_after_ms=stale_after,
        max_power_kw=keys.max_power,
        communication=communication,
        phase_index=phase_index,
        document=document,
    )


def line_conflicts(meter: Meter, others: Iterable[Meter]) -> list[Fault]:
    """Say where a meter needs a line otherwise than a registered meter on it does."""
    mine = meter.communication.endpoint
    for other in others:
        theirs = other.communication.endpoint
        if mine == theirs or other.id == meter.id or other.protocol != meter.protocol:
            continue
        fault = PROTOCOLS[meter.protocol].conflict(mine, theirs, other.name)
        if fault is not None:
            return [fault]
    return []


def _read_only(fault: Fault) -> Fault:
    """Say of a key that only answers have that it is not to be given."""
    if fault.path in _READ_ONLY:
        return Fault(fault.path, "is given by the service; leave it out")
    return fault


def _times(
    keys: RegistrationKeys, protocol: Protocol, faults: list[Fault]
) -> tuple[int | None, int]:
    """How often a meter is polled, None for never, and after what time it is stale, ms."""
    if protocol.poll_interval_ms is None:
        return None, keys.stale_after or protocol.stale_after_ms or 0
    poll_interval = keys.poll_interval or protocol.poll_interval_ms
    stale_after = keys.stale_after or STALE_AFTER_POLLS * poll_interval
    sound = not {"protocol", "pollInterval"} & {fault.path for fault in faults}
    if sound and stale_after < poll_interval:
        faults.append(Fault("staleAfter", f"must be at least pollInterval ({poll_interval:,} ms)"))
    return poll_interval, stale_after


def _template(
    name: Any, protocol: str, references: References, faults: list[Fault]
) -> Template | None:
    """Look a template up, or add why it is of no use."""
    where = f"{PATH}.template"
    if not isinstance(name, str):
        faults.append(Fault(where, f"must be the name of a template, not {shown(name)}"))
        return None
    try:
        template = references.templates.get(name)
        hint = "" if template else nearest(name, references.templates)
    except ConfigError as exc:
        faults.append(Fault(where, f"cannot be used: {_first(*_without_path(exc))}"))
        return None
    if template is None:
        hint = hint or "; GET /api/templates and `dlm-edge templates` list them"
        faults.append(Fault(where, f"{shown(name)} is not in the device library{hint}"))
    elif template.protocol != protocol:
        message = f"is for protocol {template.protocol!r}; give that as protocol"
        faults.append(Fault(where, message))
        return None
    return template


def _expanded(
    template: Template,
    communication: Mapping[str, Any],
    protocol: Protocol,
    references: References,
    faults: list[Fault],
) -> Communication | None:
    """Lay the template under what was given beside it, and parse both together.

    Faults of keys that only the template gives are one fault of the template.
    """
    expanded, complaints = expand(template, communication)
    faults.extend(complaints)
    found: list[Fault] = []
    parsed = protocol.parse(expanded, references, found)

    def brought(fault: Fault) -> bool:
        name = fault.path.removeprefix(f"{PATH}.").partition(".")[0]
        return name in expanded and name not in communication

    its_own = [fault for fault in found if brought(fault)]
    faults.extend(fault for fault in found if fault not in its_own)
    if its_own:
        message = f"does not work like this: {_first(template.name, its_own)}"
        faults.append(Fault(f"{PATH}.template", message))
    return parsed


def _without_path(error: ConfigError) -> tuple[str, Sequence[Fault]]:
    """The source of its faults, and these. Of a path only the last name: who asks gets no more."""
    source, faults = error.source, error.faults
    if not source:  # it is the folder that cannot be read
        source, faults = faults[0].path, (Fault("", faults[0].message),)
    return source.rpartition("/")[2], faults


def _first(source: str, faults: Sequence[Fault]) -> str:
    """The first fault, in one line, and how many there are beside it."""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{': '.join(filter(None, (source, str(faults[0]))))}{more}"
