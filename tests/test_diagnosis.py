"""What a probe brought, judged: findings in their order, quality, and better readings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.communication import ModbusCommunication
from edge.decode import decode_register
from edge.diagnosis import Diagnosis, diagnose
from edge.errors import BadReply, Cause
from edge.model import QUANTITY_NAMES, Exchange, Finding, Meter, Outcome, Probe, Quality
from tests.building import a_meter, a_speaking_meter

CAPACITY_KW = 500.0
REGISTERS = {
    "power": {"address": 100, "type": "int32", "scale": 0.001},
    "energy": {"address": 102, "type": "uint32", "scale": 0.001},
    "voltage": {"address": 104, "scale": 0.1},
    "current": {"address": 105, "scale": 0.01},
    "powerFactor": {"address": 106, "scale": 0.001},
    "frequency": {"address": 107, "scale": 0.01},
}
WORDS = dict(enumerate([0, 28500, 23, 34972, 2301, 4346, 950, 5001], 100))
LATER = {**WORDS, 103: 34972 + 79}
"""28.5 kW for 10 s are 79 Wh."""
NOTHING_WRONG = (Finding(Cause.NONE, "Everything was read, and the values are plausible."),)


def a_modbus_meter(meter_type: str = "grid", **registers: Any) -> Meter:
    communication = {"host": "127.0.0.1", "registers": {**REGISTERS, **registers}}
    return a_meter(meterType=meter_type, communication=communication)


def probed(
    meter: Meter, words: Mapping[int, int] = WORDS, later: Mapping[int, int] = LATER, **more: Any
) -> Probe:
    """What a probe brings of a device with these holding registers."""
    assert isinstance(meter.communication, ModbusCommunication)
    values, raw = {}, {}
    for register in meter.communication.registers:
        read = tuple(words[address] for address in register.words)
        raw[register.quantity] = register, read
        value = decode_register(register, read, {})
        if value is not None:
            values[register.quantity] = value
    return Probe(
        outcome=Outcome(values, raw=raw),
        words={(3, address): word for address, word in words.items()},
        later_words={(3, address): word for address, word in later.items()},
        later_s=10.0,
        **more,
    )


def told(found: Diagnosis) -> list[tuple[Cause, str]]:
    return [(finding.cause, finding.message) for finding in found.findings]


def only_message(found: Diagnosis) -> str:
    """The message of the one finding, which says that values are wrong."""
    ((cause, message),) = told(found)
    assert cause is Cause.WRONG_VALUES
    return message


# --- Nothing wrong -------------------------------------------------------------------------------


def test_a_sound_meter_is_said_to_be_sound() -> None:
    meter = a_modbus_meter()
    exchanges = (Exchange("unit 1: holding registers 100 to 107", "0000", 0.01),)
    found = diagnose(meter, probed(meter, exchanges=exchanges), CAPACITY_KW)
    assert found.findings == NOTHING_WRONG
    assert (found.quality, found.hints, found.interpretations) == (Quality.GOOD, (), {})
    assert found.exchanges == exchanges
    assert found.values == {
        "power": 28.5, "energy": 1542.3, "voltage": 230.1, "current": 43.46,
        "powerFactor": 0.95, "frequency": 50.01,
    }  # fmt: skip


def test_a_payload_is_judged_without_words() -> None:
    probe = Probe(Outcome({"power": 5.0, "voltage": 230.0}))
    found = diagnose(a_speaking_meter(), probe, CAPACITY_KW)
    assert (found.findings, found.quality) == (NOTHING_WRONG, Quality.GOOD)
    probe = Probe(Outcome({"power": 28_500.0, "voltage": 230.0}))
    found = diagnose(a_speaking_meter(), probe, CAPACITY_KW)
    assert "multiply powerScale by 0.001" in only_message(found)
    assert (found.quality, found.interpretations) == (Quality.SUSPECT, {})


# --- What the probe found, and what follows ------------------------------------------------------


def test_without_an_answer_only_the_probes_findings_are_told() -> None:
    refused = Finding(Cause.CONNECTION_REFUSED, "Nothing listens there.")
    for outcome in (None, Outcome(error=BadReply("It is garbage."))):
        found = diagnose(a_meter(), Probe(outcome, findings=(refused,)), CAPACITY_KW)
        assert found.findings == (refused,)
        assert (found.quality, dict(found.values)) == (Quality.NONE, {})


def test_nothing_at_all_is_never_said_to_be_sound() -> None:
    for outcome in (None, Outcome()):
        found = diagnose(a_speaking_meter(), Probe(outcome), CAPACITY_KW)
        assert [cause for cause, _ in told(found)] == [Cause.NO_VALUE]
        assert found.quality is Quality.NONE


def test_what_the_meter_has_no_value_for_is_named() -> None:
    meter = a_modbus_meter(voltage={"address": 104, "scale": 0.1, "notAvailable": 0xFFFF})
    words = {**WORDS, 104: 0xFFFF}
    found = diagnose(meter, probed(meter, words, {**words, 103: LATER[103]}), CAPACITY_KW)
    ((cause, message),) = told(found)
    assert cause is Cause.NONE
    assert message.endswith("; the meter says that it has none for voltage.")


def test_what_the_probe_found_comes_before_what_the_values_tell() -> None:
    meter = a_modbus_meter(power={"address": 100, "type": "int32"})
    refused = Finding(Cause.ILLEGAL_ADDRESS, "reactivePower at 200 is refused.")
    found = diagnose(meter, probed(meter, findings=(refused,)), CAPACITY_KW)
    assert [finding.cause for finding in found.findings] == [
        Cause.ILLEGAL_ADDRESS,
        Cause.WRONG_VALUES,
    ]


def test_what_a_broker_had_retained_is_stale_however_good_it_looks() -> None:
    only_retained = Finding(Cause.ONLY_RETAINED, "Only what was retained came.")
    probe = Probe(Outcome({"power": 5.0}, live=False), findings=(only_retained,))
    found = diagnose(a_speaking_meter(), probe, CAPACITY_KW)
    assert (found.quality, found.findings) == (Quality.STALE, (only_retained,))


# --- Wrong values --------------------------------------------------------------------------------


def test_a_value_that_cannot_be_is_told_once_and_with_other_readings() -> None:
    """Voltage and current contradict it too, but would say nothing more, or something else."""
    meter = a_modbus_meter(power={"address": 100, "type": "uint32", "scale": 0.001})
    words = {**WORDS, 100: 0xFFFF, 101: 0x10000 - 8500, 105: 1296}
    found = diagnose(meter, probed(meter, words, words), CAPACITY_KW)
    message = only_message(found)
    assert found.hints == (message,)
    assert "it is signed, so set type to int32 to get -8.5" in message
    best = found.interpretations["power"][0]
    assert (best.type, best.address, best.value) == ("int32", 100, -8.5)
    assert found.quality is Quality.SUSPECT


def test_values_that_contradict_each_other_are_told_but_not_impossible() -> None:
    meter = a_modbus_meter(current={"address": 105, "scale": 10})
    found = diagnose(meter, probed(meter), CAPACITY_KW)
    message = only_message(found)
    assert message.startswith("power reads 28.5 kW, but voltage and current make ")
    assert message.endswith(
        ": likely current is wrong: the scale is 0.01; read as uint16 at 105 with scale 0.01 it "
        "is 43.46."
    )
    assert (found.quality, found.hints) == (Quality.GOOD, ())
    assert float(found.interpretations["current"][0].scale) == 0.01


def test_a_sign_that_was_forgotten_is_all_that_is_told() -> None:
    meter = a_modbus_meter(
        power={"address": 101, "scale": 0.001}, powerFactor={"address": 200, "notAvailable": 0}
    )
    words = {**WORDS, 101: 0x10000 - 13390, 102: 0, 103: 0, 105: 2000, 200: 0}
    found = diagnose(meter, probed(meter, words, words), CAPACITY_KW)
    assert only_message(found) == (
        "power reads 52.146 kW, but voltage and current make 2.657 to 13.81 kVA: likely it is "
        "signed; read as int16 at 101 with scale 0.001 it is -13.39."
    )
    assert found.quality is Quality.GOOD


def test_finding_and_interpretation_give_one_advice() -> None:
    """Two halves of two voltages make one, too, but the power starts at the address before."""
    meter = a_modbus_meter(
        power={"address": 301, "type": "float32"}, voltage={"address": 401, "type": "float32"}
    )
    floats = {300: 0x4224, 301: 0xEB85, 302: 0, 400: 0x4366, 401: 0x199A, 402: 0x4366, 403: 0xE666}
    words = {**WORDS, 104: 0, 106: 0, **floats}
    meter_values = probed(meter, words, words)
    found = diagnose(meter, meter_values, CAPACITY_KW)
    (message,) = (text for _, text in told(found) if text.startswith("voltage "))
    assert message.endswith(
        "V, outside 50..1000: likely it starts at 400; read as float32 at 400, big word order "
        "with scale 1 it is 230.1."
    )
    assert message in found.hints
    assert found.interpretations["voltage"][0].address == 400


def test_what_means_no_value_is_not_explained_by_its_neighbours() -> None:
    meter = a_modbus_meter(voltage={"address": 109, "scale": 0.1})
    words = {**WORDS, 108: 2301, 109: 0xFFFF, 110: 2301}
    found = diagnose(meter, probed(meter, words, {**LATER, **words, 103: LATER[103]}), CAPACITY_KW)
    assert "set notAvailable to 65535" in only_message(found)


def test_the_contradictions_of_other_phases_are_told_beside_what_is_impossible() -> None:
    values = {
        "power": 28_500.0, "voltage": 230.0, "current": 43.0,
        "powerL1": 100.0, "voltageL1": 230.0, "currentL1": 4.0,
    }  # fmt: skip
    found = diagnose(a_speaking_meter(), Probe(Outcome(values)), CAPACITY_KW)
    assert [message.split()[0] for _, message in told(found)] == ["power", "powerL1"]


def test_a_counter_that_runs_faster_than_the_power_is_doubted() -> None:
    meter = a_modbus_meter(energy={"address": 102, "type": "uint32"})
    found = diagnose(meter, probed(meter), CAPACITY_KW)
    assert only_message(found) == (
        "energy does not fit the other values: it counts in Wh, not kWh; read as uint32 at 102, "
        "big word order with scale 0.001 it is 1542.3."
    )


@pytest.mark.parametrize("address", [102, 103])
def test_half_of_a_counter_is_known_by_how_soon_it_runs_over(address: int) -> None:
    meter = a_modbus_meter(energy={"address": address, "scale": 0.001})
    found = diagnose(meter, probed(meter), CAPACITY_KW)
    assert only_message(found) == (
        "energy is read from 16 bits, which run over at 65.536 kWh, so it is likely half of a "
        "32-bit value: read as uint32 at 102, big word order with scale 0.001 it is 1542.3."
    )
    assert found.quality is Quality.GOOD, "it is possible as it is"


def test_half_of_a_counter_whose_other_half_was_not_read() -> None:
    meter = a_modbus_meter(energy={"address": 103, "scale": 0.001})
    words = {address: word for address, word in WORDS.items() if address != 102}
    found = diagnose(meter, probed(meter, words, words), CAPACITY_KW)
    assert only_message(found).endswith("look in the meter's manual for the other half.")


@pytest.mark.parametrize(
    ("energy", "capacity_kw"),
    [
        ({"address": 103, "scale": 1}, CAPACITY_KW),
        ({"address": 103, "scale": 0.1}, 20.0),
        ({"address": 102, "type": "uint32", "scale": 0.001}, CAPACITY_KW),
    ],
    ids=["whole kWh", "a small site", "32 bits"],
)
def test_a_counter_that_lasts_is_no_half(energy: dict[str, Any], capacity_kw: float) -> None:
    meter = a_modbus_meter(energy=energy)
    found = diagnose(meter, probed(meter, LATER), capacity_kw)
    assert not [message for _, message in told(found) if "16 bits" in message]


# --- Whatever comes ------------------------------------------------------------------------------

VALUES = st.dictionaries(
    st.sampled_from(QUANTITY_NAMES), st.floats(allow_nan=False, allow_infinity=False)
)
FINDINGS = st.lists(
    st.sampled_from([Finding(Cause.SILENT, "It is silent."), Finding(Cause.NO_VALUE, "None.")]),
    max_size=2,
)


@given(VALUES, FINDINGS, st.booleans(), st.floats(0.001, 1e6))
def test_any_probe_is_judged_and_nothing_wrong_stands_alone(
    values: dict[str, float], findings: list[Finding], live: bool, capacity_kw: float
) -> None:
    probe = Probe(Outcome(values, live=live), findings=tuple(findings))
    found = diagnose(a_speaking_meter(), probe, capacity_kw)
    assert found.findings
    if not values and not findings:
        assert [finding.cause for finding in found.findings] == [Cause.NO_VALUE]
    elif any(finding.cause is Cause.NONE for finding in found.findings):
        assert (found.findings, found.hints) == (NOTHING_WRONG, ())
        assert not findings
    assert found.findings[: len(findings)] == tuple(findings)
    expected = Quality.NONE if not values else Quality.STALE if not live else None
    assert found.quality is (expected or (Quality.SUSPECT if found.hints else Quality.GOOD))
    subjects = [message.split()[0] for cause, message in told(found)[len(findings) :]]
    assert len(subjects) == len(set(subjects)), "each quantity is told of once"


@given(st.lists(st.integers(0, 0xFFFF), min_size=16, max_size=16), st.integers(0, 10_000))
def test_any_words_are_judged(words: list[int], step: int) -> None:
    meter = a_modbus_meter(energy={"address": 103, "scale": 0.001})
    memory = dict(enumerate(words[:8], 100))
    later = {**memory, 103: (memory[103] + step) & 0xFFFF}
    found = diagnose(meter, probed(meter, memory, later), CAPACITY_KW)
    assert all(message.endswith(".") for _, message in told(found))
    assert any("energy is read from 16 bits" in message for _, message in told(found))
