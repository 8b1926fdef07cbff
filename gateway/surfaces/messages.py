"""Anthropic messages: a request into a `Step`, an answer into an `Answer`, a stream event by event.

Pure: bytes and parsed JSON in, values out. Everything the client sent is forwarded whether it is known
here or not. How content becomes items:

    system              a SYSTEM item, and one of its own for Claude Code's billing header
    user message        a TOOL item per `tool_result`, a USER item for all the rest
    assistant message   an ASSISTANT item: its texts and its `tool_use` calls, just what an `Answer` holds, so
                        that an answer is known again when it comes back
    hosted tools        their calls and results (also `compaction` and blocks not known here) are a TOOL item
                        without a call id behind the message: seen by guards, no part of what the model said
    thinking            in no item, since some clients replay it and others drop it; see `thinking`
    other fields        texts of settings and of tools' definitions are one aside in front; see `beside`

Ids, ciphertext and the `citations` of a text are no texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson

from gateway.domain import Answer, Item, Json, Media, Role, Step, Surface, Text, ToolCall, ToolDef
from gateway.errors import CallerError, ErrorContext, GatewayError, error_json
from gateway.metering.usage import merge_usage
from gateway.surfaces.base import AnswerStream
from gateway.surfaces.beside import Beside
from gateway.surfaces.body import json_text, parse_object, with_fields
from gateway.surfaces.hosted import SEARCH, leave_out_searches, searches, with_names
from gateway.surfaces.sse import EventSplitter, data_of

MAX_MODEL_CHARS = 256
_BILLING_HEADER = "x-anthropic-billing-header"
"""How Claude Code's first system block begins; it holds a nonce per request."""
_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM}
_SILENT = ("thinking", "redacted_thinking", "fallback")
"""Blocks of an assistant message that no item tells of. A `fallback` only marks where another model took
over."""
_HOSTED = ("server_tool_use", "mcp_tool_use", "mcp_tool_listing", "compaction")
"""With every `…_tool_result`: blocks that the provider made besides the model's answer."""
_ALL_TEXT = ("search_result", "tool_reference", "browser_state", "tool_addition", "tool_removal")
"""Blocks of which every string is read."""
_NOT_TEXT = frozenset(
    (
        "type",
        "id",
        "tool_use_id",
        "file_id",
        "caller",
        "cache_control",
        "citations",
        "signature",
        "encrypted_content",
        "encrypted_index",
        "encrypted_stdout",
        "error_code",
        "stop_reason",
        "media_type",
        "file_type",
    )
)
_DEFINITION = frozenset(
    ("type", "name", "description", "input_schema", "cache_control", "strict", "mcp_server_name", "model")
)
"""Fields of a tool that its `ToolDef` tells of, or that hold no text."""
_SETTINGS = frozenset(
    (
        "model", "messages", "system", "max_tokens", "stream", "temperature", "top_p", "top_k", "tools",
        "tool_choice", "thinking", "service_tier", "speed", "inference_geo", "container", "thread", "betas",
        "cache_control", "fallbacks", "fallback_credit_token", "user_profile_id", "workspace_id",
    )
)  # fmt: skip
"""Fields of a request that are read by themselves, or that hold no text but the API's own words and names of
what is told elsewhere. Every other one is taken to hold texts."""
_NOT_BESIDE = ("authorization_token", "effort")
_FREE = ("input", "input_schema", "definition")
"""Below these keys the names are not Anthropic's, so that every one may hold a text."""
_NOTHING: frozenset[str] = frozenset()
_TOOLSET = "mcp_toolset"

Pointer = tuple[str | int, ...]


def parse(raw: bytes, *, max_depth: int = 128) -> Step:
    """The step that a request body asks for, or `CallerError` naming the field that is wrong."""
    body = parse_object(raw, max_depth=max_depth)
    limit = body.get("max_tokens")
    # Zero is how a client has the prompt cached without an answer:
    # https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pre-warming-the-cache
    if type(limit) is not int or limit < 0:
        raise _wrong(("max_tokens",), "a whole number of at least 0", limit)
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong(("stream",), "true or false", stream)
    return _step(raw, body, stream=bool(stream), output_limit=limit)


def parse_count(raw: bytes, *, max_depth: int = 128) -> Step:
    """The body of `/v1/messages/count_tokens`: the same, but nothing is generated and nothing streamed."""
    return _step(raw, parse_object(raw, max_depth=max_depth), stream=False, output_limit=None)


def _step(raw: bytes, body: Json, *, stream: bool, output_limit: int | None) -> Step:
    model = body.get("model")
    if not isinstance(model, str) or not model or len(model) > MAX_MODEL_CHARS or not model.isprintable():
        raise _wrong(
            ("model",), f"the name of a model, at most {MAX_MODEL_CHARS} printable characters", model
        )
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong(("messages",), "a list of at least one message", messages)
    reader = _Reader()
    reader.system(body.get("system"))
    for i, message in enumerate(messages):
        reader.message(message, i)
    tools = (*_tools(body.get("tools"), reader), *reader.tools)
    if not body.keys() <= _SETTINGS:
        reader.beside.rest(body, (), _SETTINGS, _NOT_BESIDE)
        reader.more_tools += _servers(body.get("mcp_servers"))
        if searches(body):
            reader.more_tools.append(SEARCH)
    if reader.more_tools:
        tools = with_names(tools, reader.more_tools)
    references = [*_container(body.get("container")), *reader.references]
    items = (*reader.beside.item(), *reader.items)
    media_bytes = sum(media.size for item in items for media in item.media)
    return Step(
        surface=Surface.MESSAGES,
        model=model,
        stream=stream,
        body=body,
        raw=raw,
        items=items,
        tools=tools,
        output_limit=output_limit,
        choices=1,
        wants_usage=True,
        text_bytes=max(0, len(raw) - media_bytes),
        state=_thread(body.get("thread")),
        references=tuple(dict.fromkeys(references)),
    )


def _wrong(at: Pointer, expected: str, got: object) -> CallerError:
    param = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in at).removeprefix(".")
    shown = type(got).__name__ if isinstance(got, dict | list | str) else repr(got)
    return CallerError("invalid_request", f"'{param}': got {shown}, expected {expected}.", param=param)


def _string(source: Mapping[str, Any], name: str, at: Pointer) -> str:
    value = source.get(name)
    if not isinstance(value, str):
        raise _wrong((*at, name), "a string", value)
    return value


def _thread(thread: Any) -> tuple[str, ...]:
    """The message that a thread kept by the provider goes on from."""
    if thread is None:
        return ()
    if type(thread) is not dict:
        raise _wrong(("thread",), "an object", thread)
    if thread.get("previous_message_id") is None:
        return ()
    return (_string(thread, "previous_message_id", ("thread",)),)


def _container(container: Any) -> Iterator[str]:
    """Ids of the container to run code in and the skills to load there. Anthropic's own are everybody's."""
    if container is None or isinstance(container, str):
        if container:
            yield container
        return
    if type(container) is not dict:
        raise _wrong(("container",), "an id or an object", container)
    if container.get("id") is not None:
        yield _string(container, "id", ("container",))
    skills = container.get("skills")
    for skill in skills if isinstance(skills, list) else ():
        if isinstance(skill, dict) and skill.get("type") != "anthropic":
            skill_id = skill.get("skill_id")
            if isinstance(skill_id, str):
                yield skill_id


def _tools(offered: Any, reader: _Reader) -> list[ToolDef]:
    if offered is None:
        return []
    if not isinstance(offered, list):
        raise _wrong(("tools",), "a list", offered)
    tools: list[ToolDef] = []
    for i, tool in enumerate(offered):
        if type(tool) is not dict:
            raise _wrong(("tools", i), "an object", tool)
        tools.append(_tool(tool))
        reader.more_tools += _names(tool)[1:]
        if not tool.keys() <= _DEFINITION:
            reader.beside.rest(tool, ("tools", i), _DEFINITION, ("cache_control",))
    return tools


def _tool(tool: Mapping[str, Any]) -> ToolDef:
    schema = tool.get("input_schema")
    return ToolDef(
        _tool_name(tool), str(tool.get("description") or ""), schema if isinstance(schema, dict) else None
    )


def _tool_name(tool: Any) -> str:
    """Its name; sets of tools have only a type."""
    if not isinstance(tool, dict):
        return ""
    kind = tool.get("type")
    return _TOOLSET if kind == _TOOLSET else str(tool.get("name") or kind or "")


def _names(tool: Any) -> tuple[str, ...]:
    """All that an offer of tools, or a reference to them, goes by: an MCP server's by their type and by the
    server's name."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind == _TOOLSET:
        return _named_server(tool.get("mcp_server_name"))
    if kind == "mcp_toolset_reference" or kind == "mcp_tool_reference":
        return _named_server(tool.get("server_name"))
    return (_tool_name(tool),)


def _named_server(name: Any) -> tuple[str, ...]:
    return (_TOOLSET, name) if isinstance(name, str) and name else (_TOOLSET,)


def _servers(servers: Any) -> list[str]:
    """What the servers of `mcp_servers` go by. In the older form of the API they need no toolset to be used:
    https://platform.claude.com/docs/en/agents-and-tools/mcp-connector"""
    if servers is None:
        return []
    if not isinstance(servers, list):
        raise _wrong(("mcp_servers",), "a list", servers)
    names: list[str] = []
    for i, server in enumerate(servers):
        if type(server) is not dict:
            raise _wrong(("mcp_servers", i), "an object", server)
        names += _named_server(server.get("name"))
    return names


@dataclass(slots=True)
class _Parts:
    texts: list[Text] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)


class _Reader:
    """Makes the items of one request; `references` and `tools` are what is found in them on the way."""

    __slots__ = ("beside", "items", "more_tools", "references", "tools")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.references: list[str] = []
        """Files that the provider keeps."""
        self.tools: list[ToolDef] = []
        """Tools that are defined in the middle of the conversation."""
        self.more_tools: list[str] = []
        """Further names by which tools are known, and those of tools that nothing defines."""
        self.beside = Beside()

    def system(self, system: Any) -> None:
        """The system prompt; the billing header does not join the rest, since it is never the same."""
        parts = _Parts()
        self._content(system, ("system",), parts)
        texts = parts.texts
        headers = 0
        while headers < len(texts) and texts[headers].text.startswith(_BILLING_HEADER):
            self.items.append(Item(Role.SYSTEM, (texts[headers],)))
            headers += 1
        if len(texts) > headers or parts.media:
            self.items.append(Item(Role.SYSTEM, tuple(texts[headers:]), tuple(parts.media)))

    def message(self, message: Any, i: int) -> None:
        """One entry of `messages`."""
        if type(message) is not dict:
            raise _wrong(("messages", i), "an object", message)
        role = message.get("role")
        if not isinstance(role, str):
            raise _wrong(("messages", i, "role"), "a role", role)
        speaker = _ROLES.get(role, Role.USER)
        content = message.get("content")
        at: Pointer = ("messages", i, "content")
        if isinstance(content, str):
            self.items.append(Item(speaker, (Text(content, at),) if content else ()))
        elif isinstance(content, list):
            self._blocks(content, at, speaker)
        elif content is None and speaker is Role.SYSTEM:
            # A system message may carry settings alone.
            self.items.append(Item(speaker))
        else:
            raise _wrong(at, "a string or a list of blocks", content)

    def _blocks(self, blocks: list[Any], at: Pointer, speaker: Role) -> None:
        said = _Parts()
        texts = said.texts
        hosted: _Parts | None = None
        calls: list[ToolCall] = []
        first = len(self.items)
        for j, block in enumerate(blocks):
            if type(block) is not dict:
                raise _wrong((*at, j), "an object", block)
            kind = block.get("type")
            if kind == "text" and type(text := block.get("text")) is str:
                if text:
                    texts.append(Text(text, (*at, j, "text")))
            elif kind == "tool_use":
                calls.append(_call(block))
            elif kind == "tool_result":
                self.items.append(self._result(block, (*at, j)))
            elif kind in _SILENT and speaker is Role.ASSISTANT:
                continue
            elif kind in _HOSTED or (isinstance(kind, str) and kind.endswith("_tool_result")):
                hosted = hosted or _Parts()
                self._every_text(block, (*at, j), hosted, _NOT_TEXT)
            elif speaker is Role.ASSISTANT and kind != "text":
                hosted = hosted or _Parts()
                self._part(block, (*at, j), hosted)
            else:
                self._part(block, (*at, j), said)
        results = len(self.items) > first
        if texts or said.media or calls or not results:
            # What stands beside results stands behind them, as the API demands.
            place = first if blocks and blocks[0].get("type") != "tool_result" else len(self.items)
            self.items.insert(place, Item(speaker, tuple(texts), tuple(said.media), tuple(calls)))
        if hosted is not None and (hosted.texts or hosted.media):
            self.items.append(Item(Role.TOOL, tuple(hosted.texts), tuple(hosted.media), aside=True))

    def _result(self, block: Json, at: Pointer) -> Item:
        parts = _Parts()
        self._content(block.get("content"), (*at, "content"), parts)
        call_id = block.get("tool_use_id")
        return Item(
            Role.TOOL,
            tuple(parts.texts),
            tuple(parts.media),
            call_id=call_id if isinstance(call_id, str) else None,
            failed=block.get("is_error") is True,
        )

    def _content(self, content: Any, at: Pointer, into: _Parts) -> None:
        if isinstance(content, str):
            if content:
                into.texts.append(Text(content, at))
        elif isinstance(content, list):
            for j, part in enumerate(content):
                if type(part) is dict and part.get("type") == "text" and type(part.get("text")) is str:
                    if part["text"]:
                        into.texts.append(Text(part["text"], (*at, j, "text")))
                else:
                    self._part(part, (*at, j), into)
        elif content is not None:
            raise _wrong(at, "a string or a list of blocks", content)

    def _part(self, part: Any, at: Pointer, into: _Parts) -> None:
        """A block that is more than a text; texts, which nearly all are, are read where they stand."""
        if type(part) is not dict:
            raise _wrong(at, "an object", part)
        kind = part.get("type")
        if kind == "text":
            raise _wrong((*at, "text"), "a string", part.get("text"))
        if kind == "image" or kind == "document":
            self._sourced(part, at, into)
        elif kind == "container_upload":
            file_id = _string(part, "file_id", at)
            self.references.append(file_id)
            into.media.append(_media("file", file_id, 0))
        elif kind in _ALL_TEXT:
            self._every_text(part, at, into, _NOT_TEXT)
            if kind == "tool_addition" and (definition := _definition(part)) is not None:
                self.tools.append(_tool(definition))
                self.more_tools += _names(definition)[1:]
        else:
            into.media.append(_other(part))

    def _sourced(self, part: Json, at: Pointer, into: _Parts) -> None:
        """An image or a document."""
        kind: Literal["image", "file"] = "image" if part["type"] == "image" else "file"
        for name in ("title", "context"):
            text = part.get(name)
            if text and isinstance(text, str):
                into.texts.append(Text(text, (*at, name)))
        source = part.get("source")
        at = (*at, "source")
        if type(source) is not dict:
            raise _wrong(at, "an object", source)
        form = source.get("type")
        if form == "base64":
            data = _string(source, "data", at)
            into.media.append(_media(kind, data, len(data)))
        elif form == "text":
            if text := _string(source, "data", at):
                into.texts.append(Text(text, (*at, "data")))
        elif form == "url":
            # The query of a signed URL changes from turn to turn; what it leads to does not.
            into.media.append(_media(kind, _string(source, "url", at).split("?", 1)[0], 0))
        elif form == "file":
            file_id = _string(source, "file_id", at)
            self.references.append(file_id)
            into.media.append(_media(kind, file_id, 0))
        elif form == "content":
            self._content(source.get("content"), (*at, "content"), into)
        else:
            into.media.append(_other(source))

    def _every_text(self, value: Any, at: Pointer, into: _Parts, but: frozenset[str]) -> None:
        """Every string inside a value, save below the keys `but`; images and documents as everywhere."""
        if isinstance(value, str):
            if value:
                into.texts.append(Text(value, at))
        elif type(value) is list:
            for j, inner in enumerate(value):
                self._every_text(inner, (*at, j), into, but)
        elif type(value) is dict:
            if but and value.get("type") in ("image", "document") and type(value.get("source")) is dict:
                self._sourced(value, at, into)
                return
            for key, inner in value.items():
                if key not in but:
                    self._every_text(inner, (*at, key), into, _NOTHING if key in _FREE else but)


def _definition(block: Json) -> Json | None:
    tool = block.get("tool")
    definition = tool.get("definition") if type(tool) is dict else None
    return definition if type(definition) is dict else None


def _media(kind: Literal["image", "file", "other"], identity: str, size: int) -> Media:
    return Media(kind, hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest(), size)


def _other(part: Json) -> Media:
    # Clients move the mark of what to cache along from turn to turn, and order keys as they like.
    steady = {key: value for key, value in part.items() if key != "cache_control"}
    dumped = orjson.dumps(steady, option=orjson.OPT_SORT_KEYS)
    return Media("other", hashlib.sha256(dumped).hexdigest(), len(dumped))


def _call(block: Mapping[str, Any]) -> ToolCall:
    return ToolCall(str(block.get("id") or ""), str(block.get("name") or ""), _arguments(block.get("input")))


def _arguments(given: Any) -> str:
    """A call's input as JSON text; some servers send it as text."""
    return given if isinstance(given, str) else json_text({} if given is None else given)


def thinking(body: Json) -> Iterator[Text]:
    """What the model thought aloud in the assistant messages of a request, oldest first.

    For reading only: a thought that comes back changed no longer fits its signature, and the provider
    refuses the request. Redacted thoughts are ciphertext and have no text.
    """
    for i, message in enumerate(body["messages"]):
        content = message["content"] if message["role"] == "assistant" else None
        for j, block in enumerate(content if isinstance(content, list) else ()):
            thought = block.get("thinking") if block.get("type") == "thinking" else None
            if thought and isinstance(thought, str):
                yield Text(thought, ("messages", i, "content", j, "thinking"))


def withhold_tools(body: Json, names: Container[str]) -> Json:
    """The body without the definitions of some tools and the servers that have them, without a choice that
    would force one of them, and without the references to them that agents with many tools have in their
    messages."""
    kept = dict(body)
    if SEARCH in names:
        leave_out_searches(kept)
    servers = body.get("mcp_servers")
    if isinstance(servers, list):
        kept["mcp_servers"] = [
            server for server in servers if not _any_of(_named_server(server.get("name")), names)
        ]
        if not kept["mcp_servers"]:
            del kept["mcp_servers"]
    offered = body.get("tools")
    if isinstance(offered, list):
        kept["tools"] = [tool for tool in offered if not _any_of(_names(tool), names)]
        if not kept["tools"]:
            # A choice among no tools is refused.
            del kept["tools"]
            kept.pop("tool_choice", None)
    choice = kept.get("tool_choice")
    if isinstance(choice, dict) and str(choice.get("name") or "") in names:
        del kept["tool_choice"]
    messages = [(message, _unreferenced(message, names)) for message in body["messages"]]
    # A message that only told of such a tool is left out with it; an empty one is refused.
    kept["messages"] = [new for old, new in messages if new.get("content") or not old.get("content")]
    return kept


def _unreferenced(value: Any, names: Container[str]) -> Any:
    if type(value) is list:
        return [_unreferenced(part, names) for part in value if not _any_of(_referred(part), names)]
    if type(value) is dict:
        return {
            key: _unreferenced(inner, names) if key in ("content", "tool_references") else inner
            for key, inner in value.items()
        }
    return value


def _any_of(these: tuple[str, ...], names: Container[str]) -> bool:
    return any(name in names for name in these)


def _referred(block: Any) -> tuple[str, ...]:
    """What the tools go by that a block only refers to."""
    if type(block) is not dict:
        return ()
    kind = block.get("type")
    if kind == "tool_reference":
        return (str(block.get("tool_name") or ""),)
    if kind == "tool_addition" or kind == "tool_removal":
        return _names(_definition(block) or block.get("tool"))
    return ()


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
    gateway sets one, and the definitions of `withheld` tools left out.

    The limit has one name here and a stream always tells its usage, so `limit_field` and `inject_usage`
    change nothing.
    """
    body, raw = step.body, step.raw
    if withheld:
        body = withhold_tools(body, withheld)
        raw = orjson.dumps(body)
    changes: Json = {}
    if model != step.model:
        changes["model"] = model
    if output_limit is not None:
        changes["max_tokens"] = output_limit
    return with_fields(raw, body, changes)


def read_answer(reply: Mapping[str, Any]) -> Answer:
    """What a plain reply says. Tolerant: a provider's oddity is no reason to lose an answer."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    hosted: list[str] = []
    kept = [*_text_of(reply, "id")]
    content = reply.get("content")
    if isinstance(content, str):
        texts.append(content)
    blocks = content if isinstance(content, list) else ()
    for block in blocks:
        if not isinstance(block, dict):
            continue
        kind = block.get("type")
        hosted += _hosted(block)
        if kind == "text":
            texts += _text_of(block, "text")
        elif kind == "tool_use":
            calls.append(_call(block))
        elif kind == "thinking":
            thoughts += _text_of(block, "thinking")
        elif kind == "compaction":
            thoughts += _text_of(block, "content")
        else:
            kept += _files_made(block)
    kept += _container_id(reply)
    stop_reason, response_id, model = reply.get("stop_reason"), reply.get("id"), reply.get("model")
    return Answer(
        texts=("".join(texts),) if content is not None else (),
        reasoning="".join(thoughts),
        calls=tuple(calls),
        finish_reason=stop_reason if isinstance(stop_reason, str) else None,
        response_id=response_id if isinstance(response_id, str) else None,
        model=model if isinstance(model, str) else None,
        state=tuple(dict.fromkeys(kept)),
        hosted=tuple(hosted),
    )


def _hosted(block: Mapping[str, Any]) -> tuple[str, ...]:
    """The tool of the provider's own that a block shows at work."""
    kind = block.get("type")
    if kind == "server_tool_use":
        return _text_of(block, "name") or ("",)
    if kind == "mcp_tool_use":
        return ("mcp",)
    return ("compaction",) if kind == "compaction" else ()


def _text_of(source: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = source.get(name)
    return (value,) if value and isinstance(value, str) else ()


def _container_id(source: Mapping[str, Any]) -> tuple[str, ...]:
    container = source.get("container")
    return _text_of(container, "id") if isinstance(container, dict) else ()


def _files_made(block: Mapping[str, Any]) -> Iterator[str]:
    """Ids of the files that hosted code wrote, or was given."""
    yield from _text_of(block, "file_id")
    result = block.get("content")
    made = result.get("content") if isinstance(result, dict) else None
    for file in made if isinstance(made, list) else ():
        if isinstance(file, dict):
            yield from _text_of(file, "file_id")


_Holds = Literal["text", "thought", "arguments", "nothing"]
_BEGINS: dict[str, tuple[_Holds, str]] = {
    "text": ("text", "text"),
    "thinking": ("thought", "thinking"),
    "compaction": ("thought", "content"),
}
"""What a block of a kind holds, and where it may already have some of it at its start."""
_GOES_ON: dict[str, tuple[_Holds, str]] = {
    "text_delta": ("text", "text"),
    "input_json_delta": ("arguments", "partial_json"),
    "thinking_delta": ("thought", "thinking"),
    "compaction_delta": ("thought", "content"),
}


@dataclass(slots=True)
class _Block:
    holds: _Holds
    id: str = ""
    name: str = ""
    client: bool = False
    """A call that the client is to answer."""
    given: Any = None
    """A call's input as its start told it; empty where it comes in deltas."""
    pieces: list[str] = field(default_factory=list)


class MessagesStream:
    """One answer's stream. `feed` gives back whole events only, each byte for byte.

    `output_bytes` counts what the model generated: text, thinking, the names and inputs of calls (those of
    hosted tools too) and summaries. Not counted are signatures, which hide thinking that is not shown, quoted
    citations, and results of hosted tools, which are input.
    """

    __slots__ = (
        "_blocks",
        "_hosted",
        "_kept",
        "_merged",
        "_open",
        "_splitter",
        "_stop_reason",
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
        self._blocks: list[_Block] = []
        self._open: dict[int, _Block] = {}
        """By index: the block that deltas go to."""
        self._merged: Json = {}
        self._stop_reason: str | None = None
        self._kept: list[str] = []
        self._hosted: list[str] = []
        self.usage: Mapping[str, Any] | None = None
        """Usage of all events so far, merged: they are cumulative, and each may tell only some fields."""
        self.done = False
        self.error = False
        self.tools_called: set[str] = set()
        """Names of the client's tools called so far."""
        self.output_bytes = 0
        self.model: str | None = None
        self.response_id: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Bytes for the client; empty while an event is incomplete."""
        events = self._splitter.feed(chunk)
        for event in events:
            self._read(event)
        return b"".join(events)

    def _read(self, event: bytes) -> None:
        start = event.find(b"\ndata: ")
        if start > 0 and event.startswith(b"event: ") and event.count(b"\n") == 3 and event.endswith(b"\n\n"):
            data: bytes | None = event[start + 7 : -2]
        else:
            data = data_of(event)
        if data is None:
            return
        try:
            message = orjson.loads(data)
        except orjson.JSONDecodeError:
            # `[DONE]`, which some servers add, is no JSON either.
            return
        if type(message) is dict:
            self._message(message)

    def _message(self, message: Json) -> None:
        # The type in the data is the event's name, which some servers leave out.
        kind = message.get("type")
        if kind == "content_block_delta":
            delta = message.get("delta")
            if type(delta) is dict:
                self._delta(message, delta)
        elif kind == "content_block_start":
            block = message.get("content_block")
            if type(block) is dict:
                self._begin(message, block)
        elif kind == "message_start":
            self._opening(message)
        elif kind == "message_delta":
            self._closing(message)
        elif kind == "message_stop":
            self.done = True
        elif kind == "error" or (kind is None and message.get("error")):
            self.error = True

    def _delta(self, message: Json, delta: Json) -> None:
        holds: _Holds
        kind = delta.get("type")
        if kind == "text_delta":
            piece, holds = delta.get("text"), "text"
        elif isinstance(kind, str) and kind in _GOES_ON:
            holds, name = _GOES_ON[kind]
            piece = delta.get(name)
        else:
            return
        if type(piece) is not str or not piece:
            return
        index = _index(message)
        block = self._open.get(index)
        if block is None or block.holds != holds:
            # Its start did not come, or was of another kind.
            block = self._add(index, _Block(holds))
        block.pieces.append(piece)
        self.output_bytes += len(piece) if piece.isascii() else len(piece.encode())

    def _add(self, index: int, block: _Block) -> _Block:
        self._blocks.append(block)
        self._open[index] = block
        return block

    def _begin(self, message: Json, start: Json) -> None:
        kind = start.get("type")
        index = _index(message)
        if not isinstance(kind, str):
            return
        if kind in _BEGINS:
            holds, name = _BEGINS[kind]
            block = self._add(index, _Block(holds, pieces=[*_text_of(start, name)]))
            self._hosted += _hosted(start)
            self.output_bytes += sum(len(piece.encode()) for piece in block.pieces)
        elif kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
            self._begin_call(index, start, client=kind == "tool_use")
        else:
            self._add(index, _Block("nothing"))
            self._kept += _files_made(start)

    def _begin_call(self, index: int, start: Json, *, client: bool) -> None:
        call = _call(start)
        known = self._open.get(index)
        if known is not None and call.id and known.id == call.id:
            return
        given = start.get("input")
        self._add(index, _Block("arguments", call.id, call.name, client, given))
        if client:
            self.tools_called.add(call.name)
        self._hosted += _hosted(start)
        self.output_bytes += len(call.name.encode()) + (len(call.arguments.encode()) if given else 0)

    def _opening(self, event: Json) -> None:
        message = event.get("message")
        if type(message) is not dict:
            return
        if self.response_id is None:
            response_id, model = message.get("id"), message.get("model")
            self.response_id = response_id if isinstance(response_id, str) else None
            self.model = model if isinstance(model, str) else None
        self._kept += _container_id(message)
        usage = message.get("usage")
        if type(usage) is dict:
            # Its output is what there was at the first event. In a stream that is cut it must not pass for
            # the whole: without it, output is estimated from what came.
            self._take({name: value for name, value in usage.items() if name != "output_tokens"})

    def _closing(self, event: Json) -> None:
        delta = event.get("delta")
        if type(delta) is dict:
            reason = delta.get("stop_reason")
            self._stop_reason = reason if isinstance(reason, str) else self._stop_reason
            self._kept += _container_id(delta)
        usage = event.get("usage")
        if type(usage) is dict:
            self._take(usage)

    def _take(self, usage: Json) -> None:
        merge_usage(self._merged, usage)
        if self._merged:
            self.usage = {"usage": self._merged, "model": self.model}

    @property
    def finished(self) -> bool:
        """The answer has its stop reason, and with it its usage: what is left is `message_stop`."""
        return self._stop_reason is not None

    @property
    def clean(self) -> bool:
        """The stream has ended as the provider meant it to; an error event of its own is such an end.

        Not without `message_stop`: clients take the end of a body for success, so nobody else would notice.
        """
        return (self.done or self.error) and not self._splitter.pending.strip()

    @property
    def pending(self) -> bytes:
        """Bytes after the last whole event."""
        return self._splitter.pending

    def answer(self) -> Answer:
        """Everything received so far, as one answer."""
        response_id = self.response_id
        kept = [*([response_id] if response_id else []), *self._kept]
        return Answer(
            texts=(self._joined("text"),) if self._blocks or response_id is not None else (),
            reasoning=self._joined("thought"),
            calls=tuple(
                ToolCall(block.id, block.name, "".join(block.pieces) or _arguments(block.given))
                for block in self._blocks
                if block.client
            ),
            finish_reason=self._stop_reason,
            response_id=response_id,
            model=self.model,
            state=tuple(dict.fromkeys(kept)),
            hosted=tuple(self._hosted),
        )

    def _joined(self, holds: _Holds) -> str:
        return "".join(["".join(block.pieces) for block in self._blocks if block.holds == holds])

    def failure(self, error: GatewayError, context: ErrorContext, *, codex: bool) -> bytes:
        """An error after the first byte. Without its `event:` line clients would pass over it, and take the
        end of the stream for success. Codex does not speak this API."""
        return b"event: error\ndata: %b\n\n" % error_json(Surface.MESSAGES, error, context)


def _index(message: Json) -> int:
    index = message.get("index")
    return index if type(index) is int else 0


def stream(*, strip_usage: bool) -> MessagesStream:
    """The reader of one stream; see `MessagesStream`. Usage is always there and nobody's to strip."""
    return MessagesStream()


if TYPE_CHECKING:
    _stream: AnswerStream = MessagesStream()
