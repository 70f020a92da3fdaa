"""The README's lists, held against the code's own tables."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

import edge
from edge.api.routes import ROUTES
from edge.config import NEEDS_RESTART, SECTIONS, Config
from edge.metrics import METRICS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(heading: str, number: int = 0) -> list[list[str]]:
    """The cells of the rows of a table below a heading, without their code marks."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    rows = tables[number].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def code(cell: str) -> str:
    return cell.strip("`")


def test_every_route_is_listed_with_its_purpose() -> None:
    listed = {code(call): answer for call, answer in table("REST API")}
    assert listed == {f"{route.method} {route.path}": route.summary for route in ROUTES}


def test_every_config_key_is_listed_with_its_default_and_when_it_counts() -> None:
    def written(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    expected = {}
    for section in SECTIONS:
        for name, value in attrs.asdict(getattr(Config(), section)).items():
            key = f"{section}.{name}"
            restart = key in NEEDS_RESTART or section in NEEDS_RESTART
            expected[key] = (written(value), "at start" if restart else "on reload")
    listed = {code(key): (code(default), when) for key, default, when in table("Configuration")}
    assert listed == expected


def test_every_metric_is_listed_with_its_kind_and_labels() -> None:
    listed = {code(name): (kind, labels, says) for name, kind, labels, says in table("Metrics")}
    assert listed == {
        row.name + ("_total" if row.kind == "counter" else ""): (
            row.kind,
            ", ".join(f"`{label}`" for label in row.labels),
            row.help,
        )
        for row in METRICS
    }


def test_every_thread_is_listed_with_the_file_that_starts_it() -> None:
    for name, file, _ in table("Threads"):
        source = (ROOT / code(file)).read_text(encoding="utf-8")
        stem = code(name).rstrip("*")
        assert name == "main" or f'"{stem}' in source, f"{file} does not name {name}"
    listed = {code(name).rstrip("*") for name, _, _ in table("Threads")}
    for path in (ROOT / "edge").rglob("*.py"):
        if "simulate" in path.parts:
            continue
        source = path.read_text(encoding="utf-8")
        for name in re.findall(r'(?:\bname=f?|_start_thread\()"([a-z]+-?)', source):
            assert name in listed, f"{path.name} starts the thread {name}"


def test_every_module_stands_on_a_floor() -> None:
    listed = {code(name) for _, names in table("The path of a reading") for name in names.split()}
    modules = {path.stem for path in (ROOT / "edge").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (ROOT / "edge").glob("*/__init__.py")}
    assert listed == modules | packages


def test_the_version_is_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{edge.__version__}"' in project


def test_the_top_level_holds_what_belongs_there_and_nothing_else() -> None:
    needed = {"pyproject.toml", "README.md", "LICENSE", "edge", "tests", "config", "tools"}
    made_by_running = {"persistence"}
    top = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert needed <= top <= needed | {"systemd"} | made_by_running
