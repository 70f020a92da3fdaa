"""The journal's database: its tables, and how a connection to it is made.

    meta      what holds for the whole file: `format`, `sealed_seq`, `rolled_block`, `change` (the
              last rollup's), `aged_until_ms` (the time that ages are reckoned from)
    series    a meter as it was registered when it was read (`Series`)
    era       a stretch of one boot in which the wall clock did not step
    tail      readings as they were committed, all meters together; one row per commit as a rule
    block     readings of one series within one hour, sealed: one compressed column block
    rollup    hours and days; `change` counts up with each new or recomputed row
    cursor    how far each sink is

A reading is in `tail` or in a `block`, never in both: readings with a sequence number below
`sealed_seq` are in blocks, and tail rows that begin below it are free slots. A slot is used again
by an UPDATE, so that a commit writes one page and no free list; that halves the wear of the flash.

No row of `tail` or `block` holds readings of more than one era, or of more than one hour UTC.
`rolled_block`: blocks up to this id are folded into rollups.

SQLite's pages have no checksum, and a flipped bit may make a number that is wrong and looks right.
So every row has one of its own, `crc`, over all its other columns; a row that it does not fit is
left out by whoever reads it.

The virtual file system `unix-excl` (SQLite, "The OS Backend (VFS) To SQLite", 1.1) keeps the
write-ahead log's index in this process's memory, not in a file that the system writes to flash
again and again. So no other process can open the database meanwhile; any number of connections
within this one can. Pages are of 512 bytes: a commit is a page or two.
"""

from __future__ import annotations

import errno
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.journal.refusal import refusal_of

FILE_NAME = "journal.db"
FORMAT = 1

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL, crc INTEGER) WITHOUT ROWID;
CREATE TABLE series (
  id INTEGER PRIMARY KEY, site TEXT NOT NULL, meter_id TEXT NOT NULL, name TEXT NOT NULL,
  location TEXT NOT NULL, meter_type TEXT NOT NULL, protocol TEXT NOT NULL,
  stale_after_ms INTEGER NOT NULL, max_power_kw REAL, counter_kwh REAL, crc INTEGER);
CREATE TABLE era (
  id INTEGER PRIMARY KEY, boot TEXT NOT NULL, offset_ms INTEGER NOT NULL, trusted INTEGER NOT NULL,
  crc INTEGER);
CREATE TABLE tail (
  slot INTEGER PRIMARY KEY, seq INTEGER NOT NULL, count INTEGER NOT NULL, era INTEGER NOT NULL,
  payload BLOB NOT NULL, crc INTEGER);
CREATE TABLE block (
  id INTEGER PRIMARY KEY, series INTEGER NOT NULL, era INTEGER NOT NULL,
  first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
  from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, count INTEGER NOT NULL, data BLOB NOT NULL,
  crc INTEGER);
CREATE INDEX block_time ON block (series, from_ms);
CREATE INDEX block_seq ON block (last_seq, first_seq);
CREATE TABLE rollup (
  meter_id TEXT NOT NULL, resolution TEXT NOT NULL, start_ms INTEGER NOT NULL,
  length_ms INTEGER NOT NULL, series INTEGER NOT NULL, mean_kw REAL, min_kw REAL, max_kw REAL,
  energy_kwh REAL, energy_source TEXT, interpolated_kwh REAL NOT NULL, export_kwh REAL,
  samples INTEGER NOT NULL, covered_ms INTEGER NOT NULL, change INTEGER NOT NULL,
  crc INTEGER,
  PRIMARY KEY (meter_id, resolution, start_ms)) WITHOUT ROWID;
CREATE UNIQUE INDEX rollup_change ON rollup (change);
CREATE TABLE cursor (sink TEXT PRIMARY KEY, place TEXT NOT NULL, crc INTEGER) WITHOUT ROWID;
"""
"""Times are unix ms. `block.from_ms` and `to_ms`: of its first and last reading, `data` holds times
relative to `from_ms`. `era.offset_ms`: wall clock minus monotonic clock. `cursor.place`: JSON."""

BUSY_TIMEOUT_S = 5.0


def with_crc(columns: Sequence[Any]) -> tuple[Any, ...]:
    """Make a whole row of a table of all its columns but `crc`, in their order."""
    return (*columns, _crc(columns))


def is_sound(row: Sequence[Any]) -> bool:
    """Tell whether a row, as `SELECT *` gives it, is what was written."""
    return bool(row[-1] == _crc(row[:-1]))


def _crc(columns: Sequence[Any]) -> int:
    crc = zlib.crc32(repr([_as_kept(column) for column in columns]).encode())
    for column in columns:
        if isinstance(column, bytes):
            crc = zlib.crc32(column, crc)
    return crc


def _as_kept(column: Any) -> Any:
    """The one form of a value: SQLite gives 3 back as 3.0 from a column of type REAL."""
    if isinstance(column, bytes):
        return None
    if isinstance(column, bool) or (isinstance(column, float) and column.is_integer()):
        return int(column)
    return column


def put_row(db: sqlite3.Connection, table: str, columns: Sequence[Any]) -> None:
    """Write a row, with its checksum, in place of the one of its key."""
    row = with_crc(columns)
    db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open the database to read it, also on a disk that turned read-only. As `connect`.

    There nobody can write it, so it is read without locks, which would have to be written, and with
    an index of the log in memory alone: SQLite, "Write-Ahead Logging", 7 and 8.
    """
    connection = connect(path, read_only=True)
    try:
        connection.execute("PRAGMA schema_version").fetchone()  # the first to touch the log
    except sqlite3.Error as exc:  # if that does not help, the next statement raises it again
        refusal = refusal_of(path.parent) if "unable to open" in str(exc) else None
        if refusal is not None and refusal.errno == errno.EROFS:
            connection.close()
            connection = _connect(f"{path.absolute().as_uri()}?vfs=unix-none&mode=ro")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the database; statements outside BEGIN … COMMIT commit by themselves.

    For one thread. Raises sqlite3.Error, also when another process has it open.
    """
    mode = "ro" if read_only else "rwc"
    return _connect(f"{path.absolute().as_uri()}?vfs=unix-excl&mode={mode}")


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)
