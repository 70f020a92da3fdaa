"""What the unit's sandbox forbids, put on this process without systemd, by libseccomp from Debian.

Only what system calls see of it: SystemCallFilter=, RestrictAddressFamilies=, ProtectClock= and
MemoryDenyWriteExecute=, with the sets of calls as this machine's systemd has them.
Source: systemd.exec(5); seccomp_rule_add(3) of libseccomp.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.peers import need_program

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_MASKED_EQUAL = 7


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Give what stands in a unit, of all its sections: key → its values, in order."""
    settings: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(key, []).append(value)
    return settings


def allowed_calls(filters: Sequence[str]) -> set[str]:
    """Give the names of system calls that SystemCallFilter= allows. filters: its values."""
    calls = _calls("@default")
    for value in filters:
        named = set().union(*map(_calls, value.removeprefix("~").split()))
        calls = calls - named if value.startswith("~") else calls | named
    return calls


def confine(unit: Path) -> None:
    """Forbid the calling thread, and all that it starts, what the unit forbids. For good."""
    settings = settings_of(unit)
    calls = allowed_calls(settings["SystemCallFilter"])
    if settings.get("ProtectClock") == ["yes"]:
        calls -= _calls("@clock")
    families = [getattr(socket, name) for name in settings["RestrictAddressFamilies"][0].split()]
    if settings.get("MemoryDenyWriteExecute") == ["yes"]:
        _memory_filter().load()
    _family_filter(families).load()
    _call_filter(calls).load()  # the last, as it forbids to load any more


class _Filter:
    """A seccomp filter. default: what becomes of a call that no rule is about."""

    def __init__(self, default: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2")
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(default))

    def add(self, action: int, call: str, *comparisons: _Comparison) -> None:
        """Say what becomes of a call, if its arguments are so; one unknown here is left out."""
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        given = (_Comparison * len(comparisons))(*comparisons)
        result = self._lib.seccomp_rule_add_array(
            self._context, action, number, len(comparisons), given
        )
        assert result == 0, f"{call}: {result}"

    def load(self) -> None:
        """Put it in force."""
        result = self._lib.seccomp_load(self._context)
        assert result == 0, result


def _call_filter(calls: Iterable[str]) -> _Filter:
    found = _Filter(_ERRNO | errno.EPERM)
    for call in calls:
        found.add(_ALLOW, call)
    return found


def _family_filter(families: Iterable[int]) -> _Filter:
    found = _Filter(_ALLOW)
    # A rule compares an argument once: so each family that there may be is forbidden by itself.
    for family in set(range(64)) - set(families):
        here = _Comparison(0, _MASKED_EQUAL, 0xFFFFFFFF, family)
        found.add(_ERRNO | errno.EAFNOSUPPORT, "socket", here)
    return found


def _memory_filter() -> _Filter:
    found = _Filter(_ALLOW)
    both = mmap.PROT_WRITE | mmap.PROT_EXEC
    denied = _ERRNO | errno.EPERM
    found.add(denied, "mmap", _Comparison(2, _MASKED_EQUAL, both, both))
    for call in ("mprotect", "pkey_mprotect"):
        found.add(denied, call, _Comparison(2, _MASKED_EQUAL, mmap.PROT_EXEC, mmap.PROT_EXEC))
    return found


def _calls(name: str) -> set[str]:
    """Give the calls of a set, and of the sets in it; a call's own name is given as it is."""
    if not name.startswith("@"):
        return {name}
    program = need_program("systemd-analyze", "systemd")
    listed = subprocess.run(
        [program, "syscall-filter", name], capture_output=True, text=True, check=True
    )
    entries = [line.strip() for line in listed.stdout.splitlines()[1:]]
    return set().union(*(_calls(entry) for entry in entries if entry and entry[0] != "#"))
