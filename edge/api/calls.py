"""The calls of the API: plain functions, each from the context of a request to its answer.

What one returns is the `data` of a success, in the shape that its annotation says; a Response where
there is more to say. Failures are raised. What is read comes from one snapshot. The first line of a
docstring is the call's summary wherever calls are listed.
"""

from __future__ import annotations

from pathlib import Path

from edge import render, shapes
from edge.api import Request, Response
from edge.api.documents import answer, json_body
from edge.api.query import QueryReader, flag, whole
from edge.api.route import Context
from edge.diagnosis import diagnose
from edge.errors import ConfigError, Fault, RequestError
from edge.health import Vitals, health
from edge.load import building_consumption
from edge.logs import RECENT_LINES
from edge.metrics import OPENMETRICS_TYPE, TEXT_TYPE
from edge.model import Meter, MeterState, Snapshot
from edge.registry import meter_not_found
from edge.structure import nearest

# --- Meters --------------------------------------------------------------------------------------


def register_meter(context: Context) -> Response:
    """Register a meter and begin to read it."""
    meter = context.service.registry.add(json_body(context.request))
    state = _changed_state(context, meter)
    location = ("Location", f"/api/energy-meters/{meter.id}")
    return answer(render.meter_details(state), status=201, headers=(location,))


def list_meters(context: Context) -> list[shapes.Meter]:
    """List all meters with their last values."""
    return [render.meter(state) for state in context.snapshot.meters.values()]


def show_meter(context: Context) -> shapes.MeterDetails:
    """Show a meter and how it is read."""
    return render.meter_details(_state(context.snapshot, context.path["id"]))


def show_reading(context: Context) -> shapes.Reading:
    """Show a meter's current reading and how old it is."""
    state = _state(context.snapshot, context.path["id"])
    return render.reading(state, context.snapshot)


def show_history(context: Context) -> Response:
    """Give a meter's past: readings, hours or days, as JSON or CSV.

    Whatever was recorded is there, also of a meter that was removed.
    """
    id_ = context.path["id"]
    state = context.snapshot.meters.get(id_)
    meter = state.meter if state is not None else None
    now_ms = context.snapshot.unix_ms
    return context.service.history.answer(context.request, id_, meter, now_ms)


def update_meter(context: Context) -> shapes.MeterDetails:
    """Change a meter: what the body names is replaced, null removes, the rest stays."""
    meter = context.service.registry.update(context.path["id"], json_body(context.request))
    return render.meter_details(_changed_state(context, meter))


def remove_meter(context: Context) -> shapes.MeterDetails:
    """Remove a meter; gives back what was removed."""
    last = context.snapshot.meters.get(context.path["id"])
    meter = context.service.registry.remove(context.path["id"])
    return render.meter_details(last or MeterState(meter))


def try_meter(context: Context) -> shapes.Diagnosis:
    """Say what a registration would read now, and what is wrong with it; registers nothing."""
    meter = context.service.registry.parse(json_body(context.request))
    probe = context.service.probe(meter)
    grid_capacity_kw = context.snapshot.load.grid_capacity_kw
    return render.diagnosis(diagnose(meter, probe, grid_capacity_kw), meter)


# --- The device library --------------------------------------------------------------------------


def list_templates(context: Context) -> list[shapes.Template]:
    """List the device templates."""
    try:
        listing = context.service.library.listing()
    except ConfigError as exc:
        raise _unusable(exc) from None
    return [render.template(template) for template in listing.templates]


def show_template(context: Context) -> shapes.TemplateDetails:
    """Show a device template and what it fills in."""
    name, library = context.path["name"], context.service.library
    try:
        template = library.get(name)
        hint = "" if template else nearest(name, library)
    except ConfigError as exc:
        raise _unusable(exc) from None
    if template is None:
        message = f"No template is named {name!r}{hint or '; GET /api/templates lists them.'}"
        raise RequestError(404, "TEMPLATE_NOT_FOUND", message)
    return render.template_details(template)


def _unusable(error: ConfigError) -> RequestError:
    """What is told of a file of the library, or of a folder that went away; no path of it."""
    what = Path(error.source).name or "The device library"
    message = f"{what} cannot be used; correct what `details` lists."
    faults = error.faults
    if not error.source:
        faults = tuple(Fault("templates.dir", fault.message) for fault in faults)
    return RequestError(500, "TEMPLATE_FAULTY", message, faults)


# --- The site ------------------------------------------------------------------------------------


def show_building_consumption(context: Context) -> shapes.BuildingConsumption:
    """Sum up the grid and building meters that are fresh."""
    sums = building_consumption(context.snapshot.meters.values())
    return render.building_consumption(sums, context.snapshot)


def show_load_status(context: Context) -> shapes.LoadStatus:
    """Say how much power is free for charging, and how far that can be trusted."""
    return render.load_status(context.snapshot.load, context.snapshot)


_ACTIVE = flag("active", "Only what holds now.")
ALERT_KEYS = (_ACTIVE,)


def list_alerts(context: Context) -> list[shapes.Alert]:
    """List what is wrong, and what was within the last day."""
    asked = QueryReader(context.request, ALERT_KEYS)
    only_active = asked.value(_ACTIVE)
    asked.check()
    alerts = context.service.alerts()
    if only_active:
        alerts = [one for one in alerts if one.until_ms is None]
    return [render.alert(one) for one in alerts]


def show_power_curve(context: Context) -> shapes.PowerCurve:
    """Show the site's power in even steps."""
    return context.service.analytics.power(context.request, context.snapshot)


def show_energy(context: Context) -> shapes.Energy:
    """Show the energy of the site and of each meter by hours or days, and what it cost."""
    return context.service.analytics.energy(context.request, context.snapshot)


# --- Who asks ------------------------------------------------------------------------------------


def log_in(context: Context) -> Response:
    """Begin a session of the dashboard for a token.

    It sets the session's cookie and gives what goes along with each change.
    """
    return context.service.door.log_in(context.request)


def log_out(context: Context) -> Response:
    """End the session of a browser, if it has one."""
    return context.service.door.log_out(context.request)


def show_session(context: Context) -> shapes.SessionInfo:
    """Say whether a token is needed, and who asks."""
    return context.service.door.show_session(context.request)


# --- The service itself --------------------------------------------------------------------------


def show_system(context: Context) -> shapes.System:
    """Show the service's own health."""
    service, snapshot = context.service, context.snapshot
    keeping, disk = service.keeping(), service.disk()
    vitals = Vitals(
        service.versions,
        uptime_s=snapshot.mono_s - service.started_mono_s,
        free_bytes=None if disk is None else disk.free_bytes,
    )
    alerts = (alert for alert in service.alerts() if alert.until_ms is None)
    rows = health(snapshot, keeping, alerts, vitals)
    return render.system(snapshot, keeping, service.about, service.started_mono_s, rows)


_LINES = whole("lines", "How many.", 1, RECENT_LINES, default=200)
LOG_KEYS = (_LINES,)


def show_log(context: Context) -> list[str]:
    """Show the last lines of the log."""
    asked = QueryReader(context.request, LOG_KEYS)
    count = asked.value(_LINES)
    asked.check()
    return context.service.log_lines(count)


def show_health(context: Context) -> shapes.State:
    """Say that the control cycle is running; while it is not, the answer is 503."""
    return {"status": "alive"}


def show_readiness(context: Context) -> shapes.State:
    """Say that the control cycle has begun to run; until then, the answer is 503."""
    return {"status": "ready"}


def show_metrics(context: Context) -> Response:
    """Give all metrics in Prometheus's text format, or as OpenMetrics where that is asked for."""
    metrics = context.service.metrics
    if wants_openmetrics(context.request):
        return Response(200, metrics.openmetrics(), OPENMETRICS_TYPE)
    return Response(200, metrics.text(), TEXT_TYPE)


def connect_live(context: Context) -> Response:
    """Open a WebSocket on which what changes is pushed."""
    return context.service.live.connect(context.request)


def wants_openmetrics(request: Request) -> bool:
    """Tell whether a request for the metrics asks for OpenMetrics."""
    return "application/openmetrics-text" in request.headers.get("accept", "")


def _state(snapshot: Snapshot, meter_id: str) -> MeterState:
    state = snapshot.meters.get(meter_id)
    if state is None:
        raise meter_not_found(meter_id)
    return state


def _changed_state(context: Context, meter: Meter) -> MeterState:
    """A meter after a change; it is stored, even where the cycle is late to take it over."""
    return context.service.snapshot().meters.get(meter.id) or MeterState(meter)
