"""One simulated meter: its registers, what it answers, and what is wrong with it."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Callable, Mapping

from edge.simulate.fault import DEVICE_FAILURE, Fault, FaultKind
from edge.simulate.layout import Layout, Tables
from edge.simulate.wire import READ_HOLDING, READ_INPUT, Request

ILLEGAL_FUNCTION = 1
ILLEGAL_ADDRESS = 2
ILLEGAL_VALUE = 3
GATEWAY_TARGET_SILENT = 0x0B

MAX_READ_COUNT = 125
_MAX_CACHED_REPLIES = 64
_GARBAGE_BYTES = 24

Source = Callable[[], Mapping[str, float]]
"""Gives a meter's quantities now, each in its quantity's unit."""


class _Image:
    """The registers at one moment, with the replies made from them. Replaced, never changed."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.replies: dict[bytes, bytes] = {}


class _Armed:
    """A fault that is switched on: how many requests it has left, and the values it imposes."""

    def __init__(self, fault: Fault, image: _Image | None) -> None:
        self.fault = fault
        self.left = fault.requests
        self.image = image


class Unit:
    """A meter behind a unit id.

    Registers are sparse; holding and input registers are apart. strict: a hole answers exception
    2, otherwise 0. Everything here may be called from any thread, also while requests are being
    answered: what a request sees is replaced in one assignment.
    """

    def __init__(self, unit_id: int, transport: str, *, strict: bool = True) -> None:
        self.unit_id = unit_id
        self.strict = strict
        self.requests = 0
        """Requests seen so far."""
        self._transport = transport
        self._merging = threading.Lock()
        self._image = _Image({READ_HOLDING: {}, READ_INPUT: {}})
        self._layout: Layout | None = None
        self._source: Source | None = None
        self._refresh_s = 0.0
        self._fresh_until_mono_s = 0.0
        self._armed: _Armed | None = None

    def set_registers(
        self, holding: Mapping[int, int] | None = None, inputs: Mapping[int, int] | None = None
    ) -> None:
        """Give register words, 0 to 65535 by address; addresses not named stay as they are."""
        self._merge({READ_HOLDING: dict(holding or {}), READ_INPUT: dict(inputs or {})})

    def set_values(self, values: Mapping[str, float], communication: Mapping[str, object]) -> None:
        """Give quantities, each in its unit, in the layout of a registration's `communication`.

        Raises ValueError for a value that does not fit its register.
        """
        self._layout = Layout(communication)
        self._merge(self._layout.encode(values))

    def follow(
        self, source: Source, communication: Mapping[str, object], refresh_s: float = 0.2
    ) -> None:
        """Show what `source` gives, asked again by a request when refresh_s have passed.

        source: called on the simulator's thread; must not block. A value that does not fit its
        register is answered with exception 4.
        """
        self._layout = Layout(communication)
        self._refresh_s = refresh_s
        self._source = source

    def set_fault(self, fault: Fault) -> None:
        """Switch a fault on; it takes the place of the one before.

        Raises ValueError where this unit cannot have that fault.
        """
        fault.check_transport(self._transport)
        if fault.kind is FaultKind.REFUSE:
            raise ValueError("a unit cannot refuse connections: give the fault to its endpoint")
        image = None
        if fault.kind is FaultKind.FROZEN:
            image = self._current_image()
        elif fault.kind is FaultKind.NAN:
            if self._layout is None:
                raise ValueError("nan needs quantities: use set_values or follow first")
            no_values = dict.fromkeys(self._layout.quantities, float("nan"))
            image = _Image(_merged(self._image.tables, self._layout.encode(no_values)))
        self._armed = _Armed(fault, image)

    def heal(self) -> None:
        """Switch the fault off."""
        self._armed = None

    def answer(self, pdu: bytes) -> tuple[bytes, Fault | None]:
        """Give the reply PDU to a request PDU, and the fault that is to spoil it."""
        self.requests += 1
        armed = self._armed
        if armed is None:
            return self._read(pdu, None), None
        if armed.left is not None:
            armed.left -= 1
            if armed.left <= 0 and self._armed is armed:
                self._armed = None
        return self._read(pdu, armed.image), armed.fault

    def _read(self, pdu: bytes, image: _Image | None) -> bytes:
        function = pdu[0]
        if function not in (READ_HOLDING, READ_INPUT):
            return exception(function, ILLEGAL_FUNCTION)
        if len(pdu) != 5:
            return exception(function, ILLEGAL_VALUE)
        if image is None:
            try:
                image = self._current_image()
            except ValueError:
                return exception(function, DEVICE_FAILURE)
        reply = image.replies.get(pdu)
        if reply is None:
            reply = self._build(function, pdu, image.tables[function])
            if len(image.replies) < _MAX_CACHED_REPLIES:
                image.replies[pdu] = reply
        return reply

    def _build(self, function: int, pdu: bytes, table: Mapping[int, int]) -> bytes:
        address, count = struct.unpack(">HH", pdu[1:])
        if not 1 <= count <= MAX_READ_COUNT:
            return exception(function, ILLEGAL_VALUE)
        addresses = range(address, address + count)
        if addresses.stop > 0x10000 or (self.strict and any(a not in table for a in addresses)):
            return exception(function, ILLEGAL_ADDRESS)
        words = [table.get(address, 0) for address in addresses]
        return struct.pack(f">BB{count}H", function, 2 * count, *words)

    def _current_image(self) -> _Image:
        if self._source is not None and self._layout is not None:
            now_mono_s = time.monotonic()
            if now_mono_s >= self._fresh_until_mono_s:
                self._merge(self._layout.encode(self._source()))
                self._fresh_until_mono_s = now_mono_s + self._refresh_s
        return self._image

    def _merge(self, tables: Tables) -> None:
        with self._merging:
            self._image = _Image(_merged(self._image.tables, tables))


def exception(function: int, code: int) -> bytes:
    """Give the PDU of a Modbus exception."""
    return bytes((function | 0x80, code))


def spoil(
    fault: Fault,
    request: Request,
    reply: bytes,
    pack: Callable[[Request, bytes], bytes],
    rng: random.Random,
) -> list[bytes]:
    """Give the frames that a meter with `fault` sends where a sound one sends `reply`.

    pack: frames a reply PDU for the transport. An empty list is silence.
    """
    kind = fault.kind
    if kind in (FaultKind.SILENT, FaultKind.CLOSE):
        return []
    if kind is FaultKind.GARBAGE:
        return [rng.randbytes(_GARBAGE_BYTES)]
    if kind is FaultKind.EXCEPTION:
        reply = exception(request.pdu[0], fault.code)
    elif kind is FaultKind.WRONG_TRANSACTION:
        request = request._replace(transaction_id=(request.transaction_id + 1) & 0xFFFF)
    elif kind is FaultKind.WRONG_UNIT:
        request = request._replace(unit_id=request.unit_id % 247 + 1)
    elif kind is FaultKind.WRONG_FUNCTION:
        # 3 and 4 differ in their three low bits; an exception reply keeps its high bit.
        reply = bytes((reply[0] ^ (READ_HOLDING ^ READ_INPUT),)) + reply[1:]
    elif kind is FaultKind.WRONG_COUNT and len(reply) > 2:
        reply = bytes((reply[0], (reply[1] + 2) & 0xFF)) + reply[2:]
    elif kind is FaultKind.SHORT_DATA and len(reply) > 2:
        reply = bytes((reply[0], reply[1] - 2)) + reply[2:-2]
    frame = pack(request, reply)
    if kind is FaultKind.HALF:
        return [frame[: len(frame) // 2]]
    if kind is FaultKind.BAD_CRC:
        return [frame[:-1] + bytes((frame[-1] ^ 0xFF,))]
    return [frame, frame] if kind is FaultKind.DUPLICATE else [frame]


def _merged(old: Tables, new: Tables) -> Tables:
    return {function: {**table, **new.get(function, {})} for function, table in old.items()}
