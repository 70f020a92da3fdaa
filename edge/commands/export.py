"""`dlm-edge export`: what was recorded, as CSV or line protocol, into a file or a pipe.

The journal's database is open in one process at a time. So it is read directly while no service
runs, and asked for over the service's own API while one does.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote, urlencode

from edge import csvtable
from edge.clock import Clock
from edge.commands.client import Client, ServiceError
from edge.errors import DlmError, Fault, JournalError
from edge.journal.history import History
from edge.journal.offline import is_in_use
from edge.journal.schema import FILE_NAME
from edge.lineprotocol import point_of_rollup, points_of_chunk
from edge.record import Chunk, Resolution, Rollup
from edge.settings import Config
from edge.times import parse_time

_EXAMPLES = """examples:
  dlm-edge export --output all.csv
  dlm-edge export --meter "Main Building Meter" --from 2025-10-01T00:00:00+02:00 > october.csv
  dlm-edge export --resolution hourly --format line-protocol | influx write --precision ms …

Line protocol has no place for suspect readings, so they are left out of it. While the service runs,
a meter that was removed has to be named by its id. Hours and days are for other programs: only raw
readings can be imported, from which they are made.
"""
_WITHOUT_REMOVED = (
    "Meters that were removed are left out while the service runs; name them by --meter ID, or "
    "stop it."
)
_ROWS = 500
_BAR_CHARACTERS = 24
_BAR_EVERY_S = 0.1


class _ExportError(DlmError):
    """The export cannot be made; one sentence."""


@dataclass(frozen=True)
class _Wanted:
    """What is to be exported. from_ms, to_ms: as in `History.raw`."""

    resolution: Resolution
    from_ms: int
    to_ms: int
    as_points: bool


@dataclass(frozen=True)
class _Piece:
    """Some rows as text, and when the last one of them was taken, unix ms."""

    text: str
    rows: int
    unix_ms: int


class _Source(Protocol):
    """Where the recorded readings come from."""

    def meters(self) -> list[tuple[str, str]]:
        """Id and name of those that are known, the latest name last."""

    def pieces(self, meter_id: str, wanted: _Wanted) -> Iterator[_Piece]:
        """Give the rows of one meter, without a header. Raises ServiceError, JournalError."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge export`."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--meter", action="append", metavar="ID-OR-NAME", help="only this one; may be repeated")
    add("--from", dest="begin", type=_time, metavar="TIME", help="2025-10-20T10:30:00Z or unix ms")
    add("--to", dest="end", type=_time, metavar="TIME", help="up to, and without, this time")
    add("--resolution", choices=[one.value for one in Resolution], default="raw")
    add("--format", choices=("csv", "line-protocol"), default="csv")
    add("--output", type=Path, metavar="FILE", help="without it, standard output")


def run(args: argparse.Namespace, config: Config) -> int:
    """Write the export. Gives the exit code; a file is replaced when all of it is written."""
    to_ms = Clock().unix_ms() + 1 if args.end is None else args.end
    wanted = _Wanted(
        *(Resolution(args.resolution), args.begin or 0, to_ms), args.format == "line-protocol"
    )
    try:
        with _source(config) as source:
            meters = _chosen(source.meters(), args.meter)
            if isinstance(source, _Service) and args.meter is None:
                print(_WITHOUT_REMOVED, file=sys.stderr)
            with _written_whole(args.output) as output:
                rows = _export(source, meters, wanted, output)
    except (_ExportError, ServiceError, JournalError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"The export cannot be written ({error}); free some room there.", file=sys.stderr)
        return 1
    print(f"{rows:,} rows of {len(meters)} meters.", file=sys.stderr)
    return 0


def _time(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _chosen(known: Sequence[tuple[str, str]], named: Sequence[str] | None) -> dict[str, str]:
    """Id → name of the meters that are asked for. An id that is not known may be a removed one."""
    if named is None:
        return dict(known)
    chosen = {}
    for wanted in named:
        found = {id_: name for id_, name in known if wanted in (id_, name)}
        if not found and not wanted.startswith("meter_"):
            names = ", ".join(sorted({name for _, name in known})) or "none"
            raise _ExportError(f"No meter is called {wanted!r}; known are: {names}.")
        chosen.update(found or {wanted: wanted})
    return chosen


def _export(source: _Source, meters: dict[str, str], wanted: _Wanted, output: IO[bytes]) -> int:
    rows = 0
    if not wanted.as_points:
        output.write(f"{csvtable.header(wanted.resolution)}\r\n".encode())
    with _Bar(len(meters)) as bar:
        for number, (meter_id, name) in enumerate(meters.items()):
            begin_ms: int | None = None
            for piece in source.pieces(meter_id, wanted):
                output.write(piece.text.encode())
                rows += piece.rows
                begin_ms = piece.unix_ms if begin_ms is None else begin_ms
                done = (piece.unix_ms - begin_ms) / max(1, wanted.to_ms - begin_ms)
                bar.show((number + done), f"{name}, {rows:,} rows")
    return rows


@contextmanager
def _source(config: Config) -> Iterator[_Source]:
    path = Path(config.state.dir) / FILE_NAME
    if not path.exists():
        raise _ExportError(f"There is no journal at {path}; say with --state-dir where it is.")
    if is_in_use(path):
        yield _Service(config)
        return
    with History(path) as history:
        yield _File(history)
        if history.damaged:
            print(f"{history.damaged} damaged parts were left out.", file=sys.stderr)


# --- From the database ---------------------------------------------------------------------------


class _File:
    """The journal of a service that does not run."""

    def __init__(self, history: History) -> None:
        self._history = history

    def meters(self) -> list[tuple[str, str]]:
        return [(series.meter_id, series.name) for series in self._history.series()]

    def pieces(self, meter_id: str, wanted: _Wanted) -> Iterator[_Piece]:
        span = wanted.from_ms, wanted.to_ms
        if wanted.resolution is Resolution.RAW:
            for chunk in self._history.raw(meter_id, *span):
                yield _chunk_piece(chunk, wanted.as_points)
        else:
            rollups = self._history.rollups(meter_id, wanted.resolution, *span)
            while some := list(islice(rollups, _ROWS)):
                yield _rollup_piece(some, wanted.as_points)


def _chunk_piece(chunk: Chunk, as_points: bool) -> _Piece:
    if as_points:
        points = points_of_chunk(chunk)
        return _Piece(
            b"".join(b"%b\n" % one for one in points).decode(), len(points), chunk.unix_ms[-1]
        )
    rows = csvtable.chunk_rows(chunk)
    return _Piece("".join(f"{row}\r\n" for row in rows), len(rows), chunk.unix_ms[-1])


def _rollup_piece(rollups: Sequence[Rollup], as_points: bool) -> _Piece:
    if as_points:
        text = b"".join(b"%b\n" % point_of_rollup(rollup) for rollup in rollups).decode()
    else:
        text = "".join(f"{csvtable.rollup_row(rollup)}\r\n" for rollup in rollups)
    return _Piece(text, len(rollups), rollups[-1].start_ms)


# --- From the service ----------------------------------------------------------------------------


class _Service:
    """The journal of the service that runs here."""

    def __init__(self, config: Config) -> None:
        self._client = Client(config)

    def meters(self) -> list[tuple[str, str]]:
        return [(meter["id"], meter["name"]) for meter in self._client.data("/api/energy-meters")]

    def pieces(self, meter_id: str, wanted: _Wanted) -> Iterator[_Piece]:
        query = {"from": wanted.from_ms, "to": wanted.to_ms, "resolution": wanted.resolution.value}
        path = f"/api/energy-meters/{quote(meter_id, safe='')}/history?{urlencode(query)}"
        with self._client.answer(path, "text/csv") as answer:
            lines = iter(TextIOWrapper(answer, "utf-8", newline=""))
            header = next(lines, "")
            while some := list(islice(lines, _ROWS)):
                if wanted.as_points:
                    yield from _point_pieces([header, *some])
                else:
                    last_ms = parse_time(some[-1].partition(",")[0])
                    yield _Piece("".join(some), len(some), last_ms)


def _point_pieces(lines: Sequence[str]) -> Iterator[_Piece]:
    """Turn rows of CSV into points."""
    rows: list[Any] = []
    for row in csvtable.parse(lines):
        if isinstance(row, Fault):
            raise _ExportError(f"The service sent a row that cannot be read ({row}); update it.")
        rows.append(row)
    if isinstance(rows[0], Rollup):
        yield _rollup_piece(rows, as_points=True)
        return
    for _, of_series in groupby(rows, key=lambda record: record.series):
        yield _chunk_piece(csvtable.chunk_of(list(of_series)), as_points=True)


# --- Where it goes -------------------------------------------------------------------------------


@contextmanager
def _written_whole(path: Path | None) -> Iterator[IO[bytes]]:
    """Open standard output, or a file that gets its name when all is written."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class _Bar:
    """A progress bar on standard error, where that is a terminal. total: what is to be done."""

    def __init__(self, total: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._total = max(1, total)
        self._now_s = now_s
        self._is_shown = sys.stderr.isatty()
        self._next_s = 0.0

    def show(self, done: float, text: str) -> None:
        """Show how far it is; a few times a second at most."""
        if self._is_shown and self._now_s() >= self._next_s:
            self._next_s = self._now_s() + _BAR_EVERY_S
            share = min(1.0, done / self._total)
            bar = "#" * round(share * _BAR_CHARACTERS)
            line = f"\r[{bar:-<{_BAR_CHARACTERS}}] {share:4.0%} {text[:40]}\x1b[K"
            print(line, end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
