"""InfluxDB 2.x and 1.x, and what takes the same line protocol, as VictoriaMetrics.

    server   the connection: the only module that touches urllib3
    dialect  how 2.x and 1.x are written to, and told what to keep

What an answer means is decided here:

    2xx                   the server holds the points
    413                   fewer at a time, and it is remembered how many went well
    400, 422              some points are not taken: they are found by halving, and given back
    401, 403, 404, 3xx    as configured nothing can be sent: SinkForbidden
    408, 429, 5xx, none   later: SinkRetry

A 400 or 422 counts as a word on the points only where it says so as InfluxDB does; of a proxy or
another server it says that url is wrong, and no reading is lost for that. 1.x writes the good
points of a batch and says how many it dropped: where that is all of them, nothing is halved.

Sources: InfluxDB 2.7, "API", POST /api/v2/write; InfluxDB 1.8, "HTTP API", /write; RFC 9110,
section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

from edge.clock import Clock
from edge.drivers.dial import MOST_ADDRESSES
from edge.errors import SinkForbidden, SinkRetry
from edge.heartbeat import Heartbeat
from edge.payload import shown
from edge.record import Resolution
from edge.settings import InfluxConfig, JournalConfig
from edge.sinks import Rejected, Unreached
from edge.sinks.influx.dialect import dialect_of, error_of
from edge.sinks.influx.server import Answer, Server, Unanswered, without_secrets

FEWEST = 100
"""So many points are not too much for a server that did not answer."""

MARGIN_S = 600.0
"""Beside the waits of a request, for the resolution of a name, as `edge.line.MARGIN_S`."""
MOST_WAITS = MOST_ADDRESSES + 2
"""The time-outs that a request can come to: one for each address, for TLS and for the answer."""

_HEADERS = {"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8"}
_REASON_CHARACTERS = 200
_NOBODY_BEHIND = (502, 504)
"""What a proxy says of a server that it cannot reach."""


class InfluxSink:
    """Writes points to a server; see `JournalSink`. One thread only."""

    def __init__(
        self, name: str, config: InfluxConfig, journal: JournalConfig, clock: Clock
    ) -> None:
        self.name = name
        self.batch_readings = config.batch_readings
        self.backlog_per_s = config.backlog_per_s
        self.heartbeat = Heartbeat(f"uplink-{name}")
        self._within_s = MARGIN_S + MOST_WAITS * config.timeout_s
        self._clock = clock
        self._dialect = dialect_of(config, journal)
        self._server = Server(config, self._dialect.authorization)
        self._most = config.batch_readings
        """Points at a time that went well, and at most those that are not too large (413)."""
        self._ceiling = config.batch_readings

    def prepare(self) -> Sequence[str]:
        """Make or check buckets or databases; see `JournalSink.prepare`."""
        return self._dialect.prepare(self._ask)

    def send(self, points: Sequence[bytes], resolution: Resolution) -> list[Rejected]:
        """Write points, in their order; see `JournalSink.send`."""
        rejected = []
        waiting = [points] if points else []
        while waiting:
            batch = waiting.pop()
            if len(batch) > self._most:
                waiting += [batch[self._most :], batch[: self._most]]
                continue
            answer = self._write(batch, resolution)
            reason = self._reason(answer, resolution)
            if reason is None:
                self._most = min(self._ceiling, 2 * self._most)
            elif len(batch) == 1 or _dropped(reason) >= len(batch):
                rejected += [Rejected(point, reason) for point in batch]
            else:
                half = len(batch) // 2
                waiting += [batch[half:], batch[:half]]
                if answer.status == 413:
                    self._most = self._ceiling = half
        return rejected

    def was_cut_off(self) -> bool:
        """Tell whether the connection had ended; see `JournalSink.was_cut_off`."""
        was, self._server.was_cut_off = self._server.was_cut_off, False
        return was

    def close(self) -> None:
        """Close the connection; see `JournalSink.close`."""
        self._server.close()

    def _write(self, batch: Sequence[bytes], resolution: Resolution) -> Answer:
        body = gzip.compress(b"\n".join(batch), compresslevel=1, mtime=0)
        target = self._dialect.write_target(resolution)
        try:
            return self._ask("POST", target, body, _HEADERS)
        except Unanswered:
            self._most = min(self._most, max(FEWEST, len(batch) // 2))
            raise

    def _ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask the server, and leave it alone where it wants that. Raises as `Server.ask`."""
        self.heartbeat.due_within(self._within_s)
        answer = self._server.ask(method, target, body, headers)
        if answer.status >= 500 or answer.status in (408, 429):
            said = error_of(answer)
            error = Unreached if answer.status in _NOBODY_BEHIND else SinkRetry
            raise error(
                f"{self._server.url} cannot take anything now (HTTP {answer.status}"
                f"{f', {_cut(said)}' if said else ''}); check the server if it stays.",
                _retry_after_s(answer, self._clock.unix_ms()),
            )
        return answer

    def _reason(self, answer: Answer, resolution: Resolution) -> str | None:
        """Say why points were not taken; None when they were. Raises SinkForbidden."""
        status, said = answer.status, error_of(answer)
        if 200 <= status < 300:
            return None
        if status == 413:
            return said or "too large (HTTP 413)"
        if status in (400, 422) and said:
            return said
        raise SinkForbidden(f"{self._server.url} {self._advice(answer, said, resolution)}.")

    def _advice(self, answer: Answer, said: str | None, resolution: Resolution) -> str:
        """Say what is wrong with how the server is configured, or we are."""
        status, dialect = answer.status, self._dialect
        word, name = dialect.word, dialect.names[resolution]
        http = f"HTTP {status}, {_cut(said)}" if said else f"HTTP {status}"
        if status in (401, 403):
            return (
                f"does not let us write to the {word} {name!r} ({http}); set {dialect.who} of "
                "one who may"
            )
        if status == 404 and said:
            return f"has no {word} {name!r} ({http}); run: {dialect.creation(resolution)}"
        if 300 <= status < 400:
            to = _cut(without_secrets(answer.headers.get("location", "nowhere")))
            return f"redirects to {to} ({http}), which is not followed; set url to where it leads"
        return (
            f"does not answer as InfluxDB does ({http}); check url, and set database if it is "
            "InfluxDB 1.x"
        )


def _cut(text: str) -> str:
    return shown(text.encode("utf-8", "replace"), _REASON_CHARACTERS)


def _dropped(reason: str) -> int:
    """How many points the server says that it did not write."""
    found = re.search(r"dropped=(\d{1,9})\b", reason)
    return int(found[1]) if found else 0


def _retry_after_s(answer: Answer, unix_ms: int) -> float:
    """How long the server asks to be left alone, s; 0 where it does not say."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, until_s - unix_ms / 1000)
