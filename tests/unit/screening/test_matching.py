"""Words beside a place in a text, and which engine runs a pattern."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.screening.matching import Cues, PatternSet, Surroundings, _simple
from gateway.screening.pii_rules import PATTERNS
from tests.support.effort import least_effort

CUES = Cues("phone", "=tel", "=t.c.", "né le", "電話")
TEXTS = st.lists(
    st.sampled_from(["phone", "tel", "hotel", "T.C.", "né le", "電話", " ", ":", "1", "x", "é", "\ud800", "phone 1", "\n"]),
    max_size=30,
).map("".join)  # fmt: skip


def _cut(text: str, first: int, last: int) -> bool:
    """Whether the window leaves out a letter right before or behind it."""
    return text[max(0, first - 1) : first].isalpha() or text[last : last + 1].isalpha()


@given(TEXTS, st.integers(1, 40), st.booleans())
@settings(max_examples=300)
def test_surroundings_answer_as_the_words_do_wherever_no_word_is_cut(
    text: str, reach: int, ascending: bool
) -> None:
    around = Surroundings(text)
    places = range(len(text) + 1) if ascending else range(len(text), -1, -1)
    for at in places:
        if not _cut(text, max(0, at - reach), at):
            assert around.before(CUES, at, reach) == CUES.before(text, at, reach)
        if not _cut(text, at, min(len(text), at + reach)):
            assert around.follows(CUES, at, reach) == CUES.follows(text, at, reach)


def test_a_word_that_the_end_of_the_window_cuts_out_of_another_is_none() -> None:
    assert CUES.before("hotel 1", 6, 4)
    assert not Surroundings("hotel 1").before(CUES, 6, 4)


def test_asking_at_every_place_costs_one_reading() -> None:
    text = "123456789 " * 10_000 + "phone"
    around = Surroundings(text)
    assert least_effort(lambda: [around.beside(CUES, at, at + 9) for at in range(0, 100_000, 10)]) < 0.1


def test_simple_patterns_find_the_same_with_either_engine() -> None:
    text = b"AA 12 34 56 B AB1234567 12345678Z X9613851N S1234567D 10.2.3.4 00:1A:2B:3C:4D:5E ABCPE1234F 2001:db8::1"
    patterns = [rule.pattern for rule in PATTERNS]
    safe, quick = PatternSet(patterns), PatternSet(patterns, ours=True)
    for index in range(len(patterns)):
        assert list(safe.spans(index, text)) == list(quick.spans(index, text))


@pytest.mark.parametrize(
    "pattern", ["a*b", "(?:a|b)+", "a{2,}", r"\s\d", "^a", "a$", "|".join("abcdefghijklmnop")]
)
def test_a_pattern_that_could_cost_more_with_re_or_mean_something_else_stays_with_re2(pattern: str) -> None:
    assert not _simple(pattern)
    assert _simple(r"\b[A-Z+*]{2}\d{7}\b")


def test_patterns_of_others_are_never_run_by_re() -> None:
    own, theirs = PatternSet(["a{2}"], ours=True), PatternSet(["a{2}"])
    assert isinstance(own._each[0][0], re.Pattern)
    assert not isinstance(theirs._each[0][0], re.Pattern)


def test_spans_are_apart_and_name_where_the_match_begins() -> None:
    found = list(PatternSet([r"k=(\d+)"]).named_spans(0, b"k=12 k=3"))
    assert found == [(0, 2, 4), (5, 7, 8)]
    assert all(a[2] <= b[0] for a, b in pairwise(found))
