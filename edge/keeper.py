"""What becomes of what is read: the journal, and the uplinks to all sinks, started and stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from edge.api.readers import Readers
from edge.clock import Clock
from edge.heartbeat import Heartbeat
from edge.journal import Journal
from edge.model import PollResult, Snapshot
from edge.record import Keeping
from edge.settings import Config
from edge.sinks import LiveSink, is_live, make_journal_sink, make_live_sink

if TYPE_CHECKING:
    from edge.uplink import Uplink


class Keeper:
    """The journal, if there is to be one, and the sinks. Follows the cycle.

    `follow` is for the cycle's thread, `start` and `close` for the main thread.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self._clock = clock
        zone = ZoneInfo(config.site.timezone)
        self.journal: Journal | None = None
        self.readers = Readers(None)
        """Those who read what was recorded. Any thread."""
        if config.journal.enabled:
            folder = Path(config.state.dir)
            self.journal = Journal(
                folder,
                config.journal,
                config.site.id,
                zone,
                clock,
                fallback_max_kw=config.site.grid_capacity_kw,
                sinks=[name for name, section in config.sinks.items() if not is_live(section)],
            )
            self.readers = Readers(self.journal.path, self.journal.report_damage)
        self._live: list[LiveSink] = []
        self._uplinks: list[Uplink | LiveSink] = []
        for name, section in config.sinks.items():
            if is_live(section):
                sink = make_live_sink(name, clock, config)
                self._live.append(sink)
                self._uplinks.append(sink)
            elif self.journal is not None:
                from edge.uplink import Uplink  # only who has such a sink pays for it

                fed = make_journal_sink(name, clock, config)
                self._uplinks.append(Uplink(name, fed, self.journal, clock))

    def start(self) -> None:
        """Begin to keep and to send. A disk or a server that fails is told by `state`."""
        if self.journal is not None:
            self.journal.open()
        for uplink in self._uplinks:
            uplink.start()

    def follow(self, snapshot: Snapshot, results: Sequence[PollResult]) -> None:
        """Keep what was read, and show how things are now. Never blocks."""
        if self.journal is not None:
            self.journal.put(results)
        for sink in self._live:
            sink.publish(snapshot)

    @property
    def has_begun(self) -> bool:
        """Whether the journal is open, or cannot be: that keeps nobody from measuring. Any thread.

        It takes a while where a damaged one is salvaged.
        """
        return self.journal is None or self.journal.has_begun

    @property
    def heartbeats(self) -> list[Heartbeat]:
        """Those of all its threads."""
        journals = [self.journal] if self.journal is not None else []
        return [worker.heartbeat for worker in (*journals, *self._uplinks)]

    def state(self) -> Keeping:
        """How journal and sinks are. Any thread."""
        journal = self.journal.state if self.journal is not None else None
        return Keeping(journal, tuple(uplink.state for uplink in self._uplinks))

    def close(self, timeout_s: float) -> None:
        """Stop sending, then write down what is there and the sinks' places.

        Blocks for timeout_s at most, half of which is kept for the disk.
        """
        deadline_s = self._clock.mono_s() + timeout_s
        for uplink in self._uplinks:  # who is stuck takes no time from the others
            uplink.begin_stop(timeout_s / 2)
        for uplink in self._uplinks:
            uplink.stop(max(0.0, deadline_s - timeout_s / 2 - self._clock.mono_s()))
        if self.journal is not None:
            self.journal.close(max(0.0, deadline_s - self._clock.mono_s()))
