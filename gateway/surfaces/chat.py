"""Chat completions: a request into a `Step`, an answer into an `Answer`, a stream event by event.

Pure: bytes and parsed JSON in, values out. Everything the client sent is forwarded whether it is known
here or not; what is read is only what metering, lineage and the rules need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Answer, Item, Json, Media, Role, Step, Surface, Text, ToolCall, ToolDef
from gateway.errors import CallerError, ErrorContext, GatewayError, error_json
from gateway.surfaces.base import AnswerStream
from gateway.surfaces.beside import Beside
from gateway.surfaces.body import json_text, parse_object, with_fields
from gateway.surfaces.hosted import NAMELESS, SEARCH, leave_out_searches, searches, with_names
from gateway.surfaces.sse import EventSplitter, data_of

DONE = b"data: [DONE]\n\n"
MAX_CHOICES = 128
MAX_MODEL_CHARS = 256
_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,
}
_REASONING = ("reasoning", "reasoning_content", "thinking")
_SEARCHED = (SEARCH,)
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_TURN = frozenset(("role", "content", "refusal", "tool_calls", "tool_call_id", "function_call"))
"""Fields of a message that its item tells of."""
_DEFINITION = frozenset(("type", "name", "description", "parameters", "strict", "cache_control"))
"""Fields of a tool that its `ToolDef` tells of, or that hold no text."""
_AROUND = {kind: frozenset(("type", kind, "cache_control")) for kind in ("function", "custom")}
"""Fields of a tool around its definition, which hold no text."""
_SETTINGS = frozenset(
    (
        "model", "messages", "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls",
        "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p",
        "seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs",
        "reasoning_effort", "verbosity", "modalities", "audio", "service_tier", "store", "moderation",
        "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    )
)  # fmt: skip
"""Fields of a request that are read by themselves, or that hold no text but the API's own words, names of
what is told elsewhere and hashes of who asks. Every other one is taken to hold texts: servers have more."""


def parse(raw: bytes, *, max_depth: int = 128) -> Step:
    """The step that a request body asks for, or `CallerError` naming the field that is wrong."""
    body = parse_object(raw, max_depth=max_depth)
    model = body.get("model")
    if not isinstance(model, str) or not model or len(model) > MAX_MODEL_CHARS or not model.isprintable():
        raise _wrong("model", f"the name of a model, at most {MAX_MODEL_CHARS} printable characters", model)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of at least one message", messages)
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong("stream", "true or false", stream)
    choices = _count(body, "n", 1) or 1
    if choices > MAX_CHOICES:
        raise _wrong("n", f"at most {MAX_CHOICES}", choices)
    limits = [limit for name in ("max_completion_tokens", "max_tokens") if (limit := _count(body, name, 1))]
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "an object", options)
    beside = Beside()
    asked_for: tuple[str, ...] = ()
    if not body.keys() <= _SETTINGS:
        beside.rest(body, (), _SETTINGS)
        asked_for = _SEARCHED if searches(body) else ()
    turns = [_item(message, i, beside) for i, message in enumerate(messages)]
    tools = _tools(body, beside)
    if asked_for:
        tools = with_names(tools, asked_for)
    items = (*beside.item(), *turns)
    media_bytes = sum(media.size for item in items for media in item.media)
    return Step(
        surface=Surface.CHAT,
        model=model,
        stream=bool(stream),
        body=body,
        raw=raw,
        items=items,
        tools=tools,
        output_limit=max(limits) if limits else None,
        choices=choices,
        wants_usage=bool(options and options.get("include_usage")),
        text_bytes=max(0, len(raw) - media_bytes),
        references=_kept(messages) if any(item.media for item in turns) else (),
    )


def _wrong(param: str, expected: str, got: object) -> CallerError:
    shown = type(got).__name__ if isinstance(got, dict | list | str) else repr(got)
    return CallerError("invalid_request", f"'{param}': got {shown}, expected {expected}.", param=param)


def _kept(messages: list[Any]) -> tuple[str, ...]:
    """Ids of files that the provider keeps."""
    ids: list[str] = []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            file = part.get("file")
            file_id = file.get("file_id") if isinstance(file, dict) else None
            if isinstance(file_id, str) and file_id:
                ids.append(file_id)
    return tuple(dict.fromkeys(ids))


def _count(body: Mapping[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least:
        raise _wrong(name, f"a whole number of at least {least}", value)
    return value


def _item(message: Any, i: int, beside: Beside) -> Item:
    if type(message) is not dict:
        raise _wrong(f"messages[{i}]", "an object", message)
    role = message.get("role")
    if not isinstance(role, str):
        raise _wrong(f"messages[{i}].role", "a role", role)
    content = message.get("content")
    texts: list[Text] = []
    media: list[Media] = []
    if isinstance(content, str):
        if content:
            texts.append(Text(content, ("messages", i, "content")))
    elif isinstance(content, list):
        for j, part in enumerate(content):
            _part(part, i, j, texts, media)
    elif content is not None:
        raise _wrong(f"messages[{i}].content", "a string or a list of parts", content)
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        texts.append(Text(refusal, ("messages", i, "refusal")))
    if not message.keys() <= _TURN:
        _more(message, i, beside)
    call_id = message.get("tool_call_id")
    calls = message.get("tool_calls")
    legacy = message.get("function_call")
    return Item(
        role=_ROLES.get(role, Role.USER),
        texts=tuple(texts),
        media=tuple(media),
        calls=_calls(calls, legacy) if calls or legacy else (),
        call_id=call_id if isinstance(call_id, str) else None,
    )


def _more(message: Json, i: int, beside: Beside) -> None:
    """What a message holds besides its turn: the speaker's name, thoughts that some clients send back."""
    at = ("messages", i)
    for name, value in message.items():
        if name == "audio" and type(value) is dict:
            # An answer that was spoken, by its id.
            beside.media.append(_media("other", value.get("id"), "opaque"))
            beside.rest(value, (*at, name), ("id",))
        elif name not in _TURN:
            beside.read(value, (*at, name))


def _part(part: Any, i: int, j: int, texts: list[Text], media: list[Media]) -> None:
    if type(part) is not dict:
        raise _wrong(f"messages[{i}].content[{j}]", "an object", part)
    kind = part.get("type")
    if kind in _TEXT_PARTS:
        name = "refusal" if kind == "refusal" else "text"
        text = part.get(name)
        if not isinstance(text, str):
            raise _wrong(f"messages[{i}].content[{j}].{name}", "a string", text)
        texts.append(Text(text, ("messages", i, "content", j, name)))
    elif kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        detail = image.get("detail") if isinstance(image, dict) else None
        media.append(_media("image", url, detail if isinstance(detail, str) else None))
    elif kind == "input_audio":
        audio = part.get("input_audio")
        media.append(_media("audio", audio.get("data") if isinstance(audio, dict) else None, None))
    elif kind == "file":
        file = part.get("file")
        data = (file.get("file_data") or file.get("file_id")) if isinstance(file, dict) else None
        media.append(_media("file", data, None))
        # The model is told the name, and whoever sends a file chooses it.
        filename = file.get("filename") if isinstance(file, dict) else None
        if filename and isinstance(filename, str):
            texts.append(Text(filename, ("messages", i, "content", j, "file", "filename")))
    else:
        media.append(_media("other", orjson.dumps(part).decode(), None))


def _media(kind: Any, payload: Any, detail: str | None) -> Media:
    data = payload if isinstance(payload, str) else ""
    # The query of a signed URL changes from turn to turn; the picture does not.
    identity = data.split("?", 1)[0] if data.startswith("http") else data
    size = len(data) if not data.startswith("http") else 0
    return Media(kind, hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest(), size, detail)


def _calls(calls: Any, legacy: Any) -> tuple[ToolCall, ...]:
    out: list[ToolCall] = []
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            out.append(_call(call))
    if isinstance(legacy, dict):
        out.append(ToolCall("", str(legacy.get("name") or ""), str(legacy.get("arguments") or "")))
    return tuple(out)


def _call(call: Mapping[str, Any]) -> ToolCall:
    inner = call.get("function")
    arguments: Any
    if isinstance(inner, dict):
        arguments = inner.get("arguments")
    else:
        inner = call.get("custom")
        inner = inner if isinstance(inner, dict) else {}
        arguments = inner.get("input")
    if arguments is not None and not isinstance(arguments, str):
        arguments = json_text(arguments)
    return ToolCall(str(call.get("id") or ""), str(inner.get("name") or ""), arguments or "")


def _tools(body: Mapping[str, Any], beside: Beside) -> tuple[ToolDef, ...]:
    out: list[ToolDef] = []
    for key in ("tools", "functions"):
        offered = body.get(key)
        if offered is None:
            continue
        if not isinstance(offered, list):
            raise _wrong(key, "a list", offered)
        for i, tool in enumerate(offered):
            if type(tool) is not dict:
                raise _wrong(f"{key}[{i}]", "an object", tool)
            place = _place(tool) if key == "tools" else None
            inner = tool if place is None else tool[place]
            schema = inner.get("parameters")
            if not inner.keys() <= _DEFINITION or type(schema) is str:
                known = _DEFINITION if isinstance(schema, dict) else _DEFINITION - {"parameters"}
                beside.rest(inner, (key, i) if place is None else (key, i, place), known)
            if place is not None and not tool.keys() <= _AROUND[place]:
                beside.rest(tool, (key, i), _AROUND[place])
            out.append(
                ToolDef(
                    _tool_name(tool, key),
                    str(inner.get("description") or ""),
                    schema if isinstance(schema, dict) else None,
                )
            )
    return tuple(out)


def _place(tool: Json) -> str | None:
    """Where in a tool its definition stands: under its type, if that has one; None for the tool itself."""
    kind = tool.get("type")
    if type(kind) is str:
        if kind in _AROUND:
            return kind if type(tool.get(kind)) is dict else None
        if kind in NAMELESS:
            return None
    return next((place for place in _AROUND if type(tool.get(place)) is dict), None)


def withhold_tools(body: Json, names: Container[str]) -> Json:
    """The body without the definitions of some tools, and without a choice that would force one of them."""
    kept = dict(body)
    if SEARCH in names:
        leave_out_searches(kept)
    for key, *about in (("tools", "tool_choice", "parallel_tool_calls"), ("functions", "function_call")):
        offered = body.get(key)
        if isinstance(offered, list):
            kept[key] = [tool for tool in offered if _tool_name(tool, key) not in names]
            if not kept[key]:
                # An empty list is refused by providers, and so is a choice among no tools.
                for unused in (key, *about):
                    kept.pop(unused, None)
    for key, lists in (("tool_choice", "tools"), ("function_call", "functions")):
        choice = kept.get(key)
        if isinstance(choice, dict):
            if isinstance(allowed := choice.get("allowed_tools"), dict):
                listed = _listed(allowed.get("tools"))
                left = [tool for tool in listed if _tool_name(tool, lists) not in names]
                # With none of the allowed left, no other tool becomes allowed by that.
                kept[key] = {**choice, "allowed_tools": {**allowed, "tools": left}} if left else "none"
            elif _tool_name(choice, lists) in names:
                del kept[key]
    return kept


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _tool_name(tool: Any, key: str) -> str:
    """The name of an entry of `tools` or `functions`; a tool that the provider hosts has only a type."""
    if not isinstance(tool, dict):
        return ""
    place = _place(tool) if key == "tools" else None
    inner = tool if place is None else tool[place]
    kind = tool.get("type")
    nameless = key == "tools" and type(kind) is str and kind in NAMELESS
    return str((None if nameless else inner.get("name")) or kind or "")


def forward(
    step: Step,
    *,
    model: str,
    limit_field: str,
    output_limit: int | None,
    inject_usage: bool,
    withheld: Collection[str] = (),
) -> bytes:
    """The body to send upstream: the client's own, with the model's real name, the output limit when the
    gateway sets one, a stream's usage asked for, and the definitions of `withheld` tools left out."""
    body, raw = step.body, step.raw
    if withheld:
        body = withhold_tools(body, withheld)
        raw = orjson.dumps(body)
    changes: Json = {}
    if model != step.model:
        changes["model"] = model
    if output_limit is not None:
        if step.output_limit is None:
            changes[limit_field] = output_limit
        else:
            for name in ("max_completion_tokens", "max_tokens"):
                if step.body.get(name) is not None:
                    changes[name] = output_limit
    if inject_usage and not step.wants_usage:
        changes["stream_options"] = {**(step.body.get("stream_options") or {}), "include_usage": True}
    return with_fields(raw, body, changes)


def read_answer(reply: Mapping[str, Any]) -> Answer:
    """What a plain reply says. Tolerant: a provider's oddity is no reason to lose an answer."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    reasoning = ""
    finish: str | None = None
    cites = False
    choices = reply.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            continue
        refusal = message.get("refusal")
        texts.append(text_in(message.get("content")) + (refusal if isinstance(refusal, str) else ""))
        reasoning += reasoning_in(message)
        calls.extend(_calls(message.get("tool_calls"), message.get("function_call")))
        cites = cites or _cites(message)
        reason = choice.get("finish_reason")
        finish = reason if isinstance(reason, str) else finish
    response_id, model = reply.get("id"), reply.get("model")
    return Answer(
        texts=tuple(texts),
        reasoning=reasoning,
        calls=tuple(calls),
        finish_reason=finish,
        response_id=response_id if isinstance(response_id, str) else None,
        model=model if isinstance(model, str) else None,
        hosted=_SEARCHED if cites else (),
    )


def text_in(content: object) -> str:
    """The text of a message's or delta's content; some servers send parts."""
    if isinstance(content, str):
        return content
    texts = [part.get("text") for part in _listed(content) if isinstance(part, dict)]
    return "".join([text for text in texts if isinstance(text, str)])


def reasoning_in(message: Json) -> str:
    """What a message or delta tells of the model's thoughts. Some servers say it under two names, though it
    was generated once; others as parts of the content:
    https://docs.mistral.ai/studio-api/conversations/reasoning"""
    for name in _REASONING:
        if (told := message.get(name)) and isinstance(told, str):
            return told
    content = message.get("content")
    if not isinstance(content, list):
        return ""
    return "".join([text_in(part.get("thinking")) for part in content if isinstance(part, dict)])


def _cites(message: Json) -> bool:
    """Whether pages of the web are quoted: all that this API shows of a search."""
    notes = message.get("annotations")
    return isinstance(notes, list) and any(
        isinstance(note, dict) and note.get("type") == "url_citation" for note in notes
    )


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, list[Any]] = field(default_factory=dict)
    """By the delta's index: [id, name, argument pieces]."""
    legacy: list[Any] | None = None
    """The one call of the API's first form, likewise."""
    finish: str | None = None

    def in_order(self) -> list[list[Any]]:
        """The calls as a plain reply would tell them."""
        calls = [call for _, call in sorted(self.calls.items())]
        return [*calls, self.legacy] if self.legacy is not None else calls


class ChatStream:
    """One answer's stream. `feed` gives back what the client is to receive, whole events only.

    `strip_usage` removes what the gateway asked for and the client did not: the last chunk with the usage,
    and the `usage: null` of the others. Every other byte passes as it came.
    """

    __slots__ = (
        "_choices",
        "_cites",
        "_splitter",
        "_strip_usage",
        "done",
        "error",
        "model",
        "output_bytes",
        "response_id",
        "tools_called",
        "usage",
    )

    def __init__(self, *, strip_usage: bool) -> None:
        self._splitter = EventSplitter()
        self._strip_usage = strip_usage
        self._choices: dict[int, _Choice] = {}
        self._cites = False
        self.usage: Mapping[str, Any] | None = None
        """The last usage object seen, as the provider wrote it, with what stands beside it."""
        self.done = False
        self.error = False
        self.tools_called: set[str] = set()
        """Names of the tools called so far."""
        self.output_bytes = 0
        """UTF-8 bytes of text, reasoning and arguments received: what was generated so far."""
        self.model: str | None = None
        self.response_id: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Bytes for the client; empty while an event is incomplete."""
        return b"".join([self._event(event) for event in self._splitter.feed(chunk)])

    def _event(self, event: bytes) -> bytes:
        data = data_of(event)
        return event if data is None else self._data(data, event)

    def _data(self, data: bytes, event: bytes) -> bytes:
        if data.startswith(b"[DONE]"):
            self.done = True
            return event
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return event
        if type(chunk) is not dict:
            return event
        return self._chunk(chunk, event)

    def _chunk(self, chunk: Json, event: bytes) -> bytes:
        if chunk.get("error"):
            # Some providers tell of an error and of the usage until then in one chunk.
            self.error = True
        if self.response_id is None:
            response_id, model = chunk.get("id"), chunk.get("model")
            self.response_id = response_id if isinstance(response_id, str) else None
            self.model = model if isinstance(model, str) else None
        choices = chunk.get("choices")
        if isinstance(choices, list):
            for choice in choices:
                if type(choice) is dict:
                    self._delta(choice)
        usage = chunk.get("usage")
        if usage is not None or chunk.get("x_groq") is not None:
            beside = chunk.get("x_groq")
            if usage is not None or (type(beside) is dict and beside.get("usage") is not None):
                self.usage = {k: chunk[k] for k in ("usage", "x_groq", "service_tier") if k in chunk}
            if self._strip_usage and usage is not None and not choices and not chunk.get("error"):
                return b""
        elif self._strip_usage and "usage" in chunk:
            # Inside a JSON string the quotes would be escaped, so this can only be the key itself.
            stripped = event.replace(b',"usage":null', b"", 1)
            return stripped if len(stripped) < len(event) else event.replace(b', "usage": null', b"", 1)
        return event

    def _delta(self, choice: Json) -> None:
        index = choice.get("index")
        state = self._choices.get(index if type(index) is int else 0)
        if state is None:
            state = self._choices[index if type(index) is int else 0] = _Choice()
        delta = choice.get("delta")
        if type(delta) is dict:
            content = delta.get("content")
            if content and type(content) is str:
                state.text.append(content)
                self.output_bytes += len(content) if content.isascii() else len(content.encode())
            if len(delta) > 1 or type(content) is not str:
                self._rarer_deltas(state, delta)
        finish = choice.get("finish_reason")
        if finish is not None:
            state.finish = str(finish)

    def _rarer_deltas(self, state: _Choice, delta: Json) -> None:
        if "tool_calls" in delta or "function_call" in delta:
            self._tool_deltas(state, delta)
        if "annotations" in delta:
            self._cites = self._cites or _cites(delta)
        content = delta.get("content")
        told = text_in(content) if type(content) is list else ""
        if (refusal := delta.get("refusal")) and type(refusal) is str:
            told += refusal
        thought = reasoning_in(delta)
        if told:
            state.text.append(told)
        if thought:
            state.reasoning.append(thought)
        self.output_bytes += len(told.encode()) + len(thought.encode())

    def _tool_deltas(self, state: _Choice, delta: Json) -> None:
        deltas = delta.get("tool_calls")
        for part in deltas if isinstance(deltas, list) else ():
            if type(part) is not dict:
                continue
            index = part.get("index")
            position = index if type(index) is int else len(state.calls)
            call = _call(part)
            known = state.calls.get(position)
            if known is not None and call.id and known[0] and call.id != known[0]:
                # Some servers send every whole call under index 0; a new id is a new call.
                position = max(state.calls) + 1
                known = None
            if known is None:
                known = state.calls[position] = [call.id, call.name, []]
                self.tools_called.add(call.name)
            else:
                known[0] = known[0] or call.id
                known[1] = known[1] or call.name
            if call.arguments:
                known[2].append(call.arguments)
                self.output_bytes += len(call.arguments.encode())
            self.output_bytes += len(call.name)
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            known = state.legacy = state.legacy or ["", "", []]
            known[1] = known[1] or str(legacy.get("name") or "")
            self.tools_called.add(known[1])
            known[2].append(str(legacy.get("arguments") or ""))
            self.output_bytes += len(known[2][-1].encode())

    @property
    def finished(self) -> bool:
        """Every choice that began has its finish reason: what is left is usage and the terminator."""
        return bool(self._choices) and all(c.finish is not None for c in self._choices.values())

    @property
    def clean(self) -> bool:
        """The stream has ended as the provider meant it to; an error event of its own is such an end."""
        return (self.done or self.finished or self.error) and not self._splitter.pending.strip()

    @property
    def pending(self) -> bytes:
        """Bytes after the last whole event."""
        return self._splitter.pending

    def failure(self, error: GatewayError, context: ErrorContext, *, codex: bool) -> bytes:
        """An error after the first byte: the only ending that every client notices."""
        return b"data: %b\n\n%b" % (error_json(Surface.CHAT, error, context), DONE)

    def answer(self) -> Answer:
        """Everything received so far, as one answer."""
        calls = [
            ToolCall(str(call[0]), str(call[1]), "".join(call[2]))
            for _, choice in sorted(self._choices.items())
            for call in choice.in_order()
        ]
        finishes = [c.finish for _, c in sorted(self._choices.items()) if c.finish]
        return Answer(
            texts=tuple("".join(c.text) for _, c in sorted(self._choices.items())),
            reasoning="".join("".join(c.reasoning) for _, c in sorted(self._choices.items())),
            calls=tuple(calls),
            finish_reason=finishes[-1] if finishes else None,
            response_id=self.response_id,
            model=self.model,
            hosted=_SEARCHED if self._cites else (),
        )


def stream(*, strip_usage: bool) -> ChatStream:
    """The reader of one stream; see `ChatStream`."""
    return ChatStream(strip_usage=strip_usage)


if TYPE_CHECKING:
    _stream: AnswerStream = ChatStream(strip_usage=False)
