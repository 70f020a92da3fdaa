"""Framing: which bytes are the answer, for Modbus TCP, RTU, and RTU frames over TCP.

The only module that touches pymodbus, whose API changes between releases. Its codec is used
(frames, PDUs, checksums); its clients are not: they retry inside themselves, keep a socket open
after a time-out, and take a late reply for the next one where frames carry no transaction id.

Trusting a reply. A device may answer after we stopped waiting, and its answer must never pass for
the answer to another question. Nor may an old one pass for a new one: bytes that lay unread while
this process did not run (stopped, starved, the machine asleep) are no answer after the deadline.

- Modbus TCP: the reply must carry the request's transaction id, unit, function and byte count.
  After a time-out or a mismatch the socket is closed, and the ids go on counting on the next one.
- RTU has no id. The line must fall quiet before each request, and a reply must have the request's
  unit, function and byte count and a right checksum. What these cannot tell apart is a reply still
  *owed* to an earlier request for other registers of the same size on the same unit: before such
  a request the owed reply is waited for and thrown away, until it came or twice the time that its
  request was given is over. A refusal has no byte count; it is ignored while it could be one that
  is owed to any other request to the same unit and function. All this also holds across a new
  connection, since a transparent serial server passes late bytes on to whoever is connected. A
  late reply to the same question is taken: it is as good, and at most those two time-outs old.

So on RTU a reply is taken for another one's only where both are for as many registers of the same
unit and function (a refusal: for any number), and it comes later than twice the time-out after its
request, or comes twice with a pause between (a gateway may put one there), or was owed to a driver
before this one (a restart, or a line whose last meter was removed). A time-out above half of the
device's longest delay rules out the first.

Sources: MODBUS Application Protocol V1.1b3, sections 6.3, 6.4 and 7; MODBUS Messaging on TCP/IP
Implementation Guide V1.0b, section 3.1.3; MODBUS over Serial Line V1.02, sections 2.5.1 and 2.5.2.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from edge.communication import ReadRequest
from edge.drivers.modbus.wire import Wire
from edge.errors import BadReply, NoReply

_REQUESTS = {3: ReadHoldingRegistersRequest, 4: ReadInputRegistersRequest}
_MBAP_BYTES = 7
_LONGEST_MBAP_LENGTH = 254
_LONGEST_RTU_FRAME = 256
_LONGEST_SETTLE_S = 0.5
_MOST_NOISE_BYTES = 16 * 1024
_GRACE_S = 0.05
"""How long after its deadline a reply may be read: a busy machine wakes a waiting thread late."""


class Framing(Protocol):
    def ask(self, request: ReadRequest, timeout_s: float) -> bytes:
        """Send a request and give the PDU of its answer: a right one or an exception."""


class TcpFraming:
    """MBAP frames, told apart by transaction id."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._framer = FramerSocket(DecodePDU(is_server=False))
        self._transaction_id = 0

    def ask(self, request: ReadRequest, timeout_s: float) -> bytes:
        self._transaction_id = self._transaction_id % 0xFFFF + 1
        deadline_s = time.monotonic() + timeout_s
        self._wire.send(self._framer.buildFrame(_request_pdu(request, self._transaction_id)))
        try:
            return self._await_answer(request, deadline_s, timeout_s)
        except (NoReply, BadReply):
            self._wire.distrust()
            raise

    def _await_answer(self, request: ReadRequest, deadline_s: float, timeout_s: float) -> bytes:
        buffer = b""
        while True:
            if len(buffer) >= _MBAP_BYTES:
                protocol_id = int.from_bytes(buffer[2:4], "big")
                length = int.from_bytes(buffer[4:6], "big")
                if protocol_id != 0 or not 3 <= length <= _LONGEST_MBAP_LENGTH:
                    raise BadReply(
                        f"{asked(request)} got bytes that are not Modbus TCP; check host, port "
                        "and transport (a serial gateway may want rtu-over-tcp)."
                    )
                used, unit_id, transaction_id, pdu = self._framer.decode(buffer)
                if used:
                    right = transaction_id == self._transaction_id and unit_id == request.unit_id
                    if not right or not _fits(request, pdu):
                        raise BadReply(
                            f"{asked(request)} got an answer that does not match; the "
                            "connection is opened anew. If it stays, check unitId and the gateway."
                        )
                    return pdu
            chunk = self._wire.receive(deadline_s - time.monotonic())
            if not chunk:
                if buffer:
                    raise BadReply(f"{asked(request)} got half an answer; check the network.")
                raise _silence(request, timeout_s)
            if time.monotonic() > deadline_s + _GRACE_S:
                raise _silence(request, timeout_s)
            buffer += chunk


@dataclass(frozen=True, eq=False)
class _Owed:
    """A reply that may still come on an RTU line. until_s: monotonic time it is waited for."""

    request: ReadRequest
    until_s: float


class RtuFraming:
    """RTU frames, told apart by unit, function, byte count and what is still owed."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._framer = FramerRTU(DecodePDU(is_server=False))
        self._owed: list[_Owed] = []
        self._heard_s = 0.0

    def ask(self, request: ReadRequest, timeout_s: float) -> bytes:
        self._settle()
        self._await_owed(request)
        deadline_s = time.monotonic() + timeout_s
        self._wire.send(self._framer.buildFrame(_request_pdu(request)))
        # Reckoned from after sending, which may have been held up: it must not be too short.
        self._owed.append(_Owed(request, time.monotonic() + 2 * timeout_s))
        pdu, noise = self._find(request, deadline_s)
        if pdu is not None:
            # It may be the answer to the same question asked before; then the answer to this
            # repetition is still to come, so what is struck off is the one that expires first.
            same = [owed for owed in self._owed if _same(owed.request, request)]
            self._owed.remove(min(same, key=lambda owed: owed.until_s))
            return pdu
        self._wire.distrust()
        if noise:
            raise _noise(request, noise)
        raise _silence(request, timeout_s)

    def _await_owed(self, request: ReadRequest) -> None:
        """Let late replies pass that would look like this request's answer."""
        now_s = time.monotonic()
        still_owed = (owed for owed in self._owed if owed.until_s > now_s)
        self._owed = sorted(still_owed, key=lambda owed: owed.until_s)
        for owed in list(self._owed):
            if _alike(owed.request, request) and not _same(owed.request, request):
                self._find(owed.request, owed.until_s)
                # A second copy of it must not be counted as the next one that is owed.
                self._settle()
                self._owed.remove(owed)

    def _settle(self) -> None:
        """Throw away what comes until the line has been quiet, as it must be between frames."""
        give_up_s = time.monotonic() + _LONGEST_SETTLE_S
        while self._receive(self._heard_s + self._wire.quiet_s):
            if time.monotonic() > give_up_s:
                self._wire.distrust()
                raise BadReply(
                    "The line is never quiet, so no answer on it can be trusted; check wiring, "
                    "termination and baudrate."
                )

    def _find(self, request: ReadRequest, deadline_s: float) -> tuple[bytes | None, int]:
        """Wait for a frame that fits; returns its PDU, or None and how many bytes came instead.

        Raises BadReply before the deadline when so much comes that no answer will be among it.
        """
        takes_refusal = not any(
            (owed.request.unit_id, owed.request.function) == (request.unit_id, request.function)
            and not _same(owed.request, request)
            for owed in self._owed
        )
        buffer, noise = b"", 0
        while chunk := self._receive(deadline_s):
            if time.monotonic() > deadline_s + _GRACE_S:
                break
            noise += len(chunk)
            buffer += chunk
            pdu = self._search(request, buffer, takes_refusal)
            if pdu is not None:
                return pdu, 0
            if time.monotonic() > deadline_s:
                break
            if noise > _MOST_NOISE_BYTES:
                self._wire.distrust()
                raise _noise(request, noise)
            # What can no longer be the start of a frame is let go, or noise would pile up.
            buffer = buffer[-_LONGEST_RTU_FRAME:]
        return None, noise

    def _receive(self, deadline_s: float) -> bytes:
        chunk = self._wire.receive(deadline_s - time.monotonic())
        if chunk:
            self._heard_s = time.monotonic()
        return chunk

    @staticmethod
    def _search(request: ReadRequest, buffer: bytes, takes_refusal: bool) -> bytes | None:
        answer = bytes((request.unit_id, request.function, 2 * request.count))
        refusal = bytes((request.unit_id, request.function | 0x80))
        frames = ((answer, 5 + 2 * request.count), (refusal, 5))
        for head, length in frames if takes_refusal else frames[:1]:
            at = buffer.find(head)
            while at >= 0 and len(buffer) - at >= length:
                end = at + length
                checksum = int.from_bytes(buffer[end - 2 : end], "big")
                if FramerRTU.check_CRC(buffer[at : end - 2], checksum):
                    return buffer[at + 1 : end - 2]
                at = buffer.find(head, at + 1)
        return None


def _fits(request: ReadRequest, pdu: bytes) -> bool:
    """Whether a PDU can be the answer: a refusal, or all the bytes that were asked for."""
    if not pdu:
        return False
    if pdu[0] == request.function | 0x80:
        return len(pdu) >= 2
    size = 2 * request.count
    return pdu[0] == request.function and len(pdu) == 2 + size and pdu[1] == size


def _alike(one: ReadRequest, other: ReadRequest) -> bool:
    """Whether the answers to two requests cannot be told apart on an RTU line."""
    return (one.unit_id, one.function, one.count) == (other.unit_id, other.function, other.count)


def _same(one: ReadRequest, other: ReadRequest) -> bool:
    """Whether two requests ask the same question, so that the answer to one is as good."""
    return _alike(one, other) and one.address == other.address


def asked(request: ReadRequest) -> str:
    """Say what was asked, as the start of a sentence."""
    kind = "holding" if request.function == 3 else "input"
    last = request.address + request.count - 1
    span = f"register {last}" if request.count == 1 else f"registers {request.address} to {last}"
    return f"Unit {request.unit_id}: reading {kind} {span}"


def _request_pdu(request: ReadRequest, transaction_id: int = 0) -> ReadHoldingRegistersRequest:
    return _REQUESTS[request.function](
        address=request.address,
        count=request.count,
        dev_id=request.unit_id,
        transaction_id=transaction_id,
    )


def _noise(request: ReadRequest, count: int) -> BadReply:
    return BadReply(
        f"{asked(request)} got {count} bytes that are not its answer; check baudrate, parity, "
        "wiring and that no two devices share a unit id."
    )


def _silence(request: ReadRequest, timeout_s: float) -> NoReply:
    return NoReply(
        f"{asked(request)} got no answer within {timeout_s * 1000:.0f} ms; check unitId, wiring "
        "and power, or raise timeout."
    )
