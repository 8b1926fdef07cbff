"""The frozen values that every part of the gateway speaks in.

Nothing here does input or output, knows a wire format, or reads a clock. A surface turns bytes into a
`Step`; the rules decide over it; stores and the ledger keep what came of it.

Units: money is integer nano-dollars (`Nano`), wall-clock times are integer milliseconds since the Unix
epoch (`Millis`), durations are float seconds, tokens are integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

from gateway.values import frozen

Nano = int
Millis = int

NANO_PER_USD = 1_000_000_000

Json = dict[str, Any]
Headers = list[tuple[bytes, bytes]]


def usd(nano: Nano) -> str:
    """Nano-dollars as the decimal string that users see, always nine places: `"0.012345678"`."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    return f"{sign}{nano // NANO_PER_USD}.{nano % NANO_PER_USD:09d}"


def usd_about(amount: Nano) -> str:
    """A bound for people: three digits, rounded up. Never 429, which some agents take for a rate limit
    wherever they find it in an error."""
    unit = 10 ** max(0, len(str(amount)) - 3)
    digits = -(-amount // unit)
    whole, _, places = usd((430 if digits == 429 else digits) * unit).partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"


class Surface(StrEnum):
    """One wire API."""

    CHAT = "chat"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    COMPLETIONS = "completions"
    MODERATIONS = "moderations"
    PASSTHROUGH = "passthrough"


class Role(StrEnum):
    """Who speaks; `developer` is read as `system`, `function` as `tool`."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Verdict(StrEnum):
    """What the gateway did with a step, as told in `x-guardrail-verdict`."""

    ALLOW = "allow"
    FLAG = "flag"
    REDACT = "redact"
    REROUTE = "reroute"
    WRAP_UP = "wrap_up"
    REFUSE = "refuse"


class RunStatus(StrEnum):
    """How a run stands; every one but `RUNNING` is an ending."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED_BUDGET = "stopped_budget"
    STOPPED_STEPS = "stopped_steps"
    STOPPED_TIME = "stopped_time"
    STOPPED_TOKENS = "stopped_tokens"
    STOPPED_TOOLS = "stopped_tools"
    STOPPED_LOOP = "stopped_loop"
    KILLED = "killed"
    BLOCKED = "blocked"
    FAILED = "failed"
    ABANDONED = "abandoned"


class RunSource(StrEnum):
    """Which rule found the run, as told in `x-guardrail-run-source`; strongest first."""

    HEADER = "header"
    URL = "url"
    SERVER_STATE = "server_state"
    RETRY = "retry"
    EMITTED_ID = "emitted_id"
    LINEAGE = "lineage"
    TAIL = "tail"
    SESSION = "session"
    NEW = "new"


@frozen
class Principal:
    """The authenticated caller. `id` scopes every index and counter; nothing crosses it."""

    id: str
    key: str
    user: str | None = None
    team: str | None = None
    models: frozenset[str] | None = None
    """Models this key may reach, reroutes and fallbacks included; `None` means all."""
    max_tool_level: Literal["safe", "moderate", "dangerous"] = "dangerous"
    """The most dangerous tools it may use: `safe`, `moderate` or `dangerous`."""
    priority: Literal["low", "normal", "high"] = "normal"
    """How its calls wait for a provider that has no slot for them."""
    credential: str | None = field(default=None, repr=False)
    """The caller's own provider credential, in `passthrough` mode alone."""


@frozen
class Text:
    """One text the model will read, and where it stands in the parsed body.

    `pointer` is a path of keys and indexes into the body, so that a guard can edit the text in place.
    """

    text: str
    pointer: tuple[str | int, ...]


@frozen
class Media:
    """A part that is not text. `digest` stands for its content in lineage; `size` is in bytes."""

    kind: Literal["image", "audio", "file", "other"]
    digest: str
    size: int
    detail: str | None = None


@frozen
class ToolCall:
    """A call the model asked for. `arguments` is the raw text, usually JSON."""

    id: str
    name: str
    arguments: str


@frozen
class ToolDef:
    """A tool offered to the model."""

    name: str
    description: str
    schema: Mapping[str, Any] | None


@frozen
class Item:
    """One entry of the conversation. A tool result has `call_id`; an assistant turn may have `calls`."""

    role: Role
    texts: tuple[Text, ...] = ()
    media: tuple[Media, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    failed: bool = False
    """A tool result that the client itself calls an error."""
    aside: bool = False
    """Not a turn of the conversation: reasoning, or what a tool that the provider hosts was given and said,
    which clients keep or drop as they like; in front, the texts of settings, names of speakers, and what
    definitions of tools say beside their description."""


@dataclass(slots=True)
class Step:
    """One model call, whatever surface it came by.

    `body` is the parsed request; it and `raw` agree until an edit is made, and what is forwarded is
    always what was parsed. `output_limit` is the caller's own, in tokens and per choice.
    """

    surface: Surface
    model: str
    stream: bool
    body: Json
    raw: bytes
    items: tuple[Item, ...]
    tools: tuple[ToolDef, ...]
    output_limit: int | None
    choices: int
    wants_usage: bool
    """The caller asked for the usage chunk of a stream itself."""
    text_bytes: int
    """UTF-8 bytes of everything the model will read as text: an upper bound of its input tokens."""
    state: tuple[str, ...] = ()
    """Ids of conversations that the provider keeps and this step goes on from: a previous response, a
    conversation, a previous message. Strongest first."""
    references: tuple[str, ...] = ()
    """Ids of other things that the provider keeps: items, files, containers, prompts."""
    background: bool = False
    """The answer is to be fetched later."""

    @property
    def kept(self) -> bool:
        """The step refers to something that the provider keeps."""
        return bool(self.state or self.references)


@frozen
class Usage:
    """Tokens of one attempt in disjoint buckets, so that pricing never subtracts."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output_text: int = 0
    output_reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0
    image_in: int = 0
    image_out: int = 0
    tool_requests: int = 0
    """Requests of tools that the provider hosts and prices by the piece."""
    source: Literal["provider", "estimated", "missing"] = "missing"

    @property
    def input_total(self) -> int:
        """Every input token, cached ones included."""
        return (
            self.input_uncached
            + self.cache_read
            + self.cache_write_5m
            + self.cache_write_1h
            + self.audio_in
            + self.image_in
        )

    @property
    def output_total(self) -> int:
        """Every output token, reasoning included."""
        return self.output_text + self.output_reasoning + self.audio_out + self.image_out

    @property
    def charged_tokens(self) -> int:
        """What a run's `max_tokens` counts: uncached input plus output."""
        return self.input_uncached + self.audio_in + self.image_in + self.output_total


USAGE_BUCKETS: tuple[str, ...] = tuple(f.name for f in fields(Usage) if f.name != "source")


@frozen
class Answer:
    """What the model said, read from a plain reply or folded from a stream."""

    texts: tuple[str, ...] = ()
    """One per choice."""
    reasoning: str = ""
    """What the model thought aloud, all choices together: generated and billed, no part of the answer."""
    calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    response_id: str | None = None
    model: str | None = None
    state: tuple[str, ...] = ()
    """Ids under which the provider keeps what was said: the response, its conversation, its items."""
    background: bool = False
    """The provider has only begun: neither what is said nor its usage is known yet."""
    hosted: tuple[str, ...] = ()
    """What the provider is seen to have done on its own side: the kind of tool for each call that it began,
    as a request names it, `open_page` for a search that only read on, `compaction` for a summary."""
