"""The MQTT uplink: what is news in a snapshot, and keeping it on a real mosquitto."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.clock import Clock
from edge.config import load_config
from edge.drivers.mqtt.connection import open_connection
from edge.errors import LineError
from edge.homeassistant import Topics
from edge.load import load_status
from edge.model import Meter, MeterState, Reading, Snapshot, Status
from edge.settings import BrokerConfig, MqttUplinkConfig, SiteConfig
from edge.sinks import mqtt as uplink
from edge.sinks.board import Board
from edge.sinks.mqtt import MqttSink
from tests.brokers import Mosquitto, OldBroker, make_certificates
from tests.building import a_meter, a_reading
from tests.peers import free_port, freeze, need_program, wait_until

UNIX_MS = 1_760_956_200_000
HOST = "127.0.0.1"
UNKNOWN = "Nobody knows the broker's name."
METER = replace(a_meter(), id="meter_main")  # the same in another process
OTHER = replace(a_meter("Other"), id="meter_other")


def online(meter: Meter, power_kw: float = 10.0) -> MeterState:
    """A meter with a new reading."""
    reading = Reading({"power": power_kw, "energy": 5.0}, 0.0, UNIX_MS)
    return MeterState(meter, status=Status.ONLINE, reading=reading)


def a_snapshot(*states: MeterState, mono_s: float = 1.0, grid_kw: float = 100.0) -> Snapshot:
    """What the cycle would publish."""
    load = load_status(states, grid_kw, 0.0)
    meters = {state.meter.id: state for state in states}
    return Snapshot(1, mono_s, UNIX_MS + round(mono_s * 1000), load, meters)


def topics_of(meter: Meter) -> tuple[str, str, str]:
    """Reading, status and discovery of a meter at the site `s`."""
    root = f"dlm/s/meters/{meter.id}"
    return f"{root}/reading", f"{root}/status", f"homeassistant/device/s/dlm_{meter.id}/config"


READING, STATUS, DISCOVERY = topics_of(METER)


# --- What is news --------------------------------------------------------------------------------


def a_board(*, discovery: bool = True) -> Board:
    return Board(Topics("s"), "Site", discovery=discovery)


def names(board: Board, snapshot: Snapshot) -> list[str]:
    """The topics that a look gives."""
    return [topic for topic, _ in board.look(snapshot)]


def test_the_first_look_gives_all_and_the_next_nothing() -> None:
    board = a_board()
    snapshot = a_snapshot(online(METER))
    service = "homeassistant/device/s/dlm_service/config"
    assert names(board, snapshot) == [service, DISCOVERY, READING, STATUS, "dlm/s/load"]
    assert names(board, snapshot) == []
    assert names(board, replace(snapshot, tick=2, mono_s=1.1)) == []


def test_a_start_anew_gives_all_again() -> None:
    board = a_board()
    snapshot = a_snapshot(online(METER))
    first = list(board.look(snapshot))
    board.start_anew()
    assert list(board.look(snapshot)) == first


def test_a_reading_as_a_whole() -> None:
    found = dict(a_board().look(a_snapshot(online(METER))))
    assert json.loads(found[READING]) == {
        "site": "s",
        "meterId": METER.id,
        "currentPower": 10.0,
        "totalEnergy": 5.0,
        "voltage": None,
        "current": None,
        "powerFactor": None,
        "frequency": None,
        "timestamp": "2025-10-20T10:30:00.000Z",
        "quality": "good",
        "hints": [],
        "status": "online",
    }
    assert found[STATUS] == b"online"


def test_the_load_as_a_whole() -> None:
    found = dict(a_board().look(a_snapshot(online(METER))))
    assert json.loads(found["dlm/s/load"]) == {
        "site": "s",
        "gridCapacity": 100.0,
        "pvProduction": 0.0,
        "buildingConsumption": 10.0,
        "availableCapacity": 90.0,
        "overload": 0.0,
        "timestamp": "2025-10-20T10:30:01.000Z",
        "quality": "good",
        "reasons": [],
    }


def test_an_equal_reading_taken_anew_is_news() -> None:
    board = a_board()
    other = online(OTHER)
    names(board, a_snapshot(online(METER), other))
    assert names(board, a_snapshot(online(METER), other, mono_s=2)) == [READING]


def test_a_meter_that_was_never_read_says_so() -> None:
    found = dict(a_board().look(a_snapshot(MeterState(METER))))
    reading = json.loads(found[READING])
    assert found[STATUS] == b"pending"
    assert (reading["currentPower"], reading["timestamp"]) == (None, None)
    assert (reading["quality"], reading["status"]) == ("none", "pending")


def test_a_meter_that_goes_away_says_so_before_its_old_reading_is_shown() -> None:
    board = a_board()
    state = online(METER)
    names(board, a_snapshot(state))
    gone = replace(state, status=Status.OFFLINE, last_error="It is silent.")
    messages = list(board.look(a_snapshot(gone, mono_s=20)))
    assert [topic for topic, _ in messages] == [STATUS, READING, "dlm/s/load"]
    assert messages[0].payload == b"offline"
    reading = json.loads(messages[1].payload)
    assert (reading["quality"], reading["status"]) == ("stale", "offline")
    assert (reading["currentPower"], reading["timestamp"]) == (10.0, "2025-10-20T10:30:00.000Z")


def test_a_meter_that_comes_back_says_so_after_its_new_reading() -> None:
    board = a_board()
    names(board, a_snapshot(replace(online(METER), status=Status.ERROR)))
    messages = list(board.look(a_snapshot(online(METER))))
    assert [topic for topic, _ in messages][:2] == [READING, STATUS]
    assert json.loads(messages[0].payload)["quality"] == "good"


def test_another_error_alone_is_no_news() -> None:
    board = a_board()
    state = replace(online(METER), status=Status.ERROR, last_error="It is silent.")
    names(board, a_snapshot(state))
    told = names(board, a_snapshot(replace(state, last_error="It answers garbage.")))
    assert told == ["dlm/s/load"]  # whose reasons name it


def test_a_suspect_reading_says_so() -> None:
    state = MeterState(METER, status=Status.ONLINE, reading=a_reading(0, ("Too high.",), power=9e9))
    reading = json.loads(dict(a_board().look(a_snapshot(state)))[READING])
    assert (reading["quality"], reading["hints"]) == ("suspect", ["Too high."])


def test_a_removed_meter_is_cleared_status_last() -> None:
    board = a_board()
    other = online(OTHER)
    names(board, a_snapshot(online(METER), other))
    messages = list(board.look(a_snapshot(other)))
    assert messages[:3] == [(DISCOVERY, b""), (READING, b""), (STATUS, b"")]
    assert [topic for topic, _ in messages[3:]] == ["dlm/s/load"]


def test_a_meter_removed_before_a_start_anew_is_cleared_too() -> None:
    board = a_board()
    names(board, a_snapshot(online(METER)))
    board.start_anew()
    assert (READING, b"") in list(board.look(a_snapshot()))


def components(messages: Mapping[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(messages[DISCOVERY])["components"]
    return found


def test_a_change_takes_out_what_the_meter_gives_no_more() -> None:
    board = a_board()
    assert "voltage" in components(dict(board.look(a_snapshot(online(METER)))))
    keys = {"host": HOST, "port": 502, "registers": {"power": 0}}
    changed = replace(a_meter(communication=keys), id=METER.id, name="New name")
    found = dict(board.look(a_snapshot(MeterState(changed))))
    assert json.loads(found[DISCOVERY])["device"]["name"] == "New name"
    assert components(found)["voltage"] == {"platform": "sensor"}
    assert len(components(found)["power"]) > 1


def test_what_a_meter_gives_beyond_its_registration_is_announced_once() -> None:
    board = a_board()
    names(board, a_snapshot(online(METER)))
    more = replace(online(METER), reading=a_reading(frequency=50.0))
    assert "frequency" in components(dict(board.look(a_snapshot(more))))
    assert DISCOVERY not in names(board, a_snapshot(online(METER)))


def test_without_discovery_home_assistant_is_told_nothing() -> None:
    board = a_board(discovery=False)
    told = names(board, a_snapshot(online(METER))) + names(board, a_snapshot())
    assert told
    assert not [topic for topic in told if not topic.startswith("dlm/s/")]


def test_the_load_is_told_when_it_changes_and_every_ten_seconds() -> None:
    board = a_board()
    state = online(METER)
    names(board, a_snapshot(state, mono_s=1))
    assert names(board, a_snapshot(state, mono_s=10.9)) == []
    assert names(board, a_snapshot(state, mono_s=11)) == ["dlm/s/load"]
    assert names(board, a_snapshot(state, mono_s=11.1, grid_kw=50)) == ["dlm/s/load"]


def test_a_load_that_the_cycle_did_not_compute_anew_is_not_told_anew() -> None:
    board = a_board()
    standing = a_snapshot(online(METER))
    names(board, standing)
    assert names(board, standing) == []


meter_states = st.builds(
    lambda meter, status, power: MeterState(
        meter, status=status, reading=None if power is None else a_reading(power=power)
    ),
    st.sampled_from([METER, OTHER, a_meter("Third")]),
    st.sampled_from(Status),
    st.none() | st.floats(-1e6, 1e6),
)
snapshots = st.lists(meter_states, max_size=3, unique_by=lambda state: state.meter.id).map(
    lambda states: a_snapshot(*states)
)


@given(st.lists(st.tuples(snapshots, st.booleans()), max_size=6))
def test_what_is_retained_is_the_last_snapshot_whatever_came_before(
    steps: list[tuple[Snapshot, bool]],
) -> None:
    board = a_board()
    retained: dict[str, bytes] = {}
    for snapshot, anew in steps:
        if anew:
            board.start_anew()
        retained.update(board.look(snapshot))
        fresh = dict(a_board().look(snapshot))
        kept = {topic: payload for topic, payload in retained.items() if payload}
        assert kept.keys() == fresh.keys()
        for topic in kept.keys() - {topic for topic in kept if topic.startswith("home")}:
            assert kept[topic] == fresh[topic]


# --- On a real broker ----------------------------------------------------------------------------


class Watcher:
    """Hears everything on a broker: `retained` is what it keeps, `heard` what came, in order."""

    def __init__(self, port: int, **login: str) -> None:
        self.retained: dict[str, bytes] = {}
        self.heard: list[tuple[str, bytes]] = []
        self._subscribed = False
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        if login:
            self._client.username_pw_set(**login)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect(HOST, port)
        self._client.loop_start()
        wait_until(lambda: self._subscribed, what="the subscription")

    def json(self, topic: str) -> Any:
        return json.loads(self.retained[topic])

    def power_kw(self, meter: Meter = METER) -> float | None:
        """The power of a meter's reading, as far as it was heard."""
        reading = json.loads(self.retained.get(topics_of(meter)[0], b"{}"))
        power_kw: float | None = reading.get("currentPower")
        return power_kw

    def put(self, topic: str, payload: bytes) -> None:
        """Have a message retained."""
        self._client.publish(topic, payload, qos=1, retain=True).wait_for_publish(5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed = True

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        self.heard.append((message.topic, payload))
        self.retained[message.topic] = payload
        if not payload:
            del self.retained[message.topic]


class Site:
    """A broker, and what connects to it; all ends with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends: list[Callable[[], None]] = []
        self.mosquitto: Mosquitto

    def start(self, **options: Any) -> Mosquitto:
        self.mosquitto = Mosquitto(self._folder, **options).start()
        self._ends.append(self.mosquitto.stop)
        return self.mosquitto

    def reload(self) -> None:
        """Let the broker read its access list again."""
        assert self.mosquitto._process is not None
        self.mosquitto._process.send_signal(signal.SIGHUP)

    def watcher(self, **login: str) -> Watcher:
        watcher = Watcher(self.mosquitto.port, **login)
        self._ends.append(watcher.close)
        return watcher

    def sink(
        self, *, port: int | None = None, discovery: bool = True, start: bool = True, **broker: Any
    ) -> MqttSink:
        config = BrokerConfig(host=HOST, port=port or self.mosquitto.port, **broker)
        settings = MqttUplinkConfig(discovery=discovery)
        sink = MqttSink("mqtt", settings, config, SiteConfig(id="s", name="Site"), Clock())
        if start:
            sink.start()
            self._ends.append(lambda: sink.stop(5))
        return sink

    def close(self) -> None:
        for end in reversed(self._ends):
            end()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(uplink, "FIRST_REOPEN_S", 0.05)
    monkeypatch.setattr(uplink, "LAST_REOPEN_S", 0.2)
    site = Site(tmp_path)
    yield site
    site.close()


def settled(sink: MqttSink) -> bool:
    return sink.state.connected and sink.state.sent > 0 and not sink.state.backlog


def test_all_is_retained_for_who_comes_later(site: Site) -> None:
    site.start()
    sink = site.sink()
    snapshot = a_snapshot(online(METER), MeterState(OTHER))
    sink.publish(snapshot)
    wait_until(lambda: settled(sink))
    late = site.watcher()
    wanted = {**dict(a_board().look(snapshot)), "dlm/s/status": b"online"}
    wait_until(lambda: late.retained == wanted, what="all that is true now")
    assert (sink.state.last_error, sink.state.rejected) == (None, 0)
    assert sink.state.sent == len(wanted)


def test_a_new_reading_reaches_who_listens_at_once(site: Site) -> None:
    site.start()
    watcher = site.watcher()
    sink = site.sink()
    sink.publish(a_snapshot(online(METER, 1.0)))
    wait_until(lambda: settled(sink) and READING in watcher.retained)
    began_s = time.monotonic()
    sink.publish(a_snapshot(online(METER, 2.0)))
    wait_until(lambda: watcher.power_kw() == 2.0)
    assert time.monotonic() - began_s < 1


def test_online_is_said_when_nothing_old_is_left(site: Site) -> None:
    site.start()
    watcher = site.watcher()
    watcher.put(READING, b'{"quality":"good"}')
    watcher.put(STATUS, b"online")
    sink = site.sink()
    sink.publish(a_snapshot(*(MeterState(a_meter(f"m{n}")) for n in range(30)), MeterState(METER)))
    wait_until(lambda: settled(sink))
    wait_until(lambda: ("dlm/s/status", b"online") in watcher.heard)
    said = watcher.heard.index(("dlm/s/status", b"online"))
    assert watcher.json(READING)["quality"] == "none"
    assert (STATUS, b"pending") in watcher.heard[:said]
    assert [topic for topic, _ in watcher.heard[said + 1 :] if topic.endswith("/reading")] == []


def test_nothing_is_said_before_the_first_snapshot(site: Site) -> None:
    site.start()
    watcher = site.watcher()
    watcher.put(STATUS, b"online")
    sink = site.sink()
    wait_until(lambda: sink.state.connected)
    assert watcher.retained == {STATUS: b"online"}
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: settled(sink))
    assert watcher.retained[STATUS] == b"online"


def test_a_stop_says_offline(site: Site) -> None:
    site.start()
    sink = site.sink()
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: settled(sink))
    sink.stop(5)
    watcher = site.watcher()
    wait_until(lambda: watcher.retained.get("dlm/s/status") == b"offline")
    assert not sink.state.connected


def test_a_removed_meter_leaves_nothing(site: Site) -> None:
    site.start()
    watcher = site.watcher()
    sink = site.sink()
    sink.publish(a_snapshot(online(METER), online(OTHER)))
    wait_until(lambda: settled(sink) and DISCOVERY in watcher.retained)
    sink.publish(a_snapshot(online(OTHER)))
    wait_until(lambda: not watcher.retained.keys() & set(topics_of(METER)))
    assert set(topics_of(OTHER)) <= watcher.retained.keys()


def test_a_meter_that_was_removed_while_nobody_could_say_so_leaves_nothing(site: Site) -> None:
    site.start()
    watcher = site.watcher()
    watcher.put("dlm/other/meters/meter_x/status", b"online")
    for topic in topics_of(METER):
        watcher.put(topic, b"online")
    sink = site.sink()
    sink.publish(a_snapshot(online(OTHER)))
    wait_until(lambda: not watcher.retained.keys() & set(topics_of(METER)))
    assert set(topics_of(OTHER)) <= watcher.retained.keys()
    assert "dlm/other/meters/meter_x/status" in watcher.retained


def test_a_broker_that_restarts_and_forgot_all_is_told_all(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "SETTLED_S", 0.3)
    caplog.set_level(logging.INFO, "Uplink")
    mosquitto = site.start()
    sink = site.sink()
    snapshot = a_snapshot(online(METER), online(OTHER))
    sink.publish(snapshot)
    wait_until(lambda: settled(sink))
    mosquitto.stop()
    wait_until(lambda: sink.state.last_error is not None)
    assert not sink.state.connected
    now = a_snapshot(online(METER, 77.0))
    sink.publish(now)
    mosquitto.start()
    watcher = site.watcher()
    wanted = {**dict(a_board().look(now)), "dlm/s/status": b"online"}
    wait_until(lambda: watcher.retained == wanted, what="all that is true now")
    wait_until(lambda: sink.state.last_error is None)
    said = [record.getMessage() for record in caplog.records]
    assert said[-1] == "Uplink mqtt: the broker takes everything again."
    assert len(said) <= 3  # lost, nobody listens, works again; not each attempt


def test_faults_that_take_turns_are_said_once_each(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def counted(*arguments: Any, **options: Any) -> Any:
        attempts.append(arguments)
        if len(attempts) % 2 == 0:
            raise LineError(UNKNOWN)
        return open_connection(*arguments, **options)

    monkeypatch.setattr(uplink, "FIRST_REOPEN_S", 0.01)
    monkeypatch.setattr(uplink, "LAST_REOPEN_S", 0.01)
    monkeypatch.setattr(uplink, "open_connection", counted)
    port = free_port()
    sink = site.sink(port=port)
    wait_until(lambda: len(attempts) > 6)
    assert sink.state.last_error is not None
    assert [record.getMessage() for record in caplog.records] == [
        f"Uplink mqtt: Nothing listens at {HOST}:{port}; check that the broker runs, and its port.",
        f"Uplink mqtt: {UNKNOWN}",
    ]


def test_a_broker_that_stands_still_blocks_nobody_and_is_told_the_latest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "STUCK_S", 0.5)
    monkeypatch.setattr(uplink, "CONNECT_TIMEOUT_S", 0.5)
    mosquitto = site.start()
    sink = site.sink()
    meters = [a_meter(f"m{number}") for number in range(40)]
    sink.publish(a_snapshot(*map(online, meters)))
    wait_until(lambda: settled(sink))
    topics = sink.state.sent
    mosquitto.freeze()
    errors: set[str | None] = set()
    deadline_s = time.monotonic() + 10
    rounds = 0
    while not any(error and "confirms nothing" in error for error in errors):
        began_s = time.monotonic()
        assert began_s < deadline_s, errors
        rounds += 1
        sink.publish(a_snapshot(*(online(meter, float(rounds)) for meter in meters)))
        assert time.monotonic() - began_s < 0.2
        assert sink.state.backlog <= topics
        errors.add(sink.state.last_error)
        time.sleep(0.02)
    sink.publish(a_snapshot(*(online(meter, -1.0) for meter in meters)))
    mosquitto.thaw()
    watcher = site.watcher()

    def all_told() -> bool:
        return all(watcher.power_kw(meter) == -1.0 for meter in meters)

    wait_until(all_told, timeout_s=15)
    wait_until(lambda: watcher.retained["dlm/s/status"] == b"online")
    wait_until(lambda: settled(sink))


def test_a_broker_that_was_slow_is_told_the_latest_and_not_what_it_missed(site: Site) -> None:
    mosquitto = site.start()
    watcher = site.watcher()
    sink = site.sink()
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: settled(sink) and watcher.power_kw() == 10.0)
    watcher.heard.clear()
    mosquitto.freeze()
    for power_kw in range(1, 7):
        sink.publish(a_snapshot(online(METER, float(power_kw))))
        time.sleep(0.15)
    mosquitto.thaw()
    wait_until(lambda: watcher.power_kw() == 6.0)
    assert [topic for topic, _ in watcher.heard].count(READING) == 2  # the first was on its way


def test_a_stop_does_not_wait_for_a_broker_that_stands_still(site: Site) -> None:
    mosquitto = site.start()
    sink = site.sink()
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: settled(sink))
    mosquitto.freeze()
    began_s = time.monotonic()
    sink.stop(0.5)
    assert time.monotonic() - began_s < 1.5
    mosquitto.thaw()
    watcher = site.watcher()
    wait_until(lambda: watcher.retained.get("dlm/s/status") == b"offline")


def acl(folder: Path, *lines: str) -> tuple[str, ...]:
    path = folder / "acl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o700)
    return (f"acl_file {path}",)


USERS = {"s": "secret", "watcher": "secret"}
WATCHER = ("user watcher", "topic readwrite #", "user s")


def _is_told(watcher: Watcher, power_kw: float) -> bool:
    return watcher.power_kw() == power_kw


def test_topics_that_are_not_allowed_are_said_once_and_stop_nothing_else(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.start(users=USERS, options=acl(tmp_path, *WATCHER, "topic readwrite dlm/s/#"))
    watcher = site.watcher(username="watcher", password="secret")
    sink = site.sink(username="s", password="secret")
    for power_kw in (1.0, 2.0, 3.0):
        sink.publish(a_snapshot(online(METER, power_kw), online(a_meter())))
        wait_until(partial(_is_told, watcher, power_kw))
    wait_until(lambda: sink.state.backlog == 0)
    assert [record.getMessage() for record in caplog.records] == [
        "Uplink mqtt: The broker does not take what is published on "
        "homeassistant/device/s/dlm_service/config (not authorized); allow this user to write "
        "there in the broker's access list."
    ]
    assert sink.state.connected
    assert sink.state.last_error is not None
    assert sink.state.rejected >= 3
    assert not [topic for topic in watcher.retained if not topic.startswith("dlm/s/")]


def test_what_was_refused_is_tried_again_until_it_is_allowed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uplink, "RETRY_REFUSED_S", 0.3)
    monkeypatch.setattr(uplink, "SETTLED_S", 0.3)
    caplog.set_level(logging.INFO, "Uplink")
    options = acl(tmp_path, *WATCHER, "topic readwrite dlm/s/#")
    site.start(users=USERS, options=options)
    sink = site.sink(username="s", password="secret")
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: sink.state.rejected >= 6)  # three rounds
    acl(tmp_path, *WATCHER, "topic readwrite dlm/s/#", "topic write homeassistant/#")
    site.reload()
    wait_until(lambda: sink.state.last_error is None)
    watcher = site.watcher(username="watcher", password="secret")
    wait_until(lambda: DISCOVERY in watcher.retained)
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.INFO]


def test_a_broker_that_knows_only_the_older_protocol_is_told_too(site: Site) -> None:
    site.start()
    watcher = site.watcher()
    with OldBroker(site.mosquitto) as old:
        sink = site.sink(port=old.port)
        sink.publish(a_snapshot(online(METER)))
        wait_until(lambda: watcher.retained.get("dlm/s/status") == b"online")
        assert old.versions == [5, 4]
        assert watcher.power_kw() == 10.0
        sink.stop(5)
    wait_until(lambda: watcher.retained["dlm/s/status"] == b"offline")


SERVICE = """
import sys, threading
from edge.clock import Clock
from edge.settings import BrokerConfig, MqttUplinkConfig, SiteConfig
from edge.sinks.mqtt import MqttSink
from tests.test_sink_mqtt import METER, a_snapshot, online
broker = BrokerConfig(host="127.0.0.1", port=int(sys.argv[1]))
sink = MqttSink("mqtt", MqttUplinkConfig(), broker, SiteConfig(id="s"), Clock())
sink.publish(a_snapshot(online(METER)))
sink.start()
threading.Event().wait()
"""


@pytest.fixture
def service(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """Another process with an uplink of the same site; it has said `online`."""
    site.start()
    watcher = site.watcher()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(site.mosquitto.port)],
        cwd=Path(__file__).resolve().parent.parent,
    )
    wait_until(
        lambda: watcher.retained.get("dlm/s/status") == b"online", timeout_s=20, what="the service"
    )
    yield process
    process.kill()
    process.wait()


def test_of_a_service_that_is_killed_the_broker_says_offline(
    site: Site, service: subprocess.Popen[bytes]
) -> None:
    watcher = site.watcher()
    service.kill()
    wait_until(lambda: watcher.retained.get("dlm/s/status") == b"offline")


def test_the_will_of_a_connection_that_died_in_silence_never_comes_after_online(
    site: Site, service: subprocess.Popen[bytes]
) -> None:
    freeze(service)
    watcher = site.watcher()
    sink = site.sink()
    sink.publish(a_snapshot(online(METER, 5.0)))
    wait_until(lambda: settled(sink))
    service.kill()
    service.wait()
    sink.publish(a_snapshot(online(METER, 6.0)))
    wait_until(lambda: watcher.power_kw() == 6.0)
    time.sleep(0.3)  # a late will would come as soon as the broker sees the dead connection
    assert watcher.retained["dlm/s/status"] == b"online"


def test_two_controllers_with_one_site_id_are_told_to_part(
    site: Site, service: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    sink = site.sink()
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: "no other has the client id dlm/s/mqtt" in (sink.state.last_error or ""))
    assert len(caplog.records) == 1


def test_the_listener_on_the_same_broker_is_not_thrown_out(site: Site) -> None:
    site.start()
    broker = BrokerConfig(host=HOST, port=site.mosquitto.port, client_id="edge")
    heard: list[str] = []
    listener = open_connection(
        broker, Clock(), lambda topic, *_: heard.append(topic), 5, client_id=broker.client_id
    )
    try:
        listener.subscribe({READING: 0})
        sink = site.sink(client_id="edge")
        sink.publish(a_snapshot(online(METER)))

        def reading_heard() -> bool:
            listener.receive(0.1)
            return READING in heard

        wait_until(reading_heard)
    finally:
        listener.close()


# --- A fleet -------------------------------------------------------------------------------------

FLEET = Path(__file__).resolve().parent.parent / "config" / "fleet"


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[BrokerConfig]:
    """The example broker, running; gives what a controller needs to reach it but for its user."""
    certificates = make_certificates(tmp_path)
    port = free_port()
    text = (FLEET / "mosquitto.conf").read_text(encoding="utf-8")
    for example, ours in {
        "listener 8883": f"listener {port} {HOST}",
        "/etc/mosquitto/fleet-ca.pem": certificates.ca_file,
        "/etc/mosquitto/fleet.pem": certificates.server_cert,
        "/etc/mosquitto/fleet.key": certificates.server_key,
        "password_file /etc/mosquitto/passwords": f"password_file {tmp_path / 'passwords'}",
        "/etc/mosquitto/fleet.acl": str(tmp_path / "fleet.acl"),
        "/var/lib/mosquitto/": f"{tmp_path}/",
    }.items():
        assert text.count(example) == 1, example
        text = text.replace(example, ours)
    shutil.copy(FLEET / "mosquitto.acl", tmp_path / "fleet.acl")
    (tmp_path / "passwords").touch()
    for user in ("site-a", "site-b", "home-assistant"):
        passwd = need_program("mosquitto_passwd", "mosquitto")
        subprocess.run([passwd, "-b", str(tmp_path / "passwords"), user, "secret"], check=True)
    if os.getuid() == 0:
        text += "user root\n"
    (tmp_path / "mosquitto.conf").write_text(text, encoding="utf-8")
    process = subprocess.Popen(
        [need_program("mosquitto", "mosquitto"), "-c", str(tmp_path / "mosquitto.conf")],
        stderr=subprocess.DEVNULL,
    )
    wait_until(partial(_listens, port), what="the fleet's broker")
    yield BrokerConfig(
        host=HOST, port=port, tls=True, ca_file=certificates.ca_file, password="secret"
    )
    process.terminate()
    process.wait()


def test_the_example_of_a_controller_is_valid() -> None:
    config = load_config(FLEET / "edge.toml", {"DLM_EDGE_SITE_ID": "site-b"}, {})
    assert config.site.id == "site-b"
    assert config.mqtt.brokers["central"].username == "site-a"
    assert config.sinks.keys() == {"influx", "mqtt"}


def test_in_the_example_fleet_no_site_can_speak_for_another(fleet: BrokerConfig) -> None:
    heard: dict[str, bytes] = {}
    watcher = open_connection(
        evolve(fleet, username="home-assistant"),
        Clock(),
        lambda topic, payload, _: heard.update({topic: payload}),
        5,
    )
    watcher.subscribe({"#": 1})
    sinks = []
    for user, site_id in (("site-a", "site-a"), ("site-b", "site-b")):
        broker = evolve(fleet, username=user)
        sinks.append(MqttSink("mqtt", MqttUplinkConfig(), broker, SiteConfig(id=site_id), Clock()))
    try:
        for sink in sinks:
            sink.publish(a_snapshot(online(METER)))
            sink.start()
        wait_until(lambda: all(map(settled, sinks)))
        assert [sink.state.rejected for sink in sinks] == [0, 0]

        def all_heard() -> bool:
            watcher.receive(0.1)
            return len(heard) >= 2 * 6

        wait_until(all_heard)
        for site_id in ("site-a", "site-b"):
            assert json.loads(heard[f"dlm/{site_id}/load"])["site"] == site_id
            assert heard[f"dlm/{site_id}/status"] == b"online"
            assert f"homeassistant/device/{site_id}/dlm_{METER.id}/config" in heard
        intruder = MqttSink(
            "other",
            MqttUplinkConfig(),
            evolve(fleet, username="site-b"),
            SiteConfig(id="site-a"),
            Clock(),
        )
        sinks.append(intruder)
        intruder.publish(a_snapshot())
        intruder.start()
        wait_until(lambda: intruder.state.last_error is not None or intruder.state.rejected)
        assert intruder.state.sent == 0
        watcher.receive(0.1)
        assert heard[f"dlm/site-a/meters/{METER.id}/status"] == b"online"
    finally:
        for sink in sinks:
            sink.stop(5)
        watcher.close()


# --- Among others on the broker ------------------------------------------------------------------


def test_what_is_no_id_of_ours_is_left_alone(site: Site) -> None:
    site.start()
    watcher = site.watcher()
    foreign = [f"dlm/s/meters/{name}/status" for name in ("x" * 65_400, "x", "meter_" + "y" * 99)]
    removed = "dlm/s/meters/meter_0a1b/status"
    for topic in (*foreign, removed):
        watcher.put(topic, b"online")
    sink = site.sink()
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: settled(sink) and removed not in watcher.retained, what="the clearing")
    assert watcher.retained.keys() >= set(foreign)
    assert sink.state.last_error is None


def test_only_so_many_are_cleared_at_a_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "MOST_CLEARED", 3)
    site.start()
    watcher = site.watcher()
    topics = {f"dlm/s/meters/meter_{number}/status" for number in range(5)}
    for topic in topics:
        watcher.put(topic, b"online")

    def left() -> int:
        return len(topics & watcher.retained.keys())

    sink = site.sink()
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: settled(sink) and left() == 2, what="the first three")
    sink.stop(5)
    assert left() == 2
    sink = site.sink()
    sink.publish(a_snapshot(online(METER)))
    wait_until(lambda: left() == 0, what="the others")
