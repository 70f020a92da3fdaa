"""The service under soak: started, ended and killed over and over, with one state folder."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tools.bench.process import HOST, ROOT, BenchError, free_port, wait_for
from tools.soak.devices import FAILSAFE_KW, GRID_CAPACITY_KW
from tools.soak.records import Life

COMMIT_INTERVAL_S = 4.0
STOPS_WITHIN_S = 5.0
_READY_WITHIN_S = 30.0
_TIMEOUT_S = 10.0
_CONFIG = f"""\
[site]
id = "soak"
grid_capacity_kw = {GRID_CAPACITY_KW}
[load]
failsafe_available_kw = {FAILSAFE_KW}
[journal]
commit_interval_s = {COMMIT_INTERVAL_S}
[mqtt.brokers.default]
host = "{HOST}"
port = {{broker_port}}
keepalive_s = 5
[sinks.influx]
url = "{{influx_url}}"
database = "charging_data"
timeout_s = 4
[sinks.mqtt]
"""


class NoAnswer(Exception):
    """The service did not answer; one sentence."""


class Service:
    """One thread starts and ends it; any thread may ask it. A context manager that ends it."""

    def __init__(
        self, folder: Path, broker_port: int, influx_url: str, environment: Mapping[str, str]
    ) -> None:
        self.lives: list[Life] = []
        self.log_file = folder / "service.log"
        self.state_dir = folder / "state"
        self._config = folder / "edge.toml"
        self._config.write_text(_CONFIG.format(broker_port=broker_port, influx_url=influx_url))
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("DLM_EDGE_")
        } | dict(environment)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that is ready; None while there is none."""
        process = self._process
        running = process is not None and self.lives[-1].ready_s and not self.lives[-1].end
        return process.pid if process is not None and running else None

    def start(self) -> None:
        """Start it and wait until it is ready. Raises BenchError when it is not."""
        arguments = ["run", "--config", str(self._config), "--state-dir", str(self.state_dir)]
        life = Life(time.monotonic())
        self.lives.append(life)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge", *arguments, "--port", str(self._port)],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._is_ready, _READY_WITHIN_S, "the service's being ready")
        life.ready_s = time.monotonic()

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        self._end("stopped", signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end("killed", signal.SIGKILL)

    def freeze(self) -> None:
        """Let it stand still, as a machine that is suspended does."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def reload(self) -> None:
        """Have it read its configuration again."""
        self._send(signal.SIGHUP)

    def check(self) -> None:
        """Raise BenchError when it ended by itself."""
        if self._process is not None and not self.lives[-1].end:
            code = self._process.poll()
            if code is not None:
                self.lives[-1].end, self.lives[-1].code = "ended by itself", code
                raise BenchError(
                    f"the service ended by itself with {code}; see {self.log_file.name}"
                )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Ask once, on a connection of its own. Any thread. Raises NoAnswer."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=_TIMEOUT_S)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def data(self, path: str) -> Any:
        """Get the `data` of an answer. Raises NoAnswer when it is no success."""
        status, content = self.ask("GET", path)
        if status != 200:
            raise NoAnswer(f"GET {path}: {status} {content[:200]!r}")
        return json.loads(content)["data"]

    @property
    def port(self) -> int:
        """Where it listens, in all its lives."""
        return self._port

    def export(self, output: Path) -> None:
        """Have `dlm-edge export` write all single readings, with the service ended."""
        arguments = ["export", "--config", str(self._config), "--state-dir", str(self.state_dir)]
        far = ["--to", "2200-01-01T00:00:00Z"]
        run = subprocess.run(
            [sys.executable, "-m", "edge", *arguments, *far, "--output", str(output)],
            cwd=ROOT,
            env={k: v for k, v in self._environment.items() if k != "LD_PRELOAD"},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise BenchError(f"the journal cannot be exported: {run.stderr.strip()}")

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, how: str, number: signal.Signals) -> None:
        self.check()
        assert self._process is not None
        life = self.lives[-1]
        life.end, life.ended_s = how, time.monotonic()
        self._process.send_signal(number)
        try:
            life.code = self._process.wait(4 * STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            life.code = self._process.wait()
        life.took_s = time.monotonic() - life.ended_s

    def _is_ready(self) -> bool:
        self.check()
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except NoAnswer:
            return False
