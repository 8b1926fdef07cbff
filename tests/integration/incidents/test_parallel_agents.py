"""Fifty agents work on one and the same question at once, and one of them goes in circles: it alone is stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.incidents.agents import Call, ChatAgent
from tests.integration.incidents.scene import GUARDED, journal_cost, nano, policy_for
from tests.support.gateway import ALICE, Gateway, process_gateway, threaded_gateway, wait_until
from tests.support.redis_server import RedisServer

TASK = "Which printers need new toner?"
AGENTS = 50
PARTS = 4
DONE = "All four floors have been checked."
STUCK = "One floor answers nothing; I checked no other."
PAGE = (
    "Floor {0} of the house: each device has the number {1}-{2}, its toner is of kind {2}, kept in room {1}. "
)


def checks(ask: Ask) -> Reply:
    """Checks floor after floor; the floor that comes next is told by what was found so far."""
    found = {turn.text for turn in ask.turns if turn.role == "tool"}
    if not ask.tools:
        return Reply(STUCK, head_delay_s=0.02)
    if len(found) == PARTS:
        return Reply(DONE, head_delay_s=0.02)
    call = ("inspect_floor", {"floor": f"after {len(found)}"})
    return Reply("Next.", tool_calls=[call], head_delay_s=0.02)


@dataclass
class Spread(ChatAgent):
    """Behind a load balancer: every request goes to the next replica."""

    clients: tuple[openai.OpenAI, ...] = ()
    turn: Iterator[openai.OpenAI] = field(init=False)

    def __post_init__(self) -> None:
        self.turn = itertools.cycle(self.clients)

    def ask(self) -> tuple[str, list[Call]]:
        """See `Agent`."""
        self.sdk = next(self.turn)
        return super().ask()


def device(number: int) -> Callable[..., str]:
    """The tool of one agent; that of agent 17 is broken and always says the same."""
    calls = itertools.count(1)

    def check(floor: str) -> str:
        call = 1 if number == 17 else next(calls)
        return PAGE.format(call, call * 31, call * 7)

    return check


def play_all(urls: tuple[str, ...]) -> list[Spread]:
    # A client takes long to make, and may be shared.
    clients = tuple(openai.OpenAI(base_url=f"{url}/v1", api_key=ALICE) for url in urls)
    agents = [
        Spread(url=urls[0], clients=clients, tools={"inspect_floor": device(n)}, stream=n % 2 == 0)
        for n in range(AGENTS)
    ]
    with ThreadPoolExecutor(AGENTS) as pool:
        answers = list(pool.map(lambda agent: agent.run(TASK), agents))
    assert [n for n, answer in enumerate(answers) if answer == STUCK] == [17]
    assert answers.count(DONE) == AGENTS - 1
    return agents


def ensure_each_was_a_run(gateway: Gateway, provider: ProviderServer, agents: list[Spread]) -> None:
    """Each agent was one run of its own: its calls are those of that agent and of no other."""

    def look() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = gateway.admin("GET", "/runs?limit=200")["data"]
        return found if all(run["status"] != "running" for run in found) and len(found) >= AGENTS else []

    found = wait_until(look, what="fifty runs that are over")
    assert len(found) == AGENTS
    assert sorted(run["status"] for run in found) == ["completed"] * (AGENTS - 1) + ["stopped_loop"]
    assert sum(nano(run["cost_usd"]) for run in found) == journal_cost(provider)
    of_call = {
        call["id"]: n
        for n, agent in enumerate(agents)
        for message in agent.history
        for call in message.get("tool_calls") or ()
    }
    owners: set[int] = set()
    for run in found:
        steps = gateway.admin("GET", f"/runs/{run['id']}/steps?limit=50")["data"]
        calls = [call["id"] for step in steps for call in step["tool_calls"]]
        (owner,) = {of_call[call] for call in calls}
        assert calls == [call for call, n in of_call.items() if n == owner]
        assert (run["status"] == "stopped_loop") == (owner == 17)
        owners.add(owner)
    assert len(owners) == AGENTS
    assert len(agents[17].executed) == 4
    # What every agent was told is its own conversation.
    for agent in agents:
        assert sum(message["role"] == "tool" for message in agent.history) == len(agent.executed)


@pytest.fixture(autouse=True)
def script(provider: ProviderServer) -> None:
    provider.script("checks", checks, models=["gpt-4o"])


def test_with_the_embedded_store(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(policy_for(provider, GUARDED), tmp_path) as gateway:
        ensure_each_was_a_run(gateway, provider, play_all((gateway.url,)))


@pytest.mark.redis
def test_with_redis_and_two_replicas(provider: ProviderServer, tmp_path: Path) -> None:
    policy = policy_for(provider, GUARDED)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        replicas = [
            stack.enter_context(
                process_gateway(
                    policy, tmp_path / name, store_url=redis.patient_url, data_dir=tmp_path / "data"
                )
            )
            for name in ("one", "two")
        ]
        agents = play_all(tuple(replica.url for replica in replicas))
        ensure_each_was_a_run(replicas[1], provider, agents)
