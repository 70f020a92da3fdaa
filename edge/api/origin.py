"""Whether it is a page of ours that makes a browser ask, or one from elsewhere.

A browser says in Host whom it believes to ask, and in Origin where the page is from that made it;
where it has no name for that it says `null`. Programs that are no browser say no Origin.
Source: RFC 9110, 7.2 (Host), RFC 6454, 7 (Origin), RFC 6455, 10.2 (of a WebSocket client).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection

from edge.api import Request
from edge.api.http1 import host_name
from edge.checks import is_address
from edge.errors import RequestError
from edge.settings import is_loopback

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]+)")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def refuse_rebound_host(request: Request, own_hosts: Collection[str]) -> None:
    """Refuse what a page that had its own name resolved to loopback makes a browser send.

    It still says that name in Host (DNS rebinding). own_hosts: the names and addresses, in any
    case, by which this service is known, which is bound to loopback. Raises RequestError 403.
    """
    host = request.headers.get("host")
    if host is not None and not _is_local(host, own_hosts):
        raise RequestError(
            403,
            "FOREIGN_HOST",
            "This service answers on its own machine only; ask it as localhost or 127.0.0.1, or "
            "name the host in api.allowed_hosts.",
        )


def refuse_unknown_host(request: Request, own_hosts: Collection[str]) -> None:
    """Refuse what a page with a name of its own for this machine's address makes a browser send.

    Such a page cannot say an address in Host, nor a name that no server of DNS outside gives: this
    machine's bare one and that with `.local` (RFC 6762, 3). own_hosts: as above.
    Raises RequestError 403.
    """
    host = request.headers.get("host")
    name = None if host is None else host_name(host)
    if host is None or (name is not None and (is_address(name) or _is_among(name, own_hosts))):
        return
    full = socket.gethostname().lower()
    bare = full.partition(".")[0]
    if name not in (full, bare, f"{bare}.local"):
        raise RequestError(
            403,
            "FOREIGN_HOST",
            "This service is not known by that name; ask it by its address, or name the host in "
            "api.allowed_hosts.",
        )


def refuse_foreign_change(request: Request, own_hosts: Collection[str]) -> None:
    """Refuse a change that a page from another machine makes a browser send to loopback.

    A page of this machine may be from another port. own_hosts: as above. Raises RequestError 403.
    """
    origin = request.headers.get("origin")
    if origin is None or request.method in ("GET", "OPTIONS"):
        return
    page = _ORIGIN.fullmatch(origin.lower())
    if page is None or not _is_local(page[2], own_hosts):
        raise RequestError(
            403,
            "FOREIGN_ORIGIN",
            "A web page from elsewhere may not change anything here; use a page of localhost.",
        )


def refuse_other_origin(request: Request) -> None:
    """Refuse what a page makes a browser send that is not from the very host that it asks.

    The scheme may differ: a proxy in front of us may be who speaks TLS. Raises RequestError 403.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return
    page = _ORIGIN.fullmatch(origin.lower())
    if page is not None and page[1] in _DEFAULT_PORTS:
        port = _DEFAULT_PORTS[page[1]]
        host = request.headers.get("host", "").lower()
        if page[2].removesuffix(port) == host.removesuffix(port):
            return
    raise RequestError(
        403,
        "FOREIGN_ORIGIN",
        "A web page from elsewhere may not ask for this; use our own, and let a proxy in between "
        "pass the Host header on.",
    )


def _is_local(authority: str, own_hosts: Collection[str]) -> bool:
    name = host_name(authority)
    return name is not None and (_is_among(name, own_hosts) or is_loopback(name))


def _is_among(name: str, own_hosts: Collection[str]) -> bool:
    return name == "localhost" or name in {host.lower() for host in own_hosts}
