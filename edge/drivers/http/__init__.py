"""HTTP: asks meters, and services that speak for meters, which answer with JSON.

    connection  one connection to an origin: the one module that touches urllib3
    secrets     what must not be shown where a server repeats it (pure)

Redirects are followed on the same origin only, so that credentials never leave it. Neither header
values nor the query, which may hold a token, are ever shown, nor what a server repeats of them. An
answer that repeats what a registration hides gives no value either: by a well-chosen path, values
would spell it out.

Sources: RFC 9110, sections 10.2.3 (Retry-After) and 15.4 (redirects); RFC 7617 (Basic).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from itertools import islice
from urllib.parse import quote, urljoin, urlsplit

from edge import __version__
from edge.clock import Clock
from edge.communication import HttpCommunication, HttpEndpoint
from edge.decode import combine
from edge.drivers.http.connection import Answer, OriginConnection, Request
from edge.drivers.http.secrets import may_be_shown, repeats, secrets
from edge.errors import BadReply, Cause, LineError, MeterError, Refused
from edge.model import Exchange, Finding, Meter, Outcome, Probe
from edge.payload import NAMES, likely_path, numbers, read_parts, shown
from edge.reach import ANYWHERE, Reach

MOST_REDIRECTS = 3
LONGEST_REST_S = 3600.0
"""However long a server asks to be left alone."""
LONGEST_PROBE_S = 10.0
"""However long a meter's time-out is: the line's other meters wait."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
_SAFE = "%/:=&?~+!$,;'@()*[]"
_NOT_SHOWN = "(not shown, since it repeats a header, password or token of the request)"
_RAW_CHARACTERS = 500
_SHOWN_NUMBERS = 12
_SHOWN_NAMES = 6
_LONGEST_URL = 200
_LONGEST_LIST = 250
_LONGEST_ADVICE = 120


class HttpDriver:
    """Asks the meters of one origin, over one connection. Line thread only.

    reach: which addresses it may connect to.
    """

    def __init__(self, endpoint: HttpEndpoint, clock: Clock, reach: Reach = ANYWHERE) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._connection = OriginConnection(endpoint, reach)

    @property
    def connected(self) -> bool:
        """Whether the connection is open; see `Line.connected`."""
        return self._connection.is_open

    @property
    def opened(self) -> int:
        """How often the connection was opened so far; see `Line.opened`."""
        return self._connection.opened

    def open(self, timeout_s: float) -> None:
        """Connect; see `Line.open`. A TLS handshake may take timeout_s once more."""
        self._connection.open(timeout_s)

    def close(self) -> None:
        """Close the connection; see `Line.close`."""
        self._connection.close()

    def forget(self, meters: Collection[Meter]) -> None:
        """Do nothing: nothing is learnt of meters here; see `Driver.forget`."""

    def poll(self, meter: Meter, *, trial: bool) -> Outcome:
        """Ask a meter; see `Driver.poll`. A single attempt, whether it is a trial or not.

        Blocks for the meter's time-out.
        """
        communication = _communication(meter)
        asked = self._clock.mono_s(), self._clock.unix_ms()
        try:
            body = self._ask(communication, communication.timeout_s)
            return _outcome(communication, body, asked)
        except MeterError as exc:
            return Outcome(error=exc)

    def probe(self, meter: Meter) -> Probe:
        """Ask a meter and explain what comes; see `Driver.probe`.

        Blocks for LONGEST_PROBE_S at most, and for the resolution of a host name.
        """
        communication = _communication(meter)
        question = f"{communication.method} {_url(self._endpoint, communication.target)}"
        until_s = time.monotonic() + LONGEST_PROBE_S
        asked = self._clock.mono_s(), self._clock.unix_ms()
        try:
            # A name may have two addresses, and TLS takes its time too.
            self.open(min(communication.timeout_s, LONGEST_PROBE_S / 4))
            asked = self._clock.mono_s(), self._clock.unix_ms()
            left_s = max(0.1, until_s - time.monotonic())
            body = self._ask(communication, min(communication.timeout_s, left_s))
        except (LineError, MeterError) as exc:
            failed = Exchange(question, None, self._clock.mono_s() - asked[0], str(exc))
            return Probe(None, (failed,), (Finding(exc.cause, str(exc)),))
        round_trip_s = self._clock.mono_s() - asked[0]
        raw = shown(body, _RAW_CHARACTERS) if may_be_shown(communication, body) else _NOT_SHOWN
        outcome = _outcome(communication, body, asked)
        error = str(outcome.error) if outcome.error else None
        return Probe(
            outcome if outcome.values else None,
            (Exchange(question, raw, round_trip_s, error),),
            tuple(_findings(communication, body, outcome)),
        )

    def _ask(self, communication: HttpCommunication, timeout_s: float) -> bytes:
        """Give the body of a good answer, redirects followed. Raises MeterError or LineError."""
        hidden, doubtful = secrets(communication)
        request = Request(
            url=_url(self._endpoint, communication.target),
            method=communication.method,
            target=communication.target,
            headers=_headers(communication),
            body=communication.body,
            timeout_s=timeout_s,
            # The machine's own clock, as the sockets': it is only waited for.
            deadline_s=time.monotonic() + timeout_s,
        )
        for _ in range(MOST_REDIRECTS + 1):
            answer = self._connection.exchange(request)
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                _check_status(request, answer, self._clock.unix_ms())
                return answer.body
            request = _redirected(self._endpoint, request, answer, hidden | doubtful)
        raise Refused(
            answer.status,
            f"{request.url} redirects more than {MOST_REDIRECTS} times; set url to where it ends.",
            Cause.HTTP_STATUS,
        )


def _communication(meter: Meter) -> HttpCommunication:
    assert isinstance(meter.communication, HttpCommunication)
    return meter.communication


def _headers(communication: HttpCommunication) -> dict[str, str]:
    headers = dict(communication.headers)
    if "user-agent" not in map(str.lower, headers):
        headers["User-Agent"] = f"dlm-edge/{__version__}"
    return headers


def _url(endpoint: HttpEndpoint, target: str) -> str:
    """What messages call an address: without the query, which may hold a token."""
    return _cut(endpoint.name + target.partition("?")[0], _LONGEST_URL)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


# --- Values --------------------------------------------------------------------------------------


def _outcome(communication: HttpCommunication, body: bytes, asked: tuple[float, int]) -> Outcome:
    """What the body of an answer comes to; asked: mono_s and unix_ms of the request."""
    hidden, _ = secrets(communication)
    if repeats(body.decode("utf-8", "replace"), hidden):
        return Outcome(
            error=BadReply(
                "The answer repeats a token, password or secret header of the request, so nothing "
                "of it is used or shown; choose a url whose answer does not."
            )
        )
    is_shown = may_be_shown(communication, body)
    if is_shown and body.lstrip()[:1] == b"<":
        page = f"The answer is a web page or XML, not JSON: {shown(body)}; check url."
        return Outcome(error=BadReply(page))
    found, error = read_parts(body, communication.fields)
    if error is not None and not is_shown:
        error = BadReply(f"The answer is unreadable {_NOT_SHOWN}; check url and paths.")
    values = {quantity: value for quantity, value in found.items() if value is not None}
    paths = {field.quantity: field.path for field in communication.fields if field.path}
    combined = combine(values, found.keys() | paths.keys(), invert=communication.invert)
    return Outcome(combined, *asked, error=error or _missing(communication, found, paths))


def _missing(
    communication: HttpCommunication, found: Mapping[str, float | None], paths: Mapping[str, str]
) -> BadReply | None:
    """Say what is not there of what was asked for; that is all with a path, and power."""
    absent = [f"{name}Path {path!r}" for name, path in paths.items() if name not in found]
    if absent:
        where = _cut(", ".join(absent), _LONGEST_LIST)
        return BadReply(f"The answer has nothing at {where}; correct the path.")
    if not found:
        names = [name for field in communication.fields for name in NAMES[field.quantity]]
        more = " …" if len(names) > _SHOWN_NAMES else ""
        return BadReply(
            "The answer has no field that is known by its name "
            f"({', '.join(names[:_SHOWN_NAMES])}{more}); set powerPath."
        )
    empty = [quantity for quantity, value in found.items() if value is None]
    if len(empty) == len(found) or not paths.keys().isdisjoint(empty) or "power" in empty:
        return BadReply(
            f"The answer says that there is no value for {', '.join(empty)}; check the meter.",
            Cause.NO_VALUE,
        )
    return None


def _findings(communication: HttpCommunication, body: bytes, outcome: Outcome) -> Iterator[Finding]:
    """What is wrong with an answer, and the paths that may be meant."""
    if outcome.error is not None:
        yield Finding(outcome.error.cause, str(outcome.error))
        if outcome.error.cause is Cause.NO_VALUE:
            return
    wanted = [field.quantity for field in communication.fields if field.path]
    missing = [name for name in dict.fromkeys(["power", *wanted]) if name not in outcome.values]
    there = numbers(body) if may_be_shown(communication, body) else {}
    there = {path: value for path, value in there.items() if len(path) <= _LONGEST_ADVICE}
    if not there:
        return
    listed = ", ".join(
        f"{path} ({value:g})" for path, value in islice(there.items(), _SHOWN_NUMBERS)
    )
    listed = _cut(listed, _LONGEST_LIST)
    more = " …" if len(there) > _SHOWN_NUMBERS else ""
    for quantity in missing:
        path = likely_path(quantity, there)
        advice = f"try {quantity}Path {path!r}" if path else f"set {quantity}Path to one of them"
        yield Finding(
            Cause.UNREADABLE,
            f"There is no value for {quantity}; the answer has these numbers: {listed}{more}; "
            f"{advice}.",
        )


# --- Answers that are no reading -----------------------------------------------------------------


def _check_status(request: Request, answer: Answer, unix_ms: int) -> None:
    """Raise Refused unless the status says that all is well."""
    status = answer.status
    if 200 <= status < 300:
        return
    rest_s = _retry_after_s(answer, unix_ms)
    cause = Cause.HTTP_STATUS
    if status in (401, 403):
        cause, what = Cause.NOT_AUTHORISED, _authorisation(request, answer)
    elif status == 429 or (status == 503 and rest_s):
        cause = Cause.TOO_MANY_REQUESTS
        what = f"asks to be left alone for {rest_s:.0f} s" if rest_s else "is asked too often"
        what += f" (HTTP {status}); raise pollInterval"
    elif status in (404, 410):
        what = f"is not there (HTTP {status}); check the path in url"
    elif status == 405:
        what = f"does not take {request.method} (HTTP 405); set method"
    elif status >= 500:
        what = f"failed with HTTP {status}; restart the device if it stays"
    else:
        what = f"answered with HTTP {status}; check url, method, headers and body"
    raise Refused(status, f"{request.url} {what}.", cause, rest_s)


def _authorisation(request: Request, answer: Answer) -> str:
    if answer.headers.get("www-authenticate", "").lower().startswith("digest"):
        return (
            f"wants Digest authentication (HTTP {answer.status}), which is not spoken here; "
            "switch off the device's password, or read it over MQTT"
        )
    if any(name.lower() == "authorization" for name in request.headers):
        return (
            f"refused the token or password (HTTP {answer.status}); check authToken, or username "
            "and password"
        )
    return (
        f"wants a token or password (HTTP {answer.status}); set authToken, or username and password"
    )


def _retry_after_s(answer: Answer, unix_ms: int) -> float:
    """How long the server asks to be left alone, at most an hour; 0 where it does not say."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(LONGEST_REST_S, float(text[:9]))
    until_s = _http_date_s(text)
    # Reckoned by the server's own clock, if it tells the time: ours may be wrong.
    now_s = _http_date_s(answer.headers.get("date", "")) or unix_ms / 1000
    return min(LONGEST_REST_S, max(0.0, until_s - now_s)) if until_s else 0.0


def _http_date_s(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _redirected(
    endpoint: HttpEndpoint, request: Request, answer: Answer, secrets: Collection[str]
) -> Request:
    """Give the request that an answer redirects to. Raises Refused where it is another origin.

    Neither the error nor the request's url, which messages show, repeats one of the secrets.
    """
    scheme = host = path = query = ""
    port: int | None = None
    try:
        to = urlsplit(urljoin(endpoint.name + request.target, answer.headers["location"]))
        scheme, host, path, query = to.scheme, to.hostname or "", to.path or "/", to.query
        port = to.port or _PORTS.get(scheme)
    except ValueError:
        pass  # no address at all is another origin, too
    is_shown = not repeats(f"{host} {path}", secrets)
    if (scheme, host, port) != (endpoint.scheme, endpoint.host.lower(), endpoint.port):
        where = shown(f"{scheme}://{host}:{port}{path}".encode()) if host else "no usable address"
        raise Refused(
            answer.status,
            f"{request.url} redirects to {where if is_shown else _NOT_SHOWN} "
            f"(HTTP {answer.status}), where no credentials are sent, since it is another origin; "
            "set url to it if it is right.",
            Cause.HTTP_STATUS,
        )
    target = quote(path, _SAFE) + (f"?{quote(query, _SAFE)}" if query else "")
    url = _url(endpoint, target) if is_shown else request.url
    request = replace(request, target=target, url=url)
    if answer.status != 303:
        return request
    headers = {k: v for k, v in request.headers.items() if not k.lower().startswith("content-")}
    return replace(request, method="GET", headers=headers, body=None)
