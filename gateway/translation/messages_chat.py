"""Clients of the Messages API on a provider of chat completions.

    system                one system message, blocks joined by a blank line, since some servers take no more;
                          without Claude Code's billing header, which is no instruction and changes each time
    user message          its tool results as `tool` messages, then all the rest as one user message
    assistant message     its texts as one, its calls. Thinking is left out: chat providers take none back
    cache_control         left out everywhere: chat providers cache by themselves

A result's `is_error` is told in words. A picture inside a tool result is refused: chat providers take
pictures from the user alone, and what a tool returned must not speak with the user's voice.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson

from gateway.domain import Json, Surface
from gateway.translation.base import DEFAULT_LIMIT, OutputLimit, StreamTranslation, Translation
from gateway.translation.calls import CallIds, arguments_of, chat_id
from gateway.translation.faults import messages_error, read_fault_body
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
from gateway.translation.media import document_part, image_part
from gateway.translation.messages_answers import ChatToMessages, messages_answer
from gateway.translation.pipe import Pipe

_HERE = Surface.CHAT
_CARRIED = frozenset(
    (
        "model",
        "messages",
        "system",
        "max_tokens",
        "stop_sequences",
        "stream",
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "metadata",
        "thinking",
        "output_config",
        "service_tier",
        "context_management",
    )
)
_LEFT_OUT = frozenset(("cache_control",))
_NEUTRAL: dict[str, tuple[object, ...]] = {"speed": ("standard",), "mcp_servers": ([],)}
_BILLING_HEADER = "x-anthropic-billing-header"
_THOUGHTS = ("thinking", "redacted_thinking")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_BUDGETS = ((1024, "low"), (8192, "medium"))
"""The least effort that Google's OpenAI endpoint gives so many thinking tokens; above them it is `high`:
https://ai.google.dev/gemini-api/docs/openai#thinking"""
_CHOICES = {"auto": "auto", "none": "none", "any": "required"}
_TIERS = {"auto": None, "standard_only": "default"}
_LONGEST_USER = 64
"""OpenAI refuses a longer `user`."""
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _MessagesChat:
    client = Surface.MESSAGES
    upstream = Surface.CHAT

    def request(self, body: Json, limit: OutputLimit = DEFAULT_LIMIT) -> Json:
        ensure_carried(body, _CARRIED | _LEFT_OUT, (), _HERE, _NEUTRAL)
        conversation = _Conversation()
        if (system := body.get("system")) is not None:
            conversation.system(system)
        for i, message in enumerate(a_list(body.get("messages"), ("messages",))):
            conversation.add(an_object(message, ("messages", i)), ("messages", i))
        conversation.ensure_askable()
        out: Json = {
            "model": a_string(body.get("model"), ("model",)),
            "messages": conversation.messages,
            limit.field: _max_tokens(body, limit),
        }
        _tools(body, out)
        _sampling(body, out)
        _thinking_and_format(body, out)
        _labels(body, out)
        if body.get("stream") is not None:
            out["stream"] = a_flag(body["stream"], ("stream",))
            if out["stream"]:
                # The Messages API tells usage without being asked.
                out["stream_options"] = {"include_usage": True}
        return out

    def answer(self, reply: Json, request: Json, *, created: int = 0) -> Json:
        return messages_answer(reply, request, created=created)

    def error(self, status: int, reply: bytes) -> bytes:
        return orjson.dumps(messages_error(read_fault_body(reply), status))

    def stream(self, request: Json, *, created: int = 0) -> StreamTranslation:
        return Pipe(Surface.MESSAGES, ChatToMessages(request, created=created))


class _Conversation:
    """The system prompt and messages, turned one by one into chat messages."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self._ids = CallIds(chat_id)
        self._prefills = False

    def system(self, system: object, at: Pointer = ("system",)) -> None:
        text = _system_text(system, at)
        if text:
            self.messages.append({"role": "system", "content": text})

    def add(self, message: Json, at: Pointer) -> None:
        ensure_carried(message, ("role", "content"), at, _HERE)
        role, content = message.get("role"), message.get("content")
        at_content = (*at, "content")
        if role == "system":
            self.system(content, at_content)
            return
        self._prefills = role == "assistant"
        if role not in ("user", "assistant"):
            raise wrong((*at, "role"), '"user" or "assistant"', role)
        if type(content) is str:
            self.messages.append({"role": role, "content": content})
        elif role == "user":
            self._user(a_list(content, at_content), at_content)
        else:
            self._assistant(a_list(content, at_content), at_content)

    def ensure_askable(self) -> None:
        """A last message of the assistant is to be continued; a chat provider would answer it."""
        if not self.messages:
            raise wrong(("messages",), "at least one message", [])
        if self._prefills:
            raise cannot(("messages",), _HERE, "ending with a message of the assistant, to be continued")

    def _user(self, content: list[Any], at: Pointer) -> None:
        parts: list[Json] = []
        for j, block in enumerate(content):
            block = an_object(block, (*at, j))
            if block.get("type") == "tool_result":
                self.messages.append(self._result(block, (*at, j)))
            else:
                parts.append(_user_part(block, (*at, j)))
        if len(parts) == 1 and parts[0]["type"] == "text":
            self.messages.append({"role": "user", "content": parts[0]["text"]})
        elif parts:
            self.messages.append({"role": "user", "content": parts})

    def _result(self, block: Json, at: Pointer) -> Json:
        ensure_carried(block, ("type", "tool_use_id", "content", "is_error", "cache_control"), at, _HERE)
        content = block.get("content")
        texts: list[str] = [content] if type(content) is str else []
        if content is not None and type(content) is not str:
            for j, part in enumerate(a_list(content, (*at, "content"))):
                texts.append(_text(an_object(part, (*at, "content", j)), (*at, "content", j)))
        failed = block.get("is_error")
        if failed is not None and a_flag(failed, (*at, "is_error")):
            texts = _as_error(texts)
        call_id = self._ids.result(a_string(block.get("tool_use_id"), (*at, "tool_use_id")))
        told: Any = [{"type": "text", "text": text} for text in texts] if len(texts) > 1 else "".join(texts)
        return {"role": "tool", "tool_call_id": call_id, "content": told}

    def _assistant(self, content: list[Any], at: Pointer) -> None:
        texts: list[str] = []
        calls: list[Json] = []
        for j, block in enumerate(content):
            block = an_object(block, (*at, j))
            kind = block.get("type")
            if kind == "tool_use":
                calls.append(self._call(block, (*at, j)))
            elif kind not in _THOUGHTS:
                texts.append(_text(block, (*at, j)))
        text = "".join(texts)
        message: Json = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = calls
        if calls or text:
            self.messages.append(message)

    def _call(self, block: Json, at: Pointer) -> Json:
        ensure_carried(
            block,
            ("type", "id", "name", "input", "cache_control"),
            at,
            _HERE,
            {"caller": ({"type": "direct"},)},
        )
        given = an_object(block.get("input"), (*at, "input"))
        return {
            "id": self._ids.call(a_string(block.get("id"), (*at, "id"))),
            "type": "function",
            "function": {
                "name": a_string(block.get("name"), (*at, "name")),
                "arguments": arguments_of(given),
            },
        }


def _system_text(system: object, at: Pointer) -> str:
    if type(system) is str:
        return system
    texts = [_text(an_object(block, (*at, i)), (*at, i)) for i, block in enumerate(a_list(system, at))]
    return "\n\n".join([text for text in texts if text and not text.startswith(_BILLING_HEADER)])


def _text(block: Json, at: Pointer) -> str:
    kind = block.get("type")
    if kind != "text":
        if type(kind) is not str:
            raise wrong((*at, "type"), "the type of a block", kind)
        raise cannot((*at, "type"), _HERE, kind[:64])
    # Citations tell where an earlier answer came from.
    ensure_carried(block, ("type", "text", "cache_control", "citations"), at, _HERE)
    return a_string(block.get("text"), (*at, "text"))


def _user_part(block: Json, at: Pointer) -> Json:
    kind = block.get("type")
    if kind == "image":
        return image_part(block, at)
    if kind == "document":
        return document_part(block, at)
    return {"type": "text", "text": _text(block, at)}


def _as_error(texts: list[str]) -> list[str]:
    """Chat has no flag for it; most tools say it themselves."""
    if texts and texts[0].lstrip()[:5].lower() == "error":
        return texts
    return [f"Error: {texts[0]}" if texts else "Error", *texts[1:]]


def _max_tokens(body: Json, limit: OutputLimit) -> int:
    tokens = body.get("max_tokens")
    return limit.tokens if tokens is None else a_count(tokens, ("max_tokens",))


def _tools(body: Json, out: Json) -> None:
    offered = body.get("tools")
    tools = [
        _tool(an_object(tool, ("tools", i)), ("tools", i))
        for i, tool in enumerate(a_list(offered, ("tools",)) if offered is not None else ())
    ]
    if tools:
        out["tools"] = tools
    choice = body.get("tool_choice")
    if choice is None:
        return
    at: Pointer = ("tool_choice",)
    choice = an_object(choice, at)
    kind = choice.get("type")
    ensure_carried(choice, ("type", "name", "disable_parallel_tool_use"), at, _HERE)
    if kind == "tool":
        chosen: Any = {"type": "function", "function": {"name": a_string(choice.get("name"), (*at, "name"))}}
    else:
        chosen = _CHOICES[one_of(kind, _CHOICES, (*at, "type"))]
    if not tools:
        if chosen not in ("auto", "none"):
            raise wrong(at, "tools to choose from", choice)
        return
    out["tool_choice"] = chosen
    serial = choice.get("disable_parallel_tool_use")
    if serial is not None and a_flag(serial, (*at, "disable_parallel_tool_use")):
        out["parallel_tool_calls"] = False


def _tool(tool: Json, at: Pointer) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise cannot((*at, "type"), _HERE, str(tool["type"])[:64])
    ensure_carried(
        tool,
        ("type", "name", "description", "input_schema", "strict", "cache_control", "eager_input_streaming"),
        at,
        _HERE,
        {"defer_loading": (False,), "allowed_callers": (["direct"],), "input_examples": ([],)},
    )
    function: Json = {"name": a_string(tool.get("name"), (*at, "name"))}
    if (description := tool.get("description")) is not None:
        function["description"] = a_string(description, (*at, "description"))
    function["parameters"] = an_object(tool.get("input_schema"), (*at, "input_schema"))
    if (strict := tool.get("strict")) is not None and a_flag(strict, (*at, "strict")):
        function["strict"] = True
    return {"type": "function", "function": function}


def _sampling(body: Json, out: Json) -> None:
    for name in ("temperature", "top_p"):
        if (value := body.get(name)) is not None:
            out[name] = a_number(value, (name,))
    if (stops := body.get("stop_sequences")) is not None:
        stops = [
            a_string(stop, ("stop_sequences", i)) for i, stop in enumerate(a_list(stops, ("stop_sequences",)))
        ]
        if stops:
            out["stop"] = stops


def _thinking_and_format(body: Json, out: Json) -> None:
    config = body.get("output_config")
    config = an_object(config, ("output_config",)) if config is not None else {}
    ensure_carried(config, ("effort", "format"), ("output_config",), _HERE)
    effort = _thinking_effort(body)
    if (named := config.get("effort")) is not None:
        one_of(named, _EFFORTS, ("output_config", "effort"))
        # Chat has one word for both: who thinks not at all has no effort, who does is told by its name.
        effort = effort if effort == "none" else named
    if effort:
        out["reasoning_effort"] = effort
    if (wanted := config.get("format")) is not None:
        at: Pointer = ("output_config", "format")
        wanted = an_object(wanted, at)
        ensure_carried(wanted, ("type", "schema"), at, _HERE)
        one_of(wanted.get("type"), ("json_schema",), (*at, "type"))
        schema = an_object(wanted.get("schema"), (*at, "schema"))
        out["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": _schema_name(schema), "schema": schema, "strict": True},
        }


def _schema_name(schema: Json) -> str:
    """Chat demands a name: the schema's title where it is one."""
    title = schema.get("title")
    return title if type(title) is str and _SCHEMA_NAME.fullmatch(title) else "answer"


def _thinking_effort(body: Json) -> str | None:
    """What `thinking` asks of a chat provider; None leaves it to the model, as `adaptive` does."""
    if (thinking := body.get("thinking")) is None:
        return None
    at: Pointer = ("thinking",)
    thinking = an_object(thinking, at)
    kind = thinking.get("type")
    if kind == "disabled":
        ensure_carried(thinking, ("type",), at, _HERE)
        return "none"
    if kind == "adaptive":
        ensure_carried(thinking, ("type", "display"), at, _HERE)
        return None
    if kind != "enabled":
        raise cannot((*at, "type"), _HERE, str(kind)[:32])
    ensure_carried(thinking, ("type", "display", "budget_tokens"), at, _HERE)
    budget = a_count(thinking.get("budget_tokens"), (*at, "budget_tokens"))
    return next((effort for tokens, effort in _BUDGETS if budget <= tokens), "high")


def _labels(body: Json, out: Json) -> None:
    if (metadata := body.get("metadata")) is not None:
        metadata = an_object(metadata, ("metadata",))
        ensure_carried(metadata, ("user_id",), ("metadata",), _HERE)
        if (user := metadata.get("user_id")) is not None:
            out["user"] = _user(a_string(user, ("metadata", "user_id")))
    if (tier := body.get("service_tier")) is not None:
        tier = _TIERS[one_of(tier, _TIERS, ("service_tier",))]
        if tier:
            out["service_tier"] = tier
    if (managed := body.get("context_management")) is not None:
        _ensure_done_anyway(an_object(managed, ("context_management",)))


def _user(user_id: str) -> str:
    if len(user_id) <= _LONGEST_USER:
        return user_id
    return hashlib.sha256(user_id.encode("utf-8", "replace")).hexdigest()


def _ensure_done_anyway(managed: Json) -> None:
    """Clearing thoughts out of the history is what this translation does; nothing else can be asked."""
    at: Pointer = ("context_management",)
    ensure_carried(managed, ("edits",), at, _HERE)
    edits = managed.get("edits")
    for i, edit in enumerate(a_list(edits, (*at, "edits")) if edits is not None else ()):
        kind = an_object(edit, (*at, "edits", i)).get("type")
        if type(kind) is not str or not kind.startswith("clear_thinking_"):
            raise cannot((*at, "edits", i, "type"), _HERE, str(kind)[:64])


MESSAGES_CHAT: Translation = _MessagesChat()
