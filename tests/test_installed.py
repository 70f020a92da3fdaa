"""The service as tools/install leaves it: under systemd, in its sandbox, with real peers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.notify import FEEDINGS
from tests.building import a_registration
from tests.debian import DebianRoot, Machine
from tests.installing import PORT, ROOT, bundle, changed_tree, in_a_debian, install
from tests.peers import need_program, wait_until

pytestmark = in_a_debian

METERS = f"http://127.0.0.1:{PORT}/api/energy-meters"
UNIT = ROOT / "systemd" / "dlm-edge.service"
PRIORITIES = {"CRITICAL": "2", "ERROR": "3", "WARNING": "4", "INFO": "6"}
"""Level → the priority of syslog, as syslog(3) numbers it."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def machine(archive: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine on which the archive was installed."""
    with DebianRoot(tmp_path) as root, Machine(root) as machine:
        done = install(machine, archive)
        assert done.returncode == 0, done.stderr
        yield machine


def wait_until_ready(machine: Machine) -> None:
    wait_until(lambda: machine.show("SubState") == "running", timeout_s=30, what="READY again")


def config_of(machine: Machine) -> Path:
    return machine.root.path / "etc/dlm-edge/edge.toml"


def drop_in(machine: Machine, *settings: str) -> None:
    """Change settings of the unit as an operator does, for its next start."""
    file = machine.root.path / "etc/systemd/system/dlm-edge.service.d/override.conf"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(["[Service]", *settings, ""]))
    machine.run("systemctl", "daemon-reload")


def logged(machine: Machine) -> list[dict[str, Any]]:
    """What the journal has of the service itself, and not of what systemd says about it."""
    machine.run("journalctl", "--sync")
    listed = machine.run("journalctl", "--unit", "dlm-edge", "--output", "json").stdout
    entries: list[dict[str, Any]] = [json.loads(line) for line in listed.splitlines()]
    return [entry for entry in entries if entry["_PID"] != "1"]


@contextmanager
def simulated_meter(machine: Machine, folder: Path) -> Iterator[Any]:
    """A meter in the machine's network; gives its registration."""
    file = folder / "registrations.json"
    simulate = [sys.executable, "-m", "edge", "simulate", "--meters", "1"]
    with machine.peer("env", "-C", str(ROOT), *simulate, "--port-file", str(file)):
        wait_until(file.exists, timeout_s=30, what="a simulated meter")
        yield json.loads(file.read_text())[0]


def test_it_is_ready_reads_a_meter_and_is_scraped_and_restarted(
    machine: Machine, tmp_path: Path
) -> None:
    assert machine.show("ActiveState") == "active"
    assert machine.show("StatusText").startswith("0 of 0 meters online")
    assert machine.run("systemctl", "is-enabled", "dlm-edge").stdout == "enabled\n"
    owner = machine.run("stat", "-c", "%U %a", "/var/lib/dlm-edge").stdout
    assert owner == "dlm-edge 700\n"
    checked = machine.run("dlm-edge", "check").stdout
    assert checked == "The configuration is sound; 0 meters are registered.\n"

    with simulated_meter(machine, tmp_path) as registration:
        machine.post(METERS, registration)
        is_read = "1 of 1 meters online"
        wait_until(
            lambda: machine.show("StatusText").startswith(is_read), timeout_s=30, what=is_read
        )
        # A Prometheus that others wrote reads what it measures.
        config = tmp_path / "prometheus.yml"
        targets = f'[{{targets: ["127.0.0.1:{PORT}"]}}]'
        job = f"{{job_name: dlm, scrape_interval: 1s, static_configs: {targets}}}"
        config.write_text(f"scrape_configs: [{job}]\n")
        program = need_program("prometheus", "prometheus")
        data = f"--storage.tsdb.path={tmp_path / 'tsdb'}"
        with machine.peer(program, f"--config.file={config}", data):
            url = "http://127.0.0.1:9090/api/v1/query?query=dlm_meter_up"
            wait_until(lambda: '"1"]' in machine.get(url), timeout_s=30, what="dlm_meter_up == 1")

    # What is killed comes back.
    machine.run("systemctl", "kill", "--signal=KILL", "dlm-edge")
    wait_until(lambda: machine.show("NRestarts") == "1", timeout_s=30, what="a restart")
    wait_until_ready(machine)


def test_its_log_is_in_the_journal_by_priority(machine: Machine) -> None:
    config_of(machine).write_text("[site]\nname = 1\n")
    machine.run("systemctl", "kill", "--signal=HUP", "dlm-edge")
    wait_until(
        lambda: any(entry["PRIORITY"] == PRIORITIES["ERROR"] for entry in logged(machine)),
        timeout_s=30,
        what="an error about the configuration",
    )
    levels = set()
    for entry in logged(machine):
        assert entry["SYSLOG_IDENTIFIER"] == "dlm-edge"
        # The journal knows the time, so no line begins with its own.
        line = re.match(r"([A-Z]+) \[[\w.]+\] \S", entry["MESSAGE"])
        assert line, entry["MESSAGE"]
        assert entry["PRIORITY"] == PRIORITIES[line[1]], entry["MESSAGE"]
        levels.add(line[1])
    assert levels >= {"INFO", "ERROR"}


def test_it_feeds_the_watchdog_which_ends_it_when_it_stands_still(machine: Machine) -> None:
    watchdog_s = 4
    drop_in(machine, f"WatchdogSec={watchdog_s}", "RestartSec=0")
    machine.run("systemctl", "restart", "dlm-edge")
    fed_us: set[int] = set()

    def has_been_fed_for_long() -> bool:
        fed_us.add(int(machine.show("WatchdogTimestampMonotonic")))
        return max(fed_us) - min(fed_us) > 2 * watchdog_s * 1_000_000

    wait_until(has_been_fed_for_long, timeout_s=30, what="feeding")
    assert len(fed_us) >= FEEDINGS  # in the time of two watchdogs
    assert machine.show("NRestarts") == "0"

    process = machine.show("MainPID")
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "dlm-edge")
    wait_until(lambda: machine.show("NRestarts") == "1", timeout_s=30, what="a restart")
    wait_until_ready(machine)
    assert machine.show("MainPID") != process
    # It had to say what its threads were doing.
    told = [entry for entry in logged(machine) if "hread 0x" in entry["MESSAGE"]]
    assert len(told) > 1
    assert {entry["PRIORITY"] for entry in told} == {PRIORITIES["ERROR"]}


def test_a_port_below_1024_takes_what_the_unit_says(machine: Machine) -> None:
    config = config_of(machine)
    text, count = re.subn(r"(?m)^port = \d+$", "port = 80", config.read_text(), count=1)
    assert count == 1
    config.write_text(text)
    assert machine.run("systemctl", "restart", "dlm-edge", check=False).returncode
    settings = documented_for("api.port below 1024")
    drop_in(machine, *settings)
    machine.run("systemctl", "restart", "dlm-edge")
    assert '"alive"' in machine.get("http://127.0.0.1:80/healthz")

    # Commands ask where a drop-in let it listen.
    drop_in(machine, *settings, "Environment=DLM_EDGE_API_PORT=81")
    machine.run("systemctl", "restart", "dlm-edge")
    assert '"alive"' in machine.get("http://127.0.0.1:81/healthz")
    assert "; runs for 0 min" in machine.run("dlm-edge", "status", check=False).stdout


def documented_for(purpose: str) -> list[str]:
    """The settings that the unit's head gives for a purpose."""
    head = UNIT.read_text().partition("\n\n")[0].replace("\n#", " ")
    entries = [" ".join(entry.split()) for entry in head.split("[Service]")[1:]]
    entry = next(entry for entry in entries if entry.endswith(purpose))
    return re.findall(r"[A-Z]\w+=[\w-]+", entry)


def test_a_drop_in_counts_for_commands_and_upgrades_too(machine: Machine, tmp_path: Path) -> None:
    """Another folder for the state, as for a disk that lasts longer than the card."""
    state = "/var/lib/dlm-edge/disk"
    drop_in(machine, f"Environment=DLM_EDGE_STATE_DIR={state}")
    machine.run("dlm-edge", "token", "add", "anna", "--role", "admin")
    assert machine.run("stat", "-c", "%U", f"{state}/tokens.json").stdout == "dlm-edge\n"
    config = config_of(machine)
    text, count = re.subn(r"(?m)^host = .*$", 'host = "0.0.0.0"', config.read_text(), count=1)
    assert count == 1
    config.write_text(text)
    machine.run("systemctl", "restart", "dlm-edge")  # it would not without that token
    newer = bundle(tmp_path, tree=changed_tree(tmp_path / "tree", "0.1.1"))
    done = install(machine, newer)
    assert done.returncode == 0, done.stderr
    assert machine.show("SubState") == "running"

    drop_in(machine, 'Environment="DLM_EDGE_STATE_DIR=/mnt/my disk"')
    refused = machine.run("dlm-edge", "token", "list", check=False)
    assert refused.returncode == 2
    assert "DLM_EDGE_STATE_DIR of the unit's drop-ins is quoted" in refused.stderr


def test_a_backup_makes_a_new_controller_the_one_before(machine: Machine, archive: Path) -> None:
    config = config_of(machine)
    config.write_text(config.read_text().replace('name = "My site"', 'name = "Harbour"'))
    before = config.read_text()
    assert "Harbour" in before
    machine.post(METERS, a_registration("Grid"))
    machine.run("dlm-edge", "backup", "/root/b.tar.gz")
    user = machine.run("id", "-u", "dlm-edge").stdout
    machine.run("/opt/dlm-edge/current/tools/uninstall", "--purge")

    # The service's user has another number on the new one.
    machine.run("useradd", "--system", "--user-group", "another")
    assert install(machine, archive).returncode == 0
    assert machine.run("id", "-u", "dlm-edge").stdout != user
    machine.run("systemctl", "stop", "dlm-edge")
    machine.run("dlm-edge", "restore", "/root/b.tar.gz")
    machine.run("systemctl", "start", "dlm-edge")
    assert [meter["name"] for meter in json.loads(machine.get(METERS))["data"]] == ["Grid"]
    assert machine.run("find", "/var/lib/dlm-edge", "-not", "-user", "dlm-edge").stdout == ""
    assert config.read_text() == before
    modes = machine.run("stat", "-c", "%U:%G %a", "/etc/dlm-edge/edge.toml").stdout
    assert modes == "root:dlm-edge 640\n"
