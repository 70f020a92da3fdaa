"""All three protocols together, and everything on: what it costs, and whether all is fresh.

On are the journal, an uplink to a real InfluxDB, one to the broker, a browser that follows live,
and a Prometheus that asks every few seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tools.bench.broker import Broker
from tools.bench.cost import first_reading_s, start_figure
from tools.bench.figure import Figure
from tools.bench.floors import ImportsFloor
from tools.bench.influx import DATABASE, Influx
from tools.bench.live import Browsers
from tools.bench.peers import Peers
from tools.bench.process import HOST, Bench, BenchError, Memory, wait_for
from tools.bench.service import Registration, Service
from tools.bench.sites import Sites

_MQTT, _HTTP, _MODBUS = 200, 50, 50
_ALL = _MQTT + _HTTP + _MODBUS
_HTTP_PERIOD_S = 5.0
_SCRAPE_EVERY_S = 5.0
_WANTED_MB, _WANTED_MODBUS_MB = 60, 40
_CONFIG = """
[journal]
clock_wait_s = 0
[sinks.influx]
url = "http://{host}:{port}"
database = "{database}"
[sinks.mqtt]
broker = "default"
"""
"""A clock of which nothing says that it is set counts at once, or else InfluxDB would get nothing
for five minutes."""
_AGE = re.compile(r"^dlm_meter_reading_age_seconds\{.*\} (\S+)$", re.MULTILINE)
"""Of meters whose last reading is live."""
_SENT = re.compile(r'^dlm_sink_sent_total\{sink="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class _Seen:
    """A service after a while with everything on. cpu: % of a core. metrics: as it gives them."""

    running_s: float
    memory: Memory
    floor: Memory
    cpu: float
    online: int
    metrics: str


def mixed(bench: Bench) -> list[Figure]:
    """200 MQTT, 50 HTTP and 50 Modbus meters, sinks and clients: memory, start, all fresh."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(bench))
        influx = stack.enter_context(Influx(bench))
        sites = stack.enter_context(Sites(bench, broker, _MQTT, _HTTP))
        lines = stack.enter_context(Peers(bench)).add(_MODBUS)
        config = _CONFIG.format(host=HOST, port=influx.port, database=DATABASE)

        def service(others: Sequence[Registration]) -> Service:
            return Service(bench, lines, others=others, broker_port=broker.port, config=config)

        others = [_registration(each) for each in sites.registrations]
        starts_s = []
        for _ in range(1 + bench.pick(11, 5)):
            with service(()) as started:
                starts_s.append(first_reading_s(started))
        del starts_s[0]  # it compiled the byte code, which costs memory too
        modbus, seen = _watched(bench, service(())), _watched(bench, service(others))
    meters = f"{_MQTT} MQTT, {_HTTP} HTTP and {_MODBUS} Modbus meters"
    ages_s = [float(age_s) for age_s in _AGE.findall(seen.metrics)]
    return [
        _memory(f"{_MODBUS} Modbus meters", modbus, _WANTED_MODBUS_MB),
        _memory(meters, seen, _WANTED_MB),
        Figure(
            f"fresh at that moment, {meters}",
            f"{seen.online} online, {len(ages_s)} with a live reading, oldest {max(ages_s):.1f} s",
            "",
            f"all {_ALL}, none older than 1.5 periods of the slowest",
            seen.online == len(ages_s) == _ALL and max(ages_s) <= 1.5 * _HTTP_PERIOD_S,
        ),
        start_figure(bench, f"process start, {_MODBUS} Modbus meters and both sinks,", starts_s),
    ]


def _watched(bench: Bench, service: Service) -> _Seen:
    """Let a service run for a while, followed by a browser and scraped."""
    with service, Browsers(bench, service.port, 1):
        wait_for(service.all_online, 30, "reading all meters")
        from_s, cpu_s = time.monotonic(), service.child.cpu_s()
        to_s = service.child.started_mono_s + bench.pick(60, 20)
        while (left_s := to_s - time.monotonic()) > 0:
            service.get("/metrics")
            time.sleep(min(left_s, _SCRAPE_EVERY_S))
        cpu = (service.child.cpu_s() - cpu_s) / (time.monotonic() - from_s) * 100
        memory = service.child.memory()  # before the floor shares its libraries
        online, metrics = service.online(), service.get("/metrics")
        running_s = time.monotonic() - service.child.started_mono_s
        with ImportsFloor(bench) as floor:
            seen = _Seen(running_s, memory, floor.memory(), cpu, online, metrics.decode())
    sent = {sink: float(count) for sink, count in _SENT.findall(seen.metrics)}
    if not all(sent.get(sink) for sink in ("influx", "mqtt")):
        raise BenchError(f"not every sink took something: {sent}")
    return seen


def _memory(meters: str, seen: _Seen, wanted_mb: int) -> Figure:
    memory, floor = seen.memory, seen.floor
    return Figure(
        f"memory, {meters}, {seen.running_s:.0f} s after start; everything on: journal, InfluxDB "
        f"and MQTT sinks, a browser, a scrape every {_SCRAPE_EVERY_S:.0f} s",
        f"{memory.pss:.1f} MB PSS ({memory.rss:.1f} RSS), CPU {seen.cpu:.1f} % of a core",
        f"interpreter with the same libraries {floor.pss:.1f} MB ({floor.rss:.1f} RSS)",
        f"≤ {wanted_mb} MB PSS",
        memory.pss <= wanted_mb,
        memory.pss / floor.pss,
    )


def _registration(registration: Registration) -> Registration:
    """Give a meter of either site a name of its own, and an HTTP one its period."""
    protocol = registration["protocol"]
    period = {"pollInterval": round(_HTTP_PERIOD_S * 1000)} if protocol == "http" else {}
    return {**registration, "name": f"{registration['name']} over {protocol}", **period}
