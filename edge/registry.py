"""The registered meters, and `state.json`, which keeps them over restarts.

Format: {"version": 1, "meters": [{"id", "slot", "registration"}, …]}, where `registration` is the
document as it was accepted. `slot` is the meter's place in the order of polling; a new meter takes
the lowest free one.

A change is written to a temporary file, synced, renamed over the old one, and the folder synced;
before that the old content is kept as `state.json.bak` in the same way. So at any moment, whatever
is killed, both are whole, each of one generation. When the folder cannot be synced, the new file is
in place but might not outlast a power cut: the old one is put back, and the change is refused.

A file that cannot be understood is set aside with the ending `.broken`, the backup is used, and
both are said in `notices`: the service never starts empty in silence. A meter that is understood
but not valid (edited by hand, or from a newer version) stops the start with its faults, because
without it too much power would seem free.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.atomic import replace_file, sync_folder
from edge.errors import ConfigError, DlmError, Fault, Faulty, RequestError, StateError
from edge.meterspec import References, line_conflicts, parse_meter
from edge.meterspec.secrets import carry_over, not_carried
from edge.model import Meter
from edge.structure import merge_patch

VERSION = 1
STATE_FILE = "state.json"
BACKUP_FILE = "state.json.bak"
BROKEN_ENDING = ".broken"
MAX_METERS = 5000
"""No site has so many; whoever registers more by mistake shall not fill the disk."""
SHOWN_WITHIN_S = 10
"""A change shows at the next tick; a caller waits no longer than this for it."""

_ID = re.compile(r"meter_[A-Za-z0-9]+")

log = logging.getLogger("EnergyMeterManager")


class Registry:
    """Sole writer of `state.json`. `meters` may be read from any thread.

    references: what registrations may refer to. changed: called with the new meters after they
    were stored, in the order of the changes; it must not block. Its future is done when the change
    shows to readers, which a change waits for.
    """

    def __init__(
        self,
        folder: Path,
        references: References,
        changed: Callable[[tuple[Meter, ...]], Future[None]],
    ) -> None:
        self.meters: tuple[Meter, ...] = ()
        """In order of registration; never changed, replaced whole."""
        self.notices: tuple[str, ...] = ()
        """What had to be mended at the start, one sentence each."""
        self._folder = folder
        self._references = references
        self._changed = changed
        self._stored = b""
        self._lock_fd: int | None = None
        # Changes are rare, and only other changes wait for this lock: it may be held across I/O.
        self._change_lock = threading.Lock()

    def open(self) -> None:
        """Read the stored meters; for the life of the process nobody else may write them.

        Raises StateError when the folder cannot be used, ConfigError when a meter is not valid.
        """
        self._lock_fd = lock_folder(self._folder)
        try:
            stored = load_state(self._folder, self._references, set_aside=True)
        except DlmError:
            self.close()
            raise
        self.meters, self._stored, self.notices = stored.meters, stored.content, stored.notices
        state = self._folder / STATE_FILE
        if self._stored and not state.exists():
            # Two copies again at once; a disk that refuses will say so at the next change.
            with suppress(OSError):
                replace_file(state, self._stored)
                sync_folder(self._folder)

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def add(self, document: Any) -> Meter:
        """Register a meter. Raises RequestError or StateError; then nothing has changed.

        Blocks for the write to disk, and until the change shows.
        """
        with self._change_lock:
            if len(self.meters) >= MAX_METERS:
                message = f"{MAX_METERS} meters are registered, the most there can be; remove some."
                raise RequestError(409, "TOO_MANY_METERS", message)
            meter = self.parse(document, _new_id(), self._free_index())
            self._check_against_others(meter)
            self._store((*self.meters, meter))
            log.info("Registered meter: %s", meter.name)
            shown = self._changed(self.meters)
        wait([shown], SHOWN_WITHIN_S)
        return meter

    def update(self, meter_id: str, patch: Any) -> Meter:
        """Apply a JSON Merge Patch to a meter's registration; as `add`."""
        with self._change_lock:
            old = self._find(meter_id)
            if not isinstance(patch, dict):
                raise _invalid([Fault("", "must be an object with the keys to change")])
            merged = carry_over(old.document, merge_patch(old.document, patch))
            meter = self.parse(merged, old.id, old.phase_index)
            faults = not_carried(old, patch, meter)
            if faults:
                raise _invalid(faults)
            self._check_against_others(meter)
            self._store(tuple(meter if other is old else other for other in self.meters))
            log.info("Updated meter: %s", meter.name)
            shown = self._changed(self.meters)
        wait([shown], SHOWN_WITHIN_S)
        return meter

    def remove(self, meter_id: str) -> Meter:
        """Take a meter out; as `add`. Returns the removed one."""
        with self._change_lock:
            meter = self._find(meter_id)
            self._store(tuple(other for other in self.meters if other is not meter))
            log.info("Removed meter: %s", meter.name)
            shown = self._changed(self.meters)
        wait([shown], SHOWN_WITHIN_S)
        return meter

    def parse(self, document: Any, meter_id: str = "meter_0", phase_index: int = 0) -> Meter:
        """Make a Meter of a registration without registering it. Raises RequestError."""
        try:
            return parse_meter(document, meter_id, phase_index, self._references)
        except Faulty as exc:
            raise _invalid(exc.faults) from None

    def _find(self, meter_id: str) -> Meter:
        for meter in self.meters:
            if meter.id == meter_id:
                return meter
        raise meter_not_found(meter_id)

    def _free_index(self) -> int:
        taken = {meter.phase_index for meter in self.meters}
        return next(index for index in range(len(taken) + 1) if index not in taken)

    def _check_against_others(self, meter: Meter) -> None:
        for other in self.meters:
            if other.id != meter.id and _alike(other.name, meter.name):
                message = f"a meter named {other.name!r} is registered already as {other.id}"
                raise RequestError(
                    409,
                    "DUPLICATE_NAME",
                    f"{message[0].upper()}{message[1:]}; choose another name, or change that one "
                    "with PUT.",
                    [Fault("name", message)],
                )
        conflicts = line_conflicts(meter, self.meters)
        if conflicts:
            raise _invalid(conflicts)

    def _store(self, meters: tuple[Meter, ...]) -> None:
        """Put `meters` in force, on disk and then in memory. Raises StateError; then neither is."""
        content = _dump(meters)
        state, backup = self._folder / STATE_FILE, self._folder / BACKUP_FILE
        try:
            if self._stored:
                replace_file(backup, self._stored)
            replace_file(state, content)
        except OSError as exc:
            raise _not_stored(exc, "so nothing was changed") from exc
        try:
            sync_folder(self._folder)
        except OSError as exc:
            try:
                if self._stored:
                    os.replace(backup, state)
                else:
                    state.unlink()
            except OSError:
                fate = f"nor be undone; it is not in force, but may be in {STATE_FILE}"
            else:
                fate = "so nothing was changed"
            raise _not_stored(exc, fate) from exc
        self._stored = content
        self.meters = meters


@dataclass(frozen=True)
class StoredState:
    """What a state folder holds. content: the file's bytes; notices: what is not as it should."""

    meters: tuple[Meter, ...] = ()
    content: bytes = b""
    notices: tuple[str, ...] = ()


def load_state(folder: Path, references: References, *, set_aside: bool) -> StoredState:
    """Read the stored meters, from the backup where the file itself is of no use.

    references: what registrations may refer to; a meter outside of its reach is read all the same,
    and is an error when it is connected to. set_aside: move a damaged file out of the way; else
    nothing on disk is changed.
    Raises StateError when a file cannot be read, ConfigError when a meter is not valid.
    """
    references = replace(references, reach=None)
    notices = []
    for file in (folder / STATE_FILE, folder / BACKUP_FILE):
        content = _read(file)
        if content is None:
            continue
        entries = _entries(file, content)
        if entries is None:
            fate = f"was set aside as {_set_aside(file).name}" if set_aside else "cannot be used"
            notices.append(f"{file.name} is damaged and {fate}.")
            continue
        if file.name == BACKUP_FILE:
            notices.append(
                f"{STATE_FILE} was missing or damaged, so the {len(entries)} meters of "
                f"{BACKUP_FILE} are used; check that the last change is among them."
            )
        meters = _parse_entries(file, entries, references)
        return StoredState(meters, content, tuple(notices))
    if not notices:
        broken = sorted(file.name for file in folder.glob(f"{STATE_FILE}*{BROKEN_ENDING}*"))
        notices = [f"{name} was set aside as damaged earlier." for name in broken]
    if notices:
        notices.append(
            "No meters could be restored; register them again, or put back a copy of "
            f"{STATE_FILE} and restart."
        )
    return StoredState(notices=tuple(notices))


def meter_not_found(meter_id: str) -> RequestError:
    """The answer for an id that no registered meter has."""
    return RequestError(
        404,
        "METER_NOT_FOUND",
        f"No meter has the id {meter_id!r}; GET /api/energy-meters lists those there are.",
    )


def lock_folder(folder: Path) -> int:
    """Make the folder and lock it for this process; the file descriptor that holds the lock.

    Raises StateError, also while another process has it.

    The folder itself is locked, not a file in it, which also works on a disk that turned read-only:
    meters can then be read still, though not changed.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise _unusable(folder, exc) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = _holder_of(fd)
        os.close(fd)
        if isinstance(exc, BlockingIOError):
            raise StateError(
                f"{folder} is used by another dlm-edge{holder}; stop it, or give another "
                "--state-dir."
            ) from None
        raise _unusable(folder, exc) from exc
    return fd


def _holder_of(fd: int) -> str:
    """Say which process has a file locked; nothing where the system does not tell.

    Source: proc_locks(5): "1: FLOCK ADVISORY WRITE 1234 08:01:131 0 EOF", where 0 is a process that
    cannot be seen from here, as one of another container.
    """
    status = os.fstat(fd)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            _, kind, _, _, process, locked, *_ = line.split()
            if (kind, locked) == ("FLOCK", file) and process != "0":
                return f" (process {process})"
    return ""


def _unusable(folder: Path, exc: OSError) -> StateError:
    return StateError(
        f"{folder} cannot be used ({exc.strerror}); fix its permissions or give another "
        "--state-dir."
    )


def _not_stored(exc: OSError, fate: str) -> StateError:
    return StateError(
        f"The change could not be stored in {STATE_FILE} ({exc.strerror}), {fate}; free space or "
        "repair the disk, then try again."
    )


def _dump(meters: tuple[Meter, ...]) -> bytes:
    entries = [
        {"id": meter.id, "slot": meter.phase_index, "registration": meter.document}
        for meter in meters
    ]
    document = {"version": VERSION, "meters": entries}
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _read(file: Path) -> bytes | None:
    """The file's content; None when there is none, and empty when it cannot be a file of ours."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno in (errno.EISDIR, errno.EIO):  # EIO: a bad spot on the card
            return b""
        raise StateError(
            f"{file} cannot be read ({exc.strerror}); fix its permissions or give another "
            "--state-dir."
        ) from exc


def _entries(file: Path, content: bytes) -> list[dict[str, Any]] | None:
    """The stored entries; None when the file is damaged.

    Raises ConfigError for a file of a newer service: it is sound, but not for us to read.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or type(document.get("version")) is not int:
        return None
    if document["version"] < 1:
        return None
    if document["version"] > VERSION:
        message = f"is of a newer dlm-edge than this one, which knows {VERSION}; install that one"
        raise ConfigError(str(file), [Fault("version", message)])
    entries = document.get("meters")
    if not isinstance(entries, list):
        return None
    for entry in entries:
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("id"), str)
            and type(entry.get("slot")) is int
            and entry["slot"] >= 0
            and isinstance(entry.get("registration"), dict)
        ):
            return None
    return entries


def _parse_entries(
    file: Path, entries: list[dict[str, Any]], references: References
) -> tuple[Meter, ...]:
    meters: list[Meter] = []
    faults: list[Fault] = []
    for number, entry in enumerate(entries):
        place = f"meters[{number}]"
        if not _ID.fullmatch(entry["id"]):
            message = f"must be 'meter_' with letters and digits, not {entry['id']!r}"
            faults.append(Fault(f"{place}.id", message))
        try:
            meter = parse_meter(entry["registration"], entry["id"], entry["slot"], references)
        except Faulty as exc:
            faults.extend(_below(f"{place}.registration", exc.faults))
            continue
        for other in meters:
            if other.id == meter.id or _alike(other.name, meter.name):
                faults.append(Fault(place, f"appears twice ({meter.name!r}); delete one of them"))
            elif other.phase_index == meter.phase_index:
                message = f"is that of {other.name!r} too; give another number, 0 or above"
                faults.append(Fault(f"{place}.slot", message))
        faults.extend(_below(f"{place}.registration", line_conflicts(meter, meters)))
        meters.append(meter)
    if faults:
        raise ConfigError(str(file), faults)
    return tuple(meters)


def _alike(one: str, other: str) -> bool:
    """Whether two names look the same to a person."""
    return _looks(one) == _looks(other)


def _looks(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _below(place: str, faults: Iterable[Fault]) -> list[Fault]:
    return [Fault(f"{place}.{fault.path}", fault.message) for fault in faults]


def _set_aside(file: Path) -> Path:
    number = 0
    while (target := file.with_name(f"{file.name}{BROKEN_ENDING}{number or ''}")).exists():
        number += 1
    try:
        os.replace(file, target)
    except OSError as exc:
        raise StateError(
            f"{file} is damaged and cannot be set aside ({exc.strerror}); repair the disk."
        ) from exc
    return target


def _invalid(faults: Sequence[Fault]) -> RequestError:
    first = f"{faults[0]}"
    more = f" (and {len(faults) - 1} more faults, see details)" if len(faults) > 1 else ""
    return RequestError(
        400, "VALIDATION_ERROR", f"The registration cannot be used: {first}{more}.", faults
    )


def _new_id() -> str:
    return f"meter_{os.urandom(6).hex()}"
