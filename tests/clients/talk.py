"""A conversation with the OpenAI SDK that notes which run the gateway put each request into."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

from tests.support.gateway import ALICE, ThreadedGateway

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
Edit = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Seen:
    """What the gateway said of one request."""

    run: str
    session: str
    step: int
    source: str


@dataclass
class Talk:
    """`say` plays the user; `messages` is the history, which may be edited between two requests."""

    gateway: ThreadedGateway
    model: str
    tools: bool = True
    system: str = "You are a careful researcher."
    headers: dict[str, str] = field(default_factory=dict)
    base_url: str | None = None
    body: dict[str, Any] = field(default_factory=dict)
    edit: Edit | None = None
    """Applied to the history before each request, as agents do that shorten it."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sdk = openai.OpenAI(
            base_url=self.base_url or self.gateway.base_url,
            api_key=ALICE,
            default_headers=self.headers,
            max_retries=0,
        )
        self.messages.append({"role": "system", "content": self.system})

    def say(self, text: str) -> str:
        """One user message, and every step until the model's answer to it."""
        self.messages.append({"role": "user", "content": text})
        while True:
            message = self.step()
            if not message.get("tool_calls"):
                return str(message["content"])
            self.run_tools(message)

    def step(self) -> dict[str, Any]:
        """One request; the answer is kept in the history."""
        if self.edit is not None:
            self.messages = self.edit(self.messages)
        more: dict[str, Any] = {"tools": TOOLS} if self.tools else {}
        history: list[Any] = self.messages
        raw = self.sdk.chat.completions.with_raw_response.create(
            model=self.model, messages=history, **more, **self.body
        )
        told = raw.headers
        self.seen.append(
            Seen(
                told["x-guardrail-run-id"],
                told["x-guardrail-session-id"],
                int(told["x-guardrail-step"]),
                told["x-guardrail-run-source"],
            )
        )
        message: dict[str, Any] = raw.parse().choices[0].message.model_dump()
        self.messages.append(message)
        return message

    def run_tools(self, message: dict[str, Any]) -> None:
        """Answer each call of the message."""
        for call in message["tool_calls"]:
            query = json.loads(call["function"]["arguments"])["query"]
            found = f"Nothing was found about {query!r}; the archive was searched to the end."
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})

    @property
    def runs(self) -> list[str]:
        """The runs that its requests were put into, each once, in order."""
        return list(dict.fromkeys(seen.run for seen in self.seen))

    @property
    def sessions(self) -> list[str]:
        """The same for sessions."""
        return list(dict.fromkeys(seen.session for seen in self.seen))
