"""A real MQTT broker for tests: Debian's mosquitto, plain or with users or TLS.

Also `OldBroker`, what stands before it as a broker that knows MQTT 3.1.1 only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.peers import free_port, freeze, need_program, wait_until

_DYNAMIC_SECURITY = "mosquitto_dynamic_security.so"


class Mosquitto:
    """A mosquitto on a free loopback port; a context manager. folder: empty, for its files.

    users: name → password; without any, everybody may connect. certificates: speak TLS with these.
    client_certificates: accept only clients that have one of the same authority. allowed_topics:
    what may be subscribed to (users are needed too). options: further lines of mosquitto.conf.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        certificates: Certificates | None = None,
        client_certificates: bool = False,
        allowed_topics: tuple[str, ...] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listener {self.port} {self.host}", *options]
        if os.getuid() == 0:
            lines.append("user root")  # or else it could not read files that are root's own
        if certificates is not None:
            lines += [
                f"cafile {certificates.ca_file}",
                f"certfile {certificates.server_cert}",
                f"keyfile {certificates.server_key}",
                f"require_certificate {str(client_certificates).lower()}",
            ]
        if users is None:
            lines.append("allow_anonymous true")
        elif allowed_topics is None:
            lines += ["allow_anonymous false", f"password_file {self._passwords(users)}"]
        else:
            security = self._security(users, allowed_topics)
            lines += ["allow_anonymous false", f"plugin {_plugin()}"]
            lines.append(f"plugin_opt_config_file {security}")
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self) -> Mosquitto:
        """Serve; returns when it listens. The port stays the same over stop and start."""
        program = need_program("mosquitto", "mosquitto")
        self._process = subprocess.Popen(
            [program, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens, what="mosquitto listening")
        return self

    def stop(self) -> None:
        """End it, as when its machine restarts; harmless when it is not running."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it stand still with its connections open, as when a cable is pulled."""
        assert self._process is not None
        freeze(self._process)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Mosquitto:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
            return True
        return False

    def _passwords(self, users: Mapping[str, str]) -> Path:
        path = self._folder / "passwords"
        path.write_text("", encoding="utf-8")
        program = need_program("mosquitto_passwd", "mosquitto")
        for name, password in users.items():
            subprocess.run([program, "-b", str(path), name, password], check=True)
        return path

    def _security(self, users: Mapping[str, str], allowed_topics: tuple[str, ...]) -> Path:
        """What Debian's dynamic security plugin is told: its access lists refuse in SUBACK."""
        path = self._folder / "security.json"
        program = need_program("mosquitto_ctrl", "mosquitto")
        name, password = next(iter(users.items()))
        subprocess.run(
            [program, "dynsec", "init", str(path), name, password],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        document = json.loads(path.read_text(encoding="utf-8"))
        document["defaultACLAccess"] = {
            "publishClientSend": True,
            "publishClientReceive": True,
            "subscribe": False,
            "unsubscribe": True,
        }
        document["roles"][0]["acls"] = [
            {"acltype": "subscribeLiteral", "topic": topic, "priority": 0, "allow": True}
            for topic in allowed_topics
        ]
        path.write_text(json.dumps(document), encoding="utf-8")
        return path


def _plugin() -> Path:
    found = next(Path("/usr/lib").rglob(_DYNAMIC_SECURITY), None)
    assert found is not None, f"{_DYNAMIC_SECURITY} is missing: `apt-get install mosquitto`"
    return found


@dataclass(frozen=True)
class Certificates:
    """PEM files of a private authority and what it certified: 127.0.0.1, and one client."""

    ca_file: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str


def make_certificates(folder: Path) -> Certificates:
    """Make them with openssl, in a folder."""

    def openssl(*arguments: str) -> None:
        program = need_program("openssl", "openssl")
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        *("req", "-x509", *key, "-days", "2", "-subj", "/CN=Test authority"),
        *("-keyout", "ca.key", "-out", "ca.pem"),
    )
    for name, alternative in (("server", "IP:127.0.0.1"), ("client", "DNS:client")):
        openssl(
            *("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key"),
            *("-out", f"{name}.csr", "-addext", f"subjectAltName={alternative}"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-copy_extensions", "copy"),
            *("-out", f"{name}.pem"),
        )
    files = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Certificates(*(str(folder / file) for file in files))


class OldBroker:
    """Stands before a broker and refuses MQTT 5, as those do that know 3.1.1 only.

    hang_up: close the connection instead of answering CONNACK with return code 1, unacceptable
    protocol version (MQTT 3.1.1, section 3.2.2.3). All else passes through. `versions` lists the
    protocol levels that were asked for: 5, or 4 for 3.1.1.
    """

    def __init__(self, broker: Mosquitto, *, hang_up: bool = False) -> None:
        self.host = "127.0.0.1"
        self.versions: list[int] = []
        self._broker = broker
        self._hang_up = hang_up
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> OldBroker:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _spawn(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                self._greet(client)

    def _greet(self, client: socket.socket) -> None:
        first = client.recv(4096)
        # CONNECT: a type and length of two bytes, the name MQTT with its length, then the level.
        level = first[8]
        self.versions.append(level)
        if level == 5:
            if not self._hang_up:
                client.sendall(bytes([0x20, 2, 0, 1]))
            client.close()
            return
        server = socket.create_connection((self._broker.host, self._broker.port))
        self._sockets.append(server)
        server.sendall(first)
        self._spawn(_pass_on, client, server)
        self._spawn(_pass_on, server, client)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def said_by(answer: bytes) -> Iterator[int]:
    """Give the port of a peer that says `answer` to whoever connects, and then waits."""
    listener = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                clients.append(client)
                client.recv(4096)
                client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        for sock in (listener, *clients):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        thread.join(5)
