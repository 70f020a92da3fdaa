"""`dlm-edge backup`: all that a controller has to remember, in one file, while the service runs.

That is the state folder, the configuration, and the files that it and the registered meters name.
The file holds secrets as they are, so it is for the owner's eyes.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from edge import __version__
from edge.atomic import sync_folder
from edge.clock import Clock
from edge.commands.archive import CONFIG, ELSEWHERE, STATE, write_archive
from edge.config import API_FILES, BROKER_FILES, SINK_FILES
from edge.errors import DlmError, JournalError
from edge.journal.copying import copy_database
from edge.journal.schema import FILE_NAME
from edge.paths import printable
from edge.registry import BACKUP_FILE, STATE_FILE
from edge.settings import Config
from edge.times import timestamp
from edge.tokenfile import LOCK_FILE, TOKENS_FILE
from edge.tokens import LOCAL_FILE

KEPT = (STATE_FILE, BACKUP_FILE, TOKENS_FILE)
"""Files of the state folder that are in a backup, beside the journal."""
_OWN_NAMES = (STATE_FILE, TOKENS_FILE, LOCK_FILE, LOCAL_FILE, FILE_NAME, "before-restore-", ".")
"""How the names begin of what the service and `dlm-edge restore` make in the state folder."""
_MOST_NAMED_BYTES = 1024 * 1024
"""Certificates, keys, passwords and templates are all smaller."""
_MOST_LINKS = 40
"""As many as the system itself follows; source: path_resolution(7)."""
_NOT_THERE = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG),
}
"""What is wrong with a name, not with the disk."""
_NOTE = (
    "The file holds passwords, keys and all that was recorded: keep it where only you can read it."
)
_MOST_PATH = 4096
"""Characters; source: PATH_MAX of limits.h."""
_NICENESS = 19
"""The service on this machine goes first."""


class _BackupError(DlmError):
    """There is nothing to back up; one sentence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge backup`."""
    parser.epilog = _NOTE
    parser.add_argument("file", type=Path, metavar="FILE", help="such as dlm-edge.tar.gz")
    parser.add_argument("--without-journal", action="store_true", help="leave out the recordings")


def run(args: argparse.Namespace, config: Config) -> int:
    """Write the backup. Gives the exit code; a file is replaced when all of it is written."""
    os.nice(_NICENESS)
    output: Path = args.file.absolute()
    try:
        with (
            _unwound_by_signals(),
            tempfile.TemporaryDirectory(prefix=".dlm-edge-backup-", dir=output.parent) as private,
        ):
            folder = Path(private)
            missing = _gather(folder, args.config, config, with_journal=not args.without_journal)
            written = _write(folder, output, args.config)
    except (JournalError, _BackupError) as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The backup cannot be written ({error}); see to its folder.", file=sys.stderr)
        return 1
    for path in missing:
        name = printable(str(path), _MOST_PATH)
        print(
            f"{name} is named but not in the backup: it cannot be read, has over 1 MB, or is no "
            "plain file, or not one that the service may read and has not made; copy it by hand.",
            file=sys.stderr,
        )
    print(f"{len(written)} files are in {output}: {', '.join(written)}")
    return 1 if missing else 0


def is_kept(name: str) -> bool:
    """Tell whether a backup may have a file of this name from the state folder."""
    return name in (*KEPT, FILE_NAME) or not ("/" in name or name.startswith(_OWN_NAMES))


@contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """Let those that end the process raise SystemExit, so that no half of a backup stays behind."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    heard = [
        one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def files_named_by(config: Config) -> Iterator[Path]:
    """Give the files that a configuration names; of the folder of templates, all templates."""
    sections: list[tuple[Any, tuple[str, ...]]] = [(config.api, API_FILES)]
    sections += ((broker, BROKER_FILES) for broker in config.mqtt.brokers.values())
    sections += ((sink, SINK_FILES) for sink in config.sinks.values())
    for section, names in sections:
        for name in set(names) & {field.name for field in attrs.fields(type(section))}:
            if path := getattr(section, name):
                yield Path(path)
    if config.templates.dir is not None:
        yield from sorted(Path(config.templates.dir).glob("*.toml"))


def _gather(
    folder: Path, config_file: Path | None, config: Config, *, with_journal: bool
) -> list[Path]:
    """Copy all that belongs to a backup to where it is to be in the archive.

    Gives the files that are named and are not taken. Raises _BackupError, JournalError, OSError.
    """
    state = _real(Path(config.state.dir))
    (folder / STATE).mkdir()
    for name in KEPT:
        if (state / name).exists():
            _put(folder / STATE / name, *_read(state / name))
    if with_journal and (state / FILE_NAME).exists():
        copy_database(state / FILE_NAME, folder / STATE / FILE_NAME)
        _make_alike(folder / STATE / FILE_NAME, (state / FILE_NAME).stat())
    if not any((folder / STATE).iterdir()):
        raise _BackupError(f"{state} holds no state; say with --state-dir where it is.")
    if config_file is not None:
        _put(folder / CONFIG / config_file.name, *_read(_real(config_file)))
    # This may run as root. Who registers meters may name any file, and the service's account may
    # put a link to any file into its folder.
    service = state.stat()
    by_config = {
        path: service if _leads_through(path, state) else None
        for path in map(_beside_real, files_named_by(config))
    }
    by_meters = map(_beside_real, _files_named_by_meters(folder / STATE / STATE_FILE))
    named = {**dict.fromkeys(by_meters, service), **by_config}
    places = {path: folder / _place_of(path, state, config_file) for path in named}
    return [
        path
        for path, reader in named.items()
        if not os.path.lexists(places[path]) and not _take_named(path, reader, state, places[path])
    ]


def _take_named(path: Path, reader: os.stat_result | None, state: Path, target: Path) -> bool:
    """Copy a file that is named, unless it is none that a backup takes; tells whether it was.

    reader: what belongs to the account that must be able to read it; None for who runs this.
    Raises OSError.
    """
    real = _real(path)
    if any(each.parent == state and each.name.startswith(_OWN_NAMES) for each in (path, real)):
        return False
    try:
        content, found = _read(real, _MOST_NAMED_BYTES)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return False
    if reader is not None and not _is_readable_by(reader, found):
        return False
    _put(target, content, found)
    return True


def _place_of(path: Path, state: Path, config_file: Path | None) -> Path:
    """Where a file that is named goes in the archive."""
    if path.parent == state:
        return Path(STATE) / path.name
    if config_file is not None and path.is_relative_to(_real(config_file.parent)):
        return Path(CONFIG) / path.relative_to(_real(config_file.parent))
    return Path(ELSEWHERE) / path.relative_to("/")


def _files_named_by_meters(state_file: Path) -> Iterator[Path]:
    """The authorities of meters that are read over HTTPS. What is damaged names none."""
    try:
        meters = json.loads(state_file.read_bytes())["meters"]
        names = [meter["registration"]["communication"].get("caFile") for meter in meters]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    yield from (Path(name) for name in names if isinstance(name, str) and _can_be_path(name))


def _can_be_path(name: str) -> bool:
    """Tell whether a file may have this name: none is empty, has a NUL or half a character."""
    try:
        return bool(os.fsencode(name)) and "\0" not in name
    except UnicodeEncodeError:
        return False


def _read(path: Path, most_bytes: int | None = None) -> tuple[bytes, os.stat_result]:
    """Read a file, and whose it is. Raises PermissionError for a longer one, and OSError."""
    unfit = PermissionError(errno.EACCES, "no regular file, or too large", str(path))
    # Opening a device may already do something, as that of a watchdog.
    if not path.is_file():
        raise unfit
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise unfit
        content = file.read(-1 if most_bytes is None else most_bytes + 1)
    if most_bytes is not None and len(content) > most_bytes:
        raise unfit
    return content, found


def _is_readable_by(account: os.stat_result, file: os.stat_result) -> bool:
    """Tell whether the account that something belongs to may read a file, by its own mode."""
    if file.st_uid == account.st_uid:
        return bool(file.st_mode & stat.S_IRUSR)
    if file.st_gid == account.st_gid:
        return bool(file.st_mode & stat.S_IRGRP)
    return bool(file.st_mode & stat.S_IROTH)


def _put(target: Path, content: bytes, found: os.stat_result) -> None:
    """Write a copy of a file. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    _make_alike(target, found)


def _make_alike(target: Path, found: os.stat_result) -> None:
    """Give a copy the time and permissions of a file and, as root, its owner. Raises OSError."""
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    target.chmod(stat.S_IMODE(found.st_mode))
    if os.geteuid() == 0:
        os.chown(target, found.st_uid, found.st_gid)


def _write(folder: Path, output: Path, config_file: Path | None) -> list[str]:
    """Write the archive, which gets its name when it is whole; gives what is in it."""
    part = folder / "part"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        manifest = write_archive(
            file,
            folder,
            version=__version__,
            created=timestamp(Clock().unix_ms()),
            host=socket.gethostname(),
            config=f"{CONFIG}/{config_file.name}" if config_file is not None else "",
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, output)
    sync_folder(output.parent)
    return list(manifest.files)


def _leads_through(path: Path, folder: Path) -> bool:
    """Tell whether a file or, if it is a link, any that it leads to lies below a folder."""
    for _ in range(_MOST_LINKS):
        if path.is_relative_to(folder):
            return True
        if not path.is_symlink():
            return False
        path = _beside_real(path.parent / path.readlink())
    return True


def _beside_real(path: Path) -> Path:
    """Give a path whose folders are none of them links; the file itself may be one."""
    return _real(path.parent) / path.name


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
