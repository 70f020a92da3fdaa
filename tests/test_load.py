"""The load status keeps its promise: no fault of any meter ever makes more power free."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.communication import ModbusCommunication, ModbusEndpoint, Register
from edge.load import building_consumption, load_status
from edge.model import LoadQuality, Meter, MeterState, Reading, Status

COMMUNICATION = ModbusCommunication(
    endpoint=ModbusEndpoint("tcp", "127.0.0.1", 502),
    unit_id=1,
    timeout_s=1.0,
    retries=1,
    request_delay_s=0.0,
    registers=(),
    max_registers_per_request=125,
    max_gap=8,
    invert=False,
)
DEAD = (Status.PENDING, Status.OFFLINE, Status.ERROR)
numbers = itertools.count(1)


def meter(meter_type: str, max_power_kw: float | None = None, name: str | None = None) -> Meter:
    number = next(numbers)
    return Meter(
        id=f"meter_{number}",
        name=name or f"Meter {number}",
        location="",
        protocol="modbus",
        meter_type=meter_type,
        poll_interval_ms=5000,
        stale_after_ms=15000,
        max_power_kw=max_power_kw,
        communication=COMMUNICATION,
    )


def reading(hints: tuple[str, ...] = (), **values: float | None) -> Reading:
    known = {name: value for name, value in values.items() if value is not None}
    return Reading(values=known, mono_s=0.0, unix_ms=0, hints=hints)


def live(
    meter_type: str,
    power_kw: float,
    max_power_kw: float | None = None,
    energy: float | None = None,
    name: str | None = None,
) -> MeterState:
    return MeterState(
        meter=meter(meter_type, max_power_kw, name),
        status=Status.ONLINE,
        reading=reading(power=power_kw, energy=energy),
        last_power_kw=power_kw,
    )


def failed(state: MeterState, error: str | None = None) -> MeterState:
    return dataclasses.replace(state, status=Status.ERROR, last_error=error)


def without_power(state: MeterState, *quantities: str) -> MeterState:
    """What a meter shows that gives a voltage only; quantities: those it is registered with."""
    registers = tuple(Register(name, 3, (0,), "uint") for name in quantities)
    communication = dataclasses.replace(COMMUNICATION, registers=registers)
    its_meter = dataclasses.replace(state.meter, communication=communication)
    return dataclasses.replace(state, meter=its_meter, reading=reading(voltage=230.0))


# The formula


def test_gives_the_example_of_the_guide() -> None:
    status = load_status([live("grid", 80.0), live("solar", 50.0)], 500.0, 0.0)

    assert status.available_kw == 470.0
    assert status.building_consumption_kw == 80.0
    assert status.pv_production_kw == 50.0
    assert status.grid_capacity_kw == 500.0
    assert status.overload_kw == 0.0
    assert status.quality is LoadQuality.GOOD
    assert status.reasons == ()


def test_adds_up_grid_and_building_meters_and_leaves_zones_out() -> None:
    site = [live("grid", 80.0), live("building", 20.0), live("zone", 300.0)]
    site.append(failed(live("zone", 300.0)))

    status = load_status(site, 500.0, 0.0)

    assert (status.available_kw, status.quality) == (400.0, LoadQuality.GOOD)


def test_says_by_how_much_the_site_is_overloaded() -> None:
    status = load_status([live("grid", 512.5)], 500.0, 0.0)

    assert (status.available_kw, status.overload_kw) == (0.0, 12.5)


def test_hides_float_noise_and_negative_zero() -> None:
    status = load_status([live("grid", 0.1), live("grid", 0.2), live("solar", -1e-9)], 45.6, 0.0)

    assert status.building_consumption_kw == 0.3
    assert status.available_kw == 45.3
    for power_kw in (status.pv_production_kw, status.overload_kw):
        assert power_kw is not None
        assert math.copysign(1.0, power_kw) == 1.0


@pytest.mark.parametrize("order", list(itertools.permutations((1e11, 0.3, -1e11))))
def test_sums_exactly_in_any_order(order: tuple[float, ...]) -> None:
    status = load_status([live("grid", power_kw) for power_kw in order], 500.0, 0.0)

    assert (status.available_kw, status.building_consumption_kw) == (499.7, 0.3)


# What a missing meter counts as


@pytest.mark.parametrize("status", DEAD)
def test_counts_a_dead_meter_as_its_max_power(status: Status) -> None:
    dead = dataclasses.replace(live("building", 30.0, max_power_kw=120.0), status=status)

    result = load_status([live("grid", 80.0), dead], 500.0, 50.0)

    assert (result.available_kw, result.building_consumption_kw) == (300.0, 200.0)
    assert result.quality is LoadQuality.DEGRADED


def test_counts_a_dead_meter_as_its_last_power_when_its_max_power_is_too_small() -> None:
    result = load_status([failed(live("grid", 100.0, max_power_kw=80.0))], 500.0, 0.0)

    assert (result.available_kw, result.quality) == (400.0, LoadQuality.DEGRADED)


def test_falls_back_when_a_dead_meter_has_no_max_power() -> None:
    result = load_status([failed(live("grid", 100.0)), live("solar", 20.0)], 500.0, 50.0)

    assert result.available_kw == 50.0
    assert result.building_consumption_kw is None
    assert result.overload_kw is None
    assert result.pv_production_kw == 20.0
    assert result.quality is LoadQuality.FAILSAFE


def test_gives_no_more_in_failsafe_than_was_free_before() -> None:
    grid = live("grid", 495.0)

    assert load_status([grid], 500.0, 50.0).available_kw == 5.0
    assert load_status([failed(grid)], 500.0, 50.0).available_kw == 5.0


@pytest.mark.parametrize("max_power_kw", [None, 0.0, -10.0])
def test_does_not_believe_that_a_dead_meter_still_feeds_power_back(
    max_power_kw: float | None,
) -> None:
    exporting = live("building", -400.0, max_power_kw)

    result = load_status([live("grid", 480.0), failed(exporting)], 500.0, 100.0)

    assert result.available_kw == 20.0


@pytest.mark.parametrize(("last_kw", "counted_kw"), [(50.0, 0.0), (-0.5, -0.5)])
def test_counts_no_sun_that_nobody_measures(last_kw: float, counted_kw: float) -> None:
    result = load_status([live("grid", 80.0), failed(live("solar", last_kw))], 500.0, 0.0)

    assert result.pv_production_kw == counted_kw
    assert result.available_kw == 420.0 + counted_kw
    assert result.quality is LoadQuality.DEGRADED


def test_treats_a_site_without_consumption_meters_like_failsafe() -> None:
    result = load_status([live("solar", 50.0), live("zone", 5.0)], 500.0, 30.0)

    assert (result.available_kw, result.pv_production_kw) == (30.0, 50.0)
    assert (result.building_consumption_kw, result.overload_kw) == (None, None)
    assert result.quality is LoadQuality.UNMETERED
    assert len(result.reasons) == 1


@pytest.mark.parametrize("power_kw", [math.nan, math.inf, -math.inf, -1e308, 1e308])
def test_takes_a_power_that_is_no_number_for_unknown(power_kw: float) -> None:
    result = load_status([live("grid", power_kw), live("grid", power_kw, power_kw)], 500.0, 20.0)

    assert (result.available_kw, result.quality) == (20.0, LoadQuality.FAILSAFE)


# What it says about it


def test_names_the_meter_its_fault_and_what_is_assumed() -> None:
    suspect = dataclasses.replace(
        live("building", 10.0, max_power_kw=40.0, name="Kitchen"),
        reading=reading(hints=("voltage reads 0 V.", "frequency reads 0 Hz."), power=10.0),
    )
    site = [
        failed(live("grid", 100.0, name="Main"), "No reply within 1 s."),
        dataclasses.replace(live("solar", 5.0, name="Roof"), status=Status.OFFLINE),
        MeterState(meter("building", 60.0, name="Hall")),
        suspect,
        failed(live("building", 90.0, max_power_kw=70.0, name="Shop")),
        without_power(live("grid", 5.0, 30.0, name="Annex"), "voltage"),
        without_power(live("grid", 5.0, 30.0, name="Attic")),
    ]

    assert load_status(site, 500.0, 15.0).reasons == (
        '"Main" is in error (No reply within 1 s): at most 15 kW is given '
        "(load.failsafe_available_kw); set its maxPower to count that instead.",
        '"Roof" is offline: it counts as 0 kW.',
        '"Hall" has not been read yet: it counts as its maxPower of 60 kW.',
        '"Kitchen" gives suspect values (voltage reads 0 V): it counts as its maxPower of 40 kW.',
        '"Shop" is in error: it counts as 90 kW, its last power (its maxPower is 70).',
        '"Annex" has no power in its registration: it counts as its maxPower of 30 kW.',
        '"Attic" gives no power: it counts as its maxPower of 30 kW.',
    )


# The promise, for any site

powers = st.floats(-1e6, 1e6)
capacities = st.floats(1.0, 1e5)
fallbacks = st.one_of(st.just(0.0), st.floats(0.0, 1e5))
meters = st.builds(
    meter,
    st.sampled_from(["grid", "building", "solar", "zone"]),
    st.none() | st.floats(0.0, 1e6),
)


def online(its_meter: Meter, power_kw: float) -> MeterState:
    return MeterState(
        its_meter,
        status=Status.ONLINE,
        reading=reading(power=power_kw),
        last_power_kw=power_kw,
    )


healthy_states = st.builds(online, meters, powers)
states = st.one_of(
    healthy_states,
    st.builds(
        MeterState,
        meters,
        st.sampled_from(DEAD),
        st.none() | st.builds(reading, power=powers),
        last_power_kw=st.none() | powers,
    ),
)
Breakage = Callable[[MeterState], MeterState]


def ageing(status: Status) -> Breakage:
    return lambda state: dataclasses.replace(state, status=status)


def rereading(new: Reading | None) -> Breakage:
    return lambda state: dataclasses.replace(state, reading=new)


breakages: st.SearchStrategy[Breakage] = st.one_of(
    st.sampled_from(DEAD).map(ageing),
    st.none().map(rereading),
    powers.map(lambda power_kw: rereading(reading(hints=("It is suspect.",), power=power_kw))),
    st.just(reading(voltage=230.0)).map(rereading),
    st.sampled_from([math.nan, math.inf, -math.inf]).map(
        lambda power_kw: rereading(reading(power=power_kw))
    ),
)


@given(st.lists(states, min_size=1, max_size=6), capacities, fallbacks, st.data())
def test_breaking_meters_one_after_another_never_raises_the_answer(
    site: list[MeterState], capacity_kw: float, fallback_kw: float, data: st.DataObject
) -> None:
    before = load_status(site, capacity_kw, fallback_kw)
    for _ in range(data.draw(st.integers(1, 6))):
        index = data.draw(st.integers(0, len(site) - 1))
        site = [*site[:index], data.draw(breakages)(site[index]), *site[index + 1 :]]
        after = load_status(site, capacity_kw, fallback_kw)
        assert after.available_kw <= before.available_kw
        before = after


@given(st.lists(states, max_size=6), capacities, fallbacks)
def test_answer_is_a_number_and_explained(
    site: list[MeterState], capacity_kw: float, fallback_kw: float
) -> None:
    status = load_status(site, capacity_kw, fallback_kw)

    assert 0.0 <= status.available_kw < math.inf
    assert (status.quality is LoadQuality.GOOD) == (not status.reasons)
    assert status.overload_kw is None or status.overload_kw == 0.0 or status.available_kw == 0.0
    unknown = status.quality in (LoadQuality.FAILSAFE, LoadQuality.UNMETERED)
    assert unknown == (status.building_consumption_kw is None) == (status.overload_kw is None)
    if unknown:
        assert status.available_kw <= round(fallback_kw, 6)


@given(st.lists(healthy_states, max_size=6), powers, capacities, fallbacks)
def test_healthy_site_gives_the_formula(
    others: list[MeterState], grid_kw: float, capacity_kw: float, fallback_kw: float
) -> None:
    site = [live("grid", grid_kw), *others]
    sign = {"grid": -1.0, "building": -1.0, "solar": 1.0, "zone": 0.0}
    powers_kw = [sign[s.meter.meter_type] * (s.live_power_kw or 0.0) for s in site]
    balance_kw = math.fsum([capacity_kw, *powers_kw])

    status = load_status(site, capacity_kw, fallback_kw)

    assert status.quality is LoadQuality.GOOD
    assert status.available_kw == max(0.0, round(balance_kw, 6))
    assert status.overload_kw == max(0.0, round(-balance_kw, 6))


@given(st.lists(states, max_size=6), capacities, fallbacks, st.randoms(use_true_random=False))
def test_order_of_meters_does_not_matter(
    site: list[MeterState], capacity_kw: float, fallback_kw: float, random: Random
) -> None:
    shuffled = list(site)
    random.shuffle(shuffled)

    one = load_status(site, capacity_kw, fallback_kw)
    other = load_status(shuffled, capacity_kw, fallback_kw)

    assert sorted(one.reasons) == sorted(other.reasons)
    assert dataclasses.replace(one, reasons=()) == dataclasses.replace(other, reasons=())


# The sum of the building


def test_sums_power_and_energy_of_live_consumers() -> None:
    site = [
        live("grid", 25.1, energy=20000.2),
        live("building", 20.2, energy=8450.1),
        live("solar", 9.0, energy=1.0),
        live("zone", 9.0, energy=1.0),
    ]

    total = building_consumption(site)

    assert (total.power_kw, total.energy_kwh, total.meter_count) == (45.3, 28450.3, 2)
    assert (total.excluded, total.quality) == ((), LoadQuality.GOOD)


def test_names_the_meters_that_should_count_but_are_not_fresh() -> None:
    stale = failed(live("building", 20.0, energy=8450.0))
    silent = MeterState(meter("grid"), status=Status.ONLINE, reading=reading(energy=7.0))

    total = building_consumption([live("grid", 25.0), stale, silent])

    assert (total.power_kw, total.energy_kwh, total.meter_count) == (25.0, None, 1)
    assert total.excluded == (stale.meter.id, silent.meter.id)
    assert total.quality is LoadQuality.FAILSAFE, "as the load status then is"


def test_an_energy_that_lacks_a_meter_is_no_sum() -> None:
    stale = failed(live("building", 20.0, max_power_kw=50.0, energy=8450.0))

    total = building_consumption([live("grid", 25.0, energy=7.0), stale])

    assert (total.power_kw, total.energy_kwh) == (25.0, None)
    assert total.quality is LoadQuality.DEGRADED


def test_sum_is_unknown_without_a_live_meter() -> None:
    stale = failed(live("grid", 20.0, energy=8450.0))

    total = building_consumption([stale, live("solar", 5.0, energy=3.0)])

    assert (total.power_kw, total.energy_kwh, total.meter_count) == (None, None, 0)
    assert (total.excluded, total.quality) == ((stale.meter.id,), LoadQuality.FAILSAFE)


def test_sum_of_a_site_without_consumption_meters_is_unmetered() -> None:
    total = building_consumption([live("solar", 5.0)])

    assert (total.power_kw, total.excluded) == (None, ())
    assert total.quality is LoadQuality.UNMETERED


def test_leaves_an_energy_that_is_no_number_out() -> None:
    site = [live("grid", 1.0, energy=math.nan), live("grid", 1.0, energy=5.0)]

    assert building_consumption(site).energy_kwh == 5.0
