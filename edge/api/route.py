"""What a call of the API is made of: its row in the table, and what it stands on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from edge.alerts import Alert
from edge.api import Access, Request, Response
from edge.api.analytics import AnalyticsAnswers
from edge.api.door import Door
from edge.api.history import HistoryAnswers
from edge.api.live import Live
from edge.api.query import Query
from edge.clock import Clock
from edge.disk import DiskSpace
from edge.library import Library
from edge.metrics import Metrics
from edge.model import Meter, Probe, Snapshot
from edge.record import Keeping
from edge.registry import Registry


@dataclass(frozen=True)
class Service:
    """What the routes stand on.

    snapshot: gives the latest one. probe: questions a meter, registered or not; blocks for some
    seconds, raises RequestError. history: answers what was. keeping: how the journal and the sinks
    are. alerts: those that hold, then those that ended. analytics: answers what was of the site as
    a whole. live: pushes news. log_lines: gives that many of the last lines of the log, the newest
    last. door: who may ask. disk: where the state folder is; None while unknown. versions: of what
    runs here, in words. about: what `/api/system` says that never changes in a run.
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
    disk: Callable[[], DiskSpace | None]
    versions: str
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

    answer: gives the document that is the `data` of a success, or a whole Response where it is
    more than that. shared: its answer is the same for all who may ask within one snapshot. access:
    by default READER for GET and ADMIN for what changes something. always: answered while the
    control cycle stands still, too, since it tells nothing of the snapshot.

    The rest says how the call is described: gives: the shape of `data` in a Response; paged: with
    `next` beside it; media: the types of answers that are not JSON; statuses: of answers that are
    no refusals; takes: the class of the body's keys, of which PUT takes a merge patch; query: its
    keys; refuses: the codes of the call's own refusals.
    """

    method: str
    path: str
    answer: Callable[[Context], Any]
    shared: bool = False
    access: Access | None = None
    always: bool = False
    gives: Any = None
    paged: bool = False
    media: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)
    takes: type | None = None
    query: tuple[Query[Any], ...] = ()
    refuses: tuple[str, ...] = ()

    @property
    def needs(self) -> Access:
        """Who may make the call."""
        if self.access is not None:
            return self.access
        return Access.READER if self.method == "GET" else Access.ADMIN

    @property
    def shape(self) -> Any:
        """The type of `data`: what `answer` says that it returns; None where there is no such."""
        returned = get_type_hints(self.answer, include_extras=True)["return"]
        return self.gives if returned is Response else returned

    @property
    def description(self) -> str:
        """What the call is for."""
        return inspect.getdoc(self.answer) or ""

    @property
    def summary(self) -> str:
        """The first line of that, without its full stop."""
        return self.description.partition("\n")[0].removesuffix(".")
