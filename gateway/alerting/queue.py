"""Delivers what waits in the ledger database, whoever put it there, until it has arrived or its time is over.

    look ──► take what is due, and own it ──► attempts side by side ──► record what came of them
      every second, and at once when something new waits

A receiver that fails three times in a row is asked with one delivery at a time, less and less often; when it
answers again, everything that waits for it is due. What other workers own is theirs for as long as they keep
saying so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gateway.alerting.delivery import FIRST_PAUSE_S, Answer, Courier, pause_s
from gateway.alerting.formats import TOGETHER
from gateway.domain import Millis
from gateway.policy.sections.operations import Alert
from gateway.protocols import Clock
from gateway.stores.ledger import LedgerError, LedgerOnAnotherHost, LedgerUnavailable, SqlLedger
from gateway.stores.ledger_alerts import Delivery, DeliveryState, Tried, Waiting
from gateway.telemetry.metrics import Metrics

log = logging.getLogger("gateway.alerts")

POLL_S = 1.0
OWNED_MS = 6000
"""What a worker that died was at is taken over after so long."""
KEEP_EVERY_MS = 1500
AT_ONCE = 4
"""Messages that one receiver gets side by side from each worker; a slow one keeps nobody else waiting."""
DOWN_AFTER = 3
"""Attempts in a row that failed until a receiver is asked with one at a time."""
LONGEST_REST_S = 30.0
UNKNOWN_MS = 5 * 60 * 1000
"""What waits for an alert that the policy does not have is dropped when it is so old."""
TIDY_MS = 10 * 60 * 1000
KEPT_MS = 7 * 86_400_000
KEPT_ROWS = 1000
"""Deliveries that are over, kept to be looked at: of the last week, at most so many of each alert."""
_AWAY = (LedgerUnavailable, LedgerError, LedgerOnAnotherHost)


@dataclass(slots=True)
class _Receiver:
    """How a receiver has fared lately, as this worker saw it."""

    busy: int = 0
    failures: int = 0
    """Attempts in a row that may succeed later."""
    rests_until: Millis = 0
    told: bool = False
    """That it fails was logged."""

    def room(self, now: Millis) -> int:
        if now < self.rests_until:
            return 0
        return max(0, (AT_ONCE if self.failures < DOWN_AFTER else 1) - self.busy)


@dataclass(slots=True, eq=False)
class AlertQueue:
    """One per worker. `ended` is told of each delivery that is over: (alert, kind, event, outcome, run)."""

    ledger: SqlLedger
    courier: Courier
    metrics: Metrics
    clock: Clock
    owner: str
    ended: Callable[[str, str, str, str, str | None], None]
    first_pause_s: float = FIRST_PAUSE_S
    poll_s: float = POLL_S
    _rules: dict[str, Alert] = field(default_factory=dict)
    _receivers: dict[str, _Receiver] = field(default_factory=dict)
    _under_way: dict[asyncio.Task[None], list[Delivery]] = field(default_factory=dict)
    _tried: list[Tried] = field(default_factory=list)
    """Not recorded yet."""
    _gauged: set[str] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _kept_at: Millis = 0
    _tidied_at: Millis = 0
    _away: bool = False
    _task: asyncio.Task[None] | None = None

    def replace(self, rules: Iterable[Alert]) -> None:
        """Deliver for these alerts from now on, to where they lead now."""
        self._rules = {rule.name: rule for rule in rules if rule.mode == "enforce"}
        self._receivers = {n: each for n, each in self._receivers.items() if n in self._rules or each.busy}
        self.wake()

    def start(self) -> None:
        """Begin to deliver in the background."""
        self._task = asyncio.create_task(self._run(), name="alerts")

    def wake(self) -> None:
        """Look at once."""
        self._wake.set()

    async def deliver_now(self, event: str) -> None:
        """Deliver one event before whatever else waits, even to a receiver that is left alone for a while.
        Raises `LedgerUnavailable`."""
        now = self.clock()
        for delivery in await self.ledger.take_event(self.owner, event, now=now, until=now + OWNED_MS):
            if delivery.alert in self._rules:
                self._begin([delivery])

    async def close(self, within_s: float) -> None:
        """Let what is under way arrive, for a moment; others deliver the rest, or the next start does."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=within_s)
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        with contextlib.suppress(*_AWAY, TimeoutError):
            async with asyncio.timeout(max(within_s, 0.1)):
                await self._record()
                await self.ledger.release_alerts(self.owner)

    async def _run(self) -> None:
        while True:
            try:
                await self.round()
                self._away = False
            except _AWAY as error:
                if not self._away:
                    log.warning("alerts wait in the ledger, which cannot be asked: %s", error)
                self._away = True
            except Exception:
                # One delivery that cannot be read must not silence every alert.
                log.exception("the queue of alerts could not be looked through")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.poll_s):
                    await self._wake.wait()
            self._wake.clear()

    async def round(self) -> None:
        """Record what is over, keep what is under way, and begin what is due. Raises `LedgerUnavailable`."""
        await self._record()
        now = self.clock()
        await self._keep(now)
        waiting = await self.ledger.waiting_alerts()
        self._gauge(waiting, now)
        rooms = {
            name: (room, rule.format in TOGETHER)
            for name, rule in self._rules.items()
            if name in waiting and waiting[name].next_at <= now and (room := self._receiver(name).room(now))
        }
        if rooms:
            taken = await self.ledger.take_alerts(self.owner, rooms, now=now, until=now + OWNED_MS)
            for message in taken:
                self._begin(message)
        if self._tidied_at <= now - TIDY_MS or (waiting.keys() - self._rules.keys()):
            await self._tidy(now)

    def _receiver(self, alert: str) -> _Receiver:
        return self._receivers.setdefault(alert, _Receiver())

    async def _record(self) -> None:
        while self._tried:
            batch = self._tried[:]
            await self.ledger.tried_alerts(batch)
            del self._tried[: len(batch)]

    async def _keep(self, now: Millis) -> None:
        if self._under_way and now - self._kept_at >= KEEP_EVERY_MS:
            seqs = [delivery.seq for message in self._under_way.values() for delivery in message]
            await self.ledger.keep_alerts(self.owner, seqs, until=now + OWNED_MS)
            self._kept_at = now

    async def _tidy(self, now: Millis) -> None:
        dropped = await self.ledger.drop_alerts(known=list(self._rules), before=now - UNKNOWN_MS, now=now)
        for alert, kind, event in dropped:
            self.ended(alert, kind, event, "dropped", None)
        if dropped:
            names = ", ".join(sorted({alert for alert, _, _ in dropped}))
            log.warning("%d alerts waited for %s, which the policy has no more: dropped", len(dropped), names)
        if self._tidied_at <= now - TIDY_MS:
            self._tidied_at = now
            await self.ledger.forget_alerts(before=now - KEPT_MS, most=KEPT_ROWS)

    def _gauge(self, waiting: dict[str, Waiting], now: Millis) -> None:
        m = self.metrics
        names = waiting.keys() & self._rules.keys()
        for name in self._gauged - names:
            m.alert_queue.labels(name).set(0)
            m.alert_oldest.labels(name).set(0)
        for name in names:
            m.alert_queue.labels(name).set(waiting[name].deliveries)
            m.alert_oldest.labels(name).set(max(0.0, (now - waiting[name].oldest_at) / 1000))
        self._gauged = set(names)

    # -- one message ----------------------------------------------------------------------------------

    def _begin(self, message: list[Delivery]) -> None:
        rule = self._rules[message[0].alert]
        self._receiver(rule.name).busy += 1
        task = asyncio.create_task(self._deliver(rule, message), name="alert")
        self._under_way[task] = message
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        message = self._under_way.pop(task)
        self._receiver(message[0].alert).busy -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an alert failed", exc_info=error)
            self._tried.append(self._ended(message, "failed", "it could not be put into words"))
        self.wake()

    async def _deliver(self, rule: Alert, message: list[Delivery]) -> None:
        first = message[0]
        bodies = [delivery.body for delivery in message]
        answer = await self.courier.attempt(rule, first.kind, first.thread, bodies)
        receiver, now = self._receiver(rule.name), self.clock()
        if answer.problem:
            log.debug("alert %s: %s", rule.name, answer.problem)
        deadline = first.created_at + round(rule.retry_for_s * 1000)
        again = answer.again and now < deadline
        if answer.again:
            self._failed_again(receiver, answer, now)
        else:
            await self._answered(receiver, rule, now, arrived=not answer.problem)
        if answer.problem and (not again or receiver.failures == DOWN_AFTER) and not receiver.told:
            receiver.told = True
            log.warning(
                "alert %s could not be delivered (%s); more of its failures are counted, not logged",
                rule.name,
                answer.problem,
            )
        if again:
            wait_s = max(pause_s(first.attempts + 1, self.first_pause_s), answer.wait_s)
            self._later(message, answer.problem, min(now + round(wait_s * 1000), deadline))
            return
        self._tried.append(self._ended(message, "failed" if answer.problem else "sent", answer.problem))

    def _ended(self, message: Sequence[Delivery], outcome: DeliveryState, problem: str) -> Tried:
        """Tell that deliveries are over; what is to be recorded of them."""
        for delivery in message:
            self.ended(delivery.alert, delivery.kind, delivery.event, outcome, _run_in(delivery.body))
        seqs = tuple(delivery.seq for delivery in message)
        return Tried(seqs, self.clock(), outcome, None, problem or None)

    def _failed_again(self, receiver: _Receiver, answer: Answer, now: Millis) -> None:
        receiver.failures += 1
        wait_s = answer.wait_s
        if receiver.failures >= DOWN_AFTER:
            wait_s = max(wait_s, min(2.0 ** (receiver.failures - DOWN_AFTER), LONGEST_REST_S))
        receiver.rests_until = max(receiver.rests_until, now + round(wait_s * 1000))

    async def _answered(self, receiver: _Receiver, rule: Alert, now: Millis, *, arrived: bool) -> None:
        was_down = receiver.failures >= DOWN_AFTER
        receiver.failures, receiver.rests_until = 0, 0
        if arrived and receiver.told:
            receiver.told = False
            log.warning("alert %s is delivered again", rule.name)
        if was_down:
            with contextlib.suppress(*_AWAY):
                await self.ledger.hurry_alerts(rule.name, now)

    def _later(self, message: Sequence[Delivery], problem: str, at: Millis) -> None:
        seqs = tuple(delivery.seq for delivery in message)
        self._tried.append(Tried(seqs, self.clock(), "pending", at, problem))


def _run_in(body: str) -> str | None:
    """The id of the run that an event is about."""
    try:
        return str(json.loads(body)["run"]["id"])
    except (ValueError, TypeError, KeyError):
        return None
