"""The process image: next values in, one immutable view out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.communication import Communication, ModbusCommunication
from edge.image import ProcessImage
from edge.load import load_status
from edge.model import Meter, MeterState, PollEnd, Quality, Status
from tests.building import a_failure, a_meter, a_reading, a_speaking_meter, an_answer


def an_image(*meters: Meter, mono_s: float = 0.0) -> ProcessImage:
    image = ProcessImage()
    image.replace(meters, mono_s)
    return image


def patient(meter: Meter) -> Communication:
    """The same values, only waited for longer."""
    assert isinstance(meter.communication, ModbusCommunication)
    return replace(meter.communication, timeout_s=9.0)


def other_unit(meter: Meter) -> Communication:
    """The values of another device."""
    assert isinstance(meter.communication, ModbusCommunication)
    return replace(meter.communication, unit_id=9)


def state_of(image: ProcessImage, meter: Meter) -> MeterState:
    return image.meters[meter.id]


def test_a_new_meter_is_pending_and_knows_nothing() -> None:
    meter = a_meter()
    state = state_of(an_image(meter), meter)
    assert (state.status, state.reading, state.quality) == (Status.PENDING, None, Quality.NONE)
    assert state.live_power_kw is None


def test_a_reading_appears_at_the_next_tick_and_not_before() -> None:
    meter = a_meter()
    image = an_image(meter)
    seen = image.meters
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=5.0)))
    assert image.meters is seen
    assert [result.meter for result in image.advance(1.1)] == [meter]
    assert state_of(image, meter).live_power_kw == 5.0
    assert seen[meter.id].status is Status.PENDING, "an old view must not change"


def test_an_idle_tick_keeps_the_same_view() -> None:
    meter = a_meter()
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0)))
    image.advance(1.0)
    seen = image.meters
    assert image.advance(1.1) == []
    assert image.meters is seen


def test_the_last_values_stay_visible_through_a_failure_but_are_not_live() -> None:
    meter = a_meter()
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=5.0)))
    image.advance(1.0)
    image.put(a_failure(meter, error="Unit 1 is silent."))
    image.advance(2.0)
    state = state_of(image, meter)
    assert state.status is Status.ERROR
    assert state.last_error == "Unit 1 is silent."
    assert state.reading is not None
    assert state.reading.values == {"power": 5.0}
    assert (state.quality, state.live_power_kw, state.last_power_kw) == (Quality.STALE, None, 5.0)


def test_what_does_not_come_turns_stale_exactly_when_it_is_older_than_stale_after() -> None:
    slow, quick = a_meter("slow", staleAfter=5000), a_meter("quick", staleAfter=1000)
    image = an_image(slow, quick)
    for meter in (slow, quick):
        image.put(an_answer(meter, a_reading(mono_s=10.0)))
    image.advance(10.0)
    image.advance(11.0)
    assert state_of(image, quick).status is Status.ONLINE
    image.advance(11.1)
    assert state_of(image, quick).status is Status.OFFLINE
    assert "1 s" in (state_of(image, quick).last_error or "")
    assert state_of(image, slow).status is Status.ONLINE
    image.advance(15.0)
    assert state_of(image, slow).status is Status.ONLINE
    image.advance(15.1)
    assert state_of(image, slow).status is Status.OFFLINE


def test_a_stale_meter_is_online_again_with_its_next_reading() -> None:
    meter = a_meter(staleAfter=1000)
    image = an_image(meter)
    for mono_s in (0.0, 5.0):
        image.put(an_answer(meter, a_reading(mono_s=mono_s)))
        image.advance(mono_s)
        assert state_of(image, meter).status is Status.ONLINE
        assert state_of(image, meter).last_error is None
        image.advance(mono_s + 2)
        assert state_of(image, meter).status is Status.OFFLINE


def test_a_suspect_reading_is_shown_but_neither_counted_nor_remembered_as_power() -> None:
    meter = a_meter()
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=5.0)))
    image.advance(1.0)
    image.put(an_answer(meter, a_reading(mono_s=2.0, hints=("It is huge.",), power=5e6)))
    image.advance(2.0)
    state = state_of(image, meter)
    assert (state.status, state.quality) == (Status.ONLINE, Quality.SUSPECT)
    assert (state.live_power_kw, state.last_power_kw) == (None, 5.0)


def test_a_reading_without_power_keeps_the_last_power() -> None:
    meter = a_meter()
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=5.0)))
    image.advance(1.0)
    image.put(an_answer(meter, a_reading(mono_s=2.0, voltage=230.0)))
    image.advance(2.0)
    state = state_of(image, meter)
    assert (state.live_power_kw, state.last_power_kw) == (None, 5.0)


def test_a_partial_reading_is_online_and_says_what_is_missing() -> None:
    meter = a_meter()
    image = an_image(meter)
    image.put(replace(an_answer(meter), end=PollEnd.PARTIAL, error="No energy."))
    image.advance(0.0)
    state = state_of(image, meter)
    assert (state.status, state.last_error) == (Status.ONLINE, "No energy.")


def test_an_answer_for_a_plan_that_is_gone_is_dropped() -> None:
    old, other = a_meter("old"), a_meter("other")
    new = replace(old, name="new")
    image = an_image(old, other)
    image.put(an_answer(old))
    image.put(an_answer(other))
    image.replace([new], 0.0)
    assert image.advance(0.0) == []
    assert list(image.meters) == [new.id]
    assert state_of(image, new).status is Status.PENDING


def test_a_renamed_meter_keeps_its_values_and_one_read_otherwise_does_not() -> None:
    meter = a_meter()
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=5.0)))
    image.advance(1.0)
    renamed = replace(meter, name="other")
    image.replace([renamed], 0.0)
    assert state_of(image, renamed).live_power_kw == 5.0
    waited_for = replace(renamed, communication=patient(meter))
    image.replace([waited_for], 0.0)
    assert state_of(image, waited_for).live_power_kw == 5.0
    elsewhere = replace(meter, communication=other_unit(meter))
    image.replace([elsewhere], 3.0)
    assert state_of(image, elsewhere) == MeterState(elsewhere, since_mono_s=3.0, last_power_kw=5.0)


def test_changing_a_dead_meter_never_makes_its_power_free() -> None:
    meter = a_meter(maxPower=50)
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=300.0)))
    image.advance(1.0)
    image.put(a_failure(meter))
    image.advance(2.0)
    assert load_status(image.meters.values(), 500.0, 0.0).available_kw == 200.0
    for changed in (
        replace(meter, communication=patient(meter)),
        replace(meter, communication=other_unit(meter)),
    ):
        image.replace([changed], 0.0)
        assert load_status(image.meters.values(), 500.0, 0.0).available_kw == 200.0


def test_a_partial_reading_that_ages_still_says_what_was_wrong() -> None:
    meter = a_meter(staleAfter=1000)
    image = an_image(meter)
    image.put(replace(an_answer(meter), end=PollEnd.PARTIAL, error="Unit 1 is silent."))
    image.advance(0.0)
    image.advance(2.0)
    assert state_of(image, meter).last_error == (
        "Nothing arrived for 1 s; before that: Unit 1 is silent."
    )


def test_a_shorter_stale_after_counts_at_once() -> None:
    meter = a_meter(staleAfter=60_000)
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=0.0)))
    image.advance(0.0)
    stricter = replace(meter, stale_after_ms=1000)
    image.replace([stricter], 0.0)
    image.advance(2.0)
    assert state_of(image, stricter).status is Status.OFFLINE


def test_meters_stand_in_the_order_of_the_plan() -> None:
    first, second, third = a_meter("a"), a_meter("b"), a_meter("c")
    image = an_image(third, first, second)
    image.put(an_answer(second))
    image.put(an_answer(third))
    image.advance(0.0)
    assert list(image.meters) == [third.id, first.id, second.id]


# --- Meters that are not heard of ----------------------------------------------------------------


def test_a_meter_that_was_never_heard_is_offline_after_its_stale_after() -> None:
    meter = a_meter(staleAfter=1000)
    image = an_image(meter, mono_s=10.0)
    image.advance(11.0)
    assert state_of(image, meter).status is Status.PENDING
    image.advance(11.1)
    state = state_of(image, meter)
    assert (state.status, state.quality, state.reading) == (Status.OFFLINE, Quality.NONE, None)
    assert state.last_error == (
        "Nothing arrived for 1 s; check the meter, and if slow or silent meters keep its line "
        "busy, raise pollInterval or lower timeout."
    )


def test_a_silent_meter_that_speaks_by_itself_is_told_what_to_check() -> None:
    meter = a_speaking_meter(staleAfter=1000)
    image = an_image(meter)
    image.advance(1.1)
    assert state_of(image, meter).last_error == (
        "Nothing arrived for 1 s; check that the meter publishes and that its topics are spelled "
        "exactly so, or raise staleAfter if it publishes more rarely."
    )


def test_a_meter_waits_from_when_it_was_read_so_and_not_from_a_change_of_plan() -> None:
    meter = a_meter(staleAfter=1000)
    image = an_image(meter, mono_s=0.0)
    renamed = replace(meter, name="other")
    image.replace([renamed], 0.9)
    image.advance(1.1)
    assert state_of(image, renamed).status is Status.OFFLINE
    elsewhere = replace(renamed, communication=other_unit(meter))
    image.replace([elsewhere], 2.0)
    image.advance(3.0)
    assert state_of(image, elsewhere).status is Status.PENDING
    image.advance(3.1)
    assert state_of(image, elsewhere).status is Status.OFFLINE


def test_each_of_many_meters_ages_in_its_own_time() -> None:
    meters = [a_meter(f"Meter {n}", staleAfter=1000 * (n + 1)) for n in range(5)]
    image = an_image(*meters)
    image.put(an_answer(meters[0], a_reading(mono_s=2.5)))
    image.put(a_failure(meters[1]))
    offline_at_s: dict[str, float] = {}
    for tick in range(80):
        image.advance(tick / 10)
        for id_, state in image.meters.items():
            if state.status is Status.OFFLINE:
                offline_at_s.setdefault(id_, tick / 10)
    expected_s = [3.6, None, 3.1, 4.1, 5.1]
    assert [offline_at_s.get(meter.id) for meter in meters] == expected_s


def test_a_meter_that_says_so_is_offline_at_once_and_keeps_its_last_values() -> None:
    meter = a_speaking_meter(maxPower=50)
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=300.0)))
    image.put(a_failure(meter, PollEnd.OFFLINE, "It says that it is offline."))
    image.advance(1.0)
    state = state_of(image, meter)
    assert (state.status, state.quality) == (Status.OFFLINE, Quality.STALE)
    assert state.last_error == "It says that it is offline."
    assert (state.live_power_kw, state.last_power_kw) == (None, 300.0)
    image.put(an_answer(meter, a_reading(mono_s=2.0, power=7.0)))
    image.advance(2.0)
    assert state_of(image, meter).live_power_kw == 7.0


def test_of_several_results_between_two_ticks_the_last_one_counts() -> None:
    meter = a_speaking_meter()
    image = an_image(meter)
    for mono_s, power in ((1.0, 5.0), (1.1, 6.0), (1.2, 7.0)):
        image.put(an_answer(meter, a_reading(mono_s=mono_s, power=power)))
    assert len(image.advance(1.3)) == 3
    assert state_of(image, meter).live_power_kw == 7.0
    image.put(a_failure(meter))
    image.put(an_answer(meter, a_reading(mono_s=2.0, power=8.0)))
    image.advance(2.0)
    assert (state_of(image, meter).status, state_of(image, meter).last_error) == (
        Status.ONLINE,
        None,
    )


# --- What a broker had retained ------------------------------------------------------------------


def test_a_retained_reading_is_shown_but_makes_no_meter_online() -> None:
    meter = a_speaking_meter(maxPower=50)
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, live=False, power=3.0)))
    image.advance(1.0)
    state = state_of(image, meter)
    assert (state.status, state.quality) == (Status.PENDING, Quality.STALE)
    assert state.reading is not None
    assert state.reading.values == {"power": 3.0}
    assert (state.live_power_kw, state.last_power_kw) == (None, None)
    assert load_status(image.meters.values(), 500.0, 0.0).available_kw == 450.0


def test_a_meter_of_which_only_a_retained_value_came_goes_offline_in_its_time() -> None:
    meter = a_speaking_meter(staleAfter=1000)
    image = an_image(meter, mono_s=10.0)
    for mono_s in (10.5, 10.9, 11.0):
        image.put(an_answer(meter, a_reading(mono_s=mono_s, live=False)))
        image.advance(mono_s)
        assert state_of(image, meter).status is Status.PENDING
    image.put(an_answer(meter, a_reading(mono_s=11.1, live=False)))
    image.advance(11.1)
    assert state_of(image, meter).status is Status.OFFLINE


@pytest.mark.parametrize("gone", [True, False])
def test_a_retained_reading_never_replaces_a_live_one(gone: bool) -> None:
    meter = a_speaking_meter()
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=5.0)))
    if gone:
        image.put(a_failure(meter, PollEnd.OFFLINE))
    image.advance(1.0)
    before = state_of(image, meter)
    image.put(an_answer(meter, a_reading(mono_s=2.0, live=False, power=3.0)))
    image.advance(2.0)
    assert state_of(image, meter) == before


@pytest.mark.parametrize("end", [PollEnd.OFFLINE, PollEnd.LINE_ERROR])
def test_a_retained_reading_does_not_hide_why_its_meter_is_away(end: PollEnd) -> None:
    meter = a_speaking_meter()
    image = an_image(meter)
    image.put(a_failure(meter, end, "It went away."))
    image.advance(1.0)
    status = state_of(image, meter).status
    image.put(an_answer(meter, a_reading(mono_s=2.0, live=False, power=3.0)))
    image.advance(2.0)
    state = state_of(image, meter)
    assert (state.status, state.last_error) == (status, "It went away.")
    assert state.reading is not None


def test_what_was_wrong_with_a_retained_reading_is_told_until_a_better_one_comes() -> None:
    meter = a_speaking_meter()
    image = an_image(meter)
    retained = an_answer(meter, a_reading(mono_s=1.0, live=False))
    for end, error in ((PollEnd.PARTIAL, "No energy."), (PollEnd.OK, None)):
        image.put(replace(retained, end=end, error=error))
        image.advance(1.0)
        assert state_of(image, meter).last_error == error


def test_a_live_reading_replaces_a_retained_one() -> None:
    meter = a_speaking_meter()
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, live=False, power=3.0)))
    image.put(an_answer(meter, a_reading(mono_s=1.1, power=5.0)))
    image.advance(1.2)
    state = state_of(image, meter)
    assert (state.status, state.live_power_kw) == (Status.ONLINE, 5.0)
