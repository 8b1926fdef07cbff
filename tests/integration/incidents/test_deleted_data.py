"""An agent deleted customers' data. A dangerous tool waits for a person; without one, or when that person says
no, it is never run."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.incidents.agents import KINDS, Agent, every_way, two_ways
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import ensure_books_agree
from tests.support.gateway import Gateway, ThreadedGateway, wait_until

TASK = "Clean up the database."
ANSWER = "I may not delete customers. Nothing was changed."
DANGEROUS = "tools: {delete_records: {level: dangerous, side_effects: external}}"


def deletes(ask: Ask) -> Reply:
    if ask.tools:
        return Reply(
            "I will make room.", tool_calls=[("delete_records", {"table": "customers", "where": "1=1"})]
        )
    return Reply(ANSWER)


@pytest.fixture(autouse=True)
def script(provider: ProviderServer) -> None:
    provider.script("cleaner", deletes, models=["gpt-4o", "claude-sonnet-5"])


def agent_of(gateway: ThreadedGateway, kind: str, stream: bool) -> Agent:
    tools = {"delete_records": lambda table, where: "deleted 18231 rows"}
    return KINDS[kind](url=gateway.url, tools=tools, stream=stream)


def decide(gateway: Gateway, decision: str) -> threading.Thread:
    """An operator who decides over the first call that is held."""

    def look() -> Any:
        return gateway.admin("GET", "/approvals?state=pending")["data"]

    def work() -> None:
        (held,) = wait_until(look, what="a held call")
        assert held["arguments"] == '{"table":"customers","where":"1=1"}'
        gateway.admin("POST", f"/approvals/{held['id']}", {"decision": decision, "reason": "not by night"})

    operator = threading.Thread(target=work)
    operator.start()
    return operator


@every_way
def test_an_operator_denies_it(start: Start, provider: ProviderServer, kind: str, stream: bool) -> None:
    gateway = start(DANGEROUS)
    agent = agent_of(gateway, kind, stream)
    operator = decide(gateway, "deny")
    assert agent.run(TASK).endswith(ANSWER)
    operator.join()
    assert agent.executed == []
    assert len(provider.journal) == 2
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["steps"], run["tool_calls"]) == ("completed", 1, 0)
    (held,) = gateway.admin("GET", "/approvals?state=denied")["data"]
    assert (held["run"], held["reason"]) == (run["id"], "not by night")
    assert "18231" not in str(provider.journal.last.body)
    assert b"not by night" in provider.journal.last.body


@two_ways
def test_a_call_without_rows_to_lose_is_not_run_beside_it(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    """Calls of one turn are delivered together or not at all."""

    def both(ask: Ask) -> Reply:
        if ask.tools:
            return Reply(
                tool_calls=[
                    ("count", {"table": "customers"}),
                    ("delete_records", {"table": "c", "where": "1"}),
                ]
            )
        return Reply(ANSWER)

    provider.script("cleaner", both, models=["gpt-4o", "claude-sonnet-5"])
    gateway = start(f"{DANGEROUS}\napprovals: {{hold_s: 0.1}}")
    agent = agent_of(gateway, kind, stream)
    agent.tools = {**agent.tools, "count": lambda table: "18231"}
    assert agent.run(TASK).endswith(ANSWER)
    assert agent.executed == []
    ensure_books_agree(gateway, provider)


def test_a_key_for_moderate_tools_does_not_even_ask(start: Start, provider: ProviderServer) -> None:
    from tests.support.gateway import ALICE

    key = f"[{{name: alice, key: {ALICE}, user: alice, max_tool_level: moderate}}]"
    gateway = start(DANGEROUS, keys=key)
    agent = agent_of(gateway, "chat", False)
    assert agent.run(TASK).endswith(ANSWER)
    assert agent.executed == []
    assert gateway.admin("GET", "/approvals")["data"] == []
    assert b"delete_records" not in provider.journal[0].body


@two_ways
def test_waiting_is_no_part_of_the_runs_time(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    """An operator takes longer than the run may."""
    gateway = start(f"{DANGEROUS}\napprovals: {{hold_s: 5}}", runs="{max_wall_clock_s: 1.5, on_exceed: stop}")

    def once(ask: Ask) -> Reply:
        if any(turn.role == "tool" for turn in ask.turns):
            return Reply("Deleted.")
        return deletes(ask)

    provider.script("cleaner", once, models=["gpt-4o", "claude-sonnet-5"])
    agent = agent_of(gateway, kind, stream)

    def work() -> None:
        (held,) = wait_until(
            lambda: gateway.admin("GET", "/approvals?state=pending")["data"], what="a held call"
        )
        time.sleep(1.7)
        gateway.admin("POST", f"/approvals/{held['id']}", {"decision": "approve", "reason": "old data"})

    operator = threading.Thread(target=work)
    operator.start()
    assert agent.run(TASK) == "Deleted."
    operator.join()
    assert len(agent.executed) == 1
    assert ensure_books_agree(gateway, provider)["status"] == "completed"
