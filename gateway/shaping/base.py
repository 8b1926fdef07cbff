"""What the gateway itself says on a wire API: requests written anew, and answers or the rest of one made up.

    body ──with_note, without_tool_use, with_results──► body       the surface that goes upstream
    Said ──compose, compose_stream──► a whole answer               the client's surface
    stream ──HeldStream──► text at once, tool calls when they are judged, or another ending

The one form of an answer here is the plain reply of the surface, as parsed JSON: what a provider streamed is
folded into it, and what is to be streamed is written from it. So whatever a provider adds (signatures,
encrypted reasoning, ids) is there when its turn has to be sent back. Pure functions over JSON and bytes; no
body that is given is ever changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

import orjson

from gateway.domain import Json, ToolCall
from gateway.surfaces.base import AnswerStream
from gateway.surfaces.sse import EventSplitter, EventTooLargeError, data_of
from gateway.translation.calls import made_answer_id
from gateway.values import frozen

MAX_HELD_BYTES = 32 * 1024 * 1024
"""As much of one stream is held back, not more."""

PARAGRAPH = "\n\n"
"""Between what the client was given before and what is said instead of the calls, where a surface has but one
text."""

Finish = Literal["stop", "tool_calls", "length"]


@frozen
class Said:
    """An answer to give to a client.

    Either `reply` is a provider's own plain reply of the client's surface, told as it is, or `text`, `calls`
    and `finish` say what to make one of. `usage`, `model` and `id` replace the reply's where they are given.
    """

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: Finish = "stop"
    usage: Mapping[str, Any] | None = None
    """The surface's own usage object (what stands under `usage` in its replies); zeros without it."""
    model: str | None = None
    """The request's own name for it without it."""
    id: str | None = None
    """Made from the request without it: the same for the same request in the same second."""
    reply: Json | None = None


class Shaper(Protocol):
    """One wire API; a module of `gateway.shaping` is one. Bodies are what the surface's codec accepts."""

    def with_note(self, body: Json, text: str) -> Json | None:
        """The request with one instruction more at its end, where prompts that are cached stay so; None where
        the surface has no place for one."""

    def without_tool_use(self, body: Json, final_tools: Sequence[str]) -> tuple[Json, str | None]:
        """The request whose answer can be text alone, its tools still defined; or, if it offers one of
        `final_tools`, a call of the first of these, whose name is told."""

    def with_results(self, body: Json, turn: Json, results: Sequence[str]) -> Json:
        """The conversation continued by the model's own turn and a failed result for each of its calls.

        `turn` is a plain reply of the surface (or what `Fold.reply` made of a stream), `results` a text per
        call, in the order in which the codec's `read_answer` tells the calls. Raises `ValueError` when their
        numbers differ.
        """

    def compose(self, said: Said, request: Json, created: int) -> Json:
        """A plain reply. `request` is the client's body; `created` is now, in seconds since 1970."""

    def compose_stream(self, said: Said, request: Json, created: int) -> bytes:
        """The same answer as a whole stream, terminator included."""

    def fold(self) -> Fold:
        """The reader of a provider's stream whose turn may have to be sent back."""

    def hold(self, stream: AnswerStream, request: Json, created: int) -> HeldStream[Any]:
        """The client's stream, held back from the first tool call on; `request` is the client's body."""


class Fold(ABC):
    """A stream folded into the plain reply that it amounts to. Tolerant: never raises for what was sent."""

    __slots__ = ()

    def feed(self, events: bytes) -> None:
        """Whole events, as `AnswerStream.feed` gives them back."""
        for event in whole_events(events):
            if (message := parsed(event)) is not None:
                self.take(message)

    @abstractmethod
    def take(self, event: Json) -> None:
        """One event, which the fold keeps parts of."""

    @abstractmethod
    def reply(self) -> Json:
        """The reply as far as it came. Later events do not change it."""

    @abstractmethod
    def copy(self) -> Fold:
        """A fold that goes on from here by itself."""


Folded = TypeVar("Folded", bound=Fold)


class HeldStream(ABC, Generic[Folded]):
    """A client's stream whose tool calls are judged before any of it is delivered.

    Whole events pass until the first that begins a call the client is to act on (tools that the provider
    hosts are none); that one and all behind it are held, until `release` or `splice`. Feed it what its
    `stream` would be fed, and the stream not.
    """

    __slots__ = ("_created", "_held", "_over", "_passed", "_request", "_size", "held", "stream")

    fold: type[Folded]
    """The surface's own."""

    def __init__(self, stream: AnswerStream, request: Json, created: int) -> None:
        self.stream = stream
        self.held = False
        """A call has begun, and neither `release` nor `splice` was called yet."""
        self._request = request
        self._created = created
        self._passed = self.fold()
        """What the client has received."""
        self._held: list[bytes] = []
        self._size = 0
        self._over: Literal["", "released", "spliced"] = ""

    def feed(self, chunk: bytes) -> bytes:
        """Bytes for the client. Raises `EventTooLargeError`, also when too much would have to be held.

        After `release` everything passes; after `splice` nothing does.
        """
        events = self.stream.feed(chunk)
        if not events or self._over == "spliced":
            return b""
        if self.held:
            self._keep(events)
            return b""
        return b"".join([event for event in whole_events(events) if self._passes(event)])

    def _passes(self, event: bytes) -> bool:
        if self.held:
            self._keep(event)
            return False
        message = parsed(event)
        if message is not None:
            if not self._over and self._begins_call(message):
                self.held = True
                self._keep(event)
                return False
            self._passed.take(message)
        return True

    def _keep(self, events: bytes) -> None:
        self._size += len(events)
        if self._size > MAX_HELD_BYTES:
            raise EventTooLargeError
        self._held.append(events)

    def turn(self) -> Json:
        """Everything the stream told so far as a plain reply of its surface, what is held included."""
        whole = self._passed.copy()
        for events in self._held:
            whole.feed(events)
        return whole.reply()

    def given(self) -> Json:
        """What the client has received so far, as a plain reply."""
        return self._passed.reply()

    def release(self) -> bytes:
        """What was held, byte for byte."""
        out = b"".join(self._held)
        self._end("released", out)
        return out

    def splice(self, said: Said) -> bytes:
        """The rest of the answer as given, instead of what was held: terminal events with the usage and the
        terminator included. A whole stream if the client has received nothing yet."""
        out = self._rest(said)
        self._end("spliced", out)
        return out

    def _end(self, how: Literal["released", "spliced"], told: bytes) -> None:
        self._held = []
        self._size = 0
        self.held = False
        self._over = how
        self._passed.feed(told)

    @abstractmethod
    def _begins_call(self, event: Json) -> bool:
        """Whether the client would be asked to act by this event."""

    @abstractmethod
    def _rest(self, said: Said) -> bytes:
        """See `splice`."""


def whole_events(events: bytes) -> list[bytes]:
    """Events one by one; joined they are the bytes given."""
    if events.endswith(b"\n\n") and b"\r" not in events and events.find(b"\n\n") == len(events) - 2:
        return [events]
    splitter = EventSplitter()
    out = splitter.feed(events)
    if splitter.pending:
        out.append(splitter.pending)
    return out


def parsed(event: bytes) -> Json | None:
    """What an event tells, if that is a JSON object. The type in the data is the event's name, which some
    servers leave out on one of both sides."""
    start = event.find(b"\ndata: ")
    if start > 0 and event.startswith(b"event: ") and event.count(b"\n") == 3 and event.endswith(b"\n\n"):
        data: bytes | None = event[start + 7 : -2]
    else:
        data = data_of(event)
    if data is None or data.startswith(b"[DONE]"):
        return None
    try:
        message: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if type(message) is not dict:
        return None
    if type(message.get("type")) is not str and event.startswith(b"event:"):
        name = event[6:].split(b"\n", 1)[0].strip()
        message["type"] = name.decode("utf-8", "replace")
    return message


def named(events: Iterator[Json]) -> bytes:
    """Events of the surfaces that name them."""
    return b"".join(
        [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events]
    )


def overridden(said: Said, reply: Json, prefix: str, request: Json, created: int) -> Json:
    """A provider's reply with what `said` tells besides it, and with an id in any case."""
    given = {"id": said.id, "model": said.model, "usage": said.usage}
    told = {**reply, **{name: value for name, value in given.items() if value is not None}}
    if not text_at(told, "id"):
        told["id"] = answer_id(prefix, said, request, created)
    return told


def answer_id(prefix: str, said: Said, request: Json, created: int) -> str:
    """The id to tell the client."""
    return said.id or made_answer_id(prefix, request, created)


def model_name(said: Said, request: Json) -> str:
    """The model to tell the client."""
    return said.model or str(request.get("model") or "")


def objects(value: object) -> list[Json]:
    """The JSON objects of a list; none if it is no list."""
    return [entry for entry in value if type(entry) is dict] if type(value) is list else []


def text_at(source: Json, name: str) -> str:
    """A field that holds a text; empty if it holds anything else."""
    value = source.get(name)
    return value if type(value) is str else ""


def index_of(source: Json, name: str = "index") -> int:
    """A field that counts; 0 if it holds anything else."""
    value = source.get(name)
    return value if type(value) is int else 0


def ensure_as_many(results: Sequence[str], calls: int) -> None:
    """Raises `ValueError` unless there is one result per call."""
    if len(results) != calls:
        raise ValueError(f"{len(results)} results for {calls} calls")
