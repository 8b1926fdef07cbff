"""Inputs for parsers: junk, and what was valid before something in it was exchanged."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

HOSTILE = [
    "", "\0", "\r\n", "a\r\nx-evil: 1", "\u2028", "\ud800", "\U0010ffff", "<script>", "${OPENAI_API_KEY}", "file:/etc/passwd",
    "../../etc/passwd", "' or 1=1 --", "{{7*7}}", "%00", "%0d%0a", "9" * 400, "1e400", "-0", "NaN", "Infinity", "0x10", "١٢٣",
    "a" * 5000, "data:image/png;base64," + "A" * 100, "data:;base64,%%%", "\x1b[31m", "user", "assistant", "tool", "function",
]  # fmt: skip
NUMBERS = [0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 1e308, -1e-308, 0.1, True, False, None]

scalars = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(HOSTILE), st.text(max_size=8), st.floats(allow_nan=False)
)
keys = st.one_of(
    st.sampled_from(
        ["type", "role", "content", "text", "name", "id", "arguments", "model", "index", "usage"]
    ),
    st.text(max_size=6),
)
junk: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def twisted(draw: st.DrawFn, samples: list[Any]) -> Any:
    """A sample in which up to three places were exchanged for junk, removed or said twice."""
    value = {"": copy.deepcopy(draw(st.sampled_from(samples)))}
    for _ in range(draw(st.integers(0, 3))):
        at: Any = value
        place: Any = ""
        while isinstance(at[place], dict | list) and at[place] and draw(st.integers(0, 4)):
            at = at[place]
            place = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        match draw(st.integers(0, 4)):
            case 0 if at is not value:
                del at[place]
                continue
            case 1 if isinstance(at, list):
                at.append(copy.deepcopy(at[place]))
            case 2 if isinstance(at[place], dict):
                at[place][draw(keys)] = draw(junk)
            case _:
                at[place] = draw(junk)
    return value[""]


def as_bytes(value: Any) -> bytes:
    """JSON as a client may send it: lone surrogates as escapes, numbers of any size."""
    return json.dumps(value).encode()


@st.composite
def torn(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A sample with pieces cut out, put in, or exchanged."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        data = data[:start] + draw(st.binary(max_size=12)) + data[end:]
    return data


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The bytes, cut at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


CHAT: list[Any] = [
    {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 5, "n": 1,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "name": "u", "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}],
        "tool_choice": "auto", "response_format": {"type": "json_object"}, "metadata": {"a": "b"}, "user": "u",
    },
]  # fmt: skip
RESPONSES: list[Any] = [
    {"model": "m", "input": "x", "instructions": "i", "previous_response_id": None},
    {
        "model": "m", "max_output_tokens": 5, "stream": False, "store": True, "background": False,
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t"}, {"type": "input_image", "image_url": "u"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "e"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "web_search"}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}, "reasoning": {"effort": "low"},
    },
]  # fmt: skip
MESSAGES: list[Any] = [
    {
        "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "r"}]}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"}, "stop_sequences": ["x"],
    },
]  # fmt: skip
OTHERS: list[Any] = [
    {"model": "m", "input": ["a", "b"]}, {"model": "m", "prompt": ["a"], "max_tokens": 4, "n": 1, "best_of": 1},
    {"model": "m", "input": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]},
]  # fmt: skip

CHAT_ANSWER: Json = {
    "id": "a", "model": "m", "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": None, "message": {
        "role": "assistant", "content": "x", "reasoning_content": "r", "refusal": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
}  # fmt: skip
RESPONSES_ANSWER: Json = {
    "id": "resp_1", "status": "completed", "model": "m", "output": [
        {"type": "reasoning", "id": "rs", "summary": []},
        {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}]},
        {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"}],
    "usage": {"input_tokens": 1, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 0}},
}  # fmt: skip
MESSAGES_ANSWER: Json = {
    "id": "msg", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use", "stop_sequence": None,
    "content": [{"type": "text", "text": "x"}, {"type": "tool_use", "id": "c", "name": "f", "input": {}}],
    "usage": {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 0},
}  # fmt: skip
CHAT_EVENTS: list[Json] = [
    {"id": "a", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"id": "a", "choices": [{"index": 0, "delta": {"content": "x"}}]},
    {"id": "a", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}}]},
    {"id": "a", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"id": "a", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
]  # fmt: skip
RESPONSES_EVENTS: list[Json] = [
    {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}},
    {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": {"type": "message", "id": "m", "content": []},
    },
    {
        "type": "response.output_text.delta",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
        "delta": "x",
    },
    {"type": "response.function_call_arguments.delta", "item_id": "fc", "output_index": 1, "delta": "{"},
    {"type": "response.output_item.done", "output_index": 0, "item": RESPONSES_ANSWER["output"][1]},
    {"type": "response.completed", "response": RESPONSES_ANSWER},
]
MESSAGES_EVENTS: list[Json] = [
    {"type": "message_start", "message": {**MESSAGES_ANSWER, "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "c", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]  # fmt: skip


@st.composite
def streams(draw: st.DrawFn, events: list[Json], named: bool) -> bytes:
    """A stream of events, some of them twisted, in any order, with any line ends."""
    newline = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    out = b""
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.integers(0, 9))
        if kind == 0:
            out += draw(st.binary(max_size=24))
            continue
        event = draw(twisted(list(events))) if kind < 6 else draw(st.sampled_from(events))
        if named and isinstance(event, dict):
            out += (
                b"event: %b" % str(event.get("type", "")).encode("utf-8", "replace")[:60].replace(b"\n", b"")
                + newline
            )
        out += b"data: " + (b"[DONE]" if kind == 9 else as_bytes(event)) + newline * draw(st.integers(1, 2))
    return out
