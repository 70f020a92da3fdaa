"""Simulated Modbus meters as servers: for `dlm-edge simulate`, `run --demo` and the tests.

    site      what the meters of a small site show at any moment         (pure)
    layout    quantities into register words, by a registration          (pure)
    wire      requests out of bytes, replies into bytes                  (pure)
    device    one meter: its registers, its answers, its faults          (pure but for the clock)
    loop      readable files, timers, calls from other threads
    link      when replies leave
    endpoint  where a line leads, with the units behind it: tcp, rtu
    server    many endpoints on one loop in a background thread
    demo      the site's meters, served, with their registrations
    command   the command line

It shares no code with the drivers and `edge.decode`, and no Modbus library, so that it can bear
witness against them.
"""

from edge.simulate.demo import DemoSite
from edge.simulate.device import Fault, FaultKind, Unit
from edge.simulate.endpoint import Endpoint, Seen
from edge.simulate.layout import Layout, encode
from edge.simulate.rtu import SerialEndpoint
from edge.simulate.server import Simulator
from edge.simulate.tcp import TcpEndpoint

__all__ = [
    "DemoSite",
    "Endpoint",
    "Fault",
    "FaultKind",
    "Layout",
    "Seen",
    "SerialEndpoint",
    "Simulator",
    "TcpEndpoint",
    "Unit",
    "encode",
]
