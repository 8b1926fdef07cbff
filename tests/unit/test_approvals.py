"""Which call an approval is for: what a model may write anew, and what makes another call of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.steps.approvals import canonical, digest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_space_order_and_escapes_make_no_other_call(value: object) -> None:
    once = canonical(json.dumps(value))
    assert json.loads(once) == value
    assert canonical(json.dumps(value, indent=2, sort_keys=True)) == once
    assert canonical(json.dumps(value, ensure_ascii=False)) == once
    assert canonical(once) == once


def test_keys_are_in_order_and_text_is_readable() -> None:
    assert canonical('{"b": [1, 2.50], "a": {"d": "\\u00fc", "c": null}}') == (
        '{"a":{"c":null,"d":"ü"},"b":[1,2.5]}'
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Numbers that a double cannot tell apart.
        ('{"amount": 12345678901234567890123}', '{"amount": 12345678901234567890124}'),
        ('{"amount": 0.1}', '{"amount": 0.10000000000000000001}'),
        ('{"amount": 9007199254740993.0}', '{"amount": 9007199254740992.0}'),
        ('{"amount": 1e400}', '{"amount": 1e401}'),
        ('{"amount": 1e-400}', '{"amount": 1e-401}'),
        ('{"amount": 1e-99999999999999999999}', '{"amount": 0.0}'),
        # A key that stands twice: which one counts is the agent's choice.
        ('{"to": "a", "to": "b"}', '{"to": "b"}'),
        ('{"x": {"to": "a", "to": "b"}}', '{"x": {"to": "b"}}'),
        ('{"n": 1}', '{"n": "1"}'),
        ('{"n": 1}', '{"n": true}'),
        ('{"n": NaN}', '{"n": null}'),
        ("", "{}"),
        ("not json", "not  json"),
        ('{"a": 1}', '{"a": 1} trailing'),
        ('{"s": "\\ud800"}', '{"s": "?"}'),
    ],
)
def test_what_could_be_read_in_two_ways_stays_as_it_is(one: str, other: str) -> None:
    assert digest("t", canonical(one)) != digest("t", canonical(other))


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"a":' * 3000, "\ud800", '"\x00"', "\x00"])
def test_odd_arguments_are_kept(text: str) -> None:
    assert canonical(text) == text
    assert len(digest("t", text)) == 64


def test_tool_and_arguments_do_not_run_into_each_other() -> None:
    assert digest("a", "b{}") != digest("ab", "{}")
    assert digest("send", "{}") != digest("Send", "{}")
