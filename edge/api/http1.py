"""HTTP/1.1 as bytes: heads to requests, answers to bytes. No socket here.

Whatever is not exactly HTTP/1 is refused, since where the next request begins is then unknown.
Source: RFC 9112 (HTTP/1.1), RFC 9110 (HTTP semantics).
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote

from edge.api import Request, Response
from edge.errors import RequestError

MAX_HEAD_BYTES = 16 * 1024
MAX_FIELDS = 64
MAX_BODY_BYTES = 64 * 1024
JSON_TYPES = ("application/json", "application/merge-patch+json")

# --- Bytes to requests ---------------------------------------------------------------------------

_TCHAR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_TOKEN = f"{_TCHAR}+"
BEGINNING = re.compile(rf"{_TCHAR}|$".encode())
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([!-\"$-~]+) HTTP/([0-9])\.([0-9])\r\n".encode())
_FIELD = re.compile(rf"({_TOKEN}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
HEAD_END = re.compile(rb"\r?\n\r?\n")
_ABSOLUTE_FORM = re.compile(r"https?://([^/?]+)(/[^?]*)?(\?.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]*))(?::[0-9]*)?")
_LENGTH = re.compile(r"[0-9]{1,19}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NO_QUERY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body, and what its framing says about the connection."""

    request: Request
    body_bytes: int
    keep_alive: bool
    """The client wants to go on after this request."""
    minor: int
    """The client speaks HTTP/1.<minor>."""
    without_body: bool
    """Only the head of the answer is wanted (HEAD)."""
    awaits_continue: bool
    """The client sends the body only when told to."""


def parse_head(head: bytes) -> Head:
    """Read a request line and its header fields.

    head: from the request line up to and with the empty line that ends the fields.
    Raises RequestError for all that is not exactly HTTP/1 or goes beyond a limit; where the next
    request begins is then unknown.
    Source: RFC 9112, 3 (request line), 5 (fields), 6 (length), 9.3 (persistence).
    """
    method, target, minor = parse_request_line(head)
    headers = _parse_fields(head.decode("latin-1").split("\r\n")[1:-2])
    if "host" not in headers and minor:
        raise bad_request("A request of HTTP/1.1 needs a Host header")
    authority, path, query = _parse_target(method, target)
    if authority is not None:
        headers["host"] = authority  # RFC 9112, 3.2.2: it stands above the Host header
    if host_name(headers.get("host", "")) is None:
        raise bad_request("The Host header is malformed; send one host with an optional port")
    if not minor or method == "HEAD":
        # RFC 9110, 7.8: HTTP/1.0 knows no upgrade; and a head alone cannot become another protocol.
        headers.pop("upgrade", None)
    options = [option.strip() for option in headers.get("connection", "").lower().split(",")]
    expect = headers.get("expect", "").lower()
    if expect not in ("", "100-continue"):
        raise RequestError(417, "EXPECTATION_FAILED", "The only known Expect is 100-continue.")
    return Head(
        request=Request(
            "GET" if method == "HEAD" else method,
            _decoded_path(path),
            _decoded_query(query) if query else _NO_QUERY,
            headers,
            b"",
        ),
        body_bytes=_body_bytes(headers),
        keep_alive="close" not in options if minor else "keep-alive" in options,
        minor=minor,
        without_body=method == "HEAD",
        awaits_continue=bool(expect and minor),
    )


def parse_request_line(head: bytes | bytearray) -> tuple[str, str, int]:
    """Read the first line of a head: method, request target and minor version of HTTP/1.

    Raises RequestError if it is not whole or not of HTTP/1.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise bad_request("This port speaks HTTP/1.1; the first line is not an HTTP/1.1 request")
    if line[3] != b"1":
        raise RequestError(505, "HTTP_VERSION_NOT_SUPPORTED", "Use HTTP/1.1 with this port.")
    return line[1].decode(), line[2].decode(), min(int(line[4]), 1)


def _parse_fields(lines: Sequence[str]) -> dict[str, str]:
    """Read header fields; names in lower case, repeated ones joined."""
    if len(lines) > MAX_FIELDS:
        raise RequestError(431, "HEADERS_TOO_LARGE", f"Send at most {MAX_FIELDS} header fields.")
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise bad_request("A header field is malformed; send each as `Name: value` and CRLF")
        name, value = field[1].lower(), field[2].rstrip(" \t")
        # A joined Host or Content-Length is malformed, so neither can be there twice.
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _parse_target(method: str, target: str) -> tuple[str | None, str, str]:
    """Take a request target apart: authority, if it names one, path and query as they were sent."""
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return None, path, query
    if absolute := _ABSOLUTE_FORM.fullmatch(target):
        return absolute[1], absolute[2] or "/", (absolute[3] or "?")[1:]
    if target == "*" and method == "OPTIONS":
        return None, target, ""
    raise bad_request("The request target must be a path that begins with /")


def _body_bytes(headers: Mapping[str, str]) -> int:
    """Give the length of the body, bytes. A length in doubt is refused, never guessed."""
    if "transfer-encoding" in headers:
        raise RequestError(
            411, "LENGTH_REQUIRED", "Send the body with a Content-Length, not Transfer-Encoding."
        )
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length):
        raise bad_request("Content-Length must be given once, as decimal digits")
    if int(length) > MAX_BODY_BYTES:
        raise RequestError(
            413, "BODY_TOO_LARGE", f"Send at most {MAX_BODY_BYTES} bytes as the body of a request."
        )
    return int(length)


def _decoded_path(path: str) -> str:
    if "%" in path:
        if _BAD_ESCAPE.search(path):
            raise bad_request("The path has a % that is not followed by two hexadecimal digits")
        with suppress(UnicodeDecodeError):
            decoded = unquote(path, errors="strict")
            if not _CONTROL.search(decoded):
                return decoded
        raise bad_request("The path must be UTF-8 without control characters, percent-encoded")
    return path


def _decoded_query(query: str) -> Mapping[str, str]:
    try:
        if _BAD_ESCAPE.search(query):
            raise ValueError(query)
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise bad_request("The query must be `key=value&…`, percent-encoded UTF-8") from None
    decoded = dict(pairs)
    if len(decoded) < len(pairs):
        raise bad_request("Give each key of the query only once")
    return decoded


def bad_request(what: str) -> RequestError:
    """Make the refusal of what is not exactly HTTP/1."""
    return RequestError(400, "BAD_REQUEST", f"{what}.")


def require_json(request: Request, body_bytes: int) -> None:
    """Refuse a body that is not declared as JSON; a browser sends no other without asking first.

    Raises RequestError 415.
    """
    declared = request.headers.get("content-type", "")
    is_json = declared.partition(";")[0].strip().lower() in JSON_TYPES
    if request.method in ("POST", "PUT", "PATCH") and (body_bytes or declared) and not is_json:
        raise RequestError(
            415, "UNSUPPORTED_MEDIA_TYPE", "Send the body as Content-Type: application/json."
        )


def host_name(authority: str) -> str | None:
    """Give the host of `host[:port]` in lower case and without brackets; None if malformed."""
    match = _AUTHORITY.fullmatch(authority)
    return None if match is None else (match[1] or match[2]).lower()


# --- Answers to bytes ----------------------------------------------------------------------------

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_SECURITY_FIELDS = (
    "X-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
)
"""A page of ours runs our own scripts only, talks to us only, and is shown in no other page."""


def response_bytes(response: Response, head: Head | None = None, *, keep_alive: bool) -> bytes:
    """Give the bytes of an answer to `head`, or to what never became a request.

    Of a streamed answer, what comes before its first piece. Without chunks it ends where the
    connection does, so keep_alive must be False then.
    Raises ValueError for a header value that would end its line early: that is a bug.
    """
    fields = _fields(response)
    body, content = response.body, f"Content-Type: {response.content_type}\r\n"
    if response.status == HTTPStatus.NOT_MODIFIED:
        content = ""  # RFC 9110, 8.6: a length would have to be that of what is not sent
    elif response.stream is None:
        content += f"Content-Length: {len(body)}\r\n"
    elif is_chunked(head):
        body = chunk_bytes(body)
        content += "Transfer-Encoding: chunked\r\n"
    if not keep_alive:
        fields += "Connection: close\r\n"
    elif head is not None and not head.minor:
        fields += "Connection: keep-alive\r\n"
    if all(name.lower() != "cache-control" for name, _ in response.headers):
        content += "Cache-Control: no-store\r\n"
    top = f"{_beginning(response.status)}{content}{_SECURITY_FIELDS}{fields}\r\n".encode("latin-1")
    return top if head is not None and head.without_body else top + body


def takeover_bytes(response: Response) -> bytes:
    """Give the head of a 101, behind which the connection is another protocol's.

    Raises ValueError as `response_bytes` does.
    """
    return f"{_beginning(response.status)}{_fields(response)}\r\n".encode("latin-1")


def _beginning(status: int) -> str:
    return (
        f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n"
        f"Server: dlm-edge\r\nDate: {_http_date(int(time.time()))}\r\n"
    )


def _fields(response: Response) -> str:
    fields = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    if fields.count("\n") != len(response.headers) or fields.count("\r") != len(response.headers):
        raise ValueError(f"line break in a header of the answer: {response.headers!r}")
    return fields


LAST_CHUNK = b"0\r\n\r\n"


def is_chunked(head: Head | None) -> bool:
    """Tell whether pieces of the answer to `head` go out as chunks; HTTP/1.0 knows none."""
    return head is not None and head.minor > 0


def chunk_bytes(piece: bytes) -> bytes:
    """Frame a piece of a streamed answer; an empty one is nothing, since it would be the last.

    Source: RFC 9112, 7.1.
    """
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


@functools.lru_cache(maxsize=1)
def _http_date(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)
