"""Types as JSON Schema: of answers from their shapes, of requests from the keys that are read.

A schema of a request is never stricter than the service, since what is refused by who holds it
against the schema is never asked. Rules that span keys are the service's alone, which names faults.

Source: JSON Schema 2020-12, as OpenAPI 3.1 takes it.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import attrs

from edge.checks import Rule
from edge.meterspec import PROTOCOLS, RegistrationKeys
from edge.meterspec.keys import PATH, SCALE_KEYS, scale
from edge.meterspec.modbus import REGISTER_NAMES, RegisterKeys
from edge.shapes import Schema
from edge.structure import Check, camel_case, check_of, is_secret, keys_of

JsonSchema = dict[str, Any]

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Schemas:
    """Makes schemas; those with a name are gathered in `components`, and referred to."""

    def __init__(self) -> None:
        self.components: dict[str, JsonSchema] = {}

    def of(self, type_: Any) -> JsonSchema:
        """Give the schema of what an answer holds: a TypedDict, a list, a number and so on."""
        origin, arguments = get_origin(type_), get_args(type_)
        if origin is Annotated:
            return _noted(self.of(arguments[0]), arguments[1:])
        if origin in (Union, types.UnionType):
            given = [self.of(one) for one in arguments if one is not type(None)]
            schema = given[0] if len(given) == 1 else {"anyOf": given}
            return _nullable(schema) if len(given) < len(arguments) else schema
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if is_typeddict(type_):
            return self._named(type_.__name__, lambda: self._typed_dict(type_))
        return {} if type_ is Any else {"type": _NAMES[type_]}

    def of_body(self, cls: type) -> JsonSchema:
        """Give the schema of a body that is structured as an attrs class."""
        if cls is not RegistrationKeys:
            return self._named(cls.__name__, lambda: self._keys(cls))
        variants = {protocol: self._registration(protocol) for protocol in PROTOCOLS}
        mapping = {protocol: variant["$ref"] for protocol, variant in variants.items()}
        discriminator = {"propertyName": "protocol", "mapping": mapping}
        one_of = {"oneOf": list(variants.values()), "discriminator": discriminator}
        return self._named("Registration", lambda: one_of)

    def of_patch(self) -> JsonSchema:
        """Give the schema of a merge patch to a registration."""
        inner = [self._communication(protocol, patch=True) for protocol in PROTOCOLS]

        def make() -> JsonSchema:
            schema = self._keys(RegistrationKeys, {PATH: {"anyOf": inner}}, patch=True)
            schema["properties"]["protocol"]["enum"] = list(PROTOCOLS)
            about = "What changes: a key that is absent stays as it is, and null removes it."
            return {**schema, "description": about}

        return self._named("RegistrationPatch", make)

    def _named(self, name: str, make: Callable[[], JsonSchema]) -> JsonSchema:
        if name not in self.components:
            self.components[name] = make()
        return {"$ref": f"#/components/schemas/{name}"}

    def _typed_dict(self, cls: Any) -> JsonSchema:
        hints = get_type_hints(cls, include_extras=True)
        return {
            "type": "object",
            "description": inspect.getdoc(cls),
            "properties": {name: self.of(hint) for name, hint in hints.items()},
            "required": [name for name in hints if name in cls.__required_keys__],
            "additionalProperties": False,
        }

    # --- Keys that are read ----------------------------------------------------------------------

    def _registration(self, protocol: str) -> JsonSchema:
        def make() -> JsonSchema:
            inner = {PATH: self._communication(protocol, patch=False)}
            schema = self._keys(RegistrationKeys, inner)
            schema["properties"]["protocol"]["const"] = protocol
            return schema

        return self._named(f"{protocol.capitalize()}Registration", make)

    def _communication(self, protocol: str, *, patch: bool) -> JsonSchema:
        """How a meter is reached: said in full, or by a template and its parameters."""

        def make() -> JsonSchema:
            row = PROTOCOLS[protocol]
            special = {}
            if protocol == "modbus":
                special["registers"] = _nullable(self._registers(patch=patch))
            schema = self._keys(row.keys, special, patch=patch)
            for name, check in row.quantity_keys.items():
                schema["properties"][name] = self._of_check(check)
            schema["properties"]["template"] = {
                "type": ["string", "null"],
                "description": "a name of the device library; GET /api/templates lists them",
            }
            schema["additionalProperties"] = {
                "type": ["string", "integer", "null"],
                "description": "a parameter of the template",
            }
            if required := schema.pop("required"):
                schema["anyOf"] = [{"required": required}, {"required": ["template"]}]
                schema["properties"].update(
                    {name: _nullable(schema["properties"][name]) for name in required}
                )
            return schema

        end = "Patch" if patch else ""
        return self._named(f"{protocol.capitalize()}Communication{end}", make)

    def _registers(self, *, patch: bool) -> JsonSchema:
        """`registers` of a Modbus meter: for each quantity an address, or an entry in full."""
        end = "Patch" if patch else ""
        keys = self._named(f"RegisterEntryKeys{end}", lambda: self._keys(RegisterKeys, patch=patch))
        address = self._keys(RegisterKeys)["properties"]["address"]
        register = self._named(
            f"Register{end}", lambda: {"anyOf": [address, keys, {"type": "null"}]}
        )
        return {
            "type": "object",
            "properties": {
                **dict.fromkeys(REGISTER_NAMES, register),
                **dict.fromkeys(SCALE_KEYS, self._of_check(scale)),
            },
            "additionalProperties": False,
        }

    def _of_check(self, check: Check) -> JsonSchema:
        """The schema of a key that many have; it may be null, which is as if it were not there."""
        assert isinstance(check, Rule)
        name = camel_case(f"_{check.check.__name__}")
        return self._named(name, lambda: _nullable(dict(check.schema)))

    def _keys(
        self, cls: type, special: Mapping[str, JsonSchema] | None = None, *, patch: bool = False
    ) -> JsonSchema:
        """An attrs class made with `key()`. special: schemas of keys that have no type to tell.

        What has a default may be null, which takes it. Of a patch, nothing is required, and a key
        that is needed can still not be taken away.
        """
        keys = keys_of(attrs.resolve_types(cls), camel_case)
        needed = [name for name, key in keys.items() if key.default is attrs.NOTHING]
        properties = {}
        for name, key in keys.items():
            schema = (special or {}).get(name) or _key(key, patch=patch)
            properties[name] = schema if name in needed else _nullable(schema)
        return {
            "type": "object",
            "description": inspect.getdoc(cls),
            "properties": properties,
            "required": [] if patch else needed,
            "additionalProperties": False,
        }


def _key(key: attrs.Attribute[Any], *, patch: bool) -> JsonSchema:
    check = check_of(key)
    types_ = [type_ for type_ in (get_args(key.type) or (key.type,)) if type_ is not type(None)]
    schema: JsonSchema = {"type": _NAMES[types_[0]]} if types_[0] in _NAMES else {}
    schema.update(check.schema if isinstance(check, Rule) else {})
    if key.default not in (attrs.NOTHING, None) and not patch:
        schema["default"] = key.default
    if is_secret(key):
        schema["writeOnly"] = True
    return schema


def _noted(schema: JsonSchema, notes: tuple[Any, ...]) -> JsonSchema:
    """Add what `Annotated` says of a type."""
    for note in notes:
        if isinstance(note, str):
            schema = {**schema, "description": note}
        elif isinstance(note, Schema):
            schema = {**schema, **note.schema}
        elif issubclass(note, Enum):
            words: list[Any] = [each.value for each in note]
            schema = {**schema, "enum": words + [None] * ("null" in schema["type"])}
    return schema


def _nullable(schema: JsonSchema) -> JsonSchema:
    """Allow null, too."""
    if "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    given = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "null" in given:
        return schema
    schema = {**schema, "type": [*given, "null"]}
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema
