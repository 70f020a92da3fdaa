"""The service under test: its stored meters, its process, and questions to its REST API."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any

from tools.bench.peers import REGISTERS, Line
from tools.bench.process import Bench, BenchError, Child

_HOST = "127.0.0.1"
_METERS = "/api/energy-meters"
_LISTENS_WITHIN_S = 30.0


class Service:
    """A service that reads all units of `lines`, from the start of a `with` block to its end."""

    def __init__(self, bench: Bench, lines: Sequence[Line], period_s: float = 1.0) -> None:
        self._bench = bench
        self._state_dir = Path(mkdtemp(dir=bench.folder))
        self._meter_count = _store(self._state_dir / "state.json", lines, period_s)
        self._stack = ExitStack()

    def __enter__(self) -> Service:
        self.port = _free_port()
        arguments = ["run", f"--state-dir={self._state_dir}", f"--port={self.port}"]
        self.child = self._stack.enter_context(Child(self._bench, ["-m", "edge", *arguments]))
        try:
            self._connection = self._stack.enter_context(self._connect())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def get(self, path: str) -> bytes:
        """Fetch something over a connection that is kept. Raises BenchError unless it is given."""
        status, body = self._fetch(path)
        if status != 200:
            raise BenchError(f"the service answered {path} with {status}: {body[:200].decode()}")
        return body

    def _fetch(self, path: str, *, again: bool = True) -> tuple[int, bytes]:
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.child.check()
            self._connection.close()
            if again:  # the service closes what was idle for long
                return self._fetch(path, again=False)
            raise BenchError(f"the service did not answer {path}: {error}") from error

    def meters(self) -> list[dict[str, Any]]:
        """The meters as the list shows them, in the order of the lines and their units."""
        meters: list[dict[str, Any]] = json.loads(self.get(_METERS))["data"]
        return meters

    def online(self) -> int:
        """How many meters are online; none while the service says that it is not ready."""
        status, body = self._fetch(_METERS)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return 0
        return body.count(b'"status":"online"')  # to parse thousands would take the machine away

    def all_online(self) -> bool:
        """Whether every meter is."""
        return self.online() == self._meter_count

    def _connect(self) -> _Connection:
        deadline_s = time.monotonic() + _LISTENS_WITHIN_S
        while True:
            self.child.check()
            connection = _Connection(_HOST, self.port, timeout=10)
            try:
                connection.connect()
                return connection
            except ConnectionRefusedError:
                if time.monotonic() > deadline_s:
                    raise BenchError("the service did not begin to listen") from None
                time.sleep(0.005)


class _Connection(http.client.HTTPConnection):
    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _store(file: Path, lines: Sequence[Line], period_s: float) -> int:
    """Write the meters as the service keeps them; gives how many."""
    registrations = [
        {
            "name": f"Meter {line.port}-{unit}",
            "location": "main-building",
            "protocol": "modbus",
            "meterType": "building",
            "pollInterval": round(period_s * 1000),
            "communication": {
                "host": _HOST,
                "port": line.port,
                "unitId": unit,
                "registers": REGISTERS,
            },
        }
        for line in lines
        for unit in line.units
    ]
    entries = [
        {"id": f"meter_{slot:06d}", "slot": slot, "registration": registration}
        for slot, registration in enumerate(registrations)
    ]
    file.write_text(json.dumps({"version": 1, "meters": entries}))
    return len(entries)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
