"""What a meter at a site can measure, as far as physics tells: possible, usual, and in agreement.

The limits of what is possible are wide on purpose, since what lies outside of them is wrong beyond
doubt: no building draws 20 times its grid connection, no mains runs at 0.01 Hz.

    power        within 20 times the grid capacity: a site may swing far, but a value in W that is
                 taken for kW is 1000 times too large. In the direction that makes power seem free
                 (production of `solar`, export of `grid` and `building`) within 2 times, since
                 there a wrong value does harm.
    current      what that makes at 100 V.
    energy       what the whole grid capacity makes in 50 years; a counter does not fall below 0.
    voltage      50..1000 V. Low voltage ends at 1000 V AC (IEC 60038), which includes 690 V
                 industrial networks; 50 V is below the 57.7 V of a phase behind 100 V voltage
                 transformers, and above a 230 V or 400 V that is 10 times too small.
    frequency    45..65 Hz: 50 Hz and 60 Hz networks with room for a generator; EN 50160 keeps an
                 interconnected 50 Hz network within 47..52 Hz at all times.
    powerFactor  -1..1, and 0.01 more for the meter's own rounding.

Two cases of no voltage are real: an inverter asleep at night, and one dead phase beside a live one.

A voltage may be between lines or to neutral, a current that of one phase or the sum of three, and
flows in and out over different phases cancel out. Values are in the quantities' units: kW, kWh, V,
A, Hz; `phase` is `L1` to `L3`, or empty for the total.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from edge.model import CONSUMING_TYPES

PHASE_SUFFIXES = ("L1", "L2", "L3")

_POWERS = frozenset(
    ("power", "powerExport", "powerL1", "powerL2", "powerL3", "reactivePower", "apparentPower")
)
_ENERGIES = frozenset(("energy", "energyExport"))
_PHASE_VOLTAGES = tuple(f"voltage{phase}" for phase in PHASE_SUFFIXES)

POSSIBLE_LOAD = 20
"""Largest power, in grid capacities."""
FREEING_LOAD = 2
"""Largest power in the direction that raises what is free, in grid capacities."""
_LIKELY_LOAD = 1.5
"""Beyond so many grid capacities nothing is usual."""
_SERVICE_LIFE_H = 50 * 8760
_LEAST_V = 50.0
_MOST_V = 1000.0
_STRAY_V = 10.0
"""What a phase may still show behind a blown fuse, V."""
_LEAST_MAINS_KV = 0.1
_NOMINAL_V = (120.0, 230.0, 400.0)
_IDLE_KW = 0.1
"""Below it meters round too coarsely to compare P with U·I."""
_BUSY_KVA = 1.0
"""A current that makes more than this hardly ever makes no active power at all."""
_LEAST_FACTOR = 0.3
"""A power factor below it is that of a motor without load, or of flows that nearly cancel out."""
_ROUNDING = 1.05
"""By so much P may seem to be more than U·I, which are not read at the same moment."""


def family(quantity: str) -> str:
    """Name the quantity without its phase; all powers are one family, and so are both energies."""
    if quantity in _POWERS:
        return "power"
    return "energy" if quantity in _ENERGIES else quantity.rstrip("L123")


@dataclass(frozen=True)
class Site:
    """Where a meter stands: its type, and what the grid connection can carry."""

    meter_type: str
    grid_capacity_kw: float

    @property
    def most_kw(self) -> float:
        """The largest power that is possible at all."""
        return POSSIBLE_LOAD * self.grid_capacity_kw

    def is_possible(self, quantity: str, values: Mapping[str, float]) -> bool:
        """Whether a value can be true at all, the others given."""
        low, high = self.limits(quantity)
        if low <= values[quantity] <= high:
            return True
        return self._is_asleep(quantity, values) or _is_dead_phase(quantity, values)

    def _is_asleep(self, quantity: str, values: Mapping[str, float]) -> bool:
        """Whether it is the zero of an inverter without sun, which says of no power but 0."""
        return (
            self.meter_type == "solar"
            and family(quantity) in ("voltage", "frequency")
            and values[quantity] == 0.0
            and values.get("power", 0.0) == 0.0
        )

    def limits(self, quantity: str) -> tuple[float, float]:
        """Give the least and the largest value that are possible by themselves."""
        return _limits(self, quantity)

    def usualness(self, quantity: str, value: float) -> float | None:
        """Give points for how usual a value is, about -1 to 2; None for one not to be believed."""
        kind, size = family(quantity), abs(value)
        low, high = self.limits(quantity)
        likely_kw = _LIKELY_LOAD * self.grid_capacity_kw
        least, most = {
            "power": (0.001, likely_kw),
            "energy": (0.1, high),
            "voltage": (100.0, 480.0),
            "current": (0.01, likely_kw / _LEAST_MAINS_KV),
            "frequency": (low, high),
            "powerFactor": (0.01, 1.0),
        }[kind]
        if not (least <= size <= most and low <= value <= high):
            return None
        if kind == "voltage":
            return 2.0 if any(abs(value / usual - 1) <= 0.1 for usual in _NOMINAL_V) else -1.0
        if kind == "frequency":
            return 2.0 if min(abs(value - 50.0), abs(value - 60.0)) <= 0.6 else -1.0
        if kind == "powerFactor":
            return 0.5 if size >= 0.5 else -1.0
        return 0.0


@lru_cache(maxsize=256)  # asked for with each reading
def _limits(site: Site, quantity: str) -> tuple[float, float]:
    most_kw = site.most_kw
    freeing_kw = FREEING_LOAD * site.grid_capacity_kw
    if quantity == "power" and site.meter_type in CONSUMING_TYPES:
        return -freeing_kw, most_kw
    if quantity == "power" and site.meter_type == "solar":
        return -most_kw, freeing_kw
    return {
        "power": (-most_kw, most_kw),
        "energy": (0.0, site.grid_capacity_kw * _SERVICE_LIFE_H),
        "voltage": (_LEAST_V, _MOST_V),
        "current": (-most_kw / _LEAST_MAINS_KV, most_kw / _LEAST_MAINS_KV),
        "frequency": (45.0, 65.0),
        "powerFactor": (-1.01, 1.01),
    }[family(quantity)]


def _is_dead_phase(quantity: str, values: Mapping[str, float]) -> bool:
    """Whether it is the voltage of a phase behind a blown fuse, and no wrong address."""
    another_lives = any(_LEAST_V <= values.get(name, 0.0) <= _MOST_V for name in _PHASE_VOLTAGES)
    return quantity in _PHASE_VOLTAGES and 0.0 <= values[quantity] <= _STRAY_V and another_lives


def apparent_kva(values: Mapping[str, float], phase: str) -> tuple[float, float] | None:
    """Give the least and the most apparent power that voltage and current can mean, kVA.

    None where they are not known, or the voltage is none.
    """
    if not phase:
        parts = [apparent_kva(values, each) for each in PHASE_SUFFIXES]
        known = [part for part in parts if part is not None]
        if len(known) == len(PHASE_SUFFIXES):
            return math.fsum(low for low, _ in known), math.fsum(high for _, high in known)
    voltage = values.get(f"voltage{phase}", values.get("voltage"))
    current = values.get(f"current{phase}")
    if voltage is None or current is None or not _LEAST_V <= voltage <= _MOST_V:
        return None
    one = abs(voltage * current) / 1000
    return one / math.sqrt(3), one if phase else 3 * one


def active_kw(values: Mapping[str, float], phase: str) -> tuple[float, float] | None:
    """Give the least and the most active power that goes with it: U·I·cos φ, kW."""
    bounds = apparent_kva(values, phase)
    if bounds is None:
        return None
    if _has_factor(values):
        factor = abs(values["powerFactor"])
        return factor * bounds[0], factor * bounds[1]
    # Flows over different phases may cancel out, but hardly to a hundredth.
    return 0.01 * bounds[0], bounds[1]


def _has_factor(values: Mapping[str, float]) -> bool:
    return 0.1 <= abs(values.get("powerFactor", 0.0)) <= 1.0


def agrees(values: Mapping[str, float], phase: str) -> bool | None:
    """Whether P is what U·I·cos φ can be; None where that cannot be told."""
    power_kw, bounds = values.get(f"power{phase}"), active_kw(values, phase)
    if power_kw is None or bounds is None or max(abs(power_kw), bounds[1]) < _IDLE_KW:
        return None
    least, most = bounds
    if power_kw == 0.0 and not _has_factor(values):
        # Little may all be reactive, or flow in and out over different phases.
        return False if _is_busy(values, phase) else None
    return 0.7 * least <= abs(power_kw) <= 1.3 * most + _IDLE_KW / 2


def is_likely(values: Mapping[str, float], phase: str) -> bool | None:
    """Whether P is what U·I usually makes, |cos φ| from 0.3 to 1; None where it cannot be told.

    What is likely agrees, too, but not all that agrees is likely.
    """
    verdict, bounds = agrees(values, phase), apparent_kva(values, phase)
    if not verdict or bounds is None or _has_factor(values):
        return verdict
    least, most = bounds
    power_kw = abs(values[f"power{phase}"])
    return _LEAST_FACTOR * least <= power_kw <= _ROUNDING * most + _IDLE_KW / 2


def _is_busy(values: Mapping[str, float], phase: str) -> bool:
    bounds = apparent_kva(values, phase)
    return bounds is not None and bounds[0] > _BUSY_KVA
