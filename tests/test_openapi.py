"""The API's description: complete, valid OpenAPI, and never stricter or looser than the service."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import validate

from edge import shapes
from edge.api import Access, Response
from edge.api.openapi import describe, refusals_of
from edge.api.refusals import REFUSALS
from edge.api.route import Route
from edge.api.routes import ROUTES
from edge.checks import Rule, between, host, one_of, text
from edge.errors import Faulty
from edge.library import Library
from edge.meterspec import PROTOCOLS, RegistrationKeys
from edge.meterspec.modbus import RegisterKeys
from edge.model import QUANTITIES
from edge.render import ALWAYS_SHOWN, OUTWARD
from edge.structure import camel_case, check_of, keys_of
from edge.template import expand
from edge.tokenfile import Role
from tests.building import a_registration
from tests.http_peer import http_peer
from tests.modbus_peer import sound_peer
from tests.registrations import JSON_VALUES, parse, some_of
from tests.service import ROOT, Service

DESCRIPTION: dict[str, Any] = json.loads(json.dumps(describe(ROUTES)))
SCHEMAS = DESCRIPTION["components"]["schemas"]

every_row = pytest.mark.parametrize(
    "route", ROUTES, ids=[f"{route.method} {route.path}" for route in ROUTES]
)


def operation_of(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = DESCRIPTION["paths"][route.path][route.method.lower()]
    return operation


def faults_of(document: Any, schema: Any) -> list[str]:
    """What a document has that its schema does not allow, or lacks."""
    whole = {**schema, "components": DESCRIPTION["components"]}
    validator = OAS31Validator(whole, format_checker=oas31_format_checker)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def named(name: str) -> dict[str, str]:
    assert name in SCHEMAS
    return {"$ref": f"#/components/schemas/{name}"}


# --- The description as a whole -------------------------------------------------------------------


def test_it_is_valid_openapi() -> None:
    validate(DESCRIPTION)
    assert DESCRIPTION["openapi"].startswith("3.1.")


@every_row
def test_every_call_says_what_it_is_for_what_it_gives_and_why_it_is_refused(route: Route) -> None:
    operation = operation_of(route)
    assert operation["summary"] == route.summary
    assert operation["description"].endswith(".")
    makes_response = get_type_hints(route.answer)["return"] is Response
    assert route.gives is None or makes_response, "it would be said twice"
    gives_nothing = route.statuses == (101,)
    assert (route.shape is not None or bool(route.media)) is not gives_nothing
    assert set(route.refuses) <= REFUSALS.keys()
    answers = operation["responses"]
    assert {str(status) for status in route.statuses} <= answers.keys()
    assert {str(REFUSALS[code].status) for code in refusals_of(route)} <= answers.keys()
    assert bool(operation["security"]) is (route.needs is not Access.PUBLIC)
    taken = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"]
    assert taken == re.findall(r"\{(\w+)\}", route.path)
    assert ("requestBody" in operation) is (route.takes is not None)


def test_every_call_has_a_name_of_its_own() -> None:
    names = [operation_of(route)["operationId"] for route in ROUTES]
    assert len(names) == len(set(names))


def raised() -> Iterator[tuple[str, int]]:
    """Code and status of every refusal that stands in the source."""
    for path in sorted((ROOT / "edge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "RequestError":
                status, code = (ast.literal_eval(argument) for argument in node.args[:2])
                yield code, status


def test_every_refusal_in_the_source_is_described_and_no_other() -> None:
    assert {(code, one.status) for code, one in REFUSALS.items()} == set(raised())
    statuses = [one.status for one in REFUSALS.values()]
    assert statuses == sorted(statuses)


def test_every_refusal_can_be_met_with() -> None:
    met = {code for route in ROUTES for code in refusals_of(route)}
    assert set(REFUSALS) - met == {"METHOD_NOT_ALLOWED"}, "which no described call is answered with"


def test_an_answer_lists_the_codes_it_may_have() -> None:
    answer = DESCRIPTION["paths"]["/api/energy-meters"]["post"]["responses"]["409"]
    conflict = DESCRIPTION["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    schema = conflict["content"]["application/json"]["schema"]
    refused = {"success": False, "error": "Taken.", "code": "DUPLICATE_NAME", "details": []}
    assert faults_of(refused, schema) == []
    assert faults_of({**refused, "code": "NOT_FOUND"}, schema)
    assert faults_of({**refused, "trace": ""}, schema)


# --- Answers --------------------------------------------------------------------------------------


def test_values_have_the_units_of_their_quantities() -> None:
    hints = get_type_hints(shapes.AllValues, include_extras=True)
    properties = SCHEMAS["Reading"]["properties"]
    assert list(hints) == list(dict.fromkeys([*map(outward, ALWAYS_SHOWN), *hints]))
    assert {name: properties[name].get("description", "") for name in hints} == {
        outward(quantity.name): quantity.unit for quantity in QUANTITIES
    }
    assert shapes.Values.__required_keys__ == set(map(outward, ALWAYS_SHOWN))


def test_a_session_has_one_of_the_roles_that_there_are() -> None:
    assert SCHEMAS["SessionInfo"]["properties"]["role"]["enum"] == [*Role, None]


def outward(name: str) -> str:
    return OUTWARD.get(name, name)


def test_every_answer_of_the_running_service_is_as_described(tmp_path: Path) -> None:
    payload = {"power": 12.5, "energy": 100.0}
    config = (
        '[mqtt.brokers.default]\nhost = "127.0.0.1"\nport = 1\n[journal]\ncommit_interval_s = 0.1\n'
    )
    with (
        sound_peer("tcp") as modbus,
        http_peer(lambda exchange: exchange.give(payload)) as http,
        Service(tmp_path, config=config) as service,
    ):
        registers = {"power": 0, "powerExport": 1, "voltageL1": 2}
        reached = {"host": "127.0.0.1", "port": modbus.endpoint.port, "registers": registers}
        polled = a_registration("Main", communication=reached, pollInterval=200)
        id_ = service.register(polled)["id"]
        asked = {"url": f"http://127.0.0.1:{http.port}/"}
        service.register(a_registration("PV", protocol="http", communication=asked))
        heard = {"protocol": "mqtt", "pollInterval": None, "communication": {"topicPower": "a"}}
        service.register(a_registration("Heard", **heard))
        history = f"/api/energy-meters/{id_}/history"
        service.wait_until(lambda: service.request("GET", history)[1]["count"], "history")
        names = {"id": id_, "name": "shelly-3em"}
        calls = [
            (route, path)
            for route in ROUTES
            if route.method == "GET" and route.shape is not None
            for path in (re.sub(r"\{(\w+)\}", lambda match: names[match[1]], route.path),)
        ]
        assert len(calls) > 10
        for route, path in calls:
            status, answer = service.request("GET", path)
            assert status == 200, answer
            schema = operation_of(route)["responses"]["200"]["content"]["application/json"][
                "schema"
            ]
            assert faults_of(answer, schema) == [], path
        for body in (polled, a_registration(communication={**reached, "port": 1})):
            _, answer = service.request("POST", "/api/energy-meters/test", body)
            assert faults_of(answer["data"], named("Diagnosis")) == []


def test_the_running_service_gives_its_description_and_a_page_to_read_it(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        assert service.request("GET", "/api/openapi.json") == (200, DESCRIPTION)
        status, page = service.request("GET", "/api/docs")
        assert (status, "docs.js" in page, "%HASH%" in page) == (200, True, False)


# --- Requests -------------------------------------------------------------------------------------


def test_a_key_is_described_by_its_check() -> None:
    assert dict(between(1, 5, "kW").schema) == {"minimum": 1, "maximum": 5, "description": "kW"}
    assert dict(one_of("a", "b").schema) == {"enum": ["a", "b"]}
    assert text(9).schema["maxLength"] == 9
    assert SCHEMAS["ModbusCommunication"]["properties"]["unitId"] == {
        "type": ["integer", "null"],
        "minimum": 0,
        "maximum": 255,
        "default": 1,
    }
    assert SCHEMAS["HttpCommunication"]["properties"]["password"]["writeOnly"] is True


@pytest.mark.parametrize(
    "cls", [RegistrationKeys, RegisterKeys, *(row.keys for row in PROTOCOLS.values())]
)
def test_every_key_of_a_registration_says_what_it_may_be(cls: type) -> None:
    for name, attribute in keys_of(attrs.resolve_types(cls), camel_case).items():
        check = check_of(attribute)
        assert check is None or isinstance(check, Rule), name
        assert check is not None or attribute.type in (bool, str), name


@pytest.mark.parametrize("check", [text(5), host], ids=["text", "host"])
@given(value=st.text(max_size=6) | st.sampled_from(["::1", "fe80::1%eth0", "a.b-c", "　", "é"]))
def test_a_check_says_less_than_it_wants_and_never_more(check: Rule, value: str) -> None:
    try:
        check(value)
    except ValueError:
        return
    assert faults_of(value, check.schema) == []


KEYS = {
    protocol: [*keys_of(row.keys, camel_case), *row.quantity_keys, "template"]
    for protocol, row in PROTOCOLS.items()
}
SOUND: dict[str, dict[str, Any]] = {
    "modbus": {"host": "a", "registers": {"power": 0}},
    "mqtt": {"topicPower": "a"},
    "http": {"url": "http://a/"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(st.data())
def test_what_the_service_takes_is_as_described(protocol: str, data: st.DataObject) -> None:
    given_keys = data.draw(some_of(KEYS[protocol]))
    poll = data.draw(st.sampled_from([None, 200, 5000.0, 10**7, "5", True]))
    document = {
        "name": "Main",
        "protocol": protocol,
        "meterType": "grid",
        "pollInterval": poll,
        "communication": {**SOUND[protocol], **given_keys},
    }
    try:
        parse(document)
    except Faulty:
        return
    assert faults_of(document, named("Registration")) == []
    assert faults_of(document, named("RegistrationPatch")) == []


@pytest.mark.parametrize("name", Library())
def test_what_a_template_comes_to_could_have_been_registered(name: str) -> None:
    template = Library()[name]
    own = {key: parameter.example for key, parameter in template.parameters.items()}
    written_out, _ = expand(template, {"template": name, **own})
    schema = named(f"{template.protocol.capitalize()}Communication")
    assert faults_of(written_out, schema) == []
    assert faults_of({"template": name, **own}, schema) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"meterType": "gird"},
        {"protocol": "x25"},
        {"pollInterval": 1},
        {"pollInterval": "5000"},
        {"name": ""},
        {"name": "a\nb"},
        {"colour": "red"},
        {"communication": {"host": "a", "registers": {"power": 70_000}}},
        {"communication": {"host": "a", "registers": {"power": 0, "powerScale": 0}}},
        {"communication": {"host": "a", "registers": {"powr": 0}}},
        {"communication": {"host": "http://a", "registers": {"power": 0}}},
        {"communication": {"host": "a", "registers": {"power": {"adress": 0}}}},
        {"protocol": "mqtt", "communication": {"topicPower": "a/#"}},
        {"protocol": "http", "communication": {"method": "GET"}},
    ],
    ids=str,
)
def test_what_is_wrong_by_itself_is_not_as_described(changes: dict[str, Any]) -> None:
    document = a_registration(**changes)
    with pytest.raises(Faulty):
        parse(document)
    assert faults_of(document, named("Registration"))


@given(st.dictionaries(st.sampled_from([*keys_of(RegistrationKeys, camel_case)]), st.none()))
def test_a_patch_takes_away_what_is_not_needed(patch: dict[str, Any]) -> None:
    needed = {"name", "protocol", "meterType", "communication"}
    assert bool(faults_of(patch, named("RegistrationPatch"))) is bool(needed & patch.keys())


@given(JSON_VALUES)
def test_no_value_breaks_the_schemas(value: Any) -> None:
    assert isinstance(faults_of(value, named("Registration")), list)
