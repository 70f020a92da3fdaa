"""The watchdog: who hangs is found, whoever it is, and nobody else is taken for one who hangs.

The processes here are real ones in which one thing was made to hang before the service began. What
each worker may take is cut short there, so that it does not take minutes.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge.journal.writer
import edge.line
import edge.sinks.influx
import edge.sinks.mqtt
from edge.api import Request
from edge.api.connection import ANSWER_WITHIN_S
from edge.api.history import HistoryAnswers
from edge.api.progress import tell_progress_to
from edge.api.readers import Readers
from edge.app import RELOAD_WITHIN_S, TICK_WITHIN_S
from edge.heartbeat import Heartbeat, Heartbeats
from edge.journal import salvage
from edge.notify import FEEDINGS
from edge.tokenfile import Role
from edge.tokens import Tokens
from edge.watchdog import BLIND_S, LOOK_S, Hang, Watchdog, stacks, tell
from tests.building import FakeClock, a_registration
from tests.journals import HOUR_MS, START_MS, WrittenJournal, a_series
from tests.peers import free_port, freeze, wait_until
from tests.service import Service
from tests.test_analytics import Past


class Watched:
    """A watchdog on a clock of its own, and one worker."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.heartbeats = Heartbeats()
        self.worker = Heartbeat("journal")
        self.heartbeats.add(self.worker)
        self.watchdog = Watchdog(self.heartbeats, self.clock, lambda: pytest.fail("it ended"))

    def look(self, after_s: float = LOOK_S) -> list[Hang]:
        self.clock.turn(after_s)
        return self.watchdog.look()


# --- Who hangs -----------------------------------------------------------------------------------


def test_a_worker_hangs_that_is_not_heard_of_within_its_time() -> None:
    watched = Watched()
    watched.worker.due_within(5.0)
    found = [watched.look() for _ in range(8)]
    assert found[:-1] == [[]] * 7, "five seconds, the look that begins them, and a second one"
    assert found[-1] == [Hang("journal", 7.0, 5.0)]


def test_a_worker_that_waits_for_work_does_not() -> None:
    watched = Watched()
    watched.worker.due_within(0.1)
    watched.worker.rest()
    assert not any(watched.look() for _ in range(1000))


def test_a_worker_that_has_ended_does_not() -> None:
    watched = Watched()
    watched.worker.due_within(0.1)
    watched.look()
    watched.worker.end()
    assert not any(watched.look() for _ in range(10))


def test_a_worker_that_is_heard_of_at_the_last_moment_does_not() -> None:
    watched = Watched()
    watched.worker.due_within(3.0)
    while watched.watchdog.all_is_well:
        assert not watched.look()
    watched.worker.due_within(3.0)
    assert not watched.look()
    assert watched.watchdog.all_is_well


def test_all_who_hang_are_named() -> None:
    watched = Watched()
    other = Heartbeat("uplink-influx")
    watched.heartbeats.add(other)
    for worker in (watched.worker, other):
        worker.due_within(1.0)
    found: list[Hang] = []
    while not found:
        found = watched.look()
    assert {hang.worker for hang in found} == {"journal", "uplink-influx"}


@given(
    promise_s=st.floats(1.0, 60.0),
    delays_s=st.lists(st.floats(0.0, 1000.0), min_size=20, max_size=20),
)
def test_time_in_which_the_whole_process_stood_still_counts_for_nobody(
    promise_s: float, delays_s: list[float]
) -> None:
    watched = Watched()
    for number, delay_s in enumerate(delays_s):
        if number % max(1, int(promise_s)) == 0:  # as often as it said, were there no delays
            watched.worker.due_within(promise_s)
        assert not watched.look(LOOK_S + delay_s)


# --- Whether all is well -------------------------------------------------------------------------


def test_all_is_not_well_as_soon_as_somebody_is_overdue() -> None:
    watched = Watched()
    watched.worker.due_within(2.0)
    found: list[Hang] = []
    while watched.watchdog.all_is_well:
        found = watched.look()
    assert not found, "it is said before anybody is taken for one who hangs"


def test_all_is_not_well_while_nobody_looks() -> None:
    watched = Watched()
    watched.look()
    watched.clock.turn(BLIND_S)
    assert watched.watchdog.all_is_well
    watched.clock.turn(0.1)
    assert not watched.watchdog.all_is_well
    watched.look(0.0)
    assert watched.watchdog.all_is_well


# --- What is said --------------------------------------------------------------------------------


def wait_here(go: threading.Event) -> None:
    go.wait()


def test_the_stacks_of_all_threads_are_told_and_first_who_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()
    thread = threading.Thread(target=wait_here, args=(go,), name="uplink-influx")
    thread.start()
    try:
        wait_until(lambda: any("wait_here" in line for line in dict(stacks())[thread.name][:4]))
        with caplog.at_level(logging.CRITICAL):
            tell([Hang("uplink-influx", 192.4, 180.0)])
    finally:
        go.set()
        thread.join()
    said, first, *others = (record.getMessage() for record in caplog.records)
    assert said == (
        "uplink-influx hangs: it was not heard of for 192 s, and had said 180 s at most; the "
        "process ends. Report this with the stacks below."
    )
    assert first.startswith("Thread uplink-influx (most recent call first):\n  File ")
    assert re.search(r'File ".*test_watchdog.py", line \d+ in wait_here', first)
    assert any(other.startswith("Thread MainThread ") for other in others)


# --- Real processes: each kind of worker, made to hang -------------------------------------------

LOOKS = """
import threading
import edge.watchdog
edge.watchdog.LOOK_S = 0.05
def hang(*_arguments, **_options):
    threading.Event().wait()
"""


class Case(NamedTuple):
    """What hangs, in a process. worker: its name, a pattern. begin: has it do what hangs."""

    worker: str
    prelude: str
    begin: Callable[[Service], Any] | None = None
    config: str = ""


def register(**changes: Any) -> Callable[[Service], Any]:
    return lambda service: service.request("POST", "/api/energy-meters", a_registration(**changes))


def send(service: Service, *lines: str, body: str = "") -> socket.socket:
    """Send a request and do not wait for an answer."""
    client = socket.create_connection(("127.0.0.1", service.port))
    head = [*lines, f"Host: 127.0.0.1:{service.port}", f"Content-Length: {len(body)}", "", body]
    client.sendall("\r\n".join(head).encode())
    return client


def try_a_meter(service: Service) -> socket.socket:
    lines = "POST /api/energy-meters/test HTTP/1.1", "Content-Type: application/json"
    return send(service, *lines, body=json.dumps(a_registration()))


def send_a_wrong_secret(service: Service) -> socket.socket:
    token = Tokens(service.state_dir).add("anna", Role.ADMIN, 0)
    wrong = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    return send(service, "GET /api/system HTTP/1.1", f"Authorization: Bearer {wrong}")


def look_on(service: Service) -> socket.socket:
    return send(
        service,
        "GET /ws HTTP/1.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )


CASES = {
    "a line that asks": Case(
        r"line-tcp://127\.0\.0\.1:\d+",
        "import edge.line, edge.drivers.modbus\n"
        "edge.line.MARGIN_S, edge.line.MOST_WAITS = 0.3, 0\n"
        "edge.drivers.modbus.ModbusDriver.open = hang",
        register(),
    ),
    "a line that hears": Case(
        "line-mqtt:default",
        "import edge.line, edge.drivers.mqtt\n"
        "edge.line.MARGIN_S, edge.line.MOST_WAITS = 0.3, 0\n"
        "edge.drivers.mqtt.MqttListener.open = hang",
        register(
            protocol="mqtt", pollInterval=None, communication={"topicPower": "site/main/power"}
        ),
    ),
    "a probe": Case(
        r"line-tcp://127\.0\.0\.1:\d+",
        "import edge.line, edge.drivers.modbus\n"
        "edge.line.PROBE_WITHIN_S = 0.3\n"
        "edge.drivers.modbus.ModbusDriver.probe = hang",
        try_a_meter,
    ),
    "the journal": Case(
        "journal",
        "import edge.journal.writer\n"
        "edge.journal.writer.PIECE_WITHIN_S = 0.3\n"
        "edge.journal.writer.Writer._work = hang",
    ),
    "an uplink from the journal": Case(
        "uplink-influx",
        "import edge.sinks.influx, edge.uplink\n"
        "edge.uplink.PIECE_WITHIN_S = 0.3\n"
        "edge.sinks.influx.InfluxSink.prepare = hang",
        config='[sinks.influx]\nurl = "http://127.0.0.1:9"\n',
    ),
    "a request of an uplink": Case(
        "uplink-influx",
        "import edge.sinks.influx, edge.sinks.influx.server\n"
        "edge.sinks.influx.MARGIN_S, edge.sinks.influx.MOST_WAITS = 0.3, 0\n"
        "edge.sinks.influx.server.Server.ask = hang",
        config='[sinks.influx]\nurl = "http://127.0.0.1:9"\ndatabase = "site"\n',
    ),
    "an uplink that connects": Case(
        "uplink-mqtt",
        "import edge.sinks.mqtt\n"
        "edge.sinks.mqtt.OPEN_WITHIN_S = 0.3\n"
        "edge.sinks.mqtt.MqttSink._open = hang",
        config="[sinks.mqtt]\n",
    ),
    "an answer": Case(
        r"http-\d+",
        "import edge.api.connection, edge.api.dispatch\n"
        "edge.api.connection.ANSWER_WITHIN_S = 0.3\n"
        "edge.api.dispatch.Api.handle = hang",
        lambda service: send(service, "GET /api/system HTTP/1.1"),
    ),
    "the door": Case(
        "http",
        "import edge.api.server\n"
        "edge.api.server.ACCEPT_WITHIN_S = 1.0\n"
        "edge.api.server._Listener.process_request = hang",
        lambda service: send(service, "GET /api/system HTTP/1.1"),
    ),
    "the live view": Case(
        "live",
        "import edge.api.live\n"
        "edge.api.live.TURN_WITHIN_S = 0.3\n"
        "edge.api.live.Live._follow = hang",
        look_on,
    ),
    "a hash": Case(
        "scrypt",
        "import edge.tokens\nedge.tokens.HASH_WITHIN_S = 0.3\nedge.tokens._hash = hang",
        send_a_wrong_secret,
    ),
    "the cycle": Case(
        "main",
        "import itertools, edge.app, edge.image\n"
        "edge.app.TICK_WITHIN_S = 0.5\n"
        "ticks, advance = itertools.count(), edge.image.ProcessImage.advance\n"
        "edge.image.ProcessImage.advance = (\n"
        "    lambda *arguments: hang() if next(ticks) > 5 else advance(*arguments))",
    ),
    "the start": Case(
        "main",
        "import edge.app, edge.registry\n"
        "edge.app.START_WITHIN_S = 0.3\n"
        "edge.registry.Registry.open = hang",
    ),
    "the end": Case(
        "main",
        "import edge.app, edge.api.server\n"
        "edge.app.STOP_WITHIN_S = edge.app.TICK_WITHIN_S = 0.5\n"
        "edge.api.server.ApiServer.close = hang",
        lambda service: service.signal(signal.SIGTERM),
    ),
    "a reload": Case(
        "reload",
        "import edge.app\nedge.app.RELOAD_WITHIN_S = 0.3\nedge.app.App._reload = hang",
        lambda service: service.signal(signal.SIGHUP),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_process_ends_when_a_worker_hangs_and_names_it(case: Case, tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = Service(tmp_path, config=case.config, prelude=LOOKS + case.prelude)
        stack.callback(service.kill)
        service.launch()
        if case.begin is not None:
            service.wait_until(lambda: "Listening on" in service.log, "listening")
            service.port = int(re.findall(r"Listening on http://\S+:(\d+)", service.log)[-1])
            begun = case.begin(service)
            if isinstance(begun, socket.socket):
                stack.enter_context(begun)
        assert service.exit_code(20.0) == 1
        log = service.log
    said = re.findall(r"CRITICAL \[edge.watchdog\] (\S+) hangs: it was not heard of for", log)
    assert len(said) == 1, log
    assert re.fullmatch(case.worker, said[0])
    first, *others = re.findall(
        r"Thread (\S+) \(most recent call first\):\n((?:  File .+\n)+)", log
    )
    assert first[0] == said[0]
    assert " in hang\n" in first[1]
    assert {"main", "watchdog", "log"} <= {first[0], *(name for name, _ in others)}


def test_a_process_ends_also_when_the_log_hangs(tmp_path: Path) -> None:
    prelude = f"{LOOKS}{CASES['the journal'].prelude}\n"
    prelude += "edge.watchdog.LAST_WORDS_S = 0.5\nedge.watchdog.tell = hang"
    service = Service(tmp_path, prelude=prelude)
    try:
        assert service.launch().exit_code(20.0) == 1
    finally:
        service.kill()
    assert "Timeout (0:00:00.500000)!" in service.log
    assert service.log.count(" in hang\n") == 2, "the journal, and who wanted to tell of it"


def test_a_process_that_systemd_aborts_shows_the_stacks_of_all_threads(tmp_path: Path) -> None:
    """As it does when its watchdog gets nothing because the interpreter itself hangs."""
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
    with Service(tmp_path, prelude=prelude) as service:
        service.signal(signal.SIGABRT)
        assert service.exit_code() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in service.log
        assert service.log.count("Thread 0x") > 3
        assert "in _wait_until" in service.log, "of the cycle"


# --- Long work that gets on ----------------------------------------------------------------------


@pytest.fixture
def progress() -> Iterator[list[None]]:
    """The steps that this thread has made."""
    made: list[None] = []
    tell_progress_to(lambda: made.append(None))
    yield made
    tell_progress_to(lambda: None)


def test_readings_that_are_reduced_to_one_step_are_progress(
    progress: list[None], tmp_path: Path
) -> None:
    with WrittenJournal(tmp_path) as journal:
        for number in range(20):
            begin_ms = START_MS + number * HOUR_MS
            journal.add_block(a_series(), [(number + 1, begin_ms, {"power": 1.0})])
        asked = {"from": str(START_MS), "to": str(START_MS + HOUR_MS), "step": "86400"}
        request = Request("GET", "/", asked, {}, b"")
        answers = HistoryAnswers(Readers(journal.path))
        answers.answer(request, "meter_1", None, START_MS + 30 * HOUR_MS)
    assert len(progress) >= 10


def test_hours_that_were_kept_are_progress(progress: list[None], tmp_path: Path) -> None:
    with WrittenJournal(tmp_path) as journal:
        past = Past(journal)
        for _ in range(3):
            past.record(past.add(), START_MS, START_MS + 4 * HOUR_MS, 40.0, every_ms=60_000)
        span = {"from_": START_MS, "to": START_MS + 4 * HOUR_MS, "step": 86_400}
        past.power(**span)
        del progress[:]
        past.power(**span)
    assert len(progress) >= 12, "of three meters"


def test_a_salvage_that_looks_for_rows_one_by_one_is_heard_of() -> None:
    breaths: list[None] = []
    with closing(sqlite3.connect(":memory:")) as source:
        source.execute("CREATE TABLE tail (slot INTEGER PRIMARY KEY)")
        nowhere: Any = None
        at_work = salvage._Salvage(
            source, nowhere, salvage.Salvaged(), 0, lambda: breaths.append(None)
        )
        assert not list(at_work._between("tail", "slot", {(1,), (5001,)}))
    assert len(breaths) == 5


def test_no_promise_is_shorter_than_what_may_last_as_long() -> None:
    # Servers, attempts and their time: the most of resolv.conf(5), without a search list.
    name_s = 3 * 5 * 30.0
    assert min(edge.line.MARGIN_S, edge.line.PROBE_WITHIN_S, edge.sinks.influx.MARGIN_S) > name_s
    assert min(edge.sinks.mqtt.OPEN_WITHIN_S, ANSWER_WITHIN_S) > 2 * name_s, "once for each version"
    assert RELOAD_WITHIN_S >= edge.journal.writer.PIECE_WITHIN_S, "of one and the same disk"


def test_a_cycle_that_hangs_is_found_before_systemd_misses_it() -> None:
    unit = Path(__file__).parents[1] / "systemd" / "dlm-edge.service"
    (watchdog_s,) = re.findall(r"^WatchdogSec=(\d+)$", unit.read_text(encoding="utf-8"), re.M)
    since_feeding_s = int(watchdog_s) * (1 - 1 / FEEDINGS)
    # A look that sees the beat first, the one after the time is over, and the one that is sure.
    assert since_feeding_s > TICK_WITHIN_S + 3 * LOOK_S


# --- Real processes that wait, and do not hang ---------------------------------------------------

SHORT = """
import edge.app, edge.line, edge.uplink, edge.journal.writer, edge.api.server, edge.api.connection
edge.app.TICK_WITHIN_S = edge.line.MARGIN_S = edge.uplink.PIECE_WITHIN_S = 1.0
edge.journal.writer.PIECE_WITHIN_S = edge.api.connection.ANSWER_WITHIN_S = 1.0
edge.api.server.ACCEPT_WITHIN_S = 1.0
edge.line.MOST_WAITS = 1
"""


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A server that takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_who_waits_within_a_deadline_is_left_alone(tmp_path: Path, mute: socket.socket) -> None:
    """A silent meter, a journal and an uplink that have nothing to do, a client that is slow."""
    port = mute.getsockname()[1]
    config = f'[sinks.influx]\nurl = "http://127.0.0.1:{free_port()}"\ndatabase = "site"\n'
    meter = {"host": "127.0.0.1", "port": port, "timeout": 2500, "retries": 0, "unitId": 1}
    with Service(tmp_path, config=config, prelude=LOOKS + SHORT) as service:
        slow = socket.create_connection(("127.0.0.1", service.port))
        slow.sendall(b"GET / HTTP/1.1\r\n")
        service.register(a_registration(communication={**meter, "registers": {"power": 0}}))
        service.wait_until(lambda: "got no answer within 2500 ms" in service.log, "silence")
        slow.close()
        assert "hangs" not in service.log
        assert service.stop() == 0


def test_a_process_that_stood_still_goes_on(tmp_path: Path) -> None:
    with Service(tmp_path, prelude=LOOKS + SHORT) as service:
        freeze(service.process)
        over_s = time.monotonic() + 3.0
        wait_until(lambda: time.monotonic() > over_s, what="three times what anybody may take")
        service.signal(signal.SIGCONT)
        service.wait_until(lambda: service.request("GET", "/healthz")[0] == 200, "a tick")
        ticks = service.data("/api/system")["schedule"]["ticks"]
        service.wait_until(
            lambda: service.data("/api/system")["schedule"]["ticks"] > ticks + 20, "20 ticks"
        )
        assert "hangs" not in service.log
        assert service.stop() == 0


def test_a_log_that_nobody_takes_keeps_no_process_from_ending(tmp_path: Path) -> None:
    prelude = (
        LOOKS
        + CASES["the cycle"].prelude
        + """
import os
os.dup2(os.pipe()[1], 2)
for _ in range(1000):
    os.set_blocking(2, False)
    try:
        os.write(2, bytes(65536))
    except BlockingIOError:
        break
os.set_blocking(2, True)
"""
    )
    service = Service(tmp_path, prelude=prelude)
    try:
        assert service.launch().exit_code(20.0) == 1
    finally:
        service.kill()
