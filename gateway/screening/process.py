"""A process that scans texts for a gateway: `python -m gateway.screening.process`.

Requests come on standard input and answers leave on standard output, each a length of four bytes and JSON:

    {looks, texts: [[channel, text]]}  ──►  [[[detector, type, start, end, score]]], the findings of each text
                                       ──►  {failed}, where the classifier gives no verdict
    {looks}                            ──►  {problem}, empty when the classifier works

It ends when its input does, so it never outlives the gateway, however that ended.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from typing import Any, BinaryIO

import orjson

from gateway.domain import Json
from gateway.screening.classifier import ClassifierFailed, problem
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
        payload = orjson.dumps(_answer(request))
        told.write(FRAME.pack(len(payload)) + payload)
        told.flush()


def _answer(request: Json) -> Any:
    looks = Looks.load(request["looks"])
    if "texts" not in request:
        return {"problem": problem(looks.classifier) if looks.classifier is not None else ""}
    try:
        return [
            [[f.detector, f.type, f.start, f.end, f.score] for f in scan(text, channel, looks)]
            for channel, text in request["texts"]
        ]
    except ClassifierFailed as error:
        return {"failed": str(error)}


def _read(source: BinaryIO) -> Json | None:
    head = source.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    request: Json = orjson.loads(source.read(FRAME.unpack(head)[0]))
    return request


if __name__ == "__main__":
    main()
