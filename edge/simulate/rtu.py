"""RTU on a serial device."""

from __future__ import annotations

import contextlib
import os
import random
from typing import Any

import serial

from edge.simulate.endpoint import Endpoint
from edge.simulate.link import Link
from edge.simulate.loop import Loop, Timer

_READ_BYTES = 4096
_REOPEN_S = 0.1


class SerialEndpoint(Endpoint):
    """RTU on a serial device. One that is unplugged is opened again when it is back.

    options: baudrate, parity, stopbits and bytesize, as pyserial has them.
    """

    def __init__(
        self,
        rng: random.Random,
        device: str,
        options: dict[str, Any],
        gateway_timeout_s: float | None,
        record: int,
    ) -> None:
        super().__init__("rtu", rng, gateway_timeout_s, record)
        self.device = device
        self._options = options
        self._loop: Loop | None = None
        self._port: serial.Serial | None = None
        self._link: Link | None = None
        self._reopening: Timer | None = None

    def open(self, loop: Loop) -> None:
        """Open the device; OSError when it cannot be opened."""
        self._loop = loop
        # timeout=0: reads and writes give what they can and never wait.
        self._port = serial.Serial(self.device, timeout=0, exclusive=True, **self._options)
        self._link = Link(loop, self._write, self._answered)
        loop.watch(self._port.fileno(), self._read)

    def close(self) -> None:
        """Let go of the device and stop looking for it."""
        if self._reopening is not None:
            self._reopening.cancel()
        self._let_go()
        self._loop = None

    def _read(self) -> None:
        if self._port is None or self._link is None:
            return
        try:
            data = os.read(self._port.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.received(self._link, data)
        else:
            # A terminal that is ready but has nothing to read has been hung up: unplugged.
            self._let_go()
            self._reopen_later()

    def _write(self, frame: bytes) -> None:
        if self._port is not None:
            # A wire does not say whether anybody hears; reading notices when it is gone.
            with contextlib.suppress(OSError):
                os.write(self._port.fileno(), frame)

    def _let_go(self) -> None:
        if self._loop is None or self._port is None or self._link is None:
            return
        self._link.drop()
        self._loop.unwatch(self._port.fileno())
        with contextlib.suppress(OSError):
            self._port.close()
        self._port = self._link = None

    def _reopen_later(self) -> None:
        if self._loop is not None:
            self._reopening = self._loop.call_later(_REOPEN_S, self._reopen)

    def _reopen(self) -> None:
        if self._loop is None:
            return
        try:
            self.open(self._loop)
        except OSError:
            self._reopen_later()
