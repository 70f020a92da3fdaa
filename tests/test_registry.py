"""The registered meters and `state.json`: whatever fails or ends, what was answered is kept."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import random
import shutil
import stat
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from edge.errors import ConfigError, RequestError, StateError
from edge.meterspec import References
from edge.model import Meter
from edge.registry import BACKUP_FILE, STATE_FILE, Registry, StoredState, load_state
from edge.template import parse_template
from tests.building import a_registration
from tests.peers import wait_until
from tests.service import Service

LIBRARY = References(
    {
        "maker-one": parse_template(
            "maker-one",
            {
                "title": "One",
                "maker": "Maker",
                "models": ["One"],
                "protocol": "modbus",
                "source": "the maker's document, page 1",
                "communication": {"registers": {"power": 7}},
            },
        )
    },
    brokers=("default", "plant"),
)


def a_changed(meters: tuple[Meter, ...]) -> Future[None]:
    """Show a change at once."""
    shown: Future[None] = Future()
    shown.set_result(None)
    return shown


@contextmanager
def a_registry(
    folder: Path,
    changed: Callable[[tuple[Meter, ...]], Future[None]] = a_changed,
    references: References = LIBRARY,
) -> Iterator[Registry]:
    registry = Registry(folder, references, changed)
    registry.open()
    try:
        yield registry
    finally:
        registry.close()


def stored(folder: Path, references: References = LIBRARY) -> StoredState:
    """What a service that starts now would find; changes nothing."""
    return load_state(folder, references, set_aside=False)


def names(meters: tuple[Meter, ...]) -> list[str]:
    return [meter.name for meter in meters]


def two_generations(folder: Path) -> None:
    """Leave `A` in the backup, and `A` and `B` in the file."""
    with a_registry(folder) as registry:
        registry.add(a_registration("A"))
        registry.add(a_registration("B"))


# --- Keeping --------------------------------------------------------------------------------------


def test_meters_are_the_same_after_a_restart(tmp_path: Path) -> None:
    with a_registry(tmp_path) as registry:
        for name in ("A", "B", "C"):
            registry.add(a_registration(name, maxPower=40))
        registry.remove(registry.meters[1].id)
        registry.update(registry.meters[1].id, {"pollInterval": 2000, "maxPower": None})
        before = registry.meters
    with a_registry(tmp_path) as registry:
        assert registry.notices == ()
        assert [(m.id, m.phase_index, m.document) for m in registry.meters] == [
            (m.id, m.phase_index, m.document) for m in before
        ]
        assert [(m.name, m.poll_interval_ms, m.max_power_kw) for m in registry.meters] == [
            ("A", 1000, 40.0),
            ("C", 2000, None),
        ]


def test_a_new_meter_takes_the_lowest_free_slot_and_keeps_it(tmp_path: Path) -> None:
    with a_registry(tmp_path) as registry:
        for name in ("A", "B", "C"):
            registry.add(a_registration(name))
        registry.remove(registry.meters[1].id)
    with a_registry(tmp_path) as registry:
        assert [(m.name, m.phase_index) for m in registry.meters] == [("A", 0), ("C", 2)]
        assert registry.add(a_registration("D")).phase_index == 1
        assert registry.add(a_registration("E")).phase_index == 3
        registry.update(registry.meters[1].id, {"name": "C2"})
    assert [(m.name, m.phase_index) for m in stored(tmp_path).meters] == [
        ("A", 0), ("C2", 2), ("D", 1), ("E", 3),
    ]  # fmt: skip


def test_only_the_owner_can_read_the_folder_and_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    before = os.umask(0)
    try:
        two_generations(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == {"state.json": 0o600, "state.json.bak": 0o600}


def test_the_backup_is_the_generation_before(tmp_path: Path) -> None:
    two_generations(tmp_path)
    backup, state = ((tmp_path / file).read_text() for file in ("state.json.bak", "state.json"))
    assert [entry["registration"]["name"] for entry in json.loads(backup)["meters"]] == ["A"]
    assert [entry["registration"]["name"] for entry in json.loads(state)["meters"]] == ["A", "B"]


def test_a_temporary_file_left_behind_does_no_harm(tmp_path: Path) -> None:
    two_generations(tmp_path)
    for file in ("state.json.tmp", "state.json.bak.tmp"):
        (tmp_path / file).write_text("half a fi")
        (tmp_path / file).chmod(0o666)
    with a_registry(tmp_path) as registry:
        assert (names(registry.meters), registry.notices) == (["A", "B"], ())
        registry.add(a_registration("C"))
    assert names(stored(tmp_path).meters) == ["A", "B", "C"]
    assert {file.name for file in tmp_path.iterdir()} == {
        "state.json", "state.json.bak",
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_a_second_service_on_the_folder_is_refused(tmp_path: Path) -> None:
    with a_registry(tmp_path), pytest.raises(StateError, match=r"by another dlm-edge.*; stop it"):
        Registry(tmp_path, LIBRARY, a_changed).open()
    with a_registry(tmp_path):
        pass


# --- Changes --------------------------------------------------------------------------------------


def test_a_name_can_be_had_once_whatever_its_case(tmp_path: Path) -> None:
    with a_registry(tmp_path) as registry:
        first = registry.add(a_registration("Straße"))
        second = registry.add(a_registration("B"))
        registry.update(first.id, {"name": "STRASSE"})
        attempts: tuple[Callable[[], Meter], ...] = (
            lambda: registry.add(a_registration("straße ")),
            lambda: registry.update(second.id, {"name": "Strasse"}),
        )
        for attempt in attempts:
            with pytest.raises(RequestError) as refused:
                attempt()
            assert (refused.value.status, refused.value.code) == (409, "DUPLICATE_NAME")
            assert refused.value.faults[0].path == "name"
            assert first.id in str(refused.value)
        assert names(registry.meters) == ["STRASSE", "B"]


def test_a_refused_change_touches_nothing(tmp_path: Path) -> None:
    two_generations(tmp_path)
    before = (tmp_path / "state.json").read_bytes()
    told: list[tuple[Meter, ...]] = []

    def changed(meters: tuple[Meter, ...]) -> Future[None]:
        told.append(meters)
        return a_changed(meters)

    with a_registry(tmp_path, changed) as registry:
        meters = registry.meters
        attempts: tuple[tuple[Callable[[], Meter], int, str], ...] = (
            (lambda: registry.add({"name": "C"}), 400, "VALIDATION_ERROR"),
            (lambda: registry.add(None), 400, "VALIDATION_ERROR"),
            (lambda: registry.update(meters[0].id, {"meterType": "gird"}), 400, "VALIDATION_ERROR"),
            (lambda: registry.update(meters[0].id, [1]), 400, "VALIDATION_ERROR"),
            (lambda: registry.update("meter_0", {}), 404, "METER_NOT_FOUND"),
            (lambda: registry.remove("meter_0"), 404, "METER_NOT_FOUND"),
        )
        for attempt, status, code in attempts:
            with pytest.raises(RequestError) as refused:
                attempt()
            assert (refused.value.status, refused.value.code) == (status, code)
        assert registry.meters is meters
    assert told == []
    assert (tmp_path / "state.json").read_bytes() == before


def test_a_line_is_used_in_one_way(tmp_path: Path) -> None:
    over_tcp = a_registration("A")
    framed = {**over_tcp["communication"], "transport": "rtu-over-tcp"}
    with a_registry(tmp_path) as registry:
        first = registry.add(over_tcp)
        with pytest.raises(RequestError, match=r"communication\.transport.*'A'"):
            registry.add(a_registration("B", communication=framed))
        registry.update(first.id, {"communication": {"transport": "rtu-over-tcp"}})
        registry.add(a_registration("B", communication=framed))


def test_changes_from_many_threads_keep_names_unique_and_the_file_equal(tmp_path: Path) -> None:
    told: list[tuple[Meter, ...]] = []

    def changed(meters: tuple[Meter, ...]) -> Future[None]:
        told.append(meters)
        return a_changed(meters)

    def change(seed: int) -> int:
        rng, done = random.Random(seed), 0
        for _ in range(20):
            name = f"Meter {rng.randrange(6)}"
            with suppress(RequestError):
                known = rng.choice([meter.id for meter in registry.meters] or ["meter_0"])
                rng.choice(
                    (
                        lambda n=name: registry.add(a_registration(n)),
                        lambda n=name, k=known: registry.update(k, {"name": n}),
                        lambda k=known: registry.remove(k),
                    )
                )()
                done += 1
        return done

    with a_registry(tmp_path, changed) as registry:
        with ThreadPoolExecutor(8) as threads:
            done = sum(threads.map(change, range(8)))
        assert done > 20
        assert len(told) == done, "each change is told, once"
        assert told[-1] is registry.meters, "in the order of the changes"
        for meters in told:
            assert len({meter.name for meter in meters}) == len(meters) <= 6
            assert len({meter.phase_index for meter in meters}) == len(meters)
        for before, after in itertools.pairwise(told):
            assert len(set(before) ^ set(after)) <= 2, "one change at a time"
        assert [(m.id, m.phase_index, m.document) for m in stored(tmp_path).meters] == [
            (m.id, m.phase_index, m.document) for m in registry.meters
        ]


def test_a_change_returns_when_it_shows(tmp_path: Path) -> None:
    shown: Future[None] = Future()
    with a_registry(tmp_path, lambda _meters: shown) as registry:
        thread = threading.Thread(target=registry.add, args=(a_registration("A"),))
        thread.start()
        wait_until(lambda: registry.meters, what="the meter in memory")
        assert names(stored(tmp_path).meters) == ["A"], "it is stored first"
        assert thread.is_alive()
        shown.set_result(None)
        thread.join(5)
        assert not thread.is_alive()


def test_each_change_is_logged_before_it_takes_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def changed(meters: tuple[Meter, ...]) -> Future[None]:
        logging.getLogger("EnergyMeterManager").info("%d meters in force", len(meters))
        return a_changed(meters)

    caplog.set_level(logging.INFO)
    with a_registry(tmp_path, changed) as registry:
        meter = registry.add(a_registration("A"))
        registry.update(meter.id, {"pollInterval": 2000})
        registry.remove(meter.id)
    assert [record.getMessage() for record in caplog.records] == [
        "Registered meter: A", "1 meters in force",
        "Updated meter: A", "1 meters in force",
        "Removed meter: A", "0 meters in force",
    ]  # fmt: skip


# --- What registrations refer to ------------------------------------------------------------------


def test_meters_of_all_protocols_are_the_same_after_a_restart(tmp_path: Path) -> None:
    documents = [
        a_registration("A"),
        a_registration("B", communication={"template": "maker-one", "host": "h"}),
        a_registration("C", protocol="mqtt", communication={"topicPower": "a", "broker": "plant"}),
        a_registration("D", protocol="http", communication={"url": "https://h", "authToken": "t"}),
    ]
    with a_registry(tmp_path) as registry:
        for document in documents:
            registry.add(document)
        before = registry.meters
    after = stored(tmp_path).meters
    assert [meter.document for meter in after] == documents
    assert [meter.communication for meter in after] == [meter.communication for meter in before]
    assert [meter.line for meter in after] == [
        "tcp://127.0.0.1:502", "tcp://h:502", "mqtt:plant", "https://h:443",
    ]  # fmt: skip


def test_a_template_or_broker_that_is_gone_stops_the_start_with_its_name(tmp_path: Path) -> None:
    with a_registry(tmp_path) as registry:
        registry.add(a_registration("A", communication={"template": "maker-one", "host": "h"}))
        registry.add(
            a_registration(
                "B", protocol="mqtt", communication={"topicPower": "a", "broker": "plant"}
            )
        )
    before = (tmp_path / STATE_FILE).read_bytes()
    with (
        pytest.raises(ConfigError) as refused,
        a_registry(tmp_path, references=References({"maker-two": LIBRARY.templates["maker-one"]})),
    ):
        pass
    file = tmp_path / STATE_FILE
    assert str(refused.value).splitlines() == [
        f"{file}: meters[0].registration.communication.template: 'maker-one' is not in the device "
        "library; did you mean 'maker-two'?",
        f"{file}: meters[1].registration.communication.broker: must be default, not 'plant' "
        "([mqtt.brokers.<name>] in the config adds one)",
    ]
    assert file.read_bytes() == before
    assert names(stored(tmp_path).meters) == ["A", "B"], "and works again with them"


def test_a_changed_template_changes_its_meters_at_the_next_start(tmp_path: Path) -> None:
    with a_registry(tmp_path) as registry:
        meter = registry.add(
            a_registration("A", communication={"template": "maker-one", "host": "h"})
        )
    template = replace(LIBRARY.templates["maker-one"], communication={"registers": {"power": 8}})
    (changed,) = stored(tmp_path, References({"maker-one": template})).meters
    assert changed.document == meter.document
    assert not changed.communication.reads_like(meter.communication)


def test_one_origin_is_used_in_one_way(tmp_path: Path) -> None:
    def over_http(name: str, **keys: Any) -> dict[str, Any]:
        return a_registration(name, protocol="http", communication={"url": "https://h/x", **keys})

    with a_registry(tmp_path) as registry:
        first = registry.add(over_http("A"))
        with pytest.raises(RequestError, match=r"communication\.verifyTls.*'A' on https://h:443"):
            registry.add(over_http("B", verifyTls=False))
        registry.update(first.id, {"communication": {"verifyTls": False}})
        registry.add(over_http("B", verifyTls=False))
        with pytest.raises(RequestError, match=r"communication\.verifyTls"):
            registry.update(first.id, {"communication": {"verifyTls": None}})


def test_a_meter_may_change_its_protocol(tmp_path: Path) -> None:
    with a_registry(tmp_path) as registry:
        meter = registry.add(a_registration("A", pollInterval=None))
        nulls = dict.fromkeys(meter.document["communication"])
        with pytest.raises(RequestError) as refused:
            registry.update(meter.id, {"protocol": "mqtt", "communication": {"topicPower": "a"}})
        assert {fault.path for fault in refused.value.faults} == {
            f"communication.{name}" for name in nulls
        }
        update = {"protocol": "mqtt", "communication": {**nulls, "topicPower": "a"}}
        changed = registry.update(meter.id, update)
        assert (changed.line, changed.poll_interval_ms) == ("mqtt:default", None)
        assert changed.phase_index == meter.phase_index


def test_a_trial_registers_nothing_and_may_try_other_settings(tmp_path: Path) -> None:
    with a_registry(tmp_path) as registry:
        first = registry.add(a_registration("A"))
        assert registry.parse(a_registration("A")).line == first.line, "its name may be taken"
        framed = {**first.document["communication"], "transport": "rtu-over-tcp"}
        assert registry.parse(a_registration("A", communication=framed)).line != first.line
        with pytest.raises(RequestError, match=r"communication\.template.*'maker-one'"):
            registry.parse(a_registration("B", communication={"template": "maker-on"}))
        assert registry.meters == (first,)
    assert names(stored(tmp_path).meters) == ["A"]


# --- Damage ---------------------------------------------------------------------------------------

DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(500),
    "not UTF-8": b'{"version": 1, "meters": [], "x": "\xff"}',
    "no JSON": b"version = 1\n",
    "nested too deeply": b"[" * 200_000,
    "a list": b"[]",
    "no version": b'{"meters": []}',
    "version 0": b'{"version": 0, "meters": []}',
    "version true": b'{"version": true, "meters": []}',
    "no meters": b'{"version": 1}',
    "a meter without id": b'{"version": 1, "meters": [{"slot": 0, "registration": {}}]}',
    "a meter without slot": b'{"version": 1, "meters": [{"id": "meter_1", "registration": {}}]}',
    "a slot below 0": (
        b'{"version": 1, "meters": [{"id": "meter_1", "slot": -1, "registration": {}}]}'
    ),
    "a registration that is none": (
        b'{"version": 1, "meters": [{"id": "meter_1", "slot": 0, "registration": []}]}'
    ),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_set_aside_and_the_backup_used(tmp_path: Path, content: bytes) -> None:
    two_generations(tmp_path)
    (tmp_path / "state.json").write_bytes(content)
    with a_registry(tmp_path) as registry:
        assert names(registry.meters) == ["A"]
        assert registry.notices == (
            "state.json is damaged and was set aside as state.json.broken.",
            "state.json was missing or damaged, so the 1 meters of state.json.bak are used; check "
            "that the last change is among them.",
        )
        assert (tmp_path / "state.json.broken").read_bytes() == content
        registry.add(a_registration("C"))
    assert names(stored(tmp_path).meters) == ["A", "C"]
    assert stored(tmp_path).notices == ()


def test_a_disk_that_turned_read_only_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_generations(tmp_path)
    really_open = os.open

    def read_only(path: Any, flags: int, *mode: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system")
        return really_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with a_registry(tmp_path) as registry:
        assert names(registry.meters) == ["A", "B"]
        with pytest.raises(StateError, match="Read-only file system"):
            registry.add(a_registration("C"))
        assert names(registry.meters) == ["A", "B"]


def test_names_that_look_alike_are_one_name(tmp_path: Path) -> None:
    with a_registry(tmp_path) as registry:
        registry.add(a_registration(unicodedata.normalize("NFC", "Zähler")))
        with pytest.raises(RequestError, match="is registered already"):
            registry.add(a_registration(unicodedata.normalize("NFD", "zähler")))


def test_there_is_an_end_to_registering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.registry.MAX_METERS", 2)
    two_generations(tmp_path)
    with a_registry(tmp_path) as registry:
        with pytest.raises(RequestError) as refused:
            registry.add(a_registration("C"))
        assert (refused.value.status, refused.value.code) == (409, "TOO_MANY_METERS")
        registry.remove(registry.meters[0].id)
        registry.add(a_registration("C"))


def test_after_a_damage_there_are_two_whole_copies_again(tmp_path: Path) -> None:
    two_generations(tmp_path)
    (tmp_path / STATE_FILE).write_bytes(b"")
    with a_registry(tmp_path) as registry:
        assert len(registry.notices) == 2
    assert (tmp_path / STATE_FILE).read_bytes() == (tmp_path / BACKUP_FILE).read_bytes()
    with a_registry(tmp_path) as registry:
        assert (names(registry.meters), registry.notices) == (["A"], ())


def test_a_file_cut_at_any_length_is_whole_or_damaged_never_fewer_meters(tmp_path: Path) -> None:
    two_generations(tmp_path)
    whole = (tmp_path / "state.json").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "state.json").write_bytes(whole[:length])
        found = stored(tmp_path)
        if whole[length:].strip():
            assert (names(found.meters), len(found.notices)) == (["A"], 2), length
        else:
            assert (names(found.meters), found.notices) == (["A", "B"], ()), length


def test_a_flipped_bit_is_never_a_bug_and_never_silently_a_meter_less(tmp_path: Path) -> None:
    two_generations(tmp_path)
    whole = (tmp_path / "state.json").read_bytes()
    rng = random.Random(1)
    seen = {"damaged": 0, "refused": 0, "not noticed": 0}
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        (tmp_path / "state.json").write_bytes(flipped)
        try:
            found = stored(tmp_path)
        except ConfigError:
            seen["refused"] += 1
        else:
            seen["damaged" if found.notices else "not noticed"] += 1
            assert len(found.meters) == (1 if found.notices else 2), position
    assert min(seen.values()) > 0, seen


@pytest.mark.parametrize("missing", ["removed", "a directory"])
def test_a_file_that_is_not_there_is_made_good_by_the_backup(tmp_path: Path, missing: str) -> None:
    two_generations(tmp_path)
    (tmp_path / "state.json").unlink()
    if missing == "a directory":
        (tmp_path / "state.json").mkdir()
    with a_registry(tmp_path) as registry:
        assert names(registry.meters) == ["A"]
        assert "backup" not in registry.notices[-1]
        assert "the 1 meters of state.json.bak are used" in registry.notices[-1]
        assert (tmp_path / "state.json.broken").is_dir() == (missing == "a directory")
        registry.add(a_registration("C"))
    assert names(stored(tmp_path).meters) == ["A", "C"]


def test_an_unreadable_spot_on_the_card_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_generations(tmp_path)
    read_bytes = Path.read_bytes

    def failing(file: Path) -> bytes:
        if file.name == "state.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_bytes(file)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with a_registry(tmp_path) as registry:
        assert names(registry.meters) == ["A"]
        assert registry.notices[0].startswith("state.json is damaged and was set aside as")


def test_two_damaged_files_leave_nothing_and_say_so_until_a_meter_is_registered(
    tmp_path: Path,
) -> None:
    two_generations(tmp_path)
    for file in ("state.json", "state.json.bak"):
        (tmp_path / file).write_text("{")
    last = (
        "No meters could be restored; register them again, or put back a copy of state.json and "
        "restart."
    )
    with a_registry(tmp_path) as registry:
        assert registry.meters == ()
        assert registry.notices == (
            "state.json is damaged and was set aside as state.json.broken.",
            "state.json.bak is damaged and was set aside as state.json.bak.broken.",
            last,
        )
    with a_registry(tmp_path) as registry:  # as systemd would restart it
        assert registry.notices == (
            "state.json.bak.broken was set aside as damaged earlier.",
            "state.json.broken was set aside as damaged earlier.",
            last,
        )
        registry.add(a_registration("A"))
    with a_registry(tmp_path) as registry:
        assert (names(registry.meters), registry.notices) == (["A"], ())


def test_what_was_set_aside_is_never_overwritten(tmp_path: Path) -> None:
    two_generations(tmp_path)
    for content in ("one", "two", "three"):
        (tmp_path / "state.json").write_text(content)
        with a_registry(tmp_path):
            pass
    kept = {file.name: file.read_text() for file in tmp_path.glob("*.broken*")}
    assert kept == {
        "state.json.broken": "one", "state.json.broken1": "two", "state.json.broken2": "three",
    }  # fmt: skip


def test_only_looking_changes_nothing(tmp_path: Path) -> None:
    two_generations(tmp_path)
    (tmp_path / "state.json").write_text("{")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert stored(tmp_path).notices[0] == "state.json is damaged and cannot be used."
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_file_of_a_newer_version_is_refused_and_untouched(tmp_path: Path) -> None:
    two_generations(tmp_path)
    content = b'{"version": 2, "entirely": "different"}'
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"state\.json: version: is of a newer dlm-edge"):
        Registry(tmp_path, LIBRARY, a_changed).open()
    assert (tmp_path / "state.json").read_bytes() == content
    assert not list(tmp_path.glob("*.broken"))
    (tmp_path / "state.json").unlink()
    with a_registry(tmp_path):
        pass  # the folder was let go of


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda entry: entry["registration"].update(meterType="gird"),
            "meters[1].registration.meterType: must be grid | building | solar | zone, not 'gird'; "
            "did you mean 'grid'?",
        ),
        (
            lambda entry: entry["registration"]["communication"]["registers"].update(power=-1),
            "meters[1].registration.communication.registers.power: must be 0 to 65,535, not -1",
        ),
        (
            lambda entry: entry["registration"].update(name="a"),
            "meters[1]: appears twice ('a'); delete one of them",
        ),
        (
            lambda entry: entry.update(slot=0),
            "meters[1].slot: is that of 'A' too; give another number, 0 or above",
        ),
        (
            lambda entry: entry.update(id="meter_1/2"),
            "meters[1].id: must be 'meter_' with letters and digits, not 'meter_1/2'",
        ),
        (
            lambda entry: entry["registration"]["communication"].update(transport="rtu-over-tcp"),
            "meters[1].registration.communication.transport: 127.0.0.1:502 is used as tcp by meter "
            "'A'; give the same transport",
        ),
    ],
    ids=["value", "register", "name twice", "slot twice", "id", "line"],
)
def test_a_stored_meter_that_is_not_valid_stops_the_start_with_its_fault(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], fault: str
) -> None:
    two_generations(tmp_path)
    file = tmp_path / "state.json"
    document = json.loads(file.read_bytes())
    change(document["meters"][1])
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as refused:
        stored(tmp_path)
    assert str(refused.value) == f"{file}: {fault}"


def test_all_faults_of_all_stored_meters_are_listed(tmp_path: Path) -> None:
    two_generations(tmp_path)
    file = tmp_path / "state.json"
    file.write_text(file.read_text().replace('"grid"', '"gird"').replace("1000", "1"))
    with pytest.raises(ConfigError) as refused:
        stored(tmp_path)
    assert {fault.path for fault in refused.value.faults} == {
        f"meters[{number}].registration.{key}"
        for number in (0, 1)
        for key in ("meterType", "pollInterval")
    }


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StateError, match=r"cannot be used \(.*give another --state-dir\."):
            Registry(folder, LIBRARY, a_changed).open()
        with pytest.raises(StateError, match=r"cannot be read \(Not a directory\)"):
            stored(folder)


def test_an_unreadable_file_is_said_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_generations(tmp_path)

    def refused(file: Path) -> bytes:  # permissions do not stop root, who may run the tests
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refused)
        with pytest.raises(StateError) as unreadable:
            Registry(tmp_path, LIBRARY, a_changed).open()
    assert str(unreadable.value) == (
        f"{tmp_path / 'state.json'} cannot be read (Permission denied); fix its permissions or "
        "give another --state-dir."
    )
    assert names(stored(tmp_path).meters) == ["A", "B"]


# --- Failing input and output ---------------------------------------------------------------------


class _Crash(BaseException):
    """The process ends here: nothing after it runs, as far as the disk can tell."""


class FailingOs:
    """Makes chosen calls of `os` fail, from number `first` on, `count` of them."""

    CALLS = ("open", "write", "fsync", "close", "replace", "unlink")

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, first: int, error: BaseException, count: int = 1
    ) -> None:
        self.calls: list[str] = []
        self._failing = range(first, first + count)
        self._error = error
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            failing = len(self.calls) in self._failing
            if name == "write":
                data = bytes(args[1])
                # All writes are short, and a failing one has written a part too.
                half = data[: max(1, len(data) // 2)]
                if failing:
                    real(args[0], half[:-1])
                    raise self._error
                return real(args[0], half)
            if failing:
                if name == "close":
                    real(*args)  # Linux lets go of the descriptor whatever close(2) says
                raise self._error
            return real(*args, **kwargs)

        return call

    @property
    def reached(self) -> bool:
        """Whether a call failed."""
        return len(self.calls) >= self._failing.start


def _change_add(registry: Registry) -> None:
    registry.add(a_registration("C"))


def _change_update(registry: Registry) -> None:
    registry.update(registry.meters[0].id, {"name": "A2"})


def _change_remove(registry: Registry) -> None:
    registry.remove(registry.meters[1].id)


CHANGES: dict[str, tuple[Callable[[Registry], None], list[str]]] = {
    "add": (_change_add, ["A", "B", "C"]),
    "update": (_change_update, ["A2", "B"]),
    "remove": (_change_remove, ["A"]),
}


def _numbered(folder: Path, generations: bool) -> Iterator[tuple[int, Path]]:
    """Folders for N = 1, 2, 3…, each with the same content."""
    for number in range(1, 200):
        copy = folder / str(number)
        copy.mkdir()
        if generations:
            two_generations(copy)
        yield number, copy
        shutil.rmtree(copy)
    pytest.fail("it never ran clean")


@pytest.mark.parametrize("change", CHANGES)
def test_whichever_call_fails_nothing_has_changed_and_the_next_change_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    act, after = CHANGES[change]
    for number, folder in _numbered(tmp_path, generations=True):
        with a_registry(folder) as registry:
            in_force = registry.meters
            with monkeypatch.context() as patch:
                failing = FailingOs(patch, number, OSError(errno.EIO, os.strerror(errno.EIO)))
                refused = None
                try:
                    act(registry)
                except StateError as exc:
                    refused = exc
            found = stored(folder)
            assert found.notices == ()
            if not failing.reached:
                assert refused is None
                assert names(found.meters) == names(registry.meters) == after
                return
            if refused is not None:
                assert "(Input/output error), so nothing was changed; " in str(refused), number
                assert registry.meters is in_force
                assert names(found.meters) == ["A", "B"], (number, failing.calls)
                act(registry)
            assert names(stored(folder).meters) == names(registry.meters) == after, number
            assert not list(folder.glob("*.tmp"))


def test_the_first_meter_of_all_is_stored_or_refused_whole_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, folder in _numbered(tmp_path, generations=False):
        with a_registry(folder) as registry:
            with monkeypatch.context() as patch:
                failing = FailingOs(patch, number, OSError(errno.EIO, os.strerror(errno.EIO)))
                with suppress(StateError):
                    registry.add(a_registration("A"))
            assert names(stored(folder).meters) == names(registry.meters), number
            assert stored(folder).notices == ()
            if not failing.reached:
                assert names(registry.meters) == ["A"]
                return


@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_that_fails_for_good_leaves_a_whole_state_and_no_false_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    act, after = CHANGES[change]
    for number, folder in _numbered(tmp_path, generations=True):
        with a_registry(folder) as registry:
            with monkeypatch.context() as patch:
                error = OSError(errno.EROFS, os.strerror(errno.EROFS))
                failing = FailingOs(patch, number, error, count=1000)
                refused = ""
                try:
                    act(registry)
                except StateError as exc:
                    refused = str(exc)
            on_disk = names(stored(folder).meters)
            if not failing.reached:
                assert on_disk == after
                return
            assert refused
            assert names(registry.meters) == ["A", "B"]
            if "so nothing was changed" in refused:
                assert on_disk == ["A", "B"]
            else:
                assert "nor be undone; it is not in force, but may be in state.json; " in refused
                assert on_disk == after


@pytest.mark.parametrize("change", CHANGES)
def test_a_process_that_ends_at_any_call_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    act, after = CHANGES[change]
    seen = set()
    for number, folder in _numbered(tmp_path, generations=True):
        with a_registry(folder) as registry, monkeypatch.context() as patch:
            failing = FailingOs(patch, number, _Crash())
            with suppress(_Crash):
                act(registry)
        found = stored(folder)
        assert found.notices == ()
        assert names(found.meters) in (["A", "B"], after)
        seen.add(tuple(names(found.meters)))
        backup = load_backup(folder)
        assert backup in (["A"], ["A", "B"]), "the backup is whole too"
        if not failing.reached:
            assert seen == {("A", "B"), tuple(after)}
            return


def load_backup(folder: Path) -> list[str]:
    """Names in the backup, as if the file itself were lost."""
    (folder / "state.json").unlink()
    return names(stored(folder).meters)


def test_all_is_synced_before_it_is_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that outlasts a power cut must not bring along data that did not."""
    two_generations(tmp_path)
    done: list[tuple[str, str]] = []
    files: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace")}

    def opened(path: Any, *args: Any, **kwargs: Any) -> Any:
        fd = real["open"](path, *args, **kwargs)
        files[fd] = Path(path).name
        return fd

    def synced(fd: int) -> None:
        done.append(("sync", files[fd]))
        real["fsync"](fd)

    def replaced(source: Path, target: Path) -> None:
        done.append(("rename to", target.name))
        real["replace"](source, target)

    with a_registry(tmp_path) as registry, monkeypatch.context() as patch:
        for name, fake in (("open", opened), ("fsync", synced), ("replace", replaced)):
            patch.setattr(os, name, fake)
        registry.add(a_registration("C"))
    assert done == [
        ("sync", "state.json.bak.tmp"), ("rename to", "state.json.bak"),
        ("sync", "state.json.tmp"), ("rename to", "state.json"),
        ("sync", tmp_path.name),
    ]  # fmt: skip


def test_a_damaged_file_that_cannot_be_set_aside_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_generations(tmp_path)
    (tmp_path / "state.json").write_text("{")

    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        with pytest.raises(StateError, match="cannot be set aside"):
            Registry(tmp_path, LIBRARY, a_changed).open()
    assert (tmp_path / "state.json").read_text() == "{"


# --- The real service -----------------------------------------------------------------------------


def test_a_full_disk_is_answered_with_507_and_changes_nothing(tmp_path: Path) -> None:
    """Every write of the process fails once `full` exists: the kernel's own answer is the same."""
    prelude = (
        "import errno, os, pathlib\n"
        "write = os.write\n"
        "def failing(fd, data):\n"
        f"    if pathlib.Path({str(tmp_path / 'full')!r}).exists() and fd > 2:\n"
        "        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "    return write(fd, data)\n"
        "os.write = failing\n"
    )
    with Service(tmp_path, prelude=prelude) as service:
        first = service.register(a_registration("A"))
        before = (service.state_dir / "state.json").read_bytes()
        (tmp_path / "full").touch()
        for method, path, body in (
            ("POST", "/api/energy-meters", a_registration("B")),
            ("PUT", f"/api/energy-meters/{first['id']}", {"name": "A2"}),
            ("DELETE", f"/api/energy-meters/{first['id']}", None),
        ):
            status, answer = service.request(method, path, body)
            assert (status, answer["code"], answer["success"]) == (507, "NOT_STORED", False)
            assert answer["error"] == (
                "The change could not be stored in state.json (No space left on device), so "
                "nothing was changed; free space or repair the disk, then try again."
            )
        assert (service.state_dir / "state.json").read_bytes() == before
        assert [meter["name"] for meter in service.data("/api/energy-meters")] == ["A"]
        (tmp_path / "full").unlink()
        service.register(a_registration("B"))
        assert names(stored(service.state_dir).meters) == ["A", "B"]
        assert service.stop() == 0


def test_two_services_on_one_folder(tmp_path: Path) -> None:
    with Service(tmp_path) as first:
        second = Service(tmp_path, arguments=("--state-dir", str(first.state_dir)))
        second.launch()
        assert second.exit_code() == 1
        assert second.log == (
            f"{first.state_dir} is used by another dlm-edge (process {first.process.pid}); stop "
            "it, or give another --state-dir.\n"
        )
        first.register(a_registration("A"))


KILLS = 25


class Books:
    """What the clients were told. kept: id to name of meters answered with 201 and not removed.

    removed: ids answered with 200. under_way: names that a change without an answer is about.
    """

    def __init__(self, kept: dict[str, str]) -> None:
        self.kept = kept
        self.removed: set[str] = set()
        self.under_way: set[str] = set()


def test_kill_9_at_any_moment_loses_no_meter_that_was_answered(tmp_path: Path) -> None:
    """Meters come and go until the service is killed, again and again, half the time mid-write.

    What was answered is kept; of what was under way, either is right.
    """
    rng = random.Random(2)
    service = Service(tmp_path)
    books = Books({})
    changes = 0
    for round_ in range(KILLS):
        service.start()
        assert service.data("/api/system")["notices"] == []
        shown = {meter["id"]: meter["name"] for meter in service.data("/api/energy-meters")}
        assert books.kept.items() <= shown.items(), "answered with 201, and lost"
        assert not books.removed & shown.keys(), "answered with 200, and back again"
        assert {shown[id_] for id_ in shown.keys() - books.kept.keys()} <= books.under_way
        books = Books(dict(shown))
        threads = [
            threading.Thread(target=_change_until_killed, args=(service, seed, books))
            for seed in (rng.random(), rng.random(), rng.random(), rng.random())
        ]
        threads.append(
            threading.Thread(target=_kill, args=(service, rng.uniform(0, 0.15), round_ % 2))
        )
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        changes += len(books.removed) + len(books.kept.keys() - shown.keys())
    assert changes > KILLS, "the clients changed too little for the test to mean anything"
    assert not list(service.state_dir.glob("*.broken*"))


def _kill(service: Service, after_s: float, in_a_write: bool) -> None:
    """Kill the service; in_a_write: as soon as a temporary file is seen."""
    time.sleep(after_s)
    deadline_s = time.monotonic() + 0.2
    temporary = [service.state_dir / f"state.json{ending}.tmp" for ending in ("", ".bak")]
    while in_a_write and time.monotonic() < deadline_s and not any(f.exists() for f in temporary):
        pass
    service.kill()


def _change_until_killed(service: Service, seed: float, books: Books) -> None:
    """Register and remove meters of its own, and keep books, until there are no answers any more.

    A meter leaves `kept` before its removal is asked for, which then may or may not come about.
    """
    rng = random.Random(seed)
    mine: list[str] = []
    with suppress(OSError, HTTPException):
        while True:
            name = f"Meter {rng.getrandbits(64)}"
            books.under_way.add(name)
            id_ = service.register(a_registration(name))["id"]
            books.kept[id_] = name
            mine.append(id_)
            if len(mine) > 1 and rng.random() < 0.5:
                gone = mine.pop(rng.randrange(len(mine)))
                books.under_way.add(books.kept.pop(gone))
                status, _ = service.request("DELETE", f"/api/energy-meters/{gone}")
                assert status == 200
                books.removed.add(gone)
