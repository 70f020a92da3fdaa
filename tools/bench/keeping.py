"""What it costs to keep what is read, and how fast it is given back.

The files are on the disk that the temporary folder is on; where that is memory, what is written to
flash cannot be measured. Time is turned by hand where the real one would take hours.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

from edge.journal.schema import FILE_NAME
from tools.bench.cost import METERS as SERVICE_METERS
from tools.bench.figure import Figure, bucket_quantile
from tools.bench.influx import Influx
from tools.bench.journals import APPEND_METERS, PERIOD_S, JournalChild, Recorder, fill
from tools.bench.peers import Peers
from tools.bench.process import HOST, Bench, BenchError, Child, wait_for
from tools.bench.readings import FIELDS, FROM_MS, HOUR_MS, METERS, PER_HOUR, hours, meter_id
from tools.bench.sealed import lines
from tools.bench.service import Service

_HOUR_S, _DAY_HOURS = 3600, 24
_WANTED_RATE = 20_000
_WANTED_MORE_MB, _FLAT_MB = 15.0, 2.0
_WANTED_DAY_MB = 60.0
_WANTED_DAY_S = 0.05
_COMMIT_S = 10
_OS_PAGE_BYTES = 4096
_WANTED_LATENESS_S = 0.025
_CHUNK_BYTES = 64 * 1024
_LOOK_S = 0.5


def append(bench: Bench) -> list[Figure]:
    """Readings per second through the journal until they are committed, and its memory."""
    at_a_time, times = 100_000, bench.pick(10, 3)
    with (
        JournalChild(bench, "append", _folder(bench, "append")) as child,
        JournalChild(bench, "bare", _folder(bench, "bare")) as bare,
        JournalChild(bench, "plain", _folder(bench, "plain")) as plain,
    ):
        took_s, memory_mb, cpu_s = [], [], child.cpu_s()
        for _ in range(times):
            took_s.append(child.do(count=at_a_time))
            bare.do(count=at_a_time)
            memory_mb.append(child.memory().pss)
        cpu_us = (child.cpu_s() - cpu_s) / (times * at_a_time) * 1e6
        bare_mb = bare.memory().pss
        plain_rate = at_a_time / median(plain.do(count=at_a_time) for _ in range(3))
    count, rate = at_a_time * times, at_a_time * times / sum(took_s)
    early_mb, late_mb = memory_mb[1], memory_mb[-1]
    return [
        Figure(
            f"{count:,} readings of {APPEND_METERS} meters with {len(FIELDS)} quantities until "
            "committed, with sealing and rollups",
            f"{rate:,.0f}/s, slowest {at_a_time:,}: {at_a_time / max(took_s):,.0f}/s; "
            f"CPU {cpu_us:.0f} µs each",
            f"sqlite3's executemany of plain rows {plain_rate:,.0f}/s",
            f"≥ {_WANTED_RATE:,}/s",
            rate >= _WANTED_RATE,
            rate / plain_rate,
        ),
        Figure(
            f"memory after {count:,} readings",
            f"{late_mb:.1f} MB PSS",
            f"{bare_mb:.1f} MB: the same loop without a journal",
            f"≤ {_WANTED_MORE_MB:.0f} MB more",
            late_mb - bare_mb <= _WANTED_MORE_MB,
            late_mb / bare_mb,
        ),
        Figure(
            f"memory after {2 * at_a_time:,} and after {count:,} readings",
            f"{early_mb:.1f} and {late_mb:.1f} MB PSS",
            "",
            f"flat: ≤ {_FLAT_MB:.0f} MB more",
            late_mb - early_mb <= _FLAT_MB,
        ),
    ]


def flash(bench: Bench) -> list[Figure]:
    """MB written to the disk per day by the journal, 10 meters at 5 s, beside influxd."""
    hours_count = bench.pick(4, 1)
    first_s = _HOUR_S + 10 * 60
    """Until the first hour was sealed; from there on whole hours are counted."""
    with JournalChild(bench, "flash", _folder(bench, "flash"), from_ms=FROM_MS) as child:
        child.do(duration_s=first_s)
        before = _written_bytes(child)
        child.do(duration_s=hours_count * _HOUR_S)
        ours = _day_mb(_written_bytes(child) - before, hours_count)
    with Influx(bench) as influx:
        before = _written_bytes(influx.child)
        for batch in _as_committed(bench.pick(2, 1)):
            influx.write(batch)
        influx.compacted_bytes()
        theirs = _day_mb(_written_bytes(influx.child) - before, bench.pick(2, 1))
    if not ours:
        raise BenchError("nothing was written to a disk; set TMPDIR to a folder on one")
    least = _day_mb(_HOUR_S // _COMMIT_S * _OS_PAGE_BYTES, 1)
    return [
        Figure(
            f"written to the disk per day, {METERS} meters at {PERIOD_S} s, a commit each "
            f"{_COMMIT_S} s, a sink's place each minute; {hours_count} h by hand-turned time",
            f"{ours:.1f} MB",
            f"{least:.1f} MB: one page of the system per commit; influxd with the same batches "
            f"{theirs:.1f} MB",
            f"≤ {_WANTED_DAY_MB:.0f} MB",
            ours <= _WANTED_DAY_MB,
            ours / least,
        )
    ]


def day(bench: Bench) -> list[Figure]:
    """A day of a meter from raw history: in the process, as CSV and as a JSON page."""
    times = bench.pick(101, 21)
    now_ms = time.time_ns() // 1_000_000
    end_ms = now_ms // HOUR_MS * HOUR_MS
    from_ms = end_ms - _DAY_HOURS * HOUR_MS
    folder = _folder(bench, "day")
    fill(folder, METERS, _DAY_HOURS - 1, end_ms - HOUR_MS)
    recorder = Recorder(folder, METERS, end_ms - HOUR_MS)
    recorder.run(_HOUR_S)
    recorder.close()
    with JournalChild(bench, "day", folder) as child:
        took_s, worst_s, count = child.do(from_ms=from_ms, to_ms=end_ms, times=times)
    plain_folder = _folder(bench, "select")
    with JournalChild(bench, "select", plain_folder, count=METERS * _DAY_HOURS * PER_HOUR) as plain:
        plain_s, _, _ = plain.do(times=times)
    query = f"/api/energy-meters/{meter_id(3)}/history?from={from_ms}&to={end_ms}"
    with Service(bench, (), journal=folder / FILE_NAME) as service:
        wait_for(lambda: _ask(service, query + "&limit=1")[0] < 1, 30, "opening the journal")
        csv_s, csv_bytes = _median(lambda: _ask(service, query, "text/csv"), bench.pick(21, 5))
        page_s, _ = _median(lambda: _ask(service, f"{query}&limit=1000"), bench.pick(21, 5))
    return [
        Figure(
            f"a day of one meter ({count:,} readings) of {METERS}, the last hour not sealed, "
            f"median of {times}",
            f"{took_s * 1000:.0f} ms, worst {worst_s * 1000:.0f} ms; over REST as CSV "
            f"({csv_bytes / 1e6:.1f} MB) {csv_s * 1000:.0f} ms, a JSON page of 1000 "
            f"{page_s * 1000:.0f} ms",
            f"sqlite3's select from a plain table with an index {plain_s * 1000:.0f} ms",
            f"≤ {_WANTED_DAY_S * 1000:.0f} ms",
            took_s <= _WANTED_DAY_S,
            took_s / plain_s,
        )
    ]


def history(bench: Bench) -> list[Figure]:
    """All raw readings of a meter as CSV from the running service, and the cycle meanwhile."""
    days = bench.pick(89, 9)
    end_ms = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    folder = _folder(bench, "history")
    count = fill(folder, 1, days * _DAY_HOURS, end_ms)
    with JournalChild(bench, "csv", folder, count=_DAY_HOURS * PER_HOUR) as plain:
        plain_s, plain_bytes = plain.do()
    query = f"/api/energy-meters/{meter_id(0)}/history?from={end_ms - days * _DAY_HOURS * HOUR_MS}"
    query += f"&to={end_ms}"
    with (
        Peers(bench) as peers,
        Service(bench, peers.add(SERVICE_METERS), journal=folder / FILE_NAME) as service,
    ):
        wait_for(service.all_online, 30, "reading all meters")
        begin = service.late_ticks()
        time.sleep(bench.pick(15, 5))
        quiet = service.late_ticks()
        before_mb = service.child.memory().pss
        took_s, size, most_mb = _download(service, query)
        during = service.late_ticks()
    quiet_s = bucket_quantile({le: quiet[le] - begin[le] for le in quiet}, 0.99)
    busy_s = bucket_quantile({le: during[le] - quiet[le] for le in quiet}, 0.99)
    rate, plain_rate = size / took_s, plain_bytes / plain_s
    return [
        Figure(
            f"{days} days of a meter's raw history as CSV, {count:,} readings, {size / 1e6:.0f} MB,"
            f" from a service that polls {SERVICE_METERS} meters",
            f"{rate / 1e6:.2f} MB/s, {count / took_s:,.0f} readings/s, {took_s:.1f} s",
            f"sqlite3 and the csv module, a plain table into a file {plain_rate / 1e6:.2f} MB/s",
            "",
            None,
            rate / plain_rate,
        ),
        Figure(
            "the service's memory meanwhile",
            f"at most {most_mb:.1f} MB PSS",
            f"{before_mb:.1f} MB before",
            f"flat: ≤ {_FLAT_MB:.0f} MB more",
            most_mb - before_mb <= _FLAT_MB,
        ),
        Figure(
            "schedule lateness meanwhile",
            f"p99 ≤ {busy_s * 1000:g} ms",
            f"p99 ≤ {quiet_s * 1000:g} ms without",
            f"p99 ≤ {_WANTED_LATENESS_S * 1000:g} ms",
            busy_s <= _WANTED_LATENESS_S,
        ),
    ]


def _folder(bench: Bench, name: str) -> Path:
    folder = bench.folder / f"{name}-{time.monotonic_ns()}"
    folder.mkdir()
    return folder


def _written_bytes(child: Child) -> int:
    """What all its threads made the system write to disks, in pages of the system."""
    text = Path(f"/proc/{child.pid}/io").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if "write_bytes" in line)


def _day_mb(size: int, hours_count: int) -> float:
    return size / hours_count * _DAY_HOURS / 1e6


def _as_committed(hours_count: int) -> Iterator[list[str]]:
    """Give the points of all meters in batches as large as the journal's commits."""
    for hour in hours(hours_count):
        points = (
            line.replace("meter_id=meter_1", f"meter_id={meter_id(number)}")
            for line in lines(hour)
            for number in range(METERS)
        )
        while batch := list(islice(points, METERS * _COMMIT_S // PERIOD_S)):
            yield batch


def _ask(service: Service, path: str, accept: str = "application/json") -> tuple[float, int]:
    """Ask over a new connection; after how long the last byte came, s, and how many did."""
    begin_s = time.monotonic()
    connection = http.client.HTTPConnection(HOST, service.port, timeout=60)
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    size = len(answer.read())
    connection.close()
    took_s = time.monotonic() - begin_s
    return (took_s, size) if answer.status == 200 else (float("inf"), 0)


def _median(ask: Callable[[], tuple[float, int]], times: int) -> tuple[float, int]:
    answers = [ask() for _ in range(times)]
    return median(took_s for took_s, _ in answers), answers[-1][1]


def _download(service: Service, path: str) -> tuple[float, int, float]:
    """Fetch a CSV; how long it took, s, its bytes, and the service's largest memory, MB."""
    connection = http.client.HTTPConnection(HOST, service.port, timeout=60)
    begin_s = look_s = time.monotonic()
    connection.request("GET", path, headers={"Accept": "text/csv"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise BenchError(f"the service answered {path} with {answer.status}")
    size, most_mb = 0, 0.0
    while part := answer.read(_CHUNK_BYTES):
        size += len(part)
        if time.monotonic() - look_s > _LOOK_S:
            look_s = time.monotonic()
            most_mb = max(most_mb, service.child.memory().pss)
    connection.close()
    return time.monotonic() - begin_s, size, max(most_mb, service.child.memory().pss)
