"""Which model can take a step of another: whatever would make a provider refuse it is found before."""

from __future__ import annotations

import orjson
import pytest

from gateway.domain import Json, Step, Surface
from gateway.metering.prices import FREE
from gateway.policy.sections.providers import Model, Provider
from gateway.rules.capability import Candidate, family_of, unable
from gateway.rules.route import Route
from gateway.rules.steps import classify
from gateway.surfaces import CODECS

CHAT, RESPONSES, MESSAGES = Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES
OPENAI = Provider.model_validate(
    {"dialect": "openai", "base_url": "https://api.openai.com/v1", "api_key": "sk-x"}
)
TOOLS = {
    CHAT: [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}],
    RESPONSES: [{"type": "function", "name": "find", "parameters": {"type": "object"}}],
    MESSAGES: [{"name": "find", "input_schema": {"type": "object"}}],
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
CALL: Json = {
    "id": "call_0123456789abcdef",
    "type": "function",
    "function": {"name": "find", "arguments": "{}"},
}
CALLED: list[Json] = [
    {"role": "user", "content": "Find it."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": CALL["id"], "content": "found"},
]


def put(surface: Surface, **more: object) -> Step:
    body: Json = {"model": "asked", **more}
    if surface is RESPONSES:
        body.setdefault("input", "Find it.")
    else:
        body.setdefault("messages", [{"role": "user", "content": "Find it."}])
    if surface is MESSAGES:
        body.setdefault("max_tokens", 1_000)
    return CODECS[surface].parse(orjson.dumps(body))


def model(
    name: str,
    speaks: Surface,
    provider: str = "",
    *,
    cap: int | None = None,
    window: int | None = None,
    **policy: object,
) -> Candidate:
    known = Model.model_validate({"provider": "p", **policy})
    provider = provider or ("claude" if speaks is MESSAGES else "openai")
    route = Route(name, provider, OPENAI, name, FREE, True, cap, name, window)
    return Candidate(name, known, route, speaks)


def why(step: Step, target: Candidate, asked: Candidate | None = None) -> str | None:
    defaults = {CHAT: "gpt-4.1", RESPONSES: "gpt-4.1", MESSAGES: "claude-opus-4-5"}
    asked = asked or model(defaults[step.surface], step.surface)
    return unable(step, classify(step, ordinal=2, is_retry=False), asked, target)


MINI, HAIKU = model("gpt-4.1-mini", CHAT), model("claude-haiku-4-5", MESSAGES)
NEW = model("gpt-5-mini", CHAT)
HOUSE = model("llama-3", CHAT, "house")


@pytest.mark.parametrize(
    ("step", "target"),
    [
        (put(CHAT), MINI),
        (put(CHAT, tools=TOOLS[CHAT], messages=CALLED), MINI),
        (put(CHAT, tools=TOOLS[CHAT], messages=CALLED), HAIKU),
        (put(CHAT, tools=TOOLS[CHAT], messages=CALLED), HOUSE),
        (put(CHAT, temperature=0.2, max_tokens=100, stop=["x"]), MINI),
        (put(CHAT, temperature=1, max_completion_tokens=100), NEW),
        (put(CHAT, reasoning_effort="low"), NEW),
        (
            put(
                CHAT, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
            ),
            MINI,
        ),
        (put(MESSAGES, tools=TOOLS[MESSAGES]), HAIKU),
        (put(MESSAGES, tools=TOOLS[MESSAGES]), MINI),
        (put(RESPONSES, tools=TOOLS[RESPONSES]), model("gpt-4.1-mini", RESPONSES)),
        (put(RESPONSES, store=False), MINI),
        (put(RESPONSES, store=False), HAIKU),
        (put(RESPONSES, previous_response_id="resp_1"), model("gpt-4.1-mini", RESPONSES)),
        (put(MESSAGES, tools=[{"type": "web_search_20250305", "name": "web_search"}]), HAIKU),
    ],
)
def test_what_can_be_taken_is(step: Step, target: Candidate) -> None:
    assert why(step, target) is None


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
FILE_ID = {"type": "file", "file": {"file_id": "file-1"}}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
THINKS = {"type": "enabled", "budget_tokens": 1024}
TWO: list[Json] = [*CALLED[:1], {**CALLED[1], "tool_calls": [CALL, {**CALL, "id": "call_1"}]}, CALLED[2]]


def said(*parts: Json) -> list[Json]:
    return [{"role": "user", "content": [*parts]}]


@pytest.mark.parametrize(
    ("step", "target", "reason"),
    [
        # What the policy says, or the family is known for.
        (
            put(CHAT, tools=TOOLS[CHAT]),
            model("x", CHAT, lacks="tools"),
            "the policy says that it lacks tools",
        ),
        (put(CHAT, messages=CALLED), model("x", CHAT, lacks="tools"), "the policy says that it lacks tools"),
        (put(CHAT, messages=TWO), model("x", CHAT, lacks="parallel_tools"), "lacks parallel_tools"),
        (put(CHAT, messages=said(IMAGE)), model("x", CHAT, lacks="images"), "lacks images"),
        (put(CHAT, messages=said(IMAGE)), model("gpt-3.5-turbo", CHAT), "gpt-3.5* lacks images"),
        (
            put(
                CHAT, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
            ),
            model("gpt-4-turbo", CHAT),
            "gpt-4-turbo* lacks json_schema",
        ),
        (
            put(MESSAGES, output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
            model("claude-3-5-haiku-latest", MESSAGES),
            "claude-3-5* lacks json_schema",
        ),
        (put(CHAT, reasoning_effort="low"), MINI, "gpt-4.1* lacks reasoning"),
        (put(RESPONSES, reasoning={"effort": "low"}, store=False), MINI, "gpt-4.1* lacks reasoning"),
        (put(CHAT, tools=TOOLS[CHAT]), model("gpt-4o-search-preview", CHAT), "lacks tools"),
        # Sampling and limits.
        (put(CHAT, temperature=0), NEW, "gpt-5* refuses 'temperature'"),
        (put(CHAT, max_tokens=100), NEW, "gpt-5* refuses 'max_tokens'"),
        (put(CHAT, stop=["x"]), model("o4-mini", CHAT), "o4-mini* refuses 'stop'"),
        (put(CHAT, logprobs=True), NEW, "gpt-5* refuses 'logprobs'"),
        (put(CHAT, parallel_tool_calls=False, tools=TOOLS[CHAT]), model("o3", CHAT), "'parallel_tool_calls'"),
        (put(CHAT, verbosity="low"), MINI, "gpt-4.1* refuses 'verbosity'"),
        (put(MESSAGES, temperature=0.5, top_p=0.9), HAIKU, "refuses 'temperature' beside 'top_p'"),
        (put(MESSAGES, top_k=5), model("claude-opus-4-7", MESSAGES), "refuses 'top_k'"),
        (
            put(CHAT, max_completion_tokens=20_000),
            model("gpt-4o-mini", CHAT),
            "it writes at most 16384 tokens",
        ),
        (put(CHAT, max_tokens=900), model("x", CHAT, cap=800), "it writes at most 800 tokens, and 900"),
        (put(CHAT, reasoning_effort="none"), NEW, "gpt-5* knows no effort 'none'"),
        (put(CHAT, reasoning_effort="minimal"), model("gpt-5.1", CHAT), "gpt-5.* knows no effort 'minimal'"),
        (put(CHAT), model("gpt-5.1-codex", CHAT), "is not to be had by chat completions"),
        # Windows.
        (
            put(CHAT, messages=said({"type": "text", "text": "x" * 60_000})),
            model("x", CHAT, window=32_000),
            "fit",
        ),
        (put(CHAT, max_tokens=31_900), model("x", CHAT, window=32_000), "do not fit its window of 32000"),
        # What another model or provider has.
        (
            put(
                MESSAGES,
                messages=[*said({"type": "text", "text": "a"}), {"role": "assistant", "content": [THOUGHT]}],
            ),
            HAIKU,
            "signed thoughts of another model",
        ),
        (
            put(
                RESPONSES,
                input=[{"role": "user", "content": "a"}, {"type": "reasoning", "id": "rs_1", "summary": []}],
            ),
            model("gpt-4.1-mini", RESPONSES),
            "reasoning items of another model",
        ),
        (put(CHAT, messages=[{**CALLED[1], "reasoning_details": [{}]}, *CALLED]), HOUSE, "sealed thoughts"),
        (put(CHAT, messages=said(FILE_ID)), HOUSE, "kept at another provider"),
        (put(RESPONSES, previous_response_id="resp_1"), MINI, "kept at another provider"),
        (
            put(RESPONSES, background=True, store=False),
            model("x", RESPONSES, "house"),
            "fetched from its provider",
        ),
        (put(RESPONSES), MINI, "the next step may go on from an answer that another provider keeps"),
        (
            put(RESPONSES, tools=[{"type": "code_interpreter"}]),
            model("gpt-4.1-nano", RESPONSES),
            "'code_interpreter'",
        ),
        (
            put(RESPONSES, tools=[{"type": "web_search"}], store=False),
            HOUSE,
            "'web_search' is its provider's own",
        ),
        (
            put(MESSAGES, tools=[{"type": "bash_20250124", "name": "bash"}]),
            HAIKU,
            "'bash_20250124' is its provider",
        ),
        (put(CHAT, web_search_options={}, plugins=[{"id": "web"}]), HOUSE, "'plugins' is its provider's own"),
        # What cannot be said to another provider.
        (put(CHAT, n=2), HAIKU, "n cannot be carried"),
        (put(CHAT, seed=7), HAIKU, "seed cannot be carried"),
        (put(CHAT, logprobs=True), HAIKU, "logprobs cannot be carried"),
        (put(CHAT, temperature=1.5), HAIKU, "temperature cannot be carried"),
        (put(CHAT, response_format={"type": "json_object"}), HAIKU, "response_format.type cannot be carried"),
        (put(MESSAGES, top_k=5), MINI, "top_k cannot be carried"),
        (put(CHAT, verbosity="low"), HOUSE, "not every provider knows 'verbosity'"),
        (put(CHAT, messages=[{"role": "developer", "content": "x"}]), HOUSE, "the role 'developer'"),
        (put(CHAT), model("x", Surface.EMBEDDINGS), "no translation leads from chat to embeddings"),
        # Histories that the other one does not take, or the answer would spoil.
        (put(CHAT, messages=CALLED), model("mistral-small", CHAT, "mistral"), "nine letters or digits"),
        (
            put(CHAT, messages=CALLED),
            model("gemini-3-flash", CHAT, "google"),
            "its own signature on every call",
        ),
        (
            put(CHAT, messages=[CALLED[0], {**CALLED[1], "tool_calls": [{**CALL, "id": "x" * 41}]}]),
            MINI,
            "no ids of calls of more than 40 characters",
        ),
        (put(MESSAGES, thinking=THINKS, max_tokens=4_000, tools=TOOLS[MESSAGES]), HAIKU, "have to be signed"),
        (put(MESSAGES, thinking={"type": "adaptive"}), HAIKU, "knows no thinking of type 'adaptive'"),
        (put(RESPONSES, store=False), model("gpt-5-mini", RESPONSES), "its reasoning items would come back"),
    ],
)
def test_what_would_be_refused_is_not_sent(step: Step, target: Candidate, reason: str) -> None:
    found = why(step, target)
    assert found is not None
    assert reason in found


def test_a_conversation_kept_by_a_reasoning_model_stays_with_it() -> None:
    step = put(RESPONSES, previous_response_id="resp_1")
    asked = model("gpt-5", RESPONSES)
    assert why(step, model("gpt-5-mini", RESPONSES), asked) == (
        "the conversation kept at the provider may hold thoughts of another model"
    )


def test_a_model_that_signs_its_calls_is_not_left_in_a_conversation_with_tools() -> None:
    asked = model("gemini-3-pro", CHAT, "google")
    assert (
        why(put(CHAT, tools=TOOLS[CHAT]), HOUSE, asked) == "gemini-3* wants its own signature on every call"
    )
    assert why(put(CHAT), HOUSE, asked) is None


def test_a_title_may_be_thought_of_by_any_model() -> None:
    """It is no part of the conversation, so that nothing of it comes back."""
    words = "You are a title generator. You output only a title."
    step = put(RESPONSES, instructions=words, store=False)
    assert classify(step, ordinal=1, is_retry=False).kind == "title"
    assert why(step, model("gpt-5-nano", RESPONSES)) is None


def test_the_same_model_takes_everything() -> None:
    step = put(
        RESPONSES, previous_response_id="resp_1", tools=[{"type": "computer_use_preview"}], temperature=2
    )
    asked = model("gpt-5", RESPONSES)
    assert why(step, model("gpt-5", RESPONSES, lacks="tools"), asked) is None


def test_a_window_as_large_as_the_other_s_is_no_reason() -> None:
    step = put(CHAT, messages=said({"type": "text", "text": "x" * 90_000}))
    asked = model("a", CHAT, window=32_000)
    assert why(step, model("b", CHAT, window=32_000), asked) is None
    assert why(step, model("b", CHAT, window=31_999), asked) is not None


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o"),
        ("openai/gpt-4.1-nano", "gpt-4.1"),
        ("ft:gpt-4o-mini:org::id", "gpt-4o"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("claude-mythos-9", "claude-"),
        ("gpt-5.4-mini", "gpt-5."),
        ("gpt-5-chat-latest", "gpt-5-chat"),
        ("o1", "o1"),
        ("o10", None),
        ("gpt-50", None),
        ("llama-3.3-70b", None),
        ("", None),
    ],
)
def test_families_go_by_the_longest_beginning(name: str, start: str | None) -> None:
    family = family_of(name)
    assert (family.start if family else None) == start
