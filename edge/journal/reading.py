"""Rows of the journal's database, each checked as it is read.

Nothing that stands in the file is trusted to be whole: a row with a wrong checksum, and one whose
series or era is lost, is skipped and counted, and the rest is given.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edge.batch import decode_batch
from edge.era import Era
from edge.errors import JournalError
from edge.journal.damage import is_damage
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
from edge.journal.schema import connect_to_read
from edge.record import Chunk, Rollup, Series

_T = TypeVar("_T")
_Self = TypeVar("_Self", bound="CheckedRows")


@dataclass(frozen=True)
class Seen:
    """What holds for the whole database at one moment."""

    series: dict[int, Series]
    eras: dict[int, Era]
    sealed_seq: int

    def of_meter(self, meter_id: str) -> Seen:
        """The same with the series of one meter only."""
        series = {number: one for number, one in self.series.items() if one.meter_id == meter_id}
        return Seen(series, self.eras, self.sealed_seq)

    @property
    def types(self) -> set[str]:
        """What meters they were recorded as."""
        return {series.meter_type for series in self.series.values()}

    def trusted(self, era: int) -> bool:
        """Whether the readings of an era were taken when they say."""
        return era in self.eras and self.eras[era].trusted


class CheckedRows:
    """A read-only connection; a context manager, for one thread.

    path: the journal's database. report_damage: told when SQLite finds the file damaged as such,
    or cannot read it.
    damaged: blocks, commits and rollups that were skipped because they cannot be read.
    Every call raises JournalError when the database cannot be read, and may wait for some seconds
    for it.
    """

    def __init__(self, path: Path, report_damage: Callable[[str], None] | None = None) -> None:
        self.damaged = 0
        self._report_damage = report_damage
        try:
            self._connection = connect_to_read(path)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._connection.text_factory = lenient_text

    def close(self) -> None:
        """End the connection; what is being iterated over ends with an error."""
        self._connection.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- Single things, checked ------------------------------------------------------------------

    def _block(self, seen: Seen, number: int, from_ms: int) -> Chunk | None:
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

    def _batch(self, row: TailRow, only: int | None = None) -> list[Any]:
        try:
            return list(decode_batch(row.payload, only))
        except (ValueError, TypeError):
            self.damaged += 1
            return []

    def _tail(self, seen: Seen, from_seq: int, to_seq: int = 2**63 - 1) -> list[TailRow]:
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

    def _seen(self) -> Seen:
        rows = self._query("SELECT * FROM meta WHERE key = 'sealed_seq'")
        try:
            sealed_seq = number_of_row(rows[0] if rows else None)
        except Damaged as error:
            raise self._failure(error) from error
        eras = self._checked("SELECT * FROM era", era_of_row)
        return Seen(self._series(), eras, sealed_seq)

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
