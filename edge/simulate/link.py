"""The way back to a client: replies leave at once, later in order, or later and overtaken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edge.simulate.loop import Callback, Loop, Timer


class Link:
    """One connection, or the one wire of a serial port: sends replies when they are due.

    write: sends one frame. answered: is told how many requests no longer wait for their answer.
    """

    def __init__(
        self, loop: Loop, write: Callable[[bytes], None], answered: Callable[[int], None]
    ) -> None:
        self.buffer = bytearray()
        self.heard_mono_s = 0.0
        self._loop = loop
        self._write = write
        self._answered = answered
        self._queue: deque[tuple[float, list[bytes]]] = deque()
        self._timers: set[Timer] = set()

    def reply(self, frames: list[bytes], delay_s: float, *, overtaken: bool = False) -> None:
        """Send `frames` after delay_s; in order, unless later replies may overtake this one."""
        if overtaken:
            self._call_later(delay_s, lambda: self._send(frames))
        elif delay_s <= 0 and not self._queue:
            self._send(frames)
        else:
            self._queue.append((delay_s, frames))
            if len(self._queue) == 1:
                self._call_later(delay_s, self._send_next)

    def drop(self) -> None:
        """Forget the replies that have not left: their way is gone."""
        overtaken = len(self._timers) - bool(self._queue)
        self._answered(len(self._queue) + overtaken)
        self._queue.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.buffer.clear()

    def close(self) -> None:
        """Hang up, where there is something to hang up."""

    def _send_next(self) -> None:
        self._send(self._queue.popleft()[1])
        if self._queue:
            # A meter is busy with one request at a time: the next one's delay begins now.
            self._call_later(self._queue[0][0], self._send_next)

    def _send(self, frames: list[bytes]) -> None:
        self._answered(1)
        for frame in frames:
            self._write(frame)

    def _call_later(self, delay_s: float, callback: Callback) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            callback()

        timer = self._loop.call_later(delay_s, fire)
        self._timers.add(timer)
