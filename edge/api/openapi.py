"""The API's description as OpenAPI 3.1, made of the table of calls and the classes behind it.

What routes and validates a call is what describes it. Here stands only what no call has of its own:
what holds for all of them, what the values in paths are, and how one says who asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, get_origin

from edge import __version__, shapes
from edge.api import Access
from edge.api.http1 import JSON_TYPES
from edge.api.refusals import (
    OF_A_BODY,
    OF_A_CHANGE,
    OF_A_CYCLE,
    OF_A_QUERY,
    OF_AN_ADMIN,
    OF_ANY_CALL,
    PROVING,
    REFUSALS,
)
from edge.api.route import Route
from edge.api.schemas import Schemas
from edge.api.sessions import COOKIE, SECURE_COOKIE
from edge.structure import camel_case

Json = dict[str, Any]

_ABOUT = (
    "Reads energy meters and says how much power is free for charging cars.\n\n"
    "A value that is unknown is null, never 0. Power is in kW, energy in kWh, times are RFC 3339 "
    "in UTC. Positive power flows into what the meter measures.\n\n"
    "HEAD works where GET does. A path that is asked with another method than it has answers 405 "
    "and says in `Allow` which it has."
)
_PATH_VALUES = {
    "id": "of a meter: `meter_` with letters and digits behind it",
    "name": "of a template",
    "hash": "of all files of the pages",
    "file": "a name without a path",
}
_SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `dlm-edge token add`. Needed once there is one.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": f"Set by POST /api/login, over HTTPS as `{SECURE_COOKIE}`; what changes "
        "something needs the header `X-CSRF-Token`, too, with the `csrfToken` of GET /api/session.",
    },
}
_JSON = "application/json"


def describe(routes: Sequence[Route]) -> Json:
    """Give the OpenAPI document of all calls."""
    schemas = Schemas()
    failure = schemas.of(shapes.Failure)
    responses: dict[str, Json] = {}
    paths: dict[str, Json] = {}
    for route in routes:
        answers = {str(status): _answer(route, status, schemas) for status in route.statuses}
        if 201 in route.statuses:
            answers["201"].update(_about_new(route, routes))
        for status, codes in _by_status(refusals_of(route)):
            name = ".".join((str(status), *codes))
            responses.setdefault(name, _refused(status, codes, failure))
            answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
        paths.setdefault(route.path, {})[route.method.lower()] = {
            "operationId": _operation_id(route),
            "tags": [_tag(route)],
            "summary": route.summary,
            "description": route.description,
            "security": _security(route),
            **_parameters(route),
            **_body(route, schemas),
            "responses": answers,
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "DLM Edge", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": responses,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def refusals_of(route: Route) -> tuple[str, ...]:
    """The codes of all refusals that a call may meet with."""
    codes = [*OF_ANY_CALL, *route.refuses]
    if route.query:
        codes += OF_A_QUERY
    if route.method != "GET":
        codes += OF_A_CHANGE
    if route.takes is not None:
        codes += OF_A_BODY
    if not route.always:
        codes += OF_A_CYCLE
    if route.needs is not Access.PUBLIC:
        codes += PROVING
    if route.needs is Access.ADMIN:
        codes += OF_AN_ADMIN
    if "{" in route.path:
        codes.append("NOT_FOUND")  # a value with a slash leads elsewhere
    return tuple(code for code in REFUSALS if code in codes)


def _operation_id(route: Route) -> str:
    return camel_case(route.answer.__name__)


def _tag(route: Route) -> str:
    """The first word of the path behind `/api/`; the rest is about the service."""
    match = re.match(r"/api/([a-z-]+)", route.path)
    return match[1] if match else "service"


def _security(route: Route) -> list[Json]:
    if route.needs is Access.PUBLIC:
        return []
    roles = ["admin"] if route.needs is Access.ADMIN else ["reader", "admin"]
    return [{"token": roles}, {"session": roles}]


def _parameters(route: Route) -> Json:
    named = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_VALUES[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    asked = [
        {
            "name": key.name,
            "in": "query",
            "description": key.about,
            "allowEmptyValue": True,
            "schema": key.schema,
        }
        for key in route.query
    ]
    return {"parameters": named + asked} if named or asked else {}


def _body(route: Route, schemas: Schemas) -> Json:
    if route.takes is None:
        return {}
    if route.method == "PUT":
        content = {media: {"schema": schemas.of_patch()} for media in JSON_TYPES}
    else:
        content = {_JSON: {"schema": schemas.of_body(route.takes)}}
    return {"requestBody": {"required": True, "content": content}}


def _answer(route: Route, status: int, schemas: Schemas) -> Json:
    content: Json = {media: {} for media in route.media}
    if route.shape is not None:
        content[_JSON] = {"schema": _success(route, schemas)}
    without_body = status < 200 or status in (204, 304)
    said = {} if without_body or not content else {"content": content}
    return {"description": HTTPStatus(status).phrase, **said}


def _success(route: Route, schemas: Schemas) -> Json:
    """The shape of an answer around its `data`."""
    properties: Json = {"success": {"type": "boolean", "const": True}}
    properties["data"] = schemas.of(route.shape)
    if get_origin(route.shape) is list:
        properties["count"] = {"type": "integer", "minimum": 0}
    if route.paged:
        about = "`cursor` of the next page; null behind the last one"
        properties["next"] = {"type": ["string", "null"], "description": about}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _about_new(route: Route, routes: Iterable[Route]) -> Json:
    """Where what was made is found, and which calls are about it."""
    location = {"required": True, "schema": {"type": "string", "format": "uri-reference"}}
    about = {
        _operation_id(other): {
            "operationId": _operation_id(other),
            "parameters": {"id": "$response.body#/data/id"},
        }
        for other in routes
        if other.path.startswith(f"{route.path}/{{id}}")
    }
    return {"headers": {"Location": location}, "links": about}


def _by_status(codes: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(REFUSALS[code].status, []).append(code)
    for status, group in by_status.items():
        yield status, tuple(group)


def _refused(status: int, codes: Sequence[str], failure: Mapping[str, Any]) -> Json:
    lines = [f"- `{code}`: {REFUSALS[code].about}" for code in codes]
    named = {name for code in codes for name in REFUSALS[code].headers}
    headers = {name: {"schema": {"type": "string"}} for name in sorted(named)}
    code = {"properties": {"code": {"enum": list(codes)}}}
    return {
        "description": "\n".join((HTTPStatus(status).phrase, "", *lines)),
        **({"headers": headers} if headers else {}),
        "content": {_JSON: {"schema": {"allOf": [failure, code]}}},
    }
