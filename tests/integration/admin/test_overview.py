"""What the dashboard asks: the overview, spend over time, savings, findings and what is said of them."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import orjson
import pytest

from gateway.errors import StoreUnavailable
from gateway.web.admin_overview import FRESH_S
from tests.browser.seed import Seed, events
from tests.integration.admin.calls import Admin, Roles, chat
from tests.integration.ledger.events import attempt, meta, refusal
from tests.support.effort import least_effort
from tests.support.gateway import ThreadedGateway, wait_until

NAMES = iter(range(10_000))


def write(gateway: ThreadedGateway, *made: dict[str, Any]) -> None:
    entries = [(f"x{next(NAMES)}", orjson.dumps(each)) for each in made]
    gateway.run(lambda: gateway.worker.ledger.append(entries))


def step(run: str, ordinal: int, ago_s: float, cost: int, **changes: Any) -> dict[str, Any]:
    """An attempt that ended so long ago."""
    at = int(time.time() * 1000 - ago_s * 1000)
    about = meta(**{"started_at": at, "session": f"s-{run}", **changes.pop("meta", {})})
    return attempt(
        f"{run}-{ordinal}", run, ordinal, cost, started_at=at - 500, ended_at=at, meta=about, charges=[], **changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def filled(gateway: ThreadedGateway) -> ThreadedGateway:
    now = int(time.time() * 1000)
    found = [
        {"detector": "pii", "channel": "user", "mode": "enforce", "action": "redact", "type": "EMAIL_ADDRESS", "count": 2},
        {"detector": "pii", "channel": "tool", "mode": "shadow", "action": "redact", "type": "PHONE", "count": 1, "tool": "crm"},
    ]  # fmt: skip
    write(
        gateway,
        step(
            "slow",
            1,
            100,
            60_000_000,
            user="ann",
            meta={"user": "ann", "started_at": int(time.time() * 1000) - 600_000},
        ),
        step("fast", 1, 20, 100_000_000, user="ben", meta={"user": "ben"}),
        step("fast", 2, 5, 200_000_000, user="ben", meta={"user": "ben"}, findings=found),
        step("old", 1, 7200, 5_000_000_000, user="old", meta={"user": "old"}, run_status="completed"),
        step(
            "broken",
            1,
            30,
            0,
            outcome="failed",
            error="upstream_timeout",
            http_status=504,
            run_status="failed",
        ),
        *(
            refusal(f"ref-{n}", "fast", now, meta=meta(user="ben", session="s-fast", started_at=now))
            for n in "12"
        ),
    )
    return gateway


def test_live_runs_are_ordered_by_what_they_burn(filled: ThreadedGateway, admin: Admin) -> None:
    runs = {run["id"]: run for run in admin.get("/overview")["runs"]["data"]}
    order = [run for run in runs if run in ("slow", "fast", "old", "broken")]
    assert order == ["fast", "slow"]
    # 0.30 within its life of some 20 seconds; 0.06 within two minutes.
    assert 0.7 < float(runs["fast"]["burn_usd_per_min"]) < 1.3
    assert float(runs["slow"]["burn_usd_per_min"]) == pytest.approx(0.03, rel=0.1)


def test_the_nearest_limit_of_a_live_run_is_the_fullest_enforced_one(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    status, headers, _ = chat(gateway, text="x" * 4000, x_guardrail_run_id="near")
    assert status == 200
    cost = Decimal(headers["x-guardrail-run-cost-usd"])

    def near() -> list[dict[str, Any]]:
        runs = admin.get("/overview")["runs"]["data"]
        return [each for each in runs if each["name"] == "near" and Decimal(each["cost_usd"]) == cost]

    (run,) = wait_until(near, what="the run at its cost")
    nearest = run["nearest"]
    assert (nearest["rule"], nearest["per"], nearest["what"]) == ("run", "run", "usd")
    assert Decimal(nearest["used"]) == cost
    assert nearest["ratio"] == round(float(run["cost_usd"]) / 0.5, 4)


def test_spend_by_the_minute_adds_up(filled: ThreadedGateway, admin: Admin) -> None:
    spend = admin.get("/overview")["spend"]
    assert len(spend["minutes"]) == 60
    total = sum(Decimal(minute["cost_usd"]) for minute in spend["minutes"])
    assert total == Decimal(spend["hour_usd"])
    assert total >= Decimal("0.36")
    assert sum(minute["refusals"] for minute in spend["minutes"]) >= 2
    assert Decimal(spend["usd_per_min"]) > 0


def test_equal_refusals_of_a_run_are_told_once(filled: ThreadedGateway, admin: Admin) -> None:

    def told() -> list[tuple[str, int]]:
        happened = admin.get("/overview")["happened"]
        return [(each["code"], each["count"]) for each in happened if each.get("run") == "fast"]

    assert wait_until(told, what="the refusals") == [("run_budget_exceeded", 2)]


def test_failed_calls_are_told_by_provider(filled: ThreadedGateway, admin: Admin) -> None:
    def told() -> list[dict[str, Any]]:
        return [each for each in admin.get("/overview")["failures"] if each["run"] == "broken"]

    (failure,) = wait_until(told, what="the failure")
    assert (failure["provider"], failure["error"], failure["http_status"], failure["count"]) == ("openai", "upstream_timeout", 504, 1)  # fmt: skip


def test_what_operators_did_is_told(gateway: ThreadedGateway, admin: Admin) -> None:
    admin.post("/kills", {"scope": "user", "id": "mallory", "reason": "told"})

    def stands() -> bool:
        return any(kill["id"] == "mallory" for kill in admin.get("/overview")["kills"])

    def is_told() -> bool:
        happened = admin.get("/overview")["happened"]
        return any(each["kind"] == "kill.set" and each["reason"] == "told" for each in happened)

    wait_until(stands, what="the kill")
    wait_until(is_told, what="word of it")
    admin.delete("/kills/user/mallory")
    wait_until(lambda: not stands(), what="its end")


def test_budgets_stand_by_how_full_they_are_with_a_forecast(gateway: ThreadedGateway, admin: Admin) -> None:
    chat(gateway, text="y" * 4000)

    def alices_day() -> list[dict[str, Any]]:
        rows = admin.get("/overview")["budgets"]
        assert [row["ratio"] for row in rows] == sorted((row["ratio"] for row in rows), reverse=True)
        mine = [row for row in rows if (row["name"], row["id"]) == ("user-day", "alice")]
        return mine if [row["used_usd"] for row in mine] == [listed["used_usd"]] else []

    listed = next(row for row in admin.get("/budgets?per=user&id=alice")["data"] if row["name"] == "user-day")
    # Whose budgets there are is looked up every ten seconds.
    (day,) = wait_until(alices_day, 20, what="her budget as it stands")
    assert day["resets_at"] == listed["resets_at"]
    assert Decimal(day["forecast_usd"]) >= Decimal(day["used_usd"])


def test_everyone_is_told_who_they_are(admin: Admin, roles: Roles) -> None:
    assert admin.get("/overview")["you"] == {"name": "admin", "role": "admin"}
    assert admin.get("/overview", token=roles.viewer)["you"]["role"] == "viewer"


def test_without_the_store_the_ledger_is_still_told(
    filled: ThreadedGateway, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(type(filled.worker.store), "counters", away)

    def without_the_store() -> Any:
        answer = admin.get("/overview")
        return answer if answer["health"]["store"] == "unavailable" else None

    answer = wait_until(without_the_store, what="an answer without the store")
    assert Decimal(answer["spend"]["hour_usd"]) > 0
    assert any(run["id"] == "fast" for run in answer["runs"]["data"])


# -- over time ---------------------------------------------------------------------------------------


def test_a_series_agrees_with_the_sums_of_spend(filled: ThreadedGateway, admin: Admin) -> None:
    for group in ("user", "team", "model", "key", "provider", "surface"):
        series = admin.get(f"/timeseries?group_by={group}&since=24h&top=50")["series"]
        sums = {
            row["group"]: row["cost_usd"] for row in admin.get(f"/spend?group_by={group}&since=24h")["data"]
        }
        assert {one["group"]: one["cost_usd"] for one in series} == sums
        for one in series:
            assert sum(Decimal(point) for point in one["points"]) == Decimal(one["cost_usd"])


def test_what_the_dearest_leave_over_is_one_series(filled: ThreadedGateway, admin: Admin) -> None:
    answer = admin.get("/timeseries?group_by=user&since=24h&top=1")
    first, rest = answer["series"]
    assert (first["group"], first["others"], rest["group"], rest["others"]) == ("old", False, None, True)
    assert answer["groups"] > 2
    assert len(first["points"]) == len(answer["at"]) <= 97


@pytest.mark.parametrize("group", ["run", "session", "tag&tag=env", "tag:env"])
def test_runs_sessions_and_tags_have_series_too(filled: ThreadedGateway, admin: Admin, group: str) -> None:
    series = admin.get(f"/timeseries?group_by={group}&since=24h&top=50")["series"]
    assert sum(Decimal(one["cost_usd"]) for one in series) >= Decimal("5.36")


@pytest.mark.parametrize(
    "query",
    ["group_by=password", "group_by=tag", "since=tomorrow", "since=1h&until=2h", "bucket_s=1", "top=0",
     "since=365d&bucket_s=60", "group_by=user&since=9999-01-01T00:00:00Z"],
)  # fmt: skip
def test_a_senseless_question_is_refused(admin: Admin, query: str) -> None:
    answer = admin.call("GET", f"/timeseries?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")


def test_savings_name_what_was_asked_for_and_what_served(filled: ThreadedGateway, admin: Admin) -> None:
    rows = admin.get("/savings?since=24h")["data"]
    (row,) = [each for each in rows if each["requested_model"] == "gpt-4o"]
    assert (row["model"], row["attempts"], row["saved_usd"]) == ("gpt-4o-mini", 5, "0.000000015")


# -- findings ----------------------------------------------------------------------------------------


def test_findings_are_listed_by_kind_and_never_by_content(filled: ThreadedGateway, admin: Admin) -> None:
    rows = admin.get("/findings?run=fast")["data"]
    assert [(row["type"], row["mode"], row["count"], row["tool"]) for row in rows] == [
        ("PHONE", "shadow", 1, "crm"),
        ("EMAIL_ADDRESS", "enforce", 2, None),
    ]
    assert {row["step"] for row in rows} == {"fast-2"}
    assert rows[0]["user"] == "ben"
    assert admin.get("/findings?run=fast&mode=shadow")["data"] == rows[:1]
    assert admin.get("/findings?run=fast&channel=user&detector=pii")["data"] == rows[1:]
    assert admin.get("/findings?detector=nobody")["data"] == []


def test_findings_come_in_pages(filled: ThreadedGateway, admin: Admin) -> None:
    first = admin.get("/findings?run=fast&limit=1")
    second = admin.get(f"/findings?run=fast&limit=1&cursor={first['next_cursor']}")
    assert [first["data"][0]["type"], second["data"][0]["type"]] == ["PHONE", "EMAIL_ADDRESS"]
    assert second["next_cursor"] is None
    assert admin.call("GET", "/findings?cursor=xx").code == "invalid_cursor"


def test_the_summary_counts_the_same(filled: ThreadedGateway, admin: Admin) -> None:
    answer = admin.get("/findings/summary?since=1h")
    found = {(one["channel"], one["mode"]): one for one in answer["series"] if one["detector"] == "pii"}
    assert found["user", "enforce"]["count"] == sum(found["user", "enforce"]["points"]) == 2
    assert found["tool", "shadow"]["steps"] == 1


def test_the_same_event_again_adds_no_finding(filled: ThreadedGateway, admin: Admin) -> None:
    before = admin.get("/findings/summary?since=1h")["series"]
    again = step("fast", 2, 5, 200_000_000, findings=[{"detector": "pii", "channel": "user", "mode": "enforce", "action": "redact", "type": "EMAIL_ADDRESS", "count": 2}])  # fmt: skip
    write(filled, again)
    assert admin.get("/findings/summary?since=1h")["series"] == before


def test_a_false_positive_is_on_record_and_in_the_audit_log(filled: ThreadedGateway, admin: Admin) -> None:
    said = admin.post(
        "/findings/feedback",
        {"run": "fast", "step": "fast-2", "detector": "pii", "channel": "tool", "reason": "a part number"},
    )
    expected = {
        "verdict": "false_positive", "run": "fast", "step": "fast-2", "ordinal": 2, "detector": "pii",
        "channel": "tool", "type": "PHONE", "tool": "crm", "rule": "screening.pii", "reason": "a part number",
        "key": "support-bot", "user": "ben", "team": "cx", "agent": "triage",
    }  # fmt: skip
    assert {name: said[name] for name in expected} == expected
    assert said["by"] == "admin"
    (record,) = admin.changes(1)
    assert record["action"] == "finding.feedback"
    assert record["details"] == {**expected, "feedback": said["id"]}
    rows = {row["type"]: row["feedback"] for row in admin.get("/findings?run=fast")["data"]}
    assert rows["PHONE"]["verdict"] == "false_positive"
    assert rows["EMAIL_ADDRESS"] is None
    assert admin.get("/findings/feedback?verdict=false_positive")["data"][0] == said
    assert admin.get("/audit/verify")["ok"] is True


def test_feedback_needs_a_finding_and_an_operator(
    filled: ThreadedGateway, admin: Admin, roles: Roles
) -> None:
    body = {"run": "fast", "step": "fast-2", "detector": "pii", "reason": "x"}
    for wrong in ({"step": "nobody"}, {"run": "slow"}, {"detector": "secrets"}, {"channel": "output"}):
        answer = admin.call("POST", "/findings/feedback", {**body, **wrong})
        assert (answer.status, answer.code) == (404, "not_found"), wrong
    assert admin.call("POST", "/findings/feedback", body, token=roles.viewer).status == 403
    assert admin.call("POST", "/findings/feedback", {**body, "verdict": "maybe"}).status == 400


# -- size --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(gateway: ThreadedGateway) -> ThreadedGateway:
    made = [
        (f"m{i}", orjson.dumps(e)) for i, e in enumerate(events(Seed(int(time.time() * 1000), runs=1000)))
    ]
    gateway.run(lambda: gateway.worker.ledger.append(made))
    return gateway


@pytest.mark.parametrize(
    "path",
    ["/overview", "/timeseries?since=7d", "/timeseries?group_by=session&since=7d", "/findings?since=7d",
     "/findings/summary?since=7d", "/savings?since=7d", "/runs", "/budgets?per=global"],
)  # fmt: skip
def test_a_thousand_runs_are_no_burden(many: ThreadedGateway, admin: Admin, path: str) -> None:
    """The cheapest of several turns, for others share the machine."""
    rest_s = FRESH_S * 1.1 if path == "/overview" else 0.0
    spent = least_effort(lambda: admin.get(path), 5, enough=0.3, clock=time.process_time, rest_s=rest_s)
    assert spent < 0.3
