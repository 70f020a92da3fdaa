"""Readings and rollups as CSV (RFC 4180, UTF-8, one header row), and back without loss.

A row says all about its reading, so the files of several meters may be joined. Times are RFC 3339
with milliseconds in UTC; numbers have as many digits as it takes to give back the same number;
an empty cell is an unknown value. Quantities are named as in the line protocol:

    raw      timestamp, the meter, a column for each quantity, quality (good | suspect)
    rollups  start, end, resolution (hourly | daily), the meter, power, energy, samples, coverage

A file that is read may leave out any column but the time, meter_id, and resolution of rollups,
and may have its columns in any order.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from edge.errors import Fault, Faulty
from edge.lineprotocol import FIELDS
from edge.model import METER_TYPES
from edge.record import Chunk, EnergySource, Resolution, Rollup, Series
from edge.structure import nearest, shown, unknown_keys
from edge.times import ALL_TIMES, HOUR_MS, check_time, parse_time, timestamp

DEFAULT_STALE_AFTER_MS = 60_000
"""Of a meter that a file says nothing more about."""

SERIES_COLUMNS = ("meter_id", "meter_name", "location", "meter_type", "protocol", "site")
"""The words that a file may say of a meter."""
_REGISTERED_COLUMNS = ("stale_after_ms", "max_power_kw", "counter_kwh")
_ROLLUP_COLUMNS = (
    "power_kw",
    "power_min_kw",
    "power_max_kw",
    "energy_delta_kwh",
    "energy_source",
    "energy_interpolated_kwh",
    "export_delta_kwh",
    "samples",
    "coverage",
)
RAW_COLUMNS = (
    *("timestamp", *SERIES_COLUMNS, *FIELDS.values(), "quality"),
    *_REGISTERED_COLUMNS,
)
ROLLUP_COLUMNS = (
    *("start", "end", "resolution", *SERIES_COLUMNS, *_ROLLUP_COLUMNS),
    *_REGISTERED_COLUMNS,
)


@dataclass(frozen=True)
class Record:
    """One reading as a file has it; it gets its place in the sequence when it is recorded."""

    series: Series
    unix_ms: int
    values: Mapping[str, float]
    suspect: bool = False


def chunk_of(records: Sequence[Record]) -> Chunk:
    """Put records of one series into columns; era and sequence are not known and 0."""
    names = dict.fromkeys(name for record in records for name in record.values)
    return Chunk(
        records[0].series,
        0,
        [0] * len(records),
        [record.unix_ms for record in records],
        {name: [record.values.get(name) for record in records] for name in names},
        [record.suspect for record in records],
    )


# --- To text -------------------------------------------------------------------------------------


def header(resolution: Resolution) -> str:
    """The first line."""
    return _line(RAW_COLUMNS if resolution is Resolution.RAW else ROLLUP_COLUMNS)


def chunk_rows(chunk: Chunk) -> list[str]:
    """The lines of a chunk of readings."""
    about, registered = _series_cells(chunk.series)
    ends = (f",good,{registered}", f",suspect,{registered}")
    empty = [""] * len(chunk)
    columns = [
        list(map(_cell, chunk.values[name])) if name in chunk.values else empty for name in FIELDS
    ]
    rows = zip(chunk.unix_ms, chunk.suspect, zip(*columns, strict=True), strict=True)
    return [
        f"{timestamp(unix_ms)},{about},{','.join(cells)}{ends[suspect]}"
        for unix_ms, suspect, cells in rows
    ]


def rollup_row(rollup: Rollup) -> str:
    """The line of an hour or a day."""
    about, registered = _series_cells(rollup.series)
    cells = (
        *(_cell(rollup.mean_kw), _cell(rollup.min_kw), _cell(rollup.max_kw)),
        _cell(rollup.energy_kwh),
        rollup.energy_source.value if rollup.energy_source else "",
        *(_cell(rollup.interpolated_kwh), _cell(rollup.export_kwh)),
        *(str(rollup.samples), _cell(rollup.coverage)),
    )
    span = f"{timestamp(rollup.start_ms)},{timestamp(rollup.start_ms + rollup.length_ms)}"
    return f"{span},{rollup.resolution.value},{about},{','.join(cells)},{registered}"


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


@lru_cache(maxsize=64)
def _series_cells(series: Series) -> tuple[str, str]:
    about = (
        *(series.meter_id, series.name, series.location),
        *(series.meter_type, series.protocol, series.site),
    )
    registered = f"{series.stale_after_ms},{_cell(series.max_power_kw)},{_cell(series.counter_kwh)}"
    return _line(about), registered


def _line(cells: Sequence[str]) -> str:
    written: list[str] = []
    csv.writer(_Lines(written.append), lineterminator="").writerow(cells)
    return written[0]


@dataclass(frozen=True)
class _Lines:
    write: Callable[[str], object]


# --- From text -----------------------------------------------------------------------------------

_MOST_DIGITS = 64
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_DIGITS = re.compile(r"\d{1,15}")


def parse(lines: Iterable[str], times: range = ALL_TIMES) -> Iterator[Record | Rollup | Fault]:
    """Read a table, row by row; a row that does not fit gives a fault that names its line.

    times: unix ms that readings may have. Raises Faulty, before the first row is given, if the
    header does not fit.
    """
    reader = csv.reader(lines, strict=True)
    columns = _parse_header(next(_rows(reader), []))
    parse_row = _parse_rollup if "start" in columns else partial(_parse_record, times)
    return _parsed(reader, columns, parse_row)


def _parsed(
    reader: Any, columns: Sequence[str], parse_row: Callable[[Mapping[str, str]], Record | Rollup]
) -> Iterator[Record | Rollup | Fault]:
    for row in _rows(reader):
        if isinstance(row, list) and len(row) == len(columns):
            try:
                yield parse_row(dict(zip(columns, row, strict=True)))
                continue
            except ValueError as error:
                why = str(error)
        elif isinstance(row, list):
            why = f"has {len(row)} cells where the header has {len(columns)}"
        else:
            why = f"is no CSV: {row}"
        yield Fault(f"line {reader.line_num}", why)


def _rows(reader: Any) -> Iterator[list[str] | csv.Error]:
    """The rows that are not empty; the error in place of one that is no CSV."""
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield error
            continue
        if row:
            yield row


def _parse_header(row: list[str] | csv.Error) -> list[str]:
    if isinstance(row, csv.Error):
        raise Faulty([Fault("line 1", f"is no CSV: {row}")])
    columns = [cell.strip().removeprefix("\ufeff") for cell in row]
    known = ROLLUP_COLUMNS if "start" in columns else RAW_COLUMNS
    needed = ("start", "end", "resolution") if "start" in columns else ("timestamp",)
    faults = [
        Fault(f"line 1, {name}", "is missing; it has to be a column")
        for name in (*needed, "meter_id")
        if name not in columns
    ]
    faults += unknown_keys([name for name in columns if name not in known], known, "line 1")
    faults += [
        Fault(f"line 1, {name}", "is there twice") for name in known if columns.count(name) > 1
    ]
    if faults:
        raise Faulty(faults)
    return columns


def _parse_record(times: range, row: Mapping[str, str]) -> Record:
    values = {}
    for name, column in FIELDS.items():
        value = _number(row, column)
        if value is not None:
            values[name] = value
    if not values:
        raise ValueError("has no value")
    suspect = _one_of(row, "quality", ("good", "suspect"), "good") == "suspect"
    unix_ms = _time(row, "timestamp", times)
    return Record(_parse_series(row), unix_ms, values, suspect)


def _parse_rollup(row: Mapping[str, str]) -> Rollup:
    start_ms = _time(row, "start")
    length_ms = _time(row, "end") - start_ms
    if not 0 < length_ms <= 49 * HOUR_MS:
        raise ValueError("end: must be an hour or a day after start")
    sources = tuple(source.value for source in EnergySource)
    source = _one_of(row, "energy_source", sources, "")
    coverage = _number(row, "coverage") or 0.0
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage: must be 0 to 1, not {coverage}")
    return Rollup(
        _parse_series(row),
        Resolution(_one_of(row, "resolution", ("hourly", "daily"))),
        start_ms,
        length_ms,
        mean_kw=_number(row, "power_kw"),
        min_kw=_number(row, "power_min_kw"),
        max_kw=_number(row, "power_max_kw"),
        energy_kwh=_number(row, "energy_delta_kwh"),
        energy_source=EnergySource(source) if source else None,
        interpolated_kwh=_number(row, "energy_interpolated_kwh") or 0.0,
        export_kwh=_number(row, "export_delta_kwh"),
        samples=_count(row, "samples", 0),
        covered_ms=round(coverage * length_ms),
    )


def _parse_series(row: Mapping[str, str]) -> Series:
    return made_series(
        tuple(row.get(name, "") for name in SERIES_COLUMNS),
        _count(row, "stale_after_ms", DEFAULT_STALE_AFTER_MS),
        _number(row, "max_power_kw"),
        _number(row, "counter_kwh"),
    )


@lru_cache(maxsize=64)
def made_series(
    words: tuple[str, ...],
    stale_after_ms: int = DEFAULT_STALE_AFTER_MS,
    max_power_kw: float | None = None,
    counter_kwh: float | None = None,
) -> Series:
    """Make a series of what a file says; words: by SERIES_COLUMNS, empty where it says nothing.

    Raises ValueError with a sentence.
    """
    meter_id, name, location, meter_type, protocol, site = words
    for column, word in zip(SERIES_COLUMNS, words, strict=True):
        if not word.isprintable() or len(word) > 255:
            raise ValueError(f"{column}: must be at most 255 printable characters")
    if not meter_id:
        raise ValueError("meter_id: must not be empty")
    meter_type = _one_of({"meter_type": meter_type}, "meter_type", METER_TYPES, "zone")
    return Series(
        *(site or "site", meter_id, name or meter_id, location, meter_type, protocol),
        *(stale_after_ms, max_power_kw, counter_kwh),
    )


def _time(row: Mapping[str, str], column: str, times: range = ALL_TIMES) -> int:
    try:
        return check_time(parse_time(row[column]), times)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None


def _number(row: Mapping[str, str], column: str) -> float | None:
    cell = row.get(column, "")
    if not cell:
        return None
    try:
        return parse_number(cell)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None


def parse_number(text: str) -> float:
    """Read a decimal number. Raises ValueError with a sentence."""
    value = float(text) if len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text) else math.inf
    if not math.isfinite(value):
        raise ValueError(f"must be a number like 12.5, not {shown(text)}")
    return value


def _count(row: Mapping[str, str], column: str, default: int) -> int:
    cell = row.get(column, "")
    if cell and not _DIGITS.fullmatch(cell):
        raise ValueError(f"{column}: must be a whole number like 60, not {shown(cell)}")
    return int(cell) if cell else default


def _one_of(
    row: Mapping[str, str], column: str, choices: Sequence[str], default: str | None = None
) -> str:
    """Read a word; default: what an empty cell means, if it may be empty."""
    word = row.get(column, "")
    if not word and default is not None:
        return default
    if word not in choices:
        wanted, hint = " | ".join(choices), nearest(word, choices)
        raise ValueError(f"{column}: must be {wanted}, not {shown(word)}{hint}")
    return word
