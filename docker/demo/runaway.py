"""An agent that never comes to an end, for `docker compose --profile demo up`: it looks for a printer.

Standard library alone. It asks the gateway's simulated model, which costs nothing, and starts over once the
gateway has stopped it.
"""

# It speaks to whoever reads its log, and to one address that its environment names.
# ruff: noqa: T201, S310

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

URL = os.environ.get("OPENAI_BASE_URL", "http://gateway:8080/v1") + "/chat/completions"
KEY = Path(os.environ.get("CALLER_KEY_FILE", "/run/secrets/caller_key")).read_text().strip()
PAUSE_S = float(os.environ.get("PAUSE_S", "2"))
BETWEEN_RUNS_S = float(os.environ.get("BETWEEN_RUNS_S", "20"))
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        },
    }
]


def ask(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """One step. Raises `urllib.error.URLError`."""
    body = json.dumps({"model": "sim/printer", "messages": messages, "tools": TOOLS}).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(URL, body, headers), timeout=60) as answer:
        message: dict[str, Any] = json.loads(answer.read())["choices"][0]["message"]
        return message


def run(number: int) -> None:
    """One run, to whatever end it comes."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Where can I print? ({number})"}]
    for step in range(1, 1000):
        try:
            message = ask(messages)
        except urllib.error.HTTPError as error:
            said = json.loads(error.read() or b"{}").get("error", {})
            print(f"run {number}, step {step}: stopped: {said.get('code')}: {said.get('message')}")
            return
        messages.append(message)
        if not message.get("tool_calls"):
            print(f"run {number}, step {step}: answered: {message.get('content')}")
            return
        for call in message["tool_calls"]:
            print(f"run {number}, step {step}: {call['function']['name']} {call['function']['arguments']}")
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "no printer found"})
        time.sleep(PAUSE_S)


def main() -> None:
    """Runs without end."""
    number = 0
    while True:
        number += 1
        try:
            run(number)
        except urllib.error.URLError as error:
            print(f"the gateway is not reached: {error.reason}")
        sys.stdout.flush()
        time.sleep(BETWEEN_RUNS_S)


if __name__ == "__main__":
    main()
