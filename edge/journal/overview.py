"""What the database holds, as far as the writer has to know: times, and what is not done yet."""

from __future__ import annotations

from collections.abc import Iterable

from edge.era import FAR_AHEAD_MS, RELEASED_UNIX_MS
from edge.journal.rows import Damaged, era_of_row, number_of_row, series_of_row
from edge.journal.store import IMPORT_BOOT, Store


def newest_unix_ms(store: Store) -> int:
    """When the latest reading was taken whose time is trusted; 0 when there is none.

    The latest by sequence: one with a later time was stamped by a clock that was wrong. What was
    imported says nothing of this clock.
    """
    trusted = {era.id for era in store.eras.values() if era.trusted and era.boot != IMPORT_BOOT}
    for row in reversed(store.rows):
        if row.era in trusted and (readings := store.readings_of(row)):
            return readings[-1][2]
    latest = store.db.execute("SELECT id, era FROM block ORDER BY last_seq DESC LIMIT 1000")
    for id_, era in latest.fetchall():
        if era in trusted and (block := store.block(id_)):
            return block.to_ms
    return 0


def oldest_unix_ms(store: Store) -> int | None:
    """When the oldest reading was taken; None when there is none."""
    firsts = (
        store.first_block("series = ? ORDER BY from_ms", id_) for id_ in store.series.values()
    )
    found = [block.from_ms for block in firsts if block]
    if not found and store.rows:
        found = [reading[2] for reading in store.readings_of(store.rows[0])]
    return min(found, default=None)


def is_plausible(store: Store, era: int, newest_ms: int) -> bool:
    """Tell whether an era's readings may have been taken when they say.

    newest_ms: what `newest_unix_ms` gives; none may be before it, or far ahead of it.
    """
    earliest = [
        reading[2] for row in store.rows if row.era == era for reading in store.readings_of(row)[:1]
    ]
    first = store.first_block(
        "era = ? AND id > ? ORDER BY from_ms", era, store.meta("rolled_block")
    )
    earliest += [first.from_ms] if first else []
    first_ms = min(earliest, default=0)
    if newest_ms and first_ms > newest_ms + FAR_AHEAD_MS:
        return False
    return first_ms >= max(newest_ms, RELEASED_UNIX_MS)


def first_seq_in(store: Store, eras: Iterable[int]) -> int | None:
    """Give the lowest sequence number in eras that are not rolled up yet; None without any."""
    wanted = set(eras)
    if not wanted:
        return None
    found = [row.seq for row in store.rows if row.era in wanted][:1]
    blocks = store.db.execute(
        "SELECT era, first_seq FROM block WHERE id > ?", (store.meta("rolled_block"),)
    )
    found += (first_seq for era, first_seq in blocks if era in wanted)
    return min(found, default=None)


def has_unfolded(store: Store) -> bool:
    """Tell whether there are blocks that are not in rollups."""
    rolled = store.meta("rolled_block")
    return bool(
        store.db.execute("SELECT EXISTS (SELECT 1 FROM block WHERE id > ?)", (rolled,)).fetchone()[
            0
        ]
    )


def check(store: Store) -> None:
    """Read the whole file; raises Damaged where it is not as SQLite and we left it.

    It takes about as long as the disk needs to give the file; readings wait in memory meanwhile.
    Blocks, rollups and the tail are not decoded: readers leave out what is damaged of them.
    """
    (found,) = store.db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise Damaged(found)
    for table, made in (("meta", number_of_row), ("series", series_of_row), ("era", era_of_row)):
        for row in store.db.execute(f"SELECT * FROM {table}"):
            made(row)
