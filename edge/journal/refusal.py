"""Why the system lets nothing be written in a folder, which SQLite's own words do not say."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

_TRIED_BYTES = 4096
_CANNOT_TELL = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT})
"""What open(2) says where a file system knows no files without names."""


def refusal_of(folder: Path) -> OSError | None:
    """Give what the system says when something is written; None where it is, or cannot be tried.

    It has no name and leaves nothing behind. A file system that turned read-only for a fault of its
    own shows it in no other way, neither by access(2) nor by statvfs(3). Blocks for the disk.
    """
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except OSError as exc:
        return None if exc.errno in _CANNOT_TELL else exc
    try:
        os.write(fd, bytes(_TRIED_BYTES))
        os.fsync(fd)
    except OSError as exc:
        return exc
    finally:
        with suppress(OSError):
            os.close(fd)
    return None
