"""Simulated meters as servers: for `dlm-edge simulate`, `run --demo` and the tests.

    site      what the meters of a small site show at any moment         (pure)
    fault     what can be wrong with a meter                             (pure)

    layout    quantities into register words, by a registration          (pure)
    sunspec   the registers of a SunSpec device                          (pure)
    wire      requests out of bytes, replies into bytes                  (pure)
    device    one Modbus meter: its registers and its answers            (pure but for the clock)
    loop      readable files, timers, calls from other threads
    link      when replies leave
    endpoint  where a line leads, with the units behind it: tcp, rtu
    server    many endpoints on one loop in a background thread

    payload   quantities into numbers and JSON; one MQTT or HTTP meter   (pure)
    dialect   which payload holds which quantity, and where              (pure)
    http      ports with meters at their paths
    mqtt      meters as clients of a broker

    template  the Modbus device of a template of the device library      (pure)
    served    what the sites have in common: demo (Modbus), http, mqtt
    command   the command line

It shares no code with the drivers and what decodes for them, and no Modbus library, so that it can
bear witness against them.
"""

from edge.simulate.demo import DemoSite
from edge.simulate.device import Unit
from edge.simulate.endpoint import Endpoint, Seen
from edge.simulate.fault import Fault, FaultKind
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
