"""Counting tokens of text and media."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import Media
from gateway.metering.tokens import (
    MAX_CHARS,
    MAX_FILE_TOKENS,
    count,
    count_exact,
    encoding_of,
    media_tokens,
    warm,
)
from tests.support.effort import Effort


@pytest.mark.parametrize(
    ("text", "o200k", "cl100k"),
    [
        ("", 0, 0),
        ("hello world", 2, 2),
        ("<|endoftext|>", 7, 7),
        ("antidisestablishmentarianism", 6, 6),
        ("お誕生日おめでとう", 8, 9),
    ],
)
def test_counts_are_those_of_tiktoken(text: str, o200k: int, cl100k: int) -> None:
    assert count_exact(text) == o200k
    assert count_exact(text, "cl100k_base") == cl100k


@pytest.mark.parametrize(
    ("model", "encoding", "exact"),
    [
        ("gpt-4o", "o200k_base", True),
        ("openai/gpt-5-mini", "o200k_base", True),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "o200k_base", True),
        ("o3-mini", "o200k_base", True),
        ("gpt-4.1", "o200k_base", True),
        ("gpt-4", "cl100k_base", True),
        ("gpt-4-turbo", "cl100k_base", True),
        ("gpt-3.5-turbo", "cl100k_base", True),
        ("text-embedding-3-small", "cl100k_base", True),
        ("claude-sonnet-4-5", "o200k_base", False),
        ("gemini-2.5-pro", "o200k_base", False),
        ("meta-llama/Llama-3.3-70B-Instruct", "o200k_base", False),
        ("something-new", "o200k_base", False),
    ],
)
def test_each_family_has_its_encoding(model: str, encoding: str, exact: bool) -> None:
    found, factor = encoding_of(model)
    assert found == encoding
    assert (factor == 1.0) is exact
    assert factor >= 1.0


def test_later_claudes_read_more_tokens() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 50
    older = ("claude-3-5-sonnet-latest", "claude-sonnet-4-5", "claude-opus-4-6", "claude-sonnet-4-20250514")
    assert {count(text, model) for model in older} == {count(text, older[0])}
    assert count(text, "claude-opus-4-7") == count(text, "claude-opus-5") > count(text, older[0])


@given(st.text(max_size=300))
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    size = len(text.encode())
    assert count_exact(text) <= size
    assert count_exact(text, "cl100k_base") <= size


def test_lone_surrogates_are_counted() -> None:
    assert count_exact("a\ud800b") > 0


@pytest.mark.parametrize("piece", ["a", " ", "aB", "!", "​", "漢", "1"])
def test_hostile_text_takes_linear_time(piece: str) -> None:
    warm()
    text = piece * (1_000_000 // len(piece))
    with Effort() as effort:
        assert count_exact(text) > 0
    assert effort.seconds < 2


def test_beyond_the_cap_a_byte_is_a_token() -> None:
    assert count_exact("a" * (MAX_CHARS + 1000)) == count_exact("a" * MAX_CHARS) + 1000


def test_slicing_hardly_changes_the_count() -> None:
    text = "Slicing prose in the middle of a word costs a token at most. " * 2000
    whole = sum(count_exact(text[i : i + 6100]) for i in range(0, len(text), 6100))
    assert abs(count_exact(text) - whole) <= 40


def test_counting_from_many_threads_agrees() -> None:
    texts = [f"thread {i} counts " * (100 + i) for i in range(64)]
    alone = [count_exact(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count_exact, texts)) == alone


def image(detail: str | None = None) -> Media:
    return Media("image", "d", 50_000, detail)


@pytest.mark.parametrize(
    ("model", "detail", "tokens"),
    [
        ("gpt-4o", "low", 85),
        ("gpt-4o", None, 85 + 8 * 170),
        ("gpt-4o-mini", "low", 2_833),
        ("gpt-4o-mini", "high", 2_833 + 8 * 5_667),
        ("gpt-4.1", "high", 85 + 8 * 170),
        ("gpt-4.1-mini", "high", 2_489),
        ("gpt-5", "high", 70 + 8 * 140),
        ("o1", None, 75 + 8 * 150),
        ("claude-sonnet-4-5", None, 1_600),
        ("claude-opus-5", None, 4_784),
        ("gemini-2.5-flash", None, 4_128),
        ("gpt-7", None, 12_000),
        ("qwen-vl", None, 16_384),
    ],
)
def test_an_image_counts_as_the_largest_of_its_model(model: str, detail: str | None, tokens: int) -> None:
    assert media_tokens(image(detail), model) == tokens


def test_audio_counts_by_the_lowest_bit_rate() -> None:
    assert media_tokens(Media("audio", "d", 750_000), "gpt-4o-audio-preview") == 10_000
    assert media_tokens(Media("audio", "d", 750_000), "gemini-2.5-flash") == 32_000
    assert media_tokens(Media("audio", "d", 0), "gpt-4o-audio-preview") == 342_000


def test_a_file_known_only_by_its_id_counts_as_the_largest() -> None:
    assert media_tokens(Media("file", "d", 30), "gpt-4o") == MAX_FILE_TOKENS
    assert media_tokens(Media("file", "d", 1_000), "gpt-4o") == 7 * 4_600
    assert media_tokens(Media("file", "d", 10**9), "gpt-4o") == MAX_FILE_TOKENS


def test_an_unknown_part_counts_as_text_and_as_an_image() -> None:
    assert media_tokens(Media("other", "d", 100), "gpt-4o") == 100 + 1_445
