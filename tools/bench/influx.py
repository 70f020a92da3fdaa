"""A real InfluxDB 1.x with files of its own, from the start of a `with` block to its end."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from itertools import islice

import urllib3

from tools.bench.process import HOST, Bench, BenchError, Child, free_port, wait_for

DATABASE = "charging_data"
_BATCH = 5000
"""Points of a request, as InfluxDB's documentation advises."""
_CONFIG = """\
reporting-disabled = true
bind-address = "{host}:{rpc_port}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  cache-snapshot-write-cold-duration = "1s"
  compact-full-write-cold-duration = "1s"
[http]
  bind-address = "{host}:{port}"
  log-enabled = false
[monitor]
  store-enabled = false
"""


class Influx:
    """Debian's influxd; it lays everything into compacted files as soon as it has been idle."""

    def __init__(self, bench: Bench) -> None:
        found = shutil.which("influxd")
        if found is None:
            raise BenchError("influxd is missing; run: sudo apt-get install influxdb")
        self._program = found
        self._bench = bench
        self._stack = ExitStack()

    def __enter__(self) -> Influx:
        self.port = port = free_port()
        self._folder = self._bench.folder / f"influxd-{port}"
        self._folder.mkdir()
        config = self._folder / "influxdb.conf"
        config.write_text(
            _CONFIG.format(host=HOST, port=port, rpc_port=free_port(), folder=self._folder)
        )
        child = Child(self._bench, ["run", "-config", str(config)], self._program)
        self.child = self._stack.enter_context(child)
        self._http = urllib3.HTTPConnectionPool(HOST, port, timeout=60, retries=False)
        self._stack.enter_context(self._http)
        try:
            wait_for(lambda: self._answers(child), 30, "influxd's listening")
            self.create(DATABASE)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def create(self, database: str) -> None:
        """Make a further database."""
        self._ask("/query", f"q=CREATE DATABASE {database}")

    def count(self) -> int:
        """How many points it holds that have a power."""
        query = f"/query?db={DATABASE}&q=SELECT count(power_kw) FROM meter_reading"
        answer = self._http.request("GET", query.replace(" ", "+"))
        found = re.search(rb'\[0,(\d+)\]|Z",(\d+)\]', answer.data)
        return int(found[1] or found[2]) if found else 0

    def write(self, lines: Iterable[str]) -> None:
        """Send points in line protocol, with times in ms. Raises BenchError when one is refused."""
        remaining = iter(lines)
        while batch := list(islice(remaining, _BATCH)):
            self._ask(f"/write?db={DATABASE}&precision=ms", "\n".join(batch))

    def compacted_bytes(self) -> int:
        """Wait until all is in one TSM file per shard, and nothing in a log; give their size."""
        wait_for(self._is_compacted, 120, "influxd's compaction")
        return sum(path.stat().st_size for path in self._folder.glob("data/**/*.tsm"))

    def _is_compacted(self) -> bool:
        logged = sum(path.stat().st_size for path in self._folder.glob("wal/**/*.wal"))
        shards = [path for path in self._folder.glob(f"data/{DATABASE}/autogen/*") if path.is_dir()]
        files = [list(shard.glob("*.tsm")) for shard in shards]
        busy = any(self._folder.glob("data/**/*.tmp"))
        return bool(files) and not logged and not busy and all(len(some) == 1 for some in files)

    def _answers(self, child: Child) -> bool:
        child.check()
        with suppress(urllib3.exceptions.HTTPError):
            return self._http.request("GET", "/ping").status == 204
        return False

    def _ask(self, path: str, body: str) -> None:
        headers = {}
        if path == "/query":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        answer = self._http.request("POST", path, body=body.encode(), headers=headers)
        if answer.status >= 300:
            raise BenchError(f"influxd answered {answer.status}: {answer.data[:200]!r}")
