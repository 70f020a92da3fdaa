"""The journal's database as its writer has it: what is committed, and where the next row goes.

All SQL that writes stands here and beside it in `seal`, `rollups`, `retention`, `importing` and
`salvage`, each of one theme. A method either succeeds as a whole or changes nothing, on the disk
and in memory: memory follows after COMMIT.

After a fault a new `Store` has to be opened: a transaction whose fsync failed may be on the disk
all the same, and only reading it again tells.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from edge.batch import KeptRow
from edge.block import encode_block
from edge.era import Correction, Era
from edge.journal.database import Database
from edge.journal.rows import (
    HOUR_MS,
    BlockRow,
    Pending,
    TailRow,
    block_row,
    columns_of_series,
    era_of_row,
    series_of_row,
    tail_row,
    tail_rows,
    whole,
)
from edge.journal.schema import is_sound, put_row, with_crc
from edge.place import Place
from edge.record import Chunk, Series

_OFFSET_NOISE_MS = 100
"""An era is written again when its clock was slewed by more."""

LOST_BOOT = "lost"
"""What the boot of an era is called whose own row could not be salvaged."""
IMPORT_BOOT = "import"
"""The boot of the era that imported readings are in."""


class Row(NamedTuple):
    """A row of the tail that is in use. hour: of its readings, in hours since 1970."""

    slot: int
    seq: int
    length: int
    era: int
    hour: int


class Store(Database):
    """What the database holds. One thread; raises what Database does."""

    def __init__(self, path: Path, wal_bytes: int) -> None:
        super().__init__(path, wal_bytes)
        self.unreadable = 0
        """Rows of the tail that are damaged."""
        try:
            self.load()
        except BaseException:
            self.db.close()
            raise

    def load(self) -> None:
        """Read again what is kept in memory."""
        self.series: dict[Series, int] = {}
        for row in self.db.execute("SELECT * FROM series"):
            self.series[series_of_row(row)] = row[0]
        self.eras = {row[0]: era_of_row(row) for row in self.db.execute("SELECT * FROM era")}
        self._known = set(self.series.values())
        self.places: dict[str, Place] = {}
        for row in self.db.execute("SELECT * FROM cursor"):
            with suppress(ValueError):
                if is_sound(row) and isinstance(row[1], str):  # or else it is sent all again
                    self.places[row[0]] = Place.from_json(row[1])
        self._load_tail()

    def _load_tail(self) -> None:
        self.sealed_seq = self.meta("sealed_seq")
        self.rows: list[Row] = []
        """In use, in order of sequence."""
        self.last_ms: dict[tuple[int, int], int] = {}
        """(series, era) → time of the last reading in the tail."""
        self._free: list[int] = []
        slots: set[int] = set()
        damaged: set[int] = set()
        for columns in self.db.execute("SELECT * FROM tail"):
            whole(columns[:1])
            row = tail_row(columns)
            if row is None:
                damaged.add(columns[0])
            elif row.slot not in slots:
                slots.add(row.slot)
                self._load_row(row)
        self.unreadable = len(damaged)
        self._free += damaged - slots
        heapq.heapify(self._free)
        self._next_slot = max(slots | damaged, default=0) + 1
        self.rows.sort(key=lambda row: row.seq)
        ends = [row.seq + row.length for row in self.rows[-1:]]
        # The last row may be damaged, and its numbers given away all the same.
        lives = [place.live for place in self.places.values()]
        self.next_seq = max([self.sealed_seq, *ends, *lives])

    def _load_row(self, row: TailRow) -> None:
        readings = self._known_readings(row) if row.seq >= self.sealed_seq else []
        if not readings:
            self._free.append(row.slot)
            return
        hour = readings[0][2] // HOUR_MS
        self.rows.append(Row(row.slot, row.seq, row.length, row.era, hour))
        for _, series, unix_ms, _, _ in readings:
            key = series, row.era
            self.last_ms[key] = max(unix_ms, self.last_ms.get(key, 0))

    # --- What is known ---

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
            for key, id_ in new_series.items():
                put_row(db, "series", columns_of_series(id_, key))
            for era in new_eras:
                put_row(db, "era", astuple(era))
            for slot, row in zip(slots, rows, strict=True):
                self._write_row(slot, row)
            for correction in corrections:
                self._correct(correction)
            for sink, place in (places or {}).items():
                put_row(db, "cursor", (sink, place.to_json()))
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

    def _write_row(self, slot: int, row: Pending) -> None:
        self.db.execute(
            "INSERT INTO tail (slot, seq, count, era, payload, crc) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (slot) DO UPDATE SET seq = excluded.seq, count = excluded.count, "
            "era = excluded.era, payload = excluded.payload, crc = excluded.crc",
            with_crc((slot, row.seq, row.length, row.era, row.payload)),
        )

    def _correct(self, correction: Correction) -> None:
        """Move an era's readings by its correction; nothing is done a second time."""
        self._correct_blocks(correction)
        self._correct_tail(correction)
        self.db.execute("DELETE FROM era WHERE id = ?", (correction.era,))

    def _correct_blocks(self, correction: Correction) -> None:
        ids = self.db.execute(
            "SELECT id FROM block WHERE era = ? AND id > ?",
            (correction.era, self.meta("rolled_block")),
        ).fetchall()
        for (id_,) in ids:
            block = self.block(id_)
            if block is not None:
                times = (block.from_ms + correction.shift_ms, block.to_ms + correction.shift_ms)
                moved = block._replace(era=correction.into, from_ms=times[0], to_ms=times[1])
                self.db.execute(
                    "UPDATE block SET era = ?, from_ms = ?, to_ms = ?, crc = ? WHERE id = ?",
                    (correction.into, *times, with_crc(moved)[-1], id_),
                )

    def _correct_tail(self, correction: Correction) -> None:
        rows = self.db.execute(
            "SELECT * FROM tail WHERE era = ? AND seq >= ?", (correction.era, self.sealed_seq)
        ).fetchall()
        (last_slot,) = self.db.execute("SELECT max(slot) FROM tail").fetchone()
        for row in filter(None, map(tail_row, rows)):
            shifted = [
                (seq, id_, unix_ms + correction.shift_ms, suspect, values)
                for seq, id_, unix_ms, suspect, values in row.readings()
            ]
            for number, pending in enumerate(tail_rows(shifted, correction.into)):
                last_slot += number > 0
                self._write_row(last_slot if number else row.slot, pending)

    def forget_sinks(self, others_than: Collection[str]) -> None:
        """Delete the places of all other sinks."""
        gone = [sink for sink in self.places if sink not in others_than]
        if gone:
            with self.transaction() as db:
                db.executemany("DELETE FROM cursor WHERE sink = ?", ((sink,) for sink in gone))
            for sink in gone:
                del self.places[sink]

    # --- What is in the tail ---

    def readings_of(self, row: Row) -> list[KeptRow]:
        """Read a row of the tail; nothing if it is damaged."""
        found = self.db.execute("SELECT * FROM tail WHERE slot = ?", (row.slot,)).fetchone()
        sound = tail_row(found) if found else None
        return self._known_readings(sound) if sound and sound.seq == row.seq else []

    def _known_readings(self, row: TailRow) -> list[KeptRow]:
        return [reading for reading in row.readings() if reading[1] in self._known]

    # --- Blocks ---

    def add_block(self, series: int, chunk: Chunk) -> None:
        """Write a block; within a transaction."""
        (last_id,) = whole(self.db.execute("SELECT ifnull(max(id), 0) FROM block").fetchone())
        row = BlockRow(
            max(last_id, self.meta("rolled_block")) + 1,
            series,
            chunk.era,
            first_seq=chunk.seqs[0],
            last_seq=chunk.seqs[-1],
            from_ms=chunk.unix_ms[0],
            to_ms=max(chunk.unix_ms),
            length=len(chunk),
            data=encode_block(chunk),
        )
        put_row(self.db, "block", row)

    def block(self, id_: int) -> BlockRow | None:
        """Read a block; None if it is damaged or gone."""
        row = self.db.execute("SELECT * FROM block WHERE id = ?", (id_,)).fetchone()
        return block_row(row) if row else None

    def first_block(self, where: str, *parameters: int) -> BlockRow | None:
        """Give the first of some blocks that is not damaged. where: its condition and order."""
        ids = self.db.execute(f"SELECT id FROM block WHERE {where}", parameters)
        return next(filter(None, (self.block(id_) for (id_,) in ids)), None)

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
