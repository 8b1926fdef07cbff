"""A response that is generated after its request was answered: at its stream's pace, for whoever looks.

It goes on when nobody does. Its tokens are on the bill of the attempt that asked for it, as they are
generated; its events are kept, so that a stream of them can be joined at any point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.domain import Json
from gateway.testing.generate import Answer
from gateway.testing.journal import Attempt
from gateway.testing.surfaces import RESPONSES, Event


@dataclass(eq=False, slots=True)
class Background:
    """One such response. `body` is what `GET` shows; `events` those generated so far."""

    answer: Answer
    attempt: Attempt
    source: Iterator[Event]
    body: Json
    on_end: Callable[[Json], None]
    """Called once it is whole, with the final body; not when it is cancelled or fails."""
    streams: bool = False
    """It was asked for as a stream, and can be joined as one."""
    events: list[Event] = field(default_factory=list)
    watchers: set[Callable[[], None]] = field(default_factory=set)
    """Called when there is something new."""
    ended: bool = False
    delivered: asyncio.Event = field(default_factory=asyncio.Event)
    """The request that asked for it has been answered."""
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def cancel(self) -> Json:
        """Stop generating; what is whole already stays. Returns the body from now on."""
        if not self.ended:
            self._end(RESPONSES.begun(self.answer, "cancelled"))
            self._stopped.set()
        return self.body

    async def run(self) -> None:
        """Generate to the end, a failure, or the cancelling."""
        reply = self.answer.reply
        generated, pause = 0, reply.first_chunk_delay_s
        for index, event in enumerate(self.source):
            opening = event.mark == "role"
            if self.body["status"] == "queued" and (event.name == _IN_PROGRESS or not opening):
                if await self._sleeps(reply.queue_s):
                    return
                self.body = RESPONSES.begun(self.answer, "in_progress")
            if not opening:
                if await self._sleeps(pause):
                    return
                pause = reply.chunk_delay_s
            stalls = reply.stall_at == index or event.is_at(reply.stall_at)
            if stalls and await self._sleeps(reply.stall_s):
                return
            generated += event.tokens
            self.attempt.completion_tokens = self.answer.billed(generated)
            self.events.append(event)
            if event.mark == "error":
                self._end(RESPONSES.failed(self.answer, generated))
                return
            self._tell()
        self.attempt.completion_tokens = self.answer.completion_tokens
        final = RESPONSES.final(self.answer)
        self._end(final)
        self.on_end(final)

    async def _sleeps(self, seconds: float | None) -> bool:
        """Let that time pass, or with `None` all time. True if it was cancelled meanwhile."""
        if seconds == 0:
            return self.ended
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _end(self, body: Json) -> None:
        self.body = body
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        for watcher in list(self.watchers):
            watcher()


_IN_PROGRESS = b"response.in_progress"
