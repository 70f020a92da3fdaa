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

from edge.errors import Cause, LineError

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

    Blocks for timeout_s for each address of the host and for the resolution of its name, and as
    long again for TLS. Raises LineError.
    """
    where = f"{broker.host}:{port}"
    context = _tls_context(broker) if broker.tls else None
    try:
        sock = socket.create_connection((broker.host, port), timeout_s)
    except (OSError, UnicodeError) as exc:  # a name that cannot be one is no OSError
        raise _not_connected(broker.host, where, exc) from exc
    # Or else each batch of messages would wait for the broker's delayed acknowledgement (Nagle).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return Wire(sock)
    try:
        return Wire(context.wrap_socket(sock, server_hostname=broker.host))
    except (OSError, ValueError) as exc:
        sock.close()
        raise tls_error(where, exc) from exc


def _not_connected(host: str, where: str, exc: Exception) -> LineError:
    if isinstance(exc, (socket.gaierror, UnicodeError)):
        return LineError(
            f"The broker's name {host} is not known; check host in the broker's settings, or give "
            "its IP address.",
            Cause.NAME_NOT_RESOLVED,
        )
    if isinstance(exc, ConnectionRefusedError):
        return LineError(
            f"Nothing listens at {where}; check that the broker runs, and its port.",
            Cause.CONNECTION_REFUSED,
        )
    if isinstance(exc, OSError) and exc.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return LineError(
            f"There is no way to {where}; check the network's cable, address and router.",
            Cause.NO_ROUTE,
        )
    if isinstance(exc, TimeoutError):
        return LineError(
            f"Nothing answers at {where}; check the broker's address, that it is switched on, and "
            "that no firewall is between.",
            Cause.NOT_REACHED,
        )
    words = exc.strerror if isinstance(exc, OSError) else str(exc)
    return LineError(f"{where} cannot be reached ({words}); check host and port.")


def _tls_context(broker: BrokerConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
    except OSError as exc:
        raise _unusable_file("ca_file", broker.ca_file, exc) from exc
    if broker.ca_file is not None:
        # Python 3.13 began to want extensions that authorities made by hand often lack.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if broker.cert_file is not None:
        try:
            # Without the empty password a key that is encrypted would ask for one on the terminal.
            context.load_cert_chain(broker.cert_file, broker.key_file, password="")
        except OSError as exc:
            files = " or ".join(filter(None, (broker.cert_file, broker.key_file)))
            raise _unusable_file("cert_file and key_file", files, exc) from exc
    return context


def _unusable_file(key: str, path: str | None, exc: OSError) -> LineError:
    words = exc.strerror if not isinstance(exc, ssl.SSLError) else exc.reason or exc.strerror
    return LineError(
        f"{key}: {path} cannot be used ({words}); give PEM files that this user may read, the key "
        "without a password.",
        Cause.TLS,
    )


def tls_error(where: str, exc: Exception) -> LineError:
    """Say what a failure of TLS means."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return LineError(
            f"The certificate of {where} cannot be trusted ({exc.verify_message.rstrip('.')}); set "
            "ca_file to its authority's certificate, and host to a name that it is made out for.",
            Cause.TLS,
        )
    if isinstance(exc, ssl.SSLError) and "CERTIFICATE" in (exc.reason or ""):
        return LineError(
            f"{where} wants another client certificate ({exc.reason}); set cert_file and key_file "
            "to ones that it accepts.",
            Cause.TLS,
        )
    return LineError(
        f"{where} does not speak TLS with us; check that port is the broker's TLS port, or set "
        "tls = false.",
        Cause.TLS,
    )
