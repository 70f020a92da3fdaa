"""The journal when the disk fails: every system call in turn, and a power cut at any moment."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edge.errors import JournalError
from edge.journal.schema import FILE_NAME
from tests.faults import EIO, ENOSPC, SHORT_WRITE, Call, build_library, environment
from tests.journal_writer import (
    PATIENCE_S,
    PUT_PER_STEP,
    STEP_S,
    HandClock,
    Source,
    kept_numbers,
    leave_behind,
    open_journal,
    record,
)
from tests.peers import wait_until
from tests.service import ROOT

RUN_TIMEOUT_S = 100
STEPS = 14
DAMAGES = 30
LANES = 8
CHILDREN = 2
"""Processes that try faults side by side."""
SQLITE_PROBE = """
import sqlite3, sys
from pathlib import Path
from tests.faults import EIO, Call, FaultyFolder
folder = Path(sys.argv[1])
outcomes = {}
for call in Call:
    with FaultyFolder(folder) as faulty:
        faulty.fail(call, EIO)
        try:
            connection = sqlite3.connect(folder / f"{call.name}.db")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE t (x)")
            connection.close()
        except sqlite3.Error:
            pass
        if faulty.failed:
            print(call.name)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library that makes system calls fail."""
    return build_library(tmp_path_factory.mktemp("faults"))


def run_child(library: Path, *arguments: str) -> list[str]:
    """Run a Python program under the library; the lines that it printed."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(library),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_library_is_felt_by_sqlite(library: Path, tmp_path: Path) -> None:
    failed = run_child(library, "-c", SQLITE_PROBE, str(tmp_path))
    expected = {Call.OPEN, Call.READ, Call.WRITE, Call.SYNC, Call.UNLINK}
    assert {call.name for call in expected} <= set(failed), (
        "this Python has SQLite built in, so its system calls cannot be made to fail: "
        "use one that is linked with libsqlite3"
    )


NEW, LEFT, BOTH = ("new",), ("left-behind",), ("new", "left-behind")
FAULTS = [
    pytest.param(call, error, times, begun == "left-behind", id=f"{call.name}-{what}-{begun}")
    for call, what, error, times, folders in (
        (Call.OPEN, "EIO-once", EIO, 1, BOTH),
        (Call.OPEN, "EIO-until-told", EIO, 0, BOTH),
        (Call.READ, "EIO-once", EIO, 1, BOTH),
        (Call.READ, "EIO-until-told", EIO, 0, LEFT),
        (Call.WRITE, "EIO-once", EIO, 1, NEW),
        (Call.WRITE, "ENOSPC-until-told", ENOSPC, 0, LEFT),
        (Call.WRITE, "short", SHORT_WRITE, 1, LEFT),
        (Call.SYNC, "EIO-once", EIO, 1, BOTH),
        (Call.SYNC, "EIO-until-told", EIO, 0, LEFT),
        (Call.TRUNCATE, "EIO-once", EIO, 1, BOTH),
        (Call.UNLINK, "EIO-once", EIO, 1, BOTH),
    )
    for begun in folders
]


@pytest.mark.parametrize(("call", "error", "times", "begun"), FAULTS)
def test_each_call_that_fails_costs_no_reading(
    library: Path, tmp_path: Path, call: Call, error: int, times: int, begun: bool
) -> None:
    def try_each(child: int) -> tuple[list[dict[str, Any]], bool]:
        folder = tmp_path / str(child)
        folder.mkdir()
        arguments = [str(folder), call.name, f"--error={error}", f"--times={times}"]
        arguments += [f"--first={child}", f"--every={CHILDREN}", *(["--begun"] if begun else [])]
        lines = run_child(library, "-m", "tests.journal_writer", "faults", *arguments)
        *attempts, end = [json.loads(line) for line in lines]
        return attempts, end["complete"]

    with ThreadPoolExecutor(CHILDREN) as pool:
        parts = list(pool.map(try_each, range(1, CHILDREN + 1)))
    attempts = [attempt for part, _ in parts for attempt in part]
    problems = [attempt for attempt in attempts if "problem" in attempt]
    assert not problems, told(problems, len(attempts))
    assert all(complete for _, complete in parts), f"still failing at call {len(attempts)}"
    assert len(attempts) > least_attempts(call)


def least_attempts(call: Call) -> int:
    """How many calls of a kind there are in any run; fewer means that nothing was tested."""
    return {Call.WRITE: 20, Call.SYNC: 6, Call.OPEN: 2, Call.READ: 2}.get(call, 0)


def told(problems: list[dict[str, Any]], attempts: int) -> str:
    """Name what went wrong, in a few lines."""
    words = [f"call {problem['first']}: {problem['problem'][:600]}" for problem in problems[:5]]
    return "\n".join([f"{len(problems)} of {attempts} attempts", *words])


def test_a_power_cut_costs_no_reading_that_was_kept(library: Path, tmp_path: Path) -> None:
    """Only what was synced is on the disk then; an hour of readings takes 50 ms here."""
    lines = run_child(
        library, "-m", "tests.journal_writer", "power-cuts", str(tmp_path), "--speed=72000"
    )
    assert json.loads(lines[-1])["promised"] > 100


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of STEPS steps, with sealed hours and a write-ahead log, as a kill leaves it."""
    return leave_behind(tmp_path_factory.mktemp("left_behind"), STEPS)


@pytest.mark.parametrize("name", [FILE_NAME, f"{FILE_NAME}-wal"], ids=["database", "log"])
@pytest.mark.parametrize("how", ["cut", "flipped", "zeroed"])
def test_a_damaged_file_gives_no_wrong_value(
    left_behind: Path, tmp_path: Path, name: str, how: str
) -> None:
    dice = random.Random(f"{name} {how}")

    def attempt(number: int) -> str | None:
        folder = tmp_path / str(number)
        shutil.copytree(left_behind, folder)
        file = folder / name
        place = damage(file, how, dice)
        try:
            go_on_with(folder)
        except AssertionError as error:
            return f"{how} at {place} of {(left_behind / name).stat().st_size}: {error}"
        shutil.rmtree(folder)
        return None

    with ThreadPoolExecutor(LANES) as pool:
        problems = [problem for problem in pool.map(attempt, range(DAMAGES)) if problem]
    assert not problems, "\n".join([f"{len(problems)} of {DAMAGES}", *problems[:5]])


def damage(file: Path, how: str, dice: random.Random) -> int:
    """Damage a file at a random place; which."""
    content = bytearray(file.read_bytes())
    place = dice.randrange(len(content))
    if how == "cut":
        del content[place:]
    elif how == "flipped":
        for _ in range(8):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        content[place] ^= 1 << dice.randrange(8)
    else:
        end = min(place + 4096, len(content))
        content[place:end] = bytes(end - place)
    file.write_bytes(content)
    return place


def go_on_with(folder: Path) -> None:
    """Open what is damaged, record more, and check all that is given back."""
    old = STEPS * PUT_PER_STEP
    clock = HandClock(2 * STEPS * STEP_S)
    source = Source(clock, first=old + 1)
    journal = open_journal(folder, clock)
    for _ in range(2):
        record(journal, source, clock)
    found = None
    while found is None:
        assert source.next_number < 3 * old, f"it cannot be read still: {journal.state}"
        try:
            found = kept_numbers(journal.path, damaged=True)
        except JournalError as error:  # damage is believed when it shows twice
            journal.report_damage(str(error))
            record(journal, source, clock)
    journal.close(PATIENCE_S)
    new = [number for number in found if number > old]
    assert new == list(range(old + 1, source.next_number)), f"of the new ones it kept {new}"
    assert found == sorted(found), f"not in order: {found}"
    set_aside = [path.name for path in folder.iterdir() if "broken" in path.name]
    assert bool(set_aside) <= bool(journal.state.notices), f"{set_aside} and no word of it"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 1 MiB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(
            "mounting a tmpfs is not permitted here; write-ENOSPC-until-told tries the same"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(ballast: Path) -> None:
    """Let a file grow until the disk is full."""
    with ballast.open("wb", buffering=0) as filling:
        try:
            while True:
                filling.write(bytes(4096))
        except OSError as error:
            assert error.errno == ENOSPC  # noqa: PT017 - not an error of the program under test


def test_recording_resumes_when_a_full_disk_has_room_again(small_disk: Path) -> None:
    clock = HandClock()
    source = Source(clock)
    journal = open_journal(small_disk, clock)
    record(journal, source, clock)
    ballast = small_disk / "ballast"
    fill_disk(ballast)
    for _ in range(100):
        journal.put(source.take(PUT_PER_STEP))
        clock.turn(STEP_S)
    wait_until(lambda: journal.state.last_error, timeout_s=PATIENCE_S, what="the fault is told")
    assert not journal.state.recording
    ballast.unlink()

    def all_recorded() -> bool:
        clock.turn(1.0)
        state = journal.state
        return state.recording and state.recorded == source.next_number - 1

    wait_until(all_recorded, timeout_s=PATIENCE_S, what="recording")
    assert journal.state.last_error is None
    journal.close(PATIENCE_S)
    assert kept_numbers(journal.path) == list(range(1, source.next_number))
