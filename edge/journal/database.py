"""The journal's database file, open for writing: how it is made, committed to, and kept small."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.errors import JournalError
from edge.journal.rows import Damaged, lenient_text, number_of_row
from edge.journal.schema import FORMAT, SCHEMA, connect, put_row

_PAGE_BYTES = 512
_FRAME_BYTES = _PAGE_BYTES + 24
NEW_META = {
    "format": FORMAT,
    "sealed_seq": 1,
    "rolled_block": 0,
    "change": 0,
    "aged_until_ms": 0,
}
"""What `meta` holds of a journal that nothing is in."""
_VACUUM_PAGES = 64


class Database:
    """The file and the connection to it. One thread.

    wal_bytes: what the write-ahead log may take, about. Raises sqlite3.Error or OSError when it
    fails, JournalError when it is not ours to write, and Damaged.
    """

    def __init__(self, path: Path, wal_bytes: int) -> None:
        self.path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._sizes: dict[Path, tuple[int, int]] = {}
        """Of the two files: inode, and bytes when we wrote last."""
        if not path.exists():
            path.touch(mode=0o600)  # SQLite gives the log the same rights
        self.db = connect(path)
        self.db.text_factory = lenient_text
        try:
            self._prepare(wal_bytes)
            self._note_sizes()
        except BaseException:
            self.db.close()
            raise

    def check_files(self) -> None:
        """Raise JournalError when a file that is open is no longer the one in the folder.

        Damaged when it got shorter, which nobody but this connection may make it. What is in a log
        that was deleted is saved before.
        """
        for file, (inode, size) in self._sizes.items():
            try:
                found = file.stat()
            except FileNotFoundError:
                found = None
            if found is None or found.st_ino != inode:
                if file == self._wal:
                    self.empty_log()
                raise JournalError(f"{file} was deleted or replaced while it was in use.")
            if found.st_size < size:
                raise Damaged(f"{file} was cut off")

    def _note_sizes(self) -> None:
        for file in (self.path, self._wal):
            with suppress(FileNotFoundError):  # which the next check finds
                found = file.stat()
                before = self._sizes.setdefault(file, (found.st_ino, 0))
                self._sizes[file] = before[0], found.st_size

    def close(self) -> None:
        """Close the database. Raises nothing: what is committed is on the disk."""
        with suppress(sqlite3.Error):
            self.db.close()

    def _prepare(self, wal_bytes: int) -> None:
        db = self.db
        db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {wal_bytes // _FRAME_BYTES}")
        db.execute(f"PRAGMA journal_size_limit = {wal_bytes}")
        db.execute("PRAGMA cache_size = -512")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._create()
        found = self.meta("format")
        if found != FORMAT:
            raise JournalError(
                f"{self.path} has format {found}, and this version writes {FORMAT}; install the "
                "version that wrote it, or move the file away to begin a new journal."
            )
        # What an earlier process or a failed fsync left in the log is made safe first.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _create(self) -> None:
        with self.transaction() as db:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            for row in NEW_META.items():
                put_row(db, "meta", row)

    # --- Use ---

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all or nothing. The error that broke it is the one that is raised."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
            self.db.execute("COMMIT")
            self._note_sizes()
        except BaseException:
            if self.db.in_transaction:
                with suppress(sqlite3.Error):  # closing does it
                    self.db.execute("ROLLBACK")
            raise

    def meta(self, key: str) -> int:
        """Give a number that holds for the whole file."""
        return number_of_row(self.db.execute("SELECT * FROM meta WHERE key = ?", (key,)).fetchone())

    def set_meta(self, key: str, value: int) -> None:
        """Keep such a number; within a transaction."""
        put_row(self.db, "meta", (key, value))

    def used_bytes(self) -> int:
        """Bytes of the pages in use."""
        unused = self.db.execute("PRAGMA freelist_count").fetchone()[0]
        return self.file_bytes() - int(unused) * _PAGE_BYTES

    def file_bytes(self) -> int:
        """Bytes of all pages."""
        return int(self.db.execute("PRAGMA page_count").fetchone()[0]) * _PAGE_BYTES

    def shrink(self) -> bool:
        """Give some pages that are not in use back to the disk; tells whether there were any.

        It needs no room on the disk but for the log, and may be cut off.
        """
        before = self.file_bytes()
        # Each row that is fetched is a page.
        self.db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._note_sizes()
        return self.file_bytes() < before

    def empty_log(self) -> None:
        """Move all of the log into the database. Raises JournalError when a reader needs it."""
        if self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise JournalError(f"The log of {self.path} cannot be emptied while it is read.")
        self._note_sizes()

    def checkpoint(self) -> None:
        """Move the log's pages into the database, as far as no reader needs the log."""
        self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._note_sizes()
