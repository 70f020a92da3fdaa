"""Tell whether a reading is physically possible, and if not, what is most likely set wrong.

A meter that is read at the wrong address, type, word order or scale still answers, and its numbers
look like any others. They are caught by what they would mean: what lies outside of the limits in
`physics` is wrong beyond doubt, so such a reading may be kept from the load calculation.

Zero volts are suspect too: a wrong address often holds the empty high word of a counter, and its
power of 0 kW would make the building look empty for ever. So are some powers within the range: an
integer at the end of its type's range is "not available" to most meters, and a float below a
nanowatt is a swapped one, or an integer: no meter resolves that.

The raw words tell the causes apart. Each is tried in turn: the words are read the other way, and
where that gives a believable value, it is the advice. What is merely a wrong scale leaves no trace
in the words, so powers of ten come last.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

from edge.communication import RawWords, Register
from edge.model import QUANTITIES
from edge.physics import FREEING_LOAD, POSSIBLE_LOAD, Site, family

_JUDGED = tuple(
    quantity
    for quantity in QUANTITIES
    if family(quantity.name) in ("power", "voltage", "frequency", "powerFactor")
)
"""What a counter or a current says is used for nothing that could harm."""
_TINIEST_KW = 1e-12
_TINIEST_FLOAT = 1e-37
"""Small integers that are read as float32 or float64 come out below this."""

_W_FIRST = (-3, -4, -5, -6, -7, -8, -9)
"""Powers of ten to try on a power: the meter counts in W, or in 0.1 W, 0.01 W and so on."""
_NEAREST_FIRST = (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6)

_COMPUTED = "a quantity it is computed from is wrong, so check the addresses and scales of those"


@dataclass(frozen=True)
class _Range:
    """Where a value is plausible, and between which magnitudes it explains another one."""

    low: float
    high: float
    least: float
    most: float
    exponents: tuple[int, ...] = _NEAREST_FIRST

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def is_good(self, value: float) -> bool:
        return value in self and self.least <= abs(value) <= self.most


def hints(
    values: Mapping[str, float],
    raw: RawWords,
    meter_type: str,
    grid_capacity_kw: float,
) -> tuple[str, ...]:
    """Say what in a reading cannot be true: the sentences of `complaints`."""
    return tuple(complaints(values, raw, meter_type, grid_capacity_kw).values())


def complaints(
    values: Mapping[str, float],
    raw: RawWords,
    meter_type: str,
    grid_capacity_kw: float,
) -> dict[str, str]:
    """Say what in a reading cannot be true: quantity → one sentence, in the order of QUANTITIES.

    values: quantity name to value, in that quantity's unit. raw: for what was read over Modbus, the
    register and its words (16-bit unsigned, most significant first); empty for other protocols.
    A sentence gives the value, the plausible range, the likely fault and what to set instead.
    """
    site = Site(meter_type, grid_capacity_kw)
    found = {}
    for quantity in _JUDGED:
        name = quantity.name
        value = values.get(name)
        if value is None:
            continue
        if site.is_possible(name, values) and not _is_no_power(name, raw):
            continue
        plausible = _range_of(name, site)
        # A power's range is so wide that two explanations may fit equally well.
        advice = list(islice(_advice(name, value, raw, plausible), 2 if _is_power(name) else 1))
        reads = f"{value:.7g} {quantity.unit}".rstrip()
        cause = f"likely {', or '.join(advice)}" if advice else _unexplained(value)
        bounds = _bounds(name, value, plausible)
        found[name] = f"{name} reads {reads}, {bounds}: {cause}."
    return found


def _range_of(name: str, site: Site) -> _Range:
    low, high = site.limits(name)
    if _is_power(name):
        return _Range(low, high, least=0.001, most=site.grid_capacity_kw, exponents=_W_FIRST)
    return _Range(low, high, least=max(low, 0.001), most=high)


def _is_power(name: str) -> bool:
    return family(name) == "power"


def _bounds(name: str, value: float, plausible: _Range) -> str:
    if value in plausible:
        return "which no meter means as a power"
    if _is_power(name):
        bound, other = plausible.high, plausible.low
        if value < 0:
            bound, other = other, bound
        times = FREEING_LOAD if abs(bound) < abs(other) else POSSIBLE_LOAD
        return f"beyond {times} times the grid capacity, {bound:.7g}"
    if name == "powerFactor":
        return "outside -1..1"
    return f"outside {plausible.low:g}..{plausible.high:g}"


def _is_no_power(name: str, raw: RawWords) -> bool:
    """Look at the words, not at the value, which may be a difference and carry float noise."""
    if not _is_power(name) or name not in raw:
        return False
    register, words = raw[name]
    if register.kind == "float":
        return 0.0 < abs(_scaled(register, words)) < _TINIEST_KW
    return _ends_its_range(register, words)


def _advice(name: str, value: float, raw: RawWords, plausible: _Range) -> Iterator[str]:
    """Give the likely faults, each with what to do, the likeliest first."""
    if name == "powerFactor" and 1.0 < abs(value) <= 2.0:
        yield "the meter codes the quadrant into it, so map another register or leave it out"
        return
    scale = ""
    if name in raw:
        register, words = raw[name]
        if _scaled(register, words) in plausible and value not in plausible:
            yield _COMPUTED
            return
        no_value = register.kind != "float" and _means_no_value(words)
        if no_value:
            yield (
                "the meter marks it as not available, so set notAvailable to "
                f"{int.from_bytes(_bytes(words), 'big')} there, or check the address"
            )
        readings = list(_other_readings(name, register, words, plausible))
        yield from readings
        if no_value:
            return
        if readings and len(words) > 1:  # two words or more that fit are no coincidence
            return
        scale = f" (now {_decimal(_scale(register))})"
    elif raw:
        yield _COMPUTED
        return
    for exponent in plausible.exponents:
        factor = 10.0**exponent
        if plausible.is_good(value * factor):
            yield (
                f"the scale is wrong, so multiply {name}Scale{scale} by {_decimal(factor)} "
                f"to get {value * factor:.7g}"
            )
            return


def _other_readings(
    name: str, register: Register, words: Sequence[int], plausible: _Range
) -> Iterator[str]:
    """Read the words as another type or in the other order, and tell where that explains them."""
    bits = 16 * len(words)
    if register.kind == "uint" and words[0] >= 0x8000:
        signed = _number("int", words) * _scale(register)
        if signed in plausible and abs(signed) <= plausible.most:
            yield f"it is signed, so set type to int{bits} to get {signed:.7g}"
    if len(words) > 1:
        swapped = _scaled(register, words[::-1])
        if plausible.is_good(swapped):
            order = "little" if register.words[0] < register.words[-1] else "big"
            yield f"its words are swapped, so set wordOrder to {order} to get {swapped:.7g}"
            return
    if register.kind == "float":
        if abs(_number("float", words)) < _TINIEST_FLOAT and any(words):
            yield f"it is an integer, so set type to uint{bits} or int{bits}"
        return
    # One word alone may be the high half of a float32; the low half only adds digits to it.
    number = _number("float", words if len(words) > 1 else (words[0], 0))
    for scale in (1.0, 0.001) if _is_power(name) else (1.0,):
        if plausible.is_good(number * scale):
            kind = f"float{max(bits, 32)}"
            what = f"half of a {kind}" if bits == 16 else f"a {kind}"
            yield (
                f"it is {what}, so set type to {kind} at address {register.start} and {name}Scale "
                f"to {_decimal(scale)} to get about {number * scale:.4g}"
            )
            return


def _scale(register: Register) -> float:
    return register.scale.numerator / register.scale.denominator


def _scaled(register: Register, words: Sequence[int]) -> float:
    return _number(register.kind, words) * _scale(register)


def _bytes(words: Sequence[int]) -> bytes:
    return struct.pack(f">{len(words)}H", *words)


def _number(kind: str, words: Sequence[int]) -> float:
    data = _bytes(words)
    if kind == "float":
        number: float = struct.unpack(">f" if len(words) == 2 else ">d", data)[0]
        return number
    return float(int.from_bytes(data, "big", signed=kind == "int"))


def _means_no_value(words: Sequence[int]) -> bool:
    """Whether meters commonly say "not available" so: all ones, or an end of the signed range."""
    rest = set(words[1:])
    if words[0] == 0x8000:
        return rest <= {0}
    return words[0] in (0xFFFF, 0x7FFF) and rest <= {0xFFFF}


def _ends_its_range(register: Register, words: Sequence[int]) -> bool:
    """Whether an integer means no value even where it would be plausible.

    As it is read, -1 is a value, and so are the ends of the signed range in an unsigned word.
    """
    if not _means_no_value(words):
        return False
    if register.kind == "int":
        return words[0] != 0xFFFF
    return words[0] == 0xFFFF or len(words) > 1


def _unexplained(value: float) -> str:
    if value == 0.0:
        return (
            "the supply is off, or the address holds something else (the high word of a larger "
            "number is 0), so check address and type in the meter's manual"
        )
    return (
        "it may be half of a 32-bit value or another quantity, so check address, type, word order "
        "and scale in the meter's manual"
    )


def _decimal(number: float) -> str:
    """Write a scale as people do: without exponent and float noise."""
    return format(Decimal(f"{number:.9g}"), "f")
