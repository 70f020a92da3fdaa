"""The dashboard as people look at it: a real browser, the real service, simulated meters."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import LOOKS, PHONE, Look, Tab, chromium
from tests.peers import freeze
from tests.service import Service
from tests.sites import (
    HOLE_HOURS_AGO,
    MAIN,
    Plant,
    a_site_with_a_past,
    available,
    meter_id,
    meter_row,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the whole session: while it runs, this thread has a running event loop.
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with a_site_with_a_past(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with Plant(tmp_path) as running:
        yield running


# --- What every page has to be -------------------------------------------------------------------


class Sight(NamedTuple):
    """A page, and what stands there once it is whole. path: {meter} is the id of a meter."""

    name: str
    path: str
    whole: Callable[[Page], Locator]


SIGHTS = (
    Sight("overview", "/", lambda page: page.get_by_role("slider", name="Available capacity")),
    Sight("meters", "/#/meters", lambda page: page.get_by_role("img", name=f"Power of {MAIN}")),
    Sight("meter", "/#/meters/{meter}", lambda page: page.get_by_role("slider", name=MAIN)),
    Sight("add", "/#/add", lambda page: page.get_by_text("models in the library")),
    Sight("edit", "/#/edit/{meter}", lambda page: page.get_by_label("Location")),
    Sight("system", "/#/system", lambda page: page.get_by_text("Listening on")),
    Sight("docs", "/api/docs", lambda page: page.get_by_role("heading", name="/api/load/status")),
)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.name)
@pytest.mark.parametrize("sight", SIGHTS, ids=lambda sight: sight.name)
def test_a_page_is_whole_fits_and_can_be_used_by_all(
    browser: Browser, site: Service, sight: Sight, look: Look
) -> None:
    with Tab(browser, site.base_url, look) as tab:
        page = tab.go(sight.path.format(meter=meter_id(site, MAIN)))
        expect(sight.whole(page)).to_be_visible()
        expect(page.get_by_text("Loading")).to_have_count(0)
        tab.shoot(sight.name)
        assert tab.sideways() == []
        if look is not PHONE:
            assert tab.grave_findings() == []


# --- Live, stale and lost ------------------------------------------------------------------------


def test_a_value_changes_on_the_page_by_itself(browser: Browser, plant: Plant) -> None:
    with Tab(browser, plant.base_url) as tab:
        page = tab.go("/")
        expect(available(page)).to_contain_text("80.0 kW")
        page.evaluate("window.same = true")
        plant.turn(64.25)
        expect(available(page)).to_contain_text("35.7 kW")
        page.get_by_role("link", name="Meters").click()
        expect(meter_row(page, MAIN)).to_contain_text("64.3 kW")
        plant.turn(-3.0)
        expect(meter_row(page, MAIN)).to_contain_text("-3.00 kW")
        assert page.evaluate("window.same"), "the page was loaded anew"


def test_an_unplugged_meter_goes_stale_and_the_capacity_falls_safe(
    browser: Browser, plant: Plant
) -> None:
    with Tab(browser, plant.base_url) as tab:
        page = tab.go("/")
        expect(available(page)).to_contain_text("80.0 kW")
        expect(available(page)).to_contain_text("Good")
        plant.unplug()
        expect(available(page)).to_contain_text("Fail-safe")
        expect(available(page)).to_contain_text("10.0 kW")
        expect(available(page).get_by_role("listitem")).to_contain_text(MAIN)
        source = page.get_by_role("listitem").filter(has=page.get_by_role("link", name=MAIN))
        expect(source.first).to_have_class("stale")
        problems = page.get_by_role("region", name="Active problems")
        expect(problems).to_contain_text("Critical")
        expect(problems).to_contain_text("refused the connection")
        expect(page.get_by_role("link", name="Overview")).to_contain_text("active problem")
        tab.shoot("unplugged")

        page.get_by_role("link", name="Meters").click()
        expect(meter_row(page, MAIN)).to_have_class("stale")
        expect(meter_row(page, MAIN)).to_contain_text(re.compile("Offline|Error"))
        expect(meter_row(page, MAIN)).to_contain_text("20.0 kW")
        expect(meter_row(page, MAIN)).to_contain_text(" s ago")
        tab.shoot("unplugged-meters")
        page.get_by_role("link", name=MAIN, exact=True).click()
        expect(page.get_by_text("last known values")).to_be_visible()
        tab.shoot("unplugged-meter")
        assert tab.grave_findings() == []

        plant.meter.heal()
        expect(page.get_by_text("last known values")).to_be_hidden(timeout=15_000)
        page.get_by_role("link", name="Overview").click()
        expect(available(page)).to_contain_text("Good")
        expect(available(page)).to_contain_text("80.0 kW")
        expect(problems).to_contain_text("No active problems")


LAST_MODULE = "**/login.js"
"""The other pages are loaded ahead, this one last."""
LOST = (r"ERR_CONNECTION_(REFUSED|RESET)", r"WebSocket connection to .* failed")


def test_the_loss_of_the_service_shows_at_once_and_heals_by_itself(
    browser: Browser, plant: Plant
) -> None:
    with Tab(browser, plant.base_url, complaints=LOST) as tab:
        with tab.page.expect_response(LAST_MODULE):
            page = tab.go("/")
        expect(available(page)).to_contain_text("Good")
        banner = page.get_by_role("alert").filter(has_text="No live data")
        page.evaluate("window.same = true")
        plant.service.kill()
        expect(banner).to_be_visible(timeout=2000)
        expect(banner).to_contain_text("Reconnecting by itself")
        expect(available(page)).to_contain_text("Last known value")
        expect(available(page)).to_have_class(re.compile(r"\bstale\b"))
        expect(available(page)).not_to_contain_text("Good")
        tab.shoot("lost")
        assert tab.grave_findings() == []
        page.get_by_role("link", name="Meters").click()
        expect(meter_row(page, MAIN)).to_have_class("stale")
        page.get_by_role("link", name=MAIN, exact=True).click()
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        page.get_by_role("link", name="Overview").click()

        plant.turn(50.0)
        plant.service.start()
        expect(banner).to_be_hidden(timeout=10_000)
        expect(available(page)).to_contain_text("50.0 kW")
        expect(available(page)).to_contain_text("Good")
        assert page.evaluate("window.same"), "the page was loaded anew"


def test_a_service_that_hangs_is_taken_for_lost(browser: Browser, plant: Plant) -> None:
    with Tab(browser, plant.base_url) as tab:
        tab.page.clock.install()
        page = tab.go("/")
        expect(available(page)).to_contain_text("Good")
        banner = page.get_by_role("alert").filter(has_text="No live data")
        freeze(plant.service.process)
        page.clock.fast_forward(11_000)
        expect(available(page)).to_contain_text("Good")
        page.clock.fast_forward(3_000)
        expect(banner).to_be_visible()
        plant.service.signal(signal.SIGCONT)
        expect(banner).to_be_hidden()
        expect(available(page)).to_contain_text("Good")


# --- History -------------------------------------------------------------------------------------


def widths_px(lines: Locator) -> list[tuple[float, float]]:
    """Left and right end of each run of a line."""
    boxes = [line.bounding_box() for line in lines.all()]
    return sorted((box["x"], box["x"] + box["width"]) for box in boxes if box is not None)


def test_what_was_not_recorded_is_a_gap(browser: Browser, site: Service) -> None:
    with Tab(browser, site.base_url) as tab:
        page = tab.go(f"/#/meters/{meter_id(site, MAIN)}")
        chart = page.get_by_role("slider", name=f"Power of {MAIN}")
        expect(chart).to_be_visible()
        lines = chart.locator("path.line")
        expect(lines).to_have_count(2)
        (begin, left), (right, end) = widths_px(lines)
        hole = (right - left) / (end - begin)
        wanted = (HOLE_HOURS_AGO[0] - HOLE_HOURS_AGO[1]) / 24
        assert hole == pytest.approx(wanted, abs=0.02)


def test_the_history_is_zoomed_by_mouse_and_keyboard(browser: Browser, site: Service) -> None:
    with Tab(browser, site.base_url) as tab:
        page = tab.go(f"/#/meters/{meter_id(site, MAIN)}")
        chart = page.get_by_role("slider", name=f"Power of {MAIN}")
        expect(chart).to_be_visible()
        box = chart.bounding_box()
        assert box is not None
        whole_day = chart.get_attribute("aria-label") or ""
        middle_px = box["y"] + box["height"] / 2
        with page.expect_request("**/history?*") as asked:
            page.mouse.move(box["x"] + box["width"] * 0.8, middle_px)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] * 0.9, middle_px, steps=4)
            tab.shoot("zooming")
            page.mouse.up()
        assert asked_hours(asked.value.url) == pytest.approx(2.5, abs=0.2)
        expect(page.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "false")
        expect(chart).not_to_have_attribute("aria-label", whole_day)
        with page.expect_request("**/history?*") as asked:
            chart.press("-")
        assert asked_hours(asked.value.url) == pytest.approx(5, abs=0.4)
        chart.press("End")
        expect(chart).to_have_attribute("aria-valuetext", re.compile(r"Mean power \d+\.\d+ kW"))
        expect(page.get_by_text("Mean power", exact=False).first).to_be_visible()


def asked_hours(url: str) -> float:
    """The hours of history that were asked for."""
    query = parse_qs(urlsplit(url).query)
    return (int(query["to"][0]) - int(query["from"][0])) / 3_600_000


def test_the_history_is_shown_in_hours_and_days(browser: Browser, site: Service) -> None:
    with Tab(browser, site.base_url) as tab:
        page = tab.go(f"/#/meters/{meter_id(site, MAIN)}")
        resolution = page.get_by_label("Resolution")
        resolution.select_option("Hours")
        expect(page.get_by_text("mean of each hour")).to_be_visible()
        chart = page.get_by_role("slider", name=f"Power of {MAIN}")
        expect(chart.locator("path.band")).to_have_count(2)
        tab.shoot("hourly")
        resolution.select_option("Days")
        expect(page.get_by_text("No hour or day of this range is summed up yet")).to_be_visible()


def test_the_history_is_downloaded(browser: Browser, site: Service) -> None:
    with Tab(browser, site.base_url) as tab:
        id_ = meter_id(site, MAIN)
        page = tab.go(f"/#/meters/{id_}")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download CSV").click()
        assert download.value.suggested_filename == f"{id_}-raw.csv"
        heading, *rows = download.value.path().read_text(encoding="utf-8").splitlines()
        assert "timestamp" in heading
        assert len(rows) > 20 * 60


# --- The frame -----------------------------------------------------------------------------------


def test_the_chosen_theme_is_kept(browser: Browser, site: Service) -> None:
    with Tab(browser, site.base_url) as tab:
        page = tab.go("/")
        background = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(background)
        page.get_by_role("button", name="Theme: as this device").click()
        page.get_by_role("button", name="Theme: light").click()
        expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
        assert page.evaluate(background) != light
        page.reload()
        expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
        assert page.evaluate(background) != light


@pytest.mark.parametrize(
    ("path", "says"),
    [("/#/nothing", "There is no such page"), ("/#/meters/meter_no", "no meter")],
)
def test_what_is_not_there_is_told_with_a_way_out(
    browser: Browser, site: Service, path: str, says: str
) -> None:
    complaints = ("status of 404",) if "meters" in path else ()
    with Tab(browser, site.base_url, complaints=complaints) as tab:
        page = tab.go(path)
        main = page.get_by_role("main")
        expect(main).to_contain_text(re.compile(says, re.IGNORECASE))
        main.get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(re.compile("Overview|Meters"))


def test_a_call_is_found_in_the_reference(browser: Browser, site: Service) -> None:
    with Tab(browser, site.base_url) as tab:
        page = tab.go("/api/docs")
        call = page.get_by_role("heading", name="/api/load/status")
        other = page.get_by_role("heading", name="/api/login")
        expect(other).to_be_visible()
        page.get_by_label("Find a call").fill("load")
        expect(other).to_be_hidden()
        expect(call).to_be_visible()
        page.get_by_role("link", name="To the dashboard").click()
        expect(available(page)).to_be_visible()
