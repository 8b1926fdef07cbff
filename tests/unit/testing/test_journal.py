"""The journal is an independent witness: it counts what was generated, whoever is still listening."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.domain import Surface, Usage
from gateway.testing import ExactTokens, Journal, ProviderServer, Reply
from tests.unit.testing.conftest import chat_body, fetch, leave_after, request_bytes

WORDS = " word" * 40


@pytest.mark.parametrize("events", [1, 5, 20, 43])
async def test_client_that_leaves_is_billed_for_what_was_generated_until_then(
    provider: ProviderServer, events: int
) -> None:
    provider.script("x", Reply(WORDS, chunk_delay_s=0.005))
    await leave_after(provider, chat_body("sim/x", stream=True), events)
    await provider.wait_idle(received=1)
    attempt = provider.journal.last
    # The first event carries the role, the last two the finish reason and the terminator.
    assert min(events - 1, 40) <= attempt.completion_tokens <= min(events + 2, 40)
    assert attempt.prompt_tokens > 0
    if events < 43:
        assert attempt.client_left
        assert attempt.client_left_at is not None
        assert attempt.client_left_at_chunk is not None
        assert events <= attempt.client_left_at_chunk <= events + 3


async def test_provider_that_generates_on_bills_everything(provider: ProviderServer) -> None:
    provider.script("x", Reply(WORDS, chunk_delay_s=0.003, on_disconnect="continue"))
    await leave_after(provider, chat_body("sim/x", stream=True), 5)
    await provider.wait_idle(received=1)
    attempt = provider.journal.last
    assert attempt.client_left
    assert attempt.completion_tokens == 40
    assert attempt.chunks < 10


async def _leave_at(provider: ProviderServer, body: dict[str, Any], seconds: float) -> None:
    _, writer = await asyncio.open_connection(provider.host, provider.port)
    writer.write(request_bytes("/v1/chat/completions", body))
    await asyncio.sleep(seconds)
    writer.close()
    await provider.wait_idle(received=1)


@pytest.mark.parametrize("on_disconnect", ["abort", "continue"])
async def test_plain_reply_is_generated_while_the_client_waits(
    provider: ProviderServer, on_disconnect: Any
) -> None:
    provider.script("x", Reply(WORDS, chunk_delay_s=0.01, on_disconnect=on_disconnect))
    await _leave_at(provider, chat_body("sim/x"), 0.1)
    attempt = provider.journal.last
    assert attempt.client_left
    assert attempt.status == 0
    if on_disconnect == "abort":
        assert 0 < attempt.completion_tokens < 40
    else:
        assert attempt.completion_tokens == 40


async def test_attempt_keeps_the_request_as_it_came(provider: ProviderServer) -> None:
    body = chat_body("sim/echo", "naïve")
    await fetch(provider, body, headers="X-Guardrail-Attempt-Id: att_7\r\nconnection: close\r\n")
    attempt = provider.journal.last
    assert attempt.guardrail_attempt_id == "att_7"
    assert ("X-Guardrail-Attempt-Id", "att_7") in attempt.headers
    assert attempt.header("HOST") == "sim"
    assert "naïve".encode() in attempt.body
    assert (attempt.method, attempt.path, attempt.surface) == ("POST", "/v1/chat/completions", Surface.CHAT)
    assert attempt.finished_at is not None
    assert attempt.bytes_written > attempt.body_bytes > 0


async def test_served_usage_is_in_disjoint_buckets(provider: ProviderServer) -> None:
    reply = Reply("four more words here", prompt_tokens=100, cached_tokens=60, reasoning_tokens=10)
    provider.script("x", reply)
    await fetch(provider, chat_body("sim/x"))
    text = ExactTokens().count("four more words here")
    assert provider.journal.last.served == Usage(
        input_uncached=40, cache_read=60, output_text=text, output_reasoning=10, source="provider"
    )


async def test_scripted_bill_grows_with_the_stream(provider: ProviderServer) -> None:
    provider.script("x", Reply(WORDS, completion_tokens=4_000, chunk_delay_s=0.005))
    await leave_after(provider, chat_body("sim/x", stream=True), 11)
    await provider.wait_idle(received=1)
    assert 1_000 <= provider.journal.last.completion_tokens <= 1_300


async def test_tools_are_counted_as_their_json(provider: ProviderServer) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "does a thing"}}]
    await fetch(provider, chat_body("sim/echo"))
    await fetch(provider, chat_body("sim/echo", tools=tools))
    plain, with_tools = provider.journal
    counted = ExactTokens().count(
        '[{"type":"function","function":{"name":"f","description":"does a thing"}}]'
    )
    assert with_tools.prompt_tokens - plain.prompt_tokens == counted


async def test_oldest_attempts_are_dropped_and_still_summed() -> None:
    async with ProviderServer(journal=Journal(keep=2)) as provider:
        for _ in range(5):
            await fetch(provider, chat_body("sim/tokens-10-1"))
        assert [attempt.number for attempt in provider.journal] == [4, 5]
        assert provider.journal.dropped == 3
        assert provider.journal.totals.prompt_tokens == 50
        provider.journal.clear()
        assert len(provider.journal) == 0
        assert provider.journal.totals.attempts == 0


async def test_stopping_ends_what_is_under_way() -> None:
    server = await ProviderServer().start()
    server.script("x", Reply("a", stall_at="head"))
    waiting = asyncio.create_task(fetch(server, chat_body("sim/x")))
    while not server.journal.active:
        await asyncio.sleep(0.001)
    with pytest.raises(TimeoutError, match="busy with 1"):
        await server.wait_idle(timeout_s=0.01)
    await server.stop()
    assert server.journal.active == 0
    assert not server.journal.last.client_left
    await waiting
    assert server.open_connections == 0
