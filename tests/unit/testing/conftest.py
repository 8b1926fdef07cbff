"""A simulated provider per test, and a raw client that sees every byte and every way a connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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


def chat_body(model: str, text: str = "hi", **fields: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def request_bytes(path: str, body: Json | bytes, headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return (
        f"POST {path} HTTP/1.1\r\nhost: sim\r\n{headers}content-length: {len(data)}\r\n\r\n".encode() + data
    )


async def fetch(
    server: ProviderServer,
    body: Json | bytes,
    *,
    path: str = "/v1/chat/completions",
    headers: str = "connection: close\r\n",
) -> Seen:
    """One request on its own connection, read to the end of the connection."""
    return await fetch_raw(server, request_bytes(path, body, headers))


async def fetch_raw(server: ProviderServer, data: bytes) -> Seen:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(data)
    received, ending = b"", "eof"
    try:
        while part := await reader.read(65_536):
            received += part
    except ConnectionResetError:
        ending = "reset"
    writer.close()
    head, _, payload = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        unframed, complete = unchunk(payload)
        return Seen(head, unframed, ending, complete)
    length = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length")]
    return Seen(head, payload, ending, not length or int(length[0]) == len(payload))


def unchunk(payload: bytes) -> tuple[bytes, bool]:
    """The body in chunked framing, and whether its last chunk was there."""
    body = b""
    while payload:
        size, _, payload = payload.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return body, True
        body += payload[:count]
        payload = payload[count + 2 :]
    return body, False


async def leave_after(server: ProviderServer, body: Json, events: int) -> None:
    """Read that many events of a stream, then close the connection."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(request_bytes("/v1/chat/completions", body))
    for _ in range(events):
        await reader.readuntil(b"data: ")
    writer.close()
    await writer.wait_closed()
