"""What is to be done about faults of the database: say them once, try again, set a file aside.

SQLite reports a read that failed once in the same words as a damaged file. So damage has to show
twice before the file is set aside: after the first time it is opened anew and read as a whole.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from edge.journal.damage import is_damage
from edge.journal.refusal import refusal_of

log = logging.getLogger("Journal")

_RETRY_S = 5.0
_REPLACING_RETRY_S = 60.0
_SUSPECT_S = 2 * 3600.0
"""Within this time everything that is done to the database is done again."""

_WORDS = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EROFS: "the disk is read-only; check it for faults and mount it again",
    errno.EIO: "the disk fails; replace it",
}
"""What is told of an error of the system."""


class Trouble:
    """The faults of one database, one after the other. One thread.

    folder: that it is in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.to_be_checked = False
        """It showed damage: all of it is to be read when it is opened again."""
        self.is_damaged = False
        """It is to be set aside."""
        self._suspect_until_mono_s = float("-inf")
        self._retry_mono_s = float("-inf")
        self._said: str | None = None

    def failed(self, error: Exception, now_mono_s: float) -> str:
        """Note a fault, and log one that is new; gives it as a sentence. Blocks for the disk."""
        wait_s = _RETRY_S
        if is_damage(error):
            if self.is_damaged:
                wait_s = _REPLACING_RETRY_S
            elif now_mono_s < self._suspect_until_mono_s:
                self.is_damaged = True
                wait_s = 0.0
            self.to_be_checked = True
            self._suspect_until_mono_s = now_mono_s + _SUSPECT_S
        self._retry_mono_s = now_mono_s + wait_s
        reason = _reason(error, self._folder)
        text = f"The journal cannot be written ({reason}); readings wait in memory."
        if text != self._said:
            log.error("%s", text)
        self._said = text
        return text

    def may_retry(self, now_mono_s: float) -> bool:
        """Tell whether it is time to open the database again."""
        return now_mono_s >= self._retry_mono_s

    def replaced(self) -> None:
        """Note that a new database is in the place of the damaged one."""
        self.is_damaged = self.to_be_checked = False
        self._suspect_until_mono_s = float("-inf")

    def over(self) -> None:
        """Note that the database is written again."""
        if self._said is not None:
            log.info("The journal is written again.")
        self._said = None


def _reason(error: Exception, folder: Path) -> str:
    text = str(error).rstrip(".")
    refusal = refusal_of(folder) if "I/O" in text or "unable to open" in text else None
    if refusal is not None and refusal.errno is not None:
        text = _WORDS.get(refusal.errno) or os.strerror(refusal.errno)
    if "locked" in text:
        return "another process has it open; stop the other dlm-edge"
    if "full" in text:
        return _WORDS[errno.ENOSPC]
    if "readonly" in text:
        return "it is read-only; check the disk and the rights of the folder"
    return text
