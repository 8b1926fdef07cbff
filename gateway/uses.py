"""When keys and admin tokens were last used, to the minute: marked in memory, written in the background."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from gateway.domain import Millis
from gateway.protocols import Clock
from gateway.stores.ledger import LedgerUnavailable, SqlLedger

log = logging.getLogger("gateway.uses")

WRITE_EVERY_S = 60.0


@dataclass(slots=True)
class Uses:
    """Marking is adding an id to `seen`, which costs a request nothing that could be felt."""

    ledger: SqlLedger
    clock: Clock
    seen: set[str] = field(default_factory=set)
    """Ids of what was used since it was last written down."""
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write from now on."""
        self._task = asyncio.create_task(self._run(), name="uses")

    async def close(self) -> None:
        """Write once more and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.write()

    async def write(self) -> None:
        """Write what was seen; when the ledger is away, the next time."""
        used = dict.fromkeys(self.seen, self.clock())
        self.seen.clear()
        try:
            await self.ledger.credentials_used(used)
        except LedgerUnavailable as error:
            self.seen.update(used)
            log.warning("when credentials were used is written later: %s", error)

    def last(self, credential: str, written: Millis | None) -> Millis | None:
        """When a credential was last used, given what is written of it."""
        return self.clock() if credential in self.seen else written

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()
