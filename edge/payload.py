"""Payloads into values, for MQTT and HTTP alike: pure, no socket, no clock.

A payload is one number, with or without a unit and quotes, or a JSON document. What a document
leaves out is not in the result, since a message may hold only what changed; what it holds without
a value (`null`, `unavailable`, NaN) is None there. The two are never mixed up, and neither is
ever 0. What cannot be understood for certain is unreadable.

A number becomes a value by one factor: the registration's scale if there is one, or else the
unit that stands beside it, or else the unit in the name of its field, or else what is assumed.
Reckoning is in whole numbers and rounds once, at the end: 1543.27 W is 1.54327 kW.

Sources: RFC 8259 (JSON), which leaves what a repeated name means to the reader; jmespath.org for
the paths.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

from edge.communication import Field
from edge.errors import BadReply
from edge.model import QUANTITIES
from edge.paths import ABSENT, follow, printable

NAMES: Mapping[str, tuple[str, ...]] = {
    **{
        quantity.name: (
            quantity.name,
            re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), quantity.name),
        )
        for quantity in QUANTITIES
    },
    "power": ("power_kw", "power", "activePower"),
    "energy": ("total_kwh", "energy", "totalEnergy"),
    "powerFactor": ("power_factor", "powerFactor"),
}
"""Quantity → the names that it may have in a JSON object, first come first served."""

NAMED = ("power", "energy", "voltage", "current", "powerFactor", "frequency")
"""Quantities that are looked for by name where a registration gives no path. Not powerExport: one
device gives net power and its export beside it, another import and export, under the same names."""

_QUANTITY_OF = {name: quantity for quantity in NAMED for name in NAMES[quantity]}
_NAMES_WITH_UNIT = frozenset({"power_kw", "total_kwh"})
_DEEPEST = 64
"""Levels of a document; what meters send has six at most. The parser recurses, and so do paths."""
_LONGEST_NUMBER = 80
_NO_VALUE = frozenset(
    {"", "unavailable", "unknown", "none", "null"}
    | {sign + word for sign in ("", "+", "-") for word in ("nan", "inf", "infinity")}
)

_UNIT_OF = {quantity.name: quantity.unit for quantity in QUANTITIES}
_KILO = Fraction(1000)
_UNITS: Mapping[str, tuple[str, Fraction]] = {
    **{unit: (unit, Fraction(1)) for unit in ("kW", "kWh", "V", "A", "Hz", "kvar", "kVA")},
    **{unit[1:]: (unit, 1 / _KILO) for unit in ("kW", "kWh", "kvar", "kVA")},
    "MW": ("kW", _KILO),
    "MWh": ("kWh", _KILO),
    "kV": ("V", _KILO),
    "mA": ("A", 1 / _KILO),
}
# Other spellings are clear too (`KWH`, `hz`), but for a first letter that is milli or mega.
_MISSPELT = {unit.casefold(): known for unit, known in _UNITS.items() if unit[0] not in "mM"}

_PLAIN = re.compile(rb"\s*([+-]?[0-9]{1,40})(?:\.([0-9]{0,40}))?\s*")
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:(?P<mark>[.,])(?P<decimals>[0-9]*))?"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,3}))?\s*(?P<unit>[A-Za-z]*)"
)
_OUTLINE = re.compile(rb'("(?:[^"\\]|\\.)*"\s*:)|"(?:[^"\\]|\\.)*"|([{}])')
"""The names and braces of a JSON object; a text that is a value is passed over."""
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def read(payload: bytes, fields: Sequence[Field], *, fill: bool = False) -> dict[str, float | None]:
    """Give quantity → value in the quantity's unit, finite; None where the payload says "none".

    A single number is for the one field without a path. fill: every further quantity of NAMED that
    a JSON object names is given too, as far as it is readable.
    Raises BadReply, with the start of the payload, when it is unreadable for one of the fields.
    """
    values, error = read_parts(payload, fields, fill=fill)
    if error is not None:
        raise error
    return values


def read_parts(
    payload: bytes, fields: Sequence[Field], *, fill: bool = False
) -> tuple[dict[str, float | None], BadReply | None]:
    """As `read`, but give what is readable of a JSON document, and beside it what is not."""
    try:
        plain = _PLAIN.fullmatch(payload)
        if plain is None:
            return _read_text(payload, fields, fill)
        field = _only(fields)
        whole, decimals = plain.groups(b"")
        factor = field.assumed if field.scale is None else field.scale
        return {field.quantity: _multiply(int(whole + decimals), -len(decimals), factor)}, None
    except ValueError as exc:
        return {}, _unreadable(payload, exc)


def _unreadable(payload: bytes, why: Exception) -> BadReply:
    return BadReply(f"Payload {shown(payload)} is unreadable: {why}.")


def numbers(payload: bytes, most: int = 40) -> dict[str, float]:
    """Give path → number for what a JSON payload holds, in its order; for who looks for a path.

    Names and paths that are too long to be shown are left out. Empty for what is no JSON document.
    Never raises.
    """
    try:
        document = _parse(_decoded(payload))
    except ValueError:
        return {}
    return dict(islice(_walk(document), most))


def word(payload: bytes, path: str | None) -> str:
    """Give the word that a payload comes to: its text, or what its JSON has at a path.

    Raises BadReply where that is no text, number, true or false.
    """
    try:
        text = _decoded(payload)
        if path is None and text[:1] != '"':
            return text
        document = _parse(text)
        found = document if path is None else follow(document, path)
        if isinstance(found, str):
            return found.strip()
        if not isinstance(found, bool | int | float):
            raise ValueError("it has no word there")
        return json.dumps(found)
    except ValueError as exc:
        raise _unreadable(payload, exc) from None


def supersedes(later: bytes, earlier: bytes) -> bool:
    """Whether a message says all that an earlier one on its topic said: objects may be partial."""
    if earlier[:1] != b"{":
        return True
    # Most messages of a device have one outline, which is cheaper to see than to understand.
    if _OUTLINE.findall(earlier) == _OUTLINE.findall(later):
        return True
    return names_in(earlier) <= names_in(later)


def names_in(payload: bytes) -> frozenset[str]:
    """Give a key for each name in a JSON object, those in objects within it too.

    The keys are for comparing, within one process: what a later object names too, it supersedes.
    Empty for anything else than an object.
    """
    try:
        document = _parse(_decoded(payload))
    except ValueError:
        return frozenset()
    keys: set[str] = set()
    pending = [("", document)] if isinstance(document, dict) else []
    while pending:
        within, inner = pending.pop()
        # Its hash, since a whole path would repeat a name of half a megabyte for all within it.
        prefix = hash(within)
        for name, value in inner.items():
            key = f"{prefix}.{name}"
            keys.add(key)
            if isinstance(value, dict):
                pending.append((key, value))
    return frozenset(keys)


def likely_path(quantity: str, paths: Collection[str]) -> str | None:
    """Give the path whose last name most likely means the quantity."""
    words = {path: _WORD.findall(_LAST_NAME.search(path)[1]) for path in paths}  # type: ignore[index]
    for telling in _TELLING_WORDS.get(quantity, ()):
        for path in paths:
            if telling in (word.lower() for word in words[path]):
                return path
    return None


def shown(payload: bytes, characters: int = 80) -> str:
    """Quote the start of a payload, printable: so many characters, or less where most are not."""
    return f"'{printable(payload[: 4 * characters].decode('utf-8', 'replace'), characters)}'"


# --- Text ----------------------------------------------------------------------------------------


def _read_text(
    payload: bytes, fields: Sequence[Field], fill: bool
) -> tuple[dict[str, float | None], BadReply | None]:
    text = _decoded(payload)
    document = _parse(text) if text[:1] in ("{", "[", '"') else text
    if isinstance(document, dict | list):
        values, why = _read_document(document, fields, fill)
        return values, _unreadable(payload, why) if why else None
    if document.strip().casefold() in _NO_VALUE:
        return {field.quantity: None for field in fields}, None
    field = _only(fields)
    return {field.quantity: _value(document, field, field.assumed)}, None


def _decoded(payload: bytes) -> str:
    try:
        return payload.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text; let the device send a number or JSON") from None


def _only(fields: Sequence[Field]) -> Field:
    """The field that a payload is for which is no more than one number."""
    named = [field for field in fields if field.path is None]
    if len(named) == 1:
        return named[0]
    wanted = "each of several quantities" if named else "what a path leads to"
    raise ValueError(f"it is no JSON object in which to find {wanted}")


def _value(raw: object, field: Field, assumed: Fraction) -> float | None:
    """One number of a payload or document. Raises ValueError where it is none."""
    if raw is None or (isinstance(raw, float) and math.isnan(raw)):
        return None
    if isinstance(raw, str):
        text = raw.strip()
        return None if text.casefold() in _NO_VALUE else _number(text, field, assumed)
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        kind = "true or false" if isinstance(raw, bool) else "a list or an object"
        raise ValueError(f"it has {kind} for {field.quantity}; a number is needed")
    if isinstance(raw, float):
        if math.isinf(raw):
            raise ValueError(f"{field.quantity} is too large a number")
        return _number(repr(raw), field, assumed)  # repr gives the digits that were sent
    return _multiply(raw, 0, assumed if field.scale is None else field.scale)


def _number(text: str, field: Field, assumed: Fraction) -> float:
    """A number with or without a unit."""
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
    if match is None or not (match["whole"] or match["decimals"]):
        raise ValueError(f"{field.quantity} is neither a number nor JSON with a number in it")
    whole, decimals, exponent = match["whole"], match["decimals"] or "", match["exponent"] or "0"
    grouped = len(decimals) == 3 and 1 <= len(whole) <= 3 and whole[0] != "0"
    if match["mark"] == "," and (grouped or not whole):
        raise ValueError(
            f"the comma in {field.quantity} may stand for a decimal point or for thousands; let "
            "the device send a point"
        )
    factor = _factor(match["unit"], field, assumed)
    return _multiply(int(match["sign"] + whole + decimals), int(exponent) - len(decimals), factor)


def _factor(unit: str, field: Field, assumed: Fraction) -> Fraction:
    """By what a number is multiplied that has this unit, empty for none."""
    known = _UNITS.get(unit) or _MISSPELT.get(unit.casefold())
    if unit and (known is None or known[0] != _UNIT_OF[field.quantity]):
        wanted = _UNIT_OF[field.quantity] or "a plain number"
        raise ValueError(f"{field.quantity} has the unit {unit!r}, and is {wanted} here")
    if field.scale is not None:
        return field.scale
    return known[1] if known else assumed


def _multiply(mantissa: int, exponent: int, factor: Fraction) -> float:
    """Mantissa × 10**exponent × factor, rounded once: true division of whole numbers does."""
    numerator, denominator = mantissa * factor.numerator, factor.denominator
    if exponent < 0:
        denominator *= 10**-exponent
    else:
        numerator *= 10**exponent
    try:
        return numerator / denominator
    except OverflowError:
        raise ValueError("the number is too large") from None


# --- JSON ----------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name stands twice in one of its JSON objects")
    return document


def _int(digits: str) -> int | float:
    # Beyond that a float is infinite, and reading the digits of an int takes ever longer.
    if len(digits) <= 310:
        return int(digits)
    return -math.inf if digits[0] == "-" else math.inf


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_int, parse_constant=lambda _word: None
)


def _parse(text: str) -> Any:
    """Parse JSON; NaN and ±Infinity come as None. Raises ValueError."""
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(text)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise ValueError(f"it is no JSON ({exc.msg}, character {exc.pos + 1})") from None


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[0][0] in "[{":
            depth += 1
        elif token[0][0] in "]}":
            depth -= 1
        if depth > _DEEPEST:
            raise ValueError(f"its JSON is nested deeper than {_DEEPEST} levels")


def _read_document(
    document: dict[str, Any] | list[Any], fields: Sequence[Field], fill: bool
) -> tuple[dict[str, float | None], ValueError | None]:
    """The values, and why the first one that is unreadable is."""
    if isinstance(document, list) and all(field.path is None for field in fields):
        raise ValueError("it is a list; give a path into it, such as '[0].power'")
    filled: set[str] = set()
    if fill and isinstance(document, dict):
        named = {_QUANTITY_OF[name] for name in document if name in _QUANTITY_OF}
        filled = named - {field.quantity for field in fields}
    values: dict[str, float | None] = {}
    why: ValueError | None = None
    for field in (*fields, *map(Field, filled)):
        try:
            raw, assumed = _find(document, field)
            if raw is not ABSENT:
                values[field.quantity] = _value(raw, field, assumed)
        except ValueError as exc:
            if field.quantity not in filled:  # what nobody asked for may be anything
                why = why or exc
    return values, why


def _find(document: Any, field: Field) -> tuple[Any, Fraction]:
    """What a document holds for a field, or ABSENT; and the factor if it comes without a unit."""
    if field.path is not None:
        return follow(document, field.path), field.assumed
    names = NAMES[field.quantity] if isinstance(document, dict) else ()
    for name in names:
        raw = document.get(name, ABSENT)
        # `energy` may be an object that holds several counters: then it is not what is meant.
        if raw is not ABSENT and not isinstance(raw, dict | list):
            return raw, Fraction(1) if name in _NAMES_WITH_UNIT else field.assumed
    return ABSENT, field.assumed


# --- Looking for paths ---------------------------------------------------------------------------

_MOST_NODES = 5000
_MOST_INNER = 100
_LONGEST_NAME = 100
_LONGEST_SHOWN_PATH = 200
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LAST_NAME = re.compile(r'([^."\[\]]*)"?(?:\[[0-9]+\])*$')
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_TELLING_WORDS: Mapping[str, tuple[str, ...]] = {
    "power": ("power", "apower", "pwr", "watt", "watts", "wnow", "ccp", "w", "p"),
    "energy": ("energy", "kwh", "wh", "total", "lifetime", "net", "cec"),
    "voltage": ("voltage", "volt", "volts", "u", "v"),
    "current": ("current", "amps", "amp", "i"),
    "powerFactor": ("factor", "pf"),
    "frequency": ("frequency", "freq", "hz", "f"),
}


def _walk(document: Any) -> Iterator[tuple[str, float]]:
    """All numbers in a document, in its order, with the paths that lead to them."""
    pending = [("", document)]
    for _ in range(_MOST_NODES):
        if not pending:
            return
        path, value = pending.pop()
        inner: list[tuple[str, Any]] = []
        if isinstance(value, dict):
            for name in islice(value, _MOST_INNER):
                if len(name) <= _LONGEST_NAME:
                    step = name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)
                    inner.append((f"{path}.{step}" if path else step, value[name]))
        elif isinstance(value, list):
            inner = [(f"{path}[{at}]", item) for at, item in enumerate(value[:_MOST_INNER])]
        elif (number := _plain_number(value)) is not None:
            yield path, number
        pending += (each for each in reversed(inner) if len(each[0]) <= _LONGEST_SHOWN_PATH)


def _plain_number(value: object) -> float | None:
    try:
        return _value(value, Field("powerFactor"), Fraction(1))
    except ValueError:
        return None
