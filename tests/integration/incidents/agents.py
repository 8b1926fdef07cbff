"""Agents as their authors write them: a loop around a provider's SDK that knows nothing but a base URL."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest

from tests.support.gateway import ALICE

Json = dict[str, Any]
Call = tuple[str, str, Json]
"""Id, tool and arguments."""
GIVES_UP = 1_500
"""Model calls after which even these agents stop."""
SYSTEM = "You are a support agent. Answer the customer."


@dataclass
class Agent(ABC):
    """`run` plays one task; the history is kept for the next. `executed` is what the tools were called with."""

    url: str
    """Of the gateway, without the `/v1` that OpenAI's SDK wants."""
    tools: Mapping[str, Callable[..., str]]
    """Functions whose arguments are all texts."""
    model: str = ""
    stream: bool = False
    key: str = ALICE
    headers: Mapping[str, str] = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    executed: list[tuple[str, Json]] = field(default_factory=list)

    @abstractmethod
    def ask(self) -> tuple[str, list[Call]]:
        """The model's next answer, kept in the history."""

    @abstractmethod
    def tell(self, results: list[tuple[str, str]]) -> None:
        """Put tool results, by call id, into the history."""

    def run(self, task: str) -> str:
        """The model's final answer. Whatever the SDK raises passes through."""
        self.history.append({"role": "user", "content": task})
        for _ in range(GIVES_UP):
            text, calls = self.ask()
            if not calls:
                return text
            self.tell([(call_id, self._execute(name, arguments)) for call_id, name, arguments in calls])
        raise AssertionError("the agent was never stopped")

    def _execute(self, name: str, arguments: Json) -> str:
        self.executed.append((name, arguments))
        return self.tools[name](**arguments)

    def schemas(self) -> list[tuple[str, Json]]:
        """Name and JSON Schema of each tool."""
        found = []
        for name, tool in self.tools.items():
            arguments = inspect.signature(tool).parameters
            schema = {
                "type": "object",
                "properties": {argument: {"type": "string"} for argument in arguments},
                "required": list(arguments),
            }
            found.append((name, schema))
        return found


@dataclass
class ChatAgent(Agent):
    """On OpenAI's chat completions."""

    model: str = "gpt-4o"

    def __post_init__(self) -> None:
        self.sdk = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.key, default_headers=dict(self.headers)
        )
        self.history.append({"role": "system", "content": SYSTEM})

    def ask(self) -> tuple[str, list[Call]]:
        """See `Agent`."""
        tools: list[Any] = [
            {"type": "function", "function": {"name": name, "parameters": schema}}
            for name, schema in self.schemas()
        ]
        request: Json = {"model": self.model, "messages": self.history, "tools": tools}
        if self.stream:
            with self.sdk.chat.completions.stream(**request) as stream:
                message: Any = stream.get_final_completion().choices[0].message
        else:
            message = self.sdk.chat.completions.create(**request).choices[0].message
        kept = message.model_dump(exclude_none=True, exclude={"parsed"})
        calls = [
            (call.id, call.function.name, json.loads(call.function.arguments))
            for call in message.tool_calls or ()
        ]
        for call in kept.get("tool_calls") or ():
            call["function"].pop("parsed_arguments", None)
        self.history.append(kept)
        return message.content or "", calls

    def tell(self, results: list[tuple[str, str]]) -> None:
        """See `Agent`."""
        self.history += [
            {"role": "tool", "tool_call_id": call_id, "content": text} for call_id, text in results
        ]


@dataclass
class ResponsesAgent(Agent):
    """On OpenAI's responses, with the history kept by the provider."""

    model: str = "gpt-4o"
    previous: str | None = None
    said: list[Json] = field(default_factory=list)
    """The items of the last answer."""

    def __post_init__(self) -> None:
        self.sdk = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.key, default_headers=dict(self.headers)
        )

    def ask(self) -> tuple[str, list[Call]]:
        """See `Agent`. Only what is new is sent."""
        tools: list[Any] = [
            {"type": "function", "name": name, "parameters": schema, "strict": False}
            for name, schema in self.schemas()
        ]
        request: Json = {
            "model": self.model,
            "input": self.history,
            "tools": tools,
            "instructions": SYSTEM,
            "previous_response_id": self.previous,
        }
        if self.stream:
            with self.sdk.responses.stream(**request) as stream:
                answer: Any = stream.get_final_response()
        else:
            answer = self.sdk.responses.create(**request)
        self.previous, self.history = answer.id, []
        self.said = [
            item.model_dump(
                exclude_none=True, exclude={"content": {"__all__": {"parsed"}}, "parsed_arguments": True}
            )
            for item in answer.output
        ]
        calls = [
            (item.call_id, item.name, json.loads(item.arguments))
            for item in answer.output
            if item.type == "function_call"
        ]
        return answer.output_text, calls

    def tell(self, results: list[tuple[str, str]]) -> None:
        """See `Agent`."""
        self.history += [
            {"type": "function_call_output", "call_id": call_id, "output": text} for call_id, text in results
        ]


@dataclass
class ItemsAgent(ResponsesAgent):
    """On OpenAI's responses, with a history of its own."""

    def ask(self) -> tuple[str, list[Call]]:
        """See `Agent`. Everything is sent, the provider's own items as they came."""
        before = self.history
        text, calls = super().ask()
        self.previous = None
        self.history = [*before, *self.said]
        return text, calls


@dataclass
class MessagesAgent(Agent):
    """On Anthropic's messages."""

    model: str = "claude-sonnet-5"

    def __post_init__(self) -> None:
        self.sdk = anthropic.Anthropic(
            base_url=self.url, api_key=self.key, default_headers=dict(self.headers)
        )

    def ask(self) -> tuple[str, list[Call]]:
        """See `Agent`."""
        tools: list[Any] = [{"name": name, "input_schema": schema} for name, schema in self.schemas()]
        request: Json = {
            "model": self.model,
            "max_tokens": 1024,
            "system": SYSTEM,
            "messages": self.history,
            "tools": tools,
        }
        if self.stream:
            with self.sdk.messages.stream(**request) as stream:
                answer: Any = stream.get_final_message()
        else:
            answer = self.sdk.messages.create(**request)
        self.history.append({"role": "assistant", "content": answer.content})
        text = "".join(block.text for block in answer.content if block.type == "text")
        return text, [(b.id, b.name, dict(b.input)) for b in answer.content if b.type == "tool_use"]

    def tell(self, results: list[tuple[str, str]]) -> None:
        """See `Agent`."""
        blocks = [
            {"type": "tool_result", "tool_use_id": call_id, "content": text} for call_id, text in results
        ]
        self.history.append({"role": "user", "content": blocks})


KINDS: dict[str, type[Agent]] = {
    "chat": ChatAgent,
    "responses": ResponsesAgent,
    "items": ItemsAgent,
    "messages": MessagesAgent,
}
WAYS = [(kind, stream) for kind in KINDS for stream in (False, True)]


def _ways(chosen: list[tuple[str, bool]]) -> pytest.MarkDecorator:
    shown = [pytest.param(k, stream, id=f"{k}-{'stream' if stream else 'plain'}") for k, stream in chosen]
    return pytest.mark.parametrize(("kind", "stream"), shown)


all_ways = _ways(WAYS)
"""Kind of agent, and whether its answers are streamed."""
every_way = _ways([("chat", True), ("responses", True), ("items", False), ("messages", True)])
"""Each kind in one of its two ways, for what does not depend on both."""
two_ways = _ways([("chat", False), ("messages", True)])
every_kind = pytest.mark.parametrize("kind", ["chat", "responses", "messages"])
