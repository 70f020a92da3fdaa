"""The rules of the house, read from the source: floors, purity, one room for each library."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edge"

FLOORS = {
    "errors": 0, "communication": 0, "model": 0, "record": 0, "structure": 0, "checks": 0,
    "times": 0, "clock": 0, "heartbeat": 0,
    "settings": 1, "config": 1, "template": 1, "meterspec": 1, "decode": 1, "payload": 1,
    "paths": 1, "sunspec": 1,
    "physics": 1, "plausibility": 1, "interpret": 1, "diagnosis": 1, "schedule": 1, "load": 1,
    "render": 1, "era": 1, "block": 1, "batch": 1, "counter": 1, "rollup": 1, "csvtable": 1,
    "lineprotocol": 1, "lineparse": 1, "place": 1, "homeassistant": 1, "reach": 1, "alerts": 1,
    "steps": 1, "counting": 1, "analytics": 1, "shapes": 1, "health": 1,
    "atomic": 2, "tokenfile": 2, "tokens": 2, "alertlog": 2, "library": 2, "image": 2,
    "registry": 2, "journal": 2, "disk": 2, "metrics": 2, "logs": 2,
    "notify": 2, "watchdog": 2,
    "drivers": 3, "sinks": 3, "api": 3, "simulate": 3,
    "line": 4, "backlog": 4, "uplink": 4, "keeper": 4, "cycle": 4, "prober": 4,
    "app": 5, "commands": 5, "__main__": 5,
}  # fmt: skip
"""A module or package → its floor. It may import what stands on the floors below it."""

NEIGHBOURS = {
    ("structure", "errors"),  # a document's faults
    ("checks", "structure"),  # how a value that is wrong is shown
    ("times", "structure"),  # how a text that is wrong is shown
    ("config", "settings"),  # what can be set
    ("settings", "reach"),  # what a network is
    ("meterspec", "reach"),  # which addresses a meter may have
    ("model", "communication"),  # how a meter is reached
    ("model", "errors"),  # why it was not
    ("meterspec", "template"),  # what a registration leaves to a template
    ("meterspec", "paths"),  # whether a path is one
    ("meterspec", "payload"),  # which quantities have a name that is known
    ("payload", "paths"),
    ("interpret", "decode"),  # words read another way
    ("interpret", "physics"),  # which of the ways is likeliest
    ("plausibility", "physics"),  # what is possible
    ("diagnosis", "interpret"),
    ("diagnosis", "plausibility"),
    ("render", "diagnosis"),
    ("render", "interpret"),
    ("render", "meterspec"),  # which keys are secrets
    ("render", "template"),
    ("rollup", "counter"),  # the energy of an hour
    ("csvtable", "lineprotocol"),  # the names of columns
    ("lineparse", "lineprotocol"),
    ("lineparse", "csvtable"),  # what an import is made of
    ("batch", "block"),  # when decimals give values back exactly
    ("alerts", "load"),
    ("analytics", "counting"),
    ("analytics", "load"),  # what is free, then as now
    ("analytics", "rollup"),
    ("analytics", "steps"),
    ("health", "alerts"),  # what is wrong is not well
    ("render", "alerts"),
    ("render", "health"),
    ("render", "shapes"),  # what its documents are made of
    ("metrics", "disk"),  # what is free
    ("registry", "atomic"),
    ("tokenfile", "atomic"),
    ("tokens", "atomic"),
    ("tokens", "tokenfile"),
    ("sinks", "drivers"),  # the connection to a broker is one and the same, and so are secrets
    ("uplink", "backlog"),  # what it sends when nothing is new
    ("keeper", "uplink"),  # one for each sink
    ("cycle", "line"),  # the cycle starts and feeds the lines
    ("__main__", "app"),  # one of the commands runs the service
    ("__main__", "commands"),  # and the others stand there
}
"""Imports on the same floor that are meant."""

PURE = frozenset(
    {
        "__future__", "array", "base64", "bisect", "collections", "contextlib", "csv",
        "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools",
        "heapq", "ipaddress", "itertools", "json", "math", "operator",
        "re", "struct", "typing", "urllib.parse", "zlib",
        "attrs", "cattrs", "jmespath",
    }
)  # fmt: skip
"""What floors 0 and 1 may import: no socket, file, thread or clock. Text and time are arguments."""

ROOMS = {
    "pymodbus": {"drivers/modbus/framing"},
    "serial": {"drivers/modbus/wire", "simulate/rtu"},
    "paho": {"drivers/mqtt/connection", "simulate/mqtt"},
    "urllib3": {"drivers/http/connection", "drivers/http/dialled", "sinks/influx/server"},
    "websockets": {"api/websocket"},
    "sqlite3": {
        f"journal/{name}"
        for name in (
            "schema",
            "damage",
            "database",
            "writer",
            "salvage",
            "reading",
            "offline",
            "copying",
        )
    },
}
"""A library that does I/O → the modules that may use it, so that its errors end there."""

IMPURE_ON_PURPOSE = {
    # Reads the one file it is named for, and nothing else.
    "config": {"os", "pathlib", "sys", "tomllib", "tomli"},
    # Asks the system which time zones there are.
    "settings": {"zoneinfo"},
    # What the others are handed instead of the time; floors 0 and 1 do not import it.
    "clock": {"time"},
}

TESTED_BY = {
    "__init__": "docs",
    "__main__": "main",
    "backlog": "uplink",
    "clock": "cycle",
    "communication": "meterspec",
    "counting": "analytics",
    "errors": "config",
    "lineparse": "csvtable",
    "model": "image",
    "paths": "payload",
    "record": "journal",
    "settings": "config",
    "atomic": "registry",
    "tokenfile": "tokens",
    "shapes": "openapi",
    "steps": "analytics",
    "api/__init__": "routes",
    "disk": "metrics",
    "commands/archive": "backup",
    "commands/client": "status",
    "commands/restore": "backup",
    "journal/copying": "backup",
    "api/attempts": "door",
    "api/calls": "routes",
    "api/connection": "server",
    "api/progress": "watchdog",
    "api/dispatch": "routes",
    "api/connections": "server",
    "api/documents": "routes",
    "api/history": "history",
    "api/hours": "analytics",
    "api/query": "history",
    "api/question": "history",
    "api/readers": "history",
    "api/refusals": "openapi",
    "api/route": "routes",
    "api/schemas": "openapi",
    "api/sessions": "door",
    "api/topics": "live",
    "api/viewer": "live",
    "api/http1": "server",
    "commands/cert": "cert",
    "commands/export": "transfer",
    "commands/imports": "transfer",
    "commands/token": "tokens",
    "drivers/__init__": "drivers",
    "drivers/credentials": "sink_influx",
    "drivers/http/__init__": "http",
    "drivers/http/connection": "http",
    "drivers/http/dialled": "http",
    "drivers/http/sockets": "http",
    "drivers/http/secrets": "http",
    "drivers/modbus/__init__": "modbus",
    "drivers/modbus/probe": "modbus_probe",
    "drivers/modbus/questions": "modbus_probe",
    "journal/history": "history",
    "journal/merge": "history",
    "journal/reading": "history",
    "journal/offline": "transfer",
    "journal/salvage": "salvage",
    "sinks/__init__": "sinks",
    "sinks/board": "sink_mqtt",
    "sinks/influx/__init__": "sink_influx",
    "sinks/influx/dialect": "sink_influx",
    "sinks/influx/server": "sink_influx",
    "sinks/mqtt": "sink_mqtt",
}
"""Where the tests of a module stand that has no file of its own."""

ONE_SUBJECT = {
    "commands": "commands",
    "drivers/mqtt": "mqtt",
    "journal": "journal",
    "meterspec": "meterspec",
    "simulate": "simulate",
}
"""A package → the file that its modules are tested in, as one subject."""

MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")
)


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def room_of(module: str) -> str:
    """The module or package that a floor is given for."""
    return module.partition("/")[0]


def imports_of(module: str) -> Iterator[str]:
    """All that it imports, wherever in the file: `math`, `edge.model` and so on."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"edge/{module}.py: import by full name"
            yield node.module or ""
            if node.module == "edge":
                yield from (f"edge.{alias.name}" for alias in node.names)


def libraries_of(module: str) -> set[str]:
    """What it imports that is not the project's own: `math`, `pymodbus` and so on."""
    return {name.partition(".")[0] for name in imports_of(module)} - {"edge"}


def rooms_imported_by(module: str) -> set[str]:
    names = (name.split(".") for name in imports_of(module))
    rooms = {parts[1] for parts in names if parts[0] == "edge" and len(parts) > 1}
    return (rooms & FLOORS.keys()) - {room_of(module)}


def test_every_module_has_a_floor() -> None:
    assert {room_of(module) for module in MODULES} - {"__init__"} == FLOORS.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_floor_imports_the_floors_below_it_only(module: str) -> None:
    room = room_of(module)
    for other in rooms_imported_by(module):
        if (room, other) not in NEIGHBOURS:
            assert FLOORS[other] < FLOORS[room], f"edge/{module}.py imports {other}"


def test_neighbours_that_are_said_are_neighbours_that_are_used() -> None:
    for room, other in NEIGHBOURS:
        assert FLOORS[room] == FLOORS[other]
        modules = [module for module in MODULES if room_of(module) == room]
        assert any(other in rooms_imported_by(module) for module in modules), (room, other)


@pytest.mark.parametrize("module", [name for name in MODULES if FLOORS.get(room_of(name), 9) <= 1])
def test_words_and_rules_touch_no_socket_file_thread_or_clock(module: str) -> None:
    roots = libraries_of(module)
    if "urllib" in roots:  # whose other modules do I/O
        roots = roots - {"urllib"} | {n for n in imports_of(module) if n.startswith("urllib")}
    assert roots - PURE == IMPURE_ON_PURPOSE.get(module, set())
    assert "clock" not in rooms_imported_by(module)
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            assert called not in {"open", "now", "utcnow", "today", "print", "input"}, called


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_that_does_io_has_one_room(library: str) -> None:
    assert {module for module in MODULES if library in libraries_of(module)} == ROOMS[library]


def test_the_project_needs_nothing_that_it_does_not_declare() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace("-", "_")
    distributions = {"serial": "pyserial"}
    for module in MODULES:
        for name in libraries_of(module):
            if name not in sys.stdlib_module_names and name != "tomllib":
                assert f'"{distributions.get(name, name)}' in text, f"edge/{module}.py: {name}"


def test_every_module_has_its_tests() -> None:
    names = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    for module in MODULES:
        room, _, name = module.rpartition("/")
        tested_by = TESTED_BY.get(module) or ONE_SUBJECT.get(room, name)
        assert tested_by in names, f"no tests for edge/{module}.py"


def test_no_module_is_said_to_be_tested_elsewhere_that_is_gone() -> None:
    assert set(TESTED_BY) <= set(MODULES)
