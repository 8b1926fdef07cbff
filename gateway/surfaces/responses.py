"""OpenAI Responses: a request into a `Step`, a response into an `Answer`, a stream event by event.

Pure: bytes and parsed JSON in, values out. The wire speaks in a flat list of items, one answer being several
of them (reasoning, a message, calls). Lineage needs one assistant item per answer, so neighbours that the
assistant said are folded into one, in requests and answers alike. What clients may leave out when they send
an answer back (reasoning, the work of tools that the provider hosts) must not change that item, so it
stands beside it as an item of its own: an aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from gateway.domain import Answer, Item, Json, Media, Role, Step, Surface, Text, ToolCall, ToolDef
from gateway.errors import CallerError, ErrorContext, GatewayError, error_body
from gateway.surfaces.base import AnswerStream
from gateway.surfaces.beside import Beside, is_word
from gateway.surfaces.body import parse_object, with_fields
from gateway.surfaces.sse import EventSplitter, data_of

Pointer = tuple[str | int, ...]

MAX_MODEL_CHARS = 256
_LIMIT_FIELD = "max_output_tokens"
_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}
_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_IMAGE_PARTS = ("input_image", "computer_screenshot")

_CALLS = {
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
_RESULTS = {
    "function_call_output": "output",
    "custom_tool_call_output": "output",
    "shell_call_output": "output",
    "local_shell_call_output": "output",
    "apply_patch_call_output": "output",
    "computer_call_output": "output",
    "tool_search_output": "tools",
    "mcp_approval_response": "reason",
}
"""What the agent answers them with, and where its text stands."""
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
_RELOADED = {
    "reasoning": ("encrypted_content", "content"),
    "compaction": ("encrypted_content",),
    "image_generation_call": ("result",),
}
"""Items that the provider loads by their id when the request does not carry their content."""
_LABELS = frozenset(
    (
        "approval_request_id", "call_id", "caller_id", "container_id", "created_by", "execution", "file_id",
        "fingerprint", "id", "name", "namespace", "phase", "role", "server_label", "status", "type",
    )
)  # fmt: skip
"""Strings that name something: no text that a guard could have a view on, or could change."""
_FREE = frozenset(
    (
        "arguments", "attributes", "env", "headers", "input_schema", "output_schema", "parameters", "result",
        "schema",
    )
)  # fmt: skip
"""Below these keys the names are not OpenAI's, so that every one may hold a text."""
_TOLD = {kind: _LABELS | {field, "caller"} for kind, field in (*_CALLS.items(), *_RESULTS.items())}
"""Fields of a call or a result that its item tells of, or that hold no text."""
_DEFINITION = frozenset(
    ("type", "name", "description", "parameters", "strict", "server_label", "server_description")
)
_NOT_IN_TOOLS = frozenset(
    (
        # Names and ids of what is told elsewhere, or kept by the provider.
        "allowed_tools", "connector_id", "container_id", "file_id", "file_ids", "name", "require_approval",
        "skill_id", "tunnel_id", "vector_store_ids", "version",
        # Where and as whom the provider calls: never before the model's eyes.
        "authorization", "domain_secrets", "headers", "server_url",
        # How pictures are made.
        "background", "model", "moderation", "output_format", "quality", "size",
    )
)  # fmt: skip
"""Fields of a tool's definition, at any depth, that hold no text which the model reads."""
_PLACES = ("container", "environment")
"""Where a tool of the provider runs: by its id, or described."""
_SETTINGS = frozenset(
    (
        "model", "input", "instructions", "prompt", "tools", "tool_choice", "parallel_tool_calls",
        "max_tool_calls", "previous_response_id", "conversation", "stream", "stream_options", "background",
        "background_options", _LIMIT_FIELD, "temperature", "top_p", "top_logprobs", "reasoning", "include",
        "image", "service_tier", "store", "truncation", "context_management", "moderation",
        "access_programs", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention",
    )
)  # fmt: skip
"""Fields of a request that are read by themselves, or that hold no text but the API's own words, names of
what is told elsewhere and hashes of who asks. Every other one is taken to hold texts."""
_URLS = ("url", "image_url", "file_url", "file_data")
"""Where content may stand as a data URL; anywhere else text that looks like one is text."""


def parse(raw: bytes, *, max_depth: int = 128) -> Step:
    """The step that a request body asks for, or `CallerError` naming the field that is wrong."""
    body = parse_object(raw, max_depth=max_depth)
    model = body.get("model")
    if not isinstance(model, str) or not model or len(model) > MAX_MODEL_CHARS or not model.isprintable():
        also = "" if body.get("prompt") is None else ", also beside a stored prompt"
        raise _wrong(
            "model", f"the name of a model, at most {MAX_MODEL_CHARS} printable characters{also}", model
        )
    limit = body.get(_LIMIT_FIELD)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise _wrong(_LIMIT_FIELD, "a whole number of at least 1", limit)
    state = _state(body)
    history = _History()
    if (instructions := _string(body, "instructions")) is not None:
        history.add(Role.SYSTEM, [Text(instructions, ("instructions",))], [])
    stored = history.read_prompt(body.get("prompt"))
    given = body.get("input")
    if isinstance(given, str):
        history.add(Role.USER, [Text(given, ("input",))] if given else [], [])
    elif isinstance(given, list):
        for i, item in enumerate(given):
            history.read(item, i)
        history.close_turn()
    elif given is not None:
        raise _wrong("input", "a string or a list of items", given)
    if not given and given != "" and not state and not stored:
        raise _wrong("input", "a string or a list of at least one item", given)
    history.read_tools(body.get("tools"), ("tools",))
    if not body.keys() <= _SETTINGS:
        history.beside.rest(body, (), _SETTINGS)
    options = body.get("prompt_cache_options")
    if isinstance(options, dict):
        history.refer(options.get("comparison_response_id"))
    items = (*history.beside.item(), *history.items)
    return Step(
        surface=Surface.RESPONSES,
        model=model,
        stream=_flag(body, "stream"),
        body=body,
        raw=raw,
        items=items,
        tools=tuple(history.tools),
        output_limit=limit,
        choices=1,
        wants_usage=True,
        text_bytes=max(0, len(raw) - sum(media.size for item in items for media in item.media)),
        state=state,
        references=tuple(dict.fromkeys(history.references)),
        background=_flag(body, "background"),
    )


def _wrong(param: str, expected: str, got: object) -> CallerError:
    shown = type(got).__name__ if isinstance(got, dict | list | str) else repr(got)
    return CallerError("invalid_request", f"'{param}': got {shown}, expected {expected}.", param=param)


def _flag(body: Json, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return bool(value)


def _string(source: Json, name: str) -> str | None:
    """A field that may be absent; empty counts as absent."""
    value = source.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "a string", value)
    return value or None


def _state(body: Json) -> tuple[str, ...]:
    """The conversation at the provider that this step goes on from."""
    previous = _string(body, "previous_response_id")
    conversation = body.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
        if not isinstance(conversation, str):
            raise _wrong("conversation.id", "a string", conversation)
    elif conversation is not None and not isinstance(conversation, str):
        raise _wrong("conversation", "an id or an object with an id", conversation)
    if previous and conversation:
        raise CallerError(
            "invalid_request",
            "'previous_response_id' and 'conversation' are both set; a response goes on from one of them.",
            param="previous_response_id",
        )
    return tuple(value for value in (previous, conversation) if value)


class _History:
    """Reads the items of one request in order."""

    __slots__ = ("_calls", "_hosted", "_media", "_open", "_texts", "beside", "items", "references", "tools")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.tools: list[ToolDef] = []
        self.references: list[str] = []
        self.beside = Beside()
        self._open = False
        """The assistant's turn being folded: its parts so far are in the next three."""
        self._texts: list[Text] = []
        self._media: list[Media] = []
        self._calls: list[ToolCall] = []
        self._hosted: set[str] = set()
        """Ids of calls that the provider itself answers."""

    def add(self, role: Role, texts: list[Text], media: list[Media], call_id: str | None = None) -> None:
        """An item of its own, which ends the assistant's turn."""
        self.close_turn()
        self.items.append(Item(role, tuple(texts), tuple(media), call_id=call_id))

    def close_turn(self) -> None:
        if self._open:
            self._open = False
            turn = Item(Role.ASSISTANT, tuple(self._texts), tuple(self._media), tuple(self._calls))
            self.items.append(turn)
            self._texts, self._media, self._calls = [], [], []

    def refer(self, value: Any) -> None:
        """Note the id of something that the provider keeps."""
        if isinstance(value, str) and value:
            self.references.append(value)

    def read(self, item: Any, i: int) -> None:
        """One item of `input`."""
        if type(item) is not dict:
            raise _wrong(f"input[{i}]", "an object", item)
        kind = item.get("type")
        if kind is None:
            # Easy messages go without a type, and references may.
            kind = "item_reference" if "role" not in item and "id" in item else "message"
        elif not isinstance(kind, str):
            raise _wrong(f"input[{i}].type", "the type of an item", kind)
        if kind == "message":
            self._message(item, i)
        elif kind in _CALLS and (call := _call(item)) is not None:
            self._open = True
            self._calls.append(call)
            if not item.keys() <= _TOLD[kind]:
                self._more(item, i, kind)
        elif kind in _RESULTS and self._is_result(item, kind):
            self._result(item, i, _RESULTS[kind])
        elif kind == "item_reference":
            self.refer(item.get("id"))
        elif kind == "additional_tools":
            self.read_tools(item.get("tools"), ("input", i, "tools"))
        else:
            self._aside(item, i, kind)

    def _message(self, item: Json, i: int) -> None:
        role = item.get("role")
        if not isinstance(role, str):
            raise _wrong(f"input[{i}].role", "a role", role)
        speaker = _ROLES.get(role, Role.USER)
        texts: list[Text] = []
        media: list[Media] = []
        content = item.get("content")
        if content is not None and not isinstance(content, str | list):
            raise _wrong(f"input[{i}].content", "a string or a list of parts", content)
        self._content(content, ("input", i, "content"), texts, media)
        if speaker is not Role.ASSISTANT:
            self.add(speaker, texts, media)
            return
        self._open = True
        self._texts += texts
        self._media += media

    def _is_result(self, item: Json, kind: str) -> bool:
        """Whether the agent made this output, not the provider."""
        if kind == "tool_search_output":
            return _by_client(item)
        call_id = item.get("call_id")
        return not isinstance(call_id, str) or call_id not in self._hosted

    def _result(self, item: Json, i: int, field: str) -> None:
        texts: list[Text] = []
        media: list[Media] = []
        output = item.get(field)
        if output is not None and not isinstance(output, str | list | dict):
            raise _wrong(f"input[{i}].{field}", "a string or a list of parts", output)
        self._content(output, ("input", i, field), texts, media)
        if field == "tools":
            self.read_tools(output, ("input", i, "tools"), told=True)
        kind = item["type"]
        if not item.keys() <= _TOLD[kind]:
            self._more(item, i, kind)
        # A local shell's output has the id of its call as its own.
        names = (item.get("call_id"), item.get("approval_request_id"), item.get("id"))
        self.add(Role.TOOL, texts, media, next((n for n in names if isinstance(n, str) and n), None))

    def _more(self, item: Json, i: int, kind: str) -> None:
        """What a call or a result holds besides what was asked and answered: warnings, where it runs."""
        texts: list[Text] = []
        media: list[Media] = []
        for name, value in item.items():
            if name in _TOLD[kind] or (name == "actions" and item.get("action") is None):
                continue
            _walk(value, ("input", i, name), texts, media)
        if texts or media:
            self.items.append(Item(Role.TOOL, tuple(texts), tuple(media), aside=True))

    def _aside(self, item: Json, i: int, kind: str) -> None:
        """What the model reads and nobody said. It does not end the assistant's turn."""
        texts: list[Text] = []
        media: list[Media] = []
        if kind == "image_generation_call":
            if isinstance(picture := item.get("result"), str) and picture:
                media.append(_media("image", picture, None))
            for name in ("revised_prompt", "error"):
                _walk(item.get(name), ("input", i, name), texts, media)
        else:
            _walk(item, ("input", i), texts, media)
        if isinstance(call_id := item.get("call_id"), str):
            self._hosted.add(call_id)
        if kind in _RELOADED and not any(item.get(name) for name in _RELOADED[kind]):
            self.refer(item.get("id"))
        # A container is used again by the next call of the same tool.
        self.refer(_container(item))
        if texts or media:
            role = Role.ASSISTANT if kind == "reasoning" else Role.TOOL
            self.items.append(Item(role, tuple(texts), tuple(media), aside=True))

    def _content(self, content: Any, at: Pointer, texts: list[Text], media: list[Media]) -> None:
        """A text, a part, or a list of parts."""
        if isinstance(content, str):
            if content:
                texts.append(Text(content, at))
        elif isinstance(content, dict):
            self._part(content, at, texts, media)
        elif isinstance(content, list):
            for j, part in enumerate(content):
                if type(part) is not dict:
                    raise _wrong(_path((*at, j)), "an object", part)
                self._part(part, (*at, j), texts, media)

    def _part(self, part: Json, at: Pointer, texts: list[Text], media: list[Media]) -> None:
        kind = part.get("type")
        if kind in _TEXT_PARTS or kind == "refusal":
            name = "refusal" if kind == "refusal" else "text"
            text = part.get(name)
            if not isinstance(text, str):
                raise _wrong(_path((*at, name)), "a string", text)
            if text:
                texts.append(Text(text, (*at, name)))
        elif kind in _IMAGE_PARTS:
            detail = part.get("detail")
            payload = part.get("image_url") or part.get("file_id")
            media.append(_media("image", payload, detail if isinstance(detail, str) else None))
            self.refer(part.get("file_id"))
        elif kind == "input_file":
            payload = part.get("file_data") or part.get("file_url") or part.get("file_id")
            media.append(_media("file", payload, None))
            self.refer(part.get("file_id"))
            # The model is told the name, and whoever sends a file chooses it.
            _walk(part.get("filename"), (*at, "filename"), texts, media)
        elif kind == "input_audio":
            audio = part.get("input_audio")
            media.append(_media("audio", audio.get("data") if isinstance(audio, dict) else None, None))
        else:
            _walk(part, at, texts, media)

    def read_prompt(self, prompt: Any) -> bool:
        """A stored prompt: its text is the provider's secret, what is put into it is not. Whether there is
        one."""
        if prompt is None:
            return False
        if not isinstance(prompt, dict):
            raise _wrong("prompt", "an object", prompt)
        if not isinstance(prompt.get("id"), str):
            raise _wrong("prompt.id", "a string", prompt.get("id"))
        self.refer(prompt["id"])
        variables = prompt.get("variables")
        if variables is None:
            return True
        if not isinstance(variables, dict):
            raise _wrong("prompt.variables", "an object", variables)
        texts: list[Text] = []
        media: list[Media] = []
        for name, value in variables.items():
            if not isinstance(value, str | dict):
                raise _wrong(f"prompt.variables.{name}", "a string or a part", value)
            self._content(value, ("prompt", "variables", name), texts, media)
        if texts or media:
            self.add(Role.USER, texts, media)
        return True

    def read_tools(self, offered: Any, at: Pointer, *, told: bool = False) -> None:
        """Tool definitions, those inside a namespace too. `told`: their texts are in an item already."""
        if offered is None:
            return
        if not isinstance(offered, list):
            raise _wrong(_path(at), "a list", offered)
        for j, tool in enumerate(offered):
            if type(tool) is not dict:
                raise _wrong(_path((*at, j)), "an object", tool)
            schema = tool.get("parameters")
            described = tool.get("description") or tool.get("server_description")
            self.tools.append(
                ToolDef(
                    _tool_name(tool),
                    described if isinstance(described, str) else "",
                    schema if isinstance(schema, dict) else None,
                )
            )
            if not told and (not tool.keys() <= _DEFINITION or type(schema) is str):
                self._tool_more(tool, (*at, j))
            if _is_namespace(tool):
                self.read_tools(tool.get("tools"), (*at, j, "tools"), told=told)
            else:
                self._tool_references(tool)

    def _tool_more(self, tool: Json, at: Pointer) -> None:
        """What a definition says where a `ToolDef` has no place for it, such as a grammar or a skill."""
        for name, value in tool.items():
            if name in _NOT_IN_TOOLS or (
                name in _DEFINITION and (name != "parameters" or type(value) is dict)
            ):
                continue
            if name == "input_image_mask":
                mask = value.get("image_url") if isinstance(value, dict) else None
                if isinstance(mask, str) and mask:
                    self.beside.media.append(_media("image", mask, None))
            elif name == "environment" and type(value) is dict:
                self._environment(value, (*at, name))
            elif name in _FREE:
                self.beside.read(value, (*at, name))
            elif not (name in _PLACES and type(value) is str) and not (
                name == "tools" and _is_namespace(tool)
            ):
                self.beside.read(value, (*at, name), _NOT_IN_TOOLS)

    def _environment(self, place: Json, at: Pointer) -> None:
        """Where commands run, with the skills that are brought there: packed ones cannot be read."""
        self.beside.read(place, at, (*_NOT_IN_TOOLS, "source"))
        skills = place.get("skills")
        for skill in skills if isinstance(skills, list) else ():
            source = skill.get("source") if isinstance(skill, dict) else None
            packed = source.get("data") if isinstance(source, dict) else None
            if isinstance(packed, str) and packed:
                self.beside.media.append(_media("other", packed, None))

    def _tool_references(self, tool: Json) -> None:
        stores = tool.get("vector_store_ids")
        for store in stores if isinstance(stores, list) else ():
            self.refer(store)
        self.refer(tool.get("tunnel_id"))
        mask = tool.get("input_image_mask")
        if isinstance(mask, dict):
            self.refer(mask.get("file_id"))
        for place in (tool.get(name) for name in _PLACES):
            if not isinstance(place, dict):
                self.refer(place)
                continue
            self.refer(place.get("container_id"))
            files, skills = place.get("file_ids"), place.get("skills")
            for file in files if isinstance(files, list) else ():
                self.refer(file)
            for skill in skills if isinstance(skills, list) else ():
                name = skill.get("skill_id") if isinstance(skill, dict) else None
                # OpenAI's own skills belong to everybody.
                if isinstance(name, str) and not name.startswith("openai-"):
                    self.refer(name)


def _is_namespace(tool: Json) -> bool:
    return tool.get("type") == "namespace"


def _path(at: Pointer) -> str:
    return "".join(f"[{step}]" if type(step) is int else f".{step}" for step in at)[1:]


def _walk(value: Any, at: Pointer, texts: list[Text], media: list[Media], free: bool = False) -> None:
    """Every text below a value, for items whose shape matters to nobody here. `free`: no key is a label."""
    if type(value) is str:
        if not free and at[-1] in _URLS and value.startswith("data:"):
            media.append(_media("image" if value.startswith("data:image/") else "file", value, None))
        elif value:
            texts.append(Text(value, at))
    elif type(value) is dict:
        for key, inner in value.items():
            if key == "encrypted_content" and not free:
                if isinstance(inner, str) and inner:
                    media.append(_media("other", inner, "opaque"))
            elif type(inner) is not str or not (
                (key == "type" and is_word(inner)) if free else key in _LABELS
            ):
                _walk(inner, (*at, key), texts, media, free or key in _FREE)
    elif type(value) is list:
        for j, inner in enumerate(value):
            _walk(inner, (*at, j), texts, media, free)


def _media(kind: Any, payload: Any, detail: str | None) -> Media:
    data = payload if isinstance(payload, str) else ""
    # The query of a signed URL changes from turn to turn; the picture does not.
    identity = data.split("?", 1)[0] if data.startswith("http") else data
    size = len(data) if not data.startswith("http") else 0
    return Media(kind, hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest(), size, detail)


def _call(item: Mapping[str, Any]) -> ToolCall | None:
    """The call that an item is, if the agent has to act on it; None for the provider's own tools.

    A tool without a name of its own is called by its type, as in the request's `tools`.
    """
    kind = item.get("type")
    field = _CALLS.get(kind) if isinstance(kind, str) else None
    if field is None:
        return None
    if kind == "shell_call" and _container(item) is not None:
        return None
    if kind == "tool_search_call" and not _by_client(item):
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
    return orjson.dumps(value).decode()


def _by_client(item: Mapping[str, Any]) -> bool:
    """Whether a search for tools is the agent's to make; the provider's own has no call id."""
    execution = item.get("execution")
    return execution == "client" or (execution is None and isinstance(item.get("call_id"), str))


def _container(item: Mapping[str, Any]) -> str | None:
    """The provider's container in which a call ran."""
    environment = item.get("environment")
    source = environment if isinstance(environment, dict) else item
    container = source.get("container_id")
    return container if isinstance(container, str) else None


def withhold_tools(body: Json, names: Container[str]) -> Json:
    """The body without the definitions of some tools, and without a choice that would force one of them."""
    kept = dict(body)
    more = False
    given = body.get("input")
    if isinstance(given, list):
        items: list[Any] = []
        for item in given:
            kind = item.get("type") if isinstance(item, dict) else None
            if kind in ("additional_tools", "tool_search_output") and isinstance(item.get("tools"), list):
                left = _without(item["tools"], names)
                more = more or bool(left)
                if not left and kind == "additional_tools":
                    continue
                item = {**item, "tools": left}
            items.append(item)
        kept["input"] = items
    offered = body.get("tools")
    if isinstance(offered, list):
        kept["tools"] = _without(offered, names)
        if not kept["tools"]:
            del kept["tools"]
            if not more:
                # A choice among no tools is refused by providers.
                kept.pop("tool_choice", None)
                kept.pop("parallel_tool_calls", None)
    choice = kept.get("tool_choice")
    if isinstance(choice, dict):
        allowed = choice.get("tools")
        if choice.get("type") == "allowed_tools" and isinstance(allowed, list):
            left = [tool for tool in allowed if _tool_name(tool) not in names]
            # With none of the allowed left, no other tool becomes allowed by that.
            kept["tool_choice"] = {**choice, "tools": left} if left else "none"
        elif _tool_name(choice) in names:
            del kept["tool_choice"]
    return kept


def _without(tools: Sequence[Any], names: Container[str]) -> list[Any]:
    left: list[Any] = []
    for tool in tools:
        if _tool_name(tool) in names:
            continue
        if isinstance(tool, dict) and tool.get("type") == "namespace" and isinstance(tool.get("tools"), list):
            tool = {**tool, "tools": _without(tool["tools"], names)}
            if not tool["tools"]:
                continue
        left.append(tool)
    return left


def _tool_name(tool: Any) -> str:
    """A tool's name; an MCP server's label; the type of a tool that has neither."""
    if not isinstance(tool, dict):
        return ""
    kind = tool.get("type")
    name = tool.get("server_label" if kind == "mcp" else "name") or kind
    return name if isinstance(name, str) else ""


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
    gateway sets one, and the definitions of `withheld` tools left out. This API has one name for the limit
    and tells usage unasked, so `limit_field` and `inject_usage` change nothing."""
    body, raw = step.body, step.raw
    if withheld:
        body = withhold_tools(body, withheld)
        raw = orjson.dumps(body)
    changes: Json = {}
    if model != step.model:
        changes["model"] = model
    if output_limit is not None:
        changes[_LIMIT_FIELD] = output_limit
    return with_fields(raw, body, changes)


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
        containers.append(_container(item))
        if (call := _call(item)) is not None:
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
        if (
            chunk.startswith(b"event: ")
            and chunk.endswith(b"\n\n")
            and chunk.count(b"\n") == 3
            and b"\r" not in chunk
            and not self._splitter.pending
        ):
            # One whole event, as nearly every chunk is.
            self._event(chunk)
            return chunk
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
        if (call := _call(item)) is not None:
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
