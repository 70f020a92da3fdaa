"""Tokens: who may use the API, kept as salted hashes in the state folder.

A token reads `dlm_<id>_<secret>`. Its id is no secret: it says which hash to compare with. Of the
secret, 256 random bits, an scrypt hash only is kept, in the file that `tokenfile` reads and
changes; while that one has a fault, nobody is let in.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from edge.atomic import replace_file
from edge.errors import ConfigError, Fault, StateError
from edge.heartbeat import Heartbeat
from edge.settings import ApiConfig
from edge.structure import shown
from edge.times import timestamp
from edge.tokenfile import Entry, Role, Stored, TokenFile, check_name

LOCAL_FILE = "local.token"
HASH_WITHIN_S = 60.0
"""A hash takes a second on a slow machine; one that takes longer hangs."""
MAX_TOKENS = 100
"""No site needs so many; who adds them by mistake shall not fill the disk and the memory."""

_TEXT = re.compile(r"dlm_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")

log = logging.getLogger("edge.tokens")


@dataclass(frozen=True)
class Token:
    """One token, without its secret. created: RFC 3339."""

    id: str
    name: str
    role: Role
    created: str


class Tokens:
    """The tokens of a state folder. Any thread; each call reads the file anew if it changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = TokenFile(folder)
        self._local_digest: bytes | None = None

    @property
    def heartbeat(self) -> Heartbeat:
        """That of the thread on which tokens are hashed."""
        return _hasher.heartbeat

    # --- Who is it? ---

    @property
    def are_needed(self) -> bool:
        """Whether there are any; where that cannot be told, there are."""
        stored = self._file.current()
        return bool(stored.entries or stored.fault)

    @property
    def fault(self) -> str:
        """Why the file cannot be used and nobody is let in, in one sentence; empty if it can."""
        return self._file.current().fault

    @property
    def session_key(self) -> bytes | None:
        """What sessions are signed with; None while there are no tokens that could have any."""
        return self._file.current().session_key

    def all(self) -> tuple[Token, ...]:
        """All tokens, the oldest first."""
        stored = self._file.current()
        return tuple(token for id_ in stored.entries if (token := _token(stored, id_)))

    def find(self, id_: str) -> Token | None:
        """The token of an id, if it was not removed."""
        return _token(self._file.current(), id_)

    def claimed(self, given: str) -> Token | None:
        """The token that a text claims to be, going by its id alone: nothing is proved by that."""
        match = _TEXT.fullmatch(given)
        return self.find(match[1]) if match else None

    def recall(self, given: str) -> Token | None:
        """The token that a text was found to be before. Costs next to nothing."""
        stored = self._file.current()
        return _recalled(stored, given)

    def verify(self, given: str) -> Token | None:
        """The token that a text is; None if it is none.

        Where there is such an id this takes the time and the 16 MB of one scrypt, after those that
        others wait for; the interpreter is free meanwhile. An unknown id takes none, which tells
        by the clock that it is unknown: that is no secret, and hashes made for show would keep
        those waiting who have a token. What was found right is recalled while it is stored.
        """
        match = _TEXT.fullmatch(given)
        if match is None:
            return None
        stored = self._file.current()
        if known := _recalled(stored, given):
            return known
        id_, secret = match.groups()
        entry = stored.entries.get(id_)
        if entry is None:
            return None
        made = _hasher.hash(secret, bytes.fromhex(entry.salt))
        if not hmac.compare_digest(made, bytes.fromhex(entry.hash)):
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
        with self._file.changing() as stored:
            if _named(stored, name):
                raise StateError(f"A token is named {name!r} already; choose another name.")
            if len(stored.entries) >= MAX_TOKENS:
                raise StateError(
                    f"There are {MAX_TOKENS} tokens, the most there can be; remove one first "
                    "(`dlm-edge token list`)."
                )
            given, id_, secret = _new_text(taken=stored.entries)
            salt = secrets.token_bytes(16)
            entry = Entry(
                name, role.value, timestamp(now_ms), salt.hex(), _hash(secret, salt).hex()
            )
            self._file.store({**stored.entries, id_: entry}, stored.session_key)
        return given

    def remove(self, name: str) -> Token:
        """Remove a token, which ends its sessions too. Raises StateError, as `add`."""
        with self._file.changing() as stored:
            id_ = _named(stored, name)
            token = _token(stored, id_ or "")
            if token is None:
                raise StateError(
                    f"No token is named {name!r}; `dlm-edge token list` lists those there are."
                )
            rest = {other: entry for other, entry in stored.entries.items() if other != id_}
            self._file.store(rest, stored.session_key)
        return token


def require_token_beyond_loopback(config: ApiConfig, tokens: Tokens) -> None:
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


def _token(stored: Stored, id_: str) -> Token | None:
    entry = stored.entries.get(id_)
    if entry is None:
        return None
    return Token(id_, entry.name, Role(entry.role), entry.created)


def _recalled(stored: Stored, given: str) -> Token | None:
    return _token(stored, stored.verified.get(_digest(given), ""))


def _named(stored: Stored, name: str) -> str | None:
    wanted = name.casefold()
    return next((i for i, entry in stored.entries.items() if entry.name.casefold() == wanted), None)


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


class _Hasher:
    """Makes the hashes of what clients send, one after the other on a thread of its own.

    What a hash takes is not given back to the system, but kept for the thread that made it. Were
    that each client's own, each would keep 16 MB. Source: glibc, mallopt(3), M_MMAP_THRESHOLD.
    """

    def __init__(self) -> None:
        self.heartbeat = Heartbeat("scrypt")
        self._asked: SimpleQueue[tuple[Future[bytes], str, bytes]] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def hash(self, secret: str, salt: bytes) -> bytes:
        """Give a hash. Any thread; blocks for those that were asked for before, and this one."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scrypt", daemon=True)
                self._thread.start()
        made: Future[bytes] = Future()
        self._asked.put((made, secret, salt))
        return made.result()

    def _run(self) -> None:
        while True:
            self.heartbeat.rest()
            made, secret, salt = self._asked.get()
            self.heartbeat.due_within(HASH_WITHIN_S)
            try:
                made.set_result(_hash(secret, salt))
            except Exception as exc:  # noqa: BLE001  raised where it was asked for
                made.set_exception(exc)


_hasher = _Hasher()
"""The only one of this process, since it is for the sake of the process's memory."""


def _digest(given: str) -> bytes:
    return hashlib.sha256(given.encode(errors="replace")).digest()
