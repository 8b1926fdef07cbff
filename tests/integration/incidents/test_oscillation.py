"""Two tools sent an agent back and forth: A, B, A, B, all with the same results. Three rounds are enough."""

from __future__ import annotations

import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.incidents.agents import KINDS, two_ways
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import ensure_books_agree

TASK = "Who is responsible for the printer?"
ANSWER = "The two directories refer to each other; I cannot tell who it is."


def back_and_forth(*tools: str) -> object:
    def play(ask: Ask) -> Reply:
        if not ask.tools:
            return Reply(ANSWER)
        asked = sum(turn.role == "assistant" for turn in ask.turns)
        return Reply(tool_calls=[(tools[asked % len(tools)], {"q": "printer"})])

    return play


@two_ways
def test_back_and_forth_is_a_loop(start: Start, provider: ProviderServer, kind: str, stream: bool) -> None:
    provider.script("pair", back_and_forth("staff", "sites"), models=["gpt-4o", "claude-sonnet-5"])  # type: ignore[arg-type]
    gateway = start()
    tools = {
        "staff": lambda q: "Owner of device 'printer': see the directory of sites, entry 'printer'. " * 4,
        "sites": lambda q: "Device 'printer': see the directory of staff for who is responsible. " * 4,
    }
    agent = KINDS[kind](url=gateway.url, tools=tools, stream=stream)
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) <= 6
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["status_reason"]) == ("stopped_loop", "loop_detected")


@pytest.mark.parametrize("kind", ["chat", "messages"])
def test_a_circle_of_three_with_short_results_is_one_too(
    start: Start, provider: ProviderServer, kind: str
) -> None:
    provider.script("three", back_and_forth("a", "b", "c"), models=["gpt-4o", "claude-sonnet-5"])  # type: ignore[arg-type]
    gateway = start()
    agent = KINDS[kind](
        url=gateway.url, tools={"a": lambda q: "ask b", "b": lambda q: "ask c", "c": lambda q: "ask a"}
    )
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) <= 9
    assert ensure_books_agree(gateway, provider)["status"] == "stopped_loop"


@pytest.mark.parametrize("kind", ["chat", "messages"])
def test_edit_and_test_in_turn_is_work(start: Start, provider: ProviderServer, kind: str) -> None:
    """A coder goes back and forth between two tools as well, and each round brings something."""

    def play(ask: Ask) -> Reply:
        rounds = sum(turn.role == "assistant" for turn in ask.turns)
        if rounds == 12:
            return Reply("All tests pass.")
        if rounds % 2:
            return Reply(tool_calls=[("run_tests", {"path": "tests"})])
        return Reply(
            tool_calls=[("edit", {"path": "main.py", "patch": f"line {rounds * 7}: return {rounds}"})]
        )

    left = iter(range(6, -1, -1))
    names = ["parser", "lexer", "printer", "scanner", "router", "cache", "clock"]

    def tests(path: str) -> str:
        failing = next(left)
        return f"{failing} failed, {40 - failing} passed\n" + "\n".join(
            f"FAILED tests/test_{name}.py::test_{name}_{failing}" for name in names[:failing]
        )

    provider.script("coder", play, models=["gpt-4o", "claude-sonnet-5"])
    gateway = start()
    agent = KINDS[kind](url=gateway.url, tools={"edit": lambda path, patch: "ok", "run_tests": tests})
    assert agent.run("Fix the tests.") == "All tests pass."
    assert ensure_books_agree(gateway, provider)["status"] == "completed"
