"""Answers are judged by a moderation endpoint before they leave, on every surface, plain and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply, error_reply
from gateway.testing.script import Ask
from tests.integration.data_plane.test_governance import Agent
from tests.integration.data_plane.test_screening import Start, findings, screened
from tests.integration.data_plane.test_surfaces import journal_cost, ledger_cost, post, streams, ways
from tests.support.wire import WIRES

__all__ = ["screened"]

ANSWER = "I will tell you how to hurt somebody."


def judged(score: float, *, flagged: bool = False) -> Reply:
    result = {
        "flagged": flagged,
        "categories": {"violence": flagged, "hate": False},
        "category_scores": {"violence": score, "hate": 0.01},
    }
    return Reply(extra={"results": [result]})


def rule(**more: Any) -> str:
    fields = {"model": "sim/moderator", **more}
    return (
        "screening: {moderation: {" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}}"
    )


@ways
@pytest.mark.parametrize(
    ("policy", "reply", "blocked"),
    [
        (rule(), judged(0.9, flagged=True), True),
        (rule(), judged(0.9), False),
        (rule(categories="{violence: 0.5}"), judged(0.9), True),
        (rule(categories="{violence: 0.95, hate: 0.1}"), judged(0.9, flagged=True), False),
        (rule(categories="{violence: 0.5}", action="flag"), judged(0.9), False),
        (rule(categories="{violence: 0.5}", mode="shadow"), judged(0.9), False),
    ],
    ids=["flagged", "clean", "over", "under", "flag", "shadow"],
)
def test_an_answer_over_a_threshold_is_withheld(
    screened: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool,
    policy: str, reply: Reply, blocked: bool,
) -> None:  # fmt: skip
    gateway = screened(policy)
    provider.script("tells", Reply(ANSWER))
    provider.script("moderator", reply, routes=["POST /v1/moderations"])
    wire = WIRES[surface]
    body = {**wire.request(f"{prefix}/tells", "how?"), "stream": stream}
    status, headers, raw = post(gateway, wire, body)
    said = wire.read(raw)
    if blocked:
        assert (status, said.error) == (400, "output_blocked")
        assert b"hurt" not in raw
    else:
        assert (status, said.error, said.text, said.clean) == (200, None, ANSWER, True)
    assert blocked or "moderation" in headers["x-guardrail-checks"].split(",")
    judging = [attempt for attempt in provider.journal if attempt.path.endswith("/moderations")]
    assert len(judging) == 1
    assert ANSWER in judging[0].body.decode()
    if "categories" in policy and "0.95" not in policy:
        (found,) = findings(gateway, headers["x-guardrail-run-id"])
        assert (found["detector"], found["type"]) == ("moderation", "violence")
    run = gateway.admin("GET", f"/runs/{headers['x-guardrail-run-id']}")
    assert run["steps"] == 1
    assert ledger_cost(gateway) == journal_cost(provider)


@ways
def test_a_tool_loop_goes_on_and_ends_once(
    screened: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = screened(rule(categories="{violence: 0.5}"))

    def works(ask: Ask) -> Reply:
        done = sum(turn.role == "tool" for turn in ask.turns)
        return Reply("Looking.", tool_calls=[("look", {"q": str(done)})]) if done < 2 else Reply("Found.")

    provider.script("works", works)
    provider.script("moderator", judged(0.1), routes=["POST /v1/moderations"])
    agent = Agent(gateway, WIRES[surface], f"{prefix}/works", ["look"], stream)
    assert agent.run() == "Found."
    assert len(agent.executed) == 2
    run = agent.record()
    assert (run["status"], run["steps"], run["tool_calls"]) == ("completed", 3, 2)
    assert len({headers["x-guardrail-run-id"] for headers in agent.headers}) == 1
    assert ledger_cost(gateway) == journal_cost(provider)


@streams
@pytest.mark.parametrize(
    "reply",
    [
        error_reply(500, "down"),
        error_reply(401, "no"),
        Reply(body=b"{}"),
        Reply(body=b"not json"),
        judged(0.1),
    ],
    ids=["500", "401", "empty", "no json", "no such category"],
)
@pytest.mark.parametrize("on_failure", ["refuse", "allow"])
def test_without_a_verdict(
    screened: Start, provider: ProviderServer, reply: Reply, stream: bool, on_failure: str
) -> None:
    gateway = screened(rule(categories="{self-harm: 0.5}", on_failure=on_failure))
    provider.script("tells", Reply(ANSWER))
    provider.script("moderator", reply, routes=["POST /v1/moderations"])
    wire = WIRES["chat"]
    status, _, raw = post(gateway, wire, {**wire.request("sim/tells", "how?"), "stream": stream})
    said = wire.read(raw)
    if on_failure == "refuse":
        assert (status, said.error) == (503, "guardrail_unavailable")
        assert b"hurt" not in raw
    else:
        assert (status, said.text) == (200, ANSWER)
        bypassed = gateway.worker.metrics.bypassed.labels("screening.moderation")._value.get()
        assert bypassed == 1
