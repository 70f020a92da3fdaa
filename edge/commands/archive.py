"""The file that a backup is: a gzipped tar of a manifest and the files that it names.

    manifest.json       `Manifest`: what is in it, with the SHA-256 of each file
    config/…            the configuration, and what it names beside it
    elsewhere/…         what it names in other folders, by their absolute paths
    state/…             the state folder, without what is of one run only

They stand in this order, so that the large journal is last.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

import attrs

from edge.checks import between, text
from edge.errors import DlmError, Faulty
from edge.structure import key, structure

FORMAT = 1
CONFIG, ELSEWHERE, STATE = "config", "elsewhere", "state"
_MANIFEST = "manifest.json"
_FOLDERS = (CONFIG, ELSEWHERE, STATE)
_MOST_MANIFEST_BYTES = 4 * 1024 * 1024
_GZIP_LEVEL = 1
"""The journal's blocks are compressed already, and the controller has other things to do."""
_PIECE_BYTES = 1024 * 1024


class ArchiveError(DlmError):
    """The file is no backup, or not whole; one sentence."""


@attrs.frozen
class Entry:
    """What a file of the archive must be."""

    sha256: str = key(check=text(64))
    size: int = key(check=between(0, 2**50, "bytes"))


@attrs.frozen
class Manifest:
    """What a backup holds. version: of the dlm-edge that made it; created: RFC 3339.

    config: the name of the configuration itself; empty if there is none. files: by their paths in
    the archive.
    """

    format: int = key()
    version: str = key(check=text(100))
    created: str = key(check=text(40))
    host: str = key()
    config: str = key()
    files: dict[str, Entry] = key()


def write_archive(
    output: IO[bytes], folder: Path, *, version: str, created: str, host: str, config: str
) -> Manifest:
    """Write all files of a folder, which has the archive's own folders in it; as of `Manifest`.

    Owners and permissions are kept. Raises OSError. Blocks for the disk.
    """
    files = [path for top in _FOLDERS for path in sorted((folder / top).rglob("*"))]
    files = sorted((path for path in files if path.is_file()), key=_state_last(folder))
    entries = {
        path.relative_to(folder).as_posix(): Entry(_sha256_of(path), path.stat().st_size)
        for path in files
    }
    manifest = Manifest(FORMAT, version, created, host, config, entries)
    (folder / _MANIFEST).write_text(json.dumps(attrs.asdict(manifest), indent=1) + "\n", "utf-8")
    with tarfile.open(fileobj=output, mode="w:gz", compresslevel=_GZIP_LEVEL) as tar:
        for path in [folder / _MANIFEST, *files]:
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False)
    return manifest


def _state_last(folder: Path) -> Callable[[Path], tuple[int, int]]:
    """Orders files by their folders, and those of the state by their size."""

    def order(path: Path) -> tuple[int, int]:
        top = path.relative_to(folder).parts[0]
        return _FOLDERS.index(top), path.stat().st_size if top == STATE else 0

    return order


def read_manifest(file: Path) -> Manifest:
    """Read what a backup says that it holds. Raises ArchiveError."""
    with _opened(file) as tar:
        member = tar.next()
        if member is None or member.name != _MANIFEST or member.size > _MOST_MANIFEST_BYTES:
            raise ArchiveError(f"{file} is no backup of dlm-edge: it has no manifest in front.")
        content = _content(tar, member).read()
    try:
        document = json.loads(content)
        found = document["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArchiveError(f"{file} has a manifest that cannot be read ({error!r}).") from error
    if found != FORMAT:
        raise ArchiveError(
            f"{file} has format {found}, and this version reads {FORMAT}; install the version that "
            "made it."
        )
    try:
        manifest = structure(Manifest, document)
    except Faulty as error:
        raise ArchiveError(f"{file} has a faulty manifest: {error.faults[0]}.") from None
    for name in manifest.files:
        if not is_inside(name):
            raise ArchiveError(f"{file} has a faulty manifest: {name!r} is no path of a backup.")
    if manifest.config and manifest.config not in manifest.files:
        raise ArchiveError(f"{file} has a faulty manifest: it names a configuration it has not.")
    return manifest


def is_inside(name: str) -> bool:
    """Tell whether a name is that of a file below one of the archive's folders."""
    path = PurePosixPath(name)
    is_plain = str(path) == name and ".." not in path.parts and len(path.parts) > 1
    return is_plain and path.parts[0] in _FOLDERS


def extract(file: Path, manifest: Manifest, wanted: tuple[str, ...], folder: Path) -> None:
    """Write the files below some of the archive's folders into a folder, and check each.

    As root, they get their owners, where there are such here; those of the state are for the owner
    alone. Raises ArchiveError when anything of them is missing or is not what the manifest says, or
    there is no room for them, OSError. Blocks for the disk. folder: is there.
    """
    tops = tuple(f"{top}/" for top in wanted)
    missing = {name: entry for name, entry in manifest.files.items() if name.startswith(tops)}
    needed, free = sum(entry.size for entry in missing.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise ArchiveError(
            f"{folder} has {free:,} bytes free, and {needed:,} are needed; make room there."
        )
    with _opened(file) as tar:
        while missing:
            member = tar.next()
            if member is None:
                raise ArchiveError(f"{file} is cut off: {min(missing)} is not in it.")
            entry = missing.pop(member.name, None)
            if entry is not None:
                _extract(tar, member, entry, folder / member.name)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, entry: Entry, target: Path) -> None:
    source = _content(tar, member)
    if member.size != entry.size:
        raise ArchiveError(f"{member.name} is not what was backed up: its size is another.")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(target, flags, 0o600), "wb") as output:
        while piece := source.read(_PIECE_BYTES):
            digest.update(piece)
            output.write(piece)
        output.flush()
        os.fsync(output.fileno())
    if digest.hexdigest() != entry.sha256:
        raise ArchiveError(f"{member.name} is not what was backed up: its SHA-256 is another.")
    if os.geteuid() == 0 and member.uname and member.gname:
        with suppress(LookupError):
            shutil.chown(target, member.uname, member.gname)
    if not member.name.startswith(f"{STATE}/"):
        target.chmod(member.mode & 0o777)


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        opened = file.open("rb")
    except OSError as error:
        raise ArchiveError(f"{file} cannot be read ({error.strerror}).") from error
    try:
        with opened, tarfile.open(fileobj=opened, mode="r:gz") as tar:
            yield tar
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(f"{file} is damaged or no backup ({error}).") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise ArchiveError(f"{member.name} is no file in the archive.")
    return content


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
