"""The REST API: a table of routes, and the functions behind them.

A function takes the service and a request and gives the document of its answer; failures are
raised. What is read comes from one snapshot, rendered once and shared by all who ask for it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from edge import render
from edge.api import Request, Response
from edge.api.route import Access, Context, Route, Service, answer, json_body
from edge.diagnosis import diagnose
from edge.errors import ConfigError, RequestError, StateError
from edge.load import building_consumption
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
    what = error.source or "The device library"
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


# --- The service itself --------------------------------------------------------------------------


def show_system(context: Context) -> Response:
    """Show the service's own health."""
    service = context.service
    return answer(
        render.system(context.snapshot, service.keeping(), service.about, service.started_mono_s)
    )


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


ROUTES: tuple[Route, ...] = (
    Route("POST", "/api/energy-meters", register_meter, "register a meter"),
    Route("GET", "/api/energy-meters", list_meters, "list the meters", shared=True),
    Route(
        "GET",
        "/api/energy-meters/consumption/building",
        show_building_consumption,
        "sum of the grid and building meters",
        shared=True,
    ),
    Route("GET", "/api/energy-meters/{id}", show_meter, "a meter and how it is read", shared=True),
    Route(
        "GET", "/api/energy-meters/{id}/reading", show_reading, "its current reading", shared=True
    ),
    Route(
        "GET",
        "/api/energy-meters/{id}/history",
        show_history,
        "its readings, hours or days; JSON or CSV",
    ),
    Route("PUT", "/api/energy-meters/{id}", update_meter, "change a meter"),
    Route("DELETE", "/api/energy-meters/{id}", remove_meter, "remove a meter"),
    Route("POST", "/api/energy-meters/test", try_meter, "what a registration would read now"),
    Route("GET", "/api/templates", list_templates, "the device library"),
    Route("GET", "/api/templates/{name}", show_template, "a device template"),
    Route("GET", "/api/load/status", show_load_status, "power free for charging", shared=True),
    Route("GET", "/api/system", show_system, "the service's own health", shared=True),
    Route("GET", "/healthz", show_health, "liveness", access=Access.PUBLIC),
    Route("GET", "/readyz", show_readiness, "readiness", access=Access.PUBLIC),
    Route(
        "GET",
        "/metrics",
        show_metrics,
        "Prometheus and OpenMetrics",
        shared=True,
        access=Access.METRICS,
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
    allowed = []
    for route, pattern in _PATTERNS:
        match = pattern.fullmatch(request.path)
        if match is None:
            continue
        if route.method == request.method:
            return route, match.groupdict()
        allowed.append(route.method)
        if route.method == "GET":
            allowed.append("HEAD")
    if not allowed:
        raise RequestError(
            404, "NOT_FOUND", f"There is nothing at {request.path!r}; check the path."
        )
    methods = ", ".join(sorted(set(allowed)))
    raise RequestError(
        405,
        "METHOD_NOT_ALLOWED",
        f"{request.method} does not work on {request.path!r}; use {methods}.",
        headers=(("Allow", methods),),
    )


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


_PATTERNS = [(route, _pattern(route.path)) for route in ROUTES]


def _state(snapshot: Snapshot, meter_id: str) -> MeterState:
    state = snapshot.meters.get(meter_id)
    if state is None:
        raise meter_not_found(meter_id)
    return state


def _changed_state(context: Context, meter: Meter) -> MeterState:
    """A meter after a change; it is stored, even where the cycle is late to take it over."""
    return context.service.snapshot().meters.get(meter.id) or MeterState(meter)
