"""Every implementation of `Transport` against a real server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from gateway.upstreams.http1_transport import MAX_HEADER_LINE, Http1Transport
from gateway.upstreams.transport import (
    Timeouts,
    Transport,
    TransportError,
    UnsendableError,
    UpstreamReply,
    UpstreamRequest,
)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

AT_ONCE_S = 4.0
"""What takes a moment may take so long on a busy machine; the limits of `PATIENT` are longer."""
PATIENT = Timeouts(connect_s=5, first_byte_s=5, idle_s=5, total_s=10)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream:
    """A server that plays `script` on every connection and keeps what it was sent."""

    def __init__(self) -> None:
        self.script: Script
        self.requests: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()
        """Set when a connection was closed by the gateway."""
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                await self.script(reader, writer)
            except ConnectionError:
                self.gone.set()
        writer.close()
        self._tasks.discard(task)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def take_request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        request = head + await reader.readexactly(length)
        self.requests.append(request)
        return request

    async def watch_for_close(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
        self.gone.set()

    def plays(self, *steps: bytes | float | str) -> None:
        """Answer each request by these steps: bytes are sent, a float waits, "fin" and "rst" cut,
        "watch" waits for the gateway to close."""

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await self.take_request(reader)
                for step in steps:
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                    elif isinstance(step, float):
                        await asyncio.sleep(step)
                    elif step == "watch":
                        await self.watch_for_close(reader)
                        return
                    else:
                        if step == "rst":
                            # The bytes before the reset must have been read, or the kernel drops them.
                            await asyncio.sleep(0.05)
                            linger = struct.pack("ii", 1, 0)
                            writer.get_extra_info("socket").setsockopt(
                                socket.SOL_SOCKET, socket.SO_LINGER, linger
                            )
                        return

        self.script = script


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def plain(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = b"".join(h + b"\r\n" for h in headers)
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status, lines, len(body), body)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream()
    server = await made.start()
    yield made
    made.stop()
    server.close()


Kind = type[Http1Transport]


@pytest.fixture(params=[Http1Transport])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every implementation."""
    found: Kind = request.param
    return found


@pytest.fixture
async def transport(kind: Kind) -> AsyncIterator[Transport]:
    made = kind()
    yield made
    await made.aclose()


def post(
    url: str,
    body: bytes = b'{"model":"m"}',
    timeouts: Timeouts = PATIENT,
    headers: list[tuple[bytes, bytes]] | None = None,
    method: str = "POST",
) -> UpstreamRequest:
    return UpstreamRequest(method, url, headers or [(b"authorization", b"Bearer k")], body, timeouts)


async def drain(reply: UpstreamReply) -> bytes:
    return b"".join([piece async for piece in reply.chunks()])


async def failure_of(work: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(TransportError) as caught:
        await asyncio.wait_for(work, 5)
    return caught.value.phase, caught.value.kind


# What is sent and what comes back


async def test_headers_and_body_are_sent_byte_for_byte_and_nothing_is_added(
    upstream: Upstream, transport: Transport
) -> None:
    upstream.plays(plain(b"{}"))
    headers = [
        (b"Authorization", b"Bearer k"),
        (b"x-note", "caf\u00e9".encode()),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
        (b"content-length", b"999"),
        (b"transfer-encoding", b"chunked"),
        (b"expect", b"100-continue"),
    ]
    reply = await transport.send(post(upstream.url + "/v1/a%2Fb?q=%20x", b"\x00\xffbody", headers=headers))
    assert await reply.read(100) == b"{}"
    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"POST /v1/a%2Fb?q=%20x HTTP/1.1"
    assert body == b"\x00\xffbody"
    host = b"Host: " + upstream.url.removeprefix("http://").encode()
    assert sorted(lines) == sorted(
        [
            host,
            b"Authorization: Bearer k",
            b"x-note: caf\xc3\xa9",
            b"x-twice: 1",
            b"x-twice: 2",
            b"Content-Length: 6",
        ]
    )


async def test_what_was_not_read_before_an_abort_is_left_behind(
    upstream: Upstream, transport: Transport
) -> None:
    upstream.plays(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
    reply = await transport.send(post(upstream.url))
    pieces = reply.chunks()
    first = await anext(pieces)
    assert reply.left_behind() == (b"", False)
    await asyncio.sleep(0.3)
    reply.abort()
    unread, kept_waiting = reply.left_behind()
    assert kept_waiting
    assert unread
    assert set(first + unread) == {ord("x")}
    with pytest.raises(TransportError):
        await anext(pieces)


async def test_reply_headers_keep_duplicates_and_bytes_with_lower_case_names(
    upstream: Upstream, transport: Transport
) -> None:
    upstream.plays(plain(b"", b"X-A: 1", b"x-a: 2", b"X-Raw: caf\xe9"))
    reply = await transport.send(post(upstream.url))
    await reply.aclose()
    assert reply.headers == [
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"x-raw", b"caf\xe9"),
        (b"content-length", b"0"),
    ]


async def test_html_error_page_is_a_reply_like_any_other(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(plain(b"<html>", b"content-type: text/html", status=b"502 Bad Gateway"))
    reply = await transport.send(post(upstream.url))
    assert (reply.status, await reply.read(100)) == (502, b"<html>")


async def test_gzip_that_nobody_asked_for_is_left_as_it_is(upstream: Upstream, transport: Transport) -> None:
    packed = gzip.compress(b"x" * 1000)
    upstream.plays(plain(packed, b"content-encoding: gzip"))
    reply = await transport.send(post(upstream.url))
    assert await reply.read(10_000) == packed


async def test_redirects_are_returned_and_never_followed(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(plain(b"", b"location: " + upstream.url.encode() + b"/other", status=b"307 Moved"))
    reply = await transport.send(post(upstream.url))
    await reply.aclose()
    assert (reply.status, len(upstream.requests)) == (307, 1)


async def test_cookies_are_not_kept_and_proxy_variables_are_not_read(
    upstream: Upstream, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    upstream.plays(plain(b"", b"set-cookie: s=1; Path=/"))
    for _ in range(2):
        await (await transport.send(post(upstream.url))).aclose()
    assert len(upstream.requests) == 2
    assert b"cookie" not in upstream.requests[1].lower()


async def test_interim_responses_are_skipped(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + plain(b"ok"))
    assert await (await transport.send(post(upstream.url))).read(10) == b"ok"


# Streams and the pool


async def test_chunks_are_handed_over_as_they_arrive(upstream: Upstream, transport: Transport) -> None:
    came = {piece: asyncio.Event() for piece in (b"one", b"two", b"three")}

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.take_request(reader)
        writer.write(STREAM)
        for piece, event in came.items():
            writer.write(chunk(piece))
            # Nothing more is sent before this was handed over.
            await asyncio.wait_for(event.wait(), AT_ONCE_S)
        writer.write(b"0\r\n\r\n")

    upstream.script = script
    reply = await transport.send(post(upstream.url))
    async for piece in reply.chunks():
        came[piece].set()
    assert all(event.is_set() for event in came.values())


async def test_finished_replies_share_one_connection(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(STREAM, chunk(b"x"), b"0\r\n\r\n")
    for _ in range(3):
        reply = await transport.send(post(upstream.url))
        await drain(reply)
        await reply.aclose()
    assert upstream.connections == 1


@pytest.mark.parametrize("how", ["abort", "aclose"])
async def test_leaving_a_stream_is_seen_by_the_upstream_within_a_second(
    upstream: Upstream, transport: Transport, how: str
) -> None:
    upstream.plays(STREAM, chunk(b"x"), "watch")
    reply = await transport.send(post(upstream.url))
    assert await anext(reply.chunks()) == b"x"
    if how == "abort":
        reply.abort()
        reply.abort()
    await reply.aclose()
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)


async def test_cancelled_send_is_seen_by_the_upstream_within_a_second(
    upstream: Upstream, transport: Transport
) -> None:
    upstream.plays("watch")
    task = asyncio.create_task(transport.send(post(upstream.url)))
    while not upstream.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)


async def test_cancelled_send_with_an_unread_body_closes_its_connection(
    upstream: Upstream, transport: Transport
) -> None:
    begun = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await asyncio.sleep(0.5)
        await upstream.watch_for_close(reader)

    upstream.script = script
    task = asyncio.create_task(transport.send(post(upstream.url, b"x" * 20_000_000)))
    await asyncio.wait_for(begun.wait(), AT_ONCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)


async def test_waiting_reader_is_woken_by_abort(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(STREAM, "watch")
    reply = await transport.send(post(upstream.url))
    reading = asyncio.create_task(drain(reply))
    await asyncio.sleep(0.05)
    reply.abort()
    assert await failure_of(reading) == ("body", "aborted")
    assert await failure_of(drain(reply)) == ("body", "aborted")
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)


async def test_cancelled_sends_leave_no_slot_taken(upstream: Upstream, kind: Kind) -> None:
    upstream.plays(0.2, plain(b"ok"))
    narrow = kind(connections_per_host=2)
    for _ in range(20):
        tasks = [asyncio.create_task(narrow.send(post(upstream.url))) for _ in range(4)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    replies = await asyncio.gather(*(narrow.send(post(upstream.url)) for _ in range(4)))
    assert [await reply.read(10) for reply in replies] == [b"ok"] * 4
    await narrow.aclose()


async def test_slow_reader_holds_the_upstream_back(upstream: Upstream, transport: Transport) -> None:
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await upstream.take_request(reader)
        writer.write(STREAM)
        while True:
            writer.write(chunk(b"x" * 65536))
            await writer.drain()
            sent += 65536

    upstream.script = script
    limits = Timeouts(connect_s=5, first_byte_s=5, idle_s=0.2, total_s=10)
    reply = await transport.send(post(upstream.url, timeouts=limits))
    stream = reply.chunks()
    await anext(stream)
    await asyncio.sleep(0.5)
    before = sent
    await asyncio.sleep(0.3)
    assert sent == before
    assert await anext(stream), "the upstream was not idle: the reader was slow"
    reply.abort()


@pytest.mark.parametrize(
    "answer",
    [
        plain(b"ok", b"connection: close"),
        plain(b"ok") + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
        plain(b"ok") + b"forged",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
    ids=["close", "second answer", "garbage", "old server"],
)
async def test_connection_with_anything_left_over_is_not_used_again(
    upstream: Upstream, transport: Transport, answer: bytes
) -> None:
    upstream.plays(answer)
    for _ in range(3):
        assert await (await transport.send(post(upstream.url))).read(100) == b"ok"
    assert upstream.connections == 3


async def test_answer_that_nobody_asked_for_reaches_nobody(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(plain(b"ok"), 0.05, plain(b"forged"))
    for _ in range(3):
        assert await (await transport.send(post(upstream.url))).read(100) == b"ok"
        await asyncio.sleep(0.1)
    assert upstream.connections == 3


async def test_head_request_ends_with_its_head(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    reply = await transport.send(post(upstream.url, b"", method="HEAD"))
    assert (reply.status, await reply.read(10_000)) == (200, b"")


async def test_many_at_once_each_get_their_own_answer(upstream: Upstream, kind: Kind) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await upstream.take_request(reader)
            await asyncio.sleep(0.001)
            writer.write(plain(request.partition(b"\r\n\r\n")[2]))

    upstream.script = script
    narrow = kind(connections_per_host=5)

    async def one(i: int) -> None:
        reply = await narrow.send(post(upstream.url, b"%d" % i))
        assert await reply.read(100) == b"%d" % i

    await asyncio.gather(*(one(i) for i in range(300)))
    assert upstream.connections == 5
    await narrow.aclose()


# Cuts


@pytest.mark.parametrize("cut", ["fin", "rst"])
@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        STREAM,
        STREAM + chunk(b"whole"),
        STREAM + b"9\r\nhalf",
        STREAM + chunk(b"whole") + b"0\r\n",
    ],
    ids=["length", "no chunk", "no terminator", "mid chunk", "mid terminator"],
)
async def test_truncated_body_never_ends_cleanly(
    upstream: Upstream, transport: Transport, sent: bytes, cut: str
) -> None:
    upstream.plays(sent, cut)
    reply = await transport.send(post(upstream.url))
    assert await failure_of(drain(reply)) == ("body", "reset")
    assert await failure_of(reply.read(100)) == ("body", "reset")


async def test_body_without_framing_ends_with_the_connection(
    upstream: Upstream, transport: Transport
) -> None:
    upstream.plays(b"HTTP/1.1 200 OK\r\n\r\nall there is", "fin")
    assert await (await transport.send(post(upstream.url))).read(100) == b"all there is"


async def test_body_without_framing_that_is_reset_is_a_cut(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(b"HTTP/1.1 200 OK\r\n\r\nhalf", "rst")
    reply = await transport.send(post(upstream.url))
    assert await failure_of(drain(reply)) == ("body", "reset")


@pytest.mark.parametrize("cut", ["fin", "rst"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"])
async def test_connection_lost_before_the_head(
    upstream: Upstream, transport: Transport, sent: bytes, cut: str
) -> None:
    upstream.plays(sent, cut)
    assert await failure_of(transport.send(post(upstream.url))) == ("first_byte", "reset")
    assert len(upstream.requests) == 1


async def test_post_on_a_stale_connection_is_sent_once(upstream: Upstream, transport: Transport) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.take_request(reader)
        writer.write(plain(b"ok"))
        await upstream.take_request(reader)

    upstream.script = script
    assert await (await transport.send(post(upstream.url))).read(10) == b"ok"
    assert await failure_of(transport.send(post(upstream.url))) == ("first_byte", "reset")
    assert (upstream.connections, len(upstream.requests)) == (1, 2)


async def test_connection_closed_while_idle_is_not_used_again(
    upstream: Upstream, transport: Transport
) -> None:
    upstream.plays(plain(b"ok"), "fin")
    for _ in range(3):
        assert await (await transport.send(post(upstream.url))).read(10) == b"ok"
        await asyncio.sleep(0.05)
    assert upstream.connections == 3


# Failures by phase and kind


async def test_refused_connection(transport: Transport) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert await failure_of(transport.send(post(url))) == ("connect", "refused")


async def test_unknown_host(transport: Transport) -> None:
    assert await failure_of(transport.send(post("http://nowhere.invalid/"))) == ("connect", "dns")


async def test_tls_handshake_with_something_else(upstream: Upstream, transport: Transport) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    upstream.script = script
    url = upstream.url.replace("http:", "https:")
    assert await failure_of(transport.send(post(url))) == ("connect", "tls")


async def test_tls_handshake_that_never_ends_is_a_connect_timeout(
    upstream: Upstream, transport: Transport
) -> None:
    upstream.plays("watch")
    limits = Timeouts(connect_s=0.2, first_byte_s=5, idle_s=5, total_s=5)
    request = post(upstream.url.replace("http:", "https:"), timeouts=limits)
    assert await failure_of(transport.send(request)) == ("connect", "timeout")


async def test_waiting_for_a_free_connection_counts_as_connecting(upstream: Upstream, kind: Kind) -> None:
    upstream.plays("watch")
    narrow = kind(connections_per_host=1)
    limits = Timeouts(connect_s=0.2, first_byte_s=2, idle_s=5, total_s=5)
    first = asyncio.create_task(narrow.send(post(upstream.url)))
    await asyncio.sleep(0.05)
    assert await failure_of(narrow.send(post(upstream.url, timeouts=limits))) == ("connect", "timeout")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await narrow.aclose()


@pytest.mark.parametrize(
    ("steps", "limits", "expected"),
    [
        (("watch",), Timeouts(5, 0.2, 5, 5), ("first_byte", "timeout")),
        (("watch",), Timeouts(5, 5, 5, 0.2), ("first_byte", "timeout")),
        ((b"HTTP/1.1 200 OK\r\nx: ", "watch"), Timeouts(5, 0.2, 5, 5), ("first_byte", "timeout")),
        ((STREAM, "watch"), Timeouts(5, 5, 0.2, 5), ("body", "timeout")),
        ((STREAM, chunk(b"x"), b"5\r\nab", "watch"), Timeouts(5, 5, 0.2, 5), ("body", "timeout")),
        ((STREAM, *((chunk(b"x"), 0.05) * 20), "watch"), Timeouts(5, 5, 5, 0.3), ("body", "timeout")),
    ],
    ids=["first byte", "total before head", "mid head", "idle", "idle mid chunk", "total in body"],
)
async def test_stalls_end_at_their_own_limit_and_close_the_connection(
    upstream: Upstream,
    transport: Transport,
    steps: tuple[bytes | float | str, ...],
    limits: Timeouts,
    expected: tuple[str, str],
) -> None:
    upstream.plays(*steps)

    async def exchange() -> None:
        await drain(await transport.send(post(upstream.url, timeouts=limits)))

    started = time.monotonic()
    assert await failure_of(exchange()) == expected
    assert 0.15 < time.monotonic() - started < 5
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)


async def test_total_limit_closes_a_stream_that_nobody_reads(
    upstream: Upstream, transport: Transport
) -> None:
    upstream.plays(STREAM, chunk(b"x"), "watch")
    limits = Timeouts(connect_s=5, first_byte_s=5, idle_s=5, total_s=0.2)
    reply = await transport.send(post(upstream.url, timeouts=limits))
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)
    assert await failure_of(drain(reply)) == ("body", "timeout")


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x00\x01\x00" * 10,
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * (MAX_HEADER_LINE + 1),
        b"HTTP/1.1 200 " + b"a" * (MAX_HEADER_LINE + 1),
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
    ids=["text", "tls", "status", "line", "length", "long line", "long reason", "many", "upgrade"],
)
async def test_garbage_instead_of_a_head(upstream: Upstream, transport: Transport, garbage: bytes) -> None:
    upstream.plays(garbage, "watch")
    assert await failure_of(transport.send(post(upstream.url))) == ("first_byte", "protocol")
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)


async def test_garbage_instead_of_a_chunk(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(STREAM, chunk(b"x"), 0.05, b"zz\r\nwhat", "watch")
    reply = await transport.send(post(upstream.url))
    assert await failure_of(drain(reply)) == ("body", "protocol")
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", STREAM])
async def test_read_stops_at_its_limit(upstream: Upstream, transport: Transport, head: bytes) -> None:
    upstream.plays(head, chunk(b"x" * 100) * 5, "watch")
    reply = await transport.send(post(upstream.url))
    assert await failure_of(reply.read(99)) == ("body", "too_large")
    await asyncio.wait_for(upstream.gone.wait(), AT_ONCE_S)


async def test_body_as_large_as_the_limit_is_read(upstream: Upstream, transport: Transport) -> None:
    upstream.plays(plain(b"x" * 100_000))
    assert len(await (await transport.send(post(upstream.url))).read(100_000)) == 100_000


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://127.0.0.1/", []),
        ("not a url", []),
        ("http:///path", []),
        ("http://127.0.0.1:9/", [(b"x", b"a\r\nb: c")]),
        ("http://127.0.0.1:9/", [(b"x", b"\xff")]),
    ],
)
async def test_request_that_cannot_be_written_blames_nobody(
    upstream: Upstream, transport: Transport, url: str, headers: list[tuple[bytes, bytes]]
) -> None:
    upstream.plays("watch")
    request = post(url.replace("http://127.0.0.1:9", upstream.url), headers=[*headers, (b"a", b"b")])
    with pytest.raises(UnsendableError):
        await transport.send(request)
    assert upstream.requests == []


async def test_closed_transport_refuses_and_cuts_what_was_open(upstream: Upstream, kind: Kind) -> None:
    upstream.plays(STREAM, "watch")
    closing = kind()
    reply = await closing.send(post(upstream.url))
    reading = asyncio.create_task(drain(reply))
    await asyncio.sleep(0.05)
    await closing.aclose()
    assert await failure_of(reading) == ("body", "aborted")
    assert await failure_of(closing.send(post(upstream.url))) == ("connect", "aborted")


def test_own_trust_store_is_accepted(kind: Kind) -> None:
    async def build() -> None:
        await kind(ssl=ssl.create_default_context()).aclose()

    asyncio.run(build())
