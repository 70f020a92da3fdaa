"""`dlm-edge simulate`: simulated meters to try things with, until a signal ends them."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from edge.simulate.demo import DemoSite
from edge.simulate.device import Fault, FaultKind

DEFAULT_PORT = 5020


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge simulate`."""
    kinds = ", ".join(kind.value for kind in FaultKind)
    add = parser.add_argument
    add("--meters", type=int, default=4, metavar="N", help="how many meters (default 4)")
    add("--transport", choices=("tcp", "rtu-over-tcp", "rtu"), default="tcp")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help=f"of the first meter, the others follow; 0: any free (default {DEFAULT_PORT})",
    )
    add(
        "--units-per-port",
        type=int,
        default=1,
        metavar="N",
        help="meters behind one port, as behind a gateway (default 1)",
    )
    add("--serial-port", default="", metavar="DEV", help="device for --transport rtu")
    add("--baudrate", type=int, default=9600)
    add(
        "--fault",
        type=_meter_fault,
        action="append",
        default=[],
        metavar="METER:KIND[=ARG]",
        help=f"what is wrong with which meter, counted from 1; KIND is one of {kinds}; ARG is "
        "the seconds of slow and late, or the code of exception",
    )
    add(
        "--port-file",
        type=Path,
        metavar="FILE",
        help="write the registrations here, as a JSON list, once every port is bound",
    )
    add("--seed", type=int, default=0, help="another seed is another site (default 0)")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Gives the exit code: 0 done, 1 no port, 2 wrong use.

    Main thread only: it blocks the two signals and waits for one.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        _check(args)
        site = DemoSite(
            args.meters,
            transport=args.transport,
            host=args.host,
            port=args.port,
            units_per_port=args.units_per_port,
            serial_port=args.serial_port,
            baudrate=args.baudrate,
            seed=args.seed,
        )
        for number, fault in args.fault:
            site.set_fault(number, fault)
    except ValueError as error:
        print(f"dlm-edge simulate: {error}", file=sys.stderr)
        return 2
    try:
        site.start()
    except OSError as error:
        print(
            f"dlm-edge simulate: cannot serve: {error}; choose another --port or --serial-port",
            file=sys.stderr,
        )
        return 1
    try:
        _announce(site.registrations, args.port_file)
        signal.sigwait(ends)
    finally:
        site.stop()
    return 0


def _check(args: argparse.Namespace) -> None:
    if not 1 <= args.units_per_port <= 247:
        raise ValueError("--units-per-port must be 1 to 247")
    most = 247 if args.transport == "rtu" else 50_000
    if not 1 <= args.meters <= most:
        raise ValueError(f"--meters must be 1 to {most}")
    if args.transport == "rtu" and not args.serial_port:
        raise ValueError("--transport rtu needs a --serial-port")
    last = args.port + (args.meters - 1) // args.units_per_port
    if not 0 <= args.port <= last <= 65_535:
        raise ValueError("--port must be 0 to 65535, and so must the ports that follow it")


def _announce(registrations: list[dict[str, Any]], port_file: Path | None) -> None:
    """Say where each meter is; the file appears whole, for it tells others that all is ready."""
    for body in registrations:
        where = body["communication"]
        address = where.get("serialPort") or f"{where['host']}:{where['port']}"
        print(f"{body['name']} ({body['meterType']}): {address} unit {where['unitId']}")
        print(
            "  curl -X POST http://localhost:3000/api/energy-meters "
            f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )
    sys.stdout.flush()
    if port_file is not None:
        draft = port_file.with_name(port_file.name + ".tmp")
        draft.write_text(json.dumps(registrations, indent=1) + "\n")
        draft.replace(port_file)


def _meter_fault(text: str) -> tuple[int, Fault]:
    number, _, fault = text.partition(":")
    try:
        return int(number), Fault.parse(fault)
    except ValueError as error:
        message = str(error) if number.isdigit() else f"{number!r} is no meter's number"
        raise argparse.ArgumentTypeError(message) from None
