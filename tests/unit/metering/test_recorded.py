"""Usage and cost of recorded provider traffic against an independent reading, by genai-prices.

The recordings stay outside the repository: `GATEWAY_SHARED_DATA`, or `../shared/data` beside it.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from genai_prices import calc_price, extract_usage
from genai_prices.types import Usage as TableUsage

from gateway.domain import Surface, ToolDef
from gateway.metering.estimate import estimated_usage, hosted_allowance, input_bound
from gateway.metering.prices import PriceBook, UnknownPrice, provider_ref
from gateway.metering.usage import ReadUsage, UsageFold, read_usage
from tests.unit.metering.steps import chat_step

DATA = Path(os.environ.get("GATEWAY_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
FILE = DATA / "provider_exchanges_dev.jsonl.gz"
NOW_MS = 1_795_000_000_000

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"no recorded exchanges at {FILE}")

FLAVORS = {
    ("openai", Surface.CHAT): "chat",
    ("openai", Surface.RESPONSES): "responses",
    ("openai", Surface.EMBEDDINGS): "embeddings",
    ("openrouter", Surface.CHAT): "chat",
    ("openrouter", Surface.RESPONSES): "default",
    ("groq", Surface.CHAT): "default",
    ("google", Surface.CHAT): "chat",
    ("anthropic", Surface.MESSAGES): "default",
}
"""By provider and surface: what genai-prices calls the wire format. Unlisted hosts are read as OpenAI's."""


class Exchange:
    def __init__(self, record: dict[str, Any]) -> None:
        self.id: str = record["id"]
        self.surface = Surface(record["surface"])
        self.request: dict[str, Any] = record["request"]["body"]
        self.ref = provider_ref("openai", f"https://{record['host_kind']}/v1")
        self.events = _events(record)

    @property
    def read(self) -> ReadUsage | None:
        if len(self.events) == 1:
            return read_usage(self.surface, self.events[0])
        fold = UsageFold(self.surface)
        for event in self.events:
            fold.feed(event)
        return fold.result()

    @property
    def reply(self) -> dict[str, Any] | None:
        """One reply object with the final usage, put together without the code under test."""
        usage: dict[str, Any] = {}
        model = None
        for event in self.events:
            holder = event.get("response") or event.get("message") or event
            model = holder.get("model") or model
            told = holder.get("usage") or (event.get("x_groq") or {}).get("usage") or event.get("usage")
            if told:
                usage = {**usage, **told} if self.surface is Surface.MESSAGES else told
        return {"model": model, "usage": usage} if usage else None

    @property
    def independent(self) -> TableUsage:
        known = self.ref if (self.ref, self.surface) in FLAVORS else "openai"
        provider = "anthropic" if self.surface is Surface.MESSAGES else known
        assert provider is not None
        # The model is left out: an unknown one would fail the reading of its usage.
        reply = {"usage": (self.reply or {})["usage"]}
        return extract_usage(reply, provider_id=provider, api_flavor=FLAVORS[provider, self.surface]).usage


def _events(record: dict[str, Any]) -> list[dict[str, Any]]:
    body = record["response"]["body"]
    if record["stream"]:
        lines = [line[5:].strip() for line in body.splitlines() if line.startswith("data:")]
        return [orjson.loads(line) for line in lines if line.startswith("{")]
    return [orjson.loads(body)]


@cache
def exchanges() -> tuple[Exchange, ...]:
    def load() -> Iterator[Exchange]:
        with gzip.open(FILE, "rb") as lines:
            for line in lines:
                record = orjson.loads(line)
                if record["status"] != 200 or not record["response"]["body"].lstrip().startswith(
                    ("{", "data:", "event:", ":")
                ):
                    continue
                yield Exchange(record)

    return tuple(load())


def hidden_output(exchange: Exchange) -> int:
    """Exception 1: Gemini's OpenAI endpoint tells its thinking in `total_tokens` alone; it is billed as
    output, and genai-prices does not see it."""
    usage = (exchange.reply or {})["usage"]
    if exchange.surface is not Surface.CHAT or exchange.ref != "google":
        return 0
    return int(usage["total_tokens"] - usage["prompt_tokens"] - usage["completion_tokens"])


def test_usage_is_read_as_an_independent_reader_does() -> None:
    read = 0
    for exchange in exchanges():
        ours = exchange.read
        if exchange.reply is None:
            assert ours is None, exchange.id
            continue
        assert ours is not None, exchange.id
        theirs = exchange.independent.__dict__
        usage = ours.usage
        written = theirs.get("cache_write_tokens", 0)
        assert usage.input_total == theirs["input_tokens"], exchange.id
        assert usage.output_total == theirs.get("output_tokens", 0) + hidden_output(exchange), exchange.id
        assert usage.cache_read == theirs.get("cache_read_tokens", 0), exchange.id
        assert usage.cache_write_5m + usage.cache_write_1h == written, exchange.id
        assert usage.cache_write_1h == theirs.get("cache_write_1h_tokens", 0), exchange.id
        if exchange.surface is Surface.MESSAGES:
            assert usage.tool_requests == theirs.get("web_searches", 0), exchange.id
        assert usage.audio_in == theirs.get("input_audio_tokens", 0), exchange.id
        # Exception 2: one model of OpenRouter told 11 reasoning tokens inside 10 tokens of completion.
        if ours.anomalies:
            assert ours.anomalies == ("reasoning_tokens",), exchange.id
        else:
            reasoning = theirs.get("output_reasoning_tokens", 0) + hidden_output(exchange)
            assert usage.output_reasoning == reasoning, exchange.id
        read += 1
    assert read >= 450


def test_cost_is_equal_to_the_nano_dollar() -> None:
    book = PriceBook()
    equal: dict[str, int] = {}
    unknown = set()
    for exchange in exchanges():
        reply, ours = exchange.reply, exchange.read
        if exchange.ref is None or reply is None or ours is None:
            continue
        model = reply["model"] or exchange.request["model"]
        try:
            rates = book.rates(exchange.ref, model, NOW_MS)
        except UnknownPrice:
            unknown.add((exchange.ref, model))
            continue
        when = datetime.fromtimestamp(NOW_MS / 1000, UTC)
        usage = exchange.independent
        if "web_searches" in usage.__dict__:
            del usage.__dict__["web_searches"]
        if "output_reasoning_tokens" in usage.__dict__:
            usage.output_reasoning_tokens = min(usage.output_reasoning_tokens, usage.output_tokens)
        price = calc_price(usage, model, provider_id=exchange.ref, genai_request_timestamp=when).total_price
        expected = int((price * 10**9).to_integral_value(rounding=ROUND_CEILING))
        # Exception 1 again, at the output price.
        expected += hidden_output(exchange) * rates.base.output_text // 10**6
        # Exception 3: genai-prices reads no hosted tool calls for OpenAI and OpenRouter, and for Anthropic
        # they were taken out above: each is added at its price per piece.
        expected += ours.usage.tool_requests * rates.tool_nano
        # Exception 4: the table prices the audio of gpt-4o-audio-preview as text; ours is its list price.
        if "audio-preview" in model:
            expected += ours.usage.audio_in * int((Decimal(40) - Decimal("2.5")) * 1000)
        # Exception 5: prices with more than nine decimals (OpenRouter's cache writes) are rounded up.
        assert 0 <= rates.cost(ours.usage) - expected <= (1 if ours.usage.cache_write_5m else 0), exchange.id
        equal[exchange.surface] = equal.get(exchange.surface, 0) + 1
    assert equal[Surface.CHAT] >= 130
    assert equal[Surface.MESSAGES] >= 130
    assert equal[Surface.RESPONSES] >= 140
    # Exception 6: what is unknown to us is unknown there too, or listed at 0, which no operator declared.
    for provider, model in unknown:
        try:
            price = calc_price(TableUsage(input_tokens=10**6), model, provider_id=provider).total_price
        except LookupError:
            continue
        assert price == 0, model


def test_openrouters_own_figure_agrees_where_the_table_knows_the_route() -> None:
    """OpenRouter routes to providers of different prices, so its own figure is what counts; it has to be
    there, and positive unless the model is free or the key is the caller's."""
    told = [e.read.reported_cost for e in exchanges() if e.ref == "openrouter" and e.read is not None]
    assert len([cost for cost in told if cost]) >= 15


def test_advisors_are_billed_besides() -> None:
    extras = [extra for e in exchanges() if e.read is not None for extra in e.read.extras]
    assert {"claude-opus-4-8"} <= {model for model, _ in extras}
    assert all(usage.input_total > 0 for _, usage in extras)


def test_input_counts_agree_with_what_openai_billed() -> None:
    """Plain text requests to OpenAI's models: the estimate is within 15 %, or 8 tokens for tiny ones."""
    compared = 0
    for exchange in exchanges():
        body, read = exchange.request, exchange.read
        if exchange.ref != "openai" or exchange.surface is not Surface.CHAT or read is None:
            continue
        messages = body["messages"]
        if set(body) & {"tools", "response_format", "web_search_options", "audio"} or not all(
            isinstance(message.get("content"), str) for message in messages
        ):
            continue
        step = chat_step(*(message["content"] for message in messages), model=body["model"])
        billed = read.usage.input_total
        if body["model"] == "o1-mini":
            continue  # adds 11 tokens of its own
        estimate = estimated_usage(step, "").input_total
        assert abs(estimate - billed) <= max(8, 0.15 * billed), exchange.id
        compared += 1
    assert compared >= 10


def test_the_bound_covers_what_was_billed() -> None:
    """Requests of text and the caller's own tools: bytes and overheads are never under the billed input.

    Left out is what no request tells: media (their own test), hosted tools, Groq's agent system, OpenAI's
    `reasoning.mode: pro` (bills several passes), and OpenRouter's `models` (another model may answer).
    """
    covered = 0
    for exchange in exchanges():
        body, read = exchange.request, exchange.read
        if read is None or not isinstance(body, dict):
            continue
        raw = orjson.dumps(body)
        items = body.get("messages") or body.get("input")
        step = chat_step(
            *("" for _ in (items if isinstance(items, list) else [items])),
            model=str(body.get("model")),
            tools=tuple(ToolDef(str(tool.get("name") or ""), "", None) for tool in body.get("tools") or ()),
        )
        step.body, step.raw, step.text_bytes = body, raw, len(raw)
        told = any(word in raw for word in (b"image", b"document", b"audio", b"file", b'"mode":"pro"'))
        hosted = hosted_allowance(step).tokens or body.get("previous_response_id")
        if told or hosted or "models" in body or step.model.startswith("compound"):
            continue
        assert input_bound(step) >= read.usage.input_total, exchange.id
        covered += 1
    assert covered >= 200
