"""`dlm-edge backup`: all that a controller has to remember, in one file, while the service runs.

That is the state folder, the configuration, and the files that it and the registered meters name.
The file holds secrets as they are, so it is for the owner's eyes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from edge import __version__
from edge.atomic import sync_folder
from edge.clock import Clock
from edge.commands.archive import CONFIG, ELSEWHERE, STATE, write_archive
from edge.config import API_FILES, BROKER_FILES, SINK_FILES
from edge.errors import JournalError
from edge.journal.copying import copy_database
from edge.journal.schema import FILE_NAME
from edge.registry import BACKUP_FILE, STATE_FILE
from edge.settings import Config
from edge.times import timestamp
from edge.tokenfile import TOKENS_FILE

KEPT = (STATE_FILE, BACKUP_FILE, TOKENS_FILE)
"""Files of the state folder that are in a backup, beside the journal."""
_NOTE = (
    "The file holds passwords, keys and all that was recorded: keep it where only you can read it."
)
_NICENESS = 19
"""The service on this machine goes first."""


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
        with tempfile.TemporaryDirectory(prefix=".dlm-edge-backup-", dir=output.parent) as private:
            folder = Path(private)
            missing = _gather(folder, args.config, config, with_journal=not args.without_journal)
            written = _write(folder, output, args.config)
    except JournalError as error:
        print(f"Nothing was written: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The backup cannot be written ({error}); see to its folder.", file=sys.stderr)
        return 1
    for path in missing:
        print(f"{path} is named but cannot be read, so it is not in the backup.", file=sys.stderr)
    print(f"{len(written)} files are in {output}: {', '.join(written)}")
    return 1 if missing else 0


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

    Gives the files that are named and cannot be read. Raises JournalError, OSError.
    """
    state = _real(Path(config.state.dir))
    (folder / STATE).mkdir()
    for name in KEPT:
        if (state / name).exists():
            _copy(state / name, folder / STATE / name)
    if with_journal and (state / FILE_NAME).exists():
        copy_database(state / FILE_NAME, folder / STATE / FILE_NAME)
    if not any((folder / STATE).iterdir()):
        raise FileNotFoundError(f"{state} holds no state; say with --state-dir where it is")
    named = [*files_named_by(config), *_files_named_by_meters(folder / STATE / STATE_FILE)]
    if config_file is not None:
        _copy(config_file, folder / CONFIG / config_file.name)
    missing = []
    for path in map(_real, dict.fromkeys(named)):
        try:
            _copy(path, folder / _place_of(path, state, config_file))
        except OSError:
            missing.append(path)
    return missing


def _place_of(path: Path, state: Path, config_file: Path | None) -> Path:
    """Where a file that is named goes in the archive."""
    if path.is_relative_to(state):
        return Path(STATE) / path.relative_to(state)
    if config_file is not None and path.is_relative_to(_real(config_file.parent)):
        return Path(CONFIG) / path.relative_to(_real(config_file.parent))
    return Path(ELSEWHERE) / path.relative_to("/")


def _files_named_by_meters(state_file: Path) -> Iterator[Path]:
    """The authorities of meters that are read over HTTPS. What is damaged names none."""
    try:
        meters = json.loads(state_file.read_bytes())["meters"]
        documents = [meter["registration"]["communication"] for meter in meters]
    except (OSError, ValueError, TypeError, KeyError):
        return
    yield from (Path(document["caFile"]) for document in documents if document.get("caFile"))


def _copy(source: Path, target: Path) -> None:
    """Copy a file, its permissions and, as root, its owner. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    shutil.copystat(source, target)
    if os.geteuid() == 0:
        found = source.stat()
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


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
