"""One thread per line: it serves the line's pending reads in order, one request in flight."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

from edge.clock import Clock
from edge.decode import ModbusReader
from edge.drivers import Driver
from edge.errors import BadReply, LineError, MeterError, NoReply, Refused
from edge.model import LineState, Meter, ModbusCommunication, PollResult, Reading, ReadRequest
from edge.plausibility import hints
from edge.schedule import Read

ILLEGAL_ADDRESS = 2
"""Modbus exception code for a register that the device does not have."""
BLOCK_EXCEPTIONS = frozenset({1, ILLEGAL_ADDRESS, 3})
"""Exception codes that speak of the block asked for; the others speak of the whole device."""

FIRST_REOPEN_S = 0.4
LAST_REOPEN_S = 1.6
"""Below 2 s, so that a meter read every second gets an attempt at every other slot at least."""


@dataclass(frozen=True)
class LinePlan:
    """What a line serves now. grid_capacity_kw: what readings are judged by."""

    meters: frozenset[Meter]
    grid_capacity_kw: float


@dataclass
class _Answers:
    """What one attempt to read a meter brought.

    mono_s, unix_ms: when the first block that was answered was asked for. error: why one is
    missing.
    """

    replies: list[tuple[ReadRequest, Sequence[int]]] = field(default_factory=list)
    mono_s: float = 0.0
    unix_ms: int = 0
    error: MeterError | None = None


class LineWorker:
    """Owns a driver and its thread. `submit`, `plan` and `stop` are for the cycle's thread."""

    def __init__(
        self,
        name: str,
        driver: Driver,
        deliver: Callable[[PollResult], None],
        clock: Clock,
    ) -> None:
        self.state = LineState(name)
        """The line as last seen; replaced by the line's thread, read by anyone."""
        self.plan = LinePlan(frozenset(), 0.0)
        """Replaced by the cycle; a read for a meter that is not in it is dropped."""
        self._driver = driver
        self._deliver = deliver
        self._clock = clock
        self._reads: SimpleQueue[Read | None] = SimpleQueue()
        self._readers: dict[Meter, ModbusReader] = {}
        self._reopen_mono_s = 0.0
        self._reopen_wait_s = 0.0
        self._last_request_mono_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"line-{name}", daemon=True)

    def start(self) -> None:
        """Start the line's thread."""
        self._thread.start()

    def submit(self, read: Read) -> None:
        """Queue a read; its result goes to `deliver`. At most one per meter may be pending."""
        self._reads.put(read)

    def stop(self) -> None:
        """Ask the thread to end after the read under way; does not wait for it."""
        self.plan = LinePlan(frozenset(), 0.0)
        self._reads.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while (read := self._reads.get()) is not None:
                plan = self.plan
                if read.meter in plan.meters:
                    self._deliver(self.poll(read, plan))
                if len(self._readers) > len(plan.meters):
                    self._readers = {m: r for m, r in self._readers.items() if m in plan.meters}
        finally:
            self._driver.close()

    def poll(self, read: Read, plan: LinePlan) -> PollResult:
        """Read one meter, whatever comes. Blocks; line thread only."""
        started_mono_s = self._clock.mono_s()
        reading: Reading | None = None
        error: MeterError | LineError | None = None
        try:
            answers = self._read_blocks(read)
            reading, error = self._reading(read.meter, answers, plan), answers.error
        except LineError as exc:
            error = exc
        if reading is None and error is None:
            error = BadReply(
                f"{read.meter.name} answers, but gives no value for any quantity; check the "
                "register addresses and types."
            )
        self._note_state(error)
        return PollResult(
            meter=read.meter,
            reading=reading,
            error=str(error) if error is not None else None,
            result=_result(reading, error),
            failed=isinstance(error, NoReply) or reading is None,
            duration_s=self._clock.mono_s() - started_mono_s,
        )

    def _read_blocks(self, read: Read) -> _Answers:
        """Read all blocks of a meter.

        A refused block does not keep the others from being read; a silent device does. It is asked
        again as often as `retries` says for the whole of the poll: were it for each block, a
        device that is always late would hold the line for a multiple of its time-out.
        """
        communication = read.meter.communication
        reader = self._readers.get(read.meter)
        if reader is None:
            reader = self._readers[read.meter] = ModbusReader(communication)
        retries = 0 if read.trial else communication.retries
        answers = _Answers()
        requests = deque(reader.requests)
        while requests:
            request = requests.popleft()
            asked = self._clock.mono_s(), self._clock.unix_ms()
            try:
                words = self._read_block(communication, request)
                if not answers.replies:
                    answers.mono_s, answers.unix_ms = asked
                answers.replies.append((request, words))
            except Refused as exc:
                parts = reader.split(request) if exc.code == ILLEGAL_ADDRESS else ()
                requests.extendleft(reversed(parts))
                if not parts:
                    answers.error = answers.error or exc
                if exc.code not in BLOCK_EXCEPTIONS:
                    break
            except MeterError as exc:
                if retries == 0:
                    answers.error = exc
                    break
                retries -= 1
                requests.appendleft(request)
        return answers

    def _read_block(
        self, communication: ModbusCommunication, request: ReadRequest
    ) -> Sequence[int]:
        self._keep_distance(communication.request_delay_s)
        # Opened last, since the peer may hang up while the line keeps its distance.
        self._open(communication.timeout_s)
        try:
            return self._driver.read(request, communication.timeout_s)
        finally:
            self._last_request_mono_s = self._clock.mono_s()

    def _open(self, timeout_s: float) -> None:
        """Open the line unless it is open; while it failed a moment ago, fail at once."""
        if self._driver.connected:
            return
        now_mono_s = self._clock.mono_s()
        if now_mono_s < self._reopen_mono_s:
            raise LineError(self.state.last_error or "The line is closed.")
        try:
            self._driver.open(timeout_s)
        except LineError:
            self._reopen_wait_s = min(LAST_REOPEN_S, max(FIRST_REOPEN_S, 2 * self._reopen_wait_s))
            self._reopen_mono_s = now_mono_s + self._reopen_wait_s
            raise
        self._reopen_wait_s = 0.0
        self.state = replace(self.state, connected=True, opened=self.state.opened + 1)

    def _keep_distance(self, delay_s: float) -> None:
        """Leave requestDelay between the end of one request on the line and the next."""
        wait_s = self._last_request_mono_s + delay_s - self._clock.mono_s()
        if delay_s > 0 and wait_s > 0:
            self._clock.sleep(wait_s)

    def _reading(self, meter: Meter, answers: _Answers, plan: LinePlan) -> Reading | None:
        values, raw = self._readers[meter].decode(answers.replies)
        if not values:
            return None
        return Reading(
            values=values,
            mono_s=answers.mono_s,
            unix_ms=answers.unix_ms,
            hints=hints(values, raw, meter.meter_type, plan.grid_capacity_kw),
        )

    def _note_state(self, error: Exception | None) -> None:
        connected = self._driver.connected
        last_error = str(error) if isinstance(error, LineError) else None
        if (connected, last_error) != (self.state.connected, self.state.last_error):
            self.state = replace(self.state, connected=connected, last_error=last_error)


def _result(reading: Reading | None, error: MeterError | LineError | None) -> str:
    if error is None:
        return "ok"
    return error.result if reading is None else "partial"
