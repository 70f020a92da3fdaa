"""Sockets on which an exchange comes to an end: in time, and in bytes.

A socket's own time-out starts anew with each byte that comes, so here each wait is cut to what is
left of the whole.
"""

from __future__ import annotations

import contextlib
import io
import math
import socket
import ssl
import time
from typing import Any


class TooMuch(Exception):
    """More came than bytes_left; no OSError, so that no library takes it for its own."""


class EndingSocket(socket.socket):
    """Waits until deadline_s, monotonic time, and reads at most bytes_left, whatever comes."""

    deadline_s = math.inf
    bytes_left: float = math.inf
    has_surplus = False
    """More was read than the answer; it is lost."""

    def begin(self, deadline_s: float, most_bytes: int) -> None:
        """Begin an exchange."""
        self.settimeout(max(0.001, deadline_s - time.monotonic()))
        self.deadline_s = deadline_s
        self.bytes_left = most_bytes

    def send(self, *args: Any) -> int:
        """Send what can be sent; over TLS, a large request takes several. Raises TimeoutError."""
        self._wait_no_longer()
        return super().send(*args)

    def recv_into(self, *args: Any) -> int:
        """Read what is there. Raises TimeoutError, TooMuch."""
        self._wait_no_longer()
        count = super().recv_into(*args)
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise TooMuch
        return count

    def makefile(self, *_args: Any, **_options: Any) -> Any:
        """Give what an answer is read from."""
        return _Reader(super().makefile("rb", buffering=0), self)

    def is_quiet(self) -> bool:
        """Whether nothing lies there to be read: no byte that nobody asked for, and no end.

        Reading is the only way to know over TLS, where session tickets may come at any time. What
        is read is lost, so a connection that is not quiet is to be closed.
        """
        if self.has_surplus:
            return False
        self.settimeout(0)
        try:
            self.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def _wait_no_longer(self) -> None:
        if self.deadline_s < math.inf:
            left_s = self.deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self.settimeout(left_s)


class EndingTlsSocket(EndingSocket, ssl.SSLSocket):
    """The same over TLS: to be set as an SSLContext's `sslsocket_class`."""


def ending(connected: socket.socket) -> EndingSocket:
    """Give a connected socket as one that ends; the old object is of no use any more."""
    if isinstance(connected, EndingSocket):
        return connected
    family, type_, proto = connected.family, connected.type, connected.proto
    return EndingSocket(family, type_, proto, connected.detach())


class _Reader(io.BufferedReader):
    """What an answer is read from; at its end it tells its socket of what it read ahead."""

    def __init__(self, raw: io.RawIOBase, connection: EndingSocket) -> None:
        super().__init__(raw)
        self._connection = connection

    def close(self) -> None:
        if not self.closed:
            self._connection.deadline_s = 0.0  # so that only what is there already can be seen
            with contextlib.suppress(OSError):
                self._connection.has_surplus |= bool(self.peek())
        super().close()
