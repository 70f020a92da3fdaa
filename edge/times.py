"""Times as people write them, and back: RFC 3339 and unix milliseconds. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from edge.structure import shown

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
YEAR_10000_MS = 253_402_300_800_000
"""The first unix ms that RFC 3339 has no words for."""

ALL_TIMES = range(YEAR_10000_MS)
"""Unix ms that a file may have."""
YEAR_2000_MS = 946_684_800_000

_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:([Zz])|([+ -])(\d\d):?(\d\d))"
)
_DIGITS = re.compile(r"\d{1,15}")
_SECONDS = range(1, 100_000_000_000)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def parse_time(text: str) -> int:
    """Read RFC 3339, with any offset, or unix milliseconds; gives unix ms, rounded down.

    The `+` of an offset may be a space: that is what it becomes in a query that was not encoded.
    Raises ValueError with a sentence.
    """
    if _DIGITS.fullmatch(text):
        if int(text) in _SECONDS:
            raise ValueError(f"is in 1970 to 1973; give unix time in milliseconds, not {text}")
        return min(int(text), YEAR_10000_MS)
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise ValueError(
            "must be a time with an offset like 2025-10-20T10:30:00Z or "
            f"2025-10-20T12:30:00+02:00, or unix milliseconds, not {shown(text)}"
        )
    *moment, fraction, _, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        year, month, day, hour, minute, second = map(int, moment)
        begin = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError as error:
        raise ValueError(f"is no time that exists: {error}") from None
    since_epoch = begin - _EPOCH
    utc = since_epoch + offset if sign == "-" else since_epoch - offset
    return utc // timedelta(milliseconds=1) + int((fraction or "0")[:3].ljust(3, "0"))


def check_time(unix_ms: int, times: range) -> int:
    """Give the time as it is. times: unix ms. Raises ValueError with a sentence if outside."""
    if unix_ms not in times:
        raise ValueError(
            f"must be a time from {timestamp(times.start)} to {timestamp(times.stop - 1)}"
        )
    return unix_ms


def timestamp(unix_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds. unix_ms: before the year 10000."""
    hour, ms = divmod(unix_ms, HOUR_MS)
    minute, ms = divmod(ms, 60_000)
    return f"{_hour(hour)}{minute:02d}:{ms // 1000:02d}.{ms % 1000:03d}Z"


def moment(unix_ms: int, zone: tzinfo) -> datetime:
    """Give what calendar and clock of a zone show. unix_ms: before the year 10000.

    Unlike `datetime.fromtimestamp` it knows times after January 2038 where the machine's time_t
    has 32 bits, as it has on 32-bit Arm up to Debian 12.
    """
    return (_EPOCH + timedelta(milliseconds=unix_ms)).astimezone(zone)


@lru_cache(maxsize=64)
def _hour(hour: int) -> str:
    """The begin of a text, which is the same for all of an hour's readings."""
    begin = _EPOCH + timedelta(hours=hour)
    return f"{begin:%Y-%m-%dT%H}:".rjust(14, "0")
