"""Documents into classes: strict types, and every fault at once with a path people recognise."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.checks import between, one_of, text
from edge.errors import Fault, Faulty
from edge.structure import (
    camel_case,
    key,
    keys_of,
    merge_patch,
    nearest,
    shown,
    structure,
    structure_sound,
    unknown_keys,
)


@attrs.frozen
class Wheel:
    """An inner table."""

    size: int = key(28, check=between(12, 36, "inch"))


@attrs.frozen
class Bicycle:
    """One of everything that a key can be."""

    name: str = key(check=text(10))
    gear_count: int = key(1, check=between(1, 30))
    weight: float = key(12.5, check=between(0.5, 50, "kg"))
    lights: bool = key(False)
    brake: str = key("rim", check=one_of("rim", "disc", "Coaster"))
    seat_height: float | None = key(None, check=between(50, 120, "cm"))
    maker: str = key("own")
    wheel: Wheel = key(attrs.Factory(Wheel))
    spares: dict[str, Wheel] = key(attrs.Factory(dict))
    lock: str | None = key(None, check=text(4), secret=True)


def faults_of(document: Any) -> dict[str, str]:
    with pytest.raises(Faulty) as caught:
        structure(Bicycle, document, camel_case)
    faults = caught.value.faults
    assert len({fault.path for fault in faults}) == len(faults)
    return {fault.path: fault.message for fault in faults}


def fault_of(**keys: Any) -> str:
    """The one fault of a document that has these keys."""
    ((path, message),) = faults_of({"name": "Tourer", **keys}).items()
    assert path == next(iter(keys))
    return message


def test_what_is_absent_or_null_takes_its_default() -> None:
    assert structure(Bicycle, {"name": "Tourer"}, camel_case) == Bicycle("Tourer")
    nulls = dict.fromkeys(keys_of(Bicycle, camel_case))
    assert structure(Bicycle, {**nulls, "name": "Tourer"}, camel_case) == Bicycle("Tourer")


def test_every_key_is_taken_over_under_its_outward_name() -> None:
    document = {
        "name": "Tourer",
        "gearCount": 3,
        "weight": 15,
        "lights": True,
        "brake": "disc",
        "seatHeight": 90,
        "maker": "us",
        "wheel": {"size": 26},
        "spares": {"inside": {"size": 20}, "in the car": {}},
        "lock": "1234",
    }
    assert list(keys_of(Bicycle, camel_case)) == list(document)
    bicycle = structure(Bicycle, document, camel_case)
    spares = {"inside": Wheel(20), "in the car": Wheel(28)}
    assert bicycle == Bicycle(
        "Tourer", 3, 15.0, True, "disc", 90.0, "us", Wheel(26), spares, "1234"
    )
    assert type(bicycle.weight) is float


def test_all_faults_come_at_once_with_their_paths() -> None:
    assert faults_of(
        {
            "gearCount": 99,
            "weight": "light",
            "lights": 1,
            "brake": "disk",
            "seatHeight": 3,
            "wheel": {"size": 5, "spokes": 32},
            "spares": {"one": {"size": 37}, "two": 26, "three": {"width": 1}},
            "gearcount": 3,
        }
    ) == {
        "name": "is missing; give it",
        "gearCount": "must be 1 to 30, not 99",
        "weight": "must be a number, not 'light'",
        "lights": "must be true or false, not 1",
        "brake": "must be rim | disc | Coaster, not 'disk'; did you mean 'disc'?",
        "seatHeight": "must be 50 to 120 cm, not 3.0",
        "wheel.size": "must be 12 to 36 inch, not 5",
        "wheel.spokes": "unknown key; known here: size",
        "spares.one.size": "must be 12 to 36 inch, not 37",
        "spares.two": "must be a table or object, not 26",
        "spares.three.width": "unknown key; known here: size",
        "gearcount": "unknown key; did you mean 'gearCount'?",
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", "must be a whole number, not '3'"),
        (True, "must be a whole number, not true"),
        (2.5, "must be a whole number, not 2.5"),
        (float("nan"), "must be a whole number, not nan"),
        (float("inf"), "must be a whole number, not so large a number"),
        ([3], "must be a whole number, not a list"),
        ({}, "must be a whole number, not a table or object"),
        (0, "must be 1 to 30, not 0"),
        pytest.param(10**5000, "must be 1 to 30, not so large a number", id="5001 digits"),
        (1e300, "must be 1 to 30, not so large a number"),
    ],
)
def test_a_whole_number_is_nothing_else(value: object, message: str) -> None:
    assert fault_of(gearCount=value) == message


def test_a_whole_number_may_be_written_with_a_point() -> None:
    gears = structure(Bicycle, {"name": "Tourer", "gearCount": 3.0}, camel_case).gear_count
    assert (gears, type(gears)) == (3, int)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("12", "must be a number, not '12'"),
        (False, "must be a number, not false"),
        (float("nan"), "must be a finite number"),
        (float("-inf"), "must be a finite number"),
        (10**400, "must be a finite number"),
        (51, "must be 0.5 to 50 kg, not 51.0"),
    ],
)
def test_a_number_is_finite_and_in_range(value: object, message: str) -> None:
    assert fault_of(weight=value) == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "must be text, not 5"),
        (" \t", "must not be empty"),
        ("x" * 11, "must be at most 10 characters, not 11"),
        ("two\nlines", "must be printable text without line breaks or control characters"),
        ("half \ud800", "must be printable text without line breaks or control characters"),
    ],
)
def test_text_is_printable_and_not_too_long(value: object, message: str) -> None:
    assert fault_of(name=value) == message


@pytest.mark.parametrize("document", [None, 5, "name", [], [{"name": "Tourer"}], True])
def test_a_document_that_is_no_table_is_one_fault(document: object) -> None:
    (message,) = faults_of(document).values()
    assert message == f"must be a table or object, not {shown(document)}"


def test_an_inner_table_must_be_one_too() -> None:
    assert fault_of(wheel=28) == "must be a table or object, not 28"


def test_the_nearest_key_is_found_whatever_its_capitals() -> None:
    assert fault_of(SEATHEIGHT=90) == "unknown key; did you mean 'seatHeight'?"
    assert fault_of(brake="coaster") == (
        "must be rim | disc | Coaster, not 'coaster'; did you mean 'Coaster'?"
    )


def test_a_key_like_no_other_gets_the_list_of_those_there_are() -> None:
    assert fault_of(xyz=1) == (
        "unknown key; known here: brake, gearCount, lights, lock, maker, name, seatHeight, spares, "
        "weight, wheel"
    )


def test_keys_that_are_made_alike_are_known_too_but_not_listed() -> None:
    faults = unknown_keys(
        ["colour", "leftwhel"], ["name"], "", {"<side>Wheel": ["leftWheel", "rightWheel"]}
    )
    assert list(faults) == [
        Fault("colour", "unknown key; known here: name, <side>Wheel"),
        Fault("leftwhel", "unknown key; did you mean 'leftWheel'?"),
    ]


def test_a_document_full_of_unknown_keys_gets_few_faults() -> None:
    faults = list(unknown_keys((f"key{n:04}" for n in range(5000)), ["name"], "inner"))
    assert len(faults) == 21
    assert faults[0] == Fault("inner.key0000", "unknown key; known here: name")
    assert faults[-1] == Fault("inner", "4980 more unknown keys; leave them out")


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(), max_size=80) | st.sampled_from(list(keys_of(Bicycle, camel_case))),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
            max_leaves=5,
        ),
    )
)
def test_any_document_is_taken_or_named_faulty_in_printable_words(document: dict[str, Any]) -> None:
    try:
        bicycle = structure(Bicycle, document, camel_case)
    except Faulty as exc:
        for fault in exc.faults:
            assert str(fault).isprintable()
            assert len(str(fault)) < 400
    else:
        assert 1 <= bicycle.gear_count <= 30
        assert 12 <= bicycle.wheel.size <= 36


def test_what_is_sound_can_be_had_beside_the_faults() -> None:
    document = {
        "gearCount": 99,
        "weight": 20,
        "wheel": {"size": 5},
        "spares": {"good": {"size": 20}, "bad": {"size": 5}, "none": 5},
        "colour": "red",
    }
    bicycle, faults = structure_sound(Bicycle, document, camel_case, {"name": "?"})
    assert bicycle == Bicycle("?", weight=20, spares={"good": Wheel(20), "bad": Wheel()})
    assert {fault.path for fault in faults} == {
        "name", "gearCount", "wheel.size", "spares.bad.size", "spares.none", "colour",
    }  # fmt: skip


@pytest.mark.parametrize("spares", [5, "x", [], [{}], True])
def test_a_table_of_tables_is_one(spares: object) -> None:
    assert fault_of(spares=spares) == f"must be a table or object, not {shown(spares)}"
    bicycle, _ = structure_sound(Bicycle, {"name": "x", "spares": spares}, camel_case)
    assert bicycle == Bicycle("x")


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(), max_size=80),
        st.sampled_from([None, 5, {}, {"size": 20}, {"size": 5}, {"size": None}, {"x": 1}]),
    )
)
def test_of_any_table_of_tables_the_sound_part_can_be_had(spares: dict[str, Any]) -> None:
    bicycle, faults = structure_sound(Bicycle, {"name": "x", "spares": spares}, camel_case)
    assert bicycle is not None
    assert set(bicycle.spares) <= set(spares)
    assert all(str(fault).isprintable() for fault in faults)
    if not faults:
        assert set(bicycle.spares) == set(spares)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (73571, "must be text"),
        ([73571], "must be text"),
        ("73571", "must be at most 4 characters, not 5"),
        ("7\n", "must be printable text without line breaks or control characters"),
    ],
)
def test_a_secret_is_not_shown(value: object, message: str) -> None:
    assert fault_of(lock=value) == message
    assert "735" not in repr(structure(Bicycle, {"name": "x", "lock": "7357"}, camel_case))


def test_the_nearest_of_some_choices_ends_a_sentence() -> None:
    assert nearest("abb-b32", ["abb-b23", "wago-879"]) == "; did you mean 'abb-b23'?"
    assert nearest("xyz", ["abb-b23"]) == ""
    assert nearest("abb-b23", []) == ""


def test_a_sound_document_has_no_faults_beside_it() -> None:
    assert structure_sound(Bicycle, {"name": "Tourer"}, camel_case) == (Bicycle("Tourer"), ())


def test_of_what_is_no_table_nothing_is_sound() -> None:
    none, faults = structure_sound(Bicycle, [], camel_case, {"name": "?"})
    assert none is None
    assert len(faults) == 1


def test_a_bug_in_a_check_is_not_taken_for_a_fault_of_the_document() -> None:
    def broken(_value: Any) -> None:
        raise AttributeError("a bug")

    @attrs.frozen
    class Broken:
        name: str = key(check=broken)

    with pytest.raises(AttributeError, match="a bug"):
        structure(Broken, {"name": "x"})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null"),
        (True, "true"),
        (65536, "65,536"),
        (1.5, "1.5"),
        (-(10**20), "so large a number"),
        ("it's", '"it\'s"'),
        ("a\nb", r"'a\nb'"),
        ("x" * 61, "'" + "x" * 60 + "…'"),
        ({"a": 1}, "a table or object"),
        ([], "a list"),
    ],
)
def test_values_are_said_as_they_were_given_but_short(value: object, said: str) -> None:
    assert shown(value) == said


# --- Merge patch ---


@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_as_in_appendix_a_of_rfc_7396(original: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy((original, patch))
    assert merge_patch(original, patch) == result
    assert (original, patch) == before


def merged_as_the_rfc_says(target: Any, patch: Any) -> Any:
    """The pseudo code of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merged_as_the_rfc_says(target.get(name), value)
    return target


tables = st.recursive(
    st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner),
)


@settings(deadline=None)
@given(tables, tables)
def test_merge_patch_as_in_section_2_of_rfc_7396(original: Any, patch: Any) -> None:
    before = copy.deepcopy((original, patch))
    assert merge_patch(original, patch) == merged_as_the_rfc_says(original, patch)
    assert (original, patch) == before
