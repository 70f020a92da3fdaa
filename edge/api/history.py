"""What was recorded of a meter: `GET /api/energy-meters/{id}/history`, as JSON pages or as CSV.

An answer is made in pieces of some hundred rows, each when the one before was sent, from a
connection of its own: a client that reads slowly, or asks for all that there is, costs no memory
and holds up nobody. Few are answered at a time, and between two pieces the control cycle has its
turn. Where all places are taken and another comes, the slowest reader is cut off, if it is slow.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice

from edge import csvtable, render, shapes
from edge.api import Request, Response
from edge.api.question import DEFAULT_LIMIT, Question, parse_query
from edge.api.readers import Readers, busy, rested
from edge.errors import DlmError
from edge.journal.history import History
from edge.journal.merge import cut
from edge.model import QUANTITY_NAMES, Meter, Quality
from edge.record import Chunk, Resolution, Rollup
from edge.registry import meter_not_found
from edge.steps import LONGEST_HELD_MS, Grid, Step, steps
from edge.times import timestamp

CSV_TYPE = "text/csv; charset=utf-8; header=present"
STREAMS = 3
"""Answers without an end in sight that are sent at a time."""
ROWS_PER_PIECE = 250

_NOT_FOR_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 100

SLOW_AFTER_S = 10.0
SLOW_BYTES_PER_S = 64 * 1024
"""Who takes less than this while we wait for it, for longer than that, makes room for another."""


class HistoryAnswers:
    """Answers requests for history from the journal's database. Any thread.

    readers: those who read the journal, of whom a short page is one.
    """

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._streams = _Streams()

    def answer(self, request: Request, meter_id: str, meter: Meter | None, now_ms: int) -> Response:
        """Answer one request. meter: as registered now, None if it is not; now_ms: unix ms.

        Raises RequestError: 400 for a faulty query, 404 for a meter that nobody knows, 503 when
        there is no journal, it cannot be read, or too many ask for theirs.
        """
        question = parse_query(request, now_ms)
        pieces = self._pieces(question, meter_id, meter, now_ms)
        if not question.as_csv and question.limit and question.limit <= DEFAULT_LIMIT:
            with self._readers.turn():
                return Response(200, b"".join(pieces))
        stream = _Begun(pieces, self._streams)
        if question.as_csv:
            return Response(200, b"", CSV_TYPE, (_as_file(meter_id, question),), stream)
        return Response(200, b"", stream=stream)

    def _pieces(
        self, question: Question, meter_id: str, meter: Meter | None, now_ms: int
    ) -> Generator[bytes, None, None]:
        """Make the answer piece by piece, with a rest after each."""
        with self._readers.history() as history:
            if meter is None and all(one.meter_id != meter_id for one in history.series()):
                raise meter_not_found(meter_id)
            rows = _limited(_groups(history, question, meter_id, now_ms), question.limit)
            yield from rested(_csv(rows, question) if question.as_csv else _json(rows, meter))


class _Begun:
    """A stream whose first piece is made at once, so that what fails then is still an answer.

    It has a place among `streams` until it is closed or cut off. Raises RequestError 503 if there
    is none.
    """

    def __init__(self, pieces: Generator[bytes, None, None], streams: _Streams) -> None:
        self._pieces = pieces
        self._streams = streams
        self._taken_bytes = 0
        self._waited_s = 0.0
        self._given_s: float | None = None
        """Since when the client has had a piece to take; None while one is made."""
        streams.admit(self)
        try:
            self._first: bytes | None = next(pieces)
        except BaseException:
            streams.leave(self)
            raise

    def rate(self, now_s: float) -> float:
        """How fast the client takes what it is given, bytes/s; infinite while that is unknown."""
        given_s = self._given_s
        waited_s = self._waited_s + (now_s - given_s if given_s is not None else 0.0)
        return self._taken_bytes / waited_s if waited_s > SLOW_AFTER_S else math.inf

    def __iter__(self) -> _Begun:
        return self

    def __next__(self) -> bytes:
        if self._given_s is not None:
            self._waited_s += time.monotonic() - self._given_s
            self._given_s = None
        if not self._streams.has(self):
            raise _CutOff("The client took its history too slowly while another waited.")
        if self._first is not None:
            piece, self._first = self._first, None
        else:
            piece = next(self._pieces)
        self._taken_bytes += len(piece)
        self._given_s = time.monotonic()
        return piece

    def close(self) -> None:
        self._streams.leave(self)
        self._pieces.close()


class _Streams:
    """Who is sent history without an end in sight: few at a time. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[_Begun] = set()

    def admit(self, newcomer: _Begun) -> None:
        """Give a place, in which a slow one may have been. Raises RequestError 503."""
        with self._lock:
            if len(self._open) >= STREAMS:
                now_s = time.monotonic()
                slowest = min(self._open, key=lambda stream: stream.rate(now_s))
                if slowest.rate(now_s) >= SLOW_BYTES_PER_S:
                    raise busy()
                self._open.discard(slowest)
            self._open.add(newcomer)

    def has(self, stream: _Begun) -> bool:
        """Whether it still has its place."""
        return stream in self._open

    def leave(self, stream: _Begun) -> None:
        """Take its place from it; harmless when it has none."""
        with self._lock:
            self._open.discard(stream)


class _CutOff(DlmError):
    """A client is sent no more; one sentence."""


def _as_file(meter_id: str, question: Question) -> tuple[str, str]:
    """Give the header that names the file which a browser makes of an answer.

    The id is that of the request, so nothing stays of it that a header or a file cannot bear.
    """
    name = _NOT_FOR_A_NAME.sub("_", meter_id)[:_LONGEST_NAME]
    return "Content-Disposition", f'attachment; filename="{name}-{question.resolution.value}.csv"'


# --- The answer ----------------------------------------------------------------------------------

_Group = Chunk | list[Rollup] | list[Step]
"""Rows that go into one piece."""


def _groups(history: History, question: Question, meter_id: str, now_ms: int) -> Iterator[_Group]:
    begin_ms, end_ms, after = question.from_ms, question.to_ms, question.after
    if question.grid is not None:
        yield from _steps(history, question.grid, after, meter_id, now_ms)
    elif question.resolution is Resolution.RAW:
        for chunk in history.raw(meter_id, begin_ms, end_ms, after):
            for start in range(0, len(chunk), ROWS_PER_PIECE):
                yield cut(chunk, start, min(start + ROWS_PER_PIECE, len(chunk)))
    else:
        after_ms = after[0] if after else None
        rollups = history.rollups(meter_id, question.resolution, begin_ms, end_ms, after_ms)
        while group := list(islice(rollups, ROWS_PER_PIECE)):
            yield group


def _steps(
    history: History, grid: Grid, after: tuple[int, int] | None, meter_id: str, now_ms: int
) -> Iterator[list[Step]]:
    """Reduce raw readings to steps, with a rest after each block."""
    if after is not None:
        grid = grid.after(after[0])
    stales_ms = (one.stale_after_ms for one in history.series() if one.meter_id == meter_id)
    held_ms = min(max(stales_ms, default=0), LONGEST_HELD_MS)
    chunks = history.raw(meter_id, grid.begin_ms - held_ms, grid.end_ms + held_ms)
    reduced = steps(rested(chunks), grid, now_ms)
    while group := list(islice(reduced, ROWS_PER_PIECE)):
        yield group


def _limited(groups: Iterable[_Group], limit: int | None) -> Iterator[tuple[_Group, bool]]:
    """Cut groups off at a number of rows; says with each whether rows were left out after it."""
    left = limit
    held: _Group | None = None
    for group in groups:
        if held is not None:
            yield held, left == 0
        if left is None:
            held = group
        elif left == 0:
            return
        else:
            held, more = _first_rows(group, left), len(group) > left
            left -= len(held)
            if more:
                yield held, True
                return
    if held is not None:
        yield held, False


def _first_rows(group: _Group, count: int) -> _Group:
    if isinstance(group, Chunk):
        return cut(group, 0, min(count, len(group)))
    return group[:count]


def _csv(rows: Iterable[tuple[_Group, bool]], question: Question) -> Iterator[bytes]:
    lines = [csvtable.header(question.resolution)]
    for group, _ in rows:
        if isinstance(group, Chunk):
            lines += csvtable.chunk_rows(group)
        else:
            lines += (csvtable.rollup_row(row) for row in group if isinstance(row, Rollup))
        yield "".join(f"{line}\r\n" for line in lines).encode()
        lines.clear()
    if lines:
        yield f"{lines[0]}\r\n".encode()


def _json(rows: Iterable[tuple[_Group, bool]], meter: Meter | None) -> Iterator[bytes]:
    count, cursor = 0, None
    lead = b'{"success":true,"data":['
    for group, more in rows:
        if isinstance(group, Chunk):
            documents: Sequence[object] = _readings(group, meter)
            last = f"{group.unix_ms[-1]}-{group.seqs[-1]}"
        else:
            documents = [_rollup(row) if isinstance(row, Rollup) else _step(row) for row in group]
            last = str(group[-1].start_ms)
        cursor = last if more else None
        yield lead + render.dump(documents)[1:-1]
        count += len(group)
        lead = b","
    yield (b"" if count else lead) + b"]," + render.dump({"count": count, "next": cursor})[1:]


def _readings(chunk: Chunk, meter: Meter | None) -> list[render.Json]:
    """Readings with all that the meter is to give now, or gave then."""
    expected = meter.communication.quantities if meter else ()
    columns = {
        render.OUTWARD.get(name, name): chunk.values.get(name) or [None] * len(chunk)
        for name in QUANTITY_NAMES
        if name in render.ALWAYS_SHOWN or name in expected or name in chunk.values
    }
    values = zip(*columns.values(), strict=True)
    return [
        {
            "timestamp": timestamp(unix_ms),
            **dict(zip(columns, row, strict=True)),
            "quality": (Quality.SUSPECT if suspect else Quality.GOOD).value,
        }
        for unix_ms, suspect, row in zip(chunk.unix_ms, chunk.suspect, values, strict=True)
    ]


def _rollup(rollup: Rollup) -> shapes.RecordedRollup:
    return {
        "start": timestamp(rollup.start_ms),
        "end": timestamp(rollup.start_ms + rollup.length_ms),
        "meanPower": rollup.mean_kw,
        "minPower": rollup.min_kw,
        "maxPower": rollup.max_kw,
        "energy": rollup.energy_kwh,
        "energySource": rollup.energy_source.value if rollup.energy_source else None,
        "interpolatedEnergy": rollup.interpolated_kwh,
        "exportedEnergy": rollup.export_kwh,
        "samples": rollup.samples,
        "coverage": round(rollup.coverage, 6),
    }


def _step(step: Step) -> shapes.RecordedStep:
    return {
        "start": timestamp(step.start_ms),
        "end": timestamp(step.start_ms + step.length_ms),
        "meanPower": step.mean_kw,
        "minPower": step.min_kw,
        "maxPower": step.max_kw,
        "samples": step.samples,
    }
