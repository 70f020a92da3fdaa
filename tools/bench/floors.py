"""The least that does the same, each a process of its own: what the service is measured against.

    pymodbus   a thread for each line; it reads the line's units in turn once per period
    raw        the same with bare sockets: one request sent, its answer received
    http       http.server's stock handler, which answers every GET with the same bytes
    mqtt       paho-mqtt's own loop; it counts the messages on all topics
    imports    an interpreter with the libraries that the service stands on, and nothing else

None of them decodes, stores, judges or publishes anything.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any

from tools.bench.peers import COUNT, FIRST_ADDRESS, Line
from tools.bench.process import HOST, Bench, Child

_TIMEOUT_S = 1.0
_STACK_BYTES = 512 * 1024
_LIBRARIES = (
    "attrs",
    "cattrs",
    "http.server",
    "jmespath",
    "paho.mqtt.client",
    "prometheus_client",
    "pymodbus.framer",
    "urllib3",
)


class PollingFloor(Child):
    """A bare loop over `lines`, kind `pymodbus` or `raw`, from the start of a `with` block.

    at_once: all lines are read at the same moment of the period, instead of spread over it as the
    service does. That takes less than half the processor time, as whatever a read needs is still
    in the processor's caches from the one before.
    """

    def __init__(
        self,
        bench: Bench,
        kind: str,
        lines: Sequence[Line],
        period_s: float = 1.0,
        *,
        at_once: bool = False,
        cores: Collection[int] = (),
    ) -> None:
        super().__init__(bench, ["-m", __name__, kind])
        self.pin(cores)
        pause_s = 0.0 if at_once else period_s / len(lines)
        lines_of_json = [[line.port, line.units] for line in lines]
        self.say({"period_s": period_s, "pause_s": pause_s, "lines": lines_of_json})
        self.hear()


class HttpFloor(Child):
    """A stock server that gives `body` on `port`, from the start of a `with` block."""

    def __init__(self, bench: Bench, body: bytes) -> None:
        super().__init__(bench, ["-m", __name__, "http"])
        self.say({"body": body.decode()})
        self.port: int = self.hear()


class MqttFloor(Child):
    """A paho-mqtt client that hears all topics of a broker, from the start of a `with` block."""

    def __init__(self, bench: Bench, broker_port: int, cores: Collection[int] = ()) -> None:
        super().__init__(bench, ["-m", __name__, "mqtt"])
        self.pin(cores)
        self.say({"port": broker_port})
        self.hear()

    def messages(self) -> int:
        """How many it has heard so far."""
        self.say("messages")
        count: int = self.hear()
        return count


class ImportsFloor(Child):
    """An interpreter with the service's libraries, from the start of a `with` block to its end."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench, ["-m", __name__, "imports"])
        self.say({})
        self.hear()


# --- The processes themselves --------------------------------------------------------------------

Poll = Callable[[], None]


def _pymodbus(port: int, units: Sequence[int]) -> Poll:
    from pymodbus.client import ModbusTcpClient
    from pymodbus.exceptions import ModbusException

    # Any: its connect and close are not typed
    client: Any = ModbusTcpClient(HOST, port=port, timeout=_TIMEOUT_S, retries=0)
    client.connect()

    def poll() -> None:
        for unit in units:
            try:
                client.read_holding_registers(FIRST_ADDRESS, count=COUNT, device_id=unit)
            except ModbusException:  # silent, or not there: its next read connects again
                client.close()

    return poll


def _raw(port: int, units: Sequence[int]) -> Poll:
    connection = socket.create_connection((HOST, port), _TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = {
        unit: struct.pack(">HHHBBHH", 1, 0, 6, unit, 3, FIRST_ADDRESS, COUNT) for unit in units
    }
    answer_bytes = 9 + 2 * COUNT

    def poll() -> None:
        for unit in units:
            connection.sendall(request[unit])
            missing = answer_bytes
            while missing:
                missing -= len(connection.recv(missing))

    return poll


_POLLS = {"pymodbus": _pymodbus, "raw": _raw}


def _poll_for_ever(kind: str, port: int, units: Sequence[int], period_s: float) -> None:
    poll = _POLLS[kind](port, units)
    due_mono_s = time.monotonic()
    while True:
        poll()
        now_mono_s = time.monotonic()
        due_mono_s += period_s
        if due_mono_s < now_mono_s:  # too late for it: go on from here, without a burst
            due_mono_s = now_mono_s
        time.sleep(due_mono_s - now_mono_s)


def _run_polling(
    kind: str, period_s: float, pause_s: float, lines: list[tuple[int, list[int]]]
) -> None:
    threading.stack_size(_STACK_BYTES)
    for port, units in lines:
        threading.Thread(
            target=_poll_for_ever, args=(kind, port, units, period_s), daemon=True
        ).start()
        time.sleep(pause_s)
    print(json.dumps(len(lines)), flush=True)
    threading.Event().wait()


def _run_http(body: str) -> None:
    content = body.encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Write no access log: the service writes none."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        server.daemon_threads = True
        print(json.dumps(server.server_address[1]), flush=True)
        server.serve_forever()


def _run_mqtt(port: int) -> None:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    count = 0

    def on_connect(client: Client, *_: object) -> None:
        client.subscribe("#")

    def on_subscribe(*_: object) -> None:
        print(json.dumps(count), flush=True)

    def on_message(*_: object) -> None:
        nonlocal count
        count += 1

    def tell() -> None:
        for _ in sys.stdin:
            print(json.dumps(count), flush=True)

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.connect(HOST, port)
    threading.Thread(target=tell, daemon=True).start()
    client.loop_forever()


def _run_imports() -> None:
    for name in _LIBRARIES:
        import_module(name)
    print(json.dumps(len(_LIBRARIES)), flush=True)
    threading.Event().wait()


_RUNS: dict[str, Callable[..., None]] = {
    "http": _run_http,
    "mqtt": _run_mqtt,
    "imports": _run_imports,
    **{kind: partial(_run_polling, kind) for kind in _POLLS},
}

if __name__ == "__main__":
    settings = json.loads(sys.stdin.readline())
    with suppress(KeyboardInterrupt):
        _RUNS[sys.argv[1]](**settings)
