"""Templates: every fault of a file, and what `communication` they make of a registration's."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import Faulty
from edge.structure import merge_patch
from edge.template import (
    Example,
    Identify,
    Parameter,
    Template,
    expand,
    parse_template,
    target_of,
)

SHELLY: dict[str, Any] = {
    "title": "Shelly EM",
    "maker": "Shelly",
    "models": ["EM"],
    "protocol": "mqtt",
    "source": "the maker's document, page 1",
    "parameters": {
        "device": {"title": "Id of the device", "example": "shellyem-3a7c1f"},
        "channel": {"title": "Channel", "example": "1", "default": "0"},
    },
    "communication": {
        "topicPower": "shellies/{device}/emeter/{channel}/power",
        "powerPath": "emeters[{channel}]",
        "powerScale": 0.001,
    },
}
ABB: dict[str, Any] = {
    "title": "ABB B23",
    "maker": "ABB",
    "models": ["B23", "B24"],
    "protocol": "modbus",
    "source": "the maker's document, page 1",
    "caveats": ["Its bus needs a terminator."],
    "meter_types": ["grid", "building"],
    "serial": {"baudrate": 19200, "parity": "E"},
    "identify": {"address": 0x8960, "text": "B2", "count": 6},
    "communication": {
        "port": 8502,
        "maxRegistersPerRequest": 60,
        "registers": {
            "power": {"address": 23316, "type": "int32", "scale": 0.00001},
            "voltage": 23296,
        },
    },
}
HTTP = merge_patch(
    SHELLY,
    {
        "protocol": "http",
        "parameters": {"device": None, "host": {"title": "Host", "example": "192.168.1.40"}},
        "communication": {
            "topicPower": None,
            "url": "http://{host}/status?id={channel}",
            "headers": {"X-Channel": "{channel}"},
        },
    },
)


def template(document: Mapping[str, Any] = SHELLY, **changes: Any) -> Template:
    return parse_template("shelly-em", merge_patch(document, changes))


def faults_of(document: Any) -> dict[str, str]:
    with pytest.raises(Faulty) as caught:
        parse_template("any", document)
    return {fault.path: fault.message for fault in caught.value.faults}


def expanded(given: Template, **communication: Any) -> dict[str, Any]:
    document, faults = expand(given, communication)
    assert not faults
    return document


# --- Files ---


def test_a_file_says_all_that_a_template_has() -> None:
    abb = parse_template("abb-b23", ABB)
    assert (abb.name, abb.title, abb.maker, abb.models) == (
        "abb-b23",
        "ABB B23",
        "ABB",
        ("B23", "B24"),
    )
    assert (abb.protocol, abb.source) == ("modbus", "the maker's document, page 1")
    assert (abb.caveats, abb.meter_types) == (
        ("Its bus needs a terminator.",),
        ("grid", "building"),
    )
    assert abb.communication == ABB["communication"]
    assert abb.serial == {"baudrate": 19200, "parity": "E"}
    assert abb.identify == Identify(0x8960, "holding", 6, text="B2")


def test_what_a_file_may_leave_out() -> None:
    shelly = template()
    assert (shelly.caveats, shelly.meter_types, shelly.serial) == ((), (), {})
    assert shelly.identify is None
    assert shelly.parameters["channel"] == Parameter("Channel", "1", "0")
    assert shelly.parameters["device"].default is None


def test_every_fault_is_told_at_once_with_its_path() -> None:
    document = {
        "title": " ",
        "models": "B23",
        "protocol": "modbuss",
        "source": "s",
        "caveats": [1],
        "meter_types": ["grit"],
        "communication": {
            "registers": {"power": datetime.date(2025, 1, 1)},
            "host": [float("nan")],
        },
        "serial": {"boudrate": 9600},
        "parameters": {"a b": {}, "device": {"title": "t", "exampel": "x"}},
        "identify": {"address": -1},
        "colour": "blue",
    }
    faults = faults_of(document)
    assert faults.keys() == {
        "title", "maker", "models", "protocol", "caveats", "meter_types",
        "communication.registers.power", "communication.host", "serial.boudrate",
        "parameters.a b", "parameters.device.example", "parameters.device.exampel",
        "identify.address", "colour",
    }  # fmt: skip
    assert "did you mean 'modbus'?" in faults["protocol"]
    assert "did you mean 'grid'?" in faults["meter_types"]
    assert "did you mean 'baudrate'?" in faults["serial.boudrate"]


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        ([], "", "must be a table"),
        (SHELLY | {"models": []}, "models", "at least 1"),
        (SHELLY | {"communication": {}}, "parameters.device", "used nowhere"),
        (SHELLY | {"parameters": {}}, "communication.topicPower", "[parameters.channel]"),
        (SHELLY | {"serial": {"baudrate": 9600}}, "serial", "does not go with protocol 'mqtt'"),
        (SHELLY | {"identify": {"address": 1, "values": [1]}}, "identify", "does not go"),
        (SHELLY | {"parameters": {"template": {}}}, "parameters.template", "no name"),
        (SHELLY | {"parameters": {"device": "x"}}, "parameters.device", "table"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(document: Any, path: str, words: str) -> None:
    assert words in faults_of(document)[path]


def test_a_parameter_is_no_key_of_communication() -> None:
    document = merge_patch(ABB, {"communication": {"port": "{port}"}})
    document["parameters"] = {"port": {"title": "Port", "example": "502"}}
    assert "call it something else" in faults_of(document)["parameters.port"]


@pytest.mark.parametrize("said", ["example", "default"])
def test_an_example_and_a_default_must_fit_where_they_are_put(said: str) -> None:
    document = merge_patch(SHELLY, {"parameters": {"channel": {said: "0/1"}}})
    assert "0/1" in faults_of(document)[f"parameters.channel.{said}"]


@pytest.mark.parametrize(
    ("identify", "made"),
    [
        ({"address": 11, "values": [345, 346]}, Identify(11, "holding", 1, (345, 346))),
        (
            {"address": 11, "registerType": "input", "type": "uint32", "values": [65536]},
            Identify(11, "input", 2, (65536,)),
        ),
        ({"address": 0, "text": "AB", "count": 1}, Identify(0, "holding", 1, text="AB")),
    ],
)
def test_how_a_scan_recognises_a_model(identify: dict[str, Any], made: Identify) -> None:
    assert parse_template("any", ABB | {"identify": identify}).identify == made


@pytest.mark.parametrize(
    ("identify", "path"),
    [
        ({"address": 11}, "identify"),
        ({"address": 11, "values": [1], "text": "A", "count": 1}, "identify"),
        ({"address": 11, "values": []}, "identify.values"),
        ({"address": 11, "values": [True]}, "identify.values"),
        ({"address": 11, "values": [-1]}, "identify.values"),
        ({"address": 11, "values": [65536]}, "identify.values"),
        ({"address": 11, "values": [1], "count": 1}, "identify.count"),
        ({"address": 11, "text": "ABC"}, "identify.count"),
        ({"address": 11, "text": "ABC", "count": 1}, "identify.count"),
        ({"address": 11, "text": "A", "count": 1, "type": "uint16"}, "identify.type"),
        ({"address": 11, "text": "é", "count": 1}, "identify.text"),
        ({"address": 11, "values": [1], "type": "int16"}, "identify.type"),
        ({"address": 11, "values": [1], "registerType": "coil"}, "identify.registerType"),
    ],
)
def test_a_way_to_recognise_that_cannot_work_is_refused(
    identify: dict[str, Any], path: str
) -> None:
    assert faults_of(ABB | {"identify": identify}).keys() == {path}


EXAMPLE = {"address": "shellies/{device}/emeter/{channel}/power", "payload": "[\n1]"}


def test_a_file_may_say_what_the_device_says() -> None:
    assert template().examples == ()
    assert template(example=[EXAMPLE]).examples == (Example(**EXAMPLE),)


@pytest.mark.parametrize(
    ("example", "path", "words"),
    [
        ({}, "example", "array of tables"),
        ([1], "example.0", "must be a table"),
        ([{"address": EXAMPLE["address"]}], "example.0.payload", "missing"),
        ([EXAMPLE, EXAMPLE | {"payload": " "}], "example.1.payload", "1 to 10,000 characters"),
        ([EXAMPLE | {"payload": "1" * 10_001}], "example.0.payload", "1 to 10,000 characters"),
        ([EXAMPLE | {"topic": "a"}], "example.0.topic", "unknown key"),
        ([EXAMPLE | {"address": "shellies/{device}"}], "example.0.address", "must be a topic"),
        ([EXAMPLE, EXAMPLE], "example.1.address", "once"),
    ],
)
def test_an_example_that_is_of_no_use_says_why(example: Any, path: str, words: str) -> None:
    faults = faults_of(SHELLY | {"example": example})
    assert faults.keys() == {path}
    assert words in faults[path]


def test_an_example_over_http_is_at_the_target_of_the_url() -> None:
    for address, count in (("/status?id={channel}", 1), ("http://{host}/status?id={channel}", 0)):
        document = HTTP | {"example": [{"address": address, "payload": "{}"}]}
        if count:
            assert [each.address for each in parse_template("a", document).examples] == [address]
        else:
            assert "path and query" in faults_of(document)["example.0.address"]


def test_an_example_does_not_go_with_registers() -> None:
    assert "leave it out" in faults_of(ABB | {"example": [EXAMPLE]})["example"]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a", "/"),
        ("http://a?b=1#c", "/?b=1"),
        ("https://[fe80::1]:8443/a/b.c?d=e?f", "/a/b.c?d=e?f"),
        ("http://[a/b#c", "/b"),
    ],
)
def test_what_is_asked_for_at_a_url(url: str, target: str) -> None:
    assert target_of(url) == target


# --- Parameters ---


def test_parameters_are_put_in_and_leave_no_trace() -> None:
    assert expanded(template(), template="shelly-em", device="shellyem-1", channel=1) == {
        "topicPower": "shellies/shellyem-1/emeter/1/power",
        "powerPath": "emeters[1]",
        "powerScale": 0.001,
    }


@pytest.mark.parametrize("absent", [{}, {"channel": None}])
def test_a_default_holds_where_nothing_is_given(absent: dict[str, Any]) -> None:
    assert expanded(template(), device="a", **absent)["powerPath"] == "emeters[0]"


def test_a_missing_parameter_is_named_with_an_example() -> None:
    document, (fault,) = expand(template(), {"template": "shelly-em"})
    assert fault.path == "communication.device"
    assert fault.message == (
        "is missing; template 'shelly-em' needs it: Id of the device, like 'shellyem-3a7c1f'"
    )
    assert document["topicPower"] == "shellies/shellyem-3a7c1f/emeter/0/power"


def test_every_faulty_parameter_is_told_at_once() -> None:
    _, faults = expand(template(), {"device": "a/#", "channel": 1.5})
    assert [fault.path for fault in faults] == ["communication.device", "communication.channel"]


@pytest.mark.parametrize(
    "value",
    [
        "", "+", "a/+/b", "a#", "/a", "a/", "a//b", " a", "a ", "a\x00", "a\n", "\ud800", "a" * 201,
        True, -1, 10**18, 0.5, [], {},
    ],
)  # fmt: skip
def test_what_breaks_a_topic_is_refused(value: Any) -> None:
    _, (fault,) = expand(template(), {"device": value})
    assert fault.path == "communication.device"
    assert "like 'shellyem-3a7c1f'" in fault.message
    assert fault.message.isprintable()


@pytest.mark.parametrize("value", ["a", "heat pump", "cellar/heat pump", "Zähler", "$x", 0, 7])
def test_what_a_topic_may_hold_is_taken(value: Any) -> None:
    topic = expanded(template(), device=value)["topicPower"]
    assert topic == f"shellies/{value}/emeter/0/power"


@pytest.mark.parametrize("value", ["meter", "192.168.1.40:8080", "[fe80::1]", "a.example"])
def test_a_host_is_taken_with_or_without_a_port(value: str) -> None:
    assert expanded(template(HTTP), host=value)["url"] == f"http://{value}/status?id=0"


@pytest.mark.parametrize(
    "value",
    ["http://a", "a/b", "a?b", "a#b", "me@a", "a b", "a%2Fb", "a&b", "a=b", "a\\b", "ä", "a\r\nb"],
)
def test_what_breaks_a_url_is_refused(value: str) -> None:
    _, (fault,) = expand(template(HTTP), {"host": value})
    assert fault.path == "communication.host"


@pytest.mark.parametrize("value", ["-1", "0]", "a.b", "'", "`1`", "[0]", "*", "0:1", "{a}"])
def test_what_changes_a_path_or_a_header_is_refused(value: str) -> None:
    for made in (template(), template(HTTP)):
        _, faults = expand(made, {"device": "a", "host": "a", "channel": value})
        assert [fault.path for fault in faults if "channel" in fault.path] == [
            "communication.channel"
        ]


def test_parameters_reach_nested_texts_and_lists() -> None:
    nested = template(HTTP, communication={"body": {"ids": ["{channel}", 1, {"a": "{channel}"}]}})
    document = expanded(nested, host="a", channel="7")
    assert document["headers"] == {"X-Channel": "7"}
    assert document["body"] == {"ids": ["7", 1, {"a": "7"}]}


@given(st.text(max_size=30))
def test_no_device_makes_more_of_a_topic_than_its_own_levels(device: str) -> None:
    document, faults = expand(template(), {"device": device})
    topic = document["topicPower"]
    assert not set("+#\x00") & set(topic)
    assert topic.startswith("shellies/")
    assert topic.endswith("/emeter/0/power")
    assert all(topic.split("/"))
    assert faults or device in topic


# --- The registration over the template ---

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(
    st.sampled_from(["registers", "port", "maxGap", "unitId", "a"]), VALUES, max_size=4
)


@given(TABLES)
def test_what_is_given_beside_the_template_wins(communication: dict[str, Any]) -> None:
    before = copy.deepcopy((ABB, communication))
    abb = parse_template("abb-b23", ABB)
    document, faults = expand(abb, {"template": "abb-b23", **communication})
    assert not faults
    assert document == merge_patch(ABB["communication"], communication)
    assert (ABB, communication) == before


def test_an_expansion_shares_no_table_with_the_template() -> None:
    abb = parse_template("abb-b23", copy.deepcopy(ABB))
    expanded(abb)["registers"]["power"]["address"] = 1
    assert expanded(abb) == ABB["communication"]


def test_one_key_of_a_register_can_be_changed() -> None:
    registers = expanded(parse_template("abb-b23", ABB), registers={"power": {"scale": 1}})
    assert registers["registers"] == {
        "power": {"address": 23316, "type": "int32", "scale": 1},
        "voltage": 23296,
    }


SERIAL = {"transport": "rtu", "baudrate": 19200, "parity": "E"}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"host": "a"}, {"host": "a", "port": 8502}),
        ({"serialPort": "/dev/ttyS0"}, {"serialPort": "/dev/ttyS0", **SERIAL}),
        (
            {"serialPort": "/dev/ttyS0", "parity": "N"},
            {"serialPort": "/dev/ttyS0", **SERIAL, "parity": "N"},
        ),
        ({"transport": "rtu"}, SERIAL),
        (
            {"transport": "rtu-over-tcp", "host": "a"},
            {"transport": "rtu-over-tcp", "host": "a", "port": 8502},
        ),
        # Which of the two is meant is for the one who registers to say.
        (
            {"host": "a", "serialPort": "/dev/ttyS0"},
            {"host": "a", "port": 8502, "serialPort": "/dev/ttyS0"},
        ),
    ],
)
def test_a_serial_port_takes_the_makers_line_settings(
    given: dict[str, Any], line: dict[str, Any]
) -> None:
    document = expanded(parse_template("abb-b23", ABB), **given)
    del document["registers"], document["maxRegistersPerRequest"]
    assert document == line
