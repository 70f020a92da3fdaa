"""`dlm-edge import`: readings from a file into the journal of a service that does not run.

The service folds them into hours and days, and gives them to the sinks, when it starts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from edge import csvtable, lineparse
from edge.csvtable import Record
from edge.errors import Fault, Faulty, JournalError
from edge.journal.offline import add_to, is_in_use
from edge.journal.schema import FILE_NAME
from edge.lineprotocol import MEASUREMENT
from edge.record import Chunk, Rollup, Series
from edge.settings import Config
from edge.times import HOUR_MS

_CHUNK_READINGS = 4000
_SHOWN_FAULTS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge import`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV or line protocol")


def run(args: argparse.Namespace, config: Config) -> int:
    """Record what the file has and the journal has not. Gives the exit code."""
    path = Path(config.state.dir) / FILE_NAME
    if is_in_use(path):
        print("The service is running; stop it, and import then.", file=sys.stderr)
        return 1
    try:
        with args.file.open(encoding="utf-8", newline="") as lines:
            reading = _Reading(_rows(lines))
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


def _rows(lines: Iterable[str]) -> Iterator[Record | Rollup | Fault]:
    """Tell by its first line which of the two a file is. Raises Faulty for a wrong header."""
    lines = iter(lines)
    first: list[str] = []
    for line in lines:
        first.append(line)
        if line.strip() and not line.startswith("#"):
            break
    is_points = first and first[-1].startswith((f"{MEASUREMENT},", f"{MEASUREMENT} "))
    whole = chain(first, lines)
    return lineparse.parse(whole) if is_points else csvtable.parse(whole)


class _Reading:
    """Goes through the rows of a file and counts. readings: sound ones; faults: the others."""

    def __init__(self, rows: Iterator[Record | Rollup | Fault]) -> None:
        self._rows = rows
        self.readings = 0
        self.faults = 0

    def chunks(self) -> Iterator[Chunk]:
        """Give the readings, those of one hour of a series together where they stand together."""
        open_: dict[Series, list[Record]] = {}
        for row in self._rows:
            if isinstance(row, Record):
                self.readings += 1
                records = open_.setdefault(row.series, [])
                another_hour = records and records[-1].unix_ms // HOUR_MS != row.unix_ms // HOUR_MS
                if another_hour or len(records) >= _CHUNK_READINGS:
                    yield csvtable.chunk_of(records)
                    records.clear()
                records.append(row)
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
