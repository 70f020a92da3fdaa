"""Reading the journal: raw readings in order of time or of sequence, and rollups.

Sealing moves readings from the tail into blocks while somebody reads. So the tail and the list of
blocks are taken in one short read transaction, and the blocks are fetched one by one after it: a
reader that waits for a slow client holds up neither checkpoints nor the retention. A block that is
gone by then was deleted for its age or for room, and is skipped.

Nothing that stands in the file is trusted to be whole: what has a wrong checksum, or a column that
cannot be, is skipped and counted, and the rest is given.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from edge.batch import decode_batch, to_chunks
from edge.block import decode_block
from edge.errors import JournalError
from edge.journal.merge import Part, between, given, merged
from edge.journal.salvage import is_damage
from edge.journal.schema import connect
from edge.record import Chunk, EnergySource, Resolution, Rollup, Series

_LONGEST_BLOCK_MS = 2 * 3_600_000
"""No block is longer, even one whose clock was corrected."""
_WINDOW = 10_000
"""Sequence numbers that `since` gives series by series, before it begins with the next ones."""
_KEPT_READINGS = 20_000
"""Readings of decoded blocks that are kept for the next window."""
_ROLLUPS_AT_A_TIME = 500
_LONGEST_ROLLUP_MS = 49 * 3_600_000

_SERIES = (
    "s.site, s.meter_id, s.name, s.location, s.meter_type, s.protocol, s.stale_after_ms, "
    "s.max_power_kw, s.counter_kwh"
)
_ROLLUPS = (
    "SELECT r.change, r.resolution, r.start_ms, r.length_ms, r.mean_kw, r.min_kw, r.max_kw, "
    "r.energy_kwh, r.energy_source, r.interpolated_kwh, r.export_kwh, r.samples, r.covered_ms, "
    f"{_SERIES} FROM rollup r JOIN series s ON s.id = r.series "
)


class History:
    """Queries over one read-only connection; a context manager, for one thread.

    path: the journal's database. report_damage: told when SQLite finds the file damaged as such.
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
        self._connection.text_factory = _lenient_text

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
            series = {
                number: one for number, one in self._series().items() if one.meter_id == meter_id
            }
            for number in series:
                listed = self._query(
                    "SELECT from_ms, id FROM block "
                    "WHERE series = ? AND from_ms > ? AND from_ms < ?",
                    *(number, low[0] - _LONGEST_BLOCK_MS, to_ms),
                )
                parts += (
                    Part(begin_ms, partial(self._block, series, block, begin_ms))
                    for begin_ms, block in listed
                )
            tail = self._tail(0)
        parts += self._tail_parts(tail, series)
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
        while True:
            rows = self._query(
                f"{_ROLLUPS} WHERE r.meter_id = ? AND r.resolution = ? AND r.start_ms > ? "
                "AND r.start_ms < ? ORDER BY r.start_ms LIMIT ?",
                *(meter_id, resolution.value, last_ms, to_ms, _ROLLUPS_AT_A_TIME),
            )
            for _, rollup in self._checked_rollups(rows):
                yield rollup
            if len(rows) < _ROLLUPS_AT_A_TIME:
                return
            last_ms = rows[-1][2]

    def rollups_since(self, change: int, limit: int) -> list[tuple[int, Rollup]]:
        """Give rollups, each with its change, that are new or recomputed after `change`."""
        rows = self._query(
            f"{_ROLLUPS} WHERE r.change > ? ORDER BY r.change LIMIT ?", change, limit
        )
        return list(self._checked_rollups(rows))

    def since(self, from_seq: int, to_seq: int) -> Iterator[tuple[Chunk, int]]:
        """Give the readings in from_seq <= seq < to_seq, oldest first, each series in order.

        Those are left out whose clock was never set, since nobody knows when they were taken.
        With each chunk comes the sequence number below which all is given once that chunk is
        done. It moves in steps of some thousand, because blocks of several series run side by
        side. When all was iterated over, everything below to_seq is given.
        """
        blocks: list[tuple[int, int, int, int]] = []
        with self._one_moment():
            series = self._series()
            sealed_seq = self._sealed_seq()
            if from_seq < sealed_seq:
                blocks = self._query(
                    "SELECT id, from_ms, first_seq, last_seq FROM block "
                    "WHERE last_seq >= ? AND first_seq < ? "
                    "AND era IN (SELECT id FROM era WHERE trusted)",
                    *(from_seq, to_seq),
                )
            trusted = {id_ for (id_,) in self._query("SELECT id FROM era WHERE trusted")}
            tail = [row for row in self._tail(from_seq, to_seq) if row[1] in trusted]
        yield from self._blocks_since(blocks, series, from_seq, min(to_seq, sealed_seq))
        yield from self._tail_since(tail, series, from_seq, to_seq)

    # --- The parts that an answer is made of -----------------------------------------------------

    def _tail_parts(self, tail: Sequence[_TailRow], series: dict[int, Series]) -> Iterator[Part]:
        """The readings of some series that are in the tail; one part for each series and era."""
        of_era: dict[int, list[Any]] = {}
        for _, era, payload in tail:
            readings = of_era.setdefault(era, [])
            for number in series:
                readings += self._batch(payload, number)
        for era, readings in of_era.items():
            for chunk in to_chunks(readings, series, era):
                yield given(chunk)

    def _blocks_since(
        self,
        blocks: Sequence[tuple[int, int, int, int]],
        series: dict[int, Series],
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
                chunk = self._kept_block(series, number, from_ms)
                if chunk is not None:
                    chunks.append(between(chunk, begin, position))
            yield from _with_place([chunk for chunk in chunks if len(chunk)], begin, position)
            waiting = [block for block in waiting if block[3] >= position and position < to_seq]

    def _tail_since(
        self, tail: Sequence[_TailRow], series: dict[int, Series], from_seq: int, to_seq: int
    ) -> Iterator[tuple[Chunk, int]]:
        """Go through the tail; small commits of one era are put together."""
        readings: list[Any] = []
        for number, (_, era, payload) in enumerate(tail):
            batch = [one for one in self._batch(payload) if from_seq <= one[0] < to_seq]
            readings += (one for one in batch if one[1] in series)
            is_last = number + 1 == len(tail)
            if readings and (is_last or len(readings) >= _WINDOW or tail[number + 1][1] != era):
                chunks = to_chunks(readings, series, era)
                yield from _with_place(chunks, readings[0][0], readings[-1][0] + 1)
                readings = []

    # --- Single things, checked ------------------------------------------------------------------

    def _block(self, series: dict[int, Series], number: int, from_ms: int) -> Chunk | None:
        """Read a block; None if it is damaged, deleted, or its clock was corrected meanwhile."""
        rows = self._query(
            "SELECT series, era, data FROM block WHERE id = ? AND from_ms = ?", number, from_ms
        )
        for of, era, data in rows:
            try:
                return decode_block(data, series[of], era, from_ms)
            except (ValueError, TypeError, KeyError):
                self.damaged += 1
        return None

    def _kept_block(self, series: dict[int, Series], number: int, from_ms: int) -> Chunk | None:
        """The same; kept for a while, since the next window may need the rest of it."""
        key = number, from_ms
        chunk = self._kept.get(key) or self._block(series, number, from_ms)
        if chunk is not None and key not in self._kept:
            if sum(map(len, self._kept.values())) + len(chunk) > _KEPT_READINGS:
                self._kept.clear()
            self._kept[key] = chunk
        return chunk

    def _batch(self, payload: bytes, only: int | None = None) -> list[Any]:
        try:
            return list(decode_batch(payload, only))
        except (ValueError, TypeError):
            self.damaged += 1
            return []

    def _checked_rollups(self, rows: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Rollup]]:
        for row in rows:
            try:
                yield row[0], _rollup(row[1:13], _checked_series(row[13:]))
            except (ValueError, TypeError):
                self.damaged += 1

    def _series(self) -> dict[int, Series]:
        known = {}
        for number, *row in self._query(f"SELECT s.id, {_SERIES} FROM series s ORDER BY s.id"):
            try:
                known[number] = _checked_series(row)
            except (ValueError, TypeError):
                self.damaged += 1
        return known

    def _sealed_seq(self) -> int:
        rows = self._query("SELECT value FROM meta WHERE key = 'sealed_seq'")
        return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0

    def _tail(self, from_seq: int, to_seq: int = 2**63 - 1) -> list[_TailRow]:
        """The rows of the tail that are in use and may hold readings of the range, in order."""
        return self._query(
            "SELECT seq, era, payload FROM tail "
            "WHERE seq >= ? AND seq + count > ? AND seq < ? ORDER BY seq",
            *(self._sealed_seq(), from_seq, to_seq),
        )

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
        words = str(error)
        if self._report_damage and is_damage(error):
            self._report_damage(words)
        return JournalError(f"The journal cannot be read ({words}); ask again in a minute.")


_TailRow = tuple[int, int, bytes]


def _with_place(chunks: Sequence[Chunk], begin: int, end: int) -> Iterator[tuple[Chunk, int]]:
    """Say with the last of the chunks that all below `end` is given, with the others `begin`."""
    for number, chunk in enumerate(sorted(chunks, key=lambda chunk: chunk.seqs[0]), start=1):
        yield chunk, end if number == len(chunks) else begin


# --- Rows that are what they should be -----------------------------------------------------------


def _checked_series(row: Sequence[Any]) -> Series:
    """Make a series of a row. Raises ValueError or TypeError if it is damaged."""
    site, meter_id, name, location, meter_type, protocol, stale_after_ms, power, counter = row
    for word in (site, meter_id, name, location, meter_type, protocol):
        _need(isinstance(word, str))
    _need(isinstance(stale_after_ms, int))
    return Series(
        *(site, meter_id, name, location, meter_type, protocol),
        *(stale_after_ms, _number(power), _number(counter)),
    )


def _rollup(row: Sequence[Any], series: Series) -> Rollup:
    """Make a rollup of a row. Raises ValueError or TypeError if it is damaged."""
    resolution, start_ms, length_ms, mean, low, high, energy, source, part, export, n, covered = row
    _need(isinstance(start_ms, int) and isinstance(n, int) and isinstance(covered, int))
    _need(0 < length_ms <= _LONGEST_ROLLUP_MS and 0 <= covered <= length_ms)
    interpolated_kwh = _number(part)
    _need(interpolated_kwh is not None)
    return Rollup(
        series,
        Resolution(resolution),
        start_ms,
        length_ms,
        *(_number(mean), _number(low), _number(high), _number(energy)),
        EnergySource(source) if source is not None else None,
        interpolated_kwh or 0.0,
        _number(export),
        samples=n,
        covered_ms=covered,
    )


def _number(value: Any) -> float | None:
    _need(value is None or (isinstance(value, (int, float)) and math.isfinite(value)))
    return None if value is None else float(value)


def _need(holds: bool) -> None:
    if not holds:
        raise ValueError("damaged")


def _lenient_text(data: bytes) -> str:
    return str(data, "utf-8", "replace")
