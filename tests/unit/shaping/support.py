"""Answers read back as clients read them, and a provider's raw bytes."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import anthropic
import httpx2
import openai
import orjson
from anthropic.types import Message
from openai.types.chat import ChatCompletion
from openai.types.completion import Completion
from openai.types.responses import Response

from gateway.domain import Answer, Surface
from gateway.surfaces import CODECS, AnswerStream
from gateway.testing import ProviderServer

Json = dict[str, Any]
Heard = tuple[str, list[tuple[str, str, Any]]]
"""The text, and of each call its id, its name and its arguments."""

TALKING = (Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES)
PATHS = {
    Surface.CHAT: "chat/completions",
    Surface.MESSAGES: "messages",
    Surface.RESPONSES: "responses",
    Surface.COMPLETIONS: "completions",
}
TOOLS: dict[Surface, list[Json]] = {
    Surface.CHAT: [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        for name in ("look", "send", "final_answer")
    ],
    Surface.MESSAGES: [
        {"name": name, "input_schema": {"type": "object"}} for name in ("look", "send", "final_answer")
    ],
    Surface.RESPONSES: [
        {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": False}
        for name in ("look", "send", "final_answer")
    ],
}


def request(surface: Surface, *, stream: bool = False, tools: bool = True, **more: Any) -> Json:
    """A small request of the surface."""
    body: Json = {"model": "sim/test"}
    if surface is Surface.RESPONSES:
        body["input"] = "Find it."
    elif surface is Surface.COMPLETIONS:
        body["prompt"] = "Find it."
    else:
        body["messages"] = [{"role": "user", "content": "Find it."}]
    if surface is Surface.MESSAGES:
        body["max_tokens"] = 4096
    if tools and surface in TOOLS:
        body["tools"] = TOOLS[surface]
    if stream:
        body["stream"] = True
    return {**body, **more}


def post(provider: ProviderServer, path: str, body: Json) -> tuple[int, bytes]:
    """What the provider answers."""
    asked = urllib.request.Request(
        f"{provider.base_url}/{path}",
        orjson.dumps(body),
        {"content-type": "application/json", "anthropic-version": "2023-06-01", "authorization": "Bearer k"},
    )
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ask(provider: ProviderServer, surface: Surface, body: Json) -> bytes:
    """The body of a successful answer."""
    status, told = post(provider, PATHS[surface], body)
    assert status == 200, told
    return told


def heard(answer: Answer) -> Heard:
    calls = [(call.id, call.name, orjson.loads(call.arguments or "{}")) for call in answer.calls]
    return "".join(answer.texts), calls


def read_stream(surface: Surface, told: bytes) -> AnswerStream:
    """Our own reader's view of a whole stream, which has to be clean."""
    stream = CODECS[surface].stream(strip_usage=False)
    assert stream.feed(told) == told
    assert stream.clean
    assert stream.done
    assert not stream.error
    return stream


def typed(surface: Surface, reply: Json) -> None:
    """Raises unless the SDK's own model accepts every field."""
    models: dict[Surface, Any] = {
        Surface.CHAT: ChatCompletion,
        Surface.MESSAGES: Message,
        Surface.RESPONSES: Response,
        Surface.COMPLETIONS: Completion,
    }
    models[surface].model_validate_json(orjson.dumps(reply), strict=True)


def sdk_hears(surface: Surface, told: bytes) -> Heard:
    """What the official SDK's accumulator makes of a stream."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=told)

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    if surface is Surface.MESSAGES:
        claude = anthropic.Anthropic(api_key="k", http_client=transport)
        with claude.messages.stream(model="m", max_tokens=9, messages=[]) as messages:
            message = messages.get_final_message()
        assert message.stop_reason is not None
        blocks = message.content
        return (
            "".join(block.text for block in blocks if block.type == "text"),
            [(block.id, block.name, block.input) for block in blocks if block.type == "tool_use"],
        )
    client = openai.OpenAI(api_key="k", http_client=transport)
    if surface is Surface.CHAT:
        with client.chat.completions.stream(model="m", messages=[]) as chunks:
            completion = chunks.get_final_completion()
        said = completion.choices[0].message
        return said.content or "", [
            (call.id, call.function.name, orjson.loads(call.function.arguments or "{}"))
            for call in said.tool_calls or ()
        ]
    with client.responses.stream(model="m", input="x") as events:
        response = events.get_final_response()
    return response.output_text, [
        (item.call_id, item.name, orjson.loads(item.arguments or "{}"))
        for item in response.output
        if item.type == "function_call"
    ]


def events_of(told: bytes) -> list[Json]:
    """The JSON of every event."""
    return [
        orjson.loads(line[6:])
        for line in told.split(b"\n")
        if line.startswith(b"data: ") and line != b"data: [DONE]"
    ]


def contiguous(surface: Surface, told: bytes) -> None:
    """Raises unless numbers, indexes and ids go through a stream as its grammar has it."""
    events = events_of(told)
    if surface is Surface.RESPONSES:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        added = [e["output_index"] for e in events if e["type"] == "response.output_item.added"]
        done = [e for e in events if e["type"] == "response.output_item.done"]
        assert added == list(range(len(added)))
        assert sorted(e["output_index"] for e in done) == added
        assert [e["item"] for e in sorted(done, key=lambda e: e["output_index"])] == events[-1]["response"][
            "output"
        ]
        ids = [e["item"]["id"] for e in done]
        assert len(set(ids)) == len(ids)
    elif surface is Surface.MESSAGES:
        starts = [e["index"] for e in events if e["type"] == "content_block_start"]
        assert starts == list(range(len(starts)))
        assert [e["index"] for e in events if e["type"] == "content_block_stop"] == starts
        assert [e["type"] for e in events[-2:]] == ["message_delta", "message_stop"]
    else:
        assert len({event["id"] for event in events}) == 1
        assert len({event["created"] for event in events}) == 1


def fed(stream: Any, told: bytes, sizes: Sequence[int]) -> bytes:
    """Feed in pieces of the sizes given, over and over."""
    out, at, turn = [], 0, 0
    while at < len(told):
        size = sizes[turn % len(sizes)]
        out.append(stream.feed(told[at : at + size]))
        at += size
        turn += 1
    return b"".join(out)
