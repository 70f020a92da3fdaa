"""The REST API: a table of routes, and the functions behind them.

A function takes the service and a request and gives the document of its answer; failures are
raised. What is read comes from one snapshot, rendered once and shared by all who ask for it.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge import render, shapes
from edge.api import Request, Response
from edge.api.analytics import ENERGY_KEYS, POWER_KEYS
from edge.api.description import PROVING, STORING
from edge.api.door import Login, Who
from edge.api.history import CSV_TYPE
from edge.api.openapi import describe
from edge.api.question import ALERT_KEYS, LOG_KEYS, USUAL_LOG_LINES, Asked, flag, whole_number
from edge.api.question import KEYS as HISTORY_KEYS
from edge.api.route import Access, Context, Route, Service, answer, json_body
from edge.api.static import TYPES, give_part, show_dashboard, show_icon, show_reference
from edge.api.topics import KEYS as LIVE_KEYS
from edge.diagnosis import diagnose
from edge.errors import ConfigError, RequestError, StateError
from edge.load import building_consumption
from edge.logs import RECENT_LINES
from edge.meterspec import RegistrationKeys
from edge.metrics import OPENMETRICS_TYPE, TEXT_TYPE
from edge.model import Meter, MeterState, Snapshot
from edge.registry import meter_not_found
from edge.structure import nearest

ALIVE_WITHIN_S = 2.0
"""The cycle counts as alive while its last tick is not older than this.

Beyond it nothing of the snapshot is told: its values would look as fresh as they were then.
"""


# --- Meters --------------------------------------------------------------------------------------


def register_meter(context: Context) -> Response:
    """Register a meter and begin to read it."""
    meter = context.service.registry.add(json_body(context.request))
    state = _changed_state(context, meter)
    location = ("Location", f"/api/energy-meters/{meter.id}")
    return answer(render.meter_details(state), status=201, headers=(location,))


def list_meters(context: Context) -> Response:
    """List all meters with their last values."""
    return answer([render.meter(state) for state in context.snapshot.meters.values()])


def show_meter(context: Context) -> Response:
    """Show a meter and how it is read."""
    return answer(render.meter_details(_state(context.snapshot, context.path["id"])))


def show_reading(context: Context) -> Response:
    """Show a meter's current reading and how old it is."""
    state = _state(context.snapshot, context.path["id"])
    return answer(render.reading(state, context.snapshot))


def show_history(context: Context) -> Response:
    """Give what was recorded of a meter, registered still or not: readings, hours or days."""
    id_ = context.path["id"]
    state = context.snapshot.meters.get(id_)
    meter = state.meter if state is not None else None
    now_ms = context.snapshot.unix_ms
    return context.service.history.answer(context.request, id_, meter, now_ms)


def update_meter(context: Context) -> Response:
    """Change a meter: what the body names is replaced, null removes, the rest stays."""
    meter = context.service.registry.update(context.path["id"], json_body(context.request))
    return answer(render.meter_details(_changed_state(context, meter)))


def remove_meter(context: Context) -> Response:
    """Remove a meter; gives back what was removed."""
    last = context.snapshot.meters.get(context.path["id"])
    meter = context.service.registry.remove(context.path["id"])
    return answer(render.meter_details(last or MeterState(meter)))


def try_meter(context: Context) -> Response:
    """Say what a registration would read now, and what is wrong with it; registers nothing."""
    meter = context.service.registry.parse(json_body(context.request))
    probe = context.service.probe(meter)
    grid_capacity_kw = context.snapshot.load.grid_capacity_kw
    return answer(render.diagnosis(diagnose(meter, probe, grid_capacity_kw), meter))


# --- The device library --------------------------------------------------------------------------


def list_templates(context: Context) -> Response:
    """List the device templates."""
    try:
        listing = context.service.library.listing()
    except ConfigError as exc:
        raise _unusable(exc) from None
    return answer([render.template(template) for template in listing.templates])


def show_template(context: Context) -> Response:
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
    return answer(render.template_details(template))


def _unusable(error: ConfigError) -> RequestError:
    """What is told of a file of the library, or of a folder that went away."""
    what = Path(error.source).name or "The device library"
    message = f"{what} cannot be used; correct what `details` lists."
    return RequestError(500, "TEMPLATE_FAULTY", message, error.faults)


# --- The site ------------------------------------------------------------------------------------


def show_building_consumption(context: Context) -> Response:
    """Sum up the grid and building meters that are fresh."""
    sums = building_consumption(context.snapshot.meters.values())
    return answer(render.building_consumption(sums, context.snapshot))


def show_load_status(context: Context) -> Response:
    """Say how much power is free for charging, and how far that can be trusted."""
    return answer(render.load_status(context.snapshot.load, context.snapshot))


def list_alerts(context: Context) -> Response:
    """List what is wrong, and what was within the last day."""
    asked = Asked(context.request, ALERT_KEYS)
    only_active = asked.value("active", flag) or False
    asked.check()
    alerts = context.service.alerts()
    if only_active:
        alerts = [one for one in alerts if one.until_ms is None]
    return answer([render.alert(one) for one in alerts])


def show_power_curve(context: Context) -> Response:
    """Show the site's power in even steps."""
    return answer(context.service.analytics.power(context.request, context.snapshot))


def show_energy(context: Context) -> Response:
    """Show the energy of the site and of each meter by hours or days."""
    return answer(context.service.analytics.energy(context.request, context.snapshot))


# --- Who asks ------------------------------------------------------------------------------------


def log_in(context: Context) -> Response:
    """Begin a session of the dashboard for a token: its cookie, and what goes with each change."""
    return context.service.door.log_in(context.request)


def log_out(context: Context) -> Response:
    """End the session of a browser, if there is one."""
    return context.service.door.log_out(context.request)


def show_session(context: Context) -> Response:
    """Say whether a token is needed, and who asks."""
    return context.service.door.show_session(context.request)


# --- The service itself --------------------------------------------------------------------------


def show_system(context: Context) -> Response:
    """Show the service's own health."""
    service = context.service
    return answer(
        render.system(context.snapshot, service.keeping(), service.about, service.started_mono_s)
    )


def show_log(context: Context) -> Response:
    """Show the last lines of the log."""
    asked = Asked(context.request, LOG_KEYS)
    lines = asked.value("lines", lambda text: whole_number(text, 1, RECENT_LINES))
    asked.check()
    return answer(context.service.log_lines(lines or USUAL_LOG_LINES))


def show_health(context: Context) -> Response:
    """Say that the cycle is running; while it is not, every call is answered with 503."""
    return answer({"status": "alive"})


def show_readiness(context: Context) -> Response:
    """Say that the first cycle has run; until then, every call is answered with 503."""
    return answer({"status": "ready"})


def show_metrics(context: Context) -> Response:
    """Give all metrics in the Prometheus text format, or OpenMetrics where it is asked for."""
    metrics = context.service.metrics
    if _wants_openmetrics(context.request):
        return Response(200, metrics.openmetrics(), OPENMETRICS_TYPE)
    return Response(200, metrics.text(), TEXT_TYPE)


def connect_live(context: Context) -> Response:
    """Open a WebSocket on which news is pushed."""
    return context.service.live.connect(context.request)


def show_openapi(context: Context) -> Response:
    """Describe all calls, as OpenAPI 3.1."""
    return Response(200, _description())


@functools.cache
def _description() -> bytes:
    return render.dump(describe(ROUTES))


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/api/energy-meters",
        register_meter,
        "register a meter",
        takes=RegistrationKeys,
        gives=shapes.MeterDetails,
        statuses=(201,),
        refuses=("DUPLICATE_NAME", "TOO_MANY_METERS", *STORING),
    ),
    Route(
        "GET",
        "/api/energy-meters",
        list_meters,
        "list the meters",
        shared=True,
        gives=list[shapes.Meter],
    ),
    Route(
        "GET",
        "/api/energy-meters/consumption/building",
        show_building_consumption,
        "sum of the grid and building meters",
        shared=True,
        gives=shapes.BuildingConsumption,
    ),
    Route(
        "GET",
        "/api/energy-meters/{id}",
        show_meter,
        "a meter and how it is read",
        shared=True,
        gives=shapes.MeterDetails,
        refuses=("METER_NOT_FOUND",),
    ),
    Route(
        "GET",
        "/api/energy-meters/{id}/reading",
        show_reading,
        "its current reading",
        shared=True,
        gives=shapes.Reading,
        refuses=("METER_NOT_FOUND",),
    ),
    Route(
        "GET",
        "/api/energy-meters/{id}/history",
        show_history,
        "its readings, hours or days; JSON or CSV",
        gives=list[shapes.RecordedReading | shapes.RecordedRollup | shapes.RecordedStep],
        paged=True,
        media=(CSV_TYPE,),
        query=HISTORY_KEYS,
        refuses=("VALIDATION_ERROR", "METER_NOT_FOUND", "BUSY", "JOURNAL_UNAVAILABLE"),
    ),
    Route(
        "PUT",
        "/api/energy-meters/{id}",
        update_meter,
        "change a meter",
        takes=RegistrationKeys,
        gives=shapes.MeterDetails,
        refuses=("METER_NOT_FOUND", "DUPLICATE_NAME", *STORING),
    ),
    Route(
        "DELETE",
        "/api/energy-meters/{id}",
        remove_meter,
        "remove a meter",
        gives=shapes.MeterDetails,
        refuses=("METER_NOT_FOUND", *STORING),
    ),
    Route(
        "POST",
        "/api/energy-meters/test",
        try_meter,
        "what a registration would read now",
        takes=RegistrationKeys,
        gives=shapes.Diagnosis,
        refuses=("BUSY",),
    ),
    Route(
        "GET",
        "/api/templates",
        list_templates,
        "the device library",
        gives=list[shapes.Template],
        refuses=("TEMPLATE_FAULTY",),
    ),
    Route(
        "GET",
        "/api/templates/{name}",
        show_template,
        "a device template",
        gives=shapes.TemplateDetails,
        refuses=("TEMPLATE_NOT_FOUND", "TEMPLATE_FAULTY"),
    ),
    Route(
        "GET",
        "/api/load/status",
        show_load_status,
        "power free for charging",
        shared=True,
        gives=shapes.LoadStatus,
    ),
    Route(
        "GET",
        "/api/alerts",
        list_alerts,
        "what is wrong, and was",
        gives=list[shapes.Alert],
        query=ALERT_KEYS,
        refuses=("VALIDATION_ERROR",),
    ),
    Route(
        "GET",
        "/api/analytics/power",
        show_power_curve,
        "the site's power in even steps",
        gives=shapes.PowerCurve,
        query=POWER_KEYS,
        refuses=("VALIDATION_ERROR", "BUSY", "JOURNAL_UNAVAILABLE"),
    ),
    Route(
        "GET",
        "/api/analytics/energy",
        show_energy,
        "energy by hours or days, and its cost",
        gives=shapes.Energy,
        query=ENERGY_KEYS,
        refuses=("VALIDATION_ERROR", "BUSY", "JOURNAL_UNAVAILABLE"),
    ),
    Route(
        "GET",
        "/api/system/log",
        show_log,
        "the last lines of the log",
        access=Access.ADMIN,
        always=True,
        gives=list[str],
        query=LOG_KEYS,
        refuses=("VALIDATION_ERROR",),
    ),
    Route(
        "GET",
        "/api/system",
        show_system,
        "the service's own health",
        shared=True,
        gives=shapes.System,
    ),
    Route(
        "GET",
        "/healthz",
        show_health,
        "liveness",
        access=Access.PUBLIC,
        gives=shapes.State,
    ),
    Route(
        "GET",
        "/readyz",
        show_readiness,
        "readiness",
        access=Access.PUBLIC,
        gives=shapes.State,
    ),
    Route(
        "GET",
        "/metrics",
        show_metrics,
        "Prometheus and OpenMetrics",
        shared=True,
        access=Access.METRICS,
        media=(TEXT_TYPE, OPENMETRICS_TYPE),
    ),
    Route(
        "POST",
        "/api/login",
        log_in,
        "begin a session of the dashboard",
        access=Access.PUBLIC,
        always=True,
        gives=Who,
        takes=Login,
        refuses=PROVING,
    ),
    Route(
        "POST",
        "/api/logout",
        log_out,
        "end it",
        access=Access.PUBLIC,
        always=True,
        gives=Who,
    ),
    Route(
        "GET",
        "/api/session",
        show_session,
        "whether a token is needed, and who asks",
        access=Access.PUBLIC,
        always=True,
        gives=Who,
        refuses=PROVING,
    ),
    Route(
        "GET",
        "/ws",
        connect_live,
        "live updates, over a WebSocket",
        query=LIVE_KEYS,
        statuses=(101,),
        refuses=("UPGRADE_REQUIRED", "VALIDATION_ERROR", "FOREIGN_ORIGIN", "TOO_MANY_CLIENTS"),
    ),
    Route(
        "GET",
        "/api/openapi.json",
        show_openapi,
        "this description, as OpenAPI 3.1",
        always=True,
        media=("application/json",),
    ),
    Route(
        "GET",
        "/",
        show_dashboard,
        "the dashboard",
        access=Access.PUBLIC,
        always=True,
        media=("text/html",),
        statuses=(200, 304),
        refuses=("PAGES_UNREADABLE",),
    ),
    Route(
        "GET",
        "/static/{hash}/{file}",
        give_part,
        "what the pages are made of",
        access=Access.PUBLIC,
        always=True,
        media=tuple(TYPES.values()),
        refuses=("PAGES_UNREADABLE",),
    ),
    Route(
        "GET",
        "/favicon.ico",
        show_icon,
        "the icon",
        access=Access.PUBLIC,
        always=True,
        media=("image/svg+xml",),
        statuses=(200, 304),
        refuses=("PAGES_UNREADABLE",),
    ),
    Route(
        "GET",
        "/api/docs",
        show_reference,
        "this reference, to read",
        access=Access.PUBLIC,
        always=True,
        media=("text/html",),
        statuses=(200, 304),
        refuses=("PAGES_UNREADABLE",),
    ),
)


_SharedKey = tuple[str, bool]
_Shared = tuple[Snapshot, dict[_SharedKey, Response]]


class Api:
    """Answers requests by the table. Any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._shared: _Shared = (service.snapshot(), {})
        self._render_lock = threading.Lock()

    def handle(self, request: Request) -> Response:
        """Answer a request; every error of the project becomes the API's failure shape."""
        try:
            return self._answer(request)
        except RequestError as exc:
            return refusal(exc)
        except StateError as exc:
            return refusal(RequestError(507, "NOT_STORED", str(exc)))

    def _answer(self, request: Request) -> Response:
        snapshot = self._service.snapshot()
        ready = self._ready(snapshot, request)
        if ready is not None:
            self._require_cycle(snapshot)
            return ready
        route, path = find(request)
        if not route.always:
            self._require_cycle(snapshot)
        context = Context(self._service, request, snapshot, path)
        if not route.shared:
            return route.answer(context)
        # One thread renders and the others wait for it: sixty at once would starve the cycle.
        with self._render_lock:
            response = self._ready(snapshot, request) or route.answer(context)
            if self._shared[0] is not snapshot:
                self._shared = (snapshot, {})
            self._shared[1][_shared_key(request)] = response
        return response

    def _require_cycle(self, snapshot: Snapshot) -> None:
        """Refuse to tell of a snapshot that is none yet, or old. Raises RequestError 503."""
        if snapshot.health.ticks == 0:
            raise RequestError(503, "NOT_READY", "The service is starting; ask again in a second.")
        age_s = self._service.clock.mono_s() - snapshot.mono_s
        if age_s > ALIVE_WITHIN_S:
            raise RequestError(
                503,
                "NOT_ALIVE",
                f"The control cycle last ran {age_s:.0f} s ago; restart the service if it stays.",
            )

    def _ready(self, snapshot: Snapshot, request: Request) -> Response | None:
        """What was rendered of this snapshot for the same request, if anything."""
        of, responses = self._shared
        if of is not snapshot or request.method != "GET":
            return None
        return responses.get(_shared_key(request))


def refusal(error: RequestError) -> Response:
    """Put an error into the API's failure shape."""
    body = render.dump(render.failure(str(error), error.code, error.faults))
    return Response(error.status, body, headers=error.headers)


def _shared_key(request: Request) -> _SharedKey:
    return request.path, _wants_openmetrics(request)


def _wants_openmetrics(request: Request) -> bool:
    return "application/openmetrics-text" in request.headers.get("accept", "")


def access_of(request: Request) -> Access:
    """Say who may make a call; what is not there is shown to readers only."""
    try:
        return find(request)[0].needs
    except RequestError:
        return Access.READER


def find(request: Request) -> tuple[Route, Mapping[str, str]]:
    """Find the row of a call, and the values in its path. Raises RequestError 404 or 405."""
    for pattern, rows in _RESOURCES:
        match = pattern.fullmatch(request.path)
        if match is None:
            continue
        if request.method in rows:
            return rows[request.method], match.groupdict()
        methods = ", ".join(sorted({*rows, *(["HEAD"] if "GET" in rows else [])}))
        raise RequestError(
            405,
            "METHOD_NOT_ALLOWED",
            f"{request.method} does not work on {request.path!r}; use {methods}.",
            headers=(("Allow", methods),),
        )
    raise RequestError(404, "NOT_FOUND", f"There is nothing at {request.path!r}; check the path.")


def _resources(routes: Iterable[Route]) -> list[tuple[re.Pattern[str], dict[str, Route]]]:
    """What can stand at a path: its rows by method. A path without placeholders comes first."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route
    paths = sorted(by_path, key=lambda path: "{" in path)
    return [(_pattern(path), by_path[path]) for path in paths]


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


_RESOURCES = _resources(ROUTES)


def _state(snapshot: Snapshot, meter_id: str) -> MeterState:
    state = snapshot.meters.get(meter_id)
    if state is None:
        raise meter_not_found(meter_id)
    return state


def _changed_state(context: Context, meter: Meter) -> MeterState:
    """A meter after a change; it is stored, even where the cycle is late to take it over."""
    return context.service.snapshot().meters.get(meter.id) or MeterState(meter)
