"""Journals for tests that read them, written row by row and without the writer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edge.batch import encode_batch, to_chunks
from edge.block import encode_block
from edge.journal.database import NEW_META
from edge.journal.rows import BlockRow, columns_of_rollup, columns_of_series
from edge.journal.schema import FILE_NAME, SCHEMA, connect, put_row, with_crc
from edge.record import Chunk, EnergySource, Resolution, Rollup, Series

HOUR_MS = 3_600_000
START_MS = 1_760_954_400_000
"""2025-10-20T10:00:00Z."""

Row = tuple[int, int, Mapping[str, float]]
"""Sequence number, unix ms, values."""


def a_series(meter_id: str = "meter_1", **changes: object) -> Series:
    """A series of a meter, with all that does not matter filled in."""
    series = Series("cellar", meter_id, "Main", "Basement", "grid", "modbus", 10_000)
    return replace(series, **changes)  # type: ignore[arg-type]


def a_rollup(
    start_ms: int = START_MS, resolution: Resolution = Resolution.HOURLY, **changes: object
) -> Rollup:
    """An hour or a day of a meter."""
    length_ms = HOUR_MS if resolution is Resolution.HOURLY else 24 * HOUR_MS
    rollup = Rollup(
        *(a_series(), resolution, start_ms, length_ms, 1.5, -0.25, 3.0, 1.4),
        *(EnergySource.COUNTER, 0.1, None, 720, length_ms * 9 // 10),
    )
    return replace(rollup, **changes)  # type: ignore[arg-type]


def values_at(number: int) -> dict[str, float]:
    """Seven quantities of a believable meter, all different for each number."""
    return {
        "power": (number * 7919 % 10_000) / 1000,
        "energy": number / 100,
        "energyExport": number / 1000,
        "voltage": 230 + number % 70 / 10,
        "current": number * 31 % 3000 / 100,
        "powerFactor": 0.9 + number % 100 / 1000,
        "frequency": 49.9 + number % 20 / 100,
    }


class WrittenJournal:
    """A journal's database, to be filled; a context manager that closes it.

    folder: where `journal.db` is made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self.database = connect(self.path)
        self.database.execute("PRAGMA page_size = 512")
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.executescript(SCHEMA)
        self._sealed_seq = NEW_META["sealed_seq"]
        for row in NEW_META.items():
            self._keep(*row)
        self._series: dict[Series, int] = {}
        self._changes = 0
        self._blocks = 0
        self._commits = 0

    def __enter__(self) -> WrittenJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def add_era(self, era: int, *, trusted: bool = True) -> None:
        """Write an era, if it is not there."""
        row = with_crc((era, "boot", 0, trusted))
        self.database.execute("INSERT OR IGNORE INTO era VALUES (?, ?, ?, ?, ?)", row)

    def number_of(self, series: Series) -> int:
        """The id of a series, which is new if need be."""
        if series not in self._series:
            self._series[series] = len(self._series) + 1
            put_row(self.database, "series", columns_of_series(self._series[series], series))
        return self._series[series]

    def add_block(self, series: Series, rows: Sequence[Row], era: int = 1) -> int:
        """Seal readings, in order of sequence, and all that came before them; gives the id."""
        number = self.number_of(series)
        self.add_era(era)
        (chunk,) = to_chunks(
            [(seq, 0, ms, False, values) for seq, ms, values in rows], {0: series}, era
        )
        seqs, times = (chunk.seqs[0], chunk.seqs[-1]), (chunk.unix_ms[0], chunk.unix_ms[-1])
        self._blocks += 1
        row = BlockRow(self._blocks, number, era, *seqs, *times, len(chunk), encode_block(chunk))
        put_row(self.database, "block", row)
        self._sealed_seq = max(self._sealed_seq, seqs[1] + 1)
        self._keep("sealed_seq", self._sealed_seq)
        self._keep("rolled_block", self._blocks)
        return self._blocks

    def add_tail(
        self, rows: Sequence[tuple[Series, Row]], era: int = 1, suspect: bool = False
    ) -> None:
        """Commit readings, in order of sequence."""
        self.add_era(era)
        batch = [
            (seq, self.number_of(series), unix_ms, suspect, values)
            for series, (seq, unix_ms, values) in rows
        ]
        self._commits += 1
        row = (self._commits, batch[0][0], len(batch), era, encode_batch(batch))
        put_row(self.database, "tail", row)

    def add_rollup(self, rollup: Rollup) -> None:
        """Write an hour or a day."""
        self._changes += 1
        columns = columns_of_rollup(rollup, self.number_of(rollup.series), self._changes)
        put_row(self.database, "rollup", columns)

    def _keep(self, key: str, value: int) -> None:
        put_row(self.database, "meta", (key, value))


def readings_of(chunk: Chunk) -> Iterator[tuple[str, int, int, str]]:
    """Meter's name, sequence number, unix ms and values of each reading; to compare."""
    for index, (seq, unix_ms) in enumerate(zip(chunk.seqs, chunk.unix_ms, strict=True)):
        values = {
            name: column[index]
            for name, column in chunk.values.items()
            if column[index] is not None
        }
        yield chunk.series.name, seq, unix_ms, json.dumps(values, sort_keys=True)
