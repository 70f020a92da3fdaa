"""Changing things on the dashboard, as people do it: meters are added, edited and deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from edge.library import Library
from edge.simulate import DemoSite
from tests.browser import LOOKS, Look, Tab, chromium
from tests.peers import fail
from tests.sites import MAIN, Locked, Plant, a_locked_service, available, meter_row


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the whole session: while it runs, this thread has a running event loop.
    with chromium() as launched:
        yield launched


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as running:
        yield running


@pytest.fixture
def bare_plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path, registered=False) as running:
        yield running


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    with a_locked_service(tmp_path_factory.mktemp("locked")) as running:
        yield running


@pytest.fixture
def own_locked(tmp_path: Path) -> Iterator[Locked]:
    """One whose meter and tokens the test may take away."""
    with a_locked_service(tmp_path) as running:
        yield running


# --- Adding, changing and deleting a meter -------------------------------------------------------


def go_on(page: Page) -> None:
    page.get_by_role("button", name="Next").click()


def test_a_meter_is_added_from_the_library(browser: Browser, bare_plant: Plant) -> None:
    template = next(t for t in Library().listing().templates if t.name == "eastron-sdm630")
    with DemoSite(1, template=template) as device, Tab(browser, bare_plant.base_url) as tab:
        where = device.registrations[0]["communication"]
        page = tab.go("/")
        expect(available(page)).to_contain_text("Unmetered")
        page.get_by_role("link", name="Meters").click()
        page.get_by_role("link", name="Add the first meter").click()
        page.get_by_label("Find your meter").fill("sdm630")
        page.get_by_role("radio", name="SDM630").check()
        tab.shoot("add-library")
        go_on(page)
        page.get_by_role("textbox", name="Host").fill(where["host"])
        page.get_by_role("textbox", name="Port").fill(str(where["port"]))
        go_on(page)
        values = page.get_by_role("table", name="What it reads")
        expect(values.get_by_role("row", name="Power", exact=False).first).to_contain_text("kW")
        expect(values.get_by_role("row", name="Frequency")).to_contain_text(re.compile("(49|50)"))
        tab.shoot("add-test")
        assert tab.grave_findings() == []
        go_on(page)
        page.get_by_role("textbox", name="Name").fill("House connection")
        page.get_by_role("radio", name="Grid").check()
        page.get_by_role("button", name="Add meter").click()
        expect(page.get_by_role("heading", name="House connection")).to_be_visible()
        expect(page.get_by_text("Online")).to_be_visible()
        page.get_by_role("link", name="Overview").click()
        expect(available(page)).to_contain_text("Good")
        expect(page.get_by_role("link", name="House connection")).to_be_visible()


def test_a_fault_stands_at_its_field_until_it_is_mended(
    browser: Browser, bare_plant: Plant
) -> None:
    complaints = ("status of 400",)
    with Tab(browser, bare_plant.base_url, complaints=complaints) as tab:
        page = tab.go("/#/add")
        page.get_by_role("radio", name="Modbus You need").check()
        go_on(page)
        page.get_by_role("textbox", name="Host").fill("127.0.0.1")
        page.get_by_role("textbox", name="Port").fill("70000")
        power = page.get_by_role("group", name="Power")
        power.get_by_role("textbox", name="Address").fill("0")
        power.get_by_label("Type").select_option("float32")
        go_on(page)
        port = page.get_by_role("textbox", name="Port")
        expect(port).to_be_focused()
        expect(port).to_have_accessible_description("Must be 1 to 65,535, not 70,000")
        expect(port).to_have_attribute("aria-invalid", "true")
        tab.shoot("add-fault")
        assert tab.grave_findings() == []
        port.fill(str(bare_plant.meter.port))
        expect(port).not_to_have_attribute("aria-invalid", "true")
        go_on(page)
        expect(page.get_by_role("table", name="What it reads")).to_contain_text("20.0 kW")
        go_on(page)
        page.get_by_role("button", name="Add meter").click()
        expect(page.get_by_role("textbox", name="Name")).to_be_focused()
        expect(page.get_by_role("textbox", name="Name")).to_have_attribute("aria-invalid", "true")
        page.get_by_role("textbox", name="Name").fill(MAIN)
        page.get_by_role("radio", name="Grid").check()
        page.get_by_role("button", name="Add meter").click()
        expect(page.get_by_role("region", name="Now")).to_contain_text("20.0 kW")


def test_a_silent_meter_is_told_as_such(browser: Browser, bare_plant: Plant) -> None:
    bare_plant.unplug()
    with Tab(browser, bare_plant.base_url) as tab:
        page = tab.go("/#/add")
        page.get_by_role("radio", name="Modbus You need").check()
        go_on(page)
        page.get_by_role("textbox", name="Host").fill("127.0.0.1")
        page.get_by_role("textbox", name="Port").fill(str(bare_plant.meter.port))
        page.get_by_role("group", name="Power").get_by_role("textbox", name="Address").fill("0")
        go_on(page)
        expect(page.get_by_role("button", name="Go on anyway")).to_be_visible()
        expect(page.get_by_role("region", name="Test")).to_contain_text("refused the connection")
        bare_plant.meter.heal()
        page.get_by_role("button", name="Test again").click()
        expect(page.get_by_role("table", name="What it reads")).to_be_visible()


def test_a_meter_is_added_with_the_keyboard_alone(browser: Browser, bare_plant: Plant) -> None:
    with Tab(browser, bare_plant.base_url) as tab:
        page = tab.go("/")
        expect(available(page)).to_contain_text("Unmetered")

        def tab_to(target: Locator) -> None:
            """Press the tab key until the focus is there, as somebody without a mouse does."""
            for _ in range(40):
                if target.evaluate("node => node === document.activeElement"):
                    return
                page.keyboard.press("Tab")
            fail(f"the tab key does not lead to {target}")

        def enter(label: str, text: str) -> None:
            tab_to(page.get_by_role("textbox", name=label))
            page.keyboard.press("Control+A")
            page.keyboard.type(text)

        tab_to(page.get_by_role("link", name="Meters"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Meters")).to_be_visible()
        tab_to(page.get_by_role("link", name="Add meter"))
        page.keyboard.press("Enter")
        expect(page.get_by_label("Find your meter")).to_be_visible()
        tab_to(page.get_by_role("radio", name="ABB A43"))
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")
        expect(page.get_by_role("radio", name="Modbus You need")).to_be_checked()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Connection")).to_be_focused()
        enter("Host", "127.0.0.1")
        enter("Port", str(bare_plant.meter.port))
        power = page.get_by_role("group", name="Power")
        tab_to(power.get_by_role("textbox", name="Address"))
        page.keyboard.type("0")
        tab_to(power.get_by_label("Type"))
        page.keyboard.type("float32")
        page.keyboard.press("Enter")
        tab_to(page.get_by_role("button", name="Next"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Test")).to_be_focused()
        expect(page.get_by_role("table", name="What it reads")).to_contain_text("20.0 kW")
        tab_to(page.get_by_role("button", name="Next"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Name and role")).to_be_focused()
        enter("Name", MAIN)
        tab_to(page.get_by_role("radio", name="Grid"))
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=MAIN)).to_be_visible()


def test_a_changed_meter_is_read_as_changed(browser: Browser, plant: Plant) -> None:
    with Tab(browser, plant.base_url) as tab:
        page = tab.go("/#/meters")
        meter_row(page, MAIN).get_by_role("link", name=f"Edit {MAIN}").click()
        page.get_by_role("textbox", name="Name").fill("Transformer")
        page.get_by_role("textbox", name="Largest power").fill("70")
        page.get_by_role("button", name="Save changes").click()
        expect(page.get_by_role("heading", name="Transformer")).to_be_visible()
        expect(page.get_by_role("region", name="Configuration")).to_contain_text("70.0 kW")
        page.get_by_role("link", name="Meters").click()
        expect(meter_row(page, "Transformer")).to_contain_text("20.0 kW")


def test_a_meter_is_deleted_only_when_that_is_confirmed(browser: Browser, plant: Plant) -> None:
    with Tab(browser, plant.base_url) as tab:
        page = tab.go("/#/meters")
        delete = page.get_by_role("button", name=f"Delete {MAIN}")
        dialog = page.get_by_role("dialog", name=MAIN)
        delete.click()
        tab.shoot("delete")
        assert tab.grave_findings() == []
        expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert len(plant.service.data("/api/energy-meters")) == 1
        delete.click()
        dialog.get_by_role("button", name="Delete meter").click()
        expect(page.get_by_text("No meter is registered yet")).to_be_visible()
        assert plant.service.data("/api/energy-meters") == []


# --- Who may what --------------------------------------------------------------------------------


def log_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.name)
def test_the_login_fits_and_can_be_used_by_all(
    browser: Browser, locked: Locked, look: Look
) -> None:
    with Tab(browser, locked.service.base_url, look) as tab:
        page = tab.go("/")
        expect(page.get_by_label("Token")).to_be_visible()
        tab.shoot("login")
        assert tab.sideways() == []
        assert tab.grave_findings() == []


def test_without_a_token_nothing_is_shown(browser: Browser, locked: Locked) -> None:
    with Tab(browser, locked.service.base_url, complaints=("status of 401",)) as tab:
        page = tab.go("/#/system")
        token = page.get_by_label("Token")
        expect(token).to_be_visible()
        expect(page.get_by_role("navigation", name="Pages")).to_be_hidden()
        tab.shoot("login")
        page.get_by_role("button", name="Log in").click()
        expect(token).to_have_accessible_description(re.compile("Enter a token"))
        token.fill("dlm_00000000_" + "x" * 43)
        page.keyboard.press("Enter")
        expect(token).to_have_accessible_description(re.compile("This token is not known"))
        assert tab.grave_findings() == []
        token.fill(locked.admin)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="System")).to_be_visible()
        expect(page.get_by_text("Logged in as anna (administrator)")).to_be_visible()
        page.reload()
        page.get_by_role("button", name="Log out").click()
        expect(token).to_be_visible()
        page.reload()
        expect(token).to_be_visible()


def test_a_reader_may_look_and_change_nothing(browser: Browser, locked: Locked) -> None:
    with Tab(browser, locked.service.base_url) as tab:
        page = tab.go("/#/meters")
        log_in(page, locked.reader)
        expect(page.get_by_text("You may look, not change")).to_be_visible()
        expect(page.get_by_role("button", name="Add meter")).to_be_disabled()
        expect(page.get_by_role("button", name=f"Edit {MAIN}")).to_be_disabled()
        expect(page.get_by_role("button", name=f"Delete {MAIN}")).to_be_disabled()
        tab.shoot("reader")
        assert tab.grave_findings() == []
        page.goto("/#/add")
        expect(page.get_by_text("You may look, not change")).to_be_visible()
        expect(page.get_by_role("textbox")).to_have_count(0)
        page.goto("/#/system")
        expect(page.get_by_text("The log is shown to administrators only")).to_be_visible()


def test_a_change_carries_what_other_sites_cannot_know(
    browser: Browser, own_locked: Locked
) -> None:
    forged = "async path => (await fetch(path, {method: 'DELETE'})).status"
    with Tab(browser, own_locked.service.base_url, complaints=("status of 403",)) as tab:
        page = tab.go("/#/meters")
        log_in(page, own_locked.admin)
        page.get_by_role("button", name=f"Delete {MAIN}").click()
        assert page.evaluate(forged, "/api/energy-meters/meter_000000") == 403
        with page.expect_request(lambda request: request.method == "DELETE") as sent:
            page.get_by_role("button", name="Delete meter").click()
        assert sent.value.headers["x-csrf-token"]
        expect(page.get_by_text("No meter is registered yet")).to_be_visible()


def test_who_is_locked_out_is_told_to_log_in_again(browser: Browser, own_locked: Locked) -> None:
    with Tab(browser, own_locked.service.base_url, complaints=("401",)) as tab:
        page = tab.go("/#/system")
        log_in(page, own_locked.admin)
        expect(page.get_by_role("heading", name="System")).to_be_visible()
        own_locked.tokens.remove("anna")
        expect(page.get_by_text("You have been logged out")).to_be_visible()
        log_in(page, own_locked.reader)
        expect(page.get_by_text("Logged in as bob (reader)")).to_be_visible()
