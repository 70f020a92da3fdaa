"""JSON documents: those that come as the body of a request, and those that answer one."""

from __future__ import annotations

import json
from typing import Any

from edge import render
from edge.api import Request, Response
from edge.errors import RequestError
from edge.structure import shown

_MOST_DIGITS = 400
"""Of a whole number: as a float it could not be finite beyond. Longer ones cost time to read."""


def answer(data: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Make an answer in the shape of a success."""
    return Response(status, render.dump(render.success(data)), headers=headers)


def json_body(request: Request) -> Any:
    """Give the JSON value of a body. Raises RequestError 400 MALFORMED_JSON."""
    try:
        return json.loads(
            request.body,
            parse_constant=_no_constant,
            parse_int=_number,
            object_pairs_hook=_object_of_unique_keys,
        )
    except RecursionError:
        why = "it is nested too deeply"
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except ValueError as exc:
        why = str(exc)
    raise RequestError(400, "MALFORMED_JSON", f"The body is not valid JSON: {why}; fix it.")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has more than {_MOST_DIGITS} digits")
    return int(digits)


def _object_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise ValueError(f"the key {shown(name)} appears twice")
        document[name] = value
    return document
