"""What is to be published of a snapshot: each message once, when it is news. Pure.

The order is part of what is said: a meter's status goes out before a reading that is not fresh, and
after one that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from edge import __version__, render
from edge.homeassistant import Topics, meter_device, service_device
from edge.model import MeterState, Snapshot, Status

LOAD_EVERY_S = 10.0
"""How old a load status may get on the broker, though nothing changed."""
LOAD_EXPIRES_S = 30
"""After what time without a load status Home Assistant takes it for gone."""


class Message(NamedTuple):
    """What is to be retained on a topic; an empty payload clears it."""

    topic: str
    payload: bytes


class Board:
    """What of a snapshot is news: it remembers what the last one brought. One thread only."""

    def __init__(self, topics: Topics, site_name: str, *, discovery: bool) -> None:
        self._topics = topics
        self._site_name = site_name
        self._discovery = discovery
        self._anew = True
        self._meters: Mapping[str, MeterState] = {}
        self._load: Snapshot | None = None
        self._given: dict[str, frozenset[str]] = {}
        self._announced: dict[str, frozenset[str]] = {}

    def start_anew(self) -> None:
        """Take all for news at the next look."""
        self._anew = True

    def look(self, snapshot: Snapshot) -> Iterator[Message]:
        """Give what is to be published now, in this order; to be exhausted before the next look."""
        before, self._meters = self._meters, snapshot.meters
        anew, self._anew = self._anew, False
        if anew and self._discovery:
            yield self._service()
        if anew or before is not snapshot.meters:
            for meter_id in before.keys() - snapshot.meters.keys():
                yield from self.cleared(meter_id)
            for meter_id, state in snapshot.meters.items():
                last = before.get(meter_id)
                if anew or state is not last:
                    yield from self._meter(state, last, anew, snapshot)
        if anew or self._load is None or _load_is_due(self._load, snapshot):
            self._load = snapshot
            yield Message(self._topics.load, self._load_payload(snapshot))

    def cleared(self, meter_id: str) -> Iterator[Message]:
        """Clear what is retained of a meter; last what tells that there is something to clear."""
        self._given.pop(meter_id, None)
        self._announced.pop(meter_id, None)
        if self._discovery:
            yield Message(self._topics.discovery(meter_id), b"")
        yield Message(self._topics.reading(meter_id), b"")
        yield Message(self._topics.meter_status(meter_id), b"")

    def _meter(
        self, state: MeterState, last: MeterState | None, anew: bool, snapshot: Snapshot
    ) -> Iterator[Message]:
        meter_id = state.meter.id
        changed = last is None or last.meter is not state.meter
        if self._discovery and (self._gives_more(state, changed) or anew):
            yield self._device(state)
        turned = changed or anew or last is None or last.status is not state.status
        status = Message(self._topics.meter_status(meter_id), state.status.value.encode())
        # A reading that is not fresh must not come before the word that it is not.
        if turned and state.status is not Status.ONLINE:
            yield status
        if turned or last is None or last.reading is not state.reading:
            yield Message(self._topics.reading(meter_id), self._reading_payload(state, snapshot))
        if turned and state.status is Status.ONLINE:
            yield status

    def _gives_more(self, state: MeterState, changed: bool) -> bool:
        """Take in what a meter gives; tell whether that is more, or may be other, than before."""
        given = frozenset() if changed else self._given[state.meter.id]
        values = state.reading.values.keys() if state.reading is not None else frozenset()
        if not changed and values <= given:
            return False
        self._given[state.meter.id] = given | values | state.meter.communication.quantities
        return True

    def _service(self) -> Message:
        topics = self._topics
        document = service_device(topics, self._site_name, LOAD_EXPIRES_S, __version__)
        return Message(topics.discovery(None), render.dump(document))

    def _device(self, state: MeterState) -> Message:
        meter_id = state.meter.id
        given = self._given[meter_id]
        announced = self._announced[meter_id] = self._announced.get(meter_id, frozenset()) | given
        gone = sorted(announced - given)
        document = meter_device(state.meter, self._topics, given, gone, __version__)
        return Message(self._topics.discovery(meter_id), render.dump(document))

    def _reading_payload(self, state: MeterState, snapshot: Snapshot) -> bytes:
        reading = dict(render.reading(state, snapshot))
        del reading["ageSeconds"]  # it would stand still on the broker
        document = {"site": self._topics.site_id, **reading, "status": state.status.value}
        return render.dump(document)

    def _load_payload(self, snapshot: Snapshot) -> bytes:
        status = render.load_status(snapshot.load, snapshot)
        return render.dump({"site": self._topics.site_id, **status})


def _load_is_due(last: Snapshot, snapshot: Snapshot) -> bool:
    # By the snapshots' own time: while the control cycle stands still, nothing is made to look new.
    return last.load != snapshot.load or snapshot.mono_s - last.mono_s >= LOAD_EVERY_S
