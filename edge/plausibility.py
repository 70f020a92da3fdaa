"""Tell whether a reading is physically possible, and if not, what is most likely set wrong.

A meter that is read at the wrong address, type, word order or scale still answers, and its numbers
look like any others. They are caught by what they would mean: no building draws 20 times its grid
connection, no mains runs at 0.01 Hz. The ranges are wide on purpose: what lies outside of them is
wrong beyond doubt, so such a reading may be kept from the load calculation.

    power        within 20 times the grid capacity: a site may swing far, but a value in W that is
                 taken for kW is 1000 times too large. In the direction that makes power seem free
                 (production of `solar`, export of `grid` and `building`) within 2 times, since
                 there a wrong value does harm. An integer at the end of its type's range is "not
                 available" to most meters, and a float below a nanowatt is a swapped one, or an
                 integer: no meter resolves that.
    voltage      50..1000 V. Low voltage ends at 1000 V AC (IEC 60038), which includes 690 V
                 industrial networks; 50 V is below the 57.7 V of a phase behind 100 V voltage
                 transformers, and above a 230 V or 400 V that is 10 times too small.
    frequency    45..65 Hz: 50 Hz and 60 Hz networks with room for a generator; EN 50160 keeps an
                 interconnected 50 Hz network within 47..52 Hz at all times.
    powerFactor  -1..1, and 0.01 more for the meter's own rounding.

Zero volts are suspect too: a wrong address often holds the empty high word of a counter, and its
power of 0 kW would make the building look empty for ever. Two cases of zero are real: an inverter
asleep at night, and one dead phase beside a live one.

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
from edge.model import CONSUMING_TYPES, QUANTITIES

_POWERS = frozenset(
    ("power", "powerExport", "powerL1", "powerL2", "powerL3", "reactivePower", "apparentPower")
)
_PHASE_VOLTAGES = frozenset(("voltageL1", "voltageL2", "voltageL3"))
_ZERO_WHEN_ASLEEP = _PHASE_VOLTAGES | {"voltage", "frequency"}

_POWER_LIMIT = 20
"""Largest power, in grid capacities."""
_FREEING_POWER_LIMIT = 2
"""Largest power in the direction that raises what is free, in grid capacities."""
_STRAY_V = 10.0
"""What a phase may still show behind a blown fuse, V."""
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


_VOLTAGE = _Range(50.0, 1000.0, least=50.0, most=1000.0)
_FREQUENCY = _Range(45.0, 65.0, least=45.0, most=65.0)
_POWER_FACTOR = _Range(-1.01, 1.01, least=0.001, most=1.01)


def hints(
    values: Mapping[str, float],
    raw: RawWords,
    meter_type: str,
    grid_capacity_kw: float,
) -> tuple[str, ...]:
    """Say what in a reading cannot be true: one sentence for each such quantity, or nothing.

    values: quantity name to value, in that quantity's unit. raw: for what was read over Modbus, the
    register and its words (16-bit unsigned, most significant first); empty for other protocols.
    A sentence gives the value, the plausible range, the likely fault and what to set instead.
    """
    found = []
    for quantity in QUANTITIES:
        name = quantity.name
        value = values.get(name)
        plausible = _range_of(name, meter_type, grid_capacity_kw)
        if value is None or plausible is None or _is_real_outage(name, values, meter_type):
            continue
        if value in plausible and not _is_no_power(name, raw):
            continue
        # A power's range is so wide that two explanations may fit equally well.
        advice = list(islice(_advice(name, value, raw, plausible), 2 if name in _POWERS else 1))
        reads = f"{value:.7g} {quantity.unit}".rstrip()
        cause = f"likely {', or '.join(advice)}" if advice else _unexplained(value)
        bounds = _bounds(name, value, plausible)
        found.append(f"{name} reads {reads}, {bounds}: {cause}.")
    return tuple(found)


def _range_of(name: str, meter_type: str, grid_capacity_kw: float) -> _Range | None:
    if name in _POWERS:
        lowest, highest = -_POWER_LIMIT, _POWER_LIMIT
        if name == "power" and meter_type in CONSUMING_TYPES:
            lowest = -_FREEING_POWER_LIMIT
        if name == "power" and meter_type == "solar":
            highest = _FREEING_POWER_LIMIT
        return _Range(
            lowest * grid_capacity_kw,
            highest * grid_capacity_kw,
            least=0.001,
            most=grid_capacity_kw,
            exponents=_W_FIRST,
        )
    if name == "voltage" or name in _PHASE_VOLTAGES:
        return _VOLTAGE
    return {"frequency": _FREQUENCY, "powerFactor": _POWER_FACTOR}.get(name)


def _bounds(name: str, value: float, plausible: _Range) -> str:
    if value in plausible:
        return "which no meter means as a power"
    if name in _POWERS:
        bound, other = plausible.high, plausible.low
        if value < 0:
            bound, other = other, bound
        times = _FREEING_POWER_LIMIT if abs(bound) < abs(other) else _POWER_LIMIT
        return f"beyond {times} times the grid capacity, {bound:.7g}"
    if name == "powerFactor":
        return "outside -1..1"
    return f"outside {plausible.low:g}..{plausible.high:g}"


def _is_real_outage(name: str, values: Mapping[str, float], meter_type: str) -> bool:
    value = values[name]
    asleep = meter_type == "solar" and values.get("power") in (None, 0.0)
    if asleep and value == 0.0 and name in _ZERO_WHEN_ASLEEP:
        return True
    another_lives = any(values.get(phase, 0.0) in _VOLTAGE for phase in _PHASE_VOLTAGES)
    return name in _PHASE_VOLTAGES and 0.0 <= value <= _STRAY_V and another_lives


def _is_no_power(name: str, raw: RawWords) -> bool:
    """Look at the words, not at the value, which may be a difference and carry float noise."""
    if name not in _POWERS or name not in raw:
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
    for scale in (1.0, 0.001) if name in _POWERS else (1.0,):
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
