"""Quantities into the payloads of MQTT and HTTP meters: plain numbers, or numbers inside JSON.

The way back (payloads into quantities) is the service's own; nothing is shared with it, so that a
fault in one of the two shows as a wrong value.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from edge.simulate.device import Source
from edge.simulate.fault import Fault, FaultKind

Step = str | int
"""A key of a JSON object, or an index into an array."""

GUIDE_FIELDS = {
    "power": "power_kw",
    "energy": "total_kwh",
    "voltage": "voltage",
    "current": "current",
    "powerFactor": "power_factor",
    "frequency": "frequency",
}
"""Quantity → its field in the JSON object that needs no paths."""

_DECIMALS = 4
_STEP = re.compile(r'(?:^|\.)(?:([A-Za-z_]\w*)|"([^"\\]+)")|\[(\d+)\]', re.ASCII)


class Place(NamedTuple):
    """Where a payload carries a quantity.

    address: topic, or path of a URL. steps: the way into its JSON; none where the payload is the
    number itself. factor: what the number is to be multiplied by to be in the quantity's unit.
    """

    quantity: str
    address: str
    steps: tuple[Step, ...] = ()
    factor: float = 1.0


def steps_of(path: str) -> tuple[Step, ...] | None:
    """Read a JMESPath of names and indices; None for one that does more than point.

    Source: JMESPath Specification, sub-expressions and index expressions.
    """
    steps: list[Step] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            return None
        name, quoted, index = match.groups()
        steps.append(int(index) if index else name or quoted)
        position = match.end()
    return tuple(steps)


def payloads(places: Sequence[Place], values: Mapping[str, float]) -> dict[str, str]:
    """Give each address its payload. values: by quantity, each in its unit, at least those placed.

    A number has four decimals at most. NaN is null in JSON, and `nan` where it stands alone.
    """
    documents: dict[str, Any] = {}
    for place in places:
        value = values[place.quantity]
        number = round(value / place.factor, _DECIMALS) if math.isfinite(value) else None
        documents[place.address] = _put(documents.get(place.address), place.steps, number)
    return {address: _text(document) for address, document in documents.items()}


def word_payload(word: str, steps: tuple[Step, ...]) -> str:
    """Give a payload that has a word where the steps lead."""
    return _text(_put(None, steps, word))


def _put(document: Any, steps: tuple[Step, ...], value: float | str | None) -> Any:
    """Give the document with the value at the end of the steps."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        table = document or {}
        return {**table, step: _put(table.get(step), rest, value)}
    items = list(document or [])
    items += [None] * (step + 1 - len(items))
    items[step] = _put(items[step], rest, value)
    return items


def _text(document: Any) -> str:
    if isinstance(document, dict | list):
        return json.dumps(document)
    return "nan" if document is None else str(document)


class PayloadMeter:
    """A meter that speaks in payloads: what it shows, and what is wrong with it.

    examples: address → payload that is always the same, beside what the places make of the source.
    May be used from any thread.
    """

    def __init__(
        self,
        transport: str,
        source: Source,
        places: Sequence[Place],
        examples: Mapping[str, str] | None = None,
    ) -> None:
        self.requests = 0
        """Requests answered, on MQTT publications made, faulty ones too."""
        self._transport = transport
        self._source = source
        self._places = tuple(places)
        self._examples = examples or {}
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._left: int | None = None
        self._shown: Callable[[], Mapping[str, float]] = source

    def set_fault(self, fault: Fault) -> None:
        """Switch a fault on; it takes the place of the one before.

        Raises ValueError where this meter cannot have that fault.
        """
        fault.check_transport(self._transport)
        if fault.kind is FaultKind.REFUSE:
            raise ValueError("a meter cannot refuse connections: give the fault to its endpoint")
        if fault.kind is FaultKind.NAN and self._examples:
            raise ValueError("a meter that always says the same has no nan: take another fault")
        values = dict(self._source())
        with self._lock:
            if fault.kind is FaultKind.FROZEN:
                self._shown = lambda: values
            elif fault.kind is FaultKind.NAN:
                self._shown = lambda: dict.fromkeys(values, math.nan)
            else:
                self._shown = self._source
            self._left = fault.requests
            self._fault = fault

    def heal(self) -> None:
        """Switch the fault off."""
        with self._lock:
            self._heal()

    def take(self) -> tuple[dict[str, str], Fault | None]:
        """Give each address its payload now, and the fault that is to spoil the answer."""
        with self._lock:
            self.requests += 1
            shown, fault = self._shown, self._fault
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    self._heal()
        return {**self._examples, **payloads(self._places, shown())}, fault

    def _heal(self) -> None:
        self._fault = self._left = None
        self._shown = self._source
