"""Where a step goes, and what is known of the model that it goes to."""

from __future__ import annotations

import pytest

from gateway.domain import Principal
from gateway.policy.models import Policy
from gateway.rules.route import Router

NOW = 1_795_000_000_000
ALICE = Principal("alice", "alice")
PRICE = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
LONG = {**PRICE, "tiers": [{"above_input_tokens": 200_000, "input_usd_per_mtok": 3}]}
POLICY = {
    "version": 1,
    "providers": {
        "openai": {"dialect": "openai", "base_url": "https://api.openai.com/v1", "api_key": "sk-x"},
        "claude": {"dialect": "anthropic", "base_url": "https://api.anthropic.com", "api_key": "sk-x"},
        "house": {"dialect": "openai", "base_url": "http://house:8000/v1", "api_key": "none"},
    },
    "models": {
        "gpt-4o": {"provider": "openai"},
        "narrow": {"provider": "openai", "upstream_model": "gpt-4o", "context_window": 32_000},
        "priced": {"provider": "openai", "upstream_model": "gpt-4o", "price": PRICE},
        "claude-haiku-4-5": {"provider": "claude"},
        "claude-sonnet-4-5": {"provider": "claude"},
        "long": {"provider": "claude", "upstream_model": "claude-haiku-4-5", "price": LONG},
        "own": {"provider": "house", "price": "free"},
        "own-*": {"provider": "house", "price": PRICE, "context_window": 8_192},
    },
    "auth": {"mode": "open"},
}


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("gpt-4o", 128_000),
        ("narrow", 32_000),
        ("priced", 128_000),
        ("claude-haiku-4-5", 200_000),
        # Who has a price for longer input takes longer input, when it is asked to.
        ("claude-sonnet-4-5", None),
        ("long", None),
        ("own", None),
        ("own-7b", 8_192),
    ],
)
def test_the_window_is_the_policy_s_or_the_price_table_s(model: str, window: int | None) -> None:
    router = Router(Policy.model_validate(POLICY))
    for _ in range(2):
        assert router.choose(ALICE, model, NOW).context_window == window
