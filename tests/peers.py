"""Peers for tests that the project did not write: libmodbus, mbpoll and socat, from Debian.

A peer that is not installed fails the test with one sentence that names its package. Run as a
program, this file is the child process in which LibmodbusServer keeps libmodbus's blocking calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_LIBMODBUS = "libmodbus.so.5"
_START_TIMEOUT_S = 10.0


def fail(message: str) -> Any:
    """Fail the running test with `message` alone."""
    import pytest

    pytest.fail(message, pytrace=False)


def wait_until(
    condition: Callable[[], object], *, timeout_s: float = 5.0, what: str = "the condition"
) -> None:
    """Wait until `condition` gives something true; fail the test after timeout_s."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            fail(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(0.005)


def free_port() -> int:
    """Give a loopback TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def freeze(process: subprocess.Popen[Any]) -> None:
    """Let a child stand still; returns when all its threads do. SIGCONT lets it go on."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def need_program(name: str, package: str) -> str:
    """Give the path of a program, or fail the test with the Debian package to install."""
    path = shutil.which(name)
    return path or str(fail(f"{name} is missing: install it with `apt-get install {package}`."))


def mbpoll(
    *arguments: str,
    unit_id: int = 1,
    address: int,
    count: int = 1,
    register_type: str = "4",
    timeout_s: float = 1.0,
) -> list[float]:
    """Read with Debian's mbpoll and give the values it printed.

    arguments: where, as mbpoll spells it: `-p 502 127.0.0.1`, or `-m rtu -b 9600 -P none DEVICE`.
    address: zero-based. register_type: mbpoll's -t: `4` holding, `3` input; `4:float` and so on.
    Raises MbpollError with mbpoll's words when it could not read.
    """
    command = [
        need_program("mbpoll", "mbpoll"),
        *("-0", "-1", "-q", "-a", str(unit_id), "-r", str(address), "-c", str(count)),
        *("-t", register_type, "-o", f"{timeout_s:.2f}", *arguments),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if run.returncode:
        raise MbpollError((run.stderr or run.stdout).strip())
    # "[20480]: \t65535 (-1)": the value, and for some its signed reading.
    return [float(value) for value in re.findall(r"^\[\d+\]:\s+(\S+)", run.stdout, re.M)]


class MbpollError(Exception):
    """Mbpoll could not read; its own words."""


class PtyPair:
    """Two serial devices with a wire between them, held by socat: `left` and `right`.

    The two paths are links that stay the same when the wire is plugged in again.
    """

    def __init__(self, folder: Path) -> None:
        self.left = str(folder / "ttyLeft")
        self.right = str(folder / "ttyRight")
        self._process: subprocess.Popen[bytes] | None = None

    def plug(self) -> None:
        """Make both devices; returns when they are there."""
        socat = need_program("socat", "socat")
        ends = [f"pty,raw,echo=0,link={path}" for path in (self.left, self.right)]
        self._process = subprocess.Popen([socat, *ends])
        wait_until(
            lambda: Path(self.left).exists() and Path(self.right).exists(),
            what="the socat pty pair",
        )

    def unplug(self) -> None:
        """Take both devices away, as when an adapter is pulled out; returns when they are gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def pty_pair(folder: Path) -> Iterator[PtyPair]:
    """Give a plugged-in PtyPair whose links are in `folder`."""
    pair = PtyPair(folder)
    pair.plug()
    try:
        yield pair
    finally:
        pair.unplug()


class LibmodbusServer:
    """A Modbus server made of Debian's libmodbus, in a process of its own; a context manager.

    device: serve RTU on this serial device as unit_id; without one, TCP on a free loopback port,
    where libmodbus answers every unit id. holding, inputs: words by address; from the lowest to
    the highest of each, holes read 0, and what is outside is answered with exception 2.
    """

    def __init__(
        self,
        holding: Mapping[int, int] | None = None,
        inputs: Mapping[int, int] | None = None,
        *,
        device: str = "",
        baudrate: int = 9600,
        unit_id: int = 1,
        port: int = 0,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self._tables = {"holding": dict(holding or {}), "inputs": dict(inputs or {})}
        self._options = {"device": device, "baudrate": baudrate, "unit_id": unit_id}
        self._child: subprocess.Popen[str] | None = None

    def start(self) -> LibmodbusServer:
        """Serve; returns when it listens. The port stays the same over stop and start."""
        try:
            ctypes.CDLL(_LIBMODBUS)
        except OSError:
            fail("libmodbus is missing: install it with `apt-get install libmodbus5`.")
        self._child = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._tell({**self._options, "port": self.port, **self._tables})
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], _START_TIMEOUT_S)
        answer = self._child.stdout.readline() if ready else ""
        if not answer:
            self.stop()
            fail("the libmodbus peer did not start; its own words are on stderr")
        self.port = json.loads(answer)["port"]
        return self

    def stop(self) -> None:
        """End the process, as when the device loses power."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def set_registers(
        self, holding: Mapping[int, int] | None = None, inputs: Mapping[int, int] | None = None
    ) -> None:
        """Change words at addresses that were given at the start; returns when it is done."""
        change = {"holding": dict(holding or {}), "inputs": dict(inputs or {})}
        for name, words in change.items():
            self._tables[name].update(words)
        self._tell(change)
        assert self._child is not None
        assert self._child.stdout is not None
        assert self._child.stdout.readline()

    def __enter__(self) -> LibmodbusServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _tell(self, message: Mapping[str, Any]) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(message) + "\n")
        self._child.stdin.flush()


# --- The child process -----------------------------------------------------------------------

_MAX_ADU = 260


class _Mapping(ctypes.Structure):
    """modbus_mapping_t of modbus.h, libmodbus 3.1."""

    _fields_ = (
        ("nb_bits", ctypes.c_int),
        ("start_bits", ctypes.c_int),
        ("nb_input_bits", ctypes.c_int),
        ("start_input_bits", ctypes.c_int),
        ("nb_input_registers", ctypes.c_int),
        ("start_input_registers", ctypes.c_int),
        ("nb_registers", ctypes.c_int),
        ("start_registers", ctypes.c_int),
        ("tab_bits", ctypes.POINTER(ctypes.c_uint8)),
        ("tab_input_bits", ctypes.POINTER(ctypes.c_uint8)),
        ("tab_input_registers", ctypes.POINTER(ctypes.c_uint16)),
        ("tab_registers", ctypes.POINTER(ctypes.c_uint16)),
    )


class _Child:
    """libmodbus with one mapping; a second thread takes changes from stdin."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._lib = ctypes.CDLL(_LIBMODBUS, use_errno=True)
        self._lib.modbus_new_tcp.restype = ctypes.c_void_p
        self._lib.modbus_new_rtu.restype = ctypes.c_void_p
        self._lib.modbus_mapping_new_start_address.restype = ctypes.POINTER(_Mapping)
        self._lock = threading.Lock()
        self._query = (ctypes.c_uint8 * _MAX_ADU)()
        starts_and_counts = []
        for name in ("holding", "inputs"):
            addresses = [int(address) for address in options[name]] or [0]
            starts_and_counts += [min(addresses), max(addresses) - min(addresses) + 1]
            if not options[name]:
                starts_and_counts[-1] = 0
        self._mapping = self._lib.modbus_mapping_new_start_address(0, 0, 0, 0, *starts_and_counts)
        self.change(options)
        self._context = ctypes.c_void_p(
            self._lib.modbus_new_rtu(
                options["device"].encode(),
                options["baudrate"],
                ctypes.c_char(b"N"),
                8,
                1,
            )
            if options["device"]
            else self._lib.modbus_new_tcp(b"127.0.0.1", 0)
        )
        self._lib.modbus_set_slave(self._context, options["unit_id"])

    def change(self, tables: dict[str, Any]) -> None:
        """Write words into the mapping, never in the middle of a reply."""
        mapping = self._mapping.contents
        with self._lock:
            for address, word in tables["holding"].items():
                mapping.tab_registers[int(address) - mapping.start_registers] = word
            for address, word in tables["inputs"].items():
                mapping.tab_input_registers[int(address) - mapping.start_input_registers] = word

    def take_changes(self) -> None:
        """Change what stdin says until it ends, and the process with it."""
        for line in sys.stdin:
            self.change(json.loads(line))
            print("{}", flush=True)
        os._exit(0)

    def serve_tcp(self, port: int) -> None:
        """Serve any number of connections, one request at a time."""
        listener = socket.create_server(("127.0.0.1", port))
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        connections: dict[int, socket.socket] = {}
        while True:
            ready, _, _ = select.select([listener, *connections.values()], [], [])
            for sock in ready:
                if sock is listener:
                    connection, _ = listener.accept()
                    connections[connection.fileno()] = connection
                    continue
                self._lib.modbus_set_socket(self._context, sock.fileno())
                if not self._serve_one():
                    connections.pop(sock.fileno()).close()

    def serve_rtu(self) -> None:
        """Serve the serial device; one that is gone is opened again until it is back."""
        announced = False
        while True:
            if self._lib.modbus_connect(self._context) == 0:
                if not announced:
                    print(json.dumps({"port": 0}), flush=True)
                    announced = True
                while self._serve_one():
                    pass
                self._lib.modbus_close(self._context)
            elif not announced:
                sys.exit("libmodbus cannot open the serial device")
            time.sleep(0.05)

    def _serve_one(self) -> bool:
        """Wait for a request and answer it; False when the connection or device is gone."""
        length = self._lib.modbus_receive(self._context, self._query)
        if length > 0:
            with self._lock:
                length = self._lib.modbus_reply(self._context, self._query, length, self._mapping)
        # 0 is a request to another unit on the wire.
        return bool(length >= 0)


def _child() -> None:
    options = json.loads(sys.stdin.readline())
    child = _Child(options)
    threading.Thread(target=child.take_changes, daemon=True).start()
    if options["device"]:
        child.serve_rtu()
    else:
        child.serve_tcp(options["port"])


if __name__ == "__main__":
    _child()
