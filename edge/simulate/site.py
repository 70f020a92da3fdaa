"""A small site over a day: what its meters would show at any moment.

A pure function of time, so that it is the same after a restart and a test can leap through a day.

The site's connection feeds three things side by side: the main building, a workshop beside it,
and the solar array; the server room is inside the main building. Main building and workshop
measure consumption only, and not each other's, so that grid capacity + solar - (main building +
workshop) counts each kilowatt once. A `grid` meter at the connection itself would see the solar
power already taken off, and the sum would count it twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

DAY_S = 86_400
HOUR_S = 3_600
STEP_S = 30
STEPS = DAY_S // STEP_S


class Profile:
    """A value over a day that repeats: `knots` STEP_S apart, straight lines between them."""

    def __init__(self, knots: Sequence[float]) -> None:
        self._knots = (*knots, knots[0])
        pairs = zip(self._knots, self._knots[1:], strict=False)
        self._sums = (0.0, *accumulate((a + b) / 2 * STEP_S for a, b in pairs))

    def at(self, time_s: float) -> float:
        """Give the value time_s after some midnight."""
        step, rest_s = divmod(time_s % DAY_S, STEP_S)
        before, after = self._knots[int(step) : int(step) + 2]
        return before + (after - before) * rest_s / STEP_S

    def integral(self, time_s: float) -> float:
        """Give the exact integral from time 0 to time_s, in value times seconds."""
        days, of_day_s = divmod(time_s, DAY_S)
        step, rest_s = divmod(of_day_s, STEP_S)
        partial = (self._knots[int(step)] + self.at(time_s)) / 2 * rest_s
        return days * self._sums[-1] + self._sums[int(step)] + partial


@dataclass(frozen=True)
class Supply:
    """The grid's voltage (V, phase to neutral) and frequency (Hz), common to a site."""

    voltage: Profile
    frequency: Profile


@dataclass(frozen=True)
class SimulatedMeter:
    """What one three-phase meter measures.

    power: kW over a day, times `scale`; never negative. shares: of the power on L1, L2, L3; their
    sum is 1. power_factor: at full load; a lightly loaded building's is worse by up to pf_droop.
    """

    supply: Supply
    power: Profile
    full_kw: float
    scale: float = 1.0
    shares: tuple[float, float, float] = (0.36, 0.33, 0.31)
    power_factor: float = 0.97
    pf_droop: float = 0.06
    energy_start_kwh: float = 0.0

    def quantities(self, time_s: float) -> dict[str, float]:
        """Give every quantity at time_s (seconds since a midnight), each in its own unit.

        Voltage and current are means over the phases: power = sum of U * I * power factor per
        phase, very nearly 3 * voltage * current * power factor.
        """
        drawn_kw = self.power.at(time_s)
        droop = self.pf_droop * (1 - min(1.0, drawn_kw / self.full_kw))
        factor = self.power_factor - droop if drawn_kw > 0 else 1.0
        power_kw = drawn_kw * self.scale
        mean_v = self.supply.voltage.at(time_s)
        volts = (mean_v + 0.4, mean_v - 0.3, mean_v - 0.1)
        powers_kw = [share * power_kw for share in self.shares]
        amperes = [kw * 1000 / (volt * factor) for kw, volt in zip(powers_kw, volts, strict=True)]
        apparent_kva = power_kw / factor
        return {
            "power": power_kw,
            "powerL1": powers_kw[0],
            "powerL2": powers_kw[1],
            "powerL3": powers_kw[2],
            "energy": self.energy_kwh(time_s),
            "voltage": mean_v,
            "voltageL1": volts[0],
            "voltageL2": volts[1],
            "voltageL3": volts[2],
            "current": sum(amperes) / 3,
            "currentL1": amperes[0],
            "currentL2": amperes[1],
            "currentL3": amperes[2],
            "powerFactor": factor,
            "frequency": self.supply.frequency.at(time_s),
            "reactivePower": apparent_kva * math.sqrt(1 - factor * factor),
            "apparentPower": apparent_kva,
        }

    def energy_kwh(self, time_s: float) -> float:
        """Give the counter: the integral of power since time 0, and what it showed then."""
        return self.energy_start_kwh + self.scale * self.power.integral(time_s) / HOUR_S


class Site:
    """The meters of the site; equal seeds give equal days."""

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(seed)
        supply = Supply(
            voltage=Profile(_noise(rng, around=230.5, spread=1.2, memory=0.98)),
            frequency=Profile(_noise(rng, around=50.0, spread=0.015, memory=0.95)),
        )
        self.main_building = SimulatedMeter(
            supply, Profile(_office(rng)), full_kw=35, energy_start_kwh=15_420.3
        )
        self.workshop = SimulatedMeter(
            supply,
            Profile(_workshop(rng)),
            full_kw=12,
            shares=(0.33, 0.34, 0.33),
            power_factor=0.9,
            pf_droop=0.15,
            energy_start_kwh=4_871.0,
        )
        self.solar = SimulatedMeter(
            supply,
            Profile(_solar(rng)),
            full_kw=34,
            shares=(1 / 3, 1 / 3, 1 / 3),
            power_factor=0.999,
            pf_droop=0.01,
            energy_start_kwh=61_204.9,
        )
        self.server_room = SimulatedMeter(
            supply,
            Profile(_server_room(rng)),
            full_kw=5,
            shares=(0.5, 0.3, 0.2),
            pf_droop=0.03,
            energy_start_kwh=9_310.6,
        )


def _noise(rng: random.Random, around: float, spread: float, memory: float) -> list[float]:
    """Give a day of values that wander; never further than three times `spread` from `around`."""
    values, offset = [], 0.0
    for _ in range(STEPS):
        offset = memory * offset + rng.gauss(0, spread * math.sqrt(1 - memory * memory))
        values.append(around + max(-3 * spread, min(3 * spread, offset)))
    return values


def _rise(hour: float, middle: float, width: float) -> float:
    """Give a smooth step from 0 to 1 around the hour `middle`."""
    return 1 / (1 + math.exp(-(hour - middle) / width))


def _hours() -> list[float]:
    return [step * STEP_S / HOUR_S for step in range(STEPS)]


def _office(rng: random.Random) -> list[float]:
    """People come at seven, some go out at noon, the last leave in the evening."""
    knots = []
    for hour, noise in zip(_hours(), _noise(rng, 0, 0.8, 0.9), strict=True):
        present = _rise(hour, 7.2, 0.4) * (1 - _rise(hour, 18, 0.6))
        lunch = 4 * math.exp(-(((hour - 12.3) / 0.5) ** 2))
        knots.append(9 + 22 * present - lunch * present + noise)
    return knots


def _workshop(rng: random.Random) -> list[float]:
    """Machines that run for minutes at a time, from seven to four."""
    knots, machines_kw, steps_left = [], 0.0, 0
    for hour in _hours():
        if steps_left == 0:
            machines_kw = rng.choice((0.0, 2.2, 4.0, 7.5, 9.7))
            steps_left = rng.randrange(4, 24)
        steps_left -= 1
        knots.append(0.8 + (machines_kw if 7 <= hour < 16 else 0) + rng.uniform(0, 0.1))
    return knots


def _solar(rng: random.Random) -> list[float]:
    """A day with clouds: nothing before six and after eight in the evening."""
    knots = []
    for hour, cloud in zip(_hours(), _noise(rng, 0.25, 0.25, 0.97), strict=True):
        height = math.sin(math.pi * (hour - 6) / 14) if 6 < hour < 20 else 0.0
        knots.append(32 * height**1.3 * (1 - max(0.0, min(0.8, cloud))))
    return knots


def _server_room(rng: random.Random) -> list[float]:
    """Computers all day, and a cooler that comes and goes every twenty minutes."""
    return [3.1 + (1.1 if hour * 3 % 1 < 0.4 else 0) + rng.uniform(0, 0.15) for hour in _hours()]
