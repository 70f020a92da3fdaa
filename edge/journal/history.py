"""Reading the journal: raw readings in order of time or of sequence, and rollups.

Sealing moves readings from the tail into blocks while somebody reads. So the tail and the list of
blocks are taken in one short read transaction, and the blocks are fetched one by one after it: a
reader that waits for a slow client holds up neither checkpoints nor the retention. A block that is
gone by then was deleted for its age or for room, and is skipped.

What a damaged index leads to twice, or out of order, is given once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from edge.batch import to_chunks
from edge.journal.merge import Part, between, given, merged
from edge.journal.reading import CheckedRows, Seen
from edge.journal.rows import TailRow, block_row, rollup_of_row
from edge.record import Chunk, Resolution, Rollup, Series, Stretch

_LONGEST_BLOCK_MS = 2 * 3_600_000
"""No block is longer, even one whose clock was corrected."""
_WINDOW = 10_000
"""Sequence numbers that `since` gives series by series, before it begins with the next ones."""
_TAIL_WINDOW = 2_000
"""Readings of the tail that it gives so: they are not in columns yet, and take more room."""
_KEPT_READINGS = 30_000
"""Readings of decoded blocks that are kept for the next window: more than are sealed at a time."""
_ROLLUPS_AT_A_TIME = 500
_NEVER_MS = 1 << 62
_TRIES = 8
"""Rows that are looked at for the first or the last one that is not damaged."""

_SUMMED = (Resolution.HOURLY, Resolution.DAILY)
_TRUSTED = "era IN (SELECT id FROM era WHERE trusted)"


class History(CheckedRows):
    """Queries over one read-only connection; see `CheckedRows`.

    What is iterated over is read as it goes, in memory for some ten thousand readings.
    """

    # --- What can be asked for -------------------------------------------------------------------

    def series(self) -> list[Series]:
        """Give all series, in the order in which they were first recorded."""
        return list(self._series().values())

    def raw(
        self, meter_id: str, from_ms: int, to_ms: int, after: tuple[int, int] | None = None
    ) -> Iterator[Chunk]:
        """Give the readings of a meter in from_ms <= unix_ms < to_ms, by (unix_ms, seq).

        All series of the meter are merged; a chunk ends where another series or era goes on.
        after: the (unix_ms, seq) of the last reading that was given before; only later ones come.
        """
        low, high = (from_ms, 0), (to_ms, 0)
        if after is not None:
            low = max(low, (after[0], after[1] + 1))
        parts: list[Part] = []
        with self._one_moment():
            seen = self._seen().of_meter(meter_id)
            for number in seen.series:
                listed = self._listed(
                    "SELECT id, from_ms FROM block "
                    "WHERE series = ? AND from_ms > ? AND from_ms < ?",
                    *(number, low[0] - _LONGEST_BLOCK_MS, to_ms),
                )
                parts += (
                    Part(begin_ms, partial(self._block, seen, block, begin_ms))
                    for block, begin_ms in listed
                )
            tail = self._tail(seen, 0)
        parts += self._tail_parts(tail, seen)
        parts.sort(key=lambda part: part.from_ms)
        yield from merged(parts, low, high)

    def rollups(
        self,
        meter_id: str,
        resolution: Resolution,
        from_ms: int,
        to_ms: int,
        after_ms: int | None = None,
    ) -> Iterator[Rollup]:
        """Give the hours or days of a meter that begin in from_ms <= start < to_ms, in order.

        after_ms: the start of the last one that was given before; only later ones come.
        """
        last_ms = from_ms - 1 if after_ms is None else max(from_ms - 1, after_ms)
        series = self._series()
        while True:
            rows = self._query(
                "SELECT * FROM rollup WHERE meter_id = ? AND resolution = ? AND start_ms > ? "
                "AND start_ms < ? ORDER BY start_ms LIMIT ?",
                *(meter_id, resolution.value, last_ms, to_ms, _ROLLUPS_AT_A_TIME),
            )
            begin_ms = last_ms
            for _, rollup in self._checked_rollups(rows, series):
                asked = rollup.series.meter_id == meter_id and rollup.resolution is resolution
                if asked and last_ms < rollup.start_ms < to_ms:
                    last_ms = rollup.start_ms
                    yield rollup
            if len(rows) < _ROLLUPS_AT_A_TIME or last_ms == begin_ms:
                return

    def rollups_since(self, change: int, limit: int) -> list[tuple[int, Rollup]]:
        """Give rollups, each with its change, that are new or recomputed after `change`."""
        rows = self._query(
            "SELECT * FROM rollup WHERE change > ? ORDER BY change LIMIT ?", change, limit
        )
        found = dict(self._checked_rollups(rows, self._series()))
        return sorted((one for one in found.items() if one[0] > change), key=lambda one: one[0])

    def since(self, from_seq: int, to_seq: int) -> Iterator[tuple[Chunk, int]]:
        """Give the readings in from_seq <= seq < to_seq, oldest first, each series in order.

        Those are left out whose clock was never set, since nobody knows when they were taken.
        With each chunk comes the sequence number below which all is given once that chunk is
        done. It moves in steps of some thousand, because blocks of several series run side by
        side. When all was iterated over, everything below to_seq is given.
        """
        blocks: list[_Listed] = []
        with self._one_moment():
            seen = self._seen()
            if from_seq < seen.sealed_seq:
                blocks = self._listed(
                    "SELECT id, from_ms, first_seq, last_seq FROM block "
                    "WHERE last_seq >= ? AND first_seq < ? "
                    "AND era IN (SELECT id FROM era WHERE trusted)",
                    *(from_seq, to_seq),
                )
            tail = [row for row in self._tail(seen, from_seq, to_seq) if seen.trusted(row.era)]
        yield from self._blocks_since(blocks, seen, from_seq, min(to_seq, seen.sealed_seq))
        yield from self._tail_since(tail, seen, from_seq, to_seq)

    def first(self, meter_id: str) -> Stretch | None:
        """Tell when a meter was first recorded; None: never, or too lately to be sealed."""
        seen = self._seen().of_meter(meter_id)
        exact = [
            stretch for number in seen.series for stretch in self._edge_block(seen, number, "ASC")
        ]
        exact.sort(key=_begin)
        summed = (self._edge_rollup(meter_id, each, seen, "ASC") for each in _SUMMED)
        return next(iter(_finest(exact, *summed)), None)

    def stretches(self, meter_ids: Collection[str], before_ms: int) -> dict[str, list[Stretch]]:
        """Tell when meters were recorded as what, before a moment, in order of time.

        The first and the last time of a meter whose type never changed, and of another every time,
        with those where its type changed cut at the readings. Readings whose clock was never set
        are left out.
        """
        with self._one_moment():
            seen = self._seen()
            of_meters = {meter_id: seen.of_meter(meter_id) for meter_id in meter_ids}
            tail = [row for row in self._tail(seen, 0) if seen.trusted(row.era)]
            sealed = {
                meter_id: self._sealed_stretches(one, before_ms)
                for meter_id, one in of_meters.items()
            }
        latest = self._tail_stretches(tail, seen, meter_ids, before_ms)
        found: dict[str, list[Stretch]] = {}
        for meter_id, one in of_meters.items():
            exact = sorted(sealed[meter_id] + latest.get(meter_id, []), key=_begin)
            exact = [cut for each in _side_by_side(exact) for cut in self._untangled(each, seen)]
            found[meter_id] = _finest(
                exact, *(self._summed_stretches(meter_id, each, one, before_ms) for each in _SUMMED)
            )
        return found

    # --- The parts that an answer is made of -----------------------------------------------------

    def _tail_parts(self, tail: Sequence[TailRow], seen: Seen) -> Iterator[Part]:
        """The readings of some series that are in the tail; one part for each series and era."""
        of_era: dict[int, list[Any]] = {}
        for row in tail:
            readings = of_era.setdefault(row.era, [])
            for number in seen.series:
                readings += self._batch(row, number)
        for era, readings in of_era.items():
            for chunk in to_chunks(readings, seen.series, era):
                yield given(chunk)

    def _blocks_since(
        self,
        blocks: Sequence[_Listed],
        seen: Seen,
        from_seq: int,
        to_seq: int,
    ) -> Iterator[tuple[Chunk, int]]:
        """Go through blocks window by window; in each one, series by series."""
        waiting = sorted(blocks, key=lambda block: block[2])
        position = from_seq
        kept: dict[int, Chunk] = {}
        while waiting:
            begin = max(position, waiting[0][2])
            position = min(begin + _WINDOW, to_seq)
            chunks = []
            for number, from_ms, first_seq, last_seq in waiting:
                if first_seq >= position:
                    break
                chunk = kept.pop(number, None) or self._block(seen, number, from_ms)
                if chunk is None:
                    continue
                chunks.append(between(chunk, begin, position))
                goes_on = position < to_seq and last_seq >= position
                if goes_on and sum(map(len, kept.values())) < _KEPT_READINGS:
                    kept[number] = chunk
            yield from _with_place([chunk for chunk in chunks if len(chunk)], begin, position)
            waiting = [block for block in waiting if block[3] >= position and position < to_seq]

    def _tail_since(
        self, tail: Sequence[TailRow], seen: Seen, from_seq: int, to_seq: int
    ) -> Iterator[tuple[Chunk, int]]:
        """Go through the tail; small commits of one era are put together."""
        readings: list[Any] = []
        for number, row in enumerate(tail):
            batch = [one for one in self._batch(row) if from_seq <= one[0] < to_seq]
            readings += (one for one in batch if one[1] in seen.series)
            ends_era = number + 1 == len(tail) or tail[number + 1].era != row.era
            if readings and (ends_era or len(readings) >= _TAIL_WINDOW):
                chunks = to_chunks(readings, seen.series, row.era)
                yield from _with_place(chunks, readings[0][0], readings[-1][0] + 1)
                readings = []

    def _sealed_stretches(self, seen: Seen, before_ms: int) -> list[Stretch]:
        """Where the blocks of a meter lie: of one whose type never changed, the outermost."""
        if len(seen.types) == 1:
            return [
                stretch
                for number in seen.series
                for order in ("ASC", "DESC")
                for stretch in self._edge_block(seen, number, order, before_ms)
            ]
        return [
            Stretch(series, from_ms, to_ms)
            for number, series in seen.series.items()
            for _, from_ms, to_ms in self._listed(
                "SELECT id, from_ms, to_ms FROM block WHERE series = ? AND from_ms < ? "
                f"AND {_TRUSTED}",
                *(number, before_ms),
            )
        ]

    def _tail_stretches(
        self, tail: Sequence[TailRow], seen: Seen, meter_ids: Collection[str], before_ms: int
    ) -> dict[str, list[Stretch]]:
        numbers = [key for key, one in seen.series.items() if one.meter_id in meter_ids]
        only = numbers[0] if len(numbers) == 1 else None
        times: dict[str, list[tuple[int, int, Series]]] = {}
        for row in tail if numbers else ():
            for seq, number, unix_ms, *_ in self._batch(row, only):
                if number in numbers and unix_ms < before_ms:
                    series = seen.series[number]
                    times.setdefault(series.meter_id, []).append((unix_ms, seq, series))
        found: dict[str, list[Stretch]] = {}
        for meter_id, readings in times.items():
            readings.sort(key=lambda reading: reading[:2])
            for series, run in groupby(readings, key=lambda reading: reading[2]):
                first, *rest = run
                stretch = Stretch(series, first[0], rest[-1][0] if rest else first[0])
                found.setdefault(meter_id, []).append(stretch)
        return found

    def _untangled(self, stretches: Sequence[Stretch], seen: Seen) -> Iterator[Stretch]:
        """Cut stretches that lie side by side at their readings, if they are of several types."""
        if len({stretch.series.meter_type for stretch in stretches}) == 1:
            yield from stretches
            return
        end_ms = max(stretch.to_ms for stretch in stretches) + 1
        for chunk in self.raw(stretches[0].series.meter_id, stretches[0].from_ms, end_ms):
            if seen.trusted(chunk.era):
                yield Stretch(chunk.series, chunk.unix_ms[0], chunk.unix_ms[-1])

    def _summed_stretches(
        self, meter_id: str, resolution: Resolution, seen: Seen, before_ms: int
    ) -> list[Stretch]:
        """Where the hours or days of a meter lie: the outermost, and where its type changed."""
        first = self._edge_rollup(meter_id, resolution, seen, "ASC")
        if len(seen.types) == 1:
            return first + self._edge_rollup(meter_id, resolution, seen, "DESC", before_ms)
        rows = self._listed(
            "SELECT start_ms, length_ms, covered_ms, series FROM rollup "
            "WHERE meter_id = ? AND resolution = ? AND start_ms < ? ORDER BY start_ms",
            *(meter_id, resolution.value, before_ms),
        )
        return [
            Stretch(seen.series[number], start_ms, start_ms + length_ms, covered_ms)
            for start_ms, length_ms, covered_ms, number in rows
            if number in seen.series
        ]

    def _edge_block(
        self, seen: Seen, number: int, order: str, before_ms: int = _NEVER_MS
    ) -> list[Stretch]:
        """The first or last block of a series, as a list of at most one."""
        statement = (
            f"SELECT * FROM block WHERE series = ? AND from_ms < ? AND {_TRUSTED} "
            f"ORDER BY from_ms {order}"
        )
        for row in self._one_by_one(statement, number, before_ms):
            block = block_row(row)
            if block is not None:
                return [Stretch(seen.series[number], block.from_ms, block.to_ms)]
        return []

    def _edge_rollup(
        self,
        meter_id: str,
        resolution: Resolution,
        seen: Seen,
        order: str,
        before_ms: int = _NEVER_MS,
    ) -> list[Stretch]:
        """The first or last hour or day of a meter, as a list of at most one."""
        statement = (
            "SELECT * FROM rollup WHERE meter_id = ? AND resolution = ? AND start_ms < ? "
            f"ORDER BY start_ms {order}"
        )
        for row in self._one_by_one(statement, meter_id, resolution.value, before_ms):
            found = rollup_of_row(row, seen.series)
            if found is not None:
                one = found[1]
                end_ms = one.start_ms + one.length_ms
                return [Stretch(one.series, one.start_ms, end_ms, one.covered_ms)]
        return []

    def _one_by_one(self, statement: str, *values: object) -> Iterator[Any]:
        """Give a few rows, each when the one before was of no use."""
        for offset in range(_TRIES):
            rows = self._query(f"{statement} LIMIT 1 OFFSET {offset}", *values)
            if not rows:
                return
            yield rows[0]


_Listed = tuple[int, int, int, int]
"""A block's id, from_ms, first_seq and last_seq."""


def _with_place(chunks: Sequence[Chunk], begin: int, end: int) -> Iterator[tuple[Chunk, int]]:
    """Say with the last of the chunks that all below `end` is given, with the others `begin`."""
    for number, chunk in enumerate(sorted(chunks, key=lambda chunk: chunk.seqs[0]), start=1):
        yield chunk, end if number == len(chunks) else begin


def _begin(stretch: Stretch) -> int:
    return stretch.from_ms


def _side_by_side(stretches: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    """Put stretches, by their begin, together that overlap."""
    together: list[Stretch] = []
    end_ms = 0
    for stretch in stretches:
        if together and stretch.from_ms > end_ms:
            yield together
            together = []
        end_ms = max(end_ms, stretch.to_ms) if together else stretch.to_ms
        together.append(stretch)
    if together:
        yield together


def _finest(*kinds: Sequence[Stretch]) -> list[Stretch]:
    """Put stretches of several kinds in order, the finest first: of the others, what is older."""
    found: list[Stretch] = []
    for stretches in kinds:
        older = (one for one in stretches if not found or one.to_ms <= found[0].from_ms)
        found = [*older, *found]
    return found
