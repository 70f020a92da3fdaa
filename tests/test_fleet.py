"""Real services and a real server behind them: what the server holds is what the journals hold."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from edge.journal.history import History
from edge.journal.schema import FILE_NAME
from edge.simulate import Simulator
from edge.simulate.device import Source
from tests.building import a_registration
from tests.influx import Influxd, VictoriaMetrics
from tests.peers import wait_until
from tests.service import Service

SERVICES = 10
KILLED = 3
"""Which of them loses its power meanwhile."""
COMMUNICATION = {
    "host": "127.0.0.1",
    "registers": {"power": 0, "energy": 1, "powerScale": 1, "energyScale": 0.001},
}
CONFIG = """
[site]
id = "{site}"
[journal]
commit_interval_s = 0.3
clock_wait_s = 0
[sinks.influx]
url = "{url}"
{who}
"""

Readings = Mapping[tuple[str, int], float]
"""(meter name, unix ms) → power, kW."""


def powers_from(first_kw: float) -> Source:
    """Give a meter that shows a little more at each reading, from first_kw on."""
    counts = itertools.count()

    def values() -> dict[str, float]:
        count = next(counts)
        return {"power": first_kw + count % 1000, "energy": count / 1000}

    return values


def add_meter(simulator: Simulator, first_kw: float) -> dict[str, Any]:
    """Give the `communication` of a new simulated meter."""
    endpoint = simulator.add_tcp()
    endpoint.add_unit(1).follow(powers_from(first_kw), COMMUNICATION, refresh_s=0.0)
    return {**COMMUNICATION, "port": endpoint.port}


def make_service(folder: Path, **config: str) -> Service:
    """Give a service that is not started yet, with a folder of its own."""
    folder.mkdir()
    return Service(folder, config=CONFIG.format(**config))


def journal_of(service: Service) -> Readings:
    """Give what the journal of a service that has ended holds."""
    kept: dict[tuple[str, int], float] = {}
    with History(service.state_dir / FILE_NAME) as history:
        for chunk, _ in history.since(1, 2**62):
            for unix_ms, power in zip(chunk.unix_ms, chunk.values["power"], strict=True):
                assert power is not None
                assert (chunk.series.name, unix_ms) not in kept, "a reading is there twice"
                kept[chunk.series.name, unix_ms] = power
    return kept


def check_server(service: Service, held: Callable[[], Readings]) -> Readings:
    """Check that a server holds all of a stopped service's journal, and nothing else; the journal.

    held: what the server holds. The meters are gone: what was not sent before the stop is sent
    when the service runs again.
    """
    kept = journal_of(service)
    if held() != kept:
        service.start()
        wait_until(lambda: held() == kept, timeout_s=30, what="the journal in the server")
        assert service.stop() == 0
    assert journal_of(service) == kept
    return kept


def all_is_sent(service: Service) -> bool:
    """Tell whether the service says that nothing waits."""
    system = service.data("/api/system")
    return not system["journal"]["waiting"] and not system["sinks"][0]["backlog"]


# --- Ten services --------------------------------------------------------------------------------


def powers_in(server: VictoriaMetrics, site: str) -> Readings:
    """Give what the server holds of a site."""
    return {
        (labels["meter_name"], unix_ms): power
        for labels, unix_ms, power in server.points(f'meter_reading_power_kw{{site="{site}"}}')
        if "resolution" not in labels
    }


@contextlib.contextmanager
def fleet(folder: Path, url: str) -> Iterator[list[Service]]:
    """Give started services of distinct sites that feed one server."""
    services = []
    with contextlib.ExitStack() as stack:
        for number in range(SERVICES):
            site = f"site_{number}"
            who = 'org = "fleet"\ntoken = "any"'
            service = make_service(folder / site, site=site, url=url, who=who)
            stack.callback(service.kill)
            services.append(service)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(Service.start, services))
        yield services


def test_ten_services_feed_one_victoriametrics(tmp_path: Path) -> None:
    server_folder = tmp_path / "server"
    server_folder.mkdir()
    with VictoriaMetrics(server_folder) as server, fleet(tmp_path, server.url) as services:
        with Simulator() as simulator:
            for number, service in enumerate(services):
                communication = add_meter(simulator, 1000.0 * number)
                # The same name everywhere: only the site tells them apart.
                meter = a_registration("Main", pollInterval=200, communication=communication)
                service.register(meter)
            wait_until(
                lambda: all(len(powers_in(server, f"site_{n}")) > 5 for n in range(SERVICES)),
                timeout_s=30,
                what="readings of each site in the server",
            )
            killed = services[KILLED]
            killed.kill()
            before = len(powers_in(server, f"site_{KILLED}"))
            killed.start()
            wait_until(
                lambda: len(powers_in(server, f"site_{KILLED}")) > before + 10,
                timeout_s=30,
                what="new readings of the service that was killed",
            )
        for service in services:
            service.wait_until(partial(all_is_sent, service), "all is sent")
        with ThreadPoolExecutor(SERVICES) as pool:
            assert set(pool.map(Service.stop, services)) == {0}
        for number, service in enumerate(services):
            kept = check_server(service, partial(powers_in, server, f"site_{number}"))
            assert {name for name, _ in kept} == {"Main"}
            assert {power // 1000 for power in kept.values()} == {number}
        sites = {labels["site"] for labels, _, _ in server.points('{site!=""}')}
        assert sites == {f"site_{number}" for number in range(SERVICES)}


# --- One service, and everything fails now and then ----------------------------------------------

METERS = ("Grid", "Lift", "Roof")
CHAOS_S = 20.0
WHAT_HAPPENS = ("stop server", "kill server", "kill service", "nothing")
SEED = 4


def powers_of(server: Influxd) -> Readings:
    """Give what influxd holds."""
    return {
        (point["meter_name"], point["time"]): point["power_kw"]
        for point in server.points("charging_data")
    }


def test_influxd_holds_what_the_journal_holds_when_both_end_at_random(tmp_path: Path) -> None:
    """Debian's influxd 1.6 is stopped, killed and started; the service is killed and started."""
    server_folder = tmp_path / "server"
    server_folder.mkdir()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Influxd(server_folder))
        who = 'database = "charging_data"'
        service = make_service(tmp_path / "site", site="cellar", url=server.url, who=who)
        stack.callback(service.kill)
        service.start()
        with Simulator() as simulator:
            for number, name in enumerate(METERS):
                communication = add_meter(simulator, 1000.0 * number)
                service.register(
                    a_registration(name, pollInterval=200, communication=communication)
                )
            spread_chaos(service, server, random.Random(SEED))
        assert service.stop() == 0
        kept = check_server(service, lambda: powers_of(server))
    for number, name in enumerate(METERS):
        its_powers = [power for (of, _), power in kept.items() if of == name]
        assert len(its_powers) > CHAOS_S
        assert {power // 1000 for power in its_powers} == {number}


def spread_chaos(service: Service, server: Influxd, dice: random.Random) -> None:
    """Stop, kill and start server and service at random; both run in the end."""
    serving = True
    deadline_s = time.monotonic() + CHAOS_S
    while time.monotonic() < deadline_s:
        what = dice.choices(WHAT_HAPPENS, weights=(2, 2, 1, 7))[0]
        if what == "kill service":
            service.kill()
            service.start()
        elif not serving and what != "nothing":
            server.start()
            serving = True
        elif what != "nothing":
            (server.stop if what == "stop server" else server.kill)()
            serving = False
        time.sleep(dice.uniform(0.1, 0.4))
    if not serving:
        server.start()
