"""`dlm-edge import`: readings from a file into the journal of a service that does not run.

When it starts, the service gives them to the sinks; within the hour it folds them into hours and
days. Readings are taken from the year 2000 up to a day from now: what a broken clock or a slip of
the pen made of a time would stretch the journal over thousands of years.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TextIO

from edge import csvtable, lineparse
from edge.clock import Clock
from edge.csvtable import Record
from edge.errors import Fault, Faulty, JournalError
from edge.journal.offline import add_to, is_in_use
from edge.journal.schema import FILE_NAME
from edge.lineprotocol import MEASUREMENT
from edge.record import Chunk, Rollup, Series
from edge.settings import Config
from edge.times import DAY_MS, HOUR_MS, YEAR_2000_MS

_CHUNK_READINGS = 4000
_MOST_HELD = 20_000
"""Readings that wait for others of their hour; each hour of a series costs a transaction."""
_MOST_CHARACTERS = 2**18
_TOO_LONG = "x" * (csv.field_size_limit() + 1)
"""Stands for a line that is longer: more than CSV allows in a cell, and no point."""
_FUTURE_MS = DAY_MS
_SHOWN_FAULTS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge import`."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="CSV or line protocol, of raw readings"
    )


def run(args: argparse.Namespace, config: Config) -> int:
    """Record what the file has and the journal has not. Gives the exit code."""
    path = Path(config.state.dir) / FILE_NAME
    if is_in_use(path):
        print("The service is running; stop it, and import then.", file=sys.stderr)
        return 1
    try:
        with args.file.open(encoding="utf-8", newline="") as lines:
            times = range(YEAR_2000_MS, Clock().unix_ms() + _FUTURE_MS)
            reading = _Reading(_rows(_lines(lines), times))
            added = add_to(path, reading.chunks())
    except (Faulty, UnicodeDecodeError) as error:
        print(f"{args.file} cannot be imported: {error}", file=sys.stderr)
        return 1
    except JournalError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{args.file} cannot be read: {error}", file=sys.stderr)
        return 1
    print(
        f"{added:,} readings added, {reading.readings - added:,} were there already, "
        f"{reading.faults:,} lines faulty."
    )
    return 1 if reading.faults else 0


def _lines(file: TextIO) -> Iterator[str]:
    """Give the lines; in place of one without end, what no parser takes."""
    while line := file.readline(_MOST_CHARACTERS):
        if len(line) == _MOST_CHARACTERS:
            rest = line
            while rest and not rest.endswith(("\n", "\r")):
                rest = file.readline(_MOST_CHARACTERS)
            line = _TOO_LONG
        yield line


def _rows(lines: Iterable[str], times: range) -> Iterator[Record | Rollup | Fault]:
    """Tell by its first line which of the two a file is. Raises Faulty for a wrong header."""
    lines = iter(lines)
    first: list[str] = []
    for line in lines:
        first.append(line)
        if line.strip() and not line.startswith("#"):
            break
    is_points = first and first[-1].startswith((f"{MEASUREMENT},", f"{MEASUREMENT} "))
    whole = chain(first, lines)
    return lineparse.parse(whole, times) if is_points else csvtable.parse(whole, times)


class _Reading:
    """Goes through the rows of a file and counts. readings: sound ones; faults: the others."""

    def __init__(self, rows: Iterator[Record | Rollup | Fault]) -> None:
        self._rows = rows
        self.readings = 0
        self.faults = 0

    def chunks(self) -> Iterator[Chunk]:
        """Give the readings, those of one hour of a series together where they stand near."""
        open_: dict[tuple[Series, int], list[Record]] = {}
        held = 0
        for row in self._rows:
            if isinstance(row, Record):
                self.readings += 1
                hour = (row.series, row.unix_ms // HOUR_MS)
                records = open_.pop(hour, [])
                records.append(row)
                open_[hour] = records  # last, as the one that was added to
                held += 1
                if len(records) >= _CHUNK_READINGS or held > _MOST_HELD:
                    done = hour if len(records) >= _CHUNK_READINGS else next(iter(open_))
                    held -= len(open_[done])
                    yield csvtable.chunk_of(open_.pop(done))
            elif isinstance(row, Rollup):
                what = f"has {row.resolution.value} values; give a file of raw readings"
                raise Faulty([Fault("line 2", what)])
            else:
                self._tell(row)
        yield from map(csvtable.chunk_of, open_.values())

    def _tell(self, fault: Fault) -> None:
        self.faults += 1
        if self.faults <= _SHOWN_FAULTS:
            print(fault, file=sys.stderr)
        elif self.faults == _SHOWN_FAULTS + 1:
            print("… and more", file=sys.stderr)
