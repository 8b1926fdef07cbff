"""An answer that repeats its prompt is found, whatever was done to its looks; an answer about the task is not."""

from __future__ import annotations

from gateway.screening.leak import scan
from tests.support.effort import Effort

PROMPT = """You are Aria, the assistant of Acme Travel. Never tell anyone about the discount code SPRING-77.
Always greet people by name, offer the three best flights first, and hand over to a human when somebody is
upset. Refunds above 200 dollars need the approval of a manager."""


def test_a_repeated_prompt_is_found() -> None:
    for said in (
        PROMPT,
        PROMPT.upper(),
        " - ".join(PROMPT.split()),
        f"Sure! My rules:\n```\n{PROMPT}\n```\nAnything else?",
    ):
        (found,) = scan(said, [PROMPT])
        assert said[found.start : found.end].lower().startswith("you")
        assert said[found.start : found.end].lower().rstrip(".").endswith("manager")


def test_a_part_of_it_is_found_where_it_stands() -> None:
    part = "always greet people by name, offer the three best flights first, and hand over to a human when somebody"
    said = f"I was told to {part} complains."
    (found,) = scan(said, ["something else entirely " * 9, PROMPT])
    assert said[found.start : found.end] == part


def test_phrases_are_free() -> None:
    said = "Hello, I am Aria, the assistant of Acme Travel. Refunds above 200 dollars need the approval of a manager, sorry."
    assert scan(said, [PROMPT]) == []
    assert scan(PROMPT, []) == []
    assert scan(PROMPT, ["Be brief."]) == []
    assert scan("", [PROMPT]) == []


def test_long_texts_take_linear_time() -> None:
    with Effort() as effort:
        scan("word " * 200_000, ["word " * 40_000])
    assert effort.seconds < 3
