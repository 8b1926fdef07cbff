"""The store of a single process: plain Python state, and the meaning of every store operation.

No await stands inside an operation, so each is atomic by construction. What must survive a restart is
kept elsewhere: money in the ledger and the worker's journal, runs and their index in `RunArchive`. What is
no money has files of its own: runs, breakers, and the small records that end by themselves. The Redis scripts
follow these files operation by operation; tests compare every answer.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from gateway.admission import (
    Admission,
    Admitted,
    Baseline,
    BreakerRule,
    BreakerState,
    Charge,
    CounterState,
    Denied,
    Ending,
    Hold,
    Kill,
    Lookup,
    Quota,
    Rate,
    RunView,
    Settled,
    Settlement,
    Taken,
)
from gateway.domain import Millis, Nano, RunStatus
from gateway.errors import CODES
from gateway.protocols import Clock, Store
from gateway.stores.embedded_breakers import Breakers
from gateway.stores.embedded_records import Records, Sweep, run_of_held
from gateway.stores.embedded_runs import DAY_MS, RunArchive, Runs, RunState, shown

MINUTE_MS = 60_000
SETTLED_MEMORY_MS = 3_600_000
"""How long a settled attempt is remembered, so that a late repetition is recognised; later ones are
recognised by the ledger."""
PROVISIONAL_MEMORY_MS = DAY_MS
"""How long a provisional end may still be replaced by the real figure."""
UNDATED_COUNTER_MS = 35 * DAY_MS
"""How long a counter lives that the ledger knows no end of."""
KILL_MEMORY = 4096


def wall_clock() -> Millis:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class _Counter:
    used: Nano = 0
    reserved: Nano = 0
    expires_at: Millis = 0
    warned: bool = False


@dataclass(slots=True)
class _Attempt:
    run_id: str
    reserved: Nano
    holds: tuple[Hold, ...]
    limits: tuple[tuple[str, Nano], ...]
    """(counter, limit) of the enforced budgets, for extensions."""
    token_buckets: tuple[str, ...]
    tokens: int
    money_buckets: tuple[str, ...]
    money: Nano
    """What was put into each of them; extensions are not."""
    in_flight: tuple[str, ...]
    lease_until: Millis
    lease_ms: int
    orphan: bytes
    ordinal: int
    state: str = "open"
    """`open`, then `provisional` or `settled`."""
    cost: Nano = 0
    charged_tokens: int = 0
    settled_at: Millis = 0


class EmbeddedStore:
    """Everything in this process's memory. For one worker: others would each have their own budgets."""

    def __init__(
        self,
        *,
        clock: Clock = wall_clock,
        archive: RunArchive | None = None,
        used_counters: Callable[[Millis], Awaitable[Mapping[str, tuple[Nano, Millis]]]] | None = None,
    ) -> None:
        self._now = clock
        self._archive = archive
        self._runs = Runs(archive)
        self._used_counters = used_counters
        self._records = Records(self._touch_record)
        self._breakers = Breakers()
        self._counters: dict[str, _Counter] = {}
        self._buckets: dict[str, int] = {}
        self._in_flight: dict[str, int] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._open_attempts: dict[str, None] = {}
        self._settled: OrderedDict[str, Millis] = OrderedDict()
        self._provisional: OrderedDict[str, Millis] = OrderedDict()
        """Attempts that have ended, oldest first."""
        self._kills: dict[str, tuple[str, Millis]] = {}
        self._kill_callbacks: list[Callable[[Kill], None]] = []
        self._kill_acks: OrderedDict[str, dict[str, tuple[Millis, int]]] = OrderedDict()
        self._events: dict[str, bytes] = {}
        self._event_serial = 0
        self._counter_sweep = Sweep(self._counters)
        self._bucket_sweep = Sweep(self._buckets)

    async def start(self) -> None:
        now = self._now()
        if self._used_counters is not None:
            await self.reseed(await self._used_counters(now))
        if self._archive is not None:
            self._runs.restore(await self._archive.runs(), await self._archive.index(now), now)
            self._records.entries.update(await self._archive.objects(now))

    async def close(self) -> None:
        await self.save()

    async def save(self) -> None:
        """Keep what a restart must find: to be called every moment, and at the end."""
        if self._archive is not None:
            await self._archive.save(self._runs.known, self._runs.index, self._records.entries)

    # -- runs ---------------------------------------------------------------------------------------

    async def resolve(self, lookup: Lookup) -> RunView:
        return self._runs.resolve(lookup, self._now())

    async def link(self, run_id: str, keys: Sequence[str], ttl_ms: int) -> None:
        now = self._now()
        if run_id in self._runs.known:
            self._runs.link(keys, run_id, now, now + ttl_ms)

    async def stop_run(self, run_id: str, status: str, reason: str, ending: Ending | None = None) -> None:
        run = self._runs.known.get(run_id)
        if run is None:
            return
        run.status, run.reason = status, reason
        if ending is not None and run.ending is None:
            # The step that was answered in the model's place was never admitted, so none is a retry of it.
            run.landed, run.ending = run.steps + 1, ending
        self._runs.touch(run)

    async def live_run(self, run_id: str) -> Mapping[str, Any] | None:
        run = self._runs.known.get(run_id)
        return shown(run) if run is not None else None

    # -- admission ----------------------------------------------------------------------------------

    async def admit(self, admission: Admission) -> Admitted | Denied:
        now = self._now()
        for name in admission.kill_names if self._kills else ():
            if (reason := self._killed(name, now)) is not None:
                return denied_by_kill(name, reason)
        run = self._runs.known.get(admission.run_id)
        if run is None:
            return denied_as_expired()
        if run.ending is not None and admission.retry_ordinal != run.landed:
            return denied_by_ending(run.ending)

        shadow: list[str] = []
        limit_denial = self._check_limits(run, admission, now) if admission.landing is None else None
        if limit_denial is not None:
            if admission.limits.enforced:
                return limit_denial
            shadow.append(limit_denial.rule)
        for rate in admission.rates:
            denial = self._check_rate(rate, run, admission, now)
            if denial is not None:
                if rate.enforced:
                    return denial
                shadow.append(rate.rule)

        windows = [choose_window(charge, now) for charge in admission.charges]
        # Each with what it may use of its limit: a shadow budget keeps nothing back.
        rows = [
            (c, hold, self._counter(hold.counter, now), c.limit - c.kept_back if c.enforced else c.limit)
            for c, hold in zip(admission.charges, windows, strict=True)
        ]
        grant = admission.want_tokens
        rate_nano = admission.output_rate
        tightest: Nano | None = None
        for charge, _, counter, usable in rows:
            free = usable - counter.used - counter.reserved
            if charge.enforced and (tightest is None or free < tightest):
                tightest = free
        if tightest is not None:
            grant = affordable_tokens(admission, tightest)
        needed = admission.fixed_nano + output_cost(
            rate_nano, min(admission.floor_tokens, admission.want_tokens)
        )
        for charge, _, counter, usable in rows:
            if needed > usable - counter.used - counter.reserved and needed > 0:
                if charge.enforced:
                    return Denied(
                        code=f"{scope_of(charge.per)}_budget_exceeded",
                        rule=charge.rule,
                        per=charge.per,
                        limit=charge.limit,
                        used=counter.used + counter.reserved,
                        need=needed,
                        resets_at=window_end(charge, now),
                        retry_after_ms=0,
                        reason="",
                    )
                shadow.append(charge.rule)

        # Nothing refuses any more: from here on everything is taken.
        reserved = admission.fixed_nano + output_cost(rate_nano, min(grant, admission.reserve_tokens))
        warned: list[str] = []
        run_remaining: Nano | None = None
        for charge, hold, counter, _ in rows:
            counter.reserved += reserved
            counter.expires_at = max(counter.expires_at, hold.expires_at)
            if charge.warn_at and not counter.warned and counter.used + counter.reserved >= charge.warn_at:
                counter.warned = True
                warned.append(charge.rule)
            if charge.per == "run" and charge.enforced:
                run_remaining = charge.limit - counter.used - counter.reserved
                run.budget, run.budget_limit = hold.counter, charge.limit
        tokens = admission.input_tokens + min(grant, admission.reserve_tokens) * admission.choices
        token_buckets, money_buckets, in_flight = self._take_rates(admission, run, tokens, reserved, now)
        ordinal = admission.retry_ordinal or run.steps + 1
        if admission.landing is not None:
            run.landed, run.ending = ordinal, admission.landing
        run.steps = max(run.steps, ordinal)
        run.open += 1
        run.reserved += reserved
        run.last_at = now
        run.status = RunStatus.RUNNING.value
        run.reason = ""
        if not run.seen:
            run.seen = True
            self._emit(admission.event)
        self._runs.touch(run)
        again = admission.retry_ordinal > 0
        self._runs.stepped(run.id, admission.retry_key, ordinal, again=again, now=now)
        self._open_attempts[admission.attempt_id] = None
        self._attempts[admission.attempt_id] = _Attempt(
            run_id=run.id,
            reserved=reserved,
            holds=tuple(windows),
            limits=tuple([(hold.counter, usable) for charge, hold, _, usable in rows if charge.enforced]),
            token_buckets=token_buckets,
            tokens=tokens,
            money_buckets=money_buckets,
            money=reserved,
            in_flight=in_flight,
            lease_until=now + admission.lease_ms,
            lease_ms=admission.lease_ms,
            orphan=admission.orphan,
            ordinal=ordinal,
        )
        return Admitted(
            ordinal=ordinal,
            reserved=reserved,
            output_tokens=grant,
            holds=tuple(windows),
            warned=tuple(warned),
            shadow_denied=tuple(shadow),
            run_remaining=run_remaining,
            admitted_at=now,
        )

    @staticmethod
    def _check_limits(run: RunState, admission: Admission, now: Millis) -> Denied | None:
        limits = admission.limits
        if limits.max_steps and not admission.retry_ordinal and run.steps >= limits.max_steps:
            return over_limit("step_limit_exceeded", "runs.max_steps", limits.max_steps, run.steps)
        elapsed = now - run.started_at - run.waited_ms
        if limits.max_wall_clock_ms and elapsed >= limits.max_wall_clock_ms:
            return over_limit(
                "run_timeout", "runs.max_wall_clock_s", limits.max_wall_clock_ms // 1000, elapsed // 1000
            )
        if limits.max_tokens and run.tokens >= limits.max_tokens:
            return over_limit("token_limit_exceeded", "runs.max_tokens", limits.max_tokens, run.tokens)
        if limits.max_tool_calls and run.tool_calls >= limits.max_tool_calls:
            return over_limit(
                "tool_limit_exceeded", "runs.max_tool_calls", limits.max_tool_calls, run.tool_calls
            )
        return None

    def _check_rate(self, rate: Rate, run: RunState, admission: Admission, now: Millis) -> Denied | None:
        if rate.max_concurrency:
            open_now = self._in_flight.get(rate.counter, 0)
            if open_now >= rate.max_concurrency:
                return Denied(
                    "concurrency_limit_exceeded",
                    rate.rule,
                    rate.per,
                    rate.max_concurrency,
                    open_now,
                    1,
                    0,
                    1000,
                    "",
                )
        tokens = admission.input_tokens + admission.reserve_tokens * admission.choices
        money = admission.fixed_nano + output_cost(admission.output_rate, admission.reserve_tokens)
        for kind, limit, need in per_minute(rate, run, tokens, money):
            current, previous = self._minute(rate.counter, kind, now)
            elapsed = now % MINUTE_MS
            used = current + previous * (MINUTE_MS - elapsed) // MINUTE_MS
            if used + need > limit:
                return Denied(
                    "rate_limit_exceeded",
                    rate.rule,
                    rate.per,
                    limit,
                    used,
                    need,
                    0,
                    rate_wait_ms(limit - need, current, previous, elapsed),
                    "",
                )
        return None

    def _minute(self, counter: str, kind: str, now: Millis) -> tuple[int, int]:
        minute = now // MINUTE_MS
        return (
            self._buckets.get(bucket_key(counter, kind, minute), 0),
            self._buckets.get(bucket_key(counter, kind, minute - 1), 0),
        )

    def _take_rates(
        self, admission: Admission, run: RunState, tokens: int, money: Nano, now: Millis
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        minute = now // MINUTE_MS
        token_buckets: list[str] = []
        money_buckets: list[str] = []
        in_flight: list[str] = []
        for rate in admission.rates:
            for kind, _, need in per_minute(rate, run, tokens, money):
                key = bucket_key(rate.counter, kind, minute)
                self._buckets[key] = self._buckets.get(key, 0) + need
                if kind == "t":
                    token_buckets.append(key)
                elif kind == "m":
                    money_buckets.append(key)
            if rate.max_concurrency:
                self._in_flight[rate.counter] = self._in_flight.get(rate.counter, 0) + 1
                in_flight.append(rate.counter)
        return tuple(token_buckets), tuple(money_buckets), tuple(in_flight)

    def _live_counter(self, key: str, now: Millis) -> _Counter | None:
        """A counter that still counts: one past its end does while something is reserved on it."""
        counter = self._counters.get(key)
        if counter is None or (counter.expires_at < now and counter.reserved <= 0):
            return None
        return counter

    def _counter(self, key: str, now: Millis) -> _Counter:
        counter = self._counters.get(key)
        if counter is None or (counter.expires_at < now and counter.reserved <= 0):
            counter = self._counters[key] = _Counter()
        return counter

    async def extend(self, attempt_id: str, amount: Nano) -> bool:
        now = self._now()
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.state != "open":
            return False
        for key, limit in attempt.limits:
            counter = self._counter(key, now)
            if counter.used + counter.reserved + amount > limit:
                return False
        for hold in attempt.holds:
            counter = self._counter(hold.counter, now)
            counter.reserved += amount
            counter.expires_at = max(counter.expires_at, hold.expires_at)
        attempt.reserved += amount
        if (run := self._runs.known.get(attempt.run_id)) is not None:
            run.reserved += amount
        return True

    # -- settling -----------------------------------------------------------------------------------

    async def settle(self, settlement: Settlement) -> Settled:
        return self._settle(settlement, settlement.event)

    def _settle(self, settlement: Settlement, event: bytes) -> Settled:
        now = self._now()
        run = self._runs.known.get(settlement.run_id)
        attempt = self._remembered(settlement.attempt_id, now)
        if attempt is None:
            if not settlement.adopt:
                return self._settled_view(run, now, known=False, applied=False)
            attempt = self._attempts[settlement.attempt_id] = _Attempt(
                settlement.run_id, 0, settlement.holds, (), (), 0, (), 0, (), now, 0, b"", 0, state="lost"
            )
        if attempt.state == "settled" or (attempt.state == "provisional" and settlement.provisional):
            return self._settled_view(run, now, known=True, applied=False)

        released = attempt.reserved if attempt.state == "open" else 0
        delta = settlement.cost - attempt.cost
        for hold in attempt.holds:
            counter = self._counter(hold.counter, now)
            counter.used += delta
            counter.reserved -= released
            counter.expires_at = max(counter.expires_at, hold.expires_at)
        if attempt.state == "open":
            for key in attempt.in_flight:
                self._in_flight[key] -= 1
                if not self._in_flight[key]:
                    del self._in_flight[key]
            for key in attempt.token_buckets:
                if key in self._buckets:
                    self._buckets[key] = max(0, self._buckets[key] + settlement.tokens - attempt.tokens)
            for key in attempt.money_buckets:
                if key in self._buckets:
                    self._buckets[key] = max(0, self._buckets[key] + settlement.cost - attempt.money)
        if run is not None:
            run.cost += delta
            run.tokens += settlement.tokens - attempt.charged_tokens
            if attempt.state == "open":
                run.open -= 1
                run.reserved -= released
            run.tool_calls += settlement.tool_calls
            run.waited_ms += settlement.waited_ms
            run.last_at = now
            self._finish_turn(run, settlement, now)
            self._runs.touch(run)
        self._runs.ended(settlement.run_id, settlement.retry_key, succeeded=settlement.succeeded, now=now)
        self._open_attempts.pop(settlement.attempt_id, None)
        attempt.state = "provisional" if settlement.provisional else "settled"
        attempt.cost = settlement.cost
        attempt.charged_tokens = settlement.tokens
        attempt.settled_at = now
        attempt.orphan = b""
        self._provisional.pop(settlement.attempt_id, None)
        ended = self._provisional if settlement.provisional else self._settled
        ended[settlement.attempt_id] = now
        self._emit(event)
        return self._settled_view(run, now, known=True, applied=True)

    def _remembered(self, attempt_id: str, now: Millis) -> _Attempt | None:
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.state != "open":
            memory = PROVISIONAL_MEMORY_MS if attempt.state == "provisional" else SETTLED_MEMORY_MS
            if now - attempt.settled_at > memory:
                return None
        return attempt

    def _finish_turn(self, run: RunState, settlement: Settlement, now: Millis) -> None:
        self._runs.link(settlement.links, run.id, now, now + settlement.index_ttl_ms)
        if settlement.head:
            run.head = settlement.head
        if settlement.completes:
            run.answered_at = now
            if not run.explicit and run.open == 0 and run.status == RunStatus.RUNNING:
                run.status = RunStatus.COMPLETED.value
        if settlement.ends_as:
            run.status, run.reason = settlement.ends_as, settlement.ends_because
        if settlement.progress:
            run.progress = settlement.progress

    def _settled_view(self, run: RunState | None, now: Millis, *, known: bool, applied: bool) -> Settled:
        if run is None:
            return Settled(known, applied, 0, None, RunStatus.RUNNING)
        remaining: Nano | None = None
        if run.budget and (counter := self._live_counter(run.budget, now)) is not None:
            remaining = run.budget_limit - counter.used - counter.reserved
        return Settled(known, applied, run.cost, remaining, RunStatus(run.status))

    async def renew(self, attempt_ids: Sequence[str]) -> None:
        now = self._now()
        for attempt_id in attempt_ids:
            attempt = self._attempts.get(attempt_id)
            if attempt is not None and attempt.state == "open":
                attempt.lease_until = now + attempt.lease_ms

    async def reap(self) -> int:
        now = self._now()
        reaped = 0
        for attempt_id in list(self._open_attempts):
            attempt = self._attempts[attempt_id]
            if attempt.lease_until < now:
                self._settle(
                    orphan_settlement(attempt_id, attempt.run_id, attempt.reserved),
                    complete_orphan(attempt.orphan, attempt.ordinal, attempt.reserved, attempt.holds, now),
                )
                reaped += 1
        for run_id in self._runs.abandon_idle(now):
            self._emit(run_event(run_id, RunStatus.ABANDONED, "idle", now))
        self._forget(now)
        return reaped

    def _forget(self, now: Millis) -> None:
        """Drop what can no longer matter, so that memory follows the load and not the uptime."""
        for ended, memory in ((self._settled, SETTLED_MEMORY_MS), (self._provisional, PROVISIONAL_MEMORY_MS)):
            while ended:
                attempt_id, at = next(iter(ended.items()))
                if now - at <= memory:
                    break
                del ended[attempt_id]
                self._attempts.pop(attempt_id, None)
        self._runs.sweep(now)
        self._records.sweep(now)
        self._breakers.sweep(now)
        for key in self._counter_sweep.next():
            if (c := self._counters.get(key)) is not None and c.expires_at < now and c.reserved <= 0:
                del self._counters[key]
        minute = now // MINUTE_MS
        for key in self._bucket_sweep.next():
            if int(key.rsplit(":", 1)[1]) < minute - 1:
                self._buckets.pop(key, None)

    # -- what providers hold ------------------------------------------------------------------------

    async def remember(self, objects: Mapping[str, bytes], ttl_ms: int) -> None:
        until = self._now() + ttl_ms
        for key, value in objects.items():
            self._records.put(key, value, until)

    async def recall(self, keys: Sequence[str]) -> dict[str, bytes]:
        now = self._now()
        return {key: value for key in keys if (value := self._records.get(key, now)) is not None}

    async def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._records.drop(key)

    # -- whose data is erased -----------------------------------------------------------------------

    async def forget_runs(self, run_ids: Sequence[str]) -> None:
        self._runs.forget(run_ids)

    async def forget_held(self, run_ids: Collection[str], names: Collection[str]) -> None:
        unseen = self._runs.unseen(names)
        self._runs.forget(unseen)
        self._runs.forget_links({*run_ids, *unseen})
        for key, (_, value) in list(self._records.entries.items()):
            if (run := run_of_held(value)) is not None and run in run_ids:
                self._records.drop(key)

    async def forget_baseline(self, key: str) -> None:
        self._records.drop(f"baseline:{key}")

    async def forget_acknowledgements(self, names: Sequence[str]) -> None:
        for name in names:
            if self._killed(name, self._now()) is None:
                self._kill_acks.pop(name, None)

    def _touch_record(self, key: str) -> None:
        if self._archive is not None:
            self._archive.touch_object(key)

    # -- tools and baselines ------------------------------------------------------------------------

    async def take(self, quotas: Sequence[Quota]) -> Taken:
        return self._records.take(quotas, self._now())

    async def report(self, key: str, rule: BreakerRule, *, source: str, ok: int, failed: int) -> BreakerState:
        return self._breakers.report(key, rule, source, ok, failed, self._now())

    async def breakers(self, keys: Sequence[str] | None = None) -> list[BreakerState]:
        return self._breakers.states(keys, self._now())

    async def probe(self, key: str, rule: BreakerRule) -> bool:
        return self._breakers.probe(key, rule, self._now())

    async def reset_breaker(self, key: str) -> bool:
        return self._breakers.reset(key, self._now())

    async def observe(self, key: str, values: Mapping[str, float], decay: float) -> Baseline:
        return self._records.observe(key, values, decay, self._now())

    async def baseline(self, key: str) -> Baseline | None:
        return self._records.baseline(key, self._now())

    # -- the ledger stream --------------------------------------------------------------------------

    async def note(self, event: bytes) -> None:
        self._emit(event)

    def _emit(self, event: bytes) -> None:
        self._event_serial += 1
        self._events[str(self._event_serial)] = event

    async def take_events(self, limit: int) -> list[tuple[str, bytes]]:
        return list(islice(self._events.items(), limit))

    async def confirm_events(self, ids: Sequence[str]) -> None:
        for event_id in ids:
            self._events.pop(event_id, None)

    # -- kills --------------------------------------------------------------------------------------

    def _killed(self, name: str, now: Millis) -> str | None:
        flag = self._kills.get(name)
        if flag is None:
            return None
        reason, until = flag
        if until and until <= now:
            del self._kills[name]
            return None
        return reason

    async def set_kill(self, kill: Kill, ttl_s: float | None) -> None:
        until = self._now() + int(ttl_s * 1000) if ttl_s else 0
        self._kills[kill.name] = (kill.reason, until)
        for callback in self._kill_callbacks:
            callback(kill)

    async def clear_kill(self, name: str) -> bool:
        self._kill_acks.pop(name, None)
        known = self._killed(name, self._now()) is not None
        self._kills.pop(name, None)
        return known

    async def kills(self, names: Iterable[str]) -> dict[str, str]:
        now = self._now()
        return {name: reason for name in names if (reason := self._killed(name, now)) is not None}

    async def on_kill(self, callback: Callable[[Kill], None]) -> None:
        self._kill_callbacks.append(callback)

    async def acknowledge_kill(self, name: str, worker: str, streams: int) -> None:
        acks = self._kill_acks.setdefault(name, {})
        at, before = acks.get(worker, (self._now(), 0))
        acks[worker] = (at, before + streams)
        while len(self._kill_acks) > KILL_MEMORY:
            self._kill_acks.popitem(last=False)

    async def kill_acknowledgements(self, name: str) -> dict[str, tuple[Millis, int]]:
        return dict(self._kill_acks.get(name, {}))

    # -- reading ------------------------------------------------------------------------------------

    async def counters(self, keys: Sequence[str]) -> dict[str, CounterState]:
        now = self._now()
        return {
            key: CounterState(c.used, c.reserved)
            if (c := self._live_counter(key, now))
            else CounterState(0, 0)
            for key in keys
        }

    async def reseed(self, used: Mapping[str, tuple[Nano, Millis]]) -> None:
        now = self._now()
        for key, (nano, expires_at) in used.items():
            counter = self._counter(key, now)
            counter.used = max(counter.used, nano)
            counter.expires_at = max(counter.expires_at, expires_at or now + UNDATED_COUNTER_MS)

    async def ping(self) -> None:
        return None


# -- what both stores compute alike -----------------------------------------------------------------


def scope_of(per: str) -> str:
    """The word of an error code for a budget's `per`: `tag:team-x` is `tag`."""
    return per.split(":", 1)[0]


def choose_window(charge: Charge, now: Millis) -> Hold:
    """The counter that holds a charge at this moment."""
    if not charge.windows:
        return Hold(charge.counter, now + charge.ttl_ms)
    window = charge.windows[0] if now < charge.windows[0].ends_at else charge.windows[-1]
    return Hold(f"{charge.counter}:{window.id}", window.ends_at + DAY_MS)


def window_end(charge: Charge, now: Millis) -> Millis:
    """When a refused charge resets; 0 when it never does."""
    if not charge.windows:
        return 0
    window = charge.windows[0] if now < charge.windows[0].ends_at else charge.windows[-1]
    return window.ends_at


def output_cost(rate: float, tokens: int) -> Nano:
    """Nano-dollars for so many output tokens, rounded up."""
    return math.ceil(rate * tokens)


def affordable_tokens(admission: Admission, free: Nano) -> int:
    """Output tokens that fit into what is left of the tightest budget, at most what is wanted."""
    rate = admission.output_rate
    if rate <= 0:
        return admission.want_tokens
    afford = max(0, math.floor((free - admission.fixed_nano) / rate))
    if admission.halve:
        half = math.floor(free / 2 / rate)
        afford = min(afford, max(half, admission.floor_tokens))
    if afford and output_cost(rate, afford) > free - admission.fixed_nano:
        # The division rounded up and the product does too: one token less is what is paid for.
        afford -= 1
    return min(admission.want_tokens, afford)


def per_minute(rate: Rate, run: RunState, tokens: int, money: Nano) -> list[tuple[str, int, int]]:
    """The limits per minute that a step counts for: (kind of bucket, limit, what it needs of it)."""
    return [
        (kind, limit, need)
        for kind, limit, need in (
            ("n", rate.new_runs_per_minute, 0 if run.seen else 1),
            ("r", rate.requests_per_minute, 1),
            ("t", rate.tokens_per_minute, tokens),
            ("m", rate.nano_per_minute, money),
        )
        if limit and need
    ]


def bucket_key(counter: str, kind: str, minute: int) -> str:
    """Key of one minute of a rate."""
    return f"{counter}:{kind}:{minute}"


def rate_wait_ms(room: int, current: int, previous: int, elapsed: int) -> int:
    """Milliseconds until a sliding minute holds at most `room`; 0 when it never will. In floats, as Lua does
    it: money times milliseconds passes 2^53."""
    if room < 0:
        return 0
    if current <= room:
        return MINUTE_MS - elapsed - int((room - current) * float(MINUTE_MS) / max(previous, 1))
    return 2 * MINUTE_MS - elapsed - int(room * float(MINUTE_MS) / current)


def over_limit(code: str, rule: str, limit: int, used: int) -> Denied:
    """A run's own limit, which waiting does not lift."""
    return Denied(code, rule, "run", limit, used, 1, 0, 0, "")


def denied_as_expired() -> Denied:
    """The denial of a step whose run the store has forgotten since it was resolved."""
    return Denied("run_timeout", "runs.idle_ttl_s", "run", 0, 0, 0, 0, 0, "the run has expired")


def denied_by_kill(name: str, reason: str) -> Denied:
    """The denial for a kill flag; a bare name is a run."""
    scope, colon, _ = name.partition(":")
    if name != "global" and not (colon and f"{scope}_killed" in CODES):
        scope = "run"
    return Denied(f"{scope}_killed", "kill", scope, 0, 0, 0, 0, 0, reason)


def denied_by_ending(ending: Ending) -> Denied:
    """The denial of every step after the one that landed its run."""
    return Denied(ending.code, ending.rule, ending.per, ending.limit, ending.used, 0, 0, 0, "")


def orphan_settlement(attempt_id: str, run_id: str, cost: Nano) -> Settlement:
    """The conservative end of an attempt that nobody settled: it costs what it had reserved."""
    return Settlement(
        attempt_id=attempt_id,
        run_id=run_id,
        cost=cost,
        tokens=0,
        provisional=True,
        succeeded=False,
        completes=False,
        tool_calls=0,
        links=(),
        head="",
        retry_key="",
        index_ttl_ms=0,
        event=b"",
        holds=(),
        adopt=False,
    )


def complete_orphan(
    orphan: bytes, ordinal: int, cost: Nano, holds: Sequence[Hold], ended_at: Millis
) -> bytes:
    """Fill what only the store knows into the event of an orphaned attempt."""
    event = orjson.loads(orphan)
    event.update(
        ordinal=ordinal,
        cost=cost,
        reserved=cost,
        ended_at=ended_at,
        charges=[[hold.counter, hold.expires_at] for hold in holds],
    )
    return orjson.dumps(event)


def run_event(run_id: str, status: RunStatus, reason: str, at: Millis) -> bytes:
    """Ledger event of a change of a run's status."""
    return orjson.dumps({"t": "run", "run": run_id, "at": at, "status": status, "reason": reason})


if TYPE_CHECKING:
    _fits: Store = EmbeddedStore()
