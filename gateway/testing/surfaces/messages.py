"""The Messages API, as Anthropic speaks it: bodies, the stream's grammar, errors, and token counting.

Source: https://platform.claude.com/docs/en/api/messages and, for the stream,
https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer, Choice
from gateway.testing.script import ABSENT, HONEST, Ask, Reply, ToolOffer
from gateway.testing.surfaces.base import (
    MID_STREAM_FAILURE,
    TOKENS_PER_REPLY,
    Event,
    Mark,
    Problem,
    RequestError,
    any_json,
    carries_usage,
    json_body,
    reports_usage,
    scripted_error_event,
    usage_value,
)
from gateway.testing.surfaces.message_input import (
    check_messages,
    fault_in,
    signature,
    tokens_in,
    turns_of,
)
from gateway.testing.tokens import Pieces, Tokens

MIN_THINKING_BUDGET = 1_024

_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_")
"""Tools that Anthropic defines and the agent runs."""

_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class Messages:
    """`POST /v1/messages`."""

    name = Surface.MESSAGES
    answer_id = "msg_sim_{server}{number:08}"
    call_prefix = "toolu_"
    strict = True
    free = False
    required_header: bytes | None = b"anthropic-version"
    media_type: str | None = None

    def decode(self, data: bytes, content_type: bytes) -> Json:
        return json_body(data)

    def read(self, body: Json) -> Ask:
        return self._ask(body, _output_limit(body), 1)

    def _ask(self, body: Json, output_limit: int | None, choices: int) -> Ask:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise RequestError("model: Field required")
        messages = check_messages(body.get("messages"))
        system = body.get("system")
        if not isinstance(system, str | list | None):
            raise RequestError("system: Input should be a valid string or list")
        stream = body.get("stream")
        if not isinstance(stream, bool | None):
            raise RequestError("stream: Input should be a valid boolean")
        return Ask(
            model=model,
            stream=bool(stream) and choices > 0,
            turns=tuple(turns_of(messages, system)),
            tools=_usable_tools(body),
            output_limit=output_limit,
            choices=choices,
            include_usage=True,
            body=body,
        )

    def fault(self, ask: Ask) -> RequestError | None:
        return fault_in(ask.body["messages"])

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        body = ask.body
        return TOKENS_PER_REPLY + tokens_in(body["messages"], body.get("system"), body.get("tools"), tokens)

    def plain(self, answer: Answer) -> bytes:
        (choice,) = answer.choices
        message = _message(answer, [part.block for part in _parts(answer, choice)])
        message |= _ending(answer, choice)
        if reports_usage(answer.reply):
            message["usage"] = usage_value(answer.reply, _usage(answer))
        return orjson.dumps({**message, **answer.reply.extra})

    def events(self, answer: Answer) -> Iterator[Event]:
        return _Stream(answer).events()

    def error(self, problem: Problem, request_id: str) -> bytes:
        usual = "api_error" if problem.status >= 500 else "invalid_request_error"
        told = _error(_ERROR_TYPES.get(problem.status, usual), problem.message)
        return orjson.dumps({**told, "request_id": request_id})

    def error_event(self, answer: Answer, index: int, generated: int) -> Event:
        reply = answer.reply
        if reply.error is None:
            return scripted_error_event(_error("api_error", MID_STREAM_FAILURE))
        if reply.error_translated:
            told = reply.error["error"]
            kind = told["type"] if told["type"] in _ERROR_TYPES.values() else "api_error"
            return scripted_error_event(_error(kind, told["message"]))
        return scripted_error_event(reply.error)


class CountTokens(Messages):
    """`POST /v1/messages/count_tokens`: the same request, its input counted and nothing billed."""

    free = True

    def read(self, body: Json) -> Ask:
        return self._ask(body, None, 0)

    def plain(self, answer: Answer) -> bytes:
        return orjson.dumps({"input_tokens": answer.prompt_tokens})


def _output_limit(body: Json) -> int:
    limit = body.get("max_tokens")
    if limit is None:
        raise RequestError("max_tokens: Field required")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise RequestError("max_tokens: Input should be a valid integer greater than or equal to 1")
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or budget < MIN_THINKING_BUDGET:
            raise RequestError(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to "
                f"{MIN_THINKING_BUDGET}"
            )
        if limit <= budget:
            raise RequestError("`max_tokens` must be greater than `thinking.budget_tokens`.")
    return limit


def _usable_tools(body: Json) -> tuple[ToolOffer, ...]:
    offered = body.get("tools") or []
    if not isinstance(offered, list):
        raise RequestError("tools: Input should be a valid list")
    tools = []
    for index, tool in enumerate(offered):
        kind = tool.get("type", "custom") if isinstance(tool, dict) else None
        if kind not in ("custom", None) and not str(kind).startswith(_CLIENT_TOOLS):
            # A tool that the provider itself hosts: nothing that an agent could be asked to call.
            continue
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise RequestError(f"tools.{index}.name: Field required")
        schema = tool.get("input_schema")
        if kind == "custom" and not isinstance(schema, dict):
            raise RequestError(f"tools.{index}.custom.input_schema: Field required")
        tools.append(ToolOffer(tool["name"], schema if isinstance(schema, dict) else {}))
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return tuple(tools)
    match choice.get("type"):
        case "none":
            return ()
        case "tool":
            return tuple(tool for tool in tools if tool.name == choice.get("name"))
        case _:
            return tuple(tools)


def _error(kind: str, message: str) -> Json:
    return {"type": "error", "error": {"type": kind, "message": message}}


@dataclass(slots=True)
class _Part:
    """One content block when it is done, how it starts, and the deltas it is streamed in."""

    block: Json
    start: Json
    field: str = ""
    """Name of the text in its deltas."""
    delta: str = ""
    """Type of its deltas."""
    pieces: Pieces = ()
    opening_tokens: int = 0


def _parts(answer: Answer, choice: Choice) -> list[_Part]:
    reply = answer.reply
    parts = []
    if choice.hidden_tokens or choice.reasoning:
        thought = choice.reasoning_content
        start: Json = {"type": "thinking", "thinking": "", "signature": ""}
        block = {**start, "thinking": thought, "signature": signature(thought)}
        parts.append(
            _Part(block, start, "thinking", "thinking_delta", choice.reasoning, choice.hidden_tokens)
        )
    query = orjson.dumps({"query": answer.ask.last_user_text[:60] or "anything"}).decode()
    for position in range(reply.searches):
        parts += _search(f"srvtoolu_{answer.id.removeprefix('msg_')}_{position}", query)
    if choice.text:
        start = {"type": "text", "text": ""}
        block = {**start, "text": choice.content, **reply.extra_message}
        parts.append(_Part(block, {**start, **reply.extra_message}, "text", "text_delta", choice.text))
    for call in choice.calls:
        start = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}, **reply.extra_tool_call}
        pieces = call.pieces
        if reply.tool_deltas == "whole":
            pieces = ((call.arguments, sum(count for _, count in pieces)),)
        parts.append(
            _Part(
                {**start, "input": _input(call.arguments)},
                start,
                "partial_json",
                "input_json_delta",
                pieces,
                call.name_tokens,
            )
        )
    return parts


def _search(call_id: str, query: str) -> list[_Part]:
    asked: Json = {"type": "server_tool_use", "id": call_id, "name": "web_search", "input": {}}
    found: Json = {
        "type": "web_search_tool_result",
        "tool_use_id": call_id,
        "content": [
            {
                "type": "web_search_result",
                "title": "Simulated result",
                "url": "https://example.com/",
                "encrypted_content": "c2lt",
                "page_age": None,
            }
        ],
    }
    whole = {**asked, "input": orjson.loads(query)}
    return [_Part(whole, asked, "partial_json", "input_json_delta", ((query, 0),)), _Part(found, found)]


def _input(arguments: str) -> Json:
    """The arguments as an object; a plain message cannot hold broken ones, and has none of them."""
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _message(answer: Answer, content: list[Json]) -> Json:
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.ask.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _ending(answer: Answer, choice: Choice) -> Json:
    reason = _STOP_REASONS.get(choice.finish_reason, choice.finish_reason)
    sequence = None
    if reason == "stop_sequence":
        sequences = answer.ask.body.get("stop_sequences")
        sequence = sequences[0] if isinstance(sequences, list) and sequences else None
    details = None
    if reason == "refusal":
        details = {"type": "refusal", "category": None, "explanation": "Simulated: the model refused."}
    return {"stop_reason": reason, "stop_sequence": sequence, "stop_details": details}


def _input_usage(answer: Answer) -> Json:
    return {
        "input_tokens": answer.uncached_tokens,
        "cache_creation_input_tokens": answer.cache_write_tokens,
        "cache_read_input_tokens": answer.cached_tokens,
    }


def _lifetimes(answer: Answer) -> Json:
    return {
        "cache_creation": {
            "ephemeral_5m_input_tokens": answer.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": answer.cache_write_1h_tokens,
        }
    }


def _output_usage(answer: Answer, generated: int) -> Json:
    output = answer.billed(generated)
    usage: Json = {"output_tokens": output}
    if answer.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": min(answer.reasoning_tokens, output)}
    if answer.reply.searches:
        usage["server_tool_use"] = {"web_search_requests": answer.reply.searches, "web_fetch_requests": 0}
    return usage


def _usage(answer: Answer) -> Json:
    """The usage of a plain reply."""
    return {
        **_input_usage(answer),
        **_lifetimes(answer),
        **_output_usage(answer, answer.generated),
        "service_tier": "standard",
    }


class _Stream:
    """Writes one answer as events, and remembers how far it came for cumulative usage."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.reply: Reply = answer.reply
        self.generated = 0
        self.early = min(1, answer.generated)
        """The first token is there before the stream opens, and is in the usage it opens with."""
        self.owed = 0
        self.reports = reports_usage(self.reply)
        self.on_every_chunk = self.reports and self.reply.usage_on in ("every_chunk", "continuous")

    def events(self) -> Iterator[Event]:
        (choice,) = self.answer.choices
        if "role" not in self.reply.omit:
            yield self._start()
        pinged = False
        for index, part in enumerate(_parts(self.answer, choice)):
            yield self._event(
                "content_block_start", part.opening_tokens, index=index, content_block=part.start
            )
            if not pinged:
                yield self._event("ping")
                pinged = True
            yield from self._deltas(index, part)
            yield self._event("content_block_stop", index=index)
        yield from self._closing(choice)

    def _start(self) -> Event:
        message = _message(self.answer, [])
        self.owed = self.early
        told = self.reply.usage_at_start
        honest = {
            **_input_usage(self.answer),
            **_lifetimes(self.answer),
            "output_tokens": self.answer.billed(self.early),
            "service_tier": "standard",
        }
        if isinstance(told, str) and told == HONEST:
            told = honest
        elif told != ABSENT:
            told = any_json(told)
        if self.reports and told != ABSENT:
            message["usage"] = told
        self.generated += self.early
        event = {"type": "message_start", "message": {**message, **self.reply.extra}}
        return _named(event, self.early, "role")

    def _deltas(self, index: int, part: _Part) -> Iterator[Event]:
        for text, tokens in part.pieces:
            delta = {"type": part.delta, part.field: text}
            yield self._event("content_block_delta", tokens, index=index, delta=delta)
            if self.on_every_chunk:
                nothing = {"stop_reason": None, "stop_sequence": None}
                yield self._delta(nothing, _output_usage(self.answer, self.generated))
        if part.block["type"] == "thinking":
            signed = {"type": "signature_delta", "signature": part.block["signature"]}
            yield self._event("content_block_delta", index=index, delta=signed)

    def _closing(self, choice: Choice) -> Iterator[Event]:
        if "finish" not in self.reply.omit:
            usage = {**_input_usage(self.answer), **_output_usage(self.answer, self.answer.generated)}
            for _ in range(2 if self.reply.usage_on == "twice" else 1):
                yield self._delta(_ending(self.answer, choice), usage, "finish")
        if "done" not in self.reply.omit:
            yield self._event("message_stop", mark="done")

    def _delta(self, delta: Json, usage: Json, mark: Mark = "other") -> Event:
        event = {"type": "message_delta", "delta": delta}
        told = self.reports and "usage" not in self.reply.omit
        if told:
            event["usage"] = usage_value(self.reply, usage)
        also: tuple[Mark, ...] = ("usage",) if mark == "finish" else ()
        return _named(event, 0, mark, told and carries_usage(self.reply), also)

    def _event(self, kind: str, tokens: int = 0, mark: Mark | None = None, **fields: Any) -> Event:
        paid = min(tokens, self.owed)
        self.owed -= paid
        self.generated += tokens - paid
        shown: Mark = mark or ("content" if tokens else "other")
        return _named({"type": kind, **fields}, tokens - paid, shown)


def _named(event: Json, tokens: int, mark: Mark, carries: bool = False, also: tuple[Mark, ...] = ()) -> Event:
    return Event(orjson.dumps(event), tokens, mark, carries, event["type"].encode(), also)


MESSAGES = Messages()

if TYPE_CHECKING:
    from gateway.testing.surfaces.base import ProviderSurface

    _: ProviderSurface = MESSAGES
