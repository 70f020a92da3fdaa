"""The meters: simulated in a process of their own, and told over its standard input what to do.

A command is a line of JSON, {"do": NAME, …}, and so is its answer.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from edge.simulate import Fault, FaultKind, Simulator, TcpEndpoint
from tools.bench.process import Bench, Child

REGISTERS = {
    "power": 20480,
    "energy": 20482,
    "energyHigh": 20483,
    "voltage": 20484,
    "current": 20486,
    "powerFactor": 20488,
    "frequency": 20490,
    "powerScale": 1,
    "energyScale": 0.001,
    "voltageScale": 0.1,
    "currentScale": 0.001,
    "powerFactorScale": 0.001,
    "frequencyScale": 0.01,
}
"""The user's guide, ABB B23: 11 registers in one request."""
FIRST_ADDRESS, COUNT = 20480, 11

_VALUES = {
    "power": 7,
    "energy": 12_345.678,
    "voltage": 230.1,
    "current": 10.2,
    "powerFactor": 0.98,
    "frequency": 50.01,
}
_RECORDED_REQUESTS = 100_000


@dataclass(frozen=True)
class Line:
    """A port with the units behind it."""

    port: int
    units: tuple[int, ...]


Arrivals = dict[tuple[int, int], list[float]]
"""Port and unit id → when its requests came, monotonic s, in order."""


class Peers:
    """The simulated meters' process, from the start of a `with` block to its end."""

    def __init__(self, bench: Bench, cores: Collection[int] = ()) -> None:
        self._bench = bench
        self._cores = cores
        self._stack = ExitStack()

    def __enter__(self) -> Peers:
        self._child = self._stack.enter_context(Child(self._bench, ["-m", __name__]))
        self._child.pin(self._cores)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, lines: int, units: int = 1) -> list[Line]:
        """Open ports with so many meters behind each."""
        ports = self._do("add", lines=lines, units=units)
        return [Line(port, tuple(range(1, units + 1))) for port in ports]

    def refuse(self, line: Line) -> None:
        """Stop listening and close what is open."""
        self._do("refuse", port=line.port)

    def silence(self, line: Line, units: Sequence[int] = ()) -> None:
        """Let these units answer no more; none named: all."""
        self._do("silence", port=line.port, units=list(units or line.units))

    def heal(self, line: Line) -> float:
        """End the line's faults; gives the monotonic time when it was done, s."""
        healed_mono_s: float = self._do("heal", port=line.port)
        return healed_mono_s

    def arrivals(self, lines: Sequence[Line], from_mono_s: float, to_mono_s: float) -> Arrivals:
        """When requests came, for every unit of the lines, also those that got none."""
        ports = [line.port for line in lines]
        times = self._do("arrivals", ports=ports, from_mono_s=from_mono_s, to_mono_s=to_mono_s)
        found: Arrivals = {(line.port, unit): [] for line in lines for unit in line.units}
        for port, unit, mono_s in times:
            found[port, unit].append(mono_s)
        return found

    def cpu_s(self) -> float:
        """Processor time of the peers so far."""
        return self._child.cpu_s()

    def _do(self, name: str, **arguments: Any) -> Any:
        self._child.say({"do": name, **arguments})
        return self._child.hear()


# --- The process itself --------------------------------------------------------------------------


def _add(simulator: Simulator, lines: int, units: int) -> list[int]:
    ports = []
    for _ in range(lines):
        endpoint = simulator.add_tcp(record=_RECORDED_REQUESTS)
        for unit in range(1, units + 1):
            # A B23 answers the registers between those wanted, too.
            endpoint.add_unit(unit, strict=False).set_values(_VALUES, {"registers": REGISTERS})
        ports.append(endpoint.port)
    return ports


def _arrivals(
    endpoints: dict[int, TcpEndpoint], ports: list[int], from_mono_s: float, to_mono_s: float
) -> list[tuple[int, int, float]]:
    return [
        (port, seen.unit_id, seen.mono_s)
        for port in ports
        for seen in list(endpoints[port].seen)
        if from_mono_s <= seen.mono_s < to_mono_s
    ]


def _perform(simulator: Simulator, command: dict[str, Any]) -> Any:
    name = command.pop("do")
    if name == "add":
        return _add(simulator, **command)
    endpoints = {e.port: e for e in simulator.endpoints if isinstance(e, TcpEndpoint)}
    if name == "arrivals":
        return _arrivals(endpoints, **command)
    endpoint = endpoints[command["port"]]
    if name == "refuse":
        endpoint.set_fault(Fault(FaultKind.REFUSE))
    elif name == "silence":
        for unit in command["units"]:
            endpoint.units[unit].set_fault(Fault(FaultKind.SILENT))
    elif name == "heal":
        endpoint.heal()
    return time.monotonic()


if __name__ == "__main__":
    with Simulator() as running:
        for line in sys.stdin:
            print(json.dumps(_perform(running, json.loads(line))), flush=True)
