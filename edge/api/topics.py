"""What can be told to a live client, what it wants of that, and the frames that tell it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from edge import render
from edge.alerts import Alert
from edge.api import Request
from edge.api.query import Query, QueryReader
from edge.api.websocket import text_frame
from edge.model import MeterState, Snapshot
from edge.structure import nearest, shown
from edge.times import timestamp


class Topic(NamedTuple):
    """Something that can be told. kind: the `type` of its frame. meter_id: whom it is about."""

    kind: str
    id: str = ""
    meter_id: str | None = None


WHOLE = Topic("snapshot")
"""All that is known; who is owed this is owed nothing else."""
LOAD = Topic("load_status")
KINDS = ("snapshot", "meter_reading", "meter_status", "load_status", "alert")


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(text.split(","))
    for unknown in sorted(kinds - set(KINDS)):
        known = " | ".join(KINDS)
        near = nearest(unknown, KINDS)
        raise ValueError(f"must be of {known}, with commas between, not {shown(unknown)}{near}")
    return kinds


_TYPES = Query(
    "types",
    "What to be told besides the snapshot, with commas between; by default all.",
    {"type": "string", "pattern": "^({0})(,({0}))*$".format("|".join(KINDS))},
    _kinds,
    frozenset(KINDS),
)
_METERS: Query[frozenset[str] | None] = Query(
    "meters",
    "Of which meters: ids with commas between; by default of all.",
    {"type": "string"},
    lambda text: frozenset(text.split(",")),
    None,
)
KEYS = (_TYPES, _METERS)
"""The keys of the query."""


@dataclass(frozen=True)
class Subscription:
    """What a client wants to be told, besides the snapshot. meters: ids; None is all."""

    kinds: frozenset[str] = frozenset(KINDS)
    meters: frozenset[str] | None = None

    def covers(self, topic: Topic) -> bool:
        """Whether it wants to be told this."""
        return topic.kind in self.kinds and self.covers_meter(topic.meter_id)

    def covers_meter(self, meter_id: str | None) -> bool:
        """Whether it wants to be told of this meter; what is about none is for all."""
        return self.meters is None or meter_id is None or meter_id in self.meters


def parse_subscription(request: Request) -> Subscription:
    """Check what a client wants to be told. Raises RequestError 400 with all faults at once."""
    asked = QueryReader(request, KEYS)
    subscription = Subscription(asked.value(_TYPES), asked.value(_METERS))
    asked.check()
    return subscription


def changes(before: Snapshot, now: Snapshot) -> list[Topic] | None:
    """What is to be told of the meters and the load; None where the plan is another."""
    topics = []
    if now.meters is not before.meters:
        for id_, state in now.meters.items():
            old = before.meters.get(id_)
            if old is state:
                continue
            if old is None or old.meter is not state.meter:
                return None
            if old.reading is not state.reading:
                topics.append(Topic("meter_reading", id_, id_))
            if _standing(old) != _standing(state):
                topics.append(Topic("meter_status", id_, id_))
        if len(now.meters) != len(before.meters):
            return None
    if now.load is not before.load and now.load != before.load:
        topics.append(LOAD)
    return topics


def _standing(state: MeterState) -> tuple[object, ...]:
    return state.status, state.quality, state.last_error


class Frames:
    """What is told of one snapshot, in frames; each is made when it is first asked for.

    It is rendered meter by meter: one document of hundreds would keep the interpreter from the
    cycle for milliseconds.
    """

    def __init__(self, snapshot: Snapshot, alerts: Mapping[str, Alert]) -> None:
        self._snapshot = snapshot
        self._alerts = alerts
        self._frames: dict[Topic, bytes] = {}
        self._joined: dict[tuple[Subscription, tuple[Topic, ...]], bytes] = {}

    def of(self, topics: Iterable[Topic], subscription: Subscription) -> bytes:
        """The frames of these topics, one after the other; none of an alert that is forgotten."""
        key = subscription, tuple(topics)
        if key not in self._joined:
            self._joined[key] = b"".join(
                self._one(topic, subscription)
                for topic in key[1]
                if topic.kind != "alert" or topic.id in self._alerts
            )
        return self._joined[key]

    def _one(self, topic: Topic, subscription: Subscription) -> bytes:
        if topic == WHOLE:
            return self._frame("snapshot", self._whole(subscription))
        if topic not in self._frames:
            self._frames[topic] = self._frame(topic.kind, render.dump(self._data(topic)))
        return self._frames[topic]

    def _frame(self, kind: str, data: bytes) -> bytes:
        stamp = timestamp(self._snapshot.unix_ms)
        head = f'{{"type":"{kind}","timestamp":"{stamp}","data":'
        return text_frame(b"%b%b}" % (head.encode(), data))

    def _data(self, topic: Topic) -> object:
        if topic == LOAD:
            return render.load_status(self._snapshot.load, self._snapshot)
        if topic.kind == "alert":
            return render.alert(self._alerts[topic.id])
        state = self._snapshot.meters[topic.id]
        if topic.kind == "meter_reading":
            return render.reading(state, self._snapshot)
        meter = render.meter(state)
        return {
            "meterId": meter["id"],
            "name": meter["name"],
            "status": meter["status"],
            "quality": meter["quality"],
            "lastError": meter["lastError"],
            "lastUpdate": meter["lastUpdate"],
        }

    def _whole(self, subscription: Subscription) -> bytes:
        meters = (
            {**render.meter(state), "ageSeconds": self._age_s(state)}
            for id_, state in self._snapshot.meters.items()
            if subscription.covers_meter(id_)
        )
        alerts = (
            render.alert(alert)
            for alert in self._alerts.values()
            if alert.until_ms is None and subscription.covers_meter(alert.meter_id)
        )
        return b'{"meters":[%b],"load":%b,"alerts":[%b]}' % (
            b",".join(map(render.dump, meters)),
            render.dump(self._data(LOAD)),
            b",".join(map(render.dump, alerts)),
        )

    def _age_s(self, state: MeterState) -> float | None:
        return render.reading(state, self._snapshot)["ageSeconds"]
