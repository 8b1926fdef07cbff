"""A support bot looked "printer" up 1,200 times in a night. It is stopped after a few look-ups, and the customer
still gets an answer."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable

import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.incidents.agents import KINDS, all_ways, every_way, two_ways
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import ensure_books_agree

TASK = "My printer prints everything twice. Why?"
ANSWER = "I found only the general article on printers; a technician has to look at yours."
ARTICLE = """KB-17 Printers
If your printer does not print, first switch it off, wait for ten seconds, and switch it on again.
Look whether there is paper in every tray and whether the display tells of an error.
Documents that wait in the queue can be deleted there and sent once more.
If that does not help, open a ticket with the name on the label, and a technician will come.
"""
NIGHT = 1_200
PHRASES = [
    "printer",
    "printers",
    "the printer",
    "a printer",
    "printer problem",
    "problem printer",
    "printer problems",
    "the printer problem",
    "printer issue",
    "my printer",
]


def bot(calls: Callable[[int], list[tuple[str, dict[str, str]]]]) -> Callable[[Ask], Reply]:
    """A model that looks up through the night as long as it may; `calls` are those of its nth answer."""
    asked = itertools.count()

    def play(ask: Ask) -> Reply:
        number = next(asked)
        if not ask.tools or number >= NIGHT:
            return Reply(ANSWER)
        return Reply("Let me look that up.", tool_calls=calls(number))

    return play


def put(provider: ProviderServer, play: Callable[[Ask], Reply]) -> None:
    provider.script("bot", play, models=["gpt-4o", "claude-sonnet-5"])


@all_ways
def test_the_same_call_with_the_same_result_is_stopped(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    put(provider, bot(lambda n: [("lookup", {"q": "printer"})]))
    gateway = start()
    agent = KINDS[kind](url=gateway.url, tools={"lookup": lambda q: ARTICLE}, stream=stream)
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) == 3
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["status_reason"], run["steps"]) == ("stopped_loop", "loop_detected", 4)
    assert run["tools"] == {"lookup": {"calls": 3, "errors": 0}}


@two_ways
def test_an_argument_that_changes_with_every_call_does_not_hide_it(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    put(provider, bot(lambda n: [("lookup", {"q": "printer", "request_id": str(uuid.uuid4())})]))
    gateway = start()
    agent = KINDS[kind](url=gateway.url, tools={"lookup": lambda q, request_id: ARTICLE}, stream=stream)
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) == 3
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["status_reason"]) == ("stopped_loop", "loop_detected")


@pytest.mark.parametrize(
    "found", [lambda q: ARTICLE, lambda q: f"No article matches {q!r}."], ids=["article", "nothing"]
)
@every_way
def test_the_same_question_in_other_words_is_stopped(
    start: Start, provider: ProviderServer, kind: str, stream: bool, found: Callable[[str], str]
) -> None:
    put(provider, bot(lambda n: [("lookup", {"q": PHRASES[n % len(PHRASES)]})]))
    gateway = start()
    agent = KINDS[kind](url=gateway.url, tools={"lookup": found}, stream=stream)
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) <= 6
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["status_reason"]) == ("stopped_loop", "loop_detected")


@two_ways
def test_four_look_ups_at_a_time_are_stopped(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    put(provider, bot(lambda n: [("lookup", {"q": "printer"})] * 4))
    gateway = start()
    agent = KINDS[kind](url=gateway.url, tools={"lookup": lambda q: ARTICLE}, stream=stream)
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) <= 12
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["steps"]) == ("stopped_loop", 4)


@pytest.mark.parametrize("kind", ["chat", "messages"])
def test_without_loop_rules_the_run_still_lands_within_its_steps(
    start: Start, provider: ProviderServer, kind: str
) -> None:
    put(provider, bot(lambda n: [("lookup", {"q": "printer"})]))
    gateway = start(loops="null")
    agent = KINDS[kind](url=gateway.url, tools={"lookup": lambda q: ARTICLE})
    assert agent.run(TASK) == ANSWER
    assert len(agent.executed) == 24
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["status_reason"], run["steps"]) == ("stopped_steps", "step_limit_exceeded", 25)


@every_way
def test_the_next_question_of_the_same_customer_is_answered(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    put(provider, bot(lambda n: [("lookup", {"q": "printer"})]))
    gateway = start()
    agent = KINDS[kind](url=gateway.url, tools={"lookup": lambda q: ARTICLE}, stream=stream)
    assert agent.run(TASK) == ANSWER
    assert agent.run("And my scanner?") == ANSWER
    found = gateway.admin("GET", "/runs")["data"]
    assert len({run["id"] for run in found}) == 2
    assert len({run["session"] for run in found}) == 1
    assert len(agent.executed) == 6


@every_way
def test_it_is_answered_after_a_final_message_too(
    start: Start, provider: ProviderServer, kind: str, stream: bool
) -> None:
    """Then the last answer was the gateway's own."""
    put(provider, bot(lambda n: [("lookup", {"q": f"printer {n}"})]))
    gateway = start(runs="{max_steps: 2, on_exceed: final_message}")
    agent = KINDS[kind](url=gateway.url, tools={"lookup": lambda q: f"{q}: {q * 30}"}, stream=stream)
    assert "stopped before it was finished" in agent.run(TASK)
    if kind == "responses":
        return  # The provider has no such answer to go on from.
    assert "stopped before it was finished" in agent.run("And my scanner?")
    found = gateway.admin("GET", "/runs")["data"]
    assert [run["status"] for run in found] == ["stopped_steps"] * 2
    assert len({run["session"] for run in found}) == 1
