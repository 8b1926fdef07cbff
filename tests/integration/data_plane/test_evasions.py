"""Ways past the contracts that somebody might try: the last step of a run, one approval for several calls,
retries that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from gateway.testing.script import Ask
from tests.integration.data_plane.test_governance import Agent, Start, governed
from tests.integration.data_plane.test_surfaces import journal_cost, lanes, ledger_cost, post, ways
from tests.support.gateway import ThreadedGateway, wait_until
from tests.support.wire import WIRES

__all__ = ["governed"]

LANDS = "runs: {max_steps: 2, on_exceed: wrap_up, final_tools: [send_reply]}\n"


def replies_by_tool(ask: Ask) -> Reply:
    """Looks something up, then sends its answer with a tool if it may."""
    offered = {tool.name for tool in ask.tools}
    if offered == {"send_reply"} or (len(ask.turns) > 2 and "send_reply" in offered):
        return Reply(tool_calls=[("send_reply", {"q": "evil"})])
    if "lookup" in offered:
        return Reply(tool_calls=[("lookup", {"q": f"page {len(ask.turns)}"})])
    return Reply("Nothing is sent.")


@ways
@pytest.mark.parametrize(
    "contract",
    [
        "allow: false",
        "arguments: {q: {values: [good]}}",
        "after: [check]",
        "level: dangerous, requires_approval: true",
    ],
)
def test_the_last_step_of_a_run_is_under_its_contracts(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool, contract: str
) -> None:
    gateway = governed(f"{LANDS}tools: {{send_reply: {{{contract}}}}}\napprovals: {{hold_s: 0.1}}")
    provider.script("replies", replies_by_tool)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/replies", ["lookup", "send_reply"], stream)
    agent.run()
    assert [name for name, _ in agent.executed] == ["lookup"]
    assert agent.error is None
    assert agent.record()["status"] == "stopped_steps"
    assert ledger_cost(gateway) == journal_cost(provider)


@lanes
def test_a_final_tool_that_keeps_to_its_contract_is_called(
    governed: Start, provider: ProviderServer, surface: str, prefix: str
) -> None:
    gateway = governed(f"{LANDS}tools: {{send_reply: {{arguments: {{q: {{values: [evil]}}}}}}}}")
    provider.script("replies", replies_by_tool)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/replies", ["lookup", "send_reply"])
    agent.run()
    assert [name for name, _ in agent.executed] == ["lookup", "send_reply"]


@ways
def test_an_approval_lets_one_of_several_equal_calls_through(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed("tools: {pay: {requires_approval: true}}\napprovals: {hold_s: 0.2}")

    def pays(ask: Ask) -> Reply:
        if any(turn.role == "tool" and "twice in one turn" in turn.text for turn in ask.turns):
            return Reply(tool_calls=[("pay", {"q": "seven"})])
        if ask.turns[-1].role == "tool":
            return Reply("Waiting.")
        return Reply(tool_calls=[("pay", {"q": "seven"})] * 3)

    provider.script("pays", pays)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/pays", ["pay"], stream)
    agent.run("pay seven")
    assert agent.executed == []
    (call,) = gateway.admin("GET", "/approvals?state=pending")["data"]
    gateway.admin("POST", f"/approvals/{call['id']}", {"decision": "approve", "reason": "known"})
    agent.run("go on")
    assert [(name, json.loads(arguments)) for name, arguments in agent.executed] == [("pay", {"q": "seven"})]
    assert ledger_cost(gateway) == journal_cost(provider)


def test_an_approval_is_not_used_up_by_a_call_that_a_quota_refuses(
    governed: Start, provider: ProviderServer
) -> None:
    gateway = governed(
        "tools: {pay: {requires_approval: true, max_calls_per_session: 1}}\napprovals: {hold_s: 0.2}"
    )
    provider.script(
        "pays",
        lambda ask: Reply("Done.") if ask.turns[-1].role == "tool" else Reply(
            tool_calls=[("pay", {"q": "one"}), ("pay", {"q": "two"})]
        ),
    )  # fmt: skip
    wire = WIRES["chat"]

    def ask() -> Any:
        body = {**wire.body("sim/pays", [wire.user("pay both")]), "tools": wire.tools(["pay"])}
        return post(gateway, wire, body, x_guardrail_session_id="s1")

    for _ in range(2):
        ask()
        for call in gateway.admin("GET", "/approvals?state=pending")["data"]:
            gateway.admin("POST", f"/approvals/{call['id']}", {"decision": "approve", "reason": "known"})
    _, _, raw = ask()
    assert not wire.read(raw).calls
    assert [call["used_at"] for call in gateway.admin("GET", "/approvals?state=approved")["data"]] == [
        None
    ] * 2


def test_a_request_with_other_instructions_is_no_retry(governed: Start, provider: ProviderServer) -> None:
    gateway = governed("runs: {max_steps: 2}")
    provider.script("echo", lambda ask: Reply(tool_calls=[("lookup", {"q": "x"})]))
    wire = WIRES["chat"]

    def ask(n: int) -> int:
        messages = [{"role": "user", "content": "go"}, {"role": "developer", "content": f"chapter {n}"}]
        body = {"model": "sim/echo", "messages": messages, "tools": wire.tools(["lookup"])}
        more = {"x_guardrail_run_id": "stretched", "x_stainless_retry_count": "1"}
        return post(gateway, wire, body, **more)[0]

    assert [ask(n) for n in range(6)] == [200, 200, 400, 400, 400, 400]
    run = wait_until(lambda: _run(gateway), what="the run")
    assert run["steps"] == 2


def _run(gateway: ThreadedGateway) -> Any:
    (run,) = gateway.admin("GET", "/runs")["data"]
    return run if run["status"] != "running" else None
