"""One HTTP/1.1 connection of the simulated provider: requests in, bytes out, nothing in between.

A raw protocol, because a framework would decide about bytes that scripts want to decide, and because this
server is the upstream of benchmarks. It answers requests of one connection in order, tells at once when the
client leaves, and answers malformed input itself; everything else is the handler's.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import httptools
import orjson

from gateway.domain import Millis
from gateway.testing.journal import RawHeaders, now_ms
from gateway.testing.script import error_json

MAX_HEAD_BYTES = 256 << 10
MAX_BODY_BYTES = 128 << 20
MAX_PIPELINED = 1_000

READ_RATE_HEADER = b"x-sim-read-bytes-per-s"
"""A request header: read the body of this request no faster than that."""

_SLOW_RECEIVE_BUFFER = 64 << 10
"""What the kernel may take of a body that is read slowly, so that the sender notices soon."""

_LINGER_NONE = struct.pack("ii", 1, 0)
_FLUSH_POLL_S = 0.001
_RESET_PATIENCE_S = 5.0


@dataclass(slots=True)
class Request:
    """A whole request. `headers` has lower-case names and keeps the last value of each."""

    method: str
    target: str
    raw_headers: RawHeaders
    body: bytes
    keep_alive: bool
    http_1_0: bool
    headers: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Reading:
    """How the bodies of requests are read; shared by all connections of a server."""

    bytes_per_s: int | None = None
    """No faster than this; `None` is as fast as they come."""


Handler = Callable[["Connection", Request], None]
"""Starts to answer, and sees to it that `Connection.finish` is called once."""


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


_STATUS_LINES = {status: f"HTTP/1.1 {status} {_reason(status)}\r\n".encode() for status in range(100, 600)}


def head_bytes(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Status line and headers, blank line included."""
    line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n".encode()
    return (
        line
        + "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1", "replace")
        + b"\r\n"
    )


def _undelivered(descriptor: int) -> int:
    """Bytes of a TCP socket that its peer has not acknowledged; 0 where the system does not tell."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        return 0
    return int(count)


class Connection(asyncio.Protocol):
    """Parses requests and hands them to `handle` one at a time."""

    def __init__(self, handle: Handler, connections: set[Connection], reading: Reading) -> None:
        self._handle = handle
        self._connections = connections
        self._reading = reading
        self._read_rate: int | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Request] = deque()
        self._busy = False
        self._pumping = False
        self._closing = False
        self.writable = True
        """The socket takes more; else `drain` waits until it does."""
        self._waiter: asyncio.Future[None] | None = None
        self._target = b""
        self._raw_headers: RawHeaders = []
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._body: list[bytes] = []
        self.arriving_bytes = 0
        """Body bytes read of the request that is arriving; 0 between requests."""
        self._upgrade = False
        self.gone = False
        """The client, or this side, has closed the connection."""
        self.gone_at: Millis | None = None
        self.on_gone: Callable[[], None] | None = None
        """Called once, at the moment the connection is lost."""

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.gone_at = now_ms()
        self._connections.discard(self)
        self._queue.clear()
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None
        self.wake()

    def eof_received(self) -> bool:
        # A client that closes its sending side has left: HTTP clients do not half-close.
        return False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.wake()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # Answered when its message was complete.
        except httptools.HttpParserError as error:
            self._reject(400, f"The request could not be parsed: {error}")
        if self._read_rate is not None and not self._closing:
            self._rest(len(data) / self._read_rate)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._target = b""
        self._raw_headers = []
        self._headers = {}
        self._head_bytes = 0
        self._body = []
        self.arriving_bytes = 0
        self._upgrade = False

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._limit_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._raw_headers.append((name, value))
        self._headers[name.lower()] = value
        self._limit_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._upgrade = self._parser.should_upgrade()
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and not self._busy:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        asked = self._headers.get(READ_RATE_HEADER, b"")
        self._read_rate = int(asked) if asked.isdigit() and int(asked) else self._reading.bytes_per_s
        if self._read_rate is not None and self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_RECEIVE_BUFFER)

    def on_body(self, body: bytes) -> None:
        self.arriving_bytes += len(body)
        if self.arriving_bytes > MAX_BODY_BYTES:
            self._reject(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
        elif not self._closing:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._closing:
            return
        if self._upgrade:
            self._reject(426, "Upgrades are not supported; use plain HTTP/1.1.")
            return
        body = self._body
        self.arriving_bytes = 0
        self._read_rate = None
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            target=self._target.decode("latin-1"),
            raw_headers=self._raw_headers,
            body=body[0] if len(body) == 1 else b"".join(body),
            keep_alive=self._parser.should_keep_alive(),
            http_1_0=self._parser.get_http_version() == "1.0",
            headers=self._headers,
        )
        self._queue.append(request)
        if len(self._queue) > MAX_PIPELINED:
            self.abort()
        self._pump()

    # What the handler calls.

    def write(self, data: bytes) -> None:
        """Queue bytes for the socket; nothing once the connection is gone."""
        if self._transport is not None and not self.gone:
            self._transport.write(data)

    def finish(self, keep_alive: bool) -> None:
        """The answer is written: take the next request, or close after what is buffered."""
        self.on_gone = None
        self._busy = False
        if not keep_alive:
            self.close()
        self._pump()

    def close(self) -> None:
        """Send what is buffered, then FIN."""
        self._closing = True
        self._queue.clear()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection without sending what is buffered."""
        self._closing = True
        self._queue.clear()
        if self._transport is not None:
            self._transport.abort()

    async def reset(self) -> None:
        """Send what is buffered, then RST.

        A reset throws away what the kernel has not delivered, so this waits for the client's kernel to have
        it all, or for `_RESET_PATIENCE_S` if the client does not read.
        """
        assert self._transport is not None
        raw = self._transport.get_extra_info("socket")
        deadline = self._loop.time() + _RESET_PATIENCE_S
        # Polled: transports tell when their buffer is low, and nothing tells when all has arrived.
        while not self.gone and self._loop.time() < deadline:
            if not self._transport.get_write_buffer_size() and not _undelivered(raw.fileno()):
                break
            await asyncio.sleep(_FLUSH_POLL_S)
        if not self.gone:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self.abort()

    async def pause(self, seconds: float | None) -> None:
        """Wait; at once over when the connection is lost, and only then with `None`."""
        deadline = None if seconds is None else self._loop.time() + seconds
        while not self.gone and (deadline is None or self._loop.time() < deadline):
            timer = None
            waiter = self._waiter = self._loop.create_future()
            if deadline is not None:
                timer = self._loop.call_at(deadline, _release, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until that is so, or the connection is lost. Whoever makes it so calls `wake`."""
        while not self.gone and not ready():
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def wake(self) -> None:
        """Let whoever waits here look again."""
        if self._waiter is not None:
            _release(self._waiter)

    async def drain(self) -> None:
        """Wait until the socket takes more, or the connection is lost."""
        await self.until(lambda: self.writable)

    # Inside.

    def _pump(self) -> None:
        # A loop and not a recursion: answers that are ready at once call `finish` from inside `_handle`.
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._queue and not self._busy and not self._closing:
                self._busy = True
                self._handle(self, self._queue.popleft())
        finally:
            self._pumping = False

    def _rest(self, seconds: float) -> None:
        """Read nothing for that long."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_later(seconds, self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None and not self.gone and not self._transport.is_closing():
            self._transport.resume_reading()

    def _limit_head(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > MAX_HEAD_BYTES:
            self._reject(431, f"The head is larger than {MAX_HEAD_BYTES} bytes.")

    def _reject(self, status: int, message: str) -> None:
        if self._closing:
            return
        # In the middle of another answer these bytes would be read as part of it.
        if not self._busy:
            body = orjson.dumps(error_json(message, "invalid_request_error", None))
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            self.write(head_bytes(status, headers) + body)
        self.close()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
