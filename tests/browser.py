"""Debian's Chromium, driven by Playwright, and all that must not happen while a page is looked at.

A Tab fails its test over what a person would never be told: errors on the console, uncaught
exceptions, parts that do not load, and requests to any host but the service's.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    WebSocket,
    expect,
    sync_playwright,
)

from tests.peers import fail, need_program

SCREENSHOTS = Path(__file__).resolve().parent.parent / ".test-output" / "screenshots"
"""Kept after the tests, for people to look at."""
_PATIENCE_MS = 10_000
"""How long a test waits for what has no deadline of its own: the machine may be slow."""
_FLAGS = (
    "--no-sandbox",  # it does not start as root with one
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
)
_GIVEN_UP = "net::ERR_ABORTED"
"""The page itself did not want the answer any more."""
_LOCAL = ("data:", "blob:", "about:")
_AXE = importlib.resources.files("axe_playwright_python") / "axe.min.js"
_SIDEWAYS = """
[...document.querySelectorAll('*')].filter((node) => {
  const scrolls = node === document.documentElement
    || ['auto', 'scroll'].includes(getComputedStyle(node).overflowX);
  return scrolls && node.tagName !== 'PRE' && node.scrollWidth > node.clientWidth + 1;
}).map((node) => node.outerHTML.slice(0, 120))
"""
_GRAVE = ("serious", "critical")


class Look(NamedTuple):
    """What a page is looked at with."""

    name: str
    theme: Literal["light", "dark"]
    width_px: int
    height_px: int


LIGHT = Look("light", "light", 1280, 900)
DARK = Look("dark", "dark", 1280, 900)
PHONE = Look("phone", "light", 390, 844)
LOOKS = (LIGHT, DARK, PHONE)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Give a browser without a window, or fail the test with the Debian package to install."""
    program = need_program("chromium", "chromium")
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A tab of its own, without a past; a context manager that fails the test at its end.

    complaints: regular expressions of what the browser has to complain about here, since the test
    brings it about; each must come true, and any other complaint fails the test.
    """

    def __init__(
        self,
        browser: Browser,
        base_url: str,
        look: Look = LIGHT,
        *,
        complaints: tuple[str, ...] = (),
    ) -> None:
        self.look = look
        self._complaints = complaints
        self._heard: list[str] = []
        self._own = re.compile(rf"(http|ws)://{re.escape(base_url.partition('//')[2])}/")
        self._context = browser.new_context(
            base_url=base_url,
            color_scheme=look.theme,
            reduced_motion="reduce",
            viewport={"width": look.width_px, "height": look.height_px},
        )
        self._context.set_default_timeout(_PATIENCE_MS)
        self.page: Page = self._context.new_page()
        self._listen()

    def _listen(self) -> None:
        def at_console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self._heard.append(f"console: {message.text} ({message.location['url']})")

        def failed(request: Request) -> None:
            if request.failure != _GIVEN_UP:
                self._heard.append(f"failed: {request.url}: {request.failure}")

        def asked(request: Request | WebSocket) -> None:
            if not self._own.match(request.url) and not request.url.startswith(_LOCAL):
                self._heard.append(f"another host was asked: {request.url}")

        self.page.on("console", at_console)
        self.page.on("pageerror", lambda error: self._heard.append(f"exception: {error}"))
        self.page.on("requestfailed", failed)
        self.page.on("request", asked)
        self.page.on("websocket", asked)

    def go(self, path: str) -> Page:
        """Load a page anew, as when its address is typed in."""
        self.page.goto("about:blank")
        self.page.goto(path)
        return self.page

    def shoot(self, name: str) -> None:
        """Keep a picture of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}-{self.look.name}.png", full_page=True)

    def sideways(self) -> list[str]:
        """Parts of the page that people have to scroll sideways; code may be as long as it is."""
        found: list[str] = self.page.evaluate(_SIDEWAYS)
        return found

    def grave_findings(self) -> list[str]:
        """What axe-core finds on the page that shuts people out, with the elements it is about."""
        self.page.evaluate(_AXE.read_text(encoding="utf-8"))
        found: dict[str, Any] = self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{finding['id']} ({finding['impact']}): {finding['help']}: "
            + " | ".join(node["html"][:120] for node in finding["nodes"][:5])
            for finding in found["violations"]
            if finding["impact"] in _GRAVE
        ]

    def __enter__(self) -> Tab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                self.shoot("failed")
                print(*self._heard, sep="\n")
            else:
                self._judge()
        finally:
            self._context.close()

    def _judge(self) -> None:
        self.page.evaluate("0")  # what the browser has told until now is heard with the answer
        wrong = [
            heard for heard in self._heard if not any(re.search(c, heard) for c in self._complaints)
        ]
        if wrong:
            fail("the browser complains:\n" + "\n".join(wrong))
        for complaint in self._complaints:
            if not any(re.search(complaint, heard) for heard in self._heard):
                fail(f"the browser did not complain about {complaint!r}")
