"""MQTT meters: what their messages come to, and hearing them through a real mosquitto."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.clock import Clock
from edge.communication import Field, MqttCommunication, MqttEndpoint, TopicUse
from edge.drivers.mqtt import MqttListener
from edge.drivers.mqtt.news import Message, MeterNews
from edge.drivers.mqtt.probe import _Hearing, nearest
from edge.errors import Cause, LineError, Refused
from edge.model import Meter, Outcome, Probe
from edge.settings import BrokerConfig
from tests.brokers import Certificates, Mosquitto, OldBroker, make_certificates, said_by
from tests.building import FakeClock
from tests.peers import free_port, need_program, wait_until

ENDPOINT = MqttEndpoint("default")
_numbers = itertools.count(1)


def a_meter(
    *,
    status: str | None = None,
    status_path: str | None = None,
    invert: bool = False,
    fills: bool = False,
    stale_after_ms: int = 60_000,
    **topics: str,
) -> Meter:
    """A meter on the broker; topics: quantity → topic; two quantities may share one."""
    fields: dict[str, list[Field]] = {}
    for quantity, topic in topics.items():
        fields.setdefault(topic, []).append(Field(quantity))
    uses = tuple(TopicUse(topic, tuple(group), fills) for topic, group in fields.items())
    communication = MqttCommunication(ENDPOINT, uses, status, status_path, invert)
    name = f"meter_{next(_numbers)}"
    return Meter(name, name, "", "mqtt", "grid", None, stale_after_ms, None, communication)


# --- What messages come to -----------------------------------------------------------------------


class Hearing:
    """A meter's news with a clock that only tests turn."""

    def __init__(self, meter: Meter) -> None:
        self.clock = FakeClock(mono_s=1000.0)
        self.news = MeterNews(meter)

    def hear(
        self, topic: str, payload: str | bytes, *, after_s: float = 0.0, retained: bool = False
    ) -> Outcome | None:
        """Let time pass, take a message in, and give what is known then."""
        self.clock.turn(after_s)
        data = payload.encode() if isinstance(payload, str) else payload
        now_s, unix_ms = self.clock.mono_s(), self.clock.unix_ms()
        self.news.hear(Message(topic, data, retained, now_s, unix_ms))
        return self.news.outcome(now_s)

    def values(self, *arguments: Any, **options: Any) -> Mapping[str, float]:
        """As `hear`, of which the values are wanted."""
        outcome = self.hear(*arguments, **options)
        assert outcome is not None
        return outcome.values


def error_of(outcome: Outcome | None) -> tuple[Cause, str]:
    assert outcome is not None
    assert outcome.error is not None
    return outcome.error.cause, str(outcome.error)


def test_a_message_is_a_reading_of_its_moment() -> None:
    hearing = Hearing(a_meter(power="p"))
    outcome = hearing.hear("p", "25.5")
    assert outcome == Outcome({"power": 25.5}, 1000.0, hearing.clock.unix_ms())


def test_power_decides_how_old_a_reading_is() -> None:
    hearing = Hearing(a_meter(power="p", voltage="u"))
    hearing.hear("p", "1")
    outcome = hearing.hear("u", "230", after_s=20)
    assert outcome is not None
    assert outcome.mono_s == 1000.0
    assert outcome.values == {"power": 1, "voltage": 230}


def test_power_of_parts_is_as_old_as_its_oldest_part() -> None:
    hearing = Hearing(a_meter(power="in", powerExport="out", energy="e"))
    assert hearing.hear("in", "5") is None  # the other part may come any moment
    outcome = hearing.hear("out", "2", after_s=3)
    assert outcome is not None
    assert (outcome.values["power"], outcome.mono_s) == (3, 1000.0)
    outcome = hearing.hear("in", "6", after_s=4)
    assert outcome is not None
    assert (outcome.values["power"], outcome.mono_s) == (4, 1003.0)


def test_power_of_phases_is_their_sum_once_all_are_there() -> None:
    hearing = Hearing(a_meter(powerL1="1", powerL2="2", powerL3="3", invert=True))
    hearing.hear("1", "1")
    assert "power" not in hearing.values("2", "2", after_s=1)
    outcome = hearing.hear("3", "4", after_s=1)
    assert outcome is not None
    assert outcome.values["power"] == -7
    assert outcome.mono_s == 1000.0


def test_without_power_the_latest_of_all_decides() -> None:
    hearing = Hearing(a_meter(energy="e", voltage="u"))
    hearing.hear("e", "100")
    outcome = hearing.hear("u", "230", after_s=50)
    assert outcome is not None
    assert outcome.mono_s == 1050.0
    assert outcome.values == {"energy": 100, "voltage": 230}


def test_momentary_values_are_left_out_when_old_and_counters_stay() -> None:
    hearing = Hearing(a_meter(power="p", energy="e", voltage="u"))
    hearing.hear("e", "100")
    hearing.hear("u", "230")
    hearing.hear("p", "1", after_s=60)
    assert hearing.values("p", "1") == {"power": 1, "energy": 100, "voltage": 230}
    assert hearing.values("p", "1", after_s=1) == {"power": 1, "energy": 100}


def test_old_power_never_looks_fresh_because_something_else_came() -> None:
    hearing = Hearing(a_meter(power="p", voltage="u"))
    hearing.hear("p", "1")
    outcome = hearing.hear("u", "230", after_s=500)
    assert outcome is not None
    assert outcome.mono_s == 1000.0


def test_a_retained_value_is_not_live_until_a_fresh_one_comes() -> None:
    hearing = Hearing(a_meter(power="in", powerExport="out"))
    hearing.hear("in", "5", retained=True)
    outcome = hearing.hear("out", "2", retained=True)
    assert outcome is not None
    assert (outcome.values["power"], outcome.live) == (3, False)
    outcome = hearing.hear("in", "6", after_s=1)
    assert outcome is not None
    assert not outcome.live  # half of it is of an age that nobody knows
    outcome = hearing.hear("out", "2", after_s=1)
    assert outcome is not None
    assert outcome.live


def test_a_live_reading_takes_no_retained_value_with_it_but_a_counter() -> None:
    hearing = Hearing(a_meter(power="p", energy="e", voltage="u"))
    hearing.hear("u", "230", retained=True)
    hearing.hear("e", "7", retained=True)
    outcome = hearing.hear("p", "1", retained=True)
    assert outcome is not None
    assert outcome.values == {"power": 1, "energy": 7, "voltage": 230}
    assert hearing.values("p", "1") == {"power": 1, "energy": 7}


def test_a_retained_value_is_replaced_by_the_next_one() -> None:
    hearing = Hearing(a_meter(power="p"))
    hearing.hear("p", "5", retained=True)
    assert hearing.values("p", "6", retained=True) == {"power": 6}


def test_what_is_live_decides_before_what_was_retained() -> None:
    hearing = Hearing(a_meter(energy="e", voltage="u"))
    hearing.hear("u", "230")
    outcome = hearing.hear("e", "100", retained=True, after_s=5)
    assert outcome is not None
    assert (outcome.live, outcome.mono_s) == (True, 1000.0)
    assert outcome.values == {"energy": 100, "voltage": 230}


def test_a_retained_message_never_replaces_a_live_value_that_is_fresh() -> None:
    hearing = Hearing(a_meter(power="p"))
    hearing.hear("p", "5")
    for payload in ("9", "unavailable", "%%"):
        outcome = hearing.hear("p", payload, retained=True)
        assert outcome is not None
        assert (outcome.values, outcome.live, outcome.error) == ({"power": 5}, True, None)
    outcome = hearing.hear("p", "9", retained=True, after_s=61)
    assert outcome is not None
    assert (outcome.values, outcome.live) == ({"power": 9}, False)


@pytest.mark.parametrize("payload", ["unavailable", "unknown", "", "nan", '{"power": null}'])
def test_no_value_removes_the_quantity_at_once(payload: str) -> None:
    hearing = Hearing(a_meter(power="p", energy="e"))
    hearing.hear("e", "100", after_s=-100)
    hearing.hear("p", "5", after_s=100)
    outcome = hearing.hear("p", payload)
    assert outcome is not None
    assert not outcome.values
    cause, text = error_of(outcome)
    assert cause is Cause.NO_VALUE
    assert "Topic p says that power has no value" in text
    outcome = hearing.hear("p", "6")
    assert outcome is not None
    assert outcome.values == {"power": 6, "energy": 100}
    assert outcome.error is None


def test_what_else_is_live_is_shown_without_the_power_that_is_gone() -> None:
    hearing = Hearing(a_meter(power="in", powerExport="out", voltage="u"))
    hearing.hear("in", "5")
    hearing.hear("out", "1")
    hearing.hear("u", "230")
    outcome = hearing.hear("out", "unavailable", after_s=1)
    assert outcome is not None
    assert outcome.values == {"voltage": 230}
    assert error_of(outcome)[0] is Cause.NO_VALUE


def test_an_unreadable_payload_is_an_error_until_a_readable_one_comes() -> None:
    hearing = Hearing(a_meter(power="p", voltage="u"))
    hearing.hear("p", "5")
    outcome = hearing.hear("p", "<html>")
    assert outcome is not None
    assert not outcome.values
    cause, text = error_of(outcome)
    assert cause is Cause.UNREADABLE
    assert text.startswith("Topic p: Payload '<html>' is unreadable")
    assert not hearing.values("u", "230")
    assert hearing.hear("p", "6") == Outcome(
        {"power": 6, "voltage": 230}, 1000.0, hearing.clock.unix_ms()
    )


def test_an_unreadable_payload_on_another_topic_lets_power_go_on() -> None:
    hearing = Hearing(a_meter(power="p", voltage="u"))
    hearing.hear("p", "5")
    hearing.hear("u", "230")
    outcome = hearing.hear("u", "high", after_s=1)
    assert outcome is not None
    assert outcome.values == {"power": 5, "voltage": 230}
    assert error_of(outcome)[0] is Cause.UNREADABLE
    hearing.hear("p", "5", after_s=60)
    assert hearing.values("p", "5") == {"power": 5}


def test_a_meter_without_power_is_lost_with_its_last_readable_topic() -> None:
    hearing = Hearing(a_meter(energy="e", voltage="u"))
    hearing.hear("e", "1")
    hearing.hear("u", "230")
    assert hearing.values("u", "high")
    assert not hearing.values("e", "much")


def test_json_without_any_known_name_names_what_it_has() -> None:
    hearing = Hearing(a_meter(power="p"))
    cause, text = error_of(hearing.hear("p", '{"act_watt": 5}'))
    assert cause is Cause.UNREADABLE
    assert "act_watt" in text
    assert "set powerPath" in text
    hearing.hear("p", '{"power": 5}')
    assert hearing.values("p", '{"linkquality": 5}') == {"power": 5}  # only what changed was sent


def test_json_on_one_topic_fills_what_it_names() -> None:
    hearing = Hearing(a_meter(power="p", fills=True))
    payload = json.dumps({"power_kw": 25.5, "voltage": 230.2, "current": 110.8})
    assert hearing.values("p", payload) == {"power": 25.5, "voltage": 230.2, "current": 110.8}


def test_a_topic_of_its_own_wins_over_json_that_fills_while_it_speaks() -> None:
    hearing = Hearing(a_meter(power="p", voltage="u", fills=True))
    payload = '{"power": 1, "voltage": 111}'
    assert hearing.values("p", payload)["voltage"] == 111
    hearing.hear("u", "230")
    assert hearing.values("p", payload)["voltage"] == 230
    assert hearing.values("p", payload, after_s=61)["voltage"] == 111


def test_export_beside_the_power_that_json_fills_is_no_part_of_it() -> None:
    hearing = Hearing(a_meter(power="p", fills=True))
    payload = '{"power": -2.0, "power_export": 2.0, "power_l1": 7}'
    assert hearing.values("p", payload) == {"power": -2.0}
    assert hearing.values("p", '{"power": 5, "powerExport": null}') == {"power": 5}


def test_a_refused_topic_is_an_error_until_it_is_granted() -> None:
    hearing = Hearing(a_meter(power="p", voltage="u", status="s"))
    assert hearing.news.topics == {"p": 0, "u": 0, "s": 1}
    hearing.hear("p", "5")
    hearing.news.subscribed("u", Refused(0x87, "Not allowed.", Cause.NOT_AUTHORISED))
    outcome = hearing.hear("p", "6")
    assert outcome is not None
    assert outcome.values == {"power": 6}
    assert error_of(outcome) == (Cause.NOT_AUTHORISED, "Not allowed.")
    hearing.news.subscribed("u", None)
    outcome = hearing.hear("p", "7")
    assert outcome is not None
    assert outcome.error is None
    hearing.hear("p", "junk")
    hearing.news.subscribed("p", None)  # asked for again; that makes it no more readable
    assert not hearing.values("u", "230")


OFFLINE = ("offline", "Offline", "false", "0", "disconnected", '"offline"', " OFFLINE\n")
ONLINE = ("online", "ONLINE", "true", "1", "connected", '"online"', '"true"')


@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize("payload", OFFLINE)
def test_offline_is_believed_at_once(payload: str, retained: bool) -> None:
    hearing = Hearing(a_meter(power="p", status="s"))
    hearing.hear("p", "5")
    outcome = hearing.hear("s", payload, retained=retained)
    assert outcome is not None
    assert outcome.said_offline
    assert not outcome.values
    cause, text = error_of(outcome)
    assert cause is Cause.SAID_OFFLINE
    assert "It said on topic s that it is offline" in text


@pytest.mark.parametrize("payload", ONLINE)
def test_online_again_needs_a_fresh_value_too(payload: str) -> None:
    hearing = Hearing(a_meter(power="p", status="s"))
    hearing.hear("p", "5")
    hearing.hear("s", "offline")
    outcome = hearing.hear("s", payload, after_s=1)
    assert outcome is not None
    assert (outcome.values, outcome.live, outcome.said_offline) == ({"power": 5}, False, False)
    outcome = hearing.hear("p", "6", after_s=1)
    assert outcome is not None
    assert (outcome.values, outcome.live) == ({"power": 6}, True)


def test_a_value_of_an_offline_meter_waits_for_its_word() -> None:
    hearing = Hearing(a_meter(power="p", status="s"))
    hearing.hear("s", "offline", retained=True)
    outcome = hearing.hear("p", "6", after_s=1)
    assert outcome is not None
    assert outcome.said_offline
    assert not outcome.values
    outcome = hearing.hear("s", "online", retained=True)
    assert outcome is not None
    assert (outcome.values, outcome.live) == ({"power": 6}, True)


def test_a_status_in_json_is_found_by_its_path() -> None:
    hearing = Hearing(a_meter(power="p", status="s", status_path="state"))
    hearing.hear("p", "5")
    outcome = hearing.hear("s", '{"state": "offline"}')
    assert outcome is not None
    assert outcome.said_offline


def test_a_status_beside_the_values_hides_no_fault_of_theirs() -> None:
    hearing = Hearing(a_meter(power="p", status="p", status_path="state"))
    assert hearing.values("p", '{"state": "online", "power": 5}') == {"power": 5}
    outcome = hearing.hear("p", '{"state": "online", "power": true}')
    assert outcome is not None
    assert not outcome.values
    assert error_of(outcome)[0] is Cause.UNREADABLE


@pytest.mark.parametrize(
    ("payload", "path", "words"),
    [
        ("on fire", None, "neither online nor offline"),
        ("", None, "neither online nor offline"),
        ('{"state": "on fire"}', "state", "neither online nor offline"),
        ('{"age": 5}', "age < `60` && 'fresh'", "neither online nor offline"),
        ("offline", "state", "it is no JSON"),
        ("{}", "state", "it has no word there"),
        ('{"state": ["offline"]}', "state", "it has no word there"),
        ("[" * 9999, "state", "nested deeper"),
        ("\xff", "state", "not UTF-8"),
        ("\xff", None, "not UTF-8"),
        ('{"age": "5"}', "age < `60`", "fails on it"),
        ('{"s": [{"rssi": "-50"}]}', "s[?rssi > `-100`] | [0].rssi", "fails on it"),
        ('{"s": 1e400}', "floor(s)", "fails on it"),
        ('{"s": "online", "c": 1}', "contains(s, c)", "fails on it"),
        ('{"s": 1}', "[s]" + " | [@, @][]" * 40 + " | [0]", "more than 50,000 steps"),
        ('{"s": 1}', "&s", "it has no word there"),
    ],
)
def test_a_status_that_says_neither_is_an_error_beside_the_values(
    payload: str, path: str | None, words: str
) -> None:
    hearing = Hearing(a_meter(power="p", status="s", status_path=path))
    hearing.hear("p", "5")
    outcome = hearing.hear("s", payload.encode("latin-1"))
    assert outcome is not None
    assert outcome.values == {"power": 5}
    cause, text = error_of(outcome)
    assert cause is Cause.UNREADABLE
    assert words in text
    assert len(text) <= 500


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(
            {"é" * 170_000: {str(number): number for number in range(8)}}, ensure_ascii=False
        ),
        json.dumps({"n" * 100: dict.fromkeys([f"{number}{'m' * 90}" for number in range(8)], 1)}),
        json.dumps({"power": "x" * 500_000}),
        json.dumps({"power": "1 " + "x" * 70}),
        "\U000e0001" * 1000,
        '{"power": null}',
        "[1]",
    ],
)
@pytest.mark.parametrize("topic", ["p", "t" * 1000])
def test_what_devices_and_users_make_up_makes_no_long_sentence(payload: str, topic: str) -> None:
    meter = a_meter(
        power=topic, energy=topic, voltage=topic, current=topic, frequency=topic, status=topic
    )
    hearing = Hearing(meter)
    _, text = error_of(hearing.hear(topic, payload))
    assert text.isprintable()
    assert len(text) <= 500


def test_a_part_of_power_that_stays_silent_is_named_after_a_while() -> None:
    hearing = Hearing(a_meter(power="in", powerExport="out"))
    hearing.hear("in", "5")
    assert hearing.hear("in", "5", after_s=9) is None
    cause, text = error_of(hearing.hear("in", "5", after_s=2))
    assert cause is Cause.TOPIC_NOT_HEARD
    assert "topic out" in text


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["in", "out", "u", "e", "s"]),
        st.sampled_from(["1", "2.5", "-3", "unavailable", "junk", "online", "offline"]),
        st.booleans(),
        st.floats(0, 90),
    ),
    max_size=30,
)


@given(STEPS)
def test_power_is_live_only_while_each_part_is_and_never_younger(
    steps: list[tuple[str, str, bool, float]],
) -> None:
    hearing = Hearing(a_meter(power="in", powerExport="out", voltage="u", energy="e", status="s"))
    heard_s: dict[str, float] = {}
    for topic, payload, retained, after_s in steps:
        outcome = hearing.hear(topic, payload, after_s=after_s, retained=retained)
        now_s = hearing.clock.mono_s()
        if topic == "s" and payload == "offline":
            heard_s.clear()
        elif topic in ("in", "out") and not retained:
            heard_s[topic] = now_s
        if outcome is None or "power" not in outcome.values:
            continue
        assert not outcome.said_offline
        if outcome.live:
            assert outcome.mono_s <= min(heard_s["in"], heard_s["out"])


# --- Through a real broker -----------------------------------------------------------------------


class Broker:
    """A running mosquitto, what connects to it, and a client that publishes."""

    def __init__(self, mosquitto: Mosquitto) -> None:
        self.mosquitto = mosquitto
        self.port = mosquitto.port
        self._listeners: list[MqttListener] = []
        self._publishers: list[mqtt.Client] = []

    def config(self, **changes: Any) -> BrokerConfig:
        return BrokerConfig(**{"host": "127.0.0.1", "port": self.port, **changes})

    def listener(self, *meters: Meter, open_now: bool = True, **changes: Any) -> MqttListener:
        listener = MqttListener(ENDPOINT, Clock(), self.config(**changes), probe_wait_s=1.0)
        self._listeners.append(listener)
        listener.follow(meters)
        if open_now:
            listener.open(5)
        return listener

    def publisher(self, will: str | None = None) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        if will is not None:
            client.will_set(will, "offline", retain=True)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        self._publishers.append(client)
        return client

    def publish(self, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
        """Publish one message; returns when the broker has it."""
        if not self._publishers:
            self.publisher()
        self._publishers[0].publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for client in self._publishers:
            client.disconnect()
            client.loop_stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Start a mosquitto with options; it ends with the test."""
    brokers: list[Broker] = []

    def start_broker(**options: Any) -> Broker:
        broker = Broker(Mosquitto(tmp_path, **options).start())
        brokers.append(broker)
        return broker

    yield start_broker
    for broker in brokers:
        broker.close()
        broker.mosquitto.stop()


@pytest.fixture
def broker(start: Callable[..., Broker]) -> Broker:
    return start()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def hear(
    listener: MqttListener, meter: Meter, wanted: Callable[[Outcome], object], timeout_s: float = 5
) -> Outcome:
    """Listen until the meter has such an outcome."""
    found: list[Outcome] = []

    def heard() -> bool:
        news = listener.listen(0.1)
        found.extend(outcome for who, outcome in news if who is meter and wanted(outcome))
        return bool(found)

    wait_until(heard, timeout_s=timeout_s, what="the outcome")
    return found[-1]


def any_values(outcome: Outcome) -> object:
    return outcome.values


def listen_until_lost(listener: MqttListener, timeout_s: float = 5) -> LineError:
    lost: list[LineError] = []

    def listens() -> bool:
        try:
            listener.listen(0.1)
        except LineError as exc:
            lost.append(exc)
        return bool(lost)

    wait_until(listens, timeout_s=timeout_s, what="the loss of the connection")
    assert not listener.connected
    return lost[0]


def settle(listener: MqttListener) -> None:
    """Listen until the broker answered all subscriptions: from then on nothing is missed."""
    connection = listener._connection
    assert connection is not None

    def answered() -> bool:
        listener.listen(0.02)
        return not connection._asked

    wait_until(answered, timeout_s=20, what="the answer to SUBSCRIBE")


def test_what_is_published_is_heard(broker: Broker) -> None:
    meter = a_meter(power="building/energy/power", energy="building/energy/total")
    listener = broker.listener(meter)
    settle(listener)
    before = Clock().mono_s()
    broker.publish("building/energy/power", "25.5")
    outcome = hear(listener, meter, any_values)
    assert outcome.values == {"power": 25.5}
    assert before - 0.2 <= outcome.mono_s <= Clock().mono_s()
    assert abs(outcome.unix_ms - Clock().unix_ms()) < 5000
    assert (listener.connected, listener.opened) == (True, 1)


def test_retained_then_live(broker: Broker) -> None:
    broker.publish("p", "5", retain=True)
    meter = a_meter(power="p")
    listener = broker.listener(meter)
    assert not hear(listener, meter, any_values).live
    broker.publish("p", "6", retain=True)
    assert hear(listener, meter, any_values).live  # retained for others, but fresh for us


def test_one_topic_serves_several_meters_and_quantities(broker: Broker) -> None:
    first, second = a_meter(power="p", voltage="p"), a_meter(power="p", invert=True)
    listener = broker.listener(first, second)
    settle(listener)
    broker.publish("p", '{"power": 5, "voltage": 231}')
    news: dict[Meter, Outcome] = {}

    def both() -> bool:
        news.update(listener.listen(0.1))
        return len(news) == 2

    wait_until(both)
    assert news[first].values == {"power": 5, "voltage": 231}
    assert news[second].values == {"power": -5}


def test_follow_asks_for_more_and_for_less_while_it_runs(broker: Broker) -> None:
    broker.publish("a", "1", retain=True)
    first, second, third = a_meter(power="a"), a_meter(power="a"), a_meter(power="b")
    listener = broker.listener(first)
    hear(listener, first, any_values)
    listener.follow([second, third])
    # A retained message comes by asking only, so the topic must have been asked for again.
    assert hear(listener, second, any_values).values == {"power": 1}
    settle(listener)
    broker.publish("b", "2")
    hear(listener, third, any_values)
    listener.follow([third])
    broker.publish("b", "4")
    assert hear(listener, third, any_values).values == {"power": 4}
    before = listener.counts
    broker.publish("a", "3")
    broker.publish("b", "5")
    assert hear(listener, third, any_values).values == {"power": 5}
    assert listener.counts.messages == before.messages + 1
    assert listener.counts.unused == 0


def test_what_was_heard_of_a_meter_outlives_its_new_name_but_no_new_topics(broker: Broker) -> None:
    meter = a_meter(power="p", energy="e")
    listener = broker.listener(meter)
    settle(listener)
    broker.publish("e", "15420.3")
    hear(listener, meter, any_values)
    renamed = replace(meter, name="Renamed")
    listener.follow([renamed])
    broker.publish("p", "1")
    assert hear(listener, renamed, any_values).values == {"power": 1, "energy": 15420.3}
    moved = replace(renamed, communication=a_meter(power="q", energy="e").communication)
    listener.follow([moved])
    settle(listener)
    broker.publish("q", "2")
    assert hear(listener, moved, any_values).values == {"power": 2}


def test_what_was_heard_of_a_meter_outlives_a_change_of_others(broker: Broker) -> None:
    meter = a_meter(power="p", voltage="u")
    listener = broker.listener(meter)
    settle(listener)
    broker.publish("u", "230")
    hear(listener, meter, any_values)
    listener.follow([meter, a_meter(power="q")])
    broker.publish("p", "1")
    outcome = hear(listener, meter, lambda outcome: "power" in outcome.values)
    assert outcome.values == {"power": 1, "voltage": 230}


def test_a_broker_that_restarts_is_lost_and_all_is_asked_for_again(broker: Broker) -> None:
    meter = a_meter(power="p")
    listener = broker.listener(meter)
    settle(listener)
    broker.mosquitto.stop()
    lost = listen_until_lost(listener)
    assert lost.cause is Cause.CONNECTION_LOST
    with pytest.raises(LineError) as refused:
        listener.open(1)
    assert refused.value.cause is Cause.CONNECTION_REFUSED
    assert "Nothing listens at" in str(refused.value)
    broker.mosquitto.start()
    listener.open(5)
    assert listener.opened == 2
    settle(listener)
    with_new = Broker(broker.mosquitto)
    try:
        with_new.publish("p", "7")
        assert hear(listener, meter, any_values).values == {"power": 7}
    finally:
        with_new.close()


def test_a_broker_that_stands_still_is_noticed_by_keepalive(broker: Broker) -> None:
    listener = broker.listener(a_meter(power="p"), keepalive_s=1)
    settle(listener)
    broker.mosquitto.freeze()
    try:
        assert listen_until_lost(listener, timeout_s=6).cause is Cause.CONNECTION_LOST
        with pytest.raises(LineError) as silent:
            listener.open(0.3)
        assert silent.value.cause is Cause.SILENT
    finally:
        broker.mosquitto.thaw()


def test_what_waited_while_the_process_stood_still_is_no_younger_for_it(broker: Broker) -> None:
    class Leaping(Clock):
        leap_s = 0.0

        def mono_s(self) -> float:
            return super().mono_s() + self.leap_s

        def unix_ms(self) -> int:
            return super().unix_ms() + round(1000 * self.leap_s)

    clock = Leaping()
    meter = a_meter(power="p")
    listener = MqttListener(ENDPOINT, clock, broker.config())
    listener.follow([meter])
    listener.open(5)
    try:
        settle(listener)
        stood_since_s, unix_ms = clock.mono_s(), clock.unix_ms()
        broker.publish("p", "5")
        clock.leap_s = 20.0
        outcome = hear(listener, meter, any_values)
        assert outcome.mono_s <= stood_since_s
        assert outcome.unix_ms <= unix_ms + 1
        broker.publish("p", "6")
        assert hear(listener, meter, any_values).mono_s > stood_since_s + 19
    finally:
        listener.close()


def test_the_last_will_of_a_device_that_dies_is_believed(broker: Broker) -> None:
    meter = a_meter(power="p", status="s")
    listener = broker.listener(meter)
    script = (
        "import sys, time\n"
        "from paho.mqtt.client import Client, CallbackAPIVersion\n"
        "client = Client(CallbackAPIVersion.VERSION2)\n"
        "client.will_set('s', 'offline', qos=1, retain=True)\n"
        f"client.connect('127.0.0.1', {broker.port})\n"
        "client.loop_start()\n"
        "client.publish('s', 'online', qos=1, retain=True).wait_for_publish()\n"
        "client.publish('p', '5', qos=1).wait_for_publish()\n"
        "sys.stdin.read()\n"
    )
    settle(listener)
    device = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        assert hear(listener, meter, any_values, timeout_s=10).live
    finally:
        device.kill()
        device.communicate()
    assert hear(listener, meter, lambda outcome: outcome.said_offline).error is not None
    late = broker.listener(meter)  # who comes later hears it too, since it is retained
    assert hear(late, meter, lambda outcome: outcome.said_offline).error is not None


def test_what_comes_in_one_go_keeps_its_order(broker: Broker) -> None:
    meter = a_meter(power="p", status="s")
    listener = broker.listener(meter)
    settle(listener)
    for topic, payload in (("s", "online"), ("p", "1"), ("s", "offline")):
        broker.publish(topic, payload)
    hear(listener, meter, lambda outcome: outcome.said_offline)
    broker.publish("s", "online")
    outcome = hear(listener, meter, any_values)
    assert (outcome.values, outcome.live) == ({"power": 1}, False)


def test_a_burst_keeps_the_latest_and_counts_the_rest(broker: Broker) -> None:
    meter = a_meter(power="p")
    listener = broker.listener(meter)
    settle(listener)
    lines = "".join(f"{number}\n" for number in range(5000))
    publish = need_program("mosquitto_pub", "mosquitto-clients")
    run = subprocess.Popen(
        [publish, "-h", "127.0.0.1", "-p", str(broker.port), "-t", "p", "-q", "1", "-l"],
        stdin=subprocess.PIPE,
        text=True,
    )
    assert run.stdin is not None
    run.stdin.write(lines)
    run.stdin.close()
    hear(listener, meter, lambda outcome: outcome.values == {"power": 4999}, timeout_s=20)
    assert run.wait(10) == 0
    counts = listener.counts
    assert counts.messages == 5000
    assert counts.superseded > 2500


def test_unreadable_messages_are_counted_and_named(broker: Broker) -> None:
    meter = a_meter(power="p")
    listener = broker.listener(meter)
    settle(listener)
    broker.publish("p", "<html>")
    outcome = hear(listener, meter, lambda outcome: outcome.error is not None)
    assert "'<html>'" in str(outcome.error)
    assert listener.counts.unreadable == 1


def test_the_longest_topic_there_is_can_be_heard(broker: Broker) -> None:
    topic = "é/" + "x" * (65_535 - 3)
    meters = [a_meter(power=topic), a_meter(power="p")]
    listener = broker.listener(*meters)
    settle(listener)
    broker.publish(topic, "5")
    assert hear(listener, meters[0], any_values).values == {"power": 5}


def test_more_is_asked_for_than_fits_into_the_way_at_once(broker: Broker) -> None:
    topics = [f"{number}/" + "x" * 65_000 for number in range(200)]
    meters = [a_meter(power=topic) for topic in topics]
    listener = broker.listener(*meters)
    settle(listener)
    broker.publish(topics[-1], "5")
    assert hear(listener, meters[-1], any_values).values == {"power": 5}


def test_many_topics_are_all_asked_for(broker: Broker) -> None:
    meters = [a_meter(power=f"site/{number}/power") for number in range(300)]
    listener = broker.listener(*meters)
    settle(listener)
    for number in (0, 49, 50, 299):
        broker.publish(f"site/{number}/power", str(number))
        assert hear(listener, meters[number], any_values).values == {"power": number}


# --- Protocol versions, hostile peers ------------------------------------------------------------


def test_a_login_is_refused_in_3_1_1_too(start: Callable[..., Broker]) -> None:
    broker = start(users={"dlm": "secret"})
    with OldBroker(broker.mosquitto) as old:
        error = refusal(broker.listener(a_meter(power="p"), open_now=False, port=old.port))
    assert error.cause is Cause.NOT_AUTHORISED


@pytest.mark.parametrize("hang_up", [False, True])
def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(broker: Broker, hang_up: bool) -> None:
    meter = a_meter(power="p")
    with OldBroker(broker.mosquitto, hang_up=hang_up) as old:
        listener = broker.listener(meter, port=old.port)
        settle(listener)
        broker.publish("p", "5")
        assert hear(listener, meter, any_values).values == {"power": 5}
        listener.close()
        listener.open(5)
        assert old.versions == [5, 4, 4]
        listener.close()


def publish_packet(size: int) -> bytes:
    """The start of a PUBLISH of that many bytes: MQTT 3.1.1, sections 2.2.3 and 3.3."""
    length = bytearray()
    while True:
        size, rest = divmod(size, 128)
        length.append(rest | (0x80 if size else 0))
        if not size:
            return bytes([0x30]) + length + b"\x00\x01p"


CONNACK_5 = bytes([0x20, 3, 0, 0, 0])


def test_a_packet_of_256_mb_is_not_taken_in() -> None:
    with said_by(CONNACK_5 + publish_packet(268_435_455) + b"1" * 100_000) as port:
        listener = MqttListener(ENDPOINT, Clock(), BrokerConfig(host="127.0.0.1", port=port))
        listener.open(2)
        lost = listen_until_lost(listener)
    assert lost.cause is Cause.UNREADABLE
    assert "more than 1024 KiB" in str(lost)


def test_a_broker_with_mqtt_5_is_told_not_to_send_so_much(broker: Broker) -> None:
    meter = a_meter(power="p")
    listener = broker.listener(meter)
    settle(listener)
    broker.publish("p", b"1" * 2_000_000)
    broker.publish("p", "5")
    assert hear(listener, meter, any_values).values == {"power": 5}
    assert listener.counts.messages == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 64,
        bytes([0x20, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]),
        bytes([0x20, 1, 0]),
        bytes([0x20, 4, 0, 0, 9, 9]),
    ],
)
def test_what_is_no_broker_is_a_line_error(answer: bytes) -> None:
    with said_by(answer) as port:
        listener = MqttListener(ENDPOINT, Clock(), BrokerConfig(host="127.0.0.1", port=port))
        with pytest.raises(LineError) as error:
            listener.open(0.3)
    assert f"127.0.0.1:{port}" in str(error.value)
    assert not listener.connected


@given(st.binary(max_size=200))
def test_whatever_a_broker_sends_the_worst_is_a_lost_line(rubbish: bytes) -> None:
    with said_by(CONNACK_5 + rubbish) as port:
        listener = MqttListener(ENDPOINT, Clock(), BrokerConfig(host="127.0.0.1", port=port))
        listener.follow([a_meter(power="p", status="p")])
        with contextlib.suppress(LineError):
            listener.open(2)
            listener.listen(0.0)
            listener.listen(0.0)
        listener.close()


def test_a_topic_that_is_no_text_is_passed_over() -> None:
    bad = bytes([0x30, 5, 0, 1, 0xFF, 0, 0x31])
    good = bytes([0x30, 5, 0, 1, 0x70, 0, 0x35])
    meter = a_meter(power="p")
    with said_by(CONNACK_5 + bad + good) as port:
        listener = MqttListener(ENDPOINT, Clock(), BrokerConfig(host="127.0.0.1", port=port))
        listener.follow([meter])
        listener.open(2)
        assert hear(listener, meter, any_values).values == {"power": 5}
        listener.close()


def test_a_retained_message_does_not_hide_the_live_one_before_it() -> None:
    # As when a topic is asked for once more, for a new meter, while it speaks.
    live = bytes([0x30, 5, 0, 1, 0x70, 0, 0x32])
    retained = bytes([0x31, 5, 0, 1, 0x70, 0, 0x31])
    meter = a_meter(power="p")
    with said_by(CONNACK_5 + live + retained) as port:
        listener = MqttListener(ENDPOINT, Clock(), BrokerConfig(host="127.0.0.1", port=port))
        listener.follow([meter])
        listener.open(2)
        outcome = hear(listener, meter, any_values)
        listener.close()
    assert (outcome.values, outcome.live) == ({"power": 2}, True)
    assert listener.counts.superseded == 1


def heard_in_one_go(meter: Meter, *payloads: bytes) -> tuple[Outcome, int]:
    """What messages on topic p come to that arrive together, and how many were superseded."""
    said = b"".join(bytes([0x30, len(each) + 4, 0, 1, 0x70, 0]) + each for each in payloads)
    with said_by(CONNACK_5 + said) as port:
        broker = BrokerConfig(host="127.0.0.1", port=port)
        listener = MqttListener(ENDPOINT, Clock(), broker)
        listener.follow([meter])
        listener.open(2)
        outcome = hear(listener, meter, lambda outcome: listener.counts.messages == len(payloads))
        listener.close()
    return outcome, listener.counts.superseded


def test_a_partial_object_is_heard_beside_the_next_one() -> None:
    outcome, superseded = heard_in_one_go(
        a_meter(power="p"), b'{"power":400000}', b'{"linkquality":100}'
    )
    assert (outcome.values, outcome.error, superseded) == ({"power": 400_000}, None, 0)


def test_that_there_is_no_value_is_heard_beside_the_next_object() -> None:
    meter = a_meter(power="p", fills=True)
    outcome, superseded = heard_in_one_go(
        meter, b'{"power":5}', b'{"power":null}', b'{"voltage":231}'
    )
    assert (outcome.values, superseded) == ({"voltage": 231}, 1)
    assert error_of(outcome)[0] is Cause.NO_VALUE


def test_an_object_with_the_same_names_supersedes_the_one_before_it() -> None:
    outcome, superseded = heard_in_one_go(
        a_meter(power="p"), b'{"power":1}', b'{"power":2}', b'{"id":0,"power":3}'
    )
    assert (outcome.values, superseded) == ({"power": 3}, 2)


def test_of_many_partial_objects_the_last_ones_are_kept() -> None:
    parts = [f'{{"power":{number},"n{number}":0}}'.encode() for number in range(20)]
    outcome, superseded = heard_in_one_go(a_meter(power="p"), *parts)
    assert (outcome.values, superseded) == ({"power": 19}, 11)


def test_two_with_one_client_id_are_told_so(broker: Broker) -> None:
    first = broker.listener(a_meter(power="p"), client_id="dlm")
    broker.listener(a_meter(power="p"), client_id="dlm")
    assert "client id dlm" in str(listen_until_lost(first))
    # Brokers that say why: DISCONNECT with 0x8E, session taken over; MQTT 5.0, section 3.14.2.1.
    with said_by(CONNACK_5 + bytes([0xE0, 1, 0x8E])) as port:
        listener = broker.listener(port=port, client_id="dlm")
        assert "same client id dlm" in str(listen_until_lost(listener))


# --- Logins, TLS, access lists -------------------------------------------------------------------


def refusal(listener: MqttListener, timeout_s: float = 2) -> LineError:
    with pytest.raises(LineError) as error:
        listener.open(timeout_s)
    assert not listener.connected
    assert "secret" not in str(error.value)
    return error.value


def test_a_login_is_needed_and_used(start: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start(users={"dlm": "secret"})
    meter = a_meter(power="p")
    logins: list[dict[str, Any]] = [{}, {"username": "dlm", "password": "secret2"}]
    for login in logins:
        error = refusal(broker.listener(meter, open_now=False, **login))
        assert error.cause is Cause.NOT_AUTHORISED
        assert "check username and password" in str(error)
    broker.listener(meter, username="dlm", password="secret")
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    broker.listener(meter, username="dlm", password_file=str(file))
    missing = broker.listener(
        meter, open_now=False, username="dlm", password_file=str(tmp_path / "none")
    )
    assert "password_file" in str(refusal(missing))


def test_tls_with_a_private_authority(
    start: Callable[..., Broker], certificates: Certificates
) -> None:
    broker = start(certificates=certificates)
    meter = a_meter(power="p")
    unknown = refusal(broker.listener(meter, open_now=False, tls=True))
    assert unknown.cause is Cause.TLS
    assert "set ca_file" in str(unknown)
    plain = refusal(broker.listener(meter, open_now=False))
    assert "needs tls" in str(plain)
    listener = broker.listener(meter, tls=True, ca_file=certificates.ca_file)
    settle(listener)
    secure = mqtt.Client(CallbackAPIVersion.VERSION2)
    secure.tls_set(certificates.ca_file)
    secure.connect("127.0.0.1", broker.port)
    secure.loop_start()
    secure.publish("p", "5", qos=1).wait_for_publish(5)
    assert hear(listener, meter, any_values).values == {"power": 5}
    secure.disconnect()
    secure.loop_stop()


def test_a_name_that_the_certificate_is_not_for_is_refused(
    start: Callable[..., Broker], certificates: Certificates
) -> None:
    broker = start(certificates=certificates)
    listener = broker.listener(
        a_meter(power="p"),
        open_now=False,
        host="localhost",
        tls=True,
        ca_file=certificates.ca_file,
    )
    assert refusal(listener).cause is Cause.TLS


def test_client_certificates(
    start: Callable[..., Broker], certificates: Certificates, tmp_path: Path
) -> None:
    broker = start(certificates=certificates, client_certificates=True)
    meter = a_meter(power="p")
    tls: dict[str, Any] = {"tls": True, "ca_file": certificates.ca_file}
    without = refusal(broker.listener(meter, open_now=False, **tls))
    assert "certificate" in str(without)
    listener = broker.listener(
        meter, **tls, cert_file=certificates.client_cert, key_file=certificates.client_key
    )
    assert listener.connected
    for wrong in (str(tmp_path / "none.pem"), certificates.ca_file):
        unusable = broker.listener(meter, open_now=False, **tls, cert_file=wrong)
        error = refusal(unusable)
        assert error.cause is Cause.TLS
        assert wrong in str(error)


def test_tls_to_a_port_without_it_says_so(broker: Broker, certificates: Certificates) -> None:
    listener = broker.listener(
        a_meter(power="p"), open_now=False, tls=True, ca_file=certificates.ca_file
    )
    error = refusal(listener)
    assert error.cause is Cause.TLS
    assert "tls = false" in str(error)


def test_a_topic_that_the_broker_refuses_is_an_error_of_its_meters(
    start: Callable[..., Broker],
) -> None:
    broker = start(users={"dlm": "secret"}, allowed_topics=("open",))
    login: dict[str, Any] = {"username": "dlm", "password": "secret"}
    allowed, forbidden = a_meter(power="open"), a_meter(power="closed")
    listener = broker.listener(allowed, forbidden, **login)
    outcome = hear(listener, forbidden, lambda outcome: outcome.error is not None)
    cause, text = error_of(outcome)
    assert cause is Cause.NOT_AUTHORISED
    assert "topic closed" in text
    probe = broker.listener(open_now=False, **login).probe(forbidden)
    assert [finding.cause for finding in probe.findings] == [Cause.NOT_AUTHORISED]
    listener.close()


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("no-such-host.invalid", Cause.NAME_NOT_RESOLVED),
        ("x" * 80 + ".invalid", Cause.NAME_NOT_RESOLVED),
        ("127.0.0.1", Cause.CONNECTION_REFUSED),
    ],
)
def test_why_a_broker_cannot_be_reached(host: str, cause: Cause) -> None:
    settings = BrokerConfig(host=host, port=free_port())
    assert refusal(MqttListener(ENDPOINT, Clock(), settings)).cause is cause


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EHOSTUNREACH, Cause.NO_ROUTE),
        (errno.ENETUNREACH, Cause.NO_ROUTE),
        (errno.ETIMEDOUT, Cause.NOT_REACHED),
        (errno.EACCES, Cause.NOT_REACHED),
    ],
)
def test_what_the_network_says_becomes_a_cause(
    monkeypatch: pytest.MonkeyPatch, number: int, cause: Cause
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "connect", fail)
    error = refusal(MqttListener(ENDPOINT, Clock(), BrokerConfig(host="10.0.0.1")))
    assert error.cause is cause
    assert "10.0.0.1:1883" in str(error)


def test_closing_twice_and_listening_closed_do_no_harm(broker: Broker) -> None:
    listener = broker.listener(a_meter(power="p"))
    listener.open(5)
    assert listener.opened == 1
    listener.close()
    listener.close()
    with pytest.raises(LineError):
        listener.listen(0.1)


# --- Probe ---------------------------------------------------------------------------------------


def probe(
    broker: Broker,
    meter: Meter,
    say: Sequence[tuple[str, str]] = (),
    *,
    wait_s: float = 1.0,
    rounds: int = 1000,
    **settings: Any,
) -> Probe:
    """Probe a meter while `say` is published over and over, every 50 ms."""
    publisher = broker.publisher()
    listener = MqttListener(ENDPOINT, Clock(), broker.config(**settings), probe_wait_s=wait_s)
    result: list[Probe] = []
    thread = threading.Thread(target=lambda: result.append(listener.probe(meter)))
    thread.start()

    said = itertools.count()

    def done() -> bool:
        for topic, payload in say if next(said) < rounds else ():
            publisher.publish(topic, payload, qos=1).wait_for_publish(5)
        thread.join(0.05)
        return bool(result)

    wait_until(done, timeout_s=15, what="the probe")
    return result[0]


def causes(result: Probe) -> list[Cause]:
    return [finding.cause for finding in result.findings]


def test_a_probe_shows_what_was_heard(broker: Broker) -> None:
    broker.publish("s", "online", retain=True)
    start_s = Clock().mono_s()
    result = probe(broker, a_meter(power="p", status="s"), [("p", "25.5")], wait_s=10)
    assert Clock().mono_s() - start_s < 5  # a status that was retained is not waited for
    assert result.outcome is not None
    assert result.outcome.values == {"power": 25.5}
    assert not result.findings
    shown = {exchange.asked: (exchange.raw, exchange.error) for exchange in result.exchanges}
    assert shown == {"topic p": ("'25.5'", None), "topic s": ("'online' (retained)", None)}


def test_a_probe_names_the_topic_that_was_meant(broker: Broker) -> None:
    meter = a_meter(power="building/energy/power")
    result = probe(broker, meter, [("Building/Energy/Power", "5"), ("other", "1")])
    assert causes(result) == [Cause.TOPIC_NOT_HEARD]
    assert "but on Building/Energy/Power" in result.findings[0].message
    assert result.exchanges[0].error == "Nothing was heard within 1 s."


@pytest.mark.parametrize(
    ("others", "topic", "is_named"),
    [
        (9_999, "Power", True),
        (10_000, "Power", False),
        (0, "P" * 200, True),
        (0, "P" * 201, False),
    ],
)
def test_a_probe_keeps_so_many_names_only_and_no_endless_one(
    others: int, topic: str, is_named: bool
) -> None:
    hearing = _Hearing(a_meter(power=topic.lower()), Clock())
    for number in range(others):
        hearing.heard(f"another/topic/altogether/{number}", b"1", False)
    hearing.heard(topic, b"1", False)
    (finding,) = hearing.findings(1.0)
    assert (f"but on {topic};" in finding.message) is is_named


def test_a_probe_tells_of_a_broker_where_nobody_speaks(broker: Broker) -> None:
    result = probe(broker, a_meter(power="p"))
    assert causes(result) == [Cause.TOPIC_NOT_HEARD]
    assert "nor on any other" in result.findings[0].message


def test_a_probe_tells_what_was_only_retained(broker: Broker) -> None:
    broker.publish("p", "5", retain=True)
    result = probe(broker, a_meter(power="p"))
    assert causes(result) == [Cause.ONLY_RETAINED]
    assert result.outcome is not None
    assert not result.outcome.live


def test_a_probe_keeps_what_was_live_before_what_was_retained(broker: Broker) -> None:
    broker.publish("p", "1", retain=True)
    result = probe(broker, a_meter(power="p", voltage="u"), [("p", "2")], rounds=6)
    assert causes(result) == [Cause.TOPIC_NOT_HEARD]
    assert result.exchanges[0].raw == "'2'"


def test_a_probe_tells_which_path_an_unreadable_payload_has(broker: Broker) -> None:
    payload = '{"id": 0, "act_power": 5, "freq": 50}'
    result = probe(broker, a_meter(power="p"), [("p", payload)])
    assert causes(result) == [Cause.UNREADABLE]
    assert '"powerPath": "act_power"' in result.findings[0].message


def test_a_probe_tells_of_no_value_and_of_offline(broker: Broker) -> None:
    result = probe(broker, a_meter(power="p"), [("p", "unavailable")])
    assert causes(result) == [Cause.NO_VALUE]
    result = probe(broker, a_meter(power="p", status="s"), [("p", "1"), ("s", "offline")])
    assert causes(result) == [Cause.SAID_OFFLINE]


def test_a_probe_without_a_broker_says_why(broker: Broker) -> None:
    listener = broker.listener(open_now=False, port=free_port())
    result = listener.probe(a_meter(power="p"))
    assert causes(result) == [Cause.CONNECTION_REFUSED]
    assert result.exchanges[0].asked.startswith("broker 127.0.0.1:")
    assert result.outcome is None


def test_a_probe_leaves_the_live_connection_alone(broker: Broker) -> None:
    meter = a_meter(power="p")
    listener = broker.listener(meter, client_id="dlm")
    settle(listener)
    assert not probe(broker, meter, [("p", "1")], client_id="dlm").findings
    assert hear(listener, meter, any_values).live


def test_the_nearest_names_are_those_that_differ_least() -> None:
    names = ["shellies/em-1/emeter/0/power", "shellies/em-1/emeter/1/power", "home/light"]
    assert nearest("shellies/em-1/emeter/0/powr", names)[0] == names[0]
    assert nearest("SHELLIES/em-1/emeter/1/power", names) == [names[1]]
    assert nearest("x", names) == []


def test_the_nearest_of_thousands_of_names_are_found_quickly() -> None:
    many = [f"zigbee2mqtt/a_room_with_a_rather_long_name_{n:05}/power" for n in range(10_000)]
    start_s = time.monotonic()
    found = nearest("zigbee2mqtt/a_room_with_a_rather_long_name_04210/powr", many)
    assert time.monotonic() - start_s < 2
    assert found[0] == "zigbee2mqtt/a_room_with_a_rather_long_name_04210/power"
