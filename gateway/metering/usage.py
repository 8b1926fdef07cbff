"""What a provider says it served, read from a reply or a stream into disjoint buckets.

Every reader takes the whole parsed reply (or one event of a stream) and trusts nothing in it: a count that
is not an integer between 0 and `MAX_TOKENS` is named in `anomalies` and read as 0, a part that is larger
than its whole is cut to it. No usage at all is `None`, an explicit zero is a zero. Prices are not known
here; `gateway.metering.prices` turns the result into money.

Semantics: OpenAI's `prompt_tokens` and `input_tokens` include cached tokens and audio, and its output
includes reasoning; Anthropic's numbers are disjoint (WIRE: chat usage semantics, messages usage).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from gateway.domain import NANO_PER_USD, Nano, Surface, Usage
from gateway.values import frozen

MAX_TOKENS = 1_000_000_000
"""A count above this is not believed: no model reads or writes as much in one call."""

MAX_REPORTED_USD = 10_000
"""A reported cost above this is not believed."""

PriceContext = tuple[tuple[str, str], ...]
"""What besides model and tokens decides a price, such as `(("service_tier", "priority"),)`."""


@frozen
class ReadUsage:
    """Usage as a provider reported it.

    `input_trusted` and `output_trusted` are false when that side's total was absent or not believable; the
    side is then 0 and has to be estimated (`gateway.metering.estimate.repaired`).
    """

    usage: Usage
    anomalies: tuple[str, ...] = ()
    """Names of the fields that were not believed, as they are called on the wire."""
    reported_cost: Nano | None = None
    """What the provider says the call cost, in nano-dollars rounded up; OpenRouter's is authoritative."""
    extras: tuple[tuple[str | None, Usage], ...] = ()
    """Tokens billed besides `usage`: (model, or `None` for the model of the call, and its usage)."""
    context: PriceContext = ()
    """How the call was really served, as far as that changes its price."""
    input_trusted: bool = True
    output_trusted: bool = True


class _Reader:
    """One usage object, read field by field; collects what it does not believe."""

    __slots__ = ("anomalies",)

    def __init__(self) -> None:
        self.anomalies: list[str] = []

    def count(self, source: Mapping[str, Any], name: str) -> int | None:
        """A token count, or `None` when it is absent or not believable."""
        value = source.get(name)
        if value is None:
            return None
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
        self.anomalies.append(name)
        return None

    def part(self, source: Mapping[str, Any], name: str, whole: int) -> int:
        """A count that cannot be larger than `whole`."""
        if name not in source:
            return 0
        value = self.count(source, name) or 0
        if value > whole:
            self.anomalies.append(name)
            return whole
        return value

    def cost(self, usage: Mapping[str, Any]) -> Nano | None:
        """OpenRouter's `cost`, with what the provider behind it charges a caller who brought the key."""
        value = usage.get("cost")
        if isinstance(value, Mapping):
            value = value.get("total_cost")
        if value is None:
            return None
        nano = _nano(value)
        if nano is None:
            self.anomalies.append("cost")
            return None
        if usage.get("is_byok") is True:
            upstream = _nano(_inner(usage, "cost_details").get("upstream_inference_cost"))
            nano += upstream or 0
        return nano


def _inner(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _nano(usd: object) -> Nano | None:
    if isinstance(usd, bool) or not isinstance(usd, int | float):
        return None
    exact = Decimal(repr(usd))
    if not exact.is_finite() or not 0 <= exact <= MAX_REPORTED_USD:
        return None
    return -int(-exact * NANO_PER_USD // 1)


SEARCH_MODEL = re.compile(r"-search-(?:preview|api)\b")
"""Chat models that search the web on every call, for a price per call; what they find is not billed:
https://platform.openai.com/docs/guides/tools-web-search"""


def read_chat_usage(reply: Mapping[str, Any]) -> ReadUsage | None:
    """Usage of a chat completion, an embedding, a text completion, or one chunk of their streams.

    Knows DeepSeek's and Moonshot's names for cached tokens, Groq's `x_groq.usage`, and providers whose
    `total_tokens` holds reasoning that `completion_tokens` does not (Gemini's OpenAI endpoint, xAI): what
    the total has over prompt and completion is billed as output, so it is counted as reasoning.
    """
    usage = reply.get("usage")
    if usage is None:
        usage = _inner(reply, "x_groq").get("usage")
    if not isinstance(usage, dict) or not any(value is not None for value in usage.values()):
        return None
    read = _Reader()
    cost = read.cost(usage)
    prompt = read.count(usage, "prompt_tokens")
    completion = read.count(usage, "completion_tokens")
    total = read.count(usage, "total_tokens")
    inside = _inner(usage, "prompt_tokens_details")
    buckets = _input_buckets(read, inside, prompt or 0, _cached(usage, inside))

    outside = 0
    if total is not None and prompt is not None and "completion_tokens" not in read.anomalies:
        outside = max(0, total - prompt - (completion or 0))
    details = _inner(usage, "completion_tokens_details")
    output = (completion or 0) + outside
    audio = read.part(details, "audio_tokens", completion or 0)
    image = min(read.part(details, "image_tokens", completion or 0), output - audio)
    reasoning = min(max(read.part(details, "reasoning_tokens", output), outside), output - audio - image)

    hosted = _inner(usage, "server_tool_use_details") or _inner(usage, "server_tool_use")
    searches = read.count(hosted, "web_search_requests") or 0
    model = reply.get("model")
    if not searches and isinstance(model, str) and "-search-" in model and SEARCH_MODEL.search(model):
        searches = 1
    return ReadUsage(
        usage=Usage(
            **buckets,
            output_text=output - audio - image - reasoning,
            output_reasoning=reasoning,
            audio_out=audio,
            image_out=image,
            tool_requests=searches,
            source="provider",
        ),
        anomalies=tuple(dict.fromkeys(read.anomalies)) if read.anomalies else (),
        reported_cost=cost,
        context=reply_context(reply),
        input_trusted=prompt is not None,
        output_trusted=completion is not None or (total is not None and prompt is not None),
    )


def _cached(usage: Mapping[str, Any], details: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Where the cached tokens are told: `prompt_cache_hit_tokens` is DeepSeek's, the flat name Moonshot's."""
    if details.get("cached_tokens") is None:
        for name in ("prompt_cache_hit_tokens", "cached_tokens"):
            if usage.get(name) is not None:
                return usage, name
    return details, "cached_tokens"


def _input_buckets(
    read: _Reader, details: Mapping[str, Any], whole: int, cached: tuple[Mapping[str, Any], str]
) -> dict[str, int]:
    """Disjoint input buckets of a provider whose total includes its parts.

    Parts may overlap (cached audio is audio and cached); what is dearer is taken first.
    """
    parts = {
        "audio_in": read.part(details, "audio_tokens", whole),
        "image_in": read.part(details, "image_tokens", whole),
        "cache_write_5m": read.part(details, "cache_write_tokens", whole),
        "cache_read": read.part(*cached, whole),
    }
    left = whole
    for name, value in parts.items():
        parts[name] = min(value, left)
        left -= parts[name]
    return {**parts, "input_uncached": left}


def read_responses_usage(reply: Mapping[str, Any]) -> ReadUsage | None:
    """Usage of a response object, or of the stream event that carries one under `response`.

    Hosted tools are counted from the output items: every `file_search_call`, and every `web_search_call`
    that searched (opening a page costs nothing). An image made by the hosted tool is an extra at the image
    model's own prices.
    """
    reply = _inner(reply, "response") or reply
    usage = reply.get("usage")
    if not isinstance(usage, Mapping) or not any(value is not None for value in usage.values()):
        return None
    read = _Reader()
    cost = read.cost(usage)
    given = read.count(usage, "input_tokens")
    made = read.count(usage, "output_tokens")
    inside = _inner(usage, "input_tokens_details")
    output = made or 0
    reasoning = read.part(_inner(usage, "output_tokens_details"), "reasoning_tokens", output)
    tools = _inner(reply, "tool_usage")
    image = _inner(tools, "image_gen")
    pictures = Usage(
        image_in=read.count(image, "input_tokens") or 0,
        image_out=read.count(image, "output_tokens") or 0,
        source="provider",
    )
    searched, looked_up = _hosted_calls(reply.get("output"))
    told = read.count(_inner(tools, "web_search"), "num_requests") or 0
    return ReadUsage(
        usage=Usage(
            **_input_buckets(read, inside, given or 0, (inside, "cached_tokens")),
            output_text=output - reasoning,
            output_reasoning=reasoning,
            tool_requests=max(told, searched) + looked_up,
            source="provider",
        ),
        anomalies=tuple(dict.fromkeys(read.anomalies)),
        reported_cost=cost,
        extras=((_image_model(reply), pictures),) if pictures.image_in or pictures.image_out else (),
        context=reply_context(reply),
        input_trusted=given is not None,
        output_trusted=made is not None,
    )


def _hosted_calls(output: object) -> tuple[int, int]:
    searched = looked_up = 0
    for item in output if isinstance(output, list) else ():
        if not isinstance(item, Mapping):
            continue
        if item.get("type") == "file_search_call":
            looked_up += 1
        elif item.get("type") == "web_search_call":
            searched += _inner(item, "action").get("type", "search") == "search"
    return searched, looked_up


def _image_model(reply: Mapping[str, Any]) -> str:
    tools = reply.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, Mapping) and tool.get("type") == "image_generation":
            model = tool.get("model")
            if isinstance(model, str) and model:
                return model
    return "gpt-image-1"


def read_messages_usage(reply: Mapping[str, Any]) -> ReadUsage | None:
    """Usage of an Anthropic message, or of a `message_delta` merged over its `message_start`.

    `input_tokens` excludes both kinds of cache tokens. Iterations that are not `message` (advisor,
    compaction) are not in the top-level numbers and become extras, at their own model's prices:
    https://platform.claude.com/docs/en/build-with-claude/compaction
    """
    reply = _inner(reply, "message") or reply
    usage = reply.get("usage")
    if not isinstance(usage, Mapping) or not any(value is not None for value in usage.values()):
        return None
    read = _Reader()
    cost = read.cost(usage)
    given = read.count(usage, "input_tokens")
    made = read.count(usage, "output_tokens")
    own = _messages_buckets(read, usage, given or 0, made or 0)
    searches = read.count(_inner(usage, "server_tool_use"), "web_search_requests") or 0
    extras: list[tuple[str | None, Usage]] = []
    iterations = usage.get("iterations")
    for turn in iterations if isinstance(iterations, list) else ():
        if isinstance(turn, Mapping) and turn.get("type") != "message":
            model = turn.get("model")
            given_there = read.count(turn, "input_tokens") or 0
            made_there = read.count(turn, "output_tokens") or 0
            extras.append(
                (
                    model if isinstance(model, str) else None,
                    _messages_buckets(read, turn, given_there, made_there),
                )
            )
    return ReadUsage(
        usage=replace(own, tool_requests=searches),
        anomalies=tuple(dict.fromkeys(read.anomalies)),
        reported_cost=cost,
        extras=tuple(extras),
        context=reply_context(reply),
        input_trusted=given is not None,
        output_trusted=made is not None,
    )


def _messages_buckets(read: _Reader, usage: Mapping[str, Any], given: int, made: int) -> Usage:
    split = _inner(usage, "cache_creation")
    hour = read.count(split, "ephemeral_1h_input_tokens") or 0
    short = read.count(split, "ephemeral_5m_input_tokens") or 0
    written = read.count(usage, "cache_creation_input_tokens") or 0
    thinking = read.part(_inner(usage, "output_tokens_details"), "thinking_tokens", made)
    return Usage(
        input_uncached=given,
        cache_read=read.count(usage, "cache_read_input_tokens") or 0,
        # Servers that do not split the total by lifetime write for five minutes.
        cache_write_5m=max(short, written - hour),
        cache_write_1h=hour,
        output_text=made - thinking,
        output_reasoning=thinking,
        source="provider",
    )


_READERS = {
    Surface.RESPONSES: read_responses_usage,
    Surface.MESSAGES: read_messages_usage,
}


def read_usage(surface: Surface, reply: Mapping[str, Any]) -> ReadUsage | None:
    """Usage of a plain reply on any surface; embeddings and completions speak as chat does."""
    return _READERS.get(surface, read_chat_usage)(reply)


class UsageFold:
    """The usage of one stream, fed event by event; a repeated event changes nothing.

    On chat and responses the last usage that is not null replaces the earlier ones: they are cumulative.
    On messages the events complete each other key by key, and a counter never falls, since some servers
    repeat `input_tokens` as 0 at the end.
    """

    __slots__ = ("_last", "_merged", "_surface")

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self._last: ReadUsage | None = None
        self._merged: dict[str, Any] = {}

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one parsed event; those without usage are ignored."""
        if self._surface is Surface.MESSAGES:
            usage = event.get("usage") or _inner(event, "message").get("usage")
            if isinstance(usage, Mapping):
                merge_usage(self._merged, usage)
            return
        read = read_usage(self._surface, event)
        if read is not None:
            self._last = read

    def result(self) -> ReadUsage | None:
        """The usage so far, or `None` when no event carried any."""
        if self._merged:
            return read_messages_usage({"usage": self._merged})
        return self._last


def merge_usage(into: dict[str, Any], usage: Mapping[str, Any]) -> None:
    """Field by field: null changes nothing, and a counter never falls."""
    for key, value in usage.items():
        if value is None:
            continue
        known = into.get(key)
        if isinstance(value, Mapping):
            inner = dict(known) if isinstance(known, dict) else {}
            merge_usage(inner, value)
            into[key] = inner
        elif type(value) is int and type(known) is int:
            into[key] = max(known, value)
        else:
            into[key] = value


_DEAR_TIERS = ("priority", "fast")


def request_context(body: Mapping[str, Any]) -> PriceContext:
    """What a request asks for that makes it dearer than standard: to be reserved for.

    Discounts (`flex`) are not read here: a provider may serve such a call at the standard price.
    """
    context: list[tuple[str, str]] = []
    tier = body.get("service_tier")
    if tier in _DEAR_TIERS:
        context.append(("service_tier", str(tier)))
    if body.get("speed") == "fast":
        context.append(("speed", "fast"))
    if body.get("inference_geo") == "us":
        context.append(("inference_geo", "us"))
    return tuple(context)


def reply_context(reply: Mapping[str, Any]) -> PriceContext:
    """How a call was served, told by the reply: OpenAI's tier at its top, Anthropic's in its usage."""
    usage = _inner(reply, "usage")
    context: list[tuple[str, str]] = []
    tier = reply.get("service_tier")
    if tier in (*_DEAR_TIERS, "flex"):
        context.append(("service_tier", str(tier)))
    if usage.get("speed") == "fast":
        context.append(("speed", "fast"))
    if usage.get("inference_geo") == "us":
        context.append(("inference_geo", "us"))
    return tuple(context)
