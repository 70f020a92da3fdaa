"""How a meter is reached, by protocol: what a registration's `communication` comes to.

Every default is filled in, every template expanded, every factor exact. A protocol's class here is
what its part of `meterspec` makes and its driver reads; nobody else looks inside. What all of them
share is `Communication`. Everything is immutable and compared by value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Protocol


class Endpoint(Protocol):
    """Where a line leads. Equal endpoints are one line; hashable."""

    @property
    def name(self) -> str:
        """The line's name in logs, metrics and answers; unique among the lines of a site."""

    def __hash__(self) -> int: ...


class Communication(Protocol):
    """What every protocol says of a meter."""

    @property
    def endpoint(self) -> Endpoint:
        """The line that the meter is on."""

    @property
    def timeout_s(self) -> float:
        """How long the line may take to open for this meter."""

    @property
    def quantities(self) -> frozenset[str]:
        """Names of the quantities that the meter is expected to give."""

    def reads_like(self, other: Communication) -> bool:
        """Whether the same values come of it, however they are asked for."""


# --- Modbus --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModbusEndpoint:
    """A Modbus TCP endpoint or a serial port.

    transport: `tcp`, `rtu` or `rtu-over-tcp`. host and port for the TCP ones; serial_port,
    baudrate, parity (`N`, `E`, `O`), stopbits and bytesize for `rtu`.
    """

    transport: str
    host: str = ""
    port: int = 0
    serial_port: str = ""
    baudrate: int = 0
    parity: str = ""
    stopbits: float = 0
    bytesize: int = 0

    @property
    def name(self) -> str:
        """See `Endpoint.name`."""
        if self.transport == "rtu":
            return f"rtu:{self.serial_port}"
        return f"{self.transport}://{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class Register:
    """One quantity's place in a Modbus device.

    words: the addresses of its 16-bit registers, most significant word first, so that word order
    is decided once, here. kind: `uint`, `int` or `float`. scale: exact factor to the quantity's
    unit. not_available: the raw unsigned number by which the device says "no value". exponent: the
    address of a signed register that holds a further power of ten, as in SunSpec.
    """

    quantity: str
    function: int
    words: tuple[int, ...]
    kind: str
    scale: Fraction = Fraction(1)
    not_available: int | None = None
    exponent: int | None = None

    @property
    def start(self) -> int:
        """Lowest address."""
        return min(self.words)

    @property
    def stop(self) -> int:
        """One past the highest address."""
        return max(self.words) + 1


RawWords = Mapping[str, tuple[Register, tuple[int, ...]]]
"""Quantity → its register and the words read from it, 0..65535, most significant first."""


@dataclass(frozen=True)
class ReadRequest:
    """One block of registers to read from one unit.

    function: 3 (holding registers) or 4 (input registers). registers: what is decoded from it.
    """

    unit_id: int
    function: int
    address: int
    count: int
    registers: tuple[Register, ...] = ()


@dataclass(frozen=True)
class ModbusCommunication:
    """How a Modbus meter is read.

    sunspec: `meter` or `inverter` where the registers are found by SunSpec's model discovery, at
    the first poll; then `registers` is empty.
    """

    endpoint: ModbusEndpoint
    unit_id: int
    timeout_s: float
    retries: int
    request_delay_s: float
    registers: tuple[Register, ...]
    max_registers_per_request: int
    max_gap: int
    invert: bool
    sunspec: str | None = None

    @property
    def quantities(self) -> frozenset[str]:
        """See `Communication.quantities`."""
        return frozenset(register.quantity for register in self.registers)

    def reads_like(self, other: Communication) -> bool:
        """See `Communication.reads_like`."""
        if not isinstance(other, ModbusCommunication):
            return False
        return self == replace(
            other,
            timeout_s=self.timeout_s,
            retries=self.retries,
            request_delay_s=self.request_delay_s,
            max_registers_per_request=self.max_registers_per_request,
            max_gap=self.max_gap,
        )


# --- Payloads: what MQTT and HTTP share ----------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One quantity's place in a payload.

    path: JMESPath into a JSON payload; None: under one of the quantity's known names, or the
    payload itself where it is one number. scale: the factor to the quantity's unit that the
    registration gives, which wins over all else. assumed: the factor of a number that comes
    without a unit where no scale is given; a known topic may count in W.
    """

    quantity: str
    path: str | None = None
    scale: Fraction | None = None
    assumed: Fraction = Fraction(1)


# --- MQTT ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MqttEndpoint:
    """A broker, by its name in the configuration."""

    broker: str

    @property
    def name(self) -> str:
        """See `Endpoint.name`."""
        return f"mqtt:{self.broker}"


@dataclass(frozen=True)
class TopicUse:
    """What a meter takes from one topic.

    fills: a JSON object on it gives every quantity that it names, beside `fields`.
    """

    topic: str
    fields: tuple[Field, ...]
    fills: bool = False


@dataclass(frozen=True)
class MqttCommunication:
    """How an MQTT meter is heard. status_path: JMESPath into the payload of status_topic."""

    endpoint: MqttEndpoint
    topics: tuple[TopicUse, ...]
    status_topic: str | None = None
    status_path: str | None = None
    invert: bool = False
    timeout_s: float = 5.0

    @property
    def quantities(self) -> frozenset[str]:
        """See `Communication.quantities`."""
        return frozenset(field.quantity for use in self.topics for field in use.fields)

    def reads_like(self, other: Communication) -> bool:
        """See `Communication.reads_like`."""
        return self == other


# --- HTTP ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HttpEndpoint:
    """An origin. ca_file: PEM file of a private authority; empty for the system's."""

    scheme: str
    host: str
    port: int
    ca_file: str = ""
    verify_tls: bool = True

    @property
    def name(self) -> str:
        """See `Endpoint.name`."""
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class HttpCommunication:
    """How an HTTP meter is asked.

    target: path and query. headers: those of the registration and, made from its credentials,
    Authorization. fields: where its quantities are; those without a path are looked for by name.
    """

    endpoint: HttpEndpoint
    target: str = field(repr=False)
    method: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes | None = field(repr=False)
    timeout_s: float
    fields: tuple[Field, ...]
    invert: bool = False

    @property
    def quantities(self) -> frozenset[str]:
        """See `Communication.quantities`."""
        return frozenset(field.quantity for field in self.fields)

    def reads_like(self, other: Communication) -> bool:
        """See `Communication.reads_like`."""
        if not isinstance(other, HttpCommunication):
            return False
        # A header may choose the meter, so all of them count.
        return self == replace(other, timeout_s=self.timeout_s)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
