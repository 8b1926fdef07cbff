"""A provider's stream that breaks off never looks finished to a client, and never becomes a tool call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import anthropic
import openai
import pytest

from gateway.domain import Surface
from gateway.testing import Ask, ProviderServer, Reply
from gateway.testing.script import CutHow
from tests.clients.clients import (
    CHAT,
    FRAMEWORKS,
    MESSAGES,
    RESPONSES,
    RESPONSES_KEPT,
    SDKS,
    Client,
    Drivers,
    each,
)
from tests.support.gateway import ALICE, ThreadedGateway

pytestmark = pytest.mark.clients

QUERY = "rm -rf /data/archive"
CALL = Reply(tool_calls=[("search", {"query": QUERY})], chunks=3)
TEXT = Reply("The archive holds forty-two reports.", chunks=3)
NOWHERE = 10_000_000
"""A byte that no answer has."""
CUTS_OF_AN_AGENT = 20
TOGETHER = 8


def cut_as_asked(provider: ProviderServer, reply: Reply, how: CutHow) -> None:
    """Let `cut` break off at the byte that the prompt ends with; after the tool has answered it says that it
    is done."""

    def play(ask: Ask) -> Reply:
        if any(turn.role == "assistant" for turn in ask.turns):
            return Reply("Done.")
        at = int(ask.last_user_text.rpartition(" ")[2])
        return replace(reply, cut_at_byte=at, cut_how=how, framing="chunked" if how == "clean" else "auto")

    provider.script("cut", play)


def prompt(at: int) -> str:
    return f"Clean up, and stop at byte {at}"


# -- SDKs, event by event ---------------------------------------------------------------------------------


@dataclass
class Heard:
    """What an SDK gave of a stream: its texts or arguments, and whether the model's own end came."""

    said: str = ""
    ended: bool = False
    failed: bool = False
    """Raised, or told as an event, which on Responses is all that the SDK does."""


@dataclass(frozen=True)
class Sdk:
    """An SDK on one surface."""

    connect: Callable[[str], Any]
    stream: Callable[[Any, str, Heard], Awaitable[None]]
    plain: Callable[[Any, str], Awaitable[Any]]
    errors: tuple[type[Exception], ...]
    """What it raises for a failure."""


def _openai(origin: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=ALICE, max_retries=0)


def _anthropic(origin: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=origin, api_key=ALICE, max_retries=0)


async def _hear_chat(sdk: openai.AsyncOpenAI, text: str, heard: Heard) -> None:
    async for chunk in await _ask_chat(sdk, text, stream=True):
        choice = chunk.choices[0]
        heard.said += choice.delta.content or ""
        for part in choice.delta.tool_calls or ():
            heard.said += part.function.arguments or ""
        heard.ended = heard.ended or choice.finish_reason is not None


async def _ask_chat(sdk: openai.AsyncOpenAI, text: str, **more: Any) -> Any:
    return await sdk.chat.completions.create(
        model="sim/cut", messages=[{"role": "user", "content": text}], **more
    )


async def _hear_responses(sdk: openai.AsyncOpenAI, text: str, heard: Heard) -> None:
    async for event in await _ask_responses(sdk, text, stream=True):
        if event.type in ("response.output_text.delta", "response.function_call_arguments.delta"):
            heard.said += event.delta
        heard.failed = heard.failed or event.type in ("response.failed", "error")
        heard.ended = heard.ended or event.type in ("response.completed", "response.incomplete")


async def _ask_responses(sdk: openai.AsyncOpenAI, text: str, **more: Any) -> Any:
    return await sdk.responses.create(model="sim/cut", input=text, **more)


async def _hear_messages(sdk: anthropic.AsyncAnthropic, text: str, heard: Heard) -> None:
    async for event in await _ask_messages(sdk, text, stream=True):
        if event.type == "content_block_delta":
            heard.said += getattr(event.delta, "text", "") + getattr(event.delta, "partial_json", "")
        heard.ended = heard.ended or event.type == "message_stop"


async def _ask_messages(sdk: anthropic.AsyncAnthropic, text: str, **more: Any) -> Any:
    return await sdk.messages.create(
        model="claude/cut", max_tokens=100, messages=[{"role": "user", "content": text}], **more
    )


SDK_OF = {
    CHAT: Sdk(_openai, _hear_chat, _ask_chat, (openai.APIError,)),
    RESPONSES: Sdk(_openai, _hear_responses, _ask_responses, (openai.APIError,)),
    MESSAGES: Sdk(_anthropic, _hear_messages, _ask_messages, (anthropic.APIError,)),
}
# On chat a half call has the fewest signs of it; a reset is what no client mistakes. A sample will do: parsers are
# cut at every byte in their own tests.
STREAM_CUTS: list[tuple[Surface, str, CutHow, int]] = [
    *((CHAT, "call", how, 4) for how in ("fin", "clean")),
    *((CHAT, "text", how, 5) for how in ("fin", "clean")),
    *((CHAT, what, "rst", 11) for what in ("call", "text")),
    *((RESPONSES, "call", how, 59) for how in ("fin", "clean")),
    *((RESPONSES, "text", how, 131) for how in ("fin", "clean", "rst")),
    *((MESSAGES, "call", how, 11) for how in ("fin", "clean")),
    *((MESSAGES, "text", how, 29) for how in ("fin", "clean", "rst")),
]
EVERY_BYTE = [pytest.param(CHAT, "call", how, 1, marks=pytest.mark.slow) for how in ("fin", "clean")]
PLAIN_CUTS: list[tuple[Surface, CutHow, int]] = [
    *((CHAT, how, 3) for how in ("fin", "clean")),
    (CHAT, "rst", 11),
    *((RESPONSES, how, 59) for how in ("fin", "clean")),
    *((MESSAGES, how, 17) for how in ("fin", "clean")),
]


@pytest.mark.parametrize(("surface", "what", "how", "stride"), [*STREAM_CUTS, *EVERY_BYTE])
async def test_a_stream_cut_at_any_byte_raises_unless_the_model_had_finished(
    surface: Surface,
    what: str,
    how: CutHow,
    stride: int,
    provider: ProviderServer,
    gateway: ThreadedGateway,
) -> None:
    cut_as_asked(provider, CALL if what == "call" else TEXT, how)
    sdk = SDK_OF[surface]
    together = asyncio.Semaphore(TOGETHER)

    async def hear(client: Any, at: int) -> tuple[int, Heard]:
        heard = Heard()
        async with together:
            try:
                await sdk.stream(client, prompt(at), heard)
            except sdk.errors:
                heard.failed = True
        return at, heard

    async with sdk.connect(gateway.url) as client:
        _, whole = await hear(client, NOWHERE)
        assert whole.said == (f'{{"query":"{QUERY}"}}' if what == "call" else TEXT.text)
        length = await asyncio.to_thread(body_bytes, provider)
        seen = await asyncio.gather(*(hear(client, at) for at in range(0, length, stride)))
    for at, heard in seen:
        assert heard.failed or heard == whole, f"cut at {at}: {heard} passes for whole"
    assert sum(heard.failed for _, heard in seen) > len(seen) / 2


@pytest.mark.parametrize(("surface", "how", "stride"), PLAIN_CUTS)
async def test_a_plain_answer_cut_at_any_byte_raises(
    surface: Surface, how: CutHow, stride: int, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    cut_as_asked(provider, CALL, how)
    sdk = SDK_OF[surface]
    together = asyncio.Semaphore(TOGETHER)

    async def ask(client: Any, at: int) -> None:
        async with together:
            with pytest.raises(sdk.errors) as caught:
                await sdk.plain(client, prompt(at))
        assert getattr(caught.value, "status_code", None) in (502, 503, 529)

    async with sdk.connect(gateway.url) as client:
        await sdk.plain(client, prompt(NOWHERE))
        length = await asyncio.to_thread(body_bytes, provider)
        await asyncio.gather(*(ask(client, at) for at in range(0, length, stride)))


def body_bytes(provider: ProviderServer) -> int:
    """The length of the first answer."""
    provider.wait_idle_blocking()
    return provider.journal[0].body_bytes


# -- agents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", pytest.param("clean", marks=pytest.mark.slow)])
@pytest.mark.parametrize("client", each([*SDKS, RESPONSES_KEPT[2], *FRAMEWORKS]))
def test_no_agent_runs_a_tool_call_that_was_cut(
    client: Client, how: CutHow, drivers: Drivers, provider: ProviderServer, gateway: ThreadedGateway
) -> None:
    cut_as_asked(provider, CALL, how)
    job: dict[str, Any] = {"model": client.on("cut"), "stream": True, "max_retries": 0}
    (whole,) = drivers.play(client, gateway, prompt(NOWHERE), **job)
    assert (whole.executed, whole.answer) == ([QUERY], "Done.")
    length = body_bytes(provider)
    prompts = [prompt(at) for at in range(0, length, length // CUTS_OF_AN_AGENT)]
    results = drivers.play(client, gateway, prompts=prompts, **job)
    assert {query for result in results for query in result.executed} <= {QUERY}
    for asked, result in zip(prompts, results, strict=True):
        if result.error is None:
            assert (result.executed, result.answer) == ([QUERY], "Done."), asked
    assert sum(result.error is not None for result in results) > len(results) / 2
