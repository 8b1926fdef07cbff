"""Runs keep the policy that they began under, but for what has been made tighter since."""

from __future__ import annotations

import itertools

import pytest

from gateway.policy.loading import load_text
from gateway.policy.models import Policy
from gateway.policy.tightening import tightened

BASE = """
version: 1
providers:
  a: {{dialect: openai, base_url: "https://a.example.com/v1", api_key: {key}}}
models:
  m: {{provider: a, price: free}}
"""


def policy(rules: str = "", key: str = "first") -> Policy:
    return load_text(BASE.format(key=key) + rules, {})


def both(began: str, now: str) -> Policy:
    return tightened(policy(began), policy(now))


def budget(**changes: object) -> str:
    rule = {"name": "b", "per": "run", "limit_usd": 2, **changes}
    return f"budgets: [{rule}]".replace("'", "")


@pytest.mark.parametrize(
    ("began", "now", "limits"),
    [
        (budget(), budget(limit_usd=1), [1]),
        (budget(), budget(limit_usd=3), [2]),
        (budget(), "", [2]),
        ("", budget(), [2]),
        ("", budget(mode="shadow"), []),
        (budget(), budget(limit_usd=1, mode="shadow"), [2]),
        (budget(limit_usd=1, mode="shadow"), budget(), [2]),
        # A rule that counts something else is another rule.
        (budget(), budget(limit_usd=1, window="1d"), [2, 1]),
        (budget(), budget(limit_usd=1, name="c"), [2, 1]),
    ],
)
def test_of_two_budgets_the_lower_holds(began: str, now: str, limits: list[int]) -> None:
    made = both(began, now)
    assert [rule.limit_usd for rule in made.budgets] == limits
    assert made.version == policy(began).version


def test_what_happens_at_a_limit_stays_as_it_began() -> None:
    (made,) = both(budget(on_exceed="wrap_up", warn_at=0.5), budget(limit_usd=1)).budgets
    assert made.limit_usd == 1
    assert (made.on_exceed, made.warn_at) == ("wrap_up", 0.5)


def test_of_each_limit_of_runs_the_lower_holds() -> None:
    made = both(
        "runs: {max_steps: 10, max_tokens: 50}", "runs: {max_steps: 20, max_tokens: 40, max_tool_calls: 3}"
    ).runs
    assert (made.max_steps, made.max_tokens, made.max_tool_calls, made.max_wall_clock_s) == (10, 40, 3, None)
    assert both("runs: {max_steps: 9}", "runs: {max_steps: 5, mode: shadow}").runs.max_steps == 9
    enforced = both("runs: {max_steps: 9, mode: shadow}", "runs: {max_steps: 12}").runs
    assert (enforced.max_steps, enforced.mode) == (12, "enforce")


def test_rates_and_loops_get_tighter_too() -> None:
    rate = "rates: [{name: r, per: key, requests_per_minute: %d}]"
    assert both(rate % 10, rate % 4).rates[0].requests_per_minute == 4
    assert both(rate % 10, rate % 40).rates[0].requests_per_minute == 10
    loops = both(
        "loops: {same_call: 3, cycle: 2}", "loops: {same_call: 2, cycle: 5, no_progress: null}"
    ).loops
    assert loops is not None
    assert (loops.same_call, loops.cycle, loops.no_progress) == (2, 2, 3)
    only_now = both("", "loops: {same_call: 2}").loops
    assert only_now is not None
    assert only_now.same_call == 2
    ladder = both("loops: {same_call: {nudge: 2, stop: 9}}", "loops: {same_call: 2}").loops
    assert ladder is not None
    assert ladder.ladders()["same_call"] == ((2, "nudge"), (9, "stop"))


def test_a_tool_that_is_forbidden_or_held_now_is_so_for_all() -> None:
    made = both(
        "tools: {defaults: {max_calls_per_run: 20}, mail: {max_calls_per_run: 5, after: [look]}, look: {}}",
        "tools: {defaults: {max_calls_per_run: 3}, mail: {allow: false}, pay: {requires_approval: true}}",
    )
    assert not made.tool("mail").allow
    assert made.tool("mail").after == ("look",)
    # `mail` says nothing of calls any more, so the default of now speaks for it.
    assert made.tool("mail").max_calls_per_run == 3
    assert made.tool("look").max_calls_per_run == 3
    assert made.tool("anything").max_calls_per_run == 3
    assert made.tool("pay").requires_approval
    assert not both("", "").governs_tools
    assert both("tools: {mail: {max_calls_per_run: 5}}", "").tool("mail").max_calls_per_run == 5
    assert not both("", "tools: {mail: {allow: false}}").tool("mail").allow


def test_a_detector_that_acts_now_acts_on_all() -> None:
    quiet, loud = (
        "screening: {pii: {mode: shadow}}",
        "screening: {pii: {action: block}, secrets: {action: block}}",
    )
    made = both(quiet, loud).screening
    assert made.pii is not None
    assert (made.pii.mode, made.pii.action) == ("enforce", "block")
    assert made.secrets is not None
    kept = both(loud, "screening: {pii: {action: redact}}").screening
    assert kept.pii is not None
    assert kept.pii.action == "block"
    assert both(loud, quiet).screening == policy(loud).screening


def test_where_traffic_goes_is_as_it_is_now() -> None:
    made = tightened(policy("budgets: [{name: b, per: run, limit_usd: 1}]"), policy(key="second"))
    assert made.providers["a"].api_key is not None
    assert made.providers["a"].api_key.get_secret_value() == "second"
    gone = tightened(
        load_text(
            BASE.format(key="x").replace(
                "models:",
                '  b: {dialect: openai, base_url: "https://b.example.com/v1"}\nmodels:\n  n: {provider: b, price: free}',
            ),
            {},
        ),
        policy(),
    )
    assert set(gone.models) == {"m"}


def test_nothing_gets_looser() -> None:
    """Whatever two policies say, every limit of the result is at most that of either."""
    values = [None, 1, 5, 9]
    for steps, calls, now_steps, now_calls in itertools.product(values, repeat=4):
        pairs = (("max_steps", steps, now_steps), ("max_tool_calls", calls, now_calls))

        def runs(index: int, pairs: tuple[tuple[str, int | None, int | None], ...] = pairs) -> str:
            given = {name: value[index] for name, *value in pairs if value[index] is not None}
            return f"runs: {given}".replace("'", "")

        made = both(runs(0), runs(1)).runs
        for name, before, now in pairs:
            known = [value for value in (before, now) if value is not None]
            assert getattr(made, name) == min(known, default=None)
