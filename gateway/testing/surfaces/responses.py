"""The Responses API: bodies, the stream's grammar with each text in all its five places, and usage.

What is kept between requests (`previous_response_id`, conversations, background responses) is the server's
part, in `gateway.testing.kept`; this file is told the items it amounts to.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer, Call, Choice
from gateway.testing.script import Ask, Reply, ToolOffer
from gateway.testing.surfaces.base import (
    MID_STREAM_FAILURE,
    TOKENS_PER_REPLY,
    Event,
    Mark,
    OpenAISurface,
    RequestError,
    carries_usage,
    count_at,
    flag_at,
    model_at,
    object_at,
    reports_usage,
    scripted_error_event,
    usage_value,
)
from gateway.testing.surfaces.response_items import (
    conversation_id,
    fault_in,
    items_of,
    tokens_in,
    turns_of,
)
from gateway.testing.tokens import Pieces, Tokens

_SOURCES = ("input", "previous_response_id", "prompt", "conversation")
_PADDING = b"x" * 16
_ENCRYPTED = "reasoning.encrypted_content"
_NO_IMAGES: Json = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


class Responses(OpenAISurface):
    """`POST /v1/responses`."""

    name = Surface.RESPONSES
    answer_id = "resp_sim_{server}{number:08}"
    strict = True

    def read(self, body: Json) -> Ask:
        model = model_at(body)
        if all(body.get(name) is None for name in _SOURCES):
            raise RequestError(
                f"One of {', '.join(repr(name) for name in _SOURCES)} must be provided.",
                code="missing_required_parameter",
            )
        if body.get("previous_response_id") is not None and body.get("conversation") is not None:
            raise RequestError(
                "Mutually exclusive parameters: 'previous_response_id' and 'conversation'.",
                code="mutually_exclusive_parameters",
            )
        conversation_id(body)
        flag_at(body, "store")
        for name in ("stream_options", "reasoning", "text", "metadata"):
            object_at(body, name)
        if not isinstance(body.get("include"), list | None):
            raise RequestError("'include' must be an array.", "include")
        items = items_of(body.get("input"))
        return Ask(
            model=model,
            stream=flag_at(body, "stream"),
            turns=tuple(turns_of(items, body.get("instructions"))),
            tools=_usable_tools(body),
            output_limit=count_at(body, "max_output_tokens"),
            choices=1,
            include_usage=True,
            body=body,
            items=items,
            background=flag_at(body, "background"),
        )

    def resumed(self, ask: Ask, kept: tuple[Json, ...], own: tuple[Json, ...]) -> Ask:
        """The request with the items that the provider kept before its own. Does not change `ask`."""
        items = kept + own
        turns = tuple(turns_of(items, ask.body.get("instructions")))
        return replace(ask, items=items, kept_items=len(kept), turns=turns, prompt_tokens=None)

    def fault(self, ask: Ask) -> RequestError | None:
        return fault_in(ask.items)

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        body = ask.body
        return TOKENS_PER_REPLY + tokens_in(ask.items, body.get("instructions"), body.get("tools"), tokens)

    def plain(self, answer: Answer) -> bytes:
        return orjson.dumps(self.final(answer))

    def events(self, answer: Answer) -> Iterator[Event]:
        return _Stream(answer).events()

    def error_event(self, answer: Answer, index: int, generated: int) -> Event:
        reply = answer.reply
        if reply.error is None:
            failed = {
                "type": "response.failed",
                "sequence_number": index,
                "response": self.failed(answer, generated),
            }
            return _named(failed, mark="error", carries=reply.usage_unasked and carries_usage(reply))
        if reply.error_translated:
            told = reply.error["error"]
            facts = {name: told.get(name) for name in ("code", "message", "param")}
            return _named({"type": "error", **facts, "sequence_number": index}, mark="error")
        return scripted_error_event(reply.error)

    def begun(self, answer: Answer, status: str) -> Json:
        """The response object before anything is said: `queued` or `in_progress`; also `cancelled`."""
        return _response(answer, status, [], None)

    def failed(self, answer: Answer, generated: int) -> Json:
        """The response object of an answer that failed after that many tokens."""
        error = {"code": "server_error", "message": MID_STREAM_FAILURE}
        usage = _told_usage(answer, generated) if answer.reply.usage_unasked else None
        return {**_response(answer, "failed", [], usage), "error": error}

    def final(self, answer: Answer) -> Json:
        """The response object once all is said."""
        (choice,) = answer.choices
        status = _STATUS.get(choice.finish_reason, "completed")
        usage = _told_usage(answer, answer.generated)
        if status == "failed":
            return self.failed(answer, answer.generated)
        shown = _response(answer, status, [part.item for part in _parts(answer, choice)], usage)
        if status == "incomplete":
            shown["incomplete_details"] = {"reason": _INCOMPLETE[choice.finish_reason]}
        else:
            shown["completed_at"] = answer.created
        if answer.reply.searches:
            searched = {"num_requests": answer.reply.searches}
            shown["tool_usage"] = {"image_gen": _NO_IMAGES, "web_search": searched}
        return shown


_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_STATUS = {**dict.fromkeys(_INCOMPLETE, "incomplete"), "failed": "failed"}


def _usable_tools(body: Json) -> tuple[ToolOffer, ...]:
    offered = body.get("tools") or []
    if not isinstance(offered, list):
        raise RequestError("'tools' must be an array.", "tools")
    tools = []
    for index, tool in enumerate(offered):
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise RequestError(f"Missing required parameter: 'tools[{index}].type'.", f"tools[{index}].type")
        if tool["type"] not in ("function", "custom"):
            # A tool that the provider itself hosts: nothing that an agent could be asked to call.
            continue
        if not isinstance(tool.get("name"), str):
            raise RequestError(f"Missing required parameter: 'tools[{index}].name'.", f"tools[{index}].name")
        schema = tool.get("parameters")
        custom = tool["type"] == "custom"
        tools.append(ToolOffer(tool["name"], schema if isinstance(schema, dict) else {}, custom))
    choice = body.get("tool_choice")
    if choice == "none":
        return ()
    if not isinstance(choice, dict):
        return tuple(tools)
    allowed = choice.get("tools") if choice.get("type") == "allowed_tools" else [choice]
    if not isinstance(allowed, list):
        raise RequestError("'tool_choice.tools' must be an array.", "tool_choice.tools")
    names = [entry["name"] for entry in allowed if isinstance(entry, dict) and "name" in entry]
    return tuple(tool for tool in tools if tool.name in names) if names else tuple(tools)


@dataclass(slots=True)
class _Part:
    """One output item when it is done, and the pieces it is streamed in."""

    item: Json
    opening_tokens: int = 0
    pieces: Pieces = ()


def _parts(answer: Answer, choice: Choice) -> list[_Part]:
    ask, reply = answer.ask, answer.reply
    suffix = answer.id.removeprefix("resp_")
    parts: list[_Part] = []

    def new_id(prefix: str) -> str:
        return f"{prefix}_{suffix}_{len(parts)}"

    if choice.hidden_tokens or choice.reasoning:
        told = choice.reasoning_content
        reasoning: Json = {
            "id": new_id("rs"),
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": told}] if told else [],
        }
        if _ENCRYPTED in (ask.body.get("include") or ()):
            reasoning["encrypted_content"] = f"sim-{reasoning['id']}"
        parts.append(_Part(reasoning, choice.hidden_tokens, choice.reasoning))
    query = ask.last_user_text[:60] or "anything"
    for _ in range(reply.searches):
        action = {"type": "search", "queries": [query], "query": query}
        searched = {"id": new_id("ws"), "type": "web_search_call", "status": "completed", "action": action}
        parts.append(_Part(searched))
    cut = choice.finish_reason == "length"
    if choice.text or not (choice.calls or cut):
        said = {"type": "output_text", "annotations": [], "logprobs": [], "text": choice.content}
        message = {
            "id": new_id("msg"),
            "type": "message",
            "status": "completed",
            "content": [said],
            "role": "assistant",
            **reply.extra_message,
        }
        parts.append(_Part(message, 0, choice.text))
    customs = {tool.name for tool in ask.tools if tool.custom}
    for call in choice.calls:
        item = {**_called(call, new_id, call.name in customs), **reply.extra_tool_call}
        pieces = call.pieces
        if reply.tool_deltas == "whole":
            pieces = ((call.arguments, sum(count for _, count in pieces)),)
        parts.append(_Part(item, call.name_tokens, pieces))
    if cut and parts and "status" in parts[-1].item:
        parts[-1].item["status"] = "incomplete"
    return parts


def _called(call: Call, new_id: Callable[[str], str], custom: bool) -> Json:
    if custom:
        kind = {"id": new_id("ctc"), "type": "custom_tool_call"}
        text = {"input": call.arguments}
    else:
        kind = {"id": new_id("fc"), "type": "function_call"}
        text = {"arguments": call.arguments}
    return {**kind, "status": "completed", "call_id": call.id, "name": call.name, **text}


def _usage(answer: Answer, generated: int) -> Json:
    output = answer.billed(generated)
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": answer.cached_tokens,
            "cache_write_tokens": answer.cache_write_tokens,
        },
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": min(answer.reasoning_tokens, output)},
        "total_tokens": answer.prompt_tokens + output,
    }


def _told_usage(answer: Answer, generated: int) -> Any:
    if not reports_usage(answer.reply):
        return None
    return usage_value(answer.reply, _usage(answer, generated))


def _response(answer: Answer, status: str, output: list[Json], usage: Any) -> Json:
    body = answer.ask.body
    conversation = conversation_id(body)
    shown = {
        "id": answer.id,
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "background": answer.ask.background,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "model": answer.ask.model,
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None, **object_at(body, "reasoning")},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": "default",
        "store": body.get("store") is not False,
        "temperature": body.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, "verbosity": "medium", **object_at(body, "text")},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": usage,
        "user": body.get("user"),
        "metadata": object_at(body, "metadata"),
    }
    if conversation is not None:
        shown["conversation"] = {"id": conversation}
    if not reports_usage(answer.reply):
        del shown["usage"]
    return {**shown, **answer.reply.extra}


def _named(
    event: Json, tokens: int = 0, mark: Mark = "other", carries: bool = False, also: tuple[Mark, ...] = ()
) -> Event:
    return Event(orjson.dumps(event), tokens, mark, carries, event["type"].encode(), also)


class _Stream:
    """Writes one answer as events, numbers them, and remembers how far it came for cumulative usage."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.reply: Reply = answer.reply
        self.surface = Responses()
        self.sequence = 0
        self.generated = 0
        options = answer.ask.body.get("stream_options") or {}
        self.obfuscates = options.get("include_obfuscation") is not False
        self.on_every_chunk = reports_usage(self.reply) and self.reply.usage_on in (
            "every_chunk",
            "continuous",
        )

    def events(self) -> Iterator[Event]:
        (choice,) = self.answer.choices
        if "role" not in self.reply.omit:
            yield from self._opening()
        for index, part in enumerate(_parts(self.answer, choice)):
            yield from self._part(index, part)
        yield from self._closing()

    def _opening(self) -> Iterator[Event]:
        stages = [("created", "in_progress"), ("in_progress", "in_progress")]
        if self.answer.ask.background:
            stages = [("created", "queued"), ("queued", "queued"), ("in_progress", "in_progress")]
        for kind, status in stages:
            response = self.surface.begun(self.answer, status)
            yield self._event(f"response.{kind}", mark="role", response=response)

    def _closing(self) -> Iterator[Event]:
        omitted = self.reply.omit
        if "finish" in omitted or "done" in omitted:
            return
        response = self.surface.final(self.answer)
        if "usage" in omitted:
            response["usage"] = None
        carries = response.get("usage") is not None and carries_usage(self.reply)
        for _ in range(2 if self.reply.usage_on == "twice" else 1):
            event = self._numbered(f"response.{response['status']}", response=response)
            yield _named(event, 0, "usage", carries, ("finish", "done"))

    def _part(self, index: int, part: _Part) -> Iterator[Event]:
        item = part.item
        yield self._event(
            "response.output_item.added", part.opening_tokens, output_index=index, item=_opened(item)
        )
        here = {"item_id": item["id"], "output_index": index}
        match item["type"]:
            case "message":
                yield from self._message(here, part)
            case "reasoning":
                if item["summary"]:
                    yield from self._summary(here, part)
            case "web_search_call":
                for stage in ("in_progress", "searching", "completed"):
                    yield self._event(f"response.web_search_call.{stage}", **here)
            case "custom_tool_call":
                yield from self._deltas("response.custom_tool_call_input", part.pieces, here)
                yield self._event("response.custom_tool_call_input.done", **here, input=item["input"])
            case _:
                yield from self._deltas("response.function_call_arguments", part.pieces, here)
                arguments = item["arguments"]
                yield self._event("response.function_call_arguments.done", **here, arguments=arguments)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _message(self, here: Json, part: _Part) -> Iterator[Event]:
        (said,) = part.item["content"]
        here = {**here, "content_index": 0}
        yield self._event("response.content_part.added", **here, part={**said, "text": ""})
        yield from self._deltas("response.output_text", part.pieces, {**here, "logprobs": []})
        yield self._event("response.output_text.done", **here, logprobs=[], text=said["text"])
        yield self._event("response.content_part.done", **here, part=said)

    def _summary(self, here: Json, part: _Part) -> Iterator[Event]:
        (told,) = part.item["summary"]
        here = {**here, "summary_index": 0}
        yield self._event("response.reasoning_summary_part.added", **here, part={**told, "text": ""})
        yield from self._deltas("response.reasoning_summary_text", part.pieces, here)
        yield self._event("response.reasoning_summary_text.done", **here, text=told["text"])
        yield self._event("response.reasoning_summary_part.done", **here, part=told)

    def _deltas(self, kind: str, pieces: Pieces, here: Json) -> Iterator[Event]:
        for text, tokens in pieces:
            fields = {**here, "delta": text}
            if self.obfuscates:
                # Random padding against traffic analysis; of a fixed letter here, so that sizes can be told.
                fields["obfuscation"] = _PADDING[len(text) % 16 :].decode()
            yield self._event(f"{kind}.delta", tokens, **fields)
            if self.on_every_chunk:
                yield self._usage_so_far()

    def _usage_so_far(self) -> Event:
        response = self.surface.begun(self.answer, "in_progress")
        response["usage"] = _told_usage(self.answer, self.generated)
        event = self._numbered("response.in_progress", response=response)
        return _named(event, carries=carries_usage(self.reply))

    def _event(self, kind: str, tokens: int = 0, mark: Mark | None = None, **fields: Any) -> Event:
        self.generated += tokens
        return _named(self._numbered(kind, **fields), tokens, mark or ("content" if tokens else "other"))

    def _numbered(self, kind: str, **fields: Any) -> Json:
        number = self.sequence
        self.sequence += 1
        return {"type": kind, "sequence_number": number, **fields}


def _opened(item: Json) -> Json:
    """The item as it is when it is added, before its content."""
    match item["type"]:
        case "message":
            return {**item, "status": "in_progress", "content": []}
        case "reasoning":
            return {**item, "summary": []}
        case "web_search_call":
            return {"id": item["id"], "type": item["type"], "status": "in_progress"}
        case kind:
            text = "input" if kind == "custom_tool_call" else "arguments"
            return {**item, "status": "in_progress", text: ""}


RESPONSES = Responses()

if TYPE_CHECKING:
    from gateway.testing.surfaces.base import ProviderSurface

    _: ProviderSurface = RESPONSES
