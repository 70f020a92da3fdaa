"""Clients that nobody wants: the API's door under siege for a while, on a thread of its own."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

from tools.bench.process import HOST
from tools.soak.beside import Beside

_IDLE = 80
"""More than `api.max_connections`."""
_PAUSE_S = 0.05
_TIMEOUT_S = 0.2
_UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_POST = b"POST /api/energy-meters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_RUDE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),  # TLS where there is none
    b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /static/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"BREW /api/energy-meters HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/energy-meters HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30,
    _POST + b"Content-Length: 99999999999\r\n\r\n",
    _POST + b"Content-Length: 60\r\n\r\n{" + b'"name": ' * 3,
    _POST + b"Content-Length: 20000\r\n\r\n" + b"[" * 20_000,
    _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    _POST + b"Content-Length: 2\r\n\r\n{}",
    b"GET /api/energy-meters/%00%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/energy-meters HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"\r\n\r\n\r\n\x00\xff\xfe",
)


class Abuse(Beside):
    """The siege, from the start of a `with` block to its end."""

    def __init__(self, port: int) -> None:
        self._port = port
        super().__init__("abuse")

    def run(self) -> None:
        rng = random.Random(0)
        kept: list[socket.socket] = []
        rude = self._rude(rng)
        while not self.stopping.wait(_PAUSE_S):
            with contextlib.suppress(OSError):
                kept.append(self._connected())
                # Some wait in silence, some say a byte at a time, some take no live updates.
                kept[-1].sendall(rng.choice((b"", b"GET /", _UPGRADE)))
            with contextlib.suppress(OSError):
                rng.choice(kept).send(b"a")
            with contextlib.suppress(OSError):
                next(rude)
            while len(kept) > _IDLE:
                kept.pop(rng.randrange(len(kept))).close()
        for client in kept:
            client.close()

    def _rude(self, rng: random.Random) -> Iterator[None]:
        while True:
            for said in rng.sample(_RUDE, len(_RUDE)):
                with contextlib.suppress(OSError), self._connected() as client:
                    client.sendall(said)
                    if rng.random() < 0.5:
                        client.shutdown(socket.SHUT_WR)
                    client.recv(100)
                yield

    def _connected(self) -> socket.socket:
        return socket.create_connection((HOST, self._port), _TIMEOUT_S)
