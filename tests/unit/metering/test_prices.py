"""Rates and the book that finds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import USAGE_BUCKETS, Usage
from gateway.metering.prices import (
    FREE,
    SIM_RATES,
    SIMULATED,
    TOKEN_BUCKETS,
    PriceBook,
    Rates,
    Tier,
    TokenRates,
    UnknownPrice,
    provider_ref,
)
from gateway.metering.usage import ReadUsage


def at(*day: int) -> int:
    return int(datetime(*day, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


NOW = at(2026, 11, 21)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook(refs={"main": "openai", "house": None, "demo": SIMULATED})


def per_mtok(usd: str) -> int:
    return int(Decimal(usd) * 10**9)


class TestNames:
    @pytest.mark.parametrize(
        ("provider", "model", "given", "made"),
        [
            ("main", "gpt-4o", "2.5", "10"),
            ("main", "gpt-4o-2024-08-06", "2.5", "10"),
            ("main", "GPT-4o", "2.5", "10"),
            ("main", "openai/gpt-4o", "2.5", "10"),
            ("main", "gpt-5.2-20251211", "1.75", "14"),
            ("openrouter", "openai/gpt-4o", "2.5", "10"),
            ("azure", "gpt-4o", "2.5", "10"),
            ("anthropic", "claude-sonnet-4-5-20250929", "3", "15"),
            ("anthropic", "claude-sonnet-4-20250514", "3", "15"),
            ("google", "models/gemini-2.5-pro", "1.25", "10"),
            ("google", "gemini-2.5-pro-preview-05-06", "1.25", "10"),
            ("groq", "llama-3.3-70b-versatile", "0.59", "0.79"),
            ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3", "16.5"),
        ],
    )
    def test_a_known_name_has_its_price(
        self, book: PriceBook, provider: str, model: str, given: str, made: str
    ) -> None:
        rates = book.rates(provider, model, NOW).base
        assert (rates.input_uncached, rates.output_text) == (per_mtok(given), per_mtok(made))

    @pytest.mark.parametrize(
        ("provider", "model"),
        [
            ("main", "gpt-4o-unknown-thing"),
            ("main", "gpt-5-nano-ultra"),
            ("main", "gpt-9"),
            ("main", "computer-use-preview-pro"),
            ("main", ""),
            ("azure", "my-o4-mini-deployment"),
            ("anthropic", "claude-opus-4-10"),
            ("anthropic", "claude-sonnet-4-5-turbo"),
            ("google", "gemini-2.5-pro-ultra"),
            ("groq", "gpt-4o"),
            ("openrouter", "openai/gpt-4o:nitro"),
            ("house", "gpt-4o"),
            ("nowhere", "gpt-4o"),
        ],
    )
    def test_an_unknown_name_never_gets_anothers_price(
        self, book: PriceBook, provider: str, model: str
    ) -> None:
        for _ in range(2):
            with pytest.raises(UnknownPrice):
                book.rates(provider, model, NOW)

    def test_a_full_name_elsewhere_beats_a_loose_clause(self, book: PriceBook) -> None:
        """Azure's own clause for o4-mini is 'contains'; the dearer model is listed by OpenAI in full."""
        rates = book.rates("azure", "o4-mini-deep-research", NOW).base
        assert rates.output_text == per_mtok("8") > book.rates("azure", "o4-mini", NOW).base.output_text

    @pytest.mark.parametrize(
        ("model", "made"),
        [
            ("ft:gpt-4o-mini-2024-07-18:org::id", "1.2"),
            ("ft:gpt-4o-2024-08-06:org:name:id", "15"),
            ("ft:gpt-3.5-turbo:org::id", "6"),
            ("ft:gpt-4.1-2025-04-14:org::id", "12"),
        ],
    )
    def test_a_fine_tune_has_its_own_price(self, book: PriceBook, model: str, made: str) -> None:
        assert book.rates("main", model, NOW).base.output_text == per_mtok(made)

    @pytest.mark.parametrize("model", ["ft:gpt-5:org::id", "ft:gpt-4o-2024-evil:org::id", "ft:", "ft::::"])
    def test_a_fine_tune_without_a_documented_price_is_unknown(self, book: PriceBook, model: str) -> None:
        with pytest.raises(UnknownPrice):
            book.rates("main", model, NOW)

    def test_the_error_suggests_names_that_have_a_price(self, book: PriceBook) -> None:
        with pytest.raises(UnknownPrice) as caught:
            book.rates("main", "gpt-4.1-minni", NOW)
        assert "gpt-4.1-mini" in caught.value.suggestions

    @pytest.mark.parametrize(
        ("provider", "model"),
        [
            ("groq", "whisper-large-v3"),
            ("openrouter", "google/gemma-3-27b-it:free"),
            ("google", "gemma-3-4b"),
        ],
    )
    def test_zero_or_unmetered_in_the_table_is_no_price(
        self, book: PriceBook, provider: str, model: str
    ) -> None:
        with pytest.raises(UnknownPrice):
            book.rates(provider, model, NOW)

    def test_openai_moderation_is_free_by_its_documentation(self, book: PriceBook) -> None:
        assert book.rates("main", "omni-moderation-latest", NOW).free

    def test_a_deployment_has_the_price_of_the_model_it_names(self) -> None:
        book = PriceBook(refs={"az": "azure"}, aliases={("az", "prod-4o"): "gpt-4o"})
        assert book.rates("az", "prod-4o", NOW).base.input_uncached == per_mtok("2.5")

    def test_the_policys_price_comes_first(self) -> None:
        own = Rates.from_policy(input_usd_per_mtok=Decimal("0.2"), output_usd_per_mtok=Decimal("0.2"))
        book = PriceBook({("main", "gpt-4o"): own, ("house", "llama"): FREE}, {"main": "openai"})
        assert book.rates("main", "gpt-4o", NOW) is own
        assert book.rates("house", "llama", NOW).cost(Usage(input_uncached=10**9)) == 0

    def test_long_and_many_names_are_not_remembered(self) -> None:
        book = PriceBook()
        for i in range(5000):
            with pytest.raises(UnknownPrice):
                book.rates("x", f"m{i}", NOW)
        with pytest.raises(UnknownPrice):
            book.rates("x", "m" * 10_000, NOW)
        assert len(book._unknown) <= 4096

    def test_simulated_models_cost_what_is_said_of_them(self, book: PriceBook) -> None:
        assert book.rates("demo", "anything", NOW) is SIM_RATES
        assert SIM_RATES.cost(Usage(input_uncached=1000, cache_read=1000, output_text=100)) == 4_750_000

    def test_warm_tells_what_has_no_price(self, book: PriceBook) -> None:
        missing = book.warm([("main", "gpt-4o"), ("main", "gpt-9")], NOW)
        assert [error.model for error in missing] == ["gpt-9"]

    def test_table_info_and_window(self, book: PriceBook) -> None:
        assert book.table.version
        assert book.table.newest_entry is not None
        assert book.context_window("main", "gpt-4o") == 128_000
        assert book.context_window("house", "gpt-4o") is None
        for i in range(5_000):
            assert book.context_window("house", f"model-{i}") is None
        assert len(book._windows) <= 4096
        assert book.context_window("main", "gpt-4o") == book.context_window("main", "gpt-4o") == 128_000


class TestTime:
    def test_a_price_changes_on_its_start_date(self, book: PriceBook) -> None:
        before = book.rates("deepseek", "deepseek-v4-flash", at(2026, 9, 9, 23, 59)).base
        after = book.rates("deepseek", "deepseek-v4-flash", at(2026, 9, 10, 0, 0)).base
        assert (before.output_text, after.output_text) == (per_mtok("0.66"), per_mtok("0.6"))

    @pytest.mark.parametrize(
        ("hour", "minute", "made"),
        [(0, 29, "0.55"), (0, 30, "1.1"), (16, 29, "1.1"), (16, 30, "0.55"), (0, 0, "0.55")],
    )
    def test_an_off_peak_price_holds_by_the_minute(
        self, book: PriceBook, hour: int, minute: int, made: str
    ) -> None:
        rates = book.rates("deepseek", "deepseek-chat", at(2025, 6, 1, hour, minute)).base
        assert rates.output_text == per_mtok(made)

    def test_an_unchanging_price_is_looked_up_once(self, book: PriceBook) -> None:
        assert book.rates("main", "gpt-4o", NOW) is book.rates("main", "gpt-4o", NOW + 10**10)


class TestContext:
    def test_priority_has_its_own_price(self, book: PriceBook) -> None:
        dear = book.rates("main", "gpt-4o", NOW, (("service_tier", "priority"),)).base
        assert (dear.input_uncached, dear.output_text) == (per_mtok("4.25"), per_mtok("17"))

    @pytest.mark.parametrize(
        ("provider", "model"), [("main", "gpt-4.5-preview"), ("azure", "gpt-4o"), ("main", "o1-mini")]
    )
    def test_a_dearer_way_without_a_price_is_unknown(
        self, book: PriceBook, provider: str, model: str
    ) -> None:
        with pytest.raises(UnknownPrice):
            book.rates(provider, model, NOW, (("service_tier", "priority"),))

    def test_a_discount_without_a_price_keeps_the_standard_one(self, book: PriceBook) -> None:
        assert book.rates("main", "gpt-4o", NOW, (("service_tier", "flex"),)).base.output_text == per_mtok(
            "10"
        )

    def test_inference_in_one_country_costs_a_tenth_more(self, book: PriceBook) -> None:
        rates = book.rates("anthropic", "claude-opus-4-6", NOW, (("inference_geo", "us"),)).base
        assert (
            rates.input_uncached * 10
            == 11 * book.rates("anthropic", "claude-opus-4-6", NOW).base.input_uncached
        )


class TestCost:
    def test_a_tier_begins_above_its_bound(self, book: PriceBook) -> None:
        rates = book.rates("main", "gpt-5.5", NOW)
        at_bound = Usage(input_uncached=200_000, cache_read=72_000, output_text=10)
        assert rates.cost(at_bound) == 200_000 * 5_000 + 72_000 * 500 + 10 * 30_000
        above = replace(at_bound, cache_read=72_001)
        assert rates.cost(above) == 200_000 * 10_000 + 72_001 * 1_000 + 10 * 45_000

    def test_one_ceil_at_the_end(self) -> None:
        rates = Rates(TokenRates(*(1 for _ in TOKEN_BUCKETS)))
        assert rates.cost(Usage()) == 0
        assert rates.cost(Usage(input_uncached=1, output_text=1)) == 1
        assert rates.cost(Usage(input_uncached=500_000, output_text=500_001)) == 2

    def test_hosted_tools_and_requests_are_priced_by_the_piece(self, book: PriceBook) -> None:
        assert book.rates("anthropic", "claude-sonnet-4-5", NOW).cost(Usage(tool_requests=3)) == 30_000_000
        assert book.rates("perplexity", "sonar", NOW).cost(Usage()) > 0

    def test_an_hours_cache_on_a_claude_without_that_price_costs_twice_the_input(
        self, book: PriceBook
    ) -> None:
        rates = book.rates("openrouter", "anthropic/claude-3.7-sonnet:thinking", NOW).base
        assert rates.cache_write_1h >= 2 * rates.input_uncached

    def test_audio_is_not_priced_as_text(self, book: PriceBook) -> None:
        assert book.rates("main", "gpt-4o-audio-preview-2024-12-17", NOW).base.audio_in == per_mtok("40")

    def test_extras_are_billed_at_their_own_model(self, book: PriceBook) -> None:
        extra = Usage(input_uncached=1_000_000, source="provider")
        read = ReadUsage(Usage(), extras=(("claude-opus-4-8", extra), (None, extra), ("unheard-of", extra)))
        opus = book.rates("anthropic", "claude-opus-4-8", NOW).cost(extra)
        haiku = book.rates("anthropic", "claude-haiku-4-5", NOW).cost(extra)
        assert book.cost("anthropic", "claude-haiku-4-5", read, NOW) == opus + 2 * haiku

    def test_settling_uses_the_reserved_rates_when_the_way_of_serving_has_no_price(
        self, book: PriceBook
    ) -> None:
        read = ReadUsage(Usage(output_text=1_000_000), context=(("service_tier", "priority"),))
        reserved = book.rates("main", "o1-mini", NOW)
        assert book.cost("main", "o1-mini", read, NOW, reserved=reserved) == reserved.base.output_text
        with pytest.raises(UnknownPrice):
            book.cost("main", "o1-mini", read, NOW)


@dataclass(frozen=True)
class _Tier:
    above_input_tokens: int
    input_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None
    cached_input_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None


class TestPolicyPrices:
    def test_absent_kinds_are_not_free(self) -> None:
        rates = Rates.from_policy(input_usd_per_mtok=Decimal("2"), output_usd_per_mtok=Decimal("8"))
        assert rates.base.cache_read == rates.base.cache_write_1h == per_mtok("2")
        assert rates.base.audio_out == per_mtok("8")

    def test_a_model_that_only_reads_says_so(self) -> None:
        rates = Rates.from_policy(input_usd_per_mtok=Decimal("0.02"))
        assert not rates.prices_output
        assert rates.base.output_text == per_mtok("0.02")

    def test_a_tier_keeps_what_it_does_not_name(self) -> None:
        rates = Rates.from_policy(
            input_usd_per_mtok=Decimal("1"),
            output_usd_per_mtok=Decimal("2"),
            cached_input_usd_per_mtok=Decimal("0.5"),
            request_usd=Decimal("0.01"),
            tiers=[_Tier(100, input_usd_per_mtok=Decimal("3"))],
        )
        assert rates.at(100) == rates.base
        assert rates.at(101).input_uncached == per_mtok("3")
        assert rates.at(101).cache_read == per_mtok("0.5")
        assert rates.cost(Usage()) == 10_000_000

    @pytest.mark.parametrize("usd", ["-1", "NaN", "Infinity"])
    def test_what_is_no_price_is_refused(self, usd: str) -> None:
        with pytest.raises(ValueError, match="price"):
            Rates.from_policy(input_usd_per_mtok=Decimal(usd), output_usd_per_mtok=Decimal(1))

    def test_no_price_at_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            Rates.from_policy()


@pytest.mark.parametrize(
    ("dialect", "url", "ref"),
    [
        ("openai", "https://api.openai.com/v1", "openai"),
        ("azure_openai", "https://mine.openai.azure.com/", "azure"),
        ("openai", "https://api.groq.com/openai/v1", "groq"),
        ("openai", "https://openrouter.ai/api/v1", "openrouter"),
        ("anthropic", "https://api.anthropic.com", "anthropic"),
        ("openai", "https://generativelanguage.googleapis.com/v1beta/openai", "google"),
        ("openai", "https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1", "aws"),
        ("openai", "https://router.huggingface.co/novita/v3", "huggingface_novita"),
        ("openai", "http://127.0.0.1:11434/v1", None),
        ("openai", "https://api.openai.com.evil.example/v1", None),
        ("openai", "https://evil.example/api.openai.com", None),
        ("simulated", "", "simulated"),
    ],
)
def test_a_provider_is_known_by_its_host(dialect: str, url: str, ref: str | None) -> None:
    assert provider_ref(dialect, url) == ref


_RATES = st.builds(TokenRates, *(st.integers(0, 10**12) for _ in TOKEN_BUCKETS))
_PRICED = st.builds(
    Rates,
    _RATES,
    st.lists(st.builds(Tier, st.integers(0, 2 * 10**6), _RATES), max_size=3).map(tuple),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
_COUNTS = st.fixed_dictionaries({bucket: st.integers(0, 10**9) for bucket in USAGE_BUCKETS})


@given(_PRICED, _COUNTS, st.sampled_from(USAGE_BUCKETS), st.integers(1, 10**6))
def test_cost_is_an_integer_of_at_least_zero_and_grows_with_every_bucket(
    rates: Rates, counts: dict[str, int], bucket: str, more: int
) -> None:
    usage = replace(Usage(), **counts)  # type: ignore[arg-type]  # buckets alone, never `source`
    cost = rates.cost(usage)
    assert type(cost) is int
    assert cost >= 0
    grown = {**counts, bucket: counts[bucket] + more}
    assert rates.cost(replace(usage, **grown)) >= cost  # type: ignore[arg-type]  # as above


@given(st.integers(max_value=-1) | st.floats() | st.just(float("nan")))
def test_a_rate_that_is_no_price_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="rate of input_uncached"):
        TokenRates(bad, *(0 for _ in TOKEN_BUCKETS[1:]))  # type: ignore[arg-type]
