"""How soon the dashboard stands on a slow link: a real browser, with nothing kept from before.

The browser is Debian's Chromium, spoken to in its DevTools protocol: it is what slows the link
down, counts the bytes, and says when it painted.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tools.bench.figure import Figure
from tools.bench.process import HOST, Bench, BenchError, Child, free_port, wait_for

_BITS_PER_S, _LATENCY_MS = 10_000_000, 20
_WANTED_S = 1.0
_WANTED_KB = 150.0
_AT_MOST_S = 20.0
_AHEAD_S, _QUIET_S = 2.0, 1.0
"""How long after the number stands the other pages are loaded ahead, at least; and without a byte
for how long all of them are there. The WebSocket stays open, and is not counted."""
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it does not start as root with one
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)
_EMPTY = "<!doctype html><html lang=en><title>Floor</title><p id=figure>28.0 kW</p></html>"
_WATCH = """
const look = () => {
  const node = document.querySelector('#figure, .hero-number .number:not([title])');
  if (node && /[0-9]/.test(node.textContent)) {
    requestAnimationFrame(() => { globalThis.stoodMs = performance.now(); });
  } else requestAnimationFrame(look);
};
look();
"""
"""What the page is made to note: when the number was in a frame that had been painted."""
_READ = """JSON.stringify([
  performance.getEntriesByName('first-contentful-paint')[0]?.startTime, globalThis.stoodMs
])"""


@dataclass(frozen=True)
class _Visit:
    """What one look at a page took: s since it was asked for, kB of 1000 bytes with headers."""

    painted_s: float
    stood_s: float
    kilobytes: float
    requests: int


def paint(bench: Bench) -> list[Figure]:
    """From typing the address to the first paint and the big number, and all that is loaded."""
    count = bench.pick(9, 3)
    with _chromium(bench) as browser:
        with _demo(bench) as url:
            ours = [browser.visit(url) for _ in range(count)]
        with _empty_page(bench) as url:
            floors = [browser.visit(url) for _ in range(count)]
    stood_s = sorted(visit.stood_s for visit in ours)
    floor_s = median(visit.stood_s for visit in floors)
    kilobytes = max(visit.kilobytes for visit in ours)
    link = f"{_BITS_PER_S // 1_000_000} Mbit/s, {_LATENCY_MS} ms, nothing cached"
    return [
        Figure(
            f"address → the big number stands, {link}",
            f"median {median(stood_s):.2f} s, worst of {count} {stood_s[-1]:.2f} s; first paint "
            f"after {median(visit.painted_s for visit in ours):.2f} s",
            f"an empty page of http.server: {floor_s:.2f} s",
            f"≤ {_WANTED_S:g} s",
            stood_s[-1] <= _WANTED_S,
            ratio=median(stood_s) / floor_s,
        ),
        Figure(
            f"loaded meanwhile and ahead, {max(visit.requests for visit in ours)} requests",
            f"{kilobytes:.0f} kB with headers",
            f"the empty page: {max(visit.kilobytes for visit in floors):.1f} kB",
            f"≤ {_WANTED_KB:g} kB",
            kilobytes <= _WANTED_KB,
        ),
    ]


@contextmanager
def _demo(bench: Bench) -> Iterator[str]:
    """Run the service with its demo, and give the address of the dashboard."""
    port = free_port()
    with Child(bench, ["-m", "edge", "run", "--demo", f"--port={port}"]):
        wait_for(lambda: _answers(port, "/readyz"), 30, "being ready")
        yield f"http://{HOST}:{port}/"


@contextmanager
def _empty_page(bench: Bench) -> Iterator[str]:
    """Serve a page with one number in it by http.server, and give its address."""
    folder, port = Path(mkdtemp(dir=bench.folder)), free_port()
    (folder / "index.html").write_text(_EMPTY)
    arguments = ["-m", "http.server", str(port), f"--bind={HOST}", f"--directory={folder}"]
    with Child(bench, arguments):
        wait_for(lambda: _answers(port, "/"), 10, "listening")
        yield f"http://{HOST}:{port}/"


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def _chromium(bench: Bench) -> Iterator[_Browser]:
    program = shutil.which("chromium")
    if program is None:
        raise BenchError("chromium is missing; install it with `apt-get install chromium`")
    profile = Path(mkdtemp(dir=bench.folder))
    flags = [*_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with Child(bench, flags, program):
        where = profile / "DevToolsActivePort"
        wait_for(lambda: where.exists() and len(where.read_text().split()) == 2, 30, "a browser")
        port, path = where.read_text().split()
        with connect(f"ws://{HOST}:{port}{path}", proxy=None, max_size=None) as socket:
            yield _Browser(socket)


class _Browser:
    """The DevTools protocol over one WebSocket.

    Source: https://chromedevtools.github.io/devtools-protocol/, domains Target, Network, Runtime.
    """

    def __init__(self, socket: Connection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        self._sizes: list[int] = []
        self._heard_s = 0.0

    def visit(self, url: str) -> _Visit:
        """Look at a page with nothing kept from before. Raises BenchError if it does not stand."""
        context = self._ask("Target.createBrowserContext")
        target = self._ask("Target.createTarget", url="about:blank", **context)
        session = self._ask("Target.attachToTarget", **target, flatten=True)
        self._session = session
        self._ask("Network.enable")
        self._ask(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=_LATENCY_MS,
            downloadThroughput=_BITS_PER_S / 8,
            uploadThroughput=_BITS_PER_S / 8,
        )
        self._ask("Page.enable")
        self._ask("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        self._sizes.clear()
        self._ask("Page.navigate", url=url)
        painted_s, stood_s = self._times()
        self._listen_until_quiet()
        visit = _Visit(painted_s, stood_s, sum(self._sizes) / 1000, len(self._sizes))
        self._session = {}
        self._ask("Target.disposeBrowserContext", **context)
        return visit

    def _times(self) -> tuple[float, float]:
        deadline_s = time.monotonic() + _AT_MOST_S
        while time.monotonic() < deadline_s:
            answer = self._ask("Runtime.evaluate", expression=_READ)
            painted_ms, stood_ms = json.loads(answer["result"]["value"])
            if painted_ms is not None and stood_ms is not None:
                return painted_ms / 1000, stood_ms / 1000
            self._listen(0.05)
        raise BenchError(f"the page did not stand within {_AT_MOST_S:.0f} s")

    def _listen_until_quiet(self) -> None:
        stood_s = self._heard_s = time.monotonic()
        while time.monotonic() < max(stood_s + _AHEAD_S, self._heard_s + _QUIET_S):
            self._listen(0.1)

    def _listen(self, for_s: float) -> None:
        with suppress(TimeoutError):
            self._take(json.loads(self._socket.recv(for_s)))

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Network.loadingFinished":
            self._sizes.append(message["params"]["encodedDataLength"])
            self._heard_s = time.monotonic()

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        call = {"id": number, "method": method, "params": parameters, **self._session}
        try:
            self._socket.send(json.dumps(call))
            while True:
                message = json.loads(self._socket.recv(_AT_MOST_S))
                if message.get("id") == number:
                    break
                self._take(message)
        except (ConnectionClosed, TimeoutError) as error:
            raise BenchError(f"the browser did not answer {method}: {error}") from error
        if "error" in message:
            raise BenchError(f"the browser refused {method}: {message['error']['message']}")
        result: dict[str, Any] = message["result"]
        return result
