"""How much power is free for charging, computed so that a fault can only lower the answer.

    available = grid capacity + PV production - building consumption

`grid` and `building` meters add up as consumption, `solar` meters as production; a `zone` meter
informs and does not count. So each kilowatt has to be measured once: a `grid` meter that sees the
consumption less the solar power needs no `solar` meter beside it.

Cars draw what this says, so each rule below keeps one promise: a meter that goes silent, ages,
errs, turns suspect or stops giving power never makes more power free than there was the moment
before.

A dead consumer counts as the largest of what is known of it: its `maxPower`, the last power it
gave, and zero. The last power matters because `maxPower` may be set too small: the fault must not
replace a live 100 kW by 80 kW. Zero matters because a meter that last fed power back may not be
doing so now. While every dead consumer has a `maxPower`, the answer is `degraded`, and still safe.

A dead consumer without `maxPower` could be drawing anything, so the answer is `failsafe`: what the
owner configured for that case. It is no more than the balance of what is known, because a
configured 50 kW would otherwise give 50 kW to cars that had 5 kW before the fault. The consumption
and the overload are then unknown, and stay None.

A dead solar meter counts as nothing, or as its last power where that was below zero (an inverter's
own night-time draw): sun that nobody measures charges no car.

A site without any grid or building meter is `unmetered`: all its consumption is unknown, so it is
treated like `failsafe`.

The balance is summed with one rounding (math.fsum) and every further step is monotonic, so the
promise holds to the last bit and the order of the meters has no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from edge.model import (
    CONSUMING_TYPES,
    COUNTED_TYPES,
    PRODUCING_TYPES,
    BuildingConsumption,
    LoadQuality,
    LoadStatus,
    MeterState,
    Quality,
    Status,
    rounded,
)

_LARGEST_KW = 1e12
"""No power is larger; beyond it a number is noise, and sums could overflow."""


def load_status(
    meters: Iterable[MeterState], grid_capacity_kw: float, failsafe_available_kw: float
) -> LoadStatus:
    """Compute the power that is free for charging from the state of all meters at one tick.

    meters: every registered meter, in any order; each counts once. failsafe_available_kw: what may
    be given at most while the consumption is unknown. Powers come out rounded to a milliwatt.
    `reasons` has one sentence for each counted meter that is not live, in the order of `meters`;
    it is empty exactly when the quality is good.
    """
    consumption_kw: list[float] = []
    production_kw: list[float] = []
    dead: list[MeterState] = []
    for state in meters:
        meter_type = state.meter.meter_type
        if meter_type not in COUNTED_TYPES:
            continue
        power_kw = _live_kw(state)
        consumes = meter_type in CONSUMING_TYPES
        if power_kw is None:
            dead.append(state)
            power_kw = _dead_consumption_kw(state) if consumes else _dead_production_kw(state)
        (consumption_kw if consumes else production_kw).append(power_kw)
    balance_kw = math.fsum((grid_capacity_kw, *production_kw, *(-kw for kw in consumption_kw)))

    quality = _quality(bool(consumption_kw), dead)
    reasons = [_reason(state, failsafe_available_kw) for state in dead]
    available_kw = max(0.0, balance_kw)
    consumption_known = quality in (LoadQuality.GOOD, LoadQuality.DEGRADED)
    if not consumption_known:
        available_kw = min(available_kw, max(0.0, failsafe_available_kw))
    if quality is LoadQuality.UNMETERED:
        reasons.insert(
            0,
            "No grid or building meter is registered, so the building's consumption is unknown: "
            f"{_at_most(failsafe_available_kw)}; register the building's main meter.",
        )
    return LoadStatus(
        grid_capacity_kw=grid_capacity_kw,
        pv_production_kw=rounded(math.fsum(production_kw)),
        building_consumption_kw=rounded(math.fsum(consumption_kw)) if consumption_known else None,
        available_kw=rounded(available_kw),
        overload_kw=rounded(max(0.0, -balance_kw)) if consumption_known else None,
        quality=quality,
        reasons=tuple(reasons),
    )


def building_consumption(meters: Iterable[MeterState]) -> BuildingConsumption:
    """Sum what the live grid and building meters measure; the others are named as excluded.

    Power is None when no such meter is live. Energy is None while one is excluded, since a sum that
    loses and regains a meter would run back and jump, and when no meter gives it.
    """
    consumers = [state for state in meters if state.meter.meter_type in CONSUMING_TYPES]
    powers_kw: list[float] = []
    energies_kwh: list[float] = []
    dead: list[MeterState] = []
    for state in consumers:
        power_kw = _live_kw(state)
        if power_kw is None:
            dead.append(state)
            continue
        powers_kw.append(power_kw)
        energy_kwh = state.reading.values.get("energy") if state.reading else None
        if energy_kwh is not None and math.isfinite(energy_kwh):
            energies_kwh.append(energy_kwh)
    complete = not dead and bool(energies_kwh)
    return BuildingConsumption(
        power_kw=rounded(math.fsum(powers_kw)) if powers_kw else None,
        energy_kwh=rounded(math.fsum(energies_kwh)) if complete else None,
        meter_count=len(powers_kw),
        excluded=tuple(state.meter.id for state in dead),
        quality=_quality(bool(consumers), dead),
    )


def _quality(is_metered: bool, dead: list[MeterState]) -> LoadQuality:
    """is_metered: there is a consumer. dead: all that count and are not live."""
    if not is_metered:
        return LoadQuality.UNMETERED
    for state in dead:
        consumes = state.meter.meter_type in CONSUMING_TYPES
        if consumes and _known_kw(state.meter.max_power_kw) is None:
            return LoadQuality.FAILSAFE
    return LoadQuality.DEGRADED if dead else LoadQuality.GOOD


def _dead_consumption_kw(state: MeterState) -> float:
    max_power_kw = _known_kw(state.meter.max_power_kw) or 0.0
    return max(0.0, max_power_kw, _known_kw(state.last_power_kw) or 0.0)


def _dead_production_kw(state: MeterState) -> float:
    return min(0.0, _known_kw(state.last_power_kw) or 0.0)


def _live_kw(state: MeterState) -> float | None:
    return _known_kw(state.live_power_kw)


def _known_kw(power_kw: float | None) -> float | None:
    """Give the power unless it is no number that could be a power (NaN compares false)."""
    return power_kw if power_kw is not None and abs(power_kw) <= _LARGEST_KW else None


def _reason(state: MeterState, failsafe_available_kw: float) -> str:
    """Say which meter is not live, why, and what is assumed in its place."""
    return f'"{state.meter.name}" {_fault(state)}: {_assumption(state, failsafe_available_kw)}.'


def _fault(state: MeterState) -> str:
    detail = f" ({state.last_error.rstrip('. ')})" if state.last_error else ""
    if state.status is Status.PENDING:
        return "has not been read yet"
    if state.status is Status.OFFLINE:
        return f"is offline{detail}"
    if state.status is Status.ERROR:
        return f"is in error{detail}"
    if state.quality is Quality.SUSPECT and state.reading is not None:
        return f"gives suspect values ({state.reading.hints[0].rstrip('. ')})"
    names = state.meter.communication.quantities
    if names and not names & {"power", "powerL1", "powerL2", "powerL3"}:
        return "has no power in its registration"
    return f"gives no power{detail}"


def _assumption(state: MeterState, failsafe_available_kw: float) -> str:
    if state.meter.meter_type in PRODUCING_TYPES:
        production_kw = _dead_production_kw(state)
        if production_kw < 0.0:
            return f"it counts as {production_kw:g} kW, its last power"
        return "it counts as 0 kW"
    max_power_kw = _known_kw(state.meter.max_power_kw)
    if max_power_kw is None:
        return f"{_at_most(failsafe_available_kw)}; set its maxPower to count that instead"
    counted_kw = _dead_consumption_kw(state)
    if counted_kw > max_power_kw:
        return f"it counts as {counted_kw:g} kW, its last power (its maxPower is {max_power_kw:g})"
    return f"it counts as its maxPower of {max_power_kw:g} kW"


def _at_most(failsafe_available_kw: float) -> str:
    return f"at most {failsafe_available_kw:g} kW is given (load.failsafe_available_kw)"
