"""How MQTT and HTTP meters speak: which quantity stands where, and how that is registered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from edge.model import QUANTITY_NAMES
from edge.simulate.device import Source
from edge.simulate.payload import GUIDE_FIELDS, Place, steps_of, word_payload
from edge.simulate.template import measured
from edge.template import Template, target_of

GUIDE_TOPICS = {"power": "power", "energy": "total", "voltage": "voltage", "current": "current"}
"""Quantity → the last level of its topic."""

_KILO = 0.001
_SHELLY_PREFIX = "shellies/"
_SHELLY_TOPICS = {"power": "power", "energy": "total", "voltage": "voltage"}
"""Of a Shelly EM, which has no topic for its current."""
_COUNTED_IN_WATTS = frozenset(
    {"power", "powerExport", "powerL1", "powerL2", "powerL3", "energy", "energyExport"}
)


class Status(NamedTuple):
    """Where an MQTT meter says whether it is there, and its two payloads."""

    topic: str
    online: str = "online"
    offline: str = "offline"


@dataclass(frozen=True)
class Dialect:
    """How one meter speaks. communication: what a registration needs to understand it.

    inverted: the registration turns the sign of power. target: path and query for the `url` that
    the registration needs, too; None where it has none. examples: address → payload of a meter
    that has no places, since it always says the same.
    """

    places: tuple[Place, ...]
    communication: Mapping[str, Any]
    status: Status | None = None
    inverted: bool = False
    target: str | None = None
    examples: Mapping[str, str] = field(default_factory=dict)

    @property
    def addresses(self) -> list[str]:
        """Topics, or paths of URLs, at which it says what it measures."""
        return list(dict.fromkeys([*self.examples, *(place.address for place in self.places)]))

    def measured(self, source: Source) -> Source:
        """Give what the meter must measure for its registration to read `source`."""
        exports = any(place.quantity == "powerExport" for place in self.places)
        return measured(source, exports, self.inverted)


def http_dialect(path: str) -> Dialect:
    """Speak the JSON object that is understood without paths."""
    return Dialect(_fields(path), {}, target=path)


def number_dialect(prefix: str, number: int) -> Dialect:
    """Speak plain numbers in kW, kWh, V and A, each on its own topic below `<prefix>/<number>`."""
    base = f"{prefix}/{number}"
    places = tuple(Place(name, f"{base}/{level}") for name, level in GUIDE_TOPICS.items())
    return _with_topics(places, Status(f"{base}/status"))


def json_dialect(prefix: str, number: int) -> Dialect:
    """Speak one JSON object on `<prefix>/<number>/reading`, understood without paths."""
    topic, status = f"{prefix}/{number}/reading", Status(f"{prefix}/{number}/status")
    communication = {"topicPower": topic, "topicStatus": status.topic}
    return Dialect(_fields(topic), communication, status)


def shelly_dialect(number: int) -> Dialect:
    """Speak as the first channel of a Shelly EM does: plain numbers in W, Wh and V.

    Source: Shelly API, generation 1, "Shelly EM: MQTT".
    """
    base = f"{_SHELLY_PREFIX}shellyem-{number:06x}"
    places = tuple(
        Place(name, f"{base}/emeter/0/{level}", factor=_KILO if name in _COUNTED_IN_WATTS else 1.0)
        for name, level in _SHELLY_TOPICS.items()
    )
    return _with_topics(places, Status(f"{base}/online", "true", "false"))


def template_dialect(template: Template, arguments: Mapping[str, Any]) -> Dialect:
    """Speak as the device of an MQTT or HTTP template does.

    Where a path does more than point to a value, nobody can tell from it what would be understood:
    there it says the template's examples, over and over.

    arguments: values of parameters; a default or example stands for each of the others. Raises
    ValueError, in a sentence, where its payloads cannot be made.
    """
    values = {
        name: str(arguments.get(name, parameter.default or parameter.example))
        for name, parameter in template.parameters.items()
    }
    needed = {
        name: value for name, value in values.items() if value != template.parameters[name].default
    }
    spoken = {
        key: _filled(value, values) if isinstance(value, str) else value
        for key, value in template.communication.items()
    }
    places: tuple[Place, ...] = ()
    examples: dict[str, str] = {}
    try:
        places = _template_places(template, spoken)
    except ValueError as error:
        examples = _template_examples(template, values)
        if not examples:
            remedy = "give its file an [[example]] of what the device says"
            raise ValueError(f"{template.name} cannot be simulated: {error}; {remedy}") from None
    return Dialect(
        places,
        {"template": template.name, **needed},
        _template_status(spoken),
        bool(spoken.get("invert", False)),
        _template_target(template, spoken),
        examples,
    )


def _template_examples(template: Template, values: Mapping[str, str]) -> dict[str, str]:
    said = {_filled(each.address, values): each.payload for each in template.examples}
    if template.protocol == "http":
        return {urlsplit(target).path: payload for target, payload in said.items()}
    return said


def _template_target(template: Template, spoken: Mapping[str, Any]) -> str | None:
    """Give the target of a device that is not found by its `host` alone."""
    if template.protocol != "http":
        return None
    host = template.parameters.get("host")
    found_by_host = host is not None and host.default is None
    if found_by_host and template.communication["url"].startswith("http://{host}/"):
        return None
    return target_of(spoken["url"])


def _template_status(spoken: Mapping[str, Any]) -> Status | None:
    topic = spoken.get("topicStatus")
    if topic is None:
        return None
    # Both generations of Shelly devices say true and false there; all others use words.
    words = ("true", "false") if topic.endswith("/online") else ("online", "offline")
    steps = _steps(spoken.get("statusPath", ""))
    return Status(topic, *(word_payload(word, steps) for word in words))


def _template_places(template: Template, spoken: Mapping[str, Any]) -> tuple[Place, ...]:
    paths = {name: spoken[f"{name}Path"] for name in QUANTITY_NAMES if f"{name}Path" in spoken}
    if template.protocol == "http":
        addresses = dict.fromkeys(paths or GUIDE_FIELDS, urlsplit(spoken["url"]).path or "/")
    else:
        # A path without a topic of its own leads into what stands on that of power.
        topics = {name: spoken.get("topicPower") for name in paths}
        for name in QUANTITY_NAMES:
            topics[name] = spoken.get(f"topic{name[0].upper()}{name[1:]}", topics.get(name))
        addresses = {name: topic for name, topic in topics.items() if topic}
    quantities_at = Counter(addresses.values())
    places = []
    for name, address in addresses.items():
        alone = quantities_at[address] == 1 and template.protocol == "mqtt"
        path = paths.get(name, "" if alone else GUIDE_FIELDS.get(name, name))
        watts = address.startswith(_SHELLY_PREFIX) and name in _COUNTED_IN_WATTS
        factor = float(spoken.get(f"{name}Scale", _KILO if watts else 1.0))
        places.append(Place(name, address, _steps(path), factor))
    return tuple(places)


def _steps(path: str) -> tuple[str | int, ...]:
    steps = steps_of(path)
    if steps is None:
        raise ValueError(f"it reads {path}, which does more than point to a value")
    return steps


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _fields(address: str) -> tuple[Place, ...]:
    return tuple(Place(name, address, (field,)) for name, field in GUIDE_FIELDS.items())


def _with_topics(places: Sequence[Place], status: Status) -> Dialect:
    topics = {f"topic{place.quantity.capitalize()}": place.address for place in places}
    return Dialect(tuple(places), {**topics, "topicStatus": status.topic}, status)
