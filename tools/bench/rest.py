"""How fast the REST API answers, and what that does to the cycle."""

from __future__ import annotations

import re
import shutil
import subprocess

from tools.bench.cost import METERS
from tools.bench.figure import Figure, bucket_quantile
from tools.bench.floors import HttpFloor
from tools.bench.peers import Peers
from tools.bench.process import Bench, BenchError, wait_for
from tools.bench.service import Service

_PATH = "/api/energy-meters"
_WANTED_LATENESS_S = 0.025


def rest(bench: Bench) -> list[Figure]:
    """GET /api/energy-meters with 50 meters while polling, by wrk on 4 connections."""
    if shutil.which("wrk") is None:
        raise BenchError("wrk is missing; run: sudo apt-get install wrk")
    with Peers(bench) as peers, Service(bench, peers.add(METERS)) as service:
        wait_for(service.all_online, 10, "reading all meters")
        body = service.get(_PATH)
        with HttpFloor(bench, body) as floor:
            floor_rate, floor_p99 = _wrk(floor.port, bench.pick(8, 4))
        before = service.late_ticks()
        rate, p99 = _wrk(service.port, bench.pick(30, 6))
        after = service.late_ticks()
    counts = {le: after[le] - before[le] for le in after}
    ticks = counts[float("inf")]
    p99_s = bucket_quantile(counts, 0.99)
    in_time = counts[_WANTED_LATENESS_S] / ticks
    return [
        Figure(
            f"GET {_PATH}, {METERS} meters, {len(body) / 1000:.0f} kB, wrk on 4 connections",
            f"{rate:.0f} requests/s, p99 {p99}",
            f"http.server from memory {floor_rate:.0f} requests/s, p99 {floor_p99}",
            "≥ 1,500 requests/s",
            rate >= 1500,
            rate / floor_rate,
        ),
        Figure(
            f"schedule lateness meanwhile, {ticks:.0f} ticks",
            f"p99 ≤ {p99_s * 1000:g} ms; {in_time:.1%} within {_WANTED_LATENESS_S * 1000:g} ms",
            "",
            f"p99 ≤ {_WANTED_LATENESS_S * 1000:g} ms",
            in_time >= 0.99,
        ),
    ]


def _wrk(port: int, duration_s: int) -> tuple[float, str]:
    """Requests per second, and the latency that 99 % of them stayed below."""
    said = subprocess.run(
        ["wrk", "-t1", "-c4", f"-d{duration_s}s", "--latency", f"http://127.0.0.1:{port}{_PATH}"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    p99 = re.search(r"99%\s+(\S+)", said)
    if rate is None or p99 is None or "Non-2xx" in said or "Socket errors" in said:
        raise BenchError(f"wrk said: {' '.join(said.split())}")
    return float(rate[1]), p99[1]
