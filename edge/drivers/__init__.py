"""Drivers: each speaks one protocol on one line, and translates its library's errors.

There are two kinds. A `Driver` asks: the schedule says when a meter is due. A `Listener` hears: its
meters speak by themselves, and have no poll interval. To add one: a module with a class that keeps
one of the contracts, a row in DRIVERS, and its `communication` keys in `edge.meterspec`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from edge.clock import Clock
from edge.model import MessageCounts, Meter, Outcome, Probe
from edge.reach import Reach
from edge.settings import Config


class Line(Protocol):
    """What both kinds have in common. All calls on one thread, that of the line."""

    @property
    def connected(self) -> bool:
        """Whether the line is open; look before each use.

        A peer may have closed it while it was idle, which is noticed here.
        """

    @property
    def opened(self) -> int:
        """How often it was opened so far."""

    def open(self, timeout_s: float) -> None:
        """Open the line; harmless when it is open.

        Raises LineError. Blocks for timeout_s (for each address that a host name has), and for
        the resolution of a host name.
        """

    def close(self) -> None:
        """Close the line; harmless when it is closed. Never raises, does not block."""


class Driver(Line, Protocol):
    """A line on which meters are asked; one request in flight."""

    def poll(self, meter: Meter, *, trial: bool) -> Outcome:
        """Read a meter over the open line.

        trial: it failed before, so one attempt without retries is enough. What the driver learns
        of a meter (a register that is not there) it keeps for as long as it is the same object.
        Gives what could be read, and in `error` why something is missing; raises LineError when
        the line failed. Blocks for the meter's time-out and retries.
        """

    def forget(self, meters: Collection[Meter]) -> None:
        """Drop what was learnt of all meters but these."""

    def probe(self, meter: Meter) -> Probe:
        """Question a meter thoroughly: what is wrong with it, or with the way to it.

        Over the line itself, opened if need be, and so on its thread: a wire has one talker. Never
        raises for what it finds. The meter need not be registered. Blocks for a few seconds, for
        some tens where devices are silent.
        """


class Listener(Line, Protocol):
    """A line on which meters speak by themselves."""

    @property
    def counts(self) -> MessageCounts:
        """What became of the messages so far."""

    def follow(self, meters: Collection[Meter]) -> None:
        """Hear these meters from now on, and no others. Never raises: a lost line shows later."""

    def listen(self, timeout_s: float) -> Sequence[tuple[Meter, Outcome]]:
        """Wait until something was heard, and give the meters that have news.

        Returns after timeout_s at the latest, with nothing if nothing was heard. Raises LineError
        when the connection is lost.
        """

    def probe(self, meter: Meter) -> Probe:
        """Hear a meter for a while: what is wrong with it, or with the way to it.

        On any thread, beside whatever the line does: over a connection of its own, which it closes.
        Never raises for what it finds. The meter need not be registered. Blocks for some seconds
        where nothing is heard.
        """


@dataclass(frozen=True)
class DriverClass:
    """Where the class that speaks a protocol is, and what else it is made of.

    path: `module:Class`, a `Driver` or a `Listener`; called with the endpoint, the clock and what
    `settings` picks for that endpoint from the configuration.
    """

    path: str
    settings: Callable[[Config, Any], tuple[Any, ...]] = lambda _config, _endpoint: ()


def _reach(config: Config, _endpoint: Any) -> tuple[Reach]:
    return (config.security.reach,)


DRIVERS = {
    "modbus": DriverClass("edge.drivers.modbus:ModbusDriver", _reach),
    "mqtt": DriverClass(
        "edge.drivers.mqtt:MqttListener",
        lambda config, endpoint: (config.mqtt.all()[endpoint.broker],),
    ),
    "http": DriverClass("edge.drivers.http:HttpDriver", _reach),
}
"""Protocol → its class, imported when the first line of that protocol is made."""


def load_driver(protocol: str) -> Any:
    """Import a protocol's class, which may take a while."""
    module, _, name = DRIVERS[protocol].path.partition(":")
    return getattr(import_module(module), name)


def make_driver(meter: Meter, clock: Clock, config: Config) -> Driver | Listener:
    """Make what reads the meter's line; opens nothing.

    It is a `Listener` where the meter has no poll interval, and a `Driver` where it has one.
    """
    endpoint = meter.communication.endpoint
    settings = DRIVERS[meter.protocol].settings(config, endpoint)
    driver: Driver | Listener = load_driver(meter.protocol)(endpoint, clock, *settings)
    return driver
