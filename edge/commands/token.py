"""`dlm-edge token`: who may use the API. A running service takes over what is changed at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge.clock import Clock
from edge.settings import Config
from edge.tokenfile import Role, check_name
from edge.tokens import Tokens

_EXAMPLES = """examples:
  dlm-edge token add anna --role admin
  dlm-edge token add prometheus --role reader
  dlm-edge token list
  dlm-edge token remove anna

Once there is one, the API asks everyone for a token: programs send it as
`Authorization: Bearer TOKEN`, and the dashboard asks for it once.
"""
_IGNORED = (
    "api.allow_unauthenticated is true, so the service asks nobody for a token; leave that key out."
)
_NONE_LEFT = {
    True: "That was the last one: everyone on this machine is let in again.",
    False: "That was the last one: the service lets nobody in; add another.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge token`."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("action", choices=("add", "list", "remove"))
    add("name", nargs="?", metavar="NAME", help="what the log calls who uses the token")
    add("--role", choices=[role.value for role in Role], help="readers look, admins change things")


def run(args: argparse.Namespace, config: Config) -> int:
    """Add, list or remove. Gives the exit code. Raises StateError.

    A new token goes to standard output, alone, and what there is to say about it to standard error.
    """
    complaint = _complaint(args)
    if complaint:
        print(f"dlm-edge token: {complaint}", file=sys.stderr)
        return 2
    tokens = Tokens(Path(config.state.dir))
    if args.action == "list":
        return _print_list(tokens)
    if args.action == "add":
        print(tokens.add(args.name, Role(args.role), Clock().unix_ms()), flush=True)
        print("Keep it well: it is not stored, and shown this once.", file=sys.stderr)
        if config.api.allow_unauthenticated:
            print(_IGNORED, file=sys.stderr)
        return 0
    token = tokens.remove(args.name)
    print(f"The token {token.name!r} is removed, and who is logged in with it is logged out.")
    if not tokens.all() and not config.api.allow_unauthenticated:
        print(_NONE_LEFT[config.api.on_loopback], file=sys.stderr)
    return 0


def _complaint(args: argparse.Namespace) -> str:
    """What is wrong with the flags together; empty if nothing."""
    if args.action == "list":
        return "list takes no NAME and no --role" if args.name or args.role else ""
    if args.name is None:
        return f"{args.action} needs a NAME"
    if args.action == "remove":
        return "remove takes no --role" if args.role else ""
    if args.role is None:
        return "add needs --role admin or --role reader"
    try:
        check_name(args.name)
    except ValueError as exc:
        return f"NAME {exc}"
    return ""


def _print_list(tokens: Tokens) -> int:
    if tokens.fault:
        print(tokens.fault, file=sys.stderr)
        return 1
    stored = tokens.all()
    width = max((len(token.name) for token in stored), default=0)
    for token in stored:
        print(f"{token.name:{width}}  {token.role.value:6}  {token.created}  {token.id}")
    if not stored:
        print(
            "There is no token; `dlm-edge token add NAME --role admin` adds one.", file=sys.stderr
        )
    return 0
