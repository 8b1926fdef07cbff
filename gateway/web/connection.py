"""One connection of a caller, read as strictly as whatever stands in front of it may read it.

uvicorn takes what httptools understands. Where two servers could understand different things, a request can
hide in another one's body, and the next caller on the same connection of a proxy pays for it. So here:

    Upgrade         is not offered, and the body belongs to the request: httptools would take it for what
                    comes after the upgrade, that is for another request
    trailers        are no headers, whenever they arrive
    framing         is a length or `chunked`, said once
    a head          has a size, a number of lines and a time in which to arrive
    unreadable      bytes are answered only when no other answer is owed; else they would take its place
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http import httptools_impl

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line with its headers, and of the trailers of a body."""
MAX_HEADERS = 128
HEAD_TIMEOUT_S = 30.0
"""From the connection, or from the first byte of a later request, to the end of the head."""

_WATCHED = frozenset({b"expect", b"transfer-encoding", b"transfer_encoding", b"content_length"})
_OF_UPGRADES = frozenset({b"upgrade", b"http2-settings"})


class StrictProtocol(httptools_impl.HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol without what would let two servers read two things."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._unread = 0
        """Bytes that came since the last piece of a body or whole head."""
        self._asked_to_upgrade = False
        self._read_again = False
        self._framed_by: bytes | None = None
        self._refusal = HTTPStatus.BAD_REQUEST
        self._deaf = False
        """Nothing more is read: the connection ends with the answer that is owed."""
        self._late: asyncio.TimerHandle | None = None

    # -- called by the loop --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller is there, and has to say what it wants."""
        super().connection_made(transport)
        self._watch_the_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_the_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the caller."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._unread += len(data)
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    data = self._head_without_upgrade() + data[upgrade.args[0] :]
        except httptools.HttpParserError:
            self._refuse()
            return
        if self._unread > MAX_HEAD_BYTES:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse()
        elif self._in_head and self._late is None:
            self._watch_the_clock()

    # -- called by the parser ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True
        self._framed_by = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line; after the head, a trailer."""
        if not self._in_head:
            return
        name = name.lower()
        if name in _WATCHED:
            self._look_at(name, value)
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole: the request can be served."""
        if len(self.headers) > MAX_HEADERS or (
            self._unread > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES
        ):
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("too large a head")
        if self.parser.should_upgrade():
            if self._read_again or self.parser.get_method() == b"CONNECT":
                raise ValueError("nothing else is spoken here")
            self._asked_to_upgrade = True
            return
        self._in_head = self._read_again = False
        self._unread = 0
        if self._late is not None:
            self._stop_the_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._asked_to_upgrade:
            # As the parser sees it. It is read again without that wish.
            return
        super().on_message_complete()

    # -- parts ---------------------------------------------------------------------------------------

    def _look_at(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expect_100_continue = self.expect_100_continue or value.lower() == b"100-continue"
            return
        if b"_" in name:
            raise ValueError("read as framing by some, and not by others")
        if self._framed_by is not None or value.strip().lower() != b"chunked":
            raise ValueError("a body is chunked, once, or has a length")
        if self.parser.get_http_version() != "1.1":
            raise ValueError("HTTP/1.0 has no chunks")
        self._framed_by = value

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_without_upgrade(self) -> bytes:
        """The head that was just read, as it is without the wish to speak something else."""
        self._asked_to_upgrade, self._read_again = False, True
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                parts = [part.strip() for part in value.split(b",")]
                value = b", ".join(part for part in parts if part.lower() not in _OF_UPGRADES)
                if not value:
                    continue
            lines.append(b"%b: %b\r\n" % (name, value))
        return b"".join(lines) + b"\r\n"

    def _refuse(self) -> None:
        """End a connection on which nothing more can be read."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self.send_400_response(self._refusal.phrase)
        elif self.pipeline or (cycle.more_body and cycle.response_started):
            # Some answer is not whole, and none can follow it: only the end can be told.
            self.transport.abort()
        elif cycle.more_body:
            self.send_400_response(self._refusal.phrase)
        else:
            cycle.keep_alive = False
        self._deaf = True

    def send_400_response(self, msg: str) -> None:
        """Say why the connection ends, and end it."""
        self._deaf = True
        text = msg.encode("ascii")
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b"
            % (self._refusal.value, self._refusal.phrase.encode("ascii"), len(text), text)
        )
        self.transport.close()

    def _watch_the_clock(self) -> None:
        self._late = self.loop.call_later(HEAD_TIMEOUT_S, self._is_late)

    def _stop_the_clock(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _is_late(self) -> None:
        self._late = None
        if self.transport.is_closing():
            return
        if not self._in_head:
            # Not a byte came: there is nobody to talk to.
            self.transport.close()
            return
        self._refusal = HTTPStatus.REQUEST_TIMEOUT
        self._refuse()
