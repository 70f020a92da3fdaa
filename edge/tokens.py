"""Tokens: who may use the API, kept as salted hashes in the state folder.

A token reads `dlm_<id>_<secret>`. Its id is no secret: it says which hash to compare with. Of the
secret, 256 random bits, `tokens.json` holds an scrypt hash only, beside the key that sessions are
signed with: {"version": 1, "sessionKey", "tokens": {id: {"name", "role", "created", "salt",
"hash"}}}. Both are for the owner's eyes, 0600.

Whoever may write the folder may add and remove tokens, beside a running service: that one looks at
the file before each use and reads it again when it changed. A file that cannot be understood, or
that went away, opens nothing: nobody is let in until it is put right.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
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
from edge.errors import ConfigError, Fault, Faulty, StateError
from edge.settings import ApiConfig
from edge.structure import camel_case, key, one_of, shown, structure, text
from edge.times import timestamp

VERSION = 1
TOKENS_FILE = "tokens.json"
LOCAL_FILE = "local.token"
LOCK_FILE = "tokens.lock"
MAX_TOKENS = 100
"""No site needs so many; who adds them by mistake shall not fill the disk and the memory."""

_TEXT = re.compile(r"dlm_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
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


@dataclass(frozen=True)
class Token:
    """One token, without its secret. created: RFC 3339."""

    id: str
    name: str
    role: Role
    created: str


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
class _Entry:
    name: str = key(check=check_name)
    role: str = key(check=one_of(*(role.value for role in Role)))
    created: str = key(check=text(40))
    salt: str = key(check=_check_hex, secret=True)
    hash: str = key(check=_check_hex, secret=True)


@attrs.frozen
class _Document:
    version: int = key()
    session_key: str = key(check=_check_hex, secret=True)
    tokens: dict[str, _Entry] = key()


@dataclass(frozen=True)
class _Stored:
    """What the file held when it was read last.

    mark: tells whether it changed since. fault: why it is of no use, one sentence; or empty.
    verified: digest of a whole token → its id, of those whose secret was found right.
    """

    mark: tuple[int, ...] | None = _NO_FILE
    entries: Mapping[str, _Entry] = field(default_factory=dict)
    session_key: bytes | None = None
    fault: str = ""
    verified: dict[bytes, str] = field(default_factory=dict)

    def token(self, id_: str) -> Token | None:
        entry = self.entries.get(id_)
        if entry is None:
            return None
        return Token(id_, entry.name, Role(entry.role), entry.created)


class Tokens:
    """The tokens of a state folder. Any thread; each call reads the file anew if it changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / TOKENS_FILE
        self._stored = _Stored()
        self._read_lock = threading.Lock()
        self._unknown_salt = secrets.token_bytes(16)
        self._local_digest: bytes | None = None

    # --- Who is it? ---

    @property
    def are_needed(self) -> bool:
        """Whether there are any; where that cannot be told, there are."""
        stored = self._current()
        return bool(stored.entries or stored.fault)

    @property
    def fault(self) -> str:
        """Why the file cannot be used and nobody is let in, in one sentence; empty if it can."""
        return self._current().fault

    @property
    def session_key(self) -> bytes | None:
        """What sessions are signed with; None while there are no tokens that could have any."""
        return self._current().session_key

    def all(self) -> tuple[Token, ...]:
        """All tokens, the oldest first."""
        stored = self._current()
        return tuple(token for id_ in stored.entries if (token := stored.token(id_)))

    def find(self, id_: str) -> Token | None:
        """The token of an id, if it was not removed."""
        return self._current().token(id_)

    def claimed(self, given: str) -> Token | None:
        """The token that a text claims to be, going by its id alone: nothing is proved by that."""
        match = _TEXT.fullmatch(given)
        return self.find(match[1]) if match else None

    def recall(self, given: str) -> Token | None:
        """The token that a text was found to be before. Costs next to nothing."""
        stored = self._current()
        return stored.token(stored.verified.get(_digest(given), ""))

    def verify(self, given: str) -> Token | None:
        """The token that a text is; None if it is none.

        Takes the time and the 16 MB of one scrypt, whether or not the id is known; the interpreter
        is free meanwhile. What was found right is recalled until the file changes.
        """
        match = _TEXT.fullmatch(given)
        if match is None:
            return None
        stored = self._current()
        if known := stored.token(stored.verified.get(_digest(given), "")):
            return known
        id_, secret = match.groups()
        entry = stored.entries.get(id_)
        salt = bytes.fromhex(entry.salt) if entry else self._unknown_salt
        expected = bytes.fromhex(entry.hash) if entry else b""
        if not hmac.compare_digest(_hash(secret, salt), expected):
            return None
        stored.verified[_digest(given)] = id_
        return self.find(id_)  # it may have been removed meanwhile

    # --- The token of this run ---

    def issue_local(self) -> None:
        """Write an admin's token for the programs that may read the state folder.

        It is good while this process lives. A disk that does not take it is told in the log.
        """
        given, _, _ = _new_text()
        try:
            replace_file(self._folder / LOCAL_FILE, f"{given}\n".encode())
        except OSError as exc:
            log.warning(
                "%s cannot be written (%s), so commands such as `dlm-edge export` are not let in "
                "while the service runs; repair the disk.", LOCAL_FILE, exc.strerror,
            )  # fmt: skip
            return
        self._local_digest = _digest(given)

    def is_local(self, given: str) -> bool:
        """Tell whether a text is the token that this process issued to programs here."""
        return self._local_digest is not None and hmac.compare_digest(
            _digest(given), self._local_digest
        )

    # --- Changes, by whoever may write the folder ---

    def add(self, name: str, role: Role, now_ms: int) -> str:
        """Store a new token and give its text, which nobody can find out later.

        Raises StateError; then nothing has changed. Raises ValueError for a name as `check_name`.
        """
        check_name(name)
        with self._changing() as stored:
            if _named(stored, name):
                raise StateError(f"A token is named {name!r} already; choose another name.")
            if len(stored.entries) >= MAX_TOKENS:
                raise StateError(f"There are {MAX_TOKENS} tokens, the most there can be.")
            given, id_, secret = _new_text(taken=stored.entries)
            salt = secrets.token_bytes(16)
            entry = _Entry(
                name, role.value, timestamp(now_ms), salt.hex(), _hash(secret, salt).hex()
            )
            self._store({**stored.entries, id_: entry}, stored.session_key)
        return given

    def remove(self, name: str) -> Token:
        """Remove a token, which ends its sessions too. Raises StateError, as `add`."""
        with self._changing() as stored:
            id_ = _named(stored, name)
            token = stored.token(id_ or "")
            if token is None:
                raise StateError(
                    f"No token is named {name!r}; `dlm-edge token list` lists those there are."
                )
            rest = {other: entry for other, entry in stored.entries.items() if other != id_}
            self._store(rest, stored.session_key)
        return token

    @contextmanager
    def _changing(self) -> Iterator[_Stored]:
        """Keep everyone else from changing the file, and give what it holds. Blocks for them."""
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
            stored = self._current()
            if stored.fault:
                raise StateError(stored.fault)
            yield stored
        finally:
            os.close(fd)

    def _store(self, entries: Mapping[str, _Entry], session_key: bytes | None) -> None:
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

    # --- The file ---

    def _current(self) -> _Stored:
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

    def _read(self, before: _Stored) -> _Stored:
        try:
            mark, content = _read_file(self._file)
        except FileNotFoundError:
            if before.mark == _NO_FILE and not before.fault:
                return _Stored()
            return _Stored(fault=f"{self._file} is gone; put it back, or restart without it.")
        except OSError as exc:
            why = "is a link" if exc.errno == errno.ELOOP else f"cannot be read ({exc.strerror})"
            return _Stored(None, fault=_useless(self._file, why, "fix that"))
        try:
            document = _parse(content)
        except ValueError as exc:
            remedy = "remove it and add the tokens again"
            return _Stored(mark, fault=_useless(self._file, f"is damaged: {exc}", remedy))
        return _Stored(mark, document.tokens, bytes.fromhex(document.session_key))


def require_lock(config: ApiConfig, tokens: Tokens) -> None:
    """Refuse to be reached from the network while nobody would be asked for a token.

    Raises ConfigError with one fault at `api.host`.
    """
    if config.on_loopback or config.allow_unauthenticated or tokens.are_needed:
        return
    fault = Fault(
        "api.host",
        f"{shown(config.host)} can be reached from the network, and there is no token to ask for; "
        "run `dlm-edge token add NAME --role admin`, use 127.0.0.1, or set "
        "api.allow_unauthenticated = true on a network that you trust",
    )
    raise ConfigError("", [fault])


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


def _useless(file: Path, why: str, remedy: str) -> str:
    return f"{file} {why}; {remedy}."


def _not_changed(exc: OSError) -> StateError:
    return StateError(
        f"The tokens cannot be changed ({exc.strerror}); free space, or use the account that the "
        "service runs with."
    )


def _named(stored: _Stored, name: str) -> str | None:
    wanted = name.casefold()
    return next((i for i, entry in stored.entries.items() if entry.name.casefold() == wanted), None)


def _spelled(document: _Document) -> dict[str, object]:
    return {camel_case(name): value for name, value in attrs.asdict(document).items()}


def _new_text(taken: Mapping[str, object] | None = None) -> tuple[str, str, str]:
    """A new token: its text, its id and its secret."""
    id_ = secrets.token_hex(4)
    while taken and id_ in taken:
        id_ = secrets.token_hex(4)
    secret = secrets.token_urlsafe(32)
    return f"dlm_{id_}_{secret}", id_, secret


def _hash(secret: str, salt: bytes) -> bytes:
    """Source of the cost: RFC 7914, 2; 128 · n · r bytes of memory, 16 MiB."""
    return hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)


def _digest(given: str) -> bytes:
    return hashlib.sha256(given.encode(errors="replace")).digest()
