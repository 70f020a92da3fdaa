"""Folding sealed readings into hours and days.

A block changes the hours that it lies in, and those between it and the readings around it, since
what a counter rose by is spread over the time between two readings. These hours are computed again
from raw blocks, so late readings are folded in by the same rule as all others. An hour that raw
readings were already deleted of keeps the row it has, and one that is not over has none.

`rolled_block` moves on in the transaction that writes the last of the rows: after a crash it goes
on there. It stays below a block that has to wait, while those behind are folded; which ones that
were is not kept, so they are folded a second time after a restart, and nothing changes by it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import tzinfo

from edge.counter import LONGEST_GAP_MS, Correction
from edge.journal.around import Around, Block
from edge.journal.rows import HOUR_MS, columns_of_rollup, rollup_of_row
from edge.journal.schema import put_row
from edge.journal.store import Store
from edge.record import Resolution, Rollup, Series
from edge.rollup import daily, day_of, hour_of, hourly
from edge.times import DAY_MS

log = logging.getLogger("Journal")

_BLOCKS_AT_A_TIME = 32
_ROWS_AT_A_TIME = 64
"""In one transaction, which readings wait for that come meanwhile."""
_REMEMBERED = 2000
_MOST_TOLD = 3
_AHEAD_MS = DAY_MS
"""A block that is further in the future is of a clock that was wrong."""
_NEVER_MS = 1 << 62

_Hour = tuple[int, int]
"""Begin, unix ms, and length, ms."""
Breathe = Callable[[], "bool | None"]
"""Called between steps of long work; gives False when it is time to stop."""


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
        self._raw = Around(store)
        self._told: OrderedDict[tuple[str, Correction], None] = OrderedDict()
        self._beyond: set[int] = set()
        """Blocks above `rolled_block` that are folded."""
        self._after: OrderedDict[tuple[str, int], Sequence[int]] = OrderedDict()
        """(meter, begin of an hour) → readings after it that it was computed with."""
        self._saw: tuple[int, frozenset[int]] | None = None
        self._due_ms = 0
        self._over_ms = 0
        self._is_first = True

    def fold(
        self,
        now_ms: int,
        untrusted: Collection[int],
        breathe: Breathe,
    ) -> None:
        """Fold in the blocks that are not yet and whose hour is over.

        now_ms: wall clock. untrusted: eras that may yet be corrected; their blocks wait. breathe
        is called never within a transaction, so it may commit. What is not folded when it says
        stop is folded at the next start.
        """
        saw = self._seen(untrusted)
        if saw == self._saw and now_ms < self._due_ms:
            return
        self._saw, self._due_ms = None, _NEVER_MS
        self._series = self._store.series_by_id()
        self._boots = {era.id: era.boot for era in self._store.eras.values()}
        self._over_ms = self._sealed_until_ms(now_ms, untrusted)
        is_sure = not (self._is_first or untrusted)
        self._raw.begin(untrusted)
        if self._fold_all(now_ms, untrusted, is_sure, breathe):
            self._saw = None if self._is_first else saw
            self._is_first = False
        else:
            self._after.clear()
        self._raw.end()

    # --- What has to be computed ---

    def _seen(self, untrusted: Collection[int]) -> tuple[int, frozenset[int]]:
        (last_id,) = self._store.db.execute("SELECT ifnull(max(id), 0) FROM block").fetchone()
        return last_id, frozenset(untrusted)

    def _sealed_until_ms(self, now_ms: int, untrusted: Collection[int]) -> int:
        """Give up to when hours are over and all their readings in blocks."""
        hours = [
            row.hour
            for row in self._store.rows
            if row.era not in untrusted and self._store.is_trusted(row.era)
        ]
        return min([now_ms, *(HOUR_MS * hour for hour in hours)])

    def _fold_all(
        self,
        now_ms: int,
        untrusted: Collection[int],
        is_sure: bool,
        breathe: Breathe,
    ) -> bool:
        """Go through all blocks; tells whether it came to the end."""
        last_id = self._store.meta("rolled_block")
        first_waiting: int | None = None
        while blocks := self._raw.blocks(
            "id > ? ORDER BY id LIMIT ?", (last_id, _BLOCKS_AT_A_TIME)
        ):
            last_id = blocks[-1].id
            waiting = {}
            for block in blocks:
                until_ms = self._wait_ms(block, now_ms, untrusted, is_sure)
                if until_ms > now_ms:
                    waiting[block.id] = until_ms
            self._due_ms = min([self._due_ms, *waiting.values()])
            if first_waiting is None:
                first_waiting = min(waiting, default=None)
            rolled = last_id if first_waiting is None else first_waiting - 1
            others = [block for block in blocks if block.id not in waiting]
            touched = self._touched(b for b in others if b.id not in self._beyond)
            if not self._renew(touched, rolled, breathe):
                return False
            self._beyond.update(block.id for block in others if block.id > rolled)
        if first_waiting is not None:
            self._beyond = {id_ for id_ in self._beyond if id_ > first_waiting}
        else:
            self._beyond.clear()
        return True

    def _wait_ms(self, block: Block, now_ms: int, untrusted: Collection[int], is_sure: bool) -> int:
        """Give when a block can be folded, at the earliest.

        is_sure: the clock is right, as far as anybody can tell. Then nobody waits for the future
        that another clock told of; when it comes, readings of then are folded together with it.
        """
        if block.era in untrusted:
            return _NEVER_MS
        if block.from_ms > now_ms + _AHEAD_MS:
            return 0 if is_sure else _NEVER_MS
        if block.from_ms < 0 or not 0 <= block.to_ms - block.from_ms <= HOUR_MS:
            return 0  # it is damaged, or as good as that: nobody read a meter before 1970
        end_ms = sum(hour_of(block.to_ms, self._zone))
        # When the rest of its hour is sealed too, there is another block, and all is looked at.
        return end_ms if end_ms > now_ms or end_ms <= self._over_ms else _NEVER_MS

    def _touched(self, blocks: Iterable[Block]) -> dict[str, set[_Hour]]:
        """Give meter → its hours that the blocks change and that are over."""
        touched: dict[str, set[_Hour]] = {}
        for block in blocks:
            if block.series not in self._series or not self._store.is_trusted(block.era):
                continue  # of a boot whose clock was never set: nobody knows when that was
            if not 0 <= block.from_ms <= block.to_ms < self._over_ms:
                continue
            first_seqs = self._raw.first_seqs(block)
            if not first_seqs:
                continue  # it is damaged; readers count it, and the hour shows less coverage
            meter_id = self._series[block.series].meter_id
            from_ms, to_ms = self._raw.reach(meter_id, block, LONGEST_GAP_MS)
            touched.setdefault(meter_id, set()).update(
                hour
                for hour in self._hours(from_ms, min(to_ms, self._over_ms))
                if sum(hour) <= self._over_ms
                and (
                    sum(hour) > block.from_ms or self._after.get((meter_id, hour[0])) != first_seqs
                )
            )
        return touched

    def _hours(self, from_ms: int, to_ms: int) -> Iterable[_Hour]:
        while from_ms <= to_ms:
            hour = hour_of(from_ms, self._zone)
            yield hour
            from_ms = sum(hour)

    # --- Computing ---

    def _renew(
        self,
        touched: dict[str, set[_Hour]],
        rolled: int,
        breathe: Breathe,
    ) -> bool:
        """Compute hours, and write them as they come; tells whether it came to the end.

        rolled: block that all is folded up to then.
        """
        rows: list[Rollup] = []
        for meter_id, hours in sorted(touched.items()):
            for start_ms, length_ms in sorted(hours):
                rows += self._computed(meter_id, start_ms, length_ms)
                if len(rows) >= _ROWS_AT_A_TIME:
                    self._write_all(rows)
                    rows = []
                if breathe() is False:
                    return False
        if rows or rolled > self._store.meta("rolled_block"):
            self._write_all(rows, rolled)
        return True

    def _computed(self, meter_id: str, start_ms: int, length_ms: int) -> list[Rollup]:
        """Give an hour's row if it is another one now."""
        view = self._raw.view(meter_id, start_ms, start_ms + length_ms)
        hour = hourly(start_ms, length_ms, view.chunks, self._fallback_max_kw, self._boots)
        self._after[meter_id, start_ms] = view.after_seqs
        while len(self._after) > _REMEMBERED:
            self._after.popitem(last=False)
        self._tell(meter_id, hour.corrections)
        old = self._row(meter_id, Resolution.HOURLY, start_ms)
        new = hour.rollup
        # With fewer samples than it was made of, some of them are gone from the journal.
        if new is None or new == old or (old is not None and new.samples < old.samples):
            return []
        return [new]

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

    # --- Rows ---

    def _write_all(self, hours: Sequence[Rollup], rolled: int | None = None) -> None:
        """Write hours and the days they are in. rolled: all is folded up to this block now."""
        days = {(hour.series.meter_id, *day_of(hour.start_ms, self._zone)): None for hour in hours}
        with self._store.transaction():
            for hour in hours:
                self._write(hour)
            for meter_id, start_ms, length_ms in days:
                day = daily(start_ms, length_ms, self._hours_of(meter_id, start_ms, length_ms))
                if day is not None and day != self._row(meter_id, Resolution.DAILY, start_ms):
                    self._write(day)
            if rolled is not None:
                self._store.set_meta("rolled_block", rolled)

    def _row(self, meter_id: str, resolution: Resolution, start_ms: int) -> Rollup | None:
        found = self._rows(meter_id, resolution, "start_ms = ?", start_ms)
        return found[0] if found else None

    def _hours_of(self, meter_id: str, start_ms: int, length_ms: int) -> list[Rollup]:
        return self._rows(
            meter_id,
            Resolution.HOURLY,
            "start_ms >= ? AND start_ms < ? ORDER BY start_ms",
            *(start_ms, start_ms + length_ms),
        )

    def _rows(
        self, meter_id: str, resolution: Resolution, where: str, *parameters: int
    ) -> list[Rollup]:
        """Give rollups; those that are damaged are as good as not written yet."""
        rows = self._store.db.execute(
            f"SELECT * FROM rollup WHERE meter_id = ? AND resolution = ? AND {where}",
            (meter_id, resolution.value, *parameters),
        )
        return [found[1] for row in rows if (found := rollup_of_row(row, self._series))]

    def _write(self, rollup: Rollup) -> None:
        """Write a row as the latest change."""
        change = self._store.meta("change") + 1
        self._store.set_meta("change", change)
        columns = columns_of_rollup(rollup, self._store.series[rollup.series], change)
        put_row(self._store.db, "rollup", columns)
