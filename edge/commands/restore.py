"""`dlm-edge restore`: a backup back into place, on this controller or on a new one.

All of it is checked before anything is changed: each file against its SHA-256, and the
configuration, the meters, the tokens and the journal as the service would read them. What was there
before is moved aside, and nothing of it is deleted.

The state is put together in a folder of its own and then renamed into place, file by file: old ones
first, `state.json` last. A power cut in between leaves a service that has no meters, so that it
gives no power away but what is configured for that case, or refuses to start without its tokens;
restoring again completes it.

Only into the state folder itself and the configuration's is anything written: a backup does not say
where else on this machine. What it holds beside that is named, to be put there by hand.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.atomic import replace_file, sync_folder
from edge.clock import Clock
from edge.commands.archive import (
    CONFIG,
    ELSEWHERE,
    STATE,
    ArchiveError,
    Manifest,
    extract,
    read_manifest,
)
from edge.commands.backup import KEPT, is_kept
from edge.errors import ConfigError, JournalError, StateError
from edge.journal.copying import check_database
from edge.journal.schema import FILE_NAME
from edge.library import BUILT_IN, Library
from edge.meterspec import References
from edge.registry import STATE_FILE, load_state, lock_folder
from edge.settings import Config
from edge.times import timestamp
from edge.tokenfile import TokenFile

_JOURNAL_FILES = tuple(
    f"{FILE_NAME}{ending}" for ending in ("", "-wal", "-shm", ".new", ".new-wal")
)
_STAGING = ".restoring"

Load = Callable[[Path | None], Config]
"""Reads the configuration that a file makes, with environment and flags, as the service would.

Raises ConfigError."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge restore`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="what `dlm-edge backup` wrote")
    parser.add_argument(
        "--keep-config", action="store_true", help="leave the configuration here as it is"
    )


def run(args: argparse.Namespace, config_file: Path | None, load: Load) -> int:
    """Put a backup into place. config_file: where the configuration is, or is to be.

    Gives the exit code.
    """
    try:
        manifest = read_manifest(args.file)
        print(f"From {manifest.host}, {manifest.created}, dlm-edge {manifest.version}.")
        with tempfile.TemporaryDirectory(prefix="dlm-edge-restore-") as private:
            here = _Here(Path(private), None if args.keep_config else config_file)
            for name in _names_below(manifest, STATE):
                if not is_kept(name.removeprefix(f"{STATE}/")):
                    raise ArchiveError(f"{args.file} holds {name}, which no backup does.")
            if manifest.config and config_file is None:
                raise ArchiveError("It holds a configuration; say with --config where that goes.")
            extract(args.file, manifest, (CONFIG, ELSEWHERE), here.folder)
            with _candidate(manifest, here) as candidate:
                config = load(candidate or config_file)
                state = Path(config.state.dir).absolute()
                with _staged(args.file, manifest, state) as staged:
                    told = _check(staged, config, here)
                    told += _put_state(staged, state)
            if candidate is not None:
                told += _put_config(manifest, here)
    except (ArchiveError, ConfigError, JournalError, StateError) as error:
        print(f"{error}\nNothing was changed.", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"The backup was not restored, or not all of it ({error}). See to that, and restore it "
            "again: what was there before stays beside it.",
            file=sys.stderr,
        )
        return 1
    print(*told, sep="\n")
    for name in _names_below(manifest, ELSEWHERE):
        path = Path(name.removeprefix(ELSEWHERE))
        link = " (a link here, whose place it would take)" if path.is_symlink() else ""
        command = shlex.join(["tar", "-xzpf", "-", "-C", "/", "--strip-components=1", name])
        command += f" < {shlex.quote(str(args.file))}"
        print(f"Put {path} into place, if it belongs there{link}: {command}")
    print("Done; start the service.")
    return 0


@dataclass(frozen=True)
class _Here:
    """This controller, and what it may be given.

    folder: what the backup holds beside the state. config_file: where its configuration is to be;
    None if that is not restored.
    """

    folder: Path
    config_file: Path | None

    def of_backup(self, path: Path) -> Path:
        """Give the backup's own copy of a file or folder that is to be here, if it has one."""
        path = Path(os.path.realpath(path))
        copies = [self.folder / ELSEWHERE / path.relative_to("/")]
        if self.config_file is not None:
            beside = os.path.realpath(self.config_file.parent)
            if path.is_relative_to(beside):
                copies.append(self.folder / CONFIG / path.relative_to(beside))
        return next((copy for copy in copies if copy.exists()), path)


def _names_below(manifest: Manifest, top: str) -> list[str]:
    return [name for name in manifest.files if name.startswith(f"{top}/")]


# --- Reading it as the service would -------------------------------------------------------------


@contextmanager
def _candidate(manifest: Manifest, here: _Here) -> Iterator[Path | None]:
    """The backup's configuration in the folder where it is to be, so that paths mean the same."""
    if not manifest.config or here.config_file is None:
        yield None
        return
    folder = here.config_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    candidate = folder / f".{here.config_file.name}{_STAGING}"
    replace_file(candidate, (here.folder / manifest.config).read_bytes())
    try:
        yield candidate
    finally:
        candidate.unlink(missing_ok=True)


@contextmanager
def _staged(file: Path, manifest: Manifest, state: Path) -> Iterator[Path]:
    """The backup's state in a folder within the state folder, which no service has meanwhile."""
    is_new = not state.exists()
    lock_fd = lock_folder(state)
    staging = None
    try:
        for left_over in state.glob(f"{_STAGING}-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        # Of a name at which nobody can have put a link before.
        staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING}-", dir=state))
        extract(file, manifest, (STATE,), staging)
        staged = staging / STATE
        staged.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            _settle_owners(state, staged, is_new=is_new)
        yield staged
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        os.close(lock_fd)


def _settle_owners(state: Path, staged: Path, *, is_new: bool) -> None:
    """Let the state belong to one account: that of the folder, or the backup's if root made it."""
    files = list(staged.iterdir())
    theirs = [path.stat() for path in sorted(files, key=lambda path: path.name != STATE_FILE)]
    owner = theirs[0] if is_new and theirs else state.stat()
    for path in [state, staged, *files]:
        os.lchown(path, owner.st_uid, owner.st_gid)


def _check(staged: Path, config: Config, here: _Here) -> list[str]:
    """Read the state as the service would; says what is in it.

    Raises ConfigError, StateError, JournalError.
    """
    own = config.templates.dir
    folders = [BUILT_IN] if own is None else [here.of_backup(Path(own).absolute()), BUILT_IN]
    state = load_state(staged, References(Library(folders), config.mqtt.all()), set_aside=False)
    fault = TokenFile(staged).current().fault
    if fault:
        raise StateError(fault)
    what = f"It holds {len(state.meters)} meters"
    journal = staged / FILE_NAME
    if not journal.exists():
        return [*state.notices, f"{what} and no journal."]
    check_database(journal)
    return [
        *state.notices,
        f"{what} and a journal of {journal.stat().st_size / 1_000_000:,.1f} MB.",
    ]


# --- Putting it into place -----------------------------------------------------------------------


def _put_state(staged: Path, state: Path) -> list[str]:
    """Rename what is there into a folder beside, and what was staged into place."""
    new = sorted(path.name for path in staged.iterdir())
    new.sort(key=STATE_FILE.__eq__)
    old = [*(_JOURNAL_FILES if FILE_NAME in new else ()), *KEPT, *new]
    old = [name for name in dict.fromkeys(old) if os.path.lexists(state / name)]
    aside = _free_name(state / f"before-restore-{_stamp()}")
    aside.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(aside, state.stat().st_uid, state.stat().st_gid)
    for name in old:
        (state / name).rename(aside / name)
    for name in new:
        (staged / name).rename(state / name)
    sync_folder(aside)
    sync_folder(state)
    if not old:
        aside.rmdir()
        return [f"The state is in {state}."]
    return [f"The state is in {state}; what was there before is in {aside}."]


def _put_config(manifest: Manifest, here: _Here) -> list[str]:
    """Write the configuration and the files beside it; gives what was there before."""
    assert here.config_file is not None
    told = []
    for name in _names_below(manifest, CONFIG):
        is_main = name == manifest.config
        beside = here.config_file.parent / Path(name).relative_to(CONFIG)
        target = here.config_file if is_main else beside
        if target.is_symlink() and not is_main:
            told.append(f"{target} is a link here and stays one; the backup's own is {name} in it.")
            continue
        before = _put_file(here.folder / name, target)
        fate = f"; what was there before is {before}" if before else ""
        told.append(f"{target} is the backup's{fate}.")
    return told


def _put_file(source: Path, target: Path) -> Path | None:
    """Replace a file, keeping a copy of what it was; gives that copy. Raises OSError."""
    content, found, before = source.read_bytes(), source.stat(), None
    if target.exists():
        if target.read_bytes() == content:
            return None
        found = target.stat()
        before = _free_name(target.with_name(f"{target.name}.before-restore-{_stamp()}"))
        shutil.copy2(target, before)
        before.chmod(0o600)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, content)
    if os.geteuid() == 0:
        os.chown(target, found.st_uid, found.st_gid)
    target.chmod(stat.S_IMODE(found.st_mode))
    sync_folder(target.parent)
    return before


def _free_name(path: Path) -> Path:
    number = 1
    while os.path.lexists(free := path if number == 1 else path.with_name(f"{path.name}.{number}")):
        number += 1
    return free


def _stamp() -> str:
    return re.sub("[^0-9]", "", timestamp(Clock().unix_ms()))[:14]
