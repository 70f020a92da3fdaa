"""Quantities into register words, by a registration's own `registers`.

The way back (words into quantities) is `edge.decode`; nothing is shared with it, so that a fault
in one of the two shows as a wrong value.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from edge.model import QUANTITY_NAMES
from edge.simulate.wire import READ_HOLDING, READ_INPUT

Tables = dict[int, dict[int, int]]
"""Function code (3 holding, 4 input) to register address to word."""

_FUNCTIONS = {"holding": READ_HOLDING, "input": READ_INPUT}
_FLOAT_FORMATS = {32: ">f", 64: ">d"}


@dataclass(frozen=True)
class _Place:
    """Where and how one quantity is kept.

    words: addresses, most significant word first. scale, factor: the same number, exact and fast.
    not_available: the raw number that stands for no value, where the device has one of its own.
    """

    quantity: str
    function: int
    words: tuple[int, ...]
    kind: str
    scale: Fraction
    factor: float
    bits: int
    not_available: int | None

    def put(self, value: float, table: dict[int, int]) -> None:
        """Write `value`, in the quantity's unit; NaN is written as "no value"."""
        pattern = self._pattern(value)
        for address in reversed(self.words):
            table[address] = pattern & 0xFFFF
            pattern >>= 16

    def _pattern(self, value: float) -> int:
        """Give the raw value's bits as one unsigned number."""
        if self.not_available is not None and not math.isfinite(value):
            return self.not_available
        if self.kind == "float":
            try:
                raw = struct.pack(_FLOAT_FORMATS[self.bits], value / self.factor)
            except OverflowError:
                raise self._misfit(value) from None
            return int.from_bytes(raw, "big")
        signed = self.kind == "int"
        if not math.isfinite(value):
            # The patterns that SunSpec and most makers use for "not implemented".
            return 1 << (self.bits - 1) if signed else (1 << self.bits) - 1
        # An int goes the exact way: a float cannot hold every 64-bit counter.
        exact = isinstance(value, int)
        number = round(value / self.scale) if exact else round(value / self.factor)
        lowest = -(1 << (self.bits - 1)) if signed else 0
        if not lowest <= number < lowest + (1 << self.bits):
            raise self._misfit(value)
        return number & ((1 << self.bits) - 1)

    def _misfit(self, value: float) -> ValueError:
        return ValueError(
            f"{self.quantity} = {value} does not fit {self.kind}{self.bits} at address "
            f"{self.words[0]} with scale {self.factor}: use a wider type or scale"
        )


class Layout:
    """A registration's `communication.registers`, ready to encode with.

    communication: the registration's own document; `registers`, `registerType` and `wordOrder`
    are used. It is expected to be valid: this is no second validation.
    """

    def __init__(self, communication: Mapping[str, Any]) -> None:
        registers: Mapping[str, Any] = communication["registers"]
        defaults = {
            "type": "uint16",
            "registerType": communication.get("registerType", "holding"),
            "wordOrder": communication.get("wordOrder", "big"),
            "scale": 1,
        }
        self._places = tuple(
            _place(name, registers, defaults) for name in QUANTITY_NAMES if name in registers
        )

    @property
    def quantities(self) -> tuple[str, ...]:
        """The quantities that have a register."""
        return tuple(place.quantity for place in self._places)

    def encode(self, values: Mapping[str, float]) -> Tables:
        """Give the words of `values` (by quantity name, each in its quantity's unit).

        A quantity that is not in the layout is left out. NaN becomes the device's own number for
        "not available"; without one, a float's NaN and an integer's usual pattern. Raises
        ValueError for a value that does not fit.
        """
        tables: Tables = {READ_HOLDING: {}, READ_INPUT: {}}
        for place in self._places:
            if place.quantity in values:
                place.put(values[place.quantity], tables[place.function])
        return tables


def encode(values: Mapping[str, float], communication: Mapping[str, Any]) -> Tables:
    """Give the register words of `values` under a registration's `communication`; see Layout."""
    return Layout(communication).encode(values)


def _place(name: str, registers: Mapping[str, Any], defaults: Mapping[str, Any]) -> _Place:
    spec = registers[name]
    keys = {**defaults, **(spec if isinstance(spec, Mapping) else {"address": spec})}
    address = keys["address"]
    kind = keys["type"].rstrip("0123456789")
    words = tuple(range(address, address + int(keys["type"][len(kind) :]) // 16))
    if keys["wordOrder"] == "little":
        words = words[::-1]
    if name == "energy" and "energyHigh" in registers:
        high = registers["energyHigh"]
        words = (high["address"] if isinstance(high, Mapping) else high, address)
    scale = Fraction(str(keys["scale"])) * Fraction(str(registers.get(f"{name}Scale", 1)))
    function = _FUNCTIONS[keys["registerType"]]
    bits, not_available = 16 * len(words), keys.get("notAvailable")
    return _Place(name, function, words, kind, scale, float(scale), bits, not_available)
