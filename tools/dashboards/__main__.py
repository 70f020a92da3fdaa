"""Writes the dashboards: `python -m tools.dashboards`."""

from __future__ import annotations

from pathlib import Path

from tools.dashboards.meter import METER
from tools.dashboards.panels import Dashboard
from tools.dashboards.site import SITE
from tools.dashboards.system import SYSTEM

FOLDER = Path(__file__).resolve().parents[2] / "config" / "grafana" / "dashboards"
DASHBOARDS = (SITE, METER, SYSTEM)


def file_of(dashboard: Dashboard) -> Path:
    """Give the file that a dashboard is written to."""
    return FOLDER / f"{dashboard.uid}.json"


def main() -> None:
    """Write all of them."""
    for dashboard in DASHBOARDS:
        file_of(dashboard).write_text(dashboard.text, encoding="utf-8")


if __name__ == "__main__":
    main()
