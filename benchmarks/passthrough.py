"""The yardstick: the least that a reverse proxy in Python does. ASGI in, aiohttp out, no guard, no log.

BENCH_UPSTREAM=http://127.0.0.1:PORT uvicorn benchmarks.passthrough:app
"""

import os
from typing import Any

import aiohttp

UPSTREAM = os.environ.get("BENCH_UPSTREAM", "")
_HOP = {b"host", b"connection", b"content-length", b"transfer-encoding"}
session: aiohttp.ClientSession | None = None


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Forward one request and pass the answer on chunk by chunk."""
    global session
    if scope["type"] != "http":
        return
    if session is None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"] if k not in _HOP]
    async with session.request(
        scope["method"], UPSTREAM + scope["path"], headers=headers, data=body
    ) as reply:
        out = [(k.lower(), v) for k, v in reply.raw_headers if k.lower() != b"transfer-encoding"]
        await send({"type": "http.response.start", "status": reply.status, "headers": out})
        async for chunk in reply.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
