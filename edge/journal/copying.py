"""A copy of the journal's database, made while the service goes on writing, and the check of one.

The service lets no other connection in, so its files are copied as such. In WAL mode the database
itself is written by checkpoints only, one an hour or so, and commits are added to the log behind
it. So the two copies are one database as long as

- the database was not written while it was copied, nor until the log was: its time says so;
- the log was not begun anew meanwhile: its header would be another.

What is added to the log while it is copied is there as far as whole commits go: each frame has a
checksum over all before it. Otherwise both are copied again.

Nothing is locked, and the service does nothing for it.

Source: SQLite, "Write-Ahead Logging", 2.1 and 3; "WAL-mode File Format", 4.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from edge.clock import Clock
from edge.errors import JournalError
from edge.journal import overview
from edge.journal.damage import is_begun
from edge.journal.rows import Damaged
from edge.journal.store import Store

_TRIES = 20
_SETTLED_NS = 1_000_000_000
"""A file that was written since may be written again without its time being another: the system
counts time in steps of some milliseconds."""
_HEADER_BYTES = 32
_WAL_BYTES = 4 * 1024 * 1024

_Mark = tuple[int, int, int]


def copy_database(path: Path, target: Path, clock: Clock | None = None) -> None:
    """Copy the journal's database, with what is in its log; `target` must not be there.

    Raises JournalError when it cannot be read, or is written all the time, or the copy is not
    sound; OSError when the copy cannot be written. Blocks for the disk, and for some seconds more.
    """
    clock = clock or Clock()
    log, log_copy = _log_of(path), _log_of(target)
    for _ in range(_TRIES):
        before = _mark(path)
        if abs(clock.unix_ms() * 1_000_000 - before[2]) > _SETTLED_NS:
            log_copy.unlink(missing_ok=True)
            shutil.copyfile(path, target)
            with suppress(FileNotFoundError):  # the service ended well: all is in the database
                shutil.copyfile(log, log_copy)
            if _mark(path) == before and _header(log) == _header(log_copy):
                check_database(target)
                return
        clock.sleep(0.5)
    raise JournalError(f"{path} is being tidied up all the time; try again in a minute.")


def check_database(path: Path) -> None:
    """Check a database that no service has, and put what its log holds into it.

    Raises JournalError when it is not sound. Blocks for about as long as the disk needs to give the
    file.
    """
    try:
        with closing(Store(path, _WAL_BYTES)) as store:
            overview.check(store)
    except (sqlite3.Error, Damaged, UnicodeDecodeError) as error:
        raise JournalError(
            f"{path.name} is damaged ({error}); start the service, which saves what it can."
        ) from error


def _mark(path: Path) -> _Mark:
    """What changes whenever the database is written. Raises JournalError while there is none."""
    if is_begun(path):
        raise JournalError(f"{path} is damaged and being replaced; try again in a minute.")
    try:
        found = path.stat()
    except OSError as error:
        raise JournalError(f"{path} cannot be read ({error.strerror}).") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def _header(log: Path) -> bytes:
    """The begin of a log; it has numbers that are others each time that it is begun anew."""
    try:
        with log.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
