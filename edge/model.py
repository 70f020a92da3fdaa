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
from functools import cached_property
from typing import Any

from edge.communication import Communication, RawWords
from edge.errors import Cause, MeterError


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


def rounded(value: float) -> float:
    """Round float noise away, to 6 decimals; adding 0.0 turns -0.0 into 0.0."""
    return round(value, 6) + 0.0


METER_TYPES: tuple[str, ...] = ("grid", "building", "solar", "zone")
CONSUMING_TYPES = frozenset({"grid", "building"})
"""Meter types that are subtracted from the available capacity."""
PRODUCING_TYPES = frozenset({"solar"})
"""Those that are added to it."""
COUNTED_TYPES = CONSUMING_TYPES | PRODUCING_TYPES
"""Those that have a part in it; the others inform."""


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


@dataclass(frozen=True, eq=False)
class Meter:
    """A registered device. Compared by identity: a changed meter is a new object.

    phase_index: its place in the order of polling, the same after every restart. document: the
    registration as accepted, in its outward spelling; what `state.json` keeps.
    """

    id: str
    name: str
    location: str
    protocol: str
    meter_type: str
    poll_interval_ms: int | None
    stale_after_ms: int
    max_power_kw: float | None
    communication: Communication
    phase_index: int = 0
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def line(self) -> str:
        """Name of the line that it is read over."""
        return self.communication.endpoint.name


@dataclass(frozen=True)
class Reading:
    """What a meter said at one moment.

    values: quantity name to value in that quantity's unit; a quantity that is absent is unknown.
    mono_s, unix_ms: when it was asked for, so that no value is older than it says: a reply may
    have waited in a buffer while the process stood still. Of a meter that speaks by itself: when
    it arrived. live: False for what a broker had retained, whose age nobody knows.
    hints: why the reading is suspect, one sentence each; empty when it is plausible.
    """

    values: Mapping[str, float]
    mono_s: float
    unix_ms: int
    hints: tuple[str, ...] = ()
    live: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a driver brings of one attempt to read a meter, before it is judged.

    values, mono_s, unix_ms, live: as in `Reading`; no values mean no reading. raw: for what was
    read over Modbus, its words. error: why something is missing. said_offline: the meter itself
    told that it is not there; then there are no values.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    mono_s: float = 0.0
    unix_ms: int = 0
    raw: RawWords = field(default_factory=dict)
    error: MeterError | None = None
    live: bool = True
    said_offline: bool = False


class PollEnd(str, Enum):
    """How an attempt to read a meter can end; the value is the word that counters use."""

    OK = "ok"
    """All was read."""
    PARTIAL = "partial"
    """Some was read; the error tells what was not."""
    NO_REPLY = "no_reply"
    BAD_REPLY = "bad_reply"
    REFUSED = "refused"
    LINE_ERROR = "line_error"
    OFFLINE = "offline"
    """The meter said that it is not there."""


@dataclass(frozen=True)
class PollResult:
    """How one attempt to read a meter ended.

    reading: what could be read, or None. error: one sentence, or None when all was read.
    failed: the meter is to rest before it is read again, and for rest_s at least.
    duration_s: the attempt's own time on the line, without the wait for its turn.
    """

    meter: Meter
    reading: Reading | None
    error: str | None
    end: PollEnd
    failed: bool
    duration_s: float
    rest_s: float = 0.0


@dataclass(frozen=True)
class MeterState:
    """A meter at one tick.

    since_mono_s: when it came into the plan as it is now. reading: the last one that carried a
    value. last_power_kw: the last plausible power, kept through faults so that a fault can never
    raise the available capacity. What follows from these is asked for in many ticks, so it is kept.
    """

    meter: Meter
    since_mono_s: float = 0.0
    status: Status = Status.PENDING
    reading: Reading | None = None
    last_error: str | None = None
    last_power_kw: float | None = None

    @cached_property
    def quality(self) -> Quality:
        """How far `reading` can be trusted now."""
        if self.reading is None:
            return Quality.NONE
        if self.status is not Status.ONLINE:
            return Quality.STALE
        return Quality.SUSPECT if self.reading.hints else Quality.GOOD

    @cached_property
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
class MessageCounts:
    """What became of the messages on a line whose meters speak by themselves, since its start.

    superseded: replaced by a later one on their topic before they were decoded. unreadable: of no
    use to a meter on their topic. unused: on topics that no meter follows.
    """

    messages: int = 0
    superseded: int = 0
    unreadable: int = 0
    unused: int = 0


@dataclass(frozen=True)
class LineState:
    """A line as its worker last saw it.

    connected: the wire or socket was open when it was last used. last_error: why it cannot be
    opened, or None. opened: how often it was opened. heard: None where meters are asked.
    """

    name: str
    connected: bool = False
    last_error: str | None = None
    opened: int = 0
    heard: MessageCounts | None = None


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


@dataclass(frozen=True)
class Exchange:
    """One question put to a device and what came of it, in words for a person.

    asked: `unit 1: holding registers 20480 to 20491`, `GET http://…`, `topic …`. raw: the words in
    hexadecimal or the start of the payload; None when nothing came. error: one sentence.
    """

    asked: str
    raw: str | None = None
    round_trip_s: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Finding:
    """What is wrong with a meter or the way to it, and the next thing to try, in sentences."""

    cause: Cause
    message: str


@dataclass(frozen=True)
class Probe:
    """What questioning a meter thoroughly brought; its values are not judged yet.

    outcome: what a poll would give; None when nothing could be read. words: (function, address) →
    word, 0..65535, of the meter's registers and their neighbours, as far as they could be read;
    later_words: the same read again later_s afterwards.
    """

    outcome: Outcome | None = None
    exchanges: tuple[Exchange, ...] = ()
    findings: tuple[Finding, ...] = ()
    words: Mapping[tuple[int, int], int] = field(default_factory=dict)
    later_words: Mapping[tuple[int, int], int] = field(default_factory=dict)
    later_s: float = 0.0
