"""The pages and what they are made of: the files of edge/static/, out of memory.

A file is found by its name in a table, so nothing of a request ever becomes a path of the disk.
`%HASH%` in a page stands for the hash of all files; they are asked for beneath it, so that a
browser keeps them for good, and fetches them anew once any of them has changed. Each is packed
once, since the way to a phone in a cellar may be slow.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.api import Request, Response
from edge.api.route import Context
from edge.errors import RequestError

FOLDER = Path(__file__).parent.parent / "static"

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}
"""Endings of files that are served, and what they are."""
_FOR_GOOD = ("Cache-Control", "public, max-age=31536000, immutable")
_ASK_AGAIN = ("Cache-Control", "no-cache")
"""It may be kept, but whoever shows it again asks first whether it still holds."""


_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")
"""Whether an Accept-Encoding takes gzip. Source: RFC 9110, 12.5.3."""


@dataclass(frozen=True)
class StaticFiles:
    """The files of one folder, read once, each as it is and under gzip.

    hash: of all of them, and changes with any.
    """

    files: Mapping[str, tuple[bytes, bytes]]
    hash: str

    def page(self, name: str, request: Request) -> Response:
        """Give a page, or 304 to who has it already. Raises RequestError 404."""
        mark = f'W/"{self.hash}"'  # weak, since it is the same with gzip and without
        headers = (_ASK_AGAIN, ("ETag", mark))
        if f'"{self.hash}"' in request.headers.get("if-none-match", ""):
            return Response(304, b"", headers=headers)
        return self._answer(name, request, headers)

    def part(self, hash_: str, name: str, request: Request) -> Response:
        """Give a part of the pages to keep for good. Raises RequestError 404."""
        if hash_ != self.hash:
            raise RequestError(404, "NOT_FOUND", "The pages were renewed; load this one again.")
        return self._answer(name, request, (_FOR_GOOD,))

    def _answer(
        self, name: str, request: Request, headers: tuple[tuple[str, str], ...]
    ) -> Response:
        if name not in self.files:
            raise RequestError(
                404, "NOT_FOUND", f"No file of the pages is named {name!r}; go on from `/`."
            )
        content, packed = self.files[name]
        headers = (*headers, ("Vary", "Accept-Encoding"))
        if _GZIP.search(request.headers.get("accept-encoding", "").lower()):
            content, headers = packed, (*headers, ("Content-Encoding", "gzip"))
        return Response(200, content, TYPES[Path(name).suffix], headers)


def read_files(folder: Path) -> StaticFiles:
    """Read all files of a folder whose type is known.

    Raises RequestError 503 when the disk fails us: that must not end what reads the meters.
    """
    try:
        files = {
            path.name: path.read_bytes()
            for path in sorted(folder.iterdir())
            if path.suffix in TYPES
        }
    except OSError as exc:
        raise RequestError(
            503,
            "PAGES_UNREADABLE",
            f"The files of the pages cannot be read ({exc.strerror}); install the service again.",
        ) from exc
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(b"%s %d\n%b" % (name.encode(), len(content), content))
    hash_ = digest.hexdigest()[:16]
    both = {}
    for name, content in files.items():
        if name.endswith(".html"):
            content = content.replace(b"%HASH%", hash_.encode())
        both[name] = content, gzip.compress(content, mtime=0)
    return StaticFiles(both, hash_)


@functools.cache
def _own_files() -> StaticFiles:
    return read_files(FOLDER)


# --- The routes ----------------------------------------------------------------------------------


def show_dashboard(context: Context) -> Response:
    """Show the dashboard."""
    return _own_files().page("index.html", context.request)


def show_reference(context: Context) -> Response:
    """Show the reference of the API, to read."""
    return _own_files().page("docs.html", context.request)


def show_icon(context: Context) -> Response:
    """Give the icon that a browser puts beside the title."""
    return _own_files().page("favicon.svg", context.request)


def give_part(context: Context) -> Response:
    """Give what a page is made of: a script, a style sheet, an image."""
    path = context.path
    return _own_files().part(path["hash"], path["file"], context.request)
