"""The service under test: its stored meters, its process, and questions to its REST API."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any

from tools.bench.peers import REGISTERS, Line
from tools.bench.process import HOST, Bench, BenchError, Child, free_port

_METERS = "/api/energy-meters"
_LISTENS_WITHIN_S = 30.0
_LATE_TICKS = re.compile(
    r'^dlm_schedule_lateness_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE
)
_MESSAGES = re.compile(
    r'^dlm_line_messages_total\{line="mqtt:default",result="([^"]+)"\} (\S+)$', re.MULTILINE
)

Registration = dict[str, Any]
"""The body that registers a meter."""


class Service:
    """A service that reads all units of `lines`, from the start of a `with` block to its end.

    others: further meters. broker_port: where the MQTT ones among them are heard. config: further
    lines of its configuration. journal: what it has recorded before, to be moved to it. cores:
    those it may run on; without any, all.
    """

    def __init__(
        self,
        bench: Bench,
        lines: Sequence[Line],
        period_s: float = 1.0,
        *,
        others: Sequence[Registration] = (),
        broker_port: int | None = None,
        config: str = "",
        journal: Path | None = None,
        cores: Collection[int] = (),
    ) -> None:
        self._bench = bench
        self._state_dir = Path(mkdtemp(dir=bench.folder))
        registrations = [*_over_modbus(lines, period_s), *others]
        self._meter_count = len(registrations)
        _store(self._state_dir / "state.json", registrations)
        if journal is not None:
            journal.rename(self._state_dir / journal.name)
        self._arguments = ["-m", "edge", "run", f"--state-dir={self._state_dir}"]
        if broker_port is not None:
            config += f'[mqtt.brokers.default]\nhost = "{HOST}"\nport = {broker_port}\n'
        if config:
            config_file = self._state_dir / "edge.toml"
            config_file.write_text(config)
            self._arguments.append(f"--config={config_file}")
        self._cores = cores
        self._stack = ExitStack()

    def __enter__(self) -> Service:
        self.port = free_port()
        arguments = [*self._arguments, f"--port={self.port}"]
        self.child = self._stack.enter_context(Child(self._bench, arguments))
        try:
            self.child.pin(self._cores)
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

    def late_ticks(self) -> dict[float, float]:
        """Ticks so far that began at most so late, s."""
        text = self.get("/metrics").decode()
        return {float(le): float(count) for le, count in _LATE_TICKS.findall(text)}

    def messages(self) -> dict[str, int]:
        """What became of the messages so far: how many were `decoded`, `superseded` and so on."""
        text = self.get("/metrics").decode()
        return {result: int(float(count)) for result, count in _MESSAGES.findall(text)}

    def _connect(self) -> _Connection:
        deadline_s = time.monotonic() + _LISTENS_WITHIN_S
        while True:
            self.child.check()
            connection = _Connection(HOST, self.port, timeout=10)
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


def _over_modbus(lines: Sequence[Line], period_s: float) -> list[Registration]:
    return [
        {
            "name": f"Meter {line.port}-{unit}",
            "location": "main-building",
            "protocol": "modbus",
            "meterType": "building",
            "pollInterval": round(period_s * 1000),
            "communication": {
                "host": HOST,
                "port": line.port,
                "unitId": unit,
                "registers": REGISTERS,
            },
        }
        for line in lines
        for unit in line.units
    ]


def _store(file: Path, registrations: Sequence[Registration]) -> None:
    """Write the meters as the service keeps them."""
    entries = [
        {"id": f"meter_{slot:06d}", "slot": slot, "registration": registration}
        for slot, registration in enumerate(registrations)
    ]
    file.write_text(json.dumps({"version": 1, "meters": entries}))
