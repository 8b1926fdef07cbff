"""The standard tool agent of LangChain, which is a LangGraph graph, on `ChatOpenAI` or `ChatAnthropic`."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent  # type: ignore[import-not-found]
from langchain_anthropic import ChatAnthropic  # type: ignore[import-not-found]
from langchain_core.tools import StructuredTool  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

from tests.clients.drivers.protocol import Agent, serve


def run(agent: Agent) -> str | None:
    """One agent on the model that the job's `style` says."""
    kind = ChatAnthropic if agent.job.get("style") == "anthropic" else ChatOpenAI
    model: Any = kind(
        model=agent.job["model"], temperature=0, streaming=bool(agent.job.get("stream")), **agent.options
    )
    tool = StructuredTool.from_function(agent.search, name="search", description="Search the archive.")
    graph = create_agent(model, [tool], system_prompt="You are a careful researcher.")
    final = graph.invoke({"messages": [("user", agent.prompt)]}, {"recursion_limit": 30})
    return str(final["messages"][-1].text)


if __name__ == "__main__":
    serve(run)
