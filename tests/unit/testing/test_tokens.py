"""Counting and splitting agree with each other for every text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.testing.tokens import ByteTokens, ExactTokens, Tokens

COUNTERS: list[Tokens] = [ExactTokens(), ByteTokens()]


@pytest.mark.parametrize("tokens", COUNTERS)
@given(text=st.text(max_size=60), per_piece=st.integers(1, 9))
def test_pieces_join_to_the_text_and_add_up_to_the_count(tokens: Tokens, text: str, per_piece: int) -> None:
    pieces = tokens.split(text, per_piece)
    assert "".join(part for part, _ in pieces) == text
    assert sum(count for _, count in pieces) == tokens.count(text)


@pytest.mark.parametrize("tokens", COUNTERS)
@given(text=st.text(min_size=1, max_size=60), limit=st.integers(1, 20))
def test_limit_cuts_to_a_prefix(tokens: Tokens, text: str, limit: int) -> None:
    pieces = tokens.split(text, 1, limit)
    assert text.startswith("".join(part for part, _ in pieces))
    assert sum(count for _, count in pieces) == min(limit, tokens.count(text))


def test_special_token_spellings_are_ordinary_text() -> None:
    assert ExactTokens().count("<|endoftext|>") > 1
