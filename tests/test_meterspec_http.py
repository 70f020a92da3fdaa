"""Registrations of HTTP meters: the user guide's own, URLs, headers, credentials, every fault."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.communication import Field, HttpCommunication, HttpEndpoint
from edge.errors import Fault, Faulty
from edge.meterspec import References, line_conflicts, parse_meter
from edge.meterspec.http import HttpKeys
from edge.model import QUANTITY_NAMES
from edge.payload import NAMED
from edge.structure import camel_case, keys_of
from tests.registrations import JSON_VALUES, faults_of, is_taken_or_named_faulty, parse, some_of

HTTP_BUILDING_METER = """{
    "name": "HTTP Building Meter",
    "location": "main-building",
    "protocol": "http",
    "meterType": "grid",
    "pollInterval": 10000,
    "communication": {
      "url": "http://192.168.1.200/api/energy",
      "method": "GET",
      "headers": {
        "Accept": "application/json"
      },
      "authToken": "your-api-token-here"
    }
  }"""
URL_LIKE = "must be a URL like http://192.168.1.200/api/energy"
NO_CREDENTIALS = "must not carry credentials; give username and password on their own"
NOT_PRINTABLE = "must be printable text without line breaks or control characters"
NOT_ASCII = (
    "must be ASCII without spaces; write other characters as %XX, and in a host's name as xn--"
)
NO_TOKEN = "must be printable ASCII without spaces or line breaks"


def registration(url: Any = "http://h/x", **communication: Any) -> dict[str, Any]:
    return {
        "name": "H",
        "protocol": "http",
        "meterType": "grid",
        "communication": {"url": url, **communication},
    }


def asked_by(url: Any = "http://h/x", **communication: Any) -> HttpCommunication:
    meter = parse(registration(url, **communication))
    assert isinstance(meter.communication, HttpCommunication)
    return meter.communication


def refused(url: Any = "http://h/x", **communication: Any) -> dict[str, str]:
    """The faults, by their paths below `communication`."""
    faults = faults_of(registration(url, **communication))
    return {path.removeprefix("communication."): message for path, message in faults.items()}


# --- The user guide's registration ---


def test_the_guides_http_meter() -> None:
    meter = parse(json.loads(HTTP_BUILDING_METER))
    assert (meter.line, meter.poll_interval_ms, meter.stale_after_ms) == (
        "http://192.168.1.200:80", 10_000, 30_000,
    )  # fmt: skip
    assert meter.communication == HttpCommunication(
        endpoint=HttpEndpoint("http", "192.168.1.200", 80),
        target="/api/energy",
        method="GET",
        headers=(("Accept", "application/json"), ("Authorization", "Bearer your-api-token-here")),
        body=None,
        timeout_s=5.0,
        fields=tuple(Field(name) for name in NAMED),
    )


def test_the_guides_other_endpoint() -> None:
    communication = asked_by("https://api.meter-provider.com/v1/meters/12345/current")
    assert communication.endpoint == HttpEndpoint("https", "api.meter-provider.com", 443)
    assert communication.target == "/v1/meters/12345/current"
    assert communication.headers == (("Accept", "application/json"),)


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "line", "target"),
    [
        ("http://h", "http://h:80", "/"),
        ("https://h", "https://h:443", "/"),
        ("http://h?x=1", "http://h:80", "/?x=1"),
        ("HTTPS://Meter.Local:8443/A/b?C=d%20e", "https://meter.local:8443", "/A/b?C=d%20e"),
        ("http://h:/x", "http://h:80", "/x"),
        ("http://h:1/x", "http://h:1", "/x"),
        ("http://h:65535/x", "http://h:65535", "/x"),
        ("http://[FE80::0:1]:8080/x", "http://[fe80::1]:8080", "/x"),
        ("http://[::1]", "http://[::1]:80", "/"),
        ("http://[fe80::1%25eth0]/x", "http://[fe80::1%eth0]:80", "/x"),
        ("http://xn--zhler-gra.example/x", "http://xn--zhler-gra.example:80", "/x"),
        ("http://h/a//b/../c;d=e", "http://h:80", "/a//b/../c;d=e"),
        ("http://h/" + "x" * 1991, "http://h:80", "/" + "x" * 1991),
    ],
    ids=lambda value: value[:40],
)
def test_urls_that_lead_to_a_line(url: str, line: str, target: str) -> None:
    communication = asked_by(url)
    assert (communication.endpoint.name, communication.target) == (line, target)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("ftp://h/x", "must begin with http:// or https://"),
        ("unix:///run/x.sock", "must begin with http:// or https://"),
        ("javascript:1", "must begin with http:// or https://"),
        ("httpss://h/x", "must begin with http:// or https://"),
        ("192.168.1.200/api", "must begin with http:// or https://"),
        ("//h/x", "must begin with http:// or https://"),
        ("http:/h/x", URL_LIKE),
        ("http:///x", URL_LIKE),
        ("http://", URL_LIKE),
        ("http://:80/x", URL_LIKE),
        ("http://h:80:80/x", URL_LIKE),
        ("http://h:x/", URL_LIKE),
        ("http://h:+80/", URL_LIKE),
        ("http://[::1/x", URL_LIKE),
        ("http://[::1]x/", URL_LIKE),
        ("http://x[::1]/", URL_LIKE),
        ("http://[meter]/", URL_LIKE),
        ("http://h/x#part", URL_LIKE),
        ("http://h/x#", URL_LIKE),
        ("http://h\\@evil/x", NO_CREDENTIALS),
        ("http://h/\\..\\x", URL_LIKE),
        ("http://h\\x", URL_LIKE),
        ("http://h:0/x", "must have a port of 1 to 65535, or none"),
        ("http://h:99999/x", "must have a port of 1 to 65535, or none"),
        ("http://me:pw@h/x", NO_CREDENTIALS),
        ("http://@h/x", NO_CREDENTIALS),
        ("http://h/a b", NOT_ASCII),
        (" http://h/", NOT_ASCII),
        ("http://zähler/x", NOT_ASCII),
        ("http://h:８０/x", NOT_ASCII),
        ("http://h/\r\nX-Evil: 1", NOT_PRINTABLE),
        ("http://h/\0", NOT_PRINTABLE),
        ("http://h/\x7f", NOT_PRINTABLE),
        ("http://h/\ud800", NOT_PRINTABLE),
        ("http://h/" + "x" * 1992, "must be at most 2000 characters, not 2001"),
        ("", "must not be empty"),
        (5, "must be text, not 5"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_urls_that_lead_nowhere_good(url: object, message: str) -> None:
    assert refused(url) == {"url": message}


@pytest.mark.parametrize("host", ["256.1.1.1", "10.1", "-h", "a%41", "h!", "1.2.3.4.", "::1"])
def test_a_urls_host_is_a_name_or_an_address(host: str) -> None:
    bracketed = f"[{host}%25]" if ":" in host else host
    (message,) = refused(f"http://{bracketed}/x").values()
    assert message.startswith("has a host that is none: it must be a bare host name")


def test_a_meter_needs_a_url() -> None:
    assert refused(None) == {"url": "is missing; give it"}


# --- Requests ---


def test_every_key() -> None:
    assert asked_by(
        "https://h:8443/x",
        method="POST",
        headers={"X-Site": "a b", "accept": "text/plain"},
        body={"id": 1, "list": [None]},
        username="me",
        password="päss word",
        timeout=250,
        caFile="/etc/ssl/mine.pem",
        verifyTls=True,
        invert=True,
        powerPath="meters[0].p",
        powerScale=0.001,
        energyScale=0.1,
        powerL1Path="l1",
    ) == HttpCommunication(
        endpoint=HttpEndpoint("https", "h", 8443, "/etc/ssl/mine.pem", True),
        target="/x",
        method="POST",
        headers=(
            ("X-Site", "a b"),
            ("accept", "text/plain"),
            ("Authorization", "Basic " + base64.b64encode("me:päss word".encode()).decode()),
            ("Content-Type", "application/json"),
        ),
        body=b'{"id": 1, "list": [null]}',
        timeout_s=0.25,
        fields=(
            Field("power", "meters[0].p", Fraction(1, 1000)),
            Field("powerL1", "l1"),
            Field("energy", None, Fraction(1, 10)),
            *(Field(name) for name in NAMED[2:]),
        ),
        invert=True,
    )


def test_every_quantity_has_its_path_and_scale() -> None:
    paths = {f"{name}Path": f"values.{name}" for name in QUANTITY_NAMES}
    scales = {f"{name}Scale": 0.25 for name in QUANTITY_NAMES}
    assert asked_by(**paths, **scales).fields == tuple(
        Field(name, f"values.{name}", Fraction(1, 4)) for name in QUANTITY_NAMES
    )


@pytest.mark.parametrize(
    ("body", "sent", "content_type"),
    [
        ("a=1\nä", "a=1\nä".encode(), None),
        ({}, b"{}", "application/json"),
        ([1.5, "ä"], b'[1.5, "\\u00e4"]', "application/json"),
    ],
)
def test_a_body_is_text_or_json(body: object, sent: bytes, content_type: str | None) -> None:
    communication = asked_by(method="POST", body=body)
    assert communication.body == sent
    assert dict(communication.headers).get("Content-Type") == content_type
    own = asked_by(method="POST", body=body, headers={"content-type": "text/x"})
    assert dict(own.headers) == {"content-type": "text/x", "Accept": "application/json"}


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (5, "must be text, an object or a list, not 5"),
        (True, "must be text, an object or a list, not true"),
        ("a\ud800", "must not hold half of a surrogate pair"),
        ({"a\udfff": 1}, "must not hold half of a surrogate pair"),
        ([["\udc00"]], "must not hold half of a surrogate pair"),
        ([float("inf")], "must hold finite numbers only"),
        ({"a": float("nan")}, "must hold finite numbers only"),
        (nested(20), "must be nested at most 20 deep, or be given as text"),
        (nested(100_001), "must be nested at most 20 deep, or be given as text"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_body_can_be_stored_and_sent(body: object, message: str) -> None:
    assert refused(method="POST", body=body) == {"body": message}


def test_a_body_may_be_nested() -> None:
    assert asked_by(method="POST", body=nested(19)).body


def test_a_body_goes_with_post() -> None:
    for method in (None, "GET"):
        assert refused(body="x", method=method) == {"body": "goes with method POST only"}
    assert refused(body="x", method="PUT").keys() == {"method"}


@pytest.mark.parametrize("timeout", [99, 60_001, "5", 0.5])
def test_a_timeout_has_its_limits(timeout: object) -> None:
    assert refused(timeout=timeout).keys() == {"timeout"}
    assert (asked_by(timeout=100).timeout_s, asked_by(timeout=60_000).timeout_s) == (0.1, 60.0)


# --- Headers ---


@pytest.mark.parametrize(
    "name",
    [
        "Host", "host", "Content-Length", "TRANSFER-ENCODING", "Connection", "TE", "Upgrade",
        "Trailer", "Expect", "", "X Y", "X:", "X\r\nEvil", "X\0", "Ä", "X\ud800", "x" * 101, "(a)",
    ],
    ids=lambda name: repr(name)[:20],
)  # fmt: skip
def test_headers_that_nobody_may_give(name: str) -> None:
    ((path, message),) = refused(headers={name: "1"}).items()
    assert path.startswith("headers.")
    assert path.isprintable()
    assert message == "is no header that can be given here"


@pytest.mark.parametrize(
    "value",
    ["a\r\nX-Evil: 1", "a\nb", "a\rb", "\0", "a\tb", "ä", "\ud800", 5, True, ["a"], {"a": "b"}],
    ids=repr,
)
def test_a_headers_value_stays_in_its_line(value: object) -> None:
    assert refused(headers={"X-Site": value}) == {
        "headers.X-Site": "must be printable ASCII text without line breaks"
    }


def test_a_header_is_given_once_whatever_its_case() -> None:
    assert refused(headers={"X-Site": "a", "x-site": "b"}) == {"headers.x-site": "is given twice"}


@pytest.mark.parametrize("headers", [5, "Accept: x", [], ["Accept"]])
def test_headers_must_be_an_object(headers: object) -> None:
    assert refused(headers=headers) == {
        "headers": 'must be an object of names and texts, like {"Accept": "…"}'
    }


def test_there_is_an_end_to_headers() -> None:
    assert len(asked_by(headers={f"X-{n}": "1" for n in range(50)}).headers) == 51
    assert refused(headers={f"X-{n}": "1" for n in range(60_000)}) == {
        "headers": "must be at most 50 headers, not 60,000"
    }


# --- Credentials ---


def test_an_authorization_of_ones_own() -> None:
    headers = {"authorization": "Custom abc"}
    assert dict(asked_by(headers=headers).headers)["authorization"] == "Custom abc"


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ({"username": "me"}, "password", "is missing; Basic authentication needs both"),
        ({"password": "pw"}, "username", "is missing; Basic authentication needs both"),
        ({"username": "a:b", "password": "pw"}, "username", "must not contain a colon"),
        (
            {"username": "me", "password": "pw", "authToken": "t"},
            "authToken",
            "does not go with username; give one of the two",
        ),
        (
            {"headers": {"AUTHORIZATION": "x"}, "authToken": "t"},
            "headers.Authorization",
            "is made of the credentials; give one of both",
        ),
        (
            {"headers": {"Authorization": "x"}, "username": "me", "password": "pw"},
            "headers.Authorization",
            "is made of the credentials; give one of both",
        ),
        ({"authToken": "a b"}, "authToken", NO_TOKEN),
        ({"authToken": ""}, "authToken", NO_TOKEN),
        (
            {"authToken": "a\r\nX: 1"},
            "authToken",
            NO_TOKEN,
        ),
        (
            {"username": "me", "password": "a\nb"},
            "password",
            "must be printable text without line breaks or control characters",
        ),
        ({"username": 5, "password": "pw"}, "username", "must be text, not 5"),
    ],
)  # fmt: skip
def test_credentials_that_do_not_go(given: dict[str, Any], path: str, message: str) -> None:
    assert refused(**given) == {path: message}


# --- TLS, and lines that are shared ---


def test_tls_keys_go_with_https() -> None:
    assert refused("http://h", caFile="/x", verifyTls=False) == {
        "caFile": "goes with https:// only; leave it out",
        "verifyTls": "goes with https:// only; leave it out",
    }
    assert asked_by("https://h", verifyTls=False).endpoint.verify_tls is False
    assert asked_by("http://h", verifyTls=True).endpoint.verify_tls is True
    assert refused("ftp://h", caFile="/x", verifyTls=False).keys() == {"url"}
    assert refused(5, caFile="/x").keys() == {"url"}


@pytest.mark.parametrize("file", ["ca.pem", "./ca.pem", "~/ca.pem"])
def test_a_file_is_named_from_the_root(file: str) -> None:
    assert refused("https://h", caFile=file) == {
        "caFile": f"must be an absolute path like /etc/ssl/ca.pem, not {file!r}"
    }


def test_one_origin_is_trusted_in_one_way() -> None:
    def meter(url: str, meter_id: str, **communication: Any) -> Any:
        document = {**registration(url, **communication), "name": meter_id}
        return parse_meter(document, meter_id, 0, References())

    plain = meter("https://h/a", "one")
    for differs in ({"verifyTls": False}, {"caFile": "/x"}):
        other = meter("https://H:443/b", "two", **differs)
        assert line_conflicts(other, [plain]) == [
            Fault(
                f"communication.{next(iter(differs))}",
                "differs from that of meter 'one' on https://h:443; give the same",
            )
        ]
        assert line_conflicts(other, [other]) == []
    for free in ("https://h:444/b", "https://g/b", "http://h:443/b"):
        assert line_conflicts(meter(free, "two"), [plain]) == []
    same = meter("https://h/b", "two", authToken="t", timeout=100)
    assert line_conflicts(same, [plain]) == []
    assert same.communication.endpoint == plain.communication.endpoint


# --- All at once, and anything ---


def test_every_fault_comes_at_once_with_its_path() -> None:
    assert refused(
        "ftp://h",
        method="get",
        headers={"Host": "x"},
        username="me",
        timeout=1,
        verifyTls="no",
        powerPath=5,
        powerL1Scale=2,
        voltageScale=0,
        topicPower="a",
        authtoken="t",
    ) == {
        "url": "must begin with http:// or https://",
        "method": "must be GET | POST, not 'get'; did you mean 'GET'?",
        "headers.'Host'": "is no header that can be given here",
        "password": "is missing; Basic authentication needs both",
        "timeout": "must be 100 to 60,000 ms, not 1",
        "verifyTls": "must be true or false, not 'no'",
        "powerPath": "must be a JMESPath expression like 'meters[0].power', not 5",
        "powerL1Scale": "scales nothing; give powerL1Path too, or leave it out",
        "voltageScale": "must be a factor other than 0, from 1e-12 to 1e12, not 0",
        "topicPower": "unknown key; known here: authToken, body, caFile, headers, invert, method, "
        "password, timeout, url, username, verifyTls, <quantity>Path, <quantity>Scale",
        "authtoken": "unknown key; did you mean 'authToken'?",
    }


KEYS = [
    *keys_of(HttpKeys, camel_case),
    *(f"{name}{ending}" for name in QUANTITY_NAMES for ending in ("Path", "Scale")),
]
URLS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["http://", "HTTPS://", "ftp://", ""]),
        st.text("ab1.:@[]%/\\?# ä\r\n", max_size=12),
        st.sampled_from(["", "/x", ":80/", "?a=b"]),
    ),
)
ANY_HEADERS = st.dictionaries(
    st.sampled_from(["Authorization", "X-Api-Key", "Host"]) | st.text(st.characters(), max_size=5),
    JSON_VALUES,
    max_size=3,
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["http://h/x", "https://h/x"]) | URLS,
    some_of(KEYS) | JSON_VALUES,
    st.none() | ANY_HEADERS,
)
def test_any_document_is_a_meter_or_named_faulty(url: str, given: Any, headers: Any) -> None:
    communication = {"url": url, "headers": headers, **given} if isinstance(given, dict) else given
    is_taken_or_named_faulty({**registration(), "communication": communication})


@settings(max_examples=300, deadline=None)
@given(URLS, st.dictionaries(st.text(max_size=4), st.text(st.characters(), max_size=6), max_size=2))
def test_nothing_that_is_taken_can_break_out_of_a_request(url: str, headers: Any) -> None:
    with suppress(Faulty):
        communication = asked_by(url, headers=headers)
        written = [communication.target, *chain.from_iterable(communication.headers)]
        assert all(text.isascii() and text.isprintable() for text in written)
        assert re.fullmatch(r"/[^ #]*", communication.target)
