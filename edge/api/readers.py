"""How answers about the past read the journal: few at a time, with rests between the pieces.

The control cycle shares the interpreter with them, and has its turn in each rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from edge.api.progress import made_progress
from edge.errors import JournalError, RequestError
from edge.journal.history import History

TURNS = 2
"""How many read at a time, of those who ask for a turn."""
WAIT_S = 5.0
"""How long a request waits for its turn."""

_REST = 0.5
"""Rest after each piece, as a share of the processor time that it took."""
_LONGEST_REST_S = 0.02
_LEAST_BUSY_S = 0.001
"""Less is no reason to rest."""

log = logging.getLogger("edge.api")

_Item = TypeVar("_Item")


class Readers:
    """Those who read the journal's database. Any thread.

    path: the database; None when nothing is recorded. report_damage: told when SQLite finds it
    malformed.
    """

    def __init__(
        self, path: Path | None, report_damage: Callable[[str], None] | None = None
    ) -> None:
        self._path = path
        self._report_damage = report_damage
        self._turns = threading.Semaphore(TURNS)
        self._told_damaged = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have a turn; waits for WAIT_S. Raises RequestError 503 BUSY if there is none."""
        if not self._turns.acquire(timeout=WAIT_S):
            raise busy()
        try:
            yield
        finally:
            self._turns.release()

    @contextmanager
    def history(self) -> Iterator[History]:
        """Open the journal; says once in the log what was damaged.

        Raises RequestError 503 JOURNAL_UNAVAILABLE, also when reading it fails within the block.
        """
        if self._path is None:
            raise _unavailable("Nothing is recorded; set `enabled = true` in [journal].")
        try:
            with History(self._path, self._report_damage) as history:
                try:
                    yield history
                finally:
                    self._tell_damaged(history.damaged)
        except JournalError as error:
            raise _unavailable(str(error)) from error

    def _tell_damaged(self, count: int) -> None:
        """Say in the log what was left out; not again for each request that comes upon it."""
        if count > self._told_damaged:
            self._told_damaged = count
            log.warning("%d damaged parts of the history were left out", count)


def rested(items: Iterable[_Item]) -> Iterator[_Item]:
    """Give items on, with a rest after what cost time: making them, and what is done with them.

    Each is progress of the answer that they are for.
    What a thread waited for, a slow client or the interpreter, needs no rest.
    """
    began_s = time.thread_time()
    for item in items:
        made_progress()
        yield item
        busy_s = time.thread_time() - began_s
        if busy_s > _LEAST_BUSY_S:
            time.sleep(min(_LONGEST_REST_S, busy_s * _REST))
            began_s = time.thread_time()


def busy() -> RequestError:
    """Refuse a request because too many are being answered."""
    return RequestError(
        503,
        "BUSY",
        "Too many ask for the past at once; ask again in a few seconds.",
        headers=(("Retry-After", "5"),),
    )


def _unavailable(why: str) -> RequestError:
    return RequestError(503, "JOURNAL_UNAVAILABLE", why)
