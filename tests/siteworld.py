"""What a controller stands in, made on one machine: a disk, names, and a network of its own.

All of it is real (an ext4 file system, /etc/hosts, links between network namespaces) and seen by
the test and its children alone. It takes root and a kernel that permits it; where one of the two is
missing the test is skipped, with the reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.peers import need_program, wait_until

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_EXT4_IOC_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2
"""Source: Linux, fs/ext4/ext4.h. What is not on the disk by then never gets there."""


# --- A disk --------------------------------------------------------------------------------------


class Disk:
    """An ext4 file system in a file, mounted at `folder`; a context manager.

    The calling thread sees it, and what it starts; nobody else can keep it from being unmounted.
    As on a controller it turns read-only when the kernel finds a fault in it.
    """

    def __init__(self, folder: Path, size_mb: int = 16) -> None:
        self.folder = folder
        self._image = folder.with_name(f"{folder.name}.img")
        self._size_mb = size_mb
        self._stack = contextlib.ExitStack()

    def mount(self) -> None:
        """Mount it; skips the test where that is not permitted."""
        command = ["mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder)]
        _permitted(command, "mounting a file system")

    def unmount(self) -> None:
        """Unmount it, which nobody may hinder by an open file."""
        _run("umount", str(self.folder))

    def fill(self) -> Path:
        """Let a file grow until there is no room left; gives it, to be deleted."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as filling, contextlib.suppress(OSError):
            while True:
                filling.write(bytes(1024))
        return ballast

    def cut_power(self) -> None:
        """Keep what reached the disk and nothing else. Who uses it can only be killed then."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def turn_read_only(self) -> None:
        """Let the kernel find a fault in it, under the eyes of those who use it."""
        device = Path(_run("findmnt", "-n", "-o", "SOURCE", str(self.folder)).strip()).name
        switch = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
        if not switch.exists():
            pytest.skip("the kernel offers no way to find a fault in a file system on request")
        switch.write_text("1")

    def repair(self) -> None:
        """Unmount it, have it checked, and mount it again."""
        self.unmount()
        # It exits with 1 when it mended something.
        subprocess.run(["e2fsck", "-p", str(self._image)], capture_output=True, check=False)
        self.mount()

    def __enter__(self) -> Disk:
        need_program("mkfs.ext4", "e2fsprogs")
        self.folder.mkdir()
        self._image.touch()
        os.truncate(self._image, self._size_mb * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        with self._stack:
            self._stack.enter_context(_private_mounts())
            self.mount()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False)
        self._stack.close()


@contextlib.contextmanager
def _private_mounts() -> Iterator[None]:
    """Let what the calling thread mounts be seen by it and by what it starts."""
    _skip_unless_root()
    folder = Path.cwd()
    with Path("/proc/thread-self/ns/mnt").open("rb") as before:
        if ctypes.CDLL(None).unshare(_CLONE_NEWNS):
            pytest.skip("the kernel refuses mounts of one's own")
        try:
            _run("mount", "--make-rprivate", "/")
            yield
        finally:
            _enter(before.fileno(), _CLONE_NEWNS)
            os.chdir(folder)  # from the root of the namespace, where one is put


# --- Names ---------------------------------------------------------------------------------------


class Names:
    """Files that a child process finds in place of /etc/hosts and /etc/resolv.conf.

    prelude: Python for `Service` that puts them there, in a mount namespace of its own.
    """

    def __init__(self, folder: Path, nameserver: str = "127.0.0.1") -> None:
        _skip_unless_root()
        self._hosts = folder / "hosts"
        self._known = {"localhost": "127.0.0.1"}
        self.set()
        resolver = folder / "resolv.conf"
        resolver.write_text(f"nameserver {nameserver}\noptions timeout:1 attempts:1\n")
        files = {"/etc/hosts": str(self._hosts), "/etc/resolv.conf": str(resolver)}
        self.prelude = f"from tests.siteworld import put_over\nput_over({files!r})\n"

    def set(self, **addresses: str) -> None:
        """Let names lead to addresses from now on."""
        self._known.update(addresses)
        lines = [f"{address} {name}\n" for name, address in self._known.items()]
        self._hosts.write_text("".join(lines))  # in place: what is mounted is this very file


def put_over(files: Mapping[str, str]) -> None:
    """Let this process and its children find other files at some paths: path → file. Root only."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS))
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    for path, file in files.items():
        real = os.path.realpath(path)
        _check(libc.mount(file.encode(), real.encode(), None, _MS_BIND, None))


class NameServer:
    """Answers DNS queries for IPv4 addresses on loopback, or none at all; a context manager.

    addresses: by name. In a private network only: it takes the port of DNS. Source: RFC 1035, 4.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self.is_silent = True
        self.queries = 0
        self._addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # it is not connected, but who waits is woken
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            self.queries += 1
            if not self.is_silent:
                self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        question_end = query.index(0, 12) + 5
        kind = query[question_end - 4 : question_end - 2]
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        address = self._addresses.get(".".join(labels))
        found = address is not None and kind == b"\0\1"
        code = 0 if address is not None else 3  # no such name
        head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, int(found), 0, 0)
        record = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 0, 4) if found else b""
        packed = socket.inet_aton(address) if found and address is not None else b""
        return head + query[12:question_end] + record + packed


# --- A network -----------------------------------------------------------------------------------


@contextlib.contextmanager
def private_network() -> Iterator[None]:
    """Give the calling thread, and what it starts, a network with nothing but loopback."""
    _skip_unless_root()
    need_program("ip", "iproute2")
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        if ctypes.CDLL(None).unshare(_CLONE_NEWNET):
            pytest.skip("the kernel refuses a network of one's own")
        try:
            _run("ip", "link", "set", "lo", "up")
            yield
        finally:
            _enter(before.fileno(), _CLONE_NEWNET)


class Device:
    """Something at the other end of a cable, with an address; a context manager.

    In a private network only, whose own address is 10.77.0.1.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Device:
        unshare = need_program("unshare", "util-linux")
        self._process = process = subprocess.Popen([unshare, "--net", "sleep", "infinity"])
        ours = Path("/proc/thread-self/ns/net").readlink()
        net = Path(f"/proc/{process.pid}/ns/net")
        wait_until(lambda: net.readlink() != ours, what="the device's network")
        link = ("link", "add", "plant", "type", "veth", "peer", "eth0")
        _run("ip", *link, "netns", str(process.pid))
        _run("ip", "addr", "add", "10.77.0.1/24", "dev", "plant")
        _run("ip", "link", "set", "plant", "up")
        self.ip("link", "set", "lo", "up")
        self.ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        self.plug()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def ip(self, *arguments: str) -> None:
        """Run `ip` on the device."""
        with self.entered():
            _run("ip", *arguments)

    def plug(self) -> None:
        """Connect the cable; returns when packets can pass."""
        self.ip("link", "set", "eth0", "up")
        is_up = "state UP"
        wait_until(lambda: is_up in _run("ip", "link", "show", "plant"), what=is_up)

    def unplug(self) -> None:
        """Pull the cable: nobody is told that anything has ended."""
        self.ip("link", "set", "eth0", "down")

    def move(self, address: str) -> None:
        """Take another address, as after a new lease; who talks to the old one hears nothing."""
        self.ip("addr", "del", f"{self.address}/24", "dev", "eth0")
        self.ip("addr", "add", f"{address}/24", "dev", "eth0")
        self.address = address

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let the calling thread, and what it starts meanwhile, be on the device."""
        assert self._process is not None
        with (
            Path("/proc/thread-self/ns/net").open("rb") as before,
            Path(f"/proc/{self._process.pid}/ns/net").open("rb") as there,
        ):
            _enter(there.fileno(), _CLONE_NEWNET)
            try:
                yield
            finally:
                _enter(before.fileno(), _CLONE_NEWNET)


# -------------------------------------------------------------------------------------------------


def _enter(fd: int, kind: int) -> None:
    _check(ctypes.CDLL(None, use_errno=True).setns(fd, kind))


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _skip_unless_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a process a network or files of its own")


def _permitted(command: list[str], what: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"{what} is not permitted here: {run.stderr.strip()}")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
