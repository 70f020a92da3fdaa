"""Sessions of the dashboard: what the cookie holds, and what proves that a page of ours asks.

A cookie reads `<id of the token>.<end, unix s>.<nonce>.<signature>`. So nothing of it has to be
kept, and it outlasts a restart; it ends with its token, at its time, or when somebody logs out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass

LASTS_S = 7 * 86_400
CLOCK_STEP_S = 86_400
"""How far the clock may have been set back since a session began. Beyond it none is believed: its
end lies too far ahead, and with a clock that begins in 1970 it would never come."""
MOST_ENDED = 1000
"""Of sessions that somebody logged out of, how many are remembered."""

COOKIE = "dlm_session"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""Browsers take this name from the host itself over TLS only: nobody else can set it.
Source: RFC 6265bis, 4.1.3.2."""
_VALUE = re.compile(r"([0-9a-f]{8})\.([0-9]{1,12})\.([A-Za-z0-9_-]{22})\.([0-9a-f]{64})")


@dataclass(frozen=True)
class Session:
    """One session whose signature is right. value: the cookie's."""

    value: str
    token_id: str
    nonce: str
    csrf_token: str
    """What the page sends with each change; other pages cannot know it."""


class Sessions:
    """Makes, reads and ends sessions, all signed with `Tokens.session_key`. Any thread."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, None] = OrderedDict()

    def begin(self, key: bytes, token_id: str, now_s: int) -> Session:
        """Begin a session of a token."""
        nonce = secrets.token_urlsafe(16)
        signed = f"{token_id}.{now_s + LASTS_S}.{nonce}"
        return _session(key, f"{signed}.{_signature(key, 'session', signed)}", token_id, nonce)

    def read(self, key: bytes, value: str, now_s: int) -> Session | None:
        """Read the value of a cookie; None unless it is a session of ours that goes on."""
        match = _VALUE.fullmatch(value)
        if match is None:
            return None
        token_id, end_s, nonce, signature = match.groups()
        expected = _signature(key, "session", value.rpartition(".")[0])
        if not hmac.compare_digest(signature, expected) or nonce in self._ended:
            return None
        if not now_s < int(end_s) <= now_s + LASTS_S + CLOCK_STEP_S:
            return None
        return _session(key, value, token_id, nonce)

    def end(self, session: Session) -> None:
        """End a session, also for who has copied its cookie, as long as this process lives."""
        self._ended[session.nonce] = None
        if len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)


def cookie_of(header: str, *, secure: bool) -> str:
    """The session's value in a Cookie header; empty without one.

    With two of them there is none: someone else on this host has set the other.
    """
    # Repeated header fields come joined by commas, which no value of a cookie has in it.
    pairs = (pair.strip().partition("=") for pair in re.split("[;,]", header))
    values = [value for name, _, value in pairs if name == _name(secure=secure)]
    return values[0] if len(values) == 1 else ""


def set_cookie(value: str, *, secure: bool) -> tuple[str, str]:
    """The header that gives a browser its session, or, with an empty value, takes it away."""
    lasts_s = LASTS_S if value else 0
    flags = "; Secure" if secure else ""
    return (
        "Set-Cookie",
        f"{_name(secure=secure)}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Strict"
        f"{flags}",
    )


def is_csrf_token(session: Session, given: str) -> bool:
    """Tell whether a header holds what belongs to a session; takes as long whatever it holds."""
    return hmac.compare_digest(given.encode(), session.csrf_token.encode())


def _name(*, secure: bool) -> str:
    return SECURE_COOKIE if secure else COOKIE


def _session(key: bytes, value: str, token_id: str, nonce: str) -> Session:
    return Session(value, token_id, nonce, _signature(key, "csrf", value))


def _signature(key: bytes, purpose: str, text: str) -> str:
    return hmac.new(key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()
