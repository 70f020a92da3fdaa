"""One meter's requests, and what is made of the replies to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.communication import ModbusCommunication, ReadRequest, Register
from edge.drivers.modbus.reader import ModbusReader
from edge.errors import BadReply
from tests.building import a_meter


def communication(registers: dict[str, Any], **keys: Any) -> ModbusCommunication:
    its_meter = a_meter(communication={"host": "meter", "registers": registers, **keys})
    assert isinstance(its_meter.communication, ModbusCommunication)
    return its_meter.communication


def reader(registers: dict[str, Any], **keys: Any) -> ModbusReader:
    asked = communication(registers, **keys)
    return ModbusReader(asked, asked.registers, {})


def replies(
    its_reader: ModbusReader, device: Mapping[int, int]
) -> list[tuple[ReadRequest, list[int]]]:
    """What a device with these registers answers; it refuses blocks with others in them."""
    answers = []
    for request in its_reader.requests:
        block = range(request.address, request.address + request.count)
        if all(address in device for address in block):
            answers.append((request, [device[address] for address in block]))
    return answers


def test_what_is_read_is_what_the_registration_means() -> None:
    registers = {"power": 0, "powerExport": 1, "voltage": 40, "voltageScale": 0.1}
    its_reader = reader(registers, invert=True, unitId=7)
    blocks = [(r.unit_id, r.function, r.address, r.count) for r in its_reader.requests]
    assert blocks == [(7, 3, 0, 2), (7, 3, 40, 1)]
    values, raw = its_reader.decode(replies(its_reader, {0: 5, 1: 8, 40: 2301}))
    assert values == {"power": 3.0, "powerExport": 8.0, "voltage": 230.1}
    assert {name: words for name, (_, words) in raw.items()} == {
        "power": (5,), "powerExport": (8,), "voltage": (2301,)
    }  # fmt: skip


def test_a_quantity_whose_block_is_missing_is_missing_in_sums_too() -> None:
    its_reader = reader({"power": 0, "powerExport": 100})
    assert its_reader.decode(replies(its_reader, {0: 5}))[0] == {}
    assert its_reader.decode([]) == ({}, {})


# --- Splitting -----------------------------------------------------------------------------------


def test_a_refused_block_is_split_at_its_holes_and_then_into_halves() -> None:
    its_reader = reader(
        {"power": 0, "powerL1": 1, "powerL2": 2, "powerL3": 3, "voltage": 5, "current": 20}
    )
    (front, back) = its_reader.requests
    blocks = [(part.address, part.count) for part in its_reader.split(front)]
    assert blocks == [(0, 4), (5, 1)]
    assert its_reader.requests[-1] == back
    blocks = [(part.address, part.count) for part in its_reader.split(its_reader.requests[0])]
    assert blocks == [(0, 2), (2, 2)]
    blocks = [(request.address, request.count) for request in its_reader.requests]
    assert blocks == [(0, 2), (2, 2), (5, 1), (20, 1)]


def test_a_single_value_is_never_split() -> None:
    its_reader = reader({"energy": 10, "energyHigh": 15})
    (request,) = its_reader.requests
    assert its_reader.split(request) == ()
    assert its_reader.requests == (request,)


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=19, unique=True), st.data())
def test_whatever_a_device_lacks_all_else_is_read_in_the_end(
    addresses: list[int], data: Any
) -> None:
    names = [f"q{number}" for number in range(len(addresses))]
    registers = [
        Register(name, 3, (address,), "uint")
        for name, address in zip(names, addresses, strict=True)
    ]
    lacking = data.draw(st.sets(st.integers(0, 60)))
    device = {address: address for address in range(61) if address not in lacking}
    its_reader = ModbusReader(communication({"power": 1}), registers, {})
    for _ in range(20):
        answered = {request for request, _ in replies(its_reader, device)}
        refused = [request for request in its_reader.requests if request not in answered]
        split_up = [request for request in refused if its_reader.split(request)]
        if not split_up:
            break
    values, raw = its_reader.decode(replies(its_reader, device))
    assert values == {
        name: address for name, address in zip(names, addresses, strict=True) if address in device
    }
    assert raw.keys() == values.keys()


def test_one_register_that_is_not_there_costs_few_requests() -> None:
    names = [f"{name}L{n}" for name in ("power", "voltage", "current") for n in (1, 2, 3)]
    names += ["power", "voltage", "current", "powerFactor", "frequency", "energy", "energyExport"]
    its_reader = reader({name: address for address, name in enumerate(names)})
    device = {address: 1 for address in range(len(names)) if address != 13}
    for _ in names:
        answered = {request for request, _ in replies(its_reader, device)}
        for request in its_reader.requests:
            if request not in answered:
                its_reader.split(request)
    assert len(names) == 16
    assert len(its_reader.requests) == 5
    assert len(its_reader.decode(replies(its_reader, device))[0]) == 15


# --- Words that are no quantity ------------------------------------------------------------------

SCALED = (
    Register("power", 3, (10,), "int", Fraction(1, 1000), exponent=12),
    Register("voltage", 3, (11,), "uint", exponent=13),
    Register("current", 3, (14,), "uint", exponent=13),
)


def a_scaled_reader(expected: Mapping[int, int] | None = None, **keys: Any) -> ModbusReader:
    return ModbusReader(communication({"power": 0}, **keys), SCALED, expected or {})


def test_a_power_of_ten_is_read_with_the_values_and_shown_with_none_of_them() -> None:
    its_reader = a_scaled_reader()
    assert [(r.address, r.count) for r in its_reader.requests] == [(10, 5)]
    device = {10: 0xFFFF - 1499, 11: 2301, 12: 1, 13: 0xFFFF, 14: 57}
    values, raw = its_reader.decode(replies(its_reader, device))
    assert values == {"power": -15.0, "voltage": 230.1, "current": 5.7}
    assert raw == {}, "its words alone say nothing about a wrong type or scale"


def test_a_power_of_ten_counts_in_the_poll_that_it_was_read_in() -> None:
    its_reader = a_scaled_reader()
    for exponent, volts in ((0xFFFF, 230.1), (0, 2301.0), (0xFFFE, 23.01)):
        device = dict.fromkeys(range(10, 15), 0) | {11: 2301, 13: exponent}
        assert its_reader.decode(replies(its_reader, device))[0]["voltage"] == volts


def test_without_its_power_of_ten_a_quantity_has_no_value() -> None:
    its_reader = a_scaled_reader()
    while any(its_reader.split(request) for request in its_reader.requests):
        pass
    assert len(its_reader.requests) == 5
    device = {10: 15, 11: 2301, 12: 0, 14: 57}
    values, _ = its_reader.decode(replies(its_reader, device))
    assert values == {"power": 0.015}
    device[13] = 0x8000
    assert its_reader.decode(replies(its_reader, device))[0] == {"power": 0.015}


def test_a_power_of_ten_is_looked_for_in_the_registers_of_its_own_kind() -> None:
    register = Register("power", 4, (10,), "uint", exponent=12)
    its_reader = ModbusReader(communication({"power": 0}), [register], {})
    assert [(r.function, r.address, r.count) for r in its_reader.requests] == [(4, 10, 3)]


def test_words_that_must_be_so_are_read_in_every_poll_and_checked() -> None:
    its_reader = a_scaled_reader({8: 203, 9: 105})
    assert [(r.address, r.count) for r in its_reader.requests] == [(8, 7)]
    device = {8: 203, 9: 105, 10: 15, 11: 2301, 12: 0, 13: 0xFFFF, 14: 57}
    values, raw = its_reader.decode(replies(its_reader, device))
    assert (values["power"], raw) == (0.015, {})
    for address, other in ((8, 213), (9, 124)):
        with pytest.raises(BadReply) as caught:
            its_reader.decode(replies(its_reader, {**device, address: other}))
        assert str(caught.value) == (
            f"Register {address} holds {other} where it held {device[address]} before: the "
            "device's register map has changed and is searched anew at the next poll."
        )


@given(st.sets(st.integers(0, 40), min_size=1), st.data())
@settings(deadline=None)
def test_whatever_is_asked_for_beside_quantities_no_such_name_comes_out(
    addresses: set[int], data: st.DataObject
) -> None:
    registers = [
        Register(f"q{address}", 3, (address,), "int", exponent=data.draw(st.integers(0, 40)))
        for address in addresses
    ]
    expected = data.draw(st.dictionaries(st.integers(0, 40), st.integers(0, 9)))
    asked = replace(communication({"power": 0}), max_registers_per_request=4)
    its_reader = ModbusReader(asked, registers, expected)
    device = {address: expected.get(address, address % 10) for address in range(41)}
    values, raw = its_reader.decode(replies(its_reader, device))
    assert raw == {}
    assert values == {
        register.quantity: device[register.start] * 10 ** device[register.exponent]
        for register in registers
        if register.exponent is not None
    }
