"""TLS at the API's door: what the server shows for who it is, and how a connection becomes secure.

A context is made of two PEM files; what is wrong with them is told by their keys in the
configuration.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

from edge.errors import ConfigError, Fault

_HANDSHAKE_RECORD = b"\x16"
"""The first byte of a client that speaks TLS. Source: RFC 8446, 5.1."""

_CERT_KEY, _KEY_KEY = "api.cert_file", "api.key_file"
_REMEDY = "`dlm-edge cert` makes a pair to begin with"


def make_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """Read a certificate, with its chain behind it, and its key: TLS 1.2 and later.

    Raises ConfigError with every fault at `api.cert_file` or `api.key_file`.
    """
    faults = [
        *_faults(_CERT_KEY, cert_file, b"CERTIFICATE-----"),
        *_faults(_KEY_KEY, key_file, b"PRIVATE KEY-----"),
    ]
    if faults:
        raise ConfigError("", faults)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password given, OpenSSL would ask the terminal for one, and wait.
        context.load_cert_chain(cert_file, key_file, password="")
    except OSError as exc:  # of TLS, or of a file that is being replaced just now
        raise ConfigError("", [_unusable(exc)]) from exc
    return context


def shake_hands(client: ssl.SSLSocket, timeout_s: float) -> bool:
    """Agree on keys with a client; False if it does not speak TLS, and nothing was received.

    timeout_s: for all of it. Blocks.
    Raises OSError, TimeoutError among them, when it does not come to an agreement.
    """
    deadline_s = time.monotonic() + timeout_s
    client.settimeout(timeout_s)
    if socket.socket.recv(client, 1, socket.MSG_PEEK) not in (_HANDSHAKE_RECORD, b""):
        return False
    client.settimeout(max(0.001, deadline_s - time.monotonic()))
    client.do_handshake()
    return True


def say_end(client: socket.socket, timeout_s: float) -> None:
    """Say that the end of a connection is meant, where TLS is spoken.

    timeout_s: for the client to take what stands before that. Blocks no longer.
    """
    if not isinstance(client, ssl.SSLSocket):
        return
    client.settimeout(0)
    writable = select.poll()
    writable.register(client, select.POLLOUT)
    with suppress(OSError):  # it was said, and the client need not say so, too
        while True:
            try:
                client.unwrap()
                return
            except ssl.SSLWantWriteError:
                if not writable.poll(timeout_s * 1000):
                    return


def _faults(key: str, file: str, marker: bytes) -> list[Fault]:
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        return [Fault(key, f"cannot read {file!r} ({reason}); name a PEM file; {_REMEDY}")]
    if marker not in content:
        what = marker.decode().strip("-").lower()
        return [Fault(key, f"{file!r} holds no {what} in PEM form; {_REMEDY}")]
    if b"ENCRYPTED" in content:
        return [Fault(key, f"{file!r} has a password, which nobody can enter here; take it off")]
    return []


def _unusable(error: OSError) -> Fault:
    said = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    if said == "KEY_VALUES_MISMATCH":
        return Fault(_KEY_KEY, f"is not the key of {_CERT_KEY}; name the two that belong together")
    reason = (said or "no reason given").replace("_", " ").lower()
    return Fault(_CERT_KEY, f"cannot be used with {_KEY_KEY} ({reason}); {_REMEDY}")
