"""Held tool calls and breakers, as operators see and decide them while the data plane waits."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gateway.admission import BreakerRule
from gateway.rules.breakers import breaker_key
from gateway.steps.approvals import ApprovalRequest
from gateway.stores.ledger import LedgerUnavailable, SqlLedger
from gateway.stores.ledger_approvals import ApprovalRecord
from tests.integration.admin.calls import Admin, Listening, Roles
from tests.integration.admin.test_cli import run as command
from tests.integration.admin.test_reports import ensure_shapes
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import ThreadedGateway, wait_until

REASON = {"reason": "checked"}
CALL = ApprovalRequest(
    principal="key_1",
    key="alice",
    user="alice",
    team="red",
    session="ses_1",
    run="run_1",
    tool="send_email",
    arguments='{"to": "a@example.com", "subject": "Hi"}',
    policy="v1",
    cost=12_345_678,
    expires_s=600,
    about={"agent": "mailer", "tags": {}},
)


def asking(gateway: ThreadedGateway, request: ApprovalRequest, hold_s: float = 20) -> Future[ApprovalRecord]:
    """A call that the data plane holds."""
    assert gateway.loop is not None
    return asyncio.run_coroutine_threadsafe(gateway.worker.approvals.ask(request, hold_s), gateway.loop)


def held(admin: Admin, request: ApprovalRequest) -> dict[str, Any]:
    """The request as the API lists it, as soon as it does."""

    def look() -> Any:
        rows = admin.get("/approvals?state=pending&limit=500")["data"]
        return next((row for row in rows if row["session"] == request.session), None)

    row: dict[str, Any] = wait_until(look, what="a held call")
    return row


def waiting(gateway: ThreadedGateway) -> int:
    return sum(len(each) for each in gateway.worker.approvals._waiting.values())


@pytest.fixture
def call(request: pytest.FixtureRequest) -> ApprovalRequest:
    """A call of a session that no other test has."""
    return replace(CALL, session=f"ses_{request.node.name}")


def test_a_held_call_is_shown_whole(gateway: ThreadedGateway, admin: Admin, call: ApprovalRequest) -> None:
    listening = Listening(admin).start()
    wait_until(lambda: listening.comments)
    future = asking(gateway, call)
    row = held(admin, call)
    ensure_shapes(row)
    assert admin.get(f"/approvals/{row['id']}") == row
    assert {
        name: value
        for name, value in row.items()
        if not name.endswith("_at") and name not in ("id", "digest")
    } == {
        "state": "pending",
        "tool": "send_email",
        "arguments": '{"subject":"Hi","to":"a@example.com"}',
        "truncated": False,
        "run": "run_1",
        "session": call.session,
        "key": "alice",
        "user": "alice",
        "team": "red",
        "cost_usd": "0.012345678",
        "policy": "v1",
        "decided_by": None,
        "reason": None,
    }
    assert (row["decided_at"], row["used_at"]) == (None, None)
    (event,) = wait_until(lambda: listening.of("approval_requested"))
    assert (event["approval"], event["tool"], event["arguments"]) == (
        row["id"],
        "send_email",
        row["arguments"],
    )
    assert (event["cost_usd"], event["agent"], event["expires_at"]) == (
        "0.012345678",
        "mailer",
        row["expires_at"],
    )
    assert event["link"] == f"/dashboard#/approvals/{row['id']}"
    answer = admin.post(f"/approvals/{row['id']}", {"decision": "deny", **REASON})
    assert (answer["state"], answer["decided_by"], answer["reason"]) == ("denied", "admin", "checked")
    assert future.result(5).state == "denied"
    (decided,) = wait_until(lambda: listening.of("approval_decided"))
    assert (decided["approval"], decided["state"], decided["by"]) == (row["id"], "denied", "admin")


def test_a_decision_reaches_every_call_that_waits_at_once(
    gateway: ThreadedGateway, admin: Admin, call: ApprovalRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever looked for it would find it much later.
    monkeypatch.setattr("gateway.steps.approvals.POLL_S", 4 * AT_ONCE_S)
    futures = [asking(gateway, replace(call, arguments=text)) for text in ("{}", " { } ", "{}")]
    row = held(admin, call)
    wait_until(lambda: waiting(gateway) == 3)
    admin.post(f"/approvals/{row['id']}", {"decision": "approve", **REASON})
    records = [future.result(AT_ONCE_S) for future in futures]
    following = gateway.worker.approvals._following
    assert following is not None
    assert gateway.loop is not None
    # It would sleep on in the tests to come.
    gateway.loop.call_soon_threadsafe(following.cancel)
    wait_until(following.done)
    assert {(record.id, record.state) for record in records} == {(row["id"], "approved")}
    used = [gateway.run(lambda r=record: gateway.worker.approvals.use(r)) for record in records]  # type: ignore[misc]
    assert sorted(used) == [False, False, True]
    assert admin.get(f"/approvals/{row['id']}")["used_at"] is not None
    assert waiting(gateway) == 0


def test_a_decision_of_another_process_is_seen(
    gateway: ThreadedGateway, admin: Admin, call: ApprovalRequest
) -> None:
    future = asking(gateway, call)
    row = held(admin, call)

    async def elsewhere() -> None:
        other = SqlLedger(None, data_dir=gateway.data_dir)
        await other.start()
        found = await other.decide_approval(
            row["id"], "approved", by="token:other", at=gateway.worker.clock(), reason="ok"
        )
        assert found is not None
        assert found[1]
        await other.close()

    asyncio.run(elsewhere())
    record = future.result(AT_ONCE_S)
    assert (record.state, record.decided_by) == ("approved", "token:other")


def test_after_the_hold_it_is_pending_and_the_decision_is_found_when_asked_again(
    gateway: ThreadedGateway, admin: Admin, call: ApprovalRequest
) -> None:
    began = time.monotonic()
    record = asking(gateway, call, 0.3).result(AT_ONCE_S)
    assert time.monotonic() - began >= 0.3
    assert record.state == "pending"
    assert asking(gateway, call, 0).result(5) == record
    admin.post(f"/approvals/{record.id}", {"decision": "approve", **REASON})
    again = asking(gateway, replace(call, run="run_later"), 0).result(5)
    assert (again.id, again.state, again.reason) == (record.id, "approved", "checked")
    # Another call is another decision.
    other = asking(gateway, replace(call, arguments="{}"), 0).result(5)
    assert (other.state, other.id != record.id) == ("pending", True)


def test_a_call_that_expires_while_held_is_told_so(
    gateway: ThreadedGateway, admin: Admin, call: ApprovalRequest
) -> None:
    record = asking(gateway, replace(call, expires_s=0.2), 20).result(5)
    assert record.state == "expired"
    answer = admin.call("POST", f"/approvals/{record.id}", {"decision": "approve", **REASON})
    assert (answer.status, answer.code) == (409, "already_decided")
    assert "expired at" in answer.body["error"]["message"]
    assert admin.get(f"/approvals/{record.id}")["state"] == "expired"
    assert record.id in [row["id"] for row in admin.get("/approvals?state=expired")["data"]]


def test_a_client_that_leaves_leaves_nothing_behind(
    gateway: ThreadedGateway, admin: Admin, call: ApprovalRequest
) -> None:
    future = asking(gateway, call)
    row = held(admin, call)
    wait_until(lambda: waiting(gateway) == 1)
    future.cancel()
    wait_until(lambda: waiting(gateway) == 0)
    following = gateway.worker.approvals._following
    assert following is not None
    wait_until(following.done)
    admin.post(f"/approvals/{row['id']}", {"decision": "approve", **REASON})
    assert asking(gateway, call, 0).result(5).state == "approved"


def test_of_two_operators_one_decides_and_the_other_is_told(
    gateway: ThreadedGateway, admin: Admin, roles: Roles, call: ApprovalRequest
) -> None:
    record = asking(gateway, call, 0).result(5)
    barrier = threading.Barrier(8)
    answers: list[Any] = []

    def decide(number: int) -> None:
        body = {"decision": "approve" if number % 2 else "deny", "reason": f"operator {number}"}
        barrier.wait()
        answers.append(admin.call("POST", f"/approvals/{record.id}", body, token=roles.operator))

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    (winner,) = [answer.body for answer in answers if answer.status == 200]
    told = {answer.body["error"]["message"] for answer in answers if answer.status == 409}
    assert told == {
        f"It was {winner['state']} by token:fixture-operator at {winner['decided_at']}. "
        f"Reason: {winner['reason']}"
    }
    actions = [
        row
        for row in admin.get("/audit?limit=500")["data"]
        if row["details"].get("approval") == record.id and row["action"] != "approval.request"
    ]
    assert len(actions) == 1
    assert actions[0]["actor"] == "token:fixture-operator"
    assert admin.get("/audit/verify")["ok"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"decision": "approve"},
        {"decision": "maybe", **REASON},
        {"decision": "approve", "reason": ""},
        {"decision": "approve", "reason": "a\nb"},
        {"decision": "approve", **REASON, "extra": 1},
        [],
        b"{",
    ],
)
def test_a_decision_needs_a_word_and_a_reason(admin: Admin, body: Any) -> None:
    assert admin.call("POST", "/approvals/apr_none", body).code == "invalid_request"


def test_lists_are_paged_and_narrowed(gateway: ThreadedGateway, admin: Admin, call: ApprovalRequest) -> None:
    mine = {asking(gateway, replace(call, arguments=json.dumps({"n": n})), 0).result(5).id for n in range(5)}
    seen: list[str] = []
    cursor = ""
    while True:
        page = admin.get(f"/approvals?state=pending&limit=2{cursor}")
        seen += [row["id"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen))
    assert mine <= set(seen)
    assert admin.call("GET", "/approvals?state=held").code == "invalid_request"
    assert admin.call("GET", "/approvals?cursor=x").code == "invalid_cursor"


def test_without_the_ledger_nothing_is_allowed(
    gateway: ThreadedGateway, call: ApprovalRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: Any, **__: Any) -> Any:
        raise LedgerUnavailable("gone")

    monkeypatch.setattr(gateway.worker.ledger, "request_approval", unavailable)
    with pytest.raises(LedgerUnavailable):
        asking(gateway, call).result(5)
    monkeypatch.undo()
    # One that goes away while a call is held leaves it pending.
    monkeypatch.setattr(gateway.worker.ledger, "approval", unavailable)
    monkeypatch.setattr(gateway.worker.ledger, "decided_approvals", unavailable)
    assert asking(gateway, call, 0.7).result(5).state == "pending"


def test_an_operator_decides_at_the_terminal(
    gateway: ThreadedGateway, admin: Admin, call: ApprovalRequest
) -> None:
    future = asking(gateway, call)
    row = held(admin, call)
    table = command(gateway, "approvals")
    (line,) = [line for line in table.splitlines() if row["id"] in line]
    assert 'send_email  {"subject":"Hi","to":"a@example.com"}' in line
    assert "run_1  $0.012345678" in line
    assert "expires in 9m" in line
    whole = command(gateway, "approvals", row["id"])
    assert whole.splitlines()[0] == "send_email, expires in 9m"
    assert command(gateway, "approve", row["id"], "--reason", "known").startswith(
        "send_email of run run_1 may pass once, until "
    )
    assert future.result(5).reason == "known"
    refused = command(gateway, "deny", row["id"], "--reason", "no", check=1)
    assert refused.startswith("It was approved by admin at ")
    assert "approved by admin" in command(gateway, "approvals", "--state", "all")
    listed = json.loads(command(gateway, "approvals", "--state", "approved", "--json"))
    assert row["id"] in [each["id"] for each in listed["data"]]


# -- breakers ----------------------------------------------------------------------------------------

RULE = BreakerRule(error_rate=0.5, min_calls=2, window_ms=60_000, open_ms=60_000, probes=1)
MAIL = breaker_key("tool", "team/blue & red", "send email/ü")
SEARCH = breaker_key("tool", "shared", "search")


@pytest.fixture
def broken(gateway: ThreadedGateway) -> Iterator[None]:
    """One breaker open, one closed."""
    store = gateway.worker.store

    def done(work: Callable[[], Awaitable[Any]]) -> None:
        gateway.run(work)

    done(lambda: store.report(MAIL, RULE, source="alice", ok=1, failed=4))
    done(lambda: store.report(SEARCH, RULE, source="alice", ok=7, failed=0))
    yield
    done(lambda: store.reset_breaker(MAIL))
    done(lambda: store.reset_breaker(SEARCH))


@pytest.mark.usefixtures("broken")
def test_breakers_are_listed_with_the_open_ones_first(admin: Admin) -> None:
    rows = admin.get("/breakers")["data"]
    assert [row["id"] for row in rows] == [MAIL, SEARCH]
    ensure_shapes(rows)
    opened, until = rows[0].pop("opened_at"), rows[0].pop("until")
    assert opened < until
    assert rows[0] == {
        "id": "tool:team/blue%20%26%20red:send%20email%2F%C3%BC",
        "kind": "tool",
        "name": "send email/ü",
        "scope": "team/blue & red",
        "state": "open",
        "ok": 1,
        "failed": 4,
    }
    assert (rows[1]["state"], rows[1]["opened_at"], rows[1]["until"]) == ("closed", None, None)


@pytest.mark.usefixtures("broken")
def test_an_operator_closes_a_breaker(gateway: ThreadedGateway, admin: Admin) -> None:
    assert MAIL in command(gateway, "breakers")
    assert json.loads(command(gateway, "breakers", "--json"))["data"][0]["id"] == MAIL
    assert command(gateway, "breakers", "reset", MAIL) == f"Breaker {MAIL} is closed.\n"
    assert [row["id"] for row in admin.get("/breakers")["data"]] == [SEARCH]
    assert command(gateway, "breakers", "reset", MAIL, check=1).startswith("There is no breaker ")
    (entry,) = [e for e in admin.get("/audit")["data"] if e["action"] == "breaker.reset"][:1]
    assert (entry["actor"], entry["details"]) == ("admin", {"breaker": MAIL})
    # As it stands in the list, slashes and all.
    assert admin.post(f"/breakers/{SEARCH}/reset", {})["state"] == "closed"
    assert command(gateway, "breakers") == "No breakers.\n"


@pytest.mark.usefixtures("broken")
def test_a_reset_that_cannot_be_noted_is_not_made(
    gateway: ThreadedGateway, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise LedgerUnavailable("the disk is full")

    path = f"/breakers/{quote(MAIL, safe='')}/reset"
    with monkeypatch.context() as patch:
        patch.setattr(gateway.worker.ledger, "audit_append", away)
        answer = admin.call("POST", path, {})
    assert (answer.status, answer.body["error"]["code"]) == (503, "ledger_unavailable")
    assert admin.get("/breakers")["data"][0]["state"] == "open"
    assert admin.post(path, {})["state"] == "closed"


def test_requests_outlive_the_process(tmp_path: Path, call: ApprovalRequest) -> None:
    from gateway.testing import running_provider
    from tests.support.gateway import base_policy, threaded_gateway

    with running_provider() as provider:
        policy = base_policy(provider.base_url)
        with threaded_gateway(policy, tmp_path) as first:
            record = asking(first, call, 0).result(5)
        with threaded_gateway(policy, tmp_path) as second:
            admin = Admin(second)
            admin.post(f"/approvals/{record.id}", {"decision": "approve", **REASON})
        with threaded_gateway(policy, tmp_path) as third:
            assert asking(third, call, 0).result(5).state == "approved"
