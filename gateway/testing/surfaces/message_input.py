"""What a Messages request holds: its blocks read, told as turns, checked and counted.

Messages of one role that follow each other are one turn, as Anthropic reads them.
"""

from __future__ import annotations

import base64
import hashlib
import re
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

_ROLES = ("user", "assistant", "system")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_THOUGHTS = ("thinking", "redacted_thinking")
_SIGNER = "sim"


def signature(thinking: str) -> str:
    """What a thinking block is signed with; replaying it with another text is noticed."""
    return _SIGNER + base64.b64encode(hashlib.blake2b(thinking.encode(), digest_size=30).digest()).decode()


def _is_forged(block: Json) -> bool:
    """A thought signed here, whose text is another now. Nobody can tell with signatures made elsewhere."""
    signed = block.get("signature")
    if not isinstance(signed, str) or not signed.startswith(_SIGNER):
        return False
    return signed != signature(str(block.get("thinking")))


def blocks_of(content: Any) -> list[Json]:
    """A message's content as blocks. Only for content that was checked."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def check_messages(value: Any) -> list[Json]:
    """The messages of a request. Raises: `RequestError`."""
    if not isinstance(value, list):
        raise RequestError(
            "messages: Field required" if value is None else "messages: Input should be a list"
        )
    if not value:
        raise RequestError("messages: at least one message is required")
    for index, message in enumerate(value):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise RequestError(f"{where}: Input should be an object")
        if message.get("role") not in _ROLES:
            raise RequestError(f"{where}.role: Input should be 'user', 'assistant' or 'system'")
        content = message.get("content")
        if not isinstance(content, str | list):
            raise RequestError(f"{where}.content: Field required")
        if not content and not (message["role"] == "assistant" and index == len(value) - 1):
            raise RequestError(
                f"{where}: all messages must have non-empty content except for the optional final "
                "assistant message"
            )
        for position, block in enumerate(content if isinstance(content, list) else ()):
            _check_block(block, f"{where}.content.{position}")
    return value


def _check_block(block: Any, where: str) -> None:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise RequestError(f"{where}.type: Field required")
    match block["type"]:
        case "text":
            if not isinstance(block.get("text"), str):
                raise RequestError(f"{where}.text.text: Field required")
            if not block["text"]:
                raise RequestError("messages: text content blocks must be non-empty")
        case "tool_use":
            for name in ("id", "name"):
                if not isinstance(block.get(name), str):
                    raise RequestError(f"{where}.tool_use.{name}: Field required")
            if not isinstance(block.get("input"), dict):
                raise RequestError(f"{where}.tool_use.input: Input should be a valid dictionary")
        case "tool_result":
            if not isinstance(block.get("tool_use_id"), str):
                raise RequestError(f"{where}.tool_result.tool_use_id: Field required")


def turns_of(messages: Iterable[Json], system: Any) -> Iterator[Turn]:
    """The dialogue as scripts see it: every tool result is a turn of its own."""
    if told := text_of(system):
        yield Turn("system", told)
    said, calls, speaking = "", 0, False
    for message in messages:
        blocks = blocks_of(message["content"])
        if message["role"] == "assistant":
            speaking = True
            said += text_of(blocks)
            calls += sum(block["type"] == "tool_use" for block in blocks)
            continue
        if speaking:
            yield Turn("assistant", said, calls)
            said, calls, speaking = "", 0, False
        results = [block for block in blocks if block["type"] == "tool_result"]
        for block in results:
            yield Turn("tool", text_of(block.get("content")))
        if len(results) < len(blocks):
            yield Turn(message["role"], text_of(blocks))
    if speaking:
        yield Turn("assistant", said, calls)


def fault_in(messages: Iterable[Json]) -> RequestError | None:
    """A tool result that answers no call of the turn before, a call without one, or a changed thought."""
    open_calls: set[str] = set()
    asked: set[str] = set()
    asked_at, speaking = 0, False
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            if open_calls and not speaking:
                return _unanswered(asked_at, open_calls)
            if not speaking:
                asked = set()
            speaking, asked_at = True, index
        elif message["role"] == "user":
            speaking = False
        for position, block in enumerate(blocks_of(message["content"])):
            where = f"messages.{index}.content.{position}"
            match block["type"]:
                case "tool_use":
                    if not _TOOL_ID.fullmatch(block["id"]):
                        return RequestError(f"{where}.tool_use.id: String should match pattern '{_PATTERN}'")
                    open_calls.add(block["id"])
                    asked.add(block["id"])
                case "tool_result":
                    if block["tool_use_id"] not in asked:
                        return _unasked(where, block["tool_use_id"])
                    open_calls.discard(block["tool_use_id"])
                case "thinking":
                    if _is_forged(block):
                        return RequestError(f"{where}: Invalid `signature` in `thinking` block")
    return _unanswered(asked_at, open_calls) if open_calls else None


_PATTERN = f"^{_TOOL_ID.pattern}$"


def _unanswered(index: int, calls: set[str]) -> RequestError:
    return RequestError(
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(sorted(calls))}. Each `tool_use` block must have a corresponding `tool_result` block in "
        "the next message."
    )


def _unasked(where: str, call: str) -> RequestError:
    return RequestError(
        f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {call}. Each `tool_result` block "
        "must have a corresponding `tool_use` block in the previous message."
    )


def tokens_in(messages: Iterable[Json], system: Any, tools: Any, tokens: Tokens) -> int:
    """Input tokens of all that, without those of the reply. Thoughts of earlier turns are not read again."""
    total = 0
    if told := text_of(system):
        total += TOKENS_PER_MESSAGE + tokens.count("system") + tokens.count(told)
    for message in messages:
        total += TOKENS_PER_MESSAGE + tokens.count(message["role"])
        total += sum(_block_tokens(block, tokens) for block in blocks_of(message["content"]))
    if tools:
        total += tokens.count(orjson.dumps(tools).decode())
    return total


def _block_tokens(block: Json, tokens: Tokens) -> int:
    match block["type"]:
        case "text":
            return tokens.count(block["text"])
        case "tool_use":
            return tokens.count(block["name"]) + tokens.count(orjson.dumps(block["input"]).decode())
        case "tool_result":
            content = block.get("content")
            return (
                TOKENS_PER_MESSAGE
                + tokens.count(text_of(content))
                + TOKENS_PER_MEDIA_PART * media_in(content)
            )
        case kind:
            return 0 if kind in _THOUGHTS else TOKENS_PER_MEDIA_PART
