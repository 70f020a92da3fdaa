"""The REST API's routes, called as functions; the server in front of them has tests of its own."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.alerts import Alert
from edge.api import Request, Response
from edge.api.analytics import AnalyticsAnswers, SiteRates
from edge.api.dispatch import ALIVE_WITHIN_S, Api, access_of
from edge.api.door import Door
from edge.api.history import HistoryAnswers
from edge.api.live import Live
from edge.api.readers import Readers
from edge.api.route import Service
from edge.api.routes import ROUTES
from edge.cycle import Cycle, SiteLimits
from edge.disk import DiskSpace
from edge.errors import Cause, RequestError
from edge.image import ProcessImage
from edge.library import BUILT_IN, Library
from edge.line import PollLine
from edge.meterspec import References
from edge.metrics import OPENMETRICS_TYPE, TEXT_TYPE
from edge.model import Exchange, Finding, Meter, Outcome, Probe
from edge.record import JournalState, Keeping, SinkState
from edge.registry import Registry
from edge.settings import ApiConfig
from edge.tokens import Tokens
from tests.building import FakeClock, a_failure, a_reading, a_registration, an_answer

GUIDE_B23 = {
    "name": "Main Building Meter",
    "location": "main-building",
    "protocol": "modbus",
    "meterType": "grid",
    "pollInterval": 5000,
    "communication": {
        "host": "192.168.1.150",
        "port": 502,
        "unitId": 1,
        "registers": {
            "power": 20480,
            "energy": 20482,
            "energyHigh": 20483,
            "voltage": 20484,
            "current": 20486,
            "powerScale": 1,
            "energyScale": 0.001,
            "voltageScale": 0.1,
            "currentScale": 0.001,
        },
    },
}


RATES = SiteRates(timezone.utc, 500.0, 0.0, None, "EUR")


class IdleLine(PollLine):
    """A line that is never started: the tests hand readings in themselves."""

    def start(self) -> None:
        pass


class Site:
    """The API over a registry and a cycle that ticks whenever a change is posted.

    probed: the meters that were questioned. found: what that brings, or why it does not happen.
    """

    def __init__(self, folder: Path, library: Library | None = None) -> None:
        self.clock = FakeClock(mono_s=100.0)
        self.image = ProcessImage()
        self.cycle = Cycle(100, SiteLimits(500.0, 0.0), self.image, self._make_line, self.clock)
        self.library = library or Library()
        self.registry = Registry(folder, References(self.library), self._changed)
        self.probed: list[Meter] = []
        self.found: Probe | RequestError = Probe()
        self.keeping = Keeping()
        self.alerts: tuple[Alert, ...] = ()
        self.registry.open()
        self.tick = 0
        readers = Readers(None)
        door = Door(Tokens(folder), access_of, ApiConfig(), self.clock)
        self.api = Api(
            Service(
                snapshot=lambda: self.cycle.snapshot,
                registry=self.registry,
                library=self.library,
                probe=self._probe,
                history=HistoryAnswers(readers),
                metrics=self.cycle.metrics,
                keeping=lambda: self.keeping,
                live=Live(
                    *(lambda: self.alerts, door.admits, self.clock),
                    max_clients=1,
                    alive_within_s=ALIVE_WITHIN_S,
                ),
                door=door,
                clock=self.clock,
                disk=lambda: DiskSpace(32_000_000_000, 12_000_000_000),
                versions="dlm-edge 1.2.3",
                about={"version": "1.2.3"},
                started_mono_s=90.0,
                alerts=lambda: self.alerts,
                analytics=AnalyticsAnswers(readers, lambda: RATES, self.clock),
                log_lines=lambda count: ["first", "second", "third"][-count:],
            )
        )

    def _probe(self, meter: Meter) -> Probe:
        self.probed.append(meter)
        if isinstance(self.found, RequestError):
            raise self.found
        return self.found

    def _make_line(self, meter: Meter) -> PollLine:
        return IdleLine(meter.line, None, self.image.put, self.clock)  # type: ignore[arg-type]

    def _changed(self, meters: tuple[Meter, ...]) -> Future[None]:
        done = self.cycle.change_meters(meters)
        self.step()
        return done

    def step(self) -> None:
        self.tick += 1
        self.clock.turn(0.1)
        self.cycle.step(self.tick)

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.api.handle(
            Request(method, path, {}, headers or {}, b"" if body is None else content)
        )

    def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Give the answer's document, whose status must be as expected."""
        response = self.send(method, path, body)
        document = json.loads(response.body)
        assert response.status == status, document
        assert document["success"] is (status < 400)
        return document

    def register(self, name: str, **changes: Any) -> Any:
        return self.ask("POST", "/api/energy-meters", a_registration(name, **changes), 201)["data"]

    def read(self, id_: str, **values: float) -> None:
        meter = self.cycle.snapshot.meters[id_].meter
        reading = a_reading(self.clock.now_mono_s)
        self.image.put(an_answer(meter, type(reading)(values, reading.mono_s, reading.unix_ms)))
        self.step()


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Site]:
    """A site whose cycle has not run yet."""
    site = Site(tmp_path / "state")
    yield site
    site.registry.close()


@pytest.fixture
def site(new_site: Site) -> Site:
    new_site.step()
    return new_site


def test_the_guides_meter_registers_and_reads_as_written(site: Site) -> None:
    response = site.send("POST", "/api/energy-meters", GUIDE_B23)
    meter = json.loads(response.body)["data"]
    assert response.status == 201
    assert ("Location", f"/api/energy-meters/{meter['id']}") in response.headers
    assert meter["id"].startswith("meter_")
    assert meter["id"].removeprefix("meter_").isalnum()
    assert (meter["status"], meter["currentPower"]) == ("pending", None)
    assert meter["communication"] == GUIDE_B23["communication"]
    site.read(meter["id"], power=28.5, energy=15420.3, voltage=230.1, current=123.7)
    (listed,) = site.ask("GET", "/api/energy-meters")["data"]
    assert (listed["status"], listed["currentPower"]) == ("online", 28.5)
    assert "communication" not in listed
    reading = site.ask("GET", f"/api/energy-meters/{meter['id']}/reading")["data"]
    assert (reading["meterId"], reading["totalEnergy"]) == (meter["id"], 15420.3)
    status = site.ask("GET", "/api/load/status")["data"]
    assert (status["buildingConsumption"], status["availableCapacity"]) == (28.5, 471.5)


def test_a_list_says_how_long_it_is(site: Site) -> None:
    assert site.ask("GET", "/api/energy-meters") == {"success": True, "data": [], "count": 0}
    site.register("a")
    site.register("b")
    listed = site.ask("GET", "/api/energy-meters")
    assert (listed["count"], [meter["name"] for meter in listed["data"]]) == (2, ["a", "b"])


def test_building_consumption_sums_what_is_fresh_and_names_the_rest(site: Site) -> None:
    grid, building = site.register("grid"), site.register("building", meterType="building")
    site.read(grid["id"], power=28.5, energy=15000.2)
    site.read(building["id"], power=16.8, energy=13450.0)
    sums = site.ask("GET", "/api/energy-meters/consumption/building")["data"]
    assert (sums["currentPower"], sums["totalEnergy"], sums["meterCount"]) == (45.3, 28450.2, 2)
    assert (sums["quality"], sums["excluded"]) == ("good", [])
    dead = site.register("dead", meterType="building", maxPower=50)
    sums = site.ask("GET", "/api/energy-meters/consumption/building")["data"]
    assert (sums["currentPower"], sums["totalEnergy"], sums["meterCount"]) == (45.3, None, 2)
    assert (sums["quality"], sums["excluded"]) == ("degraded", [dead["id"]])


def test_an_update_is_a_merge_patch(site: Site) -> None:
    meter = site.register("a", maxPower=50)
    patch = {"pollInterval": 10000, "maxPower": None, "communication": {"unitId": 7}}
    changed = site.ask("PUT", f"/api/energy-meters/{meter['id']}", patch)["data"]
    assert (changed["id"], changed["name"]) == (meter["id"], "a")
    assert (changed["pollInterval"], changed["staleAfter"]) == (10000, 30000)
    assert changed["maxPower"] is None
    assert changed["communication"] == {**meter["communication"], "unitId": 7}


def test_a_refused_update_changes_nothing(site: Site) -> None:
    meter = site.register("a")
    path = f"/api/energy-meters/{meter['id']}"
    before = site.ask("GET", path)
    refused = site.ask("PUT", path, {"pollInterval": 1, "communication": {"prt": 1}}, 400)
    assert refused["code"] == "VALIDATION_ERROR"
    assert {detail["field"] for detail in refused["details"]} == {
        "pollInterval",
        "communication.prt",
    }
    assert site.ask("GET", path) == before


def test_removing_gives_back_the_meter(site: Site) -> None:
    meter = site.register("a")
    removed = site.ask("DELETE", f"/api/energy-meters/{meter['id']}")["data"]
    assert (removed["id"], removed["name"]) == (meter["id"], "a")
    assert site.ask("GET", "/api/energy-meters")["count"] == 0
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/reading", None),
        ("PUT", "", {}),
        ("DELETE", "", None),
    ):
        gone = site.ask(method, f"/api/energy-meters/{meter['id']}{path}", body, 404)
        assert gone["code"] == "METER_NOT_FOUND"


def test_a_name_can_be_registered_once(site: Site) -> None:
    site.register("Main")
    refused = site.ask("POST", "/api/energy-meters", a_registration("main"), 409)
    assert refused["code"] == "DUPLICATE_NAME"
    assert refused["details"][0]["field"] == "name"
    other = site.register("Other")
    path = f"/api/energy-meters/{other['id']}"
    assert site.ask("PUT", path, {"name": "MAIN"}, 409)["code"] == "DUPLICATE_NAME"
    assert site.ask("PUT", path, {"name": "other"})["data"]["name"] == "other"


def test_every_fault_of_a_registration_is_listed_at_once(site: Site) -> None:
    body = {"name": "", "protocol": "modbus", "meterType": "gird", "communication": {"unitId": 256}}
    refused = site.ask("POST", "/api/energy-meters", body, 400)
    assert {detail["field"] for detail in refused["details"]} == {
        "name",
        "meterType",
        "communication.unitId",
        "communication.host",
        "communication.registers",
    }
    assert "did you mean 'grid'?" in json.dumps(refused)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"name": NaN}',
        b'{"maxPower": Infinity}',
        b'{"name": "a", "name": "b"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
    ],
)
def test_what_is_not_json_is_said_to_be_so(site: Site, body: bytes) -> None:
    response = site.send("POST", "/api/energy-meters", body)
    document = json.loads(response.body)
    assert (response.status, document["code"]) == (400, "MALFORMED_JSON")
    assert document["error"].count(". ") == 0, "one sentence"


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "protocol", "meterType", "communication", "registers"])
                | st.text(max_size=5),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_answered_in_the_failure_shape(site: Site, body: Any) -> None:
    response = site.send("POST", "/api/energy-meters", body)
    document = json.loads(response.body)
    assert response.status == 400
    assert set(document) == {"success", "error", "code", "details"}


def test_unknown_paths_and_wrong_methods_are_told_apart(site: Site) -> None:
    assert site.ask("GET", "/api/nothing", None, 404)["code"] == "NOT_FOUND"
    assert site.ask("GET", "/api/energy-meters/", None, 404)["code"] == "NOT_FOUND"
    response = site.send("PATCH", "/api/energy-meters/x", {})
    assert json.loads(response.body)["code"] == "METHOD_NOT_ALLOWED"
    assert dict(response.headers)["Allow"] == "DELETE, GET, HEAD, PUT"
    assert dict(site.send("POST", "/metrics", {}).headers)["Allow"] == "GET, HEAD"


def test_a_path_that_is_written_out_is_never_taken_for_a_meters(site: Site) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert dict(site.send(method, TEST, {}).headers)["Allow"] == "POST"


def test_an_answer_is_rendered_once_per_snapshot_and_shared(site: Site) -> None:
    site.register("a")
    first = site.send("GET", "/api/energy-meters")
    assert site.send("GET", "/api/energy-meters") is first
    site.step()
    assert site.send("GET", "/api/energy-meters") is not first


def test_many_who_ask_at_once_wait_for_one_who_renders(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []
    all_ask = threading.Barrier(8)

    def slowly() -> bytes:
        rendered.append(1)
        time.sleep(0.05)
        return b"# metrics"

    def ask() -> bytes:
        all_ask.wait(timeout=10)
        return site.send("GET", "/metrics").body

    monkeypatch.setattr(site.cycle.metrics, "text", slowly)
    with ThreadPoolExecutor(8) as clients:
        answers = [client.result() for client in [clients.submit(ask) for _ in range(8)]]
    assert answers == [b"# metrics"] * 8
    assert len(rendered) == 1


def test_a_change_is_never_answered_from_what_was_rendered(site: Site) -> None:
    meter = site.register("a")
    path = f"/api/energy-meters/{meter['id']}"
    site.ask("GET", path)
    assert site.ask("PUT", path, {"name": "b"})["data"]["name"] == "b"
    assert site.ask("GET", path)["data"]["name"] == "b"


def test_nothing_is_told_before_the_first_cycle(new_site: Site) -> None:
    for path in ("/readyz", "/api/energy-meters", "/api/load/status", "/metrics"):
        assert new_site.ask("GET", path, None, 503)["code"] == "NOT_READY"
    new_site.step()
    assert new_site.ask("GET", "/readyz")["data"] == {"status": "ready"}


def test_the_service_is_alive_while_its_cycle_runs(site: Site) -> None:
    assert site.ask("GET", "/readyz")["data"] == {"status": "ready"}
    assert site.ask("GET", "/healthz")["data"] == {"status": "alive"}
    site.clock.turn(ALIVE_WITHIN_S)
    assert site.ask("GET", "/healthz")["data"] == {"status": "alive"}


def test_nothing_is_told_of_a_snapshot_that_the_cycle_left_behind(site: Site) -> None:
    meter = site.register("a")
    site.read(meter["id"], power=28.5)
    paths = ["/api/energy-meters", "/api/load/status", "/healthz", "/readyz", "/metrics"]
    for path in paths:
        assert site.send("GET", path).status == 200
    site.clock.turn(ALIVE_WITHIN_S + 0.1)
    for path in paths:
        assert site.ask("GET", path, None, 503)["code"] == "NOT_ALIVE"
    site.step()
    for path in paths:
        assert site.send("GET", path).status == 200


def test_the_system_tells_what_becomes_of_what_is_read(site: Site) -> None:
    system = site.ask("GET", "/api/system")["data"]
    assert (system["journal"], system["sinks"]) == (None, [])
    site.keeping = Keeping(
        JournalState(recording=False, last_error="The disk is full.", oldest_unix_ms=1_000),
        (SinkState("influx", backlog=7),),
    )
    site.step()
    system = site.ask("GET", "/api/system")["data"]
    assert system["journal"] == {
        "recording": False,
        "lastError": "The disk is full.",
        "recorded": 0,
        "dropped": 0,
        "waiting": 0,
        "bytes": 0,
        "maxBytes": 0,
        "writtenBytes": None,
        "slowSyncs": 0,
        "oldest": "1970-01-01T00:00:01.000Z",
        "notices": [],
    }
    assert system["sinks"] == [
        {
            "name": "influx",
            "connected": False,
            "lastError": None,
            "sent": 0,
            "rejected": 0,
            "lost": 0,
            "backlog": 7,
        }
    ]


def test_the_systems_health_tells_meters_lines_and_schedule(site: Site) -> None:
    meter = site.register("a")
    site.image.put(a_failure(site.cycle.snapshot.meters[meter["id"]].meter))
    site.step()
    system = site.ask("GET", "/api/system")["data"]
    assert (system["version"], system["meters"]) == ("1.2.3", {"error": 1})
    assert [line["name"] for line in system["lines"]] == ["tcp://127.0.0.1:502"]
    assert system["schedule"]["ticks"] == 3


def test_the_start_is_told_by_the_clock_of_today(site: Site) -> None:
    site.clock.now_unix_ms = 0
    site.step()
    assert site.ask("GET", "/api/system")["data"]["timestamp"].startswith("1970-01-01")
    site.clock.now_unix_ms = 1_760_956_200_000
    site.step()
    system = site.ask("GET", "/api/system")["data"]
    assert (system["uptimeSeconds"], system["startedAt"]) == (10.3, "2025-10-20T10:29:49.800Z")


def test_metrics_come_in_the_format_that_is_asked_for(site: Site) -> None:
    plain = site.send("GET", "/metrics")
    assert (plain.content_type, plain.body.endswith(b"# EOF\n")) == (TEXT_TYPE, False)
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    openmetrics = site.send("GET", "/metrics", headers=accept)
    assert openmetrics.content_type == OPENMETRICS_TYPE
    assert openmetrics.body.endswith(b"# EOF\n")


def test_nothing_stored_is_a_507_and_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    refused = site.ask("POST", "/api/energy-meters", a_registration(), 507)
    assert refused["code"] == "NOT_STORED"
    assert "No space left on device" in refused["error"]
    assert site.ask("GET", "/api/energy-meters")["count"] == 0


# --- What a registration would read ---------------------------------------------------------------

TEST = "/api/energy-meters/test"


def test_what_a_registration_would_read_is_told_and_nothing_is_registered(
    site: Site, tmp_path: Path
) -> None:
    site.found = Probe(
        Outcome({"power": 28.5}),
        (Exchange("unit 1: holding registers 20480 to 20487", "001d", 0.0042),),
    )
    before = site.send("GET", "/api/energy-meters").body
    found = site.ask("POST", TEST, GUIDE_B23)["data"]
    (meter,) = site.probed
    assert meter.line == "tcp://192.168.1.150:502"
    assert (found["line"], found["reading"]) == (meter.line, {"currentPower": 28.5})
    assert (found["quality"], found["findings"][0]["cause"]) == ("good", "none")
    assert found["exchanges"][0]["roundTripMs"] == 4.2
    site.step()
    assert site.send("GET", "/api/energy-meters").body == before
    assert not [file for file in (tmp_path / "state").iterdir() if b"192.168" in file.read_bytes()]


def test_what_is_wrong_with_a_meter_is_no_failure_of_the_call(site: Site) -> None:
    refused = Finding(Cause.CONNECTION_REFUSED, "Nothing listens there; check the port.")
    site.found = Probe(findings=(refused,))
    found = site.ask("POST", TEST, GUIDE_B23)["data"]
    assert found["findings"] == [{"cause": "connection_refused", "message": refused.message}]
    assert (found["reading"], found["quality"]) == ({}, "none")


def test_values_are_judged_by_the_grid_capacity_of_the_site(site: Site) -> None:
    site.found = Probe(Outcome({"power": 10_001.0}))  # the grid carries 500 kW
    assert site.ask("POST", TEST, GUIDE_B23)["data"]["quality"] == "suspect"
    site.found = Probe(Outcome({"power": 9_999.0}))
    assert site.ask("POST", TEST, GUIDE_B23)["data"]["quality"] == "good"


def test_a_registration_that_is_faulty_is_not_tried(site: Site) -> None:
    communication = {"host": "a", "registers": {"power": 0, "x": 1}}
    body = {**GUIDE_B23, "meterType": "gird", "communication": communication}
    refused = site.ask("POST", TEST, body, 400)
    assert refused["code"] == "VALIDATION_ERROR"
    assert {detail["field"] for detail in refused["details"]} == {
        "meterType",
        "communication.registers.x",
    }
    assert json.loads(site.send("POST", TEST, b"{").body)["code"] == "MALFORMED_JSON"
    assert site.probed == []


def test_a_registered_meter_may_be_tried_with_other_settings(site: Site) -> None:
    line = {"serialPort": "/dev/ttyUSB0", "baudrate": 9600, "registers": {"power": 0}}
    site.register("Main", communication={"transport": "rtu", **line})
    document = a_registration("Main", communication={"transport": "rtu", **line})
    site.ask("POST", TEST, document)
    other = {**document, "communication": {**document["communication"], "baudrate": 19200}}
    site.ask("POST", TEST, other)
    assert [meter.communication for meter in site.probed] == [
        site.registry.parse(each).communication for each in (document, other)
    ]


def test_who_has_to_wait_for_a_test_is_told_how_long(site: Site) -> None:
    headers = (("Retry-After", "30"),)
    site.found = RequestError(503, "BUSY", "4 tests are under way.", headers=headers)
    response = site.send("POST", TEST, GUIDE_B23)
    assert (response.status, json.loads(response.body)["code"]) == (503, "BUSY")
    assert ("Retry-After", "30") in response.headers


def test_a_test_takes_its_template_and_hides_its_secrets(site: Site) -> None:
    document = {
        **a_registration(protocol="http", pollInterval=None),
        "communication": {"url": "http://127.0.0.1:8080/", "authToken": "s3cret-t0ken"},
    }
    response = site.send("POST", TEST, document)
    assert response.status == 200
    assert b"s3cret" not in response.body
    templated = {"host": "127.0.0.1", "template": "abb-b23"}
    site.ask("POST", TEST, a_registration(communication=templated))
    assert site.probed[-1].communication.quantities >= {"power", "energy", "powerL3"}


# --- The device library ---------------------------------------------------------------------------


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A user's folder of templates, one of them faulty."""
    folder = tmp_path / "templates"
    folder.mkdir()
    sound = (BUILT_IN / "abb-b21.toml").read_text(encoding="utf-8")
    (folder / "my-meter.toml").write_text(sound, encoding="utf-8")
    (folder / "bad.toml").write_text('title = "Bad"\nprotocol = "x25"\n', encoding="utf-8")
    return folder


@pytest.fixture
def own_site(tmp_path: Path, own_folder: Path) -> Iterator[Site]:
    """A site with a user's templates beside the built-in ones."""
    site = Site(tmp_path / "own-state", Library([own_folder, BUILT_IN]))
    site.step()
    yield site
    site.registry.close()


def test_the_library_is_listed(site: Site) -> None:
    listed = site.ask("GET", "/api/templates")
    assert [template["name"] for template in listed["data"]] == list(site.library)
    assert listed["count"] == len(site.library)
    by_name = {template["name"]: template for template in listed["data"]}
    assert by_name["abb-b23"]["models"] == ["B23", "B24"]
    assert "communication" not in by_name["abb-b23"]
    assert by_name["shelly-3em"]["parameters"]["device"]["example"].startswith("shellyem3-")


def test_a_template_is_shown_with_what_it_fills_in(site: Site) -> None:
    shown = site.ask("GET", "/api/templates/abb-b23")["data"]
    (listed,) = (
        each for each in site.ask("GET", "/api/templates")["data"] if each["name"] == "abb-b23"
    )
    assert shown == {
        **listed,
        "communication": dict(site.library["abb-b23"].communication),
        "serial": dict(site.library["abb-b23"].serial),
    }


def test_a_template_that_is_not_there_names_the_nearest(site: Site) -> None:
    missing = site.ask("GET", "/api/templates/abb-b32", None, 404)
    assert (missing["code"], missing["error"]) == (
        "TEMPLATE_NOT_FOUND",
        "No template is named 'abb-b32'; did you mean 'abb-b23'?",
    )
    far = site.ask("GET", "/api/templates/quite-another-thing", None, 404)
    assert far["error"].endswith("'quite-another-thing'; GET /api/templates lists them.")


@pytest.mark.parametrize("name", ["..", "..%2Fedge", "ABB-B23", "abb-b23.toml", "a" * 5000])
def test_no_name_leads_out_of_the_folders(site: Site, name: str) -> None:
    assert site.ask("GET", f"/api/templates/{name}", None, 404)["code"] == "TEMPLATE_NOT_FOUND"


def test_a_users_template_is_one_of_the_library(own_site: Site) -> None:
    shown = own_site.ask("GET", "/api/templates/my-meter")["data"]
    built_in = own_site.ask("GET", "/api/templates/abb-b21")["data"]
    assert shown == {**built_in, "name": "my-meter"}


def test_a_users_faulty_template_is_named_with_its_faults(own_site: Site, own_folder: Path) -> None:
    faulty = own_site.ask("GET", "/api/templates/bad", None, 500)
    assert faulty["code"] == "TEMPLATE_FAULTY"
    assert faulty["error"].startswith("bad.toml cannot be used;")
    assert str(own_folder) not in str(faulty)
    assert {"protocol", "maker"} <= {detail["field"] for detail in faulty["details"]}
    names = [template["name"] for template in own_site.ask("GET", "/api/templates")["data"]]
    assert "bad" not in names
    assert "my-meter" in names
    refused = own_site.ask(
        "POST", TEST, a_registration(communication={"host": "a", "template": "bad"}), 400
    )
    (detail,) = refused["details"]
    assert detail["field"] == "communication.template"
    assert detail["message"].startswith("cannot be used: bad.toml: ")
    assert str(own_folder) not in str(refused)


def test_a_users_folder_that_went_away_is_told(own_site: Site, own_folder: Path) -> None:
    shutil.rmtree(own_folder)
    for path in ("/api/templates", "/api/templates/abb-b32"):
        faulty = own_site.ask("GET", path, None, 500)
        assert faulty["code"] == "TEMPLATE_FAULTY"
        assert [detail["field"] for detail in faulty["details"]] == ["templates.dir"]
        assert str(own_folder) not in str(faulty)


def test_every_row_of_the_table_is_a_call_with_a_purpose() -> None:
    calls = [(route.method, route.path) for route in ROUTES]
    assert len(calls) == len(set(calls))
    assert all(route.summary and route.answer.__doc__ for route in ROUTES)


# --- Alerts and the log --------------------------------------------------------------------------


def _asked(site: Site, path: str, **query: str) -> Any:
    return json.loads(site.api.handle(Request("GET", path, query, {}, b"")).body)


def test_alerts_are_listed(site: Site) -> None:
    holds = Alert("a1", "meter_error", "warning", "It is silent.", "meter_1", 0, None, "Main")
    ended = Alert("a2", "overload", "critical", "Too much.", None, 0, 1000)
    site.alerts = (holds, ended)
    first, second = _asked(site, "/api/alerts")["data"]
    assert first == {
        "id": "a1",
        "kind": "meter_error",
        "severity": "warning",
        "message": "It is silent.",
        "meterId": "meter_1",
        "meterName": "Main",
        "since": "1970-01-01T00:00:00.000Z",
        "until": None,
    }
    assert second["until"] == "1970-01-01T00:00:01.000Z"
    assert _asked(site, "/api/alerts", active="true")["data"] == [first]
    assert _asked(site, "/api/alerts", active="false")["count"] == 2
    assert _asked(site, "/api/alerts", active="yes")["code"] == "VALIDATION_ERROR"


def test_the_log_is_shown_though_the_cycle_stands_still(site: Site) -> None:
    site.clock.turn(100 * ALIVE_WITHIN_S)
    assert _asked(site, "/api/system/log")["data"] == ["first", "second", "third"]
    assert _asked(site, "/api/system/log", lines="2")["data"] == ["second", "third"]
    assert _asked(site, "/api/system/log", lines="0")["code"] == "VALIDATION_ERROR"


def test_analytics_without_a_journal_say_so(site: Site) -> None:
    for path in ("/api/analytics/power", "/api/analytics/energy"):
        assert _asked(site, path)["code"] == "JOURNAL_UNAVAILABLE"
