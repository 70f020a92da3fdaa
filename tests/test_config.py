"""The configuration: which source wins, and every fault at once with where it stands."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import (
    BROKERS,
    ENVIRONMENT_PREFIX,
    FLAGS,
    NEEDS_RESTART,
    SECTIONS,
    SINKS_KEY,
    changes_that_need_restart,
    load_config,
)
from edge.errors import ConfigError, Fault
from edge.settings import (
    SINK_KINDS,
    ApiConfig,
    BrokerConfig,
    Config,
    InfluxConfig,
    MqttUplinkConfig,
)
from edge.structure import keys_of

SITE_FILE = Path(__file__).resolve().parent.parent / "config" / "edge.toml"
PATHS = [
    path
    for section, cls in SECTIONS.items()
    for path in (f"{section}.{name}" for name in keys_of(cls))
    if path != BROKERS
]
"""All that can be set but brokers, which only the file can."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "edge.toml"


def faults_of(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config(file, environment or {}, flags or {})
    assert str(caught.value).count("\n") == len(caught.value.faults) - 1
    return {fault.path: fault.message for fault in caught.value.faults}


def written(file: Path, content: str) -> Path:
    file.write_text(content, encoding="utf-8")
    return file


# --- The site file ---


def test_the_site_file_says_every_key_with_its_default() -> None:
    config = load_config(SITE_FILE, {}, {})
    root = SITE_FILE.parent.parent
    assert config == attrs.evolve(
        Config(),
        state=attrs.evolve(Config().state, dir=str(root / "persistence")),
        mqtt=attrs.evolve(Config().mqtt, brokers=Config().mqtt.all()),
    )
    text = SITE_FILE.read_text(encoding="utf-8")
    found = []
    table = re.compile(r"^(?:# )?\[([\w.]+)\]\n((?:(?!(?:# )?\[).*\n?)*)", re.MULTILINE)
    for section, body in table.findall(text):
        # A key without a default stands there as a comment.
        names = re.findall(r"^(?:# )?(\w+) = ", body, re.MULTILINE)
        found += [f"{section}.{name}" for name in names]
    brokers = [f"{BROKERS}.default.{name}" for name in keys_of(BrokerConfig)]
    sinks = [
        f"{SINKS_KEY}.{kind}.{name}" for kind, cls in SINK_KINDS.items() for name in keys_of(cls)
    ]
    assert sorted(found) == sorted([*PATHS, *brokers, *sinks])


def test_every_key_of_the_site_file_has_a_comment_above_it() -> None:
    lines = SITE_FILE.read_text(encoding="utf-8").splitlines()
    for above, line in itertools.pairwise(lines):
        if re.match(r"\w+ = ", line):
            assert re.match(r"# \S|\[mqtt\.brokers\.", above), line


def test_the_site_file_names_what_takes_effect_at_the_next_start_only() -> None:
    text = " ".join(SITE_FILE.read_text(encoding="utf-8").replace("\n# ", " ").split())
    (sentence,) = re.findall(r"SIGHUP reloads the file; (.*?) take effect at the next start", text)
    assert tuple(re.findall(r"[a-z]+\.[a-z_]+|(?<=\[)[a-z]+(?=\])", sentence)) == NEEDS_RESTART


# --- Which source wins ---


def test_without_any_source_there_are_defaults() -> None:
    assert load_config(None, {}, {}) == Config()
    assert Config().site.grid_capacity_kw == 500
    assert (Config().api.host, Config().api.port) == ("127.0.0.1", 3000)
    assert Config().cycle.tick_ms == 100
    assert Config().load.failsafe_available_kw == 0


def test_flags_beat_environment_beats_file_beats_defaults(file: Path) -> None:
    written(file, "[api]\nport = 1001\nhost = '127.0.0.2'\nmax_connections = 11")
    environment = {"DLM_EDGE_API_PORT": "1002", "DLM_EDGE_API_HOST": "127.0.0.3"}
    config = load_config(file, environment, {"api.port": 1003})
    assert config.api == ApiConfig("127.0.0.3", 1003, False, 11)
    assert config.site == Config().site


def test_a_better_source_hides_the_fault_of_a_lesser_one(file: Path) -> None:
    written(file, "[api]\nport = 'x'")
    assert load_config(file, {"DLM_EDGE_API_PORT": "5"}, {}).api.port == 5
    assert load_config(None, {"DLM_EDGE_API_PORT": "x"}, {"api.port": 6}).api.port == 6


def test_every_key_can_be_set_from_the_environment() -> None:
    values = {
        "site.id": "plant-2",
        "site.name": "Werk Süd",
        "site.timezone": "Europe/Berlin",
        "site.grid_capacity_kw": "120.5",
        "site.price_per_kwh": "0.31",
        "site.currency": "CHF",
        "api.host": "::1",
        "api.port": "0",
        "api.allow_unauthenticated": "TRUE",
        "api.max_connections": "2",
        "api.max_ws_clients": "0",
        "api.metrics_public": "false",
        "api.allowed_hosts": "dlm.example, edge",
        "api.cert_file": "cert.pem",
        "api.key_file": "key.pem",
        "security.allowed_networks": "192.168.1.0/24, fd00::/8",
        "cycle.tick_ms": "200",
        "load.failsafe_available_kw": "3",
        "load.high_consumption_kw": "44.5",
        "templates.dir": "mine",
        "state.dir": "here",
        "journal.enabled": "false",
        "journal.max_bytes": "2000000",
        "journal.commit_interval_s": "2.5",
        "journal.write_bytes_per_day": "9000000",
        "journal.raw_days": "1",
        "journal.hourly_days": "2",
        "journal.daily_days": "3",
        "journal.clock_wait_s": "4",
        "log.level": "debug",
        "log.format": "json",
    }
    assert list(values) == PATHS
    environment = {
        ENVIRONMENT_PREFIX + path.replace(".", "_").upper(): value for path, value in values.items()
    }
    config = load_config(None, {**environment, "PATH": "/bin", "DLM_EDGES": "x"}, {})
    assert attrs.astuple(config) == (
        ("plant-2", "Werk Süd", "Europe/Berlin", 120.5, 0.31, "CHF"),
        ("::1", 0, True, 2, 0, False, ["dlm.example", "edge"], "cert.pem", "key.pem"),
        (["192.168.1.0/24", "fd00::/8"],),
        (200,),
        (3.0, 44.5),
        ({},),
        ("mine",),
        ("here",),
        (False, 2_000_000, 2.5, 9_000_000, 1, 2, 3, 4.0),
        {},
        ("debug", "json"),
    )


@pytest.mark.parametrize(("raw", "value"), [("true", True), ("1", True), ("False", False)])
def test_a_switch_in_the_environment_is_true_or_false(raw: str, value: bool) -> None:
    config = load_config(None, {"DLM_EDGE_API_ALLOW_UNAUTHENTICATED": raw}, {})
    assert config.api.allow_unauthenticated is value


def test_a_relative_state_folder_in_the_file_starts_at_the_file(file: Path) -> None:
    written(file, "[state]\ndir = '../meters'")
    folder = os.path.realpath(file.parent.parent)
    assert load_config(file, {}, {}).state.dir == f"{folder}/meters"
    assert load_config(file, {"DLM_EDGE_STATE_DIR": "meters"}, {}).state.dir == "meters"
    assert load_config(file, {}, {"state.dir": "./there"}).state.dir == "./there"


def test_a_relative_folder_of_templates_in_the_file_starts_at_the_file(file: Path) -> None:
    written(file, "[templates]\ndir = 'mine'")
    assert load_config(file, {}, {}).templates.dir == os.path.realpath(file.parent / "mine")
    assert load_config(file, {"DLM_EDGE_TEMPLATES_DIR": "mine"}, {}).templates.dir == "mine"
    assert load_config(written(file, "# Defaults."), {}, {}).templates.dir is None


def test_relative_files_of_the_certificate_in_the_file_start_at_the_file(file: Path) -> None:
    written(file, "[api]\ncert_file = '../tls/cert.pem'\nkey_file = '/etc/key.pem'")
    folder = os.path.realpath(file.parent)
    api = load_config(file, {}, {}).api
    assert (api.cert_file, api.key_file) == (f"{folder}/../tls/cert.pem", "/etc/key.pem")
    api = load_config(file, {"DLM_EDGE_API_CERT_FILE": "cert.pem"}, {}).api
    assert (api.cert_file, api.key_file) == ("cert.pem", "/etc/key.pem")


def test_an_absolute_state_folder_stays(file: Path) -> None:
    written(file, "[state]\ndir = '/var/lib/dlm-edge'")
    assert load_config(file, {}, {}).state.dir == "/var/lib/dlm-edge"


def test_without_a_state_folder_in_the_file_the_default_stays(file: Path) -> None:
    assert load_config(written(file, "[state]"), {}, {}).state.dir == Config().state.dir


# --- Brokers ---


def test_every_key_of_a_broker(file: Path) -> None:
    written(
        file,
        """
        [mqtt.brokers.default]
        host = "10.0.0.1"
        [mqtt.brokers.plant-2]
        host = "Broker.local"
        port = 8883
        username = "edge"
        password_file = "broker.password"
        tls = true
        ca_file = "/etc/ssl/ca.pem"
        cert_file = "certs/client.pem"
        key_file = "../client.key"
        client_id = "dlm-edge 1"
        keepalive_s = 5
        """,
    )
    folder = file.parent.resolve()
    assert load_config(file, {}, {}).mqtt.all() == {
        "default": BrokerConfig(host="10.0.0.1"),
        "plant-2": BrokerConfig(
            host="Broker.local",
            port=8883,
            username="edge",
            password_file=f"{folder}/broker.password",
            tls=True,
            ca_file="/etc/ssl/ca.pem",
            cert_file=f"{folder}/certs/client.pem",
            key_file=f"{folder}/../client.key",
            client_id="dlm-edge 1",
            keepalive_s=5,
        ),
    }


def test_there_is_always_a_default_broker(file: Path) -> None:
    default = BrokerConfig()
    assert (default.host, default.port, default.tls, default.keepalive_s) == (
        "localhost", None, False, 30,
    )  # fmt: skip
    assert load_config(None, {}, {}).mqtt.all() == {"default": default}
    other = load_config(written(file, "[mqtt.brokers.b]\nhost = 'b'"), {}, {})
    assert other.mqtt.all() == {"default": default, "b": BrokerConfig("b")}


def test_faults_of_brokers_come_at_once_with_their_paths(file: Path) -> None:
    written(
        file,
        """
        [mqtt]
        broker = "x"
        [mqtt.brokers.a]
        host = "mqtt://10.0.0.1"
        port = 0
        usrname = "me"
        password = "p"
        password_file = "f"
        tls = "yes"
        keepalive_s = 4
        [mqtt.brokers.b]
        username = "me"
        cert_file = "c.pem"
        client_id = ""
        [mqtt.brokers."c d"]
        [mqtt.brokers.e]
        username = 5
        password = "p"
        tls = 1
        ca_file = "ca.pem"
        cert_file = 7
        key_file = "k.pem"
        """,
    )
    found = {
        path.removeprefix(f"{file}: mqtt."): message for path, message in faults_of(file).items()
    }
    assert found == {
        "broker": "unknown key; did you mean 'brokers'?",
        "brokers.a.host": "must be a bare host name or IP address like 192.168.1.150, not "
        "'mqtt://10.0.0.1'; the port goes into 'port'",
        "brokers.a.port": "must be 1 to 65,535, not 0",
        "brokers.a.usrname": "unknown key; did you mean 'username'?",
        "brokers.a.username": "is missing; a password needs it",
        "brokers.a.password_file": "does not go with password; give one of the two",
        "brokers.a.tls": "must be true or false, not 'yes'",
        "brokers.a.keepalive_s": "must be 5 to 3,600 s, not 4",
        "brokers.b.key_file": "is missing; a client certificate needs its key",
        "brokers.b.tls": "must be true where certificates are given",
        "brokers.b.client_id": "must not be empty",
        "brokers.c d": "must have a name of 1 to 64 letters, digits, '-' or '_'",
        "brokers.e.username": "must be text, not 5",
        "brokers.e.tls": "must be true or false, not 1",
        "brokers.e.cert_file": "must be text, not 7",
    }


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ("mqtt = 5", "mqtt"),
        ("[mqtt]\nbrokers = 5", "mqtt.brokers"),
        ("[mqtt]\nbrokers = ['a']", "mqtt.brokers"),
        ("[mqtt.brokers]\nhost = 'x'", "mqtt.brokers.host"),
        ("[[mqtt.brokers.a]]", "mqtt.brokers.a"),
    ],
)
def test_brokers_are_tables_by_name(file: Path, content: str, path: str) -> None:
    ((where, message),) = faults_of(written(file, content)).items()
    assert where == f"{file}: {path}"
    assert message.startswith("must be a table or object, not ")


@pytest.mark.parametrize(
    "line",
    ["password = 's3cret\\u0000'", "password = 53370", "host = 'mqtt://me:s3cret@10.0.0.1'"],
)
def test_no_fault_shows_a_password(file: Path, line: str) -> None:
    faults = faults_of(written(file, f"[mqtt.brokers.a]\n{line}".replace("'", '"')))
    assert len(faults) == 1
    assert "s3cret" not in repr(faults)
    assert "53" not in "".join(faults.values())


def test_no_repr_shows_a_password(file: Path) -> None:
    written(file, "[mqtt.brokers.a]\nusername = 'me'\npassword = 's3cret'")
    config = load_config(file, {}, {})
    assert config.mqtt.brokers["a"].password == "s3cret"
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    "variable", ["DLM_EDGE_MQTT_BROKERS", "DLM_EDGE_MQTT_BROKERS_DEFAULT_HOST"]
)
def test_the_environment_sets_no_brokers(variable: str) -> None:
    assert faults_of(environment={variable: "s3cret"}) == {
        variable: "does not set a broker; give [mqtt.brokers.<name>] in the file"
    }


# --- Faults ---


def test_every_fault_comes_at_once_with_its_source(file: Path) -> None:
    written(
        file,
        """
        sit = 1
        [site]
        id = "a b"
        nmae = "x"
        grid_capacity_kw = true
        [api]
        port = "3000"
        host = "0.0.0.0"
        [load]
        failsafe_available_kw = -1
        [log]
        level = "warn"
        """,
    )
    environment = {
        "DLM_EDGE_CYCLE_TICK_MS": "fast",
        "DLM_EDGE_API_PROT": "5",
        "DLM_EDGE_API_MAX_CONNECTIONS": "1",
    }
    assert faults_of(file, environment, {"state.dir": " "}) == {
        "DLM_EDGE_API_PROT": "unknown key; did you mean 'DLM_EDGE_API_PORT'?",
        f"{file}: sit": "unknown key; did you mean 'site'?",
        f"{file}: site.id": "must be 1 to 64 letters, digits, '-' or '_', not 'a b'",
        f"{file}: site.nmae": "unknown key; did you mean 'name'?",
        f"{file}: site.grid_capacity_kw": "must be a number, not true",
        f"{file}: api.port": "must be a whole number, not '3000'",
        f"{file}: load.failsafe_available_kw": "must be 0 to 1,000,000 kW, not -1.0",
        f"{file}: log.level": "must be debug | info | warning | error, not 'warn'; did you mean "
        "'warning'?",
        "DLM_EDGE_CYCLE_TICK_MS (cycle.tick_ms)": "must be a whole number, not 'fast'",
        "DLM_EDGE_API_MAX_CONNECTIONS (api.max_connections)": "must be 2 to 1,000, not 1",
        "--state-dir (state.dir)": "must not be empty",
    }


def test_a_fault_of_each_flag_names_the_flag() -> None:
    wrong: dict[str, Any] = {"state.dir": "", "api.host": "", "api.port": 70000}
    assert set(wrong) == set(FLAGS)
    assert set(faults_of(flags=wrong)) == {f"{flag} ({path})" for path, flag in FLAGS.items()}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "edge.local", "127.0.0.1.nip.io"])
def test_a_name_or_address_of_the_network_is_not_loopback(host: str) -> None:
    assert not load_config(None, {}, {"api.host": host}).api.on_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_known_by_its_name_and_by_its_addresses(host: str) -> None:
    assert load_config(None, {}, {"api.host": host}).api.on_loopback


def test_the_fallback_may_not_exceed_the_grid(file: Path) -> None:
    written(file, "[site]\ngrid_capacity_kw = 50\n[load]\nfailsafe_available_kw = 51")
    assert faults_of(file) == {
        f"{file}: load.failsafe_available_kw": "must not exceed site.grid_capacity_kw (50 kW)"
    }
    config = load_config(file, {"DLM_EDGE_SITE_GRID_CAPACITY_KW": "51"}, {})
    assert config.load.failsafe_available_kw == 51


@pytest.mark.parametrize(("given", "missing"), [("cert", "key"), ("key", "cert")])
def test_a_certificate_needs_its_key(file: Path, given: str, missing: str) -> None:
    written(file, f"[api]\n{given}_file = 'x.pem'")
    message = "is missing; TLS needs a certificate and its key"
    assert faults_of(file) == {f"{file}: api.{missing}_file": message}


def test_a_faulty_key_is_not_also_a_missing_one(file: Path) -> None:
    written(file, "[api]\ncert_file = 'x.pem'\nkey_file = 5")
    assert faults_of(file) == {f"{file}: api.key_file": "must be text, not 5"}


@pytest.mark.parametrize("value", ["'yes'", "1", "'true'"])
def test_whether_metrics_are_public_is_a_yes_or_no(file: Path, value: str) -> None:
    (fault,) = faults_of(written(file, f"[api]\nmetrics_public = {value}")).items()
    assert fault[0] == f"{file}: api.metrics_public"
    assert "must be true or false" in fault[1]


@pytest.mark.parametrize(
    "value", ['"edge"', "[1]", "['http://edge']", "['edge:3000']", "['*']", "['']", "[[]]", "{}"]
)
def test_allowed_hosts_are_a_list_of_bare_names(file: Path, value: str) -> None:
    faults = faults_of(written(file, f"[api]\nallowed_hosts = {value}"))
    assert list(faults) == [f"{file}: api.allowed_hosts"]


def test_allowed_hosts_may_be_addresses_too(file: Path) -> None:
    written(file, "[api]\nallowed_hosts = ['edge_1.Example', '192.168.1.5', 'fd00::5']")
    assert load_config(file, {}, {}).api.allowed_hosts == [
        "edge_1.Example", "192.168.1.5", "fd00::5",
    ]  # fmt: skip


@pytest.mark.parametrize("value", ['"192.168.1.0/24"', "[1]", "5", "{}", "[['10.0.0.0/8']]"])
def test_allowed_networks_are_a_list_of_texts(file: Path, value: str) -> None:
    assert faults_of(written(file, f"[security]\nallowed_networks = {value}")) == {
        f"{file}: security.allowed_networks": 'must be a list of networks like ["192.168.1.0/24"]'
    }


def test_each_network_that_is_none_is_named(file: Path) -> None:
    written(file, "[security]\nallowed_networks = ['10.0.0.0/33', '10.0.0.0/8', 'meter.local']")
    (message,) = faults_of(file).values()
    assert "'10.0.0.0/33'" in message
    assert "'meter.local'" in message
    assert "'10.0.0.0/8'" not in message


@pytest.mark.parametrize("variable", ["", " ", ",", "10.0.0.0/8,"])
def test_no_network_at_all_is_a_fault_and_not_any(variable: str) -> None:
    faults = faults_of(environment={"DLM_EDGE_SECURITY_ALLOWED_NETWORKS": variable})
    assert list(faults) == ["DLM_EDGE_SECURITY_ALLOWED_NETWORKS (security.allowed_networks)"]


def test_an_empty_list_of_networks_is_a_fault(file: Path) -> None:
    faults = faults_of(written(file, "[security]\nallowed_networks = []"))
    assert faults == {
        f"{file}: security.allowed_networks": "must name a network; leave it out to allow any"
    }


@pytest.mark.parametrize("value", ["3", "true", "[]", '"x"', "2020-01-01"])
def test_a_section_must_be_a_table(file: Path, value: str) -> None:
    (fault,) = faults_of(written(file, f"api = {value}"), {"DLM_EDGE_API_PORT": "5"}).items()
    assert fault[0] == f"{file}: api"
    assert fault[1].startswith("must be a table or object, not ")


def test_a_file_that_is_missing(file: Path) -> None:
    assert faults_of(file) == {str(file): "no such file; give its path with --config"}


def test_a_file_that_cannot_be_read(file: Path) -> None:
    file.mkdir()
    assert faults_of(file) == {
        str(file): "cannot be read (Is a directory); give a file that this user may read"
    }


def test_a_file_that_is_not_utf_8(file: Path) -> None:
    file.write_bytes(b"[site]\nname = 'M\xfcller'")
    assert faults_of(file) == {str(file): "is not UTF-8 text; save it as UTF-8"}


def test_a_file_that_is_not_toml_is_named_beside_all_else(file: Path) -> None:
    faults = faults_of(
        written(file, "[site]\nname = Werk"), {"DLM_EDGE_API_PORT": "-"}, {"api.host": "0.0.0.0"}
    )
    assert list(faults) == [str(file), "DLM_EDGE_API_PORT (api.port)"]
    assert "line 2" in faults[str(file)]
    assert faults[str(file)].endswith("; fix that line")


def test_a_key_that_stands_twice_is_not_taken(file: Path) -> None:
    faults = faults_of(written(file, "[api]\nport = 1\nport = 2"))
    assert "Cannot overwrite a value" in faults[str(file)]


def test_an_editors_byte_order_mark_does_no_harm(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[api]\r\nport = 5\r\n")
    assert load_config(file, {}, {}).api.port == 5


def test_no_text_in_the_file_breaks_the_state_folder(file: Path) -> None:
    assert set(faults_of(written(file, '[state]\ndir = "a\\u0000b"'))) == {f"{file}: state.dir"}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(PATHS).map(lambda path: "DLM_EDGE_" + path.replace(".", "_").upper())
        | st.text(max_size=8).map(lambda name: f"DLM_EDGE_{name}"),
        st.text(st.characters(), max_size=12) | st.integers().map(str) | st.floats().map(str),
    )
)
def test_any_environment_is_taken_or_named_faulty(environment: dict[str, str]) -> None:
    faults: Sequence[Fault] = ()
    try:
        load_config(None, environment, {})
    except ConfigError as exc:
        faults = exc.faults
    assert all(str(fault).isprintable() for fault in faults)


# --- Reload ---


def test_a_reload_names_what_it_cannot_take_over() -> None:
    new = load_config(
        None,
        {
            "DLM_EDGE_SITE_ID": "other",
            "DLM_EDGE_SITE_GRID_CAPACITY_KW": "10",
            "DLM_EDGE_API_PORT": "1",
            "DLM_EDGE_LOAD_FAILSAFE_AVAILABLE_KW": "1",
            "DLM_EDGE_LOG_LEVEL": "error",
        },
        {},
    )
    assert changes_that_need_restart(Config(), new) == ["site.id", "api"]
    assert changes_that_need_restart(new, new) == []


def test_a_reload_takes_over_no_networks() -> None:
    new = load_config(None, {"DLM_EDGE_SECURITY_ALLOWED_NETWORKS": "10.0.0.0/8"}, {})
    assert changes_that_need_restart(Config(), new) == ["security"]


def test_a_reload_takes_over_no_brokers_and_templates(file: Path) -> None:
    written(file, "[mqtt.brokers.a]\nhost = 'b'\n[templates]\ndir = 'mine'")
    new = load_config(file, {}, {})
    assert changes_that_need_restart(Config(), new) == ["mqtt", "templates"]


# --- Sinks ---


def test_a_sink_is_what_its_name_or_its_kind_says(file: Path) -> None:
    written(
        file,
        "[sinks.influx]\nurl = 'http://a:8086'\ntoken_file = 'token'\norg = 'o'\n"
        "[sinks.second]\nkind = 'influx'\nurl = 'https://b'\ndatabase = 'd'\n"
        "[sinks.mqtt]\ndiscovery = false\n",
    )
    assert load_config(file, {}, {}).sinks == {
        "influx": InfluxConfig(
            url="http://a:8086", org="o", token_file=os.path.realpath(file.parent / "token")
        ),
        "second": InfluxConfig(url="https://b", database="d"),
        "mqtt": MqttUplinkConfig(discovery=False),
    }


def test_every_fault_of_a_sink_is_named(file: Path) -> None:
    written(
        file,
        "[sinks.influxx]\nurl = 'http://a'\n"
        "[sinks.mqtt]\nbroker = 'defalt'\n"
        "[sinks.a]\nkind = 'influx'\nurl = 'http://a'\nusername = 'u'\n"
        "[sinks.b]\nkind = 'influx'\nurl = 'http://a'\ndatabase = 'd'\ntoken = 't'\n"
        "[sinks.c]\nkind = 'influx'\nurll = 'http://a'\n",
    )
    faults = faults_of(file)
    where = f"{file}: sinks."
    assert faults[f"{where}influxx.kind"].endswith("did you mean 'influx'?")
    assert "did you mean 'default'?" in faults[f"{where}mqtt.broker"]
    assert "database" in faults[f"{where}a.username"]
    assert "InfluxDB 2" in faults[f"{where}b.token"]
    assert "did you mean 'url'?" in faults[f"{where}c.urll"]
    assert faults[f"{where}c.url"] == "is missing; give it"


@pytest.mark.parametrize("content", ["sinks = 3", "[sinks]\ninflux = 3"])
def test_what_is_no_table_of_sinks_is_a_fault(file: Path, content: str) -> None:
    (message,) = faults_of(written(file, content)).values()
    assert "must be a table" in message


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "tcp://a",
        "a:8086",
        "http://a:0",
        "http://a:99999",
        "http://u:p@a",
        "http://a/?db=x",
    ],
)
def test_what_is_no_address_of_a_server_is_a_fault(file: Path, url: str) -> None:
    faults = faults_of(written(file, f"[sinks.influx]\nurl = '{url}'"))
    assert list(faults) == [f"{file}: sinks.influx.url"]


def test_a_kind_of_sink_that_is_no_text_is_a_fault(file: Path) -> None:
    faults = faults_of(written(file, "[sinks.a]\nkind = ['influx']"))
    assert list(faults) == [f"{file}: sinks.a.kind"]


def test_a_journal_sink_needs_the_journal(file: Path) -> None:
    written(file, "[journal]\nenabled = false\n[sinks.influx]\nurl = 'http://a'\n[sinks.mqtt]")
    assert faults_of(file) == {
        f"{file}: sinks.influx": "sends what the journal holds; set journal.enabled = true"
    }


@pytest.mark.parametrize("prefix", ["a/+", "#", "/a", "a/", "a//b", "", "a\0"])
def test_a_prefix_that_is_no_topic_is_refused(file: Path, prefix: str) -> None:
    written(file, f"[sinks.mqtt]\ndiscovery_prefix = {json.dumps(prefix)}\n")
    (message,) = faults_of(file).values()
    assert "must" in message


@pytest.mark.parametrize("zone", ["Europe/Berlni", "", "../etc/passwd", "/etc/passwd"])
def test_a_time_zone_that_nobody_knows_is_refused(zone: str) -> None:
    (message,) = faults_of(environment={"DLM_EDGE_SITE_TIMEZONE": zone}).values()
    assert "Europe/Berlin" in message
