"""Old and huge tool results are shortened on their way to the model, and nothing else changes: the agent gets
the same answer for less, and everything that judges a request reads it whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.data_plane.test_surfaces import journal_cost, ledger_cost, policy_for
from tests.support.gateway import ThreadedGateway, threaded_gateway
from tests.support.wire import WIRES, Wire

Json = dict[str, Any]
Start = Callable[..., ThreadedGateway]
CONTEXT = "context: {keep_results: 2, result_tokens: 50, clip_tokens: 5000}\n"
STEPS = 12
surfaces = pytest.mark.parametrize(
    ("surface", "prefix"),
    [("chat", "sim"), ("responses", "sim"), ("messages", "claude"), ("messages", "sim"), ("chat", "claude")],
)


@pytest.fixture
def start(provider: ProviderServer, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(extra: str, name: str) -> ThreadedGateway:
            provider.wait_idle_blocking()
            provider.journal.clear()
            policy = policy_for(provider, extra)
            return stack.enter_context(threaded_gateway(policy, tmp_path / name))

        yield begin


def reads_pages(asked: Ask) -> Reply:
    """Reads a page a step, and adds up in the end."""
    turns = sum(turn.role == "assistant" for turn in asked.turns)
    if turns < STEPS - 1:
        return Reply(tool_calls=[("read_page", {"q": f"page {turns}"})])
    return Reply("The report has eleven pages.")


def page(number: int, extra: str = "") -> str:
    return f"Page {number}. " + f"line of page {number} with some words in it; " * 60 + extra


@dataclass
class Run:
    answer: str
    cost: int
    decisions: list[Json]
    refused: str | None = None


def run(
    gateway: ThreadedGateway, provider: ProviderServer, wire: Wire, model: str, *, hidden: str = ""
) -> Run:
    """A run of twelve steps with a large result each; `hidden` stands in the middle of the first."""
    history = [wire.user("How many pages has the report?")]
    said = None
    for number in range(STEPS):
        body = {**wire.body(model, history), "tools": wire.tools(["read_page"])}
        status, _, raw = gateway.post(body, path=wire.path, **wire.headers)
        said = wire.read(raw)
        if status != 200:
            return Run("", ledger_cost(gateway), [], said.error)
        turn = wire.answered(said)
        text = page(number, hidden if number == 0 else "")
        history += [_with_result(item, text + (page(number) if hidden else "")) for item in turn]
    provider.wait_idle_blocking()
    assert ledger_cost(gateway) == journal_cost(provider)
    found = [d for a in gateway.attempts() for d in a["decisions"] if d["rule"] == "context"]
    assert said is not None
    return Run(said.text, ledger_cost(gateway), found)


def _with_result(item: Json, text: str) -> Json:
    """A history item, its tool result in full length."""
    if item.get("role") == "tool":
        return {**item, "content": text}
    if item.get("type") == "function_call_output":
        return {**item, "output": text}
    if item.get("role") == "user" and isinstance(item["content"], list):
        return {**item, "content": [{**part, "content": text} for part in item["content"]]}
    return item


def left_out(gateway: ThreadedGateway) -> dict[str, float]:
    return {
        sample.labels["mode"]: sample.value
        for metric in gateway.worker.metrics.shortened.collect()
        for sample in metric.samples
        if sample.name == "gateway_context_saved_tokens_total"
    }


@surfaces
def test_a_long_run_pays_less_for_the_same_answer(
    start: Start, provider: ProviderServer, surface: str, prefix: str
) -> None:
    provider.script("reader", reads_pages)
    wire, model = WIRES[surface], f"{prefix}/reader"
    whole = run(start("", "whole"), provider, wire, model)
    gateway = start(CONTEXT, "short")
    short = run(gateway, provider, wire, model)
    assert whole.answer == short.answer == "The report has eleven pages."
    assert short.cost < whole.cost * 0.6
    assert not whole.decisions
    assert left_out(gateway).keys() == {"enforce"}
    assert {(d["mode"], d["decision"]) for d in short.decisions} == {("enforce", "shorten")}
    # Cut two steps at a time, so that prompts stay as they were in between.
    counts = [d["results"] for d in short.decisions]
    assert counts == sorted(counts)
    assert set(counts) == {2, 4, 6, 8}
    assert left_out(gateway)["enforce"] == sum(d["tokens"] for d in short.decisions) > 5000


def test_a_shadow_changes_nothing(start: Start, provider: ProviderServer) -> None:
    provider.script("reader", reads_pages)
    wire = WIRES["chat"]
    run(start("", "whole"), provider, wire, "sim/reader")
    provider.wait_idle_blocking()
    sent = [attempt.served.input_uncached for attempt in provider.journal]
    gateway = start(CONTEXT.replace("{", "{mode: shadow, "), "shadow")
    shadow = run(gateway, provider, wire, "sim/reader")
    assert [attempt.served.input_uncached for attempt in provider.journal] == sent
    assert {(d["mode"], d["decision"]) for d in shadow.decisions} == {("shadow", "shorten")}
    assert left_out(gateway).keys() == {"shadow"}


@surfaces
def test_what_is_cut_is_screened_all_the_same(
    start: Start, provider: ProviderServer, surface: str, prefix: str
) -> None:
    """A secret in the middle of a result that the model would not get to read."""
    provider.script("reader", reads_pages)
    secret = " ghp_a8Kd03mZqP5vT7yBnX2cR9wLfH4jS6uE1gQo "
    gateway = start(
        "context: {keep_results: 1, result_tokens: 20, clip_tokens: 40}\nscreening: {secrets: {action: block}}\n",
        "screened",
    )
    stopped = run(gateway, provider, WIRES[surface], f"{prefix}/reader", hidden=secret)
    assert stopped.refused == "secret_blocked"
    provider.wait_idle_blocking()
    assert len(provider.journal) == 1
