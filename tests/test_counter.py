"""What an energy counter does besides rising, and that nothing impossible is ever counted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import counter
from edge.counter import LONGEST_GAP_MS, MARGIN, REFRESH_MS, Correction, Kind, Limits, Trace, trace

NOW_MS = 1_790_000_000_000
RATED_KW = 22.0
"""In 5 s it makes 0.0306 kWh; 0.0367 kWh with the margin, and 0.073 kWh are lent."""
WALLBOX = Limits(RATED_KW)
DAY_S = 86_400.0


def follow(
    kwh: Sequence[float],
    limits: Limits = WALLBOX,
    *,
    every_s: float = 5.0,
    gap_s: float = 0.0,
    gap_at: int = 1,
) -> Trace:
    """Follow readings that come every so often; gap_s: time lost before reading gap_at."""
    times = [
        NOW_MS + round(1000 * (index * every_s + (gap_s if index >= gap_at else 0.0)))
        for index in range(len(kwh))
    ]
    return trace("energy", times, kwh, [1] * len(kwh), limits)


def flows_of(traced: Trace) -> list[tuple[int, int, float]]:
    """What flowed between two readings: from and to, unix ms, and kWh."""
    return [
        (from_ms, to_ms, after - before)
        for rise in traced.rises
        for (from_ms, before), (to_ms, after) in pairwise(zip(rise.unix_ms, rise.kwh, strict=True))
    ]


def total(traced: Trace) -> float:
    return sum(kwh for _, _, kwh in flows_of(traced))


def kinds(traced: Trace) -> list[Kind]:
    return [correction.kind for correction in traced.corrections]


@pytest.mark.parametrize(
    ("what", "kwh", "counted", "expected"),
    [
        ("rises", [100.0, 100.01, 100.04, 100.06], 0.06, []),
        ("stands still", [100.0, 100.0, 100.0], 0.0, []),
        ("is rounded down for a moment", [100.03, 100.04, 100.03, 100.05], 0.02, []),
        ("is a float32", [98304.03125, 98304.0390625, 98304.03125, 98304.046875], 0.015625, []),
        ("counts whole kWh", [100.0, 100.0, 100.0, 101.0, 101.0], 1.0, []),
        ("falls to 0 for a moment", [500.01, 500.02, 0.0, 500.05, 500.06], 0.05, [Kind.GLITCH]),
        ("jumps up for a moment", [500.01, 9e5, 500.05, 500.06], 0.05, [Kind.GLITCH]),
        ("is wrong twice", [500.01, 9e5, 0.0, 500.05, 500.06], 0.05, [Kind.GLITCH] * 2),
        ("is wrong all over", [5e2, 9e5, 3.0, 7e4, 500.01], 0.01, [Kind.GLITCH] * 3),
        ("is reset", [500.0, 500.02, 0.01, 0.03, 0.05], 0.07, [Kind.RESET]),
        ("is reset to 0", [500.0, 500.02, 0.0, 0.03, 0.05], 0.07, [Kind.RESET]),
        ("was replaced, lower", [500.0, 500.02, 77.7, 77.73, 77.75], 0.07, [Kind.REPLACEMENT]),
        ("was replaced, higher", [500.0, 500.02, 812.5, 812.53, 812.55], 0.07, [Kind.REPLACEMENT]),
        ("was replaced by a still one", [500.02, 12.3, 12.3, 12.3], 0.0, [Kind.REPLACEMENT]),
        ("begins wrong", [0.0, 500.01, 500.02, 500.03], 0.02, [Kind.REPLACEMENT]),
    ],
)
def test_a_counter(what: str, kwh: list[float], counted: float, expected: list[Kind]) -> None:
    traced = follow(kwh)
    assert total(traced) == pytest.approx(counted, abs=1e-9), what
    assert kinds(traced) == expected
    assert not traced.pending


class TestRollover:
    REGISTER = Limits(RATED_KW, counter_kwh=6553.6)
    OVER_THE_TOP = (6553.55, 6553.58, 0.01, 0.04, 0.06)

    def test_what_flowed_over_the_top_counts(self) -> None:
        traced = follow(self.OVER_THE_TOP, self.REGISTER)
        assert kinds(traced) == [Kind.ROLLOVER]
        assert total(traced) == pytest.approx(0.03 + 0.03 + 0.05)

    def test_a_register_of_unknown_width_was_reset(self) -> None:
        traced = follow(self.OVER_THE_TOP)
        assert kinds(traced) == [Kind.RESET]
        assert total(traced) == pytest.approx(0.03 + 0.01 + 0.05)

    def test_during_a_gap(self) -> None:
        traced = follow([6500.0, 26.4, 26.43, 26.45], self.REGISTER, gap_s=DAY_S)
        assert kinds(traced) == [Kind.ROLLOVER]
        assert total(traced) == pytest.approx(80.05)

    def test_what_is_not_possible_over_the_top_is_not_one(self) -> None:
        traced = follow([6553.0, 3.0, 3.03, 3.05], self.REGISTER)
        assert kinds(traced) == [Kind.REPLACEMENT]
        assert total(traced) == pytest.approx(0.05)

    def test_a_counter_that_was_not_near_the_top_did_not_turn_over(self) -> None:
        # In 30 days 15,840 kWh are possible, so that alone would not tell.
        traced = follow([5000.0, 0.5, 0.51, 0.53], self.REGISTER, gap_s=30 * DAY_S)
        assert kinds(traced) == [Kind.RESET]
        assert total(traced) == pytest.approx(0.53)


class TestGap:
    def test_as_much_counts_as_the_rated_power_can_make(self) -> None:
        traced = follow([100.0, 600.0, 600.01], gap_s=DAY_S)
        assert total(traced) == pytest.approx(500.01)
        assert flows_of(traced)[0] == (NOW_MS, NOW_MS + 86_405_000, 500.0)

    def test_more_than_that_is_another_counter(self) -> None:
        traced = follow([100.0, 800.0, 800.01, 800.02], gap_s=DAY_S)
        assert kinds(traced) == [Kind.REPLACEMENT]
        assert total(traced) == pytest.approx(0.02)

    def test_a_wrong_value_after_it_does_not_count_even_if_possible(self) -> None:
        traced = follow([100.0, 400.0, 150.0, 150.01, 150.02], gap_s=DAY_S)
        assert kinds(traced) == [Kind.GLITCH]
        assert total(traced) == pytest.approx(50.02)

    def test_a_low_wrong_value_after_it_does_not_hide_the_right_one(self) -> None:
        traced = follow([100.0, 400.0, 150.0, 400.01, 400.02], gap_s=DAY_S)
        assert kinds(traced) == [Kind.GLITCH]
        assert total(traced) == pytest.approx(300.02)

    def test_a_low_value_after_a_long_one_is_not_taken_for_energy_since_a_reset(self) -> None:
        traced = follow([50_000.0, 9000.0, 9000.01, 9000.02], gap_s=30 * DAY_S)
        assert kinds(traced) == [Kind.REPLACEMENT]


class TestLargeSteps:
    """Counters that are brought up to date every quarter of an hour, by what flowed in it."""

    STEP = (*[100.0] * 180, 104.37, *[104.37] * 20)

    def test_a_step_is_judged_by_the_time_since_the_last_one(self) -> None:
        traced = follow(self.STEP)
        assert total(traced) == pytest.approx(4.37)
        assert traced.corrections == []

    def test_a_step_that_is_too_large_for_it_is_another_counter(self) -> None:
        assert kinds(follow(self.STEP[100:])) == [Kind.REPLACEMENT]

    def test_a_counter_that_moved_all_the_time_has_none(self) -> None:
        rising = [100.0 + 0.01 * index for index in range(360)]
        traced = follow([*rising, *(kwh + 5.0 for kwh in rising[-3:])])
        assert kinds(traced) == [Kind.REPLACEMENT]
        assert total(traced) == pytest.approx(3.59 + 0.02)

    def test_two_values_that_were_delayed_and_come_at_once_are_possible(self) -> None:
        times = [NOW_MS, NOW_MS + 5000, NOW_MS + 14_900, NOW_MS + 15_000]
        traced = trace("energy", times, [7.0, 7.0305, 7.061, 7.0915], [1] * 4, WALLBOX)
        assert total(traced) == pytest.approx(0.0915)

    def test_what_is_lent_is_lent_once(self) -> None:
        whole_kwh = [float(index) for index in range(200)]
        assert total(follow(whole_kwh)) < RATED_KW * MARGIN * 1010 / 3600 + 1.0


class TestLoan:
    """Steps of 0.1 kWh in 5 s: 0.0367 kWh are possible, the rest is lent."""

    def test_it_is_paid_back_when_the_counter_moves_by_what_is_possible(self) -> None:
        traced = follow([100.0, *[100.1] * 20, 100.21, 100.31, 100.31, 100.31])
        assert total(traced) == pytest.approx(0.31)
        assert traced.corrections == []

    def test_it_is_not_when_the_counter_moves_by_more_than_is_left(self) -> None:
        traced = follow([100.0, 100.1, 100.13, 100.23, 100.26, 100.29])
        assert total(traced) == pytest.approx(0.13 + 0.06)
        assert kinds(traced) == [Kind.REPLACEMENT]

    def test_it_comes_on_top_of_what_was_possible_since_the_counter_moved(self) -> None:
        traced = follow([100.0, *[100.03] * 40, 101.54, 101.54, 101.54])
        assert total(traced) == pytest.approx(1.54)
        assert traced.corrections == []


class TestEndOfData:
    @pytest.mark.parametrize(
        "kwh",
        [
            [500.01, 0.0],
            [500.01, 0.0, 0.01],
            [500.01, 77.0, 77.01],
            [500.01, 500.03, 9e5],
            # One of the last two is wrong, and both are possible.
            [500.01, 500.08, 500.03],
        ],
    )
    def test_a_jump_waits_for_two_more_readings(self, kwh: list[float]) -> None:
        traced = follow(kwh)
        assert traced.pending
        assert total(traced) <= 0.02 + 1e-9
        assert traced.corrections == []
        assert traced.decided_ms == NOW_MS + 5000 * len(flows_of(traced))

    def test_a_glitch_is_told_as_soon_as_it_is_gone(self) -> None:
        traced = follow([500.01, 0.0, 500.03])
        assert not traced.pending
        assert kinds(traced) == [Kind.GLITCH]
        assert traced.decided_ms == NOW_MS + 10_000


class TestEras:
    """Readings on both sides of a change of era."""

    def follow(self, elapsed_ms: int, rise_kwh: float, boots: dict[int, str]) -> Trace:
        second_ms = NOW_MS + elapsed_ms
        return trace(
            "energy",
            [NOW_MS, second_ms, second_ms + 5000],
            [500.0, 500.0 + rise_kwh, 500.0 + rise_kwh],
            [1, 2, 2],
            Limits(RATED_KW, boots=boots),
        )

    @pytest.mark.parametrize("boots", [{}, {1: "a", 2: "b"}, {2: "b"}])
    def test_the_time_of_a_power_cut_passed(self, boots: dict[int, str]) -> None:
        assert total(self.follow(3_600_000, 5.0, boots)) == pytest.approx(5.0)

    def test_the_time_that_a_clock_was_put_forward_by_did_not(self) -> None:
        traced = self.follow(3_600_000, 5.0, {1: "a", 2: "a"})
        assert total(traced) == 0.0
        assert kinds(traced) == [Kind.CLOCK_STEP]

    @pytest.mark.parametrize(
        ("elapsed_ms", "kind"),
        [
            (-3_600_000, Kind.CLOCK_STEP),
            (0, Kind.CLOCK_STEP),
            (NOW_MS, Kind.GAP),
            (LONGEST_GAP_MS + 1, Kind.GAP),
        ],
        ids=["put back", "at once", "from 1970", "from a month ago"],
    )
    def test_a_time_that_cannot_be_believed_gives_no_energy(
        self, elapsed_ms: int, kind: Kind
    ) -> None:
        traced = self.follow(elapsed_ms, 0.02, {})
        assert total(traced) == 0.0
        assert kinds(traced) == [kind]

    def test_nothing_is_spread_over_a_long_gap_within_an_era(self) -> None:
        for gap_ms, counted in ((LONGEST_GAP_MS, 5.0), (LONGEST_GAP_MS + 1, 0.0)):
            times = [NOW_MS, NOW_MS + gap_ms, NOW_MS + gap_ms + 5000]
            traced = trace("energy", times, [100.0, 105.0, 105.0], [1, 1, 1], WALLBOX)
            assert total(traced) == pytest.approx(counted)
            assert kinds(traced) == ([] if counted else [Kind.GAP])

    def test_a_glitch_and_a_time_before_all_are_left_out_together(self) -> None:
        times = [NOW_MS, NOW_MS + 5000, NOW_MS - 10_000, NOW_MS + 20_000]
        traced = trace("energy", times, [100.0, 9e5, 100.0, 100.0], [1, 1, 2, 2], WALLBOX)
        assert flows_of(traced) == [(NOW_MS, NOW_MS + 20_000, 0.0)]
        assert kinds(traced) == [Kind.GLITCH] * 2

    def test_nothing_is_said_when_nothing_was_lost(self) -> None:
        assert self.follow(-5000, 0.0, {}).corrections == []


@pytest.mark.parametrize("step_kwh", [0.07, 1.014])
def test_what_rises_on_and_on_too_fast_is_told_as_that_and_not_counted(step_kwh: float) -> None:
    traced = follow([500.013 + round(n * step_kwh, 3) for n in range(20)])
    assert total(traced) <= 0.15, "what is lent once, and what it takes to be told"
    assert set(kinds(traced)) == {Kind.TOO_FAST}


def test_a_correction_is_one_sentence() -> None:
    correction = Correction("energy", Kind.RESET, 1_774_746_005_000, 8034.25, 0.01)
    assert str(correction) == (
        "the counter energy went from 8034.25 to 0.01 kWh at 2026-03-29T01:00:05Z (reset): "
        "it was set to 0, and what it shows since counts."
    )
    for kind in Kind:
        assert str(Correction("energyExport", kind, 0, 1.0, 2.0)).endswith(".")


FAULTS = st.sampled_from(["glitch", "zero", "reset", "replaced", "rollover"])


@given(
    powers=st.lists(st.floats(0.0, RATED_KW), min_size=2, max_size=60),
    faults=st.lists(st.tuples(st.integers(0, 59), FAULTS, st.floats(0.0, 9999.0)), max_size=6),
    gaps=st.dictionaries(st.integers(0, 59), st.integers(1, 100_000), max_size=3),
)
def test_whatever_is_wrong_no_more_counts_than_can_have_flowed(
    powers: list[float], faults: list[tuple[int, str, float]], gaps: dict[int, int]
) -> None:
    by_index = {index: (fault, value) for index, fault, value in faults}
    now_ms, true_kwh = NOW_MS, 9000.0
    times, shown = [], []
    for index, power_kw in enumerate(powers):
        elapsed_s = 5 + gaps.get(index, 0)
        now_ms += 1000 * elapsed_s
        true_kwh = (true_kwh + power_kw * elapsed_s / 3600) % 10_000
        fault, value = by_index.get(index, ("", 0.0))
        if fault in ("reset", "replaced", "rollover"):
            true_kwh = {"reset": 0.0, "replaced": value, "rollover": 9999.99}[fault]
        times.append(now_ms)
        shown.append(round({"glitch": value, "zero": 0.0}.get(fault, true_kwh), 3))
    traced = trace("energy", times, shown, [1] * len(shown), Limits(RATED_KW, 10_000.0))
    most_kwh = RATED_KW * MARGIN * (now_ms - times[0] + REFRESH_MS) / 3_600_000 + 1.0
    assert total(traced) <= most_kwh
    reached_ms = times[0]
    for from_ms, to_ms, kwh in flows_of(traced):
        assert reached_ms <= from_ms < to_ms
        assert kwh >= 0
        reached_ms = to_ms
    assert traced.decided_ms <= now_ms


@given(
    rises_wh=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    at=st.integers(1, 57),
    wrong=st.sampled_from([0.0, 0.5, 77_777.0, 4_294_967.295, -1.0]),
)
def test_a_glitch_changes_nothing(rises_wh: list[int], at: int, wrong: float) -> None:
    kwh = [1000.0]
    for rise in rises_wh:
        kwh.append(kwh[-1] + rise / 1000)
    good = follow(kwh)
    assert total(good) == pytest.approx(kwh[-1] - kwh[0], abs=1e-9)
    if at < len(kwh) - 1:
        with_glitch = follow([*kwh[:at], wrong, *kwh[at + 1 :]])
        assert total(with_glitch) == pytest.approx(total(good), abs=1e-9)
        assert kinds(with_glitch) == [Kind.GLITCH]


class OneByOne(counter._Walk):
    """Judges every reading by itself."""

    def _usual_from(self, index: int) -> int:
        return index


EVENTS = st.sampled_from(
    ["", "", "", "wrong", "stays", "jitter", "loan", "era", "clock", "not a number"]
)
COLUMNS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 4), EVENTS, st.integers(-20, 40)), max_size=60
)
"""What flowed in Wh, seconds since the last reading, what happens, and by how much."""


@given(COLUMNS, st.sampled_from([0, 1, 2, 3]), st.sampled_from([3.0, RATED_KW]))
def test_passing_over_usual_readings_changes_nothing(
    column: list[tuple[int, int, str, int]], digits: int, rated_kw: float
) -> None:
    now_ms, wh, era = NOW_MS, 6_553_000, 1
    times, shown, eras = [now_ms], [6553.0], [era]
    for rise_wh, elapsed_s, event, amount in column:
        now_ms += 1000 * elapsed_s + (100_000 * amount if event == "clock" else 0)
        wh += rise_wh + {"loan": 100, "stays": -100_000}.get(event, 0) * abs(amount)
        wh = max(0, wh) % 6_553_600
        era += event == "era"
        kwh = round(wh / 1000, digits)
        times.append(now_ms)
        eras.append(era)
        shown.append(
            {
                "wrong": kwh + 50.0 * amount,
                "jitter": kwh - amount / 1000,
                "not a number": float("nan"),
            }.get(event, kwh)
        )
    limits = Limits(rated_kw, 6553.6, {1: "a", 2: "a", 3: "b"})
    each = OneByOne("energy", times, shown, eras, limits)
    each.run()
    traced = trace("energy", times, shown, eras, limits)
    assert repr(traced.corrections) == repr(each.corrections)
    assert (traced.decided_ms, traced.pending) == (each.read_ms, each.pending)
    judged = Trace(each.rises, each.corrections, each.read_ms, each.pending)
    assert flows_of(traced) == flows_of(judged)
