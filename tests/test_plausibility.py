"""Readings of real meters behind wrong registrations are told apart from real ones."""

from __future__ import annotations

import math
import re
import struct
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge.communication import Register
from edge.model import QUANTITY_NAMES
from edge.plausibility import hints

CAPACITY_KW = 500.0
ONE, TENTH, HUNDREDTH, THOUSANDTH = (Fraction(1, n) for n in (1, 10, 100, 1000))
RANGES = {
    **dict.fromkeys(
        ("power", "powerExport", "powerL1", "powerL2", "powerL3", "reactivePower", "apparentPower"),
        (-10_000.0, 10_000.0),
    ),
    **dict.fromkeys(("voltage", "voltageL1", "voltageL2", "voltageL3"), (50.0, 1000.0)),
    "frequency": (45.0, 65.0),
    "powerFactor": (-1.0, 1.0),
}


def words_of(number: float, kind: str, bits: int) -> tuple[int, ...]:
    """Code a number as a meter sends it, high word first."""
    if kind == "float":
        data = struct.pack(">f" if bits == 32 else ">d", number)
    else:
        data = int(number).to_bytes(bits // 8, "big", signed=kind == "int")
    return struct.unpack(f">{bits // 16}H", data)


def decoded(kind: str, words: tuple[int, ...]) -> float:
    data = struct.pack(f">{len(words)}H", *words)
    if kind == "float":
        return float(struct.unpack(">f" if len(words) == 2 else ">d", data)[0])
    return float(int.from_bytes(data, "big", signed=kind == "int"))


def register(quantity: str, kind: str, count: int, scale: Fraction, order: str = "big") -> Register:
    addresses = tuple(range(100, 100 + count))
    return Register(quantity, 3, addresses if order == "big" else addresses[::-1], kind, scale)


def hint(
    quantity: str,
    words: tuple[int, ...],
    kind: str = "uint",
    scale: Fraction = ONE,
    order: str = "big",
    grid_capacity_kw: float = CAPACITY_KW,
) -> str:
    """Read `words` (most significant first) by such a registration; give its one hint, or ""."""
    its_register = register(quantity, kind, len(words), scale, order)
    value = decoded(kind, words) * scale.numerator / scale.denominator
    found = hints({quantity: value}, {quantity: (its_register, words)}, "grid", grid_capacity_kw)
    assert len(found) <= 1
    return found[0] if found else ""


# Meters as they are, read by registrations that are wrong


@pytest.mark.parametrize(
    ("quantity", "words", "kind", "scale", "expected"),
    [
        # Schneider iEM3000: float32, of which a plain number in `registers` reads the high word.
        (
            "voltage",
            (0x4366,),
            "uint",
            TENTH,
            "voltage reads 1725.4 V, outside 50..1000: likely it is half of a float32, so set type "
            "to float32 at address 100 and voltageScale to 1 to get about 230.",
        ),
        (
            "power",
            (0x4016,),
            "uint",
            ONE,
            "power reads 16406 kW, beyond 20 times the grid capacity, 10000: likely it is half of "
            "a float32, so set type to float32 at address 100 and powerScale to 1 to get "
            "about 2.344, or the scale is wrong, so multiply powerScale (now 1) by 0.001 to get "
            "16.406.",
        ),
        # The same meter read as a 32-bit integer.
        ("voltage", (0x4366, 0), "uint", ONE, "it is a float32, so set type to float32"),
        # ABB B23: the address of a counter; its high words are 0, or all ones without a value.
        (
            "voltage",
            (0,),
            "uint",
            TENTH,
            "voltage reads 0 V, outside 50..1000: the supply is off",
        ),
        ("voltage", (0xFFFF,), "uint", TENTH, "reads 6553.5 V, .* not available"),
        ("frequency", (1,), "uint", HUNDREDTH, "frequency reads 0.01 Hz, .* check address"),
        ("frequency", (0,), "uint", HUNDREDTH, "frequency reads 0 Hz, .* check address and type"),
        ("powerFactor", (0x7FFF,), "uint", THOUSANDTH, "reads 32.767, .* not available"),
        # Scales.
        ("power", (25_000,), "uint", ONE, r"multiply powerScale \(now 1\) by 0.001 to get 25\."),
        ("power", (0x8480,), "uint", ONE, "33920 kW, .* by 0.001 to get 33.92"),
        ("power", words_of(1_500_000, "int", 32), "int", ONE, "by 0.0001 to get 150"),
        ("power", (0, 0x61A8), "int", ONE, "by 0.001 to get 25"),
        ("voltage", (2301,), "uint", ONE, r"voltageScale \(now 1\) by 0.1 to get 230\.1\."),
        ("voltage", (2301,), "uint", HUNDREDTH, r"voltageScale \(now 0.01\) by 10 to get 230\.1\."),
        ("voltage", (3, 0x8274), "uint", ONE, "by 0.001 to get 230.004"),
        ("frequency", (4998,), "uint", ONE, "frequencyScale .* by 0.01 to get 49.98"),
        ("frequency", (500,), "uint", ONE, "by 0.1 to get 50"),
        ("powerFactor", (95,), "uint", ONE, "by 0.01 to get 0.95"),
        ("powerFactor", (950,), "uint", ONE, "by 0.001 to get 0.95"),
        # Word order.
        ("voltage", (0, 0x4366), "float", ONE, "swapped, so set wordOrder to little to get 230"),
        ("voltage", (0x08FC, 0), "uint", TENTH, "wordOrder to little to get 230"),
        ("power", (0x3A98, 0), "uint", THOUSANDTH, "wordOrder to little to get 15\\.$"),
        # Signed values read as unsigned.
        ("power", words_of(-1500, "int", 32), "uint", THOUSANDTH, "to int32 to get -1.5\\.$"),
        ("power", words_of(-1500, "int", 64), "uint", THOUSANDTH, "to int64 to get -1.5\\.$"),
        (
            "power",
            (0xFFFF, 0xFFFF),
            "uint",
            THOUSANDTH,
            "4294967 kW.* not available.*, or .*-0.001",
        ),
        ("powerFactor", (0xFC18,), "uint", THOUSANDTH, "signed, so set type to int16 to get -1"),
        # The quadrant in the power factor: 1.95 stands for 0.05 in another quadrant.
        ("powerFactor", (1950,), "uint", THOUSANDTH, "codes the quadrant"),
        ("powerFactor", words_of(-1.2, "float", 32), "float", ONE, "codes the quadrant"),
        # An integer read as float.
        ("voltage", (0, 2300), "float", ONE, "an integer, so set type to uint32 or int32"),
    ],
)
def test_names_the_fault(
    quantity: str, words: tuple[int, ...], kind: str, scale: Fraction, expected: str
) -> None:
    found = hint(quantity, words, kind, scale)

    assert found == expected or re.search(expected, found), found


def test_names_a_signed_value_read_from_one_register() -> None:
    found = hint("power", (0xFFFF,), scale=TENTH, grid_capacity_kw=100.0)

    assert found.startswith("power reads 6553.5 kW, beyond 20 times the grid capacity, 2000: ")
    assert "set type to int16 to get -0.1" in found


def test_names_the_other_order_when_the_little_one_is_set() -> None:
    assert "set wordOrder to big" in hint("voltage", (0, 0x4366), "float", order="little")


@pytest.mark.parametrize("words", [(0x0000, 0x41CC), (0x147B, 0x4016)])
def test_does_not_take_a_swapped_float_for_an_empty_building(words: tuple[int, int]) -> None:
    found = hint("power", words, "float")

    assert (
        "which no meter means as a power: likely its words are swapped, so set wordOrder to little"
        in found
    )


def test_float_of_zero_power_is_plausible() -> None:
    assert hint("power", (0, 0), "float") == ""


def test_reads_a_float_in_watts() -> None:
    found = hint("power", words_of(234_500.0, "float", 32)[:1])

    assert "powerScale to 0.001 to get about 234" in found


def test_works_without_words() -> None:
    found = hints({"power": 25_430.0, "voltage": 23.1, "powerFactor": 97.0}, {}, "grid", 500.0)

    assert found == (
        "power reads 25430 kW, beyond 20 times the grid capacity, 10000: likely the scale is "
        "wrong, so multiply powerScale by 0.001 to get 25.43.",
        "voltage reads 23.1 V, outside 50..1000: likely the scale is wrong, so multiply "
        "voltageScale by 10 to get 231.",
        "powerFactor reads 97, outside -1..1: likely the scale is wrong, so multiply "
        "powerFactorScale by 0.01 to get 0.97.",
    )


def test_sends_a_computed_power_to_its_parts() -> None:
    imported = (register("power", "uint", 1, ONE), (20,))
    exported = (register("powerExport", "uint", 1, ONE), (60_000,))
    values = {"power": 20.0 - 60_000.0, "powerExport": 60_000.0}

    power, export = hints(values, {"power": imported, "powerExport": exported}, "grid", 500.0)
    (total,) = hints({"power": 60_000.0}, {"powerL1": exported}, "grid", 500.0)

    assert "a quantity it is computed from" in power
    assert "multiply powerExportScale" in export
    assert "a quantity it is computed from" in total


# What is real, however odd


@pytest.mark.parametrize(
    ("meter_type", "values"),
    [
        ("solar", {"power": 0.0, "voltage": 0.0, "frequency": 0.0}),
        ("solar", {"voltage": 0.0, "voltageL1": 0.0, "frequency": 0.0}),
        ("grid", {"voltageL1": 231.0, "voltageL2": 0.0, "voltageL3": 229.0}),
        ("grid", {"voltageL1": 4.2, "voltageL2": 0.0, "voltageL3": 229.0}),
        ("grid", {"voltage": 57.7, "frequency": 50.0}),
        ("grid", {"voltage": 690.0, "frequency": 60.0}),
        ("grid", {"power": -480.0, "powerFactor": -1.0}),
        ("grid", {"powerFactor": 1.0000001}),
        ("grid", {"power": 0.0, "energy": 1e12, "current": 65_535.0}),
    ],
)
def test_takes_a_real_oddity_as_it_is(meter_type: str, values: dict[str, float]) -> None:
    assert hints(values, {}, meter_type, CAPACITY_KW) == ()


@pytest.mark.parametrize(
    ("meter_type", "values", "suspects"),
    [
        ("grid", {"power": 0.0, "voltage": 0.0, "frequency": 0.0}, ["voltage", "frequency"]),
        ("solar", {"power": 3.0, "voltage": 0.0, "frequency": 50.0}, ["voltage"]),
        ("solar", {"power": 0.0, "voltage": 2300.0}, ["voltage"]),
        ("grid", {"voltageL1": 0.0, "voltageL2": 0.0, "voltageL3": 0.0}, ["voltageL"] * 3),
        ("grid", {"voltageL1": 230.0, "voltageL2": 23.0}, ["voltageL2"]),
        ("grid", {"voltageL1": 230.0, "voltageL2": -230.0}, ["voltageL2"]),
        ("grid", {"powerL3": 10_001.0, "apparentPower": -10_001.0}, ["powerL3", "apparentPower"]),
        ("zone", {"reactivePower": 10_001.0, "power": math.nan}, ["power", "reactivePower"]),
    ],
)
def test_does_not_excuse_the_rest(
    meter_type: str, values: dict[str, float], suspects: list[str]
) -> None:
    found = hints(values, {}, meter_type, CAPACITY_KW)

    assert len(found) == len(suspects)
    for sentence, quantity in zip(found, suspects, strict=True):
        assert sentence.startswith(quantity)


# For any value

meter_types = st.sampled_from(["grid", "building", "solar", "zone"])
any_word = st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0, 0x7F80, 0x7FFF, 0x8000, 0xFFFF]))
any_kind = st.sampled_from(
    [(kind, count) for kind in ("uint", "int") for count in (1, 2, 4)]
    + [("float", 2), ("float", 4)]
)
scales = st.sampled_from([ONE, TENTH, HUNDREDTH, THOUSANDTH, Fraction(1, 100_000), Fraction(100)])


@given(
    st.fixed_dictionaries({}, optional={name: st.floats(*r) for name, r in RANGES.items()}),
    meter_types,
)
def test_plausible_values_give_no_hint(values: dict[str, float], meter_type: str) -> None:
    assume(abs(values.get("power", 0.0)) <= 2 * CAPACITY_KW)
    assert hints(values, {}, meter_type, CAPACITY_KW) == ()


@given(st.sampled_from(sorted(RANGES)), st.floats(), meter_types)
def test_any_other_value_gives_one_sentence(name: str, value: float, meter_type: str) -> None:
    low, high = RANGES[name]
    assume(not low <= value <= high and not (name == "powerFactor" and abs(value) <= 1.01))
    assume(not (value == 0.0 and meter_type == "solar"))

    (found,) = hints({name: value}, {}, meter_type, CAPACITY_KW)

    assert found.startswith(f"{name} reads ")
    assert found.endswith(".")


@pytest.mark.parametrize(
    ("meter_type", "freeing", "binding"),
    [("solar", 1, -1), ("grid", -1, 1), ("building", -1, 1)],
)
def test_a_power_is_doubted_sooner_in_the_direction_that_makes_it_seem_free(
    meter_type: str, freeing: int, binding: int
) -> None:
    for kw, is_suspect in ((2 * CAPACITY_KW, False), (2 * CAPACITY_KW + 1, True)):
        assert bool(hints({"power": freeing * kw}, {}, meter_type, CAPACITY_KW)) is is_suspect
        assert not hints({"power": binding * kw}, {}, meter_type, CAPACITY_KW)
    (found,) = hints({"power": freeing * 8000.0}, {}, meter_type, CAPACITY_KW)
    assert "beyond 2 times the grid capacity" in found
    assert "multiply powerScale by 0.001 to get" in found


@given(
    st.sampled_from([("uint", 1), ("uint", 2), ("uint", 4), ("int", 1), ("int", 2), ("int", 4)]),
    st.sampled_from([Fraction(1, 10**places) for places in (0, 1, 3, 6, 9, 18)]),
    st.booleans(),
    meter_types,
)
def test_what_says_not_available_is_never_a_power(
    kind_and_count: tuple[str, int], scale: Fraction, high_end: bool, meter_type: str
) -> None:
    kind, count = kind_and_count
    bits = 16 * count
    if kind == "uint":
        number = 2**bits - 1
    else:
        number = 2 ** (bits - 1) - 1 if high_end else -(2 ** (bits - 1))
    words = words_of(number, kind, bits)
    value = number * scale.numerator / scale.denominator
    raw = {"power": (register("power", kind, count, scale), words)}
    (found,) = hints({"power": value}, raw, meter_type, CAPACITY_KW)
    unsigned = number % 2**bits
    assert f"likely the meter marks it as not available, so set notAvailable to {unsigned}" in found


@pytest.mark.parametrize(("kind", "word"), [("int", 0xFFFF), ("uint", 0x7FFF), ("uint", 0x8000)])
def test_what_is_a_power_as_it_is_read_is_no_mark(kind: str, word: int) -> None:
    assert hint("power", (word,), kind, THOUSANDTH) == ""


@given(
    st.sampled_from(sorted(RANGES)),
    st.one_of(st.floats(1e-9, 1e15), st.floats(-1e15, -1e-9)),
)
def test_suggested_scale_brings_the_value_into_range(name: str, value: float) -> None:
    for sentence in hints({name: value}, {}, "grid", CAPACITY_KW):
        for scale_name, factor in re.findall(r"multiply (\w+)Scale by ([\d.]*\d)", sentence):
            low, high = RANGES[name]
            assert scale_name == name
            rounding = 0.011 * abs(low)
            assert low - rounding <= value * float(factor) <= high + rounding


@given(st.floats(100.0, 690.0), st.sampled_from([10.0, 100.0, 1000.0]))
def test_a_voltage_in_tenths_or_less_is_always_explained(voltage: float, times: float) -> None:
    found = hints({"voltage": voltage * times}, {}, "grid", CAPACITY_KW)

    assert all("multiply voltageScale by 0." in sentence for sentence in found)
    assert found or voltage * times <= 1000.0


@given(st.floats(100.0, 690.0))
def test_a_float_read_as_one_register_is_always_found(voltage: float) -> None:
    found = hint("voltage", words_of(voltage, "float", 32)[:1], scale=TENTH)

    about = re.search(r"set type to float32 .* about ([\d.]+)\.", found)
    assert about
    assert float(about[1]) == pytest.approx(voltage, rel=0.01)


@given(st.floats(100.0, 690.0))
def test_a_swapped_float_is_always_found(voltage: float) -> None:
    words = words_of(voltage, "float", 32)[::-1]
    assume(not 50.0 <= decoded("float", words) <= 1000.0)
    assume(not math.isnan(decoded("float", words)))

    assert "set wordOrder to little" in hint("voltage", words, "float")


@given(
    st.dictionaries(
        st.sampled_from(QUANTITY_NAMES), st.tuples(st.floats(), any_kind, scales, st.data())
    ),
    meter_types,
    st.sampled_from([0.0, 1.0, 500.0]),
)
def test_never_raises(
    drawn: dict[str, tuple[float, tuple[str, int], Fraction, st.DataObject]],
    meter_type: str,
    grid_capacity_kw: float,
) -> None:
    values = {name: value for name, (value, _, _, _) in drawn.items()}
    raw: dict[str, tuple[Register, tuple[int, ...]]] = {}
    for name, (_, (kind, count), scale, data) in drawn.items():
        words = data.draw(st.tuples(*[any_word] * count))
        raw[name] = (register(name, kind, count, scale), words)

    for sentence in hints(values, raw, meter_type, grid_capacity_kw):
        assert sentence.endswith(".")
        assert "\n" not in sentence
