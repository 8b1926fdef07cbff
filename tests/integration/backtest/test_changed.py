"""Other policies make a difference exactly where their numbers say so."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.commands import demo
from gateway.domain import usd
from gateway.testing import ProviderServer
from tests.integration.backtest.scene import changes, play, policy_of, recorded, try_out
from tests.support.gateway import ALICE, BOB, ThreadedGateway, base_policy, threaded_gateway

STRICT = Path(__file__).parents[3] / "policies" / "strict.yaml"
KEPT = "recording: {content: true}\n"
LOOPS = (
    "loops: {same_call: 6, near_duplicate: 30, cycle: 30, no_progress: 30, consecutive_tool_errors: 30, "
    "repeated_text: 30, context_growth: 30, on_detect: stop}\n"
)


@pytest.fixture
def gateway(provider: ProviderServer, tmp_path: Path) -> Iterator[ThreadedGateway]:
    with threaded_gateway(base_policy(provider.base_url, KEPT), tmp_path) as running:
        yield running


@pytest.fixture
def bare(provider: ProviderServer, tmp_path: Path) -> Iterator[ThreadedGateway]:
    """The same, and nothing of what steps hold is kept."""
    with threaded_gateway(base_policy(provider.base_url), tmp_path) as running:
        yield running


def costs(gateway: ThreadedGateway) -> list[int]:
    """What each attempt cost, in order."""
    return [attempt["cost"] for attempt in gateway.attempts()]


# -- the demo ------------------------------------------------------------------------------------------


def test_strict_over_the_demo_names_exactly_the_steps_that_differ(
    provider: ProviderServer, tmp_path: Path
) -> None:
    demo._scripts(provider, 0.0)
    policy = demo.POLICY.format(
        provider=provider.base_url,
        input=demo.INPUT_USD,
        output=demo.OUTPUT_USD,
        support_key=ALICE,
        writer_key=BOB,
        limit=demo.LIMIT_USD,
    )
    with threaded_gateway(policy, tmp_path) as gateway:
        with demo.running_agent("support", gateway.base_url, ALICE) as agent:
            list(agent.log(time.monotonic() + 30))
        steps = recorded(gateway)
        result = try_out(gateway, STRICT.read_text())
        same = try_out(gateway, policy_of(gateway))
    # Step n shows n - 1 searches for one word, each in vain. Strict nudges at the second, lands at the fourth,
    # and whoever goes on is refused; the last step on record was refused by the demo's own budget.
    assert [step.was.verdict for step in steps] == ["allow"] * (len(steps) - 1) + ["refuse"]
    expected = {3: "flag", 4: "flag", 5: "wrap_up", **{n: "refuse" for n in range(6, len(steps))}}
    assert {each["step"]: each["now"] for each in result["changed"]} == expected
    assert {each["rule"] for each in result["changed"]} == {"loops.same_call"}
    assert {each["was"] for each in result["changed"]} == {"allow"}
    assert result["refused"] == len(steps) - 6
    assert result["unknown"] == 0
    assert result["runs"] == 1
    assert result["steps"] == len(steps)
    assert result["saved_usd"] == usd(sum(step.cost for step in steps[5:]))
    assert (same["changed"], same["saved_usd"]) == ([], "0.000000000")


# -- one rule at a time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["content", "facts"])
def test_a_tighter_budget_refuses_at_the_step_that_does_not_fit(
    kept: bool, provider: ProviderServer, tmp_path: Path
) -> None:
    limits = "budgets: [{name: run, per: run, limit_usd: 1}]\n"
    with threaded_gateway(base_policy(provider.base_url, limits + KEPT * kept), tmp_path) as gateway:
        play(gateway, model="sim/looker", limit=16, steps=8)
        spent = costs(gateway)
        # A step fits while what was spent, its input and 16 tokens of output are within the limit.
        needs = [
            sum(spent[:n]) + attempt["usage"]["input_uncached"] * 2500 + 16 * 10_000
            for n, attempt in enumerate(gateway.attempts())
        ]
        fifth, sixth, seventh = needs[4:7]

        def limited(nano: int) -> str:
            return policy_of(gateway).replace("limit_usd: 1}", f"limit_usd: {Decimal(nano) / 10**9}}}")

        result = try_out(gateway, limited((fifth + sixth) // 2))
        fits = try_out(gateway, limited((sixth + seventh) // 2))
    assert changes(result) == [(n, "run", "allow", "refuse") for n in (6, 7, 8)]
    assert {each["code"] for each in result["changed"]} == {"run_budget_exceeded"}
    assert result["saved_usd"] == usd(sum(spent[5:]))
    assert changes(fits)[0][0] == 7


@pytest.mark.parametrize("kept", [True, False], ids=["content", "facts"])
def test_a_tighter_loop_rule_stops_earlier(kept: bool, provider: ProviderServer, tmp_path: Path) -> None:
    extra = LOOPS + KEPT * kept
    with threaded_gateway(base_policy(provider.base_url, extra), tmp_path) as gateway:
        play(gateway, model="sim/looker", steps=8, after_end=0)
        spent = costs(gateway)
        result = try_out(gateway, policy_of(gateway).replace("same_call: 6", "same_call: 4"))
        looser = try_out(gateway, policy_of(gateway).replace("same_call: 6", "same_call: 7"))
    # Step n shows n - 1 equal calls. The seventh was refused, and is refused all the same.
    assert changes(result) == [(n, "loops.same_call", "allow", "refuse") for n in (5, 6)]
    assert result["saved_usd"] == usd(sum(spent[4:]))
    assert changes(looser) == [(7, "loops.same_call", "refuse", "allow")]
    assert looser["saved_usd"] == "0.000000000"


@pytest.mark.parametrize("name", ["gateway", "bare"])
def test_a_forbidden_tool_is_withheld(name: str, request: pytest.FixtureRequest) -> None:
    gateway = request.getfixturevalue(name)
    play(gateway, model="sim/looker", steps=2)
    play(gateway, model="sim/looker", tools=("other",), steps=1)
    policy = policy_of(gateway) + "tools: {search: {allow: false}}\n"
    result = try_out(gateway, policy)
    assert changes(result) == [(n, "tools.search", "allow", "flag") for n in (1, 2)]


def test_a_rerouted_step_costs_what_the_other_model_costs(provider: ProviderServer, tmp_path: Path) -> None:
    cheap = (
        "  cheap: {provider: upstream, upstream_model: sim/looker,\n"
        "          price: {input_usd_per_mtok: 0.25, output_usd_per_mtok: 1}}\nauth:"
    )
    with threaded_gateway(
        base_policy(provider.base_url, KEPT).replace("auth:", cheap, 1), tmp_path
    ) as gateway:
        play(gateway, model="sim/looker", steps=3)
        attempts = gateway.attempts()
        rule = "routing: {rules: [{name: down, when: {model: sim/looker}, use: cheap, final_answers: deliver}]}\n"
        result = try_out(gateway, policy_of(gateway) + rule)
    dear = [a["usage"]["input_uncached"] * 2500 + a["usage"]["output_text"] * 10_000 for a in attempts]
    assert [a["cost"] for a in attempts] == dear
    assert changes(result) == [(n, "routing.down", "allow", "reroute") for n in (1, 2, 3)]
    assert {each["model"] for each in result["changed"]} == {"cheap"}
    assert result["saved_usd"] == usd(sum(dear) - sum(cost // 10 for cost in dear))


def test_personal_data_is_redacted_where_it_is_known_to_be(gateway: ThreadedGateway) -> None:
    play(gateway, model="sim/looker", tools=(), user="Write to jane.doe@example.org.", steps=1)
    play(gateway, model="sim/looker", tools=(), user="Write to nobody.", steps=1)
    play(gateway, model="sim/writer", tools=(), user="Who is it?", steps=1)
    result = try_out(gateway, policy_of(gateway) + "screening: {pii: {action: redact}}\n")
    assert [(rule, was, now) for _, rule, was, now in changes(result)] == [
        ("screening.pii", "allow", "redact")
    ] * 2
    assert (result["redacted"], result["unknown"]) == (2, 0)


def test_personal_data_is_unknown_where_nothing_was_kept(bare: ThreadedGateway) -> None:
    play(bare, model="sim/looker", tools=(), user="Write to jane.doe@example.org.", steps=1)
    play(bare, model="sim/looker", tools=(), user="Write to nobody.", steps=1)
    policy = policy_of(bare) + "screening: {pii: {action: redact}}\n"
    result = try_out(bare, policy)
    assert [(rule, was, now) for _, rule, was, now in changes(result)] == [
        ("screening.pii", "allow", "unknown")
    ] * 2
    assert (result["redacted"], result["unknown"]) == (0, 2)
    shadow = try_out(bare, policy.replace("action: redact", "mode: shadow, action: redact"))
    assert shadow["changed"] == []


def test_a_rule_for_one_key_concerns_its_runs_alone(gateway: ThreadedGateway) -> None:
    play(gateway, model="sim/looker", steps=2, key=ALICE)
    play(gateway, model="sim/looker", steps=2, key=BOB)
    rule = "budgets: [{name: tight, per: run, limit_usd: 0.000001, match: {key: bob}}]\n"
    result = try_out(gateway, policy_of(gateway) + rule)
    bobs = {step.run["id"] for step in recorded(gateway) if step.who["key"] == "bob"}
    assert changes(result) == [(n, "tight", "allow", "refuse") for n in (1, 2)]
    assert {each["run"] for each in result["changed"]} == bobs
    rule = "rates: [{name: slow, per: user, requests_per_minute: 1, match: {user: alice}}]\n"
    result = try_out(gateway, policy_of(gateway) + rule)
    assert changes(result) == [(2, "slow", "allow", "refuse")]


def test_what_a_key_may_reach_is_part_of_the_policy(gateway: ThreadedGateway) -> None:
    play(gateway, model="sim/looker", steps=1)
    policy = policy_of(gateway).replace("team: red}", "team: red, models: [gpt-4o]}")
    assert changes(try_out(gateway, policy)) == [(1, "models", "allow", "refuse")]
    without = policy_of(gateway).replace('"sim/*"', '"mis/*"')
    result = try_out(gateway, without)
    assert [(each["now"], each["code"]) for each in result["changed"]] == [("refuse", "unknown_model")]


# -- time ------------------------------------------------------------------------------------------------


def moved(gateway: ThreadedGateway, run: str, to: int) -> None:
    """Let a run on record have begun at another time."""
    with contextlib.closing(sqlite3.connect(gateway.data_dir / "ledger.db")) as db, db:
        (began,) = db.execute("SELECT min(at) FROM gw_steps WHERE run = ?", (run,)).fetchone()
        by = to - began
        db.execute("UPDATE gw_steps SET at = at + ?, ended_at = ended_at + ? WHERE run = ?", (by, by, run))
        db.execute(
            "UPDATE gw_runs SET started_at = started_at + ?, last_step_at = last_step_at + ? WHERE id = ?",
            (by, by, run),
        )


@pytest.mark.parametrize("name", ["gateway", "bare"])
def test_a_day_s_budget_is_fresh_at_midnight(name: str, request: pytest.FixtureRequest) -> None:
    gateway = request.getfixturevalue(name)
    for _ in range(2):
        play(gateway, model="sim/looker", steps=3, limit=16)
    first, second = (run for run in dict.fromkeys(step.run["id"] for step in recorded(gateway)))
    midnight = int(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)
    # Room for one run and a half.
    spent = sum(costs(gateway))
    rule = f"budgets: [{{name: day, per: user, window: 1d, limit_usd: {Decimal(spent * 3 // 4) / 10**9}}}]\n"
    policy = policy_of(gateway) + rule
    moved(gateway, first, midnight - 60_000)
    moved(gateway, second, midnight + 60_000)
    assert try_out(gateway, policy)["changed"] == []
    moved(gateway, second, midnight - 30_000)
    result = try_out(gateway, policy)
    assert {(each["run"], each["now"]) for each in result["changed"]} == {(second, "refuse")}
    # What another run has spent counts, though it is not played itself.
    only = try_out(gateway, policy, run=second)
    assert [each["step"] for each in only["changed"]] == [each["step"] for each in result["changed"]]


def test_the_order_of_parallel_runs_is_that_on_record(bare: ThreadedGateway) -> None:
    for _ in range(3):
        play(bare, model="sim/looker", steps=1)
    runs = [step.run["id"] for step in sorted(recorded(bare), key=lambda step: step.at)]
    began = 1_700_000_000_000
    for n, run in enumerate(runs):
        moved(bare, run, began + n)
    with contextlib.closing(sqlite3.connect(bare.data_dir / "ledger.db")) as db, db:
        db.execute("UPDATE gw_steps SET ended_at = ?", (began + 5_000,))
    rule = "rates: [{name: at-once, per: key, max_concurrency: 2}]\n"
    result = try_out(bare, policy_of(bare) + rule)
    assert [(each["run"], each["code"]) for each in result["changed"]] == [
        (runs[2], "concurrency_limit_exceeded")
    ]


# -- what cannot be replayed ------------------------------------------------------------------------------


def test_what_an_operator_has_stopped_is_not_replayed(gateway: ThreadedGateway) -> None:
    play(gateway, model="sim/looker", steps=1, x_guardrail_run_id="stopped")
    run = recorded(gateway)[0].run["id"]
    gateway.admin("POST", "/kills", {"scope": "run", "id": run, "reason": "enough"})
    play(gateway, model="sim/looker", steps=1, x_guardrail_run_id="stopped")
    result = try_out(gateway, policy_of(gateway))
    assert (result["changed"], result["not_replayed"]) == ([], 1)


def test_approvals_are_for_people_to_decide(gateway: ThreadedGateway) -> None:
    play(gateway, model="sim/looker", steps=1)
    result = try_out(gateway, policy_of(gateway) + "tools: {search: {requires_approval: true}}\n")
    assert changes(result) == [(1, "tools.search.requires_approval", "allow", "unknown")]


def test_a_lost_key_makes_content_unknown(gateway: ThreadedGateway) -> None:
    play(gateway, model="sim/looker", tools=(), user="Write to jane.doe@example.org.", steps=1)
    policy = policy_of(gateway) + "screening: {pii: {action: redact}}\n"
    lost = try_out(gateway, policy, secret="another-secret-key-0123456789")
    rotated = try_out(gateway, policy, secret="another-secret-key-0123456789,test-secret-key-0123456789")
    assert changes(lost) == [(1, "screening.pii", "allow", "unknown")]
    assert changes(rotated) == [(1, "screening.pii", "allow", "redact")]


def test_the_live_gateway_is_left_alone(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    play(gateway, model="sim/looker", steps=3)
    policy = policy_of(gateway) + "budgets: [{name: run, per: run, limit_usd: 0.0001}]\n"
    try_out(gateway, policy)

    def rows() -> dict[str, Any]:
        with contextlib.closing(sqlite3.connect(gateway.data_dir / "ledger.db")) as db:
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in tables}

    before, asked = rows(), provider.journal.received
    try_out(gateway, policy)
    after = rows()
    volatile = {"gw_claims", "gw_revision"}
    assert {name for name in before if before[name] != after[name]} <= volatile
    assert provider.journal.received == asked
