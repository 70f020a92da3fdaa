"""Registers into the fewest requests, and words into the right values or none."""

from __future__ import annotations

import itertools
import math
import struct
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edge.communication import ModbusCommunication, RawWords, ReadRequest, Register
from edge.decode import PHASES, combine, decode_register, decode_values, pack, raw_words, split
from tests.building import a_meter

FORMATS = {
    "uint16": "H", "int16": "h", "uint32": "I", "int32": "i",
    "uint64": "Q", "int64": "q", "float32": "f", "float64": "d",
}  # fmt: skip

B23_REGISTERS = {
    "power": 20480, "energy": 20482, "energyHigh": 20483, "voltage": 20484, "current": 20486,
    "powerFactor": 20488, "frequency": 20490, "powerScale": 1, "energyScale": 0.001,
    "voltageScale": 0.1, "currentScale": 0.001, "powerFactorScale": 0.001, "frequencyScale": 0.01,
}  # fmt: skip


def communication(registers: dict[str, Any], **keys: Any) -> ModbusCommunication:
    its_meter = a_meter(communication={"host": "meter", "registers": registers, **keys})
    assert isinstance(its_meter.communication, ModbusCommunication)
    return its_meter.communication


def requests_of(registers: dict[str, Any], **keys: Any) -> tuple[ReadRequest, ...]:
    asked = communication(registers, **keys)
    return pack(asked.registers, asked.unit_id, asked.max_registers_per_request, asked.max_gap)


def words_of(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(data) // 2}H", data)


def float32(value: float) -> tuple[int, ...]:
    return words_of(struct.pack(">f", value))


def values_of(registers: dict[str, Any], device: dict[int, int], **keys: Any) -> dict[str, float]:
    """What a device with these registers is read as; it refuses blocks with others in them."""
    raw: RawWords = {}
    for request in requests_of(registers, **keys):
        block = range(request.address, request.address + request.count)
        if all(address in device for address in block):
            raw = {**raw, **raw_words(request, [device[address] for address in block])}
    asked = communication(registers, **keys)
    return combine(decode_values(raw, {}), asked.quantities, invert=asked.invert)


# --- The guide's examples ---


def test_the_guides_b23_is_one_request() -> None:
    (request,) = requests_of(B23_REGISTERS, unitId=7)
    assert (request.unit_id, request.function, request.address, request.count) == (7, 3, 20480, 11)


def test_the_guides_b23_reads_as_the_guide_says() -> None:
    device = dict(enumerate([28, 0, 19244, 235, 2301, 0, 12370, 0, 950, 0, 5002], 20480))
    assert values_of(B23_REGISTERS, device) == {
        "power": 28.0,
        "energy": 15420.204,
        "voltage": 230.1,
        "current": 12.37,
        "powerFactor": 0.95,
        "frequency": 50.02,
    }


# --- Values ---


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("order", ["big", "little"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_type_and_word_order_against_struct(kind: str, order: str, data: Any) -> None:
    raw = data.draw(st.binary(min_size=struct.calcsize(FORMATS[kind]), max_size=8))
    raw = raw[: struct.calcsize(FORMATS[kind])]
    (expected,) = struct.unpack(f">{FORMATS[kind]}", raw)
    on_the_wire = words_of(raw) if order == "big" else words_of(raw)[::-1]
    registers = {"power": {"address": 3, "type": kind, "wordOrder": order}}
    values = values_of(registers, dict(enumerate(on_the_wire, 3)))
    if not math.isfinite(expected):
        assert values == {}
    elif kind == "float32":
        assert struct.pack(">f", values["power"]) == struct.pack(">f", expected + 0.0)
    else:
        assert values["power"] == float(expected)
        assert type(values["power"]) is float


@settings(deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.decimals(-1000, 1000, places=4).filter(bool))
def test_a_scaled_whole_number_is_the_nearest_to_the_exact_product(
    number: int, scale: Decimal
) -> None:
    registers = {"power": {"address": 0, "type": "int32", "scale": float(scale)}}
    device = dict(enumerate(words_of(struct.pack(">i", number))))
    exact = number * Fraction(repr(float(scale)))
    assert values_of(registers, device) == {"power": float(exact)}


def test_decimal_numbers_come_out_as_they_stand_in_the_datasheet() -> None:
    assert 2301 * 0.1 != 230.1, "which is why the scale is kept as a fraction"
    assert values_of({"voltage": 0, "voltageScale": 0.1}, {0: 2301}) == {"voltage": 230.1}
    registers = {"voltage": {"address": 0, "type": "float32"}}
    assert values_of(registers, dict(enumerate(float32(230.1)))) == {"voltage": 230.1}


@settings(deadline=None)
@given(st.integers(-999_999, 999_999), st.integers(0, 6), st.sampled_from([0.001, 0.1, 1, 1000]))
def test_a_float32_is_the_decimal_number_that_was_coded(
    digits: int, places: int, scale: float
) -> None:
    number = Decimal(digits).scaleb(-places)
    registers = {"power": {"address": 0, "type": "float32", "scale": scale}}
    values = values_of(registers, dict(enumerate(float32(float(number)))))
    assert repr(values["power"]) == repr(float(number * Decimal(repr(scale))) + 0.0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=500, deadline=None)
def test_a_float32_comes_out_with_at_most_nine_digits(bits: int) -> None:
    words = (bits >> 16, bits & 0xFFFF)
    (expected,) = struct.unpack(">f", bits.to_bytes(4, "big"))
    value = decode_register(Register("power", 3, (0, 1), "float"), words, {})
    if value is None:
        assert not math.isfinite(expected)
    else:
        assert len(Decimal(repr(value)).normalize().as_tuple().digits) <= 9
        assert float32(value) == float32(expected + 0.0)


@pytest.mark.parametrize("bits", [0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x7F7FFFFE, 0x00800000])
def test_the_largest_and_smallest_float32(bits: int) -> None:
    value = decode_register(Register("power", 3, (0, 1), "float"), (bits >> 16, bits & 0xFFFF), {})
    assert value is not None
    assert struct.pack(">f", value) == bits.to_bytes(4, "big")


def test_minus_zero_is_zero() -> None:
    value = decode_register(Register("power", 3, (0, 1), "float"), (0x8000, 0), {})
    assert repr(value) == "0.0"


@pytest.mark.parametrize(
    "words",
    [(0x7FC0, 0), (0xFFC0, 0), (0x7F80, 0), (0xFF80, 0), (0x7FF8, 0, 0, 0), (0xFFF0, 0, 0, 0)],
)
def test_nan_and_infinities_are_no_value(words: tuple[int, ...]) -> None:
    register = Register("power", 3, tuple(range(len(words))), "float")
    assert decode_register(register, words, {}) is None


def test_a_value_that_its_scale_makes_infinite_is_none() -> None:
    register = Register("power", 3, (0, 1, 2, 3), "float", Fraction(10**12))
    assert decode_register(register, words_of(struct.pack(">d", 1e300)), {}) is None


@pytest.mark.parametrize("kind", FORMATS)
def test_the_devices_own_number_for_no_value_is_no_value(kind: str) -> None:
    width = struct.calcsize(FORMATS[kind]) // 2
    entry = {"address": 0, "type": kind, "notAvailable": 0x8000 << 16 * (width - 1)}
    registers = {"power": entry, "voltage": 10}
    device = {0: 0x8000, 1: 0, 2: 0, 3: 0, 10: 230} | dict.fromkeys(range(4, 10), 0)
    assert values_of(registers, device) == {"voltage": 230}
    del entry["notAvailable"]
    assert "power" in values_of(registers, device)


def test_a_zero_is_a_zero() -> None:
    assert values_of({"power": 0, "energy": 1}, {0: 0, 1: 0}) == {"power": 0.0, "energy": 0.0}


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 + 12345, 2**64 - 1])
def test_beyond_two_to_the_53_a_whole_number_is_the_nearest_float(number: int) -> None:
    registers = {"energy": {"address": 0, "type": "uint64", "scale": 0.001}}
    device = dict(enumerate(words_of(struct.pack(">Q", number))))
    assert values_of(registers, device) == {"energy": float(Fraction(number, 1000))}


def test_energy_and_its_high_word_are_one_number() -> None:
    registers = {"energy": 5, "energyHigh": 2, "energyScale": 0.001}
    device = dict.fromkeys(range(2, 6), 9) | {5: 0xFFFF, 2: 1}
    assert values_of(registers, device) == {"energy": 131.071}
    assert values_of(registers, device, wordOrder="little") == {"energy": 131.071}


# --- Powers of ten that the device holds ---


@settings(deadline=None)
@given(
    st.integers(-(2**15), 2**15 - 1),
    st.integers(-10, 10),
    st.sampled_from([Fraction(1), Fraction(1, 1000), Fraction(1, 100)]),
)
def test_a_scaled_value_is_the_nearest_to_the_exact_product_whatever_the_power(
    number: int, exponent: int, scale: Fraction
) -> None:
    register = Register("power", 3, (0,), "int", scale, exponent=7)
    value = decode_register(register, (number & 0xFFFF,), {7: exponent & 0xFFFF})
    assert value == float(number * scale * Fraction(10) ** exponent)


@settings(deadline=None)
@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.integers(-10, 10).filter(bool),
)
def test_a_scaled_float_is_near_the_product(number: float, exponent: int) -> None:
    register = Register("power", 3, (0, 1), "float", exponent=7)
    value = decode_register(register, float32(number), {7: exponent & 0xFFFF})
    assert value == pytest.approx(number * 10.0**exponent, rel=1e-7)


@given(st.none() | st.integers(0, 0xFFFF).filter(lambda word: 10 < word < 0xFFF6))
@example(None)
@example(0x8000)
@example(11)
@example(0xFFF5)
def test_a_power_that_is_absent_or_nonsense_leaves_no_value(word: int | None) -> None:
    register = Register("power", 3, (0,), "int", exponent=7)
    assert decode_register(register, (5,), {} if word is None else {7: word}) is None


def test_not_available_is_told_before_the_power_is_looked_at() -> None:
    register = Register("energy", 3, (0, 1), "uint", not_available=0, exponent=7)
    assert decode_register(register, (0, 0), {7: 2}) is None
    assert decode_register(register, (0, 5), {7: 2}) == 500.0


# --- Sums and signs ---


def test_net_power_is_import_less_export() -> None:
    registers = {"power": 0, "powerExport": 1, "powerScale": 0.1, "powerExportScale": 0.1}
    assert values_of(registers, {0: 0, 1: 123}) == {"power": -12.3, "powerExport": 12.3}
    assert values_of(registers, {0: 3, 1: 1})["power"] == 0.2


@pytest.mark.parametrize("quantity", ["power", "current"])
def test_a_total_is_the_sum_of_its_phases(quantity: str) -> None:
    phases = {f"{quantity}L{n}": n for n in (1, 2, 3)}
    scales = {f"{name}Scale": 0.1 for name in phases}
    device = {1: 1, 2: 2, 3: 3}
    assert values_of(phases | scales, device)[quantity] == 0.6
    del phases[f"{quantity}L3"]
    del scales[f"{quantity}L3Scale"]
    assert values_of(phases | scales, device)[quantity] == 0.3, "not 0.30000000000000004"
    assert values_of(phases | {quantity: 4}, {**device, 4: 50})[quantity] == 50


def test_phases_of_voltage_have_no_sum() -> None:
    registers = {"voltageL1": 1, "voltageL2": 2, "voltageL3": 3}
    assert "voltage" not in values_of(registers, {1: 230, 2: 231, 3: 229})


def entry(address: int) -> dict[str, int]:
    """A register that says 65535 for "no value"."""
    return {"address": address, "notAvailable": 65535}


@pytest.mark.parametrize("missing", ["power", "powerExport", "powerL1", "powerL2", "powerL3"])
@pytest.mark.parametrize("how", ["not available", "refused"])
def test_a_sum_with_a_missing_part_is_missing(missing: str, how: str) -> None:
    names = ["power", "powerExport"] if missing in ("power", "powerExport") else []
    names = names or ["powerL1", "powerL2", "powerL3"]
    addresses = {name: 100 * number for number, name in enumerate(names)}
    device = dict.fromkeys(addresses.values(), 7)
    registers = {name: entry(address) for name, address in addresses.items()}
    assert "power" in values_of(registers, device)
    if how == "refused":
        del device[addresses[missing]]
    else:
        device[addresses[missing]] = 65535
    assert "power" not in values_of(registers, device)


@pytest.mark.parametrize("word", [65535, None])
def test_phases_do_not_stand_in_for_a_total_that_could_not_be_read(word: int | None) -> None:
    registers = {"power": entry(0), "powerL1": entry(100), "powerExport": entry(200)}
    device = {100: 5, 200: 0} | ({} if word is None else {0: word})
    assert values_of(registers, device) == {"powerL1": 5, "powerExport": 0}


def test_invert_turns_what_has_a_sign_and_nothing_else() -> None:
    registers = {"power": 0, "powerExport": 1, "powerL1": 2, "reactivePower": 3, "energy": 4,
                 "energyExport": 5, "voltage": 6, "apparentPower": 7, "powerFactor": 8}  # fmt: skip
    device = {0: 5, 1: 2, 2: 3, 3: 0, 4: 10, 5: 20, 6: 230, 7: 4, 8: 1}
    plain, inverted = values_of(registers, device), values_of(registers, device, invert=True)
    turned = {name for name in plain if plain[name] != inverted[name]}
    assert turned == {"power", "powerL1"}
    assert (plain["power"], inverted["power"], inverted["powerL1"]) == (3, -3, -3)
    assert repr(inverted["reactivePower"]) == "0.0"


def test_an_inverted_sum_of_phases_is_turned_once() -> None:
    registers = {"powerL1": 0, "powerL2": 1}
    assert values_of(registers, {0: 5, 1: 6}, invert=True) == {
        "powerL1": -5, "powerL2": -6, "power": -11,
    }  # fmt: skip


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["power", "powerExport", "powerL1", "powerL2", "powerL3", "energy"]),
        st.integers(0, 65535) | st.none(),
    ),
    st.booleans(),
)
def test_power_is_the_net_of_the_total_or_the_phases_or_nothing(
    read: dict[str, int | None], invert: bool
) -> None:
    assume("powerExport" not in read or "power" in read)  # cannot be registered otherwise
    known = {name: word for name, word in read.items() if word is not None}
    raw = {name: (Register(name, 3, (0,), "uint"), (word,)) for name, word in known.items()}
    signs = (
        {"power": 1, "powerExport": -1} if "power" in read else dict.fromkeys(PHASES["power"], 1)
    )
    parts = [name for name in signs if name in read]
    expected = None
    if parts and all(name in known for name in parts):
        expected = sum(signs[name] * known[name] for name in parts) * (-1 if invert else 1)
    assert combine(decode_values(raw, {}), read.keys(), invert=invert).get("power") == expected


# --- Packing ---


@st.composite
def register_lists(draw: Any, most: int, highest: int) -> list[Register]:
    """Registers of one meter, some of them overlapping, some with far-apart words."""
    registers = []
    for number in range(draw(st.integers(1, most))):
        function = draw(st.sampled_from([3, 4])) if draw(st.booleans()) else 3
        width = draw(st.sampled_from([1, 1, 2, 4]))
        start = draw(st.integers(0, highest))
        words = tuple(range(start, start + width))
        if width == 1 and draw(st.booleans()):
            words = (start, start + draw(st.integers(1, 3)))
        registers.append(Register(f"q{number}", function, words, "uint"))
    return registers


def is_readable(block: list[Register], max_registers: int, max_gap: int) -> bool:
    """Whether one request may read these: the rule of packing, said in the plainest way."""
    if len({register.function for register in block}) > 1:
        return False
    wanted = {address for one in block for address in range(one.start, one.stop)}
    whole = range(min(wanted), max(wanted) + 1)
    holes = "".join("." if address in wanted else "x" for address in whole).split(".")
    return len(whole) <= max_registers and max(map(len, holes)) <= max_gap


def partitions(items: list[Register]) -> Any:
    """All ways to put items into groups."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for others in range(len(rest) + 1):
        for chosen in itertools.combinations(range(len(rest)), others):
            group = [first, *(rest[index] for index in chosen)]
            left = [item for index, item in enumerate(rest) if index not in chosen]
            for groups in partitions(left):
                yield [group, *groups]


def fewest_requests(registers: list[Register], max_registers: int, max_gap: int) -> int:
    return min(
        len(groups)
        for groups in partitions(registers)
        if all(is_readable(group, max_registers, max_gap) for group in groups)
    )


@settings(deadline=None)
@given(register_lists(most=19, highest=300), st.integers(4, 125), st.integers(0, 124), st.data())
def test_packing_keeps_its_rules(
    registers: list[Register], max_registers: int, max_gap: int, data: Any
) -> None:
    requests = pack(registers, 9, max_registers, max_gap)
    packed = [register for request in requests for register in request.registers]
    assert sorted(packed, key=repr) == sorted(registers, key=repr)
    for request in requests:
        assert request.unit_id == 9
        assert request.count <= max_registers
        assert is_readable(list(request.registers), max_registers, max_gap)
        for register in request.registers:
            assert register.function == request.function
            assert request.address <= register.start
            assert register.stop <= request.address + request.count
        assert request.address == min(register.start for register in request.registers)
        assert request.address + request.count == max(r.stop for r in request.registers)
    shuffled = data.draw(st.permutations(registers))
    blocks = [(r.function, r.address, r.count) for r in requests]
    again = pack(shuffled, 9, max_registers, max_gap)
    assert [(r.function, r.address, r.count) for r in again] == blocks


@given(register_lists(most=6, highest=16), st.integers(4, 12), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_packing_takes_the_fewest_requests_there_are(
    registers: list[Register], max_registers: int, max_gap: int
) -> None:
    requests = pack(registers, 1, max_registers, max_gap)
    assert len(requests) == fewest_requests(registers, max_registers, max_gap)


def test_a_hole_as_wide_as_allowed_is_read_through() -> None:
    registers = {"power": 0, "voltage": 9}
    assert [request.count for request in requests_of(registers)] == [10]
    assert [request.count for request in requests_of(registers, maxGap=7)] == [1, 1]


def test_values_that_overlap_are_packed_alike_in_any_order() -> None:
    registers = {"power": {"address": 1, "type": "uint64"}, "voltage": 1, "current": 0}
    for names in itertools.permutations(registers):
        given_so = {name: registers[name] for name in names}
        requests = requests_of(given_so, maxRegistersPerRequest=4)
        assert [(r.address, r.count) for r in requests] == [(0, 2), (1, 4)]


def test_functions_are_read_apart() -> None:
    registers = {"power": 0, "voltage": {"address": 1, "registerType": "input"}, "current": 2}
    blocks = [(r.function, r.address, r.count) for r in requests_of(registers)]
    assert blocks == [(3, 0, 3), (4, 1, 1)]


def test_nothing_to_read_is_no_request() -> None:
    assert pack([], 1, 125, 8) == ()


# --- Splitting ---


@settings(deadline=None)
@given(register_lists(most=19, highest=60), st.integers(4, 125))
def test_splitting_loses_nothing_and_comes_to_an_end(
    registers: list[Register], max_registers: int
) -> None:
    for request in pack(registers, 1, max_registers, max_gap=124):
        parts = split(request, max_registers)
        assert (parts == ()) == (len(request.registers) == 1)
        left = [request]
        while left:
            block = left.pop()
            parts = split(block, max_registers)
            assert all(len(part.registers) < len(block.registers) for part in parts)
            assert all(part.count <= max_registers for part in parts)
            if parts:
                together = [register for part in parts for register in part.registers]
                assert sorted(together, key=repr) == sorted(block.registers, key=repr)
            left.extend(parts)


def test_words_are_cut_by_address() -> None:
    low_high = Register("energy", 3, (12, 10), "uint")
    request = ReadRequest(1, 3, 10, 3, (low_high, Register("power", 3, (11,), "int")))
    assert raw_words(request, [1, 2, 3]) == {
        "energy": (low_high, (3, 1)),
        "power": (request.registers[1], (2,)),
    }
