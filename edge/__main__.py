"""The command line. Exit codes: 0 done, 1 failed while running, 2 wrong use or config."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edge import __version__
from edge.config import Config, load_config
from edge.errors import ConfigError, StateError

_CHECKOUT_CONFIG = Path(__file__).resolve().parent.parent / "config" / "edge.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="dlm-edge",
        description="Reads energy meters and says how much power is free for charging cars.",
    )
    parser.add_argument("--version", action="version", version=f"dlm-edge {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_check(commands)
    _add_simulate(commands)
    args = parser.parse_args(arguments)
    try:
        code: int = args.command(args)
        return code
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 2
    except StateError as exc:
        print(exc, file=sys.stderr)
        return 1


def _add_run(commands: Any) -> None:
    parser = commands.add_parser("run", help="run the service")
    _add_config_flags(parser)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on; 0 for a free one")
    parser.add_argument(
        "--demo",
        action="store_true",
        help="simulate a small site too; its meters are forgotten at the end, unless --state-dir "
        "says where to keep them",
    )
    parser.set_defaults(command=_run)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser("check", help="name every fault of configuration and state")
    _add_config_flags(parser)
    parser.set_defaults(command=_check)


def _add_simulate(commands: Any) -> None:
    parser = commands.add_parser("simulate", help="serve simulated meters to try things with")
    if "simulate" in sys.argv:  # the other commands need not wait for it
        from edge.simulate.command import add_arguments, run

        add_arguments(parser)
        parser.set_defaults(command=run)


def _add_config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="TOML file (in a checkout: config/edge.toml)")
    parser.add_argument("--state-dir", help="folder of state.json")


def _run(args: argparse.Namespace) -> int:
    from edge.app import demo_state_dir, run_service

    with ExitStack() as stack:
        if args.demo and args.state_dir is None:
            args.state_dir = stack.enter_context(demo_state_dir())
        run_service(_load(args), lambda: _load(args), demo=args.demo)
    return 0


def _check(args: argparse.Namespace) -> int:
    from edge.registry import load_state

    config = _load(args)
    state = load_state(Path(config.state.dir), set_aside=False)
    for notice in state.notices:
        print(notice, file=sys.stderr)
    if state.notices:
        return 2
    print(f"The configuration is sound; {len(state.meters)} meters are registered.")
    return 0


def _load(args: argparse.Namespace) -> Config:
    file = args.config
    if file is None and _CHECKOUT_CONFIG.exists():
        file = _CHECKOUT_CONFIG
    given = {
        "state.dir": args.state_dir,
        "api.host": getattr(args, "host", None),
        "api.port": getattr(args, "port", None),
    }
    flags = {path: value for path, value in given.items() if value is not None}
    return load_config(file, os.environ, flags)


if __name__ == "__main__":
    sys.exit(main())
