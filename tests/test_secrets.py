"""Secrets of a registration: shown to nobody, kept when hidden, sent to their own line only."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import meterspec, render
from edge.errors import RequestError
from edge.meterspec import References
from edge.meterspec.secrets import HIDDEN, carry_over, hidden_secrets, redacted
from edge.model import Meter, MeterState
from edge.registry import Registry, load_state
from edge.structure import camel_case, keys_of, merge_patch
from edge.template import parse_template
from tests.registrations import faults_of, parse

SECRET = "s3cr3t-Value"
TEMPLATE = parse_template(
    "cloud-meter",
    {
        "title": "A meter",
        "maker": "Maker",
        "models": ["One"],
        "protocol": "http",
        "source": "the maker's document, page 1",
        "parameters": {"host": {"title": "Host", "example": "192.168.1.40"}},
        "communication": {"url": "https://{host}/status"},
    },
)


def registration(url: str = "https://h/x", **communication: Any) -> dict[str, Any]:
    return {
        "name": "Main",
        "protocol": "http",
        "meterType": "grid",
        "communication": {"url": url, **communication},
    }


WITH_SECRETS: dict[str, dict[str, Any]] = {
    "authToken": {"authToken": SECRET},
    "password": {"username": "me", "password": SECRET},
    "headers.X-API-Key": {"headers": {"X-API-Key": SECRET, "X-Site": "north"}},
    "body.login.password": {
        "method": "POST",
        "body": {"login": {"user": "me", "password": SECRET}, "keys": ["power"]},
    },
    "body.0.session.id": {"method": "POST", "body": [{"session": {"id": SECRET}}, "power"]},
    "body": {"method": "POST", "body": f"user=me&password={SECRET}"},
}
"""Path of the secret below `communication` → keys that hold it."""
URL_WITH_SECRET = f"https://h/x?unit=1&token={SECRET}"


def key_classes() -> Iterator[type]:
    """The classes that keys of a registration are declared in, of all protocols."""
    for module in pkgutil.iter_modules(meterspec.__path__, "edge.meterspec."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and attrs.has(value):
                yield value


def test_every_key_that_is_declared_secret_is_hidden() -> None:
    secret = {
        name
        for cls in key_classes()
        for name, attribute in keys_of(cls, camel_case).items()
        if not attribute.repr
    }
    assert secret >= {"authToken", "password"}
    assert redacted(dict.fromkeys(secret, SECRET)) == dict.fromkeys(secret, HIDDEN)


def shown_as(path: str, value: Any) -> Any:
    """How what stands at a path below `communication` is shown."""
    document = value
    for name in reversed(path.split(".")[1:]):
        document = {name: document}
    shown: Any = redacted(document)
    for name in path.split(".")[1:]:
        shown = shown[name]
    return shown


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    def changed(_meters: tuple[Meter, ...]) -> Future[None]:
        shown: Future[None] = Future()
        shown.set_result(None)
        return shown

    registry = Registry(tmp_path, References({"cloud-meter": TEMPLATE}), changed)
    registry.open()
    yield registry
    registry.close()


def communication_of(meter: Meter) -> dict[str, Any]:
    return dict(meter.document["communication"])


def stored_in(folder: Path) -> dict[str, Any]:
    references = References({"cloud-meter": TEMPLATE})
    (meter,) = load_state(folder, references, set_aside=False).meters
    return communication_of(meter)


def faults_of_update(registry: Registry, meter: Meter, communication: Any) -> dict[str, str]:
    """The faults of a refused PUT; a refused one changes nothing."""
    before = registry.meters
    with pytest.raises(RequestError) as refused:
        registry.update(meter.id, {"communication": communication})
    assert refused.value.status == 400
    assert registry.meters is before
    assert SECRET not in str(refused.value)
    return {
        fault.path.removeprefix("communication."): fault.message for fault in refused.value.faults
    }


# --- Shown to nobody ---


@pytest.mark.parametrize("given", WITH_SECRETS.values(), ids=WITH_SECRETS)
def test_no_answer_and_no_repr_shows_a_secret(given: dict[str, Any]) -> None:
    meter = parse(registration(**given))
    for said in (
        repr(meter), str(meter), repr(meter.communication), repr(MeterState(meter)),
        repr(render.meter(MeterState(meter))), repr(render.meter_details(MeterState(meter))),
    ):  # fmt: skip
        assert SECRET not in said
        assert "Authorization" not in said
    assert SECRET in repr(meter.document), "it is stored"


def test_no_answer_and_no_repr_shows_a_secret_in_a_url() -> None:
    meter = parse(registration(URL_WITH_SECRET))
    for said in (repr(meter), repr(render.meter_details(MeterState(meter)))):
        assert SECRET not in said


def test_what_is_hidden_and_what_is_not() -> None:
    communication = registration(
        authToken=SECRET,
        username="me",
        password=SECRET,
        headers={"X-Api-Key": SECRET, "Cookie": SECRET, "X-Site": "north", "Accept": "text/x"},
    )["communication"]
    before = copy.deepcopy(communication)
    assert redacted(communication) == {
        "url": "https://h/x",
        "authToken": HIDDEN,
        "username": "me",
        "password": HIDDEN,
        "headers": {"X-Api-Key": HIDDEN, "Cookie": HIDDEN, "X-Site": "north", "Accept": "text/x"},
    }
    assert communication == before
    modbus = {"host": "h", "registers": {"power": 1}}
    assert redacted(modbus) == modbus


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "Proxy-Authorization", "X-Auth", "x-access-token", "Api-Key", "apikey",
        "X-Client-Secret", "X-Password", "X-PASSWD", "X-Pass", "X-Pwd", "Cookie", "X-Signature",
        "X-Session-Id", "X-Credentials",
    ],
)  # fmt: skip
def test_headers_that_are_named_like_a_secret(name: str) -> None:
    assert redacted({"headers": {name: SECRET}}) == {"headers": {name: HIDDEN}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"authToken": SECRET + " "},
        {"authToken": [SECRET]},
        {"authToken": 1234567},
        {"username": "me", "password": SECRET + "\n"},
        {"username": "me", "password": 1234567},
        {"username": "me", "password": {"is": SECRET}},
        {"username": "me", "password": SECRET * 1000},
        {"headers": {"X-Key": SECRET + "\r\n"}},
        {"headers": {"X-Key": 1234567}},
        {"headers": SECRET},
        {"url": f"http://me:{SECRET}@h/x"},
        {"url": f"http://me:{SECRET}"},
        {"url": f"http://me:pass#{SECRET}@h/x"},
        {"url": f"http:/me:{SECRET}@h/x"},
        {"url": f"me_:{SECRET}@h"},
        {"url": f"http://me:{SECRET}[@h"},
        {"url": f"{SECRET}://h"},
    ],
    ids=str,
)
def test_no_fault_shows_a_secret(wrong: dict[str, Any]) -> None:
    faults = faults_of(registration(**wrong))
    assert len(faults) == 1
    said = repr(faults).lower()
    assert SECRET.lower() not in said
    assert "1,234,567" not in said
    assert "1234567" not in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/x?token=S", "http://h/x?token=***"),
        ("http://h/x?a=1&X-API-Key=S&b=key", "http://h/x?a=1&X-API-Key=***&b=key"),
        ("http://h/x?%74oken=S=S&token=", "http://h/x?%74oken=***&token=***"),
        ("http://h/x?a=1;token=S;b=2&c=3", "http://h/x?a=1;token=***&c=3"),
        ("http://h/x?token", "http://h/x?token"),
        ("http://h/token=1?a=***", "http://h/token=1?a=***"),
    ],
)
def test_values_in_a_query_that_are_named_like_a_secret(url: str, shown: str) -> None:
    communication = {"url": url, "body": {"url": url}}
    assert redacted(communication) == {"url": shown, "body": {"url": shown}}
    assert "S" not in shown
    assert bool(hidden_secrets({"url": shown})) == (shown != url)


def test_a_body_that_is_a_text() -> None:
    assert redacted({"body": "what=power&keys=1"}) == {"body": "what=power&keys=1"}
    assert redacted({"body": '{"keys": [1], "passwd": 5}'}) == {"body": HIDDEN}


def test_stars_that_hide_nothing_are_a_text_like_any_other() -> None:
    communication = {"url": "http://h/x?y=***", "headers": {"X-Site": "***"}, "powerPath": "***"}
    assert hidden_secrets(communication) == []
    assert redacted(communication) == communication
    assert hidden_secrets({"body": "***"}), "a body may be hidden as a whole"


def test_a_parameter_of_a_template_that_is_named_like_a_secret() -> None:
    assert redacted({"template": "t", "apiKey": "S"}) == {"template": "t", "apiKey": HIDDEN}


# --- "***" ---


@pytest.mark.parametrize("path", WITH_SECRETS)
def test_a_registration_cannot_hide_what_is_not_stored(path: str) -> None:
    assert faults_of(registration(**redacted(WITH_SECRETS[path]))) == {
        f"communication.{path}": "hides a secret that is stored, and none is ('***'); give the "
        "secret"
    }


@pytest.mark.parametrize("given", WITH_SECRETS.values(), ids=WITH_SECRETS)
def test_what_was_shown_can_be_sent_back(
    registry: Registry, tmp_path: Path, given: dict[str, Any]
) -> None:
    meter = registry.add(registration(**given))
    shown = redacted(communication_of(meter))
    assert HIDDEN in repr(shown)
    changed = registry.update(meter.id, {"name": "Other", "communication": shown})
    assert changed.communication == meter.communication
    assert communication_of(changed) == communication_of(meter) == stored_in(tmp_path)


@pytest.mark.parametrize("given", WITH_SECRETS.values(), ids=WITH_SECRETS)
def test_an_update_of_something_else_keeps_secrets(
    registry: Registry, given: dict[str, Any]
) -> None:
    meter = registry.add(registration(**given))
    changed = registry.update(
        meter.id, {"communication": {"url": "https://H:443/y", "timeout": 9999}}
    )
    assert communication_of(changed) == {
        **communication_of(meter), "url": "https://H:443/y", "timeout": 9999,
    }  # fmt: skip


def test_a_new_secret_takes_the_place_of_the_old(registry: Registry) -> None:
    meter = registry.add(registration(authToken=SECRET))
    changed = registry.update(meter.id, {"communication": {"authToken": "new"}})
    assert communication_of(changed)["authToken"] == "new"


def test_a_url_as_it_was_shown_is_the_one_that_is_stored(
    registry: Registry, tmp_path: Path
) -> None:
    meter = registry.add(registration(URL_WITH_SECRET))
    shown = redacted(communication_of(meter))
    assert shown["url"] == "https://h/x?unit=1&token=***"
    registry.update(meter.id, {"communication": {**shown, "timeout": 900}})
    assert stored_in(tmp_path) == {"url": URL_WITH_SECRET, "timeout": 900}
    for url in ("https://h/x?unit=2&token=***", "https://evil/x?unit=1&token=***"):
        assert faults_of_update(registry, meter, {"url": url}) == {
            "url": "hides a secret ('***'), which only the url as it was shown stands for; give "
            "the secret"
        }
    assert faults_of_update(registry, meter, {"verifyTls": False}).keys() == {"url"}
    assert faults_of_update(registry, meter, {**shown, "verifyTls": False}).keys() == {"url"}
    registry.update(meter.id, {"communication": {"url": URL_WITH_SECRET, "verifyTls": False}})
    registry.update(meter.id, {"communication": {"url": "https://evil/x?unit=1&token=new"}})
    assert SECRET not in repr(stored_in(tmp_path))


def test_a_hidden_secret_within_a_changed_list_must_be_given(registry: Registry) -> None:
    meter = registry.add(registration(method="POST", body=[{"token": SECRET}, 1]))
    wrong = [1, {"token": HIDDEN}]
    assert faults_of_update(registry, meter, {"body": wrong}).keys() == {"body.1.token"}


def test_part_of_a_secret_object_does_not_take_the_rest_elsewhere(registry: Registry) -> None:
    meter = registry.add(registration(method="POST", body={"auth": {"user": "me", "pwd": SECRET}}))
    update = {"url": "https://evil/x", "body": {"auth": {"user": "you"}}}
    assert faults_of_update(registry, meter, update).keys() == {"body.auth.pwd"}


def test_an_update_nested_without_end_is_refused(registry: Registry) -> None:
    meter = registry.add(registration(method="POST", body={"token": SECRET}))
    deep: Any = {"token": HIDDEN}
    for _ in range(900):
        deep = [deep]
    assert faults_of_update(registry, meter, {"body": deep}).keys() == {"body"}
    assert faults_of_update(registry, meter, {"body": {"token": deep}}).keys() == {"body"}


def test_null_removes_a_secret(registry: Registry, tmp_path: Path) -> None:
    meter = registry.add(registration(headers={"X-Api-Key": SECRET}, authToken=SECRET))
    nulls = {"authToken": None, "headers": {"X-Api-Key": None}}
    registry.update(meter.id, {"communication": nulls})
    assert stored_in(tmp_path) == {"url": "https://h/x", "headers": {}}
    assert faults_of_update(registry, meter, {"authToken": HIDDEN}).keys() == {"authToken"}


def test_stars_keep_a_secret_only_under_its_own_name(registry: Registry) -> None:
    meter = registry.add(registration(headers={"X-Api-Key": SECRET}))
    wrong = {"authToken": HIDDEN, "headers": {"X-Token": HIDDEN}}
    assert faults_of_update(registry, meter, wrong).keys() == {"authToken", "headers.X-Token"}


def test_a_faulty_update_that_hides_nothing_stored_tells_all_faults(registry: Registry) -> None:
    meter = registry.add(registration())
    wrong = {"authToken": HIDDEN, "timeout": 1}
    assert faults_of_update(registry, meter, wrong).keys() == {"authToken", "timeout"}


# --- To their own line only ---


@pytest.mark.parametrize("path", WITH_SECRETS)
@pytest.mark.parametrize(
    "url", ["https://evil/x", "http://h/x", "https://h:444/x", "https://h.evil/x"]
)
@pytest.mark.parametrize("repeated", [False, True], ids=["kept", "hidden"])
def test_another_origin_needs_the_secret_again(
    registry: Registry, path: str, url: str, repeated: bool
) -> None:
    given = WITH_SECRETS[path]
    meter = registry.add(registration(**given))
    update = {**(redacted(given) if repeated else {}), "url": url}
    ((where, message),) = faults_of_update(registry, meter, update).items()
    assert where == path
    assert message.startswith("must be given again: the update leads elsewhere")
    changed = registry.update(meter.id, {"communication": {**given, "url": url}})
    assert communication_of(changed)["url"] == url


@pytest.mark.parametrize("trust", [{"verifyTls": False}, {"caFile": "/etc/another.pem"}], ids=str)
def test_another_trust_needs_the_secret_again(registry: Registry, trust: dict[str, Any]) -> None:
    meter = registry.add(registration(authToken=SECRET))
    assert faults_of_update(registry, meter, trust).keys() == {"authToken"}
    assert faults_of_update(registry, meter, {**trust, "authToken": HIDDEN}).keys() == {"authToken"}
    registry.update(meter.id, {"communication": {**trust, "authToken": SECRET}})


def test_another_origin_needs_no_secret_that_is_removed(registry: Registry) -> None:
    meter = registry.add(registration(authToken=SECRET))
    registry.update(meter.id, {"communication": {"url": "https://other/x", "authToken": None}})


def test_a_templates_host_is_an_origin_too(registry: Registry) -> None:
    document = registration(template="cloud-meter", host="h", authToken=SECRET)
    del document["communication"]["url"]
    meter = registry.add(document)
    assert meter.line == "https://h:443"
    assert faults_of_update(registry, meter, {"host": "evil"}).keys() == {"authToken"}
    assert faults_of_update(registry, meter, {"url": "https://evil/x"}).keys() == {"authToken"}
    registry.update(meter.id, {"communication": {"host": "H", "authToken": HIDDEN}})
    registry.update(meter.id, {"communication": {"host": "other", "authToken": SECRET}})
    assert registry.meters[0].line == "https://other:443"


@pytest.mark.parametrize(
    "update", [5, [], "x", {"headers": 5}, {"headers": [HIDDEN]}, {"authToken": [HIDDEN]}], ids=str
)
def test_an_update_of_any_shape_is_refused_with_a_fault(registry: Registry, update: Any) -> None:
    meter = registry.add(registration(headers={"X-Api-Key": SECRET}))
    assert faults_of_update(registry, meter, update)


names = st.sampled_from(["X-Key", "X-Site", "Cookie", "token", "login", "url", "body", "keys"])
values = st.sampled_from(
    [HIDDEN, "a", None, 5, [HIDDEN], "token=a", f"h?token={HIDDEN}", "h?x=1&token=a&key=b"]
)
communications = st.dictionaries(
    st.sampled_from(["authToken", "password", "url", "headers", "body", "siteKey"]),
    values | st.dictionaries(names, values | st.dictionaries(names, values)),
)
bodies: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([SECRET, f"{SECRET}?token={SECRET}", f"token={SECRET}", 5, True, None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
)


@settings(deadline=None)
@given(bodies)
def test_a_body_of_any_shape_hides_what_is_named_so_and_comes_back(body: Any) -> None:
    document = merge_patch({}, {"communication": {"body": {"token": body, "shown": body}}})
    communication = document["communication"]
    shown = redacted(communication)
    assert SECRET not in repr(shown["body"].get("token"))
    assert redacted({"body": shown["body"]}) == shown, "nothing more is hidden the second time"
    assert carry_over(document, merge_patch(document, {"communication": shown})) == document
    faults = {fault.path for fault in hidden_secrets(shown)}
    if shown != communication:
        assert faults, "what is hidden is no registration"


@settings(deadline=None)
@given(communications)
def test_sending_back_what_was_shown_changes_nothing(old: dict[str, Any]) -> None:
    document = {"name": "Main", "communication": merge_patch({}, old)}
    before = copy.deepcopy(document)
    shown = redacted(document["communication"])
    assert carry_over(document, merge_patch(document, {"communication": shown})) == document
    assert document == before


@settings(deadline=None)
@given(communications, communications)
def test_stars_stay_only_where_nothing_is_stored(
    old: dict[str, Any], patch: dict[str, Any]
) -> None:
    document = {"communication": merge_patch({}, old)}
    merged = merge_patch(document, {"communication": patch})
    kept = carry_over(document, merged)

    def stored(path: str) -> Any:
        value: Any = document
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return None if isinstance(value, dict | list) else value

    hidden = {fault.path for fault in hidden_secrets(merged["communication"])}
    left = {fault.path for fault in hidden_secrets(kept["communication"])}
    assert left <= hidden
    for path in hidden:
        was, given_now = stored(path), merged["communication"]
        for name in path.split(".")[1:]:
            given_now = given_now[int(name) if isinstance(given_now, list) else name]
        assert (path in left) == (shown_as(path, was) != given_now or was == given_now)
