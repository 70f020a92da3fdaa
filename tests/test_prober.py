"""Probes over REST: a few at a time, and none that is waited for for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from edge import prober as module
from edge.errors import RequestError
from edge.model import Exchange, Meter, Outcome, Probe
from edge.prober import MOST_AT_A_TIME, Prober
from tests.building import a_meter, a_speaking_meter
from tests.peers import wait_until

FOUND = Probe(Outcome({"power": 1.0}), (Exchange("unit 1: holding register 0", "0001"),))


class Lines:
    """The lines of the site; their probes end when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Meter, Future[Probe]]] = []

    def probe(self, meter: Meter) -> Future[Probe]:
        done: Future[Probe] = Future()
        self.asked.append((meter, done))
        return done


class OneListener:
    """A listener of which only the probe is wanted."""

    def __init__(self, meter: Meter, heard: Callable[[Meter], Probe]) -> None:
        self.made_for = meter
        self.is_closed = False
        self._heard = heard

    def probe(self, meter: Meter) -> Probe:
        assert not self.is_closed
        return self._heard(meter)

    def close(self) -> None:
        self.is_closed = True


def no_listener(meter: Meter) -> OneListener:
    raise AssertionError("nobody speaks here")


def busy(prober: Prober, meter: Meter) -> RequestError:
    """The refusal of a probe that there is no time for."""
    with pytest.raises(RequestError) as caught:
        prober.probe(meter)
    error = caught.value
    assert (error.status, error.code) == (503, "BUSY")
    assert dict(error.headers) == {"Retry-After": "30"}
    return error


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def prober(lines: Lines) -> Prober:
    return Prober(lines.probe, no_listener)  # type: ignore[arg-type]


@pytest.fixture
def clients(lines: Lines) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MOST_AT_A_TIME + 1) as threads:
        yield threads
        for _, done in lines.asked:
            done.cancel()  # so that a test which failed leaves nobody waiting


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DONE_WITHIN_S", 0.05)


def test_a_meter_that_is_asked_is_probed_on_its_line(
    lines: Lines, prober: Prober, clients: ThreadPoolExecutor
) -> None:
    meter = a_meter()
    answer = clients.submit(prober.probe, meter)
    wait_until(lambda: lines.asked, what="the line to be asked")
    ((asked, done),) = lines.asked
    assert asked is meter
    assert not answer.done()
    done.set_result(FOUND)
    assert answer.result(5) is FOUND


def test_a_meter_that_speaks_is_heard_over_a_connection_of_its_own(lines: Lines) -> None:
    made: list[OneListener] = []

    def make_driver(meter: Meter) -> OneListener:
        made.append(OneListener(meter, lambda heard: FOUND if heard is meter else Probe()))
        return made[-1]

    meter = a_speaking_meter()
    prober = Prober(lines.probe, make_driver)  # type: ignore[arg-type]
    assert prober.probe(meter) is FOUND
    assert [(listener.made_for, listener.is_closed) for listener in made] == [(meter, True)]
    assert lines.asked == []


def test_no_more_than_a_few_at_a_time(
    lines: Lines, prober: Prober, clients: ThreadPoolExecutor
) -> None:
    answers = [clients.submit(prober.probe, a_meter()) for _ in range(MOST_AT_A_TIME)]
    wait_until(lambda: len(lines.asked) == MOST_AT_A_TIME, what="all to be asked")
    assert str(busy(prober, a_meter())).startswith(f"{MOST_AT_A_TIME} tests are under way")
    assert len(lines.asked) == MOST_AT_A_TIME, "who is refused is not asked"
    lines.asked[0][1].set_result(FOUND)
    wait_until(lambda: any(answer.done() for answer in answers), what="room for another")
    answers.append(clients.submit(prober.probe, a_meter()))
    wait_until(lambda: len(lines.asked) > MOST_AT_A_TIME, what="the next one to be asked")
    for _, done in lines.asked[1:]:
        done.set_result(FOUND)
    assert [answer.result(5) for answer in answers] == [FOUND] * (MOST_AT_A_TIME + 1)


@pytest.mark.usefixtures("impatient")
def test_who_waits_too_long_is_told_and_the_line_need_not_ask_any_more(
    lines: Lines, prober: Prober
) -> None:
    meter = a_meter()
    assert str(busy(prober, meter)).startswith(f"{meter.line} was too busy")
    ((_, done),) = lines.asked
    assert done.cancelled()


@pytest.mark.usefixtures("impatient")
def test_a_probe_under_way_may_end_after_nobody_waits_any_more(lines: Lines) -> None:
    def begun(meter: Meter) -> Future[Probe]:
        done = lines.probe(meter)
        done.set_running_or_notify_cancel()
        return done

    busy(Prober(begun, no_listener), a_meter())  # type: ignore[arg-type]
    lines.asked[0][1].set_result(FOUND)


def test_a_line_that_cannot_be_had_is_busy() -> None:
    def refused(meter: Meter) -> Future[Probe]:
        done: Future[Probe] = Future()
        done.cancel()
        return done

    busy(Prober(refused, no_listener), a_meter())  # type: ignore[arg-type]


@pytest.mark.usefixtures("impatient")
def test_whatever_ends_a_probe_makes_room_for_the_next(lines: Lines) -> None:
    def bug(meter: Meter) -> OneListener:
        raise ZeroDivisionError

    prober = Prober(lines.probe, bug)  # type: ignore[arg-type]
    for _ in range(MOST_AT_A_TIME):
        busy(prober, a_meter())
        with pytest.raises(ZeroDivisionError):
            prober.probe(a_speaking_meter())
    assert "too busy" in str(busy(prober, a_meter()))


def test_the_driver_is_imported_by_who_asks_and_not_by_the_cycle(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import takes longer than a tick."""
    loaded: list[tuple[str, threading.Thread]] = []
    monkeypatch.setattr(
        module,
        "load_driver",
        lambda protocol: loaded.append((protocol, threading.current_thread())),
    )

    def probe(meter: Meter) -> Future[Probe]:
        assert loaded == [(meter.protocol, threading.current_thread())]
        done: Future[Probe] = Future()
        done.set_result(FOUND)
        return done

    assert Prober(probe, no_listener).probe(a_meter()) is FOUND  # type: ignore[arg-type]
