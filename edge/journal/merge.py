"""Chunks put together in order of time, and cut. Pure.

The chunks of a meter follow each other as a rule. They overlap where readings were imported, where
the wall clock was set back, and while a meter's registration changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import heappop, heappush
from typing import NamedTuple

from edge.record import Chunk


class Part(NamedTuple):
    """Readings of one series and era: from when on, and how to get at them."""

    from_ms: int
    open: Callable[[], Chunk | None]


def merged(parts: Iterable[Part], low: tuple[int, int], high: tuple[int, int]) -> Iterator[Chunk]:
    """Give what is in low <= (unix_ms, seq) < high of all parts, in this order.

    parts: by from_ms. Only those are open that overlap where the reader is.
    """
    waiting = deque(parts)
    open_: list[_Open] = []
    opened = 0
    while waiting or open_:
        while waiting and (not open_ or waiting[0].from_ms <= open_[0].key[0]):
            chunk = waiting.popleft().open()
            if chunk is not None:
                opened += 1
                _put_back(open_, _opened(_by_time(chunk), opened, low, high))
        if not open_:
            return
        first = heappop(open_)
        until = min(open_[0].key if open_ else high, (waiting[0].from_ms, 0) if waiting else high)
        # Another part may begin at the same moment: then this one reading is the whole run.
        stop = max(first.start + 1, _index(first.chunk, until, first.start, first.stop))
        yield cut(first.chunk, first.start, stop)
        _put_back(open_, first._replace(start=stop))


class _Open(NamedTuple):
    """A part that is being given: what is left of it. key: (unix_ms, seq) of its first reading."""

    key: tuple[int, int]
    number: int
    start: int
    stop: int
    chunk: Chunk


def _opened(chunk: Chunk, number: int, low: tuple[int, int], high: tuple[int, int]) -> _Open:
    size = len(chunk)
    return _Open(low, number, _index(chunk, low, 0, size), _index(chunk, high, 0, size), chunk)


def _index(chunk: Chunk, key: tuple[int, int], start: int, stop: int) -> int:
    """Give where (unix_ms, seq) is or would be, between two indexes."""
    return bisect_left(range(len(chunk)), key, start, stop, key=partial(_key, chunk))


def _key(chunk: Chunk, index: int) -> tuple[int, int]:
    return chunk.unix_ms[index], chunk.seqs[index]


def _put_back(heap: list[_Open], part: _Open) -> None:
    if part.start < part.stop:
        heappush(heap, part._replace(key=_key(part.chunk, part.start)))


def given(chunk: Chunk) -> Part:
    """Give a part that is in memory already."""
    return Part(min(chunk.unix_ms), lambda: chunk)


def _by_time(chunk: Chunk) -> Chunk:
    """The same readings by (unix_ms, seq). They are by seq, so nearly always nothing moves."""
    if list(chunk.unix_ms) == sorted(chunk.unix_ms):
        return chunk
    order = sorted(range(len(chunk)), key=chunk.unix_ms.__getitem__)
    return Chunk(
        chunk.series,
        chunk.era,
        [chunk.seqs[index] for index in order],
        [chunk.unix_ms[index] for index in order],
        {name: [column[index] for index in order] for name, column in chunk.values.items()},
        [chunk.suspect[index] for index in order],
    )


def between(chunk: Chunk, low: int, high: int) -> Chunk:
    """Give what is in low <= seq < high of a chunk; may be empty."""
    return cut(chunk, bisect_left(chunk.seqs, low), bisect_left(chunk.seqs, high))


def cut(chunk: Chunk, start: int, stop: int) -> Chunk:
    """Give the readings from index start up to stop of a chunk."""
    if start == 0 and stop == len(chunk):
        return chunk
    columns = {name: column[start:stop] for name, column in chunk.values.items()}
    return Chunk(
        chunk.series,
        chunk.era,
        chunk.seqs[start:stop],
        chunk.unix_ms[start:stop],
        {
            name: column
            for name, column in columns.items()
            if any(value is not None for value in column)
        },
        chunk.suspect[start:stop],
    )
