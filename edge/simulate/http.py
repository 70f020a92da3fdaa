"""Meters over HTTP: a port with a meter at each of its paths, and a site of them."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from edge.simulate.demo import DemoMeter, demo_meters, site_clock, template_meters
from edge.simulate.dialect import Dialect, http_dialect, template_dialect
from edge.simulate.fault import Fault, FaultKind
from edge.simulate.payload import PayloadMeter
from edge.simulate.served import ServedSite
from edge.template import Template

_GARBAGE_BYTES = 24
_STOP_WITHIN_S = 0.1


class HttpEndpoint:
    """A listening port. port: 0 until open where any free one was asked for.

    token: what `Authorization: Bearer` must carry; without one anybody may ask. Counters, for any
    thread to read: connections_accepted, and `requests` of each meter.
    """

    def __init__(self, host: str, port: int, token: str = "", seed: int = 0) -> None:
        self.host = host
        self.port = port
        self.token = token
        self.meters: dict[str, PayloadMeter] = {}
        """By path."""
        self.connections_accepted = 0
        self.rng = random.Random(seed)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._serving = False
        self._refusing = False

    @property
    def origin(self) -> str:
        """`host:port` as a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def set_fault(self, fault: Fault) -> None:
        """Switch a fault on for every meter; `refuse` for the port itself, at once."""
        if fault.kind is not FaultKind.REFUSE:
            for meter in self.meters.values():
                meter.set_fault(fault)
            return
        self._refusing = True
        self._hang_up()

    def heal(self) -> None:
        """Switch the faults of every meter off, and listen again where the port refused."""
        for meter in self.meters.values():
            meter.heal()
        self._refusing = False
        if self._serving and self._server is None:
            self._listen()

    def open(self) -> None:
        """Listen, unless it is to refuse. Raises OSError when the port cannot be had."""
        if not self._refusing:
            self._listen()
        self._serving = True

    def close(self) -> None:
        """Stop listening, end every connection and wait for the threads; also when not open."""
        self._serving = False
        self._hang_up()

    def _listen(self) -> None:
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_WITHIN_S,), name="simulate-http"
        )
        self._thread.start()

    def _hang_up(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.hang_up()
            self._server.server_close()
            self._server = self._thread = None


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them

    def __init__(self, endpoint: HttpEndpoint) -> None:
        self.endpoint = endpoint
        self.closing = threading.Event()
        self.address_family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        self._connections: set[Any] = set()
        self._lock = threading.Lock()
        super().__init__((endpoint.host, endpoint.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.endpoint.connections_accepted += 1
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        self.closing.set()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # that is a client who is gone
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one segment
    server: _Server

    def do_GET(self) -> None:
        # A body that nobody wants still has to be out of the way of the next request.
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        endpoint, path = self.server.endpoint, urlsplit(self.path).path
        meter = endpoint.meters.get(path)
        if meter is None:
            self._refuse(404, f"there is no meter at {path}")
        elif endpoint.token and self.headers.get("Authorization") != f"Bearer {endpoint.token}":
            self._refuse(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        else:
            payloads, fault = meter.take()
            self._answer(payloads[path].encode(), fault)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of a request: the simulator's output is for the registrations."""

    def _answer(self, body: bytes, fault: Fault | None) -> None:
        if fault is None:
            self._send(200, body, len(body))
            return
        self.server.closing.wait(fault.delay_s)
        if fault.kind is FaultKind.SILENT:
            self.rfile.read(1)  # until the client, or stop(), ends the connection
        if fault.kind in (FaultKind.SILENT, FaultKind.CLOSE):
            self.close_connection = True
        elif fault.kind is FaultKind.STATUS:
            wait_s = fault.retry_after_s
            headers = {} if wait_s is None else {"Retry-After": str(wait_s)}
            self._refuse(fault.code, "this is a simulated fault", headers)
        elif fault.kind is FaultKind.GARBAGE:
            self._send(200, self.server.endpoint.rng.randbytes(_GARBAGE_BYTES), _GARBAGE_BYTES)
        elif fault.kind is FaultKind.HALF:
            self._send(200, body[: len(body) // 2], len(body))
            self.close_connection = True
        else:
            self._send(200, body, len(body))

    def _refuse(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": reason}).encode()
        self._send(status, body, len(body), headers)

    def _send(
        self, status: int, body: bytes, length: int, headers: dict[str, str] | None = None
    ) -> None:
        """Send a reply. length: what its head says of the body, which may be shorter."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class HttpSite(ServedSite):
    """The site's meters over HTTP, meter n at `http://host:port/meters/<n>`.

    port: 0 takes any free one. template: the meters are devices of that kind, each with a port of
    its own, the one after the other's; raises ValueError where that cannot be simulated.
    """

    def __init__(
        self,
        count: int = 4,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        seed: int = 0,
        template: Template | None = None,
    ) -> None:
        self.endpoints: list[HttpEndpoint] = []
        self._token = {"authToken": token} if token else {}
        self._meters: list[tuple[DemoMeter, Dialect, HttpEndpoint]] = []
        clock = site_clock()
        meters = template_meters(template, count, seed) if template else demo_meters(count, seed)
        for index, meter in enumerate(meters):
            if template is not None:
                dialect = template_dialect(template, {})
            else:
                dialect = http_dialect(f"/meters/{index + 1}")
            if template is not None or not self.endpoints:
                self.endpoints.append(HttpEndpoint(host, port and port + index, token, seed))
            endpoint = self.endpoints[-1]
            source = dialect.measured(meter.source(clock))
            speaker = PayloadMeter("http", source, dialect.places, dialect.examples)
            endpoint.meters[_path(dialect)] = speaker
            self._meters.append((meter, dialect, endpoint))

    @property
    def registrations(self) -> list[dict[str, Any]]:
        """The body to POST for each meter, once the ports are bound."""
        return [
            meter.registration("http", self._communication(dialect, endpoint))
            for meter, dialect, endpoint in self._meters
        ]

    def set_fault(self, number: int, fault: Fault) -> None:
        """See `ServedSite.set_fault`."""
        self._check_number(number, len(self._meters))
        _, dialect, endpoint = self._meters[number - 1]
        if fault.kind is FaultKind.REFUSE:
            endpoint.set_fault(fault)
        else:
            endpoint.meters[_path(dialect)].set_fault(fault)

    def start(self) -> HttpSite:
        """Serve; returns when every port is bound. Raises OSError when one cannot be."""
        try:
            for endpoint in self.endpoints:
                endpoint.open()
        except OSError:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Close every port and wait for the threads to end."""
        for endpoint in self.endpoints:
            endpoint.close()

    def _communication(self, dialect: Dialect, endpoint: HttpEndpoint) -> dict[str, Any]:
        where = {**dialect.communication, **self._token}
        if "host" in where:
            where["host"] = endpoint.origin
        if dialect.target is not None:
            where["url"] = f"http://{endpoint.origin}{dialect.target}"
        return where


def _path(dialect: Dialect) -> str:
    (path,) = dialect.addresses
    return path
