"""System calls that fail on purpose: an LD_PRELOAD library (`faults.c`) and how to command it.

A test builds the library and starts a child process under it; the child says what is to fail in
which folder. Each folder counts for itself, so one child can try many folders at a time. The wall
clock of a child is set from outside: `WallClock`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import TracebackType

from tests.peers import fail, need_program

_SOURCE = Path(__file__).with_name("faults.c")
_VARIABLE = "DLM_TEST_FAULTS"
_CLOCK_VARIABLE = "DLM_TEST_CLOCK"

_TIME_OK, _TIME_ERROR = 0, 5
"""What adjtimex(2) returns of a clock that is synchronised, and of one that is not."""

EIO, ENOSPC, EROFS = errno.EIO, errno.ENOSPC, errno.EROFS
SHORT_WRITE = 0
"""Half of it is written, and what follows fails as on a disk that is full."""
FREEZE = -1
"""Nothing fails, but the process stands still before the call, as by SIGSTOP."""


class Call(IntEnum):
    """A kind of system call; the numbers are those of `faults.c`."""

    OPEN = 0
    READ = 1
    WRITE = 2
    SYNC = 3
    TRUNCATE = 4
    RENAME = 5
    UNLINK = 6


def build_library(folder: Path) -> Path:
    """Compile the library into `folder`; the test fails with one sentence when that cannot be."""
    compiler = need_program("gcc", "gcc")
    library = folder / "faults.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        fail(f"gcc cannot compile {_SOURCE.name}: install libc6-dev too.\n{run.stderr}")
    return library


def environment(library: Path) -> dict[str, str]:
    """Environment of a child process whose system calls can fail."""
    return {**os.environ, "LD_PRELOAD": str(library), _VARIABLE: str(library)}


class WallClock:
    """The wall clock of child processes, which runs as the machine's and can be set.

    variables: what makes it theirs, beside those of `environment`. The monotonic clock stays.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset_s = 0.0
        self.variables = {_CLOCK_VARIABLE: str(file)}
        self.set_to(time.time(), synchronised=None)

    def set_to(self, unix_s: float, *, synchronised: bool | None) -> None:
        """Set it. synchronised: what the kernel says of it; None for what it says anyway."""
        self._offset_s = unix_s - time.time()
        self._write(synchronised)

    def step(self, by_s: float, *, synchronised: bool | None) -> None:
        """Set it forward or back; `synchronised` as of `set_to`."""
        self._offset_s += by_s
        self._write(synchronised)

    def unix_s(self) -> float:
        """Give what it shows now, s."""
        return time.time() + self._offset_s

    def _write(self, synchronised: bool | None) -> None:
        state = {None: -1, True: _TIME_OK, False: _TIME_ERROR}[synchronised]
        # In place: the file is mapped into the memory of the children.
        with self._file.open("r+b" if self._file.exists() else "w+b", buffering=0) as file:
            file.write(struct.pack("=qq", round(self._offset_s * 1e9), state))


class FaultyFolder:
    """In the child process: a folder whose system calls can be made to fail; a context manager.

    Any thread.
    """

    _library: ctypes.CDLL | None = None
    _callback: object = None

    def __init__(self, path: Path) -> None:
        self._number = self._load().faults_watch(str(path.resolve()).encode())
        assert self._number >= 0, "too many folders are watched"

    def fail(self, call: Call, error: int, *, first: int = 1, times: int = 0) -> None:
        """Let calls fail with an errno or as SHORT_WRITE, or FREEZE.

        first: the first of them that does, counted from now and from 1. times: how many do; 0 for
        all until `heal`.
        """
        self._load().faults_arm(self._number, call.value, first, times, error)

    def heal(self) -> None:
        """Let nothing fail from now on."""
        self._load().faults_disarm(self._number)

    def calls(self, call: Call) -> int:
        """Give how many there were since `fail`, failed ones too."""
        return int(self._load().faults_calls(self._number, call.value))

    @property
    def failed(self) -> int:
        """How many calls failed since `fail`."""
        return int(self._load().faults_failed(self._number))

    @classmethod
    def on_sync(cls, callback: Callable[[Path], None]) -> None:
        """Have `callback` told each file or folder below a watched one that reached the disk.

        It is called in the thread that syncs, before that goes on.
        """

        def told(path: bytes) -> None:
            callback(Path(os.fsdecode(path)))

        cls._callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(told)
        cls._load().faults_on_sync(cls._callback)

    @classmethod
    def _load(cls) -> ctypes.CDLL:
        if cls._library is None:
            # Loaded already, before the program began: this only finds it again.
            cls._library = ctypes.CDLL(os.environ[_VARIABLE])
            # Not for the children of this process.
            os.environ.pop("LD_PRELOAD", None)
        return cls._library

    def __enter__(self) -> FaultyFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._load().faults_forget(self._number)
