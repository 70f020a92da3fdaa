"""A registration document into a `Meter`: the one validation behind REST, `state.json` and `check`.

The classes below are the keys of a registration, in the spelling of the REST API. A document is
kept as it was given (`Meter.document`), without the defaults, so that a default which follows
another key (`staleAfter` = 3 × `pollInterval`) still follows it after an update.
"""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import attrs

from edge.errors import Fault
from edge.model import (
    METER_TYPES,
    QUANTITY_NAMES,
    Endpoint,
    Meter,
    ModbusCommunication,
    Register,
)
from edge.structure import (
    Faulty,
    between,
    camel_case,
    key,
    keys_of,
    one_of,
    structure,
    text,
    unknown_key,
)

STALE_AFTER_POLLS = 3
"""A reading is stale after this many poll intervals, unless the meter says otherwise."""

_WIDTHS = {
    "uint16": 1, "int16": 1, "uint32": 2, "int32": 2,
    "uint64": 4, "int64": 4, "float32": 2, "float64": 4,
}  # fmt: skip
_FUNCTIONS = {"holding": 3, "input": 4}
_READ_ONLY = frozenset(
    {
        "id", "status", "lastUpdate", "lastError", "quality", "hints", "currentPower",
        "totalEnergy", "voltage", "current", "powerFactor", "frequency",
    }
)  # fmt: skip


def _scale(value: float) -> None:
    if not 1e-12 <= abs(value) <= 1e12:
        raise ValueError(f"must be a factor other than 0, from 1e-12 to 1e12, not {value:g}")


def _host(value: str) -> None:
    if ":" in value:
        try:
            ipaddress.ip_address(value)
            return
        except ValueError:
            pass
    elif re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", value):
        return
    raise ValueError(
        f"must be a bare host name or IP address like 192.168.1.150, not {value!r}; "
        "the port goes into 'port'"
    )


@attrs.frozen
class RegistrationKeys:
    """Keys of a registration, whatever the protocol."""

    name: str = key(check=text(100))
    protocol: str = key(check=text(20))
    meter_type: str = key(check=one_of(*METER_TYPES))
    communication: Any = key()
    location: str | None = key(None, check=text(100))
    poll_interval: int | None = key(None, check=between(200, 3_600_000, "ms"))
    stale_after: int | None = key(None, check=between(200, 86_400_000, "ms"))
    max_power: float | None = key(None, check=between(0, 1_000_000, "kW"))


@attrs.frozen
class ModbusKeys:
    """Keys of `communication` for protocol `modbus`."""

    registers: Any = key()
    transport: str = key("tcp", check=one_of("tcp", "rtu", "rtu-over-tcp"))
    host: str | None = key(None, check=_host)
    port: int | None = key(None, check=between(1, 65535))
    serial_port: str | None = key(None, check=text(255))
    baudrate: int | None = key(None, check=between(300, 4_000_000))
    parity: str | None = key(None, check=one_of("N", "E", "O"))
    stopbits: float | None = key(None, check=one_of(1, 1.5, 2))
    bytesize: int | None = key(None, check=one_of(7, 8))
    unit_id: int = key(1, check=between(0, 255))
    timeout: int = key(1000, check=between(50, 60_000, "ms"))
    retries: int = key(1, check=between(0, 10))
    request_delay: int = key(0, check=between(0, 10_000, "ms"))
    register_type: str = key("holding", check=one_of(*_FUNCTIONS))
    word_order: str = key("big", check=one_of("big", "little"))
    max_registers_per_request: int = key(125, check=between(1, 125))
    max_gap: int = key(8, check=between(0, 124))
    invert: bool = key(False)


@attrs.frozen
class RegisterKeys:
    """Keys of one entry of `registers` in its long form."""

    address: int = key(check=between(0, 65535))
    type: str = key("uint16", check=one_of(*_WIDTHS))
    register_type: str | None = key(None, check=one_of(*_FUNCTIONS))
    word_order: str | None = key(None, check=one_of("big", "little"))
    scale: float = key(1.0, check=_scale)
    not_available: int | None = key(None, check=between(0, 2**64 - 1))


def parse_meter(document: Any, meter_id: str, slot: int) -> Meter:
    """Make a Meter from a registration document.

    slot: its place in the order of polling. Raises Faulty with every fault and its path.
    """
    faults: list[Fault] = []
    keys = _keys(RegistrationKeys, document, "", faults)
    protocol = document.get("protocol") if isinstance(document, dict) else None
    parse = _PROTOCOLS.get(protocol) if isinstance(protocol, str) else None
    if parse is None and isinstance(protocol, str):
        known = ", ".join(_PROTOCOLS)
        faults.append(Fault("protocol", f"{protocol!r} is not spoken here; known: {known}"))
    communication = None
    if parse is not None and "communication" in document:
        communication = parse(document["communication"], faults)
    if keys is not None and communication is not None:
        poll_interval = keys.poll_interval or 5000
        stale_after = keys.stale_after or STALE_AFTER_POLLS * poll_interval
        if stale_after < poll_interval:
            faults.append(
                Fault("staleAfter", f"must be at least pollInterval ({poll_interval} ms)")
            )
        if not faults:
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
                slot=slot,
                document=copy.deepcopy(document),
            )
    raise Faulty(faults)


def merge_patch(document: Any, patch: Any) -> Any:
    """Apply a JSON Merge Patch. Source: RFC 7396, section 2. Neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def line_conflicts(meter: Meter, others: Iterable[Meter]) -> list[Fault]:
    """Say where a meter needs a line otherwise than a registered meter on it does.

    One wire has one set of line settings, and one TCP endpoint one kind of framing.
    """
    mine = meter.communication.endpoint
    for other in others:
        theirs = other.communication.endpoint
        if mine == theirs or other.id == meter.id:
            continue
        if mine.name == theirs.name:
            settings = f"{theirs.baudrate} {theirs.bytesize}{theirs.parity}{theirs.stopbits:g}"
            return [
                Fault(
                    "communication.serialPort",
                    f"{mine.serial_port} is used with {settings} by meter {other.name!r}; "
                    "give the same baudrate, bytesize, parity and stopbits",
                )
            ]
        if mine.host and (mine.host, mine.port) == (theirs.host, theirs.port):
            return [
                Fault(
                    "communication.transport",
                    f"{mine.host}:{mine.port} is used as {theirs.transport} by meter "
                    f"{other.name!r}; give the same transport",
                )
            ]
    return []


def _keys(cls: type[Any], document: Any, path: str, faults: list[Fault]) -> Any:
    """Structure one level; its faults are added under `path` and None is given back."""
    try:
        return structure(cls, document, camel_case)
    except Faulty as exc:
        for fault in exc.faults:
            where = ".".join(part for part in (path, fault.path) if part)
            read_only = not path and fault.path in _READ_ONLY
            message = "is given by the service; leave it out" if read_only else fault.message
            faults.append(Fault(where, message))
        return None


def _parse_modbus(document: Any, faults: list[Fault]) -> ModbusCommunication | None:
    before = len(faults)
    keys = _keys(ModbusKeys, document, "communication", faults)
    if keys is None:
        if isinstance(document, dict) and isinstance(document.get("registers"), dict):
            _parse_registers(document["registers"], _register_defaults(document), faults)
        return None
    endpoint = _parse_endpoint(keys, faults)
    registers = _parse_registers(keys.registers, keys, faults)
    for register in registers:
        width = register.stop - register.start
        if width > keys.max_registers_per_request:
            faults.append(
                Fault(
                    f"communication.registers.{register.quantity}",
                    f"spans {width} registers, more than maxRegistersPerRequest "
                    f"({keys.max_registers_per_request}) reads at once",
                )
            )
    if len(faults) > before:
        return None
    return ModbusCommunication(
        endpoint=endpoint,
        unit_id=keys.unit_id,
        timeout_s=keys.timeout / 1000,
        retries=keys.retries,
        request_delay_s=keys.request_delay / 1000,
        registers=registers,
        max_registers_per_request=keys.max_registers_per_request,
        max_gap=keys.max_gap,
        invert=keys.invert,
    )


def _register_defaults(document: Mapping[str, Any]) -> ModbusKeys:
    """What a register inherits, for finding its faults while other keys are faulty too."""
    usable = {
        name: document[name]
        for name in ("registerType", "wordOrder")
        if document.get(name) in ("holding", "input", "big", "little")
    }
    try:
        return structure(ModbusKeys, {"registers": {}, **usable}, camel_case)
    except Faulty:
        return ModbusKeys(registers={})


_TCP_KEYS = ("host", "port")
_SERIAL_KEYS = ("serialPort", "baudrate", "parity", "stopbits", "bytesize")


def _parse_endpoint(keys: ModbusKeys, faults: list[Fault]) -> Endpoint:
    serial = keys.transport == "rtu"
    needed, foreign = ("serialPort", _TCP_KEYS) if serial else ("host", _SERIAL_KEYS)
    given = {
        name: getattr(keys, attribute.name)
        for name, attribute in keys_of(ModbusKeys, camel_case).items()
    }
    if given[needed] is None:
        faults.append(
            Fault(f"communication.{needed}", f"is missing; transport {keys.transport!r} needs it")
        )
    faults.extend(
        Fault(f"communication.{name}", f"does not go with transport {keys.transport!r}")
        for name in foreign
        if given[name] is not None
    )
    if not serial:
        return Endpoint(keys.transport, host=(keys.host or "").lower(), port=keys.port or 502)
    if not 1 <= keys.unit_id <= 247:
        faults.append(
            Fault("communication.unitId", f"must be 1 to 247 on a serial line, not {keys.unit_id}")
        )
    return Endpoint(
        keys.transport,
        serial_port=keys.serial_port or "",
        baudrate=keys.baudrate or 9600,
        parity=keys.parity or "N",
        stopbits=keys.stopbits or 1,
        bytesize=keys.bytesize or 8,
    )


def _parse_registers(
    document: Any, defaults: ModbusKeys, faults: list[Fault]
) -> tuple[Register, ...]:
    path = "communication.registers"
    if not isinstance(document, dict):
        faults.append(Fault(path, 'must name a register for each quantity, like {"power": 20480}'))
        return ()
    scale_names = {f"{name}Scale": name for name in QUANTITY_NAMES}
    entries: dict[str, RegisterKeys] = {}
    scales: dict[str, Fraction] = {}
    for name, value in document.items():
        where = f"{path}.{name}"
        if name in QUANTITY_NAMES or name == "energyHigh":
            entry = {"address": value} if _is_number(value) else value
            keys = _keys(RegisterKeys, entry, where, faults)
            if keys is not None:
                entries[name] = keys
        elif name in scale_names:
            scales[scale_names[name]] = _parse_scale(value, where, faults)
        else:
            faults.append(unknown_key(name, [*QUANTITY_NAMES, "energyHigh", *scale_names], path))
    faults.extend(
        Fault(f"{path}.{name}Scale", f"scales nothing; give {name} too, or leave it out")
        for name in scales
        if name not in document
    )
    _check_pairs(entries, document, defaults, faults)
    energy_high = entries.pop("energyHigh", None)
    registers = []
    for name, keys in entries.items():
        high = energy_high if name == "energy" else None
        register = _register(name, keys, high, defaults, scales.get(name, Fraction(1)))
        if register.stop > 65536:
            faults.append(
                Fault(f"{path}.{name}", f"a {keys.type} at {keys.address} ends after 65535")
            )
        registers.append(register)
    if not any(name in QUANTITY_NAMES for name in document):
        faults.append(Fault(path, 'must name at least one quantity, like {"power": 20480}'))
    return tuple(registers)


def _parse_scale(value: Any, where: str, faults: list[Fault]) -> Fraction:
    """A factor on its own; a faulty one is reported and counts as 1 meanwhile."""
    found: list[Fault] = []
    keys = _keys(RegisterKeys, {"address": 0, "scale": value}, "", found)
    faults.extend(Fault(where, fault.message) for fault in found)
    return Fraction(1) if keys is None else _fraction(keys.scale)


def _check_pairs(
    entries: Mapping[str, RegisterKeys],
    document: Mapping[str, Any],
    defaults: ModbusKeys,
    faults: list[Fault],
) -> None:
    path = "communication.registers"
    if "powerExport" in document and "power" not in document:
        faults.append(Fault(f"{path}.powerExport", "is taken off power; give power too"))
    if "energyHigh" not in document:
        return
    if "energy" not in document:
        faults.append(Fault(f"{path}.energyHigh", "is the high word of energy; give energy too"))
    low, high = entries.get("energy"), entries.get("energyHigh")
    if low is None or high is None:
        return
    if low.type != "uint16" or high.type != "uint16" or low.address == high.address:
        faults.append(
            Fault(
                f"{path}.energyHigh",
                "goes with an energy that is another single uint16 register; "
                "for a wider type leave energyHigh out",
            )
        )
    if _function(low, defaults) != _function(high, defaults):
        faults.append(Fault(f"{path}.energyHigh", "must have the same registerType as energy"))


def _register(
    quantity: str,
    keys: RegisterKeys,
    high: RegisterKeys | None,
    defaults: ModbusKeys,
    scale: Fraction,
) -> Register:
    width = _WIDTHS[keys.type]
    words = tuple(range(keys.address, keys.address + width))
    if (keys.word_order or defaults.word_order) == "little":
        words = words[::-1]
    if high is not None:
        words = (high.address, keys.address)
    scale *= _fraction(keys.scale)
    return Register(
        quantity=quantity,
        function=_function(keys, defaults),
        words=words,
        kind=keys.type.rstrip("0123456789"),
        scale=(scale.numerator, scale.denominator),
        not_available=keys.not_available,
    )


def _function(keys: RegisterKeys, defaults: ModbusKeys) -> int:
    return _FUNCTIONS[keys.register_type or defaults.register_type]


def _fraction(scale: float) -> Fraction:
    """The factor as it was written: 0.1 is one tenth, not the binary number nearest to it."""
    return Fraction(repr(scale))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


_PROTOCOLS: dict[str, Callable[[Any, list[Fault]], ModbusCommunication | None]] = {
    "modbus": _parse_modbus,
}
