"""What the wall clock did, and when it is believed: the pure rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.era import (
    DOUBTFUL_WAIT_S,
    FAR_AHEAD_MS,
    RELEASED_UNIX_MS,
    STEP_MS,
    Correction,
    Era,
    Eras,
)

NOW_MS = 1_790_000_000_000
HOUR_MS = 3_600_000


class Machine:
    """A boot with a wall clock that can be set."""

    def __init__(self, unix_ms: int, *, newest_unix_ms: int = 0, wait_s: float = 300.0) -> None:
        self.mono_s = 10.0
        self.offset_ms = unix_ms - 10_000
        self.eras = Eras("boot", (), 1, newest_unix_ms, wait_s)

    @property
    def unix_ms(self) -> int:
        return round(self.mono_s * 1000) + self.offset_ms

    def settle(self, *, synchronised: bool = False) -> tuple[Correction, ...]:
        return self.eras.settle(self.mono_s, self.unix_ms, synchronised)

    def read(self) -> tuple[int, int]:
        return self.eras.place(self.mono_s, self.unix_ms)

    def step(self, by_ms: int) -> None:
        self.offset_ms += by_ms


def test_a_synchronised_clock_is_trusted_at_once() -> None:
    machine = Machine(NOW_MS)
    assert machine.settle(synchronised=True) == ()
    assert machine.eras.trusted
    assert machine.read() == (1, NOW_MS)


def test_a_plausible_clock_is_trusted_when_nobody_set_it_for_a_while() -> None:
    machine = Machine(NOW_MS)
    machine.settle()
    machine.mono_s += 299
    machine.settle()
    assert not machine.eras.trusted
    machine.mono_s += 1
    machine.settle()
    assert machine.eras.trusted


def test_no_wait_trusts_a_plausible_clock_at_once() -> None:
    machine = Machine(NOW_MS, wait_s=0)
    machine.settle()
    assert machine.eras.trusted


def test_a_clock_before_the_release_or_the_newest_reading_is_not_plausible() -> None:
    for machine in (
        Machine(RELEASED_UNIX_MS - HOUR_MS, wait_s=0),
        Machine(NOW_MS, newest_unix_ms=NOW_MS + HOUR_MS, wait_s=0),
    ):
        machine.settle()
        assert not machine.eras.trusted


def test_a_clock_far_from_the_newest_reading_is_believed_after_a_day_unset() -> None:
    for newest_ms in (NOW_MS - FAR_AHEAD_MS - HOUR_MS, NOW_MS + 300 * 24 * HOUR_MS):
        machine = Machine(NOW_MS, newest_unix_ms=newest_ms)
        machine.settle()
        machine.mono_s += DOUBTFUL_WAIT_S - 1
        machine.settle()
        assert machine.eras.is_doubtful(machine.unix_ms)
        assert not machine.eras.trusted
        machine.mono_s += 1
        machine.settle()
        assert machine.eras.trusted
        assert not machine.eras.is_doubtful(machine.unix_ms)


def test_a_clock_far_ahead_is_believed_when_somebody_set_it_or_the_kernel_says_so() -> None:
    machine = Machine(10_000, newest_unix_ms=NOW_MS - 2 * FAR_AHEAD_MS)
    machine.settle()
    machine.step(NOW_MS)
    machine.settle()
    assert machine.eras.trusted
    machine = Machine(NOW_MS, newest_unix_ms=NOW_MS - 2 * FAR_AHEAD_MS)
    machine.settle(synchronised=True)
    assert machine.eras.trusted


def test_a_step_far_ahead_and_back_heals_what_was_read_meanwhile() -> None:
    machine = Machine(NOW_MS)
    machine.settle(synchronised=True)
    machine.step(3 * FAR_AHEAD_MS)
    machine.mono_s += 3600
    machine.settle()
    machine.mono_s += 3600
    machine.settle()
    assert not machine.eras.trusted
    machine.step(-3 * FAR_AHEAD_MS)
    assert machine.settle() == (Correction(2, 1, -3 * FAR_AHEAD_MS),)
    assert machine.eras.trusted


def test_a_clock_that_was_believed_for_years_stays_plausible() -> None:
    machine = Machine(NOW_MS, newest_unix_ms=NOW_MS)
    for _ in range(10):
        machine.mono_s += 100 * 86_400
        machine.settle()
    machine.step(2 * STEP_MS)
    machine.settle()
    machine.mono_s += 300
    machine.settle()
    assert machine.eras.trusted


def test_setting_the_clock_from_1970_corrects_what_was_read_before() -> None:
    machine = Machine(10_000)
    machine.settle()
    assert machine.read() == (1, 10_000)
    machine.mono_s += 60
    machine.step(NOW_MS)
    assert machine.settle() == (Correction(1, 2, NOW_MS),)
    assert machine.eras.trusted, "somebody set it"
    assert [era.id for era in machine.eras.all] == [2]


def test_a_reading_that_was_under_way_when_the_clock_was_set_goes_with_the_others() -> None:
    machine = Machine(10_000)
    machine.settle()
    before_mono_s, before_ms = machine.mono_s, machine.unix_ms
    machine.mono_s += 1
    machine.step(NOW_MS)
    machine.settle()
    assert machine.eras.place(before_mono_s, before_ms) == (2, before_ms + NOW_MS)


def test_a_step_of_a_trusted_clock_corrects_nothing_and_begins_an_era() -> None:
    for by_ms in (-HOUR_MS, HOUR_MS, -1000, 1000):
        machine = Machine(NOW_MS)
        machine.settle(synchronised=True)
        machine.step(by_ms)
        assert machine.settle() == ()
        assert machine.read()[0] == 2
        assert not machine.eras.trusted, "it was good before, and nobody knows what it is now"
        assert machine.settle(synchronised=True) == ()
        assert machine.eras.trusted


def test_a_clock_that_is_set_wrong_and_put_right_heals_what_was_read_meanwhile() -> None:
    machine = Machine(NOW_MS)
    machine.settle(synchronised=True)
    machine.step(HOUR_MS)
    machine.settle()
    machine.read()
    machine.step(-HOUR_MS)
    assert machine.settle() == (Correction(2, 1, -HOUR_MS),)


def test_a_clock_that_goes_back_to_where_it_was_corrected_from_is_followed() -> None:
    machine = Machine(NOW_MS)
    machine.settle()
    machine.step(HOUR_MS)
    machine.settle()
    machine.step(-HOUR_MS)
    machine.settle()
    era, unix_ms = machine.read()
    assert (era, unix_ms) == (3, machine.unix_ms)


def test_a_clock_set_before_the_newest_reading_is_believed_after_the_wait() -> None:
    machine = Machine(NOW_MS + 24 * HOUR_MS, newest_unix_ms=NOW_MS + 24 * HOUR_MS, wait_s=300)
    machine.settle(synchronised=True)
    machine.step(-24 * HOUR_MS)
    machine.settle()
    machine.mono_s += 300
    machine.settle()
    assert machine.eras.trusted


def test_a_slewed_clock_stays_in_its_era() -> None:
    machine = Machine(NOW_MS)
    machine.settle(synchronised=True)
    for _ in range(100):
        machine.mono_s += 1
        machine.step(STEP_MS // 5)
        machine.settle(synchronised=True)
        assert machine.read()[0] == 1
    assert machine.eras.all[0].offset_ms == machine.offset_ms


def test_a_later_process_of_the_same_boot_goes_on_in_the_era() -> None:
    known = [Era(7, "boot", NOW_MS, trusted=True)]
    eras = Eras("boot", known, 8, NOW_MS, 300.0)
    eras.settle(100.0, NOW_MS + 100_300, synchronised=False)
    assert eras.trusted
    assert eras.place(101.0, NOW_MS + 101_000)[0] == 7


def test_a_process_that_starts_after_the_clock_was_set_corrects_the_one_before() -> None:
    eras = Eras("boot", [Era(7, "boot", 0, trusted=False)], 8, 0, 300.0)
    assert eras.settle(100.0, NOW_MS, synchronised=False) == (Correction(7, 8, NOW_MS - 100_000),)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 300, -300, 1000, -1000, HOUR_MS, -HOUR_MS, NOW_MS, -NOW_MS]),
            st.booleans(),
            st.integers(0, 400),
        ),
        max_size=30,
    )
)
def test_whatever_the_clock_does_time_within_an_era_is_what_passed(
    steps: list[tuple[int, bool, int]],
) -> None:
    machine = Machine(10_000)
    taken: list[tuple[float, int, int]] = []
    for by_ms, synchronised, pass_s in steps:
        machine.step(by_ms)
        for correction in machine.settle(synchronised=synchronised):
            assert correction.into in {era.id for era in machine.eras.all}
            taken = [
                (mono_s, correction.into, unix_ms + correction.shift_ms)
                if era == correction.era
                else (mono_s, era, unix_ms)
                for mono_s, era, unix_ms in taken
            ]
        if machine.eras.trusted:
            assert all(era.trusted for era in machine.eras.all)
        taken.append((machine.mono_s, *machine.read()))
        machine.mono_s += pass_s
    known = {era.id for era in machine.eras.all}
    for mono_s, era, unix_ms in taken:
        assert era in known
        for other_mono_s, other_era, other_ms in taken:
            if era == other_era:
                passed_ms = (mono_s - other_mono_s) * 1000
                slewed_ms = 300 * len(steps)
                assert abs(unix_ms - other_ms - passed_ms) <= slewed_ms
