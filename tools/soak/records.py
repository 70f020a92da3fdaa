"""What is noted of a run while it goes on. Pure. Times are seconds of the monotonic clock."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from edge.times import parse_time
from tools.soak.devices import signature


class Served(NamedTuple):
    """An answer or message of a device, as it was made."""

    mono_s: float
    device: int
    serial: int
    power_kw: float
    energy_kwh: float


class Recorded(NamedTuple):
    """A reading as it was kept, or sent on. device: 0 where a value is missing."""

    unix_ms: int
    meter_id: str
    device: int
    serial: int
    power_kw: float
    energy_kwh: float
    suspect: bool = False


class Shown(NamedTuple):
    """A meter's values as they were given at mono_s; live: whether they were said to be."""

    mono_s: float
    meter_id: str
    live: bool
    device: int
    serial: int
    power_kw: float


class Load(NamedTuple):
    """The load status, asked for at from_s and given by to_s."""

    from_s: float
    to_s: float
    available_kw: float
    quality: str


class Unanswered(NamedTuple):
    """A question without a good answer."""

    mono_s: float
    reason: str


class Sample(NamedTuple):
    """What the process costs. life: its number, from 1. took_s: the three questions of a round.

    pss_mb: all memory, what is shared split among those who share it, so that it changes with them.
    own_mb: anonymous memory, of which nobody else has a share: heaps and stacks, not libraries.
    waited_s: what the thread that waited longest for a processor did since the sample before.
    lateness: ticks so far that were at most so many s late. metrics: sums over labels, by name.
    """

    mono_s: float
    life: int
    pss_mb: float
    own_mb: float
    files: int
    threads: int
    cpu_s: float
    disk_bytes: int
    took_s: float
    waited_s: float
    lateness: Mapping[float, int]
    metrics: Mapping[str, float]


def steps(samples: Sequence[Sample]) -> Iterator[tuple[Sample, Sample]]:
    """Give samples side by side, of one process."""
    return ((before, after) for before, after in pairwise(samples) if before.life == after.life)


class Window(NamedTuple):
    """A fault was there from from_s to to_s. devices: whose readings it may cost."""

    from_s: float
    to_s: float
    kind: str
    devices: frozenset[int]


class Offset(NamedTuple):
    """From mono_s on the wall clock was offset_s off; trusted: the kernel held it for set."""

    mono_s: float
    offset_s: float
    trusted: bool


class Late(NamedTuple):
    """The machine woke a program at mono_s, late_s too late."""

    mono_s: float
    late_s: float


@dataclass
class Life:
    """One process. ready_s: when it first said so; 0 while it did not.

    end: how it was ended, `killed` or `stopped`; "" while it runs. ended_s: when it was told to
    end, which took took_s. code: its exit code.
    """

    started_s: float
    ready_s: float = 0.0
    ended_s: float = 0.0
    end: str = ""
    code: int | None = None
    took_s: float = 0.0


@dataclass(frozen=True)
class End:
    """How it was in the end. settled_s: how long until all was well; None if it never was.

    faults: what still was not. broken: files that the service set aside. integrity: SQLite's word.
    """

    settled_s: float | None
    faults: Sequence[str]
    broken: Sequence[str]
    integrity: str


def read_export(lines: Iterable[str]) -> Iterator[Recorded]:
    """Give the readings of a CSV that `dlm-edge export` wrote."""
    for row in csv.DictReader(lines):
        values = [row[name] for name in ("power_kw", "energy_kwh", "voltage_v", "current_a")]
        known = all(values)
        device, serial = signature(float(values[2]), float(values[3])) if known else (0, 0)
        power_kw, energy_kwh = (float(values[0]), float(values[1])) if known else (0.0, 0.0)
        suspect = row["quality"] == "suspect"
        unix_ms = parse_time(row["timestamp"])
        yield Recorded(unix_ms, row["meter_id"], device, serial, power_kw, energy_kwh, suspect)
