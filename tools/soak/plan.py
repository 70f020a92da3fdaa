"""What goes wrong when: the faults of a run, from its length and a seed. Pure.

A run begins quietly. Then two things go on side by side: the devices fail one or two at a time,
and one after another all that they and the service stand on. Kills come in the first part only, so
that the last process lives long enough to show what it leaks. The end is quiet again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tools.soak.devices import Device

QUIET_S = 20.0
"""At the beginning, and at the end before everybody is asked how he is."""
LEAST_S = 240.0
"""In less than that not everything happens once."""

SURROUNDINGS: dict[str, float] = {
    "kill": 0.0,
    "clock-forward": 9.0,
    "uplink-down": 12.0,
    "abuse": 12.0,
    "broker-restart": 4.0,
    "slow-disk": 8.0,
    "first-boot": 8.0,
    "churn": 1.0,
    "stuck-disk": 2.0,  # what is written then takes much longer, so that no kill may follow soon
    "uplink-frozen": 8.0,
    "clock-back": 9.0,
    "site-frozen": 5.0,
    "reload": 0.0,
    "suspend": 3.0,
    "broker-frozen": 6.0,
    "uplink-killed": 5.0,
    "restart": 0.0,
}
"""What befalls all but single devices, in the order of a round, and how long it lasts, s."""
_ENDS_THE_PROCESS = ("kill", "first-boot", "restart")
_SETTLE_S = 5.0
_DEVICES_EVERY_S = 3.0

_MODBUS = (
    *("refuse", "silent", "slow=0.4", "late=1.5", "garbage", "half", "wrong-unit"),
    *("wrong-function", "wrong-count", "short-data", "exception=4", "duplicate", "nan", "close"),
)
_FAULTS = {
    "tcp": (*_MODBUS, "wrong-transaction"),
    "rtu-over-tcp": (*_MODBUS, "bad-crc"),
    "http": ("refuse", "silent", "slow=0.4", "garbage", "half", "nan", "close", "status=503"),
    "mqtt": ("silent", "garbage", "nan", "close"),
}
"""Transport → what can be wrong there, as `Fault.parse` reads it."""


class Event(NamedTuple):
    """Something that goes wrong at_s after the start, for lasts_s. device: 0 is none."""

    at_s: float
    lasts_s: float
    kind: str
    device: int = 0


def make_plan(duration_s: float, devices: Sequence[Device], seed: int) -> list[Event]:
    """Give the events of a run, in order; the same for the same arguments."""
    end_s = duration_s - QUIET_S
    events = [*_surroundings(end_s), *_failing_devices(end_s, devices, random.Random(seed))]
    return sorted(events)


def _surroundings(end_s: float) -> Iterator[Event]:
    at_s, rounds = QUIET_S, 0
    while True:
        for kind, lasts_s in SURROUNDINGS.items():
            if rounds and kind in _ENDS_THE_PROCESS and at_s > end_s / 2:
                continue
            if at_s + lasts_s > end_s:
                return
            yield Event(at_s, lasts_s, kind)
            at_s += lasts_s + _SETTLE_S
        rounds += 1


def _failing_devices(
    end_s: float, devices: Sequence[Device], rng: random.Random
) -> Iterator[Event]:
    """On each line one fault at a time, with time to recover in between."""
    free_s = {device.line: 0.0 for device in devices}
    faults = {transport: _shuffled(kinds, rng) for transport, kinds in _FAULTS.items()}
    at_s = QUIET_S
    while True:
        at_s += _DEVICES_EVERY_S
        lasts_s = round(rng.uniform(2.0, 7.0), 1)
        if at_s + lasts_s > end_s:
            return
        waiting = [device for device in devices if free_s[device.line] <= at_s]
        if waiting:
            device = rng.choice(waiting)
            free_s[device.line] = at_s + lasts_s + 2 * _SETTLE_S
            yield Event(at_s, lasts_s, next(faults[device.transport]), device.number)


def _shuffled(kinds: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Give each once before any comes again."""
    while True:
        yield from rng.sample(kinds, len(kinds))
