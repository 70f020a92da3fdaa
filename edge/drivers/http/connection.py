"""One connection to an HTTP or HTTPS origin, on which every exchange ends in time.

Of urllib3 the connections are used, its pools are not: they retry and redirect by themselves.

- The time-out is for a whole exchange: see `sockets`.
- So many bytes and no more: of the body, and of all else that makes up an answer.
- An idle connection may be closed by the server in the moment in which it is used. Then, and only
  then, the request is sent once more, on a new connection; a POST too, since all that a meter is
  asked for is a reading.
- What was not asked for must not answer the next question, which may be about another meter. So
  a connection on which anything came after an answer is not used again, nor one which gave an
  answer without a body: that may yet come.
- Neither header values nor the query, which may hold a token, stand in any message.

Sources: RFC 9112, sections 9.2 and 9.3.1 (the idle connection); RFC 9110, sections 9.2.2 (what may
be repeated) and 15.2 (interim answers).
"""

from __future__ import annotations

import logging
import ssl
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path

from urllib3.connection import HTTPConnection
from urllib3.exceptions import DecodeError, HTTPError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from edge.communication import HttpEndpoint
from edge.drivers.credentials import tls_context
from edge.drivers.dial import dial
from edge.drivers.http.dialled import make_connection
from edge.drivers.http.sockets import EndingSocket, EndingTlsSocket, TooMuch, ending
from edge.errors import BadReply, Cause, LineError, MeterError, NoReply
from edge.reach import Reach

MOST_BYTES = 1024 * 1024
"""Of an answer's body, decompressed."""
MOST_BYTES_READ = 2 * MOST_BYTES
"""Of an answer with its heads, chunk sizes and trailers, as it comes."""

_MOST_INTERIM = 10
_MOST_CA_BYTES = 1024 * 1024
_SWITCHING_PROTOCOLS = 101

# What it warns of, it says with the whole URL; what matters of it is in our errors.
logging.getLogger("urllib3").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Request:
    """What is asked, until when: deadline_s is monotonic time, timeout_s is for messages.

    target: path and query. url: what messages call it, without the query.
    """

    url: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_s: float
    deadline_s: float


@dataclass(frozen=True)
class Answer:
    """A whole answer, of any status. headers: by name in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class OriginConnection:
    """The connection to one origin, opened again when need be. One thread only."""

    def __init__(self, endpoint: HttpEndpoint, reach: Reach) -> None:
        self.opened = 0
        """How often it was opened so far."""
        self._endpoint = endpoint
        self._reach = reach
        self._connection: HTTPConnection | None = None
        self._used = False

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent; if the server closed it, or sent something, it is not."""
        if self._connection is None or self._connection.sock is None:
            return False
        assert isinstance(self._connection.sock, EndingSocket)
        if not self._connection.sock.is_quiet():
            self.close()
        return self._connection is not None

    def open(self, timeout_s: float) -> None:
        """Connect; harmless when it is open.

        Raises LineError. Blocks for timeout_s for each address of the host, for as much in a TLS
        handshake, and for the resolution of the host name.
        """
        if self.is_open:
            return
        endpoint = self._endpoint
        tls = None if endpoint.scheme == "http" else _tls_context(endpoint)
        connection = make_connection(endpoint.host, endpoint.port, timeout_s, tls)
        connection.dialled = dial(endpoint.host, endpoint.port, timeout_s, self._reach, "HTTP")
        try:
            connection.connect()
        except (OSError, HTTPError, UnicodeError) as exc:
            connection.close()
            raise _no_tls(endpoint, exc) from exc
        connection.response_class = _FinalResponse
        connection.sock = ending(connection.sock)
        self._connection = connection
        self._used = False
        self.opened += 1

    def exchange(self, request: Request) -> Answer:
        """Send a request and give its answer, on a new connection if the old one was closed.

        Raises NoReply or BadReply, or LineError when it cannot be opened. Blocks until the
        request's deadline, unless it has to be opened.
        """
        while True:
            left_s = request.deadline_s - time.monotonic()
            if left_s <= 0:
                raise _silence(request)
            self.open(left_s)
            was_used, self._used = self._used, True
            try:
                return self._finish(request, self._begin(request))
            except (ConnectionError, ssl.SSLEOFError) as exc:
                self.close()
                if not was_used:
                    raise NoReply(
                        f"{request.url} closed the connection instead of answering; "
                        f"{self._other_scheme()}restart the device if it stays.",
                        Cause.CONNECTION_LOST,
                    ) from exc
            except TooMuch as exc:
                self.close()
                raise _too_much(request, MOST_BYTES_READ) from exc
            except MeterError:
                self.close()
                raise

    def close(self) -> None:
        """Close it; harmless when it is closed. Never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _begin(self, request: Request) -> BaseHTTPResponse:
        """Send a request and read the head of its answer.

        Raises MeterError, and ConnectionError or SSLEOFError where the server hung up.
        """
        connection = self._connection
        assert connection is not None
        assert isinstance(connection.sock, EndingSocket)
        connection.sock.begin(request.deadline_s, MOST_BYTES_READ)
        connection.timeout = connection.sock.gettimeout()
        try:
            connection.request(
                request.method,
                request.target,
                request.body,
                request.headers,
                preload_content=False,
            )
            return connection.getresponse()
        except (ConnectionError, ssl.SSLEOFError):
            raise
        except TimeoutError as exc:
            raise _silence(request) from exc
        except (ValueError, InvalidURL):  # quotes the header, which may be secret: no cause
            raise BadReply(
                f"{request.url} cannot be asked: url or headers hold characters that HTTP does "
                "not allow; correct them."
            ) from None
        except (HTTPException, HTTPError, OSError) as exc:
            raise BadReply(
                f"{request.url} gave no HTTP answer; {self._other_scheme()}check host and port."
            ) from exc

    def _finish(self, request: Request, response: BaseHTTPResponse) -> Answer:
        """Read the body of an answer. Raises MeterError."""
        try:
            body = response.read(MOST_BYTES + 1)
        except ReadTimeoutError as exc:
            raise _silence(request) from exc
        except DecodeError as exc:
            raise BadReply(
                f"{request.url} gave an answer that cannot be decompressed; remove "
                "Accept-Encoding from headers."
            ) from exc
        except (HTTPException, HTTPError, OSError, ValueError) as exc:  # a chunk of -5 bytes
            raise BadReply(
                f"{request.url} broke off in the middle of its answer; check the network and the "
                "device."
            ) from exc
        finally:
            if not response.closed:  # what was not read to its end has spoilt the connection
                response.close()
                self.close()
        if len(body) > MOST_BYTES:
            raise _too_much(request, MOST_BYTES)
        if not body:  # it may yet come, whatever the head said
            self.close()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, body)

    def _other_scheme(self) -> str:
        return "use https:// in url if the port is for TLS, or " * (self._endpoint.scheme == "http")


def _silence(request: Request) -> NoReply:
    return NoReply(
        f"{request.url} gave no full answer within {request.timeout_s * 1000:.0f} ms; check the "
        "device and the network, or raise timeout."
    )


def _too_much(request: Request, most: int) -> BadReply:
    return BadReply(f"{request.url} gave more than {most:,} bytes; choose a url that gives less.")


class _FinalResponse(HTTPResponse):
    """Reads on to the final answer; the library's own takes any interim one but 100 for it."""

    def begin(self) -> None:
        for _ in range(_MOST_INTERIM + 1):
            super().begin()
            if not 100 <= self.status < 200 or self.status == _SWITCHING_PROTOCOLS:
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # or it reads no other head
        raise HTTPException(f"more than {_MOST_INTERIM} interim answers")


# --- Connecting ----------------------------------------------------------------------------------


def _tls_context(endpoint: HttpEndpoint) -> ssl.SSLContext:
    if not endpoint.ca_file or not endpoint.verify_tls:
        return _shared_context(endpoint.verify_tls)
    try:
        # Reading from a pipe or a device might never end.
        found = Path(endpoint.ca_file).stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_CA_BYTES:
            raise LineError(
                f"caFile is not a regular file of at most {_MOST_CA_BYTES:,} bytes; give the path "
                "of a file with certificates in PEM form.",
                Cause.TLS,
            )
        context = tls_context(endpoint.ca_file)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise LineError(
            "caFile cannot be read as certificates in PEM form; check the path and the file.",
            Cause.TLS,
        ) from exc
    context.sslsocket_class = EndingTlsSocket
    return context


@lru_cache(maxsize=2)
def _shared_context(verify: bool) -> ssl.SSLContext:
    """One for all lines: the system's authorities are half a megabyte."""
    context = tls_context(None) if verify else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = EndingTlsSocket
    return context


def _no_tls(endpoint: HttpEndpoint, exc: Exception) -> LineError:
    """Say why there is no TLS on a connection, and what to try."""
    cause = exc.__cause__ if isinstance(exc, HTTPError) else exc
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message[:150].rstrip(".")
        return LineError(
            f"The certificate of {endpoint.name} is not trusted ({why}); set "
            "caFile to its authority, check host and clock, or set verifyTls to false.",
            Cause.TLS,
        )
    return LineError(
        f"{endpoint.name} is reached, but TLS fails; check the port, or use http:// in url.",
        Cause.TLS,
    )
