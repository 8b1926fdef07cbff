"""What a wire API is to the simulated provider: one file each, listed in `surfaces/__init__.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer
from gateway.testing.script import ABSENT, HONEST, Ask, Reply
from gateway.testing.tokens import Tokens

Mark = Literal["role", "content", "finish", "usage", "done", "error", "other"]


class RequestError(Exception):
    """The request is not what this surface takes; answered 400 in the surface's error shape."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


@dataclass(slots=True)
class Event:
    """One server-sent event before framing. `tokens` were generated for it."""

    data: bytes
    tokens: int = 0
    mark: Mark = "other"
    carries_usage: bool = False
    name: bytes | None = None
    """The `event:` line, for surfaces that have one."""


class ProviderSurface(Protocol):
    """Reads requests and writes answers of one wire API; bytes in and out, no sockets.

    `prompt_tokens`, `plain` and `events` are only called with what `read` made.
    """

    name: Surface

    def read(self, body: Json) -> Ask:
        """The request. Raises: `RequestError`."""

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        """Input tokens as the provider counts them."""

    def plain(self, answer: Answer) -> bytes:
        """The whole body."""

    def events(self, answer: Answer) -> Iterator[Event]:
        """The stream, terminal event included."""

    def error(self, status: int, message: str, kind: str, code: str | None, param: str | None) -> bytes:
        """The body of an error."""

    def error_event(self, reply: Reply) -> Event:
        """An error in the middle of a stream."""


def object_at(body: Json, name: str) -> Json:
    """A field that is an object, or absent. Raises: `RequestError`."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"'{name}' must be an object.", name)
    return value


def count_at(body: Json, name: str) -> int | None:
    """A field that is a whole number from 1 on, or absent. Raises: `RequestError`."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"'{name}' must be an integer of at least 1.", name)
    return value


def flag_at(body: Json, name: str) -> bool:
    """A boolean field, false if absent. Raises: `RequestError`."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise RequestError(f"'{name}' must be a boolean.", name)
    return value


def text_of(content: Any) -> str:
    """The text of a message's content, be it a string or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text", part.get("refusal", "")) for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def reports_usage(reply: Reply) -> bool:
    """The script leaves a usage field in the answer, whatever it holds."""
    return reply.usage_raw is not None or not (isinstance(reply.usage, str) and reply.usage == ABSENT)


def carries_usage(reply: Reply) -> bool:
    """The usage field that is left holds something to read."""
    return reports_usage(reply) and (reply.usage_raw is not None or reply.usage is not None)


def usage_value(reply: Reply, honest: Json) -> Any:
    """What goes where the usage object belongs; only for replies that `reports_usage`."""
    if reply.usage_raw is not None:
        return orjson.Fragment(reply.usage_raw.encode())
    if isinstance(reply.usage, str) and reply.usage == HONEST:
        return honest
    # The standard library writes what orjson refuses: NaN, Infinity, integers beyond 64 bits.
    return orjson.Fragment(json.dumps(reply.usage).encode())
