"""How long after a fault has ended a meter is live again."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from tools.bench.figure import Figure
from tools.bench.floors import PollingFloor
from tools.bench.peers import Line, Peers
from tools.bench.process import Bench, BenchError, wait_for
from tools.bench.service import Service

_PERIOD_S = 1.0
_UNITS = 10
_LONGEST_REST_S = 60
_LOOK_EVERY_S = 0.05


@dataclass
class _Fault:
    """A fault on one line of the service, and the same one on a line of the floor.

    first: index of the line's first meter in the service's list. heal_mono_s, healed_mono_s: when
    it shall end, and when it did. back_s: for each meter that failed, how long after that it was
    seen to be live.
    """

    kind: str
    line: Line
    floor_line: Line
    units: tuple[int, ...]
    first: int
    heal_after_s: float
    healed_mono_s: float = 0.0
    floor_healed_mono_s: float = 0.0
    back_s: dict[int, float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return len(self.back_s) == len(self.units)


def recovery(bench: Bench) -> list[Figure]:
    """Time from a peer's return to a live value in REST; own and shared lines, all at once."""
    chance = random.Random(1)
    own_after_s = [chance.uniform(4, bench.pick(30, 8)) for _ in range(bench.pick(10, 5))]
    shared_after_s = [chance.uniform(4, bench.pick(20, 8)) for _ in range(3)]
    if not bench.quick:  # by then its rest has grown to the longest
        shared_after_s += [chance.uniform(70, 74) for _ in range(3)]
    with ExitStack() as stack:
        peers = stack.enter_context(Peers(bench))
        faults: list[_Fault] = []
        for kind, units, broken, after_s in (
            ("own line, refused", 1, 1, own_after_s),
            ("own line, silent", 1, 1, own_after_s),
            ("shared line, refused", _UNITS, _UNITS, shared_after_s),
            ("shared line, 1 of 10 silent", _UNITS, 1, shared_after_s),
            ("shared line, all 10 silent", _UNITS, _UNITS, shared_after_s),
        ):
            lines, floor_lines = (peers.add(len(after_s), units) for _ in range(2))
            for line, floor_line, heal_after_s in zip(lines, floor_lines, after_s, strict=True):
                first = faults[-1].first + len(faults[-1].line.units) if faults else 0
                failing = line.units[-broken:]
                faults.append(_Fault(kind, line, floor_line, failing, first, heal_after_s))
        service = stack.enter_context(Service(bench, [fault.line for fault in faults]))
        floor_lines = [fault.floor_line for fault in faults]
        stack.enter_context(PollingFloor(bench, "pymodbus", floor_lines))
        wait_for(service.all_online, 20, "reading all meters")
        _break_and_heal(peers, service, faults)
        floors_s = {
            kind: [back for f in faults if f.kind == kind for back in _floor_back_s(peers, f)]
            for kind in _kinds(faults)
        }
    return [
        _figure(kind, [fault for fault in faults if fault.kind == kind], floors_s[kind])
        for kind in _kinds(faults)
    ]


def _break_and_heal(peers: Peers, service: Service, faults: list[_Fault]) -> None:
    for fault in faults:
        for line in (fault.line, fault.floor_line):
            if "refused" in fault.kind:
                peers.refuse(line)
            else:
                peers.silence(line, fault.units)
    broken_mono_s = time.monotonic()
    last_s = max(fault.heal_after_s for fault in faults)
    while not all(fault.over for fault in faults):
        now_s = time.monotonic() - broken_mono_s
        if now_s > last_s + 2 * _LONGEST_REST_S:
            return
        for fault in faults:
            if not fault.healed_mono_s and now_s >= fault.heal_after_s:
                _heal(peers, service, fault)
        _note_who_is_back(service, faults)
        time.sleep(_LOOK_EVERY_S)


def _heal(peers: Peers, service: Service, fault: _Fault) -> None:
    meters = service.meters()
    if any(meters[fault.first + unit - 1]["status"] == "online" for unit in fault.units):
        raise BenchError(f"{fault.kind}: a meter is online {fault.heal_after_s:.0f} s into a fault")
    fault.floor_healed_mono_s = peers.heal(fault.floor_line)
    fault.healed_mono_s = peers.heal(fault.line)


def _note_who_is_back(service: Service, faults: Iterable[_Fault]) -> None:
    meters, seen_mono_s = service.meters(), time.monotonic()
    for fault in faults:
        if not fault.healed_mono_s:
            continue
        for unit in fault.units:
            if unit not in fault.back_s and meters[fault.first + unit - 1]["status"] == "online":
                fault.back_s[unit] = seen_mono_s - fault.healed_mono_s


def _floor_back_s(peers: Peers, fault: _Fault) -> list[float]:
    """When the floor's next request came, which was answered."""
    healed_s, now_s = fault.floor_healed_mono_s, time.monotonic()
    arrivals = peers.arrivals([fault.floor_line], healed_s, now_s)
    times = (arrivals[fault.floor_line.port, unit] for unit in fault.units)
    return [some[0] - healed_s if some else now_s - healed_s for some in times]


def _kinds(faults: list[_Fault]) -> list[str]:
    return list(dict.fromkeys(fault.kind for fault in faults))


def _figure(kind: str, faults: list[_Fault], floor_s: list[float]) -> Figure:
    within_s = 3 if kind.startswith("own") else _PERIOD_S + _LONGEST_REST_S
    back_s = sorted(back for fault in faults for back in fault.back_s.values())
    missing = sum(len(fault.units) - len(fault.back_s) for fault in faults)
    measured = "none came back"
    if back_s:
        measured = f"median {back_s[len(back_s) // 2]:.2f} s, worst {back_s[-1]:.2f} s"
    if back_s and missing:
        measured += f"; {missing} never came back"
    fault_s = (
        f"{min(f.heal_after_s for f in faults):.0f} to {max(f.heal_after_s for f in faults):.0f} s"
    )
    floor_s = sorted(floor_s)
    return Figure(
        f"a fault of {fault_s} ends ({kind}): until live in REST, {len(faults)} lines",
        measured,
        f"pymodbus loop's next request median {floor_s[len(floor_s) // 2]:.2f} s, "
        f"worst {floor_s[-1]:.2f} s",
        f"≤ {within_s:.0f} s",
        not missing and bool(back_s) and back_s[-1] <= within_s,
    )
