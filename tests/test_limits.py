"""What one client, or ten thousand, may do to the service: whatever comes, it measures on time.

Each attack is made on the real service, which polls a meter five times a second all the while. The
attackers are threads of the test, so what they cost the service is only what it does with them.
"""

from __future__ import annotations

import itertools
import random
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from edge.api.http1 import MAX_BODY_BYTES
from tests.building import a_registration
from tests.peers import LibmodbusServer, wait_until
from tests.service import Service

LASTS_S = 1.5
"""How long an attack goes on."""
TICKS_PER_S, POLLS_PER_S = 10, 5
FEWEST = 0.5
"""Of the ticks and polls of that time: the machine is busy with attacking, and with other tests."""
MOST_MORE_KB = 40 * 1024
"""64 clients may have a head, a body and an answer under way each, and Python keeps some of it."""
MOST_THREADS = 64 + 24
"""As many clients as may be connected, a few that are leaving, and what the service has anyway."""

METERS = b"/api/energy-meters"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

Work = Callable[[float], None]
"""What an attacker does until a monotonic time, s."""


def post(body: bytes, path: bytes = METERS) -> bytes:
    return POST % path + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that each attack finds as the last one left it."""
    with (
        LibmodbusServer(holding={0: 20, 1: 5000, 2: 2300}) as meter,
        Service(tmp_path_factory.mktemp("limits")) as service,
    ):
        registers = {"power": 0, "energy": 1, "voltage": 2}
        where = {"host": meter.host, "port": meter.port, "registers": registers}
        service.register(a_registration(pollInterval=1000 // POLLS_PER_S, communication=where))
        service.wait_until(lambda: Counts.of(service).polls > 2, "polling")
        yield service


# --- How it is, before and after -----------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What the service counted until now."""

    ticks: float
    polls: float

    @classmethod
    def of(cls, service: Service) -> Counts:
        status, text = service.request("GET", "/metrics")
        assert status == 200

        def count(sample: str) -> float:
            return sum(float(value) for value in re.findall(rf"^{sample} (\S+)$", text, re.M))

        return cls(
            count("dlm_schedule_lateness_seconds_count"),
            count('dlm_polls_total{.*result="ok".*}'),
        )


def of_process(service: Service, name: str) -> int:
    """A number from /proc/<pid>/status: kB, or a count. Source: proc(5)."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    match = re.search(rf"^{name}:\s+(\d+)", status, re.M)
    assert match is not None
    return int(match[1])


def answers(service: Service) -> bool:
    with suppress(OSError):
        return bool(service.request("GET", "/healthz")[0] == 200)
    return False


@contextmanager
def unharmed(service: Service) -> Iterator[None]:
    """Hold that the service is on time and of bounded size meanwhile, and answers afterwards."""
    before, size_kb = Counts.of(service), of_process(service, "VmRSS")
    Path(f"/proc/{service.process.pid}/clear_refs").write_text("5")  # VmHWM begins anew
    most_threads, over = 0, threading.Event()

    def count_threads() -> None:
        nonlocal most_threads
        while not over.wait(0.02):
            most_threads = max(most_threads, of_process(service, "Threads"))

    counting = threading.Thread(target=count_threads)
    counting.start()
    began_s = time.monotonic()
    try:
        yield
    finally:
        over.set()
        counting.join()
    wait_until(lambda: answers(service), timeout_s=10, what="a normal answer")
    after, lasted_s = Counts.of(service), time.monotonic() - began_s
    assert after.ticks - before.ticks >= FEWEST * TICKS_PER_S * lasted_s - 1
    assert after.polls - before.polls >= FEWEST * POLLS_PER_S * lasted_s - 1
    assert of_process(service, "VmHWM") <= size_kb + MOST_MORE_KB
    assert most_threads <= MOST_THREADS
    assert " ERROR " not in service.log
    assert "Traceback" not in service.log


# --- Attackers -----------------------------------------------------------------------------------


def attack(*works: Work) -> None:
    """Let all of them work at once until the time is over."""
    until_s = time.monotonic() + LASTS_S
    failed: list[BaseException] = []

    def run(work: Work) -> None:
        try:
            work(until_s)
        except BaseException as exc:  # noqa: BLE001  told to the test
            failed.append(exc)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def on_and_on(until_s: float) -> Iterator[int]:
    """Count until the time is over."""
    return itertools.takewhile(lambda _: time.monotonic() < until_s, itertools.count())


def connect(service: Service, source: str = "127.0.0.1") -> socket.socket:
    """A connection whose end is a reset, so that it leaves nothing behind in the system."""
    client = socket.create_connection(("127.0.0.1", service.port), 5, (source, 0))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return client


def ask(client: socket.socket, data: bytes) -> tuple[int, bytes]:
    """Send bytes and read one answer: its status and its body."""
    client.sendall(data)
    with client.makefile("rb") as file:
        status = int(file.readline().split()[1])
        head = b"".join(iter(file.readline, b"\r\n"))
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None
        return status, file.read(int(length[1]))


def talk(service: Service, data: bytes) -> bytes:
    """Send bytes, close the sending side, and give all that is answered."""
    received = b""
    with connect(service) as client:
        with suppress(ConnectionError):  # it may have heard enough before the last byte
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while part := client.recv(65536):
                received += part
    return received


# --- Too slow, too many --------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [GET[:40], post(b" " * 60_000)[:200]], ids=["head", "body"])
def test_two_hundred_slow_clients(begun: bytes, service: Service) -> None:
    answered = 0

    def trickle(until_s: float) -> None:
        clients: list[socket.socket] = []
        for _ in on_and_on(until_s):
            while len(clients) < 50:
                clients.append(connect(service))
                with suppress(ConnectionError):
                    clients[-1].sendall(begun)
            for client in clients.copy():
                try:
                    client.sendall(b"x")
                except ConnectionError:
                    client.close()
                    clients.remove(client)
            time.sleep(0.05)
        for client in clients:
            client.close()

    def ask_from_elsewhere(until_s: float) -> None:
        nonlocal answered
        for _ in on_and_on(until_s):
            with connect(service, "127.0.0.2") as client:
                assert ask(client, GET)[0] == 200
            answered += 1
            time.sleep(0.05)

    with unharmed(service):
        attack(trickle, trickle, trickle, trickle, ask_from_elsewhere)
    assert answered >= 5


def test_ten_thousand_idle_clients(service: Service) -> None:
    attempted = 0
    at_once = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    with unharmed(service):
        while attempted < 10_000:
            with ExitStack() as stack:
                for _ in range(at_once):
                    client = stack.enter_context(socket.socket())
                    client.setblocking(False)
                    client.connect_ex(("127.0.0.1", service.port))
                attempted += at_once
                time.sleep(0.2)


# --- Bombs ---------------------------------------------------------------------------------------

SIXTY_FOUR_KIB = b" " * 65536
BOMBS = {
    "path": (b"GET /", b"x" * 65536),
    "query": (b"GET /?", b"a=b&" * 16384),
    "fields": (GET[:-2], b"X: y\r\n" * 10000),
    "value": (GET[:-2] + b"X: ", b"x" * 65536),
    "empty lines": (b"", b"\r\n" * 32768),
    "body": (POST % METERS + b"Content-Length: 65536\r\n\r\n", SIXTY_FOUR_KIB),
    "large body": (POST % METERS + b"Content-Length: 1000000000000\r\n\r\n", SIXTY_FOUR_KIB),
    "requests": (b"", GET.replace(b"/healthz", b"/api/system") * 500),
    "changes": (b"", post(b"{}") * 500),
}
"""How a request begins, and what comes on and on, by an attacker that never reads an answer."""


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(bomb: str, service: Service) -> None:
    begun, more = BOMBS[bomb]

    def throw(until_s: float) -> None:
        for _ in on_and_on(until_s):
            with suppress(OSError), connect(service) as client:
                client.settimeout(0.2)
                client.sendall(begun)
                for _ in on_and_on(until_s):
                    client.sendall(more)

    with unharmed(service):
        attack(*[throw] * 4)


def test_a_megabyte_of_garbage_a_second(service: Service) -> None:
    noise = random.Random(5)
    sent_bytes = [0]

    def throw(until_s: float) -> None:
        for _ in on_and_on(until_s):
            data = noise.randbytes(noise.choice((10, 1000, 20_000)))
            with suppress(OSError), connect(service) as client:
                client.sendall(data)
                sent_bytes.append(len(data))

    with unharmed(service):
        attack(*[throw] * 4)
    assert sum(sent_bytes) >= LASTS_S * 1_000_000


def nested(opening: bytes, closing: bytes = b"") -> bytes:
    depth = MAX_BODY_BYTES // (len(opening) + len(closing))
    return opening * depth + closing * depth


JSON_BOMBS = {
    "brackets": nested(b"["),
    "brackets, closed": nested(b"[", b"]"),
    "objects": nested(b'{"a":'),
    "digits": b"9" * MAX_BODY_BYTES,
    "numbers": b"[" + b",".join([b"9" * 4000] * 16) + b"]",
    "exponent": b'{"pollInterval": 1e999999999}',
    "not a number": b'{"pollInterval": NaN}',
    "keys": b"{" + b",".join(b'"%d":1' % n for n in range(1000)) + b"}",
    "a key twice": b"{" + b",".join(b'"%d":1' % (n % 6000) for n in range(6001)) + b"}",
    "elements": b"[" + b",".join([b"0"] * 32_000) + b"]",
    "half characters": b'{"name": "' + b"\\ud800" * 10_000 + b'"}',
    "not UTF-8": b'{"name": "' + b"\xff" * 60_000 + b'"}',
    "text": b'{"name": "' + b"x" * 65_000 + b'"}',
}


@pytest.mark.parametrize("path", [METERS, METERS + b"/test"])
@pytest.mark.parametrize("bomb", JSON_BOMBS)
def test_json_bombs(bomb: str, path: bytes, service: Service) -> None:
    with connect(service) as client:
        status, body = ask(client, post(JSON_BOMBS[bomb], path))
    assert status == 400
    assert body.startswith(b'{"success":false,"error":"')


def test_json_bombs_all_at_once(service: Service) -> None:
    def throw(until_s: float) -> None:
        with connect(service) as client:
            for number in on_and_on(until_s):
                bomb = list(JSON_BOMBS.values())[number % len(JSON_BOMBS)]
                assert ask(client, post(bomb))[0] == 400

    with unharmed(service):
        attack(*[throw] * 4)


# --- One request inside another ------------------------------------------------------------------

HIDDEN = b"DELETE /api/energy-meters/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = POST % (METERS + b"/test")
SIZE = b"Content-Length: %d\r\n" % len(HIDDEN)
SMUGGLING = {
    "two lengths": HEAD + b"Content-Length: 0\r\n" + SIZE,
    "two lengths in one": HEAD + SIZE[:-2] + b", 0\r\n",
    "length twice": HEAD + SIZE + SIZE,
    "length with a sign": HEAD + b"Content-Length: +0\r\n",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n",
    "chunked and length": HEAD + SIZE + b"Transfer-Encoding: chunked\r\n",
    "chunked, misspelt": HEAD + SIZE + b"Transfer-Encoding: xchunked\r\n",
    "chunked, hidden by a space": HEAD + SIZE + b"Transfer-Encoding : chunked\r\n",
    "chunked, hidden by a tab": HEAD + SIZE + b"Transfer-Encoding:\tchunked\r\n",
    "chunked, hidden by a fold": HEAD + SIZE + b"X: y\r\n Transfer-Encoding: chunked\r\n",
    "chunked, behind a bare CR": HEAD + SIZE + b"X: y\rTransfer-Encoding: chunked\r\n",
    "chunked, behind a bare LF": HEAD + SIZE + b"X: y\nTransfer-Encoding: chunked\r\n",
    "chunked, behind a NUL": HEAD + SIZE + b"X: y\0\r\nTransfer-Encoding: chunked\r\n",
    "space before colon": HEAD + b"Content-Length : 0\r\n",
    "folded first": HEAD.replace(b"Host", b" Host") + SIZE,
    "two hosts": HEAD + b"Host: else.example\r\nContent-Length: 0\r\n",
    "another host in the target": HEAD.replace(b" /", b" http://else.example/") + SIZE,
    "no version": HEAD.replace(b" HTTP/1.1", b"") + SIZE,
}


@pytest.mark.parametrize("shape", SMUGGLING)
def test_a_request_hidden_in_another_is_not_answered(shape: str, service: Service) -> None:
    answer = talk(service, SMUGGLING[shape] + b"\r\n" + HIDDEN)
    (status,) = re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert status.startswith(b"4")
    assert b"\r\nConnection: close\r\n" in answer


def test_a_request_behind_another_is_answered(service: Service) -> None:
    """Or else the ones above would prove nothing."""
    answer = talk(service, GET + HIDDEN)
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answer) == [b"200", b"404"]


# --- Paths that lead elsewhere -------------------------------------------------------------------

PASSWD = "../../../../../../../../etc/passwd"
WAYS = {
    "plain": PASSWD,
    "encoded": quote(PASSWD, safe=""),
    "dots encoded": PASSWD.replace(".", "%2e"),
    "doubly encoded": quote(quote(PASSWD, safe=""), safe=""),
    "overlong": PASSWD.replace("/", "%c0%af"),
    "absolute": "/etc/passwd",
    "absolute, encoded": "%2fetc%2fpasswd",
    "backslashes": PASSWD.replace("/", "\\"),
    "backslashes, encoded": PASSWD.replace("/", "%5c"),
    "behind a NUL": "index.html%00" + PASSWD,
    "doubled": PASSWD.replace("../", "....//"),
    "our own": "../api/static.py",
    "our own, encoded": "%2e%2e%2fapi%2fstatic.py",
    "the folder": ".",
    "a stream": "index.html::$DATA",
}


@pytest.mark.parametrize("start", ["/static/{hash}/", "/static/", "/", "/api/templates/", "//"])
@pytest.mark.parametrize("way", WAYS)
def test_no_path_leads_to_a_file(way: str, start: str, service: Service) -> None:
    page = service.request("GET", "/")[1]
    found = re.search(r"/static/(\w+)/", page)
    start = start.replace("{hash}", found[1] if found else "none")
    request = f"GET {start}{WAYS[way]} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = talk(service, request.encode())
    assert re.match(rb"HTTP/1\.1 40[04] ", answer)
    assert b"root:" not in answer
    assert b"import" not in answer
