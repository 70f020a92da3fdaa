"""How fast a backlog goes to a real influxd, and how late new readings are there meanwhile.

The process under test is a journal with an uplink. It is told to begin by a line of JSON, and
answers with what it saw: when the backlog was gone, and for each live reading how long it took from
being taken, and from being committed, until influxd had acknowledged it.

    floor    posts batches that were formatted and compressed before, one after another
"""

from __future__ import annotations

import gzip
import http.client
import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timezone
from pathlib import Path
from typing import Any

from edge.clock import Clock
from edge.journal import Journal
from edge.journal.history import History
from edge.journal.schema import FILE_NAME
from edge.lineprotocol import points_of_chunk
from edge.record import Resolution
from edge.settings import InfluxConfig, JournalConfig
from edge.sinks import Rejected
from edge.sinks.influx import InfluxSink
from edge.uplink import Uplink
from tools.bench.figure import Figure, quantile
from tools.bench.influx import DATABASE, Influx
from tools.bench.journals import SITE, fill
from tools.bench.process import HOST, Bench, BenchError, Child, wait_for
from tools.bench.readings import HOUR_MS, METERS, PER_HOUR, Site

_WANTED_RATE = 15_000
_WANTED_DELAY_S = 2.0
_FLOOR_DATABASE = "floor"
_FLOOR_READINGS = 200_000
_BATCH = 5000
_PERIOD_S = 1.0
_GIVEN_UP_S = 300.0


class DrainChild(Child):
    """A process of this module, ready to be told to begin."""

    def __init__(self, bench: Bench, kind: str, folder: Path, port: int) -> None:
        super().__init__(bench, ["-m", __name__, kind])
        self.say({"folder": str(folder), "port": port})
        self.hear()


def drain(bench: Bench) -> list[Figure]:
    """A backlog drained into a real influxd while new readings come."""
    hours_count = bench.pick(1_000_000, 200_000) // (METERS * PER_HOUR)
    folder = bench.folder / f"drain-{time.monotonic_ns()}"
    folder.mkdir()
    end_ms = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    count = fill(folder, METERS, hours_count, end_ms)
    with Influx(bench) as influx:
        influx.create(_FLOOR_DATABASE)
        with DrainChild(bench, "floor", folder, influx.port) as floor:
            floor.say("begin")
            floor_rate: float = floor.hear()
        with DrainChild(bench, "uplink", folder, influx.port) as child:
            cpu_s, influx_cpu_s = child.cpu_s(), influx.child.cpu_s()
            child.say("begin")
            seen: dict[str, Any] = child.hear()
            cpu_us = (child.cpu_s() - cpu_s) / count * 1e6
            influx_cpu_us = (influx.child.cpu_s() - influx_cpu_s) / count * 1e6
        wanted = count + seen["live"]
        wait_for(lambda: influx.count() == wanted, 10, f"all {wanted} readings in influxd")
    rate = count / seen["took_s"]
    taken_s, committed_s = seen["after_taken_s"], seen["after_committed_s"]
    if not committed_s:
        raise BenchError("no live reading reached influxd")
    return [
        Figure(
            f"backlog of {count:,} readings drained into influxd 1.6, none missing afterwards",
            f"{rate:,.0f} readings/s; CPU {cpu_us:.0f} µs each, influxd's {influx_cpu_us:.0f} µs",
            f"prepared and compressed batches posted one after another {floor_rate:,.0f}/s",
            f"≥ {_WANTED_RATE:,}/s",
            rate >= _WANTED_RATE,
            rate / floor_rate,
        ),
        Figure(
            f"live readings meanwhile, {METERS} meters at 1 s (commit_interval_s = 1): from being "
            "committed until influxd has them",
            f"median {quantile(committed_s, 0.5):.2f} s, longest {max(committed_s):.2f} s; from "
            f"being taken {quantile(taken_s, 0.5):.2f} s, longest {max(taken_s):.2f} s",
            "",
            f"never more than {_WANTED_DELAY_S:.0f} s",
            max(committed_s) <= _WANTED_DELAY_S,
        ),
    ]


# --- The processes themselves --------------------------------------------------------------------


class _Watched(InfluxSink):
    """A sink that notes when which readings were acknowledged: unix ms → monotonic s."""

    def __init__(self, port: int) -> None:
        config = InfluxConfig(url=f"http://{HOST}:{port}", database=DATABASE)
        super().__init__("influx", config, JournalConfig(), Clock())
        self.from_ms = 0
        self.acknowledged: dict[int, float] = {}

    def send(self, points: Sequence[bytes], resolution: Resolution) -> list[Rejected]:
        rejected = super().send(points, resolution)
        now_s = time.monotonic()
        if resolution is Resolution.RAW and _unix_ms(points[-1]) >= self.from_ms:
            for point in points:
                self.acknowledged.setdefault(_unix_ms(point), now_s)
        return rejected


def _unix_ms(point: bytes) -> int:
    return int(point.rpartition(b" ")[2])


class _Commits:
    """When which sequence number was committed, monotonic s."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.seen: list[tuple[int, float]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        seq = 0
        while True:
            now = self._journal.wait(seq + 1, 1.0)
            if now > seq:
                seq = now
                self.seen.append((seq, time.monotonic()))

    def at_s(self, seq: int) -> float:
        """When it was."""
        return next(at_s for last_seq, at_s in self.seen if last_seq >= seq)


def _uplink(folder: str, port: int) -> None:
    clock = Clock()
    settings = JournalConfig(commit_interval_s=1.0, clock_wait_s=0.0)
    journal = Journal(Path(folder), settings, SITE, timezone.utc, clock)
    sink = _Watched(port)
    site = Site(METERS, clock)
    uplink = Uplink("influx", sink, journal, clock)
    journal.open()
    backlog = journal.place("influx").live - 1
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    begin_s = time.monotonic()
    sink.from_ms = clock.unix_ms()
    commits = _Commits(journal)
    uplink.start()
    taken: list[tuple[int, float]] = []
    while journal.place("influx").gaps and time.monotonic() < begin_s + _GIVEN_UP_S:
        result = site.poll()[len(taken) % METERS]
        assert result.reading is not None
        taken.append((result.reading.unix_ms, time.monotonic()))
        journal.put([result])
        _wait_until(begin_s + _PERIOD_S / METERS * len(taken))
    took_s = time.monotonic() - begin_s
    last_ms = taken[-1][0]
    while last_ms not in sink.acknowledged and time.monotonic() < begin_s + _GIVEN_UP_S:
        time.sleep(0.05)
    uplink.stop(5)
    first_seq = backlog + 1
    known = [(number, at) for number, at in enumerate(taken) if at[0] in sink.acknowledged]
    print(
        json.dumps(
            {
                "took_s": took_s,
                "live": len(taken),
                "after_taken_s": [sink.acknowledged[ms] - at_s for _, (ms, at_s) in known],
                "after_committed_s": [
                    sink.acknowledged[ms] - commits.at_s(first_seq + number)
                    for number, (ms, _) in known
                ],
                "error": uplink.state.last_error,
            }
        ),
        flush=True,
    )
    journal.close(5)


def _wait_until(mono_s: float) -> None:
    time.sleep(max(0.0, mono_s - time.monotonic()))


def _floor(folder: str, port: int) -> None:
    with History(Path(folder) / FILE_NAME) as history:
        points = [
            point
            for chunk, _ in history.since(1, _FLOOR_READINGS)
            for point in points_of_chunk(chunk)
        ]
    bodies = [
        gzip.compress(b"\n".join(points[start : start + _BATCH]), compresslevel=1)
        for start in range(0, len(points), _BATCH)
    ]
    count = len(points)
    points.clear()
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    begin_s = time.monotonic()
    for body in bodies:
        path = f"/write?db={_FLOOR_DATABASE}&precision=ms"
        connection.request("POST", path, body, {"Content-Encoding": "gzip"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 204:
            raise OSError(f"influxd answered {answer.status}")
    print(json.dumps(count / (time.monotonic() - begin_s)), flush=True)


if __name__ == "__main__":
    settings_given = json.loads(sys.stdin.readline())
    with suppress(KeyboardInterrupt):
        {"uplink": _uplink, "floor": _floor}[sys.argv[1]](**settings_given)
