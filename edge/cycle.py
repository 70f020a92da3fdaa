"""The control cycle: wakes at t0 + n × tick on the monotonic clock, and moves everything on.

Each tick: changes are taken over; the results that came since the last tick become current; the
load status is computed; the snapshot is published by one assignment; the reads that are due go to
their lines. A tick that is missed is skipped and counted, never made up for. The cycle itself
does no I/O: files, sockets and fsync are other threads' work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from edge.clock import Clock
from edge.communication import Endpoint
from edge.image import ProcessImage
from edge.line import LinePlan, LineThread, PollLine
from edge.load import load_status
from edge.metrics import Metrics
from edge.model import (
    Health,
    LoadQuality,
    LoadStatus,
    Meter,
    MeterState,
    PollEnd,
    PollResult,
    Probe,
    Quality,
    Snapshot,
    Status,
)
from edge.schedule import Schedule

log = logging.getLogger("EnergyMeterManager")

HEALTH_WINDOW_TICKS = 600


@dataclass(frozen=True)
class SiteLimits:
    """The settings that the cycle computes with, kW."""

    grid_capacity_kw: float
    failsafe_available_kw: float


@dataclass(frozen=True)
class _Change:
    """Something to take over at the next tick; done is set when it shows in the snapshot."""

    meters: tuple[Meter, ...] | None
    limits: SiteLimits | None
    done: Future[None]


@dataclass(frozen=True)
class _ProbeRequest:
    """A meter to be questioned through its line's thread."""

    meter: Meter
    done: Future[Probe]


Follower = Callable[[Snapshot, Sequence[PollResult]], None]
"""Is told what each tick brought: the new snapshot, and how polls ended that are new in it.

On the cycle's thread; must neither block nor raise.
"""


class Cycle:
    """The only caller of the schedule, of `image.advance` and of the load rules.

    make_line: makes the worker of a line that a meter is the first on; the cycle starts it.
    followers: are told what each tick brought, in this order.
    """

    def __init__(
        self,
        tick_ms: int,
        limits: SiteLimits,
        image: ProcessImage,
        make_line: Callable[[Meter], LineThread],
        clock: Clock,
        followers: Sequence[Follower] = (),
    ) -> None:
        self._tick_s = tick_ms / 1000
        self._limits = limits
        self._image = image
        self._make_line = make_line
        self._clock = clock
        self._followers = followers
        self._schedule = Schedule(tick_ms)
        self._inbox: SimpleQueue[_Change | _ProbeRequest | None] = SimpleQueue()
        self._changes: list[_Change] = []
        self._stopping = False
        self._lines: dict[Endpoint, LineThread] = {}
        self._plans: dict[Endpoint, LinePlan] = {}
        self._probes: dict[Endpoint, Future[Probe]] = {}
        self._lateness_s: list[float] = []
        self._load = _load_of(image.meters, limits)
        self._load_basis = (image.meters, limits)
        self._health = Health()
        self.snapshot = self._freeze(0)
        """The process image at the last tick. Any thread: take the reference once."""
        self.metrics = Metrics(lambda: self.snapshot)

    # --- From other threads ---

    def change_meters(self, meters: tuple[Meter, ...]) -> Future[None]:
        """Take over a new plan at the next tick. The future is done when the snapshot shows it."""
        return self._post(meters, None)

    def change_limits(self, limits: SiteLimits) -> Future[None]:
        """Compute with other limits from the next tick on."""
        return self._post(None, limits)

    def probe(self, meter: Meter) -> Future[Probe]:
        """Question a meter that is asked, registered or not, between its line's other reads.

        Who does not want to wait any longer cancels the future. It is cancelled here where another
        probe is under way on the line, where the system refuses a thread, or the service stops.
        """
        request = _ProbeRequest(meter, Future())
        self._inbox.put(request)
        return request.done

    def stop(self) -> None:
        """End `run` as soon as the tick under way is done. May be called in a signal handler."""
        self._inbox.put(None)

    def _post(self, meters: tuple[Meter, ...] | None, limits: SiteLimits | None) -> Future[None]:
        change = _Change(meters, limits, Future())
        self._inbox.put(change)
        return change.done

    # --- The cycle's own thread ---

    def run(self) -> None:
        """Tick until stopped; then stop the lines, without waiting for them."""
        start_mono_s = self._clock.mono_s()
        tick = 0
        while True:
            self._wait_until(start_mono_s + tick * self._tick_s)
            if self._stopping:
                break
            late_s = self._clock.mono_s() - start_mono_s - tick * self._tick_s
            missed = int(late_s / self._tick_s)
            self.step(tick + missed, late_s, missed)
            tick += missed + 1
        for line in self._lines.values():
            line.stop()
        self._take_changes()
        for change in self._changes:  # stored, and in force at the next start
            change.done.set_result(None)

    def close_lines(self, timeout_s: float) -> None:
        """After `run`: wait for the lines' threads, for timeout_s in all."""
        deadline_s = self._clock.mono_s() + timeout_s
        for line in self._lines.values():
            line.join(max(0.0, deadline_s - self._clock.mono_s()))

    def step(self, tick: int, late_s: float = 0.0, missed: int = 0) -> None:
        """Do the work of one tick.

        late_s: how long after its deadline. missed: ticks left out before it.
        """
        before, load_before = self._image.meters, self._load
        self._take_changes()
        changes, self._changes = self._changes, []
        for change in changes:
            self._apply(change, tick)
        results = self._image.advance(self._clock.mono_s())
        for result in results:
            if result.meter.poll_interval_ms is None:
                continue
            self.metrics.polled(result)
            self._schedule.finished(
                result.meter,
                tick,
                failed=result.failed,
                line_failed=result.end is PollEnd.LINE_ERROR,
                busy_s=result.duration_s,
                rest_s=result.rest_s,
            )
        if self._probes:
            self._end_probes()
        self._count_tick(late_s, missed)
        self.snapshot = self._freeze(tick)
        for follower in self._followers:
            follower(self.snapshot, results)
        reads, left_out = self._schedule.due(tick)
        for read in reads:
            line = self._line_of(read.meter)
            if line is None:
                self._image.put(_no_line(read.meter))
            elif isinstance(line, PollLine):
                line.submit(read)
        for polls in left_out:
            self.metrics.left_out(polls)
            self._health = replace(self._health, overruns=self._health.overruns + polls.overruns)
        for change in changes:
            change.done.set_result(None)
        if before is not self._image.meters:
            self._log_meters(before)
        if load_before.quality is not self._load.quality:
            self._log_load()

    def _wait_until(self, mono_s: float) -> None:
        while not self._stopping:
            wait_s = mono_s - self._clock.mono_s()
            if wait_s <= 0:
                return
            with suppress(Empty):
                self._receive(self._inbox.get(timeout=wait_s))

    def _take_changes(self) -> None:
        while True:
            try:
                self._receive(self._inbox.get_nowait())
            except Empty:
                return

    def _receive(self, message: _Change | _ProbeRequest | None) -> None:
        if message is None:
            self._stopping = True
        elif isinstance(message, _ProbeRequest):
            self._probe(message)
        else:
            self._changes.append(message)

    def _probe(self, request: _ProbeRequest) -> None:
        """Hand a probe to the line of its meter, which is made for it if need be.

        One at a time: the line's own meters are not read meanwhile.
        """
        endpoint = request.meter.communication.endpoint
        line = None
        under_way = self._probes.get(endpoint)
        if not self._stopping and (under_way is None or under_way.done()):
            line = self._lines.get(endpoint) or self._started(self._make_line(request.meter))
        if not isinstance(line, PollLine):
            request.done.cancel()
            return
        self._lines[endpoint] = line
        self._probes[endpoint] = request.done
        line.probe(request.meter, request.done)

    def _end_probes(self) -> None:
        """Let lines go that were there for a probe only."""
        for endpoint, probe in list(self._probes.items()):
            if probe.done():
                del self._probes[endpoint]
                if endpoint not in self._plans:
                    self._lines.pop(endpoint).stop()

    def _apply(self, change: _Change, tick: int) -> None:
        if change.limits is not None:
            self._limits = change.limits
        meters = change.meters
        if meters is None:
            meters = tuple(state.meter for state in self._image.meters.values())
        else:
            self._image.replace(meters, self._clock.mono_s())
            polled = [meter for meter in meters if meter.poll_interval_ms is not None]
            self._schedule.replace(polled, tick)
            self.metrics.keep(polled)
        self._replace_lines(meters)

    def _replace_lines(self, meters: tuple[Meter, ...]) -> None:
        on_lines: dict[Endpoint, list[Meter]] = {}
        for meter in meters:
            on_lines.setdefault(meter.communication.endpoint, []).append(meter)
        for endpoint in self._lines.keys() - on_lines.keys() - self._probes.keys():
            self._lines.pop(endpoint).stop()
        self._plans = {
            endpoint: LinePlan(frozenset(on_line), self._limits.grid_capacity_kw)
            for endpoint, on_line in on_lines.items()
        }
        for on_line in on_lines.values():
            line = self._line_of(on_line[0])
            if line is not None:
                line.plan = self._plans[on_line[0].communication.endpoint]

    def _line_of(self, meter: Meter) -> LineThread | None:
        """The line that a meter is on, started if need be; None if the system refuses a thread.

        Then the service must go on, or nobody could remove the meter that is too many.
        """
        endpoint = meter.communication.endpoint
        line = self._lines.get(endpoint)
        if line is None:
            line = self._make_line(meter)
            line.plan = self._plans[endpoint]
            if self._started(line) is not None:
                self._lines[endpoint] = line
        return self._lines.get(endpoint)

    @staticmethod
    def _started(line: LineThread) -> LineThread | None:
        try:
            line.start()
        except RuntimeError:
            return None
        return line

    def _freeze(self, tick: int) -> Snapshot:
        meters = self._image.meters
        if self._load_basis[0] is not meters or self._load_basis[1] is not self._limits:
            self._load = _load_of(meters, self._limits)
            self._load_basis = (meters, self._limits)
        return Snapshot(
            tick=tick,
            mono_s=self._clock.mono_s(),
            unix_ms=self._clock.unix_ms(),
            load=self._load,
            meters=meters,
            lines=tuple(line.state for line in self._lines.values()),
            health=self._health,
        )

    def _count_tick(self, late_s: float, missed: int) -> None:
        self.metrics.ticked(late_s, missed)
        self._health = replace(
            self._health,
            ticks=self._health.ticks + 1,
            missed_ticks=self._health.missed_ticks + missed,
        )
        self._lateness_s.append(late_s)
        if len(self._lateness_s) >= HEALTH_WINDOW_TICKS:
            window = sorted(self._lateness_s)
            self._lateness_s.clear()
            self._health = replace(
                self._health,
                lateness_p50_ms=window[len(window) // 2] * 1000,
                lateness_p99_ms=window[len(window) * 99 // 100] * 1000,
                lateness_max_ms=window[-1] * 1000,
            )

    def _log_meters(self, before: Mapping[str, MeterState]) -> None:
        """Say once when a meter goes away, and once when it is back."""
        for id_, state in self._image.meters.items():
            old = before.get(id_)
            if old is state:
                continue
            name = state.meter.name
            if old is None or old.meter is not state.meter:
                log.info("Starting monitoring for %s via %s", name, state.meter.protocol)
            elif (old.status, old.quality) == (state.status, state.quality):
                continue
            elif state.reading is not None and state.quality is Quality.SUSPECT:
                log.warning("%s gives suspect values: %s", name, state.reading.hints[0])
            elif state.status is Status.ONLINE:
                log.info("%s is online", name)
            elif old.status is not state.status:
                how = "in error" if state.status is Status.ERROR else state.status.value
                log.warning("%s is %s: %s", name, how, state.last_error)

    def _log_load(self) -> None:
        """Say once when the load status can be trusted less, and once when it is good again."""
        if self._load.quality is LoadQuality.GOOD:
            log.info("The load status is good")
        else:
            quality, reason = self._load.quality.value, self._load.reasons[0]
            log.warning("The load status is %s: %s", quality, reason)


def _no_line(meter: Meter) -> PollResult:
    error = "The system refuses a thread for this meter's line; remove meters that are not needed."
    return PollResult(meter, None, error, PollEnd.LINE_ERROR, failed=True, duration_s=0.0)


def _load_of(meters: Mapping[str, MeterState], limits: SiteLimits) -> LoadStatus:
    return load_status(meters.values(), limits.grid_capacity_kw, limits.failsafe_available_kw)
