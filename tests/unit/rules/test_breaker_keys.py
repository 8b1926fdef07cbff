"""The names of breakers: any text goes in, the same comes out, and nothing else reads as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rules.breakers import BreakerKind, breaker_key, parse_breaker_key

TEXTS = st.text(st.characters(), max_size=30)


@given(
    st.sampled_from(("tool", "provider", "model")),
    TEXTS.map(lambda t: f"team/{t}") | TEXTS.map(lambda t: f"key/{t}") | st.just("shared"),
    TEXTS | st.just("\ud800"),
)
def test_what_goes_in_comes_out(kind: BreakerKind, scope: str, name: str) -> None:
    key = breaker_key(kind, scope, name)
    assert key.isascii()
    assert key.isprintable()
    assert key.count(":") == 2
    assert parse_breaker_key(key) == (kind, scope, name)


def test_keys_can_be_read() -> None:
    assert breaker_key("tool", "team/cx", "send_email") == "tool:team/cx:send_email"
    assert breaker_key("tool", "shared", "a:b/c d") == "tool:shared:a%3Ab%2Fc%20d"
    assert breaker_key("tool", "key/a/b", "t") == "tool:key/a%2Fb:t"
    assert breaker_key("provider", "shared", "openai") == "provider:shared:openai"


@pytest.mark.parametrize(
    "key",
    ["", "tool", "tool:shared", "tool:x:y:z", "user:shared:x", "tool:team:x", "tool:other/x:y", "tool::x",
     "tool:shared/x:y", "tool:shared:%zz", "tool:shared:%FF", "tool:shared:%2f", "tool:shared:a b"],
)  # fmt: skip
def test_anything_else_is_no_breaker(key: str) -> None:
    assert parse_breaker_key(key) is None
