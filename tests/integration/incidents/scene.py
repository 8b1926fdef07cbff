"""The operator's side of an incident: the shipped policy with a few sections more, and the books afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.testing import ProviderServer
from tests.support.gateway import ALICE, BOB, Gateway, wait_until

Json = dict[str, Any]
SHIPPED = Path(__file__).parents[3] / "policies" / "default.yaml"
KEYS = f"""auth: {{mode: keys}}
keys:
  - {{name: alice, key: {ALICE}, user: alice, team: support}}
  - {{name: bob, key: {BOB}, user: bob, team: support}}
"""
GUARDED = """
tools:
  defaults: {max_calls_per_run: 100}
"""
LOOPS = "{no_progress: {nudge: 3, wrap_up: 5}, on_detect: wrap_up}"
"""What an operator adds who lets agents use tools."""
MODELS = """
  gpt-4o:          {provider: openai,    price: {input_usd_per_mtok: 2.5,  cached_input_usd_per_mtok: 1.25,  output_usd_per_mtok: 10}}
  gpt-4o-mini:     {provider: openai,    price: {input_usd_per_mtok: 0.15, cached_input_usd_per_mtok: 0.075, output_usd_per_mtok: 0.6}}
  claude-sonnet-5: {provider: anthropic, price: {input_usd_per_mtok: 3,    cached_input_usd_per_mtok: 0.3,   output_usd_per_mtok: 15}}
"""
"""Prices have to be said, because the price table knows providers by their addresses."""
RUN_LIMIT_USD = 0.50
_RATES = {
    "gpt-4o": (2_500, 1_250, 10_000),
    "gpt-4o-mini": (150, 75, 600),
    "claude-sonnet-5": (3_000, 300, 15_000),
}
"""Nano-dollars per token: input, cached input, output."""


def policy_for(provider: ProviderServer, extra: str = GUARDED, **replaced: str) -> str:
    """The shipped policy before the simulated provider, with gateway keys. A section given by name takes the
    place of the shipped one."""
    text = SHIPPED.read_text()
    for theirs, ours in (
        ("auth: {mode: open}\n", KEYS),
        ("https://api.openai.com/v1,     ", f'"{provider.base_url}",'),
        ("https://api.anthropic.com,     ", f'"{provider.origin}",'),
        ("${OPENAI_API_KEY}", "sk-upstream-secret-000000000000"),
        ("${ANTHROPIC_API_KEY}", "sk-upstream-secret-000000000000"),
    ):
        assert theirs in text, theirs
        text = text.replace(theirs, ours)
    for name, section in {"models": MODELS, "loops": LOOPS, **replaced}.items():
        before, found, rest = f"{text}\n".partition(f"\n{name}:")
        lines = rest.split("\n") if found else [""]
        end = next((i for i, line in enumerate(lines[1:], 1) if line[:1].strip()), len(lines))
        text = "\n".join([before, f"{name}: {section}", *lines[end:]])
    return f"{text}\n{extra}"


def journal_cost(provider: ProviderServer) -> int:
    """Nano-dollars that everything the provider served comes to, at the list prices."""
    provider.wait_idle_blocking()
    total = 0
    for attempt in provider.journal:
        fresh, cached, out = _RATES[attempt.model or ""]
        served = attempt.served
        total += served.input_uncached * fresh + served.cache_read * cached + served.output_total * out
    return total


def nano(usd: str) -> int:
    """A decimal string of dollars in nano-dollars."""
    whole, _, part = usd.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0"))


def runs(gateway: Gateway, count: int) -> list[Json]:
    """The runs as operators see them, oldest first, once there are so many and none has a step under way."""

    def look() -> list[Json]:
        found: list[Json] = gateway.admin("GET", "/runs?limit=200")["data"]
        settled = all(run["reserved_usd"] == "0.000000000" and run["steps"] for run in found)
        return found if len(found) == count and settled else []

    found = wait_until(look, what=f"{count} runs, settled")
    return sorted(found, key=lambda run: (run["started_at"], run["id"]))


def ended(gateway: Gateway, *, not_as: str = "running") -> Json:
    """The only run, once it has another status than this."""

    def look() -> Json:
        (run,) = runs(gateway, 1)
        return run if run["status"] != not_as else {}

    found: Json = wait_until(look, what="the run's end")
    return found


def ensure_books_agree(gateway: Gateway, provider: ProviderServer, limit_usd: float = RUN_LIMIT_USD) -> Json:
    """The only run has ended, below its limit, and cost what the provider served."""
    run = ended(gateway)
    assert nano(run["cost_usd"]) == journal_cost(provider)
    assert 0 < float(run["cost_usd"]) <= limit_usd
    assert run["reserved_usd"] == "0.000000000"
    return run
