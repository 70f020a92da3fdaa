"""Batches give every reading back, all or those of one series, and nothing that is damaged."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.batch import BadBatch, Row, decode_batch, encode_batch, to_chunks
from edge.model import QUANTITY_NAMES
from edge.record import Series

FROM_MS = 1_760_000_400_000

VALUES = st.one_of(
    st.integers(-(10**7), 10**7).map(lambda n: n / 100),
    st.floats(allow_nan=False),
    st.sampled_from([0.0, -0.0, float("inf"), 0.1 + 0.2]),
)
NAMES = st.sampled_from(QUANTITY_NAMES) | st.text(max_size=5)


@st.composite
def batches(draw: st.DrawFn) -> list[Row]:
    seqs = sorted(draw(st.sets(st.integers(1, 2**62), min_size=1, max_size=12)))
    tables = draw(st.lists(st.lists(NAMES, unique=True, max_size=4), min_size=1, max_size=3))
    return [
        (
            seq,
            draw(st.integers(1, 12)),
            draw(st.integers(0, 2**53)),
            draw(st.booleans()),
            {name: draw(VALUES) for name in draw(st.sampled_from(tables))},
        )
        for seq in seqs
    ]


def exact(rows: list[Row]) -> str:
    """Everything in rows, so that == tells -0.0 from 0.0 and 1 from 1.0 and from True."""
    return repr(rows)


def reading(seq: int, series: int, **values: float) -> Row:
    return seq, series, FROM_MS + 5000 * seq, False, values


def site(cycles: int) -> list[Row]:
    """Ten meters of seven quantities, polled in turn."""
    return [
        (
            100_000 + 10 * cycle + meter,
            meter + 1,
            FROM_MS + 5000 * cycle + 11 * meter,
            False,
            {
                "power": (3217 * (meter + 1) % 9973 + 37 * cycle) / 1000,
                "voltage": (2301 + meter * 7 % 5 + cycle) / 10,
                "current": (1410 * (meter + 3) % 4999 + 7 * cycle) / 100,
                "powerFactor": (970 - 3 * meter + cycle) / 1000,
                "frequency": (5000 + cycle % 3) / 100,
                "energy": (98_765_432 * (meter + 1) % 39_999_983 + cycle) / 100,
                "energyExport": (12_345_678 * (meter + 7) % 29_999_999 + cycle) / 1000,
            },
        )
        for cycle in range(cycles)
        for meter in range(10)
    ]


@given(batches())
def test_every_bit_comes_back(rows: list[Row]) -> None:
    assert exact(list(decode_batch(encode_batch(rows)))) == exact(rows)


@given(batches())
def test_one_series_is_found_among_the_others(rows: list[Row]) -> None:
    payload = encode_batch(rows)
    for series in range(14):
        wanted = [row for row in rows if row[1] == series]
        assert exact(list(decode_batch(payload, series))) == exact(wanted)


def test_a_usual_commit_fits_a_database_page() -> None:
    rows = site(cycles=2)
    payload = encode_batch(rows)
    assert decode_batch(payload) == rows
    assert len(payload) <= 22 * len(rows)


def test_a_batch_without_a_reading_is_refused() -> None:
    with pytest.raises(ValueError, match="without a reading"):
        encode_batch([])


@given(batches(), st.data())
def test_any_cut_is_noticed(rows: list[Row], data: st.DataObject) -> None:
    payload = encode_batch(rows)
    cut = data.draw(st.integers(0, len(payload) - 1))
    for damaged in (payload[:cut], payload[cut + 1 :], payload + payload[: cut + 1]):
        with pytest.raises(BadBatch):
            decode_batch(damaged)


def test_every_flipped_bit_is_noticed() -> None:
    payload = encode_batch([reading(1, 1, power=1.5), reading(2, 2, power=-0.0)])
    for place in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(BadBatch, match="checksum"):
            decode_batch(bytes(damaged), 1)


@given(st.binary(max_size=200))
def test_garbage_is_no_batch(data: bytes) -> None:
    with pytest.raises(BadBatch):
        decode_batch(data)
    with pytest.raises(BadBatch):
        decode_batch(signed(b"\x01" + data))


def signed(body: bytes) -> bytes:
    """With a checksum that fits."""
    return struct.pack("<I", zlib.crc32(body)) + body


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1,2,[{}]]",
        b"[1,2]\n",
        b'[1,2,[{"power":1}]]\n1 [0,1,0,0,0]\n',
        b'[1,2,[{"power":1}]]\n1 [1,1,0,0,0,5]\n',
        b'[1,2,[{"power":1}]]\n1 [0,0,0,0,0,5]\n',
        b'[1,2,[{"power":1}]]\n1 [0,1,0,0,0,"x"]\n',
        b'[1,2,[{"power":1}]]\n1 {}\n',
        b"[1,2,[7]]\n1 [0,1,0,0,0,5]\n",
        b"\xff\n",
        b"[" * 50_000 + b"\n",
    ],
)
def test_a_text_that_makes_no_sense_is_a_bad_batch(text: bytes) -> None:
    deflate = zlib.compressobj(wbits=-15)
    payload = signed(b"\x01" + deflate.compress(text) + deflate.flush())
    with pytest.raises(BadBatch, match="format"):
        decode_batch(payload)


def test_rows_become_a_chunk_per_series() -> None:
    one, other = (
        Series("site", name, name, "", "zone", "modbus", 15_000) for name in ("one", "other")
    )
    rows = [
        reading(1, 1, power=1.0),
        reading(2, 2, power=2.0),
        (3, 1, FROM_MS, True, {"voltage": 230.0}),
    ]
    first, second = to_chunks(rows, {1: one, 2: other}, era=4)
    assert (first.series, first.era, list(first.seqs)) == (one, 4, [1, 3])
    assert list(first.unix_ms) == [FROM_MS + 5000, FROM_MS]
    assert first.values == {"power": [1.0, None], "voltage": [None, 230.0]}
    assert list(first.suspect) == [False, True]
    assert (second.series, second.values) == (other, {"power": [2.0]})
    with pytest.raises(KeyError):
        to_chunks(rows, {1: one}, era=4)
