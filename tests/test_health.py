"""The health table: every row is there, and none says that all is well while something is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.alertlog import AlertLog
from edge.alerts import AlertRules, Condition, current
from edge.health import LEAST_FREE_BYTES, HealthRow, Vitals, health
from edge.load import load_status
from edge.model import Health, LineState, MeterState, Snapshot, Status
from edge.record import JournalState, Keeping, SinkState
from tests.building import a_meter, a_reading

ROWS = [
    "service", "capacity", "meters", "lines", "schedule", "journal", "sinks", "clock", "disk",
]  # fmt: skip
A_DAY_S = 86_400.0
VITALS = Vitals("dlm-edge 1.2.3, Python 3.11.2", A_DAY_S, 12_300_000_000)
JOURNAL = JournalState(
    recording=True,
    recorded=1000,
    file_bytes=12_400_000,
    max_bytes=512_000_000,
    written_bytes=48_500_000,
    write_bytes_per_day=500_000_000,
    oldest_unix_ms=1_760_956_200_000,
    clock_set=True,
)
KEEPING = Keeping(JOURNAL, (SinkState("influx", connected=True, backlog=1200),))


def a_state(
    kw: float | None = 10.0,
    status: Status = Status.ONLINE,
    error: str | None = None,
    meter_type: str = "grid",
) -> MeterState:
    reading = a_reading(power=kw) if kw is not None else None
    meter = a_meter(f"A {meter_type}", meterType=meter_type)
    return MeterState(meter, 0.0, status, reading, error, kw)


def a_snapshot(*states: MeterState, lines: tuple[LineState, ...] = ()) -> Snapshot:
    load = load_status(states, 500.0, 0.0)
    health = Health(600, 2, 0, 0.1, 1.25, 9.0)
    meters = {state.meter.id: state for state in states}
    return Snapshot(1, 0.0, 1_760_956_200_000, load, meters, lines, health)


WELL = a_snapshot(a_state(), lines=(LineState("tcp://a:502", connected=True), LineState("idle")))


def table(
    snapshot: Snapshot = WELL, keeping: Keeping = KEEPING, vitals: Vitals = VITALS
) -> dict[str, HealthRow]:
    """The table, with the alerts that such a snapshot raises."""
    log = AlertLog(AlertRules(tick_ms=100), lambda: keeping)
    log.update(snapshot)
    rows = health(snapshot, keeping, log.current, vitals)
    assert [row.name for row in rows] == ROWS
    return {row.name: row for row in rows}


STATES = ("ok", "warning", "fault")


def worst(rows: Iterable[HealthRow]) -> str:
    """The worst state of a table."""
    return max((row.state for row in rows), key=STATES.index)


def wrong(rows: dict[str, HealthRow]) -> dict[str, str]:
    """The rows that are not well, and how they are."""
    return {row.name: row.state for row in rows.values() if row.state != "ok"}


def test_all_is_well() -> None:
    rows = table()
    assert {name: row.text for name, row in rows.items()} == {
        "service": "dlm-edge 1.2.3, Python 3.11.2; runs for 1 d 0 h.",
        "capacity": "490.0 kW of 500 kW are free.",
        "meters": "1 of 1 are online.",
        "lines": "2 of 2 work.",
        "schedule": "Ticks are 1.2 ms late at the 99th percentile, 9.0 ms at most; 2 missed since "
        "the start.",
        "journal": "Records: 12.4 MB of 512 MB, since 2025-10-20T10:30:00.000Z.",
        "sinks": "1 of 1 send; 1,200 readings wait for them.",
        "clock": "It says 2025-10-20T10:30:00.000Z, and is set.",
        "disk": "12.3 GB are free; 48.5 MB a day are written.",
    }
    assert wrong(rows) == {}
    assert worst(rows.values()) == "ok"


def test_a_service_that_just_began_says_what_it_does_not_know() -> None:
    snapshot = replace(a_snapshot(), health=Health(ticks=1))
    rows = table(snapshot, Keeping(JournalState()), Vitals("x", 5.0, None))
    assert wrong(rows) == {"capacity": "warning"}, "no meter is registered"
    assert rows["capacity"].text.startswith("0.0 kW of 500 kW are free (unmetered). The available")
    assert [rows[name].text for name in ROWS[2:]] == [
        "None is registered.",
        "None: lines come with the first meter.",
        "Its lateness is measured over the first minute.",
        "It is being opened.",
        "None is configured.",
        "It says 2025-10-20T10:30:00.000Z; whether it is set is not known.",
        "What is free is not known.",
    ]


def test_a_meter_that_is_about_to_be_read_is_no_fault() -> None:
    rows = table(a_snapshot(a_state(), a_state(None, Status.PENDING, meter_type="zone")))
    assert rows["meters"] == HealthRow("meters", "ok", "1 of 2 are online, 1 not read yet.")


def with_journal(**changes: object) -> Keeping:
    return replace(KEEPING, journal=replace(JOURNAL, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "expected", "told"),
    [
        (
            lambda: table(a_snapshot(a_state(), a_state(5.0, Status.OFFLINE, meter_type="zone"))),
            {},  # for information only
            ("meters", '1 of 2 are online. "A zone" is offline: check its supply'),
        ),
        (
            lambda: table(a_snapshot(a_state(None, Status.ERROR, "It is silent."))),
            {"capacity": "fault", "meters": "warning"},
            ("meters", "is in error: It is silent."),
        ),
        (
            lambda: table(a_snapshot(a_state(600.0))),
            {"capacity": "fault"},
            ("capacity", "The building draws more than the grid connection"),
        ),
        (
            lambda: table(a_snapshot(a_state(), lines=(LineState("tcp://b", last_error="Gone."),))),
            {"lines": "warning"},
            ("lines", "0 of 1 work. tcp://b: Gone."),
        ),
        (
            lambda: table(keeping=with_journal(recording=False, last_error="The disk is full.")),
            {"journal": "fault"},
            ("journal", "Does not record: 12.4 MB of 512 MB"),
        ),
        (
            lambda: table(keeping=with_journal(clock_set=False, clock_fault="The clock is off.")),
            {"clock": "warning"},
            ("clock", "is not known to be set. The clock is off."),
        ),
        (
            lambda: table(keeping=Keeping(None, (SinkState("influx", last_error="No route."),))),
            {"sinks": "warning"},
            ("sinks", "0 of 1 send; 0 readings wait for them. Uplink influx sends nothing: No"),
        ),
        (
            lambda: table(vitals=replace(VITALS, free_bytes=LEAST_FREE_BYTES - 1)),
            {"disk": "warning"},
            ("disk", "100 MB are free; 48.5 MB a day are written. The disk is nearly full;"),
        ),
        (
            lambda: table(keeping=with_journal(written_bytes=501_000_000)),
            {"disk": "warning"},
            ("disk", "501 MB a day are written. On average more is written than journal.write_"),
        ),
    ],
)
def test_what_is_wrong_shows_in_its_row_and_nowhere_else(
    rows: Callable[[], dict[str, HealthRow]], expected: dict[str, str], told: tuple[str, str]
) -> None:
    found = rows()
    assert wrong(found) == expected
    name, text = told
    assert text in found[name].text
    assert worst(found.values()) == max(
        expected.values(), key=["ok", "warning", "fault"].index, default="ok"
    )


def test_a_late_schedule_is_told() -> None:
    rows = table(replace(WELL, health=Health(600, 0, 0, 1.0, 120.0, 130.0)))
    assert wrong(rows) == {"schedule": "warning"}


def test_the_first_minutes_say_nothing_of_what_is_written_in_a_day() -> None:
    rows = table(keeping=with_journal(written_bytes=10**12), vitals=replace(VITALS, uptime_s=600.0))
    assert (rows["disk"].state, rows["disk"].text) == ("ok", "12.3 GB are free.")


def test_what_is_lost_since_the_start_is_told_though_it_is_over() -> None:
    row = table(keeping=with_journal(dropped=17))["journal"]
    assert row.state == "ok"
    assert row.text.endswith("; 17 readings were lost.")


def test_of_much_that_is_wrong_the_first_is_told_and_how_much_more() -> None:
    states = [
        a_state(5.0, Status.OFFLINE, f"Fault {number}.", meter_type="zone") for number in range(7)
    ]
    text = table(a_snapshot(a_state(), *states))["meters"].text
    assert text.count("is offline") == 3
    assert text.endswith(" And 4 more.")


_STATES = st.builds(
    a_state,
    st.none() | st.floats(-1000, 1000),
    st.sampled_from(Status),
    st.none() | st.just("It is silent."),
    st.sampled_from(["grid", "building", "solar", "zone"]),
)


@given(st.lists(_STATES, max_size=4), st.booleans(), st.none() | st.just("Broken."))
def test_no_row_is_well_while_an_alert_of_it_holds(
    states: list[MeterState], connected: bool, error: str | None
) -> None:
    snapshot = a_snapshot(*states)
    journal = replace(JOURNAL, recording=error is None, last_error=error)
    keeping = Keeping(journal, (SinkState("influx", connected, error),))
    conditions: list[Condition] = current(snapshot, keeping, keeping, AlertRules(100))
    rows = table(snapshot, keeping)
    serious = [condition for condition in conditions if condition.severity != "info"]
    for condition in serious:
        told = [row for row in rows.values() if row.state != "ok"]
        assert told
        if condition.severity == "critical":
            assert worst(told) == "fault"
    assert bool(serious) == (worst(rows.values()) != "ok")
    assert {row.state for row in rows.values()} <= set(STATES)
