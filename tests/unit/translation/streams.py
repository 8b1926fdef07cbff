"""Streams in both APIs for the tests: written by hand, read back strictly."""

from __future__ import annotations

import json
from typing import Any

from gateway.translation import StreamTranslation

Json = dict[str, Any]


def chat_stream(*chunks: Json, done: bool = True) -> bytes:
    """Chunks as a chat provider sends them."""
    out = b"".join(b"data: %b\n\n" % json.dumps(chunk, ensure_ascii=False).encode() for chunk in chunks)
    return out + (b"data: [DONE]\n\n" if done else b"")


def chunk(delta: Json | None = None, finish: str | None = None, **fields: Any) -> Json:
    """One chunk with one choice; without a delta and a finish, one with none."""
    choices = (
        []
        if delta is None and finish is None
        else [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    )
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "gpt",
        "choices": choices,
        **fields,
    }


def call_delta(index: int, arguments: str | None = None, **head: str) -> Json:
    """A delta of one tool call; `id` and `name` as `head`."""
    function: Json = {}
    if "name" in head:
        function["name"] = head["name"]
    if arguments is not None:
        function["arguments"] = arguments
    call: Json = {"index": index, "function": function}
    if "id" in head:
        call |= {"id": head["id"], "type": "function"}
    return {"tool_calls": [call]}


def messages_stream(*events: Json) -> bytes:
    """Events as a provider of the Messages API sends them."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event, ensure_ascii=False).encode())
        for event in events
    )


def started(**usage: int) -> Json:
    """The first event of a message."""
    message: Json = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1, **usage},
    }
    return {"type": "message_start", "message": message}


def block(index: int, content: Json, *deltas: Json) -> list[Json]:
    """A whole block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text_block(index: int, *texts: str) -> list[Json]:
    """A text block, a delta for each text."""
    return block(
        index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": text} for text in texts)
    )


def use_block(index: int, call_id: str, name: str, *pieces: str) -> list[Json]:
    """A `tool_use` block, a delta for each piece of its arguments."""
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return block(index, {"type": "tool_use", "id": call_id, "name": name, "input": {}}, *deltas)


def stopped(reason: str, **usage: int) -> list[Json]:
    """The last two events of a message."""
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7, **usage}},
        {"type": "message_stop"},
    ]


def read(stream: bytes) -> list[Json]:
    """Parsed events; every `event:` line has to name the event's own type. `[DONE]` is the event `{}`."""
    events: list[Json] = []
    assert stream.endswith(b"\n\n") or not stream
    for event in stream.split(b"\n\n")[:-1]:
        lines = event.split(b"\n")
        if lines[0].startswith(b":"):
            continue
        data = lines[-1].removeprefix(b"data: ")
        events.append({} if data == b"[DONE]" else json.loads(data))
        if len(lines) == 2:
            assert lines[0] == b"event: " + events[-1]["type"].encode()
        else:
            assert lines == [b"data: " + data]
    return events


def through(translation: StreamTranslation, stream: bytes, step: int | None = None) -> list[Json]:
    """What the client reads of a provider's stream, fed whole or in steps of so many bytes."""
    step = step or max(1, len(stream))
    out = b"".join(translation.feed(stream[i : i + step]) for i in range(0, len(stream), step))
    return read(out + translation.end())
