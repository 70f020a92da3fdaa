"""The two dialects of InfluxDB: how 2.x and 1.x are written to, and told what to keep for how long.

What 2.x calls a bucket is a database to 1.x. There are three, so that each has a retention of its
own: of raw readings, of hours and of days. They are made and checked where we may; what a person
has to do otherwise is said as the commands to run.

Sources: InfluxDB 2.7, "API": /api/v2/write, /api/v2/buckets, /api/v2/orgs; InfluxDB 1.8, "HTTP
API" and "Manage your database".
"""

from __future__ import annotations

import base64
import json
import logging
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from edge.drivers.credentials import UnreadableError, read_secret
from edge.errors import SinkForbidden
from edge.record import Resolution
from edge.settings import InfluxConfig, JournalConfig
from edge.sinks.influx.server import Answer

Ask = Callable[..., Answer]
"""`Server.ask`."""

log = logging.getLogger("Uplink")

_DAY_S = 86_400
_HOUR_S = 3600


class Dialect(ABC):
    """What both versions have.

    word: what they call a place of its own for points. who: what they know us by, as the
    configuration calls it.
    """

    word: str
    who: str

    def __init__(self, config: InfluxConfig, journal: JournalConfig, bucket: str) -> None:
        self._config = config
        self.names: Mapping[Resolution, str] = {
            Resolution.RAW: bucket,
            Resolution.HOURLY: f"{bucket}_hourly",
            Resolution.DAILY: f"{bucket}_daily",
        }
        self.days: Mapping[Resolution, int] = {
            Resolution.RAW: journal.raw_days,
            Resolution.HOURLY: journal.hourly_days,
            Resolution.DAILY: journal.daily_days,
        }

    @abstractmethod
    def write_target(self, resolution: Resolution) -> str:
        """Give path and query that points are posted to."""

    @abstractmethod
    def authorization(self) -> str | None:
        """Give the header's value, read anew. Raises SinkForbidden when it is of no use."""

    @abstractmethod
    def creation(self, resolution: Resolution) -> str:
        """Give the command that makes the bucket or database."""

    def prepare(self, ask: Ask) -> list[str]:
        """See to all three; give what a person has to do. Raises as `ask` does."""
        unseen = []
        too_short = []
        found = self._found(ask)
        for resolution, name in self.names.items():
            if name not in found:
                if not self._create(ask, resolution):
                    unseen.append(self.creation(resolution))
                continue
            kept_s = self._kept_s(found[name])
            if 0 < kept_s < self.days[resolution] * _DAY_S:
                too_short.append(
                    f"The {self.word} {name!r} keeps {kept_s / _DAY_S:g} days, and "
                    f"{self.days[resolution]} are set under [journal]; run: "
                    f"{self._longer(resolution, found[name])}"
                )
        if unseen:
            which = f"not all {self.word}s can be seen or made with this {self.who}"
            too_short.append(f"Here {which}; run what is missing: {'; '.join(unseen)}")
        return too_short

    @abstractmethod
    def _found(self, ask: Ask) -> Mapping[str, Any]:
        """Give what is there of the three, by name."""

    @abstractmethod
    def _create(self, ask: Ask, resolution: Resolution) -> bool:
        """Make one, if that is allowed."""

    @abstractmethod
    def _kept_s(self, found: Any) -> float:
        """Give how long one keeps its points, s; 0 is for ever, or unknown."""

    @abstractmethod
    def _longer(self, resolution: Resolution, found: Any) -> str:
        """Give the command that sets the retention."""


class _WithoutBuckets(Exception):
    """The server takes points in the same way, and is no InfluxDB."""


class Version2(Dialect):
    """InfluxDB 2.x, and what understands its /api/v2/write."""

    word = "bucket"
    who = "token"

    def __init__(self, config: InfluxConfig, journal: JournalConfig) -> None:
        super().__init__(config, journal, config.bucket)
        self._said_without = False

    def prepare(self, ask: Ask) -> list[str]:
        """See to the buckets, where the server has any; see `Dialect`."""
        try:
            return super().prepare(ask)
        except _WithoutBuckets:
            if not self._said_without:
                self._said_without = True
                log.info("The server knows nothing of buckets, so none are made or checked.")
            return []

    def write_target(self, resolution: Resolution) -> str:
        """Give path and query; see `Dialect`."""
        query = {"org": self._config.org or "", "bucket": self.names[resolution]}
        return f"/api/v2/write?{urlencode({**query, 'precision': 'ms'})}"

    def authorization(self) -> str | None:
        """Give the token's header; see `Dialect`."""
        token = _secret(self._config.token, self._config.token_file, "token_file")
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise SinkForbidden("The token holds characters that no token has; give it again.")
        return None if token is None else f"Token {token}"

    def creation(self, resolution: Resolution) -> str:
        """Give the command; see `Dialect`."""
        name, days = shlex.quote(self.names[resolution]), self.days[resolution]
        org = f" --org {shlex.quote(self._config.org)}" if self._config.org else ""
        return f"influx bucket create{org} --name {name} --retention {days}d"

    def _found(self, ask: Ask) -> Mapping[str, Any]:
        found = {}
        knows_them = False
        for name in self.names.values():
            query = {"name": name} | ({"org": self._config.org} if self._config.org else {})
            answer = ask("GET", f"/api/v2/buckets?{urlencode(query)}")
            knows_them |= answer.status not in (400, 404) or error_of(answer) is not None
            for bucket in _objects(_document(answer).get("buckets")):
                if bucket.get("name") == name:
                    found[name] = bucket
        if not knows_them:
            raise _WithoutBuckets
        return found

    def _create(self, ask: Ask, resolution: Resolution) -> bool:
        query = urlencode({"org": self._config.org or ""})
        orgs = _objects(_document(ask("GET", f"/api/v2/orgs?{query}")).get("orgs"))
        org_id = next((org.get("id") for org in orgs), None)
        if org_id is None:
            return False
        bucket = {
            "orgID": org_id,
            "name": self.names[resolution],
            "retentionRules": [{"type": "expire", "everySeconds": self.days[resolution] * _DAY_S}],
        }
        headers = {"Content-Type": "application/json"}
        return ask("POST", "/api/v2/buckets", json.dumps(bucket).encode(), headers).status == 201

    def _kept_s(self, found: Any) -> float:
        rules = [rule.get("everySeconds") for rule in _objects(found.get("retentionRules"))]
        return min((rule for rule in rules if isinstance(rule, int) and rule > 0), default=0)

    def _longer(self, resolution: Resolution, found: Any) -> str:
        bucket_id = shlex.quote(str(found.get("id")))
        return f"influx bucket update --id {bucket_id} --retention {self.days[resolution]}d"


class Version1(Dialect):
    """InfluxDB 1.x."""

    word = "database"
    who = "username and password"

    def __init__(self, config: InfluxConfig, journal: JournalConfig) -> None:
        super().__init__(config, journal, config.database or config.bucket)

    def write_target(self, resolution: Resolution) -> str:
        """Give path and query; see `Dialect`."""
        return f"/write?{urlencode({'db': self.names[resolution], 'precision': 'ms'})}"

    def authorization(self) -> str | None:
        """Give the header of user and password; see `Dialect`."""
        if self._config.username is None:
            return None
        password = _secret(self._config.password, self._config.password_file, "password_file")
        text = f"{self._config.username}:{password or ''}"
        return f"Basic {base64.b64encode(text.encode()).decode()}"

    def creation(self, resolution: Resolution) -> str:
        """Give the statement; see `Dialect`."""
        name = _quoted(self.names[resolution])
        return f"CREATE DATABASE {name} WITH DURATION {self.days[resolution]}d"

    def _found(self, ask: Ask) -> Mapping[str, Any]:
        """The default retention policy of each database, which is what we write to."""
        rows = _rows(ask("GET", _query("SHOW DATABASES")))
        there = {name for row in rows for name in row.values() if isinstance(name, str)}
        found: dict[str, dict[str, Any]] = {}
        for name in there.intersection(self.names.values()):
            policies = _rows(ask("GET", _query(f"SHOW RETENTION POLICIES ON {_quoted(name)}")))
            found[name] = next((policy for policy in policies if policy.get("default")), {})
        return found

    def _create(self, ask: Ask, resolution: Resolution) -> bool:
        answer = ask("POST", _query(self.creation(resolution)))
        results = _objects(_document(answer).get("results"))
        return answer.status == 200 and bool(results) and "error" not in results[0]

    def _kept_s(self, found: Any) -> float:
        hours = re.match(r"(\d+)h", str(found.get("duration")))
        return int(hours[1]) * _HOUR_S if hours else 0

    def _longer(self, resolution: Resolution, found: Any) -> str:
        policy = _quoted(str(found.get("name")))
        name, days = _quoted(self.names[resolution]), self.days[resolution]
        return f"ALTER RETENTION POLICY {policy} ON {name} DURATION {days}d"


def dialect_of(config: InfluxConfig, journal: JournalConfig) -> Dialect:
    """Give the dialect of the server: 1.x where a database is set."""
    return Version1(config, journal) if config.database else Version2(config, journal)


def _secret(text: str | None, file: str | None, key: str) -> str | None:
    if file is None:
        return text
    try:
        return read_secret(file, key)
    except UnreadableError as exc:
        raise SinkForbidden(str(exc)) from exc


def _query(statement: str) -> str:
    return f"/query?{urlencode({'q': statement})}"


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _document(answer: Answer) -> dict[str, Any]:
    """Give an answer's JSON object; an empty one where it is none."""
    return document if isinstance(document := _json(answer.body), dict) else {}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _rows(answer: Answer) -> Iterator[dict[str, Any]]:
    """Give the rows of a query's answer, each by its columns."""
    for result in _objects(_document(answer).get("results")):
        for series in _objects(result.get("series")):
            columns, values = series.get("columns"), series.get("values")
            for row in values if isinstance(values, list) else []:
                if isinstance(row, list) and isinstance(columns, list):
                    yield dict(zip(map(str, columns), row, strict=False))


def error_of(answer: Answer) -> str | None:
    """Give what the server itself says is wrong; None where the answer is not InfluxDB's."""
    document = _document(answer)
    for key in ("error", "message"):
        if isinstance(document.get(key), str):
            return str(document[key])
    return None
