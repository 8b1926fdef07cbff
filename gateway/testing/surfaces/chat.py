"""Chat Completions, as OpenAI and Azure OpenAI speak it: bodies, the stream's grammar, and token counts.

Sources: https://platform.openai.com/docs/api-reference/chat and, for the counting rule,
https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer, Call, Choice
from gateway.testing.script import Ask, Reply, ToolOffer, Turn
from gateway.testing.surfaces.base import (
    TOKENS_PER_MEDIA_PART,
    TOKENS_PER_MESSAGE,
    TOKENS_PER_NAME,
    TOKENS_PER_REPLY,
    Event,
    Mark,
    OpenAISurface,
    RequestError,
    carries_usage,
    count_at,
    flag_at,
    media_in,
    model_at,
    reports_usage,
    stream_usage_at,
    text_of,
    usage_value,
)
from gateway.testing.tokens import Pieces, Tokens

MAX_CHOICES = 128

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_CLEAN: Json = {
    category: {"filtered": False, "severity": "safe"}
    for category in ("hate", "self_harm", "sexual", "violence")
}
_DONE = b"[DONE]"
_SLOT = "\0"
_SLOT_JSON = orjson.dumps(_SLOT)


class Chat(OpenAISurface):
    """`POST /v1/chat/completions`."""

    name = Surface.CHAT
    answer_id = "chatcmpl-sim-{server}{number}"

    def read(self, body: Json) -> Ask:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RequestError("'messages' must be a non-empty array.", "messages")
        model = model_at(body)
        choices = count_at(body, "n") or 1
        if choices > MAX_CHOICES:
            raise RequestError(f"'n' must be at most {MAX_CHOICES}.", "n")
        limit, older_limit = count_at(body, "max_completion_tokens"), count_at(body, "max_tokens")
        stream = flag_at(body, "stream")
        include_usage = stream_usage_at(body, stream)
        return Ask(
            model=model,
            stream=stream,
            turns=tuple(_turn(message, index) for index, message in enumerate(messages)),
            tools=_usable_tools(body),
            output_limit=older_limit if limit is None else limit,
            choices=choices,
            include_usage=include_usage,
            body=body,
        )

    def fault(self, ask: Ask) -> RequestError | None:
        open_calls: set[str] = set()
        asked_at = ""
        for index, message in enumerate(ask.body["messages"]):
            where = f"messages.[{index}].role"
            if message["role"] == "tool":
                if message.get("tool_call_id") not in open_calls:
                    return RequestError(_UNASKED, where)
                open_calls.discard(message["tool_call_id"])
                continue
            if open_calls:
                return RequestError(_UNANSWERED + ", ".join(sorted(open_calls)), asked_at)
            asked_at = where
            open_calls = {str(call.get("id")) for call in message.get("tool_calls") or ()}
        return RequestError(_UNANSWERED + ", ".join(sorted(open_calls)), asked_at) if open_calls else None

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        total = TOKENS_PER_REPLY
        for message in ask.body["messages"]:
            total += TOKENS_PER_MESSAGE + tokens.count(message["role"])
            content = message.get("content")
            total += tokens.count(text_of(content)) + TOKENS_PER_MEDIA_PART * media_in(content)
            if isinstance(name := message.get("name"), str):
                total += TOKENS_PER_NAME + tokens.count(name)
            for call in message.get("tool_calls") or ():
                function = call.get("function") or call.get("custom")
                if not isinstance(function, dict):
                    continue
                total += tokens.count(str(function.get("name", "")))
                total += tokens.count(str(function.get("arguments", function.get("input", ""))))
        for offered in (ask.body.get("tools"), ask.body.get("functions")):
            if offered:
                total += tokens.count(orjson.dumps(offered).decode())
        return total

    def plain(self, answer: Answer) -> bytes:
        ask, reply = answer.ask, answer.reply
        body: Json = {
            "id": answer.id,
            "object": "chat.completion",
            "created": answer.created,
            "model": ask.model,
            "choices": [_choice(answer, choice, index) for index, choice in enumerate(answer.choices)],
        }
        if reports_usage(reply):
            body["usage"] = usage_value(reply, openai_usage(answer, answer.generated))
        body["service_tier"] = "default"
        body["system_fingerprint"] = "fp_simulated"
        if ask.azure:
            body["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _CLEAN}]
        return orjson.dumps({**body, **reply.extra} if reply.extra else body)

    def events(self, answer: Answer) -> Iterator[Event]:
        return ChatStream(answer).events()


_UNASKED = (
    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
    "'tool_calls'."
)
_UNANSWERED = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
    "'tool_call_id'. The following tool_call_ids did not have response messages: "
)


def _turn(message: Any, index: int) -> Turn:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise RequestError(f"'{where}' must be an object.", where)
    role = _ROLES.get(message["role"]) if isinstance(message.get("role"), str) else None
    if role is None:
        raise RequestError(
            f"Invalid value for '{where}.role'. Supported: {', '.join(_ROLES)}.", f"{where}.role"
        )
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RequestError(f"'{where}.tool_calls' must be an array of objects.", f"{where}.tool_calls")
    return Turn(role, text_of(message.get("content")), len(calls))  # type: ignore[arg-type]


def _usable_tools(body: Json) -> tuple[ToolOffer, ...]:
    offered = body.get("tools") or []
    if not isinstance(offered, list):
        raise RequestError("'tools' must be an array.", "tools")
    tools = []
    for index, tool in enumerate(offered):
        if isinstance(tool, dict) and tool.get("type", "function") not in ("function", "custom"):
            # A tool that the provider itself hosts: nothing that an agent could be asked to call.
            continue
        function = tool.get("function", tool.get("custom")) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(
                f"Missing required parameter: 'tools[{index}].function.name'.", f"tools[{index}]"
            )
        schema = function.get("parameters")
        tools.append(ToolOffer(function["name"], schema if isinstance(schema, dict) else {}))
    choice = body.get("tool_choice")
    if choice == "none":
        return ()
    if isinstance(choice, dict):
        forced = choice.get("function", choice.get("custom"))
        name = forced.get("name") if isinstance(forced, dict) else None
        if name is not None:
            return tuple(tool for tool in tools if tool.name == name)
    return tuple(tools)


def openai_usage(answer: Answer, generated: int) -> Json:
    """Usage once `generated` tokens are produced, as chat and completions tell it."""
    completion = answer.billed(generated)
    details = {"cached_tokens": answer.cached_tokens, "audio_tokens": 0}
    if answer.cache_write_tokens:
        details["cache_write_tokens"] = answer.cache_write_tokens
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": answer.prompt_tokens + completion,
        "prompt_tokens_details": details,
        "completion_tokens_details": {
            "reasoning_tokens": min(answer.reasoning_tokens, completion),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _tool_call(call: Call, reply: Reply) -> Json:
    shown: Json = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    return {**shown, **reply.extra_tool_call} if reply.extra_tool_call else shown


def _choice(answer: Answer, choice: Choice, index: int) -> Json:
    reply = answer.reply
    message: Json = {"role": "assistant", "content": choice.content, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning_content
    if choice.calls:
        message["content"] = choice.content or None
        message["tool_calls"] = [_tool_call(call, reply) for call in choice.calls]
    if reply.extra_message:
        message |= reply.extra_message
    shown = {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}
    if answer.ask.azure:
        shown["content_filter_results"] = _CLEAN
    return {**shown, **reply.extra_choice} if reply.extra_choice else shown


class ChatStream:
    """Writes one answer as events, and remembers how far it came for cumulative usage."""

    kind = "chat.completion.chunk"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.reply = answer.reply
        self.generated = 0
        self.reports = reports_usage(answer.reply) and (
            answer.ask.include_usage or answer.reply.usage_unasked
        )
        self.on_every_chunk = self.reports and self.reply.usage_on in ("every_chunk", "continuous")
        self.chunk: Json = {
            "id": answer.id,
            "object": self.kind,
            "created": answer.created,
            "model": answer.ask.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulated",
        }

    def events(self) -> Iterator[Event]:
        if self.answer.ask.azure:
            yield Event(orjson.dumps(_AZURE_PREAMBLE))
        streams = [self._choice(choice, index) for index, choice in enumerate(self.answer.choices)]
        if len(streams) == 1:
            yield from streams[0]
        else:
            for step in zip_longest(*streams):
                yield from (event for event in step if event is not None)
        yield from self._usage_chunks()
        if "done" not in self.reply.omit:
            yield Event(_DONE, mark="done")

    def _usage_chunks(self) -> Iterator[Event]:
        if not self.reports or "usage" in self.reply.omit:
            return
        if self.reply.usage_on in ("final", "twice", "continuous"):
            usage = usage_value(self.reply, openai_usage(self.answer, self.answer.generated))
            data = orjson.dumps({**self.chunk, "choices": [], "usage": usage, **self.reply.extra})
            for _ in range(2 if self.reply.usage_on == "twice" else 1):
                yield Event(data, mark="usage", carries_usage=carries_usage(self.reply))

    def _choice(self, choice: Choice, index: int) -> Iterator[Event]:
        reply = self.reply
        first: Json = {"role": "assistant", "content": "" if choice.text or not choice.calls else None}
        if "role" not in reply.omit:
            delta = {**first, "refusal": None, **reply.extra_message}
            yield self._event(index, delta, choice.hidden_tokens, "role")
        elif choice.hidden_tokens:
            yield self._event(index, {}, choice.hidden_tokens, "role")
        yield from self._texts(index, "reasoning_content", choice.reasoning)
        yield from self._texts(index, "content", choice.text)
        for position, call in enumerate(choice.calls):
            yield from self._call(index, position if reply.tool_index == "counted" else 0, call)
        if "finish" not in reply.omit:
            yield self._event(index, {}, 0, "finish", choice.finish_reason)

    def _texts(self, index: int, name: str, pieces: Pieces) -> Iterator[Event]:
        if self.on_every_chunk:
            for text, tokens in pieces:
                yield self._event(index, {name: text}, tokens, "content")
        elif pieces:
            # All such chunks are alike but for the text: serialise the rest once.
            head, tail = self._data(index, {name: _SLOT}, None).split(_SLOT_JSON, 1)
            for text, tokens in pieces:
                self.generated += tokens
                yield Event(b"%b%b%b" % (head, orjson.dumps(text), tail), tokens, "content")

    def _call(self, index: int, position: int, call: Call) -> Iterator[Event]:
        if self.reply.tool_deltas == "whole":
            whole = {"index": position, **_tool_call(call, self.reply)}
            tokens = call.name_tokens + sum(count for _, count in call.pieces)
            yield self._event(index, {"tool_calls": [whole]}, tokens, "content")
            return
        opening = {
            "index": position,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
            **self.reply.extra_tool_call,
        }
        yield self._event(index, {"tool_calls": [opening]}, call.name_tokens, "content")
        for text, tokens in call.pieces:
            delta = {"index": position, "function": {"arguments": text}}
            yield self._event(index, {"tool_calls": [delta]}, tokens, "content")

    def _event(self, index: int, delta: Json, tokens: int, mark: Mark, finish: str | None = None) -> Event:
        self.generated += tokens
        carries = self.on_every_chunk or (
            finish is not None and self.reports and self.reply.usage_on == "finish"
        )
        reported = carries and carries_usage(self.reply)
        return Event(self._data(index, delta, finish, carries), tokens, mark, reported)

    def _data(self, index: int, delta: Json, finish: str | None, with_usage: bool = False) -> bytes:
        choice: Json = {"index": index, **self._said(delta), "logprobs": None, "finish_reason": finish}
        if self.answer.ask.azure:
            choice["content_filter_results"] = {} if finish is not None else _CLEAN
        choice |= self.reply.extra_choice
        chunk = {**self.chunk, "choices": [choice]}
        if with_usage:
            chunk["usage"] = usage_value(self.reply, openai_usage(self.answer, self.generated))
        elif self.answer.ask.include_usage and reports_usage(self.reply):
            chunk["usage"] = None
        return orjson.dumps({**chunk, **self.reply.extra} if self.reply.extra else chunk)

    def _said(self, delta: Json) -> Json:
        return {"delta": delta}


_AZURE_PREAMBLE: Json = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _CLEAN}],
}

if TYPE_CHECKING:
    from gateway.testing.surfaces.base import ProviderSurface

    _: ProviderSurface = Chat()
