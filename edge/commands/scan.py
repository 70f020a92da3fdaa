"""`dlm-edge probe --scan`: which units answer on a line, and what they are, with a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

from edge.clock import Clock
from edge.communication import ModbusCommunication
from edge.drivers.modbus.scan import Found, ScanProgress, scan
from edge.errors import LineError
from edge.library import Library
from edge.meterspec import References, parse_meter
from edge.meterspec.modbus import line_settings
from edge.model import Meter
from edge.reach import Reach

_BAR = 30


def scan_line(
    communication: Mapping[str, Any], library: Library, reach: Reach, every_unit: bool
) -> int:
    """Scan the line that `communication` leads to, and print who answers. Gives the exit code.

    reach: which addresses may be connected to. every_unit: all unit ids, not only the one given.
    Blocks for minutes. Raises Faulty.
    """
    line = _line(communication)
    endpoint = line.endpoint
    units = range(1, 248) if every_unit else (line.unit_id,)
    # That of a meter, where none is given, would be long for units that are not there.
    timeout_s = line.timeout_s if "timeout" in communication else None
    templates = library.listing().templates
    answered = 0
    try:
        for found in scan(
            endpoint,
            Clock(),
            units=units,
            timeout_s=timeout_s,
            templates=templates,
            reach=reach,
            progress=_show_progress,
        ):
            answered += 1
            _clear_progress()
            print("\n".join(_described(found)), flush=True)
    except KeyboardInterrupt:
        _clear_progress()
        print("Stopped.", file=sys.stderr)
        return 1
    except LineError as exc:
        _clear_progress()
        print(f"{exc.cause.value}: {exc}")
        return 1
    _clear_progress()
    if not answered:
        print(f"No unit answers on {endpoint.name}; check wiring, power and line settings.")
        return 1
    return 0


def print_identity(meter: Meter, library: Library, reach: Reach) -> None:
    """Say what model a Modbus meter is, where its registers tell and the library knows."""
    communication = meter.communication
    if not isinstance(communication, ModbusCommunication):
        return
    templates = library.listing().templates
    units, line = (communication.unit_id,), communication.endpoint
    with (
        suppress(LineError),
        closing(
            scan(
                line,
                Clock(),
                units=units,
                bauds=(),
                parities=(),
                templates=templates,
                reach=reach,
            )
        ) as found,
    ):
        for unit in found:
            if unit.templates:
                print("By its own registers it is:")
                print("\n".join(_described(unit)))


def _line(communication: Mapping[str, Any]) -> ModbusCommunication:
    """How to speak to the units by a `communication`, which need not say what is read."""
    line = {name: value for name, value in communication.items() if name != "template"}
    document = {
        "name": "scan",
        "protocol": "modbus",
        "meterType": "zone",
        "communication": {"registers": {"power": 0}, **line},
    }
    parsed = parse_meter(document, "meter_0", 0, References()).communication
    assert isinstance(parsed, ModbusCommunication)
    return parsed


def _described(found: Found) -> list[str]:
    line = found.settings
    on = ""
    where: dict[str, Any] = {"host": line.host, "port": line.port}
    if line.transport == "rtu":
        on = f" at {line_settings(line)}"
        where = {
            "serialPort": line.serial_port,
            "baudrate": line.baudrate,
            "parity": line.parity,
            "stopbits": line.stopbits,
            "bytesize": line.bytesize,
        }
    if line.transport != "tcp":
        where = {"transport": line.transport, **where}
    lines = [f"unit {found.unit_id}{on}: {found.description}"]
    return lines + [
        f"  {json.dumps({'template': name, **where, 'unitId': found.unit_id})}"
        for name in found.templates
    ]


def _show_progress(progress: ScanProgress) -> None:
    if not sys.stderr.isatty():
        return
    done = progress.done * _BAR // max(1, progress.total)
    bar = "#" * done + "." * (_BAR - done)
    baudrate = progress.settings.baudrate
    at = f" at {baudrate} baud" if baudrate else ""
    what = f"unit {progress.unit_id}{at}, {progress.found} found"
    print(f"\r[{bar}] {what}\x1b[K", end="", file=sys.stderr, flush=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
