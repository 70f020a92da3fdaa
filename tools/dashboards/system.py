"""The dashboard of a controller: the service itself, its schedule, its disk and its uplinks."""

from __future__ import annotations

from tools.dashboards.panels import NONE_IS_GOOD, YES_NO, Dashboard, graph, stat, states
from tools.dashboards.site import AT, SITE_VARIABLE

PROCESS = f'job="dlm-edge", {AT}'


def _rate(metric: str, by: str = "") -> str:
    rate = f"rate({metric}{{{AT}}}[$__rate_interval])"
    return f"sum by ({by}) ({rate})" if by else rate


def _increase(metric: str) -> str:
    return f"increase({metric}{{{AT}}}[$__rate_interval])"


def _quantile(share: float, histogram: str, by: str = "") -> str:
    rate = _rate(f"{histogram}_bucket", f"le, {by}" if by else "le")
    return f"histogram_quantile({share:g}, {rate})"


SYSTEM = Dashboard(
    uid="dlm-edge-system",
    title="DLM Edge: controller",
    description="The health of the service itself: schedule, lines, journal, disk and uplinks.",
    variables=(SITE_VARIABLE,),
    rows={
        "Now": (
            stat(
                "Version",
                "none",
                f"dlm_build_info{{{AT}}}",
                "{{version}}",
                width=3,
                options={"textMode": "name"},
            ),
            stat(
                "Runs for",
                "dtdurations",
                f"time() - process_start_time_seconds{{{PROCESS}}}",
                width=3,
            ),
            stat("Clock is set", "none", f"dlm_clock_set{{{AT}}}", states=YES_NO, width=3),
            stat("Records", "none", f"dlm_journal_up{{{AT}}}", states=YES_NO, width=3),
            stat(
                "Lines down",
                "none",
                f"count(dlm_line_up{{{AT}}}) - sum(dlm_line_up{{{AT}}})",
                width=3,
                steps=NONE_IS_GOOD,
            ),
            stat(
                "Free on the disk",
                "decbytes",
                f"dlm_state_free_bytes{{{AT}}}",
                width=3,
                steps=((None, "red"), (1e8, "yellow"), (1e9, "green")),
            ),
            stat(
                "Written in a day, of the budget",
                "percentunit",
                f"site:dlm_journal_written_bytes:increase1d{{{AT}}} "
                f"/ dlm_journal_write_budget_bytes{{{AT}}}",
                width=3,
                steps=((None, "green"), (0.8, "yellow"), (1, "red")),
            ),
            stat("Memory", "bytes", f"process_resident_memory_bytes{{{PROCESS}}}", width=3),
        ),
        "Schedule and process": (
            graph(
                "Lateness of ticks",
                "s",
                {
                    _quantile(0.5, "dlm_schedule_lateness_seconds"): "median",
                    _quantile(0.99, "dlm_schedule_lateness_seconds"): "99th percentile",
                },
                width=8,
                limits=(0, None),
            ),
            graph(
                "Left out",
                "cps",
                {
                    _rate("dlm_schedule_missed_ticks_total"): "ticks",
                    _rate("dlm_poll_overruns_total", "site"): "polls, the last was pending",
                    _rate("dlm_poll_skips_total", "site"): "polls, the cycle stood still",
                },
                width=8,
            ),
            graph(
                "Processor",
                "percentunit",
                {f"rate(process_cpu_seconds_total{{{PROCESS}}}[$__rate_interval])": "of one core"},
                width=8,
                limits=(0, None),
            ),
            graph(
                "Memory",
                "bytes",
                {f"process_resident_memory_bytes{{{PROCESS}}}": "resident"},
                width=8,
                limits=(0, None),
            ),
            graph(
                "Open files",
                "none",
                {f"process_open_fds{{{PROCESS}}}": "open"},
                width=8,
                limits=(0, None),
            ),
            graph(
                "Live clients",
                "none",
                {
                    f"dlm_live_clients{{{AT}}}": "connected",
                    _increase("dlm_live_closed_slow_total"): "closed, took nothing",
                },
                width=8,
                limits=(0, None),
            ),
        ),
        "Lines": (
            states("Open", {f"dlm_line_up{{{AT}}}": "{{line}}"}, YES_NO, height=8),
            graph("Opened", "none", {_increase("dlm_line_opens_total"): "{{line}}"}),
            graph(
                "Time of a poll, 95th percentile",
                "s",
                {_quantile(0.95, "dlm_poll_duration_seconds", "line"): "{{line}}"},
                limits=(0, None),
            ),
            graph(
                "Messages heard, by what became of them",
                "cps",
                {_rate("dlm_line_messages_total"): "{{line}} {{result}}"},
                description="Of brokers that meters speak on.",
            ),
        ),
        "Journal and disk": (
            graph(
                "Readings",
                "cps",
                {
                    _rate("dlm_journal_readings_total"): "recorded",
                    _rate("dlm_journal_dropped_total"): "lost",
                },
                width=8,
            ),
            graph(
                "Not yet on the disk",
                "none",
                {f"dlm_journal_waiting_readings{{{AT}}}": "readings"},
                width=8,
                limits=(0, None),
            ),
            graph(
                "Slow commits",
                "none",
                {_increase("dlm_journal_slow_syncs_total"): "commits"},
                width=8,
            ),
            graph(
                "Size of the journal",
                "decbytes",
                {
                    f"dlm_journal_size_bytes{{{AT}}}": "size",
                    f"dlm_journal_limit_bytes{{{AT}}}": "limit",
                },
                width=8,
                limits=(0, None),
            ),
            graph("Written", "Bps", {_rate("dlm_journal_written_bytes_total"): "journal"}, width=8),
            graph(
                "Disk",
                "decbytes",
                {
                    f"dlm_state_free_bytes{{{AT}}}": "free",
                    f"dlm_state_size_bytes{{{AT}}}": "size",
                },
                width=8,
                limits=(0, None),
            ),
        ),
        "Uplinks": (
            states("Sends", {f"dlm_sink_up{{{AT}}}": "{{sink}}"}, YES_NO),
            graph(
                "Waiting to be sent",
                "none",
                {f"dlm_sink_backlog_readings{{{AT}}}": "{{sink}}"},
                limits=(0, None),
                height=6,
            ),
            graph("Sent", "cps", {_rate("dlm_sink_sent_total"): "{{sink}}"}),
            graph(
                "Not taken",
                "none",
                {
                    _increase("dlm_sink_rejected_total"): "{{sink}} refused",
                    _increase("dlm_sink_lost_total"): "{{sink}} deleted before",
                },
            ),
        ),
    },
)
