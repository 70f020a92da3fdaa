"""`dlm-edge status`: the health table of the service that runs here, and an exit code for it."""

from __future__ import annotations

import json
import os
import pty
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.__main__ import main
from edge.api import Request, Response
from edge.api.dispatch import refusal
from edge.api.documents import answer
from edge.api.server import ApiServer
from edge.errors import RequestError
from edge.registry import lock_folder
from edge.tokenfile import Role
from edge.tokens import LOCAL_FILE, Tokens
from tests.building import a_registration
from tests.peers import LibmodbusServer, free_port
from tests.service import Service
from tests.test_health import ROWS

ROW = re.compile(r"(\w+) +(ok|warning|fault) +(.+)")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        yield running


def status_of(service: Service, *flags: str) -> int:
    place = ("--config", str(service.config_file), "--state-dir", str(service.state_dir))
    return main(["status", *place, "--port", str(service.port), *flags])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """The rows of the table that was printed: name → state and the first line of the text."""
    matches = map(ROW.fullmatch, capsys.readouterr().out.splitlines())
    return {match[1]: (match[2], match[3]) for match in matches if match}


# --- A real service ------------------------------------------------------------------------------


def test_a_service_that_is_well(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    with LibmodbusServer(holding={0: 28, 1: 2301, 2: 230}) as meter:
        link = {"host": "127.0.0.1", "port": meter.port, "registers": {"power": 0}}
        service.register(a_registration(pollInterval=200, communication=link))
        service.wait_until(
            lambda: service.data("/api/system")["meters"] == {"online": 1}, "reading the meter"
        )
        service.wait_until(lambda: service.data("/api/system")["journal"]["recording"], "recording")
        assert status_of(service) == 0
    table = printed(capsys)
    assert list(table) == ROWS
    assert {state for state, _ in table.values()} == {"ok"}
    assert table["meters"][1] == "1 of 1 are online."
    assert table["service"][1].startswith("dlm-edge ")
    assert "are free" in table["disk"][1]


def test_a_service_with_a_fault(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = {"host": "127.0.0.1", "port": free_port(), "registers": {"power": 0}}
    service.register(a_registration("Cellar", pollInterval=200, communication=nobody))
    service.wait_until(
        lambda: service.data("/api/system")["meters"] == {"error": 1}, "failing to read the meter"
    )
    assert status_of(service) == 1
    table = printed(capsys)
    assert {name for name, (state, _) in table.items() if state != "ok"} == {
        *("capacity", "meters", "lines"),
    }
    assert table["capacity"][0] == "fault"
    assert table["meters"][1].startswith('0 of 1 are online. "Cellar" is in error:')


def test_all_as_json(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(service, "--json") == 1, "no meter is registered"
    system = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in system["health"]] == ROWS
    assert system["schedule"]["missedTicks"] == 0


def test_a_service_that_asks_for_a_token(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    Tokens(service.state_dir).add("anna", Role.READER, 0)
    assert status_of(service) == 1
    assert list(printed(capsys)) == ROWS
    (service.state_dir / LOCAL_FILE).unlink()
    assert status_of(service) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("The service asks for a token, and its own cannot be read")


def test_no_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = str(free_port())
    assert main(["status", "--state-dir", str(tmp_path), "--port", port]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert f"does not answer at 127.0.0.1:{port} (nothing listens there); see that" in told.err


def test_the_token_goes_to_no_other_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LOCAL_FILE).write_text("hush")
    sent = []

    def curious(request: Request) -> Response:
        sent.append(request.headers.get("authorization"))
        return refusal(RequestError(401, "NO_TOKEN", "Give a token."))

    with a_server(curious) as port:
        assert status_at(port, tmp_path) == 1
        assert f"no service runs with {tmp_path}" in capsys.readouterr().err
        assert status_at(port, tmp_path / "nowhere") == 1
        assert f"no service runs with {tmp_path / 'nowhere'}" in capsys.readouterr().err
        assert sent == [None, None]
        lock_fd = lock_folder(tmp_path)
        try:
            assert status_at(port, tmp_path) == 1
        finally:
            os.close(lock_fd)
    assert sent == [None, None, None, "Bearer hush"]


# --- One that says what the test wants -----------------------------------------------------------


@contextmanager
def a_server(
    answered: Callable[[Request], Response], cert_file: str | None = None
) -> Iterator[int]:
    """Something that answers at a port, which it gives. cert_file: beside `key.pem`."""
    server = ApiServer(
        answered,
        refusal,
        host="127.0.0.1",
        port=0,
        cert_file=cert_file,
        key_file=cert_file and str(Path(cert_file).with_name("key.pem")),
    )
    server.start()
    try:
        yield server.port
    finally:
        server.close(time.monotonic() + 1)


def a_system(**changes: Any) -> dict[str, Any]:
    rows = [{"name": "meters", "state": "ok", "text": "2 of 2 are online."}]
    return {"health": rows, "notices": [], "journal": None, **changes}


def status_at(port: int, folder: Path, *flags: str) -> int:
    return main(["status", "--state-dir", str(folder), "--port", str(port), *flags])


def test_it_asks_over_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cert", "--host", "example.com", "--out", str(tmp_path)]) == 0
    config = tmp_path / "edge.toml"
    config.write_text('[api]\ncert_file = "cert.pem"\nkey_file = "key.pem"\n')
    with a_server(lambda _: answer(a_system()), str(tmp_path / "cert.pem")) as port:
        assert status_at(port, tmp_path, "--config", str(config)) == 0
        assert status_at(port, tmp_path) == 1, "without TLS it is not understood"
    assert printed(capsys) == {"meters": ("ok", "2 of 2 are online.")}


def test_what_was_mended_is_noted_and_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = {"notices": ["journal.db was damaged."]}
    system = a_system(notices=["state.json was missing."], journal=journal)
    with a_server(lambda _: answer(system)) as port:
        assert status_at(port, tmp_path) == 0
    told = capsys.readouterr().out.splitlines()[1:]
    assert told == ["Note: state.json was missing.", "Note: journal.db was damaged."]


def test_a_long_text_stays_in_its_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(f"word{number}" for number in range(60))
    rows = [
        {"name": "meters", "state": "fault", "text": words},
        {"name": "disk", "state": "ok", "text": "Fine."},
    ]
    with a_server(lambda _: answer(a_system(health=rows))) as port:
        assert status_at(port, tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("meters  fault    word0 ")
    assert all(line.startswith(" " * 17) and line[17] == "w" for line in lines[1:-1])
    assert " ".join(line[17:] for line in lines[:-1]) == words
    assert lines[-1] == "disk    ok       Fine."


def test_a_terminal_gets_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal, os.fdopen(leader, "rb", buffering=0) as seen:
        with monkeypatch.context() as patch, a_server(lambda _: answer(a_system())) as port:
            patch.setattr("sys.stdout", terminal)
            assert status_at(port, tmp_path) == 0
            terminal.flush()
        assert b"\x1b[32mok     \x1b[0m" in seen.read(10_000)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"schedule": {}}, "another version"),
        ([1, 2], "another version"),
        (a_system(health=[{"name": "x"}]), "another version"),
    ],
)
def test_what_is_no_table_is_told(
    data: Any, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_server(lambda _: answer(data)) as port:
        assert status_at(port, tmp_path) == 1
    assert why in capsys.readouterr().err


def test_another_program_at_the_port_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_server(lambda _: Response(200, b"<html>")) as port:
        assert status_at(port, tmp_path) == 1
    assert "is no dlm-edge" in capsys.readouterr().err
    with a_server(lambda _: Response(500, b"<html>")) as port:
        assert status_at(port, tmp_path) == 1
    assert "answered with status 500" in capsys.readouterr().err


def test_a_cycle_that_stands_still_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RequestError(503, "NOT_ALIVE", "The control cycle last ran 9 s ago; restart it.")
    with a_server(lambda _: refusal(error)) as port:
        assert status_at(port, tmp_path) == 1
    assert capsys.readouterr().err == "The control cycle last ran 9 s ago; restart it.\n"
