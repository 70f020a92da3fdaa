"""Sinks: each feeds one kind of server, and translates its library's errors.

There are two kinds. A `JournalSink` is given what the journal holds, every reading once at least,
by `edge.uplink`, which keeps its place. A `LiveSink` shows how things are now: it is given each
Snapshot and sends what is new in the latest; what nobody could be told then is not told later. To
add one: a module with a class that keeps one of the contracts, a row in SINKS, and its section in
`edge.settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from edge.clock import Clock
from edge.errors import SinkRetry
from edge.heartbeat import Heartbeat
from edge.model import Snapshot
from edge.record import Resolution, SinkState
from edge.settings import SINK_KINDS, Config, SinkConfig


@dataclass(frozen=True)
class Rejected:
    """A point that the server will never take, and why, in its own words."""

    point: bytes
    reason: str


class Unreached(SinkRetry):
    """The server cannot be reached or fell silent: it may have died with what it had just taken."""


class JournalSink(Protocol):
    """A server that is sent readings and rollups as points. All calls on one thread, its pump's.

    A point that was sent before may be sent again, and is there once. `batch_readings` is how many
    it is given at a time, `backlog_per_s` how fast old ones may follow. `heartbeat` is that of its
    pump; the sink says before each request how long that one may take.
    """

    batch_readings: int
    backlog_per_s: int
    heartbeat: Heartbeat

    def prepare(self) -> Sequence[str]:
        """See to it that the server can take points and keeps them as long as it should.

        Gives what a person has to do, one sentence each. Raises SinkRetry. Blocks for its time-out
        with each question that it has for the server.
        """

    def send(self, points: Sequence[bytes], resolution: Resolution) -> list[Rejected]:
        """Send points of one resolution; when it returns, the server holds all but those given.

        Raises SinkRetry or SinkForbidden: some of them may be there, and all are to be sent again;
        and Unreached, a SinkRetry, where what was sent shortly before should be, too. Blocks for
        its time-out with each request; several are needed where the server takes fewer at a time,
        or refuses some.
        """

    def was_cut_off(self) -> bool:
        """Tell, once, whether the server ended the connection between two requests.

        It may have been started again so, and have lost what it had just taken.
        """

    def close(self) -> None:
        """Close the connection; harmless when it is closed. Never raises, does not block."""


class LiveSink(Protocol):
    """A server that is told how things are now. It has a thread of its own, and its `heartbeat`."""

    heartbeat: Heartbeat

    @property
    def state(self) -> SinkState:
        """The uplink as last seen; any thread."""

    def start(self) -> None:
        """Begin to connect; returns at once."""

    def publish(self, snapshot: Snapshot) -> None:
        """Take the latest Snapshot in place of one that was not sent yet. Cycle thread.

        Never blocks, never raises.
        """

    def begin_stop(self, timeout_s: float) -> None:
        """Begin to say goodbye to the server, for which there is timeout_s; returns at once."""

    def stop(self, timeout_s: float) -> None:
        """Say goodbye to the server and end; returns after timeout_s at the latest."""


@dataclass(frozen=True)
class SinkClass:
    """Where the class of a kind is, and what else it is made of.

    path: `module:Class`; called with the sink's name, its section, what `settings` picks for that
    section from the configuration, and the clock. is_live: a `LiveSink`, else a `JournalSink`.
    """

    path: str
    settings: Callable[[Config, Any], tuple[Any, ...]] = lambda _config, _section: ()
    is_live: bool = False


SINKS = {
    "influx": SinkClass("edge.sinks.influx:InfluxSink", lambda config, _section: (config.journal,)),
    "mqtt": SinkClass(
        "edge.sinks.mqtt:MqttSink",
        lambda config, section: (config.mqtt.all()[section.broker], config.site),
        is_live=True,
    ),
}
"""Kind → its class, imported when the first sink of that kind is made."""


def is_live(section: SinkConfig) -> bool:
    """Whether a section of the configuration is of a kind that shows how things are now."""
    return _class_of(section).is_live


def make_journal_sink(name: str, clock: Clock, config: Config) -> JournalSink:
    """Make the sink of `[sinks.<name>]`, which is not live; connects to nothing."""
    made: JournalSink = _made(name, clock, config)
    return made


def make_live_sink(name: str, clock: Clock, config: Config) -> LiveSink:
    """Make the sink of `[sinks.<name>]`, which is live; connects to nothing."""
    made: LiveSink = _made(name, clock, config)
    return made


def _made(name: str, clock: Clock, config: Config) -> Any:
    section = config.sinks[name]
    found = _class_of(section)
    module, _, cls = found.path.partition(":")
    settings = found.settings(config, section)
    return getattr(import_module(module), cls)(name, section, *settings, clock)


def _class_of(section: SinkConfig) -> SinkClass:
    return next(SINKS[kind] for kind, cls in SINK_KINDS.items() if isinstance(section, cls))
