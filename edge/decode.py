"""Registers into requests, and words back into values: pure, no socket, no clock.

Packing: the registers of a meter are read in as few requests as their addresses allow. Two are
read together when the hole between them is at most `max_gap` registers and the block stays within
`max_registers_per_request`; a value of several words is never split over two requests, because
its halves would be of different moments.

A device may refuse a block because of a register it does not have, in a hole or among those
wanted (Modbus exception 2). Then `ModbusReader` splits that block, first at its holes, then into
halves and again into halves, so that one register that is not there costs few requests. It
remembers that for as long as the meter stays registered as it is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence

from edge.communication import RawWords, ReadRequest, Register

PHASES = {
    "power": ("powerL1", "powerL2", "powerL3"),
    "current": ("currentL1", "currentL2", "currentL3"),
}
"""Totals that are the sum of their phases when the meter gives no total of its own."""

_FLOAT_FORMATS = {2: ">f", 4: ">d"}


def pack(
    registers: Iterable[Register], unit_id: int, max_registers: int, max_gap: int
) -> tuple[ReadRequest, ...]:
    """Group registers into the fewest requests, by function code and address.

    max_registers: words of the largest block. max_gap: unwanted words that may be read through.
    No register may span more than max_registers.
    """
    requests: list[ReadRequest] = []
    block: list[Register] = []
    stop = 0
    for register in sorted(registers, key=lambda r: (r.function, r.start, r.stop)):
        fits = (
            block
            and register.function == block[0].function
            and register.start - stop <= max_gap
            and register.stop - block[0].start <= max_registers
        )
        if not fits and block:
            requests.append(_request(unit_id, block))
            block = []
        stop = max(stop, register.stop) if block else register.stop
        block.append(register)
    if block:
        requests.append(_request(unit_id, block))
    return tuple(requests)


def split(request: ReadRequest, max_registers: int) -> tuple[ReadRequest, ...]:
    """Take a request apart: at its holes, or without holes into halves; empty for one value."""
    parts = pack(request.registers, request.unit_id, max_registers, max_gap=0)
    if len(parts) > 1:
        return parts
    middle = len(request.registers) // 2
    halves = request.registers[:middle], request.registers[middle:]
    return tuple(_request(request.unit_id, half) for half in halves) if middle else ()


def _request(unit_id: int, block: Sequence[Register]) -> ReadRequest:
    start = block[0].start
    stop = max(register.stop for register in block)
    return ReadRequest(unit_id, block[0].function, start, stop - start, tuple(block))


def raw_words(request: ReadRequest, words: Sequence[int]) -> RawWords:
    """Cut a block into its quantities.

    words: request.count numbers, 0..65535, as they came.
    """
    return {
        register.quantity: (
            register,
            tuple(words[address - request.address] for address in register.words),
        )
        for register in request.registers
    }


def decode_values(raw: RawWords, exponents: Mapping[int, int]) -> dict[str, float]:
    """Decode words into quantity → value in the quantity's unit.

    exponents: address → word, for the registers whose scale is read from the device, too.
    A quantity without a value (NaN, ±Inf, the device's not-available number) is left out.
    """
    values = {}
    for name, (register, words) in raw.items():
        value = decode_register(register, words, exponents)
        if value is not None:
            values[name] = value
    return values


def combine(
    values: Mapping[str, float], wanted: Collection[str], *, invert: bool
) -> dict[str, float]:
    """Make of what was read what it means: net power, sums of phases, the sign.

    wanted: the quantities that a reading of this meter consists of, be they there or not.
    Power is import − export where the meter gives them apart, and the sum of its phases where it
    gives no total; with a part missing it is left out, too.
    invert turns the sign of power, also by phase, and of reactive power. What is not signed stays
    as it was read: the export register, and the counters of energy.
    """
    combined = dict(values)
    if "powerExport" in wanted:
        _net_power(combined)
    for total, phases in PHASES.items():
        parts = [phase for phase in phases if phase in wanted]
        if total not in wanted and parts and all(phase in combined for phase in parts):
            combined[total] = _tidy(math.fsum(combined[phase] for phase in parts))
    if invert:
        for name in ("power", *PHASES["power"], "reactivePower"):
            if name in combined:
                combined[name] = 0.0 - combined[name]
    return combined


def decode_register(
    register: Register, words: tuple[int, ...], exponents: Mapping[int, int]
) -> float | None:
    """Decode one value; None when the device gives none.

    words: most significant first. exponents: as in `decode_values`.
    """
    number = 0
    for word in words:
        number = number << 16 | word
    if number == register.not_available:
        return None
    numerator, denominator = register.scale.numerator, register.scale.denominator
    if register.exponent is not None:
        exponent = _exponent(exponents.get(register.exponent))
        if exponent is None:
            return None
        numerator *= 10 ** max(exponent, 0)
        denominator *= 10 ** max(-exponent, 0)
    if register.kind == "float":
        value = _float(number, len(words)) * numerator / denominator
        if not math.isfinite(value):
            return None
        # Scaling rounds twice, and 15 digits are what a float keeps of a decimal number for sure.
        # Adding 0.0 turns -0.0, which some meters send when idle, into plain 0.0.
        return (value if numerator == denominator else float(f"{value:.15g}")) + 0.0
    bits = 16 * len(words)
    if register.kind == "int" and number >> (bits - 1):
        number -= 1 << bits
    # True division of whole numbers rounds once: 2301 × 1/10 is 230.1, not 230.10000000000002.
    return number * numerator / denominator


def _exponent(word: int | None) -> int | None:
    """A power of ten as devices give it, -10..10; None where it is not implemented, or nonsense.

    Source: SunSpec Device Information Model Specification, type `sunssf`.
    """
    if word is None:
        return None
    exponent = word - 0x10000 if word >= 0x8000 else word
    return exponent if -10 <= exponent <= 10 else None


def _float(number: int, words: int) -> float:
    raw = number.to_bytes(2 * words, "big")
    value: float
    (value,) = struct.unpack(_FLOAT_FORMATS[words], raw)
    if words == 4 or not math.isfinite(value):
        return value
    # A float32 stands for the decimal number of fewest digits, at most 9, that is coded so:
    # 230.1, not 230.10000610351562.
    decimals = (float(f"{value:.{digits}g}") for digits in range(6, 10))
    return next(decimal for decimal in decimals if struct.pack(">f", decimal) == raw)


def _net_power(values: dict[str, float]) -> None:
    """Import − export; without either of the two the net power is unknown."""
    if "power" in values and "powerExport" in values:
        values["power"] = _tidy(values["power"] - values["powerExport"])
    else:
        values.pop("power", None)


def _tidy(value: float) -> float:
    """Clear the float noise of a sum: a nanowatt and below is no measurement."""
    return round(value, 12)
