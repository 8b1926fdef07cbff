"""The agent's side of each wire API: requests, what an answer says, and how a conversation goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}


@dataclass
class Said:
    """What an answer says. `error` is the code of an error, in a body or at the end of a stream."""

    text: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """(id, name, arguments)."""
    finish: str | None = None
    error: str | None = None
    id: str | None = None
    clean: bool = True
    """The stream has the surface's regular end."""


@dataclass(frozen=True)
class Wire:
    """One surface. `body` makes a request of a history; `turn` is what the agent adds to it."""

    name: str
    path: str
    body: Callable[[str, list[Json]], Json]
    user: Callable[[str], Json]
    tools: Callable[[list[str]], list[Json]]
    plain: Callable[[Json], Said]
    stream: Callable[[list[Json], bool], Said]
    answered: Callable[[Said], list[Json]]
    """The history items for an answer and its tool results."""
    headers: dict[str, str]
    end: bytes
    """How a whole stream ends."""

    def request(self, model: str, text: str = "go", tools: list[str] | None = None, **more: Any) -> Json:
        """A first request."""
        made = self.body(model, [self.user(text)])
        if tools:
            made["tools"] = self.tools(tools)
        return {**made, **more}

    def read(self, raw: bytes) -> Said:
        """A body, or a stream."""
        if raw[:1] == b"{":
            parsed = json.loads(raw)
            code = error_code(parsed)
            return Said(error=code) if code else self.plain(parsed)
        events = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: {")]
        return self.stream(events, raw.endswith(self.end))


def error_code(body: Json) -> str | None:
    """The gateway's code in an error body of any surface."""
    error = body.get("error")
    if not isinstance(error, dict):
        return None
    details = error.get("details") or {}
    return str(details.get("error_code") or error.get("code") or error.get("type"))


# -- chat -------------------------------------------------------------------------------------------


def _chat_plain(body: Json) -> Said:
    message = body["choices"][0]["message"]
    calls = [
        (c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []
    ]
    return Said(message.get("content") or "", calls, body["choices"][0]["finish_reason"], id=body["id"])


def _chat_stream(events: list[Json], ended: bool) -> Said:
    said = Said(clean=ended)
    calls: dict[int, list[str]] = {}
    for event in events:
        said.error = said.error or error_code(event)
        for choice in event.get("choices") or []:
            delta = choice["delta"]
            said.text += delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                known = calls.setdefault(call["index"], [call.get("id") or "", "", ""])
                known[1] += call["function"].get("name") or ""
                known[2] += call["function"].get("arguments") or ""
            said.finish = choice.get("finish_reason") or said.finish
    said.calls = [(c[0], c[1], c[2]) for c in calls.values()]
    return said


def _chat_answered(said: Said) -> list[Json]:
    message: Json = {"role": "assistant", "content": said.text or None}
    if said.calls:
        message["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in said.calls
        ]
    results = [{"role": "tool", "tool_call_id": i, "content": f"result of {n}"} for i, n, _ in said.calls]
    return [message, *results]


CHAT = Wire(
    "chat",
    "/v1/chat/completions",
    lambda model, history: {"model": model, "messages": history},
    lambda text: {"role": "user", "content": text},
    lambda names: [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in names],
    _chat_plain,
    _chat_stream,
    _chat_answered,
    {},
    b"data: [DONE]\n\n",
)

# -- responses --------------------------------------------------------------------------------------


def _responses_plain(body: Json) -> Said:
    said = Said(finish=body["status"], id=body["id"])
    for item in body["output"]:
        if item["type"] == "message":
            said.text += "".join(part.get("text", "") for part in item["content"])
        elif item["type"] == "function_call":
            said.calls.append((item["call_id"], item["name"], item["arguments"]))
    if body.get("error"):
        said.error = str(body["error"]["code"])
    return said


def _responses_stream(events: list[Json], ended: bool) -> Said:
    del ended
    said = Said(clean=False)
    for event in events:
        kind = event.get("type")
        if kind in ("response.completed", "response.incomplete"):
            said = _responses_plain(event["response"])
        elif kind == "response.failed":
            said.error = str(event["response"]["error"]["code"])
            said.clean = False
        elif kind == "response.output_text.delta" and not said.finish:
            said.text += event["delta"]
        elif kind is None or kind == "error":
            said.error = said.error or error_code(event)
    return said


def _responses_answered(said: Said) -> list[Json]:
    items: list[Json] = []
    if said.text:
        items.append(
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said.text}]}
        )
    items += [{"type": "function_call", "call_id": i, "name": n, "arguments": a} for i, n, a in said.calls]
    items += [
        {"type": "function_call_output", "call_id": i, "output": f"result of {n}"} for i, n, _ in said.calls
    ]
    return items


RESPONSES = Wire(
    "responses",
    "/v1/responses",
    lambda model, history: {"model": model, "input": history},
    lambda text: {"role": "user", "content": text},
    lambda names: [{"type": "function", "name": n, "parameters": SCHEMA} for n in names],
    _responses_plain,
    _responses_stream,
    _responses_answered,
    {},
    b"\n\n",
)

# -- messages ---------------------------------------------------------------------------------------


def _messages_plain(body: Json) -> Said:
    said = Said(finish=body["stop_reason"], id=body["id"])
    for block in body["content"]:
        if block["type"] == "text":
            said.text += block["text"]
        elif block["type"] == "tool_use":
            said.calls.append((block["id"], block["name"], json.dumps(block["input"])))
    return said


def _messages_stream(events: list[Json], ended: bool) -> Said:
    del ended
    said = Said(clean=False)
    calls: dict[int, list[str]] = {}
    for event in events:
        kind = event["type"]
        if kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            calls[event["index"]] = [event["content_block"]["id"], event["content_block"]["name"], ""]
        elif kind == "content_block_delta":
            said.text += event["delta"].get("text", "")
            if "partial_json" in event["delta"] and event["index"] in calls:
                calls[event["index"]][2] += event["delta"]["partial_json"]
        elif kind == "message_delta":
            said.finish = event["delta"]["stop_reason"]
        elif kind == "message_stop":
            said.clean = True
        elif kind == "error":
            said.error = error_code(event)
    said.calls = [(c[0], c[1], c[2] or "{}") for c in calls.values()]
    return said


def _messages_answered(said: Said) -> list[Json]:
    blocks: list[Json] = [{"type": "text", "text": said.text}] if said.text else []
    blocks += [{"type": "tool_use", "id": i, "name": n, "input": json.loads(a)} for i, n, a in said.calls]
    results = [
        {"type": "tool_result", "tool_use_id": i, "content": f"result of {n}"} for i, n, _ in said.calls
    ]
    made: list[Json] = [{"role": "assistant", "content": blocks}]
    if results:
        made.append({"role": "user", "content": results})
    return made


MESSAGES = Wire(
    "messages",
    "/v1/messages",
    lambda model, history: {"model": model, "messages": history, "max_tokens": 2000},
    lambda text: {"role": "user", "content": text},
    lambda names: [{"name": n, "input_schema": SCHEMA} for n in names],
    _messages_plain,
    _messages_stream,
    _messages_answered,
    {"anthropic_version": "2023-06-01"},
    b"\n\n",
)

WIRES = {wire.name: wire for wire in (CHAT, RESPONSES, MESSAGES)}
"""The surfaces that agents converse on."""
