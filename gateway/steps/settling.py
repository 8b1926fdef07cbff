"""Ends every attempt in the store exactly once, however the store or the process fares.

A settlement is on record in the journal before the store is asked. When the store cannot answer, the
caller is not kept waiting: the settlement stays in the journal and is offered again until it is taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from gateway.admission import Settled, Settlement
from gateway.errors import StoreUnavailable
from gateway.journal import Journal, JournalUnavailable
from gateway.protocols import Store
from gateway.stores.ledger import LedgerUnavailable

log = logging.getLogger("gateway.settling")

RETRY_S = 0.5


@dataclass(slots=True)
class Settler:
    """`in_ledger` tells whether an attempt is in the ledger with its real figure: it decides when the store
    has lost an attempt whether to charge it anew."""

    store: Store
    journal: Journal
    in_ledger: Callable[[str], Awaitable[bool]]
    store_may_forget: bool = False
    """What the store has taken can still be lost: it tells the journal itself what has reached the ledger."""
    _pending: dict[str, Settlement] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to retry what the store did not take."""
        self._task = asyncio.create_task(self._retry_forever(), name="settler")

    async def close(self) -> None:
        """One last try for what is pending; the rest is in the journal."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._retry()

    @property
    def pending(self) -> int:
        """Settlements that the store has not taken yet."""
        return len(self._pending)

    async def settle(self, settlement: Settlement) -> Settled | None:
        """Record and settle; None when the store could not be told now.

        A caller who is cancelled meanwhile changes nothing: the settlement is then offered again with those
        that the store did not take.
        """
        try:
            self.journal.settled(settlement)
        except JournalUnavailable as error:
            # The money is spent: the store has to know all the same, only a crash now would lose it.
            log.error("a settlement is not in the journal: %s", error)
        try:
            return await self.apply(settlement)
        except (StoreUnavailable, LedgerUnavailable):
            self._pending[settlement.attempt_id] = settlement
            return None
        except asyncio.CancelledError:
            self._pending[settlement.attempt_id] = settlement
            raise

    async def apply(self, settlement: Settlement) -> Settled:
        """Tell the store, and adopt the attempt when the store has lost it.

        Raises `StoreUnavailable` or `LedgerUnavailable`.
        """
        settled = await self.store.settle(settlement)
        for_good = not self.store_may_forget
        if not settled.known:
            if await self.in_ledger(settlement.attempt_id):
                for_good = True
            else:
                settled = await self.store.settle(replace(settlement, adopt=True))
        if for_good:
            self.journal.confirmed(settlement.attempt_id)
        return settled

    async def _retry_forever(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            if self._pending:
                await self._retry()

    async def _retry(self) -> None:
        for attempt_id, settlement in list(self._pending.items()):
            try:
                await self.apply(settlement)
            except (StoreUnavailable, LedgerUnavailable):
                return
            del self._pending[attempt_id]
