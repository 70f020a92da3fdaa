"""What can be set: each section of the configuration a class, each key a field with its check.

How the values come together from file, environment and flags is `config`'s matter.
"""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from typing import Any
from urllib.parse import urlsplit

import attrs

from edge.checks import between, host, is_address, one_of, text
from edge.reach import Reach, parse_network
from edge.structure import key, shown


def _site_id(value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError(f"must be 1 to 64 letters, digits, '-' or '_', not {shown(value)}")


def is_loopback(host: str) -> bool:
    """Tell whether an IP address leads to this machine only; a name never does."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _web_address(value: str) -> None:
    text(1000)(value)
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"must be like http://host:8086 or https://host, not {shown(value)}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must hold no user, query or fragment; there are keys for who we are")


def _topic(value: str) -> None:
    text(100)(value)
    if not re.fullmatch(r"[^+#/\0]+(/[^+#/\0]+)*", value):
        raise ValueError(f"must be a topic without '+', '#' and empty levels, not {shown(value)}")


def _time_zone(value: str) -> None:
    try:
        zoneinfo.ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        raise ValueError(
            f"must be a time zone such as 'Europe/Berlin' or 'UTC', not {shown(value)}"
        ) from None


def _networks(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(network, str) for network in value):
        raise ValueError('must be a list of networks like ["192.168.1.0/24"]')
    if not value:
        raise ValueError("must name a network; leave it out to allow any")
    faults = []
    for network in value:
        try:
            parse_network(network)
        except ValueError as exc:
            faults.append(str(exc))
    if faults:
        raise ValueError("; ".join(faults))


def _host_names(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError('must be a list of names like ["dlm.example.com"]')
    for name in value:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", name) and not is_address(name):
            raise ValueError(
                f"must hold bare names like dlm.example.com, without scheme and port, not "
                f"{shown(name)}"
            )


@attrs.frozen
class SiteConfig:
    """The place that is measured."""

    id: str = key("site", check=_site_id)
    name: str = key("My site", check=text(100))
    timezone: str = key("UTC", check=_time_zone)
    grid_capacity_kw: float = key(500.0, check=between(0.1, 1_000_000, "kW"))
    price_per_kwh: float | None = key(None, check=between(0, 1000))
    currency: str = key("EUR", check=text(10))


@attrs.frozen
class ApiConfig:
    """The REST API's door. allowed_hosts: a list of names in text."""

    host: str = key("127.0.0.1", check=text(255))
    port: int = key(3000, check=between(0, 65535))
    allow_unauthenticated: bool = key(False)
    max_connections: int = key(64, check=between(2, 1000))
    max_ws_clients: int = key(32, check=between(0, 1000))
    metrics_public: bool | None = key(None)
    allowed_hosts: Any = key(attrs.Factory(list), check=_host_names)
    cert_file: str | None = key(None, check=text(1000))
    key_file: str | None = key(None, check=text(1000))

    @property
    def on_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        return self.host == "localhost" or is_loopback(self.host)


@attrs.frozen
class SecurityConfig:
    """What meters may reach. allowed_networks: a list of networks in text, or None for any."""

    allowed_networks: Any = key(None, check=_networks)

    @property
    def reach(self) -> Reach:
        """Where meters may be."""
        return Reach.of(self.allowed_networks)


@attrs.frozen
class CycleConfig:
    """The control cycle."""

    tick_ms: int = key(100, check=between(100, 1000, "ms"))


@attrs.frozen
class LoadConfig:
    """The available capacity."""

    failsafe_available_kw: float = key(0.0, check=between(0, 1_000_000, "kW"))
    high_consumption_kw: float | None = key(None, check=between(0.1, 1_000_000, "kW"))


@attrs.frozen
class StateConfig:
    """Where the registered meters and the journal are kept."""

    dir: str = key("persistence", check=text(1000))


@attrs.frozen
class JournalConfig:
    """What is kept of all readings on the disk, and for how long."""

    enabled: bool = key(True)
    max_bytes: int = key(512 * 1024 * 1024, check=between(1024 * 1024, 2**40, "bytes"))
    commit_interval_s: float = key(10.0, check=between(0.1, 3600, "s"))
    write_bytes_per_day: int = key(500_000_000, check=between(1, 2**40, "bytes"))
    raw_days: int = key(90, check=between(1, 36_500, "days"))
    hourly_days: int = key(365, check=between(1, 36_500, "days"))
    daily_days: int = key(1826, check=between(1, 36_500, "days"))
    clock_wait_s: float = key(300.0, check=between(0, 86_400, "s"))


@attrs.frozen
class InfluxConfig:
    """A server that takes InfluxDB's line protocol: 2.x by `token`, 1.x by `database`."""

    url: str = key(check=_web_address)
    org: str | None = key(None, check=text(255))
    bucket: str = key("charging_data", check=text(255))
    token: str | None = key(None, check=text(1000), secret=True)
    token_file: str | None = key(None, check=text(1000))
    database: str | None = key(None, check=text(255))
    username: str | None = key(None, check=text(255))
    password: str | None = key(None, check=text(1000), secret=True)
    password_file: str | None = key(None, check=text(1000))
    ca_file: str | None = key(None, check=text(1000))
    timeout_s: float = key(10.0, check=between(0.5, 300, "s"))
    batch_readings: int = key(5000, check=between(1, 100_000))
    backlog_per_s: int = key(20_000, check=between(1, 1_000_000))


@attrs.frozen
class MqttUplinkConfig:
    """A broker that each reading and the load status are published on."""

    broker: str = key("default", check=text(64))
    discovery: bool = key(True)
    discovery_prefix: str = key("homeassistant", check=_topic)


SinkConfig = InfluxConfig | MqttUplinkConfig
SINK_KINDS: dict[str, type[InfluxConfig] | type[MqttUplinkConfig]] = {
    "influx": InfluxConfig,
    "mqtt": MqttUplinkConfig,
}
"""`kind` of a sink, by default the name of its table → what can be set there."""


@attrs.frozen
class LogConfig:
    """What is logged, to standard error."""

    level: str = key("info", check=one_of("debug", "info", "warning", "error"))
    format: str = key("text", check=one_of("text", "json"))


@attrs.frozen
class BrokerConfig:
    """One MQTT broker."""

    host: str = key("localhost", check=host)
    port: int | None = key(None, check=between(1, 65535))
    username: str | None = key(None, check=text(255))
    password: str | None = key(None, check=text(1000), secret=True)
    password_file: str | None = key(None, check=text(1000))
    tls: bool = key(False)
    ca_file: str | None = key(None, check=text(1000))
    cert_file: str | None = key(None, check=text(1000))
    key_file: str | None = key(None, check=text(1000))
    client_id: str | None = key(None, check=text(100))
    keepalive_s: int = key(30, check=between(5, 3600, "s"))


@attrs.frozen
class MqttConfig:
    """The brokers that meters can be heard on, by name; `broker` gives one of them."""

    brokers: dict[str, BrokerConfig] = key(attrs.Factory(dict))

    def all(self) -> dict[str, BrokerConfig]:
        """The configured brokers, and `default` in any case."""
        return {"default": BrokerConfig(), **self.brokers}


@attrs.frozen
class TemplatesConfig:
    """A folder of templates beside the built-in ones."""

    dir: str | None = key(None, check=text(1000))


@attrs.frozen
class Config:
    """All settings of the service, checked. What can be set stands in the section classes."""

    site: SiteConfig = key(attrs.Factory(SiteConfig))
    api: ApiConfig = key(attrs.Factory(ApiConfig))
    security: SecurityConfig = key(attrs.Factory(SecurityConfig))
    cycle: CycleConfig = key(attrs.Factory(CycleConfig))
    load: LoadConfig = key(attrs.Factory(LoadConfig))
    mqtt: MqttConfig = key(attrs.Factory(MqttConfig))
    templates: TemplatesConfig = key(attrs.Factory(TemplatesConfig))
    state: StateConfig = key(attrs.Factory(StateConfig))
    journal: JournalConfig = key(attrs.Factory(JournalConfig))
    sinks: dict[str, SinkConfig] = key(attrs.Factory(dict))
    log: LogConfig = key(attrs.Factory(LogConfig))
