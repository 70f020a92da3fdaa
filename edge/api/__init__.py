"""The API's contract: what the server hands to the routes, and what it gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One request, checked and complete.

    method: as sent, but GET for HEAD. path: percent-decoded, begins with `/` and has no control
    characters; `*` for a request about the server as a whole (OPTIONS only). query: decoded; no
    key is given twice. headers: lower-case names; repeated fields joined with ", ". body: at most
    64 KiB; of media type application/json with POST, PUT and PATCH.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. The server adds length, date, connection and security headers by itself."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
