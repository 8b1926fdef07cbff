"""OpenAI Responses, what comes back: a response into an `Answer`, a stream event by event.

Pure: bytes and parsed JSON in, values out. Requests carry the items of earlier answers, so what an item is to
the agent (a call to act on, the provider's own work) is told here and used by `responses`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Answer, Json, Surface, ToolCall
from gateway.errors import ErrorContext, GatewayError, error_body
from gateway.surfaces.base import AnswerStream
from gateway.surfaces.body import json_text
from gateway.surfaces.sse import EventSplitter, data_of

CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "shell_call": "action",
    "local_shell_call": "action",
    "apply_patch_call": "operation",
    "computer_call": "action",
    "tool_search_call": "arguments",
    "mcp_approval_request": "arguments",
}
"""Items that the agent has to act on, and where what it is asked for stands. A request for approval is one:
the run waits for its answer."""
_GENERATED = {
    "function_call": ("arguments",),
    "custom_tool_call": ("input",),
    "shell_call": ("action", "commands"),
    "local_shell_call": ("action", "command"),
    "apply_patch_call": ("operation", "diff"),
    "mcp_approval_request": ("arguments",),
    "mcp_call": ("arguments",),
    "code_interpreter_call": ("code",),
    "program": ("code",),
}
"""Where the text stands that the model wrote into an item: what streams tell in deltas."""
_HOSTED = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
    "mcp_call": "mcp",
    "tool_search_call": "tool_search",
    "shell_call": "shell",
    "program": "programmatic_tool_calling",
    "compaction": "compaction",
}
"""Items that show what the provider does on its own side, with the tool as requests name it."""


def read_answer(reply: Mapping[str, Any]) -> Answer:
    """What a response object says. Tolerant: a provider's oddity is no reason to lose an answer."""
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    conversation = reply.get("conversation")
    ids: list[Any] = [reply.get("id")]
    ids.append(conversation.get("id") if isinstance(conversation, dict) else conversation)
    containers: list[Any] = []
    hosted: list[str] = []
    for item in _output(reply):
        ids.append(item.get("id"))
        containers.append(container_of(item))
        if (call := call_of(item)) is not None:
            calls.append(call)
        elif item.get("type") != "message":
            reasoning += _written(item)
            hosted += _hosted(item)
        elif item.get("role", "assistant") == "assistant":
            texts += _written(item)
    response_id, model, status = reply.get("id"), reply.get("model"), reply.get("status")
    background = status in ("queued", "in_progress")
    finish = None if background or not isinstance(status, str) else status
    details = reply.get("incomplete_details")
    if finish == "incomplete" and isinstance(details, dict) and isinstance(details.get("reason"), str):
        finish = details["reason"]
    return Answer(
        texts=("".join(texts),),
        reasoning="".join(reasoning),
        calls=tuple(calls),
        finish_reason=finish,
        response_id=response_id if isinstance(response_id, str) else None,
        model=model if isinstance(model, str) else None,
        state=tuple(dict.fromkeys(i for i in (*ids, *containers) if isinstance(i, str) and i)),
        background=background,
        hosted=tuple(hosted),
    )


parse_stored = read_answer
"""A stored response, fetched later, says what the plain reply would have said."""


def call_of(item: Mapping[str, Any]) -> ToolCall | None:
    """The call that an item is, if the agent has to act on it; None for the provider's own tools.

    A tool without a name of its own is called by its type, as in the request's `tools`.
    """
    kind = item.get("type")
    field = CALLS.get(kind) if isinstance(kind, str) else None
    if field is None:
        return None
    if kind == "shell_call" and container_of(item) is not None:
        return None
    if kind == "tool_search_call" and not is_by_client(item):
        return None
    asked = item.get(field)
    if asked is None and kind == "computer_call":
        asked = item.get("actions")
    call_id = item.get("call_id") or item.get("id")
    name = item.get("name")
    return ToolCall(
        call_id if isinstance(call_id, str) else "",
        name if isinstance(name, str) and name else str(kind).removesuffix("_call"),
        _compact(asked),
    )


def _hosted(item: Mapping[str, Any]) -> tuple[str, ...]:
    """The provider's own tool that an item, which is nobody else's call, shows at work."""
    kind = item.get("type")
    tool = _HOSTED.get(kind) if isinstance(kind, str) else None
    if tool == "web_search":
        action = item.get("action")
        # An item that has only begun does not tell yet; opening a page is no search.
        if isinstance(action, dict) and action.get("type", "search") != "search":
            return ("open_page",)
    return (tool,) if tool is not None else ()


def _compact(value: Any) -> str:
    """Arguments as text. Fields that are null are left out, as clients do when they send them back."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if inner is not None}
    return json_text(value)


def is_by_client(item: Mapping[str, Any]) -> bool:
    """Whether a search for tools is the agent's to make; the provider's own has no call id."""
    execution = item.get("execution")
    return execution == "client" or (execution is None and isinstance(item.get("call_id"), str))


def container_of(item: Mapping[str, Any]) -> str | None:
    """The provider's container in which a call ran."""
    environment = item.get("environment")
    source = environment if isinstance(environment, dict) else item
    container = source.get("container_id")
    return container if isinstance(container, str) else None


def _output(reply: Mapping[str, Any]) -> list[Json]:
    output = reply.get("output")
    return [item for item in output if type(item) is dict] if isinstance(output, list) else []


def _written(item: Mapping[str, Any]) -> list[str]:
    """Every text of an output item that the model generated."""
    kind = item.get("type")
    if kind == "message":
        return _texts(item.get("content"))
    if kind == "reasoning":
        # The summary tells the same once more.
        return _texts(item.get("content")) or _texts(item.get("summary"))
    value: Any = item
    for name in _GENERATED.get(kind, ()) if isinstance(kind, str) else ():
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    found: list[str] = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            text = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
            if isinstance(text, str) and text:
                found.append(text)
    return found


def _bytes(texts: Iterable[str]) -> int:
    return sum(len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in texts)


_PARTS = {
    "output_text": ("message", "text"),
    "refusal": ("message", "refusal"),
    "audio.transcript": ("message", "transcript"),
    "reasoning_text": ("reasoning", "text"),
    "reasoning_summary_text": ("reasoning", "text"),
    "function_call_arguments": ("function_call", "arguments"),
    "custom_tool_call_input": ("custom_tool_call", "input"),
    "mcp_call_arguments": ("mcp_call", "arguments"),
    "code_interpreter_call_code": ("code_interpreter_call", "code"),
    "shell_call_command": ("shell_call", "command"),
    "apply_patch_call_operation_diff": ("apply_patch_call", "diff"),
}
"""By the stem of `response.X.delta` and `response.X.done`: the type of the item that the text belongs to, and
under which name the `.done` event tells the whole of it."""
_INDEXES = ("content_index", "summary_index", "command_index")
_BEGINNINGS = ("response.created", "response.queued")
_ENDINGS = frozenset(
    (
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        # How OpenRouter and some relays name every ending; the status tells which.
        "response.done",
    )
)
_READ = frozenset(
    name.encode()
    for name in (
        *_ENDINGS,
        *_BEGINNINGS,
        *(f"response.{stem}.done" for stem in _PARTS),
        "response.output_item.added",
        "response.output_item.done",
        "response.error",
        "error",
    )
)
_NOT_WRITTEN = frozenset((b"response.audio.delta", b"response.shell_call_output_content.delta"))


class _Output:
    """One output item of a stream: its copy as last told, and the texts that came in pieces."""

    __slots__ = ("counted", "item", "parts")

    def __init__(self, item: Json) -> None:
        self.item = item
        self.parts: dict[tuple[str, int], list[str]] = {}
        """By the events' stem and index inside the item."""
        self.counted = 0
        """Bytes of it that are in the stream's `output_bytes`."""

    def whole(self) -> Json:
        """The item with its texts, from whichever of its copies has more."""
        if not self.parts or _bytes(_written(self.item)) >= self.counted:
            return self.item
        texts = [(stem, "".join(pieces)) for (stem, _), pieces in sorted(self.parts.items())]
        stem = texts[0][0]
        kind, field = _PARTS[stem]
        kind = self.item.get("type") or kind
        joined = "".join(text for _, text in texts)
        if kind == "message":
            told: Json = {"content": [{"type": "output_text", "text": joined}]}
        elif kind == "reasoning":
            raw = [text for stem, text in texts if stem == "reasoning_text"]
            told = {"content": [{"type": "reasoning_text", "text": text} for text in raw]}
            told["summary"] = [{"type": "summary_text", "text": text} for _, text in texts if not raw]
        elif field == "command":
            told = {"action": {"commands": [text for _, text in texts]}}
        elif field == "diff":
            operation = self.item.get("operation")
            told = {"operation": {**(operation if isinstance(operation, dict) else {}), "diff": joined}}
        else:
            told = {field: joined}
        return {**self.item, "type": kind, **told}


class ResponsesStream:
    """One answer's stream. `feed` gives back every byte it is fed, whole events at a time.

    The same text comes in up to five copies (`.delta`, `.done`, the part, the item, the response). It is
    counted from the first that has it, and answered from the last that came. Items are told apart by id and,
    since some servers change ids from event to event, by their index.
    """

    __slots__ = (
        "_begun",
        "_by_id",
        "_by_index",
        "_final",
        "_last",
        "_outputs",
        "_splitter",
        "done",
        "error",
        "model",
        "output_bytes",
        "response_id",
        "tools_called",
        "usage",
    )

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._begun: Json | None = None
        """The response object of the first event."""
        self._final: Json | None = None
        """The response object of the last event."""
        self._outputs: list[_Output] = []
        self._by_id: dict[str, _Output] = {}
        self._by_index: dict[int, _Output] = {}
        self._last = b""
        """The last event that carried data."""
        self.usage: Mapping[str, Any] | None = None
        """The parts of the final response object that `read_responses_usage` reads."""
        self.done = False
        self.error = False
        self.tools_called: set[str] = set()
        """Names of the tools that the agent is asked to call so far."""
        self.output_bytes = 0
        """UTF-8 bytes of text, reasoning and arguments received: what was generated so far."""
        self.model: str | None = None
        self.response_id: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Bytes for the client; empty while an event is incomplete."""
        events = self._splitter.feed(chunk)
        for event in events:
            self._event(event)
        return b"".join(events)

    def _event(self, event: bytes) -> None:
        name = b""
        if event.startswith(b"event: ") and b"\r" not in event:
            end = event.find(b"\n")
            name = event[7:end]
            self._last = event
            if not (name.endswith(b".delta") or name in _READ) or name in _NOT_WRITTEN:
                # Most of the other events tell again what these told; they are not even parsed.
                return
            if event.startswith(b"data: ", end + 1) and event.count(b"\n") == 3 and event.endswith(b"\n\n"):
                self._data(event[end + 7 : -2], name)
                return
        data = data_of(event)
        if data is not None and not data.startswith(b"[DONE]"):
            self._last = event
            self._data(data, name)

    def _data(self, data: bytes, name: bytes) -> None:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if type(event) is not dict:
            return
        kind = event.get("type")
        if type(kind) is not str:
            kind = name.decode("utf-8", "replace")
        if kind.endswith(".delta"):
            self._delta(kind[9:-6], event)
        elif kind.startswith("response.output_item."):
            self._item(event)
        elif kind in _ENDINGS:
            self._end(kind, event.get("response"))
        elif kind in _BEGINNINGS:
            self._begin(event.get("response"))
        elif kind.endswith(".done"):
            self._done(kind[9:-5], event)
        elif kind in ("error", "response.error") or event.get("error"):
            self.error = True

    def _begin(self, response: Any) -> None:
        if type(response) is not dict:
            return
        if self._begun is None:
            self._begun = response
        response_id, model = response.get("id"), response.get("model")
        if self.response_id is None and type(response_id) is str:
            self.response_id = response_id
        if self.model is None and type(model) is str:
            self.model = model

    def _end(self, kind: str, response: Any) -> None:
        self.done = True
        self.error = self.error or kind == "response.failed"
        if type(response) is not dict:
            return
        begun = self._begun
        self._begin(response)
        # What the client has not received must not be told by an error after all.
        self._begun = begun
        self._final = response
        self.error = self.error or response.get("status") == "failed"
        output = _output(response)
        for item in output:
            self._called(item)
        self.output_bytes = max(self.output_bytes, sum(_bytes(_written(item)) for item in output))
        if response.get("usage") is not None:
            names = ("usage", "tool_usage", "service_tier", "tools")
            self.usage = {name: response[name] for name in names if name in response}
            self.usage["output"] = output or self._folded()

    def _called(self, item: Json) -> None:
        if (call := call_of(item)) is not None:
            self.tools_called.add(call.name)

    def _item(self, event: Json) -> None:
        """`output_item.added` or `.done`."""
        item = event.get("item")
        if type(item) is not dict:
            return
        item_id, index = item.get("id"), event.get("output_index")
        known = self._by_id.get(item_id) if type(item_id) is str else None
        if known is None and event.get("type") != "response.output_item.added" and type(index) is int:
            known = self._by_index.get(index)
            if known is not None and known.item.get("type") != item.get("type"):
                known = None
        if known is None:
            known = self._open(item, item_id, index)
        known.item = item
        self._called(item)
        self._count(known, _bytes(_written(item)))

    def _open(self, item: Json, item_id: Any, index: Any) -> _Output:
        opened = _Output(item)
        self._outputs.append(opened)
        if type(item_id) is str:
            self._by_id[item_id] = opened
        if type(index) is int:
            self._by_index[index] = opened
        return opened

    def _count(self, output: _Output, size: int) -> None:
        """Count what an item is now known to have in all."""
        if size > output.counted:
            self.output_bytes += size - output.counted
            output.counted = size

    def _output_of(self, event: Json, stem: str) -> _Output:
        item_id, index = event.get("item_id"), event.get("output_index")
        found = self._by_id.get(item_id) if type(item_id) is str else None
        if found is not None:
            return found
        kind = _PARTS[stem][0]
        if type(index) is int:
            found = self._by_index.get(index)
        elif item_id is None and self._outputs:
            found = self._outputs[-1]
        if found is None or found.item.get("type") != kind:
            return self._open({"type": kind}, item_id, index)
        return found

    def _delta(self, stem: str, event: Json) -> None:
        delta = event.get("delta")
        if type(delta) is not str or not delta or stem == "audio":
            return
        size = len(delta) if delta.isascii() else len(delta.encode("utf-8", "replace"))
        self.output_bytes += size
        if stem not in _PARTS:
            return
        output = self._output_of(event, stem)
        output.counted += size
        pieces = output.parts.get(key := (stem, _index(event)))
        if pieces is None:
            output.parts[key] = [delta]
        else:
            pieces.append(delta)

    def _done(self, stem: str, event: Json) -> None:
        """The whole of a text, for servers that send no deltas of it."""
        told = event.get(_PARTS[stem][1]) if stem in _PARTS else None
        if type(told) is not str or not told:
            return
        output = self._output_of(event, stem)
        key = (stem, _index(event))
        before = _bytes(output.parts.get(key, ()))
        output.parts[key] = [told]
        self._count(output, output.counted - before + _bytes((told,)))

    def _folded(self) -> list[Json]:
        return [output.whole() for output in self._outputs]

    @property
    def finished(self) -> bool:
        """The answer is complete; its usage came with it."""
        return self.done

    @property
    def clean(self) -> bool:
        """The stream has ended as the provider meant it to; an error event of its own is such an end."""
        return (self.done or self.error) and not self._splitter.pending.strip()

    @property
    def pending(self) -> bytes:
        """Bytes after the last whole event."""
        return self._splitter.pending

    def answer(self) -> Answer:
        """Everything received so far, as one answer."""
        response = self._final or self._begun or {}
        if not _output(response):
            response = {**response, "output": self._folded()}
        answer = read_answer(response)
        return replace(
            answer,
            response_id=self.response_id,
            model=self.model,
            background=not self.done and response.get("background") is True,
        )

    def failure(self, error: GatewayError, context: ErrorContext, *, codex: bool) -> bytes:
        """`response.failed`, which every client but the raw SDKs takes for an error, and for those the bare
        error object at which they raise.

        Codex reads the first alone. It stops on a few codes only and asks five times again on all others:
        https://github.com/openai/codex/blob/main/codex-rs/codex-api/src/sse/responses.rs
        """
        told = error_body(Surface.RESPONSES, error, context)
        failed = dict(told["error"])
        if codex and (error.retry == "never" or error.status == 400):
            failed["code"] = "insufficient_quota"
        response = {
            "id": self.response_id or f"resp_{context.request_id}",
            "created_at": 0,
            "model": self.model or "",
            **_UNKNOWN,
            **(self._begun or {}),
            "status": "failed",
            "error": failed,
            "output": [],
        }
        event = {
            "type": "response.failed",
            "sequence_number": self._next_number(),
            "response": response,
        }
        ending = b"event: response.failed\ndata: %b\n\n" % orjson.dumps(event)
        return ending if codex else b"%bdata: %b\n\n" % (ending, orjson.dumps(told))

    def _next_number(self) -> int:
        try:
            last = orjson.loads(data_of(self._last) or b"{}")
        except orjson.JSONDecodeError:
            return 0
        number = last.get("sequence_number") if type(last) is dict else None
        return number + 1 if type(number) is int else 0


def _index(event: Json) -> int:
    for name in _INDEXES:
        if type(index := event.get(name)) is int:
            return index
    return 0


_UNKNOWN: Json = {
    "object": "response",
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "usage": None,
}
"""What SDKs want of every response object, for a stream that broke off before it told."""


def stream(*, strip_usage: bool) -> ResponsesStream:
    """The reader of one stream. Usage is no event of its own here, so nothing is ever to be stripped."""
    return ResponsesStream()


if TYPE_CHECKING:
    _stream: AnswerStream = ResponsesStream()
