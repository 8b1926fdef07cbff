"""The policy of the client tests: one simulated provider, spoken to in three ways."""

from __future__ import annotations

from gateway.testing import ProviderServer
from tests.support.gateway import ALICE

IN, CACHED, OUT = 2_500, 1_250, 10_000
"""Nano-dollars per token, the same of every model."""
_PRICE = "{input_usd_per_mtok: 2.5, cached_input_usd_per_mtok: 1.25, output_usd_per_mtok: 10}"
_SECRET = "sk-upstream-secret-000000000000"


def policy_for(provider: ProviderServer, extra: str = "") -> str:
    """A key for alice, no limits but those in `extra`, and every script of the provider under three names:
    `sim/*` speaks all of OpenAI's APIs, `chatonly/*` nothing but chat, `claude/*` Anthropic's. Trying again is
    left to the clients, whose way of it is shown here."""
    return f"""
version: 1
providers:
  upstream: {{dialect: openai, base_url: "{provider.base_url}", api_key: {_SECRET}, breaker: null}}
  chatonly: {{dialect: openai, base_url: "{provider.base_url}", api_key: {_SECRET}, surfaces: [chat], breaker: null}}
  claude: {{dialect: anthropic, base_url: "{provider.origin}", api_key: {_SECRET}, breaker: null}}
models:
  "sim/*": {{provider: upstream, price: {_PRICE}}}
  "chatonly/*": {{provider: chatonly, upstream_model: "sim/*", price: {_PRICE}}}
  "claude/*": {{provider: claude, upstream_model: "sim/*", price: {_PRICE}}}
auth: {{mode: keys}}
keys:
  - {{name: alice, key: {ALICE}, user: alice, team: red}}
routing: {{retries: null}}
{extra}"""


def served_cost(provider: ProviderServer) -> int:
    """Nano-dollars that everything in the provider's journal comes to."""
    return sum(
        served.input_uncached * IN + served.cache_read * CACHED + served.output_total * OUT
        for served in (attempt.served for attempt in provider.journal)
    )
