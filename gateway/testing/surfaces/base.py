"""What a wire API is to the simulated provider: one file each, listed in `surfaces/__init__.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from gateway.domain import Json, Surface
from gateway.testing.generate import Answer
from gateway.testing.script import ABSENT, HONEST, Ask, Reply, error_json
from gateway.testing.tokens import Tokens

Mark = Literal["role", "content", "finish", "usage", "done", "error", "other"]

TOKENS_PER_MESSAGE = 3
TOKENS_PER_REPLY = 3
TOKENS_PER_NAME = 1
TOKENS_PER_MEDIA_PART = 85
"""OpenAI's price of a low-detail image; every part without text counts so, on every surface."""


class RequestError(Exception):
    """The request cannot be served; answered in the surface's error shape."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as a surface is to tell it. `kind` is OpenAI's `type`; Anthropic's follows from the status."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None


@dataclass(slots=True)
class Event:
    """One server-sent event before framing. `tokens` were generated for it."""

    data: bytes
    tokens: int = 0
    mark: Mark = "other"
    carries_usage: bool = False
    name: bytes | None = None
    """The `event:` line, for surfaces that have one."""
    also: tuple[Mark, ...] = ()
    """Further marks, on surfaces where one event is several of them."""

    def is_at(self, point: str | int | None) -> bool:
        """Whether a script that names a phase of the stream means this event."""
        return point == self.mark or point in self.also


class ProviderSurface(Protocol):
    """Reads requests and writes answers of one wire API; bytes in and out, no sockets.

    `fault`, `prompt_tokens`, `plain`, `events` and `error_event` are only called with what `read` made.
    """

    name: Surface
    answer_id: str
    """Format of an answer's id, of `server` (random, the same for all of one server) and `number`."""
    call_prefix: str
    """What ids of tool calls begin with."""
    strict: bool
    """What `fault` finds is refused unless the script says otherwise."""
    free: bool
    """Nothing is billed, and no model's script is played."""
    required_header: bytes | None
    """A request header without which nothing is served."""
    media_type: str | None
    """The content type of an answer in binary, which `events` yields as raw pieces; else `None`."""

    def decode(self, data: bytes, content_type: bytes) -> Json:
        """The fields of a request body. Raises: `RequestError`."""

    def read(self, body: Json) -> Ask:
        """The request. Raises: `RequestError`."""

    def fault(self, ask: Ask) -> RequestError | None:
        """What a strict provider finds wrong with the dialogue's tool calls and results."""

    def prompt_tokens(self, ask: Ask, tokens: Tokens) -> int:
        """Input tokens as the provider counts them."""

    def plain(self, answer: Answer) -> bytes:
        """The whole body."""

    def events(self, answer: Answer) -> Iterator[Event]:
        """The stream, terminal event included."""

    def error(self, problem: Problem, request_id: str) -> bytes:
        """The body of an error."""

    def error_event(self, answer: Answer, index: int, generated: int) -> Event:
        """An error in the middle of a stream, as its event of that index, after that many tokens."""


class OpenAISurface:
    """What OpenAI's surfaces have in common; each overrides what it does otherwise."""

    answer_id = "sim-{server}{number}"
    call_prefix = "call_"
    strict = False
    free = False
    required_header: bytes | None = None
    media_type: str | None = None

    def decode(self, data: bytes, content_type: bytes) -> Json:
        return json_body(data)

    def fault(self, ask: Ask) -> RequestError | None:
        return None

    def events(self, answer: Answer) -> Iterator[Event]:
        raise RequestError("This endpoint does not stream.", "stream")

    def error(self, problem: Problem, request_id: str) -> bytes:
        return orjson.dumps(error_json(problem.message, problem.kind, problem.code, problem.param))

    def error_event(self, answer: Answer, index: int, generated: int) -> Event:
        error = answer.reply.error or error_json(MID_STREAM_FAILURE, "server_error")
        return Event(orjson.dumps(error), mark="error")


def scripted_error_event(error: Any) -> Event:
    """A scripted error in mid-stream, verbatim, under the event name that its `type` says."""
    kind = error.get("type") if isinstance(error, dict) else None
    return Event(orjson.dumps(error), mark="error", name=kind.encode() if isinstance(kind, str) else None)


MID_STREAM_FAILURE = "Simulated: the provider failed in the middle."


def json_body(data: bytes) -> Json:
    """A body that is a JSON object. Raises: `RequestError`."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(body, dict):
        raise RequestError("The body must be a JSON object.")
    return body


def model_at(body: Json) -> str:
    """The model's name. Raises: `RequestError`."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError("you must provide a model parameter", "model")
    return model


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


def stream_usage_at(body: Json, stream: bool) -> bool:
    """`stream_options.include_usage`, which only a stream may ask for. Raises: `RequestError`."""
    if not stream and body.get("stream_options") is not None:
        raise RequestError("'stream_options' is only allowed when 'stream' is enabled.", "stream_options")
    return flag_at(object_at(body, "stream_options"), "include_usage")


def text_of(content: Any) -> str:
    """The text of a message's content, be it a string or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text", part.get("refusal", "")) for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def media_in(content: Any) -> int:
    """Parts of a message's content that are not text."""
    if not isinstance(content, list):
        return 0
    parts = (part for part in content if isinstance(part, dict) and "text" not in part)
    return sum(part.get("type") != "refusal" for part in parts)


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
    return any_json(reply.usage)


def any_json(value: Any) -> Any:
    """A scripted value inside a body: the standard library writes what orjson refuses, such as NaN, Infinity
    and integers beyond 64 bits."""
    return orjson.Fragment(json.dumps(value).encode())
