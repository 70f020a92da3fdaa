"""The journal's database while no service runs: whether that is so, and writing to it then."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from edge.errors import JournalError
from edge.journal.importing import add_chunks
from edge.journal.schema import connect
from edge.journal.store import Store
from edge.record import Chunk

_WAL_BYTES = 4 * 1024 * 1024


def is_in_use(path: Path) -> bool:
    """Tell whether another process has the database open, as the running service has."""
    try:
        with closing(connect(path, read_only=True)) as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("SELECT count(*) FROM meta")
    except sqlite3.Error as error:
        return "locked" in str(error)
    return False


def add_to(path: Path, chunks: Iterable[Chunk]) -> int:
    """Write readings into a journal, which is made if there is none; gives how many were new.

    Rollups and sinks get them when the service starts. Raises JournalError; what was written
    before it stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(Store(path, _WAL_BYTES)) as store:
            return add_chunks(store, chunks)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(
            f"{path} cannot be written ({error}); what was added so far stays, try again."
        ) from error
