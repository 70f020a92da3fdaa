"""The simulated sites beyond plain Modbus: HTTP, MQTT, and the devices of the library's templates.

What the simulator makes of a template is held against the recorded exchanges of `tests/wire`,
which were made by hand from the makers' documents.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import Clock
from edge.drivers import make_driver
from edge.library import Library
from edge.meterspec import References, parse_meter
from edge.model import QUANTITY_NAMES, Meter, Outcome
from edge.settings import BrokerConfig, Config, MqttConfig
from edge.simulate import DemoSite, Fault, FaultKind, TcpEndpoint, encode
from edge.simulate.command import add_arguments, make_site
from edge.simulate.demo import demo_meters, site_clock, template_meters
from edge.simulate.dialect import template_dialect
from edge.simulate.http import HttpSite
from edge.simulate.mqtt import MqttSite
from edge.simulate.payload import GUIDE_FIELDS, PayloadMeter, Place, payloads, steps_of
from edge.simulate.site import DAY_S
from edge.simulate.template import ModbusDevice, measured
from edge.template import Template, parse_template
from tests.brokers import Mosquitto
from tests.peers import MbpollError, free_port, mbpoll, need_program, wait_until

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WIRE = Path(__file__).parent / "wire"
TEMPLATES = {template.name: template for template in Library().listing().templates}
MODBUS = {name: each for name, each in TEMPLATES.items() if each.protocol == "modbus"}
RECORDED = {case.parent.name for case in WIRE.glob("*/typical.toml")}
COARSE_KW = 0.06
"""More than half of the coarsest step in which a model tells its power."""
QUIET_S = 0.06
"""How long a test listens before it says that nothing came."""


def a_template(protocol: str = "modbus", **tables: Any) -> Template:
    document = {"title": "T", "maker": "M", "models": ["T"], "source": "S", "protocol": protocol}
    return parse_template("a-device", {**document, **tables})


def wire_case(name: str) -> dict[str, Any]:
    return tomllib.loads((WIRE / name / "typical.toml").read_text(encoding="utf-8"))


# --- Payloads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("", ()),
        ("power", ("power",)),
        ("Body.Data.P_Grid", ("Body", "Data", "P_Grid")),
        ('"em1:0".act_power', ("em1:0", "act_power")),
        ("cec[1][0]", ("cec", 1, 0)),
        ("[0].pwr", (0, "pwr")),
        ("sum(emeters[].total)", None),
        ("a[?b].c", None),
        ("a | b", None),
        ("a[-1]", None),
        ("a.", None),
        ("a b", None),
    ],
)
def test_a_path_of_names_and_indices_is_read(
    path: str, steps: tuple[str | int, ...] | None
) -> None:
    assert steps_of(path) == steps


def follow(document: Any, steps: tuple[str | int, ...]) -> Any:
    for step in steps:
        document = document[step]
    return document


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map(
            lambda names: ("leaf", *names, 1, "value")
        ),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    st.floats(0.001, 1000),
)
def test_every_quantity_is_where_its_steps_lead(
    ways: list[tuple[str | int, ...]], value: float
) -> None:
    # One way may lead through another's end: distinct lengths below distinct roots do not.
    places = [
        Place(name, "t", (f"r{index}", *steps), 0.001)
        for index, (name, steps) in enumerate(zip(QUANTITY_NAMES, ways, strict=False))
    ]
    values = {place.quantity: value * (index + 1) for index, place in enumerate(places)}
    document = json.loads(payloads(places, values)["t"])
    for place in places:
        number = follow(document, place.steps) * place.factor
        assert number == pytest.approx(values[place.quantity], abs=1e-7)


def test_no_value_is_null_in_json_and_nan_alone() -> None:
    places = [Place("power", "bare"), Place("power", "json", ("power_kw",))]
    assert payloads(places, {"power": math.nan}) == {"bare": "nan", "json": '{"power_kw": null}'}


def test_a_fault_for_some_publications_heals_itself() -> None:
    meter = PayloadMeter("mqtt", lambda: {"power": 1.0}, [Place("power", "t")])
    meter.set_fault(Fault(FaultKind.NAN, requests=2))
    assert [meter.take()[0]["t"] for _ in range(3)] == ["nan", "nan", "1.0"]


def test_frozen_values_stay_until_healed() -> None:
    shown = {"power": 1.0}
    meter = PayloadMeter("http", lambda: dict(shown), [Place("power", "t")])
    meter.set_fault(Fault(FaultKind.FROZEN))
    shown["power"] = 2.0
    assert meter.take()[0] == {"t": "1.0"}
    meter.heal()
    assert meter.take()[0] == {"t": "2.0"}


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        ("http", FaultKind.BAD_CRC),
        ("http", FaultKind.EXCEPTION),
        ("http", FaultKind.REFUSE),
        ("mqtt", FaultKind.SLOW),
        ("mqtt", FaultKind.HALF),
        ("mqtt", FaultKind.STATUS),
    ],
)
def test_a_meter_cannot_have_a_fault_without_a_place_for_it(
    transport: str, kind: FaultKind
) -> None:
    fault = Fault(kind, delay_s=1, code=503 if kind is FaultKind.STATUS else 4)
    with pytest.raises(ValueError, match=kind.value):
        PayloadMeter(transport, dict, []).set_fault(fault)


@pytest.mark.parametrize(
    ("text", "code", "wait_s"), [("503", 503, 5), ("429", 429, 5), ("500", 500, None)]
)
def test_a_status_can_be_written(text: str, code: int, wait_s: int | None) -> None:
    fault = Fault.parse(f"status={text}")
    assert (fault.kind, fault.code, fault.retry_after_s) == (FaultKind.STATUS, code, wait_s)


@pytest.mark.parametrize("text", ["status=99", "status=600", "status=x"])
def test_a_status_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ "):
        Fault.parse(text)


# --- HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def http_site() -> Iterator[HttpSite]:
    with HttpSite(3, seed=1) as site:
        yield site


@pytest.fixture
def connection(http_site: HttpSite) -> Iterator[http.client.HTTPConnection]:
    endpoint = http_site.endpoints[0]
    connected = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=5)
    yield connected
    connected.close()


def get(
    connection: http.client.HTTPConnection, path: str, **headers: str
) -> http.client.HTTPResponse:
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def test_each_meter_answers_at_its_url_over_one_connection(
    http_site: HttpSite, connection: http.client.HTTPConnection
) -> None:
    shown = [meter.model.quantities(0) for meter in demo_meters(3, seed=1)]
    for body, quantities in zip(http_site.registrations, shown, strict=True):
        assert body["protocol"] == "http"
        url = urlsplit(body["communication"]["url"])
        assert url.netloc == f"127.0.0.1:{connection.port}"
        response = get(connection, url.path)
        assert (response.status, response.getheader("Content-Type")) == (200, "application/json")
        document = json.loads(response.read())
        assert list(document) == list(GUIDE_FIELDS.values())
        assert document["voltage"] == pytest.approx(230, abs=23)
        assert document["total_kwh"] >= quantities["energy"]
    assert http_site.endpoints[0].connections_accepted == 1
    with get(connection, "/meters/4") as response:
        assert (response.status, "/meters/4" in response.read().decode()) == (404, True)


def test_a_body_that_is_posted_is_out_of_the_way(connection: http.client.HTTPConnection) -> None:
    for _ in range(2):
        connection.request("POST", "/meters/1", body=b"GET / HTTP/1.1\r\n\r\n")
        with connection.getresponse() as response:
            assert json.loads(response.read())["frequency"] == pytest.approx(50, abs=0.1)


def test_without_the_token_nothing_is_told() -> None:
    with HttpSite(1, token="opensesame") as site:
        where = site.registrations[0]["communication"]
        assert where["authToken"] == "opensesame"
        endpoint = site.endpoints[0]
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=5)
        for sent, status in (("", 401), ("Bearer wrong", 401), ("Bearer opensesame", 200)):
            with get(connection, "/meters/1", **({"Authorization": sent} if sent else {})) as reply:
                assert reply.status == status
                assert ("power_kw" in json.loads(reply.read())) == (status == 200)
        connection.close()


def test_http_status_and_values_can_be_faulty(
    http_site: HttpSite, connection: http.client.HTTPConnection
) -> None:
    http_site.set_fault(1, Fault.parse("status=503"))
    with get(connection, "/meters/1") as response:
        assert (response.status, response.getheader("Retry-After")) == (503, "5")
    http_site.set_fault(1, Fault(FaultKind.NAN))
    with get(connection, "/meters/1") as response:
        assert set(json.loads(response.read()).values()) == {None}
    http_site.set_fault(1, Fault(FaultKind.GARBAGE))
    with get(connection, "/meters/1") as response, pytest.raises(ValueError, match=r"decode|value"):
        json.loads(response.read())
    with get(connection, "/meters/2") as response:
        assert json.loads(response.read())["power_kw"] >= 0


def test_half_an_answer_is_cut_short(
    http_site: HttpSite, connection: http.client.HTTPConnection
) -> None:
    http_site.set_fault(1, Fault(FaultKind.HALF))
    with get(connection, "/meters/1") as response, pytest.raises(http.client.IncompleteRead):
        response.read()


def test_close_hangs_up_and_listens_on(
    http_site: HttpSite, connection: http.client.HTTPConnection
) -> None:
    http_site.set_fault(1, Fault(FaultKind.CLOSE, requests=1))
    with pytest.raises(http.client.RemoteDisconnected):
        get(connection, "/meters/1")
    with get(connection, "/meters/1") as response:
        assert response.status == 200


@pytest.mark.parametrize("fault", [Fault(FaultKind.SILENT), Fault(FaultKind.SLOW, delay_s=60)])
def test_a_meter_that_does_not_answer_holds_up_nobody(
    http_site: HttpSite, connection: http.client.HTTPConnection, fault: Fault
) -> None:
    http_site.set_fault(1, fault)
    connection.timeout = QUIET_S
    with pytest.raises(TimeoutError):
        get(connection, "/meters/1")
    connection.close()
    with get(connection, "/meters/2") as response:
        assert response.status == 200


def test_slow_answers_in_the_end(
    http_site: HttpSite, connection: http.client.HTTPConnection
) -> None:
    http_site.set_fault(1, Fault(FaultKind.SLOW, delay_s=QUIET_S))
    with get(connection, "/meters/1") as response:
        assert "power_kw" in json.loads(response.read())


def test_refuse_lasts_until_healed(
    http_site: HttpSite, connection: http.client.HTTPConnection
) -> None:
    get(connection, "/meters/2").read()
    http_site.set_fault(1, Fault(FaultKind.REFUSE))
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        get(connection, "/meters/2")
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        get(connection, "/meters/1")
    connection.close()
    http_site.endpoints[0].heal()
    with get(connection, "/meters/1") as response:
        assert response.status == 200


def test_an_http_port_can_refuse_from_the_start() -> None:
    site = HttpSite(1, port=free_port())
    site.set_fault(1, Fault(FaultKind.REFUSE))
    with site:
        endpoint = site.endpoints[0]
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=5)
        with pytest.raises(ConnectionRefusedError):
            get(connection, "/meters/1")
        connection.close()
        endpoint.heal()
        with get(connection, "/meters/1") as response:
            assert response.status == 200
        connection.close()


def test_no_thread_of_an_http_site_outlives_it() -> None:
    with HttpSite(1) as site:
        endpoint = site.endpoints[0]
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=5)
        get(connection, "/meters/1").read()
    assert not [each for each in threading.enumerate() if "process_request" in each.name]
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        get(connection, "/meters/1")


def test_a_taken_port_leaves_nothing_behind() -> None:
    with HttpSite(1) as first:
        port = first.endpoints[0].port
        second = HttpSite(2, port=port - 1, template=TEMPLATES["shelly-plus-1pm-http"])
        with pytest.raises(OSError, match="in use"):
            second.start()
    with pytest.raises(ConnectionRefusedError):
        get(http.client.HTTPConnection("127.0.0.1", port - 1), "/")


# --- MQTT ------------------------------------------------------------------------------------


class Ear:
    """All that mosquitto_sub hears: (retained, topic, payload), in order."""

    def __init__(self, broker: Mosquitto) -> None:
        program = need_program("mosquitto_sub", "mosquitto-clients")
        where = ("-h", broker.host, "-p", str(broker.port))
        self._process = subprocess.Popen(
            [program, *where, "-t", "#", "-F", "%r %t %x"], stdout=subprocess.PIPE, text=True
        )
        self.heard: list[tuple[bool, str, bytes]] = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for _, heard, payload in self.heard if heard == topic]

    def numbers(self, topic: str) -> list[float]:
        return [float(payload) for payload in self.payloads(topic)]

    def wait_for(self, topic: str, payload: bytes | None = None) -> None:
        """Wait until something comes on the topic from now on, or just this payload."""
        before = len(self.heard)
        wait_until(
            lambda: any(
                heard == topic and payload in (None, said) for _, heard, said in self.heard[before:]
            ),
            what=f"{payload!r} on {topic}",
        )

    def wait_for_any(self, topic: str) -> None:
        """Wait until something has come on the topic."""
        wait_until(lambda: self.payloads(topic), what=f"a message on {topic}")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            retained, topic, payload = line.rstrip("\n").rsplit(" ", 2)
            self.heard.append((retained == "1", topic, bytes.fromhex(payload)))

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.communicate()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


def mqtt_site(broker: Mosquitto, count: int = 2, **options: Any) -> MqttSite:
    return MqttSite(count, broker=(broker.host, broker.port), interval_s=0.02, seed=1, **options)


def test_meters_publish_numbers_as_the_guide_has_them(broker: Mosquitto) -> None:
    with Ear(broker) as ear:
        with mqtt_site(broker) as site:
            topics = site.registrations[1]["communication"]
            assert topics["topicEnergy"] == "building/energy/2/total"
            for topic in topics.values():
                ear.wait_for_any(topic)
            assert ear.payloads(topics["topicStatus"]) == [b"online"]
            assert ear.numbers(topics["topicVoltage"])[0] == pytest.approx(230, abs=23)
        wait_until(lambda: ear.payloads(topics["topicStatus"])[-1] == b"offline", what="farewell")
    assert "pollInterval" not in site.registrations[0]


def test_online_is_retained_and_offline_is_the_last_will(broker: Mosquitto) -> None:
    status, power = "building/energy/1/status", "building/energy/1/power"
    with mqtt_site(broker) as site, Ear(broker) as ear:
        wait_until(lambda: (True, status, b"online") in ear.heard, what="the retained status")
        site.set_fault(1, Fault(FaultKind.CLOSE))
        ear.wait_for(status, b"offline")
        count = len(ear.payloads(power))
        ear.wait_for("building/energy/2/power")
        assert len(ear.payloads(power)) == count
        site.heal(1)
        ear.wait_for(power)
        assert ear.payloads(status)[-1] == b"online"


def test_the_faults_of_publishing_meters(broker: Mosquitto) -> None:
    power = "building/energy/1/power"
    with mqtt_site(broker) as site, Ear(broker) as ear:
        site.set_fault(1, Fault(FaultKind.NAN))
        ear.wait_for(power, b"nan")
        site.set_fault(1, Fault(FaultKind.GARBAGE))
        wait_until(lambda: len(ear.payloads(power)[-1]) == 24, what="garbage")
        site.set_fault(1, Fault(FaultKind.SILENT))
        ear.wait_for("building/energy/2/current")
        count = len(ear.payloads(power))
        ear.wait_for("building/energy/2/current")
        assert len(ear.payloads(power)) <= count + 1
        assert ear.payloads("building/energy/1/status") == [b"online"]


def test_meters_come_back_with_their_broker(broker: Mosquitto) -> None:
    with mqtt_site(broker) as site:
        broker.stop()
        broker.start()
        with Ear(broker) as ear:
            for body in site.registrations:
                topic = body["communication"]["topicPower"]
                ear.wait_for_any(topic)


def test_json_holds_all_fields_on_one_topic(broker: Mosquitto) -> None:
    with mqtt_site(broker, payload="json", prefix="site") as site, Ear(broker) as ear:
        topic = site.registrations[0]["communication"]["topicPower"]
        ear.wait_for(topic)
        assert list(json.loads(ear.payloads(topic)[-1])) == list(GUIDE_FIELDS.values())


def test_shelly_counts_in_watts_and_says_true(broker: Mosquitto) -> None:
    with mqtt_site(broker, payload="shelly") as site, Ear(broker) as ear:
        where = site.registrations[0]["communication"]
        assert where["topicPower"] == "shellies/shellyem-000001/emeter/0/power"
        assert "topicCurrent" not in where
        for topic in where.values():
            ear.wait_for_any(topic)
        expected = demo_meters(1, seed=1)[0].model.quantities(0)["energy"]
        assert ear.numbers(where["topicEnergy"])[0] >= 1000 * expected
        assert ear.numbers(where["topicPower"])[0] > 1000
        assert ear.payloads("shellies/shellyem-000001/online") == [b"true"]


def test_a_broker_that_is_down_or_refuses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionRefusedError):
        MqttSite(1, broker=("127.0.0.1", free_port())).start()
    with (
        Mosquitto(tmp_path, users={"someone": "secret"}) as broker,
        pytest.raises(ConnectionRefusedError, match="Not authorized"),
    ):
        mqtt_site(broker).start()


# --- Templates -------------------------------------------------------------------------------


def recorded_words(case: Mapping[str, Any]) -> dict[tuple[int, int], int]:
    """(function, address) → word, of all that a recorded device answered."""
    words = {}
    for exchange in case["exchange"]:
        request, reply = (bytes.fromhex(exchange[name]) for name in ("request", "reply"))
        start = int.from_bytes(request[2:4], "big")
        for at in range(3, len(reply), 2):
            words[request[1], start + (at - 3) // 2] = int.from_bytes(reply[at : at + 2], "big")
    return words


def as_measured(case: Mapping[str, Any], template: Template) -> dict[str, float]:
    """What a recorded device measured itself: no net power, and no sign turned by `invert`."""
    expected: dict[str, float] = dict(case["expected"])
    communication = template.communication
    if "topicPowerExport" in communication or "powerExport" in communication.get("registers", ()):
        del expected["power"]
    if communication.get("invert"):
        turned = ("power", "powerL1", "powerL2", "powerL3", "reactivePower")
        expected |= {name: -expected[name] for name in turned if name in expected}
    return expected


@pytest.mark.parametrize("name", sorted(RECORDED & MODBUS.keys()))
def test_a_templates_registers_hold_what_the_recorded_device_sent(name: str) -> None:
    template, case = MODBUS[name], wire_case(name)
    if "sunspec" in template.communication:
        return  # its addresses are the device's own choice
    words = recorded_words(case)
    encoded = encode(as_measured(case, template), ModbusDevice(template).layout)
    assert any(encoded.values())
    for function, table in encoded.items():
        for address, word in table.items():
            assert words[function, address] == word, f"function {function}, address {address}"


@pytest.mark.parametrize("name", sorted(RECORDED & TEMPLATES.keys() - MODBUS.keys()))
def test_a_templates_payloads_hold_what_the_recorded_device_sent(name: str) -> None:
    template, case = TEMPLATES[name], wire_case(name)
    dialect = template_dialect(template, case["communication"])
    recorded = [
        *((message["topic"], message["payload"]) for message in case.get("message", ())),
        *((urlsplit(said["target"]).path, said["body"]) for said in case.get("response", ())),
    ]
    if dialect.examples:
        assert dialect.addresses == [address for address, _ in recorded]
        return  # test_proofs reads them
    expected = as_measured(case, template)
    places = [place for place in dialect.places if place.quantity in expected]
    assert places
    for place in places:
        number = last_said(recorded, place)
        assert number * place.factor == pytest.approx(expected[place.quantity])


def last_said(recorded: list[tuple[str, str]], place: Place) -> float:
    """What a message leaves out has not changed since the one before."""
    for address, payload in reversed(recorded):
        if address == place.address:
            with contextlib.suppress(KeyError):
                return float(follow(json.loads(payload), place.steps))
    raise AssertionError(f"nothing was recorded at {place}")


@pytest.mark.parametrize("name", sorted(MODBUS))
def test_every_moment_of_a_year_fits_a_templates_registers(name: str) -> None:
    template = MODBUS[name]
    device = ModbusDevice(template)
    for meter in template_meters(template, 5, seed=1):
        for day in (0, 0.3, 0.5, 0.55, 180.52, 365.49):
            values = meter.model.quantities(day * DAY_S)
            encode(device.measured(partial(dict, values))(), meter.layout)


@pytest.mark.parametrize(
    ("exports", "inverted", "shown"),
    [
        (False, False, {"power": 5.0, "powerExport": 0.0}),
        (True, False, {"power": 5.0, "powerExport": 0.0}),
        (False, True, {"power": -5.0}),
        (True, True, {"power": 0.0, "powerExport": 5.0}),
    ],
)
def test_the_registration_reads_what_the_site_has(
    exports: bool, inverted: bool, shown: dict[str, float]
) -> None:
    site = dict.fromkeys(("power", "powerL1", "powerL2", "powerL3", "reactivePower"), 5.0)
    values = measured(lambda: site, exports, inverted)()
    assert {name: values[name] for name in shown} == shown
    assert values["powerL1"] == (-5.0 if inverted else 5.0)


def where_is(site: DemoSite) -> tuple[str, ...]:
    endpoint = site.simulator.endpoints[0]
    assert isinstance(endpoint, TcpEndpoint)
    return ("-p", str(endpoint.port), endpoint.host)


def test_a_templates_device_is_registered_by_its_name_and_says_what_it_is() -> None:
    registers = {
        "power": {"address": 7, "type": "int32", "scale": 0.001},
        "voltage": {"address": 14, "scale": 0.1, "notAvailable": 0x7000},
    }
    template = a_template(
        communication={"registerType": "input", "wordOrder": "little", "registers": registers},
        identify={"address": 40, "text": "AB3", "count": 3},
        meter_types=["solar"],
    )
    with DemoSite(2, units_per_port=2, seed=1, template=template) as site:
        for number, body in enumerate(site.registrations, start=1):
            where = body["communication"]
            assert body["meterType"] == "solar"
            assert set(where) == {"template", "host", "port", "unitId"}
            assert (where["template"], where["unitId"]) == ("a-device", number)
        at = where_is(site)
        assert mbpoll(*at, unit_id=2, address=40, count=3) == [0x4142, 0x3300, 0]
        low, high, *hole, tenths = mbpoll(*at, address=7, count=8, register_type="3")
        assert 100 < low + high * 0x10000 < 10_000
        assert not any(hole)
        assert tenths == pytest.approx(2300, abs=230)
        with pytest.raises(MbpollError, match="Illegal data address"):
            mbpoll(*at, address=7)
        site.set_fault(1, Fault(FaultKind.NAN))
        assert mbpoll(*at, address=14, register_type="3") == [0x7000]


def test_a_model_number_stands_most_significant_word_first() -> None:
    communication = {"registers": {"power": 1}, "wordOrder": "little"}
    identify = {"address": 9, "registerType": "input", "type": "uint32", "values": [0x10002, 5]}
    device = ModbusDevice(a_template(communication=communication, identify=identify))
    assert device.constants(1) == ({}, {9: 1, 10: 2})


@pytest.mark.parametrize(
    ("kind", "model", "length", "points"),
    [
        # Offsets from the model's id; source: github.com/sunspec/models, model_203 and model_103.
        ("meter", 203, 105, {"power": (18, 22), "energy": (46, 54), "voltageL1": (8, 15)}),
        ("inverter", 103, 50, {"power": (14, 15), "energy": (24, 26), "voltageL1": (10, 13)}),
    ],
)
def test_a_sunspec_device_is_found_by_walking_its_models(
    kind: str, model: int, length: int, points: dict[str, tuple[int, int]]
) -> None:
    template = a_template(communication={"sunspec": kind})
    with DemoSite(1, seed=1, template=template) as site:
        at = where_is(site)
        words = mbpoll(*at, address=40000, count=4)
        assert words == [0x5375, 0x6E53, 1, 66]
        start = 40004 + 66
        assert mbpoll(*at, address=start, count=2) == [model, length]
        assert mbpoll(*at, address=start + 2 + length, count=2) == [0xFFFF, 0]
        block = [int(word) for word in mbpoll(*at, address=start, count=2 + length)]
    values = {}
    for name, (offset, factor_offset) in points.items():
        raw = block[offset] << 16 | block[offset + 1] if name == "energy" else block[offset]
        exponent = (block[factor_offset] ^ 0x8000) - 0x8000
        values[name] = raw * 10.0**exponent
    meter = template_meters(template, 1, seed=1)[0]
    assert values["energy"] >= 1000 * meter.model.quantities(0)["energy"] - 10
    assert 1000 < values["power"] < 10_000
    assert values["voltageL1"] == pytest.approx(230, abs=23)


def test_devices_of_an_mqtt_template_have_topics_of_their_own(broker: Mosquitto) -> None:
    template = TEMPLATES["shelly-em"]
    with mqtt_site(broker, template=template) as site, Ear(broker) as ear:
        second = site.registrations[1]["communication"]
        assert second["template"] == "shelly-em"
        topic = f"shellies/{second['device']}/emeter/{second.get('channel', 0)}/power"
        ear.wait_for(topic)
        assert 100 < ear.numbers(topic)[-1] < 10_000


def test_paths_that_compute_need_an_example() -> None:
    communication = {"topicPower": "grid", "powerPath": "sum([a, b])", "topicEnergy": "energy"}
    with pytest.raises(ValueError, match=r"^a-device .* reads sum\(\[a, b\]\).* \[\[example\]\]"):
        template_dialect(a_template("mqtt", communication=communication), {})
    example = [{"address": "grid", "payload": '{"a": 1, "b": 2}'}]
    template = a_template("mqtt", communication=communication, example=example)
    dialect = template_dialect(template, {})
    assert (dialect.addresses, dialect.places) == (["grid"], ())
    meter = PayloadMeter("mqtt", dict, dialect.places, dialect.examples)
    assert [meter.take()[0] for _ in range(2)] == [{"grid": '{"a": 1, "b": 2}'}] * 2
    meter.set_fault(Fault(FaultKind.GARBAGE))
    with pytest.raises(ValueError, match="nan"):
        meter.set_fault(Fault(FaultKind.NAN))


def test_a_template_whose_host_is_fixed_is_registered_with_its_url() -> None:
    url = "https://api.example.org/v1?id={meter}"
    parameters = {"meter": {"title": "Its id", "example": "abc"}}
    communication = {"url": url, "powerPath": "power"}
    template = a_template("http", communication=communication, parameters=parameters)
    with HttpSite(1, template=template, token="t") as site:
        (body,) = site.registrations
        assert body["communication"] == {
            "template": "a-device",
            "meter": "abc",
            "authToken": "t",
            "url": f"http://{site.endpoints[0].origin}/v1?id=abc",
        }


def test_fixed_topics_are_for_one_meter() -> None:
    template = a_template("mqtt", communication={"topicPower": "grid/power"})
    MqttSite(1, template=template)
    with pytest.raises(ValueError, match="--meters 1"):
        MqttSite(2, template=template)


def test_devices_of_an_http_template_have_ports_of_their_own() -> None:
    with HttpSite(2, template=TEMPLATES["shelly-plus-1pm-http"], token="t") as site:
        hosts = [body["communication"]["host"] for body in site.registrations]
        assert len(set(hosts)) == 2
        for host in hosts:
            connection = http.client.HTTPConnection(host, timeout=5)
            path = "/rpc/Switch.GetStatus?id=0"
            with get(connection, path, Authorization="Bearer t") as response:
                assert 0 <= json.loads(response.read())["apower"] < 10_000
            connection.close()


# --- Every template, as a service would read it ----------------------------------------------


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_simulate_prints_for_a_template_registers_and_reads(
    name: str, request: pytest.FixtureRequest
) -> None:
    template, arguments, config = TEMPLATES[name], ["--port", "0"], Config()
    if template.protocol == "mqtt":
        broker: Mosquitto = request.getfixturevalue("shared_broker")
        arguments = ["--broker", f"{broker.host}:{broker.port}", "--interval", "0.02"]
        default = BrokerConfig(host=broker.host, port=broker.port)
        config = Config(mqtt=MqttConfig(brokers={"default": default}))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    clock = site_clock()
    with make_site(parser.parse_args(["--template", name, *arguments])) as site:
        devices = template_meters(template, 4)
        for index, (body, device) in enumerate(zip(site.registrations, devices, strict=True)):
            meter = parse_meter(body, "meter_1", index, References(TEMPLATES))
            site_shows = [device.model.quantities(clock())["power"]]
            power = power_of(meter, config)
            site_shows.append(device.model.quantities(clock())["power"])
            if template.examples:
                site_shows = [wire_case(name)["expected"]["power"]]
            assert min(site_shows) - COARSE_KW < power < max(site_shows) + COARSE_KW


def power_of(meter: Meter, config: Config) -> float:
    """Read a meter as its line does: ask it once, or hear it until it has given its power."""
    line: Any = make_driver(meter, Clock(), config)
    outcomes: list[Outcome] = []
    if meter.protocol == "mqtt":
        line.follow([meter])

    def has_power() -> bool:
        outcomes.extend(
            [outcome for _, outcome in line.listen(0.1)]
            if meter.protocol == "mqtt"
            else [line.poll(meter, trial=False)]
        )
        return bool(outcomes) and "power" in outcomes[-1].values

    line.open(1.0)
    try:
        wait_until(has_power, what=f"the power of {meter.communication}")
    finally:
        line.close()
    return outcomes[-1].values["power"]
