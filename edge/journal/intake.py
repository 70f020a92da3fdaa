"""Taking readings in: from the results of polls to rows for the tail, compact, in bounded memory.

Here a reading gets its era, its series and its sequence number. Times of one series within an era
rise strictly: with the meter they are the key of every uplink.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

from edge.communication import ModbusCommunication
from edge.era import Correction, Eras
from edge.journal.rows import HOUR_MS, MOST_READINGS, Pending, tail_rows
from edge.journal.store import Store
from edge.model import Meter, Reading
from edge.record import Series

_MOST_BYTES = 8 * 1024 * 1024
_ROW_BYTES = 300
"""What a row costs in memory besides its payload, about."""

_Open = tuple[int, int, bool, Mapping[str, float]]
"""Series, unix ms, suspect, values."""


class Intake:
    """Readings that are not committed yet. One thread."""

    def __init__(self, site_id: str, store: Store, eras: Eras) -> None:
        self.rows: deque[Pending] = deque()
        """Encoded, in order of sequence."""
        self.series: dict[Series, int] = dict(store.series)
        self.eras = eras
        self.next_seq = store.next_seq
        self.dropped = 0
        """Readings let go since the start, the oldest first, as they took too much memory."""
        self._site_id = site_id
        self._bytes = 0
        self._of_meter: WeakKeyDictionary[Meter, int] = WeakKeyDictionary()
        self._last_ms = dict(store.last_ms)
        self._open: dict[tuple[int, int], list[_Open]] = {}
        self._opened = 0

    @property
    def waiting(self) -> int:
        """Readings that are not committed yet."""
        return self._opened + sum(row.length for row in self.rows)

    def take(self, readings: Iterable[tuple[Meter, Reading]]) -> None:
        """Take readings in, in this order."""
        for meter, reading in readings:
            era, unix_ms = self.eras.place(reading.mono_s, reading.unix_ms)
            series = self._series_id(meter)
            unix_ms = max(unix_ms, self._last_ms.get((series, era), -1) + 1)
            self._last_ms[series, era] = unix_ms
            values = dict(reading.values)
            row = (series, unix_ms, bool(reading.hints), values)
            self._open.setdefault((era, unix_ms // HOUR_MS), []).append(row)
            self._opened += 1
            if self._opened >= MOST_READINGS:
                self.close()

    def close(self) -> None:
        """Encode what is open; every row holds sequence numbers without a gap."""
        for (era, _), open_rows in self._open.items():
            numbered = [(seq, *row) for seq, row in enumerate(open_rows, start=self.next_seq)]
            self.next_seq += len(numbered)
            for pending in tail_rows(numbered, era):
                self.rows.append(pending)
                self._bytes += len(pending.payload) + _ROW_BYTES
        self._open = {}
        self._opened = 0
        while self._bytes > _MOST_BYTES:
            self.dropped += self.rows[0].length
            self.done(1)

    def done(self, rows: int) -> int:
        """Forget the first rows: they are committed. Gives how many readings that were."""
        count = 0
        for _ in range(rows):
            row = self.rows.popleft()
            self._bytes -= len(row.payload) + _ROW_BYTES
            count += row.length
        return count

    def corrected(self, corrections: Iterable[Correction]) -> None:
        """Go on after the last time of an era where its readings went; at once."""
        for correction in corrections:
            for series, era in [key for key in self._last_ms if key[1] == correction.era]:
                last_ms = self._last_ms.pop((series, era)) + correction.shift_ms
                key = (series, correction.into)
                self._last_ms[key] = max(last_ms, self._last_ms.get(key, 0))

    def _series_id(self, meter: Meter) -> int:
        id_ = self._of_meter.get(meter)
        if id_ is None:
            series = series_of(meter, self._site_id)
            id_ = self.series.setdefault(series, max(self.series.values(), default=0) + 1)
            self._of_meter[meter] = id_
        return id_


def series_of(meter: Meter, site_id: str) -> Series:
    """Give what is recorded of a meter itself."""
    return Series(
        site=site_id,
        meter_id=meter.id,
        name=meter.name,
        location=meter.location,
        meter_type=meter.meter_type,
        protocol=meter.protocol,
        stale_after_ms=meter.stale_after_ms,
        max_power_kw=meter.max_power_kw,
        counter_kwh=counter_kwh(meter),
    )


def counter_kwh(meter: Meter) -> float | None:
    """Give at how many kWh an energy counter starts again from 0, by the width of its register.

    None where that is not known: not a register, one of a signed or floating-point number, or one
    whose scale the device tells with each reading. One of 64 bits never gets there.
    """
    communication = meter.communication
    if not isinstance(communication, ModbusCommunication):
        return None
    for register in communication.registers:
        if register.quantity == "energy":
            fits = register.kind == "uint" and len(register.words) < 4
            if fits and register.exponent is None:
                return float(2 ** (16 * len(register.words)) * abs(register.scale))
    return None
