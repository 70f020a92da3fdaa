"""How many requests a poll of each Modbus model of the device library takes.

The fewest possible are searched for apart from how the service packs: where blocks may begin and
end is tried, within what the template allows. Pure but for reading the library.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from edge.communication import ModbusCommunication, ReadRequest, Register
from edge.drivers.modbus import ILLEGAL_ADDRESS, Ask, discover
from edge.drivers.modbus.reader import ModbusReader
from edge.errors import Refused
from edge.library import Library
from edge.meterspec import References, parse_meter
from edge.simulate.template import ModbusDevice
from edge.template import Template
from tools.bench.figure import Figure
from tools.bench.process import HOST, Bench


class Span(NamedTuple):
    """Where a value is: its first address, and one past its last."""

    start: int
    stop: int


@dataclass(frozen=True)
class _Count:
    """Requests of one poll: as the service asks, the fewest possible, each value on its own."""

    name: str
    asked: int
    fewest: int
    alone: int


def requests(bench: Bench) -> list[Figure]:
    """Requests per poll of every Modbus template, beside the fewest that its limits allow."""
    library = Library()
    counts = [
        _count(library, template) for template in library.values() if template.protocol == "modbus"
    ]
    total = _Count(
        f"all {len(counts)} Modbus templates together",
        sum(count.asked for count in counts),
        sum(count.fewest for count in counts),
        sum(count.alone for count in counts),
    )
    return [_figure(count) for count in (*counts, total)]


def fewest(spans: Collection[Span], max_registers: int, max_gap: int) -> int:
    """The least number of blocks that hold every value whole.

    max_registers: words of a block. max_gap: words in a row that are of no value. The value that
    begins first is in some block, which may as well begin with it; each end of that block that is
    allowed is tried, and what ends beyond it remains.
    """
    wanted = {address for span in spans for address in range(*span)}

    def readable(start: int, stop: int) -> bool:
        gap = 0
        for address in range(start, stop):
            gap = 0 if address in wanted else gap + 1
            if gap > max_gap:
                return False
        return stop - start <= max_registers

    @cache
    def blocks_beyond(stop: int) -> int:
        left = [span for span in spans if span.stop > stop]
        if not left:
            return 0
        start = min(span.start for span in left)
        stops = {span.stop for span in left if readable(start, span.stop)}
        return 1 + min(map(blocks_beyond, stops))

    return blocks_beyond(0)


def _count(library: Library, template: Template) -> _Count:
    communication = _communication(library, template)
    registers: Sequence[Register] = communication.registers
    expected: dict[int, int] = {}
    if communication.sunspec is not None:
        found = discover(_simulated(template), communication.unit_id, communication.sunspec)
        registers, expected = found.registers, dict(found.check)
    reader = ModbusReader(communication, registers, expected)
    words = {(r.function, r.exponent) for r in registers if r.exponent is not None}
    words |= {(3, address) for address in expected}
    spans: dict[int, set[Span]] = {}
    for register in registers:
        spans.setdefault(register.function, set()).add(Span(register.start, register.stop))
    for function, address in words:
        spans.setdefault(function, set()).add(Span(address, address + 1))
    longest, gap = communication.max_registers_per_request, communication.max_gap
    return _Count(
        f"{template.name}: {len(registers)} quantities, blocks ≤ {longest}, gaps ≤ {gap}",
        asked=len(reader.requests),
        fewest=sum(fewest(some, longest, gap) for some in spans.values()),
        alone=sum(map(len, spans.values())),
    )


def _communication(library: Library, template: Template) -> ModbusCommunication:
    needed = {
        name: parameter.example
        for name, parameter in template.parameters.items()
        if parameter.default is None
    }
    document = {
        "name": template.name,
        "protocol": template.protocol,
        "meterType": "zone",
        "communication": {"template": template.name, "host": HOST, **needed},
    }
    communication = parse_meter(document, "meter_1", 0, References(library)).communication
    assert isinstance(communication, ModbusCommunication)
    return communication


def _simulated(template: Template) -> Ask:
    """Ask the simulated device of a SunSpec template for what it is."""
    holding, _ = ModbusDevice(template).constants(unit_id=1)

    def ask(request: ReadRequest) -> Sequence[int]:
        addresses = range(request.address, request.address + request.count)
        if not holding.keys() >= set(addresses):
            raise Refused(ILLEGAL_ADDRESS, "There is no such register.")
        return [holding[address] for address in addresses]

    return ask


def _figure(count: _Count) -> Figure:
    return Figure(
        count.name,
        f"{count.asked} per poll",
        f"{count.fewest} at least; {count.alone} with each value on its own",
        "the fewest possible",
        count.asked == count.fewest,
        count.asked / count.fewest,
    )
