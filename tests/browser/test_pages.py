"""Each page, as an operator meets it: its data is there, nothing is broken, nothing leaves the origin."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import MARKS, Watch
from tests.browser.scene import RUNAWAY
from tests.browser.screenshots import PAGES, Scheme, log_in, settle
from tests.support.gateway import ThreadedGateway

pytestmark = MARKS

SHOWS = {
    "now": ("Live runs", "invoice-backfill", "Waiting for approval", "Budgets", "What happened"),
    "runs": ("Newest first", "ticket-98121", "Completed"),
    "run": ("invoice-backfill", "Timeline", "Still running", "Tools"),
    "spend": ("By user", "noor", "Budgets, forecast", "Saved"),
    "guards": ("Findings over time", "Shadow versus enforced", "EMAIL_ADDRESS"),
    "policy": ("Being tried", "10 % of new runs", "everyone-hour"),
    "approvals": ("Waiting", "mara@example.com", "Approved"),
    "audit": ("kill.set", "budget.topup", "quarter-end report"),
}


def go(page: Page, gateway: ThreadedGateway, place: str) -> None:
    page.goto(f"{gateway.url}/dashboard{place}")
    settle(page)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_its_data(page: Page, gateway: ThreadedGateway, name: str) -> None:
    log_in(page, gateway)
    go(page, gateway, PAGES[name])
    for text in SHOWS[name]:
        expect(page.locator("main")).to_contain_text(text)
    assert page.locator("main [role=alert]").count() == 0
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_phone_needs_no_sideways_scrolling(
    chromium: Browser, gateway: ThreadedGateway, name: str, scheme: Scheme
) -> None:
    context = chromium.new_context(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True
    )
    page = context.new_page()
    log_in(page, gateway)
    go(page, gateway, PAGES[name])
    wide = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1
            && !e.closest('.scroll, pre, .segments, textarea, .hidden-text')).map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, wide[:5]
    context.close()


def test_light_and_dark_follow_the_system_until_one_is_chosen(
    page: Page, context: BrowserContext, gateway: ThreadedGateway
) -> None:
    log_in(page, gateway)
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert light != dark
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate(background) == light
    page.reload()
    settle(page)
    assert page.evaluate(background) == light


def contrast(first: str, second: str) -> float:
    """By WCAG, of two `rgb(…)` colours."""

    def light(colour: str) -> float:
        parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    a, b = sorted((light(first), light(second)), reverse=True)
    return (a + 0.05) / (b + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(
    page: Page, gateway: ThreadedGateway, scheme: Scheme
) -> None:
    page.emulate_media(color_scheme=scheme)
    log_in(page, gateway)
    settle(page)
    pairs = page.evaluate(
        """() => { const found = {};
          for (const e of document.querySelectorAll('main *, aside *')) {
            if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
            let b = e; while (b && /, 0\\)$|transparent/.test(getComputedStyle(b).backgroundColor)) b = b.parentElement;
            const back = getComputedStyle(b ?? document.body).backgroundColor;
            if (!back.startsWith('rgb')) continue;
            found[getComputedStyle(e).color + '|' + back] = e.outerHTML.slice(0, 100);
          } return found; }"""
    )
    low = {
        html: round(contrast(*key.split("|")), 2)
        for key, html in pairs.items()
        if contrast(*key.split("|")) < 4.5
    }
    assert low == {}


def test_what_a_page_loads_is_small(page: Page, gateway: ThreadedGateway) -> None:
    sizes: dict[str, int] = {}
    page.on(
        "response",
        lambda r: sizes.__setitem__(r.url, len(r.body())) if r.url.endswith(("js", "mjs")) else None,
    )
    log_in(page, gateway)
    for place in PAGES.values():
        go(page, gateway, place)
    assert 0 < sum(sizes.values()) < 300_000


def test_figures_of_the_api_are_the_figures_on_the_page(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    go(page, gateway, f"#/runs/{RUNAWAY}")
    run = gateway.admin("GET", f"/runs/{RUNAWAY}")
    totals = page.get_by_label("Totals")
    expect(totals).to_contain_text(f"${float(run['cost_usd']):.2f}")
    expect(totals).to_contain_text(str(run["steps"]))
    assert page.locator("details.step").count() == run["attempts"] + run["refusals"]
    page.locator("details.step summary").first.click()
    first = gateway.admin("GET", f"/runs/{RUNAWAY}/steps?limit=1")["data"][0]
    expect(page.locator("details.step").first).to_contain_text(first["cost_usd"])


def test_an_unknown_run_is_said_to_be_unknown(page: Page, watch: Watch, gateway: ThreadedGateway) -> None:
    watch.expected = ("Failed to load resource: the server responded with a status of 404",)
    log_in(page, gateway)
    go(page, gateway, "#/runs/nobody-knows")
    expect(page.locator("main")).to_contain_text("There is no such run")


def test_a_gateway_that_does_not_answer_is_noticed(
    page: Page, watch: Watch, context: BrowserContext, gateway: ThreadedGateway
) -> None:
    watch.expected = ("Failed to load resource: net::ERR_INTERNET_DISCONNECTED",)
    log_in(page, gateway)
    settle(page)
    context.set_offline(True)
    expect(page.get_by_text("The gateway does not answer.")).to_be_visible(timeout=8000)
    expect(page.get_by_role("link", name="invoice-backfill")).to_be_visible()
    context.set_offline(False)
    expect(page.get_by_text("The gateway does not answer.")).to_be_hidden(timeout=8000)


def test_spend_by_each_group_and_its_csv(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    go(page, gateway, "#/spend")
    for name in ("Team", "Model", "Provider", "Session", "Key", "API", "Tag"):
        page.get_by_role("group", name="Grouped by").get_by_role("button", name=name, exact=True).click()
        expect(page.get_by_role("heading", name=f"By {name.lower()}")).to_be_visible()
        expect(page.locator("main canvas")).to_be_visible()
    page.get_by_role("button", name="User", exact=True).click()
    expect(page.get_by_role("heading", name="By user")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == '"at","user","cost_usd"'
    assert any('"noor"' in line for line in lines)
