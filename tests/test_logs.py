"""The log: never blocks who logs, loses nothing at the end, says what it had to drop.

And its forms: with times for people, with priorities for systemd's journal, as JSON for programs.
"""

from __future__ import annotations

import calendar
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.logs import QUEUE_LINES, RECENT_BYTES, RECENT_LINES, Log
from tests.peers import wait_until

log = logging.getLogger("EnergyMeterManager")
_DROPPED = "log records were dropped: they came faster than written."


@pytest.fixture(autouse=True)
def root_level() -> Iterator[None]:
    """Keep the level that other tests log with."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A file to log to: its path and descriptor."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield path, fd
    os.close(fd)


@pytest.fixture
def stuck_pipe() -> Iterator[tuple[BinaryIO, int]]:
    """A pipe that is full and that nobody reads: the end to read from, and the other's number.

    Whoever logs to it has ended when a test ends: the number will soon be another file's.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    try:
        while True:
            os.write(write_fd, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(write_fd, True)
    with os.fdopen(read_fd, "rb") as reader:
        yield reader, write_fd
    os.close(write_fd)


def test_a_line_names_its_logger_as_the_guide_greps_for_it(file: tuple[Path, int]) -> None:
    written = Log("info", file[1])
    written.start()
    log.info("Registered meter: %s", "Main Building Meter")
    written.stop()
    line = file[0].read_text()
    assert line.endswith(" INFO [EnergyMeterManager] Registered meter: Main Building Meter\n")
    assert line.count("\n") == 1


def test_nothing_is_lost_at_the_end(file: tuple[Path, int]) -> None:
    written = Log("info", file[1])
    written.start()
    for number in range(QUEUE_LINES):
        log.info("line %d", number)
    written.stop()
    assert [line.rsplit(" ", 1)[1] for line in file[0].read_text().splitlines()] == [
        str(number) for number in range(QUEUE_LINES)
    ]


def test_the_level_can_be_changed_while_running(file: tuple[Path, int]) -> None:
    written = Log("warning", file[1])
    written.start()
    log.info("too quiet")
    written.set_level("debug")
    log.debug("heard")
    written.stop()
    log.error("after the end")
    assert [line.rsplit("] ")[1] for line in file[0].read_text().splitlines()] == ["heard"]


def test_a_traceback_is_written_whole(file: tuple[Path, int]) -> None:
    written = Log("info", file[1])
    written.start()
    try:
        raise RuntimeError("broken wire")
    except RuntimeError:
        log.exception("It failed")
    written.stop()
    assert file[0].read_text().endswith("RuntimeError: broken wire\n")


def test_text_that_no_encoding_has_is_written_all_the_same(file: tuple[Path, int]) -> None:
    written = Log("info", file[1])
    written.start()
    log.info("half a pair: \ud83d")
    log.info("and on: ü")
    written.stop()
    text = file[0].read_text(encoding="utf-8")
    assert "half a pair: \\ud83d\n" in text
    assert "and on: ü\n" in text


def test_a_stuck_reader_stalls_neither_who_logs_nor_the_end(
    stuck_pipe: tuple[BinaryIO, int],
) -> None:
    written = Log("info", stuck_pipe[1])
    written.start()
    began_s = time.monotonic()
    for number in range(3 * QUEUE_LINES):
        log.info("line %d", number)
    written.stop(timeout_s=0.1)
    assert time.monotonic() - began_s < 2.0
    stuck_pipe[0].close()
    written.stop()
    assert not written._thread.is_alive(), "it goes on as soon as the reader is gone"


def test_dropped_records_are_counted_in_the_log(stuck_pipe: tuple[BinaryIO, int]) -> None:
    pipe, write_fd = stuck_pipe
    written = Log("info", write_fd)
    written.start()
    log.info("the first, which the thread is stuck with")
    wait_until(written._lines.empty, what="the thread having taken the first line")
    for number in range(QUEUE_LINES + 5):
        log.info("line %d", number)
    received = bytearray()
    reader = threading.Thread(target=_read_all, args=(pipe.fileno(), received))
    reader.start()
    written.stop(timeout_s=10)
    reader.join(10)
    lines = received.lstrip(b"x").decode().splitlines()
    told = [text.endswith(f" WARNING [edge.logs] 5 {_DROPPED}") for text in lines]
    assert told.count(True) == 1
    assert told.index(True) < QUEUE_LINES
    assert len(lines) == 1 + QUEUE_LINES + 1
    assert written._dropped == 5


def test_a_log_that_cannot_be_written_to_ends_nothing() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    written = Log("info", write_fd)
    written.start()
    log.info("nobody hears")
    log.info("and yet")
    written.stop(timeout_s=5)
    os.close(write_fd)
    assert not written._thread.is_alive()


def test_what_is_queued_is_written_though_the_logs_own_thread_has_a_bug(
    file: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Log("info", file[1])

    def end(args: threading.ExceptHookArgs) -> None:
        log.critical("Bug", exc_info=args.exc_value)
        written.stop()

    write = written._write

    def write_with_a_bug(_line: str) -> None:
        monkeypatch.setattr(written, "_write", write)
        raise RuntimeError("broken wire")

    monkeypatch.setattr(threading, "excepthook", end)
    monkeypatch.setattr(written, "_write", write_with_a_bug)
    written.start()
    log.info("lost")
    written._thread.join(5)
    assert file[0].read_text().endswith("RuntimeError: broken wire\n")


def _read_all(fd: int, into: bytearray) -> None:
    """Read lines until the `line <last number>` one, and the one that tells of the drops."""
    end = f"line {QUEUE_LINES - 1}\n".encode()
    while not (into.endswith(end) and b"were dropped" in into):
        into += os.read(fd, 65536)


def test_the_last_lines_can_be_shown(file: tuple[Path, int]) -> None:
    written = Log("info", file[1])
    written.start()
    for number in range(RECENT_LINES):
        log.info("line %d", number)
    assert [line.rsplit(" ", 1)[1] for line in written.recent(2)] == ["498", "499"]
    assert len(written.recent(RECENT_LINES + 1)) == RECENT_LINES
    log.info("\ud800%s", "ä" * 5000)
    shown = written.recent(1)[0]
    assert len(shown.encode()) == RECENT_BYTES - 1  # no half of a letter
    written.stop()


def test_what_is_shown_has_no_traceback_and_is_one_line(file: tuple[Path, int]) -> None:
    written = Log("info", file[1])
    written.start()
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("It failed:\x1b[2J\n%s", "twice")
    written.stop()
    (line,) = written.recent(10)
    assert line.endswith(" ERROR [EnergyMeterManager] It failed: [2J twice")
    assert "Traceback" in file[0].read_text()


def test_the_last_lines_are_there_though_nobody_takes_the_log(
    stuck_pipe: tuple[BinaryIO, int],
) -> None:
    written = Log("info", stuck_pipe[1])
    written.start()
    for number in range(2 * QUEUE_LINES):
        log.info("line %d", number)
    assert written.recent(1)[0].endswith(f"line {2 * QUEUE_LINES - 1}")
    stuck_pipe[0].close()
    written.stop()
    assert not written._thread.is_alive()


# --- In systemd's journal -------------------------------------------------------------------------


@pytest.fixture
def journal(file: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, int]:
    """A file to log to that is said to be the journal, as systemd does it."""
    found = file[0].stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    return file


def test_the_journal_is_told_priorities_and_no_times(journal: tuple[Path, int]) -> None:
    written = Log("debug", journal[1])
    written.start()
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("Something")
    log.log(25, "Something")
    written.stop()
    assert journal[0].read_text().splitlines() == [
        "<7>DEBUG [EnergyMeterManager] Something",
        "<6>INFO [EnergyMeterManager] Something",
        "<4>WARNING [EnergyMeterManager] Something",
        "<3>ERROR [EnergyMeterManager] Something",
        "<2>CRITICAL [EnergyMeterManager] Something",
        "<6>Level 25 [EnergyMeterManager] Something",
    ]


@pytest.mark.parametrize("form", ["text", "json"])
def test_each_line_of_a_record_has_its_priority_in_the_journal(
    journal: tuple[Path, int], form: str
) -> None:
    written = Log("info", journal[1], form=form)
    written.start()
    try:
        raise RuntimeError("broken wire\n<7>in two lines")
    except RuntimeError:
        log.exception("It failed\n<6>twice")
    written.stop()
    lines = journal[0].read_text().splitlines()
    assert len(lines) == 1 if form == "json" else len(lines) > 5
    assert all(line.startswith("<3>") for line in lines)


def test_drops_are_told_the_journal_as_a_warning(journal: tuple[Path, int]) -> None:
    written = Log("info", journal[1])
    logging.getLogger().addHandler(written)  # and no thread that takes the lines yet
    for number in range(QUEUE_LINES + 3):
        log.info("line %d", number)
    written._thread.start()
    wait_until(lambda: _DROPPED in journal[0].read_text(), what="the drops being told")
    written.stop()
    assert f"<4>WARNING [edge.logs] 3 {_DROPPED}" in journal[0].read_text().splitlines()


def test_what_is_shown_has_times_though_the_journal_is_given_none(
    journal: tuple[Path, int],
) -> None:
    written = Log("info", journal[1], form="json")
    written.start()
    log.info("Registered meter: %s", "Main")
    written.stop()
    (line,) = written.recent(1)
    assert re.fullmatch(r"\d{4}-\S+ \S+ INFO \[EnergyMeterManager\] Registered meter: Main", line)


@pytest.mark.parametrize("stream", ["", "12", "0:0", "not:numbers"])
def test_a_file_is_not_the_journal_though_the_caller_s_was(
    file: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    """The variable is inherited by what a unit starts with its output led elsewhere."""
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    written = Log("info", file[1])
    written.start()
    log.info("Something")
    written.stop()
    assert re.fullmatch(r"\d{4}-.* INFO \[EnergyMeterManager\] Something\n", file[0].read_text())


# --- As JSON --------------------------------------------------------------------------------------


def test_json_is_one_object_a_line(file: tuple[Path, int]) -> None:
    written = Log("info", file[1], form="json")
    began_s = int(time.time())
    written.start()
    log.warning("%s is offline:\n%s", "Büro", '"no reply"')
    try:
        raise RuntimeError("broken wire")
    except RuntimeError:
        log.exception("It failed")
    written.stop()
    first, second = map(json.loads, file[0].read_text(encoding="utf-8").splitlines())
    stamp = time.strptime(first.pop("time")[:19], "%Y-%m-%dT%H:%M:%S")
    assert abs(calendar.timegm(stamp) - began_s) < 10
    assert first == {
        "level": "warning",
        "logger": "EnergyMeterManager",
        "thread": "MainThread",
        "message": 'Büro is offline:\n"no reply"',
    }
    assert list(second) == ["time", "level", "logger", "thread", "message", "exception"]
    assert second["exception"].startswith("Traceback (most recent call last):\n")
    assert second["exception"].endswith("\nRuntimeError: broken wire")


@given(st.text())
def test_json_gives_back_what_was_logged(message: str) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (message,), "name": message})
    record.threadName = message
    line = Log("info", 2, form="json").format(record)
    assert "\n" not in line
    wanted = message.encode(errors="backslashreplace").decode()
    assert json.loads(line.encode())["message"] == wanted


def test_the_form_can_be_changed_while_running(file: tuple[Path, int]) -> None:
    written = Log("info", file[1])
    written.start()
    log.info("one")
    written.set_form("json")
    log.info("two")
    written.set_form("text")
    log.info("three")
    written.stop()
    one, two, three = file[0].read_text().splitlines()
    assert one.endswith("[EnergyMeterManager] one")
    assert json.loads(two)["message"] == "two"
    assert three.endswith("[EnergyMeterManager] three")
