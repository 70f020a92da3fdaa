"""Modbus over TCP, over a serial line (RTU), and RTU frames over TCP.

    framing   which bytes are the answer: the one module that touches pymodbus
    wire      bytes over a TCP connection or a serial port
    reader    a meter's requests, and what its replies come to (pure)
    questions what a probe asks, and what is answered
    probe     what is wrong with a meter, or with the way to it
    scan      which units there are on a line

Sources: MODBUS Application Protocol V1.1b3, sections 6.3, 6.4 and 7.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from edge.clock import Clock
from edge.communication import ModbusCommunication, ModbusEndpoint, ReadRequest
from edge.drivers.modbus.framing import Framing, RtuFraming, TcpFraming, asked
from edge.drivers.modbus.reader import ModbusReader
from edge.drivers.modbus.wire import SerialWire, TcpWire, Wire
from edge.errors import BadReply, Cause, MeterError, Refused
from edge.model import Meter, Outcome, Probe
from edge.reach import ANYWHERE, Reach
from edge.sunspec import Discovery

ILLEGAL_ADDRESS = 2
"""Modbus exception code for a register that the device does not have."""
BLOCK_EXCEPTIONS = frozenset({1, ILLEGAL_ADDRESS, 3})
"""Exception codes that speak of the block asked for; the others speak of the whole device."""

_EXCEPTIONS = {
    1: "illegal function; try the other registerType (holding or input)",
    2: "illegal data address; check the register addresses in the meter's manual",
    3: "illegal data value; lower maxRegistersPerRequest",
    4: "server device failure; restart the meter if it stays",
    5: "acknowledge: it is still working on it; raise pollInterval",
    6: "server device busy; raise pollInterval",
    8: "memory parity error; have the meter checked",
    10: "gateway path unavailable; check the gateway's settings",
    11: "the gateway is there but the device behind it is silent; check unitId, wiring and power",
}
_CAUSES = {
    1: Cause.ILLEGAL_FUNCTION,
    2: Cause.ILLEGAL_ADDRESS,
    10: Cause.WRONG_UNIT_ID,
    11: Cause.WRONG_UNIT_ID,
}


Ask = Callable[[ReadRequest], Sequence[int]]
"""Reads one block and raises what `ModbusDriver.read` does; sees to it that the line is open."""


@dataclass
class _Answers:
    """What one attempt to read a meter brought.

    mono_s, unix_ms: when the first block that was answered was asked for. error: why one is
    missing.
    """

    replies: list[tuple[ReadRequest, Sequence[int]]] = field(default_factory=list)
    mono_s: float = 0.0
    unix_ms: int = 0
    error: MeterError | None = None


class ModbusDriver:
    """Reads the meters of one endpoint; see `Driver`. Line thread only.

    reach: which addresses it may connect to.
    """

    def __init__(self, endpoint: ModbusEndpoint, clock: Clock, reach: Reach = ANYWHERE) -> None:
        self.reach = reach
        self._clock = clock
        self._wire: Wire = (
            SerialWire(endpoint) if endpoint.transport == "rtu" else TcpWire(endpoint, reach)
        )
        framing = TcpFraming if endpoint.transport == "tcp" else RtuFraming
        self._framing: Framing = framing(self._wire)
        self._readers: dict[Meter, ModbusReader] = {}
        self._last_request_mono_s = 0.0
        self._just_looked = False
        """The line looked at the wire just before `poll`; each look is a system call."""
        self.opened = 0

    @property
    def connected(self) -> bool:
        """Whether the wire is open; see `Line.connected`."""
        return self._wire.is_open

    def open(self, timeout_s: float) -> None:
        """Open the wire; see `Line.open`."""
        if not self._wire.is_open:
            self._wire.open(timeout_s)
            self.opened += 1

    def close(self) -> None:
        """Close the wire; see `Line.close`."""
        self._wire.close()

    def poll(self, meter: Meter, *, trial: bool) -> Outcome:
        """Read a meter; see `Driver.poll`."""
        communication = _communication(meter)
        ask = partial(self._read_block, communication)
        self._just_looked = communication.request_delay_s <= 0
        return self.poll_by(ask, meter, 0 if trial else communication.retries)

    def poll_by(self, ask: Ask, meter: Meter, retries: int) -> Outcome:
        """Read a meter by `ask`; otherwise as `poll`."""
        answers = _Answers()
        try:
            reader = self._reader_of(meter, ask)
            answers = self._read_blocks(reader, ask, retries)
            values, raw = reader.decode(answers.replies)
        except MeterError as exc:
            self._readers.pop(meter, None)
            return Outcome(error=exc)
        if not values and answers.error is None:
            answers.error = BadReply(
                f"{meter.name} answers, but gives no value for any quantity; check the register "
                "addresses and types.",
                Cause.NO_VALUE,
            )
        return Outcome(values, answers.mono_s, answers.unix_ms, raw, answers.error)

    def probe(self, meter: Meter) -> Probe:
        """Question a meter thoroughly; see `Driver.probe`."""
        from edge.drivers.modbus.probe import probe  # which itself needs this module

        # What was learnt of the meter is learnt anew, to be shown.
        self._readers.pop(meter, None)
        try:
            return probe(self, meter, self._clock)
        finally:
            self._readers.pop(meter, None)

    def forget(self, meters: Collection[Meter]) -> None:
        """Drop what was learnt of other meters; see `Driver.forget`."""
        self._readers = {meter: self._readers[meter] for meter in meters if meter in self._readers}

    def read(self, request: ReadRequest, timeout_s: float) -> Sequence[int]:
        """Read one block over the open wire: request.count words, 0..65535, in wire order.

        timeout_s: how long the device may take to answer, once it was asked. Before that the call
        may block for 0.5 s until the wire is quiet, and where an earlier request's late reply
        could be mistaken for this one's, until twice that request's timeout_s is over.
        Raises NoReply, BadReply, Refused (the meter's fault) or LineError (the wire's). The wire
        may be closed afterwards; `connected` tells.
        """
        try:
            pdu = self._framing.ask(request, timeout_s)
        finally:
            self._last_request_mono_s = self._clock.mono_s()
        if pdu[0] & 0x80:
            code = pdu[1]
            meaning = _EXCEPTIONS.get(code, "a code that the standard does not know")
            message = f"{asked(request)} was refused with Modbus exception {code}: {meaning}."
            raise Refused(code, message, _CAUSES.get(code))
        return struct.unpack(f">{request.count}H", pdu[2:])

    def make_ready(self, request_delay_s: float, timeout_s: float) -> None:
        """Wait until request_delay_s have passed since the last request, and open the line.

        Raises LineError. Blocks for the wait, and as `open` does.
        """
        wait_s = self._last_request_mono_s + request_delay_s - self._clock.mono_s()
        if request_delay_s > 0 and wait_s > 0:
            self._clock.sleep(wait_s)
        # Opened last, since the peer may hang up while the line keeps its distance.
        self.open(timeout_s)

    def _reader_of(self, meter: Meter, ask: Ask) -> ModbusReader:
        reader = self._readers.get(meter)
        if reader is None:
            communication = _communication(meter)
            if communication.sunspec is None:
                reader = ModbusReader(communication, communication.registers, {})
            else:
                found = discover(ask, communication.unit_id, communication.sunspec)
                reader = ModbusReader(communication, found.registers, dict(found.check))
            self._readers[meter] = reader
        return reader

    def _read_blocks(self, reader: ModbusReader, ask: Ask, retries: int) -> _Answers:
        """Read all blocks of a meter.

        A refused block does not keep the others from being read; a silent device does. It is asked
        again as often as `retries` says for the whole of the poll: were it for each block, a
        device that is always late would hold the line for a multiple of its time-out.
        """
        answers = _Answers()
        requests = deque(reader.requests)
        while requests:
            request = requests.popleft()
            times = self._clock.mono_s(), self._clock.unix_ms()
            try:
                words = ask(request)
                if not answers.replies:
                    answers.mono_s, answers.unix_ms = times
                answers.replies.append((request, words))
            except Refused as exc:
                parts = reader.split(request) if exc.code == ILLEGAL_ADDRESS else ()
                requests.extendleft(reversed(parts))
                if not parts:
                    answers.error = answers.error or exc
                if exc.code not in BLOCK_EXCEPTIONS:
                    break
            except MeterError as exc:
                if retries == 0:
                    answers.error = exc
                    break
                retries -= 1
                requests.appendleft(request)
        return answers

    def _read_block(
        self, communication: ModbusCommunication, request: ReadRequest
    ) -> Sequence[int]:
        if not self._just_looked:
            self.make_ready(communication.request_delay_s, communication.timeout_s)
        self._just_looked = False
        return self.read(request, communication.timeout_s)


def discover(ask: Ask, unit_id: int, kind: str) -> Discovery:
    """Find where a SunSpec device keeps the quantities of a `meter` or an `inverter`.

    Raises MeterError, also when it is none, or LineError.
    """
    discovery = Discovery(kind)
    while (block := discovery.request()) is not None:
        try:
            words = ask(ReadRequest(unit_id, 3, *block))
        except Refused as exc:
            if exc.code not in BLOCK_EXCEPTIONS:
                raise
            discovery.receive(None)
        else:
            discovery.receive(words)
    return discovery


def _communication(meter: Meter) -> ModbusCommunication:
    assert isinstance(meter.communication, ModbusCommunication)
    return meter.communication
