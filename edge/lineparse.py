"""Readings from InfluxDB's line protocol, as `lineprotocol` writes it or a server exports it.

Times are milliseconds, or nanoseconds where the number is too large for that. What a line does not
say of a meter, its line protocol having no place for it, has the defaults of a CSV file without
those columns. Points of other measurements and rollups are no readings, and give faults.

Source: InfluxDB 1.6 and 2.x, "Line protocol reference".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from edge.csvtable import DEFAULT_STALE_AFTER_MS, Record
from edge.errors import Fault
from edge.lineprotocol import FIELDS, MEASUREMENT
from edge.model import METER_TYPES
from edge.record import Series
from edge.structure import nearest, shown

_PART = r"(?:[^,= \\]|\\[,= ]|\\(?![,= ]))+"
_LINE = re.compile(
    rf"(?P<measurement>{_PART.replace('=', '')})(?P<tags>(?:,{_PART}={_PART})*)"
    r" +(?P<fields>[^ ]+) +(?P<time>-?\d{1,19}) *"
)
_TAG = re.compile(rf",({_PART})=({_PART})")
_ESCAPED = re.compile(r"\\([,= ])")
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[iu]?")
_QUANTITIES = {field: name for name, field in FIELDS.items()}
_NANOSECONDS_FROM = 10**17
"""As milliseconds, this is in the year three million."""
_LAST_MS = 253_402_300_800_000


def parse(lines: Iterable[str]) -> Iterator[Record | Fault]:
    """Read points, line by line; one that does not fit gives a fault that names its line."""
    for number, line in enumerate(lines, start=1):
        text = line.strip("\r\n")
        if not text or text.startswith("#"):
            continue
        try:
            yield parse_point(text)
        except ValueError as error:
            yield Fault(f"line {number}", str(error))


def parse_point(line: str) -> Record:
    """Read one point. Raises ValueError with a sentence."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"is no point like {MEASUREMENT},tag=… field=1.0 1760954400000")
    if match["measurement"] != MEASUREMENT:
        raise ValueError(f"is of {shown(match['measurement'])}, not {MEASUREMENT!r}")
    unix_ms = int(match["time"])
    if unix_ms >= _NANOSECONDS_FROM:
        unix_ms //= 1_000_000
    if not 0 <= unix_ms < _LAST_MS:
        raise ValueError("is of a time before 1970 or after 9999")
    return Record(_series(match["tags"]), unix_ms, _values(match["fields"]))


def _values(fields: str) -> Mapping[str, float]:
    values = {}
    for field in fields.split(","):
        name, _, text = field.partition("=")
        if name not in _QUANTITIES:
            raise ValueError(f"has no quantity {shown(name)}{nearest(name, _QUANTITIES)}")
        number = _NUMBER.fullmatch(text)
        value = float(number[1]) if number else math.inf
        if not math.isfinite(value):
            raise ValueError(f"{name}: must be a number like 12.5, not {shown(text)}")
        values[_QUANTITIES[name]] = value
    return values


@lru_cache(maxsize=64)
def _series(tags: str) -> Series:
    named = {_unescaped(key): _unescaped(value) for key, value in _TAG.findall(tags)}
    meter_id, meter_type = named.get("meter_id", ""), named.get("meter_type", "zone")
    if not meter_id:
        raise ValueError("has no tag meter_id")
    if "resolution" in named:
        raise ValueError(f"is {named['resolution']}; only readings can be taken")
    if meter_type not in METER_TYPES:
        raise ValueError(f"meter_type: must be {' | '.join(METER_TYPES)}, not {shown(meter_type)}")
    if not all(value.isprintable() and len(value) <= 255 for value in named.values()):
        raise ValueError("has a tag that is not printable or longer than 255 characters")
    return Series(
        *(named.get("site", "site"), meter_id, named.get("meter_name", meter_id)),
        *(named.get("location", ""), meter_type, named.get("protocol", "")),
        DEFAULT_STALE_AFTER_MS,
    )


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
