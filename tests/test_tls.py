"""TLS at the API's door: what is spoken, who is held off, and certificates that change."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from edge.api import Response
from edge.api.server import ApiServer
from edge.api.tls import make_context
from edge.errors import ConfigError
from tests.brokers import Certificates, make_certificates
from tests.peers import need_program, wait_until
from tests.service import Service
from tests.test_server import BIG, GET, Pieces, Serve, http_threads, serving


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(certificates: Certificates) -> Iterator[Serve]:
    """Start servers that speak TLS."""
    with serving(cert_file=certificates.server_cert, key_file=certificates.server_key) as start:
        yield start


def trusting(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    # Python 3.13 would want a key usage of the tests' authority, which has none.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def connect(server: ApiServer, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    return context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False)


def read_to_end(client: socket.socket) -> bytes:
    """Read until the server ends it, as it must: with TLS, an end that is not said raises."""
    received = bytearray()
    while part := client.recv(65536):
        received += part
    return bytes(received)


def read_answer(client: socket.socket) -> bytes:
    """Read a short answer."""
    received = client.recv(65536)
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    return received


LAST = GET[:-2] + b"Connection: close\r\n\r\n"


# --- What is spoken ------------------------------------------------------------------------------


def test_requests_are_answered_over_tls(serve: Serve, certificates: Certificates) -> None:
    server, routes = serve()
    assert server.base_url == f"https://127.0.0.1:{server.port}"
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(GET)
        assert read_answer(client).startswith(b"HTTP/1.1 200 OK")
        client.sendall(LAST)
        assert read_to_end(client).startswith(b"HTTP/1.1 200 OK")
    assert [request.secure for request in routes.asked] == [True, True]


def test_an_address_in_the_request_may_say_https(serve: Serve, certificates: Certificates) -> None:
    server, routes = serve()
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(LAST.replace(b" / ", b" https://localhost/a "))
        assert read_to_end(client).startswith(b"HTTP/1.1 200 OK")
    assert routes.asked[0].path == "/a"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_spoken(
    version: ssl.TLSVersion, serve: Serve, certificates: Certificates
) -> None:
    server, _ = serve()
    context = trusting(certificates.ca_file)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connect(server, context) as client:
        assert client.version() == version.name.replace("_", ".")
        assert client.selected_alpn_protocol() == "http/1.1"


def test_versions_that_are_not_spoken(serve: Serve) -> None:
    server, _ = serve()
    program = need_program("openssl", "openssl")
    address = f"127.0.0.1:{server.port}"
    for version in ("-tls1", "-tls1_1"):
        command = [program, "s_client", "-connect", address, version, "-cipher", "ALL:@SECLEVEL=0"]
        run = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
        assert run.returncode != 0
        assert b"BEGIN CERTIFICATE" not in run.stdout


def test_a_large_answer_and_a_large_body(serve: Serve, certificates: Certificates) -> None:
    server, routes = serve()
    body = b"1" * 65536
    fields = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 65536\r\n\r\n"
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(b"POST /post HTTP/1.1\r\n" + fields + body)
        assert read_answer(client).startswith(b"HTTP/1.1 200 OK")
        client.sendall(LAST.replace(b" / ", b" /big "))
        assert read_to_end(client).partition(b"\r\n\r\n")[2] == BIG
    assert routes.asked[0].body == body


def test_pieces_end_with_an_end_that_is_said(serve: Serve, certificates: Certificates) -> None:
    server, routes = serve()
    routes.paths["/stream"] = lambda: Response(200, b"", stream=Pieces(b"one", b"two"))
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
        assert read_to_end(client).endswith(b"\r\n\r\nonetwo")


def test_another_protocol_takes_the_keys_along(serve: Serve, certificates: Certificates) -> None:
    server, routes = serve()
    taken: list[tuple[socket.socket, bytes]] = []
    routes.paths["/echo"] = lambda: Response(
        101, b"", headers=(("Upgrade", "echo"),), takeover=lambda *given: taken.append(given)
    )
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(GET.replace(b" / ", b" /echo "))
        assert read_answer(client).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        wait_until(lambda: taken, what="the connection being taken over")
        with taken[0][0] as ours:
            client.sendall(b"ping")
            ours.settimeout(5)
            assert ours.recv(10) == b"ping"
            ours.sendall(b"pong")
            assert client.recv(10) == b"pong"


# --- Who is held off -----------------------------------------------------------------------------


def test_http_spoken_to_https_is_told_so(serve: Serve) -> None:
    server, routes = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(GET)
        answer = read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"https://" in answer
    assert routes.asked == []


def test_https_spoken_to_http_is_told_so(serve: Serve, certificates: Certificates) -> None:
    server, _ = serve(cert_file=None, key_file=None)
    assert server.base_url.startswith("http://")
    with pytest.raises(ssl.SSLError):
        connect(server, trusting(certificates.ca_file))


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_keys_must_be_agreed_on_in_time(sent: bytes, serve: Serve) -> None:
    server, _ = serve(request_timeout_s=0.2)
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(sent)
        assert client.recv(100) == b""
    assert time.monotonic() - began_s >= 0.1


def test_trickling_does_not_make_the_time_longer(serve: Serve) -> None:
    server, _ = serve(request_timeout_s=0.3)
    began_s = time.monotonic()
    hello = b"\x16\x03\x01\x10\x00\x01\x00\x0f\xfc\x03\x03"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(hello)
        client.settimeout(0.02)
        while True:
            assert time.monotonic() < began_s + 5
            try:
                client.sendall(b"\0")
                if client.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break


@pytest.mark.parametrize("sent", [b"\x16" + b"\xff" * 400, b"\x16\x03\x01\x00\x04\x63\x00\x00\x00"])
def test_what_only_begins_like_tls_harms_nobody(
    sent: bytes, serve: Serve, certificates: Certificates
) -> None:
    server, _ = serve()
    address = ("127.0.0.1", server.port)
    with suppress(ConnectionResetError), socket.create_connection(address, timeout=5) as client:
        client.sendall(sent)
        read_to_end(client)
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(LAST)
        assert read_to_end(client).startswith(b"HTTP/1.1 200 OK")


def test_who_left_while_keys_were_agreed_on_harms_nobody(
    serve: Serve, certificates: Certificates
) -> None:
    server, _ = serve()
    for _ in range(20):
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(LAST)
        assert read_to_end(client).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_who_is_slow_to_agree_makes_room(
    sent: bytes, serve: Serve, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.api.connections._UNFINISHED_S", 0.05)
    server, _ = serve(max_connections=1)

    def admitted() -> bool:
        try:
            with connect(server, trusting(certificates.ca_file)) as client:
                client.sendall(LAST)
                return read_to_end(client).startswith(b"HTTP/1.1 200 OK")
        except OSError:
            return False

    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as silent:
        silent.sendall(sent)
        wait_until(admitted, what="room for another client")
        assert silent.recv(1) == b""


def test_who_does_not_read_is_cut_off_at_the_deadline_of_the_whole_answer(
    serve: Serve, certificates: Certificates
) -> None:
    server, _ = serve(send_timeout_s=0.3)
    with connect(server, trusting(certificates.ca_file)) as deaf:
        deaf.sendall(GET.replace(b" / ", b" /big "))
        began_s = time.monotonic()
        while http_threads() != ["http"]:  # a record now and then: each would begin a time-out anew
            assert time.monotonic() < began_s + 5
            try:
                deaf.recv(16384)
            except OSError:
                break
            time.sleep(0.02)


def test_closing_ends_who_idles_and_lets_an_answer_end(
    serve: Serve, certificates: Certificates
) -> None:
    server, routes = serve()
    held, release = threading.Event(), threading.Event()

    def wait() -> Response:
        held.set()
        assert release.wait(10)
        return Response(200, b"held")

    routes.paths["/hold"] = wait
    context = trusting(certificates.ca_file)
    with connect(server, context) as busy, connect(server, context) as idle:
        busy.sendall(GET.replace(b" / ", b" /hold "))
        assert held.wait(5)
        closing = threading.Thread(target=server.close, args=(time.monotonic() + 5,))
        closing.start()
        with pytest.raises(ssl.SSLEOFError):
            idle.recv(1)
        release.set()
        assert read_to_end(busy).endswith(b"held")
        closing.join(5)
        assert not closing.is_alive()


def test_who_is_cut_off_is_sent_nothing_in_the_clear(
    serve: Serve, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, routes = serve()

    def cut_off() -> Response:
        # It may come at any moment: also when the end of the connection is yet to take effect.
        monkeypatch.setattr(socket.socket, "shutdown", lambda *_: None)
        for connection in list(server.connections._open):
            connection.cut()
        return Response(200, b"secret")

    routes.paths["/cut"] = cut_off
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(LAST.replace(b" / ", b" /cut "))
        with socket.socket(fileno=client.detach()) as encrypted:
            encrypted.settimeout(5)
            received = read_to_end(encrypted)
    monkeypatch.undo()
    assert len(received) > 100
    assert b"secret" not in received


def test_the_end_is_said_behind_what_is_still_to_be_read(
    serve: Serve, certificates: Certificates
) -> None:
    server, routes = serve()
    routes.paths["/much"] = lambda: Response(200, BIG[:4_000_000])
    with connect(server, trusting(certificates.ca_file)) as client:
        client.sendall(LAST.replace(b" / ", b" /much "))
        time.sleep(0.1)  # the buffers fill up
        assert read_to_end(client).endswith(BIG[:4_000_000])


# --- Certificates --------------------------------------------------------------------------------


@pytest.fixture
def pair(certificates: Certificates, tmp_path: Path) -> tuple[Path, Path]:
    """A pair of files to change."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(certificates.server_cert, cert)
    shutil.copy(certificates.server_key, key)
    return cert, key


def shown(server: ApiServer) -> str:
    """The certificate that a new client is shown."""
    return ssl.get_server_certificate(("127.0.0.1", server.port), timeout=5)


def pem(path: Path | str) -> str:
    return "-----BEGIN" + Path(path).read_text().partition("-----BEGIN")[2]


def test_a_renewed_certificate_is_shown_to_new_clients_and_disturbs_nobody(
    serve: Serve, certificates: Certificates, pair: tuple[Path, Path]
) -> None:
    cert, key = pair
    server, _ = serve(cert_file=str(cert), key_file=str(key))
    with connect(server, trusting(certificates.ca_file)) as client:
        assert shown(server) == pem(certificates.server_cert)
        shutil.copy(certificates.client_cert, cert)
        shutil.copy(certificates.client_key, key)
        server.reload_certificate()
        assert shown(server) == pem(certificates.client_cert)
        client.sendall(LAST)
        assert read_to_end(client).startswith(b"HTTP/1.1 200 OK")


def test_a_link_that_leads_to_the_renewed_pair_is_followed_by_a_reload(
    certificates: Certificates, tmp_path: Path
) -> None:
    """As certbot's `live` folder has them."""
    links = tmp_path / "live.pem", tmp_path / "live.key"
    for link, file in zip(links, (certificates.server_cert, certificates.server_key), strict=True):
        link.symlink_to(file)
    config = "[api]\ncert_file = 'live.pem'\nkey_file = 'live.key'\n"
    service = Service(tmp_path, config=config).launch()
    with ExitStack() as stack:
        stack.callback(service.kill)
        service.wait_until(lambda: "Listening on https" in service.log, "listening")
        (port,) = map(int, re.findall(r"Listening on https://\S+:(\d+)", service.log))
        address = ("127.0.0.1", port)
        assert ssl.get_server_certificate(address, timeout=5) == pem(certificates.server_cert)
        renewed = certificates.client_cert, certificates.client_key
        for link, file in zip(links, renewed, strict=True):
            link.unlink()
            link.symlink_to(file)
        service.signal(signal.SIGHUP)
        wanted = pem(certificates.client_cert)
        service.wait_until(
            lambda: ssl.get_server_certificate(address, timeout=5) == wanted, "showing the new one"
        )


def test_a_broken_certificate_leaves_the_one_before(
    serve: Serve,
    certificates: Certificates,
    pair: tuple[Path, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cert, key = pair
    server, _ = serve(cert_file=str(cert), key_file=str(key))
    cert.write_text("half written")
    server.reload_certificate()
    assert shown(server) == pem(certificates.server_cert)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert errors[0].startswith("api.cert_file: ")
    assert "stays in use" in errors[1]


def test_without_a_certificate_there_is_nothing_to_reload(serve: Serve) -> None:
    server, _ = serve(cert_file=None, key_file=None)
    server.reload_certificate()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(LAST)
        assert read_to_end(client).startswith(b"HTTP/1.1 200 OK")


def faults_of(cert: Path | str, key: Path | str) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        make_context(str(cert), str(key))
    return {fault.path: fault.message for fault in raised.value.faults}


def test_all_that_is_wrong_with_a_pair_is_said_at_once(tmp_path: Path) -> None:
    faults = faults_of(tmp_path / "no.pem", tmp_path / "no.key")
    assert faults.keys() == {"api.cert_file", "api.key_file"}
    for message in faults.values():
        assert "No such file" in message
        assert "dlm-edge cert" in message
    assert faults_of(tmp_path, "a\0b").keys() == {"api.cert_file", "api.key_file"}


def test_a_file_that_vanishes_after_it_was_looked_at(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ssl.SSLContext.load_cert_chain

    def load_later(context: ssl.SSLContext, cert: str, key: str, password: str) -> None:
        Path(key).unlink()
        load(context, cert, key, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_later)
    faults = faults_of(*pair)
    assert list(faults) == ["api.cert_file"]
    assert "no such file" in faults["api.cert_file"]


def test_files_that_are_not_what_they_should_be(certificates: Certificates) -> None:
    swapped = faults_of(certificates.server_key, certificates.server_cert)
    assert "holds no certificate" in swapped["api.cert_file"]
    assert "holds no private key" in swapped["api.key_file"]


def test_a_key_of_another_certificate(certificates: Certificates) -> None:
    faults = faults_of(certificates.server_cert, certificates.client_key)
    assert list(faults) == ["api.key_file"]


def test_a_damaged_certificate(pair: tuple[Path, Path]) -> None:
    cert, key = pair
    lines = cert.read_text().splitlines(keepends=True)
    cert.write_text("".join(lines[: len(lines) // 2] + lines[-1:]))
    assert list(faults_of(cert, key)) == ["api.cert_file"]


def test_a_key_with_a_password_asks_nobody_for_it(pair: tuple[Path, Path]) -> None:
    cert, key = pair
    program = need_program("openssl", "openssl")
    for form in ("pkcs8 -topk8", "ec -aes128"):
        locked = key.with_name("locked.key")
        command = [program, *form.split(), "-in", str(key), "-out", str(locked)]
        subprocess.run([*command, "-passout", "pass:secret"], check=True, capture_output=True)
        faults = faults_of(cert, locked)
        assert "password" in faults["api.key_file"]


def test_a_server_without_a_sound_certificate_does_not_start(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        serve(cert_file=str(tmp_path / "no.pem"))
