"""How soon a browser sees a value, and what clients that do not read do to the cycle.

The browsers are the websockets library in a process of its own, told over its standard input what
to do: a command is a line of JSON, {"do": NAME, …}, and so is its answer. A frame says itself when
its tick was, by the clock of the machine that all share.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed

from edge.times import parse_time, timestamp
from tools.bench.cost import METERS
from tools.bench.figure import Figure, bucket_quantile, quantile
from tools.bench.peers import Peers
from tools.bench.process import HOST, Bench, Child, wait_for
from tools.bench.service import Service

_BROWSERS = 20
_CLIENTS = 32
_WANTED_DELAY_S = 0.25
_WANTED_LATENESS_S = 0.025
_WANTED_GROWTH_MB = 2.0
_STUCK_FOR_S = 14
"""Longer than a client that does not read is borne, so that all that one costs was spent."""
_TICK_S, _READINGS_PER_TICK = 0.1, METERS // 10
_PATH = "/ws"


class Browsers(Child):
    """WebSocket clients, from the start of a `with` block to its end."""

    def __init__(self, bench: Bench, port: int, reading: int, stuck: int = 0) -> None:
        super().__init__(bench, ["-m", __name__, "browsers"])
        self.say({"port": port, "reading": reading, "stuck": stuck})
        self.hear()

    def delays_s(self) -> list[float]:
        """From the tick to the arrival, of each reading since this was asked for the last time."""
        self.say({})
        delays_ms: list[int] = self.hear()
        return [delay_ms / 1000 for delay_ms in delays_ms]


def delay(bench: Bench) -> list[Figure]:
    """From the tick that made a value current to its arrival at 20 browsers, 50 meters at 1 s."""
    with Peers(bench) as peers, Service(bench, peers.add(METERS)) as service:
        wait_for(service.all_online, 10, "reading all meters")
        ours = _delays_s(bench, service.port)
    with Child(bench, ["-m", __name__, "server"]) as server:
        floors = _delays_s(bench, server.hear())
    p99_s, floor_p99_s = quantile(ours, 0.99), quantile(floors, 0.99)
    return [
        Figure(
            f"tick → browser, {_BROWSERS} of them, {METERS} meters, {len(ours)} readings",
            f"median {quantile(ours, 0.5) * 1000:.0f} ms, p99 {p99_s * 1000:.0f} ms, "
            f"worst {max(ours) * 1000:.0f} ms",
            "broadcast of the websockets library that does nothing else: median "
            f"{quantile(floors, 0.5) * 1000:.0f} ms, p99 {floor_p99_s * 1000:.0f} ms",
            f"p99 ≤ {_WANTED_DELAY_S * 1000:.0f} ms",
            p99_s <= _WANTED_DELAY_S,
        )
    ]


def _delays_s(bench: Bench, port: int) -> list[float]:
    with Browsers(bench, port, _BROWSERS) as browsers:
        time.sleep(2)
        browsers.delays_s()
        time.sleep(bench.pick(30, 8))
        return browsers.delays_s()


def stuck(bench: Bench) -> list[Figure]:
    """Lateness and memory with 32 WebSocket clients of which half do not read."""
    duration_s = bench.pick(60, 16)
    with Peers(bench) as peers, Service(bench, peers.add(METERS)) as service:
        wait_for(service.all_online, 10, "reading all meters")
        start = service.late_ticks()
        time.sleep(bench.pick(20, 8))
        alone = _since(start, service.late_ticks())
        with Browsers(bench, service.port, _CLIENTS // 2, _CLIENTS // 2) as browsers:
            time.sleep(_STUCK_FOR_S)
            before, browsers_before = service.late_ticks(), service.child.memory().pss
            browsers.delays_s()
            time.sleep(duration_s)
            after, browsers_after = service.late_ticks(), service.child.memory().pss
            delays_s = browsers.delays_s()
    counts = _since(before, after)
    ticks, growth_mb = counts[float("inf")], browsers_after - browsers_before
    in_time = counts[_WANTED_LATENESS_S] / ticks
    return [
        Figure(
            f"schedule lateness, {_CLIENTS} WebSocket clients, half of them not reading, "
            f"{ticks:.0f} ticks",
            f"p99 ≤ {bucket_quantile(counts, 0.99) * 1000:g} ms; {in_time:.1%} within "
            f"{_WANTED_LATENESS_S * 1000:g} ms; the others see readings after p99 "
            f"{quantile(delays_s, 0.99) * 1000:.0f} ms",
            f"without clients p99 ≤ {bucket_quantile(alone, 0.99) * 1000:g} ms",
            f"p99 ≤ {_WANTED_LATENESS_S * 1000:g} ms",
            in_time >= 0.99,
        ),
        Figure(
            f"memory meanwhile, over {duration_s} s",
            f"{browsers_before:.1f} → {browsers_after:.1f} MB PSS",
            "",
            f"flat: within {_WANTED_GROWTH_MB:g} MB",
            growth_mb <= _WANTED_GROWTH_MB,
        ),
    ]


def _since(before: dict[float, float], after: dict[float, float]) -> dict[float, float]:
    return {le: after[le] - before[le] for le in after}


# --- The browsers' process -----------------------------------------------------------------------


async def _browse(port: int, reading: int, stuck: int) -> None:
    delays_ms: list[int] = []
    url = f"ws://{HOST}:{port}{_PATH}"
    clients = [await connect(url, proxy=None, compression=None) for _ in range(reading)]
    tasks = [asyncio.create_task(_read(client, delays_ms)) for client in clients]
    if stuck:
        tasks.append(asyncio.create_task(_be_stuck(port, stuck)))
    print(json.dumps(len(clients)), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        for task in tasks:
            if task.done():
                task.result()
        print(json.dumps(delays_ms), flush=True)
        delays_ms.clear()


async def _read(client: ClientConnection, delays_ms: list[int]) -> None:
    """Take each frame; `timestamp` comes second in it, and nothing of it is parsed but that."""
    while True:
        message = await client.recv(decode=False)
        if message.startswith(b'{"type":"meter_reading"'):
            tick_ms = parse_time(message[: message.index(b"Z") + 1].decode()[-24:])
            delays_ms.append(time.time_ns() // 1_000_000 - tick_ms)


async def _be_stuck(port: int, count: int) -> None:
    """Connect and never read; who was closed for it comes back."""
    ends = select.poll()
    clients: dict[int, socket.socket] = {}
    while True:
        for number, _ in ends.poll(0):
            ends.unregister(number)
            clients.pop(number).close()
        while len(clients) < count:
            client = await asyncio.to_thread(_open, port)
            clients[client.fileno()] = client
            ends.register(client, 0)  # tells of its end only
        await asyncio.sleep(0.2)


def _open(port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.connect((HOST, port))
    client.sendall(
        f"GET {_PATH} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    return client


# --- The floor's process -------------------------------------------------------------------------


async def _broadcast() -> None:
    """Send as many readings as the service does, ten times a second, to whoever connects."""
    reading: dict[str, Any] = dict.fromkeys("abcdefghijkl", 230.1)
    async with serve(_hold, HOST, 0, compression=None) as server:
        print(json.dumps(server.sockets[0].getsockname()[1]), flush=True)
        while True:
            stamp = timestamp(time.time_ns() // 1_000_000)
            for _ in range(_READINGS_PER_TICK):
                frame = {"type": "meter_reading", "timestamp": stamp, "data": reading}
                broadcast(server.connections, json.dumps(frame, separators=(",", ":")))
            await asyncio.sleep(_TICK_S)


async def _hold(connection: Any) -> None:
    with suppress(ConnectionClosed):
        await connection.wait_closed()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        if sys.argv[1] == "server":
            asyncio.run(_broadcast())
        else:
            asyncio.run(_browse(**json.loads(sys.stdin.readline())))
