"""Sites that the dashboard's tests look at: a running service, its simulated meters, its past."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from playwright.sync_api import Locator, Page

from edge.simulate import DemoSite, Fault, FaultKind, Simulator
from edge.simulate.demo import DemoMeter, demo_meters, site_clock
from edge.tokenfile import Role
from edge.tokens import Tokens
from tests.building import a_registration
from tests.journals import HOUR_MS, Row, WrittenJournal, a_rollup, a_series
from tests.peers import free_port
from tests.service import Service

MAIN = "Main Building"
CONFIG = """
[site]
id = "cellar"
name = "Harbour Office"
grid_capacity_kw = 100.0
[load]
failsafe_available_kw = 10.0
[journal]
commit_interval_s = 0.2
"""

HOLE_HOURS_AGO = (9, 6)
"""While nothing was recorded in a day of `a_site_with_a_past`."""
_MINUTE_MS = 60_000


# --- A site with a past --------------------------------------------------------------------------


@contextmanager
def a_site_with_a_past(folder: Path) -> Iterator[Service]:
    """Give a service with four live meters, one that is not there, and a day with a hole in it."""
    service = Service(folder, config=CONFIG)
    nowhere = {"host": "127.0.0.1", "port": free_port(), "registers": {"power": 0}}
    with DemoSite() as meters:
        lost = {**meters.registrations[3], "name": "Cellar", "communication": nowhere}
        ids = write_state(service.state_dir, [*meters.registrations, lost])
        with WrittenJournal(service.state_dir) as journal:
            for number, meter in enumerate(demo_meters(len(meters.registrations))):
                _remember(journal, number, ids[number], meter)
        with service:
            service.wait_until(lambda: _is_online(service, MAIN), "reading")
            yield service


def write_state(state_dir: Path, registrations: list[dict[str, Any]]) -> list[str]:
    """Write the state of a service that knows these meters; gives their ids."""
    state_dir.mkdir()
    ids = [f"meter_{slot:06d}" for slot in range(len(registrations))]
    entries = [
        {"id": id_, "slot": slot, "registration": registration}
        for slot, (id_, registration) in enumerate(zip(ids, registrations, strict=True))
    ]
    (state_dir / "state.json").write_text(json.dumps({"version": 1, "meters": entries}))
    return ids


def meter_id(service: Service, name: str) -> str:
    """Give the id of a meter."""
    meters = service.data("/api/energy-meters")
    return str(next(meter["id"] for meter in meters if meter["name"] == name))


def _is_online(service: Service, name: str) -> bool:
    meters = service.data("/api/energy-meters")
    return any(meter["name"] == name and meter["status"] == "online" for meter in meters)


def _remember(journal: WrittenJournal, number: int, id_: str, meter: DemoMeter) -> None:
    """Write a meter's last day: readings each minute in blocks of an hour, and their hours."""
    now_ms, clock = time.time_ns() // 1_000_000, site_clock()
    first_ms, hole_ms, hole_end_ms = (now_ms - h * HOUR_MS for h in (24, *HOLE_HOURS_AGO))
    series = a_series(
        id_, name=meter.name, meter_type=meter.meter_type, stale_after_ms=3 * _MINUTE_MS
    )

    def values_at(ms: int) -> dict[str, float]:
        return meter.model.quantities(clock() + (ms - now_ms) / 1000)

    rows: list[Row] = [
        (4 * index + number + 1, ms, values_at(ms))
        for index, ms in enumerate(range(first_ms, now_ms - _MINUTE_MS, _MINUTE_MS))
        if not hole_ms <= ms < hole_end_ms
    ]
    for hour, of_hour in itertools.groupby(rows, lambda row: row[1] // HOUR_MS):
        block = list(of_hour)
        journal.add_block(series, block)
        kw = [values["power"] for _, _, values in block]
        mean_kw = sum(kw) / len(kw)
        journal.add_rollup(
            a_rollup(hour * HOUR_MS, series=series, mean_kw=mean_kw, min_kw=min(kw), max_kw=max(kw))
        )


# --- One meter that tests turn by hand -----------------------------------------------------------


class Plant:
    """A service, and a simulated meter at a port of its own that it may read.

    A context manager; with registered=False the service knows no meter yet.
    """

    REGISTERS: ClassVar[dict[str, Any]] = {
        name: {"address": 2 * i, "type": "float32"}
        for i, name in enumerate(("power", "energy", "voltage"))
    }

    def __init__(self, folder: Path, *, registered: bool = True) -> None:
        self.port = free_port()
        self.service = Service(folder, config=CONFIG, arguments=("--port", str(self.port)))
        self.simulator = Simulator()
        self.meter = self.simulator.add_tcp()
        self._unit = self.meter.add_unit(1)
        self._registered = registered
        self.turn(20.0)

    @property
    def base_url(self) -> str:
        """Where the service answers."""
        return self.service.base_url

    def turn(self, power_kw: float) -> None:
        """Set what the meter measures."""
        values = {"power": power_kw, "energy": 1234.5, "voltage": 230.5}
        self._unit.set_values(values, {"registers": self.REGISTERS})

    def unplug(self) -> None:
        """Take the meter away."""
        self.meter.set_fault(Fault(FaultKind.REFUSE))

    def __enter__(self) -> Plant:
        self.simulator.start()
        self.service.start()
        if self._registered:
            where = {"host": "127.0.0.1", "port": self.meter.port, "registers": self.REGISTERS}
            self.service.register(
                {
                    "name": MAIN,
                    "protocol": "modbus",
                    "meterType": "grid",
                    "pollInterval": 200,
                    "staleAfter": 1000,
                    "communication": where,
                }
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.service.kill()
        self.simulator.stop()


# --- A service that wants to know who asks -------------------------------------------------------


class Locked(NamedTuple):
    """A service that wants tokens, with one meter; the texts of a token of each role."""

    service: Service
    tokens: Tokens
    admin: str
    reader: str


@contextmanager
def a_locked_service(folder: Path) -> Iterator[Locked]:
    """Give a running service with two tokens: of anna, an admin, and of bob, a reader."""
    service = Service(folder, config=CONFIG)
    write_state(service.state_dir, [a_registration(MAIN)])
    tokens = Tokens(service.state_dir)
    admin, reader = (tokens.add(*who, 0) for who in (("anna", Role.ADMIN), ("bob", Role.READER)))
    with service:
        yield Locked(service, tokens, admin, reader)


# --- Where it stands on the pages ----------------------------------------------------------------


def available(page: Page) -> Locator:
    """Find the one big number of the overview and what is said of it."""
    return page.get_by_role("region", name="Available for charging")


def meter_row(page: Page, name: str) -> Locator:
    """Find a meter's row in the table of all."""
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name))
