"""The loop rules: each at its threshold, with what must not move it, and what people read of it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain import Item, Role, Text, ToolCall
from gateway.rules.fingerprint import Fingerprints
from gateway.rules.loops import Detection, LoopRules, detect, is_patient
from gateway.rules.trace import EMPTY, Trace, dump, load, merged

PAGE = "\n".join(
    f"the {word} line of this page stands here" for word in ("one", "two", "three", "four", "five")
)
RULES = LoopRules()

Call = tuple[str, Any, str]
Turn = list[Call]


def one(name: str = "f", arguments: Any = None, result: str = "ok") -> Turn:
    return [(name, arguments if arguments is not None else {}, result)]


def items_of(turns: list[Turn], say: str = "", failed: bool = False) -> list[Item]:
    items = [Item(Role.USER, (Text("go", ()),))]
    for n, turn in enumerate(turns):
        calls = tuple(
            ToolCall(
                f"c{n}.{i}",
                name,
                arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode(),
            )
            for i, (name, arguments, _) in enumerate(turn)
        )
        items.append(Item(Role.ASSISTANT, (Text(say, ()),) if say else (), calls=calls))
        items += [
            Item(Role.TOOL, (Text(result, ()),), call_id=f"c{n}.{i}", failed=failed)
            for i, (_, _, result) in enumerate(turn)
        ]
    return items


def trace_of(turns: list[Turn], **more: Any) -> Trace:
    return merged(EMPTY, items_of(turns, **more), len(turns) + 1)


def found(turns: list[Turn], rules: LoopRules = RULES, **more: Any) -> dict[str, int]:
    return {d.rule: d.count for d in detect(trace_of(turns, **more), rules)}


def only(rule: str, *rungs: tuple[int, str], **more: Any) -> LoopRules:
    off: dict[str, Any] = dict.fromkeys(
        ("same_call", "near_duplicate", "cycle", "no_progress", "consecutive_tool_errors", "repeated_text", "context_growth"), ()
    )  # fmt: skip
    return LoopRules(**{**off, rule: rungs, **more})


# -- same call ---------------------------------------------------------------------------------------


def test_thoughts_beside_the_steps_of_a_cycle_do_not_hide_it() -> None:
    turns = [
        [("think", {"thought": f"number {n}"}, "noted"), (name, {}, PAGE)]
        for n, name in enumerate(["a", "b"] * 4)
    ]
    rules = only("cycle", (3, "stop"))
    assert found(turns, rules) == {"cycle": 4}
    assert found([*turns, one("think", {"thought": "and now?"}, "noted")], rules) == {"cycle": 4}
    assert found([*turns, one("c", {}, PAGE)], rules) == {}


def test_a_threshold_of_one_is_reached_at_once() -> None:
    assert found([one()], only("same_call", (1, "observe"))) == {"same_call": 1}


def test_the_same_call_counts_at_its_threshold_and_not_before() -> None:
    assert found([one(result=PAGE)] * 2) == {}
    assert found([one(result=PAGE)] * 3) == {"same_call": 3}
    assert found([one(result=PAGE)] * 4) == {"same_call": 4, "no_progress": 3}


def test_a_ladder_climbs_with_the_count() -> None:
    rules = only("same_call", (2, "nudge"), (4, "wrap_up"), (6, "kill"))
    actions = [[d.action for d in detect(trace_of([one()] * n), rules)] for n in range(1, 8)]
    assert actions == [[], ["nudge"], ["nudge"], ["wrap_up"], ["wrap_up"], ["kill"], ["kill"]]


def test_a_rule_without_rungs_is_off() -> None:
    assert found([one()] * 20, only("cycle")) == {}


def test_parallel_identical_calls_count_once() -> None:
    assert found([[*one(), *one(), *one(), *one()]]) == {}
    assert found([[*one(), *one()]] * 3)["same_call"] == 3


def test_a_result_that_changes_is_work() -> None:
    assert found([one(result=f"{n} % done") for n in range(9)]) == {}


def test_a_call_that_fails_each_time_counts_whatever_it_says() -> None:
    turns = [one(result=f"{word} went wrong") for word in ("this", "that", "everything")]
    assert found(turns, failed=True) == {"same_call": 3}


def test_calls_with_new_ones_in_between_do_not_add_up() -> None:
    turns = [turn for n in range(6) for turn in (one("status", {}, PAGE), one("write", {"n": n}, "ok"))]
    assert found(turns) == {}


def test_calls_with_stale_ones_in_between_add_up() -> None:
    turns = [
        one("a", {}, PAGE),
        one("b", {}, "ok"),
        one("a", {}, PAGE),
        one("b", {}, "ok"),
        one("a", {}, PAGE),
    ]
    assert found(turns, only("same_call", (2, "stop"))) == {"same_call": 2}
    assert found([*turns, one("b", {}, "ok"), one("a", {}, PAGE)], only("same_call", (3, "stop"))) == {
        "same_call": 3
    }


def test_a_repetition_beside_something_new_does_not_count() -> None:
    turns = [[*one("plan", {}, PAGE), *one("write", {"n": n}, "ok")] for n in range(6)]
    assert found(turns) == {}


def test_a_loop_that_was_left_is_not_found_any_more() -> None:
    looping = [one(result=PAGE)] * 5
    assert found(looping)
    assert found([*looping, one("other", {}, "fine")]) == {}


def test_no_facts_no_loop() -> None:
    assert detect(EMPTY, RULES) == []
    assert detect(merged(EMPTY, [], 1), RULES) == []


# -- near duplicates ---------------------------------------------------------------------------------

PARAPHRASES = [
    "cheap hotels in Paris centre", "Paris centre cheap hotels", "hotels cheap in the centre of Paris",
    "cheap hotel Paris centre", "what are cheap hotels in centre of Paris?", "please: cheap hotels Paris centre",
]  # fmt: skip


def test_paraphrases_that_find_nothing_are_near_duplicates() -> None:
    rules = only("near_duplicate", (5, "stop"))
    turns = [one("search", {"q": q}, "No results.") for q in PARAPHRASES]
    assert found(turns[:4], rules) == {}
    assert found(turns[:5], rules) == {"near_duplicate": 5}


def test_equal_calls_are_left_to_the_rule_for_equal_calls() -> None:
    assert found([one("search", {"q": "x"}, "none")] * 8, only("near_duplicate", (3, "stop"))) == {}


@pytest.mark.parametrize("ack", ["ok", "done", "{}", '{"status":"ok"}', ""])
@pytest.mark.parametrize(
    "argument",
    [
        "item {n}",
        "Summarise chapter {n} of the handbook for the new colleagues",
        "/data/part-{n}.csv",
        "user{n}@x.org",
    ],
)
def test_the_same_for_many_things_is_work(ack: str, argument: str) -> None:
    assert found([one("process", {"input": argument.format(n=n)}, ack) for n in range(12)]) == {}


def test_the_same_text_to_many_people_is_work() -> None:
    names = ["Anna", "Boris", "Chen", "Dilara", "Emeka", "Fatima", "Giulia"]
    text = "the meeting has been moved to the large room on the second floor, please bring the printed plans"
    assert found([one("send", {"to": name, "text": text}, "sent") for name in names]) == {}


# -- cycles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 3, 4])
def test_cycles_are_found_at_any_place_of_their_round(length: int) -> None:
    rules = only("cycle", (3, "stop"))
    turns = [one("open", {"page": n % length}, f"page {n % length}") for n in range(4 * length)]
    assert found(turns[: 3 * length - 1], rules) == {}
    for n in range(3 * length, 4 * length):
        assert found(turns[:n], rules) == {"cycle": 3}
    assert found(turns, rules) == {"cycle": 4}


def test_one_call_again_and_again_is_no_cycle() -> None:
    assert found([one()] * 12, only("cycle", (2, "stop"))) == {}


def test_a_round_whose_results_change_is_no_cycle() -> None:
    turns = [turn for n in range(5) for turn in (one("test", {}, f"{n} failed"), one("fix", {}, "ok"))]
    assert found(turns, only("cycle", (2, "stop"))) == {}


def test_parallel_calls_of_a_round_may_change_places() -> None:
    a, b, c = one("a", {}, "1"), one("b", {}, "2"), one("c", {}, "3")
    turns = [[*a, *b], c, [*b, *a], c, [*a, *b], c]
    assert found(turns, only("cycle", (3, "stop"))) == {"cycle": 3}


# -- no progress -------------------------------------------------------------------------------------


def test_other_calls_with_the_same_page_are_no_progress() -> None:
    turns = [one("click", {"ref": name}, PAGE * 2) for name in ("a1", "b2", "c3", "d4")]
    assert found(turns[:3]) == {}
    assert found(turns) == {"no_progress": 3}


def test_one_new_result_among_parallel_calls_is_progress() -> None:
    turns = [[*one("a", {}, PAGE), *one("b", {"n": n}, f"the result of {n}")] for n in range(8)]
    assert found(turns) == {}


def test_pages_one_by_one_are_progress() -> None:
    rows = [
        f'{{"rows": ["{uuid.UUID(int=n)}", "{uuid.UUID(int=n * 7 + 1)}"], "next": true}}' for n in range(9)
    ]
    assert found([one("list", {"page": n}, row) for n, row in enumerate(rows)]) == {}


# -- errors ------------------------------------------------------------------------------------------


def test_errors_in_a_row_count_by_steps() -> None:
    rules = only("consecutive_tool_errors", (3, "stop"))
    turns = [one(f"t{n}", {}, f"error {n}") for n in range(3)]
    assert found(turns[:2], rules, failed=True) == {}
    assert found(turns, rules, failed=True) == {"consecutive_tool_errors": 3}
    assert found([[*turns[0], *turns[1], *turns[2]]], rules, failed=True) == {}


def test_one_success_beside_an_error_ends_the_row() -> None:
    rules = only("consecutive_tool_errors", (2, "stop"))
    bad: Call = ("a", {}, "Error: no")
    good: Call = ("b", {}, "fine")
    assert found([[bad], [bad, good], [bad]], rules) == {}
    assert found([[bad], [bad]], rules) == {"consecutive_tool_errors": 2}


def test_ignored_tools_are_still_seen_to_fail() -> None:
    rules = LoopRules(ignore_tools=frozenset({"f"}))
    assert found([one()] * 9, rules) == {}
    assert found([one(result="Error: no")] * 5, rules, failed=True) == {"consecutive_tool_errors": 5}


# -- polling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["check_status", "pollJob", "get_build", "wait_for_deploy", "bash", "mcp__ci__job_status"]
)
def test_polls_that_are_pending_are_waited_for(name: str) -> None:
    turns = [one(name, {"id": 4}, '{"status": "pending"}')]
    assert found(turns * 29) == {}
    assert "same_call" in found(turns * 30)


def test_a_name_alone_is_no_poll_and_pending_alone_neither() -> None:
    assert "same_call" in found([one("check_status", {}, "green")] * 3)
    assert "same_call" in found([one("frobnicate", {}, '{"status": "pending"}')] * 3)


def test_a_named_polling_tool_is_waited_for_whatever_it_says() -> None:
    rules = LoopRules(polling_tools=frozenset({"ask"}))
    assert found([one("ask", {}, "nothing yet")] * 29, rules) == {}
    assert "same_call" in found([one("ask", {}, "nothing yet")] * 3)


@pytest.mark.parametrize(
    "result",
    ['{"status": "pending", "message": "request timed out"}', "pending: deadline exceeded", "Error: timeout",
     '{"status": "pending", "detail": "connection refused"}'],
)  # fmt: skip
def test_a_timeout_read_as_pending_is_not_waited_for(result: str) -> None:
    rules = LoopRules(polling_tools=frozenset({"check_status"}))
    assert found([one("check_status", {"id": 4}, result)] * 3, rules)["same_call"] == 3


def test_pauses_between_polls_are_neither_progress_nor_a_loop() -> None:
    poll = one("get_job", {"id": 1}, '{"status": "queued"}')
    turns = [turn for n in range(14) for turn in (poll, one("sleep", {"seconds": 2**n}, "ok"))]
    assert found(turns) == {}
    assert "no_progress" in found(
        [turn for _ in range(31) for turn in (poll, one("sleep", {"seconds": 9}, "ok"))]
    )


def test_thoughts_between_hide_no_loop_and_are_none() -> None:
    thoughts = [
        one("think", {"thought": f"{word} might be the reason"}, "logged")
        for word in ("this", "that", "it", "she")
    ]
    assert found(thoughts) == {}
    turns = [turn for thought in thoughts for turn in (one("look", {}, PAGE), thought)]
    assert found(turns[:-1]) == {"same_call": 4, "no_progress": 3}


def test_pages_that_repeat_are_a_loop_and_pages_that_are_acknowledged_are_work() -> None:
    empty = [one("list", {"page": n, "limit": 5}, "[]") for n in range(6)]
    assert found(empty) == {"near_duplicate": 6, "no_progress": 5}
    assert found([one("load", {"page": n, "limit": 5}, "ok") for n in range(9)]) == {}


def test_patience_ends_before_the_trace_does() -> None:
    rules = only("same_call", (20, "stop"))
    assert found([one("check_status", {}, "pending")] * 50, rules) == {"same_call": 50}


def test_patience_is_asked_of_a_fact() -> None:
    (fact,) = merged(EMPTY, items_of([one("poll_job", {}, "pending")]), 2).facts
    assert is_patient(fact, RULES)
    assert not is_patient(replace(fact, status="error"), RULES)
    assert not is_patient(replace(fact, name="buy"), RULES)


# -- repeated text -----------------------------------------------------------------------------------


def talk(*pairs: tuple[str, str]) -> list[Detection]:
    items = [Item(Role.USER, (Text("go", ()),))]
    for say, reply in pairs:
        items += [Item(Role.ASSISTANT, (Text(say, ()),)), Item(Role.USER, (Text(reply, ()),))]
    return detect(merged(EMPTY, items, len(pairs) + 1), RULES)


def test_the_same_text_with_the_same_reply_is_a_loop() -> None:
    pair = ("I am done.", "You are not. Go on.")
    assert talk(pair, pair) == []
    (detection,) = talk(pair, pair, pair)
    assert (detection.rule, detection.count, detection.action) == ("repeated_text", 3, "stop")
    assert detection.evidence == "the assistant said the same 3 times"


def test_the_same_text_to_other_replies_is_none() -> None:
    assert talk(*[("You're welcome!", f"Question {word}?") for word in ("one", "two", "three", "four")]) == []


def test_a_text_agent_that_polls_is_at_work() -> None:
    assert talk(*[("Action: status[4]", f"Observation: {n} % done") for n in range(6)]) == []


def test_the_same_text_beside_work_is_none() -> None:
    turns = [one("write", {"n": n}, "ok") for n in range(9)]
    assert found(turns, say="Now the next one.") == {}


def test_the_same_text_beside_stale_calls_is_a_loop() -> None:
    rules = only("repeated_text", (3, "stop"))
    turns = [one("click", {"ref": f"r{n}"}, PAGE * 2) for n in range(4)]
    assert found(turns, rules, say="I click on the button.") == {"repeated_text": 3}


# -- context growth ----------------------------------------------------------------------------------


def test_steps_that_only_make_the_context_longer_are_counted() -> None:
    rules = only("context_growth", (3, "stop"))
    turns = [one("click", {"ref": f"r{n}"}, PAGE * 2) for n in range(5)]

    def run(sizes: list[int]) -> list[int]:
        trace, counts = EMPTY, []
        for n, size in enumerate(sizes):
            trace = merged(load(dump(trace)), items_of(turns[:n]), n + 1, size)
            counts.append(sum(d.count for d in detect(trace, rules)))
        return counts

    assert run([10, 20, 30, 40, 50, 60]) == [0, 0, 0, 0, 3, 4]
    assert run([10, 20, 30, 30, 40, 50]) == [0, 0, 0, 0, 0, 0]


def test_growth_is_not_known_without_a_record() -> None:
    assert found([one()] * 9, only("context_growth", (1, "stop"))) == {}


# -- what people read --------------------------------------------------------------------------------


def test_evidence_names_tools_and_counts_alone() -> None:
    secret = "hunter2-" + "s3cret"
    turns = [
        turn
        for _ in range(5)
        for turn in (one("look", {"password": secret}, secret * 9), one("leap", {}, secret))
    ]
    lines = [d.evidence for d in detect(trace_of(turns, say=secret), RULES)]
    assert lines == [
        "leap was called 5 times with the same arguments and got the same result",
        "the same 2 steps (look, leap) were repeated 5 times with the same results",
        "8 steps in a row brought nothing new (leap, look)",
        "the assistant said the same 8 times",
    ]
    (line,) = [
        d.evidence
        for d in detect(trace_of([one(result="Error: x")] * 4, failed=True), only("same_call", (3, "stop")))
    ]
    assert line == "f was called 4 times with the same arguments and failed each time"


def test_names_that_a_model_made_up_are_cleaned() -> None:
    turns = [one("a\nb <script>" + "x" * 200, {}, PAGE)] * 3
    (detection,) = detect(trace_of(turns), RULES)
    assert "\n" not in detection.evidence
    assert "<" not in detection.evidence
    assert len(detection.evidence) < 160


def test_many_tools_are_not_all_named() -> None:
    turn: Turn = [(f"t{n}", {}, PAGE * 2) for n in range(9)]
    (detection,) = detect(trace_of([turn] * 4), only("no_progress", (3, "stop")))
    assert detection.evidence == "3 steps in a row brought nothing new (t0, t1, t2, t3, 5 more)"
    assert len(detection.tools) == 9


# -- properties --------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from(["ok", PAGE, "Error: no"])), max_size=14),
    st.randoms(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_volatile_values_and_order_never_change_what_is_found(
    steps: list[tuple[str, int, str]], r: random.Random
) -> None:
    plain = [one(name, {"n": n, "q": "x"}, result) for name, n, result in steps]
    noisy = []
    for name, n, result in steps:
        noise = {"n": n, "q": "x", "nonce": r.random(), "request_id": str(uuid.UUID(int=r.getrandbits(128)))}
        keys = list(noise)
        r.shuffle(keys)
        noisy.append(
            one(name, orjson.dumps({k: noise[k] for k in keys}, option=orjson.OPT_INDENT_2).decode(), result)
        )
    assert found(noisy) == found(plain)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.sampled_from(["ok", PAGE])), max_size=6),
    st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_a_loop_that_goes_on_stays_found(before: list[tuple[str, int, str]], length: int) -> None:
    turns = [one(name, {"n": n}, result) for name, n, result in before]
    counts: dict[str, int] = {}
    prints = Fingerprints()
    for n in range(10 * length):
        turns.append(one("loop", {"place": n % length}, f"place {n % length}"))
        now = {
            d.rule: d.count
            for d in detect(merged(EMPTY, items_of(turns), len(turns) + 1, prints=prints), RULES)
        }
        if n >= 5 * length:
            assert now.keys() >= counts.keys()
            assert all(now[rule] >= count for rule, count in counts.items())
            counts = now
    assert counts


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.sampled_from(["ok", PAGE, "No results."])), max_size=12))  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_step_by_step_with_a_record_finds_the_same(steps: list[tuple[str, int, str]]) -> None:
    turns = [one(name, {"n": n}, result) for name, n, result in steps]
    trace = EMPTY
    for n in range(len(turns) + 1):
        trace = merged(load(dump(trace)), items_of(turns[:n]), n + 1)
    rules = replace(RULES, context_growth=())
    assert detect(trace, rules) == detect(trace_of(turns), rules)


# -- the same failure, whatever was done ----------------------------------------------------------------

FAILED = "1 failed in 0.3s\nFAILED test_money.py::test_currency - FileNotFoundError: no rates.json"


def edits_and(test: Callable[[int], Turn], rounds: int) -> list[Turn]:
    return [turn for n in range(rounds) for turn in (one("edit", {"text": f"version {n}"}, "ok"), test(n))]


def test_a_test_that_fails_in_the_same_way_after_five_edits_is_a_loop() -> None:
    def test(n: int) -> Turn:
        return one("bash", {"command": "pytest"}, FAILED)

    assert found(edits_and(test, 4)) == {}
    assert found(edits_and(test, 5)) == {"same_call": 5}
    assert found(edits_and(test, 20), only("same_call", (20, "stop"))) == {}
    line = detect(trace_of(edits_and(test, 6)), RULES)[0].evidence
    assert line == "bash failed 6 times in the same way, whatever was done in between"


@pytest.mark.parametrize("result", ["All checks passed!", " M src/router.py", "5 passed"])
def test_what_is_well_each_time_is_work(result: str) -> None:
    assert found(edits_and(lambda n: one("bash", {"command": "check"}, result), 9)) == {}


def test_failures_that_change_or_pass_in_between_are_work() -> None:
    assert found(edits_and(lambda n: one("bash", {"command": "t"}, f"{9 - n} failed, {n} passed"), 8)) == {}
    mixed = edits_and(lambda n: one("bash", {"command": "t"}, "ok" if n % 3 == 0 else FAILED), 9)
    assert found(mixed) == {}
    read = edits_and(lambda n: one("read_file", {"path": "log"}, FAILED), 8)
    assert found(read) == {}


def test_a_long_failure_of_other_calls_of_the_tool_counts_too() -> None:
    failure = (
        '{"conclusion":"failure","summary":"' + "the runner lost communication with the server; " * 4 + '"}'
    )
    builds = edits_and(lambda n: one("get_check", {"ref": f"{n}abc"}, failure), 6)
    assert found(builds)["near_duplicate"] == 6
    assert "near_duplicate" not in found([one("get_check", {"ref": f"{n}abc"}, failure) for n in range(6)])


# -- idle calls, orders, thoughts -----------------------------------------------------------------------


def test_bookkeeping_neither_counts_nor_hides_a_loop() -> None:
    turns = [
        turn
        for n in range(3)
        for turn in (one("get_deal", {"id": 7}, "open"), one("add_note", {"t": n}, "ok"))
    ]
    assert found(turns[:-1]) == {"same_call": 3}
    beside = [[*one("get_deal", {"id": 7}, "open"), *one("log_step", {"t": n}, "ok")] for n in range(3)]
    assert found(beside) == {"same_call": 3}
    assert found([one("add_note", {"t": f"thought {n}"}, "ok") for n in range(30)]) == {}


def test_thoughts_without_a_new_word_are_a_loop_and_a_line_of_thought_is_none() -> None:
    same = ["check the invoice first", "first check the invoice", "the invoice: check first"] * 2
    turns = [
        one("think", {"thought": f"{text} {'again' if n % 2 else ''}"}, "ok") for n, text in enumerate(same)
    ]
    assert found(turns, only("no_progress", (3, "stop"))) == {}
    assert found(turns)["no_progress"] == 5
    words = ["rates are missing", "callers pass lower case", "so normalise names", "then raise errors"] * 2
    line = [one("think", {"thought": f"{w} with {n}{n}{n} and topic{n}x"}, "ok") for n, w in enumerate(words)]
    assert found(line) == {}


def test_an_order_to_repeat_is_waited_for() -> None:
    turns = [one("run_test", {"name": "sync"}, "PASSED") for _ in range(13)]
    items = items_of(turns)
    items[0] = Item(Role.USER, (Text("Run it ten times, one by one.", ()),))
    assert detect(merged(EMPTY, items[:-4], 12), RULES) == []
    assert [d.rule for d in detect(merged(EMPTY, items, 14), RULES)] == ["same_call"]


# -- cycles with noise ------------------------------------------------------------------------------------


def test_a_failure_that_is_tried_in_other_ways_is_a_cycle() -> None:
    turns = [
        turn
        for n in range(4)
        for turn in (
            one("set_dns", {"ttl": 60 + n}, "Error: forbidden for this zone"),
            one("get_policy", {}, PAGE),
        )
    ]
    rules = only("cycle", (3, "stop"))
    assert found(turns[:-2], rules) == {}
    assert found(turns, rules) == {"cycle": 4}


def test_to_and_fro_is_a_cycle_whatever_the_readings_say() -> None:
    def rounds(set_to: tuple[int, int]) -> list[Turn]:
        return [
            turn
            for n in range(6)
            for turn in (one("scale", {"n": set_to[n % 2]}, "scaled"), one("load", {}, f"cpu {n}{n} %"))
        ]

    assert found(rounds((6, 3)))["cycle"] == 3
    assert found(rounds((6, 6)), only("cycle", (3, "stop"))) == {}
    queue = [turn for n in range(8) for turn in (one("pop", {}, f"job {n}"), one("complete", {}, "ok"))]
    assert found(queue) == {}


# -- repeated text whatever the reply ----------------------------------------------------------------------


def chat(says: list[str], replies: list[str]) -> dict[str, int]:
    items = [Item(Role.USER, (Text("hello", ()),))]
    for said, reply in zip(says, replies, strict=True):
        items += [Item(Role.ASSISTANT, (Text(said, ()),)), Item(Role.USER, (Text(reply, ()),))]
    return {d.rule: d.count for d in detect(merged(EMPTY, items, len(says) + 1), RULES)}


def test_asking_for_what_was_told_is_a_loop_at_four() -> None:
    replies = ["It's 77123", "77123", "I told you, 77123!", "order 77123"]
    ask = "Could you give me your order number?"
    assert chat([ask] * 3, replies[:3]) == {}
    assert chat([ask] * 4, replies) == {"repeated_text": 4}
    assert chat(["Got it! Anything else?"] * 4, ["a pizza", "a coke", "2 waters", "no"]) == {}


def test_the_same_long_text_in_a_row_is_a_loop_at_six() -> None:
    text = "I am sorry, this request is something that our service desk cannot handle right now."
    assert chat([text] * 5, list("abcde")) == {}
    assert chat([text] * 6, list("abcdef")) == {"repeated_text": 6}
    assert chat(["positive"] * 9, list("abcdefghi")) == {}


def test_the_same_code_again_is_a_loop_at_four() -> None:
    code = "```python\nfor row in requests.get(URL).json()['items']:\n    print(row['id'], row['name'])\n```"
    leads = ["Here:", "Sorry, fixed:", "Try this:", "Now it works:"]
    assert chat([f"{lead}\n{code}" for lead in leads], ["KeyError", "still", "no", "same"]) == {
        "repeated_text": 4
    }


def test_thanks_for_thanks_and_announcements_are_loops() -> None:
    thanks = ["You're welcome!", "Thank you too, bye!", "Bye, have a nice day!", "Goodbye!"]
    assert chat(thanks, ["Thanks!", "Bye!", "Take care!", "Bye bye!"]) == {"repeated_text": 4}
    lines = ["I will now write the final report.", "Now I will write the report, the final one."]
    assert chat(lines * 2, ["Continue."] * 4) == {"repeated_text": 3}
    towns = ["Ulm", "Linz", "Graz", "Wels", "Steyr"]
    assert chat([f"{town} is a lovely old city to visit." for town in towns], ["next"] * 5) == {}


def test_done_after_each_command_is_work() -> None:
    items = [Item(Role.USER, (Text("louder", ()),))]
    for n in range(6):
        call = ToolCall(f"call_{n:020}", "volume", '{"delta":1}')
        items += [
            Item(Role.ASSISTANT, (), calls=(call,)),
            Item(Role.TOOL, (Text("ok", ()),), call_id=call.id),
            Item(Role.ASSISTANT, (Text("Done.", ()),)),
            Item(Role.USER, (Text("louder", ()),)),
        ]
    assert detect(merged(EMPTY, items, 13), RULES) == []


def test_a_pause_of_a_shell_is_a_pause() -> None:
    turns = [
        turn
        for n in range(8)
        for turn in (
            one("bash", {"command": "sleep 10"}, ""),
            one("bash", {"command": "kubectl get pods"}, f"db-0   0/1   Running   0   {n + 10}s"),
        )
    ]
    assert found(turns) == {}
