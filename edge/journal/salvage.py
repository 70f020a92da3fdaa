"""A damaged database is set aside, and what can be read of it goes into a new one.

What is not checked by a checksum of its own (series, eras, rollups) is taken if it looks as it
should. The steps may be cut off anywhere; `journal.db.new` says that they were begun:

    1. an empty `journal.db.new` is made; an older `journal.db.broken` is deleted
    2. the write-ahead log and then the database are renamed to `.broken`
    3. what can be read is written into `journal.db.new`
    4. that is renamed to `journal.db`
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from edge.block import decode_block
from edge.era import RELEASED_UNIX_MS, Era
from edge.journal.schema import connect
from edge.journal.store import Damaged, Store, era_of_row, series_of_row, whole
from edge.record import Series

BROKEN_ENDING = ".broken"
_NEW_ENDING = ".new"
_WAL = "-wal"

_ROWS_AT_A_TIME = 64
_ROOM_SHARE = 2
"""Part of the free disk that blocks may take: they stand in the log for a while as well."""
_MOST_PROBED = 1_000_000

_COLUMNS = {"meta": 2, "series": 10, "era": 4, "cursor": 2, "block": 9, "tail": 5, "rollup": 15}


@dataclass
class Salvaged:
    """What came out of a damaged database. readings, rollups: how many were saved."""

    readings: int = 0
    rollups: int = 0
    cut_short: str = ""
    """Why not all blocks that can be read were saved, but the latest ones only."""


def is_damage(error: Exception) -> bool:
    """Tell whether an error means that the file itself is damaged.

    Source: SQLite, "Result and Error Codes": SQLITE_CORRUPT and SQLITE_NOTADB, by their texts, as
    Python 3.10 does not give the codes.
    """
    if isinstance(error, (Damaged, UnicodeDecodeError)):  # the latter of SQLite's own message
        return True
    signs = ("malformed", "not a database", "no such table", "no such column")
    return isinstance(error, sqlite3.DatabaseError) and any(sign in str(error) for sign in signs)


def is_begun(path: Path) -> bool:
    """Tell whether a database is being replaced by what is salvaged of it."""
    return _new(path).exists()


def replace_damaged(path: Path, wal_bytes: int, breathe: Callable[[], None]) -> str:
    """Set a damaged database aside and put a new one in its place, or go on doing so.

    No connection of the caller's may be open. Returns what came of it, in one sentence. Raises
    OSError or sqlite3.Error when even that cannot be done; it can be tried again.
    """
    broken, new = _beside(path, BROKEN_ENDING), _new(path)
    if path.exists():
        new.touch()
        if broken.exists():  # or else the log that is there belongs to this database
            _beside(broken, _WAL).unlink(missing_ok=True)
            broken.unlink()
        with suppress(FileNotFoundError):
            _beside(path, _WAL).rename(_beside(broken, _WAL))
        path.rename(broken)
    new.unlink(missing_ok=True)
    _beside(new, _WAL).unlink(missing_ok=True)
    new.touch()
    with closing(Store(new, wal_bytes)) as store:
        saved = _salvage(broken, store, breathe)
    new.rename(path)
    _fsync_folder(path.parent)
    lead = f"{path.name} was damaged and is set aside as {broken.name}"
    text = f"{lead}; {saved.readings} readings and {saved.rollups} rollups were saved from it"
    return (
        f"{text}, but not all that could be read ({saved.cut_short})."
        if saved.cut_short
        else (f"{text}.")
    )


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _new(path: Path) -> Path:
    return _beside(path, _NEW_ENDING)


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _salvage(broken: Path, store: Store, breathe: Callable[[], None]) -> Salvaged:
    saved = Salvaged()
    if not broken.exists():
        return saved
    with closing(connect(broken, read_only=True)) as source:
        source.text_factory = lambda data: str(data, "utf-8", "replace")
        with suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            # So SQLite opens a file that is shorter than its header says.
            source.execute("PRAGMA writable_schema = ON")
        room_bytes = shutil.disk_usage(broken.parent).free // _ROOM_SHARE
        _Salvage(source, store, saved, room_bytes, breathe).run()
    return saved


class _Salvage:
    """Copies from a damaged database into a new, empty one."""

    def __init__(
        self,
        source: sqlite3.Connection,
        store: Store,
        saved: Salvaged,
        room_bytes: int,
        breathe: Callable[[], None],
    ) -> None:
        self._source = source
        self._store = store
        self._saved = saved
        self._room_bytes = room_bytes
        self._breathe = breathe
        self._series: dict[int, Series] = {}
        self._eras: set[int] = set()
        self._newest_ms = 0

    def run(self) -> None:
        """Copy everything; what a later table needs comes first."""
        meta = {key: value for key, value in self._rows("meta", "key") if type(value) is int}
        self._copy_small()
        last_seq, last_block = self._copy_blocks()
        sealed_seq = meta.get("sealed_seq") or last_seq + 1
        self._copy_tail(sealed_seq)
        change = max(self._copy_rollups(), meta.get("change", 0))
        with self._store.transaction():
            self._store.set_meta("sealed_seq", max(sealed_seq, last_seq + 1))
            self._store.set_meta("rolled_block", min(meta.get("rolled_block", 0), last_block))
            self._store.set_meta("change", change)
            # Hours that blocks may be missing of are not to be computed again.
            self._store.set_meta("raw_gone_ms", max(self._newest_ms, meta.get("raw_gone_ms", 0)))

    def _copy_small(self) -> None:
        eras = []
        for row in self._rows("series", "id"):
            with suppress(Damaged, ValueError):
                self._series[row[0]] = series_of_row(row)
        for row in self._rows("era", "id"):
            with suppress(Damaged, ValueError):
                eras.append(era_of_row(row))
        cursors = [row for row in self._rows("cursor", "sink") if isinstance(row[1], str)]
        self._eras = {era.id for era in eras}
        with self._store.transaction() as db:
            for id_, series in self._series.items():
                db.execute(_insert("series"), (id_, *astuple(series)))
            for era in eras:
                db.execute(_insert("era"), astuple(era))
            for row in cursors:
                db.execute(_insert("cursor"), row)
        self._store.load()

    def _copy_blocks(self) -> tuple[int, int]:
        """Copy the blocks with a good checksum; gives their last sequence number and id."""
        last_seq = last_block = 0
        for rows in _batched(self._rows("block", "id")):
            with self._store.transaction() as db:
                for row in rows:
                    checked = self._checked_block(row)
                    if checked is None:
                        continue
                    db.execute(_insert("block"), checked)
                    last_block, last_seq = max(last_block, checked[0]), max(last_seq, checked[4])
                    self._room_bytes -= len(checked[8])
            self._breathe()
            if self._room_bytes < 0:
                self._saved.cut_short = "the disk is too full"
                break
        return last_seq, last_block

    def _checked_block(self, row: Sequence[Any]) -> Sequence[Any] | None:
        """Give a block's row, with what stands beside the data taken from the data again."""
        id_, series, era, _, _, from_ms, _, _, data = row
        try:
            whole((id_, series, era, from_ms))
            chunk = decode_block(data, self._series[series], era, from_ms)
        except (Damaged, ValueError, TypeError, KeyError):
            return None
        self._need_era(era, from_ms)
        to_ms = max(chunk.unix_ms)
        self._newest_ms = max(self._newest_ms, to_ms)
        self._saved.readings += len(chunk)
        seqs = chunk.seqs
        return (id_, series, era, seqs[0], seqs[-1], chunk.unix_ms[0], to_ms, len(chunk), data)

    def _copy_tail(self, sealed_seq: int) -> None:
        for rows in _batched(self._rows("tail", "slot")):
            with self._store.transaction() as db:
                for slot, seq, count, era, payload in rows:
                    with suppress(Damaged):
                        whole((slot, seq, count, era))
                        readings = self._store.readings(payload) if seq >= sealed_seq else []
                        if not readings or readings[0][0] != seq or len(readings) != count:
                            continue
                        self._need_era(era, readings[0][2])
                        db.execute(_insert("tail"), (slot, seq, count, era, payload))
                        self._saved.readings += count
            self._breathe()

    def _copy_rollups(self) -> int:
        """Copy the rollups; gives the last change."""
        last = 0
        for rows in _batched(self._rows("rollup", "meter_id, resolution, start_ms")):
            with self._store.transaction() as db:
                for row in rows:
                    with suppress(Damaged, sqlite3.IntegrityError):
                        whole((row[2], row[3], row[4], row[12], row[13], row[14]))
                        if row[4] in self._series:
                            db.execute(_insert("rollup"), row)
                            last = max(last, row[14])
                            self._saved.rollups += 1
        return last

    def _need_era(self, era: int, unix_ms: int) -> None:
        """Make up an era whose row is lost: of a boot of its own."""
        if era not in self._eras:
            self._eras.add(era)
            lost = Era(era, f"lost {era}", 0, trusted=unix_ms >= RELEASED_UNIX_MS)
            self._store.db.execute(_insert("era"), astuple(lost))

    def _rows(self, table: str, key: str) -> Iterator[Sequence[Any]]:
        """Give the rows that can be reached: from the back, then from the front, then between."""
        seen: set[Any] = set()
        for direction in ("DESC", "ASC"):
            keys = ", ".join(f"{name} {direction}" for name in key.split(", "))
            cursor = self._cursor(f"SELECT {key}, * FROM {table} ORDER BY {keys}", seen, key)
            try:
                yield from (row for row in cursor if len(row) == _COLUMNS[table])
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not is_damage(error):
                    raise
                continue
            return
        if key in ("id", "slot"):
            yield from self._between(table, key, seen)

    def _cursor(self, statement: str, seen: set[Any], key: str) -> Iterator[Sequence[Any]]:
        width = len(key.split(", "))
        for row in self._source.execute(statement):
            if row[:width] not in seen:
                seen.add(row[:width])
                yield row[width:]

    def _between(self, table: str, key: str, seen: set[Any]) -> Iterator[Sequence[Any]]:
        """Look for rows that stand between two damaged places, one by one."""
        known = [row[0] for row in seen if type(row[0]) is int]
        first, last = min(known, default=0), max(known, default=0)
        for number in range(first, min(last, first + _MOST_PROBED)):
            if (number,) in seen:
                continue
            try:
                yield from self._source.execute(
                    f"SELECT * FROM {table} WHERE {key} = ?", (number,)
                ).fetchall()
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not is_damage(error):
                    raise


def _insert(table: str) -> str:
    return f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * _COLUMNS[table])})"


def _batched(rows: Iterator[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS_AT_A_TIME:
            yield batch
            batch = []
    if batch:
        yield batch
