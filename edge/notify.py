"""What systemd is told of the service: that it is ready, reloads, stops, is alive, and how it is.

Outside systemd, where nobody set NOTIFY_SOCKET, all of it is silent.

Source: sd_notify(3) and sd_watchdog_enabled(3) of systemd: a message is one datagram of lines
`NAME=value` to the socket that NOTIFY_SOCKET names, an abstract one where it begins with `@`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from edge.model import PollResult, Snapshot, Status
from edge.record import Keeping

FEEDINGS = 4
"""So often within its time the watchdog is fed."""
STATUS_EVERY_S = 5.0
EXTEND_EVERY_S, EXTEND_BY_S = 5.0, 30.0
"""How often a start that takes long asks for more time, and for how much."""


class NotifySocket:
    """Where messages go. Any thread; never blocks, never raises."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self.is_there = name.startswith(("/", "@"))
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        period = environment.get("WATCHDOG_USEC", "") if self.is_there and ours else ""
        self.watchdog_s = int(period) / 1_000_000 if period.isdecimal() else 0.0
        """Within what time systemd wants to hear that we are alive; 0 where it does not."""

    def send(self, *lines: str) -> bool:
        """Send a message; tells whether it was taken: it is not while nobody makes room for it."""
        if not self.is_there:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
        except OSError:
            return False
        return True


class Notifier:
    """Tells systemd what is new.

    has_started: whether nothing of the start is left to wait for, once the cycle runs.
    all_is_well: whether every worker is heard of in time. keeping: how journal and sinks are.
    All three are asked on the cycle's thread and must not block.
    """

    def __init__(
        self,
        socket: NotifySocket,
        has_started: Callable[[], bool],
        all_is_well: Callable[[], bool],
        keeping: Callable[[], Keeping],
    ) -> None:
        self._socket = socket
        self._has_started = has_started
        self._all_is_well = all_is_well
        self._keeping = keeping
        self._is_ready = False
        self._owes_ready = False
        """Whether a reload is over, and there was no room to say so."""
        self._status = ""
        self._extend_mono_s = self._feed_mono_s = self._status_mono_s = 0.0

    def follow(self, snapshot: Snapshot, _results: Sequence[PollResult]) -> None:
        """Tell what is new at this tick; see `Follower`. The first one holds the whole plan."""
        if not self._socket.is_there:
            return
        now_mono_s = snapshot.mono_s
        if not self._is_ready:
            self._start(now_mono_s)
        elif self._owes_ready:
            self.reloaded()
        if self._socket.watchdog_s and now_mono_s >= self._feed_mono_s:
            self._feed(now_mono_s)
        if now_mono_s >= self._status_mono_s:
            self._tell_status(snapshot)

    def reloading(self) -> None:
        """Tell that the configuration is read again. Any thread."""
        if self._is_ready:
            self._owes_ready = False
            now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._socket.send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def reloaded(self) -> None:
        """Tell that it was, or that the one before stays; again until it is taken. Any thread."""
        if self._is_ready:
            # In this order, so that a thread cannot undo what another one finds owed meanwhile.
            self._owes_ready = False
            if not self._socket.send("READY=1"):
                self._owes_ready = True

    def stopping(self) -> None:
        """Tell that the service ends."""
        self._socket.send("STOPPING=1", "STATUS=Stopping")

    def _start(self, now_mono_s: float) -> None:
        """Tell that the service is ready, or else ask for more time while it gets on."""
        if self._has_started():
            self._is_ready = self._socket.send("READY=1")
        elif now_mono_s >= self._extend_mono_s and self._all_is_well():
            self._extend_mono_s = now_mono_s + EXTEND_EVERY_S
            self._socket.send(f"EXTEND_TIMEOUT_USEC={EXTEND_BY_S * 1_000_000:.0f}")

    def _feed(self, now_mono_s: float) -> None:
        if self._all_is_well() and self._socket.send("WATCHDOG=1"):
            self._feed_mono_s = now_mono_s + self._socket.watchdog_s / FEEDINGS

    def _tell_status(self, snapshot: Snapshot) -> None:
        self._status_mono_s = snapshot.mono_s + STATUS_EVERY_S
        status = status_of(snapshot, self._keeping())
        if status != self._status and self._socket.send(f"STATUS={status}"):
            self._status = status


def status_of(snapshot: Snapshot, keeping: Keeping) -> str:
    """Say in a line how the service is, as `systemctl status` shows it."""
    meters = snapshot.meters.values()
    online = sum(state.status is Status.ONLINE for state in meters)
    parts = [f"{online} of {len(meters)} meters online", f"load {snapshot.load.quality.value}"]
    journal = keeping.journal
    if journal is not None and journal.last_error:
        parts.append(journal.last_error.replace("\n", " "))
    parts += [f"{sink.name} takes nothing" for sink in keeping.sinks if sink.last_error]
    return "; ".join(parts)
