"""Answers that the gateway makes up, read back by our own readers and by the official SDKs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.domain import Surface, ToolCall
from gateway.metering.usage import read_usage
from gateway.shaping import SHAPERS, Said
from gateway.surfaces import CODECS
from tests.unit.shaping.support import (
    TALKING,
    contiguous,
    events_of,
    fed,
    heard,
    read_stream,
    request,
    sdk_hears,
    typed,
)

Json = dict[str, Any]
LOOK = ToolCall("call_1", "look", '{"at":"Łódź \\"x\\""}')
SEND = ToolCall("call_2", "send", "")
SAIDS = {
    "text": Said("I stop here."),
    "unicode": Said("Grüße \N{PILE OF POO}\n\ndata: x\n\nevent: y\r\n\u2028"),
    "empty": Said(),
    "calls": Said(calls=(LOOK, SEND), finish="tool_calls"),
    "text and calls": Said("Let me see.", (LOOK,), "tool_calls"),
}
USAGE: dict[Surface, Json] = {
    Surface.CHAT: {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    Surface.COMPLETIONS: {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    Surface.MESSAGES: {"input_tokens": 7, "output_tokens": 3},
    Surface.RESPONSES: {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 10,
    },
}


def expected(said: Said) -> Any:
    return said.text, [(c.id, c.name, orjson.loads(c.arguments or "{}")) for c in said.calls]


@pytest.mark.parametrize("name", SAIDS)
@pytest.mark.parametrize("surface", TALKING)
def test_a_composed_reply_is_read_back_and_typed(surface: Surface, name: str) -> None:
    said = SAIDS[name]
    reply = SHAPERS[surface].compose(said, request(surface), 1_700_000_000)
    typed(surface, reply)
    answer = CODECS[surface].read_answer(reply)
    assert heard(answer) == expected(said)
    assert answer.model == "sim/test"
    read = read_usage(surface, reply)
    assert read is not None
    assert (read.usage.input_total, read.usage.output_total) == (0, 0)


@pytest.mark.parametrize("name", SAIDS)
@pytest.mark.parametrize("surface", TALKING)
def test_a_composed_stream_is_read_back_by_our_reader_and_by_the_sdk(surface: Surface, name: str) -> None:
    said = SAIDS[name]
    asked = request(surface, stream=True)
    told = SHAPERS[surface].compose_stream(said, asked, 1_700_000_000)
    contiguous(surface, told)
    whole = read_stream(surface, told).answer()
    assert heard(whole) == expected(said)
    assert sdk_hears(surface, told) == expected(said)
    split = CODECS[surface].stream(strip_usage=False)
    assert fed(split, told, [1]) == told
    assert split.answer() == whole
    assert whole.response_id == SHAPERS[surface].compose(said, asked, 1_700_000_000)["id"]


@pytest.mark.parametrize("surface", [*TALKING, Surface.COMPLETIONS])
def test_ids_models_and_usage_are_told_as_given(surface: Surface) -> None:
    said = Said("Done.", finish="length", usage=USAGE[surface], model="real", id="answer_1")
    reply = SHAPERS[surface].compose(said, request(surface), 5)
    typed(surface, reply)
    answer = CODECS[surface].read_answer(reply)
    assert (answer.response_id, answer.model) == ("answer_1", "real")
    limits = {Surface.MESSAGES: "max_tokens", Surface.RESPONSES: "max_output_tokens"}
    assert answer.finish_reason == limits.get(surface, "length")
    asked = request(surface, stream=True)
    if surface in (Surface.CHAT, Surface.COMPLETIONS):
        asked["stream_options"] = {"include_usage": True}
    stream = read_stream(surface, SHAPERS[surface].compose_stream(said, asked, 5))
    assert stream.answer().finish_reason == answer.finish_reason
    assert stream.usage is not None
    for told in (reply, stream.usage):
        read = read_usage(surface, told)
        assert read is not None
        assert (read.usage.input_total, read.usage.output_total) == (7, 3)


@pytest.mark.parametrize(
    ("surface", "prefix"),
    [
        (Surface.CHAT, "chatcmpl-"),
        (Surface.MESSAGES, "msg_"),
        (Surface.RESPONSES, "resp_"),
        (Surface.COMPLETIONS, "cmpl-"),
    ],
)
def test_made_ids_have_the_surfaces_prefix_and_differ_by_request_and_time(
    surface: Surface, prefix: str
) -> None:
    def made(asked: Json, created: int) -> str:
        return str(SHAPERS[surface].compose(Said("x"), asked, created)["id"])

    first = made(request(surface), 5)
    assert first.startswith(prefix)
    assert first == made(request(surface), 5)
    assert first not in (made(request(surface), 6), made(request(surface, user="u"), 5))


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.COMPLETIONS])
def test_a_stream_tells_usage_only_to_who_asked(surface: Surface) -> None:
    said = Said("x", usage=USAGE[surface])
    plain = events_of(SHAPERS[surface].compose_stream(said, request(surface, stream=True), 5))
    assert not any("usage" in event for event in plain)
    asked = request(surface, stream=True, stream_options={"include_usage": True})
    events = events_of(SHAPERS[surface].compose_stream(said, asked, 5))
    assert [event["usage"] for event in events] == [None] * (len(events) - 1) + [USAGE[surface]]
    assert events[-1]["choices"] == []


def test_every_choice_that_was_asked_for_says_the_same() -> None:
    reply = SHAPERS[Surface.CHAT].compose(Said("x"), request(Surface.CHAT, n=3), 5)
    assert [(c["index"], c["message"]["content"]) for c in reply["choices"]] == [(0, "x"), (1, "x"), (2, "x")]
    told = SHAPERS[Surface.CHAT].compose_stream(Said("x"), request(Surface.CHAT, n=3), 5)
    assert read_stream(Surface.CHAT, told).answer().texts == ("x", "x", "x")
    reply = SHAPERS[Surface.COMPLETIONS].compose(Said("x"), {"model": "m", "prompt": ["a", "b"], "n": 2}, 5)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    reply = SHAPERS[Surface.COMPLETIONS].compose(Said("x"), {"model": "m", "prompt": [1, 2, 3]}, 5)
    assert len(reply["choices"]) == 1


def test_calls_are_told_as_the_request_defines_the_tool() -> None:
    said = Said(calls=(ToolCall("c1", "patch", "*** Begin"),), finish="tool_calls")
    custom = {"type": "custom", "custom": {"name": "patch"}}
    reply = SHAPERS[Surface.CHAT].compose(said, request(Surface.CHAT, tools=False) | {"tools": [custom]}, 5)
    typed(Surface.CHAT, reply)
    assert reply["choices"][0]["message"]["tool_calls"] == [
        {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    ]
    legacy = request(Surface.CHAT, tools=False) | {"functions": [{"name": "patch"}]}
    reply = SHAPERS[Surface.CHAT].compose(said, legacy, 5)
    assert reply["choices"][0]["message"]["function_call"] == {"name": "patch", "arguments": "*** Begin"}
    assert reply["choices"][0]["finish_reason"] == "function_call"
    told = SHAPERS[Surface.CHAT].compose_stream(said, legacy, 5)
    assert read_stream(Surface.CHAT, told).answer().calls == (ToolCall("", "patch", "*** Begin"),)
    asked = request(Surface.RESPONSES, tools=False) | {"tools": [{"type": "custom", "name": "patch"}]}
    reply = SHAPERS[Surface.RESPONSES].compose(said, asked, 5)
    typed(Surface.RESPONSES, reply)
    (item,) = reply["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", "*** Begin")
    told = SHAPERS[Surface.RESPONSES].compose_stream(said, asked, 5)
    contiguous(Surface.RESPONSES, told)
    assert read_stream(Surface.RESPONSES, told).answer().calls == said.calls


def test_a_call_whose_arguments_are_no_object_is_wrapped_on_messages() -> None:
    reply = SHAPERS[Surface.MESSAGES].compose(
        Said(calls=(ToolCall("c", "look", '{"a'),)), request(Surface.MESSAGES), 5
    )
    assert reply["content"][0]["input"] == {"INVALID_JSON": '{"a'}


REPLIES: dict[Surface, Json] = {
    Surface.CHAT: {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 9,
        "model": "gemini",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "logprobs": None,
                "message": {
                    "role": "assistant",
                    "content": "Hm.",
                    "refusal": None,
                    "reasoning_content": "deep",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "look", "arguments": '{"a":1}'},
                            "extra_content": {"google": {"thought_signature": "sig=="}},
                        }
                    ],
                },
            }
        ],
        "usage": USAGE[Surface.CHAT],
    },
    Surface.MESSAGES: {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [
            {"type": "thinking", "thinking": "deep", "signature": "sig=="},
            {"type": "redacted_thinking", "data": "xx"},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
            {
                "type": "text",
                "text": "Hm.",
                "citations": [
                    {
                        "type": "char_location",
                        "cited_text": "c",
                        "document_index": 0,
                        "document_title": None,
                        "start_char_index": 0,
                        "end_char_index": 1,
                        "file_id": None,
                    }
                ],
            },
            {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": USAGE[Surface.MESSAGES],
    },
    Surface.RESPONSES: {
        **SHAPERS[Surface.RESPONSES].compose(Said("x"), request(Surface.RESPONSES), 5),
        "id": "resp_7",
        "output": [
            {
                "id": "rs_7",
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "deep"}],
                "encrypted_content": "sig==",
            },
            {
                "id": "ws_7",
                "type": "web_search_call",
                "status": "completed",
                "action": {"type": "search", "query": "q"},
            },
            {
                "id": "msg_7",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {"type": "output_text", "text": "Hm.", "annotations": [], "logprobs": []},
                    {"type": "refusal", "refusal": "No."},
                ],
            },
            {
                "id": "fc_7",
                "type": "function_call",
                "status": "completed",
                "call_id": "call_1",
                "name": "look",
                "arguments": '{"a":1}',
            },
        ],
        "usage": USAGE[Surface.RESPONSES],
    },
}


@pytest.mark.parametrize("surface", TALKING)
def test_a_providers_own_reply_is_streamed_with_everything_in_it(surface: Surface) -> None:
    reply = REPLIES[surface]
    before = orjson.dumps(reply)
    typed(surface, reply)
    shaper = SHAPERS[surface]
    said = Said(reply=reply)
    assert shaper.compose(said, request(surface), 5) == reply
    asked = request(surface, stream=True, stream_options={"include_usage": True})
    told = shaper.compose_stream(said, asked, 5)
    contiguous(surface, told)
    assert heard(read_stream(surface, told).answer()) == heard(CODECS[surface].read_answer(reply))
    text, calls = sdk_hears(surface, told)
    assert text == "Hm."
    assert [(name, arguments) for _, name, arguments in calls] == [("look", {"a": 1})]
    fold = shaper.fold()
    fold.feed(told)
    again = fold.reply()
    for name in ("content", "output"):
        assert again.get(name) == reply.get(name)
    if surface is Surface.CHAT:
        assert again["choices"][0]["message"] == reply["choices"][0]["message"]
    assert again["usage"] == reply["usage"]
    assert orjson.dumps(reply) == before
    other = shaper.compose(Said(reply=reply, usage={"new": 1}, id="mine", model="m"), request(surface), 5)
    assert (other["usage"], other["id"], other["model"]) == ({"new": 1}, "mine", "m")


def test_completions_are_composed_as_texts() -> None:
    asked = request(Surface.COMPLETIONS, stream=True)
    reply = SHAPERS[Surface.COMPLETIONS].compose(SAIDS["unicode"], asked, 5)
    typed(Surface.COMPLETIONS, reply)
    told = SHAPERS[Surface.COMPLETIONS].compose_stream(SAIDS["unicode"], asked, 5)
    assert read_stream(Surface.COMPLETIONS, told).answer().texts == (SAIDS["unicode"].text,)


@pytest.mark.parametrize("surface", [*TALKING, Surface.COMPLETIONS])
def test_a_providers_reply_without_an_id_gets_one(surface: Surface) -> None:
    shaper = SHAPERS[surface]
    reply = shaper.compose(Said("x", id="gone"), request(surface), 5)
    made = shaper.compose(Said("x"), request(surface), 5)["id"]
    for nothing in ({}, {"id": None}, {"id": ""}, {"id": 7}):
        told = {name: value for name, value in reply.items() if name != "id"} | nothing
        assert shaper.compose(Said(reply=told), request(surface), 5)["id"] == made


def test_choices_under_one_index_are_told_apart() -> None:
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for index, text in ((0, "a"), (0, "b"), (None, "c"))
    ]
    told = SHAPERS[Surface.CHAT].compose_stream(Said(reply={"id": "c", "choices": choices}), {}, 5)
    assert read_stream(Surface.CHAT, told).answer().texts == ("a", "b", "c")


def test_types_and_names_that_are_no_texts_are_told_as_they_are() -> None:
    shaper = SHAPERS[Surface.RESPONSES]
    reply = {"id": "resp_7", "output": [{"type": {"a": 1}, "id": []}, {"type": ["x"]}]}
    told = shaper.compose_stream(Said(reply=reply), {}, 5)
    assert events_of(told)[-1]["response"]["output"] == reply["output"]
    asked = {"model": "m", "tools": [{"type": "custom", "name": {}}]}
    assert shaper.compose(Said(calls=(LOOK,)), asked, 5)["output"][0]["type"] == "function_call"
