"""Responses clients on a provider of chat completions.

instructions          a system message before all others; developer messages are system messages
items                 assistant messages and function calls in a row are one assistant message, outputs
                      are `tool` messages
reasoning             left out of the history: it counts only for the provider that made it
stored state          refused: nothing is kept, so nothing can be referred to or fetched later
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.domain import Json, Surface
from gateway.translation.base import DEFAULT_LIMIT, OutputLimit, StreamTranslation, Translation
from gateway.translation.faults import chat_error, read_fault_body
from gateway.translation.fields import (
    Pointer,
    a_count,
    a_flag,
    a_list,
    a_number,
    a_string,
    an_object,
    cannot,
    ensure_carried,
    one_of,
    wrong,
)
from gateway.translation.pipe import Pipe
from gateway.translation.responses_answers import ChatToResponses, responses_answer

_CARRIED = frozenset(
    (
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "max_output_tokens",
        "temperature",
        "top_p",
        "text",
        "reasoning",
        "user",
        "safety_identifier",
        "service_tier",
        "stream",
        "include",
        "stream_options",
    )
)
_LEFT_OUT = frozenset(
    (
        "metadata",
        "client_metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "max_tool_calls",
    )
)
"""Labels, advice to OpenAI's cache, and the limit of hosted tools' calls, of which there are none."""
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "background": (False,),
    "store": (False,),
    "truncation": ("disabled",),
    "top_logprobs": (0,),
    "context_management": ([],),
}
_NOTHING_TO_INCLUDE = (
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
    "file_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
)
"""Ciphertext of thoughts that nobody else keeps, pictures of stored items, and results of hosted tools."""
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_MESSAGE = ("type", "role", "content", "id", "status", "phase")
_CALL = ("type", "id", "call_id", "name", "arguments", "status")
_OUTPUT = ("type", "id", "call_id", "output", "status", "name")
_TEXT_PART = ("type", "text", "annotations", "logprobs", "prompt_cache_breakpoint")
_IMAGE_PART = ("type", "image_url", "detail", "prompt_cache_breakpoint")
_FILE_PART = ("type", "file_data", "filename", "prompt_cache_breakpoint")
_DIRECT: dict[str, tuple[object, ...]] = {"caller": ({"type": "direct"},)}


class _ResponsesChat:
    client = Surface.RESPONSES
    upstream = Surface.CHAT

    def request(self, body: Json, limit: OutputLimit = DEFAULT_LIMIT) -> Json:
        return chat_request(body, limit)[0]

    def answer(self, reply: Json, request: Json, *, created: int = 0) -> Json:
        return responses_answer(reply, request, created=created)

    def error(self, status: int, reply: bytes) -> bytes:
        return orjson.dumps(chat_error(read_fault_body(reply)))

    def stream(self, request: Json, *, created: int = 0) -> StreamTranslation:
        return Pipe(Surface.RESPONSES, ChatToResponses(request, created=created))


def chat_request(
    body: Json, limit: OutputLimit, *, upstream: Surface = Surface.CHAT
) -> tuple[Json, list[int | None]]:
    """The chat body for a responses body, and for each message the input item it begins with (None for the
    instructions).

    `upstream` is where it goes in the end: the Messages API also takes pictures as a tool's output.
    """
    ensure_carried(body, _CARRIED | _LEFT_OUT, (), upstream, _NEUTRAL)
    conversation = _Conversation(upstream)
    if (instructions := body.get("instructions")) is not None:
        text = a_string(instructions, ("instructions",))
        conversation.say({"role": "system", "content": text}, None)
    given = body.get("input")
    if type(given) is str:
        conversation.say({"role": "user", "content": given}, None)
    else:
        for i, item in enumerate(a_list(given, ("input",))):
            conversation.add(an_object(item, ("input", i)), i)
    if not conversation.messages:
        raise wrong(("input",), "at least one item", given)
    out: Json = {"model": a_string(body.get("model"), ("model",)), "messages": conversation.messages}
    if (tokens := body.get("max_output_tokens")) is not None:
        out[limit.field] = a_count(tokens, ("max_output_tokens",))
    _tools(body, out, upstream)
    for name in ("temperature", "top_p"):
        if (value := body.get(name)) is not None:
            out[name] = a_number(value, (name,))
    _text_and_reasoning(body, out, upstream)
    _labels(body, out, upstream)
    if body.get("stream") is not None:
        out["stream"] = a_flag(body["stream"], ("stream",))
        if out["stream"]:
            out["stream_options"] = {"include_usage": True}
    return out, conversation.origins


class _Conversation:
    """Input items, turned one by one into chat messages."""

    def __init__(self, upstream: Surface) -> None:
        self.messages: list[Json] = []
        self.origins: list[int | None] = []
        self._upstream = upstream

    def say(self, message: Json, origin: int | None) -> None:
        self.messages.append(message)
        self.origins.append(origin)

    def add(self, item: Json, i: int) -> None:
        at: Pointer = ("input", i)
        kind = item.get("type")
        if kind == "message" or (kind is None and "role" in item):
            self._message(item, i, at)
        elif kind == "function_call":
            self._call(item, i, at)
        elif kind == "function_call_output":
            self._output(item, i, at)
        elif kind == "reasoning":
            return
        elif type(kind) is str:
            raise cannot((*at, "type"), self._upstream, kind[:64])
        else:
            raise wrong((*at, "type"), "the type of an item", kind)

    def _message(self, item: Json, i: int, at: Pointer) -> None:
        ensure_carried(item, _MESSAGE, at, self._upstream)
        role = _ROLES[one_of(item.get("role"), _ROLES, (*at, "role"))]
        content = item.get("content")
        if type(content) is not str:
            content = self._parts(content, (*at, "content"), media=role == "user")
        if role != "assistant":
            self.say({"role": role, "content": content}, i)
            return
        text = content if isinstance(content, str) else "".join([part["text"] for part in content])
        last: Json = self.messages[-1] if self.messages else {}
        if "tool_calls" in last:
            # Chat has no place for words between a call and its result but the calling message.
            last["content"] = (last["content"] or "") + text
        else:
            self.say({"role": "assistant", "content": text}, i)

    def _call(self, item: Json, i: int, at: Pointer) -> None:
        ensure_carried(item, _CALL, at, self._upstream, _DIRECT)
        arguments = item.get("arguments")
        call = {
            "id": a_string(item.get("call_id"), (*at, "call_id")),
            "type": "function",
            "function": {
                "name": a_string(item.get("name"), (*at, "name")),
                "arguments": a_string(arguments, (*at, "arguments")) if arguments is not None else "",
            },
        }
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.say({"role": "assistant", "content": None}, i)
        self.messages[-1].setdefault("tool_calls", []).append(call)

    def _output(self, item: Json, i: int, at: Pointer) -> None:
        ensure_carried(item, _OUTPUT, at, self._upstream, _DIRECT)
        output = item.get("output")
        if type(output) is not str:
            output = self._parts(output, (*at, "output"), media=self._upstream is Surface.MESSAGES)
            if len(output) == 1 and output[0]["type"] == "text":
                output = output[0]["text"]
        call_id = a_string(item.get("call_id"), (*at, "call_id"))
        self.say({"role": "tool", "tool_call_id": call_id, "content": output}, i)

    def _parts(self, content: object, at: Pointer, *, media: bool) -> list[Json]:
        return [
            self._part(an_object(part, (*at, j)), (*at, j), media=media)
            for j, part in enumerate(a_list(content, at))
        ]

    def _part(self, part: Json, at: Pointer, *, media: bool) -> Json:
        kind = part.get("type")
        if kind in ("input_text", "output_text", "text"):
            ensure_carried(part, _TEXT_PART, at, self._upstream)
            return {"type": "text", "text": a_string(part.get("text"), (*at, "text"))}
        if kind == "refusal":
            ensure_carried(part, ("type", "refusal"), at, self._upstream)
            return {"type": "text", "text": a_string(part.get("refusal"), (*at, "refusal"))}
        if media and kind == "input_image":
            ensure_carried(part, _IMAGE_PART, at, self._upstream)
            image = {"url": a_string(part.get("image_url"), (*at, "image_url"))}
            if (detail := part.get("detail")) is not None:
                image["detail"] = a_string(detail, (*at, "detail"))
            return {"type": "image_url", "image_url": image}
        if media and kind == "input_file":
            known = (*_FILE_PART, "file_url") if self._upstream is Surface.MESSAGES else _FILE_PART
            ensure_carried(part, known, at, self._upstream, {"detail": ("auto",)})
            # Chat takes data alone; on the way to the Messages API its translation reads a URL as well.
            given = "file_url" if "file_url" in known and part.get("file_url") is not None else "file_data"
            file = {"file_data": a_string(part.get(given), (*at, given))}
            if (name := part.get("filename")) is not None:
                file["filename"] = a_string(name, (*at, "filename"))
            return {"type": "file", "file": file}
        if type(kind) is not str:
            raise wrong((*at, "type"), "the type of a part", kind)
        raise cannot((*at, "type"), self._upstream, kind[:64])


def _tools(body: Json, out: Json, upstream: Surface) -> None:
    offered = body.get("tools")
    tools = [
        _tool(an_object(tool, ("tools", i)), ("tools", i), upstream)
        for i, tool in enumerate(a_list(offered, ("tools",)) if offered is not None else ())
    ]
    at: Pointer = ("tool_choice",)
    choice = body.get("tool_choice")
    chosen: Any = None
    if type(choice) is dict:
        if choice.get("type") != "function":
            raise cannot((*at, "type"), upstream, str(choice.get("type"))[:64])
        ensure_carried(choice, ("type", "name"), at, upstream)
        chosen = {"type": "function", "function": {"name": a_string(choice.get("name"), (*at, "name"))}}
    elif choice is not None:
        chosen = one_of(choice, ("auto", "none", "required"), at)
    parallel = body.get("parallel_tool_calls")
    parallel = a_flag(parallel, ("parallel_tool_calls",)) if parallel is not None else True
    if not tools:
        if chosen not in (None, "auto", "none"):
            raise wrong(at, "tools to choose from", choice)
        return
    out["tools"] = tools
    if chosen is not None:
        out["tool_choice"] = chosen
    if not parallel:
        out["parallel_tool_calls"] = False


def _tool(tool: Json, at: Pointer, upstream: Surface) -> Json:
    if tool.get("type") != "function":
        raise cannot((*at, "type"), upstream, str(tool.get("type"))[:64])
    ensure_carried(
        tool,
        ("type", "name", "description", "parameters", "strict"),
        at,
        upstream,
        {"defer_loading": (False,), "allowed_callers": (["direct"],), "async": (False,)},
    )
    function: Json = {"name": a_string(tool.get("name"), (*at, "name"))}
    if (description := tool.get("description")) is not None:
        function["description"] = a_string(description, (*at, "description"))
    if (parameters := tool.get("parameters")) is not None:
        function["parameters"] = an_object(parameters, (*at, "parameters"))
    if (strict := tool.get("strict")) is not None and a_flag(strict, (*at, "strict")):
        function["strict"] = True
    return {"type": "function", "function": function}


def _text_and_reasoning(body: Json, out: Json, upstream: Surface) -> None:
    if (text := body.get("text")) is not None:
        text = an_object(text, ("text",))
        ensure_carried(text, ("format", "verbosity"), ("text",), upstream)
        if (verbosity := text.get("verbosity")) is not None and verbosity != "medium":
            out["verbosity"] = a_string(verbosity, ("text", "verbosity"))
        if (wanted := text.get("format")) is not None:
            _format(an_object(wanted, ("text", "format")), out, upstream)
    if (reasoning := body.get("reasoning")) is not None:
        reasoning = an_object(reasoning, ("reasoning",))
        ensure_carried(
            reasoning,
            ("effort", "summary", "generate_summary"),
            ("reasoning",),
            upstream,
            {"context": ("auto", "current_turn"), "mode": ("standard",)},
        )
        if (effort := reasoning.get("effort")) is not None:
            out["reasoning_effort"] = a_string(effort, ("reasoning", "effort"))


def _format(wanted: Json, out: Json, upstream: Surface) -> None:
    at: Pointer = ("text", "format")
    kind = one_of(wanted.get("type"), ("text", "json_object", "json_schema"), (*at, "type"))
    if kind != "json_schema":
        ensure_carried(wanted, ("type",), at, upstream)
        if kind != "text":
            out["response_format"] = {"type": kind}
        return
    ensure_carried(wanted, ("type", "name", "schema", "strict", "description"), at, upstream)
    schema = {
        key: wanted[key] for key in ("name", "description", "schema", "strict") if wanted.get(key) is not None
    }
    out["response_format"] = {"type": kind, "json_schema": schema}


def _labels(body: Json, out: Json, upstream: Surface) -> None:
    wishes = body.get("include")
    for i, wish in enumerate(a_list(wishes, ("include",)) if wishes is not None else ()):
        if a_string(wish, ("include", i)) not in _NOTHING_TO_INCLUDE:
            raise cannot(("include", i), upstream, wish[:64])
    if (options := body.get("stream_options")) is not None:
        at: Pointer = ("stream_options",)
        # Padding against eavesdroppers is OpenAI's to add.
        ensure_carried(an_object(options, at), ("include_obfuscation",), at, upstream)
    for name in ("safety_identifier", "user"):
        if (user := body.get(name)) is not None:
            out.setdefault("user", a_string(user, (name,)))
    if (tier := body.get("service_tier")) not in (None, "auto"):
        out["service_tier"] = a_string(tier, ("service_tier",))


RESPONSES_CHAT: Translation = _ResponsesChat()
