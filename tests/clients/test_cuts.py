"""A provider's stream that breaks off never looks finished to a client, and never becomes a tool call."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import openai
import pytest

from gateway.testing import Ask, ProviderServer, Reply
from gateway.testing.script import CutHow
from tests.clients.clients import AGENTS, LANGGRAPH, NODE, OPENAI, Client, Drivers, each
from tests.support.gateway import ALICE, ThreadedGateway

pytestmark = pytest.mark.clients

QUERY = "rm -rf /data/archive"
CALL = Reply(tool_calls=[("search", {"query": QUERY})], chunks=3)
TEXT = Reply("The archive holds forty-two reports.", chunks=3)
EVERY_BYTE: dict[CutHow, int] = {"fin": 1, "clean": 1, "rst": 11}
"""A reset is what no client mistakes, so a sample of it will do."""


def cut_at(provider: ProviderServer, reply: Reply, how: CutHow) -> None:
    """Let `sim/cut` break off at the byte that the request's `seed` or prompt names; after the tool has
    answered it says that it is done."""

    def play(ask: Ask) -> Reply:
        if any(turn.role == "assistant" for turn in ask.turns):
            return Reply("Done.")
        at = ask.body.get("seed")
        at = int(ask.last_user_text.rpartition(" ")[2]) if at is None else at
        return replace(reply, cut_at_byte=at, cut_how=how, framing="chunked" if how == "clean" else "auto")

    provider.script("cut", play)


def length_of(provider: ProviderServer, gateway: ThreadedGateway, stream: bool) -> int:
    """Body bytes of the whole reply."""
    gateway.post({**request(10_000_000), "stream": stream})
    provider.wait_idle_blocking()
    return provider.journal.last.body_bytes


def request(seed: int) -> dict[str, object]:
    return {"model": "sim/cut", "messages": [{"role": "user", "content": "Clean up."}], "seed": seed}


@pytest.mark.parametrize("how", ["fin", "rst", "clean"])
@pytest.mark.parametrize("what", ["call", "text"])
async def test_a_stream_cut_at_any_byte_raises_unless_the_model_had_finished(
    what: str, how: CutHow, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    reply = CALL if what == "call" else TEXT
    cut_at(provider, reply, how)
    length = await asyncio.to_thread(length_of, provider, gateway, True)
    together = asyncio.Semaphore(8)

    async def read(sdk: openai.AsyncOpenAI, at: int) -> tuple[int, str, str | None, BaseException | None]:
        said, finish = "", None
        async with together:
            try:
                stream = await sdk.chat.completions.create(**request(at), stream=True)  # type: ignore[call-overload]
                async for chunk in stream:
                    choice = chunk.choices[0]
                    said += choice.delta.content or ""
                    for part in choice.delta.tool_calls or ():
                        said += part.function.arguments or ""
                    finish = choice.finish_reason or finish
            except openai.APIError as error:
                return at, said, finish, error
        return at, said, finish, None

    whole = f'{{"query":"{QUERY}"}}' if what == "call" else TEXT.text
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=ALICE, max_retries=0) as sdk:
        seen = await asyncio.gather(*(read(sdk, at) for at in range(0, length, EVERY_BYTE[how])))
    for at, said, finish, error in seen:
        if error is None:
            assert finish is not None, f"cut at {at}: a clean end after {said!r}"
            assert said == whole, f"cut at {at}: {said!r} passes for whole"
    broken = [at for at, _, _, error in seen if error is not None]
    assert len(broken) > len(seen) / 2


@pytest.mark.parametrize("how", ["fin", "rst", "clean"])
async def test_a_plain_answer_cut_at_any_byte_raises(
    how: CutHow, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    cut_at(provider, CALL, how)
    length = await asyncio.to_thread(length_of, provider, gateway, False)
    together = asyncio.Semaphore(8)

    async def read(sdk: openai.AsyncOpenAI, at: int) -> None:
        async with together:
            with pytest.raises(openai.APIStatusError) as caught:
                await sdk.chat.completions.create(**request(at))  # type: ignore[call-overload]
        assert caught.value.status_code in (502, 503)

    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=ALICE, max_retries=0) as sdk:
        await asyncio.gather(*(read(sdk, at) for at in range(0, length, EVERY_BYTE[how])))


@pytest.mark.parametrize("how", ["fin", "clean"])
@pytest.mark.parametrize("client", each([OPENAI[0], OPENAI[3], LANGGRAPH, AGENTS, NODE]))
def test_no_agent_runs_a_tool_call_that_was_cut(
    client: Client, how: CutHow, drivers: Drivers, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    cut_at(provider, CALL, how)
    length = length_of(provider, gateway, True)
    prompts = [f"Clean up, and stop at byte {at}" for at in range(0, length, 29)]
    results = drivers.play(client, gateway, prompts=prompts, model=client.on("cut"), stream=True, max_retries=0)
    assert {query for result in results for query in result.executed} <= {QUERY}
    for prompt, result in zip(prompts, results, strict=True):
        if result.error is None:
            assert (result.executed, result.answer) == ([QUERY], "Done."), prompt
    assert sum(result.error is not None for result in results) > len(results) / 2
