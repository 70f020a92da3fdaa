"""How many meters one service can read on time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import sub

from tools.bench.figure import Figure, Slots, deviations_s, quantile, slots, total
from tools.bench.floors import PollingFloor
from tools.bench.peers import Line, Peers
from tools.bench.process import Bench, BenchError, Child, wait_for
from tools.bench.service import Service

_BEHIND_A_GATEWAY = 10
_WANTED, _MOST_TRIED = 2000, 8000
_STEP = 500
_ALL_READ_WITHIN_S = 15.0
_SETTLE_PERIODS = 2
"""After it was read once, a meter takes up its regular period within two."""
_ON_TIME = 0.999
"""Share of polls that makes a number of meters "read on time"; the machine has other work, too."""


@dataclass(frozen=True)
class _Outcome:
    """How so many meters were read. off_s: p99 of how much an interval is off the period."""

    meters: int
    read: Slots
    off_s: float
    cpu: float
    memory_mb: float

    @property
    def on_time(self) -> bool:
        return self.read.share >= _ON_TIME

    def __str__(self) -> str:
        return (
            f"{self.read.share:.2%} on time, period off by p99 {self.off_s * 1000:.0f} ms, "
            f"CPU {self.cpu:.0f} %, {self.memory_mb:.0f} MB PSS"
        )


def most_on_own_lines(bench: Bench) -> list[Figure]:
    """Most meters read on time at 1 s, each on a line of its own."""
    return [_most(bench, 1, "own lines")]


def most_behind_gateways(bench: Bench) -> list[Figure]:
    """Most meters read on time at 1 s, 10 behind each gateway."""
    return [_most(bench, _BEHIND_A_GATEWAY, f"{_BEHIND_A_GATEWAY} behind each gateway")]


def five_hundred(bench: Bench) -> list[Figure]:
    """500 meters at 5 s on 50 lines."""
    period_s = 5.0
    with ExitStack() as stack:
        peers = stack.enter_context(Peers(bench))
        lines, floor_lines = (peers.add(50, 10) for _ in range(2))
        floor = stack.enter_context(PollingFloor(bench, "pymodbus", floor_lines, period_s))
        service = stack.enter_context(Service(bench, lines, period_s))
        wait_for(service.all_online, _ALL_READ_WITHIN_S + period_s, "reading all meters once")
        watched = [(service.child, lines), (floor, floor_lines)]
        ours, floors = _watch(peers, watched, period_s, float(bench.pick(30, 10)))
    return [
        Figure(
            f"{ours.meters} meters at {period_s:.0f} s on {len(lines)} lines",
            f"{ours.read.wanted - ours.read.met} of {ours.read.wanted} polls late; {ours}",
            f"pymodbus loop: {floors}",
            "all on time",
            ours.read.met == ours.read.wanted,
        )
    ]


def _most(bench: Bench, units: int, where: str) -> Figure:
    """Search by growing steps, then between the last two; a quick run tries the goal alone."""
    duration_s = float(bench.pick(8, 5))
    step, most_tried = bench.pick(_STEP, _WANTED), bench.pick(_MOST_TRIED, _WANTED)
    good: _Outcome | None = None
    beyond = "nothing"
    low, high, tried = 0, most_tried + step, _WANTED
    while high - low > step:
        try:
            outcome = _try(bench, tried // units, units, duration_s)
        except BenchError as error:
            high, beyond = tried, f"{tried}: {error}"
        else:
            if outcome.on_time:
                low, good = tried, outcome
            else:
                high, beyond = tried, f"{tried}: {outcome}"
        growing = high > most_tried
        tried = min(2 * tried, most_tried) if growing else (low + high) // 2
        tried -= tried % _BEHIND_A_GATEWAY
    with Peers(bench) as peers:
        lines = peers.add(max(low, _WANTED) // units, units)
        with PollingFloor(bench, "pymodbus", lines) as floor_loop:
            (floor,) = _watch(peers, [(floor_loop, lines)], 1.0, duration_s)
    return Figure(
        f"most meters at 1 s, {where}",
        f"{low} ({good}); beyond: {beyond}",
        f"pymodbus loop with {floor.meters}: {floor}",
        f"≥ {_WANTED:,}",
        low >= _WANTED,
    )


def _try(bench: Bench, lines_count: int, units: int, duration_s: float) -> _Outcome:
    with Peers(bench) as peers:
        lines = peers.add(lines_count, units)
        with Service(bench, lines) as service:
            wait_for(service.all_online, _ALL_READ_WITHIN_S, "reading all meters once")
            (outcome,) = _watch(peers, [(service.child, lines)], 1.0, duration_s)
    return outcome


def _watch(
    peers: Peers,
    watched: Sequence[tuple[Child, Sequence[Line]]],
    period_s: float,
    duration_s: float,
) -> list[_Outcome]:
    """Let them take up their regular period, then watch who reads which lines for duration_s."""
    time.sleep(_SETTLE_PERIODS * period_s)
    from_s, before_s = time.monotonic(), [child.cpu_s() for child, _ in watched]
    time.sleep(duration_s)
    to_s, after_s = time.monotonic(), [child.cpu_s() for child, _ in watched]
    outcomes = []
    for (child, lines), cpu_s in zip(watched, map(sub, after_s, before_s), strict=True):
        arrivals = peers.arrivals(lines, from_s, to_s)
        off_s = [off for times in arrivals.values() for off in deviations_s(times, period_s)]
        outcomes.append(
            _Outcome(
                meters=len(arrivals),
                read=total(slots(times, from_s, to_s, period_s) for times in arrivals.values()),
                off_s=quantile(off_s, 0.99) if off_s else float("inf"),
                cpu=cpu_s / (to_s - from_s) * 100,
                memory_mb=child.memory().pss,
            )
        )
    return outcomes
