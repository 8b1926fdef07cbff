"""How the work of a step grows with what it carries, and with what the gateway holds: flat or in proportion, never
more. Work is counted in calls of functions on the event loop's thread, which no busy machine changes."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from tests.integration.conftest import MakeGateway
from tests.support.gateway import ThreadedGateway, base_policy

Json = dict[str, Any]
SCREENING = """
screening:
  injection: {mode: enforce, tool: {action: neutralise}}
  pii: {mode: enforce, entities: [EMAIL_ADDRESS], action: pseudonymise}
loops: {mode: shadow, same_call: 3, cycle: 3}
"""
BUDGETS = (
    "budgets: [{name: run, per: run, limit_usd: 100}, {name: day, per: user, window: 1d, limit_usd: 100}]\n"
)
_serials = itertools.count()


def work(gateway: ThreadedGateway, call: Callable[[], object], times: int = 5) -> int:
    """Calls of functions that one request takes, the least of several: what happens beside it only adds."""
    assert gateway.loop is not None
    counted = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    async def profile(function: Any) -> int:
        sys.setprofile(function)
        await asyncio.sleep(0)
        return counted

    found = []
    for _ in range(times):
        before: int = gateway.run(lambda: profile(count))
        call()
        after: int = gateway.run(lambda: profile(None))
        found.append(after - before)
    return min(found)


def ask(gateway: ThreadedGateway, body: Json, key: str | None = None) -> Json:
    for _ in range(20):
        status, _, raw = gateway.post(body, **({"key": key} if key else {}))
        if status != 503:
            break
        time.sleep(0.5)  # a busy machine did not screen it in time
    assert status == 200, raw
    found: Json = json.loads(raw)
    return found


def question(**more: Any) -> Json:
    content = f"question {next(_serials)}"
    return {"model": "sim/good", "max_tokens": 50, "messages": [{"role": "user", "content": content}], **more}


def definitions(count: int) -> list[Json]:
    return [
        {"type": "function", "function": {"name": f"tool_{n}", "parameters": {"type": "object"}}}
        for n in range(count)
    ]


def history(turns: int) -> list[Json]:
    """A run's messages after so many calls of tools."""
    serial = next(_serials)
    messages: list[Json] = [{"role": "user", "content": f"task {serial}"}]
    for turn in range(turns):
        name = f"call_{serial}_{turn}"
        function = {"name": "tool_0", "arguments": f'{{"path": "{turn}"}}'}
        call = {"id": name, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": name, "content": f"result {turn} of {serial}"})
    return messages


def ensure_proportional(sizes: list[int], costs: list[int]) -> None:
    """The second half of the way costs no more for each than the first, but for some noise."""
    (small, middle, large), (first, second, third) = sizes, costs
    early, late = (second - first) / (middle - small), (third - second) / (large - middle)
    assert late <= max(early, 0) * 1.25 + 2, (sizes, costs)


def ensure_flat(costs: list[int]) -> None:
    """A hundred times as many cost the same."""
    assert max(costs) <= min(costs) * 1.1 + 30, costs


@pytest.fixture(autouse=True)
def quick(provider: ProviderServer) -> None:
    provider.script("good", Reply("Good."))


@pytest.fixture
def gateway(make_gateway: MakeGateway) -> ThreadedGateway:
    return make_gateway(SCREENING + BUDGETS)


def test_a_history_that_was_screened_costs_in_proportion_to_its_length(gateway: ThreadedGateway) -> None:
    sizes, costs = [50, 100, 200], []
    for turns in sizes:
        messages = history(turns)
        body = {**question(), "messages": messages, "tools": definitions(1)}
        ask(gateway, body)
        # The same history again, with one thing that is new, as the next step of an agent has it.
        costs.append(
            work(
                gateway,
                lambda body=body, messages=messages: ask(  # type: ignore[misc]
                    gateway,
                    {**body, "messages": [*messages, {"role": "user", "content": f"go on {next(_serials)}"}]},
                ),
            )
        )
    ensure_proportional(sizes, costs)


def test_tools_cost_in_proportion(gateway: ThreadedGateway) -> None:
    sizes, costs = [10, 50, 90], []
    for count in sizes:
        tools = definitions(count)
        ask(gateway, question(tools=tools))
        costs.append(work(gateway, lambda tools=tools: ask(gateway, question(tools=tools))))  # type: ignore[misc]
    ensure_proportional(sizes, costs)


@pytest.mark.slow
def test_findings_cost_in_proportion(gateway: ThreadedGateway) -> None:
    sizes, costs = [10, 50, 90], []

    def with_findings(count: int) -> Json:
        found = " ".join(f"who{next(_serials)}@mail.example.org wrote." for _ in range(count))
        return {**question(), "messages": [{"role": "user", "content": found}]}

    ask(gateway, with_findings(1))
    for count in sizes:
        costs.append(work(gateway, lambda count=count: ask(gateway, with_findings(count))))  # type: ignore[misc]
    ensure_proportional(sizes, costs)


@pytest.mark.slow
def test_budgets_cost_in_proportion(make_gateway: MakeGateway) -> None:
    sizes, costs = [1, 10, 19], []
    for count in sizes:
        rules = ", ".join(
            f"{{name: b{n}, per: user, window: 1d, limit_usd: {100 + n}}}" for n in range(count)
        )
        gateway = make_gateway(f"budgets: [{rules}]\n", name=f"budgets-{count}")
        ask(gateway, question())
        costs.append(work(gateway, lambda gateway=gateway: ask(gateway, question())))  # type: ignore[misc]
    ensure_proportional(sizes, costs)


def test_keys_and_runs_cost_nothing(make_gateway: MakeGateway, provider: ProviderServer) -> None:
    costs = []
    for count in (1, 100, 2_000):
        keys = "".join(
            f"  - {{name: k{n}, key: gk-tenant-{n:06d}-0123456789, user: u{n}, team: t{n}}}\n"
            for n in range(count)
        )
        gateway = make_gateway(policy=base_policy(provider.base_url, keys + BUDGETS), name=f"keys-{count}")
        key = f"gk-tenant-{count // 2:06d}-0123456789"
        ask(gateway, question(), key)
        costs.append(work(gateway, lambda gateway=gateway, key=key: ask(gateway, question(), key)))  # type: ignore[misc]
    # The last gateway goes on: so many runs are alive in it.
    for _ in range(400):
        ask(gateway, question(), key)
    costs.append(work(gateway, lambda: ask(gateway, question(), key)))
    ensure_flat(costs)
