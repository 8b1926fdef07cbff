"""What each client makes of a refusal: one attempt, the right exception, the code; and of what passes."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.testing import Ask, ProviderServer, Reply, error_reply
from tests.clients.clients import (
    EVERY,
    FRAMEWORKS,
    MESSAGES,
    OPENAI,
    RESPONSES_KEPT,
    SDKS,
    SMOL_CODE,
    STEPS,
    Client,
    Drivers,
    at_the_ends,
    each,
)
from tests.clients.records import Run, runs_of
from tests.clients.scripts import Play, script_of
from tests.clients.tap import tapped
from tests.integration.conftest import MakeGateway
from tests.support.gateway import ThreadedGateway, wait_until

pytestmark = pytest.mark.clients

PROMPT = "Why does the printer on the third floor print everything twice?"
STARTED_S = 90.0
"""A client asks within it, though its program has yet to be started."""
BUDGET = "budgets: [{name: run, per: run, limit_usd: 0.25}]\n"
RETRYING = [*OPENAI[1:3], *SDKS, *FRAMEWORKS, SMOL_CODE]


def dear(provider: ProviderServer, client: Client) -> str:
    """The client's own script, each answer of which costs ten cents."""
    play = script_of(client)

    def reply(ask: Ask) -> Reply:
        return replace(play(ask), prompt_tokens=20_000, completion_tokens=5_000, ignore_limits=True)

    provider.script("dear", reply)
    return client.on("dear")


def failing_first(client: Client, failure: Reply, times: int) -> Play:
    """The client's own script, whose first answers are a failure."""
    play = script_of(client)
    asked = itertools.count()
    return lambda ask: failure if next(asked) < times else play(ask)


# A refusal comes before the first byte: an SDK has nothing to do otherwise for a stream.
@pytest.mark.parametrize(
    "stream", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "stream"]
)
@pytest.mark.parametrize("client", at_the_ends(EVERY))
def test_an_exhausted_budget_ends_the_agent_after_one_attempt(
    client: Client, stream: bool, drivers: Drivers, provider: ProviderServer, make_gateway: MakeGateway
) -> None:
    gateway = make_gateway(BUDGET)
    with tapped(gateway) as tap:
        (result,) = drivers.play(client, gateway, PROMPT, stream=stream, model=dear(provider, client))
    assert result.answer is None
    assert result.error is not None
    assert (result.error["code"], result.error["status"]) == ("run_budget_exceeded", 400)
    assert (client.one_error or "BadRequestError") in result.error["kinds"]
    (run,) = runs_of(gateway)
    assert run.status == "stopped_budget"
    assert run.id in result.error["message"]
    assert [refusal["code"] for refusal in run.refusals] == ["run_budget_exceeded"]
    assert len(tap.requests) == len(run.attempts) + 1 < STEPS
    assert len(provider.journal) == len(run.attempts)


def settled(gateway: ThreadedGateway) -> list[Run]:
    """Runs of which a step is over."""
    return [run for run in runs_of(gateway) if run.attempts]


@pytest.mark.parametrize("client", at_the_ends(EVERY))
def test_a_killed_run_ends_the_agent_after_one_attempt(
    client: Client, drivers: Drivers, gateway: ThreadedGateway, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"

    def kill() -> None:
        first = wait_until(lambda: settled(gateway), STARTED_S, "the run's first step")[0]
        gateway.admin("POST", "/kills", {"scope": "run", "id": first.id, "reason": "enough"})
        killed.touch()

    operator = threading.Thread(target=kill)
    operator.start()
    with tapped(gateway) as tap:
        (result,) = drivers.play(client, gateway, PROMPT, tool_until=str(killed))
    operator.join()
    assert result.error is not None
    assert (result.error["code"], result.error["status"]) == ("run_killed", 400)
    assert (client.one_error or "BadRequestError") in result.error["kinds"]
    assert "enough" in result.error["message"]
    (run,) = runs_of(gateway)
    assert run.status == "killed"
    assert len(tap.requests) == len(run.attempts) + 1 < STEPS


@pytest.mark.parametrize("client", each([*SDKS, RESPONSES_KEPT[2], *FRAMEWORKS]))
def test_a_kill_in_the_middle_of_a_stream_ends_the_agent_after_one_attempt(
    client: Client, drivers: Drivers, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    provider.script("endless", Reply("word " * 3000, chunks=3000, chunk_delay_s=0.01, ignore_limits=True))

    def kill() -> None:
        wait_until(lambda: any(call.chunks > 12 for call in provider.journal), STARTED_S, "the stream")
        gateway.admin("POST", "/kills", {"scope": "user", "id": "alice", "reason": "enough"})

    operator = threading.Thread(target=kill)
    operator.start()
    with tapped(gateway) as tap:
        (result,) = drivers.play(client, gateway, PROMPT, stream=True, model=client.on("endless"))
    operator.join()
    assert result.answer is None
    assert result.error is not None
    assert result.tells("user_killed") or not client.codes_in_streams, result.error
    assert "enough" in result.error["message"]
    assert len(tap.requests) == 1
    provider.wait_idle_blocking()
    assert provider.journal.last.client_left
    (run,) = runs_of(gateway)
    assert run.status == "killed"
    assert run.id in result.error["message"]
    assert [attempt["outcome"] for attempt in run.attempts] == ["killed"]


@pytest.mark.parametrize("client", at_the_ends(EVERY))
def test_a_wrong_key_ends_the_agent_after_one_attempt(
    client: Client, drivers: Drivers, gateway: ThreadedGateway
) -> None:
    with tapped(gateway) as tap:
        (result,) = drivers.play(client, gateway, PROMPT, api_key="gk-nobody-0123456789")
    assert result.error is not None
    assert (result.error["code"], result.error["status"]) == ("invalid_api_key", 401)
    assert (client.one_error or "AuthenticationError") in result.error["kinds"]
    assert len(tap.requests) == 1
    assert runs_of(gateway) == []


# A call fails before its first byte, so an SDK has nothing to do otherwise for a stream.
@pytest.mark.parametrize(
    "stream", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "stream"]
)
@pytest.mark.parametrize("client", each(RETRYING))
def test_retries_of_a_failed_call_are_the_same_step(
    client: Client, stream: bool, drivers: Drivers, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    provider.script("shaky", failing_first(client, error_reply(503), 2))
    with tapped(gateway) as tap:
        (result,) = drivers.play(client, gateway, PROMPT, stream=stream, model=client.on("shaky"))
    assert result.error is None, result.error
    (run,) = runs_of(gateway)
    assert run.steps == [1, 2, 3, 4, 5]
    assert run.status == "completed"
    assert [attempt["ordinal"] for attempt in run.attempts].count(1) == 3
    told = [request.get("x-stainless-retry-count") for request in tap.requests[:3]]
    assert told == (["0", "1", "2"] if client.tells_retries else [None] * 3)


@pytest.mark.parametrize("client", each([*SDKS, *FRAMEWORKS]))
def test_a_provider_that_stays_down_is_asked_three_times_for_one_step(
    client: Client, drivers: Drivers, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    with tapped(gateway) as tap:
        (result,) = drivers.play(client, gateway, PROMPT, model=client.on("error-503"))
    assert result.error is not None
    down = 529 if client.surface is MESSAGES else 503
    assert (result.error["code"], result.error["status"]) == ("upstream_unavailable", down)
    assert {"InternalServerError", "OverloadedError", client.one_error} & set(result.error["kinds"])
    assert len(tap.requests) == 3
    (run,) = runs_of(gateway)
    assert run.steps == [1]


@pytest.mark.parametrize("client", each(SDKS))
def test_a_providers_retry_after_is_waited_for(
    client: Client, drivers: Drivers, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    busy = error_reply(429, headers=[("retry-after", "2")])
    provider.script("busy", failing_first(client, busy, 1))
    began = time.monotonic()
    (result,) = drivers.play(client, gateway, PROMPT, model=client.on("busy"))
    assert result.error is None, result.error
    assert 2 <= result.seconds <= time.monotonic() - began < 30
    (run,) = runs_of(gateway)
    assert run.steps == [1, 2, 3, 4, 5]
    assert len(run.attempts) == STEPS + 1
