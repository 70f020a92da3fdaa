"""The rules for Prometheus: by its own tools, and in a real one that watches the demo."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.metrics import METRICS
from tests.building import a_registration
from tests.peers import free_port, wait_until
from tests.prometheus import CONFIG, SITE, Prometheus, promtool, shortened, watched_demo
from tests.service import Service

NOT_OURS = {"ALERTS", "up", "process_start_time_seconds"}
SAID = re.compile(r"Annotations:\{(.*)\}$", re.MULTILINE)
"""What an alert says, where promtool shows one that it did not expect."""


def said_when_passing(*arguments: str | Path) -> str:
    """Run promtool, which must have nothing against it; give what it said."""
    run = promtool(*arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def rules_of(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((CONFIG / "rules" / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = rules_of("alerts.yml")
RECORDS = rules_of("records.yml")


# --- By Prometheus' own tools --------------------------------------------------------------------


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    said = said_when_passing("check", "config", CONFIG / "prometheus.yml")
    assert "2 rule files found" in said
    said = said_when_passing("check", "rules", *(CONFIG / "rules").glob("*.yml"))
    assert f"{len(ALERTS)} rules found" in said


@pytest.mark.parametrize("file", sorted((CONFIG / "tests").glob("*.yml")), ids=lambda f: f.name)
def test_the_rules_pass_their_own_tests(file: Path) -> None:
    said_when_passing("test", "rules", file)


def test_each_alert_is_seen_firing_and_silent_in_its_tests() -> None:
    """Each test looks at all that fires, so each sees all alerts silent but those it names."""
    fired = set()
    for case in yaml.safe_load((CONFIG / "tests" / "alerts.yml").read_text())["tests"]:
        for check in case["promql_expr_test"]:
            assert 'ALERTS{alertstate="firing"}' in check["expr"]
            for sample in check["exp_samples"]:
                fired.add(tuple(re.findall(r'(?:alertname|severity)="(\w+)"', sample["labels"])))
    assert fired == {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']} {rule['expr'][:30]}")
def test_each_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["summary"]) < 130
    assert len(rule["annotations"]["description"]) > 60


def test_what_the_alerts_say_is_filled_in(tmp_path: Path) -> None:
    """Promtool shows the sentences of an alert that a test did not expect."""
    text = (CONFIG / "tests" / "alerts.yml").read_text()
    document = yaml.safe_load(text.replace('site="mill"', 'site="mill", instance="a:3000"'))
    document["rule_files"] = [str(file) for file in (CONFIG / "rules").glob("*.yml")]
    for case in document["tests"]:
        firing = [check for check in case.pop("promql_expr_test") if check["exp_samples"]]
        case["alert_rule_test"] = [
            {"eval_time": check["eval_time"], "alertname": name, "exp_alerts": []}
            for check in firing
            for name in {
                re.findall(r'alertname="(\w+)"', sample["labels"])[0]
                for sample in check["exp_samples"]
            }
        ]
    file = tmp_path / "said.yml"
    file.write_text(json.dumps(document))
    run = promtool("test", "rules", file)
    said = SAID.findall(run.stdout + run.stderr)
    assert len(said) >= len(ALERTS)
    for sentences in said:
        assert not re.search(r"<|\{\{|  |%!|\bNaN\b", sentences), sentences
    assert any('summary="mill draws 5kW more than it may."' in one for one in said)
    assert any("misses 2% of its ticks" in one for one in said)
    assert any("has 667.6MiB left" in one for one in said)
    assert any("register the building's main meter" in one for one in said)
    assert any("A meter that counts cannot be read" in one for one in said)


def test_the_rules_ask_for_metrics_that_there_are() -> None:
    ours = {f"{row.name}_total" if row.kind == "counter" else row.name for row in METRICS}
    ours |= {f"{row.name}_{part}" for row in METRICS for part in ("bucket", "count")}
    known = ours | NOT_OURS | {rule["record"] for rule in RECORDS}
    for rule in ALERTS + RECORDS:
        bare = re.sub(r"\{.*?\}|\"[^\"]*\"", "", rule["expr"])
        asked = set(re.findall(r"(?:\w+:)?dlm_\w+(?::\w+)?|\bup\b|\bprocess_\w+", bare))
        assert asked
        assert asked <= known


# --- In a real Prometheus ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Prometheus]]:
    with watched_demo(tmp_path_factory.mktemp("watched")) as watched:
        yield watched


def test_every_target_is_scraped_and_every_rule_is_sound(
    watched: tuple[Service, Prometheus],
) -> None:
    _, prometheus = watched
    assert [row["metric"]["site"] for row in prometheus.query('up{job="dlm-edge"} == 1')] == [SITE]
    assert {row["metric"]["meter_type"] for row in prometheus.query("dlm_meter_up == 1")} == {
        "grid",
        "building",
        "solar",
        "zone",
    }
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(ALERTS) + len(RECORDS)
    assert {rule["health"] for rule in rules} == {"ok"}
    for rule in rules:
        assert "lastError" not in rule


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: str(rule["record"]))
def test_every_recording_rule_finds_the_demo(
    watched: tuple[Service, Prometheus], rule: dict[str, Any]
) -> None:
    _, prometheus = watched
    prometheus.wait_for_data(shortened(rule["expr"]))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']} {rule['expr'][:30]}")
def test_every_alert_looks_at_series_that_the_demo_has(
    watched: tuple[Service, Prometheus], rule: dict[str, Any]
) -> None:
    """With `bool` a comparison gives whether it holds, instead of nothing where it does not."""
    _, prometheus = watched
    expression = re.sub(r" (==|<|>) ", r" \1 bool ", shortened(rule["expr"]))
    for part in expression.replace("absent(", "(").split(" or "):
        prometheus.wait_for_data(part)


def test_a_healthy_demo_raises_no_alert_and_a_sick_one_does(
    watched: tuple[Service, Prometheus],
) -> None:
    """Durations are one second here. The service is gone when this is over."""
    service, prometheus = watched

    def firing() -> set[str]:
        rows = prometheus.query('ALERTS{alertstate="firing"}')
        names = {row["metric"]["alertname"] for row in rows}
        return names - {"DlmScheduleLate"}  # the machine may be busy with other tests

    # The meter on the broker has said nothing yet.
    wait_until(lambda: firing() == {"DlmMeterOffline"}, timeout_s=30, what="one alert only")
    nowhere = {"host": "127.0.0.1", "port": free_port(), "registers": {"power": 0}}
    service.register(a_registration("Annex", meterType="building", communication=nowhere))
    wait_until(lambda: "DlmCapacityFailsafe" in firing(), timeout_s=30, what="failsafe")
    alerts = prometheus.get("alerts")["alerts"]
    (offline,) = [one for one in alerts if one["labels"].get("meter_name") == "Annex"]
    assert offline["annotations"]["summary"] == f"Annex at {SITE} cannot be read."
    service.kill()
    wait_until(lambda: "DlmEdgeDown" in firing(), timeout_s=30, what="the service being missed")
