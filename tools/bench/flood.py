"""What a flood of MQTT messages costs, and what it does to Modbus polling beside it.

The service has a core for itself, where there is more than one; all else shares the others. That
Modbus is on time is judged where its requests arrive, and beside it by the service's own ticks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tools.bench.broker import Broker, Publisher, Sent, Stream
from tools.bench.figure import Figure, bucket_quantile, deviations_s, quantile
from tools.bench.floors import MqttFloor, PollingFloor
from tools.bench.peers import Peers
from tools.bench.process import Bench, one_core_and_the_others, wait_for
from tools.bench.service import Registration, Service

_METERS, _MODBUS_METERS = 200, 10
_MODBUS_PERIOD_S = 0.2
"""The shortest, so that a second tells of 50 polls."""
_RATE, _WANTED_RATE = 10_000.0, 8_000.0
_BURST_S = 5.0
_WANTED_LATER_S = 0.01
_WANTED_GROWTH_MB = 5.0
"""For buffers; the messages of the longest stream, were they kept, would take ten times that."""
_SETTLE_S, _ALL_HEARD_WITHIN_S = 3.0, 20.0
_SHOWN_WITHIN_S = 10.0
_LAST_ARRIVE_S = 0.5
"""After the end of a stream, until all of it was counted."""

_PAYLOADS = {
    "Power": ("1.543", "1.561", "1.498"),
    "Energy": ("4120.933", "4120.934", "4120.935"),
    "Voltage": ("231.4", "230.9", "231.2"),
    "Current": ("6.87", "6.91", "6.63"),
    "PowerFactor": ("0.97", "0.98", "0.98"),
    "Frequency": ("50.01", "49.99", "50.02"),
    "VoltageL1": ("231.4", "230.9", "231.2"),
    "CurrentL1": ("6.87", "6.91", "6.63"),
    "PowerL1": ("1.543", "1.561", "1.498"),
    "ReactivePower": ("0.212", "0.209", "0.231"),
}
"""End of the registration's key → payloads on the topic: ten topics a meter, as devices have that
send each value on its own. At the rate here each is sent some times a second."""
_JSON = tuple(
    f'{{"power":{power},"voltage":231.4,"current":6.87,"energy":4120.933,"linkquality":143}}'
    for power in (1.602, 1.587, 1.611)
)


@dataclass(frozen=True)
class _Punctuality:
    """How late Modbus was: p99 of how much an interval is off, s; of the service's ticks tick_s."""

    off_s: float
    floor_off_s: float
    tick_s: float

    @property
    def ours(self) -> str:
        return f"{self.off_s * 1000:.1f} ms (ticks ≤ {self.tick_s * 1000:g} ms)"

    @property
    def floor(self) -> str:
        return f"{self.floor_off_s * 1000:.1f} ms"


@dataclass(frozen=True)
class _Taken:
    """What the service made of a stream; shown_s: until all topics' last messages showed."""

    sent: Sent
    counts: Mapping[str, int]
    cpu_s: float
    shown_s: float
    punctuality: _Punctuality
    memory_mb: float

    @property
    def decoded_rate(self) -> float:
        return self.counts["decoded"] / self.sent.took_s

    @property
    def lost(self) -> int:
        return self.sent.messages - sum(self.counts.values())

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / sum(self.counts.values()) * 1e6

    def __str__(self) -> str:
        superseded_rate = self.counts["superseded"] / self.sent.took_s
        return (
            f"{self.decoded_rate:,.0f}/s decoded, {superseded_rate:,.0f}/s superseded, {self.lost} "
            f"of {self.sent.messages:,} lost; last ones shown after {self.shown_s:.2f} s; "
            f"CPU {self.cpu_s / self.sent.took_s:.0%} of a core, {self.cpu_us:.0f} µs each"
        )


@dataclass(frozen=True)
class _FloorTaken:
    """What the floor made of a stream."""

    sent: Sent
    messages: int
    cpu_s: float

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.messages * 1e6

    def __str__(self) -> str:
        return (
            f"paho loop: {self.messages / self.sent.took_s:,.0f}/s, "
            f"{self.sent.messages - self.messages} lost, CPU {self.cpu_s / self.sent.took_s:.0%}, "
            f"{self.cpu_us:.0f} µs each"
        )


def mqtt(bench: Bench) -> list[Figure]:
    """MQTT messages decoded through mosquitto, bursts, and Modbus beside them."""
    mine, others = one_core_and_the_others()
    numbers = _numbers()
    power = [topic for topic, _ in numbers if topic.endswith("/Power")]
    streams = {
        f"{len(numbers):,} topics of {_METERS} meters": Stream(
            numbers, _RATE, float(bench.pick(30, 8))
        ),
        "1 topic, burst": Stream([(power[0], _PAYLOADS["Power"])], _RATE, _BURST_S),
        f"{len(power)} topics with JSON, burst": Stream(
            [(topic, _JSON) for topic in power], _RATE, _BURST_S
        ),
    }
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(bench, others))
        publisher = stack.enter_context(Publisher(bench, broker, others))
        peers = stack.enter_context(Peers(bench, others))
        run = _Run(peers, publisher)
        stack.enter_context(
            PollingFloor(bench, "pymodbus", run.floor_lines, _MODBUS_PERIOD_S, cores=mine)
        )
        with Service(
            bench,
            run.lines,
            _MODBUS_PERIOD_S,
            others=_registrations(),
            broker_port=broker.port,
            cores=mine,
        ) as service:
            run.greet(service, Stream(numbers, float(len(numbers)), 1.0))
            quiet = run.quiet(service, float(bench.pick(20, 8)))
            idle_mb = service.child.memory().pss
            taken = {name: run.take(service, stream) for name, stream in streams.items()}
        with MqttFloor(bench, broker.port, mine) as floor:
            floors = {name: _floor(floor, publisher, stream) for name, stream in streams.items()}
    figures = [
        _rate_figure(name, streams[name], taken[name], floors[name], judged=index == 0)
        for index, name in enumerate(streams)
    ]
    return [*figures, _late_figure(quiet, taken), _memory_figure(idle_mb, taken)]


def _registrations() -> list[Registration]:
    return [
        {
            "name": f"MQTT meter {number}",
            "protocol": "mqtt",
            "meterType": "zone",
            "communication": {f"topic{what}": _topic(number, what) for what in _PAYLOADS},
        }
        for number in range(_METERS)
    ]


def _numbers() -> list[tuple[str, tuple[str, ...]]]:
    return [
        (_topic(number, what), payloads)
        for number in range(_METERS)
        for what, payloads in _PAYLOADS.items()
    ]


def _topic(number: int, what: str) -> str:
    return f"site/meter-{number:03d}/{what}"


class _Run:
    """What takes part beside the service."""

    def __init__(self, peers: Peers, publisher: Publisher) -> None:
        self.lines, self.floor_lines = (peers.add(_MODBUS_METERS) for _ in range(2))
        self._peers = peers
        self._publisher = publisher

    def greet(self, service: Service, stream: Stream) -> None:
        """Wait until it hears, and has heard, all meters."""
        deadline_s = time.monotonic() + _ALL_HEARD_WITHIN_S
        while not service.all_online() and time.monotonic() < deadline_s:
            self._publisher.start(stream)
            self._publisher.wait_sent()
        wait_for(service.all_online, 2, "hearing all meters")
        time.sleep(_SETTLE_S)

    def quiet(self, service: Service, duration_s: float) -> _Punctuality:
        """See how punctual Modbus is without any message."""
        from_mono_s, before = time.monotonic(), service.late_ticks()
        time.sleep(duration_s)
        return self._punctuality(service, from_mono_s, before)

    def take(self, service: Service, stream: Stream) -> _Taken:
        """Publish a stream, and see what the service makes of it."""
        before, cpu_s = service.messages(), service.child.cpu_s()
        from_mono_s, ticks = time.monotonic(), service.late_ticks()
        self._publisher.start(stream)
        sent = self._publisher.wait_sent()
        punctuality = self._punctuality(service, from_mono_s, ticks)
        shown_s = _until_shown_s(service, stream, sent)
        time.sleep(_LAST_ARRIVE_S)
        cpu_s = service.child.cpu_s() - cpu_s
        counts = {result: count - before[result] for result, count in service.messages().items()}
        return _Taken(sent, counts, cpu_s, shown_s, punctuality, service.child.memory().pss)

    def _punctuality(
        self, service: Service, from_mono_s: float, before: Mapping[float, float]
    ) -> _Punctuality:
        """How punctual all was since then; before: ticks until then."""
        to_mono_s, after = time.monotonic(), service.late_ticks()
        ours_s, floor_s = (
            quantile(
                [
                    off_s
                    for times in self._peers.arrivals(lines, from_mono_s, to_mono_s).values()
                    for off_s in deviations_s(times, _MODBUS_PERIOD_S)
                ],
                0.99,
            )
            for lines in (self.lines, self.floor_lines)
        )
        ticks = {bound: after[bound] - before[bound] for bound in after}
        return _Punctuality(ours_s, floor_s, bucket_quantile(ticks, 0.99))


def _until_shown_s(service: Service, stream: Stream, sent: Sent) -> float:
    """How long after the end of a stream every meter shows the last power that was sent for it."""
    last = stream.last(sent.messages)
    topics = {f"MQTT meter {number}": _topic(number, "Power") for number in range(_METERS)}
    wanted = {name: _power_kw(last[topic]) for name, topic in topics.items() if topic in last}

    def shown() -> bool:
        powers = {meter["name"]: meter["currentPower"] for meter in service.meters()}
        return all(powers[name] == power_kw for name, power_kw in wanted.items())

    wait_for(shown, _SHOWN_WITHIN_S, "showing the last message of every topic")
    return time.monotonic() - sent.ended_mono_s


def _power_kw(payload: str) -> float:
    value: Any = json.loads(payload)
    power_kw: float = value["power"] if isinstance(value, dict) else value
    return power_kw


def _floor(floor: MqttFloor, publisher: Publisher, stream: Stream) -> _FloorTaken:
    before, cpu_s = floor.messages(), floor.cpu_s()
    publisher.start(stream)
    sent = publisher.wait_sent()
    time.sleep(_LAST_ARRIVE_S)
    return _FloorTaken(sent, floor.messages() - before, floor.cpu_s() - cpu_s)


def _rate_figure(
    name: str, stream: Stream, taken: _Taken, floor: _FloorTaken, *, judged: bool
) -> Figure:
    """judged: by how much was decoded; a burst may be replaced by its last messages."""
    return Figure(
        f"{stream.rate:,.0f} MQTT messages/s for {stream.duration_s:.0f} s, {name}",
        str(taken),
        str(floor),
        f"≥ {_WANTED_RATE:,.0f}/s decoded" if judged else "none lost",
        taken.decoded_rate >= _WANTED_RATE if judged else not taken.lost,
        taken.cpu_us / floor.cpu_us,
    )


def _late_figure(quiet: _Punctuality, taken: Mapping[str, _Taken]) -> Figure:
    meanwhile = {name: each.punctuality for name, each in taken.items()}
    worst_s = max(each.off_s for each in meanwhile.values())
    return Figure(
        f"period of {_MODBUS_METERS} Modbus meters at {_MODBUS_PERIOD_S:g} s, off by p99",
        "; ".join(
            [f"without messages {quiet.ours}"]
            + [f"{name} {each.ours}" for name, each in meanwhile.items()]
        ),
        f"pymodbus loop {quiet.floor}; " + "; ".join(each.floor for each in meanwhile.values()),
        f"≤ {_WANTED_LATER_S * 1000:.0f} ms more than without",
        worst_s - quiet.off_s <= _WANTED_LATER_S,
    )


def _memory_figure(idle_mb: float, taken: Mapping[str, _Taken]) -> Figure:
    grown_mb = max(each.memory_mb for each in taken.values()) - idle_mb
    return Figure(
        "memory after each of them",
        ", ".join(f"{each.memory_mb:.1f}" for each in taken.values()) + " MB PSS",
        f"{idle_mb:.1f} MB before",
        f"≤ {_WANTED_GROWTH_MB:.0f} MB more",
        grown_mb <= _WANTED_GROWTH_MB,
    )
