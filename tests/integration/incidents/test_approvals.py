"""Mail waits for a person: approved in time it is delivered late, else the agent is told that it is pending and
learns the decision when it asks again."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.conftest import saved
from tests.integration.incidents.agents import KINDS, Agent, ChatAgent, all_ways, every_way
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import ensure_books_agree, journal_cost, nano, policy_for, runs
from tests.support.gateway import ALICE, Gateway, process_gateway, wait_until
from tests.support.redis_server import RedisServer

TASK = "Tell Ann that the printer is repaired."
SENT = "I have told Ann."
WAITS = "The mail to Ann waits for an approval."
REFUSED = "I was not allowed to write to Ann."
MAIL = {"to": "ann@example.com", "text": "The printer is repaired."}


def held_for(seconds: float, more: str = "") -> str:
    return f"tools: {{send_email: {{requires_approval: true}}}}\napprovals: {{hold_s: {seconds}{more}}}"


def mails(ask: Ask) -> Reply:
    """Sends the mail, and again whenever the user asks for it."""
    for turn in reversed(ask.turns):
        if turn.role == "tool" and "approval_pending" in turn.text:
            return Reply(WAITS)
        if turn.role == "tool" and "approval_" in turn.text:
            return Reply(REFUSED)
        if turn.role == "tool":
            return Reply(SENT)
        if turn.role == "user" and "Tell Ann" in turn.text:
            break
        if turn.role == "user" and turn.text == "Go on.":
            break
    return Reply("I will write to her.", tool_calls=[("send_email", MAIL)])


@pytest.fixture(autouse=True)
def script(provider: ProviderServer) -> None:
    provider.script("mailer", mails, models=["gpt-4o", "claude-sonnet-5"])


def agent_of(gateway: Gateway, kind: str = "chat", stream: bool = False, **more: Any) -> Agent:
    return KINDS[kind](
        url=gateway.url, tools={"send_email": lambda to, text: f"Sent to {to}."}, stream=stream, **more
    )


def pending(gateway: Gateway) -> dict[str, Any]:
    """The one call that waits for a decision, as soon as there is one."""
    (call,) = wait_until(
        lambda: gateway.admin("GET", "/approvals?state=pending")["data"], what="a call that waits"
    )
    assert json.loads(call["arguments"]) == MAIL
    found: dict[str, Any] = call
    return found


def decide(gateway: Gateway, call: dict[str, Any], decision: str = "approve", after_s: float = 0) -> Any:
    time.sleep(after_s)
    return gateway.admin("POST", f"/approvals/{call['id']}", {"decision": decision, "reason": "known to us"})


def meanwhile(work: Callable[[], Any]) -> threading.Thread:
    operator = threading.Thread(target=work)
    operator.start()
    return operator


@every_way
def test_approved_in_time_the_call_is_delivered_late(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    gateway = start(held_for(20))
    agent = agent_of(gateway, kind, stream)
    operator = meanwhile(lambda: decide(gateway, pending(gateway), after_s=0.3))
    assert agent.run(TASK) == SENT
    operator.join()
    assert agent.executed == [("send_email", MAIL)]
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["steps"], len(provider.journal)) == ("completed", 2, 2)
    steps = gateway.admin("GET", f"/runs/{run['id']}/steps")["data"]
    (decision,) = [d for step in steps for d in step["decisions"] if d["decision"] == "approved"]
    assert (decision["rule"], decision["by"]) == ("tools.send_email.requires_approval", "admin")
    (call,) = gateway.admin("GET", "/approvals?state=approved")["data"]
    assert call["used_at"] is not None


def test_a_stream_says_what_it_has_while_its_call_is_held(start: Start) -> None:
    gateway = start(held_for(20))
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": TASK}],
        "tools": [{"type": "function", "function": {"name": "send_email", "parameters": {"type": "object"}}}],
    }
    said = ""
    heard_at: list[float] = []
    decided_at: list[float] = []
    with openai.OpenAI(base_url=gateway.base_url, api_key=ALICE) as sdk:
        stream: Any = sdk.chat.completions.create(**body, stream=True)  # type: ignore[call-overload]
        name = ""
        for chunk in stream:
            if not chunk.choices:
                continue
            delta = chunk.choices[0].delta
            said += delta.content or ""
            if said == "I will write to her." and not heard_at:
                heard_at.append(time.monotonic())
                assert pending(gateway)
                decide(gateway, pending(gateway))
                decided_at.append(time.monotonic())
            for call in delta.tool_calls or ():
                assert decided_at
                name += call.function.name or ""
    assert name == "send_email"


@all_ways
def test_after_the_hold_it_is_pending_and_the_decision_comes_with_the_next_try(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    gateway = start(held_for(0.2))
    agent = agent_of(gateway, kind, stream)
    began = time.monotonic()
    assert agent.run(TASK).endswith(WAITS)
    assert time.monotonic() - began >= 0.2
    assert agent.executed == []
    call = pending(gateway)
    # Asked again before there is a decision, it is the same request that waits.
    assert agent.run("Go on.").endswith(WAITS)
    assert pending(gateway)["id"] == call["id"]
    assert decide(gateway, call)["state"] == "approved"
    assert agent.run("Go on.") == SENT
    assert agent.executed == [("send_email", MAIL)]
    found = runs(gateway, 3)
    assert {run["status"] for run in found} == {"completed"}
    assert len({run["session"] for run in found}) == 1
    assert sum(nano(run["cost_usd"]) for run in found) == journal_cost(provider)


@every_way
def test_an_approval_is_good_for_one_call(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    gateway = start(held_for(0.1))
    agent = agent_of(gateway, kind, stream)
    agent.run(TASK)
    first = pending(gateway)
    decide(gateway, first)
    assert agent.run("Go on.") == SENT
    assert agent.run("Go on.").endswith(WAITS)
    assert pending(gateway)["id"] != first["id"]
    assert len(agent.executed) == 1


@every_way
def test_a_denial_is_told_with_its_reason(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    gateway = start(held_for(20))
    agent = agent_of(gateway, kind, stream)
    operator = meanwhile(lambda: decide(gateway, pending(gateway), "deny"))
    assert agent.run(TASK).endswith(REFUSED)
    operator.join()
    assert agent.executed == []
    assert b"approval_denied" in provider.journal.last.body
    assert b"known to us" in provider.journal.last.body
    assert ensure_books_agree(gateway, provider)["status"] == "completed"


def test_nobody_decides_and_it_expires(start: Start, provider: ProviderServer) -> None:
    gateway = start(held_for(0.1, ", expires_s: 1.5"))
    agent = agent_of(gateway)
    assert agent.run(TASK).endswith(WAITS)
    (call,) = gateway.admin("GET", "/approvals")["data"]
    wait_until(
        lambda: gateway.admin("GET", f"/approvals/{call['id']}")["state"] == "expired", what="its expiry"
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        decide(gateway, call)
    assert caught.value.code == 409
    agent.run("Go on.")
    assert agent.executed == []


def test_a_denial_may_end_the_run(start: Start, provider: ProviderServer) -> None:
    gateway = start(held_for(20).replace("requires_approval", "on_violation: stop, requires_approval"))
    agent = agent_of(gateway)
    operator = meanwhile(lambda: decide(gateway, pending(gateway), "deny"))
    with pytest.raises(openai.BadRequestError) as caught:
        agent.run(TASK)
    operator.join()
    assert caught.value.code == "approval_denied"
    assert ensure_books_agree(gateway, provider)["status"] == "blocked"


def test_two_operators_at_once_are_one_decision(start: Start, provider: ProviderServer) -> None:
    gateway = start(held_for(20))
    agent = agent_of(gateway)
    barrier = threading.Barrier(2)
    codes: list[int] = []

    def operator(decision: str) -> None:
        call = pending(gateway)
        barrier.wait()
        try:
            decide(gateway, call, decision)
            codes.append(200)
        except urllib.error.HTTPError as error:
            codes.append(error.code)

    operators = [meanwhile(lambda d=decision: operator(d)) for decision in ("approve", "deny")]  # type: ignore[misc]
    answer = agent.run(TASK)
    for each in operators:
        each.join()
    assert sorted(codes) == [200, 409]
    (call,) = gateway.admin("GET", "/approvals")["data"]
    assert call["state"] == ("approved" if agent.executed else "denied")
    assert answer.endswith(SENT if agent.executed else REFUSED)
    assert ensure_books_agree(gateway, provider)["status"] == "completed"


def test_a_client_that_leaves_can_come_back_for_the_decision(start: Start, provider: ProviderServer) -> None:
    gateway = start(held_for(20))
    agent = agent_of(gateway)
    assert isinstance(agent, ChatAgent)
    patient, agent.sdk = agent.sdk, agent.sdk.with_options(timeout=1.5, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        agent.run(TASK)
    decide(gateway, pending(gateway))
    agent.sdk = patient
    agent.history.pop()
    assert agent.run(TASK) == SENT
    assert agent.executed == [("send_email", MAIL)]
    (call,) = gateway.admin("GET", "/approvals")["data"]
    assert call["used_at"] is not None


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_decision_right_behind_a_client_that_leaves_waits_for_it(start: Start, stream: bool) -> None:
    """Nobody uses the approval in the name of who has gone."""
    gateway = start(held_for(20))
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": TASK}],
        "tools": [{"type": "function", "function": {"name": "send_email", "parameters": {"type": "object"}}}],
        "stream": stream,
    }
    for n in range(4):
        told = {"x-guardrail-run-id": f"run-{n}", "authorization": f"Bearer {ALICE}"}
        told["content-type"] = "application/json"
        gone = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        gone.request("POST", "/v1/chat/completions", json.dumps(body), told)
        call = pending(gateway)
        assert gone.sock is not None
        gone.sock.shutdown(socket.SHUT_RDWR)
        gone.close()
        decide(gateway, call)
        back = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        back.request("POST", "/v1/chat/completions", json.dumps(body), told)
        assert b'"send_email"' in back.getresponse().read()
        back.close()
        (used,) = [c for c in gateway.admin("GET", "/approvals")["data"] if c["id"] == call["id"]]
        assert used["used_at"] is not None


def test_a_kill_right_before_a_decision_is_in_time(start: Start, provider: ProviderServer) -> None:
    gateway = start(held_for(20))
    agent = agent_of(gateway)
    caught: list[openai.APIStatusError] = []

    def work() -> None:
        try:
            agent.run(TASK)
        except openai.APIStatusError as error:
            caught.append(error)

    working = meanwhile(work)
    call = pending(gateway)
    gateway.admin("POST", "/kills", {"scope": "user", "id": "alice", "reason": "enough"})
    decide(gateway, call)
    working.join()
    assert [error.code for error in caught] == ["user_killed"]
    assert agent.executed == []


def test_what_waits_and_what_was_decided_outlive_the_process(
    provider: ProviderServer, tmp_path: Path
) -> None:
    policy, data = policy_for(provider, held_for(0.2)), tmp_path / "data"
    with process_gateway(policy, tmp_path / "one", data_dir=data) as gateway:
        agent = agent_of(gateway)
        assert agent.run(TASK).endswith(WAITS)
        call = pending(gateway)
        wait_until(lambda: [run for run in saved(data) if run["status"] == "completed"], what="the save")
        gateway.kill()
        gateway.wait()
    with process_gateway(policy, tmp_path / "two", data_dir=data) as gateway:
        assert pending(gateway)["id"] == call["id"]
        decide(gateway, call)
        gateway.kill()
        gateway.wait()
    with process_gateway(policy, tmp_path / "three", data_dir=data) as gateway:
        assert isinstance(agent, ChatAgent)
        agent.sdk = openai.OpenAI(base_url=gateway.base_url, api_key=ALICE)
        assert agent.run("Go on.") == SENT
        assert agent.executed == [("send_email", MAIL)]


@pytest.mark.redis
def test_an_operator_at_another_replica_decides(provider: ProviderServer, tmp_path: Path) -> None:
    policy, data = policy_for(provider, held_for(20)), tmp_path / "data"
    with (
        RedisServer() as redis,
        process_gateway(policy, tmp_path / "one", data_dir=data, store_url=redis.patient_url) as one,
        process_gateway(policy, tmp_path / "two", data_dir=data, store_url=redis.patient_url) as two,
    ):
        agent = agent_of(one)
        operator = meanwhile(lambda: decide(two, pending(two)))
        assert agent.run(TASK) == SENT
        operator.join()
        assert agent.executed == [("send_email", MAIL)]
