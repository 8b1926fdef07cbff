"""A simulated provider per test, and a raw client that sees every byte and every way a connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import openai
import orjson
import pytest

from gateway.testing import ProviderServer

Json = dict[str, Any]


@pytest.fixture
async def provider() -> AsyncIterator[ProviderServer]:
    async with ProviderServer() as server:
        yield server


@pytest.fixture
async def client(provider: ProviderServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="any", max_retries=0) as sdk:
        yield sdk


@dataclass
class Seen:
    """What a raw client received. `ending` is `eof`, `reset`, or `open` if it stopped reading itself."""

    head: bytes
    body: bytes
    ending: str
    body_complete: bool
    """The HTTP framing ended as it should."""

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def events(self) -> list[Any]:
        """The data of each event, parsed."""
        lines = (line for line in self.body.split(b"\n") if line.startswith(b"data: {"))
        return [orjson.loads(line.removeprefix(b"data: ")) for line in lines]

    @property
    def names(self) -> list[str]:
        """The name of each event that has one."""
        lines = (line for line in self.body.split(b"\n") if line.startswith(b"event: "))
        return [line.removeprefix(b"event: ").decode() for line in lines]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def chat_body(model: str, text: str = "hi", **fields: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def responses_body(model: str, text: Any = "hi", **fields: Any) -> Json:
    return {"model": model, "input": text, **fields}


def messages_body(model: str, text: Any = "hi", **fields: Any) -> Json:
    return {"model": model, "max_tokens": 1_000, "messages": [{"role": "user", "content": text}], **fields}


def completions_body(model: str, text: Any = "hi", **fields: Any) -> Json:
    return {"model": model, "prompt": text, **fields}


def request_bytes(path: str, body: Json | bytes, headers: str = "", method: str = "POST") -> bytes:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    head = f"{method} {path} HTTP/1.1\r\nhost: sim\r\n{headers}content-length: {len(data)}\r\n\r\n"
    return head.encode() + data


ANTHROPIC = "anthropic-version: 2023-06-01\r\nconnection: close\r\n"


@dataclass(eq=False)
class Speaker:
    """A surface that generates text, and how a test speaks it."""

    path: str
    body: Callable[..., Json]
    streaming: Json
    headers: str = "connection: close\r\n"

    async def fetch(self, server: ProviderServer, model: str, stream: bool = False, **fields: Any) -> Seen:
        body = self.body(model) | (self.streaming if stream else {}) | fields
        return await fetch(server, body, path=self.path, headers=self.headers)

    def said(self, seen: Seen, stream: bool) -> str:
        """The text of the answer."""
        if not stream:
            reply = seen.json
            match self.path:
                case "/v1/responses":
                    parts = [p for item in reply["output"] for p in item.get("content", ())]
                    return "".join(part["text"] for part in parts)
                case "/v1/messages":
                    return "".join(block.get("text", "") for block in reply["content"])
                case "/v1/completions":
                    return str(reply["choices"][0]["text"])
                case _:
                    return str(reply["choices"][0]["message"]["content"])
        return "".join(self._piece(event) for event in seen.events)

    def _piece(self, event: Json) -> str:
        match self.path:
            case "/v1/responses":
                return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""
            case "/v1/messages":
                return str(event.get("delta", {}).get("text", ""))
            case "/v1/completions":
                return "".join(choice["text"] for choice in event["choices"])
            case _:
                return "".join(choice["delta"].get("content") or "" for choice in event["choices"])

    def usage(self, seen: Seen, stream: bool) -> tuple[int, int] | None:
        """Input and output tokens as told last, whatever they are called."""
        holders = seen.events if stream else [seen.json]
        told: Json = {}
        for holder in holders:
            for place in (holder, holder.get("message") or {}, holder.get("response") or {}):
                told |= place.get("usage") or {}
        if not told:
            return None
        names = ("prompt_tokens", "completion_tokens") if "prompt_tokens" in told else INPUT_OUTPUT
        return told[names[0]], told[names[1]]


INPUT_OUTPUT = ("input_tokens", "output_tokens")
_WITH_USAGE: Json = {"stream": True, "stream_options": {"include_usage": True}}
CHAT = Speaker("/v1/chat/completions", chat_body, _WITH_USAGE)
RESPONSES = Speaker("/v1/responses", responses_body, {"stream": True})
MESSAGES = Speaker("/v1/messages", messages_body, {"stream": True}, ANTHROPIC)
COMPLETIONS = Speaker("/v1/completions", completions_body, _WITH_USAGE)
SPEAKERS = [CHAT, RESPONSES, MESSAGES, COMPLETIONS]
SPEAKER_IDS = ["chat", "responses", "messages", "completions"]


async def fetch(
    server: ProviderServer,
    body: Json | bytes,
    *,
    path: str = "/v1/chat/completions",
    headers: str = "connection: close\r\n",
) -> Seen:
    """One request on its own connection, read to the end of the connection."""
    return await fetch_raw(server, request_bytes(path, body, headers))


async def call(server: ProviderServer, method: str, path: str, body: Json | bytes = b"") -> Seen:
    """A request to a route without a model."""
    return await fetch_raw(server, request_bytes(path, body, "connection: close\r\n", method))


async def fetch_raw(server: ProviderServer, data: bytes) -> Seen:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(data)
    parts: list[bytes] = []
    ending = "eof"
    try:
        while part := await reader.read(1 << 20):
            parts.append(part)
    except ConnectionResetError:
        ending = "reset"
    writer.close()
    head, _, payload = b"".join(parts).partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        unframed, complete = unchunk(payload)
        return Seen(head, unframed, ending, complete)
    length = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length")]
    return Seen(head, payload, ending, not length or int(length[0]) == len(payload))


def unchunk(payload: bytes) -> tuple[bytes, bool]:
    """The body in chunked framing, and whether its last chunk was there."""
    parts: list[bytes] = []
    at = 0
    while at < len(payload):
        line_end = payload.index(b"\r\n", at)
        count = int(payload[at:line_end], 16)
        if count == 0:
            return b"".join(parts), True
        parts.append(payload[line_end + 2 : line_end + 2 + count])
        at = line_end + 4 + count
    return b"".join(parts), False


async def leave_after(
    server: ProviderServer,
    body: Json,
    events: int,
    path: str = "/v1/chat/completions",
    headers: str = "",
) -> None:
    """Read that many events of a stream, then close the connection."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(request_bytes(path, body, headers))
    for _ in range(events):
        await reader.readuntil(b"data: ")
    writer.close()
    await writer.wait_closed()
