"""Connecting over TCP: to a meter and nowhere that meters may not be, to a broker, to a server.

A name is looked up once, and the very addresses that were found and judged are connected to: were
it looked up again, it might lead elsewhere by then.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Any

from edge.errors import Cause, LineError
from edge.reach import Reach

MOST_ADDRESSES = 8
"""Of a name, so many are tried: a device has an IPv4 address and a few of IPv6, and each dead one
costs a time-out. Hundreds of them would hold up a worker for longer than it may be silent."""
_NO_ROUTE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})


def dial(host: str, port: int, timeout_s: float, reach: Reach, service: str) -> socket.socket:
    """Connect to the first address of a host that is allowed and answers, of MOST_ADDRESSES.

    service: what is to be switched on there, for messages. Gives a socket with that time-out, on
    which small messages are sent at once.
    Raises LineError. Blocks for timeout_s for each address, and for the resolution of the name.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as exc:  # the latter for what DNS cannot spell
        raise LineError(_not_found(host, exc), Cause.NAME_NOT_RESOLVED) from exc
    allowed, refused = [], ""
    for one in found:
        address = str(one[-1][0])
        refusal = reach.refusal(address)
        if refusal is None:
            allowed.append(one)
        else:
            refused = f"{_led_to(host, address)} {refusal}."
    if not allowed:
        raise LineError(refused, Cause.NOT_ALLOWED)
    try:
        return connect_first(allowed, timeout_s)
    except OSError as exc:
        raise _unreachable(host, port, timeout_s, service, exc) from exc


def connect_first(found: Sequence[tuple[Any, ...]], timeout_s: float) -> socket.socket:
    """Connect to the first that answers, of MOST_ADDRESSES, as `socket.getaddrinfo` found them.

    found: at least one. Gives a socket with that time-out, on which small messages are sent at
    once. Raises OSError, that of the last that there is a route to. Blocks for timeout_s for each.
    """
    failure: OSError | None = None
    for family, type_, protocol, _, address in found[:MOST_ADDRESSES]:
        connection = None
        try:
            connection = socket.socket(family, type_, protocol)
            connection.settimeout(timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect(address)
            return connection
        except OSError as exc:
            if connection is not None:
                connection.close()
            if failure is None or exc.errno not in _NO_ROUTE:
                failure = exc
    raise failure or OSError()


def _not_found(host: str, exc: OSError | UnicodeError) -> str:
    """Say why a name leads nowhere: after a power cut meters are often up before the network is."""
    if isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN:
        return (
            f"Host name {host!r} cannot be looked up, as no name server answers; check this "
            "machine's network and name servers, or give an IP address."
        )
    return f"Host name {host!r} is not known; check its spelling, or give an IP address."


def _led_to(host: str, address: str) -> str:
    return host if host == address else f"{host} leads to {address}, which"


def _unreachable(
    host: str, port: int, timeout_s: float, service: str, failure: OSError
) -> LineError:
    """Say why there is no connection, and what to try."""
    if isinstance(failure, TimeoutError):
        return LineError(
            f"{host} did not answer within {timeout_s * 1000:.0f} ms; check its address, power "
            "and network cable.",
            Cause.NOT_REACHED,
        )
    if isinstance(failure, ConnectionRefusedError):
        return LineError(
            f"{host} refused the connection on port {port}; check the port and that {service} is "
            "switched on.",
            Cause.CONNECTION_REFUSED,
        )
    why = os.strerror(failure.errno) if failure.errno else type(failure).__name__
    return LineError(
        f"{host} cannot be reached ({why}); check its address, this machine's network and routes.",
        Cause.NO_ROUTE if failure.errno in _NO_ROUTE else Cause.NOT_REACHED,
    )
