"""The API's contract: what the server hands to the routes, and what it gets back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from edge.tokenfile import Role


class Access(Enum):
    """Who may make a call, where tokens are asked for."""

    PUBLIC = auto()
    """Everyone: it shows nothing of the site."""
    METRICS = auto()
    """Everyone where `api.metrics_public` says so, else as READER."""
    READER = auto()
    """Who has a token of either role."""
    ADMIN = auto()
    """Who has a token of the role `admin`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of the token, and what it permits.

    name: empty where nobody is asked for a token, and whoever connects may do everything.
    session: the cookie that vouches for it; empty where the token itself was sent.
    """

    name: str
    role: Role
    session: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, checked and complete.

    method: as sent, but GET for HEAD. path: percent-decoded, begins with `/` and has no control
    characters; `*` for a request about the server as a whole (OPTIONS only). query: decoded; no
    key is given twice. headers: lower-case names; repeated fields joined with ", ". body: at most
    64 KiB; of media type application/json with POST, PUT and PATCH. peer: the client's address.
    secure: it came over TLS. caller: who asks; None where everyone may.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: str = ""
    secure: bool = False
    caller: Caller | None = None


class Stream(Protocol):
    """A body in pieces, each made when the one before was sent; a generator is one.

    All calls come from the client's thread. `close` is called once, whether or not a piece was
    asked for. A piece holds the interpreter no longer than another thread can wait; it raises
    DlmError when the rest cannot be had: the client then sees the connection break off, since an
    answer cut short must not look whole.
    """

    def __iter__(self) -> Stream: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. The server adds length, date, connection and security headers by itself.

    stream: makes what follows after `body`, piece by piece; the length is not known then.
    takeover: with 101 only: takes the connection over once the head was sent, as another protocol.
    Called on the client's thread with the socket, which it owns from then on, and what the client
    sent behind its request; must not block.
    """

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    stream: Stream | None = None
    takeover: Callable[[socket.socket, bytes], None] | None = None
