"""The file of tokens: what is kept of each, and how it is read and changed.

`tokens.json` in the state folder holds an scrypt hash of each token's secret, beside the key that
sessions are signed with: {"version": 1, "sessionKey", "tokens": {id: {"name", "role", "created",
"salt", "hash"}}}. It is for the owner's eyes, 0600.

Whoever may write the folder may change it, beside a running service: that one looks at the file
before each use and reads it again when it changed. A file that cannot be understood, or that went
away, has a fault until it is put right, and opens nothing meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import attrs

from edge.atomic import give_to_owner_of_folder, replace_file, sync_folder
from edge.checks import one_of, text
from edge.errors import Faulty, StateError
from edge.structure import camel_case, key, structure

VERSION = 1
TOKENS_FILE = "tokens.json"
LOCK_FILE = "tokens.lock"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_ID = re.compile(r"[0-9a-f]{8}")
_HEX = re.compile(r"(?:[0-9a-f]{2}){16,64}")
_MAX_BYTES = 1024 * 1024
_NO_FILE = ()

log = logging.getLogger("edge.tokens")


class Role(str, Enum):
    """What a token permits."""

    READER = "reader"
    """To look."""
    ADMIN = "admin"
    """To change things, too."""


def check_name(value: str) -> None:
    """Raise ValueError, with a sentence, unless a token may have this name.

    A name goes into the log and into answers, so it has nothing in it that could end a line.
    """
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 64 letters, digits, '.', '_', '@' or '-', and begin with one of the first"
        )


def _check_hex(value: str) -> None:
    if not _HEX.fullmatch(value):
        raise ValueError("must be hexadecimal digits")


@attrs.frozen
class Entry:
    """What is kept of one token. created: RFC 3339; salt, hash: hexadecimal."""

    name: str = key(check=check_name)
    role: str = key(check=one_of(*(role.value for role in Role)))
    created: str = key(check=text(40))
    salt: str = key(check=_check_hex, secret=True)
    hash: str = key(check=_check_hex, secret=True)


@attrs.frozen
class _Document:
    version: int = key()
    session_key: str = key(check=_check_hex, secret=True)
    tokens: dict[str, Entry] = key()


@dataclass(frozen=True)
class Stored:
    """What the file held when it was read last.

    mark: tells whether it changed since. fault: why it is of no use, one sentence; or empty.
    verified: digest of a whole token → its id, of those whose secret was found right.
    """

    mark: tuple[int, ...] | None = _NO_FILE
    entries: Mapping[str, Entry] = field(default_factory=dict)
    session_key: bytes | None = None
    fault: str = ""
    verified: dict[bytes, str] = field(default_factory=dict)


class TokenFile:
    """The file in a state folder. Any thread; each call reads it anew if it changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / TOKENS_FILE
        self._stored = Stored()
        self._read_lock = threading.Lock()

    def current(self) -> Stored:
        """What the file holds now."""
        mark = self._mark()
        if mark is not None and mark == self._stored.mark:
            return self._stored
        with self._read_lock:
            if mark is None or mark != self._stored.mark:
                self._stored = self._read(self._stored)
            return self._stored

    def _mark(self) -> tuple[int, ...] | None:
        """What changes with the file; None where that cannot be told."""
        try:
            return _mark_of(self._file.lstat())
        except FileNotFoundError:
            return _NO_FILE
        except OSError:
            return None

    def _read(self, before: Stored) -> Stored:
        try:
            mark, content = _read_file(self._file)
        except FileNotFoundError:
            if before.mark == _NO_FILE and not before.fault:
                return Stored()
            remedy = "put it back, or restart the service to begin without tokens"
            return Stored(fault=f"{self._file} is gone; {remedy}.")
        except OSError as exc:
            why, remedy = f"cannot be read ({exc.strerror})", "let the service's account read it"
            if exc.errno in (errno.ELOOP, errno.EISDIR, errno.EINVAL):
                why, remedy = "is a link or no file at all", "put the file itself there"
            return Stored(None, fault=f"{self._file} {why}; {remedy}.")
        try:
            document = _parse(content)
        except ValueError as exc:
            remedy = "remove it and add the tokens again"
            return Stored(mark, fault=f"{self._file} is damaged: {exc}; {remedy}.")
        entries = document.tokens
        key_ = bytes.fromhex(document.session_key)
        return Stored(mark, entries, key_, verified=_still_verified(before, entries))

    @contextmanager
    def changing(self) -> Iterator[Stored]:
        """Keep everyone else from changing the file, and give what it holds.

        Blocks while others change it. Raises StateError while it has a fault, or where the folder
        cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Not the file itself, which is replaced, nor the folder, which a service holds locked.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(self._folder / LOCK_FILE, flags, 0o600)
        except OSError as exc:
            raise _not_changed(exc) from exc
        try:
            try:
                give_to_owner_of_folder(fd, self._folder)
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as exc:
                raise _not_changed(exc) from exc
            stored = self.current()
            if stored.fault:
                raise StateError(stored.fault)
            yield stored
        finally:
            os.close(fd)

    def store(self, entries: Mapping[str, Entry], session_key: bytes | None) -> None:
        """Replace what it holds, while it is kept from others. session_key: None for a new one.

        Raises StateError; then nothing has changed, but where it says so.
        """
        document = _Document(VERSION, (session_key or secrets.token_bytes(32)).hex(), dict(entries))
        content = json.dumps(_spelled(document), indent=1) + "\n"
        try:
            replace_file(self._file, content.encode())
        except OSError as exc:
            raise _not_changed(exc) from exc
        try:
            sync_folder(self._folder)
        except OSError as exc:
            raise StateError(
                f"{TOKENS_FILE} was changed, but a power cut may undo that ({exc.strerror}); "
                "repair the disk, then look at `dlm-edge token list`."
            ) from exc


def _still_verified(before: Stored, entries: Mapping[str, Entry]) -> dict[bytes, str]:
    """What was found right of those tokens that are as they were, salt and hash included."""
    known = before.verified.copy()  # others may be adding to it
    return {digest: id_ for digest, id_ in known.items() if entries.get(id_) == before.entries[id_]}


def _read_file(file: Path) -> tuple[tuple[int, ...], bytes]:
    """A file's mark, and its content, both of the same moment. Raises OSError."""
    # Whatever it is a link to would be someone else's file, and a pipe would keep us waiting.
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as opened:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a file")
        if found.st_mode & 0o077:
            log.warning("Other users may read %s; take that from them with `chmod 600`.", file)
        return _mark_of(found), opened.read(_MAX_BYTES)


def _mark_of(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _parse(content: bytes) -> _Document:
    """Raises ValueError, saying what is wrong but nothing secret."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if isinstance(document, dict) and document.get("version") != VERSION:
        raise ValueError(f"its version is not {VERSION}, but of another dlm-edge")
    try:
        parsed = structure(_Document, document, camel_case)
    except Faulty as exc:
        raise ValueError(str(exc.faults[0])) from None
    names = {entry.name.casefold() for entry in parsed.tokens.values()}
    if len(names) < len(parsed.tokens) or not all(map(_ID.fullmatch, parsed.tokens)):
        raise ValueError("an id is none, or a name is there twice")
    return parsed


def _not_changed(exc: OSError) -> StateError:
    return StateError(
        f"The tokens cannot be changed ({exc.strerror}); free space, or use the account that the "
        "service runs with."
    )


def _spelled(document: _Document) -> dict[str, object]:
    return {camel_case(name): value for name, value in attrs.asdict(document).items()}
