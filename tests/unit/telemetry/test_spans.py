"""Spans made from facts: ids, names, figures."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.telemetry.spans import (
    STOPPED,
    AttemptFacts,
    Content,
    Context,
    Message,
    Refused,
    StepFacts,
    clean,
    is_sampled,
    parse_traceparent,
    provider_name,
    run_context,
    run_span,
    span_id,
    step_spans,
)
from gateway.telemetry.traces import endings, stored_facts
from tests.support.effort import least_effort

RUN = "run_0123456789abcdef01234567"


def attempt(number: int = 1, **more: Any) -> AttemptFacts:
    given: dict[str, Any] = {
        "id": f"att_{number}", "provider": "house", "model": "m", "outcome": "ok", "start": 10, "end": 20,
        "usage": {"input_uncached": 5, "cache_read": 3, "cache_write_5m": 2, "output_text": 7, "output_reasoning": 1},
        "cost": 1_500, "url": "https://api.openai.com/v1",
    }  # fmt: skip
    return AttemptFacts(**{**given, **more})


def step(**more: Any) -> StepFacts:
    given: dict[str, Any] = {
        "run": RUN, "session": "ses_1", "decision": "dec_1", "ordinal": 2, "start": 5, "end": 30, "surface": "chat",
        "requested_model": "gpt-4o", "attempts": [attempt()],
    }  # fmt: skip
    return StepFacts(**{**given, **more})


# -- ids ----------------------------------------------------------------------------------------------


def test_ids_follow_from_ids_and_are_never_zero() -> None:
    one = run_context(RUN)
    assert one == run_context(RUN)
    # Replicas of different versions have to agree.
    assert (f"{one.trace:032x}", f"{one.span:016x}") == (
        "dd4439d5cbd2b838edb821e4a533cd45",
        "36d49f058e11b939",
    )
    assert f"{span_id('step', 'dec_1'):016x}" == "3fe7835b3a8f3962"
    seen = {run_context(f"run_{n:024x}").trace for n in range(5000)}
    assert len(seen) == 5000
    assert 0 not in seen
    assert span_id("step", "a", "b") != span_id("step", "ab") != span_id("tool", "ab")


def test_a_sample_is_the_share_that_was_asked_for_and_nested() -> None:
    traces = [run_context(f"run_{n:024x}").trace for n in range(4000)]
    kept = {share: {t for t in traces if is_sampled(t, share)} for share in (0.0, 0.1, 0.5, 1.0)}
    assert len(kept[0.0]) == 0
    assert 320 < len(kept[0.1]) < 480
    assert 1850 < len(kept[0.5]) < 2150
    assert len(kept[1.0]) == 4000
    assert kept[0.1] < kept[0.5]


GOOD = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [(GOOD, True), (GOOD[:-1] + b"0", False), (b"01" + GOOD[2:] + b"-more", True)],
)
def test_a_traceparent_is_read(value: bytes, sampled: bool) -> None:
    assert parse_traceparent(value) == (
        Context(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7),
        sampled,
    )


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"00-1", GOOD[:-1], GOOD + b"0", GOOD + b"-x", b"ff" + GOOD[2:], GOOD.upper(), GOOD.replace(b"-", b"_"),
        b"00-" + b"0" * 32 + GOOD[35:], GOOD[:36] + b"0" * 16 + b"-01", GOOD.replace(b"4", b"g"), b"\xff" * 55,
        b"01" + GOOD[2:] + b"x", b"-" * 55, b"00-" + b"4bf92f3577b34da6a3ce929d0e0e473-6" + GOOD[35:],
    ],
)  # fmt: skip
def test_anything_else_is_none(value: bytes | None) -> None:
    assert parse_traceparent(value) is None


# -- steps --------------------------------------------------------------------------------------------


def test_a_step_by_the_genai_conventions() -> None:
    (span,) = step_spans(
        step(
            stream=True,
            agent="planner",
            user="u",
            params={"max_tokens": 9, "temperature": 0.5},
            attempts=[
                attempt(finish_reason="stop", response_id="r", response_model="gpt-4o-2024", ttft_ms=12.5)
            ],
        ),
        "genai",
    )
    assert (span.name, span.kind, span.start, span.end, span.error) == ("chat gpt-4o", "client", 5, 30, "")
    assert span.parent == run_context(RUN)
    told = {name: value for name, value in span.attributes.items() if name.startswith(("gen_ai", "server"))}
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.conversation.id": "ses_1",
        "gen_ai.agent.name": "planner",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.provider.name": "openai",
        "server.address": "api.openai.com",
        "server.port": 443,
        "gen_ai.response.model": "gpt-4o-2024",
        "gen_ai.response.id": "r",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.0125,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.cache_creation.input_tokens": 2,
        "gen_ai.usage.reasoning.output_tokens": 1,
    }
    assert span.attributes["guardrail.cost_nanousd"] == 1_500
    assert not [name for name in span.attributes if name.startswith(("llm.", "openinference"))]


def test_several_attempts_are_children_and_their_sum_is_the_step() -> None:
    spans = step_spans(
        step(attempts=[attempt(1, outcome="failed", error="upstream_500", cost=10, status=500), attempt(2)]),
        "both",
    )
    own, first, second = spans
    assert [s.parent for s in spans] == [run_context(RUN), own.at, own.at]
    assert own.attributes["guardrail.cost_nanousd"] == 1_510
    assert own.attributes["gen_ai.usage.input_tokens"] == 20
    assert (first.error, second.error, own.error) == ("upstream_500", "", "")
    assert first.attributes["http.response.status_code"] == 500
    assert not [name for name in second.attributes if name.startswith(("gen_ai.usage", "llm.token_count"))]


def test_a_question_about_the_step_is_not_what_answered_it() -> None:
    (own, *_) = step_spans(
        step(
            attempts=[attempt(1, aside=True, model="judge"), attempt(2, model="m2"), attempt(3, aside=True)]
        ),
        "genai",
    )
    assert own.attributes["gen_ai.response.model"] == "m2"


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"refused": Refused("run_killed"), "attempts": []}, "run_killed"),
        ({"refused": Refused("pii_blocked")}, "pii_blocked"),
        ({"attempts": [attempt(outcome="failed", error="upstream_503")]}, "upstream_503"),
        ({"attempts": [attempt(outcome="cut")]}, "cut"),
        ({"attempts": [], "left": True}, "disconnected"),
        ({"attempts": []}, ""),
    ],
)
def test_why_a_step_failed(more: dict[str, Any], error: str) -> None:
    (span, *_) = step_spans(step(**more), "both")
    assert (span.error, span.attributes.get("error.type", "")) == (error, error)


def test_tools_are_told_with_what_is_known_of_them() -> None:
    results = [
        {"call_id": "c1", "name": "look", "ok": True},
        {"call_id": "c2", "name": "send", "ok": False, "status": "error", "error_type": "timeout"},
        {"call_id": None, "name": "", "ok": True, "status": "pending"},
    ]
    _, *tools = step_spans(step(results=results, results_from=2), "genai")
    assert [(t.name, t.error, t.start, t.end) for t in tools] == [
        ("execute_tool look", "", 2, 5),
        ("execute_tool send", "timeout", 2, 5),
        ("execute_tool unknown", "", 2, 5),
    ]
    assert [t.attributes["guardrail.tool.outcome"] for t in tools] == ["ok", "error", "pending"]
    assert len({t.at.span for t in tools}) == 3
    again = step_spans(step(results=results, results_from=2, decision="dec_2"), "genai")[1:]
    assert [t.at for t in again] == [t.at for t in tools]


def test_a_huge_request_stays_small() -> None:
    big = "é" * 100_000
    facts = step(
        requested_model=big, run_name=big, tags={f"{big}{n}": big for n in range(100)}, user=big,
        decisions=[{"rule": big, "mode": big, "decision": big}] * 500,
        findings=[{"detector": big}] * 500,
        results=[{"call_id": big, "name": big, "ok": True}] * 5000,
    )  # fmt: skip
    spans = step_spans(facts, "both")
    assert len(spans) <= 130
    assert all(
        len(part) <= 300
        for span in spans
        for value in span.attributes.values()
        for part in (value if isinstance(value, tuple) else (str(value),))
    )
    assert sum(len(str(value)) for value in spans[0].attributes.values()) < 50_000


def test_what_utf8_cannot_say_is_replaced() -> None:
    assert clean("a\ud800b") == "a?b"
    assert clean("é😀") == "é😀"
    assert clean("x" * 300) == "x" * 256


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://me.openai.azure.com", "azure.ai.openai"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.x.ai", "x_ai"),
        ("https://evil-openai.com", "house"),
        ("http://vllm:8000/v1", "house"),
        ("http://[::1", "house"),
        ("", "house"),
    ],
)
def test_providers_by_their_well_known_names(url: str, name: str) -> None:
    assert provider_name("house", url) == name


def test_content_in_both_conventions() -> None:
    content = Content(
        [Message("system", "text", "be kind")],
        [Message("user", "text", "hi"), Message("assistant", "call", "{}", "c1", "look"),
         Message("assistant", "call", "[]", "c2", "look"), Message("tool", "result", "found", "c1")],
        [Message("assistant", "text", "bye")],
        3,
    )  # fmt: skip
    (span,) = step_spans(step(content=content), "both")
    told = span.attributes
    assert told["gen_ai.system_instructions"] == '[{"type":"text","content":"be kind"}]'
    assert told["gen_ai.input.messages"] == (
        '[{"role":"user","parts":[{"type":"text","content":"hi"}]},'
        '{"role":"assistant","parts":[{"type":"tool_call","id":"c1","name":"look","arguments":"{}"},'
        '{"type":"tool_call","id":"c2","name":"look","arguments":"[]"}]},'
        '{"role":"tool","parts":[{"type":"tool_call_response","id":"c1","response":"found"}]}]'
    )
    assert told["llm.input_messages.0.message.role"] == "system"
    assert told["llm.input_messages.2.message.tool_calls.1.tool_call.id"] == "c2"
    assert told["llm.input_messages.3.message.tool_call_id"] == "c1"
    assert (told["input.value"], told["output.value"]) == ("found", "bye")
    assert told["guardrail.content.omitted"] == 3


# -- runs ---------------------------------------------------------------------------------------------


def run(**more: Any) -> dict[str, Any]:
    return {
        "id": RUN, "name": "nightly", "session": "ses_1", "key": "k", "user": "u", "team": "t", "status": "completed",
        "started_at": 1_000, "last_step_at": 5_000, "steps": 3, "cost": 12, "tags": {}, "model_mix": {"m": {}}, **more,
    }  # fmt: skip


@pytest.mark.parametrize("status", sorted(STOPPED))
def test_a_stopped_run_is_a_failed_span(status: str) -> None:
    assert run_span(run(status=status), "genai").error == status


def test_a_run_by_its_record() -> None:
    span = run_span(
        run(tags={"agent": "planner"}, continues="run_a", parent="run_b", children=["run_c"]), "both"
    )
    assert (span.name, span.parent, span.kind) == ("invoke_agent planner", None, "internal")
    assert (span.start, span.end, span.error) == (1_000_000_000, 5_000_000_000, "")
    assert span.at == run_context(RUN)
    assert span.links == [
        (run_context("run_a"), "continues"), (run_context("run_b"), "parent"), (run_context("run_c"), "child"),
    ]  # fmt: skip
    assert span.attributes["gen_ai.agent.name"] == "planner"
    assert span.attributes["openinference.span.kind"] == "AGENT"
    assert run_span(run(name=None), "genai").name == "invoke_agent"


# -- from the ledger ----------------------------------------------------------------------------------


def test_endings_are_read_from_events() -> None:
    events = [
        b'{"t":"attempt","run":"a","run_status":"running"}',
        b'{"t":"attempt","run":"b","run_status":"completed","ordinal":1,"meta":{"policy":"v7"}}',
        b'{"t":"run","run":"c","status":"abandoned"}',
        b'{"t":"run","run":"d","status":"running"}',
        b'{"t":"refusal","run":"e","status":"killed"}',
        b'{"t":"run","run":"c","status":"killed"}',
        b"not json", b"[]", b'{"t":"run","run":7,"status":"killed"}', b'{"t":"run","run":"f"}',
    ]  # fmt: skip
    assert endings(events) == [("b", "completed", "v7", True), ("c", "killed", "", False)]


def test_attempts_and_refusals_of_one_decision_are_one_step() -> None:
    base = {
        "session": "s",
        "surface": "chat",
        "requested_model": "m",
        "tags": {},
        "saved": 0,
        "provisional": False,
    }
    rows = [
        {**base, "kind": "attempt", "id": "a1", "decision": "dec_1", "ordinal": 1, "started_at": 1, "ended_at": 5,
         "cost": 3, "outcome": "failed", "error": "upstream_500", "usage": {}},
        {**base, "kind": "attempt", "id": "a2", "decision": "dec_1", "ordinal": 1, "started_at": 1, "ended_at": 9,
         "cost": 4, "outcome": "ok", "usage": {"output_text": 2}},
        {**base, "kind": "refusal", "id": "dec_2", "decision": "refuse", "ordinal": 2, "started_at": 12, "ended_at": 12,
         "cost": 0, "code": "run_budget_exceeded", "rule": "run", "scope": "run", "limit": 5, "used": 7},
        {**base, "kind": "attempt", "id": "a3", "decision": "dec_3", "provisional": True, "ordinal": 3,
         "started_at": 13, "ended_at": 13, "cost": 9},
    ]  # fmt: skip
    first, second = stored_facts({"id": RUN, "name": None}, rows)
    assert [one.id for one in first.attempts] == ["a1", "a2"]
    assert (first.start, first.end) == (1_000_000, 9_000_000)
    assert second.refused == Refused("run_budget_exceeded", "run", "run", 5, 7)
    assert second.attempts == []
    assert [s.error for s in (step_spans(first, "genai")[0], step_spans(second, "genai")[0])] == [
        "", "run_budget_exceeded",
    ]  # fmt: skip


def test_making_the_spans_of_a_step_costs_microseconds() -> None:
    facts = step(
        tags={"a": "b"}, decisions=[{"rule": "r", "mode": "enforce", "decision": "x"}], checks=("kill",)
    )

    def work() -> None:
        for _ in range(1_000):
            step_spans(facts, "both")

    assert least_effort(work) < 0.1
