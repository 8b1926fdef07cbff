"""The audit log as a worker sees it: what it did outside of any step, and what happens when nothing can be
recorded.

Notes go by way of the store's event stream, like steps, so that a worker that dies right after them loses
none, and so that each is in the chain once. While the log cannot be written the events wait there. When that
lasts longer than the policy allows, either no step begins any more or each one that does is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.domain import Json, Millis
from gateway.drain import Drain
from gateway.errors import GatewayError, StoreUnavailable
from gateway.policy.sections.operations import Audit
from gateway.protocols import Clock, Store
from gateway.steps.turn import new_id
from gateway.stores.ledger import LedgerError, LedgerOnAnotherHost, LedgerUnavailable, SqlLedger
from gateway.telemetry.metrics import Metrics

log = logging.getLogger("gateway.audit")

LOOK_S = 1.0
SEAL_S = 10.0
ROOM = 10_000
"""Notes that wait in this worker while the store is away; beyond it the oldest are given up."""
DAY_MS: Millis = 86_400_000
RETRY_AFTER_S = 2

TOLD = {
    "breaker_open": "breaker.open",
    "breaker_closed": "breaker.close",
    "policy_in_force": "policy.in_force",
    "policy_reload_failed": "policy.reload_failed",
    "policy_reloaded": "policy.reloaded",
    "routing_rule_off": "routing.rule_off",
    "upstream_credentials_rejected": "upstream.credentials_rejected",
}
"""Notices that are put on record, and the action that they are put on record as."""
_NOT_TOLD = ("link", "principal")


@dataclass(slots=True, eq=False)
class AuditTrail:
    """One per worker; a listener of its notices."""

    store: Store
    ledger: SqlLedger
    drain: Drain
    metrics: Metrics
    notify: Callable[[str, dict[str, Any]], None]
    clock: Clock
    worker: str
    rules: Audit = field(default_factory=Audit)
    _notes: deque[bytes] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _failing: bool = False
    _sealed_at: Millis = 0
    _day: int = 0
    _task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.replace(self.rules)

    def replace(self, rules: Audit) -> None:
        """Go by these rules from now on."""
        self.rules = rules
        self.ledger.audit_decisions = rules.decisions

    def start(self) -> None:
        """Begin to write notes and to look after the log."""
        self._day = self.clock() // DAY_MS
        self._task = asyncio.create_task(self._run(), name="audit")

    async def close(self) -> None:
        """Hand over what is noted. What the drain still writes is sealed by others, or by the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self._hand_over()
        if self._notes:
            log.error("%d notes for the audit log are lost: the store cannot take them", len(self._notes))

    def __call__(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Put a notice on record where it is one of those; never waits."""
        action = TOLD.get(kind)
        if action is not None:
            self.note(action, {name: value for name, value in facts.items() if name not in _NOT_TOLD})

    def note(self, action: str, details: Json) -> None:
        """Put something that this worker did on record; never waits."""
        event = {
            "t": "audit",
            "id": new_id("aud"),
            "at": self.clock(),
            "actor": f"worker:{self.worker}",
            "action": action,
            "details": details,
        }
        self._notes.append(orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS))
        if len(self._notes) > ROOM:
            self._notes.popleft()
            log.error("more than %d notes wait for the audit log: the oldest is given up", ROOM)
        self._wake.set()

    def ensure_recorded(self) -> None:
        """Called before each step. Raises `GatewayError` when what it does could not be put on record and the
        policy refuses that."""
        if not self._failing:
            return
        if self.rules.on_failure == "refuse":
            raise GatewayError(
                "guardrail_unavailable",
                "The audit log cannot be written; no step begins until it can.",
                retry_after_s=RETRY_AFTER_S,
            )
        self.metrics.bypassed.labels("audit").inc()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._hand_over()
                self._look()
                await self._look_after()
            except (StoreUnavailable, LedgerUnavailable, LedgerError, LedgerOnAnotherHost) as error:
                log.debug("the audit log waits: %s", error)
            except Exception:
                # Whatever it was, the trail must go on: the next look tries again.
                log.exception("the audit log could not be looked after")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    async def _hand_over(self) -> None:
        """Give notes to the store. Raises `StoreUnavailable`."""
        while self._notes:
            note = self._notes[0]
            await self.store.note(note)
            if self._notes and self._notes[0] is note:
                self._notes.popleft()

    def _look(self) -> None:
        """See whether what happens is put on record."""
        unwritten = self.drain.lag_s
        failing = unwritten > self.rules.grace_s
        self.metrics.audit_unwritten.set(unwritten if unwritten > LOOK_S else 0)
        if failing == self._failing:
            return
        self._failing = failing
        if failing:
            log.error("the audit log has not been written for %.0f s", unwritten)
            facts = {"reason": "it cannot be written", "on_failure": self.rules.on_failure}
            self.notify("audit_failed", facts)
        else:
            log.warning("the audit log is written again")
            self.notify("audit_recovered", {})

    async def _look_after(self) -> None:
        """Seal steps, and tell the head of the log once a day. Raises `LedgerUnavailable`."""
        now = self.clock()
        if now - self._sealed_at >= SEAL_S * 1000:
            self._sealed_at = now
            await self.ledger.audit_seal()
        day = now // DAY_MS
        if day != self._day:
            self._day = day
            seq, head = await self.ledger.audit_head()
            self.notify("audit_head", {"name": f"{seq}:{head}", "seq": seq, "hash": head})
