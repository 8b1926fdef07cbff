"""OpenAI Responses: a request into a `Step`; responses and streams are read by `responses_answers`.

Pure: bytes and parsed JSON in, values out. The wire speaks in a flat list of items, one answer being several
of them (reasoning, a message, calls). Lineage needs one assistant item per answer, so neighbours that the
assistant said are folded into one, in requests and answers alike. What clients may leave out when they send
an answer back (reasoning, the work of tools that the provider hosts) must not change that item, so it
stands beside it as an item of its own: an aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Sequence
from typing import Any

import orjson

from gateway.domain import Item, Json, Media, Role, Step, Surface, Text, ToolCall, ToolDef
from gateway.errors import CallerError
from gateway.surfaces.beside import Beside, is_word
from gateway.surfaces.body import parse_object, with_fields
from gateway.surfaces.hosted import NAMELESS, SEARCH, leave_out_searches, searches, with_names
from gateway.surfaces.responses_answers import (
    CALLS,
    ResponsesStream,
    call_of,
    container_of,
    is_by_client,
    parse_stored,
    read_answer,
    stream,
)

__all__ = [
    "ResponsesStream",
    "forward",
    "parse",
    "parse_stored",
    "read_answer",
    "stream",
    "withhold_tools",
]

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
_TOLD = {kind: _LABELS | {field, "caller"} for kind, field in (*CALLS.items(), *_RESULTS.items())}
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
_MCP = "mcp"
_COMPUTER = "computer"
_FAMILIES = (SEARCH, _COMPUTER, _MCP)
"""How the types of tools begin that have several versions, or that servers bring. Such a tool goes by this as
well as by its own name: its calls do, and no other version and no label is to escape a contract."""
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
        if searches(body):
            history.more_tools.append(SEARCH)
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
        tools=with_names(history.tools, history.more_tools) if history.more_tools else tuple(history.tools),
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

    __slots__ = (
        "_calls",
        "_hosted",
        "_media",
        "_open",
        "_texts",
        "beside",
        "items",
        "more_tools",
        "references",
        "tools",
    )

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.tools: list[ToolDef] = []
        self.more_tools: list[str] = []
        """Further names by which they are known."""
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
        elif kind in CALLS and (call := call_of(item)) is not None:
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
            return is_by_client(item)
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
        self.refer(container_of(item))
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
            if (family := _family(tool)) is not None:
                self.more_tools.append(family)
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
            elif name == "environment" and _is_computer(tool):
                if type(value) is not str or not is_word(value):
                    self.beside.read(value, (*at, name), _NOT_IN_TOOLS)
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
        for name in _PLACES:
            place = tool.get(name)
            if not isinstance(place, dict):
                # That of a computer is a word for its system, such as `linux`.
                if name != "environment" or not _is_computer(tool):
                    self.refer(place)
                continue
            self.refer(place.get("container_id"))
            files, skills = place.get("file_ids"), place.get("skills")
            for file in files if isinstance(files, list) else ():
                self.refer(file)
            for skill in skills if isinstance(skills, list) else ():
                skill_id = skill.get("skill_id") if isinstance(skill, dict) else None
                # OpenAI's own skills belong to everybody.
                if isinstance(skill_id, str) and not skill_id.startswith("openai-"):
                    self.refer(skill_id)


def _is_namespace(tool: Json) -> bool:
    return tool.get("type") == "namespace"


def _is_computer(tool: Json) -> bool:
    return _family(tool) == _COMPUTER


def _family(tool: Json) -> str | None:
    """The name that a tool of the provider has in all versions, or that all servers have."""
    kind = tool.get("type")
    if type(kind) is not str or not kind.startswith(_FAMILIES):
        return None
    return next((family for family in _FAMILIES if kind.startswith(family)), None)


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


def withhold_tools(body: Json, names: Container[str]) -> Json:
    """The body without the definitions of some tools, and without a choice that would force one of them."""
    kept = dict(body)
    if SEARCH in names:
        leave_out_searches(kept)
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
            left = [tool for tool in allowed if not _is_withheld(tool, names)]
            # With none of the allowed left, no other tool becomes allowed by that.
            kept["tool_choice"] = {**choice, "tools": left} if left else "none"
        elif _is_withheld(choice, names) or (_is_computer(choice) and not _has_computer(kept)):
            del kept["tool_choice"]
    return kept


def _has_computer(body: Json) -> bool:
    """Whether a choice of the computer, which may be by another type than its own, has one to choose."""
    offered = body.get("tools")
    return isinstance(offered, list) and any(
        isinstance(tool, dict) and _is_computer(tool) for tool in offered
    )


def _is_withheld(tool: Any, names: Container[str]) -> bool:
    """Whether an offer or a choice goes by a name that is withheld."""
    if _tool_name(tool) in names:
        return True
    return isinstance(tool, dict) and (family := _family(tool)) is not None and family in names


def _without(tools: Sequence[Any], names: Container[str]) -> list[Any]:
    left: list[Any] = []
    for tool in tools:
        if _is_withheld(tool, names):
            continue
        if isinstance(tool, dict) and _is_namespace(tool) and isinstance(tool.get("tools"), list):
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
    if kind == _MCP:
        name = tool.get("server_label")
    else:
        name = None if type(kind) is str and kind in NAMELESS else tool.get("name")
    name = name or kind
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
