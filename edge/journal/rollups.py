"""Folding sealed readings into hours and days.

A block changes the hours that it lies in, and those between it and the readings around it, since
what a counter rose by is spread over the time between two readings. These hours are computed again
from raw blocks, so late readings are folded in by the same rule as all others. An hour that raw
readings were already deleted of keeps the row it has.

`rolled_block` moves on in the transaction that writes the rows: after a crash it goes on there.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any

from edge.batch import to_chunks
from edge.block import decode_block
from edge.counter import Correction
from edge.journal.store import HOUR_MS, Store, whole
from edge.record import Chunk, EnergySource, Resolution, Rollup, Series
from edge.rollup import daily, day_of, hour_of, hourly

log = logging.getLogger("Journal")

_BLOCKS_AT_A_TIME = 32
_AROUND = 6
"""Readings before and after; three good ones tell what a counter did."""
_SEEN_BLOCKS = 4
_REMEMBERED = 1000
_MOST_TOLD = 3

_TRUSTED = "era IN (SELECT id FROM era WHERE trusted)"
_COLUMNS = (
    "series, start_ms, length_ms, mean_kw, min_kw, max_kw, energy_kwh, energy_source, "
    "interpolated_kwh, export_kwh, samples, covered_ms"
)


@dataclass(frozen=True)
class _Block:
    """Where a block stands, unread."""

    id: int
    series: int
    era: int
    from_ms: int
    to_ms: int
    first_seq: int


class Folder:
    """Keeps the rollups of one database. zone: of the site's days.

    fallback_max_kw: what counts as rated power of a meter that was registered without any.
    """

    def __init__(self, store: Store, zone: tzinfo, fallback_max_kw: float) -> None:
        self._store = store
        self._zone = zone
        self._fallback_max_kw = fallback_max_kw
        self._series: dict[int, Series] = {}
        self._boots: dict[int, str] = {}
        self._ahead: dict[str, list[Chunk]] = {}
        self._decoded: OrderedDict[int, Chunk | None] = OrderedDict()
        self._told: OrderedDict[tuple[str, Correction], None] = OrderedDict()

    def fold(self, now_ms: int, untrusted: Collection[int], breathe: Callable[[], None]) -> None:
        """Fold in the blocks that are not yet, up to the first of which more is to come.

        That is one of the hour under way, or one whose time may be corrected. now_ms: wall clock.
        untrusted: eras that may yet be corrected. breathe: called again and again meanwhile.
        """
        self._series = self._store.series_by_id()
        while blocks := self._next_blocks(now_ms // HOUR_MS, untrusted):
            self._boots = {era.id: era.boot for era in self._store.eras.values()}
            self._ahead = self._first_of_tail(untrusted)
            self._decoded.clear()
            with self._store.transaction():
                for meter_id, hours in sorted(self._touched(blocks).items()):
                    self._renew(meter_id, sorted(hours), breathe)
                self._store.set_meta("rolled_block", blocks[-1].id)
        self._ahead = {}
        self._decoded.clear()

    # --- What has to be computed ---

    def _next_blocks(self, hour: int, untrusted: Collection[int]) -> list[_Block]:
        rows = self._blocks(
            "id > ? ORDER BY id LIMIT ?", (self._store.meta("rolled_block"), _BLOCKS_AT_A_TIME)
        )
        ready = []
        for block in rows:
            if block.era in untrusted or block.to_ms // HOUR_MS == hour:
                break
            ready.append(block)
        return ready

    def _touched(self, blocks: Iterable[_Block]) -> dict[str, set[tuple[int, int]]]:
        """Give meter → its hours (start, length) that the blocks change."""
        touched: dict[str, set[tuple[int, int]]] = {}
        for block in blocks:
            if block.series not in self._series or not self._store.is_trusted(block.era):
                continue  # of a boot whose clock was never set: nobody knows when that was
            meter_id = self._series[block.series].meter_id
            before = self._before(meter_id, block.from_ms, 0)
            after = self._after(meter_id, block.to_ms + 1)
            from_ms = before[0].unix_ms[0] if before else block.from_ms
            to_ms = after[-1].unix_ms[-1] if after else block.to_ms
            touched.setdefault(meter_id, set()).update(self._hours(from_ms, to_ms))
        return touched

    def _hours(self, from_ms: int, to_ms: int) -> Iterable[tuple[int, int]]:
        while from_ms <= to_ms:
            hour = hour_of(from_ms, self._zone)
            yield hour
            from_ms = sum(hour)

    # --- Computing ---

    def _renew(
        self, meter_id: str, hours: Sequence[tuple[int, int]], breathe: Callable[[], None]
    ) -> None:
        days = set()
        gone_ms = self._store.meta("raw_gone_ms") or 0
        for start_ms, length_ms in hours:
            old = self._row(meter_id, Resolution.HOURLY, start_ms)
            if old is not None and start_ms <= gone_ms:
                continue
            hour = hourly(
                start_ms,
                length_ms,
                self._inside(meter_id, start_ms, start_ms + length_ms),
                self._before(meter_id, start_ms, HOUR_MS),
                self._after(meter_id, start_ms + length_ms),
                self._fallback_max_kw,
                self._boots,
            )
            if hour.rollup is not None and self._write(hour.rollup, old):
                days.add(day_of(start_ms, self._zone))
            self._tell(meter_id, hour.corrections)
            breathe()
        for start_ms, length_ms in sorted(days):
            day = daily(start_ms, length_ms, self._hours_of(meter_id, start_ms, length_ms))
            if day is not None:
                self._write(day, self._row(meter_id, Resolution.DAILY, start_ms))

    def _tell(self, meter_id: str, corrections: Sequence[Correction]) -> None:
        """Log what a counter did; an hour that is computed again says it again."""
        new = [one for one in corrections if (meter_id, one) not in self._told]
        for correction in new[:_MOST_TOLD]:
            self._told[meter_id, correction] = None
            log.warning("Meter %s: %s", meter_id, correction)
        if len(new) > _MOST_TOLD:
            log.warning("Meter %s: and %d more like this.", meter_id, len(new) - _MOST_TOLD)
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)

    # --- Raw readings ---

    def _blocks(self, where: str, parameters: Sequence[Any]) -> list[_Block]:
        rows = self._store.db.execute(
            f"SELECT id, series, era, from_ms, to_ms, first_seq FROM block WHERE {where}",
            parameters,
        )
        return [_Block(*whole(row)) for row in rows]

    def _of_meter(self, meter_id: str, where: str, *parameters: int) -> list[_Block]:
        """Give blocks of any of a meter's series, each found by the index."""
        found = []
        for id_ in self._store.series_ids(meter_id):
            found += self._blocks(f"series = ? AND {_TRUSTED} AND {where}", (id_, *parameters))
        return found

    def _inside(self, meter_id: str, from_ms: int, to_ms: int) -> list[Chunk]:
        blocks = self._of_meter(
            meter_id,
            "from_ms > ? AND from_ms < ? AND to_ms >= ?",
            *(from_ms - 2 * HOUR_MS, to_ms, from_ms),
        )
        return self._cut(blocks, from_ms, to_ms)

    def _before(self, meter_id: str, until_ms: int, span_ms: int) -> list[Chunk]:
        """Give the readings of some time before, but some in any case, if there are."""
        blocks: list[_Block] = []
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

    def _after(self, meter_id: str, from_ms: int) -> list[Chunk]:
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

    def _cut(self, blocks: Iterable[_Block], from_ms: int, to_ms: int) -> list[Chunk]:
        """Read blocks, in sequence, as far as they lie between two times."""
        chunks = []
        for block in sorted(blocks, key=lambda block: (block.from_ms, block.first_seq)):
            chunk = self._decode(block)
            if chunk is not None and len(part := _between(chunk, from_ms, to_ms)):
                chunks.append(part)
        return chunks

    def _decode(self, block: _Block) -> Chunk | None:
        if block.id in self._decoded:
            self._decoded.move_to_end(block.id)
            return self._decoded[block.id]
        (data,) = self._store.db.execute(
            "SELECT data FROM block WHERE id = ?", (block.id,)
        ).fetchone()
        try:
            chunk: Chunk | None = decode_block(
                data, self._series[block.series], block.era, block.from_ms
            )
        except (ValueError, TypeError):
            chunk = None  # readers count it; the hour shows less coverage
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

    # --- Rows ---

    def _row(self, meter_id: str, resolution: Resolution, start_ms: int) -> Rollup | None:
        found = self._store.db.execute(
            f"SELECT {_COLUMNS} FROM rollup WHERE meter_id = ? AND resolution = ? AND start_ms = ?",
            (meter_id, resolution.value, start_ms),
        ).fetchone()
        return None if found is None else self._rollup(resolution, found)

    def _hours_of(self, meter_id: str, start_ms: int, length_ms: int) -> list[Rollup]:
        rows = self._store.db.execute(
            f"SELECT {_COLUMNS} FROM rollup WHERE meter_id = ? AND resolution = ? "
            "AND start_ms >= ? AND start_ms < ? ORDER BY start_ms",
            (meter_id, Resolution.HOURLY.value, start_ms, start_ms + length_ms),
        )
        hours = (self._rollup(Resolution.HOURLY, row) for row in rows)
        return [hour for hour in hours if hour is not None]

    def _rollup(self, resolution: Resolution, row: Sequence[Any]) -> Rollup | None:
        """Make a rollup of a row; None if it is damaged, and so to be written again."""
        series, start_ms, length_ms, mean, least, most, energy, source, *rest = row
        numbers = (start_ms, length_ms, mean, least, most, energy, *rest)
        if (
            series not in self._series
            or source not in (None, *EnergySource)
            or not all(number is None or type(number) in (int, float) for number in numbers)
            or None in (start_ms, length_ms, rest[0], *rest[2:])
        ):
            return None
        return Rollup(
            self._series[series],
            resolution,
            start_ms,
            length_ms,
            mean,
            least,
            most,
            energy,
            None if source is None else EnergySource(source),
            *rest,
        )

    def _write(self, rollup: Rollup, old: Rollup | None) -> bool:
        """Write a row that says something else than the old one, as the latest change."""
        if rollup == old:
            return False
        change = (self._store.meta("change") or 0) + 1
        self._store.set_meta("change", change)
        values = (
            self._store.series[rollup.series],
            *(rollup.start_ms, rollup.length_ms),
            *(rollup.mean_kw, rollup.min_kw, rollup.max_kw, rollup.energy_kwh),
            None if rollup.energy_source is None else rollup.energy_source.value,
            *(rollup.interpolated_kwh, rollup.export_kwh, rollup.samples, rollup.covered_ms),
        )
        self._store.db.execute(
            f"INSERT OR REPLACE INTO rollup ({_COLUMNS}, meter_id, resolution, change) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, rollup.series.meter_id, rollup.resolution.value, change),
        )
        return True


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
