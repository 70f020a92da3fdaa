"""A real MQTT broker, and who publishes through it: each a process of its own.

The publisher is paho-mqtt, told over its standard input what to publish, as a line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tools.bench.process import HOST, Bench, BenchError, Child, free_port, wait_for

_KEEPALIVE_S = 3600
"""Longer than any run: nothing is read or sent between two streams."""
_PACE_S = 0.005


class Broker:
    """Debian's mosquitto with its own defaults, from the start of a `with` block to its end."""

    def __init__(self, bench: Bench, cores: Collection[int] = ()) -> None:
        found = shutil.which("mosquitto")
        if found is None:
            raise BenchError("mosquitto is missing; run: sudo apt-get install mosquitto")
        self._program = found
        self._bench = bench
        self._cores = cores
        self._stack = ExitStack()

    def __enter__(self) -> Broker:
        self.port = free_port()
        lines = [f"listener {self.port} {HOST}", "allow_anonymous true", "persistence false"]
        if os.getuid() == 0:
            lines.append("user root")  # or else it could not read the file
        config = self._bench.folder / f"mosquitto-{self.port}.conf"
        config.write_text("\n".join(lines) + "\n")
        child = Child(self._bench, ["-c", str(config)], self._program)
        self._stack.enter_context(child)
        child.pin(self._cores)
        try:
            wait_for(lambda: self._listens(child), 10, "mosquitto's listening")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _listens(self, child: Child) -> bool:
        child.check()
        with suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False


@dataclass(frozen=True)
class Stream:
    """Messages to publish: the topics in turn, and of each its payloads in turn."""

    topics: Sequence[tuple[str, Sequence[str]]]
    rate: float
    duration_s: float

    def last(self, sent: int) -> dict[str, str]:
        """Topic → the payload that came last, when so many were sent."""
        last = {}
        for number in range(max(0, sent - len(self.topics)), sent):
            topic, payloads = self.topics[number % len(self.topics)]
            last[topic] = payloads[number // len(self.topics) % len(payloads)]
        return last


class Sent(NamedTuple):
    """What became of a stream; ended_mono_s: when its last message was handed over."""

    messages: int
    took_s: float
    ended_mono_s: float


class Publisher(Child):
    """Publishes streams, from the start of a `with` block to its end."""

    def __init__(self, bench: Bench, broker: Broker, cores: Collection[int] = ()) -> None:
        super().__init__(bench, ["-m", __name__, str(broker.port)])
        self.pin(cores)

    def start(self, stream: Stream) -> None:
        """Begin to publish."""
        self.say([list(stream.topics), stream.rate, stream.duration_s])

    def wait_sent(self) -> Sent:
        """Wait until the stream is over."""
        return Sent(*self.hear())


# --- The publisher itself ------------------------------------------------------------------------


def _publish(client: Client, stream: Stream) -> Sent:
    """Publish evenly, and never more than is due: who falls behind has sent less."""
    started_mono_s = time.monotonic()
    sent, passed_s = 0, 0.0
    topics = stream.topics
    while passed_s < stream.duration_s:
        passed_s = time.monotonic() - started_mono_s
        due = round(min(passed_s, stream.duration_s) * stream.rate)
        for number in range(sent, due):
            topic, payloads = topics[number % len(topics)]
            client.publish(topic, payloads[number // len(topics) % len(payloads)])
        sent = due
        client.loop_misc()
        time.sleep(_PACE_S)
    while client.want_write():
        client.loop_write()
    ended_mono_s = time.monotonic()
    return Sent(sent, ended_mono_s - started_mono_s, ended_mono_s)


def _run(port: int) -> None:
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(HOST, port, _KEEPALIVE_S)
    while not client.is_connected():
        client.loop_read()
    for line in sys.stdin:
        print(json.dumps(_publish(client, Stream(*json.loads(line)))), flush=True)


if __name__ == "__main__":
    _run(int(sys.argv[1]))
