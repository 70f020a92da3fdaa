"""JMESPath into documents, with a bound on what an expression may cost: pure.

Whoever may register a meter may give paths, and a short expression can double a list forty times.

Source: jmespath.org, "JMESPath Specification".
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.exceptions import (
    ArityError,
    JMESPathError,
    JMESPathTypeError,
    UnknownFunctionError,
)
from jmespath.functions import Functions
from jmespath.parser import ParsedResult
from jmespath.visitor import TreeInterpreter

LONGEST_PATH = 1000
"""Characters of a JMESPath expression."""

ABSENT = object()
"""What `follow` gives where nothing is at a path; None is that it has no value there."""

# What the expressions of the library raise beside its own errors, which are ValueErrors.
_PATH_ERRORS = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


_MOST_STEPS = 50_000
"""What one evaluation may take: a few steps for each of the 10,000 objects that 1 MiB has room for.
That is some hundredths of a second, and a few megabytes."""
_CHARACTERS_A_STEP = 100
_FUNCTIONS = Functions()
_MEETS_ALL_WITHIN = frozenset({"contains", "to_string"})
_JOINS = frozenset({"pipe", "subexpression", "index_expression"})
_GIVES_SEVERAL = frozenset({
    "projection", "value_projection", "filter_projection", "multi_select_list",
    "multi_select_dict",
})  # fmt: skip


class _TooManyStepsError(ValueError):
    def __init__(self) -> None:
        super().__init__(f"takes more than {_MOST_STEPS:,} steps")


class _BoundedInterpreter(TreeInterpreter):
    """Evaluates one expression, and counts what that takes: a few characters can ask for anything.

    `[@, @][] | [@, @][]` doubles a list with each part, and without a flatten it makes a tree of
    two lists that costs nothing, until something compares it or writes it out. So a step is a node
    visited, an element of a list or object that is made or gone through, 100 characters of text.
    Raises _TooManyStepsError before it does what would be too many. A projection, a slice (which
    is always part of one) and a multi-select make nothing but what is visited.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps_left = _MOST_STEPS

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._take(1)
        found = super().visit(node, *args, **kwargs)
        if isinstance(found, str):
            self._take(len(found) // _CHARACTERS_A_STEP)
        return found

    def visit_flatten(self, node: Any, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        if isinstance(base, list):
            self._take(sum(len(each) if isinstance(each, list) else 1 for each in base))
        return super().visit_flatten(_done(node, base), None)

    def visit_comparator(self, node: Any, value: Any) -> Any:
        left, right = (self.visit(child, value) for child in node["children"])
        if isinstance(left, list | dict) and isinstance(right, list | dict):
            self._take_all(left)
        return super().visit_comparator(_done(node, left, right), None)

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        name = node["value"]
        arguments = [self.visit(child, value) for child in node["children"]]
        for argument in arguments:
            if name in _MEETS_ALL_WITHIN:
                self._take_all(argument)
            elif isinstance(argument, list | dict):
                self._take_one_level(argument)
            elif name == "to_number" and isinstance(argument, str):
                self._take(len(argument))  # of digits, which take ever longer
        if name == "join" and list(map(type, arguments)) == [str, list]:
            self._take(len(arguments[0]) * len(arguments[1]) // _CHARACTERS_A_STEP)
        return _FUNCTIONS.call_function(name, arguments)

    def _take(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise _TooManyStepsError

    def _take_one_level(self, value: list[Any] | dict[str, Any]) -> None:
        self._take(len(value))
        texts = (each for each in value if isinstance(each, str))
        self._take(sum(map(len, texts)) // _CHARACTERS_A_STEP)

    def _take_all(self, value: Any) -> None:
        pending = [value]
        while pending:
            each = pending.pop()
            if isinstance(each, list | dict):
                self._take_one_level(each)
                pending += each.values() if isinstance(each, dict) else each


def _done(node: Any, *values: Any) -> Any:
    """The node with what its children came to in their places."""
    return {**node, "children": [{"type": "literal", "value": value} for value in values]}


def _check_result(node: Mapping[str, Any]) -> None:
    """Raise ValueError for an expression that cannot come to one value, whatever the payload."""
    pending: list[Mapping[str, Any]] = [{"type": "whole", "children": [node]}]
    while pending:
        outer = pending.pop()
        # The children of a slice are numbers.
        inner = [child for child in outer["children"] if isinstance(child, dict)]
        pending += inner
        if outer["type"] != "function_expression" and any(i["type"] == "expref" for i in inner):
            raise ValueError("has '&' where no function takes it; leave it out")
    while node["type"] in _JOINS:
        node = node["children"][-1]
    if node["type"] in _GIVES_SEVERAL:
        raise ValueError("gives a list or an object, never one value; end it with '| [0]'")


def check_path(expression: str) -> None:
    """Raise ValueError, with a sentence, unless the expression is JMESPath that can be used."""
    node = _compiled(expression).parsed
    _check_result(node)
    try:
        _BoundedInterpreter().visit(node, {})
    except (UnknownFunctionError, ArityError) as exc:
        raise ValueError(f"cannot be used ({_reason(exc)}); see jmespath.org") from None
    except _TooManyStepsError as exc:
        raise ValueError(f"{exc}; make it simpler") from None
    except RecursionError:
        raise ValueError("is nested too deeply; make it simpler") from None
    except _PATH_ERRORS:
        pass  # what comes of no value says nothing about the expression


@lru_cache(maxsize=1024)
def _compiled(expression: str) -> ParsedResult:
    if len(expression) > LONGEST_PATH:
        raise ValueError(
            f"must be at most {LONGEST_PATH} characters of JMESPath, not {len(expression)}"
        )
    try:
        return jmespath.compile(expression)
    except JMESPathError as exc:
        raise ValueError(f"is no JMESPath expression ({_reason(exc)}); see jmespath.org") from None
    except RecursionError:
        raise ValueError("is nested too deeply; make it simpler") from None


def _reason(exc: Exception) -> str:
    """The first line of what the library says: then it draws an arrow below the expression."""
    if isinstance(exc, JMESPathTypeError):  # it would write out the whole value
        types = " or ".join(exc.expected_types)
        return f"{exc.function_name}() takes {types}, not {exc.actual_type}"
    lines = str(exc).splitlines() or [type(exc).__name__]
    return printable(lines[0].removesuffix(", for expression:").rstrip(":."), 150)


def follow(document: Any, path: str) -> Any:
    """What a path leads to: None where that has no value, ABSENT where it is not there."""
    compiled = _compiled(path)
    found, why = None, ""
    try:
        found = _BoundedInterpreter().visit(compiled.parsed, document)
    except _PATH_ERRORS as exc:
        why = printable(_reason(exc), 80)
    if found is None:
        with contextlib.suppress(*_PATH_ERRORS):
            if _lacks(document, compiled.parsed, _BoundedInterpreter()):
                return ABSENT
    if why:
        raise ValueError(f"the path '{printable(path, 60)}' fails on it ({why})")
    return found


def _lacks(document: Any, node: Mapping[str, Any], interpreter: TreeInterpreter) -> bool:
    """Whether an expression gives null only because what it starts from is not there.

    What is there but null, or is no number to `to_number`, is no value: it must not pass for one
    that merely did not change.
    """
    kind, parts = node["type"], node["children"]
    if kind == "field":
        return isinstance(document, dict) and node["value"] not in document
    if kind in {"subexpression", "index_expression"}:
        for part in parts:
            if _lacks(document, part, interpreter):
                return True
            document = interpreter.visit(part, document)
        return False
    if kind in {"pipe", "projection", "value_projection", "filter_projection", "flatten"}:
        return _lacks(document, parts[0], interpreter)
    return bool(parts) and all(_lacks(document, part, interpreter) for part in parts)


def printable(text: str, characters: int) -> str:
    """Give the start of a text, with what is not printable escaped."""
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:characters]
    )
    most = 2 * characters  # an escape has up to ten
    return escaped[:most] + ("…" if len(text) > characters or len(escaped) > most else "")
