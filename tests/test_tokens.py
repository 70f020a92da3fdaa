"""Tokens: what is stored of them, who they let in, and a file that nobody can break open."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import tokenfile
from edge.__main__ import main
from edge.errors import StateError
from edge.tokenfile import LOCK_FILE, TOKENS_FILE, Role, check_name
from edge.tokens import LOCAL_FILE, MAX_TOKENS, Tokens
from tests.building import cheap_scrypts, modes_when_written
from tests.service import ROOT

NOW_MS = 1_760_956_200_000
NO_TOKEN = "dlm_00000000_" + "A" * 43


@pytest.fixture
def scrypts(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The salts of the hashes that were made, which cost next to nothing here."""
    return cheap_scrypts(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def document(folder: Path) -> Any:
    return json.loads((folder / TOKENS_FILE).read_text())


def mode(file: Path) -> int:
    return stat.S_IMODE(file.lstat().st_mode)


# --- What is stored ------------------------------------------------------------------------------


def test_a_token_is_stored_as_a_salted_hash_that_the_rfc_would_make(folder: Path) -> None:
    text = Tokens(folder).add("anna", Role.ADMIN, NOW_MS)
    _, id_, secret = text.split("_", 2)
    assert re.fullmatch(r"dlm_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", text)
    (entry,) = document(folder)["tokens"].values()
    expected = hashlib.scrypt(secret.encode(), salt=bytes.fromhex(entry["salt"]), n=16384, r=8, p=1)
    assert entry["hash"] == expected[:32].hex()
    assert entry["name"] == "anna"
    assert (entry["role"], entry["created"]) == ("admin", "2025-10-20T10:30:00.000Z")
    assert list(document(folder)["tokens"]) == [id_]
    assert secret not in (folder / TOKENS_FILE).read_text()


def test_what_is_stored_is_for_the_owner_alone_from_its_first_byte(
    folder: Path, scrypts: list[bytes]
) -> None:
    with modes_when_written() as seen:
        tokens = Tokens(folder)
        tokens.add("anna", Role.ADMIN, NOW_MS)
        tokens.issue_local()
    assert seen == [0o600, 0o600]
    assert mode(folder) == 0o700
    assert {file.name: mode(file) for file in folder.iterdir()} == {
        TOKENS_FILE: 0o600, LOCK_FILE: 0o600, LOCAL_FILE: 0o600,
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for someone else")
def test_what_root_adds_belongs_to_who_the_folder_belongs_to(
    folder: Path, scrypts: list[bytes]
) -> None:
    folder.mkdir()
    os.chown(folder, 4711, 4712)
    Tokens(folder).add("anna", Role.ADMIN, NOW_MS)
    owners = {(file.stat().st_uid, file.stat().st_gid) for file in folder.iterdir()}
    assert owners == {(4711, 4712)}


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-a", ".a", "a\n", "a\r\nSet-Cookie: x", "ä", "a" * 65, "a\x1b[2J", "(local)"],
)
def test_a_name_has_nothing_in_it_that_could_end_a_line(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64"):
        Tokens(folder).add(name, Role.ADMIN, NOW_MS)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["a", "Anna.M-2_x@site", "0" * 64])
def test_other_names_are_fine(name: str) -> None:
    check_name(name)


def test_a_name_is_there_once(folder: Path, scrypts: list[bytes]) -> None:
    tokens = Tokens(folder)
    tokens.add("anna", Role.ADMIN, NOW_MS)
    with pytest.raises(StateError, match="named 'ANNA' already"):
        tokens.add("ANNA", Role.READER, NOW_MS)
    with pytest.raises(StateError, match="No token is named 'bob'"):
        tokens.remove("bob")
    assert [token.name for token in tokens.all()] == ["anna"]


def test_there_is_an_end_to_how_many(folder: Path, scrypts: list[bytes]) -> None:
    tokens = Tokens(folder)
    for number in range(MAX_TOKENS):
        tokens.add(f"t{number}", Role.READER, NOW_MS)
    with pytest.raises(StateError, match=r"remove one first \(`dlm-edge token list`\)"):
        tokens.add("more", Role.READER, NOW_MS)
    assert len(tokens.all()) == MAX_TOKENS


# --- Who it is -----------------------------------------------------------------------------------


def test_a_token_is_known_by_its_secret_and_by_nothing_less(folder: Path) -> None:
    tokens = Tokens(folder)
    anna = tokens.add("anna", Role.ADMIN, NOW_MS)
    bob = tokens.add("bob", Role.READER, NOW_MS)
    found = tokens.verify(anna)
    assert found is not None
    assert (found.name, found.role) == ("anna", Role.ADMIN)
    other = tokens.verify(bob)
    assert other is not None
    assert (other.name, other.role) == ("bob", Role.READER)
    assert tokens.verify(anna[:13] + bob[13:]) is None, "one's id with another's secret"
    assert tokens.verify(anna[:-1] + ("A" if anna[-1] != "A" else "B")) is None
    assert tokens.verify(NO_TOKEN) is None


@given(st.text(max_size=80) | st.from_regex(r"dlm_[0-9a-f]{8}_[A-Za-z0-9_-]{42,44}"))
def test_nothing_else_is_a_token(text: str) -> None:
    tokens = Tokens(Path("/nonexistent"))
    assert tokens.verify(text[:50]) is None
    assert tokens.recall(text) is None
    assert tokens.claimed(text) is None
    assert not tokens.is_local(text)


def test_a_wrong_secret_costs_a_hash_and_an_unknown_id_none(
    folder: Path, scrypts: list[bytes]
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    scrypts.clear()
    assert tokens.verify(NO_TOKEN) is None
    assert not scrypts
    assert tokens.verify(text[:13] + "A" * 43) is None
    assert len(scrypts) == 1


def test_one_thread_makes_all_hashes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, names = Tokens(folder), set()
    text = tokens.add("anna", Role.ADMIN, NOW_MS)

    def noting(*_: Any, **__: Any) -> bytes:
        names.add(threading.current_thread().name)
        return b""

    monkeypatch.setattr(hashlib, "scrypt", noting)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tokens.verify, [text[:13] + "A" * 43] * 8))
        found += pool.map(Tokens(folder).verify, [text[:13] + "A" * 43] * 8)
    assert found == [None] * 16
    assert names == {"scrypt"}


def test_a_hash_that_cannot_be_made_is_told_to_who_needs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)

    def fails(*_: Any, **__: Any) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "scrypt", fails)
        with pytest.raises(MemoryError):
            tokens.verify(text)
    assert tokens.verify(text) is not None


CLIENTS = """
import sys, threading
from pathlib import Path
from edge.tokens import Tokens

def size_kb():
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])

tokens, end = Tokens(Path(sys.argv[1])), threading.Event()
before_kb = size_kb()
for _ in range(12):
    done = threading.Event()
    def ask(done=done):
        assert tokens.verify(sys.argv[2]) is None
        done.set()
        end.wait()
    threading.Thread(target=ask, daemon=True).start()
    done.wait()
print(size_kb() - before_kb)
"""


def test_wrong_tokens_of_many_clients_cost_the_memory_of_one(folder: Path) -> None:
    text = Tokens(folder).add("anna", Role.ADMIN, NOW_MS)
    command = [sys.executable, "-c", CLIENTS, str(folder), text[:13] + "A" * 43]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert 0 < int(ended.stdout) < 2 * 16 * 1024


def test_what_was_found_right_is_found_again_without_a_hash(
    folder: Path, scrypts: list[bytes]
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    assert tokens.recall(text) is None
    assert tokens.verify(text) is not None
    scrypts.clear()
    assert tokens.recall(text) == tokens.verify(text) == tokens.find(text[4:12])
    assert tokens.recall(text[:13] + "A" * 43) is None
    assert not scrypts


def test_a_claim_goes_by_the_id_alone(folder: Path, scrypts: list[bytes]) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    assert tokens.claimed(text[:13] + "A" * 43) == tokens.find(text[4:12])
    assert tokens.claimed(NO_TOKEN) is None


def test_a_change_by_another_process_is_seen_at_once(folder: Path, scrypts: list[bytes]) -> None:
    service, shell = Tokens(folder), Tokens(folder)
    assert not service.are_needed
    text = shell.add("anna", Role.ADMIN, NOW_MS)
    assert service.are_needed
    assert service.verify(text) is not None
    other = shell.add("bob", Role.READER, NOW_MS)
    assert service.recall(text) is not None, "it is as it was"
    key = service.session_key
    shell.remove("Anna")
    assert service.recall(text) is service.verify(text) is service.find(text[4:12]) is None
    assert service.verify(other) is not None
    assert service.session_key == key, "who is logged in stays so"
    shell.remove("bob")
    assert not service.are_needed


@pytest.mark.parametrize("changed", ["salt", "hash"])
def test_what_is_not_as_it_was_has_to_be_proved_again(
    folder: Path, scrypts: list[bytes], changed: str
) -> None:
    tokens = Tokens(folder)
    text, other = (tokens.add(name, Role.ADMIN, NOW_MS) for name in ("anna", "bob"))
    assert tokens.verify(text) is not None
    assert tokens.verify(other) is not None
    new = document(folder)
    new["tokens"][text[4:12]][changed] = "00" * 32
    (folder / TOKENS_FILE).write_text(json.dumps(new))
    assert tokens.recall(text) is tokens.verify(text) is None
    assert tokens.recall(other) is not None


def test_a_token_that_is_removed_while_its_hash_is_made_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    real = hashlib.scrypt

    def slow(*args: Any, **kwargs: Any) -> bytes:
        Tokens(folder).remove("anna")
        return real(*args, **kwargs)

    monkeypatch.setattr(hashlib, "scrypt", slow)
    assert tokens.verify(text) is None
    assert tokens.recall(text) is None


# --- The token of this run -----------------------------------------------------------------------


def test_who_may_read_the_folder_is_let_in_for_this_run(folder: Path) -> None:
    folder.mkdir()
    first, second = Tokens(folder), Tokens(folder)
    first.issue_local()
    text = (folder / LOCAL_FILE).read_text().strip()
    assert first.is_local(text)
    assert not first.is_local(text[:-1])
    assert first.verify(text) is None, "it is no stored token"
    assert not second.is_local(text), "of another run"
    second.issue_local()
    assert not second.is_local(text)
    assert not first.are_needed


def test_a_disk_that_takes_no_token_does_not_stop_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    tokens = Tokens(folder)

    def read_only(*_: Any, **__: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    tokens.issue_local()
    assert "local.token cannot be written (Read-only file system)" in caplog.text
    assert not tokens.is_local("")


def test_links_in_the_folder_lead_nowhere(folder: Path, scrypts: list[bytes]) -> None:
    folder.mkdir()
    victim = folder.parent / "victim"
    victim.write_text("precious")
    for name in (LOCAL_FILE, f"{LOCAL_FILE}.tmp", f"{TOKENS_FILE}.tmp"):
        (folder / name).symlink_to(victim)
    tokens = Tokens(folder)
    tokens.issue_local()
    tokens.add("anna", Role.ADMIN, NOW_MS)
    assert not (folder / LOCAL_FILE).is_symlink()
    (folder / LOCK_FILE).unlink()
    (folder / LOCK_FILE).symlink_to(victim)
    with pytest.raises(StateError, match="cannot be changed"):
        tokens.add("bob", Role.ADMIN, NOW_MS)
    assert victim.read_text() == "precious"


# --- A file that cannot be used opens nothing ----------------------------------------------------


def test_a_file_cut_at_any_length_lets_nobody_in_that_it_did_not(
    folder: Path, scrypts: list[bytes]
) -> None:
    text = Tokens(folder).add("anna", Role.ADMIN, NOW_MS)
    whole = (folder / TOKENS_FILE).read_bytes()
    for length in range(len(whole) - 1):
        (folder / TOKENS_FILE).write_bytes(whole[:length])
        tokens = Tokens(folder)
        assert tokens.are_needed, length
        assert tokens.fault.endswith("remove it and add the tokens again.")
        assert tokens.verify(text) is None
        assert tokens.session_key is None
        assert tokens.all() == ()
        with pytest.raises(StateError, match="is damaged"):
            tokens.add("bob", Role.ADMIN, NOW_MS)
    (folder / TOKENS_FILE).write_bytes(whole)
    assert tokens.verify(text) is not None, "it is read again"


def changed(**changes: Any) -> Callable[[Any], Any]:
    """A document with a change to the one entry that it has."""

    def change(document: Any) -> Any:
        ((id_, entry),) = document["tokens"].items()
        return {**document, "tokens": {id_: {**entry, **changes}}}

    return change


TWO_IDS = ("0" * 8, "1" * 8)
DAMAGES: dict[str, Callable[[Any], Any]] = {
    "a list": lambda document: [document],
    "null": lambda _: None,
    "newer": lambda document: {**document, "version": 2},
    "true for one": lambda document: {**document, "version": True},
    "no key": lambda document: {**document, "sessionKey": ""},
    "a short key": lambda document: {**document, "sessionKey": "00"},
    "tokens as a list": lambda document: {**document, "tokens": []},
    "an id that is none": lambda d: {**d, "tokens": {"x": next(iter(d["tokens"].values()))}},
    "a name twice": lambda d: {**d, "tokens": dict.fromkeys(TWO_IDS, *d["tokens"].values())},
    "another role": changed(role="owner"),
    "a name of two lines": changed(name="a\nb"),
    "no hash": changed(hash=None),
    "an empty hash": changed(hash=""),
    "a key too many": changed(more=1),
    "nested deeply": lambda _: json.loads("[" * 900 + "]" * 900),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_with_anything_wrong_lets_nobody_in(
    damage: str, folder: Path, scrypts: list[bytes]
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    entry = next(iter(document(folder)["tokens"].values()))
    damaged = DAMAGES[damage](document(folder))
    (folder / TOKENS_FILE).write_text(json.dumps(damaged))
    assert tokens.are_needed
    assert tokens.verify(text) is tokens.recall(text) is None
    assert str(folder / TOKENS_FILE) in tokens.fault
    assert entry["hash"] not in tokens.fault
    assert document(folder) == damaged, "and it stays as it is, for who mends it"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"1" * 100_000, bytes(2_000_000)])
def test_bytes_that_are_no_document_let_nobody_in(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / TOKENS_FILE).write_bytes(content)
    assert "it is not JSON" in Tokens(folder).fault


def test_a_file_that_went_away_lets_nobody_in_until_it_is_back(
    folder: Path, scrypts: list[bytes]
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    assert tokens.are_needed
    aside = (folder / TOKENS_FILE).rename(folder / "aside")
    assert tokens.verify(text) is None
    assert tokens.are_needed
    assert tokens.fault.endswith(
        "is gone; put it back, or restart the service to begin without tokens."
    )
    aside.rename(folder / TOKENS_FILE)
    assert tokens.verify(text) is not None
    assert not Tokens(folder / "other").are_needed


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "socket in the way of the folder"])
def test_what_is_no_file_lets_nobody_in(
    kind: str, folder: Path, tmp_path: Path, scrypts: list[bytes]
) -> None:
    elsewhere = Tokens(tmp_path / "elsewhere")
    text = elsewhere.add("mallory", Role.ADMIN, NOW_MS)
    folder.mkdir()
    file = folder / TOKENS_FILE
    if kind == "link":
        file.symlink_to(tmp_path / "elsewhere" / TOKENS_FILE)
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        folder.rmdir()
        folder.touch()
    tokens = Tokens(folder)
    assert tokens.are_needed
    assert tokens.verify(text) is None
    remedy = "let the service's account read it" if not folder.is_dir() else "put the file itself"
    assert tokens.fault.startswith(str(file))
    assert remedy in tokens.fault


def test_a_file_that_cannot_be_read_for_a_while_lets_nobody_in_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, scrypts: list[bytes]
) -> None:
    text = Tokens(folder).add("anna", Role.ADMIN, NOW_MS)
    tokens = Tokens(folder)

    def fails(*_: Any, **__: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        assert "Input/output error" in tokens.fault
        assert tokens.are_needed
    assert tokens.verify(text) is not None


def test_a_file_that_others_may_read_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, scrypts: list[bytes]
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    assert not tokens.fault
    assert not caplog.records
    (folder / TOKENS_FILE).chmod(0o640)
    assert tokens.verify(text) is not None
    assert tokens.recall(text) is not None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "chmod 600" in record.getMessage()


# --- Changes are whole ---------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_change_that_the_disk_does_not_take_changes_nothing(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch, scrypts: list[bytes]
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    before = (folder / TOKENS_FILE).read_bytes()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for change in (
            lambda: tokens.add("bob", Role.ADMIN, NOW_MS),
            lambda: tokens.remove("anna"),
        ):
            with pytest.raises(StateError, match="No space left on device"):
                change()
    assert (folder / TOKENS_FILE).read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == [TOKENS_FILE, LOCK_FILE]
    assert tokens.verify(text) is not None


def test_a_change_that_a_power_cut_may_undo_is_said_to_be_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, scrypts: list[bytes]
) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)

    def fails(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tokenfile, "sync_folder", fails)
    with pytest.raises(StateError, match="a power cut may undo that"):
        tokens.remove("anna")
    assert tokens.verify(text) is None


def test_processes_that_add_at_once_lose_nothing(folder: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from edge.tokenfile import Role\nfrom edge.tokens import Tokens\n"
        "for number in range(5):\n"
        f"    name = f'{{sys.argv[1]}}-{{number}}'\n"
        f"    Tokens(Path({str(folder)!r})).add(name, Role.READER, {NOW_MS})\n"
    )

    def add(name: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", program, name], cwd=ROOT, check=False, timeout=60
        ).returncode

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(add, "abcd")) == [0, 0, 0, 0]
    names = [token.name for token in Tokens(folder).all()]
    assert sorted(names) == [f"{name}-{number}" for name in "abcd" for number in range(5)]


def test_threads_see_whole_generations_only(folder: Path, scrypts: list[bytes]) -> None:
    tokens = Tokens(folder)
    text = tokens.add("anna", Role.ADMIN, NOW_MS)
    ended = False

    def ask() -> set[bool]:
        seen = set()
        while not ended:
            seen.add(tokens.verify(text) is not None)
        return seen

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        shell = Tokens(folder)
        for _ in range(50):
            shell.add("bob", Role.READER, NOW_MS)
            shell.remove("bob")
        ended = True
        assert [each.result() for each in asked] == [{True}] * 4


# --- The command ---------------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> int:
    return main(["token", *arguments, "--state-dir", str(folder)])


def test_a_token_is_printed_once_and_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(folder, "add", "--role", "admin", "anna") == 0
    out, err = capsys.readouterr()
    found = Tokens(folder).verify(out.removesuffix("\n"))
    assert found is not None
    assert (found.name, found.role) == ("anna", Role.ADMIN)
    assert "shown this once" in err
    assert command(folder, "add", "bob", "--role", "reader") == 0
    capsys.readouterr()
    assert command(folder, "list") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in listed] == [["anna", "admin"], ["bob", "reader"]]
    assert out[13:].strip() not in "".join(listed)


def test_the_last_token_is_removed_with_a_word_of_what_that_means(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("anna", "bob"):
        command(folder, "add", name, "--role", "reader")
    capsys.readouterr()
    assert command(folder, "remove", "anna") == 0
    out, err = capsys.readouterr()
    assert out.startswith("The token 'anna' is removed")
    assert not err
    assert command(folder, "remove", "bob") == 0
    assert "everyone on this machine is let in again" in capsys.readouterr().err
    assert command(folder, "list") == 0
    out, err = capsys.readouterr()
    assert not out
    assert "dlm-edge token add" in err


def test_a_token_that_nobody_would_be_asked_for_is_said_to_be_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_EDGE_API_ALLOW_UNAUTHENTICATED", "true")
    assert command(folder, "add", "anna", "--role", "reader") == 0
    assert "asks nobody for a token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("add", "anna"), "needs --role"),
        (("add", "--role", "admin"), "needs a NAME"),
        (("add", "a b", "--role", "admin"), "NAME must be 1 to 64 letters"),
        (("remove",), "needs a NAME"),
        (("remove", "anna", "--role", "admin"), "takes no --role"),
        (("list", "anna"), "takes no NAME"),
    ],
)
def test_flags_that_do_not_go_together_exit_2(
    arguments: tuple[str, ...], complaint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(folder, *arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("dlm-edge token: ")
    assert complaint in err
    assert not folder.exists()


@pytest.mark.parametrize(
    "arguments", [("list",), ("remove", "anna"), ("add", "anna", "--role", "admin")]
)
def test_a_damaged_file_exits_1_and_stays_as_it_is(
    arguments: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / TOKENS_FILE).write_text("{")
    assert command(folder, *arguments) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert "tokens.json is damaged" in err
    assert (folder / TOKENS_FILE).read_text() == "{"


def test_check_names_tokens_that_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / TOKENS_FILE).write_text("{")
    assert main(["check", "--state-dir", str(folder)]) == 2
    assert "tokens.json is damaged" in capsys.readouterr().err
