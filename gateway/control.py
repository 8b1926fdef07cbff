"""What operators have decided, as this worker knows it: keys, tokens, top-ups, kills and policy versions
from the ledger database, looked at again within half a second of a change anywhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway.admission import Kill
from gateway.domain import Nano
from gateway.errors import StoreUnavailable
from gateway.protocols import Clock, Store
from gateway.stores.ledger import LedgerUnavailable, SqlLedger
from gateway.stores.ledger_credentials import KeyRecord, TokenRecord
from gateway.stores.ledger_policies import PolicyVersion

log = logging.getLogger("gateway.control")

POLL_S = 0.5
RESYNC_S = 5.0


@dataclass(slots=True)
class Control:
    """`on_change` is called after each reload, `on_policies` with the versions that govern."""

    ledger: SqlLedger
    store: Store
    clock: Clock
    on_change: Callable[[Control], None] = lambda _control: None
    on_policies: Callable[[Sequence[PolicyVersion]], Awaitable[None]] | None = None
    keys: list[KeyRecord] = field(default_factory=list)
    tokens: list[TokenRecord] = field(default_factory=list)
    topups: dict[tuple[str, str], Nano] = field(default_factory=dict)
    _revision: int = -1
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load everything once, then follow."""
        await self.refresh()
        self._task = asyncio.create_task(self._run(), name="control")

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self) -> None:
        """Reload if anything has changed since the last time. Raises `LedgerUnavailable`."""
        revision = await self.ledger.revision()
        if revision == self._revision:
            return
        now = self.clock()
        self.keys = [key for key in await self.ledger.keys() if key.valid(now)]
        self.tokens = [token for token in await self.ledger.tokens() if token.valid(now)]
        self.topups = await self.ledger.topup_sums(now)
        # First what needs no store: a revoked key must not wait for it.
        self.on_change(self)
        if self.on_policies is not None:
            await self.on_policies(await self.ledger.active_policies())
        await self.restore_kills()
        self._revision = revision

    async def _expire(self) -> None:
        """Drop what has run out since it was read: top-ups end with the window that they were made for."""
        topups = await self.ledger.topup_sums(self.clock())
        if topups != self.topups:
            self.topups = topups
            self.on_change(self)

    async def restore_kills(self) -> None:
        """Set again every kill that the ledger knows and the store has lost."""
        now = self.clock()
        wanted = {kill.name: kill for kill in await self.ledger.active_kills(now)}
        if not wanted:
            return
        present = await self.store.kills(wanted)
        for name, kill in wanted.items():
            if name not in present:
                ttl_s = (kill.expires_at - now) / 1000 if kill.expires_at is not None else None
                await self.store.set_kill(Kill(name, kill.reason), ttl_s)
                # Whoever revived it in between has to win.
                record = await self.ledger.kill(kill.id)
                if record is not None and not record.active(self.clock()):
                    await self.store.clear_kill(name)

    async def _run(self) -> None:
        since_resync = 0.0
        while True:
            await asyncio.sleep(POLL_S)
            since_resync += POLL_S
            try:
                await self.refresh()
                if since_resync >= RESYNC_S:
                    since_resync = 0.0
                    await self._expire()
                    await self.restore_kills()
            except (LedgerUnavailable, StoreUnavailable) as error:
                log.debug("the control plane's records cannot be read: %s", error)
