"""Sub-agents spent 1,935 % of the budget of the run that had started them. Declared children share their
parent's budget, and end with it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.incidents.agents import ChatAgent
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import journal_cost, nano, runs
from tests.support.gateway import ThreadedGateway, wait_until

LIMIT = 100_000_000
BUDGET = "[{name: run, per: run, limit_usd: 0.10}]"
OWN = "{max_steps: 25, on_exceed: wrap_up, children: own}"
CHILDREN = 20


def agent_of(gateway: ThreadedGateway, **headers: str) -> ChatAgent:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    agent = ChatAgent(url=gateway.url, tools={"lookup": lambda q: f"All about {q}."}, headers=named)
    agent.sdk = agent.sdk.with_options(max_retries=0)
    return agent


def spends(ask: Ask) -> Reply:
    """About four cents for each agent, in four steps of different work."""
    done = sum(turn.role == "assistant" for turn in ask.turns)
    if done >= 4 or not ask.tools:
        return Reply("Done.")
    return Reply("word " * 1000, tool_calls=[("lookup", {"q": f"{ask.last_user_text} {'abcd'[done] * 6}"})])


def play(agent: ChatAgent, task: str) -> str:
    """The answer, or the code of the refusal; a short output limit is what is left when money runs out."""
    try:
        answer = agent.run(task)
        return "cut" if answer.startswith("word") else answer
    except openai.BadRequestError as error:
        return str(error.code)


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "at once"])
def test_children_share_their_parents_budget(start: Start, provider: ProviderServer, together: bool) -> None:
    provider.script("spends", spends, models=["gpt-4o"])
    gateway = start(budgets=BUDGET)
    parent = agent_of(gateway, x_guardrail_run_id="research-1")
    assert parent.run("Plan the research.") == "Done."
    children = [
        agent_of(gateway, x_guardrail_run_id=f"research-1.{n}", x_guardrail_parent_run_id="research-1")
        for n in range(CHILDREN)
    ]
    with ThreadPoolExecutor(CHILDREN if together else 1) as pool:
        said = list(pool.map(lambda pair: play(pair[1], f"Chapter {pair[0]}."), enumerate(children)))
    assert set(said) <= {"Done.", "cut", "run_budget_exceeded"}
    assert said.count("run_budget_exceeded") >= CHILDREN - 8
    assert journal_cost(provider) <= LIMIT
    found = {run["name"]: run for run in gateway.admin("GET", "/runs?limit=100")["data"]}
    assert sum(nano(run["cost_usd"]) for run in found.values()) == journal_cost(provider)
    assert found["research-1"]["reserved_usd"] == "0.000000000"
    root = found["research-1"]["id"]
    assert {found[f"research-1.{n}"]["parent"] for n in range(CHILDREN)} == {root}
    assert len(gateway.admin("GET", f"/runs/{root}")["children"]) == CHILDREN


def test_children_of_children_share_it_too(start: Start, provider: ProviderServer) -> None:
    provider.script("spends", spends, models=["gpt-4o"])
    gateway = start(budgets=BUDGET)
    name = "root"
    said = [play(agent_of(gateway, x_guardrail_run_id=name), "Plan.")]
    for depth in range(6):
        child = agent_of(gateway, x_guardrail_run_id=f"{name}.{depth}", x_guardrail_parent_run_id=name)
        said.append(play(child, f"Level {depth}."))
        name = f"{name}.{depth}"
    assert said[0] == "Done."
    assert said[-1] == "run_budget_exceeded"
    assert journal_cost(provider) <= LIMIT


def test_children_with_budgets_of_their_own_do_not_share(start: Start, provider: ProviderServer) -> None:
    provider.script("spends", spends, models=["gpt-4o"])
    gateway = start(budgets=BUDGET, runs=OWN)
    assert agent_of(gateway, x_guardrail_run_id="root").run("Plan.") == "Done."
    for n in range(4):
        child = agent_of(gateway, x_guardrail_run_id=f"c{n}", x_guardrail_parent_run_id="root")
        assert child.run(f"Chapter {n}.") == "Done."
    found = runs(gateway, 5)
    assert sum(nano(run["cost_usd"]) for run in found) == journal_cost(provider) > LIMIT


@pytest.mark.parametrize("stream", [False, True])
def test_a_kill_of_the_parent_ends_children_in_flight(
    start: Start, provider: ProviderServer, stream: bool
) -> None:
    def slow(ask: Ask) -> Reply:
        if "Plan" in ask.last_user_text:
            return Reply("Planned.")
        return Reply("word " * 500, chunks=500, chunk_delay_s=0.02)

    provider.script("slow", slow, models=["gpt-4o"])
    gateway = start()
    assert agent_of(gateway, x_guardrail_run_id="root").run("Plan.") == "Planned."
    errors: list[str] = []

    def child(n: int) -> None:
        agent = agent_of(gateway, x_guardrail_run_id=f"c{n}", x_guardrail_parent_run_id="root")
        agent.stream = stream
        try:
            agent.run(f"Chapter {n}.")
        except openai.APIError as error:
            errors.append(str(error.code))

    threads = [threading.Thread(target=child, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: provider.journal.active == 4, what="four children in flight")
    gateway.admin("POST", "/runs/root/kill", {"reason": "too dear"})
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert errors == ["run_killed"] * 4
    provider.wait_idle_blocking()
    found = {run["name"]: run for run in runs(gateway, 5)}
    assert {found[f"c{n}"]["status"] for n in range(4)} == {"killed"}
    # What was cut off told no usage, so it is booked for at least what was served.
    assert sum(nano(run["cost_usd"]) for run in found.values()) >= journal_cost(provider) > 0
    # Nor can a new one be started.
    late = agent_of(gateway, x_guardrail_run_id="c9", x_guardrail_parent_run_id="root")
    assert play(late, "Chapter 9.") == "run_killed"
