"""A stream on its way from a provider to a client: metered as the provider speaks, handed on as the client
reads. Most of the time these are the same, and the client gets the provider's own bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gateway.domain import Answer, Json, Step
from gateway.surfaces import CODECS, AnswerStream
from gateway.upstreams.dialects import Wire


class Relay:
    """One answer's stream. `upstream` is what the provider says, `client` what the caller receives."""

    __slots__ = ("_translation", "client", "upstream")

    def __init__(self, wire: Wire, step: Step, *, strip_usage: bool) -> None:
        self.upstream: AnswerStream = wire.codec.stream(strip_usage=strip_usage)
        self.client = self.upstream
        self._translation = None
        if wire.translation is not None:
            self._translation = wire.translation.stream(step.body, created=int(time.time()))
            # What was made for the client is read once more: its ending has to fit what it has received.
            self.client = CODECS[step.surface].stream(strip_usage=False)

    def feed(self, chunk: bytes) -> bytes:
        """Bytes for the client. Raises `EventTooLargeError`."""
        events = self.upstream.feed(chunk)
        if self._translation is None or not events:
            return events
        return self.client.feed(self._translation.feed(events))

    def end(self) -> bytes:
        """What is left for the client when the provider has finished."""
        if self._translation is None:
            return self.upstream.pending
        return self.client.feed(self._translation.end())


def plain_answer(wire: Wire, step: Step, reply: Mapping[str, Any]) -> tuple[Answer, Json | None]:
    """What a whole reply says to the client, and the reply as it has to be written anew for it; None when it
    reaches the client as it is."""
    if wire.translation is None:
        return wire.codec.read_answer(reply), None
    shown = wire.translation.answer(dict(reply), step.body, created=int(time.time()))
    return CODECS[step.surface].read_answer(shown), shown
