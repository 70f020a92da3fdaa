"""What Prometheus sees: the table of metrics, counters about ourselves, and the snapshot as series.

Counters and histograms are kept here and moved on by the cycle's thread alone. What the snapshot
says (meters, load, lines) is computed at scrape time, so a value that is not live has no series.
Names end in base units (Prometheus, "Metric and label naming"): power in watts, energy in joules.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from edge.alerts import SEVERITIES, Alert
from edge.disk import DiskSpace
from edge.model import (
    LoadQuality,
    MessageCounts,
    Meter,
    MeterState,
    PollEnd,
    PollResult,
    Quality,
    Snapshot,
    Status,
)
from edge.record import JournalState, Keeping, SinkState
from edge.schedule import LeftOut

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_METER = ("meter_id", "meter_name", "meter_type")
_JOULES_PER_KWH = 3_600_000
_POLL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATENESS_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


@dataclass(frozen=True)
class MetricRow:
    """One metric: its full name without `_total`, its kind, what it says, and its labels."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, help_: str, *labels: str) -> MetricRow:
    return MetricRow(name, "gauge", help_, labels)


def _counter(name: str, help_: str, *labels: str) -> MetricRow:
    return MetricRow(name, "counter", help_, labels)


def _histogram(name: str, help_: str, *labels: str) -> MetricRow:
    return MetricRow(name, "histogram", help_, labels)


METRICS: tuple[MetricRow, ...] = (
    _gauge("dlm_build_info", "1, with the version that runs.", "version"),
    _gauge("dlm_meter_up", "1 while the meter is online, else 0.", *_METER),
    _gauge("dlm_meter_reading_age_seconds", "Age of the meter's last reading.", *_METER),
    _gauge(
        "dlm_meter_suspect",
        "1 while the reading is implausible and its values are left out.",
        *_METER,
    ),
    _gauge("dlm_meter_power_watts", "Active power into what the meter measures.", *_METER),
    _counter("dlm_meter_energy_joules", "Energy counted by the meter.", *_METER),
    _counter("dlm_meter_energy_export_joules", "Exported energy counted by the meter.", *_METER),
    _gauge("dlm_meter_voltage_volts", "Voltage.", *_METER),
    _gauge("dlm_meter_current_amperes", "Current.", *_METER),
    _gauge("dlm_meter_power_factor_ratio", "Power factor.", *_METER),
    _gauge("dlm_meter_frequency_hertz", "Mains frequency.", *_METER),
    _gauge("dlm_load_grid_capacity_watts", "What the grid connection may carry."),
    _gauge("dlm_load_pv_production_watts", "Solar production that is counted."),
    _gauge("dlm_load_building_consumption_watts", "Consumption that is counted; none if unknown."),
    _gauge("dlm_load_available_capacity_watts", "Power that is free for charging."),
    _gauge("dlm_load_overload_watts", "By how much the balance is below zero; none if unknown."),
    _gauge("dlm_load_quality", "1 for the quality of the load status, else 0.", "quality"),
    _gauge("dlm_high_consumption_watts", "Consumption that is called high; none if not set."),
    _counter("dlm_polls", "Attempts to read a meter, by how they ended.", *_METER, "result"),
    _counter("dlm_poll_overruns", "Polls left out: the last was still pending.", *_METER),
    _counter("dlm_poll_skips", "Polls left out: the cycle stood still.", *_METER),
    _histogram("dlm_poll_duration_seconds", "Time a poll occupied its line.", "line"),
    _histogram("dlm_schedule_lateness_seconds", "How late a tick began."),
    _counter("dlm_schedule_missed_ticks", "Ticks left out because the cycle came too late."),
    _gauge("dlm_line_up", "1 if the line was open when it was last used, else 0.", "line"),
    _counter("dlm_line_opens", "How often the line was opened.", "line"),
    _counter("dlm_line_messages", "Messages heard, by what became of them.", "line", "result"),
    _gauge("dlm_clock_set", "1 while the wall clock is believed, else 0; none if undecided."),
    _gauge("dlm_state_size_bytes", "Size of the disk that the state folder is on."),
    _gauge("dlm_state_free_bytes", "What is free on that disk."),
    _gauge("dlm_journal_up", "1 while readings are recorded, else 0."),
    _counter("dlm_journal_readings", "Readings recorded."),
    _counter("dlm_journal_dropped", "Readings lost because they could not be written in time."),
    _gauge("dlm_journal_waiting_readings", "Readings taken in and not yet on the disk."),
    _gauge("dlm_journal_size_bytes", "Size of the journal's database."),
    _gauge("dlm_journal_limit_bytes", "What the journal's database may grow to."),
    _counter("dlm_journal_written_bytes", "What was written to the disk, in pages of the system."),
    _gauge("dlm_journal_write_budget_bytes", "What may be written to the disk in a day."),
    _counter("dlm_journal_slow_syncs", "Commits that took longer than 1 s."),
    _gauge("dlm_sink_up", "1 while it takes what it is sent, else 0; none if untried.", "sink"),
    _counter("dlm_sink_sent", "Readings and rollups that the sink accepted.", "sink"),
    _counter("dlm_sink_rejected", "Those that it will never take, which were set aside.", "sink"),
    _counter("dlm_sink_lost", "Readings that went from the journal before they were sent.", "sink"),
    _gauge("dlm_sink_backlog_readings", "Readings that wait to be sent.", "sink"),
    _gauge("dlm_alerts_active", "Alerts that hold, by severity.", "severity"),
    _gauge("dlm_live_clients", "WebSocket clients that are connected."),
    _counter("dlm_live_closed_slow", "WebSocket clients closed because they took nothing."),
)
"""Every metric of our own; `process_*` come from prometheus_client."""

_ROWS: Mapping[str, MetricRow] = {row.name: row for row in METRICS}

_LIVE_VALUES: tuple[tuple[str, str, float], ...] = (
    ("dlm_meter_power_watts", "power", 1000),
    ("dlm_meter_energy_joules", "energy", _JOULES_PER_KWH),
    ("dlm_meter_energy_export_joules", "energyExport", _JOULES_PER_KWH),
    ("dlm_meter_voltage_volts", "voltage", 1),
    ("dlm_meter_current_amperes", "current", 1),
    ("dlm_meter_power_factor_ratio", "powerFactor", 1),
    ("dlm_meter_frequency_hertz", "frequency", 1),
)
"""Metric, quantity, and base units in one of the quantity's unit."""


class Metrics:
    """The service's metrics. `polled`, `ticked`, `left_out` and `keep` on the cycle's thread."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        disable_created_metrics()  # a second series for each counter, which nobody asks for
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Collector(lambda: _of_snapshot(snapshot())))
        self._polls = self._make_counter("dlm_polls")
        self._overruns = self._make_counter("dlm_poll_overruns")
        self._skips = self._make_counter("dlm_poll_skips")
        self._missed_ticks = self._make_counter("dlm_schedule_missed_ticks")
        self._poll_duration = self._make_histogram("dlm_poll_duration_seconds", _POLL_BUCKETS_S)
        self._lateness = self._make_histogram("dlm_schedule_lateness_seconds", _LATENESS_BUCKETS_S)
        self._labels: dict[str, tuple[str, ...]] = {}
        # To look a series up by its labels takes longer than to count.
        self._polls_of: dict[str, dict[PollEnd, Counter]] = {}
        self._duration_of: dict[str, Histogram] = {}

    def add_service(
        self,
        version: str,
        high_consumption_kw: Callable[[], float | None],
        disk: Callable[[], DiskSpace | None],
    ) -> None:
        """Tell of the service and where it runs too. Once.

        high_consumption_kw: from where on consumption is too high; None where nobody asked for it.
        disk: that of the state folder; None while it is unknown.
        """
        self._registry.register(
            _Collector(lambda: _of_service(version, high_consumption_kw(), disk()))
        )

    def add_keeping(self, keeping: Callable[[], Keeping]) -> None:
        """Tell of the journal and the sinks too. Once."""
        self._registry.register(_Collector(lambda: _of_keeping(keeping())))

    def add_outlook(
        self,
        alerts: Callable[[], Iterable[Alert]],
        clients: Callable[[], int],
        closed_slow: Callable[[], int],
    ) -> None:
        """Tell of the alerts that hold and of the WebSocket clients too. Once.

        closed_slow: clients closed because they took nothing, since the start.
        """
        self._registry.register(_Collector(lambda: _of_outlook(alerts(), clients(), closed_slow())))

    def keep(self, meters: Iterable[Meter]) -> None:
        """Take over the meters that are polled: series of meters and lines that are gone end."""
        meters = tuple(meters)
        labels = {meter.id: _meter_labels(meter) for meter in meters}
        for id_, old in self._labels.items():
            if labels.get(id_) != old:
                for counter in (self._overruns, self._skips):
                    counter.remove(*old)
                for end in PollEnd:
                    self._polls.remove(*old, end.value)
        for id_, values in labels.items():
            if self._labels.get(id_) == values:
                continue
            self._overruns.labels(*values)
            self._skips.labels(*values)
            self._polls_of[id_] = {end: self._polls.labels(*values, end.value) for end in PollEnd}
        for id_ in self._labels.keys() - labels.keys():
            del self._polls_of[id_]
        lines = {meter.line for meter in meters}
        for line in self._duration_of.keys() - lines:
            self._poll_duration.remove(line)
        self._labels = labels
        self._duration_of = {line: self._poll_duration.labels(line) for line in lines}

    def polled(self, result: PollResult) -> None:
        """Count how a poll ended."""
        self._polls_of[result.meter.id][result.end].inc()
        self._duration_of[result.meter.line].observe(result.duration_s)

    def ticked(self, lateness_s: float, missed: int) -> None:
        """Count a tick and those left out before it."""
        self._lateness.observe(lateness_s)
        if missed:
            self._missed_ticks.inc(missed)

    def left_out(self, polls: LeftOut) -> None:
        """Count polls that did not take place."""
        labels = self._labels[polls.meter.id]
        self._overruns.labels(*labels).inc(polls.overruns)
        self._skips.labels(*labels).inc(polls.skips)

    def text(self) -> bytes:
        """Everything in the Prometheus text format. Any thread."""
        return generate_latest(self._registry)

    def openmetrics(self) -> bytes:
        """Everything in the OpenMetrics format. Any thread."""
        answer: bytes = generate_openmetrics(self._registry)
        return answer

    def _make_counter(self, name: str) -> Counter:
        row = _ROWS[name]
        return Counter(row.name, row.help, row.labels, registry=self._registry)

    def _make_histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        row = _ROWS[name]
        return Histogram(row.name, row.help, row.labels, registry=self._registry, buckets=buckets)


class _Collector(Collector):
    """What a function makes anew at each scrape."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()

    def describe(self) -> Iterable[Metric]:
        return ()


_Family = GaugeMetricFamily | CounterMetricFamily


def _families(*prefixes: str) -> dict[str, _Family]:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
    rows = (row for row in METRICS if row.name.startswith(prefixes))
    return {row.name: kinds[row.kind](row.name, row.help, labels=row.labels) for row in rows}


def _of_service(
    version: str, high_consumption_kw: float | None, disk: DiskSpace | None
) -> Iterable[Metric]:
    families = _families("dlm_build_", "dlm_high_", "dlm_state_")
    families["dlm_build_info"].add_metric([version], 1.0)
    if high_consumption_kw is not None:
        families["dlm_high_consumption_watts"].add_metric((), high_consumption_kw * 1000)
    if disk is not None:
        families["dlm_state_size_bytes"].add_metric((), float(disk.size_bytes))
        families["dlm_state_free_bytes"].add_metric((), float(disk.free_bytes))
    return families.values()


def _of_snapshot(snapshot: Snapshot) -> Iterable[Metric]:
    families = _families("dlm_meter_", "dlm_load_", "dlm_line_")
    for state in snapshot.meters.values():
        _add_meter(families, state, snapshot.mono_s)
    _add_load(families, snapshot)
    for line in snapshot.lines:
        families["dlm_line_up"].add_metric([line.name], float(line.connected))
        families["dlm_line_opens"].add_metric([line.name], float(line.opened))
        if line.heard is not None:
            _add_messages(families["dlm_line_messages"], line.name, line.heard)
    return families.values()


def _of_keeping(keeping: Keeping) -> Iterable[Metric]:
    families = _families("dlm_clock_", "dlm_journal_", "dlm_sink_")
    if keeping.journal is not None:
        _add_journal(families, keeping.journal)
    for sink in keeping.sinks:
        _add_sink(families, sink)
    return families.values()


def _of_outlook(alerts: Iterable[Alert], clients: int, closed_slow: int) -> Iterable[Metric]:
    families = _families("dlm_alerts_", "dlm_live_")
    counts = Counts(alert.severity for alert in alerts)
    for severity in SEVERITIES:
        families["dlm_alerts_active"].add_metric([severity], float(counts[severity]))
    families["dlm_live_clients"].add_metric((), float(clients))
    families["dlm_live_closed_slow"].add_metric((), float(closed_slow))
    return families.values()


def _meter_labels(meter: Meter) -> tuple[str, ...]:
    return (meter.id, meter.name, meter.meter_type)


def _add_meter(families: Mapping[str, _Family], state: MeterState, mono_s: float) -> None:
    labels = _meter_labels(state.meter)
    families["dlm_meter_up"].add_metric(labels, float(state.status is Status.ONLINE))
    families["dlm_meter_suspect"].add_metric(labels, float(state.quality is Quality.SUSPECT))
    if state.reading is None or not state.reading.live:
        return
    age_s = max(0.0, mono_s - state.reading.mono_s)
    families["dlm_meter_reading_age_seconds"].add_metric(labels, age_s)
    if state.quality is not Quality.GOOD:
        return
    for name, quantity, factor in _LIVE_VALUES:
        value = state.reading.values.get(quantity)
        if value is not None:
            families[name].add_metric(labels, value * factor)


def _add_messages(family: _Family, line: str, heard: MessageCounts) -> None:
    lost = heard.superseded + heard.unreadable + heard.unused
    for result, count in (
        ("decoded", heard.messages - lost),
        ("superseded", heard.superseded),
        ("unreadable", heard.unreadable),
        ("unused", heard.unused),
    ):
        family.add_metric([line, result], float(count))


def _add_journal(families: Mapping[str, _Family], journal: JournalState) -> None:
    for name, value in (
        ("dlm_clock_set", journal.clock_set),
        ("dlm_journal_up", journal.recording),
        ("dlm_journal_readings", journal.recorded),
        ("dlm_journal_dropped", journal.dropped),
        ("dlm_journal_waiting_readings", journal.waiting),
        ("dlm_journal_size_bytes", journal.file_bytes),
        ("dlm_journal_limit_bytes", journal.max_bytes),
        ("dlm_journal_written_bytes", journal.written_bytes),
        ("dlm_journal_write_budget_bytes", journal.write_bytes_per_day),
        ("dlm_journal_slow_syncs", journal.slow_syncs),
    ):
        if value is not None:
            families[name].add_metric((), float(value))


def _add_sink(families: Mapping[str, _Family], sink: SinkState) -> None:
    was_tried = sink.connected or sink.last_error is not None
    for name, value in (
        ("dlm_sink_up", sink.connected if was_tried else None),
        ("dlm_sink_sent", sink.sent),
        ("dlm_sink_rejected", sink.rejected),
        ("dlm_sink_lost", sink.lost),
        ("dlm_sink_backlog_readings", sink.backlog),
    ):
        if value is not None:
            families[name].add_metric([sink.name], float(value))


def _add_load(families: Mapping[str, _Family], snapshot: Snapshot) -> None:
    load = snapshot.load
    for name, power_kw in (
        ("dlm_load_grid_capacity_watts", load.grid_capacity_kw),
        ("dlm_load_pv_production_watts", load.pv_production_kw),
        ("dlm_load_building_consumption_watts", load.building_consumption_kw),
        ("dlm_load_available_capacity_watts", load.available_kw),
        ("dlm_load_overload_watts", load.overload_kw),
    ):
        if power_kw is not None:
            families[name].add_metric((), power_kw * 1000)
    for quality in LoadQuality:
        families["dlm_load_quality"].add_metric([quality.value], float(load.quality is quality))
