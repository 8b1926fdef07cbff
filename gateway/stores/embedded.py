"""The store of a single process: plain Python state, and the meaning of every store operation.

No await stands inside an operation, so each is atomic by construction. What must survive a restart is
kept elsewhere: money in the ledger and the worker's journal, runs and their index in `RunArchive`.
The Redis scripts follow this file operation by operation; tests compare every answer.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from gateway.admission import (
    INDEX_WIDTH,
    MAX_ANCESTORS,
    MAX_RETRIES,
    RETRY_WINDOW_MS,
    Admission,
    Admitted,
    Baseline,
    BreakerRule,
    BreakerState,
    Charge,
    CounterState,
    Denied,
    Ending,
    Evidence,
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
from gateway.domain import Millis, Nano, RunSource, RunStatus
from gateway.errors import CODES
from gateway.protocols import Clock, Store
from gateway.stores.embedded_breakers import Breakers
from gateway.stores.embedded_records import Records, Sweep

MINUTE_MS = 60_000
DAY_MS = 86_400_000
SETTLED_MEMORY_MS = 3_600_000
"""How long a settled attempt is remembered, so that a late repetition is recognised; later ones are
recognised by the ledger."""
PROVISIONAL_MEMORY_MS = DAY_MS
"""How long a provisional end may still be replaced by the real figure."""
UNDATED_COUNTER_MS = 35 * DAY_MS
"""How long a counter lives that the ledger knows no end of."""
UNSEEN_RUN_TTL_MS = 600_000
"""A run that was resolved and never admitted leaves no trace after this."""
KILL_MEMORY = 4096


def wall_clock() -> Millis:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class RunState:
    """One run as the store keeps it."""

    id: str
    principal: str
    session: str
    name: str | None
    explicit: bool
    continues: str | None
    started_at: Millis
    last_at: Millis
    idle_ttl_ms: int
    status: str = RunStatus.RUNNING.value
    reason: str = ""
    seen: bool = False
    """A step of it was admitted once, so it is worth keeping and showing."""
    steps: int = 0
    open: int = 0
    tool_calls: int = 0
    tokens: int = 0
    cost: Nano = 0
    reserved: Nano = 0
    head: str = ""
    """Where the conversation stands, until a request goes on from there."""
    answered_at: Millis = 0
    policy: str = ""
    budget: str = ""
    """Counter of the run's own budget, for what is left of it."""
    budget_limit: Nano = 0
    ancestors: tuple[str, ...] = ()
    progress: bytes = b""
    landed: int = 0
    """Ordinal of the step by which the run was landed; `ending` is then what later steps are told."""
    ending: Ending | None = None
    waited_ms: int = 0
    """How long its answers waited for a person; no part of its wall-clock time."""


_SHOWN = tuple(field.name for field in fields(RunState) if field.name not in ("progress", "ending"))


@dataclass(slots=True)
class _Counter:
    used: Nano = 0
    reserved: Nano = 0
    expires_at: Millis = 0
    warned: bool = False


@dataclass(slots=True)
class _Retry:
    """The step that one run made of a conversation; equal agents make one each of equal conversations."""

    run_id: str
    ordinal: int
    failed: bool
    count: int
    at: Millis
    until: Millis
    """Remembered until then: as long as the attempt may be open, then for the retry window."""


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


class RunArchive(Protocol):
    """Where an embedded store keeps its runs and index over a restart."""

    def touch_run(self, run_id: str) -> None:
        """The run has changed and is to be saved soon."""

    def touch_index(self, key: str) -> None:
        """The index entry has changed and is to be saved soon."""

    async def runs(self) -> list[RunState]:
        """Every run saved."""

    async def index(self, now: Millis) -> dict[str, tuple[Millis, list[str]]]:
        """Every index entry that has not expired."""

    def touch_object(self, key: str) -> None:
        """The record has changed and is to be saved soon."""

    async def objects(self, now: Millis) -> dict[str, tuple[Millis, bytes]]:
        """Every record that has not expired."""

    async def save(
        self,
        runs: Mapping[str, RunState],
        index: Mapping[str, tuple[Millis, list[str]]],
        objects: Mapping[str, tuple[Millis, bytes]],
    ) -> None:
        """Save what was touched since the last call."""


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
        self._used_counters = used_counters
        self._runs: dict[str, RunState] = {}
        self._index: dict[str, tuple[Millis, list[str]]] = {}
        self._records = Records(self._touch_record)
        self._breakers = Breakers()
        self._retries: dict[str, list[_Retry]] = {}
        """By body, one for each run, the latest last."""
        self._counters: dict[str, _Counter] = {}
        self._buckets: dict[str, int] = {}
        self._in_flight: dict[str, int] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._open_attempts: dict[str, None] = {}
        self._due: list[tuple[Millis, str]] = []
        """When to look at each run again, soonest first."""
        self._settled: OrderedDict[str, Millis] = OrderedDict()
        self._provisional: OrderedDict[str, Millis] = OrderedDict()
        """Attempts that have ended, oldest first."""
        self._kills: dict[str, tuple[str, Millis]] = {}
        self._kill_callbacks: list[Callable[[Kill], None]] = []
        self._kill_acks: OrderedDict[str, dict[str, tuple[Millis, int]]] = OrderedDict()
        self._events: dict[str, bytes] = {}
        self._event_serial = 0
        self._retry_sweep = Sweep(self._retries)
        self._index_sweep = Sweep(self._index)
        self._counter_sweep = Sweep(self._counters)

    async def start(self) -> None:
        now = self._now()
        if self._used_counters is not None:
            await self.reseed(await self._used_counters(now))
        if self._archive is not None:
            for run in await self._archive.runs():
                run.open = 0
                run.reserved = 0
                self._runs[run.id] = run
                self._look_again(run, now)
            self._index.update(await self._archive.index(now))
            self._records.entries.update(await self._archive.objects(now))

    async def close(self) -> None:
        await self.save()

    async def save(self) -> None:
        """Keep what a restart must find: to be called every moment, and at the end."""
        if self._archive is not None:
            await self._archive.save(self._runs, self._index, self._records.entries)

    # -- runs ---------------------------------------------------------------------------------------

    async def resolve(self, lookup: Lookup) -> RunView:
        now = self._now()
        retry: _Retry | None = None
        continues: str | None = None
        found: RunState | None = None
        source = RunSource.SESSION if lookup.session_given else RunSource.NEW
        merged = False
        if lookup.name_key is not None:
            source = lookup.named_source
            found = self._named(lookup, now)
            if found is not None and self._is_idle(found, now):
                continues, found = found.id, None
            if found is not None:
                retry = self._repeated(lookup, now, found.id)
        elif (retry := self._repeated(lookup, now)) is not None:
            found, source = self._runs[retry.run_id], RunSource.RETRY
        else:
            match = self._match(lookup, now)
            if match is not None:
                found, evidence, merged = match
                found.head = ""
                if self._is_idle(found, now) or self._is_over(found, evidence, lookup, now):
                    continues, found = found.id, None
                else:
                    source = evidence.source

        is_new = found is None
        if found is None:
            found = self._open(lookup, continues, now)
        else:
            found.head = ""
        for key in lookup.known_as:
            self._know_as(key, found.id, now, now + lookup.idle_ttl_ms + DAY_MS)
        ordinal = 0
        if retry is not None:
            retry.count += 1
            ordinal = retry.ordinal
        return RunView(
            run_id=found.id,
            session=found.session,
            source=source,
            is_new=is_new,
            explicit=found.explicit,
            name=found.name,
            continues=found.continues,
            retry_ordinal=ordinal,
            merged=merged,
            status=RunStatus(found.status),
            started_at=found.started_at,
            steps=found.steps,
            cost=found.cost,
            policy=found.policy,
            ancestors=found.ancestors,
            progress=found.progress,
            landed=found.landed,
        )

    def _repeated(self, lookup: Lookup, now: Millis, run_id: str | None = None) -> _Retry | None:
        """The step that a request repeats, if it repeats one: of equal agents' steps one that failed, and
        of those one that was repeated least, so that two that failed are not taken for one."""
        known = [
            retry
            for retry in self._retries.get(lookup.retry_key, ())
            if retry.until >= now
            and now - retry.at <= RETRY_WINDOW_MS
            and retry.count < MAX_RETRIES
            and retry.run_id in self._runs
            and run_id in (None, retry.run_id)
        ]
        failed = [retry for retry in known if retry.failed]
        if failed:
            return min(reversed(failed), key=lambda retry: retry.count)
        return known[-1] if known and lookup.retry_declared else None

    def _retry(self, key: str, run_id: str, now: Millis) -> _Retry | None:
        for retry in self._retries.get(key, ()):
            if retry.run_id == run_id and retry.until >= now:
                return retry
        return None

    def _named(self, lookup: Lookup, now: Millis) -> RunState | None:
        if lookup.own_run_id is not None:
            run = self._runs.get(lookup.own_run_id)
            if run is not None and run.principal == lookup.principal:
                return run
        assert lookup.name_key is not None
        ids = self._lookup_index(lookup.name_key, now)
        return self._runs.get(ids[-1]) if ids else None

    def _match(self, lookup: Lookup, now: Millis) -> tuple[RunState, Evidence, bool] | None:
        """The run that the strongest evidence leads to; `merged` when ids of two sessions meet."""
        found: tuple[RunState, Evidence] | None = None
        merged = False
        for evidence in lookup.evidence:
            if found is not None and evidence.source is not RunSource.EMITTED_ID:
                continue
            ids = self._lookup_index(evidence.key, now)
            runs = [run for i in ids if (run := self._runs.get(i)) is not None]
            if not runs:
                continue
            if found is not None:
                merged = merged or all(r.session != found[0].session for r in runs)
            elif evidence.source is RunSource.LINEAGE:
                found = (
                    runs[0] if len(runs) == 1 else self._one_of(runs, evidence.key, lookup, now),
                    evidence,
                )
            elif evidence.source is RunSource.SERVER_STATE:
                # A conversation that the provider keeps goes through all its runs; the latest goes on.
                found = (runs[-1], evidence)
            elif len(runs) == 1:
                # An id or a tail that leads to two runs tells nothing: some servers reuse `call_0`.
                found = (runs[0], evidence)
        return (*found, merged) if found is not None else None

    def _one_of(self, runs: Sequence[RunState], key: str, lookup: Lookup, now: Millis) -> RunState:
        """Which of several runs whose conversations are equal up to a place, known by its key."""
        for evidence in lookup.evidence:
            if evidence.source is RunSource.EMITTED_ID:
                ids = self._lookup_index(evidence.key, now)
                if len(ids) == 1 and (named := next((r for r in runs if r.id == ids[0]), None)):
                    return named
        # Equal agents take turns. One that has waited here for long may have been abandoned, and must not
        # take in its successor.
        waiting = [r for r in runs if r.head == key and r.open == 0]
        recent = [r for r in waiting if now - r.last_at <= lookup.text_gap_ms]
        return recent[0] if recent else (waiting or runs)[-1]

    @staticmethod
    def _is_idle(run: RunState, now: Millis) -> bool:
        return run.open == 0 and now - run.last_at > run.idle_ttl_ms

    @staticmethod
    def _is_over(run: RunState, evidence: Evidence, lookup: Lookup, now: Millis) -> bool:
        """A new user item after the answer of a run that is completed or landed opens a successor, but not
        for agents that put their tool results into user items and come back at once."""
        if not evidence.then_user or run.status == RunStatus.KILLED:
            return False
        if run.landed:
            return not (lookup.speaks_text and now - run.last_at <= lookup.text_gap_ms)
        if run.status != RunStatus.COMPLETED:
            return False
        return not (lookup.speaks_text and now - run.answered_at <= lookup.text_gap_ms)

    def _open(self, lookup: Lookup, continues: str | None, now: Millis) -> RunState:
        session = lookup.session
        if continues is not None and not lookup.session_given:
            session = self._runs[continues].session
        run = RunState(
            id=lookup.new_run_id,
            principal=lookup.principal,
            session=session,
            name=lookup.name,
            explicit=lookup.name_key is not None,
            continues=continues,
            started_at=now,
            last_at=now,
            idle_ttl_ms=lookup.idle_ttl_ms,
            ancestors=self._ancestors(lookup, now) if lookup.parents or lookup.parent_run_id else (),
        )
        self._runs[run.id] = run
        self._look_again(run, now)
        if lookup.name_key is not None:
            self._index[lookup.name_key] = (now + lookup.idle_ttl_ms + DAY_MS, [run.id])
            self._touch_index(lookup.name_key)
        return run

    def _ancestors(self, lookup: Lookup, now: Millis) -> tuple[str, ...]:
        """The declared parent of a run that is being opened, and those above it."""
        parent = None if lookup.parent_run_id is None else self._runs.get(lookup.parent_run_id)
        if parent is not None and parent.principal != lookup.principal:
            parent = None
        for key in lookup.parents:
            if parent is not None:
                break
            latest = reversed(self._lookup_index(key, now))
            parent = next((run for i in latest if (run := self._runs.get(i)) is not None), None)
        return () if parent is None else line_of(lookup.new_run_id, parent.id, parent.ancestors)

    def _know_as(self, key: str, run_id: str, now: Millis, until: Millis) -> None:
        """Link a run so that it is the latest of the entry."""
        others = [i for i in self._lookup_index(key, now) if i != run_id]
        self._index[key] = (until, [*others, run_id][-INDEX_WIDTH:])
        self._touch_index(key)

    def _lookup_index(self, key: str, now: Millis) -> list[str]:
        entry = self._index.get(key)
        return entry[1] if entry is not None and entry[0] >= now else []

    def _link(self, key: str, run_id: str, now: Millis, until: Millis) -> None:
        ids = self._lookup_index(key, now)
        if run_id not in ids:
            ids = [*ids, run_id][-INDEX_WIDTH:]
        self._index[key] = (until, ids)
        self._touch_index(key)

    def _touch_run(self, run: RunState) -> None:
        if self._archive is not None:
            self._archive.touch_run(run.id)

    def _touch_index(self, key: str) -> None:
        if self._archive is not None:
            self._archive.touch_index(key)

    # -- admission ----------------------------------------------------------------------------------

    async def admit(self, admission: Admission) -> Admitted | Denied:
        now = self._now()
        for name in admission.kill_names if self._kills else ():
            if (reason := self._killed(name, now)) is not None:
                return denied_by_kill(name, reason)
        run = self._runs.get(admission.run_id)
        if run is None:
            return Denied("run_timeout", "runs.idle_ttl_s", "run", 0, 0, 0, 0, 0, "the run has expired")

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
        self._touch_run(run)
        retry = self._retry(admission.retry_key, run.id, now)
        count = retry.count if retry is not None and admission.retry_ordinal else 0
        others = [r for r in self._retries.get(admission.retry_key, ()) if r.until >= now and r is not retry]
        latest = _Retry(run.id, ordinal, False, count, at=now, until=now + DAY_MS)
        self._retries[admission.retry_key] = [*others, latest][-INDEX_WIDTH:]
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
        money = 0
        if rate.nano_per_minute:
            money = admission.fixed_nano + output_cost(admission.output_rate, admission.reserve_tokens)
        for kind, limit, need in (
            ("n", rate.new_runs_per_minute, 0 if run.seen else 1),
            ("r", rate.requests_per_minute, 1),
            ("t", rate.tokens_per_minute, tokens),
            ("m", rate.nano_per_minute, money),
        ):
            if not limit or not need:
                continue
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
            for kind, limit, need in (
                ("n", rate.new_runs_per_minute, 0 if run.seen else 1),
                ("r", rate.requests_per_minute, 1),
                ("t", rate.tokens_per_minute, tokens),
                ("m", rate.nano_per_minute, money),
            ):
                if limit and need:
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
        if (run := self._runs.get(attempt.run_id)) is not None:
            run.reserved += amount
        return True

    # -- settling -----------------------------------------------------------------------------------

    async def settle(self, settlement: Settlement) -> Settled:
        return self._settle(settlement, settlement.event)

    def _settle(self, settlement: Settlement, event: bytes) -> Settled:
        now = self._now()
        run = self._runs.get(settlement.run_id)
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
            self._touch_run(run)
        retry = self._retry(settlement.retry_key, settlement.run_id, now)
        if retry is not None:
            retry.failed = not settlement.succeeded
            retry.at = now
            retry.until = now + RETRY_WINDOW_MS
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
        until = now + settlement.index_ttl_ms
        for key in settlement.links:
            self._link(key, run.id, now, until)
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
        due: list[str] = []
        while self._due and self._due[0][0] <= now:
            due.append(heapq.heappop(self._due)[1])
        for run_id in due:
            run = self._runs.get(run_id)
            if run is not None and self._keep(run, now):
                self._look_again(run, now)
        self._forget(now)
        return reaped

    def _keep(self, run: RunState, now: Millis) -> bool:
        """Abandon an idle run; false for one that is past remembering and has been dropped."""
        if run.open:
            return True
        if not run.seen and now - run.started_at > UNSEEN_RUN_TTL_MS:
            del self._runs[run.id]
            return False
        if run.status == RunStatus.RUNNING and run.seen and now - run.last_at > run.idle_ttl_ms:
            run.status = RunStatus.ABANDONED.value
            self._emit(run_event(run.id, RunStatus.ABANDONED, "idle", now))
            self._touch_run(run)
        elif now - run.last_at > run.idle_ttl_ms + DAY_MS:
            del self._runs[run.id]
            self._touch_run(run)
            return False
        return True

    def _look_again(self, run: RunState, now: Millis) -> None:
        """Have `reap` look at the run when it can next be idle, and not before: there may be many runs."""
        idle_at = run.last_at + run.idle_ttl_ms
        if not run.seen:
            idle_at = min(idle_at, run.started_at + UNSEEN_RUN_TTL_MS)
        if idle_at < now:
            # Whatever else it is, it may be set running meanwhile.
            idle_at = min(idle_at + DAY_MS, now + run.idle_ttl_ms)
        heapq.heappush(self._due, (idle_at + 1, run.id))

    def _forget(self, now: Millis) -> None:
        """Drop what can no longer matter, so that memory follows the load and not the uptime."""
        for ended, memory in ((self._settled, SETTLED_MEMORY_MS), (self._provisional, PROVISIONAL_MEMORY_MS)):
            while ended:
                attempt_id, at = next(iter(ended.items()))
                if now - at <= memory:
                    break
                del ended[attempt_id]
                self._attempts.pop(attempt_id, None)
        minute = now // MINUTE_MS
        self._buckets = {k: v for k, v in self._buckets.items() if int(k.rsplit(":", 1)[1]) >= minute - 1}
        self._in_flight = {k: v for k, v in self._in_flight.items() if v}
        for key in self._retry_sweep.next():
            if (known := self._retries.get(key)) is not None:
                live = [r for r in known if r.until >= now]
                if len(live) < len(known):
                    self._retries[key] = live
                if not live:
                    del self._retries[key]
        for key in self._index_sweep.next():
            if (entry := self._index.get(key)) is not None and entry[0] < now:
                del self._index[key]
                self._touch_index(key)
        self._records.sweep(now)
        self._breakers.sweep(now)
        for key in self._counter_sweep.next():
            if (c := self._counters.get(key)) is not None and c.expires_at < now and c.reserved <= 0:
                del self._counters[key]

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

    # -- notes and stops ----------------------------------------------------------------------------

    async def note(self, event: bytes) -> None:
        self._emit(event)

    async def stop_run(self, run_id: str, status: str, reason: str, ending: Ending | None = None) -> None:
        run = self._runs.get(run_id)
        if run is None:
            return
        run.status, run.reason = status, reason
        if ending is not None and run.ending is None:
            # The step that was answered in the model's place was never admitted, so none is a retry of it.
            run.landed, run.ending = run.steps + 1, ending
        self._touch_run(run)

    async def link(self, run_id: str, keys: Sequence[str], ttl_ms: int) -> None:
        now = self._now()
        if run_id in self._runs:
            for key in keys:
                self._link(key, run_id, now, now + ttl_ms)

    # -- the ledger stream --------------------------------------------------------------------------

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

    async def live_run(self, run_id: str) -> Mapping[str, Any] | None:
        run = self._runs.get(run_id)
        return shown(run) if run is not None else None

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


def shown(run: RunState) -> dict[str, Any]:
    """What `Store.live_run` shows of a run."""
    return {name: getattr(run, name) for name in _SHOWN}


def line_of(run_id: str, parent: str, above: Sequence[str]) -> tuple[str, ...]:
    """The ancestors of a run; of a longer line the nearest and, last, the root."""
    line = [i for i in (parent, *above) if i != run_id]
    return tuple(line) if len(line) <= MAX_ANCESTORS else (*line[: MAX_ANCESTORS - 1], line[-1])


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
