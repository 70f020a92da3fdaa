"""Writing readings of another journal, which have their times already, into this one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from edge.era import Era
from edge.journal.rows import HOUR_MS, block_row
from edge.journal.seal import any_known, seal
from edge.journal.store import IMPORT_BOOT, Store
from edge.record import Chunk, Series


def add_chunks(store: Store, chunks: Iterable[Chunk]) -> int:
    """Write readings as blocks, each chunk's in one transaction; gives how many were new.

    A reading is skipped if its meter has one of the same millisecond, of whatever era. All of
    them get new sequence numbers and are in one era of their own. Fold the rollups afterwards.
    Only while nobody else writes to the journal: what is in the tail is sealed first, so that all
    sequence numbers in blocks stay below those in the tail.
    """
    if store.rows:
        seal(store, len(store.rows), lambda: None)
    era = next((era.id for era in store.eras.values() if era.boot == IMPORT_BOOT), None)
    if era is None:
        era = max(store.eras, default=0) + 1
        store.commit((), {}, [Era(era, IMPORT_BOOT, 0, trusted=True)])
    return sum(_add(store, chunk, era) for chunk in chunks)


def _add(store: Store, chunk: Chunk, era: int) -> int:
    known = _times(store, chunk.series.meter_id, min(chunk.unix_ms), max(chunk.unix_ms))
    new: dict[int, int] = {}
    for index, unix_ms in enumerate(chunk.unix_ms):
        if unix_ms not in known:
            new.setdefault(unix_ms, index)
    if not new:
        return 0
    id_ = _series_id(store, chunk.series)
    next_seq = store.next_seq
    with store.transaction():
        for _, group in groupby(sorted(new), key=lambda unix_ms: unix_ms // HOUR_MS):
            part = _numbered(chunk, [new[unix_ms] for unix_ms in group], next_seq, era)
            next_seq += len(part)
            store.add_block(id_, part)
        store.set_meta("sealed_seq", next_seq)
    store.next_seq = store.sealed_seq = next_seq
    return len(new)


def _series_id(store: Store, series: Series) -> int:
    if series not in store.series:
        id_ = max(store.series.values(), default=0) + 1
        store.commit((), {series: id_}, ())
    return store.series[series]


def _numbered(chunk: Chunk, indexes: Sequence[int], first_seq: int, era: int) -> Chunk:
    columns = {name: [column[i] for i in indexes] for name, column in chunk.values.items()}
    return replace(
        chunk,
        era=era,
        seqs=range(first_seq, first_seq + len(indexes)),
        unix_ms=[chunk.unix_ms[i] for i in indexes],
        values={name: column for name, column in columns.items() if any_known(column)},
        suspect=[chunk.suspect[i] for i in indexes],
    )


def _times(store: Store, meter_id: str, from_ms: int, to_ms: int) -> Collection[int]:
    """Give the times of all that is recorded of a meter between two times."""
    known: set[int] = set()
    by_id = store.series_by_id()
    for id_ in store.series_ids(meter_id):
        rows = store.db.execute(
            "SELECT * FROM block WHERE series = ? AND from_ms > ? AND from_ms <= ? AND to_ms >= ?",
            (id_, from_ms - 2 * HOUR_MS, to_ms, from_ms),
        )
        for block in filter(None, map(block_row, rows)):
            chunk = block.chunk(by_id)
            known.update(chunk.unix_ms if chunk else ())
    return known
