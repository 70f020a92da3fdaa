"""Secrets in a registration: shown as `"***"`, kept when that is sent back, never sent elsewhere.

They are the keys of `communication` that hold one by their nature, and what stands under a name
that says so: headers, fields of `body` and whatever they hold, parameters of a template, values in
the query of `url`. A `body` that is text is hidden as a whole when a word in it is such a name.
Where a part of a text or list is hidden, only the whole of it, just as it was shown, stands for
what is stored. Who may change a registration shall not thereby learn its secrets: a stored secret
goes only to the line that it was given for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from edge.errors import Fault
from edge.meterspec.http import HttpKeys
from edge.meterspec.keys import PATH
from edge.meterspec.modbus import ModbusKeys
from edge.meterspec.mqtt import MqttKeys
from edge.model import Meter
from edge.structure import camel_case, keys_of, shown

HIDDEN = "***"

_KEYS = frozenset(
    name
    for keys in (ModbusKeys, MqttKeys, HttpKeys)
    for name, attribute in keys_of(keys, camel_case).items()
    if not attribute.repr  # as `key(secret=True)` makes it
)
_NAME = re.compile(
    r"auth|token|secret|pass|pwd|cookie|credential|signature|session|key(?!s\b)", re.I
)
"""Not `keys`: in a body they are what is asked for."""
_FIELD_NAME = re.compile(r"(?:^|;)([^=;]*)=")
"""In a part of a query: some servers take `;` for `&`."""
_DEEPEST = 32
"""Levels that are looked at; a registration that is valid has fewer."""
_LONGEST_NAME = 100

_Path = tuple[str | int, ...]
"""Keys of objects and places in lists."""


def redacted(communication: Mapping[str, Any]) -> dict[str, Any]:
    """Give a registration's `communication` with its secrets hidden."""
    hidden = dict(_secrets(communication))
    return {name: _shown(value, (name,), hidden) for name, value in communication.items()}


def carry_over(old: Mapping[str, Any], merged: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put stored secrets where an update has what hides them; where none is stored, that stays.

    old: the registration document; merged: the update applied to it. Gives the new document.
    """
    communication, stored = merged.get(PATH), old.get(PATH)
    if not isinstance(communication, dict) or not isinstance(stored, dict):
        return merged
    return {**merged, PATH: _carried(communication, redacted(stored), stored)}


def hidden_secrets(communication: Mapping[str, Any]) -> list[Fault]:
    """A fault for each secret that is given as `"***"` where nothing can be stored for it."""
    return [
        _hidden(path)
        for path, _ in _secrets(communication)
        if _is_hidden(path, _at(communication, path))
    ]


def not_carried(old: Meter, patch: Mapping[str, Any], new: Meter) -> list[Fault]:
    """A fault for each stored secret that an update would send elsewhere, or to whom it may be.

    Another certificate that is trusted, or none that is asked for, is another line.
    """
    if old.communication.endpoint == new.communication.endpoint:
        return []
    return [
        Fault(
            _spelled(path),
            "must be given again: the update leads elsewhere or trusts other certificates, and a "
            "stored secret goes only where it was given for",
        )
        for path, _ in _secrets(new.document[PATH])
        if _is_hidden(path, _at(patch, (PATH, *path)))
    ]


def secrets_in_body(body: Any) -> list[str]:
    """Give what is hidden of a body, of any JSON value."""
    document = {"body": body}
    return [str(_at(document, path)) for path, _ in _secrets(document)]


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name is hidden."""
    return name in _KEYS or _NAME.search(name) is not None


def _secrets(value: Any, path: _Path = (), *, inside: bool = False) -> Iterator[tuple[_Path, Any]]:
    """Where the secrets are, and what hides each. inside: under a name that says so."""
    if isinstance(value, dict | list):
        if len(path) < _DEEPEST:
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                secret = inside or (isinstance(name, str) and is_secret_name(name))
                yield from _secrets(inner, (*path, name), inside=secret)
    elif inside:
        if value is not None:
            yield path, HIDDEN
    elif isinstance(value, str) and path:
        hidden = _hidden_text(path[-1], value)
        if hidden is not None:
            yield path, hidden


def _shown(value: Any, path: _Path, hidden: Mapping[_Path, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _shown(inner, (*path, name), hidden) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner, (*path, place), hidden) for place, inner in enumerate(value)]
    return hidden.get(path, value)


def _hidden_text(name: str | int, text: str) -> str | None:
    """How a text of this name is shown, if there is a secret in it."""
    if name == "body" and (text == HIDDEN or _NAME.search(text)):
        return HIDDEN
    if name != "url":
        return None
    address, _, query = text.partition("?")
    fields = query.split("&")
    begins = list(map(_secret_begins, fields))
    if not any(begins):
        return None
    pairs = zip(fields, begins, strict=True)
    return f"{address}?" + "&".join(f"{field[:at]}{HIDDEN}" if at else field for field, at in pairs)


def _secret_begins(field: str) -> int | None:
    """Where the secret in a field of a query begins, if there is one."""
    names = _FIELD_NAME.finditer(field)
    return next((name.end() for name in names if is_secret_name(unquote(name[1]))), None)


def _is_hidden(path: _Path, value: Any) -> bool:
    """Whether no secret is given there, but what hides one, or nothing (None)."""
    if path[-1] == "url" and isinstance(value, str):
        for field in value.partition("?")[2].split("&"):
            begin = _secret_begins(field)
            if begin is not None and field[begin:] == HIDDEN:
                return True
    return value is None or value == HIDDEN


def _carried(given: Any, hiding: Any, stored: Any) -> Any:
    """What is given, but what is stored where that is given as it is shown."""
    if isinstance(given, dict) and isinstance(stored, dict):
        return {
            name: _carried(value, hiding[name], stored[name]) if name in stored else value
            for name, value in given.items()
        }
    return stored if given == hiding != stored else given


def _hidden(path: _Path) -> Fault:
    if path[-1] == "url":
        message = f"hides a secret ({HIDDEN!r}), which only the url as it was shown stands for"
    else:
        message = f"hides a secret that is stored, and none is ({HIDDEN!r})"
    return Fault(_spelled(path), f"{message}; give the secret")


def _spelled(path: _Path) -> str:
    names = [PATH, *map(str, path)]
    return ".".join(
        name if name.isprintable() and len(name) <= _LONGEST_NAME else shown(name) for name in names
    )


def _at(document: Mapping[str, Any], path: Sequence[str | int]) -> Any:
    value: Any = document
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and isinstance(name, int) and name < len(value):
            value = value[name]
        else:
            return None
    return value
