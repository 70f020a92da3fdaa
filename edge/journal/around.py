"""The readings of a meter around a time, as the rollups need them: trusted ones, by series."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from edge.batch import to_chunks
from edge.journal.rows import HOUR_MS
from edge.journal.store import Store
from edge.record import Chunk, Series

_AROUND = 6
"""Readings before and after; three good ones tell what a counter did."""
_SEEN_BLOCKS = 4

_TRUSTED = "era IN (SELECT id FROM era WHERE trusted)"


class Block(NamedTuple):
    """Where a block stands, unread."""

    id: int
    series: int
    era: int
    from_ms: int
    to_ms: int
    first_seq: int


class Around:
    """Reads what a store has sealed, and the begin of its tail; between `begin` and `end`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._series: dict[int, Series] = {}
        self._ahead: dict[str, list[Chunk]] = {}
        self._decoded: OrderedDict[int, Chunk | None] = OrderedDict()

    def begin(self, untrusted: Collection[int]) -> None:
        """See the store as it is now. untrusted: eras whose readings may yet be corrected."""
        self._series = self._store.series_by_id()
        self._ahead = self._first_of_tail(untrusted)
        self._decoded.clear()

    def end(self) -> None:
        """Forget what was read."""
        self._ahead = {}
        self._decoded.clear()

    def blocks(self, where: str, parameters: Sequence[Any]) -> list[Block]:
        """List blocks, as their rows say: damage is found when they are read."""
        rows = self._store.db.execute(
            f"SELECT id, series, era, from_ms, to_ms, first_seq FROM block WHERE {where}",
            parameters,
        )
        return [Block(*row) for row in rows if all(type(column) is int for column in row)]

    def _of_meter(self, meter_id: str, where: str, *parameters: int) -> list[Block]:
        """Give blocks of any of a meter's series, each found by the index."""
        found = []
        for id_ in self._store.series_ids(meter_id):
            found += self.blocks(f"series = ? AND {_TRUSTED} AND {where}", (id_, *parameters))
        return found

    def inside(self, meter_id: str, from_ms: int, to_ms: int) -> list[Chunk]:
        """Give the readings in from_ms <= unix_ms < to_ms."""
        blocks = self._of_meter(
            meter_id,
            "from_ms > ? AND from_ms < ? AND to_ms >= ?",
            *(from_ms - 2 * HOUR_MS, to_ms, from_ms),
        )
        return self._cut(blocks, from_ms, to_ms)

    def before(self, meter_id: str, until_ms: int, span_ms: int) -> list[Chunk]:
        """Give the readings of some time before, but some in any case, if there are."""
        blocks: list[Block] = []
        limit = 1
        while True:
            blocks = self._of_meter(
                meter_id, "from_ms < ? ORDER BY from_ms DESC LIMIT ?", until_ms, limit
            )
            blocks.sort(key=lambda block: block.from_ms)
            chunks = self._cut(blocks, 0, until_ms)
            enough = sum(map(len, chunks)) >= _AROUND
            if (enough and blocks[0].from_ms <= until_ms - span_ms) or len(blocks) < limit:
                break
            if enough and limit >= 4:
                break
            limit *= 2
        return _last(chunks, until_ms - span_ms)

    def after(self, meter_id: str, from_ms: int) -> list[Chunk]:
        """Give the first readings from a time on, also those that are not sealed yet."""
        limit = 1
        while True:
            blocks = self._of_meter(
                meter_id,
                "from_ms > ? AND to_ms >= ? ORDER BY from_ms LIMIT ?",
                *(from_ms - 2 * HOUR_MS, from_ms, limit),
            )
            chunks = self._cut(blocks, from_ms, 1 << 62)
            if sum(map(len, chunks)) >= _AROUND or len(blocks) < limit:
                break
            limit *= 2
        ahead = [_between(chunk, from_ms, 1 << 62) for chunk in self._ahead.get(meter_id, ())]
        return _first([*chunks, *(chunk for chunk in ahead if len(chunk))])

    def _cut(self, blocks: Iterable[Block], from_ms: int, to_ms: int) -> list[Chunk]:
        """Read blocks, in sequence, as far as they lie between two times."""
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
        chunk = sound.chunk(self._series) if sound else None
        self._decoded[block.id] = chunk
        while len(self._decoded) > _SEEN_BLOCKS:
            self._decoded.popitem(last=False)
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
