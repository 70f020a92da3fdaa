"""What the database holds, as far as the writer has to know: times, and what is not done yet."""

from __future__ import annotations

from collections.abc import Iterable

from edge.era import RELEASED_UNIX_MS
from edge.journal.rows import Damaged, era_of_row, number_of_row, series_of_row
from edge.journal.store import IMPORT_BOOT, Store


def newest_unix_ms(store: Store) -> int:
    """When the newest reading was taken whose time is trusted; 0 when there is none.

    What was imported says nothing of this clock.
    """
    trusted = [era.id for era in store.eras.values() if era.trusted and era.boot != IMPORT_BOOT]
    newest = [ms for (_, era), ms in store.last_ms.items() if era in trusted]
    for era in trusted[-3:]:  # eras follow each other
        block = store.first_block(
            "id IN (SELECT id FROM block ORDER BY id DESC LIMIT 1000) AND era = ? "
            "ORDER BY to_ms DESC",
            era,
        )
        newest += [block.to_ms] if block else []
    return max(newest, default=0)


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
    """Tell whether an era's readings may have been taken when they say: none is too early."""
    earliest = [
        reading[2] for row in store.rows if row.era == era for reading in store.readings_of(row)[:1]
    ]
    first = store.first_block(
        "era = ? AND id > ? ORDER BY from_ms", era, store.meta("rolled_block")
    )
    earliest += [first.from_ms] if first else []
    return min(earliest, default=0) >= max(newest_ms, RELEASED_UNIX_MS)


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
