"""Debian's real Prometheus with the project's own configuration, watching a real service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.brokers import Mosquitto
from tests.building import a_registration
from tests.influx import Influxd
from tests.peers import free_port, need_program, wait_until
from tests.service import ROOT, Service

CONFIG = ROOT / "config" / "prometheus"
SITE = "harbour"
SHORT = "10s"
"""What all durations of an expression are made in a test, which has no hour to wait."""

_SERVICE_CONFIG = """
[site]
id = "harbour"
[load]
high_consumption_kw = 400
[journal]
commit_interval_s = 0.3
clock_wait_s = 0
[mqtt.brokers.default]
host = "{broker.host}"
port = {broker.port}
[sinks.influx]
url = "{influxd.url}"
database = "charging_data"
"""


class Prometheus:
    """Prometheus on a free loopback port, in a folder of its own; a context manager.

    target: host and port of the service. It scrapes and looks at its rules each second, and an
    alert fires as soon as it has held for one.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._port = free_port()
        shutil.copytree(CONFIG, folder)
        sites = folder / "sites" / "site.yml"
        sites.write_text(json.dumps([{"targets": [target], "labels": {"site": SITE}}]))
        _replace(folder / "prometheus.yml", r"(_interval|scrape_timeout): \d+s", r"\1: 1s")
        _replace(folder / "rules" / "alerts.yml", r"for: \d+[mh]", "for: 1s")
        self._command = [
            need_program("prometheus", "prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=error",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def get(self, path: str, **query: str) -> Any:
        """Ask its API; give the `data` of the answer. Raises OSError when there is none."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        """Give the series that an expression has now: each `metric` and `value`."""
        result: list[Any] = self.get("query", query=expression, time=f"{time.time()}")["result"]
        return result

    def wait_for_data(self, expression: str) -> None:
        """Wait until an expression has a value that is a number."""
        wait_until(
            lambda: any(row["value"][1] != "NaN" for row in self.query(expression)),
            timeout_s=30,
            what=expression,
        )

    def __enter__(self) -> Prometheus:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, timeout_s=30, what="Prometheus answering")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.query("vector(1)"))
        except OSError:
            return False


@contextmanager
def watched_demo(folder: Path) -> Iterator[tuple[Service, Prometheus]]:
    """Give the demo, with a broker and an uplink besides, and the Prometheus that watches it.

    Returns when Prometheus knows enough of it to tell rates.
    """
    for name in ("broker", "influxd", "service"):
        (folder / name).mkdir()
    with (
        Mosquitto(folder / "broker") as broker,
        Influxd(folder / "influxd") as influxd,
        Service(
            folder / "service",
            config=_SERVICE_CONFIG.format(broker=broker, influxd=influxd),
            arguments=("--demo",),
        ) as service,
        Prometheus(folder / "prometheus", service.base_url.removeprefix("http://")) as prometheus,
    ):
        speaking = {"protocol": "mqtt", "pollInterval": None, "meterType": "zone"}
        topics = {"topicPower": "cellar/power"}
        service.register(a_registration("Cellar", **speaking, communication=topics))
        prometheus.wait_for_data("sum(dlm_meter_up) == 4")
        prometheus.wait_for_data("count_over_time(dlm_line_messages_total[1m]) > 5")
        yield service, prometheus


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool; give how it ended and what it said."""
    command = [need_program("promtool", "prometheus"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shortened(expression: str) -> str:
    """Give an expression with all its durations made short."""
    return re.sub(r"(\[|\boffset )\d+[smhd]", rf"\g<1>{SHORT}", expression)


def filled_in(expression: str, variables: Mapping[str, str]) -> str:
    """Give an expression as Grafana asks it: `$name` is the variable's value."""
    for name, value in variables.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, expression
    return expression


def _replace(file: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, file.read_text())
    assert count, f"{file} has nothing like {pattern}"
    file.write_text(text)
