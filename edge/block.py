"""Sealed readings: up to an hour of one meter as one compressed column block. Pure.

What is kept exactly: everything. Sequence numbers and milliseconds as they are, every value bit for
bit (-0.0, infinity and what no decimal number can say included), None where a reading had no value,
and which readings are suspect. Series, era and the wall clock of the first reading stand beside the
block: times inside are relative to it, so a block whose clock was wrong is shifted without opening.

A block; numbers are little-endian:

    4 bytes    CRC-32 of all that follows
    1 byte     format, 1
    2 bytes    count of readings, 1 to 65535
    2 bytes    length of the head, uncompressed
    the rest   one raw deflate stream (RFC 1951) that begins with the preset dictionary
               `_DICTIONARY`: the head, then its columns' planes in the order of the head

The head is JSON: `[suspect, seqs, times, {quantity: [kind, gaps, integers], …}]`.

    suspect    1: a plane of one byte per reading comes first, 1 where it is suspect; 0: none is
    gaps       1: such a plane comes before the column's, 0 where there is no value, and the column
               holds only the values that are there; 0: every reading has a value
    kind       what the integers are. 0 to 15: the value × 10^kind, the least power that gives every
               value of the column back. "f", "d": the bits of float32, float64, where none does
    seqs, times, integers
               a column `[order, start, slope, width]` of u[i], signed, `width` (1, 2, 4, 8) bytes
               order 0   x[i] = start + i·slope + u[i]               times, noise around a level
               order 1   x[0] = start, x[i] = x[i-1] + slope + u[i]  what wanders, what counts up

The first plane of a column holds the lowest byte of each u, the next the next, and so on; order 1
has no u[0]. Times are relative to the first. Every plane is a deflate block of its own and so has a
Huffman code of its own: that is what makes noise small.
"""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise, repeat
from typing import Any

from edge.record import Chunk, Series

_FORMAT = 1
_CRC = struct.Struct("<I")
_LEAD = struct.Struct("<BHH")
_MAX_COUNT = 0xFFFF
_MAX_QUANTITIES = 64
_INTEGERS = {1: "b", 2: "h", 4: "i", 8: "q"}
"""Bytes of an integer → its letter in `struct`."""
_BITS = {"f": "i", "d": "q"}
"""Letter of a float → letter of the integer of as many bits."""
_HALF, _QUARTER = 2**62, 2**61
"""Parts of what 64 bits hold, and a sign."""
_POWERS = tuple(10**digits for digits in range(16))
_EXACT = 2**53
"""Up to here a float holds every integer, so integer / 10^k is the float nearest to the decimal."""

_RAW_DEFLATE = -15
_DICTIONARY = (
    b'reactivePower":[3,0,[1,apparentPower":[3,0,[1,powerExport":[3,0,[1,energyExport":[2,0,[1,'
    b'L1":[3,0,[1,L2":[3,0,[1,L3":[2,0,[1,voltage":[1,0,[1,2]],"current":[2,0,[1,'
    b'2]],"powerFactor":[3,0,[1,1]],"frequency":[2,0,[1,1]],"energy":[2,0,[1,0,1]],'
    b'[0,[0,1,1,1],[0,-5,1000,1],{"power":[3,0,[1,'
)
"""What heads are made of; a part of the format."""


class BadBlock(ValueError):
    """A block that is damaged, or not of this format; what was found."""


_OF_A_WRONG_FORMAT = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError,
    struct.error, zlib.error,
)  # fmt: skip
"""What taking apart a block raises whose checksum fits and whose content does not."""


_Integers = tuple[int, int, int, int]
"""Order, start, slope and width of a column, as they stand in the head."""
_Column = tuple["int | str", int, _Integers]
"""Kind, gaps and integers."""


def encode_block(chunk: Chunk) -> bytes:
    """Compress a chunk, without its series, era and first time.

    Raises ValueError for an empty chunk, and for one of more than 65535 readings or 64 quantities.
    """
    if not 0 < len(chunk) <= _MAX_COUNT or len(chunk.values) > _MAX_QUANTITIES:
        raise ValueError(f"{len(chunk)} readings of {len(chunk.values)} quantities fit no block")
    planes = [bytes(chunk.suspect)] if any(chunk.suspect) else []
    suspect = len(planes)
    from_ms = chunk.unix_ms[0]
    seqs = _encode_integers(chunk.seqs, planes)
    times = _encode_integers([unix_ms - from_ms for unix_ms in chunk.unix_ms], planes)
    values = {name: _encode_values(values, planes) for name, values in chunk.values.items()}
    head = json.dumps([suspect, seqs, times, values], separators=(",", ":")).encode()
    body = _LEAD.pack(_FORMAT, len(chunk), len(head)) + _deflate([head, *planes])
    return _CRC.pack(zlib.crc32(body)) + body


def decode_block(
    data: bytes, series: Series, era: int, from_ms: int, only: Collection[str] | None = None
) -> Chunk:
    """Give back the chunk that was encoded. from_ms: when its first reading was taken, unix ms.

    only: the quantities that are wanted of it; None is all. Columns take 8 bytes for each reading,
    but for those with gaps, which take some 30.

    Raises BadBlock for anything but an undamaged block, and allocates no more than its count of
    readings can need.
    """
    body = data[_CRC.size :]
    if len(body) < _LEAD.size or _CRC.unpack_from(data) != (zlib.crc32(body),):
        raise BadBlock("the checksum is wrong")
    try:
        return _decode_body(body, series, era, from_ms, only)
    except _OF_A_WRONG_FORMAT as error:
        raise BadBlock(f"it does not follow its format: {error}") from error


def decimals(values: Sequence[float]) -> tuple[int, Sequence[int]] | None:
    """Give the least k, 0 to 15, and each value × 10^k as an integer.

    None where integer / 10^k is not the very value again, with any such k.
    """
    few = values[:8]  # these reject most k at once
    for digits, power in enumerate(_POWERS):
        if _scaled(few, power) is not None:
            integers = _scaled(values, power)
            if integers is not None:
                return digits, integers
    return None


def _scaled(values: Sequence[float], power: int) -> Sequence[int] | None:
    """Give each value × power as an integer, or None where integer / power is not the value."""
    try:
        integers = [round(value * power) for value in values]
    except (ValueError, OverflowError):  # not a number, infinity
        return None
    if integers and not -_EXACT <= min(integers) <= max(integers) <= _EXACT:
        return None
    # Compared bit by bit, as 0.0 == -0.0.
    again = _packed("d", [integer / power for integer in integers])
    return integers if again == _packed("d", values) else None


def _decode_body(
    body: bytes, series: Series, era: int, from_ms: int, only: Collection[str] | None
) -> Chunk:
    form, count, head_size = _LEAD.unpack_from(body)
    if form != _FORMAT or not count or not head_size:
        raise ValueError(f"format {form} with {count} readings")
    inflate = zlib.decompressobj(_RAW_DEFLATE, _DICTIONARY)
    head = json.loads(inflate.decompress(body[_LEAD.size :], head_size))
    suspect, seqs, times, values = head
    if len(values) > _MAX_QUANTITIES:
        raise ValueError(f"{len(values)} quantities")
    most = count * (2 * 8 + 1 + len(values) * (8 + 1))
    planes = _Planes(inflate.decompress(inflate.unconsumed_tail, most + 1))
    flags = list(map(bool, planes.take(count))) if suspect else [False] * count
    chunk = Chunk(
        series,
        era,
        array("q", _decode_integers(count, seqs, planes)),
        array("q", _decode_integers(count, times, planes, from_ms)),
        _decode_columns(count, values, planes, only),
        flags,
    )
    if planes.left or not inflate.eof or inflate.unused_data:
        raise ValueError("it is longer than its head says")
    return chunk


class _Planes:
    """What the stream holds after the head, taken piece by piece."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken."""
        return len(self._data) - self._next

    def take(self, size: int) -> bytes:
        """Take the next bytes; raises ValueError when there are not so many."""
        if not 0 <= size <= self.left:
            raise ValueError("it is shorter than its head says")
        self._next += size
        return self._data[self._next - size : self._next]


def _deflate(parts: Iterable[bytes]) -> bytes:
    # Z_FILTERED: noise has no short repetitions worth the name, only frequent bytes.
    deflate = zlib.compressobj(
        9, zlib.DEFLATED, _RAW_DEFLATE, 9, zlib.Z_FILTERED, zdict=_DICTIONARY
    )
    pieces: list[bytes] = []
    for part in parts:
        pieces += deflate.compress(part), deflate.flush(zlib.Z_BLOCK)
    return b"".join((*pieces, deflate.flush()))


def _encode_values(values: Sequence[float | None], planes: list[bytes]) -> _Column:
    present = [value for value in values if value is not None]
    gaps = int(len(present) < len(values))
    if gaps:
        planes.append(bytes(value is not None for value in values))
    kind, integers = decimals(present) or _bits(present)
    return kind, gaps, _encode_integers(integers, planes)


def _decode_columns(
    count: int, columns: dict[str, _Column], planes: _Planes, only: Collection[str] | None
) -> dict[str, Sequence[float | None]]:
    decoded = {}
    for name, column in columns.items():
        if only is None or name in only:
            decoded[name] = _decode_values(count, column, planes)
        else:
            _, gaps, (order, _, _, width) = column
            present = sum(planes.take(count)) if gaps else count
            planes.take(width * max(0, present - order))
    return decoded


def _decode_values(count: int, column: _Column, planes: _Planes) -> Sequence[float | None]:
    kind, gaps, form = column
    there = planes.take(count) if gaps else b""
    integers = _decode_integers(sum(there) if gaps else count, form, planes)
    if isinstance(kind, str):
        values = array("d", _unpacked(kind, _packed(_BITS[kind], list(integers))))
    else:
        power = _POWERS[kind]
        values = array("d", [integer / power for integer in integers])
    if not gaps:
        return values
    present = iter(values)
    return [next(present) if is_there else None for is_there in there]


def _bits(values: Sequence[float]) -> tuple[str, Sequence[int]]:
    """Give the bit patterns as float32 where that holds every value, or else as float64."""
    exact = _packed("d", values)
    with suppress(OverflowError):  # larger than a float32 can be
        short = _packed("f", values)
        if _packed("d", _unpacked("f", short)) == exact:
            return "f", _unpacked(_BITS["f"], short)
    return "d", _unpacked(_BITS["d"], exact)


def _encode_integers(integers: Sequence[int], planes: list[bytes]) -> _Integers:
    """Append the planes of a column, in the order that varies less."""
    if not integers:
        return 0, 0, 0, 1
    start = integers[0]
    slope, level = 0, integers
    if max(integers) - min(integers) < _QUARTER:  # so that 64 bits hold all that comes of it
        slope = (integers[-1] - start) // max(1, len(integers) - 1)
        ramp = _ramp(0, slope, len(integers))
        level = [integer - up for integer, up in zip(integers, ramp, strict=True)]
        steps = [after - before for before, after in pairwise(integers)]
        if _variation(steps) <= _variation(level):
            slope, width = _append(steps, planes)
            return 1, start, slope, width
    start, width = _append(level, planes)
    return 0, start, slope, width


def _decode_integers(
    count: int, form: _Integers, planes: _Planes, offset: int = 0
) -> Iterable[int]:
    """Give the integers of a column plus an offset, once; lazily where that is quicker."""
    order, start, slope, width = form
    letter = _INTEGERS[width]
    start += offset
    size = max(0, count - order)
    plain = bytearray(width * size)
    for plane in range(width):
        plain[plane::width] = planes.take(size)
    integers: Iterable[int] = _unpacked(letter, plain)
    if order:
        integers = accumulate(integers, initial=start)
        start = 0
    if not slope and not start:
        return integers
    ramp = _ramp(start, slope, count)
    return [integer + up for integer, up in zip(integers, ramp, strict=True)]


def _append(integers: Sequence[int], planes: list[bytes]) -> tuple[int, int]:
    """Append integers as planes; give what was taken from each, and their width in bytes.

    When one byte is too little, what is taken leaves the usual ones in the middle of 0 to 255:
    noise then fills the lowest plane, and those above it hardly change.
    """
    ordered = sorted(integers) or [0]
    least, middle, most = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    if (least >= -0x80 and most <= 0x7F) or most - least >= _HALF:
        base = 0
    elif most - least <= 0xFF:
        base = least + 0x80
    else:
        base = middle - 0x80
    furthest = max(most - base, base - least - 1)
    width = next(width for width in _INTEGERS if furthest.bit_length() < 8 * width)
    plain = _packed(_INTEGERS[width], [integer - base for integer in integers])
    planes += (plain[plane::width] for plane in range(width))
    return base, width


def _variation(integers: Sequence[int]) -> int:
    """How far apart all but the rarest integers are."""
    ordered = sorted(integers) or [0]
    rare = len(ordered) // 20
    return ordered[-1 - rare] - ordered[rare]


def _ramp(start: int, slope: int, count: int) -> Iterable[int]:
    return range(start, start + slope * count, slope) if slope else repeat(start, count)


def _packed(letter: str, numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}{letter}", *numbers)


def _unpacked(letter: str, data: bytes | bytearray) -> tuple[Any, ...]:
    return struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data)
