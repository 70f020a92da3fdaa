"""Registrations in tests: what they come to, what is wrong with them, and any JSON at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import strategies as st

from edge.errors import Fault, Faulty
from edge.meterspec import References, parse_meter
from edge.model import Meter
from edge.structure import merge_patch

NO_REFERENCES = References()


def parse(document: Any, references: References = NO_REFERENCES) -> Meter:
    return parse_meter(document, "meter_1", 0, references)


def faults_of(document: Any, references: References = NO_REFERENCES) -> dict[str, str]:
    """Path → message; a path has one fault only."""
    with pytest.raises(Faulty) as caught:
        parse(document, references)
    faults = {fault.path: fault.message for fault in caught.value.faults}
    assert len(faults) == len(caught.value.faults), caught.value
    return faults


def is_taken_or_named_faulty(document: Any, references: References = NO_REFERENCES) -> None:
    """Assert that a document is a meter which can be stored, or that its faults can be shown."""
    before = repr(document)
    faults: tuple[Fault, ...] = ()
    try:
        meter = parse(document, references)
    except Faulty as exc:
        faults = exc.faults
        assert faults, "refused without a reason"
    else:
        stored = json.loads(json.dumps(meter.document, ensure_ascii=False).encode())
        assert stored == merge_patch({}, document)
        assert parse(stored, references).communication == meter.communication
    for fault in faults:
        assert str(fault).isprintable()
        assert fault.message
    assert repr(document) == before, "what was given is not changed"


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [0, 1, 502, 65535, 10**30, 0.1, -1.0, "***", "a/b", "a.b", "http://h/x", "GET", "POST"]
    )
    | st.sampled_from(["tcp", "rtu", "input", "big", "int32"])
    | st.floats()
    | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=6,
)


def some_of(
    names: Iterable[str], values: st.SearchStrategy[Any] = JSON_VALUES
) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the names, and now and then another."""
    keys = st.sampled_from(list(names)) | st.text(st.characters(), max_size=6)
    return st.dictionaries(keys, values, max_size=6)
