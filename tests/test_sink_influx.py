"""The sink of InfluxDB: what real servers refuse or lack, and each class of error, scripted.

Real are Debian's influxd 1.6 (1.x) and VictoriaMetrics (the 2.x write path).
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from edge.drivers.dial import MOST_ADDRESSES
from edge.errors import SinkForbidden, SinkRetry
from edge.record import Resolution
from edge.settings import InfluxConfig, JournalConfig
from edge.sinks import Rejected, Unreached
from edge.sinks.influx import InfluxSink
from tests.building import FakeClock
from tests.http_peer import Asked, Authority, Behaviour, Exchange, HttpPeer, http_peer
from tests.influx import Influxd, VictoriaMetrics
from tests.peers import free_port, wait_until

BEGIN_MS = 1_790_000_000_000
FOR_EVER = JournalConfig(raw_days=36_500, hourly_days=36_500, daily_days=36_500)
BARE = "http://:8086"
SECRET = "s3cr3t-t0ken"


def a_point(number: int, field: str = "power_kw", value: str | None = None) -> bytes:
    text = f"{number}.5" if value is None else value
    return f"meter_reading,meter_id=meter_1 {field}={text} {BEGIN_MS + 1000 * number}".encode()


def points(count: int, first: int = 0) -> list[bytes]:
    return [a_point(first + number) for number in range(count)]


def a_sink(url: str, journal: JournalConfig = FOR_EVER, **settings: Any) -> InfluxSink:
    config = InfluxConfig(**{"url": url, "timeout_s": 5.0, **settings})
    return InfluxSink("influx", config, journal, FakeClock())


@contextmanager
def closing(sink: InfluxSink) -> Iterator[InfluxSink]:
    try:
        yield sink
    finally:
        sink.close()


def lines_of(asked: Asked) -> list[bytes]:
    return gzip.decompress(asked.body).splitlines()


def writes(peer: HttpPeer) -> list[list[bytes]]:
    return [lines_of(asked) for asked in peer.asked if "write" in asked.target]


def error_2x(message: str, code: str = "invalid") -> dict[str, str]:
    return {"code": code, "message": message}


# --- Real servers --------------------------------------------------------------------------------


def test_victoria_metrics_has_no_buckets_and_needs_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with VictoriaMetrics(tmp_path) as server, closing(a_sink(server.url, token="any")) as sink:
        assert sink.prepare() == []
        assert sink.prepare() == []
    assert [(record.levelname, "no" in record.message) for record in caplog.records] == [
        ("INFO", True)
    ]


def test_influxd_1_6_refuses_some_and_keeps_the_others(tmp_path: Path) -> None:
    with Influxd(tmp_path) as server, closing(a_sink(server.url, database="charging_data")) as sink:
        sink.prepare()
        sink.send(points(1), Resolution.RAW)
        batch = points(500)
        conflict = a_point(1000, value="5i")
        batch[100:100] = [conflict]
        batch[300:300] = [b"garbage"]
        rejected = sink.send(batch, Resolution.RAW)
        assert [one.point for one in rejected] == [conflict, b"garbage"]
        assert "field type conflict" in rejected[0].reason
        assert "unable to parse" in rejected[1].reason
        assert server.count("charging_data") == 500


def test_influxd_1_6_refuses_what_is_too_old_without_halving(tmp_path: Path) -> None:
    with Influxd(tmp_path) as server, http_peer(forward_to(server)) as peer:
        url = f"http://127.0.0.1:{peer.port}"
        with closing(a_sink(url, JournalConfig(), database="charging_data")) as sink:
            sink.prepare()
            peer.asked.clear()
            old = [f"meter_reading power_kw=1 {number}".encode() for number in range(1000)]
            rejected = sink.send(old, Resolution.RAW)
            assert [one.point for one in rejected] == old
            assert len(writes(peer)) == 1


def test_influxd_1_6_that_takes_few_bytes_gets_few(tmp_path: Path) -> None:
    server = Influxd(tmp_path, max_body_size=5000)
    with server, closing(a_sink(server.url, database="charging_data")) as sink:
        sink.prepare()
        assert sink.send(points(5000), Resolution.RAW) == []
        assert server.count("charging_data") == 5000


def test_influxd_1_6_with_users_wants_the_right_ones(tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text("wrong\n")
    (tmp_path / "server").mkdir()
    with Influxd(tmp_path / "server", admin=("admin", SECRET)) as server:
        settings: dict[str, Any] = {"database": "charging_data", "username": "admin"}
        with closing(a_sink(server.url, **settings, password_file=str(password_file))) as sink:
            (advice,) = sink.prepare()
            assert 'CREATE DATABASE "charging_data" WITH DURATION 36500d' in advice
            with pytest.raises(SinkForbidden, match="username and password"):
                sink.send(points(1), Resolution.RAW)
            password_file.write_text(f"{SECRET}\n")
            assert sink.prepare() == []
            assert sink.send(points(1), Resolution.RAW) == []
        assert server.count("charging_data") == 1


def test_influxd_1_6_without_the_database_says_what_to_run(tmp_path: Path) -> None:
    with Influxd(tmp_path) as server, closing(a_sink(server.url, database="sites")) as sink:
        sink.prepare()
        server.query("DROP DATABASE sites_hourly")
        with pytest.raises(SinkForbidden, match='"sites_hourly" WITH DURATION 36500d'):
            sink.send(points(1), Resolution.HOURLY)
        assert sink.send(points(1), Resolution.RAW) == []


def test_influxd_1_6_keeps_each_resolution_as_long_as_set(tmp_path: Path) -> None:
    with Influxd(tmp_path) as server:
        server.query("CREATE DATABASE charging_data WITH DURATION 7d")
        with closing(a_sink(server.url, JournalConfig(), database="charging_data")) as sink:
            (advice,) = sink.prepare()
        assert "keeps 7 days, and 90 are set" in advice
        assert 'ALTER RETENTION POLICY "autogen" ON "charging_data" DURATION 90d' in advice
        server.query(
            'CREATE RETENTION POLICY "my own" ON charging_data DURATION 30d REPLICATION 1 DEFAULT'
        )
        with closing(a_sink(server.url, JournalConfig(), database="charging_data")) as sink:
            (advice,) = sink.prepare()
        assert "keeps 30 days, and 90 are set" in advice
        assert 'ALTER RETENTION POLICY "my own" ON "charging_data" DURATION 90d' in advice
        kept = {
            name: server.query(f"SHOW RETENTION POLICIES ON {name}")[0]["duration"]
            for name in ("charging_data_hourly", "charging_data_daily")
        }
    assert kept == {"charging_data_hourly": "8760h0m0s", "charging_data_daily": "43824h0m0s"}


def test_influxd_1_6_asked_as_2_x_says_what_to_set(tmp_path: Path) -> None:
    with Influxd(tmp_path) as server, closing(a_sink(server.url, token=SECRET)) as sink:
        assert sink.prepare() == []
        with pytest.raises(SinkForbidden, match=r"set database if it is InfluxDB 1\.x"):
            sink.send(points(1), Resolution.RAW)


def test_influxd_1_6_that_was_killed_gets_the_batch_again(tmp_path: Path) -> None:
    with Influxd(tmp_path) as server, closing(a_sink(server.url, database="charging_data")) as sink:
        sink.prepare()
        sink.send(points(10), Resolution.RAW)
        server.kill()
        with pytest.raises(SinkRetry):
            sink.send(points(10, 10), Resolution.RAW)
        server.start()
        assert sink.send(points(10, 10), Resolution.RAW) == []
        assert server.count("charging_data") == 20


def forward_to(server: Influxd) -> Behaviour:
    def forward(exchange: Exchange) -> None:
        path, _, query = exchange.asked.target.partition("?")
        names = dict(parse_qsl(query))
        encoding = exchange.asked.headers.get("content-encoding")
        headers = {"Content-Encoding": encoding} if encoding else {}
        status, body = server.ask(exchange.asked.method, path, names, exchange.asked.body, headers)
        exchange.give(body, status)

    return forward


# --- Each class of error -------------------------------------------------------------------------


@contextmanager
def scripted(behaviour: Behaviour, **settings: Any) -> Iterator[tuple[HttpPeer, InfluxSink]]:
    """A sink of the 2.x dialect before a server that behaves so."""
    with http_peer(behaviour) as peer:
        settings = {"token": SECRET, "org": "my org", **settings}
        with closing(a_sink(f"http://127.0.0.1:{peer.port}", **settings)) as sink:
            yield peer, sink


def answers(status: int, body: Any = b"", **headers: str) -> Behaviour:
    return lambda exchange: exchange.give(body, status, **headers)


def test_a_write_is_gzip_with_token_org_bucket_and_precision() -> None:
    with scripted(answers(204)) as (peer, sink):
        sink.send(points(2), Resolution.RAW)
        sink.send(points(1), Resolution.HOURLY)
        first, second = peer.asked
    assert first.method == "POST"
    assert first.target == "/api/v2/write?org=my+org&bucket=charging_data&precision=ms"
    assert first.headers["authorization"] == f"Token {SECRET}"
    assert first.headers["content-encoding"] == "gzip"
    assert lines_of(first) == points(2)
    assert "bucket=charging_data_hourly&" in second.target
    assert peer.connections == 1


def test_no_points_are_no_request() -> None:
    with scripted(answers(500)) as (peer, sink):
        assert sink.send([], Resolution.RAW) == []
        assert not peer.asked


def test_a_server_below_a_path_is_asked_there() -> None:
    with http_peer(answers(204)) as peer:
        with closing(a_sink(f"http://127.0.0.1:{peer.port}/influx/")) as sink:
            sink.send(points(1), Resolution.RAW)
        assert peer.asked[0].target.startswith("/influx/api/v2/write?")
        assert "authorization" not in peer.asked[0].headers


@pytest.mark.parametrize(
    ("status", "headers", "after_s"),
    [
        (429, {"retry_after": "17"}, 17.0),
        (503, {"retry_after": formatdate(FakeClock().unix_ms() / 1000 + 30, usegmt=True)}, 30.0),
        (503, {"retry_after": "soon"}, 0.0),
        (503, {"retry_after": "-5"}, 0.0),
        (500, {}, 0.0),
        (502, {}, 0.0),
        (408, {}, 0.0),
    ],
)
def test_a_server_that_cannot_now_gets_the_batch_later(
    status: int, headers: dict[str, str], after_s: float
) -> None:
    with scripted(answers(status, b"<html>busy</html>", **headers)) as (_, sink):
        with pytest.raises(SinkRetry, match=f"HTTP {status}") as caught:
            sink.send(points(3), Resolution.RAW)
        assert caught.value.after_s == after_s


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_not_accepted_is_said(status: int) -> None:
    with scripted(answers(status, error_2x("unauthorized access"))) as (_, sink):
        with pytest.raises(SinkForbidden, match="set token") as caught:
            sink.send(points(3), Resolution.RAW)
        assert "'charging_data'" in str(caught.value)
        assert SECRET not in str(caught.value)


def test_a_token_file_is_read_again_after_a_refusal(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("old\n")

    def behave(exchange: Exchange) -> None:
        is_new = exchange.asked.headers["authorization"] == "Token new"
        exchange.give(status=204 if is_new else 401)

    with scripted(behave, token=None, token_file=str(token_file)) as (_, sink):
        with pytest.raises(SinkForbidden):
            sink.send(points(1), Resolution.RAW)
        token_file.write_text("new\n")
        assert sink.send(points(1), Resolution.RAW) == []
        token_file.unlink()
        assert sink.send(points(1), Resolution.RAW) == []
        sink.close()
        with pytest.raises(SinkForbidden, match="No such file"):
            sink.send(points(1), Resolution.RAW)


def test_a_token_with_a_line_break_is_not_shown() -> None:
    with scripted(answers(204), token=f"{SECRET}\n{SECRET}") as (peer, sink):
        with pytest.raises(SinkForbidden) as caught:
            sink.send(points(1), Resolution.RAW)
        assert SECRET not in str(caught.value)
        assert not peer.asked


def test_a_bucket_that_is_not_there_is_said_with_the_command() -> None:
    answer = answers(404, error_2x('bucket "charging_data" not found', "not found"))
    with scripted(answer) as (_, sink), pytest.raises(SinkForbidden) as caught:
        sink.send(points(1), Resolution.RAW)
    assert "influx bucket create --org 'my org' --name charging_data --retention 36500d" in str(
        caught.value
    )


def test_a_redirect_is_not_followed() -> None:
    with scripted(answers(301, location="http://elsewhere:1/x?token=1")) as (peer, sink):
        with pytest.raises(SinkForbidden, match="redirects to 'http://elsewhere:1/x'"):
            sink.send(points(1), Resolution.RAW)
        assert len(peer.asked) == 1


@pytest.mark.parametrize(
    "location",
    [f"http://me:{SECRET}@h/x", f"//me:{SECRET}@h", f"http://me:?{SECRET}@h/", f"/x?{SECRET}"],
)
def test_a_redirect_shows_no_secret_of_where_it_leads(location: str) -> None:
    with scripted(answers(302, location=location)) as (_, sink):
        with pytest.raises(SinkForbidden, match="redirects to") as caught:
            sink.send(points(1), Resolution.RAW)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [400, 404, 405, 422])
@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b"[1]", b"\xff{", b"[" * 9999])
def test_a_proxy_that_says_no_loses_nothing(status: int, body: bytes) -> None:
    with scripted(answers(status, body)) as (peer, sink):
        with pytest.raises(SinkForbidden, match="check url"):
            sink.send(points(3), Resolution.RAW)
        assert len(peer.asked) == 1


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("bad", [{0}, {99}, {50}, {0, 1, 98, 99}, set(range(20, 40))])
def test_bad_points_are_found_by_halving(status: int, bad: set[int]) -> None:
    batch = points(100)
    refused = {batch[number] for number in bad}
    taken: list[bytes] = []

    def behave(exchange: Exchange) -> None:
        lines = lines_of(exchange.asked)
        if refused & set(lines):
            exchange.give(error_2x("unable to parse"), status)
        else:
            taken.extend(lines)
            exchange.give(status=204)

    with scripted(behave) as (peer, sink):
        rejected = sink.send(batch, Resolution.RAW)
        assert rejected == [Rejected(batch[number], "unable to parse") for number in sorted(bad)]
        assert taken == [point for point in batch if point not in refused], "in order, each once"
        assert len(peer.asked) < 2 * len(bad) * 8


def test_a_server_that_takes_few_at_a_time_is_remembered() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.give(status=413 if len(lines_of(exchange.asked)) > 30 else 204)

    with scripted(behave, batch_readings=100) as (peer, sink):
        assert sink.send(points(100), Resolution.RAW) == []
        assert [point for batch in writes(peer) if len(batch) <= 30 for point in batch] == points(
            100
        )
        peer.asked.clear()
        assert sink.send(points(100), Resolution.RAW) == []
        assert [len(batch) for batch in writes(peer)] == [25, 25, 25, 25]


def test_a_single_point_that_is_too_large_is_set_aside() -> None:
    with scripted(answers(413)) as (_, sink):
        rejected = sink.send(points(3), Resolution.RAW)
        assert [one.point for one in rejected] == points(3)


def test_a_server_that_does_not_answer_many_is_given_fewer() -> None:
    def behave(exchange: Exchange) -> None:
        if len(lines_of(exchange.asked)) > 600:
            exchange.hang_up()
        else:
            exchange.give(status=204)

    with scripted(behave, batch_readings=1000) as (_, sink):
        with pytest.raises(SinkRetry):
            sink.send(points(1000), Resolution.RAW)
        assert sink.send(points(1000), Resolution.RAW) == []


def test_a_server_that_never_answers_is_left_in_time() -> None:
    with scripted(Exchange.be_silent, timeout_s=0.5) as (peer, sink):
        with pytest.raises(SinkRetry, match=r"within 0\.5 s"):
            sink.send(points(3), Resolution.RAW)
        assert len(peer.asked) == 1


@pytest.mark.parametrize(
    "raw",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 20", b"HTTP/1.1 999999 x\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"],
)  # fmt: skip
def test_garbage_for_an_answer_is_no_answer(raw: bytes) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.send(raw)
        exchange.hang_up()

    with scripted(behave) as (_, sink), pytest.raises(SinkRetry, match="HTTP answer"):
        sink.send(points(3), Resolution.RAW)


def test_an_answer_without_end_is_not_read_to_it() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.give(b" " * 5_000_000, 400)

    with scripted(behave) as (_, sink), pytest.raises(SinkForbidden):
        sink.send(points(1), Resolution.RAW)


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_that_was_not_read_to_its_end_spoils_nothing(status: int, packed: bool) -> None:
    body = b" " * 3_000_000

    def behave(exchange: Exchange) -> None:
        if packed:
            exchange.give(gzip.compress(body), status, content_encoding="gzip")
        else:
            exchange.give(body, status)

    def attempt() -> None:
        with pytest.raises((SinkRetry, SinkForbidden), match=str(status)):
            sink.send(points(1), Resolution.RAW)

    with scripted(behave) as (peer, sink):
        for _ in range(3):
            assert took_s(attempt) < 3
        peer.behaviour = answers(204)
        assert sink.send(points(1), Resolution.RAW) == []


def took_s(call: Callable[[], None]) -> float:
    """How long a call takes; on a thread, since it may take for ever."""
    began_s = time.monotonic()
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(5.0)
    return time.monotonic() - began_s


@pytest.mark.parametrize("head", [b"HTTP/1.1 400 X\r\nA: ", b"HTTP/1.1 400 X\r\n\r\n", b""])
@pytest.mark.parametrize("secure", [False, True])
def test_an_answer_that_drips_is_left_in_time(head: bytes, secure: bool, tmp_path: Path) -> None:
    def behave(exchange: Exchange) -> None:
        with contextlib.suppress(OSError):
            exchange.send(head)
            exchange.drip(b"a" * 60_000, 0.1)

    def attempt() -> None:
        with pytest.raises(SinkRetry, match=r"no answer within 0\.5 s"):
            sink.send(points(1), Resolution.RAW)

    authority = Authority(tmp_path) if secure else None
    with http_peer(behave, authority.server_context() if authority else None) as peer:
        url = f"http{'s' * secure}://127.0.0.1:{peer.port}"
        ca_file = authority.ca_file if authority else None
        with closing(a_sink(url, timeout_s=0.5, ca_file=ca_file)) as sink:
            assert took_s(attempt) < 2


@pytest.mark.parametrize(("status", "error"), [(502, Unreached), (504, Unreached)])
def test_a_proxy_that_does_not_reach_the_server_says_that_it_may_be_dead(
    status: int, error: type[Exception]
) -> None:
    with scripted(answers(status)) as (_, sink), pytest.raises(error):
        sink.send(points(1), Resolution.RAW)


def test_a_connection_that_the_server_ended_meanwhile_is_told_once() -> None:
    def behave(exchange: Exchange) -> None:
        exchange.give(status=204)
        exchange.hang_up()

    with scripted(answers(204)) as (peer, sink):
        sink.send(points(1), Resolution.RAW)
        sink.send(points(1), Resolution.RAW)
        assert not sink.was_cut_off()
        peer.behaviour = behave
        sink.send(points(1), Resolution.RAW)
        wait_until(lambda: peer.served == 1, what="the end of the connection")
        peer.behaviour = answers(204)
        sink.send(points(1), Resolution.RAW)
        assert sink.was_cut_off()
        assert not sink.was_cut_off()


def test_nothing_there_is_said_with_the_reason() -> None:
    sink = a_sink(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SinkRetry, match=r"cannot be reached \(Connection refused\)"):
        sink.send(points(1), Resolution.RAW)


def test_a_name_that_nobody_knows_is_said() -> None:
    sink = a_sink("http://no-such-host.invalid:8086")
    with pytest.raises(SinkRetry, match="the host name is not known"):
        sink.send(points(1), Resolution.RAW)


def leads_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Stand for the system's resolver."""

    def found(_host: str, port: int, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_a_name_is_tried_at_a_few_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dead one costs a time-out, and the uplink would be held for hanging."""
    dead = [f"127.0.1.{number}" for number in range(1, MOST_ADDRESSES + 1)]
    with (
        http_peer(answers(204)) as peer,
        closing(a_sink(f"http://influx.example:{peer.port}")) as sink,
    ):
        leads_to(monkeypatch, *dead, "127.0.0.1")
        with pytest.raises(Unreached, match="refused"):
            sink.send(points(1), Resolution.RAW)
        assert peer.served == 0
        leads_to(monkeypatch, *dead[1:], "127.0.0.1")
        sink.send(points(1), Resolution.RAW)
        assert peer.asked[0].headers["host"] == f"influx.example:{peer.port}"


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_an_address_of_ipv6_has_the_scheme_s_port(
    monkeypatch: pytest.MonkeyPatch, scheme: str, port: int
) -> None:
    looked_up: list[object] = []

    def nowhere(*where: object, **_: object) -> None:
        looked_up.extend(where)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(Unreached):
        a_sink(f"{scheme}://[::1]").send(points(1), Resolution.RAW)
    assert looked_up == ["::1", port]


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example"])
def test_a_name_that_none_can_be_is_said(host: str) -> None:
    with pytest.raises(Unreached, match="the host name is not known"):
        a_sink(f"http://{host}:80").send(points(1), Resolution.RAW)


def test_a_name_server_that_is_away_is_not_the_name_s_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    with pytest.raises(Unreached, match="no name server answers"):
        a_sink("http://influx.example:8086").send(points(1), Resolution.RAW)


@pytest.mark.parametrize(
    "url", ["ftp://x", "localhost:8086", "http://[::", "://", "http://a:b", BARE]
)
def test_a_url_that_is_none_is_said(url: str) -> None:
    with pytest.raises((SinkForbidden, SinkRetry), match="url"):
        a_sink(url).send(points(1), Resolution.RAW)


def test_a_user_in_the_url_is_not_shown() -> None:
    sink = a_sink(f"http://me:{SECRET}@127.0.0.1:{free_port()}/x?token={SECRET}")
    with pytest.raises(SinkRetry) as caught:
        sink.send(points(1), Resolution.RAW)
    assert SECRET not in str(caught.value)


def test_a_certificate_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with http_peer(answers(204), authority.server_context()) as peer:
        url = f"https://127.0.0.1:{peer.port}"
        with closing(a_sink(url, ca_file=authority.ca_file)) as sink:
            assert sink.send(points(1), Resolution.RAW) == []
        with pytest.raises(SinkForbidden, match="not trusted"):
            a_sink(url).send(points(1), Resolution.RAW)
        with pytest.raises(SinkForbidden, match="ca_file cannot be read"):
            a_sink(url, ca_file=str(tmp_path / "none")).send(points(1), Resolution.RAW)


# --- Buckets of 2.x ------------------------------------------------------------------------------


class Buckets:
    """What of InfluxDB 2.x has to do with buckets. may_create: the token's right."""

    def __init__(self, *, may_create: bool, kept_s: dict[str, int] | None = None) -> None:
        self.may_create = may_create
        self.kept_s = kept_s or {}

    def __call__(self, exchange: Exchange) -> None:
        path, _, query = exchange.asked.target.partition("?")
        if path == "/api/v2/orgs":
            exchange.give({"orgs": [{"id": "0a", "name": "my org"}]})
        elif exchange.asked.method == "GET":
            name = query.partition("name=")[2].partition("&")[0]
            found = [
                {"id": "1b", "name": name, "retentionRules": [{"everySeconds": kept_s}]}
                for kept_s in [self.kept_s.get(name)]
                if kept_s is not None
            ]
            exchange.give({"buckets": found} if found else error_2x("none"), 200 if found else 404)
        elif self.may_create:
            document = json.loads(exchange.asked.body)
            assert document["orgID"] == "0a"
            (rule,) = document["retentionRules"]
            self.kept_s[document["name"]] = rule["everySeconds"]
            exchange.give(document, 201)
        else:
            exchange.give(error_2x("forbidden"), 403)


def test_buckets_are_made_where_the_token_may() -> None:
    buckets = Buckets(may_create=True)
    with http_peer(buckets) as peer:
        settings = {"org": "my org", "token": SECRET}
        url = f"http://127.0.0.1:{peer.port}"
        with closing(a_sink(url, JournalConfig(), **settings)) as sink:
            assert sink.prepare() == []
            assert sink.prepare() == []
    day_s = 86_400
    assert buckets.kept_s == {
        "charging_data": 90 * day_s,
        "charging_data_hourly": 365 * day_s,
        "charging_data_daily": 1826 * day_s,
    }


def test_buckets_that_may_not_be_made_are_said_with_the_commands() -> None:
    with scripted(Buckets(may_create=False, kept_s={"charging_data": 0})) as (_, sink):
        (advice,) = sink.prepare()
    assert "--name charging_data " not in advice
    for name in ("charging_data_hourly", "charging_data_daily"):
        assert f"influx bucket create --org 'my org' --name {name} --retention 36500d" in advice


def test_a_bucket_that_forgets_too_soon_is_said() -> None:
    kept_s = {"charging_data": 3600, "charging_data_hourly": 0, "charging_data_daily": 0}
    with scripted(Buckets(may_create=False, kept_s=kept_s)) as (_, sink):
        (advice,) = sink.prepare()
    assert "influx bucket update --id 1b --retention 36500d" in advice


def test_a_server_that_cannot_answer_now_is_prepared_later() -> None:
    with scripted(answers(503)) as (_, sink), pytest.raises(SinkRetry):
        sink.prepare()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"buckets":1,"orgs":[1]}', b"<html>"])
def test_garbage_about_buckets_is_advice(body: bytes) -> None:
    with scripted(answers(200, body)) as (_, sink):
        assert len(sink.prepare()) == 1
