"""Meters that publish or are asked over HTTP, through the running service: the guide's examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import Mosquitto
from tests.http_peer import Authority, HttpPeer, http_peer
from tests.peers import LibmodbusServer, free_port
from tests.service import Service

# The bodies of the integration guide, as written; a test that needs the meter elsewhere changes
# host, port or URL only.
MQTT_METER = {
    "name": "MQTT Building Meter",
    "location": "main-building",
    "protocol": "mqtt",
    "meterType": "grid",
    "communication": {
        "topicPower": "building/energy/power",
        "topicEnergy": "building/energy/total",
        "topicVoltage": "building/energy/voltage",
        "topicCurrent": "building/energy/current",
        "topicStatus": "building/energy/status",
    },
}
SHELLY_EM = {
    "name": "Shelly EM Monitor",
    "location": "main-building",
    "protocol": "mqtt",
    "meterType": "grid",
    "communication": {
        "topicPower": "shellies/shellyem-abc123/emeter/0/power",
        "topicEnergy": "shellies/shellyem-abc123/emeter/0/total",
        "topicVoltage": "shellies/shellyem-abc123/emeter/0/voltage",
        "topicCurrent": "shellies/shellyem-abc123/emeter/0/current",
    },
}
HOME_ASSISTANT = {
    "name": "Home Assistant Energy",
    "location": "main-building",
    "protocol": "mqtt",
    "meterType": "grid",
    "communication": {
        "topicPower": "homeassistant/sensor/energy/power/state",
        "topicEnergy": "homeassistant/sensor/energy/total/state",
    },
}
HTTP_METER = {
    "name": "HTTP Building Meter",
    "location": "main-building",
    "protocol": "http",
    "meterType": "grid",
    "pollInterval": 10000,
    "communication": {
        "url": "http://192.168.1.200/api/energy",
        "method": "GET",
        "headers": {"Accept": "application/json"},
        "authToken": "your-api-token-here",
    },
}
HTTP_ANSWER = {
    "power_kw": 30.2,
    "total_kwh": 15420.5,
    "voltage": 230,
    "current": 131.3,
    "power_factor": 0.95,
}


class Publisher:
    """A device that publishes; a real client of its own."""

    def __init__(self, broker: Mosquitto) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def say(self, topic: str, payload: str, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5.0)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def publisher(broker: Mosquitto) -> Iterator[Publisher]:
    device = Publisher(broker)
    yield device
    device.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as broker:
        yield broker


def broker_config(broker: Mosquitto) -> str:
    return f'[mqtt.brokers.default]\nhost = "{broker.host}"\nport = {broker.port}\n'


def wait_for(service: Service, meter_id: str, **expected: Any) -> Any:
    """Wait until the meter's answer has these fields; its answer."""
    path = f"/api/energy-meters/{meter_id}"

    def there() -> bool:
        meter = service.data(path)
        return all(meter[name] == value for name, value in expected.items())

    service.wait_until(there, f"{expected}")
    return service.data(path)


def subscribed(service: Service, broker: Mosquitto) -> None:
    name = "mqtt:default"
    service.wait_until(
        lambda: any(
            line["name"] == name and line["connected"]
            for line in service.data("/api/system")["lines"]
        ),
        "connected to the broker",
    )


def test_the_guides_mqtt_meter_reads_both_formats_and_its_status(
    tmp_path: Path, broker: Mosquitto
) -> None:
    with Service(tmp_path, config=broker_config(broker)) as service, publisher(broker) as device:
        id_ = service.register(MQTT_METER)["id"]
        assert service.data(f"/api/energy-meters/{id_}")["status"] == "pending"
        subscribed(service, broker)
        device.say("building/energy/power", '{"power_kw": 25.5, "voltage": 230.2}')
        wait_for(service, id_, status="online", currentPower=25.5)
        device.say("building/energy/total", "15420.3")
        device.say("building/energy/current", "110.8")
        device.say("building/energy/power", "26.5")
        meter = wait_for(service, id_, currentPower=26.5, current=110.8, totalEnergy=15420.3)
        assert meter["powerFactor"] is None
        assert meter["quality"] == "good"
        assert service.data("/api/load/status")["buildingConsumption"] == 26.5
        device.say("building/energy/status", "offline")
        assert "offline" in wait_for(service, id_, status="offline")["lastError"]
        assert service.data("/api/load/status")["buildingConsumption"] is None
        device.say("building/energy/status", "online")
        device.say("building/energy/power", "27.5")
        wait_for(service, id_, status="online", currentPower=27.5, lastError=None)
        device.say("building/energy/power", "twenty")
        assert "twenty" in wait_for(service, id_, status="error", currentPower=27.5)["lastError"]


def test_the_guides_shelly_reads_watts_and_watt_hours(tmp_path: Path, broker: Mosquitto) -> None:
    topic = "shellies/shellyem-abc123/emeter/0/"
    with Service(tmp_path, config=broker_config(broker)) as service, publisher(broker) as device:
        id_ = service.register(SHELLY_EM)["id"]
        subscribed(service, broker)
        device.say(topic + "total", "4120933.6")
        device.say(topic + "voltage", "231.42")
        device.say(topic + "power", "1543.27")
        meter = wait_for(service, id_, status="online", currentPower=1.54327)
        assert meter["totalEnergy"] == 4120.9336
        assert meter["voltage"] == 231.42
        assert meter["current"] is None


def test_the_guides_home_assistant_sensor_may_be_unavailable(
    tmp_path: Path, broker: Mosquitto
) -> None:
    topic = "homeassistant/sensor/energy/power/state"
    with Service(tmp_path, config=broker_config(broker)) as service, publisher(broker) as device:
        device.say(topic, "3.25", retain=True)
        id_ = service.register(HOME_ASSISTANT)["id"]
        meter = wait_for(service, id_, currentPower=3.25)
        assert (meter["status"], meter["quality"], meter["lastUpdate"]) == (
            "pending",
            "stale",
            None,
        )
        device.say(topic, "2.5", retain=True)
        wait_for(service, id_, status="online", currentPower=2.5, quality="good")
        device.say(topic, "unavailable", retain=True)
        meter = wait_for(service, id_, status="error")
        assert service.data("/api/load/status")["buildingConsumption"] is None
        assert "unavailable" in meter["lastError"]


def test_a_broker_that_comes_late_or_restarts_is_no_fault_of_the_service(
    tmp_path: Path, broker: Mosquitto
) -> None:
    broker.stop()
    with Service(tmp_path, config=broker_config(broker)) as service:
        id_ = service.register(MQTT_METER)["id"]
        assert "Nothing listens" in wait_for(service, id_, status="error")["lastError"]
        path = f"/api/energy-meters/{id_}"

        def heard(device: Publisher, power_kw: float) -> bool:
            device.say("building/energy/power", str(power_kw))
            meter = service.data(path)
            return bool(meter["status"] == "online" and meter["currentPower"] == power_kw)

        for power_kw in (1.5, 2.5):
            broker.start()
            service.wait_until(
                lambda: "a fresh one" in (service.data(path)["lastError"] or ""),
                "what was heard before the gap is not live any more",
            )
            assert service.data(path)["status"] == "error"
            with publisher(broker) as device:
                service.wait_until(
                    lambda device=device, power_kw=power_kw: heard(device, power_kw), "heard again"
                )
            broker.stop()
            service.wait_until(
                lambda: not any(line["connected"] for line in service.data("/api/system")["lines"]),
                "the loss noticed",
            )
        # What was said a moment ago is as true as before; it ages like any other value.
        assert service.data(f"/api/energy-meters/{id_}")["status"] == "online"


def test_the_guides_http_meter_reads_and_keeps_its_token(tmp_path: Path) -> None:
    with http_peer(lambda exchange: exchange.give(HTTP_ANSWER)) as peer:
        meter = at(HTTP_METER, peer)
        with Service(tmp_path) as service:
            answer = service.register(meter)
            id_ = answer["id"]
            assert answer["communication"]["authToken"] == "***"
            wait_for(service, id_, status="online", currentPower=30.2, totalEnergy=15420.5)
            path = f"/api/energy-meters/{id_}"
            status, _ = service.request(
                "PUT", path, {"pollInterval": 500, "communication": {"authToken": "***"}}
            )
            assert status == 200
            count = len(peer.asked)
            service.wait_until(lambda: len(peer.asked) > count + 1, "polled again")
            status, refused = service.request(
                "PUT", path, {"communication": {"url": f"http://127.0.0.1:{free_port()}/"}}
            )
            assert status == 400
            assert refused["details"][0]["field"] == "communication.authToken"
            assert "your-api-token-here" not in service.log
            status, text = service.request("GET", "/metrics")
            assert "your-api-token-here" not in text
        assert {asked.headers["authorization"] for asked in peer.asked} == {
            "Bearer your-api-token-here"
        }
        assert peer.connections == 1
        with Service(tmp_path) as service:  # the secret outlasts a restart
            wait_for(service, id_, status="online", currentPower=30.2)


def test_a_server_that_asks_to_be_left_alone_is(tmp_path: Path) -> None:
    def busy(exchange: Any) -> None:
        exchange.give({}, 429, retry_after="60")

    with http_peer(busy) as peer, Service(tmp_path) as service:
        first = service.register({**at(HTTP_METER, peer), "pollInterval": 200})["id"]
        other = at({**HTTP_METER, "name": "Other", "pollInterval": 200}, peer)
        assert "alone" in wait_for(service, first, status="error")["lastError"]
        second = service.register(other)["id"]
        wait_for(service, second, status="error")
        count = len(peer.asked)
        assert count == 2
        ticks = service.data("/api/system")["schedule"]["tick"]
        service.wait_until(
            lambda: service.data("/api/system")["schedule"]["tick"] > ticks + 10, "ten ticks"
        )
        assert len(peer.asked) == count


def test_a_certificate_that_is_not_trusted_is_not_read(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context()
    with http_peer(lambda exchange: exchange.give(HTTP_ANSWER), context) as peer:
        url = f"https://127.0.0.1:{peer.port}/api"
        body = {**HTTP_METER, "communication": {"url": url}}
        with Service(tmp_path) as service:
            id_ = service.register(body)["id"]
            assert "certificate" in wait_for(service, id_, status="error")["lastError"]
            path = f"/api/energy-meters/{id_}"
            service.request("PUT", path, {"communication": {"verifyTls": False}})
            meter = wait_for(service, id_, status="online", currentPower=30.2)
            assert "verifyTls" in meter["warnings"][0]
            trusted = {"verifyTls": True, "caFile": authority.ca_file}
            service.request("PUT", path, {"communication": trusted})
            assert wait_for(service, id_, status="online")["warnings"] == []


def test_what_a_registration_would_read_registers_nothing(
    tmp_path: Path, broker: Mosquitto
) -> None:
    words = {23316: 0xFFFF, 23317: 0xFC18, 23296: 0, 23297: 2301}
    registers = {
        "power": {"address": 23316, "type": "int32", "scale": 0.00001},
        "voltage": {"address": 23296, "type": "uint32", "scale": 0.1},
    }
    with (
        http_peer(lambda exchange: exchange.give(HTTP_ANSWER)) as peer,
        LibmodbusServer(words) as server,
        Service(tmp_path, config=broker_config(broker)) as service,
        publisher(broker) as device,
    ):
        modbus = {
            "name": "M",
            "protocol": "modbus",
            "meterType": "grid",
            "communication": {"host": "127.0.0.1", "port": server.port, "registers": registers},
        }
        device.say("building/energy/power", "12.5", retain=True)
        for body, expected in (
            (modbus, {"currentPower": -0.01, "voltage": 230.1}),
            (at(HTTP_METER, peer), {"currentPower": 30.2}),
            (MQTT_METER, {"currentPower": 12.5}),
        ):
            status, answer = service.request("POST", "/api/energy-meters/test", body)
            assert status == 200, answer
            assert answer["data"]["reading"].items() >= expected.items()
            assert answer["data"]["exchanges"]
            assert "your-api-token-here" not in str(answer)
        assert service.data("/api/energy-meters") == []


def at(document: dict[str, Any], peer: HttpPeer) -> dict[str, Any]:
    url = f"http://127.0.0.1:{peer.port}/api/energy"
    return {**document, "communication": {**document["communication"], "url": url}}
