"""The bytes under MQTT: a TCP or TLS connection that is read in large pieces.

paho reads a packet in several small steps, and each would be a call of the system; here they are
served from memory. It asks for all that is left of a packet at once, which is where one that is too
long is stopped before it is taken in.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING

from edge.drivers.credentials import tls_context
from edge.drivers.dial import connect_first
from edge.drivers.mqtt.failures import not_connected, tls_failed, unusable_file

if TYPE_CHECKING:
    from edge.settings import BrokerConfig

MAX_PACKET_BYTES = 1024 * 1024
"""Of what a broker may send in one piece; a meter's message has a few hundred bytes."""
_RECEIVE_BYTES = 64 * 1024


class PacketTooLongError(OSError):
    """A packet that is not taken in."""


class Wire:
    """A connected socket as paho uses one. One thread only.

    dry: the last attempt to read found nothing, so that waiting for the socket makes sense.
    error: what ended the connection, when something did.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.dry = True
        self.error: OSError | None = None
        self._sock = sock
        self._received = b""
        self._at = 0

    def recv(self, buffer_size: int) -> bytes:
        """Give up to buffer_size bytes; raises as a socket that does not block."""
        if buffer_size > MAX_PACKET_BYTES:
            self.error = PacketTooLongError(errno.EMSGSIZE, "packet too long")
            raise self.error
        if self._at == len(self._received):
            self._received, self._at = self._receive(), 0
        data = self._received[self._at : self._at + buffer_size]
        self._at += len(data)
        return data

    def _receive(self) -> bytes:
        self.dry = False
        try:
            return self._sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.dry = True
            raise
        except OSError as exc:
            self.error = exc
            raise

    def send(self, buffer: bytes | bytearray) -> int:
        """Send what can be sent at once, and tell how many bytes that were."""
        return self._sock.send(buffer)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """As of a socket."""
        self._sock.setblocking(flag)

    def close(self) -> None:
        """As of a socket."""
        self._sock.close()


def connect(broker: BrokerConfig, port: int, timeout_s: float) -> Wire:
    """Connect to a broker, with TLS where it is asked for.

    Blocks for timeout_s for each address of the host, as of `connect_first`, for the resolution of
    its name, and for timeout_s for TLS. Raises LineError.
    """
    where = f"{broker.host}:{port}"
    context = _tls_context(broker) if broker.tls else None
    try:
        found = socket.getaddrinfo(broker.host, port, type=socket.SOCK_STREAM)
        sock = connect_first(found, timeout_s)
    except (OSError, UnicodeError) as exc:  # a name that cannot be one is no OSError
        raise not_connected(broker.host, where, exc) from exc
    if context is None:
        return Wire(sock)
    try:
        return Wire(context.wrap_socket(sock, server_hostname=broker.host))
    except (OSError, ValueError) as exc:
        sock.close()
        raise tls_failed(where, exc) from exc


def _tls_context(broker: BrokerConfig) -> ssl.SSLContext:
    try:
        context = tls_context(broker.ca_file)
    except OSError as exc:
        raise unusable_file("ca_file", broker.ca_file, exc) from exc
    if broker.cert_file is not None:
        try:
            # Without the empty password a key that is encrypted would ask for one on the terminal.
            context.load_cert_chain(broker.cert_file, broker.key_file, password="")
        except OSError as exc:
            files = " or ".join(filter(None, (broker.cert_file, broker.key_file)))
            raise unusable_file("cert_file and key_file", files, exc) from exc
    return context
