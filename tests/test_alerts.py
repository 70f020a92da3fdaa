"""What is wrong is said, once and with what to do; and never against the load status."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.alerts import SEVERITIES, AlertRules, Condition, current, undecided
from edge.era import Eras
from edge.journal.wallclock import WallClock
from edge.load import load_status
from edge.model import Health, LoadQuality, MeterState, Snapshot, Status
from edge.record import JournalState, Keeping, SinkState
from tests.building import FakeClock, a_meter, a_reading

RULES = AlertRules(tick_ms=100, high_consumption_kw=300.0)


def a_state(
    meter_type: str = "grid",
    kw: float | None = 10.0,
    status: Status = Status.ONLINE,
    error: str | None = None,
    hints: tuple[str, ...] = (),
    max_kw: float | None = None,
) -> MeterState:
    meter = a_meter(f"A {meter_type}", meterType=meter_type, maxPower=max_kw)
    reading = a_reading(hints=hints, power=kw) if kw is not None else None
    return MeterState(meter, 0.0, status, reading, error, kw)


def a_snapshot(*states: MeterState, health: Health = Health()) -> Snapshot:  # noqa: B008  frozen
    load = load_status(states, 500.0, 15.0)
    return Snapshot(1, 0.0, 0, load, {state.meter.id: state for state in states}, (), health)


def found(
    snapshot: Snapshot,
    keeping: Keeping = Keeping(),  # noqa: B008  frozen
    earlier: Keeping | None = None,
    rules: AlertRules = RULES,
) -> dict[str, Condition]:
    """What is wrong, by kind."""
    conditions = current(snapshot, keeping, keeping if earlier is None else earlier, rules)
    assert len({(one.kind, one.subject) for one in conditions}) == len(conditions)
    return {one.kind: one for one in conditions}


def test_nothing_is_wrong() -> None:
    health = Health(600, 0, 0, 0.1, 5.0, 99.0)
    journal = JournalState(recording=True, dropped=7, notices=("readings.db was set aside.",))
    keeping = Keeping(journal, (SinkState("influx", connected=True, rejected=3, lost=4),))
    site = a_snapshot(a_state(), a_state("solar", 5.0), health=health)
    assert found(site, keeping) == {}


# --- Meters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        (
            a_state("zone", status=Status.ERROR, error="It is silent; check its address."),
            "meter_error",
            '"A zone" is in error: It is silent; check its address.',
        ),
        (
            a_state("zone", status=Status.OFFLINE),
            "meter_offline",
            '"A zone" is offline: check its supply and its connection.',
        ),
        (
            a_state("zone", hints=("power reads 9 kW: check its scale.", "voltage reads 0 V.")),
            "meter_suspect",
            '"A zone" gives suspect values: power reads 9 kW: check its scale.',
        ),
        (
            a_state("zone", error="voltage was refused; check its address."),
            "meter_partial",
            '"A zone" gives only a part of its values: voltage was refused; check its address.',
        ),
    ],
)
def test_a_meter_that_fails(state: MeterState, kind: str, message: str) -> None:
    conditions = found(a_snapshot(a_state(), state))
    meter = state.meter
    assert conditions == {kind: Condition(kind, "info", message, meter.id, meter.id, meter.name)}
    counting = replace(state, meter=a_meter("A solar", meterType="solar"))
    assert found(a_snapshot(a_state(), counting))[kind].severity == "warning"


def test_a_meter_that_is_about_to_be_read_is_no_fault() -> None:
    assert found(a_snapshot(a_state(kw=None, status=Status.PENDING))) == {}
    dead = a_state("building", status=Status.OFFLINE)
    pending = a_state(kw=None, status=Status.PENDING)
    assert "capacity_failsafe" in found(a_snapshot(dead, pending))


# --- The site ------------------------------------------------------------------------------------


@given(
    st.lists(
        st.builds(
            a_state,
            st.sampled_from(("grid", "building", "solar", "zone")),
            st.none() | st.floats(-1000, 1000),
            st.sampled_from((Status.ONLINE, Status.ERROR, Status.OFFLINE)),
            st.none() | st.just("It is silent."),
            st.sampled_from(((), ("Too much.",))),
            st.none() | st.just(80.0),
        ),
        max_size=5,
    )
)
def test_alerts_say_what_the_load_status_says(states: list[MeterState]) -> None:
    snapshot = a_snapshot(*states)
    load, conditions = snapshot.load, found(snapshot)
    capacity = [kind for kind in conditions if kind.startswith("capacity_")]
    if load.quality is LoadQuality.GOOD:
        assert capacity == []
    else:
        assert capacity == [f"capacity_{load.quality.value}"]
        assert load.reasons[0] in conditions[capacity[0]].message
    assert ("overload" in conditions) == bool(load.overload_kw)
    for one in conditions.values():
        assert one.severity in SEVERITIES
        assert one.message.endswith((".", ".)"))


def test_how_urgent_it_is() -> None:
    failsafe = found(a_snapshot(a_state(status=Status.ERROR)))["capacity_failsafe"]
    assert failsafe.severity == "critical"
    assert "set its maxPower" in failsafe.message
    degraded = found(a_snapshot(a_state(status=Status.ERROR, max_kw=80.0), a_state("building")))
    assert degraded["capacity_degraded"].severity == "warning"
    two = found(a_snapshot(a_state(), *(a_state("solar", status=Status.ERROR) for _ in range(3))))
    assert "(2 more: see the reasons of the load status.)" in two["capacity_degraded"].message
    unmetered = found(a_snapshot())
    assert unmetered.keys() == {"capacity_unmetered"}
    assert "register the building's main meter" in unmetered["capacity_unmetered"].message


def test_an_overload_is_certain_only_while_all_is_known() -> None:
    certain = found(a_snapshot(a_state(kw=501.0)))["overload"]
    assert (certain.severity, "500 kW" in certain.message) == ("critical", True)
    assumed = found(a_snapshot(a_state(), a_state("building", status=Status.ERROR, max_kw=600.0)))
    assert assumed["overload"].severity == "warning"
    assert "assumed" in assumed["overload"].message


def test_high_consumption_is_of_what_is_live() -> None:
    assert "high_consumption" not in found(a_snapshot(a_state(kw=300.0)))
    assert "300 kW" in found(a_snapshot(a_state(kw=300.5)))["high_consumption"].message
    dead = a_state("building", status=Status.ERROR, max_kw=400.0)
    assert "high_consumption" not in found(a_snapshot(a_state(kw=10.0), dead))
    assert "high_consumption" in found(a_snapshot(a_state(kw=301.0), dead))
    assert "high_consumption" not in found(a_snapshot(a_state(kw=400.0)), rules=AlertRules(100))


def test_settings_that_are_not_taken_over_are_told() -> None:
    faulty = AlertRules(100, config_fault="edge.toml: is empty.")
    told = found(a_snapshot(a_state(kw=1.0)), rules=faulty)["config_faulty"]
    assert told.severity == "critical"
    assert told.message.endswith("edge.toml: is empty.")


def test_what_nobody_can_tell_now() -> None:
    live, dead = a_state(), a_state("building", status=Status.ERROR, max_kw=80.0)
    assert undecided(a_snapshot(live), RULES) == frozenset()
    assert undecided(a_snapshot(live, dead), RULES) == {"high_consumption"}
    unknown = a_snapshot(live, a_state(status=Status.ERROR))
    assert undecided(unknown, RULES) == {"high_consumption", "overload"}
    assert undecided(unknown, AlertRules(100)) == {"overload"}


def test_no_message_of_the_site_changes_with_each_reading() -> None:
    one, other = (found(a_snapshot(a_state(kw=kw))) for kw in (600.0, 601.0))
    assert one == other
    assert one.keys() == {"overload", "high_consumption"}


# --- The service itself --------------------------------------------------------------------------


def test_a_late_cycle() -> None:
    def at(p99_ms: float | None, max_ms: float | None) -> str | None:
        health = Health(600, 0, 0, 1.0, p99_ms, max_ms)
        late = found(a_snapshot(a_state(), health=health)).get("schedule_late")
        return late.severity if late is not None else None

    assert at(None, None) is None
    assert at(50.0, 99.0) is None
    assert at(50.0, 100.0) == "info"
    assert at(100.0, 300.0) == "warning"


def test_a_journal_that_fails() -> None:
    failing = JournalState(last_error="The journal cannot be written (the disk is full).")
    journal = found(a_snapshot(a_state()), Keeping(failing))["journal_failing"]
    assert (journal.severity, journal.message) == ("critical", failing.last_error)
    before, after = (Keeping(JournalState(dropped=count)) for count in (5, 6))
    assert found(a_snapshot(a_state()), after, before).keys() == {"journal_dropping"}
    assert found(a_snapshot(a_state()), after, Keeping()) == {}


def test_a_clock_that_is_not_set() -> None:
    """As the journal itself says it."""
    clock = FakeClock(unix_ms=0)
    wall = WallClock(clock, lambda: False, 300.0)
    wall.follow(Eras("boot"))
    for _ in range(40):
        wall.settle()
        clock.turn(10.0)
    keeping = Keeping(JournalState(clock_fault=wall.fault()))
    message = found(a_snapshot(a_state()), keeping)["clock_not_set"].message
    assert message.startswith("The clock is not known to be set; set it, or")
    assert message.endswith("time server.")


def test_what_else_the_journal_says_of_the_clock_is_no_alert() -> None:
    ahead = JournalState(notices=("The clock is 3 days ahead of the time that was recorded.",))
    assert found(a_snapshot(a_state()), Keeping(ahead)) == {}


def test_sinks() -> None:
    fine = SinkState("influx", connected=True, rejected=1, lost=1)
    other = SinkState("mqtt", connected=False, last_error="Nobody answers; check the broker.")

    def kinds(*sinks: SinkState) -> list[tuple[str, str]]:
        conditions = current(
            a_snapshot(a_state()), Keeping(None, sinks), Keeping(None, (fine,)), RULES
        )
        return [(one.kind, one.subject) for one in conditions]

    assert kinds(fine) == []
    assert kinds(fine, other) == [("sink_unreachable", "mqtt")]
    worse = replace(fine, rejected=2, lost=2)
    assert kinds(worse) == [("sink_rejecting", "influx"), ("sink_losing", "influx")]
