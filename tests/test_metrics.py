"""What Prometheus sees, as whole text and by Prometheus' own tools."""

from __future__ import annotations

import os
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from edge.alerts import Alert
from edge.disk import LOOK_EVERY_S, DiskSpace, StateDisk
from edge.load import load_status
from edge.metrics import METRICS, Metrics
from edge.model import LineState, MessageCounts, Meter, MeterState, PollEnd, Snapshot, Status
from edge.record import JournalState, Keeping, SinkState
from edge.schedule import LeftOut
from tests.building import (
    FakeClock,
    a_failure,
    a_meter,
    a_reading,
    a_speaking_meter,
    an_answer,
)
from tests.peers import need_program
from tests.service import Service

KEEPING = Keeping(
    JournalState(
        recording=True,
        recorded=17,
        dropped=1,
        waiting=3,
        file_bytes=4096,
        max_bytes=1_000_000,
        written_bytes=8192,
        write_bytes_per_day=2_000_000,
        slow_syncs=2,
        clock_set=True,
    ),
    (
        SinkState("influx", connected=True, sent=5, rejected=1, lost=2, backlog=9),
        SinkState("mqtt", last_error="It refuses."),
    ),
)
DISK = DiskSpace(size_bytes=8000, free_bytes=2000)
ALERTS = [
    Alert("alert_1", "overload", "critical", "Take less.", None, 0),
    Alert("alert_2", "meter_offline", "warning", "Look at it.", "meter_a", 0),
    Alert("alert_3", "meter_offline", "warning", "Look at it.", "meter_b", 0),
]


def a_snapshot(*states: MeterState, lines: tuple[LineState, ...] = ()) -> Snapshot:
    return Snapshot(
        tick=1,
        mono_s=12.5,
        unix_ms=0,
        load=load_status(states, 500.0, 0.0),
        meters={state.meter.id: state for state in states},
        lines=lines,
    )


def metrics_of(
    snapshot: Snapshot,
    keeping: Keeping = KEEPING,
    *,
    high_consumption_kw: float | None = 400.0,
    disk: DiskSpace | None = DISK,
) -> Metrics:
    metrics = Metrics(lambda: snapshot)
    metrics.add_service("1.2.3", lambda: high_consumption_kw, lambda: disk)
    metrics.add_keeping(lambda: keeping)
    metrics.add_outlook(lambda: ALERTS, clients=lambda: 3, closed_slow=lambda: 7)
    metrics.keep(state.meter for state in snapshot.meters.values())
    return metrics


def own_lines(metrics: Metrics, prefix: str = "dlm_") -> list[str]:
    return [line for line in metrics.text().decode().splitlines() if line.startswith(prefix)]


def a_named_meter(name: str, id_: str) -> Meter:
    return replace(a_meter(name), id=id_)


def test_every_series_of_a_living_site() -> None:
    meter = a_named_meter('Main "A"', "meter_a")
    reading = a_reading(
        10.0,
        power=28.5,
        energy=2.0,
        energyExport=0.5,
        voltage=230.1,
        current=123.7,
        powerFactor=0.95,
        frequency=50.02,
    )
    line = LineState("tcp://127.0.0.1:502", connected=True, opened=2)
    heard = MessageCounts(messages=10, superseded=3, unreadable=2, unused=1)
    broker = LineState("mqtt:default", last_error="It refuses.", heard=heard)
    metrics = metrics_of(
        a_snapshot(MeterState(meter, status=Status.ONLINE, reading=reading), lines=(line, broker))
    )
    labels = r'{meter_id="meter_a",meter_name="Main \"A\"",meter_type="grid"}'
    assert own_lines(metrics, "dlm_meter") == [
        f"dlm_meter_up{labels} 1.0",
        f"dlm_meter_reading_age_seconds{labels} 2.5",
        f"dlm_meter_suspect{labels} 0.0",
        f"dlm_meter_power_watts{labels} 28500.0",
        f"dlm_meter_energy_joules_total{labels} 7.2e+06",
        f"dlm_meter_energy_export_joules_total{labels} 1.8e+06",
        f"dlm_meter_voltage_volts{labels} 230.1",
        f"dlm_meter_current_amperes{labels} 123.7",
        f"dlm_meter_power_factor_ratio{labels} 0.95",
        f"dlm_meter_frequency_hertz{labels} 50.02",
    ]
    assert own_lines(metrics, "dlm_load") == [
        "dlm_load_grid_capacity_watts 500000.0",
        "dlm_load_pv_production_watts 0.0",
        "dlm_load_building_consumption_watts 28500.0",
        "dlm_load_available_capacity_watts 471500.0",
        "dlm_load_overload_watts 0.0",
        'dlm_load_quality{quality="good"} 1.0',
        'dlm_load_quality{quality="degraded"} 0.0',
        'dlm_load_quality{quality="failsafe"} 0.0',
        'dlm_load_quality{quality="unmetered"} 0.0',
    ]
    assert own_lines(metrics, "dlm_line") == [
        'dlm_line_up{line="tcp://127.0.0.1:502"} 1.0',
        'dlm_line_up{line="mqtt:default"} 0.0',
        'dlm_line_opens_total{line="tcp://127.0.0.1:502"} 2.0',
        'dlm_line_opens_total{line="mqtt:default"} 0.0',
        'dlm_line_messages_total{line="mqtt:default",result="decoded"} 4.0',
        'dlm_line_messages_total{line="mqtt:default",result="superseded"} 3.0',
        'dlm_line_messages_total{line="mqtt:default",result="unreadable"} 2.0',
        'dlm_line_messages_total{line="mqtt:default",result="unused"} 1.0',
    ]


def test_every_series_of_what_is_kept() -> None:
    metrics = metrics_of(a_snapshot())
    assert own_lines(metrics, "dlm_journal") == [
        "dlm_journal_up 1.0",
        "dlm_journal_readings_total 17.0",
        "dlm_journal_dropped_total 1.0",
        "dlm_journal_waiting_readings 3.0",
        "dlm_journal_size_bytes 4096.0",
        "dlm_journal_limit_bytes 1e+06",
        "dlm_journal_written_bytes_total 8192.0",
        "dlm_journal_write_budget_bytes 2e+06",
        "dlm_journal_slow_syncs_total 2.0",
    ]
    assert own_lines(metrics, "dlm_sink") == [
        'dlm_sink_up{sink="influx"} 1.0',
        'dlm_sink_up{sink="mqtt"} 0.0',
        'dlm_sink_sent_total{sink="influx"} 5.0',
        'dlm_sink_sent_total{sink="mqtt"} 0.0',
        'dlm_sink_rejected_total{sink="influx"} 1.0',
        'dlm_sink_rejected_total{sink="mqtt"} 0.0',
        'dlm_sink_lost_total{sink="influx"} 2.0',
        'dlm_sink_lost_total{sink="mqtt"} 0.0',
        'dlm_sink_backlog_readings{sink="influx"} 9.0',
        'dlm_sink_backlog_readings{sink="mqtt"} 0.0',
    ]


def test_every_series_of_the_service_and_where_it_runs() -> None:
    metrics = metrics_of(a_snapshot())
    for prefix, lines in {
        "dlm_build": ['dlm_build_info{version="1.2.3"} 1.0'],
        "dlm_high": ["dlm_high_consumption_watts 400000.0"],
        "dlm_state": ["dlm_state_size_bytes 8000.0", "dlm_state_free_bytes 2000.0"],
        "dlm_clock": ["dlm_clock_set 1.0"],
    }.items():
        assert own_lines(metrics, prefix) == lines


def test_alerts_and_websocket_clients_are_counted() -> None:
    metrics = metrics_of(a_snapshot())
    assert own_lines(metrics, "dlm_alerts") == [
        'dlm_alerts_active{severity="critical"} 1.0',
        'dlm_alerts_active{severity="warning"} 2.0',
        'dlm_alerts_active{severity="info"} 0.0',
    ]
    assert own_lines(metrics, "dlm_live") == [
        "dlm_live_clients 3.0",
        "dlm_live_closed_slow_total 7.0",
    ]


def test_what_is_not_kept_or_not_known_has_no_series() -> None:
    assert own_lines(metrics_of(a_snapshot(), Keeping()), "dlm_journal") == []
    keeping = Keeping(JournalState(written_bytes=None, clock_set=None), (SinkState("influx"),))
    metrics = metrics_of(a_snapshot(), keeping, high_consumption_kw=None, disk=None)
    for prefix in ("dlm_journal_written", "dlm_clock", "dlm_sink_up", "dlm_high", "dlm_state"):
        assert own_lines(metrics, prefix) == []


@pytest.mark.parametrize(("is_set", "value"), [(True, "1.0"), (False, "0.0")])
def test_the_clock_is_told_once_it_is_decided(is_set: bool, value: str) -> None:
    metrics = metrics_of(a_snapshot(), Keeping(JournalState(clock_set=is_set)))
    assert own_lines(metrics, "dlm_clock") == [f"dlm_clock_set {value}"]


def test_the_disk_is_looked_at_now_and_then(tmp_path: Path) -> None:
    clock = FakeClock()
    disk = StateDisk(tmp_path, clock)
    before = disk.space()
    assert before is not None
    assert 0 < before.free_bytes <= before.size_bytes
    tmp_path.rmdir()
    clock.turn(LOOK_EVERY_S - 0.1)
    assert disk.space() == before
    clock.turn(0.2)
    assert disk.space() is None


def test_a_disk_that_hangs_keeps_one_waiting_and_is_soon_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    disk = StateDisk(tmp_path, clock)
    before = disk.space()
    asked, answered = threading.Event(), threading.Event()

    def hang(_folder: Path) -> os.statvfs_result:
        asked.set()
        answered.wait(10)
        raise OSError

    monkeypatch.setattr("os.statvfs", hang)
    clock.turn(LOOK_EVERY_S)
    waiting = threading.Thread(target=disk.space)
    waiting.start()
    try:
        assert asked.wait(10)
        assert disk.space() == before
        clock.turn(2 * LOOK_EVERY_S)
        assert disk.space() is None
    finally:
        answered.set()
        waiting.join()


@pytest.mark.parametrize("status", [Status.ERROR, Status.OFFLINE])
def test_a_value_that_is_not_live_has_no_series_but_its_age(status: Status) -> None:
    metrics = metrics_of(
        a_snapshot(MeterState(a_meter(), status=status, reading=a_reading(10.0, power=1.0)))
    )
    names = {line.partition("{")[0] for line in own_lines(metrics, "dlm_meter")}
    assert names == {"dlm_meter_up", "dlm_meter_reading_age_seconds", "dlm_meter_suspect"}


def test_a_retained_value_has_neither_a_series_nor_an_age() -> None:
    retained = MeterState(a_speaking_meter(), reading=a_reading(10.0, live=False, power=1.0))
    names = {line.partition("{")[0] for line in own_lines(metrics_of(a_snapshot(retained)))}
    assert {name for name in names if name.startswith("dlm_meter")} == {
        "dlm_meter_up",
        "dlm_meter_suspect",
    }


def test_what_is_unknown_has_no_series() -> None:
    metrics = metrics_of(a_snapshot(MeterState(a_meter())))
    names = {line.partition("{")[0].partition(" ")[0] for line in own_lines(metrics)}
    assert "dlm_meter_reading_age_seconds" not in names
    assert "dlm_load_building_consumption_watts" not in names
    assert "dlm_load_available_capacity_watts" in names


def test_polls_are_counted_by_how_they_ended_from_zero_on() -> None:
    meter = a_named_meter("Main", "meter_a")
    metrics = metrics_of(a_snapshot(MeterState(meter)))
    for result in (an_answer(meter), an_answer(meter), a_failure(meter, PollEnd.NO_REPLY)):
        metrics.polled(result)
    metrics.left_out(LeftOut(meter, overruns=1, skips=2))
    counts = {
        line.partition('result="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
        for line in own_lines(metrics, "dlm_polls_total")
    }
    assert counts == {
        "ok": 2,
        "partial": 0,
        "no_reply": 1,
        "bad_reply": 0,
        "refused": 0,
        "line_error": 0,
        "offline": 0,
    }
    assert own_lines(metrics, "dlm_poll_overruns_total")[0].endswith(" 1.0")
    assert own_lines(metrics, "dlm_poll_skips_total")[0].endswith(" 2.0")
    assert own_lines(metrics, "dlm_poll_duration_seconds_count")[0].endswith(" 3.0")


def test_a_meter_s_counts_begin_with_its_registration_and_end_with_it() -> None:
    metrics, meter = metrics_of(a_snapshot()), a_meter("new")
    metrics.keep([meter])
    counts = [
        line
        for name in ("dlm_polls_total", "dlm_poll_duration_seconds_count")
        for line in own_lines(metrics, name)
    ]
    assert len(counts) == len(PollEnd) + 1
    assert all(line.endswith(" 0.0") for line in counts)
    metrics.polled(an_answer(meter))
    metrics.keep([replace(meter, meter_type="solar")])
    metrics.polled(an_answer(meter))
    assert [line for line in own_lines(metrics, "dlm_polls_total") if line.endswith(" 1.0")]
    assert not [line for line in own_lines(metrics, "dlm_polls_total") if line.endswith(" 2.0")]


def test_a_meter_that_is_gone_leaves_no_series() -> None:
    kept, gone = a_meter("kept"), a_meter("gone")
    metrics = metrics_of(a_snapshot())
    metrics.keep([kept, gone])
    metrics.polled(an_answer(gone))
    metrics.polled(an_answer(kept))
    metrics.keep([kept])
    text = metrics.text().decode()
    assert gone.id not in text
    assert kept.id in text


def test_every_metric_stands_in_the_table_and_every_row_is_exported() -> None:
    meter = a_meter()
    reading = a_reading(0.0, power=1.0, energy=1.0, energyExport=1.0, voltage=230.0)
    metrics = metrics_of(a_snapshot(MeterState(meter, status=Status.ONLINE, reading=reading)))
    exported = {
        family.name: family.type
        for family in text_string_to_metric_families(metrics.openmetrics().decode())
        if family.name.startswith("dlm_")
    }
    assert exported == {row.name: row.kind for row in METRICS}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path, arguments=("--demo",)) as service:
        service.wait_until(
            lambda: service.data("/api/system")["meters"].get("online") == 4,
            "four meters online",
            timeout_s=20,
        )
        yield service


def test_promtool_finds_nothing_to_say(service: Service) -> None:
    promtool = need_program("promtool", "prometheus")
    text = urllib.request.urlopen(f"{service.base_url}/metrics", timeout=10).read()
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_openmetrics_is_given_where_it_is_asked_for(service: Service) -> None:
    request = urllib.request.Request(
        f"{service.base_url}/metrics",
        headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        text = answer.read().decode()
    assert text.endswith("# EOF\n")
    assert "dlm_meter_power_watts" in {
        family.name for family in text_string_to_metric_families(text)
    }
