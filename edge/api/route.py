"""What a call of the API is made of: its row in the table, what it stands on, and its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from edge import render
from edge.api import Request, Response
from edge.api.history import HistoryAnswers
from edge.clock import Clock
from edge.errors import RequestError
from edge.library import Library
from edge.metrics import Metrics
from edge.model import Meter, Probe, Snapshot
from edge.record import Keeping
from edge.registry import Registry


class Access(Enum):
    """Who may make a call, where tokens are asked for."""

    PUBLIC = auto()
    """Everyone: it shows nothing of the site."""
    METRICS = auto()
    """Everyone where `api.metrics_public` says so, else as READER."""
    READER = auto()
    """Who has a token of either role."""
    ADMIN = auto()
    """Who has a token of the role `admin`."""


@dataclass(frozen=True)
class Service:
    """What the routes stand on.

    snapshot: gives the latest one. probe: questions a meter, registered or not; blocks for some
    seconds, raises RequestError. history: answers what was. keeping: how the journal and the sinks
    are. about: what `/api/system` says that never changes in a run. started_mono_s: when the
    service started.
    """

    snapshot: Callable[[], Snapshot]
    registry: Registry
    library: Library
    probe: Callable[[Meter], Probe]
    history: HistoryAnswers
    metrics: Metrics
    keeping: Callable[[], Keeping]
    clock: Clock
    about: Mapping[str, Any]
    started_mono_s: float


@dataclass(frozen=True)
class Context:
    """One request being answered. path: the values of the placeholders in the route's path."""

    service: Service
    request: Request
    snapshot: Snapshot
    path: Mapping[str, str]


@dataclass(frozen=True)
class Route:
    """One call.

    shared: its answer is the same for all who may ask within one snapshot. access: by default
    READER for GET and ADMIN for what changes something. always: answered while the control cycle
    stands still, too, since it tells nothing of the snapshot.
    """

    method: str
    path: str
    answer: Callable[[Context], Response]
    summary: str
    shared: bool = False
    access: Access | None = None
    always: bool = False

    @property
    def needs(self) -> Access:
        """Who may make the call."""
        if self.access is not None:
            return self.access
        return Access.READER if self.method == "GET" else Access.ADMIN


def answer(data: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Make an answer in the shape of a success."""
    return Response(status, render.dump(render.success(data)), headers=headers)


def json_body(request: Request) -> Any:
    """Give the JSON value of a body. Raises RequestError 400 MALFORMED_JSON."""
    try:
        return json.loads(
            request.body, parse_constant=_no_constant, object_pairs_hook=_object_of_unique_keys
        )
    except RecursionError:
        why = "it is nested too deeply"
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except ValueError as exc:
        why = str(exc)
    raise RequestError(400, "MALFORMED_JSON", f"The body is not valid JSON: {why}; fix it.")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _object_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice")
    return document
