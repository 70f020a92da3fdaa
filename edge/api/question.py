"""What a request for history asks for, checked: its query in a Question."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edge.api import Request
from edge.errors import Fault, RequestError
from edge.record import Resolution
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
_KEYS = ("from", "to", "resolution", "limit", "cursor")
_CURSOR = re.compile(r"(-?\d{1,15})(?:-(\d{1,18}))?")


@dataclass(frozen=True)
class Question:
    """A checked request.

    limit: the most rows, None for all. after: (unix_ms, seq) of the last row that the client has;
    of hours and days, the seq is 0.
    """

    resolution: Resolution
    from_ms: int
    to_ms: int
    limit: int | None
    after: tuple[int, int] | None
    as_csv: bool


def parse_query(request: Request, now_ms: int) -> Question:
    """Check what is asked for. Raises RequestError 400 with all faults at once."""
    query = {name: value for name, value in request.query.items() if value}
    faults = list(unknown_keys([name for name in request.query if name not in _KEYS], _KEYS))
    as_csv = "text/csv" in request.headers.get("accept", "").lower()
    resolution = _parsed(query, "resolution", faults, _resolution) or Resolution.RAW
    to_ms = _parsed(query, "to", faults, parse_time)
    from_ms = _parsed(query, "from", faults, parse_time)
    limit = _parsed(query, "limit", faults, lambda text: _limit(text, as_csv))
    after = _parsed(query, "cursor", faults, lambda text: _cursor(text, resolution))
    if to_ms is None:
        to_ms = now_ms + 1
    if from_ms is None:
        from_ms = to_ms - _SPAN_MS[resolution]
    if from_ms > to_ms and not faults:
        faults.append(Fault("from", "must not be later than 'to'"))
    if faults:
        raise RequestError(
            400, "VALIDATION_ERROR", "The query has faults; correct what `details` lists.", faults
        )
    if limit is None and not as_csv:
        limit = DEFAULT_LIMIT
    return Question(resolution, from_ms, to_ms, limit, after, as_csv)


def _parsed(
    query: Mapping[str, str], name: str, faults: list[Fault], parse: Callable[[str], Any]
) -> Any:
    if name in query:
        try:
            return parse(query[name])
        except ValueError as error:
            faults.append(Fault(name, str(error)))
    return None


def _resolution(text: str) -> Resolution:
    with suppress(ValueError):
        return Resolution(text)
    words = [resolution.value for resolution in Resolution]
    raise ValueError(f"must be {' | '.join(words)}, not {shown(text)}{nearest(text, words)}")


def _limit(text: str, as_csv: bool) -> int:
    most = _MAX_CSV_LIMIT if as_csv else MAX_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 1 <= int(text) <= most):
        raise ValueError(f"must be a whole number from 1 to {most:,}, not {shown(text)}")
    return int(text)


def _cursor(text: str, resolution: Resolution) -> tuple[int, int]:
    match = _CURSOR.fullmatch(text)
    if match is None or (match[2] is not None) != (resolution is Resolution.RAW):
        raise ValueError(
            "must be the `next` of an answer in the same resolution, as it was given, not "
            f"{shown(text)}"
        )
    return int(match[1]), int(match[2] or 0)
