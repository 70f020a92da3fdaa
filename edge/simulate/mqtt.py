"""Meters over MQTT: each a client of its own, so that the broker can tell when it is gone."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.simulate.demo import DemoMeter, demo_meters, site_clock, template_meters
from edge.simulate.dialect import (
    Dialect,
    json_dialect,
    number_dialect,
    shelly_dialect,
    template_dialect,
)
from edge.simulate.fault import Fault, FaultKind
from edge.simulate.payload import PayloadMeter
from edge.simulate.served import ServedSite
from edge.template import Template

DEFAULT_PORT = 1883
DEFAULT_PREFIX = "building/energy"
PAYLOADS: dict[str, Callable[[str, int], Dialect]] = {
    "number": number_dialect,
    "json": json_dialect,
    "shelly": lambda _prefix, number: shelly_dialect(number),
}
"""Payload format → how meter `number` speaks below a prefix."""
MAX_METERS = 500
"""paho waits with select, which ends at file descriptor 1023."""

_CONNECT_WITHIN_S = 3.0
_GARBAGE_BYTES = 24


class MqttMeter:
    """A meter that publishes, for one thread: nothing runs between its calls.

    While it is connected its status is retained as online; when it is gone without a word, the
    broker publishes its Last Will, offline.
    """

    def __init__(
        self, meter: PayloadMeter, dialect: Dialect, broker: tuple[str, int], keepalive_s: int
    ) -> None:
        self._meter = meter
        self._status = dialect.status
        self._broker = broker
        self._answers: list[ReasonCode] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.connect_timeout = _CONNECT_WITHIN_S
        self._client.on_connect = self._on_connect
        self._client.connect_async(*broker, keepalive=keepalive_s)
        if self._status is not None:
            self._client.will_set(self._status.topic, self._status.offline, retain=True)

    def connect(self) -> None:
        """Connect and say that it is online. Raises OSError when the broker will not have it.

        Blocks for some seconds at most.
        """
        self._answers.clear()
        self._client.reconnect()
        deadline_s = time.monotonic() + _CONNECT_WITHIN_S
        result = MQTTErrorCode.MQTT_ERR_SUCCESS
        while not self._answers and result is MQTTErrorCode.MQTT_ERR_SUCCESS:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the broker accepts connections but does not answer")
            result = self._client.loop(0.1)
        if not self._answers:
            raise ConnectionResetError("the broker hung up; it may speak TLS on this port")
        if self._answers[0].is_failure:
            raise ConnectionRefusedError(f"the broker answered: {self._answers[0]}")
        self._say(online=True)

    def publish(self, rng: random.Random) -> None:
        """Publish once, as its fault lets it; connect first where the connection is gone."""
        payloads, fault = self._meter.take()
        kind = fault.kind if fault else None
        if kind is FaultKind.CLOSE:
            self._vanish()
            return
        if self._client.loop_read() is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            try:
                self.connect()
            except OSError:
                return  # until the next time
        if kind is not FaultKind.SILENT:
            for topic, payload in payloads.items():
                garbage = rng.randbytes(_GARBAGE_BYTES) if kind is FaultKind.GARBAGE else None
                self._client.publish(topic, garbage or payload)
        self._client.loop_misc()

    def leave(self) -> None:
        """Say that it is offline, and disconnect; also when it is not connected."""
        if self._client.is_connected():
            self._say(online=False)
            self._client.disconnect()

    def _say(self, online: bool) -> None:
        if self._status is not None:
            payload = self._status.online if online else self._status.offline
            self._client.publish(self._status.topic, payload, retain=True)

    def _vanish(self) -> None:
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            self._client.loop_read()  # meets the end of the stream, and closes

    def _on_connect(
        self,
        _client: Client,
        _userdata: Any,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._answers.append(reason)


class MqttSite(ServedSite):
    """The site's meters over MQTT, each publishing all it has every interval_s.

    broker: host and port. payload: one of PAYLOADS. prefix: of the topics, for `number` and
    `json`. template: the meters are devices of that kind; raises ValueError where that cannot be
    simulated.
    """

    def __init__(
        self,
        count: int = 4,
        *,
        broker: tuple[str, int] = ("127.0.0.1", DEFAULT_PORT),
        interval_s: float = 1.0,
        prefix: str = DEFAULT_PREFIX,
        payload: str = "number",
        seed: int = 0,
        template: Template | None = None,
    ) -> None:
        self.broker = f"{broker[0]}:{broker[1]}"
        self._interval_s = interval_s
        self._rng = random.Random(seed)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._shown: list[tuple[DemoMeter, Dialect, PayloadMeter]] = []
        self._clients: list[MqttMeter] = []
        clock = site_clock()
        meters = template_meters(template, count, seed) if template else demo_meters(count, seed)
        for number, meter in enumerate(meters, start=1):
            dialect = (
                _nth_device(template, number) if template else PAYLOADS[payload](prefix, number)
            )
            source = dialect.measured(meter.source(clock))
            speaker = PayloadMeter("mqtt", source, dialect.places, dialect.examples)
            # A broker hangs up when it hears nothing for one and a half times as long.
            client = MqttMeter(speaker, dialect, broker, max(60, 2 * round(interval_s)))
            self._shown.append((meter, dialect, speaker))
            self._clients.append(client)
        topics = [topic for _, dialect, _ in self._shown for topic in dialect.addresses]
        if len(topics) > len(set(topics)):
            raise ValueError("all devices of this template have the same topics: use --meters 1")

    @property
    def registrations(self) -> list[dict[str, Any]]:
        """The body to POST for each meter."""
        return [
            meter.registration("mqtt", dialect.communication) for meter, dialect, _ in self._shown
        ]

    def set_fault(self, number: int, fault: Fault) -> None:
        """See `ServedSite.set_fault`; it begins with the next publication."""
        self._check_number(number, len(self._shown))
        self._shown[number - 1][2].set_fault(fault)

    def heal(self, number: int) -> None:
        """Switch the fault of meter `number` off."""
        self._check_number(number, len(self._shown))
        self._shown[number - 1][2].heal()

    def start(self) -> MqttSite:
        """Publish; returns when every meter has done so once.

        Raises OSError when the broker cannot be reached or will not have one of them.
        """
        try:
            for client in self._clients:
                client.connect()
                client.publish(self._rng)
        except OSError:
            self.stop()
            raise
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="simulate-mqtt")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Say of every meter that it is offline, disconnect and wait for the thread to end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for client in self._clients:
            client.leave()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            for client in self._clients:
                client.publish(self._rng)


def _nth_device(template: Template, number: int) -> Dialect:
    """Tell the devices apart by what an installer has to give, or may where that is nothing."""
    everything = template.parameters
    needed = [name for name, each in everything.items() if each.default is None] or everything
    arguments = {name: f"{everything[name].example}-{number}" for name in needed if number > 1}
    return template_dialect(template, arguments)
