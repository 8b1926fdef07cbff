"""Runs, steps, spend, budgets, policy, keys, audit and events, as an operator reads and changes them."""

from __future__ import annotations

import re
import time
from decimal import Decimal
from typing import Any

import pytest

from gateway.stores.audit_chain import verify_chain
from gateway.testing import ProviderServer
from gateway.web.admin_views import audit_record
from tests.integration.admin.calls import Admin, Listening, Stream, chat
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import ADMIN_TOKEN, ALICE, BOB, ThreadedGateway, wait_until

RUN_FIELDS = set(
    [
        "id",
        "session",
        "key",
        "user",
        "team",
        "source",
        "status",
        "status_reason",
        "started_at",
        "last_step_at",
        "steps",
        "tool_calls",
        "tools",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "reserved_usd",
        "model_mix",
        "policy",
        "findings",
        "parent",
        "children",
        "name",
        "continues",
    ]
)
STEP_FIELDS = set(
    [
        "ordinal",
        "surface",
        "requested_model",
        "model",
        "usage",
        "cost_usd",
        "cost_source",
        "latency_ms",
        "ttft_ms",
        "overhead_ms",
        "verdict",
        "decisions",
        "tool_calls",
        "tool_results",
        "finish_reason",
        "error",
    ]
)
MONEY = re.compile(r"\d+\.\d{9}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def ensure_shapes(value: Any) -> None:
    """Money and times look the same wherever they stand."""
    if isinstance(value, list):
        for part in value:
            ensure_shapes(part)
    elif isinstance(value, dict):
        for name, part in value.items():
            if name.endswith("_usd"):
                assert MONEY.fullmatch(part), (name, part)
            elif name == "at" or name.endswith("_at"):
                assert part is None or TIME.fullmatch(part), (name, part)
            else:
                ensure_shapes(part)


def test_a_run_and_its_steps_have_the_promised_fields(gateway: ThreadedGateway, admin: Admin) -> None:
    _, headers, answer = chat(gateway, x_guardrail_tags="job=a", x_guardrail_run_id="fields")
    run = admin.get(f"/runs/{headers['x-guardrail-run-id']}")
    assert run.keys() >= RUN_FIELDS
    ensure_shapes(run)
    usage = answer["usage"]
    assert run["input_tokens"] == usage["prompt_tokens"]
    assert run["output_tokens"] == usage["completion_tokens"]
    cost = Decimal(usage["prompt_tokens"]) * Decimal("0.0000025") + usage["completion_tokens"] * Decimal(
        "0.00001"
    )
    assert Decimal(run["cost_usd"]) == cost
    assert (run["name"], run["key"], run["user"], run["team"], run["steps"]) == (
        "fields",
        "alice",
        "alice",
        "red",
        1,
    )
    assert run["reserved_usd"] == "0.000000000"

    steps = admin.get(f"/runs/{run['id']}/steps")
    assert steps["next_cursor"] is None
    (step,) = steps["data"]
    assert step.keys() >= STEP_FIELDS
    ensure_shapes(step)
    assert (step["ordinal"], step["surface"], step["verdict"], step["outcome"]) == (1, "chat", "allow", "ok")
    assert step["usage"]["input_tokens"] == usage["prompt_tokens"]
    assert admin.get("/runs/fields")["id"] == run["id"]


def test_a_stream_in_flight_shows_what_is_reserved_for_it(gateway: ThreadedGateway, admin: Admin) -> None:
    stream = Stream(gateway).open(x_guardrail_run_id="inflight")
    run = admin.get("/runs/inflight")
    assert run["status"] == "running"
    assert Decimal(run["reserved_usd"]) > 0
    rows = {r["name"]: r for r in admin.get("/budgets?per=run&id=inflight")["data"]}
    assert rows["run"]["reserved_usd"] == run["reserved_usd"]
    admin.post("/runs/inflight/kill", {"reason": "done"})
    assert stream.ended.wait(AT_ONCE_S)
    after = admin.get("/runs/inflight")
    assert after["reserved_usd"] == "0.000000000"
    assert Decimal(after["cost_usd"]) > 0


def test_a_refused_step_is_told_with_its_figures(gateway: ThreadedGateway, admin: Admin) -> None:
    # 1,000,000 input tokens at $2.50 do not fit into a run of $0.50.
    status, headers, body = chat(gateway, model="sim/echo", text="word " * 400_000)
    assert (status, body["error"]["code"]) == (400, "run_budget_exceeded")
    run = headers["x-guardrail-run-id"]
    assert admin.get(f"/runs/{run}")["status"] == "stopped_budget"
    (step,) = admin.get(f"/runs/{run}/steps")["data"]
    assert (step["kind"], step["verdict"], step["error"]) == ("refusal", "refuse", "run_budget_exceeded")
    (decision,) = step["decisions"]
    assert (decision["rule"], decision["limit"]) == ("run", "0.500000000")


def test_runs_are_paged_and_filtered(gateway: ThreadedGateway, admin: Admin) -> None:
    for number in range(7):
        chat(gateway, x_guardrail_session_id="paging", x_guardrail_run_id=f"page-{number}", key=BOB)
    seen: list[str] = []
    cursor = None
    while True:
        page = admin.get("/runs?session=paging&limit=3" + (f"&cursor={cursor}" if cursor else ""))
        seen += [run["name"] for run in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"page-{n}" for n in reversed(range(7))]
    assert {r["user"] for r in admin.get("/runs?user=bob")["data"]} == {"bob"}
    assert admin.get("/runs?model=no-such-model")["data"] == []
    assert len(admin.get("/runs?session=paging&key=bob&model=sim/echo&since=1h&status=running")["data"]) == 7
    assert admin.get("/runs?session=paging&since=2999-01-01T00:00:00Z")["data"] == []


def test_spend_is_the_sum_of_what_runs_cost(gateway: ThreadedGateway, admin: Admin) -> None:
    chat(gateway, x_guardrail_tags="project=apollo")
    runs: list[Any] = []
    cursor = ""
    while True:
        page = admin.get(f"/runs?limit=500{cursor}")
        runs += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    total = sum(Decimal(run["cost_usd"]) for run in runs)
    for group in ("user", "session", "run", "key", "team", "model", "provider", "surface", "tag:project"):
        rows = admin.get(f"/spend?group_by={group}")["data"]
        ensure_shapes(rows)
        assert sum(Decimal(row["cost_usd"]) for row in rows) == total
        assert all(row["group"] == row[group.split(":")[0]] for row in rows)
    assert "apollo" in [row["group"] for row in admin.get("/spend?group_by=tag&tag=project")["data"]]
    hours = admin.get("/spend?group_by=user&bucket=hour&since=7d")["data"]
    assert sum(Decimal(row["cost_usd"]) for row in hours) == total
    assert admin.get("/spend?until=2020-01-01T00:00:00Z")["data"] == []
    for query in ("group_by=planet", "group_by=tag", "bucket=minute"):
        assert admin.call("GET", f"/spend?{query}").code == "invalid_request"


def test_a_topup_raises_a_budget_within_a_second(gateway: ThreadedGateway, admin: Admin) -> None:
    session = "ses-topup"
    _, headers, _ = chat(gateway, x_guardrail_session_id=session, x_guardrail_run_id="topped")
    big = "word " * 250_000
    refused = chat(gateway, text=big, x_guardrail_session_id=session, x_guardrail_run_id="topped")
    assert refused[2]["error"]["code"] == "run_budget_exceeded"

    body = {"id": "topped", "amount_usd": "3.000000001", "reason": "worth it"}
    topup = admin.post("/budgets/run/topups", body)
    assert (topup["id"], topup["amount_usd"]) == (headers["x-guardrail-run-id"], "3.000000001")
    assert topup["expires_at"] is None
    (row,) = [r for r in admin.get("/budgets?per=run&id=topped")["data"] if r["name"] == "run"]
    assert row["limit_usd"] == "3.500000001"
    assert row["topups_usd"] == "3.000000001"
    assert Decimal(row["remaining_usd"]) == Decimal(row["limit_usd"]) - Decimal(row["used_usd"])
    assert chat(gateway, text=big, x_guardrail_session_id=session, x_guardrail_run_id="topped")[0] == 200
    assert admin.get("/budgets/run/topups")["data"][0]["topup_id"] == topup["topup_id"]
    assert admin.get("/audit?limit=1")["data"][0]["action"] == "budget.topup"


@pytest.mark.parametrize("amount", ["0", "NaN", "Infinity", "1e-10", "1000001", "ten", None, [], True])
def test_an_amount_that_is_none_is_refused(admin: Admin, amount: Any) -> None:
    answer = admin.call("POST", "/budgets/user-day/topups", {"id": "x", "amount_usd": amount, "reason": "x"})
    assert (answer.status, answer.code) == (400, "invalid_request")


def test_budgets_show_each_scope_that_was_seen(gateway: ThreadedGateway, admin: Admin) -> None:
    chat(gateway, key=ALICE)
    rows = admin.get("/budgets")["data"]
    ensure_shapes(rows)
    assert {"run", "session", "user-day", "everyone-hour"} <= {row["name"] for row in rows}
    day = {row["id"]: row for row in rows if row["name"] == "user-day"}
    assert day["alice"]["resets_at"].endswith("T00:00:00.000Z")
    assert Decimal(day["alice"]["used_usd"]) > 0
    assert day["alice"]["limit_usd"] == "5.000000000"
    spent = {r["group"]: r["cost_usd"] for r in admin.get("/spend?group_by=user")["data"]}
    assert day["alice"]["used_usd"] == spent["alice"]
    # The budget of team blue is narrowed: it never counts for red.
    assert {row["id"] for row in rows if row["name"] == "team-blue"} <= {"blue"}
    (one,) = [r for r in admin.get("/budgets?per=global&id=anything")["data"]]
    assert (one["id"], one["mode"]) == ("all", "shadow")
    assert admin.get("/budgets?per=user&id=never-seen")["data"][0]["used_usd"] == "0.000000000"
    assert {r["id"] for r in admin.get("/budgets?id=alice")["data"]} == {"alice"}


def test_a_topup_of_a_day_ends_with_the_day(admin: Admin) -> None:
    topup = admin.post("/budgets/user-day/topups", {"id": "carol", "amount_usd": 1.5, "reason": "busy"})
    (row,) = admin.get("/budgets?per=user&id=carol")["data"]
    assert topup["expires_at"] == row["resets_at"]
    assert row["limit_usd"] == "6.500000000"


def test_a_key_works_at_once_and_never_after_its_end(gateway: ThreadedGateway, admin: Admin) -> None:
    made = admin.post("/keys", {"name": "bot", "user": "support", "team": "cx", "models": ["sim/echo"]})
    secret = made["key"]
    assert secret.startswith("gk_")
    assert len(secret) >= 35
    _, headers, _ = chat(gateway, key=secret)
    run = admin.get(f"/runs/{headers['x-guardrail-run-id']}")
    assert (run["key"], run["user"], run["team"]) == ("bot", "support", "cx")
    assert chat(gateway, model="sim/slow", key=secret)[2]["error"]["code"] == "model_not_allowed"

    listed = admin.call("GET", "/keys")
    assert secret.encode() not in listed.raw
    assert b"digest" not in listed.raw
    assert {("bot", "api"), ("alice", "policy")} <= {(k["name"], k["source"]) for k in listed.body["data"]}
    assert ALICE.encode() not in listed.raw
    for body in ({"name": "bot"}, {"name": "alice"}):
        assert admin.call("POST", "/keys", body).code == "conflict"
    assert admin.call("POST", "/keys", {"name": "late", "expires_at": "2001-01-01T00:00:00Z"}).status == 400
    assert admin.call("POST", "/keys", {"name": "a\nb"}).status == 400

    assert admin.call("DELETE", "/keys/key:alice").code == "conflict"
    admin.delete(f"/keys/{made['id']}")
    assert chat(gateway, key=secret)[0] == 401
    assert made["id"] not in [k["id"] for k in admin.get("/keys")["data"]]
    assert made["id"] in [k["id"] for k in admin.get("/keys?all=true")["data"]]


def test_no_secret_is_in_the_audit_log(gateway: ThreadedGateway, admin: Admin) -> None:
    key = admin.post("/keys", {"name": "hushed"})["key"]
    token = admin.post("/tokens", {"name": "hushed", "role": "viewer"})["token"]
    raw = admin.call("GET", "/audit?limit=1000").raw
    for secret in (key, token, ADMIN_TOKEN, ALICE):
        assert secret.encode() not in raw


def test_the_audit_log_is_a_chain_that_can_be_checked_elsewhere(admin: Admin) -> None:
    records: list[Any] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = admin.get(f"/audit?order=asc&limit=7&cursor={cursor}")
        records += page["data"]
        cursor = page["next_cursor"]
    check = admin.get("/audit/verify")
    assert check["ok"]
    assert check["records"] == len(records)
    assert verify_chain(map(audit_record, records)).head == check["head"]
    newest = admin.get("/audit?limit=5")["data"]
    assert [r["seq"] for r in newest] == [r["seq"] for r in records[:-6:-1]]


def test_a_policy_can_be_read_and_checked(
    gateway: ThreadedGateway, provider: ProviderServer, admin: Admin
) -> None:
    shown = admin.call("GET", "/policy")
    assert shown.body["version"] == gateway.worker.pipeline.generation.version
    assert shown.body["healthy"] is True
    assert b"sk-upstream-secret" not in shown.raw
    assert ALICE.encode() not in shown.raw
    assert shown.body["policy"]["budgets"][0]["name"] == "run"

    good = admin.post(
        "/policy/validate", {"policy": "version: 1\nbudgets:\n  - {name: b, per: run, limit_usd: 1}"}
    )
    assert good["valid"], good
    assert good["version"] != shown.body["version"]
    bad = admin.post(
        "/policy/validate", {"policy": "version: 1\nbudgets:\n  - {name: b, per: rum, limit_usd: x}"}
    )
    assert bad["valid"] is False
    assert [m["path"] for m in bad["mistakes"]] == ["budgets[0].per", "budgets[0].limit_usd"]
    thief = admin.post(
        "/policy/validate",
        {"policy": "version: 1\nproviders: {upstream: {dialect: openai, base_url: 'http://evil.example'}}"},
    )
    assert thief["valid"] is False
    (first, *_) = admin.get("/policy/versions")["data"]
    assert (first["author"], first["active"]) == ("files", True)


def test_events_are_told_as_they_happen(gateway: ThreadedGateway, admin: Admin) -> None:
    listening = Listening(admin).start()
    wait_until(lambda: listening.comments, what="the first comment")
    _, headers, _ = chat(gateway)
    run = headers["x-guardrail-run-id"]
    wait_until(lambda: [e for e in listening.of("step") if e["run"] == run], what="the step's event")
    ensure_shapes(listening.of("step"))
    admin.post("/kills", {"scope": "user", "id": "bob", "reason": "drill"})
    wait_until(lambda: listening.of("kill"), what="the kill's event")
    assert listening.of("kill")[-1]["name"] == "user:bob"
    admin.delete("/kills/user/bob")
    wait_until(lambda: listening.of("revive"), what="the revival's event")
    before = len(gateway.worker.notices)
    gateway.worker.notify("shutdown", {})
    assert listening.closed.wait(10)
    wait_until(lambda: len(gateway.worker.notices) < before, what="the listener's end")


def test_a_listener_that_is_gone_is_forgotten(gateway: ThreadedGateway, admin: Admin) -> None:
    import socket

    before = len(gateway.worker.notices)
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(
            f"GET /admin/v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode()
        )
        assert b"200 OK" in raw.recv(4096)
        wait_until(lambda: len(gateway.worker.notices) == before + 1)
    wait_until(lambda: len(gateway.worker.notices) == before, what="the listener's end")


def test_an_operators_question_does_not_hold_up_the_data_plane(
    gateway: ThreadedGateway, admin: Admin
) -> None:
    began = time.monotonic()
    for path in ("/runs?limit=500", "/spend?group_by=run", "/budgets", "/audit?limit=1000"):
        admin.get(path)
    assert time.monotonic() - began < 5
