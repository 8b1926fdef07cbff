"""The Responses stream event by event, its plain twin, and what requests are refused for."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gateway.testing import ExactTokens, ProviderServer, Reply, ToolCall
from tests.unit.testing.conftest import RESPONSES, Json, Seen, fetch

FUNCTION: Json = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
CUSTOM: Json = {"type": "custom", "name": "shell"}


async def _stream(provider: ProviderServer, reply: Reply, **fields: Any) -> Seen:
    provider.script("x", reply)
    return await RESPONSES.fetch(provider, "sim/x", True, **fields)


def _count(text: str) -> int:
    return ExactTokens().count(text)


async def test_text_is_streamed_in_this_order(provider: ProviderServer) -> None:
    seen = await _stream(provider, Reply("Good morning."))
    assert seen.names == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert seen.names == [event["type"] for event in seen.events]
    assert [event["sequence_number"] for event in seen.events] == list(range(11))
    assert b"[DONE]" not in seen.body
    created, in_progress, added, part, delta = seen.events[:5]
    assert created["response"] == in_progress["response"]
    assert (created["response"]["status"], created["response"]["usage"]) == ("in_progress", None)
    assert created["response"]["output"] == []
    item_id = added["item"]["id"]
    assert added["item"] == {
        "id": item_id,
        "type": "message",
        "status": "in_progress",
        "content": [],
        "role": "assistant",
    }
    assert part["part"] == {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    assert delta == {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": item_id,
        "output_index": 0,
        "content_index": 0,
        "logprobs": [],
        "delta": "Good",
        "obfuscation": "x" * 12,
    }


async def test_text_stands_in_all_its_five_places(provider: ProviderServer) -> None:
    events = {event["type"]: event for event in (await _stream(provider, Reply("Grüße, 世界"))).events}
    deltas = (await _stream(provider, Reply("Grüße, 世界"))).events
    text = "".join(e["delta"] for e in deltas if e["type"] == "response.output_text.delta")
    copies = [
        text,
        events["response.output_text.done"]["text"],
        events["response.content_part.done"]["part"]["text"],
        events["response.output_item.done"]["item"]["content"][0]["text"],
        events["response.completed"]["response"]["output"][0]["content"][0]["text"],
    ]
    assert copies == ["Grüße, 世界"] * 5


async def test_reasoning_searches_text_and_calls_come_in_that_order(provider: ProviderServer) -> None:
    reply = Reply(
        "Answer.",
        reasoning="Let me think.",
        searches=1,
        tool_calls=[("look", {"q": "ü"}), ("shell", "ls -l")],
        reasoning_tokens=5,
    )
    seen = await _stream(provider, reply, tools=[FUNCTION, CUSTOM], include=["reasoning.encrypted_content"])
    final = seen.events[-1]["response"]
    kinds = [item["type"] for item in final["output"]]
    assert kinds == ["reasoning", "web_search_call", "message", "function_call", "custom_tool_call"]
    done = [e["item"] for e in seen.events if e["type"] == "response.output_item.done"]
    assert done == final["output"]
    added = [e for e in seen.events if e["type"] == "response.output_item.added"]
    assert [e["output_index"] for e in added] == [0, 1, 2, 3, 4]
    assert len({item["id"] for item in final["output"]}) == 5
    reasoning, search, _, function, custom = final["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    assert reasoning["encrypted_content"]
    assert search["action"]["type"] == "search"
    assert final["tool_usage"]["web_search"] == {"num_requests": 1}
    assert (function["name"], function["arguments"]) == ("look", '{"q":"ü"}')
    assert (custom["name"], custom["input"]) == ("shell", "ls -l")
    assert function["call_id"] != custom["call_id"]
    assert all(len(call["call_id"]) == len("call_") + 24 for call in (function, custom))
    assert [name for name in seen.names if "reasoning" in name] == [
        "response.reasoning_summary_part.added",
        *["response.reasoning_summary_text.delta"] * _count("Let me think."),
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]
    assert [name for name in seen.names if "web_search" in name] == [
        "response.web_search_call.in_progress",
        "response.web_search_call.searching",
        "response.web_search_call.completed",
    ]
    by_type: dict[str, Any] = {event["type"]: event for event in seen.events}
    assert by_type["response.function_call_arguments.done"]["arguments"] == '{"q":"ü"}'
    assert by_type["response.custom_tool_call_input.done"]["input"] == "ls -l"
    usage = final["usage"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == 5 + _count("Let me think.")
    served = provider.journal.last.served
    assert (served.output_total, served.tool_requests) == (usage["output_tokens"], 1)
    assert served.output_reasoning == usage["output_tokens_details"]["reasoning_tokens"]


@pytest.mark.parametrize("tool_deltas", ["split", "whole"])
async def test_argument_deltas_fold_to_the_arguments(provider: ProviderServer, tool_deltas: Any) -> None:
    broken = '{"query": "brok'
    seen = await _stream(
        provider,
        Reply(tool_calls=[("look", {"a": "größe"}), ("look", broken)], tool_deltas=tool_deltas),
        tools=[FUNCTION],
    )
    folded: dict[int, str] = {}
    for event in seen.events:
        if event["type"] == "response.function_call_arguments.delta":
            index = event["output_index"]
            folded[index] = folded.get(index, "") + event["delta"]
    assert folded == {0: '{"a":"größe"}', 1: broken}
    assert "response.content_part.added" not in seen.names


async def test_plain_reply_is_the_object_that_closes_the_stream(provider: ProviderServer) -> None:
    reply = Reply("A.", reasoning="B.", tool_calls=[ToolCall("look", {}, id="call_fixed")], searches=2)
    streamed = (await _stream(provider, reply, tools=[FUNCTION])).events[-1]["response"]
    plain = (await RESPONSES.fetch(provider, "sim/x", tools=[FUNCTION])).json

    def without_ids(value: Any) -> Any:
        if isinstance(value, dict):
            varying = ("id", "created_at", "completed_at")
            return {key: without_ids(inner) for key, inner in value.items() if key not in varying}
        return [without_ids(inner) for inner in value] if isinstance(value, list) else value

    assert without_ids(plain) == without_ids(streamed)


async def test_sdk_folds_the_stream_to_its_final_object(
    provider: ProviderServer, client: openai.AsyncOpenAI
) -> None:
    provider.script("x", Reply("Grüße.", reasoning="Hm.", tool_calls=[("look", {"a": 1})], searches=1))
    tools: Any = [{**FUNCTION, "strict": False}]
    async with client.responses.stream(model="sim/x", input="hi", tools=tools) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert final.output_text == "Grüße."
    assert [item.type for item in final.output] == [
        "reasoning",
        "web_search_call",
        "message",
        "function_call",
    ]
    assert final.usage is not None
    assert final.usage.output_tokens == provider.journal.last.completion_tokens
    assert final.tool_usage is not None
    assert final.tool_usage.web_search.num_requests == 1


@pytest.mark.parametrize(
    ("reply", "fields", "status", "reason"),
    [
        (Reply("one two three"), {"max_output_tokens": 2}, "incomplete", "max_output_tokens"),
        (Reply("one", finish_reason="content_filter"), {}, "incomplete", "content_filter"),
        (Reply("one", finish_reason="failed"), {}, "failed", None),
        (Reply("one", finish_reason="stop"), {}, "completed", None),
    ],
)
async def test_status_follows_from_how_the_answer_ended(
    provider: ProviderServer, reply: Reply, fields: Json, status: str, reason: str | None
) -> None:
    seen = await _stream(provider, reply, **fields)
    last = seen.events[-1]
    assert last["type"] == f"response.{status}"
    response = last["response"]
    assert response["status"] == status
    assert response["incomplete_details"] == (None if reason is None else {"reason": reason})
    assert (response["usage"] is None) == (status == "failed")
    assert (response["error"] is None) == (status != "failed")
    assert (response["completed_at"] is None) == (status != "completed")
    plain = (await RESPONSES.fetch(provider, "sim/x", **fields)).json
    assert plain["status"] == status


async def test_item_that_the_limit_cut_is_incomplete(provider: ProviderServer) -> None:
    reply = Reply("Hi.", tool_calls=[("look", {"a": "a rather long argument for this"})])
    seen = await _stream(provider, reply, tools=[FUNCTION], max_output_tokens=6)
    message, call = seen.events[-1]["response"]["output"]
    assert (message["status"], call["status"]) == ("completed", "incomplete")
    assert not call["arguments"].endswith("}")
    hidden = await _stream(provider, Reply("Hi.", reasoning_tokens=9), max_output_tokens=4)
    assert [item["type"] for item in hidden.events[-1]["response"]["output"]] == ["reasoning"]
    assert provider.journal.last.completion_tokens == 4


async def test_failure_tells_usage_where_the_script_wants_it(provider: ProviderServer) -> None:
    seen = await _stream(provider, Reply("one two three", error_at_chunk=6, usage_unasked=True))
    assert seen.events[-1]["response"]["usage"]["output_tokens"] == 2
    assert provider.journal.last.usage_reported
    assert provider.journal.last.completion_tokens == 2


async def test_error_translated_to_an_error_event(provider: ProviderServer) -> None:
    error = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "slow_down"}}
    seen = await _stream(provider, Reply("one", error=error, error_translated=True, error_at_chunk=3))
    assert seen.events[-1] == {
        "type": "error",
        "code": "slow_down",
        "message": "slow down",
        "param": None,
        "sequence_number": 3,
    }
    assert seen.names[-1] == "error"


async def test_padding_is_left_out_where_asked(provider: ProviderServer) -> None:
    seen = await _stream(provider, Reply("one"), stream_options={"include_obfuscation": False})
    assert b"obfuscation" not in seen.body


async def test_request_fields_are_told_back(provider: ProviderServer) -> None:
    fields: Json = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low"},
        "temperature": 0.5,
        "tool_choice": "required",
        "tools": [FUNCTION],
        "user": "u",
        "prompt_cache_key": "k",
        "max_output_tokens": 900,
        "parallel_tool_calls": False,
    }
    reply = (await RESPONSES.fetch(provider, "sim/echo", **fields)).json
    told = {name: reply[name] for name in fields}
    assert told == {**fields, "reasoning": {"effort": "low", "summary": None}}


async def test_input_is_counted_by_items(provider: ProviderServer) -> None:
    items = [
        {"role": "user", "content": "hello there"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" * 900},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "found"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:..."}]},
    ]
    await RESPONSES.fetch(provider, "sim/echo", input=items, instructions="Be brief.")
    expected = 3 + 3 + _count("system") + _count("Be brief.") + 3 + _count("user") + _count("hello there")
    expected += _count("look") + _count('{"a":1}') + 3 + _count("found") + 3 + _count("user") + 85
    assert provider.journal.last.prompt_tokens == expected


async def test_one_answer_is_one_turn_whatever_its_items(provider: ProviderServer) -> None:
    provider.script("x", [Reply("zero"), Reply("one"), Reply("two")])
    answer = [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "d", "name": "shell", "input": "ls"},
    ]
    results = [
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "2"},
    ]
    seen = await RESPONSES.fetch(
        provider, "sim/x", input=[{"role": "user", "content": "x"}, *answer, *results]
    )
    assert RESPONSES.said(seen, False) == "one"


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("auto", "look"),
        ({"type": "function", "name": "final"}, "final"),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "final"}]},
            "final",
        ),
        ("none", None),
    ],
)
async def test_tool_choice_is_obeyed(provider: ProviderServer, choice: Any, called: str | None) -> None:
    tools = [{"type": "web_search"}, FUNCTION, {**FUNCTION, "name": "final"}]
    reply = (await RESPONSES.fetch(provider, "sim/printer", tools=tools, tool_choice=choice)).json
    assert next((i["name"] for i in reply["output"] if i["type"] == "function_call"), None) == called


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x"}, "model"),
        ({"model": "sim/echo"}, None),
        ({"model": "sim/echo", "input": 5}, "input"),
        ({"model": "sim/echo", "input": [5]}, "input[0]"),
        ({"model": "sim/echo", "input": [{}]}, "input[0].type"),
        ({"model": "sim/echo", "input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"model": "sim/echo", "input": [{"role": ["user"], "content": "x"}]}, "input[0].role"),
        ({"model": "sim/echo", "input": [{"role": "user"}]}, "input[0].content"),
        ({"model": "sim/echo", "input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"model": "sim/echo", "input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"model": "sim/echo", "input": "x", "stream": "yes"}, "stream"),
        ({"model": "sim/echo", "input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"model": "sim/echo", "input": "x", "tools": [{}]}, "tools[0].type"),
        ({"model": "sim/echo", "input": "x", "tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"model": "sim/echo", "input": "x", "conversation": 5}, "conversation"),
        ({"model": "sim/echo", "input": "x", "conversation": {}}, "conversation"),
        ({"model": "sim/echo", "input": "x", "include": "x"}, "include"),
        (
            {"model": "sim/echo", "input": "x", "tool_choice": {"type": "allowed_tools", "tools": 1}},
            "tool_choice.tools",
        ),
        ({"model": "sim/echo", "input": "x", "reasoning": "low"}, "reasoning"),
        ({"model": "sim/echo", "input": "x", "background": 1}, "background"),
        ({"model": "sim/echo", "input": "x", "conversation": "c", "previous_response_id": "r"}, None),
    ],
)
async def test_invalid_request_is_answered_400(
    provider: ProviderServer, body: Json, param: str | None
) -> None:
    seen = await fetch(provider, body, path="/v1/responses")
    assert seen.status == 400
    error = seen.json["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert provider.journal.last.served.input_total == 0
