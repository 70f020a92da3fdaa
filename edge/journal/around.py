"""The readings of a meter around a time, as the rollups need them: trusted ones, by series.

They are in order of sequence, which is that of time as long as nobody set the clock back. Readings
that were imported have new sequence numbers and old times, so they are put among the others by
time, and count as of the era of the reading before: their times were believed when they came.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple

from edge.batch import to_chunks
from edge.journal.merge import cut
from edge.journal.rows import HOUR_MS
from edge.journal.store import IMPORT_BOOT, Store
from edge.record import Chunk, Series
from edge.rollup import SUMMED_UP

_AROUND = 6
"""Readings before and after; three good ones tell what a counter did."""
_MOST_BLOCKS_BEFORE = 8
_SEEN_READINGS = 12_000
"""How many are kept decoded: two hours of a meter are looked at again and again."""
_NO_SEQ = 1 << 62

_TRUSTED = "era IN (SELECT id FROM era WHERE trusted)"


class Block(NamedTuple):
    """Where a block stands, unread."""

    id: int
    series: int
    era: int
    from_ms: int
    to_ms: int
    first_seq: int
    last_seq: int


class View(NamedTuple):
    """What tells of a span of time.

    chunks: readings inside and around it, in order. after_seqs: those of the readings after it.
    """

    chunks: Sequence[Chunk]
    after_seqs: Sequence[int]


class Around:
    """Reads what a store has sealed, and the begin of its tail; between `begin` and `end`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._series: dict[int, Series] = {}
        self._imported: frozenset[int] = frozenset()
        self._ahead: dict[str, list[Chunk]] = {}
        self._decoded: OrderedDict[int, Chunk | None] = OrderedDict()
        self._decoded_readings = 0

    def begin(self, untrusted: Collection[int]) -> None:
        """See the store as it is now. untrusted: eras whose readings may yet be corrected."""
        self.end()
        self._series = self._store.series_by_id()
        eras = self._store.eras.values()
        self._imported = frozenset(era.id for era in eras if era.boot == IMPORT_BOOT)
        self._ahead = self._first_of_tail(untrusted)

    def end(self) -> None:
        """Forget what was read."""
        self._ahead = {}
        self._decoded.clear()
        self._decoded_readings = 0

    def blocks(self, where: str, parameters: Sequence[Any]) -> list[Block]:
        """List blocks, as their rows say: damage is found when they are read."""
        rows = self._store.db.execute(
            f"SELECT id, series, era, from_ms, to_ms, first_seq, last_seq FROM block WHERE {where}",
            parameters,
        )
        return [Block(*row) for row in rows if all(type(column) is int for column in row)]

    def reach(self, meter_id: str, block: Block, most_ms: int) -> tuple[int, int]:
        """Give the times of the first and the last reading that a block has to do with.

        These are its own and a few of its neighbours', none further away than most_ms.
        """
        imported = block.era in self._imported
        before = self._before(meter_id, block.from_ms, 0, _NO_SEQ if imported else block.first_seq)
        after = self._after(meter_id, block.to_ms + 1, 0 if imported else block.last_seq, ())
        times = [unix_ms for chunk in (*before, *after) for unix_ms in chunk.unix_ms]
        near = [ms for ms in times if block.from_ms - most_ms <= ms <= block.to_ms + most_ms]
        return min(block.from_ms, *near, block.to_ms), max(block.to_ms, *near, block.from_ms)

    def view(self, meter_id: str, from_ms: int, to_ms: int) -> View:
        """Give the readings in from_ms <= unix_ms < to_ms, of the hour before, and a few after.

        There are some before in any case, if there are any. Those that were recorded before what
        is inside are not after it, whatever their time: it was of a clock that was ahead.
        """
        inside = self._inside(meter_id, from_ms, to_ms)
        last_seq = self._last_seq(inside)
        before = self._before(meter_id, from_ms, HOUR_MS, last_seq or _NO_SEQ)
        eras = {chunk.era for chunk in inside}
        after = self._after(meter_id, to_ms, last_seq or self._last_seq(before[-1:]), eras)
        return View(
            _in_order([*before, *inside, *after], self._imported),
            [seq for chunk in after for seq in chunk.seqs],
        )

    def first_seqs(self, block: Block) -> Sequence[int]:
        """Give those of a block that may be readings after an hour; none if it is damaged."""
        chunk = self._decode(block)
        return list(chunk.seqs[:_AROUND]) if chunk is not None else []

    # --- Blocks by time ---

    def _last_seq(self, chunks: Iterable[Chunk]) -> int:
        recorded = (chunk.seqs for chunk in chunks if chunk.era not in self._imported)
        return max((max(seqs) for seqs in recorded), default=0)

    def _of_meter(self, meter_id: str, where: str, *parameters: int) -> list[Block]:
        """Give blocks of any of a meter's series, each found by the index."""
        found = []
        for id_ in self._store.series_ids(meter_id):
            found += self.blocks(f"series = ? AND {_TRUSTED} AND {where}", (id_, *parameters))
        return found

    def _or_in(self, eras: Iterable[int]) -> str:
        return f"OR era IN ({', '.join(map(str, {*eras, *self._imported}))})"

    def _inside(self, meter_id: str, from_ms: int, to_ms: int) -> list[Chunk]:
        blocks = self._of_meter(
            meter_id,
            "from_ms > ? AND from_ms < ? AND to_ms >= ?",
            *(from_ms - 2 * HOUR_MS, to_ms, from_ms),
        )
        return self._cut(blocks, from_ms, to_ms)

    def _before(self, meter_id: str, until_ms: int, span_ms: int, seq: int) -> list[Chunk]:
        """Give what was recorded up to a sequence number, of some time and some in any case."""
        where = f"from_ms < ? AND (first_seq < ? {self._or_in(())}) ORDER BY from_ms DESC LIMIT ?"
        limit = 1
        while True:
            found = self._of_meter(meter_id, where, until_ms, seq, limit)
            blocks = sorted(found, key=lambda block: -block.from_ms)[:limit]
            chunks = self._cut(blocks, 0, until_ms)
            if len(found) < limit:
                break
            if sum(map(len, chunks)) >= _AROUND and (
                blocks[-1].from_ms <= until_ms - span_ms or limit >= _MOST_BLOCKS_BEFORE
            ):
                break
            limit *= 2
        return _last(chunks, until_ms - span_ms)

    def _after(self, meter_id: str, from_ms: int, seq: int, eras: Collection[int]) -> list[Chunk]:
        """Give the first readings from a time on, also those that are not sealed yet.

        Only what was recorded after a sequence number, or is of these eras.
        """
        where = f"from_ms > ? AND to_ms >= ? AND (last_seq > ? {self._or_in(eras)})"
        limit = 1
        while True:
            found = self._of_meter(
                meter_id,
                f"{where} ORDER BY from_ms LIMIT ?",
                *(from_ms - 2 * HOUR_MS, from_ms, seq, limit),
            )
            blocks = sorted(found, key=lambda block: block.from_ms)[:limit]
            chunks = self._cut(blocks, from_ms, _NO_SEQ)
            if sum(map(len, chunks)) >= _AROUND or len(found) < limit:
                break
            limit *= 2
        ahead = [_between(chunk, from_ms, _NO_SEQ) for chunk in self._ahead.get(meter_id, ())]
        chunks += (chunk for chunk in ahead if len(chunk))
        return _first(sorted(chunks, key=lambda chunk: chunk.unix_ms[0]))

    def _cut(self, blocks: Iterable[Block], from_ms: int, to_ms: int) -> list[Chunk]:
        """Read blocks, by time, as far as they lie between two times."""
        chunks = []
        for block in sorted(blocks, key=lambda block: (block.from_ms, block.first_seq)):
            chunk = self._decode(block)
            if chunk is not None and len(part := _between(chunk, from_ms, to_ms)):
                chunks.append(part)
        return chunks

    def _decode(self, block: Block) -> Chunk | None:
        if block.id in self._decoded:
            self._decoded.move_to_end(block.id)
            return self._decoded[block.id]
        sound = self._store.block(block.id)
        chunk = sound.chunk(self._series, SUMMED_UP) if sound else None
        self._decoded[block.id] = chunk
        self._decoded_readings += len(chunk) if chunk else 0
        while self._decoded_readings > _SEEN_READINGS and len(self._decoded) > 1:
            _, oldest = self._decoded.popitem(last=False)
            self._decoded_readings -= len(oldest) if oldest else 0
        return chunk

    def _first_of_tail(self, untrusted: Collection[int]) -> dict[str, list[Chunk]]:
        """Give meter → its first readings of the tail, which the last sealed hour ends with."""
        taken: dict[int, int] = {}
        found: dict[int, list[Any]] = {}
        for row in self._store.rows:
            if row.era in untrusted:
                continue
            for reading in self._store.readings_of(row):
                if taken.setdefault(reading[1], 0) < _AROUND:
                    taken[reading[1]] += 1
                    found.setdefault(row.era, []).append(reading)
        ahead: dict[str, list[Chunk]] = {}
        for era, readings in found.items():
            for chunk in to_chunks(readings, self._series, era):
                ahead.setdefault(chunk.series.meter_id, []).append(chunk)
        return ahead


# --- Order ---


def _in_order(chunks: Sequence[Chunk], imported: Collection[int]) -> list[Chunk]:
    """Put readings in order: the recorded ones by sequence, the imported ones among them by time.

    imported: eras of those.
    """
    recorded = [chunk for chunk in chunks if chunk.era not in imported]
    recorded = _interleaved(recorded, [chunk.seqs for chunk in recorded])
    late = [chunk for chunk in chunks if chunk.era in imported]
    if not late:
        return recorded
    late = _interleaved(late, [chunk.unix_ms for chunk in late])
    keys: list[Sequence[int]] = []
    latest_ms = 0
    for chunk in recorded:
        keys.append(list(accumulate((max(latest_ms, chunk.unix_ms[0]), *chunk.unix_ms[1:]), max)))
        latest_ms = keys[-1][-1]
    placed = _interleaved([*recorded, *late], [*keys, *(chunk.unix_ms for chunk in late)])
    era = None
    for index, chunk in enumerate(placed):
        if chunk.era not in imported:
            era = chunk.era
        elif era is not None:
            placed[index] = replace(chunk, era=era)
    return placed


def _interleaved(chunks: Sequence[Chunk], keys: Sequence[Sequence[int]]) -> list[Chunk]:
    """Put readings in order of their keys, which rise within each chunk."""
    numbers = sorted(range(len(chunks)), key=lambda number: keys[number][0])
    if all(keys[one][-1] <= keys[other][0] for one, other in pairwise(numbers)):
        return [chunks[number] for number in numbers]
    order = sorted(
        (key, number, index) for number, each in enumerate(keys) for index, key in enumerate(each)
    )
    parts = []
    for number, run in groupby(order, key=lambda place: place[1]):
        indexes = [index for _, _, index in run]
        parts.append(cut(chunks[number], indexes[0], indexes[-1] + 1))
    return parts


# --- Pieces of chunks ---


def _picked(chunk: Chunk, indexes: Sequence[int]) -> Chunk:
    return replace(
        chunk,
        seqs=[chunk.seqs[i] for i in indexes],
        unix_ms=[chunk.unix_ms[i] for i in indexes],
        values={name: [column[i] for i in indexes] for name, column in chunk.values.items()},
        suspect=[chunk.suspect[i] for i in indexes],
    )


def _between(chunk: Chunk, from_ms: int, to_ms: int) -> Chunk:
    if min(chunk.unix_ms) >= from_ms and max(chunk.unix_ms) < to_ms:
        return chunk
    return _picked(chunk, [i for i, ms in enumerate(chunk.unix_ms) if from_ms <= ms < to_ms])


def _first(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Give the first few readings."""
    found: list[Chunk] = []
    missing = _AROUND
    for chunk in chunks:
        if missing > 0:
            part = _picked(chunk, range(min(missing, len(chunk))))
            found.append(part)
            missing -= len(part)
    return found


def _last(chunks: Sequence[Chunk], from_ms: int) -> list[Chunk]:
    """Give what is from a time on, and the last few readings in any case."""
    found: list[Chunk] = []
    missing = _AROUND
    for chunk in reversed(chunks):
        keep = [
            i
            for i, unix_ms in enumerate(chunk.unix_ms)
            if unix_ms >= from_ms or len(chunk) - i <= missing
        ]
        if keep:
            found.insert(0, _picked(chunk, keep))
            missing -= len(keep)
    return found
