"""A client of one API on a model of a provider that speaks another: the same loop, the same answer, an exact
bill."""

from __future__ import annotations

import pytest

from gateway.domain import Surface
from gateway.testing import ProviderServer
from tests.clients.clients import (
    AGENTS_DEFAULT,
    ANTHROPIC,
    CHAT,
    LANGGRAPH,
    LANGGRAPH_CLAUDE,
    MESSAGES,
    NODE,
    NODE_ANTHROPIC,
    NODE_RESPONSES,
    OPENAI,
    PYDANTIC,
    PYDANTIC_CLAUDE,
    RESPONSES_LOOPS,
    STEPS,
    VERCEL,
    VERCEL_CHAT,
    VERCEL_CLAUDE,
    Client,
    Drivers,
    each,
)
from tests.clients.policy import served_cost
from tests.clients.records import runs_of
from tests.support.gateway import ThreadedGateway

pytestmark = pytest.mark.clients

PROMPT = "Why does the printer on the third floor print everything twice?"
PATHS = {CHAT: "/v1/chat/completions", MESSAGES: "/v1/messages"}
ON_ANTHROPIC = [
    *(OPENAI[0], OPENAI[3], LANGGRAPH, NODE, VERCEL_CHAT),
    *(RESPONSES_LOOPS[2], AGENTS_DEFAULT, PYDANTIC, NODE_RESPONSES, VERCEL),
]
ON_CHAT = [RESPONSES_LOOPS[0], AGENTS_DEFAULT]
ON_OPENAI = [*ANTHROPIC, LANGGRAPH_CLAUDE, PYDANTIC_CLAUDE, NODE_ANTHROPIC, VERCEL_CLAUDE]
LANES = [
    *each(ON_ANTHROPIC, "claude", MESSAGES),
    *each(ON_CHAT, "chatonly", CHAT),
    *each(ON_OPENAI, "sim", CHAT),
]
"""(client, family of models, what their provider is spoken to in)."""


@pytest.mark.parametrize(
    "stream", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "stream"]
)
@pytest.mark.parametrize(("client", "family", "spoken"), LANES)
def test_a_loop_on_a_model_of_another_api_comes_to_the_same_answer_at_an_exact_price(
    client: Client,
    family: str,
    spoken: Surface,
    stream: bool,
    drivers: Drivers,
    provider: ProviderServer,
    gateway: ThreadedGateway,
) -> None:
    (native,) = drivers.play(client, gateway, PROMPT, stream=stream)
    provider.wait_idle_blocking()
    provider.journal.clear()
    (other,) = drivers.play(client, gateway, PROMPT, stream=stream, model=f"{family}/{client.script}")
    assert other.error is None, other.error
    assert other.answer == native.answer != ""
    assert other.executed == native.executed
    assert len(other.executed) == STEPS - 1
    assert {(attempt.path, attempt.stream) for attempt in provider.journal} == {(PATHS[spoken], stream)}
    run = runs_of(gateway)[-1]
    assert run.steps == [1, 2, 3, 4, 5]
    assert run.status == "completed"
    assert {attempt["surface"] for attempt in run.attempts} == {client.surface}
    assert run.cost == served_cost(provider) > 0
