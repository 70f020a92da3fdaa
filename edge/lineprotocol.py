"""Points for InfluxDB: readings and rollups as lines of its line protocol, times in ms.

A reading is a point of the measurement `meter_reading`, tagged with the meter it is from, with a
field for each value that it has. A rollup is a point of the same measurement and tags with a
further tag `resolution`, at the begin of its hour or day. What is suspect gives no point.

Meter and time are a point's key: sent twice, it is there once. Every number but a rollup's count
of samples is a float, also where it is whole: a field keeps the type that it had first.

A tag's value comes back as it was, but for what the servers read in different ways: a control
character becomes a space, and a backslash is left out at the end and before a comma, an equals
sign or a space.

Source: InfluxDB 1.6 and 2.x, "Line protocol reference"; their parser, `models/points.go`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite

from edge.model import QUANTITIES
from edge.record import Chunk, Resolution, Rollup, Series

MEASUREMENT = "meter_reading"


def _field(name: str, unit: str) -> str:
    words = re.sub(r"(?=[A-Z])", "_", name)
    return (f"{words}_{unit}" if unit else words).lower()


FIELDS: Mapping[str, str] = {
    quantity.name: _field(quantity.name, quantity.unit) for quantity in QUANTITIES
}
"""Quantity → its field, as `powerExport` → `power_export_kw`."""

_AMBIGUOUS = re.compile(r"\\+(?=[,= ]|$)")
_SPECIAL = re.compile(r"([,= ])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def points_of_chunk(chunk: Chunk) -> list[bytes]:
    """Give a point for each reading that has a value and is not suspect, in the chunk's order."""
    head = _head(chunk.series)
    columns = [
        _column(FIELDS[name], column) for name, column in chunk.values.items() if name in FIELDS
    ]
    fields = map(",".join, map(_present, zip(*columns, strict=True)))
    return (
        [
            f"{head} {text} {unix_ms}".encode()
            for text, unix_ms, suspect in zip(fields, chunk.unix_ms, chunk.suspect, strict=True)
            if text and not suspect
        ]
        if columns
        else []
    )


def point_of_rollup(rollup: Rollup) -> bytes:
    """Give the point of an hour or a day; what is unknown of it is absent."""
    values = {
        "power_kw": rollup.mean_kw,
        "power_min_kw": rollup.min_kw,
        "power_max_kw": rollup.max_kw,
        "energy_delta_kwh": rollup.energy_kwh,
        "energy_interpolated_kwh": None if rollup.energy_kwh is None else rollup.interpolated_kwh,
        "export_delta_kwh": rollup.export_kwh,
        "coverage": rollup.coverage,
    }
    fields = [text for name, value in values.items() for text in _column(name, [value]) if text]
    fields.append(f"samples={rollup.samples}i")
    head = _head(rollup.series, rollup.resolution)
    return f"{head} {','.join(fields)} {rollup.start_ms}".encode()


def _column(field: str, values: Sequence[float | None]) -> list[str]:
    """A field for each value; empty where there is none, or none that a server would take."""
    return [
        f"{field}={value!r}" if value is not None and isfinite(value) else "" for value in values
    ]


def _present(fields: tuple[str, ...]) -> Sequence[str]:
    return fields if all(fields) else [field for field in fields if field]


def _head(series: Series, resolution: Resolution | None = None) -> str:
    """Measurement and tags, sorted by key as servers like it best; empty values are left out."""
    tags = {
        "location": series.location,
        "meter_id": series.meter_id,
        "meter_name": series.name,
        "meter_type": series.meter_type,
        "protocol": series.protocol,
        "resolution": resolution.value if resolution else "",
        "site": series.site,
    }
    values = {key: _tag_value(text) for key, text in tags.items()}
    return ",".join([MEASUREMENT, *(f"{key}={text}" for key, text in values.items() if text)])


def _tag_value(text: str) -> str:
    text = _CONTROL.sub(" ", text).encode("utf-8", "replace").decode()
    return _SPECIAL.sub(r"\\\1", _AMBIGUOUS.sub("", text))
