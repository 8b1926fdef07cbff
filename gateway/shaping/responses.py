"""What the gateway says on the Responses API; see `base`.

An answer is a list of items, told again as a whole by the last event of a stream. Items of the model go back
to the provider as they came: with their ids and what is encrypted in them, save where nobody keeps them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.domain import Json, ToolCall
from gateway.shaping.base import (
    Fold,
    HeldStream,
    Said,
    Shaper,
    answer_id,
    ensure_as_many,
    index_of,
    model_name,
    named,
    objects,
    overridden,
    text_at,
)
from gateway.surfaces.responses_answers import call_of
from gateway.translation.calls import made_id

_NO_USAGE: Json = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}
_ECHOED: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "auto",
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, with what it says when the request does not."""
_FORCEABLE = ("function", "custom")
_OFFERING = ("additional_tools", "tool_search_output")
"""Items of the input that bring tools."""
_BLANK = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""One black pixel: a screen that was not looked at has to be shown all the same."""


# -- requests ---------------------------------------------------------------------------------------


def with_note(body: Json, text: str) -> Json:
    """The request with a user's message more at its end."""
    return {**body, "input": [*_items(body.get("input")), _user_message(text)]}


def _user_message(text: str) -> Json:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _items(given: Any) -> list[Any]:
    """A request's input as items."""
    if isinstance(given, str):
        return [_user_message(given)] if given else []
    return list(given) if isinstance(given, list) else []


def without_tool_use(body: Json, final_tools: Sequence[str]) -> tuple[Json, str | None]:
    """See `Shaper`. Tools that the provider hosts cannot be used either."""
    kept = {name: value for name, value in body.items() if name != "tool_choice"}
    tools = objects(body.get("tools"))
    offers: dict[str, str] = {}
    for tool in tools:
        kind = text_at(tool, "type")
        if kind in _FORCEABLE and not tool.get("defer_loading"):
            offers.setdefault(text_at(tool, "name"), kind)
    forced = next((name for name in final_tools if name and name in offers), None)
    if forced is not None:
        kept["tool_choice"] = {"type": offers[forced], "name": forced}
        if kept.get("parallel_tool_calls"):
            kept["parallel_tool_calls"] = False
    elif tools or body.get("prompt") is not None or _brings_tools(body.get("input")):
        # A stored prompt may have tools that nobody sees here.
        kept["tool_choice"] = "none"
    else:
        kept.pop("parallel_tool_calls", None)
    return kept, forced


def _brings_tools(given: Any) -> bool:
    return any(item.get("type") in _OFFERING and item.get("tools") for item in objects(given))


def with_results(body: Json, turn: Json, results: Sequence[str]) -> Json:
    """See `Shaper`. A conversation has the turn already, so its results alone are sent."""
    output = _replayed(objects(turn.get("output")), stored=body.get("store") is not False)
    answers: list[Json] = []
    unsaid: list[str] = []
    count = 0
    for place, item in enumerate(output):
        if call_of(item) is None:
            continue
        if not text_at(item, "call_id") and item.get("type") in ("function_call", "custom_tool_call"):
            item = output[place] = {**item, "call_id": made_id(text_at(turn, "id"), count)}
        result = results[count] if count < len(results) else ""
        count += 1
        answer, told = _result(item, result)
        answers.append(answer)
        if not told:
            unsaid.append(result)
    ensure_as_many(results, count)
    answers += [_user_message(text) for text in unsaid]
    if body.get("conversation") is not None:
        return {**body, "input": answers}
    return {**body, "input": [*_items(body.get("input")), *output, *answers]}


def _replayed(output: list[Json], *, stored: bool) -> list[Json]:
    """Items as they are sent back. Nulls tell nothing, and some of them are refused."""
    items = [{name: value for name, value in item.items() if value is not None} for item in output]
    if stored or all(i.get("encrypted_content") for i in items if i.get("type") == "reasoning"):
        return items
    # Nobody keeps these thoughts, and by its id a call would be asked for the thought before it.
    return [
        {name: value for name, value in item.items() if name != "id" or item.get("call_id") is None}
        for item in items
        if item.get("type") != "reasoning" or item.get("encrypted_content")
    ]


def _result(call: Json, text: str) -> tuple[Json, bool]:
    """What answers a call, and whether it tells the text."""
    kind = text_at(call, "type")
    here = {"type": f"{kind}_output", "call_id": text_at(call, "call_id")}
    if kind == "mcp_approval_request":
        answer = {"type": "mcp_approval_response", "approval_request_id": text_at(call, "id")}
        return {**answer, "approve": False, "reason": text}, True
    if kind == "shell_call":
        outcome = {"type": "exit", "exit_code": 1}
        return {**here, "output": [{"stdout": "", "stderr": text, "outcome": outcome}]}, True
    if kind == "local_shell_call":
        call_id = text_at(call, "call_id") or text_at(call, "id")
        return {"type": here["type"], "id": call_id, "output": text}, True
    if kind == "apply_patch_call":
        return {**here, "status": "failed", "output": text}, True
    if kind == "computer_call":
        screen = {"type": "computer_screenshot", "image_url": _BLANK}
        checks = objects(call.get("pending_safety_checks"))
        more = {"acknowledged_safety_checks": checks} if checks else {}
        return {**here, "output": screen, **more}, False
    if kind == "tool_search_call":
        found = {"type": "tool_search_output", "execution": "client", "status": "completed", "tools": []}
        return {**found, "call_id": here["call_id"]}, False
    return {**here, "output": text}, True


# -- answers ----------------------------------------------------------------------------------------


def compose(said: Said, request: Json, created: int) -> Json:
    """See `Shaper`."""
    if said.reply is not None:
        return overridden(said, said.reply, "resp_", request, created)
    seed = answer_id("resp_", said, request, created)
    cut = said.finish == "length"
    echoed = {
        name: value if (value := request.get(name)) is not None else otherwise
        for name, otherwise in _ECHOED.items()
    }
    more: Json = {}
    conversation = request.get("conversation")
    if conversation is not None:
        more["conversation"] = conversation if type(conversation) is dict else {"id": conversation}
    return {
        "id": seed,
        "object": "response",
        "created_at": created,
        "status": "incomplete" if cut else "completed",
        "background": False,
        "completed_at": None if cut else created,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": model_name(said, request),
        "output": _said_items(said, request, seed),
        "usage": {**_NO_USAGE, **(said.usage or {})},
        "tools": [_echoed_tool(tool) for tool in objects(request.get("tools"))],
        **echoed,
        **more,
    }


def _echoed_tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def _said_items(said: Said, request: Json, seed: str) -> list[Json]:
    items: list[Json] = []
    if said.text or not said.calls:
        part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
        message: Json = {"id": _item_id("msg", seed, 0), "type": "message", "role": "assistant"}
        status = "incomplete" if said.finish == "length" else "completed"
        items.append({**message, "status": status, "content": [part]})
    customs = {
        text_at(tool, "name") for tool in objects(request.get("tools")) if tool.get("type") == "custom"
    }
    for call in said.calls:
        items.append(_said_call(call, seed, len(items), custom=call.name in customs))
    return items


def _said_call(call: ToolCall, seed: str, place: int, *, custom: bool) -> Json:
    kind, prefix, name = ("function_call", "fc", "arguments")
    if custom:
        kind, prefix, name = ("custom_tool_call", "ctc", "input")
    item = {"id": _item_id(prefix, seed, place), "type": kind, "status": "completed"}
    return {**item, "call_id": call.id, "name": call.name, name: call.arguments}


def _item_id(prefix: str, seed: str, place: int) -> str:
    return f"{prefix}_{hashlib.sha256(f'{seed} {place}'.encode()).hexdigest()[:40]}"


def compose_stream(said: Said, request: Json, created: int) -> bytes:
    """See `Shaper`."""
    reply = compose(said, request, created)
    begun = {**reply, "status": "in_progress", "output": [], "usage": None}
    begun |= dict.fromkeys(("completed_at", "error", "incomplete_details"))
    writer = _Writer(0)
    events = [writer.event(f"response.{kind}", response=begun) for kind in ("created", "in_progress")]
    for place, item in enumerate(objects(reply.get("output"))):
        events += writer.item(place, item)
    events.append(writer.event(f"response.{_status(reply)}", response=reply))
    return named(iter(events))


def _status(reply: Json) -> str:
    """How a response that is told ended; its last event is named so."""
    status = reply.get("status")
    return status if status in ("completed", "incomplete", "failed", "cancelled") else "completed"


class _Writer:
    """Writes items as events, and numbers them."""

    def __init__(self, first: int) -> None:
        self._number = first

    def event(self, kind: str, **facts: Any) -> Json:
        number = self._number
        self._number += 1
        return {"type": kind, "sequence_number": number, **facts}

    def item(self, place: int, item: Json) -> Iterator[Json]:
        kind = text_at(item, "type")
        yield self.event("response.output_item.added", output_index=place, item=_opened(item))
        here = {"item_id": text_at(item, "id"), "output_index": place}
        for field, part_kind in _LISTS.get(kind, ()):
            for index, part in enumerate(objects(item.get(field))):
                yield from self._part(part_kind, {**here, _INDEX[part_kind]: index}, part)
        if kind in _ARGUMENTS:
            stem, field = _ARGUMENTS[kind]
            text = text_at(item, field)
            if text:
                yield self.event(f"response.{stem}.delta", **here, delta=text)
            name = {"name": text_at(item, "name")} if kind == "function_call" else {}
            yield self.event(f"response.{stem}.done", **here, **name, **{field: text})
        yield self.done(place, item)

    def _part(self, part_kind: str, here: Json, part: Json) -> Iterator[Json]:
        stem, field = _PART_TEXTS.get(text_at(part, "type"), ("", ""))
        empty = {**part, field: ""} if field else dict(part)
        if "annotations" in part:
            empty["annotations"] = []
        yield self.event(f"response.{part_kind}.added", **here, part=empty)
        if field and (text := text_at(part, field)):
            logprobs: Json = {"logprobs": []} if stem == "output_text" else {}
            yield self.event(f"response.{stem}.delta", **here, delta=text, **logprobs)
        yield from self.part_done(part_kind, here, part)

    def part_done(self, part_kind: str, here: Json, part: Json) -> Iterator[Json]:
        """The end of a part whose beginning was told."""
        stem, field = _PART_TEXTS.get(text_at(part, "type"), ("", ""))
        if field:
            logprobs: Json = {"logprobs": []} if stem == "output_text" else {}
            yield self.event(f"response.{stem}.done", **here, **{field: text_at(part, field)}, **logprobs)
        yield self.event(f"response.{part_kind}.done", **here, part=part)

    def done(self, place: int, item: Json) -> Json:
        """The end of an item."""
        return self.event("response.output_item.done", output_index=place, item=item)


_LISTS = {
    "message": (("content", "content_part"),),
    "reasoning": (("summary", "reasoning_summary_part"), ("content", "content_part")),
}
"""By the type of an item: its lists of parts, and the stem of the events that tell of one."""
_INDEX = {"content_part": "content_index", "reasoning_summary_part": "summary_index"}
_PART_TEXTS = {
    "output_text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning_text", "text"),
    "summary_text": ("reasoning_summary_text", "text"),
}
"""By the type of a part: the stem of the events that tell its text, and where it stands."""
_ARGUMENTS = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
    "mcp_call": ("mcp_call_arguments", "arguments"),
    "code_interpreter_call": ("code_interpreter_call_code", "code"),
}
"""By the type of an item: the stem of the events that tell what the model wrote, and where it stands."""


def _opened(item: Json) -> Json:
    """An item as it is when it is added, before its content."""
    opened = dict(item)
    kind = text_at(item, "type")
    for field, _ in _LISTS.get(kind, ()):
        if type(item.get(field)) is list:
            opened[field] = []
    if kind in _ARGUMENTS:
        opened[_ARGUMENTS[kind][1]] = ""
    if "status" in item:
        opened["status"] = "in_progress"
    return opened


# -- streams ----------------------------------------------------------------------------------------

_ENDINGS = (
    "response.completed",
    "response.incomplete",
    "response.failed",
    "response.cancelled",
    "response.done",
)
_BEGINNINGS = ("response.created", "response.queued", "response.in_progress")
_TEXTS = {
    "output_text": ("message", "content", "output_text"),
    "refusal": ("message", "content", "refusal"),
    "reasoning_text": ("reasoning", "content", "reasoning_text"),
    "reasoning_summary_text": ("reasoning", "summary", "summary_text"),
    **{stem: (kind, field, "") for kind, (stem, field) in _ARGUMENTS.items()},
}
"""By the stem of events that tell a text: the item it belongs to, the field there, and the part's type."""
_ASKING = {
    "function_call_arguments": "function_call",
    "custom_tool_call_input": "custom_tool_call",
    "shell_call_command": "shell_call",
    "apply_patch_call_operation_diff": "apply_patch_call",
}
"""Stems of events inside of calls that the client may have to act on, with the type of their item."""


class _Output:
    """One output item: its copy as last told and, until it is done, the texts that came in pieces."""

    __slots__ = ("done", "item", "parts", "texts")

    def __init__(self, item: Json) -> None:
        self.item = item
        self.done = False
        self.texts: dict[tuple[str, int], list[str]] = {}
        """By the stem of their events and their index inside the item."""
        self.parts: dict[tuple[str, int], Json] = {}
        """Parts that were added and are not done, by the stem of their events and index."""

    def copy(self) -> _Output:
        other = _Output(self.item)
        other.done = self.done
        other.texts = {key: list(pieces) for key, pieces in self.texts.items()}
        other.parts = dict(self.parts)
        return other

    def whole(self) -> Json:
        """The item with its texts."""
        if self.done or not self.texts:
            return self.item
        item = dict(self.item)
        for (stem, _), pieces in sorted(self.texts.items()):
            _, field, part_type = _TEXTS[stem]
            text = "".join(pieces)
            if not part_type:
                item[field] = text
                continue
            name = _PART_TEXTS[part_type][1]
            part: Json = {"type": part_type, name: text}
            if part_type == "output_text":
                part |= {"annotations": [], "logprobs": []}
            item[field] = [*objects(item.get(field)), part]
        return item


class ResponsesFold(Fold):
    """See `Fold`."""

    __slots__ = ("_begun", "_final", "_outputs", "next_number")

    def __init__(self) -> None:
        self._begun: Json | None = None
        self._final: Json | None = None
        self._outputs: dict[int, _Output] = {}
        """By their place in the output."""
        self.next_number = 0
        """The sequence number of the next event."""

    def take(self, event: Json) -> None:
        number = event.get("sequence_number")
        if type(number) is int:
            self.next_number = max(self.next_number, number + 1)
        kind = text_at(event, "type")
        if kind in _BEGINNINGS or kind in _ENDINGS:
            response = event.get("response")
            if type(response) is dict:
                if self._begun is None:
                    self._begun = response
                if kind in _ENDINGS:
                    self._final = response
        elif kind.startswith("response.output_item."):
            self._item(event, done=kind.endswith(".done"))
        elif "_part." in kind:
            self._part(kind[9:].rpartition(".")[0], event, done=kind.endswith(".done"))
        elif kind.endswith((".delta", ".done")):
            stem, _, what = kind[9:].rpartition(".")
            if stem in _TEXTS:
                self._text(stem, event, done=what == "done")

    def _item(self, event: Json, *, done: bool) -> None:
        item = event.get("item")
        if type(item) is not dict:
            return
        place = event.get("output_index")
        if type(place) is not int:
            place = self._place_of(item.get("id"))
        known = self._outputs.get(place)
        if known is None or (known.done and not done):
            known = self._outputs[place] = _Output(item)
        known.item = item
        if done:
            known.done = True
            known.texts, known.parts = {}, {}

    def _place_of(self, item_id: Any) -> int:
        """Where an item stands whose events do not say it."""
        for place, output in self._outputs.items():
            if item_id is not None and output.item.get("id") == item_id:
                return place
        return self.next_place

    def known(self, event: Json) -> _Output | None:
        """The item that an event inside one belongs to."""
        place = event.get("output_index")
        if type(place) is not int:
            place = self._place_of(event.get("item_id"))
        return self._outputs.get(place)

    def _part(self, stem: str, event: Json, *, done: bool) -> None:
        output, part = self.known(event), event.get("part")
        if output is None or output.done or stem not in _INDEX or type(part) is not dict:
            return
        key = (stem, index_of(event, _INDEX[stem]))
        if done:
            output.parts.pop(key, None)
        else:
            output.parts[key] = part

    def _text(self, stem: str, event: Json, *, done: bool) -> None:
        kind, field, part_type = _TEXTS[stem]
        output = self.known(event)
        if output is None:
            place = event.get("output_index")
            output = _Output({"type": kind, "id": text_at(event, "item_id")})
            self._outputs[place if type(place) is int else self.next_place] = output
        if output.done:
            return
        index = index_of(event, "summary_index" if field == "summary" else "content_index")
        name = _PART_TEXTS[part_type][1] if part_type else field
        pieces = output.texts.setdefault((stem, index), [])
        if done:
            # The whole of it, for servers that send no deltas.
            pieces[:] = [text_at(event, name)] if text_at(event, name) else pieces
        else:
            pieces.append(text_at(event, "delta"))

    def reply(self) -> Json:
        response = self._final or self._begun or {}
        if self._final is not None and objects(self._final.get("output")):
            return dict(self._final)
        return {**response, "output": self.items()}

    def items(self) -> list[Json]:
        """The items so far, in order."""
        return [output.whole() for _, output in sorted(self._outputs.items())]

    def copy(self) -> ResponsesFold:
        other = ResponsesFold()
        other._begun, other._final = self._begun, self._final
        other._outputs = {place: output.copy() for place, output in self._outputs.items()}
        other.next_number = self.next_number
        return other

    @property
    def begun(self) -> Json | None:
        """The response object of the first event."""
        return self._begun

    @property
    def next_place(self) -> int:
        """The place of the next item."""
        return max(self._outputs, default=-1) + 1

    def close(self, writer: _Writer) -> Iterator[Json]:
        """What ends the items that are not done."""
        for place, output in sorted(self._outputs.items()):
            if output.done:
                continue
            item = output.whole()
            if "status" in item:
                item = {**item, "status": "completed"}
            for (stem, index), part in sorted(output.parts.items(), key=lambda entry: entry[0]):
                here = {"item_id": text_at(item, "id"), "output_index": place, _INDEX[stem]: index}
                yield from writer.part_done(stem, here, _grown_part(output, part, index))
            output.item, output.done = item, True
            yield writer.done(place, item)


def _grown_part(output: _Output, part: Json, index: int) -> Json:
    stem, field = _PART_TEXTS.get(text_at(part, "type"), ("", ""))
    pieces = output.texts.get((stem, index))
    return {**part, field: "".join(pieces)} if pieces else part


class HeldResponses(HeldStream[ResponsesFold]):
    """See `HeldStream`. Work of tools that the provider hosts passes.

    What is spliced ends with the response's id from the stream's beginning, since SDKs refuse a stream in
    which it changes. The provider keeps what was said last under the id of `Said.reply`.
    """

    __slots__ = ()
    fold = ResponsesFold

    def _begins_call(self, event: Json) -> bool:
        kind = text_at(event, "type")
        if kind.startswith("response.output_item."):
            item = event.get("item")
            return type(item) is dict and call_of(item) is not None
        if kind in _ENDINGS:
            response = event.get("response")
            return type(response) is dict and _asks(response)
        stem, _, what = kind[9:].rpartition(".")
        if stem not in _ASKING or what not in ("delta", "done"):
            return False
        # An item that passed is the provider's own call, if its type was told and is this one.
        known = self._passed.known(event)
        return known is None or known.item.get("type") != _ASKING[stem]

    def _rest(self, said: Said) -> bytes:
        passed = self._passed
        begun = passed.begun
        if begun is None and not passed.items():
            return compose_stream(said, self._request, self._created)
        begun = begun or {}
        first = passed.next_place
        if begun_id := text_at(begun, "id"):
            said = replace(said, id=begun_id)
        reply = compose(said, self._request, self._created)
        writer = _Writer(passed.next_number)
        events = list(passed.close(writer))
        told = passed.items()
        taken = {text_at(item, "id") for item in told} - {""}
        output = [
            _renamed(item, text_at(reply, "id"), place) if text_at(item, "id") in taken else item
            for place, item in enumerate(objects(reply.get("output")), first)
        ]
        for place, item in enumerate(output, first):
            events += writer.item(place, item)
        response = {**begun, **reply, "output": [*told, *output]}
        events.append(writer.event(f"response.{_status(reply)}", response=response))
        return named(iter(events))


def _renamed(item: Json, seed: str, place: int) -> Json:
    """An item of a server that counts its ids anew with each answer."""
    return {**item, "id": _item_id(text_at(item, "id").partition("_")[0], seed, place)}


def _asks(response: Json) -> bool:
    return any(call_of(item) is not None for item in objects(response.get("output")))


fold = ResponsesFold
hold = HeldResponses


if TYPE_CHECKING:
    from gateway.shaping import responses

    _: Shaper = responses
