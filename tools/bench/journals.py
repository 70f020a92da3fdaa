"""Journals that are there already, and the processes that write and read others.

    append   readings through Journal.put until they are committed, in time turned by hand
    bare     the same loop without a journal
    plain    sqlite3's executemany of the same values, into rows of a table
    flash    the journal's own steps, second by second, in time turned by hand
    day      a day of a meter by History.raw
    select   the same from a plain table
    csv      a plain table as CSV, by the csv module

They are told by lines of JSON what to do, and answer likewise.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timezone
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tools.bench.process import Bench, Child
from tools.bench.readings import (
    FIELDS,
    FROM_MS,
    HOUR_MS,
    METERS,
    PER_HOUR,
    PERIOD_MS,
    SERIES,
    HandClock,
    Site,
    counted_on,
    hours,
    meter_id,
)

if TYPE_CHECKING:
    import sqlite3

    from edge.journal.store import Store
    from edge.record import Chunk

SITE = "site"
PERIOD_S = PERIOD_MS // 1000
APPEND_METERS = 50
ROWS_PER_COMMIT = 10_000
"""Of a plain table."""
_APPEND_COMMIT_S = 20.0
"""In time turned by hand, one second to each reading of all meters: 1000 readings at least."""
_MOST_WAITING = 3000
"""Readings that may wait for the journal; it drops what is beyond 10,000."""
_AT_A_TIME = 500
_WAL_BYTES = 4 * 1024 * 1024
_FILL_HOURS = 24
"""So many hours are made up, and then repeated."""


class JournalChild(Child):
    """One of the processes above, ready to be told what to do. folder: for its database."""

    def __init__(self, bench: Bench, kind: str, folder: Path, **settings: Any) -> None:
        super().__init__(bench, ["-m", __name__, kind])
        self.say({"folder": str(folder), **settings})
        self.hear()

    def do(self, **arguments: Any) -> Any:
        """Tell it to do its work once; gives what it says of it."""
        self.say(arguments)
        return self.hear()


# --- Journals that are there already -------------------------------------------------------------


def fill(folder: Path, meters: int, count: int, to_ms: int) -> int:
    """Seal `count` hours of each meter, the last one ending at to_ms; gives how many readings.

    As the journal does: readings of all meters are numbered as they come, and rolled up.
    """
    from edge.era import Era
    from edge.journal.rollups import Folder
    from edge.journal.schema import FILE_NAME
    from edge.journal.store import Store

    store = Store(folder / FILE_NAME, _WAL_BYTES)
    series = {
        replace(SERIES, meter_id=meter_id(number), name=f"Meter {number}"): number + 1
        for number in range(meters)
    }
    store.commit((), series, [Era(1, "before", 0, trusted=True)])
    made_up = list(hours(min(count, _FILL_HOURS)))
    for hour in range(count):
        _fill_hour(store, made_up, hour, to_ms - (count - hour) * HOUR_MS)
    Folder(store, timezone.utc, 500.0).fold(to_ms, set(), lambda: None)
    store.checkpoint()
    store.close()
    return count * meters * PER_HOUR


def _fill_hour(store: Store, made_up: Sequence[Chunk], hour: int, from_ms: int) -> None:
    meters = len(store.series)
    first_seq = store.next_seq
    store.next_seq = store.sealed_seq = first_seq + meters * PER_HOUR
    with store.transaction():
        for series, id_ in store.series.items():
            lap, index = divmod(hour + 5 * (id_ - 1), len(made_up))
            chunk = made_up[index]
            shift_ms = from_ms - chunk.unix_ms[0] // HOUR_MS * HOUR_MS
            chunk = replace(
                chunk,
                series=series,
                seqs=range(first_seq + id_ - 1, store.next_seq, meters),
                unix_ms=[unix_ms + shift_ms for unix_ms in chunk.unix_ms],
                values={**chunk.values, **counted_on(made_up, chunk, lap)},
            )
            store.add_block(id_, chunk)
        store.set_meta("sealed_seq", store.next_seq)


class Recorder:
    """The journal's writer, made to do second by second what its thread would do.

    A sink is told all at once, so its place is written now and then.
    """

    def __init__(
        self, folder: Path, meters: int, from_ms: int, commit_interval_s: float = 10.0
    ) -> None:
        from edge.journal.writer import Kernel, Writer
        from edge.journal.writer import Site as WriterSite
        from edge.settings import JournalConfig

        self._clock = HandClock(from_ms)
        self._site = Site(meters, self._clock)
        self._came: list[Any] = []
        settings = JournalConfig(commit_interval_s=commit_interval_s)
        site = WriterSite(SITE, timezone.utc, 500.0)
        self._writer = Writer(folder, settings, site, self._clock, Kernel.real(), self._take)
        self._writer.step()

    def run(self, duration_s: int) -> None:
        """Read all meters every 5 s for so long."""
        from edge.place import Place

        for second in range(duration_s):
            if second % PERIOD_S == 0:
                self._came += ((result.meter, result.reading) for result in self._site.poll())
            self._writer.step()
            self._writer.places["influx"] = Place(live=self._writer.sendable_seq + 1)
            self._clock.turn(1.0)

    def close(self) -> None:
        """Commit everything, and close the database. Raises OSError if it could not be written."""
        self._writer.step(final=True)
        self._writer.close()
        if self._writer.state.last_error:
            raise OSError(self._writer.state.last_error)

    def _take(self) -> Sequence[Any]:
        came, self._came = self._came, []
        return came


def rows() -> Iterator[tuple[Any, ...]]:
    """Give readings as rows of a plain table: meter, unix ms, and a value of each quantity.

    Without end; all meters' readings of a moment one after the other.
    """
    while True:
        for hour in hours(_FILL_HOURS):
            for index, unix_ms in enumerate(hour.unix_ms):
                values = [column[index] for column in hour.values.values()]
                for number in range(METERS):
                    yield (meter_id(number), unix_ms, *values)


def make_table(path: Path) -> sqlite3.Connection:
    """Make a plain table for them; what is committed is safe from a power cut."""
    import sqlite3

    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    columns = ", ".join(f"{name} REAL" for name in FIELDS)
    database.execute(f"CREATE TABLE reading (meter_id TEXT, unix_ms INTEGER, {columns})")
    return database


def insert(database: sqlite3.Connection, some: Sequence[tuple[Any, ...]]) -> None:
    """Write rows in one transaction."""
    marks = ",".join("?" * (2 + len(FIELDS)))
    database.execute("BEGIN")
    database.executemany(f"INSERT INTO reading VALUES ({marks})", some)
    database.execute("COMMIT")


def _filled_table(folder: Path, count: int) -> sqlite3.Connection:
    database = make_table(folder / "plain.db")
    remaining = islice(rows(), count)
    while some := list(islice(remaining, ROWS_PER_COMMIT)):
        insert(database, some)
    database.execute("CREATE INDEX time ON reading (meter_id, unix_ms)")
    return database


# --- The processes themselves --------------------------------------------------------------------

Work = Callable[..., Any]


def _append(folder: str) -> Work:
    from edge.journal import Journal
    from edge.settings import JournalConfig

    clock = HandClock(time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS)
    site = Site(APPEND_METERS, clock)
    settings = JournalConfig(commit_interval_s=_APPEND_COMMIT_S)
    journal = Journal(Path(folder), settings, SITE, timezone.utc, clock)
    journal.open()
    given = wanted = 0

    def put(count: int) -> float:
        nonlocal given, wanted
        wanted += count
        begin_s = time.monotonic()
        while (state := journal.state).recorded < wanted:
            if state.dropped or state.last_error:
                raise OSError(state.last_error or f"{state.dropped} readings were dropped")
            if given - state.recorded >= _MOST_WAITING:
                time.sleep(0.001)
                clock.turn(0.1)  # so that a commit is due at some time in any case
                continue
            for _ in range(_AT_A_TIME // APPEND_METERS):
                journal.put(site.poll())
                clock.turn(1.0)
            given += _AT_A_TIME
        return time.monotonic() - begin_s

    return put


def _bare(folder: str) -> Work:
    clock = HandClock(time.time_ns() // 1_000_000)
    site = Site(APPEND_METERS, clock)

    def put(count: int) -> float:
        begin_s = time.monotonic()
        for _ in range(count // APPEND_METERS):
            site.poll()
            clock.turn(1.0)
        return time.monotonic() - begin_s

    return put


def _plain(folder: str) -> Work:
    database = make_table(Path(folder) / "plain.db")

    def put(count: int) -> float:
        all_rows = list(islice(rows(), count))
        begin_s = time.monotonic()
        for start in range(0, count, ROWS_PER_COMMIT):
            insert(database, all_rows[start : start + ROWS_PER_COMMIT])
        return time.monotonic() - begin_s

    return put


def _flash(folder: str, from_ms: int) -> Work:
    recorder = Recorder(Path(folder), METERS, from_ms)

    def run(duration_s: int) -> None:
        recorder.run(duration_s)

    return run


def _day(folder: str) -> Work:
    from edge.journal.history import History
    from edge.journal.schema import FILE_NAME

    def ask(from_ms: int, to_ms: int, times: int) -> tuple[float, float, int]:
        took_s = []
        for turn in range(times):
            begin_s = time.perf_counter()
            with History(Path(folder) / FILE_NAME) as history:
                chunks = list(history.raw(meter_id(turn % METERS), from_ms, to_ms))
            took_s.append(time.perf_counter() - begin_s)
        return median(took_s), max(took_s), sum(map(len, chunks))

    return ask


def _select(folder: str, count: int) -> Work:
    database = _filled_table(Path(folder), count)
    query = "SELECT * FROM reading WHERE meter_id = ? AND unix_ms >= ? AND unix_ms < ? ORDER BY 2"

    def ask(times: int) -> tuple[float, float, int]:
        took_s = []
        for turn in range(times):
            begin_s = time.perf_counter()
            arguments = (meter_id(turn % METERS), FROM_MS, FROM_MS + 24 * HOUR_MS)
            found = database.execute(query, arguments).fetchall()
            took_s.append(time.perf_counter() - begin_s)
        return median(took_s), max(took_s), len(found)

    return ask


def _csv(folder: str, count: int) -> Work:
    import csv

    database = _filled_table(Path(folder), count)
    path = Path(folder) / "plain.csv"

    def write() -> tuple[float, int]:
        begin_s = time.perf_counter()
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(database.execute("SELECT * FROM reading"))
        return time.perf_counter() - begin_s, path.stat().st_size

    return write


_KINDS: dict[str, Callable[..., Work]] = {
    "append": _append,
    "bare": _bare,
    "plain": _plain,
    "flash": _flash,
    "day": _day,
    "select": _select,
    "csv": _csv,
}


def _run(kind: str) -> None:
    work = _KINDS[kind](**json.loads(sys.stdin.readline()))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(work(**json.loads(line))), flush=True)


if __name__ == "__main__":
    _run(sys.argv[1])
