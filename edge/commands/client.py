"""The service that runs here, asked over its own API by the commands that need it.

It is asked at the address that the configuration says, with the token that it left in its state
folder, and over TLS if it has a certificate: that very one is trusted, whoever made it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from pathlib import Path
from typing import Any

from edge.drivers.credentials import tls_context
from edge.errors import DlmError
from edge.settings import Config
from edge.tokens import LOCAL_FILE

_TIMEOUT_S = 60.0


class ServiceError(DlmError):
    """The service does not give what it is asked for; one sentence."""


def add_port_flag(parser: argparse.ArgumentParser) -> None:
    """Declare --port, for a service that does not listen where the configuration says."""
    parser.add_argument("--port", type=int, help="port that the service listens on")


class Client:
    """Asks the service that a configuration describes. Opens a connection for each question."""

    def __init__(self, config: Config) -> None:
        """Raises ServiceError where its certificate cannot be read."""
        api = config.api
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(api.host, api.host)
        self._port = api.port
        self._token_file = Path(config.state.dir) / LOCAL_FILE
        self._tls = _own_certificate(api.cert_file) if api.cert_file else None
        self._credentials: dict[str, str] = {}

    def data(self, path: str) -> Any:
        """Give the `data` of a GET. Raises ServiceError, as `answer`."""
        with self.answer(path) as answer:
            try:
                return json.load(answer)["data"]
            except (ValueError, KeyError, TypeError) as error:
                raise ServiceError(
                    f"What answers at {self._host}:{self._port} is no dlm-edge; see api.port."
                ) from error

    @contextmanager
    def answer(self, path: str, accept: str = "application/json") -> Iterator[HTTPResponse]:
        """GET a path; what fails within the block is told as well.

        Raises ServiceError, also for any status but 200. Blocks for a minute at most while nothing
        comes.
        """
        with closing(self._connection()) as connection:
            try:
                with self._response(connection, path, accept) as answer:
                    if answer.status != 200:
                        raise ServiceError(_reason(answer))
                    yield answer
            except (OSError, HTTPException) as error:
                raise ServiceError(
                    f"The service does not answer at {self._host}:{self._port} "
                    f"({_words_of(error)}); see that it runs, and give the configuration that it "
                    "runs with."
                ) from error

    def _connection(self) -> HTTPConnection:
        if self._tls is None:
            return HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        return HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=self._tls)

    def _response(self, connection: HTTPConnection, path: str, accept: str) -> HTTPResponse:
        """The answer to a GET; the token is sent once the service has asked for one.

        Only while a service runs with the state folder: what asks without one is another program.
        """
        connection.request("GET", path, headers={"Accept": accept, **self._credentials})
        answer = connection.getresponse()
        if answer.status != 401 or self._credentials:
            return answer
        answer.read()
        try:
            if not _is_locked(self._token_file.parent):
                raise ServiceError(
                    f"What answers at {self._host}:{self._port} asks for a token, and no service "
                    f"runs with {self._token_file.parent}; say with --state-dir where its state is."
                )
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise ServiceError(
                f"The service asks for a token, and its own cannot be read ({error}); use the "
                "account that the service runs with."
            ) from None
        self._credentials = {"Authorization": f"Bearer {token}"}
        return self._response(connection, path, accept)


def _is_locked(folder: Path) -> bool:
    """Tell whether a service has a state folder, as of `edge.registry.lock_folder`.

    Raises OSError.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _own_certificate(cert_file: str) -> ssl.SSLContext:
    """Trust the very certificate that the service shows, whoever made it and for what name."""
    try:
        context = tls_context(cert_file)
    except OSError as error:
        raise ServiceError(f"{cert_file} cannot be used ({error}); see api.cert_file.") from None
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _words_of(error: OSError | HTTPException) -> str:
    """Say what is wrong with a connection; a TLS library's errors have words of their own."""
    if isinstance(error, TimeoutError):
        return f"nothing came for {_TIMEOUT_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, IncompleteRead | ConnectionError):
        return "the connection ended before the answer did"
    if isinstance(error, HTTPException):
        return "what answers there speaks another protocol"
    return str(error)


def _reason(answer: HTTPResponse) -> str:
    try:
        return str(json.load(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return f"The service answered with status {answer.status}; look into its log."
