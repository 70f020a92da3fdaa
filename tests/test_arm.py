"""The service on Arm of 32 and 64 bits: installed from its bundle, run, its core tested there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edge
from tests.arm import ARMV7, ARMV8, ArmRoot
from tests.peers import wait_until
from tests.service import Service

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "/opt/dlm-edge/venv/bin/python"
TEST_PACKAGES = (
    "hypothesis", "iniconfig", "packaging", "pluggy", "pygments", "pytest", "sortedcontainers",
)  # fmt: skip
CORE = (
    "times",
    "decode",
    "schedule",
    "load",
    "block",
    "batch",
    "counter",
    "rollup",
    "era",
    "cycle",
)
_PIN = re.compile(r"^(\S+)==(\S+)( ; .*)? (\\\n(?:    --hash.*\n)+)", re.M)
SLOW_START_S = 60.0
"""A processor that a program imitates is some ten times slower."""

pytestmark = pytest.mark.skipif(
    "TEST_INSTALL" not in os.environ, reason="takes minutes and a network: tools/test --install"
)


@pytest.fixture(scope="module", params=[ARMV7, ARMV8], ids=lambda processor: processor.machine)
def arm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ArmRoot]:
    """A Debian for Arm in which the service was installed without a network."""
    folder = tmp_path_factory.mktemp("arm")
    root = ArmRoot(folder / "root", request.param, ROOT)
    machine = root.processor.machine
    options = ["--arch", machine, "--python", "3.11", "--output", str(folder)]
    made = subprocess.run(
        [ROOT / "tools/bundle", *options], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    archive = Path(made.stdout.strip())
    shutil.copy(archive, root.path / "root")
    root.run("tar", "-xf", f"/root/{archive.name}", "-C", "/root", "--no-same-owner")
    said = root.run(f"/root/{archive.name.removesuffix('.tar.gz')}/tools/install")
    assert "is installed but not started" in said
    yield root
    shutil.rmtree(root.path)  # some 200 MB


def test_what_is_installed_is_for_this_processor(arm: ArmRoot) -> None:
    assert arm.run("dlm-edge", "--version").split()[-1] == edge.__version__
    program = "import os, struct; print(os.uname().machine, struct.calcsize('P') * 8)"
    expected = f"{arm.processor.machine} {arm.processor.bits}\n"
    assert arm.run(PYTHON, "-c", program) == expected
    enabled = "etc/systemd/system/multi-user.target.wants/dlm-edge.service"
    assert (arm.path / enabled).is_symlink()


def test_the_demo_site_is_measured_and_recorded(arm: ArmRoot, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    demo = ["run", "--demo", "--port", "0", "--state-dir", "/tmp/demo"]
    service = arm.start("/opt/dlm-edge/venv/bin/dlm-edge", *demo, log=log)
    try:
        base_url = listening(service, log)
        wait_until(
            lambda: data(base_url, "/api/system")["meters"] == {"online": 4},
            timeout_s=SLOW_START_S,
            what="four meters online",
        )
        wait_until(
            lambda: data(base_url, "/api/system")["journal"]["recorded"] > 20,
            timeout_s=SLOW_START_S,
            what="a journal that records",
        )
        meters = data(base_url, "/api/energy-meters")
        assert all(meter["quality"] == "good" for meter in meters)
        assert all(meter["currentPower"] is not None for meter in meters)
        service.send_signal(signal.SIGTERM)
        assert service.wait(SLOW_START_S) == 0, log.read_text()
    finally:
        service.kill()
        service.wait()
    assert "Traceback" not in log.read_text()


def listening(service: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the service listens; where."""
    pattern = re.compile(r"Listening on (http://\S+)")
    wait_until(
        lambda: pattern.search(log.read_text()) or service.poll() is not None,
        timeout_s=SLOW_START_S,
        what="a service that listens",
    )
    found = pattern.search(log.read_text())
    assert found, log.read_text()
    return found[1]


def data(base_url: str, path: str) -> Any:
    with urllib.request.urlopen(base_url + path, timeout=SLOW_START_S) as answer:
        return json.load(answer)["data"]


def test_a_journal_of_another_processor_is_read(arm: ArmRoot, tmp_path: Path) -> None:
    with Service(tmp_path, arguments=("--demo",)) as service:
        service.wait_until(
            lambda: service.data("/api/system")["journal"]["recorded"] > 50, "recording", 30
        )
        service.stop()
    moved = arm.path / "tmp/moved"
    shutil.copytree(service.state_dir, moved)
    export = ["export", "--state-dir"]
    here = subprocess.run(
        [sys.executable, "-m", "edge", *export, service.state_dir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    there = arm.run(
        "/opt/dlm-edge/venv/bin/dlm-edge", *export, "/tmp/moved", "--output", "/tmp/csv"
    )
    assert there
    assert len(here.splitlines()) > 50
    assert (arm.path / "tmp/csv").read_text() == here


@pytest.fixture(scope="module")
def packages(arm: ArmRoot, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install what the tests need, as pinned, for Debian's Python on that processor; where."""
    lock = tmp_path_factory.mktemp("packages") / "tests.lock"
    lock.write_text(
        "".join(
            f"{pin[1]}=={pin[2]} {pin[4]}"
            for pin in _PIN.finditer((ROOT / "tools/requirements-test.lock").read_text())
            if pin[1] in TEST_PACKAGES and "< '3.11'" not in (pin[3] or "")
        )
    )
    target = "opt/tests"
    options = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]
    for platform in ("linux", "manylinux2014", "manylinux_2_28", "manylinux_2_31"):
        options += ["--platform", f"{platform}_{arm.processor.machine}"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *options]
    subprocess.run([*pip, "--target", arm.path / target, "--requirement", lock], check=True)
    return f"/{target}"


@pytest.mark.parametrize("name", CORE)
def test_the_core_passes_its_tests(arm: ArmRoot, packages: str, name: str) -> None:
    variables = [
        f"PYTHONPATH={packages}",
        "PYTHONPYCACHEPREFIX=/tmp/pycache",
        "HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis",
    ]
    options = ["-q", "-p", "no:cacheprovider", f"tests/test_{name}.py"]
    in_checkout = ["env", "-C", "/checkout", *variables]
    said = arm.run(*in_checkout, PYTHON, "-m", "pytest", *options, timeout_s=600)
    assert re.search(r"^[1-9]\d* passed in ", said, re.M), said
