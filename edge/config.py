"""The configuration: flags beat environment, environment beats the file, the file beats defaults.

What can be set stands in `settings`. `load_config` reports every fault at once, each with where it
stands (file and key, or environment variable, or flag), what is wrong and what to do.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs

from edge.errors import ConfigError, Fault, Faulty
from edge.settings import SINK_KINDS, ApiConfig, BrokerConfig, Config, InfluxConfig, SinkConfig
from edge.structure import keys_of, nearest, shown, structure, structure_sound, unknown_keys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENVIRONMENT_PREFIX = "DLM_EDGE_"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
FLAGS = {"state.dir": "--state-dir", "api.host": "--host", "api.port": "--port"}
"""What the command line can set: key → flag."""


BROKERS = "mqtt.brokers"
SINKS_KEY = "sinks"
"""What the environment does not set: tables of tables."""
API_FILES = ("cert_file", "key_file")
BROKER_FILES = ("password_file", "ca_file", "cert_file", "key_file")
SINK_FILES = ("token_file", "password_file", "ca_file")

SECTIONS: dict[str, type] = {
    name: section for name, section in get_type_hints(Config).items() if attrs.has(section)
}

NEEDS_RESTART = (
    "site.id", "site.name", "site.timezone", "api", "security", "cycle", "mqtt", "templates",
    "state", "journal", "sinks",
)  # fmt: skip
"""What a running service cannot take over when the file is reloaded; the rest it can."""


def load_config(
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> Config:
    """Read the configuration.

    file: TOML; None for defaults only. environment: searched for DLM_EDGE_<SECTION>_<KEY>.
    flags: `section.key` → value, for what the command line gave.
    Relative paths in the file are taken from the file's own folder.
    Raises ConfigError with every fault; no other I/O than reading the file.
    """
    faults: list[Fault] = []
    document = _read_toml(file, faults)
    unreadable = bool(faults)
    origins: dict[str, str] = {}
    _overlay(document, origins, _from_environment(environment, faults))
    _overlay(document, origins, ((path, value, FLAGS[path]) for path, value in flags.items()))
    sinks, sink_faults = _sinks(document.pop(SINKS_KEY, {}))
    config, own_faults = structure_sound(Config, document)
    assert config is not None  # the document is a table
    config = attrs.evolve(config, sinks=sinks)
    key_faults = [*own_faults, *sink_faults]
    faults += [_located(fault, origins, file) for fault in key_faults]
    if not unreadable:
        faulty = {fault.path for fault in key_faults}
        faults += [
            _located(fault, origins, file)
            for fault in _cross_faults(config, faulty)
            if fault.path not in faulty
        ]
    if faults:
        raise ConfigError("", faults)
    return config if file is None else _with_paths(config, document, origins, file.parent)


def _sinks(document: Any) -> tuple[dict[str, SinkConfig], list[Fault]]:
    """The sinks that are sound, and the faults of all; `kind` says what a table may hold."""
    if not isinstance(document, dict):
        return {}, [Fault(SINKS_KEY, f"must be a table of tables, not {shown(document)}")]
    sinks: dict[str, SinkConfig] = {}
    faults = []
    for name, table in document.items():
        path = f"{SINKS_KEY}.{name}"
        if not isinstance(table, dict):
            faults.append(Fault(path, f"must be a table, not {shown(table)}"))
            continue
        kind = table.get("kind", name)
        if not isinstance(kind, str) or kind not in SINK_KINDS:
            wanted = " | ".join(SINK_KINDS)
            near = nearest(str(kind), SINK_KINDS)
            faults.append(Fault(f"{path}.kind", f"must be {wanted}, not {shown(kind)}{near}"))
            continue
        given = {key: value for key, value in table.items() if key != "kind"}
        try:
            sinks[name] = structure(SINK_KINDS[kind], given)
        except Faulty as exc:
            faults += [Fault(f"{path}.{fault.path}", fault.message) for fault in exc.faults]
    return sinks, faults


def _with_paths(
    config: Config, document: Mapping[str, Any], origins: Mapping[str, str], folder: Path
) -> Config:
    """Take relative paths that the file gives from the file's own folder.

    What is a link to a file stays one: who renews a certificate has it lead to another.
    """
    folder = Path(os.path.realpath(folder))

    def resolved(section: Any, names: Iterable[str], real: Callable[[Path], Any] = str) -> Any:
        given = {name: getattr(section, name) for name in names}
        paths = {name: real(folder / path) for name, path in given.items() if path}
        return attrs.evolve(section, **paths)

    def from_file(section: str, *names: str) -> list[str]:
        given = document.get(section, {})
        return [name for name in names if name in given and f"{section}.{name}" not in origins]

    brokers = {name: resolved(broker, BROKER_FILES) for name, broker in config.mqtt.brokers.items()}
    sinks = {
        name: resolved(sink, SINK_FILES) if isinstance(sink, InfluxConfig) else sink
        for name, sink in config.sinks.items()
    }
    return attrs.evolve(
        config,
        api=resolved(config.api, from_file("api", *API_FILES)),
        state=resolved(config.state, from_file("state", "dir"), os.path.realpath),
        templates=resolved(config.templates, from_file("templates", "dir"), os.path.realpath),
        mqtt=attrs.evolve(config.mqtt, brokers=brokers),
        sinks=sinks,
    )


def changes_that_need_restart(old: Config, new: Config) -> list[str]:
    """Name the keys that differ and that a running service cannot take over."""

    def value(config: Config, path: str) -> Any:
        result: Any = config
        for name in path.split("."):
            result = getattr(result, name)
        return result

    return [path for path in NEEDS_RESTART if value(old, path) != value(new, path)]


def _read_toml(file: Path | None, faults: list[Fault]) -> dict[str, Any]:
    """The file's document; one that is of no use is reported and counts as empty meanwhile."""
    if file is None:
        return {}
    try:
        # Some editors put a byte order mark at the start, which TOML does not know.
        text = file.read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
        if text.strip() or not file.is_file():  # /dev/null is meant
            return document
        # A power cut or a full disk leaves such a file behind, and the defaults may free more power
        # than the site has.
        message = "is empty; put its settings back, or a comment to say that defaults are meant"
    except FileNotFoundError:
        message = "no such file; give its path with --config"
    except OSError as exc:
        message = f"cannot be read ({exc.strerror}); give a file that this user may read"
    except UnicodeDecodeError:
        message = "is not UTF-8 text; save it as UTF-8"
    except tomllib.TOMLDecodeError as exc:
        message = f"is not valid TOML: {exc}; fix that line"
    faults.append(Fault(str(file), message))
    return {}


def _overlay(
    document: dict[str, Any], origins: dict[str, str], entries: Iterable[tuple[str, Any, str]]
) -> None:
    for path, value, origin in entries:
        section, _, name = path.partition(".")
        table = document.setdefault(section, {})
        if isinstance(table, dict):
            table[name] = value
            origins[path] = origin


def _from_environment(
    environment: Mapping[str, str], faults: list[Fault]
) -> list[tuple[str, Any, str]]:
    known = {
        f"{ENVIRONMENT_PREFIX}{section}_{name}".upper(): (f"{section}.{name}", attribute.type)
        for section, cls in SECTIONS.items()
        for name, attribute in keys_of(attrs.resolve_types(cls)).items()
        if f"{section}.{name}" != BROKERS
    }
    entries = []
    unknown = []
    for variable, raw in sorted(environment.items()):
        if variable in known:
            path, type_ = known[variable]
            entries.append((path, _typed(raw, type_), variable))
        elif variable.startswith(f"{ENVIRONMENT_PREFIX}MQTT_BROKERS"):
            message = "does not set a broker; give [mqtt.brokers.<name>] in the file"
            faults.append(Fault(variable, message))
        elif variable.startswith(f"{ENVIRONMENT_PREFIX}SINKS"):
            message = "does not set a sink; give [sinks.<name>] in the file"
            faults.append(Fault(variable, message))
        elif variable.startswith(ENVIRONMENT_PREFIX):
            unknown.append(variable)
    faults.extend(unknown_keys(unknown, known))
    return entries


def _typed(raw: str, type_: Any) -> Any:
    """A variable's text as the key's type; text that does not fit is left for the check to name."""
    types = get_args(type_) or (type_,)
    if bool in types:
        return {"true": True, "1": True, "false": False, "0": False}.get(raw.lower(), raw)
    if int in types or float in types:
        try:
            return float(raw) if float in types else int(raw)
        except ValueError:
            return raw
    if Any in types:  # a list
        return [part.strip() for part in raw.split(",")]
    return raw


def _cross_faults(config: Config, faulty: set[str]) -> Iterator[Fault]:
    """What is wrong between keys. faulty: keys and sections that are wrong by themselves."""

    def sound(*paths: str) -> bool:
        return not any(path in faulty or path.partition(".")[0] in faulty for path in paths)

    if (
        sound("load.failsafe_available_kw", "site.grid_capacity_kw")
        and config.load.failsafe_available_kw > config.site.grid_capacity_kw
    ):
        yield Fault(
            "load.failsafe_available_kw",
            f"must not exceed site.grid_capacity_kw ({config.site.grid_capacity_kw:g} kW)",
        )
    if sound("api.cert_file", "api.key_file"):
        yield from _certificate_faults("api", config.api, "TLS needs a certificate and its key")
    for name, broker in config.mqtt.brokers.items():
        yield from _broker_faults(f"{BROKERS}.{name}", name, broker)
    for name, sink in config.sinks.items():
        yield from _sink_faults(f"{SINKS_KEY}.{name}", name, sink, config)


def _broker_faults(path: str, name: str, broker: BrokerConfig) -> Iterator[Fault]:
    if not _NAME.fullmatch(name):
        yield Fault(path, "must have a name of 1 to 64 letters, digits, '-' or '_'")
    if broker.password is not None and broker.password_file is not None:
        yield Fault(f"{path}.password_file", "does not go with password; give one of the two")
    if (broker.password or broker.password_file) and broker.username is None:
        yield Fault(f"{path}.username", "is missing; a password needs it")
    yield from _certificate_faults(path, broker, "a client certificate needs its key")
    if not broker.tls and (broker.ca_file or broker.cert_file):
        yield Fault(f"{path}.tls", "must be true where certificates are given")


def _certificate_faults(path: str, pair: ApiConfig | BrokerConfig, why: str) -> Iterator[Fault]:
    if (pair.cert_file is None) != (pair.key_file is None):
        missing = "key_file" if pair.key_file is None else "cert_file"
        yield Fault(f"{path}.{missing}", f"is missing; {why}")


def _sink_faults(path: str, name: str, sink: SinkConfig, config: Config) -> Iterator[Fault]:
    if not _NAME.fullmatch(name):
        yield Fault(path, "must have a name of 1 to 64 letters, digits, '-' or '_'")
    if not isinstance(sink, InfluxConfig):
        brokers = config.mqtt.all()
        if sink.broker not in brokers:
            near = nearest(sink.broker, brokers) or "; give it as [mqtt.brokers.<name>]"
            yield Fault(f"{path}.broker", f"no broker is named {shown(sink.broker)}{near}")
        return
    if not config.journal.enabled:
        yield Fault(path, "sends what the journal holds; set journal.enabled = true")
    if sink.token is not None and sink.token_file is not None:
        yield Fault(f"{path}.token_file", "does not go with token; give one of the two")
    if sink.password is not None and sink.password_file is not None:
        yield Fault(f"{path}.password_file", "does not go with password; give one of the two")
    version_2 = [key for key in ("org", "token", "token_file") if getattr(sink, key) is not None]
    if sink.database is not None and version_2:
        yield Fault(
            f"{path}.{version_2[0]}",
            "is for InfluxDB 2 and database for 1.x; give one or the other",
        )
    if sink.database is None and (sink.username or sink.password or sink.password_file):
        yield Fault(f"{path}.username", "is for InfluxDB 1.x; give database too, or token instead")


def _located(fault: Fault, origins: Mapping[str, str], file: Path | None) -> Fault:
    origin = origins.get(fault.path)
    if origin is not None:
        return Fault(f"{origin} ({fault.path})", fault.message)
    return Fault(f"{file}: {fault.path}" if file else fault.path, fault.message)
