"""A run that a rule ends is landed softly: the agent's own code sees one more ordinary answer and raises
nothing, in every framework, streamed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.clients.clients import (
    AGENTS,
    AGENTS_DEFAULT,
    ANTHROPIC,
    LANGGRAPH,
    LANGGRAPH_CLAUDE,
    MESSAGES,
    OPENAI,
    PYDANTIC,
    PYDANTIC_CLAUDE,
    RESPONSES,
    RESPONSES_KEPT,
    SMOL_TOOLS,
    Client,
    Drivers,
    Result,
    each,
    each_but,
)
from tests.clients.policy import policy_for, served_cost
from tests.clients.records import Run, runs_of
from tests.support.gateway import ThreadedGateway, threaded_gateway

pytestmark = pytest.mark.clients

PROMPT = "Where is the printer of the third floor?"
ANSWER = "As far as I know it is beside the lift."
PREBUILT = [
    Client("react-agent-chat", "agents", "prebuilt_graph.py"),
    Client(
        "react-agent-responses", "agents", "prebuilt_graph.py", surface=RESPONSES, job={"style": "responses"}
    ),
    Client(
        "react-agent-anthropic", "agents", "prebuilt_graph.py", surface=MESSAGES, job={"style": "anthropic"}
    ),
]
PYDANTIC_CHAT = Client("pydantic-ai-chat", "agents", "pydantic_agents.py", job={"style": "openai-chat"})
IN_TEXT = [
    *(OPENAI[0], OPENAI[3], RESPONSES_KEPT[2], *ANTHROPIC),
    *(LANGGRAPH, LANGGRAPH_CLAUDE, *PREBUILT),
    *(AGENTS, AGENTS_DEFAULT),
    *(PYDANTIC_CHAT, PYDANTIC, PYDANTIC_CLAUDE),
]
"""Agents whose answer is a text."""
BY_TOOL = [
    SMOL_TOOLS,
    Client("pydantic-ai-chat-typed", "agents", "structured_agents.py", job={"style": "openai-chat"}),
    Client("pydantic-ai-openai-typed", "agents", "structured_agents.py", surface=RESPONSES),
    Client(
        *("pydantic-ai-anthropic-typed", "agents", "structured_agents.py"),
        surface=MESSAGES,
        job={"style": "anthropic"},
    ),
]
"""Agents that answer by calling a tool, which a text would not satisfy."""
POLICIES = {
    "loop": "loops: {same_call: 3, on_detect: wrap_up}",
    "steps": "runs: {max_steps: 4, on_exceed: wrap_up}",
    "message": "runs: {max_steps: 3, on_exceed: final_message}",
    "budget": "budgets: [{name: run, per: run, limit_usd: 0.02, on_exceed: wrap_up}]\n"
    "runs: {landing: {output_tokens: 150}}\ndefault_max_output_tokens: 300",
}
WORDS = ["lift", "stair", "door", "floor", "desk", "lamp", "chair", "shelf"]
WORDS += ["window", "wall", "roof", "gate", "hall", "yard", "cellar", "attic"]
streams = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
# How a landing looks in a stream does not depend on the rule: what differs is when it begins.
seldom_streams = pytest.mark.parametrize(
    "stream", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "stream"]
)
OFTEN = [OPENAI[3], RESPONSES_KEPT[2], ANTHROPIC[1], LANGGRAPH, AGENTS_DEFAULT, PYDANTIC_CLAUDE, *BY_TOOL]
SELDOM = [client for client in IN_TEXT if client not in OFTEN]
"""What these make of a landing, a loop's has shown: the rule that it comes by does not change what they see."""
Under = Callable[[str], ThreadedGateway]
Work = Callable[[Client, bool, str, str], tuple[Result, Run]]


@pytest.fixture(scope="module")
def under(shared_provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Under]:
    """The gateway under one of `POLICIES`, started when it is first asked for."""
    with ExitStack() as stack:
        running: dict[str, ThreadedGateway] = {}

        def gateway(name: str) -> ThreadedGateway:
            if name not in running:
                policy = policy_for(shared_provider, POLICIES[name])
                place = tmp_path_factory.mktemp(name)
                running[name] = stack.enter_context(threaded_gateway(policy, place))
            return running[name]

        yield gateway


def answer(ask: Ask) -> Reply:
    """What the model says when it is kept from searching."""
    final = next((tool.name for tool in ask.tools), None)
    if final is None:
        return Reply(ANSWER)
    arguments = {"answer": ANSWER} if final == "final_answer" else {"answer": ANSWER, "sure": False}
    return Reply(tool_calls=[(final, arguments)])


def may_search(ask: Ask) -> bool:
    return any(tool.name == "search" for tool in ask.tools)


def in_circles(ask: Ask) -> Reply:
    """Searches for the same again and again."""
    if not may_search(ask):
        return answer(ask)
    # Without a word before it: streaming, Pydantic AI takes the first text for the answer.
    return Reply(tool_calls=[("search", {"query": "printer"})])


def goes_on(ask: Ask) -> Reply:
    """Always has something else to search for."""
    if not may_search(ask):
        return answer(ask)
    turns = sum(turn.role == "assistant" for turn in ask.turns)
    return Reply(tool_calls=[("search", {"query": f"{WORDS[turns % 16]} number {turns}"})])


@pytest.fixture(autouse=True)
def scripts(provider: ProviderServer) -> None:
    provider.script("in-circles", in_circles)
    provider.script("goes-on", goes_on)


@pytest.fixture
def work(drivers: Drivers, provider: ProviderServer, under: Under) -> Work:
    """Let an agent work under a policy with a model that plays a script: what came of it, and its run. The agent
    notices nothing, and the run has cost what was served."""

    def play(client: Client, stream: bool, policy: str, script: str) -> tuple[Result, Run]:
        gateway = under(policy)
        (result,) = drivers.play(client, gateway, PROMPT, stream=stream, model=client.on(script))
        assert result.error is None, result.error
        run = runs_of(gateway)[-1]
        assert run.cost == served_cost(provider) > 0
        return result, run

    return play


@seldom_streams
@pytest.mark.parametrize("client", each([*IN_TEXT, *BY_TOOL]))
def test_a_loop_is_landed(client: Client, stream: bool, work: Work) -> None:
    result, run = work(client, stream, "loop", "in-circles")
    assert ANSWER in (result.answer or "")
    assert run.status == "stopped_loop"
    assert run.steps == [1, 2, 3, 4]
    assert result.executed == ["printer"] * 3


@seldom_streams
@pytest.mark.parametrize("client", each_but(SELDOM, [*IN_TEXT, *BY_TOOL]))
def test_a_run_at_its_step_limit_is_landed(client: Client, stream: bool, work: Work) -> None:
    result, run = work(client, stream, "steps", "goes-on")
    assert ANSWER in (result.answer or "")
    assert run.status == "stopped_steps"
    assert len(result.executed) == 3
    assert run.steps == [1, 2, 3, 4]


@seldom_streams
@pytest.mark.parametrize("client", each_but(SELDOM, [*IN_TEXT, *BY_TOOL]))
def test_a_run_at_its_budget_is_landed(
    client: Client, stream: bool, provider: ProviderServer, work: Work
) -> None:
    def spends(ask: Ask) -> Reply:
        if not may_search(ask):
            return answer(ask)
        turns = sum(turn.role == "assistant" for turn in ask.turns)
        return Reply(tool_calls=[("search", {"query": f"{turns} {WORDS[turns % 16]} " * 40})])

    provider.script("spends", spends)
    result, run = work(client, stream, "budget", "spends")
    assert ANSWER in (result.answer or "")
    assert run.status == "stopped_budget"
    assert len(result.executed) == len(run.steps) - 1
    assert run.cost <= 20_000_000


@streams
@pytest.mark.parametrize("client", each(IN_TEXT))
def test_a_final_message_is_an_answer_like_any_other(
    client: Client, stream: bool, provider: ProviderServer, work: Work
) -> None:
    result, run = work(client, stream, "message", "goes-on")
    assert run.status == "stopped_steps"
    said = result.answer or ""
    assert "stopped before it was finished" in said
    assert run.id in said
    assert len(result.executed) == 3
    assert len(provider.journal) == 3


@pytest.mark.parametrize(
    "client", each([OPENAI[3], LANGGRAPH, AGENTS_DEFAULT, PYDANTIC_CLAUDE, ANTHROPIC[1]])
)
def test_equal_agents_are_landed_each_by_itself(
    client: Client, drivers: Drivers, provider: ProviderServer, under: Under
) -> None:
    gateway = under("loop")
    before = len(runs_of(gateway))
    results = drivers.play(client, gateway, PROMPT, parallel=8, model=client.on("in-circles"))
    for result in results:
        assert result.error is None, result.error
        assert ANSWER in (result.answer or "")
        assert result.executed == ["printer"] * 3
    found = runs_of(gateway)[before:]
    assert [run.status for run in found] == ["stopped_loop"] * 8
    assert {len(run.attempts) for run in found} == {4}
    assert sum(run.cost for run in found) == served_cost(provider)
