"""How the work on an answer shows that it gets on, however slowly.

What takes long says so between its steps, and need not know for whom: it is the server that knows
which thread answers, and for how long that one may be silent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class _Listeners(threading.local):
    """Who is told of the progress of each thread."""

    tell: Callable[[], object] | None = None


_listeners = _Listeners()


def tell_progress_to(tell: Callable[[], object]) -> None:
    """Have `tell` called, on this thread, for each step that it makes from now on."""
    _listeners.tell = tell


def made_progress() -> None:
    """Say that this thread has made a step. Any thread; nothing where nobody is to be told."""
    if _listeners.tell is not None:
        _listeners.tell()
