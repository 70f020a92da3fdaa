"""The front door: who is let in, and how one who should not be tries to get in all the same."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.api import Access, Caller, Request, Response
from edge.api.attempts import MOST_COUNTED, MOST_FAILURES, MOST_IN_LINE, Attempts
from edge.api.door import Door
from edge.api.sessions import MOST_ENDED, Sessions
from edge.errors import ConfigError, RequestError
from edge.settings import ApiConfig
from edge.tokenfile import TOKENS_FILE, Role
from edge.tokens import LOCAL_FILE, Tokens, require_token_beyond_loopback
from tests.building import FakeClock, a_registration, cheap_scrypts
from tests.peers import wait_until
from tests.service import Service

LAN = "192.168.1.50"
UNKNOWN = "dlm_00000000_" + "A" * 43
WHOEVER_CONNECTS = Caller("", Role.ADMIN)
WEEK_S = 7 * 86_400
ACCESS = {"/public": Access.PUBLIC, "/metrics": Access.METRICS, "/log": Access.ADMIN}
"""Who may make the calls of these tests, where it is not as usual."""


def access_of(request: Request) -> Access:
    usual = Access.READER if request.method == "GET" else Access.ADMIN
    return ACCESS.get(request.path, usual)


@pytest.fixture(autouse=True)
def scrypts(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The salts of the hashes that were made, which cost next to nothing here."""
    return cheap_scrypts(monkeypatch)


@dataclass
class Browser:
    """What a browser sends of itself. cookie: name and value; csrf: what the page was told."""

    cookie: str
    csrf: str

    def headers(self, **changes: str | None) -> dict[str, str]:
        given = {"cookie": self.cookie, "x_csrf_token": self.csrf, **changes}
        return {name.replace("_", "-"): value for name, value in given.items() if value is not None}


class House:
    """A door with its tokens, and the clock above it."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.clock = FakeClock(mono_s=1000.0)
        self.config = ApiConfig(**config)
        self.tokens = Tokens(folder)
        self.door = Door(self.tokens, access_of, self.config, self.clock)

    def restart(self) -> None:
        self.tokens = Tokens(self.folder)
        self.door = Door(self.tokens, access_of, self.config, self.clock)

    def add(self, name: str, role: Role = Role.ADMIN) -> str:
        """As a shell does it, beside the service."""
        return Tokens(self.folder).add(name, role, self.clock.unix_ms())

    def ask(
        self,
        method: str = "GET",
        path: str = "/meters",
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        peer: str = LAN,
        secure: bool = False,
    ) -> Caller | None:
        given = dict(headers or {})
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        return self.door.authorize(Request(method, path, {}, given, b"", peer=peer, secure=secure))

    def refused(self, *args: Any, **kwargs: Any) -> str:
        """Ask in vain; the code of the refusal."""
        with pytest.raises(RequestError) as refusal:
            self.ask(*args, **kwargs)
        return refusal.value.code

    def post(
        self,
        call: Callable[[Request], Response],
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        peer: str = LAN,
        secure: bool = False,
    ) -> Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return call(Request("POST", "/", {}, headers or {}, content, peer=peer, secure=secure))

    def login(self, token: str, **kwargs: Any) -> Browser:
        answer = self.post(self.door.log_in, {"token": token}, **kwargs)
        ((name, cookie),) = answer.headers
        assert name == "Set-Cookie"
        return Browser(cookie.partition(";")[0], data(answer)["csrfToken"])

    def session(self, headers: Mapping[str, str], *, secure: bool = False) -> Any:
        request = Request("GET", "/", {}, headers, b"", peer=LAN, secure=secure)
        return self.door.show_session(request)


def data(answer: Response) -> Any:
    document = json.loads(answer.body)
    assert (answer.status, document["success"]) == (200, True)
    return document["data"]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "state")


@pytest.fixture
def anna(house: House) -> str:
    return house.add("anna", Role.ADMIN)


@pytest.fixture
def bob(house: House) -> str:
    return house.add("bob", Role.READER)


# --- Who is asked --------------------------------------------------------------------------------


def test_without_a_token_everyone_on_this_machine_may_do_everything(house: House) -> None:
    assert house.ask() == house.ask("POST") == house.ask("GET", "/log") == WHOEVER_CONNECTS
    assert house.door.is_open
    assert house.session({}) == {
        "required": False, "name": None, "role": "admin", "csrfToken": None,
    }  # fmt: skip


def test_with_the_first_token_everyone_is_asked_at_once(house: House) -> None:
    assert house.ask("DELETE") == WHOEVER_CONNECTS
    anna = house.add("anna")
    assert house.refused("DELETE") == house.refused() == "UNAUTHORIZED"
    assert house.refused(peer="127.0.0.1") == "UNAUTHORIZED"
    assert house.ask("DELETE", token=anna) == Caller("anna", Role.ADMIN)
    assert house.ask(path="/public") is None
    house.tokens.remove("anna")
    assert house.ask("DELETE") == WHOEVER_CONNECTS


def test_beyond_this_machine_nobody_is_let_in_without_a_token(tmp_path: Path) -> None:
    house = House(tmp_path / "state", host="0.0.0.0")
    assert house.refused() == house.refused(peer="127.0.0.1") == "UNAUTHORIZED"
    assert house.ask(path="/public") is None
    assert house.session({})["required"] is True


def test_it_can_be_said_that_nobody_is_asked(tmp_path: Path) -> None:
    house = House(tmp_path / "state", host="0.0.0.0", allow_unauthenticated=True)
    assert house.ask("POST") == WHOEVER_CONNECTS
    house.add("anna")
    assert house.ask("POST", token=UNKNOWN) == WHOEVER_CONNECTS


def test_where_nobody_is_asked_no_page_comes_in_by_a_name_of_its_own(tmp_path: Path) -> None:
    house = House(
        tmp_path / "state",
        host="edge.example", allow_unauthenticated=True, allowed_hosts=["dlm.example"],
    )  # fmt: skip
    evil = {"host": "evil.example:3000", "origin": "http://evil.example:3000"}
    for method in ("GET", "POST", "DELETE"):
        assert house.refused(method, headers=evil) == "FOREIGN_HOST"
    assert house.refused(path="/metrics", headers=evil) == "FOREIGN_HOST"
    assert house.ask(path="/public", headers=evil) is None
    for host in ("192.168.1.5:3000", "edge.example:3000", "dlm.example"):
        assert house.ask("POST", headers={"host": host}) == WHOEVER_CONNECTS


@pytest.mark.parametrize("host", ["0.0.0.0", "::", LAN, "edge.local"])
def test_no_start_beyond_this_machine_without_a_token(tmp_path: Path, host: str) -> None:
    house = House(tmp_path / "state", host=host)
    with pytest.raises(ConfigError) as refusal:
        require_token_beyond_loopback(house.config, house.tokens)
    (fault,) = refusal.value.faults
    assert fault.path == "api.host"
    assert fault.message.startswith(f"'{host}' can be reached from the network")
    assert "dlm-edge token add NAME --role admin" in fault.message
    require_token_beyond_loopback(ApiConfig(host=host, allow_unauthenticated=True), house.tokens)
    house.add("anna")
    require_token_beyond_loopback(house.config, house.tokens)
    require_token_beyond_loopback(house.config, Tokens(house.folder))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_on_this_machine_it_starts_without_a_token(tmp_path: Path, host: str) -> None:
    house = House(tmp_path / "state", host=host)
    require_token_beyond_loopback(house.config, house.tokens)
    assert house.ask("POST") == WHOEVER_CONNECTS


@pytest.mark.parametrize(
    ("host", "said", "public"),
    [
        ("127.0.0.1", None, True),
        ("127.0.0.1", False, False),
        ("0.0.0.0", None, False),
        ("0.0.0.0", True, True),
    ],
)
def test_metrics_are_public_on_this_machine_or_where_it_is_said(
    tmp_path: Path, host: str, said: bool | None, public: bool
) -> None:
    house = House(tmp_path / "state", host=host, metrics_public=said)
    bob = house.add("bob", Role.READER)
    if public:
        assert house.ask(path="/metrics") is None
    else:
        assert house.refused(path="/metrics") == "UNAUTHORIZED"
        assert house.ask(path="/metrics", token=bob) == Caller("bob", Role.READER)


def test_a_reader_looks_and_an_admin_changes(house: House, anna: str, bob: str) -> None:
    assert house.ask(token=bob) == Caller("bob", Role.READER)
    for method, path in (("POST", "/"), ("PUT", "/"), ("DELETE", "/"), ("GET", "/log")):
        assert house.refused(method, path, token=bob) == "FORBIDDEN"
        assert house.ask(method, path, token=anna) == Caller("anna", Role.ADMIN)


def test_a_refusal_says_how_to_come_in_and_not_why_not(house: House, anna: str) -> None:
    refusals = []
    for token in (UNKNOWN, anna[:13] + "A" * 43, "x"):
        with pytest.raises(RequestError) as refusal:
            house.ask(token=token)
        refusals.append((refusal.value.status, str(refusal.value), refusal.value.headers))
    assert len(set(refusals)) == 1
    assert refusals[0][0] == 401
    assert refusals[0][2] == (("WWW-Authenticate", "Bearer"),)


@pytest.mark.parametrize(
    "credentials",
    [
        "", "Bearer", "Bearer ", "Basic YTpi", "{token}", "Bearer{token}", "Bearer {token} x",
        "Bearer {token}, Bearer {token}", "Bearer\t{token}", "Bearer {token}\x00", "Token {token}",
        "Bearer " + "A" * 16_000, "Bearer é", "Bearer ２",
    ],
)  # fmt: skip
def test_other_credentials_are_none(house: House, anna: str, credentials: str) -> None:
    given = {"authorization": credentials.replace("{token}", anna)}
    assert house.refused(headers=given) == "UNAUTHORIZED"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer   "])
def test_the_scheme_is_spelled_as_one_likes(house: House, anna: str, scheme: str) -> None:
    assert house.ask(headers={"authorization": f"{scheme} {anna}"}) is not None


latin = st.text(st.characters(max_codepoint=255), max_size=200)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.dictionaries(
        st.sampled_from(["authorization", "cookie", "origin", "host", "x-csrf-token"]),
        latin
        | latin.map("Bearer {}".format)
        | latin.map("dlm_session={}".format)
        | st.from_regex(
            r"dlm_session=[0-9a-f]{8}\.[0-9]+\.[\w-]{22}\.[0-9a-f]{64}", fullmatch=True
        ),
    ),
    method=st.sampled_from(["GET", "POST", "DELETE", "OPTIONS", "BREW"]),
)
def test_no_headers_let_in_who_has_no_token(
    house: House, headers: dict[str, str], method: str
) -> None:
    if not house.tokens.are_needed:
        house.add("anna")
    house.clock.turn(61)
    assert house.refused(method, headers=headers) == "UNAUTHORIZED"
    house.post(house.door.log_out, headers=headers)


def test_programs_that_may_read_the_folder_are_let_in(house: House, anna: str) -> None:
    house.tokens.issue_local()
    token = (house.folder / LOCAL_FILE).read_text().strip()
    assert house.ask("POST", token=token) == Caller("(local)", Role.ADMIN)
    with pytest.raises(RequestError, match="No such token"):
        house.login(token)
    house.restart()
    assert house.refused(token=token) == "UNAUTHORIZED", "a run has its own"


def test_tokens_that_cannot_be_read_let_nobody_in_and_the_log_says_so_once(
    house: House, anna: str, caplog: pytest.LogCaptureFixture
) -> None:
    house.tokens.issue_local()
    browser = house.login(anna)
    whole = (house.folder / TOKENS_FILE).read_bytes()
    (house.folder / TOKENS_FILE).write_bytes(whole[:50])
    for _ in range(3):
        with pytest.raises(RequestError, match="cannot read its tokens") as refusal:
            house.ask(token=anna)
        assert str(house.folder) not in str(refusal.value), "no path in an answer"
        assert house.refused(headers=browser.headers()) == "UNAUTHORIZED"
    local = (house.folder / LOCAL_FILE).read_text().strip()
    assert house.ask(token=local) is not None
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "tokens.json is damaged" in record.getMessage()
    (house.folder / TOKENS_FILE).write_bytes(whole)
    assert house.ask(headers=browser.headers()) == Caller("anna", Role.ADMIN)


def test_tokens_that_cannot_be_read_at_the_start_are_told_then(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.folder.mkdir()
    (house.folder / TOKENS_FILE).write_text("{")
    house.restart()
    assert "tokens.json is damaged" in caplog.text
    assert house.refused() == "UNAUTHORIZED"


def test_a_token_that_is_removed_lets_nobody_in_any_more(house: House, anna: str, bob: str) -> None:
    browser = house.login(bob)
    caller = house.ask(token=bob)
    assert house.ask(headers=browser.headers()) == caller
    assert house.door.admits(caller)
    Tokens(house.folder).remove("bob")
    assert house.refused(token=bob) == "UNAUTHORIZED"
    assert house.refused(headers=browser.headers()) == "UNAUTHORIZED"
    assert not house.door.admits(caller)
    assert house.session(browser.headers())["name"] is None
    assert not house.door.admits(None), "nor who came when nobody was asked"
    again = house.add("bob", Role.ADMIN)
    assert house.refused(headers=browser.headers()) == "UNAUTHORIZED"
    assert not house.door.admits(caller), "another role"
    assert house.door.admits(house.ask(token=again))


def test_who_came_by_a_session_stays_while_that_goes_on(house: House, anna: str, bob: str) -> None:
    browser, other = house.login(anna), house.login(anna)
    first, second = (house.ask(headers=each.headers()) for each in (browser, other))
    by_token = house.ask(token=anna)
    assert house.door.admits(first)
    assert browser.cookie.partition("=")[2] not in repr(first)
    house.post(house.door.log_out, headers=browser.headers())
    assert not house.door.admits(first)
    assert house.door.admits(second), "another session of the same token"
    house.clock.turn(WEEK_S)
    assert not house.door.admits(second), "it has ended"
    assert house.door.admits(by_token)
    third = house.ask(headers=house.login(anna).headers())
    Tokens(house.folder).remove("anna")
    assert not house.door.admits(third)


# --- The dashboard -------------------------------------------------------------------------------


def test_a_login_gives_a_cookie_that_no_script_and_no_other_page_gets(
    house: House, anna: str
) -> None:
    answer = house.post(house.door.log_in, {"token": f" {anna} "})
    ((_, cookie),) = answer.headers
    end_s = house.clock.unix_ms() // 1000 + WEEK_S
    assert re.fullmatch(
        rf"dlm_session={anna[4:12]}\.{end_s}\.[\w-]{{22}}\.[0-9a-f]{{64}}; Path=/; "
        "Max-Age=604800; HttpOnly; SameSite=Strict",
        cookie,
    )
    said = data(answer)
    assert said == {
        "required": True, "name": "anna", "role": "admin", "csrfToken": said["csrfToken"],
    }  # fmt: skip
    assert re.fullmatch("[0-9a-f]{64}", said["csrfToken"])
    assert said["csrfToken"] not in cookie
    assert anna.rpartition("_")[2] not in cookie + str(said)
    assert house.session({"cookie": cookie.partition(";")[0]}) == said


def test_over_tls_the_cookie_is_one_that_only_this_host_can_set(house: House, anna: str) -> None:
    answer = house.post(house.door.log_in, {"token": anna}, secure=True)
    ((_, cookie),) = answer.headers
    assert cookie.startswith("__Host-dlm_session=")
    assert cookie.endswith("; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict; Secure")
    given = cookie.partition(";")[0]
    assert house.session({"cookie": given}, secure=True)["name"] == "anna"
    tossed = {"cookie": given.removeprefix("__Host-")}
    assert house.session(tossed, secure=True)["name"] is None


def test_a_browser_that_is_logged_in_looks_and_changes(house: House, anna: str) -> None:
    browser = house.login(anna)
    assert house.ask(headers=browser.headers(x_csrf_token=None)) == Caller("anna", Role.ADMIN)
    assert house.ask("POST", headers=browser.headers()) == Caller("anna", Role.ADMIN)
    mine = browser.headers(origin="http://edge.local:3000", host="Edge.local:3000")
    assert house.ask("POST", headers=mine) == Caller("anna", Role.ADMIN)


def test_a_reader_in_a_browser_looks_only(house: House, anna: str, bob: str) -> None:
    browser = house.login(bob)
    assert house.ask(headers=browser.headers()) == Caller("bob", Role.READER)
    assert house.refused("POST", headers=browser.headers()) == "FORBIDDEN"
    assert house.session(browser.headers())["role"] == "reader"


def test_a_change_needs_what_only_a_page_of_ours_knows(house: House, anna: str) -> None:
    browser, other = house.login(anna), house.login(anna)
    for csrf in (None, "", "x", "é", "\xff" * 64, other.csrf, browser.csrf.upper(), browser.cookie):
        assert house.refused("POST", headers=browser.headers(x_csrf_token=csrf)) == "CSRF"
        assert house.refused("OPTIONS", headers=browser.headers(x_csrf_token=csrf)) == "CSRF"


def test_a_change_comes_from_a_page_of_the_very_host_that_is_asked(house: House, anna: str) -> None:
    browser = house.login(anna)
    mine = {"origin": "https://edge", "host": "edge:443"}
    assert house.ask("POST", headers=browser.headers(**mine)) is not None
    assert house.login(anna, headers=mine).cookie
    foreign = {"origin": "http://evil.example", "host": "edge"}
    assert house.refused("POST", headers=browser.headers(**foreign)) == "FOREIGN_ORIGIN"
    with pytest.raises(RequestError, match="A web page from elsewhere"):
        house.login(anna, headers=foreign)
    look = house.ask(headers=browser.headers(**foreign))
    assert look is not None, "looking, the browser itself sees to that"


def test_a_program_with_a_token_needs_neither(house: House, anna: str) -> None:
    assert house.ask("POST", token=anna, headers={"origin": "http://evil.example"}) is not None


def test_credentials_that_are_given_stand_above_the_cookie(
    house: House, anna: str, bob: str
) -> None:
    headers = house.login(anna).headers()
    assert house.ask(token=bob, headers=headers) == Caller("bob", Role.READER)
    assert house.refused(token=UNKNOWN, headers=headers) == "UNAUTHORIZED"
    said = house.session({**headers, "authorization": f"Bearer {bob}"})
    assert (said["name"], said["csrfToken"]) == ("bob", None)


def test_a_cookie_with_any_character_changed_is_none(house: House, anna: str) -> None:
    name, _, value = house.login(anna).cookie.partition("=")
    assert house.ask(headers={"cookie": f"{name}={value}"}) is not None
    for at, character in enumerate(value):
        for other in {"0", "1", ".", "é"} - {character}:
            forged = f"{name}={value[:at]}{other}{value[at + 1 :]}"
            assert house.refused(headers={"cookie": forged}) == "UNAUTHORIZED", forged
    for forged in (value[:-1], value + "0", value + ".", f"{value}.{value}", f'"{value}"', ""):
        assert house.refused(headers={"cookie": f"{name}={forged}"}) == "UNAUTHORIZED", forged


def test_a_cookie_of_another_service_is_none(house: House, anna: str, tmp_path: Path) -> None:
    other = House(tmp_path / "other")
    other.folder.mkdir()
    (other.folder / TOKENS_FILE).write_bytes((house.folder / TOKENS_FILE).read_bytes())
    document = json.loads((other.folder / TOKENS_FILE).read_text())
    (other.folder / TOKENS_FILE).write_text(json.dumps({**document, "sessionKey": "00" * 32}))
    assert house.refused(headers=other.login(anna).headers()) == "UNAUTHORIZED"


def test_a_cookie_among_others_is_found_and_a_second_one_voids_both(
    house: House, anna: str, bob: str
) -> None:
    mine, theirs = house.login(anna).cookie, house.login(bob).cookie
    for header in (f"a=b; {mine}; c", f"{mine};x=y", f"dlm_session2=1; {mine}"):
        assert house.ask(headers={"cookie": header}) == Caller("anna", Role.ADMIN)
    for header in (
        f"{theirs}; {mine}",
        f"{mine}; {theirs}",
        f"{mine}, {theirs}",
        f"{mine}; dlm_session=",
    ):
        assert house.refused(headers={"cookie": header}) == "UNAUTHORIZED"


def test_each_login_is_a_session_of_its_own(house: House, anna: str) -> None:
    first = house.login(anna)
    second = house.login(anna, headers=first.headers())
    assert first.cookie != second.cookie
    assert first.csrf != second.csrf
    assert house.refused("POST", headers=second.headers(x_csrf_token=first.csrf)) == "CSRF"


def test_a_session_ends_after_a_week(house: House, anna: str) -> None:
    headers = house.login(anna).headers()
    house.clock.turn(WEEK_S - 1)
    assert house.ask(headers=headers) is not None
    house.clock.turn(1)
    assert house.refused(headers=headers) == "UNAUTHORIZED"


def test_a_clock_that_is_set_back_a_little_ends_no_session(house: House, anna: str) -> None:
    headers = house.login(anna).headers()
    house.clock.now_unix_ms -= 86_400_000
    assert house.ask(headers=headers) is not None


@pytest.mark.parametrize("unix_ms", [0, 1_760_956_200_000 - 2 * 86_400_000, 4_000_000_000_000])
def test_a_clock_that_is_far_off_believes_no_session(house: House, anna: str, unix_ms: int) -> None:
    headers = house.login(anna).headers()
    house.clock.now_unix_ms = unix_ms
    assert house.refused(headers=headers) == "UNAUTHORIZED"
    assert house.ask(headers=house.login(anna).headers()) is not None, "one can log in, though"


def test_who_is_logged_in_stays_so_over_a_restart(house: House, anna: str) -> None:
    browser = house.login(anna)
    house.restart()
    assert house.ask("POST", headers=browser.headers()) == Caller("anna", Role.ADMIN)


def test_logging_out_ends_the_session_for_every_copy_of_the_cookie(house: House, anna: str) -> None:
    browser, other = house.login(anna), house.login(anna)
    answer = house.post(house.door.log_out, headers=browser.headers())
    assert data(answer) == {"required": True, "name": None, "role": None, "csrfToken": None}
    assert answer.headers == (
        ("Set-Cookie", "dlm_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"),
    )
    assert house.refused(headers=browser.headers()) == "UNAUTHORIZED"
    assert house.ask(headers=other.headers()) is not None


def test_no_other_page_logs_anyone_out(house: House, anna: str) -> None:
    browser = house.login(anna)
    for headers in (browser.headers(x_csrf_token=None), browser.headers(origin="http://evil")):
        with pytest.raises(RequestError):
            house.post(house.door.log_out, headers=headers)
    assert house.ask(headers=browser.headers()) is not None


def test_who_is_not_logged_in_logs_out_all_the_same(house: House, anna: str) -> None:
    for cookie in ("", "dlm_session=x"):
        answer = house.post(house.door.log_out, headers={"cookie": cookie})
        assert "Max-Age=0" in answer.headers[0][1]


def test_only_a_session_that_really_ended_is_logged(
    house: House, anna: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    browser = house.login(anna)
    with pytest.raises(RequestError):
        house.post(house.door.log_out, headers=browser.headers(x_csrf_token=None))
    for headers in (browser.headers(), browser.headers(), {"cookie": "dlm_session=x"}, {}):
        house.post(house.door.log_out, headers=headers)
    assert caplog.messages == [f"anna logged in from {LAN}", f"anna logged out from {LAN}"]


def test_sessions_that_ended_take_bounded_memory() -> None:
    sessions, key = Sessions(), b"k" * 32
    begun = [sessions.begin(key, "0" * 8, 0) for _ in range(MOST_ENDED + 1)]
    for session in begun:
        sessions.end(session)
    goes_on = [sessions.read(key, session.value, 0) is not None for session in begun]
    assert goes_on == [True] + [False] * MOST_ENDED


def test_where_nobody_is_asked_there_is_nothing_to_log_in_to(house: House) -> None:
    answer = house.post(house.door.log_in, {"token": "x"})
    assert data(answer)["required"] is False
    assert not answer.headers


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MALFORMED_JSON"),
        (b"[" * 50_000, "MALFORMED_JSON"),
        ([], "VALIDATION_ERROR"),
        (None, "VALIDATION_ERROR"),
        ({}, "VALIDATION_ERROR"),
        ({"token": 5}, "VALIDATION_ERROR"),
        ({"token": ["secret"]}, "VALIDATION_ERROR"),
        ({"token": "secret" * 100}, "VALIDATION_ERROR"),
        ({"token": "secret\n"}, "VALIDATION_ERROR"),
        ({"token": "secret", "user": "x"}, "VALIDATION_ERROR"),
        ({"token": "secret"}, "UNAUTHORIZED"),
        ({"token": UNKNOWN}, "UNAUTHORIZED"),
    ],
)
def test_a_login_that_is_none_is_refused_without_a_word_of_what_was_sent(
    house: House, anna: str, body: Any, code: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        house.post(house.door.log_in, body)
    assert refusal.value.code == code
    assert "secret" not in f"{refusal.value}{refusal.value.faults}"
    assert all(name != "Set-Cookie" for name, _ in refusal.value.headers)


# --- Attempts ------------------------------------------------------------------------------------


def guess(token: str) -> str:
    """Its id, with another secret."""
    return token[:13] + "A" * 43


def fail(house: House, times: int, peer: str = LAN, token: str = UNKNOWN) -> list[str]:
    return [house.refused(token=token, peer=peer) for _ in range(times)]


def test_after_ten_failures_none_is_looked_at_for_a_minute(
    house: House, anna: str, scrypts: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    scrypts.clear()
    assert fail(house, 12) == ["UNAUTHORIZED"] * 10 + ["TOO_MANY_ATTEMPTS"] * 2
    house.clock.turn(0.5)
    with pytest.raises(RequestError) as refusal:
        house.login(UNKNOWN)
    assert refusal.value.status == 429
    assert refusal.value.headers == (("Retry-After", "60"),)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert LAN in record.getMessage()
    house.clock.turn(59.5)
    assert fail(house, 11) == ["UNAUTHORIZED"] * 10 + ["TOO_MANY_ATTEMPTS"]
    assert not scrypts, "of an id that is not known"
    assert fail(house, 12, token=guess(anna))[-3:] == ["UNAUTHORIZED"] + ["TOO_MANY_ATTEMPTS"] * 2
    assert len(scrypts) == MOST_FAILURES


def test_failures_at_the_login_and_beside_it_are_counted_together(house: House, anna: str) -> None:
    assert fail(house, 9) == ["UNAUTHORIZED"] * 9
    with pytest.raises(RequestError, match="No such token"):
        house.login("wrong")
    assert fail(house, 1) == ["TOO_MANY_ATTEMPTS"]


def test_a_neighbour_who_guesses_keeps_nobody_out(house: House, anna: str, bob: str) -> None:
    assert house.ask(token=anna) is not None
    fail(house, 11)
    assert house.ask(token=anna) is not None, "known already"
    assert house.ask(token=bob) is not None, "not known yet, but there is such a one"
    assert house.ask(headers={}, path="/public") is None
    assert fail(house, 1, peer="192.168.1.51") == ["UNAUTHORIZED"]


def test_guesses_at_one_token_are_counted_for_that_one(house: House, anna: str, bob: str) -> None:
    assert fail(house, 11, token=guess(anna))[-2:] == ["UNAUTHORIZED", "TOO_MANY_ATTEMPTS"]
    assert house.ask(token=bob) is not None
    assert house.ask(token=anna, peer="192.168.1.51") is not None
    assert house.ask(token=anna) is not None, "found right from there"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("fd00::1", "fd00::ffff:ffff:ffff:ffff", True),
        ("fd00::1", "fd00:0:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.168.1.50", LAN, True),
        ("::ffff:192.168.1.50", "::ffff:192.168.1.51", False),
        ("", "", True),
    ],
)
def test_a_home_network_of_ipv6_counts_as_one_address(
    house: House, anna: str, one: str, other: str, same: bool
) -> None:
    fail(house, 10, peer=one)
    assert fail(house, 1, peer=other) == ["TOO_MANY_ATTEMPTS" if same else "UNAUTHORIZED"]


def test_thousands_of_addresses_take_bounded_memory(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    attempts = Attempts(clock)
    for number in range(5 * MOST_COUNTED):
        attempts.fail(f"10.0.{number >> 8}.{number & 255}")
    assert len(attempts._failures) == MOST_COUNTED
    assert not caplog.records


def test_failures_rest_so_that_no_attack_takes_all_of_a_processor(
    house: House, anna: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dear(*_: Any, **__: Any) -> bytes:
        house.clock.turn(0.3)
        return b""

    before_s = house.clock.mono_s()
    monkeypatch.setattr(hashlib, "scrypt", dear)
    fail(house, 1, token=guess(anna))
    assert house.clock.mono_s() - before_s == pytest.approx(1.2)
    fail(house, 1)
    assert house.clock.mono_s() - before_s == pytest.approx(1.2), "an unknown id is no work"


def test_what_is_found_right_does_not_rest(house: House, anna: str) -> None:
    before_s = house.clock.mono_s()
    assert house.ask(token=anna) is not None
    assert house.clock.mono_s() == before_s


def test_one_is_looked_at_at_a_time_and_few_wait() -> None:
    attempts, clock = Attempts(FakeClock()), threading.Semaphore(0)
    running: list[int] = []
    most: list[int] = []

    def attempt() -> str:
        running.append(1)
        most.append(len(running))
        clock.acquire()
        running.pop()
        return "right"

    def make(number: int) -> str | None:
        try:
            return attempts.make(f"10.0.0.{number}", "anna", attempt)
        except RequestError as refusal:
            return f"{refusal.status} {refusal.headers[0]}"

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(make, number) for number in range(20)]
        wait_until(lambda: sum(each.done() for each in asked) == 20 - MOST_IN_LINE)
        assert {each.result() for each in asked if each.done()} == {"503 ('Retry-After', '1')"}
        for _ in range(MOST_IN_LINE):
            clock.release()
        ended = [each.result() for each in asked]
    assert ended.count("right") == MOST_IN_LINE
    assert set(most) == {1}
    assert attempts.make(LAN, "anna", lambda: "right") == "right", "all places are free again"
    assert not attempts._lines


def test_who_waits_too_long_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.api.attempts.PATIENCE_S", 0.02)
    attempts, ends, begun = Attempts(FakeClock()), threading.Event(), threading.Event()

    def attempt() -> str:
        begun.set()
        ends.wait(10)
        return "right"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(attempts.make, LAN, "anna", attempt)
        begun.wait(10)
        with pytest.raises(RequestError, match="try again in a second"):
            attempts.make(LAN, "anna", lambda: "right")
        assert attempts.make(LAN, "bob", lambda: "right") == "right"
        ends.set()
        assert first.result() == "right"


def test_guesses_at_one_token_let_another_one_in_at_once(
    house: House, anna: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests, over = threading.Event(), threading.Event()

    def rest(_duration_s: float) -> None:
        rests.set()
        over.wait(10)

    monkeypatch.setattr(house.clock, "sleep", rest)
    with ThreadPoolExecutor(MOST_IN_LINE) as pool:
        guesses = [
            pool.submit(house.refused, token=guess(anna), peer=f"10.0.0.{number}")
            for number in range(MOST_IN_LINE)
        ]
        assert rests.wait(10)
        assert house.ask(token=bob) == Caller("bob", Role.READER)
        over.set()
        assert {each.result() for each in guesses} == {"UNAUTHORIZED"}


def test_guesses_at_random_keep_nobody_out_who_was_not_seen_before(house: House, anna: str) -> None:
    over = threading.Event()

    def guess_on(number: int) -> int:
        count = 0
        while not over.is_set():
            count += 1
            peer = f"10.{number}.{count >> 8 & 255}.{count & 255}"
            with suppress(RequestError):
                house.ask(token=f"dlm_{count:08x}_{'A' * 43}", peer=peer)
        return count

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(guess_on, number) for number in range(8)]
        try:
            for number in range(10):
                fresh = house.add(f"fresh{number}")
                assert house.login(fresh).cookie
                assert house.ask(token=anna) is not None
            house.restart()
            assert house.ask(token=anna) is not None
        finally:
            over.set()
        assert all(each.result() for each in asked)


def test_many_at_once_from_one_address_have_ten_attempts_together(house: House, anna: str) -> None:
    def ask(_: int) -> str:
        while (code := house.refused(token=guess(anna))) == "BUSY":
            pass
        return code

    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(ask, range(40)))
    assert codes.count("UNAUTHORIZED") == MOST_FAILURES


def test_a_client_with_many_connections_is_let_in_on_all(
    house: House, anna: str, scrypts: list[bytes]
) -> None:
    scrypts.clear()
    with ThreadPoolExecutor(MOST_IN_LINE) as pool:
        asked = list(pool.map(lambda _: house.ask(token=anna), range(MOST_IN_LINE)))
    assert asked == [Caller("anna", Role.ADMIN)] * MOST_IN_LINE
    assert len(scrypts) == 1


def test_nothing_secret_is_logged(
    house: House, anna: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    browser = house.login(anna)
    house.ask("POST", headers=browser.headers())
    fail(house, 11, token=anna[:13] + "A" * 43)
    house.post(house.door.log_out, headers=browser.headers())
    assert f"anna logged in from {LAN}" in caplog.text
    for secret in (anna, anna.rpartition("_")[2], "A" * 43, browser.csrf, browser.cookie[12:]):
        assert secret not in caplog.text


# --- The service as a whole ----------------------------------------------------------------------


def asked(
    service: Service, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, str]:
    """Ask once: the status, the document, and the cookie that comes with it."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=15)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json", **given})
        answer = connection.getresponse()
        document = json.loads(answer.read())
    finally:
        connection.close()
    return answer.status, document, (answer.headers["Set-Cookie"] or "").partition(";")[0]


def test_a_running_service_asks_from_the_first_token_on_and_takes_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the service hashes in earnest
    meters = "/api/energy-meters"
    with Service(tmp_path) as service:
        assert asked(service, "GET", "/api/session")[1]["data"]["required"] is False
        assert asked(service, "POST", meters, a_registration("first"))[0] == 201
        anna = Tokens(service.state_dir).add("anna", Role.ADMIN, 0)
        status, refused, _ = asked(service, "POST", meters, a_registration("second"))
        assert (status, refused["code"]) == (401, "UNAUTHORIZED")
        for path, code in ((meters, 401), ("/api/nothing", 401), ("/healthz", 200)):
            assert asked(service, "GET", path)[0] == code
        assert asked(service, "GET", meters, Authorization=f"Bearer {anna}")[0] == 200

        status, said, cookie = asked(service, "POST", "/api/login", {"token": anna})
        assert (status, said["data"]["name"]) == (200, "anna")
        csrf = said["data"]["csrfToken"]
        assert asked(service, "GET", meters, Cookie=cookie)[0] == 200
        status, refused, _ = asked(service, "POST", meters, a_registration("second"), Cookie=cookie)
        assert (status, refused["code"]) == (403, "CSRF")
        mine = {"Cookie": cookie, "X_CSRF_Token": csrf, "Origin": service.base_url}
        assert asked(service, "POST", meters, a_registration("second"), **mine)[0] == 201
        line = "anna: POST '/api/energy-meters': 201"
        service.wait_until(lambda: line in service.log, "telling who changed what")

        service.kill()
        service.start()
        mine["Origin"] = service.base_url
        assert asked(service, "GET", "/api/session", Cookie=cookie)[1] == said
        local = (service.state_dir / LOCAL_FILE).read_text().strip()
        assert asked(service, "GET", meters, Authorization=f"Bearer {local}")[1]["count"] == 2
        assert asked(service, "POST", "/api/logout", **mine)[0] == 200
        assert asked(service, "GET", meters, Cookie=cookie)[0] == 401
        codes = [asked(service, "POST", "/api/login", {"token": UNKNOWN})[0] for _ in range(11)]
        assert codes == [401] * 10 + [429]
        assert asked(service, "GET", meters, Authorization=f"Bearer {anna}")[0] == 200
        assert asked(service, "POST", "/api/logout")[0] == 200
        assert asked(service, "POST", "/api/login", {})[0] == 400
        service.wait_until(lambda: "anna logged out from" in service.log, "telling who logged out")
        assert "'/api/log" not in service.log, "what everyone may send fills no log"
        for secret in (anna, local, cookie[12:], csrf):
            assert secret not in service.log


def test_a_running_service_that_is_open_is_open_to_no_page_that_took_its_address(
    tmp_path: Path,
) -> None:
    config = "[api]\nallow_unauthenticated = true\nallowed_hosts = ['dlm.example']\n"
    meters = "/api/energy-meters"
    with Service(tmp_path, config=config, arguments=("--host", "0.0.0.0")) as service:
        evil = {"Host": f"evil.example:{service.port}"}
        evil["Origin"] = f"http://{evil['Host']}"
        status, refused, _ = asked(service, "POST", meters, a_registration("first"), **evil)
        assert (status, refused["code"]) == (403, "FOREIGN_HOST")
        assert asked(service, "GET", meters, **evil)[0] == 403
        for host in (f"127.0.0.1:{service.port}", "dlm.example"):
            assert asked(service, "GET", meters, Host=host)[1]["count"] == 0


def test_a_running_service_beyond_this_machine_lets_nobody_in_without_its_last_token(
    tmp_path: Path,
) -> None:
    Tokens(tmp_path / "state").add("anna", Role.READER, 0)
    with Service(tmp_path, arguments=("--host", "0.0.0.0")) as service:
        assert asked(service, "GET", "/api/system")[0] == 401
        Tokens(service.state_dir).remove("anna")
        assert asked(service, "GET", "/api/system")[0] == 401
        assert asked(service, "GET", "/healthz")[0] == 200
