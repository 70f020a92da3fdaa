"""Real servers that take line protocol: Debian's influxd 1.6 and VictoriaMetrics 1.79."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.peers import free_port, freeze, need_program, wait_until

_INFLUXD_CONFIG = """
reporting-enabled = false
bind-address = "127.0.0.1:{rpc_port}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
  auth-enabled = {auth}
  max-body-size = {max_body_size}
[logging]
  level = "error"
  suppress-logo = true
"""


class _Peer:
    """A program that serves HTTP on a free loopback port; a context manager.

    The port and what is stored stay the same over stop and start.
    """

    command: list[str]
    alive_path: str

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve; returns when it answers."""
        self._process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, timeout_s=20, what=f"{self.command[0]} answering")

    def stop(self) -> None:
        """End it in good order; harmless when it is not running."""
        self._end(kill=False)

    def kill(self) -> None:
        """End it at once, as when its machine loses power."""
        self._end(kill=True)

    def freeze(self) -> None:
        """Let it stand still with its connections open, as when a cable is pulled."""
        assert self._process is not None
        freeze(self._process)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send a request; give status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, f"{path}?{urlencode(query)}", body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, *, kill: bool) -> None:
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", self.alive_path, {})[0] < 300
        return False


class Influxd(_Peer):
    """Debian's influxd 1.6: InfluxDB 1.x. folder: for its files.

    admin: user and password; with it, nobody may do anything without one. max_body_size: bytes of
    a request; 0 is no limit.
    """

    alive_path = "/ping"

    def __init__(
        self, folder: Path, *, admin: tuple[str, str] | None = None, max_body_size: int = 25_000_000
    ) -> None:
        super().__init__()
        self._admin = admin
        config = folder / "influxdb.conf"
        config.write_text(
            _INFLUXD_CONFIG.format(
                folder=folder,
                port=self.port,
                rpc_port=free_port(),
                auth=str(admin is not None).lower(),
                max_body_size=max_body_size,
            )
        )
        self.command = [need_program("influxd", "influxdb"), "run", "-config", str(config)]

    def start(self) -> None:
        """Serve; returns when it answers, and knows its administrator."""
        super().start()
        if self._admin is not None:
            name, password = self._admin
            self.query(f"CREATE USER \"{name}\" WITH PASSWORD '{password}' WITH ALL PRIVILEGES")

    def query(self, statement: str, database: str = "") -> list[dict[str, Any]]:
        """Run a statement; give its rows, times in ms."""
        name, password = self._admin or ("", "")
        query = {"q": statement, "db": database, "epoch": "ms", "u": name, "p": password}
        _, body = self.ask("POST", "/query", query)
        document = json.loads(body)
        (result,) = document["results"]
        assert "error" not in result, result
        return [
            dict(zip(series["columns"], row, strict=True)) | series.get("tags", {})
            for series in result.get("series", [])
            for row in series.get("values", [])
        ]

    def points(self, database: str) -> list[dict[str, Any]]:
        """All points of `meter_reading`, with their tags."""
        return self.query("SELECT * FROM meter_reading", database)

    def count(self, database: str, field: str = "power_kw") -> int:
        """How many points have a field."""
        rows = self.query(f"SELECT count({field}) FROM meter_reading", database)
        return int(rows[0]["count"]) if rows else 0


class VictoriaMetrics(_Peer):
    """Debian's victoria-metrics, which takes InfluxDB's 2.x write path. folder: for its files.

    It is told to keep one sample of a series for a moment, which it does not do unasked.
    """

    alive_path = "/health"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.command = [
            need_program("victoria-metrics", "victoria-metrics"),
            f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-storageDataPath={folder}/data",
            "-retentionPeriod=100y",
            "-dedup.minScrapeInterval=1ms",
            "-memory.allowedBytes=64MB",
            "-loggerLevel=ERROR",
        ]

    def points(self, metric: str) -> Iterator[tuple[dict[str, str], int, float]]:
        """All samples of a metric as (labels, unix ms, value)."""
        self.ask("GET", "/internal/force_flush", {})
        _, body = self.ask("GET", "/api/v1/export", {"match[]": metric, "start": "0"})
        for line in body.splitlines():
            document = json.loads(line)
            for unix_ms, value in zip(document["timestamps"], document["values"], strict=True):
                yield document["metric"], unix_ms, value
