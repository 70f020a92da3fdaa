"""The report: verdicts as a table, and what was sampled as curves in SVG. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from tools.bench.figure import table_line
from tools.soak.facts import Facts
from tools.soak.records import Sample, steps
from tools.soak.verdict import Verdict

_WIDTH, _PANEL, _GAP, _LEFT, _RIGHT, _TOP = 1200, 110, 34, 110, 20, 46
_LANE = 16
_LATEST_SHOWN_S = 0.25
_MOST_POINTS = 1200
_COLOURS = ("#2563eb", "#d97706", "#059669")


class Curve(NamedTuple):
    """A line: (mono_s, value), in order; of NaN nothing is drawn. name: with its unit."""

    name: str
    points: Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """Curves that share an axis."""

    title: str
    curves: Sequence[Curve]


def markdown(facts: Facts, verdicts: Sequence[Verdict], about: str) -> str:
    """Give the report as Markdown. about: what ran where."""
    lines = [
        "# Soak",
        "",
        about,
        "",
        "![What the service cost](curves.svg)",
        "",
        table_line(("check", "measured", "wanted", "met")),
        table_line(["---"] * 4),
    ]
    for verdict in verdicts:
        met = {True: "yes", False: "NO", None: ""}[verdict.ok]
        lines.append(table_line((verdict.name, verdict.measured, verdict.wanted, met)))
    for verdict in verdicts:
        if verdict.details:
            lines += ["", f"## {verdict.name}", "", *(f"- {each}" for each in verdict.details)]
    kinds = Counter(window.kind for window in facts.windows)
    lines += ["", "## What went wrong", ""]
    lines.append("; ".join(f"{kind} {count} times" for kind, count in sorted(kinds.items())) + ".")
    return "\n".join(lines) + "\n"


def curves(facts: Facts) -> str:
    """Give the curves over the run as SVG; grey is where a process ended, colours the faults."""
    return _drawn(facts, panels(facts))


def panels(facts: Facts) -> list[Panel]:
    """Give what is drawn."""
    samples = facts.samples
    return [
        Panel(
            "memory, MB",
            [
                _curve("PSS", samples, lambda each: each.pss_mb),
                _curve("own, without libraries", samples, lambda each: each.own_mb),
            ],
        ),
        Panel(
            "open files and threads",
            [
                _curve("files", samples, lambda each: each.files),
                _curve("threads", samples, lambda each: each.threads),
            ],
        ),
        Panel(
            "ticks late by at most, ms (250: or more)",
            [
                Curve("worst of a second", _lateness_ms(samples)),
                Curve("the machine itself", [(e.mono_s, e.late_s * 1000) for e in facts.late]),
            ],
        ),
        Panel(
            "written to the disk, MB",
            [
                Curve("the process, in all", _running_total(samples, lambda e: e.disk_bytes)),
                Curve(
                    "the journal, in all",
                    _running_total(samples, _metric("dlm_journal_written_bytes_total")),
                ),
            ],
        ),
        Panel(
            "readings that wait",
            [
                _curve("for the uplink", samples, _metric("dlm_sink_backlog_readings")),
                _curve("for the disk", samples, _metric("dlm_journal_waiting_readings")),
            ],
        ),
        Panel("processor, % of a core", [Curve("service", _cpu(samples))]),
        Panel(
            "kW",
            [
                Curve("said to be free", [(e.to_s, e.available_kw) for e in facts.loads]),
                _curve(
                    "measured consumption",
                    samples,
                    lambda e: e.metrics.get("dlm_load_building_consumption_watts", _NAN) / 1000,
                ),
            ],
        ),
    ]


_NAN = float("nan")


def _metric(name: str) -> Callable[[Sample], float]:
    return lambda sample: sample.metrics.get(name, _NAN)


def _curve(name: str, samples: Sequence[Sample], what: Callable[[Sample], float]) -> Curve:
    return Curve(name, [(sample.mono_s, what(sample)) for sample in samples])


def _lateness_ms(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """The highest bound that a tick between two samples did not keep below."""
    found = []
    for before, after in steps(samples):
        ticks = {
            bound: after.lateness[bound] - before.lateness[bound]
            for bound in sorted(after.lateness)
        }
        worst_s = next(bound for bound, count in ticks.items() if count == max(ticks.values()))
        found.append((after.mono_s, min(worst_s, _LATEST_SHOWN_S) * 1000))
    return found


def _running_total(
    samples: Sequence[Sample], what: Callable[[Sample], float]
) -> list[tuple[float, float]]:
    """MB over all processes; what one wrote before its first sample is not known."""
    total, found = 0.0, []
    for before, after in steps(samples):
        total += max(0.0, what(after) - what(before)) / 1e6
        found.append((after.mono_s, total))
    return found


def _cpu(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    return [
        (after.mono_s, (after.cpu_s - before.cpu_s) / (after.mono_s - before.mono_s) * 100)
        for before, after in steps(samples)
    ]


# --- SVG -----------------------------------------------------------------------------------------


def _drawn(facts: Facts, shown: Sequence[Panel]) -> str:
    kinds = sorted({window.kind for window in facts.windows if _is_shown(window.devices)})
    lanes_top = _TOP + len(shown) * (_PANEL + _GAP)
    height = lanes_top + len(kinds) * _LANE + 30
    axis = _Axis(facts.begun_s, facts.ended_s)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for life in facts.lives[1:]:
        x = axis.x(life.started_s)
        parts.append(f'<path d="M{x:.1f} {_TOP - 12}V{lanes_top - _GAP}" stroke="#ccc"/>')
    for number, panel in enumerate(shown):
        parts += _panel(panel, _TOP + number * (_PANEL + _GAP), axis)
    for number, kind in enumerate(kinds):
        y = lanes_top + number * _LANE
        parts.append(f'<text x="{_LEFT - 4}" y="{y + 9}" text-anchor="end">{escape(kind)}</text>')
        for window in facts.windows:
            if window.kind == kind and _is_shown(window.devices):
                x, to_x = axis.x(window.from_s), axis.x(window.to_s)
                parts.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{max(1.5, to_x - x):.1f}" height="10" '
                    'fill="#dc2626" opacity="0.6"/>'
                )
    parts += axis.labels(height - 8)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _is_shown(devices: frozenset[int]) -> bool:
    """A fault of one device is too common to be told apart."""
    return len(devices) != 1


class _Axis(NamedTuple):
    from_s: float
    to_s: float

    def x(self, mono_s: float) -> float:
        share = (mono_s - self.from_s) / (self.to_s - self.from_s)
        return _LEFT + max(0.0, min(1.0, share)) * (_WIDTH - _LEFT - _RIGHT)

    def labels(self, y: float) -> list[str]:
        length_min = (self.to_s - self.from_s) / 60
        step_min = next((step for step in (1, 2, 5, 10, 20, 60) if length_min / step <= 12), 120)
        return [
            f'<text x="{self.x(self.from_s + minute * 60):.1f}" y="{y}" '
            f'text-anchor="middle">{minute} min</text>'
            for minute in range(0, int(length_min) + 1, step_min)
        ]


def _panel(panel: Panel, top: float, axis: _Axis) -> list[str]:
    values = [v for curve in panel.curves for _, v in curve.points if v == v]
    most = max(values, default=0.0) or 1.0
    right = _WIDTH - _RIGHT
    parts = [
        f'<text x="{_LEFT}" y="{top - 6}" font-weight="bold">{escape(panel.title)}</text>',
        f'<path d="M{_LEFT} {top}V{top + _PANEL}H{right}" fill="none" stroke="#888"/>',
        f'<text x="{_LEFT - 4}" y="{top + 9}" text-anchor="end">{most:.4g}</text>',
        f'<text x="{_LEFT - 4}" y="{top + _PANEL}" text-anchor="end">0</text>',
    ]
    for number, (curve, colour) in enumerate(zip(panel.curves, _COLOURS, strict=False)):
        x = right - 180 * (len(panel.curves) - 1 - number)
        parts.append(
            f'<text x="{x}" y="{top - 6}" text-anchor="end" fill="{colour}">'
            f"{escape(curve.name)}</text>"
        )
        path = _path(curve, lambda v: top + _PANEL * (1 - v / most), axis)
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
    return parts


def _path(curve: Curve, y: Callable[[float], float], axis: _Axis) -> str:
    """The curve, of each short stretch only its highest point; a gap of 5 s is one."""
    stretch_s = max(1.0, (axis.to_s - axis.from_s) / _MOST_POINTS)
    highest: dict[int, tuple[float, float]] = {}
    for mono_s, value in curve.points:
        at = int((mono_s - axis.from_s) / stretch_s)
        if value == value and value >= highest.get(at, (0.0, -1.0))[1]:
            highest[at] = (mono_s, value)
    parts, last_s = [], -1e9
    for mono_s, value in highest.values():
        if axis.from_s <= mono_s <= axis.to_s:
            word = "L" if mono_s - last_s < 5 * stretch_s else "M"
            parts.append(f"{word}{axis.x(mono_s):.1f} {y(value):.1f}")
            last_s = mono_s
    return "".join(parts)
