"""What a policy says about shortened results and about answers that are given again."""

from __future__ import annotations

import pytest

from gateway.policy.loading import load_text
from gateway.policy.messages import PolicyError
from gateway.policy.models import Policy
from gateway.policy.sections.callers import Match
from gateway.policy.sections.reuse import Cache, Context, ExactCache, SemanticCache

MODELS = """
providers:
  p: {dialect: openai, base_url: http://p/v1}
  narrow: {dialect: openai, base_url: http://n/v1, surfaces: [chat]}
  a: {dialect: anthropic, base_url: http://a}
models: {small: {provider: p}, claude: {provider: a}, chatty: {provider: narrow}, "embed-*": {provider: p}}
"""


def policy(text: str, env: dict[str, str] | None = None) -> Policy:
    return load_text(f"version: 1\n{MODELS}{text}", env or {})


def test_without_a_word_nothing_is_shortened_or_given_again() -> None:
    empty = policy("")
    assert empty.context is None
    assert empty.cache == Cache(exact=None, semantic=None)


def test_what_is_written_is_on_and_the_rest_has_defaults() -> None:
    written = policy("context: {}\ncache: {exact: {}, semantic: {model: embed-small}}")
    assert written.context == Context(
        mode="enforce", keep_results=4, result_tokens=400, clip_tokens=8000, match=Match()
    )
    assert written.cache.exact == ExactCache(
        mode="enforce", ttl_s=3600, scope="user", max_temperature=0, match=Match()
    )
    assert written.cache.semantic == SemanticCache(
        mode="enforce",
        ttl_s=3600,
        scope="user",
        max_temperature=0,
        match=Match(),
        model="embed-small",
        threshold=0.95,
        max_entries=10_000,
    )
    assert written.warnings == ()


def test_everything_can_be_said() -> None:
    written = policy(
        "context: {mode: shadow, keep_results: 1, result_tokens: 0, clip_tokens: 1, match: {model: small}}\n"
        "cache:\n"
        "  exact: {mode: off, ttl_s: 0.5, scope: team, max_temperature: 0.7, match: {team: cx}}\n"
        "  semantic: {model: embed-x, threshold: 1, scope: global, max_entries: 1, max_temperature: '${T}'}\n",
        {"T": "2"},
    )
    assert written.context == Context(
        mode="shadow", keep_results=1, result_tokens=0, clip_tokens=1, match=Match(model=("small",))
    )
    assert written.cache.exact == ExactCache(
        mode="off", ttl_s=0.5, scope="team", max_temperature=0.7, match=Match(team=("cx",))
    )
    semantic = written.cache.semantic
    assert semantic is not None
    assert (semantic.threshold, semantic.scope, semantic.max_entries) == (1.0, "global", 1)
    assert semantic.max_temperature == 2.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("context: {keep_results: 0}", "context.keep_results: got 0, expected a whole number from 1 to"),
        ("context: {clip_tokens: 0}", "context.clip_tokens: got 0, expected a whole number from 1 to"),
        ("context: {result_tokens: -1}", "context.result_tokens: got -1, expected a whole number from 0 to"),
        (
            "context: {match: {model: gpt}}",
            'context.match.model: got "gpt", expected a model that is configured',
        ),
        (
            "cache: {exact: {match: {model: smal}}}",
            'cache.exact.match.model: got "smal", expected a model that is configured; did you mean "small"?',
        ),
        ("cache: {exact: {scope: run}}", 'cache.exact.scope: got "run", expected user, key, team or global'),
        ("cache: {exact: {ttl_s: 0}}", "cache.exact.ttl_s: got 0, expected seconds above 0 and up to a year"),
        (
            "cache: {exact: {max_temperature: 2.1}}",
            "cache.exact.max_temperature: got 2.1, expected a temperature from 0 to 2 such as 0",
        ),
        (
            "cache: {exact: {max_temperature: true}}",
            "cache.exact.max_temperature: got true, expected a temperature from 0 to 2 such as 0",
        ),
        (
            "cache: {exact: {max_temperature: warm}}",
            'cache.exact.max_temperature: got "warm", expected a temperature from 0 to 2 such as 0',
        ),
        ("cache: {semantic: {}}", "cache.semantic.model:"),
        (
            "cache: {semantic: {model: smal}}",
            'cache.semantic.model: got "smal", expected a model that is configured; did you mean "small"?',
        ),
        (
            "cache: {semantic: {model: claude}}",
            'cache.semantic.model: got "claude", expected a model on a provider that serves embeddings',
        ),
        (
            "cache: {semantic: {model: chatty}}",
            'cache.semantic.model: got "chatty", expected a model on a provider that serves embeddings',
        ),
        (
            "cache: {semantic: {model: embed-x, threshold: 0}}",
            "cache.semantic.threshold: got 0, expected a share above 0 and up to 1",
        ),
        (
            "auth: {mode: passthrough, provider: p}\ncache: {exact: {}}",
            "cache.exact: got a cache, expected none: auth.mode is passthrough, and each caller pays for itself",
        ),
        ("cache: {fuzzy: {}}", "cache.fuzzy:"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, problem: str) -> None:
    with pytest.raises(PolicyError) as raised:
        policy(text)
    assert problem in str(raised.value)


def test_a_cache_that_is_off_is_no_mistake_where_callers_pay_for_themselves() -> None:
    written = policy("auth: {mode: passthrough, provider: p}\ncache: {exact: {mode: off}}")
    assert written.cache.exact is not None
    assert written.cache.exact.mode == "off"
