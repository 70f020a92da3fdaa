"""Whether healthy meters keep their period while others fail; judged where the requests arrive."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tools.bench.figure import Figure, deviations_s, quantile, slots, total
from tools.bench.floors import PollingFloor
from tools.bench.peers import Arrivals, Peers
from tools.bench.process import Bench, BenchError, wait_for
from tools.bench.service import Service

_PERIOD_S = 1.0
_METERS, _REFUSING, _SILENT = 50, 5, 5
_GATEWAYS, _UNITS, _SILENT_UNITS = 4, 10, 2
_SETTLE_S = 3


def periods(bench: Bench) -> list[Figure]:
    """Healthy meters' period while 5 of 50 refuse and 5 accept but never answer."""
    with ExitStack() as stack:
        peers = stack.enter_context(Peers(bench))
        lines, floor_lines = (peers.add(_METERS) for _ in range(2))
        stack.enter_context(PollingFloor(bench, "pymodbus", floor_lines))
        service = stack.enter_context(Service(bench, lines))
        wait_for(service.all_online, 10, "reading all meters")
        time.sleep(_SETTLE_S)
        for some in (lines, floor_lines):
            for line in some[:_REFUSING]:
                peers.refuse(line)
            for line in some[_REFUSING : _REFUSING + _SILENT]:
                peers.silence(line)
        from_s = time.monotonic()
        time.sleep(bench.pick(60, 12))
        to_s = time.monotonic()
        ours, floors = (
            _Periods(peers.arrivals(some[_REFUSING + _SILENT :], from_s, to_s), from_s, to_s)
            for some in (lines, floor_lines)
        )
    return [
        Figure(
            f"period of {_METERS - _REFUSING - _SILENT} healthy meters while {_REFUSING} refuse "
            f"and {_SILENT} are silent",
            f"off by {ours}",
            f"pymodbus loop {floors}",
            "p99 ≤ 5 ms, worst ≤ 50 ms, none lost",
            ours.p99_s <= 0.005 and ours.worst_s <= 0.05 and ours.read.met == ours.read.wanted,
        )
    ]


class _Periods:
    """By how much the intervals between the polls of some meters are off, and polls met."""

    def __init__(self, arrivals: Arrivals, from_s: float, to_s: float) -> None:
        off_s = [off for times in arrivals.values() for off in deviations_s(times, _PERIOD_S)]
        if not off_s:
            raise BenchError("no healthy meter was read twice")
        self.p99_s, self.worst_s = quantile(off_s, 0.99), max(off_s)
        self.read = total(slots(times, from_s, to_s, _PERIOD_S) for times in arrivals.values())

    def __str__(self) -> str:
        return (
            f"p99 {self.p99_s * 1000:.1f} ms, worst {self.worst_s * 1000:.1f} ms; "
            f"{self.read.wanted - self.read.met} of {self.read.wanted} polls lost"
        )


def shared_line(bench: Bench) -> list[Figure]:
    """Live units' polls on time on lines with 8 live and 2 silent units, 1 s time-out."""
    duration_s, steady_s = bench.pick(120, 20), bench.pick(60, 8)
    with ExitStack() as stack:
        peers = stack.enter_context(Peers(bench))
        lines = peers.add(_GATEWAYS, _UNITS)
        floor_lines = peers.add(_GATEWAYS, _UNITS)
        for line in lines + floor_lines:
            # Not the first in the order of registration, and not side by side.
            peers.silence(line, line.units[2 :: _UNITS // _SILENT_UNITS])
        stack.enter_context(PollingFloor(bench, "pymodbus", floor_lines))
        service = stack.enter_context(Service(bench, lines))
        wait_for(lambda: service.online() > 0, 10, "the first reading")
        from_s = time.monotonic()
        time.sleep(duration_s)
        to_s = time.monotonic()
        ours, floors = (peers.arrivals(some, from_s, to_s) for some in (lines, floor_lines))
    whole, floor_whole = (_live_share(some, from_s, to_s) for some in (ours, floors))
    steady, floor_steady = (_live_share(some, to_s - steady_s, to_s) for some in (ours, floors))
    return [
        Figure(
            f"polls on time of {_UNITS - _SILENT_UNITS} live units beside {_SILENT_UNITS} silent "
            f"ones ({_GATEWAYS} such lines), {when}",
            f"{share:.1%}",
            f"pymodbus loop {floor_share:.1%}",
            "≥ 95 %",
            share >= 0.95,
        )
        for when, share, floor_share in (
            (f"first {duration_s} s", whole, floor_whole),
            (f"last {steady_s} s of them", steady, floor_steady),
        )
    ]


def _live_share(arrivals: Arrivals, from_s: float, to_s: float) -> float:
    silent = range(3, _UNITS + 1, _UNITS // _SILENT_UNITS)
    return total(
        slots([t for t in times if from_s <= t < to_s], from_s, to_s, _PERIOD_S)
        for (_, unit), times in arrivals.items()
        if unit not in silent
    ).share
