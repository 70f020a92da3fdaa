"""Drivers: each speaks one protocol on one line, and translates its library's errors.

There are two kinds. A `Driver` is asked: the schedule says when a meter is due. A `Listener` hears:
its meters speak by themselves. To add one: a module with a class that keeps one of the contracts, a
row in DRIVERS, and its `communication` keys in `edge.meterspec`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any, Protocol

from edge.clock import Clock
from edge.communication import Endpoint
from edge.model import MessageCounts, Meter, Outcome, Probe


class Line(Protocol):
    """What both kinds have in common. All calls on the line's thread."""

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

    def probe(self, meter: Meter) -> Probe:
        """Question a meter thoroughly: what is wrong with it, or with the way to it.

        Opens the line itself and never raises for what it finds. The meter need not be
        registered. Blocks for a few seconds, for some tens where devices are silent.
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


DRIVERS = {
    "modbus": "edge.drivers.modbus:ModbusDriver",
    "mqtt": "edge.drivers.mqtt:MqttListener",
    "http": "edge.drivers.http:HttpDriver",
}
"""Protocol → module and class, imported when the first line of that protocol is made."""


def load_driver(protocol: str) -> Any:
    """Import a protocol's class, which may take a while."""
    module, _, name = DRIVERS[protocol].partition(":")
    return getattr(import_module(module), name)


def make_driver(protocol: str, endpoint: Endpoint, clock: Clock) -> Driver:
    """Make what asks the meters of a line; opens nothing."""
    driver: Driver = load_driver(protocol)(endpoint, clock)
    return driver


def make_listener(protocol: str, endpoint: Endpoint, clock: Clock, settings: Any) -> Listener:
    """Make what hears the meters of a line; opens nothing.

    settings: what the configuration holds for this line.
    """
    listener: Listener = load_driver(protocol)(endpoint, clock, settings)
    return listener
