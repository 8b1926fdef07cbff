"""One request and its answer on a connection of uvicorn's, without a message between the two for each step.

ASGI hands an answer over in pieces, checks each header with two patterns, writes head and body apart, and
tells of a client that leaves only to whoever waits for it in a task. An `Exchange` is uvicorn's own cycle
with a shorter way for the data plane: a whole answer is one write, and leaving is a call. Applications that
speak ASGI (the admin plane) use it as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from weakref import ref

import uvicorn
from uvicorn.protocols.http import httptools_impl

from gateway.domain import Headers
from gateway.web.connection import StrictProtocol

EXTENSION = "gateway.exchange"
"""Where an application finds a weak reference to the `Exchange` in `scope["extensions"]`."""
WRITE_TIMEOUT_S = 120.0
"""A client that takes no byte for so long is treated as gone."""
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_LAST_CHUNK = b"0\r\n\r\n"
_BODILESS = frozenset({204, 304})
"""After these a client reads the next answer at once: a single byte more would be taken for it."""


class Exchange(httptools_impl.RequestResponseCycle):
    """The caller's side of one exchange; implements `gateway.steps.attempt.Client`."""

    def __init__(self, scope: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(scope, *args, **kwargs)
        # Weak, since it holds the scope itself: what holds each other waits for the garbage collector.
        scope["extensions"] = {EXTENSION: ref(self)}
        self._callback: Callable[[], None] | None = None
        self._head = b""
        self._bodiless = False

    @property
    def left(self) -> bool:
        """The caller has gone: nothing can be sent any more."""
        return self.disconnected

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        """Call back when the client leaves before the end; at once when it has left already."""
        self._callback = callback
        if callback is not None and self.disconnected:
            self.leave()

    def leave(self) -> None:
        """The client has gone."""
        self.disconnected = True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        if self.disconnected:
            return
        head = self._make_head(status, headers, b"content-length: %d\r\n" % len(body))
        self.transport.write(head if self.scope["method"] == "HEAD" else head + body)
        self._complete()

    async def start(self, status: int, headers: Headers) -> None:
        """Begin a streamed answer; its head goes out with the first piece."""
        if self.disconnected:
            return
        self._bodiless = status in _BODILESS
        self.chunked_encoding = self.scope["http_version"] == "1.1" and not self._bodiless
        framing = b"transfer-encoding: chunked\r\n" if self.chunked_encoding else b""
        self.keep_alive = self.keep_alive and (self.chunked_encoding or self._bodiless)
        self._head = self._make_head(status, headers, framing)

    async def send(self, message: Any) -> None:
        """A piece of a streamed answer, or a message of ASGI. Waits while the client is slow, and gives up on
        one that takes nothing."""
        if type(message) is not bytes:
            if self.waiting_for_100_continue:
                self.keep_alive = False
            await super().send(message)
            return
        if self.disconnected or not message or self._bodiless:
            return
        piece = b"%x\r\n%b\r\n" % (len(message), message) if self.chunked_encoding else message
        if self._head:
            piece, self._head = self._head + piece, b""
        self.transport.write(piece)
        if self.flow.write_paused:
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await self.flow.drain()
            except TimeoutError:
                self.transport.abort()
                self.leave()

    async def end(self) -> None:
        """End a streamed answer."""
        if self.disconnected:
            return
        rest = self._head + (_LAST_CHUNK if self.chunked_encoding else b"")
        self._head = b""
        if rest:
            self.transport.write(rest)
        self._complete()

    def cut(self) -> None:
        """Break the connection, so that what was sent is not taken for the whole."""
        self.response_complete = True
        self._callback = None
        self.transport.abort()

    def _make_head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        self.response_started = True
        if self.waiting_for_100_continue:
            # Whether the body still comes is the client's to say: what comes next may be that or a request.
            self.keep_alive = self.waiting_for_100_continue = False
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in (*self.default_headers, *headers):
            if name == b"connection" and b"close" in value:
                self.keep_alive = False
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(framing)
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) - (not framing) or head.count(b"\r") != head.count(b"\n"):
            raise ValueError("a header of the answer holds a line end")
        return head + b"\r\n"

    def _complete(self) -> None:
        self.response_complete = True
        self._callback = None
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class HttpProtocol(StrictProtocol):
    """uvicorn's HTTP/1.1 protocol, read strictly, which tells an exchange when its client leaves."""

    cycle: Exchange

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.leave()


# The protocol makes its cycles by this name.
_uvicorn: Any = httptools_impl
_uvicorn.RequestResponseCycle = Exchange


def config(app: Any, **options: Any) -> uvicorn.Config:
    """A server's configuration for `app`, with what all our servers have in common."""
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        **options,
    )
