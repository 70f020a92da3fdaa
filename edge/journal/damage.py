"""How damage of the database shows: in errors, and in the file that says it is being replaced."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from edge.journal.rows import Damaged

BEGUN = b"dlm-edge: journal.db is damaged and is being replaced\n"
"""What stands in `journal.db.new` while `journal.db` is still there."""

_SIGNS = (
    *("malformed", "not a database", "unsupported file format"),
    # Of our schema, in a file that is not empty.
    *("no such table", "no such column", "no such index", "has no column named"),
)


def is_damage(error: Exception) -> bool:
    """Tell whether an error means that the file itself is damaged.

    Source: SQLite, "Result and Error Codes": SQLITE_CORRUPT and SQLITE_NOTADB, by their texts, as
    Python 3.10 does not give the codes.
    """
    if isinstance(error, (Damaged, UnicodeDecodeError)):  # the latter of SQLite's own message
        return True
    text = str(error)  # Python 3.10 leaves it empty where it would quote damaged text
    found = not text or any(sign in text for sign in _SIGNS)
    return isinstance(error, sqlite3.DatabaseError) and found


def new_beside(path: Path) -> Path:
    """Give the file that a new database is made in."""
    return path.with_name(f"{path.name}.new")


def is_begun(path: Path) -> bool:
    """Tell whether a database is being replaced by what is salvaged of it."""
    new = new_beside(path)
    if not new.is_file():
        return False
    return not path.exists() or new.read_bytes()[: len(BEGUN)] == BEGUN
