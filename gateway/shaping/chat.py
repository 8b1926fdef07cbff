"""What the gateway says on chat completions; see `base`.

A request's note is a user message at its end. An answer's message is told with everything the provider put
into it: thoughts under all their names, and what stands at a call (Gemini's signatures), since clients and
providers want them back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.domain import Json, ToolCall
from gateway.shaping.base import (
    PARAGRAPH,
    Fold,
    HeldStream,
    Said,
    Shaper,
    ensure_as_many,
    index_of,
    model_name,
    objects,
    overridden,
    text_at,
)
from gateway.shaping.choices import Chunks, choices_of, composed
from gateway.shaping.growing import copied, grow, grown
from gateway.surfaces.body import json_text
from gateway.translation.calls import made_id

_CHOICES = ("tool_choice", "function_call", "parallel_tool_calls")
"""What may only stand beside tools."""
_SPOKEN = ("role", "content", "refusal", "tool_calls", "function_call")
"""Fields of a message that are told by themselves; all others at its beginning."""


# -- requests ---------------------------------------------------------------------------------------


def with_note(body: Json, text: str) -> Json:
    """The request with a user message at its end, or before the beginning of an answer that stands there."""
    messages: list[Any] = body["messages"]
    last = messages[-1]
    end = len(messages)
    if last.get("role") == "assistant" and not (last.get("tool_calls") or last.get("function_call")):
        end -= 1
    note = {"role": "user", "content": text}
    return {**body, "messages": [*messages[:end], note, *messages[end:]]}


def without_tool_use(body: Json, final_tools: Sequence[str]) -> tuple[Json, str | None]:
    """See `Shaper`."""
    kept = {name: value for name, value in body.items() if name not in ("tool_choice", "function_call")}
    offers: dict[str, tuple[str, Any]] = {}
    for tool in objects(body.get("tools")):
        kind = "custom" if tool.get("type") == "custom" else "function"
        inner = tool.get(kind)
        if type(inner) is dict and (name := text_at(inner, "name")):
            offers.setdefault(name, ("tool_choice", {"type": kind, kind: {"name": name}}))
    for function in objects(body.get("functions")):
        if name := text_at(function, "name"):
            offers.setdefault(name, ("function_call", {"name": name}))
    forced = next((name for name in final_tools if name in offers), None)
    if not body.get("tools") and not body.get("functions"):
        # A choice among no tools is refused.
        kept.pop("parallel_tool_calls", None)
    elif forced is not None:
        field_name, choice = offers[forced]
        kept[field_name] = choice
        if kept.get("parallel_tool_calls"):
            kept["parallel_tool_calls"] = False
    else:
        if body.get("tools"):
            kept["tool_choice"] = "none"
        if body.get("functions"):
            kept["function_call"] = "none"
    return kept, forced


def with_results(body: Json, turn: Json, results: Sequence[str]) -> Json:
    """See `Shaper`. Of several choices the first that calls goes on."""
    chosen: Json = {}
    told: Sequence[str] = ()
    calls = 0
    for choice in objects(turn.get("choices")):
        message = choice.get("message")
        if type(message) is not dict:
            continue
        count = len(objects(message.get("tool_calls"))) + (type(message.get("function_call")) is dict)
        if not chosen or (count and not told):
            chosen, told = message, results[calls : calls + count]
        calls += count
    ensure_as_many(results, calls)
    return {**body, "messages": [*body["messages"], *_continued(chosen, text_at(turn, "id"), told)]}


def _continued(message: Json, seed: str, results: Sequence[str]) -> Iterator[Json]:
    """An assistant's message as it is sent back, and what answers its calls."""
    calls = [
        call if text_at(call, "id") else {**call, "id": made_id(seed, i)}
        for i, call in enumerate(objects(message.get("tool_calls")))
    ]
    back = {name: value for name, value in message.items() if value is not None and name != "annotations"}
    back |= {"role": "assistant", "content": message.get("content")}
    if type(audio := back.get("audio")) is dict:
        # What was spoken is sent back by its id.
        back["audio"] = {"id": audio.get("id")}
    if calls:
        back["tool_calls"] = calls
    else:
        back.pop("tool_calls", None)
        back["content"] = back["content"] if back["content"] or results else ""
    yield back
    for call, result in zip(calls, results, strict=False):
        yield {"role": "tool", "tool_call_id": call["id"], "content": result}
    legacy = message.get("function_call")
    if type(legacy) is dict:
        yield {"role": "function", "name": text_at(legacy, "name"), "content": results[-1]}


# -- answers ----------------------------------------------------------------------------------------


def compose(said: Said, request: Json, created: int) -> Json:
    """See `Shaper`. Every choice that the client asked for says the same."""
    if said.reply is not None:
        return overridden(said, said.reply, "chatcmpl-", request, created)
    message: Json = {
        "role": "assistant",
        "content": said.text or (None if said.calls else ""),
        "refusal": None,
    }
    finish: str = said.finish
    calls = [_call(call, request) for call in said.calls]
    if calls and request.get("functions") and not request.get("tools"):
        message["function_call"] = calls[0]["function"]
        finish = "function_call" if finish == "tool_calls" else finish
    elif calls:
        message["tool_calls"] = calls
    choices: list[Json] = [
        {"index": i, "message": message, "logprobs": None, "finish_reason": finish}
        for i in range(choices_of(request))
    ]
    return composed(said, request, created, "chatcmpl-", "chat.completion", choices)


def _call(call: ToolCall, request: Json) -> Json:
    for tool in objects(request.get("tools")):
        custom = tool.get("custom")
        if type(custom) is dict and custom.get("name") == call.name:
            inner = {"name": call.name, "input": call.arguments}
            return {"id": call.id, "type": "custom", "custom": inner}
    inner = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": inner}


def compose_stream(said: Said, request: Json, created: int) -> bytes:
    """See `Shaper`."""
    reply = compose(said, request, created)
    chunk = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
    chunk["object"] = "chat.completion.chunk"
    chunk.setdefault("created", created)
    chunk.setdefault("model", model_name(said, request))
    writer = _Writer(chunk, request)
    out: list[bytes] = []
    for at, choice in _choices(reply):
        message = choice["message"]
        opening = {"role": "assistant", "content": None if message.get("tool_calls") else "", "refusal": None}
        out += writer.choice(at, choice, {**opening, **_extras(message)})
    return b"".join([*out, *writer.ending(reply)])


def _choices(reply: Json) -> Iterator[tuple[int, Json]]:
    """The choices, each under an index of its own."""
    taken: set[int] = set()
    for choice in objects(reply.get("choices")):
        if type(choice.get("message")) is dict:
            at = index_of(choice)
            if at in taken:
                at = max(taken) + 1
            taken.add(at)
            yield at, choice


def _extras(message: Json) -> Json:
    """What a message has besides what it says."""
    return {name: value for name, value in message.items() if name not in _SPOKEN and value is not None}


class _Writer(Chunks):
    __slots__ = ()

    def delta(self, at: int, delta: Json, finish: str | None = None) -> bytes:
        return self.chunk({"index": at, "delta": delta, "logprobs": None, "finish_reason": finish})

    def choice(self, at: int, choice: Json, opening: Json, before: str = "") -> Iterator[bytes]:
        """A whole choice; `before` stands in front of its text, if it has one."""
        message = choice["message"]
        if opening:
            yield self.delta(at, opening)
        content = message.get("content")
        if type(content) is list:
            content = "".join(text_at(part, "text") for part in objects(content))
        if type(content) is str and content:
            yield self.delta(at, {"content": before + content})
        if refusal := text_at(message, "refusal"):
            yield self.delta(at, {"refusal": refusal})
        for delta in _call_deltas(message):
            yield self.delta(at, delta)
        yield self.delta(at, {}, str(choice.get("finish_reason") or "stop"))


def _call_deltas(message: Json) -> Iterator[Json]:
    """Each call in two: what it is and its arguments, as clients know it from OpenAI."""
    for i, call in enumerate(objects(message.get("tool_calls"))):
        kind, name = ("custom", "input") if type(call.get("custom")) is dict else ("function", "arguments")
        inner = call.get(kind)
        inner = inner if type(inner) is dict else {}
        yield {"tool_calls": [{**call, "index": i, kind: {**inner, name: ""}}]}
        arguments = inner.get(name)
        if type(arguments) is not str:
            arguments = json_text(arguments) if arguments is not None else ""
        yield {"tool_calls": [{"index": i, kind: {name: arguments}}]}
    legacy = message.get("function_call")
    if type(legacy) is dict:
        yield {"function_call": {"name": text_at(legacy, "name"), "arguments": text_at(legacy, "arguments")}}


# -- streams ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Choice:
    message: Json = field(default_factory=dict)
    calls: dict[int, Json] = field(default_factory=dict)
    """By the delta's index, as `ChatStream` tells them apart."""
    more: Json = field(default_factory=dict)
    finish: str | None = None


class ChatFold(Fold):
    """See `Fold`."""

    __slots__ = ("_choices", "_head", "_more")

    def __init__(self) -> None:
        self._head: Json | None = None
        """The first chunk with a choice, for what all of them repeat."""
        self._more: Json = {}
        self._choices: dict[int, _Choice] = {}

    def take(self, event: Json) -> None:
        choices = event.pop("choices", None)
        for name in ("usage", "service_tier", "x_groq"):
            if (value := event.get(name)) is not None:
                self._more[name] = value
        if not choices or type(choices) is not list:
            return
        if self._head is None:
            self._head = event
        for choice in objects(choices):
            self._delta(choice)

    def _delta(self, choice: Json) -> None:
        index = index_of(choice)
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = _Choice()
        delta = choice.pop("delta", None)
        if type(delta) is dict:
            for call in objects(delta.pop("tool_calls", None)):
                _grow_call(state.calls, call)
            _align_content(state.message, delta)
            grow(state.message, delta)
        finish = choice.pop("finish_reason", None)
        if finish is not None:
            state.finish = str(finish)
        for name, value in choice.items():
            if value is not None and name != "index":
                state.more[name] = value

    def reply(self) -> Json:
        head = {name: value for name, value in (self._head or {}).items() if name != "obfuscation"}
        choices = []
        for index, state in sorted(self._choices.items()):
            message = {"role": "assistant", "content": None, **grown(state.message)}
            if state.calls:
                message["tool_calls"] = [grown(call) for _, call in sorted(state.calls.items())]
            choices.append({**state.more, "index": index, "message": message, "finish_reason": state.finish})
        return {**head, **self._more, "object": "chat.completion", "choices": choices}

    def copy(self) -> ChatFold:
        other = ChatFold()
        other._head = self._head
        other._more = dict(self._more)
        other._choices = {
            index: _Choice(copied(state.message), copied(state.calls), dict(state.more), state.finish)
            for index, state in self._choices.items()
        }
        return other

    @property
    def head(self) -> Json | None:
        """What every chunk of the stream repeats; None before there was one."""
        return self._head

    def open_choices(self) -> list[int]:
        """Choices that began and are not finished."""
        return [index for index, state in sorted(self._choices.items()) if state.finish is None]


def _align_content(message: Json, delta: Json) -> None:
    """Some servers send text in pieces and thoughts as parts; with one part, all of it is parts."""
    before, more = message.get("content"), delta.get("content")
    if type(before) is list and type(more) is str:
        delta["content"] = [{"type": "text", "text": more}] if more else []
    elif type(more) is list and before and type(before) is not list:
        message["content"] = [{"type": "text", "text": grown(before)}]


def _grow_call(calls: dict[int, Json], part: Json) -> None:
    index = part.pop("index", None)
    at = index if type(index) is int else len(calls)
    known = calls.get(at)
    call_id = part.get("id")
    if known is not None and call_id and known.get("id") and call_id != known["id"]:
        # Some servers send every whole call under index 0; a new id is a new call.
        at = max(calls) + 1
        known = None
    if known is None:
        known = calls[at] = {}
    if known.get("id"):
        part.pop("id", None)
    for kind in ("function", "custom"):
        inner, before = part.get(kind), known.get(kind)
        if type(inner) is dict:
            if type(before) is dict and before.get("name"):
                inner.pop("name", None)
            for name in ("arguments", "input"):
                if name in inner and inner[name] is not None and type(inner[name]) is not str:
                    inner[name] = json_text(inner[name])
    grow(known, part)


class HeldChat(HeldStream[ChatFold]):
    """See `HeldStream`. A call of any choice holds all of them back."""

    __slots__ = ()
    fold = ChatFold

    def _begins_call(self, event: Json) -> bool:
        for choice in objects(event.get("choices")):
            delta = choice.get("delta")
            if type(delta) is dict and (objects(delta.get("tool_calls")) or delta.get("function_call")):
                return True
        return False

    def _rest(self, said: Said) -> bytes:
        head = self._passed.head
        if head is None:
            return compose_stream(said, self._request, self._created)
        reply = compose(said, self._request, self._created)
        writer = _Writer({n: v for n, v in head.items() if n not in ("usage", "obfuscation")}, self._request)
        given = {choice["index"]: choice["message"] for choice in self._passed.reply()["choices"]}
        waiting = self._passed.open_choices()
        out: list[bytes] = []
        for at, choice in _choices(reply):
            if at in waiting:
                waiting.remove(at)
                out += self._choice(writer, at, choice, given[at])
            elif at not in given:
                opening = {"role": "assistant", **_extras(choice["message"])}
                out += writer.choice(at, choice, opening)
        out += [writer.delta(at, {}, "stop") for at in waiting]
        return b"".join([*out, *writer.ending(reply)])

    def _choice(self, writer: _Writer, at: int, choice: Json, given: Json) -> Iterator[bytes]:
        before = text_at(given, "content") or text_at(given, "refusal")
        apart = PARAGRAPH if before and not before[-1].isspace() else ""
        return writer.choice(at, choice, _after(_extras(choice["message"]), given), apart)


def _after(extras: Json, given: Json) -> Json:
    """A message's extras behind those already given: clients join what has the same index."""
    last = max((index_of(entry) for entry in objects(given.get("reasoning_details"))), default=-1)
    details = extras.get("reasoning_details")
    if type(details) is list and last >= 0:
        moved = [
            {**entry, "index": index_of(entry) + last + 1} if type(entry) is dict else entry
            for entry in details
        ]
        extras = {**extras, "reasoning_details": moved}
    return extras


fold = ChatFold
hold = HeldChat


if TYPE_CHECKING:
    from gateway.shaping import chat

    _: Shaper = chat
