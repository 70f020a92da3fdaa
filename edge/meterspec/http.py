"""`communication` of protocol `http`: what is asked of whom, and where the quantities are."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import attrs

from edge.communication import Field, HttpCommunication, HttpEndpoint
from edge.errors import Fault
from edge.meterspec.keys import PATH, host, is_address, structured
from edge.meterspec.payloads import NAMED, PayloadKeys, payload_keys
from edge.model import QUANTITY_NAMES
from edge.structure import between, camel_case, key, keys_of, one_of, shown, text

LONGEST_URL = 2000
_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
"""A header's name. Source: RFC 9110, section 5.6.2."""
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "trailer",
     "expect"}
)  # fmt: skip
"""Headers that belong to the connection, not to who registers a meter."""


def _visible(value: str) -> None:
    if not value.isascii() or not value.isprintable() or " " in value or not value:
        raise ValueError("must be printable ASCII without spaces or line breaks")


@attrs.frozen
class HttpKeys:
    """Keys of `communication` for protocol `http`, beside `<quantity>Path` and the like."""

    url: str = key(check=text(LONGEST_URL))
    method: str = key("GET", check=one_of("GET", "POST"))
    headers: Any = key(None)
    body: Any = key(None)
    auth_token: str | None = key(None, check=_visible)
    username: str | None = key(None, check=text(255))
    password: str | None = key(None, check=text(1000))
    timeout: int = key(5000, check=between(100, 60_000, "ms"))
    ca_file: str | None = key(None, check=text(1000))
    verify_tls: bool = key(True)
    invert: bool = key(False)


def parse_http(document: Mapping[str, Any], faults: list[Fault]) -> HttpCommunication | None:
    """Make the communication of an HTTP meter, or add what is wrong with it to `faults`."""
    before = len(faults)
    found = payload_keys(document, keys_of(HttpKeys, camel_case), faults, topics=False)
    keys = structured(HttpKeys, found.rest, PATH, faults, {"url": "http://host"})
    if keys is None:
        return None
    parts = _parse_url(keys.url, faults)
    faults.extend(_faults(keys, found, parts))
    headers = _parse_headers(keys, faults)
    if len(faults) > before or parts is None:
        return None
    name = (parts.hostname or "").lower()
    if is_address(name):
        name = str(ipaddress.ip_address(name))
    port = parts.port or _PORTS[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HttpCommunication(
        endpoint=HttpEndpoint(parts.scheme, name, port, keys.ca_file or "", keys.verify_tls),
        target=target,
        method=keys.method,
        headers=headers,
        body=_encoded(keys.body),
        timeout_s=keys.timeout / 1000,
        fields=tuple(_fields(found)),
        invert=keys.invert,
    )


def http_conflict(mine: HttpEndpoint, theirs: HttpEndpoint, other: str) -> Fault | None:
    """Say why two different endpoints cannot both be lines; other: whose `theirs` is."""
    if mine.name != theirs.name:
        return None
    differs = "caFile" if mine.ca_file != theirs.ca_file else "verifyTls"
    message = f"differs from that of meter {other!r} on {mine.name}; give the same"
    return Fault(f"{PATH}.{differs}", message)


def _parse_url(url: str, faults: list[Fault]) -> SplitResult | None:
    where = f"{PATH}.url"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        faults.append(Fault(where, f"is no URL ({exc}); give one like http://192.168.1.200/api"))
        return None
    message = ""
    if parts.scheme not in _PORTS:
        message = f"must begin with http:// or https://, not {shown(parts.scheme or url)}"
    elif not url.isascii() or " " in url or not url.isprintable():
        message = "must be ASCII without spaces; write other characters as %XX"
    elif "@" in parts.netloc:
        message = "must not carry credentials; give username and password on their own"
    elif parts.fragment or "\\" in url or port == 0:
        message = f"must be a URL like http://192.168.1.200/api/energy, not {shown(url)}"
    else:
        try:
            host(parts.hostname or "")
        except ValueError as exc:
            message = f"has a host that is none: it {exc}"
    if message:
        faults.append(Fault(where, message))
        return None
    return parts


def _faults(keys: HttpKeys, found: PayloadKeys, parts: SplitResult | None) -> Iterator[Fault]:
    if parts is not None and parts.scheme != "https":
        if keys.ca_file is not None:
            yield Fault(f"{PATH}.caFile", "goes with https:// only; leave it out")
        if not keys.verify_tls:
            yield Fault(f"{PATH}.verifyTls", "goes with https:// only; leave it out")
    if keys.body is not None and keys.method != "POST":
        yield Fault(f"{PATH}.body", "goes with method POST only")
    if keys.body is not None and not isinstance(keys.body, str | dict | list):
        yield Fault(f"{PATH}.body", f"must be text or JSON, not {shown(keys.body)}")
    if (keys.username is None) != (keys.password is None):
        missing = "password" if keys.password is None else "username"
        yield Fault(f"{PATH}.{missing}", "is missing; Basic authentication needs both")
    if keys.username is not None and ":" in keys.username:
        yield Fault(f"{PATH}.username", "must not contain a colon")
    if keys.username is not None and keys.auth_token is not None:
        yield Fault(f"{PATH}.authToken", "does not go with username; give one of the two")
    if "powerExport" in found.paths and "power" not in {*found.paths, *NAMED}:
        yield Fault(f"{PATH}.powerExportPath", "is taken off power; give powerPath too")
    for quantity in found.scales:
        if quantity not in found.paths and quantity not in NAMED:
            message = f"scales nothing; give {quantity}Path too, or leave it out"
            yield Fault(f"{PATH}.{quantity}Scale", message)


def _parse_headers(keys: HttpKeys, faults: list[Fault]) -> tuple[tuple[str, str], ...]:
    where = f"{PATH}.headers"
    if keys.headers is not None and not isinstance(keys.headers, dict):
        faults.append(
            Fault(where, f"must be an object of names and texts, not {shown(keys.headers)}")
        )
        return ()
    headers: dict[str, str] = {}
    for name, value in (keys.headers or {}).items():
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            faults.append(Fault(f"{where}.{shown(name)}", "is no header that can be given here"))
        elif not isinstance(value, str) or not value.isascii() or not value.isprintable():
            message = "must be printable ASCII text without line breaks"
            faults.append(Fault(f"{where}.{name}", message))
        elif name.lower() in {known.lower() for known in headers}:
            faults.append(Fault(f"{where}.{name}", "is given twice"))
        else:
            headers[name] = value
    given = {name.lower() for name in headers}
    if "authorization" in given and (keys.auth_token or keys.username):
        faults.append(
            Fault(f"{where}.Authorization", "is made of the credentials; give one of both")
        )
    if keys.auth_token is not None:
        headers["Authorization"] = f"Bearer {keys.auth_token}"
    elif keys.username is not None:
        pair = f"{keys.username}:{keys.password}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
    if isinstance(keys.body, dict | list) and "content-type" not in given:
        headers["Content-Type"] = "application/json"
    if "accept" not in given:
        headers["Accept"] = "application/json"
    return tuple(headers.items())


def _encoded(body: Any) -> bytes | None:
    if body is None:
        return None
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _fields(found: PayloadKeys) -> Iterator[Field]:
    for quantity in QUANTITY_NAMES:
        if quantity in found.paths or quantity in NAMED:
            yield Field(quantity, found.paths.get(quantity), found.scales.get(quantity))
