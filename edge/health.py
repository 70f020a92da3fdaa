"""How the service is, as a table for a person: one row for each thing that can be wrong. Pure.

The table never argues with the alerts: a row is not `ok` exactly while an alert of its own holds
that is more than information, or while something is wrong that has no alert: a line that fails, a
disk that is nearly full, more written to the flash than it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edge.alerts import Alert
from edge.model import LineState, LoadQuality, LoadStatus, Snapshot, Status
from edge.record import JournalState, Keeping, SinkState
from edge.times import timestamp

State = Literal["ok", "warning", "fault"]

LEAST_FREE_BYTES = 100_000_000
"""Less is nearly full: the journal's log, and a copy of what is damaged, need room as well."""

_ROW_OF_KIND = {
    "capacity": "capacity",
    "overload": "capacity",
    "high": "capacity",
    "meter": "meters",
    "schedule": "schedule",
    "journal": "journal",
    "sink": "sinks",
    "clock": "clock",
}
"""The first word of an alert's kind → the row that it belongs to; all others to `service`."""
_MOST_TOLD = 3
_DAY_S = 86_400
_RATE_AFTER_S = 3600
"""What is written in the first minutes says nothing of a day."""


@dataclass(frozen=True)
class HealthRow:
    """One thing: how it is, in a word and in sentences."""

    name: str
    state: State
    text: str


@dataclass(frozen=True)
class Vitals:
    """What the table says of the process and where it runs.

    versions: in words. uptime_s: since the start. free_bytes: of the disk that the state folder is
    on; None where that is unknown.
    """

    versions: str
    uptime_s: float
    free_bytes: int | None


def health(
    snapshot: Snapshot, keeping: Keeping, alerts: Iterable[Alert], vitals: Vitals
) -> tuple[HealthRow, ...]:
    """Give the table, always with the same rows in the same order. alerts: those that hold."""
    told: dict[str, list[Alert]] = {}
    for alert in alerts:
        told.setdefault(_ROW_OF_KIND.get(alert.kind.partition("_")[0], "service"), []).append(alert)
    rows = (
        ("service", f"{vitals.versions}; runs for {_duration(vitals.uptime_s)}.", ()),
        ("capacity", _capacity(snapshot.load), ()),
        ("meters", _meters(snapshot), ()),
        ("lines", *_lines(snapshot.lines)),
        ("schedule", _schedule(snapshot), ()),
        ("journal", _journal(keeping.journal), ()),
        ("sinks", _sinks(keeping.sinks), ()),
        ("clock", _clock(keeping.journal, snapshot.unix_ms), ()),
        ("disk", *_disk(keeping.journal, vitals)),
    )
    return tuple(_row(name, text, faults, told.get(name, [])) for name, text, faults in rows)


def _row(name: str, text: str, faults: Sequence[str], alerts: Sequence[Alert]) -> HealthRow:
    """Make a row. faults: what is wrong beside the alerts, in sentences."""
    severities = {alert.severity for alert in alerts}
    told = [*(alert.message for alert in alerts), *faults]
    more = len(told) - _MOST_TOLD
    others = [f"And {more} more."] if more > 0 else []
    state: State = "ok"
    if faults or "warning" in severities:
        state = "warning"
    if "critical" in severities:
        state = "fault"
    return HealthRow(name, state, " ".join((text, *told[:_MOST_TOLD], *others)))


# --- What each row says while all is well, and what is wrong that no alert tells ------------------


def _capacity(load: LoadStatus) -> str:
    quality = "" if load.quality is LoadQuality.GOOD else f" ({load.quality.value})"
    return f"{load.available_kw:.1f} kW of {load.grid_capacity_kw:g} kW are free{quality}."


def _meters(snapshot: Snapshot) -> str:
    statuses = [state.status for state in snapshot.meters.values()]
    if not statuses:
        return "None is registered."
    text = f"{statuses.count(Status.ONLINE)} of {len(statuses)} are online"
    pending = statuses.count(Status.PENDING)
    return f"{text}, {pending} not read yet." if pending else f"{text}."


def _lines(lines: Sequence[LineState]) -> tuple[str, Sequence[str]]:
    """One that is closed without an error is idle: it opens for the next poll."""
    failing = [line for line in lines if line.last_error is not None and not line.connected]
    faults = [f"{line.name}: {line.last_error}" for line in failing]
    if not lines:
        return "None: lines come with the first meter.", faults
    return f"{len(lines) - len(failing)} of {len(lines)} work.", faults


def _schedule(snapshot: Snapshot) -> str:
    health = snapshot.health
    if health.lateness_p99_ms is None or health.lateness_max_ms is None:
        return "Its lateness is measured over the first minute."
    return (
        f"Ticks are {health.lateness_p99_ms:.1f} ms late at the 99th percentile, "
        f"{health.lateness_max_ms:.1f} ms at most; {health.missed_ticks:,} missed since the start."
    )


def _journal(journal: JournalState | None) -> str:
    if journal is None:
        return "Switched off: nothing is recorded."
    if not journal.recording and journal.last_error is None:
        return "It is being opened."
    size = f"{_bytes(journal.file_bytes)} of {_bytes(journal.max_bytes)}"
    since = journal.oldest_unix_ms
    reach = f", since {timestamp(since)}" if since is not None else ""
    lost = f"; {journal.dropped:,} readings were lost" if journal.dropped else ""
    return f"{'Records' if journal.recording else 'Does not record'}: {size}{reach}{lost}."


def _sinks(sinks: Sequence[SinkState]) -> str:
    if not sinks:
        return "None is configured."
    sending = sum(sink.connected for sink in sinks)
    backlog = sum(sink.backlog for sink in sinks)
    return f"{sending} of {len(sinks)} send; {backlog:,} readings wait for them."


def _clock(journal: JournalState | None, unix_ms: int) -> str:
    now = f"It says {timestamp(unix_ms)}"
    if journal is None or journal.clock_set is None:
        return f"{now}; whether it is set is not known."
    return f"{now}, and is {'set' if journal.clock_set else 'not known to be set'}."


def _disk(journal: JournalState | None, vitals: Vitals) -> tuple[str, Sequence[str]]:
    free = vitals.free_bytes
    text = "What is free is not known" if free is None else f"{_bytes(free)} are free"
    faults = []
    if free is not None and free < LEAST_FREE_BYTES:
        faults.append("The disk is nearly full; free some room, or lower journal.max_bytes.")
    per_day = _written_per_day(journal, vitals.uptime_s)
    if journal is not None and per_day is not None:
        text = f"{text}; {_bytes(per_day)} a day are written"
        if per_day > journal.write_bytes_per_day:
            faults.append(
                f"On average more is written than journal.write_bytes_per_day allows "
                f"({_bytes(journal.write_bytes_per_day)}); raise journal.commit_interval_s."
            )
    return f"{text}.", faults


def _written_per_day(journal: JournalState | None, uptime_s: float) -> float | None:
    """The journal's mean since the start, bytes; None while that says nothing."""
    if journal is None or journal.written_bytes is None or uptime_s < _RATE_AFTER_S:
        return None
    return journal.written_bytes * _DAY_S / uptime_s


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _duration(duration_s: float) -> str:
    minutes = int(duration_s) // 60
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
