"""A run under `wrap_up` reaches the end of its budget by a last answer, not by half of an ordinary one."""

from __future__ import annotations

import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.incidents.agents import KINDS, every_way
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import GUARDED, ensure_books_agree

TASK = "Write the report."
ANSWER = "This is what I have so far."
BUDGET = "[{name: run, per: run, limit_usd: 0.06, on_exceed: wrap_up}]"
RUNS = "{max_steps: 100, on_exceed: wrap_up}"


def writes(ask: Ask) -> Reply:
    """Saves a page of eight hundred words with every step."""
    if not ask.tools:
        return Reply(ANSWER)
    page = sum(turn.role == "tool" for turn in ask.turns)
    return Reply(tool_calls=[("save", {"page": str(page), "text": f"word{page} " * 400})])


@every_way
def test_a_step_that_fits_in_part_only_is_not_cut_but_landed(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    provider.script("writer", writes, models=["gpt-4o", "claude-sonnet-5"])
    gateway = start(GUARDED, budgets=BUDGET, runs=RUNS, loops="null")
    agent = KINDS[kind](
        url=gateway.url, tools={"save": lambda page, text: f"page {page} saved"}, stream=stream
    )
    assert agent.run(TASK) == ANSWER
    run = ensure_books_agree(gateway, provider, 0.06)
    assert run["status"] == "stopped_budget"
    assert len(agent.executed) == run["steps"] - 1


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_a_stream_that_outgrows_what_was_reserved_is_landed_too(
    start: Start, provider: ProviderServer, kind: str
) -> None:
    """Its agent has given short answers before, so little is reserved for each."""

    def first_short(ask: Ask) -> Reply:
        return Reply("Yes.") if "?" in ask.last_user_text else writes(ask)

    provider.script("writer", first_short, models=["gpt-4o"])
    gateway = start(GUARDED, budgets=BUDGET, runs=RUNS, loops="null")
    tools = {"save": lambda page, text: f"page {page} saved"}
    for number in range(10):
        assert KINDS[kind](url=gateway.url, tools=tools, stream=True).run(f"Ready {number}?") == "Yes."
    agent = KINDS[kind](url=gateway.url, tools=tools, stream=True)
    assert agent.run(TASK) == ANSWER
    (run,) = [r for r in gateway.admin("GET", "/runs?limit=50")["data"] if r["steps"] > 1]
    assert run["status"] == "stopped_budget"
    assert float(run["cost_usd"]) <= 0.06
