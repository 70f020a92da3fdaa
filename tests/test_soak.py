"""The judge of the soak: a run in which all was well, and what it says of each that was not.

The runs are made by hand; `tools/soak/run` has a real service live through one.
"""

from __future__ import annotations

import math
import os
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from mmap import PROT_READ, mmap
from pathlib import Path
from typing import Any

import pytest

from tools.soak.devices import FAILSAFE_KW, GRID_CAPACITY_KW, Day, make_devices, signature
from tools.soak.facts import Facts, Span, Spans
from tools.soak.judge import judge
from tools.soak.plan import LEAST_S, QUIET_S, SURROUNDINGS, make_plan
from tools.soak.records import (
    End,
    Late,
    Life,
    Load,
    Offset,
    Recorded,
    Sample,
    Served,
    Shown,
    Unanswered,
    Window,
    read_export,
)
from tools.soak.report import curves, markdown
from tools.soak.told import never_too_much
from tools.soak.watch import cost

UNIX_S = 1_760_000_000.0
ENDS_S = 200.0
DEVICES = {device.number: device for device in make_devices()}
MAIN, WORKSHOP, SUN, ANNEX, HALL = 1, 2, 3, 5, 10
COUNTED = (MAIN, WORKSHOP, SUN, ANNEX, HALL)
KW = 4.0
"""What every device shows."""
FREE_KW = GRID_CAPACITY_KW + KW - 4 * KW
METERS = {f"meter_{number}": number for number in COUNTED}


def served(number: int, serial: int) -> Served:
    """What a device says at second `serial`."""
    return Served(float(serial), number, serial, KW, serial / 1000)


def recorded(said: Served, **changes: Any) -> Recorded:
    """How that is kept."""
    unix_ms = round((said.mono_s + UNIX_S) * 1000)
    kept = Recorded(unix_ms, f"meter_{said.device}", *said[1:])
    return kept._replace(**changes)


def sample(mono_s: float, **changes: Any) -> Sample:
    """What the process costs at a second."""
    ticks = int(mono_s * 10)
    made = Sample(
        *(mono_s, 1, 40.0, 35.0, 30, 20, mono_s / 25, int(mono_s * 1000), 0.01, 0.0),
        lateness={0.01: ticks, 0.1: ticks, math.inf: ticks},
        metrics={"dlm_schedule_missed_ticks_total": 0.0, "dlm_journal_readings_total": mono_s * 5},
    )
    return made._replace(**changes)


def a_run() -> Facts:
    """A run in which five devices were read every second, and all was well."""
    all_served = [served(number, second) for second in range(2, 200) for number in COUNTED]
    all_recorded = [recorded(each) for each in all_served]
    return Facts(
        begun_s=5.0,
        ended_s=ENDS_S,
        unix_s=UNIX_S,
        commit_interval_s=4.0,
        devices={number: DEVICES[number] for number in COUNTED},
        meters=METERS,
        served=all_served,
        recorded=all_recorded,
        uplinked=list(all_recorded),
        shown=[
            Shown(each.mono_s + 0.5, f"meter_{each.device}", True, *each[1:4])
            for each in all_served
        ],
        loads=[Load(second + 0.4, second + 0.5, FREE_KW, "good") for second in range(10, 200)],
        windows=[],
        lives=[Life(0.0, 1.0, ENDS_S, "stopped", 0, 0.5)],
        late=[],
        offsets=[Offset(0.0, 0.0, trusted=True)],
        samples=[sample(float(second)) for second in range(2, 200)],
        unanswered=[],
        answered=190,
        end=End(0.0, (), (), "ok"),
        log="2026-11-23 12:03:21,560 INFO [edge.app] Listening on http://127.0.0.1:3000\n",
    )


def failed(facts: Facts) -> set[str]:
    """The checks that are not met."""
    return {verdict.name for verdict in judge(facts) if verdict.ok is False}


def without(readings: Sequence[Any], *keys: tuple[int, int]) -> list[Any]:
    """All but those of some devices and serials."""
    return [each for each in readings if (each.device, each.serial) not in keys]


def never_said(facts: Facts, *keys: tuple[int, int]) -> Facts:
    """A run in which these were not even asked for."""
    return replace(
        facts,
        served=without(facts.served, *keys),
        recorded=without(facts.recorded, *keys),
        uplinked=without(facts.uplinked, *keys),
        shown=without(facts.shown, *keys),
    )


def test_a_run_in_which_all_was_well_is_found_well() -> None:
    assert failed(a_run()) == set()


def _lost(facts: Facts) -> Facts:
    gone = (MAIN, 77)
    return replace(
        facts, recorded=without(facts.recorded, gone), uplinked=without(facts.uplinked, gone)
    )


def _swapped(facts: Facts) -> Facts:
    """A reading of the hall under the workshop's name."""
    wrong = recorded(served(HALL, 77), meter_id=f"meter_{WORKSHOP}")
    readings = [wrong, *without(facts.recorded, (HALL, 77))]
    return replace(facts, recorded=readings, uplinked=readings)


def _other_value(facts: Facts) -> Facts:
    readings = [
        each._replace(power_kw=4.1) if each[2:4] == (MAIN, 77) else each for each in facts.recorded
    ]
    return replace(facts, recorded=readings, uplinked=readings)


def _twice(facts: Facts) -> Facts:
    again = recorded(served(MAIN, 77))
    again = again._replace(unix_ms=again.unix_ms + 1)
    readings = [*facts.recorded, again]
    return replace(facts, recorded=readings, uplinked=readings)


def _late_stamp(facts: Facts) -> Facts:
    readings = [
        each._replace(unix_ms=each.unix_ms + 300) if each[2:4] == (MAIN, 77) else each
        for each in facts.recorded
    ]
    return replace(facts, recorded=readings, uplinked=readings)


def _not_sent(facts: Facts) -> Facts:
    return replace(facts, uplinked=without(facts.uplinked, (MAIN, 77)))


def _sent_what_was_not_kept(facts: Facts) -> Facts:
    return replace(facts, uplinked=[*facts.uplinked, recorded(served(MAIN, 500))])


def _stale_as_live(facts: Facts) -> Facts:
    old = Shown(90.0, f"meter_{MAIN}", True, MAIN, 77, KW)
    return replace(facts, shown=[*facts.shown, old])


def _shown_for_another(facts: Facts) -> Facts:
    other = Shown(77.5, f"meter_{MAIN}", True, HALL, 77, KW)
    return replace(facts, shown=[*facts.shown, other])


def _live_without_values(facts: Facts) -> Facts:
    return replace(facts, shown=[*facts.shown, Shown(77.5, f"meter_{MAIN}", True, 0, 0, 0.0)])


def _too_much(facts: Facts) -> Facts:
    return replace(facts, loads=[*facts.loads, Load(77.4, 77.5, FREE_KW + 0.1, "good")])


def _more_than_failsafe(facts: Facts) -> Facts:
    load = Load(77.4, 77.5, FAILSAFE_KW + 0.1, "failsafe")
    return replace(facts, loads=[*facts.loads, load])


def _dead_counts_as_none(facts: Facts) -> Facts:
    """The annex has no maxPower, so that nobody knows what it draws when it is silent."""
    return never_said(facts, *((ANNEX, serial) for serial in range(51, 99)))


def _no_answer(facts: Facts) -> Facts:
    return replace(facts, unanswered=[Unanswered(77.0, "GET /metrics: timed out")])


def _delayed(facts: Facts) -> Facts:
    """One question in a hundred comes 0.1 s late."""

    def moved(each: Served) -> Served:
        late = each.device == MAIN and each.serial % 100 == 77
        return each._replace(mono_s=each.mono_s + 0.1) if late else each

    all_served = [moved(each) for each in facts.served]
    readings = [recorded(each) for each in all_served]
    return replace(facts, served=all_served, recorded=readings, uplinked=readings)


def _missed_tick(facts: Facts) -> Facts:
    samples = [
        each._replace(metrics={**each.metrics, "dlm_schedule_missed_ticks_total": 1.0})
        if each.mono_s > 77
        else each
        for each in facts.samples
    ]
    return replace(facts, samples=samples)


def _slow_to_recover(facts: Facts) -> Facts:
    """The main meter was away for 10 s, and then nobody asked for another 30."""
    window = Window(50.0, 60.0, "silent", frozenset({MAIN}))
    facts = never_said(facts, *((MAIN, serial) for serial in range(50, 90)))
    loads = [each for each in facts.loads if not 50 < each.from_s < 95]
    return replace(facts, windows=[window], loads=loads)


def _growing(**more: float) -> Callable[[Facts], Facts]:
    def changed(facts: Facts) -> Facts:
        samples = [
            each._replace(**{name: getattr(each, name) + by for name, by in more.items()})
            if each.mono_s > 100
            else each
            for each in facts.samples
        ]
        return replace(facts, samples=samples)

    return changed


def _crashed(facts: Facts) -> Facts:
    return replace(facts, lives=[replace(facts.lives[0], code=1)])


def _slow_to_stop(facts: Facts) -> Facts:
    return replace(facts, lives=[replace(facts.lives[0], took_s=6.0)])


def _never_well(facts: Facts) -> Facts:
    return replace(facts, end=End(None, ("2 meters error",), (), "ok"))


def _damaged(facts: Facts) -> Facts:
    return replace(facts, end=End(0.0, (), (), "row 7 missing from index"))


def _set_aside(facts: Facts) -> Facts:
    return replace(facts, end=End(0.0, (), ("journal.db.broken",), "ok"))


def _traceback(facts: Facts) -> Facts:
    return replace(facts, log=f"{facts.log}Traceback (most recent call last):\n")


def _over_and_over(facts: Facts) -> Facts:
    lines = [f"2026-11-23 12:03:{n:02},560 WARNING [Uplink] It is gone." for n in range(40)]
    return replace(facts, log="\n".join(lines))


def _slow_machine(facts: Facts) -> Facts:
    return replace(facts, late=[Late(float(second), 0.2) for second in range(10, 200, 5)])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lost, {"recorded"}),
        (_swapped, {"attributed"}),
        (_other_value, {"attributed"}),
        (_twice, {"attributed"}),
        (_late_stamp, {"stamped"}),
        (_not_sent, {"uplinked"}),
        (_sent_what_was_not_kept, {"uplinked"}),
        (_stale_as_live, {"shown"}),
        (_shown_for_another, {"shown"}),
        (_live_without_values, {"shown"}),
        (_too_much, {"capacity"}),
        (_dead_counts_as_none, {"capacity"}),
        (_more_than_failsafe, {"capacity"}),
        (_no_answer, {"answered"}),
        (_delayed, {"punctual"}),
        (_missed_tick, {"ticks"}),
        (_slow_to_recover, {"recovered"}),
        (_growing(files=2), {"leaked"}),
        (_growing(threads=2), {"leaked"}),
        (_growing(own_mb=8.5), {"leaked"}),
        (_growing(pss_mb=16.5), {"leaked"}),
        (_growing(pss_mb=8.5), set()),
        (_crashed, {"ended"}),
        (_slow_to_stop, {"ended"}),
        (_never_well, {"healed"}),
        (_damaged, {"healed"}),
        (_set_aside, {"healed"}),
        (_traceback, {"log"}),
        (_over_and_over, {"log"}),
        (_slow_machine, {"machine"}),
    ],
)
def test_what_is_wrong_is_found_by_its_check(
    spoil: Callable[[Facts], Facts], said: set[str]
) -> None:
    assert failed(spoil(a_run())) == said


def test_failsafe_is_not_judged_by_a_device_that_the_service_did_not_hear() -> None:
    """The annex, which has no maxPower, drew all that was free, and its answers were lost."""
    facts = a_run()
    served = [
        each._replace(power_kw=each.power_kw + FREE_KW) if each.device == ANNEX else each
        for each in facts.served
    ]
    for quality, ok in (("failsafe", True), ("good", False)):
        load = Load(77.4, 77.5, FAILSAFE_KW, quality)
        assert never_too_much(replace(facts, served=served, loads=[load])).ok is ok


# --- What is excused -----------------------------------------------------------------------------


def test_a_kill_may_cost_what_was_not_committed_and_no_more() -> None:
    facts = a_run()
    lives = [Life(0.0, 1.0, 100.2, "killed", -9, 0.0), Life(101.0, 103.0, ENDS_S, "stopped", 0, 1)]
    samples = [
        each._replace(life=1 if each.mono_s < 100 else 2)
        for each in facts.samples
        if not 100 <= each.mono_s < 104
    ]
    down = {(number, serial) for number in COUNTED for serial in range(101, 104)}
    facts = never_said(replace(facts, lives=lives, samples=samples), *down)

    def losing(first: int) -> Facts:
        gone = {(number, serial) for number in COUNTED for serial in range(first, 104)}
        kept = without(facts.recorded, *gone)
        return replace(facts, recorded=kept, uplinked=kept)

    assert failed(losing(96)) == set()
    assert failed(losing(95)) == {"recorded"}


def test_a_device_in_a_fault_excuses_itself_and_no_other() -> None:
    window = Window(50.0, 55.0, "garbage", frozenset({MAIN}))
    gone = {(MAIN, serial) for serial in range(50, 55)}
    facts = a_run()
    kept = without(facts.recorded, *gone)
    facts = replace(facts, windows=[window], recorded=kept, uplinked=kept)
    assert failed(facts) == set()
    kept = without(kept, (HALL, 52))
    assert failed(replace(facts, recorded=kept, uplinked=kept)) == {"recorded"}


def test_a_reading_after_recovery_is_excused_no_more() -> None:
    window = Window(50.0, 55.0, "garbage", frozenset({MAIN}))
    gone = {*((MAIN, serial) for serial in range(50, 58)), (MAIN, 60)}
    facts = a_run()
    kept = without(facts.recorded, *gone)
    assert failed(replace(facts, windows=[window], recorded=kept, uplinked=kept)) == {"recorded"}


def test_a_set_clock_is_believed_and_an_unset_one_is_corrected() -> None:
    facts = a_run()
    offsets = [
        Offset(0.0, 0.0, trusted=True),
        Offset(60.0, 95.0, trusted=True),
        Offset(80.0, -UNIX_S, trusted=False),
        Offset(100.0, 7.0, trusted=True),
    ]

    def stamped(each: Recorded) -> Recorded:
        second = each.serial
        shift_s = 0 if second < 60 else 95 if second < 80 else 7
        return each._replace(unix_ms=each.unix_ms + shift_s * 1000)

    kept = [stamped(each) for each in facts.recorded]
    assert failed(replace(facts, offsets=offsets, recorded=kept, uplinked=kept)) == set()
    uncorrected = [
        each._replace(unix_ms=90_000) if each[2:4] == (MAIN, 90) else each for each in kept
    ]
    found = failed(replace(facts, offsets=offsets, recorded=uncorrected, uplinked=uncorrected))
    assert found == {"stamped"}


def test_spans_are_joined_and_found() -> None:
    spans = Spans([Span(5, 7), Span(1, 2), Span(6, 9), Span(2, 3)])
    assert list(spans) == [(1, 3), (5, 9)]
    assert spans.length_s == 6
    assert [spans.touch(*each) for each in ((0, 0.5), (0, 1), (3.5, 4.5), (4, 5), (9.5, 11))] == [
        *(False, True, False, True, False)
    ]


# --- The site, the plan, the report --------------------------------------------------------------


def test_every_device_signs_what_it_says_and_counts_what_flowed() -> None:
    day = Day(1000.0, 600.0)
    for device in DEVICES.values():
        first, last = (device.values(7, mono_s, day) for mono_s in (1200.0, 1230.0))
        assert signature(first["voltage"], first["current"]) == (device.number, 7)
        steps_kw = [device.values(7, 1200 + step / 10, day)["power"] for step in range(300)]
        flowed_kwh = sum(steps_kw) * 0.1 / 3600
        assert last["energy"] - first["energy"] == pytest.approx(flowed_kwh, abs=0.002)


def test_a_plan_is_the_same_for_a_seed_and_has_everything_once() -> None:
    devices = tuple(DEVICES.values())
    plan = make_plan(LEAST_S, devices, 3)
    assert plan == make_plan(LEAST_S, devices, 3) != make_plan(LEAST_S, devices, 4)
    assert {event.kind for event in plan if not event.device} == set(SURROUNDINGS)
    assert plan == sorted(plan)
    assert min(event.at_s for event in plan) >= QUIET_S
    assert max(event.at_s + event.lasts_s for event in plan) <= LEAST_S - QUIET_S


@pytest.mark.parametrize("duration_s", [LEAST_S, 1200.0, 3600.0])
def test_the_last_process_of_a_plan_lives_long(duration_s: float) -> None:
    plan = make_plan(duration_s, tuple(DEVICES.values()), 0)
    last_s = max(e.at_s for e in plan if e.kind in ("kill", "restart", "first-boot"))
    assert last_s <= max(LEAST_S - 30, duration_s / 2)


def test_one_line_has_one_fault_at_a_time() -> None:
    free_s = dict.fromkeys({device.line for device in DEVICES.values()}, 0.0)
    for event in make_plan(3600, tuple(DEVICES.values()), 1):
        if event.device:
            line = DEVICES[event.device].line
            assert event.at_s > free_s[line]
            free_s[line] = event.at_s + event.lasts_s


def test_memory_of_files_is_not_the_process_s_own(tmp_path: Path) -> None:
    pid, size = os.getpid(), 32_000_000
    pss_mb, own_mb, *_ = cost(pid)
    heap = bytearray(b"x") * size
    with_heap = cost(pid)
    assert with_heap[0] == pytest.approx(pss_mb + 32, abs=8)
    assert with_heap[1] == pytest.approx(own_mb + 32, abs=8)
    del heap
    pss_mb, own_mb, *_ = cost(pid)
    (tmp_path / "library").write_bytes(bytes(size))
    with (
        (tmp_path / "library").open("rb") as file,
        mmap(file.fileno(), 0, prot=PROT_READ) as mapped,
    ):
        assert not any(mapped[::4096])
        with_file = cost(pid)
    assert with_file[0] == pytest.approx(pss_mb + 32, abs=8)
    assert with_file[1] == pytest.approx(own_mb, abs=8)


def test_what_a_process_costs_is_what_the_system_says() -> None:
    _, _, files, threads, cpu_s, _ = cost(os.getpid())
    with Path(os.devnull).open("rb"):
        assert cost(os.getpid())[2] == files + 1
    assert threads >= threading.active_count()
    assert cpu_s == pytest.approx(time.process_time(), abs=0.5)


def test_an_export_is_read_with_its_signatures() -> None:
    header = "timestamp,meter_id,power_kw,energy_kwh,voltage_v,current_a,quality"
    rows = [
        "2026-01-01T00:00:00.250Z,meter_1,1.5,2.25,207.0,12.345,good",
        "2026-01-01T00:00:01Z,meter_1,1.5,,207.0,12.346,suspect",
    ]
    first, second = read_export([header, *rows])
    assert first == Recorded(1767225600250, "meter_1", 7, 12345, 1.5, 2.25)
    assert second == Recorded(1767225601000, "meter_1", 0, 0, 0.0, 0.0, suspect=True)


def test_the_report_tells_what_is_wrong_and_draws_it() -> None:
    facts = _lost(a_run())
    facts = replace(facts, windows=[Window(50.0, 55.0, "uplink-down", frozenset())])
    text = markdown(facts, judge(facts), "about")
    assert "| recorded | 1 of " in text
    assert "- Main 1, answer 77 at 72.0 s" in text
    drawn = ET.fromstring(curves(facts))
    words = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "uplink-down" in words
    assert "memory, MB" in words
    assert "nan" not in curves(facts)
