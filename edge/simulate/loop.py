"""The simulator's event loop: files that became readable, timers, and calls from other threads.

A loop of our own and not asyncio's, because the simulator shares the machine with the service
that is measured against it: an echo over 500 connections, each used now and then, cost 106 µs of
CPU a request on asyncio and 30 µs on bare epoll (two-core development machine, Python 3.11).
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
Callback = Callable[[], object]

_CALL_TIMEOUT_S = 10.0


class Timer:
    """A call that is to come; a cancelled one never does."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call."""
        self.cancelled = True


class Loop:
    """One thread that runs callbacks; all methods but `call` and `stop` are for that thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._calls: SimpleQueue[Callback] = SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._thread_id = 0
        self.watch(self._wake, self._take_calls)

    def watch(self, file: int, callback: Callback) -> None:
        """Call back whenever the file descriptor is readable, has ended or has failed."""
        self._selector.register(file, selectors.EVENT_READ, callback)

    def unwatch(self, file: int) -> None:
        """Stop watching; before the descriptor is closed."""
        self._selector.unregister(file)

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Call back once, after delay_s; equal moments keep their order."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the loop's thread and give what it gives, or raise what it raises."""
        if threading.get_ident() == self._thread_id:
            return work()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  raised again where it was called
                future.set_exception(error)

        self._calls.put(run)
        os.eventfd_write(self._wake, 1)
        return future.result(_CALL_TIMEOUT_S)

    def run(self) -> None:
        """Run callbacks until stop(), then release everything that is the loop's own."""
        self._thread_id = threading.get_ident()
        while not self._stopping:
            for key, _ in self._selector.select(self._wait_s()):
                key.data()
            self._fire()
        self._selector.close()
        os.close(self._wake)

    def stop(self) -> None:
        """End run() after the callback that is running now."""
        self._calls.put(self._stop)
        os.eventfd_write(self._wake, 1)

    def _stop(self) -> None:
        self._stopping = True

    def _take_calls(self) -> None:
        os.eventfd_read(self._wake)
        while not self._calls.empty():
            self._calls.get_nowait()()

    def _wait_s(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _fire(self) -> None:
        now_mono_s = time.monotonic()
        while self._timers and self._timers[0][0] <= now_mono_s:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.callback()
