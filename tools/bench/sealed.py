"""How many bytes a sealed reading takes on the disk, beside InfluxDB's own files of the same."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

from edge.block import encode_block
from edge.journal.schema import FILE_NAME, SCHEMA, connect
from edge.record import Chunk
from tools.bench.figure import Figure
from tools.bench.influx import Influx
from tools.bench.process import Bench
from tools.bench.readings import FIELDS, hours

_MAX_BYTES = 7.0
_MAX_SHARE = 1 / 5
_TAGS = (
    r"meter_reading,location=basement,meter_id=meter_1,meter_name=Main\ meter,"
    "meter_type=grid,protocol=modbus,site=site"
)


def sealed(bench: Bench) -> list[Figure]:
    """Bytes on the disk per sealed reading, beside influxd."""
    data = list(hours(bench.pick(7 * 24, 24)))
    count = sum(map(len, data))
    ours = _journal_bytes(bench, data) / count
    simplest = sum(map(_simplest_bytes, data)) / count
    with Influx(bench) as influx:
        influx.write(line for hour in data for line in lines(hour))
        theirs = influx.compacted_bytes() / count
    what = f"a reading of {len(FIELDS)} quantities, sealed, {count:,} readings"
    return [
        Figure(
            f"{what}, with all overhead of the database",
            f"{ours:.2f} bytes",
            f"{simplest:.2f}: integer differences under zlib, without a database",
            f"≤ {_MAX_BYTES:.0f} bytes",
            ours <= _MAX_BYTES,
            ours / simplest,
        ),
        Figure(
            what,
            f"{ours:.2f} bytes",
            f"{theirs:.2f}: influxd's TSM files",
            "≤ 1/5 of influxd",
            ours <= theirs * _MAX_SHARE,
            ours / theirs,
        ),
    ]


def _journal_bytes(bench: Bench, data: Sequence[Chunk]) -> int:
    """Write blocks as the journal does; give the size of its file with nothing left in the log."""
    folder = bench.folder / "sealed"
    folder.mkdir()
    path = folder / FILE_NAME
    connection = connect(path)
    connection.execute("PRAGMA page_size = 512")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SCHEMA)
    for hour in data:
        connection.execute(
            "INSERT INTO block (series, era, first_seq, last_seq, from_ms, to_ms, count, data)"
            " VALUES (1, 1, ?, ?, ?, ?, ?, ?)",
            (
                hour.seqs[0],
                hour.seqs[-1],
                hour.unix_ms[0],
                hour.unix_ms[-1],
                len(hour),
                encode_block(hour),
            ),
        )
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def _simplest_bytes(hour: Chunk) -> int:
    """Size of the columns as differences of integers, four bytes each, under zlib."""
    columns: list[Sequence[float]] = [hour.seqs, hour.unix_ms]
    columns += (
        [round((value or 0.0) * 10 ** FIELDS[name].digits) for value in values]
        for name, values in hour.values.items()
    )
    plain = bytearray()
    for column in columns:
        steps = [0, *(b - a for a, b in pairwise(column))]
        plain += struct.pack(f"<{len(steps)}i", *map(int, steps))
    return len(zlib.compress(plain, 9))


def lines(hour: Chunk) -> Iterator[str]:
    """Write readings in line protocol, with times in ms."""
    columns = [(FIELDS[name].name, values) for name, values in hour.values.items()]
    for index, unix_ms in enumerate(hour.unix_ms):
        fields = ",".join(f"{name}={values[index]!r}" for name, values in columns)
        yield f"{_TAGS} {fields} {unix_ms}"
