"""A Modbus peer whose every answer the test chooses, over TCP, on a pty, and RTU over TCP."""

from __future__ import annotations

import contextlib
import heapq
import os
import pty
import re
import select
import socket
import struct
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import pytest

from edge.clock import Clock
from edge.communication import ModbusEndpoint, ReadRequest
from edge.drivers.modbus import ModbusDriver
from edge.simulate.wire import Request, pack_rtu, pack_tcp, split_rtu, split_tcp

TIMEOUT_S = 0.06
"""For peers on loopback that do not answer; what is expected to answer gets PATIENT_S."""
PATIENT_S = 2.0

TRANSPORTS = ("tcp", "rtu", "rtu-over-tcp")

on_every_transport = pytest.mark.parametrize("transport", TRANSPORTS)


def words_at(address: int, count: int) -> list[int]:
    """Words that tell which address they were asked for."""
    return [(address * 7 + n * 4096) & 0xFFFF for n in range(count)]


def answer_pdu(pdu: bytes) -> bytes:
    """What a sound meter that holds `words_at` everywhere answers."""
    address, count = struct.unpack(">HH", pdu[1:5])
    return struct.pack(f">BB{count}H", pdu[0], 2 * count, *words_at(address, count))


Script = Callable[[Request], Sequence[tuple[float, bytes | None]]]
"""What a peer does on a request: after so many seconds, so many bytes; None is hanging up."""


class Peer:
    """A scripted peer: a listening port, or a serial device with `path`; a context manager.

    What it sends late goes to whoever is connected then, as a transparent serial server does.
    """

    def __init__(self, transport: str, script: Script, *, host: str = "127.0.0.1") -> None:
        self.script = script
        self.transport = transport
        self.requests: list[Request] = []
        self.accepted = 0
        self._split = split_tcp if transport == "tcp" else split_rtu
        self._sockets: list[socket.socket] = []
        self._files: list[int] = []
        self._buffer = bytearray()
        self._due: list[tuple[float, int, bytes | None]] = []
        self._stop_read, self._stop_write = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._stop_read, select.POLLIN)
        if transport == "rtu":
            master, slave = pty.openpty()
            tty.setraw(slave)
            self._files = [master, slave]
            self.endpoint = ModbusEndpoint(
                "rtu", serial_port=os.ttyname(slave), baudrate=115200, parity="N", stopbits=1,
                bytesize=8,
            )  # fmt: skip
            self._poll.register(master, select.POLLIN)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, 0), family=family)
            self._poll.register(self._listener, select.POLLIN)
            port = self._listener.getsockname()[1]
            self.endpoint = ModbusEndpoint(transport, host=host, port=port)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def pack(self, request: Request, pdu: bytes) -> bytes:
        return (pack_tcp if self.transport == "tcp" else pack_rtu)(request, pdu)

    def good(self, request: Request) -> bytes:
        return self.pack(request, answer_pdu(request.pdu))

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join()
        self._hang_up()
        if self.transport != "rtu":
            self._listener.close()
        for file in (*self._files, self._stop_read, self._stop_write):
            os.close(file)

    def _run(self) -> None:
        while True:
            wait_ms = None
            if self._due:
                wait_ms = max(0.0, self._due[0][0] - time.monotonic()) * 1000
            for file, _ in self._poll.poll(wait_ms):
                if file == self._stop_read:
                    return
                if self.transport != "rtu" and file == self._listener.fileno():
                    self._accept()
                else:
                    self._receive(file)
            while self._due and self._due[0][0] <= time.monotonic():
                self._send(heapq.heappop(self._due)[2])

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        self._sockets.append(connection)
        self._poll.register(connection, select.POLLIN)

    def _receive(self, file: int) -> None:
        try:
            data = os.read(file, 4096)
        except OSError:
            data = b""
        if not data and self.transport != "rtu":
            (gone,) = (one for one in self._sockets if one.fileno() == file)
            self._poll.unregister(file)
            self._sockets.remove(gone)
            gone.close()
            return
        self._buffer += data
        for request in self._split(self._buffer):
            self.requests.append(request)
            for delay_s, reply in self.script(request):
                order = len(self.requests) * 100 + len(self._due)
                heapq.heappush(self._due, (time.monotonic() + delay_s, order, reply))

    def _send(self, data: bytes | None) -> None:
        if data is None:
            self._hang_up()
        elif self.transport == "rtu":
            os.write(self._files[0], data)
        elif self._sockets:
            with contextlib.suppress(OSError):
                self._sockets[-1].sendall(data)

    def say(self, data: bytes) -> None:
        """Send bytes that nobody asked for."""
        self._send(data)

    def _hang_up(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(KeyError):
                self._poll.unregister(connection)
            connection.close()
        self._sockets.clear()


@contextlib.contextmanager
def sound_peer(transport: str, **options: Any) -> Iterator[Peer]:
    """A peer that answers every request at once; its script may be replaced."""
    peer = Peer(transport, lambda request: [(0, peer.good(request))], **options)
    with peer:
        yield peer


@contextlib.contextmanager
def opened(endpoint: ModbusEndpoint) -> Iterator[ModbusDriver]:
    driver = ModbusDriver(endpoint, Clock())
    driver.open(PATIENT_S)
    try:
        yield driver
    finally:
        driver.close()


def read(driver: ModbusDriver, request: ReadRequest, timeout_s: float = PATIENT_S) -> list[int]:
    """Read as the line's worker does: on an open wire."""
    if not driver.connected:
        driver.open(PATIENT_S)
    return list(driver.read(request, timeout_s))


def assert_one_sentence(text: str) -> None:
    """Say what is wrong and what to do: one paragraph that ends, without the inside of Python."""
    assert re.fullmatch(r"[A-Z0-9][^\n]{20,240}\.", text), text
    for inside in ("Errno", "Error", "Exception(", "0x", "None", "b'", "Traceback"):
        assert inside not in text
