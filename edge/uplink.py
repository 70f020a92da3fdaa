"""The pump of a journal sink: one thread that sends what the journal holds, and keeps the place.

What is new goes first and at once, then hours and days, then the backlog from the oldest on, no
faster than the sink wants. New readings that cannot be sent join the backlog, so that after an
outage the newest is the first that a server is told, and old ones follow beside it.

Each of the three is a lane with its own rests: where a server has no place for hours, readings go
on. What is sent is only what is committed, and a range counts as sent when the server has
answered. After a crash, ours or the server's, up to a minute is sent again: a server may lose what
it took and had not written to its disk, and takes what it has for the same by a point's key.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from edge.backlog import Backlog
from edge.clock import Clock
from edge.errors import DlmError, JournalError, SinkForbidden, SinkRetry
from edge.journal import Journal
from edge.journal.history import History
from edge.lineprotocol import point_of_rollup, points_of_chunk
from edge.payload import shown
from edge.place import Place
from edge.record import Resolution, SinkState
from edge.sinks import JournalSink, Rejected, Unreached

PIECE_WITHIN_S = 180.0
"""To read a piece from the journal; a pump that takes longer hangs. A sink says by itself how long
each request may take."""
WAIT_S = 0.5
"""How long a stop may wait for the pump to look up from the journal."""
FIRST_REST_S = 1.0
LAST_REST_S = 60.0
LONGEST_REST_S = 300.0
"""However long a server asks to be left alone."""
ROLLUPS_EVERY_S = 10.0
LOSABLE_S = 60.0
"""What a server took in its last so many seconds may be lost with it."""
MOST_TOLD = 10
"""So many different errors of one outage are logged."""
SHOWN_CHARACTERS = 200
TELL_REJECTED_S = 600.0

log = logging.getLogger("Uplink")


class _Lane:
    """What is sent in one order. due_s: when it may be tried next; error: why it rests."""

    def __init__(self) -> None:
        self.due_s = 0.0
        self.error: str | None = None
        self._rest_s = FIRST_REST_S

    def worked(self) -> None:
        """Try the next time without a rest."""
        self.error = None
        self._rest_s = FIRST_REST_S

    def failed(self, exc: DlmError, now_s: float) -> None:
        """Rest, as long as the server wants, or longer each time."""
        self.error = str(exc)
        rest_s = self._rest_s
        if isinstance(exc, SinkForbidden):
            rest_s = LAST_REST_S
        else:
            self._rest_s = min(LAST_REST_S, 2 * rest_s)
        if isinstance(exc, SinkRetry) and exc.after_s:
            rest_s = min(LONGEST_REST_S, exc.after_s)
        self.due_s = now_s + rest_s


class Uplink:
    """Sends to one sink, on a thread of its own. `start` and `stop` are for the main thread."""

    def __init__(
        self,
        name: str,
        sink: JournalSink,
        journal: Journal,
        clock: Clock,
        open_history: Callable[[Path, Callable[[str], None]], History] = History,
    ) -> None:
        self.state = SinkState(name)
        """The uplink as last seen; replaced by its thread, read by anyone."""
        self.heartbeat = sink.heartbeat
        self._name = name
        self._sink = sink
        self._journal = journal
        self._clock = clock
        self._open_history = open_history
        self._place = Place()
        self._newest = 0
        self._prepared = False
        self._live, self._rollups, self._old = _Lane(), _Lane(), _Lane()
        self._backlog = Backlog(sink.batch_readings, self._reader)
        self._taken: deque[tuple[float, int, int, int]] = deque()
        """What was taken lately: when, from and to which number, and up to which change before."""
        self._cut_off_due_s = 0.0
        self._advised: set[str] = set()
        self._told: set[str] = set()
        self._accepted = False
        self._sent = self._rejected = self._rejected_told = 0
        self._tell_rejected_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"uplink-{name}", daemon=True)

    def start(self) -> None:
        """Start the pump."""
        self._thread.start()

    def begin_stop(self, _timeout_s: float) -> None:
        """End after the request under way; returns at once."""
        self._stopping.set()

    def stop(self, timeout_s: float) -> None:
        """End after the request under way; returns after timeout_s at the latest.

        The place is with the journal in any case, which is to be closed after this.
        """
        self.begin_stop(timeout_s)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._place = self._journal.place(self._name)
            while not self._stopping.is_set():
                self._pump()
        finally:
            self._backlog.drop()
            self._sink.close()
            self.heartbeat.end()

    def _pump(self) -> None:
        """Wait for something to do; send what is new, and then one piece of what is not."""
        self.heartbeat.due_within(PIECE_WITHIN_S)
        self._wait()
        now_s = self._clock.mono_s()
        if self._place.live <= self._newest and now_s >= self._live.due_s:
            self._try(self._live, self._send_live)
        if self._stopping.is_set():
            return
        if now_s >= self._rollups.due_s:
            self._try(self._rollups, self._send_rollups)
        elif self._place.gaps and now_s >= self._old.due_s:
            self._try(self._old, self._send_backlog)
        self._note()

    def _wait(self) -> None:
        """Wait for new readings, or until something else is due."""
        due_s = self._rollups.due_s
        if self._place.gaps:
            due_s = min(due_s, self._old.due_s)
        now_s = self._clock.mono_s()
        pause_s = max(0.0, min(WAIT_S, due_s - now_s))
        if now_s < self._live.due_s:  # what is new must wait too
            self._stopping.wait(min(pause_s, self._live.due_s - now_s))
            self._newest = self._journal.wait(0, 0.0)
        else:
            self._newest = self._journal.wait(self._place.live, pause_s)

    def _try(self, lane: _Lane, send: Callable[[], bool]) -> None:
        """Send from a lane; let it rest when that fails. send: tells whether the server took some.

        Where what is new could not be sent, what is old rests as well.
        """
        try:
            self._prepare()
            self.heartbeat.due_within(PIECE_WITHIN_S)
            if send():
                self._accepted = True
            if self._sink.was_cut_off() and self._clock.mono_s() >= self._cut_off_due_s:
                # Not each time: some end their connections whenever they have a moment's rest.
                self._cut_off_due_s = self._clock.mono_s() + LOSABLE_S
                self._take_back()
        except (SinkRetry, SinkForbidden, JournalError) as exc:
            self._backlog.drop()
            self._failed(lane, exc)
        else:
            self._worked(lane)

    def _prepare(self) -> None:
        """Before the first point, and after each refusal: somebody may have put it right."""
        if self._prepared:
            return
        for sentence in self._sink.prepare():
            if sentence not in self._advised:
                log.warning("Uplink %s: %s", self._name, sentence)
                self._advised.add(sentence)
        self._prepared = True

    # --- The lanes -------------------------------------------------------------------------------

    def _send_live(self) -> bool:
        """Send the newest batch; what is older than it waits in a gap."""
        to_seq = self._newest + 1
        from_seq = max(self._place.live, to_seq - self._sink.batch_readings)
        self._keep(self._place.deferred(from_seq))
        try:
            with closing(self._reader()) as history:
                points = [
                    point
                    for chunk, _ in history.since(from_seq, to_seq)
                    for point in points_of_chunk(chunk)
                ]
            self._send(points, Resolution.RAW)
        except DlmError:
            self._keep(self._place.deferred(to_seq))
            raise
        self._took(from_seq, to_seq)
        return bool(points)

    def _send_rollups(self) -> bool:
        """Send hours and days that were computed since; one batch."""
        with closing(self._reader()) as history:
            found = history.rollups_since(self._place.change, self._sink.batch_readings)
        for resolution in (Resolution.HOURLY, Resolution.DAILY):
            points = [
                point_of_rollup(rollup) for _, rollup in found if rollup.resolution is resolution
            ]
            self._send(points, resolution)
        if found:
            self._took(self._place.live, self._place.live, found[-1][0])
        if len(found) < self._sink.batch_readings:
            self._rollups.due_s = self._clock.mono_s() + ROLLUPS_EVERY_S
        return bool(found)

    def _send_backlog(self) -> bool:
        """Send the next piece of the oldest gap."""
        began_s = self._clock.mono_s()
        from_seq, end_seq = self._place.gaps[0]
        points, done_seq = self._backlog.next_piece(from_seq, end_seq)
        self._send(points, Resolution.RAW)
        if done_seq > from_seq:
            self._took(from_seq, done_seq)
        self._backlog.took(self._clock.mono_s() - began_s)
        self._old.due_s = began_s + len(points) / self._sink.backlog_per_s
        return bool(points)

    def _reader(self) -> History:
        """Open the journal; anew each time, since a damaged one may have been replaced."""
        return self._open_history(self._journal.path, self._journal.report_damage)

    def _send(self, points: Sequence[bytes], resolution: Resolution) -> None:
        if not points:
            return
        rejected = self._sink.send(points, resolution)
        self.heartbeat.due_within(PIECE_WITHIN_S)
        self._sent += len(points) - len(rejected)
        self._rejected += len(rejected)
        if rejected:
            self._tell_rejected(rejected[0])

    def _took(self, from_seq: int, to_seq: int, change: int | None = None) -> None:
        """Note what the server took: a range, or rollups up to a change."""
        now_s, place = self._clock.mono_s(), self._place
        self._taken.append((now_s, from_seq, to_seq, place.change))
        while self._taken[0][0] < now_s - LOSABLE_S:
            self._taken.popleft()
        place = place.sent(from_seq, to_seq)
        self._keep(place if change is None else replace(place, change=change))

    def _take_back(self) -> None:
        """Let what the server took before it was lost be sent again."""
        place = self._place
        for _, from_seq, to_seq, change in self._taken:
            place = place.taken_back(from_seq, to_seq)
            place = replace(place, change=min(place.change, change))
        self._taken.clear()
        self._backlog.drop()
        self._keep(place)

    def _keep(self, place: Place) -> None:
        if place != self._place:
            self._place = place
            self._journal.keep_place(self._name, place)

    # --- What is told ----------------------------------------------------------------------------

    def _failed(self, lane: _Lane, exc: DlmError) -> None:
        """Let a lane rest, and say why once."""
        if isinstance(exc, SinkForbidden):
            self._prepared = False
        if isinstance(exc, Unreached):
            self._take_back()
        lane.failed(exc, self._clock.mono_s())
        if lane is self._live:
            self._old.due_s = max(self._old.due_s, lane.due_s)
        if str(exc) not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(str(exc))
            log.warning("Uplink %s: %s Readings are kept meanwhile.", self._name, exc)

    def _worked(self, lane: _Lane) -> None:
        """Note that a lane works, and say once that all do again."""
        lane.worked()
        if lane is self._old:
            self._live.worked()
        if self._told and not self._error():
            self._told.clear()
            log.info(
                "Uplink %s works again; %d readings are still to be sent.",
                self._name,
                self._place.backlog(self._newest + 1),
            )

    def _tell_rejected(self, sample: Rejected) -> None:
        """Say what the server never takes: at once, and then every ten minutes."""
        now_s = self._clock.mono_s()
        if now_s < self._tell_rejected_s:
            return
        self._tell_rejected_s = now_s + TELL_REJECTED_S
        count, self._rejected_told = self._rejected - self._rejected_told, self._rejected
        log.warning(
            "Uplink %s: the server refuses %d points for good, which are set aside: %s, such as "
            "%s.",
            self._name,
            count,
            shown(sample.reason.encode("utf-8", "replace"), SHOWN_CHARACTERS),
            shown(sample.point, SHOWN_CHARACTERS),
        )

    def _error(self) -> str | None:
        errors = (lane.error for lane in (self._live, self._old, self._rollups))
        return next((error for error in errors if error), None)

    def _note(self) -> None:
        error = self._error()
        self.state = SinkState(
            self._name,
            connected=self._accepted and error is None,
            last_error=error,
            sent=self._sent,
            rejected=self._rejected,
            lost=self._journal.lost(self._name),
            backlog=self._place.backlog(self._newest + 1),
        )
