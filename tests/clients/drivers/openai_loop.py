"""Agents written by hand with the plain OpenAI SDK, of any age: a tool loop, and ReAct in text."""

from __future__ import annotations

import json
import re
from typing import Any

import openai

from tests.clients.drivers.protocol import Agent, serve

MAX_STEPS = 12
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the archive.",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}},
                "required": ["query"],
            },
        },
    }
]
REACT = (
    "Answer the question. Write 'Action: search' and 'Action Input: {\"query\": …}' to use the tool, "
    "which should be one of [search], or 'Final Answer: …' when you know."
)


def run(agent: Agent) -> str | None:
    """One agent as the job's `style` says."""
    client = openai.OpenAI(**agent.options)
    try:
        if agent.job.get("style") == "react":
            return react(client, agent)
        return tool_loop(client, agent)
    finally:
        client.close()


def tool_loop(client: openai.OpenAI, agent: Agent) -> str | None:
    """Call the model until it answers without a tool call, running every call that it makes."""
    messages: list[Any] = [
        {"role": "system", "content": "You are a careful researcher."},
        {"role": "user", "content": agent.prompt},
    ]
    for _ in range(MAX_STEPS):
        message = ask(client, agent, messages, tools=TOOLS)
        messages.append(message)
        if not message.get("tool_calls"):
            return message["content"] or ""
        for call in message["tool_calls"]:
            found = agent.search(json.loads(call["function"]["arguments"])["query"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})
    return None


def react(client: openai.OpenAI, agent: Agent) -> str | None:
    """The same without tools: actions are read out of the text, and results go back as user messages."""
    messages: list[Any] = [
        {"role": "system", "content": REACT},
        {"role": "user", "content": agent.prompt},
    ]
    for _ in range(MAX_STEPS):
        text = ask(client, agent, messages, temperature=0)["content"] or ""
        messages.append({"role": "assistant", "content": text})
        if "Final Answer:" in text:
            return text.partition("Final Answer:")[2].strip()
        wanted = re.search(r"Action Input: (\{.*\})", text)
        found = agent.search(json.loads(wanted[1])["query"] if wanted else "nothing")
        messages.append({"role": "user", "content": f"Observation: {found}"})
    return None


def ask(client: openai.OpenAI, agent: Agent, messages: list[Any], **more: Any) -> dict[str, Any]:
    """The assistant's message, as a caller keeps it for the next request."""
    if not agent.job.get("stream"):
        answer = client.chat.completions.create(model=agent.job["model"], messages=messages, **more)
        kept: dict[str, Any] = answer.choices[0].message.model_dump()
        return kept
    text = ""
    calls: dict[int, dict[str, Any]] = {}
    stream = client.chat.completions.create(model=agent.job["model"], messages=messages, stream=True, **more)
    for chunk in stream:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for part in delta.tool_calls or ():
            call = calls.setdefault(part.index, {"id": "", "type": "function", "function": {}})
            call["id"] = part.id or call["id"]
            for name in ("name", "arguments"):
                piece = getattr(part.function, name, None) or ""
                call["function"][name] = call["function"].get(name, "") + piece
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


if __name__ == "__main__":
    serve(run)
