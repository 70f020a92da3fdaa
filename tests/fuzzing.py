"""Keeps what Schemathesis sends on this machine; loaded by it as its hooks.

Where a request would lead the service somewhere, a closed port of loopback takes that place. What
is unsound stays as it is: it is to be refused. Most registrations that are as described are made
such that are taken, since few are by chance. DLM_FUZZ holds what is to be known, as JSON.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.failures import AcceptedNegativeData, ServerError
from schemathesis.openapi.checks import IgnoredAuth

from edge.checks import host
from edge.meterspec.http import parse_http

_KNOWN = json.loads(os.environ.get("DLM_FUZZ", '{"port": 1, "ids": []}'))
"""port: where nobody listens. ids: of meters that there are."""
_COMPLETE: dict[str, dict[str, Any]] = {
    "modbus": {"host": "127.0.0.1", "port": _KNOWN["port"], "registers": {"power": 0}},
    "mqtt": {"topicPower": "building/power"},
    "http": {"url": f"http://127.0.0.1:{_KNOWN['port']}/"},
}
"""What makes a `communication` whole."""
_ON_THEIR_OWN = ("unitId", "timeout", "retries", "requestDelay", "wordOrder", "maxGap", "invert")
"""Keys that go with any others."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Move a request to loopback, and let every second be about a meter that there is."""
    case.body = _moved(case.body)
    number = zlib.crc32(repr((case.path_parameters, case.body)).encode())
    if number % 2 and case.method != "DELETE" and (case.path_parameters or {}).get("id"):
        case.path_parameters["id"] = _KNOWN["ids"][number // 2 % len(_KNOWN["ids"])]
    is_as_described = case.meta and case.meta.generation.mode is GenerationMode.POSITIVE
    if number % 8 and is_as_described and case.method == "POST" and _is_registration(case.body):
        case.body = _completed(case.body, f"Meter {number}")


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Drop what is taken for a failure and is none."""
    if isinstance(failure, ServerError):
        # Who tests a meter that is being tested is refused, rightly.
        return bool(response.status_code != 503 or response.json()["code"] != "BUSY")
    if isinstance(failure, IgnoredAuth):
        # Its own wrong tokens were too many: none is looked at any more.
        return "`429 " not in failure.message
    if isinstance(failure, AcceptedNegativeData):
        # A query is not looked at before who asks is a WebSocket client.
        return int(response.status_code) != 426
    return True


def _completed(body: dict[str, Any], name: str) -> dict[str, Any]:
    given = body["communication"]
    own = {key: given[key] for key in _ON_THEIR_OWN if key in given}
    kept: dict[str, Any] = {key: body[key] for key in ("meterType", "pollInterval") if key in body}
    protocol = body["protocol"]
    communication = {**own, **_COMPLETE[protocol]}
    return {**kept, "name": name, "protocol": protocol, "communication": communication}


def _moved(value: Any) -> Any:
    if isinstance(value, list):
        return [_moved(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    moved = {name: _moved(inner) for name, inner in value.items()}
    if _is_host(moved.get("host")):
        moved["host"] = "127.0.0.1"
        if moved.get("port") is None or _is_port(moved["port"]):
            moved["port"] = _KNOWN["port"]
    if _is_url(moved.get("url")):
        scheme = moved["url"].partition(":")[0]
        moved["url"] = f"{scheme}://127.0.0.1:{_KNOWN['port']}/"
    port = moved.get("serialPort")
    if isinstance(port, str) and port.strip() and port.isprintable() and len(port) <= 255:
        moved["serialPort"] = "/dev/none"
    if isinstance(moved.get("template"), str):
        moved["template"] = "abb-b23"
    return moved


def _is_registration(body: Any) -> bool:
    return isinstance(body, dict) and "communication" in body


def _is_host(value: Any) -> bool:
    try:
        host(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_port(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 65535


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and parse_http({"url": value}, None, []) is not None
