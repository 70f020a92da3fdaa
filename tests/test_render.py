"""The outward spelling, compared as whole answers."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from edge import render
from edge.communication import ModbusCommunication
from edge.diagnosis import Diagnosis
from edge.errors import Cause, Fault
from edge.interpret import Interpretation
from edge.load import load_status
from edge.model import (
    BuildingConsumption,
    Exchange,
    Finding,
    LoadQuality,
    MeterState,
    Quality,
    Snapshot,
    Status,
)
from edge.template import Parameter, Template
from tests.building import a_meter, a_reading, a_speaking_meter

UNIX_MS = 1_760_956_200_123


def a_snapshot(*states: MeterState) -> Snapshot:
    return Snapshot(
        tick=7,
        mono_s=12.5,
        unix_ms=UNIX_MS,
        load=load_status(states, 500.0, 0.0),
        meters={state.meter.id: state for state in states},
    )


def an_online_state() -> MeterState:
    meter = a_meter("Main Building Meter", location="main-building", pollInterval=5000)
    reading = a_reading(10.0, power=28.5, energy=15420.3, voltage=230.1)
    return MeterState(meter, status=Status.ONLINE, reading=replace(reading, unix_ms=UNIX_MS))


def test_a_meter_has_the_fields_of_the_guide() -> None:
    state = an_online_state()
    assert render.meter(state) == {
        "id": state.meter.id,
        "name": "Main Building Meter",
        "location": "main-building",
        "protocol": "modbus",
        "meterType": "grid",
        "pollInterval": 5000,
        "staleAfter": 15000,
        "maxPower": None,
        "status": "online",
        "currentPower": 28.5,
        "totalEnergy": 15420.3,
        "voltage": 230.1,
        "current": None,
        "powerFactor": None,
        "frequency": None,
        "lastUpdate": "2025-10-20T10:30:00.123Z",
        "lastError": None,
        "quality": "good",
        "hints": [],
    }


def test_a_meter_never_read_has_null_for_every_value() -> None:
    shown = dict(render.meter(MeterState(a_meter())))
    values = ("currentPower", "totalEnergy", "voltage", "current", "powerFactor", "frequency")
    assert [shown[name] for name in values] == [None] * 6
    assert (shown["lastUpdate"], shown["status"], shown["quality"]) == (None, "pending", "none")


def test_a_meter_on_its_own_shows_how_it_is_read() -> None:
    state = an_online_state()
    communication = {
        "host": "127.0.0.1",
        "port": 502,
        "registers": {"power": 0, "energy": 1, "voltage": 2},
    }
    assert render.meter_details(state) == {
        **render.meter(state),
        "communication": communication,
        "warnings": [],
    }


def test_quantities_beyond_the_usual_appear_where_the_meter_is_to_give_them() -> None:
    registers = {"power": 0, "powerExport": 1, "reactivePower": 2}
    meter = a_meter(communication={"host": "a", "registers": registers})
    shown = render.meter(
        MeterState(meter, status=Status.ONLINE, reading=a_reading(power=1.0, powerExport=2.0))
    )
    assert (shown["powerExport"], shown["reactivePower"]) == (2.0, None)
    assert "energyExport" not in shown


def test_quantities_that_came_appear_although_nobody_asked_for_them() -> None:
    state = MeterState(a_speaking_meter(), reading=a_reading(power=1.0, voltageL2=231.0))
    assert render.meter(state)["voltageL2"] == 231.0


def test_a_retained_reading_is_shown_but_nobody_knows_how_old_it_is() -> None:
    meter = a_speaking_meter()
    state = MeterState(meter, reading=a_reading(10.0, live=False, power=28.5))
    shown = render.meter(state)
    assert (shown["currentPower"], shown["lastUpdate"]) == (28.5, None)
    assert (shown["status"], shown["quality"], shown["pollInterval"]) == ("pending", "stale", None)
    reading = render.reading(state, a_snapshot(state))
    assert reading["currentPower"] == 28.5
    assert (reading["timestamp"], reading["ageSeconds"]) == (None, None)


def test_a_reading_tells_its_age() -> None:
    state = an_online_state()
    assert render.reading(state, a_snapshot(state)) == {
        "meterId": state.meter.id,
        "currentPower": 28.5,
        "totalEnergy": 15420.3,
        "voltage": 230.1,
        "current": None,
        "powerFactor": None,
        "frequency": None,
        "timestamp": "2025-10-20T10:30:00.123Z",
        "ageSeconds": 2.5,
        "quality": "good",
        "hints": [],
    }


def test_no_reading_has_no_age() -> None:
    state = MeterState(a_meter())
    shown = render.reading(state, a_snapshot(state))
    assert (shown["ageSeconds"], shown["timestamp"], shown["quality"]) == (None, None, "none")


@pytest.mark.parametrize(
    ("status", "hints", "quality"),
    [
        (Status.ONLINE, ("It is huge.",), "suspect"),
        (Status.ERROR, (), "stale"),
        (Status.OFFLINE, ("It is huge.",), "stale"),
    ],
)
def test_what_is_not_live_is_flagged(status: Status, hints: tuple[str, ...], quality: str) -> None:
    state = MeterState(
        a_meter(),
        status=status,
        reading=a_reading(hints=hints, power=1.0),
        last_error="It is silent.",
    )
    shown = render.reading(state, a_snapshot(state))
    assert (shown["quality"], shown["hints"]) == (quality, list(hints))
    assert render.meter(state)["lastError"] == "It is silent."


def test_the_load_status_is_in_the_guides_words() -> None:
    snapshot = a_snapshot(an_online_state())
    assert render.load_status(snapshot.load, snapshot) == {
        "gridCapacity": 500.0,
        "pvProduction": 0.0,
        "buildingConsumption": 28.5,
        "availableCapacity": 471.5,
        "overload": 0.0,
        "timestamp": "2025-10-20T10:30:00.123Z",
        "quality": "good",
        "reasons": [],
    }


def test_building_consumption_names_what_is_excluded() -> None:
    sums = BuildingConsumption(45.3, 28450.2, 2, ("meter_x",), LoadQuality.DEGRADED)
    assert render.building_consumption(sums, a_snapshot()) == {
        "currentPower": 45.3,
        "totalEnergy": 28450.2,
        "meterCount": 2,
        "timestamp": "2025-10-20T10:30:00.123Z",
        "quality": "degraded",
        "excluded": ["meter_x"],
    }


def test_success_and_failure_have_one_shape_each() -> None:
    assert render.success({"a": 1}) == {"success": True, "data": {"a": 1}}
    assert render.success([1, 2]) == {"success": True, "data": [1, 2], "count": 2}
    assert render.failure("It is wrong.", "WRONG", [Fault("a.b", "must be 1")]) == {
        "success": False,
        "error": "It is wrong.",
        "code": "WRONG",
        "details": [{"field": "a.b", "message": "must be 1"}],
    }


def test_nan_is_never_sent() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        render.dump({"power": float("nan")})


def test_a_diagnosis_says_all_that_was_found_as_a_whole() -> None:
    found = Diagnosis(
        exchanges=(
            Exchange("unit 1: holding register 9", "6f54", 0.01234),
            Exchange("unit 1: holding register 10", error="It is refused."),
        ),
        values={"power": 28_500.0, "energy": 1542.3, "powerL1": 9.5},
        quality=Quality.SUSPECT,
        hints=("power reads 28500 kW.",),
        findings=(Finding(Cause.WRONG_VALUES, "power reads 28500 kW."),),
        interpretations={
            "power": (
                Interpretation(
                    "power", 9, "int16", "big", Fraction(1, 1000), 28.5, "it counts in W", 2.0
                ),
            ),
            "energy": (),
        },
    )
    assert render.diagnosis(found, a_meter()) == {
        "line": "tcp://127.0.0.1:502",
        "reading": {"currentPower": 28_500.0, "totalEnergy": 1542.3, "powerL1": 9.5},
        "quality": "suspect",
        "hints": ["power reads 28500 kW."],
        "findings": [{"cause": "wrong_values", "message": "power reads 28500 kW."}],
        "exchanges": [
            {
                "request": "unit 1: holding register 9",
                "raw": "6f54",
                "roundTripMs": 12.3,
                "error": None,
            },
            {
                "request": "unit 1: holding register 10",
                "raw": None,
                "roundTripMs": None,
                "error": "It is refused.",
            },
        ],
        "interpretations": {
            "power": [
                {
                    "value": 28.5,
                    "why": "it counts in W",
                    "register": {
                        "address": 9,
                        "type": "int16",
                        "wordOrder": "big",
                        "scale": 0.001,
                    },
                }
            ],
            "energy": [],
        },
    }


def test_the_register_of_an_interpretation_can_be_registered() -> None:
    other = Interpretation(
        "power", 9, "float32", "little", Fraction(1, 1000), 28.5, "it is float32", 1.0
    )
    found = Diagnosis((), {}, Quality.NONE, (), (), {"power": (other,)})
    document = render.diagnosis(found, a_meter())
    (power,) = document["interpretations"]["power"]
    communication = {"host": "127.0.0.1", "registers": {"power": power["register"]}}
    registered = a_meter(communication=communication).communication
    assert isinstance(registered, ModbusCommunication)
    (register,) = registered.registers
    assert (register.words, register.kind, register.scale) == ((10, 9), "float", Fraction(1, 1000))


def test_a_template_as_the_list_shows_it_and_on_its_own() -> None:
    template = Template(
        name="a-device",
        title="A device",
        maker="M",
        models=("A", "B"),
        protocol="mqtt",
        communication={"topicPower": "{device}/power"},
        source="The manual, page 1",
        caveats=("Slow.",),
        meter_types=("grid",),
        parameters={"device": Parameter("Its id", "abc")},
        serial={"baudrate": 9600},
        identify=None,
    )
    listed = {
        "name": "a-device",
        "title": "A device",
        "maker": "M",
        "models": ["A", "B"],
        "protocol": "mqtt",
        "meterTypes": ["grid"],
        "parameters": {"device": {"title": "Its id", "example": "abc", "default": None}},
        "caveats": ["Slow."],
        "source": "The manual, page 1",
    }
    assert render.template(template) == listed
    assert render.template_details(template) == {
        **listed,
        "communication": {"topicPower": "{device}/power"},
        "serial": {"baudrate": 9600},
    }


@pytest.mark.parametrize(("verify_tls", "warnings"), [(True, 0), (False, 1)])
def test_a_certificate_that_is_not_checked_is_flagged_in_the_meters_answer(
    verify_tls: bool, warnings: int
) -> None:
    communication = {"url": "https://127.0.0.1/", "verifyTls": verify_tls, "authToken": "secret"}
    meter = a_meter(protocol="http", pollInterval=None, communication=communication)
    document = render.meter_details(MeterState(meter))
    assert len(document["warnings"]) == warnings
    assert document["communication"] == {**communication, "authToken": "***"}
    assert all("verifyTls is false" in warning for warning in document["warnings"])
