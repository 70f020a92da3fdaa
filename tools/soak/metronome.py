"""How late the machine itself is: a program that only wakes up in time, and notes when it did not.

What is late while this is, too, is not the service's fault. A process of its own, with nothing to
do; the machine's time-slices and its other programs reach it as they reach the service.
"""

from __future__ import annotations

import json
import select
import sys
import time

from tools.bench.process import Bench, Child
from tools.soak.records import Late

PERIOD_S = 0.05
NOTED_S = 0.02
"""What is less late is not noted."""


class Metronome(Child):
    """Its process, from the start of a `with` block to its end."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench, ["-m", __name__])

    def late(self) -> list[Late]:
        """When it woke up late so far."""
        self.say("late")
        return [Late(*each) for each in self.hear()]


def _run() -> None:
    late: list[tuple[float, float]] = []
    due_mono_s = time.monotonic()
    while True:
        due_mono_s += PERIOD_S
        wait_s = max(0.0, due_mono_s - time.monotonic())
        asked, _, _ = select.select([sys.stdin], [], [], wait_s)
        if asked:
            if not sys.stdin.readline():
                return
            print(json.dumps(late), flush=True)
        now_mono_s = time.monotonic()
        if now_mono_s - due_mono_s > NOTED_S:
            late.append((now_mono_s, now_mono_s - due_mono_s))
            due_mono_s = now_mono_s


if __name__ == "__main__":
    _run()
