"""Readings as they are committed: those of all meters since the last commit, as one payload. Pure.

It is written every few seconds and replaced by sealed blocks an hour later, so it has to be quick
and to fit a database page. Everything is kept exactly: JSON writes the shortest decimal number that
is read back as the same float64, and integers are used only where they give every value back.

A payload; numbers are little-endian:

    4 bytes    CRC-32 of all that follows
    1 byte     format, 1
    the rest   a raw deflate stream (RFC 1951) that begins with the preset dictionary `_DICTIONARY`:
               lines of text that end with a line feed each

The first line is a JSON list: the first sequence number, the first unix ms, and a list of tables
`{quantity: digits, …}`. Each further line is a part: the number of its series, a space, and a JSON
list of

    which table it follows, its count of readings, 1 if all of them are suspect or else 0,
    their sequence numbers, then their unix ms: the first less the payload's first, each other less
    its predecessor,
    the values of the table's first quantity, of the second, and so on: as integers, value ×
    10^digits, each but the first less its predecessor; or as they are where digits is null.

So the readings of one series are found without taking the others apart.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from typing import Any

from edge.block import decimals
from edge.record import Chunk, Series

Row = tuple[int, int, int, bool, Mapping[str, float]]
"""Sequence number, series, unix ms, suspect, values."""
KeptRow = tuple[int, int, int, bool, dict[str, float]]
_Table = dict[str, "int | None"]
"""Quantity → digits."""

_FORMAT = b"\x01"
_CRC = struct.Struct("<I")
_RAW_DEFLATE = -15
_LEVEL = 6
_DICTIONARY = (
    b'"reactivePower":3,"apparentPower":3,"powerExport":3,"powerL1":3,"powerL2":3,"powerL3":3,'
    b'"voltageL1":1,"voltageL2":1,"voltageL3":1,"currentL1":2,"currentL2":2,"currentL3":2,'
    b'0,0,0,-1]\n,[{"power":3,"voltage":1,"current":2,"powerFactor":3,"frequency":2,"energy":2,'
    b'"energyExport":3}]]\n1 [0,2,0,0,10,0,5000,4999,5001,'
)
"""What texts are made of; a part of the format."""


class BadBatch(ValueError):
    """A payload that is damaged, or not of this format; what was found."""


_OF_A_WRONG_FORMAT = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, zlib.error,
)  # fmt: skip
"""What taking apart a payload raises whose checksum fits and whose content does not."""


def encode_batch(rows: Sequence[Row]) -> bytes:
    """Write rows, in order of their sequence numbers, as one payload.

    Raises ValueError when there are none.
    """
    if not rows:
        raise ValueError("a batch without a reading")
    first_seq, _, first_ms, _, _ = rows[0]
    tables: dict[tuple[str, ...], list[Row]] = {}
    parts: dict[tuple[int, bool, tuple[str, ...]], list[Row]] = {}
    for row in rows:
        names = tuple(row[4])
        tables.setdefault(names, []).append(row)
        parts.setdefault((row[1], row[3], names), []).append(row)
    digits = {names: _digits(names, some) for names, some in tables.items()}
    places = {names: place for place, names in enumerate(tables)}
    lines = [_json([first_seq, first_ms, list(digits.values())])]
    for (series, suspect, names), part in parts.items():
        numbers: list[float] = [places[names], len(part), int(suspect)]
        numbers += _steps([row[0] for row in part], first_seq)
        numbers += _steps([row[2] for row in part], first_ms)
        for name, exponent in digits[names].items():
            values = [row[4][name] for row in part]
            numbers += values if exponent is None else _steps(_integers(values, exponent))
        lines.append(f"{series} {_json(numbers)}")
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW_DEFLATE, zdict=_DICTIONARY)
    text = "".join(f"{line}\n" for line in lines).encode()
    body = _FORMAT + deflate.compress(text) + deflate.flush()
    return _CRC.pack(zlib.crc32(body)) + body


def decode_batch(payload: bytes, only: int | None = None) -> list[KeptRow]:
    """Give the rows back, in order of their sequence numbers. only: those of one series.

    Raises BadBatch for anything but an undamaged payload.
    """
    body = payload[_CRC.size :]
    if payload[: _CRC.size] != _CRC.pack(zlib.crc32(body)) or body[:1] != _FORMAT:
        raise BadBatch("the checksum or the format is wrong")
    try:
        return _decode_body(body[1:], only)
    except _OF_A_WRONG_FORMAT as error:
        raise BadBatch(f"it does not follow its format: {error}") from error


def to_chunks(rows: Iterable[Row], series: Mapping[int, Series], era: int) -> list[Chunk]:
    """Put rows of one era, in order of sequence, into columns: a chunk per series.

    Series come in the order of their first rows. Raises KeyError for a series that is not known.
    """
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(row[1], []).append(row)
    return [_chunk(series[number], era, part) for number, part in parts.items()]


def _chunk(series: Series, era: int, rows: Sequence[Row]) -> Chunk:
    names = dict.fromkeys(name for row in rows for name in row[4])
    return Chunk(
        series,
        era,
        [row[0] for row in rows],
        [row[2] for row in rows],
        {name: [row[4].get(name) for row in rows] for name in names},
        [row[3] for row in rows],
    )


def _decode_body(body: bytes, only: int | None) -> list[KeptRow]:
    inflate = zlib.decompressobj(_RAW_DEFLATE, _DICTIONARY)
    text = inflate.decompress(body).decode()
    if not inflate.eof or inflate.unused_data:
        raise ValueError("its length is wrong")
    end = text.index("\n")
    first_seq, first_ms, tables = json.loads(text[:end])
    rows: list[KeptRow] = []
    for line in text[end + 1 :].splitlines() if only is None else _lines_of(only, text):
        rows += _rows(line, first_seq, first_ms, tables)
    rows.sort(key=lambda row: row[0])
    return rows


def _lines_of(series: int, text: str) -> Iterator[str]:
    lead = f"\n{series} "
    start = text.find(lead)
    while start >= 0:
        end = text.index("\n", start + 1)
        yield text[start + 1 : end]
        start = text.find(lead, end)


def _rows(line: str, first_seq: int, first_ms: int, tables: list[_Table]) -> Iterator[KeptRow]:
    series, _, listed = line.partition(" ")
    place, count, suspect, *numbers = json.loads(listed)
    seqs, times, *columns = [numbers[i : i + count] for i in range(0, len(numbers), count)]
    table = tables[place]
    values = map(_values, columns, table.values())
    if len(columns) != len(table):
        raise ValueError("a part has another number of columns than its table")
    seqs[0] += first_seq
    times[0] += first_ms
    rows = [dict(zip(table, row, strict=True)) for row in zip(*values, strict=True)]
    return zip(
        accumulate(seqs),
        repeat(int(series)),
        accumulate(times),
        repeat(bool(suspect)),
        rows or [{} for _ in seqs],
    )


def _values(column: list[float], digits: int | None) -> list[float]:
    if digits is None:
        return column
    power = 10**digits
    return [integer / power for integer in accumulate(column)]


def _digits(names: Sequence[str], rows: Sequence[Row]) -> _Table:
    found = {name: decimals([row[4][name] for row in rows]) for name in names}
    return {name: None if column is None else column[0] for name, column in found.items()}


def _integers(values: Sequence[float], exponent: int) -> list[int]:
    power = 10**exponent
    return [round(value * power) for value in values]


def _steps(numbers: Sequence[int], before: int = 0) -> list[int]:
    """Give the first number less the one before, then each less its predecessor."""
    return [b - a for a, b in pairwise((before, *numbers))]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
