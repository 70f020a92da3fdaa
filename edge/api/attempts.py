"""How often who may try to prove who they are, and how much of the processor that takes.

Failures are counted for each address, or each network of a home where that is IPv6: a single
client has 2^64 addresses there. To check a secret is dear on purpose. So those who claim the same
stand in line, a short one, and after a failure it rests; who claims something else has another
line, and is not kept waiting by guesses at this one.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from edge.clock import Clock
from edge.errors import RequestError

MOST_FAILURES = 10
WINDOW_S = 60.0
MOST_COUNTED = 1024
"""Addresses that are remembered at a time; of more, those that began first are forgotten."""
MOST_IN_LINE = 8
PATIENCE_S = 5.0
REST = 3
"""How much longer than a check that failed its rest is: no attack on a token takes more than a
quarter of one processor."""

_T = TypeVar("_T")

_log = logging.getLogger("edge.api")


@dataclass
class _Failures:
    """Of one address, since its first."""

    began_s: float
    count: int = 0


@dataclass
class _Line:
    """Those who claim the same."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    length: int = 0


class Attempts:
    """Lets clients try, within limits. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def make(self, peer: str, claim: str, attempt: Callable[[], _T | None]) -> _T | None:
        """Make an attempt when its turn comes; None, which it gives for a failure, is counted.

        peer: the client's address. claim: the one that the client says it is, which there is; its
        failures are counted apart, so that who guesses at random, at the same address, keeps
        nobody out who has something to show.
        Raises RequestError 429 after too many failures, 503 when the line is too long. Blocks for
        the attempts before, PATIENCE_S at most, and its own.
        """
        key = (_network(peer), claim)
        self._refuse_tired(key)
        with self._turn(claim):
            self._refuse_tired(key)  # those before in the line may have been the same client's
            began_s = self._clock.mono_s()
            result = attempt()
            if result is None:
                self._count(key)
                self._clock.sleep(REST * (self._clock.mono_s() - began_s))
            return result

    def fail(self, peer: str) -> None:
        """Count a failure of who claims nothing that there is, so that nothing has to be checked.

        Raises RequestError 429 after too many.
        """
        key = (_network(peer), "")
        self._refuse_tired(key)
        self._count(key)

    @contextmanager
    def _turn(self, claim: str) -> Iterator[None]:
        """Wait in line. Raises RequestError 503."""
        with self._lock:
            line = self._lines.setdefault(claim, _Line())
            if line.length >= MOST_IN_LINE:
                raise _busy()
            line.length += 1
        try:
            if not line.turn.acquire(timeout=PATIENCE_S):
                raise _busy()
            try:
                yield
            finally:
                line.turn.release()
        finally:
            with self._lock:
                line.length -= 1
                if not line.length:
                    del self._lines[claim]

    def _refuse_tired(self, key: tuple[str, str]) -> None:
        """Raise RequestError 429 for who failed too often of late."""
        with self._lock:
            failures = self._failures.get(key)
            if failures is None or failures.count < MOST_FAILURES:
                return
            left_s = failures.began_s + WINDOW_S - self._clock.mono_s()
            if left_s <= 0:
                del self._failures[key]
                return
        seconds = math.ceil(left_s)
        raise RequestError(
            429,
            "TOO_MANY_ATTEMPTS",
            "Too many attempts with a wrong token came from your address; try again in "
            f"{seconds} s.",
            headers=(("Retry-After", str(seconds)),),
        )

    def _count(self, key: tuple[str, str]) -> None:
        now_s = self._clock.mono_s()
        with self._lock:
            failures = self._failures.get(key)
            if failures is None or failures.began_s + WINDOW_S <= now_s:
                self._failures.pop(key, None)
                failures = self._failures[key] = _Failures(now_s)
                if len(self._failures) > MOST_COUNTED:
                    self._failures.popitem(last=False)
            failures.count += 1
        if failures.count == MOST_FAILURES:
            _log.warning(
                "%d attempts from %s with a wrong token; none is looked at for a minute.",
                failures.count, key[0],
            )  # fmt: skip


def _network(peer: str) -> str:
    """What the failures of an address are counted for."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"


def _busy() -> RequestError:
    return RequestError(
        503,
        "BUSY",
        "Too many clients prove who they are at once; try again in a second.",
        headers=(("Retry-After", "1"),),
    )
