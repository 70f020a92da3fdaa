"""The checks of keys: what a value must be, said to people and in JSON Schema.

A check that is a `Rule` says in words of JSON Schema what it wants, too: so the description of the
API is made of the very keys that the service reads.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.structure import Check, nearest, shown


@dataclass(frozen=True)
class Rule:
    """A check that can be read: called with a value, it raises ValueError with a sentence.

    schema: what it wants, as JSON Schema; where that cannot say it, it says less, never more.
    """

    check: Check
    schema: Mapping[str, Any]

    def __call__(self, value: Any) -> None:
        self.check(value)


def rule(**schema: Any) -> Callable[[Check], Rule]:
    """Make a Rule of a check, with what it wants in words of JSON Schema."""
    return lambda check: Rule(check, schema)


def one_of(*choices: Any) -> Rule:
    """Check that a value is one of the choices."""

    @rule(enum=list(choices))
    def check(value: Any) -> None:
        if value not in choices:
            wanted = " | ".join(str(choice) for choice in choices)
            hint = nearest(value, choices) if isinstance(value, str) else ""
            raise ValueError(f"must be {wanted}, not {shown(value)}{hint}")

    return check


def between(low: float, high: float, unit: str = "") -> Rule:
    """Check that a number lies in low..high, both allowed."""
    tail = f" {unit}" if unit else ""
    said = {"description": unit} if unit else {}

    @rule(minimum=low, maximum=high, **said)
    def check(value: Any) -> None:
        if not low <= value <= high:
            raise ValueError(f"must be {low:,} to {high:,}{tail}, not {shown(value)}")

    return check


_PRINTABLE = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$"


def text(longest: int) -> Rule:
    """Check that a string is printable, not blank and at most `longest` characters."""

    @rule(type="string", minLength=1, maxLength=longest, pattern=_PRINTABLE)
    def check(value: Any) -> None:
        if not value.strip():
            raise ValueError("must not be empty")
        if len(value) > longest:
            raise ValueError(f"must be at most {longest} characters, not {len(value)}")
        if not value.isprintable():
            raise ValueError("must be printable text without line breaks or control characters")

    return check


@rule(type="string", minLength=1, maxLength=253, pattern="^[A-Za-z0-9_.:%-]+$")
def host(value: str) -> None:
    """Check that a value is a bare host name or an IP address."""
    numeric = re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]{1,15})?", value)
    if numeric and is_address(value):
        return
    if not numeric and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", value):
        return
    given = "" if "@" in value else f", not {shown(value)}"  # what stands before it is secret
    raise ValueError(
        f"must be a bare host name or IP address like 192.168.1.150{given}; the port goes into "
        "'port'"
    )


def is_address(value: str) -> bool:
    """Tell whether a value is an IP address, not a name."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
