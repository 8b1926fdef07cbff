"""The seam between the gateway and an HTTP client: one request out, one reply back.

A transport knows bytes, headers and time, and nothing of providers, retries or money. It sends a
request once: what fails is told, never tried again, because a second attempt can cost a second answer.
No library's exception passes this seam; every failure is a `TransportError` with a phase and a kind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol

from gateway.domain import Headers
from gateway.values import frozen

Phase = Literal["connect", "first_byte", "body"]
Kind = Literal["refused", "dns", "tls", "timeout", "reset", "protocol", "too_large", "aborted"]


class TransportError(Exception):
    """The exchange failed. `str()` is for logs; it holds no header and no body.

    `phase` says how far it came:

        connect      nothing was sent: asking again cannot be charged twice
        first_byte   something may have been sent, no response head arrived
        body         the head arrived, and perhaps a part of the body

    `kind` says what happened: `refused` covers an unreachable host as well, `reset` any end of the
    connection before the message was complete, `aborted` our own `abort()` or a closed transport.
    """

    def __init__(self, phase: Phase, kind: Kind, detail: str = "") -> None:
        super().__init__(f"{phase}: {kind}" + (f" ({detail})" if detail else ""))
        self.phase: Phase = phase
        self.kind: Kind = kind


class UnsendableError(ValueError):
    """The request cannot be put on the wire as it is. Nothing was sent and no upstream is to blame."""


@frozen
class Timeouts:
    """Limits of one exchange, in seconds. All are needed: a stalled upstream passes the others.

    `connect_s` binds waiting for a free connection, DNS, TCP and TLS. `first_byte_s` runs from `send()`
    to the response head. `idle_s` is the longest silence of the upstream inside the body; it stands
    still while a slow reader holds the upstream back. `total_s` runs from `send()` to the last byte.
    """

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float


@frozen
class Upload:
    """A body that is sent as it comes, and read no faster than the upstream takes it."""

    pieces: AsyncIterator[bytes]
    length: int | None
    """Bytes in all, where that is known; else it is sent in chunks."""


@frozen
class UpstreamRequest:
    """One request, whole.

    `url` is absolute and already percent-encoded; it is sent as it is. `headers` are sent byte for byte
    and in order, except those that frame a message (`host`, `content-length`, `transfer-encoding`,
    `connection`, `keep-alive`, `expect`), which the transport sets itself.
    """

    method: str
    url: str
    headers: Headers
    body: bytes
    timeouts: Timeouts
    upload: Upload | None = None
    """In place of `body`, one that comes bit by bit. `first_byte_s` then runs from its last piece."""


class UpstreamReply(Protocol):
    """A response whose head has arrived. Whoever holds one must end it with `aclose` or `abort`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers:
        """As received, in order, duplicates kept, names in lower case; framing headers included."""

    async def read(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes.

        Raises `TransportError` of phase `body`; its kind is `too_large` when the body is larger, and
        then the connection is closed. A content encoding is left as it is.
        """

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, never an empty piece. One reader at a time.

        Ends only when the message is complete by its own framing; raises `TransportError` of phase
        `body` otherwise. A body framed by neither length nor chunks has no such mark: there a closed
        connection is the end, and only the caller's protocol can tell a cut from it.
        """

    async def aclose(self) -> None:
        """Done with the reply: a finished exchange leaves its connection to the pool, any other is cut."""

    def abort(self) -> None:
        """Close the connection now. Idempotent, and safe while another task waits in `chunks` or `read`:
        that task gets a `TransportError` of kind `aborted`.
        """

    def left_behind(self) -> tuple[bytes, bool]:
        """After `abort`: what had arrived and nobody had read, and whether the upstream was being kept
        waiting for its reader, so that more may be on the way than is known.
        """


class Transport(Protocol):
    """Sends requests over pooled connections. Follows no redirect, keeps no cookie, reads no environment."""

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send once and return when the response head has arrived.

        Raises `TransportError`, or `UnsendableError` before anything was sent. When the task is
        cancelled the connection is closed, so that the upstream stops working on the answer.
        """

    async def aclose(self) -> None:
        """Close every connection, those in use too."""
