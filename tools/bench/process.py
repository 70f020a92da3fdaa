"""Children of the benchmark: started, looked at in /proc, and ended whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
C = TypeVar("C", bound="Child")

_END_WITHIN_S = 8.0
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A row cannot be measured; one sentence."""


@dataclass(frozen=True)
class Bench:
    """What every row is given. folder: for files of this run. quick: measure for a shorter time."""

    folder: Path
    quick: bool

    def pick(self, full: int, quick: int) -> int:
        """One number for a full run, another for a quick one."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Memory:
    """MB of 10^6 bytes. pss: shared pages split among those who share them; rss: counted whole."""

    pss: float
    rss: float


class Child:
    """A Python process, from the start of a `with` block to its end.

    arguments: what follows `python`, or another program. It gets lines of JSON on its standard
    input where asked, and gives them on its standard output; its standard error goes to a file.
    """

    def __init__(
        self, bench: Bench, arguments: Sequence[str], program: str = sys.executable
    ) -> None:
        self._name = " ".join(arguments[:3])
        self._log = bench.folder / f"{time.monotonic_ns()}.log"
        self.started_mono_s = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *arguments],
                cwd=ROOT,
                env=_environment(bench),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the benchmark, which ends them in order
            )
        self.pid = self._process.pid

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def say(self, message: Any) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Wait for a line. Raises BenchError when the child has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self.ended()
        return json.loads(line)

    def check(self) -> None:
        """Raise BenchError when the child has ended."""
        if self._process.poll() is not None:
            raise self.ended()

    def wait(self) -> None:
        """Wait until it ends by itself."""
        self._process.wait()

    def ended(self) -> BenchError:
        """Say that it is gone, with its last words."""
        last_words = self._log.read_text().strip().splitlines()[-1:] or ["it said nothing"]
        return BenchError(f"{self._name} ended: {last_words[0]}")

    def pin(self, cores: Collection[int]) -> None:
        """Keep it to these cores; before it has started a thread. Without any it runs anywhere."""
        if cores:
            os.sched_setaffinity(self.pid, cores)

    def cpu_s(self) -> float:
        """Processor time so far, user and system, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S

    def memory(self) -> Memory:
        """What it holds now."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        kib = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
        return Memory(kib["Pss:"] * 1024 / 1e6, kib["Rss:"] * 1024 / 1e6)


def one_core_and_the_others() -> tuple[set[int], set[int]]:
    """A core for what is measured alone, and those for all else; none where there is but one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else (set(), set())


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait until the condition holds. Raises BenchError when it does not within that time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise BenchError(f"{what} did not happen within {within_s:.0f} s")
        time.sleep(0.05)


def _environment(bench: Bench) -> dict[str, str]:
    """Without the caller's settings of the service, and with byte code kept, as installed."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DLM_EDGE_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**kept, "PYTHONPYCACHEPREFIX": str(bench.folder / "pycache")}
