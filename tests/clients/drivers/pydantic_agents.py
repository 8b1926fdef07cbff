"""Agents of Pydantic AI on the models that `openai:…` and `anthropic:…` stand for."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
from pydantic_ai import Agent as Researcher  # type: ignore[import-not-found]
from pydantic_ai.models import infer_model  # type: ignore[import-not-found]
from pydantic_ai.providers.anthropic import AnthropicProvider  # type: ignore[import-not-found]
from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found]

from tests.clients.drivers.protocol import Agent, serve


def run(agent: Agent) -> str | None:
    """One agent of the provider that the job's `style` names, in an event loop of its own."""
    return asyncio.run(_run(agent))


async def _run(agent: Agent) -> str | None:
    style = agent.job.get("style", "openai")
    kind = anthropic.AsyncAnthropic if style == "anthropic" else openai.AsyncOpenAI
    async with kind(**agent.options) as client:
        model = infer_model(f"{style}:{agent.job['model']}", lambda name: _provider(name, client))
        researcher = Researcher(model, instructions="You are a careful researcher.")

        @researcher.tool_plain  # type: ignore[untyped-decorator]
        async def search(query: str) -> str:
            """Search the archive."""
            return await asyncio.to_thread(agent.search, query)

        if not agent.job.get("stream"):
            return str((await researcher.run(agent.prompt)).output)
        async with researcher.run_stream(agent.prompt) as running:
            return str(await running.get_output())


def _provider(name: str, client: Any) -> Any:
    if name == "anthropic":
        return AnthropicProvider(anthropic_client=client)
    return OpenAIProvider(openai_client=client)


if __name__ == "__main__":
    serve(run)
