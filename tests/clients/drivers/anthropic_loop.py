"""A tool loop written by hand with the plain Anthropic SDK."""

from __future__ import annotations

from typing import Any

import anthropic

from tests.clients.drivers.protocol import Agent, serve

MAX_STEPS = 12
MAX_TOKENS = 1024
TOOLS: list[Any] = [
    {
        "name": "search",
        "description": "Search the archive.",
        "input_schema": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    }
]


def run(agent: Agent) -> str | None:
    """Call the model until it answers without a tool call, running every call that it makes."""
    messages: list[Any] = [{"role": "user", "content": agent.prompt}]
    with anthropic.Anthropic(**agent.options) as client:
        for _ in range(MAX_STEPS):
            message = ask(client, agent, messages)
            messages.append({"role": "assistant", "content": message.content})
            # Whatever the stop reason says: an agent that looks only at the blocks runs the more of them.
            results = [
                {
                    "type": "tool_result",
                    "tool_use_id": block.id,
                    "content": agent.search(block.input["query"]),
                }
                for block in message.content
                if block.type == "tool_use"
            ]
            if not results:
                return "".join(block.text for block in message.content if block.type == "text")
            messages.append({"role": "user", "content": results})
    return None


def ask(client: anthropic.Anthropic, agent: Agent, messages: list[Any]) -> Any:
    """The model's message, in a stream as the SDK puts it together."""
    request: dict[str, Any] = {
        "model": agent.job["model"],
        "max_tokens": MAX_TOKENS,
        "system": "You are a careful researcher.",
        "messages": messages,
        "tools": TOOLS,
    }
    if not agent.job.get("stream"):
        return client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        return stream.get_final_message()


if __name__ == "__main__":
    serve(run)
