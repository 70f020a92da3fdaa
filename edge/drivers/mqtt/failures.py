"""What it means when a broker cannot be reached, refuses, or is lost: errors to words. Pure.

Source: MQTT 5.0 (OASIS, 2019), section 2.4 (reason codes).
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import NamedTuple

from edge.errors import Cause, LineError, Refused

# Of CONNACK and DISCONNECT; those of MQTT 3.1.1 come translated to these.
_UNSUPPORTED_PROTOCOL_VERSION = 0x84
_TAKEN_OVER = 0x8E
_NOT_AUTHORISED = {0x86, 0x87, 0x8A, 0x8C}


class Reason(NamedTuple):
    """A reason code, and its name in the standard, in lower case."""

    code: int
    words: str


class OtherVersionError(LineError):
    """The broker does not speak this version of MQTT, or hung up when it was greeted so."""


# --- Connecting ----------------------------------------------------------------------------------


def not_connected(host: str, where: str, exc: Exception) -> LineError:
    """Say why there is no connection."""
    if isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN:
        return LineError(
            f"The broker's name {host} cannot be looked up, as no name server answers; check this "
            "machine's network and name servers, or give its IP address.",
            Cause.NAME_NOT_RESOLVED,
        )
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


def unusable_file(key: str, path: str | None, exc: OSError) -> LineError:
    """Say that TLS cannot use a file. key: what the configuration calls it."""
    words = exc.strerror if not isinstance(exc, ssl.SSLError) else exc.reason or exc.strerror
    return LineError(
        f"{key}: {path} cannot be used ({words}); give PEM files that this user may read, the key "
        "without a password.",
        Cause.TLS,
    )


def tls_failed(where: str, exc: Exception) -> LineError:
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


# --- Being greeted -------------------------------------------------------------------------------


def no_answer(where: str, *, tls: bool) -> LineError:
    """Say that nothing came back to CONNECT."""
    return LineError(
        f"{where} takes the connection but does not answer as an MQTT broker; "
        f"check the port{'' if tls else ', and whether it needs tls'}.",
        Cause.SILENT,
    )


def hung_up(where: str, *, tls: bool) -> LineError:
    """Say that the connection ended before CONNACK."""
    wish = "wants a client certificate" if tls else "needs tls"
    return OtherVersionError(
        f"{where} hung up when it was greeted; check that it is an MQTT broker, and "
        f"whether it {wish}.",
        Cause.CONNECTION_LOST,
    )


def not_accepted(where: str, reason: Reason) -> LineError:
    """Say why CONNACK refuses."""
    if reason.code == _UNSUPPORTED_PROTOCOL_VERSION:
        return OtherVersionError(f"The broker {where} speaks neither MQTT 5 nor 3.1.1; update it.")
    if reason.code in _NOT_AUTHORISED:
        return LineError(
            f"The broker {where} refused the login ({reason.words}); check username "
            "and password in its settings, and what the broker allows them.",
            Cause.NOT_AUTHORISED,
        )
    return LineError(
        f"The broker {where} refused the connection ({reason.words}); see its log.",
        Cause.CONNECTION_REFUSED,
    )


# --- Later ---------------------------------------------------------------------------------------


def too_long(where: str, most_bytes: int) -> LineError:
    """Say that a packet was not taken in."""
    return LineError(
        f"The broker {where} sent more than {most_bytes // 1024} KiB in one "
        "message; find who publishes that on a meter's topic.",
        Cause.UNREADABLE,
    )


def lost(where: str, reason: Reason | None, client_id: str, *, id_is_fixed: bool) -> LineError:
    """Say why a connection ended. reason: what the broker gave for it, None if it said nothing."""
    if reason is not None and reason.code == _TAKEN_OVER:
        return LineError(
            f"Another client took over the connection to {where} with the same client id "
            f"{client_id}; give each its own client_id, and each site its own site.id.",
            Cause.CONNECTION_LOST,
        )
    words = f" ({reason.words})" if reason is not None else ""
    other = f", and that no other has the client id {client_id}" if id_is_fixed else ""
    return LineError(
        f"The connection to the broker {where} was lost{words}; check that it runs{other}.",
        Cause.CONNECTION_LOST,
    )


def not_subscribed(topic: str, reason: Reason) -> Refused:
    """Say why SUBACK refuses."""
    return Refused(
        reason.code,
        f"The broker does not let us hear topic {topic} ({reason.words}); allow this user to "
        "read it in the broker's access list.",
        Cause.NOT_AUTHORISED,
    )


def not_published(topic: str, reason: Reason) -> Refused:
    """Say why PUBACK refuses."""
    return Refused(
        reason.code,
        f"The broker does not take what is published on {topic} ({reason.words}); allow this "
        "user to write there in the broker's access list.",
        Cause.NOT_AUTHORISED,
    )
