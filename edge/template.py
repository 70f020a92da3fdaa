"""Device templates: what a model's file says, and a registration's `communication` made from it.

A template is plain data, a TOML table:

- `title`, `maker`, `models`, `protocol`, and `source`, the document that the facts are from;
- `caveats`: what the installer must know, a sentence each; `meter_types`: the usual ones;
- `[communication]`: keys of a registration's `communication`, as far as the model fixes them;
- `[serial]`: line settings of a Modbus model, for a registration that comes to transport `rtu`;
- `[parameters.<name>]`: what the installer gives beside the template; `{name}` in any text of
  `[communication]` is replaced by it;
- `[identify]`: registers by which a scan recognises a Modbus model;
- `[[example]]`: what an MQTT or HTTP device says, for a simulator to say where it cannot tell from
  the paths of `[communication]` what would be understood.

The keys of `[communication]` itself are for `edge.meterspec` to judge, like those of any
registration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import attrs

from edge.checks import between, one_of, text
from edge.errors import Fault, Faulty
from edge.model import METER_TYPES
from edge.structure import (
    Check,
    camel_case,
    key,
    merge_patch,
    shown,
    structure,
    structure_sound,
    unknown_keys,
)

PROTOCOL_NAMES = ("modbus", "mqtt", "http")
"""What a template may be for: the rows of `meterspec.PROTOCOLS`, which this must not import."""
SERIAL_KEYS = ("baudrate", "parity", "stopbits", "bytesize")
"""Keys of `[serial]`; they mean what they mean in `communication`."""

_IDENTIFY_TYPES = {"uint16": 1, "uint32": 2, "uint64": 4}
_PARAMETER_NAME = "[a-z][A-Za-z0-9]{0,31}"
_PLACEHOLDER = re.compile(r"\{(" + _PARAMETER_NAME + r")\}")
_URL_PARTS = re.compile(r"(?:[^:/?#]+:)?(?://[^/?#]*)?([^?#]*)(\?[^#]*)?")
_LONGEST_VALUE = 200
_LONGEST_PAYLOAD = 10_000


@attrs.frozen
class Parameter:
    """What the installer gives beside the template's name.

    default: what holds when it is not given; without one it must be.
    """

    title: str = key(check=text(200))
    example: str = key(check=text(_LONGEST_VALUE))
    default: str | None = key(None, check=text(_LONGEST_VALUE))


def _payload(value: str) -> None:
    if not value.strip() or len(value) > _LONGEST_PAYLOAD:
        raise ValueError(f"must be what the device says, 1 to {_LONGEST_PAYLOAD:,} characters")


@attrs.frozen
class Example:
    """What a device may say. address: a topic of `[communication]`, or path and query of its URL.

    A parameter in the address stands as `{name}`; the payload is taken as it is.
    """

    address: str = key(check=text(500))
    payload: str = key(check=_payload)


@dataclass(frozen=True)
class Identify:
    """Registers by which a scan recognises a Modbus model; either values or text is given.

    address: zero-based; register_type: `holding` or `input`; count: registers to read.
    values: raw unsigned numbers of which one must stand there, most significant word first.
    text: ASCII, two characters a register, that what stands there must start with.
    """

    address: int
    register_type: str
    count: int
    values: tuple[int, ...] = ()
    text: str | None = None


@dataclass(frozen=True)
class Template:
    """A device model. name: that of its file; the rest as in the file, see the module's text.

    Nobody changes the tables within: `expand` gives copies.
    """

    name: str
    title: str
    maker: str
    models: tuple[str, ...]
    protocol: str
    source: str
    caveats: tuple[str, ...]
    meter_types: tuple[str, ...]
    communication: Mapping[str, Any]
    serial: Mapping[str, Any]
    parameters: Mapping[str, Parameter]
    identify: Identify | None
    examples: tuple[Example, ...] = ()


def parse_template(name: str, document: Any) -> Template:
    """Make a Template from a TOML table. Raises Faulty with every fault and its path."""
    keys, found = structure_sound(TemplateKeys, document, stand_ins=_STAND_INS)
    if keys is None:
        raise Faulty(found)
    faults = list(found)
    parameters = _parse_parameters(keys.parameters, faults)
    identify = _parse_identify(keys.identify, faults)
    examples = _parse_examples(keys.example, faults)
    faults += _data_faults(keys.communication, "communication")
    faults += _data_faults(keys.serial, "serial")
    faults += unknown_keys(set(keys.serial) - set(SERIAL_KEYS), SERIAL_KEYS, "serial")
    if not faults:
        faults += _modbus_faults(keys)
        faults += _parameter_faults(keys.communication, parameters)
        faults += _example_faults(keys, examples)
    if faults:
        raise Faulty(faults)
    return Template(
        name=name,
        title=keys.title,
        maker=keys.maker,
        models=tuple(keys.models),
        protocol=keys.protocol,
        source=keys.source,
        caveats=tuple(keys.caveats),
        meter_types=tuple(keys.meter_types),
        communication=keys.communication,
        serial=keys.serial,
        parameters=parameters,
        identify=identify,
        examples=examples,
    )


def expand(
    template: Template, communication: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Fault]]:
    """Lay the template under a registration's `communication`.

    communication: as registered, with `template` and the parameters among its keys; any other key
    in it wins over the template's, table by table, and null takes the template's away.
    Gives `communication` as if it had been written out, which shares no table with the template,
    and the faults of the parameters, with their paths. The example stands in for a faulty one, so
    that no further faults follow from it.
    """
    taken = {"template", *template.parameters}
    own = {name: value for name, value in communication.items() if name not in taken}
    values: dict[str, str] = {}
    faults = []
    for name, parameter in template.parameters.items():
        given = communication.get(name)
        value = _as_text(parameter.default if given is None else given)
        complaint = _complaint(name, value, given, template)
        if complaint:
            faults.append(Fault(f"communication.{name}", complaint))
        values[name] = parameter.example if complaint or value is None else value
    base = _filled(template.communication, values)
    if _is_on_serial_line(template, own):
        base = {name: value for name, value in base.items() if name not in ("host", "port")}
        base.update(template.serial, transport="rtu")
    return merge_patch(base, own), faults


def target_of(url: str) -> str:
    """Give what is asked for at a URL, its path and query. Source: RFC 3986, appendix B."""
    parts = _URL_PARTS.match(url)
    assert parts is not None  # every part may be empty
    return (parts[1] or "/") + (parts[2] or "")


# --- What a file may say -------------------------------------------------------------------------


def _table(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {shown(value)}")


def _list(value: Any) -> None:
    if not isinstance(value, list):
        raise ValueError(f"must be an array of tables, not {shown(value)}")


def _texts(check: Check, least: int = 0) -> Check:
    """Check that a value is a list of at least so many texts, each as `check` wants it."""

    def check_all(value: Any) -> None:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError('must be a list of texts, like ["…", "…"]')
        if len(value) < least:
            raise ValueError(f"must hold at least {least}")
        for item in value:
            check(item)

    return check_all


def _raw_numbers(value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of raw unsigned numbers, like [0x0345]")
    for item in value:
        if type(item) is not int or not 0 <= item < 2**64:
            raise ValueError(f"must be raw unsigned numbers, not {shown(item)}")


def _ascii(value: str) -> None:
    text(250)(value)
    if not value.isascii():
        raise ValueError("must be ASCII, as devices send it")


@attrs.frozen
class TemplateKeys:
    """Keys of a template's file."""

    title: str = key(check=text(100))
    maker: str = key(check=text(100))
    models: Any = key(check=_texts(text(100), least=1))
    protocol: str = key(check=one_of(*PROTOCOL_NAMES))
    source: str = key(check=text(1000))
    communication: Any = key(check=_table)
    caveats: Any = key([], check=_texts(text(500)))
    meter_types: Any = key([], check=_texts(one_of(*METER_TYPES)))
    serial: Any = key({}, check=_table)
    parameters: Any = key({}, check=_table)
    identify: Any = key(None, check=_table)
    example: Any = key([], check=_list)


_STAND_INS = {
    "title": "?", "maker": "?", "models": ["?"], "protocol": "modbus", "source": "?",
    "communication": {},
}  # fmt: skip


@attrs.frozen
class IdentifyKeys:
    """Keys of `[identify]`."""

    address: int = key(check=between(0, 65535))
    register_type: str = key("holding", check=one_of("holding", "input"))
    type: str | None = key(None, check=one_of(*_IDENTIFY_TYPES))
    values: Any = key(None, check=_raw_numbers)
    text: str | None = key(None, check=_ascii)
    count: int | None = key(None, check=between(1, 125))


def _parse_parameters(table: Mapping[str, Any], faults: list[Fault]) -> dict[str, Parameter]:
    parameters = {}
    for name, document in table.items():
        where = f"parameters.{name}"
        if not re.fullmatch(_PARAMETER_NAME, name) or name == "template":
            faults.append(Fault(where, "is no name for a parameter; take letters and digits"))
            continue
        try:
            parameters[name] = structure(Parameter, document)
        except Faulty as exc:
            faults.extend(_moved(fault, where) for fault in exc.faults)
    return parameters


def _parse_identify(table: Any, faults: list[Fault]) -> Identify | None:
    if table is None:
        return None
    try:
        keys = structure(IdentifyKeys, table, camel_case)
    except Faulty as exc:
        faults.extend(_moved(fault, "identify") for fault in exc.faults)
        return None
    found = list(_identify_faults(keys))
    faults.extend(found)
    if found:
        return None
    count = keys.count or _IDENTIFY_TYPES[keys.type or "uint16"]
    return Identify(keys.address, keys.register_type, count, tuple(keys.values or ()), keys.text)


def _parse_examples(tables: list[Any], faults: list[Fault]) -> tuple[Example, ...]:
    examples = []
    for index, table in enumerate(tables):
        try:
            examples.append(structure(Example, table))
        except Faulty as exc:
            faults.extend(_moved(fault, f"example.{index}") for fault in exc.faults)
    return tuple(examples)


def _identify_faults(keys: IdentifyKeys) -> Iterator[Fault]:
    if (keys.values is None) == (keys.text is None):
        yield Fault("identify", "needs either values or text; give one of them")
    elif keys.text is not None:
        if keys.type is not None:
            yield Fault("identify.type", "does not go with text; leave it out")
        if keys.count is None or len(keys.text) > 2 * keys.count:
            message = "must be given with text: its registers, two characters in each"
            yield Fault("identify.count", message)
    else:
        if keys.count is not None:
            yield Fault("identify.count", "goes with text; leave it out, the type says it")
        largest = (1 << 16 * _IDENTIFY_TYPES[keys.type or "uint16"]) - 1
        if max(keys.values) > largest:
            yield Fault("identify.values", f"must be 0 to {largest:,}, or the type be wider")


def _data_faults(value: Any, path: str) -> Iterator[Fault]:
    """What TOML can say and a registration, which is JSON, cannot: dates, times, nan and inf."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _data_faults(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _data_faults(inner, path)
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(path, "must be a finite number")
    elif not isinstance(value, str | bool | int | float):
        yield Fault(path, f"must be text, a number, true or false, not {shown(value)}")


def _modbus_faults(keys: TemplateKeys) -> Iterator[Fault]:
    if keys.protocol != "modbus":
        for name, table in (("serial", keys.serial), ("identify", keys.identify)):
            if table:
                yield Fault(name, f"does not go with protocol {keys.protocol!r}; leave it out")


def _example_faults(keys: TemplateKeys, examples: tuple[Example, ...]) -> Iterator[Fault]:
    if examples and keys.protocol == "modbus":
        yield Fault("example", "does not go with protocol 'modbus'; leave it out")
        return
    left = {
        target_of(value) if name == "url" else value
        for name, value in keys.communication.items()
        if isinstance(value, str) and (name == "url" or name.startswith("topic"))
    }
    for index, example in enumerate(examples):
        if example.address not in left:
            message = "must be a topic or the path and query of the url in [communication], once"
            yield Fault(f"example.{index}.address", f"{message}, not {shown(example.address)}")
        left.discard(example.address)


def _parameter_faults(
    communication: Mapping[str, Any], parameters: Mapping[str, Parameter]
) -> Iterator[Fault]:
    used = set()
    for path, value in _texts_in(communication, "communication"):
        for name in _PLACEHOLDER.findall(value):
            used.add(name)
            if name not in parameters:
                message = f"uses {{{name}}}; declare it as [parameters.{name}]"
                yield Fault(path, message)
    for name, parameter in parameters.items():
        where = f"parameters.{name}"
        if name in communication:
            yield Fault(where, "is a key of [communication], too; call it something else")
        if name not in used:
            yield Fault(where, f"is used nowhere; write {{{name}}} in [communication]")
        for place in _places_of(name, communication):
            for said in ("example", "default"):
                value = getattr(parameter, said)
                if value is not None and not place.takes(value):
                    yield Fault(f"{where}.{said}", f"must be {place.words}, not {shown(value)}")


def _moved(fault: Fault, where: str) -> Fault:
    return Fault(f"{where}.{fault.path}" if fault.path else where, fault.message)


# --- Parameters and what they are put into -------------------------------------------------------


class _Place(NamedTuple):
    """Where a parameter is put: what goes there without changing the meaning of what is around."""

    takes: Callable[[str], bool]
    words: str


def _fits_topic(value: str) -> bool:
    """Source: MQTT 5.0, 4.7: `+` and `#` are wildcards, a level may be any other text."""
    return not set("+#") & set(value) and value == value.strip() and all(value.split("/"))


def _fits_url(value: str) -> bool:
    """A host with or without a port, or a word. Source: RFC 3986, 2.3 and 3.2.2."""
    return re.fullmatch(r"[A-Za-z0-9._~:\[\]-]+", value) is not None


def _fits_anywhere(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value) is not None


_TOPIC = _Place(_fits_topic, "a part of a topic without '+' and '#', nor '/' at an end")
_URL = _Place(_fits_url, "a host name, an IP address or a word, without '/', '?', '#', '@', '%'")
_ANYWHERE = _Place(_fits_anywhere, "letters and digits, with '-' or '_' between them")


def _places_of(name: str, communication: Mapping[str, Any]) -> Iterator[_Place]:
    for outer, table in communication.items():
        if any(name in _PLACEHOLDER.findall(value) for _, value in _texts_in(table, outer)):
            yield _TOPIC if outer.startswith("topic") else _URL if outer == "url" else _ANYWHERE


def _texts_in(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts_in(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_in(inner, path)


def _as_text(value: Any) -> str | None:
    """A parameter as text; a whole number, like that of a channel, may be given as one."""
    if type(value) is int and 0 <= value < 10**18:
        return str(value)
    return value if isinstance(value, str) else None


def _complaint(name: str, value: str | None, given: Any, template: Template) -> str | None:
    """Say what is wrong with a parameter; given: as registered, value: that as text."""
    parameter = template.parameters[name]
    like = f"like {parameter.example!r}"
    if value is None:
        if given is not None:
            return f"must be text, {like}, not {shown(given)}"
        return f"is missing; template {template.name!r} needs it: {parameter.title}, {like}"
    if not value or len(value) > _LONGEST_VALUE or not value.isprintable():
        return f"must be 1 to {_LONGEST_VALUE} printable characters, {like}, not {shown(value)}"
    for place in _places_of(name, template.communication):
        if not place.takes(value):
            return f"must be {place.words}, {like}, not {shown(value)}"
    return None


def _filled(value: Any, parameters: Mapping[str, str]) -> Any:
    """A copy with the parameters put in."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: parameters[match[1]], value)
    if isinstance(value, dict):
        return {name: _filled(inner, parameters) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, parameters) for inner in value]
    return value


def _is_on_serial_line(template: Template, own: Mapping[str, Any]) -> bool:
    if "serialPort" in own and not {"host", "transport"} & own.keys():
        return True
    transport: object = own.get("transport", template.communication.get("transport"))
    return transport == "rtu"
