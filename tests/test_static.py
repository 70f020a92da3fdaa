"""The pages' files: found by name only, kept by browsers as long as they are the same."""

from __future__ import annotations

import gzip
import re
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.api import Access, Request, Response
from edge.api.dispatch import find
from edge.api.route import Context
from edge.api.static import FOLDER, StaticFiles, read_files
from edge.errors import RequestError
from edge.model import Snapshot

PAGES = ("/", "/api/docs")


def a_request(path: str, headers: dict[str, str] | None = None) -> Request:
    return Request("GET", path, {}, headers or {}, b"")


def get(path: str, headers: dict[str, str] | None = None) -> Response:
    """Ask a route for a path. Raises RequestError."""
    request = a_request(path, headers)
    route, values = find(request)
    assert route.needs is Access.PUBLIC
    assert route.always
    # Pages show nothing of the service, so it may be anything.
    answer = route.answer(Context(Mock(), request, Mock(spec=Snapshot), values))
    assert isinstance(answer, Response)
    return answer


def refusal_of(path: str) -> tuple[int, str]:
    with pytest.raises(RequestError) as raised:
        get(path)
    return raised.value.status, raised.value.code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_bytes(b'<script src="/static/%HASH%/main.js"></script>')
    (tmp_path / "main.js").write_bytes(b'"%HASH%";')
    (tmp_path / "style.css").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"not for the browser")
    return tmp_path


# --- What a folder gives -------------------------------------------------------------------------


def test_a_page_names_its_parts_beneath_the_hash(folder: Path) -> None:
    files = read_files(folder)
    page = files.page("index.html", a_request("/"))
    assert page.body == b'<script src="/static/%b/main.js"></script>' % files.hash.encode()
    assert page.content_type == "text/html; charset=utf-8"
    assert dict(page.headers) == {
        "Cache-Control": "no-cache",
        "ETag": f'W/"{files.hash}"',
        "Vary": "Accept-Encoding",
    }


def test_a_part_is_kept_for_good(folder: Path) -> None:
    files = read_files(folder)
    part = files.part(files.hash, "main.js", a_request("/"))
    assert (part.status, part.body) == (200, b'"%HASH%";')
    assert part.content_type == "text/javascript; charset=utf-8"
    assert dict(part.headers) == {
        "Cache-Control": "public, max-age=31536000, immutable",
        "Vary": "Accept-Encoding",
    }
    style = files.part(files.hash, "style.css", a_request("/"))
    assert style.content_type == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.8", True),
        ("gzip;q=0.001", True),
        ("deflate", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, br", False),
        ("xgzip", False),
        ("", False),
    ],
)
def test_it_is_packed_for_who_takes_it_so(folder: Path, accepted: str, packed: bool) -> None:
    files = read_files(folder)
    request = a_request("/", {"accept-encoding": accepted})
    for answer in (files.page("index.html", request), files.part(files.hash, "main.js", request)):
        plain = answer.body
        if packed:
            assert ("Content-Encoding", "gzip") in answer.headers
            plain = gzip.decompress(plain)
        else:
            assert "Content-Encoding" not in dict(answer.headers)
        assert plain.startswith((b"<script", b'"%HASH%"'))


@pytest.mark.parametrize("sent", ['"{}"', 'W/"{}"', '"other", "{}"'])
def test_who_has_the_page_is_not_sent_it_again(folder: Path, sent: str) -> None:
    files = read_files(folder)
    held = {"if-none-match": sent.format(files.hash)}
    page = files.page("index.html", a_request("/", held))
    assert (page.status, page.body) == (304, b"")
    assert ("ETag", f'W/"{files.hash}"') in page.headers
    assert files.page("index.html", a_request("/", {"if-none-match": '"other"'})).status == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "style.css").write_bytes(b"a {}"),
        lambda folder: (folder / "style.css").rename(folder / "other.css"),
        lambda folder: (folder / "style.css").unlink(),
        lambda folder: (folder / "new.js").write_bytes(b""),
    ],
)
def test_the_hash_changes_with_any_file(folder: Path, change: object) -> None:
    before = read_files(folder)
    assert read_files(folder) == before
    assert callable(change)
    change(folder)
    after = read_files(folder)
    assert after.hash != before.hash
    with pytest.raises(RequestError) as raised:
        after.part(
            before.hash, "main.js", a_request("/")
        )  # or else it would be kept for good as what it was
    assert raised.value.status == 404


def test_what_moves_from_one_file_to_the_next_changes_the_hash_too(tmp_path: Path) -> None:
    hashes = set()
    for first, second in ((b"xb.js", b"y"), (b"x", b"b.jsy"), (b"", b"xb.jsy")):
        (tmp_path / "a.js").write_bytes(first)
        (tmp_path / "b.js").write_bytes(second)
        hashes.add(read_files(tmp_path).hash)
    assert len(hashes) == 3


@pytest.mark.parametrize("name", ["notes.txt", "other.js", "", ".", "..", "main.js/", "Main.js"])
def test_only_files_of_a_known_type_are_there(folder: Path, name: str) -> None:
    files = read_files(folder)
    with pytest.raises(RequestError) as raised:
        files.part(files.hash, name, a_request("/"))
    assert raised.value.status == 404


def test_a_disk_that_fails_ends_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as raised:
        read_files(tmp_path / "missing")
    assert (raised.value.status, raised.value.code) == (503, "PAGES_UNREADABLE")
    assert str(tmp_path) not in str(raised.value)


# --- What comes with the package -----------------------------------------------------------------


def own_files() -> StaticFiles:
    return read_files(FOLDER)


@pytest.mark.parametrize("path", PAGES)
def test_what_a_page_names_is_there(path: str) -> None:
    page = get(path)
    assert page.status == 200
    text = page.body.decode()
    assert "%HASH%" not in text
    named = re.findall(r'(?:src|href)="(/[^"]*)"', text)
    assert named
    for address in named:
        if address.startswith("/static/"):
            assert get(address).status == 200
        else:
            find(a_request(address))
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text), "another host"


def test_what_a_script_imports_is_there() -> None:
    files = own_files()
    for name, (content, _) in files.files.items():
        for imported in re.findall(r"""(?:from|import)\s*\(?["']([^"']+)["']""", content.decode()):
            assert imported.startswith("./"), f"{name}: {imported}"
            assert imported[2:] in files.files, f"{name}: {imported}"


def test_the_folder_is_flat_and_all_of_it_is_served() -> None:
    assert own_files().files.keys() == {path.name for path in FOLDER.iterdir()}


def test_the_icon_is_there() -> None:
    assert get("/favicon.ico").content_type.startswith("image/svg+xml")


# --- What is asked for ---------------------------------------------------------------------------

SECRETS = ("../api/static.py", "../../pyproject.toml", "/etc/passwd", "..\\..\\pyproject.toml")


@pytest.mark.parametrize("secret", [*SECRETS, "index.html/../../__init__.py", "....//__init__.py"])
@pytest.mark.parametrize("start", ["/static/", f"/static/{own_files().hash}/", "/", "//"])
def test_no_path_leads_out_of_the_folder(start: str, secret: str) -> None:
    assert refusal_of(start + secret) == (404, "NOT_FOUND")


@given(st.text())
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    files = own_files()
    part = None
    with suppress(RequestError):
        part = files.part(files.hash, name, a_request("/"))
    assert part is None or (name in files.files and "/" not in name)
