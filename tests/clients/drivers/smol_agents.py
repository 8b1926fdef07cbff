"""The two agents of smolagents: one that calls tools, one that writes code."""

from __future__ import annotations

from smolagents import (  # type: ignore[import-not-found]
    CodeAgent,
    LogLevel,
    OpenAIModel,
    ToolCallingAgent,
    tool,
)

from tests.clients.drivers.protocol import Agent, serve


def run(agent: Agent) -> str | None:
    """One agent as the job's `style` says."""

    def search(query: str) -> str:
        """Search the archive.

        Args:
            query: What to look for.
        """
        return agent.search(query)

    model = OpenAIModel(
        model_id=agent.job["model"],
        api_base=agent.base_url,
        api_key=agent.job["api_key"],
        client_kwargs={k: v for k, v in agent.options.items() if k in ("max_retries", "default_headers")},
    )
    kind = CodeAgent if agent.job.get("style") == "code" else ToolCallingAgent
    player = kind(
        tools=[tool(search)],
        model=model,
        max_steps=8,
        verbosity_level=LogLevel.OFF,
        stream_outputs=bool(agent.job.get("stream")),
    )
    return str(player.run(agent.prompt))


if __name__ == "__main__":
    serve(run)
