"""The journal: all readings, in order, on the disk, and where each sink is in them.

The control cycle hands readings in and never waits. One thread, `journal`, owns the connection
that writes; readers have their own (`history`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import tzinfo
from pathlib import Path

from edge.clock import Clock
from edge.heartbeat import Heartbeat
from edge.journal.schema import FILE_NAME
from edge.journal.writer import Kernel, Site, Writer
from edge.model import Meter, PollResult, Reading
from edge.place import Place
from edge.record import JournalState
from edge.settings import JournalConfig

_FINAL_RETRY_S = 0.25
_WAKE_AT = 1000
"""Readings that wake the writer before its time."""
_MOST_HANDED_IN = 10_000
"""Readings as they came, some 8 MB; the writer takes them over into much less."""


class Journal:
    """Records readings in a folder, on a thread of its own.

    site_id: of all readings. zone: of the site's days. fallback_max_kw: the rated power of meters
    that were registered without any. kernel: another one for tests. wake_s: how often it looks
    whether something is due. sinks: names of those that there are; the places of all others are
    forgotten. None: of no sink.
    """

    def __init__(
        self,
        folder: Path,
        settings: JournalConfig,
        site_id: str,
        zone: tzinfo,
        clock: Clock,
        *,
        fallback_max_kw: float = 500.0,
        kernel: Kernel | None = None,
        wake_s: float = 1.0,
        sinks: Collection[str] | None = None,
    ) -> None:
        self.path = folder / FILE_NAME
        self._inbox = _Inbox()
        self._wake = threading.Event()
        self._wake_s = wake_s
        self._stopping = False
        self._given_up = threading.Event()
        self._changed = threading.Condition()
        site = Site(site_id, zone, fallback_max_kw)
        self._writer = Writer(
            folder,
            settings,
            site,
            clock,
            kernel or Kernel.real(),
            self._inbox.take,
            sinks,
            self._announce,
        )
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def open(self) -> None:
        """Start. Whether the database can be used is in `state`; nothing is raised."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Commit everything and end; waits so long at most. Safe to call more than once.

        While a fault keeps readings from the disk it is tried again until then.
        """
        self._stopping = self._writer.stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._given_up.set()

    # --- Control cycle ---

    def put(self, results: Sequence[PollResult]) -> None:
        """Record the live readings of a tick. Never blocks, and nothing is raised."""
        readings = [
            (result.meter, result.reading)
            for result in results
            if result.reading is not None and result.reading.live
        ]
        if readings and self._inbox.put(readings) >= _WAKE_AT:
            self._wake.set()

    # --- Any thread ---

    @property
    def heartbeat(self) -> Heartbeat:
        """That of its thread."""
        return self._writer.heartbeat

    @property
    def has_begun(self) -> bool:
        """Whether the database is open, or cannot be for now; a damaged one is set aside first."""
        return self._writer.has_begun

    @property
    def state(self) -> JournalState:
        """The journal as its writer last saw it."""
        state = self._writer.state
        return self._inbox.counted(state)

    def wait(self, seq: int, timeout_s: float) -> int:
        """Wait until this reading may be given to sinks; gives the last one that may.

        That is less than `seq` when the time is over, or the journal closed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._writer.sendable_seq >= seq or self._stopping, timeout_s
            )
        return self._writer.sendable_seq

    def place(self, sink: str) -> Place:
        """Give where a sink was; everything that is there is a gap of a new one.

        Blocks until the database was opened, or the journal is closed. Its sink's thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._writer.opened or self._stopping)
        place = self._writer.places.get(sink)
        if place is None:
            place = Place().deferred(self._writer.sendable_seq + 1)
            self._writer.places[sink] = place
        return place

    def keep_place(self, sink: str, place: Place) -> None:
        """Keep where a sink is; it is on the disk within a minute or so, and after `close`."""
        self._writer.places[sink] = place

    def lost(self, sink: str) -> int:
        """Readings that were deleted since the start before a sink was given them."""
        return self._writer.lost.get(sink, 0)

    def report_damage(self, error: str) -> None:
        """Tell that a reader found the database malformed; the writer looks into it."""
        self._writer.reported_damage = error
        self._wake.set()

    # --- Its own thread ---

    def _run(self) -> None:
        while not self._stopping:
            self._step(final=False)
            self._wake.wait(self._wake_s)
            self._wake.clear()
        while not self._step(final=True) and self._is_unsaved():
            if self._given_up.wait(_FINAL_RETRY_S):
                break
        self._writer.close()

    def _is_unsaved(self) -> bool:
        return self.state.waiting > 0 or self._writer.has_new_places

    def _step(self, *, final: bool) -> bool:
        try:
            return self._writer.step(final=final)
        finally:
            self._announce()

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Inbox:
    """Readings on their way to the writer; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: deque[tuple[Meter, Reading]] = deque()
        self._dropped = 0

    def put(self, readings: Sequence[tuple[Meter, Reading]]) -> int:
        """Hand in; gives how many wait now."""
        with self._lock:
            self._readings.extend(readings)
            while len(self._readings) > _MOST_HANDED_IN:
                self._readings.popleft()
                self._dropped += 1
            return len(self._readings)

    def take(self) -> Sequence[tuple[Meter, Reading]]:
        """Take all out."""
        with self._lock:
            readings, self._readings = self._readings, deque()
        return readings

    def counted(self, state: JournalState) -> JournalState:
        """Give the state with what waits and was dropped here."""
        with self._lock:
            waiting, dropped = len(self._readings), self._dropped
        if not waiting and not dropped:
            return state
        return replace(state, waiting=state.waiting + waiting, dropped=state.dropped + dropped)
