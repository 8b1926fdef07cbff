"""Arguments keep their value and ids their pairing, whatever either side writes."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.translation.calls import (
    CallIds,
    arguments_of,
    chat_id,
    input_of,
    is_object,
    made_answer_id,
    made_id,
    messages_id,
    written,
)

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_valid_arguments_come_back_with_the_same_value(
    value: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    given_input = input_of(text)
    assert orjson.loads(orjson.dumps(given_input)) == given_input
    assert json.loads(arguments_of(given_input)) == value


@given(TEXT | VALUES.map(json.dumps))
def test_any_text_comes_back_as_it_was_unless_it_is_a_valid_object(text: str) -> None:
    back = arguments_of(input_of(text))
    if back != text:
        if text.strip():
            assert json.loads(back) == json.loads(text)
        else:
            assert back == "{}"


@pytest.mark.parametrize(
    "text",
    [
        "[1]", '"x"', "null", "7", '{"a":', '{"a":NaN}', '{"a":1e999}', "not json", '{"a":"\\ud800"}',
        '{"id":123456789012345678901234567890}', '{"id":-9223372036854775809}', '{"INVALID_JSON":"x"}',
        '{"a":' * 300 + "1" + "}" * 300, "[" * 5000, "{" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_object_or_would_not_survive_is_wrapped_and_unwrapped(text: str) -> None:
    wrapped = input_of(text)
    assert wrapped == {"INVALID_JSON": text}
    orjson.dumps({"messages": [{"content": [{"input": wrapped}]}]})
    assert arguments_of(wrapped) == text


@pytest.mark.parametrize("text", ["", "  ", "{}", "\n{ }\n"])
def test_no_arguments_are_an_empty_object(text: str) -> None:
    assert input_of(text) == {}


def test_arguments_as_deep_as_a_body_may_be_pass() -> None:
    for depth in (70, 200):
        text = '{"a":' * depth + "1" + "}" * depth
        assert arguments_of(input_of(text)) == text
    lists = '{"a":' + "[" * 260 + "]" * 260 + "}"
    assert input_of(lists) == {"INVALID_JSON": lists}


def test_long_numbers_of_64_bits_pass() -> None:
    assert input_of('{"a":18446744073709551615,"b":-9223372036854775808}') == {"a": 2**64 - 1, "b": -(2**63)}


def test_what_cannot_be_written_is_no_object_that_a_tool_could_be_called_with() -> None:
    deep: Any = {}
    for _ in range(400):
        deep = {"a": deep}
    assert not is_object(arguments_of(deep))
    assert not is_object(written({1: object()}))
    assert arguments_of(None) == "{}"


@pytest.mark.parametrize(
    ("text", "complete"),
    [("{}", True), ('{"a":{}}', True), (' {"a":1} ', True), ('{"a":{}', False), ("", False), ("[]", False),
     ('{"a":1}}', False), ('{"a":"}', False)],
)  # fmt: skip
def test_an_object_is_complete_or_not(text: str, complete: bool) -> None:
    assert is_object(text) is complete


@pytest.mark.parametrize(
    "call_id",
    ["toolu_01A-b", "call_abcdefghijklmnopqrstuvwx", "call_0"],
)
def test_ids_of_either_provider_pass_unchanged(call_id: str) -> None:
    for accepts in (messages_id, chat_id):
        ids = CallIds(accepts)
        assert ids.call(call_id) == call_id
        assert ids.result(call_id) == call_id


@pytest.mark.parametrize("call_id", ["functions.f:0", "", "ü", "a b", "x" * 65, "a\nb", "chatcmpl-tool/1"])
def test_ids_that_the_messages_api_refuses_are_replaced_in_call_and_result(call_id: str) -> None:
    ids = CallIds(messages_id)
    sent = ids.call(call_id)
    assert messages_id(sent)
    assert sent != call_id
    assert ids.result(call_id) == sent
    assert CallIds(messages_id).call(call_id) == sent, "the same in every request, for the provider's cache"


def test_ids_are_kept_up_to_the_length_that_each_api_allows() -> None:
    assert CallIds(chat_id).call("x" * 40) == "x" * 40
    assert len(CallIds(chat_id).call("x" * 41)) == 37
    assert CallIds(chat_id).call("a\nb").startswith("call_")
    assert CallIds(chat_id).call("").startswith("call_")
    assert CallIds(messages_id).call("x" * 64) == "x" * 64
    assert len(CallIds(messages_id).call("x" * 65)) == 37


def test_an_id_that_a_server_uses_again_is_told_apart() -> None:
    ids = CallIds(messages_id)
    first = ids.call("call_0")
    assert ids.result("call_0") == first == "call_0"
    second = ids.call("call_0")
    assert second != first
    assert ids.result("call_0") == second
    assert ids.result("call_0") == second, "a result told twice is of the same call"


def test_equal_ids_in_one_message_pair_in_order() -> None:
    ids = CallIds(messages_id)
    calls = [ids.call("") for _ in range(3)]
    assert len(set(calls)) == 3
    assert [ids.result("") for _ in range(3)] == calls


def test_a_result_without_its_call_keeps_a_usable_id() -> None:
    assert CallIds(messages_id).result("toolu_1") == "toolu_1"
    assert messages_id(CallIds(messages_id).result("f:0"))


def test_ten_thousand_equal_ids_are_no_attack() -> None:
    ids = CallIds(messages_id)
    assert len({ids.call("call_0") for _ in range(10_000)}) == 10_000


def test_made_ids_differ_by_answer_and_place() -> None:
    assert len({made_id("a", 0), made_id("a", 1), made_id("b", 0), made_id("a\n1", 2), made_id("a", 12)}) == 5
    assert messages_id(made_id("a", 0))
    assert chat_id(made_id("a", 0))
    assert made_answer_id("msg_", {"a": 1}, 5) != made_answer_id("msg_", {"a": 2}, 5)
