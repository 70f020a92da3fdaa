"""`dlm-edge templates`: the device library, for a person."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from edge.library import Library
from edge.structure import nearest
from edge.template import Template


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge templates`."""
    parser.add_argument("name", nargs="?", help="show one template; without it, list all")


def run(args: argparse.Namespace, library: Library) -> int:
    """Print the list, or one template. Gives the exit code. Raises ConfigError for its file."""
    if args.name is None:
        return _print_list(library)
    try:
        template = library[args.name]
    except KeyError:
        hint = nearest(args.name, library) or "; `dlm-edge templates` lists them."
        print(f"No template is named {args.name!r}{hint}", file=sys.stderr)
        return 2
    print("\n".join(_described(template)))
    return 0


def _print_list(library: Library) -> int:
    listing = library.listing()
    width = max((len(template.name) for template in listing.templates), default=0)
    for template in listing.templates:
        print(f"{template.name:{width}}  {template.protocol:6}  {template.title}")
    for fault in listing.faults:
        print(fault, file=sys.stderr)
    return 2 if listing.faults else 0


def _described(template: Template) -> Iterator[str]:
    yield template.title
    yield f"  models    {', '.join(template.models)}"
    yield f"  protocol  {template.protocol}"
    yield f"  source    {template.source}"
    for name, parameter in template.parameters.items():
        default = f" (default {parameter.default!r})" if parameter.default is not None else ""
        yield f"  {name:9} {parameter.title}, like {parameter.example!r}{default}"
    for caveat in template.caveats:
        yield f"  note      {caveat}"
    yield "  fills into communication:"
    for line in json.dumps(template.communication, indent=2, ensure_ascii=False).splitlines():
        yield f"    {line}"
    if template.serial:
        yield f"  on a serial line: {json.dumps(template.serial)}"
    yield f"  registers with: {json.dumps(_example(template))}"


def _example(template: Template) -> dict[str, object]:
    """A `communication` that is complete, but for what the installer knows."""
    example: dict[str, object] = {"template": template.name}
    if template.protocol == "modbus":
        example["host"] = "192.168.1.150"
    for name, parameter in template.parameters.items():
        if parameter.default is None:
            example[name] = parameter.example
    return example
