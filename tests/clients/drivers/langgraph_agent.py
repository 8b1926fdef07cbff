"""The standard tool agent of LangChain, which is a LangGraph graph, on `ChatOpenAI`."""

from __future__ import annotations

from langchain.agents import create_agent  # type: ignore[import-not-found]
from langchain_core.tools import StructuredTool  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

from tests.clients.drivers.protocol import Agent, serve


def run(agent: Agent) -> str | None:
    """One agent."""
    model = ChatOpenAI(
        model=agent.job["model"], temperature=0, streaming=bool(agent.job.get("stream")), **agent.options
    )
    tool = StructuredTool.from_function(agent.search, name="search", description="Search the archive.")
    graph = create_agent(model, [tool], system_prompt="You are a careful researcher.")
    final = graph.invoke({"messages": [("user", agent.prompt)]}, {"recursion_limit": 30})
    return str(final["messages"][-1].content)


if __name__ == "__main__":
    serve(run)
