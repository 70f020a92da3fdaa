"""Alerts over time: begun, changed, ended, come again; bounded, and told by today's clock."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.alertlog import EARLIER_S, KEPT_MS, MOST_ENDED, AlertLog
from edge.alerts import Alert, AlertRules
from edge.load import load_status
from edge.model import Meter, MeterState, Snapshot, Status
from edge.record import JournalState, Keeping
from tests.building import FakeClock, a_meter, a_reading


class Site:
    """A site whose meters fail as they are told; every look is a new snapshot."""

    def __init__(self, *meters: Meter) -> None:
        self.clock = FakeClock()
        self.meters = {meter.id: MeterState(meter, status=Status.ONLINE) for meter in meters}
        self.keeping = Keeping()
        self.asked = 0
        self.log = AlertLog(AlertRules(100, 300.0), self._keeping_now)

    def _keeping_now(self) -> Keeping:
        self.asked += 1
        return self.keeping

    def set(self, meter: Meter, kw: float = 10.0, error: str | None = None) -> None:
        """Read a meter, or fail to."""
        state = MeterState(meter, 0.0, Status.ONLINE, a_reading(power=kw), None, kw)
        if error is not None:
            state = replace(state, status=Status.ERROR, last_error=error)
        self.meters = {**self.meters, meter.id: state}

    def look(self, by_s: float = 0.1) -> tuple[Alert, ...]:
        self.clock.turn(by_s)
        mono_s, unix_ms = self.clock.mono_s(), self.clock.unix_ms()
        load = load_status(self.meters.values(), 500.0, 0.0)
        self.log.update(Snapshot(1, mono_s, unix_ms, load, self.meters))
        return self.log.known

    def kinds(self) -> list[tuple[str, bool]]:
        """Kind of each, and whether it holds."""
        return [(alert.kind, alert.until_ms is None) for alert in self.log.known]


def a_site() -> tuple[Site, Meter, Meter]:
    """A site where all is well: with its main meter, and one that does not count."""
    main, zone = a_meter("Main"), a_meter("Shed", meterType="zone")
    site = Site(main, zone)
    site.set(main)
    site.set(zone)
    assert not site.look()
    return site, main, zone


def test_an_alert_begins_at_once_changes_and_ends_at_once() -> None:
    site, _, zone = a_site()
    site.set(zone, error="It is silent.")
    (begun,) = site.look()
    assert (begun.kind, begun.meter_id, begun.meter_name) == ("meter_error", zone.id, "Shed")
    assert (begun.since_ms, begun.until_ms) == (site.clock.unix_ms(), None)
    assert site.log.current == (begun,)
    site.set(zone, error="It is silent.")
    assert site.look(5.0)[0] is begun, "nothing is told twice"
    site.set(zone, error="It refuses.")
    (changed,) = site.look()
    assert (changed.id, changed.since_ms) == (begun.id, begun.since_ms)
    assert changed.message == '"Shed" is in error: It refuses.'
    site.set(zone)
    (ended,) = site.look()
    assert ended == replace(changed, until_ms=site.clock.unix_ms())
    assert not site.log.current


def test_what_is_back_within_a_minute_is_the_same_again() -> None:
    site, _, zone = a_site()
    site.set(zone, error="It is silent.")
    (begun,) = site.look()
    site.set(zone)
    site.look()
    site.set(zone, error="It is silent.")
    assert list(site.look(59.0)) == [begun]
    site.set(zone)
    site.look()
    site.set(zone, error="It is silent.")
    again, before = site.look(61.0)
    assert (again.until_ms, before.id, again.id == before.id) == (None, begun.id, False)


def test_the_most_urgent_first_then_the_newest_then_what_ended_last() -> None:
    site, main, zone = a_site()
    site.set(zone, error="It is silent.")
    site.look()
    site.set(main, error="It is silent.")
    site.look()
    assert all(alert.until_ms is None for alert in site.log.known)
    assert [alert.meter_id for alert in site.log.known] == [None, main.id, zone.id]
    site.set(zone)
    site.look()
    site.set(main)
    site.look()
    assert site.log.known[-1].meter_id == zone.id
    assert not site.log.current


def test_unknown_is_not_over() -> None:
    site, main, _ = a_site()
    site.set(main, kw=600.0)
    site.look(1.0)
    assert {kind for kind, _ in site.kinds()} == {"overload", "high_consumption"}
    site.set(main, kw=600.0, error="It is silent.")
    site.look(1.0)
    assert ("overload", True) in site.kinds()
    assert ("high_consumption", True) in site.kinds()
    site.set(main, kw=10.0)
    site.look(1.0)
    assert not site.log.current


def test_a_meter_that_is_removed_has_no_alert_any_more() -> None:
    site, _, zone = a_site()
    site.set(zone, error="It is silent.")
    site.look()
    site.meters = {id_: state for id_, state in site.meters.items() if id_ != zone.id}
    site.look()
    assert site.kinds() == [("meter_error", False)]


def test_the_journal_is_asked_once_a_second_and_a_loss_is_told_for_a_minute() -> None:
    main = a_meter("Main")
    site = Site(main)
    site.set(main)
    site.keeping = Keeping(JournalState(dropped=1))
    for _ in range(100):
        site.look(0.1)
    assert site.asked <= 11
    assert site.kinds() == []
    site.keeping = Keeping(JournalState(dropped=2))
    for _ in range(EARLIER_S + 5):
        site.look(1.0)
    lasted = [alert for alert in site.log.known if alert.kind == "journal_dropping"]
    for _ in range(EARLIER_S):
        site.look(1.0)
    (ended,) = [alert for alert in site.log.known if alert.kind == "journal_dropping"]
    assert lasted[0].id == ended.id
    assert ended.until_ms is not None
    assert 50_000 < ended.until_ms - ended.since_ms <= 62_000


def test_times_move_with_a_clock_that_is_set() -> None:
    site, main, zone = a_site()
    site.set(main, error="It is silent.")
    site.set(zone, error="It is silent.")
    site.look()
    site.set(zone)
    before = {alert.id: alert for alert in site.look(10.0)}
    year_ms = 365 * 24 * 3_600_000
    site.clock.now_unix_ms += year_ms
    for alert in site.look(1.0):
        old = before[alert.id]
        assert alert.since_ms == old.since_ms + year_ms
        assert (alert.until_ms or year_ms) - year_ms == (old.until_ms or 0)
    assert len(site.log.current) == 2


def test_what_ended_is_forgotten_after_a_day() -> None:
    site, _, zone = a_site()
    site.set(zone, error="It is silent.")
    site.look()
    site.set(zone)
    site.look()
    assert len(site.look(KEPT_MS / 1000)) == 1
    assert not site.look(1.0)


def test_what_ended_is_bounded() -> None:
    meters = [a_meter(f"M{number}", meterType="zone") for number in range(MOST_ENDED + 9)]
    site = Site(*meters)
    for meter in meters:
        site.set(meter, error="It is silent.")
    site.look()
    for meter in meters:
        site.set(meter)
        site.look()
    ended = [alert.meter_id for alert in site.log.known if alert.until_ms is not None]
    assert ended == [meter.id for meter in reversed(meters)][:MOST_ENDED]


ACTS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.sampled_from((0.1, 30.0, 90.0))), max_size=40
)


@settings(max_examples=100, deadline=None)
@given(ACTS)
def test_what_holds_is_what_is_wrong_now(acts: list[tuple[int, bool, float]]) -> None:
    meters = [a_meter(f"M{number}", meterType="zone") for number in range(3)]
    main = a_meter("Main")
    site = Site(main, *meters)
    for meter in (main, *meters):
        site.set(meter)
    wrong: set[str] = set()
    for number, fails, by_s in acts:
        meter = meters[number]
        site.set(meter, error="It is silent." if fails else None)
        wrong = (wrong | {meter.id}) if fails else (wrong - {meter.id})
        known = site.look(by_s)
        assert {alert.meter_id for alert in known if alert.until_ms is None} == wrong
        assert len({alert.id for alert in known}) == len(known)
        for alert in known:
            assert alert.until_ms is None or alert.since_ms <= alert.until_ms
