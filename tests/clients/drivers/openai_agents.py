"""An agent of the OpenAI Agents SDK on its chat-completions model."""

from __future__ import annotations

import asyncio

import agents as sdk  # type: ignore[import-not-found]
import openai

from tests.clients.drivers.protocol import Agent, serve


def run(agent: Agent) -> str | None:
    """One agent, in an event loop of its own."""
    return asyncio.run(_run(agent))


async def _run(agent: Agent) -> str | None:
    def search(query: str) -> str:
        """Search the archive."""
        return agent.search(query)

    async with openai.AsyncOpenAI(**agent.options) as client:
        model = sdk.OpenAIChatCompletionsModel(agent.job["model"], client)
        researcher = sdk.Agent(
            name="Researcher",
            instructions="You are a careful researcher.",
            tools=[sdk.function_tool(search)],
            model=model,
        )
        if not agent.job.get("stream"):
            return str((await sdk.Runner.run(researcher, agent.prompt)).final_output)
        running = sdk.Runner.run_streamed(researcher, agent.prompt)
        async for _ in running.stream_events():
            pass
        return str(running.final_output)


if __name__ == "__main__":
    sdk.set_tracing_disabled(True)
    serve(run)
