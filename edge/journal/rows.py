"""Rows of the journal's tables, and what they say: made, and checked when they are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple
from itertools import groupby
from typing import Any, NamedTuple

from edge.batch import KeptRow, decode_batch, encode_batch
from edge.batch import Row as BatchRow
from edge.block import decode_block
from edge.era import Era
from edge.errors import JournalError
from edge.journal.schema import is_sound
from edge.record import Chunk, EnergySource, Resolution, Rollup, Series

HOUR_MS = 3_600_000
MOST_READINGS = 1000
"""In one row of the tail."""


class Damaged(JournalError):
    """The database holds what nobody wrote: it is to be set aside, and salvaged."""

    def __init__(self, what: str) -> None:
        super().__init__(f"database disk image is malformed: {what}")


class Pending(NamedTuple):
    """Readings of one era and one hour UTC, encoded for the tail. seq: of the first of `length`."""

    seq: int
    length: int
    era: int
    hour: int
    payload: bytes


class TailRow(NamedTuple):
    """A row of `tail`, without its checksum."""

    slot: int
    seq: int
    length: int
    era: int
    payload: bytes

    def readings(self) -> list[KeptRow]:
        """Decode it; nothing if it is damaged."""
        try:
            return list(decode_batch(self.payload))
        except (ValueError, TypeError):
            return []


class BlockRow(NamedTuple):
    """A row of `block`, without its checksum."""

    id: int
    series: int
    era: int
    first_seq: int
    last_seq: int
    from_ms: int
    to_ms: int
    length: int
    data: bytes

    def chunk(
        self, series: Mapping[int, Series], only: Collection[str] | None = None
    ) -> Chunk | None:
        """Decode it; None if it is damaged, or its series is not known.

        only: the quantities that are wanted; None is all.
        """
        try:
            return decode_block(self.data, series[self.series], self.era, self.from_ms, only)
        except (ValueError, TypeError, KeyError):
            return None


def tail_rows(readings: Sequence[BatchRow], era: int) -> list[Pending]:
    """Encode readings of an era, in order of sequence, as rows that no hour's end divides."""
    rows = []
    for hour, run in groupby(readings, key=lambda reading: reading[2] // HOUR_MS):
        readings_of_hour = list(run)
        for start in range(0, len(readings_of_hour), MOST_READINGS):
            part = readings_of_hour[start : start + MOST_READINGS]
            rows.append(Pending(part[0][0], len(part), era, hour, encode_batch(part)))
    return rows


# --- What `SELECT *` gives ---


def tail_row(row: Sequence[Any]) -> TailRow | None:
    """Give a row of `tail`; None if it is damaged."""
    return TailRow(*row[:-1]) if is_sound(row) else None


def block_row(row: Sequence[Any]) -> BlockRow | None:
    """Give a row of `block`; None if it is damaged."""
    return BlockRow(*row[:-1]) if is_sound(row) else None


def series_of_row(row: Sequence[Any]) -> Series:
    """Make a series of a row of its table. Raises Damaged."""
    _need_sound("series", row)
    return Series(*row[1:-1])


def era_of_row(row: Sequence[Any]) -> Era:
    """Make an era of a row of its table. Raises Damaged."""
    _need_sound("era", row)
    id_, boot, offset_ms, trusted, _ = row
    return Era(id_, boot, offset_ms, bool(trusted))


def number_of_row(row: Sequence[Any] | None) -> int:
    """Give the number of a row of `meta`; each has to be there. Raises Damaged."""
    if row is None:
        raise Damaged("a row of meta is gone")
    _need_sound("meta", row)
    return int(whole(row[1:2])[0])


def columns_of_rollup(rollup: Rollup, series: int, change: int) -> tuple[Any, ...]:
    """Give the columns of a row of `rollup`. series: its id."""
    return (
        *(rollup.series.meter_id, rollup.resolution.value, rollup.start_ms, rollup.length_ms),
        series,
        *(rollup.mean_kw, rollup.min_kw, rollup.max_kw, rollup.energy_kwh),
        None if rollup.energy_source is None else rollup.energy_source.value,
        *(rollup.interpolated_kwh, rollup.export_kwh, rollup.samples, rollup.covered_ms),
        change,
    )


def rollup_of_row(row: Sequence[Any], series: Mapping[int, Series]) -> tuple[int, Rollup] | None:
    """Give a rollup and its change; None if it is damaged, or its series is not known."""
    if not is_sound(row) or row[4] not in series:
        return None
    _, resolution, start_ms, length_ms, id_, mean, low, high, energy, source, *rest, change, _ = row
    return change, Rollup(
        series[id_],
        Resolution(resolution),
        *(start_ms, length_ms, mean, low, high, energy),
        None if source is None else EnergySource(source),
        *rest,
    )


def whole(row: Sequence[Any]) -> Sequence[Any]:
    """Give a row back; raises Damaged unless all of it is whole numbers as we write them."""
    if not all(type(value) is int and abs(value) < 1 << 62 for value in row):
        raise Damaged("not a number")
    return row


def columns_of_series(id_: int, series: Series) -> tuple[Any, ...]:
    """Give the columns of a row of `series`."""
    return (id_, *astuple(series))


def lenient_text(data: bytes) -> str:
    """Make text of a text column, whatever stands there; for sqlite3's text_factory."""
    return str(data, "utf-8", "replace")


def _need_sound(table: str, row: Sequence[Any]) -> None:
    if not is_sound(row):
        raise Damaged(f"a row of {table} is not what was written")
