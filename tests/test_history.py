"""The journal as its readers see it, directly and over HTTP: in order, whole, in bounded memory."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import csvtable
from edge.api import Request, Response
from edge.api.dispatch import refusal
from edge.api.history import STREAMS, HistoryAnswers
from edge.api.question import parse_query
from edge.api.readers import Readers
from edge.api.server import ApiServer
from edge.block import decode_block
from edge.errors import JournalError, RequestError
from edge.journal.history import History
from edge.model import Meter
from edge.record import Chunk, Resolution
from tests.building import a_meter
from tests.journals import (
    HOUR_MS,
    START_MS,
    WrittenJournal,
    a_rollup,
    a_series,
    readings_of,
    values_at,
)

DAY_MS = 24 * HOUR_MS
ALWAYS = (0, 2**62)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[WrittenJournal]:
    with WrittenJournal(tmp_path) as written:
        yield written


def an_hour(
    number: int = 0, count: int = 12, first_seq: int = 1
) -> list[tuple[int, int, dict[str, float]]]:
    """Readings that are spread over an hour."""
    step_ms = HOUR_MS // count
    begin_ms = START_MS + number * HOUR_MS
    return [
        (first_seq + index, begin_ms + index * step_ms, values_at(first_seq + index))
        for index in range(count)
    ]


def seqs_of(chunks: Iterator[Chunk]) -> list[int]:
    return [seq for chunk in chunks for seq in chunk.seqs]


# --- Whole and in order --------------------------------------------------------------------------

SERIES = (
    a_series(),
    a_series(name="Renamed"),
    a_series("meter_2", name="Other"),
)
READINGS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which series
        st.integers(0, 3),  # minutes after the one before, backwards for a new era
        st.integers(0, 30),  # begins a new block now and then
    ),
    min_size=1,
    max_size=60,
)


def write(
    journal: WrittenJournal, drawn: list[tuple[int, int, int]], sealed: int
) -> list[tuple[str, int, int, str]]:
    """Write drawn readings, the first `sealed` ones as blocks; gives all, as `readings_of`."""
    rows, unix_ms, era = [], START_MS, 1
    for seq, (which, minutes, extra) in enumerate(drawn, start=1):
        if extra == 0:
            unix_ms, era = unix_ms - 40 * 60_000, era + 1
        unix_ms += minutes * 60_000 + (minutes == 0)
        rows.append((era, unix_ms // HOUR_MS, which, (seq, unix_ms, values_at(seq))))
    for (era, _), group in groupby(rows[:sealed], key=lambda row: row[:2]):
        of_hour = list(group)
        for which in {row[2] for row in of_hour}:
            journal.add_block(SERIES[which], [row[3] for row in of_hour if row[2] == which], era)
    for (era, _), group in groupby(rows[sealed:], key=lambda row: row[:2]):
        journal.add_tail([(SERIES[row[2]], row[3]) for row in group], era)
    chunks = [
        Chunk(SERIES[which], era, [seq], [ms], {n: [v] for n, v in values.items()}, [False])
        for era, _, which, (seq, ms, values) in rows
    ]
    return [reading for chunk in chunks for reading in readings_of(chunk)]


@settings(max_examples=60, deadline=None)
@given(READINGS, st.data())
def test_raw_is_all_of_a_meter_by_time_then_sequence(
    drawn: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    sealed = data.draw(st.integers(0, len(drawn)), "sealed")
    low = START_MS + data.draw(st.integers(-3, 3)) * HOUR_MS // 2
    high = low + data.draw(st.integers(0, 6)) * HOUR_MS // 2
    with TemporaryDirectory() as folder, WrittenJournal(Path(folder)) as journal:
        every = write(journal, drawn, sealed)
        expected = sorted(
            (one for one in every if one[0] != "Other" and low <= one[2] < high),
            key=lambda one: (one[2], one[1]),
        )
        with History(journal.path) as history:
            whole = [
                one for chunk in history.raw("meter_1", low, high) for one in readings_of(chunk)
            ]
            assert whole == expected
            size = data.draw(st.integers(1, 10), "page")
            pages, after = [], None
            while True:
                page = [
                    one
                    for chunk in history.raw("meter_1", low, high, after)
                    for one in readings_of(chunk)
                ][:size]
                pages += page
                if len(page) < size:
                    break
                after = (page[-1][2], page[-1][1])
            assert pages == expected
            assert history.damaged == 0


@settings(max_examples=60, deadline=None)
@given(READINGS, st.data())
def test_since_is_all_of_a_range_and_says_what_is_done(
    drawn: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    sealed = data.draw(st.integers(0, len(drawn)), "sealed")
    low = data.draw(st.integers(0, 60), "from")
    high = data.draw(st.integers(low, 70), "to")
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr("edge.journal.history._WINDOW", data.draw(st.sampled_from((1, 7, 100))))
        patch.setattr("edge.journal.history._KEPT_READINGS", data.draw(st.sampled_from((0, 10))))
        patch.setattr("edge.journal.history._TAIL_WINDOW", data.draw(st.sampled_from((1, 7, 100))))
        with WrittenJournal(Path(folder)) as journal:
            every = [one for one in write(journal, drawn, sealed) if low <= one[1] < high]
            with History(journal.path) as history:
                given_: list[tuple[str, int, int, str]] = []
                last: dict[str, int] = {}
                for chunk, below in history.since(low, high):
                    given_ += readings_of(chunk)
                    missing = [one[1] for one in every if one not in given_]
                    assert below <= min(missing, default=high)
                    assert chunk.seqs[0] > last.get(chunk.series.name, 0)
                    last[chunk.series.name] = chunk.seqs[-1]
                assert sorted(given_) == sorted(every)
                assert not every or below > every[-1][1]


def test_a_backlog_moves_on_though_many_series_were_sealed_side_by_side(
    journal: WrittenJournal,
) -> None:
    meters = [a_series(f"meter_{number}") for number in range(30)]
    for number, series in enumerate(meters):
        journal.add_block(
            series,
            [(1 + number + 30 * n, START_MS + n * 5000, {"power": 1.0}) for n in range(720)],
        )
    with History(journal.path) as history:
        places = []
        begin = 1
        while begin < 30 * 720 + 1:
            for _, below in history.since(begin, begin + 5000):
                begin = max(begin, below)
            places.append(begin)
    assert places == [5001, 10001, 15001, 20001, 21601]


def test_a_block_that_is_sealed_while_the_history_is_read_comes_once(
    journal: WrittenJournal,
) -> None:
    first, second = an_hour(0), an_hour(1, first_seq=13)
    journal.add_block(a_series(), first)
    journal.add_tail([(a_series(), row) for row in second])
    with History(journal.path) as history:
        chunks = history.raw("meter_1", *ALWAYS)
        seqs = list(next(chunks).seqs)
        journal.add_block(a_series(), second)
        assert seqs + seqs_of(chunks) == list(range(1, 25))
        assert seqs_of(history.raw("meter_1", *ALWAYS)) == list(range(1, 25))


def test_a_block_that_was_deleted_meanwhile_is_skipped(journal: WrittenJournal) -> None:
    journal.add_block(a_series(), an_hour(0))
    gone = journal.add_block(a_series(), an_hour(1, first_seq=13))
    journal.add_block(a_series(), an_hour(2, first_seq=25))
    with History(journal.path) as history:
        chunks = history.raw("meter_1", *ALWAYS)
        seqs = list(next(chunks).seqs)
        journal.database.execute("DELETE FROM block WHERE id = ?", (gone,))
        assert seqs + seqs_of(chunks) == [*range(1, 13), *range(25, 37)]
        assert history.damaged == 0


def test_a_slow_reader_holds_up_no_checkpoint(journal: WrittenJournal) -> None:
    for number in range(3):
        journal.add_block(a_series(), an_hour(number, first_seq=1 + 12 * number))
    with History(journal.path) as history:
        chunks = history.raw("meter_1", *ALWAYS)
        next(chunks)
        journal.add_rollup(a_rollup())
        busy, frames, moved = journal.database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert (busy, frames, moved) == (0, 0, 0)


def test_suspect_readings_and_eras_are_told(journal: WrittenJournal) -> None:
    journal.add_tail([(a_series(), (1, START_MS, {"power": 1.0}))], era=4, suspect=True)
    with History(journal.path) as history:
        (chunk,) = history.raw("meter_1", *ALWAYS)
        assert (chunk.era, list(chunk.suspect), chunk.series) == (4, [True], a_series())
        assert history.series() == [a_series()]


def test_readings_side_by_side_are_merged_quickly(journal: WrittenJournal) -> None:
    journal.add_block(a_series(), an_hour(0, 3600))
    other = [(seq + 3600, ms + 500, values) for seq, ms, values in an_hour(0, 3600)]
    journal.add_block(a_series(), other, era=2)
    with History(journal.path) as history:
        began_s = time.perf_counter()
        seqs = seqs_of(history.raw("meter_1", *ALWAYS))
        assert time.perf_counter() - began_s < 1
    assert seqs == [
        seq for pair in zip(range(1, 3601), range(3601, 7201), strict=True) for seq in pair
    ]


# --- Rollups -------------------------------------------------------------------------------------


def test_rollups_come_in_order_and_page_by_page(journal: WrittenJournal) -> None:
    hours = [a_rollup(START_MS + number * HOUR_MS, samples=number) for number in range(1200)]
    for hour in reversed(hours):
        journal.add_rollup(hour)
    journal.add_rollup(a_rollup(START_MS, Resolution.DAILY))
    journal.add_rollup(a_rollup(series=a_series("meter_2")))
    begin_ms, end_ms = START_MS, START_MS + 1100 * HOUR_MS
    with History(journal.path) as history:
        found = list(history.rollups("meter_1", Resolution.HOURLY, begin_ms, end_ms))
        assert found == hours[:1100]
        after_ms = hours[9].start_ms
        later = history.rollups("meter_1", Resolution.HOURLY, begin_ms, end_ms, after_ms)
        assert list(later) == hours[10:1100]
        (day,) = history.rollups("meter_1", Resolution.DAILY, *ALWAYS)
        assert day == a_rollup(START_MS, Resolution.DAILY)


def test_since_leaves_out_readings_whose_clock_was_never_set(journal: WrittenJournal) -> None:
    series = a_series()
    journal.add_era(1, trusted=False)
    journal.add_block(series, [(1, 1000, values_at(1)), (2, 2000, values_at(2))], era=1)
    journal.add_block(series, [(3, START_MS, values_at(3))], era=2)
    journal.add_tail([(series, (4, 3000, values_at(4)))], era=1)
    journal.add_tail([(series, (5, START_MS + 5, values_at(5)))], era=2)
    with History(journal.path) as history:
        assert [list(chunk.seqs) for chunk, _ in history.since(1, 6)] == [[3], [5]]
        assert sum(len(chunk) for chunk in history.raw(series.meter_id, 0, 2**53)) == 5


def test_rollups_since_a_change(journal: WrittenJournal) -> None:
    hours = [a_rollup(START_MS + number * HOUR_MS) for number in range(5)]
    for hour in hours:
        journal.add_rollup(hour)
    with History(journal.path) as history:
        assert history.rollups_since(0, 2) == [(1, hours[0]), (2, hours[1])]
        assert history.rollups_since(2, 100) == [(3, hours[2]), (4, hours[3]), (5, hours[4])]


# --- Damage --------------------------------------------------------------------------------------


def test_a_damaged_block_is_skipped_and_counted(journal: WrittenJournal) -> None:
    numbers = [
        journal.add_block(a_series(), an_hour(number, first_seq=1 + 12 * number))
        for number in range(3)
    ]
    journal.database.execute(
        "UPDATE block SET data = substr(data, 1, 20) || x'00' || substr(data, 22) WHERE id = ?",
        (numbers[1],),
    )
    expected = [*range(1, 13), *range(25, 37)]
    with History(journal.path) as history:
        assert seqs_of(history.raw("meter_1", *ALWAYS)) == expected
        assert history.damaged == 1
        assert [seq for chunk, _ in history.since(0, 100) for seq in chunk.seqs] == expected
        assert history.damaged == 2


def test_a_damaged_commit_is_skipped_and_counted(journal: WrittenJournal) -> None:
    journal.add_tail([(a_series(), row) for row in an_hour(0)])
    journal.add_tail([(a_series(), row) for row in an_hour(1, first_seq=13)])
    journal.database.execute("UPDATE tail SET payload = x'0102030405060708' WHERE seq = 1")
    with History(journal.path) as history:
        assert seqs_of(history.raw("meter_1", *ALWAYS)) == list(range(13, 25))
        assert history.damaged == 1


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("rollup", "mean_kw", "warm"),
        ("rollup", "max_kw", float("inf")),
        ("rollup", "energy_source", "guess"),
        ("rollup", "length_ms", 0),
        ("rollup", "length_ms", 2**60),
        ("rollup", "covered_ms", -1),
        ("rollup", "samples", "many"),
        ("series", "stale_after_ms", "long"),
        ("series", "counter_kwh", b"\x00"),
        ("series", "name", b"\xff"),
    ],
)
def test_a_rollup_that_cannot_be_is_skipped_and_counted(
    table: str, column: str, value: object, journal: WrittenJournal
) -> None:
    journal.add_rollup(a_rollup())
    journal.database.execute(f"UPDATE {table} SET {column} = ?", (value,))
    with History(journal.path) as history:
        assert list(history.rollups("meter_1", Resolution.HOURLY, *ALWAYS)) == []
        assert history.damaged >= 1


def test_a_database_that_is_none_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"no database, but long enough to look for its header" * 100)
    told: list[str] = []
    with History(path, told.append) as history, pytest.raises(JournalError, match="be read"):
        history.series()
    assert told == ["file is not a database"]


def test_no_database_is_a_journal_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be read"):
        History(tmp_path / "journal.db").series()


def test_nothing_can_be_written(journal: WrittenJournal) -> None:
    with History(journal.path) as history, pytest.raises(sqlite3.OperationalError):
        history._connection.execute("DELETE FROM series")


# --- Cost ----------------------------------------------------------------------------------------


def test_a_day_is_read_within_50_ms(journal: WrittenJournal) -> None:
    meters = [a_series(f"meter_{number}") for number in range(1, 11)]
    for hour in range(23):
        rows = an_hour(hour, 720, first_seq=1 + 720 * hour)
        journal.add_block(meters[0], rows)
    seq = 100_000
    for commit in range(360):
        batch = []
        for half in range(2):
            for series in meters:
                unix_ms = START_MS + 23 * HOUR_MS + (commit * 2 + half) * 5000
                batch.append((series, (seq, unix_ms, values_at(seq))))
                seq += 1
        journal.add_tail(batch)
    took_s = []
    with History(journal.path) as history:
        for _ in range(5):
            began_s = time.perf_counter()
            count = sum(map(len, history.raw("meter_1", START_MS, START_MS + DAY_MS)))
            took_s.append(time.perf_counter() - began_s)
            assert count == 17_280
    print(f"one day of one meter: {min(took_s) * 1000:.1f} ms")
    assert min(took_s) < 0.25  # 0.05 on a machine with nothing else to do


def test_memory_is_bounded_however_much_is_read(journal: WrittenJournal) -> None:
    for hour in range(40):
        journal.add_block(a_series(), an_hour(hour, 720, first_seq=1 + 720 * hour))
    with History(journal.path) as history:
        tracemalloc.start()
        try:
            assert sum(map(len, history.raw("meter_1", *ALWAYS))) == 28_800
            assert sum(len(chunk) for chunk, _ in history.since(0, 10**9)) == 28_800
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 10_000_000


def test_what_is_sent_again_is_decoded_once_and_takes_little_memory(
    journal: WrittenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many readings as are sealed at a time, of 24 meters side by side."""
    for number in range(24):
        seqs = range(1 + number, 1 + 24 * 500, 24)
        rows = [(seq, START_MS + 5000 * seq, values_at(seq)) for seq in seqs]
        journal.add_block(a_series(f"meter_{number}"), rows)
    decoded = Mock(wraps=decode_block)
    monkeypatch.setattr("edge.journal.rows.decode_block", decoded)
    with History(journal.path) as history:
        tracemalloc.start()
        try:
            assert sum(len(chunk) for chunk, _ in history.since(1, 12_001)) == 12_000
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert decoded.call_count == 24
    assert peak_bytes < 2_500_000


def test_no_block_is_kept_for_a_window_that_never_comes(journal: WrittenJournal) -> None:
    for number in range(24):
        seqs = range(1 + number, 1 + 24 * 500, 24)
        rows = [(seq, START_MS + 5000 * seq, values_at(seq)) for seq in seqs]
        journal.add_block(a_series(f"meter_{number}"), rows)
    with History(journal.path) as history:
        tracemalloc.start()
        try:
            given_ = history.since(1, 4_801)
            next(given_)
            held_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert held_bytes < 700_000, "two fifths of the readings, and no more"


# --- The call ------------------------------------------------------------------------------------

NOW_MS = START_MS + DAY_MS // 2


def shown_of(history: History, before_ms: int = 2**62) -> list[tuple[str, int, int, int | None]]:
    """When meter_1 was recorded as what, in minutes from START."""
    return [
        (
            one.series.meter_type,
            (one.from_ms - START_MS) // 60_000,
            (one.to_ms - START_MS) // 60_000,
            one.covered_ms,
        )
        for one in history.stretches(["meter_1"], before_ms)["meter_1"]
    ]


def minutes(first_seq: int, begin: int, end: int) -> list[tuple[int, int, dict[str, float]]]:
    return [
        (first_seq + number, START_MS + minute * 60_000, {"power": 1.0})
        for number, minute in enumerate(range(begin, end))
    ]


def test_of_a_meter_of_one_type_the_first_and_the_last_time_are_told(
    journal: WrittenJournal,
) -> None:
    for hour in range(4):
        journal.add_block(a_series(), minutes(1 + 60 * hour, 60 * hour, 60 * hour + 30))
    journal.add_tail([(a_series(), row) for row in minutes(1000, 240, 250)])
    journal.add_era(9, trusted=False)
    journal.add_block(a_series("meter_2"), minutes(1, -600, -590), era=9)
    with History(journal.path) as history:
        first = history.first("meter_1")
        assert first is not None
        assert (first.from_ms, first.to_ms) == (START_MS, START_MS + 29 * 60_000)
        told = shown_of(history)
        assert (told[0], told[-1]) == (("grid", 0, 29, None), ("grid", 240, 249, None))
        assert shown_of(history, START_MS + 100 * 60_000)[-1][1] == 60
        assert history.first("meter_2") is None  # its clock was never set
        assert history.stretches(["meter_2", "nobody"], 2**62) == {"meter_2": [], "nobody": []}


def test_where_a_type_changed_is_told_to_the_reading(journal: WrittenJournal) -> None:
    zone = a_series(meter_type="zone")
    for block in (minutes(1, 0, 20) + minutes(31, 30, 60), minutes(91, 60, 120)):
        journal.add_block(a_series(), block)
    journal.add_block(zone, minutes(21, 20, 30))
    tail = minutes(151, 120, 140)
    journal.add_tail([(a_series(), row) for row in tail[:5]] + [(zone, row) for row in tail[5:]])
    with History(journal.path) as history:
        assert shown_of(history) == [
            ("grid", 0, 19, None),
            ("zone", 20, 29, None),
            ("grid", 30, 59, None),
            ("grid", 60, 119, None),
            ("grid", 120, 124, None),
            ("zone", 125, 139, None),
        ]


def test_where_readings_are_gone_hours_and_days_tell(journal: WrittenJournal) -> None:
    zone = a_series(meter_type="zone")
    for series, day, covered_ms in ((zone, -3, 3_600_000), (a_series(), -2, 7_200_000)):
        journal.add_rollup(
            a_rollup(
                START_MS + day * 24 * HOUR_MS,
                Resolution.DAILY,
                series=series,
                covered_ms=covered_ms,
            )
        )
    for series, hour in ((a_series(), -2), (zone, -1), (a_series(), 0)):
        journal.add_rollup(a_rollup(START_MS + hour * HOUR_MS, series=series, covered_ms=60_000))
    journal.add_block(a_series(), minutes(1, 10, 60))
    with History(journal.path) as history:
        assert shown_of(history) == [
            ("zone", -3 * 1440, -2 * 1440, 3_600_000),
            ("grid", -2 * 1440, -1440, 7_200_000),
            ("grid", -120, -60, 60_000),
            ("zone", -60, 0, 60_000),
            ("grid", 10, 59, None),
        ]
        first = history.first("meter_1")
        assert first is not None
        assert (first.series, first.covered_ms) == (zone, 3_600_000)


def test_a_damaged_row_is_not_the_first(journal: WrittenJournal) -> None:
    journal.add_block(a_series(), minutes(1, 0, 10))
    journal.add_block(a_series(), minutes(11, 60, 70))
    journal.database.execute("UPDATE block SET to_ms = to_ms + 1 WHERE id = 1")
    with History(journal.path) as history:
        first = history.first("meter_1")
        assert first is not None
        assert first.from_ms == START_MS + HOUR_MS


class Site:
    """An API server that answers every path with the history of the meter it ends with."""

    def __init__(self, answers: HistoryAnswers, meters: Sequence[Meter] = ()) -> None:
        self._answers = answers
        self._meters = {meter.id: meter for meter in meters}
        self.server = ApiServer(self._handle, refusal, host="127.0.0.1", port=0)
        self.server.start()

    def _handle(self, request: Request) -> Response:
        meter_id = request.path[1:]
        try:
            return self._answers.answer(request, meter_id, self._meters.get(meter_id), NOW_MS)
        except RequestError as error:
            return refusal(error)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close(time.monotonic() + 5)

    @contextmanager
    def open(
        self, query: str = "", accept: str = "*/*", method: str = "GET", meter_id: str = "meter_1"
    ) -> Iterator[HTTPResponse]:
        """Ask and give the answer, whose body is still to be read."""
        with closing(HTTPConnection("127.0.0.1", self.server.port, timeout=10)) as connection:
            connection.request(method, f"/{meter_id}?{query}", headers={"Accept": accept})
            with connection.getresponse() as answer:
                yield answer

    def get(self, query: str = "", meter_id: str = "meter_1") -> tuple[int, Any]:
        with self.open(query, meter_id=meter_id) as answer:
            return answer.status, json.loads(answer.read())

    def csv(self, query: str = "") -> list[str]:
        with self.open(query, "text/csv") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/csv")
            return answer.read().decode().splitlines()


@pytest.fixture
def site(journal: WrittenJournal) -> Iterator[Site]:
    with Site(HistoryAnswers(Readers(journal.path))) as served:
        yield served


def test_a_page_of_readings(journal: WrittenJournal, site: Site) -> None:
    journal.add_tail([(a_series(), (7, START_MS + 5, {"power": 1.5, "powerL1": 0.5}))])
    journal.add_tail([(a_series(), (8, START_MS + 10, {"energy": 2.0}))], suspect=True)
    assert site.get() == (
        200,
        {
            "success": True,
            "data": [
                {
                    "timestamp": "2025-10-20T10:00:00.005Z",
                    "currentPower": 1.5,
                    "powerL1": 0.5,
                    "totalEnergy": None,
                    "voltage": None,
                    "current": None,
                    "powerFactor": None,
                    "frequency": None,
                    "quality": "good",
                },
                {
                    "timestamp": "2025-10-20T10:00:00.010Z",
                    "currentPower": None,
                    "powerL1": None,
                    "totalEnergy": 2.0,
                    "voltage": None,
                    "current": None,
                    "powerFactor": None,
                    "frequency": None,
                    "quality": "suspect",
                },
            ],
            "count": 2,
            "next": None,
        },
    )


def test_a_page_of_hours(journal: WrittenJournal, site: Site) -> None:
    journal.add_rollup(a_rollup())
    status, answer = site.get("resolution=hourly")
    assert (status, answer["count"], answer["next"]) == (200, 1, None)
    assert answer["data"] == [
        {
            "start": "2025-10-20T10:00:00.000Z",
            "end": "2025-10-20T11:00:00.000Z",
            "meanPower": 1.5,
            "minPower": -0.25,
            "maxPower": 3.0,
            "energy": 1.4,
            "energySource": "counter",
            "interpolatedEnergy": 0.1,
            "exportedEnergy": None,
            "samples": 720,
            "coverage": 0.9,
        }
    ]


@pytest.mark.parametrize("limit", [1, 7, 12, 35, 36, 37, 1001])
def test_pages_joined_are_the_whole(limit: int, journal: WrittenJournal, site: Site) -> None:
    for number in range(3):
        journal.add_block(a_series(), an_hour(number, first_seq=1 + 12 * number))
        journal.add_rollup(a_rollup(START_MS + number * HOUR_MS))
    for query, count in (("resolution=raw", 36), ("resolution=hourly", 3)):
        rows, cursor = [], ""
        while True:
            _, answer = site.get(f"{query}&limit={limit}&cursor={cursor}")
            assert answer["count"] == len(answer["data"]) <= limit
            rows += answer["data"]
            if answer["next"] is None:
                break
            cursor = answer["next"]
        _, whole = site.get(query)
        assert rows == whole["data"]
        assert len(rows) == count


def test_a_long_page_is_streamed_and_says_the_same(journal: WrittenJournal, site: Site) -> None:
    journal.add_block(a_series(), an_hour(0, 3000))
    with site.open("limit=2600") as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        page = json.loads(answer.read())
    assert (page["count"], len(page["data"])) == (2600, 2600)
    _, rest = site.get(f"limit=2600&cursor={page['next']}")
    assert (rest["count"], rest["next"]) == (400, None)


def test_csv_is_the_whole_without_being_asked(journal: WrittenJournal, site: Site) -> None:
    journal.add_block(a_series(), an_hour(0, 3600))
    assert site.csv(f"to={START_MS}") == [csvtable.header(Resolution.RAW)]
    header, *rows = site.csv()
    assert header == csvtable.header(Resolution.RAW)
    assert len(rows) == 3600
    assert len(site.csv("limit=2")) == 3
    journal.add_rollup(a_rollup())
    assert len(site.csv("resolution=hourly")) == 2


def test_head_sends_nothing_and_frees_its_turn(journal: WrittenJournal, site: Site) -> None:
    journal.add_block(a_series(), an_hour(0, 3600))
    for _ in range(STREAMS + 1):
        with site.open(accept="text/csv", method="HEAD") as answer:
            assert (answer.status, answer.read()) == (200, b"")
    with site.open(method="HEAD") as answer:
        assert int(answer.headers["Content-Length"]) > 1000


def test_a_span_is_what_the_query_says(journal: WrittenJournal, site: Site) -> None:
    journal.add_block(
        a_series(), [(1 + n, START_MS + n * 60_000, {"power": 1.0}) for n in range(60)]
    )

    def count(query: str) -> int:
        return int(site.get(query)[1]["count"])

    assert count("") == 60  # from a day before now
    assert count("from=2025-10-20T10:10:00Z&to=2025-10-20T10:20:00Z") == 10
    assert count("from=2025-10-20T12:10:00+02:00&to=2025-10-20T12:20:00%2B02:00") == 10
    assert count(f"from={START_MS}&to={START_MS + 1}") == 1
    assert count(f"to={START_MS}") == 0
    assert count("from=0") == 60
    assert count(f"from={START_MS}&to={START_MS}") == 0


def test_all_faults_of_a_query_at_once(site: Site) -> None:
    status, answer = site.get(
        "from=yesterday&to=1760954400&resolution=hour&limit=0&cursor=x&form=1"
    )
    assert (status, answer["code"]) == (400, "VALIDATION_ERROR")
    faults = {fault["field"]: fault["message"] for fault in answer["details"]}
    assert faults.keys() == {"from", "to", "resolution", "limit", "cursor", "form"}
    assert "milliseconds" in faults["to"]
    assert "did you mean 'hourly'?" in faults["resolution"]
    assert "10,000" in faults["limit"]
    assert "'format'" in faults["form"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=10001", "limit"),
        ("limit=1e3", "limit"),
        ("from=2025-10-20T10:00:00Z&to=2025-10-19T10:00:00Z", "from"),
        ("from=2025-10-20T10:00:00", "from"),
        ("from=2025-02-30T10:00:00Z", "from"),
        ("resolution=hourly&cursor=5-5", "cursor"),
        ("resolution=raw&cursor=5", "cursor"),
    ],
)
def test_a_faulty_query(query: str, field: str, site: Site) -> None:
    status, answer = site.get(query)
    assert status == 400
    assert [fault["field"] for fault in answer["details"]] == [field]


@given(st.text(max_size=30), st.sampled_from(("from", "to", "cursor", "limit", "resolution")))
def test_no_query_is_a_bug(text: str, key: str) -> None:
    request = Request("GET", "/", {key: text}, {}, b"")
    with suppress(RequestError):
        parse_query(request, NOW_MS)


def test_who_is_known(journal: WrittenJournal) -> None:
    journal.add_tail([(a_series("meter_gone"), (1, START_MS, {"power": 1.0}))])
    registered = a_meter(communication={"host": "h", "registers": {"power": 0, "powerL1": 2}})
    with Site(HistoryAnswers(Readers(journal.path)), [registered]) as site:
        assert site.get(meter_id="meter_gone")[1]["count"] == 1
        assert site.get(meter_id=registered.id)[1]["count"] == 0
        status, answer = site.get(meter_id="meter_never")
        assert (status, answer["code"]) == (404, "METER_NOT_FOUND")
        with site.open(meter_id="meter_never", accept="text/csv") as refused:
            assert refused.status == 404


@pytest.mark.parametrize(
    ("query", "accept", "as_csv"),
    [
        ({"format": "csv"}, "*/*", True),
        ({"format": "json"}, "text/csv", False),
        ({}, "text/csv", True),
        ({}, "application/json", False),
    ],
)
def test_a_link_can_ask_for_csv(query: dict[str, str], accept: str, as_csv: bool) -> None:
    request = Request("GET", "/", query, {"accept": accept}, b"")
    assert parse_query(request, 0).as_csv is as_csv


@pytest.mark.parametrize("accept", ["text/csv", "application/json"])
def test_no_journal_is_told(accept: str, tmp_path: Path) -> None:
    for path in (None, tmp_path / "journal.db"):
        with Site(HistoryAnswers(Readers(path))) as site, site.open(accept=accept) as answer:
            failure = json.loads(answer.read())
            assert (answer.status, failure["code"]) == (503, "JOURNAL_UNAVAILABLE")
            assert failure["error"].endswith(".")


@pytest.mark.parametrize(
    ("meter_id", "query", "name"),
    [
        ("meter_1", "", "meter_1-raw.csv"),
        ("meter_1", "resolution=daily&limit=5", "meter_1-daily.csv"),
        ('a"; x=\r\nSet-Cookie: b/..\\ä', "", "a___x___Set-Cookie__b_____-raw.csv"),
        ("long" * 100, "", "long" * 25 + "-raw.csv"),
    ],
)
def test_csv_is_a_file_with_a_name(
    meter_id: str, query: str, name: str, journal: WrittenJournal
) -> None:
    journal.number_of(a_series(meter_id))
    asked = dict(part.split("=") for part in query.split("&") if part)
    request = Request("GET", "/", {**asked, "format": "csv"}, {}, b"")
    answers = HistoryAnswers(Readers(journal.path))
    response = answers.answer(request, meter_id, None, NOW_MS)
    assert response.headers == (("Content-Disposition", f'attachment; filename="{name}"'),)
    assert response.stream is not None
    response.stream.close()
    for plainly in ({"format": "json"}, {"limit": "5000"}):
        plain = answers.answer(Request("GET", "/", plainly, {}, b""), meter_id, None, NOW_MS)
        assert plain.headers == ()
        if plain.stream is not None:
            plain.stream.close()


def test_only_a_few_are_served_at_a_time(journal: WrittenJournal) -> None:
    journal.add_block(a_series(), an_hour(0, 3600))
    answers = HistoryAnswers(Readers(journal.path))
    request = Request("GET", "/", {}, {"accept": "text/csv"}, b"")
    open_ = [answers.answer(request, "meter_1", None, NOW_MS) for _ in range(STREAMS)]
    with pytest.raises(RequestError) as raised:
        answers.answer(request, "meter_1", None, NOW_MS)
    assert raised.value.status == 503
    assert ("Retry-After", "5") in raised.value.headers
    for response in open_:
        assert response.stream is not None
        response.stream.close()
    last = answers.answer(request, "meter_1", None, NOW_MS)
    assert last.stream is not None
    assert sum(piece.count(b"\r\n") for piece in last.stream) == 3601
    last.stream.close()


def test_what_is_damaged_is_left_out_and_logged_once(
    journal: WrittenJournal, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    journal.add_tail([(a_series(), row) for row in an_hour(0)])
    number = journal.add_block(a_series(), [(0, START_MS - 60_000, {"power": 1.0})])
    journal.database.execute("UPDATE block SET data = x'00' WHERE id = ?", (number,))
    for _ in range(3):
        assert site.get()[1]["count"] == 12
    assert caplog.text.count("1 damaged parts") == 1, "not again for each who asks"


def test_a_long_answer_never_holds_the_interpreter_for_long(journal: WrittenJournal) -> None:
    for hour in range(48):
        journal.add_block(a_series(), an_hour(hour, 720, first_seq=1 + 720 * hour))
    lateness_s = []
    done = threading.Event()

    def tick() -> None:
        due_s = time.monotonic()
        while not done.is_set():
            due_s = max(due_s + 0.01, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
            lateness_s.append(time.monotonic() - due_s)

    with Site(HistoryAnswers(Readers(journal.path))) as site:
        ticking = threading.Thread(target=tick)
        ticking.start()
        rows = site.csv(f"from=0&to={NOW_MS * 2}")
        done.set()
        ticking.join()
    assert len(rows) == 48 * 720 + 1
    lateness_s.sort()
    median_s = lateness_s[len(lateness_s) // 2]
    print(f"late by {median_s * 1000:.1f} ms, at most {lateness_s[-1] * 1000:.1f} ms")
    assert median_s < 0.02


# --- Steps ---------------------------------------------------------------------------------------


def test_readings_reduced_to_steps(journal: WrittenJournal, site: Site) -> None:
    journal.add_block(
        a_series(),
        [(1 + n, START_MS + n * 5000, {"power": float(n % 12)}) for n in range(24)],  # 2 minutes
    )
    journal.add_tail([(a_series(), (25, START_MS + 300_000, {"power": -1.0}))])
    status, answer = site.get(f"from={START_MS}&to={START_MS + 600_000}&step=60")
    assert (status, answer["count"], answer["next"]) == (200, 4, None)
    assert answer["data"][0] == {
        "start": "2025-10-20T10:00:00.000Z",
        "end": "2025-10-20T10:01:00.000Z",
        "meanPower": 5.5,
        "minPower": 0.0,
        "maxPower": 11.0,
        "samples": 12,
    }
    # What was read last holds for 10 s more, and a gap has no row.
    assert [(row["start"][14:19], row["meanPower"]) for row in answer["data"]] == [
        ("00:00", 5.5),
        ("01:00", 5.5),
        ("02:00", 11.0),
        ("05:00", -1.0),
    ]
    assert answer["data"][2]["samples"] == 0


def test_what_was_read_before_the_first_step_holds_in_it(
    journal: WrittenJournal, site: Site
) -> None:
    journal.add_tail([(a_series(), (1, START_MS - 4000, {"power": 3.0}))])
    _, answer = site.get(f"from={START_MS}&to={START_MS + 600_000}&step=10")
    assert [(row["meanPower"], row["samples"]) for row in answer["data"]] == [(3.0, 0)]


@pytest.mark.parametrize("limit", [1, 7, 60, 1001])
def test_pages_of_steps_joined_are_the_whole(
    limit: int, journal: WrittenJournal, site: Site
) -> None:
    journal.add_block(a_series(), an_hour(0, 720))
    query = f"from={START_MS}&to={START_MS + HOUR_MS}&step=60"
    rows, cursor = [], ""
    while True:
        _, answer = site.get(f"{query}&limit={limit}&cursor={cursor}")
        assert answer["count"] == len(answer["data"]) <= limit
        rows += answer["data"]
        if answer["next"] is None:
            break
        cursor = answer["next"]
    assert rows == site.get(query)[1]["data"]
    assert [row["samples"] for row in rows] == [12] * 60


@pytest.mark.parametrize(
    ("query", "accept", "field"),
    [
        ("step=9", "*/*", "step"),
        ("step=86401", "*/*", "step"),
        ("step=60&resolution=hourly", "*/*", "step"),
        ("step=60", "text/csv", "step"),
        ("step=60&cursor=5-5", "*/*", "cursor"),
        (f"step=60&from={START_MS - 40 * DAY_MS}&to={START_MS}", "*/*", "from"),
    ],
)
def test_a_faulty_step(query: str, accept: str, field: str, site: Site) -> None:
    with site.open(query, accept) as answer:
        failure = json.loads(answer.read())
        assert answer.status == 400
        assert [fault["field"] for fault in failure["details"]] == [field]
