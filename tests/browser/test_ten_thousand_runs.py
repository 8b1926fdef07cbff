"""Beside 10,000 runs and 100,000 steps: what each page asks, the time it takes the server, and the page itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import MARKS
from tests.browser.scene import RUNAWAY, scene
from tests.browser.screenshots import PAGES, log_in, settle
from tests.support.effort import least_effort
from tests.support.gateway import ThreadedGateway

pytestmark = [*MARKS, pytest.mark.timeout(300)]

ASKED = (
    "/overview",
    "/runs?limit=50",
    "/runs?limit=50&model=gpt-4o&since=24h",
    f"/runs/{RUNAWAY}",
    f"/runs/{RUNAWAY}/steps?limit=200",
    f"/budgets?per=run&id={RUNAWAY}",
    *(f"/timeseries?group_by={group}&tag=agent&since=7d" for group in ("user", "team", "model", "session", "key", "tag")),
    "/savings?since=7d",
    "/findings?since=7d&limit=50",
    "/findings/summary?since=7d",
    "/policy",
    "/policy/versions",
    "/approvals?limit=50",
    "/audit?limit=500",
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedGateway]:
    with scene(tmp_path_factory.mktemp("large"), runs=10_000) as running:
        yield running


@pytest.mark.parametrize("path", ASKED)
def test_a_question_takes_the_server_less_than_300_ms(gateway: ThreadedGateway, path: str) -> None:
    """Of this process, all its threads; the cheapest of several turns, for others share the machine."""
    spent = least_effort(
        lambda: gateway.admin("GET", path), 5, enough=0.3, clock=time.process_time, rest_s=0.45
    )
    assert spent < 0.3


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_there_at_once(page: Page, gateway: ThreadedGateway, name: str) -> None:
    log_in(page, gateway)
    page.goto(f"{gateway.url}/dashboard{PAGES[name]}")
    settle(page)
    assert page.locator("main .panel").count() > 0
