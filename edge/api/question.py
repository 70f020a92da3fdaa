"""What a request about the past asks for: its query, checked, every fault of it at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from edge.api import Request
from edge.api.description import Query
from edge.errors import Fault, RequestError
from edge.logs import RECENT_LINES
from edge.record import Resolution
from edge.steps import Grid
from edge.structure import nearest, shown, unknown_keys
from edge.times import HOUR_MS, parse_time

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
"""Rows of one JSON page."""

_MAX_CSV_LIMIT = 10**9
_SPAN_MS = {
    Resolution.RAW: 24 * HOUR_MS,
    Resolution.HOURLY: 31 * 24 * HOUR_MS,
    Resolution.DAILY: 366 * 24 * HOUR_MS,
}
"""How far back an answer goes when the request does not say."""
MIN_STEP_S = 10
MAX_STEP_S = 24 * 3600
LONGEST_STEPPED_MS = 31 * 24 * HOUR_MS
"""What is reduced to steps within one answer."""

TIME: Mapping[str, Any] = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "integer", "minimum": 0, "description": "unix time, ms"},
    ]
}
"""JSON Schema of a time in a query."""
FORMATS = ("json", "csv")
KEYS = (
    Query("from", "Where it begins; by default a day, a month or a year before the end.", TIME),
    Query("to", "Where it ends, by default now; not part of it.", TIME),
    Query(
        "resolution",
        "Readings, or what hours or days come to.",
        {"type": "string", "enum": [each.value for each in Resolution], "default": "raw"},
    ),
    Query(
        "limit",
        f"The most rows: {DEFAULT_LIMIT:,} of JSON, and never more than {MAX_LIMIT:,}; of CSV all.",
        {"type": "integer", "minimum": 1, "maximum": _MAX_CSV_LIMIT},
    ),
    Query(
        "cursor",
        "Goes on behind a page: its `next`, as it was given.",
        {"type": "string", "pattern": "^-?[0-9]{1,15}(-[0-9]{1,18})?$"},
    ),
    Query(
        "format",
        "`csv` is the same as `Accept: text/csv`, for links.",
        {"type": "string", "enum": list(FORMATS)},
    ),
    Query(
        "step",
        "Seconds: raw readings are reduced to steps of this length, for charts; JSON only.",
        {"type": "integer", "minimum": MIN_STEP_S, "maximum": MAX_STEP_S},
    ),
)
"""The keys of the query of a history."""

USUAL_LOG_LINES = 200
LOG_KEYS = (
    Query(
        "lines",
        "How many.",
        {"type": "integer", "minimum": 1, "maximum": RECENT_LINES, "default": USUAL_LOG_LINES},
    ),
)
ALERT_KEYS = (Query("active", "Only what holds now.", {"type": "boolean", "default": False}),)

_Value = TypeVar("_Value")
_CURSOR = re.compile(r"(-?\d{1,15})(?:-(\d{1,18}))?")


class Asked:
    """The query of one request; collects what is wrong with it.

    keys: those that the call knows. What is given as nothing (`?limit=`) is not given.
    """

    def __init__(self, request: Request, keys: tuple[Query, ...]) -> None:
        names = [key.name for key in keys]
        unknown = [name for name in request.query if name not in names]
        self.faults = list(unknown_keys(unknown, names))
        self._query = {name: value for name, value in request.query.items() if value}

    def value(self, name: str, parse: Callable[[str], _Value]) -> _Value | None:
        """Read one; None where it is not given or faulty. parse: raises ValueError."""
        if name in self._query:
            try:
                return parse(self._query[name])
            except ValueError as error:
                self.faults.append(Fault(name, str(error)))
        return None

    def span(self, now_ms: int, default_ms: int) -> tuple[int, int]:
        """Read `from` and `to`, unix ms; by default the last default_ms until now."""
        to_ms = self.value("to", parse_time)
        from_ms = self.value("from", parse_time)
        if to_ms is None:
            to_ms = now_ms + 1
        if from_ms is None:
            from_ms = to_ms - default_ms
        if from_ms > to_ms and not self.faults:
            self.faults.append(Fault("from", "must not be later than 'to'"))
        return from_ms, to_ms

    def check(self) -> None:
        """Raise RequestError 400 with all faults, if there are any."""
        if self.faults:
            message = "The query has faults; correct what `details` lists."
            raise RequestError(400, "VALIDATION_ERROR", message, self.faults)


@dataclass(frozen=True)
class Question:
    """A checked request for the history of a meter.

    limit: the most rows, None for all. after: (unix_ms, seq) of the last row that the client has;
    of hours, days and steps, the seq is 0. grid: the steps that raw readings are reduced to.
    """

    resolution: Resolution
    from_ms: int
    to_ms: int
    limit: int | None
    after: tuple[int, int] | None
    as_csv: bool
    grid: Grid | None = None


def parse_query(request: Request, now_ms: int) -> Question:
    """Check what is asked for. Raises RequestError 400 with all faults at once."""
    asked = Asked(request, KEYS)
    format_ = asked.value("format", lambda text: _one_of(text, FORMATS))
    accepts_csv = "text/csv" in request.headers.get("accept", "").lower()
    as_csv = format_ == "csv" or (format_ is None and accepts_csv)
    resolution = asked.value("resolution", _resolution) or Resolution.RAW
    from_ms, to_ms = asked.span(now_ms, _SPAN_MS[resolution])
    step_s = asked.value("step", lambda text: whole_number(text, MIN_STEP_S, MAX_STEP_S))
    most = _MAX_CSV_LIMIT if as_csv else MAX_LIMIT
    limit = asked.value("limit", lambda text: whole_number(text, 1, most))
    has_seq = resolution is Resolution.RAW and step_s is None
    after = asked.value("cursor", lambda text: _cursor(text, has_seq=has_seq))
    grid = None
    if step_s is not None:
        if as_csv or resolution is not Resolution.RAW:
            asked.faults.append(Fault("step", "goes with resolution raw, as JSON, only"))
        if to_ms - from_ms > LONGEST_STEPPED_MS:
            asked.faults.append(Fault("from", "must be at most 31 days before 'to' with a step"))
        grid = Grid.around(from_ms, to_ms, step_s * 1000)
    asked.check()
    if limit is None and not as_csv:
        limit = DEFAULT_LIMIT
    return Question(resolution, from_ms, to_ms, limit, after, as_csv, grid)


def _resolution(text: str) -> Resolution:
    return Resolution(_one_of(text, [resolution.value for resolution in Resolution]))


def _one_of(text: str, words: Sequence[str]) -> str:
    """Read one of some words. Raises ValueError with a sentence."""
    if text not in words:
        raise ValueError(f"must be {' | '.join(words)}, not {shown(text)}{nearest(text, words)}")
    return text


def flag(text: str) -> bool:
    """Read `true` or `false`. Raises ValueError with a sentence."""
    if text not in ("true", "false"):
        raise ValueError(f"must be true or false, not {shown(text)}")
    return text == "true"


def whole_number(text: str, least: int, most: int) -> int:
    """Read a whole number. Raises ValueError with a sentence."""
    if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most):
        raise ValueError(f"must be a whole number from {least:,} to {most:,}, not {shown(text)}")
    return int(text)


def _cursor(text: str, *, has_seq: bool) -> tuple[int, int]:
    match = _CURSOR.fullmatch(text)
    if match is None or (match[2] is not None) != has_seq:
        raise ValueError(
            "must be the `next` of an answer in the same resolution, as it was given, not "
            f"{shown(text)}"
        )
    return int(match[1]), int(match[2] or 0)
