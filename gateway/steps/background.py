"""Answers that a provider works on after the connection has ended: followed until their usage is known.

The reservation stays, the call stays in the registry of live calls, and what it came to is settled when the
provider says it is over. A kill or a budget's stop cancels it at the provider first. When this process
ends before the answer does, the journal has the attempt, and it is settled at its full reservation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from gateway.upstreams.transport import Transport, TransportError, UnsendableError, UpstreamRequest

log = logging.getLogger("gateway.background")

FIRST_LOOK_S = 0.3
LONGEST_PAUSE_S = 5.0
GIVE_UP_S = 24 * 3600.0
"""Providers keep no background response running for longer; what has not ended then costs its reservation."""
MAX_REPLY_BYTES = 64 * 1024 * 1024
_UNDER_WAY = ("queued", "in_progress")


class Followed(Protocol):
    """An attempt whose answer the provider still works on."""

    def is_unwanted(self) -> bool:
        """After a kill or a refusal: the provider is to stop working."""

    async def stirred(self) -> None:
        """Returns when somebody wants it stopped, or this process ends."""

    def look(self, *, cancel: bool) -> UpstreamRequest:
        """The request that asks for the answer, or cancels it."""

    async def ended(self, reply: Mapping[str, Any] | None) -> None:
        """Settle: what the provider says of its answer, or None when it says nothing any more."""


@dataclass(slots=True)
class Background:
    """The answers that one worker follows."""

    transport: Transport
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def follow(self, attempt: Followed) -> None:
        """Look after the attempt from now on."""
        task = asyncio.create_task(self._follow(attempt), name="background")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop following; the journal has what is open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, attempt: Followed) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + GIVE_UP_S
        pause = FIRST_LOOK_S
        while loop.time() < until:
            if attempt.is_unwanted():
                await self._cancel(attempt)
                return
            try:
                async with asyncio.timeout(pause):
                    await attempt.stirred()
                if not attempt.is_unwanted():
                    return
                continue
            except TimeoutError:
                pause = min(pause * 1.5, LONGEST_PAUSE_S)
            status, reply = await self._ask(attempt, cancel=False)
            if status in (404, 410):
                break
            if reply is not None and reply.get("status") not in _UNDER_WAY:
                await attempt.ended(reply)
                return
        await attempt.ended(None)

    async def _cancel(self, attempt: Followed) -> None:
        """Cancel at the provider; a provider that is away is asked for a while."""
        for pause in (0.2, 0.5, 1.0, 2.0, 5.0):
            status, reply = await self._ask(attempt, cancel=True)
            if reply is not None or 400 <= status < 500:
                # A client error says that it has ended already: what it came to is asked for once more.
                if reply is None or reply.get("usage") is None:
                    _, later = await self._ask(attempt, cancel=False)
                    reply = later or reply
                await attempt.ended(reply)
                return
            await asyncio.sleep(pause)
        log.error("a provider did not take the cancellation of a background response")
        await attempt.ended(None)

    async def _ask(self, attempt: Followed, *, cancel: bool) -> tuple[int, Mapping[str, Any] | None]:
        """The HTTP status, 0 without an answer, and the response object of a good one."""
        try:
            reply = await self.transport.send(attempt.look(cancel=cancel))
            try:
                body = await reply.read(MAX_REPLY_BYTES)
            finally:
                await reply.aclose()
        except (TransportError, UnsendableError):
            return 0, None
        if reply.status != 200:
            return reply.status, None
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            return reply.status, None
        return reply.status, parsed if isinstance(parsed, dict) else None
