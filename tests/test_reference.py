"""The page that shows the API's description, in Debian's Chromium: complete, usable, quiet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect, sync_playwright

from edge.api.routes import ROUTES
from tests.peers import need_program
from tests.service import ROOT, Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("reference")) as running:
        yield running


@pytest.fixture
def page(request: pytest.FixtureRequest, service: Service) -> Iterator[Page]:
    """The page, loaded; whatever it complains of, or asks another host, fails the test.

    Its parameter: `light` or `dark`.
    """
    scheme: Any = getattr(request, "param", "light")
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=need_program("chromium", "chromium"), args=["--no-sandbox"]
        )
        opened = browser.new_page(color_scheme=scheme)
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", lambda asked: complaints.extend(elsewhere(asked.url, service)))
        opened.goto(f"{service.base_url}/api/docs")
        expect(opened.locator("section")).to_have_count(len(ROUTES))
        yield opened
        browser.close()
    assert complaints == []


def elsewhere(url: str, service: Service) -> list[str]:
    return [] if url.startswith(f"{service.base_url}/") else [url]


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


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_it_has_no_barrier_and_fits_a_phone(page: Page) -> None:
    page.locator("summary").first.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_who_cannot_be_shown_it_is_told_what_to_do(service: Service) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=need_program("chromium", "chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.route("**/api/openapi.json", lambda route: route.fulfill(status=401))
        page.goto(f"{service.base_url}/api/docs")
        expect(page.get_by_role("alert").get_by_role("link")).to_have_attribute("href", "/")
        page.unroute("**/api/openapi.json")
        page.route("**/api/openapi.json", lambda route: route.abort())
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("could not be loaded")
        page.unroute("**/api/openapi.json")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("section")).to_have_count(len(ROUTES))
        browser.close()


def test_the_page_is_small() -> None:
    parts = (ROOT / "edge" / "static").glob("docs.*")
    assert 0 < sum(part.stat().st_size for part in parts) < 12_000
