"""An empty Debian of our own: a root without a network, in which systemd boots for real.

It needs root, namespaces and a cgroup2 hierarchy, as a container does; where one is missing, tests
are skipped with the reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.peers import fail, need_program, wait_until

RELEASE = "bookworm"
_PACKAGES = "python3,systemd-sysv"  # and what these need; no python3-venv, no pip, no compiler
_CACHE = Path(__file__).resolve().parent.parent / ".test-output"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# In a mount namespace of its own: what systemd expects of a container, then systemd.
# Source: https://systemd.io/CONTAINER_INTERFACE
_BOOT = """
set -eu
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/dev/shm"
ip link set lo up
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=test PATH="$PATH" /lib/systemd/systemd --log-target=console --show-status=no
"""
_REQUEST = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Content-Type": "application/json"})
request.data = sys.argv[2].encode() if sys.argv[2:] else None
print(urllib.request.urlopen(request, timeout=5).read().decode())
"""


class DebianRoot:
    """The files of a Debian with Python and systemd, in a folder; a context manager.

    Skips the test where such a root cannot be used. All share the files that they do not change.
    The first on a machine is downloaded, which takes a minute. base: files to begin with instead.
    What is changed is kept in memory.
    """

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can install into a root of its own")
        self.path = folder / "root"
        self._changes = folder / "changes"
        self._base = base

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it without a network and without systemd, as in a container's build."""
        namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        mount = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        return _run([*namespaces, "sh", "-c", mount, str(self.path), *command], check=check)

    def __enter__(self) -> DebianRoot:
        upper, work = self._changes / "upper", self._changes / "work"
        for path in (self.path, self._changes):
            path.mkdir()
        mounted = _run(["mount", "-t", "tmpfs", "tmpfs", str(self._changes)], check=False)
        if mounted.returncode:
            pytest.skip(f"this machine lets nobody mount anything: {mounted.stderr}")
        for path in (upper, work):
            path.mkdir()
        layers = f"lowerdir={self._base or _base()},upperdir={upper},workdir={work}"
        _run(["mount", "-t", "overlay", "-o", layers, "overlay", str(self.path)])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _run(["umount", str(self.path), str(self._changes)])


class Machine:
    """A DebianRoot in which systemd runs, with no network but loopback; a context manager."""

    def __init__(self, root: DebianRoot) -> None:
        self.root = root
        self._console = root.path.with_name("console.log")
        self._cgroup = _cgroup_mount() / f"dlm-edge-test-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._init_pid = 0

    def boot(self) -> None:
        """Start systemd; returns when it has started all there is."""
        self._cgroup.mkdir()
        join = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"]
        # Ends with the tests, however they end.
        boot = ["setpriv", "--pdeathsig=KILL", "unshare", *namespaces, "--fork", "--kill-child"]
        boot += ["sh", "-c", _BOOT, "boot"]
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", join, str(self._cgroup), *boot, str(self.root.path)],
                env={"PATH": _PATH},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        wait_until(self._has_booted, timeout_s=60, what=f"systemd running ({self._console})")

    def cut_power(self) -> None:
        """End everything in it at once."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        wait_until(lambda: not Path(f"/proc/{self._init_pid}").exists(), what="the machine's end")
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            wait_until(lambda folder=folder: _is_removed(folder), what=f"the end of {folder}")  # type: ignore[misc]

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 90
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root at a console would."""
        inside = ["env", "-i", f"PATH={_PATH}", "HOME=/root", *command]
        return _run([*self._enter("--all"), *inside], check=check, timeout_s=timeout_s)

    @contextmanager
    def peer(self, *command: str) -> Iterator[None]:
        """Run a program of the machine that the tests run on, in this one's network."""
        quiet = subprocess.DEVNULL
        entering = [*self._enter("--net"), *command]
        process = subprocess.Popen(entering, stdout=quiet, stderr=quiet)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def get(self, url: str) -> str:
        """GET from within; what was answered, or nothing when there was no good answer."""
        return self.run("python3", "-c", _REQUEST, url, check=False).stdout

    def post(self, url: str, document: object) -> str:
        """POST a document as JSON from within; what was answered."""
        return self.run("python3", "-c", _REQUEST, url, json.dumps(document)).stdout

    def show(self, name: str, unit: str = "dlm-edge.service") -> str:
        """A property of a unit, as systemd knows it."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def __enter__(self) -> Machine:
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut_power()

    def _enter(self, namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self._init_pid), namespaces]

    def _has_booted(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            fail(f"systemd could not be booted: {self._console.read_text(errors='replace')}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        self._init_pid = int(children[0])
        if Path(f"/proc/{self._init_pid}/comm").read_text() != "systemd\n":
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout == "running\n"


def _base() -> Path:
    """The files that all roots share, made when they are not there."""
    base = _CACHE / f"debian-{RELEASE}"
    _CACHE.mkdir(exist_ok=True)
    with base.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits here and finds it made
        if not base.exists():
            made = base.with_suffix(f".{os.getpid()}")
            mmdebstrap = need_program("mmdebstrap", "mmdebstrap")
            options = ["--mode=root", "--variant=minbase", f"--include={_PACKAGES}", "--quiet"]
            _run([mmdebstrap, *options, RELEASE, str(made)], timeout_s=600)
            made.rename(base)
    return base


def _cgroup_mount() -> Path:
    mounts = re.findall(r"^\S+ (\S+) cgroup2 ", Path("/proc/mounts").read_text(), re.M)
    if not mounts:
        pytest.skip("systemd needs a cgroup2 hierarchy, and this machine has mounted none")
    return Path(mounts[0])


def _is_removed(folder: str) -> bool:
    """Remove an empty cgroup; its last process may take a moment to go."""
    try:
        Path(folder).rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _run(
    command: list[str], *, check: bool = True, timeout_s: float = 90
) -> subprocess.CompletedProcess[str]:
    """Run a command, and fail the test with what it said when it failed and must not."""
    environment: dict[str, Any] = {"PATH": _PATH, "HOME": "/root", "LC_ALL": "C"}
    run = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check and run.returncode:
        fail(f"{' '.join(command[-6:])} gave {run.returncode}: {run.stderr}{run.stdout}")
    return run
