"""Many simulated endpoints on one loop, in a thread of their own.

The caller's thread adds endpoints, starts, switches faults and stops; the loop's thread does all
I/O. What crosses between them is either one assignment (faults, registers, counters) or goes
through the loop and is waited for (opening, closing).
"""

from __future__ import annotations

import random
import resource
import threading
from types import TracebackType
from typing import TypeVar

from edge.simulate.endpoint import Endpoint
from edge.simulate.loop import Loop
from edge.simulate.rtu import SerialEndpoint
from edge.simulate.tcp import TcpEndpoint

E = TypeVar("E", bound=Endpoint)

_SPARE_FILES = 64


class Simulator:
    """Simulated endpoints, served by one background thread between start() and stop().

    seed: for the random bytes of `garbage`. Endpoints may be added before and after start. Use it
    as a context manager, from one thread.
    """

    def __init__(self, seed: int = 0) -> None:
        self.endpoints: list[Endpoint] = []
        self._rng = random.Random(seed)
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None

    def add_tcp(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        transport: str = "tcp",
        gateway_timeout_s: float | None = None,
        record: int = 0,
    ) -> TcpEndpoint:
        """Add a listening port; port 0 is any free one, known when this runs.

        transport: `tcp` or `rtu-over-tcp`. gateway_timeout_s: see Endpoint. record: how many
        requests `seen` keeps. Raises OSError when it runs and the port cannot be had.
        """
        return self._add(TcpEndpoint(self._rng, transport, host, port, gateway_timeout_s, record))

    def add_serial(
        self,
        device: str,
        *,
        baudrate: int = 9600,
        parity: str = "N",
        stopbits: float = 1,
        bytesize: int = 8,
        gateway_timeout_s: float | None = None,
        record: int = 0,
    ) -> SerialEndpoint:
        """Add a serial device that RTU is served on; otherwise as add_tcp."""
        options = {
            "baudrate": baudrate,
            "parity": parity,
            "stopbits": stopbits,
            "bytesize": bytesize,
        }
        return self._add(SerialEndpoint(self._rng, device, options, gateway_timeout_s, record))

    def start(self) -> Simulator:
        """Serve; returns when every port is bound. Raises OSError when one cannot be."""
        self._allow_files()
        self._loop = Loop()
        self._thread = threading.Thread(target=self._loop.run, name="simulate", daemon=True)
        self._thread.start()
        try:
            for endpoint in self.endpoints:
                self._open(endpoint)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Close everything and wait for the thread to end; also when it does not run."""
        if self._loop is not None and self._thread is not None:
            for endpoint in self.endpoints:
                self._loop.call(endpoint.close)
            self._loop.stop()
            self._thread.join()
            self._loop = self._thread = None

    def __enter__(self) -> Simulator:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _add(self, endpoint: E) -> E:
        self.endpoints.append(endpoint)
        self._open(endpoint)
        return endpoint

    def _open(self, endpoint: Endpoint) -> None:
        loop = self._loop
        if loop is not None:
            loop.call(lambda: endpoint.open(loop))

    def _allow_files(self) -> None:
        """Raise the soft limit of open files: a port with a client takes two."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * len(self.endpoints) + _SPARE_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
