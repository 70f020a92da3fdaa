"""Times as people write them: read with any offset, and written so that they come back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.times import YEAR_10000_MS, moment, parse_time, timestamp

LAST_MS = YEAR_10000_MS - 1
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.tuples(st.integers(10**12, LAST_MS - 10**8), OFFSETS)


@given(st.integers(0, LAST_MS))
def test_a_timestamp_comes_back(unix_ms: int) -> None:
    assert parse_time(timestamp(unix_ms)) == unix_ms
    whole = datetime(1970, 1, 1) + timedelta(seconds=unix_ms // 1000)  # noqa: DTZ001
    expected = f"{whole.isoformat()}.{unix_ms % 1000:03d}Z"
    assert timestamp(unix_ms) == expected


@given(st.integers(0, LAST_MS - 1))
def test_timestamps_sort_like_the_times(unix_ms: int) -> None:
    assert timestamp(unix_ms + 1) > timestamp(unix_ms)


def test_the_clock_may_start_in_1970() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"


def test_the_last_moment_that_has_a_name() -> None:
    assert timestamp(LAST_MS) == "9999-12-31T23:59:59.999Z"
    assert parse_time(f"{YEAR_10000_MS + 1}") == YEAR_10000_MS


@given(MOMENTS)
def test_any_offset_is_understood(given_: tuple[int, timezone]) -> None:
    unix_ms, zone = given_
    shown = moment(unix_ms // 1000 * 1000, zone).isoformat()
    assert parse_time(shown) == unix_ms // 1000 * 1000
    assert parse_time(shown.replace("+", " ")) == unix_ms // 1000 * 1000


@pytest.mark.parametrize(
    ("unix_ms", "shown"),
    [
        (0, "1970-01-01T01:00:00+01:00"),
        (1_000_000_000_000, "2001-09-09T03:46:40+02:00"),
        # From January 2038 on, 32 bits do not hold the seconds since 1970.
        (2**31 * 1000, "2038-01-19T04:14:08+01:00"),
        (2_200_000_000_000, "2039-09-19T01:06:40+02:00"),
    ],
)
def test_a_moment_is_what_the_clocks_of_a_zone_show(unix_ms: int, shown: str) -> None:
    assert moment(unix_ms, ZoneInfo("Europe/Berlin")).isoformat() == shown


def test_milliseconds_are_taken_and_seconds_are_not() -> None:
    assert parse_time("1760954400000") == 1_760_954_400_000
    assert parse_time("0") == 0
    with pytest.raises(ValueError, match="milliseconds"):
        parse_time("1760954400")
