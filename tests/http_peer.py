"""An HTTP server for tests: Python's own, with any behaviour, over TLS if wanted."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.peers import need_program


@dataclass(frozen=True)
class Asked:
    """A request as the server heard it. headers: by name in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One request, and the means to answer it."""

    protocol_version = "HTTP/1.1"
    peer: HttpPeer
    asked: Asked

    def give(self, body: Any = b"", status: int = 200, **headers: str) -> None:
        """Answer; a body that is no bytes is sent as JSON. headers: `retry_after` for Retry-After.

        Without Content-Length where `content_length` is given as an empty string.
        """
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"content_length": str(len(raw)), **headers}
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-").title(), value)
        self.end_headers()
        self.send(raw)

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self.wfile.write(raw)

    def drip(self, raw: bytes, every_s: float = 0.1) -> None:
        """Send a byte at a time until the client hangs up or the server stops."""
        for at in range(len(raw)):
            if self.peer.stopped.wait(every_s):
                break
            self.send(raw[at : at + 1])
        self.hang_up()

    def be_silent(self) -> None:
        """Say nothing until the server stops."""
        self.peer.stopped.wait(60)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection after this."""
        self.close_connection = True

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked = Asked(self.command, self.path, headers, self.rfile.read(length))
        self.peer.asked.append(self.asked)
        self.peer.behaviour(self)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


Behaviour = Callable[[Exchange], None]


class HttpPeer:
    """A server on a free loopback port, with a thread per connection. behaviour may be replaced."""

    def __init__(self, behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self.behaviour = behaviour
        self.asked: list[Asked] = []
        self.connections = 0
        self.served = 0
        """Connections that are over."""
        self.stopped = threading.Event()
        peer = self

        class Handler(Exchange):
            """Knows its peer."""

        Handler.peer = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                peer.connections += 1
                super().process_request(request, client_address)

            def finish_request(self, request: Any, client_address: Any) -> None:
                # In the connection's own thread, since a handshake takes the client's part too.
                if tls is not None:
                    request = tls.wrap_socket(request, server_side=True)
                try:
                    super().finish_request(request, client_address)
                finally:
                    peer.served += 1
                    if tls is not None:
                        request.close()

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients hang up, and some do not trust the certificate."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> HttpPeer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def http_peer(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> Iterator[HttpPeer]:
    """Give a running HttpPeer."""
    with HttpPeer(behaviour, tls) as peer:
        yield peer


class Authority:
    """A private certificate authority, made by openssl in a folder. ca_file: its certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca_file = str(folder / "ca.pem")
        self._request(
            "ca",
            *("-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=critical,keyCertSign"),
        )

    def server_context(self, names: str = "IP:127.0.0.1,DNS:localhost") -> ssl.SSLContext:
        """Make a certificate for these names and the context of a server that shows it."""
        stem = "server" + str(len(list(self._folder.iterdir())))
        self._request(
            stem,
            *("-CA", self.ca_file, "-CAkey", str(self._folder / "ca.key")),
            *("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=CA:FALSE"),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / f"{stem}.pem", self._folder / f"{stem}.key")
        return context

    def _request(self, stem: str, *options: str) -> None:
        key, certificate = self._folder / f"{stem}.key", self._folder / f"{stem}.pem"
        command = [
            need_program("openssl", "openssl"),
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", f"/CN={stem}"),
            *("-keyout", str(key), "-out", str(certificate), *options),
        ]
        subprocess.run(command, capture_output=True, check=True)
