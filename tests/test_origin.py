"""Which pages may make a browser ask: of this machine on loopback, else of the very host."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

import pytest

from edge.api import Request
from edge.api.origin import (
    refuse_foreign_change,
    refuse_other_origin,
    refuse_rebound_host,
    refuse_unknown_host,
)
from edge.errors import RequestError


def code_of(
    refuse: Callable[..., None], *context: Collection[str], method: str = "POST", **headers: str
) -> str | None:
    """The code that a request is refused with, or None."""
    try:
        refuse(Request(method, "/", {}, headers, b""), *context)
    except RequestError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("authority", "own_host", "local"),
    [
        ("localhost", "127.0.0.1", True),
        ("LocalHost:3000", "127.0.0.1", True),
        ("127.0.0.1:80", "localhost", True),
        ("127.255.0.1", "localhost", True),
        ("[::1]", "localhost", True),
        ("[::ffff:127.0.0.1]:3000", "localhost", True),
        ("dlm.local:3000", "DLM.local", True),
        ("dlm.local", "localhost", False),
        ("localhost.example", "localhost", False),
        ("127.0.0.1.example", "localhost", False),
        ("0.0.0.0", "localhost", False),
        ("192.168.1.5", "127.0.0.1", False),
        ("[::]", "::1", False),
        ("::1", "::1", False),
        ("", "127.0.0.1", False),
    ],
)
def test_on_loopback_only_names_and_pages_of_this_machine(
    authority: str, own_host: str, local: bool
) -> None:
    names = ("proxy.example", own_host)
    rebound = code_of(refuse_rebound_host, names, method="GET", host=authority)
    assert rebound == (None if local else "FOREIGN_HOST")
    for scheme in ("http", "HTTPS"):
        page = f"{scheme}://{authority}"
        change = code_of(refuse_foreign_change, names, origin=page)
        assert change == (None if local else "FOREIGN_ORIGIN")
        assert code_of(refuse_foreign_change, names, method="GET", origin=page) is None


@pytest.mark.parametrize(
    ("authority", "known"),
    [
        ("192.168.1.5:3000", True),
        ("[fd00::5]:3000", True),
        ("LOCALHOST:3000", True),
        ("pi-7", True),
        ("PI-7.lan.example:3000", True),
        ("pi-7.local", True),
        ("dlm.Example", True),
        ("evil.example", False),
        ("pi-7.evil.example", False),
        ("pi-7.local.evil.example", False),
        ("pi", False),
        ("lan.example", False),
        ("192.168.1.5.example", False),
        ("2130706433", False),
        ("fd00::5", False),
        (".local", False),
        ("", False),
    ],
)
def test_on_a_network_only_addresses_and_names_that_nobody_else_can_give(
    authority: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Pi-7.lan.example")
    refused = None if known else "FOREIGN_HOST"
    names = ("0.0.0.0", "DLM.example")
    assert code_of(refuse_unknown_host, names, method="GET", host=authority) == refused


def test_programs_say_neither_host_nor_origin() -> None:
    assert code_of(refuse_rebound_host, ["localhost"]) is None
    assert code_of(refuse_unknown_host, ["localhost"]) is None
    assert code_of(refuse_foreign_change, ["localhost"]) is None
    assert code_of(refuse_other_origin, host="edge") is None
    assert code_of(refuse_foreign_change, ["localhost"], origin="null") == "FOREIGN_ORIGIN"


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://edge:3000", "edge:3000", True),
        ("http://edge.local:3000", "Edge.local:3000", True),
        ("https://edge", "edge", True),
        ("https://dlm.example", "dlm.example:443", True),
        ("https://dlm.example:443", "dlm.example", True),
        ("http://edge:80", "edge", True),
        ("HTTP://edge", "edge:80", True),
        ("http://[fd00::1]:3000", "[fd00::1]:3000", True),
        ("null", "edge", False),
        ("", "edge", False),
        ("edge", "edge", False),
        ("http://edge:3001", "edge:3000", False),
        ("http://edge", "edge:3000", False),
        ("http://evil.example", "edge", False),
        ("http://edge.evil.example", "edge", False),
        ("http://evil.example/edge", "edge", False),
        ("http://edge@evil.example", "edge", False),
        ("https://edge", "edge:80", False),
        ("app://edge", "edge", False),
        ("file://", "", False),
        ("http://", "", False),
        ("http://edge", "", False),
        ("é", "é", False),
    ],
)
def test_elsewhere_only_pages_of_the_very_host_that_is_asked(
    origin: str, host: str, same: bool
) -> None:
    refused = None if same else "FOREIGN_ORIGIN"
    assert code_of(refuse_other_origin, origin=origin, host=host) == refused
