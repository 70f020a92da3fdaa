"""The watchdog: a thread that looks at all heartbeats, and ends the process when a worker hangs.

A worker hangs that was not heard of within the time that it had said, and not until the next look
either. Systemd, or Docker, starts the process again; all stacks are in the log before, so that the
cause can be found.

Time is counted in looks, not on the clock. While the whole process stands still, stopped by a
signal, starved or suspended with the machine, there are no looks, and nobody's time passes.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NamedTuple, NoReturn

from edge.clock import Clock
from edge.heartbeat import Beat, Heartbeat, Heartbeats

LOOK_S = 1.0
"""How often it looks."""
BLIND_S = 5.0
"""Once its last look is older, nobody knows how the workers are."""
LAST_WORDS_S = 5.0
"""How long the log may take. It may be what hangs."""
_MOST_FRAMES = 100

log = logging.getLogger("edge.watchdog")


class Hang(NamedTuple):
    """A worker that hangs. promised_s: within what time it had said that it would be heard of."""

    worker: str
    silent_s: float
    promised_s: float


class Watchdog:
    """Looks at all heartbeats. end: ends the process, at once, after it was said who hangs."""

    def __init__(self, heartbeats: Heartbeats, clock: Clock, end: Callable[[], NoReturn]) -> None:
        self._heartbeats = heartbeats
        self._clock = clock
        self._end = end
        self._looked_mono_s = clock.mono_s()
        self._seen: dict[Heartbeat, tuple[Beat, float]] = {}
        """Each one's last beat, and for how long it was the last, s."""
        self._overdue: frozenset[Heartbeat] = frozenset()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def all_is_well(self) -> bool:
        """Whether it looks, and nobody is overdue. Any thread."""
        return not self._overdue and self._clock.mono_s() - self._looked_mono_s <= BLIND_S

    def look(self) -> list[Hang]:
        """Look at all heartbeats; gives who hangs: who was overdue at the last look already."""
        before, self._seen = self._seen, {}
        for heartbeat in self._heartbeats.current():
            beat = heartbeat.beat
            last_beat, silent_s = before.get(heartbeat, (None, 0.0))
            self._seen[heartbeat] = beat, silent_s + LOOK_S if beat is last_beat else 0.0
        overdue = {each for each, (beat, silent_s) in self._seen.items() if silent_s > beat[0]}
        hanging = overdue & self._overdue
        self._overdue = frozenset(overdue)
        self._looked_mono_s = self._clock.mono_s()
        found = ((each.worker, *self._seen[each]) for each in hanging)
        return [Hang(worker, silent_s, beat[0]) for worker, beat, silent_s in found]

    def _run(self) -> None:
        while True:
            self._clock.sleep(LOOK_S)
            hanging = self.look()
            if hanging:
                # From here on no lock may be waited for without end, be it the interpreter's own.
                faulthandler.dump_traceback_later(LAST_WORDS_S, exit=True, file=2)
                tell(hanging)
                self._end()


def tell(hanging: Sequence[Hang]) -> None:
    """Log who hangs, and the stacks of all threads: those that hang first."""
    for hang in hanging:
        log.critical(
            "%s hangs: it was not heard of for %.0f s, and had said %.0f s at most; the process "
            "ends. Report this with the stacks below.", *hang
        )  # fmt: skip
    workers = {hang.worker for hang in hanging}
    for name, lines in sorted(stacks(), key=lambda found: found[0] not in workers):
        log.critical("Thread %s (most recent call first):\n%s", name, "\n".join(lines))


def stacks() -> Iterator[tuple[str, list[str]]]:
    """Give each thread's name and its stack, a line for each frame, the innermost first.

    Without the text of the lines: the disk that they would be read from may be what hangs.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, innermost in sys._current_frames().items():
        lines: list[str] = []
        frame: FrameType | None = innermost
        while frame is not None and len(lines) < _MOST_FRAMES:
            code = frame.f_code
            lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
            frame = frame.f_back
        yield names.get(ident, f"{ident:#x}"), lines
