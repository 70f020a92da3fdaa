"""A registration document into a `Meter`: the one validation behind REST, `state.json` and `check`.

The classes below are the keys of a registration, in the spelling of the REST API. A document is
kept as it was given (`Meter.document`), without nulls and defaults, so that a default which follows
another key (`staleAfter` = 3 × `pollInterval`) still follows it after an update.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, TypeVar

import attrs

from edge.errors import Fault, Faulty
from edge.model import (
    METER_TYPES,
    QUANTITY_NAMES,
    Endpoint,
    Meter,
    ModbusCommunication,
    Register,
)
from edge.structure import (
    between,
    camel_case,
    key,
    one_of,
    shown,
    structure_sound,
    text,
    unknown_keys,
)

T = TypeVar("T")

POLL_INTERVAL_MS = 5000
STALE_AFTER_POLLS = 3
"""A reading is stale after this many poll intervals, unless the meter says otherwise."""

_WIDTHS = {
    "uint16": 1, "int16": 1, "uint32": 2, "int32": 2,
    "uint64": 4, "int64": 4, "float32": 2, "float64": 4,
}  # fmt: skip
_FUNCTIONS = {"holding": 3, "input": 4}
_READ_ONLY = frozenset(
    {
        "id", "status", "lastUpdate", "lastError", "quality", "hints", "line",
        "currentPower", "totalEnergy", *QUANTITY_NAMES,
    }
)  # fmt: skip


def _scale(value: float) -> None:
    if not 1e-12 <= abs(value) <= 1e12:
        raise ValueError(f"must be a factor other than 0, from 1e-12 to 1e12, not {value:g}")


def _host(value: str) -> None:
    numeric = re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]{1,15})?", value)
    if numeric and _is_address(value):
        return
    if not numeric and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", value):
        return
    raise ValueError(
        f"must be a bare host name or IP address like 192.168.1.150, not {shown(value)}; "
        "the port goes into 'port'"
    )


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _protocol(value: str) -> None:
    if value not in _PROTOCOLS:
        raise ValueError(f"{shown(value)} is not supported; known: {', '.join(_PROTOCOLS)}")


def _table(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table or object, not {shown(value)}")


def _registers(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(
            f'must name a register for each quantity, like {{"power": 20480}}, not {shown(value)}'
        )


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


@attrs.frozen
class ModbusKeys:
    """Keys of `communication` for protocol `modbus`."""

    registers: Any = key(check=_registers)
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
    """Make a Meter from a registration document, any JSON value.

    slot: its place in the order of polling. Raises Faulty with every fault and its path.
    """
    faults: list[Fault] = []
    if isinstance(document, dict):
        document = merge_patch({}, document)  # drops nulls, and shares nothing with the caller
    stand_ins = {"name": "?", "protocol": "modbus", "meterType": "zone", "communication": {}}
    keys = _keys(RegistrationKeys, document, "", faults, stand_ins)
    if keys is None:
        raise Faulty(faults)
    poll_interval = keys.poll_interval or POLL_INTERVAL_MS
    stale_after = keys.stale_after or STALE_AFTER_POLLS * poll_interval
    if stale_after < poll_interval:
        faults.append(Fault("staleAfter", f"must be at least pollInterval ({poll_interval:,} ms)"))
    communication = None
    protocol_is_sound = document.get("protocol") == keys.protocol
    if protocol_is_sound and document.get("communication") is keys.communication:
        communication = _PROTOCOLS[keys.protocol](keys.communication, faults)
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
        slot=slot,
        document=document,
    )


def merge_patch(document: Any, patch: Any) -> Any:
    """Apply a JSON Merge Patch. Source: RFC 7396, section 2. Neither argument is changed.

    Not recursive as in the RFC, so that no depth of nesting can exhaust the stack.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    to_merge = [(merged, patch)]
    while to_merge:
        target, changes = to_merge.pop()
        for name, value in changes.items():
            if value is None:
                target.pop(name, None)
            elif isinstance(value, dict):
                old = target.get(name)
                target[name] = dict(old) if isinstance(old, dict) else {}
                to_merge.append((target[name], value))
            else:
                target[name] = value
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


def _keys(
    cls: type[T],
    document: Any,
    path: str,
    faults: list[Fault],
    stand_ins: Mapping[str, Any] | None = None,
) -> T | None:
    """Structure what is sound on one level; the faults of the rest are added under `path`."""
    keys, found = structure_sound(cls, document, camel_case, stand_ins)
    for fault in found:
        where = ".".join(part for part in (path, fault.path) if part)
        read_only = not path and fault.path in _READ_ONLY
        message = "is given by the service; leave it out" if read_only else fault.message
        faults.append(Fault(where, message))
    return keys


def _parse_modbus(document: Any, faults: list[Fault]) -> ModbusCommunication | None:
    before = len(faults)
    keys = _keys(ModbusKeys, document, "communication", faults, {"registers": {}})
    if keys is None:
        return None
    endpoint = _parse_endpoint(keys, document, faults)
    registers: tuple[Register, ...] = ()
    if document.get("registers") is keys.registers:
        registers = _parse_registers(keys, faults)
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


_TCP_KEYS = ("host", "port")
_SERIAL_KEYS = ("serialPort", "baudrate", "parity", "stopbits", "bytesize")


def _parse_endpoint(keys: ModbusKeys, document: Mapping[str, Any], faults: list[Fault]) -> Endpoint:
    if "transport" not in document or document["transport"] == keys.transport:
        serial = keys.transport == "rtu"
        needed, foreign = ("serialPort", _TCP_KEYS) if serial else ("host", _SERIAL_KEYS)
        if needed not in document:
            message = f"is missing; transport {keys.transport!r} needs it"
            faults.append(Fault(f"communication.{needed}", message))
        faults.extend(
            Fault(
                f"communication.{name}",
                f"does not go with transport {keys.transport!r}; leave it out",
            )
            for name in foreign
            if name in document
        )
        if keys.transport != "tcp" and not 1 <= keys.unit_id <= 247:
            message = f"must be 1 to 247 on a serial line, not {keys.unit_id}"
            faults.append(Fault("communication.unitId", message))
    if keys.transport != "rtu":
        host = (keys.host or "").lower()
        if _is_address(host):
            host = str(ipaddress.ip_address(host))  # one spelling, so that equal lines are one
        return Endpoint(keys.transport, host=host, port=keys.port or 502)
    return Endpoint(
        keys.transport,
        serial_port=keys.serial_port or "",
        baudrate=keys.baudrate or 9600,
        parity=keys.parity or "N",
        stopbits=keys.stopbits or 1,
        bytesize=keys.bytesize or 8,
    )


def _parse_registers(communication: ModbusKeys, faults: list[Fault]) -> tuple[Register, ...]:
    path = "communication.registers"
    document = communication.registers
    scale_names = {f"{name}Scale": name for name in QUANTITY_NAMES}
    entries: dict[str, RegisterKeys] = {}
    scales: dict[str, Fraction] = {}
    unknown = []
    for name, value in document.items():
        if name in QUANTITY_NAMES or name == "energyHigh":
            keys = _register_keys(value, f"{path}.{name}", faults)
            if keys is not None:
                entries[name] = keys
        elif name in scale_names:
            scales[scale_names[name]] = _parse_scale(value, f"{path}.{name}", faults)
        else:
            unknown.append(name)
    faults.extend(unknown_keys(unknown, [*QUANTITY_NAMES, "energyHigh", *scale_names], path))
    if not any(name in QUANTITY_NAMES for name in document):
        faults.append(Fault(path, 'must name at least one quantity, like {"power": 20480}'))
    faults.extend(_pair_faults(entries, document, communication))
    faults.extend(
        Fault(f"{path}.{name}Scale", f"scales nothing; give {name} too, or leave it out")
        for name in scales
        if name not in document
    )
    energy_high = entries.pop("energyHigh", None)
    registers = []
    for name, keys in entries.items():
        high = energy_high if name == "energy" else None
        register = _register(name, keys, high, communication, scales.get(name, Fraction(1)))
        faults.extend(_size_faults(register, keys, communication.max_registers_per_request))
        registers.append(register)
    return tuple(registers)


def _register_keys(value: Any, where: str, faults: list[Fault]) -> RegisterKeys | None:
    """One entry of `registers`; None when it has a fault."""
    found: list[Fault] = []
    short = _is_number(value)
    if not short and not isinstance(value, dict):
        message = (
            'must be a register address, 0 to 65,535, or {"address": …, "type": …}, '
            f"not {shown(value)}"
        )
        faults.append(Fault(where, message))
        return None
    keys = _keys(RegisterKeys, {"address": value} if short else value, where, found, {"address": 0})
    faults.extend(Fault(where, fault.message) if short else fault for fault in found)
    return None if found else keys


def _parse_scale(value: Any, where: str, faults: list[Fault]) -> Fraction:
    """A factor on its own; a faulty one is reported and counts as 1 meanwhile."""
    found: list[Fault] = []
    keys = _keys(RegisterKeys, {"address": 0, "scale": value}, "", found)
    faults.extend(Fault(where, fault.message) for fault in found)
    return Fraction(1) if keys is None else _fraction(keys.scale)


def _pair_faults(
    entries: Mapping[str, RegisterKeys], document: Mapping[str, Any], communication: ModbusKeys
) -> Iterator[Fault]:
    path = "communication.registers"
    if "powerExport" in document and "power" not in document:
        yield Fault(f"{path}.powerExport", "is taken off power; give power too")
    if "energyHigh" in document and "energy" not in document:
        yield Fault(f"{path}.energyHigh", "is the high word of energy; give energy too")
    low, high = entries.get("energy"), entries.get("energyHigh")
    if low is None or high is None:
        return
    if low.type != "uint16" or high.type != "uint16" or low.address == high.address:
        yield Fault(
            f"{path}.energyHigh",
            "goes with an energy that is another single uint16 register; "
            "for a wider type leave energyHigh out",
        )
    if _function(low, communication) != _function(high, communication):
        yield Fault(f"{path}.energyHigh", "must have the same registerType as energy")
    if high.scale != 1 or high.not_available is not None:
        yield Fault(
            f"{path}.energyHigh", "is one number with energy; give scale and notAvailable there"
        )


def _size_faults(register: Register, keys: RegisterKeys, max_registers: int) -> Iterator[Fault]:
    where = f"communication.registers.{register.quantity}"
    width = register.stop - register.start
    if register.stop > 65536:
        message = f"an address of {keys.address} is too high for {keys.type}"
        yield Fault(where, f"{message}; the last register is 65535")
    if width > max_registers:
        yield Fault(
            where,
            f"spans {width} registers, more than maxRegistersPerRequest ({max_registers}) "
            "reads at once",
        )
    largest = (1 << 16 * len(register.words)) - 1
    if keys.not_available is not None and keys.not_available > largest:
        yield Fault(
            f"{where}.notAvailable",
            f"must be 0 to {largest:,}, the raw unsigned number, not {keys.not_available:,}",
        )


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
