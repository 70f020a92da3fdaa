"""`communication` of protocol `http`: what is asked of whom, and where the quantities are."""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import attrs

from edge.checks import between, host, is_address, one_of, rule, text
from edge.communication import Field, HttpCommunication, HttpEndpoint
from edge.errors import Fault
from edge.meterspec.keys import PATH, reach_faults, structured
from edge.meterspec.payloads import PayloadKeys, payload_keys
from edge.model import QUANTITY_NAMES
from edge.payload import NAMED
from edge.reach import Reach
from edge.structure import camel_case, key, keys_of, shown

LONGEST_URL = 2000
_MOST_HEADERS = 50
_DEEPEST_BODY = 20
_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"([^][:]+|\[[^][]*:[^][]*\])(:[0-9]*)?")
"""A host with or without a port, without credentials. Source: RFC 3986, section 3.2."""
_URL_LIKE = "must be a URL like http://192.168.1.200/api/energy"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
"""A header's name. Source: RFC 9110, section 5.6.2."""
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "trailer",
     "expect"}
)  # fmt: skip
"""Headers that belong to the connection, not to who registers a meter."""


@rule(type="string", minLength=1, pattern="^[!-~]+$")
def _visible(value: str) -> None:
    if not value.isascii() or not value.isprintable() or " " in value or not value:
        raise ValueError("must be printable ASCII without spaces or line breaks")


@rule(**{**text(1000).schema, "pattern": "^/"})
def _file(value: str) -> None:
    text(1000)(value)
    if not value.startswith("/"):  # the folder that the service runs in is nobody's choice
        raise ValueError(f"must be an absolute path like /etc/ssl/ca.pem, not {shown(value)}")


@rule(
    type="object",
    maxProperties=_MOST_HEADERS,
    additionalProperties={"type": ["string", "null"]},
)
def _headers(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError('must be an object of names and texts, like {"Accept": "…"}')
    if len(value) > _MOST_HEADERS:
        raise ValueError(f"must be at most {_MOST_HEADERS} headers, not {len(value):,}")


@rule(type=["string", "object", "array"])
def _body(value: Any) -> None:
    if not isinstance(value, str | dict | list):
        raise ValueError(f"must be text, an object or a list, not {shown(value)}")
    _storable(value, _DEEPEST_BODY)


def _storable(value: Any, levels: int) -> None:
    """Check what JSON can say and UTF-8 cannot, or a recursive writer of JSON cannot."""
    if levels == 0:
        raise ValueError(f"must be nested at most {_DEEPEST_BODY} deep, or be given as text")
    if isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _storable(inner, levels - 1)
    elif isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise ValueError("must not hold half of a surrogate pair")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must hold finite numbers only")


@attrs.frozen
class HttpKeys:
    """Keys of `communication` for protocol `http`, beside `<quantity>Path` and the like."""

    url: str = key(check=text(LONGEST_URL))
    method: str = key("GET", check=one_of("GET", "POST"))
    headers: Any = key(None, check=_headers)
    body: Any = key(None, check=_body)
    auth_token: str | None = key(None, check=_visible, secret=True)
    username: str | None = key(None, check=text(255))
    password: str | None = key(None, check=text(1000), secret=True)
    timeout: int = key(5000, check=between(100, 60_000, "ms"))
    ca_file: str | None = key(None, check=_file)
    verify_tls: bool = key(True)
    invert: bool = key(False)


def parse_http(
    document: Mapping[str, Any], reach: Reach | None, faults: list[Fault]
) -> HttpCommunication | None:
    """Make the communication of an HTTP meter, or add what is wrong with it to `faults`."""
    before = len(faults)
    found = payload_keys(document, keys_of(HttpKeys, camel_case), faults, topics=False)
    keys = structured(HttpKeys, found.rest, PATH, faults, {"url": "http://host"})
    assert keys is not None  # the document is a table
    parts = None
    if keys.url == found.rest.get("url"):  # and no stand-in
        try:
            parts = _parse_url(keys.url)
        except ValueError as exc:
            faults.append(Fault(f"{PATH}.url", str(exc)))
    if parts is not None:
        faults.extend(reach_faults(_host_name(parts), f"{PATH}.url", reach))
    faults.extend(_faults(keys, found, parts))
    headers = _parse_headers(keys.headers or {}, faults)
    headers.update(_made_headers(keys, headers, faults))
    if len(faults) > before or parts is None:
        return None
    name = _host_name(parts)
    port = parts.port or _PORTS[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HttpCommunication(
        endpoint=HttpEndpoint(parts.scheme, name, port, keys.ca_file or "", keys.verify_tls),
        target=target,
        method=keys.method,
        headers=tuple(headers.items()),
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


def _parse_url(url: str) -> SplitResult:
    """Take a URL apart. Raises ValueError with a sentence that does not show it.

    Where one is mistyped, what was meant as a password may stand anywhere in it.
    """
    if not url.isascii() or " " in url:
        raise ValueError(
            "must be ASCII without spaces; write other characters as %XX, and in a host's name "
            "as xn--"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(_URL_LIKE) from None
    if parts.scheme not in _PORTS:
        raise ValueError("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must not carry credentials; give username and password on their own")
    if "#" in url or "\\" in url or not _AUTHORITY.fullmatch(parts.netloc):
        raise ValueError(_URL_LIKE)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("must have a port of 1 to 65535, or none")
    try:
        host(_host_name(parts))
    except ValueError as exc:
        raise ValueError(f"has a host that is none: it {exc}") from None
    return parts


def _host_name(parts: SplitResult) -> str:
    """The host, in one spelling, so that equal lines are one. Source: RFC 6874, for the zone."""
    name = (parts.hostname or "").replace("%25", "%").lower()
    return str(ipaddress.ip_address(name)) if is_address(name) else name


def _faults(keys: HttpKeys, found: PayloadKeys, parts: SplitResult | None) -> Iterator[Fault]:
    """What is wrong between keys; what is wrong with one by itself is not said again."""
    if parts is not None and parts.scheme != "https":
        if keys.ca_file is not None:
            yield Fault(f"{PATH}.caFile", "goes with https:// only; leave it out")
        if not keys.verify_tls:
            yield Fault(f"{PATH}.verifyTls", "goes with https:// only; leave it out")
    if "body" in found.rest and found.rest.get("method", "GET") == "GET":
        yield Fault(f"{PATH}.body", "goes with method POST only")
    if ("username" in found.rest) != ("password" in found.rest):
        missing = "password" if "username" in found.rest else "username"
        yield Fault(f"{PATH}.{missing}", "is missing; Basic authentication needs both")
    if keys.username is not None and ":" in keys.username:
        yield Fault(f"{PATH}.username", "must not contain a colon")
    if "username" in found.rest and "authToken" in found.rest:
        yield Fault(f"{PATH}.authToken", "does not go with username; give one of the two")
    for quantity in found.scales:
        if quantity not in found.paths and quantity not in NAMED:
            message = f"scales nothing; give {quantity}Path too, or leave it out"
            yield Fault(f"{PATH}.{quantity}Scale", message)


def _parse_headers(document: Mapping[str, Any], faults: list[Fault]) -> dict[str, str]:
    where = f"{PATH}.headers"
    headers: dict[str, str] = {}
    for name, value in document.items():
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            faults.append(Fault(f"{where}.{shown(name)}", "is no header that can be given here"))
        elif not isinstance(value, str) or not value.isascii() or not value.isprintable():
            message = "must be printable ASCII text without line breaks"
            faults.append(Fault(f"{where}.{name}", message))
        elif name.lower() in {known.lower() for known in headers}:
            faults.append(Fault(f"{where}.{name}", "is given twice"))
        else:
            headers[name] = value
    return headers


def _made_headers(
    keys: HttpKeys, given: Mapping[str, str], faults: list[Fault]
) -> Iterator[tuple[str, str]]:
    """The headers that follow from other keys, as far as they are not given themselves."""
    names = {name.lower() for name in given}
    if "authorization" in names and (keys.auth_token or keys.username):
        message = "is made of the credentials; give one of both"
        faults.append(Fault(f"{PATH}.headers.Authorization", message))
    if keys.auth_token is not None:
        yield "Authorization", f"Bearer {keys.auth_token}"
    elif keys.username is not None:
        pair = f"{keys.username}:{keys.password}".encode()
        yield "Authorization", "Basic " + base64.b64encode(pair).decode("ascii")
    if isinstance(keys.body, dict | list) and "content-type" not in names:
        yield "Content-Type", "application/json"
    if "accept" not in names:
        yield "Accept", "application/json"


def _encoded(body: Any) -> bytes | None:
    if body is None:
        return None
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _fields(found: PayloadKeys) -> Iterator[Field]:
    for quantity in QUANTITY_NAMES:
        if quantity in found.paths or quantity in NAMED:
            yield Field(quantity, found.paths.get(quantity), found.scales.get(quantity))
