"""A damaged database is set aside, and what can be read of it goes into a new one.

What has a good checksum is taken. The steps may be cut off anywhere; `journal.db.new` says that
they were begun, with a text of ours while `journal.db` is still there:

    1. `journal.db.new` is made; an older `journal.db.broken` is deleted
    2. the write-ahead log and then the database are renamed to `.broken`
    3. what can be read is written into `journal.db.new`
    4. that is renamed to `journal.db`, once its own log is empty
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from edge.era import RELEASED_UNIX_MS, Era
from edge.journal.damage import BEGUN, is_damage, new_beside
from edge.journal.rows import (
    block_row,
    era_of_row,
    lenient_text,
    rollup_of_row,
    series_of_row,
    tail_row,
)
from edge.journal.schema import connect, is_sound, put_row
from edge.journal.store import LOST_BOOT, Store
from edge.record import Series

BROKEN_ENDING = ".broken"
_WAL = "-wal"
_SHM = "-shm"

_ROWS_AT_A_TIME = 64
_ROOM_SHARE = 2
"""Part of the free disk that blocks may take: they stand in the log for a while as well."""
_MOST_PROBED = 1_000_000
_PROBES_PER_BREATH = 1000

_COLUMNS = {"meta": 3, "series": 11, "era": 5, "cursor": 3, "block": 10, "tail": 6, "rollup": 16}


@dataclass
class Salvaged:
    """What came out of a damaged database. readings, rollups: how many were saved."""

    readings: int = 0
    rollups: int = 0
    cut_short: str = ""
    """Why not all blocks that can be read were saved, but the latest ones only."""


def replace_damaged(path: Path, wal_bytes: int, breathe: Callable[[], object]) -> str:
    """Set a damaged database aside and put a new one in its place, or go on doing so.

    No connection of the caller's may be open. Returns what came of it, in one sentence. Raises
    OSError or sqlite3.Error when even that cannot be done; it can be tried again.
    """
    broken, new = _beside(path, BROKEN_ENDING), new_beside(path)
    if path.exists():
        _say_begun(new)
        if broken.exists():  # or else the log that is there belongs to this database
            _remove(_beside(broken, _WAL), broken)
        with suppress(FileNotFoundError):
            _beside(path, _WAL).rename(_beside(broken, _WAL))
        path.rename(broken)
        broken.chmod(0o600)
    _remove(_beside(new, _WAL), _beside(new, _SHM), _beside(path, _SHM), _beside(broken, _SHM))
    if new.is_dir():
        _remove(new)
    new.write_bytes(b"")
    with closing(Store(new, wal_bytes)) as store:
        saved = _salvage(broken, store, breathe)
        store.empty_log()
    _remove(_beside(path, _WAL), _beside(new, _WAL), _beside(broken, _SHM))
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


def _remove(*files: Path) -> None:
    for file in files:
        if file.is_dir() and not file.is_symlink():
            _move_aside(file)
        else:
            file.unlink(missing_ok=True)


def _move_aside(folder: Path) -> None:
    """Make room where somebody made a folder."""
    number = next(n for n in count(1) if not _beside(folder, f".{n}").exists())
    folder.rename(_beside(folder, f".{number}"))


def _say_begun(new: Path) -> None:
    _remove(new)
    with new.open("wb") as file:
        new.chmod(0o600)
        file.write(BEGUN)
        file.flush()
        os.fsync(file.fileno())
    _fsync_folder(new.parent)


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _salvage(broken: Path, store: Store, breathe: Callable[[], object]) -> Salvaged:
    saved = Salvaged()
    if not broken.exists():
        return saved
    with closing(connect(broken, read_only=True)) as source:
        source.text_factory = lenient_text
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
        breathe: Callable[[], object],
    ) -> None:
        self._source = source
        self._store = store
        self._saved = saved
        self._room_bytes = room_bytes
        self._breathe = breathe
        self._series: dict[int, Series] = {}
        self._eras: set[int] = set()

    def run(self) -> None:
        """Copy everything; what a later table needs comes first."""
        meta: dict[str, int] = {row[0]: row[1] for row in self._rows("meta", "key")}
        self._copy_small()
        last_seq, last_block = self._copy_blocks()
        sealed_seq = meta.get("sealed_seq") or last_seq + 1
        self._copy_tail(sealed_seq)
        change = max(self._copy_rollups(), meta.get("change", 0))
        with self._store.transaction():
            self._store.set_meta("sealed_seq", max(sealed_seq, last_seq + 1))
            self._store.set_meta("rolled_block", min(meta.get("rolled_block", 0), last_block))
            self._store.set_meta("change", change)
            self._store.set_meta("aged_until_ms", meta.get("aged_until_ms", 0))

    def _copy_small(self) -> None:
        series, eras, cursors = (
            list(self._rows(table, key))
            for table, key in (("series", "id"), ("era", "id"), ("cursor", "sink"))
        )
        self._series = {row[0]: series_of_row(row) for row in series}
        self._eras = {era_of_row(row).id for row in eras}
        with self._store.transaction() as db:
            for table, rows in (("series", series), ("era", eras), ("cursor", cursors)):
                db.executemany(_insert(table), rows)
        self._store.load()

    def _copy_blocks(self) -> tuple[int, int]:
        """Copy the blocks; gives their last sequence number and id."""
        last_seq = last_block = 0
        for rows in _batched(self._rows("block", "id")):
            with self._store.transaction() as db:
                for row in rows:
                    self._copy_block(db, row)
                    last_block, last_seq = max(last_block, row[0]), max(last_seq, row[4])
                    self._room_bytes -= len(row[8])
            self._breathe()
            if self._room_bytes < 0:
                self._saved.cut_short = "the disk is too full"
                break
        return last_seq, last_block

    def _copy_block(self, db: sqlite3.Connection, row: Sequence[Any]) -> None:
        block = block_row(row)
        chunk = block.chunk(self._series) if block else None
        if block and chunk:
            self._need_era(block.era, block.from_ms)
            self._saved.readings += len(chunk)
            db.execute(_insert("block"), row)

    def _copy_tail(self, sealed_seq: int) -> None:
        for rows in _batched(self._rows("tail", "slot")):
            with self._store.transaction() as db:
                for row in filter(None, map(tail_row, rows)):
                    readings = row.readings()
                    # Ids of series that are lost may be given to others.
                    known = all(one[1] in self._series for one in readings)
                    if row.seq < sealed_seq or not readings or not known:
                        continue
                    self._need_era(row.era, readings[0][2])
                    put_row(db, "tail", row)
                    self._saved.readings += row.length
            self._breathe()

    def _copy_rollups(self) -> int:
        """Copy the rollups; gives the last change."""
        last = 0
        for rows in _batched(self._rows("rollup", "meter_id, resolution, start_ms")):
            with self._store.transaction() as db:
                for row in rows:
                    if rollup_of_row(row, self._series):
                        db.execute(_insert("rollup"), row)
                        last = max(last, row[14])
                        self._saved.rollups += 1
            self._breathe()
        return last

    def _need_era(self, era: int, unix_ms: int) -> None:
        """Make up an era whose row is lost: of a boot of its own."""
        if era not in self._eras:
            self._eras.add(era)
            lost = Era(era, f"{LOST_BOOT} {era}", 0, trusted=unix_ms >= RELEASED_UNIX_MS)
            put_row(self._store.db, "era", astuple(lost))

    def _rows(self, table: str, key: str) -> Iterator[Sequence[Any]]:
        """Give the sound rows: those from the back, then from the front, then between."""
        for row in self._reachable(table, key):
            if len(row) == _COLUMNS[table] and is_sound(row):
                yield row

    def _reachable(self, table: str, key: str) -> Iterator[Sequence[Any]]:
        seen: set[Any] = set()
        for direction in ("DESC", "ASC"):
            keys = ", ".join(f"{name} {direction}" for name in key.split(", "))
            cursor = self._cursor(f"SELECT {key}, * FROM {table} ORDER BY {keys}", seen, key)
            try:
                yield from cursor
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
            if number % _PROBES_PER_BREATH == 0:
                self._breathe()
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
