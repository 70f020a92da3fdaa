"""The command line. Exit codes: 0 done, 1 failed while running, 2 wrong use or config."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import __version__
from edge.errors import ConfigError, StateError

if TYPE_CHECKING:
    from edge.settings import Config

_CHECKOUT_CONFIG = Path(__file__).resolve().parent.parent / "config" / "edge.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    _open_standard_files()
    purposes = "\n".join(f"  {name:10}{purpose}" for name, (purpose, _) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dlm-edge",
        description="Reads energy meters and says how much power is free for charging cars.",
        epilog=f"commands, each with its own --help:\n{purposes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dlm-edge {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    parser.add_argument("rest", metavar="...", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args(arguments)
    purpose, command = COMMANDS[args.command]
    description = f"{purpose[0].upper()}{purpose[1:]}."
    own_parser = argparse.ArgumentParser(prog=f"dlm-edge {args.command}", description=description)
    try:
        return command(own_parser, args.rest)
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 2
    except StateError as exc:
        print(exc, file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has enough, as in `dlm-edge templates | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _open_standard_files() -> None:
    """Open what the caller left closed of 0, 1 and 2, lest a socket gets the log's number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is fd


# --- Commands: each gets its parser, to declare its flags, and its arguments ----------------------
# Each imports what it needs by itself, so that none waits for another's imports.


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    # Until the service is there to be stopped. Not sys.exit: what runs meanwhile, such as an
    # import, may take the exception for a failure of its own and go on.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _add_config_flags(parser)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on; 0 for a free one")
    parser.add_argument(
        "--demo",
        action="store_true",
        help="simulate a small site too; its meters are forgotten at the end, unless --state-dir "
        "says where to keep them",
    )
    args = parser.parse_args(arguments)
    from edge.app import run_service
    from edge.tokens import Tokens, require_token_beyond_loopback

    notice = ""
    with ExitStack() as stack:
        if args.demo and args.state_dir is None:
            import tempfile

            # A signal before the service runs, or a bug, leaves it behind.
            folder = tempfile.TemporaryDirectory(prefix="dlm-edge-demo-")
            args.state_dir = stack.enter_context(folder)
            notice = (
                f"All that this demo stores is in {args.state_dir}, whatever `state.dir` says, and "
                "is removed at its end; give --state-dir to keep it elsewhere."
            )
        config = _load(args)
        require_token_beyond_loopback(config.api, Tokens(Path(config.state.dir)))
        run_service(config, lambda: _load(args), demo=args.demo, notice=notice)
    return 0


def _check(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    _add_config_flags(parser)
    parser.add_argument(
        "--can-start",
        action="store_true",
        help="exit with 0 also where the service would start in spite of what is said",
    )
    args = parser.parse_args(arguments)
    from edge.library import library_of
    from edge.meterspec import References
    from edge.registry import load_state
    from edge.tokens import Tokens, require_token_beyond_loopback

    config = _load(args)
    tokens = Tokens(Path(config.state.dir))
    require_token_beyond_loopback(config.api, tokens)
    if config.api.cert_file and config.api.key_file:
        from edge.api.tls import make_context

        make_context(config.api.cert_file, config.api.key_file)
    try:
        library = library_of(config)
        references = References(library, config.mqtt.all(), config.security.reach)
        state = load_state(Path(config.state.dir), references, set_aside=False)
    except StateError as exc:
        print(exc, file=sys.stderr)
        return 2
    faults = [*state.notices, *library.listing().faults, *filter(None, [tokens.fault])]
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        return 0 if args.can_start else 2
    print(f"The configuration is sound; {len(state.meters)} meters are registered.")
    return 0


def _simulate(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from edge.simulate.command import add_arguments, run

    add_arguments(parser)
    return run(parser.parse_args(arguments))


def _templates(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from edge.commands.templates import add_arguments, run
    from edge.library import library_of

    _add_config_flags(parser)
    add_arguments(parser)
    args = parser.parse_args(arguments)
    return run(args, library_of(_load(args)))


def _configured(module: str) -> Callable[[argparse.ArgumentParser, Sequence[str]], int]:
    """A command of a module in `edge.commands`, which is given the configuration."""

    def command(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
        commands = import_module(f"edge.commands.{module}")
        _add_config_flags(parser)
        commands.add_arguments(parser)
        args = parser.parse_intermixed_args(arguments)
        args.config = _config_file(args)
        return int(commands.run(args, _load(args)))

    return command


def _restore(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """The configuration that counts is the one that is restored."""
    from edge.commands import restore

    _add_config_flags(parser)
    restore.add_arguments(parser)
    args = parser.parse_args(arguments)

    def load(file: Path | None) -> Config:
        return _load(argparse.Namespace(**{**vars(args), "config": file}))

    return restore.run(args, _config_file(args), load)


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser, Sequence[str]], int]]] = {
    "run": ("run the service", _run),
    "status": ("say how the running service is", _configured("status")),
    "check": ("name every fault of configuration and state", _check),
    "probe": ("question a meter, and explain what is wrong with it", _configured("probe")),
    "templates": ("list the device library", _templates),
    "token": ("add, list and remove tokens, which the API asks for", _configured("token")),
    "cert": ("make a certificate for HTTPS to begin with", _configured("cert")),
    "export": ("write what was recorded to a file", _configured("export")),
    "import": ("take what was exported back into the journal", _configured("imports")),
    "backup": ("write state, configuration and recordings to a file", _configured("backup")),
    "restore": ("put a backup into place, here or on a new controller", _restore),
    "simulate": ("serve simulated meters to try things with", _simulate),
}
"""Name of a command → its purpose, and its function, which gives the exit code."""


def _add_config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="TOML file (in a checkout: config/edge.toml)")
    parser.add_argument("--state-dir", help="folder of state.json")


def _load(args: argparse.Namespace) -> Config:
    from edge.config import load_config

    given: dict[str, Any] = {
        "state.dir": args.state_dir,
        "api.host": getattr(args, "host", None),
        "api.port": getattr(args, "port", None),
    }
    flags = {path: value for path, value in given.items() if value is not None}
    return load_config(_config_file(args), os.environ, flags)


def _config_file(args: argparse.Namespace) -> Path | None:
    file: Path | None = args.config
    if file is None and _CHECKOUT_CONFIG.exists():
        return _CHECKOUT_CONFIG
    return file


if __name__ == "__main__":
    sys.exit(main())
