"""The dashboards for Grafana: as they are made, and each of their queries in a real Prometheus.

Grafana itself cannot be installed from Debian; what its data model knows is checked against the
models that Grafana Labs publishes for Python, where these are installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus import SITE, Prometheus, filled_in, promtool, watched_demo
from tests.service import ROOT
from tools.dashboards.__main__ import DASHBOARDS, FOLDER, file_of
from tools.dashboards.meter import METER
from tools.dashboards.panels import COLUMNS, DATASOURCE, Dashboard

GRAFANA = ROOT / "config" / "grafana"
UNITS = {
    "none", "watt", "kwatth", "volt", "amp", "hertz", "s", "dtdurations", "percentunit", "cps",
    "bytes", "decbytes", "Bps",
}  # fmt: skip
"""Those of Grafana that are used; a misspelt one is shown as it is, behind the number."""


def panels_of(dashboard: Dashboard) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = dashboard.json()["panels"]
    return [panel for panel in panels if panel["type"] != "row"]


PANELS = [
    pytest.param(dashboard, panel, id=f"{dashboard.uid} {panel['title']}")
    for dashboard in DASHBOARDS
    for panel in panels_of(dashboard)
]


# --- The files -----------------------------------------------------------------------------------


def test_the_files_are_what_is_made() -> None:
    for dashboard in DASHBOARDS:
        written = file_of(dashboard).read_text(encoding="utf-8")
        assert written == dashboard.text, "run `python -m tools.dashboards`"
    assert set(FOLDER.iterdir()) == {file_of(dashboard) for dashboard in DASHBOARDS}


def test_the_datasource_that_is_provisioned_is_the_one_that_is_asked() -> None:
    (file,) = (GRAFANA / "provisioning" / "datasources").iterdir()
    (datasource,) = yaml.safe_load(file.read_text())["datasources"]
    assert {key: datasource[key] for key in DATASOURCE} == DATASOURCE
    prometheus = yaml.safe_load((ROOT / "config" / "prometheus" / "prometheus.yml").read_text())
    assert datasource["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    (file,) = (GRAFANA / "provisioning" / "dashboards").iterdir()
    (provider,) = yaml.safe_load(file.read_text())["providers"]
    assert provider["options"]["path"] in (GRAFANA / "README.md").read_text()
    for dashboard in DASHBOARDS:
        assert "${DS" not in dashboard.text


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_panels_have_numbers_of_their_own_and_do_not_overlap(dashboard: Dashboard) -> None:
    panels = dashboard.json()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < COLUMNS for x, _ in cells), panel["title"]
        taken |= cells


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_what_is_unknown_looks_unknown(dashboard: Dashboard, panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in UNITS
    assert defaults["noValue"] == "unknown"
    if panel["type"] in ("timeseries", "state-timeline"):
        assert defaults["custom"]["spanNulls"] is False
        assert all(target["range"] and not target["instant"] for target in panel["targets"])
    else:  # or else the last value of the whole range would be shown as if it were now's
        assert all(target["instant"] and not target["range"] for target in panel["targets"])
    for target in panel["targets"]:
        assert "or vector" not in target["expr"]


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_every_query_is_of_the_chosen_site_only(
    dashboard: Dashboard, panel: dict[str, Any]
) -> None:
    for target in panel["targets"]:
        selectors = re.findall(r"(?:dlm|process)_\w+(?::\w+)?(\{[^}]*\})?", target["expr"])
        assert selectors
        assert all('site="$site"' in selector for selector in selectors), target["expr"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_grafana_s_own_models_know_all_that_is_written(dashboard: Dashboard) -> None:
    reason = "grafana-foundation-sdk needs Python 3.11"
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason=reason)
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins", reason=reason)
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder", reason=reason)
    plugins.register_default_plugins()
    written = json.loads(dashboard.text)
    read_back = json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(written)))
    assert list(lost(written, read_back)) == []


def lost(written: Any, read_back: Any, path: str = "") -> Iterator[str]:
    """Give where something that was written is not there, or is something else."""
    if isinstance(written, dict) and isinstance(read_back, dict):
        for key, value in written.items():
            if value not in (None, "", [], {}, False) or key in read_back:
                yield from lost(value, read_back.get(key), f"{path}.{key}")
    elif isinstance(written, list) and isinstance(read_back, list):
        for index, (one, other) in enumerate(zip(written, read_back, strict=True)):
            yield from lost(one, other, f"{path}[{index}]")
    elif written != read_back:
        yield f"{path}: {written!r} became {read_back!r}"


# --- Their queries, in a real Prometheus that watches the demo -----------------------------------


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with watched_demo(tmp_path_factory.mktemp("watched")) as (_, prometheus):
        yield prometheus


def variables_of(dashboard: Dashboard) -> dict[str, str]:
    meter = ".*" if any(one.many for one in dashboard.variables) else "Main Building"
    return {"__rate_interval": "5s", "__interval": "5s", "site": SITE, "meter": meter}


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_every_query_gives_data(
    prometheus: Prometheus, dashboard: Dashboard, panel: dict[str, Any]
) -> None:
    for target in panel["targets"]:
        prometheus.wait_for_data(filled_in(target["expr"], variables_of(dashboard)))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_every_variable_has_values(prometheus: Prometheus, dashboard: Dashboard) -> None:
    values = {}
    for variable in dashboard.variables:
        query = variable.json()["query"]["query"]
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None
        selector = filled_in(found[1], variables_of(dashboard))
        values[variable.name] = prometheus.get(f"label/{found[2]}/values", **{"match[]": selector})
    assert values["site"] == [SITE]
    assert "Main Building" in values.get("meter", ["Main Building"])


def test_energy_is_unknown_where_a_counter_fell(tmp_path: Path) -> None:
    """By promtool, in whose tests hours are cheap."""
    energy = next(panel for panel in panels_of(METER) if panel["title"] == "Energy")
    (target,) = energy["targets"]
    expression = filled_in(target["expr"], {**variables_of(METER), "__interval": "1h"})
    labels = f'{{site="{SITE}", meter_name="Main Building"}}'
    counter = f"dlm_meter_energy_joules_total{labels}"
    an_hour = [{"labels": labels, "value": 1.0}]
    case = {
        "interval": "1m",
        "input_series": [{"series": counter, "values": "36000000+60000x99 5000+60000x200"}],
        "promql_expr_test": [
            {"expr": expression, "eval_time": eval_time, "exp_samples": samples}
            for eval_time, samples in (("90m", an_hour), ("120m", []), ("200m", an_hour))
        ],
    }
    file = tmp_path / "energy.yml"
    file.write_text(json.dumps({"tests": [case]}))
    run = promtool("test", "rules", file)
    assert run.returncode == 0, run.stdout + run.stderr
