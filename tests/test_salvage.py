"""A damaged database is set aside, what can be read is saved, and recording goes on."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.errors import JournalError
from edge.journal import damage, salvage
from edge.journal.schema import FILE_NAME, connect
from edge.journal.store import Store
from edge.place import Place
from edge.record import Rollup
from tests.test_journal import START_MS, Bench

BROKEN = f"{FILE_NAME}.broken"

Reading = tuple[int, int, dict[str, float | None]]


@dataclass(frozen=True)
class Recorded:
    """A journal of some hours. checkpointed: all of it is in the database file, no log beside."""

    folder: Path
    raw: list[Reading]
    rollups: list[Rollup]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    bench = Bench(tmp_path_factory.mktemp("recorded"))
    bench.writer.step()
    bench.writer.places["influx"] = Place(live=7)
    bench.run(6 * 3600 + 600, every_s=20)
    bench.writer.step(final=True)
    raw, rollups = bench.raw(), bench.rollups()
    bench.writer.close()
    assert [file.name for file in bench.path.parent.iterdir()] == [FILE_NAME]
    return Recorded(bench.path.parent, raw, rollups)


def reopened(recorded: Recorded, folder: Path, damage: Callable[[bytearray], None]) -> Bench:
    """A journal that was damaged while it was closed, opened and given some hours to notice."""
    data = bytearray((recorded.folder / FILE_NAME).read_bytes())
    damage(data)
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).write_bytes(data)
    bench = Bench(folder)
    bench.clock.turn(7 * 3600)
    bench.run(2 * 3600, every_s=300)
    bench.commit()
    return bench


def check(bench: Bench, recorded: Recorded) -> int:
    """Hold what is read against what was written; gives how much of it was saved."""
    assert bench.writer.state.recording, bench.writer.state.last_error
    new_from_ms = START_MS + 7 * 3_600_000
    found = bench.raw()
    saved = [reading for reading in found if reading[1] < new_from_ms]
    assert len(found) - len(saved) == 24, "what came afterwards is there"
    assert len({ms for _, ms, _ in found}) == len(found), "nothing is there twice"
    original = {reading[1]: reading for reading in recorded.raw}
    assert all(original.get(reading[1]) == reading for reading in saved), "nothing is invented"
    return len(saved)


def test_an_undamaged_journal_is_not_set_aside(recorded: Recorded, tmp_path: Path) -> None:
    bench = reopened(recorded, tmp_path, lambda data: None)
    assert check(bench, recorded) == len(recorded.raw)
    assert not (tmp_path / BROKEN).exists()
    bench.writer.close()


def test_a_journal_cut_at_any_length_is_salvaged(recorded: Recorded, tmp_path: Path) -> None:
    size = (recorded.folder / FILE_NAME).stat().st_size
    saved = []
    for number, length in enumerate([1, 99, 511, 512, *range(1024, size, size // 24), size - 1]):

        def cut(data: bytearray, length: int = length) -> None:
            del data[length:]

        bench = reopened(recorded, tmp_path / str(number), cut)
        saved.append(check(bench, recorded))
        # What is shorter than a page is no file of SQLite's, and empty to it.
        if length >= 512 and saved[-1] < len(recorded.raw):
            assert (bench.path.parent / BROKEN).exists()
            assert "was damaged and is set aside" in bench.writer.state.notices[0]
        bench.writer.close()
    print(saved)
    assert saved[-1] == len(recorded.raw), saved
    assert saved[-2] >= 0.6 * len(recorded.raw), saved


def test_a_flipped_byte_costs_little_wherever_it_is(recorded: Recorded, tmp_path: Path) -> None:
    size = (recorded.folder / FILE_NAME).stat().st_size
    chance = random.Random(4)
    saved = []
    for number in range(60):
        at = chance.randrange(size)

        def flip(data: bytearray, at: int = at) -> None:
            data[at] ^= chance.randrange(1, 256)

        bench = reopened(recorded, tmp_path / str(number), flip)
        saved.append(check(bench, recorded))
        bench.writer.close()
    assert sorted(saved)[len(saved) // 4] >= 0.8 * len(recorded.raw), saved


def test_a_file_of_something_else_is_set_aside(recorded: Recorded, tmp_path: Path) -> None:
    def overwrite(data: bytearray) -> None:
        data[:] = b"something else\n" * 1000

    bench = reopened(recorded, tmp_path, overwrite)
    assert check(bench, recorded) == 0
    assert (tmp_path / BROKEN).read_bytes().startswith(b"something else")
    bench.writer.close()


def test_what_is_salvaged_is_all_that_there_was(recorded: Recorded, tmp_path: Path) -> None:
    shutil.copy(recorded.folder / FILE_NAME, tmp_path / FILE_NAME)
    text = salvage.replace_damaged(tmp_path / FILE_NAME, 1 << 20, lambda: None)
    assert f"{len(recorded.raw)} readings and {len(recorded.rollups) + 1} rollups" in text
    bench = Bench(tmp_path)
    bench.clock.turn(7 * 3600)
    bench.writer.step()
    assert bench.raw() == recorded.raw
    assert bench.rollups()[: len(recorded.rollups)] == recorded.rollups
    assert bench.writer.places == {"influx": Place(live=7)}
    bench.read()
    bench.commit()
    assert bench.raw()[-1][0] == recorded.raw[-1][0] + 1, "no sequence number is used again"
    bench.writer.close()


def test_a_salvage_that_was_cut_off_is_gone_on_with(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    calls = 0

    def cut() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise PowerCut

    path = tmp_path / FILE_NAME
    shutil.copy(recorded.folder / FILE_NAME, path)
    with pytest.raises(PowerCut):
        salvage.replace_damaged(path, 1 << 20, cut)
    assert not path.exists()
    assert damage.is_begun(path)
    bench = Bench(tmp_path)
    bench.clock.turn(7 * 3600)
    bench.writer.step()
    assert bench.raw() == recorded.raw
    assert not damage.is_begun(path)
    bench.writer.close()


def test_damage_found_while_running_is_salvaged_and_readings_go_on(
    recorded: Recorded, tmp_path: Path
) -> None:
    shutil.copy(recorded.folder / FILE_NAME, tmp_path / FILE_NAME)
    bench = Bench(tmp_path)
    bench.clock.turn(7 * 3600)
    bench.writer.step()
    with (tmp_path / FILE_NAME).open("r+b") as file:
        file.seek(file.seek(0, 2) // 2)
        file.write(b"\xff" * 4096)
    bench.writer.close()  # or else its cache hides the damage
    bench.writer.reported_damage = "database disk image is malformed"
    bench.read()
    for _ in range(4):
        bench.clock.turn(700)
        bench.writer.reported_damage = "database disk image is malformed"
        bench.writer.step()
    assert (tmp_path / BROKEN).exists()
    assert bench.writer.state.recording
    assert len(bench.raw()) > len(recorded.raw) // 2
    bench.writer.close()


def test_the_log_of_the_damaged_database_is_salvaged_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "first")
    bench.run(600)
    bench.commit()
    live = tmp_path / "second"
    live.mkdir()
    for file in bench.path.parent.iterdir():
        shutil.copy(file, live / file.name)
    assert (live / f"{FILE_NAME}-wal").stat().st_size > 0
    bench.writer.close()
    salvage.replace_damaged(live / FILE_NAME, 1 << 20, lambda: None)
    after = Bench(live)
    after.clock.turn(3600)
    after.writer.step()
    assert len(after.raw()) == 10
    after.writer.close()


def test_a_log_that_cannot_be_emptied_is_not_lost(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FILE_NAME
    shutil.copy(recorded.folder / FILE_NAME, path)

    def fail(self: Store) -> None:
        raise JournalError("The log cannot be emptied.")

    monkeypatch.setattr(Store, "empty_log", fail)
    with pytest.raises(JournalError):
        salvage.replace_damaged(path, 1 << 20, lambda: None)
    assert not path.exists()
    assert damage.is_begun(path)
    monkeypatch.undo()
    for ending in ("-shm", "-wal", ".broken-shm"):
        path.with_name(path.name + ending).write_bytes(b"stale")
    salvage.replace_damaged(path, 1 << 20, lambda: None)
    bench = Bench(tmp_path)
    bench.clock.turn(7 * 3600)
    bench.writer.step()
    assert bench.raw() == recorded.raw
    bench.writer.close()
    names = {file.name for file in tmp_path.iterdir()}
    assert {FILE_NAME, BROKEN} <= names <= {FILE_NAME, BROKEN, f"{BROKEN}-wal"}, "nothing is left"
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())


def test_a_store_says_that_a_wrong_number_is_damage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.step()
    bench.sql("UPDATE meta SET value = 'x' WHERE key = 'sealed_seq'")
    bench.writer.close()
    with pytest.raises(Exception, match="malformed") as caught:
        Store(bench.path, 1 << 20)
    assert damage.is_damage(caught.value)


def test_what_sqlite_says_of_a_damaged_schema_is_damage() -> None:
    for text in (
        "table tail has no column named count",
        "no such index: block_time",
        "",
        "database disk image is malformed",
    ):
        assert damage.is_damage(sqlite3.DatabaseError(text)), text
    for text in ("disk I/O error", "database is locked", "database or disk is full"):
        assert not damage.is_damage(sqlite3.OperationalError(text)), text


def test_a_lost_format_is_damage(recorded: Recorded, tmp_path: Path) -> None:
    shutil.copy(recorded.folder / FILE_NAME, tmp_path / FILE_NAME)
    with closing(connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'format'")
    bench = Bench(tmp_path)
    bench.clock.turn(7 * 3600)
    for _ in range(3):
        bench.writer.step()
        bench.clock.turn(60)
    assert bench.writer.state.recording, bench.writer.state.last_error
    assert bench.raw() == recorded.raw
    bench.writer.close()


@pytest.mark.parametrize("content", [b"", b"notes of somebody"])
def test_a_stray_file_sets_no_sound_journal_aside(
    recorded: Recorded, tmp_path: Path, content: bytes
) -> None:
    shutil.copy(recorded.folder / FILE_NAME, tmp_path / FILE_NAME)
    (tmp_path / f"{FILE_NAME}.new").write_bytes(content)
    bench = Bench(tmp_path)
    bench.clock.turn(7 * 3600)
    bench.writer.step()
    assert bench.writer.state.notices == ()
    assert bench.raw() == recorded.raw
    bench.writer.close()


def test_folders_in_the_way_do_not_stop_recording(recorded: Recorded, tmp_path: Path) -> None:
    shutil.copy(recorded.folder / FILE_NAME, tmp_path / FILE_NAME)
    for ending in (".new", ".broken", ".broken-wal"):
        folder = tmp_path / f"{FILE_NAME}{ending}"
        folder.mkdir()
        (folder / "file").touch()
    bench = reopened(recorded, tmp_path, lambda data: None)
    assert bench.writer.state.notices == (), "they matter to nobody yet"
    bench.writer.close()
    salvage.replace_damaged(tmp_path / FILE_NAME, 1 << 20, lambda: None)
    assert (tmp_path / BROKEN).is_file()
    assert (tmp_path / f"{BROKEN}.1" / "file").exists()
    assert (tmp_path / f"{FILE_NAME}.new.1" / "file").exists()


@pytest.mark.parametrize("call", ["rename", "unlink", "fsync"])
def test_a_salvage_that_fails_at_any_call_is_taken_up_again(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The Nth call fails, for N = 1, 2, 3 … until there is no Nth; nothing is lost by it."""
    owner: Any = os if call == "fsync" else Path
    real = getattr(owner, call)
    calls = 0
    failing = 0

    def flaky(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **options)

    def zero_a_page(data: bytearray) -> None:
        data[512 * 40 : 512 * 48] = bytes(512 * 8)

    monkeypatch.setattr(owner, call, flaky)
    saved = []
    while calls >= failing:
        calls = 0
        bench = reopened(recorded, tmp_path / str(failing), zero_a_page)
        saved.append(check(bench, recorded))
        assert (bench.path.parent / BROKEN).exists()
        bench.writer.close()
        failing += 1
    assert len(saved) > 2, "some calls were made to fail"
    assert set(saved) == {saved[0]}
    assert saved[0] > 0
