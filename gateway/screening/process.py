"""A process that scans texts for a gateway: `python -m gateway.screening.process`.

Requests come on standard input and answers leave on standard output, each a length of four bytes and JSON.
It ends when its input does, so it never outlives the gateway, however that ended.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from typing import BinaryIO, cast

import orjson

from gateway.screening.base import Channel
from gateway.screening.engine import Looks, scan, warm

FRAME = struct.Struct(">I")
NICENESS = 5
"""The loops that serve traffic come first."""


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    warm()
    given, told = sys.stdin.buffer, sys.stdout.buffer
    while (request := _read(given)) is not None:
        looks, texts = request
        answer = [
            [[f.detector, f.type, f.start, f.end, f.score] for f in scan(text, channel, looks)]
            for channel, text in texts
        ]
        payload = orjson.dumps(answer)
        told.write(FRAME.pack(len(payload)) + payload)
        told.flush()


def _read(source: BinaryIO) -> tuple[Looks, list[tuple[Channel, str]]] | None:
    head = source.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    looks, texts = orjson.loads(source.read(FRAME.unpack(head)[0]))
    return Looks.load(looks), [(cast(Channel, channel), text) for channel, text in texts]


if __name__ == "__main__":
    main()
