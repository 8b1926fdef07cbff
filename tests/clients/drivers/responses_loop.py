"""A tool loop written by hand with the plain OpenAI SDK on the Responses API.

It keeps the history itself, or with `style: kept` leaves it to the provider and names the response before.
"""

from __future__ import annotations

import json
from typing import Any

import openai

from tests.clients.drivers.protocol import Agent, AnswerFailed, serve

MAX_STEPS = 12
INSTRUCTIONS = "You are a careful researcher."
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "search",
        "description": "Search the archive.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]


def run(agent: Agent) -> str | None:
    """One agent as the job's `style` says."""
    kept = agent.job.get("style") == "kept"
    history: list[Any] = [{"role": "user", "content": agent.prompt}]
    with openai.OpenAI(**agent.options) as client:
        before: dict[str, Any] = {}
        for _ in range(MAX_STEPS):
            response = ask(client, agent, history, kept, **before)
            results = run_calls(agent, response)
            if not results:
                return str(response.output_text)
            if kept:
                history, before = results, {"previous_response_id": response.id}
            else:
                history = [*history, *response.output, *results]
    return None


def run_calls(agent: Agent, response: Any) -> list[Any]:
    """Run every call in the output; their results as input items."""
    return [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": agent.search(json.loads(item.arguments)["query"]),
        }
        for item in response.output
        if item.type == "function_call"
    ]


def ask(client: openai.OpenAI, agent: Agent, history: list[Any], kept: bool, **more: Any) -> Any:
    """The response once it is whole. Raises what the SDK raises, and `AnswerFailed` for an answer that is not
    one."""
    request: dict[str, Any] = {
        "model": agent.job["model"],
        "instructions": INSTRUCTIONS,
        "input": history,
        "tools": TOOLS,
        **more,
    }
    if not agent.job.get("stream"):
        return client.responses.create(**request)
    if kept:
        with client.responses.stream(**request) as events:
            return events.get_final_response()
    final = None
    for event in client.responses.create(**request, stream=True):
        # The SDK hands failures over as events like any other: it is the caller who has to look.
        if event.type == "response.failed":
            raise AnswerFailed(event.response.error.code, event.response.error.message)
        if event.type == "error":
            raise AnswerFailed(event.code, event.message)
        if event.type == "response.completed":
            final = event.response
    if final is None:
        raise AnswerFailed("no_end", "the stream ended without saying how")
    return final


if __name__ == "__main__":
    serve(run)
