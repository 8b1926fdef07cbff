"""Reading usage: what is believed, what is not, and how a stream adds up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import USAGE_BUCKETS, Surface, Usage
from gateway.metering.prices import SIM_RATES
from gateway.metering.usage import (
    MAX_TOKENS,
    ReadUsage,
    UsageFold,
    read_chat_usage,
    read_messages_usage,
    read_responses_usage,
    read_usage,
    reply_context,
    request_context,
)


def chat(**usage: Any) -> ReadUsage:
    read = read_chat_usage({"usage": usage})
    assert read is not None
    return read


class TestChat:
    def test_parts_are_taken_out_of_their_totals(self) -> None:
        read = chat(
            prompt_tokens=100,
            completion_tokens=50,
            prompt_tokens_details={"cached_tokens": 40, "audio_tokens": 10, "cache_write_tokens": 5},
            completion_tokens_details={
                "reasoning_tokens": 20,
                "audio_tokens": 5,
                "rejected_prediction_tokens": 7,
            },
        )
        assert read.usage == Usage(
            input_uncached=45,
            cache_read=40,
            cache_write_5m=5,
            audio_in=10,
            output_text=25,
            output_reasoning=20,
            audio_out=5,
            source="provider",
        )
        assert read.anomalies == ()

    @pytest.mark.parametrize("reply", [{}, {"usage": None}, {"usage": {}}, {"usage": "12"}, {"usage": [1]}])
    def test_no_usage_is_none(self, reply: dict[str, Any]) -> None:
        assert read_chat_usage(reply) is None

    def test_an_explicit_zero_is_a_zero(self) -> None:
        read = chat(prompt_tokens=0, completion_tokens=0, total_tokens=0)
        assert read.usage == Usage(source="provider")
        assert read.input_trusted
        assert read.output_trusted

    def test_deepseek_tells_cached_tokens_by_another_name(self) -> None:
        read = chat(
            prompt_tokens=10, completion_tokens=1, prompt_cache_hit_tokens=6, prompt_cache_miss_tokens=4
        )
        assert (read.usage.cache_read, read.usage.input_uncached) == (6, 4)

    def test_groq_tells_usage_under_its_own_key(self) -> None:
        read = read_chat_usage({"x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}})
        assert read is not None
        assert read.usage.input_total == 3

    def test_what_only_the_total_has_is_reasoning(self) -> None:
        """Gemini's OpenAI endpoint: the thinking is in the total alone, and is billed."""
        read = chat(prompt_tokens=35, completion_tokens=12, total_tokens=109)
        assert (read.usage.output_text, read.usage.output_reasoning) == (12, 62)

    def test_reasoning_beside_the_completion_is_not_taken_out_of_it(self) -> None:
        read = chat(
            prompt_tokens=10,
            completion_tokens=400,
            total_tokens=710,
            completion_tokens_details={"reasoning_tokens": 300},
        )
        assert (read.usage.output_text, read.usage.output_reasoning) == (400, 300)

    def test_reported_cost_is_exact_and_includes_the_key_owners_own_bill(self) -> None:
        assert chat(prompt_tokens=1, cost=0.00333825).reported_cost == 3_338_250
        byok = chat(
            prompt_tokens=1, cost=0, is_byok=True, cost_details={"upstream_inference_cost": 0.0003253}
        )
        assert byok.reported_cost == 325_300

    @pytest.mark.parametrize("cost", [-1_000_000, float("nan"), float("inf"), "0.1", True, 10**9])
    def test_an_absurd_cost_is_not_believed(self, cost: object) -> None:
        read = chat(prompt_tokens=1, cost=cost)
        assert read.reported_cost is None
        assert "cost" in read.anomalies

    @pytest.mark.parametrize("bad", [-1, 1.5, 5.0, float("nan"), "12", True, 10**18, MAX_TOKENS + 1, [], {}])
    def test_a_count_that_is_none_is_not_believed(self, bad: object) -> None:
        read = chat(prompt_tokens=bad, completion_tokens=7)
        assert read.anomalies == ("prompt_tokens",)
        assert not read.input_trusted
        assert read.output_trusted
        assert read.usage == Usage(output_text=7, source="provider")

    def test_a_part_larger_than_its_whole_is_cut(self) -> None:
        read = chat(
            prompt_tokens=10,
            completion_tokens=10,
            total_tokens=20,
            prompt_tokens_details={"cached_tokens": 99},
            completion_tokens_details={"reasoning_tokens": 11},
        )
        assert read.usage == Usage(cache_read=10, output_reasoning=10, source="provider")
        assert set(read.anomalies) == {"cached_tokens", "reasoning_tokens"}

    def test_a_model_that_always_searches_is_billed_a_search(self) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        read = read_chat_usage({"model": "gpt-4o-search-preview-2025-03-11", "usage": usage})
        assert read is not None
        assert read.usage.tool_requests == 1


class TestMessages:
    def test_buckets_are_disjoint_already(self) -> None:
        read = read_messages_usage(
            {
                "usage": {
                    "input_tokens": 10,
                    "cache_read_input_tokens": 200,
                    "cache_creation_input_tokens": 70,
                    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 40},
                    "output_tokens": 9,
                    "output_tokens_details": {"thinking_tokens": 4},
                    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 5},
                }
            }
        )
        assert read is not None
        assert read.usage == Usage(
            input_uncached=10,
            cache_read=200,
            cache_write_5m=30,
            cache_write_1h=40,
            output_text=5,
            output_reasoning=4,
            tool_requests=2,
            source="provider",
        )

    def test_a_write_of_unknown_lifetime_is_the_short_one(self) -> None:
        read = read_messages_usage(
            {"usage": {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 50}}
        )
        assert read is not None
        assert read.usage.cache_write_5m == 50

    def test_an_advisors_tokens_are_extra_and_its_own_models(self) -> None:
        read = read_messages_usage(
            {
                "usage": {
                    "input_tokens": 20,
                    "output_tokens": 3,
                    "iterations": [
                        {"type": "message", "input_tokens": 20, "output_tokens": 3},
                        {
                            "type": "advisor_message",
                            "model": "claude-opus-4-8",
                            "input_tokens": 25,
                            "output_tokens": 2,
                        },
                        {"type": "compaction", "input_tokens": 7, "output_tokens": 1},
                    ],
                }
            }
        )
        assert read is not None
        assert read.usage.input_total == 20
        assert [(model, usage.input_total) for model, usage in read.extras] == [
            ("claude-opus-4-8", 25),
            (None, 7),
        ]


class TestResponses:
    def test_hosted_tools_are_counted_from_the_output(self) -> None:
        read = read_responses_usage(
            {
                "response": {
                    "usage": {
                        "input_tokens": 30,
                        "input_tokens_details": {"cached_tokens": 10},
                        "output_tokens": 8,
                        "output_tokens_details": {"reasoning_tokens": 3},
                    },
                    "output": [
                        {"type": "web_search_call", "action": {"type": "search"}},
                        {"type": "web_search_call", "action": {"type": "open_page"}},
                        {"type": "file_search_call"},
                        {"type": "message"},
                    ],
                    "tool_usage": {
                        "web_search": {"num_requests": 1},
                        "image_gen": {"input_tokens": 5, "output_tokens": 6},
                    },
                    "service_tier": "priority",
                }
            }
        )
        assert read is not None
        assert read.usage == Usage(
            input_uncached=20,
            cache_read=10,
            output_text=5,
            output_reasoning=3,
            tool_requests=2,
            source="provider",
        )
        assert read.extras == (("gpt-image-1", Usage(image_in=5, image_out=6, source="provider")),)
        assert read.context == (("service_tier", "priority"),)


class TestFold:
    def test_the_last_usage_replaces_and_null_does_not(self) -> None:
        fold = UsageFold(Surface.CHAT)
        assert fold.result() is None
        events: list[dict[str, Any]] = [
            {"usage": None},
            {"usage": {"prompt_tokens": 5, "completion_tokens": 1}},
            {"usage": {"prompt_tokens": 5, "completion_tokens": 3}},
            {"usage": None, "choices": []},
        ]
        for event in events:
            fold.feed(event)
        result = fold.result()
        assert result is not None
        assert (result.usage.input_total, result.usage.output_total) == (5, 3)

    def test_messages_events_complete_each_other(self) -> None:
        fold = UsageFold(Surface.MESSAGES)
        start = {"input_tokens": 20, "cache_read_input_tokens": 7, "output_tokens": 1}
        fold.feed({"type": "message_start", "message": {"usage": start}})
        fold.feed({"type": "message_delta", "usage": {"output_tokens": 15, "input_tokens": 0}})
        fold.feed({"type": "message_stop"})
        result = fold.result()
        assert result is not None
        assert result.usage == Usage(input_uncached=20, cache_read=7, output_text=15, source="provider")

    @given(
        st.sampled_from([Surface.CHAT, Surface.MESSAGES]),
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=6),
        st.data(),
    )
    def test_repeating_an_event_changes_nothing(
        self, surface: Surface, counts: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        names = (
            ("input_tokens", "output_tokens")
            if surface is Surface.MESSAGES
            else ("prompt_tokens", "completion_tokens")
        )
        grown = [(sum(a for a, _ in counts[: i + 1]), b) for i, (_, b) in enumerate(counts)]
        events = [{"usage": dict(zip(names, pair, strict=True))} for pair in grown]
        once, twice = UsageFold(surface), UsageFold(surface)
        for event in events:
            once.feed(event)
            for _ in range(data.draw(st.integers(1, 3))):
                twice.feed(event)
        assert once.result() == twice.result()


def test_a_request_is_reserved_at_its_dearer_ways_only() -> None:
    assert request_context({"service_tier": "flex"}) == ()
    assert request_context({"service_tier": "priority", "speed": "fast", "inference_geo": "us"}) == (
        ("service_tier", "priority"),
        ("speed", "fast"),
        ("inference_geo", "us"),
    )
    assert reply_context({"service_tier": "default", "usage": {"service_tier": "priority"}}) == ()


_ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**19), 10**19),
    st.integers(0, 10**4),
    st.floats(allow_nan=True),
    st.text(max_size=3),
)
_DETAILS = st.dictionaries(
    st.sampled_from(
        [
            "cached_tokens",
            "audio_tokens",
            "image_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
            "thinking_tokens",
            "ephemeral_5m_input_tokens",
            "ephemeral_1h_input_tokens",
            "web_search_requests",
        ]
    ),
    _ANY,
)
_USAGE = st.dictionaries(
    st.sampled_from(
        [
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "prompt_cache_hit_tokens",
            "cost",
        ]
    ),
    _ANY,
).flatmap(
    lambda base: st.fixed_dictionaries(
        {},
        optional={
            name: _DETAILS | _ANY
            for name in (
                "prompt_tokens_details",
                "completion_tokens_details",
                "input_tokens_details",
                "output_tokens_details",
                "cache_creation",
                "server_tool_use",
                "iterations",
                "cost_details",
            )
        },
    ).map(lambda details: {**base, **details})
)


@given(st.sampled_from(list(Surface)), _USAGE | _ANY)
def test_whatever_a_provider_says_the_buckets_are_sane(surface: Surface, usage: object) -> None:
    read = read_usage(surface, {"usage": usage})
    if read is None:
        return
    for bucket in USAGE_BUCKETS:
        value = getattr(read.usage, bucket)
        assert type(value) is int
        assert 0 <= value <= 2 * MAX_TOKENS
    assert SIM_RATES.cost(read.usage) >= 0
    assert read.reported_cost is None or read.reported_cost >= 0
    if surface is not Surface.MESSAGES and isinstance(usage, dict):
        whole = usage.get("input_tokens" if surface is Surface.RESPONSES else "prompt_tokens")
        if read.input_trusted:
            assert read.usage.input_total == whole
