"""The control cycle, driven tick by tick without a sleep."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from edge.clock import Clock
from edge.communication import ModbusCommunication
from edge.cycle import HEALTH_WINDOW_TICKS, Cycle, SiteLimits
from edge.image import ProcessImage
from edge.line import ListenLine, PollLine
from edge.model import (
    LoadQuality,
    MessageCounts,
    Meter,
    Outcome,
    PollEnd,
    PollResult,
    Probe,
    Snapshot,
    Status,
)
from edge.schedule import Read
from tests.building import (
    FakeClock,
    a_failure,
    a_meter,
    a_reading,
    a_speaking_meter,
    an_answer,
)

LIMITS = SiteLimits(grid_capacity_kw=500.0, failsafe_available_kw=0.0)
TICK_S = 0.1


class NoDriver:
    """A line that nobody asks or hears."""

    connected = False
    opened = 0
    counts = MessageCounts()

    def open(self, timeout_s: float) -> None:
        raise AssertionError("the lines of these tests have no thread")

    def poll(self, meter: Meter, *, trial: bool) -> Outcome:
        raise AssertionError("the lines of these tests have no thread")

    def forget(self, meters: Collection[Meter]) -> None:
        raise AssertionError("the lines of these tests have no thread")

    def follow(self, meters: Collection[Meter]) -> None:
        raise AssertionError("the lines of these tests have no thread")

    def listen(self, timeout_s: float) -> Sequence[tuple[Meter, Outcome]]:
        raise AssertionError("the lines of these tests have no thread")

    def probe(self, meter: Meter) -> Probe:
        raise AssertionError("the lines of these tests have no thread")

    def close(self) -> None:
        pass


class StillLine(PollLine):
    """A line without a thread, which keeps reads and probes until the test answers them."""

    def __init__(self, name: str, deliver: Callable[[PollResult], None], clock: Clock) -> None:
        super().__init__(name, NoDriver(), deliver, clock)
        self.reads: list[Read] = []
        self.probes: list[tuple[Meter, Future[Probe]]] = []
        self.started = False
        self.stopped = False

    def start(self) -> None:
        self.started = True

    def submit(self, read: Read) -> None:
        self.reads.append(read)

    def probe(self, meter: Meter, done: Future[Probe]) -> None:
        assert self.started
        assert not self.stopped
        self.probes.append((meter, done))

    def stop(self) -> None:
        self.stopped = True

    def join(self, timeout_s: float) -> None:
        pass


class StillListening(ListenLine):
    """A line without a thread, on which meters speak when the test says so."""

    def __init__(self, name: str, deliver: Callable[[PollResult], None], clock: Clock) -> None:
        super().__init__(name, NoDriver(), deliver, clock)
        self.started = False
        self.stopped = False

    def start(self) -> None:
        self.started = True

    def stop(self) -> None:
        self.stopped = True

    def join(self, timeout_s: float) -> None:
        pass


class Bench:
    """A cycle on a fake clock, with lines that the test answers for."""

    def __init__(self, *meters: Meter, limits: SiteLimits = LIMITS) -> None:
        self.clock = FakeClock()
        self.image = ProcessImage()
        self.lines: dict[str, StillLine] = {}
        self.listening: list[StillListening] = []
        self.recorded: list[PollResult] = []
        self.published: list[Snapshot] = []
        self.cycle = Cycle(100, limits, self.image, self.make_line, self.clock, [self.follow])
        self.tick = -1
        if meters:
            self.change(*meters)

    def make_line(self, meter: Meter) -> StillLine | StillListening:
        if meter.poll_interval_ms is None:
            listening = StillListening(meter.line, self.image.put, self.clock)
            self.listening.append(listening)
            return listening
        line = StillLine(meter.line, self.image.put, self.clock)
        self.lines[meter.line] = line
        return line

    def follow(self, snapshot: Snapshot, results: Sequence[PollResult]) -> None:
        self.published.append(snapshot)
        self.recorded += results

    def change(self, *meters: Meter) -> None:
        done = self.cycle.change_meters(meters)
        assert not done.done(), "a change is taken over at a tick, not before"
        self.step()
        assert done.done()

    def step(self, ticks: int = 1) -> Snapshot:
        for _ in range(ticks):
            self.tick += 1
            self.clock.turn(TICK_S)
            self.cycle.step(self.tick)
        return self.cycle.snapshot

    def take_reads(self) -> list[Read]:
        reads = [read for line in self.lines.values() for read in line.reads]
        for line in self.lines.values():
            line.reads.clear()
        return reads

    def answer(self, power: float) -> None:
        """Answer all reads that wait."""
        for read in self.take_reads():
            reading = a_reading(self.clock.now_mono_s, power=power)
            self.image.put(an_answer(read.meter, reading))

    def metric(self, name: str) -> float:
        for line in self.cycle.metrics.text().decode().splitlines():
            if line.startswith(name):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"{name} is not exported")


def on_line(name: str, host: str, **changes: Any) -> Meter:
    communication = {"host": host, "registers": {"power": 0}}
    return a_meter(name, communication=communication, **changes)


def test_a_reading_reaches_snapshot_and_load_one_tick_after_it_came() -> None:
    meter = a_meter()
    bench = Bench(meter)
    snapshot = bench.step()
    assert snapshot.meters[meter.id].status is Status.PENDING
    assert snapshot.load.quality is LoadQuality.FAILSAFE
    bench.answer(power=80.0)
    snapshot = bench.step()
    assert snapshot.meters[meter.id].live_power_kw == 80.0
    assert (snapshot.load.available_kw, snapshot.load.quality) == (420.0, LoadQuality.GOOD)


def test_each_result_is_handed_on_to_be_kept_once_and_at_its_tick() -> None:
    meter = a_meter()
    bench = Bench(meter)
    bench.step(60)
    bench.answer(power=12.5)
    assert bench.recorded == []
    bench.step(2)
    assert [result.reading and result.reading.values for result in bench.recorded] == [
        {"power": 12.5}
    ]


def test_each_snapshot_is_handed_on_at_its_tick() -> None:
    bench = Bench(a_meter())
    snapshots = [bench.step() for _ in range(3)]
    assert bench.published[-3:] == snapshots


def test_a_published_snapshot_never_changes() -> None:
    meter = a_meter()
    bench = Bench(meter)
    first = bench.step()
    bench.answer(power=80.0)
    bench.step()
    assert first.meters[meter.id].status is Status.PENDING
    assert first.load.quality is LoadQuality.FAILSAFE


def test_a_meter_is_read_once_per_interval_at_its_own_tick() -> None:
    bench = Bench(a_meter())
    ticks = []
    for _ in range(100):
        if bench.take_reads():
            ticks.append(bench.tick)
            bench.image.put(an_answer(next(iter(bench.cycle.snapshot.meters.values())).meter))
        bench.step()
    assert ticks[0] == 0, "a new meter is read at once"
    assert {later - earlier for earlier, later in itertools.pairwise(ticks)} == {10}


def test_a_read_that_is_pending_is_not_repeated_but_counted_as_overrun() -> None:
    meter = a_meter()
    bench = Bench(meter)
    bench.step(35)
    assert len(bench.take_reads()) == 1
    assert bench.cycle.snapshot.health.overruns == 3
    assert bench.metric("dlm_poll_overruns_total{") == 3


def test_an_answer_for_a_meter_that_was_changed_meanwhile_is_dropped() -> None:
    meter = a_meter()
    bench = Bench(meter)
    (read,) = bench.take_reads()
    assert isinstance(meter.communication, ModbusCommunication)
    communication = replace(meter.communication, unit_id=2)
    changed = replace(meter, communication=communication)
    bench.change(changed)
    bench.image.put(an_answer(read.meter, a_reading(power=1.0)))
    snapshot = bench.step()
    assert snapshot.meters[meter.id].status is Status.PENDING
    assert bench.metric('dlm_polls_total{meter_id="' + meter.id) == 0


def test_lines_are_made_and_stopped_with_the_plan() -> None:
    one, two, three = on_line("1", "a.lan"), on_line("2", "a.lan"), on_line("3", "b.lan")
    bench = Bench(one, two, three)
    assert [line.name for line in bench.cycle.snapshot.lines] == [
        "tcp://a.lan:502",
        "tcp://b.lan:502",
    ]
    assert bench.lines["tcp://a.lan:502"].plan.meters == {one, two}
    bench.change(two)
    assert bench.lines["tcp://b.lan:502"].stopped
    assert not bench.lines["tcp://a.lan:502"].stopped
    assert bench.lines["tcp://a.lan:502"].plan.meters == {two}


def test_a_line_that_the_system_refuses_a_thread_ends_nothing() -> None:
    one, two = on_line("1", "a.lan"), on_line("2", "b.lan")
    bench = Bench()
    make_line = bench.make_line
    refused = [True]

    class Refused(StillLine):
        def start(self) -> None:
            if refused:
                raise RuntimeError("can't start new thread")

    def make(meter: Meter) -> StillLine | StillListening:
        if meter.line != two.line:
            return make_line(meter)
        line = Refused(meter.line, bench.image.put, bench.clock)
        bench.lines[meter.line] = line
        return line

    bench.cycle._make_line = make
    bench.change(one, two)
    snapshot = bench.step(6)
    assert snapshot.meters[two.id].status is Status.ERROR
    assert "refuses a thread" in (snapshot.meters[two.id].last_error or "")
    assert [line.name for line in snapshot.lines] == [one.line]
    refused.clear()
    bench.step(10)
    assert two in [read.meter for read in bench.lines[two.line].reads]
    assert bench.lines[two.line].plan.meters == {two}


def test_a_serial_line_with_other_settings_is_opened_anew() -> None:
    def meter(baudrate: int) -> Meter:
        communication = {
            "transport": "rtu",
            "serialPort": "/dev/ttyUSB0",
            "baudrate": baudrate,
            "registers": {"power": 0},
        }
        return a_meter(communication=communication)

    bench = Bench(meter(9600))
    before = bench.lines["rtu:/dev/ttyUSB0"]
    bench.change(meter(19200))
    assert before.stopped
    assert not bench.lines["rtu:/dev/ttyUSB0"].stopped


def test_new_limits_count_from_the_next_tick_on() -> None:
    meter = a_meter()
    bench = Bench(meter)
    bench.answer(power=80.0)
    bench.step()
    done = bench.cycle.change_limits(SiteLimits(100.0, 0.0))
    snapshot = bench.step()
    assert done.done()
    assert (snapshot.load.grid_capacity_kw, snapshot.load.available_kw) == (100.0, 20.0)
    assert bench.lines[meter.line].plan.grid_capacity_kw == 100.0


def test_a_failing_line_rests_no_meter_and_a_failing_meter_rests_itself() -> None:
    meter = a_meter()
    bench = Bench(meter)
    for end, reads_in_4_s in ((PollEnd.LINE_ERROR, 4), (PollEnd.NO_REPLY, 2)):
        reads = 0
        for _ in range(40):
            for read in bench.take_reads():
                reads += 1
                bench.image.put(a_failure(read.meter, end))
            bench.step()
        assert reads == pytest.approx(reads_in_4_s, abs=1), end


def test_a_meter_is_left_alone_for_as_long_as_it_asked() -> None:
    meter = a_meter()
    bench = Bench(meter)
    (read,) = bench.take_reads()
    refusal = a_failure(read.meter, PollEnd.REFUSED, "Too many requests.")
    bench.image.put(replace(refusal, duration_s=0.0, rest_s=7.0))
    asked_at = bench.tick
    while not bench.take_reads():
        bench.step()
    assert 70 <= bench.tick - asked_at <= 80


# --- Meters that speak by themselves -------------------------------------------------------------


def test_a_meter_that_speaks_is_heard_at_the_next_tick_and_never_polled() -> None:
    meter = a_speaking_meter()
    bench = Bench(meter)
    (line,) = bench.listening
    assert line.started
    assert line.plan.meters == {meter}
    bench.image.put(an_answer(meter, a_reading(bench.clock.now_mono_s, power=80.0)))
    snapshot = bench.step()
    assert snapshot.load.available_kw == 420.0
    bench.step(100)
    assert bench.cycle.snapshot.health.overruns == 0
    assert bench.cycle.snapshot.meters[meter.id].status is Status.ONLINE
    assert "dlm_polls_total{" not in bench.cycle.metrics.text().decode()
    bench.change()
    assert line.stopped


def test_a_meter_that_speaks_is_offline_when_it_is_silent_for_too_long() -> None:
    meter = a_speaking_meter(staleAfter=1000)
    bench = Bench(meter)
    bench.step(10)
    assert bench.cycle.snapshot.meters[meter.id].status is Status.PENDING
    bench.step(2)
    assert bench.cycle.snapshot.meters[meter.id].status is Status.OFFLINE


# --- Probes --------------------------------------------------------------------------------------


def test_a_probe_of_a_registered_meter_takes_its_line_which_stays() -> None:
    meter = a_meter()
    bench = Bench(meter)
    done = bench.cycle.probe(meter)
    bench.step()
    (line,) = bench.lines.values()
    assert line.probes == [(meter, done)]
    done.set_result(Probe())
    bench.step(2)
    assert not line.stopped
    assert [line.name for line in bench.cycle.snapshot.lines] == [meter.line]


def test_a_line_is_made_for_a_probe_and_ends_after_it() -> None:
    bench = Bench()
    stranger = on_line("Stranger", "a.lan")
    done = bench.cycle.probe(stranger)
    bench.step()
    line = bench.lines[stranger.line]
    assert line.probes == [(stranger, done)]
    bench.step(10)
    assert not line.stopped, "not before the probe is done"
    assert bench.cycle.snapshot.meters == {}
    done.set_result(Probe())
    assert bench.step().lines == ()
    assert line.stopped


def test_a_line_takes_one_probe_at_a_time() -> None:
    bench = Bench()
    one, two = on_line("One", "a.lan"), on_line("Two", "a.lan", meterType="zone")
    first, second = bench.cycle.probe(one), bench.cycle.probe(two)
    bench.step()
    line = bench.lines[one.line]
    assert line.probes == [(one, first)]
    assert second.cancelled(), "its own meters are not read meanwhile"
    assert first.cancel(), "who gave up waits for nothing"
    bench.step()
    assert line.stopped
    bench.cycle.probe(one)
    bench.step()
    assert bench.lines[one.line] is not line, "one that was stopped is not used again"


def test_a_probe_may_come_as_soon_as_the_one_before_is_done() -> None:
    bench = Bench()
    stranger = on_line("Stranger", "a.lan")
    first = bench.cycle.probe(stranger)
    bench.step()
    first.set_result(Probe())
    second = bench.cycle.probe(stranger)  # before the tick that would let the line go
    bench.step()
    line = bench.lines[stranger.line]
    assert line.probes == [(stranger, first), (stranger, second)]
    assert not line.stopped


def test_a_meter_that_is_registered_while_it_is_probed_keeps_the_line() -> None:
    bench = Bench()
    meter = on_line("Main", "a.lan")
    done = bench.cycle.probe(meter)
    bench.step()
    line = bench.lines[meter.line]
    bench.change(meter)
    done.set_result(Probe())
    bench.step(2)
    assert bench.lines == {meter.line: line}
    assert not line.stopped
    assert line.plan.meters == {meter}


def test_a_meter_that_is_removed_while_it_is_probed_leaves_the_line_until_then() -> None:
    meter = on_line("Main", "a.lan")
    bench = Bench(meter)
    done = bench.cycle.probe(meter)
    bench.step()
    bench.change()
    line = bench.lines[meter.line]
    assert not line.stopped
    done.set_result(Probe())
    bench.step()
    assert line.stopped
    assert bench.cycle.snapshot.lines == ()


def test_a_probe_whose_line_gets_no_thread_is_cancelled() -> None:
    bench = Bench()

    def refuse(meter: Meter) -> StillLine:
        line = StillLine(meter.line, bench.image.put, bench.clock)

        def start() -> None:
            raise RuntimeError("can't start new thread")

        line.start = start  # type: ignore[method-assign]
        return line

    bench.cycle._make_line = refuse
    done = bench.cycle.probe(a_meter())
    bench.step()
    assert done.cancelled()
    assert bench.cycle.snapshot.lines == ()


def test_a_probe_that_comes_when_the_service_stops_is_cancelled() -> None:
    bench = Bench(a_meter())
    bench.cycle.stop()
    done = bench.cycle.probe(a_meter())
    bench.cycle.run()
    assert done.cancelled()
    assert all(line.stopped and not line.probes for line in bench.lines.values())


# --- Health and log ------------------------------------------------------------------------------


def test_health_tells_lateness_and_missed_ticks() -> None:
    bench = Bench()
    for tick in range(HEALTH_WINDOW_TICKS):
        bench.cycle.step(tick, late_s=0.050 if tick == 7 else 0.001, missed=int(tick == 7))
    bench.cycle.step(HEALTH_WINDOW_TICKS)
    health = bench.cycle.snapshot.health
    assert (health.lateness_p50_ms, health.lateness_p99_ms) == (1.0, 1.0)
    assert health.lateness_max_ms == 50.0
    assert health.missed_ticks == 1
    assert bench.metric("dlm_schedule_missed_ticks_total") == 1
    assert bench.metric("dlm_schedule_lateness_seconds_count") == HEALTH_WINDOW_TICKS + 1


PENDING_REASON = (
    '"Main Building Meter" has not been read yet: at most 0 kW is given '
    "(load.failsafe_available_kw); set its maxPower to count that instead."
)
FAILSAFE_REASON = (
    '"Main Building Meter" is in error (It is silent): at most 0 kW is given '
    "(load.failsafe_available_kw); set its maxPower to count that instead."
)


def test_a_meter_that_goes_and_comes_back_is_logged_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "EnergyMeterManager")
    bench = Bench(a_meter("Main Building Meter"))
    for result in ("ok", "no_reply", "no_reply", "no_reply", "ok", "ok"):
        while not (reads := bench.take_reads()):
            bench.step()
        meter = reads[0].meter
        bench.image.put(
            an_answer(meter, a_reading(bench.clock.now_mono_s))
            if result == "ok"
            else a_failure(meter, error="It is silent.")
        )
        bench.step()
    assert [record.getMessage() for record in caplog.records] == [
        "Starting monitoring for Main Building Meter via modbus",
        "The load status is failsafe: " + PENDING_REASON,
        "Main Building Meter is online",
        "The load status is good",
        "Main Building Meter is in error: It is silent.",
        "The load status is failsafe: " + FAILSAFE_REASON,
        "Main Building Meter is online",
        "The load status is good",
    ]


def test_a_meter_that_turns_suspect_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(a_meter("Main"))
    bench.answer(power=1.0)
    bench.step()
    caplog.set_level(logging.INFO, "EnergyMeterManager")
    caplog.clear()
    (state,) = bench.cycle.snapshot.meters.values()
    for hints in (("It is huge.",), ("It is huge again.",), ()):
        reading = a_reading(bench.clock.now_mono_s, hints, power=1.0)
        bench.image.put(an_answer(state.meter, reading))
        bench.step()
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "Main gives suspect values",
        "The load status is failsafe",
        "Main is online",
        "The load status is good",
    ]


def test_the_cycle_keeps_absolute_deadlines_and_skips_what_it_misses() -> None:
    cycle = Cycle(100, LIMITS, ProcessImage(), lambda meter: pytest.fail("no lines"), Clock())
    ticks: list[tuple[int, float, int]] = []
    step = cycle.step

    def observed(tick: int, late_s: float = 0.0, missed: int = 0) -> None:
        ticks.append((tick, late_s, missed))
        step(tick, late_s, missed)
        if len(ticks) == 3:
            time.sleep(0.35)
        if len(ticks) == 8:
            cycle.stop()

    cycle.step = observed  # type: ignore[method-assign]
    runner = threading.Thread(target=cycle.run)
    runner.start()
    runner.join(timeout=30)
    assert not runner.is_alive()
    numbers = [tick for tick, _, _ in ticks]
    gaps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    assert min(gaps) == 1, "no tick twice, none out of order"
    assert gaps[2] >= 3, "what it missed it skips"
    assert gaps == [1 + missed for _, _, missed in ticks[1:]]
    assert all(0 <= late_s - missed * TICK_S < TICK_S for _, late_s, missed in ticks)


def test_a_stop_needs_no_tick() -> None:
    cycle = Cycle(1000, LIMITS, ProcessImage(), lambda meter: pytest.fail("no lines"), Clock())
    runner = threading.Thread(target=cycle.run)
    runner.start()
    cycle.stop()
    runner.join(timeout=5)
    assert not runner.is_alive()
