"""What a step may cost, and what it cost when nobody said."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import Media, Surface, ToolCall, ToolDef, Usage
from gateway.metering.estimate import (
    HOSTED_USE_TOKENS,
    HOSTED_USES,
    bound_of,
    estimated_usage,
    hosted_allowance,
    input_bound,
    input_count,
    output_bound,
    quote,
    repaired,
)
from gateway.metering.prices import MTOK, SIM_RATES, PriceBook, Rates, Tier
from gateway.metering.tokens import count_exact
from gateway.metering.usage import ReadUsage
from tests.unit.metering.steps import chat_step

WEATHER = ToolDef(
    "get_weather",
    "The weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
NOW = 1_795_000_000_000


@given(
    st.lists(st.text(max_size=200), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(["gpt-4o", "gpt-4", "gpt-5-mini"]),
)
def test_the_bound_is_never_under_the_count(texts: list[str], tools: bool, model: str) -> None:
    step = chat_step(*texts, model=model, tools=(WEATHER,) if tools else ())
    assert input_bound(step) >= input_count(step)


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-5", "llama-3.3-70b", "gemini-2.5-pro"])
def test_the_bound_holds_for_other_families(model: str) -> None:
    step = chat_step("Tell me about the history of Rome. " * 30, model=model, tools=(WEATHER,))
    assert input_bound(step) >= input_count(step)


def test_media_are_in_the_bound_and_fit_the_window() -> None:
    document = Media("file", "d", 10)
    step = chat_step("see", media=(Media("image", "d", 9_000), Media("audio", "d", 7_500), document))
    tokens = bound_of(step)
    assert (tokens.image, tokens.audio) == (1_445, 100)
    assert input_bound(step) > 460_000 > input_bound(step, context_window=128_000) > 128_000


def test_hosted_tools_get_an_allowance() -> None:
    step = chat_step("find", surface=Surface.MESSAGES)
    step.body["tools"] = [{"type": "web_search_20250305", "max_uses": 2}, {"type": "code_execution"}]
    assert hosted_allowance(step).uses == 2 + HOSTED_USES
    step.body["max_tool_calls"] = 1
    assert hosted_allowance(step).tokens == HOSTED_USE_TOKENS
    step.body["tools"] = [{"name": "mine", "input_schema": {}}, {"type": "function"}, {"type": "custom"}]
    assert hosted_allowance(step).uses == 0


def test_servers_of_tools_and_plugins_are_hosted_too() -> None:
    step = chat_step("find", mcp_servers=[{"url": "https://tools.example"}], plugins=[{"id": "web"}])
    assert hosted_allowance(step).uses == 1
    assert hosted_allowance(step).tokens == (1 + HOSTED_USES) * HOSTED_USE_TOKENS


@pytest.mark.parametrize(
    ("asked", "cap", "default", "bound"),
    [
        (None, None, 8192, 8192),
        (None, 4096, 8192, 4096),
        (100, 4096, 8192, 100),
        (100_000, 16_384, 8192, 16_384),
        (100_000, None, 8192, 100_000),
    ],
)
def test_the_callers_output_limit_is_kept(
    asked: int | None, cap: int | None, default: int, bound: int
) -> None:
    assert output_bound(chat_step("x", output_limit=asked), cap, default) == bound


def test_a_quote_is_a_line_over_output_tokens() -> None:
    step = chat_step("hello", choices=3)
    q = quote(step, SIM_RATES, 100)
    assert q.input_nano == input_bound(step) * 2_500
    assert q.cost_of(0) == q.base_nano
    assert q.nano == q.base_nano + 3 * 100 * 10_000
    assert q.output_rate >= 30_000
    assert q.cost_of(-5) == q.base_nano


@given(st.integers(0, 10**6), st.integers(0, 10**12), st.integers(1, 128))
def test_the_rate_per_token_never_understates_the_line(tokens: int, rate: int, choices: int) -> None:
    rates = Rates(SIM_RATES.base.__class__(0, 0, 0, 0, rate, 0, 0, 0, 0, 0))
    q = quote(chat_step("x", choices=choices), rates, tokens)
    assert q.base_nano + tokens * q.output_rate * (1 + 1e-12) >= q.cost_of(tokens) - 1


@given(
    st.text(max_size=400),
    st.integers(0, 5_000),
    st.integers(0, 2_000),
    st.sampled_from(["gpt-4o", "gpt-5.5", "claude-sonnet-4-5"]),
)
def test_a_quote_covers_what_a_call_can_cost(text: str, cached: int, made: int, model: str) -> None:
    provider = "anthropic" if "claude" in model else "openai"
    rates = PriceBook().rates(provider, model, NOW)
    step = chat_step(text, model=model, output_limit=made)
    read = input_count(step)
    hit = min(cached, read)
    for usage in (
        Usage(input_uncached=read - hit, cache_read=hit, output_text=made),
        Usage(cache_write_5m=read, output_reasoning=made),
    ):
        assert rates.cost(usage) <= quote(step, rates, made).nano


def test_the_dearest_tier_in_reach_prices_the_whole() -> None:
    dear = SIM_RATES.base.scaled(2, 1)
    rates = Rates(SIM_RATES.base, (Tier(1_000, dear),))
    step = chat_step("x" * 2_000)
    assert quote(step, rates, 1).output_nano_per_mtok == dear.output_text
    assert quote(step, rates, 1, exact=True).output_nano_per_mtok == SIM_RATES.base.output_text


def test_cache_writes_are_reserved_for_where_they_can_happen() -> None:
    rates = PriceBook().rates("anthropic", "claude-sonnet-4-5", NOW)
    plain = chat_step("x", model="claude-sonnet-4-5")
    hour = chat_step("x", model="claude-sonnet-4-5", cache_control={"type": "ephemeral", "ttl": "1h"})
    assert quote(plain, rates, 0).input_nano == input_bound(plain) * 3_750
    assert quote(hour, rates, 0).input_nano == input_bound(hour) * 6_000
    hour.raw = hour.raw.replace(b'"1h"', b'"\\u0031h"')
    assert quote(hour, rates, 0).input_nano == input_bound(hour) * 6_000


def test_stored_tokens_tools_and_requests_are_in_the_quote() -> None:
    rates = Rates.from_policy(
        input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(1), request_usd=Decimal("0.001")
    )
    step = chat_step("x")
    assert (
        quote(step, rates, 0, stored_tokens=500).input_nano == quote(step, rates, 0).input_nano + 500 * 1_000
    )
    assert quote(step, rates, 0).fixed_nano == 1_000_000
    searching = chat_step("x", web_search_options={})
    priced = PriceBook().rates("openai", "gpt-4o", NOW)
    assert quote(searching, priced, 0).fixed_nano == 10_000_000


def test_audio_output_is_reserved_at_its_own_price() -> None:
    rates = PriceBook().rates("openai", "gpt-4o-audio-preview", NOW)
    spoken = chat_step("x", model="gpt-4o-audio-preview", modalities=["text", "audio"])
    assert quote(spoken, rates, 1).output_nano_per_mtok == rates.base.audio_out == 80 * 10**9


@pytest.mark.parametrize("words", [40, 400, 4_000])
def test_an_estimate_is_within_fifteen_percent_of_the_truth(words: int) -> None:
    """The truth is OpenAI's: o200k of each text, 4 around a message, 3 before the answer."""
    prompt = "The gateway meters every agent, and says why it stopped. " * (words // 10)
    answer = "Because the budget of this run was used up; an operator can top it up. " * (words // 14)
    usage = estimated_usage(chat_step(prompt), answer)
    assert usage.source == "estimated"
    assert usage.input_total == pytest.approx(count_exact(prompt) + 7, rel=0.15)
    assert usage.output_total == pytest.approx(count_exact(answer), rel=0.15)


def test_an_estimate_counts_tool_calls_and_takes_a_count_where_none_can_be_made() -> None:
    call = ToolCall("c", "get_weather", '{"city":"Paris"}')
    step = chat_step("hi")
    assert estimated_usage(step, "", [call]).output_total > count_exact(call.arguments)
    assert estimated_usage(step, "", output_tokens=77).output_total == 77
    assert estimated_usage(step, ["a b", "c d"]).output_total == 4


def test_only_the_side_that_is_not_believed_is_estimated() -> None:
    told = Usage(output_text=9, source="provider")
    guess = Usage(input_uncached=50, output_text=70, source="estimated")
    assert repaired(ReadUsage(told, input_trusted=False), guess) == Usage(
        input_uncached=50, output_text=9, source="estimated"
    )
    assert repaired(ReadUsage(told), guess) is told
    assert repaired(ReadUsage(Usage(input_uncached=3), output_trusted=False), guess).output_text == 70


def test_nothing_in_a_quote_is_a_float() -> None:
    q = quote(chat_step("x"), SIM_RATES, 10)
    assert all(
        type(v) is int for v in (q.input_tokens, q.input_nano, q.output_nano_per_mtok, q.fixed_nano, q.nano)
    )
    assert q.nano * MTOK >= q.output_tokens * q.output_nano_per_mtok
