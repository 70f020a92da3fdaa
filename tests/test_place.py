"""A sink's place: nothing that was not sent is ever forgotten."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.place import MOST_GAPS, Place

_SEQS = st.integers(1, 400)
_BACK = st.lists(st.tuples(_SEQS, _SEQS), max_size=5)
_STEPS = st.lists(st.tuples(st.sampled_from(["sent", "deferred"]), _SEQS, _SEQS), max_size=40)


def check_form(place: Place) -> None:
    """Gaps are sorted, apart from each other, below `live` and not too many."""
    edges = [seq for gap in place.gaps for seq in gap]
    assert edges == sorted(set(edges))
    assert all(edge <= place.live for edge in edges)
    assert len(place.gaps) <= MOST_GAPS


@given(_STEPS)
def test_every_number_was_sent_or_waits(steps: list[tuple[str, int, int]]) -> None:
    place = Place()
    sent: set[int] = set()
    for what, low, high in steps:
        if what == "sent":
            sent |= set(range(low, high))
            place = place.sent(low, high)
        else:
            place = place.deferred(high)
        check_form(place)
    waiting = {seq for gap in place.gaps for seq in range(*gap)} | set(range(place.live, 401))
    assert waiting == set(range(1, 401)) - sent
    assert place.backlog(401) == len(waiting)


def test_what_fails_while_new_joins_the_gap_before_it() -> None:
    place = Place(live=10).deferred(15).deferred(20)
    assert place == Place(live=20, gaps=((10, 20),))


def test_a_gap_is_filled_from_the_oldest_on() -> None:
    place = Place(live=50, gaps=((10, 20), (30, 40)))
    assert place.sent(10, 15).gaps == ((15, 20), (30, 40))
    assert place.sent(10, 20).gaps == ((30, 40),)
    assert place.sent(12, 14).gaps == ((10, 12), (14, 20), (30, 40))


def test_numbers_that_were_skipped_wait() -> None:
    assert Place(live=10).sent(15, 20) == Place(live=20, gaps=((10, 15),))


def test_an_empty_range_changes_nothing() -> None:
    place = Place(live=50, gaps=((10, 20),))
    assert place.sent(15, 15) == place.sent(30, 20) == place.deferred(3) == place


def test_too_many_gaps_are_joined_where_they_are_closest() -> None:
    place = Place(live=10_000).deferred(20_000)
    for number in range(MOST_GAPS):
        place = place.sent(10_000 + 20 * number + 10, 10_000 + 20 * number + 15)
        check_form(place)
    assert len(place.gaps) == MOST_GAPS
    place = place.sent(19_000, 19_001)
    check_form(place)
    assert (19_000, 19_001) not in place.gaps
    assert any(start < 19_000 < end for start, end in place.gaps), "the closest two are these"


@given(_STEPS, _SEQS)
def test_what_waits_in_a_range_is_counted(steps: list[tuple[str, int, int]], middle: int) -> None:
    place = Place()
    for what, low, high in steps:
        place = place.sent(low, high) if what == "sent" else place.deferred(high)
    assert place.backlog(401) == place.waiting(0, middle) + place.waiting(middle, 401)
    assert place.waiting(middle, middle) == 0


@given(_STEPS, st.integers(0, 10**12))
def test_the_text_of_a_place_is_read_as_the_same_place(
    steps: list[tuple[str, int, int]], change: int
) -> None:
    place = Place(change=change)
    for what, low, high in steps:
        place = place.sent(low, high) if what == "sent" else place.deferred(high)
    assert Place.from_json(place.to_json()) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"live": 1, "gaps": []}',
        '{"live": 1, "gaps": [], "change": 0, "more": 1}',
        '{"live": 1.0, "gaps": [], "change": 0}',
        '{"live": true, "gaps": [], "change": 0}',
        '{"live": -1, "gaps": [], "change": 0}',
        '{"live": 1, "gaps": [], "change": -1}',
        '{"live": 1, "gaps": [], "change": "0"}',
        '{"live": 1, "gaps": {}, "change": 0}',
        '{"live": 9, "gaps": [3], "change": 0}',
        '{"live": 9, "gaps": [[3]], "change": 0}',
        '{"live": 9, "gaps": [[3, 4, 5]], "change": 0}',
        '{"live": 9, "gaps": [[3, 3]], "change": 0}',
        '{"live": 9, "gaps": [[4, 3]], "change": 0}',
        '{"live": 9, "gaps": [[3, 10]], "change": 0}',
        '{"live": 9, "gaps": [[5, 6], [3, 4]], "change": 0}',
        '{"live": 9, "gaps": [[3, "4"]], "change": 0}',
        '{"live": NaN, "gaps": [], "change": 0}',
    ],
)
def test_a_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Place.from_json(text)


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=10,
    )
)
def test_whatever_is_read_has_a_sound_form(value: object) -> None:
    try:
        place = Place.from_json(json.dumps({"live": 5, "gaps": value, "change": 0}))
    except ValueError:
        return
    check_form(place)


@given(_STEPS, _BACK)
def test_what_is_taken_back_waits_and_nothing_else(
    steps: list[tuple[str, int, int]], back: list[tuple[int, int]]
) -> None:
    place = Place()
    for what, low, high in steps:
        place = place.sent(low, high) if what == "sent" else place.deferred(high)
    waiting = {seq for seq in range(1, 401) if place.waiting(seq, seq + 1)}
    for low, high in back:
        place = place.taken_back(low, high)
        check_form(place)
        waiting |= set(range(low, high))
    assert {seq for seq in range(1, 401) if place.waiting(seq, seq + 1)} == waiting
