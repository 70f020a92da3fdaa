"""Values that cannot be true are read again as they may be meant; others are left alone."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.communication import Register
from edge.decode import decode_register
from edge.interpret import Interpretation, contradictions, interpretations

CAPACITY_KW = 500.0
FORMATS = {
    "uint16": "H", "int16": "h", "uint32": "I", "int32": "i",
    "uint64": "Q", "int64": "q", "float32": "f", "float64": "d",
}  # fmt: skip


def register(
    quantity: str, start: int, type_: str = "uint16", scale: str = "1", order: str = "big"
) -> Register:
    kind = type_.rstrip("0123456789")
    addresses = tuple(range(start, start + int(type_[len(kind) :]) // 16))
    words = addresses if order == "big" else addresses[::-1]
    return Register(quantity, 3, words, kind, Fraction(scale))


def coded(its_register: Register, value: float) -> dict[int, int]:
    """The words by which a meter gives a value there."""
    number: float = value / float(its_register.scale)
    if its_register.kind != "float":
        number = round(number)
    code = FORMATS[f"{its_register.kind}{16 * len(its_register.words)}"]
    data = struct.pack(f">{code}", number)
    return dict(zip(its_register.words, struct.unpack(f">{len(data) // 2}H", data), strict=True))


def decoded(registers: list[Register], memory: Mapping[int, int]) -> dict[str, float]:
    values = {}
    for each in registers:
        if all(address in memory for address in each.words):
            value = decode_register(each, tuple(memory[address] for address in each.words), {})
            if value is not None:
                values[each.quantity] = value
    return values


def other_readings(
    registers: list[Register],
    memory: Mapping[int, int],
    later: Mapping[int, int] | None = None,
    meter_type: str = "grid",
    later_s: float = 10.0,
    capacity_kw: float = CAPACITY_KW,
) -> Mapping[str, tuple[Interpretation, ...]]:
    """Read a device by these registers, and doubt what comes of it."""
    return interpretations(
        registers,
        {(3, address): word for address, word in memory.items()},
        {(3, address): word for address, word in {**memory, **(later or {})}.items()},
        later_s,
        decoded(registers, memory),
        meter_type,
        capacity_kw,
    )


def told(reading: Interpretation) -> tuple[int, str, str, float, float]:
    value = float(f"{reading.value:.7g}")
    return reading.address, reading.type, reading.word_order, float(reading.scale), value


# --- Real meters behind wrong registrations ---

B23 = [
    register("power", 20480),
    Register("energy", 3, (20483, 20482), "uint", Fraction(1, 1000)),
    register("voltage", 20484, scale="0.1"),
    register("current", 20486, scale="0.001"),
    register("powerFactor", 20488, scale="0.001"),
    register("frequency", 20490, scale="0.01"),
]
B23_WORDS = dict(enumerate([0, 0, 1, 57920, 0, 0, 0, 0, 0, 0, 1, 57920], 20480))
"""A B23 holds uint64 counters there: import, export and net, 0.01 kWh, high word first."""


def test_pieces_of_a_b23s_counters_bring_no_invented_voltage_current_or_power() -> None:
    readings = other_readings(B23, B23_WORDS, {20483: 57922, 20491: 57922})
    assert readings.keys() == {"energy", "voltage", "frequency"}
    assert readings["voltage"] == readings["frequency"] == ()


def test_nor_do_counters_that_are_not_available() -> None:
    words = {**B23_WORDS, **dict.fromkeys(range(20484, 20492), 0xFFFF)}
    readings = other_readings(B23, words)
    assert readings["voltage"] == readings["frequency"] == readings["powerFactor"] == ()


def test_a_b23s_counter_read_with_its_words_swapped_runs_too_fast() -> None:
    readings = other_readings(B23, B23_WORDS, {20483: 57922})["energy"]
    assert told(readings[0]) == (20482, "uint32", "big", 0.001, 123.456)
    assert readings[0].why == "its words are swapped"
    assert (20482, "uint32", "big", 0.01, 1234.56) in map(told, readings)  # what it really is


IEM3000 = [
    register("power", 3059),
    register("energy", 45056),
    register("voltage", 3027, scale="0.1"),
    register("current", 3000, scale="0.001"),
    register("powerFactor", 3078, scale="0.001"),
]


def floats(values: Mapping[int, float]) -> dict[int, int]:
    """Address → float32, high word first."""
    memory: dict[int, int] = {}
    for address, value in values.items():
        memory |= coded(register("power", address, "float32"), value)
    return memory


def iem3000_words() -> dict[int, int]:
    """Its values, as far as they stand near; energy is not there."""
    return floats(
        {
            2997: 0.0, 2999: 10.3, 3001: 9.8, 3025: 398.7, 3027: 230.0, 3029: 231.2, 3057: 0.795,
            3059: 2.345, 3061: 0.1, 3077: 0.97, 3079: 0.96,
        }
    )  # fmt: skip


def test_halves_of_an_iem3000s_floats_are_told() -> None:
    readings = other_readings(IEM3000, iem3000_words())
    assert told(readings["power"][0]) == (3059, "float32", "big", 1.0, 2.345)
    assert told(readings["voltage"][0]) == (3027, "float32", "big", 1.0, 230.0)
    assert told(readings["powerFactor"][0]) == (3077, "float32", "big", 1.0, 0.97)
    assert readings["energy"] == ()
    assert readings["power"][0].why == "it is float32"


def test_a_possible_value_is_doubted_where_two_others_turned_out_to_be_floats() -> None:
    """The current, 52.429 A, is the low half of 10.3 A."""
    first = other_readings(IEM3000, iem3000_words())["current"][0]
    assert told(first) == (2999, "float32", "big", 1.0, 10.3)


IEM3000_FULL = {
    2997: 0.0, 2999: 60.0, 3001: 60.1, 3003: 59.9, 3025: 398.7, 3027: 230.1, 3029: 230.9,
    3031: 231.5, 3057: 13.73, 3059: 41.23, 3061: 0.0, 3075: 0.0, 3077: 0.0, 3079: 0.0,
}  # fmt: skip
"""At 60 A, a float32 whose low word is 0; without a power factor."""


@pytest.mark.parametrize("capacity_kw", [250.0, 500.0, 5000.0])
def test_the_low_half_of_a_round_current_is_told(capacity_kw: float) -> None:
    """16932 kW, the high half of 41.23, are possible at the largest of these sites."""
    readings = other_readings(IEM3000, floats(IEM3000_FULL), capacity_kw=capacity_kw)
    assert told(readings["power"][0]) == (3059, "float32", "big", 1.0, 41.23)
    assert told(readings["current"][0]) == (2999, "float32", "big", 1.0, 60.0)


def test_an_iem3000_whose_addresses_are_counted_from_1_has_one_slip() -> None:
    """The words of two floats in turn would make a voltage, too, and so would the next one."""
    starts = {"power": 3060, "voltage": 3028, "current": 3000}
    registers = [register(name, start, "float32") for name, start in starts.items()]
    for used in (registers[:2], registers):
        readings = other_readings(used, floats(IEM3000_FULL))
        assert readings.keys() == {each.quantity for each in used}
        for name, (first, *_) in readings.items():
            assert (first.address, first.word_order) == (starts[name] - 1, "big")
            assert first.why == f"it starts at {starts[name] - 1}"


def test_a_carlo_gavazzi_read_high_word_first() -> None:
    truth = [
        register("voltage", 0, "int32", "0.1", "little"),
        register("power", 40, "int32", "0.0001", "little"),
        register("energy", 52, "int32", "0.1", "little"),
    ]
    memory = coded(truth[0], 230.1) | coded(truth[1], 1.2345) | coded(truth[2], 123456.7)
    wrong = [
        register("voltage", 0, "int32", "0.1"),
        register("power", 40, "int32", "0.0001"),
        register("energy", 52, "int32", "0.1"),
    ]
    readings = other_readings(wrong, memory)
    for name, value in {"voltage": 230.1, "power": 1.2345, "energy": 123456.7}.items():
        first = readings[name][0]
        assert (first.word_order, first.value) == ("little", value)
        assert first.why == "its words are swapped"


# --- One mistake each ---


@pytest.mark.parametrize("type_", ["uint16", "uint32"])
def test_an_export_read_as_unsigned(type_: str) -> None:
    signed = register("power", 10, type_.removeprefix("u"), "0.001")
    (name, readings), *others = other_readings(
        [register("power", 10, type_, "0.001")], {9: 0, 12: 5, **coded(signed, -0.236)}
    ).items()
    assert (name, others) == ("power", [])
    assert readings[0].value == -0.236
    assert readings[0].why == "it is signed"


def test_a_large_unsigned_power_is_believed_where_current_and_voltage_say_so() -> None:
    registers = [
        register("power", 10, scale="0.001"),
        register("voltage", 11, scale="0.1"),
        register("current", 12, scale="0.1"),
    ]
    assert other_readings(registers, {10: 65300, 11: 2301, 12: 950}) == {}
    assert "power" in other_readings(registers, {10: 65300, 11: 2301, 12: 5})


def test_watts_taken_for_kilowatts_are_told_by_voltage_and_current() -> None:
    registers = [
        register("power", 10),
        register("voltage", 11, scale="0.1"),
        register("current", 12, scale="0.1"),
    ]
    memory = {9: 0, 10: 2345, 11: 2301, 12: 103, 13: 0}
    first = other_readings(registers, memory)["power"][0]
    assert (told(first), first.why) == (
        (10, "uint16", "big", 0.001, 2.345),
        "it counts in W, not kW",
    )


@pytest.mark.parametrize(
    ("power_kw", "current_a"), [(-13.39, 20.0), (-5.0, 7.5), (-2.0, 5.0), (-4.2, 20.0)]
)
def test_a_forgotten_sign_comes_before_powers_of_ten_and_the_current(
    power_kw: float, current_a: float
) -> None:
    registers = [
        register("power", 10, scale="0.001"),
        register("voltage", 11, scale="0.1"),
        register("current", 12, scale="0.01"),
    ]
    power = coded(register("power", 10, "int16", "0.001"), power_kw)
    memory = {9: 0, 11: 2301, 13: 0} | power | coded(registers[2], current_a)
    readings = other_readings(registers, memory)
    assert readings.keys() == {"power"}
    first = readings["power"][0]
    assert (first.value, first.why) == (power_kw, "it is signed")


def test_a_wrong_scale_of_the_current_is_not_laid_on_the_power() -> None:
    """28500 kW, which would fit 43.46 kA, is more than the site can draw."""
    registers = [
        register("power", 10, "int32", "0.001"),
        register("voltage", 12, scale="0.1"),
        register("current", 13, scale="10"),
        register("powerFactor", 14, scale="0.001"),
    ]
    memory = coded(registers[0], 28.5) | {12: 2301, 13: 4346, 14: 950}
    readings = other_readings(registers, memory)
    assert readings.keys() == {"current"}
    assert readings["current"][0].value == 43.46


def test_power_and_current_are_both_told_where_either_may_be_wrong() -> None:
    registers = [
        register("power", 10, "int16", "0.01"),
        register("voltage", 11, scale="0.1"),
        register("current", 12, scale="0.001"),
    ]
    readings = other_readings(registers, {10: 1339, 11: 2301, 12: 2000})
    assert {name: best[0].value for name, best in readings.items()} == {
        "power": 1.339,
        "current": 20.0,
    }


@pytest.mark.parametrize("capacity_kw", [250.0, 5000.0])
def test_a_power_far_below_what_flows_is_no_better_reading(capacity_kw: float) -> None:
    """0.62 kW is the high word of an ABB B23's 41.23 kW, as 0.01 kW; its unit is 0.01 W."""
    registers = [register("power", 20, "int32", "0.01"), register("voltage", 0, "uint32", "0.1")]
    registers += [
        register(f"currentL{phase}", 10 + 2 * phase, "uint32", "0.01") for phase in (1, 2, 3)
    ]
    truth = [register("power", 20, "int32", "0.00001"), *registers[1:]]
    memory: dict[int, int] = {}
    for each, value in zip(truth, (41.23, 230.1, 60.0, 60.1, 59.9), strict=True):
        memory |= coded(each, value)
    memory |= {22: 20, 23: 59312, 24: 21, 25: 3776}  # the power of each phase follows
    first = other_readings(registers, memory, capacity_kw=capacity_kw)["power"][0]
    assert told(first) == (20, "int32", "big", 0.00001, 41.23)


@pytest.mark.parametrize(("power_w", "current_a"), [(41230, 60.0), (12500, 18.5)])
def test_no_power_beside_a_large_current_is_the_high_word_of_one(
    power_w: int, current_a: float
) -> None:
    registers = [
        register("power", 0, scale="0.001"),
        register("voltage", 3, scale="0.1"),
        register("current", 5, scale="0.01"),
    ]
    memory = {1: power_w, 2: 0, 4: 0, 0: 0, 3: 2301} | coded(registers[2], current_a)
    readings = other_readings(registers, memory)
    assert readings.keys() == {"power"}
    assert told(readings["power"][0]) == (0, "uint32", "big", 0.001, power_w / 1000)


def test_a_voltage_without_its_scale() -> None:
    first = other_readings([register("voltage", 10)], {9: 0, 10: 2301, 11: 0})["voltage"][0]
    assert (told(first), first.why) == ((10, "uint16", "big", 0.1, 230.1), "the scale is 0.1")


def test_an_inverted_scale_stays_inverted() -> None:
    registers = [register("power", 10, "int16", "-1")]
    first = other_readings(registers, {10: 23450})["power"][0]
    assert (first.scale, first.value) == (Fraction(-1, 1000), -23.45)


def test_a_split_counter_with_its_halves_swapped() -> None:
    registers = [Register("energy", 3, (1, 0), "uint", Fraction(1, 1000))]
    first = other_readings(registers, {0: 1, 1: 57920}, {1: 57921})["energy"][0]
    assert (told(first), first.why) == (
        (0, "uint32", "big", 0.001, 123.456),
        "its words are swapped",
    )


def test_a_counter_that_falls_is_none() -> None:
    registers = [register("energy", 1, scale="0.001")]  # the low word, at its turn
    readings = other_readings(registers, {0: 1, 1: 65535, 2: 0}, {0: 2, 1: 0})["energy"]
    assert told(readings[0]) == (0, "uint32", "big", 0.001, 131.071)


def test_the_rate_of_a_counter_tells_its_scale() -> None:
    """36 kW make 0.1 kWh in 10 s, which is 100 counts of 1 Wh."""
    registers = [register("energy", 0, "uint32", "0.01"), register("power", 10, scale="0.1")]
    memory = {0: 1, 1: 1000, 10: 360}
    assert told(other_readings(registers, memory, {1: 1100})["energy"][0]) == (
        0, "uint32", "big", 0.001, 66.536,
    )  # fmt: skip
    right = [register("energy", 0, "uint32", "0.001"), registers[1]]
    assert other_readings(right, memory, {1: 1100}) == {}
    assert other_readings(registers, memory) == {}  # it stands still, as some do for a minute


def test_an_export_counter_rises_with_the_power_that_flows_back() -> None:
    registers = [
        register("energyExport", 0, "uint32", "0.001"),
        register("power", 10, "int16", "0.1"),
    ]
    memory = {0: 1, 1: 1000, **coded(registers[1], -36.0)}
    assert other_readings(registers, memory, {1: 1100}) == {}
    registers[0] = register("energyExport", 0, "uint32", "0.01")
    first = other_readings(registers, memory, {1: 1100})["energyExport"][0]
    assert told(first) == (0, "uint32", "big", 0.001, 66.536)


def test_a_quantity_whose_register_is_refused_is_looked_for_beside_it() -> None:
    first = other_readings([register("voltage", 10, scale="0.1")], {9: 2301})["voltage"][0]
    assert told(first) == (9, "uint16", "big", 0.1, 230.1)


def test_what_the_device_marks_as_not_there_is_no_mistake() -> None:
    registers = [
        Register("voltageL2", 3, (10,), "uint", Fraction(1, 10), 0xFFFF),
        register("voltageL1", 9, scale="0.1"),
    ]
    assert other_readings(registers, {9: 2301, 10: 0xFFFF, 11: 2301}) == {}


def test_a_register_of_another_quantity_is_not_offered() -> None:
    registers = [register("voltageL1", 10, scale="0.1"), register("voltageL2", 11, scale="0.1")]
    assert other_readings(registers, {10: 5, 11: 2301}) == {}  # a blown fuse beside a live phase
    registers[0] = register("voltageL1", 10)
    assert other_readings(registers, {10: 60000, 11: 2301})["voltageL1"] == ()


def test_a_value_scaled_by_the_device_is_not_doubted() -> None:
    scaled = Register("voltage", 3, (10,), "int", Fraction(1), 0x8000, 11)
    assert interpretations([scaled], {(3, 10): 23}, {}, 0.0, {"voltage": 2.3}, "grid", 500.0) == {}


def test_an_inverter_asleep_is_no_mistake() -> None:
    registers = [register("voltage", 0), register("frequency", 1)]
    assert other_readings(registers, {0: 0, 1: 0}, meter_type="solar") == {}
    assert other_readings(registers, {0: 0, 1: 0}).keys() == {"voltage", "frequency"}


# --- Whole meters, one register wrong in one way ---

SINGLE = {
    "voltage": ("uint16", "0.1"), "current": ("uint16", "0.01"), "power": ("int16", "0.01"),
    "powerFactor": ("int16", "0.001"), "frequency": ("uint16", "0.01"),
    "energy": ("uint32", "0.1"),
}  # fmt: skip
DOUBLE = {
    "voltage": ("uint32", "0.1"), "current": ("uint32", "0.001"), "power": ("int32", "0.001"),
    "powerFactor": ("int16", "0.001"), "frequency": ("uint16", "0.01"),
    "energy": ("uint32", "0.01"),
}  # fmt: skip
LONG = {**DOUBLE, "power": ("int32", "0.00001"), "energy": ("uint64", "0.001")}
FLOAT = dict.fromkeys(DOUBLE, ("float32", "1"))
WATT = {**FLOAT, "power": ("float32", "0.001"), "energy": ("float32", "0.001")}


def a_meter(chance: random.Random) -> tuple[list[Register], dict[int, int], dict[int, int]]:
    """A meter of a usual make: its true registers, its words, and those 60 s later."""
    make = chance.choice([SINGLE, DOUBLE, LONG, FLOAT, WATT])
    order = chance.choice(["big", "big", "little"])
    volts, amperes, factor = chance.gauss(230, 4), chance.uniform(5, 200), chance.uniform(0.8, 1)
    power = 3 * volts * amperes * factor / 1000
    energy = chance.uniform(2e3, 2e5)
    values = {
        "voltage": volts, "current": amperes, "power": power, "powerFactor": factor,
        "frequency": chance.gauss(50, 0.02), "energy": energy,
    }  # fmt: skip
    registers: list[Register] = []
    memory: dict[int, int] = {}
    later: dict[int, int] = {}
    start = chance.randrange(10, 60000)
    memory.update({start - 1: 0, start - 2: 0})
    for name in chance.sample(sorted(values), len(values)):
        its_register = register(name, start, *make[name], order)
        registers.append(its_register)
        memory |= coded(its_register, values[name])
        if name == "energy":
            later |= coded(its_register, energy + power / 60)
        start = its_register.stop
    memory.update(dict.fromkeys(range(start, start + 4), 0))
    return registers, memory, later


def mistaken(right: Register, chance: random.Random) -> Register:
    """The register as somebody might write it who makes one mistake."""
    start, kind, scale, words = right.start, right.kind, right.scale, right.words
    mistakes = [
        Register(right.quantity, 3, words, kind, scale * 10),
        Register(right.quantity, 3, words, kind, scale * 1000),
        Register(right.quantity, 3, words, kind, scale / 10),
        Register(right.quantity, 3, tuple(word + 1 for word in words), kind, scale),
        Register(right.quantity, 3, tuple(word - 1 for word in words), kind, scale),
    ]
    if len(words) > 1:
        mistakes += [
            Register(right.quantity, 3, words[::-1], kind, scale),
            Register(right.quantity, 3, (start,), "uint", scale),
            Register(right.quantity, 3, words, "uint" if kind == "float" else "float", scale),
        ]
    return chance.choice(mistakes)


def how_often_found(seed: int, meters: int, *, alone: bool) -> tuple[int, int, int]:
    """Count of so many mistakes: doubted, truth among the first three readings, truth first.

    alone: the meter is registered with that one quantity only.
    """
    chance = random.Random(seed)
    doubted = among_three = first = 0
    for _ in range(meters):
        registers, memory, later = a_meter(chance)
        truth = decoded(registers, memory)
        index = chance.randrange(len(registers))
        name = registers[index].quantity
        registers[index] = mistaken(registers[index], chance)
        used = registers[index : index + 1] if alone else registers
        readings = other_readings(used, memory, later, later_s=60.0)
        if name in readings:
            right = [each.value == pytest.approx(truth[name], rel=1e-6) for each in readings[name]]
            doubted += 1
            among_three += any(right[:3])
            first += any(right[:1])
    return doubted, among_three, first


def test_one_mistake_is_nearly_always_found() -> None:
    """Seen: 89 % doubted, and of these 99 % among the first three, 90 % first."""
    doubted, among_three, first = how_often_found(1, 250, alone=False)
    assert doubted >= 0.85 * 250
    assert among_three >= 0.97 * doubted
    assert first >= 0.87 * doubted


def test_one_mistake_is_mostly_found_even_without_other_quantities() -> None:
    """Seen: 72 % doubted, and of these 98 % among the first three, 84 % first."""
    doubted, among_three, first = how_often_found(12, 250, alone=True)
    assert doubted >= 0.65 * 250
    assert among_three >= 0.93 * doubted
    assert first >= 0.78 * doubted


def test_a_meter_that_is_registered_rightly_is_left_alone() -> None:
    chance = random.Random(2)
    for _ in range(400):
        registers, memory, later = a_meter(chance)
        assert other_readings(registers, memory, later, later_s=60.0) == {}


word = st.one_of(st.integers(0, 0xFFFF), st.sampled_from((0, 0xFFFF, 0x8000, 0x7FC0, 0x4366)))


@given(
    quantity=st.sampled_from(
        ("power", "energy", "voltageL1", "currentL2", "powerFactor", "frequency")
    ),
    type_=st.sampled_from(tuple(FORMATS)),
    order=st.sampled_from(("big", "little")),
    scale=st.sampled_from(("1", "0.001", "-0.1", "1000", "0.04", "0")),
    words=st.lists(word, min_size=12, max_size=12),
    later=st.lists(word, min_size=12, max_size=12),
)
def test_whatever_is_read_the_readings_are_what_they_say(
    quantity: str, type_: str, order: str, scale: str, words: list[int], later: list[int]
) -> None:
    registers = [register(quantity, 4, type_, scale, order), register("power", 0)]
    registers = registers[: 1 if quantity == "power" else 2]
    memory = dict(enumerate(words))
    for name, readings in other_readings(registers, memory, dict(enumerate(later))).items():
        assert len(readings) <= 5
        assert [r.score for r in readings] == sorted((r.score for r in readings), reverse=True)
        for reading in readings:
            said = register(name, reading.address, reading.type, "1", reading.word_order)
            said = Register(name, 3, said.words, said.kind, reading.scale)
            assert decoded([said], memory) == {name: reading.value}
            assert reading.why


# --- P against U·I ---


@pytest.mark.parametrize(
    "values",
    [
        {"power": 2.3, "voltage": 230.0, "current": 10.0},
        {"power": 6.9, "voltage": 230.0, "current": 10.0},  # three phases
        {"power": 6.9, "voltage": 400.0, "current": 10.0},  # between lines
        {"power": -6.9, "voltage": 230.0, "current": 30.0},  # the sum of three
        {"power": 0.0, "voltage": 230.0, "current": 7.0},  # in over one phase, out over another
        {"power": 0.3, "voltage": 230.0, "current": 30.0},
        {"power": 0.005, "voltage": 230.0, "current": 0.0},
        {"power": 2.3, "voltage": 230.0},
        {"power": 2300.0, "voltage": 0.0, "current": 10.0},  # the voltage is what is wrong
    ],
)
def test_what_can_be_true_is_no_contradiction(values: dict[str, float]) -> None:
    assert contradictions(values, {}) == {}


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"power": 2300.0, "voltage": 230.0, "current": 10.0}, "multiply powerScale by 0.001 or"),
        ({"power": 69.0, "voltage": 230.0, "current": 10.0}, "powerScale by 0.1 or currentScale"),
        ({"power": 0.0023, "voltage": 230.0, "current": 10.0}, "multiply powerScale by 1000 or"),
        (
            {"power": 0.23, "voltage": 230.0, "current": 10.0, "powerFactor": 0.99},
            "a scale is wrong, so multiply powerScale by 10 or currentScale by 0.1.",
        ),
        ({"power": 5.0, "voltage": 230.0, "current": 0.0}, "check the addresses, types and"),
        ({"power": 0.0, "voltage": 230.0, "current": 30.0}, "check the addresses, types and"),
        ({"powerL2": 2300.0, "voltageL2": 230.0, "currentL2": 10.0}, "multiply powerL2Scale by"),
        ({"powerL3": 2300.0, "voltage": 230.0, "currentL3": 10.0}, "currentL3Scale by 1000."),
        (
            {
                "power": 69.0,
                **dict.fromkeys(("voltageL1", "voltageL2", "voltageL3"), 230.0),
                **dict.fromkeys(("currentL1", "currentL2", "currentL3"), 10.0),
            },
            "make 3.984 to 6.9 kVA",
        ),
    ],
)
def test_a_contradiction_says_which_scale_may_be_wrong(
    values: dict[str, float], advice: str
) -> None:
    ((quantity, sentence),) = contradictions(values, {}).items()
    assert sentence.startswith(f"{quantity} reads ")
    assert advice in sentence


SIGNED = Interpretation("power", 0, "int16", "big", Fraction(1, 1000), -2.0, "it is signed", 0.8)
LARGER = Interpretation("current", 3, "uint16", "big", Fraction(1), 200.0, "the scale is 1", 0.3)


@pytest.mark.parametrize(
    ("others", "advice"),
    [
        (
            {"power": (SIGNED,)},
            "likely it is signed; read as int16 at 0 with scale 0.001 it is -2.",
        ),
        (
            {"current": (LARGER,)},
            "likely current is wrong: the scale is 1; read as uint16 at 3 with scale 1 it is 200.",
        ),
        (
            {"power": (SIGNED,), "current": (LARGER,)},
            "it is -2, or current is wrong: the scale is 1; read as",
        ),
        ({"power": (replace(SIGNED, value=-20.0),)}, "likely a scale is wrong, so multiply"),
        ({"power": ()}, "likely a scale is wrong, so multiply powerScale by 0.01 or"),
    ],
)
def test_a_contradiction_is_explained_by_the_best_reading_that_solves_it(
    others: Mapping[str, tuple[Interpretation, ...]], advice: str
) -> None:
    values = {"power": 63.536, "voltage": 230.0, "current": 5.0}
    assert advice in contradictions(values, others)["power"]
