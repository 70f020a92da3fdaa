"""The README's lists, held against the code's own tables."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs

import edge
from edge.api.routes import ROUTES
from edge.config import NEEDS_RESTART, SECTIONS
from edge.meterspec import PROTOCOLS, RegistrationKeys
from edge.meterspec.http import HttpKeys
from edge.meterspec.modbus import ModbusKeys, RegisterKeys
from edge.meterspec.mqtt import MqttKeys
from edge.metrics import METRICS
from edge.model import QUANTITY_NAMES
from edge.settings import BrokerConfig, Config, InfluxConfig, MqttUplinkConfig
from edge.structure import camel_case, keys_of
from edge.template import TemplateKeys
from tests.service import Service

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


def test_every_key_of_a_registration_is_listed_with_its_default() -> None:
    def listed(number: int) -> dict[str, str]:
        return {code(row[0]): code(row[1]) for row in table("Registering a meter", number)}

    keys = keys_of(RegistrationKeys, camel_case)
    needed = {name for name, attribute in keys.items() if attribute.default is attrs.NOTHING}
    assert {name for name, mark in listed(0).items() if mark == "yes"} == needed
    assert listed(0).keys() == keys.keys()
    tables = {1: ModbusKeys, 2: RegisterKeys, 3: MqttKeys, 4: HttpKeys}
    for number, cls in tables.items():
        keys = keys_of(cls, camel_case)
        assert listed(number).keys() == keys.keys()
        for name, attribute in keys.items():
            if attribute.default not in (attrs.NOTHING, None):
                default = attribute.default
                shown = str(default).lower() if isinstance(default, bool) else f"{default}"
                assert listed(number)[name] == shown.removesuffix(".0"), name


def test_every_protocol_is_named() -> None:
    says = next(row[2] for row in table("Registering a meter") if code(row[0]) == "protocol")
    assert re.findall(r"`(\w+)`", says) == list(PROTOCOLS)


def test_every_key_of_a_sink_is_named() -> None:
    section = README.split("\n## Configuration\n")[1].split("\n## ")[0]
    for name in [*keys_of(InfluxConfig), *keys_of(MqttUplinkConfig)]:
        assert f"`{name}`" in section, name


def test_every_key_of_a_broker_is_named() -> None:
    section = README.split("\n## Configuration\n")[1].split("\n## ")[0]
    for name in keys_of(BrokerConfig):
        assert f"`{name}`" in section, name


def test_every_key_of_a_template_is_named() -> None:
    section = README.split("\n## Adding a meter, a protocol, a sink, a call\n")[1].split("\n## ")[0]
    for name in keys_of(TemplateKeys):
        assert re.search(rf"`\[?{name}\b", section), name


def test_every_quantity_and_type_is_listed() -> None:
    section = README.split("\n## Registering a meter\n")[1].split("\n## ")[0]
    spelled_out = section.replace("`powerL1` to `powerL3`", "`powerL1` `powerL2` `powerL3`")
    spelled_out = spelled_out.replace("`voltageL1` to", "`voltageL1` `voltageL2`")
    spelled_out = re.sub(r"`currentL1` to\s", "`currentL1` `currentL2` ", spelled_out)
    for name in QUANTITY_NAMES:
        assert f"`{name}`" in spelled_out, name


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


def test_every_file_of_the_state_folder_is_told(tmp_path: Path) -> None:
    listed = {name for files, _ in table("What is kept") for name in re.findall("`(.+?)`", files)}
    with Service(tmp_path, arguments=("--demo",)) as service:
        service.wait_until(lambda: len(service.data("/api/energy-meters")) == 4, "four meters")
        command = [sys.executable, "-m", "edge", "token", "add", "anna", "--role", "admin"]
        state = ("--state-dir", str(service.state_dir))
        subprocess.run([*command, *state], cwd=ROOT, check=True, capture_output=True)
        assert {path.name for path in service.state_dir.iterdir()} == listed


def test_the_version_is_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{edge.__version__}"' in project


def test_the_top_level_holds_what_belongs_there_and_nothing_else() -> None:
    needed = {"pyproject.toml", "README.md", "LICENSE", "edge", "tests", "config", "tools"}
    made_by_running = {"persistence"}
    top = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert needed <= top <= needed | {"systemd"} | made_by_running
