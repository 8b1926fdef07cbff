"""Moves ledger events from the store into the database, again and again until each is there.

Appending is idempotent, so it is harmless when two workers drain at once; only a flow of events that nobody
drains would be a loss, and the store keeps them until they are confirmed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway.errors import StoreUnavailable
from gateway.protocols import Ledger, Store
from gateway.stores.ledger_database import LedgerUnavailable

log = logging.getLogger("gateway.drain")

INTERVAL_S = 0.1
BATCH = 500


@dataclass(slots=True)
class Drain:
    """One per worker. `on_trouble` is told when the ledger begins and ceases to be unavailable."""

    store: Store
    ledger: Ledger
    on_trouble: Callable[[bool], None] = lambda _trouble: None
    written: Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]] | None = None
    """Told of events that are in the ledger, before the store forgets them. Must not raise."""
    _task: asyncio.Task[None] | None = None
    _in_trouble: bool = False
    _drained_at: float = field(default_factory=time.monotonic)

    @property
    def lag_s(self) -> float:
        """How long ago the ledger had everything that was in the store."""
        return time.monotonic() - self._drained_at

    def start(self) -> None:
        """Begin to drain in the background."""
        self._task = asyncio.create_task(self._run(), name="drain")

    async def close(self) -> None:
        """Stop, and drain what is there once more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self.flush()
        except (StoreUnavailable, LedgerUnavailable) as error:
            log.warning("events stay in the store: %s", error)

    async def flush(self) -> None:
        """Drain until nothing is left, so that a report shows what was settled before it was asked for.
        Raises `StoreUnavailable` or `LedgerUnavailable`."""
        while await self._once():
            pass
        self._drained_at = time.monotonic()

    async def _once(self) -> bool:
        """One batch; whether there may be more."""
        events = await self.store.take_events(BATCH)
        if not events:
            return False
        await self.ledger.append(events)
        if self.written is not None:
            await self.written(events)
        await self.store.confirm_events([event_id for event_id, _ in events])
        return len(events) == BATCH

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S if not self._in_trouble else 1.0)
            try:
                await self.flush()
            except (StoreUnavailable, LedgerUnavailable) as error:
                if not self._in_trouble:
                    log.warning("the ledger is not being written: %s", error)
                    self._in_trouble = True
                    self.on_trouble(True)
            else:
                if self._in_trouble:
                    log.warning("the ledger is written again")
                    self._in_trouble = False
                    self.on_trouble(False)
