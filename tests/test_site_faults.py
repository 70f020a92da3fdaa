"""Faults that a site has, each with the real service, and what its operator sees of them.

Two things hold in every one. What cars may draw is never more than while all was well; and the log
says a change of state once, in a sentence, whatever is tried meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.building import a_registration
from tests.faults import WallClock, build_library, environment
from tests.peers import LibmodbusServer, PtyPair, need_program, wait_until
from tests.service import Service
from tests.siteworld import Device, Disk, Names, NameServer, private_network

METERS = "/api/energy-meters"
GRID_CAPACITY_KW, POWER_KW, MAX_POWER_KW = 100.0, 28.0, 60.0
FREE_KW = GRID_CAPACITY_KW - POWER_KW
"""While the meter is read; while it is not, less."""
FREE_WITHOUT_IT_KW = GRID_CAPACITY_KW - MAX_POWER_KW
CONFIG = (
    f"[site]\ngrid_capacity_kw = {GRID_CAPACITY_KW}\n"
    "[journal]\ncommit_interval_s = 0.2\nclock_wait_s = 0\n"
)
WORDS = {0: round(POWER_KW)}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of faults and clocks."""
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def clock(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """The wall clock of what is started from now on."""
    hands = WallClock(tmp_path / "hands")
    for name, value in (environment(library) | hands.variables).items():
        monkeypatch.setenv(name, value)
    return hands


def a_meter(name: str = "Main", **communication: Any) -> dict[str, Any]:
    """A registration of the meter that counts; where it is, is given."""
    where = {"registers": {"power": 0}, "timeout": 300, "retries": 0, **communication}
    return a_registration(name, pollInterval=200, maxPower=MAX_POWER_KW, communication=where)


def at(server: LibmodbusServer) -> dict[str, Any]:
    """Where a libmodbus server is."""
    return {"host": server.host, "port": server.port}


def is_online(service: Service, id_: str) -> bool:
    return bool(service.data(f"{METERS}/{id_}")["status"] == "online")


def said(service: Service, pattern: str) -> list[str]:
    """The log's messages of this run that a pattern is found in."""
    lines = [line.split("] ", 1)[-1] for line in service.log.splitlines()]
    return [line for line in lines if re.search(pattern, line)]


def alerts(service: Service) -> dict[str, str]:
    """What is wrong now: kind → message."""
    found = service.data("/api/alerts?active=true")
    assert len({alert["kind"] for alert in found}) == len(found)
    return {alert["kind"]: alert["message"] for alert in found}


def metric(service: Service, series: str) -> float:
    """A sample of /metrics, by name and labels as they stand there."""
    text = service.request("GET", "/metrics")[1]
    (value,) = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(value)


def polls(service: Service) -> float:
    """How often meters were read so far."""
    text = service.request("GET", "/metrics")[1]
    counts = re.findall(r'^dlm_polls_total\{.*result="ok"\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, counts))


def history(service: Service, id_: str) -> dict[str, float | None]:
    """All readings of a meter: time → power."""
    found: dict[str, float | None] = {}
    query = "resolution=raw&from=1970-01-01T00:00:00Z&to=2100-01-01T00:00:00Z&limit=1000"
    page = service.request("GET", f"{METERS}/{id_}/history?{query}")[1]
    while True:
        assert page["success"], page
        found.update({row["timestamp"]: row["currentPower"] for row in page["data"]})
        if page["next"] is None:
            return found
        page = service.request("GET", f"{METERS}/{id_}/history?{query}&cursor={page['next']}")[1]


@contextmanager
def capacity_watched(service: Service, most_kw: float = FREE_KW) -> Iterator[None]:
    """See to it that never more than `most_kw` is said to be free, whenever one asks."""
    seen: list[float] = []
    stopping = threading.Event()

    def ask() -> None:
        with suppress(OSError, HTTPException):  # it is being stopped or started
            status, answer = service.request("GET", "/api/load/status")
            if status == 200:
                seen.append(answer["data"]["availableCapacity"])

    def watch() -> None:
        while not stopping.wait(0.02):
            ask()
        ask()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    assert seen
    assert max(seen) <= most_kw


# --- The disk ------------------------------------------------------------------------------------

FREEZER = """
import signal
from pathlib import Path
from tests.faults import FREEZE, Call, FaultyFolder
folder = FaultyFolder(Path({folder!r}))
signal.signal(signal.SIGUSR1, lambda *_: folder.fail(Call.{call}, FREEZE, first={first}, times=1))
"""
"""Lets the service stand still at a system call of its own, once it is told to get ready for it."""


def wait_frozen(service: Service) -> None:
    """Wait until the service stands still."""

    def is_frozen() -> bool:
        return os.waitid(os.P_PID, service.process.pid, os.WSTOPPED | os.WNOHANG) is not None

    wait_until(is_frozen, what="the system call that it is to stand still at")


@pytest.mark.parametrize(
    ("call", "first"),
    [("WRITE", 1), ("WRITE", 2), ("SYNC", 1)],
    ids=["before a commit", "within a commit", "before its sync"],
)
def test_a_power_cut_in_mid_commit_costs_what_was_not_committed_and_no_more(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, first: int
) -> None:
    for name, value in environment(library).items():
        monkeypatch.setenv(name, value)
    with Disk(tmp_path / "state") as disk, LibmodbusServer(WORDS) as server:
        prelude = FREEZER.format(folder=str(disk.folder), call=call, first=first)
        with Service(tmp_path, config=CONFIG, prelude=prelude) as service:
            id_ = service.register(a_meter(**at(server)))["id"]
            service.wait_until(lambda: len(history(service, id_)) > 10, "recording")
            with capacity_watched(service):
                before = history(service, id_)
                service.signal(signal.SIGUSR1)
                wait_frozen(service)
                disk.cut_power()
                service.kill()
                disk.repair()
                service.start()
                service.wait_until(lambda: is_online(service, id_), "online")
                service.wait_until(
                    lambda: len(history(service, id_)) > len(before) + 5, "recording again"
                )
            assert before.items() <= history(service, id_).items()
            system = service.data("/api/system")
            assert (system["notices"], system["journal"]["notices"]) == ([], [])
            assert alerts(service) == {}
            # A start says that the capacity is not known yet, and nothing else is wrong.
            log = service.log.replace(" WARNING [EnergyMeterManager] The load status is", "")
            assert re.findall(r".* (?:ERROR|WARNING) .*", log) == []


def test_a_power_cut_while_a_meter_is_registered_leaves_all_others(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(library).items():
        monkeypatch.setenv(name, value)
    with Disk(tmp_path / "state") as disk, LibmodbusServer(WORDS) as server:
        prelude = FREEZER.format(folder=str(disk.folder), call="RENAME", first=2)
        config = f"{CONFIG}commit_interval_s = 3600\n".replace("commit_interval_s = 0.2\n", "")
        with Service(tmp_path, config=config, prelude=prelude) as service:
            first = service.register(a_meter(**at(server)))
            service.signal(signal.SIGUSR1)
            second = json.dumps(a_registration("Second", meterType="zone"))
            asking = subprocess.Popen(
                [need_program("curl", "curl"), "-s", "--json", second, service.base_url + METERS],
                stdout=subprocess.DEVNULL,
            )
            wait_frozen(service)
            disk.cut_power()
            service.kill()
            assert asking.wait(10), "nobody was told that it is registered"
            disk.repair()
            service.start()
            # It was being renamed, so nothing says which of the two it is; but it is whole.
            found = [meter["name"] for meter in service.data(METERS)]
            assert found in (["Main"], ["Main", "Second"])
            assert service.data(METERS)[0]["id"] == first["id"]
            assert service.data("/api/system")["notices"] == []


def test_a_full_disk_stops_no_reading_refuses_changes_and_loses_nothing(tmp_path: Path) -> None:
    with (
        Disk(tmp_path / "state") as disk,
        LibmodbusServer(WORDS) as server,
        Service(tmp_path, config=CONFIG) as service,
    ):
        id_ = service.register(a_meter(**at(server)))["id"]
        service.wait_until(lambda: is_online(service, id_), "online")
        with capacity_watched(service):
            ballast = disk.fill()
            service.wait_until(lambda: "journal_failing" in alerts(service), "told")
            full = "The journal cannot be written (the disk is full; make room); readings "
            full += "wait in memory."
            assert alerts(service) == {"journal_failing": full}
            assert service.data("/api/system")["journal"]["lastError"] == full
            assert metric(service, "dlm_journal_up") == 0
            assert is_online(service, id_)
            assert service.data("/api/load/status")["availableCapacity"] == FREE_KW

            status, answer = service.request("POST", METERS, a_registration("Second"))
            assert status >= 500
            assert answer["error"] == (
                "The change could not be stored in state.json (No space left on device), so "
                "nothing was changed; free space or repair the disk, then try again."
            )
            assert [meter["name"] for meter in service.data(METERS)] == ["Main"]

            failed = polls(service)
            service.wait_until(lambda: polls(service) > failed + 15, "reading on")
            assert len(said(service, re.escape(full))) == 1
            waiting = service.data("/api/system")["journal"]["waiting"]
            assert waiting > 10
            ballast.unlink()
            service.wait_until(lambda: metric(service, "dlm_journal_up") == 1, "recording")
            assert said(service, "The journal is written again") != []
        service.wait_until(lambda: alerts(service) == {}, "no alert")
        gaps = gaps_s(history(service, id_))
        assert max(gaps) < 1.0, "what was read meanwhile is there too"


def gaps_s(readings: dict[str, float | None]) -> list[float]:
    """Seconds between each reading and the next."""
    times = [unix_s(text) for text in readings]
    return [later - earlier for earlier, later in pairwise(times)]


def test_a_service_that_starts_on_a_full_disk_reads_its_meters(tmp_path: Path) -> None:
    with (
        Disk(tmp_path / "state") as disk,
        LibmodbusServer(WORDS) as server,
        Service(tmp_path, config=CONFIG) as service,
    ):
        id_ = service.register(a_meter(**at(server)))["id"]
        service.stop()
        ballast = disk.fill()
        service.start()
        with capacity_watched(service):
            service.wait_until(lambda: is_online(service, id_), "online")
            assert len(said(service, "local.token cannot be written")) == 1
            ballast.unlink()
            service.wait_until(lambda: len(history(service, id_)) > 5, "recording")
        service.wait_until(lambda: alerts(service) == {}, "no alert")


def test_a_disk_that_turns_read_only_is_said_and_measuring_goes_on(tmp_path: Path) -> None:
    failing = (
        "The journal cannot be written (the disk is read-only; check it for faults and mount it "
        "again); readings wait in memory."
    )
    with (
        Disk(tmp_path / "state") as disk,
        LibmodbusServer(WORDS) as server,
        Service(tmp_path, config=CONFIG) as service,
    ):
        id_ = service.register(a_meter(**at(server)))["id"]
        service.wait_until(lambda: len(history(service, id_)) > 10, "recording")
        before = history(service, id_)
        with capacity_watched(service):
            disk.turn_read_only()
            service.wait_until(lambda: "journal_failing" in alerts(service), "told")
            read = polls(service)
            service.wait_until(lambda: polls(service) > read + 15, "reading on")
            assert alerts(service) == {"journal_failing": failing}
            assert said(service, "journal") == [failing]
            status, answer = service.request("POST", METERS, a_registration("Second"))
            assert (status, answer["code"]) == (507, "NOT_STORED")
            assert "(Read-only file system), so nothing was changed" in answer["error"]
            assert before.items() <= history(service, id_).items(), "what there is, is shown"

            # Whoever restarts it before the disk is mended has meters and history all the same.
            service.stop()
            service.start()
            service.wait_until(lambda: is_online(service, id_), "online")
            service.wait_until(lambda: "journal_failing" in alerts(service), "told")
            assert alerts(service) == {"journal_failing": failing}
            assert before.items() <= history(service, id_).items()

            service.stop()
            disk.repair()
            service.start()
            service.wait_until(lambda: is_online(service, id_), "online")
        service.wait_until(lambda: metric(service, "dlm_journal_up") == 1, "recording")
        assert alerts(service) == {}
        assert before.items() <= history(service, id_).items()


# --- The serial line -----------------------------------------------------------------------------


class Adapter:
    """A USB adapter that gets another number with each plug, and a lasting name beside it."""

    def __init__(self, folder: Path) -> None:
        self.by_id = folder / "usb-FTDI_FT232R_A50285BI-if00-port0"
        self._folder = folder
        self._wire = PtyPair(folder)

    @property
    def meter_end(self) -> str:
        """Where the meter's end of the wire is."""
        return self._wire.right

    def plug(self, number: int) -> str:
        """Plug it in; gives the name that counts."""
        self._wire.left = str(self._folder / f"ttyUSB{number}")
        self._wire.plug()
        self.by_id.symlink_to(self._wire.left)
        return self._wire.left

    def unplug(self) -> None:
        """Pull it out."""
        self.by_id.unlink(missing_ok=True)
        self._wire.unplug()


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    """An adapter that is plugged in as number 0."""
    made = Adapter(tmp_path)
    made.plug(0)
    yield made
    made.unplug()


def test_an_adapter_that_comes_back_under_another_number_is_found_by_its_lasting_name(
    tmp_path: Path, adapter: Adapter
) -> None:
    serial: dict[str, Any] = {"transport": "rtu", "baudrate": 9600, "parity": "N", "unitId": 1}
    with (
        LibmodbusServer(WORDS, device=adapter.meter_end),
        Service(tmp_path, config=CONFIG) as service,
    ):
        id_ = service.register(a_meter(serialPort=str(adapter.by_id), **serial))["id"]
        service.wait_until(lambda: is_online(service, id_), "online")
        with capacity_watched(service):
            adapter.unplug()
            service.wait_until(lambda: not is_online(service, id_), "in error")
            load = service.data("/api/load/status")
            assert (load["quality"], load["availableCapacity"]) == ("degraded", FREE_WITHOUT_IT_KW)
            service.wait_until(
                lambda: "is not there" in str(service.data(f"{METERS}/{id_}")["lastError"]), "told"
            )
            (alert,) = [text for kind, text in alerts(service).items() if kind == "meter_error"]
            assert alert == (
                f'"Main" is in error: Serial port {adapter.by_id} is not there or is no serial '
                "port; check the adapter and serialPort."
            )
            adapter.plug(1)
            service.wait_until(lambda: is_online(service, id_), "online again")
            assert service.data("/api/load/status")["availableCapacity"] == FREE_KW
        assert len(said(service, "Main is in error: ")) == 1
        assert len(said(service, "Main is online")) == 2
        assert alerts(service) == {}


def test_an_adapter_that_is_named_by_its_number_is_told_of_the_lasting_name(
    tmp_path: Path, adapter: Adapter
) -> None:
    adapter.unplug()
    number = adapter.plug(0)
    with Service(tmp_path, config=CONFIG) as service:
        service.register(a_meter(serialPort=number, transport="rtu", baudrate=9600, parity="N"))
        adapter.unplug()
        adapter.plug(1)
        service.wait_until(lambda: "meter_error" in alerts(service), "told")
        service.wait_until(lambda: "is not there" in alerts(service)["meter_error"], "told why")
        assert alerts(service)["meter_error"].endswith(
            "check the adapter and serialPort, and better name it as in /dev/serial/by-id, since "
            "numbers change."
        )


# --- The network ---------------------------------------------------------------------------------

GATEWAY_PORT = 502


@contextmanager
def gateway_on(device: Device, to: LibmodbusServer, address: str = "") -> Iterator[None]:
    """A program on a device that passes on what comes to GATEWAY_PORT, until it is killed.

    address: where it listens, if that is not the device's.
    """
    address = address or device.address
    listens = f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{GATEWAY_PORT:04X}"
    with device.entered():
        program = subprocess.Popen(
            [
                need_program("socat", "socat"),
                f"TCP-LISTEN:{GATEWAY_PORT},bind={address},reuseaddr,fork",
                f"TCP:{to.host}:{to.port}",
            ],
            start_new_session=True,
        )
        wait_until(
            lambda: f" {listens} " in Path("/proc/thread-self/net/tcp").read_text(),
            what="the gateway",
        )
    try:
        yield
    finally:
        os.killpg(program.pid, signal.SIGKILL)  # those that it forked too
        program.wait()


def test_a_gateway_that_restarts_comes_back_by_itself(tmp_path: Path) -> None:
    with private_network(), Device("10.77.0.2") as device:
        with device.entered():
            server = LibmodbusServer(WORDS).start()
        where = {"host": device.address, "port": GATEWAY_PORT}
        try:
            with Service(tmp_path, config=CONFIG) as service:
                with gateway_on(device, server):
                    for unit in (1, 2, 3):
                        kind = "grid" if unit == 1 else "zone"
                        meter = a_meter(f"Unit {unit}", unitId=unit, **where)
                        service.register({**meter, "meterType": kind})
                    service.wait_until(lambda: all_in(service, "online"), "online")
                    device.unplug()  # it is dark before it ends any connection
                with capacity_watched(service):
                    service.wait_until(lambda: all_in(service, "error"), "in error")
                    load = service.data("/api/load/status")
                    assert load["availableCapacity"] == FREE_WITHOUT_IT_KW
                    device.plug()  # it is up again, but not its program
                    service.wait_until(
                        lambda: "refused the connection" in str(alerts_of_meters(service)), "told"
                    )
                    with gateway_on(device, server):
                        service.wait_until(lambda: all_in(service, "online"), "online again")
                        assert service.data("/api/load/status")["availableCapacity"] == FREE_KW
                for unit in (1, 2, 3):
                    assert len(said(service, f"Unit {unit} is in error: ")) == 1, service.log
                    assert len(said(service, f"Unit {unit} is online")) == 2
                assert len(said(service, "The load status is degraded")) == 2
        finally:
            server.stop()


def all_in(service: Service, status: str) -> bool:
    """Whether all meters have a status."""
    return {meter["status"] for meter in service.data(METERS)} == {status}


def alerts_of_meters(service: Service) -> list[str]:
    """What is wrong with meters now."""
    found = service.data("/api/alerts?active=true")
    return [alert["message"] for alert in found if alert["meterId"] is not None]


def test_a_meter_with_a_new_address_is_followed_by_its_name(tmp_path: Path) -> None:
    """Another device has the old address soon; what it measures is no business of the meter."""
    names = Names(tmp_path)
    names.set(**{"meter.plant": "10.77.0.2"})
    with private_network(), Device("10.77.0.2") as device:
        with device.entered():
            server = LibmodbusServer(WORDS).start()
            other = LibmodbusServer({0: 1}).start()
        try:
            with Service(tmp_path, config=CONFIG, prelude=names.prelude) as service:
                with gateway_on(device, server):
                    id_ = service.register(a_meter(host="meter.plant", port=GATEWAY_PORT))["id"]
                    service.wait_until(lambda: is_online(service, id_), "online")
                    device.move("10.77.0.3")  # what talks to the old address hears nothing
                    names.set(**{"meter.plant": device.address})
                with gateway_on(device, server), capacity_watched(service):
                    device.ip("addr", "add", "10.77.0.2/24", "dev", "eth0")
                    with gateway_on(device, other, "10.77.0.2"):
                        read = polls(service)
                        service.wait_until(lambda: polls(service) > read + 15, "reading")
                assert set(history(service, id_).values()) == {POWER_KW}
                assert is_online(service, id_)
                assert alerts(service) == {}
        finally:
            server.stop()
            other.stop()


def test_names_that_cannot_be_looked_up_at_the_start_are_looked_up_until_they_can(
    tmp_path: Path,
) -> None:
    names = Names(tmp_path)
    config = f"{CONFIG}[mqtt.brokers.default]\nhost = 'broker.plant'\n"
    advice = "as no name server answers; check this machine's network and name servers, or give"
    speaking = a_registration(
        "Speaking",
        protocol="mqtt",
        meterType="zone",
        pollInterval=None,
        communication={"topicPower": "power"},
    )
    with (
        private_network(),
        NameServer({"meter.plant": "127.0.0.1"}) as resolver,
        LibmodbusServer(WORDS) as server,
        Service(tmp_path, config=config, prelude=names.prelude) as service,
    ):
        id_ = service.register(a_meter(host="meter.plant", port=server.port))["id"]
        unnamed = service.register({**a_meter("Unnamed", **at(server)), "meterType": "zone"})["id"]
        service.register(speaking)
        service.kill()
        service.start()
        with capacity_watched(service):
            service.wait_until(lambda: len(alerts_of_meters(service)) == 2, "told")
            assert resolver.queries > 0
            assert sorted(alerts_of_meters(service)) == [
                "\"Main\" is in error: Host name 'meter.plant' cannot be looked up, "
                f"{advice} an IP address.",
                '"Speaking" is in error: The broker\'s name broker.plant cannot be looked up, '
                f"{advice} its IP address.",
            ]
            assert is_online(service, unnamed), "nobody else waits for a name"
            assert service.data("/api/load/status")["availableCapacity"] == FREE_WITHOUT_IT_KW
            resolver.is_silent = False
            service.wait_until(lambda: is_online(service, id_), "online")
        assert len(said(service, "Main is in error: ")) == 1
        assert len(said(service, "Speaking is in error: ")) == 1


# --- The clock -----------------------------------------------------------------------------------

IMPATIENT = "import edge.journal.wallclock\nedge.journal.wallclock._PATIENCE_S = 0.0\n"
"""A clock that is not set is told of at once, not after some minutes."""


def unix_s(text: str) -> float:
    """Read a time of the API."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_a_clock_in_1970_is_told_and_its_readings_are_moved_when_it_is_set(
    tmp_path: Path, clock: WallClock
) -> None:
    clock.set_to(60.0, synchronised=False)
    with (
        LibmodbusServer(WORDS) as server,
        Service(tmp_path, config=CONFIG, prelude=IMPATIENT) as service,
    ):
        id_ = service.register(a_meter(**at(server)))["id"]
        service.wait_until(lambda: is_online(service, id_), "online")
        with capacity_watched(service):
            service.wait_until(lambda: "clock_not_set" in alerts(service), "told")
            assert alerts(service) == {
                "clock_not_set": "The clock is not known to be set; set it, or see to it that "
                "the system finds a time server."
            }
            assert len(said(service, "The clock is not known to be set")) == 1
            assert unix_s(service.data(METERS)[0]["lastUpdate"]) < 3600
            service.wait_until(lambda: len(history(service, id_)) > 10, "recording")
            began_s = time.time()
            clock.set_to(began_s, synchronised=True)
            service.wait_until(lambda: alerts(service) == {}, "no alert")
            service.wait_until(lambda: said(service, "The clock was set by"), "said")
        known = service.data("/api/alerts")
        (ended,) = [alert for alert in known if alert["kind"] == "clock_not_set"]
        assert began_s - 60 < unix_s(ended["since"]) <= unix_s(ended["until"]) < began_s + 60
        times = [unix_s(text) for text in history(service, id_)]
        assert min(times) < began_s - 1.0, "those of before are there"
        assert min(times) > began_s - 60
        assert max(gaps_s(history(service, id_))) < 1.0
        assert service.stop() == 0


@pytest.mark.parametrize("by_s", [3600.0, -7200.0], ids=["forward", "back"])
def test_a_clock_that_steps_changes_nothing_but_the_times_that_are_stamped(
    tmp_path: Path, clock: WallClock, by_s: float
) -> None:
    clock.set_to(time.time(), synchronised=True)
    with LibmodbusServer(WORDS) as server, Service(tmp_path, config=CONFIG) as service:
        id_ = service.register(a_meter(**at(server)))["id"]
        service.wait_until(lambda: len(history(service, id_)) > 5, "recording")
        with capacity_watched(service):
            before, read = history(service, id_), polls(service)
            missed = metric(service, "dlm_schedule_missed_ticks_total")
            began_s = time.monotonic()
            clock.step(by_s, synchronised=True)
            service.wait_until(lambda: polls(service) > read + 15, "reading on")
            took_s = time.monotonic() - began_s
            assert took_s < 15 * 0.2 + 3.0
            assert metric(service, "dlm_schedule_missed_ticks_total") < missed + 20
            reading = service.data(f"{METERS}/{id_}/reading")
            assert (reading["quality"], reading["currentPower"]) == ("good", POWER_KW)
            assert 0 <= reading["ageSeconds"] < 3.0
            assert abs(unix_s(reading["timestamp"]) - clock.unix_s()) < 5
            service.wait_until(lambda: len(history(service, id_)) > len(before) + 15, "kept")
        assert before.items() <= history(service, id_).items(), "those before keep their times"
        assert alerts(service) == {}
        (line,) = said(service, "clock")
        set_by = re.fullmatch(
            r"The clock was set by (\S+) s; readings taken before keep their times\.", line
        )
        assert set_by is not None
        assert float(set_by[1]) == pytest.approx(by_s, abs=1.0)
        assert said(service, "is in error|is offline") == []


# --- The configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\0" * 300, "is not valid TOML: "),
        (b"\xff\xfe[site]\n", "is not UTF-8 text; save it as UTF-8"),
        (b"[site]\ngrid_capacity_kw = 1e9\n", "site.grid_capacity_kw: must be 0.1 to 1,000,000 kW"),
    ],
    ids=["zeros", "another encoding", "too much"],
)
def test_a_configuration_that_came_to_grief_leaves_the_one_before_in_force(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    """Zeros are what a power cut may leave of a file that was just saved."""
    with LibmodbusServer(WORDS) as server, Service(tmp_path, config=CONFIG) as service:
        id_ = service.register(a_meter(**at(server)))["id"]
        service.wait_until(lambda: is_online(service, id_), "online")
        with capacity_watched(service):
            service.config_file.write_bytes(content)
            service.signal(signal.SIGHUP)
            kept = "The configuration was not reloaded; the one before stays in force."
            service.wait_until(lambda: said(service, re.escape(kept)), "told")
            ticks = service.data("/api/system")["schedule"]["ticks"]
            service.wait_until(
                lambda: service.data("/api/system")["schedule"]["ticks"] > ticks + 1, "ticking"
            )
        (line,) = said(service, re.escape(str(service.config_file)))
        assert line.startswith(f"{service.config_file}: {fault}")
        assert service.data("/api/load/status")["gridCapacity"] == GRID_CAPACITY_KW
        service.wait_until(lambda: alerts(service), "an alert")
        assert line in alerts(service)["config_faulty"]
        rows = {row["name"]: row for row in service.data("/api/system")["health"]}
        assert rows["service"]["state"] == "fault"
        service.config_file.write_text(CONFIG)
        service.signal(signal.SIGHUP)
        service.wait_until(lambda: alerts(service) == {}, "all well")
