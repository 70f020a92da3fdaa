"""Files that are whole at any moment, whatever is killed: written beside, synced and renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_file(file: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file so that it is whole at any moment: write another, sync it, rename it.

    Never is it open to more users than at the end. Where root writes it, it belongs to the owner of
    its folder: who runs the service has to read it. Only once the folder is synced too is it sure
    to outlast a power cut.
    mode: permissions, of which the process's umask takes away. Raises OSError; then the old file
    still stands.
    """
    temporary = file.with_name(file.name + ".tmp")
    try:
        # A file left over may be another user's, or have other permissions than ours.
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            give_to_owner_of_folder(fd, file.parent)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder outlast a power cut. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def give_to_owner_of_folder(fd: int, folder: Path) -> None:
    """Let a new file belong to its folder's owner, where root made it. Raises OSError."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(fd, owner.st_uid, owner.st_gid)
