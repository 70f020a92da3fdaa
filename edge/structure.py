"""Untyped documents (TOML tables, JSON objects) into attrs classes, with every fault at once.

One attrs field is one key; `key()` declares its default and its check. cattrs walks the document;
this module makes it strict (no silent `int("3")`, `True` is no number, an unknown key is a fault
that names the nearest known one) and turns its error tree into a flat list of faults with paths a
person recognises. A key that is null counts as one that is not there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, mapping_structure_factory, override

from edge.errors import Fault, Faulty

T = TypeVar("T")
Check = Callable[[Any], None]

_CHECK = "edge.check"
_SECRET = "edge.secret"

_SHOWN_CHARACTERS = 60
_SHOWN_UNKNOWN_KEYS = 20


def key(default: Any = attrs.NOTHING, *, check: Check | None = None, secret: bool = False) -> Any:
    """Declare one key. check: called with the value, raises ValueError with a sentence.

    secret: text that no fault and no repr shows.
    """
    return attrs.field(default=default, repr=not secret, metadata={_CHECK: check, _SECRET: secret})


def camel_case(name: str) -> str:
    """`poll_interval` → `pollInterval`, the spelling of the REST API."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def check_of(attribute: attrs.Attribute[Any]) -> Check | None:
    """The check that a key was declared with."""
    check: Check | None = attribute.metadata.get(_CHECK)
    return check


def is_secret(attribute: attrs.Attribute[Any]) -> bool:
    """Whether a key was declared as secret."""
    return bool(attribute.metadata.get(_SECRET))


def keys_of(cls: type, spell: Callable[[str], str] = str) -> dict[str, attrs.Attribute[Any]]:
    """Outward key → attrs field of a class made with `key()`, in order."""
    return {spell(attribute.name): attribute for attribute in attrs.fields(cls)}


def structure(cls: type[T], document: Any, spell: Callable[[str], str] = str) -> T:
    """Make a `cls` from a document.

    spell: field name → key.
    Raises Faulty with every fault.
    """
    try:
        return _converter(spell).structure(document, cls)
    except (ValueError, cattrs.BaseValidationError) as exc:
        raise Faulty(list(_faults(exc, "", spell))) from None


def structure_sound(
    cls: type[T],
    document: Any,
    spell: Callable[[str], str] = str,
    stand_ins: Mapping[str, Any] | None = None,
) -> tuple[T | None, tuple[Fault, ...]]:
    """As `structure`, but give what is sound beside the faults, for checks that span keys.

    A faulty key takes its default; stand_ins holds one for each key that must be given.
    None when the document is no table at all.
    """
    try:
        return structure(cls, document, spell), ()
    except Faulty as exc:
        faults = exc.faults
    if not isinstance(document, dict):
        return None, faults
    faulty = {fault.path for fault in faults}
    sound = dict(_sound_keys(cls, document, faulty, spell))
    return structure(cls, {**(stand_ins or {}), **sound}, spell), faults


def merge_patch(document: Any, patch: Any) -> Any:
    """Apply a JSON Merge Patch. Source: RFC 7396, section 2. Neither argument is changed.

    Not recursive as in the RFC, so that no depth of nesting can exhaust the stack.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    to_merge = [(merged, patch)]
    while to_merge:
        target, changes = to_merge.pop()
        for name, value in changes.items():
            if value is None:
                target.pop(name, None)
            elif isinstance(value, dict):
                old = target.get(name)
                target[name] = dict(old) if isinstance(old, dict) else {}
                to_merge.append((target[name], value))
            else:
                target[name] = value
    return merged


def unknown_keys(
    names: Iterable[str],
    known: Iterable[str],
    path: str = "",
    patterns: Mapping[str, Iterable[str]] | None = None,
) -> Iterator[Fault]:
    """The faults for keys that nobody reads, with the nearest ones that somebody does.

    patterns: how to say known keys that are made alike, like `<quantity>Scale`, and what they are.
    A document full of unknown keys gets a fault for the first few, and one that counts the rest.
    """
    patterns = patterns or {}
    names, known = sorted(names), sorted(known)
    every = [*known, *(name for made in patterns.values() for name in made)]
    for name in names[:_SHOWN_UNKNOWN_KEYS]:
        hint = nearest(name, every) or "; known here: " + ", ".join([*known, *patterns])
        yield Fault(_join(path, name), f"unknown key{hint}")
    more = len(names) - _SHOWN_UNKNOWN_KEYS
    if more > 0:
        yield Fault(path, f"{more} more unknown keys; leave them out")


def shown(value: Any) -> str:
    """Say a value in a message: as it was given, but printable and never long."""
    if isinstance(value, str):
        quoted = repr(value[:_SHOWN_CHARACTERS])
        return quoted if len(value) <= _SHOWN_CHARACTERS else f"{quoted[:-1]}…{quoted[-1]}"
    if isinstance(value, dict):
        return "a table or object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return "so large a number" if abs(value) >= 10**20 else f"{value:,}"
    return str(value)


_converters: dict[Callable[[str], str], cattrs.Converter] = {}


def _converter(spell: Callable[[str], str]) -> cattrs.Converter:
    if spell not in _converters:
        _converters[spell] = _make_converter(spell)
    return _converters[spell]


def _make_converter(spell: Callable[[str], str]) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(bool, _exact(bool, "true or false"))
    converter.register_structure_hook(str, _exact(str, "text"))
    converter.register_structure_hook(int, _whole_number)
    converter.register_structure_hook(float, _number)

    def table_hook(type_: Any) -> Callable[[Any, Any], Any]:
        structure_table = mapping_structure_factory(type_, converter)

        def hook(value: Any, type_: Any) -> Any:
            if not isinstance(value, dict):
                raise ValueError(f"must be a table or object, not {shown(value)}")
            return structure_table(value, type_)

        return hook

    def attrs_hook(cls: type) -> Callable[[Any, Any], Any]:
        overrides = {
            attribute.name: override(
                rename=spell(attribute.name), struct_hook=_checked(converter, attribute)
            )
            for attribute in attrs.fields(attrs.resolve_types(cls))
        }
        structure_fields: Callable[[Any, Any], Any] = make_dict_structure_fn(
            cls,
            converter,
            **overrides,  # type: ignore[arg-type]
        )

        def hook(value: Any, type_: Any) -> Any:
            if not isinstance(value, dict):
                raise ValueError(f"must be a table or object, not {shown(value)}")
            given = {name: inner for name, inner in value.items() if inner is not None}
            return structure_fields(given, type_)

        return hook

    converter.register_structure_hook_factory(attrs.has, attrs_hook)
    converter.register_structure_hook_factory(_is_table, table_hook)
    return converter


def _checked(
    converter: cattrs.Converter, attribute: attrs.Attribute[Any]
) -> Callable[[Any, Any], Any]:
    check, secret = check_of(attribute), is_secret(attribute)

    def hook(value: Any, type_: Any) -> Any:
        if secret and type(value) is not str:
            raise ValueError("must be text")
        result = value if type_ is Any else converter.structure(value, type_)
        if check is not None and result is not None:
            check(result)
        return result

    return hook


def _exact(wanted: type, description: str) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _type: Any) -> Any:
        if type(value) is not wanted:
            raise ValueError(f"must be {description}, not {shown(value)}")
        return value

    return hook


def _whole_number(value: Any, _type: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise ValueError(f"must be a whole number, not {shown(value)}")
    return value


def _number(value: Any, _type: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"must be a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def _sound_keys(
    cls: type,
    document: Mapping[str, Any],
    faulty: set[str],
    spell: Callable[[str], str],
    path: str = "",
) -> Iterator[tuple[str, Any]]:
    for name, attribute in keys_of(cls, spell).items():
        where = _join(path, name)
        value = document.get(name)
        if value is None or where in faulty:
            continue
        inner = attribute.type
        if inner is not None and attrs.has(inner):
            value = dict(_sound_keys(inner, value, faulty, spell, where))
        elif (entry := _entry_class(inner)) is not None:
            value = {
                inner_name: dict(_sound_keys(entry, table, faulty, spell, _join(where, inner_name)))
                for inner_name, table in value.items()
                if _join(where, inner_name) not in faulty
            }
        yield name, value


def _is_table(type_: Any) -> bool:
    return _entry_class(type_) is not None


def _entry_class(type_: Any) -> type | None:
    """The class of a table's entries, where a key is a table of such by name."""
    entry = get_args(type_)[1] if get_origin(type_) is dict else None
    return entry if entry is not None and attrs.has(entry) else None


def _faults(exc: BaseException, path: str, spell: Callable[[str], str]) -> Iterator[Fault]:
    if isinstance(exc, ForbiddenExtraKeysError):
        yield from unknown_keys(map(str, exc.extra_fields), keys_of(exc.cl, spell), path)
    elif isinstance(exc, cattrs.BaseValidationError):
        for inner in exc.exceptions:
            yield from _faults(inner, _inner_path(inner, exc, path, spell), spell)
    elif isinstance(exc, KeyError):
        yield Fault(path, "is missing; give it")
    elif isinstance(exc, ValueError):
        yield Fault(path, str(exc))
    else:  # a bug in a check, and no fault of the document
        raise exc


def _inner_path(
    exc: BaseException,
    outer: cattrs.BaseValidationError,
    path: str,
    spell: Callable[[str], str],
) -> str:
    for note in getattr(exc, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            for name, attribute in keys_of(outer.cl, spell).items():
                if attribute.name == note.name:
                    return _join(path, name)
        if isinstance(note, IterableValidationNote):
            return _join(path, str(note.index))
    return path


def _join(path: str, name: str) -> str:
    if not name.isprintable() or len(name) > _SHOWN_CHARACTERS:
        name = shown(name)
    return f"{path}.{name}" if path else name


def nearest(value: str, choices: Iterable[Any]) -> str:
    """Give the end of a sentence that names the choice nearest to a value, empty if none is."""
    spelled = {str(choice).casefold(): str(choice) for choice in choices}
    near = difflib.get_close_matches(value.casefold(), spelled, n=1)
    return f"; did you mean {spelled[near[0]]!r}?" if near else ""
