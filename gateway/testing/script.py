"""What a simulated model says, and how its bytes go wrong.

A `Reply` is one answer with its timing and faults; a `Scenario` is a list of them and the rule that picks
one for a request. Both are plain values, neutral of the wire API, and travel as JSON with the same field
names (bytes as base64). Nothing here does input or output.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Json = dict[str, Any]


class ScriptError(ValueError):
    """A script that cannot be played; the message names the field and what was expected."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for. A `str` for `arguments` goes out verbatim, valid JSON or not."""

    name: str
    arguments: dict[str, Any] | str = field(default_factory=dict)
    id: str | None = None
    """`None`: made in the style of `Reply.tool_call_ids`."""


ToolCallSpec = ToolCall | tuple[str, dict[str, Any] | str]

HONEST = "honest"
ABSENT = "absent"

StallPoint = Literal["head", "first_chunk", "mid_chunk", "mid_utf8", "finish", "usage", "done"]
CutHow = Literal["fin", "rst", "clean"]


@dataclass(frozen=True)
class Reply:
    """One answer of the provider. Every field has a harmless default: `Reply("Hello.")` is a whole reply.

    Durations are seconds, sizes bytes, `*_tokens` tokens. Byte positions count the response body as
    served: server-sent-event framing and content coding included, head and transfer coding excluded.
    """

    text: str | tuple[str, ...] = ""
    """With `n` > 1, choice i says `text[i % len(text)]`, or all the same."""
    tool_calls: Sequence[ToolCallSpec] = ()
    reasoning: str = ""
    """Visible reasoning, counted into `reasoning_tokens`: `reasoning_content` on chat, a reasoning item with
    its summary on responses, a thinking block on messages; legacy completions have none."""
    searches: int = 0
    """Web searches the provider runs itself, before the text; billed by the piece, as `tool_requests`. Shown
    on responses and messages alone."""
    finish_reason: str | None = None
    """`None`: `tool_calls`, `stop`, or `length` where the caller's limit cut the answer. Messages calls these
    `tool_use`, `end_turn`, `max_tokens` and `refusal` (for `content_filter`); on responses `length` and
    `content_filter` are `incomplete`, and `failed` is a status too. Any other goes out verbatim."""

    prompt_tokens: int | None = None
    """Billed input instead of the counted one; also what a verbatim `body` bills."""
    completion_tokens: int | None = None
    """Billed output instead of the counted one, all choices together."""
    cached_tokens: int = 0
    """Part of the input that is billed as read from cache; never more than the input."""
    cache_write_5m_tokens: int = 0
    """Part of the input that is billed as written to the cache for five minutes; on OpenAI's surfaces both
    lifetimes are one figure."""
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    """Hidden reasoning, per choice: generated first, billed as output, never shown."""
    usage: Any = HONEST
    """`"honest"`, `"absent"`, or any value (`None` too) reported verbatim; billing is not changed by it."""
    usage_raw: str | None = None
    """Text put where the usage object belongs, even if it is not JSON."""
    usage_on: Literal["final", "twice", "every_chunk", "continuous", "finish"] = "final"
    """Where a stream reports it: an own last chunk; that chunk twice; cumulative on every chunk; on every
    chunk and the last one; on the chunk with the finish reason. Responses and messages always report it in
    their closing event, `twice` sends that event twice, and `every_chunk` and `continuous` add an event with
    the usage so far (`response.in_progress`, `message_delta`) after each piece of content."""
    usage_unasked: bool = False
    """Report usage in a stream even if `stream_options.include_usage` was not set; on responses also in the
    event of a failure."""
    usage_at_start: Any = HONEST
    """The same for the usage in the `message_start` of messages."""
    ignore_limits: bool = False
    """Generate past `max_tokens` / `max_completion_tokens`."""

    status: int = 200
    error: Any = None
    """Error body (any JSON value); `None` with a status from 400 on: the surface's usual error. With
    `error_at_chunk` it is that event's data instead; its `type` is the event's name where events have one.
    """
    error_translated: bool = False
    """`error` is OpenAI's object, and goes out in the shape of whatever surface it is told on."""
    headers: Sequence[tuple[str, str]] = ()
    """Set on the response; a name the server also sets is replaced."""
    framing: Literal["auto", "chunked", "length", "close"] = "auto"
    content_length: int | None = None
    """A `Content-Length` header that may lie; the connection closes after the body."""

    body: bytes | None = None
    """The body verbatim, instead of one made from `text` and `tool_calls`."""
    content_type: str | None = None
    wire: bytes | None = None
    """Everything on the socket verbatim, head included; then the connection closes."""
    gzip: bool = False
    """Compress the body whether or not it was asked for."""
    endless: Literal["line", "header"] | None = None
    """One line without end, in the body or in the head, up to `endless_bytes`."""
    endless_bytes: int = 1 << 30

    head_delay_s: float = 0.0
    first_chunk_delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    """Between events of a stream, or between the `chunk_bytes` parts of a verbatim body. A plain
    reply takes as long as its stream would, before its head."""
    stall_at: StallPoint | int | None = None
    """Where to fall silent: a phase, or before the event of that index (0 is the first)."""
    stall_at_byte: int | None = None
    stall_s: float | None = None
    """How long; `None`: until the client leaves or the server stops."""
    queue_s: float = 0.0
    """How long a background response stays `queued`. It is then generated at the pace of its stream, and it
    is the generation that stalls; delays of the head and cuts are those of each connection."""

    chunk_tokens: int = 1
    """Tokens per event of a stream."""
    chunks: int | None = None
    """Number of content events instead, as near as whole tokens allow."""
    chunk_bytes: int | None = None
    """Cut the body into socket writes of this size, wherever that falls."""
    flush_each: bool = False
    """One socket write per event even without delays; else events that are due together go together."""
    newline: Literal["\n", "\r\n", "\r"] = "\n"
    comments: Sequence[str] = ()
    """Server-sent-event comments before the first event."""
    comment_every: int = 0
    """Also a comment before every event whose index is a multiple of this; 0 for none."""
    omit: Sequence[Literal["role", "finish", "usage", "done"]] = ()
    """Events of a stream that are left out. `role` is whatever opens it, `finish` and `done` what closes it;
    `usage` leaves the field out where it has no event of its own."""

    cut_at_byte: int | None = None
    """The connection ends once this many body bytes are out; beyond the body's length: not at all."""
    cut_head_at_byte: int | None = None
    cut_how: CutHow = "fin"
    """`fin`: closed short of the framing's end. `rst`: reset. `clean`: the framing ends as it should."""
    error_at_chunk: int | None = None
    """The event of this index is an error, and the last one."""

    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields added to the response and to every chunk; on responses and messages, to the object they answer
    with, wherever it stands."""
    extra_choice: Mapping[str, Any] = field(default_factory=dict)
    """Fields added to each choice of chat and completions."""
    extra_message: Mapping[str, Any] = field(default_factory=dict)
    """Fields added to each message; in a stream to its first delta. To the text block on messages."""
    extra_tool_call: Mapping[str, Any] = field(default_factory=dict)
    tool_call_ids: Literal["unique", "colliding", "nine", "empty"] = "unique"
    """`call_` (`toolu_` on messages) and 24 random characters; `call_0`, `call_1` in every reply; nine
    characters; empty."""
    tool_deltas: Literal["split", "whole"] = "split"
    tool_index: Literal["counted", "zero"] = "counted"
    strict: bool | None = None
    """Refuse, as providers do, a tool result that answers no call, a call that has none, and ids of what the
    provider does not keep. `None`: as the server is set up; else responses and messages do, and chat does
    not."""
    on_disconnect: Literal["abort", "continue"] = "abort"
    """When the client leaves: stop at the moment it is noticed, or generate and bill to the end."""

    def __post_init__(self) -> None:
        if not 100 <= self.status <= 999:
            raise ScriptError(f"status: got {self.status}, expected 100 to 999")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ScriptError(f"{name}: got {value}, expected 0 or more")
        for name in ("chunk_tokens", "chunks", "chunk_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ScriptError(f"{name}: got {value}, expected 1 or more")
        if any("\r" in part or "\n" in part for header in self.headers for part in header):
            raise ScriptError("headers: a line break cannot be sent in a header; use wire for that")

    @cached_property
    def is_error(self) -> bool:
        """The body is an error object rather than an answer."""
        return self.status >= 400 or (self.error is not None and self.error_at_chunk is None)

    @cached_property
    def instant(self) -> bool:
        """Nothing in this reply waits or breaks, so that it can be written at once."""
        return not (
            any(getattr(self, name) for name in _PACING)
            or any(getattr(self, name) is not None for name in _FAULTS)
        )


_NOT_NEGATIVE = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "searches",
    "content_length",
    "endless_bytes",
    "head_delay_s",
    "first_chunk_delay_s",
    "chunk_delay_s",
    "stall_at_byte",
    "stall_s",
    "queue_s",
    "comment_every",
    "cut_at_byte",
    "cut_head_at_byte",
    "error_at_chunk",
)
_PACING = ("head_delay_s", "first_chunk_delay_s", "chunk_delay_s", "flush_each", "gzip")
_FAULTS = (
    "stall_at",
    "stall_at_byte",
    "cut_at_byte",
    "cut_head_at_byte",
    "chunk_bytes",
    "content_length",
    "endless",
    "wire",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the dialogue, as far as a script looks at it."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    calls: int = 0
    """Tool calls in an assistant's message."""


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool the request offers."""

    name: str
    schema: Mapping[str, Any]
    custom: bool = False
    """It takes free text instead of arguments."""


@dataclass(slots=True)
class Ask:
    """A request as the scripts see it, whatever surface it came by. Not to be changed by them: equal
    requests may share one."""

    model: str
    stream: bool
    turns: tuple[Turn, ...]
    tools: tuple[ToolOffer, ...]
    """Those that may be used: none under `tool_choice: none`, only the forced one if one is forced."""
    output_limit: int | None
    """Tokens per choice."""
    choices: int
    """Answers to generate; 0 on surfaces that generate no text."""
    include_usage: bool
    body: Json
    azure: bool = False
    prompt_tokens: int | None = None
    """Counted input, once somebody needed it."""
    text_only: bool = False
    """The surface knows neither tool calls nor visible reasoning."""
    items: tuple[Json, ...] = ()
    """On responses: everything the model reads, what the provider kept included."""
    kept_items: int = 0
    """How many of `items` the provider kept; they come first."""
    background: bool = False
    seconds: int = 0
    """Audio billed by its duration."""

    @property
    def last_user_text(self) -> str:
        """What the user said last; empty if nothing."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")


Position = Literal["turns", "turns_since_user", "tool_results", "sequence"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Replies, and which one a request gets.

    - `turns`: as many assistant messages as the request holds are behind it. Stateless, so agents that run
      at the same time do not disturb each other.
    - `turns_since_user`: the same, counted after the last user message.
    - `tool_results`: counted by tool results instead.
    - `sequence`: the next one, whoever asks; for failures that come in a row.
    """

    replies: Sequence[Reply]
    by: Position = "turns"
    after_end: Literal["repeat_last", "loop", "error"] = "repeat_last"

    def __post_init__(self) -> None:
        if not self.replies:
            raise ScriptError("replies: got none, expected at least one")

    def position(self, ask: Ask, asked_before: int) -> int:
        """Index of the reply that is due, before `after_end` is applied."""
        match self.by:
            case "sequence":
                return asked_before
            case "tool_results":
                return sum(turn.role == "tool" for turn in ask.turns)
            case "turns":
                return sum(turn.role == "assistant" for turn in ask.turns)
            case "turns_since_user":
                count = 0
                for turn in reversed(ask.turns):
                    if turn.role == "user":
                        break
                    count += turn.role == "assistant"
                return count

    def choose(self, ask: Ask, asked_before: int) -> Reply:
        """The reply for this request; `asked_before` is how often this scenario was asked already."""
        index = self.position(ask, asked_before)
        if index < len(self.replies):
            return self.replies[index]
        match self.after_end:
            case "repeat_last":
                return self.replies[-1]
            case "loop":
                return self.replies[index % len(self.replies)]
            case "error":
                return error_reply(
                    500,
                    f"The script has {len(self.replies)} replies and was asked for number {index + 1}.",
                    code="script_exhausted",
                )


Improviser = Callable[[Ask], Reply]
"""A script as a function, for models whose answer depends on the request."""

Script = Scenario | Improviser


def error_reply(status: int, message: str | None = None, *, code: str | None = None, **fields: Any) -> Reply:
    """A reply with that status and the error body of its surface; `fields` are further `Reply` fields."""
    kind, usual_code, usual_message = _USUAL_ERRORS.get(
        status, ("server_error" if status >= 500 else "invalid_request_error", None, "Simulated failure.")
    )
    error = error_json(message or usual_message, kind, code or usual_code)
    return Reply(status=status, error=error, error_translated=True, **fields)


def error_json(message: str, kind: str, code: str | None = None, param: str | None = None) -> Json:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_USUAL_ERRORS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "Simulated: the request is invalid."),
    401: ("invalid_request_error", "invalid_api_key", "Simulated: incorrect API key provided."),
    403: ("invalid_request_error", "forbidden", "Simulated: this is not allowed."),
    404: ("invalid_request_error", "model_not_found", "Simulated: the model does not exist."),
    408: ("timeout", None, "Simulated: the request timed out."),
    429: ("requests", "rate_limit_exceeded", "Simulated: rate limit reached."),
    500: ("server_error", None, "Simulated: the server had an error."),
    502: ("server_error", None, "Simulated: bad gateway."),
    503: ("server_error", None, "Simulated: the engine is overloaded."),
}


@dataclass(frozen=True, slots=True)
class Upload:
    """The body of `POST /__sim__/scripts`: a named scenario, and the models and routes that shall answer
    with it."""

    name: str
    replies: Sequence[Reply]
    by: Position = "turns"
    after_end: Literal["repeat_last", "loop", "error"] = "repeat_last"
    models: Sequence[str] = ()
    routes: Sequence[str] = ()

    @property
    def scenario(self) -> Scenario:
        return Scenario(self.replies, self.by, self.after_end)


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Upload]:
    # Imported when a script first travels as JSON: pydantic would double the start-up time of the rest.
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")
    for shape in (ToolCall, Reply, Upload):
        setattr(shape, "__pydantic_config__", config)  # noqa: B010  mypy does not know this protocol of pydantic.
    return TypeAdapter(Upload)


def upload_to_json(upload: Upload) -> bytes:
    """The JSON that `upload_from_json` reads."""
    return _adapter().dump_json(upload)


def upload_from_json(data: bytes) -> Upload:
    """A script from its JSON. Raises: `ScriptError`, naming every mistaken field."""
    from pydantic import ValidationError

    try:
        return _adapter().validate_json(data)
    except ValidationError as error:
        raise ScriptError("; ".join(_explain(dict(detail)) for detail in error.errors())) from None


def _explain(detail: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] not in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: {detail['msg']}" if path else str(detail["msg"])
    inside = ToolCall if "ToolCall" in detail["loc"] else Reply if len(detail["loc"]) > 1 else Upload
    near = difflib.get_close_matches(str(detail["loc"][-1]), [f.name for f in fields(inside)], n=1)
    return f"{path}: unknown field" + (f"; did you mean {near[0]!r}?" if near else "")
