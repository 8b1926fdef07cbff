"""An agent's whole loop is one run, with nothing changed but the base URL; two agents are two runs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from gateway.testing import Ask, ProviderServer, Reply, error_reply
from gateway.testing.models import find
from tests.clients.clients import (
    AGENTS,
    ANTHROPIC,
    EVERY,
    LANGGRAPH,
    NODE,
    NODE_REACT,
    OPENAI,
    REACT,
    REACT_OLD,
    RESPONSES_LOOPS,
    SMOL_CODE,
    SMOL_TOOLS,
    STEPS,
    Client,
    Drivers,
    Result,
    at_the_ends,
    each,
)
from tests.clients.policy import served_cost
from tests.clients.records import runs_of
from tests.integration.conftest import MakeGateway
from tests.support.gateway import ThreadedGateway

pytestmark = pytest.mark.clients

PROMPT = "Why does the printer on the third floor print everything twice?"
OVERLAP_S = 0.5
"""Seconds that an answer takes, so that equal agents have asked before one of them has failed."""


def ensure_done(results: list[Result]) -> None:
    for result in results:
        assert result.error is None, result.error
        assert "Done after 5 steps" in (result.answer or "")
        assert len(result.executed) == STEPS - 1


def ensure_apart(gateway: ThreadedGateway, agents: int) -> None:
    """Each agent was a run of five steps of its own."""
    runs = runs_of(gateway)
    assert [run.steps for run in runs] == [[1, 2, 3, 4, 5]] * agents
    assert {run.status for run in runs} == {"completed"}
    assert len({run.session for run in runs}) == agents


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("client", each(EVERY))
def test_a_loop_of_five_steps_is_one_run(
    client: Client, stream: bool, drivers: Drivers, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    ensure_done(drivers.play(client, gateway, PROMPT, stream=stream))
    (run,) = runs_of(gateway)
    assert run.steps == [1, 2, 3, 4, 5]
    assert len(run.attempts) == STEPS
    assert run.status == "completed"
    assert run.name is None
    assert {attempt["surface"] for attempt in run.attempts} == {client.surface}
    assert {attempt.stream for attempt in provider.journal} == {stream}
    assert run.cost == served_cost(provider) > 0


@pytest.mark.parametrize("client", each([SMOL_TOOLS]))
def test_an_answer_by_a_final_tool_completes_the_run(
    client: Client, drivers: Drivers, make_gateway: MakeGateway
) -> None:
    gateway = make_gateway("runs: {final_tools: [final_answer]}\n")
    ensure_done(drivers.play(client, gateway, PROMPT))
    (run,) = runs_of(gateway)
    assert run.status == "completed"


@pytest.mark.parametrize("client", at_the_ends(EVERY))
def test_the_same_agent_started_again_is_another_run(
    client: Client, drivers: Drivers, gateway: ThreadedGateway
) -> None:
    for _ in range(2):
        ensure_done(drivers.play(client, gateway, PROMPT))
    ensure_apart(gateway, 2)


@pytest.mark.parametrize("client", at_the_ends(EVERY))
def test_two_agents_in_lockstep_with_equal_prompts_are_two_runs(
    client: Client, drivers: Drivers, gateway: ThreadedGateway
) -> None:
    ensure_done(drivers.play(client, gateway, PROMPT, parallel=2, lockstep=True))
    ensure_apart(gateway, 2)


@pytest.mark.parametrize(
    "client",
    each([OPENAI[0], OPENAI[3], LANGGRAPH, AGENTS, SMOL_TOOLS, RESPONSES_LOOPS[1], ANTHROPIC[1], NODE]),
)
def test_thirty_equal_agents_at_once_are_thirty_runs(
    client: Client, drivers: Drivers, gateway: ThreadedGateway
) -> None:
    ensure_done(drivers.play(client, gateway, PROMPT, parallel=30))
    ensure_apart(gateway, 30)


@pytest.mark.parametrize("client", each([REACT, SMOL_CODE, NODE_REACT]))
def test_thirty_equal_agents_that_only_their_words_could_tell_apart_are_thirty_runs(
    client: Client, drivers: Drivers, gateway: ThreadedGateway
) -> None:
    """Every one of them says exactly the same, so it does not matter which is which: how many does."""
    ensure_done(drivers.play(client, gateway, PROMPT, parallel=30))
    ensure_apart(gateway, 30)


@pytest.mark.parametrize("client", each([OPENAI[0], OPENAI[3], REACT, REACT_OLD]))
def test_equal_agents_stay_apart_when_first_tries_fail(
    client: Client, drivers: Drivers, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    """A retry looks exactly like the first try of a twin; what tells them apart is who failed."""
    steps = find("steps-5")
    assert callable(steps)
    firsts = itertools.count()

    def unsteady(ask: Ask) -> Reply:
        fails = not any(turn.role == "assistant" for turn in ask.turns) and next(firsts) in (0, 2, 3)
        return replace(error_reply(503) if fails else steps(ask), head_delay_s=OVERLAP_S)

    provider.script("unsteady", unsteady)
    ensure_done(drivers.play(client, gateway, PROMPT, model=client.on("unsteady"), parallel=6))
    ensure_apart(gateway, 6)
    assert sum(len(run.attempts) for run in runs_of(gateway)) == 6 * STEPS + 3
