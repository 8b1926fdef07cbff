"""The path of somebody who has never seen this gateway, at 3 a.m.: from a runaway to a policy that lands the next."""

from __future__ import annotations

import re
import time

import orjson
from playwright.sync_api import Page, expect

from tests.browser.conftest import MARKS
from tests.browser.screenshots import log_in
from tests.support.gateway import ALICE, ThreadedGateway

pytestmark = MARKS


def ask(gateway: ThreadedGateway, name: str, turn: int) -> tuple[int, str]:
    """One step of an agent that never comes to an end: (status, error code or empty)."""
    body = {
        "model": "sim/echo",
        "messages": [{"role": "user", "content": f"Find invoice {turn}."}],
        "max_tokens": 50,
    }
    status, _headers, raw = gateway.post(body, key=ALICE, x_guardrail_run_id=name)
    return status, orjson.loads(raw).get("error", {}).get("code", "")


def test_a_newcomer_stops_a_runaway_and_makes_the_next_one_land(page: Page, gateway: ThreadedGateway) -> None:
    for turn in range(3):
        assert ask(gateway, "runaway", turn) == (200, "")

    # It is seen on Now, and opened.
    log_in(page, gateway)
    page.get_by_role("row").filter(has_text="runaway").get_by_role("link", name="runaway").click()
    expect(page.locator("main")).to_contain_text(re.compile(r"Still running: .* of budget run is used"))

    # It is killed with a reason, and the page shows it at once. (The second that a kill may take is measured on the
    # wire, in tests/integration/processes; a browser on a busy machine needs longer to paint.)
    page.get_by_role("button", name="Kill").click()
    page.get_by_label("Reason").fill("it asks for invoices again and again")
    began = time.monotonic()
    page.get_by_role("dialog").get_by_role("button", name="Kill run").click()
    expect(page.locator("main .top .pill")).to_have_text("Killed", timeout=3000)
    assert time.monotonic() - began < 4
    expect(page.locator("#why")).to_contain_text("Killed by admin")
    expect(page.locator("#why")).to_contain_text("it asks for invoices again and again")
    assert ask(gateway, "runaway", 4)[1] == "run_killed"

    # The policy is changed: a shorter run, and the budget in shadow, tried on what has been.
    page.keyboard.press("g")
    page.keyboard.press("p")
    view = page.get_by_role("group", name="View")
    view.get_by_role("button", name="Editor").click()
    page.get_by_label("Rule", exact=True).select_option("budgets: run")
    page.get_by_role("button", name="Shadow", exact=True).click()
    draft = page.get_by_label("Policy as YAML")
    assert re.search(r"mode: shadow, name: run,", draft.input_value())
    draft.fill(draft.input_value().replace("max_steps: 60", "max_steps: 3"))
    page.get_by_role("button", name="Validate").click()
    expect(page.get_by_role("region", name="Validation")).to_contain_text("can be put in force")
    page.get_by_role("button", name="Backtest").click()
    expect(page.get_by_role("region", name="Backtest")).to_contain_text("Differ", timeout=90_000)

    # It is staged for some runs, then rolled out.
    page.get_by_role("button", name="Stage…").click()
    page.get_by_label("Share of new runs").select_option("0.25")
    page.get_by_label("Note").fill("no honest run takes more than three steps")
    page.get_by_role("dialog").get_by_role("button", name="Stage").click()
    expect(page.get_by_role("region", name="Being tried")).to_contain_text("25 % of new runs")
    page.get_by_role("button", name="Roll out to 100 %").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll out").click()
    expect(page.get_by_role("region", name="Being tried")).to_be_hidden()
    view.get_by_role("button", name="In force").click()
    expect(page.locator("main pre")).to_contain_text("mode: shadow, name: run")
    view.get_by_role("button", name="Versions").click()
    page.get_by_role("button", name="Diff").first.click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text("+runs: {max_steps: 3")
    page.keyboard.press("Escape")

    # The next runaway lands by itself, and says why.
    codes = [ask(gateway, "next-runaway", turn)[1] for turn in range(6)]
    assert "step_limit_exceeded" in codes
    page.goto(f"{gateway.url}/dashboard#/runs/next-runaway")
    expect(page.locator("main .top .pill")).to_have_text("Stopped: steps")
    why = page.locator("#why")
    expect(why).to_contain_text("runs.max_steps")
    expect(why).to_contain_text(re.compile(r"Limit[23] steps.*Observed[23] steps"))
    expect(why).to_contain_text("one last step")
