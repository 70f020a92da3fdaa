"""Wires: bytes out, bytes in, over a TCP connection or a serial port. Line thread only."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import stat
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge.communication import ModbusEndpoint
from edge.drivers.dial import dial
from edge.errors import Cause, LineError, NoReply
from edge.reach import Reach

if TYPE_CHECKING:
    import serial

_HUNG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Wire(Protocol):
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


class TcpWire:
    # Only RTU over TCP waits for it. The baud rate behind the gateway is not known here; at 9600
    # baud 3.5 characters are 4 ms, and the network may add some.
    quiet_s = 0.01

    def __init__(self, endpoint: ModbusEndpoint, reach: Reach) -> None:
        self._endpoint = endpoint
        self._reach = reach
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
        connection = dial(host, port, timeout_s, self._reach, "Modbus TCP")
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
            "of answering; check unitId, and how many clients the device allows at a time.",
            Cause.CONNECTION_LOST,
        )


class SerialWire:
    def __init__(self, endpoint: ModbusEndpoint) -> None:
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
                f"adapter and serialPort{_lasting_name(endpoint.serial_port)}.",
                Cause.NO_SERIAL_PORT,
            )
        import serial  # only who has such a port pays for it, and on the line's own thread

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
                "adapter and that nothing else uses it.",
                Cause.SERIAL_PORT_UNUSABLE,
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
            f"Serial port {self._endpoint.serial_port} is gone ({why}); plug the adapter in "
            f"again{_lasting_name(self._endpoint.serial_port)}.",
            Cause.NO_SERIAL_PORT,
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


def _lasting_name(path: str) -> str:
    """What to add about a name that another adapter may have after the next plug or start."""
    counted = re.search(r"/tty(USB|ACM)\d+$", path) is not None
    return ", and better name it as in /dev/serial/by-id, since numbers change" if counted else ""


def _any_event(poll: select.poll, events: int) -> bool:
    return any(happened & events for _, happened in poll.poll(0))


def _reason(exc: Exception) -> str:
    """The system's own words for an error number; pyserial's own repeat the name of the port."""
    for error in (exc, exc.__context__):
        if error is not None and error.args and isinstance(error.args[0], int):
            return os.strerror(error.args[0])
    return str(exc)
