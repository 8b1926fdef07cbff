"""Traces: which call got which result, at which step, and what of it was new."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain import Answer, Item, Media, Role, Text, ToolCall
from gateway.rules import fingerprint
from gateway.rules.fingerprint import (
    MAX_NAME,
    Fingerprints,
    ResultPrint,
    is_near,
    print_call,
    print_result,
    print_text,
    same_bag,
    see_through,
)
from gateway.rules.tool_results import OK, read_result
from gateway.rules.trace import (
    EMPTY,
    MAX_BYTES,
    MAX_FACTS,
    Asked,
    Fact,
    Said,
    Seen,
    Trace,
    _boundary,
    _first_needed,
    _Memory,
    _read_turns,
    _Reader,
    _task,
    answered,
    dump,
    load,
    merged,
    said,
)
from tests.support.effort import Effort


def facts_of(items: Sequence[Item], step: int) -> list[Fact]:
    return _read_turns(_Reader().read(items), step, _Memory(), Fingerprints())[0]


def user(text: str = "go") -> Item:
    return Item(Role.USER, (Text(text, ()),))


def says(text: str = "", *calls: ToolCall) -> Item:
    return Item(Role.ASSISTANT, (Text(text, ()),) if text else (), calls=calls)


def result(text: str, call_id: str | None = None, *, failed: bool = False) -> Item:
    return Item(Role.TOOL, (Text(text, ()),), call_id=call_id, failed=failed)


def call(name: str = "f", arguments: Any = None, call_id: str = "") -> ToolCall:
    return ToolCall(call_id, name, arguments if isinstance(arguments, str) else json.dumps(arguments or {}))


def step(n: int, name: str = "f", arguments: Any = None, text: str = "ok") -> list[Item]:
    return [says("", call(name, arguments or {"n": n}, f"id{n}")), result(text, f"id{n}")]


def shown(facts: list[Fact]) -> list[tuple[str, int, str]]:
    return [(f.name, f.step, f.status) for f in facts]


# -- which call got which result ---------------------------------------------------------------------


def test_each_answer_with_its_results_is_one_step() -> None:
    items = [user(), *step(1, "a"), *step(2, "b"), *step(3, "c")]
    assert shown(facts_of(items, 4)) == [("a", 2, "ok"), ("b", 3, "ok"), ("c", 4, "ok")]


def test_parallel_results_go_to_their_calls_by_id_in_any_order() -> None:
    items = [
        user(),
        says("", call("a", call_id="x"), call("b", call_id="y")),
        result("of b, longer", "y"),
        result("of a", "x"),
    ]
    facts = facts_of(items, 2)
    assert [(f.name, f.size) for f in facts] == [("a", 4), ("b", 12)]


def test_results_without_ids_go_to_their_calls_in_order() -> None:
    items = [user(), says("", call("a"), call("b")), result("1"), result("22")]
    assert [(f.name, f.size) for f in facts_of(items, 2)] == [("a", 1), ("b", 2)]


def test_ids_that_are_used_again_in_every_turn_match_inside_their_turn() -> None:
    items = [user()]
    for size in (1, 2, 3):
        items += [says("", call("a", {"n": size}, "call_0")), result("x" * size, "call_0")]
    assert [(f.size, f.step) for f in facts_of(items, 4)] == [(1, 2), (2, 3), (3, 4)]


def test_an_id_used_twice_in_one_turn_gives_each_call_a_result() -> None:
    items = [
        user(),
        says("", call("a", call_id="x"), call("b", call_id="x")),
        result("1", "x"),
        result("2", "x"),
    ]
    assert {f.name for f in facts_of(items, 2)} == {"a", "b"}


def test_a_result_before_its_call_is_found_by_id() -> None:
    items = [user(), result("early", "x"), says("", call("a", call_id="x")), result("ignored", "z")]
    assert [(f.name, f.size) for f in facts_of(items, 2)] == [("a", 5)]


def test_a_call_without_result_and_a_result_without_call_give_no_fact() -> None:
    assert facts_of([user(), says("", call("a", call_id="x"))], 2) == []
    assert facts_of([user(), result("r", "x")], 2) == []
    assert facts_of([], 1) == []


def test_a_second_result_for_the_same_call_is_ignored() -> None:
    items = [user(), says("", call("a", call_id="x")), result("1", "x"), result("22", "x")]
    assert [f.size for f in facts_of(items, 2)] == [1]


def test_an_unknown_id_goes_to_the_call_that_waits() -> None:
    items = [user(), says("", call("a", call_id="x")), result("1", "renamed")]
    assert [f.name for f in facts_of(items, 2)] == ["a"]


def test_asides_and_system_items_are_skipped() -> None:
    aside = Item(Role.TOOL, (Text("hosted", ()),), aside=True)
    items = [user(), says("", call("a", call_id="x")), aside, Item(Role.SYSTEM), result("1", "x")]
    assert [f.name for f in facts_of(items, 2)] == ["a"]


def test_an_answer_in_several_items_is_one_turn() -> None:
    items = [user(), says("Let me see."), says("", call("a", call_id="x")), says("", call("b", call_id="y")),
             result("1", "x"), result("2", "y")]  # fmt: skip
    assert [f.step for f in facts_of(items, 2)] == [2, 2]


def test_the_beginning_of_an_answer_in_the_models_mouth_is_no_turn() -> None:
    items = [user(), *step(1), says("The answer is")]
    assert [f.step for f in facts_of(items, 2)] == [2]


# -- the boundary ------------------------------------------------------------------------------------


def test_a_new_task_begins_after_an_answer_without_calls() -> None:
    items = [user(), *step(1), says("Done."), user("next"), *step(2, "b")]
    assert [f.name for f in facts_of(items, 4)] == ["b"]


def test_user_texts_beside_and_after_results_are_no_boundary() -> None:
    items = [user(), *step(1, "a"), user("reminder"), *step(2, "b"), user("hurry")]
    assert [f.name for f in facts_of(items, 3)] == ["a", "b"]


def test_a_user_who_interrupts_a_call_is_no_boundary() -> None:
    items = [user(), *step(1, "a"), says("", call("b", call_id="x")), user("stop that"), *step(3, "c")]
    assert [f.name for f in facts_of(items, 4)] == ["a", "c"]


def test_two_user_items_in_a_row_are_one_boundary() -> None:
    first = [user("context"), user("question")]
    trace = merged(EMPTY, [*first, *step(1)], 2)
    assert trace.task == _task(first)
    assert trace.task == merged(EMPTY, [user("before"), says("ok"), *first, *step(1)], 4).task


ITEMS = st.lists(
    st.one_of(
        st.builds(user, st.sampled_from(["a", "b"])),
        st.just(says("text")),
        st.builds(lambda i: says("", call("f", call_id=i)), st.sampled_from(["", "x", "y"])),
        st.builds(result, st.sampled_from(["r", "s"]), st.sampled_from([None, "x", "y"])),
        st.just(Item(Role.SYSTEM, (Text("s", ()),))),
        st.just(Item(Role.TOOL, (Text("h", ()),), aside=True)),
    ),
    max_size=14,
)


@given(ITEMS)
@settings(max_examples=100, deadline=None)
def test_the_boundary_is_the_same_read_forwards_and_backwards(items: list[Item]) -> None:
    begin, end = _boundary(items)
    assert _task(items[begin:end]) == _task(_Reader().read(items).boundary)


@given(ITEMS, ITEMS, st.integers(1, 4))
@settings(max_examples=70, deadline=None)
def test_any_sequence_of_items_is_read(items: list[Item], more: list[Item], n: int) -> None:
    trace = merged(EMPTY, items, n)
    again = merged(load(dump(trace)), [*items, *more], n + 1)
    assert load(dump(again)) == again


# -- seeing through arguments ------------------------------------------------------------------------

UUIDS = ["3b241101-e2bb-4255-8caf-4136c566a962", "9c858901-8a57-4791-81fe-4c455b099bc9"]


def coarse(arguments: Any, name: str = "f") -> bytes:
    return print_call(name, arguments if isinstance(arguments, str) else json.dumps(arguments)).coarse


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"q": 1, "r": 2}, {"r": 2, "q": 1}),
        ('{"q":1}', '{ "q" : 1 }'),
        ({"q": "a  b\n"}, {"q": "a b"}),
        ({"q": "x", "nonce": "1"}, {"q": "x", "nonce": "2"}),
        ({"q": "x", "timestamp": 5}, {"q": "x", "timestamp": 6}),
        ({"q": "x", "requestId": "a"}, {"q": "x", "request-id": "b"}),
        ({"q": "x", "trace_id": "a"}, {"q": "x"}),
        ({"q": "x", "attempt": 1, "retry": 0}, {"q": "x", "attempt": 2, "retry": 1}),
        ({"q": "x", "_": 17}, {"q": "x", "_": 18}),
        ({"nonce": "a"}, {"nonce": "b"}),
        ({"q": "x", "variables": {"clientMutationId": 1}}, {"q": "x", "variables": {"clientMutationId": 2}}),
        ({"q": "x", "idempotency_key": "a"}, {"q": "x", "idempotency_key": "b"}),
        ({"q": {"deep": {"ts": 1, "v": 2}}}, {"q": {"deep": {"v": 2, "ts": 3}}}),
        ({"q": "x", "mark": UUIDS[0]}, {"q": "x", "mark": UUIDS[1]}),
        ({"q": "x", "mark": "deadbeefcafe00112233"}, {"q": "x", "mark": "0123456789abcdef0123"}),
        ({"q": "x", "mark": "aZ3kQ9xP1mN7vB5cD2fG"}, {"q": "x", "mark": "tR8wE4yU6iO0pL1kJ9hG"}),
        ({"q": "x", "mark": 1714567891}, {"q": "x", "mark": 1714567933}),
        ({"q": "x", "mark": 1714567891123}, {"q": "x", "mark": 1714567933456}),
        ({"q": "x at 2026-03-04T11:02:17Z"}, {"q": "x at 2026-03-04T11:05:41Z"}),
        ({"q": "x at 2026-03-04 11:02:17.123+02:00"}, {"q": "x at 2026-03-04 11:05:41.5+02:00"}),
        ({"p": json.dumps({"q": "x", "nonce": 1})}, {"p": json.dumps({"nonce": 2, "q": "x"})}),
        ({"cmd": "ls", "explanation": "look"}, {"cmd": "ls", "explanation": "look again"}),
        ("curl -H 'X-Request-Id: abc1' u", "curl -H 'X-Request-Id: xyz2' u"),
        ("GET /a?nonce=1234", "GET /a?nonce=5678"),
    ],
)  # fmt: skip
def test_arguments_that_are_the_same_call(a: Any, b: Any) -> None:
    assert coarse(a) == coarse(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"page": 1}, {"page": 2}),
        ({"q": "x", "offset": 0}, {"q": "x", "offset": 20}),
        ({"cursor": "deadbeefcafe00112233"}, {"cursor": "0123456789abcdef0123"}),
        ({"limit": 1714567891}, {"limit": 1714567892}),
        ({"q": "x", "index": 1}, {"q": "x", "index": 2}),
        ({"order_id": UUIDS[0]}, {"order_id": UUIDS[1]}),
        ({"orderId": UUIDS[0], "x": 1}, {"orderId": UUIDS[1], "x": 1}),
        ({"ids": [UUIDS[0]]}, {"ids": [UUIDS[1]]}),
        ({"commit": "a" * 8 + "0123456789" * 3}, {"commit": "b" * 8 + "0123456789" * 3}),
        ({"day": "2026-03-04"}, {"day": "2026-03-05"}),
        ({"q": "x on 2026-03-04"}, {"q": "x on 2026-03-05"}),
        ({"since": "2026-03-04T11:02:17Z"}, {"since": "2026-03-04T12:02:17Z"}),
        ({"q": "from 2026-03-04T11:00:00Z"}, {"q": "from 2026-03-04T12:00:00Z"}),
        ({"at": 1714568400}, {"at": 1714572000}),
        ({"bucket": 1714568400}, {"bucket": 1714572000}),
        ({"thought": "first"}, {"thought": "second"}),
        ({"uuid": UUIDS[0]}, {"uuid": UUIDS[1]}),
        ({"timestamp": 1}, {"timestamp": 2}),
        ({"q": "x"}, {"q": "y"}),
        ({"q": 1}, {"q": True}),
        ({"q": []}, {"q": {}}),
        ("print(1)", "print(2)"),
        ('{"broken": 1', '{"broken": 2'),
        ({"url": f"https://x/{UUIDS[0]}"}, {"url": f"https://x/{UUIDS[1]}"}),
        ({"q": "getCustomerOrder2024Report"}, {"q": "getCustomerOrder2025Report"}),
    ],
)  # fmt: skip
def test_arguments_that_are_other_calls(a: Any, b: Any) -> None:
    assert coarse(a) != coarse(b)


def test_the_exact_call_knows_order_and_white_space_alone() -> None:
    assert print_call("f", '{"a":1,"b":2}').call == print_call("f", '{ "b": 2, "a": 1 }').call
    assert print_call("f", '{"nonce":1}').call != print_call("f", '{"nonce":2}').call
    assert print_call("f", "{}").call != print_call("g", "{}").call


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1000, 1000), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["q", "city", "page", "filters", "ü"]), JSON, min_size=1), st.randoms()
)
@settings(max_examples=60, deadline=None)
def test_reordered_keys_and_volatile_values_never_matter(arguments: dict[str, Any], r: random.Random) -> None:
    noisy = {
        **arguments,
        "nonce": r.random(),
        "trace_id": str(uuid.UUID(int=r.getrandbits(128))),
        "ts": r.random(),
    }
    keys = list(noisy)
    r.shuffle(keys)
    a = print_call("f", json.dumps(arguments))
    b = print_call("f", json.dumps({k: noisy[k] for k in keys}, indent=2))
    assert (a.coarse, a.near) == (b.coarse, b.near)


def test_paraphrases_are_near_and_other_things_are_not() -> None:
    def near(query: str) -> bytes:
        return print_call("search", json.dumps({"query": query})).near

    assert same_bag(near("cheap hotels in Paris"), near("Paris cheap hotel"))
    assert is_near(near("cheap hotels in Paris"), near("what is the cheap hotel of Paris?"), 0)
    assert not is_near(near("cheap hotels in Paris"), near("train from Rome to Milan"), 6)
    assert not is_near(near("order A17"), near("order A18"), 6)
    assert same_bag(near("安い ホテル 大阪"), near("大阪 ホテル 安い"))


# -- seeing through results --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ('{"a":1,"b":2}', '{"b": 2, "a": 1}'),
        ("1 failed in 0.35s", "1 failed in 1.2s"),
        ("done, took 132 ms", "done, took 7 ms"),
        ("Done, TOOK 12 SECONDS", "Done, TOOK 7 SECONDS"),
        ("Zeit: wAıted 12 ms", "Zeit: wAıted 3 ms"),
        ("Error after 30 seconds", "Error after 31 seconds"),
        ("attempt 2 of 5 failed", "attempt 3 of 5 failed"),
        ('{"s":"x","elapsed_ms":5}', '{"s":"x","elapsed_ms":9}'),
        (f"request {UUIDS[0]} failed", f"request {UUIDS[1]} failed"),
        (f'{{"id":"{UUIDS[0]}"}}', f'{{"id":"{UUIDS[1]}"}}'),
        ("at 0x7f00a1b2c3d4", "at 0x7f11a1b2c3d4"),
        ("[11:02:17] x", "[11:05:44] x"),
        ("a  b\n\nc", "a b c"),
        ('{"text": "{\\"ts\\": 1, \\"v\\": 2}"}', '{"text": "{\\"v\\": 2, \\"ts\\": 9}"}'),
    ],
)  # fmt: skip
def test_results_that_say_the_same(a: str, b: str) -> None:
    assert print_result(a).digest == print_result(b).digest


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ('{"progress": 10}', '{"progress": 20}'),
        ("10 % done", "20 % done"),
        ("mean 132 ms", "mean 98 ms"),
        ("slot 2026-03-04T11:00:00Z", "slot 2026-03-04T12:00:00Z"),
        ("due 2026-03-04", "due 2026-03-05"),
        ("3 failed", "2 failed"),
        ('{"id": 1001}', '{"id": 1002}'),
        ("x" * 100_000 + "a" + "x" * 100_000, "x" * 100_000 + "b" + "x" * 100_000),
    ],
)
def test_results_that_say_something_else(a: str, b: str) -> None:
    assert print_result(a).digest != print_result(b).digest


def test_images_are_part_of_a_result() -> None:
    assert print_result("", ["a"]).digest != print_result("", ["b"]).digest
    prints = Fingerprints()
    a, b = (Item(Role.TOOL, media=(Media("image", d, 9),), call_id="x") for d in "ab")
    assert prints.result(a).digest != prints.result(b).digest


@pytest.mark.parametrize(
    ("text", "failed", "status", "kind"),
    [
        ("ok", False, "ok", "short"),
        ("{}", False, "ok", "short"),
        ("[]", False, "ok", "empty"),
        ('{"results": [], "query": "long ' + "x" * 200 + '"}', False, "ok", "empty"),
        ("No results found for x", False, "ok", "empty"),
        ("Keine Treffer", False, "ok", "empty"),
        ("Error: no", True, "error", "empty"),
        ('{"status": "running"}', False, "pending", "short"),
        ('{"phase": "ContainerCreating"}', False, "pending", "short"),
        ('{"status": "pending", "note": "gateway timeout"}', False, "error", "empty"),
        ("pending (connection timed out)", False, "error", "empty"),
        ("[Old tool result content cleared]", False, "", "gone"),
        ("a line of text\n" * 20, False, "ok", "long"),
    ],
)
def test_status_and_kind_of_results(text: str, failed: bool, status: str, kind: str) -> None:
    read = print_result(text, failed=failed)
    assert (read.status, read.kind) == (status, kind)


@pytest.mark.parametrize(
    "text",
    ["a" * 400_000, "1" * 400_000, "1a" * 200_000, "-" * 400_000, "2026-03-04T" * 30_000, "attempt " * 40_000,
     "took 1" * 60_000, "nonce=" * 60_000, "x-request-id: " * 20_000, "aB1" * 100_000, "a.b" * 100_000, "{" * 300_000,
     "[" * 5_000 + "]" * 5_000, '{"a":' * 900 + "1" + "}" * 900, "\u0000\ud800é" * 50_000, "12:" * 90_000,
     "_" * 300_000, "a_" * 200_000, "'id': 'a', " * 40_000, "call_" * 80_000, "0x" * 100_000],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)  # fmt: skip
def test_hostile_texts_take_linear_time(text: str) -> None:
    with Effort() as effort:
        print_result(text)
        print_call("f", text)
        print_call("f", json.dumps({"x": text}))
        print_text(text)
    assert effort.seconds < 3.0


def test_wide_and_deep_arguments_are_bounded() -> None:
    with Effort() as effort:
        wide = json.dumps({f"k{i}": i for i in range(20_000)})
        assert print_call("f", wide).coarse == print_call("f", wide).coarse
        deep: Any = "x"
        for _ in range(500):
            deep = {"a": deep}
        print_call("f", json.dumps(deep))
    assert effort.seconds < 3.0


def test_unicode_and_lone_surrogates_are_read() -> None:
    for text in ("\ud800", "日本語のテキスト", "e\u0301", "\x00", "🤖" * 100):
        assert len(print_call("ü\ud800", text).coarse) == 8
        assert len(print_result(text).digest) == 8
        assert len(print_text(text).digest) == 8
    assert see_through("é 2026-03-04T11:02:17Z ü") == "é ~ ü"


@pytest.mark.parametrize(
    ("prefix", "length"), [("call_", 24), ("toolu_", 24), ("chatcmpl-tool-", 22), ("", 9)], ids=str
)
@pytest.mark.parametrize(
    "told",
    [
        "Calling tools:\n[{'id': '%s', 'type': 'function', 'function': {'name': 'search'}}]",
        'I call [{"id":"%s","function":{"name":"search"}}]',
    ],
    ids=["repr", "json"],
)
def test_calls_told_as_text_are_the_same_whatever_their_ids(prefix: str, length: int, told: str) -> None:
    # One drawn id of some 250 has so few digits, or changes so seldom, that it passes for a word.
    draw = random.Random(7)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    ids = [prefix + "".join(draw.choices(letters, k=length)) for _ in range(2_000)]
    assert len({print_text(told % id).digest for id in ids}) == 1


def test_ids_of_things_that_are_listed_are_told_apart() -> None:
    pages = [f'[{{"id": "{id}", "type": "bug", "title": "x"}}]' for id in ("A-1", "B-2")]
    assert len({see_through(page) for page in pages}) == 2


# -- novelty -----------------------------------------------------------------------------------------


def novelties(*steps: tuple[Any, str]) -> list[int]:
    items = [user()]
    for n, (arguments, text) in enumerate(steps):
        items += [says("", call("f", arguments, f"i{n}")), result(text, f"i{n}")]
    return [f.novelty for f in facts_of(items, len(steps) + 1)]


PAGE = "\n".join(
    f"the {word} line of this page stands here"
    for word in ["one", "two", "three", "four", "five", "six", "seven"]
)


def test_a_long_result_is_new_by_its_parts() -> None:
    half = PAGE + "\n" + "\n".join(f"another {w} sentence that nobody saw" for w in ("a1", "b2", "c3", "d4", "e5", "f6", "g7"))  # fmt: skip
    first, again, more = novelties(({"q": "x"}, PAGE), ({"q": "y"}, PAGE), ({"q": "z"}, half))
    assert (first, again) == (100, 0)
    assert 40 <= more <= 60


def test_a_short_result_is_new_if_its_call_is() -> None:
    assert novelties(({"n": 1}, "ok"), ({"n": 2}, "ok"), ({"n": 1}, "ok"), ({"n": 1}, "no!")) == [
        100,
        100,
        0,
        100,
    ]


def test_nothing_found_is_new_if_something_else_was_asked_for() -> None:
    asked = ["cheap hotels Paris", "Paris hotels cheap", "affordable hotels Paris", "train tickets Rome", "order A17", "order A18"]  # fmt: skip
    assert novelties(*[({"q": q}, "No results found.") for q in asked]) == [100, 0, 0, 100, 100, 100]


def test_a_cleared_result_is_unknown_rather_than_old() -> None:
    facts = facts_of([user(), *step(1, text="[Old tool result content cleared]")] * 1, 2)
    assert (facts[0].result, facts[0].status, facts[0].novelty) == (b"", "", 100)


def test_what_was_seen_is_forgotten_a_generation_at_a_time() -> None:
    r = random.Random(1)
    seen = Seen()
    masks = [sum(1 << b for b in r.sample(range(8192), 200)) for _ in range(200)]
    for mask in masks:
        assert seen.share_new(mask) > 60
        seen = seen.add(mask)
        assert seen.share_new(mask) == 0
    assert seen.share_new(masks[0]) > 60
    assert Seen().share_new(0) == 0


# -- what was said -----------------------------------------------------------------------------------


def test_texts_since_the_boundary_are_kept_with_their_replies() -> None:
    items = [user(), says("Looking.", call("a", call_id="x")), result("1", "x"), says("Done?"), user("No.")]
    texts = said(items, 3)
    assert [(t.step, bool(t.reply)) for t in texts] == [(2, False), (3, True)]


def test_an_agent_that_speaks_text_alone_is_followed_as_far_as_its_run_goes() -> None:
    items = [user("earlier"), says("An answer."), user("task")]
    for i in range(3):
        items += [says(f"Thought {i}"), user(f"Observation {i}")]
    assert [t.step for t in said(items, 4)] == [2, 3, 4]
    assert [t.step for t in said(items, 1)] == []


def test_texts_are_equal_after_normalisation_and_near_with_other_words() -> None:
    assert print_text("I  will try again.").digest == print_text("i will try\nagain.").digest
    assert print_text("at 2026-03-04T11:02:17Z").digest == print_text("at 2026-03-04T11:02:18Z").digest
    assert print_text("short text").near == b""
    a = "The server does not answer my requests, therefore another attempt follows with different parameters today"
    assert is_near(print_text(a).near, print_text(a.replace("today", "now")).near, 6)
    assert Fingerprints().said(" \n") is None


# -- joining with the record -------------------------------------------------------------------------


def grow(n: int, name: str = "f") -> list[Item]:
    items = [user("task")]
    for i in range(1, n + 1):
        items += [says("", call(name, {"n": i}, f"{name}{i}")), result(f"r{i}", f"{name}{i}")]
    return items


def record(n: int, name: str = "f") -> Trace:
    trace = EMPTY
    for i in range(n + 1):
        trace = load(dump(merged(trace, grow(i, name), i + 1, 100 * i)))
    return trace


def keys(trace: Trace) -> list[tuple[bytes, int]]:
    return [(f.call, f.step) for f in trace.facts]


def test_the_whole_history_and_the_record_say_the_same() -> None:
    own = merged(EMPTY, grow(5), 6)
    assert keys(own) == keys(record(5))
    assert [f.novelty for f in own.facts] == [f.novelty for f in record(5).facts]
    assert own.counts == record(5).counts == {"f": (5, 0)}
    assert record(5).sizes == ((1, 0), (2, 100), (3, 200), (4, 300), (5, 400), (6, 500))


def test_a_step_that_is_tried_again_counts_once() -> None:
    once = record(4)
    again = merged(load(dump(once)), grow(4), 5, 400)
    assert keys(again) == keys(once)
    assert again.counts == {"f": (4, 0)}
    assert again.sizes == once.sizes
    assert [f.novelty for f in again.facts] == [f.novelty for f in once.facts]


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_history_that_was_cut_is_completed_by_the_record(kept: int) -> None:
    whole = grow(6)
    cut = [whole[0], *whole[-2 * kept :]]
    trace = merged(record(5), cut, 7)
    assert [f.step for f in trace.facts] == [2, 3, 4, 5, 6, 7]
    assert trace.counts == {"f": (6, 0)}


def test_a_history_without_its_first_message_is_completed_too() -> None:
    assert len(merged(record(5), grow(6)[-4:], 7).facts) == 6


def test_results_that_were_cleared_are_known_from_the_record() -> None:
    items = grow(4)
    cleared = [
        result("[Old tool result content cleared]", i.call_id) if i.role is Role.TOOL else i
        for i in items[:-1]
    ]
    trace = merged(record(3), [*cleared, items[-1]], 5)
    assert all(f.result for f in trace.facts)


def test_another_conversation_in_the_same_run_is_not_mixed_in() -> None:
    trace = merged(record(5, "f"), grow(2, "g"), 7)
    assert [f.name for f in trace.facts] == ["g", "g"]
    assert trace.counts == {"f": (5, 0), "g": (1, 0)}


def test_identical_agents_in_one_run_do_not_count_for_each_other() -> None:
    trace = EMPTY
    for n in (1, 2, 3, 4):
        for _ in range(3):
            trace = merged(load(dump(trace)), grow(n), trace.step + 1)
    assert len(trace.facts) == 4


def test_long_ids_tell_whose_history_it_is() -> None:
    def items(agent: str, n: int) -> list[Item]:
        turns = [
            [says("", call("f", {}, f"{agent}-{i:020}")), result("r", f"{agent}-{i:020}")] for i in range(n)
        ]
        return [user("task"), *[item for turn in turns for item in turn]]

    def answer(agent: str, n: int) -> Answer:
        return Answer(calls=(call("f", {}, f"{agent}-{n:020}"),))

    trace = EMPTY
    for n in range(4):
        trace = answered(merged(load(dump(trace)), items("a", n), n + 1), answer("a", n))
    cut = merged(trace, [items("a", 4)[0], *items("a", 4)[-2:]], 5)
    assert [f.step for f in cut.facts] == [2, 3, 4, 5]
    other = merged(trace, items("b", 1), 5)
    assert [f.step for f in other.facts] == [5]


def test_a_new_task_in_the_same_run_begins_anew_and_counts_on() -> None:
    items = [*grow(3), says("Done."), user("another task"), *step(9, "g")]
    trace = merged(record(3), items, 6)
    assert [(f.name, f.step) for f in trace.facts] == [("g", 6)]
    assert trace.counts == {"f": (3, 0), "g": (1, 0)}


def test_a_history_that_was_rewound_is_taken_as_it_is_shown() -> None:
    trace = merged(record(3), [*grow(2), *step(8, "g"), *step(9, "g")], 5)
    assert [f.name for f in trace.facts] == ["f", "f", "g", "g"]


def kept_by_the_provider(texts: list[str], *, ids: bool = True) -> Trace:
    trace = merged(EMPTY, [user("task")], 1, 10)
    for i, text in enumerate(texts, 2):
        trace = answered(load(dump(trace)), Answer(calls=(call("poll", {"job": 1}, f"long-id-{i}"),)))
        trace = merged(load(dump(trace)), [result(text, f"long-id-{i}" if ids else None)], i, 10)
    return trace


@pytest.mark.parametrize("ids", [True, False])
def test_results_go_to_calls_that_the_provider_keeps(ids: bool) -> None:
    trace = kept_by_the_provider(["a", "b", "b"], ids=ids)
    assert [(f.name, f.step, f.novelty) for f in trace.facts] == [
        ("poll", 2, 100),
        ("poll", 3, 100),
        ("poll", 4, 0),
    ]
    assert trace.counts == {"poll": (3, 0)}


def test_a_second_try_with_a_provider_that_keeps_the_history_counts_once() -> None:
    trace = kept_by_the_provider([PAGE, "b"])
    again = merged(load(dump(trace)), [result("b", "long-id-3")], 3, 10)
    assert [(f.step, f.novelty) for f in again.facts] == [(f.step, f.novelty) for f in trace.facts]
    assert again.counts == {"poll": (2, 0)}


def test_texts_that_the_provider_keeps_get_their_replies() -> None:
    trace = merged(EMPTY, [user("task")], 1)
    for i in (2, 3, 4):
        trace = answered(load(dump(trace)), Answer(texts=("I am done.",)))
        trace = merged(load(dump(trace)), [user("No, go on.")], i)
        trace = merged(load(dump(trace)), [user("No, go on.")], i)
    assert [t.step for t in trace.said] == [2, 3, 4]
    assert len({(t.text, t.reply) for t in trace.said}) == 1
    assert trace.said[0].reply


def test_more_calls_than_fit_are_still_counted() -> None:
    trace = merged(EMPTY, grow(300), 301)
    assert len(trace.facts) == MAX_FACTS
    assert trace.facts[-1].step == 301
    assert trace.counts == {"f": (300, 0)}


def test_ten_thousand_items_are_read_in_time() -> None:
    items = grow(5_000)
    prints = Fingerprints()
    with Effort() as effort:
        trace = merged(EMPTY, items, 5_001, prints=prints)
        following = merged(load(dump(trace)), [*items, *step(9, "g")], 5_002, prints=prints)
    assert effort.seconds < 4.0
    assert following.counts == {"f": (5_000, 0), "g": (1, 0)}


def test_a_conversation_without_tools_costs_what_is_looked_at_of_it() -> None:
    items = [user("go")]
    for i in range(2_500):
        items += [says(f"answer {i % 3}"), user(f"message {i % 3}")]
    prints = Fingerprints()
    trace = merged(EMPTY, items, 2_501, prints=prints)
    with Effort() as effort:
        for _ in range(20):
            merged(trace, [*items, says("x"), user("y")], 2_502, prints=prints)
    assert effort.seconds < 0.1
    assert trace.said == tuple(said(items, 2_501))
    assert [s.step for s in trace.said] == list(range(2_470, 2_502))


@given(st.lists(st.sampled_from(["talk", "talk", "talk", "aside", "call", "late", "answer"]), max_size=60))
@settings(max_examples=60, deadline=None)
def test_what_need_not_be_read_changes_nothing(kinds: list[str]) -> None:
    items: list[Item] = []
    for n, kind in enumerate(["call", *kinds, *["talk"] * 34, *kinds[:3]]):
        match kind:
            case "talk":
                items += [user(f"u{n}"), says(f"a{n}")]
            case "aside":
                items.append(Item(Role.USER, (Text("setting", ()),), aside=True))
            case "call":
                items += [user(f"u{n}"), says("", call("f", {"n": n}, "c")), result("ok", "c"), says("done")]
            case "late":
                items.append(result("late", "c"))
            case _:
                items.append(says(f"more {n}"))
    story, cut = _Reader().read(items), _Reader().read(items[_first_needed(items) :])
    assert _task(story.boundary) == _task(cut.boundary)
    assert len(story.turns) - story.start == len(cut.turns) - cut.start
    trace = merged(EMPTY, items, 40)
    assert trace.said == tuple(said(items, 40))
    assert trace.facts == tuple(facts_of(items, 40))


def test_the_next_step_reads_the_new_result_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = Fingerprints()
    trace = merged(EMPTY, grow(200), 201, prints=prints)
    read: list[str] = []

    def reading(text: str, *args: Any) -> ResultPrint:
        read.append(text)
        return print_result(text, *args)

    monkeypatch.setattr(fingerprint, "print_result", reading)
    items = [*grow(200), *step(200, "g", text="the new one")]
    assert merged(trace, items, 202, prints=prints).facts[-1].name == "g"
    assert prints.health(items[-1]) == OK
    assert read == ["the new one"]


def test_health_is_read_without_a_fingerprint_too() -> None:
    item = result("connection refused")
    assert Fingerprints().health(item) == read_result("connection refused")
    assert Fingerprints().health(replace(item, failed=True)).status == "error"
    cleared = result("[Old tool result content cleared]", failed=True)
    prints = Fingerprints()
    prints.result(cleared)
    assert prints.health(cleared) == read_result(cleared.texts[0].text, True)


def test_an_unnamed_result_goes_to_the_first_call_without_one() -> None:
    calls = [call(name, {}, f"id_{name}") for name in "abc"]
    items = [user(), says("", *calls), result("1", "id_c"), result("22"), result("333")]
    assert [(f.name, f.size) for f in facts_of(items, 2)] == [("a", 2), ("b", 3), ("c", 1)]


def test_of_very_many_parallel_calls_the_last_are_read_and_all_are_counted() -> None:
    calls = tuple(call("f" if i % 2 else "g", {"n": i}, f"call_{i:020}") for i in range(1_000))
    items = [user(), says("", *calls), *[result("ok", c.id, failed=True) for c in calls]]
    counted = {"f": (500, 500), "g": (500, 500)}
    first = merged(EMPTY, items, 2)
    assert first.counts == counted
    assert [f.call for f in first.facts] == [print_call(c.name, c.arguments).call for c in calls[-MAX_FACTS:]]
    before = merged(EMPTY, [user()], 1)
    assert merged(before, items, 2).counts == counted
    known = answered(merged(before, grow(1), 2), Answer(calls=calls))
    assert merged(known, [*grow(1), *items[1:]], 3).counts == {"f": (501, 500), "g": (500, 500)}


@pytest.mark.parametrize("named", [True, False])
def test_results_in_any_order_take_linear_time(named: bool) -> None:
    calls = tuple(call("f", {"n": 1}, f"c{i}" if named else "same") for i in range(20_000))
    with Effort() as effort:
        _Reader().read(
            [
                user(),
                says("", *calls),
                *[result("ok", c.id) for c in calls[10_000:]],
                *[result("ok")] * 10_000,
            ]
        )
    assert effort.seconds < 0.5


def test_five_thousand_parallel_calls_are_one_turn() -> None:
    calls = tuple(call("f", {"n": i}, f"c{i}") for i in range(5_000))
    with Effort() as effort:
        items = [user(), says("", *calls), *[result("ok", c.id) for c in reversed(calls)]]
        unnamed = [user(), says("", *calls), *[result("ok") for _ in calls]]
        assert merged(EMPTY, items, 2).counts == {"f": (5_000, 0)}
        assert merged(EMPTY, unnamed, 2).counts == {"f": (5_000, 0)}
    assert effort.seconds < 3.0


# -- as bytes ----------------------------------------------------------------------------------------

EIGHT = st.binary(min_size=8, max_size=8)
TWELVE = st.binary(min_size=12, max_size=12)
U16 = st.integers(0, 2**16 - 1)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
I32 = st.integers(-(2**31) + 1, 2**31 - 1)
FACTS = st.builds(
    Fact, NAME, EIGHT, EIGHT, TWELVE, st.one_of(st.just(b""), EIGHT), st.sampled_from(["", "ok", "error", "pending"]),
    I32, st.integers(0, 100), st.integers(0, 2**32 - 1), U16, st.booleans(), st.booleans(),
)  # fmt: skip
TRACES = st.builds(
    Trace,
    step=I32,
    task=st.one_of(st.just(b""), EIGHT.filter(lambda b: b.strip(b"\0") != b"")),
    facts=st.lists(FACTS, max_size=12).map(tuple),
    said=st.lists(
        st.builds(
            Said,
            EIGHT,
            st.one_of(st.just(b""), EIGHT),
            st.one_of(st.just(b""), EIGHT),
            I32,
            st.integers(0, 2**64 - 1),
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.integers(0, 2**32 - 1),
        ),
        max_size=6,
    ).map(tuple),
    sizes=st.lists(st.tuples(I32, st.integers(0, 2**32 - 1)), max_size=6).map(tuple),
    counts=st.dictionaries(NAME, st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=6),
    seen=st.builds(Seen, st.integers(0, 2**8192 - 1), st.integers(0, 2**40)),
    asked=st.lists(
        st.builds(Asked, EIGHT, NAME, EIGHT, EIGHT, TWELVE, st.integers(0, 100), U16, st.booleans()),
        max_size=5,
    ).map(tuple),
    repeats=st.integers(0, 50),
)


@given(TRACES)
@settings(max_examples=60, deadline=None)
def test_what_is_dumped_is_loaded(trace: Trace) -> None:
    dumped = dump(trace)
    assert len(dumped) <= MAX_BYTES
    assert load(dumped) == trace


@given(st.binary(max_size=400))
@settings(max_examples=70, deadline=None)
def test_garbage_is_an_empty_trace(garbage: bytes) -> None:
    assert load(garbage) == EMPTY
    assert load(b"\x02" + garbage) == EMPTY


def test_a_damaged_or_foreign_trace_is_an_empty_one() -> None:
    dumped = dump(record(4))
    assert load(dumped) != EMPTY
    for i in range(0, len(dumped), 7):
        assert load(dumped[:i]) == EMPTY
        if not 5 <= i < 9:
            assert load(dumped[:i] + bytes((dumped[i] ^ 1,)) + dumped[i + 1 :]) == EMPTY
    assert load(b"\x01" + dumped[1:]) == EMPTY


def test_names_without_measure_do_not_break_the_bound() -> None:
    items = [user()]
    for i in range(100):
        items += step(i, f"{i}" + "n" * 400)
    trace = merged(EMPTY, items, 101)
    dumped = dump(trace)
    assert len(dumped) <= MAX_BYTES
    assert load(dumped).facts[-1].step == 101


def test_made_up_names_are_bounded_and_their_calls_counted() -> None:
    items = [user()]
    for i in range(1_000):
        items += step(i, f"{i % 700} a name that a model made up")
    items += step(7, "f" * 1_000_000)
    for trace in (merged(EMPTY, items, 1_002), merged(merged(EMPTY, items[:-2], 1_001), items, 1_002)):
        assert sum(len(name) for name in trace.counts) <= 8_192
        assert sum(calls for calls, _ in trace.counts.values()) == 1_001
        assert {f.name for f in trace.facts} <= set(trace.counts)
        assert trace.facts[-1].name == "f" * MAX_NAME
        dumped = dump(trace)
        assert len(dumped) <= MAX_BYTES
        assert sum(calls for calls, _ in load(dumped).counts.values()) == 1_001


def test_a_full_trace_of_a_real_agent_fits_whole() -> None:
    items = [user()]
    for i in range(200):
        items += step(i, ("read_file", "web_search", "run_tests")[i % 3], text=f"{PAGE}\n{i} of them " * 3)
    trace = merged(EMPTY, items, 201)
    assert len(load(dump(trace)).facts) == MAX_FACTS
    assert load(dump(trace)) == trace


# -- what is seen through, and what is not ------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "a", "b", "same"),
    [
        ("get_trace", {"trace_id": UUIDS[0]}, {"trace_id": UUIDS[1]}, False),
        ("get_trace", {"trace_id": UUIDS[0], "service": "cart"}, {"trace_id": UUIDS[1], "service": "cart"}, False),
        ("look_up", {"request_id": "a", "verbose": True}, {"request_id": "b", "verbose": True}, False),
        ("look_up", {"request_id": "a", "order": 7}, {"request_id": "b", "order": 7}, True),
        ("f", {"q": "x", "page_nonce": "a"}, {"q": "x", "page_nonce": "b"}, True),
        ("f", {"url": "https://x/a?cb=1a2b"}, {"url": "https://x/a?cb=3c4d"}, True),
        ("f", {"url": "https://x/a?q=1&_=17"}, {"url": "https://x/a?q=1&_=18"}, True),
        ("f", {"url": "https://x/a?q=1"}, {"url": "https://x/a?q=2"}, False),
        ("computer", {"coordinate": [640, 702]}, {"coordinate": [643, 699]}, True),
        ("computer", {"coordinate": [640, 702]}, {"coordinate": [640, 742]}, False),
        ("move_robot", {"x": 640}, {"x": 643}, False),
        ("computer", {"x": 3, "y": 4}, {"x": 3, "y": 5}, False),
        ("transfer_to_sales", {"reason": "a price"}, {"reason": "an offer"}, True),
        ("transfer_to_sales", {"reason": "ticket 17"}, {"reason": "ticket 18"}, False),
    ],
)  # fmt: skip
def test_what_says_what_is_asked_for_is_kept(tool: str, a: Any, b: Any, same: bool) -> None:
    assert (coarse(a, tool) == coarse(b, tool)) is same


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3 passed (0.41s)", "3 passed (1.07s)"),
        ("src/a.ts 37ms\nsrc/b.ts 5ms", "src/a.ts 41ms\nsrc/b.ts 9ms"),
        ("FAIL a.test.js (3.2 s)", "FAIL a.test.js (4.71 s)"),
        ("real 0m1.204s", "real 0m2.331s"),
        ("web-1   0/1   ImagePullBackOff   0   3m24s", "web-1   0/1   ImagePullBackOff   0   4m2s"),
        ("db-0   1/1   Running   0   45s", "db-0   1/1   Running   0   51s"),
        ("Seed: 1234\nfailed", "Seed: -99\nfailed"),
        ("#5 [internal] load metadata\n#5 ERROR: no host", "#7 [internal] load metadata\n#8 ERROR: no host"),
        ('- button "Go" [ref=e12]', '- button "Go" [ref=e977]'),
        ("score=0.4123 Leave is granted.", "score=0.3991 Leave is granted."),
        ('{"etag":"\\"p1\\"","items":["a"]}', '{"etag":"\\"q2\\"","items":["a"]}'),
        ('[{"title":"a","score":0.5}]', '[{"title":"a","score":0.6}]'),
        ("Sold out. Rendered by web-3", "Sold out. Rendered by web-8"),
        ("WIP on main: 3fa9c21 wip", "WIP on main: 9bc0d12 wip"),
        ("took 0 days, 2 minutes, 5 seconds", "took 0 days, 2 minutes, 9 seconds"),
        ('{"conclusion":"failure","run_id":1987654321}', '{"conclusion":"failure","run_id":1123456789}'),
        ("[3/12] Compiling A\nerror: no", "[9/12] Compiling A\nerror: no"),
    ],
)
def test_what_a_program_prints_anew_each_time_is_seen_through(a: str, b: str) -> None:
    assert print_result(a).digest == print_result(b).digest


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("p95=120ms errors=0", "p95=180ms errors=0"),
        ("latency: 0.41s", "latency: 0.72s"),
        ("ETA 3m24s", "ETA 2m10s"),
        ('{"auc":0.91,"score":0.5}', '{"auc":0.91,"score":0.6}'),
        ("score 12", "score 14"),
        ("#12 Crash on login", "#13 Crash on login"),
        ("commit message: a", "commit message: b"),
        ("12 errors in 3 files", "9 errors in 2 files"),
        ('{"run_id":31987654321}', '{"run_id":41723456789}'),
    ],
)
def test_what_is_measured_is_kept(a: str, b: str) -> None:
    assert print_result(a).digest != print_result(b).digest


@pytest.mark.parametrize(
    "text",
    ['{"threads":[],"resultSizeEstimate":0}', '{"ok":true,"messages":{"total":0,"matches":[]}}',
     '{"took":3,"hits":{"total":{"value":0,"relation":"eq"},"hits":[]}}', '{"data":{"nodes":[],"totalCount":0}}',
     "Your search did not match any documents.", "Search returned no matches", "We could not find any hotels"],
)  # fmt: skip
def test_nothing_found_is_known_by_its_structure_or_words(text: str) -> None:
    assert print_result(text).kind == "empty"


@pytest.mark.parametrize(
    "text",
    ['{"id":"u1","tags":[],"plan":"a yearly one"}', '{"price":12.5,"offers":[]}', '{"items":[{"a":1}],"errors":[]}',
     "{}", "done, no problem"],
)  # fmt: skip
def test_an_empty_list_beside_something_is_no_empty_result(text: str) -> None:
    assert print_result(text).kind in ("short", "rows")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("running 3 tests\ntest b ... FAILED\ntest result: FAILED. 2 passed; 1 failed", "ok"),
        ("Installing collected packages: numpy\nSuccessfully installed numpy-1.26.4", "ok"),
        ("Validating 3 files, all done", "ok"),
        ('{"queued":true,"id":"m1"}', "ok"),
        ('{"build":"queued"}', "pending"),
        ("Waiting for the rollout to finish: 1 of 3 updated", "pending"),
        ("build\tpending\t0\thttps://x\nlint\tpass\t31s", "pending"),
        ("db-0   0/1   ContainerCreating   0   5s", "pending"),
        ("db-0   0/1   Running   0   5s", "pending"),
        ("web   0/1   CrashLoopBackOff   4   5m", "ok"),
    ],
)
def test_pending_is_what_says_that_it_is_and_not_how_it_ended(text: str, status: str) -> None:
    assert print_result(text).status == status


@pytest.mark.parametrize(
    ("text", "failing"),
    [
        ("1 failed in 0.3s", True),
        ("src/a.ts(4,7): error TS2741: no", True),
        ('{"status":"completed","conclusion":"failure"}', True),
        ("Database Error in model x", True),
        ("0 errors, 0 warnings", False),
        ("All checks passed!", False),
        ("On branch main, nothing to commit", False),
    ],
)
def test_a_result_tells_of_the_failure_of_what_it_ran(text: str, failing: bool) -> None:
    assert print_result(text).failing is failing


def test_documents_that_differ_far_behind_are_not_the_same() -> None:
    def near(content: str) -> bytes:
        return print_call("write_file", json.dumps({"path": "a", "content": content})).near

    assert not same_bag(near("word " * 9000 + "one end"), near("word " * 9000 + "other end"))
    assert not same_bag(near("[x] milk [ ] rent"), near("[x] milk [x] rent"))
    assert same_bag(near("milk and rent"), near("rent, milk"))


# -- news of short answers ----------------------------------------------------------------------------


def novelties_of(name: str, arguments: list[Any], results: list[str]) -> list[int]:
    items = [user()]
    for i, (argument, text) in enumerate(zip(arguments, results, strict=True)):
        items += [
            says("", ToolCall(f"call_{i:020}", name, json.dumps(argument))),
            result(text, f"call_{i:020}"),
        ]
    return [fact.novelty for fact in facts_of(items, len(arguments) + 1)]


def test_the_same_answer_to_other_words_for_the_same_is_no_news() -> None:
    places = ["Berlin", "Berlin, Germany", "Berlin Germany", "germany berlin"]
    asked = [{"place": place, "units": "metric"} for place in places]
    assert novelties_of("get_weather", asked, ["overcast"] * 4) == [100, 0, 0, 0]
    assert novelties_of("set_weather", asked, ["overcast"] * 4)[:3] == [100, 100, 100]


def test_the_same_answer_for_one_thing_after_the_other_is_news() -> None:
    columns = ["age", "income", "tenure", "region", "plan"]
    asked = [{"code": f"df['{column}'].isna().sum()"} for column in columns]
    assert novelties_of("python", asked, ["0"] * 5) == [100, 0, 100, 100, 100]


def test_a_page_of_the_same_rows_is_no_news_and_one_that_is_acknowledged_is() -> None:
    asked = [{"page": page} for page in range(4)]
    assert novelties_of("list_items", asked, ['{"items":[{"id":"a"}]}'] * 4) == [100, 0, 0, 0]
    assert novelties_of("export_page", asked, ["done"] * 4) == [100, 100, 100, 100]


def test_a_page_that_looks_like_none_before_is_news() -> None:
    rows = [f'- row "{name}" [ref=e{i}]' for i, name in enumerate(("Anna", "Bo", "Cy", "Di", "Ed"))]
    pages = ["\n".join(["- heading Users of this service", *rows[n:]]) for n in range(4)]
    assert novelties_of("browser_click", [{"ref": "e1"}] * 4, pages) == [100, 100, 100, 100]
    assert novelties_of("browser_click", [{"ref": "e1"}] * 3, pages[:1] * 3) == [100, 0, 0]


# -- what the user ordered ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "times"),
    [("Run it ten times in a row.", 10), ("Bitte würfle zehnmal", 10), ("do 3 more runs", 3), ("Blink the light twice", 2), ("Please, run it 4 times", 4), ("it prints twice", 0), ("my test failed ten times", 0),
     ("flip it 1000 times", 50), ("port 8080 times out", 0), ("it is time", 0), ("", 0),
     ("x" * 9000 + ". Run it four times", 4)],
)  # fmt: skip
def test_an_order_to_repeat_is_read(order: str, times: int) -> None:
    trace = merged(EMPTY, [user(order), *step(1)], 2)
    assert trace.repeats == times
    assert load(dump(trace)).repeats == times
    assert merged(load(dump(trace)), [*step(1), *step(2)], 3).repeats == times
