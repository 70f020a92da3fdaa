"""What the parts of a registration have in common: factors, and its faults under its paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, TypeVar

import attrs

from edge.checks import rule
from edge.errors import Fault
from edge.model import QUANTITY_NAMES
from edge.reach import Reach
from edge.structure import camel_case, key, structure_sound

T = TypeVar("T")

PATH = "communication"

SCALE_KEYS = {f"{name}Scale": name for name in QUANTITY_NAMES}
"""`powerL1Scale` → `powerL1`."""

_SMALLEST, _LARGEST = 1e-12, 1e12


@rule(
    type="number",
    anyOf=[
        {"minimum": _SMALLEST, "maximum": _LARGEST},
        {"minimum": -_LARGEST, "maximum": -_SMALLEST},
    ],
)
def scale(value: float) -> None:
    """Check a factor."""
    if not _SMALLEST <= abs(value) <= _LARGEST:
        raise ValueError(f"must be a factor other than 0, from 1e-12 to 1e12, not {value:g}")


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


def reach_faults(host: str, where: str, reach: Reach | None) -> Iterator[Fault]:
    """Say why a host that is a literal address may not be connected to."""
    refusal = reach.refusal(host) if reach is not None else None
    if refusal is not None:
        yield Fault(where, f"{host} {refusal}")


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
