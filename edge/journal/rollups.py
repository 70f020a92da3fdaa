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
from datetime import tzinfo

from edge.counter import Correction
from edge.journal.around import Around, Block
from edge.journal.rows import HOUR_MS, columns_of_rollup, rollup_of_row
from edge.journal.schema import put_row
from edge.journal.store import Store
from edge.record import Resolution, Rollup, Series
from edge.rollup import daily, day_of, hour_of, hourly

log = logging.getLogger("Journal")

_BLOCKS_AT_A_TIME = 32
_REMEMBERED = 1000
_MOST_TOLD = 3


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

    def fold(self, now_ms: int, untrusted: Collection[int], breathe: Callable[[], None]) -> None:
        """Fold in the blocks that are not yet, up to the first of which more is to come.

        That is one of the hour under way, or one whose time may be corrected. now_ms: wall clock.
        untrusted: eras that may yet be corrected. breathe: called again and again meanwhile.
        """
        self._series = self._store.series_by_id()
        while blocks := self._next_blocks(now_ms // HOUR_MS, untrusted):
            self._boots = {era.id: era.boot for era in self._store.eras.values()}
            self._raw.begin(untrusted)
            with self._store.transaction():
                for meter_id, hours in sorted(self._touched(blocks).items()):
                    self._renew(meter_id, sorted(hours), breathe)
                self._store.set_meta("rolled_block", blocks[-1].id)
        self._raw.end()

    # --- What has to be computed ---

    def _next_blocks(self, hour: int, untrusted: Collection[int]) -> list[Block]:
        rows = self._raw.blocks(
            "id > ? ORDER BY id LIMIT ?", (self._store.meta("rolled_block"), _BLOCKS_AT_A_TIME)
        )
        ready = []
        for block in rows:
            if block.era in untrusted or block.to_ms // HOUR_MS == hour:
                break
            ready.append(block)
        return ready

    def _touched(self, blocks: Iterable[Block]) -> dict[str, set[tuple[int, int]]]:
        """Give meter → its hours (start, length) that the blocks change."""
        touched: dict[str, set[tuple[int, int]]] = {}
        for block in blocks:
            if block.series not in self._series or not self._store.is_trusted(block.era):
                continue  # of a boot whose clock was never set: nobody knows when that was
            if self._store.block(block.id) is None:
                continue  # it is damaged; readers count it, and the hour shows less coverage
            meter_id = self._series[block.series].meter_id
            before = self._raw.before(meter_id, block.from_ms, 0)
            after = self._raw.after(meter_id, block.to_ms + 1)
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
        gone_ms = self._store.meta("raw_gone_ms")
        for start_ms, length_ms in hours:
            old = self._row(meter_id, Resolution.HOURLY, start_ms)
            if old is not None and start_ms <= gone_ms:
                continue
            hour = hourly(
                start_ms,
                length_ms,
                self._raw.inside(meter_id, start_ms, start_ms + length_ms),
                self._raw.before(meter_id, start_ms, HOUR_MS),
                self._raw.after(meter_id, start_ms + length_ms),
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

    # --- Rows ---

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

    def _write(self, rollup: Rollup, old: Rollup | None) -> bool:
        """Write a row that says something else than the old one, as the latest change."""
        if rollup == old:
            return False
        change = self._store.meta("change") + 1
        self._store.set_meta("change", change)
        columns = columns_of_rollup(rollup, self._store.series[rollup.series], change)
        put_row(self._store.db, "rollup", columns)
        return True
