"""The device library: which files count, what is wrong with them, and that ours are sound."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edge import library as library_module
from edge.errors import ConfigError
from edge.library import BUILT_IN, Library, Listing
from edge.meterspec import References, parse_meter
from edge.template import expand

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WIRE = Path(__file__).resolve().parent / "wire"
FILE = """
title = "{title}"
maker = "Maker"
models = ["One"]
protocol = "mqtt"
source = "a document"
communication = {{ topicPower = "a/power" }}
"""


def folder_with(folder: Path, **titles: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, title in titles.items():
        file = folder / f"{name.replace('_', '-')}.toml"
        file.write_text(FILE.format(title=title), encoding="utf-8")
    return folder


@pytest.fixture
def user(tmp_path: Path) -> Path:
    return folder_with(tmp_path / "user", maker_one="Mine", maker_two="Two")


@pytest.fixture
def built_in(tmp_path: Path) -> Path:
    return folder_with(tmp_path / "built-in", maker_one="Theirs", maker_three="Three")


def refused(call: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value


# --- Folders and files ---


def test_a_users_file_stands_before_the_built_in_one(user: Path, built_in: Path) -> None:
    library = Library([user, built_in])
    assert library.names() == tuple(library) == ("maker-one", "maker-three", "maker-two")
    assert len(library) == 3
    assert {name: template.title for name, template in library.items()} == {
        "maker-one": "Mine", "maker-three": "Three", "maker-two": "Two",
    }  # fmt: skip


def test_a_file_is_read_once_and_only_when_it_is_asked_for(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    read_template = library_module._read_template

    def counted(file: Path) -> Any:
        read.append(file.stem)
        return read_template(file)

    monkeypatch.setattr(library_module, "_read_template", counted)
    library = Library([user])
    assert "maker-one" in library
    assert read == []
    assert library["maker-one"] is library["maker-one"]
    assert read == ["maker-one"]
    library.listing()
    assert sorted(read) == ["maker-one", "maker-two"]


def test_all_threads_get_the_same_object(user: Path) -> None:
    library = Library([user])
    start, got = threading.Barrier(8), []

    def ask() -> None:
        start.wait(timeout=10)
        got.append(library["maker-one"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(got) == 8
    assert all(template is got[0] for template in got)


def test_a_file_that_is_put_there_later_is_found(user: Path) -> None:
    library = Library([user])
    folder_with(user, maker_late="Late")
    assert library["maker-late"].title == "Late"
    assert "maker-late" in library.names()


@pytest.mark.parametrize(
    "name",
    ["maker-none", "", "../user/maker-one", "maker-one.toml", "Maker-One", "maker_one", "a/b", ".",
     "..", "maker-one\x00", "maker-one\n", "x" * 65, "x" * 5000],
)  # fmt: skip
def test_a_name_that_is_none_is_not_there(user: Path, name: str) -> None:
    library = Library([user])
    folder_with(user, MAKER="Shouting")
    assert name not in library
    with pytest.raises(KeyError):
        library[name]


def test_a_folder_that_is_not_there_is_a_fault_of_the_configuration(user: Path) -> None:
    missing = user / "nothing"
    (fault,) = refused(lambda: Library([missing, user])).faults
    assert fault.path == str(missing)
    assert "No such file or directory" in fault.message
    assert "not a directory" in str(refused(lambda: Library([user / "maker-one.toml"]))).lower()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"title = ", "is not valid TOML"),
        (b"title = 1" + b"0" * 5000, "is not valid TOML"),
        (b"\xff", "is not UTF-8 text; save it as UTF-8"),
        (b"a = " + b"[" * 100_000, "is n"),  # nested too deeply, or no valid TOML
        (b"communication." + b"a." * 3000 + b"a = 1", "is nested too deeply"),
        (b"title = ''\ncolour = 1", "title: must not be empty"),
    ],
)
def test_a_faulty_file_is_named_with_all_that_is_wrong(
    user: Path, content: bytes, words: str
) -> None:
    file = user / "maker-one.toml"
    file.write_bytes(content)
    library = Library([user])
    error = refused(lambda: library["maker-one"])
    assert error.source == str(file)
    assert words in str(error)
    listing = library.listing()
    assert [template.name for template in listing.templates] == ["maker-two"]
    assert len(listing.faults) == len(error.faults)
    assert all(fault.path.startswith(str(file)) for fault in listing.faults)


def test_a_faulty_file_of_the_user_does_not_give_way_to_the_built_in_one(
    user: Path, built_in: Path
) -> None:
    (user / "maker-one.toml").write_text("title = ", encoding="utf-8")
    library = Library([user, built_in])
    assert refused(lambda: library["maker-one"]).source == str(user / "maker-one.toml")


def test_a_file_that_was_mended_is_read_again(user: Path) -> None:
    (user / "maker-one.toml").write_text("title = ", encoding="utf-8")
    library = Library([user])
    refused(lambda: library["maker-one"])
    folder_with(user, maker_one="Mended")
    assert library["maker-one"].title == "Mended"


def test_what_is_no_file_to_read_is_named(user: Path) -> None:
    (user / "maker-folder.toml").mkdir()
    assert "cannot be read" in str(refused(lambda: Library([user])["maker-folder"]))


@pytest.mark.parametrize("name", ["maker-one", "maker-two"])
def test_a_pipe_or_a_device_is_named_and_never_waited_for(
    user: Path, built_in: Path, name: str
) -> None:
    file = user / f"{name}.toml"
    file.unlink()
    if name == "maker-one":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    library = Library([user, built_in])
    listings: list[Listing] = []
    thread = threading.Thread(target=lambda: listings.append(library.listing()), daemon=True)
    thread.start()
    thread.join(timeout=10)
    (fault,) = listings[0].faults
    assert fault.path == str(file)
    assert "no regular file" in fault.message


def test_a_file_of_more_than_1_mib_is_not_read(user: Path) -> None:
    file = user / "maker-one.toml"
    content = file.read_bytes()
    file.write_bytes(content + b"#" * (1024 * 1024 - len(content)))
    assert Library([user])["maker-one"].title == "Mine"
    file.write_bytes(content + b"#" * (1024 * 1024 + 1 - len(content)))
    assert "larger than 1 MiB" in str(refused(lambda: Library([user])["maker-one"]))


def test_a_link_to_nothing_does_not_give_way_to_the_built_in_file(
    user: Path, built_in: Path
) -> None:
    link = user / "maker-three.toml"
    link.symlink_to(user / "unmounted" / "maker-three.toml")
    library = Library([user, built_in])
    error = refused(lambda: library["maker-three"])
    assert error.source == str(link)
    assert "links to a file that is not there" in str(error)
    assert [fault.path for fault in library.listing().faults] == [str(link)]


def test_a_link_to_a_file_is_as_good_as_the_file(user: Path, tmp_path: Path) -> None:
    (user / "maker-two.toml").rename(tmp_path / "elsewhere.toml")
    (user / "maker-two.toml").symlink_to(tmp_path / "elsewhere.toml")
    assert Library([user])["maker-two"].title == "Two"


def test_a_byte_order_mark_does_no_harm(user: Path) -> None:
    file = user / "maker-one.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert Library([user])["maker-one"].title == "Mine"


def test_the_listing_tells_of_a_file_whose_name_is_none(user: Path) -> None:
    folder_with(user, Maker_One="Capitals")
    (user / "README.md").write_text("no template", encoding="utf-8")
    (fault,) = Library([user]).listing().faults
    assert fault.path == str(user / "Maker-One.toml")
    assert "rename it" in fault.message


# --- What comes with the package ---

LIBRARY = Library()
NAMES = LIBRARY.names()
BESIDE: Mapping[str, dict[str, Any]] = {"modbus": {"host": "192.0.2.1"}, "mqtt": {}, "http": {}}
"""What a registration needs beside the template and its parameters."""


def test_the_built_in_folder_holds_nothing_that_cannot_be_used() -> None:
    listing = LIBRARY.listing()
    assert not listing.faults
    assert tuple(template.name for template in listing.templates) == NAMES
    assert {file.stem for file in BUILT_IN.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_a_complete_communication(name: str) -> None:
    template = LIBRARY[name]
    examples = {key: value.example for key, value in template.parameters.items()}
    communication = {"template": name, **examples, **BESIDE[template.protocol]}
    for meter_type in template.meter_types or ("grid",):
        registration = {
            "name": "Any",
            "protocol": template.protocol,
            "meterType": meter_type,
            "communication": communication,
        }
        meter = parse_meter(registration, "meter_1", 0, References(LIBRARY))
        assert meter.protocol == template.protocol
    written_out, faults = expand(template, communication)
    assert not faults
    alone = {**registration, "communication": written_out}
    assert parse_meter(alone, "meter_1", 0, References()).communication == meter.communication


def test_titles_tell_the_templates_apart_and_caveats_are_sentences() -> None:
    templates = LIBRARY.values()
    assert len({template.title for template in templates}) == len(templates)
    for template in templates:
        for sentence in template.caveats:
            assert sentence.endswith("."), f"{template.name}: {sentence}"


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_its_proof(name: str) -> None:
    cases = sorted((WIRE / name).glob("*.toml"))
    assert cases, f"no recorded case in tests/wire/{name}/"
    protocol = LIBRARY[name].protocol
    talk = {"modbus": "exchange", "mqtt": "message", "http": "response"}[protocol]
    if "sunspec" in LIBRARY[name].communication:
        talk = "registers"
    values = 0
    for case in cases:
        document = tomllib.loads(case.read_text(encoding="utf-8"))
        assert document.keys() == {"source", "communication", talk, "expected"}, case
        assert document[talk], case
        _, faults = expand(LIBRARY[name], document["communication"])
        assert not faults, case
        values += len(document["expected"])
    assert values, f"no value is expected anywhere in tests/wire/{name}/"


def test_no_proof_is_left_of_a_template_that_is_gone() -> None:
    assert {folder.name for folder in WIRE.iterdir()} <= set(NAMES)
