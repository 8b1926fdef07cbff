"""What operators do: stop, approve, top up, report; by mouse, by keyboard alone, and by role."""

from __future__ import annotations

import re
import time

import orjson
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import MARKS, Watch
from tests.browser.scene import RUNAWAY
from tests.browser.screenshots import log_in, settle
from tests.browser.test_pages import go
from tests.support.gateway import ALICE, ThreadedGateway

pytestmark = MARKS

SCRIPT = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def start_runaway(gateway: ThreadedGateway, name: str) -> None:
    """A real run with a few steps, named by its caller."""
    body = {
        "model": "sim/echo",
        "messages": [{"role": "user", "content": "Find invoice 7."}],
        "max_tokens": 50,
    }
    for _ in range(3):
        status, _headers, raw = gateway.post(body, key=ALICE, x_guardrail_run_id=name)
        assert status == 200, raw


def test_a_wrong_token_is_refused_and_the_session_ends_with_log_out(
    page: Page, gateway: ThreadedGateway
) -> None:
    page.goto(f"{gateway.url}/dashboard")
    page.get_by_label("Admin token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown, revoked or expired")
    log_in(page, gateway)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.goto(f"{gateway.url}/dashboard#/audit")
    expect(page.get_by_label("Admin token")).to_be_visible()


def test_every_mistake_in_a_policy_is_told_with_its_line(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    go(page, gateway, "#/policy")
    page.get_by_role("button", name="Editor").click()
    draft = page.get_by_label("Policy as YAML")
    draft.fill(draft.input_value().replace("limit_usd: 60", 'limit_usd: "sixty"'))
    page.get_by_role("button", name="Validate").click()
    told = page.locator("section").filter(has_text="Validation")
    expect(told).to_contain_text("budgets[1].limit_usd")
    expect(told).to_contain_text("line")
    expect(page.get_by_role("button", name="Stage…")).to_be_disabled()


def test_an_approval_is_decided_and_stands_in_the_history(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    go(page, gateway, "#/approvals")
    page.get_by_role("button", name="Deny").last.click()
    page.get_by_label("Reason").fill("not to everyone")
    page.get_by_role("dialog").get_by_role("button", name="Deny").click()
    expect(page.locator("table")).to_contain_text("not to everyone")


def test_a_false_positive_goes_on_record(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    go(page, gateway, "#/guards")
    page.get_by_role("button", name="False positive").first.click()
    page.get_by_label("Why it is wrong").fill("a part number")
    page.get_by_role("dialog").get_by_role("button", name="Report").click()
    expect(page.locator("table .pill[title*='a part number']")).to_be_visible()
    said = gateway.admin("GET", "/findings/feedback")["data"][0]
    assert (said["reason"], said["verdict"], said["by"]) == ("a part number", "false_positive", "admin")


def test_a_budget_is_topped_up_from_its_run(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    go(page, gateway, f"#/runs/{RUNAWAY}")
    page.get_by_role("button", name="Top up").click()
    page.get_by_label("Amount in dollars").fill("1.25")
    page.get_by_label("Reason").fill("let it finish")
    page.get_by_role("dialog").get_by_role("button", name="Top up").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert gateway.admin("GET", f"/budgets/run/topups?id={RUNAWAY}")["data"][0]["amount_usd"] == "1.250000000"


def test_everything_is_stopped_only_after_the_word_was_typed(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    page.get_by_role("button", name="Stop everything").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("drill")
    expect(dialog.get_by_role("button", name="Stop everything")).to_be_disabled()
    dialog.get_by_label("Type STOP to confirm").fill("STOP")
    dialog.get_by_role("button", name="Stop everything").click()
    stopped = page.get_by_role("alert").filter(has_text="Everything is stopped")
    expect(stopped).to_be_visible()
    stopped.get_by_role("button", name="Revive").click()
    page.get_by_role("dialog").get_by_role("button", name="Revive").click()
    expect(stopped).to_be_hidden()


def test_a_viewer_sees_everything_and_changes_nothing(page: Page, gateway: ThreadedGateway) -> None:
    token = gateway.admin("POST", "/tokens", {"name": f"viewer-{time.time_ns()}", "role": "viewer"})["token"]
    log_in(page, gateway, token)
    for place in ("#/now", f"#/runs/{RUNAWAY}", "#/guards", "#/policy", "#/approvals"):
        go(page, gateway, place)
        names = page.locator("main button:visible").all_inner_texts()
        forbidden = (
            "Kill",
            "Stop everything",
            "Approve",
            "Deny",
            "Top up",
            "Revive",
            "False positive",
            "Editor",
            "Roll back",
        )
        assert not [name for name in names if name.startswith(forbidden) and name != "Approved"], place


# -- by keyboard -------------------------------------------------------------------------------------


def test_a_run_is_killed_with_the_keyboard_alone(page: Page, gateway: ThreadedGateway) -> None:
    start_runaway(gateway, "keyboard-runaway")
    page.goto(f"{gateway.url}/dashboard")
    page.get_by_label("Admin token").wait_for()
    page.keyboard.type("test-admin-token-0123456789")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Now", level=1).wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("link", name="keyboard-runaway").first.wait_for()
    for _ in range(20):
        page.keyboard.press("j")
        if "keyboard-runaway" in page.evaluate("document.activeElement.textContent"):
            break
    page.keyboard.press("x")
    expect(page.get_by_label("Reason")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("link", name="keyboard-runaway").first).to_be_focused()
    page.keyboard.press("x")
    page.get_by_role("dialog").wait_for()
    page.keyboard.type("stopped without a mouse")
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.get_by_label("Reason").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Run killed")).to_be_visible()
    run = gateway.admin("GET", "/runs/keyboard-runaway")
    assert (run["status"], run["status_reason"]) == ("killed", "stopped without a mouse")


def test_keys_lead_to_every_page_and_tell_themselves(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    for key, title in (("r", "Runs"), ("s", "Spend"), ("g", "Guards"), ("p", "Policy"), ("a", "Approvals"), ("l", "Audit"), ("n", "Now")):  # fmt: skip
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
        expect(page.locator("aside a[aria-current=page]")).to_have_text(re.compile(title))
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_tables_tell_how_they_are_sorted(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    settle(page)
    cost = page.get_by_role("columnheader", name="Cost")
    expect(cost).to_have_attribute("aria-sort", "none")
    cost.get_by_role("button").click()
    expect(cost).to_have_attribute("aria-sort", "descending")
    cost.get_by_role("button").click()
    expect(cost).to_have_attribute("aria-sort", "ascending")


def test_every_control_has_a_name(page: Page, gateway: ThreadedGateway) -> None:
    log_in(page, gateway)
    for place in (
        "#/now",
        "#/runs",
        f"#/runs/{RUNAWAY}",
        "#/spend",
        "#/guards",
        "#/policy",
        "#/approvals",
        "#/audit",
    ):
        go(page, gateway, place)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('button, a, input, select, textarea')].filter((e) =>
              !(e.getAttribute('aria-label') || e.textContent.trim() || e.title || e.labels?.length)).map((e) => e.outerHTML.slice(0, 90))"""
        )
        assert nameless == [], place
        assert page.locator("main").count() == 1


# -- hostile values ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(gateway: ThreadedGateway) -> str:
    """A run whose every text is markup."""
    from tests.browser import seed

    now = int(time.time() * 1000)
    rng = __import__("random").Random(3)
    made = list(
        seed.run_events(
            rng,
            "run_hostile",
            now - 60_000,
            steps=3,
            who=(SCRIPT,) * 4,
            name=SCRIPT,
            status=("running", None),
        )
    )
    for event in made:
        for field in ("requested_model", "model", "provider"):
            event[field] = SCRIPT
        event["error"] = SCRIPT
        event["tool_calls"] = [{"id": SCRIPT, "name": SCRIPT}]
        event["tool_results"] = [{"call_id": SCRIPT, "name": SCRIPT, "ok": False, "error_type": SCRIPT}]
        event["decisions"] = [{"rule": SCRIPT, "mode": "enforce", "decision": SCRIPT, "why": SCRIPT}]
        event["findings"] = [
            {
                "detector": SCRIPT,
                "channel": "user",
                "mode": "enforce",
                "action": SCRIPT,
                "type": SCRIPT,
                "count": 1,
            }
        ]
        event["tags"] = event["meta"]["tags"] = {SCRIPT: SCRIPT}
        event["meta"]["session"] = event["session"] = SCRIPT
    made.append(
        {
            "t": "run",
            "run": "run_hostile",
            "at": now,
            "status": "killed",
            "reason": SCRIPT,
            "meta": made[0]["meta"],
        }
    )
    gateway.run(
        lambda: gateway.worker.ledger.append([(f"h{i}", orjson.dumps(e)) for i, e in enumerate(made)])
    )
    gateway.admin("POST", "/kills", {"scope": "user", "id": "<b>bob</b>", "reason": SCRIPT.replace('"', "'")})
    return "run_hostile"


def test_nothing_that_a_caller_says_becomes_markup(
    page: Page, watch: Watch, gateway: ThreadedGateway, hostile: str
) -> None:
    watch.expected = ("Failed to load resource: the server responded with a status of 404",)
    log_in(page, gateway)
    for place in ("#/now", "#/runs", f"#/runs/{hostile}", "#/spend", "#/guards", "#/approvals", "#/audit"):
        go(page, gateway, place)
        assert page.locator("main img, main script, main b:text('bob')").count() == 0, place
        assert "owned" not in page.title()
    go(page, gateway, f"#/runs/{hostile}")
    page.locator("details.step summary").first.click()
    expect(page.locator("h1")).to_have_text(SCRIPT)
    expect(page.locator("main")).to_contain_text(SCRIPT)
    go(page, gateway, "#/runs/%3Cimg%20src=x%3E%ff")
    assert page.locator("main img").count() == 0
