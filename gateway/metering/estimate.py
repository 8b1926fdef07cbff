"""How much a step may cost before it is sent, and what it cost when the provider never said.

Two looks at the input: `input_bound` from sizes alone, cheap and never too small for what the request
carries; `input_count` by tokenizer, for a step that only just does not fit and for settling without usage.
What a provider adds on its own side (search results, a stored conversation) is in neither: hosted tools get
an allowance, and `stored_tokens` is for what the caller knows to be there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from gateway.domain import Media, Nano, Step, Surface, ToolCall, Usage
from gateway.metering.prices import MTOK, Rates
from gateway.metering.tokens import (
    CALL_TOKENS,
    ITEM_TOKENS,
    REPLY_TOKENS,
    TOOL_TOKENS,
    count,
    hidden_tokens,
    media_tokens,
)
from gateway.metering.usage import ReadUsage
from gateway.values import frozen

REQUEST_BOUND = 64
ITEM_BOUND = 16
TOOL_BOUND = 32
TOOL_PROMPT_BOUND = 1_024
"""Above every prompt that a provider is known to add when tools are offered (`hidden_tokens`)."""

HOSTED_USES = 5
"""Uses of a hosted tool to reserve for when the request sets no limit (`max_uses`, `max_tool_calls`)."""
HOSTED_USE_TOKENS = 8_000
"""Input that one use brings in; OpenAI bills a web search of its small models as a block of 8,000:
https://platform.openai.com/docs/pricing#built-in-tools"""

_CLIENT_TOOLS = ("function", "custom", "client")
_SCHEMA_SHARE = 0.7
"""OpenAI shows the model a schema in fewer tokens than its JSON has; from recorded traffic."""


@frozen
class Hosted:
    """Tools of the provider that a step may use."""

    uses: int
    tokens: int


def hosted_allowance(step: Step) -> Hosted:
    """An allowance for hosted tools: a guess where the request sets no limit, not a bound."""
    tools = step.body.get("tools")
    each: list[int] = []
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and tool.get("type", "function") not in _CLIENT_TOOLS:
            limit = tool.get("max_uses")
            each.append(limit if type(limit) is int and limit >= 0 else HOSTED_USES)
    if step.surface is Surface.CHAT and isinstance(step.body.get("web_search_options"), dict):
        each.append(1)
    plugins = step.body.get("plugins")
    if isinstance(plugins, list):
        # OpenRouter's web search, once per request.
        each += [1] * len(plugins)
    uses = sum(each)
    most = step.body.get("max_tool_calls")
    if type(most) is int and most >= 0:
        uses = min(uses, most)
    # Anthropic's servers of tools are called by the provider too, and cost tokens alone.
    servers = step.body.get("mcp_servers")
    unpriced = HOSTED_USES * len(servers) if isinstance(servers, list) else 0
    return Hosted(uses, (uses + unpriced) * HOSTED_USE_TOKENS)


@frozen
class InputTokens:
    """Input tokens of a step by the price they have."""

    text: int
    audio: int = 0
    image: int = 0

    @property
    def total(self) -> int:
        return self.text + self.audio + self.image


def _media(step: Step, model: str, context_window: int | None) -> tuple[int, int, int]:
    """Tokens of (images, audio, everything else). A request that is answered fits into the window."""
    images = audio = other = 0
    for item in step.items:
        for media in item.media:
            tokens = _one(media, model, context_window)
            if media.kind == "image":
                images += tokens
            elif media.kind == "audio":
                audio += tokens
            else:
                other += tokens
    return images, audio, other


def _one(media: Media, model: str, context_window: int | None) -> int:
    tokens = media_tokens(media, model)
    return tokens if context_window is None else min(tokens, context_window)


def bound_of(step: Step, *, model: str | None = None, context_window: int | None = None) -> InputTokens:
    """Upper bound of a step's input tokens, from sizes alone.

    A token is at least one byte of text in every tokenizer in use, so bytes bound tokens. `model` is the
    one really called, where it is not the one asked for.
    """
    return _bound(step, model or step.model, context_window, hosted_allowance(step))


def _bound(step: Step, model: str, context_window: int | None, hosted: Hosted) -> InputTokens:
    images, audio, other = _media(step, model, context_window)
    text = step.text_bytes + REQUEST_BOUND + ITEM_BOUND * len(step.items) + other
    if step.tools:
        text += TOOL_PROMPT_BOUND + TOOL_BOUND * len(step.tools)
    return InputTokens(text + hosted.tokens, audio, images)


def count_of(step: Step, *, model: str | None = None) -> InputTokens:
    """A step's input tokens by tokenizer: within a few percent for OpenAI's models, upward for others."""
    model = model or step.model
    images, audio, other = _media(step, model, None)
    tokens = REPLY_TOKENS + hidden_tokens(model, len(step.tools)) + other
    for item in step.items:
        tokens += ITEM_TOKENS
        for text in item.texts:
            tokens += count(text.text, model)
        for call in item.calls:
            tokens += CALL_TOKENS + count(call.name, model) + count(call.arguments, model)
    for tool in step.tools:
        tokens += TOOL_TOKENS + count(tool.name, model) + count(tool.description, model)
        if tool.schema is not None:
            tokens += _schema_tokens(tool.schema, model)
    answer_form = step.body.get("response_format") or step.body.get("text")
    if isinstance(answer_form, dict) and len(answer_form) > 1:
        tokens += _schema_tokens(answer_form, model)
    return InputTokens(tokens, audio, images)


def _schema_tokens(schema: Mapping[str, Any], model: str) -> int:
    return math.ceil(_SCHEMA_SHARE * count(orjson.dumps(schema, default=str).decode(), model))


def input_bound(step: Step, *, model: str | None = None, context_window: int | None = None) -> int:
    """Upper bound of a step's input tokens (`bound_of`), all kinds together."""
    return bound_of(step, model=model, context_window=context_window).total


def input_count(step: Step, *, model: str | None = None) -> int:
    """A step's input tokens by tokenizer (`count_of`), all kinds together. Up to 190 ms per MB of text."""
    return count_of(step, model=model).total


def output_bound(step: Step, model_cap: int | None, default_cap: int) -> int:
    """The most output tokens per choice: the caller's limit, else the default, never above the model's cap.

    With no limit of the caller the result has to be set upstream, or it bounds nothing.
    """
    limit = default_cap if step.output_limit is None else step.output_limit
    if model_cap is not None:
        limit = min(limit, model_cap)
    return max(limit, 0)


@frozen
class Quote:
    """The most that one attempt can cost, as a straight line over its output tokens."""

    input_tokens: int
    input_nano: Nano
    output_nano_per_mtok: int
    """For one token of one choice, times a million."""
    fixed_nano: Nano
    """Price of the request and of hosted tools."""
    output_tokens: int
    """Wanted, per choice."""
    choices: int

    @property
    def base_nano(self) -> Nano:
        """What is spent before the first output token."""
        return self.input_nano + self.fixed_nano

    @property
    def output_rate(self) -> float:
        """Nano-dollars per output token with all choices; never under the exact value."""
        exact = self.output_nano_per_mtok * self.choices / MTOK
        return math.nextafter(exact, math.inf) if exact else 0.0

    @property
    def nano(self) -> Nano:
        """The whole of it, at the output wanted."""
        return self.cost_of(self.output_tokens)

    def cost_of(self, output_tokens: int) -> Nano:
        """Upper bound in nano-dollars when each choice makes at most so many tokens."""
        made = max(0, output_tokens) * self.choices * self.output_nano_per_mtok
        return self.base_nano + -(-made // MTOK)


def quote(
    step: Step,
    rates: Rates,
    output_tokens: int,
    *,
    model: str | None = None,
    context_window: int | None = None,
    stored_tokens: int = 0,
    exact: bool = False,
) -> Quote:
    """Price a step before it is sent, every token at the dearest rate it can get.

    Input is priced as uncached or as a cache write, whichever is dearer and possible; the rates are those
    of the highest tier that the input can reach. `stored_tokens` is input that the provider holds (a
    response that is continued). `exact` counts by tokenizer instead of bounding by size.
    """
    hosted = hosted_allowance(step)
    if exact:
        tokens = count_of(step, model=model)
        tokens = replace(tokens, text=tokens.text + hosted.tokens)
    else:
        tokens = _bound(step, model or step.model, context_window, hosted)
    if stored_tokens > 0:
        tokens = replace(tokens, text=tokens.text + stored_tokens)
    r = rates.at(tokens.total)
    read = max(r.input_uncached, r.cache_read)
    if r.cache_write_5m > read or r.cache_write_1h > read:
        # Some providers write to the cache unasked; the dearer hour has to be asked for.
        read = max(read, r.cache_write_5m)
        if r.cache_write_1h > read and _asks_for_an_hour(step):
            read = r.cache_write_1h
    nano = tokens.text * read + tokens.audio * max(read, r.audio_in) + tokens.image * max(read, r.image_in)
    made = max(r.output_text, r.output_reasoning)
    modalities = step.body.get("modalities")
    if isinstance(modalities, list):
        if "audio" in modalities:
            made = max(made, r.audio_out)
        if "image" in modalities:
            made = max(made, r.image_out)
    if "image" in (model or step.model):
        made = max(made, r.image_out)
    return Quote(
        input_tokens=tokens.total,
        input_nano=-(-nano // MTOK),
        output_nano_per_mtok=made,
        fixed_nano=rates.request_nano + hosted.uses * rates.tool_nano,
        output_tokens=output_tokens,
        choices=max(1, step.choices),
    )


def _asks_for_an_hour(step: Step) -> bool:
    """Whether the body speaks of an hour's cache; JSON escapes must not hide it."""
    raw = orjson.dumps(step.body) if b"\\u" in step.raw else step.raw
    return b'"1h"' in raw


def estimated_usage(
    step: Step,
    answer_text: str | Iterable[str],
    tool_calls: Iterable[ToolCall] = (),
    *,
    model: str | None = None,
    output_tokens: int | None = None,
) -> Usage:
    """Usage of an attempt whose provider told none (a cut stream, a server without usage).

    Input and the answer's text are counted; cached input is taken for uncached. `answer_text` is all that
    was received, reasoning included. `output_tokens` replaces the count where nothing can be counted.
    Source `estimated`; within 15 % of o200k for OpenAI's models.
    """
    name = model or step.model
    tokens = count_of(step, model=name)
    if output_tokens is None:
        texts = [answer_text] if isinstance(answer_text, str) else answer_text
        output_tokens = sum(count(text, name) for text in texts)
        for call in tool_calls:
            output_tokens += CALL_TOKENS + count(call.name, name) + count(call.arguments, name)
    return Usage(
        input_uncached=tokens.text,
        audio_in=tokens.audio,
        image_in=tokens.image,
        output_text=output_tokens,
        source="estimated",
    )


def repaired(read: ReadUsage, estimate: Usage) -> Usage:
    """What the provider told, with an estimate in place of a side that could not be believed."""
    usage = read.usage
    if not read.input_trusted:
        usage = replace(
            usage,
            input_uncached=estimate.input_uncached,
            audio_in=estimate.audio_in,
            image_in=estimate.image_in,
            source="estimated",
        )
    if not read.output_trusted:
        usage = replace(usage, output_text=estimate.output_text, source="estimated")
    return usage
