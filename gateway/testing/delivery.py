"""Puts one scripted reply on the wire, at its pace and with its faults, and keeps the attempt's figures.

`Delivery.run` reads top to bottom: wait, head, body event by event, end of the framing. `instant` is the
same without waiting, for replies that neither wait nor break: equal bodies and equal figures.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Literal

from gateway.domain import Surface
from gateway.testing.background import Background
from gateway.testing.generate import Answer
from gateway.testing.journal import Attempt
from gateway.testing.script import Reply
from gateway.testing.surfaces import Event
from gateway.testing.wire import Connection, Request, head_bytes

Kind = Literal["stream", "binary", "plain", "verbatim", "error"]
"""`binary` is a stream of raw pieces; `verbatim` and `error` are whole bodies that no answer was made for."""
Framing = Literal["chunked", "length", "close"]

_ENDLESS_BLOCK = b"x" * 65_536
_GZIP_WINDOW = 31
_EVENT_STREAM = "text/event-stream"
_MAX_INSTANT_TOKENS = 4_000
"""Longer answers are written step by step, so that their buffered bytes stay bounded."""


class _Ended(Exception):  # noqa: N818  A signal between methods here, never an error of a caller.
    """The reply is over before its end: the script cut it, or the client left and nobody generates on."""


class Delivery:
    """One reply on one connection."""

    def __init__(
        self,
        connection: Connection,
        request: Request,
        attempt: Attempt,
        reply: Reply,
        kind: Kind,
        events: Iterable[Event],
        answer: Answer | None = None,
        content_type: str | None = None,
    ) -> None:
        """`events` of a reply that is no stream is its whole body as one event, which is asked for once its
        tokens are generated. `content_type` is what it is served as unless the script says otherwise."""
        self.connection = connection
        self.attempt = attempt
        self.reply = reply
        self.kind = kind
        self._streams = kind in ("stream", "binary")
        self.events = iter(events)
        self.answer = answer
        self.generated = 0
        self.sent = 0
        """Body bytes, as the cut and stall positions count them."""
        self.stalled = False
        self._current: Event | None = None
        self._current_end = 0
        self.content_type = self._content_type(content_type)
        self.framing: Framing = self._framing(request)
        self.keep_alive = (
            request.keep_alive
            and request.method != "HEAD"
            and self.framing != "close"
            and reply.content_length is None
            and reply.wire is None
        )
        self._compressor = zlib.compressobj(wbits=_GZIP_WINDOW) if reply.gzip and reply.wire is None else None

    @property
    def at_once(self) -> bool:
        """Nothing waits or breaks, and it is small enough to be written in one go."""
        if self.kind == "binary" or not self.reply.instant:
            return False
        return self.answer is None or self.answer.generated <= _MAX_INSTANT_TOKENS

    def _content_type(self, usual: str | None) -> str:
        for name, value in self.reply.headers:
            if name.lower() == "content-type":
                return value
        if self.reply.content_type is not None:
            return self.reply.content_type
        if usual is not None:
            return usual
        streams = self.kind == "stream" or (self.kind == "verbatim" and self.attempt.stream)
        return f"{_EVENT_STREAM}; charset=utf-8" if streams else "application/json"

    def _framing(self, request: Request) -> Framing:
        wanted = self.reply.framing
        if wanted == "auto":
            streams = self.kind == "binary" or self.content_type.startswith(_EVENT_STREAM)
            wanted = "chunked" if streams else "length"
        # HTTP/1.0 clients do not know chunks, and a stream's length is not known when its head goes out.
        if (wanted == "chunked" and request.http_1_0) or (wanted == "length" and self._streams):
            return "close"
        return wanted

    def head(self, body_length: int) -> bytes:
        """The response's head; `body_length` matters to the `length` framing alone."""
        reply = self.reply
        headers = {"content-type": self.content_type}
        if self.framing == "chunked":
            headers["cache-control"] = "no-cache"
        headers["x-request-id"] = self.attempt.id
        if self.attempt.surface is Surface.MESSAGES:
            headers["request-id"] = self.attempt.id
        headers["x-simulated"] = "true"
        if self._compressor is not None:
            headers["content-encoding"] = "gzip"
        if reply.content_length is not None:
            headers["content-length"] = str(reply.content_length)
        elif self.framing == "length":
            headers["content-length"] = str(body_length)
        elif self.framing == "chunked":
            headers["transfer-encoding"] = "chunked"
        if not self.keep_alive:
            headers["connection"] = "close"
        if not reply.headers:
            return head_bytes(reply.status, headers.items())
        for name in {name.lower() for name, _ in reply.headers}:
            headers.pop(name, None)
        return head_bytes(reply.status, [*headers.items(), *reply.headers])

    # At once.

    def instant(self) -> None:
        """Write the whole reply in one go. Only for replies that are `Reply.instant`."""
        attempt = self.attempt
        attempt.status = self.reply.status
        parts = []
        for index, event in enumerate(self.events):
            parts.append(self._framed(event, index))
            self._count(event)
            self._note_sent(event)
        body = b"".join(parts)
        attempt.body_bytes = len(body)
        if self.framing == "chunked":
            framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        else:
            framed = body
        whole = self.head(len(body)) + framed
        attempt.bytes_written = len(whole)
        self.connection.write(whole)
        self.connection.finish(self.keep_alive)

    # In time.

    async def run(self) -> None:
        """Play the reply to its end, its cut, or the client's leaving; then end or reuse the connection."""
        self.connection.on_gone = self._left
        try:
            await self._pause_or_stall("head", self.reply.head_delay_s)
            if self.reply.endless == "header":
                await self._endless(b"HTTP/1.1 200 OK\r\nx-endless: ")
            if self._streams:
                await self._stream()
            else:
                await self._whole()
            self._end_framing()
        except _Ended:
            pass
        else:
            self.connection.finish(self.keep_alive)

    async def _stream(self) -> None:
        await self._send_head(0)
        if self.reply.endless == "line":
            await self._endless(b"data: ")
        await self._pause_or_stall("first_chunk", self.reply.first_chunk_delay_s)
        for index, event in enumerate(self.events):
            if index and self.reply.chunk_delay_s:
                await self._pause(self.reply.chunk_delay_s)
            if self.reply.stall_at == index or event.is_at(self.reply.stall_at):
                await self._stall()
            self._count(event)
            await self._send_body(self._coded(self._framed(event, index)), event)
            self._note_sent(event)
        if tail := self._coded(b"", last=True):
            await self._send_body(tail)

    async def _whole(self) -> None:
        """A body in one piece. Its tokens are generated, evenly, while the client waits for the head."""
        await self._generate()
        (event,) = self.events
        body = self._coded(event.data, last=True)
        if self.reply.wire is None:
            await self._send_head(len(body))
        else:
            self.attempt.status = self.reply.status
        if self.reply.endless == "line":
            await self._endless(b"")
        if self.reply.stall_at == "first_chunk":
            await self._stall()
        await self._send_body(body, event)
        self._note_sent(event)

    async def _generate(self) -> None:
        answer, reply = self.answer, self.reply
        if answer is None:
            await self._pause(reply.first_chunk_delay_s)
            return
        per_event = max(reply.chunk_tokens, 1)
        events = reply.chunks or -(-answer.generated // per_event)
        takes = reply.first_chunk_delay_s + reply.chunk_delay_s * max(events - 1, 0)
        if takes:
            started = time.monotonic()
            await self.connection.pause(takes)
            if self._stops():
                share = min((time.monotonic() - started) / takes, 1.0)
                self.attempt.completion_tokens = answer.billed(int(answer.generated * share))
                raise _Ended
            if self.connection.gone:
                await asyncio.sleep(max(0.0, started + takes - time.monotonic()))
        self.attempt.completion_tokens = answer.completion_tokens

    async def _send_head(self, body_length: int) -> None:
        if self.connection.gone:
            return
        head = self.head(body_length)
        cut = self.reply.cut_head_at_byte
        if cut is not None and cut < len(head):
            self._write(head[:cut])
            await self._cut()
        self._write(head)
        self.attempt.status = self.reply.status
        if self.reply.flush_each:
            await asyncio.sleep(0)

    async def _send_body(self, data: bytes, event: Event | None = None) -> None:
        """Send body bytes through chunking, stall and cut, each at its position."""
        self._current, self._current_end = event, self.sent + len(data)
        size = self.reply.chunk_bytes or len(data)
        split = self.reply.chunk_bytes is not None or self.reply.flush_each
        stall_after = self._stall_offset(data, event)
        for start in range(0, len(data), size):
            part = data[start : start + size]
            if start and self.kind == "verbatim":
                await self._pause(self.reply.chunk_delay_s)
            if stall_after is not None and start <= stall_after < start + len(part):
                await self._send_part(part[: stall_after - start])
                await self._stall()
                part = part[stall_after - start :]
            if self.reply.cut_at_byte is None:
                self._write_body(part)
            else:
                await self._send_part(part)
            if split:
                await asyncio.sleep(0)
            if not self.connection.writable:
                await self.connection.drain()
            self._check()

    def _stall_offset(self, data: bytes, event: Event | None) -> int | None:
        """How many of these bytes go out before the script's silence, if it falls among them."""
        at_byte = self.reply.stall_at_byte
        if self.stalled:
            return None
        if at_byte is not None and self.sent <= at_byte < self.sent + len(data):
            return at_byte - self.sent
        if self.reply.stall_at == "mid_chunk" and event is not None and event.mark == "content":
            return len(data) // 2
        if self.reply.stall_at == "mid_utf8":
            return next((index + 1 for index, byte in enumerate(data) if byte >= 0xC0), None)
        return None

    async def _send_part(self, part: bytes) -> None:
        cut = self.reply.cut_at_byte
        if cut is not None and self.sent + len(part) >= cut:
            self._write_body(part[: cut - self.sent])
            if self._current is not None and self.sent == self._current_end:
                self._note_sent(self._current)
            await self._cut()
        self._write_body(part)

    def _write_body(self, part: bytes) -> None:
        if not part:
            return
        self.sent += len(part)
        if not self.connection.gone:
            self.attempt.body_bytes += len(part)
        framed = self.framing == "chunked" and self.reply.wire is None
        self._write(b"%x\r\n%b\r\n" % (len(part), part) if framed else part)

    def _write(self, data: bytes) -> None:
        if not self.connection.gone:
            self.attempt.bytes_written += len(data)
            self.connection.write(data)

    def _end_framing(self) -> None:
        if self.framing == "chunked" and self.reply.wire is None:
            self._write(b"0\r\n\r\n")

    async def _cut(self) -> None:
        """End the reply here, in the script's manner."""
        how = self.attempt.cut = self.reply.cut_how
        self.connection.on_gone = None
        if how == "rst":
            await self.connection.reset()
        elif how == "clean":
            self._end_framing()
            self.connection.finish(False)
        else:
            self.connection.finish(False)
        raise _Ended

    async def _endless(self, opening: bytes) -> None:
        write = self._write if self.reply.endless == "header" else self._write_body
        write(opening)
        left = self.reply.endless_bytes
        while left > 0 and not self.connection.gone:
            block = _ENDLESS_BLOCK[:left]
            left -= len(block)
            write(block)
            await asyncio.sleep(0)
            await self.connection.drain()
        self.connection.finish(False)
        raise _Ended

    async def _pause_or_stall(self, phase: str, seconds: float) -> None:
        await self._pause(seconds)
        if self.reply.stall_at == phase:
            await self._stall()

    async def _pause(self, seconds: float) -> None:
        if not seconds:
            return
        if self.connection.gone:
            # Whoever generates on without a reader does so at the same pace.
            await asyncio.sleep(seconds)
        else:
            await self.connection.pause(seconds)
        self._check()

    async def _stall(self) -> None:
        if self.stalled:
            return
        self.stalled = True
        await self.connection.pause(self.reply.stall_s)
        self._check()

    def _stops(self) -> bool:
        return self.connection.gone and self.reply.on_disconnect == "abort"

    def _check(self) -> None:
        if self._stops():
            raise _Ended

    # Figures.

    def _left(self) -> None:
        self.attempt.client_left = True
        self.attempt.client_left_at = self.connection.gone_at
        self.attempt.client_left_at_chunk = self.attempt.chunks

    def _count(self, event: Event) -> None:
        """The event's tokens are generated, whether or not its bytes ever arrive."""
        if self.answer is not None:
            self.generated += event.tokens
            if event.tokens:
                self.attempt.completion_tokens = self.answer.billed(self.generated)

    def _note_sent(self, event: Event) -> None:
        if self.connection.gone:
            return
        self.attempt.chunks += self._streams
        self.attempt.usage_reported |= event.carries_usage

    # Bytes.

    def _framed(self, event: Event, index: int) -> bytes:
        """The event as it stands in the body; a body that is no stream stays what it is."""
        if self.kind != "stream":
            return event.data
        reply = self.reply
        if reply.newline == "\n" and not reply.comments and not reply.comment_every:
            if event.name is None:
                return b"data: %b\n\n" % event.data
            return b"event: %b\ndata: %b\n\n" % (event.name, event.data)
        lines = []
        if index == 0:
            lines += [b": %b\n\n" % comment.encode() for comment in reply.comments]
        if reply.comment_every and index % reply.comment_every == 0:
            lines.append(b": SIMULATED PROVIDER PROCESSING\n\n")
        if event.name is not None:
            lines.append(b"event: %b\n" % event.name)
        lines.append(b"data: %b\n\n" % event.data)
        return b"".join(lines).replace(b"\n", reply.newline.encode())

    def _coded(self, data: bytes, last: bool = False) -> bytes:
        """`data` in the content coding; every event can be decoded as soon as it has arrived."""
        if self._compressor is None:
            return data
        mode = zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH
        return self._compressor.compress(data) + self._compressor.flush(mode)


class Following(Delivery):
    """A stream of a background response, from its event of index `start` on, as they are generated.

    The response goes on whatever becomes of this connection: cuts are this connection's, and so is `reply`.
    """

    def __init__(
        self,
        connection: Connection,
        request: Request,
        attempt: Attempt,
        reply: Reply,
        background: Background,
        start: int = 0,
    ) -> None:
        super().__init__(connection, request, attempt, reply, "stream", ())
        self.background = background
        self.at = start

    @property
    def at_once(self) -> bool:
        return False

    async def _stream(self) -> None:
        await self._send_head(0)
        background = self.background
        background.watchers.add(self.connection.wake)
        try:
            while not self.connection.gone:
                while self.at < len(background.events):
                    event = background.events[self.at]
                    await self._send_body(self._coded(self._framed(event, self.at)), event)
                    self._note_sent(event)
                    self.at += 1
                if background.ended:
                    break
                await self.connection.until(self._has_more)
        finally:
            background.watchers.discard(self.connection.wake)
        if tail := self._coded(b"", last=True):
            await self._send_body(tail)

    def _has_more(self) -> bool:
        return self.background.ended or self.at < len(self.background.events)


def without_pace(reply: Reply) -> Reply:
    """What a connection has of a background response's script: the pace and the stalls are the response's."""
    stall_at = reply.stall_at if reply.stall_at == "head" else None
    return replace(reply, first_chunk_delay_s=0.0, chunk_delay_s=0.0, stall_at=stall_at)


def until_error(events: Iterator[Event], at: int, error: Callable[[int, int], Event]) -> Iterator[Event]:
    """The stream up to its event `at`, which is an error instead, made of its index and the tokens before."""
    index = generated = 0
    for event in events:
        if index == at:
            break
        yield event
        index += 1
        generated += event.tokens
    yield error(index, generated)
