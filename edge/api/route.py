"""What a call of the API is made of: its row in the table, what it stands on, and its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from edge import render
from edge.alerts import Alert
from edge.api import Request, Response
from edge.api.analytics import AnalyticsAnswers
from edge.api.description import Query
from edge.api.history import HistoryAnswers
from edge.api.live import Live
from edge.clock import Clock
from edge.errors import RequestError
from edge.library import Library
from edge.metrics import Metrics
from edge.model import Meter, Probe, Snapshot
from edge.record import Keeping
from edge.registry import Registry
from edge.structure import shown

if TYPE_CHECKING:
    from edge.api.door import Door  # which stands on what is here


_MOST_DIGITS = 400
"""Of a whole number: as a float it could not be finite beyond. Longer ones cost time to read."""


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
    are. alerts: those that hold, then those that ended. analytics: answers what was of the site as
    a whole. live: pushes news. log_lines: gives that many of the last lines of the log, the newest
    last. door: who may ask. about: what `/api/system` says that never changes in a run.
    started_mono_s: when the service started.
    """

    snapshot: Callable[[], Snapshot]
    registry: Registry
    library: Library
    probe: Callable[[Meter], Probe]
    history: HistoryAnswers
    metrics: Metrics
    keeping: Callable[[], Keeping]
    alerts: Callable[[], Sequence[Alert]]
    analytics: AnalyticsAnswers
    live: Live
    log_lines: Callable[[int], list[str]]
    door: Door
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

    The rest says how the call is described: gives: the shape of `data`; paged: with `next` beside
    it; media: the types of answers that are not JSON; statuses: of answers that are no refusals;
    takes: the class of the body's keys, of which PUT takes a merge patch; query: its keys;
    refuses: the codes of the call's own refusals.
    """

    method: str
    path: str
    answer: Callable[[Context], Response]
    summary: str
    shared: bool = False
    access: Access | None = None
    always: bool = False
    gives: Any = None
    paged: bool = False
    media: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)
    takes: type | None = None
    query: tuple[Query, ...] = ()
    refuses: tuple[str, ...] = ()

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
            request.body,
            parse_constant=_no_constant,
            parse_int=_number,
            object_pairs_hook=_object_of_unique_keys,
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


def _number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has more than {_MOST_DIGITS} digits")
    return int(digits)


def _object_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise ValueError(f"the key {shown(name)} appears twice")
        document[name] = value
    return document
