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

import attrs

from edge.api import Access, Caller, Request, Response
from edge.api.attempts import Attempts
from edge.api.documents import answer, json_body
from edge.api.origin import refuse_other_origin, refuse_unknown_host
from edge.api.sessions import Session, Sessions, cookie_of, is_csrf_token, set_cookie
from edge.checks import text
from edge.clock import Clock
from edge.errors import Faulty, RequestError
from edge.settings import ApiConfig
from edge.shapes import SessionInfo
from edge.structure import camel_case, key, structure
from edge.tokenfile import Role
from edge.tokens import Token, Tokens

_BEARER = re.compile(r"bearer +([^ ]+)", re.IGNORECASE)
_CHALLENGE = ("WWW-Authenticate", "Bearer")
_PROGRAMS_HERE = Caller("(local)", Role.ADMIN)
"""Who has the token of this run; no stored one can have such a name."""
_WHOEVER_CONNECTS = Caller("", Role.ADMIN)

_log = logging.getLogger("edge.api")


@attrs.frozen
class Login:
    """The body of POST /api/login."""

    token: str = key(check=text(200), secret=True)


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
        """Let a request in: who makes it, or None where everyone may ask, known or not.

        request: its body is not read. Raises RequestError 401, 403, 429 or 503. May wait for its
        turn to check a token, a few seconds.
        """
        access = self._access_of(request)
        if access is Access.PUBLIC:
            return None
        if self.is_open:
            refuse_unknown_host(request, (self._config.host, *self._config.allowed_hosts))
            return _WHOEVER_CONNECTS
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
        if caller.session:
            _, token = self._read_session(caller.session)
            return token is not None and caller == _caller_of(token)
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
            return answer(self._info(None, None))
        token = self._verified(request, body.token.strip())
        key_ = self._tokens.session_key
        if token is None or key_ is None:
            raise self._unauthorized("No such token is known; check that all of it was copied.")
        session = self._sessions.begin(key_, token.id, self._now_s())
        _log.info("%s logged in from %s", token.name, request.peer)
        cookie = set_cookie(session.value, secure=request.secure)
        return answer(self._info(_caller_of(token), session), headers=(cookie,))

    def log_out(self, request: Request) -> Response:
        """End the session of a browser, if it has one. Raises RequestError 403."""
        session, token = self._session(request)
        if session is not None and token is not None:
            refuse_other_origin(request)
            _require_csrf_token(request, session)
            self._sessions.end(session)
            _log.info("%s logged out from %s", token.name, request.peer)
        cookie = set_cookie("", secure=request.secure)
        return answer(self._info(None, None), headers=(cookie,))

    def show_session(self, request: Request) -> SessionInfo:
        """Say who asks, and what their page has to send with a change. Raises as `authorize`."""
        if self.is_open:
            return self._info(None, None)
        by_cookie = "authorization" not in request.headers
        return self._info(self._caller(request), self._session(request)[0] if by_cookie else None)

    def _info(self, caller: Caller | None, session: Session | None) -> SessionInfo:
        is_open = self.is_open
        role = Role.ADMIN if is_open else caller.role if caller else None
        return {
            "required": not is_open,
            "name": caller.name if caller else None,
            "role": role.value if role else None,
            "csrfToken": session.csrf_token if session else None,
        }

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
            refuse_other_origin(request)
            _require_csrf_token(request, session)
        return _caller_of(token, session)

    def _verified(self, request: Request, given: str) -> Token | None:
        """The token that a text is, checked within the limits of attempts. Raises RequestError."""
        known = self._tokens.recall(given)
        if known is not None:
            return known
        claimed = self._tokens.claimed(given)
        if claimed is None:
            self._attempts.fail(request.peer)
            return None
        return self._attempts.make(request.peer, claimed.id, lambda: self._tokens.verify(given))

    def _session(self, request: Request) -> tuple[Session, Token] | tuple[None, None]:
        """The session of a request's cookie, and its token, if both are still good."""
        value = cookie_of(request.headers.get("cookie", ""), secure=request.secure)
        return self._read_session(value)

    def _read_session(self, value: str) -> tuple[Session, Token] | tuple[None, None]:
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


def _require_csrf_token(request: Request, session: Session) -> None:
    """Refuse a change for which only a cookie vouches. Raises RequestError 403."""
    if not is_csrf_token(session, request.headers.get("x-csrf-token", "")):
        raise RequestError(
            403,
            "CSRF",
            "A change by a browser needs the header X-CSRF-Token as GET /api/session gives it; "
            "load the page again.",
        )


def _caller_of(token: Token, session: Session | None = None) -> Caller:
    return Caller(token.name, token.role, session.value if session else "")
