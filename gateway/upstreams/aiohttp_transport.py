"""The transport on aiohttp's client (docs/decisions/0002-upstream-transport.md).

aiohttp gives the pool, DNS, TLS and framing. The clocks of an exchange are ours: aiohttp's own total
timeout neither closes a connection that nobody reads nor tells which limit was passed. And a reader is
woken here in two cases where aiohttp leaves it waiting: an invalid chunk, and a closed session.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from functools import lru_cache
from ssl import SSLContext
from typing import TYPE_CHECKING
from weakref import WeakSet

import aiohttp
from yarl import URL

from gateway.domain import Headers
from gateway.upstreams.transport import (
    Kind,
    Phase,
    Transport,
    TransportError,
    UnsendableError,
    UpstreamReply,
    UpstreamRequest,
)

_OURS = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"expect"})

READ_BUFFER = 32 * 1024
"""Bytes of unread body (twice this) after which the upstream is held back."""

MAX_HEADER_LINE = 16 * 1024
"""Bytes; aiohttp and nginx take 8 KiB, h11 16 KiB, and some providers' CSP and cookie lines come close."""

MAX_HEADERS = 128

_parse_url = lru_cache(maxsize=1024)(lambda url: URL(url, encoded=True))


@lru_cache(maxsize=64)
def _client_timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=None, sock_read=None)


class AiohttpTransport:
    """One pool for all upstreams of this process. Must be created and used inside one event loop."""

    def __init__(
        self,
        *,
        connections_per_host: int = 1000,
        keepalive_s: float = 30.0,
        dns_ttl_s: int = 10,
        ssl: SSLContext | None = None,
    ) -> None:
        """`ssl` replaces the system's trust store; `keepalive_s` is how long an idle connection is kept."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                limit_per_host=connections_per_host,
                keepalive_timeout=keepalive_s,
                ttl_dns_cache=dns_ttl_s,
                ssl=True if ssl is None else ssl,
                socket_factory=_open_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            raise_for_status=False,
            response_class=_Response,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            read_bufsize=READ_BUFFER,
            max_line_size=MAX_HEADER_LINE,
            max_field_size=MAX_HEADER_LINE,
            max_headers=MAX_HEADERS,
        )
        self._open: set[AiohttpReply] = set()
        self._watched: WeakSet[object] = WeakSet()

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        if self._session.closed:
            raise TransportError("connect", "aborted", "the transport is closed")
        headers = _outgoing(request.headers)
        try:
            url = _parse_url(request.url)
        except (ValueError, TypeError) as error:
            raise UnsendableError("not a URL") from error
        limits = request.timeouts
        now = asyncio.get_running_loop().time()
        deadline = now + limits.total_s
        try:
            async with asyncio.timeout_at(min(now + limits.first_byte_s, deadline)):
                response = await self._session.request(
                    request.method,
                    url,
                    headers=headers,
                    # An empty body is sent as none, so that a GET carries no `content-length: 0`.
                    data=_Body(request.body) if request.body else None,
                    allow_redirects=False,
                    timeout=_client_timeout(limits.connect_s),
                )
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise UnsendableError("not an http or https URL") from error
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            raise _translated(error) from error
        reply = AiohttpReply(response, self._open)
        if response.connection is not None:
            # Otherwise the answer was short and came with its head: nothing is left to watch.
            reply.watch(response.connection, deadline, limits.idle_s, self._watched)
        if response.status == 101:
            # Nobody asked for an upgrade, and what follows is not HTTP.
            reply.abort()
            raise TransportError("first_byte", "protocol", "101 without a request for it")
        return reply

    async def aclose(self) -> None:
        for reply in tuple(self._open):
            reply.abort()
        await self._session.close()


class AiohttpReply:
    """One response on a connection of its own until its last byte was received."""

    __slots__ = (
        "_clock",
        "_closed",
        "_content",
        "_failure",
        "_open",
        "_response",
        "_unframed",
        "headers",
        "status",
    )

    def __init__(self, response: aiohttp.ClientResponse, open_replies: set[AiohttpReply]) -> None:
        self.status: int = response.status
        self.headers: Headers = [(name.lower(), value) for name, value in response.raw_headers]
        self._response = response
        self._content = response.content
        self._open = open_replies
        self._failure: TransportError | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None
        self._unframed: ResponseHandler | None = None

    def watch(self, connection: Connection, deadline: float, idle_s: float, watched: WeakSet[object]) -> None:
        """Bind the rest of the body by time, and notice when its connection goes.

        `deadline` is in the loop's clock. `watched` holds the connections that have been seen before.
        """
        protocol = connection.protocol
        if protocol is None:
            return
        protocol.read_timeout = idle_s
        protocol.start_timeout()
        self._clock = asyncio.get_running_loop().call_at(deadline, self._fail, "timeout", "total")
        self._open.add(self)
        self._closed = protocol.closed
        if self._closed is not None:
            if protocol not in watched:
                watched.add(protocol)
                self._closed.add_done_callback(_retrieve)
            self._closed.add_done_callback(self._connection_closed)
        headers = self._response.headers
        if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
            self._unframed = protocol

    async def read(self, limit: int) -> bytes:
        declared = self._response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > limit:
            self._fail("too_large", f"{declared} bytes announced")
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                self._fail("too_large", f"more than {limit} bytes")
                continue
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        content = self._content
        try:
            while True:
                if self._failure is not None:
                    raise self._failure
                chunk = await content.readany()
                if self._failure is not None:
                    raise self._failure
                if not chunk:
                    break
                yield chunk
            if self._unframed is not None and isinstance(lost := self._unframed.exception(), OSError):
                raise lost
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            if self._failure is None:
                self._failure = _translated_in_body(error)
            self._close()
            raise self._failure from error
        self._unwatch()

    async def aclose(self) -> None:
        if self._content.at_eof():
            self._unwatch()
        else:
            self.abort()

    def abort(self) -> None:
        self._fail("aborted", "by the gateway")

    def _fail(self, kind: Kind, detail: str) -> None:
        if self._failure is None:
            self._failure = TransportError("body", kind, detail)
            self._close()

    def _close(self) -> None:
        self._unwatch()
        connection = self._response.connection
        if connection is not None:
            _cut(connection)
        self._response.close()

    def _connection_closed(self, _: asyncio.Future[None]) -> None:
        """aiohttp told the body about every cut by now; what it keeps to itself is an invalid chunk."""
        if not self._content.is_eof() and self._content.exception() is None:
            self._fail("protocol", "invalid framing")

    def _unwatch(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
            self._open.discard(self)
        if self._closed is not None:
            self._closed.remove_done_callback(self._connection_closed)
            self._closed = None


class _Body(aiohttp.BytesPayload):
    """A body of any size: aiohttp warns of more than 1 MiB, and its remedy reads in a thread."""

    def __init__(self, body: bytes) -> None:
        super().__init__(b"")
        self._value = body
        self._size = len(body)


class _Response(aiohttp.ClientResponse):
    """Cuts the connection when waiting for the head fails or is cancelled."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        try:
            return await super().start(connection)
        except BaseException:
            _cut(connection)
            raise


def _cut(connection: Connection) -> None:
    """Close at once. `close()` would first flush a request body that the upstream may never read."""
    if connection.transport is not None:
        connection.transport.abort()


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Mark how a pooled connection ended as seen, or asyncio logs an error for each that was reset."""
    if not closed.cancelled():
        closed.exception()


def _outgoing(headers: Headers) -> list[tuple[str, str]]:
    """The caller's headers as aiohttp wants them: it writes text as UTF-8, so only UTF-8 passes unchanged."""
    try:
        return [
            (name.decode("ascii"), value.decode()) for name, value in headers if name.lower() not in _OURS
        ]
    except UnicodeDecodeError as error:
        raise UnsendableError("a header is not UTF-8") from error


def _translated(error: Exception) -> TransportError | UnsendableError:
    """A failure before the response head. Specific classes first: aiohttp's tree overlaps with `OSError`."""
    phase: Phase = "first_byte"
    kind: Kind
    match error:
        case aiohttp.ConnectionTimeoutError():
            phase, kind = "connect", "timeout"
        case aiohttp.ClientConnectorDNSError():
            phase, kind = "connect", "dns"
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            phase, kind = "connect", "tls"
        case aiohttp.ClientConnectorError():
            phase, kind = "connect", _connect_kind(error.os_error)
        case TimeoutError():
            kind = "timeout"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            kind = "protocol"
        case aiohttp.ClientError() | OSError():
            kind = "reset"
        case ValueError():
            return UnsendableError("a header holds a control character")
        case _:
            kind = "aborted"
    return TransportError(phase, kind, type(error).__name__)


def _connect_kind(error: OSError) -> Kind:
    if error.errno == errno.ETIMEDOUT:
        return "timeout"
    return "reset" if error.errno in (errno.ECONNRESET, errno.EPIPE) else "refused"


def _translated_in_body(error: Exception) -> TransportError:
    """A failure after the response head."""
    kind: Kind
    match error:
        case TimeoutError():
            return TransportError("body", "timeout", "idle")
        case aiohttp.ClientPayloadError() if not str(error).startswith("Response payload is not completed"):
            kind = "protocol"
        case aiohttp.ClientError() | OSError():
            kind = "reset"
        case _:
            kind = "protocol"
    return TransportError("body", kind, type(error).__name__)


def _open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices a peer gone without a word.

    A plain answer can take minutes without a byte; NAT and firewalls forget such connections, so probes
    keep them open, and unread data is given up after a minute instead of the kernel's quarter of an hour.
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 6),
        ("TCP_USER_TIMEOUT", 60_000),
    ):
        if hasattr(socket, option):  # the names differ between kernels
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

    _transport: type[Transport] = AiohttpTransport
    _reply: type[UpstreamReply] = AiohttpReply
