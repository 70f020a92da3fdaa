"""What is wrong with an MQTT meter, or with the way to it.

Its topics are heard for a while over a connection of its own. Where one stays silent, all topics
are heard for a moment too, to find the name that was meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from itertools import takewhile

from edge.clock import Clock
from edge.drivers.mqtt.connection import Connection, address_of, open_connection
from edge.drivers.mqtt.news import Message, MeterNews
from edge.errors import Cause, LineError, MeterError
from edge.model import Exchange, Finding, Meter, Probe
from edge.payload import likely_path, numbers, shown
from edge.settings import BrokerConfig

_RECEIVE_S = 0.1
_ALL_TOPICS = "#"
_SURVEY_S = 2.0
_MOST_NAMES = 10_000
_MOST_COMPARED = 200
_MOST_SLIPS = 8
"""By so many characters a slip may change a topic's length."""
_LONGEST_NAME = 200
_SHOWN_CHARACTERS = 500


def probe(meter: Meter, broker: BrokerConfig, clock: Clock, wait_s: float) -> Probe:
    """Hear a meter's topics until each spoke, for wait_s at most; see `Listener.probe`."""
    hearing = _Hearing(meter, clock)
    lost: LineError | None = None
    try:
        connection = open_connection(broker, clock, hearing.heard, meter.communication.timeout_s)
    except LineError as exc:
        asked = f"broker {address_of(broker)}"
        return Probe(exchanges=(Exchange(asked, error=str(exc)),), findings=(_finding(exc),))
    try:
        hearing.hear(connection, wait_s)
    except LineError as exc:
        lost = exc
    finally:
        connection.close()
    findings = [*([_finding(lost)] if lost else []), *hearing.findings(wait_s)]
    return Probe(
        outcome=hearing.news.outcome(clock.mono_s()),
        exchanges=tuple(hearing.exchanges(wait_s)),
        findings=tuple(findings),
    )


class _Hearing:
    """What was heard of a meter's topics, and of all the others."""

    def __init__(self, meter: Meter, clock: Clock) -> None:
        self.news = MeterNews(meter)
        self._clock = clock
        self._topics = self.news.topics
        self._last: dict[str, Message] = {}
        self._errors: dict[str, MeterError] = {}
        self._names: set[str] = set()
        self._surveyed = False

    def heard(self, topic: str, payload: bytes, retained: bool) -> None:
        """Take a message; what is live is kept before what was retained."""
        if topic not in self._topics:
            if len(self._names) < _MOST_NAMES and len(topic) <= _LONGEST_NAME:
                self._names.add(topic)
            return
        earlier = self._last.get(topic)
        if retained and earlier is not None and not earlier.retained:
            return
        message = Message(topic, payload, retained, self._clock.mono_s(), self._clock.unix_ms())
        self._last[topic] = message
        error = self.news.hear(message)
        self._errors.pop(topic, None)
        if error is not None:
            self._errors[topic] = error

    def hear(self, connection: Connection, wait_s: float) -> None:
        """Hear until every topic spoke. Raises LineError."""
        connection.subscribe(self._topics)
        start_s = self._clock.mono_s()
        survey_stop_s = start_s
        while self._waits_for() and (now_s := self._clock.mono_s()) < start_s + wait_s:
            connection.receive(_RECEIVE_S)
            for topic, refusal in connection.take_answers().items():
                if refusal is not None and topic in self._topics:
                    self._errors[topic] = refusal
                    self.news.subscribed(topic, refusal)
            if not self._surveyed and now_s >= start_s + wait_s / 2 and self._silent():
                connection.subscribe({_ALL_TOPICS: 0})
                self._surveyed, survey_stop_s = True, now_s + _SURVEY_S
            elif survey_stop_s > start_s and now_s > survey_stop_s:
                connection.unsubscribe([_ALL_TOPICS])
                survey_stop_s = start_s

    def _waits_for(self) -> list[str]:
        """The topics that may still speak; a status is as good when it was retained."""
        status = self.news.communication.status_topic
        return [
            topic
            for topic in self._topics
            if not self._refused(topic)
            and (topic not in self._last or (topic != status and self._last[topic].retained))
        ]

    def _silent(self) -> list[str]:
        return [topic for topic in self._topics.keys() - self._last if not self._refused(topic)]

    def _refused(self, topic: str) -> bool:
        error = self._errors.get(topic)
        return error is not None and error.cause is Cause.NOT_AUTHORISED

    def exchanges(self, wait_s: float) -> Iterator[Exchange]:
        """Tell of each topic what came."""
        for topic in self._topics:
            message = self._last.get(topic)
            error = self._errors.get(topic)
            words = str(error) if error is not None else None
            if message is None and error is None:
                words = f"Nothing was heard within {wait_s:g} s."
            raw = None
            if message is not None:
                raw = shown(message.payload, _SHOWN_CHARACTERS)
                raw += " (retained)" if message.retained else ""
            yield Exchange(f"topic {topic}", raw, error=words)

    def findings(self, wait_s: float) -> Iterator[Finding]:
        """Tell what is wrong."""
        outcome = self.news.outcome(self._clock.mono_s())
        if outcome is not None and outcome.said_offline:
            yield Finding(Cause.SAID_OFFLINE, str(outcome.error))
        for topic, error in self._errors.items():
            hint = self._path_hint(topic) if error.cause is Cause.UNREADABLE else ""
            yield Finding(error.cause, f"{error}{hint}")
        if outcome is not None and outcome.error and outcome.error.cause is Cause.NO_VALUE:
            yield Finding(Cause.NO_VALUE, str(outcome.error))
        for topic in self._topics:
            if topic not in self._last and not self._refused(topic):
                yield Finding(Cause.TOPIC_NOT_HEARD, self._not_heard(topic, wait_s))
        status = self.news.communication.status_topic
        for topic, message in self._last.items():
            if message.retained and topic != status:
                yield Finding(Cause.ONLY_RETAINED, _only_retained(topic, wait_s))

    def _not_heard(self, topic: str, wait_s: float) -> str:
        lead = f"Nothing was heard on topic {topic} within {wait_s:g} s"
        near = nearest(topic, self._names)
        if near:
            return f"{lead}, but on {' and '.join(near)}; is one of these meant?"
        if self._surveyed and not self._names and not self._last:
            return (
                f"{lead}, nor on any other; check that the meter publishes to this broker, and "
                "that this user may read what it publishes."
            )
        return (
            f"{lead}, nor on one with a name like it; check that the device is on and publishes "
            "it, or wait longer if it sends seldom."
        )

    def _path_hint(self, topic: str) -> str:
        """Say which paths a payload has, and which of them may be meant."""
        found = numbers(self._last[topic].payload) if topic in self._last else {}
        likely = (
            (field.quantity, likely_path(field.quantity, list(found)))
            for use in self.news.communication.topics
            if use.topic == topic
            for field in use.fields
        )
        paths = [f'"{quantity}Path": "{path}"' for quantity, path in likely if path]
        return f" Perhaps {', '.join(paths)} is what you want." if paths else ""


def nearest(topic: str, names: Iterable[str]) -> list[str]:
    """Give the up to three names that `topic` is most likely a slip of, best first."""
    folded: dict[str, str] = {}
    for name in sorted(names):
        if name.casefold() == topic.casefold():
            return [name]  # upper and lower case are the usual slip
        folded.setdefault(name.casefold(), name)
    # A broker may have thousands of topics, and each comparison takes its time: the likeliest are
    # of about the same length, and share a beginning or an end.
    wanted = topic.casefold()
    alike = [name for name in folded if abs(len(name) - len(wanted)) <= _MOST_SLIPS]
    alike.sort(key=lambda name: -(_shared(name, wanted) + _shared(name[::-1], wanted[::-1])))
    close = difflib.get_close_matches(wanted, alike[:_MOST_COMPARED], 3, 0.7)
    return [folded[name] for name in close]


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _only_retained(topic: str, wait_s: float) -> str:
    return (
        f"On topic {topic} came only what the broker had retained, nothing new within {wait_s:g} "
        "s; check that the device is on and sends at least once in staleAfter."
    )


def _finding(error: LineError) -> Finding:
    return Finding(error.cause, str(error))
