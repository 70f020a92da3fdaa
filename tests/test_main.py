"""The command line: what each command says, and its exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from edge import __version__
from edge.__main__ import COMMANDS, main
from tests.building import a_registration
from tests.peers import free_port, wait_until
from tests.service import ROOT, Service


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DLM_EDGE_"):
            monkeypatch.delenv(name)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edge", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def ended(*arguments: str) -> int:
    """Run a command that argparse ends; the exit code."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def a_state(folder: Path, *names: str, **changes: object) -> Path:
    """Write a state folder with a meter for each name."""
    folder.mkdir()
    meters = [
        {"id": f"meter_{slot}", "slot": slot, "registration": {**a_registration(name), **changes}}
        for slot, name in enumerate(names)
    ]
    (folder / "state.json").write_text(json.dumps({"version": 1, "meters": meters}))
    return folder


# --- Help and wrong use ---------------------------------------------------------------------------


def test_help_lists_every_command_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--help") == 0
    shown = capsys.readouterr().out
    for name, (purpose, _) in COMMANDS.items():
        assert f"  {name:10}{purpose}\n" in shown
    assert ended("--version") == 0
    assert capsys.readouterr().out == f"dlm-edge {__version__}\n"


@pytest.mark.parametrize(
    ("command", "flag"), [("run", "--demo"), ("check", "--config"), ("simulate", "--fault")]
)
def test_each_command_has_help_of_its_own(command: str, flag: str) -> None:
    shown = run(command, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"usage: dlm-edge {command} ")
    assert flag in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("check", "--nope"), "unrecognized arguments: --nope"),
        (("check", "extra"), "unrecognized arguments: extra"),
        (("simulate", "--meters", "many"), "invalid int value: 'many'"),
    ],
)
def test_wrong_use_exits_2(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(*arguments) == 2
    assert complaint in capsys.readouterr().err


def test_the_simulators_own_exit_code_is_given() -> None:
    bad = run("simulate", "--meters", "0")
    assert (bad.returncode, bad.stderr) == (
        2,
        "dlm-edge simulate: --meters must be 1 to 50000\n",
    )


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (("run", "--help"), ("edge.app", "edge.config", "edge.simulate", "attrs")),
        (
            ("check", "--config", os.devnull, "--state-dir", "x"),
            ("edge.app", "edge.simulate", "prometheus_client"),
        ),
    ],
)
def test_no_command_waits_for_imports_of_another(
    arguments: tuple[str, ...], unneeded: tuple[str, ...]
) -> None:
    program = (
        "import sys\nfrom edge.__main__ import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {unneeded!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("command", ["-m edge", "-c 'from edge.__main__ import main; main()'"])
def test_no_socket_gets_the_number_of_a_standard_file_that_was_closed(
    tmp_path: Path, command: str
) -> None:
    port = free_port()
    arguments = f"run --state-dir {tmp_path} --port {port}"
    program = f"exec {sys.executable} {command} {arguments} <&- >&- 2>&-"
    process = subprocess.Popen(["/bin/sh", "-c", program], cwd=ROOT)
    try:
        wait_until(lambda: _answers(port), timeout_s=10, what="answering")
        fds = Path(f"/proc/{process.pid}/fd")
        assert [str((fds / str(fd)).readlink()) for fd in range(3)] == [os.devnull] * 3
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


# --- check ----------------------------------------------------------------------------------------


def test_check_says_that_all_is_sound_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"
    assert main(["check", "--state-dir", str(folder)]) == 0
    assert capsys.readouterr().out == "The configuration is sound; 0 meters are registered.\n"
    assert not folder.exists()
    a_state(folder, "A", "B")
    assert main(["check", "--state-dir", str(folder)]) == 0
    assert capsys.readouterr().out == "The configuration is sound; 2 meters are registered.\n"
    assert [file.name for file in folder.iterdir()] == ["state.json"]


def test_check_names_every_fault_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.toml"
    file.write_text("[site]\ngrid_capacity_kw = 0\n[aip]\n[cycle]\ntick_ms = 5\n")
    monkeypatch.setenv("DLM_EDGE_API_PORT", "70000")
    assert main(["check", "--config", str(file), "--state-dir", " "]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sorted(err.splitlines()) == sorted(
        [
            "--state-dir (state.dir): must not be empty",
            f"{file}: aip: unknown key; did you mean 'api'?",
            f"{file}: cycle.tick_ms: must be 100 to 1,000 ms, not 5",
            f"{file}: site.grid_capacity_kw: must be 0.1 to 1,000,000 kW, not 0.0",
            "DLM_EDGE_API_PORT (api.port): must be 0 to 65,535, not 70,000",
        ]
    )


def test_check_says_why_a_config_file_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "site.toml"
    for content, complaint in (
        (None, "no such file; give its path with --config"),
        (b"[site", "is not valid TOML"),
        (b'name = "\xff"', "is not UTF-8 text; save it as UTF-8"),
    ):
        if content is not None:
            file.write_bytes(content)
        assert main(["check", "--config", str(file)]) == 2
        assert f"{file}: {complaint}" in capsys.readouterr().err
    assert main(["check", "--config", str(tmp_path)]) == 2
    assert "cannot be read (Is a directory)" in capsys.readouterr().err


def test_check_names_every_fault_of_the_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_state(tmp_path / "state", "A", "B", meterType="gird", pollInterval=1)
    assert main(["check", "--state-dir", str(folder)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for number in (0, 1):
        start = f"{folder / 'state.json'}: meters[{number}].registration"
        assert f"{start}.pollInterval: must be 200 to 3,600,000 ms, not 1" in lines
        assert any(line.startswith(f"{start}.meterType: must be grid | ") for line in lines)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "state.json is damaged and cannot be used.\nNo meters could be restored; "),
        (b'{"version": 2}', "state.json: version: is of a newer dlm-edge than this one"),
    ],
)
def test_check_says_why_the_state_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, complaint: str
) -> None:
    (tmp_path / "state.json").write_bytes(content)
    assert main(["check", "--state-dir", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert (tmp_path / "state.json").read_bytes() == content


def test_check_says_that_only_the_backup_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_state(tmp_path / "state", "A")
    (folder / "state.json").rename(folder / "state.json.bak")
    assert main(["check", "--state-dir", str(folder)]) == 2
    assert "the 1 meters of state.json.bak are used" in capsys.readouterr().err


def test_check_names_the_faults_of_ones_own_templates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "maker-model.toml").write_text('title = "Broken"\n')
    file = tmp_path / "edge.toml"
    file.write_text(f'[templates]\ndir = "{folder}"\n')
    check = ["check", "--config", str(file), "--state-dir", str(tmp_path)]
    assert main(check) == 2
    assert f"{folder / 'maker-model.toml'}: source: is missing" in capsys.readouterr().err
    assert main([*check, "--can-start"]) == 0, "the other templates are used"
    assert f"{folder / 'maker-model.toml'}: source: is missing" in capsys.readouterr().err
    file.write_text("[site]\ngrid_capacity_kw = 0\n")
    assert main([*check, "--can-start"]) == 2
    file.write_text('[api]\ncert_file = "no.pem"\nkey_file = "no.key"\n')
    assert main([*check, "--can-start"]) == 2
    assert "api.cert_file: " in capsys.readouterr().err


def test_check_says_that_the_state_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["check", "--state-dir", str(tmp_path / "file")]) == 2
    assert "state.json cannot be read (Not a directory); fix" in capsys.readouterr().err


def test_check_may_look_while_the_service_runs(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.register(a_registration("A"))
        arguments = ["--config", str(service.config_file), "--state-dir", str(service.state_dir)]
        checked = run("check", *arguments)
        assert (checked.returncode, checked.stdout) == (
            0,
            "The configuration is sound; 1 meters are registered.\n",
        )


# --- run that cannot start ------------------------------------------------------------------------


def test_run_with_a_faulty_configuration_exits_2_before_it_touches_anything(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path, config="[site]\ngrid = 1\n[log]\nlevel = 'loud'\n").launch()
    assert service.exit_code() == 2
    lines = service.log.splitlines()
    assert len(lines) == 2
    assert any(f"{service.config_file}: site.grid: unknown key" in line for line in lines)
    assert any(f"{service.config_file}: log.level: must be debug | info" in line for line in lines)
    assert not service.state_dir.exists()


def test_run_without_authentication_stays_on_loopback(tmp_path: Path) -> None:
    refused = Service(tmp_path, arguments=("--host", "0.0.0.0")).launch()
    assert refused.exit_code() == 2
    assert refused.log.startswith("api.host: '0.0.0.0' can be reached from the network")
    assert refused.log.count("\n") == 1
    assert not refused.state_dir.exists()
    assert run("check", "--state-dir", str(refused.state_dir)).returncode == 0
    beyond = {**os.environ, "DLM_EDGE_API_HOST": "0.0.0.0"}
    check = [sys.executable, "-m", "edge", "check", "--state-dir", str(refused.state_dir)]
    checked = subprocess.run(check, cwd=ROOT, env=beyond, stderr=subprocess.PIPE, check=False)
    assert checked.returncode == 2
    assert checked.stderr.decode() == refused.log


def test_run_with_a_stored_meter_that_is_not_valid_exits_2(tmp_path: Path) -> None:
    service = Service(tmp_path)
    a_state(service.state_dir, "A", protocol="morse")
    assert service.launch().exit_code() == 2
    assert service.log == (
        f"{service.state_dir / 'state.json'}: meters[0].registration.protocol: 'morse' is not "
        "supported; known: modbus, mqtt, http\n"
    )


def test_run_with_a_state_folder_that_cannot_be_used_exits_1(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.state_dir.write_text("")
    assert service.launch().exit_code() == 1
    assert service.log.endswith(
        f"\n{service.state_dir} cannot be used (File exists); fix its permissions or give another "
        "--state-dir.\n"
    )


def test_the_checkouts_own_configuration_is_the_default(tmp_path: Path) -> None:
    checked = run("check", "--state-dir", str(tmp_path))
    assert (checked.returncode, checked.stderr) == (0, "")
