"""The connection to a server: one, kept open between requests. The only module here that connects.

Each request ends in time, and in bytes, however slowly its answer comes. Who we are is read anew
from its file with each connection, and there is a new one after each request that failed, was not
authorised, or whose answer was not read to its end. Nothing is repeated or redirected here. Neither
credentials nor the path of a request stand in any message.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, LocationParseError, ReadTimeoutError
from urllib3.util import Url, parse_url

from edge import __version__
from edge.drivers.credentials import tls_context
from edge.drivers.dial import connect_first
from edge.drivers.http.dialled import make_connection
from edge.drivers.http.sockets import EndingSocket, EndingTlsSocket, TooMuch, ending
from edge.errors import SinkForbidden, SinkRetry
from edge.settings import InfluxConfig
from edge.sinks import Unreached

MOST_BYTES = 256 * 1024
"""Of an answer's body: what matters stands at its begin."""
_MOST_BYTES_READ = 2 * MOST_BYTES
"""Of an answer with its head, as it comes."""

_PORTS = {"http": 80, "https": 443}

# What it warns of stands in our errors.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class Unanswered(Unreached):
    """The request went out, and no answer came: it may have been too much for the server."""


@dataclass(frozen=True)
class Answer:
    """An answer of any status. headers: by name in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Server:
    """An HTTP server, connected when need be. One thread only.

    authorization: gives the header's value, or None; called for each new connection, and may raise
    SinkForbidden.
    """

    def __init__(self, config: InfluxConfig, authorization: Callable[[], str | None]) -> None:
        self._config = config
        self._authorization = authorization
        self._url = _parsed(config.url)
        self.was_cut_off = False
        """Whether the server ended a connection that it had said to keep."""
        self._connection: HTTPConnection | None = None
        self._headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        """What messages call it: without a user, a password or a query."""
        return _shown(self._url)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and give its answer. target: path and query, below the server's own path.

        Raises SinkRetry when there is none, and SinkForbidden when it cannot be asked as it is
        configured. Blocks for the time-out, however slowly the answer comes; where it must connect,
        for as long for each address of the host, as of `connect_first`, for the resolution of its
        name, and for as long for a TLS handshake, before that.
        """
        try:
            connection = self._open()
            self._begin_exchange(connection)
            connection.request(
                method,
                (self._url.path or "").rstrip("/") + target,
                body,
                {**self._headers, **(headers or {})},
                preload_content=False,
            )
            response = connection.getresponse()
            answer_body = response.read(MOST_BYTES)
        except (HTTPError, HTTPException, TooMuch, OSError, ValueError) as exc:
            self.close()
            raise self._failure(exc) from exc
        if not response.closed:  # what was not read to its end would be taken for the next answer
            response.close()
            self.close()
        answer_headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status in (401, 403):  # who we are may have changed on the disk
            self.close()
        return Answer(response.status, answer_headers, answer_body)

    def close(self) -> None:
        """Close the connection; harmless when it is closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> HTTPConnection:
        """Give the connection; another one where the server has ended it meanwhile."""
        if self._connection is not None:
            found = self._connection.sock
            if isinstance(found, EndingSocket):
                if found.is_quiet():
                    return self._connection
                self.was_cut_off = True
            self.close()
        self._headers = {"User-Agent": f"dlm-edge/{__version__}"}
        authorization = self._authorization()
        if authorization is not None:
            self._headers["Authorization"] = authorization
        self._connection = connection = self._new_connection()
        connection.connect()
        connection.sock = ending(connection.sock)
        return connection

    def _begin_exchange(self, connection: HTTPConnection) -> None:
        assert isinstance(connection.sock, EndingSocket)
        timeout_s = self._config.timeout_s
        connection.sock.begin(time.monotonic() + timeout_s, _MOST_BYTES_READ)
        connection.timeout = timeout_s

    def _new_connection(self) -> HTTPConnection:
        host, timeout_s = (self._url.host or "").strip("[]"), self._config.timeout_s
        if self._url.scheme not in ("http", "https") or not host:
            raise SinkForbidden(
                f"{self.url} is no address of a server; set url to one like http://localhost:8086."
            )
        tls = None if self._url.scheme == "http" else _tls_context(self._config.ca_file)
        port = _PORTS[self._url.scheme] if self._url.port is None else self._url.port
        connection = make_connection(host, port, timeout_s, tls)
        connection.dialled = self._dialled(host, port)
        return connection

    def _dialled(self, host: str, port: int) -> socket.socket:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return connect_first(found, self._config.timeout_s)
        except (OSError, UnicodeError) as exc:  # a name that cannot be one is no OSError
            raise self._not_connected(exc) from exc

    def _not_connected(self, exc: OSError | UnicodeError) -> Unreached:
        """Say why there is no connection. The errors that are others' subclasses come first."""
        if isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN:
            return Unreached(
                f"{self.url}: the host name cannot be looked up, as no name server answers; check "
                "the network and this machine's name servers."
            )
        if isinstance(exc, socket.gaierror | UnicodeError):
            return Unreached(f"{self.url}: the host name is not known; check url and the network.")
        if isinstance(exc, TimeoutError):
            return Unreached(
                f"{self.url} did not answer the attempt to connect within "
                f"{self._config.timeout_s:g} s; check url and the network."
            )
        return Unreached(
            f"{self.url} cannot be reached ({exc.strerror or 'no connection'}); check that the "
            "server runs, and url."
        )

    def _failure(self, exc: Exception) -> SinkRetry | SinkForbidden:
        """Say why no answer came. The errors that are others' subclasses come first."""
        timeout_s = f"{self._config.timeout_s:g} s"
        if isinstance(exc, ReadTimeoutError | TimeoutError):
            return Unanswered(
                f"{self.url} gave no answer within {timeout_s}; check the server, or raise "
                "timeout_s."
            )
        if isinstance(exc, ssl.SSLCertVerificationError):
            return SinkForbidden(
                f"{self.url} shows a certificate that is not trusted "
                f"({exc.verify_message}); set ca_file to the authority that signed it."
            )
        if isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError):
            return SinkRetry(f"{self.url} does not speak TLS as we do; check url.")
        return Unanswered(
            f"{self.url} broke off the connection or gave no HTTP answer; check url and the server."
        )


def without_secrets(url: str) -> str:
    """Give an address, such as a server's, without a user, a password or a query."""
    try:
        return _shown(parse_url(url))
    except LocationParseError:
        return "an address that is none"


def _shown(url: Url) -> str:
    return Url(url.scheme, None, url.host, url.port, url.path).url


def _parsed(url: str) -> Url:
    """Take an address apart; one that is none has no scheme, and is refused when it is used."""
    try:
        return parse_url(url)
    except LocationParseError:
        return Url(host="the url as configured")


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = tls_context(ca_file)
    except OSError as exc:  # ssl.SSLError is one
        raise SinkForbidden(
            "ca_file cannot be read as certificates in PEM form; check the path and the file."
        ) from exc
    context.sslsocket_class = EndingTlsSocket
    return context
