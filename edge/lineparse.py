"""Readings from InfluxDB's line protocol, as `lineprotocol` writes it or a server exports it.

Times are milliseconds, or nanoseconds where the number is too large for that. What a line does not
say of a meter, its line protocol having no place for it, has the defaults of a CSV file without
those columns. Points of other measurements and rollups are no readings, and give faults.

Source: InfluxDB 1.6 and 2.x, "Line protocol reference".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from edge.csvtable import SERIES_COLUMNS, Record, made_series, parse_number
from edge.errors import Fault
from edge.lineprotocol import FIELDS, MEASUREMENT
from edge.record import Series
from edge.structure import nearest, shown
from edge.times import ALL_TIMES, check_time

_PART = r"(?:[^,= \\]|\\[,= ]|\\(?![,= ]))+"
_LINE = re.compile(
    rf"(?P<measurement>{_PART.replace('=', '')})(?P<tags>(?:,{_PART}={_PART})*)"
    r" +(?P<fields>[^ ]+) +(?P<time>-?\d{1,19}) *"
)
_TAG = re.compile(rf",({_PART})=({_PART})")
_ESCAPED = re.compile(r"\\([,= ])")
_QUANTITIES = {field: name for name, field in FIELDS.items()}
_MOST_CHARACTERS = 10_000
_NANOSECONDS_FROM = 10**17
"""As milliseconds, this is in the year three million."""


def parse(lines: Iterable[str], times: range = ALL_TIMES) -> Iterator[Record | Fault]:
    """Read points, line by line; one that does not fit gives a fault that names its line.

    times: unix ms that they may have.
    """
    for number, line in enumerate(lines, start=1):
        text = line.strip("\r\n")
        if not text or text.startswith("#"):
            continue
        try:
            yield parse_point(text, times)
        except ValueError as error:
            yield Fault(f"line {number}", str(error))


def parse_point(line: str, times: range = ALL_TIMES) -> Record:
    """Read one point. times: unix ms that it may have. Raises ValueError with a sentence."""
    if len(line) > _MOST_CHARACTERS:
        raise ValueError(f"is longer than {_MOST_CHARACTERS:,} characters")
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"is no point like {MEASUREMENT},tag=… field=1.0 1760954400000")
    if match["measurement"] != MEASUREMENT:
        raise ValueError(f"is of {shown(match['measurement'])}, not {MEASUREMENT!r}")
    unix_ms = int(match["time"])
    if unix_ms >= _NANOSECONDS_FROM:
        unix_ms //= 1_000_000
    return Record(_series(match["tags"]), check_time(unix_ms, times), _values(match["fields"]))


def _values(fields: str) -> Mapping[str, float]:
    values = {}
    for field in fields.split(","):
        name, _, text = field.partition("=")
        if name not in _QUANTITIES:
            raise ValueError(f"has no quantity {shown(name)}{nearest(name, _QUANTITIES)}")
        try:  # an integer has an `i` or `u` at its end
            values[_QUANTITIES[name]] = parse_number(text[:-1] if text[-1:] in "iu" else text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return values


@lru_cache(maxsize=64)
def _series(tags: str) -> Series:
    named = {_unescaped(key): _unescaped(value) for key, value in _TAG.findall(tags)}
    if "meter_id" not in named:
        raise ValueError("has no tag meter_id")
    if "resolution" in named:
        raise ValueError(f"is {named['resolution']}; only readings can be taken")
    return made_series(tuple(named.get(name, "") for name in SERIES_COLUMNS))


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
