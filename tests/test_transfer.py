"""`dlm-edge export` and `dlm-edge import`: what leaves a journal comes back into another one."""

from __future__ import annotations

import argparse
import os
import pty
import random
import shutil
import sqlite3
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge.__main__ import main
from edge.api import Request
from edge.api.dispatch import refusal
from edge.api.documents import answer
from edge.api.server import ApiServer
from edge.clock import Clock
from edge.commands import export, imports
from edge.config import load_config
from edge.csvtable import Record, chunk_rows, header, parse
from edge.errors import RequestError
from edge.journal.history import History
from edge.lineprotocol import points_of_chunk
from edge.record import Resolution
from edge.registry import lock_folder
from edge.settings import Config
from edge.tokenfile import Role
from edge.tokens import LOCAL_FILE, Tokens
from tests.journals import HOUR_MS, START_MS, WrittenJournal, a_rollup, a_series, values_at
from tests.peers import free_port
from tests.service import Service

ALWAYS = (0, 2**62)
MAIN, SOLAR = a_series(name="Main, left"), a_series("meter_2", name="Solar", meter_type="solar")


def config_for(folder: Path, **values: Any) -> Config:
    return load_config(None, {}, {"state.dir": str(folder), **values})


def do_export(folder: Path, *flags: str, **values: Any) -> int:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.run(parser.parse_args(flags), config_for(folder, **values))


def do_import(folder: Path, file: Path) -> int:
    parser = argparse.ArgumentParser()
    imports.add_arguments(parser)
    return imports.run(parser.parse_args([str(file)]), config_for(folder))


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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a journal: two meters over three hours, the last one in the tail, and hours."""
    folder = tmp_path / "source"
    folder.mkdir()
    seq = 1
    with WrittenJournal(folder) as journal:
        for hour in range(3):
            rows = []
            for minute in range(60):
                for series in (MAIN, SOLAR):
                    unix_ms = START_MS + hour * HOUR_MS + minute * 60_000 + seq % 7
                    rows.append((series, (seq, unix_ms, values_at(seq))))
                    seq += 1
            if hour < 2:
                for series in (MAIN, SOLAR):
                    journal.add_block(series, [row for of, row in rows if of is series])
            else:
                journal.add_tail(rows, suspect=True)
        journal.add_rollup(a_rollup(series=MAIN))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


# --- There and back ------------------------------------------------------------------------------


def test_csv_goes_there_and_back_without_loss(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = source / "all.csv"
    assert do_export(source, "--output", str(file)) == 0
    assert "360 rows of 2 meters" in capsys.readouterr().err
    assert file.read_bytes().count(b"\r\n") == 361
    assert do_import(target, file) == 0
    assert capsys.readouterr().out == "360 readings added, 0 were there already, 0 lines faulty.\n"
    assert content(target) == content(source)
    assert do_import(target, file) == 0
    assert capsys.readouterr().out == "0 readings added, 360 were there already, 0 lines faulty.\n"
    assert content(target) == content(source)


def test_line_protocol_goes_there_and_back_without_what_is_suspect(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = source / "all.lp"
    assert do_export(source, "--format", "line-protocol", "--output", str(file)) == 0
    assert do_import(target, file) == 0
    assert capsys.readouterr().out.startswith("240 readings added")
    with History(source / "journal.db") as before, History(target / "journal.db") as after:
        for meter_id in ("meter_1", "meter_2"):
            points = [
                [one for chunk in history.raw(meter_id, *ALWAYS) for one in points_of_chunk(chunk)]
                for history in (before, after)
            ]
            assert points[0] == points[1]
            assert len(points[0]) == 120


def test_a_file_in_parts_fills_up_what_is_missing(source: Path, target: Path) -> None:
    whole = source / "all.csv"
    do_export(source, "--output", str(whole))
    head, *rows = whole.read_bytes().decode().splitlines(keepends=True)
    part = source / "part.csv"
    part.write_bytes((head + "".join(rows[1::3])).encode())
    assert do_import(target, part) == 0
    assert do_import(target, whole) == 0
    assert content(target) == content(source)


# --- What is exported ----------------------------------------------------------------------------


def exported(capsysbinary: pytest.CaptureFixture[bytes]) -> list[str]:
    return capsysbinary.readouterr().out.decode().splitlines()


def test_a_span_of_a_meter_by_name(
    source: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    span = ("--from", "2025-10-20T10:00:00Z", "--to", "2025-10-20T12:30:00+02:00")
    assert do_export(source, "--meter", "Main, left", *span) == 0
    head, *rows = exported(capsysbinary)
    assert head == header(Resolution.RAW)
    assert len(rows) == 30
    assert all(isinstance(row, Record) and row.series == MAIN for row in parse([head, *rows]))


def test_hours(source: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert do_export(source, "--resolution", "hourly") == 0
    assert list(parse(exported(capsysbinary))) == [a_rollup(series=MAIN)]
    assert do_export(source, "--resolution", "hourly", "--format", "line-protocol") == 0
    (point,) = exported(capsysbinary)
    assert "resolution=hourly" in point
    assert point.endswith(str(START_MS))


def test_an_unknown_meter_is_named_with_those_that_are_known(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do_export(source, "--meter", "Mian") == 1
    assert capsys.readouterr().err == "No meter is called 'Mian'; known are: Main, left, Solar.\n"


def test_no_journal_is_told(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert do_export(target) == 1
    assert "--state-dir" in capsys.readouterr().err


def test_a_file_is_there_whole_or_not_at_all(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = source / "all.csv"
    file.write_text("the last one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert do_export(source, "--output", str(file)) == 1
    assert "No space left" in capsys.readouterr().err
    assert file.read_text() == "the last one"
    assert not [path for path in source.iterdir() if path.suffix == ".part"]


def test_progress_is_shown_on_a_terminal_only(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    do_export(source, "--output", str(source / "1.csv"))
    assert "%" not in capsys.readouterr().err
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal, os.fdopen(leader, "rb", buffering=0) as seen:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stderr", terminal)
            do_export(source, "--output", str(source / "2.csv"))
        shown = seen.read(10_000).decode()
    assert "[-" in shown
    assert "Main, left" in shown


def test_what_is_damaged_is_counted(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(source / "journal.db") as database:
        database.execute("UPDATE block SET data = x'00' WHERE id = 1")
    database.close()
    assert do_export(source, "--output", str(source / "all.csv")) == 0
    told = capsys.readouterr().err
    assert "1 damaged parts were left out." in told
    assert "300 rows" in told


# --- What is refused -----------------------------------------------------------------------------


def test_nothing_is_imported_under_a_wrong_header(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text("timestamp,meter,power_kw\n2025-10-20T10:00:00Z,m,1\n")
    assert do_import(target, file) == 1
    assert "line 1" in capsys.readouterr().err
    assert not (target / "journal.db").exists()


def test_faulty_lines_are_named_and_the_others_imported(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.csv"
    good = [f"{START_MS + number},m,{number}.5" for number in range(3)]
    file.write_text("\n".join(["timestamp,meter_id,power_kw", *good, *["now,m,1"] * 7]))
    assert do_import(target, file) == 1
    told = capsys.readouterr()
    assert told.out == "3 readings added, 0 were there already, 7 lines faulty.\n"
    assert [line.split(":")[0] for line in told.err.splitlines()] == [
        *(f"line {number}" for number in range(5, 10)),
        "… and more",
    ]
    assert len(content(target)) == 3


def test_hours_are_not_imported(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = source / "hours.csv"
    do_export(source, "--resolution", "hourly", "--output", str(file))
    assert do_import(target, file) == 1
    assert "raw readings" in capsys.readouterr().err


def test_a_file_that_is_not_there(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do_import(target, tmp_path / "none.csv") == 1
    assert "none.csv" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["253402300799999", "0001-01-01T00:00:00Z", "{tomorrow}"])
def test_a_time_that_nobody_can_have_measured_at_is_a_fault(
    text: str, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = text.format(tomorrow=Clock().unix_ms() + 25 * HOUR_MS)
    for file, row in (("a.csv", f"{text},m,2"), ("a.lp", f"meter_reading,meter_id=m a=2 {text}")):
        head = "timestamp,meter_id,power_kw\n" if file == "a.csv" else ""
        (tmp_path / file).write_text(f"{head}{row}\n")
        assert do_import(target, tmp_path / file) == 1
        assert "0 readings added" in capsys.readouterr().out
    assert content(target) == []


@pytest.mark.parametrize("kind", ["csv", "lp"])
def test_a_line_without_end_is_a_fault_of_its_own(
    kind: str, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [f"{START_MS},m,1", f"{START_MS + 1},m,2"]
    if kind == "lp":
        good = [f"meter_reading,meter_id=m power_kw=1 {START_MS + number}" for number in range(2)]
    head = "timestamp,meter_id,power_kw" if kind == "csv" else "# points"
    file = tmp_path / "long"
    file.write_text("\n".join([head, good[0], good[0] + "0" * 30_000_000, good[1], ""]))
    tracemalloc.start()
    assert do_import(target, file) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    told = capsys.readouterr()
    assert told.out == "2 readings added, 0 were there already, 1 lines faulty.\n"
    assert told.err.startswith("line 3")
    assert peak < 10_000_000


def test_readings_that_alternate_between_hours_are_put_together(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two.csv"
    rows = [f"{START_MS + number + number % 2 * HOUR_MS},m,1" for number in range(10_000)]
    file.write_text("\n".join(["timestamp,meter_id,power_kw", *rows]))
    assert do_import(target, file) == 0
    assert capsys.readouterr().out.startswith("10,000 readings added")
    with closing(sqlite3.connect(target / "journal.db")) as database:
        assert database.execute("SELECT count(*) FROM block").fetchone() == (4,)
    assert len(content(target)) == 10_000


def test_any_order_of_many_hours_is_taken_in(target: Path, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    times = [START_MS + number * HOUR_MS // 7 for number in range(300)]
    random.Random(1).shuffle(times)
    file.write_text("\n".join(["timestamp,meter_id,power_kw", *(f"{t},m,1" for t in times)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imports, "_MOST_HELD", 20)
        assert do_import(target, file) == 0
    assert len(content(target)) == 300


# --- While the service runs ----------------------------------------------------------------------


@pytest.fixture
def service(source: Path, tmp_path: Path) -> Iterator[Service]:
    """A service whose journal is the one of `source`."""
    shutil.copytree(source, tmp_path / "state")
    (tmp_path / "state" / "journal.db-shm").unlink(missing_ok=True)
    keep = "[journal]\nraw_days = 36_500\nhourly_days = 36_500\n"
    with Service(tmp_path, config=keep) as running:
        yield running


@pytest.mark.parametrize("flags", [(), ("--format", "line-protocol"), ("--resolution", "hourly")])
def test_a_running_service_is_asked_and_says_the_same(
    flags: tuple[str, ...],
    source: Path,
    service: Service,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    flags += ("--meter", "meter_1", "--meter", "meter_2", "--to", str(START_MS + 3 * HOUR_MS))
    assert do_export(source, *flags) == 0
    directly = capsysbinary.readouterr().out
    assert do_export(service.state_dir, *flags, **{"api.port": service.port}) == 0
    assert capsysbinary.readouterr().out == directly
    assert directly.count(b"\n") > 1


def test_a_running_service_is_said_to_leave_out_what_was_removed(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do_export(service.state_dir, **{"api.port": service.port}) == 0
    assert "removed are left out" in capsys.readouterr().err


def test_a_running_service_takes_no_import(
    source: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    file = source / "all.csv"
    do_export(source, "--output", str(file))
    capsys.readouterr()
    assert do_import(service.state_dir, file) == 1
    assert capsys.readouterr().err == "The service is running; stop it, and import then.\n"


def test_a_service_that_knows_no_such_meter(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"api.port": service.port}
    assert do_export(service.state_dir, "--meter", "meter_9", **values) == 1
    assert "meter_9" in capsys.readouterr().err
    service.kill()
    file = service.state_dir / "after.csv"
    assert do_export(service.state_dir, "--meter", "meter_1", "--output", str(file)) == 0
    assert file.read_bytes().count(b"\n") == 181


def test_a_service_that_asks_for_a_token_is_given_the_one_of_its_run(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    Tokens(service.state_dir).add("anna", Role.READER, START_MS)
    assert service.request("GET", "/api/energy-meters")[0] == 401
    asked = ("--meter", "meter_1", "--from", "2025-10-20T10:00:00Z")
    assert do_export(service.state_dir, *asked, **{"api.port": service.port}) == 0
    assert "180 rows" in capsys.readouterr().err
    (service.state_dir / LOCAL_FILE).unlink()
    assert do_export(service.state_dir, *asked, **{"api.port": service.port}) == 1
    told = capsys.readouterr().err
    assert told.startswith("The service asks for a token, and its own cannot be read")
    assert told.endswith("use the account that the service runs with.\n")


@pytest.fixture
def secured(source: Path, tmp_path: Path) -> Iterator[tuple[ApiServer, list[str]]]:
    """A server that speaks TLS and asks for a token, and the credentials that it is sent."""
    assert main(["cert", "--host", "example.com", "--out", str(tmp_path / "tls")]) == 0
    (source / LOCAL_FILE).write_text("secret\n")
    sent: list[str] = []

    def authorize(request: Request) -> None:
        sent.append(request.headers.get("authorization", ""))
        if sent[-1] != "Bearer secret":
            raise RequestError(401, "UNAUTHORIZED", "Not known.")

    server = ApiServer(
        lambda _: answer([]),
        refusal,
        host="127.0.0.1",
        port=0,
        authorize=authorize,
        cert_file=str(tmp_path / "tls" / "cert.pem"),
        key_file=str(tmp_path / "tls" / "key.pem"),
    )
    server.start()
    lock_fd = lock_folder(source)  # as a service that runs has it
    yield server, sent
    os.close(lock_fd)
    server.close(time.monotonic() + 1)


def test_a_service_is_asked_over_tls_and_sent_its_token_when_it_asks(
    source: Path,
    tmp_path: Path,
    secured: tuple[ApiServer, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, sent = secured
    monkeypatch.setattr(export, "is_in_use", lambda _: True)
    pair = {f"api.{name}_file": str(tmp_path / "tls" / f"{name}.pem") for name in ("cert", "key")}
    port = {"api.port": server.port}
    assert export_of(source, pair, port) == 0
    assert sent == ["", "Bearer secret"]
    assert main(["cert", "--replace", "--out", str(tmp_path / "tls")]) == 0
    assert export_of(source, pair, port) == 1
    assert len(sent) == 2, "nothing is sent to who shows another certificate"


def export_of(folder: Path, pair: dict[str, str], port: dict[str, int]) -> int:
    """Export from a service with a certificate, which the file of the configuration names."""
    file = folder.parent / "tls.toml"
    lines = [f'{path.removeprefix("api.")} = "{value}"' for path, value in pair.items()]
    file.write_text("\n".join(["[api]", *lines]))
    config = load_config(file, {}, {"state.dir": str(folder), **port})
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.run(parser.parse_args([]), config)


def test_a_certificate_that_cannot_be_read_is_told(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "is_in_use", lambda _: True)
    pair = {"api.cert_file": "/nowhere/cert.pem", "api.key_file": "/nowhere/key.pem"}
    assert export_of(source, pair, {"api.port": 1}) == 1
    assert "/nowhere/cert.pem cannot be used" in capsys.readouterr().err


def test_a_service_that_does_not_answer(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do_export(service.state_dir, **{"api.port": free_port()}) == 1
    assert "does not answer" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.csv"
    file.write_text(f"timestamp,meter_id,power_kw\n{START_MS},m,1\n")
    assert do_import(file, file) == 1  # a file is in the way of the folder
    assert "cannot be written" in capsys.readouterr().err
