"""The Messages stream event by event, its plain twin, and what requests are refused for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.domain import Surface
from gateway.testing import ExactTokens, ProviderServer, Reply, ToolCall
from tests.unit.testing.conftest import (
    ANTHROPIC,
    MESSAGES,
    Json,
    Seen,
    fetch,
    fetch_raw,
    messages_body,
    request_bytes,
)

LOOK: Json = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
PATH = "/v1/messages"


async def _stream(provider: ProviderServer, reply: Reply, **fields: Any) -> Seen:
    provider.script("x", reply)
    return await MESSAGES.fetch(provider, "sim/x", True, **fields)


def _count(text: str) -> int:
    return ExactTokens().count(text)


async def test_text_is_streamed_in_this_order(provider: ProviderServer) -> None:
    reply = Reply("Good morning.", prompt_tokens=50, cached_tokens=20, cache_write_5m_tokens=7)
    seen = await _stream(provider, reply)
    assert seen.names == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert seen.names == [event["type"] for event in seen.events]
    assert b"[DONE]" not in seen.body
    message = seen.events[0]["message"]
    assert message == {
        "id": provider.journal.last.answer_id,
        "type": "message",
        "role": "assistant",
        "model": "sim/x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": 23,
            "cache_creation_input_tokens": 7,
            "cache_read_input_tokens": 20,
            "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    }
    assert seen.events[1] == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    assert seen.events[3]["delta"] == {"type": "text_delta", "text": "Good"}
    assert seen.events[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None},
        "usage": {
            "input_tokens": 23,
            "cache_creation_input_tokens": 7,
            "cache_read_input_tokens": 20,
            "output_tokens": 3,
        },
    }


async def test_thoughts_searches_text_and_calls_come_in_that_order(provider: ProviderServer) -> None:
    reply = Reply(
        "Answer.",
        reasoning="Let me think.",
        searches=1,
        tool_calls=[("look", {"q": "ü"})],
        reasoning_tokens=5,
    )
    seen = await _stream(provider, reply, tools=[LOOK])
    starts = [e["content_block"] for e in seen.events if e["type"] == "content_block_start"]
    assert [block["type"] for block in starts] == [
        "thinking",
        "server_tool_use",
        "web_search_tool_result",
        "text",
        "tool_use",
    ]
    deltas: dict[int, dict[str, str]] = {}
    for event in seen.events:
        if event["type"] == "content_block_delta":
            kind, text = event["delta"]["type"], next(v for k, v in event["delta"].items() if k != "type")
            block = deltas.setdefault(event["index"], {})
            block[kind] = block.get(kind, "") + text
    assert deltas[0]["thinking_delta"] == "Let me think."
    assert deltas[0]["signature_delta"]
    assert orjson.loads(deltas[1]["input_json_delta"]) == {"query": "hi"}
    assert deltas[3] == {"text_delta": "Answer."}
    assert deltas[4] == {"input_json_delta": '{"q":"ü"}'}
    assert starts[4]["input"] == {}
    assert len(starts[4]["id"]) == len("toolu_") + 24
    usage = seen.events[-2]["usage"]
    thought = 5 + _count("Let me think.")
    assert usage["output_tokens_details"] == {"thinking_tokens": thought}
    assert usage["server_tool_use"] == {"web_search_requests": 1, "web_fetch_requests": 0}
    assert seen.events[-2]["delta"]["stop_reason"] == "tool_use"
    served = provider.journal.last.served
    assert (served.output_total, served.output_reasoning) == (usage["output_tokens"], thought)
    assert served.tool_requests == 1


async def test_plain_reply_is_what_the_stream_folds_to(provider: ProviderServer) -> None:
    reply = Reply("A.", reasoning="B.", tool_calls=[ToolCall("look", {"a": [1]}, id="toolu_fixed")])
    seen = await _stream(provider, reply, tools=[LOOK])
    plain = (await MESSAGES.fetch(provider, "sim/x", tools=[LOOK])).json
    thinking, text, use = plain["content"]
    assert thinking["thinking"] == "B."
    signatures = [
        event["delta"]["signature"]
        for event in seen.events
        if event.get("delta", {}).get("type") == "signature_delta"
    ]
    assert signatures == [thinking["signature"]]
    assert text == {"type": "text", "text": "A."}
    assert use == {"type": "tool_use", "id": "toolu_fixed", "name": "look", "input": {"a": [1]}}
    assert (plain["stop_reason"], plain["stop_sequence"]) == ("tool_use", None)
    told = seen.events[0]["message"]["usage"] | seen.events[-2]["usage"]
    assert plain["usage"] == told
    first, second = provider.journal
    assert first.completion_tokens == second.completion_tokens


@pytest.mark.parametrize(
    ("reply", "fields", "reason", "sequence"),
    [
        (Reply("one two three"), {"max_tokens": 2}, "max_tokens", None),
        (Reply("one", finish_reason="content_filter"), {}, "refusal", None),
        (Reply("one", finish_reason="stop_sequence"), {"stop_sequences": ["END"]}, "stop_sequence", "END"),
        (Reply("one", finish_reason="pause_turn"), {}, "pause_turn", None),
        (Reply(""), {}, "end_turn", None),
    ],
)
async def test_stop_reason_follows_from_how_the_answer_ended(
    provider: ProviderServer, reply: Reply, fields: Json, reason: str, sequence: str | None
) -> None:
    seen = await _stream(provider, reply, **fields)
    plain = (await MESSAGES.fetch(provider, "sim/x", **fields)).json
    for told in (seen.events[-2]["delta"], plain):
        assert (told["stop_reason"], told["stop_sequence"]) == (reason, sequence)
        assert (told["stop_details"] is not None) == (reason == "refusal")
    if not reply.text:
        assert plain["content"] == []
        assert seen.names == ["message_start", "message_delta", "message_stop"]


async def test_broken_arguments_stream_as_they_are(provider: ProviderServer) -> None:
    broken = '{"query": "brok'
    seen = await _stream(provider, Reply(tool_calls=[("look", broken)]), tools=[LOOK])
    pieces = [e["delta"]["partial_json"] for e in seen.events if e["type"] == "content_block_delta"]
    assert "".join(pieces) == broken
    plain = (await MESSAGES.fetch(provider, "sim/x", tools=[LOOK])).json
    assert plain["content"][0]["input"] == {}
    whole = await _stream(provider, Reply(tool_calls=[("look", broken)], tool_deltas="whole"), tools=[LOOK])
    assert [e["delta"]["partial_json"] for e in whole.events if e["type"] == "content_block_delta"] == [
        broken
    ]


@pytest.mark.parametrize(
    ("told", "expected"),
    [("absent", None), ({"input_tokens": -1}, {"input_tokens": -1}), (None, None)],
)
async def test_usage_at_the_start_goes_out_as_scripted(
    provider: ProviderServer, told: Any, expected: Any
) -> None:
    seen = await _stream(provider, Reply("one", usage_at_start=told))
    message = seen.events[0]["message"]
    assert message.get("usage") == expected
    assert ("usage" in message) == (told != "absent")
    assert seen.events[-2]["usage"]["output_tokens"] == 1


async def test_usage_grows_with_the_stream(provider: ProviderServer) -> None:
    seen = await _stream(provider, Reply("one two three", usage_on="every_chunk"))
    told = [event["usage"]["output_tokens"] for event in seen.events if event["type"] == "message_delta"]
    assert told == [1, 2, 3, 3]


async def test_error_translated_to_anthropics_shape(provider: ProviderServer) -> None:
    for kind, told in (("overloaded_error", "overloaded_error"), ("server_error", "api_error")):
        error = {"error": {"message": "busy", "type": kind, "param": None, "code": None}}
        seen = await _stream(provider, Reply("one", error=error, error_translated=True, error_at_chunk=2))
        assert seen.events[-1] == {"type": "error", "error": {"type": told, "message": "busy"}}


@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
async def test_version_header_is_required(provider: ProviderServer, path: str) -> None:
    seen = await fetch(provider, messages_body("sim/echo"), path=path)
    assert seen.status == 400
    assert seen.json["error"] == {
        "type": "invalid_request_error",
        "message": "anthropic-version: header is required",
    }


async def test_either_credential_is_taken() -> None:
    async with ProviderServer(api_keys=["right"]) as server:
        for credential, status in (
            ("x-api-key: right", 200),
            ("authorization: Bearer right", 200),
            ("x-api-key: wrong", 401),
            ("accept: */*", 401),
        ):
            headers = f"{credential}\r\n{ANTHROPIC}"
            seen = await fetch(server, messages_body("sim/echo"), path=PATH, headers=headers)
            assert seen.status == status
            if status == 401:
                assert seen.json["error"]["type"] == "authentication_error"
                assert seen.json["request_id"] == server.journal.last.id
                assert f"request-id: {server.journal.last.id}".encode() in seen.head


async def test_counting_is_free_and_agrees_with_the_bill(provider: ProviderServer) -> None:
    fields: Json = {"system": "Be brief.", "tools": [LOOK]}
    await MESSAGES.fetch(provider, "sim/echo", **fields)
    body = messages_body("sim/echo", **fields)
    del body["max_tokens"]
    seen = await fetch(provider, body, path=f"{PATH}/count_tokens", headers=ANTHROPIC)
    spoken, counted = provider.journal
    assert seen.json == {"input_tokens": spoken.prompt_tokens}
    assert counted.surface is Surface.MESSAGES
    assert counted.served.input_total == counted.served.output_total == 0
    assert counted.scenario is None


async def test_counting_plays_no_script_but_its_routes(provider: ProviderServer) -> None:
    provider.script("x", Reply(status=500), models=["claude"])
    path = f"{PATH}/count_tokens"
    assert (await fetch(provider, messages_body("claude"), path=path, headers=ANTHROPIC)).status == 200
    provider.script("y", Reply(status=529), routes=[f"POST {path}"])
    seen = await fetch(provider, messages_body("claude"), path=path, headers=ANTHROPIC)
    assert (seen.status, seen.json["error"]["type"]) == (529, "overloaded_error")


async def test_input_is_counted_by_blocks(provider: ProviderServer) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "found"}]}
    thought = {"type": "thinking", "thinking": "long " * 99, "signature": "elsewhere"}
    messages = [
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": [thought, use]},
        {"role": "user", "content": [result, {"type": "image", "source": {}}]},
    ]
    await MESSAGES.fetch(provider, "sim/echo", messages=messages, system=[{"type": "text", "text": "Brief."}])
    expected = 3 + 3 + _count("system") + _count("Brief.") + 3 + _count("user") + _count("hello there")
    expected += 3 + _count("assistant") + _count("look") + _count('{"a":1}')
    expected += 3 + _count("user") + 3 + _count("found") + 85
    assert provider.journal.last.prompt_tokens == expected


async def test_messages_of_one_role_are_one_turn(provider: ProviderServer) -> None:
    provider.script("x", [Reply("zero"), Reply("one"), Reply("two")])
    said = {"role": "assistant", "content": "a"}
    asked = {"role": "user", "content": "q"}
    reminder = {"role": "system", "content": "Remember."}
    for messages, text in (
        ([asked, asked], "zero"),
        ([asked, said, said, asked, asked], "one"),
        ([asked, said, reminder, asked, said, asked], "two"),
    ):
        seen = await MESSAGES.fetch(provider, "sim/x", messages=messages)
        assert MESSAGES.said(seen, False) == text


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"type": "auto"}, "look"),
        ({"type": "any"}, "look"),
        ({"type": "tool", "name": "final"}, "final"),
        ({"type": "none"}, None),
    ],
)
async def test_tool_choice_is_obeyed(provider: ProviderServer, choice: Json, called: str | None) -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}, LOOK, {**LOOK, "name": "final"}]
    reply = (await MESSAGES.fetch(provider, "sim/printer", tools=tools, tool_choice=choice)).json
    assert next((b["name"] for b in reply["content"] if b["type"] == "tool_use"), None) == called


async def test_anthropics_own_tools_can_be_called(provider: ProviderServer) -> None:
    tools = [{"type": "bash_20250124", "name": "bash"}]
    reply = (await MESSAGES.fetch(provider, "sim/printer", tools=tools)).json
    assert reply["content"][0]["name"] == "bash"


# Refusals.


def _talk(*content: Any) -> Json:
    """Messages of user, assistant, user and so on."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": part} for i, part in enumerate(content)]}


def _use(call_id: str = "toolu_1") -> Json:
    return {"type": "tool_use", "id": call_id, "name": "look", "input": {}}


def _result(call_id: str = "toolu_1") -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": "r"}


@pytest.mark.parametrize(
    ("dialogue", "message"),
    [
        (_talk("q", [_use()], [_result()]), None),
        (
            _talk(
                "q", [_use(), _use("toolu_2")], [_result("toolu_2"), _result(), {"type": "text", "text": "x"}]
            ),
            None,
        ),
        (_talk("q", [_use()], [_result()], "a", "q", [_use()], [_result()]), None),
        (
            _talk([_result()]),
            "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1. Each "
            "`tool_result` block must have a corresponding `tool_use` block in the previous message.",
        ),
        (
            _talk("q", [_use()], [_result("toolu_9"), _result()]),
            "messages.2.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_9. Each "
            "`tool_result` block must have a corresponding `tool_use` block in the previous message.",
        ),
        (
            _talk("q", [_use()], [_result()], "a", [_result()]),
            "messages.4.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1. Each "
            "`tool_result` block must have a corresponding `tool_use` block in the previous message.",
        ),
        (
            _talk("q", [_use(), _use("toolu_2")], [_result()]),
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_2. "
            "Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
        ),
        (
            _talk("q", [_use()], "what?", "a"),
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1. "
            "Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
        ),
        (
            _talk("q", [_use()]),
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1. "
            "Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
        ),
        (
            _talk("q", [_use("a.b:c")], [_result("a.b:c")]),
            "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
        ),
    ],
)
async def test_calls_and_results_must_fit(
    provider: ProviderServer, dialogue: Json, message: str | None
) -> None:
    seen = await MESSAGES.fetch(provider, "sim/echo", **dialogue)
    assert seen.status == (200 if message is None else 400)
    if message is not None:
        assert seen.json["error"] == {"type": "invalid_request_error", "message": message}


async def test_thought_that_was_changed_on_the_way_is_noticed(provider: ProviderServer) -> None:
    provider.script("x", Reply("a", reasoning="I should look."))
    thought, said = (await MESSAGES.fetch(provider, "sim/x")).json["content"]
    for changed, status in ((thought, 200), ({**thought, "thinking": "I should [REDACTED]."}, 400)):
        seen = await MESSAGES.fetch(provider, "sim/echo", **_talk("q", [changed, said], "and?"))
        assert seen.status == status
    assert seen.json["error"]["message"] == "messages.1.content.0: Invalid `signature` in `thinking` block"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "model: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens: Input should be a valid integer greater than or equal to 1"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer greater than or equal to 1"),
        ({"messages": None}, "messages: Field required"),
        ({"messages": "x"}, "messages: Input should be a list"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [5]}, "messages.0: Input should be an object"),
        (
            {"messages": [{"role": "tool"}]},
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        (
            {"messages": [{"role": ["user"]}]},
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (
            _talk(""),
            "messages.0: all messages must have non-empty content except for the optional final assistant message",
        ),
        (_talk([{"type": "text"}]), "messages.0.content.0.text.text: Field required"),
        (_talk([{"type": "text", "text": ""}]), "messages: text content blocks must be non-empty"),
        (_talk([{}]), "messages.0.content.0.type: Field required"),
        (
            _talk("q", [{**_use(), "input": "{}"}]),
            "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
        ),
        (_talk("q", [{**_use(), "id": 5}]), "messages.1.content.0.tool_use.id: Field required"),
        (_talk([{"type": "tool_result"}]), "messages.0.content.0.tool_result.tool_use_id: Field required"),
        ({"system": 5}, "system: Input should be a valid string or list"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"tools": {}, "x": 1}, None),
        ({"tools": "x"}, "tools: Input should be a valid list"),
        ({"tools": [{"name": "f"}]}, "tools.0.custom.input_schema: Field required"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name: Field required"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1000}},
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            "`max_tokens` must be greater than `thinking.budget_tokens`.",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1025}, None),
        ({"unknown": {"field": 1}}, None),
        (_talk("q", ""), None),
    ],
)
async def test_invalid_request_is_answered_400(
    provider: ProviderServer, change: Json, message: str | None
) -> None:
    seen = await fetch(provider, messages_body("sim/echo") | change, path=PATH, headers=ANTHROPIC)
    assert seen.status == (200 if message is None else 400)
    if message is not None:
        assert seen.json["error"] == {"type": "invalid_request_error", "message": message}
        assert provider.journal.last.served.input_total == 0


async def test_unreadable_body_and_wrong_method_are_told_in_anthropics_shape(
    provider: ProviderServer,
) -> None:
    seen = await fetch(provider, b"{", path=PATH, headers=ANTHROPIC)
    assert (seen.status, seen.json["type"]) == (400, "error")
    for method, path, status in (("GET", PATH, 405), ("GET", "/v1/nothing", 404)):
        seen = await fetch_raw(provider, request_bytes(path, b"", ANTHROPIC, method))
        assert (seen.status, seen.json["type"]) == (status, "error")


# Models.


async def _models(provider: ProviderServer, query: str = "") -> Seen:
    return await fetch_raw(provider, request_bytes(f"/v1/models{query}", b"", ANTHROPIC, "GET"))


async def test_models_are_listed_in_anthropics_pages(provider: ProviderServer) -> None:
    whole = (await _models(provider, "?limit=1000")).json
    ids = [model["id"] for model in whole["data"]]
    assert "sim/echo" in ids
    assert whole["has_more"] is False
    assert {model["type"] for model in whole["data"]} == {"model"}
    first = (await _models(provider, "?limit=3")).json
    assert [model["id"] for model in first["data"]] == ids[:3]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[2], True)
    following = (await _models(provider, f"?limit=1000&after_id={ids[2]}")).json
    assert [model["id"] for model in following["data"]] == ids[3:]
    assert following["has_more"] is False
    before = (await _models(provider, f"?limit=2&before_id={ids[4]}")).json
    assert [model["id"] for model in before["data"]] == ids[2:4]
    assert before["has_more"] is True
    assert (await _models(provider, "?limit=0")).status == 400
    one = (await _models(provider, "/sim/echo")).json
    assert (one["id"], one["created_at"]) == ("sim/echo", "1970-01-01T00:00:00Z")
    missing = await _models(provider, "/sim/nothing")
    assert (missing.status, missing.json["error"]["type"]) == (404, "not_found_error")
