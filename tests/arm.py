"""Debian for an Arm processor, in a folder; QEMU runs its programs on this machine.

The kernel is told to start QEMU for them within a user namespace of our own, so that nothing of it
is seen from outside and nothing is left behind. That takes root, and Linux 6.7; elsewhere tests are
skipped with the reason.

Its packages are unpacked and not configured, as running thousands of programs under QEMU for that
takes minutes. Source: binfmt-misc.rst in the kernel's admin guide; mmdebstrap(1), variant extract.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import fail, need_program, wait_until

_RELEASE = "bookworm"
_PACKAGES = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "diffutils", "findutils", "grep",
    "gzip", "libc-bin", "openssl", "passwd", "python3", "sed", "systemd", "tar", "util-linux",
)  # fmt: skip
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WITHOUT_UPDATES = r"""sed -i '/-security\|-updates/d' "$1/etc/apt/sources.list" """
_KINDS = Path("/usr/lib/binfmt.d")  # of qemu-user-static: how to know a program, and who runs it

# The identities of the new namespace are those of this machine, once they are written from outside:
# nobody has any before that, and a program gets its rights when it is started afterwards.
_WAIT_FOR_IDENTITIES = 'read -r _ && exec "$@" </dev/null'
_REGISTER = """
set -eu
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
cat "$0" >/proc/sys/fs/binfmt_misc/register
exec "$@"
"""
_ONLY_LOOPBACK = 'ip link set lo up && exec "$@"'
_CHANGE_ROOT = """
set -eu
mount --rbind /proc "$0/proc"
mount --rbind /dev "$0/dev"
mount --bind -o ro . "$0/checkout"
exec chroot "$0" "$@"
"""


@dataclass(frozen=True)
class Processor:
    """A processor by its names: of the kernel and of wheels, of Debian, and of QEMU."""

    machine: str
    debian: str
    qemu: str
    bits: int


ARMV7 = Processor("armv7l", "armhf", "arm", 32)
ARMV8 = Processor("aarch64", "arm64", "aarch64", 64)


class ArmRoot:
    """The files of such a Debian with Python and systemd, which does not run in it.

    checkout: appears, read-only, as /checkout. Skips the test where QEMU cannot be used like this.
    """

    def __init__(self, folder: Path, processor: Processor, checkout: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can install into a root of its own")
        need_program(f"qemu-{processor.qemu}-static", "qemu-user-static")
        self.path = folder
        self.processor = processor
        self._checkout = checkout
        self._kind = str(_KINDS / f"qemu-{processor.qemu}.conf")
        self._need_namespace()
        self._unpack()

    def run(self, *command: str, timeout_s: float = 100) -> str:
        """Run a command without a network, or fail the test with what it said; its output."""
        cut_off = ["unshare", "--net", "sh", "-c", _ONLY_LOOPBACK, "sh"]
        return self._run([*cut_off, *self._inside(command)], timeout_s)

    def start(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a program in the network of this machine; it writes to `log`."""
        return self._start(self._inside(command), log)

    def _need_namespace(self) -> None:
        log = self.path.with_suffix(".log")
        if self._start(["true"], log).wait(10):
            pytest.skip(f"programs for Arm cannot be run here: {log.read_text().strip()}")

    def _unpack(self) -> None:
        mmdebstrap = need_program("mmdebstrap", "mmdebstrap")
        options = ["--quiet", "--variant=extract", f"--arch={self.processor.debian}"]
        options += [f"--include={','.join(_PACKAGES)}"]
        options += ["--aptopt=APT::Sandbox::User root"]  # another may not enter pytest's folders
        options += [f"--setup-hook={_WITHOUT_UPDATES}"]
        self._run([mmdebstrap, *options, _RELEASE, str(self.path)], 100)
        for name in ("passwd", "group"):  # what configuring the package base-passwd does
            shutil.copy(
                self.path / f"usr/share/base-passwd/{name}.master", self.path / "etc" / name
            )
        (self.path / "checkout").mkdir()

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        variables = [f"PATH={_PATH}", "HOME=/root", "LC_ALL=C.UTF-8"]
        return ["sh", "-c", _CHANGE_ROOT, str(self.path), "env", "-i", *variables, *command]

    def _run(self, command: list[str], timeout_s: float) -> str:
        log = self.path.with_suffix(".log")
        process = self._start(command, log)
        try:
            process.wait(timeout_s)
        finally:
            process.kill()
            process.wait()
        said = log.read_text(errors="replace")
        if process.returncode:
            fail(f"{' '.join(command[-6:])} gave {process.returncode}:\n{said}")
        return said

    def _start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command in namespaces of its own; each program takes the place of the former."""
        register = ["unshare", "--mount", "sh", "-c", _REGISTER, self._kind]
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["unshare", "--user", "sh", "-c", _WAIT_FOR_IDENTITIES, "sh", *register, *command],
                cwd=self._checkout,
                env={**os.environ, "PATH": _PATH},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        assert process.stdin is not None
        there = Path(f"/proc/{process.pid}")
        with contextlib.suppress(OSError), process.stdin:  # when it has ended, the log says why
            wait_until(lambda: not (there / "ns/user").samefile("/proc/self/ns/user"))
            for name in ("uid_map", "gid_map"):
                (there / name).write_text("0 0 65536\n")
            process.stdin.write(b"\n")
        return process
