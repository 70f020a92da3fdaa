"""The process image: next values come in at any time, one immutable view goes out per tick.

As in a PLC: line threads `put` results whenever they come; once per tick the cycle calls `advance`
and what it gives back cannot change under its readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf
from queue import Empty, SimpleQueue

from edge.model import Meter, MeterState, PollEnd, PollResult, Status


class ProcessImage:
    """What is known of each meter. `put` from any thread, all else on the cycle's."""

    def __init__(self) -> None:
        self._next: SimpleQueue[PollResult] = SimpleQueue()
        self._stale_check_mono_s = inf
        self.meters: Mapping[str, MeterState] = {}
        """By id, in order of registration; never changed, replaced by `advance`."""

    def put(self, result: PollResult) -> None:
        """Hand in how a poll ended; it appears at the next tick. Never blocks.

        Of a meter that is polled at most one result comes, as it has one read pending; one that
        speaks by itself may have said several things since the last tick.
        """
        self._next.put(result)

    def replace(self, meters: Iterable[Meter], mono_s: float) -> None:
        """Take over a new plan at mono_s.

        A meter whose values are still read from the same place keeps what is known of it. Of any
        other one the last power is kept, since a change must not make a dead meter's power free.
        """
        known = self.meters
        states = {}
        for meter in meters:
            state = known.get(meter.id)
            if state is None:
                states[meter.id] = MeterState(meter, since_mono_s=mono_s)
            elif state.meter.communication.reads_like(meter.communication):
                states[meter.id] = replace(state, meter=meter)
            else:
                states[meter.id] = MeterState(
                    meter, since_mono_s=mono_s, last_power_kw=state.last_power_kw
                )
        self.meters = states
        self._stale_check_mono_s = -inf

    def advance(self, mono_s: float) -> list[PollResult]:
        """Make the results handed in current, and age what did not come.

        mono_s: the tick's time. Returns the results that belonged to the plan; an answer for a
        meter that is gone or was changed since is dropped.
        """
        results = self._take_results()
        changed: dict[str, MeterState] = {}
        for result in results:
            id_ = result.meter.id
            changed[id_] = _after_poll(changed.get(id_) or self.meters[id_], result)
        if changed:
            self.meters = {**self.meters, **changed}
        self._age(mono_s)
        return results

    def _take_results(self) -> list[PollResult]:
        results: list[PollResult] = []
        while True:
            try:
                result = self._next.get_nowait()
            except Empty:
                return results
            state = self.meters.get(result.meter.id)
            if state is not None and state.meter is result.meter:
                results.append(result)
                if result.reading is not None:
                    self._stale_check_mono_s = min(self._stale_check_mono_s, _stale_at(result))

    def _age(self, mono_s: float) -> None:
        """Turn what was not heard for too long to offline; look only when the oldest is due."""
        if mono_s <= self._stale_check_mono_s:
            return
        stale = {}
        self._stale_check_mono_s = inf
        for id_, state in self.meters.items():
            heard_mono_s = _heard_mono_s(state)
            if heard_mono_s is None:
                continue
            stale_after_s = state.meter.stale_after_ms / 1000
            stale_mono_s = heard_mono_s + stale_after_s
            if mono_s > stale_mono_s:
                error = f"Nothing arrived for {stale_after_s:g} s; {_advice(state)}"
                stale[id_] = replace(state, status=Status.OFFLINE, last_error=error)
            else:
                self._stale_check_mono_s = min(self._stale_check_mono_s, stale_mono_s)
        if stale:
            self.meters = {**self.meters, **stale}


def _stale_at(result: PollResult) -> float:
    assert result.reading is not None
    return result.reading.mono_s + result.meter.stale_after_ms / 1000


def _heard_mono_s(state: MeterState) -> float | None:
    """Since when a meter that is not known to be away has been silent; None for the others."""
    if state.status is Status.ONLINE and state.reading is not None:
        return state.reading.mono_s
    return state.since_mono_s if state.status is Status.PENDING else None


def _advice(state: MeterState) -> str:
    """What to do about a meter that went stale; what was wrong with its last reading comes first.

    A line that other meters keep busy is as likely as the meter itself.
    """
    if state.last_error is not None:
        return f"before that: {state.last_error}"
    if state.meter.poll_interval_ms is None:
        return (
            "check that the meter publishes and that its topics are spelled exactly so, or raise "
            "staleAfter if it publishes more rarely."
        )
    busy = "if slow or silent meters keep its line busy, raise pollInterval or lower timeout"
    return f"check the meter, and {busy}."


def _after_poll(state: MeterState, result: PollResult) -> MeterState:
    reading = result.reading
    if reading is None:
        offline = result.end is PollEnd.OFFLINE
        status = Status.OFFLINE if offline else Status.ERROR
        return replace(state, status=status, last_error=result.error)
    if not reading.live:
        if state.reading is not None and state.reading.live:
            return state  # nobody knows which of the two is the older one
        error = result.error
        if state.status is not Status.PENDING:
            error = error or state.last_error  # it is what keeps the meter away still
        return replace(state, reading=reading, last_error=error)
    last_power_kw = state.last_power_kw
    if not reading.hints:
        last_power_kw = reading.values.get("power", last_power_kw)
    return MeterState(
        state.meter, state.since_mono_s, Status.ONLINE, reading, result.error, last_power_kw
    )
