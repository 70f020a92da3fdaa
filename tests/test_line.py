"""The line's worker: what it asks its driver for, and what it makes of the outcome.

The driver is a fake whose every call is seen, on a clock that only the test turns; what is proven
on real wires stands in test_modbus.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from edge.clock import Clock
from edge.errors import BadReply, LineError, NoReply, Refused
from edge.line import LinePlan, LineWorker
from edge.model import LineState, Meter, PollResult, ReadRequest
from edge.schedule import Read
from tests.building import FakeClock, a_meter
from tests.peers import wait_until

WORDS = {0: 12, 1: 3400, 2: 230}
"""What the device holds; registers without a word are refused where `strict` is set."""


class FakeDriver:
    """A wire whose reads end as the test says.

    errors: what the next calls of `read` (or of `open`) raise; None is none. asked: each request
    with the time of the fake clock.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.words = dict(WORDS)
        self.errors: list[Exception | None] = []
        self.open_errors: list[Exception | None] = []
        self.asked: list[tuple[float, ReadRequest]] = []
        self.timeouts_s: list[float] = []
        self.opened_s: list[float] = []
        self.closed = 0
        self.is_open = False
        self.strict = False
        self.during_read: Callable[[], None] = lambda: None

    @property
    def connected(self) -> bool:
        return self.is_open

    def open(self, timeout_s: float) -> None:
        self.opened_s.append(self.clock.mono_s())
        if self.open_errors and (error := self.open_errors.pop(0)) is not None:
            raise error
        self.is_open = True

    def read(self, request: ReadRequest, timeout_s: float) -> Sequence[int]:
        assert self.is_open, "a read needs an open wire"
        self.asked.append((self.clock.mono_s(), request))
        self.timeouts_s.append(timeout_s)
        self.during_read()
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        addresses = range(request.address, request.address + request.count)
        missing = [address for address in addresses if address not in self.words]
        if self.strict and missing:
            raise Refused(2, f"Register {missing[0]} was refused.")
        return [self.words.get(address, 0) for address in addresses]

    def close(self) -> None:
        self.closed += 1
        self.is_open = False


class Bench:
    """A worker without its thread, polled by hand."""

    def __init__(self) -> None:
        self.clock = FakeClock(mono_s=1000.0)
        self.driver = FakeDriver(self.clock)
        self.delivered: list[PollResult] = []
        self.worker = LineWorker("a line", self.driver, self.delivered.append, self.clock)

    def poll(self, meter: Meter, *, trial: bool = False) -> PollResult:
        return self.worker.poll(Read(meter, trial), LinePlan(frozenset({meter}), 500.0))

    @property
    def asked(self) -> list[tuple[int, int]]:
        """Address and count of each request so far."""
        return [(request.address, request.count) for _, request in self.driver.asked]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def a_modbus_meter(name: str = "Main", **communication: Any) -> Meter:
    given = {"host": "127.0.0.1", "registers": {"power": 0, "energy": 1, "voltage": 2}}
    return a_meter(name, communication={**given, **communication})


def test_a_poll_gives_values_with_the_moment_they_were_asked_for(bench: Bench) -> None:
    bench.driver.during_read = lambda: bench.clock.turn(0.25)
    result = bench.poll(meter := a_modbus_meter(timeout=700))
    assert result.meter is meter
    assert result.reading is not None
    assert result.reading.values == {"power": 12.0, "energy": 3400.0, "voltage": 230.0}
    assert result.reading.hints == ()
    assert result.reading.mono_s == 1000.0, "a reply may be as old as its question"
    assert result.reading.unix_ms == bench.clock.unix_ms() - 250
    assert (result.result, result.error, result.failed) == ("ok", None, False)
    assert result.duration_s == 0.25
    assert bench.asked == [(0, 3)]
    assert bench.driver.timeouts_s == [0.7]


def test_what_is_implausible_comes_with_a_hint(bench: Bench) -> None:
    bench.driver.words[2] = 2301
    result = bench.poll(a_modbus_meter())
    assert result.reading is not None
    (hint,) = result.reading.hints
    assert hint.startswith("voltage reads 2301 V")
    assert result.result == "ok"


def test_the_grid_capacity_that_power_is_judged_by_is_the_plans(bench: Bench) -> None:
    meter = a_modbus_meter()
    for capacity_kw, hints in ((500.0, 0), (0.5, 1)):
        plan = LinePlan(frozenset({meter}), capacity_kw)
        reading = bench.worker.poll(Read(meter, trial=False), plan).reading
        assert reading is not None
        assert len(reading.hints) == hints


def test_a_value_that_is_no_number_is_absent(bench: Bench) -> None:
    bench.driver.words.update({10: 0x7FC0, 11: 0})
    meter = a_modbus_meter(registers={"power": {"address": 10, "type": "float32"}, "voltage": 2})
    result = bench.poll(meter)
    assert result.reading is not None
    assert result.reading.values == {"voltage": 230.0}
    assert (result.result, result.failed) == ("ok", False)


# --- Retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NoReply("Silent."), BadReply("Garbage.")])
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_request_is_repeated_as_often_as_the_meter_says(
    bench: Bench, error: Exception, retries: int
) -> None:
    meter = a_modbus_meter(retries=retries)
    bench.driver.errors = [error] * retries
    assert bench.poll(meter).result == "ok"
    assert len(bench.asked) == retries + 1
    bench.driver.asked.clear()
    bench.driver.errors = [error] * (retries + 1)
    result = bench.poll(meter)
    assert len(bench.asked) == retries + 1
    assert (result.reading, result.error, result.failed) == (None, str(error), True)
    assert result.result == ("no_reply" if isinstance(error, NoReply) else "bad_reply")


def test_a_trial_is_one_attempt(bench: Bench) -> None:
    bench.driver.errors = [NoReply("Silent.")]
    assert bench.poll(a_modbus_meter(retries=5), trial=True).failed
    assert len(bench.asked) == 1


def test_a_refusal_is_not_repeated(bench: Bench) -> None:
    bench.driver.errors = [Refused(4, "Refused with 4.")]
    result = bench.poll(a_modbus_meter(retries=5))
    assert (result.result, result.error, result.failed) == ("refused", "Refused with 4.", True)
    assert len(bench.asked) == 1


# --- Several blocks ------------------------------------------------------------------------------

THREE_BLOCKS = {"power": 0, "energy": 1000, "voltage": 2000}


def a_wide_meter(**communication: Any) -> Meter:
    return a_modbus_meter(registers=THREE_BLOCKS, retries=0, **communication)


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_block_that_is_refused_leaves_the_others(bench: Bench, code: int) -> None:
    bench.driver.errors = [None, Refused(code, "Register 1000 was refused.")]
    result = bench.poll(a_wide_meter())
    assert bench.asked == [(0, 1), (1000, 1), (2000, 1)]
    assert result.reading is not None
    assert set(result.reading.values) == {"power", "voltage"}
    assert (result.result, result.failed) == ("partial", False)
    assert result.error == "Register 1000 was refused."


@pytest.mark.parametrize("code", [4, 5, 6, 10, 11])
def test_a_refusal_that_speaks_of_the_device_ends_the_poll(bench: Bench, code: int) -> None:
    bench.driver.errors = [None, Refused(code, "The device is busy.")]
    result = bench.poll(a_wide_meter())
    assert bench.asked == [(0, 1), (1000, 1)]
    assert (result.result, result.failed) == ("partial", False)


def test_a_reply_without_any_value_is_no_reading(bench: Bench) -> None:
    registers = {"power": {"address": 0, "notAvailable": 12}, "energy": None}
    result = bench.poll(a_modbus_meter(registers=registers))
    assert (result.reading, result.result, result.failed) == (None, "bad_reply", True)
    assert result.error == (
        "Main answers, but gives no value for any quantity; check the register addresses and types."
    )


def test_retries_are_for_the_whole_poll_and_not_for_each_block(bench: Bench) -> None:
    bench.driver.errors = [NoReply("Late."), None, NoReply("Late again."), None]
    registers = {"power": 0, "energy": 1000, "voltage": 2000}
    result = bench.poll(a_modbus_meter(registers=registers, retries=1))
    assert bench.asked == [(0, 1), (0, 1), (1000, 1)]
    assert (result.result, result.error, result.failed) == ("partial", "Late again.", True)


def test_a_silence_ends_the_poll_and_keeps_what_was_read(bench: Bench) -> None:
    bench.driver.during_read = lambda: bench.clock.turn(1.0)
    bench.driver.errors = [None, NoReply("Silent.")]
    result = bench.poll(a_wide_meter())
    assert bench.asked == [(0, 1), (1000, 1)]
    assert result.reading is not None
    assert set(result.reading.values) == {"power"}
    assert result.reading.mono_s == 1000.0, "the wait for the rest makes no value younger"
    assert (result.result, result.error) == ("partial", "Silent.")
    # It cost a whole time-out, so the meter rests like a silent one.
    assert result.failed


def test_the_first_refusal_is_the_one_that_is_told(bench: Bench) -> None:
    bench.driver.errors = [Refused(2, "First."), None, Refused(2, "Last.")]
    assert bench.poll(a_wide_meter()).error == "First."


def test_a_packed_block_is_split_where_it_is_refused_and_stays_so(bench: Bench) -> None:
    bench.driver.strict = True
    bench.driver.words = {0: 12, 4: 3400, 8: 230}
    meter = a_modbus_meter(registers={"power": 0, "energy": 4, "voltage": 8})
    assert bench.poll(meter).result == "ok"
    assert bench.asked == [(0, 9), (0, 1), (4, 1), (8, 1)]
    bench.driver.asked.clear()
    assert bench.poll(meter).result == "ok"
    assert bench.asked == [(0, 1), (4, 1), (8, 1)]


def test_a_split_is_one_meters_and_forgotten_when_it_is_changed(bench: Bench) -> None:
    bench.driver.strict = True
    bench.driver.words = {0: 12, 4: 3400}
    registers = {"power": 0, "energy": 4}
    for name in ("Main", "Main, changed"):
        bench.driver.asked.clear()
        bench.poll(a_modbus_meter(name, registers=registers))
        assert bench.asked == [(0, 5), (0, 1), (4, 1)]


def test_a_meter_of_which_nothing_can_be_read_has_no_reading(bench: Bench) -> None:
    bench.driver.strict = True
    bench.driver.words = {}
    result = bench.poll(a_wide_meter())
    assert (result.result, result.reading, result.failed) == ("refused", None, True)


# --- The wire ------------------------------------------------------------------------------------


def test_a_line_counts_how_often_it_was_opened(bench: Bench) -> None:
    meter = a_modbus_meter(retries=0)
    assert bench.worker.state == LineState("a line")
    for opened in (1, 2, 3):
        bench.poll(meter)
        bench.poll(meter)
        assert bench.worker.state == LineState("a line", connected=True, opened=opened)
        bench.driver.is_open = False


def test_a_line_that_closes_on_a_silence_is_shown_closed_without_an_error(bench: Bench) -> None:
    def hang_up() -> None:
        bench.driver.is_open = False

    bench.driver.errors = [NoReply("Silent.")]
    bench.driver.during_read = hang_up
    bench.poll(a_modbus_meter(), trial=True)
    assert bench.worker.state == LineState("a line", connected=False, opened=1)


def test_a_line_that_cannot_be_opened_is_tried_again_ever_more_seldom(
    bench: Bench,
) -> None:
    meter = a_modbus_meter()
    bench.driver.open_errors = [LineError(f"Cannot open, {n}.") for n in range(100)]
    for _ in range(100):
        result = bench.poll(meter)
        assert (result.result, result.failed) == ("line_error", True)
        assert result.error == f"Cannot open, {len(bench.driver.opened_s) - 1}."
        assert bench.worker.state == LineState("a line", last_error=result.error)
        bench.clock.turn(0.1)
    opened_s = bench.driver.opened_s
    waits_s = [b - a for a, b in pairwise(opened_s)]
    assert waits_s == pytest.approx([0.4, 0.8, 1.6, 1.6, 1.6, 1.6, 1.6], abs=0.11)
    assert not bench.driver.asked


@pytest.mark.parametrize("connect_s", [0.0, 1.0])
def test_a_meter_read_every_second_is_tried_at_least_every_two(
    bench: Bench, connect_s: float
) -> None:
    meter = a_modbus_meter()

    def refuse(timeout_s: float) -> None:
        bench.driver.opened_s.append(bench.clock.mono_s())
        bench.clock.turn(connect_s + 0.001)
        raise LineError("Cannot open.")

    bench.driver.open = refuse  # type: ignore[method-assign]
    for slot in range(20):
        bench.clock.turn(max(0.0, 1000.0 + slot - bench.clock.mono_s()))
        bench.poll(meter)
    waits_s = [b - a for a, b in pairwise(bench.driver.opened_s)]
    assert max(waits_s) <= 2.01


def test_a_line_that_was_opened_again_starts_with_the_short_wait(bench: Bench) -> None:
    meter = a_modbus_meter()
    bench.driver.open_errors = [LineError("Closed.")] * 4 + [None, LineError("Closed.")]
    while bench.poll(meter).result != "ok":
        bench.clock.turn(0.1)
    assert bench.worker.state == LineState("a line", connected=True, opened=1)
    bench.driver.is_open = False
    bench.driver.opened_s.clear()
    while bench.poll(meter).result != "ok":
        bench.clock.turn(0.1)
    first_s, second_s = bench.driver.opened_s
    assert second_s - first_s == pytest.approx(0.4, abs=0.11)


def test_a_wire_that_is_lost_in_the_middle_ends_the_poll_for_all_of_it(bench: Bench) -> None:
    bench.driver.errors = [None, LineError("Unplugged.")]
    result = bench.poll(a_wide_meter())
    assert (result.result, result.error, result.reading) == ("line_error", "Unplugged.", None)
    assert bench.asked == [(0, 1), (1000, 1)]
    assert bench.worker.state.last_error == "Unplugged."


def test_request_delay_is_kept_between_all_requests_of_a_line(bench: Bench) -> None:
    def take_time() -> None:
        bench.clock.turn(0.02)

    bench.driver.during_read = take_time
    slow = a_modbus_meter("Slow", registers=THREE_BLOCKS, requestDelay=50)
    quick = a_modbus_meter("Quick")
    bench.poll(quick)
    bench.driver.errors = [NoReply("Silent.")]
    bench.poll(slow)
    bench.poll(quick)
    asked_s = [at_s for at_s, _ in bench.driver.asked]
    pauses_s = [b - a - 0.02 for a, b in pairwise(asked_s)]
    assert pauses_s == pytest.approx([0.05, 0.05, 0.05, 0.05, 0.0])


def test_a_connection_that_is_lost_while_the_line_keeps_its_distance_is_opened(
    bench: Bench,
) -> None:
    meter = a_modbus_meter(requestDelay=50)
    bench.poll(meter)

    def sleep_through_a_hang_up(duration_s: float) -> None:
        bench.clock.turn(duration_s)
        bench.driver.is_open = False

    bench.clock.sleep = sleep_through_a_hang_up  # type: ignore[method-assign]
    assert bench.poll(meter).result == "ok"
    assert bench.worker.state.opened == 2


# --- The thread ----------------------------------------------------------------------------------


class Running:
    """A worker with its thread, whose reads wait for `go`."""

    def __init__(self, *meters: Meter) -> None:
        self.clock = Clock()
        self.driver = FakeDriver(self.clock)
        self.driver.during_read = self._read
        self.delivered: list[PollResult] = []
        self.go = threading.Semaphore(0)
        self.in_flight = 0
        self.most_in_flight = 0
        self.worker = LineWorker("a line", self.driver, self.delivered.append, self.clock)
        self.worker.plan = LinePlan(frozenset(meters), 500.0)
        self.worker.start()

    def _read(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        assert self.go.acquire(timeout=10)
        self.in_flight -= 1

    def submit(self, *meters: Meter) -> None:
        for meter in meters:
            self.worker.submit(Read(meter, trial=False))


def test_reads_are_served_in_order_one_at_a_time() -> None:
    meters = [a_modbus_meter(f"Meter {n}") for n in range(5)]
    running = Running(*meters)
    running.submit(*meters, *reversed(meters))
    running.go.release(10)
    wait_until(lambda: len(running.delivered) == 10)
    running.worker.stop()
    running.worker.join(5.0)
    assert [result.meter for result in running.delivered] == [*meters, *reversed(meters)]
    assert running.most_in_flight == 1


def test_a_read_for_a_meter_that_is_not_in_the_plan_is_dropped() -> None:
    old, new = a_modbus_meter("Old"), a_modbus_meter("New")
    running = Running(old)
    running.submit(old, old, new)
    wait_until(lambda: running.in_flight == 1)
    running.worker.plan = LinePlan(frozenset({new}), 500.0)
    running.go.release(3)
    wait_until(lambda: len(running.delivered) == 2)
    running.worker.stop()
    running.worker.join(5.0)
    assert [result.meter for result in running.delivered] == [old, new]


def test_stop_ends_the_thread_after_the_read_under_way_and_closes_the_wire() -> None:
    meters = [a_modbus_meter(f"Meter {n}") for n in range(5)]
    running = Running(*meters)
    running.submit(*meters)
    wait_until(lambda: running.in_flight == 1)
    running.worker.stop()
    running.go.release()
    running.worker.join(5.0)
    assert "line-a line" not in [thread.name for thread in threading.enumerate()]
    assert len(running.driver.asked) == 1
    assert running.driver.closed == 1
    assert not running.driver.is_open


def test_a_bug_in_a_driver_closes_the_wire_and_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    meter = a_modbus_meter()
    running = Running(meter)
    running.driver.errors = [ZeroDivisionError()]
    running.go.release()
    running.submit(meter)
    running.worker.join(5.0)
    assert seen == [ZeroDivisionError]
    assert running.driver.closed == 1
    assert running.delivered == []
