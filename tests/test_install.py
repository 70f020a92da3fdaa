"""tools/bundle, install, uninstall and deb, tried in an empty Debian without a network.

What is installed is tried by test_installed.
"""

from __future__ import annotations

import ensurepip
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.config import load_config
from tests.debian import DebianRoot, Machine
from tests.installing import (
    RELEASES,
    ROOT,
    bundle,
    changed_tree,
    copied,
    in_a_debian,
    install,
    run_tool,
    running_version,
    unpacked,
)
from tests.peers import wait_until

ENDS = {
    "edge/app.py": ("def run_service(", 'raise SystemExit("It is broken.")\n\n\ndef run_service(')
}
"""What to change so that the service ends before it is READY."""


def packed(folder: Path) -> Path:
    """An archive of a folder like that of tools/bundle, beside it."""
    archive = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "dlm-edge")
    return archive


# --- What an archive must be ---


def test_an_archive_is_installed_only_when_every_file_is_as_it_was_packed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may install")
    # An installer that would leave a trace, beside a sum that is not its own.
    trace = tmp_path / "trace"
    folder = tmp_path / "bundle"
    (folder / "tools").mkdir(parents=True)
    (folder / "tools/install").write_text(f"touch {trace}\n")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  tools/install\n")
    archive = packed(folder)
    refused = run_tool(ROOT / "tools/install", "--bundle", archive)
    assert refused.returncode == 1
    assert "is not a whole archive of tools/bundle; copy it here again." in refused.stderr
    assert not trace.exists()

    archive.write_bytes(archive.read_bytes()[:-20])
    refused = run_tool(ROOT / "tools/install", "--bundle", archive)
    assert "is not a whole archive of tools/bundle" in refused.stderr
    assert not trace.exists()


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("install", ["--root", "/"], "--root is not known; its only flag is --bundle F."),
        ("install", ["--bundle"], "--bundle needs a file"),
        ("uninstall", ["--all"], "--all is not known; its only flag is --purge."),
        ("bundle", ["--arch", "mips"], "--arch is armv7l, aarch64 or x86_64, not mips."),
        ("bundle", ["--python", "4"], "--python is a version like 3.11, not 4."),
        ("bundle", ["--arch"], "--arch needs a value."),
        ("deb", ["--bundle", "x"], "--bundle is not known"),
    ],
)
def test_a_tool_that_is_called_wrongly_says_how_to_call_it(
    tool: str, arguments: list[str], says: str
) -> None:
    refused = run_tool(ROOT / "tools" / tool, *arguments)
    assert refused.returncode
    assert says in refused.stderr


@pytest.mark.parametrize("tool", ["install", "uninstall", "bundle", "deb"])
def test_a_tool_that_is_asked_says_what_it_does_and_does_nothing(tool: str) -> None:
    asked = run_tool(ROOT / "tools" / tool, "--help")
    assert asked.returncode == 0
    assert f"\n  tools/{tool}" in asked.stdout
    assert asked.stdout.isascii()
    assert "set -euo" not in asked.stdout
    assert asked.stderr == ""


# --- On this machine's own files, which stay as they are ---

PROGRAM = """
import sys
def main(): print("dlm-edge", sys.argv[1:])
"""
METADATA = "Metadata-Version: 2.1\nName: dlm-edge\nVersion: 9.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
ENTRY_POINTS = "[console_scripts]\ndlm-edge=edge_stub:main\n"
TARGET = "import os, sys; print(os.uname().machine, '%d.%d' % sys.version_info[:2])"
BUNDLER = """#!/bin/sh
[ "$*" = "--output $2" ] && cp /root/small.tar.gz "$2" && echo "$2/small.tar.gz"
"""
"""Stands for tools/bundle, which needs a network."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[DebianRoot]:
    """The files of this machine, where the service is not installed."""
    with DebianRoot(tmp_path, base=Path("/")) as here:
        if (here.path / "opt/dlm-edge").exists():
            pytest.skip("the service is installed on this machine")
        yield here


def small_bundle(here: DebianRoot, name: str, config: str) -> Path:
    """An unpacked bundle in /root, whose program only says its name and needs no package."""
    folder = here.path / "root" / name
    wheels, tools = folder / "wheels", folder / "tools"
    wheels.mkdir(parents=True)
    for place in (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")):
        for pip in [*place.glob("pip-*.whl")][:1]:  # Debian keeps it in the second
            shutil.copy(pip, wheels / "pip-0-py3-none-any.whl")
    wheel = wheels / "dlm_edge-9.0-py3-none-any.whl"
    info = "dlm_edge-9.0.dist-info"
    files = {"edge_stub.py": PROGRAM, f"{info}/METADATA": METADATA, f"{info}/WHEEL": WHEEL}
    files[f"{info}/entry_points.txt"] = ENTRY_POINTS
    with zipfile.ZipFile(wheel, "w") as zipped:
        record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
        for name, text in {**files, f"{info}/RECORD": record}.items():
            zipped.writestr(name, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "requirements.lock").write_text(f"dlm-edge==9.0 --hash=sha256:{digest}\n")
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "config/edge.toml").write_text(config)
    shutil.copytree(ROOT / "systemd", folder / "systemd")
    tools.mkdir()
    for name in ("install", "uninstall", "dlm-edge", "lib.sh"):
        shutil.copy(ROOT / "tools" / name, tools)
    for name in ("LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "BUNDLE").write_text(f"9.0 {here.run('python3', '-c', TARGET).stdout}")
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    with (folder / "SHA256SUMS").open("w") as sums:
        subprocess.run(["sha256sum", *names], cwd=folder, stdout=sums, check=True)
    return folder


def test_files_stand_where_they_belong_and_the_configuration_is_the_operators(
    here: DebianRoot,
) -> None:
    default = (ROOT / "config/edge.toml").read_text()
    small_bundle(here, "first", default)
    small_bundle(here, "second", f"{default}# new\n")

    here.run("/root/first/tools/install")
    assert here.run("/opt/dlm-edge/venv/bin/dlm-edge", "x").stdout == "dlm-edge ['x']\n"
    words = "['check', '--config', '/etc/dlm-edge/edge.toml', '--state-dir', 'x']"
    said = here.run("dlm-edge", "check", "--state-dir", "x").stdout
    assert said == f"dlm-edge {words}\n"
    config = here.path / "etc/dlm-edge/edge.toml"
    sound = load_config(config, {}, {})
    assert sound.state.dir == "/var/lib/dlm-edge"
    modes = here.run("stat", "-c", "%U:%G %a", "/etc/dlm-edge", "/etc/dlm-edge/edge.toml")
    assert modes.stdout == "root:dlm-edge 750\nroot:dlm-edge 640\n"

    config.write_text("# mine\n")
    here.run("/root/first/tools/install")
    assert not config.with_name("edge.toml.new").exists()
    here.run("/root/second/tools/install")
    assert config.read_text() == "# mine\n"
    assert config.with_name("edge.toml.new").read_text().endswith("# new\n")
    assert len(list((here.path / RELEASES[1:]).iterdir())) == 2

    here.run("/opt/dlm-edge/current/tools/uninstall")
    assert not (here.path / "opt/dlm-edge").exists()
    assert config.read_text() == "# mine\n"
    here.run("/root/second/tools/uninstall", "--purge")
    left = [*here.path.glob("*/dlm-edge*"), *here.path.glob("*/*/dlm-edge*")]
    # The folder for temporary files is that of this machine, where others are at work.
    assert not [path for path in left if path.relative_to(here.path).parts[0] != "tmp"]


def test_a_checkout_is_installed_by_what_it_packs(here: DebianRoot) -> None:
    packed(small_bundle(here, "small", "# default\n"))
    root = here.path / "root"
    shutil.copytree(ROOT / "tools", root / "checkout/tools")
    (root / "checkout/tools/bundle").write_text(BUNDLER)
    (root / "tmp").mkdir()
    done = here.run("env", "TMPDIR=/root/tmp", "/root/checkout/tools/install")
    assert "dlm-edge 9.0 is installed but not started" in done.stderr
    assert here.run("/opt/dlm-edge/venv/bin/dlm-edge", "x").stdout == "dlm-edge ['x']\n"
    assert (here.path / "etc/dlm-edge/edge.toml").read_text() == "# default\n"
    assert not list((root / "tmp").iterdir())


# --- In a Debian ---


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[DebianRoot]:
    with DebianRoot(tmp_path) as root:
        yield root


@pytest.fixture
def machine(debian: DebianRoot) -> Iterator[Machine]:
    with Machine(debian) as machine:
        yield machine


def releases(debian: DebianRoot) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (debian.path / RELEASES[1:]).iterdir())


@in_a_debian
def test_the_debian_is_as_bare_as_a_controller_may_be(debian: DebianRoot) -> None:
    for module in ("pip", "ensurepip", "attrs", "edge"):
        assert debian.run("python3", "-c", f"import {module}", check=False).returncode, module
    assert debian.run("sh", "-c", "command -v cc gcc curl", check=False).returncode
    assert debian.run("cat", "/proc/net/route").stdout.count("\n") <= 1  # no more than its heading


@in_a_debian
def test_a_bundle_is_the_same_whenever_it_is_made(tmp_path: Path, archive: Path) -> None:
    again = bundle(tmp_path)
    assert again.read_bytes() == archive.read_bytes()
    assert re.fullmatch(r"dlm-edge-0\.1\.0-py3\.11-\w+\.tar\.gz", again.name)


@in_a_debian
@pytest.mark.parametrize("arch", ["armv7l", "aarch64"])
def test_a_bundle_for_arm_holds_a_wheel_for_every_package(tmp_path: Path, arch: str) -> None:
    with tarfile.open(bundle(tmp_path, "--arch", arch)) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
        member = next(member for member in tar if member.name.endswith("/requirements.lock"))
        lock = tar.extractfile(member)
        assert lock is not None
        wanted = re.findall(r"^([\w-]+)==(\S+)", lock.read().decode(), re.M)
    wheels = {name.removeprefix("wheels/") for name in names if name.endswith(".whl")}
    assert {(w.split("-")[0].replace("_", "-"), w.split("-")[1]) for w in wheels} - set(wanted) == {
        ("pip", next(w.split("-")[1] for w in wheels if w.startswith("pip-")))
    }
    assert len(wheels) == len(wanted) + 1
    assert any(arch in wheel for wheel in wheels)
    assert {re.sub(r".*[-.](any|\w+)\.whl", r"\1", wheel)[-len(arch) :] for wheel in wheels} <= {
        arch,
        "any",
    }


@in_a_debian
def test_an_upgrade_that_does_not_get_ready_goes_back(
    machine: Machine, archive: Path, tmp_path: Path
) -> None:
    assert install(machine, archive).returncode == 0
    config = machine.root.path / "etc/dlm-edge/edge.toml"
    config.write_text(f'{config.read_text()}\n# "mine"\n')
    mine = config.read_text()

    new_default = {"config/edge.toml": ('name = "My site"', 'name = "Our site"')}
    good = changed_tree(tmp_path / "good", "0.1.1", **new_default)
    done = install(machine, bundle(tmp_path, tree=good))
    assert done.returncode == 0, done.stderr
    assert running_version(machine) == "0.1.1"
    assert releases(machine.root) == ["0.1.0", "0.1.1"]
    assert config.read_text() == mine
    assert 'name = "Our site"' in config.with_name("edge.toml.new").read_text()

    # One that ends at once, and one that lives but is never READY.
    slow = ("def run_service(", "import time\ntime.sleep(999)\n\n\ndef run_service(")
    hangs = {"edge/app.py": slow, "tools/install": ("ready_timeout_s=60", "ready_timeout_s=3")}
    for version, changes in {"0.1.2": ENDS, "0.1.3": hangs}.items():
        tree = changed_tree(tmp_path / version, version, **changes)
        refused = install(machine, bundle(tmp_path, tree=tree))
        assert refused.returncode == 1, refused.stderr
        assert re.search(rf"{version}-\w+ was not READY within \d+ s, as its log", refused.stderr)
        assert re.search(r"0\.1\.1-\w+ runs again\.\n$", refused.stderr)
        assert machine.show("SubState") == "running"
        assert running_version(machine) == "0.1.1"
    assert config.read_text() == mine


@in_a_debian
def test_an_upgrade_with_faulty_settings_changes_nothing(
    machine: Machine, archive: Path, tmp_path: Path
) -> None:
    assert install(machine, archive).returncode == 0
    process = machine.show("MainPID")
    config = machine.root.path / "etc/dlm-edge/edge.toml"
    config.write_text(f"{config.read_text()}\n[site]\n")
    newer = bundle(tmp_path, tree=changed_tree(tmp_path / "tree", "0.1.1"))
    refused = install(machine, newer)
    assert refused.returncode == 1
    assert re.search(r"runs on as it was, since 0\.1\.1-\w+ would not start with", refused.stderr)
    assert machine.show("MainPID") == process
    assert running_version(machine) == "0.1.0"


@in_a_debian
def test_what_was_recorded_stays_unless_it_is_purged(machine: Machine, archive: Path) -> None:
    # As the guide says it, by the archive that was unpacked.
    machine.run(f"{unpacked(machine.root, archive)}/tools/install")
    root = machine.root.path
    processes = ["find", "/proc", "-maxdepth", "1", "-user", "dlm-edge"]
    assert machine.run(*processes).stdout
    machine.run("/opt/dlm-edge/current/tools/uninstall")
    assert not (root / "opt/dlm-edge").exists()
    assert "dlm-edge" not in machine.run("systemctl", "list-unit-files").stdout
    assert machine.run(*processes).stdout == ""
    assert (root / "var/lib/dlm-edge/journal.db").exists()
    assert (root / "etc/dlm-edge/edge.toml").exists()

    assert install(machine, archive).returncode == 0
    machine.run("/opt/dlm-edge/current/tools/uninstall", "--purge")
    left = machine.run("find", "/", "-xdev", "-name", "*dlm-edge*", "-not", "-path", "/root/*")
    assert left.stdout == ""
    assert machine.run("id", "dlm-edge", check=False).returncode


@in_a_debian
def test_where_systemd_does_not_run_it_is_installed_and_enabled(
    debian: DebianRoot, archive: Path
) -> None:
    done = debian.run(f"{unpacked(debian, archive)}/tools/install")
    assert "is installed but not started, since systemd does not run here" in done.stderr
    link = "etc/systemd/system/multi-user.target.wants/dlm-edge.service"
    assert (debian.path / link).is_symlink()
    with Machine(debian) as machine:  # it comes up by itself, also after a power cut
        wait_until(lambda: machine.show("SubState") == "running", timeout_s=30, what="READY")
        machine.cut_power()
        machine.boot()
        wait_until(lambda: machine.show("SubState") == "running", timeout_s=30, what="READY again")


@in_a_debian
def test_a_bundle_for_another_machine_changes_nothing(debian: DebianRoot, tmp_path: Path) -> None:
    other = bundle(tmp_path, "--arch", "armv7l")
    refused = debian.run(f"{unpacked(debian, other)}/tools/install", check=False)
    assert refused.returncode == 1
    assert "this bundle is for armv7l and Python 3.11, but /usr/bin/python3.11" in refused.stderr
    assert "--python 3.11" in refused.stderr
    assert not (debian.path / "opt/dlm-edge").exists()
    assert not (debian.path / "etc/dlm-edge").exists()


@in_a_debian
def test_the_debian_package_installs_upgrades_removes_and_purges(
    machine: Machine, tmp_path: Path
) -> None:
    package = bundle(tmp_path, tool="deb")
    machine.run("dpkg", "--install", copied(machine.root, package))
    assert machine.show("SubState") == "running"
    assert running_version(machine) == "0.1.0"

    broken = bundle(tmp_path, tool="deb", tree=changed_tree(tmp_path / "broken", "0.1.1", **ENDS))
    refused = machine.run("dpkg", "--install", copied(machine.root, broken), check=False)
    assert refused.returncode, refused.stdout
    assert re.search(r"0\.1\.0-\w+ runs again\.\n", refused.stderr)
    assert running_version(machine) == "0.1.0"
    state = machine.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", "dlm-edge")
    assert state.stdout == "half-configured"

    newer = bundle(tmp_path, tool="deb", tree=changed_tree(tmp_path / "newer", "0.1.2"))
    machine.run("dpkg", "--install", copied(machine.root, newer))
    assert running_version(machine) == "0.1.2"

    machine.run("dpkg", "--remove", "dlm-edge")
    root = machine.root.path
    assert not (root / "opt/dlm-edge").exists()
    assert (root / "var/lib/dlm-edge/journal.db").exists()
    machine.run("dpkg", "--purge", "dlm-edge")
    left = machine.run("find", "/", "-xdev", "-name", "*dlm-edge*", "-not", "-path", "/root/*")
    assert left.stdout == ""
