"""The outward spelling of what the service knows: snapshot and registrations to API JSON.

The only place that knows the names, units and time format of the REST answers. Unknown is `null`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from edge import shapes
from edge.alerts import Alert
from edge.communication import HttpEndpoint
from edge.diagnosis import Diagnosis
from edge.errors import Fault
from edge.health import HealthRow
from edge.interpret import Interpretation
from edge.meterspec.secrets import redacted
from edge.model import (
    QUANTITY_NAMES,
    BuildingConsumption,
    LineState,
    LoadStatus,
    Meter,
    MeterState,
    Reading,
    Snapshot,
)
from edge.record import JournalState, Keeping, SinkState
from edge.template import Template
from edge.times import timestamp

Json = dict[str, Any]

OUTWARD = {"power": "currentPower", "energy": "totalEnergy"}
"""Quantities that answers name otherwise than registrations do."""
ALWAYS_SHOWN = ("power", "energy", "voltage", "current", "powerFactor", "frequency")
"""Quantities that every answer has; the others appear for meters that are to give them."""


def dump(document: Any) -> bytes:
    """Encode an answer. NaN and ±Inf are a bug here: they raise ValueError."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def success(data: Any) -> Json:
    """The shape of every answer that is not a failure; a list also says how long it is."""
    if isinstance(data, list):
        return {"success": True, "data": data, "count": len(data)}
    return {"success": True, "data": data}


def failure(message: str, code: str, faults: Sequence[Fault] = ()) -> shapes.Failure:
    """The one shape of every failure."""
    return {
        "success": False,
        "error": message,
        "code": code,
        "details": [{"field": fault.path, "message": fault.message} for fault in faults],
    }


def meter(state: MeterState) -> shapes.Meter:
    """A meter as the list shows it."""
    about, reading = state.meter, state.reading
    return {
        "id": about.id,
        "name": about.name,
        "location": about.location,
        "protocol": about.protocol,
        "meterType": about.meter_type,
        "pollInterval": about.poll_interval_ms,
        "staleAfter": about.stale_after_ms,
        "maxPower": about.max_power_kw,
        "status": state.status.value,
        **_values(about, reading),
        "lastUpdate": _timestamp(reading),
        "lastError": state.last_error,
        "quality": state.quality.value,
        "hints": list(reading.hints) if reading is not None else [],
    }


def meter_details(state: MeterState) -> shapes.MeterDetails:
    """A meter on its own: as in the list, and how it is read; secrets are hidden."""
    communication = redacted(state.meter.document["communication"])
    return {**meter(state), "communication": communication, "warnings": _warnings(state.meter)}


def reading(state: MeterState, snapshot: Snapshot) -> shapes.Reading:
    """The current reading of a meter; all `null` when there was none yet."""
    last = state.reading
    return {
        "meterId": state.meter.id,
        **_values(state.meter, last),
        "timestamp": _timestamp(last),
        "ageSeconds": _age_s(last, snapshot),
        "quality": state.quality.value,
        "hints": list(last.hints) if last is not None else [],
    }


def building_consumption(
    sums: BuildingConsumption, snapshot: Snapshot
) -> shapes.BuildingConsumption:
    """The sum over the grid and building meters."""
    return {
        "currentPower": sums.power_kw,
        "totalEnergy": sums.energy_kwh,
        "meterCount": sums.meter_count,
        "timestamp": timestamp(snapshot.unix_ms),
        "quality": sums.quality.value,
        "excluded": list(sums.excluded),
    }


def load_status(load: LoadStatus, snapshot: Snapshot) -> shapes.LoadStatus:
    """How much power is free, kW."""
    return {
        "gridCapacity": load.grid_capacity_kw,
        "pvProduction": load.pv_production_kw,
        "buildingConsumption": load.building_consumption_kw,
        "availableCapacity": load.available_kw,
        "overload": load.overload_kw,
        "timestamp": timestamp(snapshot.unix_ms),
        "quality": load.quality.value,
        "reasons": list(load.reasons),
    }


def alert(about: Alert) -> shapes.Alert:
    """Something that is wrong, or was."""
    return {
        "id": about.id,
        "kind": about.kind,
        "severity": about.severity,
        "message": about.message,
        "meterId": about.meter_id,
        "meterName": about.meter_name,
        "since": timestamp(about.since_ms),
        "until": timestamp(about.until_ms) if about.until_ms is not None else None,
    }


def system(
    snapshot: Snapshot,
    keeping: Keeping,
    about: Mapping[str, Any],
    started_mono_s: float,
    rows: Sequence[HealthRow],
) -> shapes.System:
    """The service's own health. about: what does not change while it runs; rows: in short.

    The start is told by today's clock: it may have been before the clock was set.
    """
    uptime_s = snapshot.mono_s - started_mono_s
    health = snapshot.health
    counts: dict[str, int] = {}
    for state in snapshot.meters.values():
        counts[state.status.value] = counts.get(state.status.value, 0) + 1
    return {
        **cast("shapes.About", about),
        "health": [{"name": row.name, "state": row.state, "text": row.text} for row in rows],
        "timestamp": timestamp(snapshot.unix_ms),
        "startedAt": timestamp(snapshot.unix_ms - round(uptime_s * 1000)),
        "uptimeSeconds": round(uptime_s, 3),
        "schedule": {
            "tick": snapshot.tick,
            "ticks": health.ticks,
            "missedTicks": health.missed_ticks,
            "overruns": health.overruns,
            "latenessP50Ms": health.lateness_p50_ms,
            "latenessP99Ms": health.lateness_p99_ms,
            "latenessMaxMs": health.lateness_max_ms,
        },
        "meters": counts,
        "lines": [
            {
                "name": line.name,
                "connected": line.connected,
                "lastError": line.last_error,
                "opened": line.opened,
                **_heard(line),
            }
            for line in snapshot.lines
        ],
        "journal": _journal(keeping.journal) if keeping.journal is not None else None,
        "sinks": [_sink(sink) for sink in keeping.sinks],
    }


def _journal(state: JournalState) -> shapes.Journal:
    return {
        "recording": state.recording,
        "lastError": state.last_error,
        "recorded": state.recorded,
        "dropped": state.dropped,
        "waiting": state.waiting,
        "bytes": state.file_bytes,
        "maxBytes": state.max_bytes,
        "writtenBytes": state.written_bytes,
        "slowSyncs": state.slow_syncs,
        "oldest": timestamp(state.oldest_unix_ms) if state.oldest_unix_ms is not None else None,
        "notices": list(state.notices),
    }


def _sink(state: SinkState) -> shapes.Sink:
    return {
        "name": state.name,
        "connected": state.connected,
        "lastError": state.last_error,
        "sent": state.sent,
        "rejected": state.rejected,
        "lost": state.lost,
        "backlog": state.backlog,
    }


def diagnosis(found: Diagnosis, about: Meter) -> shapes.Diagnosis:
    """What a registration would read now, and what is wrong with it."""
    return {
        "line": about.line,
        "reading": {
            OUTWARD.get(name, name): found.values[name]
            for name in QUANTITY_NAMES
            if name in found.values
        },
        "quality": found.quality.value,
        "hints": list(found.hints),
        "findings": [
            {"cause": finding.cause.value, "message": finding.message} for finding in found.findings
        ],
        "exchanges": [
            {
                "request": exchange.asked,
                "raw": exchange.raw,
                "roundTripMs": _ms(exchange.round_trip_s),
                "error": exchange.error,
            }
            for exchange in found.exchanges
        ],
        "interpretations": {
            name: [_interpretation(other) for other in others]
            for name, others in found.interpretations.items()
        },
    }


def template(about: Template) -> shapes.Template:
    """A device template as the list shows it."""
    return {
        "name": about.name,
        "title": about.title,
        "maker": about.maker,
        "models": list(about.models),
        "protocol": about.protocol,
        "meterTypes": list(about.meter_types),
        "parameters": {
            name: {
                "title": parameter.title,
                "example": parameter.example,
                "default": parameter.default,
            }
            for name, parameter in about.parameters.items()
        },
        "caveats": list(about.caveats),
        "source": about.source,
    }


def template_details(about: Template) -> shapes.TemplateDetails:
    """A device template on its own: what it fills into `communication`, too."""
    return {
        **template(about),
        "communication": dict(about.communication),
        "serial": dict(about.serial),
    }


def _heard(line: LineState) -> shapes.Heard:
    """What became of the messages, where the line has such."""
    if line.heard is None:
        return {}
    return {"messages": cast("shapes.MessageCounts", asdict(line.heard))}


def _interpretation(other: Interpretation) -> shapes.Interpretation:
    """Another way to read a quantity: its value, why, and the entry for `registers`."""
    return {
        "value": other.value,
        "why": other.why,
        "register": {
            "address": other.address,
            "type": other.type,
            "wordOrder": other.word_order,
            "scale": float(other.scale),
        },
    }


def _warnings(about: Meter) -> list[str]:
    """What is dangerous in how a meter is reached, and was registered so on purpose."""
    endpoint = about.communication.endpoint
    if isinstance(endpoint, HttpEndpoint) and not endpoint.verify_tls:
        return [
            "verifyTls is false: anyone on the way may read the credentials and change the "
            "values; give caFile instead."
        ]
    return []


def _ms(duration_s: float | None) -> float | None:
    return None if duration_s is None else round(duration_s * 1000, 1)


def _values(about: Meter, reading: Reading | None) -> shapes.AllValues:
    values = reading.values if reading is not None else {}
    expected = about.communication.quantities
    shown = {
        OUTWARD.get(name, name): values.get(name)
        for name in QUANTITY_NAMES
        if name in ALWAYS_SHOWN or name in expected or name in values
    }
    return cast("shapes.AllValues", shown)


def _timestamp(reading: Reading | None) -> str | None:
    """When a reading was taken; unknown for what a broker had retained."""
    return timestamp(reading.unix_ms) if reading is not None and reading.live else None


def _age_s(reading: Reading | None, snapshot: Snapshot) -> float | None:
    if reading is None or not reading.live:
        return None
    return round(max(0.0, snapshot.mono_s - reading.mono_s), 3)
