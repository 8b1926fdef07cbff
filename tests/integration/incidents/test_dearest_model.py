"""Every question went to the dearest model. A budget per user and day holds that, and a downgrade serves the
rest of the day on a cheaper one."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.incidents.agents import ChatAgent
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import journal_cost, nano, runs
from tests.support.gateway import ALICE, BOB, ThreadedGateway

DAY = "[{name: user-day, per: user, window: 1d, limit_usd: 0.20, on_exceed: %s}]"
ESSAY = Reply("word " * 1500)
"""1.5 cents on the dear model."""


def ask(gateway: ThreadedGateway, question: str, key: str = ALICE, model: str = "gpt-4o", **more: Any) -> Any:
    with openai.OpenAI(base_url=gateway.base_url, api_key=key) as sdk:
        return sdk.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": question}], max_tokens=2000, **more
        )


def asks_on(gateway: ThreadedGateway) -> tuple[int, str]:
    """How many questions were answered until one was refused, and with which code."""
    for number in range(200):
        try:
            ask(gateway, f"Question {number}?")
        except openai.BadRequestError as error:
            return number, str(error.code)
    return 200, ""


def models(provider: ProviderServer) -> list[str]:
    return [attempt.model or "" for attempt in provider.journal]


@pytest.fixture(autouse=True)
def essays(provider: ProviderServer) -> None:
    provider.script("essay", ESSAY, models=["gpt-4o", "gpt-4o-mini"])


def test_a_users_day_holds(start: Start, provider: ProviderServer) -> None:
    gateway = start("", budgets=DAY % "stop")
    served, code = asks_on(gateway)
    assert code == "user_budget_exceeded"
    assert served == len(provider.journal)
    assert 10 <= served <= 20
    assert journal_cost(provider) <= 200_000_000
    (budget,) = gateway.admin("GET", "/budgets?per=user&id=alice")["data"]
    assert nano(budget["used_usd"]) == journal_cost(provider)
    # Another user has a day of his own.
    assert ask(gateway, "And I?", BOB).parse().choices[0].message.content


def test_the_rest_of_the_day_is_served_by_the_cheaper_model(start: Start, provider: ProviderServer) -> None:
    gateway = start("", budgets=DAY % "downgrade, to: gpt-4o-mini")
    told = []
    for number in range(20):
        raw = ask(gateway, f"Question {number}?")
        assert raw.parse().choices[0].message.content
        told.append((raw.headers["x-guardrail-model"], raw.headers["x-guardrail-verdict"]))
    dear = told.index(("gpt-4o-mini", "reroute"))
    assert 8 <= dear <= 13
    assert told == [("gpt-4o", "allow")] * dear + [("gpt-4o-mini", "reroute")] * (20 - dear)
    assert models(provider) == [model for model, _ in told]
    assert journal_cost(provider) <= 200_000_000
    found = runs(gateway, 20)
    assert {run["status"] for run in found} == {"completed"}
    assert sum(nano(run["cost_usd"]) for run in found) == journal_cost(provider)
    assert found[-1]["model_mix"].keys() == {"gpt-4o-mini"}


def test_when_the_cheaper_model_is_too_dear_as_well_it_is_refused(
    start: Start, provider: ProviderServer
) -> None:
    gateway = start("", budgets=(DAY % "downgrade, to: gpt-4o-mini").replace("0.20", "0.03"))
    assert asks_on(gateway)[1] == "user_budget_exceeded"
    assert set(models(provider)) == {"gpt-4o", "gpt-4o-mini"}
    assert journal_cost(provider) <= 30_000_000


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_run_goes_on_with_the_cheaper_model(
    start: Start, provider: ProviderServer, stream: bool
) -> None:
    def play(ask: Ask) -> Reply:
        turns = sum(turn.role == "assistant" for turn in ask.turns)
        if turns == 8:
            return Reply("Done.")
        return Reply(tool_calls=[("lookup", {"q": f"chapter {turns} on {'abcdefgh'[turns] * 9}"})])

    provider.script("long", play, models=["gpt-4o", "gpt-4o-mini"])
    gateway = start(runs="{max_steps: 5, on_exceed: downgrade, to: gpt-4o-mini}", loops="null")
    agent = ChatAgent(url=gateway.url, tools={"lookup": lambda q: f"All about {q}."}, stream=stream)
    assert agent.run("Write the report.") == "Done."
    assert models(provider) == ["gpt-4o"] * 5 + ["gpt-4o-mini"] * 4
    (run,) = runs(gateway, 1)
    assert (run["status"], run["steps"]) == ("completed", 9)
    assert nano(run["cost_usd"]) == journal_cost(provider)
    steps = gateway.admin("GET", f"/runs/{run['id']}/steps")["data"]
    assert [step["verdict"] for step in steps] == ["allow"] * 5 + ["reroute"] * 4
    assert {step["requested_model"] for step in steps} == {"gpt-4o"}


def test_a_loop_goes_on_with_the_cheaper_model(start: Start, provider: ProviderServer) -> None:
    """A weak model in a circle is dear enough; a dear one need not be."""

    def play(ask: Ask) -> Reply:
        if ask.model == "gpt-4o-mini" or not ask.tools:
            return Reply("I cannot find it.")
        return Reply(tool_calls=[("lookup", {"q": "printer"})])

    provider.script("loop", play, models=["gpt-4o", "gpt-4o-mini"])
    gateway = start(loops="{same_call: {downgrade: 2, stop: 4}, to: gpt-4o-mini}")
    agent = ChatAgent(url=gateway.url, tools={"lookup": lambda q: "nothing"})
    assert agent.run("Find it.") == "I cannot find it."
    assert models(provider) == ["gpt-4o"] * 2 + ["gpt-4o-mini"]
    assert runs(gateway, 1)[0]["status"] == "completed"


def test_a_key_without_the_cheaper_model_is_refused(start: Start, provider: ProviderServer) -> None:
    """A downgrade reaches no model that the key may not."""
    gateway = start(
        "",
        budgets=DAY % "downgrade, to: gpt-4o-mini",
        keys=f"[{{name: alice, key: {ALICE}, user: alice, models: [gpt-4o]}}]",
    )
    assert asks_on(gateway)[1] == "user_budget_exceeded"
    assert set(models(provider)) == {"gpt-4o"}
