"""What a meter can measure at a site, and what cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.model import METER_TYPES, QUANTITY_NAMES
from edge.physics import (
    PHASE_SUFFIXES,
    Site,
    active_kw,
    agrees,
    apparent_kva,
    family,
    is_likely,
)

GRID = Site("grid", 100.0)


@pytest.mark.parametrize(
    ("quantity", "least", "most"),
    [
        ("power", -200.0, 2000.0),
        ("powerL1", -2000.0, 2000.0),
        ("energy", 0.0, 100.0 * 24 * 365 * 50),
        ("energyExport", 0.0, 100.0 * 24 * 365 * 50),
        ("voltage", 50.0, 1000.0),
        ("currentL2", -20_000.0, 20_000.0),
        ("frequency", 45.0, 65.0),
        ("powerFactor", -1.01, 1.01),
    ],
)
def test_a_value_is_possible_within_its_limits(quantity: str, least: float, most: float) -> None:
    for value in (least, most):
        assert GRID.is_possible(quantity, {quantity: value})
    for value in (least - 0.01, most + 0.01):
        assert not GRID.is_possible(quantity, {quantity: value})


def test_the_direction_that_raises_what_is_free_has_the_narrow_limit() -> None:
    for kind, least, most in (("solar", -2000.0, 200.0), ("zone", -2000.0, 2000.0)):
        site = Site(kind, 100.0)
        assert site.is_possible("power", {"power": least})
        assert not site.is_possible("power", {"power": least - 1})
        assert site.is_possible("power", {"power": most})
        assert not site.is_possible("power", {"power": most + 1})


def test_no_voltage_is_possible_of_an_inverter_asleep() -> None:
    solar = Site("solar", 100.0)
    for quantity in ("voltage", "voltageL2", "frequency"):
        assert solar.is_possible(quantity, {quantity: 0.0})
        assert solar.is_possible(quantity, {quantity: 0.0, "power": 0.0})
        assert not solar.is_possible(quantity, {quantity: 0.0, "power": 5.0})
        assert not solar.is_possible(quantity, {quantity: 0.1, "power": 0.0})
        assert not GRID.is_possible(quantity, {quantity: 0.0})


@pytest.mark.parametrize(
    ("dead_v", "other_v", "is_possible"),
    [
        (0.0, 230.0, True),
        (10.0, 50.0, True),
        (10.1, 230.0, False),
        (30.0, 230.0, False),
        (-0.1, 230.0, False),
        (5.0, 7.0, False),
        (5.0, 1000.1, False),
    ],
)
def test_a_dead_phase_is_possible_beside_a_live_one(
    dead_v: float, other_v: float, is_possible: bool
) -> None:
    values = {"voltageL1": dead_v, "voltageL3": other_v, "voltage": dead_v}
    assert GRID.is_possible("voltageL1", values) is is_possible
    assert not GRID.is_possible("voltage", values)


@pytest.mark.parametrize(
    ("quantity", "usual", "unusual", "unbelievable"),
    [
        ("voltage", 230.0, 300.0, 99.0),
        ("voltage", 400.0, 150.0, 481.0),
        ("frequency", 59.9, 57.0, 44.0),
        ("powerFactor", -0.9, 0.2, 1.1),
    ],
)
def test_usual_values_are_worth_more(
    quantity: str, usual: float, unusual: float, unbelievable: float
) -> None:
    more, less = GRID.usualness(quantity, usual), GRID.usualness(quantity, unusual)
    assert more is not None
    assert less is not None
    assert more > less
    assert GRID.usualness(quantity, unbelievable) is None


def test_power_is_usual_up_to_half_more_than_the_grid_gives() -> None:
    assert GRID.usualness("power", 150.0) is not None
    assert GRID.usualness("power", 151.0) is None
    assert GRID.usualness("power", 0.0) is None
    assert GRID.usualness("energy", -5.0) is None


@given(
    st.sampled_from(METER_TYPES),
    st.sampled_from(QUANTITY_NAMES),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_what_is_usual_is_possible(meter_type: str, quantity: str, value: float) -> None:
    site = Site(meter_type, 100.0)
    if site.usualness(quantity, value) is not None:
        assert site.is_possible(quantity, {quantity: value})


@pytest.mark.parametrize("quantity", QUANTITY_NAMES)
def test_phases_are_of_their_totals_family(quantity: str) -> None:
    assert family(quantity) == family(quantity.rstrip("123").removesuffix("L"))


def test_a_total_is_one_phase_or_three_and_a_phase_is_one() -> None:
    values = {"voltage": 400.0, "current": 10.0, "currentL1": 10.0}
    assert apparent_kva(values, "") == pytest.approx((2.3094, 12.0), rel=1e-4)
    assert apparent_kva(values, "L1") == pytest.approx((2.3094, 4.0), rel=1e-4)
    assert apparent_kva(values, "L2") is None
    assert apparent_kva({**values, "voltage": 4000.0}, "") is None


def test_three_known_phases_are_summed() -> None:
    values = dict.fromkeys((f"current{phase}" for phase in PHASE_SUFFIXES), 10.0)
    values |= {"voltage": 400.0, "current": 99.0}
    assert apparent_kva(values, "") == pytest.approx((6.9282, 12.0), rel=1e-4)


def test_the_power_factor_narrows_what_can_be() -> None:
    values = {"voltage": 400.0, "current": 10.0}
    assert active_kw({**values, "powerFactor": -0.5}, "") == pytest.approx((1.1547, 6.0), rel=1e-4)
    assert active_kw({**values, "powerFactor": 0.01}, "") == active_kw(values, "")
    assert agrees({**values, "power": 0.6}, "") is True
    assert agrees({**values, "power": 0.6, "powerFactor": 0.9}, "") is False


@pytest.mark.parametrize(
    ("power_kw", "verdict"),
    [(6.9, True), (-6.9, True), (6900.0, False), (0.0069, False)],
)
def test_power_is_compared_by_its_size(power_kw: float, verdict: bool | None) -> None:
    assert agrees({"power": power_kw, "voltage": 230.0, "current": 10.0}, "") is verdict


def test_a_power_of_zero_beside_a_current_that_does_work_is_no_power() -> None:
    values = {"power": 0.0, "voltage": 230.0, "current": 7.0}
    assert agrees(values, "") is None, "little may all be reactive"
    assert agrees({**values, "powerFactor": 0.95}, "") is False
    assert agrees({**values, "current": 8.0}, "") is False


@pytest.mark.parametrize(
    ("power_kw", "verdict"),
    [(6.9, True), (-6.9, True), (7.2, True), (7.4, False), (0.4, True), (0.39, False)],
)
def test_a_power_is_likely_at_a_usual_power_factor(power_kw: float, verdict: bool) -> None:
    """U·I is 1.328 kVA to 6.9 kVA."""
    values = {"power": power_kw, "voltage": 230.0, "current": 10.0}
    assert agrees(values, "") is True
    assert is_likely(values, "") is verdict


def test_where_the_power_factor_is_known_what_agrees_is_likely() -> None:
    values = {"power": 0.2, "voltage": 230.0, "current": 10.0, "powerFactor": 0.15}
    assert is_likely(values, "") is True
    assert is_likely({**values, "power": 0.1}, "") is agrees({**values, "power": 0.1}, "") is False
    assert is_likely({"power": 0.2}, "") is None


def test_an_idle_meter_is_not_compared() -> None:
    assert agrees({"power": 0.09, "voltage": 230.0, "current": 0.0}, "") is None
    assert agrees({"power": 0.09, "voltage": 230.0}, "") is None
