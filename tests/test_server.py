r"""The server's shell: what it takes for a request, whom it lets ask, and how it cuts clients off.

`http/accepted` and `http/refused` hold requests as the bytes of a client, one case each: `\r`,
`\n` and `\xNN` are escapes, line ends of the file are nothing. A refused case is named by its
status; an accepted one has its requests in the .json beside it.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import select
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.api import Caller, Request, Response, Stream
from edge.api.connection import ANSWER_WITHIN_S
from edge.api.connections import Doing, Gone
from edge.api.http1 import (
    MAX_BODY_BYTES,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    parse_head,
    response_bytes,
    takeover_bytes,
)
from edge.api.readers import rested
from edge.api.server import ACCEPT_WITHIN_S, ApiServer
from edge.errors import ConfigError, JournalError, RequestError
from edge.heartbeat import Heartbeats
from edge.tokenfile import Role
from tests.peers import free_port, wait_until

CASES = Path(__file__).parent / "http"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
JSON_FIELDS = b"Host: localhost\r\nContent-Type: application/json\r\n"
BIG = b"x" * 20_000_000
"""More than the system buffers for a client that does not read."""


def refuse(error: RequestError) -> Response:
    shape = {"success": False, "error": str(error), "code": error.code, "details": []}
    return Response(error.status, json.dumps(shape).encode(), headers=error.headers)


class Routes:
    """Answers each request with its path, or as a test says, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.paths: dict[str, Callable[[], Response]] = {"/big": lambda: Response(200, BIG)}

    def handle(self, request: Request) -> Response:
        self.asked.append(request)
        special = self.paths.get(request.path)
        return special() if special else Response(200, request.path.encode())


class Client:
    """A client that sends bytes as it likes and reads answers as HTTP says."""

    def __init__(self, port: int, host: str = "127.0.0.1", source: str | None = None) -> None:
        self.socket = socket.create_connection(
            (host, port), timeout=5, source_address=(source, 0) if source else None
        )
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, *data: bytes) -> None:
        for part in data:
            self.socket.sendall(part)

    def read(self, *, with_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: status, headers, body."""
        status = re.fullmatch(rb"HTTP/1.1 (\d{3}) [A-Za-z -]+\r\n", self.file.readline())
        assert status is not None
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(": ")
            headers[name] = value[:-2]
        body = self.file.read(int(headers["Content-Length"])) if with_body else b""
        return int(status[1]), headers, body

    def ask(self, *data: bytes) -> tuple[int, dict[str, str], bytes]:
        self.send(*data)
        return self.read()

    def code(self) -> tuple[int, str]:
        """Read one refusal, which has to end the connection: its status and its code."""
        status, headers, body = self.read()
        assert headers["Connection"] == "close"
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        failure = json.loads(body)
        assert failure["success"] is False
        assert failure["error"].endswith(".")
        return status, failure["code"]

    def is_closed(self) -> bool:
        """Wait for the server to end the connection; False if it says something instead."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


Serve = Callable[..., tuple[ApiServer, Routes]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers."""
    with serving() as start:
        yield start


@contextmanager
def serving(**always: Any) -> Iterator[Serve]:
    """Start servers that must be able to end every thread of theirs. always: their settings."""
    with ExitStack() as stack:

        def start(**options: Any) -> tuple[ApiServer, Routes]:
            routes = Routes()
            settings = {"host": "127.0.0.1", "port": 0, **always, **options}
            server = ApiServer(routes.handle, refuse, **settings)
            server.start()
            stack.callback(lambda: server.close(time.monotonic() + 5))
            return server, routes

        yield start
    wait_until(lambda: not http_threads(), what="the end of all threads")


def http_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if re.match("http(-|$)", thread.name)]


def case_bytes(case: Path) -> bytes:
    text = case.read_text().replace("\n", "")
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def cases(folder: str) -> list[Any]:
    found = sorted((CASES / folder).glob("*.http"))
    assert found
    return [pytest.param(case, id=case.stem) for case in found]


# --- What a request is ---------------------------------------------------------------------------


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", cases("refused"))
def test_refused(case: Path, in_pieces: bool, serve: Serve) -> None:
    server, routes = serve()
    data = case_bytes(case)
    with Client(server.port) as client:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before the last byte
            client.send(*([data[i : i + 1] for i in range(len(data))] if in_pieces else [data]))
        assert client.code()[0] == int(case.stem[:3])
        assert client.is_closed()
    assert routes.asked == []


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", cases("accepted"))
def test_accepted(case: Path, in_pieces: bool, serve: Serve) -> None:
    server, routes = serve()
    data = case_bytes(case)
    expected = json.loads(case.with_suffix(".json").read_text())
    with Client(server.port) as client:
        client.send(*([data[i : i + 1] for i in range(len(data))] if in_pieces else [data]))
        for request in expected:
            status, _, body = client.read(with_body=not data.startswith(b"HEAD"))
            assert (status, body.decode()) == (200, request["path"] if body else "")
    assert [
        {"method": one.method, "path": one.path, "query": one.query, "body": one.body.decode()}
        for one in routes.asked
    ] == expected


@given(st.binary() | st.binary().map(lambda noise: GET[:-2] + noise + b"\r\n\r\n"))
def test_any_bytes_are_a_head_or_refused(head: bytes) -> None:
    with suppress(RequestError):
        parsed = parse_head(head)
        assert 0 <= parsed.body_bytes <= MAX_BODY_BYTES
        assert parsed.request.path.startswith("/")
        assert all(name == name.lower() and " " not in name for name in parsed.request.headers)
        assert not re.search("[\r\n\0]", "".join(parsed.request.headers.values()))


printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@given(printable, st.dictionaries(printable, st.text(st.characters(exclude_categories=["Cs"]))))
def test_what_a_client_encodes_arrives_as_meant(path: str, query: dict[str, str]) -> None:
    pairs = "&".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in query.items())
    head = f"GET /{quote(path)}?{pairs} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    if len(query) <= MAX_FIELDS:
        request = parse_head(head).request
        assert (request.path, request.query) == (f"/{path}", query)


def test_repeated_fields_are_joined() -> None:
    head = parse_head(GET[:-2] + b"Accept: text/html\r\naccept: application/json\r\n\r\n")
    assert head.request.headers["accept"] == "text/html, application/json"


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(max_examples=30, deadline=None)
def test_garbage_ends_its_own_connection_only(pieces: list[bytes]) -> None:
    routes = Routes()
    server = ApiServer(routes.handle, refuse, host="127.0.0.1", port=0)
    server.start()
    try:
        with Client(server.port) as good, Client(server.port) as bad:
            with suppress(BrokenPipeError, ConnectionResetError):
                bad.send(*pieces, b"\r\n\r\n")
                bad.socket.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                said = bad.file.read()
                assert not said or said.startswith(b"HTTP/1.1 ")
            assert good.ask(GET)[0] == 200
    finally:
        server.close(time.monotonic() + 5)


# --- What an answer is ---------------------------------------------------------------------------


def test_the_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1760956200.9)
    answer = Response(201, b'{"success": true}', headers=(("Location", "/api/x"),))
    assert response_bytes(answer, parse_head(GET), keep_alive=True) == (
        b"HTTP/1.1 201 Created\r\n"
        b"Server: dlm-edge\r\n"
        b"Date: Mon, 20 Oct 2025 10:30:00 GMT\r\n"
        b"Content-Type: application/json; charset=utf-8\r\n"
        b"Content-Length: 17\r\n"
        b"Cache-Control: no-store\r\n"
        b"X-Content-Type-Options: nosniff\r\n"
        b"X-Frame-Options: DENY\r\n"
        b"Referrer-Policy: no-referrer\r\n"
        b"Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
        b"img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'\r\n"
        b"Cross-Origin-Resource-Policy: same-origin\r\n"
        b"Location: /api/x\r\n"
        b"\r\n"
        b'{"success": true}'
    )


def test_an_answer_may_say_how_long_it_is_good() -> None:
    answer = Response(200, b"", headers=(("cache-control", "no-cache"),))
    sent = response_bytes(answer, keep_alive=True)
    assert b"cache-control: no-cache\r\n" in sent
    assert b"no-store" not in sent


def test_what_has_not_changed_has_no_length(serve: Serve) -> None:
    server, routes = serve()
    routes.paths["/same"] = lambda: Response(304, b"", headers=(("ETag", '"a"'),))
    with Client(server.port) as client:
        client.send(GET.replace(b"/ ", b"/same "), GET)
        status, headers, _ = client.read(with_body=False)
        assert (status, headers["ETag"]) == (304, '"a"')
        assert headers.keys().isdisjoint({"Content-Length", "Content-Type", "Transfer-Encoding"})
        assert client.read()[2] == b"/"


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb"])
def test_a_header_can_not_end_its_line_early(value: str) -> None:
    answer = Response(200, b"", headers=(("Location", value),))
    with pytest.raises(ValueError, match="line break"):
        response_bytes(answer, keep_alive=True)
    with pytest.raises(ValueError, match="line break"):
        takeover_bytes(answer)


def test_head_says_what_get_would_and_leaves_the_body_out(serve: Serve) -> None:
    server, routes = serve()
    with Client(server.port) as client:
        client.send(GET.replace(b"GET / ", b"HEAD /long "), GET)
        status, headers, _ = client.read(with_body=False)
        assert (status, headers["Content-Length"]) == (200, "5")
        assert client.read()[2] == b"/"
    assert [request.method for request in routes.asked] == ["GET", "GET"]


# --- Answers in pieces ---------------------------------------------------------------------------


class Pieces:
    """A stream that gives its pieces, then raises what it was told to; remembers its end."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = iter(pieces)
        self._error = error
        self.closed = 0

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise self._error or StopIteration

    def close(self) -> None:
        self.closed += 1


def streaming(routes: Routes, stream: Stream) -> None:
    routes.paths["/stream"] = lambda: Response(200, b"", "text/csv", stream=stream)


STREAM = GET.replace(b"/ ", b"/stream ")
STREAM_1_0 = STREAM.replace(b"1.1", b"1.0").replace(
    b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"
)


def read_top(client: Client) -> dict[str, str]:
    return client.read(with_body=False)[1]


def read_on(client: Client) -> None:
    """Read until the connection ends."""
    while client.file.read(1000):
        pass


def test_pieces_are_sent_as_chunks_and_the_connection_goes_on(serve: Serve) -> None:
    server, routes = serve()
    pieces = Pieces(b"one", b"", b"x" * 17)
    streaming(routes, pieces)
    with Client(server.port) as client:
        client.send(STREAM)
        headers = read_top(client)
        assert headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in headers
        whole = b"3\r\none\r\n" + b"11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"
        assert client.file.read(len(whole)) == whole
        wait_until(lambda: pieces.closed == 1, what="the end of the stream")
        assert client.ask(GET)[2] == b"/"


def test_pieces_to_http_1_0_end_with_the_connection(serve: Serve) -> None:
    server, routes = serve()
    streaming(routes, Pieces(b"one", b"two"))
    with Client(server.port) as client:
        client.send(STREAM_1_0)
        headers = read_top(client)
        assert headers["Connection"] == "close"
        assert "Transfer-Encoding" not in headers
        assert client.file.read() == b"onetwo"


def test_head_of_a_stream_asks_for_no_piece(serve: Serve) -> None:
    server, routes = serve()
    pieces = Pieces(error=KeyError())
    streaming(routes, pieces)
    with Client(server.port) as client:
        client.send(STREAM.replace(b"GET", b"HEAD"))
        assert read_top(client)["Transfer-Encoding"] == "chunked"
        assert client.ask(GET)[2] == b"/"
    assert pieces.closed == 1


@pytest.mark.parametrize("request_", [STREAM, STREAM_1_0])
def test_an_answer_cut_short_does_not_look_whole(
    request_: bytes, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server, routes = serve()
    pieces = Pieces(b"one", error=JournalError("The disk is gone."))
    streaming(routes, pieces)
    with Client(server.port) as client:
        client.send(request_)
        with pytest.raises(ConnectionResetError):
            read_on(client)
    wait_until(lambda: pieces.closed == 1, what="the end of the stream")
    assert "The disk is gone." in caplog.text


def test_a_bug_in_a_piece_reaches_the_excepthook(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    server, routes = serve()
    pieces = Pieces(b"one", error=KeyError())
    streaming(routes, pieces)
    with Client(server.port) as client:
        client.send(STREAM)
        with pytest.raises(ConnectionResetError):
            read_on(client)
    wait_until(lambda: raised, what="the excepthook")
    assert pieces.closed == 1


def test_who_does_not_read_a_stream_is_cut_off(serve: Serve) -> None:
    server, routes = serve(send_timeout_s=0.1)
    pieces = Pieces(*[b"x" * 100_000] * 1000)
    streaming(routes, pieces)
    with Client(server.port) as client:
        client.send(STREAM)
        wait_until(lambda: pieces.closed, what="the end of the stream")


def test_a_stream_as_a_whole_may_take_longer_than_a_piece(serve: Serve) -> None:
    def slowly() -> Generator[bytes, None, None]:
        for _ in range(4):
            time.sleep(0.1)
            yield b"x"

    server, routes = serve(send_timeout_s=0.2)
    routes.paths["/stream"] = lambda: Response(200, b"", stream=slowly())
    with Client(server.port) as client:
        client.send(STREAM_1_0)
        read_top(client)
        assert client.file.read() == b"xxxx"


def test_closing_the_server_ends_a_stream(serve: Serve) -> None:
    server, routes = serve()
    endless = Pieces()
    endless._pieces = itertools.repeat(b"x" * 1000)
    streaming(routes, endless)
    with Client(server.port) as client:
        client.send(STREAM_1_0)
        read_top(client)
        closing = threading.Thread(target=server.close, args=(time.monotonic() + 5,))
        closing.start()
        with pytest.raises(ConnectionResetError):
            read_on(client)
        closing.join(2)
        assert not closing.is_alive()
    assert endless.closed == 1


# --- Connections that go on, and that do not ----------------------------------------------------


@pytest.mark.parametrize(
    ("version", "option", "goes_on"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: TE, Close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
    ],
)
def test_keep_alive(version: bytes, option: bytes, goes_on: bool, serve: Serve) -> None:
    server, _ = serve()
    request = b"GET / HTTP/" + version + b"\r\nHost: localhost\r\n" + option + b"\r\n"
    with Client(server.port) as client:
        headers = client.ask(request)[1]
        assert (headers.get("Connection") != "close") is goes_on
        if goes_on:
            assert client.ask(request)[0] == 200
        else:
            assert client.is_closed()


def test_many_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    server, _ = serve()
    with Client(server.port) as client:
        client.send(*(GET.replace(b"/ ", b"/%d " % n) for n in range(500)))
        assert [client.read()[2] for _ in range(500)] == [b"/%d" % n for n in range(500)]


def test_a_refusal_without_a_body_on_the_way_keeps_the_connection(serve: Serve) -> None:
    server, _ = serve()
    with Client(server.port) as client:
        assert client.ask(GET.replace(b"localhost", b"else.example"))[0] == 403
        assert client.ask(GET)[0] == 200


def test_a_client_that_only_closed_its_sending_side_gets_its_answers(serve: Serve) -> None:
    server, _ = serve()
    with Client(server.port) as client:
        client.send(GET, GET)
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.read()[0], client.read()[0]] == [200, 200]
        assert client.is_closed()


@pytest.mark.parametrize(
    "part", [GET[:20], b"POST / HTTP/1.1\r\n" + JSON_FIELDS + b"Content-Length: 9\r\n\r\n{}"]
)
def test_a_request_cut_short_is_not_answered_as_if_whole(part: bytes, serve: Serve) -> None:
    server, routes = serve()
    with Client(server.port) as client:
        client.send(part)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.code() == (400, "BAD_REQUEST")
    assert routes.asked == []


def test_a_client_that_resets_in_the_middle_of_its_answer_harms_nobody(serve: Serve) -> None:
    server, _ = serve()
    with Client(server.port) as good, Client(server.port) as bad:
        bad.send(GET.replace(b"/ ", b"/big "))
        assert bad.file.read(1000).startswith(b"HTTP/1.1 200 OK")
        bad.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        bad.__exit__()
        wait_until(lambda: len(http_threads()) == 2, what="the end of its thread")
        assert good.ask(GET)[0] == 200


# --- Limits --------------------------------------------------------------------------------------


def post(body: bytes, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST / HTTP/1.1\r\n" + JSON_FIELDS + length + lines + b"\r\n" + body


def test_the_largest_body_is_taken(serve: Serve) -> None:
    server, routes = serve()
    with Client(server.port) as client:
        assert client.ask(post(b"1" * MAX_BODY_BYTES))[0] == 200
    assert len(routes.asked[0].body) == MAX_BODY_BYTES


def test_who_sends_too_large_a_body_can_still_read_why_not(serve: Serve) -> None:
    server, _ = serve()
    with Client(server.port) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            client.send(post(BIG[:4_000_000]))
        assert client.code() == (413, "BODY_TOO_LARGE")


def test_a_body_is_asked_for_only_if_it_will_be_accepted(serve: Serve) -> None:
    server, _ = serve()
    head, body = post(b"{}", b"Expect: 100-continue")[:-2], b"{}"
    with Client(server.port) as client:
        client.send(head)
        assert client.file.readline() + client.file.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.ask(body)[0] == 200
        assert client.ask(head + body)[0] == 200  # nothing to ask for: it came at once
    with Client(server.port) as client:
        client.send(head.replace(b"application/json", b"text/plain"))
        assert client.code() == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_the_largest_head_is_taken_and_one_byte_more_is_not(serve: Serve) -> None:
    server, _ = serve()
    filling = b"X: " + b"x" * (MAX_HEAD_BYTES - len(GET) - 5)
    largest = GET[:-2] + filling + b"\r\n\r\n"
    assert len(largest) == MAX_HEAD_BYTES
    with Client(server.port) as client:
        assert client.ask(largest)[0] == 200
        client.send(largest.replace(b"X:", b"XX:"))
        assert client.code() == (431, "HEADERS_TOO_LARGE")


@pytest.mark.parametrize(
    ("head", "refusal"),
    [
        (b"GET /" + b"x" * MAX_HEAD_BYTES, (414, "URI_TOO_LONG")),
        (b"G" * (MAX_HEAD_BYTES + 1), (414, "URI_TOO_LONG")),
        (GET[:-2] + b"X: y\r\n" * MAX_FIELDS + b"\r\n", (431, "HEADERS_TOO_LARGE")),
        (GET[:-2] + b"X: y\r\n" * 4000, (431, "HEADERS_TOO_LARGE")),
    ],
)
def test_head_limits(head: bytes, refusal: tuple[int, str], serve: Serve) -> None:
    server, _ = serve()
    with Client(server.port) as client:
        client.send(head)
        assert client.code() == refusal


def test_as_many_fields_as_allowed(serve: Serve) -> None:
    server, _ = serve()
    with Client(server.port) as client:
        assert client.ask(GET[:-2] + b"X: y\r\n" * (MAX_FIELDS - 1) + b"\r\n")[0] == 200


def test_memory_is_bounded_whatever_clients_send(serve: Serve) -> None:
    server, _ = serve()
    floods = [b"GET /", GET[:-2] + b"X: ", b"\r\n" * 9000, post(b"{}")[:-2] + b"\r\n" * 40]
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(16)]
        tracemalloc.start()
        try:
            for n, client in enumerate(clients):
                client.socket.settimeout(0.2)
                with suppress(OSError):
                    client.send(floods[n % len(floods)], BIG)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak_bytes < len(clients) * (MAX_HEAD_BYTES + MAX_BODY_BYTES) * 2


# --- Time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", [GET[:10], b"POST / HTTP/1.1\r\n" + JSON_FIELDS + b"Content-Length: 60000\r\n\r\n"]
)
def test_a_client_that_trickles_is_cut_off_at_the_deadline_of_the_whole(
    start: bytes, serve: Serve
) -> None:
    server, routes = serve(request_timeout_s=0.3)
    with Client(server.port) as slow, Client(server.port) as good:
        slow.send(start)
        slow.socket.settimeout(0.02)
        began_s = time.monotonic()
        said = b""
        while not said:  # a byte now and then: each would have begun a time-out per byte anew
            assert time.monotonic() < began_s + 5
            slow.send(b"x")
            with suppress(TimeoutError):
                said = slow.socket.recv(100)
            assert good.ask(GET)[0] == 200
        assert said.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began_s >= 0.2
    assert all(request.method == "GET" for request in routes.asked)


@pytest.mark.parametrize("before", [b"", GET])
def test_an_idle_connection_is_closed_without_a_word(before: bytes, serve: Serve) -> None:
    server, _ = serve(idle_timeout_s=0.1)
    with Client(server.port) as client:
        if before:
            assert client.ask(before)[0] == 200
        assert client.is_closed()


def test_a_client_that_does_not_read_its_answer_is_cut_off(serve: Serve) -> None:
    server, _ = serve(send_timeout_s=0.2)
    with Client(server.port) as good, Client(server.port) as deaf:
        assert deaf.ask(GET)[0] == 200
        deaf.send(GET.replace(b"/ ", b"/big "))
        wait_until(lambda: len(http_threads()) == 2, what="the end of the deaf client's thread")
        assert good.ask(GET)[0] == 200
        with pytest.raises(ConnectionResetError):
            deaf.file.read()


# --- Room for clients ----------------------------------------------------------------------------


def hold(routes: Routes) -> tuple[threading.Semaphore, threading.Event]:
    """Let requests for /hold wait until told; gives what counts them and what ends them."""
    held, release = threading.Semaphore(0), threading.Event()

    def wait() -> Response:
        held.release()
        assert release.wait(10)
        return Response(200, b"held")

    routes.paths["/hold"] = wait
    return held, release


def wait_idle(server: ApiServer, count: int) -> None:
    """Wait until so many are known to be between requests; that follows their answers closely."""
    connections = server.connections._open
    wait_until(
        lambda: [doing for doing, _ in connections.copy().values()].count(Doing.IDLE) == count
    )


HOLD = GET.replace(b"/ ", b"/hold ")


def test_a_newcomer_is_told_when_there_is_no_room(serve: Serve) -> None:
    server, routes = serve(max_connections=2)
    held, release = hold(routes)
    with Client(server.port) as first, Client(server.port) as second:
        for client in (first, second):
            client.send(HOLD)
            assert held.acquire(timeout=5)
        with Client(server.port) as third:
            third.send(GET)
            status, headers, body = third.read()
            assert (status, headers["Retry-After"], headers["Connection"]) == (503, "1", "close")
            assert json.loads(body)["code"] == "TOO_MANY_CONNECTIONS"
            assert third.is_closed()
        assert len(http_threads()) == 3  # the acceptor and two
        release.set()
        assert [first.read()[2], second.read()[2]] == [b"held", b"held"]
        assert first.ask(GET)[0] == 200


def test_a_worker_is_due_while_it_makes_an_answer_and_never_for_a_clients_sake(
    serve: Serve,
) -> None:
    heartbeats, go = Heartbeats(), threading.Event()

    def beats() -> dict[str, float]:
        return {re.sub(r"\d+", "n", each.worker): each.beat[0] for each in heartbeats.current()}

    server, routes = serve(heartbeats=heartbeats)
    routes.paths["/slow"] = lambda: Response(200, b"done" if go.wait(5) else b"")
    assert beats() == {"http": ACCEPT_WITHIN_S}
    with Client(server.port) as client:
        client.send(GET[:10])
        wait_until(lambda: beats().get("http-n") == math.inf, what="a worker that waits")
        client.send(GET[10:])
        client.read()
        client.send(GET.replace(b"/ ", b"/slow "))
        wait_until(lambda: beats()["http-n"] == ANSWER_WITHIN_S, what="a worker that answers")
        go.set()
        assert client.read()[2] == b"done"
        wait_until(lambda: beats()["http-n"] == math.inf, what="a worker that waits again")
    wait_until(lambda: beats() == {"http": ACCEPT_WITHIN_S}, what="the worker's end")
    server.close(time.monotonic() + 5)
    assert beats() == {}


def test_each_piece_that_an_answer_is_made_of_is_a_beat(serve: Serve) -> None:
    heartbeats, asked, go = Heartbeats(), threading.Semaphore(0), threading.Semaphore(0)

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            asked.release()
            assert go.acquire(timeout=5)
            yield b"x"

    server, routes = serve(heartbeats=heartbeats)
    routes.paths["/slow"] = lambda: Response(200, b"".join(rested(pieces())))
    seen = []
    with Client(server.port) as client:
        client.send(GET.replace(b"/ ", b"/slow "))
        for _ in range(3):
            assert asked.acquire(timeout=5)
            seen += [each.beat for each in heartbeats.current() if each.worker != "http"]
            go.release()
        assert client.read()[2] == b"xxx"
        assert seen == [(ANSWER_WITHIN_S,)] * 3
        assert len(set(map(id, seen))) == 3, "a new object each time"
        wait_until(
            lambda: all(each.beat[0] == math.inf for each in heartbeats.current()[1:]),
            what="a worker that waits again",
        )


def test_who_idles_the_longest_makes_room(serve: Serve) -> None:
    server, routes = serve(max_connections=3)
    held, release = hold(routes)
    with ExitStack() as stack:
        busy, oldest, younger = (stack.enter_context(Client(server.port)) for _ in range(3))
        busy.send(HOLD)
        assert held.acquire(timeout=5)
        for client, idle in ((younger, 1), (oldest, 2), (younger, 2)):
            assert client.ask(GET)[0] == 200
            wait_idle(server, idle)
        newcomer = stack.enter_context(Client(server.port))
        assert newcomer.ask(GET)[0] == 200
        assert oldest.is_closed()
        assert younger.ask(GET)[0] == 200
        release.set()
        assert busy.read()[2] == b"held"


def test_a_request_of_who_was_cut_off_is_not_handled(serve: Serve) -> None:
    server, _ = serve(max_connections=1)
    with Client(server.port) as first:
        assert first.ask(GET)[0] == 200
        wait_idle(server, 1)
        (connection,) = server.connections._open
        with Client(server.port) as second:
            assert second.ask(GET)[0] == 200
            with pytest.raises(Gone):
                server.connections.note(connection, Doing.ANSWERING)


def test_unfinished_requests_can_not_lock_others_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.api.connections._UNFINISHED_S", 0.1)
    server, _ = serve(max_connections=2)
    with Client(server.port) as silent, Client(server.port) as half:
        half.send(GET[:10])
        wait_until(lambda: can_ask(server), what="room for another client")
        assert silent.is_closed()


def test_slow_readers_can_not_lock_others_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.api.connections._UNFINISHED_S", 0.1)
    server, routes = serve(max_connections=2)
    held, release = hold(routes)
    with Client(server.port) as busy, Client(server.port) as deaf:
        busy.send(HOLD)
        assert held.acquire(timeout=5)
        deaf.send(GET.replace(b"/ ", b"/big "))
        wait_until(lambda: can_ask(server), what="room for another client")
        with pytest.raises(ConnectionResetError):  # what is left of the answer is given up
            deaf.file.read()
        release.set()
        assert busy.read()[2] == b"held"


def test_who_idles_makes_room_before_a_slow_reader(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.api.connections._UNFINISHED_S", 0.0)
    server, _ = serve(max_connections=2)
    with Client(server.port) as slow, Client(server.port) as idle:
        slow.send(GET.replace(b"/ ", b"/big "))
        assert slow.file.peek(1)  # its answer is on the way
        assert idle.ask(GET)[0] == 200
        wait_idle(server, 1)
        assert can_ask(server)
        assert idle.is_closed()
        assert len(slow.read()[2]) == len(BIG)


def test_who_has_only_just_begun_makes_no_room(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.api.connections._UNFINISHED_S", 60.0)
    server, _ = serve(max_connections=2)
    with Client(server.port) as half, Client(server.port) as slow:
        half.send(GET[:10])
        slow.send(GET.replace(b"/ ", b"/big "))
        assert slow.file.peek(1)  # its answer is on the way
        assert not can_ask(server)
        assert half.ask(GET[10:])[0] == 200
        assert len(slow.read()[2]) == len(BIG)


def test_one_address_can_not_lock_the_others_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.api.connections._UNFINISHED_S", 60.0)
    server, _ = serve(max_connections=4)
    with ExitStack() as stack:
        other = stack.enter_context(Client(server.port, source="127.0.0.2"))
        assert other.ask(GET)[0] == 200
        greedy = [stack.enter_context(Client(server.port)) for _ in range(3)]
        for client in greedy:
            client.send(GET[:10])  # all of them have only just begun
        wait_until(lambda: len(http_threads()) == 5, what="all of them being let in")
        assert not can_ask(server)
        with Client(server.port, source="127.0.0.3") as newcomer:
            assert newcomer.ask(GET)[0] == 200
            assert other.ask(GET)[0] == 200  # though it has idled all the time
            closed, _, _ = select.select([client.socket for client in greedy], [], [], 5)
            (rest, left) = (client for client in greedy if client.socket not in closed)
            assert rest.ask(GET[10:])[0] == left.ask(GET[10:])[0] == 200


def can_ask(server: ApiServer) -> bool:
    with Client(server.port) as client:
        return client.ask(GET)[0] == 200


def test_two_hundred_clients_at_once(serve: Serve) -> None:
    server, routes = serve(max_connections=8)
    held, release = hold(routes)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(8)]
        for client in clients:
            client.send(HOLD)
            assert held.acquire(timeout=5)
        rush = [stack.enter_context(Client(server.port)) for _ in range(192)]
        for client in rush:
            client.send(GET)
        assert {client.read()[0] for client in rush} == {503}
        assert len(http_threads()) == 9  # the acceptor and eight
        release.set()
        assert {client.read()[2] for client in clients} == {b"held"}


# --- Who may ask ---------------------------------------------------------------------------------


def test_a_proxy_on_this_machine_asks_by_a_name_that_is_allowed(serve: Serve) -> None:
    server, _ = serve(allowed_hosts=["DLM.example"])
    with Client(server.port) as client:
        assert client.ask(GET.replace(b"localhost", b"dlm.example:443"))[0] == 200
        origin = b"Origin: https://dlm.example"
        assert client.ask(post(b"{}", origin).replace(b"localhost", b"dlm.example"))[0] == 200
        assert client.ask(GET)[0] == 200
    with Client(server.port) as client:
        assert client.ask(GET.replace(b"localhost", b"evil.example"))[0] == 403


def test_hosts_are_not_judged_beyond_loopback(serve: Serve) -> None:
    server, _ = serve(host="0.0.0.0")
    with Client(server.port) as client:
        assert client.ask(GET.replace(b"localhost", b"dlm.example"))[0] == 200


def admit_anna(request: Request) -> Caller | None:
    """Know one token."""
    assert request.body == b""
    assert request.peer == "127.0.0.1"
    if request.headers.get("authorization") != "Bearer t":
        raise RequestError(
            401, "UNAUTHORIZED", "Send a token.", headers=(("WWW-Authenticate", "Bearer"),)
        )
    return Caller("anna", Role.ADMIN)


def test_tokens_have_one_place(serve: Serve) -> None:
    server, routes = serve(authorize=admit_anna)
    with Client(server.port) as client:
        status, headers, _ = client.ask(GET)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client.ask(post(b"{}", b"Authorization: Bearer t"))[0] == 200
        client.send(post(b"{}"))
        assert client.code() == (401, "UNAUTHORIZED")
    (asked,) = routes.asked
    assert (asked.body, asked.caller) == (b"{}", Caller("anna", Role.ADMIN))
    assert (asked.peer, asked.secure) == ("127.0.0.1", False)


def test_a_client_does_not_answer_for_how_long_it_takes_to_know_who_it_is(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.api.connections._UNFINISHED_S", 0.0)
    asked, release = threading.Event(), threading.Event()

    def authorize(request: Request) -> Caller | None:
        asked.set()
        assert release.wait(10)
        return None

    server, _ = serve(authorize=authorize, max_connections=1, request_timeout_s=0.3)
    data = post(b"{}")
    with Client(server.port) as client:
        client.send(data[:-2])
        assert asked.wait(5)
        with Client(server.port) as newcomer:
            assert newcomer.read()[0] == 503
        time.sleep(0.4)
        release.set()
        assert client.ask(data[-2:])[0] == 200


# --- Another protocol from here on ---------------------------------------------------------------

UPGRADE = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n"


class Echo:
    """Upgrades every request for `/echo`, and keeps what it was handed."""

    def __init__(self, routes: Routes) -> None:
        self.taken: list[tuple[socket.socket, bytes]] = []
        routes.paths["/echo"] = lambda: Response(
            101,
            b"",
            headers=(("Upgrade", "echo"), ("Connection", "Upgrade")),
            takeover=lambda *given: self.taken.append(given),
        )

    def take(self) -> tuple[socket.socket, bytes]:
        wait_until(lambda: self.taken, what="the connection being taken over")
        return self.taken.pop()


def test_a_connection_is_taken_over_with_what_came_behind_its_request(serve: Serve) -> None:
    server, routes = serve(max_connections=1, idle_timeout_s=0.1)
    echo = Echo(routes)
    with Client(server.port) as client:
        client.send(UPGRADE.replace(b"/ ", b"/echo ") + b"first words")
        status, headers, _ = client.read(with_body=False)
        assert status == 101
        assert headers.keys() == {"Server", "Date", "Upgrade", "Connection"}
        taken, behind = echo.take()
        with taken:
            assert behind == b"first words"
            wait_until(lambda: http_threads() == ["http"], what="the end of its thread")
            assert can_ask(server)  # it takes no room any more, and is not cut off for it
            server.close(time.monotonic() + 5)
            client.send(b"ping")
            taken.settimeout(5)
            assert taken.recv(10) == b"ping"
            taken.sendall(b"pong")
            assert client.file.read(4) == b"pong"
        assert client.is_closed()


@pytest.mark.parametrize(
    "request_", [UPGRADE.replace(b"GET", b"HEAD"), UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0")]
)
def test_what_cannot_be_upgraded_does_not_ask_for_it(request_: bytes) -> None:
    assert parse_head(UPGRADE).request.headers["upgrade"] == "echo"
    assert "upgrade" not in parse_head(request_).request.headers


def test_who_left_before_the_takeover_is_not_handed_over(serve: Serve) -> None:
    server, routes = serve()
    echo = Echo(routes)
    upgrade = routes.paths["/echo"]

    def cut_off() -> Response:
        for connection in list(server.connections._open):
            server.connections.leave(connection)
        return upgrade()

    routes.paths["/echo"] = cut_off
    with Client(server.port) as client:
        client.send(UPGRADE.replace(b"/ ", b"/echo "))
        assert client.is_closed()
    assert echo.taken == []


# --- Bugs and logs -------------------------------------------------------------------------------


def test_a_bug_is_answered_without_its_trace_and_reaches_the_excepthook(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    server, routes = serve()
    routes.paths["/bug"] = lambda: Response(200, {b"": b""}[b"secret"])
    with Client(server.port) as client:
        client.send(GET.replace(b"/ ", b"/bug "))
        status, _, body = client.read()
        assert (status, json.loads(body)["code"]) == (500, "INTERNAL_ERROR")
        assert b"secret" not in body
        assert client.is_closed()
    wait_until(lambda: raised, what="the excepthook")
    assert raised[0].exc_type is KeyError
    assert raised[0].thread is not None
    assert raised[0].thread.name.startswith("http-")


def test_an_os_error_of_a_handler_is_a_bug_and_not_a_lost_client(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    server, routes = serve()
    routes.paths["/bug"] = lambda: Response(200, Path("/nowhere/at/all").read_bytes())
    with Client(server.port) as client:
        assert client.ask(GET.replace(b"/ ", b"/bug "))[0] == 500
    wait_until(lambda: raised, what="the excepthook")


def test_a_bug_is_raised_though_its_client_is_gone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    server, routes = serve()

    def fail() -> Response:
        for connection in server.connections._open:
            connection.cut()
        raise KeyError

    routes.paths["/bug"] = fail
    with Client(server.port) as client:
        client.send(GET.replace(b"/ ", b"/bug "))
        assert client.is_closed()
    wait_until(lambda: raised, what="the excepthook")


def test_what_reads_is_logged_at_debug_without_values(
    serve: Serve, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "edge.api")
    server, _ = serve()
    with Client(server.port) as client:
        client.ask(b"GET /a%22b?key=secret HTTP/1.1\r\nHost: localhost\r\nX-Token: secret\r\n\r\n")
        client.ask(b"nonsense\r\n\r\n")
        assert client.is_closed()
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]
    assert "127.0.0.1: GET '/a\"b': 200" in caplog.messages[0]
    assert "400" in caplog.messages[1]
    assert "secret" not in caplog.text
    assert capfd.readouterr().err == ""


def test_every_change_is_logged_with_who_made_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.api")
    server, _ = serve(authorize=admit_anna)
    change = post(b'{"password": "secret"}', b"Authorization: Bearer t")
    with Client(server.port) as client:
        assert client.ask(change.replace(b"/ ", b"/meters%0d%0a?key=secret ", 1))[0] == 400
        assert client.is_closed()
    with Client(server.port) as client:
        assert client.ask(change.replace(b"/ ", b"/" + b"m" * 300 + b"?key=secret ", 1))[0] == 200
        assert client.ask(GET[:-2] + b"Authorization: Bearer t\r\n\r\n")[0] == 200
    (message,) = caplog.messages
    assert message.startswith("anna: POST '/mmm")
    assert "m': 200" in message
    assert len(message) < 300
    assert "secret" not in caplog.text


def test_who_need_not_say_who_they_are_is_logged_by_address(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.api")
    server, _ = serve(authorize=lambda _: Caller("", Role.ADMIN))
    with Client(server.port) as client:
        assert client.ask(GET.replace(b"GET", b"M" * 15_000))[0] == 200
        assert client.ask(GET)[0] == 200  # until then the first may not be logged yet
    (message,) = caplog.messages
    assert message.startswith("127.0.0.1: " + "M" * 32 + " '/': 200, ")


@pytest.mark.parametrize("status", [200, 400, 503])
def test_what_everyone_may_send_does_not_fill_the_log(
    status: int, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.api")
    server, routes = serve(authorize=lambda _: None)
    routes.paths["/api/logout"] = lambda: Response(status, b"{}")
    with Client(server.port) as client:
        for _ in range(3):
            assert client.ask(post(b"{}").replace(b"/ ", b"/api/logout ", 1))[0] == status
    assert caplog.messages == []


def test_who_is_kept_out_does_not_fill_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.api")
    server, _ = serve(authorize=admit_anna)
    with Client(server.port) as client:
        assert client.ask(post(b"").replace(b"/ ", b"/api/meters ", 1))[0] == 401
        assert client.ask(post(b"{").replace(b"localhost", b"else.example"))[0] == 403
        assert client.is_closed()
    assert caplog.messages == []


# --- Beginning and end ---------------------------------------------------------------------------


def test_a_port_in_use_is_a_fault_of_the_configuration(serve: Serve) -> None:
    server, _ = serve()
    with pytest.raises(ConfigError) as raised:
        serve(port=server.port)
    assert [fault.path for fault in raised.value.faults] == ["api.port"]
    assert str(server.port) in str(raised.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 64])
def test_an_address_of_another_machine_is_a_fault_of_the_configuration(
    host: str, serve: Serve
) -> None:
    with pytest.raises(ConfigError) as raised:
        serve(host=host)
    assert [fault.path for fault in raised.value.faults] == ["api.host"]


def test_the_port_can_be_bound_again_at_once(serve: Serve) -> None:
    port = free_port()
    for _ in range(3):
        server, _ = serve(port=port)
        with Client(port) as client:  # the server closes first, so its side waits in TIME_WAIT
            assert client.ask(GET)[0] == 200
            server.close(time.monotonic() + 5)
            assert client.is_closed()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6(serve: Serve) -> None:
    server, _ = serve(host="::1")
    with Client(server.port, "::1") as client:
        assert client.ask(GET.replace(b"localhost", b"[::1]:%d" % server.port))[0] == 200
        assert client.ask(GET.replace(b"localhost", b"[2001:db8::1]"))[0] == 403


def test_localhost_is_127_0_0_1(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    server, _ = serve(host="localhost")
    monkeypatch.undo()
    with Client(server.port, "127.0.0.1") as client:
        assert client.ask(GET)[0] == 200


def test_close_lets_answers_under_way_end_and_closes_the_others(serve: Serve) -> None:
    server, routes = serve()
    held, release = hold(routes)
    with ExitStack() as stack:
        busy, idle, half = (stack.enter_context(Client(server.port)) for _ in range(3))
        assert idle.ask(GET)[0] == 200
        half.send(GET[:10])
        busy.send(HOLD)
        assert held.acquire(timeout=5)
        closing = threading.Thread(target=server.close, args=(time.monotonic() + 5,))
        closing.start()
        assert idle.is_closed()
        assert half.is_closed()
        assert closing.is_alive()
        with pytest.raises(ConnectionRefusedError):
            Client(server.port)
        release.set()
        status, headers, body = busy.read()
        assert (status, headers["Connection"], body) == (200, "close", b"held")
        closing.join(5)
        assert not closing.is_alive()


def test_close_lets_an_answer_be_read_to_its_end(serve: Serve) -> None:
    server, _ = serve()
    with Client(server.port) as client:
        client.send(GET.replace(b"/ ", b"/big "))
        assert client.file.peek(1)
        closing = threading.Thread(target=server.close, args=(time.monotonic() + 5,))
        closing.start()
        wait_until(lambda: server.connections.closing)
        closing.join(0.05)
        assert closing.is_alive()
        assert len(client.read()[2]) == len(BIG)
        closing.join(5)
        assert not closing.is_alive()


def test_close_does_not_wait_beyond_its_deadline(serve: Serve) -> None:
    server, routes = serve()
    held, release = hold(routes)
    with Client(server.port) as client:
        client.send(HOLD)
        assert held.acquire(timeout=5)
        began_s = time.monotonic()
        server.close(began_s + 0.1)
        assert 0.1 <= time.monotonic() - began_s < 3
        server.close(time.monotonic())
        assert client.is_closed()
        release.set()


def test_closing_right_after_starting(serve: Serve) -> None:
    for _ in range(20):
        server, _ = serve()
        server.close(time.monotonic() + 5)
