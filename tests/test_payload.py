"""Payloads into the right values, none, or one clear sentence; and nothing else, whatever comes."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import tracemalloc
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.communication import Field
from edge.errors import BadReply
from edge.model import QUANTITY_NAMES
from edge.paths import LONGEST_PATH, check_path
from edge.payload import (
    NAMED,
    NAMES,
    likely_path,
    names_in,
    numbers,
    read,
    read_parts,
    shown,
    supersedes,
    word,
)

MILLI = Fraction(1, 1000)
DEEP = 100_000


def power(payload: bytes | str, **keys: Any) -> float | None:
    """What a payload says of power; it must say something."""
    raw = payload.encode() if isinstance(payload, str) else payload
    return read(raw, [Field("power", **keys)])["power"]


def reason(payload: bytes, *fields: Field) -> str:
    """Why a payload is unreadable."""
    with pytest.raises(BadReply) as caught:
        read(payload, fields or [Field("power")])
    return str(caught.value)


# --- One number ---


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        ("25.5", 25.5),
        (" 25.5\r\n", 25.5),
        ("-718.6", -718.6),
        ("+3", 3.0),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1.5e3", 1500.0),
        ('"25.5"', 25.5),
        ('" 25.5 "', 25.5),
        ("25.5 kW", 25.5),
        ("25.5kW", 25.5),
        ("25.5 KW", 25.5),
        ("1543.27 W", 1.54327),
        ('"1543.27 W"', 1.54327),
        ("2 MW", 2000.0),
        ("25,5", 25.5),
        ("20481,307", 20481.307),
        ("0,307", 0.307),
        ("-12,25 kW", -12.25),
        ("\ufeff25.5", 25.5),
        ("\ufeff25.5 kW", 25.5),
    ],
)
def test_a_number_with_or_without_unit_and_quotes(payload: str, value: float) -> None:
    assert power(payload) == value


@pytest.mark.parametrize(
    ("quantity", "payload", "value"),
    [
        ("energy", "4120933.6 Wh", 4120.9336),
        ("energy", "15420.5 kWh", 15420.5),
        ("energy", "1.5 MWh", 1500.0),
        ("voltage", "230.2 V", 230.2),
        ("voltageL1", "10.5 kV", 10500.0),
        ("current", "6710 mA", 6.71),
        ("currentL3", "6.71A", 6.71),
        ("frequency", "50.02 Hz", 50.02),
        ("reactivePower", "-212.4 var", -0.2124),
        ("reactivePower", "1.5 kvar", 1.5),
        ("apparentPower", "741.4 VA", 0.7414),
        ("apparentPower", "0.7 kVA", 0.7),
        ("powerFactor", "0.99", 0.99),
    ],
)
def test_a_unit_is_converted_to_that_of_the_quantity(
    quantity: str, payload: str, value: float
) -> None:
    assert read(payload.encode(), [Field(quantity)]) == {quantity: value}


@pytest.mark.parametrize("payload", ["1 kWh", "1 V", "1 mw", "1 kvar", "1 %", "1 horses", "1 WW"])
def test_a_unit_that_does_not_fit_is_unreadable(payload: str) -> None:
    assert "power" in reason(payload.encode())


def test_a_ratio_has_no_unit() -> None:
    assert "plain number" in reason(b"99 W", Field("powerFactor"))


@pytest.mark.parametrize("payload", ["1,234", "12,345", "-123,456", "1.234,5", "1,234.5", ",5"])
def test_a_comma_that_may_mean_thousands_is_never_guessed(payload: str) -> None:
    assert reason(payload.encode()).startswith(f"Payload '{payload}' is unreadable")


WORDS = ["unavailable", "unknown", "none", "null", "", "nan", "NaN", "-nan", "inf", "-Infinity"]


@pytest.mark.parametrize("word", [*WORDS, " \t\n", "UNAVAILABLE", "Unknown", "None"])
def test_no_value_is_none_and_never_zero(word: str) -> None:
    assert power(word) is None
    assert power(json.dumps(word)) is None
    assert power(json.dumps({"power": word})) is None
    assert power(json.dumps({"a": word}), path="a") is None


@pytest.mark.parametrize("constant", ["null", "NaN", "Infinity", "-Infinity"])
def test_no_value_in_json_is_none(constant: str) -> None:
    assert power(f'{{"power": {constant}}}') is None
    assert power(f'{{"a": [{constant}]}}', path="a[0]") is None


def test_no_value_at_all_is_none_for_every_field() -> None:
    fields = [Field("power", "a"), Field("voltage")]
    assert read(b"unavailable", fields) == {"power": None, "voltage": None}


def test_a_number_is_for_the_only_field_without_a_path() -> None:
    assert read(b"25.5", [Field("power"), Field("voltage", "v")]) == {"power": 25.5}
    assert "several quantities" in reason(b"25.5", Field("power"), Field("voltage"))
    assert "path" in reason(b"25.5 kW", Field("power", "a"))


# --- Factors ---


def test_the_given_scale_multiplies_the_number_and_nothing_else_does() -> None:
    assert power("1543.27", scale=MILLI, assumed=Fraction(7)) == 1.54327
    assert power("1543.27 W", scale=MILLI) == 1.54327
    assert power('{"power_kw": 1543.27}', scale=MILLI) == 1.54327
    assert power('{"power": "1543.27 W"}', scale=MILLI) == 1.54327
    assert power('{"a": 5}', path="a", scale=Fraction(1)) == 5


def test_a_unit_wins_over_what_is_assumed() -> None:
    assert power("1543.27", assumed=MILLI) == 1.54327
    assert power("1.5 kW", assumed=MILLI) == 1.5
    assert power('{"a": "1.5 kW"}', path="a", assumed=MILLI) == 1.5


def test_a_name_with_a_unit_wins_over_what_is_assumed() -> None:
    assert power('{"power_kw": 1.5}', assumed=MILLI) == 1.5
    assert power('{"power": 1543.27}', assumed=MILLI) == 1.54327
    assert read(b'{"total_kwh": 5}', [Field("energy", assumed=MILLI)]) == {"energy": 5}
    assert read(b'{"total_kwh": "5 Wh"}', [Field("energy", assumed=MILLI)]) == {"energy": 0.005}


def test_factors_are_exact() -> None:
    tiny = Field("energy", "values.energy", scale=Fraction(1, 10**10))
    assert read(b'{"values": {"energy": 123456789012345}}', [tiny]) == {"energy": 12345.6789012345}


# --- Documents ---


def test_the_known_names() -> None:
    document = {
        "activePower": "1.5", "totalEnergy": 7, "voltage": 230, "current": 6.5,
        "powerFactor": 0.9, "frequency": 50, "power_l1": 1, "energyExport": 2,
    }  # fmt: skip
    fields = [Field(name) for name in QUANTITY_NAMES]
    assert read(json.dumps(document).encode(), fields) == {
        "power": 1.5, "energy": 7, "voltage": 230, "current": 6.5, "powerFactor": 0.9,
        "frequency": 50, "powerL1": 1, "energyExport": 2,
    }  # fmt: skip
    assert NAMES.keys() == set(QUANTITY_NAMES)


def test_the_first_known_name_is_taken() -> None:
    assert power('{"power": 1543, "power_kw": 1.543}') == 1.543
    assert power('{"power": 1543, "power_kw": null}') is None


def test_a_group_under_a_known_name_is_not_that_quantity() -> None:
    assert read(b'{"energy": {"total": 5}, "totalEnergy": 6}', [Field("energy")]) == {"energy": 6}
    assert read(b'{"power": [1, 2]}', [Field("power")]) == {}


def test_fill_gives_what_else_is_named_and_readable() -> None:
    payload = b'{"power_kw": 25.5, "voltage": 230.2, "current": null, "frequency": "often"}'
    named = {"power": 25.5, "voltage": 230.2, "current": None}
    assert read(payload, [Field("power")], fill=True) == named
    assert read(payload, [Field("power")]) == {"power": 25.5}
    assert read(b"25.5", [Field("power")], fill=True) == {"power": 25.5}


def test_fill_never_gives_what_devices_name_alike_and_mean_differently() -> None:
    # Net power with its export beside it, or import and export: the names do not tell.
    payload = b'{"power": -2.0, "power_export": 2.0, "powerL1": 1, "energyExport": 3}'
    assert read(payload, [Field("power")], fill=True) == {"power": -2.0}
    everything = json.dumps({name: 1 for names in NAMES.values() for name in names}).encode()
    assert read(everything, [Field("power")], fill=True).keys() == set(NAMED)
    asked = [Field("power"), Field("powerExport")]
    assert read(payload, asked, fill=True) == {"power": -2.0, "powerExport": 2.0}


def test_what_is_asked_for_must_be_readable() -> None:
    assert "frequency" in reason(b'{"power": 1, "frequency": "often"}', Field("frequency"))


def test_the_readable_part_of_a_document_is_given_beside_the_error() -> None:
    fields = [Field("power"), Field("voltage"), Field("current", "a..")]
    values, error = read_parts(b'{"power": 1, "voltage": "on"}', fields)
    assert values == {"power": 1}
    assert "voltage is neither" in str(error)
    assert read_parts(b'{"power": 1}', fields[:2]) == ({"power": 1}, None)
    for whole in (b"25.5", b"25.5 kW", b"on", b"[1]", b'{"power": 1, "power": 1}'):
        values, error = read_parts(whole, fields[:2])
        assert values == {}
        assert error is not None


@pytest.mark.parametrize(
    ("payload", "path", "expected"),
    [
        ('{"id": 0, "act_power": -718.6}', "act_power", {"power": -718.6}),
        ('{"em1:0": {"act_power": 5}}', '"em1:0".act_power', {"power": 5}),
        ('[{"pwr": 1864}]', "[0].pwr", {"power": 1864}),
        ("[[1234.5]]", "[0][0]", {"power": 1234.5}),
        ('{"cnt": "20481,307"}', "cnt", {"power": 20481.307}),
        ('{"a": "1.284"}', "to_number(a)", {"power": 1.284}),
        ('{"a": "1", "b": "2.5"}', "sum([to_number(a), to_number(b)])", {"power": 3.5}),
        ('{"c": [{"t": "n", "w": 5}]}', "c[?t=='n'] | [0].w", {"power": 5}),
        # There, but without a value:
        ('{"value": null}', "value", {"power": None}),
        ('{"a": {"b": null}}', "a.b", {"power": None}),
        ('{"a": null}', "a.b", {"power": None}),
        ('{"a": "unavailable"}', "to_number(a)", {"power": None}),
        ('{"c": [{"t": "m", "w": 5}]}', "c[?t=='n'] | [0].w", {"power": None}),
        ("[]", "[0].pwr", {"power": None}),
        # Not there: it may just not have changed.
        ('{"linkquality": 83}', "value", {}),
        ('{"a": {}}', "a.b", {}),
        ("{}", "a[0].b", {}),
        ("{}", "to_number(a)", {}),
        ("{}", "a || b", {}),
        ('{"x": 1}', "sum([a, b])", {}),
        ("{}", "c[?t=='n'] | [0].w", {}),
    ],
)
def test_paths(payload: str, path: str, expected: dict[str, float | None]) -> None:
    assert read(payload.encode(), [Field("power", path)]) == expected


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ('{"a": "x"}', "sum([a])"),
        ('{"a": 1}', "sum([a, b])"),
        ('{"a": {"b": 1}}', "a"),
        ('{"a": [1]}', "a"),
        ('{"a": true}', "a"),
        ('{"a": "on"}', "a"),
        ('{"a": 1e308}', "sum([a, a, a])"),
        ('{"a": 1}', "no_function(a)"),
        ('{"a": 1}', "a.."),
        ("[1]", "[::0]"),
    ],
)
def test_a_path_that_leads_to_no_number_is_unreadable(payload: str, path: str) -> None:
    assert reason(payload.encode(), Field("power", path)).startswith("Payload '")


def test_a_failing_path_does_not_show_more_than_a_person_reads() -> None:
    payload = json.dumps({"a": "\x1b" + "x" * 100_000}).encode()
    message = reason(payload, Field("power", "sum([a])"))
    assert len(message) < 600
    assert message.isprintable()


@pytest.mark.parametrize(
    "expression",
    [
        "a",
        '"em1:0".act_power',
        "sum([to_number(a), b])",
        "a[?b=='c'] | [0].d",
        "max_by(a, &b).c",
        "a[1:3] | [0]",
        "'x' < `1`",
        "floor(`1e400`)",
    ],
)
def test_paths_that_can_be_used(expression: str) -> None:
    check_path(expression)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "cannot be empty"),
        ("a..b", "column 2"),
        ("a[", "ncomplete"),
        ("no_function(a)", "no_function"),
        ("sum(a, b)", "1 argument"),
        ("join()", "2 arguments"),
        ("(" * 900 + "a" + ")" * 90, "nested too deeply"),
        ("!" * 999 + "a", "nested too deeply"),
        ("&a", "'&' where no function"),
        ("a || &b", "'&' where no function"),
        ("a | [&b]", "'&' where no function"),
        ("a[*].b", "never one value"),
        ("a | b[1:3]", "never one value"),
        ("a.b[]", "never one value"),
        ("a[?b].c", "never one value"),
        ("a.*", "never one value"),
        ("[a, b]", "never one value"),
        ("a.{b: c}", "never one value"),
        ("`[1]`" + " | [@, @][]" * 40 + " | [0]", "more than 50,000 steps"),
        ("a" * (LONGEST_PATH + 1), "at most 1000"),
    ],
)
def test_paths_that_cannot_be_used(expression: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        check_path(expression)
    assert "\n" not in str(caught.value)


# --- Paths that ask for much ---

DOUBLED = " | [@, @]" * 40
TWO_TEXTS = json.dumps({"a": "x" * 400_000 + "1", "b": "x" * 400_000 + "2"}).encode()
MANY = json.dumps({"items": list(range(150_000))}).encode()
WIDE = json.dumps({str(number): number for number in range(60_000)}).encode()
TAKES_MUCH = {
    "flatten": ("[power]" + " | [@, @][]" * 40 + " | [0]", b'{"power": 5}'),
    "flatten of many": (f"[{','.join(['items'] * 150)}][] | [0]", MANY),
    "slices of many": (f"[{','.join(['items[:]'] * 100)}] | [0][0]", MANY),
    "values of many": (f"[{','.join(['values(@)'] * 90)}] | [0][0]", WIDE),
    "map": ("[@]" + " | map(&[@, @], @) | []" * 40 + " | length(@)", b"{}"),
    "to_string": (f"power{DOUBLED} | to_string(@)", b'{"power": 5}'),
    "equality": (f"[power{DOUBLED}, power{DOUBLED}] | [0] == [1]", b'{"power": 5}'),
    "contains": (f"contains([power{DOUBLED}], power{DOUBLED})", b'{"power": 5}'),
    "merge": ("@" + " | merge(@, {a: @, b: @})" * 30 + " | to_string(@)", b'{"power": 5}'),
    "sort_by": ("[@]" + " | [@, @][]" * 40 + " | sort_by(@, &a) | [0].a", TWO_TEXTS),
    "sort": (f"[{','.join(['a', 'b'] * 200)}] | sort(@) | [0]", TWO_TEXTS),
    "long separator": (f"join(a, '' | [@, @]{' | [@, @][]' * 9})", TWO_TEXTS),
    "long texts": ("[a, b]" + " | [@, @][]" * 8 + " | join('', @)", TWO_TEXTS),
    "long texts written": ("[a]" + " | [@, @]" * 9 + " | to_string(@)", TWO_TEXTS),
    "filter": (f"items[?{' && '.join(['@ >= `0`'] * 60)}] | [0]", MANY),
    "join": ("a" + " | join(@, [@, @, @, @, @, @, @, @])" * 20, TWO_TEXTS),
    "reverse": ("[" + "reverse(a)," * 80 + "a] | [0]", TWO_TEXTS),
    "digits": ("to_number(a)", json.dumps({"a": "9" * 900_000}).encode()),
}


@pytest.mark.parametrize(("path", "payload"), TAKES_MUCH.values(), ids=TAKES_MUCH.keys())
def test_a_path_that_takes_too_much_is_given_up_soon(path: str, payload: bytes) -> None:
    assert len(path) <= LONGEST_PATH
    tracemalloc.start()
    try:
        started_s = time.thread_time()  # what other processes take is no fault of it
        why = [reason(payload, Field("power", path)), no_word(payload, path)]
        assert time.thread_time() - started_s < 5
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert all("takes more than 50,000 steps" in each for each in why)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sum(items[*].power)", 12_000),
        ("items[?phase == `2`].power | [0]", 2),
        ("length(items)", 8000),
        ("items[7999].power", 1),
        ("sum(map(&to_number(phase), items[:4000]))", 6000),
        ("max_by(items, &power).power", 2),
    ],
)
def test_what_meters_need_of_a_long_document_is_not_too_much(path: str, value: float) -> None:
    items = [
        {"id": f"shellyem-{number:012x}", "power": 1 + number % 2 * (number != 7999),
         "phase": 1 + number % 2, "name": "x" * 60}
        for number in range(8000)
    ]  # fmt: skip
    items[-1]["power"], items[0]["power"] = 1, 2
    assert power(json.dumps({"items": items}), path=path) == value


def test_a_function_that_is_given_something_else_does_not_write_it_out() -> None:
    assert "sum() takes array-number, not list" in reason(
        b'{"power": 5}', Field("power", f"power{DOUBLED} | sum(@)")
    )


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one = st.sampled_from(["[{0}, {0}]", "{{a: {0}, b: {0}}}", "({0})[]", "({0})[*]", "({0}).*",
                           "({0})[::-1]", "({0})[?@]", "!({0})", "length({0})", "to_string({0})",
                           "to_array({0})", "keys({0})", "values({0})", "reverse({0})", "sum({0})",
                           "max({0})", "sort({0})", "to_number({0})", "floor({0})"])  # fmt: skip
    two = st.sampled_from(["{0} | {1}", "{0} | {1} | {0} | {1}", "[{0}, {1}]", "({0}) == ({1})",
                           "({0}) < ({1})", "{0} || {1}", "{0} && {1}", "contains({0}, {1})",
                           "join({0}, {1})", "merge({0}, {1})", "map(&{0}, {1})",
                           "sort_by({0}, &{1})", "max_by({0}, &{1})"])  # fmt: skip
    return st.builds(str.format, one, inner) | st.builds(str.format, two, inner, inner)


expressions = st.recursive(
    st.sampled_from(["@", "a", "a.b", "a[0]", "[0]", "'x'", "`[1, [2]]`", "`1e400`", "[@, @]"]),
    combined,
    max_leaves=16,
)


# --- Words ---


def no_word(payload: bytes, path: str | None) -> str:
    with pytest.raises(BadReply) as caught:
        word(payload, path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("payload", "path", "said"),
    [
        (b" online\n", None, "online"),
        (b'"online"', None, "online"),
        (b"", None, ""),
        (b'{"state": " on "}', "state", "on"),
        (b'{"state": true}', "state", "true"),
        (b'{"state": 1}', "state", "1"),
        (b"[1.5]", "[0]", "1.5"),
        (b'{"age": 5}', "age < `60`", "true"),
        (b'{"rssi": [{"v": -50}]}', "rssi[?v > `-100`] | length(@) > `0`", "true"),
        (b"true", "@ && 'online' || 'offline'", "online"),
    ],
)
def test_the_word_of_a_payload(payload: bytes, path: str | None, said: str) -> None:
    assert word(payload, path) == said


NO_WORD = [
    (b"\xff", None),
    (b'"on', None),
    (b"on", "state"),
    (b"{}", "state"),
    (b'{"state": null}', "state"),
    (b'{"state": ["on"]}', "state"),
    (b'{"age": "5"}', "age < `60`"),
    (b'{"sensors": [{"rssi": "-50"}]}', "sensors[?rssi > `-100`] | [0].rssi"),
    (b'{"s": 1e400}', "floor(s)"),
    (b'{"s": -1e400}', "ceil(s)"),
    (b'{"s": "online", "c": 1}', "contains(s, c)"),
    (b'{"s": [1, "a"]}', "sort(s)"),
    (b'{"s": [1]}', "join(',', s)"),
    (b'{"s": [1]}', "merge(s, s)"),
    (b'{"s": [1]}', "s[::0]"),
    (b'{"s": [{"a": {}}, {"a": 1}]}', "max_by(s, &a)"),
    (b'{"s": [{"a": null}, {"a": 1}]}', "sort_by(s, &a)"),
    (b'{"s": 1}', "no_function(s)"),
    (b'{"s": 1}', "&s"),
    (b'{"s": 1}', "not_null(&s)"),
    (b'{"s": 1}', "s.."),
    (b'{"s": 1}', "!" * 999 + "s"),
    (b"[" * 1000, "s"),
]


@pytest.mark.parametrize(("payload", "path"), NO_WORD)
def test_what_comes_to_no_word_is_a_bad_reply(payload: bytes, path: str | None) -> None:
    message = no_word(payload, path)
    assert message.startswith("Payload '")
    assert len(message) <= 500


# --- Bad inputs ---

BAD = {
    "true": b"true",
    "false": b'{"power": false}',
    "text": b"on",
    "html": b"<!DOCTYPE html><html></html>",
    "underscore": b"1_000",
    "hexadecimal": b"0x10",
    "two signs": b"--1",
    "two numbers": b"1 2",
    "other digits": "٣".encode(),
    "1e400": b"1e400",
    "-1e400 in json": b'{"power": -1e400}',
    "1e4000": b"1e4000",
    "5000 digits": b"9" * 5000,
    "5000 digits in json": b'{"power": ' + b"9" * 5000 + b"}",
    "5000 negative digits in json": b'{"power": -' + b"9" * 5000 + b"}",
    "a million digits in json": b'{"power": ' + b"9" * 1_000_000 + b"}",
    "309 digits in json": b'{"power": ' + b"9" * 309 + b"}",
    "deep list": b"[" * DEEP,
    "deep object": b'{"a":' * DEEP,
    "deep beside strings": b'["]",' * DEEP,
    "deep after an escape": b'["\\"]",' * DEEP,
    "a string without an end": b'"' + b'\\"' * 500_000,
    "wide": b"[],[]," * DEEP,
    "utf-16": "25.5".encode("utf-16"),
    "utf-16 without mark": "25.5".encode("utf-16-le"),
    "latin-1": '{"power": 1, "room": "Küche"}'.encode("latin-1"),
    "null byte": b"25.5\0",
    "repeated name": b'{"power": 1, "power": 2}',
    "repeated name inside": b'{"power": 1, "a": {"b": 1, "b": 1}}',
    "half an object": b'{"power": 1',
    "two objects": b'{"power": 1}{"power": 1}',
    "list": b"[1]",
    "quotes in quotes": b'"\\"1\\""',
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD.keys())
def test_bad_inputs_give_one_short_sentence_soon(payload: bytes) -> None:
    started_s = time.monotonic()
    message = reason(payload)
    assert time.monotonic() - started_s < 2
    assert message.startswith("Payload '")
    assert message.endswith(".")
    assert len(message) <= 500
    assert message.isprintable()


@pytest.mark.parametrize("digits", [309, 311, 5000])
def test_a_number_that_is_too_large_is_said_to_be(digits: int) -> None:
    for sign in ("", "-"):
        assert "too large" in reason(f'{{"power": {sign}{"9" * digits}}}'.encode())


def test_deep_json_does_not_overflow_a_small_stack() -> None:
    results: list[str] = []

    def run() -> None:
        for opening in (b"[", b'{"a":', b'[{"a":'):
            results.append(reason(opening * DEEP))
            results.append(reason(opening * 60 + b"1"))

    before = threading.stack_size(2 * 1024 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert len(results) == 6


def test_the_message_shows_the_first_80_characters() -> None:
    assert f"'{'x' * 80}…'" in reason(b"x" * 81)
    assert f"'{'x' * 80}'" in reason(b"x" * 80)
    assert shown(b"\x00\xff\n") == "'\\x00�\\n'"
    assert shown(b"abcdef", 3) == "'abc…'"
    assert len(shown("\U000e0001".encode() * 80)) < 200


# --- Whatever comes ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["power", "energy", "a", "b"]), inner, max_size=4)
    ),
    max_leaves=12,
)
paths = st.none() | st.sampled_from(
    ["a", "a.b", "a[0]", "[0]", "sum(a)", "to_number(a)", "a || b", "max(values(@))", "a[?b > `1`]"]
)
payloads = st.binary(max_size=60) | st.text(max_size=40).map(str.encode) | json_values.map(
    lambda value: json.dumps(value).encode()
)  # fmt: skip


@given(payloads, paths, st.booleans())
def test_any_payload_is_read_or_refused(payload: bytes, path: str | None, fill: bool) -> None:
    fields = [Field("power", path), Field("energy", None, Fraction(10) ** 300)]
    for asked in (fields[:1], fields):
        try:
            values = read(payload, asked, fill=fill)
        except BadReply:
            continue
        assert all(value is None or math.isfinite(value) for value in values.values())
    assert all(math.isfinite(number) for number in numbers(payload).values())


@given(expressions, json_values)
def test_any_path_ends_soon_in_a_value_or_a_bad_reply(path: str, document: object) -> None:
    path = path[:LONGEST_PATH]
    started_s = time.monotonic()
    with contextlib.suppress(ValueError):
        check_path(path)
    payload = json.dumps(document).encode()
    with contextlib.suppress(BadReply):
        word(payload, path)
    with contextlib.suppress(BadReply):
        read(payload, [Field("power", path)])
    assert time.monotonic() - started_s < 5


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_back_as_it_was_sent(number: float) -> None:
    for payload in (repr(number), f'"{number!r}"', f'{{"power": {number!r}}}', f"{number!r} kW"):
        assert power(payload) == number


@given(st.decimals("-1000000", "1000000", places=3), st.sampled_from([1, 10, 1000, 10**6]))
def test_scaling_rounds_once(number: Decimal, divisor: int) -> None:
    exact = Fraction(number) / divisor
    assert power(str(number), scale=Fraction(1, divisor)) == float(exact)
    assert power(f"{number} W") == float(Fraction(number) / 1000)


# --- Looking for paths ---

SHELLY = b'{"emeters":[{"power":1543.27,"pf":0.99,"voltage":"231.42","is_valid":true,"total":4.5}]}'


def test_numbers_come_with_paths_that_lead_to_them() -> None:
    payload = b'{"a": {"em1:0": [1, {"b": "2.5"}]}, "c": "on", "d": null, "say \\"x\\"": 3}'
    found = numbers(payload)
    assert found == {'a."em1:0"[0]': 1, 'a."em1:0"[1].b': 2.5, '"say \\"x\\""': 3}
    for path, number in found.items():
        assert power(payload, path=path) == number


def test_looking_for_numbers_is_bounded() -> None:
    wide = json.dumps([list(range(1000)) for _ in range(100)]).encode()
    assert len(numbers(wide, 40)) == 40
    assert numbers(json.dumps([["x"] * 1000] * 1000).encode()) == {}
    assert numbers(b"[" * DEEP) == {}
    assert numbers(b"\xff") == {}


def test_names_and_paths_that_nobody_can_read_are_left_out() -> None:
    inner = {str(number): number for number in range(8)}
    assert numbers(json.dumps({"é" * 170_000: inner}, ensure_ascii=False).encode()) == {}
    assert numbers(json.dumps({"n" * 100: 1, "m" * 101: 2}).encode()) == {"n" * 100: 1}
    deep: object = 1
    for _ in range(9):
        deep = {"n" * 30: deep, "m": 2}
    found = numbers(json.dumps(deep).encode())
    assert len(found) == 7
    assert max(map(len, found)) <= 200


# --- Names ---


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ('{"power": 1}', '{"power": null}'),
        ('{"power": 1}', '{"voltage": 2, "power": 3}'),
        ('{"a": {"b": 1}}', '{"a": {"b": 2, "c": 3}}'),
        ("{}", '{"power": 1}'),
        ("25.5", '{"power": 1}'),
        ('[{"power": 1}]', "25.5"),
        ("{", "}"),
    ],
)
def test_an_object_with_the_same_names_says_all_that_an_earlier_one_says(
    earlier: str, later: str
) -> None:
    assert names_in(earlier.encode()) <= names_in(later.encode())
    assert supersedes(later.encode(), earlier.encode())


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ('{"power": 1}', '{"voltage": 1}'),
        ('{"power": 1}', "25.5"),
        ('{"a": {"b": 1}}', '{"a": {"c": 1}}'),
        ('{"a": {"b": 1}}', '{"a": 1, "b": 1}'),
        ('{"a": {"b": 1}}', '{"c": {"b": 1}, "a": {}}'),
        ('{"a.b": 1}', '{"a": {"b": 1}}'),
    ],
)
def test_other_names_say_something_else(earlier: str, later: str) -> None:
    assert not names_in(earlier.encode()) <= names_in(later.encode())
    assert not supersedes(later.encode(), earlier.encode())


def test_an_outline_has_no_values() -> None:
    assert supersedes(b'{"a": "x}", "b": [1, {"c": 2}]}', b'{"a": "{\\"b\\":", "b": [9, {"c": 3}]}')
    assert not supersedes(b'{"a": "\\"b\\":"}', b'{"a": 1, "b": 2}')


def test_a_long_name_is_not_repeated_for_each_within_it() -> None:
    inner = {str(number): number for number in range(20_000)}
    names = names_in(json.dumps({"n" * 500_000: inner}).encode())
    assert len(names) == 20_001
    assert sum(map(len, names)) < 2_000_000


def test_the_likely_path_is_told_by_its_last_name() -> None:
    found = numbers(SHELLY)
    assert likely_path("power", found) == "emeters[0].power"
    assert likely_path("energy", found) == "emeters[0].total"
    assert likely_path("powerFactor", found) == "emeters[0].pf"
    assert likely_path("voltage", found) == "emeters[0].voltage"
    assert likely_path("current", found) is None
    assert likely_path("power", ["Body.Data.Site.P_Grid"]) == "Body.Data.Site.P_Grid"
    assert likely_path("power", ["ccp[0]", 'a."act_power"']) == 'a."act_power"'
    assert likely_path("powerL1", found) is None
