"""The contracts that all sinks keep, each kind of them tried before real servers.

To add a kind: a class that brings its server, and a row in JOURNAL_PEERS or LIVE_PEERS.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.clock import Clock
from edge.errors import SinkRetry
from edge.model import Snapshot
from edge.record import Resolution
from edge.settings import (
    BrokerConfig,
    Config,
    InfluxConfig,
    JournalConfig,
    MqttConfig,
    MqttUplinkConfig,
    SinkConfig,
    SiteConfig,
)
from edge.sinks import SINKS, JournalSink, LiveSink, is_live, make_journal_sink, make_live_sink
from edge.sinks import mqtt as uplink
from edge.sinks.influx import InfluxSink
from tests.brokers import Mosquitto
from tests.building import FakeClock
from tests.influx import Influxd, VictoriaMetrics
from tests.journals import START_MS
from tests.peers import wait_until
from tests.test_sink_mqtt import METER, READING, Watcher, a_snapshot, online

TIMEOUT_S = 1.0
LATE_S = 1.0
"""How much later than its time-out a call may return, on a machine that is busy."""
OUTDATED_KW = 1.0


# --- A server for each kind of journal sink ------------------------------------------------------


class JournalPeer(ABC):
    """A server, running. refuses_aloud: it says which points it does not take."""

    kind: str
    refuses_aloud: bool
    server: Influxd | VictoriaMetrics

    @abstractmethod
    def section(self) -> SinkConfig:
        """The settings of a sink that sends to it."""

    @abstractmethod
    def held(self, resolution: Resolution = Resolution.RAW) -> list[tuple[int, float]]:
        """All that the server holds, by time: unix ms, power."""


class InfluxdPeer(JournalPeer):
    """Debian's influxd 1.6."""

    kind = "influx"
    refuses_aloud = True

    def __init__(self, folder: Path) -> None:
        self.server: Influxd = Influxd(folder)

    def section(self) -> SinkConfig:
        return InfluxConfig(url=self.server.url, database="sites", timeout_s=TIMEOUT_S)

    def held(self, resolution: Resolution = Resolution.RAW) -> list[tuple[int, float]]:
        database = "sites" if resolution is Resolution.RAW else f"sites_{resolution.value}"
        return [(row["time"], row["power_kw"]) for row in self.server.points(database)]


class VictoriaMetricsPeer(JournalPeer):
    """VictoriaMetrics, which leaves out what it cannot read and says so in its log only."""

    kind = "influx"
    refuses_aloud = False

    def __init__(self, folder: Path) -> None:
        self.server: VictoriaMetrics = VictoriaMetrics(folder)

    def section(self) -> SinkConfig:
        return InfluxConfig(url=self.server.url, token="any", timeout_s=TIMEOUT_S)

    def held(self, resolution: Resolution = Resolution.RAW) -> list[tuple[int, float]]:
        wanted = None if resolution is Resolution.RAW else resolution.value
        return sorted(
            (unix_ms, value)
            for labels, unix_ms, value in self.server.points("meter_reading_power_kw")
            if labels.get("resolution") == wanted
        )


JOURNAL_PEERS: list[type[InfluxdPeer | VictoriaMetricsPeer]] = [InfluxdPeer, VictoriaMetricsPeer]


@pytest.fixture(params=JOURNAL_PEERS, ids=lambda peer: peer.__name__)
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JournalPeer]:
    peer: JournalPeer = request.param(tmp_path)
    with peer.server:
        yield peer


@pytest.fixture
def sink(peer: JournalPeer) -> Iterator[JournalSink]:
    """A sink that has prepared its server."""
    sink = a_sink(peer)
    sink.prepare()
    yield sink
    sink.close()


def a_sink(peer: JournalPeer) -> JournalSink:
    for_ever = JournalConfig(raw_days=36_500, hourly_days=36_500, daily_days=36_500)
    config = Config(sinks={"it": peer.section()}, journal=for_ever)
    return make_journal_sink("it", Clock(), config)


def points(count: int, first: int = 0, resolution: Resolution = Resolution.RAW) -> list[bytes]:
    tag = "" if resolution is Resolution.RAW else f",resolution={resolution.value}"
    return [
        f"meter_reading,meter_id=m{tag} power_kw={power_kw} {unix_ms}".encode()
        for unix_ms, power_kw in what_they_say(count, first)
    ]


def what_they_say(count: int, first: int = 0) -> list[tuple[int, float]]:
    return [(START_MS + 1000 * number, number + 0.5) for number in range(first, first + count)]


# --- The contract of journal sinks ---------------------------------------------------------------


def test_the_server_holds_what_was_sent_when_send_returns(
    peer: JournalPeer, sink: JournalSink
) -> None:
    assert sink.send(points(1000), Resolution.RAW) == []
    assert peer.held() == what_they_say(1000)


def test_each_resolution_has_its_place(peer: JournalPeer, sink: JournalSink) -> None:
    for count, resolution in enumerate(Resolution, start=1):
        assert sink.send(points(count, 0, resolution), resolution) == []
    for count, resolution in enumerate(Resolution, start=1):
        assert peer.held(resolution) == what_they_say(count)


def test_what_is_sent_again_after_a_crash_is_there_once(
    peer: JournalPeer, sink: JournalSink
) -> None:
    sink.send(points(100), Resolution.RAW)
    again = a_sink(peer)
    again.prepare()
    assert again.send(points(150), Resolution.RAW) == []
    again.close()
    assert peer.held() == what_they_say(150)


def test_what_the_server_never_takes_holds_nothing_back(
    peer: JournalPeer, sink: JournalSink
) -> None:
    bad = b"garbage"
    batch = [*points(50), bad, *points(50, 50)]
    rejected = sink.send(batch, Resolution.RAW)
    assert peer.held() == what_they_say(100)
    assert [one.point for one in rejected] == ([bad] if peer.refuses_aloud else [])
    assert all(one.reason for one in rejected)


def test_a_server_that_is_away_gets_the_batch_when_it_is_back(
    peer: JournalPeer, sink: JournalSink
) -> None:
    sink.send(points(10), Resolution.RAW)
    peer.server.stop()
    with pytest.raises(SinkRetry):
        sink.send(points(10, 10), Resolution.RAW)
    with pytest.raises(SinkRetry):
        a_sink(peer).prepare()
    peer.server.start()
    assert sink.send(points(10, 10), Resolution.RAW) == []
    assert peer.held() == what_they_say(20)


def test_a_server_that_stands_still_is_left_in_time_and_what_it_took_is_there_once(
    peer: JournalPeer, sink: JournalSink
) -> None:
    sink.send(points(10), Resolution.RAW)
    peer.server.freeze()
    began_s = time.monotonic()
    with pytest.raises(SinkRetry):
        sink.send(points(10, 10), Resolution.RAW)
    assert TIMEOUT_S - 0.1 <= time.monotonic() - began_s <= 2 * TIMEOUT_S + LATE_S
    peer.server.thaw()
    assert sink.send(points(10, 10), Resolution.RAW) == []
    assert peer.held() == what_they_say(20)


def test_a_close_is_harmless_and_so_is_another(peer: JournalPeer, sink: JournalSink) -> None:
    sink.close()
    sink.close()
    assert sink.send(points(5), Resolution.RAW) == []
    assert peer.held() == what_they_say(5)


# --- A server for each kind of live sink ---------------------------------------------------------


class MosquittoPeer:
    """Debian's mosquitto, running, and who watches it. It forgets all when it ends."""

    kind = "mqtt"

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uplink, "FIRST_REOPEN_S", 0.05)
        monkeypatch.setattr(uplink, "LAST_REOPEN_S", 0.2)
        self.broker = Mosquitto(folder).start()
        self._watcher = Watcher(self.broker.port)

    def config(self) -> Config:
        broker = BrokerConfig(host=self.broker.host, port=self.broker.port)
        return Config(
            site=SiteConfig(id="s"),
            mqtt=MqttConfig({"default": broker}),
            sinks={"it": MqttUplinkConfig()},
        )

    def shown_kw(self) -> float | None:
        """The power that who looks now is told."""
        return self._watcher.power_kw()

    def told_kw(self) -> list[float]:
        """All powers that were told since the server came back."""
        heard = [payload for topic, payload in self._watcher.heard if topic == READING]
        return [json.loads(payload)["currentPower"] for payload in heard]

    def go(self) -> None:
        """Let the server be gone."""
        self._watcher.close()
        self.broker.stop()

    def come_back(self) -> None:
        self.broker.start()
        self._watcher = Watcher(self.broker.port)

    def close(self) -> None:
        self.broker.thaw()
        self._watcher.close()
        self.broker.stop()


LIVE_PEERS: list[type[MosquittoPeer]] = [MosquittoPeer]


@pytest.fixture(params=LIVE_PEERS, ids=lambda peer: peer.__name__)
def live_peer(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MosquittoPeer]:
    peer: MosquittoPeer = request.param(tmp_path, monkeypatch)
    yield peer
    peer.close()


@pytest.fixture
def live_sink(live_peer: MosquittoPeer) -> Iterator[LiveSink]:
    """A sink that has shown OUTDATED_KW."""
    sink = make_live_sink("it", Clock(), live_peer.config())
    sink.publish(a_moment(OUTDATED_KW))
    sink.start()
    wait_until(lambda: live_peer.shown_kw() == OUTDATED_KW, what="the first reading")
    wait_until(lambda: sink.state.backlog == 0, what="the server's word on all of it")
    yield sink
    sink.stop(5)


def a_moment(power_kw: float) -> Snapshot:
    return a_snapshot(online(METER, power_kw))


# --- The contract of live sinks ------------------------------------------------------------------


def test_the_latest_is_shown(live_peer: MosquittoPeer, live_sink: LiveSink) -> None:
    for power_kw in (2.0, 3.0, 4.0):
        live_sink.publish(a_moment(power_kw))
    wait_until(lambda: live_peer.shown_kw() == 4.0, what="the latest")
    assert live_sink.state.connected
    assert live_sink.state.last_error is None
    assert live_peer.told_kw() == sorted(live_peer.told_kw()), "never one that is older"


def test_after_an_outage_nothing_old_is_told(live_peer: MosquittoPeer, live_sink: LiveSink) -> None:
    live_peer.go()
    wait_until(lambda: live_sink.state.last_error is not None, what="the outage")
    assert not live_sink.state.connected
    for power_kw in (2.0, 3.0, 4.0):
        live_sink.publish(a_moment(power_kw))
    live_peer.come_back()
    wait_until(lambda: live_peer.shown_kw() == 4.0, what="the latest")
    wait_until(lambda: live_sink.state.connected, what="the connection")
    assert set(live_peer.told_kw()) == {4.0}


def test_a_server_that_stands_still_blocks_nobody_and_costs_no_memory(
    live_peer: MosquittoPeer, live_sink: LiveSink
) -> None:
    messages = live_sink.state.sent
    live_peer.broker.freeze()
    for number in range(200):
        began_s = time.monotonic()
        live_sink.publish(a_moment(number + 2.0))
        assert time.monotonic() - began_s < 0.2
        assert live_sink.state.backlog <= messages
    live_peer.broker.thaw()
    wait_until(lambda: live_peer.shown_kw() == 201.0, what="the latest")


def test_a_stop_ends_in_its_time_though_the_server_stands_still(
    live_peer: MosquittoPeer, live_sink: LiveSink
) -> None:
    live_peer.broker.freeze()
    live_sink.publish(a_moment(2.0))
    began_s = time.monotonic()
    live_sink.stop(0.5)
    assert time.monotonic() - began_s <= 0.5 + LATE_S


def test_a_stop_ends_in_its_time_though_the_server_is_gone(
    live_peer: MosquittoPeer, live_sink: LiveSink
) -> None:
    live_peer.go()
    wait_until(lambda: live_sink.state.last_error is not None, what="the outage")
    began_s = time.monotonic()
    live_sink.stop(0.5)
    assert time.monotonic() - began_s <= 0.5 + LATE_S
    live_peer.come_back()


# --- The table -----------------------------------------------------------------------------------


def test_every_kind_of_sink_has_a_server_here() -> None:
    live = {peer.kind for peer in LIVE_PEERS}
    assert live == {kind for kind, row in SINKS.items() if row.is_live}
    assert {peer.kind for peer in JOURNAL_PEERS} == SINKS.keys() - live


def test_each_kind_of_sink_is_made_by_its_section_whatever_its_name() -> None:
    sections: dict[str, SinkConfig] = {
        "influx": InfluxConfig(url="http://localhost:8086"),
        "mqtt": MqttUplinkConfig(),
    }
    assert sections.keys() == SINKS.keys()
    config = Config(sinks={**sections, "second": InfluxConfig(url="http://localhost:8087")})
    assert [is_live(section) for section in config.sinks.values()] == [False, True, False]
    assert isinstance(make_live_sink("mqtt", FakeClock(), config), uplink.MqttSink)
    for name in ("influx", "second"):
        assert isinstance(make_journal_sink(name, FakeClock(), config), InfluxSink)
