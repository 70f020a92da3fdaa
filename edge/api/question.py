"""What a request for the history of a meter asks for: its query, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge.api import Request
from edge.api.query import TO, Query, QueryReader, moment, whole, words
from edge.errors import Fault
from edge.record import Resolution
from edge.steps import Grid
from edge.structure import shown
from edge.times import DAY_MS

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
"""Rows of one JSON page."""

_MAX_CSV_LIMIT = 10**9
_SPAN_MS = {
    Resolution.RAW: DAY_MS,
    Resolution.HOURLY: 31 * DAY_MS,
    Resolution.DAILY: 366 * DAY_MS,
}
"""How far back an answer goes when the request does not say."""
MIN_STEP_S = 10
MAX_STEP_S = 24 * 3600
LONGEST_STEPPED_MS = 31 * DAY_MS
"""What is reduced to steps within one answer."""

_CURSOR = re.compile(r"(-?[0-9]{1,15})(?:-([0-9]{1,18}))?")
_WRONG_CURSOR = "must be the `next` of an answer in the same resolution, as it was given"


def _parse_cursor(text: str) -> tuple[int, int | None]:
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise ValueError(f"{_WRONG_CURSOR}, not {shown(text)}")
    return int(match[1]), int(match[2]) if match[2] else None


_FROM = moment("from", "Where it begins; by default a day, a month or a year before the end.")
_RESOLUTION = words(
    "resolution",
    "Readings, or what hours or days come to.",
    [each.value for each in Resolution],
    default=Resolution.RAW.value,
)
_LIMIT = whole(
    "limit",
    f"The most rows: {DEFAULT_LIMIT:,} of JSON, and never more than {MAX_LIMIT:,}; of CSV all.",
    1,
    _MAX_CSV_LIMIT,
    default=None,
)
_PAGE_LIMIT = whole(_LIMIT.name, _LIMIT.about, 1, MAX_LIMIT, default=None)
"""What `limit` may be of JSON."""
_AFTER: Query[tuple[int, int | None] | None] = Query(
    "cursor",
    "Goes on behind a page: its `next`, as it was given.",
    {"type": "string", "pattern": f"^{_CURSOR.pattern}$"},
    _parse_cursor,
    None,
)
_FORMAT = words(
    "format", "`csv` is the same as `Accept: text/csv`, for links.", ["json", "csv"], default=None
)
_STEP = whole(
    "step",
    "Seconds: raw readings are reduced to steps of this length, for charts; JSON only.",
    MIN_STEP_S,
    MAX_STEP_S,
    default=None,
)
KEYS = (_FROM, TO, _RESOLUTION, _LIMIT, _AFTER, _FORMAT, _STEP)
"""The keys of the query of a history."""


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
    asked = QueryReader(request, KEYS)
    format_ = asked.value(_FORMAT)
    accepts_csv = "text/csv" in request.headers.get("accept", "").lower()
    as_csv = format_ == "csv" or (format_ is None and accepts_csv)
    resolution = Resolution(asked.value(_RESOLUTION))
    from_ms, to_ms = asked.span(_FROM, now_ms, _SPAN_MS[resolution])
    step_s = asked.value(_STEP)
    limit = asked.value(_LIMIT if as_csv else _PAGE_LIMIT)
    after = _after(asked, has_seq=resolution is Resolution.RAW and step_s is None)
    grid = None
    if step_s is not None:
        if as_csv or resolution is not Resolution.RAW:
            asked.faults.append(Fault(_STEP.name, "goes with resolution raw, as JSON, only"))
        if to_ms - from_ms > LONGEST_STEPPED_MS:
            why = f"must be at most 31 days before '{TO.name}' with a step"
            asked.faults.append(Fault(_FROM.name, why))
        grid = Grid.around(from_ms, to_ms, step_s * 1000)
    asked.check()
    if limit is None and not as_csv:
        limit = DEFAULT_LIMIT
    return Question(resolution, from_ms, to_ms, limit, after, as_csv, grid)


def _after(asked: QueryReader, *, has_seq: bool) -> tuple[int, int] | None:
    cursor = asked.value(_AFTER)
    if cursor is None:
        return None
    unix_ms, seq = cursor
    if (seq is not None) != has_seq:
        asked.faults.append(Fault(_AFTER.name, _WRONG_CURSOR))
    return unix_ms, seq or 0
