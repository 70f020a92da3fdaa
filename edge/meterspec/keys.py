"""What the parts of a registration have in common: checks of values, and factors."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeVar

import attrs

from edge.errors import Fault
from edge.structure import camel_case, key, shown, structure_sound

T = TypeVar("T")

PATH = "communication"


def scale(value: float) -> None:
    """Check a factor."""
    if not 1e-12 <= abs(value) <= 1e12:
        raise ValueError(f"must be a factor other than 0, from 1e-12 to 1e12, not {value:g}")


def host(value: str) -> None:
    """Check that a value is a bare host name or an IP address."""
    numeric = re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]{1,15})?", value)
    if numeric and is_address(value):
        return
    if not numeric and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", value):
        return
    raise ValueError(
        f"must be a bare host name or IP address like 192.168.1.150, not {shown(value)}; "
        "the port goes into 'port'"
    )


def is_address(value: str) -> bool:
    """Tell whether a value is an IP address, not a name."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def structured(
    cls: type[T],
    document: Any,
    path: str,
    faults: list[Fault],
    stand_ins: Mapping[str, Any] | None = None,
) -> T | None:
    """Structure what is sound on one level; the faults of the rest are added under `path`."""
    keys, found = structure_sound(cls, document, camel_case, stand_ins)
    faults.extend(
        Fault(".".join(part for part in (path, fault.path) if part), fault.message)
        for fault in found
    )
    return keys


@attrs.frozen
class _ScaleKey:
    """A factor on its own."""

    scale: float = key(check=scale)


def parse_scale(value: Any, where: str, faults: list[Fault]) -> Fraction:
    """Make a factor exact; a faulty one is reported and counts as 1 meanwhile."""
    found: list[Fault] = []
    keys = structured(_ScaleKey, {"scale": value}, "", found, {"scale": 1.0})
    faults.extend(Fault(where, fault.message) for fault in found)
    return Fraction(1) if keys is None else fraction(keys.scale)


def fraction(scale: float) -> Fraction:
    """Give the factor as it was written: 0.1 is one tenth, not the binary number nearest to it."""
    return Fraction(repr(scale))
