"""Connecting to where meters may be, and to nowhere else, whatever a name leads to."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import pytest

from edge.__main__ import main
from edge.clock import Clock
from edge.communication import HttpEndpoint, ModbusCommunication, ModbusEndpoint, ReadRequest
from edge.drivers import Driver, make_driver
from edge.drivers.dial import MOST_ADDRESSES, dial
from edge.drivers.http import HttpDriver
from edge.drivers.modbus import ModbusDriver
from edge.drivers.modbus.questions import Questions
from edge.drivers.modbus.scan import scan
from edge.errors import Cause, LineError
from edge.model import Meter
from edge.reach import ANYWHERE, Reach
from edge.settings import Config
from tests.http_peer import Authority, Exchange, http_peer
from tests.modbus_peer import sound_peer
from tests.peers import free_port
from tests.registrations import parse

TIMEOUT_S = 5.0
NAME = "meter.example"
HERE = Reach.of(["127.0.0.1"])
ELSEWHERE = Reach.of(["10.0.0.0/8"])

Found = list[tuple[Any, ...]]


def at(*addresses: str) -> Callable[[int], Found]:
    """What a name server says: these addresses, with the port that was asked for."""

    def found(port: int) -> Found:
        families = (socket.AF_INET6 if ":" in one else socket.AF_INET for one in addresses)
        return [
            (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for family, address in zip(families, addresses, strict=True)
        ]

    return found


class Names:
    """Stands for the system's resolver: NAME leads to each of `answers` in turn."""

    def __init__(self, *answers: Callable[[int], Found]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> Found:
        assert host == NAME, f"{host!r} is looked up"
        self.asked += 1
        return self.answers.pop(0)(port)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Names]:
    def stand_in(*answers: Callable[[int], Found]) -> Names:
        made = Names(*answers)
        monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
        return made

    return stand_in


@contextmanager
def listening(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    """A port whose connections wait to be accepted."""
    with socket.create_server((host, port)) as listener:
        listener.setblocking(False)
        yield listener


def was_called(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def gives_power(exchange: Exchange) -> None:
    exchange.give({"power_kw": 1.5})


def gives_and_closes(exchange: Exchange) -> None:
    exchange.give({"power_kw": 1.5}, connection="close")


def redirects_and_closes(exchange: Exchange) -> None:
    exchange.give(b"", 302, location="/other", connection="close")


def modbus_meter(host: str, port: int, **communication: Any) -> Meter:
    return parse(
        {
            "name": "Main",
            "protocol": "modbus",
            "meterType": "grid",
            "communication": {
                "host": host,
                "port": port,
                "registers": {"power": 5},
                **communication,
            },
        }
    )


def http_meter(host: str, port: int, **communication: Any) -> Meter:
    url = f"http://{host}:{port}/api"
    return parse(
        {
            "name": "Main",
            "protocol": "http",
            "meterType": "grid",
            "communication": {"url": url, **communication},
        }
    )


METERS = pytest.mark.parametrize("meter_at", [modbus_meter, http_meter])


def limited_to(*networks: str) -> Config:
    security = attrs.evolve(Config().security, allowed_networks=list(networks))
    return attrs.evolve(Config(), security=security)


def driver_of(meter: Meter, config: Config) -> Driver:
    driver = make_driver(meter, Clock(), config)
    assert isinstance(driver, ModbusDriver | HttpDriver)
    return driver


def refused(action: Callable[[], Any]) -> str:
    """Act, which is refused as not allowed; gives the sentence."""
    with pytest.raises(LineError) as caught:
        action()
    assert caught.value.cause is Cause.NOT_ALLOWED
    assert re.fullmatch(r"[^\n]{20,240}[^.]\.", str(caught.value))
    return str(caught.value)


# --- What an address is, and how it is spelled ---


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0.0.0.0",
        "::ffff:127.0.0.1",
    ],
)
def test_an_address_that_is_not_allowed_is_never_called(host: str) -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        sentence = refused(lambda: dial(host, port, TIMEOUT_S, ELSEWHERE, "HTTP"))
        assert not was_called(listener)
        dial(host, port, TIMEOUT_S, ANYWHERE, "HTTP").close()
        assert was_called(listener)
    assert "security.allowed_networks" in sentence


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
    ],
)
def test_credentials_are_not_asked_for_however_the_address_is_spelled(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it connects"))
    sentence = refused(lambda: dial(host, 80, TIMEOUT_S, ANYWHERE, "HTTP"))
    assert "credentials" in sentence
    assert sentence.startswith(host)


def test_a_name_is_told_with_the_address_that_it_leads_to(names: Callable[..., Names]) -> None:
    names(at("169.254.169.254"))
    sentence = refused(lambda: dial(NAME, 80, TIMEOUT_S, ANYWHERE, "HTTP"))
    assert sentence.startswith(f"{NAME} leads to 169.254.169.254, which hands out")


def test_of_several_addresses_the_allowed_ones_are_called(names: Callable[..., Names]) -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        with listening("127.0.0.2", port) as other:
            names(at("127.0.0.2", "127.0.0.1"))
            with closing(dial(NAME, port, TIMEOUT_S, HERE, "HTTP")) as connection:
                assert connection.getpeername() == ("127.0.0.1", port)
            assert not was_called(other)


def test_an_address_that_does_not_answer_leaves_the_next_one(names: Callable[..., Names]) -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        names(at("127.0.0.3", "127.0.0.1"))
        with closing(dial(NAME, port, TIMEOUT_S, ANYWHERE, "HTTP")) as connection:
            assert connection.getpeername() == ("127.0.0.1", port)
            assert connection.gettimeout() == TIMEOUT_S
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_why_the_allowed_ones_do_not_answer_counts_for_more(names: Callable[..., Names]) -> None:
    names(at("127.0.0.1", "127.0.0.2"))
    with pytest.raises(LineError) as caught:
        dial(NAME, free_port(), TIMEOUT_S, HERE, "HTTP")
    assert caught.value.cause is Cause.CONNECTION_REFUSED


def test_a_name_with_more_dead_addresses_than_a_device_has_is_given_up(
    names: Callable[..., Names],
) -> None:
    dead = [f"127.0.1.{number}" for number in range(1, MOST_ADDRESSES + 1)]
    with listening() as listener:
        port = listener.getsockname()[1]
        names(at("169.254.169.254", *dead[1:], "127.0.0.1"), at(*dead, "127.0.0.1"))
        with closing(dial(NAME, port, TIMEOUT_S, ANYWHERE, "HTTP")) as connection:
            assert connection.getpeername() == ("127.0.0.1", port)
        assert was_called(listener)
        with pytest.raises(LineError, match="refused the connection"):
            dial(NAME, port, TIMEOUT_S, ANYWHERE, "HTTP")
        assert not was_called(listener)


def test_an_address_without_a_route_does_not_hide_why_another_one_failed(
    names: Callable[..., Names],
) -> None:
    """As where a name has an address of IPv6, too, and the site has none."""
    failures = [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ]
    for order in (failures, failures[::-1]):
        names(at("127.0.0.1", "::1"))
        with (
            mock.patch.object(socket.socket, "connect", side_effect=order),
            pytest.raises(LineError) as caught,
        ):
            dial(NAME, 502, TIMEOUT_S, ANYWHERE, "Modbus TCP")
        assert caught.value.cause is Cause.CONNECTION_REFUSED


# --- A name that leads elsewhere the next time ---


@pytest.mark.parametrize("transport", ["tcp", "rtu-over-tcp"])
def test_a_modbus_name_is_looked_up_once_for_a_connection(
    transport: str, names: Callable[..., Names]
) -> None:
    with sound_peer(transport) as peer:
        resolver = names(at("127.0.0.1"), at("127.0.0.2"))
        endpoint = ModbusEndpoint(transport, host=NAME, port=peer.endpoint.port)
        with closing(ModbusDriver(endpoint, Clock(), HERE)) as driver:
            driver.open(TIMEOUT_S)
            assert driver.read(ReadRequest(1, 3, 5, 2), TIMEOUT_S)
            assert resolver.asked == 1
            driver.close()
            assert "127.0.0.2" in refused(lambda: driver.open(TIMEOUT_S))
            assert not driver.connected
        assert peer.accepted == 1


def test_an_http_name_is_looked_up_once_for_a_connection(names: Callable[..., Names]) -> None:
    with http_peer(gives_and_closes) as peer:
        resolver = names(at("127.0.0.1"), at("127.0.0.2"))
        meter = http_meter(NAME, peer.port)
        with closing(HttpDriver(HttpEndpoint("http", NAME, peer.port), Clock(), HERE)) as driver:
            driver.open(TIMEOUT_S)
            assert driver.poll(meter, trial=False).values["power"] == 1.5
            assert resolver.asked == 1
            with pytest.raises(LineError) as caught:
                driver.poll(meter, trial=False)
        assert caught.value.cause is Cause.NOT_ALLOWED
        assert peer.connections == 1
        assert peer.asked[0].headers["host"] == f"{NAME}:{peer.port}"


def test_a_redirect_is_judged_like_any_request(names: Callable[..., Names]) -> None:
    with http_peer(redirects_and_closes) as peer:
        names(at("127.0.0.1"), at("169.254.169.254"))
        meter = http_meter(NAME, peer.port)
        with closing(HttpDriver(HttpEndpoint("http", NAME, peer.port), Clock())) as driver:
            driver.open(TIMEOUT_S)
            with pytest.raises(LineError) as caught:
                driver.poll(meter, trial=False)
        assert caught.value.cause is Cause.NOT_ALLOWED
        assert [asked.target for asked in peer.asked] == ["/api"]


def test_tls_asks_for_the_name_at_the_address_that_was_judged(
    tmp_path: Path, names: Callable[..., Names]
) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context(f"DNS:{NAME}")
    wanted: list[str | None] = []

    def note(_connection: Any, server_name: str | None, _context: ssl.SSLContext) -> None:
        wanted.append(server_name)

    context.sni_callback = note
    with http_peer(gives_power, context) as peer:
        names(at("127.0.0.1"))
        endpoint = HttpEndpoint("https", NAME, peer.port, authority.ca_file)
        with closing(HttpDriver(endpoint, Clock(), HERE)) as driver:
            driver.open(TIMEOUT_S)
            assert driver.poll(http_meter(NAME, peer.port), trial=False).values["power"] == 1.5
        assert wanted == [NAME]
        assert peer.asked[0].headers["host"] == f"{NAME}:{peer.port}"


def test_a_certificate_for_the_address_is_none_for_the_name(
    tmp_path: Path, names: Callable[..., Names]
) -> None:
    authority = Authority(tmp_path)
    with http_peer(gives_power, authority.server_context("IP:127.0.0.1")) as peer:
        names(at("127.0.0.1"))
        endpoint = HttpEndpoint("https", NAME, peer.port, authority.ca_file)
        with pytest.raises(LineError, match="not trusted") as caught:
            HttpDriver(endpoint, Clock(), HERE).open(TIMEOUT_S)
    assert caught.value.cause is Cause.TLS


# --- How the drivers are handed it ---


@METERS
def test_a_meter_that_is_not_allowed_any_more_is_an_error_and_no_connection(
    meter_at: Callable[[str, int], Meter],
) -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        meter = meter_at("127.0.0.1", port)
        driver = driver_of(meter, limited_to("10.0.0.0/8"))
        sentence = refused(lambda: driver.open(TIMEOUT_S))
        assert sentence.startswith("127.0.0.1 is in none of the networks")
        assert not was_called(listener)
        with closing(driver_of(meter, limited_to("10.0.0.0/8", "127.0.0.0/8"))) as allowed:
            allowed.open(TIMEOUT_S)
            assert was_called(listener)
        with closing(driver_of(meter, Config())) as default:
            default.open(TIMEOUT_S)
            assert was_called(listener)


@METERS
def test_a_probe_says_so(meter_at: Callable[[str, int], Meter]) -> None:
    with listening() as listener:
        meter = meter_at("127.0.0.1", listener.getsockname()[1])
        probe = driver_of(meter, limited_to("10.0.0.0/8")).probe(meter)
        assert not was_called(listener)
    (finding,) = probe.findings
    assert finding.cause is Cause.NOT_ALLOWED
    assert "security.allowed_networks" in finding.message


def test_a_scan_is_limited_too() -> None:
    with listening() as listener:
        endpoint = ModbusEndpoint("tcp", host="127.0.0.1", port=listener.getsockname()[1])
        refused(lambda: next(scan(endpoint, Clock(), reach=ELSEWHERE)))
        assert not was_called(listener)


def test_so_is_the_question_in_other_frames() -> None:
    with listening() as listener:
        meter = modbus_meter("127.0.0.1", listener.getsockname()[1])
        communication = meter.communication
        assert isinstance(communication, ModbusCommunication)
        driver = ModbusDriver(communication.endpoint, Clock(), ELSEWHERE)
        questions = Questions(driver, communication, Clock())
        request = ReadRequest(1, 3, 5, 1)
        refused(lambda: questions.put_in_other_frames(request, "rtu-over-tcp"))
        assert not was_called(listener)


@pytest.mark.parametrize(
    ("flags", "code"), [(("--set", "registers.power=9"), 2), (("--scan",), 1), ((), 1)]
)
def test_no_command_is_a_way_around_it(
    flags: tuple[str, ...], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('[security]\nallowed_networks = ["10.0.0.0/8"]\n', encoding="utf-8")
    with listening() as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        assert main(["probe", "--config", str(config), target, *flags]) == code
        assert not was_called(listener)
    assert ": 127.0.0.1 is in none of the networks" in "".join(capsys.readouterr())
