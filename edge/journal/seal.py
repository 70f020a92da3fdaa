"""Sealing: what is over moves from the tail into blocks, one per era, hour UTC and series.

Always a prefix of the sequence is sealed, so one number, `sealed_seq`, tells the two apart. Blocks
and that number change in one transaction.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, groupby, repeat
from math import isnan, nan

from edge.batch import KeptRow
from edge.journal.rows import HOUR_MS
from edge.journal.store import Row, Store
from edge.record import Chunk, Series

_MOST_READINGS = 12_000
_MOST_ROWS = 5_000
_TAIL_SHARE = 8
"""What the tail holds before it is sealed in the middle of an hour: also no more than this part of
all that the journal may hold."""

_ROW_BYTES = 512
_READING_BYTES = 32
_GRACE_MS = 60_000
"""How long after its hour a reading may come, that was under way."""
_MOST_IN_BLOCK = 50_000
_ROWS_AT_A_TIME = 32


def due(rows: Sequence[Row], now_ms: int | None, untrusted: Collection[int], max_bytes: int) -> int:
    """Count the rows at the begin of the tail that are to be sealed now.

    now_ms: wall clock, None while it is not trusted. untrusted: eras that may yet be corrected;
    what is behind them waits, unless there is too much of it.
    """
    most_bytes = max_bytes // _TAIL_SHARE
    if len(rows) > min(_MOST_ROWS, most_bytes // _ROW_BYTES) or sum(
        row.length for row in rows
    ) > min(_MOST_READINGS, most_bytes // _READING_BYTES):
        return len(rows)
    if now_ms is None:
        return 0
    hour = (now_ms - _GRACE_MS) // HOUR_MS
    last = 0
    for number, row in enumerate(rows, start=1):
        if row.era in untrusted:
            break
        if row.hour < hour:
            last = number
    return last


def seal(store: Store, count: int, breathe: Callable[[], object]) -> int:
    """Seal the first rows of the tail; gives the number of readings that could not be read.

    breathe: called again and again meanwhile. It must not use the database.
    """
    rows = store.rows[:count]
    sealed_seq = store.rows[count].seq if count < len(store.rows) else store.next_seq
    series = store.series_by_id()
    lost = 0
    with store.transaction():
        for (era, _), group in groupby(sorted(rows, key=_group_of), key=_group_of):
            gathered: dict[int, _Columns] = {}
            for row in group:
                lost += _gather(store, row, gathered)
                breathe()
            for id_ in list(gathered):
                for chunk in gathered.pop(id_).chunks(series[id_], era):
                    store.add_block(id_, chunk)
                    breathe()
        store.set_meta("sealed_seq", sealed_seq)
    store.release(count, sealed_seq)
    return lost


def _group_of(row: Row) -> tuple[int, int]:
    return row.era, row.hour


def _gather(store: Store, row: Row, gathered: dict[int, _Columns]) -> int:
    """Add a row's readings; gives how many are damaged."""
    readings = store.readings_of(row)
    for reading in readings:
        id_ = reading[1]
        if id_ not in gathered:
            gathered[id_] = _Columns()
        gathered[id_].add(reading)
    return row.length - len(readings)


class _Columns:
    """Readings of one series, in few bytes: an hour of a hundred meters has to fit in memory."""

    def __init__(self) -> None:
        self._new: list[KeptRow] = []
        """Readings that are not in the columns yet: many at a time is quicker."""
        self._seqs = array("q")
        self._unix_ms = array("q")
        self._suspect = bytearray()
        self._values: dict[str, array[float]] = {}
        """What a reading did not have is not a number; nothing that is read is that."""

    def add(self, reading: KeptRow) -> None:
        """Append a reading."""
        self._new.append(reading)
        if len(self._new) >= _ROWS_AT_A_TIME:
            self._append_new()

    def _append_new(self) -> None:
        if not self._new:
            return
        before = len(self._seqs)
        seqs, _, unix_ms, suspect, values = zip(*self._new, strict=True)
        self._new.clear()
        self._seqs.extend(seqs)
        self._unix_ms.extend(unix_ms)
        self._suspect.extend(suspect)
        for name in {*self._values, *chain.from_iterable(values)}:
            column = self._values.get(name)
            if column is None:
                column = self._values[name] = array("d", repeat(nan, before))
            column.extend([some.get(name, nan) for some in values])

    def chunks(self, series: Series, era: int) -> Iterator[Chunk]:
        """Give the readings, in chunks that fit a block."""
        self._append_new()
        values = {name: _known(column) for name, column in sorted(self._values.items())}
        for start in range(0, len(self._seqs), _MOST_IN_BLOCK):
            part = slice(start, start + _MOST_IN_BLOCK)
            columns = {name: column[part] for name, column in values.items()}
            yield Chunk(
                series,
                era,
                self._seqs[part],
                self._unix_ms[part],
                {name: column for name, column in columns.items() if any_known(column)},
                [bool(suspect) for suspect in self._suspect[part]],
            )


def _known(column: array[float]) -> list[float | None]:
    if any(map(isnan, column)):
        return [None if isnan(value) else value for value in column]
    return list(column)


def any_known(column: Sequence[float | None]) -> bool:
    """Tell whether a quantity was read at all."""
    return any(value is not None for value in column)
