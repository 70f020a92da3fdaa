"""A walk through a device's SunSpec models finds the registers, or says why there are none."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.communication import Register
from edge.errors import BadReply
from edge.model import QUANTITY_NAMES
from edge.sunspec import Discovery

SUNS = (0x5375, 0x6E53)
END = (0xFFFF, 0)

INTEGERS = {201: 105, 202: 105, 203: 105, 204: 105, 101: 50, 102: 50, 103: 50}
FLOATS = {211: 124, 212: 124, 213: 124, 214: 124, 111: 60, 112: 60, 113: 60}
LENGTHS = {**INTEGERS, **FLOATS}
"""Model → its length in the published definitions."""


def device(*models: tuple[int, int], base: int = 40000, end: Sequence[int] = END) -> dict[int, int]:
    """The registers of a device with these models, each an id and a length; all points are 0."""
    words = [*SUNS]
    for model, length in models:
        words += [model, length, *[0] * length]
    return dict(enumerate([*words, *end], base))


def walk(kind: str, registers: Mapping[int, int]) -> Discovery:
    """Let a discovery ask a device that refuses what it does not have."""
    discovery = Discovery(kind)
    while (asked := discovery.request()) is not None:
        block = range(asked[0], asked[0] + asked[1])
        there = all(address in registers for address in block)
        discovery.receive([registers[address] for address in block] if there else None)
    return discovery


def found(discovery: Discovery) -> dict[str, Register]:
    quantities = {register.quantity: register for register in discovery.registers}
    assert len(quantities) == len(discovery.registers)
    return quantities


def kind_of(model: int) -> str:
    return "meter" if model >= 200 else "inverter"


# --- Where the model is ---


@pytest.mark.parametrize("base", [40000, 50000, 0])
@pytest.mark.parametrize("common_length", [65, 66])
def test_the_meter_is_found_at_each_base_behind_either_common_model(
    base: int, common_length: int
) -> None:
    its_walk = walk("meter", device((1, common_length), (203, 105), base=base))
    header = base + 4 + common_length
    assert its_walk.check == ((header, 203), (header + 1, 105))
    assert found(its_walk)["power"].words == (header + 18,)


def test_models_between_are_stepped_over_whatever_their_length() -> None:
    its_walk = walk("meter", device((1, 65), (103, 50), (64111, 0), (160, 48), (203, 105)))
    assert its_walk.check[0] == (40000 + 2 + 67 + 52 + 2 + 50, 203)


def test_the_first_of_several_meters_is_taken() -> None:
    its_walk = walk("meter", device((1, 65), (201, 105), (1, 65), (203, 105)))
    assert its_walk.check[0] == (40069, 201)


def test_an_inverter_is_found_before_the_meter_behind_it() -> None:
    registers = device((1, 65), (113, 60), (213, 124))
    assert walk("inverter", registers).check[0] == (40069, 113)
    assert walk("meter", registers).check[0] == (40131, 213)


def test_only_headers_are_read_and_only_as_far_as_needed() -> None:
    discovery = Discovery("meter")
    registers = device((1, 66), (203, 105), (64111, 7))
    asked = []
    while (request := discovery.request()) is not None:
        asked.append(request)
        discovery.receive([registers[request[0]], registers[request[0] + 1]])
    assert asked == [(40000, 2), (40002, 2), (40070, 2)]


# --- What the model holds; addresses and scales from the published definitions ---


def test_a_three_phase_integer_meter() -> None:
    quantities = found(walk("meter", device((1, 65), (203, 105))))
    assert {name: register.words[0] for name, register in quantities.items()} == {
        "current": 40071, "currentL1": 40072, "currentL2": 40073, "currentL3": 40074,
        "voltage": 40076, "voltageL1": 40077, "voltageL2": 40078, "voltageL3": 40079,
        "frequency": 40085, "power": 40087, "powerL1": 40088, "powerL2": 40089, "powerL3": 40090,
        "apparentPower": 40092, "reactivePower": 40097, "powerFactor": 40102,
        "energyExport": 40107, "energy": 40115,
    }  # fmt: skip
    assert {name: register.exponent for name, register in quantities.items()} == {
        **dict.fromkeys(("current", "currentL1", "currentL2", "currentL3"), 40075),
        **dict.fromkeys(("voltage", "voltageL1", "voltageL2", "voltageL3"), 40084),
        **dict.fromkeys(("power", "powerL1", "powerL2", "powerL3"), 40091),
        "frequency": 40086, "apparentPower": 40096, "reactivePower": 40101, "powerFactor": 40106,
        "energyExport": 40123, "energy": 40123,
    }  # fmt: skip
    assert quantities["power"] == Register(
        "power", 3, (40087,), "int", Fraction(1, 1000), 0x8000, 40091
    )
    assert quantities["energy"] == Register(
        "energy", 3, (40115, 40116), "uint", Fraction(1, 1000), 0, 40123
    )
    assert quantities["powerFactor"].scale == Fraction(1, 100)


def test_a_three_phase_float_meter() -> None:
    quantities = found(walk("meter", device((1, 65), (213, 124))))
    assert {name: register.words[0] for name, register in quantities.items()} == {
        "current": 40071, "currentL1": 40073, "currentL2": 40075, "currentL3": 40077,
        "voltage": 40079, "voltageL1": 40081, "voltageL2": 40083, "voltageL3": 40085,
        "frequency": 40095, "power": 40097, "powerL1": 40099, "powerL2": 40101, "powerL3": 40103,
        "apparentPower": 40105, "reactivePower": 40113, "powerFactor": 40121,
        "energyExport": 40129, "energy": 40137,
    }  # fmt: skip
    assert quantities["power"] == Register(
        "power", 3, (40097, 40098), "float", Fraction(1, 1000), 0x7FC00000
    )
    assert quantities["powerFactor"].scale == 1


def test_a_three_phase_integer_inverter() -> None:
    quantities = found(walk("inverter", device((1, 65), (103, 50))))
    assert {name: register.words[0] for name, register in quantities.items()} == {
        "current": 40071, "currentL1": 40072, "currentL2": 40073, "currentL3": 40074,
        "voltageL1": 40079, "voltageL2": 40080, "voltageL3": 40081, "power": 40083,
        "frequency": 40085, "apparentPower": 40087, "reactivePower": 40089,
        "powerFactor": 40091, "energy": 40093,
    }  # fmt: skip
    assert quantities["voltageL3"] == Register(
        "voltageL3", 3, (40081,), "uint", Fraction(1), 0xFFFF, 40082
    )
    assert quantities["power"] == Register(
        "power", 3, (40083,), "int", Fraction(1, 1000), 0x8000, 40084
    )
    assert (quantities["energy"].exponent, quantities["energy"].not_available) == (40095, 0)


def test_a_three_phase_float_inverter() -> None:
    quantities = found(walk("inverter", device((1, 65), (113, 60))))
    assert {name: register.words for name, register in quantities.items()} == {
        name: (address, address + 1)
        for name, address in {
            "current": 40071, "currentL1": 40073, "currentL2": 40075, "currentL3": 40077,
            "voltageL1": 40085, "voltageL2": 40087, "voltageL3": 40089, "power": 40091,
            "frequency": 40093, "apparentPower": 40095, "reactivePower": 40097,
            "powerFactor": 40099, "energy": 40101,
        }.items()
    }  # fmt: skip
    assert quantities["powerFactor"].scale == Fraction(1, 100)


@pytest.mark.parametrize("model", LENGTHS)
def test_a_model_holds_the_phases_of_its_wiring(model: int) -> None:
    quantities = found(walk(kind_of(model), device((1, 65), (model, LENGTHS[model]))))
    phases = {name[-2:] for name in quantities if name[-2:-1] == "L"}
    assert phases == {1: {"L1"}, 2: {"L1", "L2"}}.get(model % 10, {"L1", "L2", "L3"})
    assert quantities.keys() <= set(QUANTITY_NAMES)
    assert ("voltage" in quantities) == (model >= 200 or model % 10 == 1)


@pytest.mark.parametrize("model", LENGTHS)
def test_all_registers_lie_in_their_model_and_integers_have_a_scale_factor(model: int) -> None:
    its_walk = walk(kind_of(model), device((1, 65), (model, LENGTHS[model])))
    inside = range(40071, 40071 + LENGTHS[model])
    for register in its_walk.registers:
        assert register.function == 3
        assert register.start in inside
        assert register.stop - 1 in inside
        assert (register.exponent in inside) == (model in INTEGERS)
        assert register.not_available is not None


@pytest.mark.parametrize(("model", "address"), [(203, 40076), (204, 40080), (214, 40087)])
def test_the_voltage_of_a_delta_is_line_to_line(model: int, address: int) -> None:
    its_walk = walk("meter", device((1, 65), (model, LENGTHS[model])))
    assert found(its_walk)["voltage"].start == address


def test_the_not_implemented_float_is_a_nan() -> None:
    its_walk = walk("meter", device((1, 65), (213, 124)))
    number = found(its_walk)["power"].not_available
    assert number is not None
    (value,) = struct.unpack(">f", number.to_bytes(4, "big"))
    assert value != value


def test_a_short_model_gives_what_it_is_long_enough_for() -> None:
    quantities = found(walk("meter", device((1, 65), (203, 36))))
    assert "powerFactor" in quantities
    assert "energy" not in quantities
    assert "powerFactor" not in found(walk("meter", device((1, 65), (203, 35))))


# --- What cannot be used ---


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ({}, "There is no SunSpec marker at 40000, 50000 or 0"),
        (dict.fromkeys(range(40000, 40200), 0), "There is no SunSpec marker"),
        (device((1, 65), (103, 50), (120, 26)), r"no SunSpec meter: .* found are 1, 103, 120,"),
        (device(), "found are none"),
        (device((1, 65), end=()), "refuses the header of a SunSpec model at 40069: .* are 1,"),
        (device((1, 65), end=(0, 0)), "is broken at 40069: .* found are 1,"),
        (device((1, 65), end=(160, 65000)), "leads beyond the last address"),
        (device((1, 65), (203, 12)), "model 203 at 40069 ends before its power, after 12"),
        (device((1, 65535 - 40003)), "leads beyond the last address"),
        (device(*[(64111, 0)] * 101), r"is broken at 40202: .* found are 64111,"),
    ],
)
def test_what_cannot_be_used_is_said(registers: dict[int, int], message: str) -> None:
    with pytest.raises(BadReply, match=message):
        walk("meter", registers)


def test_a_meter_in_the_hundredth_model_is_found() -> None:
    assert walk("meter", device(*[(64111, 0)] * 99, (203, 105))).registers


def test_a_meter_that_would_end_beyond_the_last_address_is_refused() -> None:
    base, length = 50000, 65536 - 50000 - 4 - 2
    fits = device((1, length - 105), (203, 105), base=base, end=())
    assert found(walk("meter", fits))["power"].start == 65536 - 105 + 16
    with pytest.raises(BadReply, match="beyond the last address"):
        walk("meter", device((1, length - 104), (203, 105), base=base, end=()))


def test_a_reply_of_another_length_ends_it() -> None:
    discovery = Discovery("meter")
    with pytest.raises(BadReply, match="3 words came"):
        discovery.receive([1, 2, 3])
    assert discovery.request() is None
    with pytest.raises(RuntimeError):
        discovery.receive([1, 2])


word = st.one_of(st.integers(0, 0xFFFF), st.sampled_from((*SUNS, 0, 1, 65, 203, 0xFFFF)))


@given(
    kind=st.sampled_from(("meter", "inverter")),
    marker_at=st.integers(0, 2),
    replies=st.lists(st.none() | st.tuples(word, word)),
    rest=st.tuples(word, word),
)
def test_whatever_comes_it_ends_and_says_so(
    kind: str,
    marker_at: int,
    replies: list[tuple[int, int] | None],
    rest: tuple[int, int],
) -> None:
    discovery = Discovery(kind)
    answers = iter([*[None] * marker_at, SUNS, *replies])
    asked, refusal = 0, ""
    try:
        while (request := discovery.request()) is not None:
            assert 0 <= request[0] <= 65534
            asked += 1
            assert asked <= 3 + 101
            discovery.receive(next(answers, rest))
    except BadReply as exc:
        refusal = str(exc)
    assert discovery.request() is None
    if refusal:
        assert refusal.endswith(".")
        assert len(refusal) < 500
        assert not discovery.registers
        assert not discovery.check
        return
    (address, model), (_, length) = discovery.check
    assert model in LENGTHS
    assert "power" in found(discovery)
    for register in discovery.registers:
        assert address + 1 < register.start
        assert register.stop <= address + 2 + length
