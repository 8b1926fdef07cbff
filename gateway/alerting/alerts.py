"""Webhooks: what the policy's `alerts` want to be told, signed, and kept until it has arrived.

    notify ──► Alerts(kind, facts)        in the caller's time: is it wanted, was it told lately
                  │ in the background, what comes together at once
                  ▼
               the run's summary ──► claim, and a delivery for each alert that matches
                                     first of all processes, in one transaction
                                        ▼
                                     AlertQueue: any worker delivers, now or after a restart

An event is raised in each worker that sees it; the claim in the ledger database lets one of them tell it.
Nothing here makes the data plane wait. Without the database each worker sends what it sees, from memory, for
about two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.alerting.delivery import Courier, signature
from gateway.alerting.events import (
    Happened,
    covers,
    freed_by,
    incident_of,
    payload,
    quiet_ms,
    sentence,
    subject_of,
    wanted_by,
)
from gateway.alerting.formats import GAP_MS, TOGETHER
from gateway.alerting.queue import AT_ONCE, AlertQueue
from gateway.domain import Json, Millis
from gateway.drain import Drain
from gateway.errors import StoreUnavailable
from gateway.policy.sections.operations import Alert
from gateway.protocols import Clock
from gateway.steps.turn import new_id
from gateway.stores.ledger import AmbiguousRun, LedgerError, LedgerOnAnotherHost, LedgerUnavailable, SqlLedger
from gateway.stores.ledger_alerts import RaisedEvent, Recipient
from gateway.telemetry.metrics import Metrics
from gateway.upstreams.transport import Transport
from gateway.web.admin_views import run_view, stamp

__all__ = ["Alerts", "sentence", "signature"]

log = logging.getLogger("gateway.alerts")

Outcome = Literal["sent", "failed", "dropped", "duplicate", "shadow"]

DELAYS_S = (2.0, 8.0, 30.0, 80.0)
"""Between attempts from memory, each a quarter more or less: five attempts over two minutes."""
QUEUE = 1000
"""Events, or deliveries from memory, under way in one worker; beyond it the oldest are given up."""
ROOM = 10_000
"""Deliveries that wait for one alert in the database; beyond it the oldest are given up."""
REMEMBERED = 10_000
"""Events of the last ten minutes that a worker knows itself to have told; older ones are in the database."""
BATCH = 100
"""Events written in one transaction."""
CLOSING_S = 0.5
"""What is on its way when the process ends gets so long to arrive."""
MAX_RETRY_AFTER_S = 60.0
"""From memory nobody waits for longer."""
_LOOKUP_S = 5.0
_UNREADABLE = (
    LedgerUnavailable,
    LedgerError,
    LedgerOnAnotherHost,
    StoreUnavailable,
    AmbiguousRun,
    TimeoutError,
)


@dataclass(slots=True, eq=False)
class Alerts:
    """One per worker; a listener of its notices. `key` signs for alerts that have no secret of their own,
    `link` makes the address of a path of the admin API."""

    rules: Sequence[Alert]
    transport: Transport
    ledger: SqlLedger
    drain: Drain
    metrics: Metrics
    notify: Callable[[str, dict[str, Any]], None]
    clock: Clock
    key: bytes = field(repr=False)
    link: Callable[[str], str]
    worker: str = "worker"
    delays_s: Sequence[float] = DELAYS_S
    queue: int = QUEUE
    room: int = ROOM
    deliveries: AlertQueue = field(init=False)
    courier: Courier = field(init=False)
    _wanted: dict[str, list[Alert]] = field(default_factory=dict)
    _told: dict[str, Millis] = field(default_factory=dict)
    """Until when each subject is not told again, the oldest first."""
    _raised: deque[tuple[Happened, str]] = field(default_factory=deque)
    """Not written yet, with their subjects."""
    _writer: asyncio.Task[None] | None = None
    _tasks: dict[asyncio.Task[None], str] = field(default_factory=dict)
    """Deliveries from memory, the oldest first, each with its event's kind."""
    _turns: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    _failing: set[str] = field(default_factory=set)
    _overflowing: bool = False
    _full: set[str] = field(default_factory=set)
    """Alerts whose oldest deliveries had to go the last time."""

    def __post_init__(self) -> None:
        self.courier = Courier(self.transport, self.clock, self.key)
        self.deliveries = AlertQueue(
            self.ledger, self.courier, self.metrics, self.clock, self.worker, self._outcome
        )
        self.replace(self.rules)

    def start(self) -> None:
        """Begin to deliver what waits in the database."""
        self.deliveries.start()

    def replace(self, rules: Sequence[Alert]) -> None:
        """Go by these alerts from now on; what waits goes where they lead now."""
        self.rules = [rule for rule in rules if rule.mode != "off"]
        self._wanted = {}
        for rule in self.rules:
            for kind in wanted_by(rule):
                self._wanted.setdefault(kind, []).append(rule)
        names = {rule.name for rule in rules}
        self._turns = {name: turn for name, turn in self._turns.items() if name in names}
        self._failing &= names
        self.deliveries.replace(self.rules)

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Take an event; never waits."""
        if (ended := freed_by(kind, facts)) is not None:
            self._told.pop(ended, None)
        if kind not in self._wanted:
            return
        now = self.clock()
        subject = subject_of(kind, facts)
        if self._told.get(subject, 0) > now:
            self._count(kind, "duplicate")
            return
        self._remember(subject, now, now + quiet_ms(kind))
        self._raised.append((Happened(new_id("evt"), kind, now, dict(facts)), subject))
        if len(self._raised) > self.queue:
            self._count(self._raised.popleft()[0].kind, "dropped")
            self._overflows()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="alerts-writer")

    async def test(self, rule: Alert, by: str) -> str:
        """Send an event that says nothing but that it arrives, before whatever else waits; its id. What
        comes of it is in the queue. Raises `LedgerUnavailable`."""
        event = Happened(new_id("evt"), "test", self.clock(), {"name": rule.name, "by": by})
        # Not to be taken for another test, nor to be told with one.
        recipient = Recipient(rule.name, event.id)
        raised = self._raised_event(event, event.id, None, (recipient,))
        await self.ledger.raise_alerts([raised], most=self.room)
        await self.deliveries.deliver_now(event.id)
        return event.id

    async def close(self) -> None:
        """Write down what was raised, and let what is on its way arrive, for a moment. What is in the
        database waits there; what is in memory alone is dropped."""
        self._wanted = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                while self._writer is not None or self._tasks:
                    await asyncio.wait({*self._tasks, *([self._writer] if self._writer else [])})
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        for event, _ in self._raised:
            self._count(event.kind, "dropped")
        left = list(self._tasks)
        for task in left:
            self._count(self._tasks.get(task, ""), "dropped")
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.deliveries.close(CLOSING_S)

    def _remember(self, subject: str, now: Millis, until: Millis) -> None:
        told = self._told
        told.pop(subject, None)
        told[subject] = until
        while (oldest := next(iter(told))) and (len(told) > REMEMBERED or told[oldest] <= now):
            del told[oldest]

    def _overflows(self) -> None:
        if not self._overflowing:
            log.error("more than %d alerts wait to be delivered: the oldest are dropped", self.queue)
        self._overflowing = True

    # -- from events to deliveries --------------------------------------------------------------------

    async def _write(self) -> None:
        """Write what was raised, as long as there is any."""
        try:
            while self._raised:
                batch = [self._raised[i] for i in range(min(BATCH, len(self._raised)))]
                try:
                    await self._write_batch(batch)
                except Exception:
                    # Those that come later must not wait behind one that cannot be told.
                    log.exception("%d alerts could not be told", len(batch))
                # Those dropped meanwhile for want of room were the first of these.
                done = {event.id for event, _ in batch}
                while self._raised and self._raised[0][0].id in done:
                    self._raised.popleft()
            if len(self._tasks) <= self.queue // 2:
                self._overflowing = False
        finally:
            self._writer = None

    async def _write_batch(self, batch: Sequence[tuple[Happened, str]]) -> None:
        runs = await self._runs([event for event, _ in batch])
        raised, meant = [], []
        for event, subject in batch:
            run = _as_told(event, runs)
            rules = [rule for rule in self._wanted_rules(event) if covers(rule, event, run)]
            to = tuple(_recipient(rule, event) for rule in rules if rule.mode == "enforce")
            raised.append(self._raised_event(event, subject, run, to))
            meant.append((event, rules, raised[-1].body))
        try:
            async with asyncio.timeout(_LOOKUP_S):
                written = await self.ledger.raise_alerts(raised, most=self.room)
        except _UNREADABLE as error:
            log.debug("alerts are sent from memory: %s", error)
            for event, rules, body in meant:
                self._send_from_memory(event, rules, body)
            return
        for (event, rules, _), claimed in zip(meant, written.claimed, strict=True):
            if not claimed:
                self._count(event.kind, "duplicate")
                continue
            for rule in rules:
                if rule.mode == "shadow":
                    self._shadow(rule, event)
        for alert, kind, event_id in written.dropped:
            self._outcome(alert, kind, event_id, "dropped", None)
        full = {alert for alert, _, _ in written.dropped}
        for alert in sorted(full - self._full):
            log.error("more than %d events wait for alert %s: the oldest are dropped", self.room, alert)
        self._full = full
        self.deliveries.wake()

    def _wanted_rules(self, event: Happened) -> Sequence[Alert]:
        # At the end of the process nothing more is taken, and what was taken is still written.
        return [rule for rule in self.rules if event.kind in wanted_by(rule)]

    def _raised_event(
        self, event: Happened, subject: str, run: Json | None, to: tuple[Recipient, ...]
    ) -> RaisedEvent:
        given = event.facts.get("link")
        link = given if isinstance(given, str) else self.link(event.place)
        body = json.dumps(payload(event, run, link), default=str, separators=(",", ":"))
        return RaisedEvent(
            event.id,
            event.kind,
            subject,
            event.at,
            event.at + quiet_ms(event.kind),
            body,
            to,
            freed_by(event.kind, event.facts),
        )

    async def _runs(self, events: Sequence[Happened]) -> dict[str, Json]:
        """The runs that events are about as the admin API shows them; none where the ledger cannot tell."""
        wanted = dict.fromkeys(event.run for event in events if event.run is not None)
        found: dict[str, Json] = {}
        if not wanted:
            return found
        with contextlib.suppress(*_UNREADABLE):
            async with asyncio.timeout(_LOOKUP_S):
                await self.drain.flush()
        for run_id in wanted:
            try:
                async with asyncio.timeout(_LOOKUP_S):
                    row = await self.ledger.run(run_id)
            except AmbiguousRun:
                continue
            except _UNREADABLE as error:
                log.debug("alerts lack their runs' summaries: %s", error)
                break
            if row is not None:
                found[run_id] = run_view(row, None)
        return found

    # -- from memory, while the database is away ------------------------------------------------------

    def _send_from_memory(self, event: Happened, rules: Sequence[Alert], body: str) -> None:
        for rule in rules:
            if rule.mode == "shadow":
                self._shadow(rule, event)
            else:
                self._begin(event.kind, self._deliver(rule, event, body))

    def _begin(self, kind: str, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= self.queue:
            oldest = next(iter(self._tasks))
            self._count(self._tasks.pop(oldest), "dropped")
            oldest.cancel()
            self._overflows()
        task = asyncio.create_task(work, name="alert")
        self._tasks[task] = kind
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if len(self._tasks) <= self.queue // 2:
            self._overflowing = False
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an alert failed", exc_info=error)

    async def _deliver(self, rule: Alert, event: Happened, body: str) -> None:
        turn = self._turns.setdefault(rule.name, asyncio.Semaphore(AT_ONCE))
        incident = incident_of(event.kind, event.facts)
        problem = ""
        for delay in (*self.delays_s, None):
            async with turn:
                answer = await self.courier.attempt(rule, event.kind, incident, [body])
            problem = answer.problem
            if not problem:
                break
            log.debug("alert %s: %s", rule.name, problem)
            if not answer.again or delay is None:
                break
            wait_s = min(answer.wait_s, MAX_RETRY_AFTER_S)
            await asyncio.sleep(max(delay * random.uniform(0.75, 1.25), wait_s))
        if problem and rule.name not in self._failing:
            self._failing.add(rule.name)
            log.warning(
                "alert %s could not be delivered (%s); more of its failures are counted, not logged",
                rule.name,
                problem,
            )
        elif not problem and rule.name in self._failing:
            self._failing.discard(rule.name)
            log.warning("alert %s is delivered again", rule.name)
        self._outcome(rule.name, event.kind, event.id, "failed" if problem else "sent", event.run)

    # -- what came of it ------------------------------------------------------------------------------

    def _shadow(self, rule: Alert, event: Happened) -> None:
        log.info("alert %s would tell of %s %s", rule.name, event.kind, event.id)
        self._outcome(rule.name, event.kind, event.id, "shadow", event.run)

    def _outcome(self, alert: str, kind: str, event: str, outcome: str, run: str | None) -> None:
        self._count(kind, outcome)
        facts = {"alert": alert, "event": kind, "id": event, "outcome": outcome}
        self.notify("alert", {**facts, "run": run})

    def _count(self, kind: str, outcome: str) -> None:
        self.metrics.child(self.metrics.alerts, kind, outcome).inc()


def _as_told(event: Happened, runs: dict[str, Json]) -> Json | None:
    """The run of an event; what the event says of it where the ledger cannot tell. None when it is about
    none."""
    run_id = event.run
    if run_id is None:
        return None
    found: Json = dict(runs.get(run_id) or {"id": run_id})
    if event.kind == "run_stopped":
        found["status"] = event.facts.get("status") or found.get("status")
        found["status_reason"] = (
            found.get("status_reason") or event.facts.get("reason") or event.facts.get("code")
        )
        found["ended_at"] = stamp(event.at)
    return found


def _recipient(rule: Alert, event: Happened) -> Recipient:
    """Our own format keeps the order of each run's events; the others that of each incident's."""
    if rule.format in TOGETHER:
        return Recipient(rule.name, incident_of(event.kind, event.facts), GAP_MS)
    return Recipient(rule.name, event.run or event.id)
