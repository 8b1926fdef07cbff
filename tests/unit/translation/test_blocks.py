"""Interleaved deltas in, one block after the other out, no call closed half."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.surfaces.chat import reasoning_in, text_in
from gateway.translation.blocks import Block, BlockOrder, Told
from tests.unit.translation.streams import call_delta


def played(*deltas: dict[str, Any], finish: bool = True) -> list[str]:
    """What happens, in words: `+text`, `text hello`, `-text`; calls by their name."""
    order = BlockOrder()
    told: list[Told] = [each for delta in deltas for each in order.take(delta)]
    if finish:
        told += order.finish()
    return [_word(happening, block, text) for happening, block, text in told]


def _word(happening: str, block: Block, text: str) -> str:
    name = block.name if block.kind == "call" else block.kind
    return {"opened": f"+{name}", "added": f"{name} {text}", "closed": f"-{name}"}[happening]


def test_text_passes_as_it_comes() -> None:
    assert played({"content": "a"}, {"content": "b"}, finish=False) == ["+text", "text a", "text b"]


def test_thoughts_text_and_calls_follow_each_other() -> None:
    assert played(
        {"reasoning_content": "hm"},
        {"content": "I look."},
        call_delta(0, "", id="a", name="f"),
        call_delta(0, '{"x":'),
        call_delta(0, "1}"),
        call_delta(1, "{}", id="b", name="g"),
    ) == [
        "+thinking", "thinking hm", "-thinking", "+text", "text I look.", "-text",
        "+f", 'f {"x":', "f 1}", "-f", "+g", "g {}", "-g",
    ]  # fmt: skip


def test_a_second_call_waits_until_the_first_is_complete() -> None:
    deltas = [
        call_delta(0, id="a", name="f"),
        call_delta(1, id="b", name="g"),
        call_delta(0, '{"x"'),
        call_delta(1, '{"y":2}'),
        call_delta(0, ":1}"),
    ]
    assert played(*deltas, finish=False) == ["+f", 'f {"x"', "f :1}", "-f", "+g", 'g {"y":2}']


def test_nothing_that_waits_is_told_before_the_answer_is_finished() -> None:
    deltas = [
        call_delta(0, '{"x"', id="a", name="f"),
        call_delta(1, "{}", id="b", name="g"),
        {"content": "and"},
    ]
    assert played(*deltas, finish=False) == ["+f", 'f {"x"']
    assert played(*deltas) == ["+f", 'f {"x"', "-f", "+g", "g {}", "-g", "+text", "text and", "-text"]


def test_text_after_a_complete_call_is_a_block_of_its_own() -> None:
    assert played({"content": "a"}, call_delta(0, "{}", id="c", name="f"), {"content": "b"}) == [
        "+text", "text a", "-text", "+f", "f {}", "-f", "+text", "text b", "-text"
    ]  # fmt: skip


def test_a_call_without_arguments_is_only_closed_by_the_end() -> None:
    deltas = [call_delta(0, "", id="a", name="f"), call_delta(1, "{}", id="b", name="g")]
    assert played(*deltas, finish=False) == ["+f"]
    assert played(*deltas) == ["+f", "-f", "+g", "g {}", "-g"]


def test_whole_calls_all_under_index_zero_are_told_apart_by_their_ids() -> None:
    deltas = [call_delta(0, '{"n":1}', id="a", name="f"), call_delta(0, '{"n":2}', id="b", name="f")]
    assert played(*deltas) == ["+f", 'f {"n":1}', "-f", "+f", 'f {"n":2}', "-f"]


def test_a_call_opens_when_its_name_and_id_are_known() -> None:
    deltas = [call_delta(0, '{"a"', id="a"), {"content": "x"}, call_delta(0, ":1}", name="f")]
    assert played(*deltas[:2], finish=False) == []
    assert played(*deltas, finish=False) == ["+f", 'f {"a":1}', "-f", "+text", "text x"]


def test_a_call_that_never_gets_a_name_is_none() -> None:
    assert played({"content": "x"}, call_delta(0, '{"a":1}', id="a")) == ["+text", "text x", "-text"]


def test_arguments_that_are_no_text_are_written_as_json() -> None:
    delta = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"a": 1}}}]}
    assert played(delta) == ["+f", 'f {"a":1}', "-f"]


def test_deltas_after_a_closed_call_change_nothing() -> None:
    deltas = [call_delta(0, "{}", id="a", name="f"), {"content": "x"}, call_delta(0, ',"b":2}')]
    assert played(*deltas) == ["+f", "f {}", "-f", "+text", "text x", "-text"]


@pytest.mark.parametrize(
    "delta",
    [
        {}, {"content": 7}, {"content": None}, {"tool_calls": "x"}, {"tool_calls": [None, 7, []]},
        {"tool_calls": [{"index": "0", "function": None}]}, {"refusal": {}}, {"reasoning": []},
        {"content": [{"type": "text"}, "x", {"text": 5}]},
    ],
)  # fmt: skip
def test_odd_deltas_are_passed_over(delta: dict[str, Any]) -> None:
    assert played(delta) == []


def test_words_are_found_under_every_name_that_servers_use_and_once() -> None:
    assert reasoning_in({"reasoning": "a", "reasoning_content": "a"}) == "a"
    assert reasoning_in({"thinking": "b"}) == "b"
    assert reasoning_in({"reasoning_content": "", "reasoning": None, "thinking": "c"}) == "c"
    assert reasoning_in({"reasoning": 5}) == ""
    assert text_in([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "ab"


CALLS = st.lists(st.dictionaries(st.sampled_from(["a", "{", "}\"é"]), st.integers(0, 9) | st.text(max_size=3), max_size=2), max_size=3)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(CALLS, st.data())
def test_however_calls_interleave_each_is_told_whole_and_in_one_piece(
    inputs: list[dict[str, Any]], data: st.DataObject
) -> None:
    pending = {i: list(json.dumps(value)) for i, value in enumerate(inputs)}
    deltas = [call_delta(i, "", id=f"call_{i}", name=f"f{i}") for i in pending]
    while pending:
        index = data.draw(st.sampled_from(sorted(pending)))
        piece = "".join(pending[index][: data.draw(st.integers(1, 5))])
        pending[index] = pending[index][len(piece) :]
        deltas.append(call_delta(index, piece))
        if not pending[index]:
            del pending[index]
        if data.draw(st.booleans()):
            deltas.append({"content": "t"})
    order = BlockOrder()
    told = [each for delta in deltas for each in order.take(delta)] + order.finish()
    open_block: Block | None = None
    texts: dict[str, str] = {}
    for happening, block, text in told:
        if happening == "opened":
            assert open_block is None
            open_block = block
            assert block.index == len(texts)
            texts[f"{block.index}:{block.id or block.kind}"] = ""
        else:
            assert block is open_block
            texts[f"{block.index}:{block.id or block.kind}"] += text
            if happening == "closed":
                open_block = None
    assert open_block is None
    calls = {key.split(":", 1)[1]: text for key, text in texts.items() if "call_" in key}
    assert {key: json.loads(text) for key, text in calls.items()} == {
        f"call_{i}": v for i, v in enumerate(inputs)
    }
    spoken = "".join(text for key, text in texts.items() if key.endswith(":text"))
    assert spoken == "t" * sum(1 for delta in deltas if "content" in delta)
