"""What is not as it should be now, each thing with the next step for a person. Pure.

Alerts follow the load status and never argue with it: whatever lowers its quality is an alert here,
in the same words. One exception: a meter that nobody could have read yet (`pending`) is no fault;
when it stays silent, it turns offline by itself.

A message about the site holds no measured value, so it does not change with each reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edge.load import building_consumption
from edge.model import COUNTED_TYPES, LoadQuality, MeterState, Quality, Snapshot, Status
from edge.record import JournalState, Keeping, SinkState

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
"""The most urgent first."""


@dataclass(frozen=True)
class Condition:
    """Something that is wrong now.

    subject: the meter's id or the sink's name, where more than one can have it. With `kind` it
    says whether two conditions are one and the same.
    """

    kind: str
    severity: Severity
    message: str
    subject: str = ""
    meter_id: str | None = None
    meter_name: str | None = None


@dataclass(frozen=True)
class Alert:
    """A condition and when it held, unix ms. until_ms: None while it does.

    id: of this one occurrence; the next one of the same kind has another.
    """

    id: str
    kind: str
    severity: Severity
    message: str
    meter_id: str | None
    since_ms: int
    until_ms: int | None = None
    meter_name: str | None = None


@dataclass(frozen=True)
class AlertRules:
    """The settings that alerts depend on.

    high_consumption_kw: None where nobody asked for it. config_fault: why the settings that were
    to be taken over are not, in a sentence.
    """

    tick_ms: int
    high_consumption_kw: float | None = None
    config_fault: str | None = None


def current(
    snapshot: Snapshot, keeping: Keeping, earlier: Keeping, rules: AlertRules
) -> list[Condition]:
    """Give all that is wrong now; no two are of the same kind and subject.

    earlier: how journal and sinks were about a minute ago, since their counters only ever rise.
    """
    return [
        *_of_config(rules),
        *_of_load(snapshot, rules),
        *filter(None, map(_of_meter, snapshot.meters.values())),
        *_of_schedule(snapshot, rules),
        *_of_journal(keeping.journal, earlier.journal),
        *_of_sinks(keeping.sinks, earlier.sinks),
    ]


def undecided(snapshot: Snapshot, rules: AlertRules) -> frozenset[str]:
    """Give the kinds of which nobody can tell now whether they still hold.

    A meter that fails ends no overload: unknown is not over.
    """
    kinds = set()
    if snapshot.load.overload_kw is None:
        kinds.add("overload")
    asked = rules.high_consumption_kw is not None
    if asked and building_consumption(snapshot.meters.values()).excluded:
        kinds.add("high_consumption")
    return frozenset(kinds)


# --- The settings --------------------------------------------------------------------------------


def _of_config(rules: AlertRules) -> Iterator[Condition]:
    if rules.config_fault is not None:
        yield Condition(
            "config_faulty",
            "critical",
            "The settings are faulty, and the service would not start again with them. Those "
            f"before are in force; mend them and reload: {rules.config_fault}",
        )


# --- The site ------------------------------------------------------------------------------------


def _of_load(snapshot: Snapshot, rules: AlertRules) -> Iterator[Condition]:
    load = snapshot.load
    if load.quality is not LoadQuality.GOOD and not _waits_for_first_reading(snapshot):
        more = len(load.reasons) - 1
        others = f" ({more} more: see the reasons of the load status.)" if more > 0 else ""
        yield Condition(
            f"capacity_{load.quality.value}",
            "critical" if load.quality is LoadQuality.FAILSAFE else "warning",
            f"The available capacity is {load.quality.value}: {load.reasons[0]}{others}",
        )
    if load.overload_kw:
        yield _overload(snapshot)
    limit_kw = rules.high_consumption_kw
    if limit_kw is not None:
        # What is live is drawn for certain, whatever the other meters would say.
        power_kw = building_consumption(snapshot.meters.values()).power_kw
        if power_kw is not None and power_kw > limit_kw:
            yield Condition(
                "high_consumption",
                "warning",
                f"The building draws more than {limit_kw:g} kW; switch off what can wait, or raise "
                "load.high_consumption_kw.",
            )


def _waits_for_first_reading(snapshot: Snapshot) -> bool:
    """Whether all that lowers the quality is meters that are about to be read the first time."""
    missing = [
        state
        for state in snapshot.meters.values()
        if state.meter.meter_type in COUNTED_TYPES and state.live_power_kw is None
    ]
    unmetered = snapshot.load.quality is LoadQuality.UNMETERED
    pending = all(state.status is Status.PENDING for state in missing)
    return bool(missing) and pending and not unmetered


def _overload(snapshot: Snapshot) -> Condition:
    load = snapshot.load
    connection = f"the grid connection of {load.grid_capacity_kw:g} kW and the PV production"
    if load.quality is LoadQuality.GOOD:
        return Condition(
            "overload",
            "critical",
            f"The building draws more than {connection} can give; switch off what can wait, or "
            "correct site.grid_capacity_kw if the connection is larger.",
        )
    return Condition(
        "overload",
        "warning",
        f"With what is assumed for the meters that fail, the building may draw more than "
        f"{connection} can give; bring those meters back to know.",
    )


# --- Meters --------------------------------------------------------------------------------------


def _of_meter(state: MeterState) -> Condition | None:
    found = _fault(state)
    if found is None:
        return None
    kind, what, why = found
    meter = state.meter
    return Condition(
        kind,
        "warning" if meter.meter_type in COUNTED_TYPES else "info",
        f'"{meter.name}" {what}: {why.rstrip(". ")}.',
        subject=meter.id,
        meter_id=meter.id,
        meter_name=meter.name,
    )


def _fault(state: MeterState) -> tuple[str, str, str] | None:
    """Give kind, what the meter does, and why with what to do; None when all is well."""
    error = state.last_error
    if state.status is Status.OFFLINE:
        return "meter_offline", "is offline", error or "check its supply and its connection"
    if state.status is Status.ERROR:
        return "meter_error", "is in error", error or "check its supply and its connection"
    if state.reading is not None and state.quality is Quality.SUSPECT:
        return "meter_suspect", "gives suspect values", state.reading.hints[0]
    if state.status is Status.ONLINE and error is not None:
        return "meter_partial", "gives only a part of its values", error
    return None


# --- The service itself --------------------------------------------------------------------------


def _of_schedule(snapshot: Snapshot, rules: AlertRules) -> Iterator[Condition]:
    """Tell of a cycle that is late, by the last full window of ticks.

    A tick that is late by a whole one makes the cycle miss the next.
    """
    health = snapshot.health
    often = health.lateness_p99_ms is not None and health.lateness_p99_ms >= rules.tick_ms
    missed = health.lateness_max_ms is not None and health.lateness_max_ms >= rules.tick_ms
    if often or missed:
        yield Condition(
            "schedule_late",
            "warning" if often else "info",
            f"The control cycle {'often ' if often else ''}missed ticks in the last minute; see "
            "what else keeps this machine busy, or poll fewer meters or less often.",
        )


def _of_journal(now: JournalState | None, earlier: JournalState | None) -> Iterator[Condition]:
    if now is None:
        return
    if now.last_error is not None:
        yield Condition("journal_failing", "critical", now.last_error)
    if earlier is not None and now.dropped > earlier.dropped:
        yield Condition(
            "journal_dropping",
            "critical",
            "Readings are lost because they cannot be written in time; see whether the disk is "
            "slow, full or failing.",
        )
    if now.clock_fault is not None:
        yield Condition("clock_not_set", "warning", now.clock_fault)


def _of_sinks(now: tuple[SinkState, ...], earlier: tuple[SinkState, ...]) -> Iterator[Condition]:
    before = {sink.name: sink for sink in earlier}
    for sink in now:
        then = before.get(sink.name, sink)
        if sink.last_error is not None and not sink.connected:
            yield Condition(
                "sink_unreachable",
                "warning",
                f"Uplink {sink.name} sends nothing: {sink.last_error}",
                subject=sink.name,
            )
        if sink.rejected > then.rejected:
            yield Condition(
                "sink_rejecting",
                "warning",
                f"The server of uplink {sink.name} refuses readings for good; the log says why.",
                subject=sink.name,
            )
        if sink.lost > then.lost:
            yield Condition(
                "sink_losing",
                "warning",
                f"Readings are deleted before uplink {sink.name} could send them; bring its server "
                "back, or raise journal.max_bytes.",
                subject=sink.name,
            )
