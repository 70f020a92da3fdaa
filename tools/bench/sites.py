"""Simulated MQTT and HTTP meters of the device library, in a process of their own.

It is given a line of JSON, {"broker_port", "mqtt", "http"}: how many meters of each kind; and
answers with the registrations of all of them, once every one can be heard or asked.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack

from edge.library import Library
from edge.simulate.http import HttpSite
from edge.simulate.mqtt import MqttSite
from tools.bench.broker import Broker
from tools.bench.process import HOST, Bench, Child
from tools.bench.service import Registration

_MQTT_TEMPLATE, _HTTP_TEMPLATE = "shelly-pro-3em", "shelly-pro-3em-http"
"""JSON of half a kilobyte; each HTTP meter has a port, so a line, of its own."""


class Sites(Child):
    """The meters, from the start of a `with` block to its end. MQTT ones publish every second."""

    def __init__(self, bench: Bench, broker: Broker, mqtt: int, http: int) -> None:
        super().__init__(bench, ["-m", __name__])
        self.say({"broker_port": broker.port, "mqtt": mqtt, "http": http})
        self.registrations: list[Registration] = self.hear()


def _run(broker_port: int, mqtt: int, http: int) -> None:
    library = Library()
    sites = (
        MqttSite(mqtt, broker=(HOST, broker_port), template=library[_MQTT_TEMPLATE]),
        HttpSite(http, template=library[_HTTP_TEMPLATE]),
    )
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(site)
        registrations = [each for site in sites for each in site.registrations]
        print(json.dumps(registrations), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _run(**json.loads(sys.stdin.readline()))
