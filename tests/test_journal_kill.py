"""The journal when its process is killed at random moments, over and over.

DLM_EDGE_TEST_KILLS says how often (100); the moments are the same for the same number.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from edge.errors import JournalError
from edge.journal.schema import FILE_NAME
from tests.journal_writer import METER_IDS, check_rollups, kept_numbers, meter_of
from tests.peers import wait_until
from tests.service import ROOT

KILLS = int(os.environ.get("DLM_EDGE_TEST_KILLS", "100"))
KILLS_OF_A_LIFE = 25
SPEED = 36_000
"""An hour of readings takes 0.1 s."""
LONGEST_RUN_S = 0.3
SETTLING_RUNS_S = (2, 4, 8, 16)


class Life:
    """A state folder over many runs of a writer, and what those runs said."""

    def __init__(self, folder: Path, *settings: str) -> None:
        folder.mkdir()
        self.file = folder / "state" / FILE_NAME
        self.file.parent.mkdir()
        self.kept: list[range] = []
        """Numbers of the readings that each run said were committed."""
        self.put: list[range] = []
        """Those that each run took in."""
        self._said = folder / "said.txt"
        self._logged = folder / "log.txt"
        self._settings = settings
        self._since_mono_s = time.monotonic()

    @property
    def next_number(self) -> int:
        """A number that no run ever gave away."""
        return self.put[-1].stop if self.put else 1

    def run(self, *, kill_after_s: float | None, duration_s: int = 1) -> list[str]:
        """Run a writer and kill it so long after it began to open.

        kill_after_s: None lets it end by itself, after duration_s.
        """
        first = self.next_number
        command = [sys.executable, "-m", "tests.journal_writer", "append", str(self.file.parent)]
        command += [f"--first={first}", f"--speed={SPEED}", *self._settings]
        command.append(f"--since-mono-s={self._since_mono_s}")
        if kill_after_s is None:
            command.append(f"--duration-s={duration_s}")
        with self._said.open("w") as said, self._logged.open("w") as logged:
            writer = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=logged)
        try:
            if kill_after_s is not None:
                wait_until(lambda: "opening" in self._said.read_text(), what="the writer's start")
                time.sleep(kill_after_s)
                assert writer.poll() is None, self._logged.read_text()
            else:
                assert writer.wait(30 + duration_s) == 0, self._logged.read_text()
        finally:
            writer.kill()
            writer.wait()
        lines = self._said.read_text().split("\n")[:-1]  # the last one may be cut
        last_put, last_kept = first - 1, first - 1
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "putting":
                last_put = int(rest)
            elif word == "kept":
                last_kept = int(rest)
            else:
                assert word in ("opening", "closed"), self._said.read_text()
        self.put.append(range(first, last_put + 1))
        self.kept.append(range(first, last_kept + 1))
        return lines

    def check(self, *, bounded: bool) -> int:
        """Hold what is there against what was said; how many readings are there.

        bounded: the oldest may be gone.
        """
        try:
            found = kept_numbers(self.file)
        except JournalError:
            assert not any(self.kept), "readings were promised, and there is no journal"
            return 0
        # Readings go meter by meter.
        oldest = {
            meter_id: min((n for n in found if meter_of(n) == meter_id), default=self.next_number)
            for meter_id in (METER_IDS if bounded else ())
        }
        assert found == sorted(found)
        there = set(found)
        for put, kept in zip(self.put, self.kept, strict=True):
            due = [number for number in put if number > oldest.get(meter_of(number), 0)]
            lost = [number for number in due if number in kept and number not in there]
            assert not lost, f"promised and lost: {lost[:10]} of {kept}"
            of_run = there.intersection(put)
            last = max(of_run, default=0)
            holes = [number for number in due if number < last and number not in there]
            assert not holes, f"holes in {put}: {holes}"
            there -= of_run
        assert not there, f"never put in: {sorted(there)[:10]}"
        return len(found)


def end_regularly(life: Life, duration_s: int = 1) -> None:
    """Let a writer run for a while and end by itself, in good order."""
    word, _, rest = life.run(kill_after_s=None, duration_s=duration_s)[-1].partition(" ")
    assert word == "closed"
    state = json.loads(rest)
    assert state["last_error"] is None
    assert [notice for notice in state["notices"] if "clock is" not in notice] == []


def settle(life: Life) -> None:
    """Let writers run until all hours are summed up as they must be.

    Time is so quick here that the hours in which a slow machine starts a writer are more than that
    one sums up in a short run.
    """
    for duration_s in SETTLING_RUNS_S:
        with suppress(AssertionError):
            check_rollups(life.file, settled_hours=4)
            return
        end_regularly(life, duration_s)
    check_rollups(life.file, settled_hours=4)


def live(folder: Path, seed: int, *settings: str) -> None:
    """Kill a writer KILLS_OF_A_LIFE times in one folder; each time all promises must be kept."""
    dice = random.Random(seed)
    life = Life(folder, *settings)
    bounded = bool(settings)
    for _ in range(KILLS_OF_A_LIFE):
        life.run(kill_after_s=dice.uniform(0, LONGEST_RUN_S))
        life.check(bounded=bounded)
        if any(life.kept) and not bounded:
            check_rollups(life.file)
    end_regularly(life)
    assert life.check(bounded=bounded) > KILLS_OF_A_LIFE
    if not bounded:
        settle(life)
    assert sorted(path.name for path in life.file.parent.iterdir() if "broken" in path.name) == []


@pytest.mark.parametrize("settings", [(), ("--raw-days=1",)], ids=["all", "a-day-at-most"])
def test_a_killed_writer_keeps_what_it_promised(tmp_path: Path, settings: tuple[str, ...]) -> None:
    lives = math.ceil(KILLS / KILLS_OF_A_LIFE / 2)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(live, tmp_path / str(seed), seed, *settings) for seed in range(lives)]
        for run in runs:
            run.result()
