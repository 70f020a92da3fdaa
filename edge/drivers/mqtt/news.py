"""What a meter's messages come to, one after the other: pure, no socket, no clock.

Each quantity keeps its last value and when it arrived. Power decides how old a reading is: the
oldest of what it is made of; for a meter without power it is the latest of all. What is momentary
is left out once it is older than the meter's stale-after time, while counters stay, which some
devices send once an hour.

A value that the broker had retained is not live, and neither is one from before the meter said that
it is offline; a meter that is offline gives no values. What a message makes of them lasts until the
next one on the same topic: an unreadable payload is an error until a readable one comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edge.communication import MqttCommunication, TopicUse
from edge.decode import PHASES, combine
from edge.errors import BadReply, Cause, MeterError, Refused
from edge.model import Meter, Outcome
from edge.payload import numbers, read, shown, word

_COUNTERS = frozenset({"energy", "energyExport"})
_STATUS = {
    **dict.fromkeys(("online", "connected", "true", "1"), True),
    **dict.fromkeys(("offline", "disconnected", "false", "0"), False),
}
_PATIENCE_S = 10.0
"""How long a part of power may be missing before that is an error."""

# Of what devices and users make up, as much as one reads in a sentence:
_SHOWN_TOPIC = 100
_SHOWN_PATHS = 200
_SHOWN_NUMBERS = 8


@dataclass(frozen=True)
class Message:
    """What arrived on a topic. retained: the broker had kept it for who subscribes later."""

    topic: str
    payload: bytes
    retained: bool
    mono_s: float
    unix_ms: int


@dataclass(frozen=True)
class _Held:
    """A quantity's last value. own: from a topic that the registration names for it."""

    value: float
    topic: str
    own: bool
    live: bool
    mono_s: float
    unix_ms: int


class MeterNews:
    """Hears one meter's messages and says what they come to. One thread only."""

    def __init__(self, meter: Meter) -> None:
        assert isinstance(meter.communication, MqttCommunication)
        self.communication = meter.communication
        self._stale_after_s = meter.stale_after_ms / 1000
        self._held: dict[str, _Held] = {}
        self._given: set[str] = set()
        self._gone: dict[str, BadReply] = {}
        self._broken: dict[str, MeterError] = {}
        self._understood: set[str] = set()
        self._status_error: BadReply | None = None
        self._offline: BadReply | None = None
        self._since_mono_s: float | None = None

    @property
    def topics(self) -> dict[str, int]:
        """The topics to subscribe to, each with its quality of service.

        A value that is lost is replaced by the next; a status may be the last word for long.
        """
        topics = {use.topic: 0 for use in self.communication.topics}
        if self.communication.status_topic is not None:
            topics[self.communication.status_topic] = 1
        return topics

    def hear(self, message: Message) -> MeterError | None:
        """Take a message in; returns why it is of no use, if so."""
        if self._since_mono_s is None:
            self._since_mono_s = message.mono_s
        error: MeterError | None = None
        for use in self.communication.topics:
            if use.topic == message.topic:
                error = self._take(use, message)
        if message.topic == self.communication.status_topic:
            error = self._take_status(message) or error
        return error

    def subscribed(self, topic: str, refusal: MeterError | None) -> None:
        """Take in what the broker says to a subscription."""
        if refusal is not None:
            self._broken[topic] = refusal
        elif isinstance(self._broken.get(topic), Refused):
            del self._broken[topic]

    def interrupted(self) -> None:
        """Take in that messages may have been missed: nothing heard before is live any more."""
        self._held = {name: replace(held, live=False) for name, held in self._held.items()}

    def outcome(self, now_mono_s: float) -> Outcome | None:
        """Give what is known now; None where there is nothing to say."""
        if self._offline is not None:
            return Outcome(error=self._offline, said_offline=True)
        parts = self._parts()
        error = self._blocking(parts)
        if error is not None:
            return Outcome(error=error)
        error = self._missing(parts, now_mono_s) or self._first_error()
        deciding = self._deciding(parts, now_mono_s)
        values: dict[str, float] = {}
        if deciding is not None:
            values = self._values(parts, deciding.live, now_mono_s)
        if deciding is None or not values:
            error = error or next(iter(self._gone.values()), None)
            return Outcome(error=error) if error is not None else None
        return Outcome(values, deciding.mono_s, deciding.unix_ms, error=error, live=deciding.live)

    # --- Taking in -------------------------------------------------------------------------------

    def _take(self, use: TopicUse, message: Message) -> MeterError | None:
        error: BadReply | None = None
        values: dict[str, float | None] = {}
        try:
            values = read(message.payload, use.fields, fill=use.fills)
        except BadReply as exc:
            error = BadReply(f"Topic {_named(use.topic)}: {exc}", exc.cause)
        # A message may hold only what changed, but one of them must have held something.
        if not values and not error and use.topic not in self._understood:
            error = _nothing_known(use, message.payload)
        if error is None:
            self._understood.add(use.topic)
            self._broken.pop(use.topic, None)
        elif not (message.retained and self._gave_lately(use.topic, message.mono_s)):
            self._broken[use.topic] = error
        own = {field.quantity for field in use.fields}
        for quantity, value in values.items():
            self._put(quantity, value, quantity in own, message)
        return error

    def _put(self, quantity: str, value: float | None, own: bool, message: Message) -> None:
        held = self._held.get(quantity)
        if (
            held is not None
            and (message.retained or (held.own and not own))
            and self._is_fresh(held, message.mono_s)
        ):
            return
        if value is not None:
            live = not message.retained
            self._held[quantity] = _Held(
                value, message.topic, own, live, message.mono_s, message.unix_ms
            )
            self._gone.pop(quantity, None)
            self._given.add(quantity)
        elif own or held is not None:
            self._held.pop(quantity, None)
            self._gone[quantity] = BadReply(
                f"Topic {_named(message.topic)} says that {quantity} has no value "
                f"({shown(message.payload)}); check the device that publishes it.",
                Cause.NO_VALUE,
            )

    def _take_status(self, message: Message) -> MeterError | None:
        try:
            said = word(message.payload, self.communication.status_path)
        except BadReply as exc:
            self._status_error = BadReply(f"Topic {_named(message.topic)}: {exc}", exc.cause)
            return self._status_error
        online = _STATUS.get(said.casefold())
        if online is None:
            error = BadReply(
                f"Topic {_named(message.topic)} says {shown(message.payload)}, which is neither "
                "online nor offline; check topicStatus, and set statusPath where it sends JSON."
            )
            self._status_error = error
            return error
        self._status_error = self._offline = None
        if not online:
            self._offline = BadReply(
                f"It said on topic {_named(message.topic)} that it is offline; check its power "
                "and network.",
                Cause.SAID_OFFLINE,
            )
            self.interrupted()
        return None

    # --- Making sense of it ----------------------------------------------------------------------

    def _parts(self) -> frozenset[str]:
        """The quantities that power is made of; none for a meter that gives no power."""
        wanted = self._wanted()
        if "power" in wanted:
            return wanted & {"power", "powerExport"}
        return wanted.intersection(PHASES["power"])

    def _wanted(self) -> frozenset[str]:
        return self.communication.quantities | self._given

    def _blocking(self, parts: frozenset[str]) -> MeterError | None:
        """Why nothing can be said: what decides cannot be read."""
        topics = [self._held[part].topic for part in parts & self._held.keys()]
        topics += self._topics_of(parts)
        if not parts:
            topics = [held.topic for held in self._held.values()]
            if not self._broken.keys() >= set(topics):
                return None
        return next((self._broken[topic] for topic in topics if topic in self._broken), None)

    def _missing(self, parts: frozenset[str], now_mono_s: float) -> MeterError | None:
        """Why power is not known, if so; that it was not heard yet is normal for a while."""
        for part in sorted(parts):
            if part in self._gone:
                return self._gone[part]
        topics = list(self._topics_of(parts - self._held.keys()))
        since_mono_s = now_mono_s if self._since_mono_s is None else self._since_mono_s
        if topics and now_mono_s - since_mono_s > _PATIENCE_S:
            return BadReply(
                f"Its power is not known: no value for it came yet on topic {_named(topics[0])}; "
                "check the name, also upper and lower case, and that the device publishes it.",
                Cause.TOPIC_NOT_HEARD,
            )
        return None

    def _first_error(self) -> MeterError | None:
        return next(iter(self._broken.values()), self._status_error)

    def _deciding(self, parts: frozenset[str], now_mono_s: float) -> _Held | None:
        """Give whose time is the reading's, with live as the reading's is."""
        if parts and parts <= self._held.keys():
            chosen = [self._held[part] for part in parts]
            oldest = min(chosen, key=lambda held: held.mono_s)
            return replace(oldest, live=all(held.live for held in chosen))
        held = list(self._held.values())
        fresh = [each for each in held if self._is_fresh(each, now_mono_s)]
        if not fresh and self._gone.keys() & parts:
            return None
        return max(fresh or held, key=lambda each: each.mono_s, default=None)

    def _values(self, parts: frozenset[str], live: bool, now_mono_s: float) -> dict[str, float]:
        complete = parts <= self._held.keys()
        values = {
            name: held.value
            for name, held in self._held.items()
            if name in _COUNTERS
            or (complete and name in parts)
            or (self._age_s(held, now_mono_s) <= self._stale_after_s and (held.live or not live))
        }
        return combine(values, self._wanted(), invert=self.communication.invert)

    def _topics_of(self, quantities: frozenset[str]) -> Iterator[str]:
        for use in self.communication.topics:
            if any(field.quantity in quantities for field in use.fields):
                yield use.topic

    def _gave_lately(self, topic: str, now_mono_s: float) -> bool:
        return any(
            held.topic == topic and self._is_fresh(held, now_mono_s) for held in self._held.values()
        )

    def _is_fresh(self, held: _Held, now_mono_s: float) -> bool:
        return held.live and self._age_s(held, now_mono_s) <= self._stale_after_s

    @staticmethod
    def _age_s(held: _Held, now_mono_s: float) -> float:
        return now_mono_s - held.mono_s


def _named(topic: str) -> str:
    return topic if len(topic) <= _SHOWN_TOPIC else topic[:_SHOWN_TOPIC] + "…"


def _nothing_known(use: TopicUse, payload: bytes) -> BadReply:
    wanted = [field.quantity for field in use.fields]
    seen = ", ".join(numbers(payload, most=_SHOWN_NUMBERS))
    if len(seen) > _SHOWN_PATHS:
        seen = seen[:_SHOWN_PATHS] + "…"
    there = f"it has {seen}" if seen else "it has no numbers"
    return BadReply(
        f"Topic {_named(use.topic)}: payload {shown(payload)} has no known name for "
        f"{' or '.join(wanted[:_SHOWN_NUMBERS])}; {there}: set {wanted[0]}Path."
    )
