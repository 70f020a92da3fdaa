"""The journal's writer: takes readings in, commits them in groups, and looks after the database.

It never gives up. When the disk fails it keeps what came in memory, as much as there is room for,
and tries again every few seconds with the database opened anew; only an error that is neither
SQLite's, the system's nor ours is a bug, and ends the process.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import tzinfo
from pathlib import Path

from edge.clock import Clock
from edge.era import Correction
from edge.errors import JournalError
from edge.heartbeat import Heartbeat
from edge.journal import kernelclock, overview, seal
from edge.journal.damage import is_begun, is_damage
from edge.journal.intake import Intake
from edge.journal.resuming import eras_of, fits
from edge.journal.retention import Limits, Retention, shrink
from edge.journal.rollups import Folder
from edge.journal.schema import FILE_NAME
from edge.journal.store import Store
from edge.journal.trouble import Trouble
from edge.journal.wallclock import WallClock
from edge.model import Meter, Reading
from edge.place import Place
from edge.record import JournalState
from edge.settings import JournalConfig

log = logging.getLogger("Journal")

Inbox = Callable[[], Sequence[tuple[Meter, Reading]]]
"""Gives what came since the last call, oldest first."""

_SLOW_S = 1.0
_PLACES_EVERY_S = 60.0
_TIDY_EVERY_S = 60.0
_BREATH_S = 0.01
_PAUSE_S = 0.005
"""After so much work in one go the writer pauses: the control cycle needs the interpreter too."""
_RECHECK_S = 600.0
PIECE_WITHIN_S = 180.0
"""A piece of work that takes longer hangs. A disk that does not answer for 120 s is what the kernel
calls hung. Source: Linux, Documentation/admin-guide/sysctl/kernel.rst, hung_task_timeout_secs."""
SLOWEST_BYTES_PER_S = 500_000
"""Of a database that is read as a whole."""
_MOST_WAITING = 10_000
_MOST_WAL_BYTES = 4 * 1024 * 1024
_WAL_SHARE = 16

_FAULTS = (sqlite3.Error, OSError, JournalError, UnicodeDecodeError)
"""The last is what sqlite3 raises when SQLite's message quotes damaged text."""


@dataclass(frozen=True)
class Kernel:
    """What is asked of the kernel. boot_id: of the boot under way."""

    boot_id: str
    synchronised: Callable[[], bool] = kernelclock.synchronised

    @classmethod
    def real(cls) -> Kernel:
        """Give the kernel that runs this process."""
        return cls(kernelclock.boot_id())


@dataclass(frozen=True)
class Site:
    """What the writer has to know of the site. zone: of its days.

    fallback_max_kw: the rated power of meters that were registered without any.
    """

    id: str
    zone: tzinfo
    fallback_max_kw: float


class Writer:
    """Everything that the journal does on its thread, step by step."""

    def __init__(
        self,
        folder: Path,
        settings: JournalConfig,
        site: Site,
        clock: Clock,
        kernel: Kernel,
        inbox: Inbox,
        sinks: Collection[str] | None = None,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = folder / FILE_NAME
        self.state = JournalState(
            max_bytes=settings.max_bytes, write_bytes_per_day=settings.write_bytes_per_day
        )
        """Replaced, never changed. Any thread."""
        self.sendable_seq = 0
        """All readings up to here are committed and their times are to be believed. Any thread."""
        self.places: dict[str, Place] = {}
        """Where each sink is, as it said last. Any thread may set a place of its own sink."""
        self.opened = False
        """The database was open once, so the places are known. Any thread."""
        self.has_begun = False
        """The database was opened, or cannot be for now; of a damaged one neither holds until it is
        set aside. Any thread."""
        self.reported_damage: str | None = None
        """What a reader found. Any thread may set it."""
        self.stopping = False
        """The service is to end: what takes long is left for the next start. Any thread sets it."""
        self.heartbeat = Heartbeat("journal")
        self._settings = settings
        self._site = site
        self._clock = clock
        self._kernel = kernel
        self._inbox = inbox
        self._sinks = sinks
        self._announce = announce
        self._wal_bytes = min(_MOST_WAL_BYTES, settings.max_bytes // _WAL_SHARE)
        self._wall_clock = WallClock(clock, kernel.synchronised, settings.clock_wait_s)
        self._limits = Limits.of(settings, self._wal_bytes)
        self._retention = Retention(self._limits, clock, self._wall_clock)
        self._store: Store | None = None
        self._folder: Folder | None = None
        self._intake: Intake | None = None
        self._corrections: list[Correction] = []
        self._known_places: dict[str, Place] = {}
        self._trouble = Trouble(folder)
        self._notices: tuple[str, ...] = ()
        self._dropped = 0
        self._hurry = False
        self._commit_mono_s = clock.mono_s()
        self._places_mono_s = clock.mono_s()
        self._tidy_mono_s = clock.mono_s()
        self._checked_mono_s = -_RECHECK_S
        self._breath_mono_s = 0.0
        self._written_before: int | None = None

    # --- A step ---

    def step(self, *, final: bool = False) -> bool:
        """Do what is due; tells whether no fault kept it from that. Always the same thread.

        final: commit everything, and hurry.
        """
        self._hurry = final
        self.heartbeat.due_within(PIECE_WITHIN_S)
        if self._written_before is None:
            self._written_before = kernelclock.thread_written_bytes()
        try:
            if self._store is not None or final or self._trouble.may_retry(self._clock.mono_s()):
                self._work(self._store or self._open(), final)
        except _FAULTS as error:
            self._fail(error)
        if self._intake is not None:
            self._take_in()
        self._publish()
        self.heartbeat.rest()
        return self._store is not None

    @property
    def lost(self) -> Mapping[str, int]:
        """Sink → readings that were deleted before it was given them. Any thread may read."""
        return self._retention.lost

    @property
    def has_new_places(self) -> bool:
        """Whether there are places of sinks that are not on the disk."""
        return self._new_places() != {}

    def close(self) -> None:
        """Close the database."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _work(self, store: Store, final: bool) -> None:
        self._check_report(store)
        trust_changed = self._settle()
        self._take_in()
        is_due = self._is_due() or trust_changed or final
        if is_due:
            self._commit(store, final)
            self._see(store)
        if not final and (is_due or self._clock.mono_s() - self._tidy_mono_s >= _TIDY_EVERY_S):
            store.check_files()
            self._tidy(store)
            self._see(store)
        self._recovered()

    # --- Opening, and going on after a fault ---

    def _open(self) -> Store:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._trouble.is_damaged or is_begun(self.path):
            from edge.journal import salvage  # seldom needed, and not small

            notice = salvage.replace_damaged(self.path, self._wal_bytes, self._breathe)
            log.error("%s", notice)
            self._note(notice)
            self._trouble.replaced()
        store = Store(self.path, self._wal_bytes)
        try:
            if self._trouble.to_be_checked:
                self._check(store)
                self._trouble.to_be_checked = False
            if self._sinks is not None:
                store.forget_sinks(self._sinks)
            self._adopt(store)
        except BaseException:
            store.close()
            raise
        self._store = store
        self._folder = Folder(store, self._site.zone, self._site.fallback_max_kw)
        self._fold(store)
        too_large = not self.opened and store.file_bytes() > self._limits.max_bytes
        if too_large:
            store.trim(0)
        self._expire(store)
        if too_large:
            shrink(store, self._limits, self._breathe)
        self._see(store)
        self.opened = self.has_begun = True
        return store

    def _adopt(self, store: Store) -> None:
        """Go on with what waits in memory, as far as it is not in the database after all."""
        intake = self._intake
        if intake is None or not fits(store, intake):
            if intake is not None:
                intake.close()
                self._dropped += intake.dropped + intake.waiting
            eras = eras_of(store, self._kernel.boot_id, self._settings.clock_wait_s)
            before = intake
            intake = Intake(self._site.id, store, eras)
            if before is not None:  # sinks know its numbers
                intake.next_seq = max(intake.next_seq, before.next_seq)
            self._corrections = []
        while intake.rows and intake.rows[0].seq < store.next_seq:
            self._count_recorded(intake.done(1))
        self._intake = intake
        self._wall_clock.follow(intake.eras)
        for sink, place in store.places.items():
            self.places.setdefault(sink, place)
        self._known_places = dict(store.places)
        if store.unreadable:
            log.error("%d commits in the journal's tail cannot be read.", store.unreadable)

    def _fail(self, error: Exception) -> None:
        """Close the database, say what is wrong once, and try again later."""
        self.close()
        self.has_begun |= self._trouble.is_damaged or not is_damage(error)
        text = self._trouble.failed(error, self._clock.mono_s())
        self.state = replace(self.state, recording=False, last_error=text)

    def _recovered(self) -> None:
        self._trouble.over()
        if not self.state.recording:
            self.state = replace(self.state, recording=True, last_error=None)

    def _check_report(self, store: Store) -> None:
        """Look for the damage that a reader found; it may have been set aside since."""
        report, self.reported_damage = self.reported_damage, None
        if report is None:
            return
        store.check_files()
        now_mono_s = self._clock.mono_s()
        if now_mono_s < self._checked_mono_s + _RECHECK_S:
            return
        self._checked_mono_s = now_mono_s
        self._check(store)

    def _check(self, store: Store) -> None:
        self.heartbeat.due_within(PIECE_WITHIN_S + store.file_bytes() / SLOWEST_BYTES_PER_S)
        overview.check(store)
        self.heartbeat.due_within(PIECE_WITHIN_S)

    def _settle(self) -> bool:
        """Look at the clock; tell whether what is trusted changed."""
        assert self._intake is not None
        corrections, changed = self._wall_clock.settle()
        self._intake.corrected(corrections)
        self._corrections += corrections
        return changed

    # --- Committing ---

    def _take_in(self) -> None:
        assert self._intake is not None
        self._intake.take(self._inbox())

    def _breathe(self) -> bool:
        """Leave the interpreter to others for a moment, and take in what came.

        Between two transactions of long work what is due is committed. False: it is to stop soon.
        """
        now_mono_s = self._clock.mono_s()
        if now_mono_s >= self._breath_mono_s + _BREATH_S:
            self.heartbeat.due_within(PIECE_WITHIN_S)
            if self._intake is not None:
                self._take_in()
                self._commit_meanwhile()
                self._publish()
            if not self._hurry:
                self._clock.sleep(_PAUSE_S)
            self._breath_mono_s = self._clock.mono_s()
        return not self.stopping

    def _commit_meanwhile(self) -> None:
        store = self._store
        if store is not None and not store.db.in_transaction and self._is_due():
            self._commit(store, final=False)
            self._see(store)
            self._announce()

    def _is_due(self) -> bool:
        assert self._intake is not None
        now_mono_s = self._clock.mono_s()
        waiting = self._intake.waiting
        if waiting and now_mono_s - self._commit_mono_s >= self._settings.commit_interval_s:
            return True
        return waiting >= _MOST_WAITING or self._places_due(now_mono_s)

    def _places_due(self, now_mono_s: float) -> bool:
        due = now_mono_s - self._places_mono_s >= _PLACES_EVERY_S
        return due and self._new_places() != {}

    def _new_places(self) -> dict[str, Place]:
        known = self._known_places
        return {
            sink: place for sink, place in self.places.copy().items() if place != known.get(sink)
        }

    def _commit(self, store: Store, final: bool) -> None:
        """Write all that waits, in one transaction."""
        intake = self._intake
        assert intake is not None
        intake.close()
        store.check_files()
        begin_mono_s = self._clock.mono_s()
        places = self._new_places() if final or self._places_due(begin_mono_s) else {}
        rows = list(intake.rows)
        store.commit(rows, intake.series, intake.eras.all, self._corrections, places)
        end_mono_s = self._clock.mono_s()
        self._commit_mono_s = begin_mono_s
        self._count_recorded(intake.done(len(rows)))
        if end_mono_s - begin_mono_s > _SLOW_S:
            self.state = replace(self.state, slow_syncs=self.state.slow_syncs + 1)
        if places:
            self._known_places.update(places)
            self._places_mono_s = begin_mono_s
        for correction in self._corrections:
            log.info(
                "The clock was set by %+.1f s; readings taken before are corrected.",
                correction.shift_ms / 1000,
            )
        self._corrections = []

    def _count_recorded(self, count: int) -> None:
        self.state = replace(self.state, recorded=self.state.recorded + count)

    # --- Looking after the database ---

    def _tidy(self, store: Store) -> None:
        """Seal what is due, and what follows from it."""
        self._tidy_mono_s = self._clock.mono_s()
        rows = seal.due(
            store.rows,
            self._wall_clock.now_ms(),
            self._wall_clock.untrusted(),
            self._settings.max_bytes,
        )
        if rows:
            lost = seal.seal(store, rows, self._breathe)
            if lost:
                log.error("%d readings in the journal's tail are damaged and lost.", lost)
            store.trim(2 * rows)
            self._fold(store)
            self._expire(store)
            store.checkpoint()
        elif overview.has_unfolded(store):  # their times were corrected, or their hour is over
            self._fold(store)

    def _fold(self, store: Store) -> None:
        assert self._folder is not None
        self._folder.fold(self._clock.unix_ms(), self._wall_clock.untrusted(), self._breathe)

    def _expire(self, store: Store) -> None:
        self._retention.expire(store, self.places.copy(), self._breathe)
        self.state = replace(self.state, oldest_unix_ms=overview.oldest_unix_ms(store))

    def _see(self, store: Store) -> None:
        """Note how far the readings are that may be given away."""
        last_seq = store.next_seq - 1
        held = overview.first_seq_in(store, self._wall_clock.untrusted())
        self.sendable_seq = last_seq if held is None else min(last_seq, held - 1)
        self.state = replace(self.state, last_seq=last_seq)
        if self.state.oldest_unix_ms is None:
            self.state = replace(self.state, oldest_unix_ms=overview.oldest_unix_ms(store))

    def _note(self, notice: str) -> None:
        self._notices = (*self._notices, notice)[-10:]

    def _publish(self) -> None:
        waiting, dropped = 0, self._dropped
        if self._intake is not None:
            waiting, dropped = self._intake.waiting, dropped + self._intake.dropped
        written = kernelclock.thread_written_bytes()
        if written is not None:
            written -= self._written_before or 0
        size = 0
        for file in (self.path, self.path.with_name(f"{FILE_NAME}-wal")):
            with suppress(OSError):
                size += file.stat().st_size
        held_back = self.state.last_seq - self.sendable_seq + waiting
        clock_fault = self._wall_clock.fault()
        notices = [*self._notices]
        if clock_fault is not None:
            kept_back = f"{held_back} readings are kept back from hours and sinks."
            notices.append(f"{clock_fault} Until then {kept_back}")
        if self._retention.notice is not None:
            notices.append(self._retention.notice)
        self.state = replace(
            self.state,
            waiting=waiting,
            dropped=dropped,
            written_bytes=written,
            file_bytes=size,
            notices=tuple(notices),
            clock_set=self._wall_clock.is_set(),
            clock_fault=clock_fault,
        )
