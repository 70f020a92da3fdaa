"""What the service costs: processor time, memory, and the wait for its start."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

from tools.bench.figure import Figure
from tools.bench.floors import PollingFloor
from tools.bench.peers import Line, Peers
from tools.bench.process import Bench, Child, wait_for
from tools.bench.service import Service

METERS = 50
_SETTLE_S = 3


def cost(bench: Bench) -> list[Figure]:
    """CPU and memory with 50 meters at 1 s, beside bare loops that run at the same time."""
    with ExitStack() as stack:
        peers = stack.enter_context(Peers(bench))
        own, *others = (peers.add(METERS) for _ in range(4))
        floors = [
            stack.enter_context(PollingFloor(bench, kind, lines, at_once=at_once))
            for lines, (kind, at_once) in zip(
                others, [("pymodbus", False), ("pymodbus", True), ("raw", False)], strict=True
            )
        ]
        service = stack.enter_context(Service(bench, own))
        wait_for(service.all_online, 10, "reading all meters")
        time.sleep(_SETTLE_S)
        children = [service.child, *floors]
        from_s, before_s = time.monotonic(), [child.cpu_s() for child in children]
        time.sleep(service.child.started_mono_s + bench.pick(300, 30) - from_s)
        to_s, after_s = time.monotonic(), [child.cpu_s() for child in children]
        memory = [child.memory() for child in children]
        reads = [
            sum(map(len, peers.arrivals(lines, from_s, to_s).values())) for lines in (own, *others)
        ]
    window_s = to_s - from_s
    cpu = [
        (after - before) / window_s * 100 for before, after in zip(before_s, after_s, strict=True)
    ]
    return [
        Figure(
            f"CPU, {METERS} meters at 1 s, over {window_s:.0f} s",
            f"{cpu[0]:.2f} % of a core, {reads[0] / window_s:.1f} reads/s",
            f"pymodbus loop, spread like ours: {cpu[1]:.2f} %, {reads[1] / window_s:.1f} reads/s "
            f"(all at once: {cpu[2]:.2f} %); raw sockets, spread: {cpu[3]:.2f} %",
            "≤ 1.5 × the pymodbus loop",
            cpu[0] <= 1.5 * cpu[1],
            cpu[0] / cpu[1],
        ),
        Figure(
            f"memory, {METERS} meters, {to_s - service.child.started_mono_s:.0f} s after start",
            f"{memory[0].pss:.1f} MB PSS ({memory[0].rss:.1f} RSS)",
            f"pymodbus loop {memory[1].pss:.1f} MB ({memory[1].rss:.1f} RSS), "
            f"raw sockets {memory[3].pss:.1f} MB ({memory[3].rss:.1f})",
            "≤ 40 MB PSS",
            memory[0].pss <= 40,
            memory[0].pss / memory[1].pss,
        ),
    ]


def start(bench: Bench) -> list[Figure]:
    """Process start to the first reading in REST."""
    with Peers(bench) as peers:
        lines = peers.add(METERS)
        _start(bench, lines)  # compiles the byte code, which an installation has
        starts = [_start(bench, lines) for _ in range(bench.pick(11, 5))]
    note = f"; all {METERS} meters {statistics.median(all_s for _, all_s in starts):.2f} s"
    return [start_figure(bench, "process start", [first_s for first_s, _ in starts], note)]


def start_figure(bench: Bench, name: str, starts_s: Sequence[float], note: str = "") -> Figure:
    """Judge how long after its process's start, s, a service showed its first reading."""
    first_s = statistics.median(starts_s)
    imports_s = statistics.median(_import_s(bench) for _ in starts_s)
    return Figure(
        f"{name} to first reading in REST, median of {len(starts_s)}",
        f"{first_s:.2f} s, worst {max(starts_s):.2f} s{note}",
        f"python -c 'import pymodbus.client' {imports_s:.2f} s",
        "≤ 0.8 s",
        first_s <= 0.8,
        first_s / imports_s,
    )


def first_reading_s(service: Service) -> float:
    """Wait until a service has read a meter; how long that is after its process's start."""
    while not service.online():
        time.sleep(0.005)
    return time.monotonic() - service.child.started_mono_s


def _start(bench: Bench, lines: list[Line]) -> tuple[float, float]:
    """Start a service; after how long one meter, and all of them, were online."""
    with Service(bench, lines) as service:
        first_s = first_reading_s(service)
        while not service.all_online():
            time.sleep(0.005)
        return first_s, time.monotonic() - service.child.started_mono_s


def _import_s(bench: Bench) -> float:
    with Child(bench, ["-c", "import pymodbus.client"]) as child:
        child.wait()
        return time.monotonic() - child.started_mono_s
