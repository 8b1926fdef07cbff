"""Chat completions clients on a provider of the Messages API.

    system, developer     all of them, wherever they stand, in order: blocks of `system`, as Anthropic's own
                          chat endpoint does. Many models refuse system turns inside the conversation
    tool                  a `tool_result`; those in a row are one user message, and the user's text after them
                          joins it, as the Messages API demands
    assistant             texts and refusals, then its calls. What it thought (`reasoning_content`) is left
                          out: it counts only with its signature, which chat clients do not keep
    blank text            left out: it says nothing, and the Messages API refuses it

So that no request fails for a missing signature, thinking with a budget is never switched on here:
`reasoning_effort` becomes `output_config.effort`, under which turns without thoughts are accepted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson

from gateway.domain import Json, Surface
from gateway.errors import CallerError
from gateway.translation.base import DEFAULT_LIMIT, OutputLimit, StreamTranslation, Translation
from gateway.translation.calls import CallIds, input_of, messages_id
from gateway.translation.chat_answers import MessagesToChat, chat_answer
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
from gateway.translation.media import document_block, image_block
from gateway.translation.pipe import Pipe

_HERE = Surface.MESSAGES
_CARRIED = frozenset(
    (
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "stream",
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "service_tier",
        "user",
        "safety_identifier",
        "stream_options",
    )
)
_LEFT_OUT = frozenset(
    (
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    )
)
"""Labels of what OpenAI stores, and advice to its cache: nothing that the model is told or does."""
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "functions": ([],),
}
_ECHOED = ("annotations", "reasoning", "reasoning_content", "reasoning_details", "thinking", "index")
"""What clients send back of an answer besides its content: thoughts, and notes on where it comes from."""
_TEXT_PART = ("type", "text", "cache_control", "prompt_cache_breakpoint")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_TIERS = {"auto": None, "default": "standard_only"}
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_LONGEST_USER_ID = 256


class _ChatMessages:
    client = Surface.CHAT
    upstream = Surface.MESSAGES

    def request(self, body: Json, limit: OutputLimit = DEFAULT_LIMIT) -> Json:
        ensure_carried(body, _CARRIED | _LEFT_OUT, (), _HERE, _NEUTRAL)
        conversation = _Conversation()
        for i, message in enumerate(a_list(body.get("messages"), ("messages",))):
            conversation.add(an_object(message, ("messages", i)), ("messages", i))
        conversation.ensure_askable()
        out: Json = {
            "model": a_string(body.get("model"), ("model",)),
            "max_tokens": _output_limit(body, limit),
            "messages": conversation.messages,
        }
        if conversation.system:
            out["system"] = conversation.system
        _tools(body, out, conversation.tools_called)
        _sampling(body, out)
        _effort_and_format(body, out)
        if user := body.get("safety_identifier") or body.get("user"):
            name = "safety_identifier" if body.get("safety_identifier") else "user"
            out["metadata"] = {"user_id": _user_id(a_string(user, (name,)))}
        if (tier := body.get("service_tier")) is not None:
            if type(tier) is not str or tier not in _TIERS:
                raise cannot(("service_tier",), _HERE, str(tier)[:32])
            if _TIERS[tier]:
                out["service_tier"] = _TIERS[tier]
        _wants_usage(body)
        if body.get("stream") is not None:
            out["stream"] = a_flag(body["stream"], ("stream",))
        return out

    def answer(self, reply: Json, request: Json, *, created: int = 0) -> Json:
        return chat_answer(reply, request, created=created)

    def error(self, status: int, reply: bytes) -> bytes:
        return orjson.dumps(chat_error(read_fault_body(reply)))

    def stream(self, request: Json, *, created: int = 0) -> StreamTranslation:
        return Pipe(
            Surface.CHAT, MessagesToChat(request, created=created, include_usage=_wants_usage(request))
        )


class _Conversation:
    """Chat messages, turned one by one into `system` and `messages`."""

    def __init__(self) -> None:
        self.system: list[Json] = []
        self.messages: list[Json] = []
        self.tools_called: dict[str, None] = {}
        """Names of the tools that the history shows, in order."""
        self._ids = CallIds(messages_id)

    def add(self, message: Json, at: Pointer) -> None:
        role = message.get("role")
        if role in ("system", "developer"):
            ensure_carried(message, ("role", "content"), at, _HERE)
            self.system.extend(_blocks(message.get("content"), (*at, "content"), _text_block))
        elif role == "user":
            ensure_carried(message, ("role", "content"), at, _HERE)
            self._user(message, at)
        elif role == "assistant":
            self._assistant(message, at)
        elif role == "tool":
            # Its name repeats that of the call.
            ensure_carried(message, ("role", "content", "tool_call_id", "name"), at, _HERE)
            self._result(message, at)
        elif role == "function":
            raise cannot((*at, "role"), _HERE, "function")
        else:
            raise wrong((*at, "role"), "a role", role)

    def ensure_askable(self) -> None:
        """The Messages API continues a last message of the assistant instead of answering it."""
        if not self.messages:
            raise cannot(("messages",), _HERE, "nothing said but by the system")
        if self.messages[-1]["role"] == "assistant":
            raise cannot(("messages",), _HERE, "ending with a message of the assistant")

    def _user(self, message: Json, at: Pointer) -> None:
        content = message.get("content")
        after_results = self._results()
        if type(content) is str and after_results is None:
            if content and not content.isspace():
                self.messages.append({"role": "user", "content": content})
            return
        blocks = _blocks(content, (*at, "content"), _content_block)
        if after_results is not None:
            after_results.extend(blocks)
        elif blocks:
            self.messages.append({"role": "user", "content": blocks})

    def _result(self, message: Json, at: Pointer) -> None:
        call_id = a_string(message.get("tool_call_id"), (*at, "tool_call_id"))
        block: Json = {"type": "tool_result", "tool_use_id": self._ids.result(call_id)}
        content = message.get("content")
        told: Any = content
        if content is not None and type(content) is not str:
            told = _blocks(content, (*at, "content"), _content_block)
        if told and not (type(told) is str and told.isspace()):
            block["content"] = told
        results = self._results()
        if results is None:
            self.messages.append({"role": "user", "content": [block]})
        else:
            results.append(block)

    def _results(self) -> list[Json] | None:
        """The content of the last message, if it ends with a result."""
        if not self.messages or self.messages[-1]["role"] != "user":
            return None
        content = self.messages[-1]["content"]
        return content if type(content) is list and content[-1]["type"] == "tool_result" else None

    def _assistant(self, message: Json, at: Pointer) -> None:
        ensure_carried(
            message,
            ("role", "content", "refusal", "tool_calls", *_ECHOED),
            at,
            _HERE,
        )
        content = message.get("content")
        blocks = _blocks(content, (*at, "content"), _assistant_block) if content is not None else []
        if (refusal := message.get("refusal")) is not None:
            blocks.extend(_blocks(refusal, (*at, "refusal"), _text_block))
        calls = message.get("tool_calls")
        for j, call in enumerate(a_list(calls, (*at, "tool_calls")) if calls is not None else ()):
            blocks.append(self._tool_use(call, (*at, "tool_calls", j)))
        if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
            self.messages.append({"role": "assistant", "content": blocks[0]["text"]})
        elif blocks:
            self.messages.append({"role": "assistant", "content": blocks})

    def _tool_use(self, call: object, at: Pointer) -> Json:
        call = an_object(call, at)
        if call.get("type") not in (None, "function"):
            raise cannot((*at, "type"), _HERE, str(call["type"])[:32])
        # `extra_content` is Google's own state, of no meaning to another provider.
        ensure_carried(call, ("id", "type", "function", "index", "extra_content"), at, _HERE)
        function = an_object(call.get("function"), (*at, "function"))
        at = (*at, "function")
        ensure_carried(function, ("name", "arguments"), at, _HERE)
        name = a_string(function.get("name"), (*at, "name"))
        arguments = function.get("arguments")
        self.tools_called[name] = None
        return {
            "type": "tool_use",
            "id": self._ids.call(a_string(call.get("id"), (*at[:-1], "id"))),
            "name": name,
            "input": input_of(a_string(arguments, (*at, "arguments")) if arguments is not None else ""),
        }


def _blocks(content: object, at: Pointer, read: Callable[[Json, Pointer], Json | None]) -> list[Json]:
    """The blocks of a message's content, whether a string or parts; blank texts are none."""
    if type(content) is str:
        return [{"type": "text", "text": content}] if content and not content.isspace() else []
    if type(content) is not list:
        raise wrong(at, "a string or a list of parts", content)
    blocks: list[Json] = []
    for j, part in enumerate(content):
        block = read(an_object(part, (*at, j)), (*at, j))
        if block is not None:
            blocks.append(block)
    return blocks


def _text_block(part: Json, at: Pointer) -> Json | None:
    if part.get("type") != "text":
        raise _unknown_part(part, at)
    ensure_carried(part, _TEXT_PART, at, _HERE)
    text = a_string(part.get("text"), (*at, "text"))
    return _cached({"type": "text", "text": text}, part, at) if text and not text.isspace() else None


def _assistant_block(part: Json, at: Pointer) -> Json | None:
    if part.get("type") != "refusal":
        return _text_block(part, at)
    ensure_carried(part, ("type", "refusal"), at, _HERE)
    text = a_string(part.get("refusal"), (*at, "refusal"))
    return {"type": "text", "text": text} if text and not text.isspace() else None


def _content_block(part: Json, at: Pointer) -> Json | None:
    kind = part.get("type")
    if kind == "image_url":
        return _cached(image_block(part, at), part, at)
    if kind == "file":
        return _cached(document_block(part, at), part, at)
    return _text_block(part, at)


def _cached(block: Json, part: Json, at: Pointer) -> Json:
    """The block with the cache mark that some chat clients set for Anthropic's models."""
    if (mark := part.get("cache_control")) is not None:
        block["cache_control"] = an_object(mark, (*at, "cache_control"))
    return block


def _unknown_part(part: Json, at: Pointer) -> CallerError:
    kind = part.get("type")
    if type(kind) is not str:
        return wrong((*at, "type"), "the type of a part", kind)
    return cannot((*at, "type"), _HERE, kind[:32])


def _output_limit(body: Json, limit: OutputLimit) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        if (tokens := body.get(name)) is not None:
            return a_count(tokens, (name,))
    return limit.tokens


def _tools(body: Json, out: Json, called: dict[str, None]) -> None:
    offered = body.get("tools")
    tools = [
        _tool(an_object(tool, ("tools", i)), ("tools", i))
        for i, tool in enumerate(a_list(offered, ("tools",)) if offered is not None else ())
    ]
    choice = body.get("tool_choice")
    serial = body.get("parallel_tool_calls")
    serial = serial is not None and not a_flag(serial, ("parallel_tool_calls",))
    if tools:
        out["tools"] = tools
        if chosen := _tool_choice(choice, serial):
            out["tool_choice"] = chosen
        return
    if choice not in (None, "auto", "none"):
        raise wrong(("tool_choice",), "tools to choose from", choice)
    if called:
        # A history with calls is refused unless tools are defined; these cannot be called.
        out["tools"] = [{"name": name, "input_schema": {"type": "object"}} for name in called]
        out["tool_choice"] = {"type": "none"}


def _tool(tool: Json, at: Pointer) -> Json:
    if tool.get("type") not in (None, "function"):
        raise cannot((*at, "type"), _HERE, str(tool["type"])[:64])
    ensure_carried(tool, ("type", "function", "cache_control"), at, _HERE)
    at_function = (*at, "function")
    function = an_object(tool.get("function"), at_function)
    ensure_carried(function, ("name", "description", "parameters", "strict"), at_function, _HERE)
    out: Json = {"name": a_string(function.get("name"), (*at_function, "name"))}
    if (description := function.get("description")) is not None:
        out["description"] = a_string(description, (*at_function, "description"))
    schema = function.get("parameters")
    schema = an_object(schema, (*at_function, "parameters")) if schema is not None else {}
    out["input_schema"] = schema if "type" in schema else {"type": "object", **schema}
    if (strict := function.get("strict")) is not None and a_flag(strict, (*at_function, "strict")):
        out["strict"] = True
    return _cached(out, tool, at)


def _tool_choice(choice: Any, serial: bool) -> Json | None:
    at: Pointer = ("tool_choice",)
    if choice is None:
        return {"type": "auto", "disable_parallel_tool_use": True} if serial else None
    if type(choice) is str:
        out: Json = {"type": _CHOICES[one_of(choice, _CHOICES, at)]}
    else:
        choice = an_object(choice, at)
        if choice.get("type") != "function":
            raise cannot((*at, "type"), _HERE, str(choice.get("type"))[:32])
        ensure_carried(choice, ("type", "function"), at, _HERE)
        function = an_object(choice.get("function"), (*at, "function"))
        out = {"type": "tool", "name": a_string(function.get("name"), (*at, "function", "name"))}
    if serial and out["type"] != "none":
        out["disable_parallel_tool_use"] = True
    return out


def _sampling(body: Json, out: Json) -> None:
    for name in ("temperature", "top_p"):
        value = body.get(name)
        # One is the default of both APIs, and newer models refuse to be told even that.
        if value is None or a_number(value, (name,)) == 1:
            continue
        if not 0 <= value <= 1:
            raise wrong((name,), "between 0 and 1 for a provider that speaks the Messages API", value)
        out[name] = value
    if (stop := body.get("stop")) is None:
        return
    stops = [stop] if type(stop) is str else a_list(stop, ("stop",))
    for i, each in enumerate(stops):
        at: Pointer = ("stop",) if type(stop) is str else ("stop", i)
        if not a_string(each, at).strip():
            raise cannot(at, _HERE, "blank")
    if stops:
        out["stop_sequences"] = stops


def _effort_and_format(body: Json, out: Json) -> None:
    config: Json = {}
    effort = body.get("reasoning_effort")
    if effort == "none":
        out["thinking"] = {"type": "disabled"}
    elif effort is not None:
        if type(effort) is not str or effort not in _EFFORTS:
            raise cannot(("reasoning_effort",), _HERE, str(effort)[:32])
        config["effort"] = effort
    if (wanted := body.get("response_format")) is not None:
        schema = _schema(an_object(wanted, ("response_format",)))
        if schema is not None:
            config["format"] = {"type": "json_schema", "schema": schema}
    if config:
        out["output_config"] = config


def _schema(wanted: Json) -> Json | None:
    at: Pointer = ("response_format",)
    kind = wanted.get("type")
    if kind == "text":
        ensure_carried(wanted, ("type",), at, _HERE)
        return None
    if kind != "json_schema":
        raise cannot((*at, "type"), _HERE, str(kind)[:32])
    ensure_carried(wanted, ("type", "json_schema"), at, _HERE)
    at = (*at, "json_schema")
    named = an_object(wanted.get("json_schema"), at)
    # The name is a label; `strict` is how the Messages API always answers.
    ensure_carried(named, ("name", "description", "schema", "strict"), at, _HERE)
    schema = an_object(named.get("schema"), (*at, "schema"))
    description = named.get("description")
    if description is None or "description" in schema:
        return schema
    return {**schema, "description": a_string(description, (*at, "description"))}


def _user_id(user: str) -> str:
    """An id that stays the same for a user and that the Messages API takes: it refuses long ones, and what
    looks like an e-mail address or a telephone number."""
    if len(user) <= _LONGEST_USER_ID and "@" not in user and any(c.isalpha() for c in user):
        return user
    return hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()


def _wants_usage(body: Json) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    options = an_object(options, ("stream_options",))
    # Padding against eavesdroppers is OpenAI's to add.
    ensure_carried(options, ("include_usage", "include_obfuscation"), ("stream_options",), _HERE)
    return bool(options.get("include_usage"))


CHAT_MESSAGES: Translation = _ChatMessages()
