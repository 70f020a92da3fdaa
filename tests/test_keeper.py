"""What becomes of readings, in the service as a real process beside real servers."""

from __future__ import annotations

import csv
import io
import json
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from edge.clock import Clock
from edge.config import load_config
from edge.journal.history import History
from edge.keeper import Keeper
from edge.record import SinkState
from tests.brokers import Mosquitto
from tests.building import a_registration
from tests.influx import Influxd
from tests.peers import LibmodbusServer, need_program, wait_until
from tests.service import Service

METERS = "/api/energy-meters"
QUICK = "[site]\nid = 'plant-2'\n[journal]\ncommit_interval_s = 0.2\nclock_wait_s = 0\n"


def a_meter_at(server: LibmodbusServer, **changes: Any) -> dict[str, Any]:
    communication = {
        "host": server.host,
        "port": server.port,
        "registers": {"power": 0, "voltage": {"address": 1, "scale": 0.1}},
    }
    return a_registration(pollInterval=200, communication=communication, **changes)


def a_server() -> LibmodbusServer:
    return LibmodbusServer(holding={0: 28, 1: 2301})


def sample_of(metrics: str, name: str) -> float:
    (value,) = [line.split()[-1] for line in metrics.splitlines() if line.startswith(name)]
    return float(value)


def test_readings_reach_history_influxd_mosquitto_and_metrics(tmp_path: Path) -> None:
    (tmp_path / "influx").mkdir()
    (tmp_path / "broker").mkdir()
    with (
        a_server() as server,
        Influxd(tmp_path / "influx") as influxd,
        Mosquitto(tmp_path / "broker") as broker,
    ):
        config = (
            f"{QUICK}[mqtt.brokers.default]\nhost = '{broker.host}'\nport = {broker.port}\n"
            f"[sinks.influx]\nurl = '{influxd.url}'\ndatabase = 'charging_data'\n[sinks.mqtt]\n"
        )
        with Service(tmp_path, config=config) as service:
            meter = service.register(a_meter_at(server, name="Main Building Meter"))
            service.wait_until(
                lambda: all(sink["sent"] > 5 for sink in service.data("/api/system")["sinks"]),
                "sending to both",
            )
            rows = influxd.points("charging_data")
            assert {(row["site"], row["meter_name"], row["meter_id"]) for row in rows} == {
                ("plant-2", "Main Building Meter", meter["id"])
            }
            assert {(row["power_kw"], row["voltage_v"]) for row in rows} == {(28.0, 230.1)}

            status, page = service.request("GET", f"{METERS}/{meter['id']}/history?limit=3")
            assert (status, page["count"]) == (200, 3)
            assert page["data"][0]["currentPower"] == 28.0
            following = service.request(
                "GET", f"{METERS}/{meter['id']}/history?limit=3&cursor={page['next']}"
            )[1]
            assert following["data"][0]["timestamp"] > page["data"][-1]["timestamp"]

            metrics = service.request("GET", "/metrics")[1]
            assert sample_of(metrics, "dlm_journal_up") == 1
            assert sample_of(metrics, "dlm_journal_readings_total") >= 5
            assert sample_of(metrics, 'dlm_sink_up{sink="influx"}') == 1
            assert retained(broker, "dlm/plant-2/status") == "online"
            topic = f"dlm/plant-2/meters/{meter['id']}/reading"
            assert json.loads(retained(broker, topic))["currentPower"] == 28.0
            assert service.stop() == 0
        assert retained(broker, "dlm/plant-2/status") == "offline"


def retained(broker: Mosquitto, topic: str) -> str:
    program = need_program("mosquitto_sub", "mosquitto-clients")
    told = subprocess.run(
        [program, "-h", broker.host, "-p", str(broker.port), "-t", topic, "-C", "1", "-W", "5"],
        capture_output=True,
        check=True,
    )
    return told.stdout.decode().strip()


def test_a_stop_takes_5_s_at_most_and_loses_nothing_though_no_sink_answers(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, a_server() as server:
        port = silent.getsockname()[1]
        config = (
            "[journal]\ncommit_interval_s = 3600\nclock_wait_s = 0\n"
            f"[mqtt.brokers.default]\nhost = '127.0.0.1'\nport = {port}\n"
            f"[sinks.a]\nkind = 'influx'\nurl = 'http://127.0.0.1:{port}'\ndatabase = 'd'\n"
            f"[sinks.b]\nkind = 'influx'\nurl = 'http://127.0.0.1:{port}'\ntoken = 't'\n"
            "[sinks.mqtt]\n"
        )
        with Service(tmp_path, config=config) as service:
            meter = service.register(a_meter_at(server))
            service.wait_until(
                lambda: service.data("/api/system")["journal"]["waiting"] > 5, "taking readings in"
            )
            began_s = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began_s < 5
    with History(service.state_dir / "journal.db") as history:
        chunks = list(history.raw(meter["id"], 0, 2**53))
    assert sum(len(chunk) for chunk in chunks) > 5


def test_history_outlives_a_removal_and_a_restart_and_comes_as_csv(tmp_path: Path) -> None:
    with a_server() as server, Service(tmp_path, config=QUICK) as service:
        meter = service.register(a_meter_at(server, name="Gone, soon"))
        path = f"{METERS}/{meter['id']}/history"
        service.wait_until(lambda: len(service.data(path)) > 3, "recording")
        service.request("DELETE", f"{METERS}/{meter['id']}")
        assert service.stop() == 0
        service.start()
        assert service.request("GET", f"{METERS}/{meter['id']}")[0] == 404
        assert len(service.data(path)) > 3
        text = _csv_of(service, path)
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) > 3
        assert {(row["meter_name"], row["power_kw"]) for row in rows} == {("Gone, soon", "28.0")}
        assert service.request("GET", f"{METERS}/meter_0/history")[0] == 404


def _csv_of(service: Service, path: str) -> str:
    told = subprocess.run(
        ["curl", "-s", "-H", "Accept: text/csv", f"{service.base_url}{path}"],
        capture_output=True,
        check=True,
    )
    return told.stdout.decode()


def test_without_a_journal_all_else_works_and_history_says_why_it_does_not(tmp_path: Path) -> None:
    config = "[journal]\nenabled = false\n"
    with a_server() as server, Service(tmp_path, config=config) as service:
        meter = service.register(a_meter_at(server))
        service.wait_until(
            lambda: service.data(f"{METERS}/{meter['id']}")["status"] == "online", "reading"
        )
        status, answer = service.request("GET", f"{METERS}/{meter['id']}/history")
        assert (status, answer["code"]) == (503, "JOURNAL_UNAVAILABLE")
        assert "[journal]" in answer["error"]
        assert service.data("/api/system")["journal"] is None
        assert not (service.state_dir / "journal.db").exists()


def test_a_disk_that_fails_stops_no_reading_and_is_told_until_it_works(tmp_path: Path) -> None:
    """The journal's place is taken by a folder, so it cannot be opened."""
    (tmp_path / "state" / "journal.db").mkdir(parents=True)
    with a_server() as server, Service(tmp_path, config=QUICK) as service:
        meter = service.register(a_meter_at(server))
        service.wait_until(
            lambda: service.data(f"{METERS}/{meter['id']}")["status"] == "online", "reading"
        )
        journal = service.data("/api/system")["journal"]
        assert journal["recording"] is False
        assert journal["lastError"]
        assert service.request("GET", f"{METERS}/{meter['id']}/history")[0] == 503
        assert sample_of(service.request("GET", "/metrics")[1], "dlm_journal_up") == 0
        (service.state_dir / "journal.db").rmdir()
        service.wait_until(
            lambda: service.data("/api/system")["journal"]["recording"], "recording", timeout_s=20
        )
        service.wait_until(
            lambda: len(service.data(f"{METERS}/{meter['id']}/history")) > 5, "answering"
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_regular_end_writes_all_that_was_read(tmp_path: Path, number: int) -> None:
    config = "[journal]\ncommit_interval_s = 3600\nclock_wait_s = 0\n"
    with a_server() as server, Service(tmp_path, config=config) as service:
        service.register(a_meter_at(server))
        service.wait_until(
            lambda: service.data("/api/system")["journal"]["waiting"] >= 10, "taking readings in"
        )
        service.signal(number)
        assert service.exit_code() == 0
        service.start()
        wait_until(
            lambda: service.data("/api/system")["journal"]["oldest"] is not None,
            timeout_s=5,
            what="the oldest reading",
        )


class Stopped:
    """An uplink that takes all the time there is to stop; it notes when it was told to."""

    def __init__(self, told: list[tuple[str, float]]) -> None:
        self._told = told
        self.state = SinkState("it")

    def begin_stop(self, timeout_s: float) -> None:
        self._told.append(("begin", timeout_s))

    def stop(self, timeout_s: float) -> None:
        self._told.append(("end", timeout_s))
        time.sleep(timeout_s)


def test_who_is_stuck_takes_no_time_to_stop_from_the_others(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    keeper = Keeper(load_config(None, {}, {"state.dir": str(tmp_path)}), Clock())
    keeper._uplinks = [cast(Any, Stopped(told)) for _ in range(3)]
    began_s = time.monotonic()
    keeper.close(0.4)
    assert time.monotonic() - began_s < 0.4 + 0.5
    assert [what for what, _ in told] == ["begin"] * 3 + ["end"] * 3
    assert all(timeout_s > 0 for what, timeout_s in told if what == "begin")
