"""`communication` of protocol `modbus`: where the line leads, and where the quantities are."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import attrs

from edge.checks import between, host, is_address, one_of, rule, text
from edge.communication import ModbusCommunication, ModbusEndpoint, Register
from edge.errors import Fault
from edge.meterspec.keys import (
    PATH,
    SCALE_KEYS,
    fraction,
    parse_scale,
    reach_faults,
    scale,
    structured,
)
from edge.model import QUANTITY_NAMES
from edge.reach import Reach
from edge.structure import key, shown, unknown_keys

_WIDTHS = {
    "uint16": 1, "int16": 1, "uint32": 2, "int32": 2,
    "uint64": 4, "int64": 4, "float32": 2, "float64": 4,
}  # fmt: skip
FUNCTIONS = {"holding": 3, "input": 4}
"""Register type → function code that reads it (MODBUS Application Protocol V1.1b3, 6.3, 6.4)."""
REGISTER_NAMES = (*QUANTITY_NAMES, "energyHigh")
"""What `registers` may name, beside `<quantity>Scale`."""


@rule(type="object", minProperties=1)
def _registers(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(
            f'must name a register for each quantity, like {{"power": 20480}}, not {shown(value)}'
        )


@attrs.frozen
class ModbusKeys:
    """Keys of `communication` for protocol `modbus`."""

    registers: Any = key(None, check=_registers)
    sunspec: str | None = key(None, check=one_of("meter", "inverter"))
    transport: str = key("tcp", check=one_of("tcp", "rtu", "rtu-over-tcp"))
    host: str | None = key(None, check=host)
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
    register_type: str = key("holding", check=one_of(*FUNCTIONS))
    word_order: str = key("big", check=one_of("big", "little"))
    max_registers_per_request: int = key(125, check=between(1, 125))
    max_gap: int = key(8, check=between(0, 124))
    invert: bool = key(False)


@attrs.frozen
class RegisterKeys:
    """Keys of one entry of `registers` in its long form."""

    address: int = key(check=between(0, 65535))
    type: str = key("uint16", check=one_of(*_WIDTHS))
    register_type: str | None = key(None, check=one_of(*FUNCTIONS))
    word_order: str | None = key(None, check=one_of("big", "little"))
    scale: float = key(1.0, check=scale)
    not_available: int | None = key(None, check=between(0, 2**64 - 1))


def parse_modbus(
    document: Mapping[str, Any], reach: Reach | None, faults: list[Fault]
) -> ModbusCommunication | None:
    """Make the communication of a Modbus meter, or add what is wrong with it to `faults`."""
    before = len(faults)
    keys = structured(ModbusKeys, document, PATH, faults)
    assert keys is not None  # the document is a table
    endpoint = _parse_endpoint(keys, document, faults)
    faults.extend(reach_faults(endpoint.host, f"{PATH}.host", reach))
    registers: tuple[Register, ...] = ()
    if keys.registers is not None and keys.sunspec is not None:
        faults.append(Fault(f"{PATH}.registers", "are found by sunspec; leave one of the two out"))
    elif keys.registers is not None:
        registers = _parse_registers(keys, faults)
    elif keys.sunspec is None and "registers" not in document:
        faults.append(
            Fault(
                f"{PATH}.registers",
                "is missing; name the meter's registers, or give a template "
                "(GET /api/templates and `dlm-edge templates` list them)",
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
        sunspec=keys.sunspec,
    )


def modbus_conflict(mine: ModbusEndpoint, theirs: ModbusEndpoint, other: str) -> Fault | None:
    """Say why two different endpoints cannot both be lines; other: whose `theirs` is.

    One wire has one set of line settings, and one TCP endpoint one kind of framing.
    """
    if mine.name == theirs.name:
        return Fault(
            f"{PATH}.serialPort",
            f"{mine.serial_port} is used with {line_settings(theirs)} by meter {other!r}; "
            "give the same baudrate, bytesize, parity and stopbits",
        )
    if mine.host and (mine.host, mine.port) == (theirs.host, theirs.port):
        return Fault(
            f"{PATH}.transport",
            f"{mine.host}:{mine.port} is used as {theirs.transport} by meter {other!r}; "
            "give the same transport",
        )
    return None


def line_settings(endpoint: ModbusEndpoint) -> str:
    """Write the settings of a serial line as people do: `9600 8N1`."""
    return f"{endpoint.baudrate} {endpoint.bytesize}{endpoint.parity}{endpoint.stopbits:g}"


_TCP_KEYS = ("host", "port")
_SERIAL_KEYS = ("serialPort", "baudrate", "parity", "stopbits", "bytesize")


def _parse_endpoint(
    keys: ModbusKeys, document: Mapping[str, Any], faults: list[Fault]
) -> ModbusEndpoint:
    if "transport" not in document or document["transport"] == keys.transport:
        serial = keys.transport == "rtu"
        needed, foreign = ("serialPort", _TCP_KEYS) if serial else ("host", _SERIAL_KEYS)
        if needed not in document:
            message = f"is missing; transport {keys.transport!r} needs it"
            faults.append(Fault(f"{PATH}.{needed}", message))
        faults.extend(
            Fault(
                f"{PATH}.{name}",
                f"does not go with transport {keys.transport!r}; leave it out",
            )
            for name in foreign
            if name in document
        )
        if keys.transport != "tcp" and not 1 <= keys.unit_id <= 247:
            message = f"must be 1 to 247 on a serial line, not {keys.unit_id}"
            faults.append(Fault(f"{PATH}.unitId", message))
    if keys.transport != "rtu":
        name = (keys.host or "").lower()
        if is_address(name):
            name = str(ipaddress.ip_address(name))  # one spelling, so that equal lines are one
        return ModbusEndpoint(keys.transport, host=name, port=keys.port or 502)
    return ModbusEndpoint(
        keys.transport,
        serial_port=keys.serial_port or "",
        baudrate=keys.baudrate or 9600,
        parity=keys.parity or "N",
        stopbits=keys.stopbits or 1,
        bytesize=keys.bytesize or 8,
    )


def _parse_registers(communication: ModbusKeys, faults: list[Fault]) -> tuple[Register, ...]:
    path = f"{PATH}.registers"
    document = communication.registers
    entries: dict[str, RegisterKeys] = {}
    scales: dict[str, Fraction] = {}
    unknown = []
    for name, value in document.items():
        if name in REGISTER_NAMES:
            keys = _register_keys(value, f"{path}.{name}", faults)
            if keys is not None:
                entries[name] = keys
        elif name in SCALE_KEYS:
            scales[SCALE_KEYS[name]] = parse_scale(value, f"{path}.{name}", faults)
        else:
            unknown.append(name)
    faults.extend(unknown_keys(unknown, REGISTER_NAMES, path, {"<quantity>Scale": SCALE_KEYS}))
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
    keys = structured(
        RegisterKeys, {"address": value} if short else value, where, found, {"address": 0}
    )
    faults.extend(Fault(where, fault.message) if short else fault for fault in found)
    return None if found else keys


def _pair_faults(
    entries: Mapping[str, RegisterKeys], document: Mapping[str, Any], communication: ModbusKeys
) -> Iterator[Fault]:
    path = f"{PATH}.registers"
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
    where = f"{PATH}.registers.{register.quantity}"
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
    factor: Fraction,
) -> Register:
    width = _WIDTHS[keys.type]
    words = tuple(range(keys.address, keys.address + width))
    if (keys.word_order or defaults.word_order) == "little":
        words = words[::-1]
    if high is not None:
        words = (high.address, keys.address)
    return Register(
        quantity=quantity,
        function=_function(keys, defaults),
        words=words,
        kind=keys.type.rstrip("0123456789"),
        scale=factor * fraction(keys.scale),
        not_available=keys.not_available,
    )


def _function(keys: RegisterKeys, defaults: ModbusKeys) -> int:
    return FUNCTIONS[keys.register_type or defaults.register_type]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
