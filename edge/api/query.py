"""The query of a request: what its keys may be, said once, and read with every fault at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge.api import Request
from edge.errors import Fault, RequestError
from edge.structure import nearest, shown, unknown_keys
from edge.times import parse_time

_Value = TypeVar("_Value")
_Default = TypeVar("_Default")
_TIME: Mapping[str, Any] = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "integer", "minimum": 0, "description": "unix time, ms"},
    ]
}


@dataclass(frozen=True)
class Query(Generic[_Value]):
    """A key of the query.

    schema: JSON Schema of what it may be, which refuses nothing sound. parse: reads its text;
    raises ValueError with a sentence. default: what it is when it is not given.
    """

    name: str
    about: str
    schema: Mapping[str, Any]
    parse: Callable[[str], _Value]
    default: _Value


def whole(
    name: str, about: str, least: int, most: int, *, default: _Default
) -> Query[int | _Default]:
    """Make a key that is a whole number."""

    def parse(text: str) -> int:
        sound = text.isascii() and text.isdigit() and len(text) < 12
        if not (sound and least <= int(text) <= most):
            raise ValueError(
                f"must be a whole number from {least:,} to {most:,}, not {shown(text)}"
            )
        return int(text)

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Query(name, about, _with_default(schema, default), parse, default)


def words(
    name: str, about: str, known: Sequence[str], *, default: _Default
) -> Query[str | _Default]:
    """Make a key that is one of some words."""

    def parse(text: str) -> str:
        if text not in known:
            near = nearest(text, known)
            raise ValueError(f"must be {' | '.join(known)}, not {shown(text)}{near}")
        return text

    schema = {"type": "string", "enum": list(known)}
    return Query(name, about, _with_default(schema, default), parse, default)


def flag(name: str, about: str) -> Query[bool]:
    """Make a key that is `true` or, by default, `false`."""

    def parse(text: str) -> bool:
        if text not in ("true", "false"):
            raise ValueError(f"must be true or false, not {shown(text)}")
        return text == "true"

    return Query(name, about, {"type": "boolean", "default": False}, parse, default=False)


def moment(name: str, about: str) -> Query[int | None]:
    """Make a key that is a time, unix ms; by default none."""
    return Query(name, about, _TIME, parse_time, None)


TO = moment("to", "Where it ends, by default now; not part of it.")


class QueryReader:
    """Reads the query of one request, and collects what is wrong with it.

    keys: those that the call knows. What is given as nothing (`?limit=`) is not given.
    """

    def __init__(self, request: Request, keys: tuple[Query[Any], ...]) -> None:
        names = [key.name for key in keys]
        unknown = [name for name in request.query if name not in names]
        self.faults = list(unknown_keys(unknown, names))
        self._query = {name: value for name, value in request.query.items() if value}

    def value(self, key: Query[_Value]) -> _Value:
        """Read one; its default where it is not given or faulty."""
        if key.name in self._query:
            try:
                return key.parse(self._query[key.name])
            except ValueError as error:
                self.faults.append(Fault(key.name, str(error)))
        return key.default

    def span(self, begin: Query[int | None], now_ms: int, default_ms: int) -> tuple[int, int]:
        """Read begin and `to`, unix ms; by default the last default_ms until now."""
        to_ms = self.value(TO)
        from_ms = self.value(begin)
        if to_ms is None:
            to_ms = now_ms + 1
        if from_ms is None:
            from_ms = to_ms - default_ms
        if from_ms > to_ms and not self.faults:
            self.faults.append(Fault(begin.name, f"must not be later than '{TO.name}'"))
        return from_ms, to_ms

    def check(self) -> None:
        """Raise RequestError 400 with all faults, if there are any."""
        if self.faults:
            message = "The query has faults; correct what `details` lists."
            raise RequestError(400, "VALIDATION_ERROR", message, self.faults)


def _with_default(schema: Mapping[str, Any], default: object) -> Mapping[str, Any]:
    return schema if default is None else {**schema, "default": default}
