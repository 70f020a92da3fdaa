"""What has to go: readings and rollups that are too old, and the oldest when there is no room.

Rollups go by age only: they are small, and what the raw readings of a year come to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge.journal.rows import HOUR_MS, BlockRow, block_row
from edge.journal.store import Store
from edge.place import Place
from edge.record import Resolution

_BLOCKS_AT_A_TIME = 64
_DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Limits:
    """How much is kept. raw_days, hourly_days and daily_days by age; max_bytes: pages and log."""

    max_bytes: int
    raw_days: int
    hourly_days: int
    daily_days: int


class _Gone(NamedTuple):
    """A block that is to go; row: None if it is damaged."""

    id: int
    size: int
    row: BlockRow | None


def expire(
    store: Store,
    limits: Limits,
    now_ms: int | None,
    wal_bytes: int,
    places: Mapping[str, Place],
    breathe: Callable[[], None],
) -> dict[str, int]:
    """Delete what is beyond the limits.

    now_ms: wall clock, None while it is not trusted: then nothing is too old. wal_bytes: room that
    the write-ahead log takes. Returns sink → readings deleted that it had not sent.
    """
    lost = dict.fromkeys(places, 0)

    def delete(blocks: Sequence[_Gone]) -> None:
        unsent = {sink: _unsent(store, blocks, place) for sink, place in places.items()}
        _delete(store, blocks)
        for sink, count in unsent.items():
            lost[sink] += count
        breathe()

    if now_ms is not None:
        for series in store.series.values():
            while blocks := _too_old(store, series, now_ms - limits.raw_days * _DAY_MS):
                delete(blocks)
        _delete_rollups(store, Resolution.HOURLY, now_ms - limits.hourly_days * _DAY_MS)
        _delete_rollups(store, Resolution.DAILY, now_ms - limits.daily_days * _DAY_MS)
    # The log may for once be longer, and the next sealing adds blocks before others go.
    while (surplus := store.used_bytes() + 4 * wal_bytes - limits.max_bytes) > 0:
        if not (blocks := _oldest(store, surplus)):
            break
        delete(blocks)
    return {sink: count for sink, count in lost.items() if count}


def shrink(store: Store, max_bytes: int, wal_bytes: int, breathe: Callable[[], None]) -> None:
    """Make the file smaller that had been allowed to be larger than it now may be."""
    while store.file_bytes() + 4 * wal_bytes > max_bytes and store.shrink():
        breathe()


def _select(store: Store, where: str, *parameters: int) -> list[_Gone]:
    rows = store.db.execute(
        f"SELECT * FROM block WHERE {where} LIMIT {_BLOCKS_AT_A_TIME}", parameters
    )
    return [_Gone(row[0], len(row[-2]), block_row(row)) for row in rows]


def _too_old(store: Store, series: int, before_ms: int) -> list[_Gone]:
    """Give blocks of a series that are; of a clock that was never set nobody knows their age."""
    where = "series = ? AND from_ms < ? AND to_ms < ? AND era IN (SELECT id FROM era WHERE trusted)"
    return _select(store, where, series, before_ms, before_ms)


def _oldest(store: Store, surplus: int) -> list[_Gone]:
    """Give as many blocks as make room, in the order in which they were sealed."""
    chosen = []
    for block in _select(store, "true ORDER BY id"):
        chosen.append(block)
        surplus -= block.size
        if surplus <= 0:
            break
    return chosen


def _delete(store: Store, blocks: Sequence[_Gone]) -> None:
    trusted = [row.to_ms for _, _, row in blocks if row and store.is_trusted(row.era)]
    gone_ms = max([store.meta("raw_gone_ms"), *trusted])
    with store.transaction() as db:
        db.executemany("DELETE FROM block WHERE id = ?", ((block.id,) for block in blocks))
        store.set_meta("raw_gone_ms", gone_ms)


def _delete_rollups(store: Store, resolution: Resolution, before_ms: int) -> None:
    meters = store.db.execute("SELECT DISTINCT meter_id FROM rollup").fetchall()
    with store.transaction() as db:
        db.executemany(
            "DELETE FROM rollup WHERE meter_id = ? AND resolution = ? AND start_ms < ?",
            ((meter_id, resolution.value, before_ms) for (meter_id,) in meters),
        )


def _unsent(store: Store, blocks: Sequence[_Gone], place: Place) -> int:
    """Count the readings of blocks that a sink still had to be given."""
    return sum(
        _unsent_of(store, row, place) for _, _, row in blocks if row and store.is_trusted(row.era)
    )


def _unsent_of(store: Store, block: BlockRow, place: Place) -> int:
    """Count them in one block; it is opened only if the sink was given a part of its range."""
    waiting = place.waiting(block.first_seq, block.last_seq + 1)
    if waiting == 0:
        return 0
    if waiting == block.last_seq + 1 - block.first_seq:
        return block.length
    chunk = block.chunk(store.series_by_id())
    seqs = chunk.seqs if chunk else ()  # nobody could have been given it
    return sum(place.waiting(seq, seq + 1) for seq in seqs)
