"""The older standard agent of LangGraph, `create_react_agent`, on `ChatOpenAI` or `ChatAnthropic`."""

from __future__ import annotations

import warnings
from typing import Any

from langchain_anthropic import ChatAnthropic  # type: ignore[import-not-found]
from langchain_core.tools import StructuredTool  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]
from langgraph.prebuilt import create_react_agent  # type: ignore[import-not-found]

from tests.clients.drivers.protocol import Agent, serve


def run(agent: Agent) -> str | None:
    """One agent on the model that the job's `style` says; streamed, it is followed message by message."""
    style = agent.job.get("style")
    kind = ChatAnthropic if style == "anthropic" else ChatOpenAI
    more: dict[str, Any] = {"use_responses_api": True} if style == "responses" else {}
    model: Any = kind(
        model=agent.job["model"],
        temperature=0,
        streaming=bool(agent.job.get("stream")),
        **more,
        **agent.options,
    )
    tool = StructuredTool.from_function(agent.search, name="search", description="Search the archive.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = create_react_agent(model, [tool], prompt="You are a careful researcher.")
    task = {"messages": [("user", agent.prompt)]}
    if not agent.job.get("stream"):
        return str(graph.invoke(task, {"recursion_limit": 30})["messages"][-1].text)
    last: Any = None
    for mode, seen in graph.stream(task, {"recursion_limit": 30}, stream_mode=["messages", "values"]):
        if mode == "values":
            last = seen
    return str(last["messages"][-1].text)


if __name__ == "__main__":
    serve(run)
