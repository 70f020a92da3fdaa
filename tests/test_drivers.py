"""The contract that all drivers keep, tried with each of them over a real peer.

To add a protocol: a class that brings its peer, and a row in PEERS.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge.app import App
from edge.clock import Clock
from edge.communication import MqttEndpoint
from edge.drivers import DRIVERS, Driver, DriverClass, Listener, load_driver, make_driver
from edge.errors import Cause, LineError, MeterError, NoReply
from edge.line import ListenLine
from edge.meterspec import PROTOCOLS
from edge.model import Meter, Outcome
from edge.settings import BrokerConfig, Config, MqttConfig, SiteConfig
from edge.template import PROTOCOL_NAMES
from tests.brokers import Mosquitto
from tests.building import a_meter, a_speaking_meter
from tests.http_peer import HttpPeer
from tests.peers import LibmodbusServer, free_port, wait_until

AnyLine: TypeAlias = Driver | Listener

OPEN_WITHIN_S = 2.0
TIMEOUT_S = 0.3
LATE_S = 0.5
"""How much later than its time-out a call may return."""
POWER_KW = 25.0
UNKNOWN_HOST = "no-such-host.invalid"


class Cable:
    """A port that leads to a peer's, and that can be pulled out or made to garble the answers.

    tamper: makes what arrives of what the peer sends.
    """

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self.tamper: Callable[[bytes], bytes] = _as_it_is
        self._to_port = to_port
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def plug(self) -> None:
        """Take connections from now on."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self._sockets.append(listener)
        self._spawn(self._accept, listener)

    def unplug(self) -> None:
        """End all connections, and refuse others; returns when that is done."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            if sock is self._sockets[0]:
                self._threads[0].join()  # it may still have been taking a connection
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
        self._sockets, self._threads = [], []

    def _spawn(self, target: Callable[..., None], *arguments: Any, **options: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, kwargs=options, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                self._sockets.append(near)
                far = socket.create_connection(("127.0.0.1", self._to_port))
                self._sockets.append(far)
                self._spawn(self._pass_on, near, far)
                self._spawn(self._pass_on, far, near, tampers=True)

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, *, tampers: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(self.tamper(data) if tampers else data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _as_it_is(data: bytes) -> bytes:
    return data


# --- A peer for each protocol --------------------------------------------------------------------


class Peer:
    """A meter of one protocol that says POWER_KW, at the other end of a cable."""

    protocol: str
    cable: Cable

    def communication(self, host: str, port: int) -> dict[str, Any]:
        """What registers the meter as one on this host."""
        return {"host": host, "port": port}

    def meter(self, host: str = "127.0.0.1", port: int | None = None) -> Meter:
        polled = PROTOCOLS[self.protocol].poll_interval_ms is not None
        return a_meter(
            protocol=self.protocol,
            pollInterval=1000 if polled else None,
            communication=self.communication(host, port or self.cable.port),
        )

    def line(self, meter: Meter, host: str = "127.0.0.1", port: int | None = None) -> AnyLine:
        return make_driver(meter, Clock(), Config())

    def attempt(self, line: AnyLine, meter: Meter) -> Outcome:
        """Open the line if need be and ask the meter once. Raises LineError."""
        if not line.connected:
            line.open(OPEN_WITHIN_S)
        driver: Driver = line  # type: ignore[assignment]
        return driver.poll(meter, trial=True)

    def keep_none(self, line: AnyLine) -> None:
        """Tell the line that there is no meter any more."""
        driver: Driver = line  # type: ignore[assignment]
        driver.forget(())

    def garble(self) -> None:
        """Let nothing come from now on that a meter would say."""
        self.cable.tamper = lambda data: b"\xff" * len(data) + b"\r\n"

    def mend(self) -> None:
        """Let the meter's answers arrive as they are."""
        self.cable.tamper = _as_it_is


class ModbusPeer(Peer):
    """Debian's libmodbus."""

    protocol = "modbus"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        words = {address: round(POWER_KW) for address in range(20)}
        self.cable = Cable(stack.enter_context(LibmodbusServer(words)).port)

    def communication(self, host: str, port: int) -> dict[str, Any]:
        timeout_ms = round(TIMEOUT_S * 1000)
        return {"host": host, "port": port, "timeout": timeout_ms, "registers": {"power": 9}}


class HttpServerPeer(Peer):
    """Python's own HTTP server."""

    protocol = "http"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        server = HttpPeer(lambda exchange: exchange.give({"power_kw": POWER_KW}))
        self.cable = Cable(stack.enter_context(server).port)

    def communication(self, host: str, port: int) -> dict[str, Any]:
        return {"url": f"http://{host}:{port}/energy", "timeout": round(TIMEOUT_S * 1000)}


class MqttPeer(Peer):
    """A mosquitto, and a client that publishes over and over."""

    protocol = "mqtt"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        broker = stack.enter_context(Mosquitto(folder))
        self.cable = Cable(broker.port)
        self._payload = str(POWER_KW)
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        stack.callback(self._client.loop_stop)
        stack.callback(self._client.disconnect)
        self._stopped = threading.Event()
        thread = threading.Thread(target=self._speak)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self._stopped.set)

    def _speak(self) -> None:
        while not self._stopped.wait(0.05):
            self._client.publish("building/power", self._payload)

    def communication(self, host: str, port: int) -> dict[str, Any]:
        return {"topicPower": "building/power"}

    def line(self, meter: Meter, host: str = "127.0.0.1", port: int | None = None) -> AnyLine:
        broker = BrokerConfig(host=host, port=port or self.cable.port)
        return make_driver(meter, Clock(), Config(mqtt=MqttConfig({"default": broker})))

    def attempt(self, line: AnyLine, meter: Meter) -> Outcome:
        """Hear the meter until it has news, or for its time-out."""
        listener: Listener = line  # type: ignore[assignment]
        listener.follow([meter])
        if not listener.connected:
            listener.open(TIMEOUT_S)
        stop_s = time.monotonic() + TIMEOUT_S
        while (left_s := stop_s - time.monotonic()) > 0:
            news = dict(listener.listen(left_s))
            if meter in news:
                return news[meter]
        return Outcome(error=NoReply("The meter said nothing."))

    def keep_none(self, line: AnyLine) -> None:
        listener: Listener = line  # type: ignore[assignment]
        listener.follow(())

    def garble(self) -> None:
        """Publish what is no number; bytes that are no MQTT would be the broker's fault."""
        self._payload = "\x00\ufffdgarbage"

    def mend(self) -> None:
        super().mend()
        self._payload = str(POWER_KW)


PEERS: dict[str, type[Any]] = {"modbus": ModbusPeer, "http": HttpServerPeer, "mqtt": MqttPeer}


@pytest.fixture(params=list(PEERS))
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    with ExitStack() as stack:
        peer: Peer = PEERS[request.param](stack, tmp_path)
        peer.cable.plug()
        stack.callback(peer.cable.unplug)
        yield peer


@pytest.fixture
def meter(peer: Peer) -> Meter:
    return peer.meter()


@pytest.fixture
def line(peer: Peer, meter: Meter) -> Iterator[AnyLine]:
    line = peer.line(meter)
    yield line
    line.close()


def says_power(peer: Peer, line: AnyLine, meter: Meter) -> bool:
    """Whether an attempt brings the meter's power, and nothing to complain of."""
    outcome = peer.attempt(line, meter)
    return outcome.error is None and outcome.values == {"power": POWER_KW}


def failure(peer: Peer, line: AnyLine, meter: Meter) -> LineError | MeterError | None:
    """What is wrong with an attempt."""
    try:
        return peer.attempt(line, meter).error
    except LineError as exc:
        return exc


def first_failure(peer: Peer, line: AnyLine, meter: Meter) -> tuple[LineError | MeterError, float]:
    """What is wrong with the first attempt that fails, and how long that took, s.

    Of a meter that speaks, what it said before may still be under way.
    """
    for _ in range(20):
        started_s = time.monotonic()
        failed = failure(peer, line, meter)
        if failed is not None:
            return failed, time.monotonic() - started_s
    raise AssertionError("the meter is still heard")


# --- The tables ----------------------------------------------------------------------------------


def test_every_protocol_has_keys_a_driver_and_a_peer_here() -> None:
    assert set(PROTOCOLS) == set(DRIVERS) == set(PEERS) == set(PROTOCOL_NAMES)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_meters_without_a_poll_interval_are_heard_and_the_others_asked(protocol: str) -> None:
    is_heard = PROTOCOLS[protocol].poll_interval_ms is None
    assert hasattr(load_driver(protocol), "listen") is is_heard
    assert hasattr(load_driver(protocol), "poll") is not is_heard


class Speaker:
    """A listener of a protocol that is not there yet."""

    def __init__(self, endpoint: MqttEndpoint, clock: Clock, site: str) -> None:
        self.made_of = endpoint, site


def test_a_listener_of_another_protocol_is_made_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = DriverClass(
        f"{__name__}:Speaker", lambda config, endpoint: (f"{endpoint.broker}@{config.site.id}",)
    )
    monkeypatch.setitem(DRIVERS, "speech", row)
    meter = replace(a_speaking_meter(), protocol="speech")
    config = Config(site=SiteConfig(id="north"))
    made: Any = make_driver(meter, Clock(), config)
    assert isinstance(made, Speaker)
    assert made.made_of == (MqttEndpoint("default"), "default@north")
    assert isinstance(App(config, lambda: config)._make_line(meter), ListenLine)
    assert all(kind.protocol == protocol for protocol, kind in PEERS.items())


def test_a_line_is_made_without_being_opened(peer: Peer, line: AnyLine) -> None:
    peer.cable.unplug()
    assert (line.connected, line.opened) == (False, 0)


# --- Opening and closing -------------------------------------------------------------------------


def test_opening_what_is_open_is_harmless_and_not_counted(line: AnyLine) -> None:
    line.open(OPEN_WITHIN_S)
    line.open(OPEN_WITHIN_S)
    assert (line.connected, line.opened) == (True, 1)
    line.close()
    line.open(OPEN_WITHIN_S)
    assert (line.connected, line.opened) == (True, 2)


def test_closing_twice_is_harmless(line: AnyLine) -> None:
    line.close()
    line.open(OPEN_WITHIN_S)
    line.close()
    line.close()
    assert (line.connected, line.opened) == (False, 1)


def test_a_port_that_refuses_is_told_apart(peer: Peer, line: AnyLine) -> None:
    peer.cable.unplug()
    with pytest.raises(LineError) as refused:
        line.open(OPEN_WITHIN_S)
    assert refused.value.cause is Cause.CONNECTION_REFUSED
    assert (line.connected, line.opened) == (False, 0)


def test_a_name_that_nobody_has_is_told_apart(peer: Peer) -> None:
    line = peer.line(peer.meter(UNKNOWN_HOST, 1502), UNKNOWN_HOST, 1502)
    with pytest.raises(LineError) as unknown:
        line.open(OPEN_WITHIN_S)
    assert unknown.value.cause is Cause.NAME_NOT_RESOLVED
    assert UNKNOWN_HOST in str(unknown.value)
    assert (line.connected, line.opened) == (False, 0)


# --- Reading -------------------------------------------------------------------------------------


def test_a_meter_is_read_live_with_its_moment(peer: Peer, line: AnyLine, meter: Meter) -> None:
    clock = Clock()
    mono_s, unix_ms = clock.mono_s(), clock.unix_ms()
    outcome = peer.attempt(line, meter)
    assert (outcome.values, outcome.error) == ({"power": POWER_KW}, None)
    assert (outcome.live, outcome.said_offline) == (True, False)
    assert mono_s <= outcome.mono_s <= clock.mono_s()
    assert unix_ms - 1 <= outcome.unix_ms <= clock.unix_ms() + 1


def test_letting_all_meters_go_is_harmless(peer: Peer, line: AnyLine, meter: Meter) -> None:
    peer.keep_none(line)
    assert says_power(peer, line, meter)
    peer.keep_none(line)
    assert line.connected
    assert says_power(peer, line, meter)
    assert line.opened == 1


def test_a_peer_that_is_gone_is_told_and_read_again_when_it_is_back(
    peer: Peer, line: AnyLine, meter: Meter
) -> None:
    assert says_power(peer, line, meter)
    peer.cable.unplug()
    lost, _ = first_failure(peer, line, meter)
    assert isinstance(lost, (LineError, NoReply))
    assert not line.connected
    refused = failure(peer, line, meter)
    assert isinstance(refused, LineError)
    assert refused.cause is Cause.CONNECTION_REFUSED
    peer.cable.plug()
    assert says_power(peer, line, meter)
    assert (line.connected, line.opened) == (True, 2)


def test_garbage_is_an_error_of_the_meter_and_the_next_good_answer_is_read(
    peer: Peer, line: AnyLine, meter: Meter
) -> None:
    peer.garble()
    wait_until(lambda: peer.attempt(line, meter).error, what="the garbage")
    outcome = peer.attempt(line, meter)
    assert isinstance(outcome.error, MeterError)
    assert outcome.values == {}
    peer.mend()
    wait_until(lambda: says_power(peer, line, meter), what="a good answer")


@pytest.mark.parametrize("is_open", [False, True])
def test_silence_ends_in_time(peer: Peer, line: AnyLine, meter: Meter, is_open: bool) -> None:
    if is_open:
        assert says_power(peer, line, meter)
    peer.cable.tamper = lambda data: b""
    failed, took_s = first_failure(peer, line, meter)
    assert TIMEOUT_S - 0.05 <= took_s <= TIMEOUT_S + LATE_S
    assert isinstance(failed, (LineError, NoReply))
    peer.mend()
    wait_until(lambda: failure(peer, line, meter) is None, what="a good answer")


# --- Probing -------------------------------------------------------------------------------------


def test_a_probe_of_a_good_meter_finds_nothing_wrong(
    peer: Peer, line: AnyLine, meter: Meter
) -> None:
    probe = line.probe(meter)
    assert probe.findings == ()
    assert probe.outcome is not None
    assert (probe.outcome.values, probe.outcome.error) == ({"power": POWER_KW}, None)
    assert probe.exchanges
    assert all(exchange.asked for exchange in probe.exchanges)
    assert any(exchange.raw is not None for exchange in probe.exchanges)


def test_a_probe_of_what_is_gone_says_so_and_never_raises(
    peer: Peer, line: AnyLine, meter: Meter
) -> None:
    peer.cable.unplug()
    probe = line.probe(meter)
    assert probe.outcome is None or not probe.outcome.values
    assert [finding.cause for finding in probe.findings] == [Cause.CONNECTION_REFUSED]
    (exchange,) = probe.exchanges
    assert (exchange.raw, exchange.error) == (None, probe.findings[0].message)
    peer.cable.plug()
    assert says_power(peer, line, meter)


def test_a_probe_of_garbage_says_so_and_never_raises(
    peer: Peer, line: AnyLine, meter: Meter
) -> None:
    peer.garble()
    probe = line.probe(meter)
    assert Cause.UNREADABLE in [finding.cause for finding in probe.findings]
    assert probe.outcome is None or not probe.outcome.values


def test_a_line_reads_on_after_a_probe(peer: Peer, line: AnyLine, meter: Meter) -> None:
    assert says_power(peer, line, meter)
    line.probe(meter)
    assert says_power(peer, line, meter)
