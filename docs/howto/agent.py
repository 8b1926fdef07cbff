"""An agent with one tool and no limit of its own, for the how-tos. Written with the plain openai SDK.

    python docs/howto/agent.py MODEL [PROMPT] [--tool NAME] [--result TEXT] [--header NAME=VALUE] [--stream]

OPENAI_BASE_URL and OPENAI_API_KEY say where to go, as for every client of that SDK. It prints each tool call,
and then the answer, or the status and code of what stopped it.
"""

from __future__ import annotations

import argparse
from typing import Any

from openai import APIError, OpenAI


def main() -> None:
    """Let the agent work on the prompt until the model answers without a tool call, or something stops it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("prompt", nargs="?", default="My printer is offline.")
    parser.add_argument("--tool", default="search")
    parser.add_argument("--result", default="No result, try again. " * 40, help="what the tool always says")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--stream", action="store_true", help="one streamed answer, without the tool")
    asked = parser.parse_args()
    client = OpenAI(default_headers=dict(header.split("=", 1) for header in asked.header))
    try:
        (stream if asked.stream else work)(client, asked)
    except APIError as error:
        print("stopped:", getattr(error, "status_code", "in mid-stream"), error.code)


def work(client: OpenAI, asked: argparse.Namespace) -> None:
    """The loop that every agent is."""
    tools: list[Any] = [{"type": "function", "function": {"name": asked.tool}}]
    messages: list[Any] = [{"role": "user", "content": asked.prompt}]
    while True:
        answer = client.chat.completions.create(model=asked.model, messages=messages, tools=tools)
        message = answer.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            print(message.content)
            return
        for call in message.tool_calls:
            assert call.type == "function"
            print(call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": asked.result})


def stream(client: OpenAI, asked: argparse.Namespace) -> None:
    """One answer, word by word."""
    messages: list[Any] = [{"role": "user", "content": asked.prompt}]
    try:
        for chunk in client.chat.completions.create(model=asked.model, messages=messages, stream=True):
            print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)
    finally:
        print()


if __name__ == "__main__":
    main()
