"""The audit log of a running gateway: what gets into it, and what happens when it cannot be written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.stores.audit_chain import verify_chain
from gateway.stores.ledger import LedgerUnavailable
from gateway.testing import ProviderServer, running_provider
from gateway.web.admin_views import audit_record
from tests.integration.admin.calls import Admin, chat
from tests.support.gateway import ThreadedGateway, base_policy, threaded_gateway, wait_until

LIMIT = "budgets: [{name: run, per: run, limit_usd: 0.01}]\n"
SCREEN = "screening: {pii: {mode: enforce, entities: [EMAIL_ADDRESS], user: {action: redact}}}\n"


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with running_provider() as server:
        yield server


def records(gateway: ThreadedGateway, **query: str) -> list[dict[str, Any]]:
    """Records, oldest first, after everything pending was written."""

    async def flush() -> None:
        await gateway.worker.audit._hand_over()
        await gateway.worker.drain.flush()
        await gateway.worker.ledger.audit_seal()

    gateway.run(flush)
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    found: list[dict[str, Any]] = Admin(gateway).get(f"/audit?order=asc&limit=1000&{asked}")["data"]
    return found


def away(gateway: ThreadedGateway) -> Any:
    """Make the ledger refuse to be written to; gives what brings it back."""
    ledger = gateway.worker.ledger
    append = ledger.append

    async def refuse(_: Any) -> None:
        raise LedgerUnavailable("database or disk is full")

    ledger.append = refuse  # type: ignore[method-assign, assignment]

    def back() -> None:
        ledger.append = append  # type: ignore[method-assign]

    return back


def test_what_the_gateway_decides_and_does_is_on_record(provider: ProviderServer, tmp_path: Path) -> None:
    policy = base_policy(provider.base_url, LIMIT + SCREEN)
    with threaded_gateway(policy, tmp_path) as gateway:
        admin = Admin(gateway)
        for _ in range(5):
            assert chat(gateway)[0] == 200
        _, redacted, _ = chat(gateway, text="Write to jane.doe@example.com please", x_guardrail_run_id="mail")
        chat(gateway, text="word " * 10_000, x_guardrail_run_id="mail")
        _, killed, _ = chat(gateway, x_guardrail_run_id="to-be-killed")
        admin.post("/runs/to-be-killed/kill", {"reason": "enough"})
        chat(gateway, x_guardrail_run_id="to-be-killed")
        gateway.policy_path.write_text("version: 1\nbudget: []\n")
        wait_until(lambda: gateway.worker.source.status().failures)
        wait_until(lambda: records(gateway, action="policy.reload_failed"))
        gateway.policy_path.write_text(policy + "rates: [{name: r, per: user, requests_per_minute: 9999}]\n")
        wait_until(lambda: len(records(gateway, action="policy.in_force")) == 2)
        wait_until(lambda: records(gateway, action="policy.reloaded"))
        gateway.worker.breakers.notify("breaker_open", {"breaker": "tool:shared:x", "failed": 9})
        wait_until(lambda: records(gateway, action="breaker.*"))
        told = records(gateway)
        actions = [each["action"] for each in told]
        for action in ("policy.in_force", "step.redact", "step.refuse", "run.stop", "kill.set", "steps.seal"):
            assert action in actions, action
        assert "step.allow" not in actions
        run = redacted["x-guardrail-run-id"]
        about = records(gateway, run=run)
        assert [each["action"] for each in about] == ["step.redact", "step.refuse", "run.stop"]
        assert about[1]["details"]["code"] == "run_budget_exceeded"
        assert about[0]["details"]["findings"][0]["detector"] == "pii"
        assert "jane.doe" not in json.dumps(told)
        stops = records(gateway, run=killed["x-guardrail-run-id"], action="run.stop")
        assert [each["details"]["status"] for each in stops] == ["killed"]
        assert verify_chain(map(audit_record, told)).ok
        check = admin.get("/audit/verify")
        assert (check["ok"], check["reason"]) == (True, None)
        assert check["steps"] == len(gateway.attempts())
        assert admin.get("/audit/verify?steps=false")["steps"] is None
        head = admin.get("/audit/head")
        assert head["records"] >= len(told)


def test_a_step_that_was_changed_by_hand_is_found_and_told(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(base_policy(provider.base_url), tmp_path) as gateway:
        for _ in range(3):
            chat(gateway, x_guardrail_run_id="dear")
        records(gateway)
        ledger = gateway.worker.ledger
        step = gateway.attempts()[1]["id"]
        heard: list[Any] = []
        gateway.worker.notices.append(lambda kind, facts: heard.append((kind, facts)))

        async def tamper() -> None:
            await ledger._write(
                lambda conn: conn.exec_driver_sql("UPDATE gw_steps SET cost = 1 WHERE id = ?", (step,))
            )

        gateway.run(tamper)
        check = Admin(gateway).get("/audit/verify")
        assert not check["ok"]
        assert step in check["reason"]
        assert [facts["reason"] for kind, facts in heard if kind == "audit_failed"] == [check["reason"]]


@pytest.mark.parametrize("on_failure", ["refuse", "continue"])
def test_without_its_audit_log_the_gateway_does_what_the_policy_says(
    provider: ProviderServer, tmp_path: Path, on_failure: str
) -> None:
    rule = f"audit: {{on_failure: {on_failure}, grace_s: 1}}\n"
    with threaded_gateway(base_policy(provider.base_url, rule), tmp_path) as gateway:
        heard: list[str] = []
        gateway.worker.notices.append(lambda kind, _: heard.append(kind))
        assert chat(gateway)[0] == 200
        records(gateway)
        before = len(provider.requests) if hasattr(provider, "requests") else 0
        back = away(gateway)
        assert chat(gateway, x_guardrail_run_id="in-grace")[0] == 200
        wait_until(lambda: "audit_failed" in heard, timeout=10)
        assert gateway.worker.metrics.audit_unwritten._value.get() >= 1
        status, headers, body = chat(gateway, x_guardrail_run_id="after")
        bypassed = gateway.worker.metrics.bypassed.labels("audit")._value.get()
        if on_failure == "refuse":
            assert (status, body["error"]["code"]) == (503, "guardrail_unavailable")
            assert headers["retry-after"] == "2"
            assert bypassed == 0
        else:
            assert status == 200
            assert bypassed == 1
        assert before >= 0
        back()
        wait_until(lambda: "audit_recovered" in heard, timeout=10)
        assert chat(gateway, x_guardrail_run_id="again")[0] == 200
        # Nothing of what happened meanwhile is lost.
        records(gateway)
        names = {row["name"] for row in Admin(gateway).get("/runs")["data"]}
        wanted = {"in-grace", "again"} | ({"after"} if on_failure == "continue" else set())
        assert wanted <= names
        check = Admin(gateway).get("/audit/verify")
        assert (check["ok"], check["steps"]) == (True, len(gateway.attempts()))
        assert gateway.worker.metrics.audit_unwritten._value.get() == 0


def test_notes_wait_for_a_store_that_is_away(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(base_policy(provider.base_url), tmp_path) as gateway:
        store = gateway.worker.store
        note = store.note
        from gateway.errors import StoreUnavailable

        async def refuse(_: bytes) -> None:
            raise StoreUnavailable

        store.note = refuse  # type: ignore[method-assign, assignment]

        async def tell() -> None:
            for number in range(5):
                gateway.worker.notify("breaker_open", {"breaker": f"tool:shared:{number}"})

        gateway.run(tell)
        time.sleep(0.3)
        assert len(gateway.worker.audit._notes) == 5
        store.note = note  # type: ignore[method-assign]
        found = wait_until(lambda: records(gateway, action="breaker.open"))
        assert [each["details"]["breaker"] for each in found] == [f"tool:shared:{n}" for n in range(5)]


def test_the_head_is_told_once_a_day(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(base_policy(provider.base_url), tmp_path) as gateway:
        wait_until(lambda: Admin(gateway).get("/audit?limit=1")["data"], what="the first record")
        heard: list[Any] = []
        gateway.worker.notices.append(lambda kind, facts: heard.append((kind, facts)))
        gateway.worker.audit._day -= 1
        wait_until(lambda: [kind for kind, _ in heard if kind == "audit_head"])
        facts = next(facts for kind, facts in heard if kind == "audit_head")
        row = Admin(gateway).get(f"/audit?order=asc&cursor={facts['seq'] - 1}&limit=1")["data"][0]
        assert facts["name"] == f"{row['seq']}:{row['hash']}"
