"""All three protocols together: what a large site costs in memory, and whether all is fresh."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

from tools.bench.broker import Broker
from tools.bench.figure import Figure
from tools.bench.floors import ImportsFloor
from tools.bench.peers import Peers
from tools.bench.process import Bench, wait_for
from tools.bench.service import Registration, Service
from tools.bench.sites import Sites

_MQTT, _HTTP, _MODBUS = 200, 50, 50
_ALL = _MQTT + _HTTP + _MODBUS
_HTTP_PERIOD_S = 5.0
_WANTED_MB = 60
_AGE = re.compile(r"^dlm_meter_reading_age_seconds\{.*\} (\S+)$", re.MULTILINE)
"""Of meters whose last reading is live."""


def mixed(bench: Bench) -> list[Figure]:
    """Memory with 200 MQTT, 50 HTTP and 50 Modbus meters together, and whether all are fresh."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(bench))
        sites = stack.enter_context(Sites(bench, broker, _MQTT, _HTTP))
        peers = stack.enter_context(Peers(bench))
        service = stack.enter_context(
            Service(
                bench,
                peers.add(_MODBUS),
                others=[_registration(each) for each in sites.registrations],
                broker_port=broker.port,
            )
        )
        wait_for(service.all_online, 30, "reading all meters")
        from_s, cpu_s = time.monotonic(), service.child.cpu_s()
        time.sleep(service.child.started_mono_s + bench.pick(60, 20) - from_s)
        cpu = (service.child.cpu_s() - cpu_s) / (time.monotonic() - from_s) * 100
        memory = service.child.memory()  # before the floor shares its libraries
        online = service.online()
        ages_s = [float(age_s) for age_s in _AGE.findall(service.get("/metrics").decode())]
        running_s = time.monotonic() - service.child.started_mono_s
        floor = stack.enter_context(ImportsFloor(bench)).memory()
    meters = f"{_MQTT} MQTT, {_HTTP} HTTP and {_MODBUS} Modbus meters"
    return [
        Figure(
            f"memory, {meters}, {running_s:.0f} s after start",
            f"{memory.pss:.1f} MB PSS ({memory.rss:.1f} RSS), CPU {cpu:.1f} % of a core",
            f"interpreter with the same libraries {floor.pss:.1f} MB ({floor.rss:.1f} RSS)",
            f"≤ {_WANTED_MB} MB PSS",
            memory.pss <= _WANTED_MB,
            memory.pss / floor.pss,
        ),
        Figure(
            f"fresh at that moment, {meters}",
            f"{online} online, {len(ages_s)} with a live reading, oldest {max(ages_s):.1f} s",
            "",
            f"all {_ALL}, none older than 1.5 periods of the slowest",
            online == len(ages_s) == _ALL and max(ages_s) <= 1.5 * _HTTP_PERIOD_S,
        ),
    ]


def _registration(registration: Registration) -> Registration:
    """Give a meter of either site a name of its own, and an HTTP one its period."""
    protocol = registration["protocol"]
    period = {"pollInterval": round(_HTTP_PERIOD_S * 1000)} if protocol == "http" else {}
    return {**registration, "name": f"{registration['name']} over {protocol}", **period}
