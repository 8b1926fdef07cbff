"""What was said is in a trace only where the policy says so, and then without personal data and credentials."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from tests.integration.conftest import MakeGateway
from tests.integration.telemetry.test_traces import QUICK, play
from tests.support.gateway import ThreadedGateway
from tests.support.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.support.wire import CHAT, WIRES

Start = Callable[..., ThreadedGateway]
SENTINELS = {
    "system": "zebra-system",
    "user": "zebra-user",
    "arguments": "zebra-arguments",
    "result": "zebra-result",
    "answer": "zebra-answer",
    "description": "zebra-description",
}
EMAIL, CARD = "jane.roe@corporate-mail.com", "4111 1111 1111 1111"
KEY = "sk-proj-Zt8GkQ2mX4vB7nL1pR5sT9wY3cF6hJ0dA2eU4iO8"


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as one:
        yield one


@pytest.fixture
def start(make_gateway: MakeGateway, receiver: OtlpReceiver) -> Start:
    def begin(extra: str = QUICK, **more: str) -> ThreadedGateway:
        return make_gateway(extra, environment=receiver.environment(**more))

    return begin


def converse(gateway: ThreadedGateway, provider: ProviderServer, surface: str, *, stream: bool) -> None:
    """A conversation with a sentinel, a key and an address everywhere where something is said."""
    told = f"{KEY} and {EMAIL} and {CARD}"
    call = Reply(tool_calls=[("look", {"q": f"{SENTINELS['arguments']} {told}"})])
    provider.script("talk", [call, Reply(f"{SENTINELS['answer']} {told}")])
    wire = WIRES[surface]
    body = wire.request("sim/talk", f"{SENTINELS['user']} {told}", tools=["look"], stream=stream)
    system = f"{SENTINELS['system']} {told}"
    if surface == "messages":
        body["system"] = system
    elif surface == "responses":
        body["instructions"] = system
    else:
        body["messages"].insert(0, {"role": "system", "content": system})
    said = wire.read(gateway.post(body, path=wire.path, **wire.headers)[2])
    assert said.calls, said
    history = body["input" if surface == "responses" else "messages"]
    turns = json.loads(
        json.dumps(wire.answered(said)).replace("result of look", f"{SENTINELS['result']} {told}")
    )
    history += turns
    status, _, raw = gateway.post(body, path=wire.path, **wire.headers)
    assert status == 200, raw


@pytest.mark.parametrize("surface", list(WIRES))
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_that_was_said_leaves_by_default(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver, surface: str, stream: bool
) -> None:
    gateway = start(GATEWAY_TRACE_CONVENTIONS="both")
    converse(gateway, provider, surface, stream=stream)
    receiver.wait("chat", 2)
    receiver.wait("execute_tool")
    receiver.wait("invoke_agent")
    for secret in (*SENTINELS.values(), "zebra", KEY, KEY[:20], EMAIL, "jane.roe", CARD, "1111"):
        assert secret.encode() not in bytes(receiver.raw), secret


def test_nothing_of_a_refused_request_leaves_by_default(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver
) -> None:
    gateway = start(f"{QUICK}screening: {{secrets: {{mode: enforce, action: block}}}}\n")
    status, _, raw = gateway.post(CHAT.request("sim/echo", f"zebra {KEY}"))
    assert (status, json.loads(raw)["error"]["code"]) == (400, "secret_blocked")
    (step,) = receiver.wait("chat")
    assert step.error == "secret_blocked"
    assert b"zebra" not in receiver.raw
    assert KEY[:12].encode() not in receiver.raw


@pytest.mark.parametrize("surface", list(WIRES))
@pytest.mark.parametrize(("stream", "conventions"), [(False, "genai"), (True, "openinference")])
def test_content_is_redacted_whatever_the_policy_screens(
    start: Start,
    provider: ProviderServer,
    receiver: OtlpReceiver,
    surface: str,
    stream: bool,
    conventions: str,
) -> None:
    gateway = start(f"{QUICK}tracing: {{content: redacted}}\n", GATEWAY_TRACE_CONVENTIONS=conventions)
    converse(gateway, provider, surface, stream=stream)
    first, second = receiver.wait("chat", 2)
    (tool,) = receiver.wait("execute_tool")
    for name in ("system", "user", "arguments", "result", "answer"):
        assert SENTINELS[name].encode() in bytes(receiver.raw), name
    for secret in (KEY, KEY[8:20], EMAIL, "jane.roe", CARD):
        assert secret.encode() not in bytes(receiver.raw), secret
    assert b"EMAIL_ADDRESS" in receiver.raw
    if conventions == "genai":
        assert SENTINELS["arguments"] in first["gen_ai.output.messages"]
        asked = json.loads(second["gen_ai.input.messages"])
        parts = [part for message in asked for part in message["parts"]]
        assert [part["type"] for part in parts] == ["text", "tool_call", "tool_call_response"]
        assert SENTINELS["answer"] in second["gen_ai.output.messages"]
        assert SENTINELS["system"] in second["gen_ai.system_instructions"]
        assert SENTINELS["arguments"] in tool["gen_ai.tool.call.arguments"]
        assert SENTINELS["result"] in tool["gen_ai.tool.call.result"]
    else:
        assert SENTINELS["answer"] in second["output.value"]
        assert second["llm.input_messages.0.message.role"] == "system"
        assert (
            SENTINELS["arguments"]
            in second["llm.input_messages.2.message.tool_calls.0.tool_call.function.arguments"]
        )
        assert SENTINELS["arguments"] in tool["input.value"]
        assert SENTINELS["result"] in tool["output.value"]


def test_content_is_bounded_and_the_newest_is_kept(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver
) -> None:
    gateway = start(f"{QUICK}tracing: {{content: redacted, content_chars: 1000}}\n")
    provider.script("wordy", Reply("answer " * 2000))
    turns: list[dict[str, Any]] = []
    for number in range(200):
        turns += [CHAT.user(f"question {number} " + "x" * 50), {"role": "assistant", "content": "ok " * 20}]
    turns.append(CHAT.user("the newest " + "y" * 900))
    assert gateway.post(CHAT.body("sim/wordy", turns))[0] == 200
    (step,) = receiver.wait("chat")
    told = step["gen_ai.input.messages"]
    assert len(told) < 3000
    assert "the newest" in told
    assert "question 3 " not in told
    assert step["guardrail.content.omitted"] > 350
    assert len(step["gen_ai.output.messages"]) < 2500


def test_a_credential_on_the_edge_is_not_cut_in_two(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver
) -> None:
    gateway = start(f"{QUICK}tracing: {{content: redacted, content_chars: 1000}}\n")
    for edge in (970, 980, 985, 990, 995):
        text = "a " * (edge // 2) + KEY + " the end"
        assert gateway.post(CHAT.request("sim/steps-1", text))[0] == 200
    receiver.wait("chat", 5)
    for length in (12, 16, 24):
        assert KEY[:length].encode() not in bytes(receiver.raw)


def test_content_can_be_narrowed_to_a_team(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver
) -> None:
    gateway = start(f"{QUICK}tracing: {{content: redacted, match: {{team: blue}}}}\n")
    assert gateway.post(CHAT.request("sim/echo", "zebra of the reds"))[0] == 200
    assert gateway.post(CHAT.request("sim/echo", "zebra of the blues"), key="gk-bob-0123456789")[0] == 200
    receiver.wait("chat", 2)
    assert b"zebra of the blues" in receiver.raw
    assert b"zebra of the reds" not in receiver.raw


def test_content_that_nobody_could_redact_is_left_out(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.screening.pool import ScanFailed, ScanPool

    async def fails(*_: object, **__: object) -> None:
        raise ScanFailed("crashed")

    gateway = start(f"{QUICK}tracing: {{content: redacted}}\n")
    monkeypatch.setattr(ScanPool, "scan", fails)
    assert gateway.post(CHAT.request("sim/echo", "zebra"))[0] == 200
    (step,) = receiver.wait("chat")
    assert step["guardrail.content.dropped"] is True
    assert b"zebra" not in receiver.raw


def test_hostile_names_do_not_break_a_trace(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver
) -> None:
    gateway = start(f"{QUICK}tracing: {{content: redacted}}\n")
    provider.script("odd", Reply("fine"))
    call = {
        "id": "c" * 2000,
        "type": "function",
        "function": {"name": "look\x00\x1b[31m" * 100, "arguments": "[" * 500},
    }
    body = {
        "model": "sim/odd",
        "messages": [
            {"role": "user", "content": "\ud83d\ude00 \x00 ok"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c" * 2000, "content": "\x00\x01"},
        ],
    }
    status, _, raw = gateway.post(
        body, x_guardrail_tags="a=b,c=d", x_guardrail_run_id="r" * 128, x_guardrail_user_id="u"
    )
    assert status == 200, raw
    (step,) = receiver.wait("chat")
    (tool,) = receiver.wait("execute_tool")
    assert all(len(value) <= 256 for value in (tool["gen_ai.tool.name"], tool["gen_ai.tool.call.id"]))
    assert step["guardrail.tag.a"] == "b"
    assert play([gateway], CHAT, "sim/steps-2")[-1].error is None
