"""A provider that costs almost nothing: canned bytes from a bare protocol, no parsing beyond the framing.

The simulated provider of `gateway.testing` reads bodies, makes text and keeps a journal, which would take
more of the load's core than the gateway takes of its own. This one answers some 40,000 calls a second.

    python -m benchmarks.upstream PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from benchmarks.bodies import reply, stream_pieces

CHUNK_GAP_S = 0.002
"""Between two pieces of a stream, so that each crosses the process under test by itself."""

_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(reply()),
    reply(),
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PIECES = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in stream_pieces()]


class _Canned(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one in all but its class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = bytes(self._received[:head]).lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if len(self._received) < head + 4 + length:
            return
        streams = b'"stream":true' in self._received
        self._received.clear()
        if streams:
            self._transport.write(_STREAM_HEAD)
            self._piece(0)
        else:
            self._transport.write(_REPLY)

    def _piece(self, i: int) -> None:
        if self._transport.is_closing():
            return
        if i + 1 < len(_PIECES):
            self._transport.write(_PIECES[i])
            self._loop.call_later(CHUNK_GAP_S, self._piece, i + 1)
        else:
            self._transport.write(_PIECES[i] + b"0\r\n\r\n")


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Canned(loop), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
