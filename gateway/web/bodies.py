"""Reading a request's body: under the policy's caps, decompressed, and never for longer than is decent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.errors import CallerError
from gateway.policy.sections.operations import Server
from gateway.steps.delivery import ClientLeftError
from gateway.surfaces.encoding import decode
from gateway.web.asgi import Receive

DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_S = 5.0
BODY_TIMEOUT_S = 60.0
"""A body that trickles in for longer holds a connection for nothing."""


async def read_body(receive: Receive, headers: dict[bytes, bytes], server: Server) -> bytes:
    """The request body, decompressed, under the policy's caps. Raises `CallerError`."""
    limit = server.max_body_bytes
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        if b"expect" not in headers:
            await _discard(receive)
        raise _too_large(limit)
    encoding = headers.get(b"content-encoding")
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] != "http.request":
        raise ClientLeftError
    if message.get("more_body"):
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _rest(receive, body, limit)
        except TimeoutError:
            raise CallerError(
                "invalid_request", "The request body did not arrive in time.", status=408
            ) from None
    if len(body) > limit:
        raise _too_large(limit)
    if encoding is not None:
        # A megabyte decompresses in milliseconds, the cap in tens of them: not in the event loop.
        body = await asyncio.to_thread(decode, body, [encoding], server.max_decompressed_bytes)
    return body


def _too_large(limit: int) -> CallerError:
    return CallerError("request_too_large", f"The request body is larger than {limit} bytes.")


async def _rest(receive: Receive, first: bytes, limit: int) -> bytes:
    parts = [first]
    size = len(first)
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeftError
        part = message.get("body", b"")
        size += len(part)
        more = message.get("more_body", False)
        if size > limit:
            if more:
                await _discard(receive)
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def _discard(receive: Receive) -> None:
    """Take what a client is still sending and keep nothing of it: one that is cut off in mid-upload never
    reads the answer, and tries again. A flood gets no more than this."""
    size = 0
    try:
        async with asyncio.timeout(DISCARD_S):
            while size < DISCARD_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return


async def pieces(receive: Receive) -> AsyncIterator[bytes]:
    """A body as it comes, no faster than it is taken. Raises `ClientLeftError` when it breaks off."""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeftError
        more = message.get("more_body", False)
        if piece := message.get("body", b""):
            yield piece
