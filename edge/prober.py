"""Questions meters for those who ask over REST: a few at a time, and not for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing

from edge.drivers import Driver, Listener, load_driver
from edge.errors import RequestError
from edge.model import Meter, Probe

MOST_AT_A_TIME = 4
"""Each holds a client's thread, and its line, for seconds."""
DONE_WITHIN_S = 90.0


class Prober:
    """Any thread.

    probe: questions a meter that is asked, on its line's thread. make_driver: makes what hears one
    that speaks by itself, which is done on the caller's thread.
    """

    def __init__(
        self,
        probe: Callable[[Meter], Future[Probe]],
        make_driver: Callable[[Meter], Driver | Listener],
    ) -> None:
        self._probe = probe
        self._make_driver = make_driver
        self._free = threading.BoundedSemaphore(MOST_AT_A_TIME)

    def probe(self, meter: Meter) -> Probe:
        """Question a meter, registered or not.

        Blocks for up to DONE_WITHIN_S, and on a broker whose name nobody resolves for as long as
        that lasts. Raises RequestError when there is no time for it.
        """
        if not self._free.acquire(blocking=False):
            raise _busy(f"{MOST_AT_A_TIME} tests are under way; ask again in half a minute.")
        try:
            load_driver(meter.protocol)
            if meter.poll_interval_ms is None:
                with closing(self._make_driver(meter)) as listener:
                    return listener.probe(meter)
            done = self._probe(meter)
            try:
                return done.result(DONE_WITHIN_S)
            except (FutureTimeoutError, CancelledError):
                done.cancel()
                raise _busy(f"{meter.line} was too busy; ask again in half a minute.") from None
        finally:
            self._free.release()


def _busy(message: str) -> RequestError:
    return RequestError(503, "BUSY", message, headers=(("Retry-After", "30"),))
