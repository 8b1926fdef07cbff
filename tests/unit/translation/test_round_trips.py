"""Whatever is said in one API comes back from the other: words, calls, ids, arguments, figures."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain import Surface, Usage
from gateway.metering.usage import read_chat_usage, read_messages_usage, read_responses_usage
from gateway.translation import Translation, between
from gateway.translation.counts import chat_usage, messages_usage, responses_usage
from tests.unit.translation.streams import chat_stream, chunk, through

Json = dict[str, Any]


def _pair(client: Surface, upstream: Surface) -> Translation:
    translation = between(client, upstream)
    assert translation is not None
    return translation


TO_MESSAGES = _pair(Surface.CHAT, Surface.MESSAGES)
TO_CHAT = _pair(Surface.MESSAGES, Surface.CHAT)
RESPONSES_BY_CHAT = _pair(Surface.RESPONSES, Surface.CHAT)
RESPONSES_BY_MESSAGES = _pair(Surface.RESPONSES, Surface.MESSAGES)

WORDS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda t: not t.isspace()
)
IDS = st.uuids().map(lambda u: "call_" + u.hex[:24]) | st.uuids().map(lambda u: "toolu_" + u.hex[:24])
NAMES = st.sampled_from(["f", "get_weather", "mcp__x__y"])
ARGUMENTS = st.one_of(
    st.dictionaries(WORDS, st.integers(-(2**53), 2**53) | WORDS | st.booleans() | st.none() | st.lists(WORDS, max_size=2), max_size=3).map(json.dumps),
    st.sampled_from(['{"a":', "[1]", "no json"]),
)  # fmt: skip
PARTS = st.one_of(
    WORDS.map(lambda text: {"type": "text", "text": text}),
    st.sampled_from(
        [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png?x=1"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
            {"type": "file", "file": {"filename": "ä.txt", "file_data": "data:text/plain;base64,w6Q="}},
        ]
    ),
)  # fmt: skip
CALLS = st.lists(st.tuples(IDS, NAMES, ARGUMENTS), min_size=1, max_size=3, unique_by=lambda c: c[0])


@st.composite
def conversations(draw: st.DrawFn) -> list[Json]:
    """Valid chat messages that end with the user or a result."""
    messages: list[Json] = [
        {"role": draw(st.sampled_from(["system", "developer"])), "content": draw(WORDS)}
        for _ in range(draw(st.integers(0, 2)))
    ]
    used: set[str] = set()
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(WORDS | st.lists(PARTS, min_size=1, max_size=3))})
        if draw(st.booleans()):
            calls = [call for call in draw(CALLS) if call[0] not in used]
            used.update(call[0] for call in calls)
            said: Json = {"role": "assistant", "content": draw(st.none() | WORDS)}
            if calls:
                said["tool_calls"] = [
                    {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
                    for i, name, arguments in calls
                ]
            if calls or said["content"]:
                messages.append(said)
            messages.extend({"role": "tool", "tool_call_id": i, "content": draw(WORDS)} for i, _, _ in calls)
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": draw(WORDS)})
    return messages


def canonical(messages: list[Json]) -> list[Any]:
    """What was said, whichever of two equal forms it has: text or one part, arguments by their value."""
    out: list[Any] = []
    system = [m["content"] for m in messages if m["role"] in ("system", "developer")]
    if system:
        out.append(("system", "\n\n".join(system)))
    for message in messages:
        content = message["content"]
        if message["role"] in ("system", "developer"):
            continue
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        calls = [
            (call["id"], call["function"]["name"], value(call["function"]["arguments"]))
            for call in message.get("tool_calls", ())
        ]
        out.append((message["role"], parts, calls, message.get("tool_call_id")))
    return out


def value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except json.JSONDecodeError:
        return arguments


@settings(deadline=None, max_examples=60)
@given(conversations())
def test_a_chat_conversation_comes_back_from_messages(messages: list[Json]) -> None:
    there = TO_MESSAGES.request({"model": "m", "messages": messages, "max_tokens": 5})
    back = TO_CHAT.request(there)
    assert canonical(back["messages"]) == canonical(messages)
    assert back["model"] == "m"
    assert back["max_completion_tokens"] == 5


@settings(deadline=None, max_examples=60)
@given(conversations())
def test_a_messages_conversation_comes_back_from_chat(messages: list[Json]) -> None:
    first = TO_MESSAGES.request({"model": "m", "messages": messages})
    again = TO_MESSAGES.request(TO_CHAT.request(first))
    assert again["messages"] == normal(first["messages"])
    if "system" in first:
        assert again["system"][0]["text"] == "\n\n".join(block["text"] for block in first["system"])
    assert again.get("tools") == first.get("tools")
    assert again.get("tool_choice") == first.get("tool_choice")


def normal(messages: list[Json]) -> list[Json]:
    """A message of one text as its text, which is the same."""
    return [
        {**m, "content": m["content"][0]["text"]}
        if not isinstance(m["content"], str) and [b["type"] for b in m["content"]] == ["text"]
        else m
        for m in messages
    ]


@settings(deadline=None, max_examples=60)
@given(conversations())
def test_roles_alternate_as_the_messages_api_has_it_around_results(messages: list[Json]) -> None:
    there = TO_MESSAGES.request({"model": "m", "messages": messages})["messages"]
    for before, after in pairwise(there):
        calls = [b["id"] for b in before["content"] if isinstance(b, dict) and b["type"] == "tool_use"]
        results = [
            b["tool_use_id"] for b in after["content"] if isinstance(b, dict) and b["type"] == "tool_result"
        ]
        assert results == calls
        kinds = [b["type"] for b in after["content"] if isinstance(b, dict)]
        assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result") or not results


@given(st.lists(st.tuples(IDS, NAMES, ARGUMENTS), max_size=3), WORDS | st.just(""), WORDS | st.just(""))
def test_an_answer_comes_back(calls: list[tuple[str, str, str]], text: str, reasoning: str) -> None:
    message: Json = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, name, arguments in calls
        ]
    if reasoning:
        message["reasoning_content"] = reasoning
    finish = "tool_calls" if calls else "stop"
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
    reply = {
        "id": "chatcmpl-1",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }
    there = TO_CHAT.answer(reply, {"thinking": {"type": "adaptive"}})
    back = TO_MESSAGES.answer(there, {})
    assert back["id"] == "chatcmpl-1"
    choice = back["choices"][0]
    assert choice["finish_reason"] == finish
    assert (choice["message"]["content"] or "") == text
    assert choice["message"].get("reasoning_content", "") == reasoning
    told = [
        (c["id"], c["function"]["name"], c["function"]["arguments"])
        for c in choice["message"].get("tool_calls", ())
    ]
    assert [(i, name, value(arguments)) for i, name, arguments in told] == [
        (i, name, value(arguments)) for i, name, arguments in calls
    ]
    assert back["usage"]["prompt_tokens"] == 9
    assert back["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


DELTAS = st.lists(
    st.one_of(
        WORDS.map(lambda text: {"content": text}),
        WORDS.map(lambda text: {"reasoning_content": text}),
    ),
    max_size=6,
)


@given(
    DELTAS,
    st.lists(st.tuples(IDS, NAMES, ARGUMENTS), max_size=3, unique_by=lambda c: c[0]),
    st.integers(1, 9),
    st.data(),
)
def test_a_stream_comes_back(
    said: list[Json], calls: list[tuple[str, str, str]], step: int, data: st.DataObject
) -> None:
    pending = {i: arguments for i, (_, _, arguments) in enumerate(calls)}
    deltas = list(said)
    for i, (call_id, name, _) in enumerate(calls):
        deltas.append(
            {
                "tool_calls": [
                    {
                        "index": i,
                        "id": call_id,
                        "type": "function",
                        "function": {"name": name, "arguments": ""},
                    }
                ]
            }
        )
    while any(pending.values()):
        i = data.draw(st.sampled_from([i for i, rest in pending.items() if rest]))
        deltas.append({"tool_calls": [{"index": i, "function": {"arguments": pending[i][:step]}}]})
        pending[i] = pending[i][step:]
    finish = "tool_calls" if calls else "stop"
    stream = chat_stream(
        *map(chunk, deltas), chunk({}, finish), chunk(usage={"prompt_tokens": 9, "completion_tokens": 4})
    )
    there = TO_CHAT.stream({"thinking": {"type": "adaptive"}})
    between_them = there.feed(stream) + there.end()
    events = through(TO_MESSAGES.stream({"stream_options": {"include_usage": True}}), between_them, step)
    choices = [event["choices"][0] for event in events if event.get("choices")]
    assert "".join(c["delta"].get("content") or "" for c in choices) == "".join(
        d.get("content", "") for d in said
    )
    assert "".join(c["delta"].get("reasoning_content", "") for c in choices) == "".join(
        d.get("reasoning_content", "") for d in said
    )
    told: dict[int, list[str]] = {}
    for part in [call for c in choices for call in c["delta"].get("tool_calls", ())]:
        if "id" in part:
            told[part["index"]] = [part["id"], part["function"]["name"], ""]
        told[part["index"]][2] += part["function"]["arguments"]
    assert sorted(map(tuple, told.values())) == sorted(calls)
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [finish]
    assert events[-2]["usage"]["total_tokens"] == 13
    assert events[-1] == {}


@settings(deadline=None, max_examples=60)
@given(conversations())
def test_a_response_by_messages_asks_what_a_response_by_chat_asks(messages: list[Json]) -> None:
    items: list[Json] = []
    for message in messages:
        if message["role"] == "tool":
            items.append(
                {
                    "type": "function_call_output",
                    "call_id": message["tool_call_id"],
                    "output": message["content"],
                }
            )
            continue
        content = message["content"]
        if content and isinstance(content, str):
            items.append({"role": message["role"], "content": content})
        elif content:
            items.append(
                {
                    "role": message["role"],
                    "content": [{"type": "input_text", "text": str(p)} for p in content],
                }
            )
        items.extend(
            {"type": "function_call", "call_id": c["id"], **c["function"]}
            for c in message.get("tool_calls", ())
        )
    body = {"model": "m", "input": items}
    assert TO_MESSAGES.request(RESPONSES_BY_CHAT.request(body)) == RESPONSES_BY_MESSAGES.request(body)


COUNTS = st.integers(0, 10**6)
USAGES = st.builds(
    Usage, input_uncached=COUNTS, cache_read=COUNTS, cache_write_5m=COUNTS, cache_write_1h=COUNTS,
    output_text=COUNTS, output_reasoning=COUNTS, audio_in=COUNTS, source=st.just("provider"),
)  # fmt: skip


def figures(usage: Usage) -> tuple[int, ...]:
    written = usage.cache_write_5m + usage.cache_write_1h
    return (usage.input_total, usage.cache_read, written, usage.output_total, usage.output_reasoning)


@given(USAGES)
def test_usage_is_the_same_in_every_api(usage: Usage) -> None:
    for wrote, reads in (
        (chat_usage(usage), read_chat_usage),
        (messages_usage(usage), read_messages_usage),
        (responses_usage(usage), read_responses_usage),
    ):
        read = reads({"usage": wrote})
        assert read is not None
        assert read.anomalies == ()
        assert figures(read.usage) == figures(usage)
    of_messages = read_messages_usage({"usage": messages_usage(usage)})
    assert of_messages is not None
    assert of_messages.usage.cache_write_1h == usage.cache_write_1h
    assert chat_usage(usage)["total_tokens"] == usage.input_total + usage.output_total
