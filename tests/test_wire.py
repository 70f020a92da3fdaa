"""Wires: TCP connections and serial ports that refuse, vanish, hang and come back."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import resource
import select
import socket
import stat
import termios
import threading
import time
import tty
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from edge.clock import Clock
from edge.communication import ModbusEndpoint, ReadRequest
from edge.drivers.modbus import ModbusDriver, wire
from edge.errors import BadReply, Cause, LineError
from edge.simulate.wire import Request
from tests.modbus_peer import (
    PATIENT_S,
    TIMEOUT_S,
    Peer,
    assert_one_sentence,
    opened,
    read,
    sound_peer,
    words_at,
)
from tests.peers import free_port, pty_pair, wait_until

# --- Connections ----------------------------------------------------------------------------------


def test_ipv6() -> None:
    with sound_peer("tcp", host="::1") as peer, opened(peer.endpoint) as driver:
        assert read(driver, ReadRequest(1, 3, 5, 2)) == words_at(5, 2)


def test_bytes_that_come_unasked_on_modbus_tcp_cost_no_poll() -> None:
    with sound_peer("tcp") as peer, opened(peer.endpoint) as driver:
        for address in range(5):
            assert read(driver, ReadRequest(1, 3, address, 2)) == words_at(address, 2)
            peer.say(b"\0\1\0\0\0\6surprise")
            wait_until(lambda: not driver.connected)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".example"])
def test_a_host_name_that_nobody_knows_is_a_line_error(host: str) -> None:
    driver = ModbusDriver(ModbusEndpoint("tcp", host=host, port=502), Clock())
    with pytest.raises(LineError, match=r"Host name .* is not known; check its spelling") as caught:
        driver.open(TIMEOUT_S)
    assert caught.value.cause is Cause.NAME_NOT_RESOLVED
    assert not driver.connected


def test_a_port_on_which_nobody_listens_is_told_as_such() -> None:
    driver = ModbusDriver(ModbusEndpoint("tcp", host="127.0.0.1", port=free_port()), Clock())
    with pytest.raises(LineError, match="refused the connection on port") as caught:
        driver.open(PATIENT_S)
    assert caught.value.cause is Cause.CONNECTION_REFUSED


def test_a_network_that_cannot_be_reached_is_told_as_such() -> None:
    driver = ModbusDriver(ModbusEndpoint("tcp", host="127.0.0.1", port=502), Clock())
    refusal = OSError(errno.ENETUNREACH, "seen by nobody")
    with (
        mock.patch("socket.socket.connect", side_effect=refusal),
        pytest.raises(LineError, match=r"cannot be reached \(Network is unreachable\)") as caught,
    ):
        driver.open(PATIENT_S)
    assert caught.value.cause is Cause.NO_ROUTE
    assert_one_sentence(str(caught.value))


def test_a_host_that_drops_connection_requests_is_told_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        # Nobody accepts: a full queue makes the kernel drop what comes more.
        address = listener.getsockname()
        waiting = []
        for _ in range(2):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(address)
        driver = ModbusDriver(ModbusEndpoint("tcp", host=address[0], port=address[1]), Clock())
        started_s = time.monotonic()
        with pytest.raises(
            LineError, match="did not answer within 100 ms; check its address"
        ) as caught:
            driver.open(0.1)
        assert time.monotonic() - started_s < 0.6
        assert caught.value.cause is Cause.NOT_REACHED
        for one in waiting:
            one.close()


def test_two_hundred_reconnects_leave_no_file_open() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with sound_peer("tcp") as peer, opened(peer.endpoint) as driver:
        read(driver, ReadRequest(1, 3, 5, 2))
        before = open_files()
        sound = peer.script

        def bad(_request: Request) -> list[tuple[float, bytes]]:
            return [(0, b"no Modbus TCP")]

        for n in range(200):
            peer.script = sound if n % 2 else bad
            with contextlib.suppress(BadReply):
                read(driver, ReadRequest(1, 3, 5, 2))
            if n % 2:
                driver.close()
        assert peer.accepted == 200
        # The peer is this process too, and closes its ends a moment later.
        wait_until(lambda: open_files() <= before)


def test_failed_opens_leave_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for endpoint in (
        ModbusEndpoint("tcp", host="127.0.0.1", port=free_port()),
        serial_endpoint(str(tmp_path / "nothing")),
        serial_endpoint(str(tmp_path / "file")),
    ):
        driver = ModbusDriver(endpoint, Clock())
        for _ in range(20):
            with pytest.raises(LineError):
                driver.open(PATIENT_S)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- Serial ports ---------------------------------------------------------------------------------


def serial_endpoint(path: str, **settings: Any) -> ModbusEndpoint:
    given = {"baudrate": 9600, "parity": "N", "stopbits": 1, "bytesize": 8, **settings}
    return ModbusEndpoint("rtu", serial_port=path, **given)


def test_what_is_no_serial_port_is_told_in_one_way_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    files = [str(tmp_path / name) for name in ("ttyS9", ".", "file", "file/x", "link", "loop")]
    devices = ["/dev/null", "/dev/tty", "/dev/ptmx", "/dev/console", "/dev/tty0", "/dev/watchdog"]
    for path in (*files, str(tmp_path / "fifo"), *devices, "nul\0byte", "\ud800"):
        driver = ModbusDriver(serial_endpoint(path), Clock())
        with (
            mock.patch.object(os, "open", side_effect=AssertionError("opened")),
            pytest.raises(LineError) as caught,
        ):
            driver.open(PATIENT_S)
        assert str(caught.value) == (
            f"Serial port {path} is not there or is no serial port; check the adapter and "
            "serialPort."
        )
        assert caught.value.cause is Cause.NO_SERIAL_PORT


@pytest.mark.parametrize(
    ("major", "minor", "subsystem", "is_one"),
    [
        (4, 64, "tty", True),  # ttyS0
        (4, 63, "tty", False),  # a virtual terminal
        (4, 0, "tty", False),
        (5, 1, "tty", False),  # the console
        (5, 64, "tty", False),
        (188, 0, "tty", True),  # ttyUSB0
        (204, 64, "tty", True),  # ttyAMA0
        (204, 64, "notty", False),
        (10, 130, "misc", False),  # the watchdog
        (135, 0, None, False),
        (136, 0, None, True),  # a pseudo-terminal
        (143, 9, None, True),
        (144, 0, None, False),
    ],
)
def test_a_serial_port_is_known_by_its_numbers(
    major: int, minor: int, subsystem: str | None, is_one: bool
) -> None:
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        status = SimpleNamespace(st_mode=kind | 0o660, st_rdev=os.makedev(major, minor))
        link = f"/sys/dev/char/{major}:{minor}/subsystem"
        links = {Path(link): Path(f"/sys/class/{subsystem}" if subsystem else link)}
        with (
            mock.patch.object(Path, "stat", return_value=status),
            mock.patch.object(Path, "resolve", autospec=True, side_effect=links.__getitem__),
        ):
            found = wire._is_serial_port("/dev/x")
        assert found is (is_one and kind == stat.S_IFCHR)


def test_a_serial_port_with_a_high_file_number_reads() -> None:
    """Which select() does not take: 1024 and above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with sound_peer("rtu") as peer, contextlib.ExitStack() as files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while files.enter_context(Path(os.devnull).open("rb")).fileno() < 1023:
            pass
        with opened(peer.endpoint) as driver:
            assert read(driver, ReadRequest(1, 3, 5, 2)) == words_at(5, 2)


def test_a_serial_port_that_takes_no_bytes_is_told_in_time() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    driver = ModbusDriver(serial_endpoint(os.ttyname(slave)), Clock())
    driver.open(TIMEOUT_S)
    os.set_blocking(slave, False)
    room = select.poll()
    room.register(slave, select.POLLOUT)
    # The system moves bytes on in the background: it is full only when it stays so.
    while room.poll(100):
        with contextlib.suppress(BlockingIOError):
            os.write(slave, b"x" * 64)
    started_s = time.monotonic()
    with pytest.raises(LineError, match=r"is gone \(it takes no bytes\)"):
        driver.read(ReadRequest(1, 3, 5, 2), PATIENT_S)
    assert TIMEOUT_S <= time.monotonic() - started_s < TIMEOUT_S + 0.5
    assert not driver.connected
    os.close(master)
    os.close(slave)


def test_a_serial_port_has_one_user(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, opened(serial_endpoint(wire.left)) as driver:
        other = ModbusDriver(serial_endpoint(wire.left), Clock())
        with pytest.raises(
            LineError, match="check the adapter and that nothing else uses it"
        ) as caught:
            other.open(PATIENT_S)
        assert caught.value.cause is Cause.SERIAL_PORT_UNUSABLE
        driver.close()
        other.open(PATIENT_S)
        other.close()


def test_the_settings_of_a_serial_line_reach_the_port(tmp_path: Path) -> None:
    with (
        pty_pair(tmp_path) as wire,
        # What pyserial lets through when an adapter is pulled out while it is opened.
        mock.patch("serial.Serial", side_effect=termios.error(5, "seen")) as made,
    ):
        endpoint = serial_endpoint(
            wire.left, baudrate=19200, parity="E", stopbits=2, bytesize=7
        )  # fmt: skip
        with pytest.raises(LineError, match="Input/output error"):
            ModbusDriver(endpoint, Clock()).open(PATIENT_S)
    assert made.call_args.args == (wire.left, 19200)
    asked_for = made.call_args.kwargs
    assert (asked_for["parity"], asked_for["stopbits"], asked_for["bytesize"]) == ("E", 2, 7)
    assert asked_for["exclusive"] is True


def test_an_adapter_that_is_pulled_out_while_a_reply_is_awaited(tmp_path: Path) -> None:
    with pty_pair(tmp_path) as wire, opened(serial_endpoint(wire.left)) as driver:
        puller = threading.Timer(0.05, wire.unplug)
        puller.start()
        with pytest.raises(LineError, match=r"is gone .*; plug the adapter in again\.") as caught:
            driver.read(ReadRequest(1, 3, 5, 2), PATIENT_S)
        puller.join()
        assert_one_sentence(str(caught.value).replace(wire.left, "X"))
        assert not driver.connected


def test_between_two_frames_on_a_serial_line_is_a_pause() -> None:
    """At least 3.5 characters, 1.75 ms above 19200 baud; source: Serial Line V1.02, 2.5.1.1."""
    sent_s: list[float] = []
    asked_s: list[float] = []

    def script(request: Request) -> list[tuple[float, bytes]]:
        asked_s.append(time.monotonic())
        # Taken before it is sent, so that the pause can only look longer than it is.
        sent_s.append(time.monotonic())
        return [(0, peer.good(request))]

    with Peer("rtu", script) as peer, opened(peer.endpoint) as driver:
        for address in range(20):
            read(driver, ReadRequest(1, 3, address, 2))
    pauses = [asked - sent for sent, asked in zip(sent_s, asked_s[1:], strict=False)]
    assert min(pauses) >= 0.00175
