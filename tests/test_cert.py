"""`dlm-edge cert`: a pair that TLS works with, whose key nobody else ever could read."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge.__main__ import main
from edge.api.tls import make_context
from edge.clock import Clock
from edge.config import load_config
from edge.drivers.credentials import tls_context
from tests.building import modes_when_written
from tests.peers import need_program


@pytest.fixture(autouse=True)
def openssl() -> str:
    return need_program("openssl", "openssl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tls"


def cert(folder: Path, *arguments: str) -> int:
    return main(["cert", "--out", str(folder), *arguments])


def ended(folder: Path, *arguments: str) -> int:
    """Run a command that argparse ends; the exit code."""
    with pytest.raises(SystemExit) as end:
        cert(folder, *arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def text_of(folder: Path) -> str:
    """What openssl reads from the certificate."""
    command = ["openssl", "x509", "-in", str(folder / "cert.pem"), "-noout", "-text"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def shake_hands(folder: Path, name: str) -> str | None:
    """Connect to a server with the pair as a client that trusts it; the version of TLS."""
    server_side, client_side = socket.socketpair()
    context = make_context(str(folder / "cert.pem"), str(folder / "key.pem"))

    def serve() -> None:
        try:
            with context.wrap_socket(server_side, server_side=True) as secured:
                secured.recv(1)
        except OSError:
            pass

    server = threading.Thread(target=serve)
    server.start()
    try:
        trusting = tls_context(str(folder / "cert.pem"))
        with trusting.wrap_socket(client_side, server_hostname=name) as secured:
            return secured.version()
    finally:
        client_side.close()
        server.join()
        server_side.close()


def test_the_pair_serves_tls_for_the_names_it_was_made_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = ("192.168.1.50", "Energy.example.com", "fd00::1", "*.site.lan")
    flags = [flag for host in hosts for flag in ("--host", host)]
    assert cert(folder, *flags) == 0
    said = capsys.readouterr().err
    for name in ("192.168.1.50", "energy.example.com", "fd00::1", "a.site.lan", "localhost", "::1"):
        assert shake_hands(folder, name) == "TLSv1.3"
        assert name.replace("a.", "*.", 1) in said
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folder, "other.example.com")
    text = text_of(folder)
    assert "prime256v1" in text
    assert "TLS Web Server Authentication" in text
    assert "CA:FALSE" in text


def test_without_names_it_is_for_this_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "PFC200-401234")
    assert cert(folder) == 0
    for name in ("pfc200-401234", "pfc200-401234.local", "localhost", "127.0.0.1"):
        assert shake_hands(folder, name) is not None


@pytest.mark.parametrize("name", ["", "my machine", "a" * 64, "ä", "a,IP:1.2.3.4", "a\nCA = x"])
def test_a_machine_with_a_name_that_no_certificate_can_say_has_localhost(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert cert(folder) == 0
    assert shake_hands(folder, "localhost") is not None


def test_what_is_printed_is_what_the_configuration_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'a "quoted" \\ folder'
    assert cert(folder) == 0
    file = tmp_path / "edge.toml"
    file.write_text(capsys.readouterr().out)
    api = load_config(file, {}, {}).api
    assert (api.cert_file, api.key_file) == (str(folder / "cert.pem"), str(folder / "key.pem"))
    assert api.cert_file is not None
    assert api.key_file is not None
    make_context(api.cert_file, api.key_file)


def test_it_stands_in_the_state_folder_where_nothing_else_is_said(tmp_path: Path) -> None:
    assert main(["cert", "--state-dir", str(tmp_path / "state")]) == 0
    made = sorted(file.name for file in (tmp_path / "state").iterdir())
    assert made == ["cert.pem", "key.pem"]


def test_the_key_is_for_the_owner_alone_from_its_first_byte(
    folder: Path,
) -> None:
    with modes_when_written(holding=b"PRIVATE KEY") as seen:
        assert cert(folder) == 0
    assert seen == [0o600]
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "cert.pem").stat().st_mode) == 0o644


@pytest.mark.parametrize("there", ["cert.pem", "key.pem"])
def test_a_pair_that_is_there_is_kept_unless_it_is_said(
    there: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / there).symlink_to(folder / "nowhere")
    assert cert(folder) == 1
    out, err = capsys.readouterr()
    assert not out
    assert f"{there} is there already; give --replace" in err
    assert cert(folder, "--replace") == 0
    assert not (folder / "nowhere").exists()
    assert shake_hands(folder, "localhost") is not None


def test_it_is_good_for_as_long_as_is_said(folder: Path) -> None:
    assert cert(folder, "--days", "3") == 0
    for seconds, code in ((2 * 86_400, 0), (4 * 86_400, 1)):
        command = ["openssl", "x509", "-in", str(folder / "cert.pem"), "-noout"]
        ended = subprocess.run(
            [*command, "-checkend", str(seconds)], capture_output=True, check=False
        )
        assert ended.returncode == code


@pytest.mark.parametrize(
    "host",
    ["", "a,IP:1.2.3.4", "a\nb", "a b", "-a", "a..b", "http://a", "a:80", "ä", "fe80::1%eth0",
     "*.", "*", "a.*.b", "x" * 254, "$ENV::HOME", "a;b", "1.2.3.4/8"],
)  # fmt: skip
def test_a_name_that_is_none_never_reaches_openssl(
    host: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(folder, f"--host={host}") == 2
    assert "is no host name or IP address" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("days", ["0", "-1", "36501", "x", "1.5", "٣", "1" * 10_000])
def test_days_that_are_none_exit_2(days: str, folder: Path) -> None:
    assert ended(folder, f"--days={days}") == 2


def test_a_clock_that_was_never_set_makes_no_certificate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Clock, "unix_ms", lambda _: 86_400_000)
    assert cert(folder) == 1
    assert "The clock says 1970-01-02" in capsys.readouterr().err
    assert not folder.exists()


def test_without_openssl_it_says_what_to_install(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cert(folder) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("(`apt-get install openssl`).")
    assert not folder.exists()


def test_an_openssl_that_fails_is_quoted_and_nothing_is_replaced(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cert(folder) == 0
    before = (folder / "key.pem").read_bytes()
    bad = tmp_path / "openssl"
    bad.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('first\\nunknown option -newkey')\n")
    bad.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cert(folder, "--replace") == 1
    assert "openssl failed ('unknown option -newkey')" in capsys.readouterr().err
    assert (folder / "key.pem").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cert(tmp_path / "file") == 1
    err = capsys.readouterr().err
    assert f"cannot be written to {tmp_path / 'file'}" in err
    assert "PRIVATE" not in err
