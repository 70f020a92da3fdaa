"""One connection to a broker: the only module that touches paho-mqtt.

paho runs no thread here and opens no socket: it is handed one, and called when there is something
to read or write. So each message is taken, and each failure noticed, on the line's own thread.

Sources: MQTT 5.0 (OASIS, 2019), sections 3.1 to 3.9; MQTT 3.1.1 (OASIS, 2014), section 3.2.2.3.
"""

from __future__ import annotations

import select
import ssl
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.clock import Clock
from edge.drivers.credentials import UnreadableError, read_secret
from edge.drivers.mqtt import failures
from edge.drivers.mqtt.failures import OtherVersionError, Reason
from edge.drivers.mqtt.wire import MAX_PACKET_BYTES, PacketTooLongError, Wire, connect
from edge.errors import Cause, LineError, Refused
from edge.settings import BrokerConfig

PROTOCOLS: Sequence[MQTTProtocolVersion] = (
    MQTTProtocolVersion.MQTTv5,
    MQTTProtocolVersion.MQTTv311,
)
"""Tried in this order, until a broker accepts one."""

_SUBSCRIBE_TOPICS = 50
_SUBSCRIBE_BYTES = 64 * 1024
"""How much is put into one SUBSCRIBE, of which brokers do not take any size."""

MOST_UNCONFIRMED = 16
"""Messages that a broker may owe us a word on; paho keeps back what goes beyond 20."""

_GATHER_S = 0.03
"""How long messages may gather before they are read: in a burst that saves half of the work."""
_READ_S = 0.03
"""How long they are read at most before they are decoded."""
_PUNCTUAL_S = 1.0
"""How late a busy machine may wake the thread that waits."""

Deliver = Callable[[str, bytes, bool], None]
"""Takes topic, payload and whether the broker had retained it; must be quick and never raise."""


class Will(NamedTuple):
    """What the broker publishes, and retains, when the connection ends without a word of ours."""

    topic: str
    payload: bytes


class _Client(mqtt.Client):
    """paho on a socket that it did not open. There is no public way to hand it one."""

    wire: Wire

    def _create_socket(self) -> Wire:
        return self.wire


class Connection:
    """A connection from CONNECT to its end; it is not opened again. One thread only.

    protocol: the version of MQTT. client_id: None takes one that nobody else has.
    """

    def __init__(
        self,
        wire: Wire,
        broker: BrokerConfig,
        client_id: str | None,
        protocol: MQTTProtocolVersion,
        clock: Clock,
        deliver: Deliver,
        will: Will | None = None,
    ) -> None:
        self.protocol = protocol
        self.most_unconfirmed = MOST_UNCONFIRMED
        """Messages that may be published before the broker has confirmed one of them."""
        self._wire = wire
        self._broker = broker
        self._where = address_of(broker)
        self._id_is_fixed = client_id is not None
        # 23 letters and digits are what every broker must take: MQTT 3.1.1, section 3.1.3.1.
        self._client_id = client_id or f"dlmedge{uuid.uuid4().hex[:16]}"
        self._clock = clock
        self._deliver = deliver
        self._accepted = False
        self._end: LineError | None = None
        self._asked: dict[int, Sequence[str]] = {}
        self._answered: dict[str, Refused | None] = {}
        self._published: dict[int, str] = {}
        self._confirmed: list[tuple[str, Refused | None]] = []
        self._dry_mono_s = clock.mono_s()
        self._client = _Client(
            CallbackAPIVersion.VERSION2,
            self._client_id,
            protocol=protocol,
            reconnect_on_failure=False,
        )
        self._client.wire = wire
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=True)

    def greet(self, password: str | None, timeout_s: float) -> None:
        """Send CONNECT, and wait until the broker accepts. Raises LineError, and is closed then."""
        self._client.username = self._broker.username
        self._client.password = password
        host, port, keepalive_s = self._broker.host, port_of(self._broker), self._broker.keepalive_s
        if self.protocol is MQTTProtocolVersion.MQTTv5:
            limit: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            limit.MaximumPacketSize = MAX_PACKET_BYTES
            self._client.connect(host, port, keepalive_s, clean_start=True, properties=limit)
        else:
            self._client.connect(host, port, keepalive_s)
        deadline_s = self._clock.mono_s() + timeout_s
        while not self._accepted and self._end is None:
            left_s = deadline_s - self._clock.mono_s()
            if left_s > 0:
                self._wait(left_s)
                self._client.loop_read()
            else:
                self._end = failures.no_answer(self._where, tls=self._broker.tls)
        if self._end is not None:
            self.close()
            raise self._end
        self._dry_mono_s = self._clock.mono_s()

    def receive(self, timeout_s: float) -> float:
        """Wait until something comes, and deliver it with all that follows for a moment.

        Returns when it arrived, monotonic time in s, and never later than that: while this process
        stood still, what it reads now may have waited since the last time that nothing was there.
        Raises LineError when the connection is lost, once what came before is delivered.
        """
        if self._end is not None:
            raise self._end
        heard = self._wait(timeout_s)
        now_mono_s = self._clock.mono_s()
        punctual = now_mono_s - self._dry_mono_s <= timeout_s + _PUNCTUAL_S
        arrived_mono_s = now_mono_s if punctual else self._dry_mono_s
        if heard and self._wire.dry and not self._published:  # who publishes waits for each word
            self._clock.sleep(_GATHER_S)
        stop_mono_s = now_mono_s + _GATHER_S + _READ_S
        while not self._has_ended() and now_mono_s < stop_mono_s:
            now_mono_s = self._clock.mono_s()
            self._client.loop_read()
            if self._wire.dry:
                self._dry_mono_s = now_mono_s
                break
        self._client.loop_misc()
        return arrived_mono_s

    def _has_ended(self) -> bool:
        return self._end is not None

    def subscribe(self, topics: Mapping[str, int]) -> None:
        """Ask for topics, each with its quality of service, also for their retained messages."""
        items = iter(topics.items())
        while batch := _batch(items):
            code, mid = self._client.subscribe(batch)
            if code == MQTTErrorCode.MQTT_ERR_SUCCESS and mid is not None:
                self._asked[mid] = [topic for topic, _ in batch]

    def take_answers(self) -> dict[str, Refused | None]:
        """Give, once, what the broker said since: topic → None where it was granted, or why not."""
        answered, self._answered = self._answered, {}
        return answered

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics no longer."""
        for start in range(0, len(topics), _SUBSCRIBE_TOPICS):
            self._client.unsubscribe(list(topics[start : start + _SUBSCRIBE_TOPICS]))

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message, quality of service 1, for the broker to retain; an empty one clears.

        Never blocks. What the broker says to it comes with `take_confirmed`, in later calls of
        `receive`. A connection that is lost is told by the next `receive`.
        """
        info = self._client.publish(topic, payload, qos=1, retain=True)
        self._published[info.mid] = topic

    def take_confirmed(self) -> list[tuple[str, Refused | None]]:
        """Give, once, what was published and the broker answered: topic, and why it refused it.

        A broker that speaks MQTT 3.1.1 has no way to refuse: it drops the message, or us.
        """
        confirmed, self._confirmed = self._confirmed, []
        return confirmed

    def drop(self) -> None:
        """End it without a word, so that the broker publishes the will. Harmless when it ended."""
        self._client.on_disconnect = None
        self._wire.close()

    def close(self) -> None:
        """End it, politely if that takes no waiting. Harmless when it ended."""
        self._client.on_disconnect = None
        self._accepted = False
        self._client.disconnect()
        self._wire.close()

    def _wait(self, timeout_s: float) -> bool:
        """Wait until there may be something to read, and tell so; write what is left to write."""
        writes = self._client.want_write()
        poll = select.poll()
        poll.register(self._wire.fileno(), select.POLLIN | (select.POLLOUT if writes else 0))
        ready = poll.poll(timeout_s * 1000 if self._wire.dry else 0)
        if writes:
            self._client.loop_write()
        return bool(ready)

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._end = failures.not_accepted(self._where, _reason(reason))
            return
        self._accepted = True
        most = getattr(properties, "ReceiveMaximum", MOST_UNCONFIRMED)
        self.most_unconfirmed = min(MOST_UNCONFIRMED, most)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if self._end is None:
            told = flags.is_disconnect_packet_from_server
            self._end = self._loss(_reason(reason) if told else None)

    def _loss(self, reason: Reason | None) -> LineError:
        """Say why it ended. reason: what the broker gave for it."""
        error = self._wire.error
        if isinstance(error, PacketTooLongError):
            return failures.too_long(self._where, MAX_PACKET_BYTES)
        if self._accepted:
            return failures.lost(
                self._where, reason, self._client_id, id_is_fixed=self._id_is_fixed
            )
        if isinstance(error, ssl.SSLError):
            return failures.tls_failed(self._where, error)
        return failures.hung_up(self._where, tls=self._broker.tls)

    def _on_subscribe(
        self, client: Any, userdata: Any, mid: int, reasons: Sequence[ReasonCode], properties: Any
    ) -> None:
        for topic, reason in zip(self._asked.pop(mid, ()), reasons, strict=False):
            self._answered[topic] = (
                failures.not_subscribed(topic, _reason(reason)) if reason.is_failure else None
            )

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason: ReasonCode, properties: Any
    ) -> None:
        topic = self._published.pop(mid, None)
        if topic is not None:
            refused = reason.is_failure
            refusal = failures.not_published(topic, _reason(reason)) if refused else None
            self._confirmed.append((topic, refusal))

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # a broker that does not check; no meter's topic is like that
            return
        self._deliver(topic, bytes(message.payload), message.retain)


def open_connection(
    broker: BrokerConfig,
    clock: Clock,
    deliver: Deliver,
    timeout_s: float,
    *,
    client_id: str | None = None,
    protocols: Sequence[MQTTProtocolVersion] = PROTOCOLS,
    will: Will | None = None,
) -> Connection:
    """Connect with the first of these versions of MQTT that the broker accepts.

    Raises LineError. Blocks as `wire.connect` does and for timeout_s more, for each version.
    """
    password = _password(broker)
    refusal: LineError | None = None
    for protocol in protocols:
        wire = connect(broker, port_of(broker), timeout_s)
        connection = Connection(wire, broker, client_id, protocol, clock, deliver, will)
        try:
            connection.greet(password, timeout_s)
        except OtherVersionError as exc:
            refusal = refusal or exc
        else:
            return connection
    assert refusal is not None  # there is a version to try
    raise refusal


def port_of(broker: BrokerConfig) -> int:
    """The port as set, or the usual one."""
    return broker.port or (8883 if broker.tls else 1883)


def address_of(broker: BrokerConfig) -> str:
    """Where the broker is, for a person."""
    return f"{broker.host}:{port_of(broker)}"


def _password(broker: BrokerConfig) -> str | None:
    if broker.password_file is None:
        return broker.password
    try:
        return read_secret(broker.password_file, "password_file")
    except UnreadableError as exc:
        raise LineError(str(exc), Cause.NOT_AUTHORISED) from exc


def _batch(items: Iterator[tuple[str, int]]) -> list[tuple[str, int]]:
    batch: list[tuple[str, int]] = []
    size = 0
    for topic, qos in islice(items, _SUBSCRIBE_TOPICS):
        batch.append((topic, qos))
        size += len(topic)
        if size > _SUBSCRIBE_BYTES:
            break
    return batch


def _reason(given: ReasonCode) -> Reason:
    return Reason(given.value, str(given).lower())
