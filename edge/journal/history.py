"""Reading the journal: raw readings in order of time or of sequence, and rollups.

Sealing moves readings from the tail into blocks while somebody reads. So the tail and the list of
blocks are taken in one short read transaction, and the blocks are fetched one by one after it: a
reader that waits for a slow client holds up neither checkpoints nor the retention. A block that is
gone by then was deleted for its age or for room, and is skipped.

Nothing that stands in the file is trusted to be whole: a row with a wrong checksum, and one whose
series or era is lost, is skipped and counted, and the rest is given. What a damaged index leads to
twice, or out of order, is given once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edge.batch import decode_batch, to_chunks
from edge.era import Era
from edge.errors import JournalError
from edge.journal.damage import is_damage
from edge.journal.merge import Part, between, given, merged
from edge.journal.rows import (
    Damaged,
    TailRow,
    block_row,
    era_of_row,
    lenient_text,
    number_of_row,
    rollup_of_row,
    series_of_row,
    tail_row,
)
from edge.journal.schema import connect
from edge.record import Chunk, Resolution, Rollup, Series

_LONGEST_BLOCK_MS = 2 * 3_600_000
"""No block is longer, even one whose clock was corrected."""
_WINDOW = 10_000
"""Sequence numbers that `since` gives series by series, before it begins with the next ones."""
_KEPT_READINGS = 20_000
"""Readings of decoded blocks that are kept for the next window."""
_ROLLUPS_AT_A_TIME = 500

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Seen:
    """What holds for the whole database at one moment."""

    series: dict[int, Series]
    eras: dict[int, Era]
    sealed_seq: int

    def of_meter(self, meter_id: str) -> _Seen:
        """The same with the series of one meter only."""
        series = {number: one for number, one in self.series.items() if one.meter_id == meter_id}
        return _Seen(series, self.eras, self.sealed_seq)

    def trusted(self, era: int) -> bool:
        """Whether the readings of an era were taken when they say."""
        return era in self.eras and self.eras[era].trusted


class History:
    """Queries over one read-only connection; a context manager, for one thread.

    path: the journal's database. report_damage: told when SQLite finds the file damaged as such,
    or cannot read it.
    damaged: blocks, commits and rollups that were skipped because they cannot be read.
    Every call raises JournalError when the database cannot be read, and may wait for some seconds
    for it. What is iterated over is read as it goes, in memory for some thousand readings.
    """

    def __init__(self, path: Path, report_damage: Callable[[str], None] | None = None) -> None:
        self.damaged = 0
        self._report_damage = report_damage
        self._kept: dict[tuple[int, int], Chunk] = {}
        try:
            self._connection = connect(path, read_only=True)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._connection.text_factory = lenient_text

    def close(self) -> None:
        """End the connection; what is being iterated over ends with an error."""
        self._connection.close()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- What can be asked for -------------------------------------------------------------------

    def series(self) -> list[Series]:
        """Give all series, in the order in which they were first recorded."""
        return list(self._series().values())

    def raw(
        self, meter_id: str, from_ms: int, to_ms: int, after: tuple[int, int] | None = None
    ) -> Iterator[Chunk]:
        """Give the readings of a meter in from_ms <= unix_ms < to_ms, by (unix_ms, seq).

        All series of the meter are merged; a chunk ends where another series or era goes on.
        after: the (unix_ms, seq) of the last reading that was given before; only later ones come.
        """
        low, high = (from_ms, 0), (to_ms, 0)
        if after is not None:
            low = max(low, (after[0], after[1] + 1))
        parts: list[Part] = []
        with self._one_moment():
            seen = self._seen().of_meter(meter_id)
            for number in seen.series:
                listed = self._listed(
                    "SELECT id, from_ms FROM block "
                    "WHERE series = ? AND from_ms > ? AND from_ms < ?",
                    *(number, low[0] - _LONGEST_BLOCK_MS, to_ms),
                )
                parts += (
                    Part(begin_ms, partial(self._block, seen, block, begin_ms))
                    for block, begin_ms in listed
                )
            tail = self._tail(seen, 0)
        parts += self._tail_parts(tail, seen)
        parts.sort(key=lambda part: part.from_ms)
        yield from merged(parts, low, high)

    def rollups(
        self,
        meter_id: str,
        resolution: Resolution,
        from_ms: int,
        to_ms: int,
        after_ms: int | None = None,
    ) -> Iterator[Rollup]:
        """Give the hours or days of a meter that begin in from_ms <= start < to_ms, in order.

        after_ms: the start of the last one that was given before; only later ones come.
        """
        last_ms = from_ms - 1 if after_ms is None else max(from_ms - 1, after_ms)
        series = self._series()
        while True:
            rows = self._query(
                "SELECT * FROM rollup WHERE meter_id = ? AND resolution = ? AND start_ms > ? "
                "AND start_ms < ? ORDER BY start_ms LIMIT ?",
                *(meter_id, resolution.value, last_ms, to_ms, _ROLLUPS_AT_A_TIME),
            )
            begin_ms = last_ms
            for _, rollup in self._checked_rollups(rows, series):
                asked = rollup.series.meter_id == meter_id and rollup.resolution is resolution
                if asked and last_ms < rollup.start_ms < to_ms:
                    last_ms = rollup.start_ms
                    yield rollup
            if len(rows) < _ROLLUPS_AT_A_TIME or last_ms == begin_ms:
                return

    def rollups_since(self, change: int, limit: int) -> list[tuple[int, Rollup]]:
        """Give rollups, each with its change, that are new or recomputed after `change`."""
        rows = self._query(
            "SELECT * FROM rollup WHERE change > ? ORDER BY change LIMIT ?", change, limit
        )
        found = dict(self._checked_rollups(rows, self._series()))
        return sorted((one for one in found.items() if one[0] > change), key=lambda one: one[0])

    def since(self, from_seq: int, to_seq: int) -> Iterator[tuple[Chunk, int]]:
        """Give the readings in from_seq <= seq < to_seq, oldest first, each series in order.

        Those are left out whose clock was never set, since nobody knows when they were taken.
        With each chunk comes the sequence number below which all is given once that chunk is
        done. It moves in steps of some thousand, because blocks of several series run side by
        side. When all was iterated over, everything below to_seq is given.
        """
        blocks: list[_Listed] = []
        with self._one_moment():
            seen = self._seen()
            if from_seq < seen.sealed_seq:
                blocks = self._listed(
                    "SELECT id, from_ms, first_seq, last_seq FROM block "
                    "WHERE last_seq >= ? AND first_seq < ? "
                    "AND era IN (SELECT id FROM era WHERE trusted)",
                    *(from_seq, to_seq),
                )
            tail = [row for row in self._tail(seen, from_seq, to_seq) if seen.trusted(row.era)]
        yield from self._blocks_since(blocks, seen, from_seq, min(to_seq, seen.sealed_seq))
        yield from self._tail_since(tail, seen, from_seq, to_seq)

    # --- The parts that an answer is made of -----------------------------------------------------

    def _tail_parts(self, tail: Sequence[TailRow], seen: _Seen) -> Iterator[Part]:
        """The readings of some series that are in the tail; one part for each series and era."""
        of_era: dict[int, list[Any]] = {}
        for row in tail:
            readings = of_era.setdefault(row.era, [])
            for number in seen.series:
                readings += self._batch(row, number)
        for era, readings in of_era.items():
            for chunk in to_chunks(readings, seen.series, era):
                yield given(chunk)

    def _blocks_since(
        self,
        blocks: Sequence[_Listed],
        seen: _Seen,
        from_seq: int,
        to_seq: int,
    ) -> Iterator[tuple[Chunk, int]]:
        """Go through blocks window by window; in each one, series by series."""
        waiting = sorted(blocks, key=lambda block: block[2])
        position = from_seq
        while waiting:
            begin = max(position, waiting[0][2])
            position = min(begin + _WINDOW, to_seq)
            chunks = []
            for number, from_ms, first_seq, _ in waiting:
                if first_seq >= position:
                    break
                chunk = self._kept_block(seen, number, from_ms)
                if chunk is not None:
                    chunks.append(between(chunk, begin, position))
            yield from _with_place([chunk for chunk in chunks if len(chunk)], begin, position)
            waiting = [block for block in waiting if block[3] >= position and position < to_seq]

    def _tail_since(
        self, tail: Sequence[TailRow], seen: _Seen, from_seq: int, to_seq: int
    ) -> Iterator[tuple[Chunk, int]]:
        """Go through the tail; small commits of one era are put together."""
        readings: list[Any] = []
        for number, row in enumerate(tail):
            batch = [one for one in self._batch(row) if from_seq <= one[0] < to_seq]
            readings += (one for one in batch if one[1] in seen.series)
            ends_era = number + 1 == len(tail) or tail[number + 1].era != row.era
            if readings and (ends_era or len(readings) >= _WINDOW):
                chunks = to_chunks(readings, seen.series, row.era)
                yield from _with_place(chunks, readings[0][0], readings[-1][0] + 1)
                readings = []

    # --- Single things, checked ------------------------------------------------------------------

    def _block(self, seen: _Seen, number: int, from_ms: int) -> Chunk | None:
        """Read a block; None if it is damaged, deleted, or its clock was corrected meanwhile."""
        rows = self._query("SELECT * FROM block WHERE id = ? AND from_ms = ?", number, from_ms)
        for row in rows:
            block = block_row(row)
            chunk = block.chunk(seen.series) if block and block.era in seen.eras else None
            if chunk is not None:
                return chunk
            self.damaged += 1
        return None

    def _listed(self, statement: str, *values: object) -> list[Any]:
        """List blocks: of each its id, and other numbers. What they say is checked later."""
        rows = self._query(statement, *values)
        numbers = (row for row in rows if all(type(column) is int for column in row))
        return list({row[0]: row for row in numbers}.values())

    def _kept_block(self, seen: _Seen, number: int, from_ms: int) -> Chunk | None:
        """The same; kept for a while, since the next window may need the rest of it."""
        key = number, from_ms
        chunk = self._kept.get(key) or self._block(seen, number, from_ms)
        if chunk is not None and key not in self._kept:
            if sum(map(len, self._kept.values())) + len(chunk) > _KEPT_READINGS:
                self._kept.clear()
            self._kept[key] = chunk
        return chunk

    def _batch(self, row: TailRow, only: int | None = None) -> list[Any]:
        try:
            return list(decode_batch(row.payload, only))
        except (ValueError, TypeError):
            self.damaged += 1
            return []

    def _tail(self, seen: _Seen, from_seq: int, to_seq: int = 2**63 - 1) -> list[TailRow]:
        """The rows of the tail that are in use and may hold readings of the range, in order."""
        rows = self._query(
            "SELECT * FROM tail WHERE seq >= ? AND seq + count > ? AND seq < ? ORDER BY seq",
            *(seen.sealed_seq, from_seq, to_seq),
        )
        found: list[TailRow] = []
        for columns in rows:
            row = tail_row(columns)
            if row is None or row.era not in seen.eras:
                self.damaged += 1
            elif not found or row.seq >= found[-1].seq + found[-1].length:
                found.append(row)
        return found

    def _checked_rollups(
        self, rows: Iterable[Sequence[Any]], series: dict[int, Series]
    ) -> Iterator[tuple[int, Rollup]]:
        for row in rows:
            rollup = rollup_of_row(row, series)
            if rollup is None:
                self.damaged += 1
            else:
                yield rollup

    def _seen(self) -> _Seen:
        rows = self._query("SELECT * FROM meta WHERE key = 'sealed_seq'")
        try:
            sealed_seq = number_of_row(rows[0] if rows else None)
        except Damaged as error:
            raise self._failure(error) from error
        eras = self._checked("SELECT * FROM era", era_of_row)
        return _Seen(self._series(), eras, sealed_seq)

    def _series(self) -> dict[int, Series]:
        return self._checked("SELECT * FROM series ORDER BY id", series_of_row)

    def _checked(self, query: str, made: Callable[[Sequence[Any]], _T]) -> dict[int, _T]:
        """Read a small table that others hang on; what is damaged of it is reported as well."""
        found: dict[int, _T] = {}
        for row in self._query(query):
            try:
                found[row[0]] = made(row)
            except Damaged as error:
                self.damaged += 1
                self._report(error)
        return found

    # --- The connection --------------------------------------------------------------------------

    @contextmanager
    def _one_moment(self) -> Iterator[None]:
        """See the database as it is at one moment; to be short."""
        self._query("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._query("COMMIT")

    def _query(self, statement: str, *values: object) -> list[Any]:
        try:
            rows: list[Any] = self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._failure(error) from error
        return rows

    def _failure(self, error: Exception) -> JournalError:
        if is_damage(error) or "I/O" in str(error):
            self._report(error)
        return JournalError(f"The journal cannot be read ({error}); ask again in a minute.")

    def _report(self, error: Exception) -> None:
        if self._report_damage:
            self._report_damage(str(error))


_Listed = tuple[int, int, int, int]
"""A block's id, from_ms, first_seq and last_seq."""


def _with_place(chunks: Sequence[Chunk], begin: int, end: int) -> Iterator[tuple[Chunk, int]]:
    """Say with the last of the chunks that all below `end` is given, with the others `begin`."""
    for number, chunk in enumerate(sorted(chunks, key=lambda chunk: chunk.seqs[0]), start=1):
        yield chunk, end if number == len(chunks) else begin
