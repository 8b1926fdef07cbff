"""Agents that answer by a tool of their framework's own: Pydantic AI with a type for its output."""

from __future__ import annotations

import asyncio

import anthropic
import openai
from pydantic import BaseModel
from pydantic_ai import Agent as Researcher  # type: ignore[import-not-found]
from pydantic_ai.models import infer_model  # type: ignore[import-not-found]

from tests.clients.drivers.protocol import Agent, serve
from tests.clients.drivers.pydantic_agents import _provider


class Report(BaseModel):
    """What the agent finds out."""

    answer: str
    sure: bool


def run(agent: Agent) -> str | None:
    """One agent of the provider that the job's `style` names, in an event loop of its own."""
    return asyncio.run(_run(agent))


async def _run(agent: Agent) -> str | None:
    style = agent.job.get("style", "openai")
    kind = anthropic.AsyncAnthropic if style == "anthropic" else openai.AsyncOpenAI
    async with kind(**agent.options) as client:
        model = infer_model(f"{style}:{agent.job['model']}", lambda name: _provider(name, client))
        researcher = Researcher(model, instructions="You are a careful researcher.", output_type=Report)

        @researcher.tool_plain  # type: ignore[untyped-decorator]
        async def search(query: str) -> str:
            """Search the archive."""
            return await asyncio.to_thread(agent.search, query)

        if not agent.job.get("stream"):
            found = (await researcher.run(agent.prompt)).output
        else:
            async with researcher.run_stream(agent.prompt) as running:
                found = await running.get_output()
        return f"{found.answer} (sure: {found.sure})"


if __name__ == "__main__":
    serve(run)
