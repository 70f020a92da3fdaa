"""Modbus over TCP, over a serial line (RTU), and RTU frames over TCP.

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

import contextlib
import os
import select
import socket
import stat
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import serial
from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from edge.errors import BadReply, LineError, NoReply, Refused
from edge.model import Endpoint, ReadRequest

_REQUESTS = {3: ReadHoldingRegistersRequest, 4: ReadInputRegistersRequest}
_MBAP_BYTES = 7
_LONGEST_MBAP_LENGTH = 254
_LONGEST_RTU_FRAME = 256
_LONGEST_SETTLE_S = 0.5
_MOST_NOISE_BYTES = 16 * 1024
_GRACE_S = 0.05
"""How long after its deadline a reply may be read: a busy machine wakes a waiting thread late."""
_HUNG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR

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


class ModbusDriver:
    """Reads holding and input registers over one endpoint. Line thread only."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._wire: _Wire = (
            _SerialWire(endpoint) if endpoint.transport == "rtu" else _TcpWire(endpoint)
        )
        framing = _TcpFraming if endpoint.transport == "tcp" else _RtuFraming
        self._framing: _Framing = framing(self._wire)

    @property
    def connected(self) -> bool:
        """Whether the wire is open; see `Driver.connected`."""
        return self._wire.is_open

    def open(self, timeout_s: float) -> None:
        """Open the wire; see `Driver.open`."""
        if not self._wire.is_open:
            self._wire.open(timeout_s)

    def read(self, request: ReadRequest, timeout_s: float) -> Sequence[int]:
        """Read one block; see `Driver.read`. At most 125 words."""
        pdu = self._framing.ask(request, timeout_s)
        if pdu[0] & 0x80:
            code = pdu[1]
            meaning = _EXCEPTIONS.get(code, "a code that the standard does not know")
            raise Refused(
                code, f"{_asked(request)} was refused with Modbus exception {code}: {meaning}."
            )
        return [int.from_bytes(pdu[at : at + 2], "big") for at in range(2, len(pdu), 2)]

    def close(self) -> None:
        """Close the wire; see `Driver.close`."""
        self._wire.close()


def _asked(request: ReadRequest) -> str:
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
        f"{_asked(request)} got {count} bytes that are not its answer; check baudrate, parity, "
        "wiring and that no two devices share a unit id."
    )


def _silence(request: ReadRequest, timeout_s: float) -> NoReply:
    return NoReply(
        f"{_asked(request)} got no answer within {timeout_s * 1000:.0f} ms; check unitId, wiring "
        "and power, or raise timeout."
    )


# --- Framing: which bytes are the answer ---------------------------------------------------------


class _Framing(Protocol):
    def ask(self, request: ReadRequest, timeout_s: float) -> bytes:
        """Send a request and give the PDU of its answer: a right one or an exception."""


class _TcpFraming:
    """MBAP frames, told apart by transaction id."""

    def __init__(self, wire: _Wire) -> None:
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
                        f"{_asked(request)} got bytes that are not Modbus TCP; check host, port "
                        "and transport (a serial gateway may want rtu-over-tcp)."
                    )
                used, unit_id, transaction_id, pdu = self._framer.decode(buffer)
                if used:
                    right = transaction_id == self._transaction_id and unit_id == request.unit_id
                    if not right or not _fits(request, pdu):
                        raise BadReply(
                            f"{_asked(request)} got an answer that does not match; the "
                            "connection is opened anew. If it stays, check unitId and the gateway."
                        )
                    return pdu
            chunk = self._wire.receive(deadline_s - time.monotonic())
            if not chunk:
                if buffer:
                    raise BadReply(f"{_asked(request)} got half an answer; check the network.")
                raise _silence(request, timeout_s)
            if time.monotonic() > deadline_s + _GRACE_S:
                raise _silence(request, timeout_s)
            buffer += chunk


@dataclass(frozen=True, eq=False)
class _Owed:
    """A reply that may still come on an RTU line. until_s: monotonic time it is waited for."""

    request: ReadRequest
    until_s: float


class _RtuFraming:
    """RTU frames, told apart by unit, function, byte count and what is still owed."""

    def __init__(self, wire: _Wire) -> None:
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


# --- Wires: bytes in, bytes out ------------------------------------------------------------------


class _Wire(Protocol):
    quiet_s: float
    """How long no byte may come before the line counts as quiet."""

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent; a wire that was hung up while idle is closed here."""

    def open(self, timeout_s: float) -> None:
        """Raises LineError."""

    def send(self, frame: bytes) -> None:
        """Raises LineError, or NoReply when the peer closed the connection."""

    def receive(self, timeout_s: float) -> bytes:
        """Give what has come, waiting for at most timeout_s; empty when nothing did.

        Raises LineError, or NoReply when the peer closed the connection.
        """

    def distrust(self) -> None:
        """After a time-out or a wrong answer: close what may be dead or out of step."""

    def close(self) -> None:
        """Never raises."""


class _TcpWire:
    # Only RTU over TCP waits for it. The baud rate behind the gateway is not known here; at 9600
    # baud 3.5 characters are 4 ms, and the network may add some.
    quiet_s = 0.01

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        # A Modbus TCP stream that brings bytes unasked is out of step with us; a new one is not.
        self._unfit = _HUNG_UP | (select.POLLIN if endpoint.transport == "tcp" else 0)

    @property
    def is_open(self) -> bool:
        if self._socket is not None and _any_event(self._poll, self._unfit):
            self.close()
        return self._socket is not None

    def open(self, timeout_s: float) -> None:
        host, port = self._endpoint.host, self._endpoint.port
        try:
            connection = socket.create_connection((host, port), timeout_s)
        except (socket.gaierror, UnicodeError) as exc:  # the latter for what DNS cannot spell
            raise LineError(
                f"Host name {host!r} is not known; check its spelling, or give an IP address."
            ) from exc
        except TimeoutError as exc:
            raise LineError(
                f"{host} did not answer within {timeout_s * 1000:.0f} ms; check its address, "
                "power and network cable."
            ) from exc
        except ConnectionRefusedError as exc:
            raise LineError(
                f"{host} refused the connection on port {port}; check the port and that Modbus "
                "TCP is switched on."
            ) from exc
        except OSError as exc:
            raise LineError(
                f"{host} cannot be reached ({_reason(exc)}); check the network."
            ) from exc
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN | select.POLLRDHUP)

    def send(self, frame: bytes) -> None:
        assert self._socket is not None
        try:
            sent = self._socket.send(frame)
        except OSError as exc:
            raise self._lost() from exc
        if sent != len(frame):
            raise self._lost()

    def receive(self, timeout_s: float) -> bytes:
        assert self._socket is not None
        if timeout_s > 0 and not self._poll.poll(timeout_s * 1000):
            return b""
        try:
            chunk = self._socket.recv(4096)
        except BlockingIOError:
            return b""
        except OSError as exc:
            raise self._lost() from exc
        if not chunk:
            raise self._lost()
        return chunk

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def distrust(self) -> None:
        self.close()

    def _lost(self) -> NoReply:
        self.close()
        return NoReply(
            f"{self._endpoint.host} closed the connection on port {self._endpoint.port} instead "
            "of answering; check unitId, and how many clients the device allows at a time."
        )


class _SerialWire:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._port: serial.Serial | None = None
        self._poll = select.poll()
        self._room = select.poll()
        self._write_timeout_s = 0.0
        # 3.5 characters of 11 bits; a fixed 1.75 ms above 19200 baud (Serial Line V1.02, 2.5.1.1).
        self.quiet_s = max(3.5 * 11 / endpoint.baudrate, 0.00175)

    @property
    def is_open(self) -> bool:
        if self._port is not None and _any_event(self._poll, _HUNG_UP):
            self.close()
        return self._port is not None

    def open(self, timeout_s: float) -> None:
        endpoint = self._endpoint
        if not _is_serial_port(endpoint.serial_port):
            # The same for all: whoever may register a meter must not learn which files there are.
            raise LineError(
                f"Serial port {endpoint.serial_port} is not there or is no serial port; check the "
                "adapter and serialPort."
            )
        try:
            port = serial.Serial(
                endpoint.serial_port,
                endpoint.baudrate,
                bytesize=endpoint.bytesize,
                parity=endpoint.parity,
                stopbits=endpoint.stopbits,
                exclusive=True,
            )
        except (OSError, ValueError, termios.error) as exc:
            raise LineError(
                f"Serial port {endpoint.serial_port} cannot be opened ({_reason(exc)}); check the "
                "adapter and that nothing else uses it."
            ) from exc
        self._port = port
        self._poll = select.poll()
        self._poll.register(port.fileno(), select.POLLIN)
        self._room = select.poll()
        self._room.register(port.fileno(), select.POLLOUT)
        self._write_timeout_s = timeout_s

    def send(self, frame: bytes) -> None:
        # pyserial's own write waits with select(), which fails for file numbers above 1023.
        assert self._port is not None
        deadline_s = time.monotonic() + self._write_timeout_s
        while frame:
            left_s = deadline_s - time.monotonic()
            if left_s < 0 or not self._room.poll(left_s * 1000):
                raise self._lost("it takes no bytes")
            try:
                frame = frame[os.write(self._port.fileno(), frame) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise self._lost(_reason(exc)) from exc

    def receive(self, timeout_s: float) -> bytes:
        assert self._port is not None
        if not self._poll.poll(max(0.0, timeout_s * 1000)):
            return b""
        try:
            chunk = os.read(self._port.fileno(), 4096)
        except OSError as exc:
            raise self._lost(_reason(exc)) from exc
        if not chunk:
            raise self._lost("it was hung up")
        return chunk

    def close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            # One that was pulled out has nothing left to close.
            with contextlib.suppress(OSError, termios.error):
                port.close()

    def distrust(self) -> None:
        """A serial port stays open: it has no connection that could be dead."""

    def _lost(self, why: str) -> LineError:
        self.close()
        return LineError(
            f"Serial port {self._endpoint.serial_port} is gone ({why}); plug the adapter in again."
        )


def _is_serial_port(path: str) -> bool:
    """Whether a path is a tty other than a console; nothing is opened, which may have an effect.

    Opening a watchdog arms it. Numbers are those of the kernel's admin-guide/devices.txt.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # the latter for what cannot be a path
        return False
    if not stat.S_ISCHR(status.st_mode):
        return False
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if 136 <= major <= 143:  # pseudo-terminals, which sysfs does not list
        return True
    if major == 5 or (major == 4 and minor < 64):  # consoles and virtual terminals
        return False
    return Path(f"/sys/dev/char/{major}:{minor}/subsystem").resolve().name == "tty"


def _any_event(poll: select.poll, events: int) -> bool:
    return any(happened & events for _, happened in poll.poll(0))


def _reason(exc: Exception) -> str:
    """The system's own words for an error number; pyserial's own repeat the name of the port."""
    for error in (exc, exc.__context__):
        if error is not None and error.args and isinstance(error.args[0], int):
            return os.strerror(error.args[0])
    return str(exc)
