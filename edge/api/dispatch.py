"""Which call a request is for, and its answer: rendered once for all who ask for the same."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping

from edge import render
from edge.api import Access, Request, Response
from edge.api.calls import wants_openmetrics
from edge.api.documents import answer
from edge.api.route import Context, Route, Service
from edge.api.routes import ROUTES
from edge.errors import RequestError, StateError
from edge.model import Snapshot

ALIVE_WITHIN_S = 2.0
"""The cycle counts as alive while its last tick is not older than this.

Beyond it nothing of the snapshot is told: its values would look as fresh as they were then.
"""

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
            return _response(route, context)
        # One thread renders and the others wait for it: sixty at once would starve the cycle.
        with self._render_lock:
            response = self._ready(snapshot, request) or _response(route, context)
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


def _response(route: Route, context: Context) -> Response:
    """Make the call; a document becomes the `data` of a success."""
    given = route.answer(context)
    return given if isinstance(given, Response) else answer(given)


def _shared_key(request: Request) -> _SharedKey:
    return request.path, wants_openmetrics(request)


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
