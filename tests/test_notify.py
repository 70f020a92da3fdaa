"""What systemd is told, by a socket as systemd's own: which words, when, and nothing without it."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.load import load_status
from edge.model import Meter, MeterState, Snapshot, Status
from edge.notify import EXTEND_EVERY_S, STATUS_EVERY_S, Notifier, NotifySocket, status_of
from edge.record import JournalState, Keeping, SinkState
from tests.building import a_meter, a_reading, a_registration
from tests.peers import free_port
from tests.service import Service
from tests.sites import write_state


def a_snapshot(*states: MeterState) -> Snapshot:
    return Snapshot(
        1, 0.0, 0, load_status(states, 500.0, 15.0), {state.meter.id: state for state in states}
    )


def online(meter: Meter) -> MeterState:
    return MeterState(meter, status=Status.ONLINE, reading=a_reading(power=1.0))


class Systemd:
    """Hears what a service says, as systemd does; abstract: by a name that is no file."""

    def __init__(self, folder: Path, *, abstract: bool = False) -> None:
        self.name = f"@{folder}/notify" if abstract else str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.name.replace("@", "\0"))
        self._socket.setblocking(False)
        self.messages: list[str] = []

    def heard(self) -> list[str]:
        """Give all that was said so far, a line each."""
        while True:
            try:
                self.messages += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    found = Systemd(tmp_path)
    yield found
    found.close()


class Site:
    """A notifier, and all that it asks."""

    def __init__(self, systemd: Systemd, **environment: str) -> None:
        self.systemd = systemd
        self.has_started = self.is_well = True
        self.keeping = Keeping(JournalState(recording=True), ())
        self.notifier = Notifier(
            NotifySocket({"NOTIFY_SOCKET": systemd.name, **environment}),
            lambda: self.has_started,
            lambda: self.is_well,
            lambda: self.keeping,
        )

    def tick(self, mono_s: float, snapshot: Snapshot | None = None) -> list[str]:
        """Let a tick pass; gives what was said at it."""
        before = len(self.systemd.heard())
        self.notifier.follow(replace(snapshot or a_snapshot(), mono_s=mono_s), ())
        return self.systemd.heard()[before:]


# --- The socket ----------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_is_one_datagram_of_lines(tmp_path: Path, abstract: bool) -> None:
    systemd = Systemd(tmp_path, abstract=abstract)
    to = NotifySocket({"NOTIFY_SOCKET": systemd.name})
    assert to.send("READY=1", "STATUS=12 of 14 meters online")
    assert systemd.heard() == ["READY=1", "STATUS=12 of 14 meters online"]
    systemd.close()


@pytest.mark.parametrize("name", ["", "notify", "vsock:2:1234"])
def test_without_a_socket_that_is_one_nothing_is_said(name: str) -> None:
    to = NotifySocket({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
    assert not to.is_there
    assert not to.send("READY=1")
    assert not to.watchdog_s


def test_a_message_that_nobody_takes_is_told_and_never_waited_for(systemd: Systemd) -> None:
    to = NotifySocket({"NOTIFY_SOCKET": systemd.name})
    sent = 0
    while to.send("READY=1"):  # until there is no room
        sent += 1
    assert 0 < sent < 100_000
    systemd.heard()
    assert to.send("READY=1")
    systemd.close()
    assert not to.send("READY=1")


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_fed_when_it_is_meant_for_this_process(
    environment: dict[str, str], period_s: float
) -> None:
    assert NotifySocket({"NOTIFY_SOCKET": "/run/it", **environment}).watchdog_s == period_s


# --- What is said, and when ----------------------------------------------------------------------


def test_the_service_is_ready_once(systemd: Systemd) -> None:
    site = Site(systemd)
    assert "READY=1" in site.tick(1.0)
    assert "READY=1" not in site.tick(1.1)


def test_a_start_that_takes_long_asks_for_more_time_as_long_as_it_gets_on(
    systemd: Systemd,
) -> None:
    site = Site(systemd)
    site.has_started = False
    more = "EXTEND_TIMEOUT_USEC=30000000"
    assert more in site.tick(1.0)
    assert more not in site.tick(1.1)
    assert more in site.tick(1.0 + EXTEND_EVERY_S)
    site.is_well = False
    assert more not in site.tick(1.0 + 2 * EXTEND_EVERY_S)
    site.has_started = site.is_well = True
    assert site.tick(1.1 + 2 * EXTEND_EVERY_S)[0] == "READY=1"
    assert "READY=1" in systemd.messages
    assert systemd.messages.count(more) == 2


def test_ready_is_said_again_when_there_was_no_room_for_it(systemd: Systemd) -> None:
    site = Site(systemd)
    while NotifySocket({"NOTIFY_SOCKET": systemd.name}).send("X=1"):
        pass
    site.notifier.follow(replace(a_snapshot(), mono_s=1.0), ())
    assert "READY=1" not in systemd.heard()
    assert "READY=1" in site.tick(1.1)


def test_the_watchdog_is_fed_four_times_in_its_time(systemd: Systemd) -> None:
    site = Site(systemd, WATCHDOG_USEC="8000000")
    fed = [tick for tick in range(100) if "WATCHDOG=1" in site.tick(100.0 + tick / 10)]
    assert fed == [0, 20, 40, 60, 80]


def test_the_watchdog_gets_nothing_while_a_worker_is_overdue_and_then_at_once(
    systemd: Systemd,
) -> None:
    site = Site(systemd, WATCHDOG_USEC="8000000")
    site.is_well = False
    assert not any("WATCHDOG=1" in site.tick(100.0 + tick / 10) for tick in range(100))
    site.is_well = True
    assert "WATCHDOG=1" in site.tick(110.0)


def test_the_status_is_told_when_it_is_another_and_not_all_the_time(systemd: Systemd) -> None:
    site = Site(systemd)
    first, second = a_meter("First"), a_meter("Second")
    one = a_snapshot(online(first), MeterState(second))
    both = a_snapshot(online(first), online(second))
    assert "STATUS=1 of 2 meters online; load failsafe" in site.tick(1.0, one)
    assert site.tick(1.1, both) == []
    assert site.tick(1.0 + STATUS_EVERY_S, both) == ["STATUS=2 of 2 meters online; load good"]
    assert site.tick(1.0 + 2 * STATUS_EVERY_S, both) == []


def test_the_status_says_what_does_not_work() -> None:
    journal = JournalState(last_error="The journal cannot be written (no space); check the disk.")
    sinks = (SinkState("influx", last_error="It is away."), SinkState("mqtt", connected=True))
    assert status_of(a_snapshot(), Keeping(journal, sinks)) == (
        "0 of 0 meters online; load unmetered; The journal cannot be written (no space); check the "
        "disk.; influx takes nothing"
    )


def test_a_reload_is_said_to_begin_and_to_be_over(systemd: Systemd) -> None:
    site = Site(systemd)
    site.notifier.reloading()
    site.notifier.reloaded()
    assert systemd.heard() == [], "before it is ready, ready would be a lie"
    site.tick(1.0)
    del systemd.messages[:]
    site.notifier.reloading()
    site.notifier.reloaded()
    reloading, since, ready = systemd.heard()
    assert (reloading, ready) == ("RELOADING=1", "READY=1")
    assert re.fullmatch(r"MONOTONIC_USEC=\d+", since)


def test_that_a_reload_is_over_is_said_again_when_there_was_no_room_for_it(
    systemd: Systemd,
) -> None:
    site = Site(systemd)
    site.tick(1.0)
    site.notifier.reloading()
    while NotifySocket({"NOTIFY_SOCKET": systemd.name}).send("X=1"):
        pass
    del systemd.messages[:]
    site.notifier.reloaded()
    site.notifier.follow(replace(a_snapshot(), mono_s=1.1), ())
    assert "READY=1" not in systemd.heard()
    assert site.tick(1.2) == ["READY=1"]
    assert site.tick(1.3) == []


# --- The real service ----------------------------------------------------------------------------

AT_ONCE = "import edge.journal.trouble; edge.journal.trouble._RETRY_S = 0.1"


def test_a_service_tells_how_it_is_from_its_start_to_its_end(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.name)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    with Service(tmp_path) as service:
        service.wait_until(lambda: "READY=1" in systemd.heard(), "ready")
        service.wait_until(lambda: systemd.heard().count("WATCHDOG=1") > 5, "alive")
        assert "STATUS=0 of 0 meters online; load unmetered" in systemd.messages
        address = {"host": "127.0.0.1", "port": free_port(), "registers": {"power": 0}}
        service.register(a_registration(communication=address))
        service.wait_until(
            lambda: any(line.startswith("STATUS=0 of 1 meters") for line in systemd.heard()),
            "the meter",
        )
        service.signal(signal.SIGHUP)
        service.wait_until(lambda: systemd.heard().count("READY=1") == 2, "reloaded")
        assert systemd.messages.count("RELOADING=1") == 1
        assert service.stop() == 0
    assert systemd.heard()[-2:] == ["STOPPING=1", "STATUS=Stopping"]


SLOW_STEPS = """
import time
from edge.api.server import ApiServer
from edge.cycle import Cycle
from edge.registry import Registry
def take_long(cls, name):
    real = getattr(cls, name)
    setattr(cls, name, lambda *given: (time.sleep(0.3), real(*given))[1])
take_long(Registry, "open")
take_long(Cycle, "change_meters")
take_long(ApiServer, "start")
take_long(Cycle, "run")
"""
"""The steps of a start, each slow enough for what does not wait for it to be seen."""


def test_a_service_is_ready_when_it_listens_and_has_its_meters(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.name)
    address = {"host": "127.0.0.1", "port": free_port(), "registers": {"power": 0}}
    write_state(tmp_path / "state", [a_registration("Main", communication=address)])
    port = free_port()
    service = Service(tmp_path, arguments=("--port", str(port)), prelude=SLOW_STEPS)
    try:
        service.launch().port = port
        service.wait_until(lambda: "READY=1" in systemd.heard(), "ready")
        assert [meter["name"] for meter in service.data("/api/energy-meters")] == ["Main"]
        service.wait_until(lambda: statuses(systemd), "its status")
        assert all("STATUS=0 of 1 meters online" in status for status in statuses(systemd))
        assert service.stop() == 0
    finally:
        service.kill()


def statuses(systemd: Systemd) -> list[str]:
    """What was said so far of how the service is."""
    return [line for line in systemd.heard() if line.startswith("STATUS=")]


def test_a_service_whose_watchdog_does_not_look_is_not_called_alive(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nobody would find who hangs, though the service still answers."""
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.name)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    blindfold = tmp_path / "blindfold"
    prelude = f"""
import os, time
import edge.watchdog
edge.watchdog.LOOK_S, edge.watchdog.BLIND_S = 0.05, 0.3
look = edge.watchdog.Watchdog.look
def look_unless_blind(watchdog):
    while os.path.exists({str(blindfold)!r}):
        time.sleep(0.01)
    return look(watchdog)
edge.watchdog.Watchdog.look = look_unless_blind
"""

    def feedings() -> int:
        """How many there are during six ticks, in which as many are due."""
        before, tick = systemd.heard().count("WATCHDOG=1"), tick_of(service)
        service.wait_until(lambda: tick_of(service) >= tick + 6, "ticking")
        return systemd.heard().count("WATCHDOG=1") - before

    with Service(tmp_path, prelude=prelude) as service:
        service.wait_until(lambda: feedings() > 0, "alive")
        blindfold.touch()
        service.wait_until(lambda: feedings() == 0, "silent")
        blindfold.unlink()
        service.wait_until(lambda: feedings() > 0, "alive again")
        assert service.stop() == 0


def tick_of(service: Service) -> int:
    """The tick that it shows."""
    return int(service.data("/api/system")["schedule"]["tick"])


def test_a_service_whose_journal_cannot_be_opened_is_ready_and_says_so(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.name)
    (tmp_path / "state" / "journal.db").mkdir(parents=True)
    with Service(tmp_path) as service:
        service.wait_until(lambda: "READY=1" in systemd.heard(), "ready")
        service.wait_until(
            lambda: any("The journal cannot be written" in line for line in systemd.heard()),
            "the journal's state",
        )


def test_a_service_is_ready_when_a_damaged_journal_was_set_aside(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.name)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal.db").write_bytes(b"This was a database." * 500)
    with Service(tmp_path, prelude=AT_ONCE) as service:
        service.wait_until(lambda: "READY=1" in systemd.heard(), "ready")
        assert "is set aside as journal.db.broken" in service.log


def test_a_service_is_not_ready_before_its_journal_is_open(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged one is salvaged first, which may take long; until then more time is asked for."""
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.name)
    go = tmp_path / "go"
    prelude = f"""
import os, time
from edge.journal.writer import Writer
opened = Writer._open
def open_late(writer):
    while not os.path.exists({str(go)!r}):
        time.sleep(0.01)
    return opened(writer)
Writer._open = open_late
"""
    with Service(tmp_path, prelude=prelude) as service:
        service.wait_until(
            lambda: "EXTEND_TIMEOUT_USEC=30000000" in systemd.heard(), "asking for time"
        )
        assert service.data("/api/system")
        assert "READY=1" not in systemd.heard()
        go.touch()
        service.wait_until(lambda: "READY=1" in systemd.heard(), "ready")
