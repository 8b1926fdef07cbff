"""One gateway with a working day behind it, and one Chromium, for the files of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    ViewportSize,
    sync_playwright,
)

from tests.browser.chromium import ARGUMENTS, executable
from tests.browser.scene import libraries_are_there, scene
from tests.support.gateway import ThreadedGateway

MARKS = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]
"""Of every file here: they share one worker, for the scene takes seconds to make."""
WIDE = ViewportSize(width=1440, height=900)


class Watch:
    """What a page must not do: complain, break the policy of its content, or ask another origin."""

    def __init__(self, page: Page, origin: str) -> None:
        self.origin = origin
        self.problems: list[str] = []
        self.expected: tuple[str, ...] = ()
        """Beginnings of console messages that a test asks for."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        text = message.text
        if message.location["url"].endswith("/dashboard/session") and "401" in text:
            return  # Nobody is logged in yet: that is how a page learns it.
        if message.type in ("error", "warning") and not text.startswith(self.expected or ("\0",)):
            self.problems.append(f"{message.type}: {text}")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.problems.append(f"left the origin: {request.url}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = executable()
    if path is None:
        pytest.skip("Chromium is not installed: sh .ci/bootstrap.sh browser")
    if not libraries_are_there():
        pytest.skip("the dashboard's libraries are missing: make assets")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def gateway(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedGateway]:
    with scene(tmp_path_factory.mktemp("scene"), runs=250) as running:
        yield running


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    made = chromium.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    made.set_default_timeout(10_000)
    yield made
    made.close()


@pytest.fixture
def watch(gateway: ThreadedGateway, context: BrowserContext) -> Iterator[Watch]:
    """The test fails when its page did what no page of ours may."""
    page = context.new_page()
    watching = Watch(page, gateway.url)
    yield watching
    assert watching.problems == []


@pytest.fixture
def page(context: BrowserContext, watch: Watch) -> Page:
    """A page that is watched, not logged in."""
    (page,) = context.pages
    return page
