"""An agent's context grew with every step, and each step paid for all of it again. It is stopped while most of
its budget is still there."""

from __future__ import annotations

import random

import openai
import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.incidents.agents import KINDS, ChatAgent, every_way, two_ways
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import (
    RUN_LIMIT_USD,
    ensure_books_agree,
    journal_cost,
    nano,
    runs,
)

TASK = "Summarise the handbook."
ANSWER = "The handbook speaks of printers; I have not read all of it."
PAGE_BYTES = 20_000
WORDS = [
    "printer",
    "paper",
    "tray",
    "toner",
    "queue",
    "driver",
    "page",
    "network",
    "cable",
    "office",
    "floor",
]


def handbook(seed: int) -> str:
    made = random.Random(seed)
    lines: list[str] = []
    while sum(map(len, lines)) < PAGE_BYTES:
        lines.append(" ".join(made.choice(WORDS) for _ in range(12)) + f" {made.randrange(10**6)}.\n")
    return "".join(lines)


PAGE = handbook(1)


def almost_the_same(page: str) -> str:
    """The same page whatever is asked for, but for its head and foot, and an advertisement."""
    shown = random.Random(int(page))
    lines = PAGE.splitlines()
    lines[shown.randrange(len(lines))] = f"Advertisement {shown.randrange(10**9)}"
    return "\n".join([f"Page {page}, printed 2026-11-21 03:{shown.randrange(60):02}", *lines, f"- {page} -"])


def reads_on(ask: Ask) -> Reply:
    """Asks for page after page as long as it can."""
    if not ask.tools:
        return Reply(ANSWER)
    read = sum(turn.role == "tool" for turn in ask.turns)
    return Reply(tool_calls=[("read_page", {"page": str(read + 1)})])


def put(provider: ProviderServer) -> None:
    provider.script("reader", reads_on, models=["gpt-4o", "claude-sonnet-5"])


@every_way
def test_pages_that_bring_nothing_new_end_the_run_early(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    put(provider)
    gateway = start()
    agent = KINDS[kind](url=gateway.url, tools={"read_page": almost_the_same}, stream=stream)
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) <= 7
    run = ensure_books_agree(gateway, provider, RUN_LIMIT_USD)
    assert (run["status"], run["status_reason"]) == ("stopped_loop", "loop_detected")


@every_way
def test_context_growth_alone_ends_the_run(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    put(provider)
    rules = "{no_progress: null, near_duplicate: null, same_call: null, cycle: null, context_growth: 4, on_detect: wrap_up}"
    gateway = start(loops=rules)
    agent = KINDS[kind](url=gateway.url, tools={"read_page": almost_the_same}, stream=stream)
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) <= 6
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["status_reason"]) == ("stopped_loop", "loop_detected")


@two_ways
def test_the_budget_holds_where_no_rule_looks(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    put(provider)
    gateway = start(loops="null", runs="{max_steps: 200, on_exceed: wrap_up}")
    agent = KINDS[kind](url=gateway.url, tools={"read_page": almost_the_same}, stream=stream)
    assert agent.run(TASK) == ANSWER
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["status_reason"]) == ("stopped_budget", "run_budget_exceeded")
    assert float(run["cost_usd"]) > RUN_LIMIT_USD / 2


def test_a_run_that_spends_too_fast_is_slowed_down(start: Start, provider: ProviderServer) -> None:
    put(provider)
    gateway = start(
        loops="null",
        rates="[{name: burn, per: run, usd_per_minute: 0.30}]",
        runs="{max_steps: 200, on_exceed: wrap_up}",
    )
    agent = ChatAgent(url=gateway.url, tools={"read_page": almost_the_same})
    agent.sdk = agent.sdk.with_options(max_retries=0)
    with pytest.raises(openai.APIStatusError) as caught:
        agent.run(TASK)
    assert caught.value.code == "rate_limit_exceeded"
    assert "burn" in str(caught.value)
    (run,) = runs(gateway, 1)
    assert nano(run["cost_usd"]) == journal_cost(provider)
    assert 0.03 < float(run["cost_usd"]) <= 0.30
    # A rate ends nothing: the run may go on in a minute.
    assert run["status"] == "running"


def test_pages_that_are_new_are_read(start: Start, provider: ProviderServer) -> None:
    """Reading ten different pages is work, however long the context becomes."""

    def play(ask: Ask) -> Reply:
        read = sum(turn.role == "tool" for turn in ask.turns)
        if read == 10:
            return Reply("It is a handbook.")
        return Reply(tool_calls=[("read_page", {"page": str(read + 1)})])

    provider.script("reader", play, models=["gpt-4o"])
    gateway = start(budgets="[{name: run, per: run, limit_usd: 2, on_exceed: wrap_up}]")
    agent = ChatAgent(url=gateway.url, tools={"read_page": lambda page: handbook(int(page))})
    assert agent.run(TASK) == "It is a handbook."
    assert ensure_books_agree(gateway, provider, 2)["status"] == "completed"
