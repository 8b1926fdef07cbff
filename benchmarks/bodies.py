"""The bytes that are sent and received: a small call, an agent's history, a stream of 50 chunks."""

from __future__ import annotations

from typing import Any

import orjson

MODEL = "gpt-4o-mini"
CHUNKS = 50
"""Pieces of a streamed answer; each is an event, a chunk of the transfer encoding and a write of its own."""

SERIAL = b"0000000000"
"""Stands once in every body, for a number that makes each request another one: equal ones would be taken for
repetitions, of which nobody sends thousands."""

_WORDS = (
    "The deployment failed because the health check of the payments service timed out after the last "
    "migration; roll back the index change, drain the queue and compare the two error logs before retrying. "
)


def _text(length: int) -> str:
    return (_WORDS * (length // len(_WORDS) + 1))[:length]


def small() -> bytes:
    """A question with a system prompt, 500 bytes."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": _text(180)},
            {"role": "user", "content": f"Incident {SERIAL.decode()}: "},
        ],
        "max_tokens": 200,
    }
    body["messages"][1]["content"] += _text(500 - len(orjson.dumps(body)))
    return orjson.dumps(body)


def streamed() -> bytes:
    """The small call as a stream. The caller asks for no usage, so the gateway does, and takes it out."""
    return orjson.dumps({**orjson.loads(small()), "stream": True})


def agent() -> bytes:
    """The 21st step of a coding agent: tools, a long system prompt, ten calls of tools with their results.
    31 KB."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": _text(300),
                "parameters": {
                    "type": "object",
                    "properties": {
                        "path": {"type": "string", "description": _text(80)},
                        "pattern": {"type": "string", "description": _text(80)},
                        "limit": {"type": "integer", "minimum": 1},
                    },
                    "required": ["path"],
                },
            },
        }
        for name in ("read_file", "write_file", "list_files", "search", "run_tests", "git_diff")
    ]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": _text(4_000)},
        {"role": "user", "content": f"Incident {SERIAL.decode()}: {_text(600)}"},
    ]
    for step in range(10):
        call_id = f"call_{step:02d}Yx7QkVb2mNp4RtLw9Zs"
        arguments = orjson.dumps({"path": f"services/payments/module_{step}.py", "limit": 200}).decode()
        messages.append(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": call_id,
                        "type": "function",
                        "function": {"name": "read_file", "arguments": arguments},
                    }
                ],
            }
        )
        messages.append({"role": "tool", "tool_call_id": call_id, "content": ""})
    body: dict[str, Any] = {"model": MODEL, "messages": messages, "tools": tools, "max_tokens": 1_000}
    left = 31_000 - len(orjson.dumps(body))
    for message in messages:
        if message["role"] == "tool":
            message["content"] = _text(left // 10)
    return orjson.dumps(body)


def reply() -> bytes:
    """A whole answer, 800 bytes, with usage."""
    return orjson.dumps(
        {
            "id": "chatcmpl-Bx7QkVb2mNp4RtLw9ZsYx7QkVb2m",
            "object": "chat.completion",
            "created": 1_763_000_000,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": _text(300),
                        "refusal": None,
                        "annotations": [],
                    },
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
            "service_tier": "default",
            "system_fingerprint": "fp_560af6e559",
        }
    )


_USAGE = {
    "prompt_tokens": 92,
    "completion_tokens": 46,
    "total_tokens": 138,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def stream_pieces() -> list[bytes]:
    """A streamed answer as OpenAI sends it when asked for usage: `CHUNKS` events, the last one `[DONE]`."""
    words = _WORDS.split()

    def event(choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> bytes:
        chunk = {
            "id": "chatcmpl-Bx7QkVb2mNp4RtLw9ZsYx7QkVb2m",
            "object": "chat.completion.chunk",
            "created": 1_763_000_000,
            "model": "gpt-4o-mini-2024-07-18",
            "service_tier": "default",
            "system_fingerprint": "fp_560af6e559",
            "choices": choices,
            "usage": usage,
        }
        return b"data: %b\n\n" % orjson.dumps(chunk)

    def choice(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]

    pieces = [event(choice({"role": "assistant", "content": "", "refusal": None}), None)]
    pieces += [event(choice({"content": f"{words[i % len(words)]} "}), None) for i in range(CHUNKS - 4)]
    pieces += [event(choice({}, "stop"), None), event([], _USAGE), b"data: [DONE]\n\n"]
    return pieces
