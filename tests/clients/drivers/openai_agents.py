"""An agent of the OpenAI Agents SDK, on its default model, which speaks Responses, or on that for chat."""

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
        chat = agent.job.get("style") == "chat"
        provider = sdk.OpenAIProvider(openai_client=client, use_responses=False if chat else None)
        researcher = sdk.Agent(
            name="Researcher",
            instructions="You are a careful researcher.",
            tools=[sdk.function_tool(search)],
            model=agent.job["model"],
        )
        config = sdk.RunConfig(model_provider=provider)
        if not agent.job.get("stream"):
            return str((await sdk.Runner.run(researcher, agent.prompt, run_config=config)).final_output)
        running = sdk.Runner.run_streamed(researcher, agent.prompt, run_config=config)
        async for _ in running.stream_events():
            pass
        return str(running.final_output)


if __name__ == "__main__":
    sdk.set_tracing_disabled(True)
    serve(run)
