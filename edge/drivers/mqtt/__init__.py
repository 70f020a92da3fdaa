"""MQTT: meters that publish to a broker.

    wire        bytes over TCP or TLS
    connection  one connection to a broker: the one module that touches paho-mqtt
    news        what a meter's messages come to (pure)
    probe       what is wrong with a meter's topics

Of each topic the latest message is kept until it is decoded, and what it supersedes is counted: so
a burst costs no memory, and hardly more time than reading it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from edge.clock import Clock
from edge.communication import MqttEndpoint
from edge.drivers.mqtt.connection import PROTOCOLS, Connection, open_connection
from edge.drivers.mqtt.news import Message, MeterNews
from edge.drivers.mqtt.probe import probe
from edge.errors import LineError
from edge.model import MessageCounts, Meter, Outcome, Probe
from edge.payload import supersedes
from edge.settings import BrokerConfig

PROBE_WAIT_S = 10.0
_MOST_EARLIER = 8
"""Messages kept beside the latest on a topic, because that does not say all that they say."""


class _Heard(NamedTuple):
    """A message that is not decoded yet."""

    payload: bytes
    retained: bool


class MqttListener:
    """Hears the meters on one broker. Line thread only, but for `counts` and `probe`."""

    def __init__(
        self,
        endpoint: MqttEndpoint,
        clock: Clock,
        broker: BrokerConfig,
        *,
        probe_wait_s: float = PROBE_WAIT_S,
    ) -> None:
        self.counts = MessageCounts()
        """Replaced by the line's thread, read by anyone."""
        self._broker = broker
        self._clock = clock
        self._probe_wait_s = probe_wait_s
        self._protocols = PROTOCOLS
        self._connection: Connection | None = None
        self._opened = 0
        self._meters: dict[Meter, MeterNews] = {}
        self._users: dict[str, list[Meter]] = {}
        self._latest: dict[str, _Heard] = {}
        self._earlier: dict[str, deque[_Heard]] = {}
        self._messages = self._superseded = self._unreadable = self._unused = 0

    @property
    def connected(self) -> bool:
        """Whether the broker is connected; a loss is told by the next `listen`, and shows then."""
        return self._connection is not None

    @property
    def opened(self) -> int:
        """See `Line.opened`."""
        return self._opened

    def open(self, timeout_s: float) -> None:
        """Connect to the broker and ask for all topics; see `Line.open`."""
        if self._connection is not None:
            return
        connection = open_connection(
            self._broker,
            self._clock,
            self._heard,
            timeout_s,
            client_id=self._broker.client_id,
            protocols=self._protocols,
        )
        # The one that works goes first, and the other stays: a broker may be replaced.
        self._protocols = tuple(sorted(PROTOCOLS, key=lambda each: each != connection.protocol))
        self._connection = connection
        self._opened += 1
        for news in self._meters.values():
            news.interrupted()
        connection.subscribe(self._topics(self._meters))

    def follow(self, meters: Collection[Meter]) -> None:
        """Hear these meters; see `Listener.follow`. What was heard of a meter is kept with it.

        Also where it was changed, as long as it is heard in the same way.
        """
        new = [meter for meter in meters if meter not in self._meters]
        before = self._users
        known = {meter.id: meter for meter in self._meters}
        self._meters = {meter: self._news_of(meter, known.get(meter.id)) for meter in meters}
        self._users = {}
        for meter, news in self._meters.items():
            for topic in news.topics:
                self._users.setdefault(topic, []).append(meter)
        if self._connection is not None:
            self._connection.unsubscribe([topic for topic in before if topic not in self._users])
            # Also what others follow already, since the retained message comes by asking only.
            self._connection.subscribe(self._topics(new))

    def listen(self, timeout_s: float) -> Sequence[tuple[Meter, Outcome]]:
        """Wait for messages, and give what they come to; see `Listener.listen`.

        What follows within a few hundredths of a second is waited for too.
        """
        if self._connection is None:
            raise LineError("The broker is not connected.")
        try:
            arrived_mono_s = self._connection.receive(timeout_s)
        except LineError:
            self.close()
            raise
        touched = self._hear_answers(self._connection) | self._hear_messages(arrived_mono_s)
        self.counts = MessageCounts(
            self._messages, self._superseded, self._unreadable, self._unused
        )
        now_mono_s = self._clock.mono_s()
        outcomes = ((meter, self._meters[meter].outcome(now_mono_s)) for meter in touched)
        return [(meter, outcome) for meter, outcome in outcomes if outcome is not None]

    def probe(self, meter: Meter) -> Probe:
        """Hear a meter for a while; see `Listener.probe`."""
        return probe(meter, self._broker, self._clock, self._probe_wait_s)

    def close(self) -> None:
        """See `Line.close`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._latest.clear()
            self._earlier.clear()

    def _news_of(self, meter: Meter, before: Meter | None) -> MeterNews:
        heard = (meter.communication, meter.stale_after_ms)
        if before is not None and heard == (before.communication, before.stale_after_ms):
            return self._meters[before]
        return MeterNews(meter)

    def _topics(self, meters: Collection[Meter]) -> dict[str, int]:
        topics: dict[str, int] = {}
        for meter in meters:
            for topic in self._meters[meter].topics:
                users = self._users[topic]
                topics[topic] = max(self._meters[user].topics[topic] for user in users)
        return topics

    def _heard(self, topic: str, payload: bytes, retained: bool) -> None:
        """Keep a message until it is decoded; called for each, so it must be quick."""
        self._messages += 1
        if topic not in self._users:
            self._unused += 1
            return
        heard = _Heard(payload, retained)
        earlier = self._latest.pop(topic, None)
        if earlier is not None:
            if retained and not earlier.retained:
                earlier, heard = heard, earlier
            if supersedes(heard.payload, earlier.payload):
                self._superseded += 1
            else:
                self._keep_too(topic, earlier)
        self._latest[topic] = heard  # in order of arrival: offline before online

    def _keep_too(self, topic: str, heard: _Heard) -> None:
        """Keep a message beside the next one on its topic, which may hold only what changed."""
        kept = self._earlier.setdefault(topic, deque(maxlen=_MOST_EARLIER))
        self._superseded += len(kept) == _MOST_EARLIER
        kept.append(heard)

    def _hear_messages(self, arrived_mono_s: float) -> dict[Meter, None]:
        unix_ms = self._clock.unix_ms() - round((self._clock.mono_s() - arrived_mono_s) * 1000)
        touched: dict[Meter, None] = {}
        for topic, latest in self._latest.items():
            users = self._users.get(topic, ())
            touched.update(dict.fromkeys(users))
            for heard in (*self._earlier.get(topic, ()), latest):
                message = Message(topic, heard.payload, heard.retained, arrived_mono_s, unix_ms)
                errors = [self._meters[meter].hear(message) for meter in users]
                self._unreadable += any(error is not None for error in errors)
        self._latest.clear()
        self._earlier.clear()
        return touched

    def _hear_answers(self, connection: Connection) -> dict[Meter, None]:
        """Take in what the broker says to subscriptions; it is news where it is a refusal."""
        touched: dict[Meter, None] = {}
        for topic, refusal in connection.take_answers().items():
            for meter in self._users.get(topic, ()):
                self._meters[meter].subscribed(topic, refusal)
                if refusal is not None:
                    touched[meter] = None
        return touched
