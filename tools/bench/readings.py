"""Readings of believable meters, the same in every run, and a clock to take them by. Pure.

A meter is polled every 5 s. Its power is a random walk at 1 W with a load that is switched now and
then; voltage at 0.1 V and frequency at 0.01 Hz wander around their nominal values; current at
0.01 A and power factor at 0.001 are noisy; one counter counts import at 0.01 kWh, the other export
at 0.001 kWh; polls are late by some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from edge.clock import Clock
from edge.meterspec import References, parse_meter
from edge.model import Meter, PollEnd, PollResult, Reading
from edge.record import Chunk, Series

PERIOD_MS = 5000
HOUR_MS = 3_600_000
PER_HOUR = HOUR_MS // PERIOD_MS
FROM_MS = 1_760_000_400_000 // HOUR_MS * HOUR_MS
METERS = 10
"""At the site: so far apart are the sequence numbers of one of them."""


class Field(NamedTuple):
    """A quantity's name in line protocol, and its decimals."""

    name: str
    digits: int


FIELDS = {
    "power": Field("power_kw", 3),
    "voltage": Field("voltage_v", 1),
    "current": Field("current_a", 2),
    "powerFactor": Field("power_factor", 3),
    "frequency": Field("frequency_hz", 2),
    "energy": Field("energy_kwh", 2),
    "energyExport": Field("energy_export_kwh", 3),
}
SERIES = Series("site", "meter_1", "Main meter", "basement", "grid", "modbus", 15_000)


def hours(count: int) -> Iterator[Chunk]:
    """Give what a meter says hour by hour, from FROM_MS on."""
    random = Random(1)
    power_w, voltage, factor, frequency = 3200.0, 230.0, 0.97, 50.0
    imported, exported = random.uniform(0, 300_000), random.uniform(0, 40_000)
    for hour in range(count):
        rows: list[tuple[int, int, dict[str, float | None]]] = []
        for poll in range(hour * PER_HOUR, (hour + 1) * PER_HOUR):
            switched_w = random.gauss(0, 2000) if random.random() < 0.01 else 0.0
            power_w = min(22_000, max(-9_000, power_w + random.gauss(0, 100) + switched_w))
            voltage += random.gauss(0, 0.5) - (voltage - 230) * 0.05
            frequency += random.gauss(0, 0.01) - (frequency - 50) * 0.05
            factor = min(1.0, max(0.5, factor + random.gauss(0, 0.006) - (factor - 0.95) * 0.05))
            current = abs(power_w) / voltage / factor + random.gauss(0, 0.1)
            kwh = power_w * PERIOD_MS / HOUR_MS / 1000
            imported += max(kwh, 0)
            exported += max(-kwh, 0)
            values = (power_w / 1000, voltage, current, factor, frequency, imported, exported)
            late_ms = round(abs(random.gauss(12, 8)))
            rows.append(
                (
                    1 + poll * METERS + random.randrange(METERS) // (METERS - 1),
                    FROM_MS + poll * PERIOD_MS + late_ms,
                    {
                        name: round(value, field.digits)
                        for (name, field), value in zip(FIELDS.items(), values, strict=True)
                    },
                )
            )
        seqs, times, values_of = zip(*rows, strict=True)
        columns = {name: [values[name] for values in values_of] for name in FIELDS}
        yield Chunk(SERIES, 1, seqs, times, columns, [False] * len(rows))


def counted_on(
    made_up: Sequence[Chunk], chunk: Chunk, lap: int
) -> dict[str, Sequence[float | None]]:
    """Give the counters of one of these hours when all of them have gone by `lap` times."""
    columns: dict[str, Sequence[float | None]] = {}
    for name in ("energy", "energyExport"):
        begin, end = made_up[0].values[name][0] or 0.0, made_up[-1].values[name][-1] or 0.0
        more, digits = lap * (end - begin), FIELDS[name].digits
        columns[name] = [round((value or 0.0) + more, digits) for value in chunk.values[name]]
    return columns


class HandClock(Clock):
    """A clock that stands still unless it is turned. Sleeping takes real time."""

    def __init__(self, unix_ms: int) -> None:
        self._begin_ms = unix_ms
        self._mono_s = 0.0

    def mono_s(self) -> float:
        """Seconds since it was made."""
        return self._mono_s

    def unix_ms(self) -> int:
        """The wall clock, which goes with it."""
        return self._begin_ms + round(self._mono_s * 1000)

    def turn(self, by_s: float) -> None:
        """Let time pass."""
        self._mono_s += by_s


class Site:
    """Meters that are all read at a time; each says what one said in two hours, again and again.

    Their counters go on.
    """

    def __init__(self, count: int, clock: Clock) -> None:
        self._clock = clock
        self._meters = [_meter(number) for number in range(count)]
        self._made_up = list(hours(2))
        self._laps: dict[int, list[dict[str, float]]] = {}
        self._polls = 0

    def poll(self) -> list[PollResult]:
        """Read all of them now."""
        mono_s, unix_ms = self._clock.mono_s(), self._clock.unix_ms()
        self._polls += 1
        return [
            PollResult(
                meter,
                Reading(self._values(self._polls + 7 * number), mono_s, unix_ms),
                None,
                PollEnd.OK,
                failed=False,
                duration_s=0.01,
            )
            for number, meter in enumerate(self._meters)
        ]

    def _values(self, poll: int) -> dict[str, float]:
        lap, index = divmod(poll, len(self._made_up) * PER_HOUR)
        if lap not in self._laps:
            self._laps.pop(lap - 2, None)
            self._laps[lap] = self._lap(lap)
        return self._laps[lap][index]

    def _lap(self, lap: int) -> list[dict[str, float]]:
        return [
            dict(zip(FIELDS, (value or 0.0 for value in row), strict=True))
            for hour in self._made_up
            for row in zip(
                *{**hour.values, **counted_on(self._made_up, hour, lap)}.values(), strict=True
            )
        ]


def meter_id(number: int) -> str:
    """Name the meters as `service` does."""
    return f"meter_{number:06d}"


def _meter(number: int) -> Meter:
    registration = {
        "name": f"Meter {number}",
        "location": "main-building",
        "protocol": "modbus",
        "meterType": "building",
        "communication": {"host": "127.0.0.1", "port": 502, "registers": {"power": 0, "energy": 2}},
    }
    return parse_meter(registration, meter_id(number), number, References())
