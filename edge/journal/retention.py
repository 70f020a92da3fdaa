"""What has to go: readings and rollups that are too old, and the oldest when there is no room.

Rollups go by age only: they are small, and what the raw readings of a year come to.

A clock that is years ahead for a while must not cost the whole history. So ages are not reckoned
from the clock but from `aged_until_ms`, which follows it, at a few times the speed at which time
passes on the monotonic clock. After a long time without power things stay for some time longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge.clock import Clock
from edge.journal import overview
from edge.journal.rows import BlockRow, block_row
from edge.journal.store import Store
from edge.journal.wallclock import WallClock
from edge.place import Place
from edge.record import Resolution
from edge.settings import JournalConfig
from edge.times import DAY_MS

log = logging.getLogger("Journal")

_BLOCKS_AT_A_TIME = 64
_HASTE = 4
"""So many hours may become too old in an hour."""


@dataclass(frozen=True)
class Limits:
    """How much is kept. raw_days, hourly_days and daily_days by age; max_bytes: pages and log.

    wal_bytes: room that the write-ahead log takes.
    """

    max_bytes: int
    wal_bytes: int
    raw_days: int
    hourly_days: int
    daily_days: int

    @classmethod
    def of(cls, settings: JournalConfig, wal_bytes: int) -> Limits:
        """Give those that are configured."""
        days = (settings.raw_days, settings.hourly_days, settings.daily_days)
        return cls(settings.max_bytes, wal_bytes, *days)


class Retention:
    """Deletes what has to go, and says what is to be said of it. One thread."""

    def __init__(self, limits: Limits, clock: Clock, wall_clock: WallClock) -> None:
        self.lost: dict[str, int] = {}
        """Sink → readings that were deleted before it was given them. Any thread may read."""
        self.notice: str | None = None
        """That things stay although they are too old by the wall clock."""
        self._limits = limits
        self._clock = clock
        self._wall_clock = wall_clock
        self._aged_mono_s = clock.mono_s()

    def expire(
        self, store: Store, places: Mapping[str, Place], breathe: Callable[[], bool]
    ) -> None:
        """Delete what is beyond the limits. places: of the sinks; breathe: as `expire` has it."""
        for sink, count in expire(
            store, self._limits, self._aged_ms(store), places, breathe
        ).items():
            if not self.lost.get(sink):
                log.warning(
                    "Readings that %s was not sent yet had to go from the journal: it is full, or "
                    "they were too old. See `lost` in the state of the sink for how many.",
                    sink,
                )
            self.lost[sink] = self.lost.get(sink, 0) + count

    def _aged_ms(self, store: Store) -> int | None:
        """Give what ages are reckoned from; None while the clock is not believed."""
        now_ms = self._wall_clock.now_ms()
        if now_ms is None:
            return None
        mono_s = self._clock.mono_s()
        aged_ms = age(store, now_ms, mono_s - self._aged_mono_s)
        self._aged_mono_s = mono_s
        self._say_ahead((now_ms - aged_ms) // DAY_MS)
        return aged_ms

    def _say_ahead(self, days: int) -> None:
        said, self.notice = self.notice, None
        if days >= 1:
            self.notice = (
                f"The clock is {days} days ahead of the time that was recorded; what is too old by "
                "it is deleted little by little, in case it is wrong."
            )
            if not said:
                log.warning("%s", self.notice)


class _Gone(NamedTuple):
    """A block that is to go; row: None if it is damaged."""

    id: int
    size: int
    row: BlockRow | None


def age(store: Store, now_ms: int, passed_s: float) -> int:
    """Move the time on, and keep it, that ages are reckoned from; gives it, unix ms.

    now_ms: wall clock, which is trusted. passed_s: by the monotonic clock, since it was moved.
    """
    before_ms = store.meta("aged_until_ms") or overview.newest_unix_ms(store) or now_ms
    aged_ms = min(now_ms, before_ms + round(_HASTE * passed_s * 1000))
    with store.transaction():
        store.set_meta("aged_until_ms", aged_ms)
    return aged_ms


def expire(
    store: Store,
    limits: Limits,
    aged_ms: int | None,
    places: Mapping[str, Place],
    breathe: Callable[[], bool],
) -> dict[str, int]:
    """Delete what is beyond the limits.

    aged_ms: what ages are reckoned from; None while the clock is not trusted: then nothing is too
    old. breathe: called between deletions, which may commit; False when it is time to stop.
    Returns sink → readings deleted that it had not sent.
    """
    lost: dict[str, int] = {}

    def delete(blocks: Sequence[_Gone]) -> bool:
        unsent = {sink: _unsent(store, blocks, place) for sink, place in places.items()}
        _delete(store, blocks)
        for sink, count in unsent.items():
            if count:
                lost[sink] = lost.get(sink, 0) + count
        return breathe()

    if aged_ms is not None:
        for series in list(store.series.values()):
            while blocks := _too_old(store, series, aged_ms - limits.raw_days * DAY_MS):
                if not delete(blocks):
                    return lost
        _delete_rollups(store, Resolution.HOURLY, aged_ms - limits.hourly_days * DAY_MS)
        _delete_rollups(store, Resolution.DAILY, aged_ms - limits.daily_days * DAY_MS)
    # The log may for once be longer, and the next sealing adds blocks before others go.
    while (surplus := store.used_bytes() + 4 * limits.wal_bytes - limits.max_bytes) > 0:
        blocks = _oldest(store, surplus)
        if not blocks or not delete(blocks):
            break
    return lost


def shrink(store: Store, limits: Limits, breathe: Callable[[], bool]) -> None:
    """Make the file smaller that had been allowed to be larger than it now may be."""
    while store.file_bytes() + 4 * limits.wal_bytes > limits.max_bytes and store.shrink():
        if not breathe():
            break


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
    with store.transaction() as db:
        db.executemany("DELETE FROM block WHERE id = ?", ((block.id,) for block in blocks))


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
