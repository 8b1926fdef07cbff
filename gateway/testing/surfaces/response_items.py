"""The items of a Responses dialogue: how a request's are read, told as turns, checked and counted.

One turn of the model may be many items (reasoning, messages, calls, one after the other); scripts see it as
one turn, as on chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from gateway.domain import Json
from gateway.testing.script import Turn
from gateway.testing.surfaces.base import (
    TOKENS_PER_MEDIA_PART,
    TOKENS_PER_MESSAGE,
    RequestError,
    media_in,
    text_of,
)
from gateway.testing.tokens import Tokens

REFERENCE = "item_reference"

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_PAIRED = {"function_call": "function call", "custom_tool_call": "custom tool call"}
"""Calls that need a result, as errors name them."""

_NEEDED = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
    "function_call_output": ("call_id",),
    "custom_tool_call_output": ("call_id",),
    REFERENCE: ("id",),
}


def items_of(value: Any) -> tuple[Json, ...]:
    """The items of a request's `input`. Raises: `RequestError`."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (_message("user", value),)
    if not isinstance(value, list):
        raise RequestError(
            f"Invalid type for 'input': expected one of a string or array of objects, but got {_kind(value)} "
            "instead.",
            "input",
            code="invalid_type",
        )
    return tuple(_item(entry, f"input[{index}]") for index, entry in enumerate(value))


def conversation_id(body: Json) -> str | None:
    """The conversation a request belongs to. Raises: `RequestError`."""
    value = body.get("conversation")
    told = value.get("id") if isinstance(value, dict) else value
    if not isinstance(told, str | None) or (told is None and value is not None):
        raise RequestError("'conversation' must be an id, or an object with one.", "conversation")
    return told


def _message(role: str, text: str) -> Json:
    part = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": part, "text": text}]}


def _item(entry: Any, where: str) -> Json:
    if not isinstance(entry, dict):
        message = f"Invalid type for '{where}': expected an object, but got {_kind(entry)} instead."
        raise RequestError(message, where, code="invalid_type")
    kind = entry.get("type", "message" if "role" in entry else None)
    if not isinstance(kind, str):
        raise _missing(f"{where}.type")
    if kind == "message":
        role = entry.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            supported = ", ".join(f"'{name}'" for name in _ROLES)
            raise RequestError(
                f"Invalid value: '{role}'. Supported values are: {supported}.",
                f"{where}.role",
                code="invalid_value",
            )
        if isinstance(entry.get("content"), str):
            return {**entry, **_message(role, entry["content"])}
        if not isinstance(entry.get("content"), list):
            raise _missing(f"{where}.content")
        return {"type": "message", **entry}
    for name in _NEEDED.get(kind, ()):
        if not isinstance(entry.get(name), str):
            raise _missing(f"{where}.{name}")
    return entry


def _missing(where: str) -> RequestError:
    return RequestError(f"Missing required parameter: '{where}'.", where, code="missing_required_parameter")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    return {int: "an integer", float: "a decimal", dict: "an object", list: "an array", str: "a string"}.get(
        type(value), "null"
    )


def _is_models(item: Json) -> bool:
    """The model made this item: it belongs to an assistant's turn."""
    kind: str = item["type"]
    if kind == "message":
        return str(item["role"]) == "assistant"
    return kind == "reasoning" or kind.endswith("_call")


def turns_of(items: Iterable[Json], instructions: Any) -> Iterator[Turn]:
    """The dialogue as scripts see it."""
    if isinstance(instructions, str) and instructions:
        yield Turn("system", instructions)
    said, calls, speaking = "", 0, False
    for item in items:
        if _is_models(item):
            speaking = True
            said += text_of(item.get("content"))
            calls += "call_id" in item
            continue
        if speaking:
            yield Turn("assistant", said, calls)
            said, calls, speaking = "", 0, False
        if item["type"] == "message":
            yield Turn(_ROLES[item["role"]], text_of(item["content"]))  # type: ignore[arg-type]
        elif item["type"].endswith("_output"):
            yield Turn("tool", text_of(item.get("output")))
    if speaking:
        yield Turn("assistant", said, calls)


def fault_in(items: Iterable[Json]) -> RequestError | None:
    """A tool result that answers no call before it, or a call that has no result."""
    open_calls: dict[str, str] = {}
    for item in items:
        named = _PAIRED.get(item["type"].removesuffix("_output"))
        if named is None:
            continue
        call_id = item["call_id"]
        if not item["type"].endswith("_output"):
            open_calls[call_id] = named
        elif open_calls.pop(call_id, None) is None:
            return RequestError(f"No tool call found for {named} output with call_id {call_id}.", "input")
    for call_id, named in open_calls.items():
        return RequestError(f"No tool output found for {named} {call_id}.", "input")
    return None


def tokens_in(items: Iterable[Json], instructions: Any, tools: Any, tokens: Tokens) -> int:
    """Input tokens of all that, without those of the reply."""
    total = 0
    if isinstance(instructions, str) and instructions:
        total += TOKENS_PER_MESSAGE + tokens.count("system") + tokens.count(instructions)
    for item in items:
        if item["type"] == "message":
            total += (
                TOKENS_PER_MESSAGE + tokens.count(item["role"]) + _content_tokens(item["content"], tokens)
            )
        elif item["type"].endswith("_output"):
            total += TOKENS_PER_MESSAGE + _content_tokens(item.get("output"), tokens)
        elif item["type"].endswith("_call"):
            said = (item.get(name) for name in ("name", "arguments", "input"))
            total += sum(tokens.count(text) for text in said if isinstance(text, str))
    if tools:
        total += tokens.count(orjson.dumps(tools).decode())
    return total


def _content_tokens(content: Any, tokens: Tokens) -> int:
    return tokens.count(text_of(content)) + TOKENS_PER_MEDIA_PART * media_in(content)
