"""urllib3's connections on a socket that is there.

By itself it looks the host's name up, and tries all addresses, also others than were judged. For
TLS and the Host header the host keeps the name that it has in the URL.
"""

from __future__ import annotations

import socket
import ssl

from urllib3.connection import HTTPConnection, HTTPSConnection


class _Dialled:
    dialled: socket.socket

    def _new_conn(self) -> socket.socket:
        return self.dialled


class _Http(_Dialled, HTTPConnection):
    pass


class _Https(_Dialled, HTTPSConnection):
    pass


def on_socket(
    dialled: socket.socket,
    host: str,
    port: int | None,
    timeout_s: float,
    tls: ssl.SSLContext | None,
) -> HTTPConnection:
    """Make a connection that is to be connected: that is for TLS alone. It closes the socket."""
    connection: _Http | _Https
    if tls is None:
        connection = _Http(host, port, timeout=timeout_s)
    else:
        connection = _Https(host, port, timeout=timeout_s, ssl_context=tls)
    connection.dialled = dialled
    return connection
