"""SunSpec: find a meter's or an inverter's registers by walking the device's list of models.

A SunSpec device holds the marker "SunS" at a known base address, and behind it its models, one
after the other: an id, the number of registers that follow, and those registers; the id 0xFFFF
ends the list. What stands where in a model is the same for every maker, but where the model begins
is not: the common model comes in two lengths, and makers put models of their own between.

`Discovery` does no I/O: it says what to read next and is given the words. It reads headers only,
two words each, because some devices refuse a block that crosses a model's end.

Integers are scaled by a power of ten that the device holds beside them (`Register.exponent`).
Power is positive for import (meters) or production (inverters) as the models define it; makers
differ, and a template for such a maker says `invert`. Of several fitting models the first is
taken: the inverter's first meter.

Source: SunSpec Alliance, Device Information Model Specification 1.1, and github.com/sunspec/models,
json/model_101.json to model_113.json and model_201.json to model_214.json.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from edge.communication import Register
from edge.errors import BadReply

BASES = (40000, 50000, 0)
"""Addresses where a list of models may begin; that of nearly all devices first."""
MARKER = b"SunS"
"""What stands there, two characters a register."""
_END_OF_MODELS = 0xFFFF
_MOST_MODELS = 100
"""More than any device has: what goes on longer is no list of models."""
_ADDRESSES = 0x10000
_SHOWN_MODELS = 20
_READ_HOLDING_REGISTERS = 3

_ONE = Fraction(1)
_KILO = Fraction(1, 1000)
_PERCENT = Fraction(1, 100)

_TYPES = {
    "int16": ("int", 1, 0x8000),
    "uint16": ("uint", 1, 0xFFFF),
    "acc32": ("uint", 2, 0),
    "float32": ("float", 2, 0x7FC00000),
}
"""SunSpec type → kind, words, and the number that says "not implemented"."""


@dataclass(frozen=True)
class _Point:
    """A quantity's place in a model.

    offset and exponent (the scale factor's) count from the model's id. wiring: the last digits of
    the ids of the models that have it: 1 single-phase, 2 split-phase, 3 three-phase wye, 4 delta.
    """

    quantity: str
    offset: int
    type: str
    exponent: int | None = None
    scale: Fraction = _ONE
    wiring: str = "1234"


def _phases(
    quantity: str,
    offset: int,
    type_: str,
    exponent: int | None = None,
    scale: Fraction = _ONE,
) -> tuple[_Point, ...]:
    """Phases A, B and C, one behind the other."""
    return tuple(
        _Point(
            f"{quantity}L{index + 1}", offset + index * _TYPES[type_][1], type_, exponent, scale, w
        )
        for index, w in enumerate(("1234", "234", "34"))
    )


_INTEGER_METER = (
    _Point("current", 2, "int16", 6),
    *_phases("current", 3, "int16", 6),
    _Point("voltage", 7, "int16", 15, wiring="123"),
    *_phases("voltage", 8, "int16", 15),
    _Point("voltage", 11, "int16", 15, wiring="4"),  # line to line: there is no neutral
    _Point("frequency", 16, "int16", 17),
    _Point("power", 18, "int16", 22, _KILO),
    *_phases("power", 19, "int16", 22, _KILO),
    _Point("apparentPower", 23, "int16", 27, _KILO),
    _Point("reactivePower", 28, "int16", 32, _KILO),
    _Point("powerFactor", 33, "int16", 37, _PERCENT),
    _Point("energyExport", 38, "acc32", 54, _KILO),
    _Point("energy", 46, "acc32", 54, _KILO),
)
_FLOAT_METER = (
    _Point("current", 2, "float32"),
    *_phases("current", 4, "float32"),
    _Point("voltage", 10, "float32", wiring="123"),
    *_phases("voltage", 12, "float32"),
    _Point("voltage", 18, "float32", wiring="4"),
    _Point("frequency", 26, "float32"),
    _Point("power", 28, "float32", scale=_KILO),
    *_phases("power", 30, "float32", scale=_KILO),
    _Point("apparentPower", 36, "float32", scale=_KILO),
    _Point("reactivePower", 44, "float32", scale=_KILO),
    _Point("powerFactor", 52, "float32"),  # -1..1 in these models, and percent in all the others
    _Point("energyExport", 60, "float32", scale=_KILO),
    _Point("energy", 68, "float32", scale=_KILO),
)
_INTEGER_INVERTER = (
    _Point("current", 2, "uint16", 6),
    *_phases("current", 3, "uint16", 6),
    _Point("voltage", 10, "uint16", 13, wiring="1"),  # the others have no average
    *_phases("voltage", 10, "uint16", 13),
    _Point("power", 14, "int16", 15, _KILO),
    _Point("frequency", 16, "uint16", 17),
    _Point("apparentPower", 18, "int16", 19, _KILO),
    _Point("reactivePower", 20, "int16", 21, _KILO),
    _Point("powerFactor", 22, "int16", 23, _PERCENT),
    _Point("energy", 24, "acc32", 26, _KILO),
)
_FLOAT_INVERTER = (
    _Point("current", 2, "float32"),
    *_phases("current", 4, "float32"),
    _Point("voltage", 16, "float32", wiring="1"),
    *_phases("voltage", 16, "float32"),
    _Point("power", 22, "float32", scale=_KILO),
    _Point("frequency", 24, "float32"),
    _Point("apparentPower", 26, "float32", scale=_KILO),
    _Point("reactivePower", 28, "float32", scale=_KILO),
    _Point("powerFactor", 30, "float32", scale=_PERCENT),
    _Point("energy", 32, "float32", scale=_KILO),
)
_MODELS = {
    "meter": {
        **dict.fromkeys((201, 202, 203, 204), _INTEGER_METER),
        **dict.fromkeys((211, 212, 213, 214), _FLOAT_METER),
    },
    "inverter": {
        **dict.fromkeys((101, 102, 103), _INTEGER_INVERTER),
        **dict.fromkeys((111, 112, 113), _FLOAT_INVERTER),
    },
}


class Discovery:
    """One walk through a device's models, for its first `meter` or `inverter`.

    Read what `request` says, give what came to `receive`, and go on until `request` gives None.
    registers: then, what the model holds; all in holding registers. check: (address, word) of the
    model's id and length, which stand just before it: while they read so, the model has not moved.
    """

    def __init__(self, kind: str) -> None:
        self.registers: tuple[Register, ...] = ()
        self.check: tuple[tuple[int, int], ...] = ()
        self._kind = kind
        self._bases = list(BASES)
        self._in_chain = False
        self._models: list[int] = []
        self._next: int | None = self._bases.pop(0)

    def request(self) -> tuple[int, int] | None:
        """Give the address and count of the holding registers to read next; None at the end."""
        return None if self._next is None else (self._next, 2)

    def receive(self, words: Sequence[int] | None) -> None:
        """Take what came.

        words: as many as were asked for, 0..65535; None: the device refuses these addresses.
        Raises BadReply when there is nothing to be found; then the walk is over.
        """
        address, self._next = self._next, None
        if address is None:
            raise RuntimeError("the discovery is over")
        if words is not None and len(words) != 2:
            raise BadReply(f"{len(words)} words came where the 2 at {address} were asked for.")
        if self._in_chain:
            self._take_header(address, words)
        elif words is not None and struct.pack(">2H", *words) == MARKER:
            self._in_chain = True
            self._next = address + 2
        elif self._bases:
            self._next = self._bases.pop(0)
        else:
            raise BadReply(
                "There is no SunSpec marker at 40000, 50000 or 0: check the unit id, and whether "
                "SunSpec is switched on in the device."
            )

    def _take_header(self, address: int, words: Sequence[int] | None) -> None:
        if words is None:
            raise BadReply(
                f"The device refuses the header of a SunSpec model at {address}: {self._advice()}."
            )
        model, length = words
        if model == _END_OF_MODELS:
            raise BadReply(f"The device has no SunSpec {self._kind}: {self._advice()}.")
        if not model or len(self._models) == _MOST_MODELS:
            raise BadReply(f"The list of SunSpec models is broken at {address}: {self._advice()}.")
        self._models.append(model)
        stop = address + 2 + length
        if model in _MODELS[self._kind] and stop <= _ADDRESSES:
            self._take_model(address, model, length)
        elif stop + 2 <= _ADDRESSES:
            self._next = stop
        else:
            raise BadReply(
                f"The SunSpec model at {address} leads beyond the last address: {self._advice()}."
            )

    def _take_model(self, address: int, model: int, length: int) -> None:
        """Place the points that the model is long enough for; power must be among them."""
        wiring = str(model % 10)
        registers = tuple(
            _register(point, address)
            for point in _MODELS[self._kind][model]
            if wiring in point.wiring and _last_offset(point) < length + 2
        )
        if not any(register.quantity == "power" for register in registers):
            raise BadReply(
                f"The SunSpec model {model} at {address} ends before its power, after {length} "
                "registers: ask its maker for newer firmware, or give the registers one by one."
            )
        self.registers = registers
        self.check = ((address, model), (address + 1, length))

    def _advice(self) -> str:
        wanted = ", ".join(map(str, _MODELS[self._kind]))
        models = list(dict.fromkeys(self._models))[:_SHOWN_MODELS]
        found = ", ".join(map(str, models)) or "none"
        return (
            f"wanted is one of the models {wanted}, found are {found}, so check the unit id, or "
            "give the registers one by one"
        )


def _register(point: _Point, address: int) -> Register:
    kind, words, not_implemented = _TYPES[point.type]
    start = address + point.offset
    return Register(
        point.quantity,
        _READ_HOLDING_REGISTERS,
        tuple(range(start, start + words)),
        kind,
        point.scale,
        not_implemented,
        None if point.exponent is None else address + point.exponent,
    )


def _last_offset(point: _Point) -> int:
    return max(point.offset + _TYPES[point.type][1] - 1, point.exponent or 0)
