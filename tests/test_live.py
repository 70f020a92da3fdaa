"""The live view behind the real server: what clients are told, and that none of them is in the way.

Clients are the websockets library, wscat, and bare sockets for those that misbehave.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from edge import render
from edge.alerts import Alert
from edge.api import Access, Caller, Request, Response
from edge.api.dispatch import ALIVE_WITHIN_S, refusal
from edge.api.door import Door
from edge.api.live import LOAD_EVERY_S, Live
from edge.api.server import ApiServer
from edge.api.topics import Subscription, Topic, changes, parse_subscription
from edge.api.viewer import ADMITTED_FOR_S, SLOW_AFTER_S, WHOLE_EVERY_S
from edge.errors import RequestError
from edge.model import LoadQuality, LoadStatus, MeterState, Snapshot, Status
from edge.settings import ApiConfig
from edge.tokenfile import Role
from edge.tokens import Tokens
from tests.brokers import Certificates, make_certificates
from tests.building import FakeClock, a_meter, a_reading, cheap_scrypts
from tests.peers import need_program, wait_until
from tests.test_websocket import HANDSHAKE, frame, frames_in

LOAD = LoadStatus(500.0, 0.0, 80.0, 420.0, 0.0, LoadQuality.GOOD)
HEAD = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items() if name != "host")


class Site:
    """Meters whose ticks a test makes, and the live view of them behind a server.

    meters: how many. The clock stands unless a tick or a test turns it.
    """

    def __init__(
        self,
        meters: int = 2,
        max_clients: int = 8,
        alive_within_s: float = ALIVE_WITHIN_S,
        **server: Any,
    ) -> None:
        self.clock = FakeClock(mono_s=1000.0)
        self.alerts: tuple[Alert, ...] = ()
        self.load = LOAD
        self.states = {
            meter.id: MeterState(meter, since_mono_s=1000.0)
            for meter in (a_meter(f"Meter {number}") for number in range(meters))
        }
        self.ids = list(self.states)
        self.live = Live(
            lambda: self.alerts,
            lambda caller: self.admits(caller),  # noqa: PLW0108  tests replace it
            self.clock,
            max_clients=max_clients,
            alive_within_s=alive_within_s,
        )
        self.admits: Callable[[Caller | None], bool] = lambda _: True
        self.server = ApiServer(self._handle, refusal, host="127.0.0.1", port=0, **server)

    def _handle(self, request: Request) -> Response:
        try:
            return self.live.connect(request)
        except RequestError as refused:
            return refusal(refused)

    def __enter__(self) -> Site:
        self.tick()
        self.live.start()
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close(time.monotonic() + 5)
        self.live.close(self.clock.mono_s() + 2)
        wait_until(lambda: not live_threads(), what="the end of the thread")

    @property
    def url(self) -> str:
        return self.server.base_url.replace("http", "ws", 1) + "/ws"

    def client(self, query: str = "", **options: Any) -> Connection:
        """Connect; the place is certain once something was told."""
        return connect(self.url + query, proxy=None, close_timeout=2, **options)

    @property
    def handshake(self) -> bytes:
        """What a client opens with."""
        return f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n{HEAD}\r\n".encode()

    def connection(self, receive_bytes: int = 4096) -> socket.socket:
        """Connect with so much room for what is not read."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(5)
        client.connect(("127.0.0.1", self.server.port))
        return client

    def raw_client(self, receive_bytes: int = 4096) -> socket.socket:
        """Open and do nothing any more; returns when something waits to be read."""
        client = self.connection(receive_bytes)
        client.sendall(self.handshake)
        wait_until(
            lambda: b"snapshot" in client.recv(1000, socket.MSG_PEEK), what="the first frame"
        )
        return client

    def tick(self, by_s: float = 0.1) -> None:
        """Publish what is known now."""
        self.clock.turn(by_s)
        self.live.publish(
            Snapshot(
                tick=1,
                mono_s=self.clock.mono_s(),
                unix_ms=self.clock.unix_ms(),
                load=self.load,
                meters=self.states,
            )
        )

    def change(self, number: int, **changes: Any) -> None:
        """Let a meter's state be another one from the next tick on."""
        id_ = self.ids[number]
        self.states = {**self.states, id_: replace(self.states[id_], **changes)}

    def read(self, number: int, power_kw: float) -> None:
        """Let a reading of a meter come."""
        reading = a_reading(self.clock.mono_s(), power=power_kw)
        self.change(number, reading=reading, status=Status.ONLINE, last_error=None)


def live_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "live"]


@pytest.fixture
def start() -> Iterator[Callable[..., Site]]:
    """Start sites that end with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Site(**options))


@pytest.fixture
def site(start: Callable[..., Site]) -> Site:
    return start()


def told(client: Connection, timeout_s: float = 5.0) -> Any:
    return json.loads(client.recv(timeout_s))


def told_nothing_until(client: Connection, site: Site) -> None:
    """A change that is told now is the next thing that is told."""
    site.load = replace(site.load, available_kw=site.load.available_kw - 1)
    site.tick()
    message = told(client)
    assert message["type"] == "load_status"
    assert message["data"]["availableCapacity"] == site.load.available_kw


def close_code(client: Connection) -> int | None:
    """Read until the service closes; the code that it closed with."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(5)
    return client.close_code


def ends_with_a_reset(client: socket.socket) -> bool:
    """Read to the end; whether that was none that a client takes for a regular one."""
    try:
        while client.recv(100_000):
            pass
    except ConnectionResetError:
        return True
    return False


# --- What is told --------------------------------------------------------------------------------


def test_a_client_is_told_everything_when_it_connects(site: Site) -> None:
    site.read(0, 12.5)
    site.alerts = (an_alert("a"), an_alert("b", until_ms=5))
    site.tick()
    with site.client() as client:
        message = told(client)
    assert message.keys() == {"type", "timestamp", "data"}
    assert message["type"] == "snapshot"
    assert message["timestamp"].endswith("Z")
    data = message["data"]
    assert data.keys() == {"meters", "load", "alerts"}
    first, second = data["meters"]
    shown = render.meter(site.states[site.ids[0]])
    assert first == {**shown, "ageSeconds": 0.1}
    assert first["currentPower"] == 12.5
    assert (second["id"], second["currentPower"], second["ageSeconds"]) == (site.ids[1], None, None)
    assert data["load"]["availableCapacity"] == 420.0
    assert [alert["id"] for alert in data["alerts"]] == ["a"]


def test_a_new_reading_is_told_and_nothing_else(site: Site) -> None:
    site.read(0, 1.0)
    site.tick()
    with site.client() as client:
        told(client)
        site.read(0, 2.0)
        site.tick()
        message = told(client)
        assert message["type"] == "meter_reading"
        assert message["data"]["meterId"] == site.ids[0]
        assert message["data"]["currentPower"] == 2.0
        assert message["data"]["ageSeconds"] == 0.1
        assert message["data"]["quality"] == "good"
        told_nothing_until(client, site)


def test_a_change_of_status_is_told(site: Site) -> None:
    site.read(0, 1.0)
    site.tick()
    with site.client() as client:
        told(client)
        site.change(0, status=Status.ERROR, last_error="It is silent.")
        site.tick()
        message = told(client)
        assert message["type"] == "meter_status"
        assert message["data"] == {
            "meterId": site.ids[0],
            "name": "Meter 0",
            "status": "error",
            "quality": "stale",
            "lastError": "It is silent.",
            "lastUpdate": render.meter(site.states[site.ids[0]])["lastUpdate"],
        }
        told_nothing_until(client, site)


def test_a_load_status_that_is_the_same_is_told_rarely(site: Site) -> None:
    with site.client() as client:
        told(client)
        started_s = site.clock.mono_s()
        site.load = replace(LOAD)  # an equal one
        for _ in range(12):
            site.tick(1.0)
            time.sleep(0.02)
        messages = [told(client) for _ in range(2)]
        assert [message["type"] for message in messages] == ["load_status"] * 2
        assert site.clock.mono_s() - started_s < 3 * LOAD_EVERY_S
        told_nothing_until(client, site)


def test_a_changed_plan_is_told_whole(site: Site) -> None:
    with site.client() as client:
        told(client)
        site.clock.turn(WHOLE_EVERY_S)
        new = a_meter("New")
        site.states = {**site.states, new.id: MeterState(new)}
        site.tick()
        message = told(client)
        assert message["type"] == "snapshot"
        assert [meter["name"] for meter in message["data"]["meters"]][-1] == "New"
        site.clock.turn(WHOLE_EVERY_S)
        site.states = {id_: state for id_, state in site.states.items() if id_ != new.id}
        site.tick()
        assert len(told(client)["data"]["meters"]) == 2


def test_a_plan_that_changes_with_each_tick_is_told_once_a_second(site: Site) -> None:
    with site.client() as client:
        told(client)
        for number in range(9):
            new = a_meter(f"New {number}")
            site.states = {**site.states, new.id: MeterState(new)}
            site.tick()
            time.sleep(0.01)
        site.tick(WHOLE_EVERY_S)
        assert len(told(client)["data"]["meters"]) == 11
        told_nothing_until(client, site)


def an_alert(id_: str, meter_id: str | None = None, until_ms: int | None = None) -> Alert:
    return Alert(id_, "overload", "critical", "Too much.", meter_id, 1, until_ms)


def test_alerts_are_told_when_they_begin_change_and_end(site: Site) -> None:
    with site.client() as client:
        told(client)
        for known in (
            [an_alert("a")],
            [an_alert("a"), an_alert("b")],  # equal ones are made anew each time
            [an_alert("b"), an_alert("a", until_ms=7)],
        ):
            site.alerts = tuple(known)
            site.tick()
            message = told(client)
            assert message["type"] == "alert"
            new = known[-1]
            assert message["data"] == render.alert(new)
            assert message["data"]["id"] == new.id
        site.alerts = ()  # forgotten after a day
        told_nothing_until(client, site)


def test_everyone_is_told_the_same_bytes_that_are_made_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    real = render.reading

    def counting(state: MeterState, snapshot: Snapshot) -> Any:
        rendered.append(state.meter.id)
        return real(state, snapshot)

    with ExitStack() as stack:
        clients = [stack.enter_context(site.client()) for _ in range(5)]
        for client in clients:
            told(client)
        monkeypatch.setattr(render, "reading", counting)
        site.read(1, 3.0)
        site.tick()
        messages = [[client.recv(5) for _ in range(2)] for client in clients]
        assert all(message == messages[0] for message in messages)
        assert rendered == [site.ids[1]]


# --- What a client wants -------------------------------------------------------------------------


def test_a_client_is_told_what_it_asked_for(site: Site) -> None:
    query = f"?types=meter_reading,alert&meters={site.ids[1]}"
    with site.client(query) as client:
        message = told(client)
        assert [meter["id"] for meter in message["data"]["meters"]] == [site.ids[1]]
        site.read(0, 1.0)
        site.read(1, 2.0)
        site.load = replace(LOAD, available_kw=1.0)
        site.alerts = (an_alert("other", site.ids[0]), an_alert("site"), an_alert("x", site.ids[1]))
        site.tick()
        assert told(client)["data"]["meterId"] == site.ids[1]
        assert [told(client)["data"]["id"] for _ in range(2)] == ["site", "x"]


def asking(**query: str) -> Request:
    return Request("GET", "/ws", query, HANDSHAKE, b"")


def test_who_asks_for_nothing_gets_everything() -> None:
    assert parse_subscription(asking()) == Subscription()
    assert parse_subscription(asking(types="", meters="")) == Subscription()
    assert parse_subscription(asking(meters="a,b")).meters == frozenset("ab")
    assert Subscription().covers(Topic("meter_reading", "a", "a"))
    assert not parse_subscription(asking(types="alert")).covers(Topic("load_status"))


@pytest.mark.parametrize(
    ("query", "fields", "said"),
    [
        ({"types": "meter_readings"}, ["types"], "did you mean 'meter_reading'?"),
        ({"types": "alert,"}, ["types"], "must be of"),
        ({"type": "alert"}, ["type"], "types"),
        ({"types": "x", "meter": "x"}, ["meter", "types"], "meters"),
    ],
)
def test_a_wish_that_is_not_understood_is_refused(
    query: dict[str, str], fields: list[str], said: str
) -> None:
    with pytest.raises(RequestError) as refused:
        parse_subscription(asking(**query))
    assert refused.value.status == 400
    assert [fault.path for fault in refused.value.faults] == fields
    assert said in refused.value.faults[0].message


def test_what_changed_is_found_by_what_is_another_object() -> None:
    site = Site()
    first = Snapshot(1, 0.0, 0, LOAD, site.states)
    assert changes(first, replace(first, tick=2)) == []
    site.read(0, 1.0)
    second = Snapshot(2, 0.1, 100, LOAD, site.states)
    about = ("meter_reading", "meter_status")
    assert changes(first, second) == [Topic(kind, site.ids[0], site.ids[0]) for kind in about]
    changed = replace(site.states[site.ids[0]], meter=a_meter("Renamed"))
    assert changes(second, replace(second, meters={**site.states, site.ids[0]: changed})) is None
    assert changes(second, replace(second, meters={})) is None


# --- Who may connect -----------------------------------------------------------------------------


def status_of(site: Site, **headers: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        site.client(additional_headers=headers)
    return refused.value.response.status_code


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1", "http://[", "127.0.0.1"]
)
def test_a_page_from_elsewhere_is_refused(site: Site, origin: str) -> None:
    assert status_of(site, Origin=origin) == 403


def test_a_page_from_here_is_let_in_over_either_scheme(site: Site) -> None:
    for scheme in ("http", "https", "HTTP"):
        with site.client(origin=f"{scheme}://127.0.0.1:{site.server.port}") as client:
            told(client)


def test_a_client_is_closed_soon_after_its_session_was_logged_out(
    start: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_scrypts(monkeypatch)
    tokens = Tokens(tmp_path)
    body = json.dumps({"token": tokens.add("anna", Role.READER, 0)}).encode()
    door = Door(tokens, lambda _: Access.READER, ApiConfig(), FakeClock())
    site = start(authorize=door.authorize)
    site.admits = door.admits
    logged_in = [door.log_in(Request("POST", "/", {}, {}, body)) for _ in range(2)]
    cookies = [answer.headers[0][1].partition(";")[0] for answer in logged_in]
    csrf = json.loads(logged_in[0].body)["data"]["csrfToken"]
    clients = [site.client(additional_headers={"Cookie": cookie}) for cookie in cookies]
    with clients[0] as leaves, clients[1] as stays:
        told(leaves)
        told(stays)
        for _ in range(2 * int(ADMITTED_FOR_S)):
            tick_and_tell(site, leaves)
        door.log_out(Request("POST", "/", {}, {"cookie": cookies[0], "x-csrf-token": csrf}, b""))
        for _ in range(int(ADMITTED_FOR_S) + 2):
            tick_and_tell(site, stays)
        assert close_code(leaves) == 1008
        told_nothing_until(stays, site)


def test_who_asks_for_no_websocket_is_told_so(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.port), 5) as client:
        client.sendall(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = client.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nUpgrade: websocket\r\n" in answer
    assert b"UPGRADE_REQUIRED" in answer


def test_there_is_room_for_so_many_and_again_when_one_left(start: Callable[..., Site]) -> None:
    site = start(max_clients=2)
    with site.client() as first, site.client() as second:
        told(first)
        told(second)
        with pytest.raises(InvalidStatus) as refused:
            connect(site.url, proxy=None)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"]
        assert b"TOO_MANY_CLIENTS" in refused.value.response.body
        first.close()
        wait_until(lambda: site.live.clients == 1, what="the first one's place")
        with site.client() as third:
            told(third)


def test_those_who_were_let_in_at_the_same_moment_may_be_too_many(
    start: Callable[..., Site],
) -> None:
    site = start(max_clients=1)
    responses = [site.live.connect(asking()) for _ in range(2)]
    with ExitStack() as stack:
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        for each, response in zip(ours, responses, strict=True):
            stack.enter_context(each)
            assert response.takeover is not None
        for each, response in zip(theirs, responses, strict=True):
            assert response.takeover is not None
            response.takeover(each, b"")
        ours[1].settimeout(5)
        assert frames_in(ours[1].recv(1000))[0] == (8, b"\x03\xf5too many clients")


def test_what_came_with_the_handshake_is_not_lost(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.port), 5) as client:
        request = f"GET /ws?types=alert HTTP/1.1\r\nHost: 127.0.0.1\r\n{HEAD}\r\n".encode()
        client.sendall(request + frame(9, b"early"))
        assert read_all(client, b"early")


# --- Who does not behave -------------------------------------------------------------------------


def read_all(client: socket.socket, until: bytes) -> bytes:
    """Read until what was received contains this; all of it."""
    received = bytearray()
    while until not in received:
        data = client.recv(100_000)
        assert data, "the service closed"
        received += data
    return bytes(received)


def test_a_slow_client_gets_the_latest_of_each_meter_and_no_backlog(
    start: Callable[..., Site],
) -> None:
    site = start(meters=50)
    with site.raw_client() as slow, site.client() as quick:
        told(quick)
        ticks = 400
        for number in range(ticks):
            for meter in range(50):
                site.read(meter, float(number))
            site.load = replace(LOAD, available_kw=float(number))
            site.tick(0.02)
            while True:
                message = told(quick)  # who is quick gets each of them
                if message["type"] == "load_status":
                    assert message["data"]["availableCapacity"] == number
                    break
        site.load = replace(LOAD, available_kw=-1.0)
        site.tick(0.02)
        data = read_all(slow, b'"availableCapacity":-1.0').partition(b"\r\n\r\n")[2]
    site_bytes = len(quick_bytes(site))
    assert len(data) < 200_000 < ticks * site_bytes / 20
    last = {}
    for opcode, payload in whole_frames(data):
        if opcode != Opcode.TEXT:
            continue
        message = json.loads(payload)
        if message["type"] == "meter_reading":
            last[message["data"]["meterId"]] = message["data"]["currentPower"]
    assert last == dict.fromkeys(site.ids, float(ticks - 1))


def quick_bytes(site: Site) -> bytes:
    """About what a tick costs that changes each meter."""
    return render.dump([render.meter(state) for state in site.states.values()])


def whole_frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames in what was received, without the one that may not be whole yet."""
    while data:
        try:
            return frames_in(data)
        except (AssertionError, IndexError):
            data = data[:-1]
    return []


def test_a_client_that_stops_reading_is_closed_and_nobody_else_notices(
    start: Callable[..., Site],
) -> None:
    site = start(meters=50)
    with site.raw_client() as stuck, site.client() as other:
        told(other)
        fill(site, other, by_s=0.02)
        assert site.live.clients == 2
        for second in range(int(SLOW_AFTER_S) + 2):
            if second < SLOW_AFTER_S / 2:
                stuck.sendall(frame(10, b""))  # what it sends does not show that it reads
            fill(site, other, ticks=1, by_s=1.0)
        wait_until(lambda: site.live.closed_slow == 1, what="the stuck client's end")
        assert site.live.clients == 1
        assert ends_with_a_reset(stuck)
        told_nothing_until(other, site)


def test_a_client_that_stops_reading_is_closed_though_its_system_takes_all_there_is(
    site: Site,
) -> None:
    with site.raw_client(receive_bytes=4 * 1024 * 1024) as stuck, site.client() as other:
        told(other)
        stopped_s = site.clock.mono_s()
        while site.clock.mono_s() - stopped_s < SLOW_AFTER_S - 1:
            tick_and_tell(site, other)
        assert site.live.clients == 2
        for _ in range(4):
            tick_and_tell(site, other)
        wait_until(lambda: site.live.clients == 1, what="the stuck client's end")
        assert site.live.closed_slow == 1
        assert ends_with_a_reset(stuck)
        told_nothing_until(other, site)


def tick_and_tell(site: Site, reader: Connection) -> None:
    """Let a second pass and something be told; the reader reads it, and what came before."""
    site.load = replace(site.load, available_kw=site.load.available_kw - 1)
    site.tick(1.0)
    while told(reader)["data"].get("availableCapacity") != site.load.available_kw:
        pass


def fill(site: Site, reader: Connection, *, by_s: float, ticks: int = 100) -> None:
    """Let so much be told that nobody can leave it unread; the reader reads it all."""
    for number in range(ticks):
        for meter in range(50):
            site.read(meter, float(number))
        site.load = replace(site.load, available_kw=site.load.available_kw - 1)
        site.tick(by_s)
        while told(reader)["type"] != "load_status":
            pass


def test_publishing_takes_no_longer_because_nobody_reads(start: Callable[..., Site]) -> None:
    site = start(meters=50, max_clients=32)
    with ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(site.raw_client())
        longest_s = 0.0
        for number in range(300):
            for meter in range(50):
                site.read(meter, float(number))
            site.clock.turn(0.01)
            snapshot = Snapshot(1, site.clock.mono_s(), site.clock.unix_ms(), LOAD, site.states)
            began_s = time.monotonic()
            site.live.publish(snapshot)
            longest_s = max(longest_s, time.monotonic() - began_s)
        assert longest_s < 1.0  # it may be kept from the processor, but waits for nobody
        assert len(live_threads()) == 1
        wait_until(lambda: not http_clients(), what="the end of the clients' own threads")


def http_clients() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("http-")]


def test_a_client_that_answers_pings_stays(site: Site) -> None:
    with site.client(ping_interval=None) as client:
        told(client)
        for _ in range(3 * int(SLOW_AFTER_S)):
            tick_and_tell(site, client)
        assert site.live.clients == 1
        assert site.live.closed_slow == 0


def test_a_client_is_pinged_before_it_is_closed_however_late_that_is(
    start: Callable[..., Site],
) -> None:
    site = start(alive_within_s=60.0)
    with site.client(ping_interval=None) as client:
        told(client)
        site.tick(3 * SLOW_AFTER_S)  # as after a machine that stood still
        tick_and_tell(site, client)
        assert site.live.closed_slow == 0


def test_a_client_that_talks_too_much_is_closed(site: Site) -> None:
    with site.client() as client:
        told(client)
        with suppress(ConnectionClosed):
            for _ in range(1000):
                client.send("x" * 1000)
        assert close_code(client) == 1008


def test_what_a_client_says_is_ignored(site: Site) -> None:
    with site.client() as client:
        told(client)
        client.send('{"type": "meter_reading"}')
        client.send(b"\x00\xff")
        assert client.ping().wait(5)
        told_nothing_until(client, site)


def test_a_message_that_is_too_large_closes(site: Site) -> None:
    with site.client() as client:
        told(client)
        client.send("x" * 5000)
        assert close_code(client) == 1009


def test_clients_that_vanish_leave_nothing(site: Site) -> None:
    with site.client() as stays:
        told(stays)
        for _ in range(5):
            with site.raw_client() as gone:
                gone.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
                )  # so closing is a reset
        wait_until(lambda: site.live.clients == 1, what="the end of the others")
        told_nothing_until(stays, site)


# --- When the service does not go on -------------------------------------------------------------


def test_nothing_old_is_told_while_the_cycle_stands_still(site: Site) -> None:
    with site.client() as client:
        told(client)
        site.clock.turn(ALIVE_WITHIN_S + 0.1)
        assert close_code(client) == 1011
        assert client.close_reason == "the control cycle stands still"
    wait_until(lambda: site.live.clients == 0, what="its end")
    with site.client() as late:  # the API itself would not let it in
        with pytest.raises(ConnectionClosed):
            late.recv(5)
        assert late.close_code == 1011


def test_clients_are_told_that_the_service_stops(site: Site) -> None:
    with site.client() as client, site.raw_client() as stuck:
        told(client)
        closing = threading.Thread(target=lambda: site.live.close(site.clock.mono_s() + 5))
        closing.start()
        assert close_code(client) == 1001
        site.clock.turn(6)  # the other one does not answer
        closing.join(5)
        assert not closing.is_alive()
        wait_until(lambda: site.live.clients == 0, what="their end")
        assert ends_with_a_reset(stuck)
        assert status_of(site) == 503


# --- Over TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_the_live_view_over_tls(start: Callable[..., Site], certificates: Certificates) -> None:
    site = start(meters=50, cert_file=certificates.server_cert, key_file=certificates.server_key)
    trusting = ssl.create_default_context(cafile=certificates.ca_file)
    with ExitStack() as stack:
        prompt, slow = (
            stack.enter_context(
                trusting.wrap_socket(site.connection(), server_hostname="127.0.0.1")
            )
            for _ in range(2)
        )
        for client in (prompt, slow):
            client.sendall(site.handshake)
            assert b'"type":"snapshot"' in read_all(client, b'"alerts":[]}}')
        prompt.sendall(frame(2, b"x" * 4000) + frame(9, b"alive"))
        assert read_all(prompt, b"alive")
        for tick in range(300):
            for meter in range(50):
                site.read(meter, float(tick))
            site.load = replace(LOAD, available_kw=float(tick))
            site.tick(0.02)
            read_all(prompt, b'"availableCapacity":%d.0' % tick)
        assert len(read_all(slow, b'"availableCapacity":299.0')) < 200_000
        prompt.sendall(frame(8, b"\x03\xe8"))
        assert read_all(prompt, b"\x88\x02\x03\xe8")
        assert prompt.recv(1000) == b""
    wait_until(lambda: site.live.clients == 0, what="their end")


# --- Other clients -------------------------------------------------------------------------------


def test_the_command_line_client_of_websockets(site: Site) -> None:
    command = [sys.executable, "-m", "websockets", site.url]
    check_command_line_client(site, command, os.environ.copy())


def test_wscat(site: Site) -> None:
    # Node.js of another maker does not look where Debian puts modules.
    command = [need_program("wscat", "node-ws"), "--connect", site.url]
    check_command_line_client(site, command, {**os.environ, "NODE_PATH": "/usr/share/nodejs"})


def check_command_line_client(site: Site, command: list[str], env: dict[str, str]) -> None:
    """It must show what it is told, and leave when asked to."""
    env.pop("http_proxy", None)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            wait_until(lambda: site.live.clients == 1, what="its place", timeout_s=20)
            site.read(0, 4321.5)
            site.tick()
            shown = b""
            while b"4321.5" not in shown:
                data = os.read(process.stdout.fileno(), 10_000)
                assert data, shown
                shown += data
            assert b'"type":"snapshot"' in shown
        finally:
            process.terminate()
    wait_until(lambda: site.live.clients == 0, what="its leave")
