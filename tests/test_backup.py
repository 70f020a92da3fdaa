"""`dlm-edge backup` and `dlm-edge restore`: what a controller remembers, there and back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.__main__ import main
from edge.commands import backup
from edge.commands.archive import is_inside
from edge.csvtable import chunk_rows
from edge.errors import JournalError
from edge.journal import copying
from edge.journal.copying import copy_database
from edge.journal.history import History
from edge.journal.schema import connect
from edge.tokenfile import Role
from edge.tokens import Tokens
from tests.building import FakeClock, a_registration
from tests.journals import HOUR_MS, START_MS, WrittenJournal, a_series, values_at
from tests.peers import LibmodbusServer
from tests.service import Service

ALWAYS = (0, 2**62)


@pytest.fixture(autouse=True)
def _as_urgent_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command makes its process yield to all others, which this one shall not."""
    monkeypatch.setattr(os, "nice", lambda _: 19)


def content(folder: Path) -> list[str]:
    """All raw readings of a journal, as CSV."""
    with History(folder / "journal.db") as history:
        meters = dict.fromkeys(series.meter_id for series in history.series())
        return [
            row
            for meter in meters
            for chunk in history.raw(meter, *ALWAYS)
            for row in chunk_rows(chunk)
        ]


def calm(state: Path) -> None:
    """Let a journal look as if nobody had written it for a while."""
    for path in state.glob("journal.db*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 60))


class Site:
    """A controller: its configuration in a folder, with what it names, and its state."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.state = folder / "etc", folder / "var" / "state"
        self.config = self.etc / "edge.toml"

    def flags(self) -> list[str]:
        return ["--config", str(self.config), "--state-dir", str(self.state)]

    def backup(self, file: Path, *flags: str) -> int:
        return main(["backup", str(file), *self.flags(), *flags])

    def restore(self, file: Path, *flags: str) -> int:
        return main(["restore", str(file), *self.flags(), *flags])

    def files(self) -> dict[str, bytes]:
        """All that is there, below the folders of a site."""
        tops = {"etc": self.etc, "state": self.state}
        return {
            f"{name}/{path.relative_to(top)}": path.read_bytes()
            for name, top in tops.items()
            for path in sorted(top.rglob("*"))
            if path.is_file()
        }


CONFIG = """
[site]
grid_capacity_kw = 40
[templates]
dir = "templates"
[mqtt.brokers.default]
username = "edge"
password_file = "secrets/broker.password"
"""
TEMPLATE = """
title = "Own"
maker = "Us"
models = ["One"]
protocol = "modbus"
source = "Our own head."
[communication]
registers = {power = 7}
"""


@pytest.fixture
def source(tmp_path: Path) -> Site:
    """A controller with two meters, one by a template of its own, a token, and a journal."""
    site = Site(tmp_path / "source")
    (site.etc / "secrets").mkdir(parents=True)
    (site.etc / "templates").mkdir()
    site.config.write_text(CONFIG)
    site.config.chmod(0o640)
    (site.etc / "secrets" / "broker.password").write_text("hush")
    (site.etc / "secrets" / "broker.password").chmod(0o600)
    (site.etc / "templates" / "our-own.toml").write_text(TEMPLATE)
    site.state.mkdir(parents=True)
    own = a_registration("Own", communication={"template": "our-own", "host": "127.0.0.1"})
    meters = [
        {"id": f"meter_{slot}", "slot": slot, "registration": document}
        for slot, document in enumerate((a_registration("Main", maxPower=40), own))
    ]
    (site.state / "state.json").write_text(json.dumps({"version": 1, "meters": meters}))
    (site.state / "local.token").write_text("of this run")
    Tokens(site.state).add("anna", Role.ADMIN, START_MS)
    with WrittenJournal(site.state) as journal:
        rows = [(number, START_MS + number * 1000, values_at(number)) for number in range(1, 900)]
        journal.add_block(a_series(), rows)
        late = [
            (number, START_MS + HOUR_MS + number, values_at(number)) for number in range(900, 950)
        ]
        journal.add_tail([(a_series(), row) for row in late])
    calm(site.state)
    return site


@pytest.fixture
def target(tmp_path: Path) -> Site:
    return Site(tmp_path / "target")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar.gz"


# --- There and back ------------------------------------------------------------------------------


def test_a_new_controller_gets_all_of_the_old_one(
    source: Site, target: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(source.state)
    assert source.backup(file) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert target.restore(file) == 0
    told = capsys.readouterr().out
    assert "2 meters" in told
    assert "start the service" in told
    kept, restored = source.files(), target.files()
    assert {name for name in kept if name not in restored} <= {
        *("state/local.token", "state/tokens.lock"),
        *("state/journal.db-wal", "state/journal.db-shm"),
    }
    assert all(kept[name] == data for name, data in restored.items() if "journal.db" not in name)
    assert content(target.state) == before
    assert len(before) == 949
    assert stat.S_IMODE((target.state / "tokens.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(target.config.stat().st_mode) == 0o640
    assert main(["check", *target.flags()]) == 0
    assert "2 meters are registered" in capsys.readouterr().out


def test_what_was_there_is_moved_aside_and_nothing_deleted(
    source: Site, target: Site, file: Path
) -> None:
    source.backup(file)
    target.etc.mkdir(parents=True)
    target.state.mkdir(parents=True)
    target.config.write_text("[site]\ngrid_capacity_kw = 500\n")
    for name in ("state.json", "state.json.bak", "journal.db", "journal.db-wal", "notes.txt"):
        (target.state / name).write_text(f"old {name}")
    assert target.restore(file) == 0
    files = target.files()
    (aside,) = [path for path in target.state.iterdir() if path.is_dir()]
    assert {path.name: path.read_text() for path in aside.iterdir()} == {
        name: f"old {name}"
        for name in ("state.json", "state.json.bak", "journal.db", "journal.db-wal")
    }
    assert files["state/notes.txt"] == b"old notes.txt"
    assert "state/state.json.bak" not in files, "the backup has none"
    assert content(target.state) == content(source.state)
    (was,) = [name for name in files if "edge.toml.before-restore-" in name]
    assert b"500" in files[was]
    assert b"40" in files["etc/edge.toml"]
    assert target.restore(file) == 0, "again"
    assert len([path for path in target.state.iterdir() if path.is_dir()]) == 2
    assert content(target.state) == content(source.state)


def test_a_backup_without_journal_leaves_the_one_that_is_there(
    source: Site, target: Site, file: Path
) -> None:
    assert source.backup(file, "--without-journal") == 0
    shutil.copytree(source.state, target.state)
    (target.state / "state.json").unlink()
    assert target.restore(file) == 0
    assert (target.state / "state.json").exists()
    assert len(content(target.state)) == 949


def test_the_configuration_may_stay_as_it_is(source: Site, target: Site, file: Path) -> None:
    source.backup(file)
    shutil.copytree(source.etc, target.etc)
    target.config.write_text('[site]\nid = "here"\n[templates]\ndir = "templates"\n')
    before = {path: data for path, data in target.files().items() if path.startswith("etc/")}
    assert target.restore(file, "--keep-config") == 0
    after = {path: data for path, data in target.files().items() if path.startswith("etc/")}
    assert after == before
    assert (target.state / "state.json").exists()


def test_what_lies_elsewhere_is_told_and_not_written(
    source: Site, target: Site, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, missing = tmp_path / "else where.password", tmp_path / "gone.pem"
    secret.write_text("hush")
    secret.chmod(0o600)
    source.config.write_text(
        f'[mqtt.brokers.a]\nusername = "a"\npassword_file = "{secret}"\ntls = true\n'
        f'ca_file = "{missing}"\n[templates]\ndir = "templates"\n'
    )
    assert source.backup(file) == 1, "a file is missing"
    assert f"{missing} is named but not in the backup: it cannot be read" in capsys.readouterr().err
    secret.unlink()
    assert target.restore(file) == 0
    assert not secret.exists()
    (advice,) = (line for line in capsys.readouterr().out.splitlines() if str(secret) in line)
    subprocess.run(advice.partition(": ")[2], shell=True, check=True)
    assert secret.read_text() == "hush"
    assert secret.stat().st_mode & 0o777 == 0o600


def test_certificates_in_the_state_folder_and_those_of_meters_come_along(
    source: Site, target: Site, file: Path
) -> None:
    ca = source.etc / "meters.pem"
    ca.write_text("an authority")
    link = {"url": "https://127.0.0.1/x", "powerPath": "p", "caFile": str(ca)}
    document = a_registration("H", protocol="http", communication=link)
    meter = {"id": "meter_9", "slot": 9, "registration": document}
    (source.state / "state.json").write_text(json.dumps({"version": 1, "meters": [meter]}))
    (source.state / "cert.pem").write_text("a certificate")
    (source.state / "key.pem").write_text("a key")
    pair = "\n".join(f'{one}_file = "{source.state / one}.pem"' for one in ("cert", "key"))
    source.config.write_text(f"[api]\n{pair}\n")
    assert source.backup(file) == 0
    with tarfile.open(file) as tar:
        names = tar.getnames()
    assert {"state/cert.pem", "state/key.pem", "config/meters.pem"} < set(names)
    assert names[0] == "manifest.json"
    assert names[-1] == "state/journal.db"
    assert target.restore(file) == 0
    assert (target.state / "key.pem").read_text() == "a key"


def test_the_meters_of_a_faulty_configuration_can_be_backed_up_no_more_than_run(
    source: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.config.write_text("[site]\ngrid = 1\n")
    assert source.backup(file) == 2
    assert "grid" in capsys.readouterr().err
    assert not file.exists()


def test_no_state_is_told(target: Site, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target.etc.mkdir(parents=True)
    target.config.write_text("# Defaults.\n")
    assert target.backup(file) == 1
    told = capsys.readouterr().err
    assert "holds no state; say with --state-dir where it is.\n" in told
    assert "see to its folder" not in told
    assert list(file.parent.glob("*")) == [file.parent / "target"], "nothing is left over"


def test_a_disk_that_is_full_leaves_the_last_backup(
    source: Site, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source.backup(file)
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert source.backup(file) == 1
    assert "No space left" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {"source", file.name}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_half_of_a_backup(
    number: signal.Signals, source: Site, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    monkeypatch.setattr(backup, "copy_database", lambda *_: os.kill(os.getpid(), number))
    try:
        with pytest.raises(SystemExit) as ended:
            source.backup(file)
        assert ended.value.code == 128 + number
        assert [path.name for path in file.parent.iterdir()] == ["source"]
        os.kill(os.getpid(), number)
        assert heard == [number], "it is as before the command"
    finally:
        signal.signal(number, before)


def test_a_file_that_was_copied_in_part_is_in_no_backup(
    source: Site, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = (source.etc / "secrets" / "broker.password").stat().st_ino
    real = os.fdopen

    class Failing(io.BytesIO):
        def read(self, _: int | None = None) -> bytes:
            raise OSError(5, "Input/output error")

        def fileno(self) -> int:
            return self.fd

        fd = -1

    def fdopen(fd: int, mode: str) -> Any:
        if os.fstat(fd).st_ino != secret:
            return real(fd, mode)
        failing = Failing()
        failing.fd = fd
        return failing

    monkeypatch.setattr(os, "fdopen", fdopen)
    assert source.backup(file) == 1
    assert "Input/output error" in capsys.readouterr().err
    assert [path.name for path in file.parent.iterdir()] == ["source"]


def test_a_link_beside_the_configuration_stays_one(
    source: Site, target: Site, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As certbot's are: it has them lead to the renewed certificate."""
    pair = "\n".join(f'{one}_file = "live.{one}"' for one in ("cert", "key"))
    source.config.write_text(f'[api]\n{pair}\n[templates]\ndir = "templates"\n')
    target.etc.mkdir(parents=True)
    for site, word in ((source, "old"), (target, "renewed")):
        for one in ("cert", "key"):
            real = tmp_path / f"{word}.{one}"
            real.write_text(word)
            (site.etc / f"live.{one}").symlink_to(real)
    assert source.backup(file) == 0
    with tarfile.open(file) as tar:
        assert {"config/live.cert", "config/live.key"} <= set(tar.getnames())
    assert target.restore(file) == 0
    assert f"{target.etc / 'live.cert'} is a link here" in capsys.readouterr().out
    assert (target.etc / "live.cert").is_symlink()
    assert (target.etc / "live.cert").read_text() == "renewed"
    (target.etc / "live.key").unlink()
    assert target.restore(file) == 0
    assert (target.etc / "live.key").read_text() == "old"


# --- Whose the files are -------------------------------------------------------------------------

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


def give(account: str, *tops: Path) -> None:
    """Let all at and below some folders belong to an account."""
    for path in [path for top in tops for path in (top, *top.rglob("*"))]:
        shutil.chown(path, account, account)


def accounts_of(*paths: Path) -> set[tuple[str, str]]:
    return {(path.owner(), path.group()) for path in paths}


def files_of(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.is_file()]


@only_root
def test_root_gives_a_new_controller_the_files_of_the_same_account(
    source: Site, target: Site, file: Path
) -> None:
    give("daemon", source.etc, source.state)
    assert source.backup(file) == 0
    with tarfile.open(file) as tar:
        of_root = [member.name for member in tar if member.uname != "daemon"]
    assert of_root == ["manifest.json"], "whichever is asked tells whose the state is"
    assert target.restore(file) == 0
    restored = [*files_of(target.etc), target.state, *files_of(target.state)]
    assert accounts_of(*restored) == {("daemon", "daemon")}
    assert len(restored) == 7


@only_root
def test_root_leaves_what_is_there_to_the_account_that_has_it(
    source: Site, target: Site, file: Path
) -> None:
    give("daemon", source.etc, source.state)
    assert source.backup(file) == 0
    target.etc.mkdir(parents=True)
    target.state.mkdir(parents=True)
    target.config.write_text("# Defaults.\n")
    give("bin", target.etc, target.state)
    assert target.restore(file) == 0
    there = [target.config, target.state, *files_of(target.state)]
    assert accounts_of(*there) == {("bin", "bin")}
    assert accounts_of(target.etc / "secrets" / "broker.password") == {("daemon", "daemon")}


@only_root
def test_an_account_is_known_by_its_name_and_not_by_its_number(
    source: Site, target: Site, file: Path
) -> None:
    """Another controller counts its accounts in another way, or has none of that name."""
    names = {"config/edge.toml": "daemon", "config/templates/our-own.toml": "nobody-of-here"}

    def of_elsewhere(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        member.uid = member.gid = 12345
        member.uname = member.gname = names.get(member.name, "")
        return member, data

    assert source.backup(file) == 0
    changed(file, of_elsewhere)
    assert target.restore(file) == 0
    assert accounts_of(target.config) == {("daemon", "daemon")}
    rest = set(files_of(target.etc)) - {target.config}
    assert accounts_of(*rest, *files_of(target.state)) == {("root", "root")}
    assert len(rest) == 2


# --- What a name may make it read ----------------------------------------------------------------


def let_a_meter_name(site: Site, ca_file: str) -> None:
    link = {"url": "https://127.0.0.1/x", "powerPath": "p", "caFile": ca_file}
    document = a_registration("H", protocol="http", communication=link)
    meter = {"id": "meter_9", "slot": 9, "registration": document}
    (site.state / "state.json").write_text(json.dumps({"version": 1, "meters": [meter]}))


def _large(path: Path) -> None:
    path.write_bytes(bytes(1024 * 1024 + 1))


def _private(path: Path) -> None:
    """Nobody but root may read it, and the service does not run as that."""
    path.write_text("hush")
    path.chmod(0o000)


def _long(path: Path) -> None:
    """There can be no such file."""


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pipe", os.mkfifo),
        ("large.pem", _large),
        ("private.key", _private),
        ("x" * 300, _long),
        ("folder", Path.mkdir),
        ("null", lambda path: path.symlink_to("/dev/null")),
    ],
)
def test_a_meter_names_no_file_but_a_small_one_that_the_service_may_read(
    name: str,
    make: Callable[[Path], None],
    source: Site,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = source.etc.resolve() / name
    make(path)
    let_a_meter_name(source, str(path))
    assert source.backup(file) == 1
    assert f"{path} is named but" in capsys.readouterr().err
    with tarfile.open(file) as tar:
        assert not [member for member in tar.getnames() if name in member or "null" in member]


@only_root
@pytest.mark.parametrize("folder", ["state", "etc"])
def test_a_link_that_the_service_may_turn_leads_to_no_file_of_others(
    folder: str, source: Site, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = tmp_path / "shadow"
    private.write_text("hush")
    private.chmod(0o600)
    give("daemon", source.state)
    (source.state / "cert.pem").symlink_to(private)
    (source.etc / "cert.pem").symlink_to(source.state / "cert.pem")  # by root
    named = {"state": source.state, "etc": source.etc}[folder] / "cert.pem"
    source.config.write_text(f'[api]\ncert_file = "{named}"\nkey_file = "{named}"\n')
    assert source.backup(file) == 1
    assert f"{named.parent.resolve() / 'cert.pem'} is named but not in" in capsys.readouterr().err
    with tarfile.open(file) as tar:
        assert not [name for name in tar.getnames() if name.endswith("cert.pem")]


def test_a_file_of_one_run_only_is_not_taken_by_its_name(source: Site, file: Path) -> None:
    let_a_meter_name(source, str(source.state / "local.token"))
    assert source.backup(file) == 1
    with tarfile.open(file) as tar:
        assert "state/local.token" not in tar.getnames()


@pytest.mark.parametrize("name", ["\0", "\ud800", 7, ["x"]])
def test_what_can_be_no_name_hinders_no_backup(name: Any, source: Site, file: Path) -> None:
    let_a_meter_name(source, name)
    assert source.backup(file) == 0


# --- Nothing is changed by what is not sound -----------------------------------------------------


def refusal_of(site: Site, file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Why a backup is not restored; nothing must have changed by it."""
    before = site.files()
    assert site.restore(file) == 1
    assert site.files() == before
    assert not [path for path in site.state.glob("*") if path.is_dir()]
    told = capsys.readouterr().err
    assert told.endswith("\nNothing was changed.\n")
    return told.removesuffix("\nNothing was changed.\n")


@pytest.fixture
def sound(source: Site, file: Path) -> bytes:
    assert source.backup(file) == 0
    return file.read_bytes()


def test_a_backup_that_is_cut_off(
    sound: bytes, target: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for length in range(0, len(sound) * 9 // 10, len(sound) // 50):
        file.write_bytes(sound[:length])
        assert str(file) in refusal_of(target, file, capsys)


def test_a_backup_with_a_flipped_bit_is_refused_or_makes_no_difference(
    source: Site, sound: bytes, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = set()
    for number in range(60):
        place = number * (len(sound) - 1) // 59
        flipped = bytearray(sound)
        flipped[place] ^= 1 << number % 8
        file.write_bytes(flipped)
        site = Site(tmp_path / str(number))
        if site.restore(file) == 0:
            assert content(site.state) == content(source.state)
            outcomes.add("restored")
        else:
            assert not site.state.exists() or not list(site.state.iterdir())
            outcomes.add("refused")
    assert "refused" in outcomes
    capsys.readouterr()


def changed(
    file: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]
) -> None:
    """Write an archive anew, each member changed."""
    with tarfile.open(file) as tar:
        members = [
            (member, content.read()) for member in tar if (content := tar.extractfile(member))
        ]
    with tarfile.open(file, "w:gz") as tar:
        for member, data in members:
            info, new = change(member, data)
            info.size = len(new)
            tar.addfile(info, io.BytesIO(new))


def with_file(file: Path, name: str, new: bytes) -> None:
    """Put another file into an archive, as if it had been backed up so."""

    def change(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name == name:
            return member, new
        if member.name == "manifest.json":
            manifest = json.loads(data)
            manifest["files"][name] = {
                "size": len(new),
                "sha256": hashlib.sha256(new).hexdigest(),
            }
            data = json.dumps(manifest).encode()
        return member, data

    changed(file, change)


def test_another_file_than_the_one_that_was_backed_up(
    sound: bytes, target: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return member, data.replace(b"Main", b"Mean") if member.name.endswith("e.json") else data

    changed(file, other)
    assert "state/state.json is not what was backed up" in refusal_of(target, file, capsys)


def test_a_file_of_another_size_is_not_even_unpacked(
    sound: bytes, target: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def longer(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return member, data + b" " if member.name.endswith("e.json") else data

    changed(file, longer)
    assert "its size is another" in refusal_of(target, file, capsys)


@pytest.mark.parametrize(
    "name",
    [
        *("local.token", "tokens.lock", "journal.db-wal", "journal.db.new", "state.json.tmp"),
        *(".restoring/x", "folder/cert.pem", "before-restore-1"),
    ],
)
def test_what_no_backup_has_of_the_state_is_refused(
    name: str, sound: bytes, target: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_file(file, f"state/{name}", b"x")
    assert f"holds state/{name}, which no backup does" in refusal_of(target, file, capsys)


def test_permissions_of_the_state_are_not_taken_from_the_archive(
    sound: bytes, target: Site, file: Path
) -> None:
    def open_to_all(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        member.mode = 0o666
        return member, data

    changed(file, open_to_all)
    assert target.restore(file) == 0
    modes = {stat.S_IMODE(path.stat().st_mode) for path in target.state.glob("*.json")}
    assert modes == {0o600}


def test_a_link_in_the_place_of_the_staging_folder_leads_nowhere(
    sound: bytes, target: Site, file: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target.state.mkdir(parents=True)
    (target.state / ".restoring").symlink_to(outside)
    (target.state / ".restoring-of-a-power-cut").mkdir()
    assert target.restore(file) == 0
    assert not list(outside.iterdir())
    assert not (target.state / ".restoring-of-a-power-cut").exists()


@pytest.mark.parametrize(
    ("name", "new", "why"),
    [
        ("state/state.json", b'{"version": 1, "meters": [{"id": "x"}]}', "cannot be used"),
        ("state/state.json", b'{"version": 9, "meters": []}', "newer dlm-edge"),
        ("state/tokens.json", b"{}", "tokens.json is damaged"),
        ("state/journal.db", b"no database at all" * 100, "journal.db is damaged"),
        ("config/edge.toml", b"[site]\ngrid = 1\n", "grid"),
        ("config/templates/our-own.toml", b"title = 1", "our-own.toml"),
    ],
)
def test_what_the_service_could_not_read_is_not_restored(
    name: str,
    new: bytes,
    why: str,
    sound: bytes,
    target: Site,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_file(file, name, new)
    if why == "cannot be used":  # the service would begin without meters, and say so
        assert target.restore(file) == 0
        assert "No meters could be restored" in capsys.readouterr().out
        return
    assert why in refusal_of(target, file, capsys)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "has format 2, and this version reads 1"),
        ({"files": 7}, "faulty manifest"),
        ({"files": {"state/../x": {"sha256": "0", "size": 0}}}, "is no path of a backup"),
        ({"config": "config/other.toml"}, "a configuration it has not"),
        ({"config": "", "files": {"config/x": {"sha256": "0" * 64, "size": 2**49}}}, "make room"),
        (None, "has a manifest that cannot be read"),
    ],
)
def test_a_manifest_that_cannot_be_used(
    change: dict[str, Any] | None,
    why: str,
    sound: bytes,
    target: Site,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def other(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name == "manifest.json":
            data = b"[]" if change is None else json.dumps({**json.loads(data), **change}).encode()
        return member, data

    changed(file, other)
    assert why in refusal_of(target, file, capsys)


def test_a_manifest_that_is_nested_too_deeply(
    sound: bytes, target: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def nested(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return member, b"[" * 200_000 if member.name == "manifest.json" else data

    changed(file, nested)
    assert "has a manifest that cannot be read" in refusal_of(target, file, capsys)


def test_files_that_are_no_backup(
    target: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be read" in refusal_of(target, tmp_path / "none", capsys)
    text = tmp_path / "notes.txt"
    text.write_text("notes")
    assert "no backup" in refusal_of(target, text, capsys)
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as tar:
        tar.add(text, "notes.txt")
    assert "no manifest" in refusal_of(target, tmp_path / "other.tar.gz", capsys)


def test_a_link_in_the_place_of_a_file_is_not_followed(
    sound: bytes, target: Site, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name == "state/state.json":
            member.type, member.linkname, data = tarfile.SYMTYPE, str(tmp_path / "x"), b""
        return member, data

    changed(file, other)
    assert "is no file in the archive" in refusal_of(target, file, capsys)


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../x", "state/../x", "state", "state/", "state//x", "other/x", ""),
        *("config/./x", "stateful/x", "./state/x"),
    ],
)
def test_no_name_leads_out_of_the_archives_folders(name: str) -> None:
    assert not is_inside(name)


@given(st.text("ab./", min_size=1, max_size=12))
def test_a_name_that_is_taken_stays_below_its_folder(name: str) -> None:
    path = os.path.normpath(f"/top/state/{name}")
    if is_inside(f"state/{name}"):
        assert path == f"/top/state/{name}"


# --- A restore that is cut off -------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(7))
def test_a_restore_that_was_cut_off_is_done_again(
    cut: int, source: Site, target: Site, sound: bytes, file: Path
) -> None:
    shutil.copytree(source.etc, target.etc)
    target.state.mkdir(parents=True)
    for name in ("state.json", "tokens.json", "journal.db"):
        (target.state / name).write_text(f"old {name}")
    real, renames = Path.rename, []

    def rename(path: Path, new: Path) -> Path:
        renames.append(path.name)
        if len(renames) > cut:
            raise OSError(5, "Input/output error")
        return real(path, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        restored = target.restore(file)
    assert restored == (0 if cut == 6 else 1)
    assert target.restore(file) == 0
    assert content(target.state) == content(source.state)
    assert main(["check", *target.flags()]) == 0
    everything = b"".join(target.files().values())
    assert all(f"old {name}".encode() in everything for name in ("state.json", "journal.db"))


# --- Beside a running service --------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Service]:
    """A service that reads a meter five times a second, and commits as often as it may."""
    config = "[journal]\ncommit_interval_s = 0.1\nmax_bytes = 1048576\n"
    with (
        LibmodbusServer(holding={0: 28, 1: 2301}) as meter,
        Service(tmp_path, config=config) as one,
    ):
        link = {"host": "127.0.0.1", "port": meter.port, "registers": {"power": 0}}
        one.register(a_registration(pollInterval=200, communication=link))
        one.wait_until(lambda: recorded(one) > 3, "recording")
        yield one


def recorded(service: Service) -> int:
    return int(service.data("/api/system")["journal"]["recorded"])


def test_a_running_service_is_backed_up_whole(
    running: Service, target: Site, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--config", str(running.config_file), "--state-dir", str(running.state_dir)]
    before = recorded(running)
    assert main(["backup", str(file), *place]) == 0
    after = recorded(running)
    assert target.restore(file) == 0
    rows = content(target.state)
    assert before <= len(rows) <= after + 1
    capsys.readouterr()
    assert main(["restore", str(file), *place]) == 1
    told = capsys.readouterr().err
    assert "is used by another dlm-edge" in told
    assert told.endswith("Nothing was changed.\n")
    running.wait_until(lambda: recorded(running) > after + 3, "recording on")


# --- The copy of a database that is written meanwhile --------------------------------------------


class Written:
    """A journal that is written between two steps of its copying."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with WrittenJournal(folder) as journal:
            journal.add_era(1)
        self.path = folder / "journal.db"
        self.database = connect(self.path)
        self.database.execute("PRAGMA wal_autocheckpoint = 0")
        self.database.execute("CREATE TABLE pair (id INTEGER PRIMARY KEY, value, filler)")
        self.database.executemany(
            "INSERT INTO pair VALUES (?, 0, zeroblob(600))", ((number,) for number in range(50))
        )
        self.checkpoint()
        self.move(3)
        self.clock = FakeClock(unix_ms=2_000_000_000_000)
        self.copied: list[str] = []
        """Files that were copied so far."""
        self.at: dict[int, Callable[[], None]] = {}
        """What is to happen before the copy of this number."""
        real = shutil.copyfile

        def copyfile(source: Path, target: Path) -> None:
            self.at.get(len(self.copied), lambda: None)()
            self.copied.append(source.name)
            real(source, target)

        monkeypatch.setattr(shutil, "copyfile", copyfile)

    def move(self, amount: int) -> None:
        """Take from one row and give to another, in one transaction: their sum stays 0."""
        self.database.execute("BEGIN")
        for number, sign in ((7, 1), (41, -1)):
            change = (sign * amount, number)
            self.database.execute("UPDATE pair SET value = value + ? WHERE id = ?", change)
        self.database.execute("COMMIT")

    def checkpoint(self) -> None:
        self.database.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def copy(self, target: Path) -> tuple[int, int]:
        """Copy it; gives the two values that were moved."""
        copy_database(self.path, target, self.clock)
        assert not target.with_name("copy.db-wal").exists(), "all is in the one file"
        with closing(connect(target)) as copy:
            (one,), (other,) = copy.execute("SELECT value FROM pair WHERE id IN (7, 41)").fetchall()
        return one, other


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    (tmp_path / "state").mkdir()
    journal = Written(tmp_path / "state", monkeypatch)
    yield journal
    journal.database.close()


def test_what_is_in_the_log_is_in_the_copy(written: Written, tmp_path: Path) -> None:
    assert written.copy(tmp_path / "copy.db") == (3, -3)
    assert written.copied == ["journal.db", "journal.db-wal"]


def test_a_commit_meanwhile_is_in_the_copy_or_not(written: Written, tmp_path: Path) -> None:
    written.at = {1: lambda: written.move(10)}
    assert written.copy(tmp_path / "copy.db") == (13, -13)
    assert len(written.copied) == 2, "it is no reason to copy again"


def test_a_checkpoint_meanwhile_has_both_copied_again(written: Written, tmp_path: Path) -> None:
    def checkpoint() -> None:
        written.move(10)
        written.checkpoint()
        written.move(100)

    written.at = {1: checkpoint}
    assert written.copy(tmp_path / "copy.db") == (113, -113)
    assert written.copied == ["journal.db", "journal.db-wal"] * 2


def test_a_log_that_is_begun_anew_while_it_is_copied_is_copied_again(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.checkpoint()
    written.clock.turn(10)
    real = copying._header
    headers: list[bytes] = []

    def header(log: Path) -> bytes:
        if not headers:
            written.move(10)  # into a new log, over the old one
        headers.append(real(log))
        return headers[-1]

    monkeypatch.setattr(copying, "_header", header)
    assert written.copy(tmp_path / "copy.db") == (13, -13)
    assert written.copied == ["journal.db", "journal.db-wal"] * 2


def test_a_database_that_is_always_written_is_told(written: Written, tmp_path: Path) -> None:
    number = iter(range(1, 100))

    def write() -> None:
        written.move(next(number))
        written.checkpoint()

    written.at = dict.fromkeys(range(1, 100, 2), write)
    with pytest.raises(JournalError, match="try again in a minute"):
        written.copy(tmp_path / "copy.db")
    assert 10 < len(written.copied) < 100


def test_a_database_that_was_just_written_is_left_alone_for_a_second(
    written: Written, tmp_path: Path
) -> None:
    written.clock.now_unix_ms = round(written.path.stat().st_mtime * 1000) + 100
    begin_s = written.clock.mono_s()
    assert written.copy(tmp_path / "copy.db") == (3, -3)
    assert 1 <= written.clock.mono_s() - begin_s < 3


def test_a_damaged_database_is_told(written: Written, tmp_path: Path) -> None:
    written.checkpoint()
    content = bytearray(written.path.read_bytes())
    content[512 * 3 : 512 * 9] = b"x" * 512 * 6
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(content)
    with pytest.raises(JournalError, match="is damaged"):
        copy_database(damaged, tmp_path / "copy.db", written.clock)
    with pytest.raises(JournalError, match="cannot be read"):
        copy_database(tmp_path / "none.db", tmp_path / "copy2.db", written.clock)
