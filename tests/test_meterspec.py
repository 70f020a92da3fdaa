"""Registrations into meters: the user guide's own, every key, every fault at its path."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import render
from edge.communication import (
    Field,
    ModbusCommunication,
    ModbusEndpoint,
    MqttCommunication,
    Register,
    TopicUse,
)
from edge.errors import ConfigError, Fault
from edge.meterspec import PROTOCOLS, References, RegistrationKeys, line_conflicts, parse_meter
from edge.meterspec.modbus import ModbusKeys, RegisterKeys
from edge.model import QUANTITY_NAMES, MeterState, Reading
from edge.structure import camel_case, keys_of, merge_patch
from edge.template import Template, parse_template
from tests.registrations import (
    JSON_VALUES,
    NO_REFERENCES,
    faults_of,
    is_taken_or_named_faulty,
    parse,
    some_of,
)

MAIN_BUILDING_METER = """{
    "name": "Main Building Meter",
    "location": "main-building",
    "protocol": "modbus",
    "meterType": "grid",
    "pollInterval": 5000,
    "communication": {
      "host": "192.168.1.150",
      "port": 502,
      "unitId": 1,
      "registers": {
        "power": 20480,
        "energy": 20482,
        "energyHigh": 20483,
        "voltage": 20484,
        "current": 20486,
        "powerScale": 1,
        "energyScale": 0.001,
        "voltageScale": 0.1,
        "currentScale": 0.001
      }
    }
  }"""
ABB_B23 = """{
  "name": "ABB B23 Main Meter",
  "location": "main-building",
  "protocol": "modbus",
  "meterType": "grid",
  "pollInterval": 5000,
  "communication": {
    "host": "192.168.1.150",
    "port": 502,
    "unitId": 1,
    "registers": {
      "power": 20480,
      "energy": 20482,
      "energyHigh": 20483,
      "voltage": 20484,
      "current": 20486,
      "powerFactor": 20488,
      "frequency": 20490,
      "powerScale": 1,
      "energyScale": 0.001,
      "voltageScale": 0.1,
      "currentScale": 0.001,
      "powerFactorScale": 0.001,
      "frequencyScale": 0.01
    }
  }
}"""
SCHNEIDER_IEM3000 = """{
  "name": "Schneider iEM3000",
  "location": "main-building",
  "protocol": "modbus",
  "meterType": "grid",
  "pollInterval": 5000,
  "communication": {
    "host": "192.168.1.151",
    "port": 502,
    "unitId": 1,
    "registers": {
      "power": 3059,
      "energy": 45056,
        "voltage": 3027,
        "current": 3000,
        "powerFactor": 3078,
        "powerScale": 1,
        "energyScale": 1,
        "voltageScale": 0.1,
        "currentScale": 0.001,
        "powerFactorScale": 0.001
      }
  }
}"""


def registration(communication: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A registration whose communication has these keys beside a host and a power register."""
    return {
        "name": "Main",
        "protocol": "modbus",
        "meterType": "grid",
        "communication": {"host": "10.0.0.1", "registers": {"power": 1}, **(communication or {})},
        **keys,
    }


def serial_registration(**communication: Any) -> dict[str, Any]:
    return registration({"host": None, "transport": "rtu", "serialPort": "/dev/x", **communication})


def modbus(document: Any, references: References = NO_REFERENCES) -> ModbusCommunication:
    """What a Modbus registration comes to."""
    communication = parse(document, references).communication
    assert isinstance(communication, ModbusCommunication)
    return communication


def read_by(registers: dict[str, Any], **communication: Any) -> dict[str, Register]:
    parsed = modbus(registration({**communication, "registers": registers}))
    return {register.quantity: register for register in parsed.registers}


def register_faults(registers: Any, **communication: Any) -> dict[str, str]:
    """The faults of a meter that has these registers, by their paths below them."""
    faults = faults_of(registration({**communication, "registers": registers}))
    assert all(path.startswith("communication.registers") for path in faults)
    return {path[len("communication.registers.") :]: message for path, message in faults.items()}


# --- The user guide's registrations ---


def test_the_guides_first_meter() -> None:
    meter = parse_meter(json.loads(MAIN_BUILDING_METER), "meter_7", 3, References())
    assert meter.document == json.loads(MAIN_BUILDING_METER)
    assert (meter.id, meter.phase_index, meter.name, meter.location) == (
        "meter_7",
        3,
        "Main Building Meter",
        "main-building",
    )
    assert (meter.protocol, meter.meter_type) == ("modbus", "grid")
    assert (meter.poll_interval_ms, meter.stale_after_ms) == (5000, 15000)
    assert meter.max_power_kw is None
    assert meter.line == "tcp://192.168.1.150:502"
    assert meter.communication == ModbusCommunication(
        endpoint=ModbusEndpoint("tcp", "192.168.1.150", 502),
        unit_id=1,
        timeout_s=1.0,
        retries=1,
        request_delay_s=0.0,
        registers=(
            Register("power", 3, (20480,), "uint", Fraction(1)),
            Register("energy", 3, (20483, 20482), "uint", Fraction(1, 1000)),
            Register("voltage", 3, (20484,), "uint", Fraction(1, 10)),
            Register("current", 3, (20486,), "uint", Fraction(1, 1000)),
        ),
        max_registers_per_request=125,
        max_gap=8,
        invert=False,
    )


def test_the_guides_abb_b23() -> None:
    assert modbus(json.loads(ABB_B23)).registers == (
        Register("power", 3, (20480,), "uint", Fraction(1)),
        Register("energy", 3, (20483, 20482), "uint", Fraction(1, 1000)),
        Register("voltage", 3, (20484,), "uint", Fraction(1, 10)),
        Register("current", 3, (20486,), "uint", Fraction(1, 1000)),
        Register("powerFactor", 3, (20488,), "uint", Fraction(1, 1000)),
        Register("frequency", 3, (20490,), "uint", Fraction(1, 100)),
    )


def test_the_guides_schneider() -> None:
    assert modbus(json.loads(SCHNEIDER_IEM3000)).registers == (
        Register("power", 3, (3059,), "uint", Fraction(1)),
        Register("energy", 3, (45056,), "uint", Fraction(1)),
        Register("voltage", 3, (3027,), "uint", Fraction(1, 10)),
        Register("current", 3, (3000,), "uint", Fraction(1, 1000)),
        Register("powerFactor", 3, (3078,), "uint", Fraction(1, 1000)),
    )


# --- Keys and defaults ---


def test_stale_after_follows_the_poll_interval() -> None:
    assert parse(registration()).poll_interval_ms == 5000
    assert parse(registration()).stale_after_ms == 15_000
    assert parse(registration(pollInterval=200)).stale_after_ms == 600
    assert parse(registration(pollInterval=200, staleAfter=200)).stale_after_ms == 200
    patched = merge_patch(parse(registration(pollInterval=1000)).document, {"pollInterval": 2000})
    assert parse(patched).stale_after_ms == 6000


def test_every_key_of_tcp() -> None:
    given = {
        "transport": "rtu-over-tcp",
        "host": "Gateway.Local",
        "port": 4001,
        "unitId": 247,
        "timeout": 250,
        "retries": 0,
        "requestDelay": 20,
        "registerType": "input",
        "wordOrder": "little",
        "maxRegistersPerRequest": 60,
        "maxGap": 0,
        "invert": True,
        "registers": {"power": {"address": 10, "type": "int32"}},
    }
    assert parse(registration(given, maxPower=12)).communication == ModbusCommunication(
        endpoint=ModbusEndpoint("rtu-over-tcp", "gateway.local", 4001),
        unit_id=247,
        timeout_s=0.25,
        retries=0,
        request_delay_s=0.02,
        registers=(Register("power", 4, (11, 10), "int"),),
        max_registers_per_request=60,
        max_gap=0,
        invert=True,
    )
    assert parse(registration(given, maxPower=12)).max_power_kw == 12.0


def test_a_serial_line() -> None:
    assert parse(serial_registration()).communication.endpoint == ModbusEndpoint(
        "rtu", serial_port="/dev/x", baudrate=9600, parity="N", stopbits=1, bytesize=8
    )
    meter = parse(serial_registration(baudrate=19200, parity="E", stopbits=1.5, bytesize=7))
    assert meter.line == "rtu:/dev/x"
    assert meter.communication.endpoint == ModbusEndpoint(
        "rtu", serial_port="/dev/x", baudrate=19200, parity="E", stopbits=1.5, bytesize=7
    )


def test_one_host_is_one_line_however_it_is_written() -> None:
    def line(host: str) -> str:
        return parse(registration({"host": host})).line

    assert line("FE80::0:1") == line("fe80::1") == "tcp://[fe80::1]:502"
    assert line("Meter.LOCAL") == line("meter.local") == "tcp://meter.local:502"


@pytest.mark.parametrize(
    ("kind", "width"),
    [
        ("uint16", 1), ("int16", 1), ("uint32", 2), ("int32", 2),
        ("uint64", 4), ("int64", 4), ("float32", 2), ("float64", 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["big", "little"])
def test_types_have_their_widths_and_word_orders(kind: str, width: int, order: str) -> None:
    long_form = {"address": 100, "type": kind}
    upwards = tuple(range(100, 100 + width))
    register = read_by({"power": long_form}, wordOrder=order)["power"]
    assert register.words == (upwards if order == "big" else upwards[::-1])
    assert register.kind == kind.rstrip("123468")
    other = {"big": "little", "little": "big"}[order]
    own = read_by({"power": {**long_form, "wordOrder": order}}, wordOrder=other)["power"]
    assert own == register


def test_a_registers_own_keys_win() -> None:
    registers = read_by(
        {
            "power": {"address": 1, "registerType": "holding", "scale": 0.001},
            "voltage": {"address": 2, "notAvailable": 65535},
            "current": 3,
        },
        registerType="input",
    )
    assert registers["power"] == Register("power", 3, (1,), "uint", Fraction(1, 1000))
    assert registers["voltage"] == Register("voltage", 4, (2,), "uint", Fraction(1), 65535)
    assert registers["current"] == Register("current", 4, (3,), "uint")


def test_the_high_word_stands_where_it_is_said_to_stand() -> None:
    for order in ("big", "little"):
        registers = read_by({"energy": 10, "energyHigh": 20, "energyScale": 0.1}, wordOrder=order)
        assert registers == {"energy": Register("energy", 3, (20, 10), "uint", Fraction(1, 10))}


def test_every_quantity_can_be_read_and_scaled() -> None:
    document: dict[str, Any] = {name: number for number, name in enumerate(QUANTITY_NAMES)}
    scales = {f"{name}Scale": 0.25 for name in QUANTITY_NAMES}
    registers = read_by({**document, **scales})
    assert list(registers) == list(QUANTITY_NAMES)
    assert {register.scale for register in registers.values()} == {Fraction(1, 4)}


def test_a_scale_beside_a_registers_own_multiplies_it() -> None:
    registers = read_by({"power": {"address": 1, "scale": 0.01}, "powerScale": 0.001})
    assert registers["power"].scale == Fraction(1, 100_000)


@pytest.mark.parametrize(
    ("scale", "fraction"),
    [
        (0.1, Fraction(1, 10)), (1e-12, Fraction(1, 10**12)), (-1, Fraction(-1)),
        (1.234, Fraction(617, 500)), (1e12, Fraction(10**12)),
    ],
)  # fmt: skip
def test_a_scale_is_the_decimal_number_it_was_written_as(scale: float, fraction: Fraction) -> None:
    assert read_by({"power": 1, "powerScale": scale})["power"].scale == fraction
    assert read_by({"power": {"address": 1, "scale": scale}})["power"].scale == fraction


def test_null_is_as_good_as_absent() -> None:
    document = registration(
        {"port": None, "unitId": None, "registers": {"power": 1, "voltage": None}},
        location=None,
        lastError=None,
    )
    meter = parse(document)
    assert meter.document == registration()
    assert meter.communication == parse(registration()).communication


def test_the_document_is_kept_and_the_callers_is_not() -> None:
    document = registration()
    meter = parse(document)
    before = copy.deepcopy(meter.document)
    document["communication"]["registers"]["power"] = 99
    assert meter.document == before


# --- Faults ---


def test_every_fault_comes_at_once_with_its_path() -> None:
    assert faults_of(
        {
            "name": " ",
            "protocol": "modbus",
            "meterType": "Grid",
            "location": 5,
            "pollInterval": 900,
            "staleAfter": 899,
            "maxPower": "12 kW",
            "status": "online",
            "powerL1": 3,
            "pollinterval": 5,
            "communication": {
                "port": 0,
                "unitid": 1,
                "retries": True,
                "baudrate": 9600,
                "registers": {
                    "power": 65536,
                    "voltage": {"address": 7, "type": "uint8", "scale": 0},
                    "current": "0x5006",
                    "frequncy": 9,
                    "currentScale": 0,
                    "energyScale": 1,
                    "powerFactor": {"type": "int16"},
                },
            },
        }
    ) == {
        "name": "must not be empty",
        "meterType": "must be grid | building | solar | zone, not 'Grid'; did you mean 'grid'?",
        "location": "must be text, not 5",
        "staleAfter": "must be at least pollInterval (900 ms)",
        "maxPower": "must be a number, not '12 kW'",
        "status": "is given by the service; leave it out",
        "powerL1": "is given by the service; leave it out",
        "pollinterval": "unknown key; did you mean 'pollInterval'?",
        "communication.host": "is missing; transport 'tcp' needs it",
        "communication.port": "must be 1 to 65,535, not 0",
        "communication.unitid": "unknown key; did you mean 'unitId'?",
        "communication.retries": "must be a whole number, not true",
        "communication.baudrate": "does not go with transport 'tcp'; leave it out",
        "communication.registers.power": "must be 0 to 65,535, not 65,536",
        "communication.registers.voltage.type": "must be uint16 | int16 | uint32 | int32 | uint64 "
        "| int64 | float32 | float64, not 'uint8'; did you mean 'uint64'?",
        "communication.registers.voltage.scale": "must be a factor other than 0, from 1e-12 to "
        "1e12, not 0",
        "communication.registers.current": "must be a register address, 0 to 65,535, or "
        '{"address": …, "type": …}, not \'0x5006\'',
        "communication.registers.frequncy": "unknown key; did you mean 'frequency'?",
        "communication.registers.currentScale": "must be a factor other than 0, from 1e-12 to "
        "1e12, not 0",
        "communication.registers.energyScale": "scales nothing; give energy too, or leave it out",
        "communication.registers.powerFactor.address": "is missing; give it",
    }


def test_an_empty_registration_names_what_it_needs() -> None:
    needed = ("name", "protocol", "meterType", "communication")
    assert faults_of({}) == dict.fromkeys(needed, "is missing; give it")
    assert faults_of(registration({"registers": None})) == {
        "communication.registers": "is missing; name the meter's registers, or give a template "
        "(GET /api/templates and `dlm-edge templates` list them)"
    }


@pytest.mark.parametrize("document", [None, 3, "meter", [], [registration()]])
def test_a_registration_must_be_an_object(document: object) -> None:
    assert list(faults_of(document)) == [""]


@pytest.mark.parametrize("communication", [3, "tcp", [], True])
def test_communication_must_be_an_object(communication: object) -> None:
    (fault,) = faults_of({**registration(), "communication": communication}).items()
    assert fault[0] == "communication"
    assert fault[1].startswith("must be a table or object, not ")


@pytest.mark.parametrize("registers", [3, "power", [20480], True])
def test_registers_must_be_an_object(registers: object) -> None:
    (message,) = register_faults(registers).values()
    assert message.startswith('must name a register for each quantity, like {"power": 20480}, not ')


@pytest.mark.parametrize("registers", [{}, {"power": None}])
def test_a_meter_measures_something(registers: dict[str, Any]) -> None:
    (message,) = register_faults(registers).values()
    assert message == 'must name at least one quantity, like {"power": 20480}'


def test_a_protocol_that_is_not_spoken_says_nothing_of_its_communication() -> None:
    document = registration({"registers": None, "host": 5}, protocol="bacnet")
    assert faults_of(document) == {
        "protocol": "'bacnet' is not supported; known: modbus, mqtt, http"
    }


@pytest.mark.parametrize("value", [1.5, -1, 70000, True, "1", [1], 1e300])
def test_a_faulty_address_is_named_in_both_forms(value: object) -> None:
    assert list(register_faults({"power": value})) == ["power"]
    assert list(register_faults({"power": {"address": value}})) == ["power.address"]


@pytest.mark.parametrize(
    "field",
    sorted(set(render.meter(MeterState(parse(registration())))) - {
        "name", "location", "protocol", "meterType", "pollInterval", "staleAfter", "maxPower",
    }),
)  # fmt: skip
def test_what_the_service_gives_cannot_be_given(field: str) -> None:
    assert faults_of({**registration(), field: 1}) == {
        field: "is given by the service; leave it out"
    }


@pytest.mark.parametrize("quantity", QUANTITY_NAMES)
def test_what_was_measured_cannot_be_given(quantity: str) -> None:
    meter = parse(registration({"registers": {quantity: 1, "power": 2}}))
    state = MeterState(meter, reading=Reading({quantity: 5.0}, 0.0, 0))
    for field in render.meter(state).keys() - keys_of(RegistrationKeys, camel_case).keys():
        assert "leave it out" in faults_of({**registration(), field: 1})[field]


def test_keys_that_do_not_go_with_the_transport() -> None:
    serial = {"serialPort": "/dev/x", "baudrate": 1200, "parity": "N", "stopbits": 1, "bytesize": 8}
    for transport in ("tcp", "rtu-over-tcp"):
        faults = faults_of(registration({**serial, "transport": transport}))
        message = f"does not go with transport {transport!r}; leave it out"
        assert faults == {f"communication.{name}": message for name in serial}
    message = "does not go with transport 'rtu'; leave it out"
    assert faults_of(serial_registration(host="h", port=1)) == {
        "communication.host": message,
        "communication.port": message,
    }
    assert faults_of(registration({"host": None, "transport": "rtu"})) == {
        "communication.serialPort": "is missing; transport 'rtu' needs it"
    }
    assert list(faults_of(registration({**serial, "transport": "udp"}))) == [
        "communication.transport"
    ]


@pytest.mark.parametrize("unit_id", [0, 248, 255])
def test_only_tcp_devices_may_have_a_unit_id_beyond_the_serial_ones(unit_id: int) -> None:
    assert modbus(registration({"unitId": unit_id})).unit_id == unit_id
    message = f"must be 1 to 247 on a serial line, not {unit_id}"
    for document in (
        serial_registration(unitId=unit_id),
        registration({"transport": "rtu-over-tcp", "unitId": unit_id}),
    ):
        assert faults_of(document) == {"communication.unitId": message}


@pytest.mark.parametrize(
    "host",
    [
        "192.168.1.150:502", "http://meter", "modbus://10.0.0.1", "192.168.1", "192.168.1.300",
        "192.168.001.5", "10.0.0.1 ", "[::1]", "a b", "-meter", "meter/1", "fe80::xyz",
        "fe80::1%", "fe80::1%\ud800", "fe80::1%eth0\n", "::1%" + "x" * 16, "ä.de",
    ],
)  # fmt: skip
def test_a_host_is_a_bare_name_or_address(host: str) -> None:
    (fault,) = faults_of(registration({"host": host})).items()
    assert fault[0] == "communication.host"
    assert fault[1].endswith("the port goes into 'port'")


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "meter", "wago_1.plant-2.local", "3com.local"])
def test_hosts_that_are_one(host: str) -> None:
    assert modbus(registration({"host": host})).endpoint.host == host


@pytest.mark.parametrize(
    ("path", "low", "high"),
    [
        ("pollInterval", 200, 3_600_000),
        ("communication.timeout", 50, 60_000),
        ("communication.retries", 0, 10),
        ("communication.requestDelay", 0, 10_000),
        ("communication.unitId", 0, 255),
        ("communication.port", 1, 65535),
        ("communication.maxRegistersPerRequest", 1, 125),
        ("communication.maxGap", 0, 124),
    ],
)
def test_whole_numbers_have_their_limits(path: str, low: int, high: int) -> None:
    def with_value(value: int) -> dict[str, Any]:
        outer, _, inner = path.rpartition(".")
        return registration({inner: value}) if outer else {**registration(), path: value}

    for value in (low, high):
        parse(with_value(value))
    for value in (low - 1, high + 1):
        assert faults_of(with_value(value))[path].startswith(f"must be {low:,} to {high:,}")


@pytest.mark.parametrize(
    ("registers", "path", "message"),
    [
        (
            {"powerExport": 2, "voltage": 3},
            "powerExport",
            "is taken off power; give power too",
        ),
        (
            {"power": 1, "energyHigh": 2},
            "energyHigh",
            "is the high word of energy; give energy too",
        ),
        (
            {"energy": 5, "energyHigh": 5},
            "energyHigh",
            "goes with an energy that is another single uint16 register; for a wider type leave "
            "energyHigh out",
        ),
        (
            {"energy": {"address": 5, "type": "uint32"}, "energyHigh": 7},
            "energyHigh",
            "goes with an energy that is another single uint16 register; for a wider type leave "
            "energyHigh out",
        ),
        (
            {"energy": 5, "energyHigh": {"address": 7, "registerType": "input"}},
            "energyHigh",
            "must have the same registerType as energy",
        ),
        (
            {"energy": 5, "energyHigh": {"address": 7, "scale": 65536}},
            "energyHigh",
            "is one number with energy; give scale and notAvailable there",
        ),
        (
            {"energy": 0, "energyHigh": 125},
            "energy",
            "spans 126 registers, more than maxRegistersPerRequest (125) reads at once",
        ),
        (
            {"power": {"address": 65535, "type": "int32"}},
            "power",
            "an address of 65535 is too high for int32; the last register is 65535",
        ),
        (
            {"power": {"address": 1, "notAvailable": 65536}},
            "power.notAvailable",
            "must be 0 to 65,535, the raw unsigned number, not 65,536",
        ),
    ],
)
def test_registers_that_do_not_fit_together(
    registers: dict[str, Any], path: str, message: str
) -> None:
    assert register_faults(registers) == {path: message}


def test_the_widest_and_last_registers_there_are() -> None:
    assert read_by({"energy": 0, "energyHigh": 124})["energy"].words == (124, 0)
    last = read_by({"power": {"address": 65532, "type": "float64", "notAvailable": 2**64 - 1}})
    assert last["power"].stop == 65536
    message = register_faults({"power": {"address": 1, "type": "int32"}}, maxRegistersPerRequest=1)
    assert list(message) == ["power"]


def test_no_nesting_is_too_deep() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = {"a": deep}
    assert list(faults_of(registration(deeper=deep))) == ["deeper"]
    assert set(faults_of(registration({"registers": {"power": deep}}))) == {
        "communication.registers.power.a",
        "communication.registers.power.address",
    }


REGISTER_NAMES = [*QUANTITY_NAMES, "energyHigh", *(f"{name}Scale" for name in QUANTITY_NAMES)]
ENTRIES = st.integers(-1, 70000) | JSON_VALUES | some_of(keys_of(RegisterKeys, camel_case))
COMMUNICATIONS = st.builds(
    lambda base, registers, more: {**base, "registers": registers, **more},
    st.sampled_from([{}, {"host": "h"}, {"transport": "rtu", "serialPort": "/dev/x"}]),
    some_of(REGISTER_NAMES, ENTRIES) | JSON_VALUES,
    some_of(keys_of(ModbusKeys, camel_case)),
)
REGISTRATIONS = JSON_VALUES | st.builds(
    lambda base, communication, more: {**base, "communication": communication, **more},
    st.sampled_from([{}, {"name": "A", "protocol": "modbus", "meterType": "zone"}]),
    COMMUNICATIONS | JSON_VALUES,
    some_of(keys_of(RegistrationKeys, camel_case)),
)


@settings(max_examples=400, deadline=None)
@given(REGISTRATIONS)
def test_any_document_is_a_meter_or_named_faulty(document: Any) -> None:
    is_taken_or_named_faulty(document)


addresses = st.integers(0, 65535)
scales = st.sampled_from([0.1, 0.001, 1, -2.5]) | st.floats(1e-12, 1e12)
long_forms = st.fixed_dictionaries(
    {"address": st.integers(0, 65532)},
    optional={
        "type": st.sampled_from(["int16", "uint32", "float64"]),
        "registerType": st.sampled_from(["holding", "input"]),
        "wordOrder": st.sampled_from(["big", "little"]),
        "scale": scales,
        "notAvailable": st.integers(0, 65535),
    },
)
sound_registrations = st.fixed_dictionaries(
    {
        "name": st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=100),
        "protocol": st.just("modbus"),
        "meterType": st.sampled_from(["grid", "building", "solar", "zone"]),
        "communication": st.fixed_dictionaries(
            {
                "host": st.just("meter"),
                "registers": st.dictionaries(
                    st.sampled_from([name for name in QUANTITY_NAMES if name != "powerExport"]),
                    addresses | long_forms,
                    min_size=1,
                ),
            },
            optional={
                "unitId": st.integers(0, 255),
                "wordOrder": st.sampled_from(["big", "little"]),
                "maxGap": st.integers(0, 124),
                "timeout": st.integers(50, 60_000),
                "invert": st.booleans(),
            },
        ),
    },
    optional={"pollInterval": st.integers(200, 3_600_000), "maxPower": st.floats(0.001, 1e6)},
)


@settings(deadline=None)
@given(sound_registrations)
def test_a_meters_document_makes_the_same_meter_again(document: dict[str, Any]) -> None:
    meter = parse(document)
    stored = json.loads(json.dumps(meter.document))
    again = parse(stored)
    assert stored == document
    for name in ("name", "meter_type", "poll_interval_ms", "stale_after_ms", "max_power_kw"):
        assert getattr(again, name) == getattr(meter, name)
    assert again.communication == meter.communication


# --- Lines that are shared ---


def test_one_wire_has_one_set_of_line_settings() -> None:
    slow, fast = parse(serial_registration()), parse(serial_registration(baudrate=19200))
    other = parse_meter(slow.document, "meter_2", 1, References())
    (fault,) = line_conflicts(fast, [other])
    assert fault == Fault(
        "communication.serialPort",
        "/dev/x is used with 9600 8N1 by meter 'Main'; give the same baudrate, bytesize, parity "
        "and stopbits",
    )
    assert line_conflicts(slow, [other]) == []
    assert line_conflicts(fast, [slow]) == [], "a meter is in no conflict with what it was"


def test_one_endpoint_has_one_framing() -> None:
    plain = parse(registration())
    other = parse_meter(registration({"transport": "rtu-over-tcp"}), "meter_2", 1, References())
    (fault,) = line_conflicts(other, [plain])
    assert fault == Fault(
        "communication.transport",
        "10.0.0.1:502 is used as tcp by meter 'Main'; give the same transport",
    )
    elsewhere = parse_meter(
        registration({"transport": "rtu-over-tcp", "port": 503}), "meter_3", 2, References()
    )
    assert line_conflicts(elsewhere, [plain, other]) == []
    assert line_conflicts(parse(serial_registration()), [plain, other]) == []


def test_a_broker_is_a_line_and_no_two_of_them_clash() -> None:
    meters = [
        parse_meter(document, f"meter_{number}", number, References(brokers=("default", "plant")))
        for number, document in enumerate(
            (
                registration(),
                registration({"host": None, "registers": None, "topicPower": "a"}, protocol="mqtt"),
                registration(
                    {"host": None, "registers": None, "topicPower": "a", "broker": "plant"},
                    protocol="mqtt",
                ),
            )
        )
    ]
    assert [meter.line for meter in meters] == ["tcp://10.0.0.1:502", "mqtt:default", "mqtt:plant"]
    for meter in meters:
        assert line_conflicts(meter, meters) == []


# --- Templates ---


def a_template(communication: dict[str, Any], **keys: Any) -> Template:
    document = {
        "title": "A meter",
        "maker": "Maker",
        "models": ["One"],
        "protocol": "modbus",
        "source": "the maker's document, page 1",
        "communication": communication,
        **keys,
    }
    return parse_template("maker-one", document)


SHELLY = a_template(
    {
        "topicPower": "shellies/{device}/emeter/{channel}/power",
        "topicEnergy": "shellies/{device}/emeter/{channel}/total",
        "energyScale": 0.001,
    },
    protocol="mqtt",
    parameters={
        "device": {"title": "Id of the device", "example": "shellyem-3a7c1f"},
        "channel": {"title": "Channel", "example": "1", "default": "0"},
    },
)
ABB = a_template(
    {
        "maxRegistersPerRequest": 60,
        "registers": {
            "power": {"address": 23316, "type": "int32", "scale": 0.00001},
            "voltage": {"address": 23296, "type": "uint32", "scale": 0.1},
        },
    },
    serial={"baudrate": 19200, "parity": "E"},
)
LIBRARY = References({"abb-b23": ABB, "shelly-em": SHELLY})


def with_template(name: Any = "abb-b23", protocol: str = "modbus", **keys: Any) -> dict[str, Any]:
    return {
        "name": "Main",
        "protocol": protocol,
        "meterType": "grid",
        "communication": {"template": name, **keys},
    }


def test_a_template_and_a_host_are_a_complete_communication() -> None:
    document = with_template(host="10.0.0.1")
    meter = parse(document, LIBRARY)
    assert meter.document == document, "what the template fills in is not stored"
    assert (
        meter.communication
        == parse(registration({**ABB.communication, "host": "10.0.0.1"})).communication
    )


def test_a_template_is_good_for_a_serial_line_too() -> None:
    meter = parse(with_template(serialPort="/dev/x", parity="N"), LIBRARY)
    assert meter.communication.endpoint == ModbusEndpoint(
        "rtu", serial_port="/dev/x", baudrate=19200, parity="N", stopbits=1, bytesize=8
    )


def test_what_is_given_beside_a_template_wins_key_by_key() -> None:
    registers = {"power": {"scale": 0.001}, "frequency": 5}
    document = with_template(host="h", registers=registers, maxRegistersPerRequest=9)
    communication = modbus(document, LIBRARY)
    assert communication.max_registers_per_request == 9
    assert communication.registers == (
        Register("power", 3, (23316, 23317), "int", Fraction(1, 1000)),
        Register("voltage", 3, (23296, 23297), "uint", Fraction(1, 10)),
        Register("frequency", 3, (5,), "uint"),
    )
    shelly = parse(
        with_template("shelly-em", "mqtt", device="d", energyScale=1, topicVoltage="v"), LIBRARY
    ).communication
    assert isinstance(shelly, MqttCommunication)
    assert shelly.topics == (
        TopicUse(
            "shellies/d/emeter/0/power", (Field("power", assumed=Fraction(1, 1000)),), fills=True
        ),
        TopicUse(
            "shellies/d/emeter/0/total", (Field("energy", None, Fraction(1), Fraction(1, 1000)),)
        ),
        TopicUse("v", (Field("voltage"),)),
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("abb-b32", "'abb-b32' is not in the device library; did you mean 'abb-b23'?"),
        (
            "xyz",
            "'xyz' is not in the device library; GET /api/templates and `dlm-edge templates` list "
            "them",
        ),
        ("shelly-em", "is for protocol 'mqtt'; give that as protocol"),
        (5, "must be the name of a template, not 5"),
        ({}, "must be the name of a template, not a table or object"),
        (["abb-b23"], "must be the name of a template, not a list"),
    ],
)
def test_a_template_that_is_none_here(name: object, message: str) -> None:
    assert faults_of(with_template(name, host="h"), LIBRARY) == {"communication.template": message}


def test_no_nesting_of_a_templates_name_is_too_deep() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert list(faults_of(with_template(deep), LIBRARY)) == ["communication.template"]


def test_faults_of_parameters_and_of_what_is_given_beside_come_at_once() -> None:
    document = with_template("shelly-em", "mqtt", channel="1/#", invert="yes", topicCurrent="+")
    faults = faults_of(document, LIBRARY)
    assert set(faults) == {
        "communication.device", "communication.channel", "communication.invert",
        "communication.topicCurrent",
    }  # fmt: skip
    assert faults["communication.device"].startswith("is missing; template 'maker-one' needs it: ")


def test_what_a_template_does_not_fix_is_asked_for() -> None:
    assert faults_of(with_template(), LIBRARY) == {
        "communication.host": "is missing; transport 'tcp' needs it"
    }
    assert faults_of(with_template(host="a b"), LIBRARY).keys() == {"communication.host"}


def test_a_template_with_faults_of_its_own_is_one_fault() -> None:
    registers = {"power": {"address": -1}, "voltage": {"address": 1, "type": "uint8"}}
    library = References({"mine": a_template({"registers": registers, "portt": 5})})
    assert faults_of(with_template("mine", host="h", unitId=300), library) == {
        "communication.unitId": "must be 0 to 255, not 300",
        "communication.template": "does not work like this: maker-one: communication.portt: "
        "unknown key; did you mean 'port'? (and 2 more)",
    }


def test_what_is_given_may_not_break_the_template() -> None:
    (fault,) = faults_of(with_template(host="h", maxRegistersPerRequest=1), LIBRARY).items()
    assert fault == (
        "communication.template",
        "does not work like this: maker-one: communication.registers.power: spans 2 registers, "
        "more than maxRegistersPerRequest (1) reads at once (and 1 more)",
    )


class Unreadable(dict[str, Template]):
    """A library whose file, or whose folder, cannot be used."""

    def __init__(self, source: str, *faults: Fault) -> None:
        super().__init__({"mine": ABB})
        self._error = ConfigError(source, faults)

    def get(self, name: str, default: Any = None) -> Any:
        raise self._error


def test_a_users_template_that_cannot_be_read_is_one_clear_fault() -> None:
    faults = (Fault("title", "is missing; give it"), Fault("maker", "is missing; give it"))
    library = References(Unreadable("/x/mine.toml", *faults))
    assert faults_of(with_template("mine", host="h"), library) == {
        "communication.template": "cannot be used: mine.toml: title: is missing; give it (and "
        "1 more)"
    }
    library = References(Unreadable("", Fault("/x", "this folder cannot be read")))
    assert faults_of(with_template("mine", host="h"), library) == {
        "communication.template": "cannot be used: x: this folder cannot be read"
    }


@settings(deadline=None)
@given(
    st.sampled_from(["abb-b23", "shelly-em"]) | JSON_VALUES,
    st.sampled_from(list(PROTOCOLS)),
    some_of(["device", "channel", "host", *keys_of(ModbusKeys, camel_case), "topicPower"]),
)
def test_any_keys_beside_a_template_are_taken_or_named_faulty(
    name: Any, protocol: str, keys: dict[str, Any]
) -> None:
    document = with_template(name, protocol)
    is_taken_or_named_faulty(
        {**document, "communication": {**keys, **document["communication"]}}, LIBRARY
    )


# --- Times ---


@pytest.mark.parametrize(
    ("protocol", "communication", "poll_interval_ms", "stale_after_ms"),
    [
        ("modbus", {"host": "h", "registers": {"power": 1}}, 5000, 15_000),
        ("mqtt", {"topicPower": "a"}, None, 60_000),
        ("http", {"url": "http://h"}, 30_000, 90_000),
    ],
)
def test_each_protocol_has_its_times(
    protocol: str, communication: dict[str, Any], poll_interval_ms: int | None, stale_after_ms: int
) -> None:
    document = {**registration(protocol=protocol), "communication": communication}
    meter = parse(document)
    assert (meter.poll_interval_ms, meter.stale_after_ms) == (poll_interval_ms, stale_after_ms)
    meter = parse({**document, "pollInterval": 1000, "staleAfter": 7000})
    assert meter.poll_interval_ms == (None if protocol == "mqtt" else 1000)
    assert meter.stale_after_ms == 7000


def test_a_faulty_interval_or_protocol_is_not_compared() -> None:
    assert faults_of(registration(pollInterval=1, staleAfter=900)).keys() == {"pollInterval"}
    assert faults_of(registration(protocol="mbus", staleAfter=900)).keys() == {"protocol"}
