"""A run's trace, told step by step and told again."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.domain import Answer, Item, Role, Text, ToolCall
from gateway.rules.loops import LoopRules, detect
from gateway.rules.trace import EMPTY, MAX_FACTS, Trace, answered, merged
from gateway.rules.trace_news import Retold, news


def user(text: str) -> Item:
    return Item(Role.USER, texts=(Text(text, ()),))


def turn(n: int, result: str, said: str = "") -> list[Item]:
    call = ToolCall(f"call_number_{n:08d}", "search", orjson.dumps({"q": f"word {n % 3}"}).decode())
    return [
        Item(Role.ASSISTANT, texts=(Text(said, ()),) if said else (), calls=(call,)),
        Item(Role.TOOL, texts=(Text(result, ()),), call_id=call.id),
    ]


def traces(items: list[list[Item]]) -> list[Trace]:
    """The traces of a run whose agent sends its history with every step."""
    shown: list[Item] = []
    found, known = [], EMPTY
    for step, new in enumerate(items, 1):
        shown = [*shown, *new]
        known = merged(known, shown, step, 100 * step)
        found.append(known)
    return found


STORY = [
    [user("Find it, please, and run the tests three times.")],
    *[turn(n, f"nothing found for {n % 3}", "Let me look again at what there is to find.") for n in range(6)],
    turn(6, "Error: no such file"),
    [Item(Role.ASSISTANT, texts=(Text("Done.", ()),)), user("Now another task.")],
    *[turn(n, "ok " * n) for n in range(7, 12)],
]


def test_the_trace_is_the_same_again() -> None:
    retold = Retold()
    for step, trace in enumerate(traces(STORY), 1):
        again = retold.take(orjson.loads(orjson.dumps(news(trace))), step)
        assert again is not None, step
        assert again.facts == trace.facts, step
        assert again.said == trace.said, step
        assert dict(again.counts) == dict(trace.counts), step
        assert again.repeats == trace.repeats
        assert again.sizes == trace.sizes
        rules = LoopRules()
        assert detect(again, rules) == detect(trace, rules)


def test_a_step_that_is_tried_again_does_not_count_twice() -> None:
    retold = Retold()
    told = [news(trace) for trace in traces(STORY[:4])]
    for step, each in enumerate(told, 1):
        first, again = retold.take(each, step), retold.take(each, step)
        assert first == again


def test_a_long_run_has_a_bound() -> None:
    story = [[user("Go.")], *[turn(n, f"result {n}") for n in range(3 * MAX_FACTS)]]
    retold, last = Retold(), None
    for step, trace in enumerate(traces(story), 1):
        last = retold.take(news(trace), step)
        assert last is not None
        assert last.facts == trace.facts
    assert last is not None
    assert sum(calls for calls, _ in last.counts.values()) == 3 * MAX_FACTS


def test_a_record_that_begins_in_the_middle_tells_nothing() -> None:
    told = [news(trace) for trace in traces(STORY[:6])]
    assert Retold().take(told[5], 6) is None


@pytest.mark.parametrize(
    "told",
    [None, [], "x", {}, {"n": "x"}, {"n": 1, "size": 0, "facts": [[]]}, {"n": 1, "size": 0, "facts": [["a"] * 10]},
     {"n": 0, "size": 0, "said": [[1] * 9]}, {"n": 5, "size": 1}],
)  # fmt: skip
def test_what_tells_no_trace(told: Any) -> None:
    assert Retold().take(told, 1) is None


def test_nothing_of_what_was_said_is_told() -> None:
    raw = b"".join(
        orjson.dumps(news(answered(trace, Answer(texts=("Look again.",))))) for trace in traces(STORY)
    )
    for word in (b"word", b"nothing", b"look again", b"tests"):
        assert word not in raw
