"""Sealed blocks give every reading back, and nothing that is damaged."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.block import BadBlock, decimals, decode_block, encode_block
from edge.model import QUANTITY_NAMES
from edge.record import Chunk, Series

SERIES = Series("site", "meter_1", "Main meter", "basement", "grid", "modbus", 15_000)
FROM_MS = 1_760_000_400_000

INT64 = st.integers(-(2**63), 2**63 - 1)
MEASURED = st.builds(lambda n, digits: n / 10**digits, st.integers(-(10**7), 10**7), st.just(2))
VALUES = st.one_of(
    MEASURED,
    st.floats(allow_nan=False),
    st.floats(allow_nan=False, width=32),
    st.sampled_from([0.0, -0.0, 1e-9, 5e-324, float("inf"), 2.0**53, 0.1 + 0.2]),
)


def chunk(
    values: Mapping[str, Sequence[float | None]],
    seqs: Sequence[int] | None = None,
    unix_ms: Sequence[int] | None = None,
    suspect: Sequence[bool] | None = None,
) -> Chunk:
    count = max(map(len, (*values.values(), seqs or (), unix_ms or ())))
    return Chunk(
        SERIES,
        3,
        seqs or range(7, 7 + count),
        unix_ms or range(FROM_MS, FROM_MS + 5000 * count, 5000),
        values,
        suspect or [False] * count,
    )


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    count = draw(st.integers(1, 40))

    def column(of: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(of, min_size=count, max_size=count))

    gaps = draw(st.booleans())
    kinds = [MEASURED, VALUES]
    values = {
        name: draw(
            st.lists(
                st.none() | draw(st.sampled_from(kinds)) if gaps else draw(st.sampled_from(kinds)),
                min_size=count,
                max_size=count,
            )
        )
        for name in draw(st.lists(st.sampled_from(QUANTITY_NAMES) | st.text(), unique=True))
    }
    seqs = column(INT64 if draw(st.booleans()) else st.integers(1, 500))
    unix_ms = column(st.integers(0, 2**53))
    return chunk(values, seqs, unix_ms, [bool(n) for n in column(st.integers(0, 1))])


def exact(some: Chunk) -> tuple[object, ...]:
    """Everything in a chunk, so that == tells -0.0 from 0.0."""
    columns = {
        name: [None if value is None else struct.pack("<d", value) for value in values]
        for name, values in some.values.items()
    }
    rest = (list(some.seqs), list(some.unix_ms), list(columns.items()), list(some.suspect))
    return (some.series, some.era, *rest)


def roundtrip(some: Chunk) -> Chunk:
    return decode_block(encode_block(some), some.series, some.era, some.unix_ms[0])


def hour() -> Chunk:
    """720 noisy readings as a meter gives them."""
    noise = random.Random(2)
    power_w, imported = 3200.0, 123_456.0
    columns: dict[str, list[float | None]] = {"power": [], "voltage": [], "energy": []}
    for _ in range(720):
        power_w += noise.gauss(0, 100)
        imported += max(power_w, 0) * 5 / 3_600_000
        columns["power"].append(round(power_w) / 1000)
        columns["voltage"].append(round(noise.gauss(2300, 5)) / 10)
        columns["energy"].append(round(imported, 2))
    times = [FROM_MS + n * 5000 + noise.randrange(20) for n in range(720)]
    return chunk(columns, range(1, 7201, 10), times)


@given(chunks())
def test_every_bit_comes_back(some: Chunk) -> None:
    assert exact(roundtrip(some)) == exact(some)


@pytest.mark.parametrize(
    "column",
    [
        [0.0, -0.0, 0.1],
        [-0.0] * 5,
        [None, 230.1, None],
        [None, None],
        [float("inf"), -1.5],
        [1e300, 1e-300],
        [230.1, float(struct.unpack("<f", struct.pack("<f", 230.1))[0])],
        [2.0**53, 2.0**53 + 2],
        [1.0] * 300 + [100_000.0] + [1.0] * 300,
    ],
)
def test_a_column_comes_back(column: list[float | None]) -> None:
    some = chunk({"power": column})
    assert exact(roundtrip(some)) == exact(some)


@given(chunks(), st.data())
def test_only_what_is_wanted_comes_back(some: Chunk, data: st.DataObject) -> None:
    names = list(some.values)
    wanted = data.draw(st.sets(st.sampled_from(names))) if names else set()
    found = decode_block(encode_block(some), some.series, some.era, some.unix_ms[0], wanted)
    values = {name: column for name, column in some.values.items() if name in wanted}
    assert exact(found) == exact(replace(some, values=values))


def test_an_hour_takes_eight_bytes_for_each_value() -> None:
    """Some are kept while they are sent and summed up, on machines with little memory."""
    block = encode_block(hour())
    tracemalloc.start()
    try:
        found = decode_block(block, SERIES, 3, FROM_MS)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    columns = (found.seqs, found.unix_ms, *found.values.values(), found.suspect)
    assert held_bytes < 8 * len(found) * len(columns) + 4000


def test_an_hour_of_a_meter_comes_back_and_is_small() -> None:
    some = hour()
    data = encode_block(some)
    assert exact(decode_block(data, SERIES, 3, some.unix_ms[0])) == exact(some)
    assert len(data) < 3.2 * len(some)  # 10 bits of power, 4 of voltage and of time, and the head


def test_suspect_readings_cost_nothing_where_there_are_none() -> None:
    some = hour()
    flagged = chunk(some.values, some.seqs, some.unix_ms, [True, *[False] * 719])
    assert len(encode_block(some)) < len(encode_block(flagged)) < len(encode_block(some)) + 30
    assert roundtrip(flagged).suspect[:2] == [True, False]


def test_times_are_relative_so_a_block_can_be_shifted() -> None:
    some = hour()
    shifted = decode_block(encode_block(some), SERIES, 3, some.unix_ms[0] + 3_600_000)
    assert list(shifted.unix_ms) == [unix_ms + 3_600_000 for unix_ms in some.unix_ms]


def test_the_least_digits_are_found() -> None:
    assert decimals([230.0, 231.0]) == (0, [230, 231])
    assert decimals([230.1] * 9 + [0.05]) == (2, [23010] * 9 + [5])
    assert decimals([0.1 + 0.2, 1e300]) is None
    assert decimals([-0.0]) is None


@pytest.mark.parametrize("count", [0, 65_536])
def test_what_fits_no_block_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="fit no block"):
        encode_block(Chunk(SERIES, 1, range(count), range(count), {}, [False] * count))


@given(chunks(), st.data())
def test_any_cut_is_noticed(some: Chunk, data: st.DataObject) -> None:
    block = encode_block(some)
    cut = data.draw(st.integers(0, len(block) - 1))
    for damaged in (block[:cut], block[cut + 1 :], block + block[: cut + 1]):
        with pytest.raises(BadBlock):
            decode_block(damaged, SERIES, 3, FROM_MS)


def test_every_flipped_bit_is_noticed() -> None:
    block = encode_block(chunk({"power": [1.0, None, 2.5], "voltage": [230.1, 230.2, 230.1]}))
    for place in range(8 * len(block)):
        damaged = bytearray(block)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(BadBlock, match="checksum"):
            decode_block(bytes(damaged), SERIES, 3, FROM_MS)


@given(st.binary(max_size=200))
def test_garbage_is_no_block(data: bytes) -> None:
    with pytest.raises(BadBlock):
        decode_block(data, SERIES, 3, FROM_MS)
    with pytest.raises(BadBlock):
        decode_block(signed(data), SERIES, 3, FROM_MS)


def signed(body: bytes) -> bytes:
    """With a checksum that fits."""
    return struct.pack("<I", zlib.crc32(body)) + body


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"[" * 50_000,
        b"{}",
        b"[0,[0,0,0,1],[0,0,0,1],[]]",
        b"[0,[0,0,0,1000000000],[0,0,0,1],{}]",
        b"[0,[0,0,0,-1],[0,0,0,1],{}]",
        b'[0,[0,0,0,1],[0,0,0,1],{"power":[1000000000,0,[0,0,0,1]]}]',
        b'[0,[0,0,0,1],[0,0,0,1],{"power":["x",0,[0,0,0,1]]}]',
        b'[0,[0,0,0,1],[0,0,0,1],{"power":["f",0,[0,1e99,0,1]]}]',
        b"[0,[0,0,0,1],[0,0,0,2],{}]",
    ],
)
def test_a_head_that_makes_no_sense_is_a_bad_block(head: bytes) -> None:
    deflate = zlib.compressobj(wbits=-15)
    stream = deflate.compress(head + bytes(8)) + deflate.flush()
    data = signed(struct.pack("<BHH", 1, 4, len(head)) + stream)
    for only in (None, ()):
        with pytest.raises(BadBlock, match="format"):
            decode_block(data, SERIES, 3, FROM_MS, only)


def test_a_block_that_would_inflate_without_end_is_refused() -> None:
    head = b"[0,[0,0,0,1],[0,0,0,1],{}]"
    deflate = zlib.compressobj(wbits=-15)
    stream = deflate.compress(head + bytes(50_000_000)) + deflate.flush()
    with pytest.raises(BadBlock, match="longer"):
        decode_block(signed(struct.pack("<BHH", 1, 4, len(head)) + stream), SERIES, 3, FROM_MS)


def test_another_format_is_refused() -> None:
    body = bytearray(encode_block(hour())[4:])
    body[0] = 2
    with pytest.raises(BadBlock, match="format 2"):
        decode_block(signed(bytes(body)), SERIES, 3, FROM_MS)
