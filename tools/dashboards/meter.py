"""The dashboard of one meter: what it measures, and how well it can be read."""

from __future__ import annotations

from tools.dashboards.panels import YES_NO, Dashboard, Variable, bars, graph, stat, states
from tools.dashboards.site import AT, ENERGY_TEXT, KWH, SITE_VARIABLE, energy

OF = f'{AT}, meter_name="$meter"'
SUSPECT = {0: ("plausible", "green"), 1: ("suspect", "red")}


def _rate(metric: str) -> str:
    return f"rate({metric}{{{OF}}}[$__rate_interval])"


METER = Dashboard(
    uid="dlm-edge-meter",
    title="DLM Edge: meter",
    description="What one meter measures, and how well it can be read.",
    variables=(
        SITE_VARIABLE,
        Variable("meter", "Meter", f"dlm_meter_up{{{AT}}}", "meter_name"),
    ),
    rows={
        "Now": (
            stat("Online", "none", f"dlm_meter_up{{{OF}}}", states=YES_NO, width=3),
            stat("Power", "watt", f"dlm_meter_power_watts{{{OF}}}", width=3),
            stat(
                "Energy counted",
                "kwatth",
                f"dlm_meter_energy_joules_total{{{OF}}} / {KWH}",
                width=4,
            ),
            stat("Voltage", "volt", f"dlm_meter_voltage_volts{{{OF}}}", width=3),
            stat("Current", "amp", f"dlm_meter_current_amperes{{{OF}}}", width=3),
            stat("Power factor", "none", f"dlm_meter_power_factor_ratio{{{OF}}}", width=2),
            stat("Frequency", "hertz", f"dlm_meter_frequency_hertz{{{OF}}}", width=3),
            stat("Age", "s", f"dlm_meter_reading_age_seconds{{{OF}}}", width=3),
        ),
        "What it measures": (
            graph("Power", "watt", {f"dlm_meter_power_watts{{{OF}}}": "power"}, height=9),
            bars(
                "Energy",
                "kwatth",
                {energy(OF): "energy"},
                description=ENERGY_TEXT,
                interval="1h",
                height=9,
            ),
            graph("Voltage", "volt", {f"dlm_meter_voltage_volts{{{OF}}}": "voltage"}, width=6),
            graph("Current", "amp", {f"dlm_meter_current_amperes{{{OF}}}": "current"}, width=6),
            graph(
                "Power factor",
                "none",
                {f"dlm_meter_power_factor_ratio{{{OF}}}": "power factor"},
                width=6,
                limits=(-1, 1),
            ),
            graph(
                "Frequency", "hertz", {f"dlm_meter_frequency_hertz{{{OF}}}": "frequency"}, width=6
            ),
        ),
        "How it is read": (
            states("Online", {f"dlm_meter_up{{{OF}}}": "online"}, YES_NO, height=5),
            states("Values", {f"dlm_meter_suspect{{{OF}}}": "values"}, SUSPECT, height=5),
            graph(
                "Polls, by how they ended",
                "cps",
                {f"sum by (result) ({_rate('dlm_polls_total')})": "{{result}}"},
                width=8,
                description="A meter that speaks by itself is not polled.",
            ),
            graph(
                "Polls left out",
                "cps",
                {
                    _rate("dlm_poll_overruns_total"): "the last was still pending",
                    _rate("dlm_poll_skips_total"): "the cycle stood still",
                },
                width=8,
            ),
            graph(
                "Age of the reading",
                "s",
                {f"dlm_meter_reading_age_seconds{{{OF}}}": "age"},
                width=8,
                limits=(0, None),
            ),
        ),
    },
)
