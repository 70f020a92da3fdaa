"""`dlm-edge simulate`: simulated meters to try things with, until a signal ends them."""

from __future__ import annotations

import argparse
import difflib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from edge.errors import ConfigError
from edge.library import Library
from edge.simulate.demo import DemoSite
from edge.simulate.fault import TRANSPORTS, Fault, FaultKind
from edge.simulate.http import HttpSite
from edge.simulate.mqtt import DEFAULT_PORT as DEFAULT_BROKER_PORT
from edge.simulate.mqtt import DEFAULT_PREFIX, MAX_METERS, PAYLOADS, MqttSite
from edge.simulate.served import ServedSite
from edge.template import Template

DEFAULT_PORT = 5020
DEFAULT_HTTP_PORT = 8090
MODBUS_TRANSPORTS = ("tcp", "rtu-over-tcp", "rtu")

_OWN_FLAGS = {
    "serial_port": ("rtu",),
    "units_per_port": ("tcp", "rtu-over-tcp"),
    "token": ("http",),
    "broker": ("mqtt",),
    "interval": ("mqtt",),
    "prefix": ("mqtt",),
    "payload": ("mqtt",),
}
"""Flags that mean something on these transports only."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge simulate`."""
    kinds = ", ".join(kind.value for kind in FaultKind)
    add = parser.add_argument
    add("--meters", type=int, default=4, metavar="N", help="how many meters (default 4)")
    add("--transport", choices=TRANSPORTS, help="default tcp, or what the template speaks")
    add("--template", metavar="NAME", help="serve devices of this model of the device library")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add(
        "--port",
        type=int,
        help="of the first meter, the others follow; 0: any free; over HTTP they share one "
        f"(default {DEFAULT_PORT}, HTTP {DEFAULT_HTTP_PORT})",
    )
    add(
        "--units-per-port",
        type=int,
        metavar="N",
        help="meters behind one port, as behind a gateway (default 1)",
    )
    add("--serial-port", metavar="DEV", help="device for --transport rtu")
    add("--baudrate", type=int, default=9600)
    add("--token", help="HTTP: what a client must send as Authorization: Bearer")
    add(
        "--broker",
        metavar="HOST[:PORT]",
        help=f"MQTT: where to publish (default localhost:{DEFAULT_BROKER_PORT})",
    )
    add("--interval", type=float, metavar="SECONDS", help="MQTT: between publications (default 1)")
    add("--prefix", help=f"MQTT: topics are <prefix>/<meter>/power ... (default {DEFAULT_PREFIX})")
    add("--payload", choices=PAYLOADS, help="MQTT: what is published (default number)")
    add(
        "--fault",
        type=_meter_fault,
        action="append",
        default=[],
        metavar="METER:KIND[=ARG]",
        help=f"what is wrong with which meter, counted from 1; KIND is one of {kinds}; ARG is "
        "the seconds of slow and late, or the code of exception and status",
    )
    add(
        "--port-file",
        type=Path,
        metavar="FILE",
        help="write the registrations here, as a JSON list, once every meter can be reached",
    )
    add("--seed", type=int, default=0, help="another seed is another site (default 0)")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Gives the exit code: 0 done, 1 no port, 2 wrong use.

    Main thread only: it blocks the two signals and waits for one.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        site = make_site(args)
        for number, fault in args.fault:
            site.set_fault(number, fault)
    except (ValueError, ConfigError) as error:
        print(f"dlm-edge simulate: {error}", file=sys.stderr)
        return 2
    try:
        site.start()
    except OSError as error:
        remedy = "choose another --port or --serial-port"
        if isinstance(site, MqttSite):
            remedy = f"start a broker at {site.broker}, or name another with --broker"
        print(f"dlm-edge simulate: cannot serve: {error}; {remedy}", file=sys.stderr)
        return 1
    try:
        _announce(site.registrations, args.port_file)
        signal.sigwait(ends)
    finally:
        site.stop()
    return 0


def make_site(args: argparse.Namespace) -> ServedSite:
    """Make what the flags ask for, not yet started.

    Raises ValueError with what is wrong with them, or ConfigError for a faulty template.
    """
    template = _template(args.template) if args.template else None
    transport = _transport(args.transport, template)
    for flag, transports in _OWN_FLAGS.items():
        if getattr(args, flag) is not None and transport not in transports:
            spelled = flag.replace("_", "-")
            raise ValueError(f"--{spelled} goes with --transport {' or '.join(transports)}")
    port = DEFAULT_HTTP_PORT if transport == "http" else DEFAULT_PORT
    if args.port is not None:
        port = args.port
    per_port = 1 if args.units_per_port is None else args.units_per_port
    if transport == "http" and template is None:
        per_port = args.meters  # on one port, at a path each
    _check_counts(args, transport, port, per_port)
    if transport == "http":
        token = args.token or ""
        return HttpSite(
            args.meters, host=args.host, port=port, token=token, seed=args.seed, template=template
        )
    if transport == "mqtt":
        return _mqtt_site(args, template)
    if transport == "rtu" and not args.serial_port:
        raise ValueError("--transport rtu needs a --serial-port")
    return DemoSite(
        args.meters,
        transport=transport,
        host=args.host,
        port=port,
        units_per_port=per_port,
        serial_port=args.serial_port or "",
        baudrate=args.baudrate,
        seed=args.seed,
        template=template,
    )


def _mqtt_site(args: argparse.Namespace, template: Template | None) -> MqttSite:
    if template is not None and (args.prefix or args.payload):
        raise ValueError("--prefix and --payload do not go with --template, which says both")
    interval_s = 1.0 if args.interval is None else args.interval
    if not 0.01 <= interval_s <= 3600:
        raise ValueError("--interval must be 0.01 to 3600 seconds")
    prefix = DEFAULT_PREFIX if args.prefix is None else args.prefix
    if not prefix or set("+#\0") & set(prefix):
        raise ValueError("--prefix must be the beginning of a topic, without '+' and '#'")
    return MqttSite(
        args.meters,
        broker=_broker(args.broker or "localhost"),
        interval_s=interval_s,
        prefix=prefix,
        payload=args.payload or "number",
        seed=args.seed,
        template=template,
    )


def _template(name: str) -> Template:
    """Find a template. Raises ValueError where there is none."""
    library = Library()
    if name not in library:
        nearest = difflib.get_close_matches(name, library.names(), cutoff=0.4)
        hint = f"; nearest are {', '.join(nearest)}" if nearest else ""
        raise ValueError(f"there is no template {name!r}{hint}")
    return library[name]


def _transport(wanted: str | None, template: Template | None) -> str:
    if template is None:
        return wanted or "tcp"
    able = MODBUS_TRANSPORTS if template.protocol == "modbus" else (template.protocol,)
    if wanted is not None and wanted not in able:
        raise ValueError(f"{template.name} speaks {', '.join(able)}, not {wanted}")
    return wanted or able[0]


def _check_counts(args: argparse.Namespace, transport: str, port: int, per_port: int) -> None:
    most = {"rtu": 247, "mqtt": MAX_METERS}.get(transport, 50_000)
    if not 1 <= args.meters <= most:
        raise ValueError(f"--meters must be 1 to {most}")
    if args.units_per_port is not None and not 1 <= per_port <= 247:
        raise ValueError("--units-per-port must be 1 to 247")
    last = port + (args.meters - 1) // per_port
    if not 0 <= port <= last <= 65_535:
        raise ValueError("--port must be 0 to 65535, and so must the ports that follow it")


def _broker(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if ":" in text else (text, "", str(DEFAULT_BROKER_PORT))
    if not host or not port.isdecimal() or not 0 < int(port) <= 65_535:
        raise ValueError(
            f"--broker must be a host, or a host and a port like localhost:1883, not {text!r}"
        )
    return host.strip("[]"), int(port)


def _announce(registrations: list[dict[str, Any]], port_file: Path | None) -> None:
    """Say where each meter is; the file appears whole, for it tells others that all is ready."""
    for body in registrations:
        print(f"{body['name']} ({body['meterType']}): {_address(body['communication'])}")
        print(
            "  curl -X POST http://localhost:3000/api/energy-meters "
            f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )
    sys.stdout.flush()
    if port_file is not None:
        draft = port_file.with_name(port_file.name + ".tmp")
        draft.write_text(json.dumps(registrations, indent=1) + "\n")
        draft.replace(port_file)


def _address(where: dict[str, Any]) -> str:
    """Say in few words where a meter is, by its registration's `communication`."""
    if "unitId" in where:
        line = where.get("serialPort") or f"{where['host']}:{where['port']}"
        return f"{line} unit {where['unitId']}"
    if "template" in where:
        return ", ".join(f"{key} {value}" for key, value in where.items())
    address: str = where.get("url") or where["topicPower"]
    return address


def _meter_fault(text: str) -> tuple[int, Fault]:
    number, _, fault = text.partition(":")
    try:
        return int(number), Fault.parse(fault)
    except ValueError as error:
        message = str(error) if number.isdigit() else f"{number!r} is no meter's number"
        raise argparse.ArgumentTypeError(message) from None
