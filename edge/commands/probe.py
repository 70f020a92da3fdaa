"""`dlm-edge probe`: question a meter without registering it, and explain what is wrong."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from edge import render
from edge.clock import Clock
from edge.commands.scan import print_identity, scan_line
from edge.communication import ModbusCommunication
from edge.diagnosis import Diagnosis, diagnose
from edge.drivers import make_driver
from edge.errors import Cause, Faulty
from edge.interpret import Interpretation
from edge.library import library_of
from edge.meterspec import References, parse_meter
from edge.model import METER_TYPES, QUANTITIES, Meter
from edge.settings import Config

_EXAMPLES = """examples:
  dlm-edge probe 192.168.1.150 --unit 1 --template abb-b23
  dlm-edge probe 192.168.1.150:502 --set registers.power=20480 --set registers.powerScale=0.001
  dlm-edge probe /dev/ttyUSB0 --set baudrate=19200 --set parity=E --template eastron-sdm630
  dlm-edge probe http://192.168.1.200/api/energy --set authToken=…
  dlm-edge probe mqtt:building/energy/power
  dlm-edge probe --registration meter.json
  dlm-edge probe 192.168.1.150 --scan
"""


_MISREAD = {Cause.WRONG_VALUES, Cause.ILLEGAL_ADDRESS, Cause.ILLEGAL_FUNCTION}
"""What is wrong where the registers of another model are read."""


class _UsageError(Exception):
    """The flags do not make a meter; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge probe`."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("target", nargs="?", help="HOST[:PORT], serial port, http(s) URL, or mqtt:TOPIC")
    add("--unit", type=int, metavar="N", help="Modbus unit id (default 1)")
    add("--template", metavar="NAME", help="device template; `dlm-edge templates` lists them")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of `communication`, with dots for those within: registers.power=20480",
    )
    add("--meter-type", choices=METER_TYPES, help="what values are judged as (default grid)")
    add("--registration", metavar="FILE", help="body of a registration as JSON; - reads it here")
    add("--scan", action="store_true", help="find the unit ids that answer, and what they are")
    add("--json", action="store_true", help="print what POST /api/energy-meters/test answers")


def run(args: argparse.Namespace, config: Config) -> int:
    """Question the meter and print what came of it. Gives the exit code.

    0: it reads well; 1: something is wrong; 2: the flags make no meter. Blocks for some seconds,
    a scan for minutes.
    """
    library = library_of(config)
    try:
        document = _registration(args)
        if args.scan or _is_unnamed(document):
            return scan_line(document["communication"], library, config.security.reach, args.scan)
        references = References(library, config.mqtt.all(), config.security.reach)
        meter = parse_meter(document, "meter_0", 0, references)
    except _UsageError as exc:
        print(f"dlm-edge probe: {exc}", file=sys.stderr)
        return 2
    except Faulty as exc:
        for fault in exc.faults:
            print(f"dlm-edge probe: {fault}", file=sys.stderr)
        return 2
    try:
        with closing(make_driver(meter, Clock(), config)) as driver:
            probe = driver.probe(meter)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 1
    found = diagnose(meter, probe, config.site.grid_capacity_kw)
    if args.json:
        print(json.dumps(render.diagnosis(found, meter), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_explained(meter, found)))
        if {finding.cause for finding in found.findings} & _MISREAD:
            print_identity(meter, library, config.security.reach)
    return 0 if found.findings[0].cause is Cause.NONE else 1


# --- Flags into a registration -------------------------------------------------------------------


def _registration(args: argparse.Namespace) -> dict[str, Any]:
    """The registration that the flags stand for; what they say beats what a file says."""
    if args.registration is not None:
        if args.target is not None:
            raise _UsageError("give either a target or --registration")
        document = _read_registration(args.registration)
    elif args.target is None:
        raise _UsageError("what is to be probed? give a target, or --registration FILE")
    else:
        protocol, communication = _target(args.target)
        document = {
            "name": args.target[:100],
            "protocol": protocol,
            "meterType": "grid",
            "communication": communication,
        }
    communication = document["communication"]
    if args.meter_type is not None:
        document["meterType"] = args.meter_type
    if args.unit is not None:
        communication["unitId"] = args.unit
    if args.template is not None:
        communication["template"] = args.template
    for assignment in args.set:
        _assign(communication, assignment)
    return document


def _read_registration(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
        document = json.loads(text)
    except (OSError, ValueError, RecursionError) as exc:
        raise _UsageError(f"{file} cannot be read: {exc}") from None
    if not isinstance(document, dict) or not isinstance(document.get("communication"), dict):
        raise _UsageError(f"{file} is no registration: it has no object `communication`")
    return document


def _target(target: str) -> tuple[str, dict[str, Any]]:
    """Protocol and the start of `communication`."""
    if re.match(r"https?://", target):
        return "http", {"url": target}
    if target.startswith("mqtt:"):
        topic = target.removeprefix("mqtt:")
        return "mqtt", {"topicPower": topic} if topic else {}
    if target.startswith("/"):
        return "modbus", {"transport": "rtu", "serialPort": target}
    host, _, port = target.rpartition(":")
    if host and port.isdigit() and (":" not in host or host.startswith("[")):
        return "modbus", {"host": host.strip("[]"), "port": int(port)}
    return "modbus", {"host": target.strip("[]")}


def _assign(communication: dict[str, Any], assignment: str) -> None:
    path, is_assignment, text = assignment.partition("=")
    if not is_assignment:
        raise _UsageError(f"--set {assignment}: give KEY=VALUE")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    *tables, name = path.split(".")
    table = communication
    for outer in tables:
        inner = table.setdefault(outer, {})
        if not isinstance(inner, dict):
            raise _UsageError(f"--set {assignment}: {outer} is not a table")
        table = inner
    table[name] = value


def _is_unnamed(document: dict[str, Any]) -> bool:
    """Whether a Modbus line is given, but nothing that says which registers to read."""
    communication = document["communication"]
    named = communication.keys() & {"registers", "template", "sunspec"}
    return document.get("protocol") == "modbus" and not named


# --- A diagnosis into text -----------------------------------------------------------------------


def _explained(meter: Meter, found: Diagnosis) -> Iterator[str]:
    yield f"{meter.line}, {meter.protocol}, judged as {meter.meter_type}"
    if isinstance(meter.communication, ModbusCommunication):
        yield f"unit {meter.communication.unit_id}"
    yield ""
    for exchange in found.exchanges:
        took = "" if exchange.round_trip_s is None else f"  ({exchange.round_trip_s * 1000:.1f} ms)"
        yield f"> {exchange.asked}{took}"
        if exchange.raw is not None:
            yield f"< {exchange.raw}"
        if exchange.error is not None:
            yield f"! {exchange.error}"
    if found.values:
        yield ""
        for quantity in QUANTITIES:
            if quantity.name in found.values:
                value = found.values[quantity.name]
                yield f"  {quantity.name:14} {value:>14.6g} {quantity.unit}".rstrip()
    for name, others in found.interpretations.items():
        if not others:
            continue
        yield ""
        yield f"{name} could also be:"
        yield from (f"  {_alternative(other)}" for other in others)
    yield ""
    for finding in found.findings:
        yield f"{finding.cause.value}: {finding.message}"


def _alternative(other: Interpretation) -> str:
    order = "" if other.type.endswith("16") else f" {other.word_order} word first"
    return (
        f"{other.value:>14.6g}  {other.type}{order} at {other.address}, scale "
        f"{float(other.scale):g}: {other.why}"
    )
