"""The HTTP driver against real servers: right values, and a sentence for all that may fail."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.clock import Clock
from edge.communication import Field, HttpCommunication, HttpEndpoint
from edge.drivers import http as http_module
from edge.drivers.http import LONGEST_REST_S, HttpDriver
from edge.drivers.http.connection import MOST_BYTES, MOST_BYTES_READ
from edge.errors import BadReply, Cause, LineError, MeterError, NoReply, Refused
from edge.model import QUANTITY_NAMES, Meter, Outcome, Probe
from tests.building import FakeClock
from tests.http_peer import Authority, Behaviour, Exchange, HttpPeer, http_peer
from tests.peers import free_port, wait_until

GUIDE = {
    "power_kw": 30.2,
    "total_kwh": 15420.5,
    "voltage": 230,
    "current": 131.3,
    "power_factor": 0.95,
}
VALUES = {
    "power": 30.2, "energy": 15420.5, "voltage": 230.0, "current": 131.3, "powerFactor": 0.95,
}  # fmt: skip
BY_NAME = tuple(Field(quantity) for quantity in QUANTITY_NAMES)
SECRET = "s3cret-t0ken"
TIMEOUT_S = 0.4
SOON_S = 1.5
"""Well above TIMEOUT_S, since the machine may be busy; well below what the peers would take."""


def endpoint_of(peer: HttpPeer, **changes: Any) -> HttpEndpoint:
    return replace(HttpEndpoint("http", "127.0.0.1", peer.port), **changes)


def meter_at(endpoint: HttpEndpoint, **changes: Any) -> Meter:
    communication = HttpCommunication(
        endpoint=endpoint,
        target="/api/energy?key=hidden",
        method="GET",
        headers=(("Accept", "application/json"), ("Authorization", f"Bearer {SECRET}")),
        body=None,
        timeout_s=2.0,
        fields=BY_NAME,
    )
    communication = replace(communication, **changes)
    return Meter("meter_1", "Main", "", "http", "grid", 10_000, 30_000, None, communication)


def driver_of(endpoint: HttpEndpoint, clock: Clock | None = None) -> HttpDriver:
    return HttpDriver(endpoint, clock or Clock())


class Asking:
    """A driver of one peer, closed at the end."""

    def __init__(self, endpoint: HttpEndpoint, clock: Clock | None = None) -> None:
        self.endpoint = endpoint
        self.driver = driver_of(endpoint, clock)

    def __call__(self, **changes: Any) -> Outcome:
        """Poll as a line does."""
        meter = meter_at(self.endpoint, **changes)
        if not self.driver.connected:
            self.driver.open(meter.communication.timeout_s)
        return self.driver.poll(meter, trial=False)

    def error(self, **changes: Any) -> MeterError:
        """Poll for nothing but an error."""
        outcome = self(**changes)
        assert not outcome.values
        assert outcome.error is not None
        assert SECRET not in str(outcome.error)
        assert "hidden" not in str(outcome.error)
        return outcome.error

    def probe(self, **changes: Any) -> Probe:
        return self.driver.probe(meter_at(self.endpoint, **changes))


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Callable[[Behaviour], tuple[Asking, HttpPeer]]:
    """Give a driver and its server with a behaviour."""

    def start(behaviour: Behaviour) -> tuple[Asking, HttpPeer]:
        context = http_peer(behaviour)
        peer = context.__enter__()
        request.addfinalizer(lambda: context.__exit__(None, None, None))
        asking = Asking(endpoint_of(peer))
        request.addfinalizer(asking.driver.close)
        return asking, peer

    return start


Serve = Callable[[Behaviour], tuple[Asking, HttpPeer]]


def says(body: Any, status: int = 200, **headers: str) -> Behaviour:
    return lambda exchange: exchange.give(body, status, **headers)


# --- Good answers ---


def test_the_guides_answer_is_read(serve: Serve) -> None:
    ask, peer = serve(says(GUIDE))
    outcome = ask()
    assert outcome.values == VALUES
    assert outcome.error is None
    (asked,) = peer.asked
    assert (asked.method, asked.target) == ("GET", "/api/energy?key=hidden")
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["user-agent"].startswith("dlm-edge/")


def test_a_reading_is_as_old_as_its_request(serve: Serve) -> None:
    clock = FakeClock(50.0, 1_700_000_000_000)

    def slow(exchange: Exchange) -> None:
        clock.turn(1.0)
        exchange.give(GUIDE)

    _, peer = serve(slow)
    ask = Asking(endpoint_of(peer), clock)
    outcome = ask()
    assert (outcome.mono_s, outcome.unix_ms) == (50.0, 1_700_000_000_000)
    ask.driver.close()


def test_post_sends_its_body_and_headers(serve: Serve) -> None:
    ask, peer = serve(says(GUIDE))
    headers = (("Content-Type", "application/json"), ("X-Key", "1"))
    assert ask(method="POST", body=b'{"id": 1}', headers=headers).values == VALUES
    (asked,) = peer.asked
    assert (asked.method, asked.body) == ("POST", b'{"id": 1}')
    assert asked.headers["content-length"] == "9"
    assert asked.headers["x-key"] == "1"


def test_paths_scales_and_the_sign(serve: Serve) -> None:
    ask, _ = serve(says({"emeters": [{"power": 1543.27, "total": 4120933.6}]}))
    milli = Fraction(1, 1000)
    fields = (
        Field("power", "emeters[0].power", milli),
        Field("energy", "emeters[0].total", milli),
        Field("voltage"),
    )
    outcome = ask(fields=fields, invert=True)
    assert outcome.values == {"power": -1.54327, "energy": 4120.9336}
    assert outcome.error is None


def test_import_and_export_are_netted_and_one_alone_is_no_power(serve: Serve) -> None:
    ask, peer = serve(says({"P": 2.5, "PO": 1.0}))
    fields = (Field("power", "P"), Field("powerExport", "PO"))
    assert ask(fields=fields).values["power"] == 1.5
    peer.behaviour = says({"P": 2.5, "PO": None})
    outcome = ask(fields=fields)
    assert outcome.values == {}
    assert outcome.error is not None
    assert outcome.error.cause is Cause.NO_VALUE
    peer.behaviour = says({"P": 2.5})
    assert "powerExportPath 'PO'" in str(ask.error(fields=fields))


def test_what_has_no_value_is_left_out_and_said(serve: Serve) -> None:
    ask, _ = serve(says({"power": None, "voltage": 230}))
    outcome = ask()
    assert outcome.values == {"voltage": 230}
    assert outcome.error is not None
    assert "no value for power" in str(outcome.error)


def test_what_is_unreadable_or_empty_beside_power_does_not_cost_power(serve: Serve) -> None:
    ask, peer = serve(says({"power": 5, "voltage": "on", "current": None}))
    outcome = ask()
    assert outcome.values == {"power": 5}
    assert "voltage is neither" in str(outcome.error)
    peer.behaviour = says({"power": 5, "current": None})
    outcome = ask()
    assert outcome.values == {"power": 5}
    assert outcome.error is None
    peer.behaviour = says({"current": None})
    assert ask.error().cause is Cause.NO_VALUE


def test_export_that_is_unreadable_leaves_no_power(serve: Serve) -> None:
    ask, _ = serve(says({"P": 2.5, "PO": "on", "voltage": 230}))
    outcome = ask(fields=(*BY_NAME[5:], Field("power", "P"), Field("powerExport", "PO")))
    assert outcome.values == {"voltage": 230}
    assert "powerExport is neither" in str(outcome.error)


@pytest.mark.parametrize("close", ["", "close"])
def test_answers_without_a_length_and_chunked(serve: Serve, close: str) -> None:
    raw = json.dumps(GUIDE).encode()

    def chunked(exchange: Exchange) -> None:
        exchange.give(content_length="", transfer_encoding="chunked", connection=close)
        for at in range(0, len(raw), 10):
            chunk = raw[at : at + 10]
            exchange.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        exchange.send(b"0\r\n\r\n")

    ask, peer = serve(chunked)
    assert ask().values == VALUES
    assert ask.driver.connected is (not close)

    def until_closed(exchange: Exchange) -> None:
        exchange.give(raw, content_length="", connection="close")

    peer.behaviour = until_closed
    assert ask().values == VALUES
    assert not ask.driver.connected


def test_a_compressed_answer_is_read_where_the_user_asked_for_it(serve: Serve) -> None:
    ask, peer = serve(says(gzip.compress(json.dumps(GUIDE).encode()), content_encoding="gzip"))
    assert ask(headers=(("Accept-Encoding", "gzip"),)).values == VALUES
    assert peer.asked[0].headers["accept-encoding"] == "gzip"


# --- The connection ---


def test_the_connection_is_reused_by_all_meters(serve: Serve) -> None:
    ask, peer = serve(says(GUIDE))
    for target in ("/1", "/2", "/1"):
        assert ask(target=target).values == VALUES
    assert peer.connections == 1
    assert ask.driver.opened == 1


def test_an_error_does_not_cost_the_connection(serve: Serve) -> None:
    ask, peer = serve(says(b"not here", 404))
    ask.error()
    peer.behaviour = says(GUIDE)
    assert ask().values == VALUES
    assert peer.connections == 1


def test_a_connection_that_was_closed_while_idle_is_noticed(serve: Serve) -> None:
    def once(exchange: Exchange) -> None:
        exchange.give(GUIDE)
        exchange.hang_up()

    ask, peer = serve(once)
    assert ask().values == VALUES
    wait_until(lambda: not ask.driver.connected)
    assert ask().values == VALUES
    assert peer.connections == 2


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_closes_as_it_is_used_is_opened_once_more(
    serve: Serve, reset: bool
) -> None:
    def second_time_closed(exchange: Exchange) -> None:
        if peer.connections == 1 and len(peer.asked) == 2:
            if reset:
                linger = b"\x01\0\0\0\0\0\0\0"
                exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            exchange.hang_up()
        else:
            exchange.give(GUIDE)

    ask, peer = serve(second_time_closed)
    assert ask().values == VALUES
    assert ask().values == VALUES
    assert peer.connections == 2
    assert len(peer.asked) == 3


def test_a_server_that_only_hangs_up_is_asked_once(serve: Serve) -> None:
    ask, peer = serve(lambda exchange: exchange.hang_up())
    error = ask.error()
    assert isinstance(error, NoReply)
    assert error.cause is Cause.CONNECTION_LOST
    assert len(peer.asked) == 1


def test_a_server_that_went_away_is_a_line_error() -> None:
    with http_peer(says(GUIDE)) as peer:
        ask = Asking(endpoint_of(peer))
        assert ask().values == VALUES
        peer.behaviour = lambda exchange: exchange.hang_up()
    with pytest.raises(LineError) as caught:
        ask()
    assert caught.value.cause is Cause.CONNECTION_REFUSED


def test_opening_and_closing_twice_is_harmless(serve: Serve) -> None:
    ask, peer = serve(says(GUIDE))
    ask.driver.close()
    ask.driver.open(1.0)
    ask.driver.open(1.0)
    assert ask.driver.connected
    assert ask().values == VALUES
    assert (ask.driver.opened, peer.connections) == (1, 1)
    ask.driver.close()
    ask.driver.close()
    assert not ask.driver.connected


# --- What was not asked for ---


def answer_of(power: int) -> bytes:
    body = json.dumps({"power_kw": power}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def with_before(before: bytes) -> Behaviour:
    """Send something before the answer, which is 1 kW for /1 and so on."""

    def answer(exchange: Exchange) -> None:
        exchange.send(before)
        exchange.peer.stopped.wait(0.05)
        exchange.send(answer_of(int(exchange.asked.target[1:])))

    return answer


@pytest.mark.parametrize("interim", [100, 102, 103, 199])
def test_interim_answers_are_not_the_answer(serve: Serve, interim: int) -> None:
    ask, peer = serve(with_before(b"HTTP/1.1 %d Wait\r\nLink: </a>\r\n\r\n" % interim * 3))
    for power in (1, 100, 2):
        assert ask(target=f"/{power}").values == {"power": power}
    assert peer.connections == 1


def test_interim_answers_are_counted(serve: Serve) -> None:
    ask, _ = serve(with_before(b"HTTP/1.1 103 Wait\r\n\r\n" * 11))
    assert "no HTTP answer" in str(ask.error(target="/1"))
    assert not ask.driver.connected


@pytest.mark.parametrize("status", [101, 204, 205, 304, 200])
def test_what_follows_an_answer_without_a_body_answers_nobody(serve: Serve, status: int) -> None:
    length = b"Content-Length: 0\r\n" if status in (200, 205) else b""
    ask, peer = serve(with_before(b"HTTP/1.1 %d Empty\r\n%s\r\n" % (status, length)))
    ask.error(target="/1")
    assert not ask.driver.connected
    peer.behaviour = with_before(b"")
    assert ask(target="/100").values == {"power": 100}
    assert peer.connections == 2


@pytest.mark.parametrize("tls", [False, True])
def test_what_follows_an_answer_answers_nobody(authority: Authority, tls: bool) -> None:
    def twice(exchange: Exchange) -> None:
        exchange.send(answer_of(1) + answer_of(2))

    with http_peer(twice, authority.server_context() if tls else None) as peer:
        scheme = "https" if tls else "http"
        ask = Asking(endpoint_of(peer, scheme=scheme, verify_tls=False))
        for opened in (1, 2, 3):
            assert ask().values == {"power": 1}
            assert ask.driver.opened == opened
        ask.driver.close()


def test_what_comes_before_any_question_answers_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ask = Asking(HttpEndpoint("http", "127.0.0.1", server.getsockname()[1]))
        ask.driver.open(1.0)
        with server.accept()[0] as connection:
            connection.sendall(answer_of(1))
            wait_until(lambda: not ask.driver.connected)


# --- Time ---

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\nX-Long: " + b"x" * 900


def endless(exchange: Exchange) -> None:
    exchange.give(content_length="", connection="close")
    while not exchange.peer.stopped.is_set():
        exchange.send(b" " * 10)
        exchange.peer.stopped.wait(0.02)


def endless_chunks(exchange: Exchange) -> None:
    exchange.give(content_length="", transfer_encoding="chunked")
    while not exchange.peer.stopped.wait(0.02):
        exchange.send(b"2\r\n  \r\n")


def slow_body(exchange: Exchange) -> None:
    exchange.give(content_length="999")
    exchange.drip(b" " * 999)


LATE: dict[str, Behaviour] = {
    "silent": lambda exchange: exchange.be_silent(),
    "head byte by byte": lambda exchange: exchange.drip(HEAD),
    "body byte by byte": slow_body,
    "endless body": endless,
    "endless chunks": endless_chunks,
    "endless interim answers": lambda exchange: exchange.drip(
        b"HTTP/1.1 100 Continue\r\n\r\n" * 99
    ),
}


@pytest.mark.parametrize("behaviour", LATE.values(), ids=LATE.keys())
def test_the_time_out_is_for_the_whole_exchange(serve: Serve, behaviour: Behaviour) -> None:
    ask, peer = serve(behaviour)
    started_s = time.monotonic()
    error = ask.error(timeout_s=TIMEOUT_S)
    assert TIMEOUT_S * 0.9 < time.monotonic() - started_s < SOON_S
    assert isinstance(error, NoReply)
    assert error.cause is Cause.SILENT
    assert "within 400 ms" in str(error)
    assert not ask.driver.connected
    peer.behaviour = says(GUIDE)
    assert ask().values == VALUES


def test_an_answer_that_is_given_up_holds_no_connection(serve: Serve) -> None:
    def flood(exchange: Exchange) -> None:
        exchange.give(content_length="", connection="close")
        while not exchange.peer.stopped.is_set():
            exchange.send(b" " * 65536)

    ask, peer = serve(flood)
    error = ask.error()
    assert "more than 1,048,576 bytes" in str(error)
    wait_until(lambda: peer.served == 1, what="the end of the connection")
    assert error.__traceback__ is not None, "it keeps the frames that it came through"


def test_redirects_do_not_lengthen_the_time_out(serve: Serve) -> None:
    def slow(exchange: Exchange) -> None:
        exchange.peer.stopped.wait(0.25)
        exchange.give(status=302, location="/again")

    ask, _ = serve(slow)
    started_s = time.monotonic()
    assert isinstance(ask.error(timeout_s=TIMEOUT_S), NoReply)
    assert time.monotonic() - started_s < SOON_S


# --- Bad answers ---


def too_long(exchange: Exchange) -> None:
    exchange.give(b" " * (MOST_BYTES + 1))


def too_long_unpacked(exchange: Exchange) -> None:
    exchange.give(gzip.compress(b" " * (50 * MOST_BYTES)), content_encoding="gzip")


def many_headers(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n")


def two_lengths(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345")
    exchange.hang_up()


def cut_short(exchange: Exchange) -> None:
    exchange.give(b'{"power_kw": 5}', content_length="999")
    exchange.hang_up()


def cut_chunk(exchange: Exchange) -> None:
    exchange.give(content_length="", transfer_encoding="chunked")
    exchange.send(b'f\r\n{"power_kw": 5}\r\n')
    exchange.hang_up()


def bad_chunk(exchange: Exchange) -> None:
    exchange.give(content_length="", transfer_encoding="chunked")
    exchange.send(b'zz\r\n{"power_kw": 5}\r\n')
    exchange.hang_up()


def chunk_of(size: bytes) -> Behaviour:
    def chunk(exchange: Exchange) -> None:
        exchange.give(content_length="", transfer_encoding="chunked")
        exchange.send(size + b'\r\n{"power_kw": 5}\r\n0\r\n\r\n')
        exchange.hang_up()

    return chunk


def flood_of(head: bytes, more: bytes) -> Behaviour:
    """Send more than may be read."""

    def flood(exchange: Exchange) -> None:
        exchange.send(head)
        for _ in range(MOST_BYTES_READ // len(more) + 2):
            exchange.send(more)
        exchange.hang_up()

    return flood


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def garbage(exchange: Exchange) -> None:
    exchange.send(b"\x00\x01garbage\r\n\r\n")
    exchange.hang_up()


BAD: dict[str, tuple[Behaviour, str]] = {
    "too long": (too_long, "more than 1,048,576 bytes"),
    "too long when unpacked": (too_long_unpacked, "more than 1,048,576 bytes"),
    "no gzip": (says(b"{}", content_encoding="gzip"), "decompressed"),
    "many headers": (many_headers, "no HTTP answer"),
    "two lengths": (two_lengths, "no HTTP answer"),
    "garbage": (garbage, "no HTTP answer"),
    "cut short": (cut_short, "broke off"),
    "cut in a chunk": (cut_chunk, "broke off"),
    "a chunk without a size": (bad_chunk, "broke off"),
    "a chunk of -5 bytes": (chunk_of(b"-5"), "broke off"),
    "a chunk of -255 bytes": (chunk_of(b"-ff"), "broke off"),
    "a chunk of -1 bytes": (flood_of(CHUNKED + b"-1\r\n", b" " * 65536), "more than 2,097,152"),
    "endless trailers": (flood_of(CHUNKED + b"0\r\n", b"A: b\r\n" * 9999), "more than 2,097,152"),
    "empty archives": (
        flood_of(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(b"") * 3000),
        "more than 2,097,152",
    ),
    "web page": (says(b"<!DOCTYPE html>"), "web page"),
    "text": (says(b"hello"), "unreadable"),
    "half of JSON": (says(b'{"power_kw": 5'), "is no JSON"),
    "a list": (says([GUIDE]), "path"),
    "nothing": (says(b""), "no value"),
    "no known field": (says({"P": 5}), "power_kw"),
    "no number": (says({"power_kw": "much"}), '\'{"power_kw": "much"}\''),
    "deep": (says(b"[" * 100_000), "nested"),
}


@pytest.mark.parametrize(("behaviour", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_said_in_a_sentence(
    serve: Serve, behaviour: Behaviour, words: str
) -> None:
    ask, peer = serve(behaviour)
    error = ask.error(timeout_s=5.0)
    assert isinstance(error, BadReply)
    assert words in str(error)
    assert str(error).endswith(".")
    peer.behaviour = says(GUIDE)
    assert ask().values == VALUES


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_an_answer_or_an_error(raw: bytes, with_head: bool) -> None:
    def any_bytes(exchange: Exchange) -> None:
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" if with_head else b""
        exchange.send(head + raw)
        exchange.hang_up()

    with http_peer(any_bytes) as peer:
        ask = Asking(endpoint_of(peer))
        outcome = ask()
        assert outcome.values or outcome.error
        ask.driver.close()


# --- Refusals ---


@pytest.mark.parametrize(
    ("status", "headers", "cause", "words"),
    [
        (401, {}, Cause.NOT_AUTHORISED, "refused the token or password (HTTP 401)"),
        (403, {}, Cause.NOT_AUTHORISED, "refused the token or password (HTTP 403)"),
        (401, {"www_authenticate": 'Digest realm="x"'}, Cause.NOT_AUTHORISED, "Digest"),
        (404, {}, Cause.HTTP_STATUS, "/api/energy is not there"),
        (405, {}, Cause.HTTP_STATUS, "does not take GET"),
        (400, {}, Cause.HTTP_STATUS, "HTTP 400"),
        (304, {}, Cause.HTTP_STATUS, "HTTP 304"),
        (302, {}, Cause.HTTP_STATUS, "HTTP 302"),
        (500, {}, Cause.HTTP_STATUS, "HTTP 500"),
        (503, {}, Cause.HTTP_STATUS, "HTTP 503"),
        (429, {}, Cause.TOO_MANY_REQUESTS, "pollInterval"),
    ],
)
def test_statuses(
    serve: Serve, status: int, headers: dict[str, str], cause: Cause, words: str
) -> None:
    ask, _ = serve(says(b"", status, **headers))
    error = ask.error()
    assert isinstance(error, Refused)
    assert (error.code, error.cause, error.retry_after_s) == (status, cause, 0.0)
    assert words in str(error)


def test_a_token_that_is_missing_is_no_token_that_was_refused(serve: Serve) -> None:
    ask, _ = serve(says(b"", 401))
    assert "wants a token or password" in str(ask.error(headers=()))


NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "date_s", "rest_s"),
    [
        ("120", 0, 120.0),
        ("99999999999999999999", 0, LONGEST_REST_S),
        (formatdate(NOW_MS / 1000 + 90, usegmt=True), 0, 90.0),
        (formatdate(NOW_MS / 1000 + 90, usegmt=True), NOW_MS / 1000 + 60, 30.0),
        (formatdate(NOW_MS / 1000 + 9e6, usegmt=True), 0, LONGEST_REST_S),
    ],
)
def test_retry_after_is_obeyed(
    serve: Serve, status: int, retry_after: str, date_s: float, rest_s: float
) -> None:
    def rest(exchange: Exchange) -> None:
        date = f"Date: {formatdate(date_s, usegmt=True)}\r\n" if date_s else ""
        exchange.send(
            f"HTTP/1.1 {status} No\r\nRetry-After: {retry_after}\r\n{date}"
            "Content-Length: 0\r\n\r\n".encode()
        )

    _, peer = serve(rest)
    ask = Asking(endpoint_of(peer), FakeClock(0.0, NOW_MS))
    error = ask.error()
    ask.driver.close()
    assert isinstance(error, Refused)
    assert error.cause is Cause.TOO_MANY_REQUESTS
    assert error.retry_after_s == rest_s


@pytest.mark.parametrize(
    "retry_after", ["soon", "-5", "0", "1e9", "٣", "Thu, 01 Jan 1970 00:00:01 GMT"]
)
def test_retry_after_that_says_nothing(serve: Serve, retry_after: str) -> None:
    ask, _ = serve(says(b"", 429, retry_after=retry_after.encode().decode("latin-1")))
    error = ask.error()
    assert isinstance(error, Refused)
    assert error.retry_after_s == 0.0


# --- Redirects ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_on_the_same_origin_are_followed(serve: Serve, status: int) -> None:
    def moved(exchange: Exchange) -> None:
        if exchange.asked.target.startswith("/api/energy"):
            exchange.give(b"gone", status, location="new place?a=b c")
        else:
            exchange.give(GUIDE)

    ask, peer = serve(moved)
    headers = (("Content-Type", "text/x"), ("Authorization", "Basic abcdef"))
    assert ask(method="POST", body=b"ask", headers=headers).values == VALUES
    first, second = peer.asked
    assert first.target == "/api/energy?key=hidden"
    assert second.target == "/api/new%20place?a=b%20c"
    assert second.headers["authorization"] == "Basic abcdef"
    kept = (second.method, second.body, second.headers.get("content-type"))
    assert kept == (("GET", b"", None) if status == 303 else ("POST", b"ask", "text/x"))


def test_redirects_end(serve: Serve) -> None:
    ask, peer = serve(says(b"", 302, location="/again"))
    assert "more than 3 times" in str(ask.error())
    assert len(peer.asked) == 4


def test_credentials_never_leave_the_origin(serve: Serve) -> None:
    _, thief = serve(says(GUIDE))
    ask, peer = serve(says(b""))
    elsewhere = [
        f"http://127.0.0.1:{thief.port}/steal?token=hidden",
        f"//127.0.0.1:{thief.port}/steal",
        f"http://localhost:{peer.port}/other-name",
        f"https://127.0.0.1:{peer.port}/other-scheme",
        f"http://127.0.0.1:{peer.port}@127.0.0.1:{thief.port}/",
        "file:///etc/passwd",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "javascript:alert(1)",
    ]
    for location in elsewhere:
        peer.behaviour = says(b"", 302, location=location)
        error = ask.error()
        assert isinstance(error, Refused)
        assert "another origin" in str(error)
    assert thief.asked == []
    peer.behaviour = says(b"", 302, location=elsewhere[0])
    assert f"'http://127.0.0.1:{thief.port}/steal'" in str(ask.error())


# --- No connection ---


def line_error(endpoint: HttpEndpoint, timeout_s: float = 2.0) -> LineError:
    driver = driver_of(endpoint)
    with pytest.raises(LineError) as caught:
        driver.open(timeout_s)
    assert not driver.connected
    assert driver.opened == 0
    assert str(caught.value).endswith(".")
    (finding,) = driver.probe(meter_at(endpoint)).findings
    assert finding.cause is caught.value.cause
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_closed_port(scheme: str) -> None:
    error = line_error(HttpEndpoint(scheme, "127.0.0.1", free_port()))
    assert error.cause is Cause.CONNECTION_REFUSED
    assert "check the port" in str(error)


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Cause.NAME_NOT_RESOLVED),
        (UnicodeError("label too long"), Cause.NAME_NOT_RESOLVED),
        (TimeoutError("timed out"), Cause.NOT_REACHED),
        (OSError(errno.EHOSTUNREACH, "No route to host"), Cause.NO_ROUTE),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), Cause.NO_ROUTE),
        (OSError(errno.EMFILE, "Too many open files"), Cause.NOT_REACHED),
    ],
)
def test_what_the_network_says(failure: Exception, cause: Cause) -> None:
    is_look_up = isinstance(failure, socket.gaierror | UnicodeError)
    fails = "socket.getaddrinfo" if is_look_up else "socket.socket.connect"
    with mock.patch(fails, side_effect=failure):
        assert line_error(HttpEndpoint("http", "127.0.0.1", 80)).cause is cause


def test_a_name_that_dns_cannot_spell() -> None:
    assert line_error(HttpEndpoint("http", "a" * 70, 80)).cause is Cause.NAME_NOT_RESOLVED


# --- TLS ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_peer(authority: Authority) -> Iterator[HttpPeer]:
    with http_peer(says(GUIDE), authority.server_context()) as peer:
        yield peer


def test_tls_with_a_private_authority(authority: Authority, tls_peer: HttpPeer) -> None:
    before = tls_peer.connections
    ask = Asking(endpoint_of(tls_peer, scheme="https", ca_file=authority.ca_file))
    for _ in range(3):
        assert ask().values == VALUES
    assert tls_peer.connections == before + 1
    ask.driver.close()


def test_tls_without_verification_only_where_it_is_written_down(tls_peer: HttpPeer) -> None:
    ask = Asking(endpoint_of(tls_peer, scheme="https", verify_tls=False))
    assert ask().values == VALUES
    ask.driver.close()
    error = line_error(endpoint_of(tls_peer, scheme="https"))
    assert error.cause is Cause.TLS
    assert "caFile" in str(error)


def test_tls_for_another_host_is_not_trusted(authority: Authority) -> None:
    with http_peer(says(GUIDE), authority.server_context("DNS:other.example")) as peer:
        endpoint = endpoint_of(peer, scheme="https", ca_file=authority.ca_file)
        error = line_error(endpoint)
        assert error.cause is Cause.TLS
        assert "127.0.0.1" in str(error)
        assert not peer.asked


def test_tls_with_a_port_that_speaks_plain_http(serve: Serve) -> None:
    _, peer = serve(says(GUIDE))
    error = line_error(endpoint_of(peer, scheme="https"))
    assert error.cause is Cause.TLS
    assert "http://" in str(error)


def test_plain_http_with_a_port_that_speaks_tls(tls_peer: HttpPeer) -> None:
    ask = Asking(endpoint_of(tls_peer))
    assert "use https:// in url" in str(ask.error())
    ask.driver.close()


@pytest.mark.parametrize("reply", [b"", b"\x15\x03\x01\x00\x02\x02\x46"])
def test_plain_http_with_a_port_that_wants_tls(serve: Serve, reply: bytes) -> None:
    def alert(exchange: Exchange) -> None:
        exchange.send(reply)
        exchange.hang_up()

    ask, _ = serve(alert)
    assert "use https:// in url" in str(ask.error())


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    error = line_error(HttpEndpoint("https", "127.0.0.1", 1, ca_file=str(path)))
    assert error.cause is Cause.TLS
    assert "caFile" in str(error)


def test_an_authority_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(1024 * 1024 + 1)
    for path in (str(pipe), "/dev/zero", str(tmp_path), str(large)):
        error = line_error(HttpEndpoint("https", "127.0.0.1", 1, ca_file=path))
        assert error.cause is Cause.TLS
        assert "regular file" in str(error)


def test_tls_that_drips_and_tls_that_never_shakes_hands_end_in_time(authority: Authority) -> None:
    with http_peer(slow_body, authority.server_context()) as peer:
        ask = Asking(endpoint_of(peer, scheme="https", ca_file=authority.ca_file))
        ask.driver.open(2.0)
        started_s = time.monotonic()
        assert isinstance(ask.error(timeout_s=TIMEOUT_S), NoReply)
        assert time.monotonic() - started_s < SOON_S
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = HttpEndpoint("https", "127.0.0.1", silent.getsockname()[1], verify_tls=False)
        driver = driver_of(endpoint)
        started_s = time.monotonic()
        with pytest.raises(LineError) as caught:
            driver.open(TIMEOUT_S)
        assert time.monotonic() - started_s < SOON_S
        assert caught.value.cause is Cause.TLS


def test_an_idle_tls_connection_that_closes_as_it_is_used(authority: Authority) -> None:
    def second_time_closed(exchange: Exchange) -> None:
        if exchange.peer.connections == 1 and len(exchange.peer.asked) == 2:
            exchange.hang_up()
        else:
            exchange.give(GUIDE)

    with http_peer(second_time_closed, authority.server_context()) as peer:
        ask = Asking(endpoint_of(peer, scheme="https", ca_file=authority.ca_file))
        assert ask().values == VALUES
        assert ask().values == VALUES
        assert peer.connections == 2
        ask.driver.close()


# --- Secrets ---


def test_nothing_secret_is_shown_or_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"got": f"Bearer {SECRET}"}

    def bad_head(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\n{}")
        exchange.hang_up()

    ask, peer = serve(says(echo))
    for behaviour in (says(echo), says(SECRET.encode()), bad_head):
        peer.behaviour = behaviour
        probe = ask.probe()
        assert SECRET not in repr(probe)
        assert "hidden" not in repr(probe)
        ask.error()
    assert SECRET not in caplog.text
    assert "hidden" not in caplog.text


PASSWORD = "open/sesame"
BASIC = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
TOKEN = "abc/def+0123456789"


def echoed(text: str) -> bytes:
    return json.dumps({"power_kw": 5, "h": text}).encode()


ECHOES: dict[str, bytes] = {
    "header": echoed(BASIC),
    "password": echoed(f"user admin and password {PASSWORD} are wrong"),
    "pair": echoed(f"admin:{PASSWORD}"),
    "escaped": echoed(PASSWORD).replace(b"/", b"\\/"),
    "escaped by number": echoed(PASSWORD).replace(b"/", b"\\u002F"),
    "as in a url": echoed(PASSWORD.replace("/", "%2f")),
    "capitals": echoed(PASSWORD.upper()),
    "UTF-16": echoed(PASSWORD).decode().encode("utf-16"),
    "web page": f"<html>{PASSWORD}".encode(),
    "name": json.dumps({"power_kw": 5, PASSWORD: 1}).encode(),
    "query": echoed("/api?token=abc%2Fdef%2B0123456789"),
    "query as meant": echoed(TOKEN),
    "key": echoed("X1y2-z3"),
}


@pytest.mark.parametrize("body", ECHOES.values(), ids=ECHOES.keys())
def test_an_answer_that_repeats_a_secret_is_neither_shown_nor_used(
    serve: Serve, body: bytes
) -> None:
    ask, _ = serve(says(body))
    changes: dict[str, Any] = {
        "headers": (("Authorization", BASIC), ("X-Api-Key", "X1y2-z3")),
        "target": "/api?token=abc%2Fdef%2B0123456789",
        "fields": (Field("power", f"starts_with(h, '{PASSWORD[0]}') && `1` || `2`"),),
    }
    posted = {
        **changes,
        "method": "POST",
        "target": "/",
        "body": f'{{"token": "{TOKEN}"}}'.encode(),
    }
    for more in (changes, {**changes, "fields": BY_NAME}, posted):
        error = ask.error(**more)
        probe = ask.probe(**more)
        assert isinstance(error, BadReply)
        assert "repeats a token, password or secret header" in str(error)
        assert [finding.message for finding in probe.findings] == [str(error)]
        assert probe.outcome is None
        assert "not shown" in str(probe.exchanges[0].raw)


def test_a_short_number_that_is_a_password_is_in_many_an_answer(serve: Serve) -> None:
    ask, _ = serve(says({"power_kw": 1234}))
    pair = base64.b64encode(b"admin:1234").decode()
    assert ask(headers=(("Authorization", f"Basic {pair}"),)).values == {"power": 1234}


def test_what_may_be_a_secret_is_not_shown_but_read(serve: Serve) -> None:
    ask, _ = serve(
        says({"power_kw": 5, "serial": "SN-481-516", "id": "0123456789abcdef", "at": "main"})
    )
    for changes in (
        {"headers": (("X-Serial", "SN-481-516"),)},
        {"target": "/api?id=0123456789abcdef"},
        {"target": "/api?key=main"},
        {"method": "POST", "body": b'{"login": {"password": "SN-481-516"}}'},
        {"method": "POST", "body": b"user=me&password=SN-481-516"},
        {"method": "POST", "body": b"login me with password SN-481-516"},
    ):
        probe = ask.probe(**changes)
        assert probe.outcome is not None
        assert probe.outcome.values == {"power": 5}
        assert "not shown" in str(probe.exchanges[0].raw)


def test_a_chance_is_no_repetition(serve: Serve) -> None:
    body = {"power_kw": 1234.5, "total_kwh": 51234, "request": {"Scope": "Device", "show": "power"}}
    ask, _ = serve(says(body))
    pin = "Basic " + base64.b64encode(b"admin:1234").decode()
    probe = ask.probe(headers=(("Authorization", pin),), target="/a?Scope=Device&page=power")
    assert probe.outcome is not None
    assert probe.outcome.values == {"power": 1234.5, "energy": 51234}
    assert probe.exchanges[0].raw == f"'{json.dumps(body)}'"


def test_a_redirect_that_repeats_a_secret_is_not_shown(serve: Serve) -> None:
    ask, peer = serve(says(b""))
    for location in (
        f"http://elsewhere.example/{SECRET}",
        f"http://{SECRET}.example/",
        f"http://elsewhere.example/s3cret%2Dt0ken/?{SECRET}",
    ):
        peer.behaviour = says(b"", 302, location=location)
        error = ask.error()
        assert "another origin" in str(error)
        assert "t0ken" not in str(error)

    def same_origin(exchange: Exchange) -> None:
        moved = exchange.asked.target.startswith("/api")
        exchange.give(status=302 if moved else 404, location=f"/{SECRET}" * moved)

    peer.behaviour = same_origin
    assert "/api/energy is not there" in str(ask.error())


@pytest.mark.parametrize("value", [f"{SECRET}\r\nX-More: 1", f"{SECRET}\n", f"{SECRET}€", "\0\r\n"])
def test_a_header_that_http_does_not_allow_is_not_sent(serve: Serve, value: str) -> None:
    ask, peer = serve(says(GUIDE))
    error = ask.error(headers=(("Authorization", value),))
    assert "not allow" in str(error)
    assert error.__cause__ is None
    assert peer.asked == []


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: 1", "/ü"])
def test_a_target_that_http_does_not_allow_is_not_sent(serve: Serve, target: str) -> None:
    ask, peer = serve(says(GUIDE))
    assert isinstance(ask.error(target=target), BadReply)
    assert peer.asked == []


def test_proxies_of_the_environment_are_not_used(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    ask, _ = serve(says(GUIDE))
    assert ask().values == VALUES


# --- Probe ---


def test_probe_of_a_good_meter(serve: Serve) -> None:
    ask, peer = serve(says(GUIDE))
    probe = ask.probe()
    assert probe.outcome is not None
    assert probe.outcome.values == VALUES
    assert probe.findings == ()
    (exchange,) = probe.exchanges
    assert exchange.asked == f"GET http://127.0.0.1:{peer.port}/api/energy"
    assert exchange.raw == f"'{json.dumps(GUIDE)}'"
    assert exchange.error is None
    assert exchange.round_trip_s is not None
    assert 0 < exchange.round_trip_s < 2


def test_probe_shows_the_start_of_a_long_answer(serve: Serve) -> None:
    ask, _ = serve(says({"a": "x" * 600}))
    raw = ask.probe().exchanges[0].raw
    assert raw is not None
    assert len(raw) == 503


def test_probe_names_the_likely_paths(serve: Serve) -> None:
    ask, _ = serve(says({"Body": {"Site": {"P_Grid": -1210.4, "E_Total": 5, "Mode": "meter"}}}))
    probe = ask.probe()
    assert probe.outcome is None
    unread, no_power = probe.findings
    assert "power_kw" in unread.message
    assert "Body.Site.P_Grid (-1210.4), Body.Site.E_Total (5)" in no_power.message
    assert "try powerPath 'Body.Site.P_Grid'" in no_power.message


def test_probe_names_what_a_wrong_path_may_have_meant(serve: Serve) -> None:
    ask, _ = serve(says({"pwr": 612, "u": 230}))
    fields = (Field("power", "power"), Field("voltage", "voltage"))
    probe = ask.probe(fields=fields)
    wrong, power, voltage = probe.findings
    assert "powerPath 'power', voltagePath 'voltage'" in wrong.message
    assert "try powerPath 'pwr'" in power.message
    assert "try voltagePath 'u'" in voltage.message


def test_probe_of_a_meter_without_a_value(serve: Serve) -> None:
    ask, _ = serve(says({"power_kw": None, "other": 5}))
    (finding,) = ask.probe().findings
    assert finding.cause is Cause.NO_VALUE


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (says(b"", 401), Cause.NOT_AUTHORISED),
        (says(b"", 404), Cause.HTTP_STATUS),
        (says(b"", 429), Cause.TOO_MANY_REQUESTS),
        (says(b"<html>"), Cause.UNREADABLE),
        (lambda exchange: exchange.be_silent(), Cause.SILENT),
        (lambda exchange: exchange.hang_up(), Cause.CONNECTION_LOST),
    ],
)
def test_probe_tells_failures_apart(serve: Serve, behaviour: Behaviour, cause: Cause) -> None:
    ask, _ = serve(behaviour)
    probe = ask.probe(timeout_s=TIMEOUT_S)
    assert probe.outcome is None
    assert [finding.cause for finding in probe.findings] == [cause]
    assert probe.exchanges[0].error == probe.findings[0].message


def test_a_probe_ends_however_long_the_time_out_is(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "LONGEST_PROBE_S", TIMEOUT_S)
    ask, _ = serve(lambda exchange: exchange.be_silent())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        no_tls = Asking(HttpEndpoint("https", "127.0.0.1", silent.getsockname()[1]))
        for probe in (ask.probe, no_tls.probe):
            started_s = time.monotonic()
            (finding,) = probe(timeout_s=60.0).findings
            assert time.monotonic() - started_s < SOON_S
            assert finding.cause in (Cause.SILENT, Cause.TLS)


def test_messages_have_an_end(serve: Serve) -> None:
    long = "n" * 170_000
    bodies: list[Any] = [
        {long: 5, "b": 6},
        {f"{long[:90]}{at}": at for at in range(40)},
        {f"{long[:50]}{at}": at for at in range(40)},
        {long[:90]: {long[:90]: {"P": 1, "Q": 2}}},
        {"power_kw": "\U000e0001" * 200},
        "\U000e0001".encode() * 200,
        b"<html>" + "\U000e0001".encode() * 200,
        {"power_kw": long},
    ]
    ask, peer = serve(says(b""))
    fields = tuple(Field(quantity, f"{long[:900]}.x") for quantity in QUANTITY_NAMES)
    for behaviour in [
        *map(says, bodies),
        says(b"", 302, location=f"http://a.example/{long[:9000]}"),
    ]:
        peer.behaviour = behaviour
        for changes in (
            {},
            {"fields": fields},
            {"fields": (Field("power", f"abs('{long[:900]}')"),)},
            {"target": f"/{long[:1900]}"},
        ):
            probe = ask.probe(**changes)
            assert probe.findings
            for finding in probe.findings:
                assert len(finding.message) <= 500
            assert len(str(ask.error(**changes))) <= 500


def test_the_system_authorities_are_loaded_once() -> None:
    contexts: list[ssl.SSLContext] = []
    room = "edge.drivers.http.connection"
    for _ in range(2):
        with mock.patch(f"{room}.dial"), mock.patch(f"{room}.make_connection") as made:
            made.return_value.connect.side_effect = OSError
            with pytest.raises(LineError):
                driver_of(HttpEndpoint("https", "127.0.0.1", 1)).open(1.0)
            contexts.append(made.call_args.args[-1])
    assert contexts[0] is contexts[1]
    assert contexts[0].verify_mode is ssl.CERT_REQUIRED
    assert contexts[0].check_hostname
