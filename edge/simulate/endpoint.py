"""Where a line leads: the units behind it, and what is done with bytes that arrive."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import NamedTuple

from edge.simulate.device import GATEWAY_TARGET_SILENT, Unit, exception, spoil
from edge.simulate.fault import Fault, FaultKind
from edge.simulate.link import Link
from edge.simulate.loop import Loop
from edge.simulate.wire import (
    FramingError,
    Request,
    pack_rtu,
    pack_tcp,
    split_rtu,
    split_tcp,
)

_FRAME_PAUSE_S = 0.1
"""A frame that is not whole after this long is noise; longer than any USB adapter's latency."""


class Seen(NamedTuple):
    """A request as it arrived; mono_s is the moment."""

    mono_s: float
    unit_id: int
    pdu: bytes


class Endpoint(ABC):
    """Where a line leads, with the units behind it: shared by TCP and serial.

    Counters, for any thread to read: requests; max_outstanding, the most requests of all its
    connections that were waiting for their answer at once (one that gets none does not wait);
    seen, the last `record` requests.
    """

    def __init__(
        self, transport: str, rng: random.Random, gateway_timeout_s: float | None, record: int
    ) -> None:
        self.transport = transport
        self.units: dict[int, Unit] = {}
        self.requests = 0
        self.max_outstanding = 0
        self.seen: deque[Seen] = deque(maxlen=record)
        self.gateway_timeout_s = gateway_timeout_s
        """What a silent or unknown unit is answered: after so long exception 0x0B, as gateways
        do; None is no answer."""
        self._outstanding = 0
        self._record = record > 0
        self._rng = rng
        self._split = split_tcp if transport == "tcp" else split_rtu
        self._pack = pack_tcp if transport == "tcp" else pack_rtu

    def add_unit(self, unit_id: int, *, strict: bool = True) -> Unit:
        """Put a meter behind this endpoint. Raises ValueError for an id that is taken."""
        if unit_id in self.units or not 0 <= unit_id <= 255:
            raise ValueError(f"unit id {unit_id} is taken or not 0 to 255")
        unit = self.units[unit_id] = Unit(unit_id, self.transport, strict=strict)
        return unit

    def set_fault(self, fault: Fault) -> None:
        """Switch a fault on for every unit. Raises ValueError where there is no such fault."""
        fault.check_transport(self.transport)
        for unit in self.units.values():
            unit.set_fault(fault)

    def heal(self) -> None:
        """Switch the faults of every unit off."""
        for unit in self.units.values():
            unit.heal()

    @abstractmethod
    def open(self, loop: Loop) -> None:
        """Begin to serve; OSError when the port cannot be had. Loop thread only."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the port and of every connection. Loop thread only."""

    def received(self, link: Link, data: bytes) -> None:
        """Answer what `data` completes. Loop thread only."""
        now_mono_s = time.monotonic()
        buffer = link.buffer
        if buffer and self.transport != "tcp" and now_mono_s - link.heard_mono_s > _FRAME_PAUSE_S:
            buffer.clear()
        link.heard_mono_s = now_mono_s
        buffer += data
        try:
            requests = self._split(buffer)
        except FramingError:
            link.close()
            return
        self._outstanding += len(requests)
        self.max_outstanding = max(self.max_outstanding, self._outstanding)
        for request in requests:
            self._serve(link, request, now_mono_s)

    def _answered(self, count: int) -> None:
        self._outstanding -= count

    def _serve(self, link: Link, request: Request, now_mono_s: float) -> None:
        self.requests += 1
        if self._record:
            self.seen.append(Seen(now_mono_s, request.unit_id, request.pdu))
        unit = self.units.get(request.unit_id)
        if unit is None:
            self._stay_silent(link, request)
            return
        reply, fault = unit.answer(request.pdu)
        if fault is None:
            link.reply([self._pack(request, reply)], 0.0)
        elif fault.kind is FaultKind.SILENT:
            self._stay_silent(link, request)
        elif fault.kind is FaultKind.CLOSE:
            self._answered(1)
            link.close()
        else:
            frames = spoil(fault, request, reply, self._pack, self._rng)
            link.reply(frames, fault.delay_s, overtaken=fault.kind is FaultKind.LATE)

    def _stay_silent(self, link: Link, request: Request) -> None:
        if self.gateway_timeout_s is None:
            self._answered(1)
        else:
            reply = exception(request.pdu[0], GATEWAY_TARGET_SILENT)
            link.reply([self._pack(request, reply)], self.gateway_timeout_s)
