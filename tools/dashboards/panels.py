"""What dashboards are made of, as Grafana's JSON.

What is unknown must look unknown: no line is drawn over a gap, and a single value is asked for as
it is now, so that it is never the last that there was.

Source: Grafana 10, "Dashboard JSON model" (schema version 38) and "Panels and visualizations".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Steps = Sequence[tuple[float | None, str]]
"""From which value on which colour; the first from None on."""
States = Mapping[int, tuple[str, str]]
"""Value → its word and its colour."""

COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "dlm-prometheus"}
PLAIN: Steps = ((None, "text"),)
NONE_IS_GOOD: Steps = ((None, "green"), (1, "red"))
YES_NO: States = {1: ("yes", "green"), 0: ("no", "red")}

_LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True}
_TOOLTIP = {"mode": "multi", "sort": "desc"}
_LASTING = {"legend": _LEGEND, "tooltip": _TOOLTIP}


@dataclass(frozen=True)
class _Kind:
    """What all panels of a kind share. now: one value, as it is now, instead of its course."""

    colours: str
    options: Json
    custom: Json = field(default_factory=dict)
    now: bool = False


_KINDS: Mapping[str, _Kind] = {
    "timeseries": _Kind(
        "palette-classic",
        _LASTING,
        {"drawStyle": "line", "lineWidth": 1, "showPoints": "auto", "spanNulls": False},
    ),
    "state-timeline": _Kind(
        "thresholds",
        {**_LASTING, "mergeValues": True, "rowHeight": 0.8, "showValue": "never"},
        {"fillOpacity": 80, "lineWidth": 0, "spanNulls": False},
    ),
    "stat": _Kind(
        "thresholds",
        {
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "center",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        },
        now=True,
    ),
    "table": _Kind("thresholds", {"showHeader": True}, {"align": "auto"}, now=True),
}


@dataclass(frozen=True)
class Panel:
    """A panel. queries: PromQL → its legend, or the name of its column in a table.

    width: in columns of 24; height: in rows. limits: of the scale. colours: of series or columns
    by name. look, options: what this panel has of its kind's own settings. interval: the least
    step between two points.
    """

    kind: str
    title: str
    queries: Mapping[str, str]
    unit: str = "none"
    description: str = ""
    width: int = 12
    height: int = 8
    steps: Steps = PLAIN
    states: States = field(default_factory=dict)
    limits: tuple[float | None, float | None] = (None, None)
    colours: Mapping[str, str] = field(default_factory=dict)
    look: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    interval: str = ""

    def json(self, id_: int, x: int, y: int) -> Json:
        """Give the panel at its place."""
        kind = _KINDS[self.kind]
        document = {
            "id": id_,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [
                {
                    "refId": _letter(number),
                    "datasource": DATASOURCE,
                    "editorMode": "code",
                    "expr": expr,
                    "format": "table" if self.kind == "table" else "time_series",
                    "instant": kind.now,
                    "legendFormat": legend,
                    "range": not kind.now,
                }
                for number, (expr, legend) in enumerate(self.queries.items())
            ],
            "fieldConfig": {"defaults": self._defaults(kind), "overrides": self._overrides()},
            "options": {**kind.options, **self.options},
        }
        return {**document, "interval": self.interval} if self.interval else document

    def _defaults(self, kind: _Kind) -> Json:
        steps = [{"value": value, "color": colour} for value, colour in self.steps]
        limits = zip(("min", "max"), self.limits, strict=True)
        return {
            "unit": self.unit,
            "noValue": "unknown",
            "color": {"mode": kind.colours},
            "thresholds": {"mode": "absolute", "steps": steps},
            "mappings": mappings(self.states),
            "custom": {**kind.custom, **self.look},
            **{name: value for name, value in limits if value is not None},
        }

    def _overrides(self) -> list[Json]:
        return [
            override(name, {"color": {"mode": "fixed", "fixedColor": colour}})
            for name, colour in self.colours.items()
        ]


@dataclass(frozen=True)
class Table(Panel):
    """A table: the rows are what differs in `labels`, label → its column's name.

    columns: of a query, by name: what its fields have beside the defaults.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Json] = field(default_factory=dict)

    def json(self, id_: int, x: int, y: int) -> Json:
        """Give the panel at its place."""
        values = enumerate(self.queries.values())
        names = {**self.labels, **{f"Value #{_letter(number)}": name for number, name in values}}
        order = {name: index for index, name in enumerate(names)}
        organize = {
            "excludeByName": {"Time": True},
            "indexByName": order,
            "renameByName": names,
        }
        return {
            **super().json(id_, x, y),
            "transformations": [
                {"id": "merge", "options": {}},
                {"id": "organize", "options": organize},
            ],
        }

    def _overrides(self) -> list[Json]:
        return [override(name, properties) for name, properties in self.columns.items()]


def stat(title: str, unit: str, query: str, legend: str = "", **more: Any) -> Panel:
    """Give a single value as it is now."""
    return Panel("stat", title, {query: legend}, unit, **{"width": 4, "height": 4, **more})


def graph(title: str, unit: str, queries: Mapping[str, str], **more: Any) -> Panel:
    """Give lines over time."""
    return Panel("timeseries", title, queries, unit, **more)


def bars(title: str, unit: str, queries: Mapping[str, str], **more: Any) -> Panel:
    """Give bars over time."""
    look = {"drawStyle": "bars", "fillOpacity": 60}
    return Panel("timeseries", title, queries, unit, look=look, **more)


def states(title: str, queries: Mapping[str, str], words: States, **more: Any) -> Panel:
    """Give words over time, one band for each series."""
    return Panel("state-timeline", title, queries, states=words, **{"height": 6, **more})


def _letter(number: int) -> str:
    """Give what Grafana calls a panel's query: A, B and so on."""
    return chr(ord("A") + number)


def mappings(words: States) -> list[Json]:
    """Give words and colours for values."""
    options = {
        str(value): {"text": word, "color": colour, "index": index}
        for index, (value, (word, colour)) in enumerate(words.items())
    }
    return [{"type": "value", "options": options}] if options else []


def override(name: str, properties: Mapping[str, Any]) -> Json:
    """Give what the field of a name has beside the defaults."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": id_, "value": value} for id_, value in properties.items()],
    }


@dataclass(frozen=True)
class Variable:
    """What can be chosen at the top: the values of a label. many: several, and all at first."""

    name: str
    label: str
    series: str
    of: str
    many: bool = False

    def json(self) -> Json:
        """Give the variable."""
        query = f"label_values({self.series}, {self.of})"
        everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
        return {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": self.name},
            "refresh": 2,  # whenever the time range changes
            "sort": 1,  # by name
            "multi": self.many,
            "includeAll": self.many,
            "allValue": ".*" if self.many else None,
            "current": everything if self.many else {},
        }


@dataclass(frozen=True)
class Dashboard:
    """A dashboard. rows: heading → its panels, which stand side by side as they fit."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Mapping[str, Sequence[Panel]]

    @property
    def text(self) -> str:
        """The file's text."""
        return f"{json.dumps(self.json(), indent=2, ensure_ascii=False)}\n"

    def json(self) -> Json:
        """Give the dashboard."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["dlm-edge"],
            "schemaVersion": 38,
            "editable": True,
            "graphTooltip": 1,  # the crosshair is shared
            "refresh": "30s",
            "time": {"from": "now-24h", "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "DLM Edge",
                    "tags": ["dlm-edge"],
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "templating": {"list": [variable.json() for variable in self.variables]},
            "annotations": {"list": []},
            "panels": self._placed(),
        }

    def _placed(self) -> list[Json]:
        placed: list[Json] = []
        y = 0
        for heading, panels in self.rows.items():
            placed.append(_heading(heading, len(placed) + 1, y))
            y += 1
            x = height = 0
            for panel in panels:
                if x + panel.width > COLUMNS:
                    x, y, height = 0, y + height, 0
                placed.append(panel.json(len(placed) + 1, x, y))
                x, height = x + panel.width, max(height, panel.height)
            y += height
        return placed


def _heading(title: str, id_: int, y: int) -> Json:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {
        "id": id_,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": place,
        "panels": [],
    }
