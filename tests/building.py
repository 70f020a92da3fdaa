"""Meters, readings and results for tests, with everything that does not matter filled in."""

from __future__ import annotations

import itertools
from typing import Any

from edge.clock import Clock
from edge.meterspec import parse_meter
from edge.model import Meter, PollResult, Reading

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


def a_meter(name: str = "Main", *, slot: int = 0, **changes: Any) -> Meter:
    """A registered meter; changes as for `a_registration`."""
    return parse_meter(a_registration(name, **changes), f"meter_{next(_numbers)}", slot)


def a_reading(mono_s: float = 0.0, hints: tuple[str, ...] = (), **values: float) -> Reading:
    """A reading taken at mono_s."""
    return Reading(values or {"power": 10.0}, mono_s, round(mono_s * 1000), hints)


def an_answer(meter: Meter, reading: Reading | None = None) -> PollResult:
    """A poll that went well."""
    return PollResult(meter, reading or a_reading(), None, "ok", failed=False, duration_s=0.01)


def a_failure(meter: Meter, result: str = "no_reply", error: str = "It is silent.") -> PollResult:
    """A poll that gave nothing."""
    return PollResult(meter, None, error, result, failed=True, duration_s=1.0)


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
