"""The unit: systemd takes it without a word, it is tight, and the service does its work within."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edge.journal import kernelclock
from tests.building import a_registration
from tests.debian import DebianRoot, Machine
from tests.peers import LibmodbusServer, need_program, pty_pair, wait_until
from tests.sandbox import allowed_calls, settings_of
from tests.service import ROOT, Service

UNIT = ROOT / "systemd" / "dlm-edge.service"
SETTINGS = settings_of(UNIT)
CONFINED = (
    f"from pathlib import Path; from tests.sandbox import confine; confine(Path({str(UNIT)!r}))"
)
MOST_EXPOSED = 15
"""Tenths, of 100."""


def test_systemd_finds_nothing_to_say_of_it(tmp_path: Path) -> None:
    """In a root that has systemd's own units, and the programs that this one starts."""
    verified = _verify(tmp_path, UNIT.read_text())
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("[Service]\nRestartStepz=3\n", "Unknown key"),
        ("[Service]\nExecStart=/bin/false\n", "more than one ExecStart="),
        ("[Service]\nWatchdogSec=often\n", "Failed to parse"),
    ],
)
def test_what_is_wrong_with_a_unit_would_be_found(
    tmp_path: Path, wrong: str, complaint: str
) -> None:
    verified = _verify(tmp_path, f"{UNIT.read_text()}\n{wrong}")
    assert complaint in verified.stderr


def test_it_is_exposed_no_more_than_it_must_be() -> None:
    assert _is_exposed_at_most(MOST_EXPOSED, UNIT)


def test_what_exposes_it_would_be_found(tmp_path: Path) -> None:
    looser = tmp_path / UNIT.name
    text = UNIT.read_text()
    for line in ("NoNewPrivileges=yes\n", "ProtectSystem=strict\n", "CapabilityBoundingSet=\n"):
        assert line in text
        text = text.replace(line, "")
    looser.write_text(text)
    assert not _is_exposed_at_most(MOST_EXPOSED, looser)


def test_it_is_started_again_however_often_it_ends() -> None:
    assert SETTINGS["Restart"] == ["always"]
    assert SETTINGS["StartLimitIntervalSec"] == ["0"]
    assert "RestartPreventExitStatus" not in SETTINGS


@pytest.mark.parametrize(
    ("kind", "name"),
    [(4, "ttyS0"), (166, "ttyACM0"), (188, "ttyUSB0"), (204, "ttyAMA0")],
)
def test_serial_ports_may_be_opened_though_their_driver_comes_later(kind: int, name: str) -> None:
    """By number: a name that /proc/devices does not have at the start is passed over."""
    assert f"char-{kind} rw" in SETTINGS["DeviceAllow"], name
    assert SETTINGS["DevicePolicy"] == ["closed"]
    assert "PrivateDevices" not in SETTINGS


def test_nothing_needs_a_privilege() -> None:
    calls = allowed_calls(SETTINGS["SystemCallFilter"])
    assert {"read", "socket", "fsync", "futex", "clone3", "execve"} <= calls
    assert not calls & {"mount", "ptrace", "bpf", "setuid", "chown", "clock_settime", "reboot"}
    assert SETTINGS["CapabilityBoundingSet"] == SETTINGS["AmbientCapabilities"] == [""]


SERIAL_PORTS = {"ttyS0": (4, 64), "ttyACM0": (166, 0), "ttyUSB0": (188, 0), "ttyAMA0": (204, 64)}
OPENER = """
import errno, os, sys
for name in sys.argv[1:]:
    try:
        os.close(os.open(f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as exc:
        print(name, errno.errorcode[exc.errno])
    else:
        print(name, "opened")
"""


@pytest.mark.skipif(
    "TEST_INSTALL" not in os.environ, reason="takes minutes and a network: tools/test --install"
)
def test_the_sandbox_lets_the_group_dialout_at_serial_ports_and_at_nothing_else(
    tmp_path: Path,
) -> None:
    """In a real systemd; ENXIO is what a port gives that is let through and has no driver."""
    devices = {**SERIAL_PORTS, "tun": (10, 200)}
    once = {"Type": "oneshot", "WatchdogSec": "0", "Restart": "no", "SyslogIdentifier": "once"}
    once["ExecStart"] = f"/usr/bin/python3 /opt/opener.py {' '.join(devices)}"
    unit = UNIT.read_text()
    for key, value in once.items():
        unit, count = re.subn(f"(?m)^{key}=.*", f"{key}={value}", unit)
        assert count == 1, key
    with DebianRoot(tmp_path) as root:
        (root.path / "opt" / "opener.py").write_text(OPENER)
        units = root.path / "etc" / "systemd" / "system"
        (units / "in-group.service").write_text(unit)
        (units / "outside.service").write_text(unit.replace("SupplementaryGroups=dialout", ""))
        root.run("useradd", "--system", "--user-group", "dlm-edge")
        with Machine(root) as machine:
            for name, (major, minor) in devices.items():
                numbers = (str(major), str(minor))
                machine.run("mknod", "-m", "0660", f"/dev/{name}", "c", *numbers)
                machine.run("chown", "root:dialout", f"/dev/{name}")
            found = {service: _printed_by(machine, service) for service in ("in-group", "outside")}
    assert found["in-group"].pop("tun") == "EPERM"
    assert set(found["in-group"]) == set(SERIAL_PORTS)
    assert set(found["in-group"].values()) <= {"opened", "ENXIO", "ENODEV", "EIO"}
    assert set(found["outside"].values()) == {"EACCES"}


def _printed_by(machine: Machine, service: str) -> dict[str, str]:
    machine.run("systemctl", "start", service)
    journal = ["journalctl", "--unit", service, "--identifier", "once", "--output", "cat"]

    def lines() -> list[str]:
        return machine.run(*journal).stdout.splitlines()

    wait_until(lambda: len(lines()) > len(SERIAL_PORTS), what="all that was printed")
    return dict(line.split() for line in lines())


# --- The service within ---------------------------------------------------------------------------


def test_all_that_is_forbidden_is_not_needed(tmp_path: Path) -> None:
    """Modbus on a serial line and over TCP, the journal, reloading, and the end."""
    config = "[journal]\ncommit_interval_s = 0.2\n"
    with (
        pty_pair(tmp_path) as wire,
        LibmodbusServer({0: 1, 1: 2, 2: 230}, device=wire.right),
        Service(tmp_path, config=config, arguments=("--demo",), prelude=CONFINED) as service,
    ):
        serial = {"serialPort": wire.left, "transport": "rtu", "parity": "N", "unitId": 1}
        registers = {"power": 0, "energy": 1, "voltage": 2}
        meter = a_registration("Serial", communication={**serial, "registers": registers})
        service.register(meter)
        service.wait_until(lambda: _all_are_online(service), "all online", timeout_s=30.0)
        service.wait_until(lambda: _recorded(service) > 20, "recording")
        service.signal(signal.SIGHUP)
        service.wait_until(lambda: "was reloaded" in service.log, "reloaded")
        assert b"Seccomp:\t2" in Path(f"/proc/{service.process.pid}/status").read_bytes()
        assert service.stop() == 0
    assert not re.findall(r" (?:ERROR|CRITICAL) .*|.*not permitted.*", service.log)


def test_what_is_forbidden_is_refused() -> None:
    """The sandbox of these tests does something: each of these works without it."""
    _in_sandbox(
        """
        import errno, mmap, os, socket
        def refused(call, number):
            try:
                call()
            except OSError as error:
                assert error.errno == number, error
            else:
                raise AssertionError("it works")
        refused(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), errno.EAFNOSUPPORT)
        refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC), errno.EPERM)
        refused(lambda: os.chown(".", -1, -1), errno.EPERM)
        refused(lambda: os.nice(1), errno.EPERM)
        """
    )


def test_what_a_demo_does_not_show_works_too() -> None:
    """Names, the hash of a token, TLS, and functions that C is to call."""
    _in_sandbox(
        """
        import ctypes, hashlib, socket, ssl
        assert socket.getaddrinfo("localhost", 80)
        assert hashlib.scrypt(b"secret", salt=b"salt", n=2**14, r=8, p=1)
        assert ssl.create_default_context().get_ciphers()
        ctypes.CFUNCTYPE(None)(lambda: None)()
        """
    )


# --- The clock, which the sandbox forbids to ask the kernel for -----------------------------------


@pytest.mark.parametrize(
    ("age_s", "synchronised"), [(1, True), (4000, True), (5000, False), (-3600, False)]
)
def test_timesyncd_is_believed_where_the_kernel_is_not_to_be_asked(
    tmp_path: Path, age_s: int, synchronised: bool
) -> None:
    file = tmp_path / "synchronized"
    file.touch()
    touched_s = time.time() - age_s
    os.utime(file, (touched_s, touched_s))
    _in_sandbox(
        f"""
        from edge.journal import kernelclock
        assert not kernelclock.synchronised() or kernelclock._TIMESYNCD_FILE.exists()
        kernelclock._TIMESYNCD_FILE = Path({str(file)!r})
        assert kernelclock.synchronised() is {synchronised}
        kernelclock._TIMESYNCD_FILE = Path("/nowhere/synchronized")
        assert not kernelclock.synchronised()
        """
    )


@pytest.mark.parametrize(("state", "synchronised"), [(0, True), (4, True), (5, False)])
def test_the_kernel_is_believed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: int, synchronised: bool
) -> None:
    file = tmp_path / "synchronized"
    file.touch()
    monkeypatch.setattr(kernelclock, "_TIMESYNCD_FILE", file)
    monkeypatch.setattr(kernelclock, "_kernel_state", lambda: state)
    assert kernelclock.synchronised() is synchronised
    monkeypatch.setattr(kernelclock, "_kernel_state", lambda: -1)
    assert kernelclock.synchronised()


def _in_sandbox(program: str) -> None:
    """Run a program as confined as the service is; it must end with success."""
    run = subprocess.run(
        [sys.executable, "-c", f"{CONFINED}\n{textwrap.dedent(program)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def _all_are_online(service: Service) -> bool:
    status = {meter["name"]: meter["status"] for meter in service.data("/api/energy-meters")}
    return len(status) > 3 and set(status.values()) == {"online"}


def _recorded(service: Service) -> int:
    return int(service.data("/api/system")["journal"]["recorded"])


def _verify(folder: Path, unit: str) -> subprocess.CompletedProcess[str]:
    """Let systemd read a unit in an own root."""
    program = need_program("systemd-analyze", "systemd")
    units = folder / "etc" / "systemd" / "system"
    shutil.copytree("/lib/systemd/system", units, symlinks=True, ignore_dangling_symlinks=True)
    (units / UNIT.name).write_text(unit)
    for path in (SETTINGS["ExecStart"][0].split()[0], "/bin/sh"):
        started = folder / path.lstrip("/")
        started.parent.mkdir(parents=True, exist_ok=True)
        started.write_text("#!/bin/sh\n")
        started.chmod(0o755)
    return subprocess.run(
        [program, "verify", f"--root={folder}", "--man=no", UNIT.name],
        capture_output=True,
        text=True,
        check=False,
    )


def _is_exposed_at_most(tenths: int, unit: Path) -> bool:
    program = need_program("systemd-analyze", "systemd")
    command = [program, "security", "--offline=true", "--no-pager", f"--threshold={tenths}"]
    run = subprocess.run([*command, str(unit)], capture_output=True, text=True, check=False)
    assert "Overall exposure level" in run.stdout, run.stderr
    return run.returncode == 0
