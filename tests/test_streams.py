"""Who is sent history without an end in sight: a slow reader makes room, a quick one never."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.api import Request, Stream
from edge.api import history as history_module
from edge.api.history import STREAMS, HistoryAnswers
from edge.api.readers import Readers
from edge.errors import DlmError, RequestError
from tests.journals import START_MS, WrittenJournal, a_series
from tests.peers import wait_until

ROWS = 3000


@pytest.fixture
def answers(tmp_path: Path) -> HistoryAnswers:
    """Answers from a journal with a meter of so many rows."""
    with WrittenJournal(tmp_path) as journal:
        rows = [(seq, START_MS + 1000 * seq, {"power": 1.0}) for seq in range(1, ROWS + 1)]
        journal.add_block(a_series(), rows)
        return HistoryAnswers(Readers(journal.path))


def ask(answers: HistoryAnswers) -> Stream:
    request = Request("GET", "/", {"from": "0"}, {"accept": "text/csv"}, b"")
    response = answers.answer(request, "meter_1", None, START_MS * 2)
    assert response.stream is not None
    return response.stream


def has_room(answers: HistoryAnswers) -> bool:
    try:
        ask(answers).close()
    except RequestError:
        return False
    return True


def test_the_slowest_makes_room_once_it_is_slow(
    answers: HistoryAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [ask(answers) for _ in range(STREAMS)]
    for stream in streams:
        next(stream)
    assert not has_room(answers), "nobody is slow yet"
    monkeypatch.setattr(history_module, "SLOW_AFTER_S", 0.2)
    monkeypatch.setattr(history_module, "SLOW_BYTES_PER_S", 10**9)
    wait_until(lambda: has_room(answers), what="a place")
    gone = []
    for stream in streams:
        try:
            rows = sum(piece.count(b"\r\n") for piece in stream)
            assert rows > ROWS / 2, "all of it for the others"
        except DlmError as error:
            gone.append(str(error))
        stream.close()
    assert gone == ["The client took its history too slowly while another waited."]


def test_nobody_is_cut_off_while_nobody_waits(
    answers: HistoryAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "SLOW_AFTER_S", 0.0)
    monkeypatch.setattr(history_module, "SLOW_BYTES_PER_S", 10**12)
    for stream in [ask(answers) for _ in range(STREAMS)]:
        assert sum(piece.count(b"\r\n") for piece in stream) == ROWS + 1
        stream.close()


def test_who_reads_quickly_keeps_its_place(
    answers: HistoryAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "SLOW_AFTER_S", 0.0)
    monkeypatch.setattr(history_module, "SLOW_BYTES_PER_S", 1)
    streams = [ask(answers) for _ in range(STREAMS)]
    for stream in streams:
        next(stream)
    assert not has_room(answers)
    for stream in streams:
        stream.close()
    assert has_room(answers)
