"""A stream on its way from a provider to a client: metered as the provider speaks, handed on as the client
reads. Most of the time these are the same, and the client gets the provider's own bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.domain import Answer, Json, Step
from gateway.shaping import SHAPERS, Said
from gateway.surfaces import CODECS, AnswerStream
from gateway.upstreams.dialects import Wire

if TYPE_CHECKING:
    from gateway.steps.screens import Output


class Relay:
    """One answer's stream. `upstream` is what the provider says, `client` what the caller receives."""

    __slots__ = (
        "_fold",
        "_held",
        "_output",
        "_screen",
        "_surface",
        "_tail",
        "_translation",
        "client",
        "upstream",
    )

    def __init__(
        self, wire: Wire, step: Step, *, strip_usage: bool, hold: bool = False, output: Output | None = None
    ) -> None:
        self.upstream: AnswerStream = wire.codec.stream(strip_usage=strip_usage)
        self.client = self.upstream
        self._surface = step.surface
        self._translation = None
        if wire.translation is not None:
            self._translation = wire.translation.stream(step.body, created=int(time.time()))
            # What was made for the client is read once more: its ending has to fit what it has received.
            self.client = CODECS[step.surface].stream(strip_usage=False)
        self._output = output
        self._screen = output.stream(step.surface) if output is not None else None
        self._tail = b""
        self._held = None
        self._fold = None
        if hold:
            self._held = SHAPERS[step.surface].hold(self.client, step.body, int(time.time()))
            if self._translation is not None:
                # The provider's own words, in case that its turn has to be sent back to it.
                self._fold = SHAPERS[wire.surface].fold()

    def feed(self, chunk: bytes) -> bytes:
        """Bytes for the client; none from a tool call on that is held. Raises `EventTooLargeError`, and the
        refusal of a rule about what an answer may hold."""
        reader = self._held or self.client
        if self._translation is None:
            return self._screened(reader.feed(chunk))
        events = self.upstream.feed(chunk)
        if not events:
            return events
        if self._fold is not None:
            self._fold.feed(events)
        return self._screened(reader.feed(self._translation.feed(events)))

    def overhear(self, chunk: bytes) -> None:
        """Take note of what came too late to be handed on. Raises `EventTooLargeError`."""
        events = self.upstream.feed(chunk)
        if self._translation is not None:
            self.client.feed(self._translation.feed(events))

    def _screened(self, events: bytes) -> bytes:
        return self._screen.feed(events) if self._screen is not None and events else events

    def end(self) -> None:
        """The provider has finished."""
        if self._translation is None:
            self._tail = self.upstream.pending
        else:
            self._tail = (self._held or self.client).feed(self._translation.end())

    def flush(self) -> bytes:
        """What was kept back until more of its text should come. Raises as `feed`."""
        return self._screen.end() if self._screen is not None else b""

    def drop(self) -> None:
        """Forget what was kept back: it must not be delivered."""
        if self._screen is not None:
            self._screen.drop()

    def delivered(self, answer: Answer) -> Answer:
        """An answer as the client has received it."""
        if self._output is None or not self.edited:
            return answer
        return self._output.answer(answer)

    @property
    def edited(self) -> bool:
        """Screening has changed something of it."""
        return self._screen is not None and self._screen.edited

    def asked(self, answer: Answer) -> Answer:
        """An answer whose calls are held as the client would receive it."""
        return self._output.answer(answer) if self._output is not None else answer

    @property
    def holding(self) -> bool:
        """Tool calls have come and are held back."""
        return self._held is not None and self._held.held

    def release(self) -> bytes:
        """Everything that is left for the client, what was held back included. Raises as `feed`."""
        held = self._held.release() if self._held is not None else b""
        tail, self._tail = self._tail, b""
        return self._screened(held + tail) + self.flush()

    def turn(self) -> Json:
        """What the provider said so far, as a plain reply of its own surface."""
        assert self._held is not None
        return self._fold.reply() if self._fold is not None else self._held.turn()

    def given(self) -> Answer:
        """What the client has received, as its own surface tells it."""
        assert self._held is not None
        return self.delivered(CODECS[self._surface].read_answer(self._held.given()))

    def splice(self, said: Said) -> bytes:
        """The rest of the answer instead of what was held back. Raises as `feed`."""
        assert self._held is not None
        return self._screened(self._held.splice(said)) + self.flush()


def plain_answer(wire: Wire, step: Step, reply: Mapping[str, Any]) -> tuple[Answer, Json | None]:
    """What a whole reply says to the client, and the reply as it has to be written anew for it; None when it
    reaches the client as it is."""
    if wire.translation is None:
        return wire.codec.read_answer(reply), None
    shown = wire.translation.answer(dict(reply), step.body, created=int(time.time()))
    return CODECS[step.surface].read_answer(shown), shown
