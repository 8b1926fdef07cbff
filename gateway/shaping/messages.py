"""What the gateway says on the Messages API; see `base`.

The API wants tool results first in the message behind their calls, an answer's beginning (prefill) last, and
thoughts back just as they were signed. Everything here keeps to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.domain import Json
from gateway.metering.usage import merge_usage
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
from gateway.translation.calls import input_of, made_id, written

_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
_NO_USAGE = {"input_tokens": 0, "output_tokens": 0}
_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
"""Blocks whose input comes in deltas."""
_ENDINGS = ("stop_reason", "stop_sequence", "stop_details")


# -- requests ---------------------------------------------------------------------------------------


def with_note(body: Json, text: str) -> Json:
    """The request with a text more at the end of its last user message, behind the results there. What the
    assistant has begun to say stays last."""
    messages: list[Any] = body["messages"]
    end = len(messages)
    while end > 0 and messages[end - 1].get("role") == "assistant":
        end -= 1
    note = {"type": "text", "text": text}
    last = messages[end - 1] if end else {}
    if last.get("role") != "user":
        added = {"role": "user", "content": [note]}
        return {**body, "messages": [*messages[:end], added, *messages[end:]]}
    changed = {**last, "content": [*_blocks(last.get("content")), note]}
    return {**body, "messages": [*messages[: end - 1], changed, *messages[end:]]}


def _blocks(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content) if isinstance(content, list) else []


def without_tool_use(body: Json, final_tools: Sequence[str]) -> tuple[Json, str | None]:
    """See `Shaper`. Tools that the provider hosts cannot be used either."""
    kept = {name: value for name, value in body.items() if name != "tool_choice"}
    if not body.get("tools"):
        # A choice among no tools is refused; servers of an older form bring tools of their own.
        if servers := objects(body.get("mcp_servers")):
            kept["mcp_servers"] = [_disabled(server) for server in servers]
        return kept, None
    offered = {text_at(tool, "name") for tool in objects(body["tools"]) if _can_be_forced(tool)}
    thinking = body.get("thinking")
    thinks = type(thinking) is dict and thinking.get("type") not in (None, "disabled")
    # A model that thinks takes no forced tool.
    forced = None if thinks else next((name for name in final_tools if name and name in offered), None)
    if forced is None:
        kept["tool_choice"] = {"type": "none"}
    else:
        kept["tool_choice"] = {"type": "tool", "name": forced, "disable_parallel_tool_use": True}
    return kept, forced


def _can_be_forced(tool: Json) -> bool:
    return tool.get("type") in (None, "custom") and not tool.get("defer_loading")


def _disabled(server: Json) -> Json:
    settings = server.get("tool_configuration")
    settings = settings if type(settings) is dict else {}
    return {**server, "tool_configuration": {**settings, "enabled": False}}


def with_results(body: Json, turn: Json, results: Sequence[str]) -> Json:
    """See `Shaper`."""
    content: list[Json] = []
    answers: list[Json] = []
    seed = text_at(turn, "id")
    for block in objects(turn.get("content")):
        kind = block.get("type")
        if kind == "text" and not block.get("text"):
            # The provider says it, and refuses to read it.
            continue
        if kind == "tool_use":
            call_id = text_at(block, "id") or made_id(seed, len(answers))
            given = block.get("input")
            # Written and read again: at some depths it could be parsed and cannot be sent.
            given = input_of(given if type(given) is str else written({} if given is None else given))
            block = {**block, "id": call_id, "input": given}
            result = results[len(answers)] if len(answers) < len(results) else ""
            answers.append(
                {"type": "tool_result", "tool_use_id": call_id, "content": result, "is_error": True}
            )
        content.append(block)
    ensure_as_many(results, len(answers))
    if not content and (text := text_at(turn, "content")):
        content.append({"type": "text", "text": text})
    messages = list(body["messages"])
    if content:
        messages.append({"role": "assistant", "content": content})
    if answers:
        messages.append({"role": "user", "content": answers})
    return {**body, "messages": messages}


# -- answers ----------------------------------------------------------------------------------------


def compose(said: Said, request: Json, created: int) -> Json:
    """See `Shaper`."""
    if said.reply is not None:
        return overridden(said, said.reply, "msg_", request, created)
    content: list[Json] = []
    if said.text:
        content.append({"type": "text", "text": said.text})
    for call in said.calls:
        given = input_of(call.arguments)
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
    return {
        "id": answer_id("msg_", said, request, created),
        "type": "message",
        "role": "assistant",
        "model": model_name(said, request),
        "content": content,
        "stop_reason": _REASONS[said.finish],
        "stop_sequence": None,
        "usage": {**_NO_USAGE, **(said.usage or {})},
    }


def compose_stream(said: Said, request: Json, created: int) -> bytes:
    """See `Shaper`."""
    return named(_events(compose(said, request, created)))


def _events(reply: Json) -> Iterator[Json]:
    usage = {**_NO_USAGE, **_usage(reply)}
    begun = {"type": "message", "role": "assistant", **reply, "content": []}
    begun |= dict.fromkeys(_ENDINGS)
    yield {"type": "message_start", "message": {**begun, "usage": {**usage, "output_tokens": 0}}}
    yield from _rest_of(reply, 0)


def _usage(reply: Json) -> Json:
    usage = reply.get("usage")
    return {name: value for name, value in usage.items() if value is not None} if type(usage) is dict else {}


def _rest_of(reply: Json, first: int) -> Iterator[Json]:
    """The blocks from an index on, and the end."""
    blocks = objects(reply.get("content"))
    if not blocks and (text := text_at(reply, "content")):
        blocks = [{"type": "text", "text": text}]
    for index, block in enumerate(blocks, first):
        start, deltas = _pieces(block)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending: Json = {"stop_reason": reply.get("stop_reason") or "end_turn"}
    ending["stop_sequence"] = reply.get("stop_sequence")
    for name in ("stop_details", "container"):
        if reply.get(name) is not None:
            ending[name] = reply[name]
    told = {name: value for name, value in _usage(reply).items() if name not in _OF_THE_START}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 0, **told}}
    yield {"type": "message_stop"}


_OF_THE_START = ("cache_creation", "service_tier", "inference_geo", "speed")
"""Usage that streams tell with their first event alone."""


def _pieces(block: Json) -> tuple[Json, list[Json]]:
    """How a block starts, and its deltas."""
    kind = block.get("type")
    if kind == "text":
        start = {**block, "text": ""}
        deltas = [{"type": "text_delta", "text": text}] if (text := text_at(block, "text")) else []
        if type(citations := block.get("citations")) is list:
            start["citations"] = []
            deltas += [{"type": "citations_delta", "citation": citation} for citation in citations]
        return start, deltas
    if kind == "thinking":
        thought, signature = text_at(block, "thinking"), text_at(block, "signature")
        deltas = [{"type": "thinking_delta", "thinking": thought}] if thought else []
        deltas += [{"type": "signature_delta", "signature": signature}] if signature else []
        return {**block, "thinking": "", "signature": ""}, deltas
    if kind in _CALLS:
        given = block.get("input")
        arguments = given if type(given) is str else written({} if given is None else given)
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": arguments}]
    return block, []


# -- streams ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Block:
    index: int
    start: Json
    texts: dict[str, list[str]] = field(default_factory=dict)
    """By the field of the block that they belong to."""
    citations: list[Any] = field(default_factory=list)
    closed: bool = False

    def whole(self) -> Json:
        block = dict(self.start)
        for name, pieces in self.texts.items():
            if name == "input":
                block[name] = input_of("".join(pieces))
            elif name == "signature":
                block[name] = pieces[-1]
            else:
                block[name] = text_at(self.start, name) + "".join(pieces)
        if self.citations:
            block["citations"] = [*(self.start.get("citations") or ()), *self.citations]
        return block


_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("input", "partial_json"),
    "compaction_delta": ("content", "content"),
}
"""By a delta's type: the field of the block that it belongs to, and the name of its own."""
_STARTS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "compaction_delta": "compaction",
}
"""What block a delta belongs to whose start did not come. A call without a start is nobody's."""


class MessagesFold(Fold):
    """See `Fold`."""

    __slots__ = ("_at", "_blocks", "_ending", "_message", "_usage")

    def __init__(self) -> None:
        self._message: Json | None = None
        self._blocks: list[_Block] = []
        """In the order in which they came; some servers count no indexes."""
        self._at: dict[int, _Block] = {}
        """By index: the block that deltas go to."""
        self._ending: Json = {}
        self._usage: Json = {}

    def take(self, event: Json) -> None:
        kind = event.get("type")
        if kind == "content_block_delta":
            self._delta(index_of(event), event.get("delta"))
        elif kind == "content_block_start":
            block, index = event.get("content_block"), index_of(event)
            if type(block) is dict and not self._known(index, block):
                self._add(index, block)
        elif kind == "content_block_stop":
            if (known := self._at.get(index_of(event))) is not None:
                known.closed = True
        elif kind == "message_start":
            message = event.get("message")
            if type(message) is dict and self._message is None:
                self._message = message
                self._take(message.get("usage"))
        elif kind == "message_delta":
            delta = event.get("delta")
            if type(delta) is dict:
                self._ending |= {name: value for name, value in delta.items() if value is not None}
            self._take(event.get("usage"))

    def _known(self, index: int, block: Json) -> bool:
        """The start of a block has come twice."""
        known = self._at.get(index)
        if known is None:
            return False
        block_id = block.get("id")
        return known.start.get("id") == block_id if block_id else not known.closed and known.start == block

    def _add(self, index: int, start: Json) -> _Block:
        block = self._at[index] = _Block(index, start)
        self._blocks.append(block)
        return block

    def _take(self, usage: Any) -> None:
        if type(usage) is dict:
            merge_usage(self._usage, usage)

    def _delta(self, index: int, delta: Any) -> None:
        if type(delta) is not dict:
            return
        kind = delta.get("type")
        if type(kind) is not str:
            return
        block = self._at.get(index)
        if block is None and kind in _STARTS:
            block = self._add(index, {"type": _STARTS[kind]})
        if block is None:
            return
        if kind == "citations_delta":
            block.citations.append(delta.get("citation"))
        elif kind in _DELTAS:
            name, source = _DELTAS[kind]
            if piece := text_at(delta, source):
                block.texts.setdefault(name, []).append(piece)

    def reply(self) -> Json:
        content = [block.whole() for block in self._blocks]
        reply = {**(self._message or {}), **self._ending}
        reply |= {"type": "message", "role": "assistant", "content": content}
        if self._usage:
            reply["usage"] = dict(self._usage)
        return reply

    def copy(self) -> MessagesFold:
        other = MessagesFold()
        other._message = self._message
        other._ending = dict(self._ending)
        merge_usage(other._usage, self._usage)
        for block in self._blocks:
            copied = other._add(block.index, block.start)
            copied.texts = {name: list(pieces) for name, pieces in block.texts.items()}
            copied.citations = list(block.citations)
            copied.closed = block.closed
        return other

    @property
    def begun(self) -> bool:
        """The message has started."""
        return self._message is not None or bool(self._blocks)

    def open_blocks(self) -> list[int]:
        """Indexes of the blocks that are not closed."""
        return [index for index, block in sorted(self._at.items()) if not block.closed]

    @property
    def next_index(self) -> int:
        """The index of the next block."""
        return max(self._at, default=-1) + 1


class HeldMessages(HeldStream[MessagesFold]):
    """See `HeldStream`. Calls of tools that the provider hosts pass."""

    __slots__ = ()
    fold = MessagesFold

    def _begins_call(self, event: Json) -> bool:
        if event.get("type") != "content_block_start":
            return False
        block = event.get("content_block")
        return type(block) is dict and block.get("type") == "tool_use"

    def _rest(self, said: Said) -> bytes:
        reply = compose(said, self._request, self._created)
        passed = self._passed
        if not passed.begun:
            return named(_events(reply))
        closing = [{"type": "content_block_stop", "index": index} for index in passed.open_blocks()]
        return named(iter(closing)) + named(_rest_of(reply, passed.next_index))


fold = MessagesFold
hold = HeldMessages


if TYPE_CHECKING:
    from gateway.shaping import messages

    _: Shaper = messages
