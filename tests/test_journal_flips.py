"""No flipped bit of the journal's file makes it give back what nobody wrote."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.errors import JournalError
from edge.journal.history import History
from edge.journal.rows import columns_of_series
from edge.journal.schema import FILE_NAME, SCHEMA, connect, is_sound, put_row
from edge.journal.store import Store
from edge.model import Meter
from edge.place import Place
from edge.record import Chunk, Resolution, Rollup
from tests.journals import a_series
from tests.test_journal import FAR_MS, Bench

FLIPS = 1500
PLACE = Place(live=7, gaps=((2, 4),))
METER_ID = "meter_a"
SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""The latter where SQLite's message quotes damaged text."""

Told = tuple[object, ...]
"""A reading with all that is known of it."""


@dataclass
class Given:
    """What a journal gives back of a meter, and of all of them, as far as it does."""

    raw: list[Told]
    since: list[Told]
    rollups: list[Rollup]
    changes: list[tuple[int, Rollup]]
    place: Place | None


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal's file: two registrations of a meter, sealed hours, a tail, rollups, a place."""
    bench = Bench(tmp_path_factory.mktemp("written"))
    bench.writer.step()
    bench.writer.places["influx"] = PLACE
    bench.run(2 * 3600, every_s=300)
    bench.meter = Meter(**{**vars(bench.meter), "name": "Another"})
    bench.run(2 * 3600 + 1800, every_s=300)
    bench.writer.step(final=True)
    bench.writer.close()
    assert [file.name for file in bench.path.parent.iterdir()] == [FILE_NAME]
    return bench.path.read_bytes()


def readings_of(chunk: Chunk) -> list[Told]:
    """Its readings, each with its series."""
    columns = [chunk.values[name] for name in sorted(chunk.values)]
    rows = zip(chunk.seqs, chunk.unix_ms, chunk.suspect, *columns, strict=True)
    return [(chunk.series, chunk.era, *row) for row in rows]


def given_by(path: Path) -> Given:
    """Ask a journal for everything; it may refuse."""
    given = Given([], [], [], [], None)
    with suppress(JournalError), History(path) as history:
        with suppress(JournalError):
            for chunk in history.raw(METER_ID, 0, FAR_MS):
                given.raw += readings_of(chunk)
        with suppress(JournalError):
            for chunk, _ in history.since(1, 1 << 60):
                given.since += readings_of(chunk)
        with suppress(JournalError):
            given.rollups += history.rollups(METER_ID, Resolution.HOURLY, 0, FAR_MS)
        with suppress(JournalError):
            given.changes += history.rollups_since(0, 1000)
    with suppress(JournalError, *SQLITE_ERRORS), closing(Store(path, 1 << 16)) as store:
        given.place = store.places.get("influx")
    return given


def test_no_flipped_bit_makes_something_up(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(written)
    whole = given_by(path)
    assert (len(whole.raw), len(whole.rollups), whole.place) == (54, 4, PLACE)
    assert sorted(map(repr, whole.since)) == sorted(map(repr, whole.raw))
    chance = random.Random(3)
    for _ in range(FLIPS):
        at, bit = chance.randrange(len(written)), 1 << chance.randrange(8)
        path.write_bytes(written[:at] + bytes([written[at] ^ bit]) + written[at + 1 :])
        for beside in tmp_path.glob(f"{FILE_NAME}-*"):
            beside.unlink()
        given = given_by(path)
        for name, found in vars(given).items():
            all_of_it = vars(whole)[name]
            if name == "place":
                assert found in (None, all_of_it), f"bit {bit} of byte {at} made it {found}"
                continue
            strange = [one for one in found if one not in all_of_it]
            assert not strange, f"bit {bit} of byte {at} made {name} give {strange[:3]}"
            kept = [one for one in all_of_it if one in found]
            assert len(found) == len(kept), f"bit {bit} of byte {at} made {name} give it twice"


def test_a_row_is_sound_as_sqlite_gives_it(tmp_path: Path) -> None:
    """A whole number is a float in a column of floats, and a truth value is a number."""
    series = a_series(max_power_kw=11, counter_kwh=1.5)
    with closing(connect(tmp_path / FILE_NAME)) as database:
        database.executescript(SCHEMA)
        put_row(database, "series", columns_of_series(1, series))
        put_row(database, "era", (1, "boot", -5, True))
        put_row(database, "tail", (1, 2, 3, 4, b"\x00payload"))
        for table in ("series", "era", "tail"):
            (row,) = database.execute(f"SELECT * FROM {table}")
            assert is_sound(row)
            for column in range(len(row) - 1):
                assert not is_sound((*row[:column], "other", *row[column + 1 :]))
