"""The words of the project: what is measured, what was read, and what follows from it.

Everything here is immutable, so it may be handed between threads without a lock.

Sign: positive power flows into what the meter measures. That is import for `grid`, consumption
for `building` and `zone`, and production for `solar`.

Clocks: `mono_s` is the monotonic clock in seconds, for waiting and ages; `unix_ms` is the wall
clock in milliseconds, for stamping. They are never mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


@dataclass(frozen=True)
class Quantity:
    """What is measured: the key it has in a registration, and its unit (empty for a ratio)."""

    name: str
    unit: str


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("power", "kW"),
    Quantity("powerExport", "kW"),
    Quantity("powerL1", "kW"),
    Quantity("powerL2", "kW"),
    Quantity("powerL3", "kW"),
    Quantity("energy", "kWh"),
    Quantity("energyExport", "kWh"),
    Quantity("voltage", "V"),
    Quantity("voltageL1", "V"),
    Quantity("voltageL2", "V"),
    Quantity("voltageL3", "V"),
    Quantity("current", "A"),
    Quantity("currentL1", "A"),
    Quantity("currentL2", "A"),
    Quantity("currentL3", "A"),
    Quantity("powerFactor", ""),
    Quantity("frequency", "Hz"),
    Quantity("reactivePower", "kvar"),
    Quantity("apparentPower", "kVA"),
)
QUANTITY_NAMES: tuple[str, ...] = tuple(quantity.name for quantity in QUANTITIES)

METER_TYPES: tuple[str, ...] = ("grid", "building", "solar", "zone")
CONSUMING_TYPES = frozenset({"grid", "building"})
"""Meter types that are subtracted from the available capacity."""


class Status(str, Enum):
    """What is known of a meter now."""

    PENDING = "pending"
    """No attempt to read it has ended yet."""
    ONLINE = "online"
    """Its last reading is fresh."""
    OFFLINE = "offline"
    """It said so itself, or nothing arrived for its stale-after time."""
    ERROR = "error"
    """The last attempt failed."""


class Quality(str, Enum):
    """How far a meter's reading can be trusted now."""

    GOOD = "good"
    SUSPECT = "suspect"
    """Fresh, but outside what is physically plausible: shown, flagged, not used for capacity."""
    STALE = "stale"
    """The last known values; the meter is not online."""
    NONE = "none"
    """Nothing was ever read."""


class LoadQuality(str, Enum):
    """How far the available capacity can be trusted."""

    GOOD = "good"
    DEGRADED = "degraded"
    """A meter is missing and counts as its worst case is known to be."""
    FAILSAFE = "failsafe"
    """A meter is missing and its worst case is not known: at most the fallback is given."""
    UNMETERED = "unmetered"
    """No grid or building meter is registered: at most the configured fallback is given."""


@dataclass(frozen=True)
class Endpoint:
    """Where a line leads: a Modbus TCP endpoint or a serial port. Equal endpoints are one line.

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
        """The line's name in logs, metrics and answers; unique among the lines of a site."""
        if self.transport == "rtu":
            return f"rtu:{self.serial_port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"


@dataclass(frozen=True)
class Register:
    """One quantity's place in a Modbus device.

    words: the addresses of its 16-bit registers, most significant word first, so that word order
    is decided once, here. kind: `uint`, `int` or `float`. scale: exact factor to the quantity's
    unit as a fraction (numerator, denominator). not_available: the raw unsigned number by which
    the device says "no value".
    """

    quantity: str
    function: int
    words: tuple[int, ...]
    kind: str
    scale: tuple[int, int] = (1, 1)
    not_available: int | None = None

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
    """How a Modbus meter is read; every default is filled in."""

    endpoint: Endpoint
    unit_id: int
    timeout_s: float
    retries: int
    request_delay_s: float
    registers: tuple[Register, ...]
    max_registers_per_request: int
    max_gap: int
    invert: bool

    def reads_like(self, other: ModbusCommunication) -> bool:
        """Whether the same values come of it, however they are asked for."""
        return (
            self.endpoint == other.endpoint
            and self.unit_id == other.unit_id
            and self.registers == other.registers
            and self.invert == other.invert
        )


@dataclass(frozen=True, eq=False)
class Meter:
    """A registered device. Compared by identity: a changed meter is a new object.

    slot: its place in the order of polling, the same after every restart. document: the
    registration as accepted, in its outward spelling; what `state.json` keeps.
    """

    id: str
    name: str
    location: str
    protocol: str
    meter_type: str
    poll_interval_ms: int
    stale_after_ms: int
    max_power_kw: float | None
    communication: ModbusCommunication
    slot: int = 0
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """Name of the line that it is read over."""
        return self.communication.endpoint.name


@dataclass(frozen=True)
class Reading:
    """What a meter said at one moment.

    values: quantity name to value in that quantity's unit; a quantity that is absent is unknown.
    mono_s, unix_ms: when it was asked for, so that no value is older than it says: a reply may
    have waited in a buffer while the process stood still.
    hints: why the reading is suspect, one sentence each; empty when it is plausible.
    """

    values: Mapping[str, float]
    mono_s: float
    unix_ms: int
    hints: tuple[str, ...] = ()


POLL_RESULTS = ("ok", "partial", "no_reply", "bad_reply", "refused", "line_error")
"""How an attempt can end: all read, some read, or what kept it from being read."""


@dataclass(frozen=True)
class PollResult:
    """How one attempt to read a meter ended.

    reading: what could be read, or None. error: one sentence, or None when all was read.
    result: one of POLL_RESULTS. failed: the meter is to rest before it is read again.
    duration_s: the attempt's own time on the line, without the wait for its turn.
    """

    meter: Meter
    reading: Reading | None
    error: str | None
    result: str
    failed: bool
    duration_s: float


@dataclass(frozen=True)
class MeterState:
    """A meter at one tick.

    reading: the last one that carried a value. last_power_kw: the last plausible power, kept
    through faults so that a fault can never raise the available capacity.
    """

    meter: Meter
    status: Status = Status.PENDING
    reading: Reading | None = None
    last_error: str | None = None
    last_power_kw: float | None = None

    @property
    def quality(self) -> Quality:
        """How far `reading` can be trusted now."""
        if self.reading is None:
            return Quality.NONE
        if self.status is not Status.ONLINE:
            return Quality.STALE
        return Quality.SUSPECT if self.reading.hints else Quality.GOOD

    @property
    def live_power_kw(self) -> float | None:
        """Active power that may be counted now, kW; None unless fresh and plausible."""
        if self.quality is not Quality.GOOD or self.reading is None:
            return None
        return self.reading.values.get("power")


@dataclass(frozen=True)
class LoadStatus:
    """How much power is free, all in kW; None is unknown.

    available_kw is never negative: overload_kw says by how much it would be.
    reasons: in words, which meter lowers the quality and why.
    """

    grid_capacity_kw: float
    pv_production_kw: float
    building_consumption_kw: float | None
    available_kw: float
    overload_kw: float | None
    quality: LoadQuality
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildingConsumption:
    """Sum over the grid and building meters that are fresh.

    excluded: ids of those that should count but are not fresh.
    """

    power_kw: float | None
    energy_kwh: float | None
    meter_count: int
    excluded: tuple[str, ...]
    quality: LoadQuality


@dataclass(frozen=True)
class LineState:
    """A line as its worker last saw it.

    connected: the wire or socket is open. last_error: why it cannot be opened, or None.
    opened: how often it was opened.
    """

    name: str
    connected: bool = False
    last_error: str | None = None
    opened: int = 0


@dataclass(frozen=True)
class Health:
    """The service's own timing.

    ticks: cycles run. missed_ticks: skipped because the cycle came late by more than a tick.
    lateness_*_ms: over the last full window of ticks; None before the first one is full.
    """

    ticks: int = 0
    missed_ticks: int = 0
    overruns: int = 0
    lateness_p50_ms: float | None = None
    lateness_p99_ms: float | None = None
    lateness_max_ms: float | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The process image frozen at a tick. meters: by id, in order of registration."""

    tick: int
    mono_s: float
    unix_ms: int
    load: LoadStatus
    meters: Mapping[str, MeterState] = field(default_factory=dict)
    lines: tuple[LineState, ...] = ()
    health: Health = Health()
