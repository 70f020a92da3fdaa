"""What a check says. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tools.soak.facts import Facts

DETAILS = 8
"""So many faults are told one by one."""


class Verdict(NamedTuple):
    """What a check found. ok: None where it is only to be told. details: the first few faults."""

    name: str
    measured: str
    wanted: str
    ok: bool | None
    details: Sequence[str] = ()


Check = Callable[[Facts], Verdict]


def verdict_of(name: str, faults: Iterable[str], measured: str, wanted: str) -> Verdict:
    """Give the verdict of a check that allows no fault. measured: `{}` is how many there are."""
    found = list(faults)
    return Verdict(name, measured.format(len(found)), wanted, not found, found[:DETAILS])


def at(facts: Facts, mono_s: float) -> str:
    """Say when something was, as time since the beginning."""
    return f"{mono_s - facts.begun_s:.1f} s"
