"""`dlm-edge status`: how the service that runs here is, as a table.

It is the table of `/api/system`, of which the dashboard's page System tells more.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from edge.commands.client import Client, ServiceError, add_port_flag
from edge.settings import Config

_EXIT_CODES = """exit code: 0 if all is well, 1 if anything is wrong or the service does not answer.
"""
_COLOURS = {"ok": "32", "warning": "33", "fault": "31"}
"""Source: ECMA-48, 8.3.117, SGR: green, yellow, red."""
_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge status`."""
    parser.epilog = _EXIT_CODES
    add_port_flag(parser)
    parser.add_argument("--json", action="store_true", help="print all of `/api/system` as JSON")


def run(args: argparse.Namespace, config: Config) -> int:
    """Print how the service is. Gives the exit code."""
    try:
        system = Client(config).data("/api/system")
        rows = [(row["name"], row["state"], row["text"]) for row in system["health"]]
        notices = _notices(system)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyError, TypeError):
        print("The service is of another version than this command; restart it.", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(system, indent=1, ensure_ascii=False))
    else:
        _print_table(rows, coloured=sys.stdout.isatty())
        for notice in notices:
            print(textwrap.fill(f"Note: {notice}", _WIDTH, subsequent_indent="  "))
    return 0 if all(state == "ok" for _, state, _ in rows) else 1


def _notices(system: Mapping[str, Any]) -> list[str]:
    """What was mended at the start or set aside since."""
    journal = system["journal"] or {"notices": []}
    return [*system["notices"], *journal["notices"]]


def _print_table(rows: Sequence[tuple[str, str, str]], *, coloured: bool) -> None:
    name_width = max((len(name) for name, _, _ in rows), default=0)
    state_width = max(map(len, _COLOURS))
    indent = " " * (name_width + state_width + 4)
    for name, state, text in rows:
        shown = f"{state:{state_width}}"
        if coloured:
            shown = f"\x1b[{_COLOURS.get(state, '0')}m{shown}\x1b[0m"
        first, *rest = textwrap.wrap(text, _WIDTH - len(indent)) or [""]
        print(f"{name:{name_width}}  {shown}  {first}")
        for line in rest:
            print(f"{indent}{line}")
