"""Which rule takes a step, what it decides, and what that costs once prompt caches are reckoned with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import orjson
import pytest

from gateway.domain import Json, Nano, Step, Surface, Usage
from gateway.metering.prices import FREE, Rates
from gateway.policy.models import Policy
from gateway.policy.sections.providers import Model, Provider
from gateway.policy.sections.routing import RoutingRule
from gateway.rules.budgets import Scopes
from gateway.rules.capability import Candidate
from gateway.rules.route import Route
from gateway.rules.routing import STRETCH, Choice, Known, Served, choose, costs, destination, position
from gateway.rules.steps import classify
from gateway.surfaces import CODECS

NOW = 1_795_000_000_000
PROVIDER = Provider.model_validate(
    {"dialect": "openai", "base_url": "http://house:8000/v1", "api_key": "none"}
)
STRONG = {"input": "2.50", "cached": "1.25", "output": "10"}
MINI = {"input": "0.15", "cached": "0.075", "output": "0.60"}
MODELS = {"strong": STRONG, "mini": MINI, "dear": {"input": "15", "output": "75"}, "same": STRONG}
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]


def rates(price: Mapping[str, str]) -> Rates:
    return Rates.from_policy(
        input_usd_per_mtok=Decimal(price["input"]),
        output_usd_per_mtok=Decimal(price["output"]),
        cached_input_usd_per_mtok=Decimal(price["cached"]) if "cached" in price else None,
        cache_write_usd_per_mtok=Decimal(price["write"]) if "write" in price else None,
    )


def candidate(
    name: str, price: Rates | None = None, speaks: Surface = Surface.CHAT, **model: object
) -> Candidate:
    route = Route(name, "house", PROVIDER, name, price or rates(MODELS[name]), True, None, name)
    return Candidate(name, Model.model_validate({"provider": "house", **model}), route, speaks)


def resolve(name: str) -> Candidate | str:
    if name == "secret":
        return "key 'alice' may not use it"
    return candidate(name, lacks=["tools"] if name == "same" else [])


def history(turns: int, size: int = 400) -> Step:
    """An agent that has made so many calls; each result has `size` characters."""
    messages: list[Json] = [
        {"role": "system", "content": "You find things. " * 20},
        {"role": "user", "content": "Find out."},
    ]
    for i in range(turns):
        call = {
            "id": f"c{i}",
            "type": "function",
            "function": {"name": "search", "arguments": f'{{"q":{i}}}'},
        }
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{i}", "content": "x" * size})
    body = {"model": "strong", "messages": messages, "tools": TOOLS}
    return CODECS[Surface.CHAT].parse(orjson.dumps(body))


def known(step: Step | None = None, **more: object) -> Known:
    step = step or history(2)
    scopes = Scopes(
        principal="p", run="run_1", session="s", session_named=False, user="u", key="alice", team=None,
        model="strong", agent="a", surface=Surface.CHAT, tags={"env": "prod"},
    )  # fmt: skip
    state = Known(
        step=step,
        classified=classify(step, ordinal=3, is_retry=False),
        scopes=scopes,
        asked=candidate("strong"),
        run_id="run_1",
        ordinal=3,
        now=NOW,
    )
    return replace(state, **more)  # type: ignore[arg-type]


def rule(**more: object) -> RoutingRule:
    given = {"name": "cheap", "when": {"step": ["tool_selection"]}, "use": "mini", **more}
    return RoutingRule.model_validate(given)


def one(rule: RoutingRule, state: Known | None = None) -> Choice:
    choice = choose([rule], state or known(), resolve)
    assert choice is not None
    return choice


# -- which rule ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "state", "matches"),
    [
        ({}, {}, True),
        ({"when": {}}, {}, True),
        ({"when": {"step": "planning"}}, {}, False),
        ({"when": {"step": ["planning", "tool_selection"]}}, {}, True),
        ({"when": {"model": "strong"}}, {}, True),
        ({"when": {"model": "str*"}}, {}, True),
        ({"when": {"model": "mini"}}, {}, False),
        ({"when": {"tools": {"min": 1, "max": 1}}}, {}, True),
        ({"when": {"tools": {"max": 0}}}, {}, False),
        ({"when": {"tokens": {"min": 100_000}}}, {}, False),
        ({"when": {"tokens": {"max": 100_000}}}, {}, True),
        ({"when": {"tag": "env=prod"}}, {}, True),
        ({"when": {"tag": ["env=dev", "env=test"]}}, {}, False),
        ({"when": {"budget_used": 0.5}}, {}, False),
        ({"when": {"budget_used": 0.5}}, {"run_limit": 1000, "run_cost": 499}, False),
        ({"when": {"budget_used": 0.5}}, {"run_limit": 1000, "run_cost": 500}, True),
        ({"match": {"key": "alice"}}, {}, True),
        ({"match": {"key": "bob"}}, {}, False),
        ({"mode": "off"}, {}, False),
    ],
)
def test_a_rule_takes_a_step_when_every_key_matches(more: Json, state: Json, matches: bool) -> None:
    assert (choose([rule(**more)], known(**state), resolve) is not None) is matches


def test_the_first_rule_that_matches_decides_even_when_it_keeps() -> None:
    rules = [rule(name="a", when={"step": "planning"}), rule(name="b", use="dear"), rule(name="c")]
    choice = choose(rules, known(), resolve)
    assert choice is not None
    assert (choice.rule.name, choice.target, choice.decision["decision"]) == ("b", None, "keep")


# -- what it decides ----------------------------------------------------------------------------------


def test_a_step_is_rerouted_with_both_costs_on_record() -> None:
    state = known(output_tokens=100)
    tokens = state.classified.tokens
    choice = one(rule(), state)
    strong = Usage(input_uncached=tokens, output_text=100)
    expected, cheap = rates(STRONG).cost(strong), rates(MINI).cost(strong)
    # What is new in this step the model asked for has to read in full when the run comes back.
    back = -(-tokens * 1_250_000_000 // 1_000_000)
    assert choice.decision == {
        "rule": "routing.cheap",
        "mode": "enforce",
        "decision": "reroute",
        "step": "tool_selection",
        "why": "tools are offered after results",
        "from": "strong",
        "to": "mini",
        "expected_usd": f"0.{expected:09}",
        "instead_usd": f"0.{cheap + back:09}",
    }
    assert choice.target is not None
    assert (choice.target.name, choice.acts, choice.guarded) == ("mini", True, True)
    assert choice.saved == expected - cheap - back


def test_shadow_decides_and_does_not_act() -> None:
    choice = one(rule(mode="shadow"))
    assert choice.target is not None
    assert (choice.acts, choice.guarded, choice.decision["mode"]) == (False, False, "shadow")
    assert choice.decision["decision"] == "reroute"


def test_answers_are_delivered_unchecked_where_the_rule_says_so() -> None:
    assert one(rule(on_bad_answer="deliver")).guarded is False


@pytest.mark.parametrize(
    ("use", "why"),
    [
        ("strong", "it is the model asked for"),
        ("secret", "key 'alice' may not use it"),
        ("same", "the policy says that it lacks tools"),
        ("dear", "it would not be cheaper"),
    ],
)
def test_a_step_is_kept_with_the_reason(use: str, why: str) -> None:
    choice = one(rule(use=use))
    assert choice.target is None
    assert (choice.acts, choice.guarded, choice.saved) == (False, False, 0)
    assert (choice.decision["decision"], choice.decision["why"], choice.decision["to"]) == ("keep", why, use)
    assert ("expected_usd" in choice.decision) is (use == "dear")


# -- shares -------------------------------------------------------------------------------------------


def test_shares_are_disjoint_even_and_stay_with_the_run() -> None:
    shared = rule(hold_out=0.1, split={"a": 0.2, "b": 0.3})
    runs = [f"run_{i}" for i in range(20_000)]
    went = {run: destination(shared, run) for run in runs}
    counts = Counter(went.values())
    expected = {None: 0.1, "a": 0.2, "b": 0.3, "mini": 0.4}
    assert counts.keys() == expected.keys()
    assert all(abs(counts[name] / len(runs) - share) < 0.01 for name, share in expected.items())
    assert went == {run: destination(shared, run) for run in runs}
    # A larger share keeps the runs that it had.
    wider = rule(hold_out=0.15, split={"a": 0.2, "b": 0.3})
    assert {r for r, m in went.items() if m is None} <= {r for r in runs if destination(wider, r) is None}


def test_rules_share_runs_out_independently() -> None:
    runs = [f"run_{i}" for i in range(20_000)]
    both = sum(position(r, "a") < 0.5 and position(r, "b") < 0.5 for r in runs)
    assert 0.24 < both / len(runs) < 0.26
    assert 0 <= min(position(r, "a") for r in runs) < max(position(r, "a") for r in runs) < 1
    assert position("\ud800", "a") == position("\ud800", "a")


@pytest.mark.parametrize(("hold_out", "split"), [(1.0, {}), (None, {"mini": 1.0})])
def test_whole_shares(hold_out: float | None, split: Json) -> None:
    shared = rule(hold_out=hold_out, split=split)
    expected = {None} if hold_out else {"mini"}
    assert {destination(shared, f"run_{i}") for i in range(500)} == expected


def test_a_run_that_is_held_out_is_kept_and_told_so() -> None:
    choice = one(rule(hold_out=1.0))
    assert choice.decision["held_out"] is True
    assert (choice.decision["decision"], choice.target, choice.acts) == ("keep", None, False)


def test_a_comparison_takes_place_even_where_it_is_dearer() -> None:
    choice = one(rule(split={"dear": 1.0}))
    assert choice.target is not None
    assert (choice.target.name, choice.acts, choice.saved) == ("dear", True, 0)


# -- costs --------------------------------------------------------------------------------------------


def test_a_large_warm_prefix_keeps_a_step_where_it_is() -> None:
    """Cached input of the strong model is cheaper than uncached input of the other."""
    asked = candidate("strong", rates({"input": "1.25", "cached": "0.125", "output": "2"}))
    target = candidate("mini", rates({"input": "1.00", "cached": "1.00", "output": "2"}))
    state = known(
        history(20, 4_000),
        asked=asked,
        last_model="strong",
        served={"strong": Served(NOW - 5_000, 1_000_000)},
        output_tokens=50,
    )
    choice = choose([rule()], state, lambda _: target)
    assert choice is not None
    assert choice.decision["why"] == "it would not be cheaper"
    cold = replace(state, served={"strong": Served(NOW - 300_000, 1_000_000)})
    assert costs(cold, target)[0] > costs(state, target)[0]


def test_a_cached_prefix_counts_for_either_model_and_ages() -> None:
    state = known(history(4, 2_000), output_tokens=10)
    mini = candidate("mini")
    cached = {"strong": Served(NOW - 1_000, 1_500), "mini": Served(NOW - 1_000, 1_500)}
    nothing = costs(state, mini)
    both = costs(replace(state, served=cached, last_model="mini"), mini)
    assert nothing[0] - both[0] == 1_500 * 1_250
    assert both[1] < nothing[1]
    late = {name: Served(NOW - 300_000, s.cached_tokens) for name, s in cached.items()}
    assert costs(replace(state, served=late, last_model="mini"), mini) == nothing


def test_no_more_is_cached_than_was_sent_before() -> None:
    state = known(history(1, 8_000), served={"strong": Served(NOW, 1_000_000)}, output_tokens=1)
    before = state.classified.previous_tokens
    assert 0 < before < 400
    assert costs(replace(state, served={}), candidate("mini"))[0] - costs(state, candidate("mini"))[0] == (
        before * 1_250
    )


def test_a_title_shares_no_prefix_with_its_run() -> None:
    title = known(history(3, 2_000), served={"strong": Served(NOW, 1_000)}, output_tokens=1)
    title = replace(title, classified=replace(title.classified, kind="title"))
    assert costs(title, candidate("mini")) == costs(replace(title, served={}), candidate("mini"))


def test_cache_writes_are_priced_where_the_request_marks_its_cache() -> None:
    price = {"input": "4", "cached": "0.40", "write": "5", "output": "20"}
    body = {
        "model": "strong",
        "max_tokens": 100,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Find it " * 500}]},
        ],
        "tools": [{"name": "search", "input_schema": {}}],
    }
    plain = CODECS[Surface.MESSAGES].parse(orjson.dumps(body))
    body["system"] = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    marked = CODECS[Surface.MESSAGES].parse(orjson.dumps(body))
    asked = candidate("strong", rates(price), Surface.MESSAGES)
    target = candidate("mini", rates(MINI), Surface.MESSAGES)
    for step, per_token in ((plain, 4_000), (marked, 5_000)):
        state = known(step, asked=asked, output_tokens=0)
        assert costs(state, target)[0] == state.classified.tokens * per_token


def test_models_without_a_price_save_nothing() -> None:
    state = known(asked=candidate("strong", FREE))
    choice = choose([rule()], state, lambda _: candidate("mini", FREE))
    assert choice is not None
    assert (choice.decision["decision"], choice.decision["expected_usd"]) == ("keep", "0.000000000")


@pytest.mark.parametrize("pace_ms", [2_000, 20_000, 120_000])
@pytest.mark.parametrize("size", [400, 4_000, 40_000])
@pytest.mark.parametrize(
    ("strong", "mini"),
    [
        (STRONG, MINI),
        (
            {"input": "1.25", "cached": "0.125", "output": "10"},
            {"input": "0.25", "cached": "0.025", "output": "2"},
        ),
        (
            {"input": "5", "cached": "0.50", "output": "25"},
            {"input": "3", "cached": "0.30", "output": "15"},
        ),
        (
            {"input": "2", "cached": "0.10", "output": "8"},
            {"input": "1.50", "cached": "1.50", "output": "8"},
        ),
    ],
)
def test_an_agent_of_eight_steps_never_costs_more_than_without_the_rule(
    strong: Json, mini: Json, size: int, pace_ms: int
) -> None:
    """Steps 1 and 8 stay; what the steps between cost is billed with caches as providers keep them."""
    asked, target = candidate("strong", rates(strong)), candidate("mini", rates(mini))
    plain, routed = (
        _bill(asked, target, size, pace_ms, route=False),
        _bill(asked, target, size, pace_ms, route=True),
    )
    assert routed <= plain * 102 // 100


def test_an_agent_of_eight_steps_costs_half_with_a_small_model_in_between() -> None:
    asked, target = candidate("strong"), candidate("mini")
    assert _bill(asked, target, 4_000, 5_000, route=True) * 2 < _bill(
        asked, target, 4_000, 5_000, route=False
    )


def _bill(asked: Candidate, target: Candidate, size: int, pace_ms: int, *, route: bool) -> Nano:
    served: dict[str, Served] = {}
    last: str | None = None
    total = 0
    for i in range(8):
        now = NOW + i * pace_ms
        state = known(
            history(i, size),
            asked=asked,
            now=now,
            served=served,
            last_model=last,
            output_tokens=300,
            ordinal=i + 1,
        )
        choice = None if i in (0, 7) or not route else choose([rule(when={})], state, lambda _: target)
        model = choice.target if choice is not None and choice.target is not None else asked
        tokens = state.classified.tokens
        before = served.get(model.name)
        warm = before is not None and now - before.at < 300_000
        cached = min(before.cached_tokens, tokens) if before is not None and warm else 0
        total += model.route.rates.cost(
            Usage(input_uncached=tokens - cached, cache_read=cached, output_text=300)
        )
        served = {**served, model.name: Served(now, tokens)}
        last = model.name
    return total


def test_the_policy_s_own_rules_are_what_is_chosen_by() -> None:
    policy = Policy.model_validate(
        {
            "version": 1,
            "providers": {"house": {"dialect": "openai", "base_url": "http://house/v1", "api_key": "none"}},
            "models": {
                "strong": {"provider": "house", "price": "free"},
                "mini": {"provider": "house", "price": "free"},
            },
            "auth": {"mode": "open"},
            "routing": {"rules": [{"name": "cheap", "when": {"step": "tool_selection"}, "use": "mini"}]},
        }
    )
    assert STRETCH > 1
    choice = choose(policy.routing.rules, known(), resolve)
    assert choice is not None
    assert choice.acts
