"""The shapes of the API's answers: what `data` holds, key by key, in its outward spelling.

`render` gives them, which mypy holds, and the API's description is made of them: what stands in
`Annotated` is said there, too: a text is a unit or a remark, an Enum lists the words that there
are, and Schema is a piece of JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from edge.errors import Cause
from edge.model import LoadQuality, Quality, Status
from edge.record import EnergySource


@dataclass(frozen=True, eq=False)
class Schema:
    """What JSON Schema can say of a type."""

    schema: Mapping[str, Any]


Kw = Annotated[float, "kW"]
Kwh = Annotated[float, "kWh"]
Volt = Annotated[float, "V"]
Ampere = Annotated[float, "A"]
Hertz = Annotated[float, "Hz"]
Kvar = Annotated[float, "kvar"]
Kva = Annotated[float, "kVA"]
Seconds = Annotated[float, "s"]
Milliseconds = Annotated[float, "ms"]
Time = Annotated[str, Schema({"format": "date-time"})]
Count = Annotated[int, Schema({"minimum": 0})]


class Values(TypedDict):
    """What a meter measures; null is unknown, never 0."""

    currentPower: Kw | None
    totalEnergy: Kwh | None
    voltage: Volt | None
    current: Ampere | None
    powerFactor: float | None
    frequency: Hertz | None


class AllValues(Values, total=False):
    """Those that a meter is to give, or gave, beside the usual ones."""

    powerExport: Kw | None
    powerL1: Kw | None
    powerL2: Kw | None
    powerL3: Kw | None
    energyExport: Kwh | None
    voltageL1: Volt | None
    voltageL2: Volt | None
    voltageL3: Volt | None
    currentL1: Ampere | None
    currentL2: Ampere | None
    currentL3: Ampere | None
    reactivePower: Kvar | None
    apparentPower: Kva | None


class Meter(AllValues):
    """A meter with its last values. They never count as live but while it is online."""

    id: str
    name: str
    location: str
    protocol: str
    meterType: str
    pollInterval: Annotated[int | None, "ms; null for a meter that speaks by itself"]
    staleAfter: Annotated[int, "ms"]
    maxPower: Kw | None
    status: Annotated[str, Status]
    lastUpdate: Time | None
    lastError: str | None
    quality: Annotated[str, Quality]
    hints: Annotated[list[str], "why its quality is `suspect`, a sentence each"]


class MeterDetails(Meter):
    """A meter and how it is read."""

    communication: Annotated[dict[str, Any], 'as registered; secrets are shown as `"***"`']
    warnings: Annotated[list[str], "what is dangerous in how it is reached, a sentence each"]


class Reading(AllValues):
    """A meter's current reading."""

    meterId: str
    timestamp: Time | None
    ageSeconds: Seconds | None
    quality: Annotated[str, Quality]
    hints: list[str]


class BuildingConsumption(TypedDict):
    """The sum over the grid and building meters that are fresh."""

    currentPower: Kw | None
    totalEnergy: Kwh | None
    meterCount: Count
    timestamp: Time
    quality: Annotated[str, LoadQuality]
    excluded: Annotated[list[str], "ids of meters that should count but are not fresh"]


class LoadStatus(TypedDict):
    """How much power is free for charging, and how far that can be trusted."""

    gridCapacity: Kw
    pvProduction: Kw
    buildingConsumption: Kw | None
    availableCapacity: Annotated[float, "kW, never negative", Schema({"minimum": 0})]
    overload: Annotated[float | None, "kW by which the grid capacity is exceeded"]
    timestamp: Time
    quality: Annotated[str, LoadQuality]
    reasons: Annotated[list[str], "what lowers the quality, a sentence each"]


# --- History -------------------------------------------------------------------------------------


class RecordedReading(AllValues):
    """A reading that was recorded."""

    timestamp: Time
    quality: Annotated[str, Schema({"enum": [Quality.GOOD.value, Quality.SUSPECT.value]})]


class RecordedRollup(TypedDict):
    """An hour or a day of a meter."""

    start: Time
    end: Time
    meanPower: Kw | None
    minPower: Kw | None
    maxPower: Kw | None
    energy: Kwh | None
    energySource: Annotated[str | None, EnergySource]
    interpolatedEnergy: Annotated[float, "kWh of `energy` that lie in gaps between readings"]
    exportedEnergy: Kwh | None
    samples: Count
    coverage: Annotated[
        float, "share of the time with live data", Schema({"minimum": 0, "maximum": 1})
    ]


class RecordedStep(TypedDict):
    """Power of a meter within one step; a step of which nothing is known is not there."""

    start: Time
    end: Time
    meanPower: Annotated[float | None, "kW, weighted with time; null: its time is not known"]
    minPower: Kw | None
    maxPower: Kw | None
    samples: Count


# --- Alerts and analytics ------------------------------------------------------------------------


class Alert(TypedDict):
    """Something that is wrong, or was within the last day."""

    id: str
    kind: Annotated[str, "for programs, such as `meter_offline`"]
    severity: Annotated[str, Schema({"enum": ["critical", "warning", "info"]})]
    message: Annotated[str, "one sentence that says what to do"]
    meterId: str | None
    meterName: str | None
    since: Time
    until: Annotated[str | None, "null while it holds", Schema({"format": "date-time"})]


_Begin = TypedDict("_Begin", {"from": Time})


class PowerCurve(_Begin):
    """The site's power in even steps from `from` on, by the meters that counted then."""

    step: Annotated[int, "s"]
    consumption: Annotated[list[float | None], "mean, kW; null where a meter of it is not known"]
    production: Annotated[list[float | None], "mean, kW; null where a meter of it is not known"]
    available: Annotated[
        list[float | None], "kW that were free throughout the step, by the rules of the load status"
    ]


class SiteEnergy(TypedDict):
    """Energy of the site by hours or days. What is unknown of one meter is unknown of the site."""

    consumption: list[Kwh | None]
    production: list[Kwh | None]
    cost: Annotated[list[float | None] | None, "null without a price"]
    currency: str
    pricePerKwh: float | None
    partial: Annotated[list[bool], "whether some of the consumption was not measured"]
    productionPartial: Annotated[list[bool], "whether some of the production was not measured"]
    totalConsumption: Annotated[float | None, "kWh, of what is known"]
    totalProduction: Annotated[float | None, "kWh, of what is known"]
    totalCost: float | None
    totalPartial: Annotated[bool, "whether something is missing in the total consumption"]
    totalProductionPartial: Annotated[bool, "whether something is missing in the total production"]


class Peak(TypedDict):
    """The hour or day of the largest mean consumption."""

    power: Kw | None
    at: Time | None


class MeterEnergy(TypedDict):
    """Mean power and energy of a meter by hours or days, whatever type it had in them."""

    meterId: str
    name: str
    meterType: str
    registered: Annotated[bool, "false for one that was removed, and counted in this time"]
    meanPower: list[Kw | None]
    energy: list[Kwh | None]
    totalEnergy: Annotated[float | None, "kWh, of what is known"]
    totalPartial: bool


class Energy(TypedDict):
    """Energy by hours or days: of the site, and of each meter."""

    start: Annotated[list[str], "when each hour or day begins"]
    end: Annotated[str, "when the last one ends", Schema({"format": "date-time"})]
    site: SiteEnergy
    peak: Peak
    meters: list[MeterEnergy]


# --- What a registration would read --------------------------------------------------------------


class Finding(TypedDict):
    """What is wrong, and what to do next."""

    cause: Annotated[str, Cause]
    message: str


class Exchange(TypedDict):
    """One question put to a device, and what came of it."""

    request: str
    raw: Annotated[str | None, "words in hexadecimal, or the start of the payload"]
    roundTripMs: Milliseconds | None
    error: str | None


class RegisterEntry(TypedDict):
    """An entry for `registers`."""

    address: int
    type: str
    wordOrder: str
    scale: float


class Interpretation(TypedDict):
    """Another way to read a quantity."""

    value: float
    why: str
    register: RegisterEntry


class Diagnosis(TypedDict):
    """What a registration would read now, and what is wrong with it."""

    line: str
    reading: Annotated[dict[str, float], "by quantity, named as in a meter's reading"]
    quality: Annotated[str, Quality]
    hints: list[str]
    findings: list[Finding]
    exchanges: list[Exchange]
    interpretations: Annotated[dict[str, list[Interpretation]], "by quantity, likeliest first"]


# --- The device library --------------------------------------------------------------------------


class Parameter(TypedDict):
    """What is given in `communication` beside the template's name."""

    title: str
    example: str
    default: Annotated[str | None, "null: it must be given"]


class Template(TypedDict):
    """A device model."""

    name: str
    title: str
    maker: str
    models: list[str]
    protocol: str
    meterTypes: list[str]
    parameters: dict[str, Parameter]
    caveats: list[str]
    source: str


class TemplateDetails(Template):
    """A device model and what it fills into `communication`."""

    communication: dict[str, Any]
    serial: Annotated[dict[str, Any], "the model's settings of a serial line"]


# --- Who asks ------------------------------------------------------------------------------------


class SessionInfo(TypedDict):
    """Whether a token is needed, and who asks."""

    required: bool
    name: Annotated[str | None, "of the token"]
    role: Annotated[str, Schema({"enum": ["reader", "admin"]})] | None
    csrfToken: Annotated[str | None, "goes into X-CSRF-Token with each change by cookie"]


# --- The service itself --------------------------------------------------------------------------


class Site(TypedDict):
    """The place that is measured."""

    id: str
    name: str


class About(TypedDict):
    """What does not change while the service runs."""

    version: str
    site: Site
    notices: Annotated[list[str], "what had to be mended at the start, a sentence each"]


class Schedule(TypedDict):
    """The control cycle's own timing."""

    tick: int
    ticks: Count
    missedTicks: Count
    overruns: Count
    latenessP50Ms: Milliseconds | None
    latenessP99Ms: Milliseconds | None
    latenessMaxMs: Milliseconds | None


class MessageCounts(TypedDict):
    """What became of the messages on a line."""

    messages: Count
    superseded: Count
    unreadable: Count
    unused: Count


class Heard(TypedDict, total=False):
    """Of a line whose meters speak by themselves."""

    messages: MessageCounts


class Line(Heard):
    """A serial port, gateway, broker or host."""

    name: str
    connected: bool
    lastError: str | None
    opened: Annotated[int, "how often it was opened", Schema({"minimum": 0})]


class Journal(TypedDict):
    """What becomes of what is read, on the disk."""

    recording: bool
    lastError: str | None
    recorded: Count
    dropped: Count
    waiting: Count
    bytes: Count
    maxBytes: Count
    writtenBytes: Count | None
    slowSyncs: Count
    oldest: Time | None
    notices: list[str]


class Sink(TypedDict):
    """An uplink."""

    name: str
    connected: bool
    lastError: str | None
    sent: Count
    rejected: Count
    lost: Count
    backlog: Count


class HealthRow(TypedDict):
    """One thing that can be wrong, and how it is."""

    name: str
    state: Annotated[str, Schema({"enum": ["ok", "warning", "fault"]})]
    text: Annotated[str, "in sentences, with what to do"]


class System(About):
    """The service's own health."""

    health: list[HealthRow]

    timestamp: Time
    startedAt: Time
    uptimeSeconds: Seconds
    schedule: Schedule
    meters: Annotated[dict[str, int], "how many, by status"]
    lines: list[Line]
    journal: Journal | None
    sinks: list[Sink]


class State(TypedDict):
    """What a probe of a supervisor wants to know."""

    status: Annotated[str, Schema({"enum": ["alive", "ready"]})]


class Detail(TypedDict):
    """One fault of a request."""

    field: Annotated[str, "where it stands, such as `communication.port`"]
    message: str


class Failure(TypedDict):
    """The one shape of every failure."""

    success: Annotated[bool, Schema({"const": False})]
    error: Annotated[str, "one sentence that says what to do"]
    code: Annotated[str, "for programs"]
    details: list[Detail]
