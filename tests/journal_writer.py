"""A journal in a process of its own, for tests that kill it or make its system calls fail.

    append      records readings, and says which are committed, until it is killed
    faults      one kind of fault at the first system call, at the second and so on
    power-cuts  what a disk holds that keeps nothing but what was synced

All that a reading says follows from its number, so that whoever finds it later knows what must
stand there. What is found wrong is printed as JSON, one object a line.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timezone
from pathlib import Path
from typing import Any

from edge.clock import Clock
from edge.journal import Journal
from edge.journal.history import History
from edge.journal.schema import FILE_NAME
from edge.meterspec import References, parse_meter
from edge.model import Meter, PollResult, Reading
from edge.record import Chunk, Resolution
from edge.settings import JournalConfig
from tests.building import a_registration, an_answer
from tests.faults import Call, FaultyFolder

SITE = "cellar"
METER_IDS = ("meter_a", "meter_b", "meter_c")
START_MS = 1_800_000_000_000
"""On the hour, and later than the clock of any machine that runs the tests."""
END_MS = START_MS * 2
HOUR_MS = 3_600_000
PUT_PER_STEP = 6
STEP_S = 1500.0
"""Readings of a step are of one moment, and the next step's so much later."""
PATIENCE_S = 10.0


# --- Readings and what is kept of them -----------------------------------------------------------


def meter_of(number: int) -> str:
    """Give the id of the meter that a reading is of."""
    return METER_IDS[number % len(METER_IDS)]


def values_of(number: int) -> dict[str, float]:
    """Give what a reading says; the energy counter is its number in Wh."""
    return {
        "power": number * 7919 % 1000 / 10,
        "energy": number / 1000,
        "voltage": 230 + number % 50 / 10,
    }


def unix_ms_at(mono_s: float) -> int:
    """Give the wall clock's time at a time of the monotonic clock."""
    return START_MS + round(mono_s * 1000)


class Source:
    """Readings one after the other, from number `first` on, stamped by a clock."""

    def __init__(self, clock: Clock, first: int = 1) -> None:
        self.next_number = first
        self._clock = clock
        self._meters = {meter_id: _meter(meter_id) for meter_id in METER_IDS}

    def take(self, count: int) -> list[PollResult]:
        """Give the next `count` readings, all of this moment."""
        mono_s = self._clock.mono_s()
        unix_ms = unix_ms_at(mono_s)
        numbers = range(self.next_number, self.next_number + count)
        self.next_number = numbers.stop
        return [
            an_answer(self._meters[meter_of(number)], Reading(values_of(number), mono_s, unix_ms))
            for number in numbers
        ]


def _meter(meter_id: str) -> Meter:
    return parse_meter(a_registration(meter_id), meter_id, 0, References())


def kept_numbers(path: Path, *, damaged: bool = False) -> list[int]:
    """Give the numbers of all readings in a journal that nobody writes, in order of sequence.

    damaged: one of the two ways to read may miss what the other one finds. Fails when they
    disagree otherwise, or a reading stands there twice or with another value than it must have.
    """
    with History(path) as history:
        asked = dict(
            pair
            for meter_id in METER_IDS
            for chunk in history.raw(meter_id, 0, END_MS)
            for pair in _seqs_and_numbers(chunk)
        )
        given = [pair for chunk, _ in history.since(1, 2**62) for pair in _seqs_and_numbers(chunk)]
    sent = dict(given)
    assert len(sent) == len(given), "a sequence number was given twice"
    differing = set(given) ^ set(asked.items())
    if damaged:
        differing = {pair for pair in differing if pair[0] in asked and pair[0] in sent}
        asked |= sent
    assert not differing, f"only a client or only a sink is given {sorted(differing)[:10]}"
    numbers = [asked[seq] for seq in sorted(asked)]
    assert len(set(numbers)) == len(numbers), "a reading is there twice"
    return numbers


def _seqs_and_numbers(chunk: Chunk) -> Iterator[tuple[int, int]]:
    for index, seq in enumerate(chunk.seqs):
        values = {name: column[index] for name, column in chunk.values.items()}
        found = {name: value for name, value in values.items() if value is not None}
        number = round(found["energy"] * 1000)
        assert found == values_of(number), f"reading {number} became {found}"
        assert chunk.series.meter_id == meter_of(number), f"reading {number} is of another meter"
        assert chunk.series.site == SITE, f"reading {number} is of {chunk.series}"
        assert not chunk.suspect[index], f"reading {number} became suspect"
        yield seq, number


def check_rollups(path: Path, settled_hours: int | None = None) -> None:
    """Check each hour's rollup against the raw readings of it, of which none was deleted.

    settled_hours: hours that are older than the newest reading by more than this must be there,
    and be of all their readings; other rollups may be of fewer readings than there are by now.
    Fails when one says what they do not.
    """
    with History(path) as history:
        for meter_id in METER_IDS:
            powers: dict[int, list[float]] = defaultdict(list)
            for chunk in history.raw(meter_id, 0, END_MS):
                for unix_ms, power in zip(chunk.unix_ms, chunk.values["power"], strict=True):
                    assert power is not None
                    powers[unix_ms - unix_ms % HOUR_MS].append(power)
            rollups = {
                rollup.start_ms: rollup
                for rollup in history.rollups(meter_id, Resolution.HOURLY, 0, END_MS)
            }
            settled_ms = 0
            if settled_hours is not None:
                settled_ms = max(powers, default=0) - settled_hours * HOUR_MS
                missing = [hour for hour in powers if hour < settled_ms and hour not in rollups]
                assert not missing, f"{meter_id} has no rollup of the hours {missing}"
            for hour, rollup in rollups.items():
                of_hour = powers[hour]
                what = f"{meter_id} at {hour}: {rollup} of {sorted(of_hour)}"
                assert rollup.samples <= len(of_hour), what
                assert 0 <= rollup.coverage <= 1, what
                if hour < settled_ms and rollup.samples:
                    assert rollup.samples == len(of_hour), what
                    assert (rollup.min_kw, rollup.max_kw) == (min(of_hour), max(of_hour)), what


def make_journal(folder: Path, clock: Clock, **settings: Any) -> Journal:
    """Give a journal that is not open yet; settings: of JournalConfig."""
    config = JournalConfig(**{"clock_wait_s": 0.0, "commit_interval_s": 0.1, **settings})
    # A writer that looks up more often than once a second makes for quicker tests.
    return Journal(folder, config, SITE, timezone.utc, clock, wake_s=0.02)


def open_journal(folder: Path, clock: Clock, **settings: Any) -> Journal:
    """Give a journal that runs; settings: of JournalConfig."""
    journal = make_journal(folder, clock, **settings)
    journal.open()
    return journal


class HandClock(Clock):
    """A clock that a test turns while a journal looks at it; both hands move as one."""

    def __init__(self, mono_s: float = 0.0) -> None:
        self._mono_s = mono_s

    def mono_s(self) -> float:
        return self._mono_s

    def unix_ms(self) -> int:
        return unix_ms_at(self._mono_s)

    def turn(self, by_s: float) -> None:
        """Let time pass."""
        self._mono_s += by_s


# --- append --------------------------------------------------------------------------------------


_CLOCK_STEP_S = 0.005


class FastClock(Clock):
    """A clock that runs `speed` times as fast since a moment, whichever process asks.

    It goes in steps: who looks at one hand and then at the other is to find them together.
    """

    def __init__(self, speed: float, since_mono_s: float) -> None:
        self._speed = speed
        self._since_mono_s = since_mono_s

    def mono_s(self) -> float:
        steps = (time.monotonic() - self._since_mono_s) // _CLOCK_STEP_S
        return steps * _CLOCK_STEP_S * self._speed

    def unix_ms(self) -> int:
        return unix_ms_at(self.mono_s())


def append(arguments: argparse.Namespace) -> None:
    """Record until killed: `putting N` before a reading goes in, `kept N` when it is committed."""
    clock = FastClock(arguments.speed, arguments.since_mono_s)
    source = Source(clock, arguments.first)
    print("opening", flush=True)
    journal = open_journal(
        arguments.folder,
        clock,
        max_bytes=arguments.max_bytes,
        raw_days=arguments.raw_days,
    )
    told = 0
    deadline_s = time.monotonic() + arguments.duration_s
    while time.monotonic() < deadline_s:
        print("putting", source.next_number + len(METER_IDS) - 1, flush=True)
        journal.put(source.take(len(METER_IDS)))
        state = journal.state
        if state.recorded != told:
            told = state.recorded
            print("kept", arguments.first + told - 1, flush=True)
        time.sleep(0.001)
    journal.close(10)
    state = journal.state
    print("kept", arguments.first + state.recorded - 1, flush=True)
    print("closed", json.dumps({"last_error": state.last_error, "notices": state.notices}))


# --- faults --------------------------------------------------------------------------------------

_LANES = 12
"""Tries at a time: most of their time goes by in waiting."""
_STEPS = 5


class Trial:
    """One run of a journal in a folder of its own, with one fault somewhere in it."""

    def __init__(self, folder: Path, begun: Path | None) -> None:
        self._folder = folder
        self._clock = HandClock()
        self._source = Source(self._clock)
        if begun:
            shutil.copytree(begun, folder)
            self._source.next_number = 1 + len(kept_numbers(folder / FILE_NAME))
            self._clock.turn(STEP_S)
        else:
            folder.mkdir()

    def run(self, call: Call, error: int, first: int, times: int) -> bool:
        """Record with that fault, and check what is kept; whether it came to the fault at all."""
        before = self._source.next_number - 1
        with FaultyFolder(self._folder) as faulty:
            faulty.fail(call, error, first=first, times=times)
            journal = open_journal(self._folder, self._clock)
            for step in range(_STEPS):
                journal.put(self._source.take(PUT_PER_STEP))
                self._clock.turn(STEP_S)
                if step == 1:
                    journal.keep_place("influx", journal.place("influx"))
                self._wait_until_recorded(journal, faulty, before)
            journal.close(PATIENCE_S)
            failed = faulty.failed > 0
        state = journal.state
        assert state.dropped == 0, state
        found = kept_numbers(self._folder / FILE_NAME)
        assert found == list(range(1, self._source.next_number)), found
        check_rollups(self._folder / FILE_NAME)
        set_aside = [path.name for path in self._folder.iterdir() if "broken" in path.name]
        assert not set_aside, f"a sound file was set aside: {set_aside}; {state}"
        return failed

    def _wait_until_recorded(self, journal: Journal, faulty: FaultyFolder, before: int) -> None:
        """Wait until all is committed; a lasting fault ends once the journal has told it."""
        put = self._source.next_number - 1 - before
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            state = journal.state
            if state.recording and state.recorded == put and not state.waiting:
                return
            if state.last_error is not None:
                assert not state.recording, state
                faulty.heal()
            assert time.monotonic() < deadline_s, f"recording did not resume: {state}"
            self._clock.turn(1.0)
            time.sleep(0.005)


def faults(arguments: argparse.Namespace) -> None:
    """Try a fault at each call of a kind in turn; prints what went wrong, and how many tries."""
    call, folder = Call[arguments.call], arguments.folder
    calls = range(arguments.first, arguments.most + 1, arguments.every)
    begun = leave_behind(folder, 4) if arguments.begun else None
    over = threading.Event()

    def attempt(first: int) -> dict[str, Any] | None:
        if over.is_set():
            return None
        its_folder = folder / str(first)
        try:
            if not Trial(its_folder, begun).run(call, arguments.error, first, arguments.times):
                over.set()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to tell it
            return {"first": first, "problem": f"{type(error).__name__}: {error}"}
        shutil.rmtree(its_folder)
        return {"first": first}

    with ThreadPoolExecutor(_LANES) as pool:
        for result in pool.map(attempt, calls):
            if result:
                print(json.dumps(result))
    print(json.dumps({"complete": over.is_set()}))


def leave_behind(work: Path, steps: int) -> Path:
    """Give a folder as a journal leaves it whose process was killed after so many steps."""
    written, left = work / "written", work / "left"
    written.mkdir()
    clock = HandClock()
    source = Source(clock)
    journal = open_journal(written, clock)
    for _ in range(steps):
        record(journal, source, clock)
    shutil.copytree(written, left)
    journal.close(PATIENCE_S)
    return left


def record(journal: Journal, source: Source, clock: HandClock) -> None:
    """Put in the readings of one step, and wait until they are committed."""
    recorded = journal.state.recorded
    journal.put(source.take(PUT_PER_STEP))
    clock.turn(STEP_S)
    deadline_s = time.monotonic() + PATIENCE_S
    while journal.state.recorded < recorded + PUT_PER_STEP:
        assert time.monotonic() < deadline_s, f"nothing is recorded: {journal.state}"
        clock.turn(1.0)
        time.sleep(0.005)


# --- power cuts ----------------------------------------------------------------------------------

_SYNCS_PER_CUT = 4


class Disk:
    """What a folder would hold after a power cut that keeps only what was synced.

    The power fails during a sync, every so often: `cuts` tells what was promised then, and where a
    copy is of what the disk held. A name that went is gone with the next sync of anything, as on
    a journalling file system.
    """

    def __init__(self, folder: Path, work: Path, promised: Callable[[], int], seed: int) -> None:
        self.cuts: list[tuple[int, Path]] = []
        self._folder = folder
        self._image = work / "disk"
        self._work = work
        self._promised = promised
        self._dice = random.Random(seed)
        self._image.mkdir()
        FaultyFolder.on_sync(self._synced)

    def _synced(self, path: Path) -> None:
        if self._dice.random() < 1 / _SYNCS_PER_CUT:
            cut = self._work / f"cut_{len(self.cuts)}"
            shutil.copytree(self._image, cut)
            self.cuts.append((self._promised(), cut))
        if path.is_file():
            shutil.copyfile(path, self._image / path.name)
        for name in {kept.name for kept in self._image.iterdir()}:
            if not (self._folder / name).exists():
                (self._image / name).unlink()


def power_cuts(arguments: argparse.Namespace) -> None:
    """Cut the power many times while readings are recorded, and check each time what is left."""
    folder: Path = arguments.folder / "live"
    folder.mkdir()
    clock = FastClock(arguments.speed, time.monotonic())
    source = Source(clock)
    journal = make_journal(folder, clock)
    with FaultyFolder(folder):
        disk = Disk(folder, arguments.folder, lambda: journal.state.recorded, arguments.seed)
        journal.open()
        deadline_s = time.monotonic() + PATIENCE_S
        while len(disk.cuts) < arguments.rounds:
            assert time.monotonic() < deadline_s, "nothing is synced"
            journal.put(source.take(len(METER_IDS)))
            time.sleep(0.002)
        journal.close(PATIENCE_S)
    for promised, cut in disk.cuts:
        after = open_journal(cut, clock)
        after.close(PATIENCE_S)
        # Time is quick here: days pass while a slow machine looks at the cuts.
        notices = [notice for notice in after.state.notices if "clock is" not in notice]
        assert not notices, after.state
        found = kept_numbers(cut / FILE_NAME)
        assert len(found) >= promised, f"{promised} were promised, {len(found)} are there"
        assert found == list(range(1, len(found) + 1)), found
        check_rollups(cut / FILE_NAME)
    print(json.dumps({"cuts": len(disk.cuts), "promised": disk.cuts[-1][0]}))


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("append")
    command.set_defaults(run=append)
    command.add_argument("folder", type=Path)
    command.add_argument("--first", type=int, default=1)
    command.add_argument("--speed", type=float, default=1.0)
    command.add_argument("--since-mono-s", type=float, required=True)
    command.add_argument("--duration-s", type=float, default=60.0)
    command.add_argument("--max-bytes", type=int, default=2**29)
    command.add_argument("--raw-days", type=int, default=90)
    command = commands.add_parser("faults")
    command.set_defaults(run=faults)
    command.add_argument("folder", type=Path)
    command.add_argument("call", choices=[call.name for call in Call])
    command.add_argument("--error", type=int, required=True)
    command.add_argument("--times", type=int, default=1)
    command.add_argument("--begun", action="store_true")
    command.add_argument("--first", type=int, default=1)
    command.add_argument("--every", type=int, default=1)
    command.add_argument("--most", type=int, default=1000)
    command = commands.add_parser("power-cuts")
    command.set_defaults(run=power_cuts)
    command.add_argument("folder", type=Path)
    command.add_argument("--rounds", type=int, default=30)
    command.add_argument("--speed", type=float, default=1.0)
    command.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
