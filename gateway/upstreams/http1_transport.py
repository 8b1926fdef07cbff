"""The transport as an HTTP/1.1 client of our own on httptools (docs/decisions/0006-own-http1-client.md).

httptools (llhttp) parses, asyncio gives sockets and TLS, aiohappyeyeballs connects. Left to us are the pool
and the clocks:

    send ──► an idle connection, or a new one ──► request written ──► head parsed ──► Http1Reply
                    ▲                                                                    │
                    └──────────── the message is complete, and keep-alive ◄──────────────┘

A connection carries one exchange at a time and is used again only after a message that was complete, of
which nothing was left over. Everything else closes it, so no answer can reach another caller.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools

from gateway.domain import Headers
from gateway.upstreams.transport import (
    Kind,
    Phase,
    Timeouts,
    Transport,
    TransportError,
    UnsendableError,
    Upload,
    UpstreamReply,
    UpstreamRequest,
)

HIGH_WATER = 64 * 1024
"""Bytes of unread body from which the upstream is held back."""

MAX_HEADER_LINE = 16 * 1024
"""Bytes; aiohttp and nginx take 8 KiB, h11 16 KiB, and some providers' CSP and cookie lines come close."""

MAX_HEADERS = 128

_OURS = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"expect"})
_VISIBLE = re.compile(r"[!-~]+")
_HAPPY_EYEBALLS_DELAY_S = 0.25


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a connection is made to."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class _Address:
    """A URL, taken apart."""

    origin: _Origin
    host: bytes
    """For the `Host` header, as the URL has it."""
    target: bytes


@lru_cache(maxsize=1024)
def _address(url: str) -> _Address:
    # Before it is split: `urlsplit` drops line breaks in silence.
    if not _VISIBLE.fullmatch(url):
        raise UnsendableError("not a URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UnsendableError("not a URL") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise UnsendableError("not an http or https URL")
    tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Address(_Origin(host, port or (443 if tls else 80), tls), parts.netloc.encode(), target.encode())


def _written(request: UpstreamRequest, address: _Address) -> bytes:
    """The request's head as it goes out."""
    lines = [b"%b: %b" % pair for pair in request.headers if pair[0].lower() not in _OURS]
    lines.insert(0, b"Host: " + address.host)
    upload = request.upload
    if upload is not None:
        length = upload.length
        lines.append(b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length)
    elif request.body or request.method not in ("GET", "HEAD"):
        lines.append(b"Content-Length: %d" % len(request.body))
    fields = b"\r\n".join(lines)
    if not fields.count(b"\r") == fields.count(b"\n") == len(lines) - 1 or b"\0" in fields:
        raise UnsendableError("a header holds a control character")
    if not fields.isascii():
        try:
            fields.decode()
        except UnicodeDecodeError as error:
            raise UnsendableError("a header is not UTF-8") from error
    return b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (request.method.encode("ascii"), address.target, fields)


@dataclass(slots=True)
class _Pool:
    """The connections to one origin: those that wait for work, and how many there are in all."""

    idle: list[_Connection] = field(default_factory=list)
    """The last one used is the first to be used again, so that a quiet pool shrinks."""
    size: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def wake(self) -> None:
        """A connection has become free, or there is room for one."""
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def leave(self) -> None:
        """One connection less."""
        self.size -= 1
        self.wake()


class Http1Transport:
    """One pool for all upstreams of this process. Must be created and used inside one event loop."""

    def __init__(
        self,
        *,
        connections_per_host: int = 10_000,
        keepalive_s: float = 30.0,
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        """`ssl` replaces the system's trust store; `keepalive_s` is how long an idle connection is kept."""
        self._loop = asyncio.get_running_loop()
        self._limit = connections_per_host
        self._keepalive_s = keepalive_s
        self._ssl = _default_ssl() if ssl is None else ssl
        self._pools: dict[_Origin, _Pool] = {}
        self._connections: set[_Connection] = set()
        self._closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        if self._closed:
            raise _closed()
        address = _address(request.url)
        head = _written(request, address)
        now = self._loop.time()
        limits = request.timeouts
        connection = self._idle(address.origin, now)
        if connection is None:
            connection = await self._connect(address.origin, now, limits)
        reply = Http1Reply(connection, limits, now, has_body=request.method != "HEAD")
        connection.begin(reply, head, request.body)
        uploading = None
        if request.upload is not None:
            uploading = self._loop.create_task(connection.send_body(reply, request.upload))
            reply.uploads(uploading)
        try:
            await reply.wait_for_head()
        except BaseException:
            # Failed or cancelled: an upstream that still works on the answer has to notice.
            connection.cut()
            if uploading is not None:
                uploading.cancel()
            raise
        return reply

    def _idle(self, origin: _Origin, now: float) -> _Connection | None:
        pool = self._pools.get(origin)
        if pool is None:
            return None
        while pool.idle:
            connection = pool.idle.pop()
            if connection.is_usable(now):
                return connection
            connection.cut()
        return None

    async def _connect(self, origin: _Origin, now: float, limits: Timeouts) -> _Connection:
        """A connection of our own, new or given back meanwhile; nothing has been sent when this fails."""
        pool = self._pools.setdefault(origin, _Pool())
        try:
            async with asyncio.timeout_at(now + min(limits.connect_s, limits.first_byte_s, limits.total_s)):
                while pool.size >= self._limit:
                    await self._turn(pool)
                    if (free := self._idle(origin, self._loop.time())) is not None:
                        return free
                pool.size += 1
                try:
                    connection = await self._open(origin, pool)
                except BaseException:
                    pool.leave()
                    raise
                connection.take_place()
                return connection
        except TransportError:
            raise
        except (OSError, UnicodeError) as error:
            raise _translated(error) from error

    async def _turn(self, pool: _Pool) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        pool.waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                # It was our turn, and somebody else's now.
                pool.wake()
            raise
        if self._closed:
            raise _closed()

    async def _open(self, origin: _Origin, pool: _Pool) -> _Connection:
        found = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        made = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY_S, interleave=1, loop=self._loop
        )
        try:
            _probe_when_quiet(made)
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self, pool, self._keepalive_s),
                sock=made,
                ssl=self._ssl if origin.tls else None,
                server_hostname=origin.host if origin.tls else None,
            )
        except BaseException:
            made.close()
            raise
        if self._closed:
            connection.cut()
            raise _closed()
        self._connections.add(connection)
        return connection

    def forget(self, connection: _Connection) -> None:
        """The connection is gone."""
        self._connections.discard(connection)

    async def aclose(self) -> None:
        self._closed = True
        for connection in tuple(self._connections):
            connection.close("the transport is closed")
        for pool in self._pools.values():
            while pool.waiting:
                pool.wake()
        # The loop closes sockets at its next turn.
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """A connection and the exchange that it carries at the moment."""

    def __init__(self, owner: Http1Transport, pool: _Pool, keepalive_s: float) -> None:
        self._owner = owner
        self._pool = pool
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._reply: Http1Reply | None = None
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._writable = asyncio.Event()
        self._writable.set()
        self._made = False
        self._has_place = False
        self._lost = False

    # -- called by the loop --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes and do the same.
        self._transport = cast("asyncio.Transport", transport)
        self._made = True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            # Nobody asked for anything: whatever it is, it must not become the next caller's answer.
            self.cut()
        else:
            self._reply.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._writable.set()
        if self._timer is not None:
            self._timer.cancel()
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.lost(exc)
        elif self in self._pool.idle:
            self._pool.idle.remove(self)
        self._owner.forget(self)
        if self._has_place:
            self._pool.leave()

    # -- an exchange ---------------------------------------------------------------------------------

    def take_place(self) -> None:
        """From now on its end makes room in the pool."""
        if self._lost:
            self._pool.leave()
        else:
            self._has_place = True

    def is_usable(self, now: float) -> bool:
        """Open, and not idle for longer than servers can be trusted to keep it open."""
        return (
            not self._lost and not self._transport.is_closing() and now - self._idle_since < self._keepalive_s
        )

    def begin(self, reply: Http1Reply, head: bytes, body: bytes) -> None:
        """Write a request; what comes from now on is its answer."""
        self._reply = reply
        if self._lost:
            reply.lost(None)
            return
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)
        self.watch(reply.limit())

    async def send_body(self, reply: Http1Reply, upload: Upload) -> None:
        """Write a body as it comes. One that cannot be completed ends the connection: a part must not pass
        for the whole."""
        sent = 0
        try:
            async for piece in upload.pieces:
                if self._lost or self._reply is not reply:
                    return
                sent += len(piece)
                if upload.length is not None:
                    self._transport.write(piece)
                elif piece:
                    self._transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                reply.wrote()
                await self._writable.wait()
            if upload.length is None:
                self._transport.write(b"0\r\n\r\n")
            elif sent != upload.length:
                reply.fail("aborted", f"the body has {sent} bytes of {upload.length}")
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the giver of the body raises
            reply.fail("aborted", type(error).__name__)

    def release(self, reusable: bool) -> None:
        """The exchange is over."""
        self._reply = None
        if not reusable:
            self.cut()
            return
        self._idle_since = self._loop.time()
        self._pool.idle.append(self)
        self._pool.wake()

    def hold_back(self, held: bool) -> None:
        """Stop reading from the socket, or go on."""
        if self._lost or self._transport.is_closing():
            return
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def cut(self) -> None:
        """Close at once. `close()` would first flush a request body that the upstream may never read."""
        if self._made and not self._lost:
            self._transport.abort()

    def close(self, why: str) -> None:
        """Close, and tell whoever waits for an answer."""
        if self._reply is not None:
            self._reply.fail("aborted", why)
        self.cut()

    # -- time ----------------------------------------------------------------------------------------

    def watch(self, at: float) -> None:
        """Look at the clock then, or before.

        The timer is left alone when it fires early enough: with one for each exchange, more time would be
        spent on setting timers than on anything they are for.
        """
        at = min(at, self._loop.time() + self._keepalive_s)
        if self._timer is None or at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        limit = self._idle_since + self._keepalive_s if self._reply is None else self._reply.limit()
        if now < limit:
            self.watch(limit)
        elif self._reply is None:
            self.cut()
        else:
            self._reply.expire()


class Http1Reply:
    """One answer: fed by its connection, read by its caller. The parser calls the methods named `on_…`."""

    __slots__ = (
        "_buffered",
        "_complete",
        "_connection",
        "_failure",
        "_framed",
        "_has_body",
        "_head_done",
        "_heard_at",
        "_held",
        "_keep_alive",
        "_limits",
        "_line_bytes",
        "_loop",
        "_parser",
        "_parts",
        "_sent_at",
        "_surplus",
        "_unread",
        "_uploading",
        "_waiter",
        "_wrote_at",
        "headers",
        "status",
    )

    def __init__(self, connection: _Connection, limits: Timeouts, now: float, *, has_body: bool) -> None:
        self.status = 0
        self.headers: Headers = []
        self._connection: _Connection | None = connection
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._wrote_at = self._heard_at = now
        self._uploading: asyncio.Task[None] | None = None
        self._has_body = has_body
        self._parser: Any = httptools.HttpResponseParser(self)
        """Until the end: it holds this as well, and what holds each other waits for the collector."""
        self._line_bytes = 0
        """Bytes of the head that belong to no whole line yet."""
        self._framed = False
        self._keep_alive = False
        self._head_done = False
        self._complete = False
        self._surplus = False
        self._parts: list[bytes] = []
        self._unread: list[bytes] = []
        """What an end of our own kept from its reader."""
        self._buffered = 0
        self._held = False
        self._failure: tuple[Phase, Kind, str] | None = None
        """Not the error itself: what is raised holds the frames it passed through, and they hold this."""
        self._waiter: asyncio.Future[None] | None = None

    # -- for the caller ------------------------------------------------------------------------------

    async def wait_for_head(self) -> None:
        """Return when the head is there. Raises `TransportError` of phase `first_byte`."""
        while not self._head_done:
            if self._failure is not None:
                raise TransportError(*self._failure)
            await self._awaited()

    async def read(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        for name, value in self.headers:
            if name == b"content-length" and int(value) > limit:
                self.fail("too_large", f"{int(value)} bytes announced")
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                self.fail("too_large", f"more than {limit} bytes")
                continue
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            if self._parts:
                yield self._take()
            elif self._failure is not None:
                raise TransportError(*self._failure)
            elif self._complete:
                return
            else:
                await self._awaited()

    async def aclose(self) -> None:
        if not self._complete:
            self.abort()

    def abort(self) -> None:
        self.fail("aborted", "by the gateway")

    def left_behind(self) -> tuple[bytes, bool]:
        return b"".join(self._unread), self._held

    def _take(self) -> bytes:
        taken = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        if self._held:
            self._held = False
            self._heard_at = self._loop.time()
            if self._connection is not None:
                self._connection.hold_back(False)
                self._connection.watch(self.limit())
        return taken

    def _awaited(self) -> asyncio.Future[None]:
        """Done at the next news. One reader at a time."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- for the connection --------------------------------------------------------------------------

    def uploads(self, task: asyncio.Task[None]) -> None:
        """The request's body is still being sent."""
        self._uploading = task

    def wrote(self) -> None:
        """A piece of it went out: the upstream's time to answer begins anew."""
        self._wrote_at = self._loop.time()

    def received(self, data: bytes) -> None:
        """Bytes from the upstream."""
        self._heard_at = self._loop.time()
        self._line_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self.fail("protocol", type(error).__name__, own=False)
                return
            self._surplus = True
        if self._complete:
            self._release()
        elif not self._head_done and self._line_bytes > MAX_HEADER_LINE:
            self.fail("protocol", "a header line without end", own=False)
            return
        elif self._buffered > HIGH_WATER and not self._held and self._connection is not None:
            self._held = True
            self._connection.hold_back(True)
        if self._head_done:
            self._wake()

    def lost(self, exc: Exception | None) -> None:
        """The connection has ended. Without framing a clean end is the end of the message."""
        self._connection = None
        if self._head_done and not self._framed and exc is None:
            self._complete = True
            self._wake()
        else:
            self.fail("reset", type(exc).__name__ if exc is not None else "closed", own=False)

    def limit(self) -> float:
        """When the exchange has to end, in the loop's clock, if nothing more happens."""
        end = self._sent_at + self._limits.total_s
        if not self._head_done:
            return min(end, self._wrote_at + self._limits.first_byte_s)
        return end if self._held else min(end, self._heard_at + self._limits.idle_s)

    def expire(self) -> None:
        """The limit has passed."""
        self.fail("timeout", "no head" if not self._head_done else "idle or total")

    def fail(self, kind: Kind, detail: str, *, own: bool = True) -> None:
        """End the exchange, unless it has ended, and close its connection. What was received before the
        upstream failed can still be read; after an end of our `own` nothing can."""
        if self._failure is None and not (self._complete and not self._parts):
            phase: Phase = "body" if self._head_done else "first_byte"
            self._failure = phase, kind, detail
        if own:
            self._unread, self._parts = self._parts, []
        self._parser = None
        connection, self._connection = self._connection, None
        if self._uploading is not None:
            self._uploading.cancel()
        if connection is not None:
            connection.release(reusable=False)
        self._wake()

    def _release(self) -> None:
        self._parser = None
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._held:
                connection.hold_back(False)
            sent = self._uploading is None or self._uploading.done()
            if not sent and self._uploading is not None:
                self._uploading.cancel()
            connection.release(reusable=self._framed and self._keep_alive and not self._surplus and sent)

    # -- for the parser ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A second message on one request is nobody's answer."""
        self._surplus = self._complete

    def on_status(self, reason: bytes) -> None:
        """The reason phrase, of no use but for its length."""
        self._line_bytes -= len(b"HTTP/1.1 200 \r\n") + len(reason)
        if len(reason) > MAX_HEADER_LINE:
            raise ValueError("a reason without end")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self._line_bytes -= len(name) + len(value) + len(b": \r\n")
        if len(name) + len(value) > MAX_HEADER_LINE or len(self.headers) >= MAX_HEADERS:
            raise ValueError("too large a head")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head, or an interim one, which is skipped."""
        if self._complete:
            return
        status: int = self._parser.get_status_code()
        if status == 101:
            raise ValueError("101 without a request for it")
        if status < 200:
            self.headers.clear()
            return
        self.status = status
        self._head_done = True
        self._framed = status in (204, 304) or any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self.headers
        )
        if not self._has_body:
            # The parser would wait for the body that `content-length` speaks of.
            self._complete = self._surplus = True
        if self._connection is not None:
            self._connection.watch(self.limit())

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if not self._complete:
            self._parts.append(data)
            self._buffered += len(data)

    def on_message_complete(self) -> None:
        """The end of the message, or of an interim one."""
        if self._head_done:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()


@lru_cache(maxsize=1)
def _default_ssl() -> ssl.SSLContext:
    """The system's trust store; reading it takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _closed() -> TransportError:
    return TransportError("connect", "aborted", "the transport is closed")


def _translated(error: OSError | UnicodeError) -> TransportError:
    """A failure before anything was sent. Specific classes first: all of these are `OSError`."""
    kind: Kind
    match error:
        case TimeoutError():
            kind = "timeout"
        case socket.gaierror() | UnicodeError():
            kind = "dns"
        case ssl.SSLError():
            kind = "tls"
        case _ if error.errno in (errno.ECONNRESET, errno.EPIPE):
            kind = "reset"
        case _:
            kind = "refused"
    return TransportError("connect", kind, type(error).__name__)


def _probe_when_quiet(made: socket.socket) -> None:
    """Have the socket notice a peer gone without a word.

    A plain answer can take minutes without a byte; NAT and firewalls forget such connections, so probes
    keep them open, and unread data is given up after a minute instead of the kernel's quarter of an hour.
    """
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 6),
        ("TCP_USER_TIMEOUT", 60_000),
    ):
        if hasattr(socket, option):  # the names differ between kernels
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


if TYPE_CHECKING:
    _transport: type[Transport] = Http1Transport
    _reply: type[UpstreamReply] = Http1Reply
