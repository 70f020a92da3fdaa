"""The words of what is kept: a recorded meter, its readings column by column, and their rollups.

A *sequence number* counts the readings of the whole journal, from 1, and is never used twice. It,
and not the wall clock, says which reading came first. An *era* is a stretch of one boot in which
the wall clock did not step: two times of one era may be subtracted, times of two may not.

Everything here is immutable, so it may be handed between threads without a lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Series:
    """A meter as it was registered when it was read. A changed registration is another series.

    max_power_kw: the most that can flow there, as registered; None is unknown. counter_kwh: at how
    many kWh its energy counter starts again from 0, by the width of its register; None is unknown.
    """

    site: str
    meter_id: str
    name: str
    location: str
    meter_type: str
    protocol: str
    stale_after_ms: int
    max_power_kw: float | None = None
    counter_kwh: float | None = None


@dataclass(frozen=True)
class Chunk:
    """Consecutive readings of one series in one era, column by column, in order of sequence.

    All columns are of one length. values: quantity name to its values in the quantity's unit, None
    where a reading had none; a quantity that no reading had is absent. suspect: whether a reading
    was outside what is physically plausible.
    """

    series: Series
    era: int
    seqs: Sequence[int]
    unix_ms: Sequence[int]
    values: Mapping[str, Sequence[float | None]]
    suspect: Sequence[bool]

    def __len__(self) -> int:
        return len(self.seqs)


@dataclass(frozen=True)
class Stretch:
    """A time in which a meter was recorded as one series: from its first to its last reading.

    covered_ms: None where these two are known. Once readings are deleted, only an hour or a day is
    known, somewhere in which they were, and how much of it was covered.
    """

    series: Series
    from_ms: int
    to_ms: int
    covered_ms: int | None = None


class Resolution(str, Enum):
    """What a history can be asked for; the value is its word in requests."""

    RAW = "raw"
    HOURLY = "hourly"
    DAILY = "daily"


class EnergySource(str, Enum):
    """Where the energy of a rollup comes from."""

    COUNTER = "counter"
    """The meter's own counter."""
    INTEGRAL = "integral"
    """The meter has no counter: power × time, over the time that is covered."""


@dataclass(frozen=True)
class Rollup:
    """One hour or one day of a meter.

    start_ms: begin, unix ms; length_ms: an hour as a rule, a day of 23, 24 or 25 hours. Power is
    the mean over the covered time, and the least and the largest reading, kW. energy_kwh: what
    flowed, None if unknown; interpolated_kwh: as much of it as lies in gaps between readings and
    was spread evenly over them. export_kwh: of the export counter, where there is one. samples:
    readings that were used. covered_ms: the time during which the last reading was live.
    """

    series: Series
    resolution: Resolution
    start_ms: int
    length_ms: int
    mean_kw: float | None
    min_kw: float | None
    max_kw: float | None
    energy_kwh: float | None
    energy_source: EnergySource | None
    interpolated_kwh: float
    export_kwh: float | None
    samples: int
    covered_ms: int

    @property
    def coverage(self) -> float:
        """Share of the time with live data, 0 to 1."""
        return self.covered_ms / self.length_ms


@dataclass(frozen=True)
class JournalState:
    """The journal as its writer last saw it.

    recording: readings reach the disk. last_error: why they do not, one sentence, or None.
    recorded: readings committed since the start; dropped: those that were lost because they could
    not be written in time. waiting: taken in and not yet committed. file_bytes: database and its
    write-ahead log. written_bytes: what the writer wrote to the disk since the start, in pages of
    the system; None where the system does not tell. slow_syncs: commits that took more than 1 s.
    write_bytes_per_day: what may be written in a day. oldest_unix_ms: of the oldest raw reading;
    None when there is none. notices: what was found at the start or set aside since, one sentence
    each. clock_set: whether the wall clock is believed; None while that is not decided yet.
    clock_fault: why it is not, one sentence, or None.
    """

    recording: bool = False
    last_error: str | None = None
    recorded: int = 0
    dropped: int = 0
    waiting: int = 0
    file_bytes: int = 0
    max_bytes: int = 0
    written_bytes: int | None = None
    write_bytes_per_day: int = 0
    slow_syncs: int = 0
    last_seq: int = 0
    oldest_unix_ms: int | None = None
    notices: tuple[str, ...] = ()
    clock_set: bool | None = None
    clock_fault: str | None = None


@dataclass(frozen=True)
class SinkState:
    """An uplink as its pump last saw it.

    connected: the last attempt to send was accepted. sent: readings and rollups accepted since the
    start. rejected: those that the server will never take, set aside. lost: readings that the
    journal had to let go before they were sent. backlog: readings that are kept for it (about).
    """

    name: str
    connected: bool = False
    last_error: str | None = None
    sent: int = 0
    rejected: int = 0
    lost: int = 0
    backlog: int = 0


@dataclass(frozen=True)
class Keeping:
    """What becomes of what is read. journal: None while nothing is to be kept."""

    journal: JournalState | None = None
    sinks: tuple[SinkState, ...] = ()
