"""What the service shows and costs while it runs, noted every second, and what it publishes."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tools.bench.process import HOST
from tools.soak.beside import Beside
from tools.soak.devices import signature
from tools.soak.records import Load, Sample, Shown, Unanswered
from tools.soak.service import NoAnswer, Service

_PERIOD_S = 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_METRIC = re.compile(r"^(dlm_\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
_BUCKETS = "dlm_schedule_lateness_seconds_bucket"
_LE = re.compile(r'le="([^"]+)"')


class Watch(Beside):
    """Looks once a second, on a thread of its own, while the service is there. A context manager.

    What it saw is to be read when it has ended.
    """

    def __init__(self, service: Service) -> None:
        super().__init__("watch")
        self.shown: list[Shown] = []
        self.loads: list[Load] = []
        self.samples: list[Sample] = []
        self.unanswered: list[Unanswered] = []
        self.answered = 0
        self._service = service
        self._waited_ns: dict[str, int] = {}

    def run(self) -> None:
        while not self.stopping.wait(_PERIOD_S):
            pid, life = self._service.pid, len(self._service.lives)
            if pid is None:
                continue
            try:
                self._look(pid, life)
                self.answered += 1
            except (NoAnswer, ValueError, KeyError) as fault:
                self.unanswered.append(Unanswered(time.monotonic(), str(fault)))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it was killed meanwhile

    def _look(self, pid: int, life: int) -> None:
        begin_s = time.monotonic()
        load = self._service.data("/api/load/status")
        end_s = time.monotonic()
        self.loads.append(Load(begin_s, end_s, load["availableCapacity"], load["quality"]))
        for meter in self._service.data("/api/energy-meters"):
            live = meter["status"] == "online" and meter["quality"] == "good"
            values = meter["currentPower"], meter["voltage"], meter["current"]
            _note(self.shown, meter["id"], live, *values)
        status, text = self._service.ask("GET", "/metrics")
        if status != 200:
            raise NoAnswer(f"GET /metrics: {status}")
        took_s = time.monotonic() - begin_s
        lateness, metrics = _parse(text.decode())
        costs = (*cost(pid), took_s, self._waited_s(pid))
        self.samples.append(Sample(time.monotonic(), life, *costs, lateness, metrics))

    def _waited_s(self, pid: int) -> float:
        """What the thread that waited longest for a processor did since the last look, s.

        Source: Linux, "Scheduler statistics": /proc/<pid>/schedstat, second field.
        """
        before = self._waited_ns
        self._waited_ns = {
            str(file): int(file.read_text().split()[1])
            for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
        }
        waited_ns = (ns - before.get(name, ns) for name, ns in self._waited_ns.items())
        return max(waited_ns, default=0) / 1e9


class Listener:
    """Hears what is published of the meters. A context manager; retained messages are old."""

    def __init__(self, port: int) -> None:
        self.shown: list[Shown] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 2)
        self._client.connect_async(HOST, port, keepalive=5)

    def __enter__(self) -> Listener:
        self._client.loop_start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(
        self,
        client: Client,
        _userdata: Any,
        _flags: ConnectFlags,
        _reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        client.subscribe("dlm/soak/meters/+/reading")

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if message.retain or not message.payload:
            return
        reading = json.loads(message.payload)
        live = reading["status"] == "online" and reading["quality"] == "good"
        values = reading["currentPower"], reading["voltage"], reading["current"]
        _note(self.shown, reading["meterId"], live, *values)


def _note(
    shown: list[Shown],
    meter_id: str,
    live: bool,
    power_kw: float | None,
    voltage: float | None,
    current: float | None,
) -> None:
    """Note what is signed. What is said to be live and has no values has the number 0."""
    if power_kw is None or voltage is None or current is None:
        if live:
            shown.append(Shown(time.monotonic(), meter_id, live, 0, 0, 0.0))
        return
    shown.append(Shown(time.monotonic(), meter_id, live, *signature(voltage, current), power_kw))


def _parse(text: str) -> tuple[dict[float, int], dict[str, float]]:
    lateness: dict[float, int] = {}
    sums: dict[str, float] = {}
    for name, labels, value in _METRIC.findall(text):
        if name == _BUCKETS:
            lateness[float(_LE.findall(labels)[0])] = int(float(value))
        else:
            sums[name] = sums.get(name, 0.0) + float(value)
    return lateness, sums


def cost(pid: int) -> tuple[float, float, int, int, float, int]:
    """Give PSS and own memory in MB, open files, threads, processor time in s, bytes written.

    Source: Linux, Documentation/filesystems/proc.rst, smaps_rollup and io.
    """
    folder = Path(f"/proc/{pid}")
    stat = (folder / "stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(stat[11]) + int(stat[12])) / _TICKS_PER_S
    memory_kib = _fields(folder / "smaps_rollup")
    pss_mb = memory_kib["Pss:"] * 1024 / 1e6
    own_mb = (memory_kib["Anonymous:"] + memory_kib["Swap:"]) * 1024 / 1e6
    files = len(list((folder / "fd").iterdir()))
    written = _fields(folder / "io")["write_bytes:"]
    return pss_mb, own_mb, files, int(stat[17]), cpu_s, written


def _fields(file: Path) -> dict[str, int]:
    """Give the numbers of a file of `name: number` lines; others are left out."""
    lines = map(str.split, file.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if words[1:] and words[1].isdigit()}
