"""urllib3's connections over a socket that is there.

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


def make_connection(
    host: str, port: int | None, timeout_s: float, tls: ssl.SSLContext | None
) -> _Http | _Https:
    """Make a connection whose `dialled` is to be set, and which is then to be connected.

    `connect` takes that socket over, with a TLS handshake if there is a context; from then on
    `close` closes it. Raises ValueError for a host that is none.
    """
    if tls is None:
        return _Http(host, port, timeout=timeout_s)
    return _Https(host, port, timeout=timeout_s, ssl_context=tls)
