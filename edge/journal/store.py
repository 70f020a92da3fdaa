"""The journal's database as its writer has it: what is committed, and where the next row goes.

All SQL that writes stands here and beside it in `seal`, `rollups`, `retention`, `importing` and
`salvage`, each of one theme. A method either succeeds as a whole or changes nothing, on the disk
and in memory: memory follows after COMMIT.

After a fault a new `Store` has to be opened: a transaction whose fsync failed may be on the disk
all the same, and only reading it again tells.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from edge.batch import KeptRow, decode_batch, encode_batch
from edge.batch import Row as BatchRow
from edge.block import encode_block
from edge.era import Correction, Era
from edge.errors import JournalError
from edge.journal.schema import FORMAT, SCHEMA, connect
from edge.place import Place
from edge.record import Chunk, Series

HOUR_MS = 3_600_000
MOST_READINGS = 1000
"""In one row of the tail."""

_PAGE_BYTES = 512
_FRAME_BYTES = _PAGE_BYTES + 24
_OFFSET_NOISE_MS = 100
"""An era is written again when its clock was slewed by more."""

IMPORT_BOOT = "import"
"""The boot of the era that imported readings are in."""


class Damaged(JournalError):
    """The database holds what nobody wrote: it is to be set aside, and salvaged."""


class Pending(NamedTuple):
    """Readings of one era and one hour UTC, encoded for the tail. seq: of the first of `length`."""

    seq: int
    length: int
    era: int
    hour: int
    payload: bytes


class Row(NamedTuple):
    """A row of the tail that is in use. hour: of its readings, in hours since 1970."""

    slot: int
    seq: int
    length: int
    era: int
    hour: int


class Store:
    """The database, open for writing. One thread.

    Raises sqlite3.Error or OSError when it fails, JournalError when it is not ours to write, and
    Damaged.
    """

    def __init__(self, path: Path, wal_bytes: int) -> None:
        self.path = path
        self.unreadable = 0
        """Readings in rows of the tail that are damaged."""
        self.db = connect(path)
        self.db.text_factory = _lenient_text
        try:
            self._prepare(wal_bytes)
            self.load()
            self._inode = path.stat().st_ino
        except BaseException:
            self.db.close()
            raise

    def check_file(self) -> None:
        """Raise JournalError when the file that is open is no longer the one in the folder."""
        try:
            same = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            raise JournalError(f"{self.path} was deleted or replaced while it was in use.")

    def close(self) -> None:
        """Close the database. Raises nothing: what is committed is on the disk."""
        with suppress(sqlite3.Error):
            self.db.close()

    # --- Opening ---

    def _prepare(self, wal_bytes: int) -> None:
        db = self.db
        db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {wal_bytes // _FRAME_BYTES}")
        db.execute(f"PRAGMA journal_size_limit = {wal_bytes}")
        db.execute("PRAGMA cache_size = -1024")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._create()
        found = self.meta("format")
        if found != FORMAT:
            raise JournalError(
                f"{self.path} has format {found}, and this version writes {FORMAT}; install the "
                "version that wrote it, or move the file away to begin a new journal."
            )
        # What an earlier process or a failed fsync left in the log is made safe first.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _create(self) -> None:
        with self.transaction() as db:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            db.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                {"format": FORMAT, "sealed_seq": 1, "rolled_block": 0}.items(),
            )

    def load(self) -> None:
        """Read again what is kept in memory."""
        self.series: dict[Series, int] = {}
        for row in self.db.execute("SELECT * FROM series"):
            self.series[series_of_row(row)] = row[0]
        self.eras = {row[0]: era_of_row(row) for row in self.db.execute("SELECT * FROM era")}
        self._known = set(self.series.values())
        self.places: dict[str, Place] = {}
        for sink, text in self.db.execute("SELECT sink, place FROM cursor"):
            try:
                self.places[sink] = Place.from_json(text)
            except ValueError:
                continue  # it is sent everything again
        self._load_tail()

    def _load_tail(self) -> None:
        self.sealed_seq = int(self.meta("sealed_seq") or 1)
        self.rows: list[Row] = []
        """In use, in order of sequence."""
        self.last_ms: dict[tuple[int, int], int] = {}
        """(series, era) → time of the last reading in the tail."""
        self._free: list[int] = []
        self._next_slot = 1
        self.unreadable = 0
        wrong: list[tuple[int, int, int]] = []
        for slot, seq, count, era, payload in self.db.execute("SELECT * FROM tail"):
            whole((slot, seq, count, era))
            self._next_slot = max(self._next_slot, slot + 1)
            readings = self.readings(payload)
            # The payload has a checksum, what stands beside it has none.
            true_seq, length = (readings[0][0], len(readings)) if readings else (0, 0)
            if (true_seq, length) != (seq, count):
                wrong.append((true_seq, length, slot))
            if true_seq < self.sealed_seq:
                heapq.heappush(self._free, slot)
                self.unreadable += count if not readings and seq >= self.sealed_seq else 0
                continue
            self.rows.append(Row(slot, true_seq, length, era, readings[0][2] // HOUR_MS))
            for _, series, unix_ms, _, _ in readings:
                self.last_ms[series, era] = max(unix_ms, self.last_ms.get((series, era), 0))
        self.rows.sort(key=lambda row: row.seq)
        self.next_seq = max([self.sealed_seq, *(row.seq + row.length for row in self.rows)])
        if wrong:
            with self.transaction() as db:
                db.executemany("UPDATE tail SET seq = ?, count = ? WHERE slot = ?", wrong)

    # --- Small things ---

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all or nothing. The error that broke it is the one that is raised."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                with suppress(sqlite3.Error):  # closing does it
                    self.db.execute("ROLLBACK")
            raise

    def meta(self, key: str) -> int | None:
        """Give a number that holds for the whole file."""
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else whole(row)[0]

    def set_meta(self, key: str, value: int) -> None:
        """Keep such a number; within a transaction."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def used_bytes(self) -> int:
        """Bytes of the pages in use."""
        pages = self.db.execute("PRAGMA page_count").fetchone()[0]
        unused = self.db.execute("PRAGMA freelist_count").fetchone()[0]
        return int(pages - unused) * _PAGE_BYTES

    def checkpoint(self) -> None:
        """Move the log's pages into the database, as far as no reader needs the log."""
        self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def series_by_id(self) -> dict[int, Series]:
        """Give every recorded series."""
        return {id_: series for series, id_ in self.series.items()}

    def is_trusted(self, era: int) -> bool:
        """Tell whether the times of an era are believed."""
        return era in self.eras and self.eras[era].trusted

    def series_ids(self, meter_id: str) -> list[int]:
        """Give the series of a meter, in the order in which they were registered."""
        return sorted(id_ for series, id_ in self.series.items() if series.meter_id == meter_id)

    # --- Committing ---

    def commit(
        self,
        rows: Sequence[Pending],
        series: Mapping[Series, int],
        eras: Iterable[Era],
        corrections: Sequence[Correction] = (),
        places: Mapping[str, Place] | None = None,
    ) -> None:
        """Write readings, with the series and eras they need, corrections and places of sinks.

        Corrections are made after the readings were written, so they hold for these as well.
        """
        slots = self._slots(len(rows))
        new_series = {key: id_ for key, id_ in series.items() if key not in self.series}
        new_eras = [era for era in eras if self._differs(era)]
        with self.transaction() as db:
            self._write_series(new_series)
            db.executemany("INSERT OR REPLACE INTO era VALUES (?, ?, ?, ?)", map(astuple, new_eras))
            for slot, row in zip(slots, rows, strict=True):
                self._write_row(slot, row)
            for correction in corrections:
                self._correct(correction)
            for sink, place in (places or {}).items():
                db.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?)", (sink, place.to_json()))
        self.series.update(new_series)
        self._known.update(new_series.values())
        self.eras.update((era.id, era) for era in new_eras)
        self.places.update(places or {})
        if corrections:
            for correction in corrections:
                self.eras.pop(correction.era, None)
            self._load_tail()
        else:
            self._took(slots, rows)

    def _slots(self, count: int) -> list[int]:
        """Choose slots for new rows: the lowest that are free, so that neighbours are filled."""
        free = heapq.nsmallest(count, self._free)
        return free + list(range(self._next_slot, self._next_slot + count - len(free)))

    def _took(self, slots: Sequence[int], rows: Sequence[Pending]) -> None:
        for slot, row in zip(slots, rows, strict=True):
            if slot < self._next_slot:
                heapq.heappop(self._free)  # the slots came in this order
            else:
                self._next_slot = slot + 1
            self.rows.append(Row(slot, row.seq, row.length, row.era, row.hour))
            self.next_seq = row.seq + row.length

    def _differs(self, era: Era) -> bool:
        known = self.eras.get(era.id)
        if known is None or known.trusted != era.trusted:
            return True
        return abs(known.offset_ms - era.offset_ms) > _OFFSET_NOISE_MS

    def _write_series(self, series: Mapping[Series, int]) -> None:
        rows = ((id_, *astuple(key)) for key, id_ in series.items())
        self.db.executemany("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _write_row(self, slot: int, row: Pending) -> None:
        self.db.execute(
            "INSERT INTO tail (slot, seq, count, era, payload) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (slot) DO UPDATE SET seq = excluded.seq, count = excluded.count, "
            "era = excluded.era, payload = excluded.payload",
            (slot, row.seq, row.length, row.era, row.payload),
        )

    def _correct(self, correction: Correction) -> None:
        """Move an era's readings by its correction; nothing is done a second time."""
        era, into, shift_ms = astuple(correction)
        self.db.execute(
            "UPDATE block SET era = ?, from_ms = from_ms + ?, to_ms = to_ms + ? "
            "WHERE era = ? AND id > ?",
            (into, shift_ms, shift_ms, era, self.meta("rolled_block")),
        )
        rows = self.db.execute(
            "SELECT slot, payload FROM tail WHERE era = ? AND seq >= ?", (era, self.sealed_seq)
        ).fetchall()
        (last_slot,) = self.db.execute("SELECT max(slot) FROM tail").fetchone()
        for slot, payload in rows:
            readings = self.readings(payload)
            shifted = [(seq, id_, ms + shift_ms, *rest) for seq, id_, ms, *rest in readings]
            for number, row in enumerate(tail_rows(shifted, into)):
                last_slot += number > 0
                self._write_row(last_slot if number else slot, row)
        self.db.execute("DELETE FROM era WHERE id = ?", (era,))

    # --- What is in the tail ---

    def readings_of(self, row: Row) -> list[KeptRow]:
        """Read a row of the tail; nothing if it is damaged."""
        found = self.db.execute("SELECT payload FROM tail WHERE slot = ?", (row.slot,)).fetchone()
        return self.readings(found[0]) if found else []

    def readings(self, payload: object) -> list[KeptRow]:
        """Decode a row of the tail; nothing if it is damaged."""
        if not isinstance(payload, bytes):
            return []
        try:
            return [reading for reading in decode_batch(payload) if reading[1] in self._known]
        except ValueError:
            return []

    # --- Blocks ---

    def add_block(self, series: int, chunk: Chunk) -> None:
        """Write a block; within a transaction."""
        span = (chunk.seqs[0], chunk.seqs[-1], chunk.unix_ms[0], max(chunk.unix_ms))
        self.db.execute(
            "INSERT INTO block (series, era, first_seq, last_seq, from_ms, to_ms, count, data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (series, chunk.era, *span, len(chunk), encode_block(chunk)),
        )

    def release(self, count: int, sealed_seq: int) -> None:
        """Note that the first rows of the tail were sealed: their slots are free."""
        for row in self.rows[:count]:
            heapq.heappush(self._free, row.slot)
        del self.rows[:count]
        self.sealed_seq = sealed_seq

    def trim(self, keep: int) -> None:
        """Delete the highest free slots beyond `keep`, after a rush that will not come again."""
        surplus = sorted(self._free)[keep:]
        if surplus:
            with self.transaction() as db:
                db.executemany("DELETE FROM tail WHERE slot = ?", ((slot,) for slot in surplus))
            self._free = heapq.nsmallest(keep, self._free)


def tail_rows(readings: Sequence[BatchRow], era: int) -> list[Pending]:
    """Encode readings of an era, in order of sequence, as rows that no hour's end divides."""
    rows = []
    for hour, run in groupby(readings, key=lambda reading: reading[2] // HOUR_MS):
        readings_of_hour = list(run)
        for start in range(0, len(readings_of_hour), MOST_READINGS):
            part = readings_of_hour[start : start + MOST_READINGS]
            rows.append(Pending(part[0][0], len(part), era, hour, encode_batch(part)))
    return rows


def whole(row: Sequence[Any]) -> Sequence[Any]:
    """Give a row back; raises Damaged unless all of it is whole numbers."""
    if not all(type(value) is int for value in row):
        raise Damaged("database disk image is malformed: not a number")
    return row


def series_of_row(row: Sequence[Any]) -> Series:
    """Make a series of a row of its table. Raises Damaged if that cannot be."""
    id_, *words, stale_after_ms, max_power_kw, counter_kwh = row
    whole((id_, stale_after_ms))
    numbers = (max_power_kw, counter_kwh)
    if not all(isinstance(word, str) for word in words) or not all(
        number is None or type(number) in (int, float) for number in numbers
    ):
        raise Damaged("database disk image is malformed: not a series")
    return Series(*row[1:])


def era_of_row(row: Sequence[Any]) -> Era:
    """Make an era of a row of its table. Raises Damaged if that cannot be."""
    id_, boot, offset_ms, trusted = row
    whole((id_, offset_ms, trusted))
    return Era(id_, str(boot), offset_ms, bool(trusted))


def _lenient_text(data: bytes) -> str:
    return str(data, "utf-8", "replace")
