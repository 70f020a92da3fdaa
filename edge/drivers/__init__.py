"""Drivers: each speaks one protocol on one line, and translates its library's errors.

To add one: a module with a class that keeps the `Driver` contract, and a row in DRIVERS.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from edge.model import Endpoint, ReadRequest


class Driver(Protocol):
    """One line's wire. All calls on the line's thread; one request in flight."""

    @property
    def connected(self) -> bool:
        """Whether the wire is open; look before each read.

        A peer may have closed it while it was idle, which is noticed here.
        """

    def open(self, timeout_s: float) -> None:
        """Open the wire; harmless when it is open.

        Raises LineError. Blocks for timeout_s (for each address that a host name has), and for
        the resolution of a host name.
        """

    def read(self, request: ReadRequest, timeout_s: float) -> Sequence[int]:
        """Read one block over the open wire: request.count words, 0..65535, in wire order.

        timeout_s: how long the device may take to answer, once it was asked. Before that the call
        may block for 0.5 s until the wire is quiet, and where an earlier request's late reply
        could be mistaken for this one's, until twice that request's timeout_s is over.
        Raises NoReply, BadReply, Refused (the meter's fault) or LineError (the wire's). The wire
        may be closed afterwards; `connected` tells.
        """

    def close(self) -> None:
        """Close the wire; harmless when it is closed. Never raises, does not block."""


DRIVERS = {
    "modbus": "edge.drivers.modbus:ModbusDriver",
}
"""Protocol → module and class, imported when the first line of that protocol is made."""


def make_driver(protocol: str, endpoint: Endpoint) -> Driver:
    """Make the driver for a line; opens nothing."""
    module, _, name = DRIVERS[protocol].partition(":")
    driver: Driver = getattr(import_module(module), name)(endpoint)
    return driver
