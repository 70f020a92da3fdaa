"""Meters, readings, clocks and the like for tests, without what does not matter there."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge.clock import Clock
from edge.meterspec import References, parse_meter
from edge.model import Meter, PollEnd, PollResult, Reading

_numbers = itertools.count(1)


def a_registration(name: str = "Main", **changes: Any) -> dict[str, Any]:
    """A valid registration document; a change with value None leaves that key out."""
    document = {
        "name": name,
        "protocol": "modbus",
        "meterType": "grid",
        "pollInterval": 1000,
        "communication": {
            "host": "127.0.0.1",
            "port": 502,
            "registers": {"power": 0, "energy": 1, "voltage": 2},
        },
        **changes,
    }
    return {key: value for key, value in document.items() if value is not None}


def a_meter(name: str = "Main", *, phase_index: int = 0, **changes: Any) -> Meter:
    """A registered meter; changes as for `a_registration`."""
    document = a_registration(name, **changes)
    return parse_meter(document, f"meter_{next(_numbers)}", phase_index, References())


def a_speaking_meter(name: str = "Main", **changes: Any) -> Meter:
    """A registered meter that nobody polls; changes as for `a_registration`."""
    given = {"protocol": "mqtt", "pollInterval": None, "communication": {"topicPower": "power"}}
    return a_meter(name, **{**given, **changes})


def a_reading(
    mono_s: float = 0.0, hints: tuple[str, ...] = (), *, live: bool = True, **values: float
) -> Reading:
    """A reading taken at mono_s; not live: a broker had retained it."""
    return Reading(values or {"power": 10.0}, mono_s, round(mono_s * 1000), hints, live)


def an_answer(meter: Meter, reading: Reading | None = None) -> PollResult:
    """A poll that went well."""
    return PollResult(
        meter, reading or a_reading(), None, PollEnd.OK, failed=False, duration_s=0.01
    )


def a_failure(
    meter: Meter, end: PollEnd = PollEnd.NO_REPLY, error: str = "It is silent."
) -> PollResult:
    """A poll that gave nothing."""
    return PollResult(meter, None, error, end, failed=True, duration_s=1.0)


def cheap_scrypts(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Let a hash of a token cost next to nothing; the salts of those that were made."""
    salts: list[bytes] = []

    def cheap(password: bytes, *, salt: bytes, **_: Any) -> bytes:
        salts.append(salt)
        return hashlib.sha256(salt + password).digest()

    monkeypatch.setattr(hashlib, "scrypt", cheap)
    return salts


@contextmanager
def modes_when_written(holding: bytes = b"") -> Iterator[list[int]]:
    """The permissions of files at the moment that something is written to them, without a umask.

    holding: what is looked for in what is written.
    """
    modes: list[int] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if holding in bytes(data):
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return real(fd, data)

    before = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", write)
            yield modes
    finally:
        os.umask(before)


class FakeClock(Clock):
    """A clock whose hands only tests turn."""

    def __init__(self, mono_s: float = 0.0, unix_ms: int = 1_760_956_200_000) -> None:
        self.now_mono_s = mono_s
        self.now_unix_ms = unix_ms

    def mono_s(self) -> float:
        return self.now_mono_s

    def unix_ms(self) -> int:
        return self.now_unix_ms

    def sleep(self, duration_s: float) -> None:
        self.turn(duration_s)

    def turn(self, by_s: float) -> None:
        """Let time pass on both clocks."""
        self.now_mono_s += by_s
        self.now_unix_ms += round(by_s * 1000)
