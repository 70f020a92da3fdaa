"""One thread per line: it polls the line's meters in order, or hears those that speak.

A `PollLine` serves the pending reads of a `Driver`, one request in flight, probes included: a wire
has one talker. A `ListenLine` keeps a `Listener` connected and passes on what is heard. Both judge
what came, and open the line again with growing pauses when it is lost.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue

from edge.clock import Clock
from edge.drivers import Driver, Line, Listener
from edge.errors import Cause, LineError, MeterError, NoReply, Refused
from edge.heartbeat import Heartbeat
from edge.model import LineState, MessageCounts, Meter, Outcome, PollEnd, PollResult, Probe, Reading
from edge.plausibility import hints
from edge.schedule import Read

FIRST_REOPEN_S = 0.4
LAST_REOPEN_S = 1.6
"""Below 2 s, so that a meter read every second gets an attempt at every other slot at least."""
LAST_REOPEN_LISTENING_S = 10.0
"""For what nobody waits for in a slot of a schedule."""
SHORT_LIVED_S = 5.0
"""A connection that is lost within this time was none: two clients with one id throw each other out
as fast as they may connect."""
LISTEN_S = 0.1
"""How long a stop or another plan may wait for a listener."""
MARGIN_S = 600.0
"""Beside the waits of an attempt, for the resolution of a name. With three servers that are silent
that takes a minute at most, and 450 s if it is asked for once with all the attempts and the time
that resolv.conf(5) has room for. A line that is not heard of for longer hangs; its meters are
offline long before."""
MOST_WAITS = 60
"""More time-outs than one attempt can come to: of addresses, TLS, blocks, retries, late replies."""
PROBE_WITHIN_S = MARGIN_S + 300.0
"""A probe takes some tens of seconds beside the resolution of a name."""
LOST_GRACE_S = 10.0
"""A broker that restarts is back within this time; until then its meters' values only age."""


@dataclass(frozen=True)
class LinePlan:
    """What a line serves now. grid_capacity_kw: what readings are judged by."""

    meters: frozenset[Meter]
    grid_capacity_kw: float


NO_PLAN = LinePlan(frozenset(), 0.0)


@dataclass(frozen=True)
class _ProbeJob:
    meter: Meter
    done: Future[Probe]


class LineThread(ABC):
    """What both kinds share. `start`, `plan` and `stop` are for the cycle's thread."""

    last_reopen_s = LAST_REOPEN_S

    def __init__(
        self, name: str, line: Line, deliver: Callable[[PollResult], None], clock: Clock
    ) -> None:
        self.state = LineState(name)
        """The line as last seen; replaced by the line's thread, read by anyone."""
        self.plan = NO_PLAN
        """Replaced by the cycle; a read for a meter that is not in it is dropped."""
        self._line = line
        self._deliver = deliver
        self._clock = clock
        self._reopen_mono_s = 0.0
        self._reopen_wait_s = 0.0
        self._opened_mono_s = 0.0
        self.heartbeat = Heartbeat(f"line-{name}")
        self._thread = threading.Thread(target=self._run, name=f"line-{name}", daemon=True)

    def start(self) -> None:
        """Start the line's thread."""
        self._thread.start()

    @abstractmethod
    def stop(self) -> None:
        """Ask the thread to end after what is under way; does not wait for it."""

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._line.close()
            self.heartbeat.end()

    @abstractmethod
    def _serve(self) -> None:
        """Do the line's work until it is stopped; on its thread."""

    def _open(self, timeout_s: float) -> None:
        """Begin an attempt: open the line unless it is open.

        While it failed a moment ago, it fails at once.
        """
        self.heartbeat.due_within(MARGIN_S + MOST_WAITS * timeout_s)
        if self._line.connected:
            return
        now_mono_s = self._clock.mono_s()
        if now_mono_s < self._reopen_mono_s:
            raise LineError(self.state.last_error or "The line is closed.")
        try:
            self._line.open(timeout_s)
        except LineError:
            self._back_off(now_mono_s)
            raise
        self._opened_mono_s = self._clock.mono_s()
        self._note_state(None)

    def _back_off(self, now_mono_s: float) -> None:
        wait_s = max(FIRST_REOPEN_S, 2 * self._reopen_wait_s)
        self._reopen_wait_s = min(self.last_reopen_s, wait_s)
        self._reopen_mono_s = now_mono_s + self._reopen_wait_s

    def _heard(self) -> MessageCounts | None:
        return None

    def _note_state(self, error: LineError | None) -> None:
        before, last_error = self.state, str(error) if error is not None else None
        now = self._line.connected, last_error, self._line.opened, self._heard()
        if now != (before.connected, before.last_error, before.opened, before.heard):
            self.state = LineState(before.name, *now)


class PollLine(LineThread):
    """A line whose meters are asked. `submit` and `probe` are for the cycle's thread."""

    def __init__(
        self, name: str, driver: Driver, deliver: Callable[[PollResult], None], clock: Clock
    ) -> None:
        super().__init__(name, driver, deliver, clock)
        self._driver = driver
        self._reads: SimpleQueue[Read | None] = SimpleQueue()
        self._probes: SimpleQueue[_ProbeJob] = SimpleQueue()
        self._stopping = False

    def submit(self, read: Read) -> None:
        """Queue a read; its result goes to `deliver`. At most one per meter may be pending."""
        self._reads.put(read)

    def probe(self, meter: Meter, done: Future[Probe]) -> None:
        """Queue a probe of a meter, registered or not, behind all reads that are pending.

        A future that was cancelled is skipped.
        """
        self._probes.put(_ProbeJob(meter, done))
        self._reads.put(None)  # to wake the thread

    def stop(self) -> None:
        """Ask the thread to end after what is under way; probes that wait are still served."""
        self.plan = NO_PLAN
        self._stopping = True
        self._reads.put(None)

    def _serve(self) -> None:
        known = self.plan
        while True:
            self.heartbeat.rest()
            read = self._reads.get()
            plan = self.plan
            if read is not None and read.meter in plan.meters:
                self._deliver(self.poll(read, plan))
            if self._reads.empty():
                self._probe_next()
                if self._stopping and self._reads.empty():
                    return
            if plan is not known:
                self._driver.forget(plan.meters)
                known = plan

    def _probe_next(self) -> None:
        """Serve one probe, if any waits: the meters that are due come first."""
        if self._probes.empty():
            return
        job = self._probes.get()
        if job.done.set_running_or_notify_cancel():
            self.heartbeat.due_within(PROBE_WITHIN_S)
            job.done.set_result(self._driver.probe(job.meter))
            if self._line.connected:
                self._note_state(None)
        if not self._probes.empty():
            self._reads.put(None)

    def poll(self, read: Read, plan: LinePlan) -> PollResult:
        """Read one meter, whatever comes. Blocks; line thread only."""
        started_mono_s = self._clock.mono_s()
        outcome, lost = Outcome(), None
        try:
            self._open(read.meter.communication.timeout_s)
            self._reopen_wait_s = 0.0
            outcome = self._driver.poll(read.meter, trial=read.trial)
        except LineError as exc:
            lost = exc
        noted = self.state.connected, self.state.last_error, self.state.opened
        if lost or outcome.error or noted != (True, None, self._line.opened):
            self._note_state(lost)  # else it was open as before, and each look is a system call
        duration_s = self._clock.mono_s() - started_mono_s
        return _result(read.meter, outcome, lost, plan.grid_capacity_kw, duration_s)


class ListenLine(LineThread):
    """A line whose meters speak by themselves."""

    last_reopen_s = LAST_REOPEN_LISTENING_S

    def __init__(
        self, name: str, listener: Listener, deliver: Callable[[PollResult], None], clock: Clock
    ) -> None:
        super().__init__(name, listener, deliver, clock)
        self._listener = listener
        self._stopping = threading.Event()
        self._followed = NO_PLAN
        self._told: frozenset[Meter] = frozenset()
        self._heard_mono_s: float | None = None

    def stop(self) -> None:
        """Ask the thread to end; it does within LISTEN_S, or when an attempt to connect ends."""
        self._stopping.set()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            plan = self.plan
            if not plan.meters:  # nothing to connect for yet
                self.heartbeat.rest()
                self._stopping.wait(LISTEN_S)
                continue
            if plan is not self._followed:
                self._listener.follow(plan.meters)
                self._followed = plan
            self.listen(plan)

    def listen(self, plan: LinePlan) -> None:
        """Hear once, for LISTEN_S at most where the line is open. Line thread only."""
        was_open = False
        opened = self._line.opened
        try:
            self._open(max(meter.communication.timeout_s for meter in plan.meters))
            was_open = True
            if self._line.opened != opened and (opened or self._told):
                self._tell_gap(plan)
            news = self._listener.listen(LISTEN_S)
        except LineError as exc:
            if was_open and self._clock.mono_s() < self._opened_mono_s + SHORT_LIVED_S:
                self._back_off(self._clock.mono_s())
            self._note_state(exc)
            self._tell_lost(exc, plan)
            self._stopping.wait(LISTEN_S)
            return
        self._heard_mono_s = self._clock.mono_s()
        self._told = frozenset()
        if self._heard_mono_s > self._opened_mono_s + SHORT_LIVED_S:
            self._reopen_wait_s = 0.0
        self._note_state(None)
        for meter, outcome in news:
            if meter in plan.meters and (outcome.values or outcome.error is not None):
                self._deliver(_result(meter, outcome, None, plan.grid_capacity_kw, 0.0))

    def _heard(self) -> MessageCounts | None:
        return self._listener.counts

    def _tell_gap(self, plan: LinePlan) -> None:
        """Tell all meters that messages may have been missed: what they last said may be over."""
        gap = NoReply(
            f"{self.state.name} was not connected for a while, so a message may have been missed; "
            "waiting for a fresh one.",
            Cause.CONNECTION_LOST,
        )
        for meter in plan.meters:
            self._deliver(_result(meter, Outcome(error=gap), None, plan.grid_capacity_kw, 0.0))

    def _tell_lost(self, error: LineError, plan: LinePlan) -> None:
        """Tell the meters, each once, when the line did not come back at once."""
        heard_mono_s = self._heard_mono_s
        if heard_mono_s is not None and self._clock.mono_s() < heard_mono_s + LOST_GRACE_S:
            return
        for meter in plan.meters - self._told:
            self._deliver(_result(meter, Outcome(), error, plan.grid_capacity_kw, 0.0))
        self._told = plan.meters


def _result(
    meter: Meter,
    outcome: Outcome,
    lost: LineError | None,
    grid_capacity_kw: float,
    duration_s: float,
) -> PollResult:
    """Judge an attempt. lost: the line failed, which is no fault of the meter."""
    reading = None
    if outcome.values:
        reading = Reading(
            values=outcome.values,
            mono_s=outcome.mono_s,
            unix_ms=outcome.unix_ms,
            hints=hints(outcome.values, outcome.raw, meter.meter_type, grid_capacity_kw),
            live=outcome.live,
        )
    error = lost or outcome.error
    return PollResult(
        meter=meter,
        reading=reading,
        error=str(error) if error is not None else None,
        end=_end(outcome, reading, error),
        failed=isinstance(error, NoReply) or reading is None,
        duration_s=duration_s,
        rest_s=error.retry_after_s if isinstance(error, Refused) else 0.0,
    )


def _end(
    outcome: Outcome, reading: Reading | None, error: MeterError | LineError | None
) -> PollEnd:
    if outcome.said_offline:
        return PollEnd.OFFLINE
    if isinstance(error, LineError):
        return PollEnd.LINE_ERROR
    if error is None:
        return PollEnd.OK
    if reading is not None:
        return PollEnd.PARTIAL
    if isinstance(error, NoReply):
        return PollEnd.NO_REPLY
    return PollEnd.REFUSED if isinstance(error, Refused) else PollEnd.BAD_REPLY
