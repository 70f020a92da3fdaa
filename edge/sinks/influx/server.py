"""The connection to a server: one, kept open between requests. The only module here with urllib3.

Who we are is read anew from its file with each connection, and there is a new one after each
request that failed or was not authorised. Nothing is repeated or redirected here. Neither
credentials nor the path of a request stand in any message.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Url, parse_url

from edge import __version__
from edge.drivers.credentials import tls_context
from edge.errors import SinkForbidden, SinkRetry
from edge.settings import InfluxConfig

MOST_BYTES = 256 * 1024
"""Of an answer's body: what matters stands at its begin."""

# What it warns of stands in our errors.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class Unanswered(SinkRetry):
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
        self._pool: HTTPConnectionPool | None = None
        self._headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        """What messages call it: without a user, a password or a query."""
        return Url(self._url.scheme, None, self._url.host, self._url.port, self._url.path).url

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and give its answer. target: path and query, below the server's own path.

        Raises SinkRetry when there is none, and SinkForbidden when it cannot be asked as it is
        configured. Blocks for the time-out; for twice as long where it must connect, or where the
        answer comes in bits.
        """
        pool = self._open()
        try:
            response = pool.urlopen(
                method,
                (self._url.path or "").rstrip("/") + target,
                body,
                headers={**self._headers, **(headers or {})},
                retries=False,
                redirect=False,
                preload_content=False,
            )
            answer_body = response.read(MOST_BYTES)
            if not response.closed:
                response.close()
        except (HTTPError, OSError, ValueError) as exc:
            self.close()
            raise self._failure(exc) from exc
        answer_headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status in (401, 403):  # who we are may have changed on the disk
            self.close()
        return Answer(response.status, answer_headers, answer_body)

    def close(self) -> None:
        """Close the connection; harmless when it is closed."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _open(self) -> HTTPConnectionPool:
        if self._pool is None:
            self._headers = {"User-Agent": f"dlm-edge/{__version__}"}
            authorization = self._authorization()
            if authorization is not None:
                self._headers["Authorization"] = authorization
            self._pool = self._new_pool()
        return self._pool

    def _new_pool(self) -> HTTPConnectionPool:
        host, port = self._url.host or "", self._url.port
        timeout = Timeout(connect=self._config.timeout_s, read=self._config.timeout_s)
        if self._url.scheme == "http":
            return HTTPConnectionPool(host, port, timeout, maxsize=1, block=True)
        if self._url.scheme != "https" or not host:
            raise SinkForbidden(
                f"{self.url} is no address of a server; set url to one like http://localhost:8086."
            )
        context = _tls_context(self._config.ca_file)
        return HTTPSConnectionPool(host, port, timeout, maxsize=1, block=True, ssl_context=context)

    def _failure(self, exc: Exception) -> SinkRetry | SinkForbidden:
        """Say why no answer came. The errors that are others' subclasses come first."""
        timeout_s = f"{self._config.timeout_s:g} s"
        if isinstance(exc, NameResolutionError):
            return SinkRetry(f"{self.url}: the host name is not known; check url and the network.")
        if isinstance(exc, ConnectTimeoutError) and not isinstance(exc, NewConnectionError):
            return SinkRetry(
                f"{self.url} did not answer the attempt to connect within {timeout_s}; check url "
                "and the network."
            )
        if isinstance(exc, NewConnectionError):
            why = getattr(exc.__cause__, "strerror", None) or "no connection"
            return SinkRetry(
                f"{self.url} cannot be reached ({why}); check that the server runs, and url."
            )
        if isinstance(exc, ReadTimeoutError | TimeoutError):
            return Unanswered(
                f"{self.url} gave no answer within {timeout_s}; check the server, or raise "
                "timeout_s."
            )
        if isinstance(exc, SSLError):
            cause = exc.args[0] if exc.args else None
            if isinstance(cause, ssl.SSLCertVerificationError):
                return SinkForbidden(
                    f"{self.url} shows a certificate that is not trusted "
                    f"({cause.verify_message}); set ca_file to the authority that signed it."
                )
            return SinkRetry(f"{self.url} does not speak TLS as we do; check url.")
        return Unanswered(
            f"{self.url} broke off the connection or gave no HTTP answer; check url and the server."
        )


def _parsed(url: str) -> Url:
    """Take an address apart; one that is none has no host, and is refused when it is used."""
    try:
        return parse_url(url)
    except LocationParseError:
        return Url(path="the url as configured")


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return tls_context(ca_file)
    except OSError as exc:  # ssl.SSLError is one
        raise SinkForbidden(
            "ca_file cannot be read as certificates in PEM form; check the path and the file."
        ) from exc
