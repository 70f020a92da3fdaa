"""The front door: who asks, and whether they may.

Nobody is asked for a token where there is none and only this machine can connect, or where
`api.allow_unauthenticated` says so. Otherwise a program sends one with each request, and a browser
gets a session for one. Such a cookie goes along by itself, whatever page makes the browser ask; so
a change needs what only a page of ours knows, too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Annotated, TypedDict

import attrs

from edge.api import Caller, Request, Response
from edge.api.attempts import Attempts
from edge.api.route import Access, answer, json_body
from edge.api.sessions import Session, Sessions, cookie_of, is_csrf_token, set_cookie
from edge.clock import Clock
from edge.errors import Faulty, RequestError
from edge.settings import ApiConfig
from edge.structure import camel_case, key, structure, text
from edge.tokens import Role, Token, Tokens

_BEARER = re.compile(r"bearer +([^ ]+)", re.IGNORECASE)
_ORIGIN = re.compile(r"(https?)://([^/]+)")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_CHALLENGE = ("WWW-Authenticate", "Bearer")
_PROGRAMS_HERE = Caller("(local)", Role.ADMIN)
"""Who has the token of this run; no stored one can have such a name."""

_log = logging.getLogger("edge.api")


@attrs.frozen
class Login:
    """The body of POST /api/login."""

    token: str = key(check=text(200), secret=True)


class Who(TypedDict):
    """Whether a token is needed, and who asks."""

    required: bool
    name: Annotated[str | None, "of the token"]
    role: Annotated[str, Role] | None
    csrfToken: Annotated[str | None, "goes into X-CSRF-Token with each change by cookie"]


class Door:
    """Says who may make a request. Any thread.

    access_of: who may make a call, as its row in the table of calls says.
    """

    def __init__(
        self,
        tokens: Tokens,
        access_of: Callable[[Request], Access],
        config: ApiConfig,
        clock: Clock,
    ) -> None:
        self._tokens = tokens
        self._access_of = access_of
        self._config = config
        self._clock = clock
        self._attempts = Attempts(clock)
        self._sessions = Sessions()
        self._told = ""
        self._tell_fault()

    def authorize(self, request: Request) -> Caller | None:
        """Let a request in: who makes it, or None where nobody has to say.

        request: its body is not read. Raises RequestError 401, 403, 429 or 503. May wait for its
        turn to check a token, a few seconds.
        """
        access = self._access_of(request)
        if access is Access.PUBLIC or self.is_open:
            return None
        if access is Access.METRICS and self._metrics_are_public:
            return None
        caller = self._caller(request)
        if caller is None:
            raise self._unauthorized("Send a token as `Authorization: Bearer …`, or log in.")
        if access is Access.ADMIN and caller.role is not Role.ADMIN:
            raise RequestError(
                403, "FORBIDDEN", f"The token {caller.name!r} may only look; use an admin's token."
            )
        return caller

    @property
    def is_open(self) -> bool:
        """Whether everyone who can connect may do everything."""
        if self._config.allow_unauthenticated:
            return True
        return self._config.on_loopback and not self._tokens.are_needed

    def admits(self, caller: Caller | None) -> bool:
        """Tell whether who was let in would be still; for what lasts longer than a request."""
        if caller is None or self.is_open:
            return self.is_open
        return caller == _PROGRAMS_HERE or caller in map(_caller_of, self._tokens.all())

    # --- Calls of the dashboard ---

    def log_in(self, request: Request) -> Response:
        """Begin a session of the token in the body. Raises RequestError; blocks as `authorize`."""
        refuse_other_origin(request)
        try:
            body = structure(Login, json_body(request), camel_case)
        except Faulty as exc:
            message = f"The login cannot be used: {exc.faults[0]}."
            raise RequestError(400, "VALIDATION_ERROR", message, exc.faults) from None
        if self.is_open:
            return self._who(None, None)
        token = self._verified(request, body.token.strip())
        key_ = self._tokens.session_key
        if token is None or key_ is None:
            raise self._unauthorized("No such token is known; check that all of it was copied.")
        session = self._sessions.begin(key_, token.id, self._now_s())
        _log.info("%s logged in from %s", token.name, request.peer)
        cookie = set_cookie(session.value, secure=request.secure)
        return self._who(_caller_of(token), session, cookie)

    def log_out(self, request: Request) -> Response:
        """End the session of a browser, if it has one. Raises RequestError 403."""
        session, _ = self._session(request)
        if session is not None:
            _refuse_foreign_page(request, session)
            self._sessions.end(session)
        return self._who(None, None, set_cookie("", secure=request.secure))

    def show_session(self, request: Request) -> Response:
        """Say who asks, and what their page has to send with a change. Raises as `authorize`."""
        if self.is_open:
            return self._who(None, None)
        by_cookie = "authorization" not in request.headers
        return self._who(self._caller(request), self._session(request)[0] if by_cookie else None)

    def _who(
        self, caller: Caller | None, session: Session | None, *headers: tuple[str, str]
    ) -> Response:
        is_open = self.is_open
        role = Role.ADMIN if is_open else caller.role if caller else None
        who: Who = {
            "required": not is_open,
            "name": caller.name if caller else None,
            "role": role.value if role else None,
            "csrfToken": session.csrf_token if session else None,
        }
        return answer(who, headers=headers)

    # --- Who asks ---

    def _caller(self, request: Request) -> Caller | None:
        """Who a request proves to come from; None when it does not say. Raises RequestError."""
        credentials = request.headers.get("authorization")
        if credentials is not None:
            match = _BEARER.fullmatch(credentials)
            if match is not None and self._tokens.is_local(match[1]):
                return _PROGRAMS_HERE
            token = self._verified(request, match[1] if match else "")
            if token is None:
                raise self._unauthorized(
                    "The token is not known; send one as `dlm-edge token` made it."
                )
            return _caller_of(token)
        session, token = self._session(request)
        if session is None or token is None:
            return None
        if request.method != "GET":
            _refuse_foreign_page(request, session)
        return _caller_of(token)

    def _verified(self, request: Request, given: str) -> Token | None:
        """The token that a text is, checked within the limits of attempts. Raises RequestError."""
        known = self._tokens.recall(given)
        if known is not None:
            return known
        claimed = self._tokens.claimed(given)
        return self._attempts.make(
            request.peer, claimed.id if claimed else "", lambda: self._tokens.verify(given)
        )

    def _session(self, request: Request) -> tuple[Session, Token] | tuple[None, None]:
        """The session of a request's cookie, and its token, if both are still good."""
        value = cookie_of(request.headers.get("cookie", ""), secure=request.secure)
        key_ = self._tokens.session_key
        if not value or key_ is None:
            return None, None
        session = self._sessions.read(key_, value, self._now_s())
        token = self._tokens.find(session.token_id) if session else None
        return (session, token) if session and token else (None, None)

    def _unauthorized(self, message: str) -> RequestError:
        if self._tell_fault():
            message = "The service cannot read its tokens and lets nobody in; see its log."
        return RequestError(401, "UNAUTHORIZED", message, headers=(_CHALLENGE,))

    def _tell_fault(self) -> bool:
        """Say once in the log why nobody is let in, if the tokens cannot be read."""
        fault = self._tokens.fault
        if fault and fault != self._told:
            _log.error("%s Until then nobody is let in.", fault)
        self._told = fault
        return bool(fault)

    def _now_s(self) -> int:
        return self._clock.unix_ms() // 1000

    @property
    def _metrics_are_public(self) -> bool:
        said = self._config.metrics_public
        return self._config.on_loopback if said is None else said


def refuse_other_origin(request: Request) -> None:
    """Refuse what a web page that is not ours makes a browser send. Raises RequestError 403.

    A browser says in Origin where the page is from, and in Host whom it believes to ask. The scheme
    may differ: a proxy in front of us may be who speaks TLS.
    """
    origin = request.headers.get("origin")
    if origin is None:  # no browser, or nothing that another page may have made
        return
    match = _ORIGIN.fullmatch(origin.lower())
    if match is not None:
        port = _DEFAULT_PORTS[match[1]]
        host = request.headers.get("host", "").lower()
        if match[2].removesuffix(port) == host.removesuffix(port):
            return
    raise RequestError(
        403,
        "FOREIGN_ORIGIN",
        "A web page from elsewhere may not change anything here; a proxy in between has to pass "
        "the Host header on.",
    )


def _refuse_foreign_page(request: Request, session: Session) -> None:
    """Refuse a change that a cookie alone vouches for. Raises RequestError 403."""
    refuse_other_origin(request)
    if not is_csrf_token(session, request.headers.get("x-csrf-token", "")):
        raise RequestError(
            403,
            "CSRF",
            "A change by a browser needs the header X-CSRF-Token as GET /api/session gives it; "
            "load the page again.",
        )


def _caller_of(token: Token) -> Caller:
    return Caller(token.name, token.role)
