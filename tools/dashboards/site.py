"""The dashboard of a site: what is free, what flows where, and how its meters are."""

from __future__ import annotations

from tools.dashboards.panels import (
    NONE_IS_GOOD,
    YES_NO,
    Dashboard,
    Table,
    Variable,
    bars,
    graph,
    mappings,
    stat,
    states,
)

AT = 'site="$site"'
OF = f'{AT}, meter_name=~"$meter"'
KWH = 3_600_000
SITE_VARIABLE = Variable("site", "Site", "dlm_build_info", "site")

QUALITIES = {
    0: ("good", "green"),
    1: ("degraded", "yellow"),
    2: ("failsafe", "red"),
    3: ("unmetered", "red"),
}
ENERGY_TEXT = (
    "The difference of the meter's counter from one bar to the next. None where the meter was not "
    "read at both ends, or its counter began anew."
)


def energy(of: str) -> str:
    """Give the energy between two points, kWh. of: which meters.

    Not increase(): it takes a counter that fell for one that began at 0, and would make a meter
    that was replaced by an older one count all that it ever counted.
    """
    counter = f"dlm_meter_energy_joules_total{{{of}}}"
    return (
        f"(({counter} - {counter} offset $__interval >= 0) / {KWH}) "
        f"unless resets({counter}[$__interval]) > 0"
    )


def _quality(name: str) -> str:
    return f'sum by (site) (dlm_load_quality{{{AT}, quality="{name}"}})'


def _in_table(metric: str) -> str:
    return f"sum by (meter_name, meter_type) ({metric}{{{OF}}})"


_METER_LINK = {
    "title": "Show this meter",
    "url": "/d/dlm-edge-meter?var-site=${site}&var-meter=${__value.text}",
}

SITE = Dashboard(
    uid="dlm-edge-site",
    title="DLM Edge: site",
    description="What is free for the cars and why, what flows where, and how the meters are.",
    variables=(
        SITE_VARIABLE,
        Variable("meter", "Meter", f"dlm_meter_up{{{AT}}}", "meter_name", many=True),
    ),
    rows={
        "Now": (
            stat("Free for charging", "watt", f"dlm_load_available_capacity_watts{{{AT}}}"),
            stat(
                "Quality",
                "none",
                f"dlm_load_quality{{{AT}}} == 1",
                "{{quality}}",
                colours=dict(QUALITIES.values()),
                options={"textMode": "name"},
                description="good: all that counts is measured. degraded: a meter that fails "
                "counts as its maxPower. failsafe, unmetered: what the building draws is unknown.",
            ),
            stat("Consumption", "watt", f"dlm_load_building_consumption_watts{{{AT}}}"),
            stat("Solar production", "watt", f"dlm_load_pv_production_watts{{{AT}}}"),
            stat(
                "Overload",
                "watt",
                f"dlm_load_overload_watts{{{AT}}}",
                steps=NONE_IS_GOOD,
                width=3,
            ),
            stat(
                "Meters away",
                "none",
                f"site:dlm_meters:count{{{AT}}} - site:dlm_meters_up:sum{{{AT}}}",
                steps=NONE_IS_GOOD,
                width=2,
            ),
            stat(
                "Alerts",
                "none",
                f'sum(dlm_alerts_active{{{AT}, severity!="info"}})',
                steps=NONE_IS_GOOD,
                width=3,
                description="Those of the controller itself, critical and warning.",
            ),
        ),
        "Power": (
            graph(
                "Balance",
                "watt",
                {
                    f"dlm_load_available_capacity_watts{{{AT}}}": "free for charging",
                    f"dlm_load_building_consumption_watts{{{AT}}}": "consumption",
                    f"dlm_load_pv_production_watts{{{AT}}}": "solar production",
                    f"dlm_load_grid_capacity_watts{{{AT}}}": "grid connection",
                },
                height=9,
            ),
            graph("Meters", "watt", {f"dlm_meter_power_watts{{{OF}}}": "{{meter_name}}"}, height=9),
            states(
                "Quality of what is free",
                {
                    f"{_quality('degraded')} + 2 * {_quality('failsafe')} "
                    f"+ 3 * {_quality('unmetered')}": "quality"
                },
                QUALITIES,
            ),
            states("Meters that are online", {f"dlm_meter_up{{{OF}}}": "{{meter_name}}"}, YES_NO),
        ),
        "Energy": (
            bars(
                "Energy of each meter",
                "kwatth",
                {energy(OF): "{{meter_name}}"},
                description=ENERGY_TEXT,
                interval="1h",
            ),
            graph(
                "Consumption of what the grid connection may carry",
                "percentunit",
                {f"site:dlm_load_consumption:ratio{{{AT}}}": "consumption"},
                limits=(0, None),
                description="More than 100 % where the sun gives the rest.",
            ),
        ),
        "Meters": (
            Table(
                "table",
                "All meters",
                {
                    _in_table("dlm_meter_up"): "Online",
                    _in_table("dlm_meter_power_watts"): "Power",
                    _in_table("dlm_meter_reading_age_seconds"): "Age of the reading",
                },
                labels={"meter_name": "Meter", "meter_type": "Type"},
                columns={
                    "Meter": {"links": [_METER_LINK]},
                    "Online": {
                        "mappings": mappings(YES_NO),
                        "custom.cellOptions": {"type": "color-text"},
                    },
                    "Power": {"unit": "watt"},
                    "Age of the reading": {"unit": "s", "decimals": 1},
                },
                width=24,
            ),
        ),
    },
)
