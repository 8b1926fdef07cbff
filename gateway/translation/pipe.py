"""Bytes at both ends, parsed events between: one stream's translation as a chain of stages.

A stage turns one event of its upstream API into events of its client API and knows no bytes, so that a
translation over two steps parses and writes each event once.
"""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from gateway.domain import Json, Surface
from gateway.surfaces.sse import EventSplitter, data_of

DONE = b"data: [DONE]\n\n"
LAST: Json = {"type": "done"}
"""Stands for a chat provider's `[DONE]`."""
_PING = b": ping\n\n"


class Stage(Protocol):
    """From one API's events to another's. After an error event of either side it gives nothing more."""

    def take(self, event: Json) -> list[Json]:
        """Events for the client. Never raises, whatever the event holds."""

    def end(self) -> list[Json]:
        """What is still to be told when the provider's events are over."""


class Pipe:
    """Implements `StreamTranslation` over stages, the provider's first."""

    __slots__ = ("_client", "_ended", "_splitter", "_stages")

    def __init__(self, client: Surface, *stages: Stage) -> None:
        self._client = client
        self._stages = stages
        self._splitter = EventSplitter()
        self._ended = False

    def feed(self, events: bytes) -> bytes:
        """See `StreamTranslation`. Comments pass and pings become comments: they keep connections open."""
        out: list[bytes] = []
        for event in self._splitter.feed(events):
            data = data_of(event)
            if data is None:
                if event.startswith(b":"):
                    out.append(event)
                continue
            message = LAST if data.startswith(b"[DONE]") else _parsed(data)
            if message is None:
                continue
            if message.get("type") == "ping":
                out.append(_PING)
                continue
            out.extend([self._written(told) for told in self._through(0, message)])
        return b"".join(out)

    def _through(self, first: int, event: Json) -> list[Json]:
        events = [event]
        for stage in self._stages[first:]:
            events = [told for each in events for told in stage.take(each)]
        return events

    def end(self) -> bytes:
        """See `StreamTranslation`."""
        if self._ended:
            return b""
        self._ended = True
        out: list[bytes] = []
        for i, stage in enumerate(self._stages):
            for event in stage.end():
                out.extend([self._written(told) for told in self._through(i + 1, event)])
        return b"".join(out) + (DONE if self._client is Surface.CHAT else b"")

    def _written(self, event: Json) -> bytes:
        data = orjson.dumps(event)
        if self._client is Surface.CHAT:
            return b"data: %b\n\n" % data
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)


def _parsed(data: bytes) -> Json | None:
    try:
        message: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return message if type(message) is dict else None
