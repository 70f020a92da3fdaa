"""Untyped documents (TOML tables, JSON objects) into attrs classes, with every fault at once.

One attrs field is one key. `key()` declares it: default, check, and its outward spelling where
that is not the field's name. cattrs walks the document; this module makes it strict (no silent
`int("3")`, `True` is no number, an unknown key is a fault that names the nearest known one) and
turns its error tree into a flat list of faults with paths a person recognises.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from edge.errors import Fault

T = TypeVar("T")
Check = Callable[[Any], None]

_KEY = "edge.key"
_CHECK = "edge.check"


class Faulty(Exception):
    """A document that does not fit its class; `faults` lists all that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(str(fault) for fault in self.faults))


def key(
    default: Any = attrs.NOTHING, *, check: Check | None = None, name: str | None = None
) -> Any:
    """Declare one key. check: called with the value, raises ValueError with a sentence."""
    return attrs.field(default=default, metadata={_KEY: name, _CHECK: check})


def camel_case(name: str) -> str:
    """`poll_interval` → `pollInterval`, the spelling of the REST API."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def outward_name(attribute: attrs.Attribute[Any], spell: Callable[[str], str]) -> str:
    """The key by which a document names an attrs field."""
    return attribute.metadata.get(_KEY) or spell(attribute.name)


def keys_of(cls: type, spell: Callable[[str], str] = str) -> dict[str, attrs.Attribute[Any]]:
    """Outward key → attrs field of a class made with `key()`, in order."""
    return {outward_name(attribute, spell): attribute for attribute in attrs.fields(cls)}


def one_of(*choices: Any) -> Check:
    """Check that a value is one of the choices."""

    def check(value: Any) -> None:
        if value not in choices:
            wanted = " | ".join(str(choice) for choice in choices)
            raise ValueError(f"must be {wanted}, not {value!r}{_nearest(value, choices)}")

    return check


def between(low: float, high: float, unit: str = "") -> Check:
    """Check that a number lies in low..high, both allowed."""
    tail = f" {unit}" if unit else ""

    def check(value: Any) -> None:
        if not low <= value <= high:
            raise ValueError(f"must be {low:,} to {high:,}{tail}, not {value:,}")

    return check


def text(longest: int) -> Check:
    """Check that a string is printable, not blank and at most `longest` characters."""

    def check(value: Any) -> None:
        if not value.strip():
            raise ValueError("must not be empty")
        if len(value) > longest:
            raise ValueError(f"must be at most {longest} characters, not {len(value)}")
        if not value.isprintable():
            raise ValueError("must be printable text without line breaks or control characters")

    return check


def structure(cls: type[T], document: Any, spell: Callable[[str], str] = str) -> T:
    """Make a `cls` from a document.

    spell: field name → key, for fields whose `key()` gives no name of its own.
    Raises Faulty with every fault.
    """
    if not isinstance(document, dict):
        raise Faulty([Fault("", f"must be a table of keys, not {_kind(document)}")])
    try:
        return _converter(spell).structure(document, cls)
    except (cattrs.BaseValidationError, ForbiddenExtraKeysError) as exc:
        raise Faulty(list(_faults(exc, "", spell))) from None


def unknown_key(name: str, known: Iterable[str], path: str = "") -> Fault:
    """The fault for a key that nobody reads, with the nearest one that somebody does."""
    known = sorted(known)
    nearest = _nearest(name, known)
    return Fault(
        _join(path, name),
        f"unknown key{nearest or '; known here: ' + ', '.join(known)}",
    )


_converters: dict[Callable[[str], str], cattrs.Converter] = {}


def _converter(spell: Callable[[str], str]) -> cattrs.Converter:
    if spell not in _converters:
        _converters[spell] = _make_converter(spell)
    return _converters[spell]


def _make_converter(spell: Callable[[str], str]) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(bool, _exact(bool, "true or false"))
    converter.register_structure_hook(str, _exact(str, "text in quotes"))
    converter.register_structure_hook(int, _whole_number)
    converter.register_structure_hook(float, _number)

    def attrs_hook(cls: type) -> Callable[[Any, Any], Any]:
        overrides = {
            attribute.name: override(
                rename=outward_name(attribute, spell), struct_hook=_checked(converter, attribute)
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
                raise ValueError(f"must be a table of keys, not {_kind(value)}")
            return structure_fields(value, type_)

        return hook

    converter.register_structure_hook_factory(attrs.has, attrs_hook)
    return converter


def _checked(
    converter: cattrs.Converter, attribute: attrs.Attribute[Any]
) -> Callable[[Any, Any], Any]:
    check: Check | None = attribute.metadata.get(_CHECK)

    def hook(value: Any, type_: Any) -> Any:
        result = value if type_ is Any else converter.structure(value, type_)
        if check is not None and result is not None:
            check(result)
        return result

    return hook


def _exact(wanted: type, description: str) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _type: Any) -> Any:
        if type(value) is not wanted:
            raise ValueError(f"must be {description}, not {_kind(value)}")
        return value

    return hook


def _whole_number(value: Any, _type: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise ValueError(f"must be a whole number, not {_kind(value)}")
    return value


def _number(value: Any, _type: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"must be a number, not {_kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def _faults(exc: BaseException, path: str, spell: Callable[[str], str]) -> Iterable[Fault]:
    if isinstance(exc, ForbiddenExtraKeysError):
        known = keys_of(exc.cl, spell)
        for name in sorted(exc.extra_fields, key=str):
            yield unknown_key(str(name), known, path)
    elif isinstance(exc, cattrs.BaseValidationError):
        for inner in exc.exceptions:
            yield from _faults(inner, _inner_path(inner, exc, path, spell), spell)
    elif isinstance(exc, KeyError):
        yield Fault(path, "is missing; give it")
    else:
        yield Fault(path, str(exc))


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
    return path


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _nearest(value: Any, choices: Iterable[Any]) -> str:
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _kind(value: Any) -> str:
    names = {dict: "a table", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), repr(value))
