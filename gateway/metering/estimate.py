"""How much a step may cost before it is sent, and what it cost when the provider never said.

Two looks at the input: `input_bound` from sizes alone, cheap and never too small for what the request
carries; `input_count` by tokenizer, for a step that only just does not fit and for settling without usage.
What a provider adds on its own side is in neither: tools that it runs itself get an allowance by their name
(`hosted_allowance`), and `stored_tokens` is for a conversation that the caller knows to be kept there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from gateway.metering.usage import SEARCH_MODEL, ReadUsage
from gateway.values import frozen

GENERATES_NOTHING = frozenset({Surface.EMBEDDINGS, Surface.MODERATIONS})
"""Surfaces without output: a step costs its input, and there is no limit to set."""
_BARE = GENERATES_NOTHING | {Surface.COMPLETIONS}
"""Surfaces whose model reads the inputs as they are, with no messages around them and no tools."""
_TOKEN_IDS = {Surface.EMBEDDINGS: "input", Surface.COMPLETIONS: "prompt"}
"""Fields in which an input may stand as token ids; such an input is media of kind `other` in the items."""

REQUEST_BOUND = 64
ITEM_BOUND = 16
TOOL_BOUND = 32
TOOL_PROMPT_BOUND = 1_024
"""Above every prompt that a provider is known to add when tools are offered (`hidden_tokens`)."""
INPUT_BOUND = 4
"""What stands around a bare input: two tokens in BERT's family, one in most others."""

_CLIENT_TOOLS = (None, "function", "custom", "client")
_SPOKEN = ("messages", "input", "prompt", "instructions", "system")
"""Fields of a body that hold the conversation. What an aside shows of others, such as the form of the answer,
is counted where it belongs."""
_SCHEMA_SHARE = 0.7
"""OpenAI shows the model a schema in fewer tokens than its JSON has; from recorded traffic."""
_SEALED = ("encrypted_content", "signature", "thinking")
_SEALED_CHARS = 3
"""Ciphertext of replayed thoughts and search results has more characters than this for a token inside."""


# -- tools that a provider defines ------------------------------------------------------------------

HOSTED_USE_TOKENS = 8_000
"""Input that one web search brings in. OpenAI bills one of its small models as a block of 8,000, one of the
others as what it finds: https://platform.openai.com/docs/pricing#built-in-tools"""


@frozen
class _Tool:
    """A tool that a request only names. Figures are allowances, above what recorded traffic shows."""

    prompt: int
    """Tokens of its definition."""
    result: int = 0
    """Tokens that one use brings in."""
    uses: int = 0
    """Uses to reserve for when the request sets no limit; 0 when the caller runs it."""
    priced: bool = False
    """By the piece, besides its tokens."""


_MCP = _Tool(prompt=8_000, result=4_000, uses=3)
_ON_MESSAGES: tuple[tuple[str, _Tool], ...] = (
    # https://platform.claude.com/docs/en/about-claude/pricing#tool-use-pricing and recorded traffic.
    ("web_search", _Tool(prompt=4_000, result=HOSTED_USE_TOKENS, uses=3, priced=True)),
    ("web_fetch", _Tool(prompt=4_000, result=HOSTED_USE_TOKENS, uses=3)),
    ("code_execution", _Tool(prompt=3_000, result=4_000, uses=3)),
    ("tool_search_tool", _Tool(prompt=1_000, result=1_000, uses=3)),
    ("advisor", _Tool(prompt=1_500, result=2_000, uses=3)),
    # Belongs to one of `mcp_servers`, which are counted.
    ("mcp_toolset", _Tool(prompt=0)),
    ("bash", _Tool(prompt=300)),
    ("text_editor", _Tool(prompt=800)),
    ("memory", _Tool(prompt=1_400)),
    ("computer_toolset", _Tool(prompt=6_000)),
    ("computer", _Tool(prompt=1_400)),
    ("browser_toolset", _Tool(prompt=6_000)),
)
_ELSEWHERE: tuple[tuple[str, _Tool], ...] = (
    ("web_search", _Tool(prompt=4_500, result=HOSTED_USE_TOKENS, uses=5, priced=True)),
    # Up to 20 chunks of 800 tokens: https://platform.openai.com/docs/guides/tools-file-search
    ("file_search", _Tool(prompt=500, result=16_000, uses=2, priced=True)),
    ("code_interpreter", _Tool(prompt=1_000, result=4_000, uses=3)),
    ("programmatic_tool_calling", _Tool(prompt=1_000, result=4_000, uses=3)),
    ("image_generation", _Tool(prompt=1_000, result=2_000, uses=1)),
    ("mcp", _MCP),
    ("tool_search", _Tool(prompt=1_000, result=1_000, uses=3)),
    ("shell", _Tool(prompt=1_000, result=4_000, uses=5)),
    ("local_shell", _Tool(prompt=1_000)),
    ("apply_patch", _Tool(prompt=1_000)),
    ("computer", _Tool(prompt=1_000)),
    # A group of the caller's own functions.
    ("namespace", _Tool(prompt=0)),
)
_UNKNOWN = _Tool(prompt=4_500, result=HOSTED_USE_TOKENS, uses=5, priced=True)
_SHOWN: dict[str, _Tool] = {
    # Only a search itself has a price, and a summary only reads the request once more.
    "open_page": _Tool(prompt=0, result=HOSTED_USE_TOKENS, uses=1),
    "compaction": _Tool(prompt=0, uses=1),
    "mcp": _MCP,
}
"""What answers show besides the tools that requests name."""
_MOST_USES = 10
"""Anthropic's loop pauses the turn after ten rounds:
https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons#pause-turn"""
_ANY_USES = 100
"""No answer comes near it; it keeps absurd limits out of the arithmetic."""
_PRO_READS = 8
_PRO_TOKENS = 2_000
"""OpenAI's `reasoning.mode: pro` bills several passes: 1,549 tokens for a question of 19, as recorded."""


@frozen
class Hosted:
    """What a provider does for a step on its own side."""

    uses: int
    """Uses of tools that are priced by the piece."""
    tokens: int
    """Input tokens of definitions and results, each as often as it is read."""
    reads: int = 1
    """How often the request itself is read, and billed: once, and again after every use of a tool."""


_NOTHING_HOSTED = Hosted(0, 0)


def hosted_allowance(step: Step) -> Hosted:
    """What to reserve for tools that the provider runs: as many uses as the request allows (`max_uses` on
    messages, `max_tool_calls` on responses), a guess where it sets no limit.

    Every use is a round of its own: the request and all results so far are read, and billed, once more.
    """
    if step.surface in _BARE:
        return _NOTHING_HOSTED
    body = step.body
    offered = list(_provider_tools(step))
    plugins = body.get("plugins")
    extras = len(plugins) if isinstance(plugins, list) else 0
    passes = _PRO_READS if _is_pro(body) else 1
    if not offered and not extras and passes == 1 and not _compacts(body):
        return _NOTHING_HOSTED
    uses = _uses(step, offered)
    # OpenRouter's plugins put what they find in front of the request, once.
    prompt = sum([tool.prompt for tool, _ in offered])
    result = max([tool.result for tool, limit in offered if tool.uses and limit != 0], default=0)
    priced = sum([tool.uses if limit is None else limit for tool, limit in offered if tool.priced])
    reads = (1 + uses + _compacts(body)) * passes
    tokens = prompt * reads + result * (uses * (uses + 1) // 2) * passes + extras * HOSTED_USE_TOKENS
    if passes > 1:
        tokens += _PRO_TOKENS
    return Hosted(min(uses, priced) + extras, tokens, reads)


def hosted_use(step: Step, shown: Sequence[str], *, begun: bool, model: str | None = None) -> Hosted:
    """What the provider has done for a step, told by the answer: `shown` are the kinds of the tools that it
    was seen to call (`Answer.hosted`). Definitions are read whether they are used or not.

    On chat an answer that has `begun` has been searched for where that was asked: once, and before it.
    """
    if step.surface in _BARE:
        return _NOTHING_HOSTED
    before = _searches_before(step) if begun and step.surface is Surface.CHAT else 0
    # A search before the answer is cited like one in its course.
    used = [] if before else [_shown(step, kind) for kind in shown]
    passes = _PRO_READS if _is_pro(step.body) else 1
    rounds = len(used)
    reads = (1 + rounds) * passes
    prompt = sum([tool.prompt for tool, _ in _tools_of_body(step)])
    results = sum([tool.result * (rounds - i) for i, tool in enumerate(used)])
    tokens = prompt * reads + results * passes
    if not SEARCH_MODEL.search(model or step.model):
        tokens += before * HOSTED_USE_TOKENS
    if passes > 1:
        tokens += _PRO_TOKENS
    return Hosted(sum([tool.priced for tool in used]) + before, tokens, reads)


def _searches_before(step: Step) -> int:
    """Searches of a chat that are made with the request itself."""
    plugins = step.body.get("plugins")
    searches = int(isinstance(step.body.get("web_search_options"), dict))
    for plugin in plugins if isinstance(plugins, list) else ():
        searches += isinstance(plugin, dict) and plugin.get("id") == "web"
    return searches


def _shown(step: Step, kind: str) -> _Tool:
    if kind in _SHOWN:
        return _SHOWN[kind]
    table = _ON_MESSAGES if step.surface is Surface.MESSAGES else _ELSEWHERE
    # Code that Anthropic runs is called by what it does: `bash_code_execution`.
    return next((known for name, known in table if name in kind), _UNKNOWN)


def _provider_tools(step: Step) -> Iterator[tuple[_Tool, int | None]]:
    """The tools that the provider runs for a step, each with the caller's limit of its uses. A limit counts
    only on the surface that knows it: elsewhere it would be ignored."""
    yield from _tools_of_body(step)
    if step.surface is Surface.CHAT and isinstance(step.body.get("web_search_options"), dict):
        yield _ELSEWHERE[0][1], 1


def _tools_of_body(step: Step) -> Iterator[tuple[_Tool, int | None]]:
    """Those that the request defines by their name."""
    body = step.body
    tools = body.get("tools")
    read = _on_messages if step.surface is Surface.MESSAGES else _elsewhere
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and tool.get("type") not in _CLIENT_TOOLS:
            yield read(str(tool["type"]), tool)
    servers = body.get("mcp_servers")
    for _ in servers if isinstance(servers, list) else ():
        yield _MCP, None


def _on_messages(kind: str, tool: Mapping[str, Any]) -> tuple[_Tool, int | None]:
    known = next((known for start, known in _ON_MESSAGES if kind.startswith(start)), _UNKNOWN)
    most = _limit(tool, "max_content_tokens")
    return known if most is None else replace(known, result=most), _limit(tool, "max_uses")


def _elsewhere(kind: str, tool: Mapping[str, Any]) -> tuple[_Tool, int | None]:
    environment = tool.get("environment")
    if kind == "shell" and isinstance(environment, dict) and environment.get("type") == "local":
        kind = "local_shell"
    return next((known for start, known in _ELSEWHERE if kind.startswith(start)), _UNKNOWN), None


def _limit(source: Mapping[str, Any], name: str) -> int | None:
    value = source.get(name)
    return value if type(value) is int and value >= 0 else None


def _uses(step: Step, offered: Iterable[tuple[_Tool, int | None]]) -> int:
    """Uses of all the provider's tools together."""
    limited = unlimited = 0
    for tool, limit in offered:
        if tool.uses:
            if limit is None:
                unlimited = max(unlimited, tool.uses)
            else:
                limited += limit
    cap = _MOST_USES if step.surface is Surface.MESSAGES else _ANY_USES
    most = _limit(step.body, "max_tool_calls") if step.surface is Surface.RESPONSES else None
    return min(max(limited, unlimited), cap if most is None else min(most, cap))


def _is_pro(body: Mapping[str, Any]) -> bool:
    reasoning = body.get("reasoning")
    return isinstance(reasoning, dict) and reasoning.get("mode") == "pro"


def _compacts(body: Mapping[str, Any]) -> bool:
    """Whether the provider may sum up the conversation first, which reads it once more."""
    asked = body.get("context_management")
    edits = asked.get("edits") if isinstance(asked, dict) else asked
    kinds = [edit.get("type") for edit in edits if isinstance(edit, dict)] if isinstance(edits, list) else []
    return body.get("compaction") is not None or any(str(kind).startswith("compact") for kind in kinds)


# -- input ------------------------------------------------------------------------------------------


@frozen
class InputTokens:
    """Input tokens of a step by the price they have."""

    text: int
    audio: int = 0
    image: int = 0

    @property
    def total(self) -> int:
        return self.text + self.audio + self.image

    def with_hosted(self, hosted: Hosted) -> InputTokens:
        """These tokens as often as they are read, and what the provider adds."""
        reads = hosted.reads
        return InputTokens(self.text * reads + hosted.tokens, self.audio * reads, self.image * reads)


def _media(step: Step, model: str, context_window: int | None) -> tuple[int, int, int]:
    """Tokens of (images, audio, everything else). A request that is answered fits into the window."""
    images = audio = other = 0
    for item in step.items:
        for media in item.media:
            if media.kind == "image":
                images += media_tokens(media, model)
            elif media.kind == "audio":
                audio += media_tokens(media, model)
            elif not _is_token_ids(step, media):
                other += media_tokens(media, model)
    if context_window is not None:
        return min(images, context_window), min(audio, context_window), min(other, context_window)
    return images, audio, other


def _is_token_ids(step: Step, media: Media) -> bool:
    return media.kind == "other" and step.surface in _TOKEN_IDS


def _token_ids(step: Step) -> int:
    """How many token ids a bare step carries: each is one token, exactly."""
    given = step.body.get(_TOKEN_IDS.get(step.surface, ""))
    if not isinstance(given, list) or not given:
        return 0
    if type(given[0]) is int:
        return len(given)
    return sum([len(entry) for entry in given if isinstance(entry, list)])


def bound_of(step: Step, *, model: str | None = None, context_window: int | None = None) -> InputTokens:
    """Upper bound of a step's input tokens, from sizes alone.

    A token is at least one byte of text in every tokenizer in use, so bytes bound tokens. `model` is the
    one really called, where it is not the one asked for. What the provider adds is an allowance. Images,
    audio and files, whose size may not be told, are each at most the `context_window`.
    """
    return _bound(step, model or step.model, context_window).with_hosted(hosted_allowance(step))


def _bound(step: Step, model: str, context_window: int | None) -> InputTokens:
    images, audio, other = _media(step, model, context_window)
    if step.surface in _BARE:
        inputs = sum([bool(item.texts) for item in step.items])
        text = step.text_bytes + INPUT_BOUND * inputs + _token_ids(step) + other
        return InputTokens(text, audio, images)
    text = step.text_bytes + REQUEST_BOUND + ITEM_BOUND * len(step.items) + other
    if step.tools:
        text += TOOL_PROMPT_BOUND + TOOL_BOUND * len(step.tools)
    return InputTokens(text, audio, images)


@frozen
class _Around:
    """Tokens that a surface puts around parts of a request, beyond what chat does; from recorded traffic."""

    request: int = 0
    forced_tool: int = 0
    """For a choice that demands a call."""
    call: int = 0
    form: int = 0
    """Around the schema that the answer has to fit."""
    schema_share: float = _SCHEMA_SHARE


_AS_CHAT = _Around()
_AROUND = {
    Surface.MESSAGES: _Around(request=32, forced_tool=96, call=64, form=176, schema_share=1.0),
    Surface.RESPONSES: _Around(request=8),
}


def count_of(step: Step, *, model: str | None = None, context_window: int | None = None) -> InputTokens:
    """A step's input tokens by tokenizer, without what hosted tools add: within a few percent for OpenAI's
    models on chat, embeddings and completions, upward elsewhere. Media are bounded as in `bound_of`."""
    model = model or step.model
    images, audio, other = _media(step, model, context_window)
    texts = sum(
        [
            count(text.text, model)
            for item in step.items
            for text in item.texts
            if not item.aside or text.pointer[0] in _SPOKEN
        ]
    )
    if step.surface in _BARE:
        return InputTokens(texts + _token_ids(step) + other, audio, images)
    around = _AROUND.get(step.surface, _AS_CHAT)
    tokens = REPLY_TOKENS + around.request + hidden_tokens(model, len(step.tools)) + texts + other
    tokens += ITEM_TOKENS * sum([not item.aside for item in step.items])
    for item in step.items:
        for call in item.calls:
            tokens += CALL_TOKENS + around.call + count(call.name, model) + count(call.arguments, model)
    choice = step.body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in ("any", "tool"):
        tokens += around.forced_tool
    for tool in step.tools:
        tokens += TOOL_TOKENS + count(tool.name, model) + count(tool.description, model)
        if tool.schema is not None:
            tokens += _schema_tokens(tool.schema, model, around)
    form = _answer_form(step)
    if form is not None:
        tokens += around.form + _schema_tokens(form, model, around)
    if around is not _AS_CHAT:
        sealed = step.body.get("messages" if step.surface is Surface.MESSAGES else "input")
        tokens += -(-_sealed_chars(sealed) // _SEALED_CHARS)
    return InputTokens(tokens, audio, images)


def _answer_form(step: Step) -> Mapping[str, Any] | None:
    """The form that the answer is to have, where it is more than a name."""
    body = step.body
    form = body.get("response_format") or body.get("output_format")
    for holder in ("text", "output_config"):
        inside = body.get(holder)
        if form is None and isinstance(inside, dict):
            form = inside.get("format")
    return form if isinstance(form, dict) and len(form) > 1 else None


def _schema_tokens(schema: Mapping[str, Any], model: str, around: _Around) -> int:
    return math.ceil(around.schema_share * count(orjson.dumps(schema, default=str).decode(), model))


def _sealed_chars(value: Any) -> int:
    """Characters of thoughts and of ciphertext that a conversation brings back; no item holds them."""
    if isinstance(value, list):
        return sum([_sealed_chars(entry) for entry in value])
    if not isinstance(value, dict):
        return 0
    redacted = value.get("data") if value.get("type") == "redacted_thinking" else None
    size = len(redacted) if isinstance(redacted, str) else 0
    for key, inner in value.items():
        if not isinstance(inner, str):
            size += _sealed_chars(inner)
        elif key in _SEALED:
            size += len(inner)
    return size


def input_bound(step: Step, *, model: str | None = None, context_window: int | None = None) -> int:
    """Upper bound of a step's input tokens (`bound_of`), all kinds together."""
    return bound_of(step, model=model, context_window=context_window).total


def input_count(step: Step, *, model: str | None = None) -> int:
    """A step's input tokens by tokenizer (`count_of`), all kinds together. Up to 190 ms per MB of text."""
    return count_of(step, model=model).total


# -- cost -------------------------------------------------------------------------------------------


def output_bound(step: Step, model_cap: int | None, default_cap: int) -> int:
    """The most output tokens per choice: the caller's limit, else the default, never above the model's cap.

    With no limit of the caller the result has to be set upstream, or it bounds nothing. A model's thinking
    is inside its limit on every surface. 0 where nothing is generated.
    """
    if step.surface in GENERATES_NOTHING:
        return 0
    limit = default_cap if step.output_limit is None else step.output_limit
    if model_cap is not None:
        limit = min(limit, model_cap)
    return max(limit, 0)


def thinking_budget(step: Step) -> int:
    """Output tokens that the caller sets aside for thinking: a limit that is not above them is refused by the
    provider, or leaves no answer. Messages has `thinking` for it, OpenRouter `reasoning`."""
    thinking, reasoning = step.body.get("thinking"), step.body.get("reasoning")
    if thinking is None and reasoning is None:
        return 0
    given = _limit(thinking, "budget_tokens") if isinstance(thinking, dict) else None
    routed = _limit(reasoning, "max_tokens") if isinstance(reasoning, dict) else None
    return max(given or 0, routed or 0)


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
        tokens = count_of(step, model=model, context_window=context_window)
    else:
        tokens = _bound(step, model or step.model, context_window)
    if stored_tokens > 0:
        tokens = replace(tokens, text=tokens.text + stored_tokens)
    tokens = tokens.with_hosted(hosted)
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
    if step.surface in GENERATES_NOTHING:
        made = output_tokens = 0
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
    hosted: Sequence[str] = (),
    context_window: int | None = None,
) -> Usage:
    """Usage of an attempt whose provider told none (a cut stream, a server without usage).

    Input and the answer's text are counted; cached input is taken for uncached. Of tools that the provider
    runs the uses that it showed count (`hosted`), with an allowance for what they read, since that is not in
    the answer. `answer_text` is all that was received, reasoning included. `output_tokens` replaces the count
    where nothing can be counted. Source `estimated`; within 15 % of o200k for OpenAI's models on chat.
    """
    name = model or step.model
    texts = [answer_text] if isinstance(answer_text, str) else list(answer_text)
    calls = list(tool_calls)
    use = hosted_use(step, hosted, begun=bool(calls) or any(texts), model=name)
    tokens = count_of(step, model=name, context_window=context_window).with_hosted(use)
    if output_tokens is None:
        output_tokens = sum(count(text, name) for text in texts)
        for call in calls:
            output_tokens += CALL_TOKENS + count(call.name, name) + count(call.arguments, name)
    return Usage(
        input_uncached=tokens.text,
        audio_in=tokens.audio,
        image_in=tokens.image,
        output_text=output_tokens,
        tool_requests=use.uses,
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


def with_later_rounds(step: Step, read: ReadUsage, hosted: Sequence[str]) -> ReadUsage:
    """The usage of a cut stream of Messages with what its beginning cannot tell: the rounds that the provider
    began for its own tools after the first, each of which reads everything once more."""
    if step.surface is not Surface.MESSAGES or read.output_trusted or not hosted:
        return read
    use = hosted_use(step, hosted, begun=True)
    results = use.tokens - use.reads * sum([tool.prompt for tool, _ in _tools_of_body(step)])
    later = read.usage.input_total * (use.reads - 1) + results
    usage = replace(
        read.usage,
        input_uncached=read.usage.input_uncached + later,
        tool_requests=max(read.usage.tool_requests, use.uses),
    )
    return replace(read, usage=usage)
