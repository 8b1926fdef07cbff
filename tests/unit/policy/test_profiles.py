"""Other rules for some keys."""

from __future__ import annotations

import pytest

from gateway.policy.loading import load_text
from gateway.policy.messages import PolicyError
from gateway.policy.models import Policy
from gateway.policy.tightening import tightened

BASE = """version: 1
providers:
  a: {dialect: openai, base_url: "https://a.example.com/v1"}
models:
  m: {provider: a, price: free}
budgets:
  - {name: run, per: run, limit_usd: 1}
loops: {same_call: 3}
tools: {mail: {allow: false}}
"""


def policy(profiles: str) -> Policy:
    return load_text(BASE + "profiles:\n" + profiles, {})


def under(profiles: str, name: str = "p") -> Policy:
    made = policy(profiles)
    return made.under(made.profiles[name])


def mistakes(profiles: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        policy(profiles)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_a_profile_replaces_the_sections_that_it_gives() -> None:
    made = under(
        "  p: {keys: bot, runs: {max_steps: 5}, loops: null, tools: {pay: {max_calls_per_run: 1}}}\n"
    )
    assert made.runs.max_steps == 5
    assert made.loops is None
    assert made.tool("mail").allow
    assert made.tool("pay").max_calls_per_run == 1
    assert [budget.name for budget in made.budgets] == ["run"]
    whole = policy("  p: {keys: bot}\n")
    assert made.version != whole.version
    assert whole.under(whole.profiles["p"]).version == whole.version
    assert not whole.under(whole.profiles["p"]).tool("mail").allow


def test_mistakes_in_a_profile_are_told_where_they_stand() -> None:
    (misspelt,) = mistakes("  p: {keys: bot, runs: {max_step: 5}}\n")
    assert misspelt.startswith("policy:11: profiles.p.runs.max_step: got an unknown key")
    (unknown,) = mistakes("  p: {keys: bot, routing: {rules: [{name: r, when: {model: m}, use: n}]}}\n")
    assert unknown.startswith("policy:11: profiles.p.routing.rules[0].use: got ")
    twice = mistakes("  p: {keys: [bot, ann]}\n  q:\n    keys: [cat, bot]\n")
    assert twice == ['policy:13: profiles.q.keys[1]: got "bot", expected a key without a profile: it has p']
    (same,) = mistakes(
        "  p: {keys: bot, budgets: [{name: b, per: run, limit_usd: 1}, {name: b, per: run, limit_usd: 2}]}\n"
    )
    assert same.startswith("policy:11: profiles.p.budgets[1].name: got")


def test_a_profile_of_before_gets_tighter_too() -> None:
    began = policy("  p: {keys: bot, runs: {max_steps: 9}, budgets: [{name: run, per: run, limit_usd: 5}]}\n")
    now = policy("  p: {keys: bot, runs: {max_steps: 4}, budgets: [{name: run, per: run, limit_usd: 7}]}\n")
    made = tightened(began, now)
    bots = made.under(made.profiles["p"])
    assert bots.runs.max_steps == 4
    assert bots.budgets[0].limit_usd == 5
    assert made.budgets[0].limit_usd == 1
    gone = tightened(began, load_text(BASE, {}))
    assert gone.under(gone.profiles["p"]).budgets[0].limit_usd == 1
