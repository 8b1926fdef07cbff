"""Figures that nobody moves as they happen: they are looked up, every few seconds or when they are shown.

held ──► the counters lately charged ──► every `LOOK_S`: their share in use, by the live store
                                         and whether the ledger knows of more than the live store
every hour: whether the costs of runs are those of their steps
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.admission import Charge, Hold
from gateway.domain import NANO_PER_USD, Millis, Nano
from gateway.errors import StoreUnavailable
from gateway.protocols import Clock, Store
from gateway.stores.ledger import LedgerError, LedgerOnAnotherHost, LedgerUnavailable, SqlLedger
from gateway.telemetry.metrics import Metrics

log = logging.getLogger("gateway.gauges")

LOOK_S = 5.0
VERIFY_S = 3600.0
FIRST_VERIFY_S = 60.0
REMEMBERED = 500
"""Counters that are looked at each time, those charged last."""
FORGOTTEN_MS = 600_000
"""Counters that no step was charged to for so long are not looked at."""
ENDS_SOON_MS = 10_000
"""Counters that the live store may forget between the two questions are not compared."""
TICK_S = 0.25
TICKS_KEPT = 120
"""Half a minute, so that two scrapes of the usual distance see each moment."""
_UNREADABLE = (LedgerUnavailable, LedgerError, LedgerOnAnotherHost, TimeoutError)


@dataclass(slots=True)
class Gauges:
    """One per worker. `refresh` sets what is known without waiting; `run` looks the rest up."""

    metrics: Metrics
    store: Store
    ledger: SqlLedger
    clock: Clock
    drain_lag: Callable[[], float]
    in_flight: Callable[[], int]
    healthy: Callable[[], bool]
    notify: Callable[[str, dict[str, Any]], None] = lambda _kind, _facts: None
    look_s: float = LOOK_S
    verify_s: float = VERIFY_S
    _held: deque[tuple[Sequence[Charge], Sequence[Hold]]] = field(
        default_factory=lambda: deque(maxlen=REMEMBERED)
    )
    """Steps let in since the last look, the latest of them."""
    _watched: OrderedDict[str, tuple[Charge, Millis, Millis]] = field(default_factory=OrderedDict)
    """By counter: the budget, when the counter expires, when a step was last charged to it."""
    _missing: dict[str, Nano] = field(default_factory=dict)
    """By counter: what the live store lacked at the last look."""
    _shown: set[tuple[str, str]] = field(default_factory=set)
    _drifting: set[str] = field(default_factory=set)
    _late: deque[float] = field(default_factory=lambda: deque(maxlen=TICKS_KEPT))
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Begin to look."""
        for loop in (self._look_forever, self._verify_forever, self._tick_forever):
            self._tasks.append(asyncio.create_task(loop(), name=f"gauges{loop.__name__}"))

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def held(self, charges: Sequence[Charge], holds: Sequence[Hold]) -> None:
        """A step was let in by these budgets. On the hot path: keeps them for the next look, no more."""
        self._held.append((charges, holds))

    def refresh(self) -> None:
        """Set what is known at any time; before it is shown."""
        m = self.metrics
        m.workers.set(1)
        m.in_flight.set(self.in_flight())
        m.policy_healthy.set(self.healthy())
        m.drain_lag.set(self.drain_lag())
        m.loop_lag.set(max(self._late, default=0.0))

    # -- budgets ------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Bring the shares of budgets up to date, and compare the live store with the ledger.

        Raises `StoreUnavailable` and what the ledger raises.
        """
        now = self.clock()
        while self._held:
            for charge, hold in zip(*self._held.popleft(), strict=True):
                self._watched[hold.counter] = (charge, hold.expires_at, now)
                self._watched.move_to_end(hold.counter)
        while len(self._watched) > REMEMBERED:
            self._watched.popitem(last=False)
        for counter, (_, expires_at, seen_at) in list(self._watched.items()):
            if seen_at < now - FORGOTTEN_MS or 0 < expires_at <= now:
                del self._watched[counter]
        watched = dict(self._watched)
        # The ledger first: what is settled between the two questions is then no difference.
        in_ledger = await self.ledger.counters_used(list(watched))
        live = await self.store.counters(list(watched)) if watched else {}
        shares: dict[tuple[str, str], float] = dict.fromkeys(self._shown, 0.0)
        missing: dict[str, Nano] = {}
        for counter, (charge, expires_at, _) in watched.items():
            state = live[counter]
            if charge.limit > 0:
                share = (state.used + state.reserved) / charge.limit
                name = (charge.rule, charge.per)
                shares[name] = max(shares.get(name, 0.0), share)
            ends_soon = 0 < expires_at <= now + ENDS_SOON_MS
            if (lacks := in_ledger.get(counter, 0) - state.used) > 0 and not ends_soon:
                missing[counter] = lacks
        for name, share in shares.items():
            self.metrics.child(self.metrics.budget_used, *name).set(share)
        self._shown = set(shares)
        # A figure that is being replaced by a lower one is in the store first: only what lasts differs.
        lasting = [min(lacks, self._missing.get(counter, 0)) for counter, lacks in missing.items()]
        self._missing = missing
        self._drift("store_and_ledger", max(lasting, default=0))

    async def verify(self) -> None:
        """Compare runs with their steps. Raises what the ledger raises."""
        self._drift("runs_and_steps", await self.ledger.runs_drift())

    def _drift(self, between: str, amount: Nano) -> None:
        self.metrics.child(self.metrics.ledger_drift, between).set(amount / NANO_PER_USD)
        if amount and between not in self._drifting:
            log.error("%s differ by %d nano-dollars", between.replace("_", " "), amount)
            self.notify("ledger_drift", {"name": between, "cost": amount})
        (self._drifting.add if amount else self._drifting.discard)(between)

    # -- loops --------------------------------------------------------------------------------------

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(self.look_s)
            try:
                await self.look()
            except (StoreUnavailable, *_UNREADABLE) as error:
                log.debug("budgets are not looked at: %s", error)

    async def _verify_forever(self) -> None:
        # Not all workers at once.
        await asyncio.sleep(min(FIRST_VERIFY_S, self.verify_s) * random.uniform(0.5, 1.5))
        while True:
            started = time.monotonic()
            try:
                await self.verify()
            except _UNREADABLE as error:
                log.debug("the ledger is not verified: %s", error)
            # Where it takes long it is done less often, for as long nobody gets a report.
            await asyncio.sleep(
                max(self.verify_s, 100 * (time.monotonic() - started)) * random.uniform(1, 1.1)
            )

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self._late.append(max(0.0, loop.time() - due))
