"""Calls in flight in this worker: stopped at once when an operator says so, their leases kept.

Kill flags reach a worker three ways: pushed by the store, polled twice a second (which also finds a flag
that somebody set in Redis by hand), and checked when a step is admitted. The first two end here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.admission import Kill
from gateway.errors import StoreUnavailable
from gateway.protocols import Store

log = logging.getLogger("gateway.live")

POLL_S = 0.5
MAX_REAP_S = 5.0


class Stoppable(Protocol):
    """A call in flight."""

    attempt_id: str
    kill_names: frozenset[str]

    def stop(self, kill: Kill) -> None:
        """End the call now, whatever it waits for. From the event loop."""

    def shut_down(self) -> None:
        """End the call because this process ends: its client may ask again elsewhere."""


@dataclass(slots=True)
class LiveCalls:
    """The registry of one worker. `start` and `close` frame its life; `add` and `remove` each call's."""

    store: Store
    worker: str
    lease_s: float
    on_stopped: Callable[[Kill, int], None] = lambda _kill, _count: None
    _calls: dict[str, Stoppable] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _acks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Subscribe to kills and begin to poll and to renew."""
        await self.store.on_kill(self.obey)
        for loop in (self._poll, self._renew, self._reap):
            self._tasks.append(asyncio.create_task(loop(), name=f"live-{loop.__name__}"))

    async def close(self) -> None:
        """Stop the background tasks; calls still open are left to the journal."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._acks, return_exceptions=True)

    def add(self, call: Stoppable) -> None:
        """The call is about to go upstream."""
        self._calls[call.attempt_id] = call

    def remove(self, call: Stoppable) -> None:
        """The call is settled."""
        self._calls.pop(call.attempt_id, None)

    def __len__(self) -> int:
        return len(self._calls)

    def obey(self, kill: Kill) -> None:
        """Stop every call that the flag means, and say so to the store."""
        stopped = 0
        for call in list(self._calls.values()):
            if kill.name in call.kill_names:
                call.stop(kill)
                stopped += 1
        self.on_stopped(kill, stopped)
        task = asyncio.ensure_future(self._acknowledge(kill, stopped))
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)

    async def _acknowledge(self, kill: Kill, stopped: int) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self.store.acknowledge_kill(kill.name, self.worker, stopped)

    def shut_down(self) -> int:
        """End everything in flight; how many calls that were."""
        calls = list(self._calls.values())
        for call in calls:
            call.shut_down()
        return len(calls)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            names: set[str] = set()
            for call in self._calls.values():
                names |= call.kill_names
            if not names:
                continue
            try:
                flags = await self.store.kills(names)
            except StoreUnavailable:
                # Known kills have been obeyed; unknown ones are refused at the next admission.
                continue
            for name, reason in flags.items():
                self.obey(Kill(name, reason))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.lease_s / 3)
            if self._calls:
                with contextlib.suppress(StoreUnavailable):
                    await self.store.renew(list(self._calls))

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(min(MAX_REAP_S, self.lease_s / 3))
            try:
                reaped = await self.store.reap()
            except StoreUnavailable:
                continue
            if reaped:
                log.warning("settled %d orphaned attempts at their full reservation", reaped)
