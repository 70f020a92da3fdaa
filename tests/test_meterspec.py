"""Registrations into meters: the user guide's own, every key, every fault at its path."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import render
from edge.errors import Fault, Faulty
from edge.meterspec import (
    ModbusKeys,
    RegisterKeys,
    RegistrationKeys,
    line_conflicts,
    merge_patch,
    parse_meter,
)
from edge.model import (
    QUANTITY_NAMES,
    Endpoint,
    Meter,
    MeterState,
    ModbusCommunication,
    Reading,
    Register,
)
from edge.structure import camel_case, keys_of

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


def parse(document: Any) -> Meter:
    return parse_meter(document, "meter_1", 0)


def read_by(registers: dict[str, Any], **communication: Any) -> dict[str, Register]:
    meter = parse(registration({**communication, "registers": registers}))
    return {register.quantity: register for register in meter.communication.registers}


def faults_of(document: Any) -> dict[str, str]:
    with pytest.raises(Faulty) as caught:
        parse(document)
    return {fault.path: fault.message for fault in caught.value.faults}


def register_faults(registers: Any, **communication: Any) -> dict[str, str]:
    """The faults of a meter that has these registers, by their paths below them."""
    faults = faults_of(registration({**communication, "registers": registers}))
    assert all(path.startswith("communication.registers") for path in faults)
    return {path[len("communication.registers.") :]: message for path, message in faults.items()}


# --- The user guide's registrations ---


def test_the_guides_first_meter() -> None:
    meter = parse_meter(json.loads(MAIN_BUILDING_METER), "meter_7", 3)
    assert meter.document == json.loads(MAIN_BUILDING_METER)
    assert (meter.id, meter.slot, meter.name, meter.location) == (
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
        endpoint=Endpoint("tcp", "192.168.1.150", 502),
        unit_id=1,
        timeout_s=1.0,
        retries=1,
        request_delay_s=0.0,
        registers=(
            Register("power", 3, (20480,), "uint", (1, 1)),
            Register("energy", 3, (20483, 20482), "uint", (1, 1000)),
            Register("voltage", 3, (20484,), "uint", (1, 10)),
            Register("current", 3, (20486,), "uint", (1, 1000)),
        ),
        max_registers_per_request=125,
        max_gap=8,
        invert=False,
    )


def test_the_guides_abb_b23() -> None:
    assert parse(json.loads(ABB_B23)).communication.registers == (
        Register("power", 3, (20480,), "uint", (1, 1)),
        Register("energy", 3, (20483, 20482), "uint", (1, 1000)),
        Register("voltage", 3, (20484,), "uint", (1, 10)),
        Register("current", 3, (20486,), "uint", (1, 1000)),
        Register("powerFactor", 3, (20488,), "uint", (1, 1000)),
        Register("frequency", 3, (20490,), "uint", (1, 100)),
    )


def test_the_guides_schneider() -> None:
    assert parse(json.loads(SCHNEIDER_IEM3000)).communication.registers == (
        Register("power", 3, (3059,), "uint", (1, 1)),
        Register("energy", 3, (45056,), "uint", (1, 1)),
        Register("voltage", 3, (3027,), "uint", (1, 10)),
        Register("current", 3, (3000,), "uint", (1, 1000)),
        Register("powerFactor", 3, (3078,), "uint", (1, 1000)),
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
        endpoint=Endpoint("rtu-over-tcp", "gateway.local", 4001),
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
    assert parse(serial_registration()).communication.endpoint == Endpoint(
        "rtu", serial_port="/dev/x", baudrate=9600, parity="N", stopbits=1, bytesize=8
    )
    meter = parse(serial_registration(baudrate=19200, parity="E", stopbits=1.5, bytesize=7))
    assert meter.line == "rtu:/dev/x"
    assert meter.communication.endpoint == Endpoint(
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
    assert registers["power"] == Register("power", 3, (1,), "uint", (1, 1000))
    assert registers["voltage"] == Register("voltage", 4, (2,), "uint", (1, 1), 65535)
    assert registers["current"] == Register("current", 4, (3,), "uint")


def test_the_high_word_stands_where_it_is_said_to_stand() -> None:
    for order in ("big", "little"):
        registers = read_by({"energy": 10, "energyHigh": 20, "energyScale": 0.1}, wordOrder=order)
        assert registers == {"energy": Register("energy", 3, (20, 10), "uint", (1, 10))}


def test_every_quantity_can_be_read_and_scaled() -> None:
    document: dict[str, Any] = {name: number for number, name in enumerate(QUANTITY_NAMES)}
    scales = {f"{name}Scale": 0.25 for name in QUANTITY_NAMES}
    registers = read_by({**document, **scales})
    assert list(registers) == list(QUANTITY_NAMES)
    assert {register.scale for register in registers.values()} == {(1, 4)}


def test_a_scale_beside_a_registers_own_multiplies_it() -> None:
    registers = read_by({"power": {"address": 1, "scale": 0.01}, "powerScale": 0.001})
    assert registers["power"].scale == (1, 100_000)


@pytest.mark.parametrize(
    ("scale", "fraction"),
    [(0.1, (1, 10)), (1e-12, (1, 10**12)), (-1, (-1, 1)), (1.234, (617, 500)), (1e12, (10**12, 1))],
)
def test_a_scale_is_the_decimal_number_it_was_written_as(
    scale: float, fraction: tuple[int, int]
) -> None:
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
        "communication.registers": "is missing; give it"
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
    assert faults_of(document) == {"protocol": "'bacnet' is not supported; known: modbus"}


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
    assert parse(registration({"unitId": unit_id})).communication.unit_id == unit_id
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
    assert parse(registration({"host": host})).communication.endpoint.host == host


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


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 502, 65535, 10**30, 0.1, -1.0, "tcp", "rtu", "input", "big", "int32"])
    | st.floats()
    | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=6,
)


def some_of(
    names: Any, values: st.SearchStrategy[Any] = JSON_VALUES
) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the names, and now and then another."""
    keys = st.sampled_from(list(names)) | st.text(st.characters(), max_size=6)
    return st.dictionaries(keys, values, max_size=6)


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
    before = copy.deepcopy(document)
    faults: tuple[Fault, ...] = ()
    try:
        parse(document)
    except Faulty as exc:
        faults = exc.faults
        assert faults, "refused without a reason"
    assert repr(document) == repr(before)
    for fault in faults:
        assert str(fault).isprintable()
        assert fault.message


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


# --- Lines that are shared ---


def test_one_wire_has_one_set_of_line_settings() -> None:
    slow, fast = parse(serial_registration()), parse(serial_registration(baudrate=19200))
    other = parse_meter(slow.document, "meter_2", 1)
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
    other = parse_meter(registration({"transport": "rtu-over-tcp"}), "meter_2", 1)
    (fault,) = line_conflicts(other, [plain])
    assert fault == Fault(
        "communication.transport",
        "10.0.0.1:502 is used as tcp by meter 'Main'; give the same transport",
    )
    elsewhere = parse_meter(registration({"transport": "rtu-over-tcp", "port": 503}), "meter_3", 2)
    assert line_conflicts(elsewhere, [plain, other]) == []
    assert line_conflicts(parse(serial_registration()), [plain, other]) == []
