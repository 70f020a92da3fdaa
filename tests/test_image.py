"""The process image: next values in, one immutable view out."""

from __future__ import annotations

from dataclasses import replace

from edge.image import ProcessImage
from edge.load import load_status
from edge.model import Meter, MeterState, Quality, Status
from tests.building import a_failure, a_meter, a_reading, an_answer


def an_image(*meters: Meter) -> ProcessImage:
    image = ProcessImage()
    image.replace(meters)
    return image


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
    image.put(replace(an_answer(meter), result="partial", error="No energy."))
    image.advance(0.0)
    state = state_of(image, meter)
    assert (state.status, state.last_error) == (Status.ONLINE, "No energy.")


def test_an_answer_for_a_plan_that_is_gone_is_dropped() -> None:
    old, other = a_meter("old"), a_meter("other")
    new = replace(old, name="new")
    image = an_image(old, other)
    image.put(an_answer(old))
    image.put(an_answer(other))
    image.replace([new])
    assert image.advance(0.0) == []
    assert list(image.meters) == [new.id]
    assert state_of(image, new).status is Status.PENDING


def test_a_renamed_meter_keeps_its_values_and_one_read_otherwise_does_not() -> None:
    meter = a_meter()
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=5.0)))
    image.advance(1.0)
    renamed = replace(meter, name="other")
    image.replace([renamed])
    assert state_of(image, renamed).live_power_kw == 5.0
    patient = replace(renamed, communication=replace(meter.communication, timeout_s=9.0))
    image.replace([patient])
    assert state_of(image, patient).live_power_kw == 5.0
    elsewhere = replace(meter, communication=replace(meter.communication, unit_id=9))
    image.replace([elsewhere])
    assert state_of(image, elsewhere) == MeterState(elsewhere, last_power_kw=5.0)


def test_changing_a_dead_meter_never_makes_its_power_free() -> None:
    meter = a_meter(maxPower=50)
    image = an_image(meter)
    image.put(an_answer(meter, a_reading(mono_s=1.0, power=300.0)))
    image.advance(1.0)
    image.put(a_failure(meter))
    image.advance(2.0)
    assert load_status(image.meters.values(), 500.0, 0.0).available_kw == 200.0
    for changed in (
        replace(meter, communication=replace(meter.communication, timeout_s=9.0)),
        replace(meter, communication=replace(meter.communication, unit_id=9)),
    ):
        image.replace([changed])
        assert load_status(image.meters.values(), 500.0, 0.0).available_kw == 200.0


def test_a_partial_reading_that_ages_still_says_what_was_wrong() -> None:
    meter = a_meter(staleAfter=1000)
    image = an_image(meter)
    image.put(replace(an_answer(meter), result="partial", error="Unit 1 is silent."))
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
    image.replace([stricter])
    image.advance(2.0)
    assert state_of(image, stricter).status is Status.OFFLINE


def test_meters_stand_in_the_order_of_the_plan() -> None:
    first, second, third = a_meter("a"), a_meter("b"), a_meter("c")
    image = an_image(third, first, second)
    image.put(an_answer(second))
    image.put(an_answer(third))
    image.advance(0.0)
    assert list(image.meters) == [third.id, first.id, second.id]
