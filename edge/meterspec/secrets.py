"""Secrets in a registration: shown as `"***"`, kept when that is sent back, never sent elsewhere.

They are the keys of `communication` that hold one by their nature, and the headers whose name says
so. Who may change a registration shall not thereby learn its secrets: a stored secret goes only to
the line that it was given for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from edge.errors import Fault
from edge.meterspec.http import HttpKeys
from edge.meterspec.keys import PATH
from edge.meterspec.modbus import ModbusKeys
from edge.meterspec.mqtt import MqttKeys
from edge.model import Meter
from edge.structure import camel_case, keys_of

HIDDEN = "***"

_KEYS = tuple(
    name
    for keys in (ModbusKeys, MqttKeys, HttpKeys)
    for name, attribute in keys_of(keys, camel_case).items()
    if not attribute.repr  # as `key(secret=True)` makes it
)
_HEADER = re.compile(r"auth|token|secret|pass|pwd|cookie|credential|signature|session|key", re.I)

_Path = tuple[str, ...]


def redacted(communication: Mapping[str, Any]) -> dict[str, Any]:
    """Give a registration's `communication` with its secrets hidden."""
    shown = dict(communication)
    for path in _secrets(communication):
        if len(path) == 1:
            shown[path[0]] = HIDDEN
        else:
            shown[path[0]] = {**shown[path[0]], path[1]: HIDDEN}
    return shown


def carry_over(old: Mapping[str, Any], merged: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put stored secrets where an update has `"***"`; where none is stored, that stays.

    old: the registration document; merged: the update applied to it. Gives the new document.
    """
    communication, stored = merged.get(PATH), old.get(PATH)
    if not isinstance(communication, dict) or not isinstance(stored, dict):
        return merged
    communication = {**communication}
    for path in list(_secrets(communication)):
        secret = _at(stored, path)
        if _at(communication, path) != HIDDEN or secret is None:
            continue
        if len(path) == 1:
            communication[path[0]] = secret
        else:
            communication[path[0]] = {**communication[path[0]], path[1]: secret}
    return {**merged, PATH: communication}


def hidden_secrets(communication: Mapping[str, Any]) -> list[Fault]:
    """A fault for each secret that is given as `"***"` where nothing can be stored for it."""
    return [_hidden(path) for path in _secrets(communication) if _at(communication, path) == HIDDEN]


def not_carried(old: Meter, patch: Mapping[str, Any], new: Meter) -> list[Fault]:
    """A fault for each stored secret that an update would send elsewhere, or to whom it may be.

    Another certificate that is trusted, or none that is asked for, is another line.
    """
    if old.communication.endpoint == new.communication.endpoint:
        return []
    return [
        Fault(
            ".".join((PATH, *path)),
            "must be given again: the update leads elsewhere or trusts other certificates, and a "
            "stored secret goes only where it was given for",
        )
        for path in _secrets(new.document[PATH])
        if _at(patch, (PATH, *path)) in (None, HIDDEN)
    ]


def _hidden(path: _Path) -> Fault:
    return Fault(
        ".".join((PATH, *path)),
        f"hides a secret that is stored, and none is ({HIDDEN!r}); give the secret",
    )


def _secrets(communication: Mapping[str, Any]) -> Iterator[_Path]:
    for name in _KEYS:
        if name in communication:
            yield (name,)
    headers = communication.get("headers")
    if isinstance(headers, dict):
        for name in headers:
            if _HEADER.search(name):
                yield "headers", name


def _at(communication: Mapping[str, Any], path: _Path) -> Any:
    value: Any = communication
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
