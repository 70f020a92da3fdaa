"""The page that shows the API's description, in Debian's Chromium: complete, usable, quiet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from edge.api.routes import ROUTES
from tests.browser import LIGHT, LOOKS, Tab, chromium
from tests.service import ROOT, Service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the whole session: while it runs, this thread has a running event loop.
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("reference")) as running:
        yield running


@pytest.fixture
def tab(request: pytest.FixtureRequest, browser: Browser, service: Service) -> Iterator[Tab]:
    """A tab with the page, loaded. Its parameter: a Look."""
    with Tab(browser, service.base_url, getattr(request, "param", LIGHT)) as opened:
        expect(opened.go("/api/docs").locator("section")).to_have_count(len(ROUTES))
        yield opened


@pytest.fixture
def page(tab: Tab) -> Page:
    return tab.page


def test_every_call_is_shown_and_can_be_found(page: Page) -> None:
    for route in ROUTES:
        heading = page.get_by_role("heading", name=f"{route.method} {route.path}", exact=True)
        expect(heading).to_have_count(1)
    page.get_by_label("Find a call").fill("history")
    expect(page.locator("section:visible")).to_have_count(1)
    expect(page.get_by_role("status")).to_have_text("Calls found: 1")


def test_what_a_body_holds_opens_with_the_keyboard(page: Page) -> None:
    section = page.locator("#registerMeter")
    section.locator("summary", has_text="ModbusRegistration").focus()
    page.keyboard.press("Enter")
    expect(section.get_by_text("pollInterval", exact=True).first).to_be_visible()
    section.locator("summary", has_text="communication").first.focus()
    page.keyboard.press("Enter")
    expect(section.get_by_text("unitId", exact=True).first).to_be_visible()


@pytest.mark.parametrize("tab", LOOKS, indirect=True, ids=lambda look: look.name)
def test_what_is_opened_has_no_barrier_and_fits(tab: Tab) -> None:
    tab.page.locator("summary").first.click()
    assert tab.grave_findings() == []
    width_px = tab.page.evaluate("document.documentElement.scrollWidth")
    assert width_px <= tab.look.width_px


def test_who_cannot_be_shown_it_is_told_what_to_do(browser: Browser, service: Service) -> None:
    complaints = ("status of 401", "net::ERR_FAILED")
    with Tab(browser, service.base_url, complaints=complaints) as tab:
        page = tab.page
        page.route("**/api/openapi.json", lambda route: route.fulfill(status=401))
        page.goto("/api/docs")
        expect(page.get_by_role("alert").get_by_role("link")).to_have_attribute("href", "/")
        page.unroute("**/api/openapi.json")
        page.route("**/api/openapi.json", lambda route: route.abort())
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("could not be loaded")
        page.unroute("**/api/openapi.json")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("section")).to_have_count(len(ROUTES))


def test_the_page_is_small() -> None:
    parts = (ROOT / "edge" / "static").glob("docs.*")
    assert 0 < sum(part.stat().st_size for part in parts) < 12_000
